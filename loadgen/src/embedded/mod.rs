//! `beach-bench`: an embedded engine, one calling thread, the customary workloads.
//!
//! | workload | starts from | one operation |
//! |---|---|---|
//! | `fillseq` `fillrandom` | an empty directory | put, each key once, in order or shuffled, no sync |
//! | `fillsync` | an empty directory | put with a sync each; a hundredth of `--num` |
//! | `fillbatchsync` | an empty directory | a batch of 100 puts with one sync; counted as 100 puts, timed as one |
//! | `overwrite` | what is there | put of a random existing key, no sync |
//! | `readrandom` `readmissing` | what is there | get of a random existing key, or of its missing neighbour |
//! | `readseq` | what is there | one key of a scan over everything; timed by 1,000 keys |
//! | `seekrandom` | what is there | scan of 100 keys from a random one |
//! | `deleterandom` | what is there | delete of a random key, no sync |
//! | `reopen` | what is there, closed | open and get one key |
//! | `filteronly` | nothing | what the house's bloom filter alone takes of `readmissing`: hash a missing key and ask one filter |
//!
//! "What is there" is what the workload before left; when that is nothing, all keys are filled in shuffled order
//! and settled first, unmeasured. Results are checked: a read that finds the wrong thing fails the run.
//!
//! Behind every workload that writes the engine is settled ([`Engine::settle`]): outside `ops_s` and the latencies, but
//! inside all that it costs, and what follows reads tables.
//!
//! - `write_amp`: bytes the process wrote to storage (`/proc/self/io`, log, its zero-filled segments, and tables
//!   together) per byte of keys and values written. `table_write_amp`: what flushes and compactions wrote of it, by the engine's own count.
//! - `read_amp`: bytes read through system calls, cached by the kernel or not, per byte of keys and values returned.
//! - `space_amp`: bytes in the directory per byte of live keys and values.
//! - `cpu_us`: processor time of all threads for one operation, this program's own included (about 0.1 µs).
//! - `raw_*`: append + fdatasync of as many bytes, before and behind the workload, in the same directory: what syncs cost in that minute.
//!
//! ```text
//!   run ──▶ Bench (the workloads) ──▶ Engine ◀── Beachdb | loadgen/engines: RocksDB, fjall, redb
//!            └▶ Order (which key)  └▶ process (/proc)
//! ```

mod bench;
pub mod engine;
pub mod order;
pub mod process;

pub use bench::run;
pub use engine::{Beachdb, Compression, Engine, EngineOptions, Pairs};

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A workload of the embedded benchmark.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum BenchWorkload {
    /// Put every key once, in order
    FillSeq,
    /// Put every key once, shuffled
    FillRandom,
    /// Put random existing keys
    Overwrite,
    /// Put with a sync each
    FillSync,
    /// Batches of 100 puts, one sync each
    FillBatchSync,
    /// Get random existing keys
    ReadRandom,
    /// Get keys that are not there
    ReadMissing,
    /// Scan everything
    ReadSeq,
    /// Scan 100 keys from a random one
    SeekRandom,
    /// Delete random keys
    DeleteRandom,
    /// Open what is there
    Reopen,
    /// Ask the house's bloom filter alone for missing keys
    FilterOnly,
}

impl BenchWorkload {
    /// The name in reports.
    #[must_use]
    pub fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    const fn starts_empty(self) -> bool {
        matches!(self, Self::FillSeq | Self::FillRandom | Self::FillSync | Self::FillBatchSync)
    }

    const fn writes(self) -> bool {
        self.starts_empty() || matches!(self, Self::Overwrite | Self::DeleteRandom)
    }

    const fn needs_keys(self) -> bool {
        !self.starts_empty() && !matches!(self, Self::FilterOnly)
    }
}

/// What becomes of the directory at the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Leave {
    /// Closed and removed.
    Nothing,
    /// Closed and kept.
    Closed,
    /// Synced, not closed: the caller must end the process with [`process::exit_at_once`].
    Open,
}

/// Settings of the embedded benchmark.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BenchOptions {
    /// What to run, in order.
    pub workloads: Vec<BenchWorkload>,
    /// Keys.
    pub num: u64,
    /// Operations of the read workloads; `None` = `num`.
    pub reads: Option<u64>,
    /// Operations of `overwrite` and `deleterandom`; `None` = `num`.
    pub writes: Option<u64>,
    /// Bytes in a key.
    pub key_size: usize,
    /// Bytes in a value.
    pub value_size: usize,
    /// Where the database is made; must be empty or missing at first, unless `existing`.
    pub dir: PathBuf,
    /// Seed of all choices.
    pub seed: u64,
    /// The engine's settings.
    pub engine: EngineOptions,
    /// The directory holds all keys, from an earlier run with the same `num` and sizes.
    pub existing: bool,
    /// Whether writes are settled.
    pub settle: bool,
    /// What becomes of the directory.
    pub leave: Leave,
}

/// The result of one workload, one JSON object each.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct BenchResult {
    /// The engine's name.
    pub engine: String,
    /// The workload.
    pub workload: BenchWorkload,
    /// Operations.
    pub ops: u64,
    /// Operations per second, settling not counted.
    pub ops_s: f64,
    /// Median latency.
    pub p50_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
    /// 99.9th percentile.
    pub p999_us: f64,
    /// Longest latency: of a fill, the worst pause.
    pub max_us: f64,
    /// Processor time for one operation, settling included.
    pub cpu_us: f64,
    /// How long settling took.
    pub settle_ms: f64,
    /// See the module.
    pub write_amp: Option<f64>,
    /// See the module.
    pub table_write_amp: Option<f64>,
    /// See the module.
    pub read_amp: Option<f64>,
    /// See the module.
    pub space_amp: Option<f64>,
    /// Bytes in the directory at the end.
    pub disk_bytes: u64,
    /// Resident memory at the end.
    pub rss_bytes: u64,
    /// Most resident memory in the course of it.
    pub peak_rss_bytes: u64,
    /// Append + fdatasync on a zero-filled file; only of workloads that sync.
    pub raw_zero_filled_ops_s: Option<f64>,
    /// The same on a growing file.
    pub raw_growing_ops_s: Option<f64>,
}

impl BenchResult {
    /// The line above the lines of [`BenchResult::to_text`].
    #[must_use]
    pub fn text_header() -> String {
        format!(
            "{:<14}{:>10}{:>12}{:>9}{:>9}{:>10}{:>8}{:>8}{:>8}{:>8}{:>10}{:>9}{:>9}",
            "workload",
            "ops",
            "ops/s",
            "p50 us",
            "p99 us",
            "max us",
            "cpu us",
            "w-amp",
            "r-amp",
            "s-amp",
            "disk MiB",
            "rss MiB",
            "peak MiB"
        )
    }

    /// One line of a table.
    #[must_use]
    pub fn to_text(&self) -> String {
        let amp = |a: Option<f64>| a.map_or_else(|| "-".into(), |a| format!("{a:.2}"));
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        format!(
            "{:<14}{:>10}{:>12.0}{:>9.1}{:>9.1}{:>10.1}{:>8.2}{:>8}{:>8}{:>8}{:>10.1}{:>9.1}{:>9.1}",
            self.workload.name(),
            self.ops,
            self.ops_s,
            self.p50_us,
            self.p99_us,
            self.max_us,
            self.cpu_us,
            amp(self.write_amp),
            amp(self.read_amp),
            amp(self.space_amp),
            mib(self.disk_bytes),
            mib(self.rss_bytes),
            mib(self.peak_rss_bytes)
        )
    }

    /// One JSON object on one line.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers and names are valid JSON")
    }
}
