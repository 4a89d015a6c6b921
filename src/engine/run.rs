//! A run: a bounded part of the active memtable as one reader sees it, copied, so that a job can merge it with
//! tables while the memtable goes on changing.

use super::memtable::{EntryRef, MemIter, Memtable};
use crate::base::SequenceNumber;
use crate::base::internal_key::{self, ValueKind, seek_trailer, unpack_trailer};
use crate::limits::SCAN_SLICE_STEPS;
use std::cmp::Ordering;
use std::sync::Arc;

/// How much of the memtable a run takes.
#[derive(Clone, Copy, Debug)]
pub struct RunLimits {
    /// Most entries that are values.
    pub live: usize,
    /// Most key and value bytes; the first entry may exceed it alone.
    pub bytes: usize,
    /// Whether values are left out.
    pub keys_only: bool,
}

/// See the module. The newest version at or before the reader's sequence number of each key, tombstones included.
#[derive(Debug, Default)]
pub struct Run {
    bytes: Vec<u8>,
    items: Vec<Item>,
}

#[derive(Clone, Copy, Debug)]
struct Item {
    start: usize,
    key_len: usize,
    value_len: usize,
    trailer: u64,
}

impl Run {
    /// Copies what a reader at `seq` sees of `table` in `start..end`, up to the limits and
    /// [`SCAN_SLICE_STEPS`] keys. Also returns the first key that is not covered, when a limit was met.
    #[must_use]
    pub fn copy(
        table: &Memtable,
        start: &[u8],
        end: Option<&[u8]>,
        seq: SequenceNumber,
        limits: RunLimits,
    ) -> (Self, Option<Vec<u8>>) {
        let mut run = Self::default();
        let mut live = 0;
        let mut iter = MemIter::new(table);
        iter.seek(start, seek_trailer(seq));
        for step in 0.. {
            let Some(entry) = iter.entry_ref().filter(|e| end.is_none_or(|end| e.key < end)) else {
                return (run, None);
            };
            let size = entry.key.len() + if limits.keys_only { 0 } else { entry.value.len() };
            let full = live >= limits.live
                || (!run.items.is_empty() && run.bytes.len() + size > limits.bytes);
            if step >= SCAN_SLICE_STEPS || full {
                return (run, Some(entry.key.to_vec()));
            }
            if entry.trailer > seek_trailer(seq) {
                iter.seek(entry.key, seek_trailer(seq));
                // Its key may have no version that old: then this is the next key already.
                continue;
            }
            let is_put = matches!(unpack_trailer(entry.trailer), Some((_, ValueKind::Put)));
            live += usize::from(is_put);
            run.push(entry, limits.keys_only);
            skip_key(&mut iter, entry.key);
        }
        unreachable!("the loop returns")
    }

    fn push(&mut self, entry: EntryRef<'_>, keys_only: bool) {
        let value = if keys_only { &[] } else { entry.value };
        let item = Item {
            start: self.bytes.len(),
            key_len: entry.key.len(),
            value_len: value.len(),
            trailer: entry.trailer,
        };
        self.bytes.extend_from_slice(entry.key);
        self.bytes.extend_from_slice(value);
        self.items.push(item);
    }

    fn entry(&self, at: usize) -> Option<EntryRef<'_>> {
        let item = self.items.get(at)?;
        let (key, value) =
            self.bytes[item.start..][..item.key_len + item.value_len].split_at(item.key_len);
        Some(EntryRef { key, trailer: item.trailer, value })
    }
}

/// Goes to the first entry of the next key: a few steps, then a seek, so that a hot key costs no more than that.
fn skip_key(iter: &mut MemIter<&Memtable>, key: &[u8]) {
    for _ in 0..4 {
        iter.next();
        if iter.entry().is_none_or(|e| e.key != key) {
            return;
        }
    }
    iter.seek(key, 0);
}

/// Walks a run in internal-key order.
#[derive(Debug)]
pub struct RunIter {
    run: Arc<Run>,
    at: usize,
}

impl RunIter {
    /// At the end: seek first.
    #[must_use]
    pub fn new(run: Arc<Run>) -> Self {
        let at = run.items.len();
        Self { run, at }
    }

    /// Goes to the first entry at or after (`key`, `trailer`).
    pub fn seek(&mut self, key: &[u8], trailer: u64) {
        let run = &self.run;
        self.at = run.items.partition_point(|item| {
            let own = (&run.bytes[item.start..][..item.key_len], item.trailer);
            internal_key::compare(own, (key, trailer)) == Ordering::Less
        });
    }

    /// Goes to the next entry. No-op at the end.
    pub fn next(&mut self) {
        self.at = (self.at + 1).min(self.run.items.len());
    }

    /// The entry here, `None` at the end.
    #[must_use]
    pub fn entry(&self) -> Option<EntryRef<'_>> {
        self.run.entry(self.at)
    }
}
