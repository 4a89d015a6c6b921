//! What can be wrong with a log, said so that a person knows what to do next.

use super::format::{LogPos, MARKER, RECORD_HEADER_BYTES};
use crate::env::IoError;
use crate::limits::MAX_RECORD_BYTES;
use std::path::{Path, PathBuf};

/// Why the bytes at some offset are not a record. Whether that is the log's end, a torn write, or damage is decided
/// by the watermarks ([`super::recovery`]), never by the fault itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecordFault {
    /// The file ends where a record could start.
    EndOfFile,
    /// Zeros: the zero-filled rest of a segment.
    Zeros,
    /// The file ends inside the record.
    CutShort {
        /// Bytes that the record needs.
        need: u64,
        /// Bytes that the file has from here.
        have: u64,
    },
    /// The marker is missing.
    Marker {
        /// The four bytes in its place.
        found: [u8; 4],
    },
    /// An unknown record kind.
    Kind {
        /// The byte.
        found: u8,
    },
    /// Reserved bytes or padding are not zero.
    Reserved,
    /// A length beyond the limit, or not allowed for the kind.
    Length {
        /// The length field.
        found: u32,
        /// The longest allowed.
        max: u32,
    },
    /// The checksum does not match.
    Checksum {
        /// What the bytes sum to.
        expected: u32,
        /// What the header says.
        found: u32,
    },
    /// A group claims that the log was durable beyond the group's own position.
    Watermark {
        /// The claim.
        found: LogPos,
    },
}

impl RecordFault {
    /// Whether this is how an undisturbed log ends.
    #[must_use]
    pub const fn is_clean_end(self) -> bool {
        matches!(self, Self::EndOfFile | Self::Zeros)
    }

    /// What should have been there.
    #[must_use]
    pub fn expected(&self) -> String {
        match self {
            Self::EndOfFile | Self::Zeros => "a record".into(),
            Self::CutShort { need, .. } => format!("a record of {need} bytes"),
            Self::Marker { .. } => format!("the record marker {}", hex(&MARKER)),
            Self::Kind { .. } => "a record kind from 1 to 4".into(),
            Self::Reserved => "zeros in the reserved bytes and the padding".into(),
            Self::Length { max, .. } => format!("a payload of at most {max} bytes"),
            Self::Checksum { expected, .. } => format!("checksum {expected:08x}"),
            Self::Watermark { .. } => "a watermark below its group".into(),
        }
    }

    /// What was there.
    #[must_use]
    pub fn found(&self) -> String {
        match self {
            Self::EndOfFile => "the end of the file".into(),
            Self::Zeros => "zeros".into(),
            Self::CutShort { have, .. } => format!("the end of the file after {have} bytes"),
            Self::Marker { found } => hex(found),
            Self::Kind { found } => format!("kind {found}"),
            Self::Reserved => "something else".into(),
            Self::Length { found, .. } => format!("length {found}"),
            Self::Checksum { found, .. } => format!("{found:08x} in the header"),
            Self::Watermark { found } => format!("watermark {found}"),
        }
    }

    pub(super) const fn length(found: u32, max: usize) -> Self {
        Self::Length { found, max: max as u32 }
    }
}

impl std::fmt::Display for RecordFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "expected {}, found {}", self.expected(), self.found())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A failed log operation.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// The file system refused. At [`super::open`]: nothing was lost, try again when the cause is gone.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The disk is full and nothing is lost: the group is pending again. Free space, then take the next group.
    #[error("{source}; the group is kept and can be tried again when there is space")]
    DiskFull {
        /// The refused operation.
        source: IoError,
    },
    /// A write or sync failed before; the log takes no more. What was reported durable is; restart to recover.
    #[error(
        "the log stopped at its first failure and takes no more writes; restart to recover: {first}"
    )]
    Poisoned {
        /// The first failure.
        first: String,
    },
    /// Bytes that were durable have changed.
    #[error(
        "{}: corrupt at offset {offset}: expected {expected}, found {found}; {advice}", path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What should have been there.
        expected: String,
        /// What was there.
        found: String,
        /// What to do next.
        advice: &'static str,
    },
    /// A file of another kind.
    #[error("{}: at offset 0: expected a {expected} file, found {found}", path.display())]
    WrongKind {
        /// The file.
        path: PathBuf,
        /// The kind that was wanted.
        expected: &'static str,
        /// What it is instead.
        found: String,
    },
    /// A file written by a newer version.
    #[error(
        "{}: written in log format version {found}, this program reads {supported}; \
         start the version that wrote it", path.display()
    )]
    NewerVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// Ours.
        supported: u32,
    },
    /// A segment is missing between others.
    #[error(
        "{}: segment {missing:016x} is missing although {needed_by:016x} continues it and older ones exist; \
         put the file back, or restore this node from a replica or a backup", dir.display()
    )]
    MissingSegment {
        /// The log's directory.
        dir: PathBuf,
        /// The missing segment.
        missing: u64,
        /// The segment that continues it.
        needed_by: u64,
    },
    /// The owner refused a record during recovery.
    #[error("{}: record at offset {}: {reason}", path.display(), pos.offset())]
    Refused {
        /// The file.
        path: PathBuf,
        /// Where in it.
        pos: LogPos,
        /// The owner's reason.
        reason: String,
    },
}

/// What to do about damage in a log.
pub(super) const ADVICE: &str = "bytes that were synced have changed: keep the file, look at it with \
    wal_dump, and restore this node from a replica or a backup";

impl WalError {
    /// The disk is full, nothing is lost, and the operation may be tried again.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::DiskFull { .. })
    }

    /// Data on disk is not what was written.
    #[must_use]
    pub const fn is_corruption(&self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::MissingSegment { .. })
    }

    /// The simulated machine crashed.
    #[must_use]
    pub fn is_simulated_crash(&self) -> bool {
        matches!(self, Self::Io(e) | Self::DiskFull { source: e } if e.is_simulated_crash())
    }

    pub(super) fn corrupt(path: &Path, offset: u64, fault: RecordFault) -> Self {
        Self::Corrupt {
            path: path.to_path_buf(),
            offset,
            expected: fault.expected(),
            found: fault.found(),
            advice: ADVICE,
        }
    }
}

const _: () = assert!(MAX_RECORD_BYTES + RECORD_HEADER_BYTES < u32::MAX as usize);
