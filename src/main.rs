//! `beachd`: the daemon. Arguments, configuration, and exit codes; everything else is in [`beachdb::server`].
//!
//! Exit codes: 0 stopped as asked, 1 failed, 2 wrong usage.

use beachdb::env::os::OsDisk;
use beachdb::server::{self, Cli, Config};
use clap::Parser;

#[cfg(beach_planted)]
compile_error!("beachd is never built with planted bugs: build -p beach-tools --bin beach-sim");

fn main() {
    std::process::exit(run());
}

fn run() -> i32 {
    // Wrong flags, --help, and --version end the process here: 2, 0, and 0.
    let config = match Config::load(Cli::parse(), &OsDisk::new()) {
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
