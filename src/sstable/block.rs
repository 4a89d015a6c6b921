//! The entries inside a data or index block.
//!
//! ```text
//! payload:  entry … entry | restart offset (4) … | number of restarts (4)
//! entry:    varint shared | varint unshared | varint value length | key suffix (unshared) | trailer (8) | value
//! ```
//!
//! `shared` is the *whole* common prefix of the user key with the one before it, and 0 at a restart point; restart
//! points are every `restart_interval`-th entry, and their offsets (from the start of the payload) make a binary
//! search possible. Trailers are not compressed. That `shared` is always the whole common prefix is part of the
//! format: [`Block::find`] decides most steps from it alone, without looking at the key.

use super::error::Fault;
use super::format::{
    BLOCK_HEADER_BYTES, BlockHandle, BlockType, COMPRESSION_NONE, Compression, compress_block,
    seal_block,
};
use crate::base::internal_key::{self, Head};
use crate::base::{prefetch, varint};
use bytes::Bytes;
use std::cmp::Ordering;
use std::ops::Range;

/// Values up to here are copied out of their block.
const COPIED_VALUE_BYTES: usize = 1 << 10;
const CACHE_LINE_BYTES: usize = 64;
/// A block of the usual size has about so many lines between two restart points; large values are not worth asking for.
const MAX_PREFETCH_LINES: usize = 40;

/// The length of the common prefix, eight bytes at a time.
pub(super) fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    let mut n = 0;
    for (x, y) in a.chunks_exact(8).zip(b.chunks_exact(8)) {
        let x = u64::from_le_bytes(x.try_into().expect("chunk of 8"));
        let y = u64::from_le_bytes(y.try_into().expect("chunk of 8"));
        if x != y {
            return n + (x ^ y).trailing_zeros() as usize / 8;
        }
        n += 8;
    }
    n + a[n..].iter().zip(&b[n..]).take_while(|(x, y)| x == y).count()
}

/// Writes the entries of one block after another, straight into the caller's output buffer.
pub(super) struct BlockWriter {
    block_type: BlockType,
    interval: usize,
    since_restart: usize,
    restarts: Vec<u32>,
    /// Where the block's header begins in the output buffer, while a block is open.
    start: Option<usize>,
}

impl BlockWriter {
    pub(super) fn new(block_type: BlockType, interval: usize) -> Self {
        Self { block_type, interval, since_restart: 0, restarts: Vec::new(), start: None }
    }

    /// Whether the open block has entries.
    pub(super) fn is_empty(&self) -> bool {
        self.start.is_none()
    }

    /// Bytes of payload if the block were finished now, entries and restarts.
    pub(super) fn payload_bytes(&self, out: &[u8]) -> usize {
        match self.start {
            None => 0,
            Some(start) => out.len() - start - BLOCK_HEADER_BYTES + 4 * self.restarts.len() + 4,
        }
    }

    /// An upper bound of what the next entry adds to [`Self::payload_bytes`].
    pub(super) fn entry_bytes_max(user_key: &[u8], value: &[u8]) -> usize {
        3 * 5 + user_key.len() + internal_key::TRAILER_BYTES + value.len() + 4
    }

    /// Appends an entry. `previous` is the user key of the entry before it in this block.
    pub(super) fn add(
        &mut self,
        out: &mut Vec<u8>,
        previous: &[u8],
        user_key: &[u8],
        trailer: u64,
        value: &[u8],
    ) {
        let start = *self.start.get_or_insert_with(|| {
            out.resize(out.len() + BLOCK_HEADER_BYTES, 0);
            out.len() - BLOCK_HEADER_BYTES
        });
        let shared = if self.restarts.is_empty() || self.since_restart == self.interval {
            let at = out.len() - start - BLOCK_HEADER_BYTES;
            self.restarts.push(u32::try_from(at).expect("a block is shorter than 4 GiB"));
            self.since_restart = 0;
            0
        } else {
            common_prefix(previous, user_key)
        };
        self.since_restart += 1;
        varint::put_u64(out, shared as u64);
        varint::put_u64(out, (user_key.len() - shared) as u64);
        varint::put_u64(out, value.len() as u64);
        out.extend_from_slice(&user_key[shared..]);
        out.extend_from_slice(&trailer.to_be_bytes());
        out.extend_from_slice(value);
    }

    /// Ends the open block; `base` is the place in the file of the first byte of `out`. `scratch` is a buffer to reuse.
    pub(super) fn finish(
        &mut self,
        out: &mut Vec<u8>,
        base: u64,
        compression: Compression,
        scratch: &mut Vec<u8>,
    ) -> BlockHandle {
        let start = self.start.take().expect("finish is called with an open block");
        let offset = base + start as u64;
        for restart in &self.restarts {
            out.extend_from_slice(&restart.to_be_bytes());
        }
        out.extend_from_slice(&(self.restarts.len() as u32).to_be_bytes());
        self.restarts.clear();
        let stored = match compression {
            Compression::None => COMPRESSION_NONE,
            Compression::Lz4 => compress_block(out, start, scratch),
        };
        seal_block(&mut out[start..], self.block_type, stored, offset);
        BlockHandle { offset, len: (out.len() - start - BLOCK_HEADER_BYTES) as u64 }
    }
}

/// The payload of a data or index block whose checksum was good.
#[derive(Clone, Debug)]
pub(super) struct Block {
    payload: Bytes,
    /// Offset of the payload in the file, for error messages.
    offset: u64,
    entries_end: u32,
    restarts: u32,
    block_type: BlockType,
}

/// One entry, still compressed.
pub(super) struct Entry<'a> {
    pub(super) shared: usize,
    pub(super) suffix: &'a [u8],
    pub(super) trailer: u64,
    pub(super) value: Range<usize>,
    pub(super) next: usize,
}

impl Block {
    /// Takes a payload that begins at `offset` in the file.
    pub(super) fn new(payload: Bytes, offset: u64, block_type: BlockType) -> Result<Self, Fault> {
        let restarts = payload.last_chunk::<4>().map_or(0, |c| u32::from_be_bytes(*c)) as usize;
        let tail = restarts.checked_mul(4).and_then(|n| n.checked_add(4));
        let entries_end = tail.and_then(|tail| payload.len().checked_sub(tail));
        match entries_end.and_then(|end| u32::try_from(end).ok()) {
            Some(entries_end) if restarts > 0 && entries_end > 0 => {
                let restarts = restarts as u32;
                Ok(Self { payload, offset, entries_end, restarts, block_type })
            }
            _ => {
                let at = (offset + payload.len() as u64).saturating_sub(4);
                let expected = format!("a restart count for {} bytes", payload.len());
                Err(Fault::new(at, block_type.name(), expected, format!("{restarts}")))
            }
        }
    }

    pub(super) const fn restarts(&self) -> usize {
        self.restarts as usize
    }

    /// Where the entries end.
    pub(super) const fn entries_end(&self) -> usize {
        self.entries_end as usize
    }

    /// Bytes of memory that it keeps alive.
    pub(super) const fn memory_bytes(&self) -> usize {
        self.payload.len() + BLOCK_HEADER_BYTES
    }

    pub(super) fn fault(&self, pos: usize, expected: &str, found: impl Into<String>) -> Fault {
        Fault::new(self.offset + pos as u64, self.block_type.name(), expected, found)
    }

    /// The bytes of a value, to keep: a small one is copied, so that who keeps it keeps no block; a large one shares the block's
    /// memory.
    pub(super) fn value(&self, range: Range<usize>) -> Bytes {
        if range.len() <= COPIED_VALUE_BYTES {
            Bytes::copy_from_slice(&self.payload[range])
        } else {
            self.payload.slice(range)
        }
    }

    #[inline]
    pub(super) fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self.payload[range]
    }

    /// The position of restart point `i`.
    pub(super) fn restart(&self, i: usize) -> usize {
        debug_assert!(i < self.restarts());
        let at = self.entries_end() + 4 * i;
        let bytes = self.payload[at..at + 4].try_into().expect("4 bytes");
        u32::from_be_bytes(bytes) as usize
    }

    /// Decodes the entry at `pos`.
    #[inline]
    pub(super) fn entry_at(&self, pos: usize) -> Result<Entry<'_>, Fault> {
        let entries = &self.payload[..self.entries_end()];
        let rest = entries.get(pos..).unwrap_or_default();
        let (shared, unshared, value_len, head) = match rest {
            [a, b, c, ..] if (a | b | c) & 0x80 == 0 => {
                (u32::from(*a), u32::from(*b), u32::from(*c), 3)
            }
            _ => Self::lengths(rest).ok_or_else(|| {
                self.fault(pos, "the three lengths of an entry", "bytes that are not")
            })?,
        };
        let body = u64::from(unshared) + u64::from(value_len) + internal_key::TRAILER_BYTES as u64;
        let next = (pos + head) as u64 + body;
        if next > u64::from(self.entries_end) {
            let found = format!("one of {body} bytes up to {next} of {}", self.entries_end);
            return Err(self.fault(pos, "an entry that ends inside the block", found));
        }
        let key_end = pos + head + unshared as usize;
        let value_start = key_end + internal_key::TRAILER_BYTES;
        let trailer = entries[key_end..value_start].try_into().expect("8 bytes");
        Ok(Entry {
            shared: shared as usize,
            suffix: &entries[pos + head..key_end],
            trailer: u64::from_be_bytes(trailer),
            value: value_start..next as usize,
            next: next as usize,
        })
    }

    #[cold]
    fn lengths(rest: &[u8]) -> Option<(u32, u32, u32, usize)> {
        let (shared, a) = varint::get_u32(rest)?;
        let (unshared, b) = varint::get_u32(&rest[a..])?;
        let (value_len, c) = varint::get_u32(&rest[a + b..])?;
        Some((shared, unshared, value_len, a + b + c))
    }

    #[cold]
    fn shares_too_much(&self, pos: usize, shared: usize, most: usize) -> Fault {
        self.fault(pos, &format!("at most {most} shared bytes"), format!("{shared} shared bytes"))
    }

    /// The entry at restart point `i`, whose suffix is its whole user key.
    pub(super) fn restart_entry(&self, i: usize) -> Result<Entry<'_>, Fault> {
        let pos = self.restart(i);
        let entry = self.entry_at(pos)?;
        if entry.shared != 0 {
            let found = format!("{} shared bytes", entry.shared);
            return Err(self.fault(pos, "no shared bytes at a restart point", found));
        }
        Ok(entry)
    }

    /// The number of restart points that sort before (user key, trailer).
    pub(super) fn restarts_before(&self, user_key: &[u8], trailer: u64) -> Result<usize, Fault> {
        let (mut low, mut high) = (0, self.restarts());
        while low < high {
            let middle = low + (high - low) / 2;
            let entry = self.restart_entry(middle)?;
            match internal_key::compare((entry.suffix, entry.trailer), (user_key, trailer)) {
                Ordering::Less => low = middle + 1,
                _ => high = middle,
            }
        }
        Ok(low)
    }

    /// The position from which on a key is looked for when `before` restart points sort before it. The entries up to the next
    /// one will be read one after the other, each to know where the next one is: all of them are asked for now.
    fn will_read(&self, before: usize) -> usize {
        let pos = self.restart(before.saturating_sub(1));
        let end = if before < self.restarts() { self.restart(before) } else { self.entries_end() };
        for at in (pos..end).step_by(CACHE_LINE_BYTES).take(MAX_PREFETCH_LINES) {
            prefetch(&self.payload, at);
        }
        pos
    }

    /// The newest version of exactly `user_key` at or after `trailer` in the order: its trailer and value.
    ///
    /// Never builds a key. `matched` is how many bytes of `user_key` the last key (which sorts before the target)
    /// has in common with it; as `shared` is the *whole* common prefix of neighbours,
    /// - shared > matched: the key differs from the target where the last one did, so it is still before it;
    /// - 0 < shared < matched: the key left the common prefix, upwards: the target is not in the block;
    /// - else (also at restart points, where shared is 0) compare from `shared` on.
    pub(super) fn find(
        &self,
        user_key: &[u8],
        trailer: u64,
    ) -> Result<Option<(u64, Range<usize>)>, Fault> {
        let before = self.restarts_before(user_key, trailer)?;
        let mut pos = self.will_read(before);
        let mut matched = 0;
        while pos < self.entries_end() {
            let entry = self.entry_at(pos)?;
            pos = entry.next;
            if entry.shared > matched {
                continue;
            }
            if entry.shared < matched && entry.shared > 0 {
                return Ok(None);
            }
            let rest = &user_key[entry.shared..];
            let common = common_prefix(entry.suffix, rest);
            matched = entry.shared + common;
            match (entry.suffix.get(common), rest.get(common)) {
                (None, None) if entry.trailer <= trailer => {
                    return Ok(Some((entry.trailer, entry.value)));
                }
                (None, _) => {}
                (Some(_), None) => return Ok(None),
                (Some(found), Some(wanted)) if found > wanted => return Ok(None),
                (Some(_), Some(_)) => {}
            }
        }
        Ok(None)
    }
}

/// A position in a block, with its key decompressed into a buffer that is reused from entry to entry.
///
/// Steps forward cost one entry. A step back has to decode from the restart point before, so it keeps what it meets on
/// the way in `behind`: a walk backwards decodes every entry once.
pub(super) struct Cursor {
    block: Block,
    key: Vec<u8>,
    /// Of `key`. It comes from the bytes of the block: to read it from the key that was just written would wait for that.
    head: Head,
    trailer: u64,
    value: Range<usize>,
    pos: usize,
    next: usize,
    /// Entries directly before `pos`, the nearest last; their keys are in `behind_keys`.
    behind: Vec<Behind>,
    behind_keys: Vec<u8>,
}

/// An entry that was passed on the way to the one before the position.
struct Behind {
    key: Range<usize>,
    trailer: u64,
    value: Range<usize>,
    pos: usize,
    next: usize,
}

impl Cursor {
    /// Before the first entry of `block`.
    pub(super) const fn new(block: Block) -> Self {
        Self {
            block,
            key: Vec::new(),
            head: 0,
            trailer: 0,
            value: 0..0,
            pos: 0,
            next: 0,
            behind: Vec::new(),
            behind_keys: Vec::new(),
        }
    }

    /// Before the first entry of `block`, with the buffers of the block before.
    pub(super) fn reset(&mut self, block: Block) {
        self.block = block;
        self.forget(0);
    }

    /// Before the entry at `next`, at which a restart point is.
    fn forget(&mut self, next: usize) {
        self.key.clear();
        self.behind.clear();
        self.next = next;
    }

    /// Steps to the next entry; `false` at the end, where the position stays.
    #[inline]
    pub(super) fn advance(&mut self) -> Result<bool, Fault> {
        if self.next >= self.block.entries_end() {
            return Ok(false);
        }
        let entry = self.block.entry_at(self.next)?;
        if entry.shared > self.key.len() {
            return Err(self.block.shares_too_much(self.next, entry.shared, self.key.len()));
        }
        let suffix = entry.value.start - internal_key::TRAILER_BYTES - entry.suffix.len();
        let rest = &self.block.payload[suffix..];
        self.head = internal_key::next_head(self.head, entry.shared, rest, entry.suffix.len());
        self.key.truncate(entry.shared);
        self.key.extend_from_slice(entry.suffix);
        self.trailer = entry.trailer;
        self.value = entry.value;
        self.pos = self.next;
        self.next = entry.next;
        prefetch(&self.block.payload, self.next);
        self.behind.clear();
        Ok(true)
    }

    /// Steps to the entry before; `false` at the first one, where the position stays.
    pub(super) fn back(&mut self) -> Result<bool, Fault> {
        if self.pos == 0 {
            return Ok(false);
        }
        if self.behind.is_empty() {
            self.collect_behind()?;
        }
        let entry = self.behind.pop().expect("an entry lies before one that is not the first");
        self.key.clear();
        self.key.extend_from_slice(&self.behind_keys[entry.key]);
        self.head = internal_key::head(&self.key);
        self.trailer = entry.trailer;
        self.value = entry.value;
        self.pos = entry.pos;
        self.next = entry.next;
        Ok(true)
    }

    /// Decodes from the last restart point before the position up to it.
    fn collect_behind(&mut self) -> Result<(), Fault> {
        let block = &self.block;
        let (mut low, mut high) = (0, block.restarts());
        while low < high {
            let middle = low + (high - low) / 2;
            if block.restart(middle) < self.pos { low = middle + 1 } else { high = middle }
        }
        // The first one is at 0 in a sound block.
        let mut pos = if low == 0 { 0 } else { block.restart(low - 1) };
        self.behind_keys.clear();
        let mut last = 0..0;
        while pos < self.pos {
            let entry = block.entry_at(pos)?;
            if entry.shared > last.len() {
                return Err(block.shares_too_much(pos, entry.shared, last.len()));
            }
            let start = self.behind_keys.len();
            self.behind_keys.extend_from_within(last.start..last.start + entry.shared);
            self.behind_keys.extend_from_slice(entry.suffix);
            last = start..self.behind_keys.len();
            let Entry { trailer, value, next, .. } = entry;
            self.behind.push(Behind { key: last.clone(), trailer, value, pos, next });
            pos = next;
        }
        if pos != self.pos {
            let found = format!("one that ends at {pos}");
            self.behind.clear();
            return Err(self.block.fault(self.pos, "an entry that ends here", found));
        }
        Ok(())
    }

    /// Steps to the first entry at or after (user key, trailer); `false` when there is none in the block.
    pub(super) fn seek(&mut self, user_key: &[u8], trailer: u64) -> Result<bool, Fault> {
        self.seek_near(user_key, trailer)?;
        while self.advance()? {
            if internal_key::compare(self.key(), (user_key, trailer)) != Ordering::Less {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Steps to the last entry at or before (user key, trailer); `false` when there is none in the block.
    pub(super) fn seek_for_prev(&mut self, user_key: &[u8], trailer: u64) -> Result<bool, Fault> {
        self.seek_near(user_key, trailer)?;
        while self.advance()? {
            if internal_key::compare(self.key(), (user_key, trailer)) == Ordering::Greater {
                return self.back();
            }
        }
        Ok(true)
    }

    /// Before the restart point from which on (user key, trailer) would be.
    fn seek_near(&mut self, user_key: &[u8], trailer: u64) -> Result<(), Fault> {
        let before = self.block.restarts_before(user_key, trailer)?;
        self.forget(self.block.will_read(before));
        Ok(())
    }

    /// Steps to the last entry.
    pub(super) fn last(&mut self) -> Result<(), Fault> {
        self.forget(self.block.restart(self.block.restarts() - 1));
        while self.advance()? {}
        Ok(())
    }

    #[inline]
    pub(super) fn key(&self) -> (&[u8], u64) {
        (&self.key, self.trailer)
    }

    /// The head of the user key.
    #[inline]
    pub(super) const fn head(&self) -> Head {
        self.head
    }

    #[inline]
    pub(super) fn value(&self) -> &[u8] {
        self.block.bytes(self.value.clone())
    }

    pub(super) fn value_bytes(&self) -> Bytes {
        self.block.value(self.value.clone())
    }

    /// Where the value lies in the payload.
    pub(super) fn value_range(&self) -> Range<usize> {
        self.value.clone()
    }

    /// Where the current entry begins in the payload.
    pub(super) const fn pos(&self) -> usize {
        self.pos
    }

    pub(super) const fn block(&self) -> &Block {
        &self.block
    }
}
