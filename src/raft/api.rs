//! What goes into [`Raft`](super::Raft) and what comes out.

use super::message::{Message, SnapshotChunk, SnapshotReply};
use super::trace::Trace;
use super::{Entry, HardState, IoId, Persist};
use crate::base::{LogIndex, Member, Membership, NodeId, ReplicaId, Term};
use bytes::Bytes;

/// How a replica behaves. [`Config::new`] has the defaults.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// This replica.
    pub id: ReplicaId,
    /// Election timeouts are drawn from it.
    pub seed: u64,
    /// Its timing and windows.
    pub settings: Settings,
    /// Whether [`Effect::Trace`] is wanted.
    pub trace: bool,
}

/// Timing and windows of a replica. [`Settings::default`] has the defaults.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// A leader speaks to every follower at least this often.
    pub heartbeat_ns: u64,
    /// The shortest election timeout; each one is drawn from this to twice this. Also the time of check-quorum, of
    /// stickiness, of a transfer, and of the longest sync a leader may wait for (pitfall 20).
    pub election_timeout_ns: u64,
    /// Most appends in flight to one follower.
    pub max_inflight_messages: usize,
    /// Most payload bytes in flight to one follower.
    pub max_inflight_bytes: usize,
    /// Most payload bytes in one append (one entry may exceed it alone).
    pub max_append_bytes: usize,
    /// Most payload bytes above the commit index; more are refused at propose.
    pub max_uncommitted_bytes: usize,
    /// Reads without a round while a lease holds, given how much faster than real time one clock may run
    /// against another, in millionths; `None` (the default) always asks a quorum.
    pub lease_drift_ppm: Option<u32>,
}

/// What a replica remembers when it comes up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Start {
    /// The last hard state that was persisted.
    pub hard_state: HardState,
    /// What the state machine holds; it was committed once.
    pub applied: LogIndex,
    /// The memberships in force from the log's baseline on, each with the index of the entry that set it (0: the first
    /// one of the cluster), oldest first. Empty, or an empty membership: it waits to be added and never campaigns.
    pub memberships: Vec<(LogIndex, Membership)>,
}

/// What a replica is in its term.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It follows whoever leads.
    Follower,
    /// It asks whether it would win (pre-vote), in its old term.
    PreCandidate,
    /// It asks for votes, its own first.
    Candidate,
    /// It leads.
    Leader,
}

impl Role {
    /// The name in STATUS and traces.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Follower => "follower",
            Self::PreCandidate => "pre-candidate",
            Self::Candidate => "candidate",
            Self::Leader => "leader",
        }
    }
}

/// The driver's name for a read (one id may stand for all reads of a turn). Unique within a run of the process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, serde::Serialize)]
pub struct ReadId(pub u64);

/// A change of the membership; one at a time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// A new replica that does not vote yet. Its node number must not be in the membership.
    AddLearner(Member),
    /// A learner that caught up votes from now on.
    Promote(ReplicaId),
    /// Out with it, voter or learner, the leader included.
    Remove(ReplicaId),
}

/// What happens to a replica.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// Time passed; wanted at [`Raft::next_deadline`](super::Raft::next_deadline), harmless at any time.
    Tick,
    /// A message arrived.
    Message(Message),
    /// Append these payloads as one group. Answered in the same step by [`Effect::Proposed`] or
    /// [`Effect::ProposeRefused`].
    Propose(Vec<Bytes>),
    /// Change the membership. Answered like a propose of one entry.
    ProposeChange(Change),
    /// Hand leadership over, to this voter or (`None`) to the one that has most of the log. Answered by
    /// [`Effect::TransferStarted`] or [`Effect::ProposeRefused`]; proposals are refused until it ends, at most one election
    /// timeout later.
    Transfer(Option<NodeId>),
    /// Everything up to this id is durable.
    Persisted(IoId),
    /// The state machine has applied everything up to here.
    Applied(LogIndex),
    /// A linearizable read begins now (§8), on any role: a follower asks the leader. Answered, now or later, by
    /// [`Effect::ReadReady`] or [`Effect::ReadRefused`].
    Read(ReadId),
    /// The entries that [`Effect::Fetch`] asked for; `None`: they are not there any more.
    Fetched {
        /// For whom.
        to: ReplicaId,
        /// The fetch's session.
        session: u64,
        /// They begin where it said.
        entries: Option<Vec<Entry>>,
    },
    /// The connection to this replica broke: what was in flight may be lost.
    PeerUnreachable(ReplicaId),
    /// Leader's driver: send this piece. Dropped when the session is not the current one.
    SendChunk {
        /// To whom.
        to: ReplicaId,
        /// The piece, with its session.
        chunk: SnapshotChunk,
    },
    /// Leader's driver: the transfer of this session was given up; go on by probing, and ask again if needed.
    SnapshotFailed {
        /// To whom it was.
        to: ReplicaId,
        /// Which.
        session: u64,
    },
    /// Follower's driver: this is my word on a piece that [`Effect::SnapshotChunk`] gave me.
    ReplyToChunk {
        /// The leader.
        to: ReplicaId,
        /// The word; `Installed` is said by raft itself after [`Event::SnapshotInstalled`].
        reply: SnapshotReply,
    },
    /// Follower's driver: the state machine now stands at the snapshot, durably, and the log was
    /// [reset](super::LogStore::reset) if it did not hold (index, term). The log view shows it.
    SnapshotInstalled {
        /// The last entry in it.
        index: LogIndex,
        /// Its term.
        term: Term,
        /// Its membership.
        membership: (LogIndex, Membership),
        /// Whom to tell: the leader and the reply that says so.
        reply: Option<(ReplicaId, SnapshotReply)>,
    },
}

/// Why nothing was proposed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProposeError {
    /// Only the leader may.
    #[error("this node does not lead")]
    NotLeader {
        /// Who does, when it is known.
        leader: Option<ReplicaId>,
    },
    /// Leadership is being handed over.
    #[error("leadership is being handed over to {to}")]
    Transferring {
        /// To whom.
        to: ReplicaId,
    },
    /// Too much is not committed yet.
    #[error("{bytes} bytes wait for their commit, the limit is {max}")]
    TooManyUncommitted {
        /// How much.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// One membership change at a time.
    #[error("the membership change at entry {index} is not committed yet")]
    ChangeInFlight {
        /// The other one.
        index: LogIndex,
    },
    /// Not before an entry of this term is committed (pitfall 29).
    #[error("nothing of this term is committed yet")]
    NoCommitInTerm,
    /// The learner has not caught up.
    #[error("the learner is {behind} entries behind")]
    NotCaughtUp {
        /// How far.
        behind: u64,
    },
    /// No such member, or another incarnation of it.
    #[error("no such member")]
    UnknownMember,
    /// There is a member with that number.
    #[error("node {0} is a member already; remove it first")]
    AlreadyMember(NodeId),
    /// The last voter cannot go, and the leader cannot transfer to itself or to a learner.
    #[error("{0}")]
    Impossible(&'static str),
}

/// What the driver must do, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Make this durable and report it.
    Persist(Persist),
    /// Send this, but not before everything up to `after` is durable, and not at all if
    /// [`Raft::term`](super::Raft::term) is by then another one than right after the step that said so.
    Send {
        /// The message.
        message: Message,
        /// `None`: at once.
        after: Option<IoId>,
    },
    /// The proposed payloads stand in the log at `first`, `first + 1`, …; they are not yet committed.
    Proposed {
        /// The index of the first one.
        first: LogIndex,
        /// Their term.
        term: Term,
    },
    /// Nothing was appended.
    ProposeRefused(ProposeError),
    /// The hand-over has begun; it ends with a [`Effect::RoleChange`] or, failed, with proposals being taken again.
    TransferStarted {
        /// To whom.
        to: ReplicaId,
    },
    /// Everything up to `through` is committed, and durable here: apply it.
    Apply {
        /// At most the commit index.
        through: LogIndex,
    },
    /// The read may be answered from any state that has applied `index`.
    ReadReady {
        /// The read.
        read: ReadId,
        /// What must be applied first.
        index: LogIndex,
    },
    /// No leader could be asked, or it lost its leadership: nothing is known about the read.
    ReadRefused {
        /// The read.
        read: ReadId,
    },
    /// Role, term, or leader changed.
    RoleChange {
        /// The role now.
        role: Role,
        /// The term now.
        term: Term,
        /// Who leads, when it is known.
        leader: Option<ReplicaId>,
    },
    /// Read these entries from the disk and bring them as [`Event::Fetched`].
    Fetch {
        /// For whom.
        to: ReplicaId,
        /// Comes back.
        session: u64,
        /// The first.
        lo: LogIndex,
        /// The last.
        hi: LogIndex,
        /// As in [`LogView::entries`](super::LogView::entries).
        max_bytes: usize,
    },
    /// This follower needs what the log no longer has: begin sending a snapshot (or go on with the one for it).
    SnapshotNeeded {
        /// Who.
        to: ReplicaId,
        /// For [`Event::SendChunk`].
        session: u64,
    },
    /// The transfer to this follower is over: it caught up, left, or leadership ended.
    SnapshotOver {
        /// Who.
        to: ReplicaId,
    },
    /// The receiver of a snapshot spoke (leader's driver).
    SnapshotAck {
        /// Who.
        from: ReplicaId,
        /// What.
        reply: SnapshotReply,
    },
    /// A piece of a snapshot from the current leader (follower's driver).
    SnapshotChunk {
        /// The leader.
        from: ReplicaId,
        /// The piece.
        chunk: SnapshotChunk,
    },
    /// Something happened that must never happen (two leaders in one term, a conflict with a committed entry): stop
    /// the process. Nothing comes after it.
    Fatal {
        /// What, for people.
        reason: String,
    },
    /// What happened, for people and for checkers; only with [`Config::trace`].
    Trace(Trace),
}
