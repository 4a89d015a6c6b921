//! [`SnapshotBody`]: the engine's description of a snapshot. `proto-spec/snapshot.md` is the home of the layout.
//!
//! ```text
//! OFFSET SIZE DESCRIPTION (integers big-endian; varint = LEB128)
//! 0      4    magic "BSNP"
//! 4      1    format version, 1
//! 5      3    reserved, 0
//! 8      8    applied: log index
//! 16     8    applied: term
//! 24     8    last sequence number
//! 32     8    oldest readable sequence number
//! 40     8    bytes of the stream: the tables' files, one after the other
//! 48     4    number of tables
//! 52     …    for each table, oldest first: varint length | body as in the manifest's "add table" (tag 10)
//! end-4  4    CRC32C of all bytes before
//! ```
//!
//! Invariants: one spelling for each description; decoding never panics, and allocates no more than it was given; what decodes
//! is consistent in itself, so that an install only has to compare it with the files.

use crate::base::{LogIndex, SequenceNumber, Term, checksum, varint};
use crate::engine::edit::{EditFault, Input, State, TableMeta, decode_table, encode_table};
use crate::limits::{MAX_FILE_NUMBER, MAX_SNAPSHOT_BODY_BYTES};

/// The first bytes of a description.
pub const SNAPSHOT_MAGIC: [u8; 4] = *b"BSNP";
/// The format version this code writes and reads.
pub const SNAPSHOT_VERSION: u8 = 1;
const CRC_BYTES: usize = 4;
/// No stream is longer; sums of offsets in it cannot overflow.
const MAX_STREAM_BYTES: u64 = 1 << 62;

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct SnapshotBody {
    /// The last log entry in it.
    pub applied_index: LogIndex,
    /// Its term.
    pub applied_term: Term,
    /// The last sequence number.
    pub last_seq: SequenceNumber,
    /// The oldest sequence number that can be read from the tables.
    pub oldest_readable: SequenceNumber,
    /// The tables, oldest first, under the sender's file numbers.
    pub tables: Vec<TableMeta>,
}

/// Why bytes are not a description that this program can use.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SnapshotBodyError {
    /// Damage, or a mistake of the sender.
    #[error("snapshot description: byte {offset}: expected {expected}")]
    Bad {
        /// Offset in the description.
        offset: usize,
        /// What a valid one has there.
        expected: &'static str,
    },
    /// The checksum at its end is another.
    #[error(
        "snapshot description: byte {offset}: expected crc32c {expected:08x}, found {found:08x}"
    )]
    Checksum {
        /// Where the checksum is.
        offset: usize,
        /// That of the bytes.
        expected: u32,
        /// The one there.
        found: u32,
    },
    /// A number that a newer version defines.
    #[error(
        "snapshot description: byte {offset}: {what} {found} is not known; upgrade this node to the sender's version"
    )]
    Newer {
        /// Offset in the description.
        offset: usize,
        /// What it names.
        what: &'static str,
        /// The number.
        found: u8,
    },
    /// Over the limit.
    #[error("snapshot description: {bytes} bytes, the limit is {MAX_SNAPSHOT_BODY_BYTES}")]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
    /// Its parts contradict each other.
    #[error("snapshot description: {0}")]
    Contradiction(String),
}

impl From<EditFault> for SnapshotBodyError {
    fn from(fault: EditFault) -> Self {
        match fault {
            EditFault::Bad { offset, expected } => Self::Bad { offset, expected },
            EditFault::Newer { offset, what, found } => Self::Newer { offset, what, found },
        }
    }
}

impl SnapshotBody {
    /// The description of `state`.
    #[must_use]
    pub fn of(state: &State) -> Self {
        Self {
            applied_index: state.applied.0,
            applied_term: state.applied.1,
            last_seq: state.last_seq,
            oldest_readable: state.oldest_readable,
            tables: state.tables.values().cloned().collect(),
        }
    }

    /// Bytes of the stream.
    #[must_use]
    pub fn stream_bytes(&self) -> u64 {
        self.tables.iter().fold(0, |sum, table| sum.saturating_add(table.bytes))
    }

    /// The bytes of the description.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = SNAPSHOT_MAGIC.to_vec();
        out.extend_from_slice(&[SNAPSHOT_VERSION, 0, 0, 0]);
        for number in [
            self.applied_index.0,
            self.applied_term.0,
            self.last_seq.0,
            self.oldest_readable.0,
            self.stream_bytes(),
        ] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        let tables = u32::try_from(self.tables.len()).expect("fewer tables than file numbers");
        out.extend_from_slice(&tables.to_be_bytes());
        for table in &self.tables {
            let body = encode_table(table);
            varint::put_u64(&mut out, body.len() as u64);
            out.extend_from_slice(&body);
        }
        let crc = checksum::crc32c(&out);
        out.extend_from_slice(&crc.to_be_bytes());
        out
    }

    /// Reads a description; all of `bytes` must be one.
    pub fn decode(bytes: &[u8]) -> Result<Self, SnapshotBodyError> {
        let bad = |offset, expected| SnapshotBodyError::Bad { offset, expected };
        if bytes.len() > MAX_SNAPSHOT_BODY_BYTES {
            return Err(SnapshotBodyError::TooLarge { bytes: bytes.len() });
        }
        let (&magic, _) =
            bytes.split_first_chunk().ok_or(bad(bytes.len(), "the magic \"BSNP\""))?;
        if magic != SNAPSHOT_MAGIC {
            return Err(bad(0, "the magic \"BSNP\""));
        }
        match bytes.get(4) {
            Some(&SNAPSHOT_VERSION) => {}
            // A newer version may have its checksum elsewhere: it is named first.
            Some(&found) => {
                return Err(SnapshotBodyError::Newer { offset: 4, what: "format version", found });
            }
            None => return Err(bad(4, "a format version")),
        }
        let (content, &crc) =
            bytes.split_last_chunk::<CRC_BYTES>().ok_or(bad(bytes.len(), "a checksum"))?;
        let (expected, found) = (checksum::crc32c(content), u32::from_be_bytes(crc));
        if expected != found {
            return Err(SnapshotBodyError::Checksum { offset: content.len(), expected, found });
        }
        let body = Self::decode_content(content)?;
        body.check()?;
        Ok(body)
    }

    fn decode_content(content: &[u8]) -> Result<Self, SnapshotBodyError> {
        let bad = |offset, expected| SnapshotBodyError::Bad { offset, expected };
        let mut input = Input { bytes: content, at: 5 };
        if input.take(3, "reserved bytes")? != [0; 3] {
            return Err(bad(5, "three reserved bytes of 0"));
        }
        let (applied_index, applied_term) = input.entry()?;
        let (last_seq, oldest_readable) = (input.seq()?, input.seq()?);
        let stream_at = input.at;
        let stream_bytes = input.u64("the length of the stream")?;
        let count = input.take(4, "a number of tables")?;
        let count = u32::from_be_bytes(count.try_into().expect("four bytes were taken"));
        let mut tables = Vec::new();
        for _ in 0..count {
            let len = input.slice("a table")?.len();
            let end = input.at;
            let mut field = Input { bytes: &content[..end], at: end - len };
            tables.push(decode_table(&mut field)?);
            if field.at != end {
                return Err(bad(field.at, "the end of the table"));
            }
        }
        if input.at != content.len() {
            return Err(bad(input.at, "the checksum after the last table"));
        }
        let body = Self { applied_index, applied_term, last_seq, oldest_readable, tables };
        if stream_bytes != body.stream_bytes() {
            return Err(bad(stream_at, "the sum of the tables' lengths"));
        }
        Ok(body)
    }

    /// What holds between the parts. Tables are disjoint in time, oldest first: that is the order in which they hide each
    /// other's versions, and the installer numbers them by it.
    fn check(&self) -> Result<(), SnapshotBodyError> {
        let contradiction = |what| Err(SnapshotBodyError::Contradiction(what));
        if self.applied_index == LogIndex::ZERO {
            return contradiction("it holds no entry: its last one is 0".to_owned());
        }
        let mut before: Option<&TableMeta> = None;
        for table in &self.tables {
            if let Some(before) = before
                && (before.number >= table.number || before.largest_seq >= table.smallest_seq)
            {
                return contradiction(format!(
                    "table {:016x} is not newer than table {:016x} before it",
                    table.number, before.number
                ));
            }
            if table.bytes == 0 || table.number >= MAX_FILE_NUMBER {
                return contradiction(format!(
                    "table {:016x} of {} bytes is not possible",
                    table.number, table.bytes
                ));
            }
            before = Some(table);
        }
        if self.stream_bytes() > MAX_STREAM_BYTES {
            return contradiction(format!("{} bytes are not possible", self.stream_bytes()));
        }
        let state = self.state(before.map_or(1, |last| last.number + 1), self.tables.clone());
        state.check().and_then(|()| state.check_room()).or_else(contradiction)
    }

    /// The durable state that it describes, with `tables` for its own.
    pub(super) fn state(&self, next_file: u64, tables: Vec<TableMeta>) -> State {
        let applied = (self.applied_index, self.applied_term);
        State {
            applied,
            last_seq: self.last_seq,
            oldest_readable: self.oldest_readable,
            next_file,
            installed: Some(applied),
            tables: tables.into_iter().map(|table| (table.number, table)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table(number: u64, seqs: (u64, u64)) -> TableMeta {
        TableMeta {
            level: 0,
            number,
            bytes: 700 + number,
            entries: seqs.1 - seqs.0 + 1,
            deletes: 1,
            smallest_seq: seqs.0,
            largest_seq: seqs.1,
            smallest_key: b"apple".to_vec(),
            largest_key: b"plum".to_vec(),
        }
    }

    fn sample() -> SnapshotBody {
        SnapshotBody {
            applied_index: LogIndex(12),
            applied_term: Term(3),
            last_seq: SequenceNumber(20),
            oldest_readable: SequenceNumber(18),
            tables: vec![table(4, (1, 9)), table(6, (10, 20))],
        }
    }

    #[test]
    fn what_is_encoded_is_read_back() {
        let empty = SnapshotBody { tables: Vec::new(), ..sample() };
        for body in [sample(), empty] {
            assert_eq!(SnapshotBody::decode(&body.encode()), Ok(body));
        }
        assert_eq!(sample().stream_bytes(), 704 + 706);
    }

    #[test]
    fn every_truncation_and_every_flip_is_refused() {
        let good = sample().encode();
        for cut in 0..good.len() {
            assert!(SnapshotBody::decode(&good[..cut]).is_err(), "cut at {cut}");
        }
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(SnapshotBody::decode(&bytes).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn contradictions_with_a_good_checksum_are_refused() {
        let refused = |change: fn(&mut SnapshotBody)| {
            let mut body = sample();
            change(&mut body);
            SnapshotBody::decode(&body.encode()).unwrap_err().to_string()
        };
        for (change, what) in [
            (
                (|b| b.tables[1].smallest_seq = 9) as fn(&mut SnapshotBody),
                "table 0000000000000006 is not newer",
            ),
            (|b| b.tables[1].number = 4, "is not newer"),
            (|b| b.tables.swap(0, 1), "is not newer"),
            (|b| b.tables[0].bytes = 0, "of 0 bytes is not possible"),
            (|b| b.tables[0].bytes = u64::MAX, "18446744073709551615 bytes are not possible"),
            (|b| b.tables[1].number = u64::MAX, "table ffffffffffffffff of 706 bytes is not"),
            (|b| b.last_seq = SequenceNumber(19), "holds sequence number 20, the last one is 19"),
            (|b| b.oldest_readable = SequenceNumber(21), "oldest readable sequence number 21"),
            (|b| b.applied_index = LogIndex(0), "holds no entry"),
            (|b| b.applied_index = LogIndex(u64::MAX), "applied index"),
            (|b| b.applied_term = Term(u64::MAX), "applied term"),
            (|b| b.tables[0].entries = 0, "a table with entries"),
            (|b| b.tables[0].level = 1, "level 1 is not known"),
        ] {
            let text = refused(change);
            assert!(text.contains(what), "{text:?} does not say {what:?}");
        }
    }

    proptest! {
        #[test]
        fn decoding_anything_never_panics(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            head in any::<bool>(),
        ) {
            let mut bytes = bytes;
            if head && bytes.len() >= 12 {
                bytes[..8].copy_from_slice(b"BSNP\x01\0\0\0");
                let end = bytes.len() - CRC_BYTES;
                let crc = checksum::crc32c(&bytes[..end]);
                bytes[end..].copy_from_slice(&crc.to_be_bytes());
            }
            if let Ok(body) = SnapshotBody::decode(&bytes) {
                prop_assert_eq!(body.encode(), bytes);
            }
        }
    }
}
