//! Spares and released segments: work that no write waits for, on [`crate::env::Lane::Maintenance`].
//!
//! ```text
//!   (fresh) ── zero-fill, sync ──▶ spare ── rotation: write, sync, rename ──▶ segment ── release ──▶ removed
//!                                    ▲                                                     │
//!                                    └──────────── rename, sync directory ─────────────────┘ (recycled)
//! ```
//!
//! Invariants:
//! - Segments are released oldest first, with the directory synced after each, so that a crash never leaves a gap.
//! - A recycled segment loses its name durably before a byte of it is overwritten.
//! - A spare is made only while the disk has twice its size free: it never takes the last space.
//! - Spares of an earlier process are removed at open, never used: a rotation that crashed may have written records
//!   of a segment id into one that the next rotation uses again.

use super::error::WalError;
use super::writer::{Failure, RESERVE_NAME, Segment, Writer, discard, fill_with_zeros};
use crate::env::{Disk, IoError, OpenMode};
use crate::limits::LOG_RESERVE_BYTES;
use std::path::PathBuf;
use std::sync::Arc;

/// The extension of spares.
pub(super) const SPARE_EXTENSION: &str = "spare";

/// A file that is ready to become a segment.
#[derive(Debug)]
pub(super) struct Spare {
    pub path: PathBuf,
    pub recycled_from: u64,
}

/// What the writer knows of its spares.
#[derive(Debug)]
pub(super) struct Spares {
    ready: Vec<Spare>,
    next_number: u64,
    filling: bool,
    releasing: bool,
    has_reserve: bool,
    /// A fill failed: wait for [`Writer::retry_maintenance`] or a release.
    backing_off: bool,
}

impl Spares {
    pub(super) const fn new(has_reserve: bool) -> Self {
        Self {
            ready: Vec::new(),
            next_number: 1,
            filling: false,
            releasing: false,
            has_reserve,
            backing_off: false,
        }
    }
    pub(super) const fn reserve_is_gone(&mut self) {
        self.has_reserve = false;
    }
    pub(super) fn take(&mut self) -> Option<Spare> {
        self.ready.pop()
    }
}

/// Blocking work on spares and released segments.
pub struct MaintenanceJob {
    disk: Arc<dyn Disk>,
    work: Work,
}

#[derive(Debug)]
enum Work {
    /// Makes a zero-filled file: a spare, or the reserve.
    Fill { path: PathBuf, bytes: u64, reserve: bool },
    /// Removes or renames segments, oldest first.
    Release { dir: PathBuf, victims: Vec<Victim> },
}

#[derive(Debug)]
struct Victim {
    segment: Segment,
    recycle_as: Option<PathBuf>,
}

/// A finished [`MaintenanceJob`], for [`Writer::maintenance_done`].
#[derive(Debug)]
pub struct MaintenanceDone {
    work: Done,
    result: Result<(), Failure>,
}

#[derive(Debug)]
enum Done {
    Fill { path: PathBuf, reserve: bool },
    Release { recycled: Vec<Spare>, kept: Vec<Segment> },
}

impl MaintenanceJob {
    /// Does it. Blocks.
    #[must_use]
    pub fn run(self) -> MaintenanceDone {
        match self.work {
            Work::Fill { path, bytes, reserve } => {
                // A spare counts only in this process, and its name is made durable when it becomes a segment. The
                // reserve is found again by its name, so it gets it when it is whole.
                let made = if reserve { path.with_extension("tmp") } else { path.clone() };
                let mut result = check_free(&*self.disk, &path, bytes, reserve)
                    .and_then(|()| fill(&*self.disk, &made, bytes));
                if let (true, Ok(()), Some(dir)) = (reserve, &result, path.parent()) {
                    result = (self.disk.rename(&made, &path).map_err(Failure::of_write))
                        .and_then(|()| self.disk.sync_dir(dir).map_err(Failure::of_sync));
                }
                if result.is_err() {
                    discard(&*self.disk, &made);
                }
                MaintenanceDone { work: Done::Fill { path, reserve }, result }
            }
            Work::Release { dir, victims } => {
                let (mut recycled, mut kept, mut result) = (Vec::new(), Vec::new(), Ok(()));
                for victim in victims {
                    if result.is_ok() {
                        result = release(&*self.disk, &dir, &victim);
                    }
                    match (&result, victim.recycle_as) {
                        (Err(_), _) => kept.push(victim.segment),
                        (Ok(()), None) => {}
                        (Ok(()), Some(path)) => {
                            recycled.push(Spare { path, recycled_from: victim.segment.id });
                        }
                    }
                }
                MaintenanceDone { work: Done::Release { recycled, kept }, result }
            }
        }
    }
}

/// A spare is a convenience: it must not take what a flush needs in order to release segments, nor fill the disk and
/// fail again at every retry, with everybody else's writes failing meanwhile. So it leaves as much as it takes.
fn check_free(
    disk: &dyn Disk,
    path: &std::path::Path,
    bytes: u64,
    reserve: bool,
) -> Result<(), Failure> {
    let needed = if reserve { bytes } else { bytes.saturating_mul(2) };
    let Some(dir) = path.parent() else { return Ok(()) };
    match disk.free_bytes(dir) {
        Ok(free) if free < needed => {
            let source = std::io::ErrorKind::StorageFull.into();
            let path = path.to_path_buf();
            Err(Failure::of_write(IoError { op: "allocate", path, offset: None, source }))
        }
        // When it cannot be told, writing tells.
        _ => Ok(()),
    }
}

fn fill(disk: &dyn Disk, path: &std::path::Path, bytes: u64) -> Result<(), Failure> {
    let file = disk.open(path, OpenMode::CreateNew).map_err(Failure::of_write)?;
    fill_with_zeros(&*file, 0, bytes).map_err(Failure::of_write)?;
    file.sync_data().map_err(Failure::of_sync)
}

fn release(disk: &dyn Disk, dir: &std::path::Path, victim: &Victim) -> Result<(), Failure> {
    let path = &victim.segment.path;
    match &victim.recycle_as {
        Some(spare) => disk.rename(path, spare),
        None => disk.remove(path),
    }
    .map_err(Failure::of_write)?;
    disk.sync_dir(dir).map_err(Failure::of_sync)
}

impl Writer {
    /// Work that prepares the next segment (or the reserve), if there is any and none is under way.
    pub fn maintenance(&mut self) -> Option<MaintenanceJob> {
        let spares = &mut self.spares;
        if !self.options.preallocate
            || spares.filling
            || spares.backing_off
            || self.poisoned.is_some()
        {
            return None;
        }
        let work = if !spares.has_reserve {
            let path = self.options.dir.join(RESERVE_NAME);
            Work::Fill {
                path,
                bytes: LOG_RESERVE_BYTES.min(self.options.segment_bytes),
                reserve: true,
            }
        } else if spares.ready.is_empty() {
            let path = self.options.dir.join(spare_name(&mut spares.next_number));
            Work::Fill { path, bytes: self.options.segment_bytes, reserve: false }
        } else {
            return None;
        };
        spares.filling = true;
        Some(MaintenanceJob { disk: Arc::clone(&self.disk), work })
    }

    /// Lets [`Writer::maintenance`] try again after a full disk. Call it now and then, not every turn.
    pub const fn retry_maintenance(&mut self) {
        self.spares.backing_off = false;
    }

    /// Gives up the segments in which all data has an index below `index`: removed, or recycled as spares. Never the
    /// newest one, and never one behind a segment that is kept. `None` when there is nothing to do now.
    pub fn release_below(&mut self, index: u64) -> Option<MaintenanceJob> {
        if self.spares.releasing || self.poisoned.is_some() {
            return None;
        }
        let full_size = self.options.segment_bytes..=self.options.segment_bytes.saturating_mul(2);
        let mut victims = Vec::new();
        let mut recycled = self.spares.ready.len();
        while self.segments.len() > 1 && self.segments[0].max_data.is_none_or(|max| max < index) {
            let Some(segment) = self.segments.pop_front() else { break };
            let recycle = self.options.preallocate
                && recycled < self.options.max_spares
                && full_size.contains(&segment.file_bytes);
            recycled += usize::from(recycle);
            let recycle_as =
                recycle.then(|| self.options.dir.join(spare_name(&mut self.spares.next_number)));
            victims.push(Victim { segment, recycle_as });
        }
        if victims.is_empty() {
            return None;
        }
        self.spares.releasing = true;
        let work = Work::Release { dir: self.options.dir.clone(), victims };
        Some(MaintenanceJob { disk: Arc::clone(&self.disk), work })
    }

    /// Takes the outcome of maintenance.
    ///
    /// # Errors
    /// [`WalError::DiskFull`]: no spare for now; [`Writer::maintenance`] waits for [`Writer::retry_maintenance`] or a
    /// release. Other failures to remove leave the segment in the log, to be released again later. A failed sync
    /// poisons the writer.
    pub fn maintenance_done(&mut self, done: MaintenanceDone) -> Result<(), WalError> {
        match done.work {
            Done::Fill { path, reserve } => {
                self.spares.filling = false;
                match (&done.result, reserve) {
                    (Ok(()), true) => self.spares.has_reserve = true,
                    (Ok(()), false) => self.spares.ready.push(Spare { path, recycled_from: 0 }),
                    (Err(_), _) => self.spares.backing_off = true,
                }
            }
            Done::Release { recycled, kept } => {
                self.spares.releasing = false;
                self.spares.backing_off = false;
                self.spares.ready.extend(recycled);
                for segment in kept.into_iter().rev() {
                    self.segments.push_front(segment);
                }
            }
        }
        match done.result {
            Ok(()) => Ok(()),
            Err(failure) if failure.retryable => Err(WalError::DiskFull { source: failure.error }),
            Err(failure) => {
                if failure.sync {
                    self.poison(&failure.error);
                }
                Err(failure.error.into())
            }
        }
    }

    /// How many files are ready to become segments.
    #[must_use]
    pub const fn spare_segments(&self) -> usize {
        self.spares.ready.len()
    }

    /// Whether segments are being released.
    #[must_use]
    pub const fn is_releasing(&self) -> bool {
        self.spares.releasing
    }
}

fn spare_name(next: &mut u64) -> String {
    let name = format!("{next:016x}.{SPARE_EXTENSION}");
    *next += 1;
    name
}
