//! The index of an open table, laid out for few cache misses.
//!
//! ```text
//!  index block: "user1" | "user2" | … separators, restart points                 (as in the file; ties look here)
//!  prefixes:    8 bytes of each separator behind what all have in common, as numbers
//!               [16] ─▶ [16][16]… ─▶ [16][16][16][16]…   one node a level; the last level has one number a block
//!  handles:     offset, length, place in the index block
//! ```
//!
//! A binary search over 30,000 separators waits for fifteen cache lines one after the other, twice each (restart
//! point, key). Here a search reads one node of two lines on each of four levels. Numbers that are equal say nothing, and
//! only then the separators are compared.
//!
//! Memory: about 27 bytes a data block beside the index block itself. A table of 64 MiB has 16,000 blocks of 4 KiB: one
//! level of index stays below a megabyte, which is why the format needs no second one.

use super::block::Block;
use super::error::Fault;
use super::format::{BlockHandle, FILE_HEADER_BYTES};
use crate::base::internal_key;
use std::cmp::Ordering;

/// Numbers in a node: two cache lines.
const FANOUT: usize = 16;

#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Node([u64; FANOUT]);

impl Node {
    /// How many of its numbers are below `prefix`. All are looked at: their lines come at once, and nothing is guessed.
    #[inline]
    fn below(&self, prefix: u64) -> usize {
        self.0.iter().map(|&p| usize::from(p < prefix)).sum()
    }
}

#[derive(Clone, Copy, Debug)]
struct Place {
    offset: u64,
    len: u32,
    /// Of the entry in the index block.
    at: u32,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Index {
    block: Block,
    places: Box<[Place]>,
    /// Bytes at the start of every separator; they are those of the first one.
    common: Vec<u8>,
    /// The root first; the last level has the prefixes of all separators, filled up with the largest number.
    levels: Vec<Box<[Node]>>,
}

/// Up to eight bytes as a number that sorts like them. Shorter keys are filled up with zeros.
#[inline]
fn number(bytes: &[u8]) -> u64 {
    if let Some(chunk) = bytes.first_chunk::<8>() {
        return u64::from_be_bytes(*chunk);
    }
    let mut padded = [0; 8];
    padded[..bytes.len()].copy_from_slice(bytes);
    u64::from_be_bytes(padded)
}

impl Index {
    /// Takes an index block whose data blocks end at `data_end`. Every entry is decoded.
    pub(super) fn new(block: Block, data_end: u64) -> Result<Self, Fault> {
        let mut places = Vec::with_capacity(block.restarts());
        let mut common: Option<&[u8]> = None;
        for i in 0..block.restarts() {
            let entry = block.restart_entry(i)?;
            let bytes = block.bytes(entry.value.clone());
            let handle = BlockHandle::decode(bytes).filter(|h| {
                h.end().is_some_and(|end| end <= data_end) && h.offset >= FILE_HEADER_BYTES as u64
            });
            let place = handle.and_then(|BlockHandle { offset, len }| {
                let at = u32::try_from(block.restart(i)).ok()?;
                Some(Place { offset, len: u32::try_from(len).ok()?, at })
            });
            places.push(place.ok_or_else(|| {
                let expected = "the handle of a data block";
                block.fault(entry.value.start, expected, format!("{bytes:02x?}"))
            })?);
            common = Some(match common {
                None => entry.suffix,
                Some(common) => &common[..super::block::common_prefix(common, entry.suffix)],
            });
        }
        let common = common.unwrap_or_default().to_vec();
        let mut prefixes = Vec::with_capacity(places.len());
        for i in 0..places.len() {
            prefixes.push(number(&block.restart_entry(i)?.suffix[common.len()..]));
        }
        let mut levels = Vec::new();
        loop {
            let nodes: Box<[Node]> = prefixes
                .chunks(FANOUT)
                .map(|chunk| {
                    let mut node = [u64::MAX; FANOUT];
                    node[..chunk.len()].copy_from_slice(chunk);
                    Node(node)
                })
                .collect();
            prefixes = nodes.iter().map(|node| node.0[FANOUT - 1]).collect();
            let done = nodes.len() <= 1;
            levels.push(nodes);
            if done {
                break;
            }
        }
        levels.reverse();
        Ok(Self { block, places: places.into(), common, levels })
    }

    /// Data blocks.
    pub(super) const fn len(&self) -> usize {
        self.places.len()
    }

    /// The index block, for error messages.
    pub(super) const fn block(&self) -> &Block {
        &self.block
    }

    /// Bytes in memory.
    pub(super) fn memory_bytes(&self) -> usize {
        let nodes: usize = self.levels.iter().map(|level| size_of_val(&**level)).sum();
        self.block.memory_bytes() + size_of_val(&*self.places) + nodes + self.common.len()
    }

    /// The handle of data block `i`, which exists; it lies inside the data area.
    #[inline]
    pub(super) fn handle(&self, i: usize) -> BlockHandle {
        let place = &self.places[i];
        BlockHandle { offset: place.offset, len: u64::from(place.len) }
    }

    /// The separator of data block `i`, which exists.
    pub(super) fn separator(&self, i: usize) -> (&[u8], u64) {
        // Decoded before, when the index was opened.
        self.block
            .entry_at(self.places[i].at as usize)
            .map_or((&[], 0), |entry| (entry.suffix, entry.trailer))
    }

    /// The number of separators that sort before (user key, trailer).
    #[inline]
    pub(super) fn before(&self, user_key: &[u8], trailer: u64) -> usize {
        let Some(rest) = user_key.strip_prefix(&self.common[..]) else {
            return if user_key < &self.common[..] { 0 } else { self.len() };
        };
        let prefix = number(rest);
        let mut at = 0;
        for level in &self.levels {
            let Some(node) = level.get(at) else { return self.len() };
            at = at * FANOUT + node.below(prefix);
        }
        let is_before = |i: usize| {
            internal_key::compare(self.separator(i), (user_key, trailer)) == Ordering::Less
        };
        if at >= self.len() || self.prefix(at) != prefix || !is_before(at) {
            return at.min(self.len());
        }
        // Several with this prefix: those before the key, of which one is known to be.
        let (mut low, mut high) = (at + 1, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.prefix(middle) == prefix && is_before(middle) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    fn prefix(&self, i: usize) -> u64 {
        let last = self.levels.last().expect("there is a level");
        last[i / FANOUT].0[i % FANOUT]
    }
}
