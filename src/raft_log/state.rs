//! The four state slots of the Raft log, and its errors.
//!
//! ```text
//! slot 1, hard state, 32 bytes        slot 2, baseline, 16 bytes                 slot 3, membership at the baseline
//!  0  term                             0  index of the last released entry        0  index of the entry that set it
//!  8  has voted: 0 or 1                8  its term                                8  the membership (batch.md)
//! 16  voted for: node (0 when it has not)
//! 24  voted for: incarnation
//!
//! slot 4, cluster, 8 bytes
//!  0  the cluster's uid, not 0
//! ```
//!
//! Big-endian, eight bytes each but for the membership; `aux` is the format of the slot, 1. `proto-spec/wal.md` has an example.

use crate::base::{ClusterUid, LogIndex, Membership, NodeId, ReplicaId, Term};
use crate::raft::HardState;
use crate::wal::WalError;
use byteorder::{BigEndian, ByteOrder};
use std::path::PathBuf;

/// The slot of the hard state.
pub const SLOT_HARD_STATE: u64 = 1;
/// The slot of the baseline.
pub const SLOT_BASELINE: u64 = 2;
/// The slot of the membership in force at the baseline.
pub const SLOT_MEMBERSHIP: u64 = 3;
/// The slot of the cluster that the log is of.
pub const SLOT_CLUSTER: u64 = 4;
/// The format of all four, in `aux`.
pub const STATE_FORMAT: u64 = 1;

/// A failed Raft log operation. Except [`WalError::DiskFull`] all are final: stop the process.
#[derive(Debug, thiserror::Error)]
pub enum RaftLogError {
    /// The record log below failed.
    #[error(transparent)]
    Wal(#[from] WalError),
    /// Entries are missing, though every record is whole: a segment file was removed, or files of two logs mixed.
    #[error(
        "{}: the Raft log is not contiguous: expected entry {expected}, found {found}; a segment is missing or foreign: \
         put it back, or restore this node from a replica or a backup", dir.display()
    )]
    Gap {
        /// The log's directory.
        dir: PathBuf,
        /// The index that should follow.
        expected: LogIndex,
        /// The index that does.
        found: LogIndex,
    },
    /// A state record that this version does not understand.
    #[error(
        "{}: state slot {slot}: expected {expected}, found format {format} with {len} bytes; \
         start the version that wrote it", dir.display()
    )]
    State {
        /// The log's directory.
        dir: PathBuf,
        /// The slot.
        slot: u64,
        /// What was expected.
        expected: &'static str,
        /// The format that it says.
        format: u64,
        /// Its length.
        len: usize,
    },
    /// Entries that were to be read back have been released meanwhile.
    #[error("entries from {lo} on were released while they were being read")]
    Released {
        /// The first one wanted.
        lo: LogIndex,
    },
}

impl RaftLogError {
    /// Data on disk is not what was written.
    #[must_use]
    pub const fn is_corruption(&self) -> bool {
        match self {
            Self::Wal(error) => error.is_corruption(),
            Self::Gap { .. } | Self::State { .. } => true,
            Self::Released { .. } => false,
        }
    }
}

/// The payload of the hard state.
#[must_use]
pub fn encode_hard_state(state: HardState) -> [u8; 32] {
    let mut out = [0; 32];
    let vote = state.vote.unwrap_or_default();
    BigEndian::write_u64(&mut out[..8], state.term.0);
    BigEndian::write_u64(&mut out[8..16], state.vote.is_some().into());
    BigEndian::write_u64(&mut out[16..24], vote.node.0);
    BigEndian::write_u64(&mut out[24..], vote.incarnation);
    out
}

/// The hard state in a record's payload; `None` when it is not one.
#[must_use]
pub fn decode_hard_state(aux: u64, payload: &[u8]) -> Option<HardState> {
    if aux != STATE_FORMAT || payload.len() != 32 {
        return None;
    }
    let replica = ReplicaId {
        node: NodeId(BigEndian::read_u64(&payload[16..24])),
        incarnation: BigEndian::read_u64(&payload[24..]),
    };
    let vote = match BigEndian::read_u64(&payload[8..16]) {
        0 if replica == ReplicaId::default() => None,
        1 => Some(replica),
        _ => return None,
    };
    Some(HardState { term: Term(BigEndian::read_u64(&payload[..8])), vote })
}

/// The payload of the baseline.
#[must_use]
pub fn encode_baseline((index, term): (LogIndex, Term)) -> [u8; 16] {
    let mut out = [0; 16];
    BigEndian::write_u64(&mut out[..8], index.0);
    BigEndian::write_u64(&mut out[8..], term.0);
    out
}

/// The baseline in a record's payload; `None` when it is not one.
#[must_use]
pub fn decode_baseline(aux: u64, payload: &[u8]) -> Option<(LogIndex, Term)> {
    let valid = aux == STATE_FORMAT && payload.len() == 16;
    valid.then(|| {
        (LogIndex(BigEndian::read_u64(&payload[..8])), Term(BigEndian::read_u64(&payload[8..])))
    })
}

/// The payload of the cluster.
#[must_use]
pub const fn encode_cluster(cluster: ClusterUid) -> [u8; 8] {
    cluster.0.to_be_bytes()
}

/// The cluster in a record's payload; `None` when it is not one.
#[must_use]
pub fn decode_cluster(aux: u64, payload: &[u8]) -> Option<ClusterUid> {
    let uid = <[u8; 8]>::try_from(payload).ok().filter(|_| aux == STATE_FORMAT)?;
    Some(ClusterUid(u64::from_be_bytes(uid))).filter(|cluster| !cluster.is_none())
}

/// The payload of the membership in force at the baseline and the index of the entry that set it.
#[must_use]
pub fn encode_membership(index: LogIndex, membership: &Membership) -> Vec<u8> {
    [index.0.to_be_bytes().as_slice(), &membership.encode()].concat()
}

/// The membership in a record's payload; `None` when it is not one.
#[must_use]
pub fn decode_membership(aux: u64, payload: &[u8]) -> Option<(LogIndex, Membership)> {
    let (index, membership) = payload.split_first_chunk().filter(|_| aux == STATE_FORMAT)?;
    Some((LogIndex(u64::from_be_bytes(*index)), Membership::decode(membership).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_round_trip_and_others_are_refused() {
        let bytes = encode_cluster(ClusterUid(0xbeac));
        assert_eq!(decode_cluster(STATE_FORMAT, &bytes), Some(ClusterUid(0xbeac)));
        assert_eq!(decode_cluster(2, &bytes), None);
        assert_eq!(decode_cluster(STATE_FORMAT, &bytes[1..]), None);
        assert_eq!(decode_cluster(STATE_FORMAT, &[0; 8]), None);
        for vote in [None, Some(ReplicaId { node: NodeId(3), incarnation: 7 })] {
            let state = HardState { term: Term(9), vote };
            let bytes = encode_hard_state(state);
            assert_eq!(decode_hard_state(STATE_FORMAT, &bytes), Some(state));
            assert_eq!(decode_hard_state(2, &bytes), None);
            assert_eq!(decode_hard_state(STATE_FORMAT, &bytes[1..]), None);
        }
        let mut odd = encode_hard_state(HardState::default());
        odd[15] = 2;
        assert_eq!(decode_hard_state(STATE_FORMAT, &odd), None);
        let baseline = (LogIndex(4), Term(2));
        assert_eq!(decode_baseline(STATE_FORMAT, &encode_baseline(baseline)), Some(baseline));
        assert_eq!(decode_baseline(STATE_FORMAT, &[0; 15]), None);
        let voter = ReplicaId { node: NodeId(3), incarnation: 7 };
        for membership in [Membership::new(), Membership::of_voters([voter])] {
            let bytes = encode_membership(LogIndex(4), &membership);
            assert_eq!(decode_membership(2, &bytes), None);
            for cut in 0..bytes.len() {
                assert_eq!(decode_membership(STATE_FORMAT, &bytes[..cut]), None, "{cut}");
            }
            let expected = Some((LogIndex(4), membership));
            assert_eq!(decode_membership(STATE_FORMAT, &bytes), expected);
        }
    }
}
