//! What the engine says about itself.

use super::compaction::{Reason, RunningCompaction};
use super::edit::{MAX_LEVELS, TableMeta};
use super::{Engine, Flush};
use crate::sstable::{CacheStats, TableCacheStats};
use std::collections::VecDeque;

/// Flushes and compactions that are remembered.
const HISTORY: usize = 32;

/// Counted since the start.
#[derive(Clone, Debug, Default)]
pub(super) struct Counters {
    pub flushes: u64,
    pub flushed_bytes: u64,
    pub flush_ns: u64,
    pub versions_dropped: u64,
    pub freezes: u64,
    /// Freezes of memtables without entries counted too.
    pub generations: u64,
    pub installs: u64,
    pub installs_failed: u64,
    /// The time that the flush took which is installed next.
    pub last_flush_ns: u64,
    pub levels: [LevelCounters; MAX_LEVELS as usize],
    pub compactions: u64,
    pub moves: u64,
    pub tombstones_dropped: u64,
    pub history: VecDeque<Work>,
}

/// What compactions into one level did.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LevelCounters {
    pub read_bytes: u64,
    pub written_bytes: u64,
    pub moved_bytes: u64,
}

/// A flush or a compaction that was installed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Work {
    /// Why it was compacted; `None` for a flush.
    pub reason: Option<Reason>,
    /// Whether the tables went down as they were.
    pub moved: bool,
    /// From this level (a flush: 0) …
    pub level: u8,
    /// … into this one.
    pub output: u8,
    /// Tables that it took (a flush: 0).
    pub inputs: u64,
    /// Tables that came of it.
    pub outputs: u64,
    /// Bytes of the tables that were read.
    pub read_bytes: u64,
    /// Bytes of the tables that were written.
    pub written_bytes: u64,
    /// Bytes of the tables that were moved.
    pub moved_bytes: u64,
    /// Versions that were left out because no reader can want them.
    pub versions_dropped: u64,
    /// Tombstones that were left out because they hid nothing any more.
    pub tombstones_dropped: u64,
    /// Milliseconds that it took, without the manifest.
    pub ms: u64,
}

impl Counters {
    /// A compaction was installed.
    pub fn note(&mut self, work: Work) {
        let level = &mut self.levels[usize::from(work.output)];
        level.read_bytes += work.read_bytes;
        level.written_bytes += work.written_bytes;
        level.moved_bytes += work.moved_bytes;
        if work.moved {
            self.moves += work.inputs;
        } else {
            self.compactions += 1;
        }
        self.versions_dropped += work.versions_dropped;
        self.tombstones_dropped += work.tombstones_dropped;
        self.remember(work);
    }

    /// The table of a flush was installed.
    pub fn note_flush(&mut self, table: &TableMeta) {
        self.levels[0].written_bytes += table.bytes;
        self.remember(Work {
            reason: None,
            moved: false,
            level: 0,
            output: 0,
            inputs: 0,
            outputs: 1,
            read_bytes: 0,
            written_bytes: table.bytes,
            moved_bytes: 0,
            versions_dropped: 0,
            tombstones_dropped: 0,
            ms: self.last_flush_ns / 1_000_000,
        });
    }

    fn remember(&mut self, work: Work) {
        if self.history.len() >= HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(work);
    }
}

/// One level, for [`EngineStats`].
#[derive(Clone, Copy, PartialEq, Debug, Default, serde::Serialize)]
pub struct LevelStats {
    /// Its number.
    pub level: u8,
    /// Tables in it.
    pub tables: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Versions in them.
    pub entries: u64,
    /// Tombstones among them.
    pub tombstones: u64,
    /// The bytes that it should have; 0 for level 0 and for a level that should be empty.
    pub target_bytes: u64,
    /// From 1 on it is to be compacted.
    pub score: f64,
    /// Bytes that compactions into it read, since the start.
    pub read_bytes: u64,
    /// Bytes that compactions into it wrote; for level 0, flushes.
    pub written_bytes: u64,
    /// Bytes of the tables that were moved into it.
    pub moved_bytes: u64,
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
    /// Range deletes that are live: in a memtable, or needed by a table.
    pub range_deletes: u64,
    /// Of these, those in the manifest.
    pub flushed_range_deletes: u64,
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
    /// The levels, those that are empty as well.
    pub levels: Vec<LevelStats>,
    /// What compaction does: `idle`, `running`, `waiting for the manifest`, `installing`, `waiting for space`, or `failed`.
    pub compaction_state: &'static str,
    /// The one that runs.
    pub compaction: Option<RunningCompaction>,
    /// Whether a compaction that was asked for is not done.
    pub compaction_asked_for: bool,
    /// Compactions since the start, without moves.
    pub compactions: u64,
    /// Tables that were moved to another level as they were.
    pub tables_moved: u64,
    /// Bytes that compactions have yet to read and write, about.
    pub compaction_debt_bytes: u64,
    /// Tombstones that compactions left out because they hid nothing any more.
    pub tombstones_dropped: u64,
    /// Tables that compaction leaves alone because they cannot be read: number and reason.
    pub unreadable_tables: Vec<(u64, String)>,
    /// How much writers are slowed down: 0 not at all, 1 they are refused.
    pub write_pressure: f64,
    /// The last flushes and compactions, oldest first.
    pub history: Vec<Work>,
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
        let levels = (0..MAX_LEVELS).map(|level| self.level_stats(level)).collect();
        let avoided = self.compaction.avoided.iter();
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
            range_deletes: self.range_deletes.len() as u64,
            flushed_range_deletes: self.durable.range_deletes.len() as u64,
            snapshots: self.snapshots.values().map(|&n| n as u64).sum(),
            oldest_snapshot: self.snapshots.keys().next().map(|s| s.0),
            flushes: self.counters.flushes,
            flushed_bytes: self.counters.flushed_bytes,
            flush_ms: self.counters.flush_ns / 1_000_000,
            versions_dropped: self.counters.versions_dropped,
            flush_state: match self.flush {
                Flush::Idle => "idle",
                Flush::Building { .. } => "building",
                Flush::Built { .. } => "waiting for the manifest",
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
            levels,
            compaction_state: self.compaction.state_name(),
            compaction: self.compaction.running(),
            compaction_asked_for: self.is_compacting_range(),
            compactions: self.counters.compactions,
            tables_moved: self.counters.moves,
            compaction_debt_bytes: self.compaction.shape.debt,
            tombstones_dropped: self.counters.tombstones_dropped,
            unreadable_tables: avoided.map(|(number, a)| (*number, a.why.clone())).collect(),
            write_pressure: self.pressure().value(),
            history: self.counters.history.iter().copied().collect(),
            read_only: self.read_only.clone(),
        }
    }

    fn level_stats(&self, level: u8) -> LevelStats {
        let at = usize::from(level);
        let (shape, counters) = (&self.compaction.shape.levels[at], &self.counters.levels[at]);
        let sum = |of: fn(&TableMeta) -> u64| {
            self.version.level(level).iter().map(|table| of(&table.meta)).sum()
        };
        LevelStats {
            level,
            tables: shape.tables as u64,
            bytes: shape.bytes,
            entries: sum(|t| t.entries),
            tombstones: sum(|t| t.deletes),
            target_bytes: shape.target,
            score: shape.score,
            read_bytes: counters.read_bytes,
            written_bytes: counters.written_bytes,
            moved_bytes: counters.moved_bytes,
        }
    }
}
