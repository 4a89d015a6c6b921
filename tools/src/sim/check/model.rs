//! [`Model`]: what the cluster must be, kept beside it: the one committed log, and every key's versions by sequence
//! number, built by this file's own few lines and not by the engine.
//!
//! The first replica that commits or applies an index sets what stands there; every other one must agree (state-machine
//! safety). Replies carry their place in the one total order, so each is compared with the model *at that place*: a torn
//! batch, a torn scan, a write that was applied twice or lost, or a sequence number that two replicas give to different
//! operations shows as a difference, where a checker of single keys is blind (pitfall 56).
//!
//! It does not judge real time: [`super::history`] does, with floors.

use super::sessions::Sessions;
use crate::sim::hooks::{Verdict, Violation};
use beachdb::base::batch::{BatchRef, Op};
use beachdb::base::conditions::first_failed;
use beachdb::base::hash::key_hash;
use beachdb::base::{LogIndex, ReplicaId, SequenceNumber, Term};
use beachdb::node::EntryOutcome;
use beachdb::proto::{ConditionFailed, ScanEntry};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::convert::Infallible;

/// Sequence numbers of history kept behind the newest; a reply about older ones is not compared.
const KEPT_SEQUENCE_NUMBERS: u64 = 50_000;
/// The versions are thinned out every so many entries.
const PRUNE_EVERY: u64 = 10_000;

/// What stands at an index, once and for all.
#[derive(Clone, Debug)]
struct Committed {
    term: Term,
    /// Of the payload; `None` while no replica that knew it was asked.
    payload: Option<u64>,
    /// The term in which somebody first held it for committed.
    in_term: Term,
    by: ReplicaId,
    applied: Option<(EntryOutcome, ReplicaId)>,
    /// The state machine's last sequence number after it, where a step ended there.
    last_seq: Option<(SequenceNumber, ReplicaId)>,
}

/// One key's versions: sequence number and value, ascending; `None` is a tombstone.
type Versions = Vec<(SequenceNumber, Option<Bytes>)>;

/// See the module.
#[derive(Debug, Default)]
pub struct Model {
    /// By index.
    log: BTreeMap<LogIndex, Committed>,
    keys: BTreeMap<Bytes, Versions>,
    /// The last index applied here; all before it are applied too.
    applied: LogIndex,
    last_seq: SequenceNumber,
    /// The highest that any state machine showed: rows that users do not see have sequence numbers too.
    shown: SequenceNumber,
    /// Older states are not compared any more.
    oldest: SequenceNumber,
    /// Where each session's write was applied.
    sessions: BTreeMap<(u64, u64), LogIndex>,
    /// What every entry must come to.
    rules: Sessions,
}

/// The name of a write in the log: its session and sequence, or the hash of its bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum WriteId {
    /// With a session.
    Session(u64, u64),
    /// Without one.
    Payload(u64),
}

impl WriteId {
    /// Of these bytes.
    #[must_use]
    pub fn of(batch: BatchRef<'_>) -> Self {
        match batch.client_id() {
            0 => Self::Payload(key_hash(batch.as_bytes())),
            client => Self::Session(client, batch.client_sequence()),
        }
    }
}

fn broken(rule: &str, what: String) -> Verdict {
    Err(Violation::new(rule, what))
}

impl Model {
    /// Of nodes with room for this many sessions.
    #[must_use]
    pub fn new(max_sessions: usize) -> Self {
        Self { rules: Sessions::new(max_sessions), ..Self::default() }
    }

    /// The last sequence number that any replica gave out.
    #[must_use]
    pub const fn last_seq(&self) -> SequenceNumber {
        self.last_seq
    }

    /// The last sequence number that any state machine showed, internal rows counted.
    #[must_use]
    pub const fn shown(&self) -> SequenceNumber {
        self.shown
    }

    /// The last index that any replica applied.
    #[must_use]
    pub const fn applied(&self) -> LogIndex {
        self.applied
    }

    /// The highest index that any replica held for committed.
    #[must_use]
    pub fn committed(&self) -> LogIndex {
        self.log.keys().next_back().copied().unwrap_or_default()
    }

    /// Term of the entry that is committed at `index`, and the term in which that was first known.
    #[must_use]
    pub fn term_at(&self, index: LogIndex) -> Option<(Term, Term)> {
        self.log.get(&index).map(|c| (c.term, c.in_term))
    }

    /// `by`, in `in_term`, holds this entry for committed.
    pub fn commit(
        &mut self,
        by: ReplicaId,
        in_term: Term,
        index: LogIndex,
        term: Term,
        payload: Option<u64>,
    ) -> Verdict {
        let entry = self.log.entry(index).or_insert(Committed {
            term,
            payload,
            in_term,
            by,
            applied: None,
            last_seq: None,
        });
        entry.in_term = entry.in_term.min(in_term);
        if entry.term != term
            || (payload.is_some() && entry.payload.is_some_and(|p| Some(p) != payload))
        {
            let what = format!(
                "entry {index}: {by} has term {term}, payload {payload:x?}; {} has term {}, payload {:x?}",
                entry.by, entry.term, entry.payload
            );
            return broken("one-committed-log", what);
        }
        entry.payload = entry.payload.or(payload);
        Ok(())
    }

    /// `by` applied an entry. Returns the write's name when it is the first to apply it, and it changed something.
    pub fn apply(
        &mut self,
        by: ReplicaId,
        in_term: Term,
        (index, term): (LogIndex, Term),
        payload: &Bytes,
        outcome: EntryOutcome,
    ) -> Result<Option<WriteId>, Violation> {
        self.commit(by, in_term, index, term, Some(key_hash(payload)))?;
        let entry = self.log.get_mut(&index).expect("committed just now");
        if let Some((expected, first)) = &entry.applied {
            if *expected != outcome {
                let what =
                    format!("entry {index}: {by} says {outcome:?}, {first} said {expected:?}");
                return Err(Violation::new("state-machine-safety", what));
            }
            return Ok(None);
        }
        entry.applied = Some((outcome, by));
        if index != self.applied.next() {
            let what =
                format!("{by} applied entry {index}, and nobody ever {}", self.applied.next());
            return Err(Violation::new("applied-in-order", what));
        }
        self.applied = index;
        self.first_apply(by, index, payload, outcome)
    }

    fn first_apply(
        &mut self,
        by: ReplicaId,
        index: LogIndex,
        payload: &Bytes,
        outcome: EntryOutcome,
    ) -> Result<Option<WriteId>, Violation> {
        let batch = BatchRef::parse(payload).map_err(|e| {
            Violation::new("entry-is-a-batch", format!("entry {index} applied by {by}: {e}"))
        })?;
        let user: Vec<Op<'_>> = batch
            .ops()
            .filter(|op| matches!(op, Op::Put { .. } | Op::Delete { .. } | Op::DeleteRange { .. }))
            .collect();
        let id = WriteId::of(batch);
        let by_the_rules = self.rules.check(index, batch, outcome);
        self.check_conditions(index, &batch, outcome)?;
        let write = match outcome {
            EntryOutcome::ConditionFailed(_) => {
                self.exactly_once(index, id)?;
                None
            }
            EntryOutcome::Written { first_seq, last_seq }
                if !user.is_empty() || batch.has_conditions() =>
            {
                self.exactly_once(index, id)?;
                if first_seq <= self.last_seq || last_seq.0 + 1 != first_seq.0 + user.len() as u64 {
                    let what = format!(
                        "entry {index} of {} operations got {first_seq} to {last_seq} from {by}, after {}",
                        user.len(),
                        self.last_seq
                    );
                    return Err(Violation::new("sequence-numbers", what));
                }
                for (op, seq) in user.iter().zip(first_seq.0..) {
                    self.set(op, payload, SequenceNumber(seq));
                }
                self.last_seq = last_seq;
                self.prune(index);
                Some(id)
            }
            EntryOutcome::Duplicate { index: original } => {
                let WriteId::Session(client, sequence) = id else {
                    let what = format!("entry {index} has no session and is a duplicate");
                    return Err(Violation::new("exactly-once", what));
                };
                match self.sessions.get(&(client, sequence)) {
                    Some(at) if *at == original => None,
                    at => {
                        let what = format!(
                            "entry {index} (session {client}, sequence {sequence}) repeats {original}, it stands at {at:?}"
                        );
                        return Err(Violation::new("exactly-once", what));
                    }
                }
            }
            _ => None,
        };
        by_the_rules.map(|()| write)
    }

    /// An entry comes to what its conditions say of the state at its place in the log.
    fn check_conditions(
        &self,
        index: LogIndex,
        batch: &BatchRef<'_>,
        outcome: EntryOutcome,
    ) -> Verdict {
        let newest = |key: &[u8]| {
            let (seq, value) = self.keys.get(key)?.last()?;
            value.as_ref().map(|_| *seq)
        };
        let Ok(expected) = first_failed(batch, |key| Ok::<_, Infallible>(newest(key)));
        let found = match outcome {
            EntryOutcome::Written { .. } => None,
            EntryOutcome::ConditionFailed(failed) => Some(failed),
            _ => return Ok(()),
        };
        if found == expected {
            return Ok(());
        }
        let conditions: Vec<String> = batch
            .conditions()
            .map(|c| format!("{} {}, has {:?}", c.key.escape_ascii(), c.expect, newest(c.key)))
            .collect();
        broken("conditions", format!("entry {index} came to {outcome:?}, of {conditions:?}"))
    }

    fn exactly_once(&mut self, index: LogIndex, id: WriteId) -> Verdict {
        let WriteId::Session(client, sequence) = id else { return Ok(()) };
        match self.sessions.insert((client, sequence), index) {
            None => Ok(()),
            Some(first) => {
                let what = format!(
                    "session {client}, sequence {sequence} was applied at {first} and again at {index}"
                );
                broken("exactly-once", what)
            }
        }
    }

    fn set(&mut self, op: &Op<'_>, payload: &Bytes, seq: SequenceNumber) {
        let (key, value) = match *op {
            Op::Put { key, value } => (key, Some(payload.slice_ref(value))),
            Op::Delete { key } => (key, None),
            Op::DeleteRange { start, end } => return self.delete_range(start, end, seq),
            _ => return,
        };
        match self.keys.get_mut(key) {
            Some(versions) => versions.push((seq, value)),
            None => drop(self.keys.insert(Bytes::copy_from_slice(key), vec![(seq, value)])),
        }
    }

    /// A tombstone on each key of the range that has a value.
    fn delete_range(&mut self, start: &[u8], end: &[u8], seq: SequenceNumber) {
        let from = Bytes::copy_from_slice(start);
        let is_in = |key: &Bytes| end.is_empty() || &key[..] < end;
        for (_, versions) in self.keys.range_mut(from..).take_while(|(key, _)| is_in(key)) {
            if versions.last().is_some_and(|(_, value)| value.is_some()) {
                versions.push((seq, None));
            }
        }
    }

    fn prune(&mut self, index: LogIndex) {
        if !index.0.is_multiple_of(PRUNE_EVERY) {
            return;
        }
        self.oldest =
            self.oldest.max(SequenceNumber(self.last_seq.0.saturating_sub(KEPT_SEQUENCE_NUMBERS)));
        let oldest = self.oldest;
        for versions in self.keys.values_mut() {
            let keep = versions.iter().rposition(|(seq, _)| *seq <= oldest).unwrap_or(0);
            versions.drain(..keep);
        }
    }

    /// After `index`, the state machine of `by` stands at this sequence number.
    pub fn stands_at(&mut self, by: ReplicaId, index: LogIndex, seq: SequenceNumber) -> Verdict {
        self.shown = self.shown.max(seq);
        let Some(entry) = self.log.get_mut(&index) else { return Ok(()) };
        match entry.last_seq {
            None => entry.last_seq = Some((seq, by)),
            Some((expected, first)) if expected != seq => {
                let what = format!(
                    "after entry {index} {by} stands at sequence number {seq}, {first} at {expected}"
                );
                return broken("state-machine-safety", what);
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// A write was answered like this; `id` is what was asked.
    pub fn check_written(
        &self,
        id: WriteId,
        index: LogIndex,
        first_seq: SequenceNumber,
        last_seq: SequenceNumber,
    ) -> Verdict {
        let reply = format!("answered with entry {index}, {first_seq} to {last_seq}");
        let Some(entry) = self.log.get(&index) else {
            return broken("acknowledged-is-applied", format!("{id:?} {reply}, not committed"));
        };
        match (&entry.applied, id) {
            (Some((EntryOutcome::Written { first_seq: f, last_seq: l }, _)), _)
                if (*f, *l) != (first_seq, last_seq) =>
            {
                broken("acknowledged-is-applied", format!("{id:?} {reply}, applied as {f} to {l}"))
            }
            (Some((EntryOutcome::Written { .. }, _)), WriteId::Payload(hash))
                if entry.payload == Some(hash) =>
            {
                Ok(())
            }
            (Some((EntryOutcome::Written { .. }, _)), WriteId::Session(client, sequence))
                if self.sessions.get(&(client, sequence)) == Some(&index) =>
            {
                Ok(())
            }
            _ => broken(
                "acknowledged-is-applied",
                format!("{id:?} {reply}, where {:?} stands", entry.applied),
            ),
        }
    }

    /// A write was told that a condition failed; `id` is what was asked.
    pub fn check_failed(&self, id: WriteId, at: ConditionFailed) -> Verdict {
        let applied = self.log.get(&at.index).and_then(|entry| entry.applied);
        let is_its_own = match id {
            WriteId::Payload(hash) => {
                self.log.get(&at.index).is_some_and(|entry| entry.payload == Some(hash))
            }
            WriteId::Session(client, sequence) => {
                self.sessions.get(&(client, sequence)) == Some(&at.index)
            }
        };
        match applied {
            Some((EntryOutcome::ConditionFailed(failed), _))
                if is_its_own && failed == at.failed =>
            {
                Ok(())
            }
            applied => broken(
                "acknowledged-is-applied",
                format!("{id:?} was told {at:?}, where {applied:?} stands"),
            ),
        }
    }

    fn at(versions: &Versions, seq: SequenceNumber) -> Option<(SequenceNumber, &Bytes)> {
        let after = versions.partition_point(|(s, _)| *s <= seq);
        let (s, value) = versions.get(after.checked_sub(1)?)?;
        Some((*s, value.as_ref()?))
    }

    /// A place in the order that replies may name: not from the future. `false`: so old that nothing is known.
    fn known(&self, seq: SequenceNumber, what: &str) -> Result<bool, Violation> {
        if seq > self.shown {
            let what = format!("{what} as of {seq}, the newest anywhere is {}", self.shown);
            return Err(Violation::new("read-from-the-future", what));
        }
        Ok(seq >= self.oldest)
    }

    /// A read of `key` as of `seq` found this.
    pub fn check_get(
        &self,
        key: &[u8],
        seq: SequenceNumber,
        found: Option<(SequenceNumber, &Bytes)>,
    ) -> Verdict {
        if !self.known(seq, "a read")? {
            return Ok(());
        }
        let expected = self.keys.get(key).and_then(|versions| Self::at(versions, seq));
        if expected == found {
            return Ok(());
        }
        let what = format!(
            "{} as of {seq}: found {}, expected {}",
            key.escape_ascii(),
            show(found),
            show(expected)
        );
        broken("read-is-the-state-at-its-place", what)
    }

    /// A page of a scan as of `seq`, of all keys from `start` and below `end` (`None`: no end), found these.
    pub fn check_scan(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        seq: SequenceNumber,
        found: &[ScanEntry],
    ) -> Verdict {
        if !self.known(seq, "a scan")? {
            return Ok(());
        }
        let mut found = found.iter();
        let below = |key: &Bytes| end.is_none_or(|end| &key[..] < end);
        let from = Bytes::copy_from_slice(start);
        for (key, versions) in self.keys.range(from..).take_while(|(key, _)| below(key)) {
            let Some((written, value)) = Self::at(versions, seq) else { continue };
            match found.next() {
                Some(e) if e.key == *key && e.seq == written && e.value == *value => {}
                other => {
                    let what = format!(
                        "as of {seq}: found {:?}, expected {} = {}",
                        other.map(|e| (
                            e.key.escape_ascii().to_string(),
                            show(Some((e.seq, &e.value)))
                        )),
                        key.escape_ascii(),
                        show(Some((written, value)))
                    );
                    return broken("scan-is-the-state-at-its-place", what);
                }
            }
        }
        match found.next() {
            None => Ok(()),
            Some(extra) => {
                let what = format!("as of {seq}: {} is not there", extra.key.escape_ascii());
                broken("scan-is-the-state-at-its-place", what)
            }
        }
    }
}

fn show(found: Option<(SequenceNumber, &Bytes)>) -> String {
    match found {
        None => "nothing".to_owned(),
        Some((seq, value)) => {
            format!("{}… of {seq}", value[..value.len().min(18)].escape_ascii())
        }
    }
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod tests;
