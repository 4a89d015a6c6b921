//! `beachd`: the daemon, and `beachd rejoin`. Arguments, configuration, and exit codes; everything else is in [`beachdb::server`].
//!
//! Exit codes: 0 stopped as asked, 1 failed, 2 wrong usage.

use beachdb::env::os::{OsDisk, OsRandom};
use beachdb::server::config::Command;
use beachdb::server::{self, Cli, Config};
use clap::Parser;
use std::io;

#[cfg(beach_planted)]
compile_error!("beachd is never built with planted bugs: build -p beach-tools --bin beach-sim");

fn main() {
    std::process::exit(run());
}

fn run() -> i32 {
    // Wrong flags, --help, and --version end the process here: 2, 0, and 0.
    let cli = Cli::parse();
    if let Some(Command::Rejoin(args)) = &cli.command {
        let (mut input, mut out) = (io::stdin().lock(), io::stdout().lock());
        let done =
            server::rejoin::run(args, &OsDisk::new(), &mut OsRandom::new(), &mut input, &mut out);
        return match done {
            Ok(()) => 0,
            Err(e) => {
                eprintln!("beachd: {e}");
                1
            }
        };
    }
    let config = match Config::load(cli, &OsDisk::new()) {
        Ok(config) => config,
        Err(e) => {
            eprintln!("beachd: {e}");
            return 2;
        }
    };
    if let Err(e) =
        env_logger::Builder::new().parse_filters(&config.log).format_timestamp_millis().try_init()
    {
        eprintln!("beachd: cannot start the log: {e}");
        return 1;
    }
    match server::run(&config) {
        Ok(()) => 0,
        Err(e) => {
            eprintln!("beachd: {e}");
            1
        }
    }
}
