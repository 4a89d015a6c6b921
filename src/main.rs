//! `beachd`: the daemon.
fn main() {}
