//! `beach-bench`: the engine embedded, and what this machine can do at all (`probe`, `ideal`). See `--help`; the
//! parts are in `lib.rs`.

use beach_loadgen::embedded::{
    self, Beachdb, BenchOptions, BenchResult, BenchWorkload, Compression, EngineOptions, Leave,
};
use beach_loadgen::ideal::{self, IdealOptions, SyncMode};
use beach_loadgen::probe::{self, ProbeOptions};
use beach_loadgen::report::{write_json, write_text};
use beachdb::base::units::{parse_bytes, parse_duration};
use clap::{Parser, Subcommand};
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

const EXAMPLES: &str = "\
Workloads:
  fillseq fillrandom fillsync fillbatchsync   from an empty directory: put each key once; fillsync a hundredth of
                                              them, each synced; fillbatchsync 100 to a batch and a sync
  overwrite readrandom readmissing readseq seekrandom deleterandom reopen
                                              on what the workload before left, else on a filled and settled database
  filteronly                                  the bloom filter alone: what readmissing cannot go below
Behind every workload that writes the engine is settled: not in ops/s, but in cpu, amplification, and sizes.
Other engines (rocksdb, fjall, redb) and rounds that alternate: bash scripts/compare-engines.sh

Examples:
  beach-bench --workload fillrandom,readrandom,readseq --num 1000000 --json bench.json
  beach-bench --workload fillrandom,overwrite,readrandom --num 10000000 --reads 1000000 --cache 64MiB
  beach-bench probe --dir /var/tmp --json probe.json
  beach-bench ideal --listen 127.0.0.1:7499 --sync inline --dir /var/tmp
      then, in another terminal: beach-loadgen --endpoints 127.0.0.1:7499 --workload put --clients 64
  beach-bench ideal --followers 2       the same for three nodes, so three logs of 256 MiB";

#[derive(Parser)]
#[command(
    name = "beach-bench",
    version,
    about = "The engine embedded, and what the machine can do",
    after_help = EXAMPLES,
    args_conflicts_with_subcommands = true
)]
struct Args {
    /// The engine; others are in a build of their own: beach-bench-peers
    #[arg(long, value_parser = ["beachdb"], default_value = "beachdb")]
    engine: String,
    /// What to run, in order
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "fillseq,fillrandom,overwrite,fillsync,fillbatchsync,fillrandom,readrandom,readmissing,readseq,seekrandom,deleterandom"
    )]
    workload: Vec<BenchWorkload>,
    /// Keys
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=u64::from(u32::MAX)))]
    num: u64,
    /// Operations of the read workloads [default: --num]
    #[arg(long)]
    reads: Option<u64>,
    /// Operations of overwrite and deleterandom [default: --num]
    #[arg(long)]
    writes: Option<u64>,
    /// Bytes in a key
    #[arg(long, default_value_t = 16)]
    key_size: usize,
    /// Bytes in a value
    #[arg(long, default_value_t = 100)]
    value_size: usize,
    /// Seed of the orders
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Memory of a memtable at which it is flushed
    #[arg(long, default_value = "64MiB", value_parser = parse_bytes)]
    memtable: u64,
    /// Memory for blocks of tables
    #[arg(long, default_value = "256MiB", value_parser = parse_bytes)]
    cache: u64,
    /// Compression of tables
    #[arg(long, value_enum, default_value = "none")]
    compression: Compression,
    /// Keep the database at the end
    #[arg(long)]
    keep: bool,
    /// Go on with a database that --keep left, with the same --num and sizes
    #[arg(long)]
    existing: bool,
    /// Where the database is made: empty or missing, and removed at the end unless --keep
    #[arg(long, default_value = "beach-bench-data")]
    dir: PathBuf,
    /// Write one JSON object for each workload; - is stdout
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Measure this machine: append + fdatasync by file mode, loopback echo, the ideal server
    Probe {
        /// Where files are made; use the file system of the data directory
        #[arg(long, default_value = ".")]
        dir: PathBuf,
        /// How long each row is measured
        #[arg(long, default_value = "2s", value_parser = parse_duration)]
        duration: Duration,
        /// Bytes in a key
        #[arg(long, default_value_t = 16)]
        key_size: usize,
        /// Bytes in a value
        #[arg(long, default_value_t = 100)]
        value_size: usize,
        /// Only append + fdatasync, no servers
        #[arg(long)]
        files_only: bool,
        /// Write the rows as JSON; - is stdout
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// Run the ideal server by itself, until it is killed
    Ideal {
        /// Where to listen
        #[arg(long, default_value = "127.0.0.1:7499")]
        listen: SocketAddr,
        /// Who writes and syncs the log
        #[arg(long, value_enum, default_value = "inline")]
        sync: SyncMode,
        /// Where the log is made
        #[arg(long, default_value = ".")]
        dir: PathBuf,
        /// Size of the log; it begins again at the front when it is full
        #[arg(long, default_value = "256MiB", value_parser = parse_bytes)]
        log_size: u64,
        /// Followers: 2 make it a cluster of three, which answers after its own sync and that of one of them
        #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=ideal::MAX_FOLLOWERS as u64))]
        followers: u64,
    },
}

fn main() -> ExitCode {
    let mut args = Args::parse();
    let outcome = match args.command.take() {
        Some(command) => run(command),
        None => run_embedded(args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("beach-bench: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run_embedded(args: Args) -> Result<(), String> {
    let options = BenchOptions {
        workloads: args.workload,
        num: args.num,
        reads: args.reads,
        writes: args.writes,
        key_size: args.key_size,
        value_size: args.value_size,
        dir: args.dir,
        seed: args.seed,
        engine: EngineOptions {
            memtable_bytes: usize::try_from(args.memtable).map_err(|e| e.to_string())?,
            cache_bytes: args.cache,
            compression: args.compression,
            ..EngineOptions::default()
        },
        existing: args.existing,
        settle: true,
        leave: if args.keep { Leave::Closed } else { Leave::Nothing },
    };
    let to_stdout = args.json.as_deref() == Some(Path::new("-"));
    let mut lines = String::new();
    if !to_stdout {
        println!("{}", BenchResult::text_header());
    }
    embedded::run::<Beachdb>(&options, |result| {
        if to_stdout {
            println!("{}", result.to_json());
        } else {
            println!("{}", result.to_text());
        }
        lines.push_str(&result.to_json());
        lines.push('\n');
    })?;
    match args.json {
        Some(path) if !to_stdout => write_text(&path, &lines),
        _ => Ok(()),
    }
}

fn run(command: Command) -> Result<(), String> {
    match command {
        Command::Probe { dir, duration, key_size, value_size, files_only, json } => {
            let options = ProbeOptions { dir, duration, key_size, value_size, files_only };
            let report = probe::run(&options)?;
            json.map_or(Ok(()), |path| write_json(&path, &report))
        }
        Command::Ideal { listen, sync, dir, log_size, followers } => {
            let ready = |address| {
                println!("ideal ready listen={address}");
                // A reader that went away does not matter to the server.
                drop(std::io::stdout().flush());
            };
            let followers = followers as usize;
            let options = IdealOptions { listen, dir, sync, log_bytes: log_size, followers };
            ideal::serve(&options, ready, &AtomicBool::new(false)).map_err(|e| e.to_string())
        }
    }
}
