//! What the engine says about itself.

use super::{Engine, Flush};
use crate::sstable::{CacheStats, TableCacheStats};

/// Counted since the start.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    pub flushes: u64,
    pub flushed_bytes: u64,
    pub flush_ns: u64,
    pub versions_dropped: u64,
    pub freezes: u64,
    pub installs: u64,
    pub installs_failed: u64,
}

/// A snapshot of the engine's numbers; `STATS` shows it as JSON. Sizes in bytes.
#[derive(Clone, PartialEq, Debug, Default, serde::Serialize)]
pub struct EngineStats {
    /// Index of the last log entry applied.
    pub applied_index: u64,
    /// Its term.
    pub applied_term: u64,
    /// Index of the last log entry whose effects are in tables.
    pub flushed_index: u64,
    /// The last sequence number.
    pub last_seq: u64,
    /// The oldest sequence number that can be read.
    pub oldest_readable_seq: u64,
    /// Versions in the active memtable.
    pub memtable_entries: u64,
    /// All memory of the active memtable.
    pub memtable_bytes: u64,
    /// Frozen memtables waiting for their flush.
    pub frozen_memtables: u64,
    /// All memory of the frozen memtables.
    pub frozen_bytes: u64,
    /// Live tables.
    pub tables: u64,
    /// Bytes of live tables.
    pub table_bytes: u64,
    /// Versions in live tables, tombstones included.
    pub table_entries: u64,
    /// Tombstones in live tables.
    pub table_tombstones: u64,
    /// The block cache.
    pub cache: CacheStats,
    /// Tables that are open.
    pub open_tables: TableCacheStats,
    /// Pinned snapshots.
    pub snapshots: u64,
    /// The oldest pinned snapshot.
    pub oldest_snapshot: Option<u64>,
    /// Flushes since the start.
    pub flushes: u64,
    /// Table bytes they wrote.
    pub flushed_bytes: u64,
    /// Milliseconds they took to build.
    pub flush_ms: u64,
    /// Versions that they left out because no reader could want them.
    pub versions_dropped: u64,
    /// What the flush machinery does: `idle`, `building`, `installing`, `waiting for space`, or `failed`.
    pub flush_state: &'static str,
    /// Snapshots pinned to be sent to other replicas.
    pub file_snapshots: u64,
    /// The last log entry in the oldest of them.
    pub oldest_file_snapshot: Option<u64>,
    /// Bytes of the tables that they hold.
    pub file_snapshot_bytes: u64,
    /// Tables that are replaced and not yet removed: a snapshot or a read holds them.
    pub obsolete_tables: u64,
    /// Their bytes.
    pub obsolete_bytes: u64,
    /// Snapshots of other replicas installed since the start.
    pub installs: u64,
    /// Those that were refused or found no room.
    pub installs_failed: u64,
    /// What the install of a snapshot does: `idle`, `checking`, `waiting for a flush`, `installing`, or `failed`.
    pub install_state: &'static str,
    /// Why writes are refused, if they are.
    pub read_only: Option<String>,
}

/// The size of a memtable when it was frozen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FrozenSize {
    /// Versions in it.
    pub entries: u64,
    /// All of its memory.
    pub bytes: u64,
}

impl Engine {
    /// How many memtables with entries were frozen since the start, and the size of the last one: so that the owner
    /// can tell that one was, without a list here that grows when nobody asks.
    #[must_use]
    pub const fn freezes(&self) -> (u64, FrozenSize) {
        (self.counters.freezes, self.last_frozen)
    }

    /// The numbers now.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        let tables = &self.version;
        let sum =
            |of: fn(&super::edit::TableMeta) -> u64| tables.tables().map(|t| of(&t.meta)).sum();
        let holds = self.holds.stats();
        EngineStats {
            applied_index: self.applied.0.0,
            applied_term: self.applied.1.0,
            flushed_index: self.durable.applied.0.0,
            last_seq: self.last_seq.0,
            oldest_readable_seq: self.durable.oldest_readable.0,
            memtable_entries: self.active.len() as u64,
            memtable_bytes: self.active.memory_bytes() as u64,
            frozen_memtables: self.frozen.len() as u64,
            frozen_bytes: self.frozen.iter().map(|f| f.memtable.memory_bytes() as u64).sum(),
            tables: tables.len() as u64,
            table_bytes: self.version.bytes(),
            table_entries: sum(|t| t.entries),
            table_tombstones: sum(|t| t.deletes),
            cache: self.tables.blocks().stats(),
            open_tables: self.tables.stats(),
            snapshots: self.snapshots.values().map(|&n| n as u64).sum(),
            oldest_snapshot: self.snapshots.keys().next().map(|s| s.0),
            flushes: self.counters.flushes,
            flushed_bytes: self.counters.flushed_bytes,
            flush_ms: self.counters.flush_ns / 1_000_000,
            versions_dropped: self.counters.versions_dropped,
            flush_state: match self.flush {
                Flush::Idle => "idle",
                Flush::Building { .. } => "building",
                Flush::Installing { .. } => "installing",
                Flush::Waiting { .. } => "waiting for space",
                Flush::Failed => "failed",
            },
            file_snapshots: holds.pins,
            oldest_file_snapshot: holds.oldest,
            file_snapshot_bytes: holds.bytes,
            obsolete_tables: holds.obsolete,
            obsolete_bytes: holds.obsolete_bytes,
            installs: self.counters.installs,
            installs_failed: self.counters.installs_failed,
            install_state: self.incoming.as_ref().map_or("idle", super::snapshot::Incoming::name),
            read_only: self.read_only.clone(),
        }
    }
}
