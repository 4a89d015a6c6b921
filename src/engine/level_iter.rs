//! [`LevelIter`]: the tables of one level below 0 as one sorted source. They are disjoint, so they are read one after the
//! other, and only one is looked into at a time: a scan costs one source a level, not one a table.

use super::error::EngineError;
use super::version::Tables;
use crate::sstable::{Fetch, TableIter};
use std::ops::Range;

/// Walks tables that are disjoint and sorted by key, in internal-key order.
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

    /// Goes to the next entry. No-op at the end.
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
