//! Clusters of real `beachd` under load and faults. What their clients saw is judged by the simulator's own checker.
//!
//! ```text
//!   users (threads) ──► beachd 1, 2, 3 ◄── faults: kill -9, SIGSTOP, SIGTERM, transfer, remove, partitions
//!     │ asked at tick 7, answered at tick 9
//!     ▼
//!   Load ── per key ──► sim::check: linearizable?      and then once more with a planted stale read: rejected?
//! ```
//!
//! - One clock for all: a counter that is drawn from before an operation is sent and after its answer came.
//! - Every value is written once. A write whose outcome its client does not know stays open: it may take effect at any
//!   time, or never. One that was refused as not applied must not leave a trace.
//! - Every write is a batch of two: a put or delete of a contended key, and a receipt under a key of its own. So after the
//!   last fault *every* acknowledged write can be read back from every node, and not only the last one of each key.
//!   A batch is there as a whole or not at all.
//! - A floor of successes, so that a cluster that does nothing does not pass.
//!
//! `BEACH_SEED` picks the operations, keys, and pauses; the interleaving is the machine's, so a seed does not replay a run.

#![allow(
    clippy::disallowed_methods,
    reason = "black-box tests start programs, threads, and clocks"
)]

#[path = "../../../tests/common/mod.rs"]
mod black_box;
#[path = "../common/mod.rs"]
mod common;

mod disks;
mod faults;
mod kills;
mod load;
mod members;
mod network;
mod partitions;
mod restarts;
mod soak;
mod upgrade;
