//! Replication (§5.3) and commitment (§5.4.2): what a leader sends, what a follower does with it, and what the answers
//! mean.
//!
//! All sending happens in one place, [`Raft::lead_on`], at the end of every step of a leader: handlers change what is
//! known of the followers, and then everything that can be sent is sent.

use super::context::Context;
use super::message::{Append, AppendOutcome, AppendReply, Body};
use super::progress::{Progress, ProgressState};
use super::reads::LeaderReads;
use super::trace::Trace;
use super::{Effect, Entry, ProposeError, Raft, Role, quorum};
use crate::base::batch::WriteBatch;
use crate::base::{LogIndex, Nanos, ReplicaId, Term};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};

/// Appends with entries in flight beyond which only full ones are sent: the rest waits and travels together
/// (pitfall 14: deep pipelines defeat batching around the follower's sync).
const PIPELINE_MESSAGES: usize = 2;
/// A stream without an answer for this many heartbeats is taken for lost, twice that the second time in a row, …
const LOST_AFTER_HEARTBEATS: u64 = 2;
/// … and no longer than after this many doublings.
const LOST_DOUBLINGS: u32 = 2;

/// What a leader knows besides its log.
#[derive(Debug, Default)]
pub(super) struct Leading {
    /// The first entry of its term. Once it is committed, the leader knows what is.
    pub no_op: LogIndex,
    pub followers: BTreeMap<ReplicaId, Progress>,
    pub reads: LeaderReads,
    pub uncommitted: Uncommitted,
    pub transfer: Option<Transfer>,
}

/// A transfer of leadership under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transfer {
    pub to: ReplicaId,
    pub deadline: Nanos,
    /// The word was sent since the last heartbeat.
    pub sent: bool,
}

/// Payload bytes that this leader appended and that are not committed, by group.
#[derive(Debug, Default)]
pub(super) struct Uncommitted {
    /// (last index, bytes) of each group, oldest first.
    groups: VecDeque<(LogIndex, usize)>,
    bytes: usize,
}

impl Uncommitted {
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether `more` fit. A group alone always does.
    pub fn admit(&self, more: usize, max: usize) -> Result<(), ProposeError> {
        if self.bytes > 0 && self.bytes.saturating_add(more) > max {
            return Err(ProposeError::TooManyUncommitted { bytes: self.bytes, max });
        }
        Ok(())
    }

    pub fn push(&mut self, last: LogIndex, bytes: usize) {
        self.groups.push_back((last, bytes));
        self.bytes += bytes;
    }

    /// A group counts until all of it is committed.
    pub fn committed(&mut self, index: LogIndex) {
        while let Some((_, bytes)) = self.groups.pop_front_if(|(last, _)| *last <= index) {
            self.bytes -= bytes;
        }
    }

    /// Whether the groups from `next` on have at least `bytes`.
    fn at_least_from(&self, next: LogIndex, bytes: usize) -> bool {
        let mut sum = 0;
        self.groups.iter().rev().take_while(|(last, _)| *last >= next).any(|(_, group)| {
            sum += group;
            sum >= bytes
        })
    }
}

impl Raft {
    /// §5.2: it won. §8: a new leader appends a no-op, so that something of its own term can commit.
    pub(super) fn lead(&mut self, ctx: &mut Context<'_>) {
        self.role = Role::Leader;
        self.leader = Some(self.id());
        self.votes.clear();
        self.lead = Leading { no_op: self.last.0.next(), ..Leading::default() };
        // A session belongs to one leadership of one replica: no two terms share one.
        self.sessions = self.sessions.wrapping_add(1).max(self.term().0.wrapping_shl(20));
        self.lead.reads.begin(ctx.now);
        self.timers.heartbeat = ctx.now.plus(self.settings.heartbeat_ns);
        self.role_changed("a majority voted for it", ctx);
        self.follow_membership(ctx);
        self.append(vec![Bytes::from(WriteBatch::no_op().into_bytes())], ctx);
    }

    /// Everything that a leadership holds ends with it.
    pub(super) fn stop_leading(&mut self, ctx: &mut Context<'_>) {
        let followers: Vec<ReplicaId> = self.lead.followers.keys().copied().collect();
        for follower in followers {
            self.snapshot_over(follower, ctx);
        }
        let mut lead = std::mem::take(&mut self.lead);
        self.refuse_reads(&mut lead.reads, ctx);
    }

    /// Whether an entry of this leader's own term is committed.
    pub(super) fn committed_in_term(&self) -> bool {
        self.role == Role::Leader && self.commit >= self.lead.no_op
    }

    /// §5.3 and §5.4.2: what a majority holds durably is committed, if it is of the current term (pitfall 1).
    pub(super) fn advance_commit(&mut self, ctx: &mut Context<'_>) {
        let reached = quorum::agreed(self.memberships.voters().iter().map(|v| self.match_of(*v)));
        let own_term = ctx.term(reached) == Some(self.term()) || planted!(CommitOldTermByCount);
        if reached <= self.commit || !own_term {
            return;
        }
        self.lead.uncommitted.committed(reached);
        self.commit_to(reached, ctx);
        self.reads_after_commit(ctx);
    }

    /// How far a voter's log is known to equal this leader's, durably. Its own counts only what is synced (pitfall 15).
    fn match_of(&self, voter: ReplicaId) -> LogIndex {
        if voter == self.id() {
            return if planted!(LeaderCountsUnsynced) { self.last.0 } else { self.durable };
        }
        self.lead.followers.get(&voter).map_or(LogIndex::ZERO, |p| p.matched)
    }

    /// The end of every step of a leader: what can be sent is sent.
    pub(super) fn lead_on(&mut self, ctx: &mut Context<'_>) {
        let removed = !self.memberships.is_voter(self.id());
        if removed && self.commit >= self.memberships.index() {
            return self.abdicate("it was removed", ctx);
        }
        self.begin_wanted_round(ctx);
        let followers: Vec<ReplicaId> = self.lead.followers.keys().copied().collect();
        for follower in followers {
            self.send_entries(follower, ctx);
        }
        self.hand_over(ctx);
    }

    pub(super) fn leader_deadline(&self) -> Nanos {
        if self.lead.followers.is_empty() { Nanos::MAX } else { self.timers.heartbeat }
    }

    pub(super) fn leader_tick(&mut self, ctx: &mut Context<'_>) {
        if self.lead.followers.is_empty() || ctx.now < self.timers.heartbeat {
            return;
        }
        self.timers.heartbeat = ctx.now.plus(self.settings.heartbeat_ns);
        if !self.hears_a_majority(ctx.now) {
            return self.become_follower(self.term(), None, "it hears no majority", ctx);
        }
        if self.disk_hangs(ctx.now) && !self.memberships.is_lone_voter(self.id()) {
            return self.abdicate("its disk hangs", ctx);
        }
        self.transfer_tick(ctx);
        self.find_lost(ctx);
        self.begin_round(ctx);
        let followers: Vec<ReplicaId> = self.lead.followers.keys().copied().collect();
        for follower in followers {
            self.send_heartbeat(follower, ctx);
        }
        // A lone voter with learners needs no answer.
        self.confirm_reads(ctx);
    }

    /// Check-quorum: a majority, itself included, answered within an election timeout.
    fn hears_a_majority(&self, now: Nanos) -> bool {
        let heard = |voter: &&ReplicaId| {
            **voter == self.id()
                || self
                    .lead
                    .followers
                    .get(voter)
                    .is_some_and(|p| now.since(p.heard) < self.settings.election_timeout_ns)
        };
        let voters = self.memberships.voters();
        voters.iter().filter(heard).count() >= quorum::majority(voters.len())
    }

    /// Streams that are not answered start again from what matches; pauses end.
    fn find_lost(&mut self, ctx: &mut Context<'_>) {
        let patience = self.settings.heartbeat_ns.saturating_mul(LOST_AFTER_HEARTBEATS);
        for (replica, progress) in &mut self.lead.followers {
            let patience = patience.saturating_mul(1 << progress.losses.min(LOST_DOUBLINGS));
            let lost = progress.window.oldest().is_some_and(|at| ctx.now.since(at) >= patience);
            if progress.state == ProgressState::Replicate && lost {
                progress.losses = progress.losses.saturating_add(1);
                progress.probe(progress.matched.next());
                ctx.trace(|| Trace::progress(*replica, progress, "no answer"));
            }
            progress.paused = false;
        }
    }

    /// An append without entries, whatever the window (pitfall 12). It stands at what matches, or at what a probe asks.
    pub(super) fn send_heartbeat(&mut self, to: ReplicaId, ctx: &mut Context<'_>) {
        let Some(progress) = self.lead.followers.get_mut(&to) else { return };
        let at = match progress.state {
            ProgressState::Probe => progress.next.prev(),
            ProgressState::Replicate | ProgressState::Snapshot => progress.matched,
        };
        // Index 0 is before every log: always accepted, and says nothing but that the leader lives.
        let known = ctx.term(at);
        let prev = known.map_or((LogIndex::ZERO, Term::ZERO), |term| (at, term));
        let commit = self.commit;
        progress.commit_sent = progress.commit_sent.max(commit.min(progress.matched));
        // A probe of what the log no longer has is no probe; the next thing is a snapshot.
        if progress.state == ProgressState::Probe && known.is_some() {
            progress.paused = true;
        }
        let session = progress.session;
        self.send_append(to, session, prev, Vec::new(), commit, ctx);
    }

    fn send_append(
        &mut self,
        to: ReplicaId,
        session: u64,
        prev: (LogIndex, Term),
        entries: Vec<Entry>,
        commit: LogIndex,
        ctx: &mut Context<'_>,
    ) {
        let round = self.lead.reads.round();
        self.send(to, Body::Append(Append { session, round, prev, entries, commit }), ctx);
    }

    /// Sends what the follower's state and window allow.
    fn send_entries(&mut self, to: ReplicaId, ctx: &mut Context<'_>) {
        while let Some(progress) = self.lead.followers.get(&to) {
            if progress.state == ProgressState::Snapshot
                || progress.paused
                || progress.fetching.is_some()
            {
                return;
            }
            let (state, session, lo, hi) =
                (progress.state, progress.session, progress.next, self.last.0);
            let Some(prev_term) = ctx.term(lo.prev()) else {
                return self.need_snapshot(to, ctx);
            };
            if lo > hi {
                return self.send_news(to, ctx);
            }
            let Some(max_bytes) = self.window_for(progress) else { return };
            let Some(entries) = ctx.entries(lo, hi, max_bytes) else {
                return self.fetch(to, session, (lo, hi), max_bytes, ctx);
            };
            if !self.send_these(to, (lo.prev(), prev_term), entries, ctx)
                || state == ProgressState::Probe
            {
                return;
            }
        }
    }

    /// Nothing to send but, to a quiet follower, that more is committed, or the probe itself.
    fn send_news(&mut self, to: ReplicaId, ctx: &mut Context<'_>) {
        let Some(progress) = self.lead.followers.get(&to) else { return };
        let news = self.commit.min(progress.matched) > progress.commit_sent;
        let quiet = progress.window.messages() == 0;
        if progress.state == ProgressState::Probe || (news && quiet) {
            self.send_heartbeat(to, ctx);
        }
    }

    /// How many bytes may be sent to this follower now; `None`: nothing with entries.
    fn window_for(&self, progress: &Progress) -> Option<usize> {
        let (window, settings) = (&progress.window, &self.settings);
        if window.messages() >= settings.max_inflight_messages
            || (window.messages() > 0 && window.bytes() >= settings.max_inflight_bytes)
        {
            return None;
        }
        // Beyond a short pipeline only what fills an append is worth one.
        let full = progress.sent_full
            || self.lead.uncommitted.at_least_from(progress.next, settings.max_append_bytes);
        if window.messages() >= PIPELINE_MESSAGES && !full {
            return None;
        }
        let room = settings.max_inflight_bytes.saturating_sub(window.bytes());
        Some(settings.max_append_bytes.min(room).max(1))
    }

    /// Sends entries that follow on `prev`. False when they do not fit in the window.
    fn send_these(
        &mut self,
        to: ReplicaId,
        prev: (LogIndex, Term),
        entries: Vec<Entry>,
        ctx: &mut Context<'_>,
    ) -> bool {
        let Some(progress) = self.lead.followers.get_mut(&to) else { return false };
        let Some(last) = entries.last().map(|e| e.index) else { return false };
        let bytes = entries.iter().map(|e| e.payload.len()).sum::<usize>();
        let window = &mut progress.window;
        if window.messages() > 0 && window.bytes() + bytes > self.settings.max_inflight_bytes {
            return false;
        }
        progress.sent_full = bytes >= self.settings.max_append_bytes / 2;
        match progress.state {
            ProgressState::Probe => progress.paused = true,
            ProgressState::Replicate | ProgressState::Snapshot => {
                window.push(last, bytes, ctx.now);
                progress.next = last.next();
            }
        }
        progress.commit_sent = progress.commit_sent.max(self.commit.min(last));
        let session = progress.session;
        self.send_append(to, session, prev, entries, self.commit, ctx);
        true
    }

    fn fetch(
        &mut self,
        to: ReplicaId,
        session: u64,
        range: (LogIndex, LogIndex),
        max_bytes: usize,
        ctx: &mut Context<'_>,
    ) {
        let (lo, hi) = (range.0, range.1.min(self.durable));
        let Some(progress) = self.lead.followers.get_mut(&to) else { return };
        if hi < lo {
            progress.paused = true;
            return;
        }
        progress.fetching = Some(lo);
        ctx.out.push(Effect::Fetch { to, session, lo, hi, max_bytes });
    }

    /// Entries came from the disk. They are still right: a leader truncates nothing, and the session is of this term.
    pub(super) fn fetched(
        &mut self,
        to: ReplicaId,
        session: u64,
        entries: Option<Vec<Entry>>,
        ctx: &mut Context<'_>,
    ) {
        let Some(progress) = self.lead.followers.get_mut(&to) else { return };
        if progress.session != session {
            return;
        }
        let Some(lo) = progress.fetching else { return };
        if entries.as_ref().and_then(|e| e.first()).is_some_and(|first| first.index != lo) {
            // Of a stream that began again since: the answer for this one is on its way.
            return;
        }
        progress.fetching = None;
        let Some(entries) = entries.filter(|e| !e.is_empty()) else {
            // Released meanwhile (then a snapshot is needed), or not readable just now.
            progress.paused = ctx.term(lo.prev()).is_some();
            return;
        };
        let wanted = progress.next == lo && progress.state != ProgressState::Snapshot;
        let Some(term) = ctx.term(lo.prev()).filter(|_| wanted) else { return };
        if !self.send_these(to, (lo.prev(), term), entries, ctx)
            && let Some(progress) = self.lead.followers.get_mut(&to)
        {
            // The window has no room for them: not to be read again before an answer makes some.
            progress.paused = true;
        }
    }

    /// What was in flight is lost; the next heartbeat begins again.
    pub(super) fn peer_unreachable(&mut self, peer: ReplicaId, ctx: &mut Context<'_>) {
        let Some(progress) = self.lead.followers.get_mut(&peer) else { return };
        if progress.state == ProgressState::Replicate {
            progress.probe(progress.matched.next());
            progress.paused = true;
            ctx.trace(|| Trace::progress(peer, progress, "unreachable"));
        }
    }

    /// An append from the leader of this term. §5.3: it fits or it does not.
    pub(super) fn append_from(&mut self, from: ReplicaId, append: Append, ctx: &mut Context<'_>) {
        let Append { session, round, prev, entries, commit } = append;
        if let Some(ours) = ctx.term(prev.0).filter(|ours| *ours != prev.1 && prev.0 <= self.commit)
        {
            return self.fail_at_committed(from, prev.0, ours, prev.1, ctx);
        }
        let outcome = match self.fits(prev, ctx) {
            Ok(()) => {
                let verified = LogIndex(prev.0.0 + entries.len() as u64);
                if !self.take(from, entries, ctx) {
                    return;
                }
                // Pitfall 9: only what this very message has verified.
                let verified_here = if planted!(CommitUnverified) { self.last.0 } else { verified };
                let commit = if planted!(CommitOnAppend) { verified } else { commit };
                self.commit_to(commit.min(verified_here), ctx);
                AppendOutcome::Accepted { matched: verified }
            }
            Err(conflict) => AppendOutcome::Rejected { prev: prev.0, conflict },
        };
        if self.hard_state_dirty {
            self.persist(None, Vec::new(), ctx);
        }
        let after = match outcome {
            AppendOutcome::Accepted { .. } if planted!(AckBeforeSync) => None,
            AppendOutcome::Accepted { matched } => self.persisting.gate_for_log(matched),
            AppendOutcome::Rejected { .. } => self.persisting.gate_for_hard_state(),
        };
        let reply = AppendReply { session, round, outcome };
        self.send_after(after, from, self.term(), Body::AppendReply(reply), ctx);
    }

    /// Whether the log has an entry equal to `prev`; else where to go on (pitfall 13). What is committed equals the log
    /// of every leader, so there is nothing to compare, and it may be released.
    fn fits(
        &self,
        prev: (LogIndex, Term),
        ctx: &Context<'_>,
    ) -> Result<(), (Option<Term>, LogIndex)> {
        let (index, term) = prev;
        if index <= self.commit {
            return Ok(());
        }
        match ctx.term(index) {
            Some(mine) if mine == term => Ok(()),
            Some(mine) => {
                let is_before = |at| ctx.term(at).is_some_and(|t| t < mine);
                let before = last_where(self.commit, index, is_before);
                Err((Some(mine), before.next()))
            }
            None => Err((None, self.last.0.next())),
        }
    }

    /// Appends what is new in `entries`, truncating only at a conflict (pitfall 8). False when they cannot be taken.
    fn take(&mut self, from: ReplicaId, mut entries: Vec<Entry>, ctx: &mut Context<'_>) -> bool {
        let mut known = 0;
        let mut conflict = None;
        for entry in &entries {
            if entry.index > self.last.0 {
                break;
            }
            match ctx.term(entry.index) {
                Some(mine)
                    if mine != entry.term
                        || (planted!(TruncateAlways) && entry.index > self.commit) =>
                {
                    conflict = Some((entry.index, mine, entry.term));
                    break;
                }
                // The same, or released and so committed and the same.
                Some(_) | None => known += 1,
            }
        }
        if let Some((index, ours, theirs)) = conflict {
            ctx.trace(|| Trace::Conflict { index, ours, theirs });
            if index <= self.commit {
                self.fail_at_committed(from, index, ours, theirs, ctx);
                return false;
            }
        }
        let new = entries.split_off(known);
        let Some(last) = new.last() else { return true };
        let memberships = match Self::memberships_in(&new) {
            Ok(memberships) => memberships,
            Err(why) => {
                ctx.trace(|| Trace::Refused { from, why });
                return false;
            }
        };
        self.last = (last.index, last.term);
        let truncate_from = conflict.map(|(index, ..)| index);
        if let Some(from) = truncate_from {
            ctx.trace(|| Trace::Truncated { from });
            self.memberships_truncated(from, ctx);
        }
        self.persist(truncate_from, new, ctx);
        for (index, membership) in memberships {
            self.membership_appended(index, membership, ctx);
        }
        true
    }

    /// What is committed never changes (§5.4.3); going on could only spread the damage.
    fn fail_at_committed(
        &mut self,
        from: ReplicaId,
        index: LogIndex,
        ours: Term,
        theirs: Term,
        ctx: &mut Context<'_>,
    ) {
        let reason = format!(
            "leader {from} has entry {index} of term {theirs}, but it is committed here with term {ours}"
        );
        self.fail(reason, ctx);
    }

    /// The answer to an append.
    pub(super) fn append_reply(
        &mut self,
        from: ReplicaId,
        reply: AppendReply,
        ctx: &mut Context<'_>,
    ) {
        let last = self.last.0;
        let timeout = self.settings.election_timeout_ns;
        let Some(progress) = self.lead.followers.get_mut(&from) else { return };
        if progress.session != reply.session {
            return;
        }
        progress.heard = ctx.now;
        let round = if planted!(AnyAnswerConfirms) { self.lead.reads.round() } else { reply.round };
        progress.round = progress.round.max(round);
        match reply.outcome {
            AppendOutcome::Accepted { matched } if matched > last => {
                ctx.trace(|| Trace::Refused { from, why: "it accepted what was never sent" });
            }
            AppendOutcome::Accepted { matched } => {
                progress.accepted(matched);
                if progress.state == ProgressState::Replicate {
                    progress.paused = false;
                }
                progress.catch_up.reached(ctx.now, progress.matched, last, timeout);
                self.accepted_to(from, ctx);
            }
            AppendOutcome::Rejected { prev, conflict } => self.rejected(from, prev, conflict, ctx),
        }
        self.confirm_reads(ctx);
    }

    fn accepted_to(&mut self, from: ReplicaId, ctx: &mut Context<'_>) {
        let Some(progress) = self.lead.followers.get_mut(&from) else { return };
        let in_log = ctx.term(progress.matched).is_some();
        match progress.state {
            ProgressState::Probe if progress.matched >= progress.next.prev() => {
                progress.replicate();
                ctx.trace(|| Trace::progress(from, progress, "the logs agree"));
            }
            ProgressState::Snapshot if in_log && progress.matched > LogIndex::ZERO => {
                progress.replicate();
                ctx.trace(|| Trace::progress(from, progress, "it has caught up"));
                ctx.out.push(Effect::SnapshotOver { to: from });
            }
            _ => {}
        }
        self.advance_commit(ctx);
    }

    fn rejected(
        &mut self,
        from: ReplicaId,
        prev: LogIndex,
        conflict: (Option<Term>, LogIndex),
        ctx: &mut Context<'_>,
    ) {
        let Some(progress) = self.lead.followers.get_mut(&from) else { return };
        if !progress.rejection_is_current(prev) {
            return;
        }
        let (their_term, their_first) = conflict;
        let next = match their_term {
            // The last entry here that is not of a later term may be the same as one of theirs.
            Some(theirs) => {
                let floor = progress.matched.max(ctx.baseline());
                let not_later = |at| ctx.term(at).is_some_and(|t| t <= theirs);
                let common = last_where(floor, prev, not_later);
                if ctx.term(common) == Some(theirs) {
                    common.next()
                } else {
                    their_first.min(common.next())
                }
            }
            None => their_first,
        };
        progress.probe(next.min(prev));
        ctx.trace(|| Trace::progress(from, progress, "rejected"));
    }
}

/// The last index in `floor..ceiling` that `holds`, which must hold up to some point and not after it; `floor` when it
/// holds nowhere above.
fn last_where(floor: LogIndex, ceiling: LogIndex, holds: impl Fn(LogIndex) -> bool) -> LogIndex {
    let (mut low, mut high) = (floor.0, ceiling.0.max(floor.0 + 1));
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if holds(LogIndex(middle)) { low = middle } else { high = middle }
    }
    LogIndex(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uncommitted_bytes_are_bounded_but_one_group_always_fits() {
        let mut uncommitted = Uncommitted::default();
        assert_eq!(uncommitted.admit(100, 10), Ok(()));
        uncommitted.push(LogIndex(3), 8);
        assert_eq!(uncommitted.admit(2, 10), Ok(()));
        let error = ProposeError::TooManyUncommitted { bytes: 8, max: 10 };
        assert_eq!(uncommitted.admit(3, 10), Err(error));
        uncommitted.committed(LogIndex(2));
        assert_eq!(uncommitted.bytes(), 8);
        uncommitted.committed(LogIndex(3));
        assert_eq!(uncommitted.bytes(), 0);
    }

    #[test]
    fn a_full_append_is_told_from_the_groups_not_sent() {
        let mut uncommitted = Uncommitted::default();
        uncommitted.push(LogIndex(3), 8);
        uncommitted.push(LogIndex(5), 8);
        assert!(uncommitted.at_least_from(LogIndex(3), 16));
        assert!(!uncommitted.at_least_from(LogIndex(4), 16));
        assert!(uncommitted.at_least_from(LogIndex(4), 8));
        assert!(!uncommitted.at_least_from(LogIndex(6), 1));
    }

    #[test]
    fn the_last_index_where_something_holds_is_found_by_halves() {
        for edge in 0..=20 {
            let found = last_where(LogIndex(3), LogIndex(17), |at| at.0 <= edge);
            assert_eq!(found.0, edge.clamp(3, 16), "edge {edge}");
        }
        assert_eq!(last_where(LogIndex(5), LogIndex(5), |_| true), LogIndex(5));
    }
}
