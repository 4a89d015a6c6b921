//! [`Membership`]: who belongs to the cluster, and who of them votes.
//!
//! One membership is in force at every log index: the newest one at or below it (Raft §6: a node uses the latest
//! configuration in its log, committed or not). It travels as the body of a log entry of kind
//! `MEMBERSHIP`, as a state record of the Raft log, in a snapshot's description, and as a row under the reserved prefix.
//!
//! Invariants:
//! - At most one replica per node number; a voter is a (node, incarnation), never a node number alone.
//! - One encoding for each membership, the same in all four places:
//!
//! ```text
//! OFFSET SIZE DESCRIPTION (integers big-endian)        a member, by rising node number
//! 0      1    format version, 1                        0   8  node number, not 0
//! 1      1    number of members                        8   8  incarnation
//! 2      …    members                                  16  1  role: 1 voter, 2 learner
//!                                                      17  2  length p of the peer address
//!                                                      19  2  length c of the client address
//!                                                      21  p  peer address, printable ASCII without spaces
//!                                                      …   c  client address, likewise
//! ```
//!
//! What it does not do: it does not know which changes are safe (raft does), nor whether an address leads anywhere.

use super::batch::{BATCH_HEADER_BYTES, BATCH_VERSION, BatchError, BatchRef, Op, WriteBatch, kind};
use super::{NodeId, ReplicaId};
use crate::limits::{MAX_ADDRESS_BYTES, MAX_MEMBERS};
use byteorder::{BigEndian, ByteOrder};
use bytes::Bytes;
use std::collections::BTreeMap;

const VERSION: u8 = 1;
/// Bytes before the first member.
const HEADER_BYTES: usize = 2;
/// Bytes of a member before its addresses.
const MEMBER_BYTES: usize = 21;

/// Why bytes are not a membership, or a membership cannot be encoded.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MembershipError {
    /// The bytes end before the membership does.
    #[error("membership truncated at byte {offset}")]
    Truncated {
        /// Where the missing bytes would begin.
        offset: usize,
    },
    /// A format version this code does not know.
    #[error("membership of format version {found}, expected {VERSION}")]
    Version {
        /// Its version.
        found: u8,
    },
    /// More than [`MAX_MEMBERS`].
    #[error("{members} members, the limit is {MAX_MEMBERS}")]
    TooManyMembers {
        /// How many.
        members: usize,
    },
    /// Node number 0.
    #[error("a member with node number 0")]
    ZeroNode,
    /// The members do not come by rising node number.
    #[error("node {found} comes after node {before}")]
    Order {
        /// The one before.
        before: NodeId,
        /// The one that should have a higher number.
        found: NodeId,
    },
    /// A role that this code does not know.
    #[error("node {node} has role {found}, expected 1 (voter) or 2 (learner)")]
    Role {
        /// Whose.
        node: NodeId,
        /// The byte.
        found: u8,
    },
    /// An address over [`MAX_ADDRESS_BYTES`].
    #[error("an address of node {node} has {len} bytes, the limit is {MAX_ADDRESS_BYTES}")]
    AddressTooLong {
        /// Whose.
        node: NodeId,
        /// Its length.
        len: usize,
    },
    /// An address with a space, a control character, or beyond ASCII.
    #[error(
        "an address of node {node} has byte {byte:#04x}; it must be printable ASCII without spaces"
    )]
    AddressByte {
        /// Whose.
        node: NodeId,
        /// The byte.
        byte: u8,
    },
    /// Bytes after the last member.
    #[error("{extra} bytes after the last member")]
    TrailingBytes {
        /// How many.
        extra: usize,
    },
    /// The entry that says it holds a membership is not a batch.
    #[error(transparent)]
    Batch(#[from] BatchError),
}

/// Whether a member counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberRole {
    /// It votes, and what it has counts towards a commit.
    Voter,
    /// It receives the log and counts nowhere; the step before a voter.
    Learner,
}

impl MemberRole {
    /// `voter` or `learner`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Voter => "voter",
            Self::Learner => "learner",
        }
    }

    const fn byte(self) -> u8 {
        match self {
            Self::Voter => 1,
            Self::Learner => 2,
        }
    }

    const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Voter),
            2 => Some(Self::Learner),
            _ => None,
        }
    }
}

/// One member.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Member {
    /// Which life of which node.
    pub replica: ReplicaId,
    /// Whether it votes.
    pub role: MemberRole,
    /// Where its peers reach it, `HOST:PORT`; may be empty where nobody dials (the simulator).
    pub peer_address: String,
    /// Where clients reach it, `HOST:PORT`; may be empty.
    pub client_address: String,
}

impl Member {
    /// Whether it can stand in a membership: a member that comes from outside is checked before it is proposed.
    pub fn check(&self) -> Result<(), MembershipError> {
        let node = self.replica.node;
        if node == NodeId::ZERO {
            return Err(MembershipError::ZeroNode);
        }
        check_address(node, self.peer_address.as_bytes())?;
        check_address(node, self.client_address.as_bytes())
    }
}

/// Whether this can stand as an address of `node` in a membership.
pub fn check_address(node: NodeId, address: &[u8]) -> Result<(), MembershipError> {
    if address.len() > MAX_ADDRESS_BYTES {
        return Err(MembershipError::AddressTooLong { node, len: address.len() });
    }
    match address.iter().find(|byte| !byte.is_ascii_graphic()) {
        Some(&byte) => Err(MembershipError::AddressByte { node, byte }),
        None => Ok(()),
    }
}

/// All members.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Membership {
    members: BTreeMap<NodeId, Member>,
}

impl Membership {
    /// Nobody: what a node has that waits to be added (it never campaigns).
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Voters without addresses.
    #[must_use]
    pub fn of_voters(voters: impl IntoIterator<Item = ReplicaId>) -> Self {
        let member = |replica| Member {
            replica,
            role: MemberRole::Voter,
            peer_address: String::new(),
            client_address: String::new(),
        };
        Self { members: voters.into_iter().map(|r| (r.node, member(r))).collect() }
    }

    /// Adds a member, or replaces the one with its node number; returns the one it replaced.
    pub fn insert(&mut self, member: Member) -> Option<Member> {
        self.members.insert(member.replica.node, member)
    }

    /// Takes a member out.
    pub fn remove(&mut self, node: NodeId) -> Option<Member> {
        self.members.remove(&node)
    }

    /// The member with this node number, whatever its incarnation.
    #[must_use]
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        self.members.get(&node)
    }

    /// This very replica.
    #[must_use]
    pub fn replica(&self, replica: ReplicaId) -> Option<&Member> {
        self.member(replica.node).filter(|m| m.replica == replica)
    }

    /// Whether this very replica votes.
    #[must_use]
    pub fn is_voter(&self, replica: ReplicaId) -> bool {
        self.replica(replica).is_some_and(|m| m.role == MemberRole::Voter)
    }

    /// All members by node number.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// The voters by node number.
    pub fn voters(&self) -> impl Iterator<Item = ReplicaId> {
        self.members.values().filter(|m| m.role == MemberRole::Voter).map(|m| m.replica)
    }

    /// How many vote.
    #[must_use]
    pub fn voter_count(&self) -> usize {
        self.voters().count()
    }

    /// Whether there is nobody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Whether it can be encoded: at most [`MAX_MEMBERS`] members, each of them sound.
    pub fn check(&self) -> Result<(), MembershipError> {
        if self.members.len() > MAX_MEMBERS {
            return Err(MembershipError::TooManyMembers { members: self.members.len() });
        }
        self.members.values().try_for_each(Member::check)
    }

    /// The bytes of the module's table.
    ///
    /// # Panics
    /// When [`Membership::check`] fails: what comes from outside is checked before it is proposed.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        if let Err(error) = self.check() {
            panic!("a membership that was never checked: {error}");
        }
        let mut out = vec![VERSION, self.members.len() as u8];
        for member in self.members.values() {
            let (peer, client) = (member.peer_address.as_bytes(), member.client_address.as_bytes());
            out.extend_from_slice(&member.replica.node.0.to_be_bytes());
            out.extend_from_slice(&member.replica.incarnation.to_be_bytes());
            out.push(member.role.byte());
            out.extend_from_slice(&(peer.len() as u16).to_be_bytes());
            out.extend_from_slice(&(client.len() as u16).to_be_bytes());
            out.extend_from_slice(peer);
            out.extend_from_slice(client);
        }
        out
    }

    /// Reads all of `bytes` as one membership. Accepts exactly what [`Membership::encode`] writes.
    pub fn decode(bytes: &[u8]) -> Result<Self, MembershipError> {
        let Some((&[version, count], mut rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return Err(MembershipError::Truncated { offset: bytes.len() });
        };
        if version != VERSION {
            return Err(MembershipError::Version { found: version });
        }
        if usize::from(count) > MAX_MEMBERS {
            return Err(MembershipError::TooManyMembers { members: count.into() });
        }
        let mut members = BTreeMap::new();
        let mut before = NodeId::ZERO;
        for _ in 0..count {
            let (member, next) = decode_member(rest, bytes.len())?;
            member.check()?;
            let found = member.replica.node;
            if found <= before {
                return Err(MembershipError::Order { before, found });
            }
            before = found;
            members.insert(found, member);
            rest = next;
        }
        match rest.len() {
            0 => Ok(Self { members }),
            extra => Err(MembershipError::TrailingBytes { extra }),
        }
    }

    /// The payload of the log entry from which on this membership is in force.
    ///
    /// # Panics
    /// As [`Membership::encode`].
    #[must_use]
    pub fn to_entry(&self) -> Bytes {
        WriteBatch::membership(&self.encode()).into_bytes().into()
    }

    /// The membership in a log entry's payload; `None` when it is an entry of another kind. Cheap then: it looks at two
    /// bytes, the batch's version and the first operation's kind.
    #[must_use]
    pub fn from_entry(payload: &[u8]) -> Option<Result<Self, MembershipError>> {
        let kind = payload.get(BATCH_HEADER_BYTES).filter(|_| payload[0] == BATCH_VERSION);
        if kind != Some(&kind::MEMBERSHIP) {
            return None;
        }
        let batch = match BatchRef::parse(payload) {
            Ok(batch) => batch,
            Err(error) => return Some(Err(error.into())),
        };
        match batch.ops().next() {
            Some(Op::Membership(encoded)) => Some(Self::decode(encoded)),
            _ => None,
        }
    }
}

/// The member at the front of `bytes`, which end at `end` of the whole, and what follows it.
fn decode_member(bytes: &[u8], end: usize) -> Result<(Member, &[u8]), MembershipError> {
    let truncated = MembershipError::Truncated { offset: end };
    let (head, rest) = bytes.split_at_checked(MEMBER_BYTES).ok_or(truncated.clone())?;
    let node = NodeId(BigEndian::read_u64(&head[..8]));
    let incarnation = BigEndian::read_u64(&head[8..16]);
    let role =
        MemberRole::from_byte(head[16]).ok_or(MembershipError::Role { node, found: head[16] })?;
    let peer = usize::from(BigEndian::read_u16(&head[17..19]));
    let client = usize::from(BigEndian::read_u16(&head[19..21]));
    if let Some(&len) = [peer, client].iter().find(|&&len| len > MAX_ADDRESS_BYTES) {
        return Err(MembershipError::AddressTooLong { node, len });
    }
    let (peer, rest) = rest.split_at_checked(peer).ok_or(truncated.clone())?;
    let (client, rest) = rest.split_at_checked(client).ok_or(truncated)?;
    let member = Member {
        replica: ReplicaId { node, incarnation },
        role,
        peer_address: decode_address(node, peer)?,
        client_address: decode_address(node, client)?,
    };
    Ok((member, rest))
}

fn decode_address(node: NodeId, bytes: &[u8]) -> Result<String, MembershipError> {
    check_address(node, bytes)?;
    Ok(String::from_utf8_lossy(bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn member(node: u64, role: MemberRole, address: &str) -> Member {
        Member {
            replica: ReplicaId { node: NodeId(node), incarnation: node << 8 | 0xab },
            role,
            peer_address: address.into(),
            client_address: String::new(),
        }
    }

    fn sample() -> Membership {
        let mut membership = Membership::new();
        membership.insert(member(2, MemberRole::Learner, ""));
        membership.insert(member(1, MemberRole::Voter, "a:1"));
        membership
    }

    #[test]
    fn golden_bytes() {
        let hex: String = sample().encode().iter().map(|b| format!("{b:02x}")).collect();
        let first = "000000000000000100000000000001ab0100030000613a31";
        let second = "000000000000000200000000000002ab0200000000";
        assert_eq!(hex, format!("0102{first}{second}"));
    }

    #[test]
    fn every_truncation_and_every_longer_one_is_an_error() {
        let bytes = sample().encode();
        for cut in 0..bytes.len() {
            let found = Membership::decode(&bytes[..cut]);
            assert_eq!(found, Err(MembershipError::Truncated { offset: cut }));
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        let expected = Err(MembershipError::TrailingBytes { extra: 1 });
        assert_eq!(Membership::decode(&longer), expected);
    }

    #[test]
    fn bad_fields_are_named() {
        let good = sample().encode();
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            Membership::decode(&bytes).unwrap_err()
        };
        let node = NodeId(1);
        assert_eq!(with(0, 2), MembershipError::Version { found: 2 });
        assert_eq!(with(1, 200), MembershipError::TooManyMembers { members: 200 });
        assert_eq!(with(9, 0), MembershipError::ZeroNode);
        assert_eq!(with(9, 2), MembershipError::Order { before: NodeId(2), found: NodeId(2) });
        assert_eq!(with(18, 3), MembershipError::Role { node, found: 3 });
        assert_eq!(with(19, 2), MembershipError::AddressTooLong { node, len: 515 });
        assert_eq!(with(23, b' '), MembershipError::AddressByte { node, byte: b' ' });
        assert_eq!(with(23, 0xff), MembershipError::AddressByte { node, byte: 0xff });
    }

    #[test]
    fn an_entry_that_says_membership_is_one_or_an_error() {
        let entry = sample().to_entry();
        assert_eq!(Membership::from_entry(&entry), Some(Ok(sample())));
        assert_eq!(Membership::from_entry(WriteBatch::no_op().as_bytes()), None);
        assert_eq!(Membership::from_entry(b""), None);
        let empty = Membership::new();
        assert_eq!(Membership::from_entry(&empty.to_entry()), Some(Ok(empty)));
        for at in 0..entry.len() {
            for bit in 0..8 {
                let mut bytes = entry.to_vec();
                bytes[at] ^= 1 << bit;
                match Membership::from_entry(&bytes) {
                    None => assert!([0, BATCH_HEADER_BYTES].contains(&at), "another kind"),
                    Some(Ok(other)) => assert_eq!(other.to_entry(), bytes, "one spelling"),
                    Some(Err(_)) => {}
                }
            }
        }
    }

    #[test]
    fn the_largest_membership_fits_and_one_more_member_does_not() {
        let address = "a".repeat(MAX_ADDRESS_BYTES);
        let mut membership = Membership::new();
        for node in 1..=MAX_MEMBERS as u64 {
            let client_address = address.clone();
            membership
                .insert(Member { client_address, ..member(node, MemberRole::Voter, &address) });
        }
        let encoded = membership.encode();
        assert_eq!(encoded.len(), crate::limits::MAX_MEMBERSHIP_BYTES);
        assert_eq!(Membership::from_entry(&membership.to_entry()), Some(Ok(membership.clone())));
        membership.insert(member(99, MemberRole::Learner, ""));
        let members = MAX_MEMBERS + 1;
        assert_eq!(membership.check(), Err(MembershipError::TooManyMembers { members }));
        let too_long = member(1, MemberRole::Voter, &format!("{address}a"));
        let len = MAX_ADDRESS_BYTES + 1;
        assert_eq!(too_long.check(), Err(MembershipError::AddressTooLong { node: NodeId(1), len }));
    }

    proptest! {
        #[test]
        fn round_trip(members in proptest::collection::vec(
            (1u64.., any::<u64>(), any::<bool>(), "[!-~]{0,40}", "[!-~]{0,40}"), 0..20)) {
            let mut membership = Membership::new();
            for (node, incarnation, votes, peer_address, client_address) in members {
                let replica = ReplicaId { node: NodeId(node), incarnation };
                let role = if votes { MemberRole::Voter } else { MemberRole::Learner };
                membership.insert(Member { replica, role, peer_address, client_address });
            }
            prop_assert_eq!(Membership::decode(&membership.encode()), Ok(membership.clone()));
            prop_assert_eq!(Membership::from_entry(&membership.to_entry()), Some(Ok(membership)));
        }

        #[test]
        fn arbitrary_bytes_never_panic_and_have_one_spelling(
            tail in proptest::collection::vec(any::<u8>(), 0..120), count in 0u8..4) {
            let bytes = [&[VERSION, count], tail.as_slice()].concat();
            if let Ok(membership) = Membership::decode(&bytes) {
                prop_assert_eq!(membership.encode(), bytes);
            }
        }
    }
}
