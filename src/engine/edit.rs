//! Version edits: what a record of the manifest says. `proto-spec/manifest.md` is the home of the layout.
//!
//! ```text
//! OFFSET SIZE DESCRIPTION (integers big-endian; varint = LEB128)
//! 0      1    format version, 1
//! 1      1    flags: bit 0 = full (the edit is the whole state; what came before does not count)
//! 2      …    fields, in ascending order of tag: tag (1) | varint length | body
//!
//! TAG  BODY
//! 01   applied: log index (8) | term (8)
//! 02   last sequence number (8)
//! 03   oldest readable sequence number (8)
//! 04   next file number (8)
//! 05   installed: log index (8) | term (8) of the snapshot that the state came from
//! 10   add table: level (1) | number (8) | file bytes (8) | entries (8) | deletes (8) | smallest seq (8) |
//!      largest seq (8) | varint length, smallest user key | varint length, largest user key
//! 11   remove table: level (1) | number (8)
//! 12   add table whose `cleared_to` is not 0: as 10, then cleared_to (8); takes its place among those of tag 10
//! 13   add range delete: seq (8) | varint length, first key | varint length, end key
//! 14   remove range delete: seq (8)
//! ```
//!
//! Invariants: one spelling for each edit (fields ordered by tag, each of 01 to 05 at most once, canonical varints);
//! an unknown tag is a newer format and refused; decoding never panics and allocates no more than the record holds.
//! What edits add up to is [`State`]'s, in `state`.

use crate::base::varint;
use crate::base::{LogIndex, SequenceNumber, Term};
use crate::limits::MAX_KEY_BYTES;

pub use super::state::State;

/// The format version this code writes and reads.
pub const EDIT_VERSION: u8 = 1;
/// Levels that this version knows, 0 to 6. New tables are in level 0, compaction moves them down.
pub const MAX_LEVELS: u8 = 7;
const FLAG_FULL: u8 = 1;

mod tag {
    pub const APPLIED: u8 = 0x01;
    pub const LAST_SEQ: u8 = 0x02;
    pub const OLDEST_READABLE: u8 = 0x03;
    pub const NEXT_FILE: u8 = 0x04;
    pub const INSTALLED: u8 = 0x05;
    pub const ADD_TABLE: u8 = 0x10;
    pub const REMOVE_TABLE: u8 = 0x11;
    pub const ADD_CLEARED_TABLE: u8 = 0x12;
    pub const ADD_RANGE_DELETE: u8 = 0x13;
    pub const REMOVE_RANGE_DELETE: u8 = 0x14;

    /// Where a field with this tag stands among the others: tables are added in one list.
    pub const fn place(tag: u8) -> u8 {
        if tag == ADD_CLEARED_TABLE { ADD_TABLE } else { tag }
    }
}

/// What the manifest says about a table.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct TableMeta {
    /// Its level.
    pub level: u8,
    /// Its file number.
    pub number: u64,
    /// The length of its file.
    pub bytes: u64,
    /// Versions in it.
    pub entries: u64,
    /// Tombstones among them.
    pub deletes: u64,
    /// Its smallest sequence number.
    pub smallest_seq: u64,
    /// Its largest sequence number.
    pub largest_seq: u64,
    /// Its first user key.
    #[serde(serialize_with = "as_escaped_text")]
    pub smallest_key: Vec<u8>,
    /// Its last user key.
    #[serde(serialize_with = "as_escaped_text")]
    pub largest_key: Vec<u8>,
    /// All range deletes up to this sequence number were applied when it was built: what they hide is not in it.
    #[serde(skip_serializing_if = "is_zero")]
    pub cleared_to: u64,
}

impl TableMeta {
    /// Whether a key of `start..end` may be in it (`None` = to the last key).
    #[must_use]
    pub fn overlaps(&self, start: &[u8], end: Option<&[u8]>) -> bool {
        self.largest_key.as_slice() >= start
            && end.is_none_or(|end| self.smallest_key.as_slice() < end)
    }
}

/// A range delete that is flushed: it hides every version of a key in `start..end` that is older than `seq`. It lives in the
/// manifest, not in a table, until every table that it may hide something in was rewritten or is gone.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct RangeDelete {
    /// The sequence number of the operation, its name here: no two have the same.
    pub seq: u64,
    /// The first key; empty = the first of all.
    #[serde(serialize_with = "as_escaped_text")]
    pub start: Vec<u8>,
    /// The first key that is past it; empty = none is.
    #[serde(serialize_with = "as_escaped_text")]
    pub end: Vec<u8>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn as_escaped_text<S: serde::Serializer>(key: &[u8], s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(&key.escape_ascii())
}

/// One change of the engine's durable state. A field that is `None` keeps its value.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VersionEdit {
    /// Whether this is the whole state.
    pub full: bool,
    /// The last log entry whose effects the tables hold.
    pub applied: Option<(LogIndex, Term)>,
    /// The last sequence number that the tables hold.
    pub last_seq: Option<SequenceNumber>,
    /// The oldest sequence number that can be read.
    pub oldest_readable: Option<SequenceNumber>,
    /// File numbers from here on are unused.
    pub next_file: Option<u64>,
    /// The state is a snapshot of another replica at this entry, which is `applied`.
    pub installed: Option<(LogIndex, Term)>,
    /// Tables that are new.
    pub added: Vec<TableMeta>,
    /// Tables that are no longer part of the state: (level, number).
    pub removed: Vec<(u8, u64)>,
    /// Range deletes that are new.
    pub range_deletes: Vec<RangeDelete>,
    /// The sequence numbers of those that hide nothing any more.
    pub forgotten: Vec<u64>,
}

/// Why bytes are not an edit: the offset in the record's payload and what was expected there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EditFault {
    /// Damage, or a mistake of the writer.
    Bad {
        /// Offset in the payload.
        offset: usize,
        /// What a valid edit has there.
        expected: &'static str,
    },
    /// A number that a newer version defines.
    Newer {
        /// Offset in the payload.
        offset: usize,
        /// What it names.
        what: &'static str,
        /// The number.
        found: u8,
    },
}

impl VersionEdit {
    /// The bytes of the edit.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![EDIT_VERSION, if self.full { FLAG_FULL } else { 0 }];
        if let Some(applied) = self.applied {
            put_field(&mut out, tag::APPLIED, &encode_entry(applied));
        }
        let numbers = [
            (tag::LAST_SEQ, self.last_seq.map(|s| s.0)),
            (tag::OLDEST_READABLE, self.oldest_readable.map(|s| s.0)),
            (tag::NEXT_FILE, self.next_file),
        ];
        for (tag, number) in numbers {
            if let Some(number) = number {
                put_field(&mut out, tag, &number.to_be_bytes());
            }
        }
        if let Some(installed) = self.installed {
            put_field(&mut out, tag::INSTALLED, &encode_entry(installed));
        }
        for table in &self.added {
            let mut body = encode_table(table);
            if table.cleared_to == 0 {
                put_field(&mut out, tag::ADD_TABLE, &body);
            } else {
                body.extend_from_slice(&table.cleared_to.to_be_bytes());
                put_field(&mut out, tag::ADD_CLEARED_TABLE, &body);
            }
        }
        for &(level, number) in &self.removed {
            let mut body = vec![level];
            body.extend_from_slice(&number.to_be_bytes());
            put_field(&mut out, tag::REMOVE_TABLE, &body);
        }
        for delete in &self.range_deletes {
            put_field(&mut out, tag::ADD_RANGE_DELETE, &encode_range_delete(delete));
        }
        for seq in &self.forgotten {
            put_field(&mut out, tag::REMOVE_RANGE_DELETE, &seq.to_be_bytes());
        }
        out
    }

    /// Reads an edit; all of `bytes` must be one.
    pub fn decode(bytes: &[u8]) -> Result<Self, EditFault> {
        let mut input = Input { bytes, at: 0 };
        let version = input.u8("a format version")?;
        if version != EDIT_VERSION {
            return Err(EditFault::Newer { offset: 0, what: "edit version", found: version });
        }
        let flags = input.u8("flags")?;
        if flags & !FLAG_FULL != 0 {
            return Err(EditFault::Newer { offset: 1, what: "edit flags", found: flags });
        }
        let mut edit = Self { full: flags & FLAG_FULL != 0, ..Self::default() };
        let mut last_place = 0;
        while input.at < bytes.len() {
            let offset = input.at;
            let tag = input.u8("a tag")?;
            let place = tag::place(tag);
            if place < last_place || (place == last_place && tag < tag::ADD_TABLE) {
                return Err(EditFault::Bad { offset, expected: "tags in ascending order" });
            }
            last_place = place;
            let body = input.slice("a field")?;
            let start = input.at - body.len();
            let end = input.at;
            let mut field = Input { bytes: &bytes[..end], at: start };
            edit.decode_field(tag, offset, &mut field)?;
            if field.at != end {
                return Err(EditFault::Bad { offset: field.at, expected: "the end of the field" });
            }
        }
        Ok(edit)
    }

    fn decode_field(
        &mut self,
        tag: u8,
        offset: usize,
        field: &mut Input<'_>,
    ) -> Result<(), EditFault> {
        match tag {
            tag::APPLIED => self.applied = Some(field.entry()?),
            tag::LAST_SEQ => self.last_seq = Some(field.seq()?),
            tag::OLDEST_READABLE => self.oldest_readable = Some(field.seq()?),
            tag::NEXT_FILE => self.next_file = Some(field.u64("a file number")?),
            tag::INSTALLED => self.installed = Some(field.entry()?),
            tag::ADD_TABLE => self.added.push(decode_table(field)?),
            tag::REMOVE_TABLE => {
                let level = field.level()?;
                self.removed.push((level, field.u64("a file number")?));
            }
            tag::ADD_CLEARED_TABLE => {
                let table = decode_table(field)?;
                let offset = field.at;
                let cleared_to = field.seq()?.0;
                if cleared_to == 0 {
                    return Err(EditFault::Bad { offset, expected: "a number above 0 in tag 12" });
                }
                self.added.push(TableMeta { cleared_to, ..table });
            }
            tag::ADD_RANGE_DELETE => self.range_deletes.push(decode_range_delete(field)?),
            tag::REMOVE_RANGE_DELETE => self.forgotten.push(field.seq()?.0),
            found => return Err(EditFault::Newer { offset, what: "edit field", found }),
        }
        Ok(())
    }
}

fn encode_entry((index, term): (LogIndex, Term)) -> Vec<u8> {
    [index.0.to_be_bytes(), term.0.to_be_bytes()].concat()
}

/// The body of tag 10: all but `cleared_to`.
pub(super) fn encode_table(table: &TableMeta) -> Vec<u8> {
    let mut body = vec![table.level];
    for number in [
        table.number,
        table.bytes,
        table.entries,
        table.deletes,
        table.smallest_seq,
        table.largest_seq,
    ] {
        body.extend_from_slice(&number.to_be_bytes());
    }
    for key in [&table.smallest_key, &table.largest_key] {
        varint::put_u64(&mut body, key.len() as u64);
        body.extend_from_slice(key);
    }
    body
}

pub(super) fn decode_table(field: &mut Input<'_>) -> Result<TableMeta, EditFault> {
    let start = field.at;
    let table = TableMeta {
        level: field.level()?,
        number: field.u64("a file number")?,
        bytes: field.u64("a file length")?,
        entries: field.u64("a number of entries")?,
        deletes: field.u64("a number of tombstones")?,
        smallest_seq: field.seq()?.0,
        largest_seq: field.seq()?.0,
        smallest_key: field.key()?,
        largest_key: field.key()?,
        cleared_to: 0,
    };
    let ordered = table.smallest_key <= table.largest_key
        && table.smallest_seq <= table.largest_seq
        && table.deletes <= table.entries
        && table.entries > 0;
    if !ordered {
        let expected = "a table with entries, its ranges in order";
        return Err(EditFault::Bad { offset: start, expected });
    }
    Ok(table)
}

/// The body of tag 13.
pub(super) fn encode_range_delete(delete: &RangeDelete) -> Vec<u8> {
    let mut body = delete.seq.to_be_bytes().to_vec();
    for key in [&delete.start, &delete.end] {
        varint::put_u64(&mut body, key.len() as u64);
        body.extend_from_slice(key);
    }
    body
}

pub(super) fn decode_range_delete(field: &mut Input<'_>) -> Result<RangeDelete, EditFault> {
    let start = field.at;
    let delete = RangeDelete { seq: field.seq()?.0, start: field.bound()?, end: field.bound()? };
    if delete.seq == 0 || (!delete.end.is_empty() && delete.start >= delete.end) {
        let expected = "a range delete of some keys, with a sequence number";
        return Err(EditFault::Bad { offset: start, expected });
    }
    Ok(delete)
}

fn put_field(out: &mut Vec<u8>, tag: u8, body: &[u8]) {
    out.push(tag);
    varint::put_u64(out, body.len() as u64);
    out.extend_from_slice(body);
}

/// Reads from the front of `bytes`; what it lacks is an [`EditFault`] at its offset.
pub(super) struct Input<'a> {
    pub bytes: &'a [u8],
    pub at: usize,
}

impl<'a> Input<'a> {
    pub fn take(&mut self, len: usize, expected: &'static str) -> Result<&'a [u8], EditFault> {
        let bad = EditFault::Bad { offset: self.at, expected };
        let end = self.at.checked_add(len).ok_or_else(|| bad.clone())?;
        let taken = self.bytes.get(self.at..end).ok_or(bad)?;
        self.at = end;
        Ok(taken)
    }
    fn u8(&mut self, expected: &'static str) -> Result<u8, EditFault> {
        Ok(self.take(1, expected)?[0])
    }
    pub fn u32(&mut self, expected: &'static str) -> Result<u32, EditFault> {
        let bytes = self.take(4, expected)?;
        Ok(u32::from_be_bytes(bytes.try_into().expect("four bytes were taken")))
    }
    pub fn u64(&mut self, expected: &'static str) -> Result<u64, EditFault> {
        let bytes = self.take(8, expected)?;
        Ok(u64::from_be_bytes(bytes.try_into().expect("eight bytes were taken")))
    }
    pub fn seq(&mut self) -> Result<SequenceNumber, EditFault> {
        let offset = self.at;
        let seq = self.u64("a sequence number")?;
        if seq > SequenceNumber::MAX.0 {
            return Err(EditFault::Bad { offset, expected: "a sequence number of 56 bits" });
        }
        Ok(SequenceNumber(seq))
    }
    pub fn entry(&mut self) -> Result<(LogIndex, Term), EditFault> {
        let index = self.u64("a log index")?;
        Ok((LogIndex(index), Term(self.u64("a term")?)))
    }
    fn level(&mut self) -> Result<u8, EditFault> {
        let offset = self.at;
        let found = self.u8("a level")?;
        if found >= MAX_LEVELS {
            return Err(EditFault::Newer { offset, what: "level", found });
        }
        Ok(found)
    }
    pub fn slice(&mut self, expected: &'static str) -> Result<&'a [u8], EditFault> {
        let bad = EditFault::Bad { offset: self.at, expected: "a canonical varint length" };
        let (len, n) = varint::get_u64(&self.bytes[self.at..]).ok_or_else(|| bad.clone())?;
        self.at += n;
        self.take(usize::try_from(len).map_err(|_| bad)?, expected)
    }
    fn key(&mut self) -> Result<Vec<u8>, EditFault> {
        let offset = self.at;
        let key = self.bound()?;
        if key.is_empty() {
            return Err(EditFault::Bad { offset, expected: "a key within the limits" });
        }
        Ok(key)
    }
    /// A key or nothing.
    fn bound(&mut self) -> Result<Vec<u8>, EditFault> {
        let offset = self.at;
        let key = self.slice("a user key")?;
        if key.len() > MAX_KEY_BYTES {
            return Err(EditFault::Bad { offset, expected: "a key within the limits" });
        }
        Ok(key.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table(number: u64) -> TableMeta {
        TableMeta {
            level: 0,
            number,
            bytes: 4096,
            entries: 3,
            deletes: 1,
            smallest_seq: 1,
            largest_seq: 3,
            smallest_key: b"a".to_vec(),
            largest_key: b"k\xff".to_vec(),
            cleared_to: 0,
        }
    }

    fn sample() -> VersionEdit {
        VersionEdit {
            full: false,
            applied: Some((LogIndex(7), Term(2))),
            last_seq: Some(SequenceNumber(9)),
            oldest_readable: Some(SequenceNumber(8)),
            next_file: Some(6),
            installed: Some((LogIndex(7), Term(2))),
            added: vec![table(5)],
            removed: vec![(0, 3)],
            ..VersionEdit::default()
        }
    }

    /// With everything that came with compaction and range deletes.
    fn newer_sample() -> VersionEdit {
        let delete = |seq, start: &[u8], end: &[u8]| RangeDelete {
            seq,
            start: start.to_vec(),
            end: end.to_vec(),
        };
        VersionEdit {
            added: vec![
                TableMeta { level: 6, cleared_to: 8, ..table(5) },
                TableMeta { level: 1, ..table(4) },
            ],
            removed: vec![(6, 3)],
            range_deletes: vec![delete(7, b"a", b"c"), delete(9, b"", b"")],
            forgotten: vec![2],
            ..VersionEdit::default()
        }
    }

    #[test]
    fn golden_bytes() {
        let hex: String = sample().encode().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            hex,
            "0100\
             011000000000000000070000000000000002\
             02080000000000000009\
             03080000000000000008\
             04080000000000000006\
             051000000000000000070000000000000002\
             10360000000000000000050000000000001000000000000000000300000000000000010000000000000001\
             00000000000000030161026bff\
             1109000000000000000003"
        );
        let hex: String = newer_sample().encode().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            hex,
            "0100\
             123e060000000000000005000000000000100000000000000000030000000000000001000000000000000100\
             000000000000030161026bff0000000000000008\
             10360100000000000000040000000000001000000000000000000300000000000000010000000000000001\
             00000000000000030161026bff\
             1109060000000000000003\
             130c000000000000000701610163\
             130a00000000000000090000\
             14080000000000000002"
        );
        for edit in [sample(), newer_sample()] {
            assert_eq!(VersionEdit::decode(&edit.encode()), Ok(edit));
        }
    }

    #[test]
    fn what_compaction_and_range_deletes_write_has_one_spelling() {
        let refused = |change: fn(&mut VersionEdit)| {
            let mut edit = newer_sample();
            change(&mut edit);
            match VersionEdit::decode(&edit.encode()) {
                Err(EditFault::Bad { expected, .. }) => expected,
                other => panic!("{other:?}"),
            }
        };
        assert!(refused(|e| e.range_deletes[0].seq = 0).contains("range delete of some keys"));
        assert!(refused(|e| e.range_deletes[0].end = b"a".to_vec()).contains("of some keys"));
        assert!(refused(|e| e.range_deletes[0].end = vec![b'x'; 8_193]).contains("limits"));
        let mut bytes = newer_sample().encode();
        // The last byte of cleared_to in the first field.
        bytes[2 + 2 + 0x3e - 1] = 0;
        let zero = EditFault::Bad { offset: 58, expected: "a number above 0 in tag 12" };
        assert_eq!(VersionEdit::decode(&bytes), Err(zero));
    }

    #[test]
    fn every_truncation_and_every_flip_is_refused_or_reads_back_as_itself() {
        let good = VersionEdit {
            range_deletes: newer_sample().range_deletes,
            forgotten: vec![4],
            ..sample()
        };
        let good = good.encode();
        for cut in 0..good.len() {
            if let Ok(edit) = VersionEdit::decode(&good[..cut]) {
                assert_eq!(edit.encode(), good[..cut], "cut at {cut}");
            }
        }
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bytes = good.clone();
                bytes[at] ^= 1 << bit;
                if let Ok(edit) = VersionEdit::decode(&bytes) {
                    assert_eq!(edit.encode(), bytes, "byte {at} bit {bit}");
                }
            }
        }
    }

    #[test]
    fn what_a_newer_version_wrote_is_named() {
        let newer = |bytes: &[u8]| match VersionEdit::decode(bytes) {
            Err(EditFault::Newer { what, found, .. }) => (what, found),
            other => panic!("{other:?}"),
        };
        assert_eq!(newer(&[2, 0]), ("edit version", 2));
        assert_eq!(newer(&[1, 4]), ("edit flags", 4));
        assert_eq!(newer(&[1, 0, 0x20, 0]), ("edit field", 0x20));
        let mut level = table(1);
        level.level = 7;
        let edit = VersionEdit { added: vec![level], ..VersionEdit::default() };
        assert_eq!(newer(&edit.encode()), ("level", 7));
    }

    proptest! {
        #[test]
        fn decoding_anything_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = bytes;
            for lead in [None, Some([1, 0]), Some([1, 1])] {
                if let (Some(lead), true) = (lead, bytes.len() >= 2) {
                    bytes[..2].copy_from_slice(&lead);
                }
                if let Ok(edit) = VersionEdit::decode(&bytes) {
                    prop_assert_eq!(edit.encode(), bytes.clone());
                }
            }
        }
    }
}
