//! The path of a write: turn → one group → durable → committed → applied → *Written*.
//!
//! # When leadership is lost
//! A write that was proposed waits on, as an *orphan*: its entry may yet be committed by whoever leads next. It is answered
//! when its index is applied: by the entry it was proposed as (same term: *Written*), or by another one, and then it never
//! will be (`NOT_LEADER`, not applied: two different entries are never committed at one index). Before that nobody can know:
//! if its deadline passes, or a snapshot takes the place of the entries, its effect is unknown.

use super::admission::{Desk, Ticket};
use super::replicated::Outcome;
use super::{Effect, Node, Phase, StateMachine};
use crate::base::batch::{BatchRef, Op};
use crate::base::trace::{Stage, TraceEvent};
use crate::base::{LogIndex, Nanos, ReplicaId, Term};
use crate::limits::MAX_RANGE_DELETES;
use crate::proto::{self, ErrorCode, ErrorReply, Opcode, Response};
use crate::raft::{self, DurableGroup, LogStore, ProposeError, Raft, Role};
use bytes::{Bytes, BytesMut};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

/// Advice to a client that found no leader: about an election.
pub(super) const NO_LEADER_RETRY_MS: u32 = 100;

/// Least advice to a client whose write waits for a flush, whatever the queue says.
const STALL_RETRY_MS_MIN: u32 = 50;
/// Passed deadlines are noticed this late at most, so that looking for them costs nothing.
const EXPIRY_SCAN_NS: u64 = 5_000_000;

/// Writes admitted and not yet applied.
#[derive(Debug, Default)]
pub(super) struct Writes {
    /// Those of this turn, with the place of their batch in `turn_bytes`.
    turn: Vec<(Ticket, Range<usize>)>,
    /// The batches of this turn, one after the other: one allocation for the whole group, which the log's entries
    /// then share.
    turn_bytes: BytesMut,
    /// Just given to raft, which has not answered yet.
    offered: Vec<Ticket>,
    /// In the log, by index, of the term in which this node leads; not yet applied.
    proposed: VecDeque<(LogIndex, Ticket)>,
    /// The term of `proposed`.
    term: Term,
    /// Proposed in older terms; not yet decided.
    orphans: BTreeMap<(LogIndex, Term), Ticket>,
}

impl Writes {
    /// Adds an admitted write to this turn's group. The batch is copied, once.
    pub fn add(&mut self, mut ticket: Ticket, batch: BatchRef<'_>) {
        ticket.range_deletes = batch.range_deletes() as u32;
        let start = self.turn_bytes.len();
        self.turn_bytes.extend_from_slice(batch.as_bytes());
        self.turn.push((ticket, start..self.turn_bytes.len()));
    }

    /// Adds a request to what raft is about to be given, in the order of the entries.
    pub fn offer(&mut self, ticket: Ticket) {
        self.offered.push(ticket);
    }

    /// Takes out all writes of this turn.
    pub fn take_turn(&mut self) -> Vec<Ticket> {
        self.turn_bytes.clear();
        self.turn.drain(..).map(|(ticket, _)| ticket).collect()
    }

    /// Takes out the writes of this turn whose deadline has passed.
    pub fn take_late(&mut self, now: Nanos) -> Vec<Ticket> {
        let late = self.turn.extract_if(.., |(ticket, _)| ticket.deadline <= now);
        let late = late.map(|(ticket, _)| ticket).collect();
        if self.turn.is_empty() {
            self.turn_bytes.clear();
        }
        late
    }

    /// Whether writes of this turn, or held ones, wait to be proposed.
    pub const fn has_turn(&self) -> bool {
        !self.turn.is_empty()
    }

    /// Raft took the offered writes; the first stands at `first`.
    pub fn proposed(&mut self, first: LogIndex, term: Term) {
        self.orphan(term);
        let mut index = first;
        for ticket in self.offered.drain(..) {
            self.proposed.push_back((index, ticket));
            index = index.next();
        }
    }

    /// This node does not lead in the term of what it proposed (any more).
    pub fn orphan(&mut self, term: Term) {
        if term != self.term {
            self.leadership_lost();
            self.term = term;
        }
    }

    /// This node does not lead any more, perhaps in the same term.
    pub fn leadership_lost(&mut self) {
        let waiting = self.proposed.drain(..);
        self.orphans.extend(waiting.map(|(index, ticket)| ((index, self.term), ticket)));
    }

    /// An entry was applied; whoever waits for something at its index is answered.
    pub fn applied(
        &mut self,
        now: Nanos,
        (index, term): (LogIndex, Term),
        outcome: Outcome,
        raft: &Raft,
        desk: &mut Desk,
        out: &mut Vec<Effect>,
    ) {
        if let Some((_, ticket)) = self.proposed.pop_front_if(|(at, _)| *at == index) {
            let response =
                if term == self.term { outcome.response() } else { superseded(&ticket, raft) };
            desk.reply(now, &ticket, response, out);
            desk.finish(&ticket);
        }
        while let Some(orphan) = self.orphans.first_entry().filter(|o| o.key().0 <= index) {
            let ((_, proposed_in), ticket) = orphan.remove_entry();
            let ours = proposed_in == term || planted!(OrphanTakesAnyEntry);
            let response = if ours { outcome.response() } else { superseded(&ticket, raft) };
            desk.reply(now, &ticket, response, out);
            desk.finish(&ticket);
        }
    }

    /// A snapshot of everything up to `index` took the place of the entries: what became of ours cannot be known.
    pub fn installed(
        &mut self,
        now: Nanos,
        index: LogIndex,
        raft: &Raft,
        desk: &mut Desk,
        out: &mut Vec<Effect>,
    ) {
        let mut gone: Vec<Ticket> = Vec::new();
        while let Some((_, ticket)) = self.proposed.pop_front_if(|(at, _)| *at <= index) {
            gone.push(ticket);
        }
        gone.extend(self.orphans.extract_if(.., |(at, _), _| *at <= index).map(|(_, t)| t));
        for ticket in gone {
            let message = "leadership was lost, and a snapshot took the place of the write's entry";
            let unknown = proto::Effect::lost(ticket.opcode);
            let response = not_leader(unknown, raft, message);
            desk.reply(now, &ticket, response, out);
            desk.finish(&ticket);
        }
    }

    /// The writes whose effect is not decided.
    fn undecided(&self) -> impl Iterator<Item = &Ticket> {
        self.proposed.iter().map(|(_, ticket)| ticket).chain(self.orphans.values())
    }

    /// Range deletes of writes that are admitted and not applied.
    fn range_deletes(&self) -> usize {
        let turn = self.turn.iter().map(|(ticket, _)| ticket);
        let open = turn.chain(&self.offered).chain(self.undecided());
        open.map(|ticket| ticket.range_deletes as usize).sum()
    }

    /// Orphans whose deadline has passed leave: their entries may never come.
    fn drop_expired_orphans(&mut self, now: Nanos, desk: &mut Desk) {
        for (_, ticket) in self.orphans.extract_if(.., |_, ticket| ticket.deadline <= now) {
            desk.finish(&ticket);
        }
    }
}

/// Where clients reach the replica that leads, if it is another one and has said so.
fn leader_address(raft: &Raft) -> &str {
    let other = raft.leader().filter(|leader| *leader != raft.id());
    let member = other.and_then(|leader| raft.membership().replica(leader));
    member.map_or("", |member| member.client_address.as_str())
}

/// Another entry is applied where this write was proposed: it never will be.
fn superseded(ticket: &Ticket, raft: &Raft) -> Response {
    let message =
        "leadership was lost before the write was committed, and another entry took its place";
    not_leader(proto::Effect::refused(ticket.opcode), raft, message)
}

fn not_leader(effect: proto::Effect, raft: &Raft, message: impl Into<String>) -> Response {
    Response::Error(ErrorReply {
        leader: leader_address(raft).to_owned(),
        ..ErrorReply::new(ErrorCode::NotLeader, effect, message)
    })
}

impl<L: LogStore, S: StateMachine> Node<L, S> {
    /// Whether a write may be admitted at all.
    pub(super) fn check_writable(
        &mut self,
        opcode: Opcode,
        batch: &BatchRef<'_>,
    ) -> Result<(), Response> {
        if self.raft.role() != Role::Leader && !self.waits_for_leader(opcode) {
            return Err(self.no_leader(opcode));
        }
        self.check_uncommitted(batch)?;
        self.check_space_for(batch)?;
        if self.machine.room() == super::Room::Stalled {
            let message = "writes wait for a memtable to be flushed".to_owned();
            return Err(self.desk.busy(proto::Effect::NotApplied, STALL_RETRY_MS_MIN, message));
        }
        Ok(())
    }

    /// Range deletes need software that knows them on every member, and the live ones are bounded: apply cannot refuse.
    pub(super) fn check_range_deletes(&mut self, batch: &BatchRef<'_>) -> Result<(), Response> {
        if !batch.has_range_deletes() {
            return Ok(());
        }
        self.check_feature("range deletes", Self::lacks_range_deletes)?;
        let live = self.machine.range_deletes() + self.writes.range_deletes();
        if live + batch.range_deletes() <= MAX_RANGE_DELETES {
            return Ok(());
        }
        let message = format!(
            "{live} range deletes are live, the limit is {MAX_RANGE_DELETES}: they wait for compaction"
        );
        Err(self.desk.busy(proto::Effect::NotApplied, STALL_RETRY_MS_MIN, message))
    }

    /// What waits for its commit is bounded (raft would refuse the whole turn).
    fn check_uncommitted(&mut self, batch: &BatchRef<'_>) -> Result<(), Response> {
        let waiting = self.raft.uncommitted_bytes() + self.writes.turn_bytes.len();
        let max = self.config.raft.max_uncommitted_bytes;
        if waiting == 0 || waiting + batch.as_bytes().len() <= max {
            return Ok(());
        }
        let message = format!("{waiting} bytes wait for their commit, the limit is {max}");
        Err(self.desk.busy(proto::Effect::NotApplied, 0, message))
    }

    fn check_space_for(&mut self, batch: &BatchRef<'_>) -> Result<(), Response> {
        let only_deletes = || {
            !batch.is_empty()
                && batch.ops().all(|op| matches!(op, Op::Delete { .. } | Op::DeleteRange { .. }))
        };
        let Some(message) = self.no_space(only_deletes) else { return Ok(()) };
        self.desk.counters.no_space += 1;
        Err(Response::Error(ErrorReply {
            retry_after_ms: super::space::RETRY_AFTER_MS,
            ..ErrorReply::new(ErrorCode::NoSpace, proto::Effect::NotApplied, message)
        }))
    }

    pub(super) fn no_leader(&self, opcode: Opcode) -> Response {
        let leader = self.raft.leader().filter(|leader| *leader != self.replica());
        let address = leader.and_then(|leader| self.client_address(leader.node)).unwrap_or("");
        let message = match leader {
            None => "no leader is elected yet".to_owned(),
            Some(ReplicaId { node, .. }) => {
                let at = if address.is_empty() { "" } else { " at " };
                format!("node {node} leads{at}{address}")
            }
        };
        Response::Error(ErrorReply {
            retry_after_ms: NO_LEADER_RETRY_MS,
            leader: address.to_owned(),
            ..ErrorReply::new(ErrorCode::NotLeader, proto::Effect::refused(opcode), message)
        })
    }

    /// Proposes the writes of this turn as one group, without those whose deadline passed; while leadership moves they wait
    /// (`drain`). The caller kicks the log.
    pub(super) fn propose_turn(&mut self, now: Nanos, out: &mut Vec<Effect>) {
        if self.writes.turn.is_empty() {
            return;
        }
        if self.moving.is_on() {
            return self.expire_turn(now, out);
        }
        if self.phase != Phase::Running {
            return self.refuse_turn(now, out);
        }
        let bytes = self.writes.turn_bytes.split().freeze();
        // The next turn is about as large: its memory does not grow write by write.
        self.writes.turn_bytes.reserve(bytes.len());
        let mut turn = std::mem::take(&mut self.writes.turn);
        let mut payloads: Vec<Bytes> = Vec::with_capacity(turn.len());
        for (ticket, range) in turn.drain(..) {
            if ticket.deadline <= now {
                self.expired_in_queue(now, &ticket, out);
                self.desk.finish(&ticket);
            } else if let Err(refused) = self.check_space_again(&bytes[range.clone()]) {
                self.desk.reply(now, &ticket, refused, out);
                self.desk.finish(&ticket);
            } else {
                self.desk.stages.span(Stage::Queue, ticket.admitted_at, now);
                payloads.push(bytes.slice(range));
                self.writes.offered.push(ticket);
            }
        }
        self.writes.turn = turn;
        if payloads.is_empty() {
            return;
        }
        if self.space.log_is_full() {
            // These are deletes.
            self.log.use_reserve();
            self.space.retry_log_now();
        }
        self.step_raft(now, raft::Event::Propose(payloads), out);
        self.refuse_offered(now, out);
    }

    /// Answers what was offered to raft and not taken.
    pub(super) fn refuse_offered(&mut self, now: Nanos, out: &mut Vec<Effect>) {
        let refusal = self.refusal.take().unwrap_or(ProposeError::NotLeader { leader: None });
        if self.writes.offered.is_empty() {
            return;
        }
        for ticket in std::mem::take(&mut self.writes.offered) {
            let refused = self.propose_refused(ticket.opcode, &refusal);
            self.desk.reply(now, &ticket, refused, out);
            self.desk.finish(&ticket);
        }
    }

    /// The log may have found the disk full after this turn's writes were admitted.
    fn check_space_again(&mut self, batch: &[u8]) -> Result<(), Response> {
        if !self.space.log_is_full() {
            return Ok(());
        }
        self.check_space_for(&BatchRef::parse(batch).expect("it was validated at admission"))
    }

    /// Starts the log's job, unless the disk is full and the next try is not due.
    pub(super) fn kick_log(&mut self, now: Nanos) {
        if self.space.may_kick_log(now) {
            self.log.kick();
        }
    }

    /// A log group is durable. The next group starts before anything else is done with this one.
    pub(super) fn group_durable(
        &mut self,
        now: Nanos,
        group: &DurableGroup,
        out: &mut Vec<Effect>,
    ) {
        self.space.log_has_space(group.through);
        self.log.kick();
        let sync_ns = group.finished_at.since(group.started_at);
        self.desk.stages.span(Stage::Append, group.submitted_at, group.started_at);
        self.desk.stages.record(Stage::Sync, sync_ns);
        self.desk.stages.span(Stage::Commit, group.finished_at, now);
        let (records, bytes) = (group.records, group.bytes);
        self.trace.record(now, TraceEvent::LogSync { records, bytes, ns: sync_ns });
        if let Some(io) = group.through {
            self.durable.persisted(io);
            self.outbox.persisted(io, self.raft.term(), out);
            self.step_raft(now, raft::Event::Persisted(io), out);
        }
        self.log.kick();
        self.note_read_only(now);
    }

    /// Answers a request that expired before anything was done for it.
    pub(super) fn expired_in_queue(&mut self, now: Nanos, ticket: &Ticket, out: &mut Vec<Effect>) {
        if self.desk.is_open(ticket) {
            self.desk.counters.expired_in_queue += 1;
            self.trace.record(now, TraceEvent::Expired { late_ns: now.since(ticket.deadline) });
            let effect = proto::Effect::refused(ticket.opcode);
            self.desk.reply(now, ticket, ticket.expired(now, effect), out);
        }
    }

    /// When unanswered requests should be looked at for passed deadlines.
    pub(super) fn next_expiry_scan(&self) -> Nanos {
        self.desk.earliest_deadline().max(self.last_expiry_scan.plus(EXPIRY_SCAN_NS))
    }

    /// Answers the requests whose deadline passed: a proposed write's effect is unknown, a read is given up.
    pub(super) fn expire(&mut self, now: Nanos, out: &mut Vec<Effect>) {
        if now < self.next_expiry_scan() {
            return;
        }
        self.last_expiry_scan = now;
        let mut earliest = Nanos::MAX;
        for ticket in self.writes.undecided() {
            if !self.desk.is_open(ticket) {
                continue;
            }
            if ticket.deadline <= now {
                self.desk.counters.expired_after_propose += 1;
                let effect = if planted!(ExpiredSaysNotApplied) {
                    proto::Effect::NotApplied
                } else {
                    proto::Effect::Unknown
                };
                let response = ticket.expired(now, effect);
                self.desk.reply(now, ticket, response, out);
            } else {
                earliest = earliest.min(ticket.deadline);
            }
        }
        self.writes.drop_expired_orphans(now, &mut self.desk);
        if let Some(handover) = &self.handover {
            earliest = earliest.min(handover.ticket.deadline);
        }
        // Writes of a turn that is still open are looked at when it ends.
        let turn = self.writes.turn.iter().map(|(ticket, _)| ticket.deadline);
        earliest = turn.fold(earliest, Nanos::min);
        earliest = earliest.min(self.expire_reads(now, out));
        earliest = earliest.min(self.expire_introduction(now, out));
        earliest = earliest.min(self.expire_checkpoint(now, out));
        self.desk.set_earliest_deadline(earliest);
    }
}
