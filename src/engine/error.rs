//! What can go wrong in the engine, classified by what the caller must do.

use crate::base::SequenceNumber;
use crate::env::IoError;
use crate::limits::MAX_RANGE_DELETES;
use crate::sstable::TableError;
use crate::wal::WalError;
use std::path::{Path, PathBuf};

/// A failed engine operation. From a read it concerns that request only; from
/// [`Engine::job_done`](super::Engine::job_done) and [`Engine::open`](super::Engine::open) it means: stop.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The file system refused.
    #[error(transparent)]
    Io(#[from] IoError),
    /// A table cannot be built or read.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The manifest cannot be written or read.
    #[error("manifest: {0}")]
    Manifest(#[from] WalError),
    /// A read at a sequence number whose versions may be gone. Nothing was read; take a new snapshot.
    #[error(
        "snapshot {seq} is too old: versions before {oldest_readable} may be gone; take a new snapshot"
    )]
    SnapshotTooOld {
        /// The sequence number asked for.
        seq: SequenceNumber,
        /// The oldest that can be read.
        oldest_readable: SequenceNumber,
    },
    /// A read at a sequence number that has not been assigned yet: its answer could still change.
    #[error("snapshot {seq} is in the future: the last sequence number is {last_seq}")]
    SnapshotInFuture {
        /// The sequence number asked for.
        seq: SequenceNumber,
        /// The last one assigned.
        last_seq: SequenceNumber,
    },
    /// A batch with more range deletes than may be live at once. Nothing was applied; try again when compaction has applied
    /// some of those that are.
    #[error(
        "{live} of range deletes are live, the limit is {MAX_RANGE_DELETES}: they wait for flushes and compactions that apply \
         them; try again later"
    )]
    TooManyRangeDeletes {
        /// How many are live.
        live: usize,
    },
    /// A table that the manifest names is not there. Nothing was changed.
    #[error(
        "{}: the manifest names this table and it is missing; restore the file from a backup, or the whole directory \
         from a replica or a checkpoint", path.display()
    )]
    MissingTable {
        /// Where it should be.
        path: PathBuf,
    },
    /// A table that is not the one that the manifest describes. Nothing was changed.
    #[error(
        "{}: {what} is {found}, the manifest says {expected}; the file was replaced or cut: restore it from a backup, \
         or the whole directory from a replica or a checkpoint", path.display()
    )]
    WrongTable {
        /// The table.
        path: PathBuf,
        /// What differs.
        what: &'static str,
        /// In the manifest.
        expected: String,
        /// In the file.
        found: String,
    },
    /// Tables without a `CURRENT` that says which of them count. Nothing was changed.
    #[error(
        "{}: not there, but the directory holds tables ({example}, …); if the file was lost, write the name of the \
         newest manifest back into it (see proto-spec/manifest.md), else the directory is not BeachDB's", path.display()
    )]
    CurrentMissing {
        /// Where `CURRENT` should be.
        path: PathBuf,
        /// One of the tables.
        example: String,
    },
    /// A damaged file. Nothing was changed.
    #[error(
        "{}: corrupt at offset {offset}: expected {expected}, found {found}; manifest_dump shows what is readable; \
         restore the file from a backup, or the whole directory from a replica or a checkpoint", path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What a valid file has there.
        expected: String,
        /// What this one has.
        found: String,
    },
    /// A file written by a newer version. Nothing was changed.
    #[error(
        "{}: {what} {found} at offset {offset} is not known, this program reads {supported}; use the version of \
         beachdb that wrote it, or a newer one", path.display()
    )]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What the number names.
        what: &'static str,
        /// The number.
        found: u64,
        /// What is known.
        supported: &'static str,
    },
}

impl EngineError {
    pub(super) fn corrupt(
        path: &Path,
        offset: u64,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        let (expected, found) = (expected.into(), found.into());
        Self::Corrupt { path: path.to_path_buf(), offset, expected, found }
    }

    /// The operation of the file system that failed, when that is what happened.
    #[must_use]
    pub const fn io(&self) -> Option<&IoError> {
        match self {
            Self::Io(e) | Self::Table(TableError::Io(e)) | Self::Manifest(WalError::Io(e)) => {
                Some(e)
            }
            Self::Manifest(WalError::DiskFull { source }) => Some(source),
            _ => None,
        }
    }

    /// The file that the error is about, when it is about one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Table(error) => error.path(),
            Self::MissingTable { path }
            | Self::WrongTable { path, .. }
            | Self::CurrentMissing { path, .. }
            | Self::Corrupt { path, .. }
            | Self::Unsupported { path, .. } => Some(path),
            other => other.io().map(|error| error.path.as_path()),
        }
    }

    /// Data on the disk is not what was written, or is not there.
    #[must_use]
    pub const fn is_corruption(&self) -> bool {
        match self {
            Self::Corrupt { .. }
            | Self::MissingTable { .. }
            | Self::WrongTable { .. }
            | Self::CurrentMissing { .. } => true,
            Self::Table(error) => error.is_corruption(),
            Self::Manifest(error) => error.is_corruption(),
            Self::Io(_)
            | Self::SnapshotTooOld { .. }
            | Self::SnapshotInFuture { .. }
            | Self::TooManyRangeDeletes { .. }
            | Self::Unsupported { .. } => false,
        }
    }

    /// Out of space, and not in a sync: free some and try again. A failed sync is never retried (pitfall 19),
    /// whatever its reason.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        self.io().is_some_and(|e| e.is_disk_full() && !matches!(e.op, "fdatasync" | "fsync"))
    }

    /// The simulated machine crashed; never seen on a real disk.
    #[must_use]
    pub fn is_simulated_crash(&self) -> bool {
        self.io().is_some_and(IoError::is_simulated_crash)
    }
}
