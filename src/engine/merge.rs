//! Merging sources into one run of internal keys, forwards or backwards.
//!
//! [`Merge`] is a binary heap of sources by their current key. A source is a memtable, a copied run of one, a table, or all
//! tables of a level below 0; each is already in internal-key order. The heap holds numbers of sources, so that a source never
//! moves, and remembers which of the root's children comes first: a step of the source at the top costs one comparison for as
//! long as it stays there, and none when it is the only one.
//!
//! Backwards is the reverse of internal-key order: keys descend, and of each key the oldest version comes first.

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
    #[inline]
    fn current(&self) -> Option<(&[u8], u64)> {
        match self {
            Self::Active(iter) => iter.entry().map(|e| (e.key, e.trailer)),
            Self::Frozen(iter) => iter.entry().map(|e| (e.key, e.trailer)),
            Self::Run(iter) => iter.entry().map(|e| (e.key, e.trailer)),
            Self::Table(iter) => iter.valid().then(|| iter.key()),
            Self::Level(iter) => iter.current().map(TableIter::key),
        }
    }

    /// The value here; there is an entry.
    #[inline]
    fn value_slice(&self) -> &[u8] {
        match self {
            Self::Active(iter) => iter.entry().map_or(&[], |e| e.value),
            Self::Frozen(iter) => iter.entry().map_or(&[], |e| e.value),
            Self::Run(iter) => iter.entry().map_or(&[], |e| e.value),
            Self::Table(iter) => iter.value(),
            Self::Level(iter) => iter.current().map_or(&[], TableIter::value),
        }
    }

    /// The same, to keep.
    fn value(&self) -> Bytes {
        match self {
            Self::Table(iter) => iter.value_bytes(),
            Self::Level(iter) => iter.current().map(TableIter::value_bytes).unwrap_or_default(),
            memory => Bytes::copy_from_slice(memory.value_slice()),
        }
    }

    /// No version in it is newer than this.
    fn newest_seq(&self) -> u64 {
        match self {
            // They may hold anything.
            Self::Active(_) | Self::Frozen(_) | Self::Run(_) => u64::MAX,
            Self::Table(iter) => iter.table().properties().largest_seq,
            Self::Level(iter) => {
                iter.current().map_or(0, |iter| iter.table().properties().largest_seq)
            }
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

    fn seek_for_prev(&mut self, key: &[u8], trailer: u64) -> Result<(), EngineError> {
        match self {
            Self::Active(iter) => iter.seek_for_prev(key, trailer),
            Self::Frozen(iter) => iter.seek_for_prev(key, trailer),
            Self::Run(iter) => iter.seek_for_prev(key, trailer),
            Self::Table(iter) => iter.seek_for_prev(key, trailer)?,
            Self::Level(iter) => iter.seek_for_prev(key, trailer)?,
        }
        Ok(())
    }

    fn seek_to_last(&mut self) -> Result<(), EngineError> {
        match self {
            Self::Active(iter) => iter.seek_to_last(),
            Self::Frozen(iter) => iter.seek_to_last(),
            Self::Run(iter) => iter.seek_to_last(),
            Self::Table(iter) => iter.seek_to_last()?,
            Self::Level(iter) => iter.seek_to_last()?,
        }
        Ok(())
    }

    /// Goes on from an entry.
    #[inline]
    fn step(&mut self, back: bool) -> Result<(), EngineError> {
        match (self, back) {
            (Self::Active(iter), false) => iter.next(),
            (Self::Frozen(iter), false) => iter.next(),
            (Self::Run(iter), false) => iter.next(),
            (Self::Table(iter), false) => iter.next()?,
            (Self::Level(iter), false) => iter.next()?,
            (Self::Active(iter), true) => iter.prev(),
            (Self::Frozen(iter), true) => iter.prev(),
            (Self::Run(iter), true) => iter.prev(),
            (Self::Table(iter), true) => iter.prev()?,
            (Self::Level(iter), true) => iter.prev()?,
        }
        Ok(())
    }
}

/// See the module.
pub struct Merge<'a> {
    sources: Vec<Source<'a>>,
    /// A heap of those that are at an entry, by number.
    heap: Vec<usize>,
    /// The place in the heap of what comes after the top, 1 or 2; nothing when the heap is shorter.
    second: usize,
    back: bool,
}

impl<'a> Merge<'a> {
    /// A merge of `sources`, at no position: seek first.
    #[must_use]
    pub const fn new(sources: Vec<Source<'a>>) -> Self {
        Self { sources, heap: Vec::new(), second: 1, back: false }
    }

    /// Goes to the first entry at or after (`key`, `trailer`), forwards from there.
    pub fn seek(&mut self, key: &[u8], trailer: u64) -> Result<(), EngineError> {
        self.start(false, |source| source.seek(key, trailer))
    }

    /// Goes to the last entry at or before (`key`, `trailer`), backwards from there.
    pub fn seek_for_prev(&mut self, key: &[u8], trailer: u64) -> Result<(), EngineError> {
        self.start(true, |source| source.seek_for_prev(key, trailer))
    }

    /// Goes to the last entry, backwards from there.
    pub fn seek_to_last(&mut self) -> Result<(), EngineError> {
        self.start(true, Source::seek_to_last)
    }

    fn start(
        &mut self,
        back: bool,
        mut seek: impl FnMut(&mut Source<'a>) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        self.heap.clear();
        self.back = back;
        for (i, source) in self.sources.iter_mut().enumerate() {
            seek(source)?;
            if source.current().is_some() {
                self.heap.push(i);
            }
        }
        self.order();
        Ok(())
    }

    fn order(&mut self) {
        for i in (0..self.heap.len() / 2).rev() {
            self.sift_down(i);
        }
        self.find_second();
    }

    /// Forwards: goes on to the first entry at or after (`key`, `trailer`), which is not behind; seeks only the sources that
    /// are.
    pub fn seek_forward(&mut self, key: &[u8], trailer: u64) -> Result<(), EngineError> {
        debug_assert!(!self.back);
        while let Some(current) = self.key()
            && internal_key::compare(current, (key, trailer)) == Ordering::Less
        {
            self.sources[self.heap[0]].seek(key, trailer)?;
            self.settle_top();
        }
        Ok(())
    }

    /// Backwards: goes on to the last entry at or before (`key`, `trailer`), which is not behind.
    pub fn seek_backward(&mut self, key: &[u8], trailer: u64) -> Result<(), EngineError> {
        debug_assert!(self.back);
        while let Some(current) = self.key()
            && internal_key::compare(current, (key, trailer)) == Ordering::Greater
        {
            self.sources[self.heap[0]].seek_for_prev(key, trailer)?;
            self.settle_top();
        }
        Ok(())
    }

    /// Goes to the next entry in its direction. No-op at the end.
    #[inline]
    pub fn next(&mut self) -> Result<(), EngineError> {
        if let Some(&top) = self.heap.first() {
            self.sources[top].step(self.back)?;
            self.settle_top();
        }
        Ok(())
    }

    /// The internal key here, `None` at the end.
    #[must_use]
    #[inline]
    pub fn key(&self) -> Option<(&[u8], u64)> {
        self.heap.first().and_then(|&top| self.sources[top].current())
    }

    /// The value here, to keep; empty at the end.
    #[must_use]
    pub fn value(&self) -> Bytes {
        self.heap.first().map_or_else(Bytes::new, |&top| self.sources[top].value())
    }

    /// The value here; empty at the end.
    #[must_use]
    #[inline]
    pub fn value_slice(&self) -> &[u8] {
        self.heap.first().map_or(&[], |&top| self.sources[top].value_slice())
    }

    /// Every version in the table at the top is older than `seq`, so that all of them can be passed over where a range delete of
    /// that number covers them.
    #[must_use]
    pub fn top_is_older(&self, seq: u64) -> bool {
        self.heap.first().is_some_and(|&top| self.sources[top].newest_seq() < seq)
    }

    /// Moves only the table at the top, over `start..end`: forwards to its first entry at or after `end` (`None`: there is none),
    /// backwards to its last one before `start`. Of a level only the present table is passed over: what
    /// [`Merge::top_is_older`] says is about that one.
    pub fn pass_top(&mut self, start: &[u8], end: Option<&[u8]>) -> Result<(), EngineError> {
        let Some(&top) = self.heap.first() else { return Ok(()) };
        match (&mut self.sources[top], self.back) {
            (Source::Level(iter), false) => iter.pass(end)?,
            (Source::Level(iter), true) => iter.pass_back(start)?,
            (source, false) => match end {
                Some(end) => source.seek(end, u64::MAX)?,
                None => {
                    self.end_top();
                    return Ok(());
                }
            },
            (source, true) => source.seek_for_prev(start, u64::MAX)?,
        }
        self.settle_top();
        Ok(())
    }

    /// The source at the top has nothing more.
    fn end_top(&mut self) {
        if !self.heap.is_empty() {
            self.heap.swap_remove(0);
            self.sift_down(0);
            self.find_second();
        }
    }

    /// Takes another run of the active memtable in the place of source `number`. Seek it with [`Merge::continue_at`].
    pub fn replace(&mut self, number: usize, source: Source<'a>) {
        self.sources[number] = source;
    }

    /// Source `number` goes to where (`key`, `trailer`) is, in the direction of the others, which stay.
    pub fn continue_at(
        &mut self,
        number: usize,
        key: &[u8],
        trailer: u64,
    ) -> Result<(), EngineError> {
        let source = &mut self.sources[number];
        if self.back {
            source.seek_for_prev(key, trailer)?
        } else {
            source.seek(key, trailer)?
        }
        self.heap.retain(|&other| other != number);
        if self.sources[number].current().is_some() {
            self.heap.push(number);
        }
        self.order();
        Ok(())
    }

    #[inline]
    fn settle_top(&mut self) {
        if self.sources[self.heap[0]].current().is_none() {
            self.end_top();
        } else if self.heap.len() > 1 && self.less(self.second, 0) {
            self.heap.swap(0, self.second);
            self.sift_down(self.second);
            self.find_second();
        }
    }

    fn find_second(&mut self) {
        self.second = if self.heap.len() > 2 && self.less(2, 1) { 2 } else { 1 };
    }

    fn sift_down(&mut self, mut at: usize) {
        loop {
            let mut least = at;
            for child in [2 * at + 1, 2 * at + 2] {
                if child < self.heap.len() && self.less(child, least) {
                    least = child;
                }
            }
            if least == at {
                return;
            }
            self.heap.swap(at, least);
            at = least;
        }
    }

    /// Whether the source at place `a` of the heap comes before the one at place `b`.
    #[inline]
    fn less(&self, a: usize, b: usize) -> bool {
        let current = |place: usize| self.sources[self.heap[place]].current();
        match (current(a), current(b)) {
            (Some(a), Some(b)) => {
                let order = internal_key::compare(a, b);
                order == if self.back { Ordering::Greater } else { Ordering::Less }
            }
            (a, b) => a.is_some() && b.is_none(),
        }
    }
}
