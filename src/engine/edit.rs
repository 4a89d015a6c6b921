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
//! ```
//!
//! Invariants: one spelling for each edit (fields ordered by tag, each of 01 to 05 at most once, canonical varints);
//! an unknown tag is a newer format and refused; decoding never panics and allocates no more than the record holds.

use crate::base::varint;
use crate::base::{LogIndex, SequenceNumber, Term};
use crate::limits::{MAX_FILE_NUMBER, MAX_KEY_BYTES, MAX_STORED_INDEX, MAX_STORED_SEQ};
use std::collections::BTreeMap;

/// The format version this code writes and reads.
pub const EDIT_VERSION: u8 = 1;
/// Levels that this version knows. New tables are in level 0; compaction (issue 5) will name more.
pub const MAX_LEVELS: u8 = 1;
const FLAG_FULL: u8 = 1;

mod tag {
    pub const APPLIED: u8 = 0x01;
    pub const LAST_SEQ: u8 = 0x02;
    pub const OLDEST_READABLE: u8 = 0x03;
    pub const NEXT_FILE: u8 = 0x04;
    pub const INSTALLED: u8 = 0x05;
    pub const ADD_TABLE: u8 = 0x10;
    pub const REMOVE_TABLE: u8 = 0x11;
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
            put_field(&mut out, tag::ADD_TABLE, &encode_table(table));
        }
        for &(level, number) in &self.removed {
            let mut body = vec![level];
            body.extend_from_slice(&number.to_be_bytes());
            put_field(&mut out, tag::REMOVE_TABLE, &body);
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
        let mut last_tag = 0;
        while input.at < bytes.len() {
            let offset = input.at;
            let tag = input.u8("a tag")?;
            if tag < last_tag || (tag == last_tag && tag < tag::ADD_TABLE) {
                return Err(EditFault::Bad { offset, expected: "tags in ascending order" });
            }
            last_tag = tag;
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
            found => return Err(EditFault::Newer { offset, what: "edit field", found }),
        }
        Ok(())
    }
}

fn encode_entry((index, term): (LogIndex, Term)) -> Vec<u8> {
    [index.0.to_be_bytes(), term.0.to_be_bytes()].concat()
}

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
        let key = self.slice("a user key")?;
        if key.is_empty() || key.len() > MAX_KEY_BYTES {
            return Err(EditFault::Bad { offset, expected: "a key within the limits" });
        }
        Ok(key.to_vec())
    }
}

/// The durable state: what all edits so far add up to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct State {
    /// The last log entry whose effects the tables hold.
    pub applied: (LogIndex, Term),
    /// The last sequence number that the tables hold.
    pub last_seq: SequenceNumber,
    /// The oldest sequence number that can be read.
    pub oldest_readable: SequenceNumber,
    /// File numbers from here on are unused.
    pub next_file: u64,
    /// What is applied is a snapshot of another replica at this entry, and nothing more: a log that does not hold it is
    /// legitimately behind. Gone with the first flush that moves `applied` past it.
    pub installed: Option<(LogIndex, Term)>,
    /// The live tables by number.
    pub tables: BTreeMap<u64, TableMeta>,
}

impl State {
    /// Adds one edit. The error says what contradicts the state; the state is then half changed and useless.
    pub fn apply(&mut self, edit: &VersionEdit) -> Result<(), String> {
        if edit.full {
            *self = Self::default();
        }
        if let Some(applied) = edit.applied {
            if applied.0 < self.applied.0 {
                return Err(format!("applied goes back from {} to {}", self.applied.0, applied.0));
            }
            self.applied = applied;
            self.installed = self.installed.filter(|installed| *installed == applied);
        }
        if let Some(installed) = edit.installed {
            if installed != self.applied {
                return Err(format!(
                    "a snapshot of entry {} is installed, but applied is {}",
                    installed.0, self.applied.0
                ));
            }
            self.installed = Some(installed);
        }
        let not_back = |name: &str, old: u64, new: u64| {
            if new < old { Err(format!("{name} goes back from {old} to {new}")) } else { Ok(()) }
        };
        if let Some(seq) = edit.last_seq {
            not_back("last sequence number", self.last_seq.0, seq.0)?;
            self.last_seq = seq;
        }
        if let Some(seq) = edit.oldest_readable {
            not_back("oldest readable sequence number", self.oldest_readable.0, seq.0)?;
            self.oldest_readable = seq;
        }
        if let Some(number) = edit.next_file {
            not_back("next file number", self.next_file, number)?;
            self.next_file = number;
        }
        for &(level, number) in &edit.removed {
            if self.tables.remove(&number).is_none_or(|t| t.level != level) {
                return Err(format!(
                    "table {number:016x} of level {level} is removed and not there"
                ));
            }
        }
        for table in &edit.added {
            if self.tables.insert(table.number, table.clone()).is_some() {
                return Err(format!("table {:016x} is added twice", table.number));
            }
        }
        self.check()
    }

    /// What holds between the fields.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.oldest_readable > self.last_seq {
            return Err(format!(
                "the oldest readable sequence number {} is above the last one, {}",
                self.oldest_readable, self.last_seq
            ));
        }
        for table in self.tables.values() {
            if table.number >= self.next_file {
                return Err(format!(
                    "table {:016x} is not below the next file number {:016x}",
                    table.number, self.next_file
                ));
            }
            if table.largest_seq > self.last_seq.0 {
                return Err(format!(
                    "table {:016x} holds sequence number {}, the last one is {}",
                    table.number, table.largest_seq, self.last_seq
                ));
            }
        }
        Ok(())
    }

    /// Whether the numbers leave room to go on: what is read from a file may be anything, and the engine computes the
    /// next ones from it. No state that BeachDB wrote gets there.
    pub fn check_room(&self) -> Result<(), String> {
        for (what, found, max) in [
            ("applied index", self.applied.0.0, MAX_STORED_INDEX),
            ("applied term", self.applied.1.0, MAX_STORED_INDEX),
            ("last sequence number", self.last_seq.0, MAX_STORED_SEQ),
            ("next file number", self.next_file, MAX_FILE_NUMBER),
        ] {
            if found > max {
                return Err(format!("{what} {found}, of which at most {max} is possible"));
            }
        }
        Ok(())
    }

    /// The full edit that says the same.
    #[must_use]
    pub fn to_edit(&self) -> VersionEdit {
        VersionEdit {
            full: true,
            applied: Some(self.applied),
            last_seq: Some(self.last_seq),
            oldest_readable: Some(self.oldest_readable),
            next_file: Some(self.next_file),
            installed: self.installed,
            added: self.tables.values().cloned().collect(),
            removed: Vec::new(),
        }
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
    }

    #[test]
    fn every_truncation_and_every_flip_is_refused_or_reads_back_as_itself() {
        let good = sample().encode();
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
        level.level = 3;
        let edit = VersionEdit { added: vec![level], ..VersionEdit::default() };
        assert_eq!(newer(&edit.encode()), ("level", 3));
    }

    #[test]
    fn state_refuses_contradictions() {
        let mut state = State::default();
        let first = VersionEdit {
            next_file: Some(9),
            last_seq: Some(SequenceNumber(9)),
            added: vec![table(5)],
            ..VersionEdit::default()
        };
        state.apply(&first).unwrap();
        let refused = |edit: VersionEdit| state.clone().apply(&edit).unwrap_err();
        let edit = VersionEdit::default;
        assert!(refused(VersionEdit { added: vec![table(5)], ..edit() }).contains("twice"));
        assert!(refused(VersionEdit { added: vec![table(9)], ..edit() }).contains("not below"));
        assert!(refused(VersionEdit { removed: vec![(0, 4)], ..edit() }).contains("not there"));
        assert!(refused(VersionEdit { next_file: Some(8), ..edit() }).contains("goes back"));
        let mut copy = State::default();
        copy.apply(&state.to_edit()).unwrap();
        assert_eq!(copy, state);
    }

    #[test]
    fn a_state_is_a_snapshot_until_something_else_is_applied() {
        let at = |index| Some((LogIndex(index), Term(2)));
        let mut state = State::default();
        let edit = VersionEdit { applied: at(7), installed: at(7), ..VersionEdit::default() };
        state.apply(&edit).unwrap();
        assert_eq!(state.installed, at(7));
        let mut copy = State::default();
        copy.apply(&state.to_edit()).unwrap();
        assert_eq!(copy, state, "a rotation keeps it");
        state.apply(&VersionEdit { next_file: Some(9), ..VersionEdit::default() }).unwrap();
        assert_eq!(state.installed, at(7));
        let elsewhere = VersionEdit { installed: at(8), ..VersionEdit::default() };
        assert!(state.clone().apply(&elsewhere).unwrap_err().contains("snapshot of entry 8"));
        state.apply(&VersionEdit { applied: at(8), ..VersionEdit::default() }).unwrap();
        assert_eq!(state.installed, None);
    }

    #[test]
    fn numbers_without_room_are_told_from_the_largest_possible_ones() {
        let most = State {
            applied: (LogIndex(MAX_STORED_INDEX), Term(MAX_STORED_INDEX)),
            last_seq: SequenceNumber(MAX_STORED_SEQ),
            next_file: MAX_FILE_NUMBER,
            ..State::default()
        };
        most.check_room().unwrap();
        let refused = |change: fn(&mut State)| {
            let mut state = most.clone();
            change(&mut state);
            state.check_room().unwrap_err()
        };
        assert!(refused(|s| s.applied.0.0 += 1).contains("applied index"));
        assert!(refused(|s| s.applied.1.0 = u64::MAX).contains("applied term"));
        assert!(refused(|s| s.last_seq = SequenceNumber::MAX).contains("last sequence number"));
        assert!(refused(|s| s.next_file = u64::MAX).contains("next file number"));
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
