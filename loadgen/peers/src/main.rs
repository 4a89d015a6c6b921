//! `beach-loadgen-etcd`: `beach-loadgen --target etcd`, in a build of its own. See `--help`; the parts are in `lib.rs`.

use beach_loadgen::args::{EtcdArgs, RunArgs};
use beach_loadgen::driver::{Pace, Until};
use beach_peers::driver::{Driver, DriverOptions};
use clap::Parser;
use std::process::ExitCode;

const EXAMPLES: &str = "\
A get is linearizable (serializable = false). Each put and get is one unary call, in flight until its answer is whole;
clients share connections as gRPC clients do (--conns; etcd's own benchmark tool has the same two settings), all on one
thread. Connections go to the leader, unless --spread is given.

Examples:
  beach-loadgen-etcd --workload put --clients 64 --key-size 16 --value-size 100
  beach-loadgen-etcd --endpoints 127.0.0.1:2379,127.0.0.1:22379,127.0.0.1:32379 --workload get --preload --clients 64

Exit code: 0 with a valid report, 1 when the run failed or its report is INVALID, 2 on wrong usage.
The JSON's schema is in loadgen/src/report.rs; client_cpu is this program's share of one core.";

#[derive(Parser)]
#[command(
    name = "beach-loadgen-etcd",
    version,
    about = "beach-loadgen's closed loop against etcd, over gRPC",
    after_help = EXAMPLES
)]
struct Args {
    #[command(flatten)]
    run: RunArgs,
    #[command(flatten)]
    etcd: EtcdArgs,
    /// Taken so that the arguments of `beach-loadgen --target etcd` are understood here
    #[arg(long, value_parser = ["etcd"], default_value = "etcd", hide = true)]
    target: String,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Err(message) = check_usage(&args) {
        eprintln!("beach-loadgen-etcd: {message}");
        return ExitCode::from(2);
    }
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("beach-loadgen-etcd: {message}");
            ExitCode::FAILURE
        }
    }
}

fn check_usage(args: &Args) -> Result<(), String> {
    if args.etcd.conns.is_some_and(|conns| conns == 0 || conns > args.run.clients) {
        return Err("--conns must be at least 1 and at most --clients".into());
    }
    args.run.check()
}

/// Runs everything asked for; returns whether the report is valid.
fn run(args: &Args) -> Result<bool, String> {
    let mut workload = args.run.workload()?;
    let driver = Driver::connect(DriverOptions {
        endpoints: args.run.endpoints("127.0.0.1:2379")?,
        clients: args.run.clients,
        pipeline: args.run.pipeline,
        conns: args.etcd.conns(args.run.clients),
        spread: args.etcd.spread,
        timeout: args.run.timeout,
        scan_length: args.run.scan_length,
        progress: !args.run.quiet,
    })?;
    args.run.note_missing_preload();
    if args.run.preload {
        (workload, _, _) = driver.run(workload, Until::Written { keys: args.run.keys })?;
    }
    let (_, recorder, summary) = driver.run(workload, args.run.until())?;
    args.run.deliver(&args.target, Pace::Closed, &recorder, &summary)
}
