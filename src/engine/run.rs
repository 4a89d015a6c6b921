//! A run: a bounded part of the active memtable as one reader sees it, copied, so that a job can merge it with
//! tables while the memtable goes on changing.

use super::memtable::{EntryRef, MemIter, Memtable};
use crate::base::SequenceNumber;
use crate::base::internal_key::{self, ValueKind, seek_trailer, unpack_trailer};
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
    /// Most keys.
    pub keys: usize,
    /// From the end of the range down.
    pub reverse: bool,
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
    /// Copies what a reader at `seq` sees of `table` in `start..end`, up to the limits. Also returns where it stopped when
    /// a limit was met: forward the first key that is not covered, in reverse the last one that is.
    #[must_use]
    pub fn copy(
        table: &Memtable,
        start: &[u8],
        end: Option<&[u8]>,
        seq: SequenceNumber,
        limits: RunLimits,
    ) -> (Self, Option<Vec<u8>>) {
        if limits.reverse {
            return Self::copy_back(table, start, end, seq, limits);
        }
        let mut run = Self::default();
        let mut live = 0;
        let mut iter = MemIter::new(table);
        iter.seek(start, seek_trailer(seq));
        for step in 0.. {
            let Some(entry) = iter.entry_ref().filter(|e| end.is_none_or(|end| e.key < end)) else {
                return (run, None);
            };
            if step >= limits.keys || run.is_full(live, entry, limits) {
                return (run, Some(entry.key.to_vec()));
            }
            if entry.trailer > seek_trailer(seq) {
                iter.seek(entry.key, seek_trailer(seq));
                // Its key may have no version that old: then this is the next key already.
                continue;
            }
            live += usize::from(is_put(entry));
            run.push(entry, limits.keys_only);
            skip_key(&mut iter, entry.key);
        }
        unreachable!("the loop returns")
    }

    fn copy_back(
        table: &Memtable,
        start: &[u8],
        end: Option<&[u8]>,
        seq: SequenceNumber,
        limits: RunLimits,
    ) -> (Self, Option<Vec<u8>>) {
        let mut run = Self::default();
        let mut live = 0;
        let mut iter = MemIter::new(table);
        match end {
            Some(end) => iter.seek_for_prev(end, u64::MAX),
            None => iter.seek_to_last(),
        }
        let mut last: &[u8] = &[];
        for step in 0.. {
            let Some(oldest) = iter.entry_ref().filter(|e| e.key >= start) else {
                run.items.reverse();
                return (run, None);
            };
            let visible = newest_back(&mut iter, oldest, seek_trailer(seq));
            let full = visible.is_some_and(|entry| run.is_full(live, entry, limits));
            if step >= limits.keys || full {
                run.items.reverse();
                return (run, Some(last.to_vec()));
            }
            last = oldest.key;
            if let Some(entry) = visible {
                live += usize::from(is_put(entry));
                run.push(entry, limits.keys_only);
            }
        }
        unreachable!("the loop returns")
    }

    /// Whether `entry` does not fit any more.
    fn is_full(&self, live: usize, entry: EntryRef<'_>, limits: RunLimits) -> bool {
        let size = entry.key.len() + if limits.keys_only { 0 } else { entry.value.len() };
        live >= limits.live || (!self.items.is_empty() && self.bytes.len() + size > limits.bytes)
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

fn is_put(entry: EntryRef<'_>) -> bool {
    matches!(unpack_trailer(entry.trailer), Some((_, ValueKind::Put)))
}

/// From the oldest version of a key, goes to the last entry of the key before; returns the newest version at or behind
/// `newest`. A few steps, then seeks.
fn newest_back<'a>(
    iter: &mut MemIter<&'a Memtable>,
    oldest: EntryRef<'a>,
    newest: u64,
) -> Option<EntryRef<'a>> {
    let mut visible = None;
    for _ in 0..4 {
        let entry = iter.entry_ref().filter(|e| e.key == oldest.key);
        let Some(entry) = entry else { return visible };
        if entry.trailer <= newest {
            visible = Some(entry);
        }
        iter.prev();
    }
    iter.seek(oldest.key, newest);
    let visible = iter.entry_ref().filter(|e| e.key == oldest.key);
    iter.seek_for_prev(oldest.key, u64::MAX);
    visible
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

/// Walks a run in internal-key order, both ways.
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

    /// Goes to the last entry.
    pub fn seek_to_last(&mut self) {
        let len = self.run.items.len();
        self.at = len.checked_sub(1).unwrap_or(len);
    }

    /// Goes to the last entry at or before (`key`, `trailer`).
    pub fn seek_for_prev(&mut self, key: &[u8], trailer: u64) {
        let run = &self.run;
        let through = run.items.partition_point(|item| {
            let own = (&run.bytes[item.start..][..item.key_len], item.trailer);
            internal_key::compare(own, (key, trailer)) != Ordering::Greater
        });
        self.at = through.checked_sub(1).unwrap_or(run.items.len());
    }

    /// Goes to the entry before; from the first one to no position.
    pub fn prev(&mut self) {
        self.at = self.at.checked_sub(1).unwrap_or(self.run.items.len());
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
