//! [`ReadOnlyDb`]: a database that somebody else may be writing to, opened to read. It takes no lock and changes nothing: neither
//! a byte nor a name, and no permission to write is needed.
//!
//! ```text
//!  open, refresh:  CURRENT ─▶ manifest ─▶ tables (opened when they are read)
//!                  log: every record that is whole, behind what the tables hold ─▶ memory
//! ```
//!
//! What it shows is one state: everything up to one batch, those included that the writer has not flushed, and also those that are
//! not durable yet, which a power loss may still take. It stands still until [`ReadOnlyDb::refresh`].
//!
//! The writer goes on meanwhile, and may replace the manifest, release the log, and remove tables under the reader. While it opens,
//! that shows as a file that is gone or that does not fit, and it begins anew, up to [`READ_ONLY_ATTEMPTS`] times; what is wrong
//! with a file is told when nothing changed between two attempts. Later only a table may be gone: then it opens the present state
//! and reads from that, at the sequence number that it had; if the writer has dropped versions of that time, the read gets
//! `SnapshotTooOld`.

use super::{DbError, DbOptions, replay_one};
use crate::base::SequenceNumber;
use crate::base::batch::prefix_end;
use crate::engine::{Engine, EngineError, EngineOptions, Get, Scan, ScanEntry, ScanOptions};
use crate::env::{Env, os};
use crate::limits::READ_ONLY_ATTEMPTS;
use crate::wal::{self, LogKind, LogPos};
use bytes::Bytes;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

/// See the module.
pub struct ReadOnlyDb {
    env: Env,
    path: PathBuf,
    options: DbOptions,
    engine: RwLock<Arc<Engine>>,
}

impl ReadOnlyDb {
    pub(super) fn open(path: &Path, options: DbOptions) -> Result<Self, DbError> {
        let env = options.env.clone().unwrap_or_else(os::env);
        let engine = open_patiently(&env, path, &options)?;
        Ok(Self { env, path: path.to_path_buf(), options, engine: RwLock::new(Arc::new(engine)) })
    }

    fn engine(&self) -> Arc<Engine> {
        Arc::clone(&self.engine.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Shows what is there now.
    ///
    /// # Errors
    /// Those of [`Db::open_read_only`](super::Db::open_read_only); it then shows what it showed before.
    pub fn refresh(&self) -> Result<(), DbError> {
        let engine = Arc::new(open_patiently(&self.env, &self.path, &self.options)?);
        *self.engine.write().unwrap_or_else(PoisonError::into_inner) = engine;
        Ok(())
    }

    /// The last sequence number that it shows.
    #[must_use]
    pub fn last_seq(&self) -> SequenceNumber {
        self.engine().last_seq()
    }

    /// The oldest sequence number that can be read.
    #[must_use]
    pub fn oldest_readable_seq(&self) -> SequenceNumber {
        self.engine().oldest_readable_seq()
    }

    /// The value of `key`.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, DbError> {
        Ok(self.get_at(key, self.last_seq())?.map(|(_, value)| value))
    }

    /// The value of `key` at `seq`, with the sequence number that wrote it.
    pub fn get_at(
        &self,
        key: &[u8],
        seq: SequenceNumber,
    ) -> Result<Option<(SequenceNumber, Bytes)>, DbError> {
        self.patiently(|engine| match engine.get(key, Some(seq))? {
            Get::Found { seq, value } => Ok(Some((seq, value))),
            Get::Missing => Ok(None),
            Get::NeedsDisk(job) => job.run(),
        })
    }

    /// All entries, by ascending key.
    #[must_use]
    pub fn iter(&self) -> ReadOnlyIter<'_> {
        self.scan(b"", None)
    }

    /// The entries from `start` up to and without `end` (`None` = to the last key), by ascending key. It shows one state to its end,
    /// also when this is refreshed meanwhile.
    #[must_use]
    pub fn scan(&self, start: &[u8], end: Option<&[u8]>) -> ReadOnlyIter<'_> {
        let options = ScanOptions {
            start: start.to_vec(),
            end: end.map(<[u8]>::to_vec),
            seq: Some(self.last_seq()),
            ..ScanOptions::default()
        };
        ReadOnlyIter { db: self, options, slice: Vec::new().into_iter(), begun: false, done: false }
    }

    /// The entries whose keys begin with `prefix`, by ascending key.
    #[must_use]
    pub fn scan_prefix(&self, prefix: &[u8]) -> ReadOnlyIter<'_> {
        self.scan(prefix, prefix_end(prefix).as_deref())
    }

    /// Reads; when a table is gone, once more from the present state.
    fn patiently<T>(&self, read: impl Fn(&Engine) -> Result<T, EngineError>) -> Result<T, DbError> {
        for _ in 1..READ_ONLY_ATTEMPTS {
            match read(&self.engine()) {
                Err(error) if is_gone(&error) => self.refresh()?,
                result => return Ok(result?),
            }
        }
        Ok(read(&self.engine())?)
    }
}

impl std::fmt::Debug for ReadOnlyDb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadOnlyDb").field("engine", &*self.engine()).finish_non_exhaustive()
    }
}

/// Walks a range of a [`ReadOnlyDb`], by ascending key or [`backward`](ReadOnlyIter::backward), slice by slice. After an error it
/// ends.
pub struct ReadOnlyIter<'a> {
    db: &'a ReadOnlyDb,
    /// Of the next slice.
    options: ScanOptions,
    slice: std::vec::IntoIter<ScanEntry>,
    /// Whether a slice was read.
    begun: bool,
    done: bool,
}

impl ReadOnlyIter<'_> {
    /// Goes by descending key, from the end of the range.
    ///
    /// # Panics
    /// When entries were taken already.
    #[must_use]
    pub fn backward(mut self) -> Self {
        assert!(!self.begun, "the direction is chosen before the first entry");
        self.options.reverse = true;
        self
    }

    /// Leaves out the values of slices that are still to be read; they are then empty.
    #[must_use]
    pub const fn keys_only(mut self) -> Self {
        self.options.keys_only = true;
        self
    }
}

impl Iterator for ReadOnlyIter<'_> {
    type Item = Result<ScanEntry, DbError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.slice.next() {
                return Some(Ok(entry));
            }
            if self.done {
                return None;
            }
            self.begun = true;
            let slice = self.db.patiently(|engine| match engine.scan(&self.options)? {
                Scan::Done(slice) => Ok(slice),
                Scan::NeedsDisk(job) => job.run(),
            });
            match slice {
                Ok(slice) => {
                    self.slice = slice.entries.into_iter();
                    match slice.resume {
                        Some(resume) => self.options.go_on(resume),
                        None => self.done = true,
                    }
                }
                Err(error) => {
                    self.done = true;
                    return Some(Err(error));
                }
            }
        }
    }
}

/// Whether a table that was there is there no more.
fn is_gone(error: &EngineError) -> bool {
    matches!(error, EngineError::MissingTable { .. })
        || error.io().is_some_and(|e| e.kind() == std::io::ErrorKind::NotFound)
}

/// Opens until it meets one state.
fn open_patiently(env: &Env, path: &Path, options: &DbOptions) -> Result<Engine, DbError> {
    let mut attempt = 1;
    loop {
        let before = names(env, path);
        let error = match open_once(env, path, options) {
            Ok(engine) => return Ok(engine),
            Err(error) => error,
        };
        // Nothing moved: it is no writer's work in progress.
        let stands = before.is_some() && before == names(env, path);
        if attempt >= READ_ONLY_ATTEMPTS || (stands && attempt > 2) {
            return Err(error);
        }
        log::debug!("{}: opening it again: {error}", path.display());
        attempt += 1;
    }
}

/// The names and lengths of all files; `None` when they cannot be listed.
fn names(env: &Env, path: &Path) -> Option<Vec<crate::env::DirEntry>> {
    let mut all = env.disk.list(&path.join("engine")).ok()?;
    all.extend(env.disk.list(&path.join("wal")).unwrap_or_default());
    Some(all)
}

fn open_once(env: &Env, path: &Path, options: &DbOptions) -> Result<Engine, DbError> {
    let engine_options = EngineOptions {
        memtable_bytes: options.memtable_bytes,
        cache_bytes: options.cache_bytes,
        max_open_tables: options.max_open_tables,
        ..EngineOptions::new(path.join("engine"))
    };
    let mut engine = Engine::open_to_look(env, engine_options)?;
    let dir = path.join("wal");
    if !env.disk.exists(&dir)? {
        // A checkpoint, or a database that was never written to.
        return Ok(engine);
    }
    let mut fault = None;
    let contents = wal::read(&env.disk, &wal::Options::new(LogKind::Wal, &dir), &mut |record| {
        if fault.is_none() {
            fault = replay_one(&mut engine, &record).err();
        }
        Ok(())
    })?;
    if let Some(fault) = fault {
        return Err(fault);
    }
    let (due, next) = (engine.applied().0.next().0, contents.next_index);
    if next > due {
        // Released behind a flush that came after the manifest was read.
        let what = format!("it goes on at batch {next} where batch {due} is due");
        return Err(DbError::BadLogRecord { pos: LogPos::ZERO, what });
    }
    Ok(engine)
}
