//! Snapshots, cursors, and iterators.

use super::{DbError, Inner};
use crate::base::SequenceNumber;
use crate::base::batch::prefix_end;
use crate::engine::ScanEntry;
use crate::engine::walk::{Stand, Walk};
use bytes::Bytes;
use std::sync::Arc;

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
        self.again().into_scan(start, end)
    }

    /// Its entries whose keys begin with `prefix`.
    #[must_use]
    pub fn scan_prefix(&self, prefix: &[u8]) -> DbIter {
        self.scan(prefix, prefix_end(prefix).as_deref())
    }

    /// A cursor over its entries from `start` up to and without `end` (`None` = to the last key).
    #[must_use]
    pub fn cursor(&self, start: &[u8], end: Option<&[u8]>) -> DbCursor {
        self.again().into_cursor(start, end)
    }

    /// The same state, pinned once more.
    fn again(&self) -> Self {
        self.inner.engine_mut().pin(self.seq);
        Self { inner: Arc::clone(&self.inner), seq: self.seq }
    }

    pub(super) fn into_scan(self, start: &[u8], end: Option<&[u8]>) -> DbIter {
        let cursor = self.into_cursor(start, end);
        DbIter { cursor, from: None, backward: false, keys_only: false, next: Next::Seek }
    }

    pub(super) fn into_cursor(self, start: &[u8], end: Option<&[u8]>) -> DbCursor {
        let walk = self.inner.engine().walk(start, end, self.seq);
        DbCursor { snapshot: self, walk, valid: false }
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

/// A place among the entries of one snapshot, within bounds; it moves either way, key by key, and lends the key and the value
/// that it stands at. Nothing is copied or allocated for a step.
///
/// It begins at no place: seek first. Over either end of its bounds, and after an error, it is at no place again. It pins its
/// snapshot and the files it reads: writes, flushes, and compactions do not disturb it, and do not wait for it.
pub struct DbCursor {
    // Dropped before the snapshot that it reads.
    walk: Walk,
    valid: bool,
    snapshot: Snapshot,
}

impl DbCursor {
    /// The sequence number it shows.
    #[must_use]
    pub const fn seq(&self) -> SequenceNumber {
        self.snapshot.seq
    }

    /// Goes to the first entry.
    pub fn first(&mut self) -> Result<(), DbError> {
        self.seek(b"")
    }

    /// Goes to the last entry.
    pub fn last(&mut self) -> Result<(), DbError> {
        self.seek_before(None)
    }

    /// Goes to the first entry at or after `key`.
    pub fn seek(&mut self, key: &[u8]) -> Result<(), DbError> {
        self.ready()?;
        self.walk.aim(&self.snapshot.inner.engine(), key);
        let stand = self.walk.go()?;
        self.settle(stand)
    }

    /// Goes to the last entry at or before `key`.
    pub fn seek_for_prev(&mut self, key: &[u8]) -> Result<(), DbError> {
        // The first key after `key`.
        let mut end = key.to_vec();
        end.push(0);
        self.seek_before(Some(&end))
    }

    fn seek_before(&mut self, end: Option<&[u8]>) -> Result<(), DbError> {
        self.ready()?;
        self.walk.aim_before(&self.snapshot.inner.engine(), end);
        let stand = self.walk.go()?;
        self.settle(stand)
    }

    /// Goes to the next entry. No-op at no place.
    #[expect(clippy::should_implement_trait, reason = "a cursor with a position, not an Iterator")]
    #[inline]
    pub fn next(&mut self) -> Result<(), DbError> {
        self.step(false)
    }

    /// Goes to the entry before. No-op at no place.
    #[inline]
    pub fn prev(&mut self) -> Result<(), DbError> {
        self.step(true)
    }

    #[inline]
    fn step(&mut self, back: bool) -> Result<(), DbError> {
        if !self.valid {
            return Ok(());
        }
        self.valid = false;
        self.snapshot.inner.check_open()?;
        if self.walk.is_back() == back {
            let stand = self.walk.step()?;
            return self.settle(stand);
        }
        let mut here = self.walk.visible().key().to_vec();
        if back {
            return self.seek_before(Some(&here));
        }
        here.push(0);
        self.seek(&here)
    }

    fn ready(&mut self) -> Result<(), DbError> {
        self.valid = false;
        self.snapshot.inner.check_open()?;
        self.snapshot.inner.pump_if_due();
        Ok(())
    }

    #[inline]
    fn settle(&mut self, mut stand: Stand) -> Result<(), DbError> {
        while stand == Stand::Renew {
            self.ready()?;
            self.walk.renew(&self.snapshot.inner.engine());
            stand = self.walk.go()?;
        }
        self.valid = stand == Stand::Entry;
        Ok(())
    }

    /// Whether it stands at an entry.
    #[must_use]
    pub const fn valid(&self) -> bool {
        self.valid
    }

    /// The key here; empty at no place.
    #[must_use]
    #[inline]
    pub fn key(&self) -> &[u8] {
        if self.valid { self.walk.visible().key() } else { &[] }
    }

    /// The value here; empty at no place.
    #[must_use]
    #[inline]
    pub fn value(&self) -> &[u8] {
        if self.valid { self.walk.visible().value() } else { &[] }
    }

    /// The value here, to keep: a large one in a table shares the memory of its block.
    #[must_use]
    pub fn value_bytes(&self) -> Bytes {
        if self.valid { self.walk.visible().value_bytes() } else { Bytes::new() }
    }

    /// The sequence number that wrote the entry here; 0 at no place.
    #[must_use]
    pub fn entry_seq(&self) -> SequenceNumber {
        if self.valid { self.walk.visible().seq() } else { SequenceNumber::ZERO }
    }
}

impl std::fmt::Debug for DbCursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DbCursor")
            .field("seq", &self.seq())
            .field("key", &self.key().escape_ascii().to_string())
            .finish_non_exhaustive()
    }
}

/// Walks a range as an [`Iterator`], by ascending key or [`backward`](DbIter::backward); each entry is a copy. A [`DbCursor`]
/// with a plainer face.
///
/// After an error it ends; [`DbIter::seek`] makes it start again.
#[derive(Debug)]
pub struct DbIter {
    cursor: DbCursor,
    /// Where it starts, if not at the beginning of its range.
    from: Option<Vec<u8>>,
    backward: bool,
    keys_only: bool,
    next: Next,
}

/// What the next entry takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Next {
    Seek,
    Step,
    Nothing,
}

impl DbIter {
    /// The sequence number it shows.
    #[must_use]
    pub const fn seq(&self) -> SequenceNumber {
        self.cursor.seq()
    }

    /// Goes on at the first entry at or after `key` (backward: the last one at or before it). The bounds of the range stay.
    pub fn seek(&mut self, key: &[u8]) {
        self.from = Some(key.to_vec());
        self.next = Next::Seek;
    }

    /// Goes by descending key, from the end of the range.
    #[must_use]
    pub fn backward(mut self) -> Self {
        self.backward = true;
        self.next = Next::Seek;
        self
    }

    /// Leaves values out from here on; they are then empty.
    #[must_use]
    pub const fn keys_only(mut self) -> Self {
        self.keys_only = true;
        self
    }

    fn advance(&mut self) -> Result<(), DbError> {
        let cursor = &mut self.cursor;
        match (self.next, self.backward, self.from.take()) {
            (Next::Nothing, ..) => Ok(()),
            (Next::Step, false, _) => cursor.next(),
            (Next::Step, true, _) => cursor.prev(),
            (Next::Seek, false, None) => cursor.first(),
            (Next::Seek, true, None) => cursor.last(),
            (Next::Seek, false, Some(key)) => cursor.seek(&key),
            (Next::Seek, true, Some(key)) => cursor.seek_for_prev(&key),
        }
    }
}

impl Iterator for DbIter {
    type Item = Result<ScanEntry, DbError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next == Next::Nothing {
            return None;
        }
        let moved = self.advance();
        self.next = if self.cursor.valid() { Next::Step } else { Next::Nothing };
        if let Err(e) = moved {
            return Some(Err(e));
        }
        let cursor = &self.cursor;
        cursor.valid().then(|| {
            let value = if self.keys_only { Bytes::new() } else { cursor.value_bytes() };
            Ok(ScanEntry { key: cursor.key().to_vec(), seq: cursor.entry_seq(), value })
        })
    }
}
