//! `beach-loadgen`: p50/p99 over the wire.
fn main() {}
