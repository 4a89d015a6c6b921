//! `beach-bench`: what this machine can do at all (`probe`, `ideal`). See `--help`; the parts are in `lib.rs`.

use beach_loadgen::ideal::{self, IdealOptions, SyncMode};
use beach_loadgen::probe::{self, ProbeOptions};
use beach_loadgen::report::write_json;
use beachdb::base::units::{parse_bytes, parse_duration};
use clap::{Parser, Subcommand};
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  beach-bench probe --dir /var/tmp --json probe.json
  beach-bench ideal --listen 127.0.0.1:7499 --sync inline --dir /var/tmp
      then, in another terminal: beach-loadgen --endpoints 127.0.0.1:7499 --workload put --clients 64";

#[derive(Parser)]
#[command(name = "beach-bench", version, about = "What the machine can do", after_help = EXAMPLES)]
struct Args {
    #[command(subcommand)]
    command: Command,
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
    },
}

fn main() -> ExitCode {
    match run(Args::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("beach-bench: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), String> {
    match command {
        Command::Probe { dir, duration, key_size, value_size, files_only, json } => {
            let options = ProbeOptions { dir, duration, key_size, value_size, files_only };
            let report = probe::run(&options)?;
            json.map_or(Ok(()), |path| write_json(&path, &report))
        }
        Command::Ideal { listen, sync, dir, log_size } => {
            let ready = |address| {
                println!("ideal ready listen={address}");
                // A reader that went away does not matter to the server.
                drop(std::io::stdout().flush());
            };
            let options = IdealOptions { listen, dir, sync, log_bytes: log_size };
            ideal::serve(&options, ready, &AtomicBool::new(false)).map_err(|e| e.to_string())
        }
    }
}
