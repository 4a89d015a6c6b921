//! [`RaftStatus`]: a replica's state for STATUS, tests, and checkers.

use super::progress::ProgressState;
use super::{Raft, Role};
use crate::base::{LogIndex, Nanos, ReplicaId, Term};
use std::fmt;

/// What a replica knows. Copied out; asking changes nothing.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct RaftStatus {
    /// This replica.
    pub id: ReplicaId,
    /// Its role.
    pub role: Role,
    /// Its term.
    pub term: Term,
    /// Whom it voted for in this term.
    pub vote: Option<ReplicaId>,
    /// The leader, when it knows one.
    pub leader: Option<ReplicaId>,
    /// The commit index.
    pub commit: LogIndex,
    /// The end of its log.
    pub last: (LogIndex, Term),
    /// Its log is durable up to here.
    pub durable: LogIndex,
    /// The entry that set the membership in force.
    pub membership_index: LogIndex,
    /// When the oldest [`Persist`](super::Persist) that is not durable was issued.
    pub oldest_unsynced: Option<Nanos>,
    /// A leader's bytes that are not committed.
    pub uncommitted_bytes: usize,
    /// To whom leadership is being handed over.
    pub transfer: Option<ReplicaId>,
    /// A leader's followers.
    pub followers: Vec<FollowerStatus>,
}

/// What a leader knows of one follower.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct FollowerStatus {
    /// Who.
    pub replica: ReplicaId,
    /// Whether it votes.
    pub voter: bool,
    /// How it is being served.
    pub state: ProgressState,
    /// Its log equals the leader's up to here, durably.
    pub matched: LogIndex,
    /// What will be sent next.
    pub next: LogIndex,
    /// Appends in flight.
    pub in_flight: usize,
    /// Payload bytes in flight.
    pub in_flight_bytes: usize,
    /// When it answered last.
    pub heard: Nanos,
    /// Whether it answered within an election timeout.
    pub recent: bool,
    /// A learner that may be promoted.
    pub caught_up: bool,
}

impl Raft {
    /// The status.
    #[must_use]
    pub fn status(&self) -> RaftStatus {
        let now = self.timers.now();
        let timeout = self.settings.election_timeout_ns;
        let followers = self.lead.followers.iter().map(|(replica, p)| FollowerStatus {
            replica: *replica,
            voter: self.memberships.is_voter(*replica),
            state: p.state,
            matched: p.matched,
            next: p.next,
            in_flight: p.window.messages(),
            in_flight_bytes: p.window.bytes(),
            heard: p.heard,
            recent: now.since(p.heard) < timeout,
            caught_up: p.catch_up.caught_up(now, timeout),
        });
        RaftStatus {
            id: self.id(),
            role: self.role,
            term: self.term(),
            vote: self.hard_state.vote,
            leader: self.leader,
            commit: self.commit,
            last: self.last,
            durable: self.durable,
            membership_index: self.membership_index(),
            oldest_unsynced: self.persisting.oldest(),
            uncommitted_bytes: self.uncommitted_bytes(),
            transfer: self.lead.transfer.map(|t| t.to),
            followers: followers.collect(),
        }
    }

    /// Payload bytes that this leader appended and that are not committed yet.
    #[must_use]
    pub const fn uncommitted_bytes(&self) -> usize {
        self.lead.uncommitted.bytes()
    }
}

/// `2` or `none`.
pub(super) fn or_none(replica: Option<ReplicaId>) -> String {
    replica.map_or_else(|| "none".into(), |r| r.to_string())
}

impl fmt::Display for RaftStatus {
    /// One line for the replica, and one for each follower.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (last, last_term) = self.last;
        write!(
            f,
            "{}: {} term={} vote={} leader={} commit={} last={last}@{last_term} durable={}",
            self.id,
            self.role.name(),
            self.term,
            or_none(self.vote),
            or_none(self.leader),
            self.commit,
            self.durable
        )?;
        if let Some(to) = self.transfer {
            write!(f, " transfer={to}")?;
        }
        for follower in &self.followers {
            write!(f, "\n  {follower}")?;
        }
        Ok(())
    }
}

impl fmt::Display for FollowerStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} {} match={} next={} in-flight={}",
            self.replica,
            if self.voter { "voter" } else { "learner" },
            self.state.name(),
            self.matched,
            self.next,
            self.in_flight
        )?;
        if !self.voter && self.caught_up {
            f.write_str(" caught-up")?;
        }
        if !self.recent {
            f.write_str(" silent")?;
        }
        Ok(())
    }
}
