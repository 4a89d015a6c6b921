//! **BeachDB**: a Raft-replicated key-value database that shows its work.
//!
//! The layers, lowest first; each imports only lower ones, and rooms of one layer never import each other
//! (`tests/layering.rs` reads the `use` lines and keeps it true).
//!
//! ```text
//! L5            server ─────────────── the mio loop; the only place that knows sockets and mio
//! L4            node ───────────────── joins raft + engine + proto: admission, apply, reads, replies (sans-I/O)
//! L3   engine        raft_log   client LSM engine · Raft log over wal · blocking client library
//! L2   wal  sstable  raft  proto ───── record log · tables · the algorithm · bytes <-> types
//! L1            env ────────────────── Clock, Random, Disk/File, Jobs: real and simulated
//! L0            base, limits ───────── ids, varints, checksums, batches, traces; every bound
//! ```
//!
//! Start reading at [`base::batch`] (what a write is), then [`wal`] (how it becomes durable), [`engine`] (where
//! it lives), [`node`] (who decides), and [`server`] (how it arrives).

/// Whether this bug is planted and awake; `false` unless the build is for the simulator's own test. See
/// [`base::planted`].
macro_rules! planted {
    ($bug:ident) => {
        $crate::base::planted::is($crate::base::planted::Bug::$bug)
    };
}

pub mod base;
pub mod client;
pub mod engine;
pub mod env;
pub mod limits;
pub mod node;
pub mod proto;
pub mod raft;
pub mod raft_log;
pub mod server;
pub mod sstable;
pub mod wal;

/// The version of the programs and the library.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
