//! [`Space`]: what happens when the disk is full (pitfall 44).
//!
//! | state | how it begins | what is taken | how it ends |
//! |---|---|---|---|
//! | low | less free space than the reserve (looked at every second, by a job) | deletes | the reserve is back, and an eighth more |
//! | engine read-only | a flush found no space | deletes | a retried flush succeeds |
//! | log full | the log found no space | deletes, which may use the log's own reserve, as may a term or a vote | a retried write succeeds |
//!
//! Reads go on in all of them, and all end by themselves. What was proposed when the log found no space stays pending
//! and is written by the retry; until then its clients wait, at most until their deadline (effect unknown).
//!
//! # A leader without space
//! It would refuse the puts of a cluster whose other disks have room. So, while it is low or its engine read-only, it offers the
//! lead to the other voters in turn, one every [`OFFER_EVERY_NS`] (the first when it has led for as long, so that it takes deletes
//! before), and a node in these two states does not take it: the word to campaign is lost there. So the lead goes to a voter
//! that has space, when there is one, and when there is none nobody's term changes and no log grows by it. A leader whose log is full
//! hangs in raft's eyes and gives the lead up (pitfall 20); nodes whose logs are full take it, by their reserve, or nobody would
//! lead and take deletes.

use super::{Effect, Node, Phase, StateMachine};
use crate::base::trace::TraceEvent;
use crate::base::{Nanos, NodeId};
use crate::env::{Completion, IoResult, JobId, Lane};
use crate::raft::message::Body;
use crate::raft::{self, IoId, LogStore, ProgressState, Role};

/// When a write refused for lack of space should be tried again.
pub(super) const RETRY_AFTER_MS: u32 = 1_000;
const CHECK_EVERY_NS: u64 = 1_000_000_000;
const LOG_RETRY_NS: u64 = 100_000_000;
/// How often a leader without space offers the lead. While an offer stands, at most an election timeout, it takes no deletes either.
const OFFER_EVERY_NS: u64 = 5_000_000_000;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Space {
    low: bool,
    free_bytes: Option<u64>,
    /// Whether it was ever tried to measure it.
    looked: bool,
    log_full: bool,
    log_retry_at: Nanos,
    /// The newest persist with a term or a vote that is not durable yet.
    hard_state: Option<IoId>,
    check: Option<JobId>,
    next_check: Nanos,
    /// What the trace last said.
    noted_read_only: bool,
    /// As a leader without space: whom it offered the lead last, and when it does so again.
    offered: Option<NodeId>,
    next_offer: Nanos,
}

impl Space {
    /// When a tick is wanted.
    pub fn next_check(&self) -> Nanos {
        let check = if self.check.is_some() { Nanos::MAX } else { self.next_check };
        if self.log_full { check.min(self.log_retry_at) } else { check }
    }

    pub const fn log_is_full(&self) -> bool {
        self.log_full
    }

    /// Whether the log should try to write.
    pub fn may_kick_log(&self, now: Nanos) -> bool {
        !self.log_full || now >= self.log_retry_at
    }

    /// The log wrote a group, which completes everything up to `through`.
    pub fn log_has_space(&mut self, through: Option<IoId>) {
        self.log_full = false;
        self.hard_state.take_if(|io| Some(*io) <= through);
    }

    /// Writes that free space are about to be written: the log may try at once.
    pub const fn retry_log_now(&mut self) {
        self.log_retry_at = Nanos::ZERO;
    }

    /// Whether the free space was looked at, be it in vain.
    pub const fn has_looked(&self) -> bool {
        self.looked
    }

    /// This node begins to lead.
    pub const fn leads(&mut self, now: Nanos) {
        (self.offered, self.next_offer) = (None, now.plus(OFFER_EVERY_NS));
    }

    /// The last measured free space.
    pub const fn free_bytes(&self) -> Option<u64> {
        self.free_bytes
    }
}

impl<L: LogStore, S: StateMachine> Node<L, S> {
    /// Why a write must be refused, `None` when it need not.
    pub(super) fn no_space(&self, only_deletes: impl FnOnce() -> bool) -> Option<String> {
        let reason = if self.space.log_full {
            "the disk is full, the log cannot grow".to_owned()
        } else if self.space.low {
            let (free, reserve) = (self.space.free_bytes.unwrap_or(0), self.config.reserve_bytes);
            format!("{free} bytes are free on the disk, and the last {reserve} are a reserve")
        } else {
            self.machine.read_only_reason()?.to_owned()
        };
        let reason = format!("{reason}; reads and deletes go on");
        (!only_deletes()).then_some(reason)
    }

    /// The present reason for refusing puts, for STATUS.
    pub(super) fn read_only_reason(&self) -> Option<String> {
        self.no_space(|| false)
    }

    pub(super) fn log_disk_full(&mut self, now: Nanos) {
        self.space.log_full = true;
        self.space.log_retry_at = now.plus(LOG_RETRY_NS);
        if !self.apply.caught_up() || self.space.hard_state.is_some() {
            // A vote and a no-op: without them a full node could not even serve reads after a restart, and full nodes could
            // not elect the leader that takes deletes.
            self.log.use_reserve();
        }
        self.note_read_only(now);
    }

    /// Raft wants a term or a vote to be durable.
    pub(super) fn hard_state_submitted(&mut self, io: IoId) {
        self.space.hard_state = Some(io);
        if self.space.log_full {
            self.log.use_reserve();
            self.space.retry_log_now();
        }
    }

    /// Called every tick: measures the free space once a second.
    pub(super) fn check_space(&mut self, now: Nanos, out: &mut Vec<Effect>) {
        self.note_read_only(now);
        self.offer_lead(now, out);
        if self.space.check.is_some() || now < self.space.next_check {
            return;
        }
        let (disk, dir) = (self.env.disk.clone(), self.config.dir.clone());
        let job = Box::new(move || -> crate::env::JobOutput { Box::new(disk.free_bytes(&dir)) });
        self.space.check = Some(self.env.jobs.submit(Lane::Maintenance, job));
    }

    /// Whether a message is lost here because there is no space: the word to campaign.
    pub(super) fn has_no_space_to(&self, body: &Body) -> bool {
        matches!(body, Body::TransferNow) && self.lacks_space()
    }

    /// Whether it should not lead if somebody else can.
    fn lacks_space(&self) -> bool {
        self.is_read_only() && !self.space.log_full
    }

    fn is_read_only(&self) -> bool {
        self.space.log_full || self.space.low || self.machine.read_only_reason().is_some()
    }

    /// A leader without space offers the lead to the next voter that follows closely.
    fn offer_lead(&mut self, now: Nanos, out: &mut Vec<Effect>) {
        if self.raft.role() != Role::Leader
            || self.phase != Phase::Running
            || now < self.space.next_offer
            || !self.lacks_space()
        {
            return;
        }
        self.space.next_offer = now.plus(OFFER_EVERY_NS);
        let status = self.raft.status();
        let close =
            |f: &&raft::FollowerStatus| f.voter && f.recent && f.state == ProgressState::Replicate;
        let voters: Vec<NodeId> =
            status.followers.iter().filter(close).map(|f| f.replica.node).collect();
        let after = self.space.offered.unwrap_or(self.identity.node_id);
        let next = voters.iter().find(|node| **node > after).or(voters.first());
        let (Some(to), None) = (next.copied(), status.transfer) else { return };
        self.space.offered = Some(to);
        log::warn!("there is no space for writes here: node {to} is asked to lead");
        self.step_raft(now, raft::Event::Transfer(Some(to)), out);
        // A leader that may not hand over yet offers again.
        self.refusal = None;
    }

    /// Takes the completion of the measurement.
    pub(super) fn space_done(&mut self, now: Nanos, done: Completion) -> Option<Completion> {
        if self.space.check.take_if(|id| *id == done.id).is_none() {
            return Some(done);
        }
        self.space.next_check = now.plus(CHECK_EVERY_NS);
        self.space.looked = true;
        match *done.output.downcast::<IoResult<u64>>().expect("the space job's output") {
            Ok(free) => {
                let reserve = self.config.reserve_bytes;
                let enough = if self.space.low { reserve + reserve / 8 } else { reserve };
                self.space.low = free < enough;
                self.space.free_bytes = Some(free);
            }
            // The writes themselves will tell if there is no space.
            Err(e) => log::warn!("cannot measure the free disk space: {e}"),
        }
        self.note_read_only(now);
        None
    }

    /// Records in the trace that taking puts ended or began again.
    pub(super) fn note_read_only(&mut self, now: Nanos) {
        let on = self.is_read_only();
        if on != self.space.noted_read_only {
            self.space.noted_read_only = on;
            self.trace.record(now, TraceEvent::ReadOnly { on });
            match self.read_only_reason() {
                Some(reason) => log::warn!("writes are refused: {reason}"),
                None => log::info!("writes are taken again"),
            }
        }
    }
}
