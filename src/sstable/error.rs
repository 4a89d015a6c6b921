//! What can go wrong with a table, classified by what the caller must do.

use crate::env::IoError;
use crate::limits::{MAX_KEY_BYTES, MAX_VALUE_BYTES};
use std::fmt;
use std::path::{Path, PathBuf};

/// One damaged place in a file: where, what was expected there, and what was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Offset in the file.
    pub offset: u64,
    /// The part of the file: `footer`, `data block`, …
    pub what: &'static str,
    /// What a valid file has there.
    pub expected: String,
    /// What this file has there.
    pub found: String,
}

impl Fault {
    pub(super) fn new(
        offset: u64,
        what: &'static str,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self { offset, what, expected: expected.into(), found: found.into() }
    }

    /// The fault as an error of the file at `path`.
    #[must_use]
    pub fn in_file(self, path: &Path) -> TableError {
        TableError::Corrupt { path: path.to_path_buf(), fault: Box::new(self) }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { offset, what, expected, found } = self;
        write!(f, "{what} at offset {offset}: expected {expected}, found {found}")
    }
}

/// Why a table cannot be built or read.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The disk failed. A failed read is an error of that one request; a full disk may be retried with a new
    /// file once there is space; a failed sync must stop the process.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The file is not a table at all.
    #[error(
        "{}: not a table: expected the magic \"BEACHSST\" at offset 0, found {found}; check the path (wal_dump and \
         manifest_dump read the other files)",
        path.display()
    )]
    NotATable {
        /// The file.
        path: PathBuf,
        /// Its first bytes, as text with escapes.
        found: String,
    },
    /// The file was written by a version of the program that this one cannot read.
    #[error(
        "{}: {what} {found} at offset {offset} is not known, this program reads {supported}; use the version of \
         beachdb that wrote the file, or a newer one",
        path.display()
    )]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// Where the id is.
        offset: u64,
        /// What the id names.
        what: &'static str,
        /// The id.
        found: u8,
        /// What is known.
        supported: &'static str,
    },
    /// The file is damaged.
    #[error(
        "{}: corrupt {fault}; run sst_dump on it to see what is readable, and restore the file from a replica or a \
         backup",
        path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where and how.
        fault: Box<Fault>,
    },
    /// The builder was given a key that does not sort after the one before it.
    #[error(
        "{}: entry {entry} is out of order: key {} @ {trailer:#x} after key {} @ {previous_trailer:#x}",
        path.display(), key.escape_ascii(), previous_key.escape_ascii()
    )]
    OutOfOrder {
        /// The file being built.
        path: PathBuf,
        /// Number of the refused entry, from 0.
        entry: u64,
        /// Its user key.
        key: Vec<u8>,
        /// Its trailer.
        trailer: u64,
        /// The user key before it.
        previous_key: Vec<u8>,
        /// The trailer before it.
        previous_trailer: u64,
    },
    /// The builder was given a trailer with an unknown kind.
    #[error("{}: entry {entry} has a trailer of unknown kind: {trailer:#x}", path.display())]
    UnknownKind {
        /// The file being built.
        path: PathBuf,
        /// Number of the refused entry, from 0.
        entry: u64,
        /// Its trailer.
        trailer: u64,
    },
    /// The builder was given a key or value over the limits.
    #[error(
        "{}: entry {entry} has a key of {key_len} and a value of {value_len} bytes, the limits are {MAX_KEY_BYTES} \
         and {MAX_VALUE_BYTES}",
        path.display()
    )]
    EntryTooLarge {
        /// The file being built.
        path: PathBuf,
        /// Number of the refused entry, from 0.
        entry: u64,
        /// Bytes in the key.
        key_len: usize,
        /// Bytes in the value.
        value_len: usize,
    },
    /// A read that may not touch the disk ([`Fetch::MemoryOnly`](super::Fetch::MemoryOnly)) would have to: repeat it in a
    /// job. Not a failure.
    #[error("a block of the table is not in memory, and this read may not touch the disk")]
    NotInMemory,
    /// The builder was finished without an entry: a table holds at least one.
    #[error("{}: a table without entries is not written", path.display())]
    Empty {
        /// The file being built.
        path: PathBuf,
    },
    /// A builder whose earlier write failed was used again.
    #[error("{}: the builder failed before; remove the file and build it anew", path.display())]
    Poisoned {
        /// The file being built.
        path: PathBuf,
    },
}

impl TableError {
    /// The disk (or quota) is full: remove the unfinished file and try again later.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Io(e) if e.is_disk_full())
    }

    /// The file that it is about.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Io(error) => Some(&error.path),
            Self::NotATable { path, .. }
            | Self::Unsupported { path, .. }
            | Self::Corrupt { path, .. }
            | Self::OutOfOrder { path, .. }
            | Self::UnknownKind { path, .. }
            | Self::EntryTooLarge { path, .. }
            | Self::Empty { path }
            | Self::Poisoned { path } => Some(path),
            Self::NotInMemory => None,
        }
    }

    /// The read may be repeated where it may touch the disk.
    #[must_use]
    pub const fn needs_disk(&self) -> bool {
        matches!(self, Self::NotInMemory)
    }

    /// The file is damaged (and not merely unreadable now, foreign, or newer).
    #[must_use]
    pub const fn is_corruption(&self) -> bool {
        matches!(self, Self::Corrupt { .. })
    }

    /// The damaged place, when the file is damaged.
    #[must_use]
    pub fn fault(&self) -> Option<&Fault> {
        match self {
            Self::Corrupt { fault, .. } => Some(fault),
            _ => None,
        }
    }
}
