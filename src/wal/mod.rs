//! L2: the segmented record log. The embedded engine's WAL, the Raft log, and (one file at a time, through
//! [`segment`]) the manifest are written with it. `proto-spec/wal.md` is the home of the byte layout.
//!
//! ```text
//!   append ─▶ pending group ─▶ next_group() ─▶ GroupJob::run: seal (CRC), write, sync ─▶ group_done() ─▶ durable
//!            (memory, memcpy)   one in flight    (helper lane, blocking)                  (ids <= n)
//!
//!   0000000000000006.wal   header │ group: preamble │ group │ group │ group
//!                                                                   ▲
//!   0000000000000007.wal   header(continues = here) ────────────────┘ │ group │ group │ 00 00 00 …
//! ```
//!
//! Invariants:
//! - **Append-only.** Nothing that was written is overwritten; dropping a suffix is a [`RecordKind::Truncate`] record.
//! - **A segment's name means its first bytes are durable.** A new segment is written and synced under another name,
//!   then renamed, then its directory is synced; only then does anything in it count.
//! - **A checksum holds in one place only.** It is seeded with the record's position (a never-reused segment id and
//!   the offset), so what a recycled segment held before, or a copied or misplaced record, never validates.
//! - **Watermarks decide.** Each group says up to where the log was durable when it was written ([`Record::aux`] of a
//!   [`RecordKind::Group`]). A bad record below a later watermark is damage and an error; at or above the highest one
//!   it is a torn write, and the log is cut there.
//! - **Recovery does not trust the page cache.** Records above the highest watermark are copied into a new segment
//!   and synced before the owner sees them.
//! - `durable_to <= written <= written + in flight + pending`, in that order of time, never otherwise.
//!
//! What it does not do: it has no thread and no clock (the owner runs the jobs), it takes no lock on its directory,
//! it does not interpret payloads, and it does not check that indexes are contiguous.

mod error;
mod format;
mod maintenance;
pub mod recovery;
pub mod segment;
mod verify;
mod writer;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod tests;

pub use error::{RecordFault, WalError};
pub use format::{
    LogKind, LogPos, RECORD_HEADER_BYTES, Record, RecordKind, SEGMENT_HEADER_BYTES, SegmentHeader,
    VERSION, record_bytes,
};
pub use maintenance::{MaintenanceDone, MaintenanceJob};
pub use recovery::{Contents, Cut, RecoveryReport, open, read};
pub use verify::LogCheck;
pub use writer::{AppendId, DataMark, GroupDone, GroupJob, MARK_EVERY_BYTES, Writer};

use std::path::PathBuf;

/// How a log is laid out.
#[derive(Clone, Debug)]
pub struct Options {
    /// What kind of log: decides the magic and the file extension.
    pub kind: LogKind,
    /// The directory; created if missing. The owner holds its lock.
    pub dir: PathBuf,
    /// The size of a segment. A group that does not fit starts the next one; a larger group gets a larger segment.
    pub segment_bytes: u64,
    /// Whether segments are zero-filled ahead of use, so that a sync changes no metadata (1.7 x faster here).
    pub preallocate: bool,
    /// How many released segments are kept for recycling instead of being deleted.
    pub max_spares: usize,
}

impl Options {
    /// The usual options for a log of `kind` in `dir`.
    #[must_use]
    pub fn new(kind: LogKind, dir: impl Into<PathBuf>) -> Self {
        Self {
            kind,
            dir: dir.into(),
            segment_bytes: crate::limits::DEFAULT_SEGMENT_BYTES,
            preallocate: true,
            max_spares: 2,
        }
    }
}
