//! The memtable's arena: entries side by side in chunks, addressed by 32 bits.
//!
//! ```text
//! location: 32 bits = chunk number (12) | offset in the chunk (20)
//! entry:    trailer (8, big-endian) | varint key length | varint value length | key | value
//! ```
//!
//! Invariants:
//! - An entry never moves and never spans two chunks; its bytes are written once.
//! - Shared chunks double from 4 KiB to 1 MiB; an entry over [`OWN_CHUNK_BYTES`] has a chunk of its own, at offset
//!   0. So the 4096 chunk numbers hold at least 250 MiB of anything and at most 4 GiB, plus one large entry each.
//! - [`Arena::has_room`] leaves room for the largest legal batch and its internal rows; whoever inserts asks first.

use crate::base::varint;
use crate::limits::MAX_BATCH_BYTES;

const OFFSET_BITS: u32 = 20;
const OFFSET_MASK: u32 = (1 << OFFSET_BITS) - 1;
const MAX_CHUNKS: usize = 1 << (32 - OFFSET_BITS);
const MIN_CHUNK_BYTES: usize = 4 << 10;
const MAX_CHUNK_BYTES: usize = 1 << OFFSET_BITS;
/// An entry larger than this does not share its chunk, so that little is wasted at the end of shared ones.
const OWN_CHUNK_BYTES: usize = 64 << 10;
/// Chunks that a batch at its limits can open: each is filled to all but `OWN_CHUNK_BYTES`, or holds more than it.
/// An entry takes at most 8 bytes more in the arena than in its batch.
const CHUNKS_PER_BATCH: usize = 2 * (MAX_BATCH_BYTES / OWN_CHUNK_BYTES) + 4;

const _: () = assert!(CHUNKS_PER_BATCH < MAX_CHUNKS / 2);

/// Where an entry begins.
pub type Loc = u32;

/// One entry, borrowed from the arena.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryRef<'a> {
    /// The user key.
    pub key: &'a [u8],
    /// Sequence number and kind ([`crate::base::internal_key`]).
    pub trailer: u64,
    /// The value; empty for a tombstone.
    pub value: &'a [u8],
}

/// See the module.
#[derive(Default)]
pub struct Arena {
    chunks: Vec<Vec<u8>>,
    /// The shared chunk that takes the next small entry.
    current: usize,
    reserved: usize,
}

impl Arena {
    /// Writes an entry. Panics when it was not asked whether there [is room](Self::has_room).
    pub fn push(&mut self, key: &[u8], trailer: u64, value: &[u8]) -> Loc {
        let bytes = 8
            + varint::len_u64(key.len() as u64)
            + varint::len_u64(value.len() as u64)
            + key.len()
            + value.len();
        let number = self.chunk_for(bytes);
        let chunk = &mut self.chunks[number];
        let offset = chunk.len();
        chunk.extend_from_slice(&trailer.to_be_bytes());
        varint::put_u64(chunk, key.len() as u64);
        varint::put_u64(chunk, value.len() as u64);
        chunk.extend_from_slice(key);
        chunk.extend_from_slice(value);
        debug_assert_eq!(chunk.len(), offset + bytes);
        ((number as u32) << OFFSET_BITS) | offset as u32
    }

    fn chunk_for(&mut self, bytes: usize) -> usize {
        let own = bytes > OWN_CHUNK_BYTES;
        if !own
            && let Some(chunk) = self.chunks.get(self.current)
            && chunk.capacity() - chunk.len() >= bytes
            && chunk.len() < MAX_CHUNK_BYTES
        {
            return self.current;
        }
        let number = self.chunks.len();
        assert!(number < MAX_CHUNKS, "memtable arena overflow: has_room was not asked");
        let capacity = if own {
            bytes
        } else {
            let last = self.chunks.get(self.current).map_or(0, Vec::capacity);
            (last * 2).clamp(MIN_CHUNK_BYTES, MAX_CHUNK_BYTES).max(bytes)
        };
        let chunk = Vec::with_capacity(capacity);
        self.reserved += chunk.capacity();
        self.chunks.push(chunk);
        if !own {
            self.current = number;
        }
        number
    }

    /// The entry at `loc`.
    pub fn entry(&self, loc: Loc) -> EntryRef<'_> {
        let rest = &self.chunks[(loc >> OFFSET_BITS) as usize][(loc & OFFSET_MASK) as usize..];
        let (trailer, rest) = rest.split_first_chunk::<8>().expect("entry is whole");
        let (key_len, value_len, rest) = if rest[0] < 0x80 && rest[1] < 0x80 {
            (usize::from(rest[0]), usize::from(rest[1]), &rest[2..])
        } else {
            let (key_len, n) = varint::get_u64(rest).expect("entry is whole");
            let (value_len, m) = varint::get_u64(&rest[n..]).expect("entry is whole");
            (key_len as usize, value_len as usize, &rest[n + m..])
        };
        let (key, rest) = rest.split_at(key_len);
        EntryRef { key, trailer: u64::from_be_bytes(*trailer), value: &rest[..value_len] }
    }

    /// Whether a batch at its limits fits, and as much again of the internal rows that its entry changes.
    pub fn has_room(&self) -> bool {
        self.chunks.len() + 2 * CHUNKS_PER_BATCH <= MAX_CHUNKS
    }

    /// All memory reserved, used or not.
    pub fn memory_bytes(&self) -> usize {
        self.reserved + self.chunks.capacity() * size_of::<Vec<u8>>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{MAX_BATCH_OPS, MAX_KEY_BYTES, MAX_VALUE_BYTES};

    #[test]
    fn entries_of_every_size_come_back() {
        let mut arena = Arena::default();
        let sizes = [0, 1, 127, 128, 4_000, 5_000, OWN_CHUNK_BYTES, OWN_CHUNK_BYTES + 1, 3 << 20];
        let mut locs = Vec::new();
        for (i, &value_len) in sizes.iter().cycle().take(200).enumerate() {
            let key = vec![i as u8; 1 + i % 300];
            let value = vec![!(i as u8); value_len];
            locs.push((arena.push(&key, i as u64, &value), key, value));
        }
        for (i, (loc, key, value)) in locs.iter().enumerate() {
            assert_eq!(arena.entry(*loc), EntryRef { key, trailer: i as u64, value });
        }
        let payload: usize = locs.iter().map(|(_, k, v)| k.len() + v.len()).sum();
        assert!(arena.memory_bytes() >= payload);
        assert!(arena.memory_bytes() < payload + payload / 8 + (2 << 20));
    }

    #[test]
    fn room_is_enough_for_the_worst_batches() {
        // The worst for chunk numbers: entries just over half of the largest shared one, and just over it.
        for value_len in
            [OWN_CHUNK_BYTES - 64, OWN_CHUNK_BYTES, OWN_CHUNK_BYTES / 2, MAX_VALUE_BYTES]
        {
            let mut arena = Arena::default();
            let ops = (MAX_BATCH_BYTES / value_len).min(MAX_BATCH_OPS);
            let before = arena.chunks.len();
            for i in 0..ops {
                arena.push(&vec![1; MAX_KEY_BYTES.min(16)], i as u64, &vec![0; value_len]);
            }
            assert!(arena.chunks.len() - before <= CHUNKS_PER_BATCH, "{value_len}");
        }
    }
}
