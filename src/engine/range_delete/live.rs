//! Range deletes in a running engine: what apply, flushes, and compactions do with them.

use super::super::edit::{TableMeta, VersionEdit};
use super::super::version::Version;
use super::super::{Engine, EngineError};
use super::{RangeDelete, RangeDeletes};
use crate::base::batch::BatchRef;
use crate::engine::edit::MAX_LEVELS;
use crate::limits::MAX_RANGE_DELETES;
use std::sync::Arc;

impl RangeDelete {
    /// `None` = past the last key.
    fn end(&self) -> Option<&[u8]> {
        Some(self.end.as_slice()).filter(|end| !end.is_empty())
    }

    /// Whether the table may hold a version that this hides, for all that is known without reading it.
    #[must_use]
    pub fn may_hide_in(&self, table: &TableMeta) -> bool {
        table.smallest_seq < self.seq
            && table.cleared_to < self.seq
            && table.overlaps(&self.start, self.end())
    }

    /// Whether a table of this version, of those not `removed`, may hold a version that this hides.
    fn is_needed_by(&self, version: &Version, removed: &[(u8, u64)]) -> bool {
        let stays = |level, table: &TableMeta| {
            self.may_hide_in(table) && !removed.contains(&(level, table.number))
        };
        let top = version.level(0).iter().any(|table| stays(0, &table.meta));
        top || (1..MAX_LEVELS).any(|level| {
            let range = version.overlapping(level, &self.start, self.end());
            version.level(level)[range].iter().any(|table| stays(level, &table.meta))
        })
    }
}

impl RangeDeletes {
    /// What to write into the meta of a table from which everything was left out that those up to `horizon` hide: `horizon`,
    /// or 0 when none of them could have hidden anything in it.
    #[must_use]
    pub fn cleared_to(&self, table: &TableMeta, horizon: u64) -> u64 {
        let applied = self.iter().take_while(|delete| delete.seq <= horizon);
        let uncleared = TableMeta { cleared_to: 0, ..table.clone() };
        let mut applied = applied.filter(|delete| delete.may_hide_in(&uncleared));
        applied.next().map_or(0, |_| horizon)
    }

    /// Whether one up to `horizon` may hide something in this table, so that it is worth to be rewritten.
    #[must_use]
    pub fn wants_clearing(&self, table: &TableMeta, horizon: u64) -> bool {
        self.iter().any(|delete| delete.seq <= horizon && delete.may_hide_in(table))
    }
}

impl Engine {
    /// Applies one, under the last sequence number.
    pub(in crate::engine) fn delete_range(&mut self, start: &[u8], end: &[u8]) {
        let (start, end) = (start.to_vec(), end.to_vec());
        let delete = Arc::new(RangeDelete { seq: self.last_seq.0, start, end });
        self.active.delete_range(Arc::clone(&delete));
        Arc::make_mut(&mut self.range_deletes).insert(delete);
    }

    /// What the range deletes that are live, in memory and in the manifest, count of [`MAX_RANGE_DELETES`].
    #[must_use]
    pub fn range_deletes(&self) -> usize {
        self.range_deletes.cost()
    }

    /// Refuses a batch with more range deletes than may be live at once.
    ///
    /// # Errors
    /// [`EngineError::TooManyRangeDeletes`]: it may be tried again when compaction has applied some.
    pub fn check_range_deletes(&self, batch: &BatchRef<'_>) -> Result<(), EngineError> {
        let live = self.range_deletes();
        if batch.has_range_deletes() && live + batch.range_deletes() > MAX_RANGE_DELETES {
            return Err(EngineError::TooManyRangeDeletes { live });
        }
        Ok(())
    }

    /// Whether the active memtable holds so many that it should be flushed for their sake: only flushed ones can be forgotten.
    pub(in crate::engine) fn active_is_full_of_range_deletes(&self) -> bool {
        self.active.range_deletes().len() >= MAX_RANGE_DELETES / 4
    }

    /// Whether there will soon be no room for more, and a flush may make some.
    pub(in crate::engine) fn range_deletes_want_a_flush(&self) -> bool {
        !self.active.range_deletes().is_empty()
            && self.range_deletes.cost() >= MAX_RANGE_DELETES / 4 * 3
    }

    /// Completes an edit, of a flush or a compaction: of the range deletes that it brings only those stay that a table still
    /// needs, and those of the manifest that none needs any more are forgotten.
    pub(in crate::engine) fn settle_range_deletes(&self, edit: &mut VersionEdit) {
        if edit.range_deletes.is_empty() && self.durable.range_deletes.is_empty() {
            return;
        }
        let (added, removed) = (&edit.added, &edit.removed);
        let is_needed = |delete: &RangeDelete| {
            !planted!(RangeDeleteForgottenEarly)
                && (added.iter().any(|table| delete.may_hide_in(table))
                    || delete.is_needed_by(&self.version, removed))
        };
        edit.range_deletes.retain(&is_needed);
        let durable = self.durable.range_deletes.values();
        let forgotten: Vec<_> = durable.filter(|d| !is_needed(d)).map(|d| d.seq).collect();
        edit.forgotten.extend(forgotten);
    }

    /// An edit is durable: those that it left out or forgot are gone.
    pub(in crate::engine) fn range_deletes_settled(&mut self) {
        if self.range_deletes.is_empty() {
            return;
        }
        let durable = &self.durable;
        let gone = |seq| seq <= durable.last_seq.0 && !durable.range_deletes.contains_key(&seq);
        if self.range_deletes.iter().any(|delete| gone(delete.seq)) {
            Arc::make_mut(&mut self.range_deletes).forget(gone);
        }
    }

    /// All that counts is what the manifest says: at open, and when a snapshot is installed.
    pub(in crate::engine) fn load_range_deletes(&mut self) {
        self.range_deletes = Arc::new(RangeDeletes::new(self.durable.range_deletes.values()));
    }
}
