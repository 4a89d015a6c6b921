//! [`Raft`]: one node's state and its step function. The module above has the contract and the invariants.

use super::persisting::{Persisting, Proof};
use super::{
    Config, Effect, Entry, Event, HardState, IoId, LogView, Persist, ProposeError, ReadId, Role,
    Start, quorum,
};
use crate::base::batch::WriteBatch;
use crate::base::{LogIndex, Nanos, ReplicaId, Term};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// The shortest election timeout of a default [`Config`].
const ELECTION_TIMEOUT_NS: u64 = 1_000_000_000;

impl Config {
    /// The defaults.
    #[must_use]
    pub const fn new(id: ReplicaId, seed: u64) -> Self {
        Self {
            id,
            seed,
            heartbeat_ns: ELECTION_TIMEOUT_NS / 10,
            election_timeout_ns: ELECTION_TIMEOUT_NS,
            max_inflight_messages: 64,
            max_inflight_bytes: 8 << 20,
            max_append_bytes: 1 << 20,
            max_uncommitted_bytes: 64 << 20,
            lease_drift_ppm: None,
            trace: false,
        }
    }
}

/// One node's Raft state.
#[derive(Debug)]
pub struct Raft {
    id: ReplicaId,
    role: Role,
    hard_state: HardState,
    /// Votes for this candidate, its own included once it is durable.
    votes: BTreeSet<ReplicaId>,
    /// Each voter's durable match index in this term, as the leader knows it.
    matches: BTreeMap<ReplicaId, LogIndex>,
    /// The end of the log, including what was just handed out in an [`Effect::Persist`].
    last: (LogIndex, Term),
    commit: LogIndex,
    persisting: Persisting,
    /// Reads that wait for the first commit of this leader's term (pitfall 32).
    waiting_reads: Vec<ReadId>,
}

impl Raft {
    /// A node as it comes up: a follower with what it remembers. `applied` is what the state machine holds, which
    /// was committed once. When the log's last term is above the hard state's (a crash tore the hard state off),
    /// the term is raised to it and the vote cleared (pitfall 3).
    #[must_use]
    pub fn new(config: &Config, start: Start, log: &dyn LogView) -> Self {
        let Start { hard_state, applied, memberships } = start;
        let voters =
            memberships.last().map(|(_, m)| m.voters().collect::<Vec<_>>()).unwrap_or_default();
        let last = log.last();
        let hard_state = if last.1 > hard_state.term {
            HardState { term: last.1, vote: None }
        } else {
            hard_state
        };
        Self {
            id: config.id,
            role: Role::Follower,
            hard_state,
            votes: BTreeSet::new(),
            matches: voters.into_iter().map(|voter| (voter, LogIndex::ZERO)).collect(),
            last,
            commit: applied,
            persisting: Persisting::default(),
            waiting_reads: Vec::new(),
        }
    }

    /// The role.
    #[must_use]
    pub const fn role(&self) -> Role {
        self.role
    }

    /// The term.
    #[must_use]
    pub const fn term(&self) -> Term {
        self.hard_state.term
    }

    /// The commit index.
    #[must_use]
    pub const fn commit(&self) -> LogIndex {
        self.commit
    }

    /// The leader, when this node knows one.
    #[must_use]
    pub fn leader(&self) -> Option<ReplicaId> {
        (self.role == Role::Leader).then_some(self.id)
    }

    /// One event in, its effects out. `log` shows everything that earlier effects asked to persist.
    pub fn step(&mut self, _now: Nanos, event: Event, log: &dyn LogView, out: &mut Vec<Effect>) {
        match event {
            Event::Tick => self.tick(out),
            Event::Propose(payloads) => self.propose(payloads, out),
            Event::Persisted(io) => self.persisted(io, log, out),
            Event::Read(read) => self.read(read, log, out),
            _ => {}
        }
    }

    /// A lone voter need not wait for an election timeout: nobody else can lead.
    fn tick(&mut self, out: &mut Vec<Effect>) {
        if self.role == Role::Follower {
            self.campaign(out);
        }
    }

    /// §5.2: a new term, a vote for oneself; the vote counts when it is durable.
    fn campaign(&mut self, out: &mut Vec<Effect>) {
        self.hard_state = HardState { term: self.hard_state.term.next(), vote: Some(self.id) };
        self.votes.clear();
        self.set_role(Role::Candidate, out);
        self.persist(Some(self.hard_state), Vec::new(), out);
    }

    fn propose(&mut self, payloads: Vec<Bytes>, out: &mut Vec<Effect>) {
        if self.role != Role::Leader {
            out.push(Effect::ProposeRefused(ProposeError::NotLeader { leader: None }));
            return;
        }
        let first = self.last.0.next();
        self.append(payloads, out);
        out.push(Effect::Proposed { first, term: self.term() });
    }

    fn append(&mut self, payloads: Vec<Bytes>, out: &mut Vec<Effect>) {
        let term = self.term();
        let mut entries = Vec::with_capacity(payloads.len());
        for payload in payloads {
            self.last = (self.last.0.next(), term);
            entries.push(Entry { index: self.last.0, term, payload });
        }
        self.persist(None, entries, out);
    }

    fn persist(
        &mut self,
        hard_state: Option<HardState>,
        entries: Vec<Entry>,
        out: &mut Vec<Effect>,
    ) {
        let proof = Proof {
            term: self.term(),
            last: self.last.0,
            vote: hard_state.is_some_and(|h| h.vote == Some(self.id)),
        };
        let io = self.persisting.issue(proof);
        out.push(Effect::Persist(Persist { io, hard_state, truncate_from: None, entries }));
    }

    fn persisted(&mut self, io: IoId, log: &dyn LogView, out: &mut Vec<Effect>) {
        let Some(proof) = self.persisting.complete(io, self.term()) else { return };
        match self.role {
            Role::Follower | Role::PreCandidate => {}
            Role::Candidate => {
                if proof.vote {
                    self.votes.insert(self.id);
                }
                if self.votes.len() >= quorum::majority(self.matches.len()) {
                    self.lead(proof.last, out);
                }
            }
            Role::Leader => {
                self.matches.insert(self.id, proof.last);
                self.advance_commit(log, out);
            }
        }
    }

    /// §8: a new leader appends a no-op, so that something of its own term can commit.
    fn lead(&mut self, durable: LogIndex, out: &mut Vec<Effect>) {
        for matched in self.matches.values_mut() {
            *matched = LogIndex::ZERO;
        }
        self.matches.insert(self.id, durable);
        self.set_role(Role::Leader, out);
        self.append(vec![Bytes::from(WriteBatch::no_op().into_bytes())], out);
    }

    /// §5.3 and §5.4.2: what a majority holds is committed, if it is of the current term (pitfall 1).
    fn advance_commit(&mut self, log: &dyn LogView, out: &mut Vec<Effect>) {
        let reached = quorum::committed(self.matches.values().copied());
        if reached <= self.commit || log.term(reached) != Some(self.term()) {
            return;
        }
        self.commit = reached;
        out.push(Effect::Apply { through: reached });
        for read in self.waiting_reads.drain(..) {
            out.push(Effect::ReadReady { read, index: reached });
        }
    }

    /// A lone voter is its own confirmation: only a commit of its own term is needed.
    fn read(&mut self, read: ReadId, log: &dyn LogView, out: &mut Vec<Effect>) {
        if self.role != Role::Leader {
            out.push(Effect::ReadRefused { read });
        } else if log.term(self.commit) == Some(self.term()) {
            out.push(Effect::ReadReady { read, index: self.commit });
        } else {
            self.waiting_reads.push(read);
        }
    }

    fn set_role(&mut self, role: Role, out: &mut Vec<Effect>) {
        self.role = role;
        out.push(Effect::RoleChange { role, term: self.term(), leader: self.leader() });
    }
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
