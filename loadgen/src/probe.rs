//! `beach-bench probe`: what this machine can do at all, so that a result can be read as a share of it.
//!
//! Three rows of questions: what an append + fdatasync costs by file mode, how fast loopback and the client loop
//! are without any log ([`SyncMode::None`]), and what the [`ideal`] server reaches with the same
//! client, by who syncs and by clients × pipeline. The probe prints as it goes, and all of it as JSON.

use crate::driver::{Driver, DriverOptions, Pace, Until};
use crate::files::{self, FileMode, FileProbe};
use crate::ideal::{self, IdealOptions, SyncMode};
use crate::report::Environment;
use crate::stats::{Percentiles, Recorder};
use crate::target::Beachd;
use crate::workload::{Mix, OpKind, Workload, WorkloadOptions};
use serde::Serialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

/// Clients × pipeline of every round.
pub const SHAPES: [(usize, usize); 4] = [(1, 1), (64, 1), (256, 1), (64, 16)];
/// Appends of the file probe: one small put, a page, a group.
const APPEND_BYTES: [usize; 3] = [167, 4096, 16384];
/// Size of the ideal server's log.
const LOG_BYTES: u64 = 256 << 20;

/// Settings of the probe.
#[derive(Clone, Debug)]
pub struct ProbeOptions {
    /// Where the files are made.
    pub dir: PathBuf,
    /// How long each row is measured, after a tenth of it as warm-up.
    pub duration: Duration,
    /// Bytes in a key.
    pub key_size: usize,
    /// Bytes in a value.
    pub value_size: usize,
    /// Only append + fdatasync, no servers.
    pub files_only: bool,
}

/// One row of the server probes.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct ServerProbe {
    /// Who synced.
    pub sync: SyncMode,
    /// Connections.
    pub clients: usize,
    /// Requests in flight on each.
    pub pipeline: usize,
    /// Requests answered per second.
    pub ops_s: f64,
    /// Their latency.
    pub latency: Percentiles,
    /// Share of one core that the client used.
    pub client_cpu: f64,
}

/// Everything the probe found.
#[derive(Clone, Debug, Serialize)]
pub struct ProbeReport {
    schema: u32,
    files: Vec<FileProbe>,
    servers: Vec<ServerProbe>,
    environment: Environment,
}

/// Runs all rows and prints them.
pub fn run(options: &ProbeOptions) -> Result<ProbeReport, String> {
    let files = probe_files(options)?;
    let servers = if options.files_only { Vec::new() } else { probe_servers(options)? };
    Ok(ProbeReport { schema: 1, files, servers, environment: Environment::read() })
}

fn probe_servers(options: &ProbeOptions) -> Result<Vec<ServerProbe>, String> {
    let mut servers = Vec::new();
    println!(
        "\n{:<8}{:>12}{:>12}{:>10}{:>10}{:>12}",
        "sync", "clients", "requests/s", "p50 us", "p99 us", "client cpu"
    );
    for sync in [SyncMode::None, SyncMode::Inline, SyncMode::Helper] {
        for (clients, pipeline) in SHAPES {
            let row = probe_server(options, sync, 0, clients, pipeline)?;
            println!(
                "{:<8}{:>12}{:>12.0}{:>10.1}{:>10.1}{:>11.0}%",
                format!("{sync:?}").to_lowercase(),
                format!("{clients} x {pipeline}"),
                row.ops_s,
                row.latency.p50_us,
                row.latency.p99_us,
                row.client_cpu * 100.0
            );
            servers.push(row);
        }
    }
    Ok(servers)
}

fn probe_files(options: &ProbeOptions) -> Result<Vec<FileProbe>, String> {
    println!(
        "{:<14}{:>8}{:>12}{:>10}{:>10}   append + fdatasync",
        "file", "bytes", "ops/s", "p50 us", "p99 us"
    );
    let mut rows = Vec::new();
    for mode in [FileMode::Growing, FileMode::ZeroFilled] {
        for bytes in APPEND_BYTES {
            let row = files::probe(&options.dir, mode, bytes, options.duration.as_nanos() as u64)
                .map_err(|e| in_dir("append + fdatasync", &options.dir, &e))?;
            println!(
                "{:<14}{:>8}{:>12.0}{:>10.1}{:>10.1}",
                format!("{mode:?}"),
                row.bytes,
                row.ops_s,
                row.latency.p50_us,
                row.latency.p99_us
            );
            rows.push(row);
        }
    }
    Ok(rows)
}

fn in_dir(what: &str, dir: &Path, e: &std::io::Error) -> String {
    format!("{what} in {}: {e}", dir.display())
}

/// Measures one shape against an ideal server of its own, on a thread of this process.
fn probe_server(
    options: &ProbeOptions,
    sync: SyncMode,
    followers: usize,
    clients: usize,
    pipeline: usize,
) -> Result<ServerProbe, String> {
    let ideal = IdealOptions {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        dir: options.dir.clone(),
        sync,
        log_bytes: LOG_BYTES,
        followers,
    };
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (ready, address) = mpsc::channel();
        let stop = &stop;
        let ideal = &ideal;
        let server = scope.spawn(move || {
            let told = |address| ready.send(address).expect("the probe waits for the address");
            ideal::serve(ideal, told, stop)
        });
        // The sender goes away with the server: when it cannot start there is no address, but its error.
        let measured = match address.recv() {
            Ok(address) => drive(options, address, clients, pipeline),
            Err(_) => Err("the ideal server did not start".into()),
        };
        stop.store(true, Ordering::Relaxed);
        let served = server.join().expect("the ideal server does not panic");
        served.map_err(|e| in_dir("the ideal server", &options.dir, &e))?;
        let (recorder, client_cpu) = measured?;
        Ok(ServerProbe {
            sync,
            clients,
            pipeline,
            ops_s: recorder.throughput(),
            latency: Percentiles::of(recorder.latencies(OpKind::Put)),
            client_cpu,
        })
    })
}

fn drive(
    options: &ProbeOptions,
    address: SocketAddr,
    clients: usize,
    pipeline: usize,
) -> Result<(Recorder, f64), String> {
    let mut workload = Workload::new(WorkloadOptions {
        mix: Mix::Put,
        distribution: None,
        keys: 1_000_000,
        key_size: options.key_size,
        value_size: options.value_size,
        seed: 1,
        preloaded: false,
    })?;
    let timeout = Duration::from_secs(10);
    let mut driver = Driver::connect(
        Beachd::new(timeout.as_millis() as u32, 1),
        DriverOptions { endpoints: vec![address], clients, pipeline, timeout, progress: false },
    )?;
    let mut recorder = Recorder::default();
    let measure_ns = options.duration.as_nanos() as u64;
    let until = Until::Elapsed { warmup_ns: measure_ns / 10, measure_ns };
    let summary = driver.run(&mut workload, &mut recorder, Pace::Closed, until)?;
    if recorder.errors().total() > 0 {
        return Err(format!("the ideal server failed: {}", recorder.first_error().unwrap_or("?")));
    }
    Ok((recorder, summary.client_cpu))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "looks at the directory it used")]
    use super::*;

    #[test]
    fn every_kind_of_ideal_answers_every_shape() {
        let dir = tempfile::tempdir().unwrap();
        let options = ProbeOptions {
            dir: dir.path().to_owned(),
            duration: Duration::from_millis(100),
            key_size: 16,
            value_size: 100,
            files_only: false,
        };
        for sync in [SyncMode::None, SyncMode::Inline, SyncMode::Helper] {
            for (followers, clients, pipeline) in [(0, 1, 1), (0, 20, 16), (2, 1, 1), (2, 20, 16)] {
                let row = probe_server(&options, sync, followers, clients, pipeline).unwrap();
                assert!(row.latency.count > 0, "{followers} followers: {row:?}");
            }
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
    }
}
