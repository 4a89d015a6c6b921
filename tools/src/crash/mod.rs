//! `beach-crash`: kill -9 a database that people write to, start it again, and compare with what it acknowledged.
//!
//! ```text
//!             ┌──────────────── one cycle ─────────────────────────────────────────────────────────────┐
//!  writers ──►│ write ─► kill -9 ─► copy files ─► recover ─► verify ─► kill -9 ─► recover ─► same digest?│──► next
//!             └─────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Two targets: the embedded engine (`beachdb::engine::Db` in a worker process that reports on a pipe) and the
//! daemon (the real `beachd`, written to through `beachdb::client`). The files go from cycle to cycle, so that
//! recoveries, flushes, and segment changes pile up. One in eight kills strikes while the database starts.
//!
//! What is checked ([`oracle`]): every acknowledged operation is there; an operation in flight is there as a
//! whole or not at all; nothing else is there; a second recovery shows the same content. On failure the files as
//! the kill left them, the oracle, and the verdict are kept as an artifact, and `replay` judges them again.
//!
//! What it does not do: lose power. `kill -9` leaves the kernel's page cache alive, so this loop cannot see a
//! missing fsync; the simulated disk can (`beachdb::env::sim`), and the power mode on real file systems is to come.
//!
//! The moment of a kill is a race with the machine, so one seed gives the same operations and the same plan but
//! not the same crash. That is why an artifact carries files and not only a seed.

#![expect(
    clippy::disallowed_methods,
    reason = "this tool starts processes, waits, and copies files"
)]

pub mod artifact;
pub mod cycle;
pub mod daemon;
pub mod engine;
pub mod oracle;
pub mod pipe;
pub mod process;
pub mod workload;
pub mod writer;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What is killed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetKind {
    /// The embedded engine, in a worker process.
    Engine,
    /// The daemon, over the wire.
    Daemon,
}

impl TargetKind {
    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Engine => "engine",
            Self::Daemon => "daemon",
        }
    }
}

/// A bug to plant in the worker, to see that the checker finds it. The database itself is left alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Plant {
    /// Reports the acknowledgement before it writes.
    EarlyAck,
    /// Writes each change of an operation as a batch of its own.
    SplitBatch,
}

/// What `run` does.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// Operations and kill plans follow from it.
    pub seed: u64,
    /// Cycles of each target.
    pub cycles: u64,
    /// The targets, one after the other.
    pub targets: Vec<TargetKind>,
    /// Concurrent writers.
    pub writers: u32,
    /// Keys of each writer.
    pub keys_per_writer: u32,
    /// The planted bug.
    #[serde(default)]
    pub plant: Option<Plant>,
    /// The `beachd` to start; by default the one beside this program.
    #[serde(default)]
    pub beachd: Option<PathBuf>,
}
