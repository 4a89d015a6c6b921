//! The nouns of the algorithm: entries, hard state, and what must be persisted together.

use crate::base::{LogIndex, ReplicaId, Term};
use bytes::Bytes;
use std::fmt;

/// One entry of the replicated log. The payload is the bytes of a [`WriteBatch`](crate::base::batch::WriteBatch),
/// exactly as the client's frame carried them; raft never looks inside.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its position; the first entry of a log has index 1.
    pub index: LogIndex,
    /// The term of the leader that appended it.
    pub term: Term,
    /// The batch.
    pub payload: Bytes,
}

/// What a node must remember about elections across restarts. It is persisted in the same stream and by the same
/// sync as entries, and before any message that depends on it leaves (pitfall 2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HardState {
    /// The highest term this node has seen.
    pub term: Term,
    /// Whom it voted for in that term; `None` when it has not voted. A new term clears it (pitfall 3).
    pub vote: Option<ReplicaId>,
}

/// Identifies one [`Persist`]. Ids are issued in increasing order by one [`Raft`](super::Raft) and complete in that
/// order. They mean nothing across a restart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct IoId(pub u64);

impl fmt::Display for IoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "io {}", self.0)
    }
}

/// What the log must make durable, all of it or (after a crash) a prefix in this order: hard state, truncation, entries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Persist {
    /// Comes back as [`Event::Persisted`](super::Event::Persisted) when everything here is durable.
    pub io: IoId,
    /// The new hard state, when it changed.
    pub hard_state: Option<HardState>,
    /// Drop the entries at and above this index first, when given. Never at or below the commit index.
    pub truncate_from: Option<LogIndex>,
    /// Entries that follow directly on the log's last one (after the truncation).
    pub entries: Vec<Entry>,
}
