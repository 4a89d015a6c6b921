//! [`Confirmed`]: whether a read was answered by somebody who knew that it leads, or asked one who did.
//!
//! A leader may answer when a majority of the voters, itself included, has answered an append *of its term* that was sent
//! after the read arrived (section 6.4 of the thesis). What was sent after the arrival is answered after it, so it is
//! enough to look when each voter last answered in which term: no clock of a node, and nothing of what raft says about its
//! rounds, is believed. This finds an unconfirmed read also where nobody wrote meanwhile, and nobody could tell.
//!
//! With leases a leader may answer without, except after it told a successor to take over in the same term (pitfall 34).
//! A read during which the membership changed is not judged, nor one at a node that has yet to hear of the newest membership: its
//! leader counts by that one.

use crate::sim::hooks::{SimNode, Step, StepKind, Verdict, Violation};
use beachdb::base::{LogIndex, Nanos, ReplicaId, Term};
use beachdb::node::Origin;
use beachdb::raft::Message;
use beachdb::raft::message::Body;
use std::collections::BTreeMap;

/// Requests whose arrival is remembered; those of lost connections are forgotten by and by.
const MAX_REMEMBERED: usize = 20_000;

/// Answers that are remembered, by term: about a hundred terms of seven replicas.
const MAX_ANSWERS: usize = 1_000;

/// See the module.
#[derive(Debug, Default)]
pub struct Confirmed {
    /// When each request arrived, and how many memberships were known then.
    arrived: BTreeMap<Origin, (Nanos, usize)>,
    /// When each replica last answered an append of a term.
    answered: BTreeMap<(Term, ReplicaId), Nanos>,
    /// When the leader of a term told a successor to take over.
    handed_over: BTreeMap<Term, Nanos>,
}

impl Confirmed {
    /// A step begins; `memberships` are known.
    pub fn begin(&mut self, step: &Step<'_>, memberships: usize) {
        if let StepKind::Request(origin) = step.kind {
            self.arrived.insert(origin, (step.at, memberships));
            if self.arrived.len() > MAX_REMEMBERED {
                self.arrived.pop_first();
            }
        }
    }

    /// A message leaves.
    pub fn message(&mut self, now: Nanos, message: &Message) {
        match message.body {
            Body::AppendReply(_) => {
                self.answered.insert((message.term, message.from), now);
                if self.answered.len() > MAX_ANSWERS {
                    self.answered.pop_first();
                }
            }
            Body::TransferNow => {
                self.handed_over.entry(message.term).or_insert(now);
            }
            _ => {}
        }
    }

    /// A read is answered by `node`.
    pub fn check(
        &mut self,
        step: &Step<'_>,
        origin: Origin,
        node: &SimNode,
        leaders: &BTreeMap<Term, ReplicaId>,
        memberships: usize,
        newest: LogIndex,
    ) -> Verdict {
        let Some((arrived, before)) = self.arrived.remove(&origin) else { return Ok(()) };
        let (raft, lease) = (node.raft(), node.config().raft.lease_drift_ppm.is_some());
        let is_newest = raft.membership_index() == newest;
        if before != memberships || !is_newest || newest > node.applied() {
            return Ok(());
        }
        let voters: Vec<ReplicaId> = raft.membership().voters().collect();
        let answered = |term: Term, v: ReplicaId| self.answered.get(&(term, v)).copied();
        // A leader that removes itself leads on without counting itself.
        for (term, leader) in leaders.iter().rev().take(8) {
            let confirms = |v: &&ReplicaId| {
                *v == leader || answered(*term, **v).is_some_and(|at| at >= arrived)
            };
            if voters.iter().filter(confirms).count() * 2 > voters.len() {
                return Ok(());
            }
        }
        let over = self.handed_over.get(&raft.term()).is_some_and(|at| *at <= arrived);
        if lease && !over {
            return Ok(());
        }
        let term = raft.term();
        let answers: Vec<_> = voters.iter().map(|v| (v, answered(term, *v))).collect();
        let what = format!(
            "{} ({}, term {}) answered a read that arrived at {arrived}; when the voters last answered an append: {answers:?}",
            step.replica,
            raft.role().name(),
            term
        );
        Err(Violation::new("reads-are-confirmed", what))
    }
}
