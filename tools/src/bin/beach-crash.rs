//! `beach-crash`: the crash loop. What it does is said in `beach_tools::crash`.

#![expect(clippy::disallowed_methods, reason = "an entry point chooses its seed and directory")]

use beach_tools::crash::cycle::{self, Summary};
use beach_tools::crash::oracle::Violation;
use beach_tools::crash::workload::Workload;
use beach_tools::crash::{Plant, Settings, TargetKind, engine};
use beachdb::env::Random;
use beachdb::env::os::OsRandom;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  beach-crash run                                   100 kills of the engine, then 100 of the daemon
  beach-crash run --target daemon --cycles 20       the daemon only
  beach-crash run --seed 7 --dir /tmp/crash         the same operations as every run of seed 7; files are kept
  beach-crash run --target engine --plant early-ack see the checker fail
  beach-crash replay /tmp/crash/failure-engine-7-3/artifact.json

The last line but the replay command is `N passed, N failed`. Exit code 0: all passed; 1: a failure; 2: wrong usage.";

/// Kills the database while it is written to, and checks that it kept every promise.
#[derive(Parser)]
#[command(name = "beach-crash", version = beachdb::VERSION, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs crash cycles.
    Run(RunArgs),
    /// Judges the files of a failure again.
    Replay {
        /// The `artifact.json` of a failure.
        artifact: PathBuf,
        /// Works here instead of in a temporary directory.
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// The writing child process of `run`.
    #[command(hide = true)]
    Worker(WorkerArgs),
    /// The reading child process of `run`.
    #[command(hide = true)]
    Dump {
        #[arg(long)]
        data: PathBuf,
        /// Close the database at the end instead of waiting to be killed.
        #[arg(long)]
        close: bool,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// kill -9 of the process.
    Kill,
    /// Loss of un-synced data on a real file system; not available yet.
    Power,
}

#[derive(Args)]
struct RunArgs {
    /// Cycles of each target.
    #[arg(long, default_value_t = 100)]
    cycles: u64,
    /// Operations and kill plans follow from it; by default a random one, which is printed.
    #[arg(long)]
    seed: Option<u64>,
    /// Works here and keeps the files; by default in a temporary directory, kept only after a failure.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// What kind of crash.
    #[arg(long, value_enum, default_value_t = Mode::Kill)]
    mode: Mode,
    /// What is killed; by default the engine and then the daemon.
    #[arg(long, value_enum)]
    target: Vec<TargetKind>,
    /// Concurrent writers.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=100))]
    writers: u32,
    /// Keys of each writer.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    keys: u32,
    /// The daemon to start; by default the beachd beside this program.
    #[arg(long)]
    beachd: Option<PathBuf>,
    /// Plants a bug in the writing worker, to see that it is found.
    #[arg(long, value_enum)]
    plant: Option<Plant>,
}

#[derive(Args)]
struct WorkerArgs {
    #[arg(long)]
    data: PathBuf,
    #[arg(long)]
    seed: u64,
    #[arg(long)]
    keys: u32,
    /// The number of each writer's next operation.
    #[arg(long, value_delimiter = ',')]
    next: Vec<u64>,
    #[arg(long, value_enum)]
    plant: Option<Plant>,
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    match Cli::parse().command {
        Command::Run(args) => run(args),
        Command::Replay { artifact, dir } => {
            finish(in_directory(dir, |dir| cycle::replay(&artifact, dir)))
        }
        Command::Worker(args) => {
            let writers = u32::try_from(args.next.len()).unwrap_or(u32::MAX);
            let workload = Workload { seed: args.seed, writers, keys_per_writer: args.keys };
            child(engine::work(&args.data, workload, &args.next, args.plant))
        }
        Command::Dump { data, close } => child(engine::dump(&data, close)),
    }
}

fn run(args: RunArgs) -> ExitCode {
    if args.mode == Mode::Power {
        eprintln!(
            "beach-crash: --mode power is not available yet: losing power under a real file system needs a block \
             device that drops writes.\nPower loss is tested on the simulated disk: cargo test -p beachdb crash"
        );
        return ExitCode::from(2);
    }
    let targets = match args.target.is_empty() {
        true => vec![TargetKind::Engine, TargetKind::Daemon],
        false => args.target,
    };
    let settings = Settings {
        seed: args.seed.unwrap_or_else(|| OsRandom::new().next_u64() >> 32),
        cycles: args.cycles,
        targets,
        writers: args.writers,
        keys_per_writer: args.keys,
        plant: args.plant,
        beachd: args.beachd,
    };
    eprintln!("seed {}", settings.seed);
    finish(in_directory(args.dir, |dir| cycle::run(&settings, dir)))
}

/// Runs `work` in `dir`, or in a temporary directory that stays only when there is an artifact in it.
fn in_directory(
    dir: Option<PathBuf>,
    work: impl FnOnce(&std::path::Path) -> Result<Summary, Violation>,
) -> Result<Summary, Violation> {
    let say = |what: &dyn std::fmt::Display| Violation::Failed { what: what.to_string() };
    if let Some(dir) = dir {
        std::fs::create_dir_all(&dir).map_err(|e| say(&format!("{}: {e}", dir.display())))?;
        return work(&dir);
    }
    let temp = tempfile::Builder::new().prefix("beach-crash-").tempdir().map_err(|e| say(&e))?;
    let summary = work(temp.path())?;
    if summary.artifacts.iter().any(|artifact| artifact.starts_with(temp.path())) {
        eprintln!("the files are in {}", temp.keep().display());
    }
    Ok(summary)
}

/// The last line, and how to see a failure again.
fn finish(outcome: Result<Summary, Violation>) -> ExitCode {
    match outcome {
        Ok(summary) => {
            println!("{} passed, {} failed", summary.passed, summary.failed);
            for artifact in &summary.artifacts {
                println!("beach-crash replay {}", artifact.display());
            }
            if summary.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(violation) => {
            eprintln!("beach-crash: {violation}");
            ExitCode::FAILURE
        }
    }
}

fn child(outcome: Result<(), String>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            eprintln!("beach-crash worker: {what}");
            ExitCode::FAILURE
        }
    }
}
