//! L3: the LSM engine. Batches go into a memtable; full memtables become tables; reads merge both.
//!
//! ```text
//!  apply(index, term, ops) ──▶ active memtable ──freeze──▶ frozen memtables ──flush (jobs)──▶ tables, level 0
//!                                     │                          │                               │
//!  get / scan at a sequence number ◀──┴────────── newest first ──┴───────────────────────────────┤
//!                                                                   tables, levels 1 to 6 ◀── compaction (jobs)
//! ```
//!
//! | file | what |
//! |---|---|
//! | `conditions` | what the conditions of a batch are judged by, when it may block |
//! | [`memtable`] | every version since the last freeze, sorted, in memory |
//! | [`edit`] | version edits and the state they add up to: bytes ↔ types |
//! | [`manifest`] | edits on the disk, `CURRENT` |
//! | `state` | what edits add up to |
//! | [`version`] | the set of live tables, by levels |
//! | `flush` | the jobs that turn a memtable into an installed table |
//! | [`compaction`] | merging tables into deeper levels: policy, job, install, and the pressure on writers |
//! | `gc` | which versions may go: the one rule of flush and compaction |
//! | `level_iter` | the tables of a level as one source |
//! | `merge`, `run`, `visible` | what a reader sees of all sources, forwards and backwards |
//! | `scan`, `walk` | that in bounded slices, and key by key |
//! | [`range_delete`] | range deletes: what they hide, and when they are forgotten |
//! | `recovery` | opening a directory |
//! | [`snapshot`] | sending the tables to another replica, installing those of another |
//! | `scrub` | checks every block, while it is in use |
//! | [`checkpoint`] | a copy of what is flushed, by hard links |
//! | [`db`] | [`Db`]: the engine as a library, with its own log |
//!
//! [`Engine`] is single-threaded and deterministic: it blocks only in [`Engine::open`], reads no clock, and its work
//! on the disk is jobs whose completions the owner brings back. It has no log: the owner replays one from
//! [`Engine::flushed_applied`] on. In the daemon that is the Raft log; in [`Db`] the log is its own.
//!
//! Invariants:
//! - `flushed_applied <= applied`, and `oldest_readable_seq <= last_seq`; none ever goes back.
//! - Sequence numbers are assigned at apply, one an operation, in log order, and depend on nothing else.
//! - Everything in a table is older than everything in a frozen memtable, and that is older than everything in the active
//!   one; tables are in order as [`version`] says. So the first hit counts.
//! - A read at a sequence number sees exactly the versions at or before it, or gets `SnapshotTooOld`.
//! - apply never refuses; [`Engine::write_room`] tells the owner when to stop asking.

pub mod checkpoint;
pub mod compaction;
mod conditions;
pub mod db;
pub mod edit;
pub mod error;
mod flush;
mod gc;
mod level_iter;
pub mod manifest;
pub mod memtable;
mod merge;
pub mod range_delete;
mod recovery;
mod run;
mod scan;
mod scrub;
pub mod snapshot;
mod state;
mod stats;
#[cfg(test)]
mod tests;
pub mod version;
mod visible;
mod walk;

pub use compaction::{CompactionOptions, MAX_WRITE_STALL_NS, Pressure, RunningCompaction};
pub use db::{
    Db, DbCursor, DbError, DbIter, DbOptions, DbStats, Effect, ReadOnlyDb, ReadOnlyIter, Snapshot,
    WriteOptions,
};
pub use error::EngineError;
pub use scan::{Scan, ScanEntry, ScanJob, ScanOptions, ScanSlice};
pub use scrub::{Scrub, ScrubReport};
pub use snapshot::{FileSnapshot, InstallFault, SnapshotFiles};
pub use stats::{EngineStats, FrozenSize, LevelStats, Work};

use crate::base::batch::{BatchRef, Op, RESERVED_KEY_END, RESERVED_KEY_PREFIX};
use crate::base::internal_key::ValueKind;
use crate::base::{InternalOp, LogIndex, Nanos, SequenceNumber, Term};
use crate::env::{Completion, Env, JobId, JobOutput, Lane};
use crate::limits::{
    DEFAULT_CACHE_BYTES, DEFAULT_MEMTABLE_BYTES, MANIFEST_ROTATE_BYTES, MAX_FROZEN_MEMTABLES,
    MAX_OPEN_TABLES,
};
use crate::sstable::builder::BLOCK_BYTES_RANGE;
use crate::sstable::{BloomPolicy, BuildOptions, Compression, Fetch, Probe, TableCache};
use bytes::Bytes;
use compaction::Compaction;
use edit::{State, VersionEdit};
use flush::{BuildJob, Built, InstallJob, Installed};
use manifest::{Change, Manifest};
use memtable::{Lookup, Memtable};
use range_delete::RangeDeletes;
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use version::{LiveTable, Version};

/// After a full disk, how long until a flush is tried again.
const RETRY_NS: u64 = 1_000_000_000;

/// How the engine is laid out. The defaults are the daemon's.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// The directory; created if missing. The owner holds its lock.
    pub dir: PathBuf,
    /// Memory of the active memtable at which it is frozen and flushed; at least 64 KiB make sense.
    pub memtable_bytes: usize,
    /// Size of a table's data blocks; 64 bytes to 1 MiB, others are cut to that.
    pub block_bytes: usize,
    /// Bits of a table's bloom filter for each key.
    pub bits_per_key: u32,
    /// How data blocks of new tables are stored. Tables of either kind are read whatever this says.
    pub compression: Compression,
    /// Capacity of the block cache. Index and filter of open tables count against it.
    pub cache_bytes: u64,
    /// Most tables that are open at once.
    pub max_open_tables: usize,
    /// Size at which the manifest is replaced by a new one.
    pub manifest_rotate_bytes: u64,
    /// Sizes of levels and tables.
    pub compaction: CompactionOptions,
}

impl EngineOptions {
    /// The defaults in `dir`.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            memtable_bytes: DEFAULT_MEMTABLE_BYTES,
            block_bytes: 4096,
            bits_per_key: 10,
            compression: Compression::None,
            cache_bytes: DEFAULT_CACHE_BYTES,
            max_open_tables: MAX_OPEN_TABLES,
            manifest_rotate_bytes: MANIFEST_ROTATE_BYTES,
            compaction: CompactionOptions::default(),
        }
    }

    fn build_options(&self) -> BuildOptions {
        BuildOptions {
            block_bytes: self
                .block_bytes
                .clamp(*BLOCK_BYTES_RANGE.start(), *BLOCK_BYTES_RANGE.end()),
            filter: Arc::new(BloomPolicy::new(self.bits_per_key)),
            compression: self.compression,
            ..BuildOptions::default()
        }
    }
}

/// The sequence numbers that apply gave to a batch. An empty batch has `last_seq` = `first_seq` - 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Applied {
    /// Of its first operation.
    pub first_seq: SequenceNumber,
    /// Of its last operation.
    pub last_seq: SequenceNumber,
}

/// What a get found, or the work that finds it.
#[derive(Debug)]
pub enum Get {
    /// The value, and the sequence number that wrote it.
    Found {
        /// The sequence number that wrote it.
        seq: SequenceNumber,
        /// The value.
        value: Bytes,
    },
    /// There is none.
    Missing,
    /// A table may hold it.
    NeedsDisk(GetJob),
}

/// The rest of a get: pure, over immutable tables, for [`Lane::Read`].
#[derive(Debug)]
pub struct GetJob {
    key: Vec<u8>,
    probe: Probe,
    seq: SequenceNumber,
    /// Older versions are hidden by a range delete.
    hidden_below: SequenceNumber,
    /// Tables that may hold the key, newest first.
    tables: Vec<Arc<LiveTable>>,
}

impl GetJob {
    /// Looks the key up; with the value comes the sequence number that wrote it. Blocks on the disk. An error
    /// concerns this get only.
    pub fn run(self) -> Result<Option<(SequenceNumber, Bytes)>, EngineError> {
        for live in &self.tables {
            if let Some((seq, kind, value)) =
                live.open()?.get(&self.key, self.seq, &self.probe, Fetch::Point)?
            {
                let visible = kind == ValueKind::Put && seq >= self.hidden_below;
                return Ok(visible.then_some((seq, value)));
            }
        }
        Ok(None)
    }
}

/// Whether more writes should be admitted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WriteRoom {
    /// Yes.
    Ok,
    /// No: [`MAX_FROZEN_MEMTABLES`] wait for their flush and the active one is full, or compaction is far behind
    /// ([`Engine::pressure`]). Apply would still work, and memory or what reads have to look at would grow.
    Stalled,
}

/// What a completed job meant.
pub enum JobOutcome {
    /// It was not the engine's; here it is back.
    NotMine(Completion),
    /// Nothing that the owner acts on.
    Nothing,
    /// A flush is durable: the log up to this entry is no longer needed.
    Flushed {
        /// Its index.
        index: LogIndex,
        /// Its term.
        term: Term,
        /// The new table and its bytes; `None` when there was nothing but no-ops to flush.
        table: Option<(u64, u64)>,
    },
    /// A snapshot is durably all that the engine holds.
    SnapshotInstalled {
        /// The last entry in it.
        index: LogIndex,
        /// Its term.
        term: Term,
        /// The rows under the reserved prefix, by ascending key.
        rows: InternalRows,
    },
    /// A snapshot was not installed; everything is as it was.
    SnapshotFailed {
        /// Why, for people.
        reason: String,
    },
}

/// Rows under [`RESERVED_KEY_PREFIX`]: keys, prefix included, and values.
pub type InternalRows = Vec<(Vec<u8>, Bytes)>;

/// What the engine's jobs return.
enum EngineOutput {
    Built(Result<Built, EngineError>),
    Installed(Box<Installed>),
    Compacted(Result<compaction::Compacted, compaction::Fault>),
    Snapshot(snapshot::Step),
    /// Memory or files that nobody needs are gone.
    Dropped,
}

#[derive(Debug)]
struct Frozen {
    memtable: Arc<Memtable>,
    /// The last entry applied before the freeze.
    applied: (LogIndex, Term),
    /// The last sequence number before the freeze.
    last_seq: SequenceNumber,
}

/// A flush that is on the disk and has yet to be installed.
struct Install {
    change: Change,
    table: Option<Arc<LiveTable>>,
    /// Whether the oldest frozen memtable goes with it.
    pops: bool,
}

/// Where the one flush at a time is.
enum Flush {
    Idle,
    Building {
        job: JobId,
        number: u64,
        horizon: SequenceNumber,
    },
    /// What is to be installed is there; somebody else has the manifest.
    Built {
        table: Option<Arc<LiveTable>>,
        dropped: u64,
        horizon: SequenceNumber,
    },
    Installing {
        job: JobId,
        install: Install,
    },
    /// The disk was full.
    Waiting {
        until: Nanos,
        then: Option<Install>,
    },
    /// A sync or write failed: the engine flushes no more.
    Failed,
}

/// See the module.
pub struct Engine {
    env: Env,
    options: EngineOptions,
    active: Memtable,
    /// Oldest first.
    frozen: VecDeque<Frozen>,
    version: Arc<Version>,
    tables: Arc<TableCache>,
    applied: (LogIndex, Term),
    last_seq: SequenceNumber,
    /// What the manifest says.
    durable: State,
    next_file: u64,
    snapshots: BTreeMap<SequenceNumber, usize>,
    /// `None` while a job has it.
    manifest: Option<Manifest>,
    flush: Flush,
    compaction: Compaction,
    incoming: Option<snapshot::Incoming>,
    holds: snapshot::Holds,
    read_only: Option<String>,
    counters: stats::Counters,
    /// Those that are live, of the memtables and the manifest.
    range_deletes: Arc<RangeDeletes>,
    last_frozen: FrozenSize,
}

impl Engine {
    /// The last entry applied.
    #[must_use]
    pub const fn applied(&self) -> (LogIndex, Term) {
        self.applied
    }

    /// The last entry whose effects are in tables: replay the log from the one after it.
    #[must_use]
    pub const fn flushed_applied(&self) -> (LogIndex, Term) {
        self.durable.applied
    }

    /// The last sequence number assigned.
    #[must_use]
    pub const fn last_seq(&self) -> SequenceNumber {
        self.last_seq
    }

    /// The oldest sequence number that can be read.
    #[must_use]
    pub const fn oldest_readable_seq(&self) -> SequenceNumber {
        self.durable.oldest_readable
    }

    /// Applies log entry `index`: memory only, never refuses, and does not look at conditions: the owner has. Its batch comes first
    /// (`None`: the entry changes nothing that a user sees, a duplicate write or one whose condition failed), then the rows under the reserved prefix that it changes; each operation
    /// gets the next sequence number. Returns those of the batch. Entries come in log order; one that was applied before
    /// is a mistake of the owner and stops the process.
    pub fn apply(
        &mut self,
        index: LogIndex,
        term: Term,
        user: Option<BatchRef<'_>>,
        internal: &[InternalOp],
    ) -> Applied {
        assert!(index > self.applied.0, "entry {index} is applied after entry {}", self.applied.0);
        assert!(self.incoming.is_none(), "entry {index} is applied while a snapshot is installed");
        if self.active_is_full() {
            self.freeze();
        }
        let first_seq = self.last_seq.next();
        for op in user.iter().flat_map(BatchRef::ops) {
            self.last_seq = self.last_seq.next();
            if planted!(TornBatch) && self.last_seq > first_seq && self.active_is_full() {
                continue;
            }
            match op {
                Op::Put { key, value } => {
                    self.active.insert(key, self.last_seq, ValueKind::Put, value);
                }
                Op::Delete { key } => {
                    self.active.insert(key, self.last_seq, ValueKind::Delete, &[]);
                }
                Op::DeleteRange { start, end } => self.delete_range(start, end),
                // What these change comes as `internal`.
                Op::NoOp | Op::Register | Op::Membership(_) => {}
            }
        }
        let applied = Applied { first_seq, last_seq: self.last_seq };
        for op in internal {
            self.last_seq = self.last_seq.next();
            let (kind, value) = match op.value() {
                Some(value) => (ValueKind::Put, &value[..]),
                None => (ValueKind::Delete, &[][..]),
            };
            self.active.insert(op.key(), self.last_seq, kind, value);
        }
        self.applied = (index, term);
        if planted!(SequenceGap) && self.active_is_full() {
            self.last_seq = self.last_seq.next();
        }
        applied
    }

    /// All rows under the reserved prefix as they are now, by ascending key. Blocks on the disk: for the time before the
    /// owner's loop begins.
    pub fn internal_rows(&self) -> Result<InternalRows, EngineError> {
        let frozen: Vec<_> =
            self.frozen.iter().map(|frozen| Arc::clone(&frozen.memtable)).collect();
        read_internal_rows(&self.active, &frozen, &self.version, self.last_seq)
    }

    /// The newest version of `key` at `seq` (`None` = the last sequence number). Never blocks: what memtables, the filters
    /// of open tables, and the block cache cannot answer is a job.
    pub fn get(&self, key: &[u8], seq: Option<SequenceNumber>) -> Result<Get, EngineError> {
        let seq = self.check_seq(seq)?;
        let hidden_below = self.range_deletes.covering(key, seq);
        let memtables = std::iter::once(&self.active)
            .chain(self.frozen.iter().rev().map(|frozen| &*frozen.memtable));
        for memtable in memtables.filter(|m| !m.is_empty()) {
            match memtable.get(key, seq) {
                Lookup::Found(seq, _) if seq < hidden_below => return Ok(Get::Missing),
                Lookup::Found(seq, value) => {
                    return Ok(Get::Found { seq, value: Bytes::copy_from_slice(value) });
                }
                Lookup::Deleted(_) => return Ok(Get::Missing),
                Lookup::Missing => {}
            }
        }
        if self.version.is_empty() {
            return Ok(Get::Missing);
        }
        let probe = Probe::of(key);
        let mut tables = self
            .version
            .around(key)
            .filter(|t| t.meta.smallest_seq <= seq.0 && t.meta.largest_seq >= hidden_below.0);
        while let Some(live) = tables.next() {
            match live.get_in_memory(key, seq, &probe) {
                Ok(None) => {}
                Ok(Some((seq, ..))) if seq < hidden_below => return Ok(Get::Missing),
                Ok(Some((seq, ValueKind::Put, value))) => return Ok(Get::Found { seq, value }),
                Ok(Some((_, ValueKind::Delete, _))) => return Ok(Get::Missing),
                Err(e) if e.needs_disk() => {
                    let rest = tables.filter(|t| t.may_hold(key, &probe, seq));
                    let tables = std::iter::once(live).chain(rest).cloned().collect();
                    let key = key.to_vec();
                    return Ok(Get::NeedsDisk(GetJob { key, probe, seq, hidden_below, tables }));
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(Get::Missing)
    }

    /// One slice of a scan. Never blocks: when a table may hold a key of the range, the slice is a job.
    pub fn scan(&self, options: &ScanOptions) -> Result<Scan, EngineError> {
        let mut seq = self.check_seq(options.seq)?;
        if planted!(ScanSeesNewer) {
            seq = self.last_seq;
        }
        let frozen = self.frozen.iter().map(|frozen| &frozen.memtable);
        scan::start(&self.active, frozen, &self.version, &self.range_deletes, options, seq)
    }

    fn check_seq(&self, seq: Option<SequenceNumber>) -> Result<SequenceNumber, EngineError> {
        let Some(seq) = seq else { return Ok(self.last_seq) };
        if seq > self.last_seq {
            return Err(EngineError::SnapshotInFuture { seq, last_seq: self.last_seq });
        }
        let oldest_readable = self.oldest_readable_seq();
        if seq < oldest_readable {
            return Err(EngineError::SnapshotTooOld { seq, oldest_readable });
        }
        Ok(seq)
    }

    /// Pins the present state: what a read at the returned sequence number sees stays readable until
    /// [`Engine::release_snapshot`]. Pins are counted, and forgotten at a restart.
    pub fn snapshot(&mut self) -> SequenceNumber {
        let seq = if planted!(TornScan) { self.last_seq.prev() } else { self.last_seq };
        *self.snapshots.entry(seq).or_insert(0) += 1;
        seq
    }

    /// Pins `seq`, which is pinned already, once more.
    pub fn pin(&mut self, seq: SequenceNumber) {
        debug_assert!(self.snapshots.contains_key(&seq), "{seq} is not pinned");
        *self.snapshots.entry(seq).or_insert(0) += 1;
    }

    /// Gives back one pin of `seq`.
    pub fn release_snapshot(&mut self, seq: SequenceNumber) {
        match self.snapshots.get_mut(&seq) {
            Some(1) => {
                self.snapshots.remove(&seq);
                self.look_for_compactions();
            }
            Some(count) => *count -= 1,
            None => debug_assert!(false, "snapshot {seq} is released and not pinned"),
        }
    }

    /// Whether a flush should be started: a memtable is frozen, or the active one is full.
    #[must_use]
    pub fn needs_flush(&self) -> bool {
        matches!(self.flush, Flush::Idle)
            && self.incoming.is_none()
            && (!self.frozen.is_empty()
                || self.active_is_full()
                || self.range_deletes_want_a_flush())
    }

    /// Whether a flush is under way, waiting for space included.
    #[must_use]
    pub const fn is_flushing(&self) -> bool {
        !matches!(self.flush, Flush::Idle | Flush::Failed)
    }

    /// Whether a job of a flush is under way.
    #[must_use]
    pub const fn is_working(&self) -> bool {
        match self.flush {
            Flush::Building { .. } | Flush::Installing { .. } => true,
            // A compaction is being installed, and brings the manifest back.
            Flush::Built { .. } => self.manifest.is_none(),
            Flush::Idle | Flush::Waiting { .. } | Flush::Failed => false,
        }
    }

    /// Whether everything applied is in tables.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        self.durable.applied == self.applied && self.frozen.is_empty() && self.active.is_empty()
    }

    /// Whether more writes should be admitted.
    #[must_use]
    pub fn write_room(&self) -> WriteRoom {
        if self.memtables_are_full() || self.pressure().is_full() {
            WriteRoom::Stalled
        } else {
            WriteRoom::Ok
        }
    }

    /// Whether [`MAX_FROZEN_MEMTABLES`] wait for their flush and the active one is full.
    #[must_use]
    pub fn memtables_are_full(&self) -> bool {
        self.frozen.len() >= MAX_FROZEN_MEMTABLES && self.active_is_full()
    }

    /// Why writes should be refused for now, when the disk was full at the last flush.
    #[must_use]
    pub fn read_only_reason(&self) -> Option<&str> {
        self.read_only.as_deref()
    }

    fn active_is_full(&self) -> bool {
        self.active_is_full_of_range_deletes()
            || (!self.active.is_empty()
                && (self.active.memory_bytes() >= self.options.memtable_bytes
                    || !self.active.has_room()))
    }

    /// Freezes the active memtable, so that the flushes from here on hold everything applied so far. No-op when
    /// nothing was applied since the last freeze.
    pub fn freeze(&mut self) {
        let last = self.frozen.back().map_or(self.durable.applied, |frozen| frozen.applied);
        if last == self.applied {
            debug_assert!(self.active.is_empty());
            return;
        }
        let memtable = Arc::new(std::mem::take(&mut self.active));
        self.counters.generations += 1;
        if !memtable.is_empty() {
            self.counters.freezes += 1;
            self.last_frozen = FrozenSize {
                entries: memtable.len() as u64,
                bytes: memtable.memory_bytes() as u64,
            };
        }
        self.frozen.push_back(Frozen { memtable, applied: self.applied, last_seq: self.last_seq });
    }

    /// Starts the flush of the oldest frozen memtable; freezes the active one first when there is none. Returns
    /// whether a flush was started. No-op while one is under way, while a snapshot is installed, or when there is nothing
    /// to flush.
    pub fn start_flush(&mut self) -> bool {
        if !matches!(self.flush, Flush::Idle) || self.incoming.is_some() {
            return false;
        }
        if self.frozen.is_empty() {
            self.freeze();
        }
        let Some(oldest) = self.frozen.front() else { return false };
        if oldest.memtable.is_empty() {
            self.flush = Flush::Built { table: None, dropped: 0, horizon: SequenceNumber::ZERO };
            self.go_on();
            return true;
        }
        let oldest_pin = self.oldest_pin().unwrap_or(self.last_seq);
        let horizon = oldest_pin.min(oldest.last_seq);
        let number = self.next_file;
        self.next_file += 1;
        let build = BuildJob {
            disk: Arc::clone(&self.env.disk),
            tables: Arc::clone(&self.tables),
            dir: self.options.dir.clone(),
            number,
            memtable: Arc::clone(&oldest.memtable),
            deletes: Arc::clone(&self.range_deletes),
            horizon,
            options: self.options.build_options(),
        };
        let job = self.submit(Lane::Flush, move || EngineOutput::Built(build.run()));
        self.flush = Flush::Building { job, number, horizon };
        true
    }

    fn submit(&self, lane: Lane, work: impl FnOnce() -> EngineOutput + Send + 'static) -> JobId {
        self.env.jobs.submit(lane, Box::new(move || Box::new(work()) as JobOutput))
    }

    /// Takes a completed job.
    ///
    /// # Errors
    /// A table or the manifest could not be written or synced, for a reason other than space: the engine flushes no
    /// more, and the process should stop. Reads still work.
    pub fn job_done(&mut self, completion: Completion) -> Result<JobOutcome, EngineError> {
        let Completion { id, lane, output, submitted_at, started_at, finished_at } = completion;
        let not_mine = |output: JobOutput| {
            let completion = Completion { id, lane, output, submitted_at, started_at, finished_at };
            Ok(JobOutcome::NotMine(completion))
        };
        let output = match output.downcast::<EngineOutput>() {
            Ok(output) => *output,
            Err(output) => return not_mine(output),
        };
        let outcome = match output {
            EngineOutput::Dropped => JobOutcome::Nothing,
            EngineOutput::Snapshot(step) => match self.install_step(id, step)? {
                Ok(outcome) => outcome,
                Err(step) => return not_mine(Box::new(EngineOutput::Snapshot(step))),
            },
            output => match self.flush_step(id, output, (started_at, finished_at))? {
                Ok(outcome) => outcome,
                Err(output) => {
                    match self.compaction_step(id, output, (started_at, finished_at))? {
                        Ok(outcome) => outcome,
                        Err(output) => return not_mine(Box::new(output)),
                    }
                }
            },
        };
        self.go_on();
        self.sweep();
        Ok(outcome)
    }

    /// Whether an edit may be written: the manifest is here, and none waits in it for space.
    const fn manifest_is_free(&self) -> bool {
        self.manifest.is_some()
            && !matches!(self.flush, Flush::Waiting { then: Some(_), .. })
            && !self.compaction.holds_manifest()
    }

    /// Submits the next edit that waits for the manifest: a flush's first, which frees memory and log.
    fn go_on(&mut self) {
        self.install_flush();
        self.install_compaction();
        self.go_on_installing();
    }

    fn install_flush(&mut self) {
        if !self.manifest_is_free() {
            return;
        }
        match std::mem::replace(&mut self.flush, Flush::Idle) {
            Flush::Built { table, dropped, horizon } => {
                let install = self.prepare_install(table, dropped, horizon);
                self.submit_install(install);
            }
            flush => self.flush = flush,
        }
    }

    /// Takes a finished step of a flush; gives it back when it is another engine's.
    fn flush_step(
        &mut self,
        id: JobId,
        output: EngineOutput,
        (started_at, finished_at): (Nanos, Nanos),
    ) -> Result<Result<JobOutcome, EngineOutput>, EngineError> {
        match (output, std::mem::replace(&mut self.flush, Flush::Failed)) {
            (EngineOutput::Built(result), Flush::Building { job, number, horizon })
                if job == id =>
            {
                let ns = finished_at.since(started_at);
                self.counters.flush_ns += ns;
                self.counters.last_flush_ns = ns;
                self.built(result, number, horizon, finished_at).map(Ok)
            }
            (EngineOutput::Installed(done), Flush::Installing { job, install }) if job == id => {
                let Installed { manifest, result } = *done;
                self.manifest = Some(manifest);
                self.installed(install, result, finished_at).map(Ok)
            }
            (output, flush) => {
                self.flush = flush;
                Ok(Err(output))
            }
        }
    }

    fn built(
        &mut self,
        result: Result<Built, EngineError>,
        number: u64,
        horizon: SequenceNumber,
        now: Nanos,
    ) -> Result<JobOutcome, EngineError> {
        match result {
            Ok(built) => {
                debug_assert!(built.table.as_ref().is_none_or(|t| t.meta.number == number));
                let Built { table, dropped } = built;
                self.flush = Flush::Built { table, dropped, horizon };
                Ok(JobOutcome::Nothing)
            }
            Err(e) => self.flush_failed(e, None, now),
        }
    }

    /// The edit that installs the oldest frozen memtable's table.
    fn prepare_install(
        &mut self,
        table: Option<Arc<LiveTable>>,
        dropped: u64,
        horizon: SequenceNumber,
    ) -> Install {
        let oldest = self.frozen.front().expect("a flush has a frozen memtable");
        let mut edit = VersionEdit {
            applied: Some(if planted!(FlushClaimsTooMuch) { self.applied } else { oldest.applied }),
            last_seq: Some(oldest.last_seq),
            ..VersionEdit::default()
        };
        let raise = !planted!(OldestReadableNotRaised);
        if raise && dropped > 0 && horizon > self.durable.oldest_readable {
            edit.oldest_readable = Some(horizon);
        }
        edit.added.extend(table.iter().map(|t| t.meta.clone()));
        edit.range_deletes.extend(oldest.memtable.range_deletes().iter().map(|d| (**d).clone()));
        self.counters.versions_dropped += dropped;
        self.change_for(edit, table, true)
    }

    fn change_for(
        &mut self,
        edit: VersionEdit,
        table: Option<Arc<LiveTable>>,
        pops: bool,
    ) -> Install {
        Install { change: self.change_of(edit), table, pops }
    }

    /// The change that `edit` makes to what the manifest says.
    fn change_of(&mut self, edit: VersionEdit) -> Change {
        self.try_change_of(edit).expect("the engine's own edits fit its state")
    }

    fn try_change_of(&mut self, mut edit: VersionEdit) -> Result<Change, String> {
        let rotate_number = self.next_file;
        self.next_file += 1;
        edit.next_file = Some(self.next_file);
        self.settle_range_deletes(&mut edit);
        let mut state = self.durable.clone();
        state.apply(&edit)?;
        Ok(Change { edit, state, rotate_number })
    }

    /// A new number for the manifest that a change may begin, when it is tried again.
    const fn renumber(&mut self, change: &mut Change) {
        change.rotate_number = self.next_file;
        self.next_file += 1;
        change.state.next_file = self.next_file;
    }

    /// The job that makes a change durable. It has the manifest until it is done.
    fn submit_change(&mut self, change: &Change) -> JobId {
        let manifest = self.manifest.take().expect("one installation at a time");
        let change = change.clone();
        let work =
            InstallJob { manifest, change, rotate_bytes: self.options.manifest_rotate_bytes };
        self.submit(Lane::Manifest, move || EngineOutput::Installed(Box::new(work.run())))
    }

    fn submit_install(&mut self, install: Install) {
        let job = self.submit_change(&install.change);
        self.flush = Flush::Installing { job, install };
    }

    fn installed(
        &mut self,
        install: Install,
        result: Result<(), EngineError>,
        now: Nanos,
    ) -> Result<JobOutcome, EngineError> {
        if let Err(e) = result {
            return self.flush_failed(e, Some(install), now);
        }
        self.durable = install.change.state;
        self.flush = Flush::Idle;
        self.read_only = None;
        let table = install.table.as_ref().map(|t| (t.meta.number, t.meta.bytes));
        if let Some(table) = install.table {
            self.counters.flushes += 1;
            self.counters.flushed_bytes += table.meta.bytes;
            self.counters.note_flush(&table.meta);
            self.put_version(self.version.with(&[], vec![table]));
        }
        self.range_deletes_settled();
        self.look_for_compactions();
        if !install.pops {
            return Ok(JobOutcome::Nothing);
        }
        let frozen = self.frozen.pop_front().expect("the flushed memtable is the oldest");
        if !frozen.memtable.is_empty() {
            // Freeing a large memtable takes milliseconds: not on the loop.
            self.submit(Lane::Maintenance, move || {
                drop(frozen.memtable);
                EngineOutput::Dropped
            });
        }
        let (index, term) = self.durable.applied;
        Ok(JobOutcome::Flushed { index, term, table })
    }

    fn flush_failed(
        &mut self,
        error: EngineError,
        then: Option<Install>,
        now: Nanos,
    ) -> Result<JobOutcome, EngineError> {
        if !error.is_disk_full() {
            self.flush = Flush::Failed;
            return Err(error);
        }
        log::warn!("flush: {error}; the data stays in memory and in the log, next try in 1 s");
        self.read_only = Some(format!("the disk is full: {error}"));
        self.flush = Flush::Waiting { until: now.plus(RETRY_NS), then };
        Ok(JobOutcome::Nothing)
    }

    /// Tries again what a full disk stopped, a second after it did, and removes files that nobody holds any more. Call it
    /// now and then.
    pub fn tick(&mut self, now: Nanos) {
        self.sweep();
        self.tick_compaction(now);
        match &self.flush {
            Flush::Waiting { until, .. } if *until <= now => self.retry_now(),
            _ => {}
        }
    }

    /// Tries again at once what a full disk stopped. It waits while a snapshot is installed, which may make it needless.
    pub fn retry_now(&mut self) {
        if self.incoming.is_some() {
            return;
        }
        if self.compaction.holds_manifest() {
            self.retry_compaction();
        }
        match std::mem::replace(&mut self.flush, Flush::Idle) {
            Flush::Waiting { then: Some(mut install), .. } => {
                // A new number: a file of the old one may have been left behind.
                self.renumber(&mut install.change);
                self.submit_install(install);
            }
            Flush::Waiting { then: None, .. } => {
                if self.start_flush() {
                    return;
                }
                if self.manifest.as_ref().is_some_and(|m| m.number().is_none()) {
                    // The disk was full when the engine was opened.
                    let install = self.change_for(VersionEdit::default(), None, false);
                    self.submit_install(install);
                } else {
                    self.read_only = None;
                }
            }
            other => self.flush = other,
        }
    }

    /// When [`Engine::tick`] has something to do.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<Nanos> {
        if self.incoming.is_some() {
            return None;
        }
        let flush = match &self.flush {
            Flush::Waiting { until, .. } => Some(*until),
            _ => None,
        };
        flush.into_iter().chain(self.compaction_wakeup()).min()
    }
}

/// All rows under the reserved prefix at `seq`. Blocks on the disk.
fn read_internal_rows(
    active: &Memtable,
    frozen: &[Arc<Memtable>],
    version: &Version,
    seq: SequenceNumber,
) -> Result<InternalRows, EngineError> {
    let mut options = ScanOptions {
        start: RESERVED_KEY_PREFIX.to_vec(),
        end: Some(RESERVED_KEY_END.to_vec()),
        ..ScanOptions::default()
    };
    // No range delete hides an internal row.
    let none = Arc::default();
    let mut rows = Vec::new();
    loop {
        let slice = match scan::start(active, frozen.iter(), version, &none, &options, seq)? {
            Scan::Done(slice) => slice,
            Scan::NeedsDisk(job) => job.run()?,
        };
        rows.extend(slice.entries.into_iter().map(|entry| (entry.key, entry.value)));
        match slice.resume {
            Some(resume) => options.start = resume,
            None => return Ok(rows),
        }
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("dir", &self.options.dir)
            .field("applied", &self.applied)
            .field("last_seq", &self.last_seq)
            .field("durable", &self.durable)
            .finish_non_exhaustive()
    }
}
