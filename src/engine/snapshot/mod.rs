//! Snapshots that are files: the tables of a version, pinned, described, and sent as they are; and their install.
//!
//! ```text
//!  sender     Engine::file_snapshot ─▶ FileSnapshot: pins the Version of the last flush ─ read(offset, len) ─▶ stream
//!                                                                                                              │
//!  receiver   Engine::begin_install ─▶ SnapshotFiles: write(offset, data) ─▶ <n>.sst.tmp, <n+1>.sst.tmp, … ◀────┘
//!             Engine::install ─▶ Lane::Flush: check every table, sync it, rename, sync the directory, open
//!                             ─▶ (a flush that was running ends) ─▶ Lane::Manifest: one full edit in a new manifest
//!                             ─▶ on the loop: tables, applied, sequence numbers replaced; memtables dropped
//! ```
//!
//! Nothing is copied key by key, and no flush is forced: a snapshot stands at the last flush, and the log has the rest.
//! The stream is the tables' files, by ascending number, one directly after the other; [`SnapshotBody`] describes them. Layout
//! and order of operations: `proto-spec/snapshot.md`.
//!
//! Invariants:
//! - *What is pinned stays*: a table's file is removed only when no version, snapshot, or read holds it any more, so what
//!   a pin can read does not depend on an unlinked file.
//! - *Old or new* (pitfall 25): until `CURRENT` names the new manifest the state is the old one, whatever lies in the
//!   directory; from then on it is the snapshot. The edit that installs is a full edit in a new manifest, so that a failed
//!   attempt leaves nothing behind that a later append could revive.
//! - *Never back* (pitfall 24): a snapshot at or below what is applied is refused.
//! - *Nothing damaged comes in*: every block of every table is checked, and every claim of the description, before any name
//!   is changed.
//! - A flush that runs when an install begins ends before it, as an ordinary flush of the old state; none begins while one is
//!   in flight. So its table can never be added to the new state.
//!
//! # Reads across an install
//! The tables hold all versions that a reader at or above the sender's `oldest_readable_seq` wants, and sequence numbers mean
//! the same on every replica. So the receiver's becomes the larger of its own and the sender's: a snapshot that is pinned
//! at or above it goes on, to the same answers; one below gets `SnapshotTooOld`. Reads that have begun hold their old tables.
//!
//! What it does not do: decide when to send, cut the stream into messages, or keep membership and sessions apart: those are rows
//! in the tables like any other (pitfall 26).

mod body;
mod install;

pub use body::{SNAPSHOT_MAGIC, SNAPSHOT_VERSION, SnapshotBody, SnapshotBodyError};
pub(super) use install::{Incoming, Step};
pub use install::{InstallFault, SnapshotFiles, WriteJob};

use super::error::EngineError;
use super::manifest::{remove_or_warn, table_file_name, tmp};
use super::version::{LiveTable, Version};
use super::{Engine, EngineOutput};
use crate::base::{LogIndex, Term, checksum};
use crate::env::Lane;
use crate::limits::MAX_SNAPSHOT_BODY_BYTES;
use crate::sstable::Table;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// A pinned snapshot, to be sent. Dropping it unpins.
#[derive(Clone, Debug)]
pub struct FileSnapshot {
    pin: Arc<Pin>,
    body: Bytes,
}

/// What holds the tables of a snapshot.
#[derive(Debug)]
struct Pin {
    applied: (LogIndex, Term),
    /// By ascending number, each with where its file begins in the stream.
    files: Vec<(u64, Arc<LiveTable>)>,
    bytes: u64,
    /// The table that was read last, by number: pieces are read in order, and one that the cache does not keep would be opened again,
    /// with its index and filter, for each of them.
    last: Mutex<Option<(u64, Arc<Table>)>>,
}

impl Pin {
    fn open(&self, live: &LiveTable) -> Result<Arc<Table>, EngineError> {
        let number = live.meta.number;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, table)) = &*last
            && *of == number
        {
            return Ok(Arc::clone(table));
        }
        let table = live.open()?;
        *last = Some((number, Arc::clone(&table)));
        Ok(table)
    }

    fn new(applied: (LogIndex, Term), version: &Version) -> Self {
        let mut tables: Vec<_> = version.tables().cloned().collect();
        tables.sort_by_key(|table| table.meta.number);
        let mut bytes = 0;
        let files = tables.into_iter().map(|table| {
            let start = bytes;
            bytes += table.meta.bytes;
            (start, table)
        });
        Self { applied, files: files.collect(), bytes, last: Mutex::default() }
    }
}

impl FileSnapshot {
    /// The last entry in it.
    #[must_use]
    pub fn applied(&self) -> (LogIndex, Term) {
        self.pin.applied
    }

    /// Bytes of the stream.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.pin.bytes
    }

    /// The encoded [`SnapshotBody`].
    #[must_use]
    pub const fn body(&self) -> &Bytes {
        &self.body
    }

    /// The work that reads at most `len` bytes of the stream from `offset`, fewer only at its end.
    #[must_use]
    pub fn read(&self, offset: u64, len: usize) -> PieceJob {
        PieceJob { pin: Arc::clone(&self.pin), offset, len }
    }
}

/// A read of a snapshot's stream: pure, for [`Lane::Read`]. It holds the pin.
#[derive(Debug)]
pub struct PieceJob {
    pin: Arc<Pin>,
    offset: u64,
    len: usize,
}

impl PieceJob {
    /// The bytes and their CRC32C. Blocks on the disk. An error names the file and concerns this read only.
    pub fn run(self) -> Result<(Bytes, u32), EngineError> {
        let left = self.pin.bytes.saturating_sub(self.offset);
        let mut out = vec![0; self.len.min(usize::try_from(left).unwrap_or(usize::MAX))];
        let files = &self.pin.files;
        let first = files.partition_point(|(start, _)| *start <= self.offset).saturating_sub(1);
        let mut filled = 0;
        for (start, live) in &files[first..] {
            if filled == out.len() {
                break;
            }
            let at = self.offset + filled as u64 - start;
            let len = (out.len() - filled).min((live.meta.bytes - at) as usize);
            self.pin.open(live)?.file().read_exact_at(at, &mut out[filled..filled + len])?;
            filled += len;
        }
        debug_assert_eq!(filled, out.len());
        let crc = checksum::crc32c(&out);
        Ok((out.into(), crc))
    }
}

/// Files that came with a snapshot and may have to go.
pub(super) struct Received {
    /// Alive while somebody writes or installs them.
    alive: Weak<()>,
    numbers: std::ops::Range<u64>,
}

/// What the engine remembers for the sake of snapshots.
#[derive(Default)]
pub(super) struct Holds {
    /// Sent, or to be.
    pins: Vec<Weak<Pin>>,
    /// Received, or being.
    received: Vec<Received>,
    /// No longer part of the state; their files are removed once nobody holds them.
    obsolete: Vec<Arc<LiveTable>>,
}

/// For [`EngineStats`](super::EngineStats).
#[derive(Default)]
pub(super) struct HoldStats {
    pub pins: u64,
    pub oldest: Option<u64>,
    pub bytes: u64,
    pub obsolete: u64,
    pub obsolete_bytes: u64,
}

impl Holds {
    pub fn stats(&self) -> HoldStats {
        let mut stats = HoldStats::default();
        let mut held = BTreeMap::new();
        for pin in self.pins.iter().filter_map(Weak::upgrade) {
            stats.pins += 1;
            let index = pin.applied.0.0;
            stats.oldest = Some(stats.oldest.map_or(index, |oldest| oldest.min(index)));
            held.extend(pin.files.iter().map(|(_, t)| (t.meta.number, t.meta.bytes)));
        }
        stats.bytes = held.values().sum();
        stats.obsolete = self.obsolete.len() as u64;
        stats.obsolete_bytes = self.obsolete.iter().map(|t| t.meta.bytes).sum();
        stats
    }
}

impl Engine {
    /// Pins what is flushed, to be sent to another replica; `None` when nothing was flushed yet. Never forces a flush.
    pub fn file_snapshot(&mut self) -> Option<FileSnapshot> {
        if self.durable.applied.0 == LogIndex::ZERO {
            return None;
        }
        let description = SnapshotBody::of(&self.durable);
        let body = description.encode();
        if body.len() > MAX_SNAPSHOT_BODY_BYTES {
            log::error!(
                "snapshot: the description of {} tables takes {} bytes, the limit is {MAX_SNAPSHOT_BODY_BYTES}: followers \
                 that are behind the log cannot be helped until there are fewer tables",
                description.tables.len(),
                body.len()
            );
            return None;
        }
        let pin = Arc::new(Pin::new(self.durable.applied, &self.version));
        debug_assert_eq!(pin.bytes, description.stream_bytes());
        self.holds.pins.retain(|pin| pin.strong_count() > 0);
        self.holds.pins.push(Arc::downgrade(&pin));
        Some(FileSnapshot { pin, body: body.into() })
    }

    /// The tables are replaced: their files go when nobody holds them any more.
    pub(super) fn retire(&mut self, tables: impl IntoIterator<Item = Arc<LiveTable>>) {
        self.holds.obsolete.extend(tables);
    }

    /// Removes the files that nobody holds any more. Called with every tick and completion; cheap when there are none.
    pub(super) fn sweep(&mut self) {
        // No version names them, so nobody can begin to hold one: a count of one stays.
        let free = self.holds.obsolete.extract_if(.., |table| LiveTable::is_last(table));
        let free: Vec<_> = free.collect();
        let dir = &self.options.dir;
        let mut paths: Vec<PathBuf> =
            free.iter().map(|table| dir.join(table_file_name(table.meta.number))).collect();
        for gone in self.holds.received.extract_if(.., |r| r.alive.strong_count() == 0) {
            for number in gone.numbers.filter(|n| !self.durable.tables.contains_key(n)) {
                let path = dir.join(table_file_name(number));
                paths.extend([tmp(&path), path]);
            }
        }
        if paths.is_empty() {
            return;
        }
        let disk = Arc::clone(&self.env.disk);
        self.submit(Lane::Maintenance, move || {
            for path in paths {
                remove_or_warn(&*disk, &path);
            }
            for table in &free {
                table.forget_blocks();
            }
            drop(free);
            EngineOutput::Dropped
        });
    }
}
