//! The bytes of a segment: its header, and records. `proto-spec/wal.md` is their home.
//!
//! ```text
//! segment header, 64 bytes                          record header, 32 bytes
//!  0  magic "BEACHWAL" | "BEACHRLG" | "BEACHMAN"     0  crc32c u32      │ payload length u32
//!  8  crc32c u32      │ version u32                  8  marker "BREC"   │ kind u8 │ zero × 3
//! 16  segment id                                    16  index
//! 24  first index                                   24  aux
//! 32  continues: position in an older segment       32  payload, then zeros up to a multiple of 8
//! 40  born durable to: position in this segment
//! 48  recycled from: segment id, 0 = fresh file
//! 56  reserved, zero
//! ```
//!
//! Integers are big-endian. A record's checksum is seeded with its position and covers the header after the
//! checksum field and the payload.

use super::error::{ADVICE, RecordFault, WalError};
use crate::base::checksum;
use crate::limits::{MAX_FILE_NUMBER, MAX_RECORD_BYTES};
use byteorder::{BigEndian, ByteOrder};
use std::fmt;
use std::path::Path;

/// The format version in the segment header.
pub const VERSION: u32 = 1;
/// Bytes of the segment header; the first record follows it.
pub const SEGMENT_HEADER_BYTES: usize = 64;
/// Bytes of a record's header.
pub const RECORD_HEADER_BYTES: usize = 32;
/// The marker in every record header, by which records are found again behind damage.
pub(super) const MARKER: [u8; 4] = *b"BREC";
/// The second row of every group header.
pub(super) const GROUP_ROW: [u8; 8] = *b"BREC\x01\0\0\0";

/// What a log is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum LogKind {
    /// The embedded engine's write-ahead log.
    Wal,
    /// The daemon's Raft log.
    RaftLog,
    /// A manifest (one file, not a chain of segments).
    Manifest,
}

impl LogKind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Wal, Self::RaftLog, Self::Manifest];

    /// The first eight bytes of a file of this kind.
    #[must_use]
    pub const fn magic(self) -> &'static [u8; 8] {
        match self {
            Self::Wal => b"BEACHWAL",
            Self::RaftLog => b"BEACHRLG",
            Self::Manifest => b"BEACHMAN",
        }
    }

    /// The file extension.
    #[must_use]
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Wal => "wal",
            Self::RaftLog => "rlog",
            Self::Manifest => "manifest",
        }
    }

    /// The kind with this magic.
    #[must_use]
    pub fn from_magic(magic: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.magic() == magic)
    }

    /// The file name of segment `id`.
    #[must_use]
    pub fn file_name(self, id: u64) -> String {
        format!("{id:016x}.{}", self.extension())
    }

    /// The segment id in a file name of this kind.
    #[must_use]
    pub fn parse_file_name(self, name: &str) -> Option<u64> {
        let stem = name.strip_suffix(self.extension())?.strip_suffix('.')?;
        let canonical =
            stem.len() == 16 && !stem.bytes().any(|b| b.is_ascii_uppercase() || b == b'+');
        if canonical { u64::from_str_radix(stem, 16).ok() } else { None }
    }
}

/// A position in a log: a segment and an offset in it. Positions order by time of writing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct LogPos(pub u64);

impl LogPos {
    /// Before everything.
    pub const ZERO: Self = Self(0);

    /// The position at `offset` of `segment`. Both must fit 32 bits: 2^32 segments are 256 PiB written.
    #[must_use]
    pub fn new(segment: u64, offset: u64) -> Self {
        assert!(segment <= u64::from(u32::MAX), "segment id {segment} does not fit");
        assert!(offset <= u64::from(u32::MAX), "offset {offset} does not fit");
        Self(segment << 32 | offset)
    }
    /// The segment id.
    #[must_use]
    pub const fn segment(self) -> u64 {
        self.0 >> 32
    }
    /// The offset in the segment's file.
    #[must_use]
    pub const fn offset(self) -> u64 {
        self.0 & 0xffff_ffff
    }
}

impl fmt::Display for LogPos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seg {} @ {}", self.segment(), self.offset())
    }
}

/// What a record is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum RecordKind {
    /// Starts an append group. `aux` is the position up to which the log was durable when it was written.
    Group = 1,
    /// The owner's data at `index`. `aux` is the term in the Raft log, 0 in the WAL.
    Data = 2,
    /// Drops all data with an index >= `index` before it.
    Truncate = 3,
    /// The owner's state in slot `index`; the newest of a slot wins. Carried into every new segment.
    State = 4,
}

impl RecordKind {
    /// The kind with this byte.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Group),
            2 => Some(Self::Data),
            3 => Some(Self::Truncate),
            4 => Some(Self::State),
            _ => None,
        }
    }

    /// A name for dumps.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Group => "group",
            Self::Data => "data",
            Self::Truncate => "truncate",
            Self::State => "state",
        }
    }

    const fn max_payload(self) -> usize {
        match self {
            Self::Group | Self::Truncate => 0,
            Self::Data | Self::State => MAX_RECORD_BYTES,
        }
    }
}

/// A record, borrowed from a reader's buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    /// What it is.
    pub kind: RecordKind,
    /// The index (of data), the first dropped index (of a truncation), or the slot (of state).
    pub index: u64,
    /// See [`RecordKind`].
    pub aux: u64,
    /// The owner's bytes.
    pub payload: &'a [u8],
    /// Where its header starts.
    pub pos: LogPos,
}

/// Bytes that a record takes in the log.
#[must_use]
pub const fn record_bytes(payload: usize) -> usize {
    RECORD_HEADER_BYTES + payload.next_multiple_of(8)
}

/// Appends an unsealed record to `out`.
pub(super) fn put_record(
    out: &mut Vec<u8>,
    kind: RecordKind,
    index: u64,
    aux: u64,
    payload: &[u8],
) {
    assert!(
        payload.len() <= kind.max_payload(),
        "a {} record of {} bytes is over the limit",
        kind.name(),
        payload.len()
    );
    let mut header = [0u8; RECORD_HEADER_BYTES];
    BigEndian::write_u32(&mut header[4..8], payload.len() as u32);
    header[8..12].copy_from_slice(&MARKER);
    header[12] = kind as u8;
    BigEndian::write_u64(&mut header[16..24], index);
    BigEndian::write_u64(&mut header[24..32], aux);
    out.reserve(record_bytes(payload.len()));
    out.extend_from_slice(&header);
    out.extend_from_slice(payload);
    let padding = record_bytes(payload.len()) - RECORD_HEADER_BYTES - payload.len();
    out.extend_from_slice(&[0u8; 8][..padding]);
}

/// Seals the records in `bytes`, which will stand at `pos`: fills in their checksums.
pub(super) fn seal(bytes: &mut [u8], pos: LogPos) {
    let mut at = 0;
    while at < bytes.len() {
        let len = BigEndian::read_u32(&bytes[at + 4..at + 8]) as usize;
        let record = &mut bytes[at..at + RECORD_HEADER_BYTES + len];
        let crc = record_checksum(LogPos(pos.0 + at as u64), record);
        BigEndian::write_u32(&mut record[..4], crc);
        at += record_bytes(len);
    }
    assert_eq!(at, bytes.len(), "records fill the group");
}

/// Slot, aux, and payload of the state record at `at` in `group`, which this process made.
pub(super) fn state_at(group: &[u8], at: usize) -> (u64, u64, &[u8]) {
    let record = &group[at..];
    let len = BigEndian::read_u32(&record[4..8]) as usize;
    let (slot, aux) = (BigEndian::read_u64(&record[16..24]), BigEndian::read_u64(&record[24..32]));
    (slot, aux, &record[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + len])
}

/// Sets the watermark of the group header at the start of `bytes` (before sealing).
pub(super) fn set_watermark(bytes: &mut [u8], durable_to: LogPos) {
    assert_eq!(&bytes[8..16], &GROUP_ROW, "a group header is at the start of a group");
    BigEndian::write_u64(&mut bytes[24..32], durable_to.0);
}

fn record_checksum(pos: LogPos, record: &[u8]) -> u32 {
    checksum::extend(checksum::seeded(pos.0), &record[4..])
}

/// What a record header says before its checksum is known to hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawHeader {
    pub len: usize,
    pub kind: RecordKind,
}

/// Checks the fixed fields of a header and the limits of its length, so that the payload may be read.
pub(super) fn check_header(header: &[u8; RECORD_HEADER_BYTES]) -> Result<RawHeader, RecordFault> {
    if header[8..12] != MARKER {
        let zeros = header.iter().all(|&b| b == 0);
        let found = [header[8], header[9], header[10], header[11]];
        return Err(if zeros { RecordFault::Zeros } else { RecordFault::Marker { found } });
    }
    let kind = RecordKind::from_byte(header[12]).ok_or(RecordFault::Kind { found: header[12] })?;
    if header[13..16] != [0; 3] {
        return Err(RecordFault::Reserved);
    }
    let len = BigEndian::read_u32(&header[4..8]);
    if len as usize > kind.max_payload() {
        return Err(RecordFault::length(len, kind.max_payload()));
    }
    Ok(RawHeader { len: len as usize, kind })
}

/// Decodes the whole record in `bytes` (header, payload, padding; exactly [`record_bytes`] long) at `pos`.
pub(super) fn decode_record(
    bytes: &[u8],
    raw: RawHeader,
    pos: LogPos,
) -> Result<Record<'_>, RecordFault> {
    let (record, padding) = bytes.split_at(RECORD_HEADER_BYTES + raw.len);
    let expected = record_checksum(pos, record);
    let found = BigEndian::read_u32(&record[..4]);
    if expected != found {
        return Err(RecordFault::Checksum { expected, found });
    }
    if padding.iter().any(|&b| b != 0) {
        return Err(RecordFault::Reserved);
    }
    let record = Record {
        kind: raw.kind,
        index: BigEndian::read_u64(&record[16..24]),
        aux: BigEndian::read_u64(&record[24..32]),
        payload: &record[RECORD_HEADER_BYTES..],
        pos,
    };
    if record.kind == RecordKind::Group && record.aux > pos.0 {
        return Err(RecordFault::Watermark { found: LogPos(record.aux) });
    }
    Ok(record)
}

/// The header of a segment file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    /// What kind of log it belongs to.
    pub kind: LogKind,
    /// Its id, never used before in this log. A manifest's id is its file number.
    pub id: u64,
    /// The lowest index that data in it may have had when it was made: one past the data before it.
    pub first_index: u64,
    /// The position in an older segment where this one takes over: what is there and after it no longer counts,
    /// what is before it is durable. Zero for the first segment and for manifests.
    pub continues: LogPos,
    /// The offset up to which this file was written and synced before it got its name.
    pub born_durable_to: u64,
    /// The id that the file had in its life before, 0 for a fresh file. Bytes of that life may follow the log's end.
    pub recycled_from: u64,
}

impl SegmentHeader {
    /// The bytes of the header.
    #[must_use]
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut out = [0u8; SEGMENT_HEADER_BYTES];
        out[..8].copy_from_slice(self.kind.magic());
        BigEndian::write_u32(&mut out[12..16], VERSION);
        BigEndian::write_u64(&mut out[16..24], self.id);
        BigEndian::write_u64(&mut out[24..32], self.first_index);
        BigEndian::write_u64(&mut out[32..40], self.continues.0);
        BigEndian::write_u64(&mut out[40..48], LogPos::new(self.id, self.born_durable_to).0);
        BigEndian::write_u64(&mut out[48..56], self.recycled_from);
        let crc = header_checksum(&out);
        BigEndian::write_u32(&mut out[8..12], crc);
        out
    }

    /// Decodes the header of the file `path`; `kind` is the kind that is wanted, `None` for any.
    pub fn decode(bytes: &[u8], kind: Option<LogKind>, path: &Path) -> Result<Self, WalError> {
        let corrupt = |offset: u64, expected: String, found: String| WalError::Corrupt {
            path: path.to_path_buf(),
            offset,
            expected,
            found,
            advice: ADVICE,
        };
        if bytes.len() < SEGMENT_HEADER_BYTES {
            let expected = format!("a segment header of {SEGMENT_HEADER_BYTES} bytes");
            return Err(corrupt(
                0,
                expected,
                format!("the end of the file after {} bytes", bytes.len()),
            ));
        }
        let bytes = &bytes[..SEGMENT_HEADER_BYTES];
        let Some(found_kind) = LogKind::from_magic(&bytes[..8]) else {
            let found = format!("\"{}\"", bytes[..8].escape_ascii());
            let Some(kind) = kind else {
                let (path, expected) = (path.to_path_buf(), "log");
                return Err(WalError::WrongKind { path, expected, found });
            };
            let expected = format!("the magic \"{}\"", kind.magic().escape_ascii());
            return Err(corrupt(0, expected, found));
        };
        let crc = header_checksum(bytes);
        if crc != BigEndian::read_u32(&bytes[8..12]) {
            let found = format!("{:08x} in the header", BigEndian::read_u32(&bytes[8..12]));
            return Err(corrupt(8, format!("checksum {crc:08x}"), found));
        }
        if let Some(kind) = kind.filter(|&kind| kind != found_kind) {
            return Err(WalError::WrongKind {
                path: path.to_path_buf(),
                expected: kind.extension(),
                found: format!("a {} file", found_kind.extension()),
            });
        }
        let version = BigEndian::read_u32(&bytes[12..16]);
        if version != VERSION {
            return Err(WalError::NewerVersion {
                path: path.to_path_buf(),
                found: version,
                supported: VERSION,
            });
        }
        let id = BigEndian::read_u64(&bytes[16..24]);
        let born = LogPos(BigEndian::read_u64(&bytes[40..48]));
        let continues = LogPos(BigEndian::read_u64(&bytes[32..40]));
        let aligned = born.offset().is_multiple_of(8) && continues.offset().is_multiple_of(8);
        if id > MAX_FILE_NUMBER {
            let expected = format!("a segment id of at most {MAX_FILE_NUMBER:016x}");
            return Err(corrupt(16, expected, format!("{id:016x}")));
        }
        if id == 0 || born.segment() != id || continues.segment() >= id || !aligned {
            let expected = "an id, a birth mark in this segment, and an older segment to continue";
            return Err(corrupt(16, expected.into(), format!("id {id}, {born}, {continues}")));
        }
        Ok(Self {
            kind: found_kind,
            id,
            first_index: BigEndian::read_u64(&bytes[24..32]),
            continues,
            born_durable_to: born.offset(),
            recycled_from: BigEndian::read_u64(&bytes[48..56]),
        })
    }
}

fn header_checksum(header: &[u8]) -> u32 {
    checksum::extend(checksum::crc32c(&header[..8]), &header[12..])
}
