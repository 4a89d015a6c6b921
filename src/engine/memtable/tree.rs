//! The memtable's index: a B+ tree of 32-bit arena locations with eight bytes of each key inline.
//!
//! ```text
//! inner: | prefix 8 × 64 | separator location 4 × 64 | child 4 × 65 |
//! leaf:  | prefix 8 × 64 | entry location     4 × 64 | next leaf 4 | leaf before 4 |
//! ```
//!
//! A search compares the inline prefixes and follows a location into the arena only on a tie. The prefix of a key in
//! a node is the eight bytes (zero-padded) after the node's `skip`, a number of leading bytes that *every key that can
//! ever be routed to this node* shares: those that its two fences share, or, at the tree's edges where a fence is
//! missing, those that all keys of the tree share. So keys with long common prefixes (`user:000000…`) cost no more
//! than random ones; this is the prefix truncation of Bayer and Unterauer's prefix B-trees (1977).
//!
//! Invariants:
//! - Entries are ordered by [`internal_key::compare`](crate::base::internal_key::compare), without duplicates, and never
//!   removed.
//! - `separator[i] <= every key under child[i + 1]`, and `every key under child[i] < separator[i]`.
//! - Leaves are linked in order, both ways, and none but the first of an empty tree is empty.

use super::arena::{Arena, Loc};
use std::cmp::Ordering;

/// Entries in a node.
const FANOUT: usize = 64;
/// Nodes allocated at a time.
const SLAB: usize = 16;
const NONE: u32 = u32::MAX;
/// More levels than 2^32 entries can need.
const MAX_HEIGHT: usize = 12;
/// A split moves a node's `skip` only when that wins at least this many bytes: recomputing prefixes reads every key.
const MIN_SKIP_GAIN: usize = 4;

struct Leaf {
    prefix: [u64; FANOUT],
    loc: [Loc; FANOUT],
    len: u16,
    skip: u16,
    next: u32,
    before: u32,
}

struct Inner {
    prefix: [u64; FANOUT],
    separator: [Loc; FANOUT],
    child: [u32; FANOUT + 1],
    len: u16,
    skip: u16,
}

impl Leaf {
    const fn new(skip: u16) -> Self {
        Self { prefix: [0; FANOUT], loc: [0; FANOUT], len: 0, skip, next: NONE, before: NONE }
    }
    fn insert(&mut self, at: usize, prefix: u64, loc: Loc) {
        let len = self.len as usize;
        self.prefix.copy_within(at..len, at + 1);
        self.loc.copy_within(at..len, at + 1);
        (self.prefix[at], self.loc[at]) = (prefix, loc);
        self.len += 1;
    }
}

impl Inner {
    const fn new(skip: u16) -> Self {
        Self {
            prefix: [0; FANOUT],
            separator: [0; FANOUT],
            child: [NONE; FANOUT + 1],
            len: 0,
            skip,
        }
    }
    fn insert(&mut self, at: usize, prefix: u64, separator: Loc, right: u32) {
        let len = self.len as usize;
        self.prefix.copy_within(at..len, at + 1);
        self.separator.copy_within(at..len, at + 1);
        self.child.copy_within(at + 1..=len, at + 2);
        (self.prefix[at], self.separator[at], self.child[at + 1]) = (prefix, separator, right);
        self.len += 1;
    }
}

/// Nodes in slabs: they never move, and growing copies nothing.
struct Slabs<T> {
    slabs: Vec<Vec<T>>,
    len: u32,
}

impl<T> Slabs<T> {
    const fn new() -> Self {
        Self { slabs: Vec::new(), len: 0 }
    }
    fn push(&mut self, node: T) -> u32 {
        let id = self.len;
        if (id as usize).is_multiple_of(SLAB) {
            self.slabs.push(Vec::with_capacity(SLAB));
        }
        self.slabs[id as usize / SLAB].push(node);
        self.len += 1;
        id
    }
    fn get(&self, id: u32) -> &T {
        &self.slabs[id as usize / SLAB][id as usize % SLAB]
    }
    fn get_mut(&mut self, id: u32) -> &mut T {
        &mut self.slabs[id as usize / SLAB][id as usize % SLAB]
    }
    fn memory_bytes(&self) -> usize {
        self.slabs.len() * SLAB * size_of::<T>() + self.slabs.capacity() * size_of::<Vec<T>>()
    }
}

/// A place in the tree: an entry, or the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cursor {
    leaf: u32,
    at: u32,
}

impl Cursor {
    /// Past the last entry.
    pub const END: Self = Self { leaf: NONE, at: 0 };
}

/// See the module.
pub struct Tree {
    leaves: Slabs<Leaf>,
    inners: Slabs<Inner>,
    root: u32,
    /// Inner levels above the leaves.
    height: usize,
    /// The leading bytes that all keys share, once there is a key.
    common: Option<Vec<u8>>,
    entries: usize,
}

/// The way down to a leaf, with the fences of the leaf.
struct Path {
    steps: [(u32, usize); MAX_HEIGHT],
    low: Option<Loc>,
    high: Option<Loc>,
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

impl Tree {
    /// An empty tree, which has allocated nothing.
    pub const fn new() -> Self {
        Self {
            leaves: Slabs::new(),
            inners: Slabs::new(),
            root: NONE,
            height: 0,
            common: None,
            entries: 0,
        }
    }

    /// Adds the entry at `loc`, whose key is (`key`, `trailer`) and is not in the tree.
    pub fn insert(&mut self, arena: &Arena, key: &[u8], trailer: u64, loc: Loc) {
        self.include(arena, key);
        let (leaf_id, path) = self.descend(arena, key, trailer);
        let new_id = self.leaves.len;
        let leaf = self.leaves.get_mut(leaf_id);
        touch(&leaf.loc, 16);
        let prefix = prefix_at(key, leaf.skip);
        let at =
            count_below(arena, &leaf.prefix[..leaf.len as usize], &leaf.loc, prefix, key, trailer);
        self.entries += 1;
        if (leaf.len as usize) < FANOUT {
            leaf.insert(at, prefix, loc);
            return;
        }
        let (right_id, separator) = if at == FANOUT && leaf.next == NONE {
            // Ascending keys: leave full leaves behind, not half-full ones.
            let mut right = Leaf::new(leaf.skip);
            right.before = leaf_id;
            right.insert(0, prefix, loc);
            leaf.next = new_id;
            (self.leaves.push(right), loc)
        } else {
            let (right_id, separator) = self.split_leaf(leaf_id);
            let (target, at) =
                if at <= FANOUT / 2 { (leaf_id, at) } else { (right_id, at - FANOUT / 2) };
            self.leaves.get_mut(target).insert(at, prefix, loc);
            (right_id, separator)
        };
        self.refit_leaf(arena, leaf_id, path.low, Some(separator));
        self.refit_leaf(arena, right_id, Some(separator), path.high);
        self.insert_separator(arena, &path, separator, right_id);
    }

    /// The first entry at or after (`key`, `trailer`).
    pub fn seek(&self, arena: &Arena, key: &[u8], trailer: u64) -> Cursor {
        let Some(common) = &self.common else { return Cursor::END };
        // A key outside the common prefix is before or after all of them; inside the tree it would be misread.
        match key[..key.len().min(common.len())].cmp(common) {
            Ordering::Less => return self.first(),
            Ordering::Greater => return Cursor::END,
            Ordering::Equal => {}
        }
        let mut node = self.root;
        for _ in 0..self.height {
            let inner = self.inners.get(node);
            node = inner.child[child_for(arena, inner, key, trailer)];
        }
        let leaf = self.leaves.get(node);
        let prefix = prefix_at(key, leaf.skip);
        let at =
            count_below(arena, &leaf.prefix[..leaf.len as usize], &leaf.loc, prefix, key, trailer);
        self.settle(Cursor { leaf: node, at: at as u32 })
    }

    /// The first entry.
    pub fn first(&self) -> Cursor {
        if self.entries == 0 {
            return Cursor::END;
        }
        let mut node = self.root;
        for _ in 0..self.height {
            node = self.inners.get(node).child[0];
        }
        Cursor { leaf: node, at: 0 }
    }

    /// The last entry.
    pub fn last(&self) -> Cursor {
        if self.entries == 0 {
            return Cursor::END;
        }
        let mut node = self.root;
        for _ in 0..self.height {
            let inner = self.inners.get(node);
            node = inner.child[inner.len as usize];
        }
        Cursor { leaf: node, at: u32::from(self.leaves.get(node).len) - 1 }
    }

    /// The last entry at or before (`key`, `trailer`).
    pub fn seek_for_prev(&self, arena: &Arena, key: &[u8], trailer: u64) -> Cursor {
        let at_or_after = self.seek(arena, key, trailer);
        let Some(loc) = self.loc(at_or_after) else { return self.last() };
        let entry = arena.entry(loc);
        if entry.trailer == trailer && entry.key == key {
            return at_or_after;
        }
        self.prev(at_or_after)
    }

    /// The entry before `cursor`, which is not the end; the end when it is the first one.
    pub fn prev(&self, cursor: Cursor) -> Cursor {
        if cursor.at > 0 {
            return Cursor { leaf: cursor.leaf, at: cursor.at - 1 };
        }
        let leaf = self.leaves.get(cursor.leaf).before;
        if leaf == NONE {
            return Cursor::END;
        }
        Cursor { leaf, at: u32::from(self.leaves.get(leaf).len) - 1 }
    }

    /// The entry after `cursor`, which is not the end.
    pub fn next(&self, cursor: Cursor) -> Cursor {
        self.settle(Cursor { leaf: cursor.leaf, at: cursor.at + 1 })
    }

    /// Where the entry at `cursor` is in the arena; `None` at the end.
    pub fn loc(&self, cursor: Cursor) -> Option<Loc> {
        (cursor != Cursor::END).then(|| self.leaves.get(cursor.leaf).loc[cursor.at as usize])
    }

    /// Number of entries.
    pub const fn entries(&self) -> usize {
        self.entries
    }

    /// All memory of the nodes.
    pub fn memory_bytes(&self) -> usize {
        self.leaves.memory_bytes()
            + self.inners.memory_bytes()
            + self.common.as_ref().map_or(0, Vec::capacity)
    }

    fn settle(&self, cursor: Cursor) -> Cursor {
        let leaf = self.leaves.get(cursor.leaf);
        if cursor.at < u32::from(leaf.len) {
            return cursor;
        }
        if leaf.next == NONE { Cursor::END } else { Cursor { leaf: leaf.next, at: 0 } }
    }

    /// Makes the common prefix true for `key` as well, and with it the nodes at the edges.
    fn include(&mut self, arena: &Arena, key: &[u8]) {
        let Some(common) = &mut self.common else {
            self.common = Some(key.to_vec());
            self.root = self.leaves.push(Leaf::new(key.len() as u16));
            return;
        };
        let shared = shared_len(common, key);
        if shared == common.len() {
            return;
        }
        common.truncate(shared);
        for right in [false, true] {
            let mut node = self.root;
            for _ in 0..self.height {
                let inner = self.inners.get_mut(node);
                refit(
                    arena,
                    &mut inner.skip,
                    shared,
                    &mut inner.prefix[..inner.len as usize],
                    &inner.separator,
                );
                node = inner.child[if right { inner.len as usize } else { 0 }];
            }
            let leaf = self.leaves.get_mut(node);
            refit(arena, &mut leaf.skip, shared, &mut leaf.prefix[..leaf.len as usize], &leaf.loc);
        }
    }

    fn descend(&self, arena: &Arena, key: &[u8], trailer: u64) -> (u32, Path) {
        let mut path = Path { steps: [(NONE, 0); MAX_HEIGHT], low: None, high: None };
        let mut node = self.root;
        for step in &mut path.steps[..self.height] {
            let inner = self.inners.get(node);
            let at = child_for(arena, inner, key, trailer);
            if at > 0 {
                path.low = Some(inner.separator[at - 1]);
            }
            if at < inner.len as usize {
                path.high = Some(inner.separator[at]);
            }
            *step = (node, at);
            node = inner.child[at];
        }
        (node, path)
    }

    fn split_leaf(&mut self, id: u32) -> (u32, Loc) {
        let right_id = self.leaves.len;
        let left = self.leaves.get_mut(id);
        let mut right = Leaf::new(left.skip);
        let moved = FANOUT - FANOUT / 2;
        right.prefix[..moved].copy_from_slice(&left.prefix[FANOUT / 2..]);
        right.loc[..moved].copy_from_slice(&left.loc[FANOUT / 2..]);
        right.len = moved as u16;
        right.next = left.next;
        right.before = id;
        left.len = (FANOUT / 2) as u16;
        left.next = right_id;
        if right.next != NONE {
            self.leaves.get_mut(right.next).before = right_id;
        }
        let separator = right.loc[0];
        (self.leaves.push(right), separator)
    }

    /// Adds (`separator`, `right`) beside the child that was split, upward as far as nodes are full.
    fn insert_separator(&mut self, arena: &Arena, path: &Path, mut separator: Loc, mut right: u32) {
        for depth in (0..self.height).rev() {
            let (id, at) = path.steps[depth];
            let inner = self.inners.get_mut(id);
            if (inner.len as usize) < FANOUT {
                let prefix = prefix_at(arena.entry(separator).key, inner.skip);
                inner.insert(at, prefix, separator, right);
                return;
            }
            (separator, right) = self.split_inner(arena, path, depth, separator, right);
        }
        let mut root = Inner::new(self.common.as_ref().map_or(0, Vec::len) as u16);
        root.child[0] = self.root;
        root.insert(0, prefix_at(arena.entry(separator).key, root.skip), separator, right);
        self.root = self.inners.push(root);
        self.height += 1;
        assert!(self.height < MAX_HEIGHT, "memtable tree of height {}", self.height);
    }

    /// Splits the full inner node at `depth` while adding (`separator`, `right`); returns what to add one level up.
    fn split_inner(
        &mut self,
        arena: &Arena,
        path: &Path,
        depth: usize,
        separator: Loc,
        right: u32,
    ) -> (Loc, u32) {
        let (id, at) = path.steps[depth];
        let left = self.inners.get_mut(id);
        let mut new = Inner::new(left.skip);
        // Ascending keys: leave full nodes behind here too.
        let keep = if at == FANOUT { FANOUT - 1 } else { FANOUT / 2 };
        let up = left.separator[keep];
        let moved = FANOUT - keep - 1;
        new.prefix[..moved].copy_from_slice(&left.prefix[keep + 1..]);
        new.separator[..moved].copy_from_slice(&left.separator[keep + 1..]);
        new.child[..=moved].copy_from_slice(&left.child[keep + 1..]);
        new.len = moved as u16;
        left.len = keep as u16;
        let prefix = prefix_at(arena.entry(separator).key, left.skip);
        if at <= keep {
            left.insert(at, prefix, separator, right);
        } else {
            new.insert(at - keep - 1, prefix, separator, right);
        }
        let new_id = self.inners.push(new);
        let (low, high) = self.fences(path, depth);
        self.refit_inner(arena, id, low, Some(up));
        self.refit_inner(arena, new_id, Some(up), high);
        (up, new_id)
    }

    /// The fences of the node at `depth` of `path`. Valid until a node above it is changed.
    fn fences(&self, path: &Path, depth: usize) -> (Option<Loc>, Option<Loc>) {
        let (mut low, mut high) = (None, None);
        for &(id, at) in &path.steps[..depth] {
            let inner = self.inners.get(id);
            if at > 0 {
                low = Some(inner.separator[at - 1]);
            }
            if at < inner.len as usize {
                high = Some(inner.separator[at]);
            }
        }
        (low, high)
    }

    fn skip_between(&self, arena: &Arena, low: Option<Loc>, high: Option<Loc>) -> usize {
        match (low, high) {
            (Some(low), Some(high)) => shared_len(arena.entry(low).key, arena.entry(high).key),
            _ => self.common.as_ref().map_or(0, Vec::len),
        }
    }

    fn refit_leaf(&mut self, arena: &Arena, id: u32, low: Option<Loc>, high: Option<Loc>) {
        let skip = self.skip_between(arena, low, high);
        let leaf = self.leaves.get_mut(id);
        if skip >= leaf.skip as usize + MIN_SKIP_GAIN {
            refit(arena, &mut leaf.skip, skip, &mut leaf.prefix[..leaf.len as usize], &leaf.loc);
        }
    }

    fn refit_inner(&mut self, arena: &Arena, id: u32, low: Option<Loc>, high: Option<Loc>) {
        let skip = self.skip_between(arena, low, high);
        let inner = self.inners.get_mut(id);
        if skip >= inner.skip as usize + MIN_SKIP_GAIN {
            let len = inner.len as usize;
            refit(arena, &mut inner.skip, skip, &mut inner.prefix[..len], &inner.separator);
        }
    }
}

/// Sets a node's skip and recomputes its prefixes.
fn refit(arena: &Arena, skip: &mut u16, to: usize, prefix: &mut [u64], loc: &[Loc]) {
    if *skip as usize == to {
        return;
    }
    *skip = to as u16;
    for (prefix, &loc) in prefix.iter_mut().zip(loc) {
        *prefix = prefix_at(arena.entry(loc).key, *skip);
    }
}

/// Eight bytes of `key` after `skip`, zero-padded, as a number that orders like them.
#[inline]
fn prefix_at(key: &[u8], skip: u16) -> u64 {
    let rest = &key[skip as usize..];
    if let Some(first) = rest.first_chunk::<8>() {
        return u64::from_be_bytes(*first);
    }
    let mut padded = [0; 8];
    padded[..rest.len()].copy_from_slice(rest);
    u64::from_be_bytes(padded)
}

fn shared_len(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}

#[inline]
fn child_for(arena: &Arena, inner: &Inner, key: &[u8], trailer: u64) -> usize {
    let prefix = prefix_at(key, inner.skip);
    let prefixes = &inner.prefix[..inner.len as usize];
    // A separator is the first key of its right child: one equal to the target counts as below it. Trailers are
    // unique, so "below or equal" is "below the next older trailer".
    match trailer.checked_sub(1) {
        Some(older) => count_below(arena, prefixes, &inner.separator, prefix, key, older),
        None => count_through(arena, prefixes, &inner.separator, prefix, key),
    }
}

/// How many of the node's keys are below (`key`, `trailer`), of which `prefix` is the prefix.
#[inline]
/// Reads one of every `line` values, so that all their cache lines come at once: the steps of a binary search would wait
/// for one after the other.
fn touch<T: Copy + Into<u64>>(values: &[T], line: usize) {
    let sum = values.iter().step_by(line).fold(0, |sum: u64, value| sum ^ (*value).into());
    std::hint::black_box(sum);
}

fn count_below(
    arena: &Arena,
    prefixes: &[u64],
    locs: &[Loc; FANOUT],
    prefix: u64,
    key: &[u8],
    trailer: u64,
) -> usize {
    touch(prefixes, 8);
    let start = prefixes.partition_point(|&p| p < prefix);
    if prefixes.get(start) != Some(&prefix) {
        return start;
    }
    let is_below = |&loc: &Loc| {
        let entry = arena.entry(loc);
        entry.key.cmp(key).then_with(|| trailer.cmp(&entry.trailer)) == Ordering::Less
    };
    // A write, and a read of what is newest, belong before all versions of their key: one look at the arena, which is
    // one cache miss, mostly tells.
    if !is_below(&locs[start]) {
        return start;
    }
    let rest = start + 1;
    let ties = prefixes[rest..].partition_point(|&p| p == prefix);
    rest + locs[rest..rest + ties].partition_point(is_below)
}

/// How many of the node's keys have user keys up to and including `key`.
fn count_through(
    arena: &Arena,
    prefixes: &[u64],
    locs: &[Loc; FANOUT],
    prefix: u64,
    key: &[u8],
) -> usize {
    let start = prefixes.partition_point(|&p| p < prefix);
    let ties = prefixes[start..].partition_point(|&p| p == prefix);
    start + locs[start..start + ties].partition_point(|&loc| arena.entry(loc).key <= key)
}
