//! Elections (§5.2, §5.4.1), with pre-vote (§9.6 of the thesis), stickiness and check-quorum (§6, §4.2.3), and the
//! transfer of leadership (§3.10).
//!
//! These are one design (pitfall 5). *Pre-vote*: nobody raises its term before a majority said that it would vote, so
//! a cut-off replica does not come back with a high term. *Stickiness*: whoever heard a leader within the shortest
//! election timeout neither votes nor raises its term for another candidate, so a replica that misses messages (or was
//! removed) cannot depose a leader that a majority hears. *Check-quorum*: a leader that did not hear a majority for an
//! election timeout steps down, or stickiness would keep a one-way cut-off leader for ever. *Transfer*: the leader
//! asks for the election, so the successor's votes bypass pre-vote and stickiness.

use super::context::Context;
use super::message::Body;
use super::replication::Transfer;
use super::trace::Trace;
use super::{Effect, HardState, ProposeError, Raft, Role, quorum};
use crate::base::{LogIndex, Nanos, NodeId, ReplicaId, Term};
use crate::limits::MAX_STORED_INDEX;

impl Raft {
    /// When [`Raft::election_tick`] has something to do.
    pub(super) fn election_deadline(&self) -> Nanos {
        let lone = self.memberships.is_lone_voter(self.id());
        match self.role {
            // Nobody else can lead, so there is nothing to wait for; its own sync will come.
            Role::Follower if lone && self.leader.is_none() => Nanos::ZERO,
            Role::PreCandidate | Role::Candidate if lone => Nanos::MAX,
            _ if !self.may_campaign() && self.leader.is_none() => Nanos::MAX,
            _ => self.timers.election,
        }
    }

    pub(super) fn election_tick(&mut self, ctx: &mut Context<'_>) {
        if ctx.now < self.election_deadline() {
            return;
        }
        self.timers.arm_election(ctx.now, self.settings.election_timeout_ns);
        if !self.may_campaign() {
            self.become_follower(self.term(), None, "the leader is silent", ctx);
        } else if self.memberships.is_lone_voter(self.id()) {
            self.campaign(false, "the only voter", ctx);
        } else if self.disk_hangs(ctx.now) {
            // A vote for itself would not become durable either (pitfall 20).
            self.become_follower(self.term(), None, "the disk hangs", ctx);
        } else if planted!(NoPreVote) {
            self.campaign(false, "no leader was heard", ctx);
        } else {
            self.pre_campaign(ctx);
        }
    }

    fn may_campaign(&self) -> bool {
        self.memberships.may_campaign(self.id(), self.commit)
    }

    /// Whether the oldest sync takes longer than an election timeout.
    pub(super) fn disk_hangs(&self, now: Nanos) -> bool {
        let hangs = |at| now.since(at) > self.settings.election_timeout_ns;
        self.persisting.oldest().is_some_and(hangs) && !planted!(LeadsWithHungDisk)
    }

    /// Asks whether it would win, in its old term.
    fn pre_campaign(&mut self, ctx: &mut Context<'_>) {
        self.role = Role::PreCandidate;
        self.leader = None;
        self.votes.clear();
        self.votes.insert(self.id(), true);
        self.role_changed("no leader was heard", ctx);
        self.refuse_forwarded(ctx);
        let term = Term(self.term().0.saturating_add(1));
        let body = Body::PreVote { last: self.last };
        for voter in self.other_voters() {
            self.send_after(None, voter, term, body.clone(), ctx);
        }
    }

    /// §5.2: a new term, a vote for oneself; the vote counts, and others are asked, when it is durable.
    fn campaign(&mut self, transfer: bool, reason: &'static str, ctx: &mut Context<'_>) {
        if self.term().0 >= MAX_STORED_INDEX {
            // Only a peer that made a term up gets here; nobody would believe a higher one.
            return ctx
                .trace(|| Trace::Refused { from: self.id(), why: "there are no more terms" });
        }
        self.hard_state = HardState { term: self.term().next(), vote: Some(self.id()) };
        self.hard_state_dirty = true;
        self.role = Role::Candidate;
        self.leader = None;
        self.votes.clear();
        self.timers.arm_election(ctx.now, self.settings.election_timeout_ns);
        self.role_changed(reason, ctx);
        self.refuse_forwarded(ctx);
        self.persist(None, Vec::new(), ctx);
        let body = Body::Vote { last: self.last, transfer };
        for voter in self.other_voters() {
            self.send(voter, body.clone(), ctx);
        }
    }

    pub(super) fn other_voters(&self) -> Vec<ReplicaId> {
        self.memberships.voters().iter().copied().filter(|v| *v != self.id()).collect()
    }

    /// §5.4.1: whether a log that ends at `theirs` is at least as good as this one (pitfall 4: the term decides first).
    fn is_up_to_date(&self, theirs: (LogIndex, Term)) -> bool {
        if planted!(LongerLogWins) {
            return theirs.0 >= self.last.0;
        }
        (theirs.1, theirs.0) >= (self.last.1, self.last.0)
    }

    /// Why it would not even hear another candidate.
    pub(super) fn sticks_to_its_leader(&self, transfer: bool, now: Nanos) -> Option<&'static str> {
        if transfer {
            return None;
        }
        if self.role == Role::Leader {
            return Some("it leads");
        }
        let heard = self.timers.leader_heard?;
        (now.since(heard) < self.settings.election_timeout_ns).then_some("it hears a leader")
    }

    /// A pre-vote changes nothing here, neither the term nor a timer.
    pub(super) fn pre_vote(
        &mut self,
        from: ReplicaId,
        term: Term,
        last: (LogIndex, Term),
        ctx: &mut Context<'_>,
    ) {
        let refused = if let Some(why) = self.sticks_to_its_leader(false, ctx.now) {
            Some(why)
        } else if term < self.term() {
            Some("an old term")
        } else if term == self.term() && self.hard_state.vote.is_some_and(|v| v != from) {
            Some("it voted for another one")
        } else if !self.is_up_to_date(last) {
            Some("its log is behind")
        } else {
            None
        };
        ctx.trace(|| Trace::vote(from, term, true, refused.is_none(), refused.unwrap_or("")));
        // A refusal carries the present term back (pitfall 6).
        let reply_term = if refused.is_none() { term } else { self.term() };
        let body = Body::PreVoteReply { granted: refused.is_none() };
        self.send_after(None, from, reply_term, body, ctx);
    }

    pub(super) fn pre_vote_reply(
        &mut self,
        from: ReplicaId,
        term: Term,
        granted: bool,
        ctx: &mut Context<'_>,
    ) {
        if !granted && term > self.term() {
            return self.become_follower(term, None, "a pre-vote met a higher term", ctx);
        }
        let is_current = !granted || term.0 == self.term().0.saturating_add(1);
        // Grants that come late, after the election, are nothing (pitfall 6).
        if self.role == Role::PreCandidate && is_current {
            self.votes.insert(from, granted);
            self.count_votes(ctx);
        }
    }

    /// §5.2, §5.4.1: one vote a term, for a log at least as good. The terms are equal here.
    pub(super) fn vote(&mut self, from: ReplicaId, last: (LogIndex, Term), ctx: &mut Context<'_>) {
        let voted = self.hard_state.vote.is_some_and(|v| v != from);
        let refused = if voted && !planted!(VoteTwice) {
            Some("it voted for another one")
        } else if self.leader.is_some_and(|leader| leader != from) {
            Some("the term has a leader")
        } else if !self.is_up_to_date(last) {
            Some("its log is behind")
        } else {
            None
        };
        let term = self.term();
        ctx.trace(|| Trace::vote(from, term, false, refused.is_none(), refused.unwrap_or("")));
        if refused.is_none() {
            if self.hard_state.vote.is_none() {
                self.hard_state.vote = Some(from);
                self.hard_state_dirty = true;
            }
            self.timers.arm_election(ctx.now, self.settings.election_timeout_ns);
        }
        self.send(from, Body::VoteReply { granted: refused.is_none() }, ctx);
    }

    pub(super) fn vote_reply(&mut self, from: ReplicaId, granted: bool, ctx: &mut Context<'_>) {
        if self.role == Role::Candidate {
            self.votes.insert(from, granted);
            self.count_votes(ctx);
        }
    }

    /// Only voters of the membership in force count.
    pub(super) fn count_votes(&mut self, ctx: &mut Context<'_>) {
        let count = |wanted| {
            let is = |v: &&ReplicaId| self.votes.get(v) == Some(&wanted);
            self.memberships.voters().iter().filter(is).count()
        };
        let majority = quorum::majority(self.memberships.voters().len());
        let (won, lost) = (count(true) >= majority, count(false) >= majority);
        match self.role {
            Role::PreCandidate if won => self.campaign(false, "a majority would vote for it", ctx),
            Role::Candidate if won => self.lead(ctx),
            Role::PreCandidate | Role::Candidate if lost => {
                self.become_follower(self.term(), None, "a majority refused", ctx);
            }
            _ => {}
        }
    }

    /// A leader of this term speaks: it is followed. False when it must not be.
    pub(super) fn follow(&mut self, from: ReplicaId, ctx: &mut Context<'_>) -> bool {
        let other = if self.role == Role::Leader { Some(self.id()) } else { self.leader };
        if let Some(other) = other.filter(|other| *other != from) {
            let term = self.term();
            // Pitfall 7: going on could only spread the damage.
            self.fail(format!("replicas {other} and {from} both lead term {term}"), ctx);
            return false;
        }
        self.become_follower(self.term(), Some(from), "it heard the leader", ctx);
        self.timers.leader_heard = Some(ctx.now);
        self.timers.arm_election(ctx.now, self.settings.election_timeout_ns);
        true
    }

    /// Leadership shall go to another voter.
    pub(super) fn transfer(&mut self, to: Option<NodeId>, ctx: &mut Context<'_>) {
        match self.choose_successor(to, ctx.now) {
            Err(error) => ctx.out.push(Effect::ProposeRefused(error)),
            Ok(to) => {
                let deadline = ctx.now.plus(self.settings.election_timeout_ns);
                self.lead.transfer = Some(Transfer { to, deadline, sent: false });
                // The successor's election bypasses stickiness, now or when a delayed message arrives, so the lease is
                // over for this term (pitfall 34).
                self.lead.reads.void_lease();
                ctx.trace(|| Trace::Transfer { to, what: "begins" });
                ctx.out.push(Effect::TransferStarted { to });
            }
        }
    }

    fn choose_successor(&self, to: Option<NodeId>, now: Nanos) -> Result<ReplicaId, ProposeError> {
        self.may_propose()?;
        let to = match to {
            Some(node) => self.voter_of(node)?,
            None => self
                .best_successor(now)
                .ok_or(ProposeError::Impossible("no other voter can be reached"))?,
        };
        if to == self.id() {
            return Err(ProposeError::Impossible("it leads already"));
        }
        Ok(to)
    }

    /// The voter that has most of the log, of those that were heard lately.
    fn best_successor(&self, now: Nanos) -> Option<ReplicaId> {
        let mut best: Option<(LogIndex, ReplicaId)> = None;
        for (replica, progress) in &self.lead.followers {
            let heard = now.since(progress.heard) < self.settings.election_timeout_ns;
            let better = best.is_none_or(|(matched, _)| progress.matched > matched);
            if self.memberships.is_voter(*replica) && heard && better {
                best = Some((progress.matched, *replica));
            }
        }
        best.map(|(_, replica)| replica)
    }

    /// Sends the word to a successor that has everything.
    pub(super) fn hand_over(&mut self, ctx: &mut Context<'_>) {
        let Some(transfer) = &self.lead.transfer else { return };
        let has_all =
            self.lead.followers.get(&transfer.to).is_some_and(|p| p.matched == self.last.0);
        if has_all && !transfer.sent {
            let to = transfer.to;
            self.lead.transfer = Some(Transfer { sent: true, ..*transfer });
            self.send(to, Body::TransferNow, ctx);
        }
    }

    /// A transfer takes at most one election timeout.
    pub(super) fn transfer_tick(&mut self, ctx: &mut Context<'_>) {
        let Some(transfer) = &mut self.lead.transfer else { return };
        // Repeated at every heartbeat: the word may get lost.
        transfer.sent = false;
        if ctx.now >= transfer.deadline {
            let to = transfer.to;
            self.lead.transfer = None;
            ctx.trace(|| Trace::Transfer { to, what: "gave up" });
        }
    }

    /// The leader hands over to this replica: no pre-vote, no waiting.
    pub(super) fn transfer_now(&mut self, from: ReplicaId, ctx: &mut Context<'_>) {
        if self.may_campaign() {
            ctx.trace(|| Trace::Transfer { to: from, what: "was asked for" });
            self.campaign(true, "the leader hands over", ctx);
        }
    }

    /// A leader that cannot go on names the best successor and steps down.
    pub(super) fn abdicate(&mut self, reason: &'static str, ctx: &mut Context<'_>) {
        if let Some(to) = self.best_successor(ctx.now) {
            self.lead.reads.void_lease();
            self.send(to, Body::TransferNow, ctx);
        }
        self.become_follower(self.term(), None, reason, ctx);
    }
}
