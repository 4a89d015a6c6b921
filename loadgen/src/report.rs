//! The report of a run: verdict, figures, and the environment they were measured in.
//!
//! JSON schema 1 (`--json`), fields only ever added:
//!
//! ```text
//! {"schema":1, "valid":bool, "reasons":[why not…], "warnings":[…],
//!  "target":"beachd", "workload":"a", "distribution":"uniform", "clients":N, "pipeline":N, "rate":null|ops_s,
//!  "keys":N, "key_size":N, "value_size":N, "seed":N, "preload":bool, "warmup_s":x, "duration_s":x,
//!  "throughput_ops_s":x,                      successes only
//!  "ops":{"put":{"count":N,"mean_us":x,"p50_us":x,"p90_us":x,"p99_us":x,"p999_us":x,"max_us":x},…},
//!  "not_found":N,                             gets that found nothing: successes
//!  "errors":{"busy":N,"deadline":N,"not_leader":N,"unknown":N,"conn":N,"proto":N,"refused":N}, "first_error":null|text,
//!  "sent_share":x, "max_lag_us":x, "client_cpu":x, "reconnects":N,
//!  "environment":{"commit","cpu","cores","kernel","filesystem","memory_bytes","load_average","command","unix_seconds"}}
//! ```
#![expect(clippy::disallowed_methods, reason = "reads /proc for the environment block")]

use crate::clock;
use crate::driver::{Pace, RunSummary};
use crate::stats::{Errors, Percentiles, Recorder};
use crate::workload::{Distribution, Mix, OpKind};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

/// An open loop that sent less of its schedule than this is not valid.
const SENT_SHARE_MIN: f64 = 0.99;
/// A client thread busier than this is named in a warning.
const CLIENT_CPU_MAX: f64 = 0.9;

/// What the run was asked to do, as it goes into the report.
#[derive(Clone, Debug, Serialize)]
pub struct Asked {
    /// `beachd`, `redis`, or `etcd`.
    pub target: String,
    /// The mix of operations.
    pub workload: Mix,
    /// How keys were drawn.
    pub distribution: Distribution,
    /// Connections.
    pub clients: usize,
    /// Requests in flight on each.
    pub pipeline: usize,
    /// Open loop: operations per second.
    pub rate: Option<f64>,
    /// Number of keys.
    pub keys: u64,
    /// Bytes in a key.
    pub key_size: usize,
    /// Bytes in a value.
    pub value_size: usize,
    /// Seed of the operations.
    pub seed: u64,
    /// Whether all keys were written first.
    pub preload: bool,
    /// Seconds not measured.
    pub warmup_s: f64,
    /// Seconds measured.
    pub duration_s: f64,
}

/// The machine and the program.
#[derive(Clone, Debug, Serialize)]
pub struct Environment {
    /// The repository's commit, `+changes` when files differ from it; `unknown` outside a repository.
    pub commit: String,
    /// The processor.
    pub cpu: String,
    /// Its cores.
    pub cores: usize,
    /// The kernel's version.
    pub kernel: String,
    /// The file system of the working directory.
    pub filesystem: String,
    /// Memory of the machine.
    pub memory_bytes: u64,
    /// The load average when the report was made: more than the run itself explains means noise.
    pub load_average: String,
    /// The command line.
    pub command: String,
    /// When the report was made.
    pub unix_seconds: u64,
}

/// One report; see the module's schema.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    schema: u32,
    valid: bool,
    reasons: Vec<String>,
    warnings: Vec<String>,
    #[serde(flatten)]
    asked: Asked,
    throughput_ops_s: f64,
    ops: BTreeMap<&'static str, Percentiles>,
    not_found: u64,
    errors: Errors,
    first_error: Option<String>,
    sent_share: f64,
    max_lag_us: f64,
    client_cpu: f64,
    reconnects: u64,
    environment: Environment,
}

impl Report {
    /// Judges a finished run.
    #[must_use]
    pub fn new(asked: Asked, pace: Pace, recorder: &Recorder, summary: &RunSummary) -> Self {
        let ops = OpKind::ALL
            .iter()
            .filter(|kind| !recorder.latencies(**kind).is_empty())
            .map(|kind| (kind.name(), Percentiles::of(recorder.latencies(*kind))))
            .collect();
        let reasons = reasons(pace, recorder, summary);
        Self {
            schema: 1,
            valid: reasons.is_empty(),
            reasons,
            warnings: warnings(recorder, summary),
            asked,
            throughput_ops_s: recorder.throughput().round(),
            ops,
            not_found: recorder.not_found(),
            errors: *recorder.errors(),
            first_error: recorder.first_error().map(str::to_owned),
            sent_share: summary.sent_share(),
            max_lag_us: summary.max_lag_ns as f64 / 1e3,
            client_cpu: (summary.client_cpu * 1e3).round() / 1e3,
            reconnects: summary.reconnects,
            environment: Environment::read(),
        }
    }

    /// Whether the figures mean what they say.
    #[must_use]
    pub const fn valid(&self) -> bool {
        self.valid
    }

    /// Successful operations per second.
    #[must_use]
    pub const fn throughput(&self) -> f64 {
        self.throughput_ops_s
    }

    /// As text for a terminal.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        self.write_text(&mut text).expect("writing to memory");
        text
    }

    fn write_text(&self, out: &mut String) -> std::fmt::Result {
        let a = &self.asked;
        let loop_kind = match a.rate {
            Some(rate) => format!("open loop, {rate} op/s, latency from the intended send time"),
            None => "closed loop".into(),
        };
        writeln!(
            out,
            "{} workload {}, {} clients x {} in flight, {loop_kind}\n\
             {} keys of {} B, values of {} B, {:?}, seed {}, {} s after {} s of warmup",
            a.target,
            format!("{:?}", a.workload).to_lowercase(),
            a.clients,
            a.pipeline,
            a.keys,
            a.key_size,
            a.value_size,
            a.distribution,
            a.seed,
            a.duration_s,
            a.warmup_s
        )?;
        writeln!(out, "throughput {:.0} op/s", self.throughput_ops_s)?;
        writeln!(
            out,
            "{:<6}{:>12}{:>12}{:>12}{:>12}{:>12}{:>12}",
            "us", "count", "p50", "p90", "p99", "p99.9", "max"
        )?;
        for (name, p) in &self.ops {
            writeln!(
                out,
                "{name:<6}{:>12}{:>12.1}{:>12.1}{:>12.1}{:>12.1}{:>12.1}",
                p.count, p.p50_us, p.p90_us, p.p99_us, p.p999_us, p.max_us
            )?;
        }
        if self.not_found > 0 {
            writeln!(out, "{} reads found nothing", self.not_found)?;
        }
        let e = &self.errors;
        writeln!(
            out,
            "errors {}: busy {} deadline {} not_leader {} unknown {} conn {} proto {} refused {}",
            e.total(),
            e.busy,
            e.deadline,
            e.not_leader,
            e.unknown,
            e.conn,
            e.proto,
            e.refused
        )?;
        if let Some(first) = &self.first_error {
            writeln!(out, "first error: {first}")?;
        }
        for warning in &self.warnings {
            writeln!(out, "warning: {warning}")?;
        }
        for reason in &self.reasons {
            writeln!(out, "INVALID: {reason}")?;
        }
        Ok(())
    }
}

/// Why the figures would mislead.
fn reasons(pace: Pace, recorder: &Recorder, summary: &RunSummary) -> Vec<String> {
    let mut reasons = Vec::new();
    if recorder.successes() == 0 {
        reasons.push("no operation succeeded in the window".into());
    }
    if let Pace::Open { rate } = pace
        && summary.sent_share() < SENT_SHARE_MIN
    {
        let why = if summary.client_cpu > CLIENT_CPU_MAX {
            "the load generator itself used a whole core"
        } else {
            "all slots were taken by unanswered requests (more --clients or --pipeline, or a lower --rate)"
        };
        reasons.push(format!(
            "fell behind the schedule of {rate} op/s: sent {:.1} % of it, at worst {:.1} ms late: {why}",
            summary.sent_share() * 100.0,
            summary.max_lag_ns as f64 / 1e6
        ));
    }
    reasons
}

fn warnings(recorder: &Recorder, summary: &RunSummary) -> Vec<String> {
    let mut warnings = Vec::new();
    if summary.client_cpu > CLIENT_CPU_MAX {
        warnings.push(format!(
            "the load generator used {:.0} % of a core: it may bound the throughput",
            summary.client_cpu * 100.0
        ));
    }
    let (errors, done) = (recorder.errors().total(), recorder.successes());
    if errors * 1000 > done {
        warnings.push(format!("{errors} errors beside {done} successes"));
    }
    warnings
}

impl Environment {
    /// Reads it now.
    #[must_use]
    pub fn read() -> Self {
        let file = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|l| l.starts_with(name)).unwrap_or_default();
            line.split_once(':').map_or("unknown", |(_, v)| v.trim()).to_owned()
        };
        let cpuinfo = file("/proc/cpuinfo");
        let meminfo = field(&file("/proc/meminfo"), "MemTotal");
        let kib: u64 =
            meminfo.split_ascii_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0);
        Self {
            commit: commit(),
            cpu: field(&cpuinfo, "model name"),
            cores: cpuinfo.lines().filter(|l| l.starts_with("processor")).count(),
            kernel: file("/proc/sys/kernel/osrelease").trim().to_owned(),
            filesystem: filesystem(&file("/proc/self/mountinfo")),
            memory_bytes: kib << 10,
            load_average: file("/proc/loadavg").trim().to_owned(),
            command: std::env::args().collect::<Vec<_>>().join(" "),
            unix_seconds: clock::unix_seconds(),
        }
    }
}

fn commit() -> String {
    let git = |args: &[&str]| {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR"));
        let output = Command::new("git").arg("-C").arg(dir).args(args).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    let Some(head) = git(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".into() };
    match git(&["status", "--porcelain", "--untracked-files=no"]) {
        Some(changes) if !changes.is_empty() => format!("{head}+changes"),
        _ => head,
    }
}

/// Type and device of the mount that holds the working directory.
fn filesystem(mountinfo: &str) -> String {
    let Ok(dir) = std::env::current_dir() else { return "unknown".into() };
    mountinfo
        .lines()
        .filter_map(|line| {
            let (mount, source) = line.split_once(" - ")?;
            let point = mount.split(' ').nth(4)?;
            let mut source = source.split(' ');
            let (kind, device) = (source.next()?, source.next()?);
            dir.starts_with(point).then(|| (point.len(), format!("{kind} on {device}")))
        })
        .max_by_key(|(len, _)| *len)
        .map_or_else(|| "unknown".into(), |(_, text)| text)
}

/// Writes `value` as one JSON document on a line; `-` is stdout.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<(), String> {
    let mut text = serde_json::to_string(value).map_err(|e| format!("making JSON: {e}"))?;
    text.push('\n');
    write_text(path, &text)
}

/// Writes `text` to a file; `-` is stdout.
pub fn write_text(path: &Path, text: &str) -> Result<(), String> {
    if path == Path::new("-") {
        print!("{text}");
        return Ok(());
    }
    std::fs::write(path, text).map_err(|e| format!("writing {}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Asked {
        Asked {
            target: "beachd".into(),
            workload: Mix::Put,
            distribution: Distribution::Uniform,
            clients: 1,
            pipeline: 1,
            rate: None,
            keys: 10,
            key_size: 16,
            value_size: 100,
            seed: 1,
            preload: false,
            warmup_s: 0.0,
            duration_s: 1.0,
        }
    }

    #[test]
    fn the_json_has_the_fields_of_the_contract() {
        let mut recorder = Recorder::default();
        recorder.set_window(0..2_000_000_000);
        for i in 0..1000 {
            recorder.success(OpKind::Put, i, i + 5_000, true);
        }
        let report = Report::new(asked(), Pace::Closed, &recorder, &RunSummary::default());
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["schema"], 1);
        assert_eq!(json["valid"], true);
        assert_eq!(json["throughput_ops_s"], 500.0);
        assert_eq!(json["ops"]["put"]["count"], 1000);
        for p in ["p50_us", "p90_us", "p99_us", "p999_us", "max_us"] {
            let us = json["ops"]["put"][p].as_f64().unwrap();
            assert!((us - 5.0).abs() < 0.1, "{p} {us}");
        }
        for kind in ["busy", "deadline", "not_leader", "unknown", "conn", "proto"] {
            assert_eq!(json["errors"][kind], 0, "{kind}");
        }
        assert!(json["ops"].get("get").is_none());
        assert!(json["environment"]["kernel"].as_str().unwrap().contains('.'));
    }

    #[test]
    fn an_open_loop_that_fell_behind_is_invalid_and_says_why() {
        let mut recorder = Recorder::default();
        recorder.success(OpKind::Put, 0, 1, true);
        let summary = RunSummary { scheduled: 1000, sent: 900, ..RunSummary::default() };
        let report = Report::new(asked(), Pace::Open { rate: 1000.0 }, &recorder, &summary);
        assert!(!report.valid());
        assert!(report.to_text().contains("INVALID: fell behind"), "{}", report.to_text());
        let full = RunSummary { sent: 1000, ..summary };
        assert!(Report::new(asked(), Pace::Open { rate: 1000.0 }, &recorder, &full).valid());
    }

    #[test]
    fn a_run_without_success_is_invalid() {
        let recorder = Recorder::default();
        let report = Report::new(asked(), Pace::Closed, &recorder, &RunSummary::default());
        assert!(!report.valid());
    }
}
