//! [`Membership`]: who belongs to the cluster, and who of them votes.
//!
//! One membership is in force at every log index: the newest one at or below it (Raft §6: a node uses the latest
//! configuration in its log, committed or not). It travels as the body of a log entry of kind
//! `MEMBERSHIP`, as a state record of the Raft log, in a snapshot's description, and as a row under the reserved prefix.
//!
//! Invariant: at most one replica per node number; a voter is a (node, incarnation), never a node number alone.

use super::{NodeId, ReplicaId};
use std::collections::BTreeMap;

/// Whether a member counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberRole {
    /// It votes, and what it has counts towards a commit.
    Voter,
    /// It receives the log and counts nowhere; the step before a voter.
    Learner,
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
}
