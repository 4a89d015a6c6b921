//! The durable state: what all version edits so far add up to.
//!
//! Invariants, each checked by [`State::apply`] and refused as an error (a damaged or foreign manifest must not panic):
//! - numbers never go back; a table's file number is below the next one, its sequence numbers at or below the last one;
//! - tables of level 0 overlap as they like, a higher number is newer; below, the tables of one level are disjoint;
//! - an edit removes what is there and adds what is not; removals come first, so that one edit moves a table;
//! - a range delete is there at most once, and there are at most [`MAX_STORED_RANGE_DELETES`].
//!
//! An edit costs what it changes, not what there is: a manifest with many edits over many tables opens in their sum.

use super::edit::{RangeDelete, TableMeta, VersionEdit};
use crate::base::{LogIndex, SequenceNumber, Term};
use crate::limits::{MAX_FILE_NUMBER, MAX_STORED_INDEX, MAX_STORED_RANGE_DELETES, MAX_STORED_SEQ};
use std::collections::BTreeMap;
use std::ops::Bound;

/// See the module.
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
    /// The live tables by number. Changed by [`State::apply`] only.
    pub tables: BTreeMap<u64, TableMeta>,
    /// The range deletes that may still hide something in a table, by sequence number.
    pub range_deletes: BTreeMap<u64, RangeDelete>,
    /// The tables below level 0: (level, first key) → number.
    pub(in crate::engine) sorted: BTreeMap<(u8, Vec<u8>), u64>,
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
            self.remove_table(level, number)?;
        }
        for table in &edit.added {
            self.add_table(table)?;
        }
        for seq in &edit.forgotten {
            if self.range_deletes.remove(seq).is_none() {
                return Err(format!("the range delete of sequence number {seq} is not there"));
            }
        }
        for delete in &edit.range_deletes {
            self.add_range_delete(delete)?;
        }
        if self.oldest_readable > self.last_seq {
            return Err(format!(
                "the oldest readable sequence number {} is above the last one, {}",
                self.oldest_readable, self.last_seq
            ));
        }
        Ok(())
    }

    fn remove_table(&mut self, level: u8, number: u64) -> Result<(), String> {
        match self.tables.remove(&number) {
            Some(table) if table.level == level => {
                if level > 0 {
                    self.sorted.remove(&(level, table.smallest_key));
                }
                Ok(())
            }
            _ => Err(format!("table {number:016x} of level {level} is removed and not there")),
        }
    }

    fn add_table(&mut self, table: &TableMeta) -> Result<(), String> {
        let number = table.number;
        if number >= self.next_file {
            return Err(format!(
                "table {number:016x} is not below the next file number {:016x}",
                self.next_file
            ));
        }
        let seq = table.largest_seq.max(table.cleared_to);
        if seq > self.last_seq.0 {
            return Err(format!(
                "table {number:016x} holds sequence number {seq}, the last one is {}",
                self.last_seq
            ));
        }
        if table.level > 0 {
            self.add_sorted(table)?;
        }
        if self.tables.insert(number, table.clone()).is_some() {
            return Err(format!("table {number:016x} is added twice"));
        }
        Ok(())
    }

    /// Below level 0 no two tables of a level may hold the same key.
    fn add_sorted(&mut self, table: &TableMeta) -> Result<(), String> {
        let TableMeta { level, number, .. } = *table;
        let at = (level, table.smallest_key.clone());
        let before = self.sorted.range(..=&at).next_back();
        let after = self.sorted.range((Bound::Excluded(&at), Bound::Unbounded)).next();
        let before = before.filter(|((l, _), other)| {
            *l == level && self.tables[*other].largest_key >= table.smallest_key
        });
        let after = after.filter(|((l, key), _)| *l == level && *key <= table.largest_key);
        if let Some((_, other)) = before.or(after) {
            return Err(format!(
                "tables {number:016x} and {other:016x} of level {level} overlap, at \"{}\"",
                table.smallest_key.escape_ascii()
            ));
        }
        self.sorted.insert(at, number);
        Ok(())
    }

    fn add_range_delete(&mut self, delete: &RangeDelete) -> Result<(), String> {
        let seq = delete.seq;
        if seq > self.last_seq.0 {
            return Err(format!(
                "a range delete has sequence number {seq}, the last one is {}",
                self.last_seq
            ));
        }
        if self.range_deletes.insert(seq, delete.clone()).is_some() {
            return Err(format!("the range delete of sequence number {seq} is added twice"));
        }
        if self.range_deletes.len() > MAX_STORED_RANGE_DELETES {
            return Err(format!(
                "{} range deletes, of which at most {MAX_STORED_RANGE_DELETES} are possible",
                self.range_deletes.len()
            ));
        }
        Ok(())
    }

    /// The tables of a level below 0 by ascending key; those of level 0 by number, oldest first.
    pub fn level(&self, level: u8) -> impl Iterator<Item = &TableMeta> {
        let newest = if level == 0 { Some(self.tables.values()) } else { None };
        let newest = newest.into_iter().flatten().filter(|t| t.level == 0);
        let from = (level, Vec::new());
        let sorted = self.sorted.range(from..).take_while(move |((l, _), _)| *l == level);
        newest.chain(sorted.filter_map(|(_, number)| self.tables.get(number)))
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
            range_deletes: self.range_deletes.values().cloned().collect(),
            forgotten: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(number: u64, level: u8) -> TableMeta {
        TableMeta {
            level,
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

    fn keys(number: u64, level: u8, smallest: &[u8], largest: &[u8]) -> TableMeta {
        TableMeta {
            smallest_key: smallest.to_vec(),
            largest_key: largest.to_vec(),
            ..table(number, level)
        }
    }

    #[test]
    fn tables_of_a_level_below_0_are_disjoint_and_those_of_level_0_need_not_be() {
        let begin = VersionEdit {
            next_file: Some(20),
            last_seq: Some(SequenceNumber(9)),
            added: vec![keys(1, 1, b"d", b"f"), keys(2, 1, b"m", b"m"), keys(3, 2, b"a", b"z")],
            ..VersionEdit::default()
        };
        let mut state = State::default();
        state.apply(&begin).unwrap();
        let add = |table| VersionEdit { added: vec![table], ..VersionEdit::default() };
        for (smallest, largest) in
            [("a", "d"), ("d", "d"), ("e", "e"), ("f", "g"), ("a", "z"), ("m", "m"), ("l", "m")]
        {
            let table = keys(4, 1, smallest.as_bytes(), largest.as_bytes());
            let text = state.clone().apply(&add(table)).unwrap_err();
            assert!(text.contains("of level 1 overlap"), "{smallest}..{largest}: {text}");
        }
        for (smallest, largest) in [("a", "c"), ("f\0", "l"), ("n", "z")] {
            let table = keys(4, 1, smallest.as_bytes(), largest.as_bytes());
            state.clone().apply(&add(table)).unwrap();
        }
        state.apply(&add(keys(5, 0, b"a", b"z"))).unwrap();
        state.apply(&add(keys(6, 0, b"a", b"z"))).unwrap();
        // A move: gone from one level, there in the next, in one edit.
        let edit = VersionEdit {
            removed: vec![(2, 3), (1, 2)],
            added: vec![keys(2, 2, b"m", b"m")],
            ..VersionEdit::default()
        };
        state.apply(&edit).unwrap();
        let numbers = |level| state.level(level).map(|t| t.number).collect::<Vec<_>>();
        assert_eq!((numbers(0), numbers(1), numbers(2)), (vec![5, 6], vec![1], vec![2]));
        let mut copy = State::default();
        copy.apply(&state.to_edit()).unwrap();
        assert_eq!(copy, state);
    }

    #[test]
    fn range_deletes_come_and_go_and_are_bounded() {
        let delete = |seq| RangeDelete { seq, start: b"a".to_vec(), end: b"c".to_vec() };
        let add = |seqs: std::ops::Range<u64>| VersionEdit {
            last_seq: Some(SequenceNumber(1_000_000)),
            range_deletes: seqs.map(delete).collect(),
            ..VersionEdit::default()
        };
        let mut state = State::default();
        state.apply(&add(1..4)).unwrap();
        assert!(state.clone().apply(&add(2..3)).unwrap_err().contains("added twice"));
        assert!(state.clone().apply(&add(1_000_001..1_000_002)).unwrap_err().contains("last one"));
        let forget = VersionEdit { forgotten: vec![2], ..VersionEdit::default() };
        state.apply(&forget).unwrap();
        assert!(state.clone().apply(&forget).unwrap_err().contains("not there"));
        let mut copy = State::default();
        copy.apply(&state.to_edit()).unwrap();
        assert_eq!(copy, state);
        let most = MAX_STORED_RANGE_DELETES as u64;
        state.apply(&add(10..10 + most - 2)).unwrap();
        assert!(state.apply(&add(5..6)).unwrap_err().contains("at most"));
    }

    #[test]
    fn state_refuses_contradictions() {
        let mut state = State::default();
        let first = VersionEdit {
            next_file: Some(9),
            last_seq: Some(SequenceNumber(9)),
            added: vec![table(5, 0)],
            ..VersionEdit::default()
        };
        state.apply(&first).unwrap();
        let refused = |edit: VersionEdit| state.clone().apply(&edit).unwrap_err();
        let edit = VersionEdit::default;
        assert!(refused(VersionEdit { added: vec![table(5, 0)], ..edit() }).contains("twice"));
        assert!(refused(VersionEdit { added: vec![table(9, 0)], ..edit() }).contains("not below"));
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
}
