//! `beach-loadgen`: p50/p99 over the wire. See `--help`; the parts are in `lib.rs`.

use beach_loadgen::args::{EtcdArgs, RunArgs};
use beach_loadgen::driver::{Driver, DriverOptions, Pace, Until};
use beach_loadgen::stats::Recorder;
use beach_loadgen::target::{Beachd, Protocol, Redis};
use beach_loadgen::workload::{Mix, OpKind};
use clap::Parser;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::ExitCode;

/// The program that `--target etcd` becomes.
const ETCD_CLIENT: &str = "beach-loadgen-etcd";

const EXAMPLES: &str = "\
Workloads:
  a     95 % put, 5 % get, keys in sequence with overwrites
  b     95 % get, 5 % put, uniform over existing keys (use --preload)
  c     99 % get of missing keys, 1 % put (use --preload)
  put, get, scan: only that

Examples:
  beach-loadgen --workload put --clients 64 --keys 1000000 --value-size 100
  beach-loadgen --workload b --preload --keys 1000000 --clients 64 --json b.json
  beach-loadgen --workload put --rate 20000 --clients 256 --duration 30s
  beach-loadgen --target redis --endpoints 127.0.0.1:6379 --workload put --clients 64 --pipeline 16
  beach-loadgen --target etcd --endpoints 127.0.0.1:2379 --workload put --clients 64 --conns 4

Exit code: 0 with a valid report, 1 when the run failed or its report is INVALID, 2 on wrong usage.
The JSON's schema is in loadgen/src/report.rs.";

#[derive(Parser)]
#[command(name = "beach-loadgen", version, about = "Latency and throughput over the wire", after_help = EXAMPLES)]
struct Args {
    #[command(flatten)]
    run: RunArgs,
    /// What is spoken
    #[arg(long, value_enum, default_value = "beachd")]
    target: TargetName,
    /// Open loop: operations per second; latency counts from the intended send time
    #[arg(long, value_name = "OPS_PER_S")]
    rate: Option<f64>,
    #[command(flatten)]
    etcd: EtcdArgs,
    #[arg(long, hide = true)]
    hlog: Option<PathBuf>,
    #[arg(long, hide = true)]
    html: Option<PathBuf>,
    #[arg(long, hide = true)]
    check: bool,
    #[command(subcommand)]
    later: Option<Later>,
}

#[derive(clap::Subcommand)]
enum Later {
    #[command(hide = true)]
    Compare { files: Vec<PathBuf> },
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum TargetName {
    /// BeachDB's binary frames, default port 7400
    Beachd,
    /// Redis' RESP (SET, GET), default port 6379
    Redis,
    /// etcd's gRPC (Put, Range), default port 2379; by `beach-loadgen-etcd`, a build of its own in loadgen/peers
    Etcd,
}

impl TargetName {
    const fn name(self) -> &'static str {
        match self {
            Self::Beachd => "beachd",
            Self::Redis => "redis",
            Self::Etcd => "etcd",
        }
    }

    const fn default_endpoint(self) -> &'static str {
        match self {
            Self::Beachd => "127.0.0.1:7400",
            Self::Redis => "127.0.0.1:6379",
            Self::Etcd => "127.0.0.1:2379",
        }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Err(message) = check_usage(&args) {
        eprintln!("beach-loadgen: {message}");
        return ExitCode::from(2);
    }
    match start(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("beach-loadgen: {message}");
            ExitCode::FAILURE
        }
    }
}

fn check_usage(args: &Args) -> Result<(), String> {
    let not_yet = [
        ("--hlog", args.hlog.is_some()),
        ("--html", args.html.is_some()),
        ("--check", args.check),
        ("compare", matches!(&args.later, Some(Later::Compare { .. }))),
    ];
    if let Some((flag, _)) = not_yet.iter().find(|(_, given)| *given) {
        return Err(format!(
            "{flag} is not built yet (it comes with the load generator's own issue)"
        ));
    }
    if args.rate.is_some_and(|rate| !(rate > 0.0 && rate <= 1e8)) {
        return Err("--rate must be above 0 and at most 100000000".into());
    }
    if args.target == TargetName::Redis && args.run.workload == Mix::Scan {
        return Err("Redis has no ordered scan; use --workload put, get, a, b, or c".into());
    }
    let etcd = args.target == TargetName::Etcd;
    if !etcd && (args.etcd.conns.is_some() || args.etcd.spread) {
        return Err("--conns and --spread are for --target etcd".into());
    }
    if etcd && args.rate.is_some() {
        return Err("--target etcd has only the closed loop, no --rate".into());
    }
    args.run.check()
}

fn start(args: &Args) -> Result<bool, String> {
    match args.target {
        TargetName::Beachd => {
            let timeout_ms = args.run.timeout.as_millis();
            let deadline_ms = u32::try_from(timeout_ms).unwrap_or(u32::MAX).max(1);
            run(args, Beachd::new(deadline_ms, args.run.scan_length))
        }
        TargetName::Redis => run(args, Redis),
        TargetName::Etcd => Err(become_etcd_client()),
    }
}

/// Replaces this process by the build that has a gRPC client, with the same arguments; returns why that failed.
fn become_etcd_client() -> String {
    let beside = std::env::current_exe().ok().map(|exe| exe.with_file_name(ETCD_CLIENT));
    let program = beside.filter(|path| path.exists()).unwrap_or_else(|| ETCD_CLIENT.into());
    let error = std::process::Command::new(&program).args(std::env::args_os().skip(1)).exec();
    format!(
        "--target etcd is {ETCD_CLIENT}, which did not start ({}: {error}); it is a build of its own: \
         cargo build --release --manifest-path loadgen/peers/Cargo.toml --target-dir target",
        program.display()
    )
}

/// Runs everything asked for; returns whether the report is valid.
fn run<P: Protocol>(args: &Args, protocol: P) -> Result<bool, String> {
    debug_assert!(OpKind::ALL.iter().any(|kind| P::supports(*kind)));
    let mut workload = args.run.workload()?;
    let options = DriverOptions {
        endpoints: args.run.endpoints(args.target.default_endpoint())?,
        clients: args.run.clients,
        pipeline: args.run.pipeline,
        timeout: args.run.timeout,
        progress: !args.run.quiet,
    };
    let mut driver = Driver::connect(protocol, options)?;
    args.run.note_missing_preload();
    if args.run.preload {
        let until = Until::Written { keys: args.run.keys };
        driver.run(&mut workload, &mut Recorder::default(), Pace::Closed, until)?;
    }
    let pace = args.rate.map_or(Pace::Closed, |rate| Pace::Open { rate });
    let mut recorder = Recorder::default();
    let summary = driver.run(&mut workload, &mut recorder, pace, args.run.until())?;
    args.run.deliver(args.target.name(), pace, &recorder, &summary)
}
