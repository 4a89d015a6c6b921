//! [`Trace`]: what happened in a replica, for people (text) and checkers (JSON lines).
//!
//! The text is compact and stable: golden files hold it. As JSON every event is one object with an `event` field.

use super::message::{AppendOutcome, Body, Message, SnapshotOutcome};
use super::progress::{Progress, ProgressState};
use super::status::or_none;
use super::{IoId, Role};
use crate::base::{LogIndex, MemberRole, Membership, ReplicaId, Term};
use std::fmt;

/// One thing that happened.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Trace {
    /// Role, term, or leader changed.
    Role {
        /// The role now.
        role: Role,
        /// The term now.
        term: Term,
        /// Who leads.
        leader: Option<ReplicaId>,
        /// Why.
        reason: &'static str,
    },
    /// This replica decided on a vote or pre-vote.
    Vote {
        /// Who asked.
        candidate: ReplicaId,
        /// For which term.
        term: Term,
        /// Whether it was only asked whether it would.
        pre: bool,
        /// Yes.
        granted: bool,
        /// Why not; empty when granted.
        why: &'static str,
    },
    /// A message leaves, when what it depends on is durable.
    Sent {
        /// The message.
        message: Brief,
        /// What it waits for.
        after: Option<u64>,
    },
    /// A message is being handled.
    Received {
        /// The message.
        message: Brief,
    },
    /// A message was not even looked at.
    Dropped {
        /// The message.
        message: Brief,
        /// Why.
        why: &'static str,
    },
    /// What a message claims is refused.
    Refused {
        /// Who sent it.
        from: ReplicaId,
        /// Why.
        why: &'static str,
    },
    /// An entry here differs from the leader's.
    Conflict {
        /// Where.
        index: LogIndex,
        /// The term of the entry here.
        ours: Term,
        /// The term of the leader's.
        theirs: Term,
    },
    /// Entries were dropped.
    Truncated {
        /// This one and all after it.
        from: LogIndex,
    },
    /// The commit index moved.
    Commit {
        /// To here.
        index: LogIndex,
    },
    /// Another membership is in force.
    Membership {
        /// The entry that set it.
        index: LogIndex,
        /// Its voters.
        voters: Vec<ReplicaId>,
        /// Its learners.
        learners: Vec<ReplicaId>,
        /// How it came.
        why: &'static str,
    },
    /// A leader serves a follower in another way.
    Progress {
        /// The follower.
        follower: ReplicaId,
        /// The way now.
        state: ProgressState,
        /// What is known to match.
        matched: LogIndex,
        /// What will be sent next.
        next: LogIndex,
        /// Why.
        why: &'static str,
    },
    /// A step of a transfer of leadership.
    Transfer {
        /// The successor; where one was asked to take over, the leader that asked.
        to: ReplicaId,
        /// What happened.
        what: &'static str,
    },
    /// A majority confirmed a round, and reads were answered by it.
    Reads {
        /// The round.
        round: u64,
        /// How many.
        answered: usize,
    },
    /// A snapshot took the place of the log's beginning.
    Installed {
        /// Its last entry.
        index: LogIndex,
        /// That entry's term.
        term: Term,
    },
    /// What must never happen happened.
    Fatal {
        /// What.
        reason: String,
    },
}

/// A message in short.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Brief {
    /// The sender.
    pub from: ReplicaId,
    /// The receiver.
    pub to: ReplicaId,
    /// The message's term.
    pub term: Term,
    /// Which kind.
    pub kind: &'static str,
    /// What it says.
    pub text: String,
}

impl Trace {
    pub(super) fn vote(
        candidate: ReplicaId,
        term: Term,
        pre: bool,
        granted: bool,
        why: &'static str,
    ) -> Self {
        Self::Vote { candidate, term, pre, granted, why }
    }

    pub(super) fn sent(message: &Message, after: Option<IoId>) -> Self {
        Self::Sent { message: message.brief(), after: after.map(|io| io.0) }
    }

    pub(super) fn received(message: &Message) -> Self {
        Self::Received { message: message.brief() }
    }

    pub(super) fn dropped(message: &Message, why: &'static str) -> Self {
        Self::Dropped { message: message.brief(), why }
    }

    pub(super) fn progress(follower: ReplicaId, progress: &Progress, why: &'static str) -> Self {
        let Progress { state, matched, next, .. } = *progress;
        Self::Progress { follower, state, matched, next, why }
    }

    pub(super) fn membership(index: LogIndex, membership: &Membership, why: &'static str) -> Self {
        let of = |role| membership.members().filter(move |m| m.role == role).map(|m| m.replica);
        let voters = of(MemberRole::Voter).collect();
        Self::Membership { index, voters, learners: of(MemberRole::Learner).collect(), why }
    }
}

impl Message {
    /// The message in short.
    #[must_use]
    pub fn brief(&self) -> Brief {
        let (kind, text) = self.body.brief();
        Brief { from: self.from, to: self.to, term: self.term, kind, text }
    }
}

impl Body {
    fn brief(&self) -> (&'static str, String) {
        let yes_no = |granted| if granted { "yes".into() } else { "no".to_string() };
        match self {
            Self::PreVote { last: (index, term) } => ("pre-vote", format!("last={index}@{term}")),
            Self::PreVoteReply { granted } => ("pre-vote-reply", yes_no(*granted)),
            Self::Vote { last: (index, term), transfer } => {
                ("vote", format!("last={index}@{term}{}", if *transfer { " transfer" } else { "" }))
            }
            Self::VoteReply { granted } => ("vote-reply", yes_no(*granted)),
            Self::Append(append) => {
                let (prev, prev_term) = append.prev;
                let entries = match (append.entries.first(), append.entries.last()) {
                    (Some(first), Some(last)) => {
                        format!(" entries={}..{}@{}", first.index, last.index, last.term)
                    }
                    _ => String::new(),
                };
                let (commit, round) = (append.commit, append.round);
                (
                    "append",
                    format!("prev={prev}@{prev_term}{entries} commit={commit} round={round}"),
                )
            }
            Self::AppendReply(reply) => {
                let round = reply.round;
                let text = match reply.outcome {
                    AppendOutcome::Accepted { matched } => format!("match={matched} round={round}"),
                    AppendOutcome::Rejected { prev, conflict: (None, first) } => {
                        format!("reject prev={prev} conflict={first} round={round}")
                    }
                    AppendOutcome::Rejected { prev, conflict: (Some(term), first) } => {
                        format!("reject prev={prev} conflict={first}@{term} round={round}")
                    }
                };
                ("append-reply", text)
            }
            Self::ReadIndex { .. } => ("read-index", String::new()),
            Self::ReadIndexReply { index: Some(index), .. } => {
                ("read-index-reply", format!("index={index}"))
            }
            Self::ReadIndexReply { index: None, .. } => ("read-index-reply", "none".into()),
            Self::Snapshot(chunk) => {
                let meta = chunk.meta.as_ref().map(|m| format!("{}@{} ", m.index, m.term));
                let (offset, bytes) = (chunk.offset, chunk.data.len());
                let text = format!("{}offset={offset} bytes={bytes}", meta.unwrap_or_default());
                ("snapshot", text)
            }
            Self::SnapshotReply(reply) => {
                let text = match &reply.outcome {
                    SnapshotOutcome::Next { offset } => format!("next={offset}"),
                    SnapshotOutcome::Installed { index } => format!("installed={index}"),
                    SnapshotOutcome::Refused { reason } => format!("refused: {reason}"),
                };
                ("snapshot-reply", text)
            }
            Self::TransferNow => ("transfer-now", String::new()),
        }
    }
}

impl fmt::Display for Brief {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}->{} {} term={}", self.from, self.to, self.kind, self.term)?;
        if !self.text.is_empty() {
            write!(f, " {}", self.text)?;
        }
        Ok(())
    }
}

fn list(replicas: &[ReplicaId]) -> String {
    let names: Vec<String> = replicas.iter().map(ToString::to_string).collect();
    names.join(",")
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Role { role, term, leader, reason } => {
                let leader = or_none(*leader);
                write!(f, "{} term={term} leader={leader}: {reason}", role.name())
            }
            Self::Vote { candidate, term, pre, granted, why } => {
                let pre = if *pre { "pre-vote" } else { "vote" };
                let granted = if *granted { "yes" } else { "no: " };
                write!(f, "{pre} for {candidate} in term={term}: {granted}{why}")
            }
            Self::Sent { message, after: None } => write!(f, "send {message}"),
            Self::Sent { message, after: Some(io) } => write!(f, "send {message} after io={io}"),
            Self::Received { message } => write!(f, "recv {message}"),
            Self::Dropped { message, why } => write!(f, "drop {message}: {why}"),
            Self::Refused { from, why } => write!(f, "refuse the message of {from}: {why}"),
            Self::Conflict { index, ours, theirs } => {
                write!(f, "conflict at {index}: ours@{ours} theirs@{theirs}")
            }
            Self::Truncated { from } => write!(f, "truncate from={from}"),
            Self::Commit { index } => write!(f, "commit {index}"),
            Self::Membership { index, voters, learners, why } => {
                write!(f, "membership {index}: voters={}", list(voters))?;
                if !learners.is_empty() {
                    write!(f, " learners={}", list(learners))?;
                }
                write!(f, " ({why})")
            }
            Self::Progress { follower, state, matched, next, why } => {
                write!(
                    f,
                    "progress {follower}: {} match={matched} next={next}: {why}",
                    state.name()
                )
            }
            Self::Transfer { to, what } => write!(f, "transfer {to}: {what}"),
            Self::Reads { round, answered } => write!(f, "reads: {answered} by round={round}"),
            Self::Installed { index, term } => write!(f, "snapshot {index}@{term} installed"),
            Self::Fatal { reason } => write!(f, "fatal: {reason}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::NodeId;

    #[test]
    fn events_read_as_text_and_as_json() {
        let replica = |node| ReplicaId { node: NodeId(node), incarnation: 0 };
        let message = Message {
            from: replica(2),
            to: replica(1),
            term: Term(3),
            body: Body::Vote { last: (LogIndex(7), Term(2)), transfer: true },
        };
        let trace = Trace::sent(&message, Some(IoId(4)));
        assert_eq!(trace.to_string(), "send 2->1 vote term=3 last=7@2 transfer after io=4");
        assert_eq!(
            serde_json::to_string(&Trace::Commit { index: LogIndex(9) }).unwrap(),
            r#"{"event":"commit","index":9}"#
        );
    }
}
