//! L1: the outside world behind four small traits, each with a real and a simulated implementation.
//!
//! | trait | real ([`os`]) | simulated ([`sim`]) |
//! |---|---|---|
//! | [`Clock`] | `CLOCK_MONOTONIC` | virtual time |
//! | [`Random`] | seeded from the OS | seeded from the run |
//! | [`Disk`], [`File`] | the file system | a crash model: un-synced data is lost, torn, or reordered |
//! | [`Jobs`] | one helper thread a lane | run at a chosen moment by the test |
//!
//! Architecture invariant: `std::fs`, `Instant::now`, `SystemTime::now`, threads, and random devices appear in
//! `env::os` and nowhere else in this library.
//!
//! File I/O is *blocking* at this level. What must not block (the event loop) wraps it in a [`Job`]: a closure
//! over immutable inputs, submitted to a [`Lane`], whose completion comes back as an event. That is how a sync is
//! "submitted and completed by id".

#[cfg(test)]
mod conformance;
pub mod os;
pub mod sim;

use crate::base::Nanos;
use std::any::Any;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A failed operation on the outside world: what was tried, on which file, and why it failed.
#[derive(Debug, thiserror::Error)]
#[error("{op} {}{}: {source}", path.display(), offset.map(|o| format!(" at offset {o}")).unwrap_or_default())]
pub struct IoError {
    /// The operation, in the words of the system call: `open`, `read`, `write`, `fdatasync`, `rename`, …
    pub op: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// The offset in the file, where there is one.
    pub offset: Option<u64>,
    /// The operating system's reason.
    pub source: io::Error,
}

impl IoError {
    /// The operating system's kind of error.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }
    /// The disk (or quota) is full: the caller may free space and try again.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        matches!(self.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
    /// A hard link cannot be made here, because of what the file systems are: a copy can.
    #[must_use]
    pub fn needs_copy(&self) -> bool {
        use io::ErrorKind::{CrossesDevices, PermissionDenied, TooManyLinks, Unsupported};
        self.op == "link"
            && matches!(self.kind(), CrossesDevices | PermissionDenied | TooManyLinks | Unsupported)
    }
    /// The simulated machine crashed under this operation ([`sim::SimDisk`]); never seen on a real disk.
    #[must_use]
    pub fn is_simulated_crash(&self) -> bool {
        self.source.get_ref().is_some_and(|e| e.is::<SimulatedCrash>())
    }
}

/// The source of an [`IoError`] from a simulated machine that has crashed.
#[derive(Debug, thiserror::Error)]
#[error("the simulated machine crashed")]
pub struct SimulatedCrash;

/// The result of an operation on the outside world.
pub type IoResult<T> = Result<T, IoError>;

/// Monotonic time.
pub trait Clock: Send + Sync {
    /// Now, in nanoseconds since an arbitrary origin. Never goes back.
    fn now(&self) -> Nanos;
}

/// A source of random numbers.
pub trait Random: Send {
    /// The next 64 bits.
    fn next_u64(&mut self) -> u64;
}

/// How to open a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenMode {
    /// An existing file, to read only.
    Read,
    /// An existing file, to read and write.
    ReadWrite,
    /// A file that must not exist yet, to read and write.
    CreateNew,
}

/// One name in a directory.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct DirEntry {
    /// The name inside the directory.
    pub name: String,
    /// The length of the file in bytes.
    pub len: u64,
    /// Whether it is itself a directory.
    pub is_dir: bool,
}

/// A file system. All calls block.
pub trait Disk: Send + Sync {
    /// Opens a file. The entry of a created file is durable only after [`Disk::sync_dir`] of its directory.
    fn open(&self, path: &Path, mode: OpenMode) -> IoResult<Arc<dyn File>>;
    /// Renames a file, replacing the target, or a directory, whose target may be an empty directory. Durable after
    /// [`Disk::sync_dir`] of both directories; that of what is *in* a renamed directory is another matter.
    fn rename(&self, from: &Path, to: &Path) -> IoResult<()>;
    /// Removes a file. Durable after [`Disk::sync_dir`].
    fn remove(&self, path: &Path) -> IoResult<()>;
    /// Gives the file `from` a second name, which must not exist yet. Durable after [`Disk::sync_dir`] of its directory.
    /// Fails with `CrossesDevices` when it is on another file system, and with whatever else the file system says when it
    /// knows no links ([`IoError::needs_copy`]).
    fn hard_link(&self, from: &Path, to: &Path) -> IoResult<()>;
    /// Removes an empty directory. Durable after [`Disk::sync_dir`] of its parent.
    fn remove_dir(&self, dir: &Path) -> IoResult<()>;
    /// The entries of a directory, sorted by name.
    fn list(&self, dir: &Path) -> IoResult<Vec<DirEntry>>;
    /// Creates a directory and its parents; no error when it exists. Makes the entries durable itself, also that of a
    /// directory which exists: whoever made it may have died before it did so.
    fn create_dir_all(&self, dir: &Path) -> IoResult<()>;
    /// Makes the directory's entries durable.
    fn sync_dir(&self, dir: &Path) -> IoResult<()>;
    /// Takes an exclusive advisory lock on `path` (created if missing), held until the guard is dropped or the
    /// process ends. Fails with `WouldBlock` when somebody else holds it.
    fn lock(&self, path: &Path) -> IoResult<Box<dyn LockGuard>>;
    /// Bytes free for us on the file system of `dir`.
    fn free_bytes(&self, dir: &Path) -> IoResult<u64>;
    /// Whether `path` exists.
    fn exists(&self, path: &Path) -> IoResult<bool>;
}

/// An open file. Positional, so that one handle serves many readers.
pub trait File: Send + Sync + fmt::Debug {
    /// The path it was opened by, for error messages.
    fn path(&self) -> &Path;
    /// The length in bytes.
    fn len(&self) -> IoResult<u64>;
    /// Whether it has no bytes.
    fn is_empty(&self) -> IoResult<bool> {
        Ok(self.len()? == 0)
    }
    /// Fills `buf` from `offset`; returns how many bytes there were (short only at the end of the file).
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> IoResult<usize>;
    /// Writes all of `data` at `offset`. On an error any part of it may have been written.
    fn write_at(&self, offset: u64, data: &[u8]) -> IoResult<()>;
    /// Sets the length; new bytes read as zero.
    fn set_len(&self, len: u64) -> IoResult<()>;
    /// Makes the data (and the length) durable: `fdatasync`. After a failure the un-synced data may be gone:
    /// never retry, stop (pitfall 19).
    fn sync_data(&self) -> IoResult<()>;
    /// Fills `buf` from `offset` or fails with `UnexpectedEof`.
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> IoResult<()> {
        let got = self.read_at(offset, buf)?;
        if got == buf.len() {
            return Ok(());
        }
        Err(IoError {
            op: "read",
            path: self.path().to_path_buf(),
            offset: Some(offset),
            source: io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("wanted {} bytes, the file has {got}", buf.len()),
            ),
        })
    }
}

/// Holds a lock taken with [`Disk::lock`] until it is dropped.
pub trait LockGuard: Send + Sync + fmt::Debug {}

/// The lanes of blocking work. Jobs of one lane run one after the other in the order they were submitted
/// (those that are [unordered](Lane::is_unordered) may run several at once); lanes never wait for each other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Lane {
    /// Log write + sync. At most one group in flight.
    Log,
    /// Manifest append + sync, installation of tables.
    Manifest,
    /// Building a table from a memtable.
    Flush,
    /// Merging tables (issue 5).
    Compact,
    /// Reads that need the disk: gets and scan slices.
    Read,
    /// Zero-filling spare segments, deleting files.
    Maintenance,
    /// Finding the addresses of names: a resolver may take many seconds.
    Names,
}

impl Lane {
    /// All lanes.
    pub const ALL: [Self; 7] = [
        Self::Log,
        Self::Manifest,
        Self::Flush,
        Self::Compact,
        Self::Read,
        Self::Maintenance,
        Self::Names,
    ];
    /// Whether several of its jobs may run at once.
    #[must_use]
    pub const fn is_unordered(self) -> bool {
        matches!(self, Self::Read | Self::Names)
    }

    /// A name for thread names, traces, and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Manifest => "manifest",
            Self::Flush => "flush",
            Self::Compact => "compact",
            Self::Read => "read",
            Self::Maintenance => "maintenance",
            Self::Names => "names",
        }
    }
}

/// Identifies a submitted job. Unique within one [`Jobs`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct JobId(pub u64);

/// What a job returns; whoever submitted it knows the type and downcasts it.
pub type JobOutput = Box<dyn Any + Send>;

/// Blocking work as a pure function over immutable inputs: it owns nothing shared and decides nothing.
pub type Job = Box<dyn FnOnce() -> JobOutput + Send>;

/// A finished job.
pub struct Completion {
    /// The id that [`Jobs::submit`] returned.
    pub id: JobId,
    /// Its lane.
    pub lane: Lane,
    /// What it returned.
    pub output: JobOutput,
    /// When it was submitted, started, and finished.
    pub submitted_at: Nanos,
    /// When it started to run.
    pub started_at: Nanos,
    /// When it finished.
    pub finished_at: Nanos,
}

/// Runs blocking work off the caller's thread. A panic in a job stops the process (real) or the test (simulated).
pub trait Jobs: Send + Sync {
    /// Queues `job` in `lane`.
    fn submit(&self, lane: Lane, job: Job) -> JobId;
    /// Moves all completions so far into `out`, in the order they finished. Never blocks.
    fn poll(&self, out: &mut Vec<Completion>);
    /// Blocks until a completion is ready, nothing is outstanding, or `timeout` passed; returns whether one is
    /// ready. The simulated one runs the next job instead of blocking. Not for the event loop.
    fn wait(&self, timeout: Duration) -> bool;
    /// Whether [`Jobs::poll`] would return something; cheap.
    fn has_completions(&self) -> bool;
    /// Jobs submitted and not yet polled.
    fn outstanding(&self) -> usize;
}

/// The outside world, in one value to hand down. Cloning shares it.
#[derive(Clone)]
pub struct Env {
    /// Monotonic time.
    pub clock: Arc<dyn Clock>,
    /// The file system.
    pub disk: Arc<dyn Disk>,
    /// Helper lanes.
    pub jobs: Arc<dyn Jobs>,
}
