//! Snapshots and iterators.

use super::{DbError, Inner};
use crate::base::SequenceNumber;
use crate::engine::{Scan, ScanEntry, ScanOptions};
use bytes::Bytes;
use std::sync::Arc;

/// Entries of an iterator's first slice: a short range should cost little.
const FIRST_SLICE: usize = 16;
/// Entries of its later slices.
const MAX_SLICE: usize = 1_024;

/// A pinned state of the database. What it shows never changes, whatever is written or flushed; dropping it gives it back.
pub struct Snapshot {
    inner: Arc<Inner>,
    seq: SequenceNumber,
}

impl Snapshot {
    pub(super) fn new(inner: &Arc<Inner>) -> Self {
        let seq = inner.engine_mut().snapshot();
        Self { inner: Arc::clone(inner), seq }
    }

    /// Its sequence number: it shows exactly the writes up to this one.
    #[must_use]
    pub const fn seq(&self) -> SequenceNumber {
        self.seq
    }

    /// The value of `key` in it.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, DbError> {
        Ok(self.inner.get(key, Some(self.seq))?.map(|(_, value)| value))
    }

    /// All its entries.
    #[must_use]
    pub fn iter(&self) -> DbIter {
        self.scan(b"", None)
    }

    /// Its entries from `start` up to and without `end` (`None` = to the last key).
    #[must_use]
    pub fn scan(&self, start: &[u8], end: Option<&[u8]>) -> DbIter {
        let mut engine = self.inner.engine_mut();
        engine.pin(self.seq);
        drop(engine);
        Self { inner: Arc::clone(&self.inner), seq: self.seq }.into_scan(start, end)
    }

    pub(super) fn into_scan(self, start: &[u8], end: Option<&[u8]>) -> DbIter {
        DbIter {
            snapshot: self,
            options: ScanOptions {
                start: start.to_vec(),
                end: end.map(<[u8]>::to_vec),
                limit: FIRST_SLICE,
                ..ScanOptions::default()
            },
            slice: Vec::new().into_iter(),
            done: false,
        }
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        self.inner.engine_mut().release_snapshot(self.seq);
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Snapshot").field(&self.seq).finish()
    }
}

/// Walks a range by ascending key, forward. It shows one snapshot, which it pins: writes and flushes do not disturb it.
/// It reads in slices, so that it never holds up writers for long.
///
/// After an error it ends; [`DbIter::seek`] makes it start again.
#[derive(Debug)]
pub struct DbIter {
    snapshot: Snapshot,
    /// Of the next slice.
    options: ScanOptions,
    slice: std::vec::IntoIter<ScanEntry>,
    done: bool,
}

impl DbIter {
    /// The sequence number it shows.
    #[must_use]
    pub const fn seq(&self) -> SequenceNumber {
        self.snapshot.seq
    }

    /// Goes to the first entry at or after `key`, forward or back. The end of the range stays.
    pub fn seek(&mut self, key: &[u8]) {
        self.options.start = key.to_vec();
        self.options.limit = FIRST_SLICE;
        self.slice = Vec::new().into_iter();
        self.done = false;
    }

    /// Leaves values out from the next slice on; they are then empty.
    #[must_use]
    pub const fn keys_only(mut self) -> Self {
        self.options.keys_only = true;
        self
    }

    fn next_slice(&mut self) -> Result<(), DbError> {
        let inner = &self.snapshot.inner;
        inner.check_open()?;
        inner.pump_if_due();
        self.options.seq = Some(self.snapshot.seq);
        let scan = inner.engine().scan(&self.options)?;
        let slice = match scan {
            Scan::Done(slice) => slice,
            Scan::NeedsDisk(job) => job.run()?,
        };
        self.slice = slice.entries.into_iter();
        self.options.limit = (self.options.limit * 4).min(MAX_SLICE);
        match slice.resume {
            Some(resume) => self.options.start = resume,
            None => self.done = true,
        }
        Ok(())
    }
}

impl Iterator for DbIter {
    type Item = Result<ScanEntry, DbError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.slice.next() {
                return Some(Ok(entry));
            }
            if self.done {
                return None;
            }
            if let Err(e) = self.next_slice() {
                self.done = true;
                return Some(Err(e));
            }
        }
    }
}
