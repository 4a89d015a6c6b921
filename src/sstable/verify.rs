//! Checks every claim a table makes, and walks the blocks of one that is damaged.

use super::block::{Block, Cursor};
use super::cache::Fetch;
use super::error::{Fault, TableError};
use super::filter::Probe;
use super::format::{
    BLOCK_HEADER_BYTES, BlockHandle, BlockHeader, BlockType, FILE_HEADER_BYTES, FOOTER_BYTES,
    Properties, check_block,
};
use super::table::{Table, unknown_kind};
use crate::base::internal_key::{self, ValueKind};
use crate::env::File;
use bytes::Bytes;
use std::cmp::Ordering;

/// What has been seen so far.
struct Seen {
    properties: Properties,
    last: Option<(Vec<u8>, u64)>,
}

/// See [`Table::verify`].
pub(super) fn verify(table: &Table) -> Result<(), TableError> {
    let mut verification = Verification::new(table);
    while !verification.step(table, u64::MAX)? {}
    Ok(())
}

/// A [`Table::verify`] that goes on in steps, for a lane that others use too. All steps are of one table.
pub struct Verification {
    seen: Seen,
    next_block: usize,
    expected_offset: u64,
    separator: Option<(Vec<u8>, u64)>,
}

impl Verification {
    /// Before the first block of `table`.
    #[must_use]
    pub fn new(table: &Table) -> Self {
        let claimed = table.properties();
        let seen = Seen {
            properties: Properties {
                block_bytes: claimed.block_bytes,
                restart_interval: claimed.restart_interval,
                unknown: claimed.unknown.clone(),
                smallest_seq: u64::MAX,
                ..Properties::default()
            },
            last: None,
        };
        let expected_offset = FILE_HEADER_BYTES as u64;
        Self { seen, next_block: 0, expected_offset, separator: None }
    }

    /// The offset in the file up to which it has come.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.expected_offset
    }

    /// Checks the next blocks, at least one and about `max_bytes`; whether all were, and what the table says about all of them.
    ///
    /// # Errors
    /// The first fault, or a failed read. Then the verification is over.
    pub fn step(&mut self, table: &Table, max_bytes: u64) -> Result<bool, TableError> {
        let start = self.expected_offset;
        while self.next_block < table.data_blocks() {
            if self.expected_offset - start >= max_bytes {
                return Ok(false);
            }
            check_block_at(self, table)?;
            self.next_block += 1;
        }
        let claimed = std::mem::replace(self, Self::new(table));
        verify_totals(table, claimed.seen, claimed.expected_offset).map(|()| true)
    }
}

/// Checks data block `next_block`.
fn check_block_at(verification: &mut Verification, table: &Table) -> Result<(), TableError> {
    let Verification { seen, next_block, expected_offset, separator } = verification;
    let i = *next_block;
    let (key, trailer, handle) = table.index_entry(i);
    let in_file = |fault: Fault| fault.in_file(table.file().path());
    if handle.offset != *expected_offset {
        let (expected, found) = (expected_offset.to_string(), handle.offset.to_string());
        return Err(in_file(table.index.block().fault(
            0,
            &format!("block {i} at {expected}"),
            found,
        )));
    }
    *expected_offset = handle.end().expect("checked by index_entry");
    let block = table.read_data_block(handle, Fetch::Once)?;
    verify_block(table, block, separator.as_ref(), seen).map_err(in_file)?;
    seen.properties.data_bytes += handle.len + BLOCK_HEADER_BYTES as u64;
    if let Some((last, last_trailer)) = &seen.last
        && internal_key::compare((last, *last_trailer), (key, trailer)) == Ordering::Greater
    {
        let found = format!("{} @ {trailer:#x}", key.escape_ascii());
        let expected = format!("separator {i} at or after the last key of its block");
        return Err(in_file(table.index.block().fault(0, &expected, found)));
    }
    *separator = Some((key.to_vec(), trailer));
    Ok(())
}

/// Entries in order, after the separator of the block before; restart points as claimed; each key in the filter.
fn verify_block(
    table: &Table,
    block: Block,
    separator: Option<&(Vec<u8>, u64)>,
    seen: &mut Seen,
) -> Result<(), Fault> {
    let interval = table.properties().restart_interval;
    let mut cursor = Cursor::new(block);
    let (mut in_block, mut restarts) = (0u64, 0);
    while cursor.advance()? {
        let (key, trailer) = cursor.key();
        let fault = |expected: &str| {
            let found = format!("{} @ {trailer:#x}", key.escape_ascii());
            cursor.block().fault(cursor.pos(), expected, found)
        };
        let after = |before: &(Vec<u8>, u64)| {
            internal_key::compare((&before.0, before.1), (key, trailer)) == Ordering::Less
        };
        if !seen.last.as_ref().is_none_or(after) {
            return Err(fault("a key after the one before it"));
        }
        if !separator.is_none_or(after) {
            return Err(fault("a key after the separator of the block before"));
        }
        if interval == 0 || in_block.is_multiple_of(interval) {
            let blocks = cursor.block();
            if restarts >= blocks.restarts() || blocks.restart(restarts) != cursor.pos() {
                return Err(fault("a restart point at this entry"));
            }
            restarts += 1;
        } else {
            let previous = seen.last.as_ref().map_or(&[][..], |(key, _)| key);
            let shared = cursor.block().entry_at(cursor.pos())?.shared;
            if shared != super::block::common_prefix(previous, key) {
                return Err(fault("the whole common prefix to be shared"));
            }
        }
        if !table.may_contain(&Probe::of(key)) {
            return Err(fault("a key that the filter knows"));
        }
        let Some((seq, kind)) = internal_key::unpack_trailer(trailer) else {
            return Err(unknown_kind(cursor.block(), &cursor.value_range(), trailer));
        };
        if kind == ValueKind::Delete && !cursor.value().is_empty() {
            return Err(fault("a tombstone without a value"));
        }
        seen.count(key, trailer, seq.0, kind, cursor.value().len());
        in_block += 1;
    }
    if restarts != cursor.block().restarts() {
        let expected = format!("{restarts} restart points");
        let found = cursor.block().restarts().to_string();
        return Err(cursor.block().fault(cursor.block().entries_end(), &expected, found));
    }
    Ok(())
}

impl Seen {
    fn count(&mut self, key: &[u8], trailer: u64, seq: u64, kind: ValueKind, value_len: usize) {
        let p = &mut self.properties;
        p.entries += 1;
        match kind {
            ValueKind::Put => p.puts += 1,
            ValueKind::Delete => p.deletes += 1,
        }
        p.raw_key_bytes += key.len() as u64;
        p.raw_value_bytes += value_len as u64;
        p.smallest_seq = p.smallest_seq.min(seq);
        p.largest_seq = p.largest_seq.max(seq);
        match &mut self.last {
            None => {
                p.user_keys = 1;
                p.smallest_key = key.to_vec();
                p.smallest_trailer = trailer;
                self.last = Some((key.to_vec(), trailer));
            }
            Some((last, last_trailer)) => {
                p.user_keys += u64::from(last != key);
                last.clear();
                last.extend_from_slice(key);
                *last_trailer = trailer;
            }
        }
    }
}

/// The data area is full, and the properties say what was seen.
fn verify_totals(table: &Table, seen: Seen, data_end: u64) -> Result<(), TableError> {
    let in_file = |fault: Fault| fault.in_file(table.file().path());
    if data_end != table.footer().data_end() {
        let expected = format!("data blocks up to {}", table.footer().data_end());
        return Err(in_file(table.index.block().fault(0, &expected, format!("up to {data_end}"))));
    }
    let mut found = seen.properties;
    found.data_blocks = table.data_blocks() as u64;
    (found.largest_key, found.largest_trailer) = seen.last.unwrap_or_default();
    if &found != table.properties() {
        let offset = table.footer().properties.offset + BLOCK_HEADER_BYTES as u64;
        let (expected, found) = (format!("{found:?}"), format!("{:?}", table.properties()));
        return Err(in_file(Fault::new(
            offset,
            BlockType::Properties.name(),
            format!("what the entries say: {expected}"),
            found,
        )));
    }
    Ok(())
}

/// A block found by [`walk`], with a good checksum.
#[derive(Clone, Debug)]
pub struct WalkedBlock {
    /// What it holds.
    pub block_type: BlockType,
    /// Where it is.
    pub handle: BlockHandle,
    /// Its payload.
    pub payload: Bytes,
}

/// Reads the blocks of a file from the front, trusting neither footer nor index, until the footer's place, the
/// first fault, or `visit` says `false`. For `sst_dump` on damaged files: block headers carry their length for this.
pub fn walk(
    file: &dyn File,
    visit: &mut dyn FnMut(WalkedBlock) -> bool,
) -> Result<Option<Fault>, TableError> {
    let bytes = file.len()?;
    let mut offset = FILE_HEADER_BYTES as u64;
    while offset + (BLOCK_HEADER_BYTES as u64) <= bytes {
        if offset + FOOTER_BYTES as u64 == bytes {
            return Ok(None);
        }
        let mut header_bytes = [0; BLOCK_HEADER_BYTES];
        file.read_exact_at(offset, &mut header_bytes)?;
        let header = BlockHeader::decode(&header_bytes);
        let Some(block_type) = BlockType::from_u8(header.block_type) else {
            let found = format!("{}", header.block_type);
            return Ok(Some(Fault::new(offset + 4, "block", "a block type of 1 … 4", found)));
        };
        let handle = BlockHandle { offset, len: u64::from(header.len) };
        let end = offset + BLOCK_HEADER_BYTES as u64 + handle.len;
        if end > bytes {
            let expected = format!("a length of at most {}", bytes - offset);
            let found = format!("{}", header.len);
            return Ok(Some(Fault::new(offset + 8, block_type.name(), expected, found)));
        }
        let mut block = vec![0; handle.len as usize + BLOCK_HEADER_BYTES];
        file.read_exact_at(offset, &mut block)?;
        if let Err(fault) = check_block(&block, block_type, handle) {
            return Ok(Some(fault));
        }
        let payload = Bytes::from(block).slice(BLOCK_HEADER_BYTES..);
        if !visit(WalkedBlock { block_type, handle, payload }) {
            return Ok(None);
        }
        offset = end;
    }
    Ok(Some(Fault::new(offset, "file", "a block or the footer", "the end of the file")))
}
