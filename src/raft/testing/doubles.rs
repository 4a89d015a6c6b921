//! Stand-ins that the tests share: jobs that nobody may start, and who is who.

use crate::base::{Member, MemberRole, NodeId, ReplicaId};
use crate::env::{Completion, Job, JobId, Jobs, Lane};
use std::time::Duration;

/// For a log whose persists are durable when the test says so: it starts no job.
pub struct NoJobs;

impl Jobs for NoJobs {
    fn submit(&self, lane: Lane, _job: Job) -> JobId {
        panic!("a job in lane {lane:?}")
    }
    fn poll(&self, _out: &mut Vec<Completion>) {}
    fn wait(&self, _timeout: Duration) -> bool {
        false
    }
    fn has_completions(&self) -> bool {
        false
    }
    fn outstanding(&self) -> usize {
        0
    }
}

/// Replica `node` in its first life.
pub const fn replica(node: u64) -> ReplicaId {
    ReplicaId { node: NodeId(node), incarnation: 0 }
}

/// What a learner looks like when it is added.
pub const fn learner(replica: ReplicaId) -> Member {
    Member {
        replica,
        role: MemberRole::Learner,
        peer_address: String::new(),
        client_address: String::new(),
    }
}
