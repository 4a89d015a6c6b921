//! Checkpoints: a consistent copy of all data at one sequence number, by hard links, and what can be made of it.
//!
//! ```text
//!  Engine::checkpoint ─▶ CheckpointWork: pins the version of the last flush
//!     step, step, …   DIR.tmp/engine/<n>.sst      a link each; a copy where the file systems differ
//!     last step       DIR.tmp/engine/<m>.manifest, CURRENT      one full edit: the pinned state
//!                     DIR.tmp/CHECKPOINT          what it is of ([`Description`]), with a CRC
//!                     sync DIR.tmp, rename it to DIR, sync the directory of DIR
//! ```
//!
//! The owner flushes first what the checkpoint is to hold. Every step is bounded, for a lane that others use too. Layout:
//! `proto-spec/checkpoint.md`.
//!
//! Invariants:
//! - DIR is there only when all of it is, durably: its name is given last. What a crash leaves is called DIR.tmp and counts for
//!   nothing; the next checkpoint of that name removes it.
//! - Nothing is overwritten: a DIR that exists is refused, and a DIR.tmp that holds anything but a checkpoint's files, or in which
//!   somebody works: it is locked, also against other processes.
//! - What is pinned stays: no table is removed while the work holds its version. Tables never change, so the copy shares
//!   their bytes with the original until either removes its name.
//! - A failed checkpoint is an error of this checkpoint only; what it made is removed. (But when the very last sync fails, DIR is
//!   there, and a power loss may take it.)
//! - The directory opens as an embedded database too ([`Db`](super::Db)), or as an engine: it is one.
//!
//! What it does not do: it holds no log. What is not flushed is not in it, whence the flush before.

mod description;

pub use description::{DESCRIPTION_NAME, Description, Origin};

use super::edit::{State, TableMeta};
use super::error::EngineError;
use super::manifest::{self, Manifest, TMP_SUFFIX, remove_or_warn, table_file_name, tmp};
use super::version::Version;
use super::{Engine, recovery};
use crate::env::{Disk, File, IoError, IoResult, LockGuard, OpenMode};
use crate::limits::{CHECKPOINT_COPY_BYTES, CHECKPOINT_STEP_LINKS};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where the engine's files are in a checkpoint, as in a data directory.
pub const ENGINE_DIR: &str = "engine";
/// Bytes copied at a time.
const COPY_PIECE_BYTES: usize = 1 << 20;
/// Locked in DIR.tmp by whoever works there; goes when DIR has its name.
const LOCK_NAME: &str = "LOCK";

/// Why there is no checkpoint, or none that can be used. What it was to be made of is as it was.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file system refused.
    #[error(transparent)]
    Io(#[from] IoError),
    /// Its manifest or tables cannot be written or read.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The target is there.
    #[error("{}: it exists already, and a checkpoint never overwrites; choose another name", dir.display())]
    Exists {
        /// The target.
        dir: PathBuf,
    },
    /// The path names no new directory.
    #[error("{}: this names no new directory", dir.display())]
    NoName {
        /// The path.
        dir: PathBuf,
    },
    /// Somebody else, maybe in another process, makes a checkpoint of this name.
    #[error("{}: another checkpoint of this name is being made; choose another name", dir.display())]
    Busy {
        /// Where it is being made.
        dir: PathBuf,
    },
    /// The directory to work in holds something else.
    #[error(
        "{}: {entry} in it is no file of an interrupted checkpoint; move it away, or choose another name", dir.display()
    )]
    NotOurs {
        /// The directory.
        dir: PathBuf,
        /// What else is in it.
        entry: String,
    },
    /// There is no description.
    #[error(
        "{}: no checkpoint: there is no file {DESCRIPTION_NAME} in it (one whose name ends in {TMP_SUFFIX} was interrupted)",
        dir.display()
    )]
    NotACheckpoint {
        /// The directory.
        dir: PathBuf,
    },
    /// The description is damaged.
    #[error(
        "{}: corrupt at offset {offset}: expected {expected}, found {found}; use another checkpoint", path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What a valid one has there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A newer program made it.
    #[error(
        "{}: format version {found}, this program reads version 1: use the version of beachdb that made it, or a newer one",
        path.display()
    )]
    NewerVersion {
        /// The description.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// Description and manifest are not of one checkpoint.
    #[error(
        "{}: {what} is {found} by the description, and {expected} by the manifest: these files are not of one checkpoint; \
         use another one", dir.display()
    )]
    Differs {
        /// The directory.
        dir: PathBuf,
        /// What differs.
        what: &'static str,
        /// By the manifest.
        expected: String,
        /// By the description.
        found: String,
    },
}

impl CheckpointError {
    /// Out of space: free some and try again.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Io(error) => error.is_disk_full(),
            Self::Engine(error) => error.io().is_some_and(IoError::is_disk_full),
            _ => false,
        }
    }

    fn is_simulated_crash(&self) -> bool {
        match self {
            Self::Io(error) => error.is_simulated_crash(),
            Self::Engine(error) => error.is_simulated_crash(),
            _ => false,
        }
    }
}

/// What was made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    /// Where.
    pub dir: PathBuf,
    /// Of what.
    pub description: Description,
    /// Tables that are links.
    pub linked: u64,
    /// Bytes of the tables that had to be copied.
    pub copied_bytes: u64,
}

/// What a step came to.
pub enum CheckpointStep {
    /// There is more to do.
    More(Box<CheckpointWork>),
    /// The checkpoint is there, durably.
    Done(Box<Checkpoint>),
    /// There is none, and what was begun is removed.
    Failed(CheckpointError),
}

/// A checkpoint in the making: pure but for the disk, in bounded steps. Dropped in between it leaves DIR.tmp.
pub struct CheckpointWork {
    dir: PathBuf,
    description: Description,
    state: State,
    files: Transfer,
    /// Of DIR.tmp, once begun: nobody else works there.
    lock: Option<Box<dyn LockGuard>>,
    /// Holds the tables.
    _pin: Arc<Version>,
}

impl Engine {
    /// The work that makes a checkpoint of what is flushed, in `dir`.
    #[must_use]
    pub fn checkpoint(&self, dir: PathBuf, origin: Option<Origin>) -> CheckpointWork {
        let mut state = self.durable.clone();
        if planted!(CheckpointMissesFlush) {
            state.tables.pop_last();
        }
        let tables = state.tables.values().cloned().collect();
        // One spelling, without a slash at its end: its neighbour is to be called DIR.tmp.
        let dir: PathBuf = dir.components().collect();
        let to = tmp(&dir).join(ENGINE_DIR);
        let disk = Arc::clone(&self.env.disk);
        CheckpointWork {
            description: Description::of(&state, origin),
            files: Transfer::new(disk, self.options.dir.clone(), to, tables),
            state,
            dir,
            lock: None,
            _pin: Arc::clone(&self.version),
        }
    }
}

impl CheckpointWork {
    /// Bytes of the tables that are in place, and of all.
    #[must_use]
    pub const fn progress(&self) -> (u64, u64) {
        (self.files.done_bytes, self.description.bytes)
    }

    /// Does all of it. Blocks.
    pub fn run(self) -> Result<Checkpoint, CheckpointError> {
        let mut step = self.step();
        loop {
            match step {
                CheckpointStep::More(work) => step = work.step(),
                CheckpointStep::Done(done) => return Ok(*done),
                CheckpointStep::Failed(error) => return Err(error),
            }
        }
    }

    /// Does the next, bounded part. Blocks on the disk.
    #[must_use]
    pub fn step(mut self) -> CheckpointStep {
        match self.try_step() {
            Ok(false) => CheckpointStep::More(Box::new(self)),
            Ok(true) => CheckpointStep::Done(Box::new(Checkpoint {
                dir: self.dir,
                description: self.description,
                linked: self.files.linked,
                copied_bytes: self.files.copied_bytes,
            })),
            Err(error) => {
                self.abandon(&error);
                CheckpointStep::Failed(error)
            }
        }
    }

    /// Whether it is done.
    fn try_step(&mut self) -> Result<bool, CheckpointError> {
        let disk = Arc::clone(&self.files.disk);
        if self.lock.is_none() {
            self.lock = Some(begin(&*disk, &self.dir)?);
            // Whoever held the lock before may have given DIR its name.
            if disk.exists(&self.dir)? {
                return Err(CheckpointError::Exists { dir: self.dir.clone() });
            }
            clear(&*disk, &tmp(&self.dir), false)?;
            disk.create_dir_all(&self.files.to)?;
        }
        if !self.files.step()? {
            return Ok(false);
        }
        write_manifest(&disk, &self.files.to, &self.state)?;
        let temp = tmp(&self.dir);
        write_new(&*disk, &temp.join(DESCRIPTION_NAME), self.description.encode().as_bytes())?;
        if !planted!(CheckpointDirNotSynced) {
            disk.sync_dir(&temp)?;
        }
        // Somebody else may have made it meanwhile.
        if disk.exists(&self.dir)? {
            return Err(CheckpointError::Exists { dir: self.dir.clone() });
        }
        disk.rename(&temp, &self.dir)?;
        remove_or_warn(&*disk, &self.dir.join(LOCK_NAME));
        disk.sync_dir(parent_of(&self.dir))?;
        Ok(true)
    }

    fn abandon(&self, error: &CheckpointError) {
        if self.lock.is_none() || error.is_simulated_crash() {
            return;
        }
        if let Err(e) = clear(&*self.files.disk, &tmp(&self.dir), true) {
            log::warn!("checkpoint: what is left of it cannot be removed: {e}");
        }
    }
}

/// The directory that holds `path`; `.` for a bare name.
fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => path,
    }
}

/// Makes the manifest and `CURRENT` of the engine in `dir`, which has the tables of `state` already. All of it is durable then.
pub fn write_manifest(disk: &Arc<dyn Disk>, dir: &Path, state: &State) -> Result<(), EngineError> {
    let mut state = state.clone();
    let number = state.next_file.max(1);
    state.next_file = number + 1;
    Manifest::new(Arc::clone(disk), dir.to_path_buf()).rotate(number, &state)
}

/// Writes a small file that is not there, and syncs it; its name is not durable yet.
fn write_new(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> IoResult<()> {
    let file = disk.open(path, OpenMode::CreateNew)?;
    file.write_at(0, bytes)?;
    file.sync_data()
}

/// Makes DIR.tmp, if it is not there, and takes the lock in it.
fn begin(disk: &dyn Disk, dir: &Path) -> Result<Box<dyn LockGuard>, CheckpointError> {
    if dir.file_name().is_none() {
        return Err(CheckpointError::NoName { dir: dir.to_path_buf() });
    }
    if disk.exists(dir)? {
        return Err(CheckpointError::Exists { dir: dir.to_path_buf() });
    }
    let temp = tmp(dir);
    look(disk, &temp)?;
    let held = disk.create_dir_all(&temp).and_then(|()| disk.lock(&temp.join(LOCK_NAME)));
    held.map_err(|e| {
        if e.kind() == io::ErrorKind::WouldBlock {
            return CheckpointError::Busy { dir: temp };
        }
        // Empty, unless somebody else came in between.
        if let Err(e) = disk.remove_dir(&temp) {
            log::debug!("checkpoint: {e}");
        }
        e.into()
    })
}

/// What is in `temp`, and in the engine's directory in it: names; refused when there is anything that no checkpoint makes.
fn look(
    disk: &dyn Disk,
    temp: &Path,
) -> Result<(Vec<String>, Option<Vec<String>>), CheckpointError> {
    if !disk.exists(temp)? {
        return Ok((Vec::new(), None));
    }
    let not_ours =
        |entry: &str| CheckpointError::NotOurs { dir: temp.to_path_buf(), entry: entry.to_owned() };
    let engine = temp.join(ENGINE_DIR);
    let (dirs, files): (Vec<_>, Vec<_>) = disk.list(temp)?.into_iter().partition(|e| e.is_dir);
    let inner =
        if dirs.is_empty() { None } else { disk.exists(&engine)?.then(|| disk.list(&engine)) };
    let inner = inner.transpose()?;
    let foreign_dir = dirs.iter().find(|e| e.name != ENGINE_DIR);
    let foreign = files.iter().find(|e| ![DESCRIPTION_NAME, LOCK_NAME].contains(&&*e.name));
    let mut in_engine = inner.iter().flatten();
    let foreign_inner = in_engine.find(|e| e.is_dir || !recovery::is_engine_file(&e.name));
    if let Some(entry) = foreign_dir.or(foreign).or(foreign_inner) {
        return Err(not_ours(&entry.name));
    }
    let names = |entries: Vec<crate::env::DirEntry>| entries.into_iter().map(|e| e.name).collect();
    Ok((names(files), inner.map(names)))
}

/// Removes what a checkpoint made in `temp`, which is locked: all of it, with the lock and `temp` itself, or what is in it.
fn clear(disk: &dyn Disk, temp: &Path, itself: bool) -> Result<(), CheckpointError> {
    let (files, inner) = look(disk, temp)?;
    let engine = temp.join(ENGINE_DIR);
    if let Some(inner) = inner {
        for name in inner {
            disk.remove(&engine.join(name))?;
        }
        disk.remove_dir(&engine)?;
    }
    for name in files.iter().filter(|name| itself || *name != LOCK_NAME) {
        disk.remove(&temp.join(name))?;
    }
    if itself {
        disk.remove_dir(temp)?;
    }
    Ok(())
}

/// Brings tables from one directory into another: links where that can be, else copies, which are synced. The names are
/// durable when the directory is synced; that is [`write_manifest`]'s.
pub struct Transfer {
    disk: Arc<dyn Disk>,
    from: PathBuf,
    to: PathBuf,
    tables: Vec<TableMeta>,
    next: usize,
    /// Links cannot be made here.
    copies: bool,
    copy: Option<Copy>,
    linked: u64,
    copied_bytes: u64,
    done_bytes: u64,
}

/// A table that is being copied.
#[derive(Debug)]
struct Copy {
    from: Arc<dyn File>,
    to: Arc<dyn File>,
    at: u64,
    bytes: u64,
}

impl Transfer {
    /// Of these tables.
    #[must_use]
    pub const fn new(
        disk: Arc<dyn Disk>,
        from: PathBuf,
        to: PathBuf,
        tables: Vec<TableMeta>,
    ) -> Self {
        Self {
            disk,
            from,
            to,
            tables,
            next: 0,
            copies: false,
            copy: None,
            linked: 0,
            copied_bytes: 0,
            done_bytes: 0,
        }
    }

    /// Tables that are links, and bytes that were copied.
    #[must_use]
    pub const fn counts(&self) -> (u64, u64) {
        (self.linked, self.copied_bytes)
    }

    /// Does the next, bounded part; whether all is done.
    pub fn step(&mut self) -> IoResult<bool> {
        let (mut links, mut bytes) = (0, 0);
        while links < CHECKPOINT_STEP_LINKS && bytes < CHECKPOINT_COPY_BYTES {
            if let Some(copy) = &mut self.copy {
                bytes += copy.piece()?;
                if copy.at == copy.bytes {
                    copy.to.sync_data()?;
                    self.copied_bytes += copy.bytes;
                    self.done_bytes += copy.bytes;
                    (self.copy, self.next) = (None, self.next + 1);
                }
                continue;
            }
            let Some(table) = self.tables.get(self.next) else { return Ok(true) };
            let name = table_file_name(table.number);
            let (from, to) = (self.from.join(&name), self.to.join(&name));
            if !self.copies {
                match self.disk.hard_link(&from, &to) {
                    Ok(()) => {
                        links += 1;
                        self.linked += 1;
                        self.done_bytes += table.bytes;
                        self.next += 1;
                        continue;
                    }
                    Err(error) if error.needs_copy() => {
                        log::info!("tables are copied, for they cannot be linked: {error}");
                        self.copies = true;
                    }
                    Err(error) => return Err(error),
                }
            }
            self.copy = Some(Copy {
                from: self.disk.open(&from, OpenMode::Read)?,
                to: self.disk.open(&to, OpenMode::CreateNew)?,
                at: 0,
                bytes: table.bytes,
            });
        }
        Ok(self.next == self.tables.len())
    }
}

impl Copy {
    fn piece(&mut self) -> IoResult<u64> {
        let len = (self.bytes - self.at).min(COPY_PIECE_BYTES as u64);
        let mut piece = vec![0; len as usize];
        self.from.read_exact_at(self.at, &mut piece)?;
        self.to.write_at(self.at, &piece)?;
        self.at += len;
        Ok(len)
    }
}

/// What `dir` holds by its description and its manifest, which must agree. Reads no table.
pub fn read(disk: &dyn Disk, dir: &Path) -> Result<(Description, State), CheckpointError> {
    let description = Description::read(disk, dir)?;
    let engine = dir.join(ENGINE_DIR);
    let state = recovery::read_state(disk, &engine)?;
    let by_manifest = Description::of(&state, None);
    let differs = |what, expected: String, found: String| CheckpointError::Differs {
        dir: dir.to_path_buf(),
        what,
        expected,
        found,
    };
    let pairs = |d: &Description| {
        [
            ("the last entry", format!("{} of term {}", d.applied.0, d.applied.1)),
            ("the last sequence number", d.last_seq.to_string()),
            ("the oldest readable sequence number", d.oldest_readable.to_string()),
            ("the number of tables", d.tables.to_string()),
            ("the bytes of all tables", d.bytes.to_string()),
        ]
    };
    let all = pairs(&by_manifest).into_iter().zip(pairs(&description));
    for ((what, expected), (_, found)) in all {
        if expected != found {
            return Err(differs(what, expected, found));
        }
    }
    Ok((description, state))
}

/// Removes a directory that a restore made in vain, files of an engine only.
pub fn remove_engine_dir(disk: &dyn Disk, dir: &Path) -> IoResult<()> {
    if !disk.exists(dir)? {
        return Ok(());
    }
    for entry in disk.list(dir)?.iter().filter(|e| !e.is_dir && recovery::is_engine_file(&e.name)) {
        remove_or_warn(disk, &dir.join(&entry.name));
    }
    disk.sync_dir(dir)
}

/// Whether a manifest is there: an engine's directory that is not new.
pub fn is_engine_dir(disk: &dyn Disk, dir: &Path) -> IoResult<bool> {
    disk.exists(&dir.join(manifest::CURRENT))
}
