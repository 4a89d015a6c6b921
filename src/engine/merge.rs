//! Merging sources into one run of internal keys.
//!
//! [`Merge`] is a binary min-heap of sources by their current key. A source is a memtable, a copied run of one, a
//! table, or all tables of a level below 0; each is already in internal-key order. Forward only.

use super::error::EngineError;
use super::level_iter::LevelIter;
use super::memtable::{MemIter, Memtable};
use super::run::RunIter;
use crate::base::internal_key;
use crate::sstable::TableIter;
use bytes::Bytes;
use std::cmp::Ordering;
use std::sync::Arc;

/// One sorted input.
pub enum Source<'a> {
    /// The active memtable, borrowed.
    Active(MemIter<&'a Memtable>),
    /// A frozen memtable.
    Frozen(MemIter<Arc<Memtable>>),
    /// A copied part of the active memtable.
    Run(RunIter),
    /// A table.
    Table(TableIter),
    /// Tables of a level below 0.
    Level(LevelIter),
}

impl Source<'_> {
    fn current(&self) -> Option<(&[u8], u64)> {
        match self {
            Self::Active(iter) => iter.entry().map(|e| (e.key, e.trailer)),
            Self::Frozen(iter) => iter.entry().map(|e| (e.key, e.trailer)),
            Self::Run(iter) => iter.entry().map(|e| (e.key, e.trailer)),
            Self::Table(iter) => iter.valid().then(|| iter.key()),
            Self::Level(iter) => iter.current().map(TableIter::key),
        }
    }

    fn value(&self) -> Bytes {
        let copy = |value: &[u8]| Bytes::copy_from_slice(value);
        match self {
            Self::Active(iter) => iter.entry().map(|e| copy(e.value)).unwrap_or_default(),
            Self::Frozen(iter) => iter.entry().map(|e| copy(e.value)).unwrap_or_default(),
            Self::Run(iter) => iter.entry().map(|e| copy(e.value)).unwrap_or_default(),
            Self::Table(iter) => iter.value_bytes(),
            Self::Level(iter) => iter.current().map(TableIter::value_bytes).unwrap_or_default(),
        }
    }

    fn value_len(&self) -> usize {
        match self {
            Self::Active(iter) => iter.entry().map_or(0, |e| e.value.len()),
            Self::Frozen(iter) => iter.entry().map_or(0, |e| e.value.len()),
            Self::Run(iter) => iter.entry().map_or(0, |e| e.value.len()),
            Self::Table(iter) => iter.value().len(),
            Self::Level(iter) => iter.current().map_or(0, |iter| iter.value().len()),
        }
    }

    fn seek(&mut self, key: &[u8], trailer: u64) -> Result<(), EngineError> {
        match self {
            Self::Active(iter) => iter.seek(key, trailer),
            Self::Frozen(iter) => iter.seek(key, trailer),
            Self::Run(iter) => iter.seek(key, trailer),
            Self::Table(iter) => iter.seek(key, trailer)?,
            Self::Level(iter) => iter.seek(key, trailer)?,
        }
        Ok(())
    }

    fn next(&mut self) -> Result<(), EngineError> {
        match self {
            Self::Active(iter) => iter.next(),
            Self::Frozen(iter) => iter.next(),
            Self::Run(iter) => iter.next(),
            Self::Table(iter) => iter.next()?,
            Self::Level(iter) => iter.next()?,
        }
        Ok(())
    }
}

/// See the module.
pub struct Merge<'a> {
    /// `sources[..live]` is the heap; the rest are at their end.
    sources: Vec<Source<'a>>,
    live: usize,
}

impl<'a> Merge<'a> {
    /// A merge of `sources`, at the end: seek first.
    #[must_use]
    pub const fn new(sources: Vec<Source<'a>>) -> Self {
        Self { sources, live: 0 }
    }

    /// Goes to the first entry at or after (`key`, `trailer`).
    pub fn seek(&mut self, key: &[u8], trailer: u64) -> Result<(), EngineError> {
        self.live = 0;
        for i in 0..self.sources.len() {
            self.sources[i].seek(key, trailer)?;
            if self.sources[i].current().is_some() {
                self.sources.swap(i, self.live);
                self.live += 1;
            }
        }
        for i in (0..self.live / 2).rev() {
            self.sift_down(i);
        }
        Ok(())
    }

    /// Goes on to the first entry at or after (`key`, `trailer`), which is not behind; seeks only the sources that are.
    pub fn seek_forward(&mut self, key: &[u8], trailer: u64) -> Result<(), EngineError> {
        while let Some(current) = self.key()
            && internal_key::compare(current, (key, trailer)) == Ordering::Less
        {
            self.sources[0].seek(key, trailer)?;
            self.settle_top();
        }
        Ok(())
    }

    /// Goes to the next entry. No-op at the end.
    pub fn next(&mut self) -> Result<(), EngineError> {
        if self.live > 0 {
            self.sources[0].next()?;
            self.settle_top();
        }
        Ok(())
    }

    /// The internal key here, `None` at the end.
    #[must_use]
    pub fn key(&self) -> Option<(&[u8], u64)> {
        if self.live == 0 { None } else { self.sources[0].current() }
    }

    /// The value here, empty at the end.
    #[must_use]
    pub fn value(&self) -> Bytes {
        if self.live == 0 { Bytes::new() } else { self.sources[0].value() }
    }

    /// The length of the value here.
    #[must_use]
    pub fn value_len(&self) -> usize {
        if self.live == 0 { 0 } else { self.sources[0].value_len() }
    }

    fn settle_top(&mut self) {
        if self.sources[0].current().is_none() {
            self.live -= 1;
            self.sources.swap(0, self.live);
        }
        self.sift_down(0);
    }

    fn sift_down(&mut self, mut at: usize) {
        loop {
            let mut least = at;
            for child in [2 * at + 1, 2 * at + 2] {
                if child < self.live && self.less(child, least) {
                    least = child;
                }
            }
            if least == at {
                return;
            }
            self.sources.swap(at, least);
            at = least;
        }
    }

    fn less(&self, a: usize, b: usize) -> bool {
        match (self.sources[a].current(), self.sources[b].current()) {
            (Some(a), Some(b)) => internal_key::compare(a, b) == Ordering::Less,
            (a, b) => a.is_some() && b.is_none(),
        }
    }
}
