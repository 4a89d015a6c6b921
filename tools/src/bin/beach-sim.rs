//! `beach-sim`: whole clusters in a simulated world. What it does is said in `beach_tools::sim`.

use beach_tools::sim::artifact::Artifact;
use beach_tools::sim::child::{self, Job, Worker};
use beach_tools::sim::hooks::{Harness, Setup};
use beach_tools::sim::run::run;
use beach_tools::sim::shape::{Begin, MAX_NODES, RunOptions};
use beach_tools::sim::swarm::{Summary, SwarmOptions, swarm};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  beach-sim run --seed 7                         one minute of a cluster of three, with seed 7's faults
  beach-sim run --seed 7 --nodes 5 --minutes 10 --trace > trace.txt
  beach-sim swarm --seconds 60                   as many seeds as fit, clusters of 1 to 7 nodes
  beach-sim swarm --seconds 240 --jobs 2 --start-seed 1000 --nodes 5
  beach-sim replay beach-sim-artifacts/seed-7-liveness.json --trace

A failing seed is shrunk to a smaller schedule of faults, which is kept as an artifact that `replay` runs again.
The last line but the replay commands is `N passed, N failed`. Exit code 0: all passed; 1: a failure; 2: wrong usage.";

/// Runs whole BeachDB clusters through faults in a deterministic simulation, and checks every promise.
#[derive(Parser)]
#[command(name = "beach-sim", version = beachdb::VERSION, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Wake this planted bug (with `run --trace`, `replay --trace`, and in workers).
    #[cfg(beach_planted)]
    #[arg(long, global = true)]
    planted: Option<String>,
}

#[derive(Subcommand)]
enum Command {
    /// Runs one seed.
    Run(RunArgs),
    /// Runs seeds until the time is over.
    Swarm(SwarmArgs),
    /// Runs what an artifact holds.
    Replay {
        /// The JSON document of a failure.
        artifact: PathBuf,
        /// Print every event.
        #[arg(long)]
        trace: bool,
        /// Print one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Hunts the planted bugs, and prints the table of those found.
    #[cfg(beach_planted)]
    Planted(PlantedArgs),
    /// The child process of `run` and `swarm`: jobs on standard input, reports on standard output.
    #[command(hide = true)]
    Worker,
}

#[derive(Args)]
struct RunArgs {
    /// The seed: everything follows from it.
    #[arg(long)]
    seed: u64,
    /// Nodes in the cluster.
    #[arg(long, default_value_t = 3, value_parser = parse_nodes)]
    nodes: usize,
    /// Virtual minutes with faults.
    #[arg(long, default_value_t = 1.0, value_parser = parse_minutes)]
    minutes: f64,
    /// How the cluster begins.
    #[arg(long, value_enum, default_value_t)]
    begin: Begin,
    /// Print every event.
    #[arg(long)]
    trace: bool,
    /// Run it twice: both runs must be the same, event by event.
    #[arg(long)]
    twice: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
struct SwarmArgs {
    /// Wall time after which no further seed is begun.
    #[arg(long, required_unless_present = "seeds")]
    seconds: Option<u64>,
    /// Stop after this many seeds.
    #[arg(long)]
    seeds: Option<u64>,
    /// Processes at once.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: u16,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    start_seed: u64,
    /// Nodes in each cluster; by default 1 to 7, by seed.
    #[arg(long, value_parser = parse_nodes)]
    nodes: Option<usize>,
    /// Virtual minutes with faults of each seed.
    #[arg(long, default_value_t = 1.0, value_parser = parse_minutes)]
    minutes: f64,
    /// How each cluster begins; by default one in three forms itself, by seed.
    #[arg(long, value_enum)]
    begin: Option<Begin>,
    /// Run every seed twice, not only every eighth.
    #[arg(long)]
    twice: bool,
    #[command(flatten)]
    common: Common,
}

#[cfg(beach_planted)]
#[derive(Args)]
struct PlantedArgs {
    /// Only the bugs with these names.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Wall time for one bug.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Virtual minutes with faults of each seed.
    #[arg(long, default_value_t = 1.0, value_parser = parse_minutes)]
    minutes: f64,
    /// Bugs hunted at once.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: u16,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    start_seed: u64,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Common {
    /// How long a failure may be shrunk, in seconds of wall time; 0: it is kept as it is.
    #[arg(long, default_value_t = 60)]
    shrink_seconds: u64,
    /// Where artifacts of failures go.
    #[arg(long, default_value = "beach-sim-artifacts")]
    artifacts: PathBuf,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

fn parse_nodes(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(nodes) if (1..=MAX_NODES).contains(&nodes) => Ok(nodes),
        _ => Err(format!("must be 1 to {MAX_NODES}")),
    }
}

fn parse_minutes(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(minutes) if minutes > 0.0 && minutes <= 100_000.0 => Ok(minutes),
        _ => Err("must be above 0 and at most 100000".into()),
    }
}

/// Who uses the cluster and who judges it.
fn harness(setup: &Setup) -> Harness {
    beach_tools::sim::check::harness(setup)
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("off")).init();
    let cli = Cli::parse();
    #[cfg(beach_planted)]
    if let Some(name) = &cli.planted {
        let Some(bug) = beachdb::base::planted::Bug::by_name(name) else {
            eprintln!("beach-sim: there is no planted bug {name}; `beach-sim planted` lists all");
            return ExitCode::from(2);
        };
        beachdb::base::planted::select(Some(bug));
    }
    match cli.command {
        #[cfg(beach_planted)]
        Command::Planted(args) => planted(&args),
        Command::Run(args) if args.trace => run_here(args),
        Command::Run(args) => {
            let options = SwarmOptions {
                start_seed: args.seed,
                time: None,
                seeds: Some(1),
                nodes: Some(args.nodes),
                begin: Some(args.begin),
                minutes: args.minutes,
                jobs: 1,
                twice: args.twice,
                shrink: Duration::from_secs(args.common.shrink_seconds),
                artifacts: args.common.artifacts,
                progress: !args.common.json,
            };
            finish(swarm(options), args.common.json)
        }
        Command::Swarm(args) => {
            let options = SwarmOptions {
                start_seed: args.start_seed,
                time: args.seconds.map(Duration::from_secs),
                seeds: args.seeds,
                nodes: args.nodes,
                begin: args.begin,
                minutes: args.minutes,
                jobs: args.jobs.into(),
                twice: args.twice,
                shrink: Duration::from_secs(args.common.shrink_seconds),
                artifacts: args.common.artifacts,
                progress: !args.common.json,
            };
            finish(swarm(options), args.common.json)
        }
        Command::Replay { artifact, trace, json } => replay(&artifact, trace, json),
        Command::Worker => match child::serve(harness) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error),
        },
    }
}

/// The hunt. Exit code 1 when a bug is not found.
#[cfg(beach_planted)]
fn planted(args: &PlantedArgs) -> ExitCode {
    use beach_tools::sim::planted::{HuntOptions, hunt_all, table};
    use beachdb::base::planted::Bug;
    let mut bugs = Vec::new();
    for name in &args.only {
        let Some(bug) = Bug::by_name(name) else {
            let all: Vec<&str> = Bug::ALL.iter().map(|bug| bug.name()).collect();
            eprintln!("beach-sim: there is no planted bug {name}; there are {}", all.join(", "));
            return ExitCode::from(2);
        };
        bugs.push(bug);
    }
    let options = HuntOptions {
        bugs: if bugs.is_empty() { Bug::ALL.to_vec() } else { bugs },
        time: Duration::from_secs(args.seconds),
        minutes: args.minutes,
        jobs: args.jobs.into(),
        start_seed: args.start_seed,
        progress: !args.json,
    };
    let hunts = match hunt_all(&options) {
        Ok(hunts) => hunts,
        Err(error) => return fail(&error),
    };
    if args.json {
        match serde_json::to_string(&hunts) {
            Ok(text) => println!("{text}"),
            Err(error) => return fail(&error),
        }
    } else {
        print!("{}", table(&hunts));
    }
    let found = hunts.iter().filter(|hunt| hunt.found_by.is_some()).count();
    eprintln!("{found} found, {} not found", hunts.len() - found);
    ExitCode::from(u8::from(found < hunts.len()))
}

fn fail(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("beach-sim: {error}");
    ExitCode::FAILURE
}

/// In this process, with the trace on standard output.
fn run_here(args: RunArgs) -> ExitCode {
    let RunArgs { seed, nodes, minutes, begin, .. } = args;
    let options = RunOptions { seed, nodes, minutes, begin };
    let report = run(&options, None, harness, true);
    end_of_one(report.violation.map(|v| v.to_string()), report.hash)
}

/// The last lines of a run of one.
fn end_of_one(violation: Option<String>, hash: u64) -> ExitCode {
    println!("trace hash {hash:016x}");
    match violation {
        None => {
            println!("1 passed, 0 failed");
            ExitCode::SUCCESS
        }
        Some(violation) => {
            println!("{violation}");
            println!("0 passed, 1 failed");
            ExitCode::FAILURE
        }
    }
}

fn replay(path: &std::path::Path, trace: bool, json: bool) -> ExitCode {
    let artifact = match Artifact::load(path) {
        Ok(artifact) => artifact,
        Err(error) => {
            eprintln!("beach-sim: {error}");
            return ExitCode::from(2);
        }
    };
    if trace {
        let report = run(&artifact.options, Some(artifact.plan), harness, true);
        return end_of_one(report.violation.map(|v| v.to_string()), report.hash);
    }
    let job = Job { options: artifact.options, plan: Some(artifact.plan) };
    match Worker::new(Duration::from_secs(600)).run(&job) {
        Err(error) => fail(&error),
        Ok(report) if json => {
            match serde_json::to_string(&report) {
                Ok(text) => println!("{text}"),
                Err(error) => return fail(&error),
            }
            ExitCode::from(u8::from(report.violation.is_some()))
        }
        Ok(report) => end_of_one(report.violation.map(|v| v.to_string()), report.hash),
    }
}

/// The figures, the verdict, and how to see a failure again.
fn finish(outcome: std::io::Result<Summary>, json: bool) -> ExitCode {
    let summary = match outcome {
        Ok(summary) => summary,
        Err(error) => return fail(&error),
    };
    let code = if summary.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    if json {
        return match serde_json::to_string(&summary) {
            Ok(text) => {
                println!("{text}");
                code
            }
            Err(error) => fail(&error),
        };
    }
    let seeds = summary.passed + summary.failed;
    for (mark, times) in &summary.marks.0 {
        println!("{times:>10}  {mark}");
    }
    println!(
        "{seeds} seeds in {:.1} s: {:.1} seeds/min, {:.2} cluster-hours/min, {:.1} acknowledged operations per simulated \
         second, {:.2} us per event",
        summary.wall_seconds,
        seeds as f64 * 60.0 / summary.wall_seconds,
        summary.hours_per_minute(),
        summary.ops_per_second(),
        summary.wall_seconds * 1e6 / summary.events.max(1) as f64
    );
    for complaint in &summary.complaints {
        println!("the swarm fails: {complaint}");
    }
    for failure in &summary.failures {
        println!("seed {}: {}", failure.seed, failure.violation);
    }
    println!("{} passed, {} failed", summary.passed, summary.failed);
    for artifact in summary.failures.iter().filter_map(|f| f.artifact.as_ref()) {
        println!("beach-sim replay {}", artifact.display());
    }
    code
}
