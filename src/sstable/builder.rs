//! Builds a table from entries in order.
//!
//! Memory: one write chunk, the block being built, the index (one key per data block), and 8 bytes per distinct
//! user key for the filter. The file is written front to back in chunks of [`WRITE_CHUNK_BYTES`], never rewritten.

use super::block::{BlockWriter, common_prefix};
use super::error::TableError;
use super::filter::{BloomPolicy, FilterPolicy};
use super::format::{
    self, BLOCK_HEADER_BYTES, BlockHandle, BlockType, COMPRESSION_NONE, Compression, Footer,
    Properties, SEPARATOR_TRAILER,
};
use crate::base::hash::key_hash;
use crate::base::internal_key::{self, ValueKind};
use crate::env::File;
use crate::limits::{MAX_KEY_BYTES, MAX_VALUE_BYTES};
use std::cmp::Ordering;
use std::sync::Arc;

/// How much is collected before it is written.
pub const WRITE_CHUNK_BYTES: usize = 1 << 20;
/// Default payload size of data blocks.
pub const DEFAULT_BLOCK_BYTES: usize = 4096;
/// Default number of entries between restart points.
pub const DEFAULT_RESTART_INTERVAL: usize = 16;
/// Bounds of [`BuildOptions::block_bytes`].
pub const BLOCK_BYTES_RANGE: std::ops::RangeInclusive<usize> = 64..=1 << 20;

/// How a table is built. Readers need none of it.
#[derive(Clone, Debug)]
pub struct BuildOptions {
    /// Payload size at which a data block is ended, 64 bytes … 1 MiB. Only a block with a single entry is larger.
    pub block_bytes: usize,
    /// Entries between restart points, 1 or more.
    pub restart_interval: usize,
    /// The filter.
    pub filter: Arc<dyn FilterPolicy>,
    /// How data blocks are stored.
    pub compression: Compression,
}

impl Default for BuildOptions {
    fn default() -> Self {
        Self {
            block_bytes: DEFAULT_BLOCK_BYTES,
            restart_interval: DEFAULT_RESTART_INTERVAL,
            filter: Arc::new(BloomPolicy::default()),
            compression: Compression::None,
        }
    }
}

/// What was built.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableSummary {
    /// The length of the file.
    pub bytes: u64,
    /// What the file says about itself: counts, key range, sequence numbers.
    pub properties: Properties,
}

/// A data block that is written and not yet in the index: its separator needs the key that follows.
struct Unindexed {
    handle: BlockHandle,
    last_trailer: u64,
}

/// Builds one table into an empty file.
///
/// After an error the builder is poisoned and the file is rubbish: remove it. [`TableBuilder::finish`] makes the
/// file's *bytes* durable; its directory entry is the caller's (pitfall 37).
pub struct TableBuilder {
    file: Arc<dyn File>,
    options: BuildOptions,
    /// Bytes not yet written; the first of them belongs at `written`.
    out: Vec<u8>,
    written: u64,
    data: BlockWriter,
    scratch: Vec<u8>,
    index: BlockWriter,
    index_out: Vec<u8>,
    unindexed: Option<Unindexed>,
    last_key: Vec<u8>,
    last_trailer: u64,
    hashes: Vec<u64>,
    properties: Properties,
    poisoned: bool,
}

impl TableBuilder {
    /// A builder that writes into `file`, which is empty.
    ///
    /// # Panics
    /// When an option is out of its bounds.
    #[must_use]
    pub fn new(file: Arc<dyn File>, options: BuildOptions) -> Self {
        let BuildOptions { block_bytes, restart_interval, .. } = options;
        assert!(BLOCK_BYTES_RANGE.contains(&block_bytes), "block_bytes {block_bytes}");
        assert!(restart_interval > 0, "restart_interval 0");
        let properties = Properties {
            block_bytes: block_bytes as u64,
            restart_interval: restart_interval as u64,
            smallest_seq: u64::MAX,
            ..Properties::default()
        };
        Self {
            file,
            data: BlockWriter::new(BlockType::Data, restart_interval),
            // Every index entry is a restart point, so that the whole search is binary.
            index: BlockWriter::new(BlockType::Index, 1),
            options,
            out: format::file_header().to_vec(),
            written: 0,
            scratch: Vec::new(),
            index_out: Vec::new(),
            unindexed: None,
            last_key: Vec::new(),
            last_trailer: 0,
            hashes: Vec::new(),
            properties,
            poisoned: false,
        }
    }

    /// Entries so far.
    #[must_use]
    pub const fn entries(&self) -> u64 {
        self.properties.entries
    }

    /// The length of the file if no more data came, without filter, index, properties, and footer.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.written + self.out.len() as u64
    }

    /// Adds an entry; keys strictly increase in the order of [`internal_key::compare`].
    ///
    /// # Panics
    /// When a tombstone has a value.
    pub fn add(&mut self, user_key: &[u8], trailer: u64, value: &[u8]) -> Result<(), TableError> {
        let kind = self.check(user_key, trailer, value)?;
        assert!(kind == ValueKind::Put || value.is_empty(), "a tombstone has no value");
        let worst = BlockWriter::entry_bytes_max(user_key, value);
        if !self.data.is_empty()
            && self.data.payload_bytes(&self.out) + worst > self.options.block_bytes
        {
            self.end_data_block()?;
        }
        if let Some(block) = self.unindexed.take() {
            self.add_to_index(&block, Some(user_key));
        }
        let first = self.properties.entries == 0;
        if first || user_key != self.last_key {
            self.hashes.push(key_hash(user_key));
            self.properties.user_keys += 1;
        }
        if first {
            self.properties.smallest_key = user_key.to_vec();
            self.properties.smallest_trailer = trailer;
        }
        self.data.add(&mut self.out, &self.last_key, user_key, trailer, value);
        self.last_key.clear();
        self.last_key.extend_from_slice(user_key);
        self.last_trailer = trailer;
        self.count(user_key, trailer, kind, value);
        Ok(())
    }

    /// Refuses what must not be in a table.
    fn check(
        &mut self,
        user_key: &[u8],
        trailer: u64,
        value: &[u8],
    ) -> Result<ValueKind, TableError> {
        let (path, entry) = (|| self.file.path().to_path_buf(), self.properties.entries);
        if self.poisoned {
            return Err(TableError::Poisoned { path: path() });
        }
        let (key_len, value_len) = (user_key.len(), value.len());
        let error = if key_len > MAX_KEY_BYTES || value_len > MAX_VALUE_BYTES {
            TableError::EntryTooLarge { path: path(), entry, key_len, value_len }
        } else if let Some((_, kind)) = internal_key::unpack_trailer(trailer) {
            let last = (&self.last_key[..], self.last_trailer);
            if entry == 0 || internal_key::compare(last, (user_key, trailer)) == Ordering::Less {
                return Ok(kind);
            }
            TableError::OutOfOrder {
                path: path(),
                entry,
                key: user_key.to_vec(),
                trailer,
                previous_key: self.last_key.clone(),
                previous_trailer: self.last_trailer,
            }
        } else {
            TableError::UnknownKind { path: path(), entry, trailer }
        };
        self.poisoned = true;
        Err(error)
    }

    fn count(&mut self, user_key: &[u8], trailer: u64, kind: ValueKind, value: &[u8]) {
        let properties = &mut self.properties;
        properties.entries += 1;
        match kind {
            ValueKind::Put => properties.puts += 1,
            ValueKind::Delete => properties.deletes += 1,
        }
        properties.raw_key_bytes += user_key.len() as u64;
        properties.raw_value_bytes += value.len() as u64;
        let seq = trailer >> 8;
        properties.smallest_seq = properties.smallest_seq.min(seq);
        properties.largest_seq = properties.largest_seq.max(seq);
    }

    fn end_data_block(&mut self) -> Result<(), TableError> {
        let handle = self.data.finish(
            &mut self.out,
            self.written,
            self.options.compression,
            &mut self.scratch,
        );
        self.unindexed = Some(Unindexed { handle, last_trailer: self.last_trailer });
        self.properties.data_blocks += 1;
        self.properties.data_bytes += handle.len + BLOCK_HEADER_BYTES as u64;
        if self.out.len() >= WRITE_CHUNK_BYTES { self.write_out() } else { Ok(()) }
    }

    /// Adds a finished block to the index under a separator: at or after its last key, before the next block's
    /// first. Between different user keys that is the shortest prefix of the *next* key that is above the last one,
    /// before all of its versions; otherwise (or at the end) the last key itself.
    fn add_to_index(&mut self, block: &Unindexed, next_key: Option<&[u8]>) {
        let last = &self.last_key[..];
        let (separator, trailer) = match next_key {
            Some(next) if next != last => (&next[..=common_prefix(last, next)], SEPARATOR_TRAILER),
            _ => (last, block.last_trailer),
        };
        let mut handle = Vec::with_capacity(12);
        block.handle.encode(&mut handle);
        self.index.add(&mut self.index_out, &[], separator, trailer, &handle);
    }

    fn write_out(&mut self) -> Result<(), TableError> {
        if let Err(error) = self.file.write_at(self.written, &self.out) {
            self.poisoned = true;
            return Err(error.into());
        }
        self.written += self.out.len() as u64;
        self.out.clear();
        Ok(())
    }

    /// Appends a block with this payload behind what is there.
    fn append_block(&mut self, block_type: BlockType, payload: &[u8]) -> BlockHandle {
        let offset = self.data_bytes();
        let start = self.out.len();
        self.out.resize(start + BLOCK_HEADER_BYTES, 0);
        self.out.extend_from_slice(payload);
        format::seal_block(&mut self.out[start..], block_type, COMPRESSION_NONE, offset);
        BlockHandle { offset, len: payload.len() as u64 }
    }

    /// Writes what is left, and syncs the file.
    pub fn finish(mut self) -> Result<TableSummary, TableError> {
        let path = || self.file.path().to_path_buf();
        if self.poisoned {
            return Err(TableError::Poisoned { path: path() });
        }
        if self.properties.entries == 0 {
            return Err(TableError::Empty { path: path() });
        }
        self.end_data_block()?;
        if let Some(block) = self.unindexed.take() {
            self.add_to_index(&block, None);
        }
        let filter_payload = self.options.filter.build(&self.hashes);
        self.hashes = Vec::new();
        let filter_id = self.options.filter.id();
        let filter = if filter_id == 0 {
            BlockHandle::default()
        } else {
            self.append_block(BlockType::Filter, &filter_payload)
        };
        let mut index_out = std::mem::take(&mut self.index_out);
        let at = self.data_bytes();
        let index = self.index.finish(&mut index_out, at, Compression::None, &mut self.scratch);
        self.out.append(&mut index_out);
        self.properties.largest_key = self.last_key.clone();
        self.properties.largest_trailer = self.last_trailer;
        let mut payload = Vec::new();
        self.properties.encode(&mut payload);
        let properties = self.append_block(BlockType::Properties, &payload);
        let compression_id = self.options.compression as u8;
        let footer = Footer { index, filter, properties, filter_id, compression_id };
        self.out.extend_from_slice(&footer.encode(self.data_bytes()));
        self.write_out()?;
        if !planted!(TableNotSynced) {
            self.file.sync_data()?;
        }
        Ok(TableSummary { bytes: self.written, properties: self.properties })
    }
}
