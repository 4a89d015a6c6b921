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
//! Between nodes (issue 4 carries it over sockets):
//!
//! ```text
//! Peer ─► raft ─┬─ Send ─► outbox (persist before respond) ─► Effect::Send
//!               ├─ Fetch ─► Lane::Read ─► Fetched
//!               ├─ SnapshotNeeded ─► sender: pinned files, piece by piece          (snapshot_send)
//!               └─ SnapshotChunk ─► receiver: sink, then install in one step       (snapshot_receive)
//! ```
//!
//! # Invariants
//! - *Written* is answered only for an entry that is committed and applied; committed means durable by a quorum of
//!   [`raft`]'s rules. All writes of a turn are one group: one propose, one log submission.
//! - A follower's state is the leader's: it comes from committed entries, or from a snapshot that replaces all of it.
//! - A reply says what happened to the write. Before propose a refusal is *not applied*; after it, a passed deadline
//!   is *unknown*. Apply never looks at the clock, at deadlines, or at connections.
//! - Reads are linearizable, but for those that ask for no more than what is here (`freshness`): they wait for a read index taken after they arrived and for its entries to be applied,
//!   so none is served after a restart until replay reached a confirmed commit (pitfall 35).
//! - Every queue is bounded (`limits`); a full one answers `BUSY` with a hint.
//! - After a fatal effect nothing else is answered.
//! - The same events at the same times give the same effects.
//!
//! # What it does not do
//! Bytes, connections, and their limits are the server's; what a quorum is, raft's; where data lives, the engine's.
//! Who carries messages between nodes, and where they live, is the driver's.

mod admin;
mod admission;
mod apply;
mod conditions;
mod config;
mod drain;
mod engine_machine;
mod fetch;
mod formation;
#[cfg(test)]
mod formation_tests;
mod freshness;
mod identity;
mod map_machine;
mod map_snapshot;
mod open;
mod pace;
mod peers;
mod reads;
mod recover;
#[cfg(test)]
mod recover_tests;
mod rejoin;
#[cfg(test)]
mod rejoin_tests;
mod release;
mod replicated;
mod restore;
#[cfg(test)]
mod restore_tests;
mod sessions;
pub mod sim;
mod snapshot_receive;
mod snapshot_send;
mod snapshots;
mod space;
mod state_machine;
mod status;
mod types;
mod upkeep;
mod verify;
pub mod wire;
mod writes;

pub use admission::{QueueStatus, RequestCounters};
pub use apply::ReplayStatus;
pub use conditions::ConditionStats;
pub use config::{Bootstrap, NodeConfig};
pub use engine_machine::EngineMachine;
pub use identity::{CLUSTER_ID_RULE, Identity, IdentityError, MAX_CLUSTER_ID_BYTES, is_cluster_id};
pub use map_machine::MapMachine;
pub use open::{OpenError, UnfitError};
pub use peers::PeerCounters;
pub use recover::{NewCluster, RecoverError, Recovery, RecoveryPlan};
pub use rejoin::{RejoinError, Rejoined, Stated, rejoin};
pub use replicated::Replicated;
pub use restore::{RestoreError, RestorePlan, Restored, restore};
pub use sessions::{RowError, SessionStats};
pub use snapshot_receive::SnapshotReceiveCounters;
pub use snapshot_send::{SnapshotSendCounters, TransferStatus, WaitingStatus};
pub use state_machine::{
    Applied, DiskRead, Frozen, Lookup, MachineError, MachineOutcome, ReadFault, Room, SinkFault,
    SinkJob, Slice, SliceRange, SnapshotRead, SnapshotSink, SnapshotSource, StateMachine,
    Versioned,
};
pub use status::{
    LinkStatus, MemberStatus, MembersStatus, MemoryStatus, ProgressStatus, ReadStats,
    ReceiveStatus, SnapshotStatus, Stages, Stats, Status,
};
pub use types::{
    Admin, Effect, EntryOutcome, Event, FEATURE_CONDITIONS, FEATURE_RANGE_DELETES,
    FEATURE_SESSIONS, FEATURES, FatalError, Observed, Origin, PeerFacts,
};
pub use upkeep::{CheckpointStatus, VerifyStatus};
pub use verify::{DirKind, VerifyError, verify_dir};

use crate::base::batch::{BatchRef, WriteBatch};
use crate::base::trace::{StageStats, TraceEvent, TraceRing};
use crate::base::{ClusterUid, LogIndex, Membership, Nanos, ReplicaId, SequenceNumber, Term};
use crate::env::{Completion, Env, LockGuard};
use crate::limits::{FEW_REQUESTS, TRACE_EVENTS};
use crate::proto::{
    self, ConditionFailed, ErrorCode, ErrorReply, HelloReply, HelloRequest, Request, Response,
};
use crate::raft::message::Body;
use crate::raft::{self, HardState, LogOutcome, LogStore, ProposeError, Raft, Role};
use admin::{Handover, Introduction};
use admission::{Arrival, Desk};
use conditions::Conditions;
use drain::Moving;
use fetch::{Durable, Fetches};
use formation::{Formation, Lack};
use freshness::Freshness;
use peers::Outbox;
use reads::{ReadWork, Reads};
use release::Holds;
use snapshot_receive::Receiver;
use snapshot_send::Sender;
use space::Space;
use std::collections::VecDeque;
use upkeep::Upkeep;
use writes::Writes;

/// Advice to a client that wants a session before every member has said what it can do.
const UNKNOWN_RETRY_MS: u32 = 500;

/// See the module.
pub struct Node<L, S> {
    config: NodeConfig,
    identity: Identity,
    env: Env,
    raft: Raft,
    raft_effects: Vec<raft::Effect>,
    /// What raft is to be told next, in order.
    raft_next: VecDeque<raft::Event>,
    /// Why raft did not take what it was just offered.
    refusal: Option<ProposeError>,
    outbox: Outbox,
    durable: Durable,
    fetches: Fetches,
    sender: Sender,
    receiver: Receiver,
    holds: Holds,
    handover: Option<Handover>,
    /// A node that is asked who it is, and how many were.
    introduction: Option<Introduction>,
    introductions: u64,
    formation: Formation,
    /// The cluster that this node belongs to; none while it is blank.
    cluster: ClusterUid,
    /// What the driver says of its connections.
    links: Vec<LinkStatus>,
    /// What raft found to be impossible: the process must stop.
    broken: Option<FatalError>,
    log: L,
    machine: S,
    desk: Desk,
    trace: TraceRing,
    writes: Writes,
    reads: Reads,
    freshness: Freshness,
    space: Space,
    upkeep: Upkeep,
    apply: apply::Progress,
    conditions: Conditions,
    replicated: Replicated,
    phase: Phase,
    moving: Moving,
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
    /// Leadership goes to another voter; no new requests; the admitted ones finish. See `drain`.
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
    /// The cluster that the log is of.
    pub cluster: ClusterUid,
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
    /// A node from its parts: a follower, which campaigns at its first step if it is the only voter, and replays its log
    /// when it knows what is committed.
    pub fn from_parts(config: NodeConfig, env: Env, parts: Parts<L, S>) -> Self {
        let Parts {
            identity,
            log,
            hard_state,
            memberships,
            cluster,
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
        let raft = Raft::new(&config.raft_config(id), start, &log);
        Self {
            identity,
            env,
            raft,
            raft_effects: Vec::new(),
            raft_next: VecDeque::new(),
            refusal: None,
            outbox: Outbox::default(),
            durable: Durable::new(log.last().0),
            fetches: Fetches::default(),
            sender: Sender::new(config.snapshot_rate),
            receiver: Receiver::default(),
            holds: Holds::default(),
            handover: None,
            introduction: None,
            introductions: 0,
            formation: Formation::default(),
            cluster,
            links: Vec::new(),
            broken: None,
            log,
            desk: Desk::new(config.max_queued_requests, config.max_queued_bytes),
            trace: TraceRing::new(TRACE_EVENTS),
            writes: Writes::default(),
            reads: Reads::default(),
            freshness: Freshness::default(),
            space: Space::default(),
            upkeep: Upkeep::default(),
            apply: apply::Progress::new(machine.applied().0),
            conditions: Conditions::default(),
            replicated,
            machine,
            phase: Phase::Running,
            moving: Moving::default(),
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
            Event::Peer { message, cluster, after } => {
                self.peer(now, message, cluster, after.min(now), out);
                Ok(())
            }
            Event::PeerUp(facts) => {
                self.peer_up(now, facts, out);
                Ok(())
            }
            Event::Begin { from, cluster, members } => {
                self.asked_to_begin(now, from, cluster, members, out);
                Ok(())
            }
            Event::PeerUnreachable(peer) => {
                self.peer_down(peer);
                self.step_raft(now, raft::Event::PeerUnreachable(peer), out);
                Ok(())
            }
            Event::BulkLinkLost(peer) => {
                self.snapshot_link_lost(now, peer, out);
                Ok(())
            }
            Event::Admin { origin, command, deadline } => {
                let arrival = Self::admin_arrival(now, origin, deadline);
                self.admin(now, &arrival, command, out);
                Ok(())
            }
            Event::Introduced { token, result } => {
                self.introduced(now, token, result, out);
                Ok(())
            }
            Event::Tick => self.tick(now, out),
            Event::EndOfTurn => self.end_of_turn(now, out),
            Event::Drain => {
                self.begin_drain(now, out);
                Ok(())
            }
        };
        self.check_handover(now, out);
        match self.broken.take().map_or(result, Err) {
            Ok(()) => self.drain(now, out),
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
        let timeout = self.config.raft.election_timeout_ns;
        let times = [
            self.has_runnable_work().then_some(Nanos::ZERO),
            // While the log is being closed raft is told nothing.
            (self.phase != Phase::Closing).then(|| self.raft.next_deadline()),
            Some(self.next_expiry_scan()),
            Some(self.space.next_check()),
            self.upkeep.next_wakeup(),
            self.reads.wire.next_expiry(),
            self.conditions.retry_at(),
            self.sender.next_deadline(timeout),
            self.receiver.next_deadline(timeout),
            self.holds.next_expiry(),
            self.moving.until().filter(|_| self.phase != Phase::Closing),
        ];
        times.into_iter().flatten().min().filter(|t| *t != Nanos::MAX)
    }

    /// The number of the log group that at most [`FEW_REQUESTS`] requests wait for; `None` when none is in flight, many
    /// wait, or there are other members. The driver may wait for it awake: putting a thread to sleep and waking it costs as
    /// much as a fast disk's sync. Among several a write waits for the network anyway; and where they share two cores,
    /// waiting awake tripled what a lone client waited (p50 0.33 ms without, 1.03 ms with).
    #[must_use]
    pub fn few_wait_for_log(&self) -> Option<u64> {
        let alone = self.raft.membership().members().nth(1).is_none();
        self.log.in_flight().filter(|_| alone && self.desk.queue().requests <= FEW_REQUESTS)
    }

    /// Whether reads are served, here, and writes, here or by the leader it knows: it has applied everything that was
    /// committed when it came up, and is not about to be replaced by a snapshot.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Running
            && self.apply.caught_up()
            && self.raft.leader().is_some()
            && !self.receiver.is_installing()
            && self.conditions.stuck().is_none()
    }

    /// Which life of which node it is.
    #[must_use]
    pub const fn replica(&self) -> ReplicaId {
        self.identity.replica()
    }

    /// The role.
    #[must_use]
    pub fn role(&self) -> Role {
        self.raft.role()
    }

    /// The cluster that it belongs to; none while it waits to form one or to be added.
    #[must_use]
    pub const fn cluster(&self) -> ClusterUid {
        self.cluster
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

    /// How many batches with conditions were judged, and by what.
    #[must_use]
    pub const fn condition_stats(&self) -> ConditionStats {
        self.conditions.stats
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
            Request::Members => Some(Response::Members(status::json(&self.members()))),
            _ if self.phase != Phase::Running && !self.waits_for_leader(arrival.opcode) => {
                Some(self.refuse_stopping(arrival.opcode))
            }
            Request::Admin(wanted) => return self.admin_request(now, &arrival, wanted, out),
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
                if batch.has_conditions() {
                    self.check_feature("conditions", Self::lacks_conditions)?;
                    if planted!(ConditionAtPropose)
                        && let Some(failed) = self.judge_too_early(&batch)
                    {
                        let at = ConditionFailed { failed, ..ConditionFailed::default() };
                        return Err(Response::Error(ErrorReply::condition_failed(at)));
                    }
                }
                self.check_range_deletes(&batch)?;
                let ticket = self.desk.admit(now, arrival)?;
                self.writes.add(ticket, batch);
            }
            Request::Get { key, snapshot } => {
                let ticket = self.desk.admit(now, arrival)?;
                self.reads.add(ticket, ReadWork::Get { key: key.into(), snapshot });
            }
            Request::StaleGet { key, snapshot } => {
                let ticket = self.desk.admit(now, arrival)?;
                self.reads.add_stale(ticket, ReadWork::Get { key: key.into(), snapshot });
            }
            Request::StaleScan(scan) => {
                let ticket = self.desk.admit(now, arrival)?;
                self.reads.add_stale(ticket, ReadWork::scan(&scan));
            }
            Request::MultiGet(request) => {
                let ticket = self.desk.admit(now, arrival)?;
                self.reads.add(ticket, ReadWork::multi_get(&request));
            }
            Request::StaleMultiGet(request) => {
                let ticket = self.desk.admit(now, arrival)?;
                self.reads.add_stale(ticket, ReadWork::multi_get(&request));
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
                self.check_feature("sessions", Self::lacks_sessions)?;
                let ticket = self.desk.admit(now, arrival)?;
                self.writes.add(ticket, batch);
            }
            Request::Hello(_)
            | Request::Ping
            | Request::Status
            | Request::Stats
            | Request::Members
            | Request::Admin(_) => {}
        }
        Ok(())
    }

    /// Refuses what a member may not know, as `lacks` says.
    fn check_feature(
        &mut self,
        what: &str,
        lacks: impl Fn(&Self) -> Option<Lack>,
    ) -> Result<(), Response> {
        let not_applied = proto::Effect::NotApplied;
        match lacks(self) {
            None => Ok(()),
            Some(Lack::Feature(old)) => {
                let message = format!("node {old} runs software without {what}: upgrade it");
                Err(admission::error(ErrorCode::BadRequest, not_applied, message))
            }
            Some(Lack::Unknown(member)) => {
                let message = format!(
                    "nobody in this cluster has used {what} yet, and whether the software of node {member} knows {what} is not \
                     known: it was not reached since this node started. Start it, or run beachctl member remove {}",
                    member.node
                );
                Err(self.desk.busy(not_applied, UNKNOWN_RETRY_MS, message))
            }
        }
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

    /// One event for raft, and its effects carried out. The caller kicks the log.
    fn step_raft(&mut self, now: Nanos, event: raft::Event, out: &mut Vec<Effect>) {
        self.raft_next.push_back(event);
        self.run_raft(now, out);
    }

    /// Tells raft what it is to be told, until there is nothing more. A log that is being closed takes nothing more, so
    /// raft then sees nothing more.
    fn run_raft(&mut self, now: Nanos, out: &mut Vec<Effect>) {
        while let Some(event) = self.raft_next.pop_front() {
            if self.phase == Phase::Closing {
                self.raft_next.clear();
                return;
            }
            let mut effects = std::mem::take(&mut self.raft_effects);
            self.raft.step(now, event, &self.log, &mut effects);
            for effect in effects.drain(..) {
                self.carry_out(now, effect, out);
            }
            self.raft_effects = effects;
        }
    }

    fn carry_out(&mut self, now: Nanos, effect: raft::Effect, out: &mut Vec<Effect>) {
        match effect {
            raft::Effect::Persist(persist) => {
                self.durable.submitted(&persist);
                let hard_state = persist.hard_state.map(|_| persist.io);
                self.log.submit(persist);
                if let Some(io) = hard_state {
                    self.hard_state_submitted(io);
                }
            }
            raft::Effect::Send { message, after } => {
                let made_in = match message.body {
                    Body::PreVote { .. } | Body::PreVoteReply { .. } => self.raft.term(),
                    _ => message.term,
                };
                self.outbox.send(message, after, made_in, out);
            }
            raft::Effect::Proposed { first, term } => self.writes.proposed(first, term),
            raft::Effect::ProposeRefused(refusal) => self.refusal = Some(refusal),
            // Its end is looked for after every event.
            raft::Effect::TransferStarted { .. } => self.leadership_moves(now),
            raft::Effect::Apply { through } => {
                self.apply.committed(now, through);
                if self.raft.role() == Role::Leader {
                    self.find_replay_target(through);
                }
            }
            raft::Effect::ReadReady { read, index } => self.reads.ready(read, Some(index)),
            raft::Effect::ReadRefused { read } => self.reads.ready(read, None),
            raft::Effect::RoleChange { role, term, .. } => self.role_changed(now, role, term),
            raft::Effect::Fetch { to, session, lo, hi, max_bytes } => {
                self.fetch((to, session), (lo, hi), max_bytes);
            }
            raft::Effect::SnapshotNeeded { to, session } => self.snapshot_needed(now, to, session),
            raft::Effect::SnapshotOver { to } => self.snapshot_over(now, to),
            raft::Effect::SnapshotAck { from, reply } => self.snapshot_acked(now, from, reply),
            raft::Effect::SnapshotChunk { from, chunk } => self.snapshot_chunk(now, from, chunk),
            raft::Effect::Trace(trace) => out.push(Effect::Observed(Observed::Raft(trace))),
            raft::Effect::Fatal { reason } => {
                let what = std::io::Error::other(reason);
                self.broken.get_or_insert_with(|| FatalError::new("raft", what));
            }
        }
    }

    fn role_changed(&mut self, now: Nanos, role: Role, term: Term) {
        self.trace.record(now, TraceEvent::RoleChange { term: term.0, role: role.name() });
        if role == Role::Leader {
            self.receiver.abandon();
            self.space.leads(now);
        } else {
            self.sender.clear();
            self.writes.leadership_lost();
        }
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
        self.step_raft(now, raft::Event::Tick, out);
        self.kick_log(now);
        self.check_space(now, out);
        self.tend_upkeep(now, out);
        self.tend_snapshots(now, out);
        self.tend_receiver(now);
        self.expire(now, out);
        self.look_for_freshness(now);
        self.retry_lookup(now);
        for seq in self.reads.wire.expire(now) {
            self.machine.release_snapshot(seq);
        }
        self.apply_committed(now, out)
    }

    /// Every job belongs to one of several owners; each takes its own and passes on the rest.
    fn job_done(
        &mut self,
        now: Nanos,
        done: Completion,
        out: &mut Vec<Effect>,
    ) -> Result<(), FatalError> {
        let Some(done) = self.log_done(now, done, out)? else {
            return self.apply_committed(now, out);
        };
        let Some(done) = self.machine_done(now, done, out)? else {
            return self.apply_committed(now, out);
        };
        let Some(done) = self.replay_done(now, done, out)? else {
            return self.apply_committed(now, out);
        };
        let Some(done) = self.lookup_done(now, done, out)? else {
            return self.apply_committed(now, out);
        };
        let Some(done) = self.space_done(now, done) else { return Ok(()) };
        let Some(done) = self.upkeep_done(now, done, out) else { return Ok(()) };
        let Some(done) = self.fetch_done(now, done, out) else { return Ok(()) };
        let Some(done) = self.snapshot_read_done(now, done, out) else { return Ok(()) };
        let Some(done) = self.snapshot_write_done(now, done, out) else { return Ok(()) };
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
            LogOutcome::Durable(group) => self.group_durable(now, &group, out),
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
        out: &mut Vec<Effect>,
    ) -> Result<Option<Completion>, FatalError> {
        match self.machine.job_done(done).map_err(|e| FatalError::new("the engine", e))? {
            MachineOutcome::NotMine(done) => return Ok(Some(done)),
            MachineOutcome::Nothing => {}
            MachineOutcome::Flushed { index, table, ns } => {
                if let Some((table, bytes)) = table {
                    self.trace.record(now, TraceEvent::Flush { table, bytes, ns });
                }
                self.replicated.release_members(index);
                self.release_log(out);
                self.apply.log_bytes_at_flush = u64::MAX;
                self.sender.wants_flush = false;
                self.start_snapshots(now);
                self.tend_upkeep(now, out);
                self.run_raft(now, out);
            }
            MachineOutcome::Installed { index, term, membership, rows } => {
                self.installed(now, (index, term), membership, &rows, out)?;
            }
            MachineOutcome::InstallFailed { reason } => self.install_failed(now, reason, out),
        }
        Ok(None)
    }
}

#[cfg(test)]
mod cluster_tests;
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
