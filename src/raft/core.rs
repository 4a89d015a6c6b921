//! [`Raft`]: a replica's state and its step function. The module above has the contract and the invariants; the
//! sections of the algorithm are in the files beside this one.

use super::context::Context;
use super::membership::Memberships;
use super::message::{AppendOutcome, AppendReply, Body, Message, SnapshotOutcome, SnapshotReply};
use super::persisting::{Persisting, Proof};
use super::reads::Forwarded;
use super::replication::Leading;
use super::timers::Timers;
use super::trace::Trace;
use super::{
    Config, Effect, Entry, Event, HardState, IoId, LogView, Persist, ProposeError, Role, Settings,
    Start,
};
use crate::base::{LogIndex, Membership, Nanos, ReplicaId, Term};
use bytes::Bytes;
use std::collections::BTreeMap;

/// The shortest election timeout of the default [`Settings`].
const ELECTION_TIMEOUT_NS: u64 = 1_000_000_000;

impl Config {
    /// The defaults.
    #[must_use]
    pub const fn new(id: ReplicaId, seed: u64) -> Self {
        Self { id, seed, settings: Settings::DEFAULT, trace: false }
    }
}

impl Settings {
    const DEFAULT: Self = Self {
        heartbeat_ns: ELECTION_TIMEOUT_NS / 10,
        election_timeout_ns: ELECTION_TIMEOUT_NS,
        max_inflight_messages: 64,
        max_inflight_bytes: 8 << 20,
        max_append_bytes: crate::limits::MAX_APPEND_BYTES,
        max_uncommitted_bytes: 64 << 20,
        lease_drift_ppm: None,
    };
}

impl Default for Settings {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// One replica's Raft state.
#[derive(Debug)]
pub struct Raft {
    pub(super) id: ReplicaId,
    pub(super) settings: Settings,
    /// Whether [`Effect::Trace`] is wanted.
    traced: bool,
    pub(super) role: Role,
    pub(super) hard_state: HardState,
    /// The hard state changed in this step and is in no persist yet.
    pub(super) hard_state_dirty: bool,
    /// Who leads this term, when that is known.
    pub(super) leader: Option<ReplicaId>,
    /// The answers to this candidate or pre-candidate, its own yes included (a candidate's once it is durable).
    pub(super) votes: BTreeMap<ReplicaId, bool>,
    /// The end of the log, including what was just handed out in an [`Effect::Persist`].
    pub(super) last: (LogIndex, Term),
    /// The log is durable up to here.
    pub(super) durable: LogIndex,
    pub(super) commit: LogIndex,
    /// The newest [`Effect::Apply`]: committed, and durable here.
    pub(super) handed_out: LogIndex,
    pub(super) persisting: Persisting,
    pub(super) memberships: Memberships,
    pub(super) timers: Timers,
    /// Reads that this follower asked its leader about.
    pub(super) forwarded: Forwarded,
    /// What a leader knows; empty otherwise.
    pub(super) lead: Leading,
    /// The last replication session.
    pub(super) sessions: u64,
    /// It said [`Effect::Fatal`] and is silent since.
    pub(super) failed: bool,
}

impl Raft {
    /// A replica as it comes up: a follower with what it remembers. `applied` is what the state machine holds, which
    /// was committed once. When the log's last term is above the hard state's (a crash tore the hard state off),
    /// the term is raised to it and the vote cleared (pitfall 3).
    #[must_use]
    pub fn new(config: &Config, start: Start, log: &dyn LogView) -> Self {
        let Config { id, seed, settings, trace: traced } = *config;
        let Start { hard_state, applied, memberships } = start;
        let last = log.last();
        let hard_state = if last.1 > hard_state.term {
            HardState { term: last.1, vote: None }
        } else {
            hard_state
        };
        Self {
            id,
            settings,
            traced,
            role: Role::Follower,
            hard_state,
            hard_state_dirty: false,
            leader: None,
            votes: BTreeMap::new(),
            last,
            durable: last.0,
            commit: applied,
            handed_out: applied,
            persisting: Persisting::default(),
            memberships: Memberships::new(memberships),
            timers: Timers::new(seed),
            forwarded: Forwarded::default(),
            lead: Leading::default(),
            sessions: 0,
            failed: false,
        }
    }

    /// This replica.
    #[must_use]
    pub const fn id(&self) -> ReplicaId {
        self.id
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

    /// The leader, when this replica knows one.
    #[must_use]
    pub const fn leader(&self) -> Option<ReplicaId> {
        self.leader
    }

    /// The membership in force: the newest one in the log, committed or not.
    #[must_use]
    pub fn membership(&self) -> &Membership {
        self.memberships.current()
    }

    /// The entry that set it; 0: the first one of the cluster.
    #[must_use]
    pub fn membership_index(&self) -> LogIndex {
        self.memberships.index()
    }

    /// The membership in force at `index`, with the entry that set it; `None` below the log's baseline.
    #[must_use]
    pub fn membership_at(&self, index: LogIndex) -> Option<&(LogIndex, Membership)> {
        self.memberships.at(index)
    }

    /// One event in, its effects out. `log` shows everything that earlier effects asked to persist.
    pub fn step(&mut self, now: Nanos, event: Event, log: &dyn LogView, out: &mut Vec<Effect>) {
        if self.failed {
            return;
        }
        let first = !self.timers.started();
        let now = self.timers.observe(now);
        let mut ctx = Context::new(now, log, out, self.traced);
        if first {
            self.come_up(now);
        }
        self.dispatch(event, &mut ctx);
        if self.role == Role::Leader && !self.failed {
            self.lead_on(&mut ctx);
        }
        if self.hard_state_dirty && !self.failed {
            self.persist(None, Vec::new(), &mut ctx);
        }
        assert!(
            self.commit <= self.last.0
                && self.durable <= self.last.0
                && self.handed_out <= self.commit,
            "commit {}, durable {}, handed out {}, last {}",
            self.commit,
            self.durable,
            self.handed_out,
            self.last.0
        );
    }

    fn dispatch(&mut self, event: Event, ctx: &mut Context<'_>) {
        match event {
            Event::Tick => self.tick(ctx),
            Event::Message(message) => self.message(message, ctx),
            Event::Propose(payloads) => self.propose(payloads, ctx),
            Event::ProposeChange(change) => self.propose_change(change, ctx),
            Event::Transfer(to) => self.transfer(to, ctx),
            Event::Persisted(io) => self.persisted(io, ctx),
            Event::Applied(_) => self.memberships.prune(ctx.baseline()),
            Event::Read(read) => self.read(read, ctx),
            Event::Fetched { to, session, entries } => self.fetched(to, session, entries, ctx),
            Event::PeerUnreachable(peer) => self.peer_unreachable(peer, ctx),
            Event::SendChunk { to, chunk } => self.send_chunk(to, chunk, ctx),
            Event::SnapshotFailed { to, session } => self.snapshot_failed(to, session, ctx),
            Event::ReplyToChunk { to, reply } => self.send(to, Body::SnapshotReply(reply), ctx),
            Event::SnapshotInstalled { index, term, membership, reply } => {
                self.snapshot_installed((index, term), membership, reply, ctx);
            }
        }
    }

    fn come_up(&mut self, now: Nanos) {
        self.timers.random.stir(now.0);
        self.timers.arm_election(now, self.settings.election_timeout_ns);
        self.forwarded.begin(self.timers.random.next());
        if self.settings.lease_drift_ppm.is_some() {
            // What this replica promised a leader before it stopped holds for one election timeout.
            self.timers.leader_heard = Some(now);
        }
    }

    fn tick(&mut self, ctx: &mut Context<'_>) {
        match self.role {
            Role::Leader => self.leader_tick(ctx),
            Role::Follower | Role::PreCandidate | Role::Candidate => self.election_tick(ctx),
        }
        self.expire_forwarded(ctx);
    }

    /// When [`Event::Tick`] is wanted; [`Nanos::MAX`]: never.
    #[must_use]
    pub fn next_deadline(&self) -> Nanos {
        if self.failed {
            return Nanos::MAX;
        }
        if !self.timers.started() {
            return Nanos::ZERO;
        }
        let role = match self.role {
            Role::Leader => self.leader_deadline(),
            Role::Follower | Role::PreCandidate | Role::Candidate => self.election_deadline(),
        };
        role.min(self.forwarded.next_deadline())
    }

    /// §5.1: terms first, then what the message says.
    fn message(&mut self, message: Message, ctx: &mut Context<'_>) {
        if let Err(why) = self.check_message(&message) {
            ctx.trace(|| Trace::dropped(&message, why));
            return;
        }
        ctx.trace(|| Trace::received(&message));
        let Message { from, term, body, .. } = message;
        match &body {
            Body::PreVote { last } => return self.pre_vote(from, term, *last, ctx),
            Body::PreVoteReply { granted } => {
                return self.pre_vote_reply(from, term, *granted, ctx);
            }
            Body::Vote { transfer, .. } if term >= self.term() => {
                if let Some(why) = self.sticks_to_its_leader(*transfer, ctx.now) {
                    ctx.trace(|| Trace::vote(from, term, false, false, why));
                    return;
                }
            }
            _ => {}
        }
        if term < self.term() {
            return self.tell_stale_sender(from, &body, ctx);
        }
        if term > self.term() {
            let leader = body.is_from_leader().then_some(from);
            self.become_follower(term, leader, "a higher term", ctx);
        }
        if body.is_from_leader() && !self.follow(from, ctx) {
            return;
        }
        match body {
            Body::PreVote { .. } | Body::PreVoteReply { .. } => {}
            Body::Vote { last, transfer: _ } => self.vote(from, last, ctx),
            Body::VoteReply { granted } => self.vote_reply(from, granted, ctx),
            Body::Append(append) => self.append_from(from, append, ctx),
            Body::AppendReply(reply) => self.append_reply(from, reply, ctx),
            Body::ReadIndex { read } => self.read_asked(from, read, ctx),
            Body::ReadIndexReply { read, index } => self.read_answered(from, read, index, ctx),
            Body::Snapshot(chunk) => self.chunk_from(from, chunk, ctx),
            Body::SnapshotReply(reply) => self.snapshot_reply(from, reply, ctx),
            Body::TransferNow => self.transfer_now(from, ctx),
        }
    }

    fn check_message(&self, message: &Message) -> Result<(), &'static str> {
        if message.to != self.id() {
            return Err("it is for another replica");
        }
        if message.from == self.id() {
            return Err("it claims to come from this replica");
        }
        message.check()
    }

    /// Whoever speaks in an old term learns the present one.
    fn tell_stale_sender(&mut self, from: ReplicaId, body: &Body, ctx: &mut Context<'_>) {
        let reply = match body {
            Body::Vote { .. } => Body::VoteReply { granted: false },
            Body::Append(append) => Body::AppendReply(AppendReply {
                session: append.session,
                round: append.round,
                outcome: AppendOutcome::Rejected {
                    prev: append.prev.0,
                    conflict: (None, self.last.0.next()),
                },
            }),
            Body::Snapshot(chunk) => Body::SnapshotReply(SnapshotReply {
                session: chunk.session,
                transfer: chunk.transfer,
                outcome: SnapshotOutcome::Refused { reason: "there is a newer term".into() },
            }),
            Body::ReadIndex { read } => Body::ReadIndexReply { read: *read, index: None },
            _ => return,
        };
        self.send(from, reply, ctx);
    }

    /// Sends a message that tells no more than the term and the vote: not before those are durable (pitfall 2).
    pub(super) fn send(&mut self, to: ReplicaId, body: Body, ctx: &mut Context<'_>) {
        if self.hard_state_dirty {
            self.persist(None, Vec::new(), ctx);
        }
        let gate = self.persisting.gate_for_hard_state();
        let after = gate.filter(|_| !planted!(SpeakBeforeSync));
        self.send_after(after, to, self.term(), body, ctx);
    }

    pub(super) fn send_after(
        &mut self,
        after: Option<IoId>,
        to: ReplicaId,
        term: Term,
        body: Body,
        ctx: &mut Context<'_>,
    ) {
        let message = Message { from: self.id(), to, term, body };
        ctx.trace(|| Trace::sent(&message, after));
        ctx.out.push(Effect::Send { message, after });
    }

    /// Hands out entries (that `last` already counts) and the hard state, if it changed, to be made durable.
    pub(super) fn persist(
        &mut self,
        truncate_from: Option<LogIndex>,
        entries: Vec<Entry>,
        ctx: &mut Context<'_>,
    ) -> IoId {
        let written = match self.hard_state {
            HardState { term, vote } if planted!(VoteNotPersisted) => {
                HardState { term, vote: vote.filter(|v| *v == self.id()) }
            }
            hard_state => hard_state,
        };
        let hard_state = std::mem::take(&mut self.hard_state_dirty).then_some(written);
        if let Some(from) = truncate_from {
            self.persisting.truncated(from.prev());
            self.durable = self.durable.min(from.prev());
        }
        let proof = Proof {
            term: self.term(),
            last: self.last.0,
            first: truncate_from.or_else(|| entries.first().map(|e| e.index)),
            hard_state: hard_state.is_some(),
            vote: hard_state.is_some_and(|h| h.vote == Some(self.id())),
        };
        let io = self.persisting.issue(ctx.now, proof);
        ctx.persist(Persist { io, hard_state, truncate_from, entries });
        io
    }

    fn persisted(&mut self, io: IoId, ctx: &mut Context<'_>) {
        let Some(proved) = self.persisting.complete(io, self.term()) else { return };
        self.durable = self.durable.max(proved.last);
        if proved.vote && self.role == Role::Candidate {
            self.votes.insert(self.id(), true);
            self.count_votes(ctx);
        }
        if self.role == Role::Leader {
            self.advance_commit(ctx);
        }
        self.hand_out(ctx);
    }

    /// Appends as the leader; returns the first one's index.
    pub(super) fn append(&mut self, payloads: Vec<Bytes>, ctx: &mut Context<'_>) -> LogIndex {
        let (term, first) = (self.term(), self.last.0.next());
        let mut bytes = 0;
        let mut entries = Vec::with_capacity(payloads.len());
        for payload in payloads {
            self.last = (self.last.0.next(), term);
            bytes += payload.len();
            entries.push(Entry { index: self.last.0, term, payload });
        }
        self.lead.uncommitted.push(self.last.0, bytes);
        self.persist(None, entries, ctx);
        first
    }

    fn propose(&mut self, payloads: Vec<Bytes>, ctx: &mut Context<'_>) {
        let admitted = self.may_propose().and_then(|()| {
            let bytes = payloads.iter().map(Bytes::len).sum();
            self.lead.uncommitted.admit(bytes, self.settings.max_uncommitted_bytes)
        });
        match admitted {
            Err(error) => ctx.out.push(Effect::ProposeRefused(error)),
            Ok(()) => {
                let first = self.append(payloads, ctx);
                ctx.out.push(Effect::Proposed { first, term: self.term() });
            }
        }
    }

    /// Whether this replica leads and keeps leading.
    pub(super) fn may_propose(&self) -> Result<(), ProposeError> {
        if self.role != Role::Leader {
            return Err(ProposeError::NotLeader { leader: self.leader });
        }
        match &self.lead.transfer {
            Some(transfer) => Err(ProposeError::Transferring { to: transfer.to }),
            None => Ok(()),
        }
    }

    /// The commit index moves on to `index`.
    pub(super) fn commit_to(&mut self, index: LogIndex, ctx: &mut Context<'_>) {
        if index > self.commit {
            self.commit = index;
            ctx.trace(|| Trace::Commit { index });
        }
        self.hand_out(ctx);
    }

    /// What is committed is applied when it is durable here as well, so that the state machine never gets ahead of the
    /// log on its own disk.
    pub(super) fn hand_out(&mut self, ctx: &mut Context<'_>) {
        let durable = if planted!(ApplyBeforeDurable) { self.commit } else { self.durable };
        let through = self.commit.min(durable);
        if through > self.handed_out {
            self.handed_out = through;
            ctx.out.push(Effect::Apply { through });
        }
    }

    /// Enters `term` (or stays in it) as a follower of `leader`.
    pub(super) fn become_follower(
        &mut self,
        term: Term,
        leader: Option<ReplicaId>,
        reason: &'static str,
        ctx: &mut Context<'_>,
    ) {
        let before = (self.role, self.term(), self.leader);
        if term > self.term() {
            self.hard_state = HardState { term, vote: None };
            self.hard_state_dirty = true;
        }
        self.role = Role::Follower;
        self.leader = leader;
        self.votes.clear();
        if before == (self.role, self.term(), self.leader) {
            return;
        }
        if before.0 != Role::Follower {
            self.timers.arm_election(ctx.now, self.settings.election_timeout_ns);
        }
        self.role_changed(reason, ctx);
        if before.0 == Role::Leader {
            self.stop_leading(ctx);
        }
        self.refuse_forwarded(ctx);
    }

    /// Tells the driver.
    pub(super) fn role_changed(&mut self, reason: &'static str, ctx: &mut Context<'_>) {
        let (role, term, leader) = (self.role, self.term(), self.leader);
        ctx.trace(|| Trace::Role { role, term, leader, reason });
        ctx.out.push(Effect::RoleChange { role, term, leader });
    }

    /// Something that must never happen has happened: say it, and nothing more.
    pub(super) fn fail(&mut self, reason: String, ctx: &mut Context<'_>) {
        self.failed = true;
        ctx.trace(|| Trace::Fatal { reason: reason.clone() });
        ctx.out.push(Effect::Fatal { reason });
    }
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
