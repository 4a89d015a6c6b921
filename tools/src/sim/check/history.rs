//! [`History`]: what clients asked and were told, in real time, and the checks that need both: floors on the total
//! order, and linearizability per key at the end.
//!
//! *Floors.* Everything that was acknowledged before an operation began stands below it in the one total order
//! (linearizability, in the words of sequence numbers). So an operation remembers at its beginning the highest place
//! acknowledged so far, to anybody, and its own place must not be below. That catches a stale read at once, where the
//! black-box checker of [`super::register`] waits for the end.
//!
//! *Attempts.* A write that was told "not applied" never takes effect: of `sent` attempts with `refused` refusals at
//! most `sent - refused` are ever applied (and with a session at most one, see [`super::model`]).

use super::model::{Model, WriteId};
use super::register::{self, Action, Answer, Operation};
use crate::sim::hooks::{Marks, Verdict, Violation};
use beachdb::base::{LogIndex, SequenceNumber};
use std::collections::BTreeMap;

/// A place in the total order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Floor {
    /// Of writes.
    pub index: LogIndex,
    /// Of writes and reads.
    pub seq: SequenceNumber,
}

/// A key and the number of the value that is written there; `None` deletes.
pub type KeyWrite = (Vec<u8>, Option<u64>);

/// What became of a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It took effect, and its client knows.
    Applied,
    /// Its client gave up.
    Unknown,
    /// Every attempt was told that it is not applied.
    Never,
}

/// The mark of a key whose history was judged.
pub const CHECKED: &str = "keys checked for linearizability";
/// The mark of a request that its client knows was not taken, from the goodbye of a node that drained.
pub const GOODBYE: &str = "request not taken by the goodbye of a drained node";
/// The mark of one whose history was too hard; also counted as checked.
pub const GAVE_UP: &str = "checker gave up on a key";

#[derive(Clone, Copy, Debug, Default)]
struct Attempts {
    sent: u32,
    refused: u32,
    applied: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub struct History {
    /// The cluster as it must be.
    pub model: Model,
    /// What was covered.
    pub marks: Marks,
    /// Operations answered with success.
    pub acknowledged: u64,
    clock: u64,
    floor: Floor,
    keys: BTreeMap<Vec<u8>, Vec<Operation>>,
    /// Writes without an outcome yet: when they were called, and what they write.
    open: BTreeMap<u64, (u64, Vec<KeyWrite>)>,
    attempts: BTreeMap<WriteId, Attempts>,
    violation: Option<Violation>,
}

impl History {
    /// Of nodes with room for this many sessions.
    #[must_use]
    pub fn new(max_sessions: usize) -> Self {
        Self { model: Model::new(max_sessions), ..Self::default() }
    }

    /// The next moment: all different, in the order of the run.
    pub fn moment(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// What an operation that begins now must not fall behind.
    #[must_use]
    pub const fn floor(&self) -> Floor {
        self.floor
    }

    /// Remembers the first violation; the observer reports it with its next step.
    pub fn judge(&mut self, verdict: Verdict) {
        if let Err(violation) = verdict {
            self.violation.get_or_insert(violation);
        }
    }

    /// The first violation so far.
    pub fn verdict(&mut self) -> Verdict {
        self.violation.take().map_or(Ok(()), Err)
    }

    /// One more attempt at this write leaves its client.
    pub fn sent(&mut self, id: WriteId) {
        self.attempts.entry(id).or_default().sent += 1;
    }

    /// An attempt was told that it is not applied.
    pub fn refused(&mut self, id: WriteId) {
        self.attempts.entry(id).or_default().refused += 1;
        self.check_attempts(id);
    }

    /// The first replica applied this write.
    pub fn applied(&mut self, id: WriteId) {
        self.attempts.entry(id).or_default().applied += 1;
        self.check_attempts(id);
    }

    fn check_attempts(&mut self, id: WriteId) {
        let a = self.attempts.get(&id).copied().unwrap_or_default();
        if a.applied + a.refused > a.sent {
            let what = format!(
                "{id:?}: sent {} times, {} times told that it is not applied, applied {} times",
                a.sent, a.refused, a.applied
            );
            self.judge(Err(Violation::new("not-applied-is-never-applied", what)));
        }
    }

    /// A write that began above `floor` was answered.
    pub fn written(
        &mut self,
        id: WriteId,
        floor: Floor,
        index: LogIndex,
        first_seq: SequenceNumber,
        last_seq: SequenceNumber,
    ) {
        let verdict = self.model.check_written(id, index, first_seq, last_seq);
        self.judge(verdict);
        if index <= floor.index || first_seq <= floor.seq {
            let what = format!(
                "{id:?} at entry {index}, {first_seq}, began after {floor:?} was acknowledged"
            );
            self.judge(Err(Violation::new("order-keeps-real-time", what)));
        }
        self.acknowledged += 1;
        self.floor.index = self.floor.index.max(index);
        self.floor.seq = self.floor.seq.max(last_seq);
    }

    /// A session that was asked for above `floor` began with this entry.
    pub fn registered(&mut self, index: LogIndex, floor: Floor) {
        if index <= floor.index || index > self.model.applied() {
            let what = format!(
                "session {index} began above {floor:?}; {} is applied",
                self.model.applied()
            );
            self.judge(Err(Violation::new("order-keeps-real-time", what)));
        }
        self.acknowledged += 1;
        self.floor.index = self.floor.index.max(index);
    }

    /// A read that began above `floor` saw the state as of `seq`.
    pub fn read_at(&mut self, floor: Floor, seq: SequenceNumber) {
        if seq < floor.seq {
            let what = format!("a read as of {seq} began after {} was acknowledged", floor.seq);
            self.judge(Err(Violation::new("stale-read", what)));
        }
        self.acknowledged += 1;
        self.floor.seq = self.floor.seq.max(seq);
    }

    /// Adds to the history of a key.
    pub fn record(&mut self, key: &[u8], call: u64, ret: Option<u64>, action: Action) {
        let operation = Operation { call, ret, action };
        match self.keys.get_mut(key) {
            Some(history) => history.push(operation),
            None => drop(self.keys.insert(key.to_vec(), vec![operation])),
        }
    }

    /// Write `op` begins: its outcome is unknown until it [ends](Self::end).
    pub fn begin(&mut self, op: u64, call: u64, writes: Vec<KeyWrite>) {
        self.open.insert(op, (call, writes));
    }

    /// What became of write `op`.
    pub fn end(&mut self, op: u64, fate: Fate) {
        let Some((call, writes)) = self.open.remove(&op) else { return };
        let ret = match fate {
            Fate::Applied => Some(self.moment()),
            Fate::Unknown => None,
            Fate::Never => return,
        };
        for (key, value) in writes {
            self.record(&key, call, ret, Action::Write(value));
        }
    }

    /// Linearizability of every key.
    pub fn check_registers(&mut self) -> Verdict {
        let open: Vec<u64> = self.open.keys().copied().collect();
        for op in open {
            self.end(op, Fate::Unknown);
        }
        for (key, history) in &self.keys {
            match register::check(history) {
                Answer::Linearizable => {}
                Answer::Not { stuck, explained } => {
                    let what = format!(
                        "key {}: no order explains {stuck:?}; {explained} of {} operations fit",
                        key.escape_ascii(),
                        history.len()
                    );
                    return Err(Violation::new("linearizability", what));
                }
                Answer::GaveUp => self.marks.add(GAVE_UP, 1),
            }
            self.marks.add(CHECKED, 1);
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "history_tests.rs"]
mod tests;
