//! What the writers write: every operation follows from (seed, writer, number), so that the controller knows the
//! content of each one without being told, and an artifact needs only numbers.
//!
//! Each writer owns its keys (`crash/WW/KKKK`) and has at most one operation in flight. So its keys have one history,
//! whatever the other writers do, and after a crash exactly two states are right: without and with that operation.
//! A value starts with the writer and the number of its operation, so that a wrong one says where it came from.

use beachdb::base::batch::{BatchError, WriteBatch};
use beachdb::env::Random;
use beachdb::env::sim::SimRandom;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Keys with their values: a database's content, or a part of it.
pub type Content = BTreeMap<Vec<u8>, Vec<u8>>;

/// The writers and their seed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Workload {
    /// Everything follows from it.
    pub seed: u64,
    /// Concurrent writers.
    pub writers: u32,
    /// Keys of each writer.
    pub keys_per_writer: u32,
}

/// One change of an operation: a key, and its new value or `None` for a delete.
pub type Change = (Vec<u8>, Option<Vec<u8>>);

/// One atomic operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Operation {
    /// Who writes it.
    pub writer: u32,
    /// Its number among that writer's operations, from 1.
    pub number: u64,
    /// The changes in order; a later one of the same key wins.
    pub changes: Vec<Change>,
}

impl Operation {
    /// As the database takes it.
    pub fn to_batch(&self) -> Result<WriteBatch, BatchError> {
        let mut batch = WriteBatch::new();
        for (key, value) in &self.changes {
            match value {
                Some(value) => batch.put(key, value)?,
                None => batch.delete(key)?,
            }
        }
        Ok(batch)
    }
}

impl Workload {
    /// The prefix of a writer's keys.
    #[must_use]
    pub fn prefix(writer: u32) -> Vec<u8> {
        format!("crash/{writer:02}/").into_bytes()
    }

    fn key(self, writer: u32, random: &mut SimRandom) -> Vec<u8> {
        let number = random.below(u64::from(self.keys_per_writer));
        format!("crash/{writer:02}/{number:04}").into_bytes()
    }

    /// Operation `number` of `writer`.
    #[must_use]
    pub fn operation(self, writer: u32, number: u64) -> Operation {
        // Three values into one seed: each is spread over all bits by its own odd multiplier.
        let mixed = self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)
            ^ u64::from(writer).wrapping_mul(0xc2b2_ae3d_27d4_eb4f)
            ^ number.wrapping_mul(0x1656_67b1_9e37_79f9);
        let random = &mut SimRandom::new(mixed);
        let count = if random.chance(1, 2) { 1 } else { 2 + random.below(7) };
        let changes = (0..count)
            .map(|n| {
                let key = self.key(writer, random);
                let value = (!random.chance(1, 6)).then(|| value(writer, number, n, random));
                (key, value)
            })
            .collect();
        Operation { writer, number, changes }
    }
}

/// A value that names its origin: `w03 op 17.2 `, then random bytes; mostly short, some of many sectors.
fn value(writer: u32, number: u64, change: u64, random: &mut SimRandom) -> Vec<u8> {
    let mut value = format!("w{writer:02} op {number}.{change} ").into_bytes();
    let filler = match random.below(32) {
        0 => random.below(40_000),
        1..=4 => random.below(5_000),
        _ => random.below(200),
    };
    for _ in 0..filler.div_ceil(8) {
        value.extend_from_slice(&random.next_u64().to_be_bytes());
    }
    value
}

/// The origin in a value, for a report.
#[must_use]
pub fn origin(value: &[u8]) -> String {
    let head = &value[..value.len().min(32)];
    let mut words = head.splitn(4, |b| *b == b' ');
    match (words.next(), words.next(), words.next(), words.next()) {
        (Some(w), Some(b"op"), Some(n), Some(_)) if w.starts_with(b"w") => {
            format!("{} op {}", String::from_utf8_lossy(w), String::from_utf8_lossy(n))
        }
        _ => format!("{} foreign bytes {:?}…", value.len(), String::from_utf8_lossy(head)),
    }
}

/// A digest of a content: equal contents have equal digests.
#[must_use]
pub fn digest(content: &Content) -> u64 {
    let mut bytes = Vec::new();
    for (key, value) in content {
        for part in [key, value] {
            bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
            bytes.extend_from_slice(part);
        }
    }
    beachdb::base::hash::key_hash(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKLOAD: Workload = Workload { seed: 1, writers: 4, keys_per_writer: 50 };

    #[test]
    fn an_operation_follows_from_seed_writer_and_number() {
        let op = WORKLOAD.operation(2, 17);
        assert_eq!(op, WORKLOAD.operation(2, 17));
        assert_ne!(op.changes, WORKLOAD.operation(3, 17).changes);
        assert_ne!(op.changes, WORKLOAD.operation(2, 18).changes);
        assert_ne!(op.changes, Workload { seed: 2, ..WORKLOAD }.operation(2, 17).changes);
    }

    #[test]
    fn there_are_batches_deletes_and_big_values_on_the_writers_own_keys() {
        let ops: Vec<Operation> = (1..500).map(|n| WORKLOAD.operation(1, n)).collect();
        let changes: Vec<&Change> = ops.iter().flat_map(|op| &op.changes).collect();
        assert!(ops.iter().any(|op| op.changes.len() > 4));
        assert!(changes.iter().any(|(_, value)| value.is_none()));
        assert!(changes.iter().any(|(_, v)| v.as_ref().is_some_and(|v| v.len() > 10_000)));
        assert!(changes.iter().all(|(key, _)| key.starts_with(&Workload::prefix(1))));
        assert!(ops.iter().all(|op| op.to_batch().is_ok()));
    }

    #[test]
    fn a_value_names_its_origin() {
        let op = (1..).map(|n| WORKLOAD.operation(3, n)).find(|op| op.changes[0].1.is_some());
        let op = op.expect("most changes are puts");
        let value = op.changes[0].1.as_ref().expect("just checked");
        assert_eq!(origin(value), format!("w03 op {}.0", op.number));
        assert!(origin(b"garbage").contains("foreign"));
    }

    #[test]
    fn digests_see_where_a_key_ends() {
        let one: Content = [(b"ab".to_vec(), b"c".to_vec())].into();
        let other: Content = [(b"a".to_vec(), b"bc".to_vec())].into();
        assert_ne!(digest(&one), digest(&other));
        assert_eq!(digest(&one), digest(&one.clone()));
    }
}
