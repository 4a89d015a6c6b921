//! What can go wrong in a [`Db`](super::Db), and what it means for the write.

use crate::base::SequenceNumber;
use crate::base::batch::BatchError;
use crate::base::conditions::FailedCondition;
use crate::engine::EngineError;
use crate::engine::checkpoint::CheckpointError;
use crate::env::IoError;
use crate::wal::{LogPos, WalError};
use std::path::PathBuf;
use std::time::Duration;

/// What happened to the write that got an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Nothing, now or later: it is safe to try again.
    NotApplied,
    /// It may be in the log, and may show up now or after a restart; as a whole or not at all.
    Unknown,
}

/// A failed operation on a [`Db`](super::Db).
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// The batch is empty, too large, or names a reserved key. Not applied.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// Another process (or another `Db` of this one) has the database open.
    #[error("{}: the database is open elsewhere; close it there first", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The file system refused.
    #[error(transparent)]
    Io(#[from] IoError),
    /// A read failed, or the tables or the manifest are damaged.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The log cannot be opened or written.
    #[error("log: {0}")]
    Log(#[from] WalError),
    /// A record of the log is whole and makes no sense. Nothing was changed.
    #[error(
        "log at {pos}: {what}; wal_dump shows the log; restore the directory from a backup or a checkpoint"
    )]
    BadLogRecord {
        /// Where it is.
        pos: LogPos,
        /// What is wrong with it.
        what: String,
    },
    /// No checkpoint could be made. The database is as it was.
    #[error("checkpoint: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// The disk is full. Reads go on, and writes are taken again when there is space.
    #[error(
        "{reason}; reads go on, deletes may still work; free some space and try again ({effect:?})"
    )]
    NoSpace {
        /// What could not be written.
        reason: String,
        /// What happened to the write.
        effect: Effect,
    },
    /// Flush and compaction are far behind: nothing was written. Try again later; reads go on.
    #[error(
        "writes wait for flush and compaction; nothing was written, try again in {} ms", retry_after.as_millis()
    )]
    Busy {
        /// When to try again.
        retry_after: Duration,
    },
    /// A write or sync failed earlier: the database takes no more writes. Reads go on. Reopen it to recover.
    #[error(
        "the database stopped at its first failed write and takes no more; reopen it: {first} ({effect:?})"
    )]
    Stopped {
        /// The first failure.
        first: String,
        /// What happened to the write.
        effect: Effect,
    },
    /// A condition of the batch does not hold: nothing of it was applied.
    #[error("{0}; nothing was applied: read the key and try again with what it has now")]
    ConditionFailed(FailedCondition),
    /// The database was closed.
    #[error("the database is closed")]
    Closed,
}

impl DbError {
    /// What happened to the write that got this error.
    #[must_use]
    pub const fn effect(&self) -> Effect {
        match self {
            Self::NoSpace { effect, .. } | Self::Stopped { effect, .. } => *effect,
            Self::Log(_) => Effect::Unknown,
            _ => Effect::NotApplied,
        }
    }

    /// When it is that a condition of the batch did not hold: which, and what its key has.
    #[must_use]
    pub const fn failed_condition(&self) -> Option<FailedCondition> {
        match self {
            Self::ConditionFailed(failed) => Some(*failed),
            _ => None,
        }
    }

    /// When it is that the read's sequence number is too old: the oldest that can be read.
    #[must_use]
    pub const fn snapshot_too_old(&self) -> Option<SequenceNumber> {
        match self {
            Self::Engine(EngineError::SnapshotTooOld { oldest_readable, .. }) => {
                Some(*oldest_readable)
            }
            _ => None,
        }
    }
}
