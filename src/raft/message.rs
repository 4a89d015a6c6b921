//! What replicas say to each other. The bytes are `proto`'s business, who carries them the driver's.
//!
//! | message | from → to | answer | §  |
//! |---|---|---|---|
//! | [`Body::PreVote`] | would-be candidate → voters | [`Body::PreVoteReply`] | 9.6 of the thesis |
//! | [`Body::Vote`] | candidate → voters | [`Body::VoteReply`] | 5.2, 5.4.1 |
//! | [`Body::Append`] | leader → everybody; without entries it is the heartbeat | [`Body::AppendReply`] | 5.3 |
//! | [`Body::ReadIndex`] | follower → leader | [`Body::ReadIndexReply`] | 8; 6.4 of the thesis |
//! | [`Body::Snapshot`] | leader → follower, chunk by chunk | [`Body::SnapshotReply`] | 7 |
//! | [`Body::TransferNow`] | leader → its successor | a [`Body::Vote`] to all | 3.10 of the thesis |
//!
//! Every message carries the sender's term, except the pre-vote pair: a [`Body::PreVote`] carries the term the sender
//! *would* campaign in, and a granted [`Body::PreVoteReply`] echoes it; a refused one carries the refuser's own
//! term (pitfall 6).

use super::{Entry, ReadId};
use crate::base::{LogIndex, Membership, ReplicaId, Term};
use crate::limits::MAX_STORED_INDEX;
use bytes::Bytes;
use std::sync::Arc;

/// A message between two replicas. One that is addressed to another replica is dropped by the receiver. Answers count
/// only for the very replica (node *and* incarnation) that the membership names; requests of any replica are answered,
/// since a receiver whose log is behind may not know the sender's newest incarnation yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// The sender.
    pub from: ReplicaId,
    /// The receiver.
    pub to: ReplicaId,
    /// The sender's term (see the module for the pre-vote).
    pub term: Term,
    /// What it says.
    pub body: Body,
}

/// What a message says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
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
        /// The end of the candidate's log.
        last: (LogIndex, Term),
        /// The leader asked for this election: stickiness does not apply.
        transfer: bool,
    },
    /// The vote, or that there is none.
    VoteReply {
        /// Yes.
        granted: bool,
    },
    /// Entries that follow on `prev`; none is a heartbeat.
    Append(Append),
    /// What became of an append.
    AppendReply(AppendReply),
    /// At which index may I answer reads that arrived before now?
    ReadIndex {
        /// The follower's name for the question.
        read: ReadId,
    },
    /// The answer; `None`: the sender does not lead, or lost its leadership meanwhile.
    ReadIndexReply {
        /// The question's.
        read: ReadId,
        /// Answer when this is applied.
        index: Option<LogIndex>,
    },
    /// A piece of a snapshot.
    Snapshot(SnapshotChunk),
    /// How far the receiver of a snapshot is.
    SnapshotReply(SnapshotReply),
    /// Campaign at once: you have all I have.
    TransferNow,
}

impl Body {
    /// Whether only the leader of the message's term says this.
    #[must_use]
    pub const fn is_from_leader(&self) -> bool {
        matches!(self, Self::Append(_) | Self::Snapshot(_) | Self::TransferNow)
    }
}

impl Message {
    /// Whether the message makes sense by itself. A peer may send anything; what passes cannot make the
    /// arithmetic overflow, and its entries are a piece of some log.
    pub fn check(&self) -> Result<(), &'static str> {
        let believable = |number: u64| number <= MAX_STORED_INDEX;
        let (index, term) = match &self.body {
            Body::PreVote { last } | Body::Vote { last, .. } => *last,
            Body::Append(append) => return self.check_append(append),
            Body::AppendReply(AppendReply { outcome, .. }) => match *outcome {
                AppendOutcome::Accepted { matched } => (matched, Term::ZERO),
                AppendOutcome::Rejected { prev, conflict: (term, first) } => {
                    (prev.max(first), term.unwrap_or_default())
                }
            },
            Body::ReadIndexReply { index, .. } => (index.unwrap_or_default(), Term::ZERO),
            Body::Snapshot(SnapshotChunk { meta: Some(meta), .. }) => {
                if meta.index == LogIndex::ZERO || meta.membership.0 > meta.index {
                    return Err("a snapshot of nothing, or with a membership of later");
                }
                (meta.index, meta.term)
            }
            Body::SnapshotReply(SnapshotReply { outcome, .. }) => match outcome {
                SnapshotOutcome::Installed { index } => (*index, Term::ZERO),
                SnapshotOutcome::Next { .. } | SnapshotOutcome::Refused { .. } => {
                    (LogIndex::ZERO, Term::ZERO)
                }
            },
            Body::PreVoteReply { .. }
            | Body::VoteReply { .. }
            | Body::ReadIndex { .. }
            | Body::Snapshot(_)
            | Body::TransferNow => (LogIndex::ZERO, Term::ZERO),
        };
        if !believable(index.0) || !believable(self.term.0) {
            return Err("an index or a term that no log reaches");
        }
        let voting = matches!(self.body, Body::PreVote { .. } | Body::Vote { .. });
        if term > self.term || (voting && term == self.term) {
            return Err("an entry of a later term than the message's");
        }
        Ok(())
    }

    /// Entries follow on `prev` one by one, and their terms never fall, nor exceed the leader's.
    fn check_append(&self, append: &Append) -> Result<(), &'static str> {
        let (mut index, mut term) = append.prev;
        let end = index.0.saturating_add(append.entries.len() as u64).max(append.commit.0);
        if end > MAX_STORED_INDEX || self.term.0 > MAX_STORED_INDEX {
            return Err("an index or a term that no log reaches");
        }
        if index == LogIndex::ZERO && term != Term::ZERO {
            return Err("a term before the first entry");
        }
        for entry in &append.entries {
            if entry.index != index.next() {
                return Err("entries that do not follow on each other");
            }
            if entry.term < term || entry.term == Term::ZERO {
                return Err("entries whose terms fall");
            }
            (index, term) = (entry.index, entry.term);
        }
        if term > self.term {
            return Err("an entry of a later term than the message's");
        }
        Ok(())
    }
}

/// See [`Body::Append`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Append {
    /// The leader's replication session with this follower; replies carry it back, and replies of another session
    /// are ignored (pitfall 11).
    pub session: u64,
    /// The leader's confirmation round, rising within a term: a reply confirms reads of rounds up to this (pitfall 33).
    pub round: u64,
    /// The entry before the first one.
    pub prev: (LogIndex, Term),
    /// Entries `prev + 1`, `prev + 2`, …
    pub entries: Vec<Entry>,
    /// The leader's commit index. The receiver commits to at most what this message verified (pitfall 9).
    pub commit: LogIndex,
}

/// See [`Body::AppendReply`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AppendReply {
    /// The append's.
    pub session: u64,
    /// The append's.
    pub round: u64,
    /// Whether it fitted.
    pub outcome: AppendOutcome,
}

/// Whether an append fitted on the receiver's log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AppendOutcome {
    /// The receiver's log equals the leader's up to `matched`, durably.
    Accepted {
        /// The last index that the append verified.
        matched: LogIndex,
    },
    /// It has no entry equal to `prev`.
    Rejected {
        /// The append's `prev` index: an answer to an older probe is told by it.
        prev: LogIndex,
        /// Where to go on (pitfall 13): the term of the conflicting entry, if it has one there, and the first index of
        /// that term in its log; without one, the index after its last entry.
        conflict: (Option<Term>, LogIndex),
    },
}

/// What a snapshot is. Raft reads index, term, and membership; the rest is the state machine's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotMeta {
    /// The last entry in it.
    pub index: LogIndex,
    /// Its term.
    pub term: Term,
    /// The membership in force at `index`, and the index of the entry that set it (0: the first one).
    pub membership: (LogIndex, Membership),
    /// Bytes of the stream that the chunks cut: all files, one after the other.
    pub bytes: u64,
    /// The state machine's own description: which files, their lengths and properties. `proto-spec/snapshot.md`.
    pub body: Bytes,
}

/// A piece of a snapshot's stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotChunk {
    /// The replication session.
    pub session: u64,
    /// The leader's name for this transfer; unique with its replica id and incarnation.
    pub transfer: u64,
    /// In the first chunk of a (re)start; a receiver that does not have it asks for offset 0.
    pub meta: Option<Arc<SnapshotMeta>>,
    /// Where `data` stands in the stream.
    pub offset: u64,
    /// The bytes; empty in a snapshot without files.
    pub data: Bytes,
    /// CRC32C of `data`.
    pub crc: u32,
}

/// The receiver's word on a transfer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotReply {
    /// The chunk's.
    pub session: u64,
    /// The chunk's.
    pub transfer: u64,
    /// How far it is.
    pub outcome: SnapshotOutcome,
}

/// See [`SnapshotReply`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SnapshotOutcome {
    /// Send on from here: everything before is written.
    Next {
        /// The offset.
        offset: u64,
    },
    /// It is installed, or was not needed: the receiver's log and state now stand at least here.
    Installed {
        /// Matches the leader's log up to here.
        index: LogIndex,
    },
    /// It cannot be taken now (no space, a bad file); the leader tries again later.
    Refused {
        /// Why, for people.
        reason: String,
    },
}
