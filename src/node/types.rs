//! What goes into a node and what comes out.

use crate::base::conditions::FailedCondition;
use crate::base::{
    ClusterUid, LogIndex, Member, Membership, Nanos, NodeId, ReplicaId, SequenceNumber, Term,
};
use crate::env::Completion;
use crate::proto::{ErrorCode, Opcode, Request, Response};
use crate::raft::{Message, Trace};
use bytes::Bytes;

/// Where a request came from; it comes back with the reply. Connection numbers are the server's and never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Origin {
    /// The connection.
    pub conn: u64,
    /// The request's id on it.
    pub request_id: u64,
}

/// What happens to a node. One turn of the loop is any number of events and then [`Event::EndOfTurn`].
pub enum Event<'a> {
    /// A request arrived. It is answered by exactly one [`Effect::Reply`], in this step or a later one, unless its
    /// connection closes first.
    Request {
        /// Who wants the answer.
        origin: Origin,
        /// What is asked; what is kept of it is copied.
        request: Request<'a>,
        /// When the client gives up.
        deadline: Nanos,
        /// When its last byte arrived.
        received_at: Nanos,
        /// Its frame's length.
        bytes: usize,
    },
    /// A connection is gone: its requests need no answer. Its proposed writes go on.
    ConnectionClosed {
        /// The connection.
        conn: u64,
    },
    /// A job of this node finished.
    JobDone(Completion),
    /// A message from another replica arrived. One that is not for this very replica is dropped and counted, and so is one from
    /// another cluster.
    Peer {
        /// The message.
        message: Message,
        /// The cluster that its sender said it belongs to, on the connection that it came on.
        cluster: ClusterUid,
        /// It arrived at this machine after this time, as far as the driver knows: not later than now.
        after: Nanos,
    },
    /// The connection to this replica broke: what was on its way may be lost.
    PeerUnreachable(ReplicaId),
    /// The connection for pieces of snapshots to this replica broke: those on their way may be lost.
    BulkLinkLost(ReplicaId),
    /// A connection to this replica is up: from now on messages to it may arrive. Also when it says something else of itself
    /// than before.
    PeerUp(PeerFacts),
    /// A member that has begun its log says who the first members of the cluster are; see
    /// `node::formation`.
    Begin {
        /// Who says so.
        from: ReplicaId,
        /// Of which cluster.
        cluster: ClusterUid,
        /// The first members.
        members: Membership,
    },
    /// The operator wants something of the cluster. Answered like a request, by one [`Effect::Reply`] with opcode
    /// [`Opcode::Admin`]: [`Response::Written`] when it is done, or an error that says what became of it.
    Admin {
        /// Who wants the answer.
        origin: Origin,
        /// What is wanted.
        command: Admin,
        /// When the operator gives up.
        deadline: Nanos,
    },
    /// What [`Effect::Introduce`] found out. Dropped when nobody waits for it any more.
    Introduced {
        /// The effect's.
        token: u64,
        /// Who answered at the address, with the addresses that it advertises; or why it cannot be added, for people.
        result: Result<Member, String>,
    },
    /// Time passed; wanted at [`Node::next_wakeup`](super::Node::next_wakeup), harmless at any time.
    Tick,
    /// All events of this turn are in: propose its writes as one group, start the log's job, serve its reads.
    EndOfTurn,
    /// Refuse new requests, finish the admitted ones, close the log, then [`Effect::Drained`].
    Drain,
}

/// The feature of nodes that apply entries of kind REGISTER.
pub const FEATURE_SESSIONS: u64 = 1;
/// The feature of nodes that judge the conditions of a batch at apply.
pub const FEATURE_CONDITIONS: u64 = 2;
/// The feature of nodes that apply range deletes.
pub const FEATURE_RANGE_DELETES: u64 = 4;
/// All that this software can do; what HELLO says between nodes.
pub const FEATURES: u64 = FEATURE_SESSIONS | FEATURE_CONDITIONS | FEATURE_RANGE_DELETES;

/// What a peer said of itself when a connection to it came up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerFacts {
    /// Which life of which node it is.
    pub replica: ReplicaId,
    /// The cluster that it belongs to; none: no one yet.
    pub cluster: ClusterUid,
    /// Whether it had promised nothing to anybody: an empty log, term 0, no members known.
    pub blank: bool,
    /// The incarnation by which its membership knows *this* node's number; 0: it is no member there.
    pub known: u64,
    /// What its software can do, bit by bit: [`FEATURE_SESSIONS`], [`FEATURE_CONDITIONS`].
    pub features: u64,
    /// Where its peers reach it.
    pub peer_address: String,
    /// Where clients reach it.
    pub client_address: String,
}

/// What an operator may want of the cluster. The leader does it; another node refuses with `NOT_LEADER`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Admin {
    /// A new replica that gets the log and does not vote. Its node number must not be a member's.
    AddLearner(Member),
    /// This learner votes from now on; refused while it has not caught up.
    Promote(NodeId),
    /// Out with this member, the leader included.
    Remove(NodeId),
    /// Another voter leads: this one, or (`None`) the one that has most of the log.
    Transfer(Option<NodeId>),
}

/// What the driver must do, in order.
#[derive(Debug)]
pub enum Effect {
    /// Send this reply.
    Reply {
        /// To whom.
        origin: Origin,
        /// The request's opcode.
        opcode: Opcode,
        /// The reply.
        response: Response,
    },
    /// An operator wants to add this node: connect to the address, shake hands, and tell who is there by
    /// [`Event::Introduced`] with the same token. One at a time; the driver gives up by itself after a while.
    Introduce {
        /// Comes back.
        token: u64,
        /// The number that the node at the address must have.
        node: NodeId,
        /// `HOST:PORT` for peers, as the operator said it.
        address: String,
    },
    /// Carry this to the replica it is addressed to. It may be lost, and need not stay in order.
    Send(Message),
    /// This node belongs to a cluster from now on; once in a directory's life. Peers must hear of it before they are sent anything
    /// that follows, and those of another cluster are not heard any more.
    Belongs(ClusterUid),
    /// Tell this blank replica who the first members are ([`Event::Begin`] there), before anything that follows.
    Begin {
        /// To whom.
        to: ReplicaId,
        /// Of which cluster.
        cluster: ClusterUid,
        /// The first members.
        members: Membership,
    },
    /// What happened inside, for checkers; only with [`NodeConfig::observe`](super::NodeConfig::observe).
    Observed(Observed),
    /// Stop the process at once, without another reply: durability can no longer be promised. The node ignores all
    /// further events.
    Fatal(FatalError),
    /// The drain is complete and the log is closed: the process may exit 0. The node ignores all further events.
    Drained,
}

/// What a checker sees of the inside of a node.
#[derive(Clone, PartialEq, Debug)]
pub enum Observed {
    /// A step of the algorithm.
    Raft(Trace),
    /// An entry was applied.
    Applied {
        /// Its index.
        index: LogIndex,
        /// Its term.
        term: Term,
        /// Its batch.
        payload: Bytes,
        /// What applying it came to.
        outcome: EntryOutcome,
    },
    /// A snapshot replaced the state.
    Installed {
        /// The last entry in it.
        index: LogIndex,
        /// Its term.
        term: Term,
    },
    /// The log gave up its entries up to this one.
    Released {
        /// The last one that is gone.
        index: LogIndex,
    },
}

/// What applying an entry came to. The same on every replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryOutcome {
    /// Its operations were applied under these sequence numbers.
    Written {
        /// Of the first operation.
        first_seq: SequenceNumber,
        /// Of the last one.
        last_seq: SequenceNumber,
    },
    /// A condition did not hold: its operations were not applied.
    ConditionFailed(FailedCondition),
    /// A retry of a write that its session remembers; nothing was applied again.
    Duplicate {
        /// The entry that applied it.
        index: LogIndex,
    },
    /// Nothing was applied, by the rules of sessions.
    Refused(ErrorCode),
    /// A session began.
    Registered {
        /// Its id: the entry's index.
        client_id: u64,
        /// The session that had to make room for it.
        evicted: Option<u64>,
    },
}

/// Why the process must stop.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct FatalError {
    /// The part that failed.
    pub what: &'static str,
    /// How.
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

impl FatalError {
    pub(super) fn new(
        what: &'static str,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self { what, source: Box::new(source) }
    }
}
