//! [`SnapshotBody`]: the engine's description of a snapshot. `proto-spec/snapshot.md` is the home of the layout.
//!
//! ```text
//! OFFSET SIZE DESCRIPTION (integers big-endian; varint = LEB128)
//! 0      4    magic "BSNP"
//! 4      1    format version: 1, or 2 for what 1 cannot say
//! 5      3    reserved, 0
//! 8      8    applied: log index
//! 16     8    applied: term
//! 24     8    last sequence number
//! 32     8    oldest readable sequence number
//! 40     8    bytes of the stream: the tables' files, one after the other
//! 48     4    number of tables
//! 52     …    for each table, by ascending number: varint length | body as in the manifest's "add table" (tag 10);
//!             version 2: cleared_to (8) after it
//! …      4    version 2 only: number of range deletes
//! …      …    version 2 only: for each one, by ascending sequence number: varint length | body as in the manifest's
//!             "add range delete" (tag 13)
//! end-4  4    CRC32C of all bytes before
//! ```
//!
//! Version 1 has tables of level 0 only, all of them disjoint in time, and nothing to clear: it is written whenever it can
//! say everything, so that an older follower understands a leader that has not compacted.
//!
//! Invariants: one spelling for each description; decoding never panics, and allocates no more than it was given; what decodes
//! is consistent in itself, so that an install only has to compare it with the files.

use crate::base::{LogIndex, SequenceNumber, Term, checksum, varint};
use crate::engine::edit::{
    EditFault, Input, RangeDelete, State, TableMeta, VersionEdit, decode_range_delete,
    decode_table, encode_range_delete, encode_table,
};
use crate::limits::{MAX_FILE_NUMBER, MAX_SNAPSHOT_BODY_BYTES};

/// The first bytes of a description.
pub const SNAPSHOT_MAGIC: [u8; 4] = *b"BSNP";
/// The newest format version this code writes and reads.
pub const SNAPSHOT_VERSION: u8 = 2;
/// The one without levels, clearing, and range deletes.
const PLAIN_VERSION: u8 = 1;
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
    /// The tables, by ascending number, under the sender's file numbers.
    pub tables: Vec<TableMeta>,
    /// The range deletes that may hide something in them, by ascending sequence number.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub range_deletes: Vec<RangeDelete>,
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
            range_deletes: state.range_deletes.values().cloned().collect(),
        }
    }

    /// The oldest format version that can say it.
    #[must_use]
    pub fn version(&self) -> u8 {
        let plain = self.range_deletes.is_empty()
            && self.tables.iter().all(|table| table.level == 0 && table.cleared_to == 0);
        if plain { PLAIN_VERSION } else { SNAPSHOT_VERSION }
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
        let version = self.version();
        out.extend_from_slice(&[version, 0, 0, 0]);
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
            if version > PLAIN_VERSION {
                out.extend_from_slice(&table.cleared_to.to_be_bytes());
            }
        }
        if version > PLAIN_VERSION {
            let count = u32::try_from(self.range_deletes.len()).expect("their number is bounded");
            out.extend_from_slice(&count.to_be_bytes());
            for delete in &self.range_deletes {
                let body = encode_range_delete(delete);
                varint::put_u64(&mut out, body.len() as u64);
                out.extend_from_slice(&body);
            }
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
        let version = match bytes.get(4) {
            Some(&version @ PLAIN_VERSION..=SNAPSHOT_VERSION) => version,
            // A newer version may have its checksum elsewhere: it is named first.
            Some(&found) => {
                return Err(SnapshotBodyError::Newer { offset: 4, what: "format version", found });
            }
            None => return Err(bad(4, "a format version")),
        };
        let (content, &crc) =
            bytes.split_last_chunk::<CRC_BYTES>().ok_or(bad(bytes.len(), "a checksum"))?;
        let (expected, found) = (checksum::crc32c(content), u32::from_be_bytes(crc));
        if expected != found {
            return Err(SnapshotBodyError::Checksum { offset: content.len(), expected, found });
        }
        let body = Self::decode_content(version, content)?;
        if body.version() != version {
            return Err(bad(4, "the oldest format version that can say the rest"));
        }
        body.check()?;
        Ok(body)
    }

    fn decode_content(version: u8, content: &[u8]) -> Result<Self, SnapshotBodyError> {
        let bad = |offset, expected| SnapshotBodyError::Bad { offset, expected };
        let mut input = Input { bytes: content, at: 5 };
        if input.take(3, "reserved bytes")? != [0; 3] {
            return Err(bad(5, "three reserved bytes of 0"));
        }
        let (applied_index, applied_term) = input.entry()?;
        let (last_seq, oldest_readable) = (input.seq()?, input.seq()?);
        let stream_at = input.at;
        let stream_bytes = input.u64("the length of the stream")?;
        let mut tables = Vec::new();
        for _ in 0..input.u32("a number of tables")? {
            let (at, table) = decode_part(content, &mut input, "a table", decode_table)?;
            if version == PLAIN_VERSION && table.level > 0 {
                let found = table.level;
                return Err(SnapshotBodyError::Newer { offset: at, what: "level", found });
            }
            let cleared_to = if version == PLAIN_VERSION { 0 } else { input.seq()?.0 };
            tables.push(TableMeta { cleared_to, ..table });
        }
        let mut range_deletes = Vec::new();
        if version > PLAIN_VERSION {
            for _ in 0..input.u32("a number of range deletes")? {
                let (_, delete) =
                    decode_part(content, &mut input, "a range delete", decode_range_delete)?;
                range_deletes.push(delete);
            }
        }
        if input.at != content.len() {
            return Err(bad(input.at, "the checksum after the last part"));
        }
        let body =
            Self { applied_index, applied_term, last_seq, oldest_readable, tables, range_deletes };
        if stream_bytes != body.stream_bytes() {
            return Err(bad(stream_at, "the sum of the tables' lengths"));
        }
        Ok(body)
    }

    /// What holds between the parts. Tables of level 0 are disjoint in time, oldest first: that is the order in which they
    /// hide each other's versions, and the installer numbers them by it. What else a state checks, it checks.
    fn check(&self) -> Result<(), SnapshotBodyError> {
        let contradiction = |what| Err(SnapshotBodyError::Contradiction(what));
        if self.applied_index == LogIndex::ZERO {
            return contradiction("it holds no entry: its last one is 0".to_owned());
        }
        let not_newer = |table: &TableMeta, before: &TableMeta| {
            contradiction(format!(
                "table {:016x} is not newer than table {:016x} before it",
                table.number, before.number
            ))
        };
        let mut before: Option<&TableMeta> = None;
        let mut newest: Option<&TableMeta> = None;
        for table in &self.tables {
            if let Some(before) = before.filter(|before| before.number >= table.number) {
                return not_newer(table, before);
            }
            before = Some(table);
            if table.level == 0 {
                if let Some(before) = newest.filter(|b| b.largest_seq >= table.smallest_seq) {
                    return not_newer(table, before);
                }
                newest = Some(table);
            }
            if table.bytes == 0 || table.number >= MAX_FILE_NUMBER {
                return contradiction(format!(
                    "table {:016x} of {} bytes is not possible",
                    table.number, table.bytes
                ));
            }
        }
        if let Some(pair) = self.range_deletes.windows(2).find(|pair| pair[0].seq >= pair[1].seq) {
            return contradiction(format!(
                "range delete {} comes after range delete {}",
                pair[1].seq, pair[0].seq
            ));
        }
        if self.stream_bytes() > MAX_STREAM_BYTES {
            return contradiction(format!("{} bytes are not possible", self.stream_bytes()));
        }
        let next_file = before.map_or(1, |last| last.number + 1);
        let state = self.state(next_file, self.tables.clone());
        state.and_then(|state| state.check_room()).or_else(contradiction)
    }

    /// The durable state that it describes, with `tables` for its own. The error says what contradicts what.
    pub(super) fn state(&self, next_file: u64, tables: Vec<TableMeta>) -> Result<State, String> {
        let applied = Some((self.applied_index, self.applied_term));
        let edit = VersionEdit {
            full: true,
            applied,
            last_seq: Some(self.last_seq),
            oldest_readable: Some(self.oldest_readable),
            next_file: Some(next_file),
            installed: applied,
            added: tables,
            range_deletes: self.range_deletes.clone(),
            ..VersionEdit::default()
        };
        let mut state = State::default();
        state.apply(&edit)?;
        Ok(state)
    }
}

/// One part behind its length, and where it begins.
fn decode_part<T>(
    content: &[u8],
    input: &mut Input<'_>,
    what: &'static str,
    decode: impl FnOnce(&mut Input<'_>) -> Result<T, EditFault>,
) -> Result<(usize, T), SnapshotBodyError> {
    let len = input.slice(what)?.len();
    let (start, end) = (input.at - len, input.at);
    let mut field = Input { bytes: &content[..end], at: start };
    let part = decode(&mut field)?;
    if field.at != end {
        return Err(SnapshotBodyError::Bad { offset: field.at, expected: "the end of the part" });
    }
    Ok((start, part))
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
            cleared_to: 0,
        }
    }

    fn sample() -> SnapshotBody {
        SnapshotBody {
            applied_index: LogIndex(12),
            applied_term: Term(3),
            last_seq: SequenceNumber(20),
            oldest_readable: SequenceNumber(18),
            tables: vec![table(4, (1, 9)), table(6, (10, 20))],
            range_deletes: Vec::new(),
        }
    }

    /// One that only version 2 can describe.
    fn compacted() -> SnapshotBody {
        let delete = |seq| RangeDelete { seq, start: b"b".to_vec(), end: Vec::new() };
        SnapshotBody {
            tables: vec![
                TableMeta { level: 6, cleared_to: 7, ..table(3, (1, 9)) },
                TableMeta { level: 1, ..table(4, (2, 12)) },
                table(6, (13, 20)),
            ],
            range_deletes: vec![delete(12), delete(15)],
            ..sample()
        }
    }

    #[test]
    fn what_is_encoded_is_read_back() {
        let empty = SnapshotBody { tables: Vec::new(), ..sample() };
        for body in [sample(), empty, compacted()] {
            assert_eq!(SnapshotBody::decode(&body.encode()), Ok(body));
        }
        assert_eq!((sample().version(), compacted().version()), (1, 2));
        assert_eq!(sample().stream_bytes(), 704 + 706);
    }

    #[test]
    fn every_truncation_and_every_flip_is_refused() {
        for good in [sample().encode(), compacted().encode()] {
            truncations_and_flips_are_refused(&good);
        }
    }

    fn truncations_and_flips_are_refused(good: &[u8]) {
        for cut in 0..good.len() {
            assert!(SnapshotBody::decode(&good[..cut]).is_err(), "cut at {cut}");
        }
        for bit in 0..good.len() * 8 {
            let mut bytes = good.to_vec();
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
            (|b| b.tables[0].level = 7, "level 7 is not known"),
            (|b| b.tables.iter_mut().for_each(|t| t.level = 2), "of level 2 overlap"),
            (|b| b.tables[0].cleared_to = 21, "holds sequence number 21, the last one is 20"),
            (
                |b| {
                    b.range_deletes = compacted().range_deletes;
                    b.range_deletes.reverse();
                },
                "range delete 12 comes after range delete 15",
            ),
            (
                |b| {
                    b.range_deletes = compacted().range_deletes;
                    b.last_seq = SequenceNumber(20);
                    b.range_deletes[1].seq = 21;
                },
                "a range delete has sequence number 21",
            ),
        ] {
            let text = refused(change);
            assert!(text.contains(what), "{text:?} does not say {what:?}");
        }
        // A level in version 1, and version 2 for what version 1 can say.
        let spelled = |body: &SnapshotBody, version| {
            let mut bytes = body.encode();
            bytes[4] = version;
            let end = bytes.len() - CRC_BYTES;
            let crc = checksum::crc32c(&bytes[..end]);
            bytes[end..].copy_from_slice(&crc.to_be_bytes());
            SnapshotBody::decode(&bytes).unwrap_err().to_string()
        };
        assert!(spelled(&compacted(), 1).contains("level 6 is not known"));
        let empty = SnapshotBody { tables: Vec::new(), ..sample() };
        assert!(spelled(&empty, 2).contains("expected a number of range deletes"));
        assert!(spelled(&empty, 3).contains("format version 3 is not known"));
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
                bytes[4] += bytes[8] % 2;
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
