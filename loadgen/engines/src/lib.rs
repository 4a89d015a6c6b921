//! The embedded engines that BeachDB is measured against, behind the trait of `beach-bench`, and the run that lets them
//! take turns: see [`turns`] for what is run and [`table`] for what is made of it.
//!
//! # Equal settings, and where engines differ
//! All get the same memtable, cache, block size, filter bits, and compression ([`EngineOptions`]); everything else is what the engine does
//! by default: its number of background threads above all.
//!
//! | | without a sync, a write is | a settled engine |
//! |---|---|---|
//! | BeachDB | in the operating system | has flushed and compacts nothing |
//! | RocksDB | in the operating system | `wait_for_compact` with a flush |
//! | fjall | in the operating system | `rotate_memtable_and_wait`, then no flush or compaction for a while |
//! | redb | **in memory** (`Durability::None`): lost with the process | has committed durably |
//!
//! [`EngineOptions`]: beach_loadgen::embedded::EngineOptions

pub mod fjall;
pub mod redb;
#[cfg(feature = "rocksdb")]
pub mod rocksdb;
pub mod table;
pub mod turns;

use beach_loadgen::embedded::{self, Beachdb, BenchOptions, BenchResult, Engine};

/// The engines of this build.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum Kind {
    /// The house's own
    Beachdb,
    /// RocksDB, the bundled release build
    #[cfg(feature = "rocksdb")]
    Rocksdb,
    /// fjall, an LSM tree in Rust
    Fjall,
    /// redb, a B+tree in Rust
    Redb,
}

impl Kind {
    /// The name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Beachdb => Beachdb::NAME,
            #[cfg(feature = "rocksdb")]
            Self::Rocksdb => rocksdb::Rocksdb::NAME,
            Self::Fjall => fjall::Fjall::NAME,
            Self::Redb => redb::Redb::NAME,
        }
    }

    /// The version that is compiled in, from the lock file.
    #[must_use]
    pub fn version(self) -> String {
        let package = match self {
            Self::Beachdb => return beachdb::VERSION.into(),
            #[cfg(feature = "rocksdb")]
            Self::Rocksdb => "librocksdb-sys", // x.y.z+the version of RocksDB
            Self::Fjall => "fjall",
            Self::Redb => "redb",
        };
        let name = format!("name = \"{package}\"\nversion = \"");
        let lock = include_str!("../Cargo.lock");
        let rest = lock.split_once(&name).map_or("", |(_, rest)| rest);
        let version = rest.split('"').next().unwrap_or_default();
        version.split_once('+').map_or(version, |(_, bundled)| bundled).into()
    }

    /// Runs workloads on this engine, in this process.
    pub fn run(self, options: &BenchOptions, each: impl FnMut(&BenchResult)) -> Result<(), String> {
        match self {
            Self::Beachdb => embedded::run::<Beachdb>(options, each),
            #[cfg(feature = "rocksdb")]
            Self::Rocksdb => embedded::run::<rocksdb::Rocksdb>(options, each),
            Self::Fjall => embedded::run::<fjall::Fjall>(options, each),
            Self::Redb => embedded::run::<redb::Redb>(options, each),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn every_engine_has_a_version() {
        for kind in Kind::value_variants() {
            assert!(kind.version().split('.').count() >= 3, "{kind:?}: {:?}", kind.version());
        }
    }
}
