//! The part of the command line that every target has in common, and what becomes of it: the workload before a run, the
//! report after it.
//!
//! `beach-loadgen` and `beach-loadgen-etcd` (a build of its own, `loadgen/peers`) both take these, so that a figure of one means
//! what the same figure of the other means.

use crate::driver::{Pace, RunSummary, Until};
use crate::report::{Asked, Report, write_json};
use crate::stats::Recorder;
use crate::workload::{Distribution, Mix, Workload, WorkloadOptions};
use beachdb::base::units::parse_duration;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How many clients of etcd share a connection when nobody says it.
/// Few are best for etcd on two cores: of 1, 4, 16, and 64 connections for 64 clients the last halved its throughput.
const CLIENTS_PER_CONN: usize = 64;

/// Settings of a run against any target.
#[derive(Clone, Debug, clap::Args)]
pub struct RunArgs {
    /// Servers; connections take them in turn, pass over what is down, and go to the leader where one is known
    #[arg(long, value_delimiter = ',', value_name = "HOST:PORT,…")]
    pub endpoints: Vec<String>,
    /// The mix of operations
    #[arg(long, default_value = "a", value_parser = parse_mix, value_name = "a|b|c|put|get|scan")]
    pub workload: Mix,
    /// Clients, each with a connection of its own (etcd: see --conns)
    #[arg(long, default_value_t = 16)]
    pub clients: usize,
    /// Requests in flight of each client
    #[arg(long, default_value_t = 1)]
    pub pipeline: usize,
    /// How long to measure
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    pub duration: Duration,
    /// How long to run before that
    #[arg(long, default_value = "2s", value_parser = parse_duration)]
    pub warmup: Duration,
    /// Number of keys
    #[arg(long, default_value_t = 100_000)]
    pub keys: u64,
    /// Bytes in a key
    #[arg(long, default_value_t = 16)]
    pub key_size: usize,
    /// Bytes in a value
    #[arg(long, default_value_t = 256)]
    pub value_size: usize,
    /// How keys are drawn [default: what the workload says]
    #[arg(long, value_enum)]
    pub distribution: Option<Distribution>,
    /// Entries asked for by a scan
    #[arg(long, default_value_t = 100)]
    pub scan_length: u32,
    /// Seed of all choices
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Write every key once before the warmup
    #[arg(long)]
    pub preload: bool,
    /// Deadline of each request
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    pub timeout: Duration,
    /// Write the report as JSON; - is stdout
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// No progress lines
    #[arg(long)]
    pub quiet: bool,
}

/// Settings that only etcd has: its connections are HTTP/2, which many clients share.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct EtcdArgs {
    /// etcd: HTTP/2 connections that the clients share [default: one for every 64 clients]
    #[arg(long)]
    pub conns: Option<usize>,
    /// etcd: connections go to all endpoints in turn, rather than all to the leader
    #[arg(long)]
    pub spread: bool,
}

impl EtcdArgs {
    /// Connections for this many clients.
    #[must_use]
    pub fn conns(&self, clients: usize) -> usize {
        self.conns.unwrap_or(clients.div_ceil(CLIENTS_PER_CONN)).clamp(1, clients.max(1))
    }
}

fn parse_mix(text: &str) -> Result<Mix, String> {
    if text.starts_with("ycsb-") {
        return Err(
            "the YCSB workloads are not built yet; there are a, b, c, put, get, scan".into()
        );
    }
    <Mix as clap::ValueEnum>::from_str(text, false)
        .map_err(|_| "expected one of a, b, c, put, get, scan".into())
}

impl RunArgs {
    /// What is wrong with them, as one line for the user.
    pub fn check(&self) -> Result<(), String> {
        let in_flight = beachdb::limits::MAX_CONNECTION_IN_FLIGHT;
        if self.clients == 0 || self.pipeline == 0 || self.pipeline > in_flight {
            return Err(format!("--clients must be at least 1 and --pipeline 1 to {in_flight}"));
        }
        if self.duration.is_zero() || self.timeout.is_zero() {
            return Err("--duration and --timeout must be above 0".into());
        }
        self.workload().map(|_| ())
    }

    /// The stream of operations, from its beginning.
    pub fn workload(&self) -> Result<Workload, String> {
        Workload::new(WorkloadOptions {
            mix: self.workload,
            distribution: self.distribution,
            keys: self.keys,
            key_size: self.key_size,
            value_size: self.value_size,
            seed: self.seed,
            preloaded: self.preload,
        })
    }

    /// The addresses of the servers; `default` when none was named.
    pub fn endpoints(&self, default: &str) -> Result<Vec<SocketAddr>, String> {
        let default = [default.to_owned()];
        let names: &[String] = if self.endpoints.is_empty() { &default } else { &self.endpoints };
        names
            .iter()
            .map(|name| {
                let mut found = name
                    .to_socket_addrs()
                    .map_err(|e| format!("--endpoints {name}: {e} (expected HOST:PORT)"))?;
                found.next().ok_or_else(|| format!("--endpoints {name}: no address"))
            })
            .collect()
    }

    /// When the measured part ends.
    #[must_use]
    pub const fn until(&self) -> Until {
        Until::Elapsed {
            warmup_ns: self.warmup.as_nanos() as u64,
            measure_ns: self.duration.as_nanos() as u64,
        }
    }

    /// Says on stderr that a workload of reads finds nothing without `--preload`, when that is so.
    pub fn note_missing_preload(&self) {
        if !self.preload && self.workload.wants_preload() {
            eprintln!("note: this workload reads keys that must exist; --preload writes them");
        }
    }

    /// Prints the report of a finished run and writes it where `--json` says; returns whether it is valid.
    pub fn deliver(
        &self,
        target: &str,
        pace: Pace,
        recorder: &Recorder,
        summary: &RunSummary,
    ) -> Result<bool, String> {
        let asked = Asked {
            target: target.into(),
            workload: self.workload,
            distribution: self.distribution.unwrap_or(self.workload.default_distribution()),
            clients: self.clients,
            pipeline: self.pipeline,
            rate: match pace {
                Pace::Open { rate } => Some(rate),
                Pace::Closed => None,
            },
            keys: self.keys,
            key_size: self.key_size,
            value_size: self.value_size,
            seed: self.seed,
            preload: self.preload,
            warmup_s: self.warmup.as_secs_f64(),
            duration_s: self.duration.as_secs_f64(),
        };
        let report = Report::new(asked, pace, recorder, summary);
        if self.json.as_deref() != Some(Path::new("-")) {
            print!("{}", report.to_text());
        }
        if let Some(path) = &self.json {
            write_json(path, &report)?;
        }
        Ok(report.valid())
    }
}
