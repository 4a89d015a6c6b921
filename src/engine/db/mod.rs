//! [`Db`]: the engine as a library, with a write-ahead log of its own.
//!
//! ```
//! use beachdb::engine::{Db, DbOptions, WriteOptions};
//! use beachdb::base::batch::WriteBatch;
//!
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path().join("db");
//! let db = Db::open(&path, DbOptions::default())?;
//! db.put(b"apple", b"red")?;                       // durable when it returns
//!
//! let mut batch = WriteBatch::new();               // all or nothing
//! batch.put(b"banana", b"yellow")?;
//! batch.delete(b"apple")?;
//! let before = db.snapshot();
//! db.write(batch, WriteOptions::default())?;
//!
//! assert_eq!(db.get(b"apple")?, None);
//! assert_eq!(before.get(b"apple")?.as_deref(), Some(&b"red"[..]));
//! for entry in db.iter() {
//!     let entry = entry?;
//!     println!("{} = {}", entry.key.escape_ascii(), entry.value.escape_ascii());
//! }
//! drop(before);
//! db.close()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! ```text
//!   writers ─▶ queue ─▶ one of them leads: log group (one write, one sync) ─▶ memtable ─▶ all of them return
//!   readers ─▶ memtables ─▶ tables                                              └▶ flush jobs ─▶ log released
//! ```
//!
//! # What is durable when
//! - A write with [`WriteOptions::sync`] (the default) is on the disk when it returns, together with everything that
//!   was written before it, by whomever.
//! - Without `sync` it is in the operating system when it returns: it survives this process, and may be lost, as a
//!   whole batch, with everything after it, when the machine loses power before a later sync, [`Db::flush`], or close.
//! - A batch is all or nothing, to readers and across crashes, whichever the option.
//! - When a write fails, [`DbError::effect`] says what became of it. `Unknown` happens when the log write itself failed:
//!   the batch may be there after a reopen. A failed sync is never retried: the database then takes no more writes.
//!
//! # How it runs
//! It has no thread of its own: writers lead by turns, flushes run in the lanes of [`Env::jobs`], and their completions
//! are taken in by whoever calls next. So with simulated [`Env`] it is deterministic. The jobs must be its own: two
//! databases do not share one [`Env::jobs`]. Compaction runs in a lane of its own and starts by itself. Writers that are faster than
//! flush and compaction are slowed down smoothly, by a few milliseconds a group, as the [pressure](super::Pressure) rises; when it is full they wait for at most
//! [`MAX_WRITE_STALL_NS`](super::MAX_WRITE_STALL_NS), then get [`DbError::Busy`].
//!
//! Memory: the active memtable and the frozen ones, a copy of the largest log group, and the block cache
//! ([`DbOptions::cache_bytes`]), which indexes and filters of open tables count against. Opening replays the log since the last flush, and flushes where writing would have.
//!
//! ```text
//! PATH/LOCK   PATH/wal/<segment>.wal (+ spares, reserve)   PATH/engine/{CURRENT,<n>.manifest,<n>.sst}
//! ```
//!
//! Not here: transactions, column families.

mod commit;
mod error;
mod iter;
mod read_only;
#[cfg(test)]
mod tests;

pub use error::{DbError, Effect};
pub use iter::{DbCursor, DbIter, Snapshot};
pub use read_only::{ReadOnlyDb, ReadOnlyIter};

use super::ScrubReport;
use super::checkpoint::Checkpoint;
use super::{
    Applied, CompactionOptions, Engine, EngineError, EngineOptions, EngineStats, Get, WriteRoom,
};
use crate::base::batch::{BatchRef, WriteBatch, prefix_end};
use crate::base::{SequenceNumber, Term};
use crate::env::{Env, LockGuard, os};
use crate::limits::{
    DEFAULT_CACHE_BYTES, DEFAULT_DB_SEGMENT_BYTES, DEFAULT_MEMTABLE_BYTES, MAX_OPEN_TABLES,
    SCRUB_STEP_BYTES,
};
use crate::sstable::Compression;
use crate::wal::{self, LogKind, LogPos, RecordKind, RecoveryReport};
use bytes::Bytes;
use commit::{Commit, Log};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

/// How to open a [`Db`].
#[derive(Clone)]
pub struct DbOptions {
    /// The outside world; `None` = the real one, with helper threads of this database.
    pub env: Option<Env>,
    /// Memory of a memtable at which it is flushed.
    pub memtable_bytes: usize,
    /// Size of a log segment.
    pub segment_bytes: u64,
    /// Whether log segments are zero-filled ahead of use, which makes syncs faster and small databases larger.
    pub preallocate: bool,
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
    /// Sizes of levels and tables. There is nothing to tune: the defaults are for use.
    pub compaction: CompactionOptions,
}

impl Default for DbOptions {
    fn default() -> Self {
        Self {
            env: None,
            memtable_bytes: DEFAULT_MEMTABLE_BYTES,
            segment_bytes: DEFAULT_DB_SEGMENT_BYTES,
            preallocate: true,
            block_bytes: 4096,
            bits_per_key: 10,
            compression: Compression::None,
            cache_bytes: DEFAULT_CACHE_BYTES,
            max_open_tables: MAX_OPEN_TABLES,
            compaction: CompactionOptions::default(),
        }
    }
}

/// How to write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WriteOptions {
    /// Whether the write is on the disk before it returns.
    pub sync: bool,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self { sync: true }
    }
}

/// The numbers of a [`Db`].
#[derive(Clone, PartialEq, Debug, serde::Serialize)]
pub struct DbStats {
    /// The engine's.
    #[serde(flatten)]
    pub engine: EngineStats,
    /// Bytes of the log that are still needed.
    pub log_bytes: u64,
    /// Log segments that are still needed.
    pub log_segments: u64,
}

/// A key-value database in a directory. Share it by reference or in an `Arc`; every method takes `&self`.
pub struct Db {
    inner: Arc<Inner>,
    recovery: RecoveryReport,
}

/// Lock order: leadership of `commit`, then `log`, then `engine`.
struct Inner {
    env: Env,
    commit: Commit,
    /// Only the leader uses it.
    log: Mutex<Log>,
    engine: RwLock<Engine>,
    closed: AtomicBool,
    /// Held by whoever makes a checkpoint: two of one name would work in one directory.
    checkpointing: Mutex<()>,
    /// Held until close.
    lock: Mutex<Option<Box<dyn LockGuard>>>,
}

impl Db {
    /// Opens the database at `path`, creating it when there is none, and replays its log.
    ///
    /// # Errors
    /// [`DbError::Locked`] when it is open elsewhere; corruption, missing files, and newer formats as the engine and
    /// the log name them. Then nothing was changed, or only what the next open repeats.
    pub fn open(path: impl AsRef<Path>, options: DbOptions) -> Result<Self, DbError> {
        let path = path.as_ref();
        let env = options.env.clone().unwrap_or_else(os::env);
        env.disk.create_dir_all(path)?;
        let lock_path = path.join("LOCK");
        let lock = env.disk.lock(&lock_path).map_err(|e| {
            if e.kind() == std::io::ErrorKind::WouldBlock {
                DbError::Locked { path: lock_path.clone() }
            } else {
                e.into()
            }
        })?;
        let mut engine = Engine::open(
            &env,
            EngineOptions {
                memtable_bytes: options.memtable_bytes,
                block_bytes: options.block_bytes,
                bits_per_key: options.bits_per_key,
                compression: options.compression,
                cache_bytes: options.cache_bytes,
                max_open_tables: options.max_open_tables,
                compaction: options.compaction,
                ..EngineOptions::new(path.join("engine"))
            },
        )?;
        let log_options = wal::Options {
            segment_bytes: options.segment_bytes,
            preallocate: options.preallocate,
            ..wal::Options::new(LogKind::Wal, path.join("wal"))
        };
        let (writer, recovery) = replay(&env, log_options, &mut engine)?;
        log::debug!("{}: opened; log: {recovery}", path.display());
        let next_index = engine.applied().0.next();
        let db = Self {
            inner: Arc::new(Inner {
                env,
                commit: Commit::default(),
                log: Mutex::new(Log::new(writer, next_index)),
                engine: RwLock::new(engine),
                closed: AtomicBool::new(false),
                checkpointing: Mutex::new(()),
                lock: Mutex::new(Some(lock)),
            }),
            recovery,
        };
        db.inner.lead().pump()?;
        Ok(db)
    }

    /// Opens the database at `path` to read it, also while somebody else, in this process or another one, has it open and writes.
    /// Takes no lock and changes nothing. See [`ReadOnlyDb`].
    ///
    /// # Errors
    /// Those of [`Db::open`] about what is in the files; there must be a database.
    pub fn open_read_only(
        path: impl AsRef<Path>,
        options: DbOptions,
    ) -> Result<ReadOnlyDb, DbError> {
        ReadOnlyDb::open(path.as_ref(), options)
    }

    /// What opening found in the log.
    #[must_use]
    pub const fn recovery(&self) -> &RecoveryReport {
        &self.recovery
    }

    /// Sets `key` to `value`, durably. Returns the sequence number of the write.
    pub fn put(&self, key: &[u8], value: &[u8]) -> Result<SequenceNumber, DbError> {
        let mut batch = WriteBatch::new();
        batch.put(key, value)?;
        Ok(self.write(batch, WriteOptions::default())?.last_seq)
    }

    /// Deletes `key`, durably. Returns the sequence number of the write.
    pub fn delete(&self, key: &[u8]) -> Result<SequenceNumber, DbError> {
        let mut batch = WriteBatch::new();
        batch.delete(key)?;
        Ok(self.write(batch, WriteOptions::default())?.last_seq)
    }

    /// Deletes every key from `start` up to and without `end`, durably, as one operation; an empty `end` is past the last key.
    /// Costs the same however many keys that is. Returns the sequence number of the write.
    ///
    /// # Errors
    /// [`EngineError::TooManyRangeDeletes`] when
    /// [`MAX_RANGE_DELETES`](crate::limits::MAX_RANGE_DELETES) wait for compaction; nothing was deleted, and it may be tried
    /// again.
    pub fn delete_range(&self, start: &[u8], end: &[u8]) -> Result<SequenceNumber, DbError> {
        let mut batch = WriteBatch::new();
        batch.delete_range(start, end)?;
        Ok(self.write(batch, WriteOptions::default())?.last_seq)
    }

    /// Applies a batch: all of it or nothing. Concurrent writers share one log write and one sync. Returns the
    /// sequence numbers of its operations.
    ///
    /// With [conditions](WriteBatch::require) it is a compare-and-set: they are judged when its turn among all writes comes, and when
    /// one does not hold, nothing is applied.
    ///
    /// ```
    /// # use beachdb::{base::{batch::WriteBatch, conditions::Expect}, engine::{Db, DbError, DbOptions, WriteOptions}};
    /// # let dir = tempfile::tempdir()?;
    /// # let db = Db::open(dir.path().join("db"), DbOptions::default())?;
    /// let seq = db.put(b"stock", b"7")?;
    /// let mut sell = WriteBatch::new();
    /// sell.require(b"stock", Expect::Seq(seq))?;
    /// sell.put(b"stock", b"6")?;
    /// db.write(sell.clone(), WriteOptions::default())?;
    /// let again = db.write(sell, WriteOptions::default());
    /// assert!(matches!(again, Err(DbError::ConditionFailed(failed)) if failed.condition == 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`DbError::ConditionFailed`] says which condition and what its key has now. A failed read of a key that a condition asks
    /// for is an error of this batch alone; nothing is applied.
    pub fn write(&self, batch: WriteBatch, options: WriteOptions) -> Result<Applied, DbError> {
        let bytes = batch.into_bytes();
        let parsed = BatchRef::parse(&bytes)?;
        parsed.check_user()?;
        if parsed.has_range_deletes() {
            self.inner.pump_if_due();
            self.inner.engine().check_range_deletes(&parsed)?;
        }
        self.inner.write(bytes, options.sync)
    }

    /// The value of `key` now.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, DbError> {
        Ok(self.inner.get(key, None)?.map(|(_, value)| value))
    }

    /// The value of `key` now, with the sequence number that wrote it.
    pub fn get_with_seq(&self, key: &[u8]) -> Result<Option<(SequenceNumber, Bytes)>, DbError> {
        self.inner.get(key, None)
    }

    /// The value of `key` at `seq`, with the sequence number that wrote it. Without a [`Snapshot`] that pins it, an old
    /// `seq` gets `SnapshotTooOld` once a flush has dropped a version.
    pub fn get_at(
        &self,
        key: &[u8],
        seq: SequenceNumber,
    ) -> Result<Option<(SequenceNumber, Bytes)>, DbError> {
        self.inner.get(key, Some(seq))
    }

    /// Pins the present state for reading. It costs memory and disk space for as long as it is held.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::new(&self.inner)
    }

    /// All entries of the present state, by ascending key; [`DbIter::seek`] moves it.
    #[must_use]
    pub fn iter(&self) -> DbIter {
        self.snapshot().into_scan(b"", None)
    }

    /// The entries from `start` up to and without `end` (`None` = to the last key), by ascending key, of the present state.
    #[must_use]
    pub fn scan(&self, start: &[u8], end: Option<&[u8]>) -> DbIter {
        self.snapshot().into_scan(start, end)
    }

    /// The entries whose keys begin with `prefix`, by ascending key, of the present state.
    #[must_use]
    pub fn scan_prefix(&self, prefix: &[u8]) -> DbIter {
        self.scan(prefix, prefix_end(prefix).as_deref())
    }

    /// A cursor over the entries from `start` up to and without `end` (`None` = to the last key) of the present state. It is
    /// at no place: seek it.
    #[must_use]
    pub fn cursor(&self, start: &[u8], end: Option<&[u8]>) -> DbCursor {
        self.snapshot().into_cursor(start, end)
    }

    /// Writes everything so far into tables and waits for that. The log that held it is released.
    pub fn flush(&self) -> Result<(), DbError> {
        self.inner.flush()
    }

    /// Writes everything so far into tables, and merges all that is in `start..end` (`None`: from the first key, to the last one)
    /// down to the bottom level, without what no reader can want any more. Waits for that. Never needed: compaction does as much by itself, in
    /// time. Writers and readers go on meanwhile.
    pub fn compact(&self, start: Option<&[u8]>, end: Option<&[u8]>) -> Result<(), DbError> {
        self.inner.compact(start.unwrap_or_default(), end)
    }

    /// Makes a copy of everything that was written before, at one sequence number, in the new directory `dir`: by hard links
    /// where that can be, so it costs no space until tables are replaced. It flushes first. The copy is durable when this
    /// returns, and opens like any database. Writers and readers go on meanwhile. See [`checkpoint`](super::checkpoint).
    ///
    /// # Errors
    /// [`DbError::Checkpoint`] when `dir` exists, or the file system refuses; those of [`Db::flush`]. There is no `dir` then, unless the very last
    /// sync failed, that of its name.
    pub fn checkpoint(&self, dir: impl AsRef<Path>) -> Result<Checkpoint, DbError> {
        let _one = self.inner.checkpointing.lock().unwrap_or_else(PoisonError::into_inner);
        self.inner.flush()?;
        let work = self.inner.engine().checkpoint(dir.as_ref().to_path_buf(), None);
        Ok(work.run()?)
    }

    /// Reads every block of every table, the manifest, and the log, and says what is damaged, by file and offset; `rate` bounds the
    /// bytes a second. It reads the disk, not the cache, and on the calling thread; writers and readers go on meanwhile.
    #[must_use]
    pub fn verify(&self, rate: Option<u64>) -> ScrubReport {
        let mut scrub = {
            let engine = self.inner.engine();
            engine.scrub(Some((LogKind::Wal, engine.options.dir.with_file_name("wal"))))
        };
        let slice = rate.map_or(SCRUB_STEP_BYTES, |rate| (rate / 10).clamp(1, SCRUB_STEP_BYTES));
        loop {
            let before = scrub.report().bytes;
            if scrub.step(slice) {
                return scrub.report().clone();
            }
            if let Some(rate) = rate {
                let bytes = scrub.report().bytes - before;
                os::pause(Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64));
            }
        }
    }

    /// The last sequence number.
    #[must_use]
    pub fn last_seq(&self) -> SequenceNumber {
        self.inner.engine().last_seq()
    }

    /// The oldest sequence number that can be read.
    #[must_use]
    pub fn oldest_readable_seq(&self) -> SequenceNumber {
        self.inner.engine().oldest_readable_seq()
    }

    /// Why writes are refused for now, if they are: the disk was full.
    #[must_use]
    pub fn read_only_reason(&self) -> Option<String> {
        self.inner.read_only_reason()
    }

    /// Takes in finished work and retries what a full disk stopped. Every write does this too; call it now and then
    /// when there are none.
    pub fn tick(&self) -> Result<(), DbError> {
        self.inner.lead().pump()
    }

    /// The numbers now.
    #[must_use]
    pub fn stats(&self) -> DbStats {
        let lead = self.inner.lead();
        let log = lead.log();
        DbStats {
            engine: self.inner.engine().stats(),
            log_bytes: log.live_bytes(),
            log_segments: log.segments(),
        }
    }

    /// Syncs the log, marks its end, and gives the lock back. Snapshots and iterators that are still there get
    /// [`DbError::Closed`]. Does not flush: the next open replays the log. Dropping the database does the same, and
    /// only logs an error.
    pub fn close(self) -> Result<(), DbError> {
        self.inner.close()
    }
}

impl Drop for Db {
    fn drop(&mut self) {
        if let Err(e) = self.inner.close() {
            log::warn!("closing a dropped database: {e}");
        }
    }
}

impl std::fmt::Debug for Db {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Db").field("engine", &*self.inner.engine()).finish_non_exhaustive()
    }
}

/// Opens the log and applies what the tables do not hold yet.
fn replay(
    env: &Env,
    options: wal::Options,
    engine: &mut Engine,
) -> Result<(wal::Writer, RecoveryReport), DbError> {
    let mut fault = None;
    let opened = wal::open(&env.disk, options, &mut |record| {
        if fault.is_none() {
            let applied = replay_one(engine, &record);
            fault = applied.and_then(|()| Ok(make_room(env, engine)?)).err();
        }
        Ok(())
    })?;
    if let Some(fault) = fault {
        return Err(fault);
    }
    let (due, next) = (engine.applied().0.next().0, opened.0.next_index());
    if next > due {
        let pos = LogPos::new(opened.0.segment_files().map(|(id, ..)| id).min().unwrap_or(0), 0);
        let what =
            format!("it begins at batch {next} where batch {due} is due: segments are missing");
        return Err(DbError::BadLogRecord { pos, what });
    }
    Ok(opened)
}

fn replay_one(engine: &mut Engine, record: &wal::Record<'_>) -> Result<(), DbError> {
    let bad = |what| DbError::BadLogRecord { pos: record.pos, what };
    if record.kind != RecordKind::Data {
        let kind = record.kind;
        return Err(bad(format!("a record of kind {kind:?} in the log of an embedded database")));
    }
    let index = crate::base::LogIndex(record.index);
    if index <= engine.flushed_applied().0 {
        return Ok(());
    }
    let expected = engine.applied().0.next();
    if index != expected {
        return Err(bad(format!("batch {index} where batch {expected} is due")));
    }
    let batch = BatchRef::parse(record.payload).map_err(|e| bad(format!("batch {index}: {e}")))?;
    // As it was judged when it was written: the state is that of the same place in the log.
    let failed = engine.judge_blocking(&batch)?;
    engine.apply(index, Term::ZERO, Some(batch).filter(|_| failed.is_none()), &[]);
    Ok(())
}

/// Waits for flushes while the memtables are full, so that a long log costs no more memory than writing it did. On a full
/// disk it goes on in memory.
fn make_room(env: &Env, engine: &mut Engine) -> Result<(), EngineError> {
    while engine.memtables_are_full() {
        engine.start_flush();
        if !engine.is_working() {
            return Ok(());
        }
        env.jobs.wait(commit::WAIT);
        let mut completions = Vec::new();
        env.jobs.poll(&mut completions);
        for completion in completions {
            engine.job_done(completion)?;
        }
    }
    Ok(())
}

impl Inner {
    fn engine(&self) -> RwLockReadGuard<'_, Engine> {
        self.engine.read().expect("a thread panicked while it changed the database")
    }

    fn engine_mut(&self) -> RwLockWriteGuard<'_, Engine> {
        self.engine.write().expect("a thread panicked while it changed the database")
    }

    fn check_open(&self) -> Result<(), DbError> {
        if self.closed.load(Ordering::Acquire) { Err(DbError::Closed) } else { Ok(()) }
    }

    fn get(
        &self,
        key: &[u8],
        seq: Option<SequenceNumber>,
    ) -> Result<Option<(SequenceNumber, Bytes)>, DbError> {
        self.check_open()?;
        self.pump_if_due();
        let found = self.engine().get(key, seq)?;
        match found {
            Get::Found { seq, value } => Ok(Some((seq, value))),
            Get::Missing => Ok(None),
            Get::NeedsDisk(job) => Ok(job.run()?),
        }
    }

    fn read_only_reason(&self) -> Option<String> {
        let engine = self.engine().read_only_reason().map(str::to_owned);
        engine.or_else(|| self.commit.log_full())
    }

    /// Whether a write has to wait or be refused.
    fn is_blocked(&self) -> bool {
        let engine = self.engine();
        engine.write_room() == WriteRoom::Stalled || engine.read_only_reason().is_some()
    }

    fn is_stalled(&self) -> bool {
        self.engine().write_room() == WriteRoom::Stalled
    }
}
