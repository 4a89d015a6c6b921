//! The block cache: data blocks of all tables of an engine, within a bound of bytes.
//!
//! ```text
//!              ┌ not asked for again: out, its key goes to the ghosts
//!  new ──▶ small queue (a tenth) ── asked for again ──▶ main queue ── asked for since the last round: once more round
//!  new, and known to the ghosts ─────────────────────▶            └─ not asked for: out
//! ```
//!
//! That is S3-FIFO (Yang et al., *FIFO queues are all you need for cache eviction*, SOSP 2023): two queues and three bits
//! of use a block. A hit moves nothing, so it is one probe of a table of tags and one small write under a lock that
//! hardly anybody else wants. It was taken over a plain CLOCK because a pass over everything only goes through the small
//! queue, and over a crate because what is evicted must be the same in every run of the simulator: no random seeds.
//!
//! Invariants:
//! - Bytes of blocks, what each costs beside its payload, and what open tables hold in memory ([`BlockCache::charge`]) stay
//!   within the capacity; only open tables may exceed it, and who opens them bounds those ([`super::tables`]).
//! - Blocks read for a scan ([`Fetch::Scan`]) live in the small queue and leave no ghosts, so that scans, however long, have a tenth of
//!   the capacity at most of what would else hold blocks that were asked for twice; and of those the unused go first.
//! - A read from memory only ([`Fetch::MemoryOnly`]) waits for nobody: what another thread has locked is not in memory.
//! - Same calls, same contents: hashes are fixed, and there is no clock.
//!
//! What it does not do: read (that is `Table::fetch_data_block`), or know which tables are live. Numbers of tables are never
//! used twice, so a block of a table that is gone is no danger; [`BlockCache::forget`] frees its memory at once.

use super::block::Block;
use serde::Serialize;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

/// How a read treats the disk and the cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Fetch {
    /// For single keys: what is read is kept.
    #[default]
    Point,
    /// For scans: what is read is kept with the least claim to stay.
    Scan,
    /// For those who read everything once (compaction): the cache is looked at and left as it is.
    Once,
    /// The disk is not touched: what is not in memory is [`TableError::NotInMemory`](super::TableError::NotInMemory).
    MemoryOnly,
}

/// What an entry costs beside its payload: slot, tag, queue, and the payload's own header and count.
const ENTRY_OVERHEAD: usize = 160;
/// Smallest part of the capacity that gets a lock of its own.
const SHARD_BYTES_MIN: u64 = 2 << 20;
const SHARDS_MAX: u64 = 16;
/// Most uses that an entry is credited for.
const USES_MAX: u8 = 3;

/// Counts since the start, and what is there now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct CacheStats {
    /// The bound, in bytes.
    pub capacity: u64,
    /// Bytes of cached blocks, with what each costs beside its payload.
    pub bytes: u64,
    /// Blocks.
    pub blocks: u64,
    /// Bytes that open tables hold in memory: index and filter.
    pub charged: u64,
    /// Blocks asked for that were there.
    pub hits: u64,
    /// Blocks asked for that had to be read.
    pub misses: u64,
    /// Blocks put in.
    pub inserted: u64,
    /// Blocks that made room.
    pub evicted: u64,
}

/// See the module.
#[derive(Debug)]
pub struct BlockCache {
    capacity: u64,
    charged: AtomicU64,
    shards: Box<[Mutex<Shard>]>,
}

impl BlockCache {
    /// A cache of at most `capacity` bytes; 0 keeps nothing.
    #[must_use]
    pub fn new(capacity: u64) -> Arc<Self> {
        let shards = (capacity / SHARD_BYTES_MIN).clamp(1, SHARDS_MAX);
        let shards = 1 << shards.ilog2();
        let ghosts = (capacity / shards / 4096).next_power_of_two() as usize;
        let shard = || Mutex::new(Shard::new(capacity / shards, ghosts));
        Arc::new(Self {
            capacity,
            charged: AtomicU64::new(0),
            shards: (0..shards).map(|_| shard()).collect(),
        })
    }

    /// The bound, in bytes.
    #[must_use]
    pub const fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Counts `bytes` of an open table against the capacity for as long as the result lives.
    #[must_use]
    pub fn charge(self: &Arc<Self>, bytes: u64) -> Charge {
        self.charged.fetch_add(bytes, Ordering::Relaxed);
        self.rebound();
        Charge { cache: Arc::clone(self), bytes }
    }

    /// Bytes that open tables hold.
    #[must_use]
    pub fn charged(&self) -> u64 {
        self.charged.load(Ordering::Relaxed)
    }

    /// Divides what open tables leave among the shards.
    fn rebound(&self) {
        for shard in &self.shards {
            let mut shard = lock(shard);
            // Read under the lock: the last one to come sees the sum of all.
            let left = self.capacity.saturating_sub(self.charged());
            shard.capacity = (left / self.shards.len() as u64) as usize;
            shard.make_room(0);
        }
    }

    #[inline]
    fn shard(&self, hash: u64) -> &Mutex<Shard> {
        &self.shards[(hash >> 59) as usize & (self.shards.len() - 1)]
    }

    /// The block at `offset` of table `number`.
    #[inline]
    pub(super) fn get(&self, number: u64, offset: u64, fetch: Fetch) -> Option<Block> {
        self.with(number, offset, fetch, Block::clone)
    }

    /// Looks at the block at `offset` of table `number`, under the lock of its shard: `look` is short, waits for nothing, and does
    /// not use the cache. To clone the block instead would wait for the line of memory that its count of users is in.
    #[inline]
    pub(super) fn with<R>(
        &self,
        number: u64,
        offset: u64,
        fetch: Fetch,
        look: impl FnOnce(&Block) -> R,
    ) -> Option<R> {
        let hash = hash(number, offset);
        let shard = self.shard(hash);
        let mut shard = match fetch {
            Fetch::MemoryOnly => match shard.try_lock() {
                Ok(shard) => shard,
                Err(TryLockError::Poisoned(shard)) => shard.into_inner(),
                Err(TryLockError::WouldBlock) => return None,
            },
            _ => lock(shard),
        };
        let Some(at) = shard.find(hash, number, offset) else {
            // Who may not read asks again in a job.
            shard.misses += u64::from(fetch != Fetch::MemoryOnly);
            return None;
        };
        shard.hits += 1;
        let slot = &mut shard.slots[at as usize];
        if fetch != Fetch::Once && slot.uses < USES_MAX {
            slot.uses += 1;
        }
        slot.block.as_ref().map(look)
    }

    /// Puts a block in that was read for `fetch`.
    pub(super) fn insert(&self, number: u64, offset: u64, block: &Block, fetch: Fetch) {
        if fetch == Fetch::Once {
            return;
        }
        let hash = hash(number, offset);
        let weight = block.memory_bytes() + ENTRY_OVERHEAD;
        let mut shard = lock(self.shard(hash));
        if weight > shard.capacity || shard.find(hash, number, offset).is_some() {
            return;
        }
        let in_main = fetch != Fetch::Scan && shard.was_here(hash);
        shard.make_room(weight);
        let is_scan = fetch == Fetch::Scan;
        let block = Some(block.clone());
        shard.push(hash, Slot { number, offset, block, weight, uses: 0, in_main, is_scan });
    }

    /// Frees what is cached of a table that is gone. Looks at every block: not for the loop.
    pub fn forget(&self, number: u64) {
        for shard in &self.shards {
            lock(shard).forget(number);
        }
    }

    /// The numbers now.
    #[must_use]
    pub fn stats(&self) -> CacheStats {
        let mut out = CacheStats {
            capacity: self.capacity,
            charged: self.charged(),
            ..CacheStats::default()
        };
        for shard in &self.shards {
            let shard = lock(shard);
            out.bytes += (shard.small_bytes + shard.main_bytes) as u64;
            out.blocks += (shard.small.len() + shard.main.len()) as u64;
            out.hits += shard.hits;
            out.misses += shard.misses;
            out.inserted += shard.inserted;
            out.evicted += shard.evicted;
        }
        out
    }
}

/// Bytes of an open table that count against the capacity.
#[derive(Debug)]
pub struct Charge {
    cache: Arc<BlockCache>,
    bytes: u64,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.cache.charged.fetch_sub(self.bytes, Ordering::Relaxed);
        self.cache.rebound();
    }
}

/// A panic elsewhere leaves a shard as it was: each change of one is made of steps that do not fail.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Mixes table number and offset; fixed, so that runs repeat. The high bits choose the shard, the low ones the place.
#[inline]
fn hash(number: u64, offset: u64) -> u64 {
    let mixed = u128::from(number ^ 0x9e37_79b9_7f4a_7c15)
        * u128::from(offset.wrapping_mul(0xff51_afd7_ed55_8ccd) | 1);
    let folded = (mixed as u64) ^ (mixed >> 64) as u64;
    folded.wrapping_mul(0xd6e8_feb8_6659_fd93) ^ (folded >> 29)
}

#[derive(Debug)]
struct Slot {
    number: u64,
    offset: u64,
    /// `None` in a free slot.
    block: Option<Block>,
    weight: usize,
    uses: u8,
    in_main: bool,
    /// Read for a scan: it leaves no ghost.
    is_scan: bool,
}

/// Part of the keys, with a lock of its own.
#[derive(Debug)]
struct Shard {
    capacity: usize,
    /// Open addressing, linear probing: tag (high half of the hash) | slot + 1; 0 = empty. A power of two, at most half
    /// full.
    table: Vec<(u32, u32)>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    small: VecDeque<u32>,
    main: VecDeque<u32>,
    small_bytes: usize,
    main_bytes: usize,
    /// Tags of blocks that were evicted from the small queue, each at the place that its hash has: the next one there
    /// replaces it.
    ghosts: Vec<u32>,
    hits: u64,
    misses: u64,
    inserted: u64,
    evicted: u64,
}

impl Shard {
    fn new(capacity: u64, ghosts: usize) -> Self {
        Self {
            capacity: capacity as usize,
            table: vec![(0, 0); 64],
            slots: Vec::new(),
            free: Vec::new(),
            small: VecDeque::new(),
            main: VecDeque::new(),
            small_bytes: 0,
            main_bytes: 0,
            ghosts: vec![0; ghosts],
            hits: 0,
            misses: 0,
            inserted: 0,
            evicted: 0,
        }
    }

    const fn tag(hash: u64) -> u32 {
        (hash >> 32) as u32
    }

    /// The slot of a block.
    #[inline]
    fn find(&self, hash: u64, number: u64, offset: u64) -> Option<u32> {
        let mask = self.table.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let (tag, slot) = self.table[at];
            if slot == 0 {
                return None;
            }
            if tag == Self::tag(hash) {
                let found = &self.slots[slot as usize - 1];
                if found.number == number && found.offset == offset {
                    return Some(slot - 1);
                }
            }
            at = (at + 1) & mask;
        }
    }

    /// Whether a block with this hash was evicted from the small queue not long ago.
    fn was_here(&mut self, hash: u64) -> bool {
        let at = hash as usize & (self.ghosts.len() - 1);
        // 0 is an empty place: of 2^32 tags one is not recognized.
        let known = self.ghosts[at] == Self::tag(hash) && Self::tag(hash) != 0;
        if known {
            self.ghosts[at] = 0;
        }
        known
    }

    fn push(&mut self, hash: u64, slot: Slot) {
        if 2 * (self.small.len() + self.main.len() + 1) > self.table.len() {
            self.grow();
        }
        let (queue, bytes) = if slot.in_main {
            (&mut self.main, &mut self.main_bytes)
        } else {
            (&mut self.small, &mut self.small_bytes)
        };
        *bytes += slot.weight;
        let id = self.free.pop().unwrap_or(self.slots.len() as u32);
        queue.push_back(id);
        if id as usize == self.slots.len() {
            self.slots.push(slot);
        } else {
            self.slots[id as usize] = slot;
        }
        self.link(hash, id);
        self.inserted += 1;
    }

    fn link(&mut self, hash: u64, id: u32) {
        let mask = self.table.len() - 1;
        let mut at = hash as usize & mask;
        while self.table[at].1 != 0 {
            at = (at + 1) & mask;
        }
        self.table[at] = (Self::tag(hash), id + 1);
    }

    fn grow(&mut self) {
        self.table = vec![(0, 0); 2 * self.table.len()];
        for id in 0..self.slots.len() {
            let slot = &self.slots[id];
            if slot.block.is_some() {
                self.link(hash(slot.number, slot.offset), id as u32);
            }
        }
    }

    /// Evicts until `more` bytes fit.
    fn make_room(&mut self, more: usize) {
        while self.small_bytes + self.main_bytes + more > self.capacity {
            if self.small_bytes * 10 > self.capacity || self.main.is_empty() {
                let Some(id) = self.small.pop_front() else { return };
                let slot = &mut self.slots[id as usize];
                self.small_bytes -= slot.weight;
                if slot.uses > 0 {
                    (slot.uses, slot.in_main) = (0, true);
                    self.main_bytes += slot.weight;
                    self.main.push_back(id);
                } else {
                    if !slot.is_scan {
                        let hash = hash(slot.number, slot.offset);
                        let at = hash as usize & (self.ghosts.len() - 1);
                        self.ghosts[at] = Self::tag(hash);
                    }
                    self.remove(id);
                    self.evicted += 1;
                }
            } else {
                let Some(id) = self.main.pop_front() else { return };
                let slot = &mut self.slots[id as usize];
                if slot.uses > 0 {
                    slot.uses -= 1;
                    self.main.push_back(id);
                } else {
                    self.main_bytes -= slot.weight;
                    self.remove(id);
                    self.evicted += 1;
                }
            }
        }
    }

    /// Frees a slot that is in no queue any more.
    fn remove(&mut self, id: u32) {
        let slot = &mut self.slots[id as usize];
        slot.block = None;
        let hash = hash(slot.number, slot.offset);
        self.free.push(id);
        let mask = self.table.len() - 1;
        let mut hole = hash as usize & mask;
        while self.table[hole].1 != id + 1 {
            hole = (hole + 1) & mask;
        }
        // What was put further on because this place was taken moves back.
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let (_, next) = self.table[at];
            if next == 0 {
                break;
            }
            let moved = &self.slots[next as usize - 1];
            let home = self::hash(moved.number, moved.offset) as usize & mask;
            if at.wrapping_sub(home) & mask >= at.wrapping_sub(hole) & mask {
                self.table[hole] = self.table[at];
                hole = at;
            }
        }
        self.table[hole] = (0, 0);
    }

    fn forget(&mut self, number: u64) {
        for in_main in [false, true] {
            let queue = if in_main { &mut self.main } else { &mut self.small };
            let mut gone = Vec::new();
            let slots = &self.slots;
            queue.retain(|&id| {
                let stays = slots[id as usize].number != number;
                if !stays {
                    gone.push(id);
                }
                stays
            });
            for id in gone {
                let weight = self.slots[id as usize].weight;
                *(if in_main { &mut self.main_bytes } else { &mut self.small_bytes }) -= weight;
                self.remove(id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::format::BlockType;
    use super::*;
    use proptest::prelude::*;

    /// A block that says whose it is.
    fn block(number: u64, offset: u64, len: usize) -> Block {
        let mut payload = [number.to_be_bytes(), offset.to_be_bytes()].concat();
        payload.resize(len.max(16), 7);
        payload.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 1]);
        Block::new(payload.into(), 0, BlockType::Data).unwrap()
    }

    fn is_block_of(block: &Block, number: u64, offset: u64) -> bool {
        block.bytes(0..16) == [number.to_be_bytes(), offset.to_be_bytes()].concat()
    }

    /// What the queues say is what the slots say, and each block is found.
    fn check(cache: &BlockCache) {
        let mut live = 0;
        for shard in &cache.shards {
            let shard = lock(shard);
            for (queue, bytes, in_main) in
                [(&shard.small, shard.small_bytes, false), (&shard.main, shard.main_bytes, true)]
            {
                let slots = queue.iter().map(|&id| &shard.slots[id as usize]);
                assert_eq!(bytes, slots.clone().map(|slot| slot.weight).sum::<usize>());
                for (slot, &id) in slots.zip(queue) {
                    assert!(slot.in_main == in_main && slot.block.is_some());
                    let hash = hash(slot.number, slot.offset);
                    assert_eq!(shard.find(hash, slot.number, slot.offset), Some(id));
                    live += 1;
                }
            }
            let linked = shard.table.iter().filter(|(_, slot)| *slot != 0).count();
            assert_eq!(linked, shard.small.len() + shard.main.len());
            assert_eq!(linked + shard.free.len(), shard.slots.len());
        }
        let stats = cache.stats();
        assert_eq!(stats.blocks, live);
        assert!(
            stats.bytes + stats.charged <= stats.capacity.max(stats.charged),
            "over its bound: {stats:?}"
        );
    }

    #[derive(Clone, Debug)]
    enum Step {
        Read(u64, u64, usize, Fetch),
        Charge(u64),
        Uncharge,
        Forget(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let fetch =
            prop::sample::select(vec![Fetch::Point, Fetch::Scan, Fetch::Once, Fetch::MemoryOnly]);
        prop_oneof![
            40 => (0u64..4, 0u64..60, 16usize..3000, fetch)
                .prop_map(|(number, offset, len, fetch)| Step::Read(number, offset, len, fetch)),
            1 => (0u64..30_000).prop_map(Step::Charge),
            1 => Just(Step::Uncharge),
            1 => (0u64..4).prop_map(Step::Forget),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn stays_within_its_bound_and_gives_back_what_was_put_in(
            capacity in prop_oneof![Just(0u64), 0u64..60_000, Just(5 << 20)],
            steps in prop::collection::vec(step(), 1..600),
        ) {
            let cache = BlockCache::new(capacity);
            let mut charges = Vec::new();
            for step in steps {
                match step {
                    Step::Read(number, offset, len, fetch) => {
                        match cache.get(number, offset, fetch) {
                            Some(found) => prop_assert!(is_block_of(&found, number, offset)),
                            None if fetch == Fetch::MemoryOnly => {}
                            None => {
                                let read = block(number, offset, len);
                                cache.insert(number, offset, &read, fetch);
                            }
                        }
                    }
                    Step::Charge(bytes) => charges.push(cache.charge(bytes)),
                    Step::Uncharge => drop(charges.pop()),
                    Step::Forget(number) => {
                        cache.forget(number);
                        prop_assert!((0..60).all(|o| cache.get(number, o, Fetch::Once).is_none()));
                    }
                }
                check(&cache);
            }
            let stats = cache.stats();
            prop_assert!(stats.evicted <= stats.inserted && stats.inserted <= stats.misses);
        }
    }

    fn read(cache: &BlockCache, number: u64, offset: u64, fetch: Fetch) -> bool {
        let found = cache.get(number, offset, fetch).is_some();
        if !found {
            cache.insert(number, offset, &block(number, offset, 4096), fetch);
        }
        found
    }

    #[test]
    fn a_scan_over_everything_leaves_what_is_asked_for_again_and_again() {
        let cache = BlockCache::new(8 << 20);
        let hot = 0..1500u64;
        for _ in 0..3 {
            for i in hot.clone() {
                read(&cache, 1, i * 4108, Fetch::Point);
            }
        }
        for pass in 0..3 {
            for i in 0..40_000u64 {
                read(&cache, 2, i * 4108, Fetch::Scan);
            }
            let kept = hot.clone().filter(|i| cache.get(1, i * 4108, Fetch::Once).is_some());
            let kept = kept.count();
            assert!(kept > 1400, "pass {pass}: {kept} of 1500 hot blocks are left");
        }
        check(&cache);
    }

    #[test]
    fn what_is_asked_for_often_is_found_mostly_in_a_stream_of_single_reads() {
        // A tenth of the keys has nine tenths of the reads; the cache holds a seventh of all.
        let cache = BlockCache::new(4 << 20);
        let (mut x, mut hits, reads) = (7u64, 0, 200_000);
        for _ in 0..reads {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let r = x >> 33;
            let i = if r % 10 < 9 { r / 10 % 700 } else { r / 10 % 7000 };
            hits += u64::from(read(&cache, 1, i * 4108, Fetch::Point));
        }
        assert!(hits * 100 > reads * 85, "{hits} hits in {reads}");
        check(&cache);
    }

    #[test]
    fn threads_share_it() {
        let cache = BlockCache::new(3 << 20);
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let cache = &cache;
                scope.spawn(move || {
                    let mut x = thread;
                    for i in 0..20_000 {
                        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(thread + 1);
                        let (number, offset) = ((x >> 33) % 5, (x >> 40) % 400);
                        let fetch = if i % 3 == 0 { Fetch::Scan } else { Fetch::Point };
                        match cache.get(number, offset, fetch) {
                            Some(found) => assert!(is_block_of(&found, number, offset)),
                            None => {
                                cache.insert(number, offset, &block(number, offset, 4096), fetch);
                            }
                        }
                        if i % 5000 == 4999 {
                            cache.forget(number);
                            drop(cache.charge(1 << 20));
                        }
                    }
                });
            }
        });
        check(&cache);
    }
}
