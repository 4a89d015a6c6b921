//! [`LevelIter`]: the tables of one level below 0 as one sorted source. They are disjoint, so they are read one after the
//! other, and only one is looked into at a time: a scan costs one source a level, not one a table.

use super::error::EngineError;
use super::version::Tables;
use crate::sstable::{Fetch, TableIter};
use std::ops::Range;

/// Walks tables that are disjoint and sorted by key, in internal-key order, both ways.
///
/// After an error it is at no position; seek again to use it.
pub struct LevelIter {
    tables: Tables,
    /// Those of `tables` that are walked.
    range: Range<usize>,
    /// The one of the position.
    at: usize,
    iter: Option<TableIter>,
    fetch: Fetch,
}

impl LevelIter {
    /// Of `tables[range]`, nowhere: seek first.
    #[must_use]
    pub const fn new(tables: Tables, range: Range<usize>, fetch: Fetch) -> Self {
        let at = range.end;
        Self { tables, range, at, iter: None, fetch }
    }

    /// Goes to the first entry at or after (`key`, `trailer`).
    pub fn seek(&mut self, key: &[u8], trailer: u64) -> Result<(), EngineError> {
        let tables = &self.tables[self.range.clone()];
        let before = tables.partition_point(|t| t.meta.largest_key.as_slice() < key);
        self.open(self.range.start + before)?;
        let Some(iter) = &mut self.iter else { return Ok(()) };
        if let Err(e) = iter.seek(key, trailer) {
            self.iter = None;
            return Err(e.into());
        }
        if iter.valid() { Ok(()) } else { self.first_of(self.at + 1) }
    }

    /// Goes to the last entry at or before (`key`, `trailer`).
    pub fn seek_for_prev(&mut self, key: &[u8], trailer: u64) -> Result<(), EngineError> {
        let tables = &self.tables[self.range.clone()];
        let through = tables.partition_point(|t| t.meta.smallest_key.as_slice() <= key);
        let Some(at) = through.checked_sub(1) else {
            self.iter = None;
            return Ok(());
        };
        self.open(self.range.start + at)?;
        let Some(iter) = &mut self.iter else { return Ok(()) };
        if let Err(e) = iter.seek_for_prev(key, trailer) {
            self.iter = None;
            return Err(e.into());
        }
        if iter.valid() { Ok(()) } else { self.last_before(self.at) }
    }

    /// Goes to the last entry.
    pub fn seek_to_last(&mut self) -> Result<(), EngineError> {
        self.last_before(self.range.end)
    }

    /// Goes to the entry before. No-op at no position.
    pub fn prev(&mut self) -> Result<(), EngineError> {
        let Some(iter) = &mut self.iter else { return Ok(()) };
        if let Err(e) = iter.prev() {
            self.iter = None;
            return Err(e.into());
        }
        if iter.valid() { Ok(()) } else { self.last_before(self.at) }
    }

    /// Passes over what lies below `end` (`None` = everything) in the *present table*: the tables behind it may hold newer versions.
    pub fn pass(&mut self, end: Option<&[u8]>) -> Result<(), EngineError> {
        let largest = self.tables[self.at].meta.largest_key.as_slice();
        match end.filter(|end| largest >= *end) {
            Some(end) => self.seek(end, u64::MAX),
            None => self.first_of(self.at + 1),
        }
    }

    /// Backwards: passes over what lies at or after `start` in the *present table*.
    pub fn pass_back(&mut self, start: &[u8]) -> Result<(), EngineError> {
        if self.tables[self.at].meta.smallest_key.as_slice() < start {
            self.seek_for_prev(start, u64::MAX)
        } else {
            self.last_before(self.at)
        }
    }

    /// Goes to the next entry. No-op at the end.
    #[inline]
    pub fn next(&mut self) -> Result<(), EngineError> {
        let Some(iter) = &mut self.iter else { return Ok(()) };
        if let Err(e) = iter.next() {
            self.iter = None;
            return Err(e.into());
        }
        if iter.valid() { Ok(()) } else { self.first_of(self.at + 1) }
    }

    /// The table iterator at the position, valid; `None` at the end.
    #[must_use]
    #[inline]
    pub const fn current(&self) -> Option<&TableIter> {
        self.iter.as_ref()
    }

    fn first_of(&mut self, at: usize) -> Result<(), EngineError> {
        self.open(at)?;
        let Some(iter) = &mut self.iter else { return Ok(()) };
        let found = iter.seek_to_first();
        if found.is_err() || !iter.valid() {
            // Every table has an entry; an end here would be one of an error.
            self.iter = None;
        }
        found.map_err(EngineError::from)
    }

    /// Goes to the last entry before table `at`.
    fn last_before(&mut self, at: usize) -> Result<(), EngineError> {
        if at <= self.range.start {
            self.iter = None;
            return Ok(());
        }
        self.open(at - 1)?;
        let Some(iter) = &mut self.iter else { return Ok(()) };
        let found = iter.seek_to_last();
        if found.is_err() || !iter.valid() {
            self.iter = None;
        }
        found.map_err(EngineError::from)
    }

    /// Looks into table `at`, anywhere in it; into none past the range.
    fn open(&mut self, at: usize) -> Result<(), EngineError> {
        let at = at.min(self.range.end);
        if at == self.range.end {
            self.iter = None;
        } else if at != self.at || self.iter.is_none() {
            self.iter = None;
            self.iter = Some(self.tables[at].open()?.iter_with(self.fetch));
        }
        self.at = at;
        Ok(())
    }
}
