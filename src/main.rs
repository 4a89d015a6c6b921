//! `beachd`: the daemon, `beachd rejoin`, `recover`, `restore`, and `verify`. Arguments, configuration, and exit codes; everything else is in [`beachdb::server`].
//!
//! Exit codes: 0 stopped as asked, 1 failed, 2 wrong usage.

use beachdb::env::os::{self, OsDisk, OsRandom};
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
    if let Some(done) = cli.command.as_ref().and_then(run_command) {
        return done;
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
    code(server::run(&config))
}

/// The commands that work on a directory while no daemon does; `None` for what is not one.
fn run_command(command: &Command) -> Option<i32> {
    let (mut random, mut input, mut out) =
        (OsRandom::new(), io::stdin().lock(), io::stdout().lock());
    match command {
        Command::Rejoin(args) => {
            Some(code(server::rejoin::run(args, &OsDisk::new(), &mut random, &mut input, &mut out)))
        }
        Command::Recover(args) => {
            Some(code(server::recover::run(args, &os::env(), &mut random, &mut input, &mut out)))
        }
        Command::Restore(args) => {
            Some(code(server::restore::run(args, &os::env(), &mut random, &mut out)))
        }
        Command::Verify(args) => Some(code(server::restore::verify(args, &os::env(), &mut out))),
    }
}

/// The exit code; an error is told first.
fn code<E: std::fmt::Display>(result: Result<(), E>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(e) => {
            eprintln!("beachd: {e}");
            1
        }
    }
}
