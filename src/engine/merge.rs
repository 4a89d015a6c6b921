//! Merging sources into one run of internal keys, forwards or backwards.
//!
//! [`Merge`] keeps its sources in the order of their current keys. A source is a memtable, a copied run of one, a table, or all
//! tables of a level below 0; each is already in internal-key order. Beside the number of each source stands the [`Head`] of its
//! key, so that most comparisons look at that list alone. The source that has moved is put where it belongs from the front on:
//! one comparison for as long as it stays at the top, and none when it is the only one. In an LSM tree nearly all entries are in
//! one or two sources, so that it seldom goes far; a heap was measured to be slower from two sources to six.
//!
//! Backwards is the reverse of internal-key order: keys descend, and of each key the oldest version comes first.

use super::error::EngineError;
use super::level_iter::LevelIter;
use super::memtable::{MemIter, Memtable};
use super::run::RunIter;
use crate::base::internal_key::{self, Head, head};
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
    #[inline(always)]
    fn current(&self) -> Option<(&[u8], u64)> {
        match self {
            Self::Level(iter) => iter.current().map(TableIter::key),
            Self::Table(iter) => iter.valid().then(|| iter.key()),
            memory => memory.current_in_memory(),
        }
    }

    /// Of the user key here.
    #[inline(always)]
    fn head(&self) -> Option<Head> {
        match self {
            Self::Level(iter) => iter.current().map(TableIter::head),
            Self::Table(iter) => iter.valid().then(|| iter.head()),
            memory => memory.current_in_memory().map(|(key, _)| head(key)),
        }
    }

    fn current_in_memory(&self) -> Option<(&[u8], u64)> {
        match self {
            Self::Active(iter) => iter.entry().map(|e| (e.key, e.trailer)),
            Self::Frozen(iter) => iter.entry().map(|e| (e.key, e.trailer)),
            Self::Run(iter) => iter.entry().map(|e| (e.key, e.trailer)),
            Self::Table(_) | Self::Level(_) => None,
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

/// A source that is at an entry.
#[derive(Clone, Copy)]
struct Place {
    /// Of its key.
    head: Head,
    source: usize,
}

/// See the module.
pub struct Merge<'a> {
    sources: Vec<Source<'a>>,
    /// Those that are at an entry, in order.
    order: Vec<Place>,
    back: bool,
}

impl<'a> Merge<'a> {
    /// A merge of `sources`, at no position: seek first.
    #[must_use]
    pub const fn new(sources: Vec<Source<'a>>) -> Self {
        Self { sources, order: Vec::new(), back: false }
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
        self.order.clear();
        self.back = back;
        for (i, source) in self.sources.iter_mut().enumerate() {
            seek(source)?;
            if let Some(head) = source.head() {
                self.order.push(Place { head, source: i });
            }
        }
        self.sort();
        Ok(())
    }

    /// Puts all in order. They are few, and this is done once a seek.
    fn sort(&mut self) {
        for from in (0..self.order.len().saturating_sub(1)).rev() {
            self.put_in_order(from);
        }
    }

    /// Puts the source at `from` where it belongs among those behind it, which are in order.
    #[inline]
    fn put_in_order(&mut self, from: usize) {
        let moved = self.order[from];
        let mut at = from;
        while let Some(&next) = self.order.get(at + 1)
            && self.less(next, moved)
        {
            self.order[at] = next;
            at += 1;
        }
        self.order[at] = moved;
    }

    /// Forwards: goes on to the first entry at or after (`key`, `trailer`), which is not behind; seeks only the sources that
    /// are.
    pub fn seek_forward(&mut self, key: &[u8], trailer: u64) -> Result<(), EngineError> {
        debug_assert!(!self.back);
        while let Some(current) = self.key()
            && internal_key::compare(current, (key, trailer)) == Ordering::Less
        {
            self.sources[self.order[0].source].seek(key, trailer)?;
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
            self.sources[self.order[0].source].seek_for_prev(key, trailer)?;
            self.settle_top();
        }
        Ok(())
    }

    /// Goes to the next entry in its direction. No-op at the end.
    #[inline]
    pub fn next(&mut self) -> Result<(), EngineError> {
        if let Some(top) = self.order.first() {
            self.sources[top.source].step(self.back)?;
            self.settle_top();
        }
        Ok(())
    }

    /// The internal key here, `None` at the end.
    #[must_use]
    #[inline]
    pub fn key(&self) -> Option<(&[u8], u64)> {
        self.order.first().and_then(|top| self.sources[top.source].current())
    }

    /// Of the user key here; there is one.
    #[must_use]
    #[inline]
    pub fn head(&self) -> Head {
        self.order.first().map_or(0, |top| top.head)
    }

    /// The value here, to keep; empty at the end.
    #[must_use]
    pub fn value(&self) -> Bytes {
        self.order.first().map_or_else(Bytes::new, |top| self.sources[top.source].value())
    }

    /// The value here; empty at the end.
    #[must_use]
    #[inline]
    pub fn value_slice(&self) -> &[u8] {
        self.order.first().map_or(&[], |top| self.sources[top.source].value_slice())
    }

    /// Every version in the table at the top is older than `seq`, so that all of them can be passed over where a range delete of
    /// that number covers them.
    #[must_use]
    pub fn top_is_older(&self, seq: u64) -> bool {
        self.order.first().is_some_and(|top| self.sources[top.source].newest_seq() < seq)
    }

    /// Moves only the table at the top, over `start..end`: forwards to its first entry at or after `end` (`None`: there is none),
    /// backwards to its last one before `start`. Of a level only the present table is passed over: what
    /// [`Merge::top_is_older`] says is about that one.
    pub fn pass_top(&mut self, start: &[u8], end: Option<&[u8]>) -> Result<(), EngineError> {
        let Some(top) = self.order.first() else { return Ok(()) };
        match (&mut self.sources[top.source], self.back) {
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
        self.order.remove(0);
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
        self.order.retain(|other| other.source != number);
        if let Some(head) = self.sources[number].head() {
            self.order.push(Place { head, source: number });
        }
        self.sort();
        Ok(())
    }

    /// The source at the top has moved.
    #[inline]
    fn settle_top(&mut self) {
        let top = &mut self.order[0];
        let Some(head) = self.sources[top.source].head() else {
            self.end_top();
            return;
        };
        top.head = head;
        self.put_in_order(0);
    }

    /// Whether `a` comes before `b`.
    #[inline]
    fn less(&self, a: Place, b: Place) -> bool {
        if a.head == b.head { self.less_in_full(a, b) } else { (a.head < b.head) != self.back }
    }

    fn less_in_full(&self, a: Place, b: Place) -> bool {
        let current = |place: Place| self.sources[place.source].current();
        match (current(a), current(b)) {
            (Some(a), Some(b)) => {
                let order = internal_key::compare(a, b);
                order == if self.back { Ordering::Greater } else { Ordering::Less }
            }
            (a, b) => a.is_some() && b.is_none(),
        }
    }
}
