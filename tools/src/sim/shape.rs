//! What kind of world a seed makes: timings, limits, latencies, and which faults there are. Everything a run needs
//! to know before it begins follows from [`RunOptions`] alone.

use super::net::Quality;
use beachdb::engine::CompactionOptions;
use beachdb::env::sim::SimRandom;

/// Most nodes of a simulated cluster.
pub const MAX_NODES: usize = 7;

const MS: u64 = 1_000_000;
/// Longest run in which nodes are recovered: all that matters happens while clusters form.
const RECOVERS_MINUTES: f64 = 0.3;

/// How the cluster of a run begins.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    Debug,
    Default,
    clap::ValueEnum,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Begin {
    /// Every node is told who the first members are, and messages need no connections.
    #[default]
    Given,
    /// The nodes are blank and form it (`--initial-cluster`), over connections that come and go ([`super::links`]).
    Forms,
    /// The same, and an operator makes a cluster of its own of a node or two ([`super::recover`]); without clients, and
    /// short.
    Recovers,
}

impl Begin {
    /// Whether it is the one that is not said.
    #[must_use]
    pub fn is_given(&self) -> bool {
        *self == Self::Given
    }
}

/// What the user chose.
#[derive(Clone, PartialEq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunOptions {
    /// The seed.
    pub seed: u64,
    /// Nodes, 1 to 7.
    pub nodes: usize,
    /// Virtual minutes with faults; the end of a run (liveness, convergence) comes on top.
    pub minutes: f64,
    /// How the cluster begins.
    #[serde(default, skip_serializing_if = "Begin::is_given")]
    pub begin: Begin,
}

impl RunOptions {
    /// A cluster that is given its members.
    #[must_use]
    pub const fn given(seed: u64, nodes: usize, minutes: f64) -> Self {
        Self { seed, nodes, minutes, begin: Begin::Given }
    }

    /// Virtual time until faults stop.
    #[must_use]
    pub fn duration_ns(&self) -> u64 {
        let minutes = match self.begin {
            Begin::Recovers => self.minutes.min(RECOVERS_MINUTES),
            Begin::Given | Begin::Forms => self.minutes,
        };
        (minutes * 60e9) as u64
    }
}

/// See the module.
#[derive(Clone, PartialEq, Debug)]
pub struct Shape {
    /// The shortest election timeout.
    pub election_timeout_ns: u64,
    /// The heartbeat's interval.
    pub heartbeat_ns: u64,
    /// The links.
    pub quality: Quality,
    /// Latency between clients and nodes.
    pub client_delay: (u64, u64),
    /// Time of one job of the log: write and sync.
    pub log_delay: (u64, u64),
    /// Time of any other job.
    pub job_delay: (u64, u64),
    /// Time of a turn of the loop.
    pub turn_cost: (u64, u64),
    /// Limits of the nodes, tiny, so that the rare things happen all the time.
    pub memtable_bytes: usize,
    /// As in `NodeConfig`.
    pub segment_bytes: u64,
    /// As in `NodeConfig`.
    pub log_bytes_before_flush: u64,
    /// As in `NodeConfig`.
    pub log_tail_entries: u64,
    /// As in `NodeConfig`.
    pub snapshot_chunk_bytes: usize,
    /// Most appends in flight to one follower.
    pub max_inflight_messages: usize,
    /// Most payload bytes in one append.
    pub max_append_bytes: usize,
    /// Each clock's rate: at most this much off, in millionths.
    pub clock_drift_ppm: u64,
    /// Whether reads may use a lease.
    pub lease: bool,
    /// Sessions at once; few, so that they are evicted.
    pub max_sessions: usize,
    /// As in `raft::Config`.
    pub max_uncommitted_bytes: usize,
    /// Levels and tables of a few keys each, so that there is always something to compact.
    pub compaction: CompactionOptions,
}

fn pick<T: Copy>(random: &mut SimRandom, from: &[T]) -> T {
    from[random.below(from.len() as u64) as usize]
}

impl Shape {
    /// The shape of a seed.
    #[must_use]
    pub fn of(random: &mut SimRandom) -> Self {
        let election = pick(random, &[500, 1_000, 1_000, 2_000]) * MS;
        let delay_max = pick(random, &[MS / 2, 2 * MS, 5 * MS, 30 * MS]);
        let rough = random.chance(1, 2);
        let odds =
            |random: &mut SimRandom, on: bool, max: u64| if on { random.below(max) } else { 0 };
        let lossy = rough && random.chance(1, 2);
        let copying = rough && random.chance(1, 2);
        let stalling = rough && random.chance(1, 2);
        let quality = Quality {
            loss_ppm: odds(random, lossy, 50_000),
            duplicate_ppm: odds(random, copying, 50_000),
            slow_ppm: odds(random, stalling, 20_000),
            delay_min: delay_max / 10,
            delay_max,
            delay_slow: election + random.below(election),
            reorder: random.chance(1, 2),
        };
        let log_max = pick(random, &[MS / 10, MS, 5 * MS]);
        Self {
            election_timeout_ns: election,
            heartbeat_ns: election / pick(random, &[4, 5, 8]),
            quality,
            client_delay: (MS / 20, pick(random, &[MS / 2, 3 * MS])),
            log_delay: (log_max / 10, log_max),
            job_delay: (MS / 10, pick(random, &[MS, 10 * MS, 100 * MS])),
            turn_cost: (5_000, pick(random, &[20_000, 100_000, MS])),
            memtable_bytes: pick(random, &[32 << 10, 64 << 10, 256 << 10]),
            segment_bytes: pick(random, &[8 << 10, 16 << 10, 64 << 10]),
            log_bytes_before_flush: pick(random, &[32 << 10, 64 << 10, 256 << 10]),
            log_tail_entries: pick(random, &[0, 10, 100, 1_000]),
            snapshot_chunk_bytes: pick(random, &[1 << 10, 4 << 10, 64 << 10]),
            max_inflight_messages: pick(random, &[1, 2, 4, 16]),
            max_append_bytes: pick(random, &[256, 4 << 10, 64 << 10]),
            clock_drift_ppm: pick(random, &[0, 100, 10_000, 50_000]),
            lease: random.chance(1, 4),
            max_sessions: pick(random, &[3, 4, 8]),
            max_uncommitted_bytes: pick(random, &[4 << 10, 64 << 10, 64 << 20]),
            compaction: CompactionOptions {
                automatic: true,
                table_bytes: pick(random, &[256, 1 << 10, 64 << 10]),
                base_bytes: pick(random, &[512, 4 << 10, 64 << 10]),
                l0_tables: pick(random, &[1, 2, 4]),
                min_age: pick(random, &[10, 500, 1 << 20]),
            },
        }
    }
}

/// A number in the range, both ends included.
pub fn between(random: &mut SimRandom, (low, high): (u64, u64)) -> u64 {
    low + random.below(high.saturating_sub(low) + 1)
}
