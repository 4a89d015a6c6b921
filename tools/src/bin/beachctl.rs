//! `beachctl`: puts, gets, loads, scans, asks, and explains, from a shell. See `beach_tools::ctl`.

use std::process::ExitCode;

fn main() -> ExitCode {
    beach_tools::ctl::main()
}
