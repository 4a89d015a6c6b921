//! Linearizable reads without a log entry (§8; §6.4 of the thesis).
//!
//! A leader notes its commit index when a read arrives, and answers when a majority has confirmed a round that *began
//! after* that: every append carries the newest round, and its answer confirms that round and all before, within the
//! (term, session) it was sent in (pitfall 33). All reads of a step share a round, and what arrives while
//! [`ROUNDS_IN_FLIGHT`] are out shares the next one. Before the leader has committed in its own term it does not know
//! what is committed, and reads wait for that (pitfall 32). A lone voter is its own majority.
//!
//! *Lease* (an option): after a round that was confirmed, no other leader can be elected for one election timeout from
//! when the round was *sent*, because a majority sticks to this leader for that long. It assumes that no clock
//! runs faster than another by more than [`Settings::lease_drift_ppm`](super::Settings), and every replica has it set or
//! none has. It ends with the term, and for the rest of the term when a transfer begins (pitfall 34).
//!
//! *Followers* ask the leader for an index. They give up when the term or the leader changes, or after an election timeout.

use super::context::Context;
use super::message::Body;
use super::trace::Trace;
use super::{Effect, Raft, ReadId, Role, quorum};
use crate::base::{LogIndex, Nanos, ReplicaId};
use crate::limits::MAX_WAITING_READS;
use std::collections::{BTreeMap, VecDeque};

/// Rounds that are out at once; what comes then shares the next.
const ROUNDS_IN_FLIGHT: usize = 2;

/// Who wants to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Reader {
    read: ReadId,
    /// The follower that asked; `None`: this replica's driver.
    from: Option<ReplicaId>,
}

/// The reads that wait in a leader.
#[derive(Debug, Default)]
pub(super) struct LeaderReads {
    /// The newest round that began.
    round: u64,
    /// Rounds that began and are not confirmed, and when.
    rounds: VecDeque<(u64, Nanos)>,
    /// They wait for the first commit of the term.
    early: Vec<Reader>,
    /// They wait for the next round to begin.
    wanting: Vec<(Reader, LogIndex)>,
    /// They wait for a round.
    waiting: VecDeque<(u64, Reader, LogIndex)>,
    /// When the newest confirmed round was sent.
    confirmed_at: Option<Nanos>,
    /// There was a transfer in this term.
    lease_void: bool,
}

impl LeaderReads {
    /// The first appends of a term are its first round.
    pub fn begin(&mut self, now: Nanos) {
        self.next_round(now);
    }

    pub const fn round(&self) -> u64 {
        self.round
    }

    pub const fn void_lease(&mut self) {
        self.lease_void = true;
    }

    fn next_round(&mut self, now: Nanos) {
        self.round += 1;
        self.rounds.push_back((self.round, now));
        let round = self.round;
        self.waiting.extend(self.wanting.drain(..).map(|(reader, index)| (round, reader, index)));
    }

    fn len(&self) -> usize {
        self.early.len() + self.wanting.len() + self.waiting.len()
    }

    /// A majority has answered round `confirmed`. Takes the reads that this answers.
    fn confirm(&mut self, confirmed: u64) -> Vec<(Reader, LogIndex)> {
        while let Some((_, sent_at)) = self.rounds.pop_front_if(|(round, _)| *round <= confirmed) {
            self.confirmed_at = Some(sent_at);
        }
        let mut answered = Vec::new();
        while let Some((_, reader, index)) = self.waiting.pop_front_if(|(r, ..)| *r <= confirmed) {
            answered.push((reader, index));
        }
        answered
    }

    /// Whether the lease holds: the timeout, as a slow clock measures it against a fast one.
    fn has_lease(&self, now: Nanos, timeout_ns: u64, drift_ppm: u32) -> bool {
        let safe = u128::from(timeout_ns) * 1_000_000 / (1_000_000 + u128::from(drift_ppm));
        let void = self.lease_void && !planted!(LeaseAfterTransfer);
        !void && self.confirmed_at.is_some_and(|at| u128::from(now.since(at)) < safe)
    }
}

/// The reads that a follower asked its leader about, by the name on the wire.
#[derive(Debug, Default)]
pub(super) struct Forwarded {
    /// The last name given. It begins at random, so that an answer to a question of before a restart is not taken for
    /// an answer to a new one.
    name: u64,
    asked: BTreeMap<u64, (ReadId, Nanos)>,
}

impl Forwarded {
    pub const fn begin(&mut self, name: u64) {
        self.name = name;
    }

    /// When the oldest one is given up.
    pub fn next_deadline(&self) -> Nanos {
        self.asked.values().map(|(_, deadline)| *deadline).min().unwrap_or(Nanos::MAX)
    }
}

impl Raft {
    /// A read begins.
    pub(super) fn read(&mut self, read: ReadId, ctx: &mut Context<'_>) {
        match (self.role, self.leader) {
            (Role::Leader, _) => self.read_as_leader(Reader { read, from: None }, ctx),
            (_, Some(_)) if planted!(FollowerReadsAlone) => {
                ctx.out.push(Effect::ReadReady { read, index: self.commit });
            }
            (_, Some(leader)) => {
                self.forwarded.name = self.forwarded.name.wrapping_add(1);
                let deadline = ctx.now.plus(self.settings.election_timeout_ns);
                self.forwarded.asked.insert(self.forwarded.name, (read, deadline));
                let question = Body::ReadIndex { read: ReadId(self.forwarded.name) };
                self.send(leader, question, ctx);
            }
            (_, None) => ctx.out.push(Effect::ReadRefused { read }),
        }
    }

    /// When a leader last knew that it led, and so what was committed: when it sent the last round that a majority has
    /// confirmed. `None` on others, and before it has committed in its own term.
    #[must_use]
    pub fn confirmed_at(&self, now: Nanos) -> Option<Nanos> {
        if !self.committed_in_term() {
            return None;
        }
        if self.memberships.is_lone_voter(self.id()) {
            Some(now)
        } else {
            self.lead.reads.confirmed_at
        }
    }

    fn read_as_leader(&mut self, reader: Reader, ctx: &mut Context<'_>) {
        if !self.committed_in_term() && !planted!(ReadBeforeOwnCommit) {
            self.lead.reads.early.push(reader);
        } else if self.memberships.is_lone_voter(self.id())
            || self.has_lease(ctx.now)
            || planted!(ReadUnconfirmed)
        {
            self.answer_read(reader, Some(self.commit), ctx);
        } else {
            self.lead.reads.wanting.push((reader, self.commit));
        }
    }

    fn has_lease(&self, now: Nanos) -> bool {
        let timeout = self.settings.election_timeout_ns;
        self.settings
            .lease_drift_ppm
            .is_some_and(|ppm| self.lead.reads.has_lease(now, timeout, ppm))
    }

    /// A follower asks.
    pub(super) fn read_asked(&mut self, from: ReplicaId, read: ReadId, ctx: &mut Context<'_>) {
        let reader = Reader { read, from: Some(from) };
        let is_member = self.memberships.current().replica(from).is_some();
        if self.role == Role::Leader && is_member && self.lead.reads.len() < MAX_WAITING_READS {
            self.read_as_leader(reader, ctx);
        } else {
            self.answer_read(reader, None, ctx);
        }
    }

    /// The leader's answer.
    pub(super) fn read_answered(
        &mut self,
        from: ReplicaId,
        name: ReadId,
        index: Option<LogIndex>,
        ctx: &mut Context<'_>,
    ) {
        if self.leader != Some(from) {
            return;
        }
        let Some((read, _)) = self.forwarded.asked.remove(&name.0) else { return };
        ctx.out.push(match index {
            Some(index) => Effect::ReadReady { read, index },
            None => Effect::ReadRefused { read },
        });
    }

    fn answer_read(&mut self, reader: Reader, index: Option<LogIndex>, ctx: &mut Context<'_>) {
        let Reader { read, from } = reader;
        match (from, index) {
            (Some(from), index) => self.send(from, Body::ReadIndexReply { read, index }, ctx),
            (None, Some(index)) => ctx.out.push(Effect::ReadReady { read, index }),
            (None, None) => ctx.out.push(Effect::ReadRefused { read }),
        }
    }

    /// The reads that came before the first commit of the term go on.
    pub(super) fn reads_after_commit(&mut self, ctx: &mut Context<'_>) {
        if self.committed_in_term() {
            for reader in std::mem::take(&mut self.lead.reads.early) {
                self.read_as_leader(reader, ctx);
            }
        }
    }

    /// Begins a round for the reads of this step, unless enough are out.
    pub(super) fn begin_wanted_round(&mut self, ctx: &mut Context<'_>) {
        let reads = &self.lead.reads;
        if !reads.wanting.is_empty() && reads.rounds.len() < ROUNDS_IN_FLIGHT {
            self.begin_round(ctx);
            for voter in self.other_voters() {
                self.send_heartbeat(voter, ctx);
            }
        }
    }

    pub(super) fn begin_round(&mut self, ctx: &Context<'_>) {
        self.lead.reads.next_round(ctx.now);
    }

    /// Answers what a majority has confirmed.
    pub(super) fn confirm_reads(&mut self, ctx: &mut Context<'_>) {
        if self.role != Role::Leader {
            return;
        }
        let newest = self.lead.reads.round;
        let confirmed = quorum::agreed(self.memberships.voters().iter().map(|voter| {
            if *voter == self.id() {
                return newest;
            }
            self.lead.followers.get(voter).map_or(0, |p| p.round)
        }));
        let answered = self.lead.reads.confirm(confirmed);
        if !answered.is_empty() {
            ctx.trace(|| Trace::Reads { round: confirmed, answered: answered.len() });
        }
        for (reader, index) in answered {
            self.answer_read(reader, Some(index), ctx);
        }
    }

    /// Leadership ended.
    pub(super) fn refuse_reads(&mut self, reads: &mut LeaderReads, ctx: &mut Context<'_>) {
        let wanting = reads.wanting.drain(..).map(|(reader, _)| reader);
        let waiting = reads.waiting.drain(..).map(|(_, reader, _)| reader);
        let readers: Vec<Reader> = reads.early.drain(..).chain(wanting).chain(waiting).collect();
        for reader in readers {
            self.answer_read(reader, None, ctx);
        }
    }

    /// The term or the leader changed.
    pub(super) fn refuse_forwarded(&mut self, ctx: &mut Context<'_>) {
        for (_, (read, _)) in std::mem::take(&mut self.forwarded.asked) {
            ctx.out.push(Effect::ReadRefused { read });
        }
    }

    /// What the leader has not answered for an election timeout is given up.
    pub(super) fn expire_forwarded(&mut self, ctx: &mut Context<'_>) {
        let now = ctx.now;
        for (_, (read, _)) in self.forwarded.asked.extract_if(.., |_, (_, at)| *at <= now) {
            ctx.out.push(Effect::ReadRefused { read });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(read: u64) -> Reader {
        Reader { read: ReadId(read), from: None }
    }

    #[test]
    fn pitfall_33_an_old_rounds_answer_does_not_confirm_a_newer_read() {
        let mut reads = LeaderReads::default();
        reads.begin(Nanos(1));
        reads.wanting.push((reader(7), LogIndex(4)));
        reads.next_round(Nanos(2));
        assert_eq!(reads.confirm(1), []);
        assert_eq!(reads.confirm(2), [(reader(7), LogIndex(4))]);
        assert_eq!(reads.len(), 0);
    }

    #[test]
    fn pitfall_34_a_lease_is_measured_from_when_its_round_was_sent() {
        let mut reads = LeaderReads::default();
        assert!(!reads.has_lease(Nanos(0), 1000, 0), "nothing is confirmed");
        reads.begin(Nanos(100));
        assert!(!reads.has_lease(Nanos(100), 1000, 0), "sent is not confirmed");
        reads.confirm(1);
        assert!(reads.has_lease(Nanos(1099), 1000, 0));
        assert!(!reads.has_lease(Nanos(1100), 1000, 0));
        assert!(!reads.has_lease(Nanos(1050), 1000, 100_000), "a drift of 10 % makes it 909");
        assert!(reads.has_lease(Nanos(1008), 1000, 100_000));
        reads.void_lease();
        assert!(!reads.has_lease(Nanos(101), 1000, 0), "a transfer ends it");
    }
}
