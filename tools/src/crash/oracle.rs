//! What the database may contain after a crash, and what is wrong when it does not.
//!
//! For each writer there is a state of acknowledged operations and at most one operation in flight. After a crash
//! its keys must be exactly that state, or that state with *all* changes of the operation in flight. The choice
//! is the database's, once: what a verified image shows is from then on what must stay.
//!
//! ```text
//! begin(op 7) ─ ack(op 7) ─ begin(op 8) ─ kill -9 ─ verify: state after 7, or after 8, never between
//! ```

use super::workload::{Content, Operation, Workload, origin};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Something that must not be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Violation {
    /// An acknowledged change is not there.
    LostAck {
        /// Whose.
        writer: u32,
        /// The acknowledged operation.
        operation: u64,
        /// The key.
        key: String,
        /// What is there instead.
        found: String,
    },
    /// Of the operation in flight some changes are there and some are not.
    TornBatch {
        /// Whose.
        writer: u32,
        /// The operation in flight.
        operation: u64,
        /// Keys that show it.
        applied: Vec<String>,
        /// Keys that do not.
        missing: Vec<String>,
    },
    /// A key that must not exist.
    Unexpected {
        /// The key.
        key: String,
        /// What is there.
        found: String,
    },
    /// A second recovery of the same files gave another content.
    RecoveriesDiffer {
        /// Digest of the first.
        first: String,
        /// Digest of the second.
        second: String,
    },
    /// The database did not start, stopped by itself, or broke its protocol.
    Failed {
        /// What happened.
        what: String,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LostAck { writer, operation, key, found } => write!(
                f,
                "lost: {key} must show operation {operation} of writer {writer}, which was acknowledged; \
                 found {found}"
            ),
            Self::TornBatch { writer, operation, applied, missing } => write!(
                f,
                "torn: of operation {operation} of writer {writer}, not acknowledged, {} are there and {} are not",
                applied.join(" "),
                missing.join(" ")
            ),
            Self::Unexpected { key, found } => {
                write!(f, "unexpected: {key} must not exist; found {found}")
            }
            Self::RecoveriesDiffer { first, second } => {
                write!(f, "unstable: the first recovery has digest {first}, the second {second}")
            }
            Self::Failed { what } => write!(f, "failed: {what}"),
        }
    }
}

/// What is known of one writer.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct WriterState {
    /// For each key that must exist: the operation that wrote it last.
    pub keys: BTreeMap<String, u64>,
    /// The last operation that was begun.
    pub begun: u64,
    /// The operation whose outcome is not known.
    pub in_flight: Option<u64>,
}

/// The oracle; serializable, so that an artifact carries it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Oracle {
    workload: Workload,
    writers: Vec<WriterState>,
    acknowledged: u64,
}

impl Oracle {
    /// An empty database.
    #[must_use]
    pub fn new(workload: Workload) -> Self {
        let writers = vec![WriterState::default(); workload.writers as usize];
        Self { workload, writers, acknowledged: 0 }
    }

    /// The workload it knows.
    #[must_use]
    pub const fn workload(&self) -> Workload {
        self.workload
    }

    /// Operations acknowledged so far, all writers together.
    #[must_use]
    pub const fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Writers with an operation of unknown outcome.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.writers.iter().filter(|w| w.in_flight.is_some()).count()
    }

    /// The number of the next operation of `writer`.
    #[must_use]
    pub fn next_operation(&self, writer: u32) -> u64 {
        self.writers[writer as usize].begun + 1
    }

    fn state(&mut self, writer: u32) -> Result<&mut WriterState, Violation> {
        let missing = || Violation::Failed { what: format!("there is no writer {writer}") };
        self.writers.get_mut(writer as usize).ok_or_else(missing)
    }

    /// `writer` is about to send operation `number`.
    pub fn begin(&mut self, writer: u32, number: u64) -> Result<(), Violation> {
        let state = self.state(writer)?;
        if state.in_flight.is_some() || number != state.begun + 1 {
            let what = format!("writer {writer} began operation {number} out of turn: {state:?}");
            return Err(Violation::Failed { what });
        }
        state.begun = number;
        state.in_flight = Some(number);
        Ok(())
    }

    fn end(&mut self, writer: u32, number: u64) -> Result<&mut WriterState, Violation> {
        let state = self.state(writer)?;
        if state.in_flight != Some(number) {
            let what = format!("writer {writer} ended operation {number}, which was not in flight");
            return Err(Violation::Failed { what });
        }
        state.in_flight = None;
        Ok(state)
    }

    /// Operation `number` was acknowledged.
    pub fn ack(&mut self, writer: u32, number: u64) -> Result<(), Violation> {
        let operation = self.workload.operation(writer, number);
        let state = self.end(writer, number)?;
        apply(&mut state.keys, &operation);
        self.acknowledged += 1;
        Ok(())
    }

    /// Operation `number` was answered "not applied".
    pub fn refused(&mut self, writer: u32, number: u64) -> Result<(), Violation> {
        self.end(writer, number).map(|_| ())
    }

    /// Compares a recovered content with what must and what may be there. When all is well, the outcomes of what
    /// was in flight are settled as the content shows them.
    pub fn verify(&mut self, content: &Content) -> Result<(), Vec<Violation>> {
        let mut violations = self.foreign_keys(content);
        let mut settled = self.writers.clone();
        for (writer, state) in (0..).zip(&mut settled) {
            let shown = of_writer(content, writer);
            let before = self.values(writer, &state.keys);
            let Some(number) = state.in_flight.take() else {
                if shown != before {
                    violations.extend(self.explain(writer, state, &shown, &before, None));
                }
                continue;
            };
            let operation = self.workload.operation(writer, number);
            let mut keys_after = state.keys.clone();
            apply(&mut keys_after, &operation);
            let after = self.values(writer, &keys_after);
            if shown == after {
                state.keys = keys_after;
            } else if shown != before {
                let with = Some((&operation, &after));
                violations.extend(self.explain(writer, state, &shown, &before, with));
            }
        }
        if violations.is_empty() {
            self.writers = settled;
            return Ok(());
        }
        Err(violations)
    }

    /// Keys of no writer.
    fn foreign_keys(&self, content: &Content) -> Vec<Violation> {
        let owned = |key: &[u8]| {
            (0..self.workload.writers).any(|writer| key.starts_with(&Workload::prefix(writer)))
        };
        content
            .iter()
            .filter(|(key, _)| !owned(key))
            .map(|(key, value)| Violation::Unexpected { key: text(key), found: origin(value) })
            .collect()
    }

    /// The values behind operation numbers.
    fn values(&self, writer: u32, keys: &BTreeMap<String, u64>) -> Content {
        keys.iter()
            .filter_map(|(key, number)| {
                let key = key.as_bytes().to_vec();
                let value = final_value(&self.workload.operation(writer, *number), &key)?;
                Some((key, value))
            })
            .collect()
    }

    /// `shown` is neither `before` nor `after`: says why, key by key.
    fn explain(
        &self,
        writer: u32,
        state: &WriterState,
        shown: &Content,
        before: &Content,
        after: Option<(&Operation, &Content)>,
    ) -> Vec<Violation> {
        let (mut applied, mut missing) = (Vec::new(), Vec::new());
        let mut violations = Vec::new();
        let keys: BTreeSet<&Vec<u8>> = shown.keys().chain(before.keys()).collect();
        let keys: BTreeSet<&Vec<u8>> =
            after.iter().flat_map(|(_, after)| after.keys()).chain(keys).collect();
        for key in keys {
            let (is, was) = (shown.get(key), before.get(key));
            let will = after.map_or(was, |(_, after)| after.get(key));
            match (is == was, is == will) {
                (true, true) => {}
                (true, false) => missing.push(text(key)),
                (false, true) => applied.push(text(key)),
                (false, false) => {
                    let found = is.map_or("nothing".into(), |value| origin(value));
                    violations.push(match state.keys.get(&text(key)) {
                        Some(&operation) => {
                            Violation::LostAck { writer, operation, key: text(key), found }
                        }
                        None => Violation::Unexpected { key: text(key), found },
                    });
                }
            }
        }
        if let Some((operation, _)) = after
            && !applied.is_empty()
            && !missing.is_empty()
        {
            let operation = operation.number;
            violations.push(Violation::TornBatch { writer, operation, applied, missing });
        }
        violations
    }
}

fn text(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}

fn of_writer(content: &Content, writer: u32) -> Content {
    let prefix = Workload::prefix(writer);
    content
        .range(prefix.clone()..)
        .take_while(|(key, _)| key.starts_with(&prefix))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// The value that `operation` leaves at `key`.
fn final_value(operation: &Operation, key: &[u8]) -> Option<Vec<u8>> {
    let change = operation.changes.iter().rev().find(|(k, _)| k == key);
    change.and_then(|(_, value)| value.clone())
}

fn apply(keys: &mut BTreeMap<String, u64>, operation: &Operation) {
    for (key, value) in &operation.changes {
        match value {
            Some(_) => keys.insert(text(key), operation.number),
            None => keys.remove(&text(key)),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKLOAD: Workload = Workload { seed: 5, writers: 2, keys_per_writer: 20 };

    /// Writes through an oracle and, as a perfect database would, into a content.
    struct Twin {
        oracle: Oracle,
        content: Content,
    }

    fn write(content: &mut Content, operation: &Operation) {
        for (key, value) in &operation.changes {
            match value {
                Some(value) => content.insert(key.clone(), value.clone()),
                None => content.remove(key),
            };
        }
    }

    impl Twin {
        /// Both writers with `count` acknowledged operations.
        fn with(count: u64) -> Self {
            let mut twin = Self { oracle: Oracle::new(WORKLOAD), content: Content::new() };
            for number in 1..=count {
                for writer in 0..WORKLOAD.writers {
                    twin.oracle.begin(writer, number).expect("in turn");
                    write(&mut twin.content, &WORKLOAD.operation(writer, number));
                    twin.oracle.ack(writer, number).expect("in flight");
                }
            }
            twin
        }

        /// Acknowledges operations of writer 0 until the next one satisfies `wanted`; begins that one.
        fn begin_one(&mut self, wanted: impl Fn(&Operation, &Content) -> bool) -> Operation {
            loop {
                let number = self.oracle.next_operation(0);
                let operation = WORKLOAD.operation(0, number);
                self.oracle.begin(0, number).expect("in turn");
                if wanted(&operation, &self.content) {
                    return operation;
                }
                write(&mut self.content, &operation);
                self.oracle.ack(0, number).expect("in flight");
            }
        }
    }

    fn kinds(result: Result<(), Vec<Violation>>) -> Vec<&'static str> {
        let kind = |v: &Violation| match v {
            Violation::LostAck { .. } => "lost",
            Violation::TornBatch { .. } => "torn",
            Violation::Unexpected { .. } => "unexpected",
            Violation::RecoveriesDiffer { .. } => "unstable",
            Violation::Failed { .. } => "failed",
        };
        result.err().unwrap_or_default().iter().map(kind).collect()
    }

    fn three_puts(operation: &Operation, _: &Content) -> bool {
        let keys: BTreeSet<&Vec<u8>> = operation.changes.iter().map(|(key, _)| key).collect();
        keys.len() >= 3 && operation.changes.iter().all(|(_, value)| value.is_some())
    }

    #[test]
    fn what_was_acknowledged_and_nothing_else_is_right() {
        let mut twin = Twin::with(100);
        assert_eq!(twin.oracle.verify(&twin.content), Ok(()));
        assert_eq!(twin.oracle.acknowledged(), 200);
    }

    #[test]
    fn a_lost_acknowledged_key_is_caught() {
        let mut twin = Twin::with(100);
        let key = twin.content.keys().next().expect("not empty").clone();
        twin.content.remove(&key);
        assert_eq!(kinds(twin.oracle.verify(&twin.content)), ["lost"]);
    }

    #[test]
    fn losing_the_last_acknowledged_operation_is_caught() {
        let mut twin = Twin::with(100);
        let without = twin.content.clone();
        let operation = twin.begin_one(three_puts);
        twin.oracle.ack(0, operation.number).expect("in flight");
        let found = kinds(twin.oracle.verify(&without));
        assert!(found.len() >= 3 && found.iter().all(|kind| ["lost", "unexpected"].contains(kind)));
    }

    #[test]
    fn an_older_value_of_an_acknowledged_key_is_caught() {
        let mut twin = Twin::with(100);
        let key = twin.content.keys().next().expect("not empty").clone();
        twin.content.insert(key, b"w00 op 1.0 old".to_vec());
        let violations = twin.oracle.verify(&twin.content).expect_err("caught");
        assert!(violations[0].to_string().contains("found w00 op 1.0"), "{}", violations[0]);
    }

    #[test]
    fn a_deleted_key_that_comes_back_and_a_foreign_key_are_caught() {
        let mut twin = Twin::with(100);
        let dead = (0..20)
            .map(|n| format!("crash/01/{n:04}").into_bytes())
            .find(|key| !twin.content.contains_key(key))
            .expect("one of the keys is deleted");
        twin.content.insert(dead, b"w01 op 3.0 ".to_vec());
        twin.content.insert(b"somebody else's".to_vec(), b"?".to_vec());
        assert_eq!(kinds(twin.oracle.verify(&twin.content)), ["unexpected", "unexpected"]);
    }

    #[test]
    fn an_operation_in_flight_is_there_or_not_and_then_stays_so() {
        for applied in [false, true] {
            let mut twin = Twin::with(50);
            let operation = twin.begin_one(three_puts);
            let (mut with, without) = (twin.content.clone(), twin.content.clone());
            write(&mut with, &operation);
            let (shown, other) = if applied { (with, without) } else { (without, with) };
            assert_eq!(twin.oracle.in_flight(), 1);
            assert_eq!(twin.oracle.verify(&shown), Ok(()));
            assert_eq!(twin.oracle.in_flight(), 0);
            assert_eq!(twin.oracle.verify(&shown), Ok(()));
            assert_ne!(twin.oracle.verify(&other), Ok(()), "the second recovery may not differ");
        }
    }

    #[test]
    fn a_torn_batch_is_caught() {
        let mut twin = Twin::with(50);
        let operation = twin.begin_one(three_puts);
        let (key, value) = &operation.changes[operation.changes.len() - 1];
        twin.content.insert(key.clone(), value.clone().expect("all are puts"));
        let violations = twin.oracle.verify(&twin.content).expect_err("torn");
        let Violation::TornBatch { applied, missing, operation: number, .. } = &violations[0]
        else {
            panic!("{violations:?}")
        };
        assert_eq!((applied.len(), *number), (1, operation.number));
        assert!(missing.len() >= 2);
    }

    #[test]
    fn a_refused_operation_must_not_show() {
        let mut twin = Twin::with(50);
        let operation = twin.begin_one(three_puts);
        twin.oracle.refused(0, operation.number).expect("in flight");
        assert_eq!(twin.oracle.clone().verify(&twin.content), Ok(()));
        write(&mut twin.content, &operation);
        assert_ne!(twin.oracle.verify(&twin.content), Ok(()));
    }

    #[test]
    fn operations_out_of_turn_are_caught() {
        let mut oracle = Oracle::new(WORKLOAD);
        assert!(oracle.begin(0, 2).is_err());
        assert!(oracle.begin(9, 1).is_err());
        assert!(oracle.ack(0, 1).is_err());
        oracle.begin(0, 1).expect("in turn");
        assert!(oracle.begin(0, 2).is_err(), "one at a time");
    }

    #[test]
    fn it_survives_a_trip_through_json() {
        let mut twin = Twin::with(20);
        twin.begin_one(three_puts);
        let json = serde_json::to_string(&twin.oracle).expect("plain data");
        let back: Oracle = serde_json::from_str(&json).expect("its own output");
        assert_eq!(back, twin.oracle);
    }
}
