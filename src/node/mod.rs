//! L4: the node. It joins raft, log, state machine, and protocol, and decides everything: who is admitted, what is
//! proposed, what is applied, when each reply leaves. It is sans-I/O: [`Node::step`] takes the time and an [`Event`]
//! and appends [`Effect`]s; blocking work leaves as jobs ([`crate::env::Jobs`]) and comes back as
//! [`Event::JobDone`]. The server and the simulator are two drivers of it.
//!
//! ```text
//! Request ─► desk (admit or refuse) ─┬─ write ─► turn ──EndOfTurn──► raft ─► log ─► Lane::Log ─► durable
//!                                    │                                                            │
//!  Reply ◄─ desk ◄─────────────── apply (sequence numbers) ◄──────── commit ◄── raft ◄────────────┘
//!                                    │
//!                                    └─ read ──► turn ──EndOfTurn──► raft (read index) ─► applied that far?
//!  Reply ◄─ desk ◄── memory, or a job in Lane::Read, or the slices of a scan ◄────────────────────┘
//! ```
//!
//! # Invariants
//! - *Written* is answered only for an entry that is committed and applied; committed means durable by a quorum of
//!   [`raft`]'s rules. All writes of a turn are one group: one propose, one log submission.
//! - A reply says what happened to the write. Before propose a refusal is *not applied*; after it, a passed deadline
//!   is *unknown*. Apply never looks at the clock, at deadlines, or at connections.
//! - Reads are linearizable: they wait for a read index taken after they arrived and for its entries to be applied,
//!   so none is served after a restart until replay reached a confirmed commit (pitfall 35).
//! - Every queue is bounded (`limits`); a full one answers `BUSY` with a hint.
//! - After a fatal effect nothing else is answered.
//! - The same events at the same times give the same effects.
//!
//! # What it does not do
//! Bytes, connections, and their limits are the server's; what a quorum is, raft's; where data lives, the engine's.
//! Peers and changes of the membership come with replication.

mod admission;
mod apply;
mod config;
mod engine_machine;
mod identity;
mod map_machine;
mod open;
mod reads;
mod replicated;
mod sessions;
pub mod sim;
mod snapshots;
mod space;
mod state_machine;
mod status;
mod types;
mod writes;

pub use admission::{QueueStatus, RequestCounters};
pub use apply::ReplayStatus;
pub use config::{Bootstrap, NodeConfig, RaftSettings};
pub use engine_machine::EngineMachine;
pub use identity::{Identity, IdentityError, MAX_CLUSTER_ID_BYTES};
pub use map_machine::MapMachine;
pub use open::{OpenError, UnfitError};
pub use replicated::Replicated;
pub use sessions::{RowError, SessionStats};
pub use state_machine::{
    Applied, DiskRead, Frozen, Lookup, MachineError, MachineOutcome, ReadFault, Room, SinkFault,
    SinkJob, Slice, SliceRange, SnapshotRead, SnapshotSink, SnapshotSource, StateMachine,
    Versioned,
};
pub use status::{MemoryStatus, ReadStats, Stages, Stats, Status};
pub use types::{Admin, Effect, EntryOutcome, Event, FatalError, Observed, Origin};

use crate::base::batch::{BatchRef, WriteBatch};
use crate::base::trace::{StageStats, TraceEvent, TraceRing};
use crate::base::{LogIndex, Membership, Nanos, SequenceNumber};
use crate::env::{Completion, Env, LockGuard};
use crate::limits::{FEW_REQUESTS, LOG_TAIL_ENTRIES, TRACE_EVENTS};
use crate::proto::{self, ErrorCode, HelloReply, HelloRequest, Request, Response};
use crate::raft::{self, HardState, LogOutcome, LogStore, Raft, Role};
use admission::{Arrival, Desk};
use reads::{ReadWork, Reads};
use space::Space;
use writes::Writes;

/// See the module.
pub struct Node<L, S> {
    config: NodeConfig,
    identity: Identity,
    env: Env,
    raft: Raft,
    raft_effects: Vec<raft::Effect>,
    log: L,
    machine: S,
    desk: Desk,
    trace: TraceRing,
    writes: Writes,
    reads: Reads,
    space: Space,
    apply: apply::Progress,
    replicated: Replicated,
    phase: Phase,
    opened_at: Option<Nanos>,
    last_expiry_scan: Nanos,
    recovery: Vec<String>,
    /// The last field, so that it is dropped after every handle on the jobs: the last of those waits for the helper
    /// threads, and as long as they may change files nobody else may open the directory.
    _lock: Option<Box<dyn LockGuard>>,
}

/// From start to stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Running,
    /// No new requests; the admitted ones finish.
    Draining,
    /// The log writes its last watermark.
    Closing,
    /// Drained, or failed.
    Stopped,
}

/// What a node is built from; see [`Node::open`] for the real thing.
pub struct Parts<L, S> {
    /// Who it is.
    pub identity: Identity,
    /// The log, with what it remembers.
    pub log: L,
    /// Its last persisted hard state.
    pub hard_state: HardState,
    /// The memberships from the log's baseline on; see [`raft::Start::memberships`].
    pub memberships: Vec<(LogIndex, Membership)>,
    /// The state machine, which has applied a prefix of the log.
    pub machine: S,
    /// What the machine's rows under the reserved prefix say.
    pub replicated: Replicated,
    /// The lock of the data directory, where there is one.
    pub lock: Option<Box<dyn LockGuard>>,
    /// What recovery found, for STATUS: one line of text a part.
    pub recovery: Vec<String>,
}

impl<L: LogStore, S: StateMachine> Node<L, S> {
    /// A node from its parts: a follower that becomes leader and replays its log once it is stepped.
    pub fn from_parts(config: NodeConfig, env: Env, parts: Parts<L, S>) -> Self {
        let Parts {
            identity,
            log,
            hard_state,
            memberships,
            machine,
            mut replicated,
            lock,
            recovery,
        } = parts;
        let id = identity.replica();
        let applied = machine.applied().0;
        if let Some(membership) = memberships.iter().rfind(|(index, _)| *index <= applied) {
            replicated.bootstrap(membership.clone());
        }
        let start = raft::Start { hard_state, applied, memberships };
        let raft = Raft::new(&raft::Config::new(id, identity.incarnation), start, &log);
        Self {
            identity,
            env,
            raft,
            raft_effects: Vec::new(),
            log,
            desk: Desk::new(config.max_queued_requests, config.max_queued_bytes),
            trace: TraceRing::new(TRACE_EVENTS),
            writes: Writes::default(),
            reads: Reads::default(),
            space: Space::default(),
            apply: apply::Progress::new(machine.applied().0),
            replicated,
            machine,
            phase: Phase::Running,
            opened_at: None,
            last_expiry_scan: Nanos::ZERO,
            recovery,
            config,
            _lock: lock,
        }
    }

    /// One event in, its effects out.
    pub fn step(&mut self, now: Nanos, event: Event<'_>, out: &mut Vec<Effect>) {
        if self.phase == Phase::Stopped {
            return;
        }
        self.opened_at.get_or_insert(now);
        self.apply.measure(now, &mut self.desk.stages);
        let result = match event {
            Event::Request { origin, request, deadline, received_at, bytes } => {
                let opcode = request.opcode();
                self.request(
                    now,
                    Arrival { origin, opcode, deadline, received_at, bytes },
                    request,
                    out,
                );
                Ok(())
            }
            Event::ConnectionClosed { conn } => {
                self.desk.connection_closed(conn);
                Ok(())
            }
            Event::JobDone(done) => self.job_done(now, done, out),
            Event::Peer(_) | Event::PeerUnreachable(_) => Ok(()),
            Event::Admin { origin, .. } => {
                let refused = self.no_leader(proto::Opcode::Write);
                self.desk.reply_unadmitted(origin, proto::Opcode::Write, refused, out);
                Ok(())
            }
            Event::Tick => self.tick(now, out),
            Event::EndOfTurn => self.end_of_turn(now, out),
            Event::Drain => {
                if self.phase == Phase::Running {
                    self.phase = Phase::Draining;
                }
                Ok(())
            }
        };
        match result {
            Ok(()) => self.drain(out),
            Err(fatal) => {
                self.phase = Phase::Stopped;
                out.push(Effect::Fatal(fatal));
            }
        }
    }

    /// When [`Event::Tick`] is wanted at the latest; a time in the past means: now. `None` when only events matter.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<Nanos> {
        if self.phase == Phase::Stopped {
            return None;
        }
        let must_run = self.raft.role() == Role::Follower || self.has_runnable_work();
        let times = [
            must_run.then_some(Nanos::ZERO),
            Some(self.next_expiry_scan()),
            Some(self.space.next_check()),
            self.reads.wire.next_expiry(),
        ];
        times.into_iter().flatten().min().filter(|t| *t != Nanos::MAX)
    }

    /// The number of the log group that at most [`FEW_REQUESTS`] requests wait for; `None` when none is in flight or
    /// many wait. The driver may wait for it awake: putting a thread to sleep and waking it costs as much as
    /// a fast disk's sync.
    #[must_use]
    pub fn few_wait_for_log(&self) -> Option<u64> {
        self.log.in_flight().filter(|_| self.desk.queue().requests <= FEW_REQUESTS)
    }

    /// Whether it leads and has applied everything that was committed when it began to: reads and writes are served.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Running && self.apply.caught_up()
    }

    /// The role.
    #[must_use]
    pub fn role(&self) -> Role {
        self.raft.role()
    }

    /// Who it is.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The last applied entry.
    #[must_use]
    pub fn applied(&self) -> LogIndex {
        self.machine.applied().0
    }

    /// The last sequence number given out.
    #[must_use]
    pub fn last_seq(&self) -> SequenceNumber {
        self.machine.last_seq()
    }

    /// The membership in force at what is durable without the log, and the entry that set it: what a snapshot carries.
    #[must_use]
    pub fn durable_membership(&self) -> Option<&(LogIndex, Membership)> {
        self.replicated.members_at(self.machine.durable_applied().0)
    }

    /// The last trace events.
    #[must_use]
    pub const fn trace(&self) -> &TraceRing {
        &self.trace
    }

    /// The algorithm's state, to look at (checkers, STATUS).
    #[must_use]
    pub const fn raft(&self) -> &Raft {
        &self.raft
    }

    /// The log, to look at.
    #[must_use]
    pub const fn log(&self) -> &L {
        &self.log
    }

    /// The state machine, to look at.
    #[must_use]
    pub const fn machine(&self) -> &S {
        &self.machine
    }

    /// What it was told.
    #[must_use]
    pub const fn config(&self) -> &NodeConfig {
        &self.config
    }

    /// Stage times of requests. The server adds [`Stage::Respond`](crate::base::trace::Stage::Respond).
    #[must_use]
    pub const fn stages_mut(&mut self) -> &mut StageStats {
        &mut self.desk.stages
    }

    fn request(
        &mut self,
        now: Nanos,
        arrival: Arrival,
        request: Request<'_>,
        out: &mut Vec<Effect>,
    ) {
        let direct = match request {
            Request::Hello(hello) => Some(self.hello(&hello)),
            Request::Ping => Some(Response::Pong),
            Request::Status => Some(Response::Status(status::json(&self.status(now)))),
            Request::Stats => Some(Response::Stats(status::json(&self.stats(now)))),
            _ if self.phase != Phase::Running => Some(admission::error(
                ErrorCode::ShuttingDown,
                proto::Effect::refused(arrival.opcode),
                "the server is shutting down",
            )),
            _ => None,
        };
        let refused = match direct {
            Some(response) => Err(response),
            None => self.admit(now, &arrival, request),
        };
        if let Err(response) = refused {
            if matches!(&response, Response::Error(e) if e.code == ErrorCode::Busy) {
                self.trace.record(now, TraceEvent::Busy { queued: self.desk.queue().requests });
            }
            self.desk.reply_unadmitted(arrival.origin, arrival.opcode, response, out);
        }
    }

    fn admit(
        &mut self,
        now: Nanos,
        arrival: &Arrival,
        request: Request<'_>,
    ) -> Result<(), Response> {
        match request {
            Request::Write { batch, .. } => {
                self.check_writable(arrival.opcode, &batch)?;
                let ticket = self.desk.admit(now, arrival)?;
                self.writes.add(ticket, batch);
            }
            Request::Get { key, snapshot } => {
                let ticket = self.desk.admit(now, arrival)?;
                self.reads.add(ticket, ReadWork::Get { key: key.into(), snapshot });
            }
            Request::Scan(scan) => {
                let ticket = self.desk.admit(now, arrival)?;
                self.reads.add(ticket, ReadWork::scan(&scan));
            }
            Request::Register => {
                let batch = WriteBatch::register();
                let batch =
                    BatchRef::parse(batch.as_bytes()).expect("a WriteBatch is a valid batch");
                self.check_writable(arrival.opcode, &batch)?;
                let ticket = self.desk.admit(now, arrival)?;
                self.writes.add(ticket, batch);
            }
            Request::Hello(_) | Request::Ping | Request::Status | Request::Stats => {}
        }
        Ok(())
    }

    fn hello(&self, hello: &HelloRequest<'_>) -> Response {
        let refused = |code, message| admission::error(code, proto::Effect::None, message);
        if hello.choose_version().is_none() {
            let (min, max, ours) = (hello.min_version, hello.max_version, proto::PROTOCOL_VERSION);
            let message =
                format!("the client speaks versions {min} to {max}, this server version {ours}");
            return refused(ErrorCode::BadVersion, message);
        }
        let cluster = &self.identity.cluster_id;
        if !hello.cluster.is_empty() && hello.cluster != cluster {
            let message =
                format!("this is cluster {cluster}, the client expects {}", hello.cluster);
            return refused(ErrorCode::WrongCluster, message);
        }
        Response::Hello(HelloReply::with_limits(
            self.identity.node_id,
            cluster,
            self.config.idle_timeout_ms,
        ))
    }

    /// One event for raft, and its effects carried out. The caller kicks the log. A log that is being closed takes
    /// nothing more, so raft then sees nothing more.
    fn step_raft(&mut self, now: Nanos, event: raft::Event) {
        if self.phase == Phase::Closing {
            return;
        }
        let mut effects = std::mem::take(&mut self.raft_effects);
        self.raft.step(now, event, &self.log, &mut effects);
        for effect in effects.drain(..) {
            match effect {
                raft::Effect::Persist(persist) => self.log.submit(persist),
                raft::Effect::Proposed { first, .. } => self.writes.proposed(first),
                // The caller of propose sees that nothing was proposed.
                raft::Effect::ProposeRefused(_) => {}
                raft::Effect::Apply { through } => self.apply.committed(now, through),
                raft::Effect::ReadReady { read, index } => self.reads.ready(read, Some(index)),
                raft::Effect::ReadRefused { read } => self.reads.ready(read, None),
                raft::Effect::RoleChange { role, term, .. } => {
                    self.trace
                        .record(now, TraceEvent::RoleChange { term: term.0, role: role.name() });
                }
                // A group of one has nobody to send to.
                _ => {}
            }
        }
        self.raft_effects = effects;
    }

    fn end_of_turn(&mut self, now: Nanos, out: &mut Vec<Effect>) -> Result<(), FatalError> {
        self.propose_turn(now, out);
        self.kick_log(now);
        self.desk.turn(now);
        self.apply_committed(now, out)?;
        self.serve_reads(now, out);
        Ok(())
    }

    fn tick(&mut self, now: Nanos, out: &mut Vec<Effect>) -> Result<(), FatalError> {
        self.step_raft(now, raft::Event::Tick);
        self.kick_log(now);
        self.check_space(now);
        self.expire(now, out);
        for seq in self.reads.wire.expire(now) {
            self.machine.release_snapshot(seq);
        }
        self.apply_committed(now, out)
    }

    /// Every job belongs to one of five owners; each takes its own and passes on the rest.
    fn job_done(
        &mut self,
        now: Nanos,
        done: Completion,
        out: &mut Vec<Effect>,
    ) -> Result<(), FatalError> {
        let Some(done) = self.log_done(now, done, out)? else {
            return self.apply_committed(now, out);
        };
        let Some(done) = self.machine_done(now, done)? else {
            return self.apply_committed(now, out);
        };
        let Some(done) = self.replay_done(now, done, out)? else {
            return self.apply_committed(now, out);
        };
        let Some(done) = self.space_done(now, done) else { return Ok(()) };
        self.read_done(now, done, out);
        Ok(())
    }

    fn log_done(
        &mut self,
        now: Nanos,
        done: Completion,
        out: &mut Vec<Effect>,
    ) -> Result<Option<Completion>, FatalError> {
        match self.log.job_done(done).map_err(|e| FatalError::new("the log", e))? {
            LogOutcome::NotMine(done) => return Ok(Some(done)),
            LogOutcome::Nothing => {}
            LogOutcome::Durable(group) => self.durable(now, &group),
            LogOutcome::DiskFull => self.log_disk_full(now),
            LogOutcome::Closed => {
                self.phase = Phase::Stopped;
                out.push(Effect::Drained);
            }
        }
        Ok(None)
    }

    fn machine_done(
        &mut self,
        now: Nanos,
        done: Completion,
    ) -> Result<Option<Completion>, FatalError> {
        match self.machine.job_done(done).map_err(|e| FatalError::new("the engine", e))? {
            MachineOutcome::NotMine(done) => return Ok(Some(done)),
            MachineOutcome::Nothing => {}
            MachineOutcome::Installed { membership, rows, .. } => {
                self.replicated
                    .installed(membership, &rows)
                    .map_err(|e| FatalError::new("an installed snapshot", e))?;
            }
            // Nothing is received yet.
            MachineOutcome::InstallFailed { .. } => {}
            MachineOutcome::Flushed { index, table, ns } => {
                if let Some((table, bytes)) = table {
                    self.trace.record(now, TraceEvent::Flush { table, bytes, ns });
                }
                self.log.release_to(LogIndex(index.0.saturating_sub(LOG_TAIL_ENTRIES)));
                self.replicated.release_members(index);
                self.apply.log_bytes_at_flush = u64::MAX;
            }
        }
        Ok(None)
    }

    /// Goes on with the drain when nobody waits any more.
    fn drain(&mut self, out: &mut Vec<Effect>) {
        if self.phase == Phase::Draining && !self.desk.anybody_waits() {
            self.phase = Phase::Closing;
            self.log.close();
            self.log.kick();
        }
        if self.phase == Phase::Closing && self.space.log_is_full() {
            // Without its final watermark the log opens as after a crash.
            self.phase = Phase::Stopped;
            out.push(Effect::Drained);
        }
    }
}

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod machine_tests;
#[cfg(test)]
mod perf_tests;
#[cfg(test)]
mod session_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod trace_tests;
