//! The memtable: every version of every key since the last freeze, sorted, in memory.
//!
//! An arena of entries and, over it, a B+ tree of 32-bit locations (`tree.rs` draws the nodes). One writer; readers
//! share it under the engine's rule (`&Memtable`), and once frozen as `Arc<Memtable>` from any thread.
//!
//! Invariants:
//! - Entries are in internal-key order: user key ascending, newest version first. Nothing is removed or changed.
//! - A tombstone is an entry like any other: a lookup that finds one stops there.
//! - [`Memtable::memory_bytes`] counts everything it has reserved: arena chunks, tree nodes, and their tables.
//!
//! Range deletes lie beside the entries, in a list: they hide nothing here and are counted, and a flush takes them on. What
//! they hide is [`RangeDeletes`](super::range_delete::RangeDeletes)' matter.
//!
//! It does not decide when it is full, which versions are visible, or where tables go: the engine does.
//!
//! # Why this structure
//!
//! Measured with `cargo run --release --example memtable_bench` on the 2-core reference machine (2026-11-23, nothing else
//! building): 1 M entries, 100-byte values, M operations/s, best of three runs.
//!
//! | keys | insert | get hit | get miss | scan | bytes/entry |
//! |---|---|---|---|---|---|
//! | random, 16 hex digits | 4.5 | 1.3 | 1.8 | 15 | 144.9 |
//! | `user:` + 20 digits, random | 3.4 | 1.3 | 1.7 | 14 | 153.3 |
//! | sequential, 16 hex digits | 8.8 | 1.3 | – | 138 | 139.3 |
//! | 1000 hot keys, 1000 versions each | 5.2 | 1.9 | 7.6 | 21 | 151.6 |
//! | random, `BTreeMap` of boxed keys and values | 0.76 | | | | ≈ 208 |
//!
//! Key and value are 116 of the 144.9 bytes. 100 k random entries: 8.1 inserted, 2.9 found. What bounds it is memory: reading all
//! lines of a node at once, before the binary search asks for them one after the other (`tree.rs`, `touch`), made inserts 1.9
//! and gets 1.5 times as fast in the same run (2.1 and 0.8 before).
//! Against the alternatives (a spike on the same machine when the tree inserted 1.7 and found 0.74): an arena skiplist inserts 0.39, `crossbeam`'s
//! 0.20; a log with a hash index inserts 3.0 and finds 11 but has no order before it is sorted, and scans and
//! snapshots need order at all times. A hash index *beside* the tree finds 8.8 for 17 bytes an entry and a quarter of
//! the insert rate: worth having when gets of memory-resident keys bound the engine, which they do not yet.
//! Fan-out 32, 64, and 128 tie within the noise. The second row is the prefix trap: with inline prefixes taken from
//! the front of the key it inserted 0.59.
mod arena;
mod tree;

use super::edit::RangeDelete;
use crate::base::SequenceNumber;
use crate::base::internal_key::{ValueKind, pack_trailer, seek_trailer, unpack_trailer};
use arena::Arena;
pub use arena::EntryRef;
use std::ops::Deref;
use std::sync::Arc;
use tree::{Cursor, Tree};

/// See the module.
#[derive(Default)]
pub struct Memtable {
    arena: Arena,
    tree: Tree,
    payload_bytes: usize,
    deletes: usize,
    range_deletes: Vec<Arc<RangeDelete>>,
    range_delete_bytes: usize,
}

/// What a lookup in one source found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lookup<'a> {
    /// The newest visible version is a value.
    Found(SequenceNumber, &'a [u8]),
    /// The newest visible version is a tombstone: older sources do not count.
    Deleted(SequenceNumber),
    /// No visible version here.
    Missing,
}

impl Memtable {
    /// An empty memtable, which has allocated nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one version. Each (key, seq) is added at most once; a tombstone has an empty value.
    pub fn insert(&mut self, key: &[u8], seq: SequenceNumber, kind: ValueKind, value: &[u8]) {
        let trailer = pack_trailer(seq, kind);
        let loc = self.arena.push(key, trailer, value);
        self.tree.insert(&self.arena, key, trailer, loc);
        self.payload_bytes += key.len() + value.len();
        self.deletes += usize::from(kind == ValueKind::Delete);
    }

    /// Keeps a range delete for the flush.
    pub fn delete_range(&mut self, delete: Arc<RangeDelete>) {
        self.range_delete_bytes +=
            size_of::<RangeDelete>() + delete.start.capacity() + delete.end.capacity();
        self.range_deletes.push(delete);
    }

    /// The range deletes that were applied while it was the active one, oldest first.
    #[must_use]
    pub fn range_deletes(&self) -> &[Arc<RangeDelete>] {
        &self.range_deletes
    }

    /// The newest version of `key` at or before `seq`.
    #[must_use]
    pub fn get(&self, key: &[u8], seq: SequenceNumber) -> Lookup<'_> {
        let cursor = self.tree.seek(&self.arena, key, seek_trailer(seq));
        let Some(entry) = self.entry(cursor).filter(|e| e.key == key) else {
            return Lookup::Missing;
        };
        match unpack_trailer(entry.trailer).expect("trailers are packed by insert") {
            (seq, ValueKind::Put) => Lookup::Found(seq, entry.value),
            (seq, ValueKind::Delete) => Lookup::Deleted(seq),
        }
    }

    /// Whether a batch at its limits fits; when not, freeze first.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.arena.has_room()
    }

    /// Versions in it, tombstones included.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.tree.entries()
    }

    /// Whether it has no entries; it may have range deletes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tombstones in it.
    #[must_use]
    pub const fn deletes(&self) -> usize {
        self.deletes
    }

    /// Key and value bytes in it.
    #[must_use]
    pub const fn payload_bytes(&self) -> usize {
        self.payload_bytes
    }

    /// All memory it has reserved.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + self.arena.memory_bytes()
            + self.tree.memory_bytes()
            + self.range_delete_bytes
            + self.range_deletes.capacity() * size_of::<Arc<RangeDelete>>()
    }

    fn entry(&self, cursor: Cursor) -> Option<EntryRef<'_>> {
        self.tree.loc(cursor).map(|loc| self.arena.entry(loc))
    }
}

impl std::fmt::Debug for Memtable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memtable")
            .field("entries", &self.len())
            .field("memory_bytes", &self.memory_bytes())
            .finish()
    }
}

/// Walks a memtable in internal-key order, both ways; over `&Memtable` or `Arc<Memtable>`. Starts at no position: seek first.
#[derive(Debug)]
pub struct MemIter<M> {
    table: M,
    cursor: Cursor,
}

impl<M: Deref<Target = Memtable>> MemIter<M> {
    /// An iterator over `table`, at the end.
    pub const fn new(table: M) -> Self {
        Self { table, cursor: Cursor::END }
    }

    /// Goes to the first entry.
    pub fn seek_to_first(&mut self) {
        self.cursor = self.table.tree.first();
    }

    /// Goes to the first entry at or after (`key`, `trailer`).
    pub fn seek(&mut self, key: &[u8], trailer: u64) {
        self.cursor = self.table.tree.seek(&self.table.arena, key, trailer);
    }

    /// Goes to the last entry.
    pub fn seek_to_last(&mut self) {
        self.cursor = self.table.tree.last();
    }

    /// Goes to the last entry at or before (`key`, `trailer`).
    pub fn seek_for_prev(&mut self, key: &[u8], trailer: u64) {
        self.cursor = self.table.tree.seek_for_prev(&self.table.arena, key, trailer);
    }

    /// Goes to the entry before; from the first one to no position. No-op when there is none.
    pub fn prev(&mut self) {
        if self.cursor != Cursor::END {
            self.cursor = self.table.tree.prev(self.cursor);
        }
    }

    /// Goes to the next entry. No-op at the end.
    pub fn next(&mut self) {
        if self.cursor != Cursor::END {
            self.cursor = self.table.tree.next(self.cursor);
        }
    }

    /// The entry here, `None` at the end.
    #[must_use]
    pub fn entry(&self) -> Option<EntryRef<'_>> {
        self.table.entry(self.cursor)
    }
}

impl<'a> MemIter<&'a Memtable> {
    /// The entry here, for as long as the memtable is borrowed.
    #[must_use]
    pub fn entry_ref(&self) -> Option<EntryRef<'a>> {
        let table: &'a Memtable = self.table;
        table.entry(self.cursor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cmp::Reverse;
    use std::collections::BTreeMap;

    type Model = BTreeMap<(Vec<u8>, Reverse<u64>), (ValueKind, Vec<u8>)>;

    fn check_against(table: &Memtable, model: &Model, probes: &[(Vec<u8>, u64)]) {
        let mut iter = MemIter::new(table);
        iter.seek_to_first();
        for ((key, Reverse(seq)), (kind, value)) in model {
            let entry = iter.entry().expect("as many entries as the model");
            assert_eq!((entry.key, entry.value), (&key[..], &value[..]));
            assert_eq!(entry.trailer, pack_trailer(SequenceNumber(*seq), *kind));
            iter.next();
        }
        assert_eq!(iter.entry(), None);
        assert_eq!(table.len(), model.len());
        iter.seek_to_last();
        for ((key, Reverse(seq)), _) in model.iter().rev() {
            let entry = iter.entry().expect("as many entries as the model");
            assert_eq!((entry.key, entry.trailer >> 8), (&key[..], *seq));
            iter.prev();
        }
        assert_eq!(iter.entry(), None);
        for (key, seq) in probes {
            let from = (key.clone(), Reverse(*seq));
            let expected = model.range(from..).next();
            iter.seek(key, seek_trailer(SequenceNumber(*seq)));
            assert_eq!(
                iter.entry().map(|e| e.key),
                expected.map(|((k, _), _)| &k[..]),
                "{key:?}@{seq}"
            );
            iter.seek_for_prev(key, pack_trailer(SequenceNumber(*seq), ValueKind::Put));
            let before = model.range(..=(key.clone(), Reverse(*seq))).next_back();
            assert_eq!(
                iter.entry().map(|e| (e.key, e.trailer >> 8)),
                before.map(|((k, Reverse(s)), _)| (&k[..], *s)),
                "{key:?}@{seq}"
            );
            let visible = expected.filter(|((k, _), _)| k == key);
            let want = match visible {
                None => Lookup::Missing,
                Some(((_, Reverse(s)), (ValueKind::Put, v))) => {
                    Lookup::Found(SequenceNumber(*s), v)
                }
                Some(((_, Reverse(s)), _)) => Lookup::Deleted(SequenceNumber(*s)),
            };
            assert_eq!(table.get(key, SequenceNumber(*seq)), want, "{key:?}@{seq}");
        }
    }

    fn fill(keys: impl Iterator<Item = Vec<u8>>) -> (Memtable, Model) {
        let (mut table, mut model) = (Memtable::new(), Model::new());
        for (i, key) in keys.enumerate() {
            let seq = i as u64 + 1;
            let kind = if i % 7 == 3 { ValueKind::Delete } else { ValueKind::Put };
            let value = if kind == ValueKind::Put { vec![i as u8; i % 40] } else { Vec::new() };
            table.insert(&key, SequenceNumber(seq), kind, &value);
            model.insert((key, Reverse(seq)), (kind, value));
        }
        (table, model)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

        /// Few distinct bytes and lengths around the prefix size make ties, prefixes of each other, and zero padding
        /// frequent.
        #[test]
        fn behaves_like_an_ordered_map_of_versions(
            stem in prop::collection::vec(0u8..2, 0..20),
            tails in prop::collection::vec(prop::collection::vec(0u8..3, 0..12), 1..2_000),
            probes in prop::collection::vec((prop::collection::vec(0u8..3, 1..24), 0u64..2_200), 0..50),
        ) {
            let key = |tail: &Vec<u8>| {
                let mut key = stem.clone();
                key.extend_from_slice(tail);
                if key.is_empty() { key.push(0) }
                key
            };
            let (table, model) = fill(tails.iter().map(key));
            let mut probes = probes;
            probes.extend(tails.iter().take(100).map(|t| (key(t), 1_000)));
            check_against(&table, &model, &probes);
        }
    }

    #[test]
    fn large_tables_in_every_insertion_order() {
        let n = 30_000u64;
        type Order = fn(u64) -> u64;
        let orders: [(&str, Order); 4] = [
            ("ascending", |i| i),
            ("descending", |i| 30_000 - i),
            ("scattered", |i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20),
            ("hot keys", |i| i % 3),
        ];
        for (name, order) in orders {
            for stem in ["", "a-common-prefix-of-all-keys:"] {
                let (table, model) =
                    fill((0..n).map(|i| format!("{stem}{:016x}", order(i)).into_bytes()));
                let probes: Vec<_> = (0..n)
                    .step_by(501)
                    .map(|i| (format!("{stem}{:016x}", order(i)).into_bytes(), i))
                    .chain([(b"0".to_vec(), n), (b"b".to_vec(), n), (b"\xff".to_vec(), n)])
                    .collect();
                check_against(&table, &model, &probes);
                assert!(table.memory_bytes() > table.payload_bytes(), "{name}");
            }
        }
    }

    #[test]
    fn keys_that_shrink_the_common_prefix_step_by_step() {
        let keys = (0..200usize).rev().flat_map(|shared| {
            (0..40u8).map(move |i| {
                let mut key = vec![b'p'; shared + 1];
                key.push(i);
                key
            })
        });
        let (table, model) = fill(keys);
        check_against(
            &table,
            &model,
            &[(vec![b'p'; 100], 9_999), (b"q".to_vec(), 1), (b"a".to_vec(), 1)],
        );
    }
}
