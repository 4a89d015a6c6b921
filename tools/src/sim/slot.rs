//! A place for a node: its machine (disk, clock, lanes of jobs) and, while it is up, the process on it.

use super::hooks::{SimNode, SlotState, SlotView};
use super::links::Hello;
use super::shape::{Shape, between};
use beachdb::base::{ClusterUid, Membership, Nanos, NodeId, ReplicaId};
use beachdb::env::sim::{CrashKind, SimClock, SimDisk, SimHandles, SimJobs, SimRandom};
use beachdb::env::{Completion, Env, Jobs, Lane, Random};
use beachdb::node::{Admin, Bootstrap, NodeConfig, Origin, PeerFacts};
use beachdb::raft::Message;
use std::collections::VecDeque;
use std::path::PathBuf;

/// The name of every simulated cluster.
pub const CLUSTER: &str = "sim";

/// What waits for the node's next turn.
#[expect(missing_docs, reason = "the variants say it")]
pub enum Item {
    /// A request, as the bytes of its frame.
    Request { conn: u64, frame: Vec<u8> },
    /// A connection broke.
    Closed { conn: u64 },
    /// A message of a peer, which said that it is of this cluster.
    Peer { message: Box<Message>, cluster: ClusterUid },
    /// A peer dials.
    Hello(Hello),
    /// A peer says what it is.
    Facts { session: u64, facts: PeerFacts },
    /// A peer says with whom its cluster began.
    Begin { from: ReplicaId, cluster: ClusterUid, members: Membership },
    /// The connection to a peer broke.
    Unreachable(ReplicaId),
    /// A connection to a peer is up.
    Up(Box<PeerFacts>),
    /// A command of the operator.
    Admin { origin: Origin, command: Admin, deadline_ms: u64 },
    /// A finished job.
    Job(Completion),
    /// SIGTERM.
    Drain,
}

/// The node's own clock: `local = origin + (virtual - since) * rate`.
#[derive(Clone, Copy, Debug)]
pub struct LocalClock {
    since: Nanos,
    origin: Nanos,
    /// How fast it runs, in millionths.
    rate_ppm: u64,
}

impl LocalClock {
    const UNIT: u128 = 1_000_000;

    /// One that shows `origin` at `now`.
    #[must_use]
    pub const fn new(now: Nanos, origin: Nanos, rate_ppm: u64) -> Self {
        Self { since: now, origin, rate_ppm }
    }

    /// What it shows at virtual time `now`.
    #[must_use]
    pub fn local(&self, now: Nanos) -> Nanos {
        let passed = u128::from(now.since(self.since)) * u128::from(self.rate_ppm) / Self::UNIT;
        self.origin.plus(u64::try_from(passed).unwrap_or(u64::MAX))
    }

    /// The first virtual time at which it shows at least `local`.
    #[must_use]
    pub fn when(&self, local: Nanos) -> Nanos {
        let wanted = u128::from(local.since(self.origin)) * Self::UNIT;
        let passed = wanted.div_ceil(u128::from(self.rate_ppm));
        self.since.plus(u64::try_from(passed).unwrap_or(u64::MAX))
    }

    /// Another rate from `now` on.
    pub fn set_rate(&mut self, now: Nanos, rate_ppm: u64) {
        *self = Self { since: now, origin: self.local(now), rate_ppm };
    }

    /// A jump forward.
    pub fn jump(&mut self, ns: u64) {
        self.origin = self.origin.plus(ns);
    }
}

/// One lane of jobs.
#[derive(Clone, Copy, Debug, Default)]
pub struct LaneState {
    /// Jobs that have a time to run or to be reported. At most one but for reads.
    pub busy: usize,
    /// Nothing runs before this.
    pub hung_until: Nanos,
}

/// What the operator wants of a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Goal {
    /// To be a voter.
    In,
    /// Not to be a member, until then.
    Out(Nanos),
}

/// How whole a slot's data is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Health {
    /// All that was synced is there.
    Whole,
    /// Bits were flipped; it may refuse to start, fail reads, or stop.
    Rotten,
    /// It is another incarnation, on its way back into the cluster.
    Returning,
}

/// What to do when a planned crash strikes.
#[derive(Clone, Copy, Debug)]
pub struct CrashPlan {
    /// What dies.
    pub kind: CrashKind,
    /// For how long.
    pub down_ms: u64,
}

/// See the module.
pub struct Slot {
    /// From 0.
    pub number: usize,
    /// Who lives here.
    pub replica: ReplicaId,
    /// Goes up with every start.
    pub life: u64,
    /// What it does.
    pub state: SlotState,
    /// The node, while it is up.
    pub node: Option<SimNode>,
    /// The disk.
    pub disk: SimDisk,
    /// The data directory.
    pub dir: PathBuf,
    /// The clock.
    pub clock: LocalClock,
    /// The same, as the node's environment sees it.
    pub sim_clock: SimClock,
    /// The lanes.
    pub jobs: SimJobs,
    /// What the lanes are doing.
    pub lanes: [LaneState; Lane::ALL.len()],
    /// Every job takes this many times as long, until then.
    pub slow: (u64, Nanos),
    /// What waits for the next turn.
    pub inbox: VecDeque<Item>,
    /// When the next turn is planned.
    pub turn_at: Option<Nanos>,
    /// The loop works until then.
    pub busy_until: Nanos,
    /// When the next wake-up is planned.
    pub wake_at: Option<Nanos>,
    /// What a planned crash of the disk means.
    pub crash_plan: Option<CrashPlan>,
    /// The same for a process that is not there yet: the change (counted from the start) and the plan.
    pub crash_on_start: Option<(u64, CrashPlan)>,
    /// Its disk has a limit at the moment.
    pub cramped: bool,
    /// A failure of its disk was injected and has not shown itself: it may stop itself.
    pub excused: bool,
    /// It stays down until somebody says otherwise (the end of the run).
    pub held_down: bool,
    /// How whole its data is.
    pub health: Health,
    /// What the operator wants.
    pub goal: Goal,
    /// Whether the node of the next start joins a cluster that exists.
    pub joins: bool,
    /// The cluster that was made of it.
    pub recovered: Option<ClusterUid>,
    random: SimRandom,
}

impl Slot {
    /// A machine without a process, and an empty disk.
    #[must_use]
    pub fn new(number: usize, incarnation: u64, random: &mut SimRandom) -> Self {
        let mut random = random.fork();
        let sim_clock = SimClock::new();
        Self {
            number,
            replica: ReplicaId { node: NodeId(number as u64 + 1), incarnation },
            life: 0,
            state: SlotState::Down,
            node: None,
            disk: new_disk(random.next_u64()),
            dir: PathBuf::from("data"),
            clock: LocalClock::new(Nanos::ZERO, Nanos::ZERO, 1_000_000),
            jobs: SimJobs::new(sim_clock.clone(), random.next_u64()),
            sim_clock,
            lanes: Default::default(),
            slow: (1, Nanos::ZERO),
            inbox: VecDeque::new(),
            turn_at: None,
            busy_until: Nanos::ZERO,
            wake_at: None,
            crash_plan: None,
            crash_on_start: None,
            cramped: false,
            excused: false,
            held_down: false,
            health: Health::Whole,
            goal: Goal::In,
            joins: false,
            recovered: None,
            random,
        }
    }

    /// What observers see.
    #[must_use]
    pub fn view(&self) -> SlotView<'_> {
        SlotView {
            slot: self.number,
            replica: self.replica,
            life: self.life,
            state: self.state,
            node: self.node.as_ref(),
            disk: &self.disk,
            dir: &self.dir,
        }
    }

    /// Whether there is a process (running or paused).
    #[must_use]
    pub const fn is_up(&self) -> bool {
        self.node.is_some()
    }

    /// A new process's environment: its own lanes, a clock with an origin of its own, the disk as it is.
    pub fn boot(&mut self, now: Nanos, drift_ppm: u64) -> Env {
        self.life += 1;
        let rate = 1_000_000 - drift_ppm + self.random.below(2 * drift_ppm + 1);
        let origin = Nanos(self.random.below(3_600_000_000_000));
        self.clock = LocalClock::new(now, origin, rate);
        self.sim_clock = SimClock::new();
        self.sim_clock.advance_to(origin);
        self.jobs = SimJobs::new(self.sim_clock.clone(), self.random.next_u64());
        self.lanes = Default::default();
        self.inbox.clear();
        self.turn_at = None;
        self.wake_at = None;
        self.busy_until = now;
        self.env()
    }

    /// The environment of the process that runs, or ran last.
    #[must_use]
    pub fn env(&self) -> Env {
        SimHandles {
            clock: self.sim_clock.clone(),
            disk: self.disk.clone(),
            jobs: self.jobs.clone(),
        }
        .env()
    }

    /// The settings of the next process.
    pub fn config(&mut self, shape: &Shape, bootstrap: Bootstrap) -> NodeConfig {
        let mut config =
            NodeConfig::new(&self.dir, CLUSTER, self.replica.node, self.replica.incarnation);
        config.memtable_bytes = shape.memtable_bytes;
        config.compaction = shape.compaction;
        config.segment_bytes = shape.segment_bytes;
        config.log_bytes_before_flush = shape.log_bytes_before_flush;
        config.log_tail_entries = shape.log_tail_entries;
        config.snapshot_chunk_bytes = shape.snapshot_chunk_bytes;
        config.reserve_bytes = 2 * shape.segment_bytes + shape.memtable_bytes as u64;
        config.max_queued_requests = 4_096;
        config.max_queued_bytes = 4 << 20;
        config.seed = self.random.next_u64();
        config.snapshot_rate =
            [None, Some(256 << 10), Some(1 << 20), Some(4 << 20)][(config.seed >> 62) as usize];
        config.bootstrap = bootstrap;
        config.raft.heartbeat_ns = shape.heartbeat_ns;
        config.raft.election_timeout_ns = shape.election_timeout_ns;
        config.raft.max_inflight_messages = shape.max_inflight_messages;
        config.raft.max_append_bytes = shape.max_append_bytes;
        config.raft.max_uncommitted_bytes = shape.max_uncommitted_bytes;
        config.max_sessions = shape.max_sessions;
        // A node may assume twice what a clock is off: one is fast, the other slow.
        let drift = u32::try_from(2 * shape.clock_drift_ppm + 1_000).unwrap_or(u32::MAX);
        config.raft.lease_drift_ppm = shape.lease.then_some(drift);
        config.observe = true;
        config
    }

    /// How long the next job of `lane` takes. A slow disk is slow until its time is over, also for what it has begun.
    pub fn job_delay(&mut self, now: Nanos, lane: Lane, shape: &Shape) -> u64 {
        let range = if lane == Lane::Log { shape.log_delay } else { shape.job_delay };
        let usual = between(&mut self.random, range);
        let (factor, until) = self.slow;
        let at_most = until.since(now).saturating_add(usual);
        if now < until { usual.saturating_mul(factor).min(at_most) } else { usual }
    }

    /// How long a turn takes.
    pub fn turn_cost(&mut self, shape: &Shape) -> u64 {
        between(&mut self.random, shape.turn_cost)
    }

    /// The process is gone, with everything that was in its memory.
    pub fn kill(&mut self) {
        self.node = None;
        self.jobs.abandon();
        self.inbox.clear();
        self.turn_at = None;
        self.wake_at = None;
        self.state = SlotState::Down;
        self.crash_plan = None;
    }

    /// Runs the next job of a lane; its completion, if there was one.
    pub fn run_job(&mut self, now: Nanos, lane: Lane) -> Option<Completion> {
        self.sim_clock.advance_to(self.clock.local(now));
        if !self.jobs.run_lane(lane) {
            return None;
        }
        let mut done = Vec::with_capacity(1);
        self.jobs.poll(&mut done);
        debug_assert_eq!(done.len(), 1, "one job at a time");
        done.pop()
    }
}

/// An empty disk that does not remember its operations: nobody would read them.
#[must_use]
pub fn new_disk(seed: u64) -> SimDisk {
    let disk = SimDisk::new(seed);
    disk.forget_operations();
    disk
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_of_any_rate_reaches_a_time_exactly_when_it_says() {
        for rate in [900_000, 999_999, 1_000_000, 1_000_001, 1_100_000] {
            let mut clock = LocalClock::new(Nanos(5_000), Nanos(77), rate);
            for ahead in [1, 10, 12_345, 1_000_000_007] {
                let local = Nanos(77 + ahead);
                let when = clock.when(local);
                assert!(clock.local(when) >= local, "{rate} {ahead}");
                assert!(clock.local(Nanos(when.0 - 1)) < local, "{rate} {ahead}");
            }
            let now = Nanos(9_999_999);
            let before = clock.local(now);
            clock.set_rate(now, 1_000_000);
            assert_eq!(clock.local(now), before);
            clock.jump(50);
            assert_eq!(clock.local(now), before.plus(50));
        }
    }
}
