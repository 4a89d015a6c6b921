//! `beach-loadgen` (p50/p99 over the wire) and `beach-bench` (the engine embedded, and what the machine can do at
//! all): the pieces they share.
//!
//! ```text
//!   main ─┬─▶ driver ──▶ target (frames | RESP) ──▶ workload (keys, values, mixes)
//!         └─▶ report ◀── stats ◀── driver
//!   bin/beach-bench ─┬─▶ probe ──▶ files, ideal, driver
//!                    └─▶ embedded ──▶ beachdb::engine::Db
//! ```

pub mod clock;
pub mod driver;
pub mod embedded;
pub mod files;
pub mod follow;
pub mod ideal;
pub mod probe;
pub mod report;
pub mod stats;
pub mod target;
pub mod workload;
