//! Checkpoints as a fault: an operator asks a node for one, and what it says is done is restored, on a machine of its own.
//!
//! ```text
//!  ADMIN checkpoint ─▶ node ─▶ "done, up to entry i" ─▶ a copy of the disk loses its power ─▶ `restore`, which may crash on
//!  the way ─▶ a node opens what came of it ─▶ all its rows are what the model has at that place
//! ```
//!
//! The copy is made in the moment in which the node answers: what is not durable then is not promised. The node itself goes on.
//!
//! What it does not do: run the restored cluster. That is `tests/checkpoint.rs`, with the real programs.

use super::hooks::{SimNode, SlotState, SlotView, Verdict, Violation};
use super::slot::{Health, Item};
use super::strike::Undo;
use super::world::{Core, OPERATOR_CONN, What, World};
use beachdb::base::{ClusterUid, LogIndex, NodeId, ReplicaId};
use beachdb::env::Random;
use beachdb::env::sim::{CrashKind, SimClock, SimDisk, SimHandles, SimJobs, SimRandom};
use beachdb::node::{NodeConfig, Origin, RestorePlan, restore};
use beachdb::proto::{AdminRequest, Request, Response, frame};
use beachdb::raft::LogView as _;
use std::path::PathBuf;

/// The mark of a checkpoint that was restored and compared.
pub const RESTORED: &str = "checkpoint restored and compared";
/// The mark of a crash while one was restored.
pub const RESTORE_CRASHED: &str = "crashed while restoring a checkpoint";
/// Requests for checkpoints come on this connection.
pub(super) const COPY_CONN: u64 = OPERATOR_CONN | 1;
const DEADLINE_MS: u32 = 20_000;
const TARGET: &str = "restored";
const CLUSTER: &str = "copy";

/// A disk with a checkpoint on it.
#[derive(Debug)]
pub struct Copy {
    slot: usize,
    disk: SimDisk,
    from: PathBuf,
    index: LogIndex,
    /// Bits of it were flipped: it may be refused.
    rotten: bool,
}

fn path(number: u64) -> PathBuf {
    PathBuf::from(format!("/copy-{number}"))
}

impl Core {
    /// The operator asks for a checkpoint, beside the data directory.
    pub(super) fn ask_for_copy(&mut self, slot: usize) {
        if self.slots[slot].state != SlotState::Up {
            return;
        }
        self.operator.copies += 1;
        let number = self.operator.copies;
        let dir = path(number).display().to_string();
        let request = Request::Admin(AdminRequest::Checkpoint { dir: &dir });
        let mut bytes = Vec::new();
        let flags = frame::FLAG_NO_CRC;
        if request.encode_with_flags(&mut bytes, number, DEADLINE_MS, flags).is_ok() {
            self.give(slot, Item::Request { conn: COPY_CONN, frame: bytes });
        }
    }

    /// The answer: from here on it is durable.
    pub(super) fn copy_answered(&mut self, slot: usize, origin: Origin, response: &Response) {
        let Response::Written { index, .. } = *response else { return };
        let s = &self.slots[slot];
        let copy = Copy {
            slot,
            disk: s.disk.fork(self.random.next_u64()),
            from: path(origin.request_id),
            index,
            rotten: s.health == Health::Rotten,
        };
        self.after(0, What::Undo(Undo::Copied(Box::new(copy))));
    }
}

impl World {
    /// See the module.
    pub(super) fn check_copy(&mut self, copy: &Copy) -> Verdict {
        let Copy { slot, disk, from, index, rotten } = copy;
        let mut random = SimRandom::new(self.core.random.next_u64());
        disk.clear_faults();
        disk.set_capacity(None);
        disk.crash(CrashKind::PowerLoss);
        disk.restart();
        let clock = SimClock::new();
        let jobs = SimJobs::new(clock.clone(), random.next_u64());
        let env = SimHandles { clock, disk: disk.clone(), jobs }.env();
        let replica = ReplicaId { node: NodeId(1), incarnation: random.next_u64() | 1 };
        let plan = RestorePlan {
            from: from.clone(),
            data_dir: TARGET.into(),
            cluster_id: CLUSTER.into(),
            node_id: replica.node,
            incarnation: replica.incarnation,
            cluster: ClusterUid::drawn(random.next_u64()),
            peer_address: String::new(),
            client_address: String::new(),
        };
        if random.chance(1, 2) {
            disk.crash_at(disk.op_count() + random.below(60));
        }
        let outcome = loop {
            let outcome = restore(&env, &plan);
            if !disk.is_down() {
                break outcome;
            }
            *self.core.struck.entry(RESTORE_CRASHED).or_default() += 1;
            disk.crash(CrashKind::PowerLoss);
            disk.restart();
        };
        let refused = |why: String| {
            let what = format!("the checkpoint of node {} at entry {index}: {why}", slot + 1);
            Err(Violation::new("checkpoints-can-be-restored", what))
        };
        match outcome {
            Err(_) if *rotten => return Ok(()),
            Err(error) => return refused(error.to_string()),
            Ok(restored) if restored.description.applied.0 != *index => {
                return refused(format!("it holds {:?}", restored.description.applied));
            }
            Ok(_) => {}
        }
        // What it said is done is durable.
        disk.crash(CrashKind::PowerLoss);
        disk.restart();
        let mut config = NodeConfig::new(TARGET, CLUSTER, replica.node, replica.incarnation);
        config.max_sessions = self.core.shape.max_sessions;
        let node = match SimNode::open(config, env) {
            Ok(node) => node,
            Err(error) => return refused(error.to_string()),
        };
        if node.log().last().0 <= *index {
            return refused(format!("its log ends at {:?}", node.log().last()));
        }
        let text = self.core.slots[*slot].replica;
        self.core.note(format_args!("the checkpoint of {text} at {index} is restored"));
        *self.core.struck.entry(RESTORED).or_default() += 1;
        let dir = PathBuf::from(TARGET);
        let view = SlotView {
            slot: *slot,
            replica,
            life: 1,
            state: SlotState::Up,
            node: Some(&node),
            disk,
            dir: &dir,
        };
        self.observer.restored(&view)
    }
}
