//! Opens a table and reads from it.
//!
//! Index, filter, and properties are read once, checked, and held in memory; data blocks are taken from the block cache, or
//! read when they are needed, by positional reads, so that one [`Table`] serves many threads.

use super::block::{Block, Cursor};
use super::cache::{BlockCache, Charge, Fetch};
use super::error::{Fault, TableError};
use super::filter::{self, FilterReader, Probe};
use super::format::{
    BLOCK_HEADER_BYTES, BlockHandle, BlockType, Compression, FILE_HEADER_BYTES, FOOTER_BYTES,
    FORMAT_VERSION, Footer, FooterError, MAGIC, MIN_FILE_BYTES, Properties, file_header,
};
use super::index::Index;
use super::iter::TableIter;
use super::verify;
use crate::base::SequenceNumber;
use crate::base::internal_key::{self, ValueKind};
use crate::env::File;
use bytes::Bytes;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Called with the user key, trailer, and value of an entry.
pub type EntryVisitor<'a> = dyn FnMut(&[u8], u64, &[u8]) + 'a;

/// An open table. Immutable; share it by `Arc`.
pub struct Table {
    file: Arc<dyn File>,
    number: u64,
    bytes: u64,
    footer: Footer,
    pub(super) index: Index,
    filter: Option<Box<dyn FilterReader>>,
    properties: Properties,
    cache: Option<Arc<BlockCache>>,
    /// What it costs to be open counts against the cache for as long as it is.
    _charge: Option<Charge>,
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("number", &self.number).field("file", &self.file).finish()
    }
}

impl Table {
    /// Opens the table in `file`. `number` is the engine's name for it; it is not in the file.
    ///
    /// Reads and checks everything but the data blocks. Memory: the index and the filter, about 2 % of the file.
    pub fn open(file: Arc<dyn File>, number: u64) -> Result<Self, TableError> {
        Self::open_with(file, number, None)
    }

    /// The same, with a cache for its data blocks, which no other table may use under this number.
    pub fn open_with(
        file: Arc<dyn File>,
        number: u64,
        cache: Option<Arc<BlockCache>>,
    ) -> Result<Self, TableError> {
        let bytes = file.len()?;
        let footer = read_footer(&*file, bytes)?;
        let fault = |fault: Fault| fault.in_file(file.path());
        let payload_at = |handle: BlockHandle| handle.offset + BLOCK_HEADER_BYTES as u64;

        let payload = read_block(&*file, BlockType::Properties, footer.properties)?;
        let properties =
            Properties::decode(&payload, payload_at(footer.properties)).map_err(fault)?;
        let payload = read_block(&*file, BlockType::Index, footer.index)?;
        let block =
            Block::new(payload, payload_at(footer.index), BlockType::Index).map_err(fault)?;
        if block.restarts() as u64 != properties.data_blocks {
            let expected = format!("{} entries as the properties say", properties.data_blocks);
            let found = format!("{}", block.restarts());
            return Err(fault(block.fault(block.entries_end(), &expected, found)));
        }
        let index = Index::new(block, footer.data_end()).map_err(fault)?;
        let payload = match footer.filter_id {
            0 => Bytes::new(),
            _ => read_block(&*file, BlockType::Filter, footer.filter)?,
        };
        let filter = match filter::open(footer.filter_id, payload, payload_at(footer.filter)) {
            Some(opened) => opened.map_err(fault)?,
            None => {
                return Err(TableError::Unsupported {
                    path: file.path().to_path_buf(),
                    offset: bytes - FOOTER_BYTES as u64 + 49,
                    what: "filter",
                    found: footer.filter_id,
                    supported: "0 (none) and 1 (bloom)",
                });
            }
        };
        let mut table =
            Self { file, number, bytes, footer, index, filter, properties, cache, _charge: None };
        let memory = table.memory_bytes() as u64;
        table._charge = table.cache.as_ref().map(|cache| cache.charge(memory));
        Ok(table)
    }

    /// Bytes of memory that it holds while it is open: index, filter, properties.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let filter = self.filter.as_ref().map_or(0, |filter| filter.memory_bytes());
        let keys = self.properties.smallest_key.len() + self.properties.largest_key.len();
        self.index.memory_bytes() + filter + keys + size_of::<Self>()
    }

    /// How its data blocks are stored.
    #[must_use]
    pub fn compression(&self) -> Compression {
        // `read_footer` let no other through.
        Compression::from_u8(self.footer.compression_id).unwrap_or_default()
    }

    /// The engine's name for the table.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// The length of the file.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What the table says about itself.
    #[must_use]
    pub const fn properties(&self) -> &Properties {
        &self.properties
    }

    /// Where its parts are.
    #[must_use]
    pub const fn footer(&self) -> &Footer {
        &self.footer
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &Arc<dyn File> {
        &self.file
    }

    /// The filter, if it has one.
    #[must_use]
    pub fn filter(&self) -> Option<&dyn FilterReader> {
        self.filter.as_deref()
    }

    /// Data blocks.
    #[must_use]
    pub const fn data_blocks(&self) -> usize {
        self.index.len()
    }

    /// `false`: no version of this key is here. Memory only.
    #[must_use]
    pub fn may_contain(&self, key: &Probe) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.may_contain(key))
    }

    /// The newest version of `user_key` at or below `seq`, tombstones included. `probe` is made of that key, once for a
    /// lookup in many tables. Reads at most one block; a value above 1 KiB shares the block's memory.
    ///
    /// # Errors
    /// With [`Fetch::MemoryOnly`] also [`TableError::NotInMemory`], when a block would have to be read.
    pub fn get(
        &self,
        user_key: &[u8],
        seq: SequenceNumber,
        probe: &Probe,
        fetch: Fetch,
    ) -> Result<Option<(SequenceNumber, ValueKind, Bytes)>, TableError> {
        if !self.may_contain(probe) {
            return Ok(None);
        }
        // No entry has a trailer at or above SEPARATOR_TRAILER; staying below it means that a key equal to a
        // separator is looked for behind it, where it is, and that a miss in the one block is a miss.
        let trailer = internal_key::seek_trailer(seq).min(u64::MAX - 1);
        let i = self.index.before(user_key, trailer);
        if i == self.index.len() {
            return Ok(None);
        }
        let look = |block: &Block| {
            let Some((trailer, value)) = block.find(user_key, trailer)? else { return Ok(None) };
            match internal_key::unpack_trailer(trailer) {
                Some((seq, kind)) => Ok(Some((seq, kind, block.value(value)))),
                None => Err(unknown_kind(block, &value, trailer)),
            }
        };
        let handle = self.index.handle(i);
        let cached =
            self.cache.as_ref().and_then(|c| c.with(self.number, handle.offset, fetch, look));
        let found = match cached {
            Some(found) => found,
            None if fetch == Fetch::MemoryOnly => return Err(TableError::NotInMemory),
            None => look(&self.read_data_block(handle, fetch)?),
        };
        found.map_err(|fault| fault.in_file(self.file.path()))
    }

    /// An iterator over all versions, nowhere until it is told to seek.
    #[must_use]
    pub fn iter(self: &Arc<Self>) -> TableIter {
        self.iter_with(Fetch::Scan)
    }

    /// The same, with another way to treat disk and cache.
    #[must_use]
    pub fn iter_with(self: &Arc<Self>, fetch: Fetch) -> TableIter {
        TableIter::new(Arc::clone(self), fetch)
    }

    /// Reads every block from the disk, whatever the cache has, and checks everything the file claims: checksums, order, separators, counts, filter.
    pub fn verify(&self) -> Result<(), TableError> {
        verify::verify(self)
    }

    /// The separator of data block `i`, which exists (at or after its last key, before the next block's first), and its
    /// handle, which lies in the data area.
    ///
    /// # Panics
    /// When there is no such block.
    #[must_use]
    pub fn index_entry(&self, i: usize) -> (&[u8], u64, BlockHandle) {
        let (key, trailer) = self.index.separator(i);
        (key, trailer, self.index.handle(i))
    }

    /// Shows the entries of data block `i` (user key, trailer, value) in order. For dumps of tables of which some
    /// blocks are damaged; readers use [`Self::iter`].
    pub fn for_each_in_block(
        &self,
        i: usize,
        visit: &mut EntryVisitor<'_>,
    ) -> Result<(), TableError> {
        let fault = |fault: Fault| fault.in_file(self.file.path());
        let mut cursor = Cursor::new(self.fetch_data_block(self.index.handle(i), Fetch::Once)?);
        while cursor.advance().map_err(fault)? {
            let (key, trailer) = cursor.key();
            visit(key, trailer, cursor.value());
        }
        Ok(())
    }

    /// The one place where data blocks are fetched: from the cache, or from the disk and then into the cache.
    #[inline]
    pub(super) fn fetch_data_block(
        &self,
        handle: BlockHandle,
        fetch: Fetch,
    ) -> Result<Block, TableError> {
        let cached = self.cache.as_ref().and_then(|c| c.get(self.number, handle.offset, fetch));
        match cached {
            Some(block) => Ok(block),
            None if fetch == Fetch::MemoryOnly => Err(TableError::NotInMemory),
            None => self.read_data_block(handle, fetch),
        }
    }

    /// Reads a data block from the disk, whatever the cache has.
    #[cold]
    pub(super) fn read_data_block(
        &self,
        handle: BlockHandle,
        fetch: Fetch,
    ) -> Result<Block, TableError> {
        let in_file = |fault: Fault| fault.in_file(self.file.path());
        let (mut payload, stored) = read_stored(&*self.file, BlockType::Data, handle)?;
        if stored != Compression::None {
            if self.compression() != stored {
                let (what, expected) = (BlockType::Data.name(), "compression 0, as in the footer");
                let fault = Fault::new(handle.offset + 5, what, expected, stored.name());
                return Err(in_file(fault));
            }
            payload = super::format::decompress(&payload, handle.offset).map_err(in_file)?.into();
        }
        let offset = handle.offset + BLOCK_HEADER_BYTES as u64;
        let block = Block::new(payload, offset, BlockType::Data).map_err(in_file)?;
        if let Some(cache) = &self.cache {
            cache.insert(self.number, handle.offset, &block, fetch);
        }
        Ok(block)
    }
}

/// The fault of an entry whose kind byte means nothing.
pub(super) fn unknown_kind(block: &Block, value: &Range<usize>, trailer: u64) -> Fault {
    let at = value.start.saturating_sub(1);
    block.fault(at, "a kind of 1 (put) or 2 (delete)", format!("{}", trailer & 0xff))
}

/// Reads and checks the file header and the footer of a file of `bytes` bytes.
pub(super) fn read_footer(file: &dyn File, bytes: u64) -> Result<Footer, TableError> {
    let path = || file.path().to_path_buf();
    let mut header = [0; FILE_HEADER_BYTES];
    let got = file.read_at(0, &mut header)?;
    let mut tail = [0; FOOTER_BYTES];
    if bytes >= FOOTER_BYTES as u64 {
        file.read_exact_at(bytes - FOOTER_BYTES as u64, &mut tail)?;
    }
    if header[..8] != MAGIC && tail[56..] != MAGIC {
        let found = if got == 0 {
            "an empty file".to_owned()
        } else {
            format!("\"{}\"", header[..got.min(8)].escape_ascii())
        };
        return Err(TableError::NotATable { path: path(), found });
    }
    let version = |offset, found| TableError::Unsupported {
        path: path(),
        offset,
        what: "format version",
        found,
        supported: "version 1",
    };
    if header[..8] == MAGIC && got > 8 && header[8] != FORMAT_VERSION {
        return Err(version(8, header[8]));
    }
    let fault = |fault: Fault| Err(fault.in_file(file.path()));
    if header != file_header() {
        let found = format!("\"{}\"", header[..got].escape_ascii());
        let expected = format!("\"{}\"", file_header().escape_ascii());
        return fault(Fault::new(0, "file header", expected, found));
    }
    if bytes < MIN_FILE_BYTES {
        let expected = format!("at least {MIN_FILE_BYTES} bytes");
        return fault(Fault::new(bytes, "file", expected, "its end"));
    }
    let offset = bytes - FOOTER_BYTES as u64;
    let footer = match Footer::decode(&tail, offset) {
        Ok(footer) => footer,
        Err(FooterError::Version(found)) => return Err(version(offset + 48, found)),
        Err(FooterError::Fault(found)) => return fault(found),
    };
    if Compression::from_u8(footer.compression_id).is_none() {
        return Err(TableError::Unsupported {
            path: path(),
            offset: offset + 50,
            what: "compression",
            found: footer.compression_id,
            supported: "0 (none) and 1 (lz4)",
        });
    }
    Ok(footer)
}

/// Reads and checks one block that is never compressed, whose handle lies inside the file, and returns its payload.
pub(super) fn read_block(
    file: &dyn File,
    block_type: BlockType,
    handle: BlockHandle,
) -> Result<Bytes, TableError> {
    read_stored(file, block_type, handle).map(|(payload, _)| payload)
}

/// Reads and checks one block whose handle lies inside the file, and returns its payload as it is stored.
fn read_stored(
    file: &dyn File,
    block_type: BlockType,
    handle: BlockHandle,
) -> Result<(Bytes, Compression), TableError> {
    let mut block = vec![0; handle.len as usize + BLOCK_HEADER_BYTES];
    file.read_exact_at(handle.offset, &mut block)?;
    let compression = super::format::check_block(&block, block_type, handle)
        .map_err(|fault| fault.in_file(file.path()))?;
    Ok((Bytes::from(block).slice(BLOCK_HEADER_BYTES..), compression))
}
