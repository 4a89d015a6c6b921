//! `sometimes!` marks: rare things that a swarm must have met, or it proves less than it claims. Each is counted where
//! it can be seen from outside; a swarm in which one of [`REQUIRED`] is never hit fails.

use crate::sim::hooks::{Marks, Setup, SimNode, SlotView, Step, StepKind, StopKind, WorldView};
use beachdb::base::{LogIndex, Nanos, ReplicaId, Term};
use beachdb::env::Lane;
use beachdb::node::{Effect, EntryOutcome, Observed, StateMachine as _};
use beachdb::proto::{ErrorCode, Response};
use beachdb::raft::message::{AppendOutcome, Body, SnapshotOutcome};
use beachdb::raft::{LogView, Message, Role, Trace};
use std::collections::BTreeMap;

macro_rules! marks {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        $($(#[$doc])* pub const $name: &str = $text;)*
        /// Every mark, by its text. A swarm reports all of them.
        pub const ALL: &[&str] = &[$($name,)*];
    };
}

marks! {
    /// A process crash, where what was written stays.
    PROCESS_CRASH = "process crash";
    /// A power loss, where what was not synced may go.
    POWER_LOSS = "power loss";
    /// A leader was elected.
    ELECTED = "leader elected";
    /// A leader lost its office.
    LEADER_LOST = "leader stepped down or crashed";
    /// An uncommitted tail was replaced by another leader's entries.
    TAIL_OVERWRITTEN = "leader overwrote an uncommitted tail";
    /// A vote was refused.
    VOTE_REFUSED = "vote refused";
    /// A pre-vote was refused.
    PRE_VOTE_REFUSED = "pre-vote refused";
    /// An append did not fit.
    APPEND_REJECTED = "append rejected";
    /// A conflict hint named a term.
    CONFLICT_TERM = "append rejected with the term of the conflict";
    /// A piece of a snapshot was sent.
    SNAPSHOT_SENT = "snapshot chunk sent";
    /// The same while its sender wrote a table.
    SNAPSHOT_DURING_FLUSH = "snapshot chunk sent during a flush";
    /// A snapshot was asked for again from the middle.
    SNAPSHOT_RESUMED = "snapshot resumed after a lost chunk";
    /// A snapshot replaced a state machine.
    INSTALLED = "snapshot installed";
    /// A process went down with a snapshot half taken.
    CRASH_IN_INSTALL = "crash while a snapshot was arriving";
    /// Leadership was handed over.
    TRANSFER = "leadership transfer asked for";
    /// A successor asked for votes in the leader's name.
    TRANSFER_VOTE = "vote asked for in a leadership transfer";
    /// A follower asked the leader for a read index.
    READ_FORWARDED = "read index forwarded";
    /// A follower was told that its read cannot be served.
    READ_INDEX_REFUSED = "read index refused";
    /// The membership changed.
    MEMBERSHIP_CHANGED = "membership changed";
    /// A member was added that does not vote yet.
    LEARNER_ADDED = "learner added";
    /// A learner became a voter.
    LEARNER_PROMOTED = "learner promoted";
    /// A leader is not a member any more.
    LEADER_REMOVED = "leader removed itself";
    /// A retry was answered from a session.
    SESSION_DUPLICATE = "duplicate answered from a session";
    /// A write was refused at apply because its session is gone.
    SESSION_REFUSED = "write of an evicted session refused";
    /// The log gave up a prefix.
    LOG_RELEASED = "log released";
    /// A node came up on a disk from which something un-synced was lost.
    RESTARTED = "node restarted";
    /// A node said that its disk is full.
    DISK_FULL = "disk full told to a client";
    /// A client was told to come back later.
    BUSY = "busy told to a client";
    /// A client was told that nobody knows what became of its write.
    UNKNOWN_TOLD = "unknown outcome told to a client";
    /// A client asked a node that does not lead.
    NOT_LEADER = "not leader told to a client";
    /// A read was answered by a follower.
    FOLLOWER_READ = "read answered by a follower";
    /// A write was sent again under its session.
    WRITE_RETRIED = "write retried under its session";
    /// A write whose condition held was applied.
    CONDITION_HELD = "write whose condition held";
    /// A write was told that its condition did not hold.
    CONDITION_FAILED = "write whose condition failed";
    /// Several keys were read at one moment.
    MULTI_GET = "keys read together";
    /// A page of a snapshot scan was read after later writes.
    OLD_SNAPSHOT_PAGE = "scan page of an older snapshot";
    /// A node installed a wiped disk's next incarnation.
    NEW_INCARNATION = "new incarnation of a wiped node";
    /// A leader whose disk hung gave up its office.
    HUNG_DISK_LEADER = "leader with a hung disk handed over";
    /// A leader that no majority answers gave up its office.
    CHECK_QUORUM = "leader that heard no majority stepped down";
    /// A vote or pre-vote was refused because a leader is heard.
    STICKINESS = "vote refused by stickiness";
    /// A transfer ended without a new leader.
    TRANSFER_GIVEN_UP = "leadership transfer given up";
    /// An entry of a follower differs from the leader's.
    CONFLICT = "entry in conflict with the leader's";
    /// A get as of an older sequence number was answered.
    OLD_READ = "read as of an older sequence number";
    /// Tables were merged into another level.
    COMPACTED = "compaction merged tables";
    /// Tables went to another level as they were.
    TABLES_MOVED = "compaction moved tables";
    /// A compaction left out tombstones that hid nothing any more.
    TOMBSTONES_SPENT = "compaction dropped tombstones";
    /// A process went down while a compaction was under way.
    CRASH_IN_COMPACTION = "crash during a compaction";
    /// A piece of a snapshot was sent while its sender compacted.
    SNAPSHOT_DURING_COMPACTION = "snapshot chunk sent during a compaction";
    /// A range delete was acknowledged.
    RANGE_DELETED = "range delete acknowledged";
    /// A condition was judged by what is only in tables.
    CONDITION_LOOKUP = "condition looked up on the disk";
    /// A tail was cut at recovery.
    TAIL_CUT = "torn tail of the log cut";
}

/// A flush or a compaction met a full disk, so that the engine takes no writes. Too rare to be asked of every swarm: a node
/// refuses writes before, at its reserve.
pub const READ_ONLY: &str = "engine read-only on a full disk";
/// And it takes them again, in the same life.
pub const ROOM_AGAIN: &str = "engine writable again";

/// What a swarm must hit.
pub const REQUIRED: &[&str] = ALL;

/// Watches one run.
pub struct Watch {
    marks: Marks,
    slots: Vec<Slot>,
    members: (LogIndex, BTreeMap<ReplicaId, bool>),
}

#[derive(Clone, Copy, Default)]
struct Slot {
    led: Option<Term>,
    last: (LogIndex, Term),
    /// A snapshot arrives: it is at this offset.
    arriving: Option<u64>,
    /// Of a snapshot that is sent from here, by receiver's node number: the next offset.
    sent_to: u64,
    replica: ReplicaId,
    /// A compaction is under way.
    compacts: bool,
    /// The engine takes no writes.
    read_only: bool,
    /// Compactions, tables moved, tombstones dropped, condition lookups so far in this life.
    counted: [u64; 4],
}

impl Watch {
    /// For one run.
    #[must_use]
    pub fn new(setup: &Setup) -> Self {
        let mut marks = Marks::default();
        for name in ALL {
            marks.add(name, 0);
        }
        Self {
            marks,
            slots: vec![Slot::default(); setup.nodes],
            members: (
                LogIndex::ZERO,
                (0..setup.nodes).map(|slot| (setup.replica(slot), true)).collect(),
            ),
        }
    }

    /// Counts one.
    pub fn hit(&mut self, name: &str) {
        self.marks.add(name, 1);
    }

    /// Adds its counts.
    pub fn report(&self, marks: &mut Marks) {
        marks.merge(&self.marks);
    }

    /// A process came up.
    pub fn started(&mut self, now: Nanos, view: &SlotView<'_>) {
        let recovery = view.node.map(|node| node.status(now).recovery).unwrap_or_default();
        if recovery.iter().any(|line| line.contains("; cut: ")) {
            self.hit(TAIL_CUT);
        }
        if view.life > 0 {
            self.hit(RESTARTED);
        }
        let before = self.slots[view.slot].replica;
        if before != ReplicaId::default() && before != view.replica {
            self.hit(NEW_INCARNATION);
        }
        self.slots[view.slot] = Slot { replica: view.replica, ..Slot::default() };
    }

    /// A process went down.
    pub fn stopped(&mut self, view: &SlotView<'_>, why: StopKind) {
        let slot = std::mem::take(&mut self.slots[view.slot]);
        self.slots[view.slot].replica = slot.replica;
        if slot.led.is_some() {
            self.hit(LEADER_LOST);
        }
        if slot.arriving.is_some() {
            self.hit(CRASH_IN_INSTALL);
        }
        if slot.compacts && why != StopKind::Drained {
            self.hit(CRASH_IN_COMPACTION);
        }
        if let StopKind::Crash(beachdb::env::sim::CrashKind::PowerLoss) = why {
            self.hit(POWER_LOSS);
        }
    }

    /// A step was taken.
    pub fn after_step(&mut self, world: &dyn WorldView, step: &Step<'_>) {
        let node = world.slot(step.slot).node;
        let leads = node.is_some_and(|node| node.role() == Role::Leader);
        let compacts = node.is_some_and(|node| node.machine().engine().is_compacting());
        let flushes = node.is_some_and(|node| node.machine().engine().is_working());
        for effect in step.effects {
            match effect {
                Effect::Send(message) => {
                    if flushes && matches!(message.body, Body::Snapshot(_)) {
                        self.hit(SNAPSHOT_DURING_FLUSH);
                    }
                    if compacts && matches!(message.body, Body::Snapshot(_)) {
                        self.hit(SNAPSHOT_DURING_COMPACTION);
                    }
                    self.message(step.slot, message);
                }
                Effect::Observed(observed) => self.observed(step.slot, observed),
                Effect::Reply { response, .. } => self.reply(leads, response),
                _ => {}
            }
        }
        let Some(node) = node else { return };
        self.upkeep(step, node, compacts);
        let (raft, last) = (node.raft(), node.log().last());
        let leads = (raft.role() == Role::Leader).then(|| raft.term());
        let before = self.slots[step.slot];
        self.slots[step.slot].last = last;
        self.slots[step.slot].led = leads;
        match (before.led, leads) {
            (Some(_), None) => self.hit(LEADER_LOST),
            (a, Some(_)) if a != leads => self.hit(ELECTED),
            _ => {}
        }
        let replaced = node.log().term(before.last.0).is_some_and(|t| t != before.last.1);
        if before.last.0 > LogIndex::ZERO && (last.0 < before.last.0 || replaced) {
            self.hit(TAIL_OVERWRITTEN);
        }
        if leads.is_some() {
            let index = raft.membership_index();
            if index > self.members.0 {
                self.members_changed(index, raft.membership(), step);
            }
        }
    }

    /// What the engine does by itself.
    fn upkeep(&mut self, step: &Step<'_>, node: &SimNode, compacts: bool) {
        let read_only = node.machine().read_only_reason().is_some();
        let before = self.slots[step.slot].read_only;
        self.slots[step.slot].compacts = compacts;
        self.slots[step.slot].read_only = read_only;
        match (before, read_only) {
            (false, true) => self.hit(READ_ONLY),
            (true, false) => self.hit(ROOM_AGAIN),
            _ => {}
        }
        // Figures change when a job comes back; the sums cost too much for every step.
        if !matches!(step.kind, StepKind::Job(Lane::Manifest | Lane::Read)) {
            return;
        }
        let stats = node.machine().engine().stats();
        let lookups = node.condition_stats().lookups;
        let now = [stats.compactions, stats.tables_moved, stats.tombstones_dropped, lookups];
        let before = std::mem::replace(&mut self.slots[step.slot].counted, now);
        let marks = [COMPACTED, TABLES_MOVED, TOMBSTONES_SPENT, CONDITION_LOOKUP];
        for ((mark, now), before) in marks.into_iter().zip(now).zip(before) {
            self.marks.add(mark, now.saturating_sub(before));
        }
    }

    fn members_changed(
        &mut self,
        index: LogIndex,
        membership: &beachdb::base::Membership,
        step: &Step<'_>,
    ) {
        let now: BTreeMap<ReplicaId, bool> =
            membership.members().map(|m| (m.replica, membership.is_voter(m.replica))).collect();
        let before = std::mem::replace(&mut self.members, (index, now)).1;
        self.hit(MEMBERSHIP_CHANGED);
        for (replica, votes) in self.members.1.clone() {
            match before.get(&replica) {
                None if !votes => self.hit(LEARNER_ADDED),
                Some(false) if votes => self.hit(LEARNER_PROMOTED),
                _ => {}
            }
        }
        if before.contains_key(&step.replica) && !self.members.1.contains_key(&step.replica) {
            self.hit(LEADER_REMOVED);
        }
    }

    fn message(&mut self, slot: usize, message: &Message) {
        match &message.body {
            Body::VoteReply { granted: false } => self.hit(VOTE_REFUSED),
            Body::PreVoteReply { granted: false } => self.hit(PRE_VOTE_REFUSED),
            Body::Vote { transfer: true, .. } => self.hit(TRANSFER_VOTE),
            Body::TransferNow => self.hit(TRANSFER),
            Body::ReadIndex { .. } => self.hit(READ_FORWARDED),
            Body::ReadIndexReply { index: None, .. } => self.hit(READ_INDEX_REFUSED),
            Body::AppendReply(reply) => {
                if let AppendOutcome::Rejected { conflict, .. } = reply.outcome {
                    self.hit(APPEND_REJECTED);
                    if conflict.0.is_some() {
                        self.hit(CONFLICT_TERM);
                    }
                }
            }
            Body::Snapshot(chunk) => {
                self.hit(SNAPSHOT_SENT);
                let next = chunk.offset + chunk.data.len() as u64;
                if chunk.offset > 0 && chunk.offset < self.slots[slot].sent_to {
                    self.hit(SNAPSHOT_RESUMED);
                }
                self.slots[slot].sent_to = next;
            }
            Body::SnapshotReply(reply) => {
                self.slots[slot].arriving = match reply.outcome {
                    SnapshotOutcome::Next { offset } => Some(offset),
                    _ => None,
                };
            }
            _ => {}
        }
    }

    fn observed(&mut self, slot: usize, observed: &Observed) {
        match observed {
            Observed::Applied { outcome: EntryOutcome::Duplicate { .. }, .. } => {
                self.hit(SESSION_DUPLICATE);
            }
            Observed::Applied { outcome: EntryOutcome::Refused(_), .. } => {
                self.hit(SESSION_REFUSED);
            }
            Observed::Installed { .. } => {
                self.slots[slot].arriving = None;
                self.hit(INSTALLED);
            }
            Observed::Released { .. } => self.hit(LOG_RELEASED),
            Observed::Raft(trace) => self.trace(trace),
            _ => {}
        }
    }

    fn trace(&mut self, trace: &Trace) {
        match trace {
            Trace::Role { reason: "its disk hangs", .. } => self.hit(HUNG_DISK_LEADER),
            Trace::Role { reason: "it hears no majority", .. } => self.hit(CHECK_QUORUM),
            Trace::Vote { why: "it hears a leader", .. } => self.hit(STICKINESS),
            Trace::Transfer { what: "gave up", .. } => self.hit(TRANSFER_GIVEN_UP),
            Trace::Conflict { .. } => self.hit(CONFLICT),
            _ => {}
        }
    }

    fn reply(&mut self, leads: bool, response: &Response) {
        if matches!(response, Response::Value { .. } | Response::NotFound { .. }) && !leads {
            self.hit(FOLLOWER_READ);
        }
        let Response::Error(error) = response else { return };
        match error.code {
            ErrorCode::Busy => self.hit(BUSY),
            ErrorCode::NotLeader => self.hit(NOT_LEADER),
            ErrorCode::NoSpace => self.hit(DISK_FULL),
            _ => {}
        }
        if error.effect == beachdb::proto::Effect::Unknown {
            self.hit(UNKNOWN_TOLD);
        }
    }
}
