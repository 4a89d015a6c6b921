//! What STATUS, STATS, and MEMBERS say. Their JSON is a stable interface: fields are added, never renamed or removed, and
//! `schema` counts incompatible changes.

use super::admission::{QueueStatus, RequestCounters};
use super::apply::ReplayStatus;
use super::peers::PeerCounters;
use super::snapshot_receive::SnapshotReceiveCounters;
use super::snapshot_send::{SnapshotSendCounters, TransferStatus, WaitingStatus};
use super::{
    CheckpointStatus, ConditionStats, Node, Phase, SessionStats, StateMachine, VerifyStatus,
};
use crate::base::trace::{Stage, StageSummary, TraceRecord};
use crate::base::{Member, MemberRole, Nanos};
use crate::raft::{LogStats, LogStore, RaftStatus};
use serde::Serialize;

/// Trace events shown in STATS.
const EVENTS_SHOWN: usize = 32;

/// The body of STATUS: the node and its place in the cluster.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Status {
    /// 1.
    pub schema: u32,
    /// beachd's version.
    pub version: &'static str,
    /// This node's number.
    pub node: u64,
    /// The cluster's name.
    pub cluster: String,
    /// The cluster's uid, hexadecimal: drawn when it was formed; `null` while the node belongs to none.
    pub cluster_uid: Option<String>,
    /// This node's incarnation, hexadecimal.
    pub incarnation: String,
    /// `follower`, `pre-candidate`, `candidate`, or `leader`.
    pub role: &'static str,
    /// The current term.
    pub term: u64,
    /// The leader's number; `null` when none is known.
    pub leader: Option<u64>,
    /// Whether reads are served here, and writes here or by the leader.
    pub ready: bool,
    /// Why not; `null` when it is ready.
    pub not_ready_reason: Option<String>,
    /// Who belongs to the cluster, by node number; empty on a node that waits to be added.
    pub members: Vec<MemberStatus>,
    /// The node that leadership is being handed to; `null` when it is not.
    pub transfer_target: Option<u64>,
    /// Snapshots on their way.
    pub snapshots: SnapshotStatus,
    /// Messages to and from other nodes.
    pub peers: PeerCounters,
    /// Connections to other nodes.
    pub links: Vec<LinkStatus>,
    /// Everything up to here is committed.
    pub commit: u64,
    /// Everything up to here is applied.
    pub applied: u64,
    /// Milliseconds since the node last knew that it had applied everything that its leader had committed, as a stale read
    /// would tell; `null`: never since it started.
    pub age_ms: Option<u64>,
    /// Everything up to here would be found by a restart without the log.
    pub flushed: u64,
    /// The last sequence number given out.
    pub last_seq: u64,
    /// Reads below this sequence number get SNAPSHOT_TOO_OLD.
    pub oldest_readable_seq: u64,
    /// Why puts are refused; `null` when they are not.
    pub read_only: Option<String>,
    /// Free disk space as last measured; `null` before.
    pub disk_free_bytes: Option<u64>,
    /// Milliseconds since the first event.
    pub uptime_ms: u64,
    /// What waits.
    pub queue: QueueStatus,
    /// The log.
    pub log: LogStats,
    /// Where data is in memory.
    pub memory: MemoryStatus,
    /// How far replay is.
    pub replay: ReplayStatus,
    /// What recovery found; one line of text a part.
    pub recovery: Vec<String>,
    /// The last checkpoint, or the one that is being made; `null`: none since the start.
    pub checkpoint: Option<CheckpointStatus>,
    /// The last check of all files, or the one that is under way; `null`: none since the start.
    pub verify: Option<VerifyStatus>,
    /// Where the time goes.
    pub stages: Stages,
}

/// The body of MEMBERS: who belongs to the cluster, as far as this node knows.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct MembersStatus {
    /// 1.
    pub schema: u32,
    /// The cluster's name.
    pub cluster: String,
    /// The cluster's uid, hexadecimal; `null` while the node belongs to none.
    pub cluster_uid: Option<String>,
    /// The node that says so.
    pub node: u64,
    /// The leader's number; `null` when none is known.
    pub leader: Option<u64>,
    /// The current term.
    pub term: u64,
    /// The log entry from which on these are the members; 0 = since the cluster began.
    pub index: u64,
    /// Whether that entry is committed; until then it may be taken back.
    pub committed: bool,
    /// The node that leadership is being handed to; `null` when it is not.
    pub transfer_target: Option<u64>,
    /// Who they are, by node number; empty on a node that waits to be added.
    pub members: Vec<MemberStatus>,
}

/// A member of the cluster, for STATUS and MEMBERS.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct MemberStatus {
    /// Its number.
    pub node: u64,
    /// Its incarnation, hexadecimal.
    pub incarnation: String,
    /// `voter` or `learner`.
    pub role: MemberRole,
    /// Where its peers reach it.
    pub peer_address: String,
    /// Where clients reach it.
    pub client_address: String,
    /// What the leader knows of it; `null` on other nodes, and for the leader itself.
    pub progress: Option<ProgressStatus>,
}

/// A connection that this node dials, for STATUS. It sends messages on it; it receives on those that others dial.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct LinkStatus {
    /// To which node.
    pub node: u64,
    /// `raft`, or `bulk` for pieces of snapshots.
    pub lane: &'static str,
    /// The address that is dialed.
    pub address: String,
    /// `up`, `greeting`, `connecting`, `resolving`, `waiting` (for the next attempt), or `idle`.
    pub state: &'static str,
    /// The incarnation that answered, hexadecimal; `null` while it is not up.
    pub incarnation: Option<String>,
    /// Milliseconds since it came up; `null` while it is not.
    pub connected_ms: Option<u64>,
    /// Milliseconds since the peer was last heard on it; `null` while it is not up.
    pub last_heard_ms: Option<u64>,
    /// The last round trip of a PING; `null` before the first one.
    pub round_trip_us: Option<u64>,
    /// Bytes that the peer has not taken yet.
    pub queued_bytes: u64,
    /// Whether the peer does not keep up: bytes wait for a second, or messages had to be dropped a moment ago.
    pub slow: bool,
    /// Messages sent on it since start-up.
    pub sent: u64,
    /// Messages dropped because too many bytes waited.
    pub dropped: u64,
    /// Attempts that failed since start-up.
    pub dials_failed: u64,
    /// Why the last one failed, or the last connection ended; `null` if none did.
    pub last_error: Option<String>,
    /// Connections that the node has dialed to this one.
    pub inbound: u64,
}

/// What a leader knows of a follower, for STATUS.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct ProgressStatus {
    /// `probe`, `replicate`, or `snapshot`.
    pub state: &'static str,
    /// Its log equals the leader's up to here.
    pub matched: u64,
    /// The next entry it is sent.
    pub next: u64,
    /// Appends on their way to it.
    pub in_flight: u64,
    /// Whether it may be promoted.
    pub caught_up: bool,
    /// Whether it was heard of within an election timeout.
    pub recent: bool,
}

/// Snapshots on their way, for STATUS.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct SnapshotStatus {
    /// To followers.
    pub sending: Vec<TransferStatus>,
    /// Followers that need one and are not being sent one now.
    pub waiting: Vec<WaitingStatus>,
    /// Most bytes a second that are sent, all followers together; `null`: no bound.
    pub rate_limit: Option<u64>,
    /// From the leader; `null` when none is.
    pub receiving: Option<ReceiveStatus>,
    /// Whether one is being installed.
    pub installing: bool,
    /// Why the last one from a leader was refused; `null` when none was, or one was taken since.
    pub refused_reason: Option<String>,
    /// Sent since start-up.
    pub sent: SnapshotSendCounters,
    /// Received since start-up.
    pub received: SnapshotReceiveCounters,
}

/// A snapshot on its way in, for STATUS.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct ReceiveStatus {
    /// The last entry in it.
    pub index: u64,
    /// Its size.
    pub bytes: u64,
    /// How much of it is written.
    pub written: u64,
    /// Bytes written in the last second, about.
    pub bytes_per_s: u64,
}

/// Bytes of data in memory, for STATUS.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct MemoryStatus {
    /// Requests in the queue.
    pub queue_bytes: u64,
    /// Log entries kept for apply and for reading back.
    pub log_bytes: u64,
    /// Memtables, frozen ones included.
    pub memtable_bytes: u64,
}

/// One summary a stage, with their names.
pub type Stages = std::collections::BTreeMap<&'static str, StageSummary>;

/// The body of STATS: figures of the engine and the node.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Stats {
    /// 1.
    pub schema: u32,
    /// The engine's own figures.
    pub engine: serde_json::Value,
    /// Requests since start-up.
    pub requests: RequestCounters,
    /// What waits.
    pub queue: QueueStatus,
    /// Reads now.
    pub reads: ReadStats,
    /// Sessions for exactly-once writes.
    pub sessions: SessionStats,
    /// Compare-and-set since start-up.
    pub conditions: ConditionStats,
    /// The log.
    pub log: LogStats,
    /// Where the time goes.
    pub stages: Stages,
    /// The last events, oldest first.
    pub events: Vec<TraceRecord>,
}

/// Reads now, for STATS.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct ReadStats {
    /// Gets and scan slices on the disk lane.
    pub on_disk: u64,
    /// Scans between two slices.
    pub scans: u64,
    /// Snapshots held for the next page of a scan.
    pub wire_snapshots: u64,
    /// The oldest of them; `null` when there is none.
    pub oldest_wire_snapshot: Option<u64>,
}

/// The JSON text of a status document.
pub(super) fn json(document: &impl Serialize) -> String {
    serde_json::to_string(document).expect("documents have string keys and finite numbers")
}

impl<L: LogStore, S: StateMachine> Node<L, S> {
    /// The node's state.
    #[must_use]
    pub fn status(&self, now: Nanos) -> Status {
        let (queue, log, raft) = (self.desk.queue(), self.log.stats(), self.raft.status());
        let memory = MemoryStatus {
            queue_bytes: queue.bytes,
            log_bytes: log.memory_bytes + log.pending_bytes,
            memtable_bytes: self.machine.memory_bytes(),
        };
        Status {
            schema: 1,
            version: crate::VERSION,
            node: self.identity.node_id.0,
            cluster: self.identity.cluster_id.clone(),
            cluster_uid: self.uid(),
            incarnation: format!("{:016x}", self.identity.incarnation),
            role: self.raft.role().name(),
            term: self.raft.term().0,
            leader: self.raft.leader().map(|id| id.node.0),
            ready: self.is_ready(),
            not_ready_reason: self.not_ready_reason(),
            members: self.member_status(&raft),
            transfer_target: raft.transfer.map(|to| to.node.0),
            snapshots: self.snapshot_status(now),
            peers: self.outbox.counters,
            links: self.links.clone(),
            commit: self.raft.commit().0,
            applied: self.machine.applied().0.0,
            age_ms: self.freshness.age_ms(now),
            flushed: self.machine.durable_applied().0.0,
            last_seq: self.machine.last_seq().0,
            oldest_readable_seq: self.machine.oldest_readable_seq().0,
            read_only: self.read_only_reason(),
            disk_free_bytes: self.space.free_bytes(),
            uptime_ms: now.since(self.opened_at.unwrap_or(now)) / 1_000_000,
            queue,
            log,
            memory,
            replay: self.apply.replay_status(),
            checkpoint: self.upkeep.checkpoint_status(),
            verify: self.upkeep.verify_status(),
            recovery: self.recovery.clone(),
            stages: self.stages(),
        }
    }

    /// Who belongs to the cluster.
    #[must_use]
    pub fn members(&self) -> MembersStatus {
        let raft = self.raft.status();
        MembersStatus {
            schema: 1,
            cluster: self.identity.cluster_id.clone(),
            cluster_uid: self.uid(),
            node: self.identity.node_id.0,
            leader: self.raft.leader().map(|id| id.node.0),
            term: self.raft.term().0,
            index: raft.membership_index.0,
            committed: raft.membership_index <= raft.commit,
            transfer_target: raft.transfer.map(|to| to.node.0),
            members: self.member_status(&raft),
        }
    }

    fn uid(&self) -> Option<String> {
        Some(self.cluster).filter(|cluster| !cluster.is_none()).map(|cluster| cluster.to_string())
    }

    fn member_status(&self, raft: &RaftStatus) -> Vec<MemberStatus> {
        let progress = |replica| {
            let follower = raft.followers.iter().find(|f| f.replica == replica)?;
            Some(ProgressStatus {
                state: follower.state.name(),
                matched: follower.matched.0,
                next: follower.next.0,
                in_flight: follower.in_flight as u64,
                caught_up: follower.caught_up,
                recent: follower.recent,
            })
        };
        let status = |member: &Member| MemberStatus {
            node: member.replica.node.0,
            incarnation: format!("{:016x}", member.replica.incarnation),
            role: member.role,
            peer_address: member.peer_address.clone(),
            client_address: member.client_address.clone(),
            progress: progress(member.replica),
        };
        self.raft.membership().members().map(status).collect()
    }

    fn snapshot_status(&self, now: Nanos) -> SnapshotStatus {
        SnapshotStatus {
            sending: self.sender.status(now),
            waiting: self.sender.waiting(now),
            rate_limit: self.sender.bytes_per_s(),
            receiving: self.receiver.progress(now),
            installing: self.receiver.is_installing(),
            refused_reason: self.receiver.refusal().map(str::to_owned),
            sent: self.sender.counters,
            received: self.receiver.counters,
        }
    }

    /// Says what STATUS is to show of the connections to other nodes, which the driver has.
    pub fn set_links(&mut self, links: Vec<LinkStatus>) {
        self.links = links;
    }

    /// Figures of the engine and the node.
    #[must_use]
    pub fn stats(&self, _now: Nanos) -> Stats {
        let skip = (self.trace.recorded() as usize)
            .min(crate::limits::TRACE_EVENTS)
            .saturating_sub(EVENTS_SHOWN);
        Stats {
            schema: 1,
            engine: self.machine.stats(),
            requests: self.desk.counters,
            queue: self.desk.queue(),
            reads: ReadStats {
                on_disk: self.reads.parked() as u64,
                scans: self.reads.scans() as u64,
                wire_snapshots: self.reads.wire.len() as u64,
                oldest_wire_snapshot: self.reads.wire.oldest().map(|seq| seq.0),
            },
            sessions: self.replicated.session_stats(),
            conditions: self.conditions.stats,
            log: self.log.stats(),
            stages: self.stages(),
            events: self.trace.iter().skip(skip).copied().collect(),
        }
    }

    fn stages(&self) -> Stages {
        Stage::ALL
            .into_iter()
            .map(|stage| (stage.name(), self.desk.stages.summary(stage)))
            .collect()
    }

    fn not_ready_reason(&self) -> Option<String> {
        match self.phase {
            Phase::Draining | Phase::Closing => {
                return Some("shutting down".to_owned());
            }
            Phase::Stopped => return Some("stopped".to_owned()),
            Phase::Running => {}
        }
        if self.raft.leader().is_none() {
            return Some(self.waits_to_belong().unwrap_or_else(|| self.why_no_leader()));
        }
        if let Some(reason) = self.conditions.stuck() {
            return Some(reason.to_owned());
        }
        if self.receiver.is_installing() {
            return Some("installing a snapshot".to_owned());
        }
        let replay = self.apply.replay_status();
        let applied = self.machine.applied().0;
        match replay.to_index {
            _ if replay.done => None,
            None => Some("waiting to learn what is committed".to_owned()),
            Some(to) => Some(format!(
                "replaying the log: {applied} of {to} applied, from {}",
                replay.from_index
            )),
        }
    }
}
