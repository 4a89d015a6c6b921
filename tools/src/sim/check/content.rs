//! [`Sampler`]: compares all that a state machine holds with the model, now and then: after an installed snapshot, after
//! a restart, at the end of a run, and every so many applied groups between.
//!
//! User rows are compared with the model, one by one. Rows under the reserved prefix (sessions, membership) have no
//! model; their hash at an applied index must be the same on every replica.

use super::model::Model;
use crate::sim::hooks::{SimNode, SlotView, Verdict, Violation};
use beachdb::base::batch::RESERVED_KEY_END;
use beachdb::base::hash::key_hash;
use beachdb::base::{LogIndex, ReplicaId};
use beachdb::env::sim::SimRandom;
use beachdb::node::{Lookup, ReadFault, Slice, SliceRange, StateMachine};
use beachdb::proto::ScanEntry;
use std::collections::BTreeMap;

/// One in so many steps that applied something is followed by a comparison.
const ONE_IN: u64 = 2_000;
/// Hashes of internal rows remembered.
const KEPT_HASHES: usize = 2_000;

/// See the module.
pub struct Sampler {
    random: SimRandom,
    internal: BTreeMap<LogIndex, (u64, ReplicaId)>,
}

impl Sampler {
    /// For one run.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { random: SimRandom::new(seed ^ 0xc0_47e4), internal: BTreeMap::new() }
    }

    /// Whether it is time for a comparison.
    pub fn is_due(&mut self) -> bool {
        self.random.chance(1, ONE_IN)
    }

    /// Everything in this node's state machine is what the model has at its place. A disk that cannot be read says
    /// nothing.
    pub fn compare(&mut self, model: &Model, view: &SlotView<'_>) -> Verdict {
        let Some(node) = view.node else { return Ok(()) };
        if node.last_seq() > model.shown() {
            // It replays what it had applied before the observer knew its place; a later sample will see it.
            return Ok(());
        }
        if let Ok(entries) = all(node) {
            let verdict = model.check_scan(RESERVED_KEY_END, None, node.last_seq(), &entries);
            verdict.map_err(|v| Violation::new(v.rule, format!("{}: {}", view.replica, v.what)))?;
        }
        let Ok(rows) = node.machine().internal_rows() else { return Ok(()) };
        let mut bytes = Vec::new();
        for (key, value) in &rows {
            bytes.extend_from_slice(key);
            bytes.push(0);
            bytes.extend_from_slice(value);
        }
        self.compare_internal(view.replica, node.applied(), key_hash(&bytes), rows.len())
    }

    fn compare_internal(
        &mut self,
        replica: ReplicaId,
        applied: LogIndex,
        hash: u64,
        rows: usize,
    ) -> Verdict {
        let (expected, first) = *self.internal.entry(applied).or_insert((hash, replica));
        if self.internal.len() > KEPT_HASHES {
            self.internal.pop_first();
        }
        if expected != hash {
            let what = format!(
                "after entry {applied} the {rows} internal rows of {replica} differ from those of {first}"
            );
            return Err(Violation::new("state-machine-safety", what));
        }
        Ok(())
    }
}

/// All user rows as of the node's last sequence number.
fn all(node: &SimNode) -> Result<Vec<ScanEntry>, ReadFault> {
    let (mut entries, mut start) = (Vec::new(), RESERVED_KEY_END.to_vec());
    loop {
        let range = SliceRange {
            start: &start,
            end: None,
            limit: usize::MAX,
            max_bytes: usize::MAX,
            keys_only: false,
            reverse: false,
            at: node.last_seq(),
        };
        let slice: Slice = match node.machine().scan(&range)? {
            Lookup::Ready(slice) => slice,
            Lookup::Disk(read) => read()?,
        };
        entries.extend(slice.entries);
        match slice.resume {
            Some(resume) => start = resume,
            None => return Ok(entries),
        }
    }
}
