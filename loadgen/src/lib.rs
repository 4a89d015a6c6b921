//! `beach-loadgen` (p50/p99 over the wire) and `beach-bench` (the engine embedded, and what the machine can do at
//! all): the pieces they share.
//!
//! ```text
//!   args ──▶ main ─┬─▶ driver ──▶ target (frames | RESP) ──▶ workload (keys, values, mixes)
//!                  └─▶ report ◀── stats ◀── driver
//!   bin/beach-bench ─┬─▶ probe ──▶ files, ideal (followers), driver
//!                    └─▶ embedded ──▶ beachdb::engine::Db
//! ```
//!
//! etcd speaks gRPC, whose client takes dependencies that this workspace does not want: `loadgen/peers` is a build of its own
//! with a loop of its own, around the same arguments, workload, statistics, and report.

pub mod args;
pub mod clock;
pub mod driver;
pub mod embedded;
pub mod files;
pub mod follow;
pub mod followers;
pub mod ideal;
pub mod probe;
pub mod report;
pub mod stats;
pub mod target;
pub mod workload;
