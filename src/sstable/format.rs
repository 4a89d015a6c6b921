//! The constants and fixed parts of a table file, shared by builder and reader (`proto-spec/sstable.md`).
//!
//! ```text
//! FILE HEADER (16)                        BLOCK HEADER (12)
//! 0  8  magic "BEACHSST"                  0  4  CRC32C: the block's offset as 8 bytes,
//! 8  1  format version, 1                       then bytes 4.. of this header, then the payload
//! 9  7  reserved, 0                       4  1  type: 1 data, 2 filter, 3 index, 4 properties
//!                                         5  1  compression: 0 none, 1 lz4 (data blocks)
//! FOOTER (64)                             6  2  reserved, 0
//! 0   8  index block: offset              8  4  payload length
//! 8   8  index block: payload length
//! 16  8  filter block: offset (0: none)   A block is named by its handle: the offset of its header
//! 24  8  filter block: payload length     and the length of its payload.
//! 32  8  properties block: offset
//! 40  8  properties block: payload length
//! 48  1  format version, 1
//! 49  1  filter id: 0 none, 1 bloom
//! 50  1  compression id: 0 none, 1 lz4
//! 51  1  reserved, 0
//! 52  4  CRC32C: the footer's offset as 8 bytes, then bytes 0..52 and 56..64
//! 56  8  magic "BEACHSST"
//! ```
//!
//! All integers are big-endian. A checksum that begins with the offset of what it sums rejects a block that is
//! intact but at the wrong place, and a footer of a file that lost or gained bytes.

use super::error::Fault;
use crate::base::{checksum, varint};
use crate::limits::{MAX_KEY_BYTES, MAX_VALUE_BYTES};
use byteorder::{BigEndian, ByteOrder};
use std::collections::BTreeMap;

/// First and last bytes of every table.
pub const MAGIC: [u8; 8] = *b"BEACHSST";
/// The format version this code writes and reads.
pub const FORMAT_VERSION: u8 = 1;
/// Bytes before the first block.
pub const FILE_HEADER_BYTES: usize = 16;
/// Bytes before a block's payload.
pub const BLOCK_HEADER_BYTES: usize = 12;
/// Bytes at the end of the file.
pub const FOOTER_BYTES: usize = 64;
/// The smallest length a table can have, for a quick answer about short files.
pub const MIN_FILE_BYTES: u64 = (FILE_HEADER_BYTES + FOOTER_BYTES + 3 * BLOCK_HEADER_BYTES) as u64;
/// The compression id of blocks stored as they are.
pub const COMPRESSION_NONE: u8 = 0;
/// The compression id of LZ4 blocks: the length before compression (4 bytes), then what LZ4 made of the payload.
pub const COMPRESSION_LZ4: u8 = 1;
/// Longest payload of a data block before compression: one entry with the longest key and value, and what is around it.
/// A stored length above it is damage, and nothing is allocated for it.
pub const MAX_DATA_BYTES: usize = {
    let single = MAX_KEY_BYTES + MAX_VALUE_BYTES + 64;
    if single > 1 << 20 { single } else { 1 << 20 }
};
/// The trailer of an index separator that lies strictly between two user keys: it sorts before every version.
pub const SEPARATOR_TRAILER: u64 = u64::MAX;

/// How the data blocks of a table are stored. Readers need no setting: footer and block headers say it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Compression {
    /// As they are.
    #[default]
    None = COMPRESSION_NONE,
    /// LZ4, where it saves at least an eighth; the other blocks as they are.
    Lz4 = COMPRESSION_LZ4,
}

impl Compression {
    /// The compression with this id, `None` for one that this version does not know.
    #[must_use]
    pub const fn from_u8(id: u8) -> Option<Self> {
        match id {
            COMPRESSION_NONE => Some(Self::None),
            COMPRESSION_LZ4 => Some(Self::Lz4),
            _ => None,
        }
    }

    /// Its name, as in settings and dumps.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Lz4 => "lz4",
        }
    }
}

impl std::fmt::Display for Compression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Compression {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::None, Self::Lz4]
            .into_iter()
            .find(|compression| compression.name() == text)
            .ok_or_else(|| format!("{text:?} is no compression: none or lz4"))
    }
}

/// What a block holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum BlockType {
    /// Entries.
    Data = 1,
    /// The filter.
    Filter = 2,
    /// Separators and handles of the data blocks.
    Index = 3,
    /// Names and values.
    Properties = 4,
}

impl BlockType {
    /// The type for a byte, `None` for one this version does not know.
    #[must_use]
    pub const fn from_u8(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Data),
            2 => Some(Self::Filter),
            3 => Some(Self::Index),
            4 => Some(Self::Properties),
            _ => None,
        }
    }

    /// A name for error messages and dumps.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Data => "data block",
            Self::Filter => "filter block",
            Self::Index => "index block",
            Self::Properties => "properties block",
        }
    }
}

/// Where a block is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct BlockHandle {
    /// Offset of its header in the file.
    pub offset: u64,
    /// Length of its payload.
    pub len: u64,
}

impl BlockHandle {
    /// The offset just behind the block; `None` when it overflows.
    #[must_use]
    pub fn end(self) -> Option<u64> {
        self.offset.checked_add(self.len)?.checked_add(BLOCK_HEADER_BYTES as u64)
    }

    /// Appends the handle as two varints, the value of an index entry.
    pub fn encode(self, out: &mut Vec<u8>) {
        varint::put_u64(out, self.offset);
        varint::put_u64(out, self.len);
    }

    /// Reads a handle that takes exactly all of `bytes`.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (offset, n) = varint::get_u64(bytes)?;
        let (len, m) = varint::get_u64(bytes.get(n..)?)?;
        (n + m == bytes.len()).then_some(Self { offset, len })
    }
}

/// The file header.
#[must_use]
pub fn file_header() -> [u8; FILE_HEADER_BYTES] {
    let mut header = [0; FILE_HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8] = FORMAT_VERSION;
    header
}

/// The checksum of a block at `offset`: its header without the CRC field, then its payload.
fn block_crc(offset: u64, header_rest: &[u8], payload: &[u8]) -> u32 {
    checksum::extend(checksum::extend(checksum::seeded(offset), header_rest), payload)
}

/// Compresses the payload behind the header in `block` (from `start` on in `out`) when that saves at least an eighth of it.
/// `scratch` is a buffer to reuse.
pub(super) fn compress_block(out: &mut Vec<u8>, start: usize, scratch: &mut Vec<u8>) -> u8 {
    let payload = &out[start + BLOCK_HEADER_BYTES..];
    let room = lz4_flex::block::get_maximum_output_size(payload.len());
    scratch.resize(room.max(scratch.len()), 0);
    let Ok(len) = lz4_flex::block::compress_into(payload, scratch) else { return COMPRESSION_NONE };
    if len + 4 > payload.len() - payload.len() / 8 {
        return COMPRESSION_NONE;
    }
    let raw_len = u32::try_from(payload.len()).expect("a block is shorter than 4 GiB");
    out.truncate(start + BLOCK_HEADER_BYTES);
    out.extend_from_slice(&raw_len.to_be_bytes());
    out.extend_from_slice(&scratch[..len]);
    COMPRESSION_LZ4
}

/// The payload that `compress_block` made `stored` of, from the block at `offset`. Allocates no more than
/// [`MAX_DATA_BYTES`], and no more than so many bytes can become.
pub fn decompress(stored: &[u8], offset: u64) -> Result<Vec<u8>, Fault> {
    let what = BlockType::Data.name();
    let at = offset + BLOCK_HEADER_BYTES as u64;
    let Some((raw_len, packed)) = stored.split_first_chunk::<4>() else {
        return Err(Fault::new(at, what, "a length of 4 bytes", format!("{}", stored.len())));
    };
    let raw_len = u32::from_be_bytes(*raw_len) as usize;
    // A byte of LZ4 stands for at most 255.
    let most = MAX_DATA_BYTES.min(packed.len().saturating_mul(255));
    if raw_len > most {
        let expected = format!("at most {most} bytes before compression");
        return Err(Fault::new(at, what, expected, raw_len.to_string()));
    }
    let mut payload = vec![0; raw_len];
    let expected = || format!("{raw_len} bytes in LZ4");
    match lz4_flex::block::decompress_into(packed, &mut payload) {
        Ok(len) if len == raw_len => Ok(payload),
        Ok(len) => Err(Fault::new(at + 4, what, expected(), format!("{len} bytes"))),
        Err(error) => Err(Fault::new(at + 4, what, expected(), error.to_string())),
    }
}

/// Fills the header in the first bytes of `block`, whose payload is complete, for its place at `offset`.
///
/// # Panics
/// When the payload is 4 GiB or larger.
pub fn seal_block(block: &mut [u8], block_type: BlockType, compression: u8, offset: u64) {
    let (header, payload) = block.split_at_mut(BLOCK_HEADER_BYTES);
    let len = u32::try_from(payload.len()).expect("a block is shorter than 4 GiB");
    header[4] = block_type as u8;
    header[5] = compression;
    BigEndian::write_u16(&mut header[6..8], 0);
    BigEndian::write_u32(&mut header[8..12], len);
    let crc = block_crc(offset, &header[4..], payload);
    BigEndian::write_u32(&mut header[..4], crc);
}

/// A block header as it is in the file, not yet believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockHeader {
    /// The stored checksum.
    pub crc: u32,
    /// The stored type byte.
    pub block_type: u8,
    /// The stored compression byte.
    pub compression: u8,
    /// The stored payload length.
    pub len: u32,
}

impl BlockHeader {
    /// Reads the fields.
    #[must_use]
    pub fn decode(bytes: &[u8; BLOCK_HEADER_BYTES]) -> Self {
        Self {
            crc: BigEndian::read_u32(&bytes[..4]),
            block_type: bytes[4],
            compression: bytes[5],
            len: BigEndian::read_u32(&bytes[8..12]),
        }
    }
}

/// Checks a whole block (header and payload) that was read from `handle`, and returns how its payload is stored: only data
/// blocks may be compressed.
pub fn check_block(
    block: &[u8],
    block_type: BlockType,
    handle: BlockHandle,
) -> Result<Compression, Fault> {
    let what = block_type.name();
    let fault = |at: u64, expected: String, found: String| {
        Err(Fault::new(handle.offset + at, what, expected, found))
    };
    let Some((header_bytes, payload)) = block.split_first_chunk::<BLOCK_HEADER_BYTES>() else {
        return fault(0, format!("{BLOCK_HEADER_BYTES} bytes"), format!("{}", block.len()));
    };
    let header = BlockHeader::decode(header_bytes);
    if u64::from(header.len) != handle.len || payload.len() as u64 != handle.len {
        return fault(8, format!("length {}", handle.len), format!("length {}", header.len));
    }
    let crc = block_crc(handle.offset, &header_bytes[4..], payload);
    if crc != header.crc {
        let (expected, found) =
            (format!("checksum {:08x}", header.crc), format!("{crc:08x} computed"));
        return fault(0, expected, found);
    }
    if header.block_type != block_type as u8 {
        let found = format!("type {}", header.block_type);
        return fault(4, format!("type {}", block_type as u8), found);
    }
    let compression = match Compression::from_u8(header.compression) {
        Some(Compression::Lz4) if block_type != BlockType::Data => None,
        other => other,
    };
    let Some(compression) = compression else {
        let found = format!("compression {}", header.compression);
        let data = if block_type == BlockType::Data { " or 1" } else { "" };
        return fault(5, format!("compression 0{data}"), found);
    };
    if header_bytes[6..8] != [0, 0] {
        return fault(6, "reserved bytes 0000".into(), format!("{:02x?}", &header_bytes[6..8]));
    }
    Ok(compression)
}

/// The footer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Footer {
    /// The index block.
    pub index: BlockHandle,
    /// The filter block; all zero when there is none.
    pub filter: BlockHandle,
    /// The properties block.
    pub properties: BlockHandle,
    /// Which filter, see [`super::filter`].
    pub filter_id: u8,
    /// Which compression data blocks may use.
    pub compression_id: u8,
}

/// Why a footer was not accepted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FooterError {
    /// Damage.
    Fault(Fault),
    /// Intact, but of another format version.
    Version(u8),
}

impl Footer {
    /// The bytes of this footer at `offset`.
    #[must_use]
    pub fn encode(&self, offset: u64) -> [u8; FOOTER_BYTES] {
        let mut out = [0; FOOTER_BYTES];
        for (i, handle) in [self.index, self.filter, self.properties].into_iter().enumerate() {
            BigEndian::write_u64(&mut out[16 * i..], handle.offset);
            BigEndian::write_u64(&mut out[16 * i + 8..], handle.len);
        }
        out[48] = FORMAT_VERSION;
        out[49] = self.filter_id;
        out[50] = self.compression_id;
        out[56..].copy_from_slice(&MAGIC);
        let crc = Self::crc(&out, offset);
        BigEndian::write_u32(&mut out[52..56], crc);
        out
    }

    fn crc(bytes: &[u8; FOOTER_BYTES], offset: u64) -> u32 {
        checksum::extend(checksum::extend(checksum::seeded(offset), &bytes[..52]), &bytes[56..])
    }

    /// Reads the footer found at `offset`, the last [`FOOTER_BYTES`] of the file.
    pub fn decode(bytes: &[u8; FOOTER_BYTES], offset: u64) -> Result<Self, FooterError> {
        let fault = |at: u64, expected: String, found: String| {
            Err(FooterError::Fault(Fault::new(offset + at, "footer", expected, found)))
        };
        if bytes[56..] != MAGIC {
            let found = format!("\"{}\"", bytes[56..].escape_ascii());
            return fault(56, "magic \"BEACHSST\"".into(), found);
        }
        let (stored, crc) = (BigEndian::read_u32(&bytes[52..56]), Self::crc(bytes, offset));
        if stored != crc {
            return fault(52, format!("checksum {stored:08x}"), format!("{crc:08x} computed"));
        }
        if bytes[48] != FORMAT_VERSION {
            return Err(FooterError::Version(bytes[48]));
        }
        if bytes[51] != 0 {
            return fault(51, "reserved byte 00".into(), format!("{:02x}", bytes[51]));
        }
        let handle = |i: usize| BlockHandle {
            offset: BigEndian::read_u64(&bytes[16 * i..]),
            len: BigEndian::read_u64(&bytes[16 * i + 8..]),
        };
        let footer = Self {
            index: handle(0),
            filter: handle(1),
            properties: handle(2),
            filter_id: bytes[49],
            compression_id: bytes[50],
        };
        footer.check_handles(offset).map_err(FooterError::Fault)?;
        Ok(footer)
    }

    /// Filter, index, and properties lie one behind the other, and end where the footer begins.
    fn check_handles(&self, offset: u64) -> Result<(), Fault> {
        let has_filter = self.filter_id != 0;
        let order = [(0, self.index), (16, self.filter), (32, self.properties)];
        for (at, handle) in order {
            let none_wanted = at == 16 && !has_filter;
            let inside = handle.offset >= FILE_HEADER_BYTES as u64
                && handle.end().is_some_and(|end| end <= offset);
            if none_wanted && handle != BlockHandle::default() || !none_wanted && !inside {
                let expected = format!("a block between {FILE_HEADER_BYTES} and {offset}");
                let found = format!("offset {} length {}", handle.offset, handle.len);
                return Err(Fault::new(offset + at, "footer", expected, found));
            }
        }
        let chained = (!has_filter || self.filter.end() == Some(self.index.offset))
            && self.index.end() == Some(self.properties.offset)
            && self.properties.end() == Some(offset);
        if !chained {
            let expected = "filter, index, properties, footer one behind the other";
            let found = format!("{self:?}");
            return Err(Fault::new(offset, "footer", expected, found));
        }
        Ok(())
    }

    /// The offset at which the data blocks end.
    #[must_use]
    pub fn data_end(&self) -> u64 {
        if self.filter_id == 0 { self.index.offset } else { self.filter.offset }
    }
}

/// What the builder knows about a table, in its properties block.
///
/// ```text
/// 0  4  number of properties
/// 4  …  each: varint name length | name | varint value length | value; names strictly increasing
/// ```
///
/// A number is 8 bytes. Names that this version does not know are kept in [`Properties::unknown`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Properties {
    /// Entries: versions of keys, tombstones included.
    pub entries: u64,
    /// Entries that hold a value.
    pub puts: u64,
    /// Tombstones.
    pub deletes: u64,
    /// Distinct user keys.
    pub user_keys: u64,
    /// Bytes of user keys, before prefix compression, one per entry.
    pub raw_key_bytes: u64,
    /// Bytes of values.
    pub raw_value_bytes: u64,
    /// Data blocks.
    pub data_blocks: u64,
    /// Bytes of data blocks in the file, headers included.
    pub data_bytes: u64,
    /// The block size it was built for.
    pub block_bytes: u64,
    /// Entries between restart points.
    pub restart_interval: u64,
    /// The smallest sequence number.
    pub smallest_seq: u64,
    /// The largest sequence number.
    pub largest_seq: u64,
    /// The first user key.
    pub smallest_key: Vec<u8>,
    /// The trailer of the first entry.
    pub smallest_trailer: u64,
    /// The last user key.
    pub largest_key: Vec<u8>,
    /// The trailer of the last entry.
    pub largest_trailer: u64,
    /// Properties of a later version, in the order of their names.
    pub unknown: Vec<(String, Vec<u8>)>,
}

impl Properties {
    fn numbers(&mut self) -> [(&'static str, &mut u64); 14] {
        [
            ("block_bytes", &mut self.block_bytes),
            ("data_blocks", &mut self.data_blocks),
            ("data_bytes", &mut self.data_bytes),
            ("deletes", &mut self.deletes),
            ("entries", &mut self.entries),
            ("largest_seq", &mut self.largest_seq),
            ("largest_trailer", &mut self.largest_trailer),
            ("puts", &mut self.puts),
            ("raw_key_bytes", &mut self.raw_key_bytes),
            ("raw_value_bytes", &mut self.raw_value_bytes),
            ("restart_interval", &mut self.restart_interval),
            ("smallest_seq", &mut self.smallest_seq),
            ("smallest_trailer", &mut self.smallest_trailer),
            ("user_keys", &mut self.user_keys),
        ]
    }

    fn keys(&mut self) -> [(&'static str, &mut Vec<u8>); 2] {
        [("largest_key", &mut self.largest_key), ("smallest_key", &mut self.smallest_key)]
    }

    /// Appends the payload of the properties block.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut copy = self.clone();
        let mut pairs: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        for (name, value) in copy.numbers() {
            pairs.insert(name.into(), value.to_be_bytes().to_vec());
        }
        for (name, value) in copy.keys() {
            pairs.insert(name.into(), std::mem::take(value));
        }
        for (name, value) in copy.unknown {
            pairs.insert(name.into_bytes(), value);
        }
        out.extend_from_slice(&(pairs.len() as u32).to_be_bytes());
        for (name, value) in &pairs {
            varint::put_u64(out, name.len() as u64);
            out.extend_from_slice(name);
            varint::put_u64(out, value.len() as u64);
            out.extend_from_slice(value);
        }
    }

    /// Reads the payload of a properties block whose payload begins at `offset` in the file.
    pub fn decode(payload: &[u8], offset: u64) -> Result<Self, Fault> {
        let mut pairs = decode_pairs(payload, offset)?;
        let what = BlockType::Properties.name();
        let missing =
            |name: &str| Fault::new(offset, what, format!("property {name}"), "none of that name");
        let mut out = Self::default();
        for (name, slot) in out.numbers() {
            let (at, value) = pairs.remove(name).ok_or_else(|| missing(name))?;
            let Ok(bytes) = <[u8; 8]>::try_from(value) else {
                let expected = format!("8 bytes for {name}");
                return Err(Fault::new(at, what, expected, format!("{}", value.len())));
            };
            *slot = u64::from_be_bytes(bytes);
        }
        for (name, slot) in out.keys() {
            let (_, value) = pairs.remove(name).ok_or_else(|| missing(name))?;
            *slot = value.to_vec();
        }
        out.unknown = pairs.into_iter().map(|(n, (_, v))| (n.to_owned(), v.to_vec())).collect();
        out.check(offset)?;
        Ok(out)
    }

    /// The numbers fit together.
    fn check(&self, offset: u64) -> Result<(), Fault> {
        let claims = [
            ("entries above 0", self.entries > 0),
            ("entries = puts + deletes", self.puts.checked_add(self.deletes) == Some(self.entries)),
            ("user_keys between 1 and entries", (1..=self.entries).contains(&self.user_keys)),
            ("smallest_seq <= largest_seq", self.smallest_seq <= self.largest_seq),
            ("smallest_key <= largest_key", self.smallest_key <= self.largest_key),
        ];
        match claims.into_iter().find(|(_, holds)| !holds) {
            None => Ok(()),
            Some((claim, _)) => {
                Err(Fault::new(offset, BlockType::Properties.name(), claim, "the opposite"))
            }
        }
    }
}

type Pairs<'a> = BTreeMap<&'a str, (u64, &'a [u8])>;

/// The names and values of a properties payload, each value with its offset in the file.
fn decode_pairs(payload: &[u8], offset: u64) -> Result<Pairs<'_>, Fault> {
    let what = BlockType::Properties.name();
    let fault = |pos: usize, expected: &str, found: &str| {
        Fault::new(offset + pos as u64, what, expected, found)
    };
    let Some(count) = payload.first_chunk::<4>().map(|c| u32::from_be_bytes(*c)) else {
        return Err(fault(0, "a count of 4 bytes", "the end of the block"));
    };
    let mut pos = 4;
    let mut take = |expected: &'static str| -> Result<(usize, &[u8]), Fault> {
        let start = pos;
        let rest = payload.get(pos..).unwrap_or_default();
        let (len, n) = varint::get_u32(rest).ok_or_else(|| fault(start, expected, "no length"))?;
        let bytes = rest
            .get(n..)
            .and_then(|rest| rest.get(..len as usize))
            .ok_or_else(|| fault(start, expected, "the end of the block"))?;
        pos += n + bytes.len();
        Ok((start + n, bytes))
    };
    let mut pairs = Pairs::new();
    let mut previous: &[u8] = &[];
    for i in 0..count {
        let (at, name) = take("a property name")?;
        let Ok(text) = std::str::from_utf8(name) else {
            return Err(fault(at, "a property name in UTF-8", "other bytes"));
        };
        if i > 0 && name <= previous {
            return Err(fault(at, "names in increasing order", text));
        }
        previous = name;
        let (at, value) = take("a property value")?;
        pairs.insert(text, (offset + at as u64, value));
    }
    if pos != payload.len() {
        return Err(fault(pos, "the end of the block", "more bytes"));
    }
    Ok(pairs)
}
