//! Range deletes: what they hide, and when they may be forgotten.
//!
//! A range delete (start, end, t) hides each version (k, q) with start <= k < end and q < t from every reader at S >= t.
//! It is one operation with one sequence number, and it is in no table: it lives in the memtable that was active when it was
//! applied, and from that memtable's flush on in the manifest. Readers do not look for it there: they ask one structure of
//! all that are live, [`RangeDeletes`].
//!
//! ```text
//!  applied:    [a ─────── 9 ─────── p)          fragments:  [a: 9][d: 7 9][k: 9][p: ·][s: 4][x
//!                  [d ─ 7 ─ k)      [s ─ 4 ─ x)             covering(f, at 8) = 7, (f, at 9) = 9, (b, at 8) = nothing
//! ```
//!
//! Life of one:
//! - apply adds it to the active memtable's list and to the structure (`live`);
//! - a flush leaves out what it hides from everybody, and takes it into the manifest if a table may hold more of that;
//! - a compaction leaves out what the ones up to its horizon hide, and writes that horizon into its outputs' `cleared_to`;
//! - a table that it covers as a whole goes by an edit, without being read;
//! - when no table is left that shares keys with it, holds a smaller sequence number, and is not cleared to it, an edit
//!   forgets it.
//!
//! Invariants:
//! - Fragments are sorted and disjoint, the sequence numbers of each ascend, and none is empty.
//! - No fragment holds a key under [`RESERVED_KEY_PREFIX`]: internal rows are never hidden, whatever a user deletes.
//! - Without range deletes nothing is looked up.
//!
//! It does not bound their number: the owner asks [`RangeDeletes::cost`] before it takes one more
//! ([`MAX_RANGE_DELETES`](crate::limits::MAX_RANGE_DELETES)). Apply never refuses.

mod live;
#[cfg(test)]
mod tests;

pub use super::edit::RangeDelete;

use crate::base::SequenceNumber;
use crate::base::batch::{RESERVED_KEY_END, RESERVED_KEY_PREFIX, range_delete_cost};
use std::collections::BTreeMap;
use std::sync::Arc;

/// See the module. Cheap to share; changed with [`Arc::make_mut`], which copies it only when a reader holds it.
#[derive(Clone, Debug, Default)]
pub struct RangeDeletes {
    /// By sequence number.
    all: BTreeMap<u64, Arc<RangeDelete>>,
    fragments: Vec<Fragment>,
    cost: usize,
}

/// A key, shared by the fragments that it bounds.
type Key = Arc<[u8]>;

/// Keys that the same range deletes cover.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Fragment {
    start: Key,
    /// `None` = past the last key.
    end: Option<Key>,
    /// Ascending, not empty.
    seqs: Vec<u64>,
}

impl Fragment {
    fn is_below_end(&self, key: &[u8]) -> bool {
        self.end.as_deref().is_none_or(|end| key < end)
    }

    /// The newest of its range deletes at or before `at`, 0 = none.
    fn newest_at(&self, at: u64) -> u64 {
        match self.seqs.last() {
            Some(last) if *last <= at => *last,
            _ => {
                let through = self.seqs.partition_point(|seq| *seq <= at);
                through.checked_sub(1).map_or(0, |i| self.seqs[i])
            }
        }
    }
}

/// The parts of `start..end` on either side of the reserved keys. An empty `end` is past the last key.
fn parts(delete: &RangeDelete) -> impl Iterator<Item = (Key, Option<Key>)> {
    let (start, end) = (delete.start.as_slice(), Some(delete.end.as_slice()));
    let end = end.filter(|end| !end.is_empty());
    let before = end.map_or(RESERVED_KEY_PREFIX, |end| end.min(RESERVED_KEY_PREFIX));
    let behind = start.max(RESERVED_KEY_END);
    let before = (start < before).then(|| (Key::from(start), Some(Key::from(before))));
    let reaches = end.is_none_or(|end| behind < end);
    let behind = reaches.then(|| (Key::from(behind), end.map(Key::from)));
    before.into_iter().chain(behind)
}

impl RangeDeletes {
    /// Of these.
    #[must_use]
    pub fn new<'a>(deletes: impl IntoIterator<Item = &'a RangeDelete>) -> Self {
        let mut out = Self::default();
        for delete in deletes {
            out.insert(Arc::new(delete.clone()));
        }
        out
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// What they count of [`MAX_RANGE_DELETES`](crate::limits::MAX_RANGE_DELETES).
    #[must_use]
    pub const fn cost(&self) -> usize {
        self.cost
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// All of them, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<RangeDelete>> {
        self.all.values()
    }

    /// Memory, without what is shared.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let fragment = |f: &Fragment| {
            size_of::<Fragment>() + f.start.len() + f.seqs.capacity() * size_of::<u64>()
        };
        let of = |d: &Arc<RangeDelete>| size_of::<RangeDelete>() + d.start.len() + d.end.len();
        self.fragments.iter().map(fragment).sum::<usize>()
            + self.all.values().map(of).sum::<usize>()
    }

    /// Adds one; its sequence number is its name.
    pub fn insert(&mut self, delete: Arc<RangeDelete>) {
        for (start, end) in parts(&delete) {
            self.cover(start, end, delete.seq);
        }
        self.cost += range_delete_cost(&delete.start, &delete.end);
        self.all.insert(delete.seq, delete);
    }

    /// Forgets those for which `gone` says so.
    pub fn forget(&mut self, gone: impl Fn(u64) -> bool) {
        let before = self.all.len();
        self.all.retain(|seq, _| !gone(*seq));
        if self.all.len() == before {
            return;
        }
        self.cost = self.all.values().map(|d| range_delete_cost(&d.start, &d.end)).sum();
        for fragment in &mut self.fragments {
            fragment.seqs.retain(|seq| !gone(*seq));
        }
        self.fragments.retain(|fragment| !fragment.seqs.is_empty());
        self.fragments.dedup_by(|next, kept| {
            let joins = kept.end.as_ref() == Some(&next.start) && kept.seqs == next.seqs;
            if joins {
                kept.end = next.end.take();
            }
            joins
        });
    }

    /// The newest range delete at or before `at` that covers `key`; 0 = none. A version with a smaller sequence number is
    /// hidden from a reader at `at`.
    #[must_use]
    #[inline]
    pub fn covering(&self, key: &[u8], at: SequenceNumber) -> SequenceNumber {
        if self.fragments.is_empty() {
            return SequenceNumber::ZERO;
        }
        let at = if planted!(RangeDeleteIgnoresSnapshot) { SequenceNumber::MAX } else { at };
        let i = self.fragments_through(key);
        let fragment = i.checked_sub(1).map(|i| &self.fragments[i]);
        let fragment = fragment.filter(|fragment| fragment.is_below_end(key));
        SequenceNumber(fragment.map_or(0, |fragment| fragment.newest_at(at.0)))
    }

    /// How many fragments begin at or before `key`.
    fn fragments_through(&self, key: &[u8]) -> usize {
        self.fragments.partition_point(|fragment| &*fragment.start <= key)
    }

    /// Makes a fragment begin at `key` if one spans it.
    fn split(&mut self, key: &Key) {
        let i = self.fragments.partition_point(|fragment| fragment.start < *key);
        let Some(left) = i.checked_sub(1).map(|i| &mut self.fragments[i]) else { return };
        if left.is_below_end(key) {
            let right = Fragment {
                start: Arc::clone(key),
                end: left.end.replace(Arc::clone(key)),
                seqs: left.seqs.clone(),
            };
            self.fragments.insert(i, right);
        }
    }

    fn cover(&mut self, start: Key, end: Option<Key>, seq: u64) {
        let end = if planted!(RangeDeleteTakesItsEnd) {
            end.map(|end| Key::from([&end, &b"\0"[..]].concat()))
        } else {
            end
        };
        self.split(&start);
        if let Some(end) = &end {
            self.split(end);
        }
        let from = self.fragments.partition_point(|fragment| fragment.start < start);
        let through = end.as_ref().map_or(self.fragments.len(), |end| {
            self.fragments.partition_point(|fragment| fragment.start < *end)
        });
        let mut covered = Vec::with_capacity(2 * (through - from) + 1);
        // What is not covered yet begins here.
        let mut at = Some(start);
        for mut fragment in self.fragments.drain(from..through) {
            if let Some(at) = at.filter(|at| *at < fragment.start) {
                let end = Some(Arc::clone(&fragment.start));
                covered.push(Fragment { start: at, end, seqs: vec![seq] });
            }
            at = fragment.end.clone();
            let place = fragment.seqs.partition_point(|other| *other < seq);
            fragment.seqs.insert(place, seq);
            covered.push(fragment);
        }
        if let Some(at) = at.filter(|at| end.as_ref().is_none_or(|end| at < end)) {
            covered.push(Fragment { start: at, end, seqs: vec![seq] });
        }
        self.fragments.splice(from..from, covered);
    }
}

/// What range deletes hide from one reader, asked key by key in any order; cheap when the keys are neighbours.
#[derive(Clone, Debug)]
pub struct Cover {
    deletes: Arc<RangeDeletes>,
    at: SequenceNumber,
    /// How many fragments begin at or before the key that was asked for last.
    place: usize,
}

impl Cover {
    /// What `deletes` hide from a reader at `at`.
    #[must_use]
    pub const fn new(deletes: Arc<RangeDeletes>, at: SequenceNumber) -> Self {
        Self { deletes, at, place: 0 }
    }

    /// Whether a version of `key` with this sequence number is hidden.
    #[inline]
    pub fn hides(&mut self, key: &[u8], seq: SequenceNumber) -> bool {
        seq < self.covering(key)
    }

    /// The newest range delete that covers `key`, 0 = none.
    #[inline]
    pub fn covering(&mut self, key: &[u8]) -> SequenceNumber {
        if self.deletes.fragments.is_empty() {
            return SequenceNumber::ZERO;
        }
        self.newest_covering(key)
    }

    fn newest_covering(&mut self, key: &[u8]) -> SequenceNumber {
        let at = if planted!(RangeDeleteIgnoresSnapshot) { SequenceNumber::MAX } else { self.at };
        SequenceNumber(self.fragment(key).map_or(0, |fragment| fragment.newest_at(at.0)))
    }

    /// The bounds of the keys around `key`, which is covered, that the same range deletes cover.
    pub fn bounds(&mut self, key: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
        self.fragment(key).map(|fragment| (&*fragment.start, fragment.end.as_deref()))
    }

    fn fragment(&mut self, key: &[u8]) -> Option<&Fragment> {
        let fragments = &self.deletes.fragments;
        let place = self.place;
        let here = (place == 0 || &*fragments[place - 1].start <= key)
            && fragments.get(place).is_none_or(|next| key < &*next.start);
        if !here {
            self.place = self.deletes.fragments_through(key);
        }
        let fragment = &fragments[self.place.checked_sub(1)?];
        fragment.is_below_end(key).then_some(fragment)
    }
}
