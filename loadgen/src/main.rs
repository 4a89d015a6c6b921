//! `beach-loadgen`: p50/p99 over the wire. See `--help`; the parts are in `lib.rs`.

use beach_loadgen::driver::{Driver, DriverOptions, Pace, Until};
use beach_loadgen::report::{Asked, Report, write_json};
use beach_loadgen::stats::Recorder;
use beach_loadgen::target::{Beachd, Protocol, Redis};
use beach_loadgen::workload::{Distribution, Mix, OpKind, Workload, WorkloadOptions};
use beachdb::base::units::parse_duration;
use clap::Parser;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

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

Exit code: 0 with a valid report, 1 when the run failed or its report is INVALID, 2 on wrong usage.
The JSON's schema is in loadgen/src/report.rs.";

#[derive(Parser)]
#[command(name = "beach-loadgen", version, about = "Latency and throughput over the wire", after_help = EXAMPLES)]
struct Args {
    /// Servers; connections take them in turn, pass over what is down, and go to the leader that a node names
    #[arg(long, value_delimiter = ',', value_name = "HOST:PORT,…")]
    endpoints: Vec<String>,
    /// What is spoken
    #[arg(long, value_enum, default_value = "beachd")]
    target: TargetName,
    /// The mix of operations
    #[arg(long, default_value = "a", value_parser = parse_mix, value_name = "a|b|c|put|get|scan")]
    workload: Mix,
    /// Connections
    #[arg(long, default_value_t = 16)]
    clients: usize,
    /// Requests in flight on each connection
    #[arg(long, default_value_t = 1)]
    pipeline: usize,
    /// Open loop: operations per second; latency counts from the intended send time
    #[arg(long, value_name = "OPS_PER_S")]
    rate: Option<f64>,
    /// How long to measure
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    duration: Duration,
    /// How long to run before that
    #[arg(long, default_value = "2s", value_parser = parse_duration)]
    warmup: Duration,
    /// Number of keys
    #[arg(long, default_value_t = 100_000)]
    keys: u64,
    /// Bytes in a key
    #[arg(long, default_value_t = 16)]
    key_size: usize,
    /// Bytes in a value
    #[arg(long, default_value_t = 256)]
    value_size: usize,
    /// How keys are drawn [default: what the workload says]
    #[arg(long, value_enum)]
    distribution: Option<Distribution>,
    /// Entries asked for by a scan
    #[arg(long, default_value_t = 100)]
    scan_length: u32,
    /// Seed of all choices
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write every key once before the warmup
    #[arg(long)]
    preload: bool,
    /// Deadline of each request
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    timeout: Duration,
    /// Write the report as JSON; - is stdout
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// No progress lines
    #[arg(long)]
    quiet: bool,
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
}

impl TargetName {
    const fn name(self) -> &'static str {
        match self {
            Self::Beachd => "beachd",
            Self::Redis => "redis",
        }
    }

    const fn default_endpoint(self) -> &'static str {
        match self {
            Self::Beachd => "127.0.0.1:7400",
            Self::Redis => "127.0.0.1:6379",
        }
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
    let in_flight = beachdb::limits::MAX_CONNECTION_IN_FLIGHT;
    if args.clients == 0 || args.pipeline == 0 || args.pipeline > in_flight {
        return Err(format!("--clients must be at least 1 and --pipeline 1 to {in_flight}"));
    }
    if args.rate.is_some_and(|rate| !(rate > 0.0 && rate <= 1e8)) {
        return Err("--rate must be above 0 and at most 100000000".into());
    }
    if args.duration.is_zero() || args.timeout.is_zero() {
        return Err("--duration and --timeout must be above 0".into());
    }
    if args.target == TargetName::Redis && args.workload == Mix::Scan {
        return Err("Redis has no ordered scan; use --workload put, get, a, b, or c".into());
    }
    workload(args).map(|_| ())
}

fn workload(args: &Args) -> Result<Workload, String> {
    Workload::new(WorkloadOptions {
        mix: args.workload,
        distribution: args.distribution,
        keys: args.keys,
        key_size: args.key_size,
        value_size: args.value_size,
        seed: args.seed,
        preloaded: args.preload,
    })
}

fn start(args: &Args) -> Result<bool, String> {
    match args.target {
        TargetName::Beachd => {
            let deadline_ms = u32::try_from(args.timeout.as_millis()).unwrap_or(u32::MAX).max(1);
            run(args, Beachd::new(deadline_ms, args.scan_length))
        }
        TargetName::Redis => run(args, Redis),
    }
}

/// Runs everything asked for; returns whether the report is valid.
fn run<P: Protocol>(args: &Args, protocol: P) -> Result<bool, String> {
    debug_assert!(OpKind::ALL.iter().any(|kind| P::supports(*kind)));
    let mut workload = workload(args)?;
    let options = DriverOptions {
        endpoints: endpoints(args)?,
        clients: args.clients,
        pipeline: args.pipeline,
        timeout: args.timeout,
        progress: !args.quiet,
    };
    let mut driver = Driver::connect(protocol, options)?;
    if args.preload {
        let until = Until::Written { keys: args.keys };
        driver.run(&mut workload, &mut Recorder::default(), Pace::Closed, until)?;
    } else if args.workload.wants_preload() {
        eprintln!("note: this workload reads keys that must exist; --preload writes them");
    }
    let pace = args.rate.map_or(Pace::Closed, |rate| Pace::Open { rate });
    let mut recorder = Recorder::default();
    let until = Until::Elapsed {
        warmup_ns: args.warmup.as_nanos() as u64,
        measure_ns: args.duration.as_nanos() as u64,
    };
    let summary = driver.run(&mut workload, &mut recorder, pace, until)?;
    let asked = Asked {
        target: args.target.name().into(),
        workload: args.workload,
        distribution: workload.distribution(),
        clients: args.clients,
        pipeline: args.pipeline,
        rate: args.rate,
        keys: args.keys,
        key_size: args.key_size,
        value_size: args.value_size,
        seed: args.seed,
        preload: args.preload,
        warmup_s: args.warmup.as_secs_f64(),
        duration_s: args.duration.as_secs_f64(),
    };
    let report = Report::new(asked, pace, &recorder, &summary);
    if args.json.as_deref() != Some(std::path::Path::new("-")) {
        print!("{}", report.to_text());
    }
    if let Some(path) = &args.json {
        write_json(path, &report)?;
    }
    Ok(report.valid())
}

fn endpoints(args: &Args) -> Result<Vec<SocketAddr>, String> {
    let default = [args.target.default_endpoint().to_owned()];
    let names: &[String] = if args.endpoints.is_empty() { &default } else { &args.endpoints };
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
