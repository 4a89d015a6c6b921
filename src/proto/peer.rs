//! Frames between nodes: the handshake of a connection, and the messages of raft. Normative: `proto-spec/peer.md`.
//!
//! ```text
//!  byte  0        4         5         6         8
//! row 0  length   version   opcode    flags            as a client's frame; 1; 40 to 4e; 0
//! row 1  term                                          of raft's message; 0 in the others
//! row 2  0                  CRC32C                     never left out
//! body   …
//! ```
//!
//! | opcode | frame | body |
//! |---|---|---|
//! | 40, c0 | HELLO and its reply | who dials, who is there |
//! | 41, 43 | PRE_VOTE, VOTE | end of the log; VOTE: whether the leader asked for it |
//! | 42, 44 | PRE_VOTE_REPLY, VOTE_REPLY | granted or not |
//! | 45 | APPEND | session, round, the entry before, commit index, entries |
//! | 46 | APPEND_REPLY | session, round, matched or where they differ |
//! | 47, 48 | READ_INDEX, READ_INDEX_REPLY | read; index or none |
//! | 49, 4a | SNAPSHOT, SNAPSHOT_REPLY | a piece of a snapshot; how far the receiver is |
//! | 4b | TRANSFER_NOW | – |
//! | 4c | BEGIN | the first membership of a new cluster, and its uid |
//! | 4d, cd | PING and its reply | the reply: blank or not, as whom the dialer is known, the cluster's uid |
//! | 4e | CLUSTER | the uid of the cluster that the sender belongs to from now on |
//! | 80 | a refusal | as an error on the client port; then the connection is closed |
//!
//! Messages do not say from whom and to whom: a connection carries them one way, between the two replicas of its
//! handshake.
//!
//! # Invariants
//! - Payloads of entries are forwarded as the bytes they arrived in: [`encode`] copies each once, into the frame;
//!   [`decode`] slices the frame.
//! - The decoder never panics, reserves no memory for a count that the bytes do not back, and takes one spelling of each
//!   message.
//!
//! What it does not do: judge whether a message makes sense. That is `raft::Message::check`, which raft
//! calls itself: this module does not know raft.

mod decode;
mod encode;

#[cfg(test)]
mod tests;

pub use decode::decode;
pub use encode::encode;

use super::body::BodyError;
use super::error::{Effect, ErrorCode, ErrorReply};
use super::{PROTOCOL_VERSION, REPLY_BIT};
use crate::base::{ClusterUid, LogIndex, Membership, MembershipError, NodeId, ReplicaId, Term};
use bytes::Bytes;

/// The version of this protocol that this code speaks, and the oldest one.
pub const PEER_PROTOCOL_VERSION: u8 = 1;
/// Longest name of a cluster, and of a program with its version, in a handshake.
pub const MAX_PEER_TEXT_BYTES: usize = 255;
/// The first opcode of peers; those below are clients'.
pub const FIRST_PEER_OPCODE: u8 = 0x40;

// `frame` knows one version.
const _: () = assert!(PEER_PROTOCOL_VERSION == PROTOCOL_VERSION);

/// Bytes of HELLO, and of its reply, before the texts.
pub(super) const HELLO_BYTES: usize = 56;
/// Bytes of the reply to PING.
const PONG_BYTES: usize = 24;
const APPEND_BYTES: usize = 48;
const ENTRY_BYTES: usize = 24;
const SNAPSHOT_BYTES: usize = 32;
const META_BYTES: usize = 40;
pub(super) const FLAG_BLANK: u8 = 1;

/// What a peer frame is. Its byte is the frame's opcode; the replies to HELLO and PING have
/// [`REPLY_BIT`] added.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum PeerOpcode {
    /// The first frame of the one who dials.
    Hello = FIRST_PEER_OPCODE,
    /// See [`PeerMessage::PreVote`].
    PreVote,
    /// See [`PeerMessage::PreVoteReply`].
    PreVoteReply,
    /// See [`PeerMessage::Vote`].
    Vote,
    /// See [`PeerMessage::VoteReply`].
    VoteReply,
    /// See [`PeerMessage::Append`].
    Append,
    /// See [`PeerMessage::AppendReply`].
    AppendReply,
    /// See [`PeerMessage::ReadIndex`].
    ReadIndex,
    /// See [`PeerMessage::ReadIndexReply`].
    ReadIndexReply,
    /// See [`PeerMessage::Snapshot`].
    Snapshot,
    /// See [`PeerMessage::SnapshotReply`].
    SnapshotReply,
    /// See [`PeerMessage::TransferNow`].
    TransferNow,
    /// See [`PeerFrame::Begin`].
    Begin,
    /// Is the connection alive?
    Ping,
    /// See [`PeerFrame::Cluster`].
    Cluster,
}

impl PeerOpcode {
    /// All of them, by number.
    pub const ALL: [Self; 15] = [
        Self::Hello,
        Self::PreVote,
        Self::PreVoteReply,
        Self::Vote,
        Self::VoteReply,
        Self::Append,
        Self::AppendReply,
        Self::ReadIndex,
        Self::ReadIndexReply,
        Self::Snapshot,
        Self::SnapshotReply,
        Self::TransferNow,
        Self::Begin,
        Self::Ping,
        Self::Cluster,
    ];

    /// The opcode for a frame's byte without [`REPLY_BIT`]; `None` for one this version does not know.
    #[must_use]
    pub fn from_u8(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte.checked_sub(FIRST_PEER_OPCODE)?)).copied()
    }

    /// What a frame with this opcode byte is, and whether it is a reply: HELLO and PING have one of their own.
    #[must_use]
    pub fn of_frame(byte: u8) -> Option<(Self, bool)> {
        let opcode = Self::from_u8(byte & !REPLY_BIT)?;
        let reply = byte & REPLY_BIT != 0;
        (!reply || matches!(opcode, Self::Hello | Self::Ping)).then_some((opcode, reply))
    }

    /// The name of a frame with it.
    #[must_use]
    pub const fn frame_name(self, reply: bool) -> &'static str {
        match (self, reply) {
            (Self::Hello, true) => "HELLO reply",
            (Self::Ping, true) => "PING reply",
            _ => self.name(),
        }
    }

    /// Whether its frames carry a term.
    #[must_use]
    pub const fn has_term(self) -> bool {
        !matches!(self, Self::Hello | Self::Begin | Self::Ping | Self::Cluster)
    }

    /// The byte in a frame.
    #[must_use]
    pub const fn byte(self) -> u8 {
        self as u8
    }

    /// The name in docs and messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hello => "HELLO",
            Self::PreVote => "PRE_VOTE",
            Self::PreVoteReply => "PRE_VOTE_REPLY",
            Self::Vote => "VOTE",
            Self::VoteReply => "VOTE_REPLY",
            Self::Append => "APPEND",
            Self::AppendReply => "APPEND_REPLY",
            Self::ReadIndex => "READ_INDEX",
            Self::ReadIndexReply => "READ_INDEX_REPLY",
            Self::Snapshot => "SNAPSHOT",
            Self::SnapshotReply => "SNAPSHOT_REPLY",
            Self::TransferNow => "TRANSFER_NOW",
            Self::Begin => "BEGIN",
            Self::Ping => "PING",
            Self::Cluster => "CLUSTER",
        }
    }
}

/// What a connection is for: heartbeats never wait behind a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Lane {
    /// Everything but pieces of snapshots.
    Raft = 1,
    /// [`PeerMessage::Snapshot`] only.
    Bulk = 2,
}

impl Lane {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Raft, Self::Bulk];

    /// The lane for a byte.
    #[must_use]
    pub const fn from_u8(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Raft),
            2 => Some(Self::Bulk),
            _ => None,
        }
    }

    /// `raft` or `bulk`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raft => "raft",
            Self::Bulk => "bulk",
        }
    }
}

/// HELLO: who dials, and whom it wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerHello {
    /// The lowest version it speaks; not 0.
    pub min_version: u8,
    /// The highest version it speaks.
    pub max_version: u8,
    /// What the connection is for.
    pub lane: Lane,
    /// What it understands beyond its version, a bit each; bits that the receiver does not know are ignored.
    pub features: u64,
    /// Who it is; the node is not 0.
    pub replica: ReplicaId,
    /// Who should be there; 0 = whoever is.
    pub wanted: NodeId,
    /// Its log is empty, its term 0, and it knows no membership.
    pub blank: bool,
    /// While it is blank and to form a cluster: a check of the node numbers of its `--initial-cluster`; else 0.
    pub list: u32,
    /// The cluster that it belongs to; none: no one yet.
    pub cluster_uid: ClusterUid,
    /// The cluster's name: 1 to [`MAX_PEER_TEXT_BYTES`] printable ASCII characters without spaces.
    pub cluster: String,
    /// Where peers reach it, `HOST:PORT`; as in a [`Membership`].
    pub peer_address: String,
    /// Where clients reach it, `HOST:PORT`; as in a [`Membership`].
    pub client_address: String,
    /// Its program and version, `beachd 0.1.0`, for people: printable ASCII, at most [`MAX_PEER_TEXT_BYTES`].
    pub software: String,
}

impl PeerHello {
    /// The version to speak with the sender: the highest one that both know.
    #[must_use]
    pub const fn common_version(&self) -> Option<u8> {
        if self.min_version <= PEER_PROTOCOL_VERSION && PEER_PROTOCOL_VERSION <= self.max_version {
            Some(PEER_PROTOCOL_VERSION)
        } else {
            None
        }
    }
}

/// The reply to HELLO: who is there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerWelcome {
    /// The version to speak from here on; not 0.
    pub version: u8,
    /// As [`PeerHello::features`].
    pub features: u64,
    /// Who it is; the node is not 0.
    pub replica: ReplicaId,
    /// As [`PeerHello::blank`].
    pub blank: bool,
    /// The incarnation under which its membership knows the node that dialed; 0 = it is no member there.
    pub known: u64,
    /// As [`PeerHello::cluster_uid`].
    pub cluster_uid: ClusterUid,
    /// As [`PeerHello::cluster`].
    pub cluster: String,
    /// As [`PeerHello::peer_address`].
    pub peer_address: String,
    /// As [`PeerHello::client_address`].
    pub client_address: String,
    /// As [`PeerHello::software`].
    pub software: String,
}

/// The reply to PING: what may have changed since HELLO.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PeerPong {
    /// As [`PeerHello::blank`].
    pub blank: bool,
    /// As [`PeerWelcome::known`].
    pub known: u64,
    /// As [`PeerHello::cluster_uid`].
    pub cluster_uid: ClusterUid,
}

/// A frame between nodes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PeerFrame {
    /// The first frame of the one who dials.
    Hello(PeerHello),
    /// The answer to it.
    Welcome(PeerWelcome),
    /// The other answer; the connection is closed after it.
    Refused(ErrorReply),
    /// Is the connection alive?
    Ping,
    /// It is.
    Pong(PeerPong),
    /// To a blank node: this cluster begins with this membership.
    Begin(ClusterUid, Membership),
    /// What follows on this connection is of this cluster: the sender has begun, or was added, since HELLO.
    Cluster(ClusterUid),
    /// A message of raft, with its term.
    Raft(Term, PeerMessage),
}

impl PeerFrame {
    /// The opcode's byte.
    #[must_use]
    pub const fn opcode(&self) -> u8 {
        match self {
            Self::Hello(_) => PeerOpcode::Hello.byte(),
            Self::Welcome(_) => PeerOpcode::Hello.byte() | REPLY_BIT,
            Self::Refused(_) => super::CONNECTION_OPCODE | REPLY_BIT,
            Self::Ping => PeerOpcode::Ping.byte(),
            Self::Pong(_) => PeerOpcode::Ping.byte() | REPLY_BIT,
            Self::Begin(..) => PeerOpcode::Begin.byte(),
            Self::Cluster(_) => PeerOpcode::Cluster.byte(),
            Self::Raft(_, message) => message.opcode().byte(),
        }
    }
}

/// An entry of the log, as APPEND carries it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WireEntry {
    /// Its index.
    pub index: LogIndex,
    /// Its term.
    pub term: Term,
    /// Its batch, as the leader's client sent it.
    pub payload: Bytes,
}

/// What a snapshot is: comes with its first piece.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WireSnapshotMeta {
    /// The last entry in it.
    pub index: LogIndex,
    /// Its term.
    pub term: Term,
    /// The membership in force there, and the entry that set it.
    pub membership: (LogIndex, Membership),
    /// Bytes of the stream that the pieces cut.
    pub bytes: u64,
    /// The description of its files (`proto-spec/snapshot.md`).
    pub body: Bytes,
}

/// What became of an APPEND.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AppendAnswer {
    /// The logs are equal up to here, durably.
    Accepted {
        /// The last index verified.
        matched: LogIndex,
    },
    /// The entry before the first one is not there.
    Rejected {
        /// Its index.
        prev: LogIndex,
        /// The term of the entry that is there instead, and the first index of that term; term 0: the log ends before it,
        /// and the index is the one after its last entry.
        conflict: (Term, LogIndex),
    },
}

/// How far the receiver of a snapshot is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SnapshotAnswer {
    /// Go on from here.
    Next {
        /// The offset in the stream.
        offset: u64,
    },
    /// It is installed, or was not needed.
    Installed {
        /// The receiver's log and state stand at least here.
        index: LogIndex,
    },
    /// Not now.
    Refused {
        /// Why, for people; at most [`MAX_ERROR_MESSAGE_BYTES`](super::error::MAX_ERROR_MESSAGE_BYTES) go on the wire.
        reason: String,
    },
}

/// A message of raft. What each means is `raft::message`'s to say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PeerMessage {
    /// Would you vote for me in this term?
    PreVote {
        /// The end of the sender's log.
        last: (LogIndex, Term),
    },
    /// Whether it would.
    PreVoteReply {
        /// Yes.
        granted: bool,
    },
    /// Vote for me.
    Vote {
        /// The end of the sender's log.
        last: (LogIndex, Term),
        /// The leader asked for this election.
        transfer: bool,
    },
    /// The vote, or that there is none.
    VoteReply {
        /// Yes.
        granted: bool,
    },
    /// Entries that follow on `prev`; none is a heartbeat.
    Append {
        /// The replication session.
        session: u64,
        /// The confirmation round.
        round: u64,
        /// The entry before the first one.
        prev: (LogIndex, Term),
        /// The leader's commit index.
        commit: LogIndex,
        /// The entries.
        entries: Vec<WireEntry>,
    },
    /// What became of an append.
    AppendReply {
        /// The append's.
        session: u64,
        /// The append's.
        round: u64,
        /// Whether it fitted.
        answer: AppendAnswer,
    },
    /// At which index may I answer reads?
    ReadIndex {
        /// The sender's name for the question.
        read: u64,
    },
    /// The answer.
    ReadIndexReply {
        /// The question's.
        read: u64,
        /// When this is applied; `None`: ask somebody else.
        index: Option<LogIndex>,
    },
    /// A piece of a snapshot.
    Snapshot {
        /// The replication session.
        session: u64,
        /// The leader's name for the transfer.
        transfer: u64,
        /// With the first piece.
        meta: Option<Box<WireSnapshotMeta>>,
        /// Where the piece stands in the stream.
        offset: u64,
        /// Its bytes.
        data: Bytes,
        /// CRC32C of `data`; the receiver checks it when it writes.
        crc: u32,
    },
    /// How far the receiver of a snapshot is.
    SnapshotReply {
        /// The piece's.
        session: u64,
        /// The piece's.
        transfer: u64,
        /// How far.
        answer: SnapshotAnswer,
    },
    /// Campaign at once.
    TransferNow,
}

impl PeerMessage {
    /// Its opcode.
    #[must_use]
    pub const fn opcode(&self) -> PeerOpcode {
        match self {
            Self::PreVote { .. } => PeerOpcode::PreVote,
            Self::PreVoteReply { .. } => PeerOpcode::PreVoteReply,
            Self::Vote { .. } => PeerOpcode::Vote,
            Self::VoteReply { .. } => PeerOpcode::VoteReply,
            Self::Append { .. } => PeerOpcode::Append,
            Self::AppendReply { .. } => PeerOpcode::AppendReply,
            Self::ReadIndex { .. } => PeerOpcode::ReadIndex,
            Self::ReadIndexReply { .. } => PeerOpcode::ReadIndexReply,
            Self::Snapshot { .. } => PeerOpcode::Snapshot,
            Self::SnapshotReply { .. } => PeerOpcode::SnapshotReply,
            Self::TransferNow => PeerOpcode::TransferNow,
        }
    }

    /// The connection it belongs on.
    #[must_use]
    pub const fn lane(&self) -> Lane {
        match self {
            Self::Snapshot { .. } => Lane::Bulk,
            _ => Lane::Raft,
        }
    }
}

/// Why a frame is not one of a peer. The connection is of no use afterwards: answer [`PeerError::reply`], then close it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PeerError {
    /// Its bytes are not one whole frame.
    #[error("not one whole frame: {found} bytes, its length says {length}")]
    Frame {
        /// The bytes there are.
        found: usize,
        /// What the header says; 0 when there is none.
        length: u32,
    },
    /// A client's frame.
    #[error(
        "{name} (opcode {opcode:#04x}) is a client's frame, and this is the port for peers (proto-spec/peer.md); clients \
         are served on --listen, port 7400 by default"
    )]
    ClientFrame {
        /// The opcode's byte.
        opcode: u8,
        /// What clients call it.
        name: String,
    },
    /// An opcode this version does not know.
    #[error(
        "unknown peer opcode {opcode:#04x}, known are 0x40 (HELLO) to 0x4e (CLUSTER), 0xc0, 0xcd, and 0x80 with a status"
    )]
    UnknownOpcode {
        /// The opcode's byte.
        opcode: u8,
    },
    /// A field of the header that should be 0.
    #[error("{name}: {field} at byte {offset} of the header: expected 0, found {found}")]
    Header {
        /// The frame.
        name: &'static str,
        /// The field.
        field: &'static str,
        /// Where it is in the frame.
        offset: usize,
        /// What it is.
        found: u64,
    },
    /// The body's bytes are not what the opcode asks for.
    #[error("{name}: {source}")]
    Body {
        /// The frame.
        name: &'static str,
        /// What is wrong.
        source: BodyError,
    },
    /// A membership, or a member's address, is not sound.
    #[error("{name}: {source}")]
    Membership {
        /// The frame.
        name: &'static str,
        /// What is wrong.
        source: MembershipError,
    },
}

impl PeerError {
    /// The error's code in the reply.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::ClientFrame { .. } => ErrorCode::WrongPort,
            _ => ErrorCode::BadFrame,
        }
    }

    /// The frame to send before closing: [`PeerFrame::Refused`].
    #[must_use]
    pub fn reply(&self) -> ErrorReply {
        ErrorReply::new(self.code(), Effect::NotApplied, self.to_string())
    }
}
