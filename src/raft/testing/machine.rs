//! [`Machine`]: a state machine that is one number, and [`Transfer`] and [`Receiving`], the driver's two ends of a
//! snapshot.

use crate::base::{LogIndex, Membership, Term};
use crate::raft::Entry;
use crate::raft::message::SnapshotMeta;
use bytes::Bytes;
use std::sync::Arc;

/// Bytes of a snapshot, sent one at a time.
pub const SNAPSHOT_BYTES: u64 = 2;

/// What has been applied: the digest tells states apart.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Machine {
    /// The last applied entry.
    pub applied: (LogIndex, Term),
    /// Over all entries up to it.
    pub digest: u64,
    /// The membership in force there.
    pub membership: (LogIndex, Membership),
}

impl Machine {
    /// Applies the next entry.
    pub fn apply(&mut self, entry: &Entry, membership: Option<Membership>) {
        assert_eq!(entry.index, self.applied.0.next(), "entries are applied in order");
        let mut mix = |value: u64| {
            self.digest = (self.digest ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        };
        mix(entry.index.0);
        mix(entry.term.0);
        entry.payload.iter().for_each(|byte| mix(u64::from(*byte)));
        self.applied = (entry.index, entry.term);
        if let Some(membership) = membership {
            self.membership = (entry.index, membership);
        }
    }

    /// It as a snapshot.
    pub fn meta(&self) -> Arc<SnapshotMeta> {
        Arc::new(SnapshotMeta {
            index: self.applied.0,
            term: self.applied.1,
            membership: self.membership.clone(),
            bytes: SNAPSHOT_BYTES,
            body: Bytes::copy_from_slice(&self.digest.to_be_bytes()),
        })
    }

    /// The state that a snapshot holds.
    pub fn of(meta: &SnapshotMeta) -> Self {
        let digest = meta.body[..].try_into().expect("the tests' own snapshots have eight bytes");
        Self {
            applied: (meta.index, meta.term),
            digest: u64::from_be_bytes(digest),
            membership: meta.membership.clone(),
        }
    }
}

/// The leader's end.
#[derive(Clone, Debug)]
pub struct Transfer {
    pub session: u64,
    pub transfer: u64,
    pub meta: Arc<SnapshotMeta>,
    /// The next byte to send.
    pub offset: u64,
}

/// The follower's end.
#[derive(Clone, Debug)]
pub struct Receiving {
    pub transfer: u64,
    pub meta: Arc<SnapshotMeta>,
    /// Bytes that it has.
    pub have: u64,
}
