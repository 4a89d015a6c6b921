//! Taking a snapshot in: its files, their check, and the edit that makes them the state.

use super::{Received, SnapshotBody};
use crate::base::{LogIndex, SequenceNumber, Term};
use crate::engine::edit::{State, TableMeta};
use crate::engine::error::EngineError;
use crate::engine::manifest::{Manifest, table_file_name, tmp};
use crate::engine::memtable::Memtable;
use crate::engine::version::{Difference, LiveTable, Version, check_properties};
use crate::engine::{Engine, EngineOutput, Flush, InternalRows, JobOutcome, read_internal_rows};
use crate::env::{Disk, File, JobId, Lane, OpenMode};
use crate::limits::SNAPSHOT_SYNC_BYTES;
use crate::sstable::{Table, TableCache};
use bytes::Bytes;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A snapshot that is being received: its tables under new numbers of this engine and temporary names. They count for
/// nothing. Dropping it abandons them: the engine removes the files.
pub struct SnapshotFiles {
    place: Place,
    body: SnapshotBody,
    written: u64,
    /// Tables that are complete, checked, and durable.
    checked: Arc<AtomicUsize>,
    /// Tells the engine that the files are wanted.
    alive: Arc<()>,
}

/// Where the files are.
#[derive(Clone)]
struct Place {
    disk: Arc<dyn Disk>,
    tables: Arc<TableCache>,
    dir: PathBuf,
    /// The number of the first table here.
    first_number: u64,
}

impl Place {
    /// A table under its number here.
    fn meta(&self, table: usize, sent: &TableMeta) -> TableMeta {
        TableMeta { number: self.first_number + table as u64, ..sent.clone() }
    }

    fn path(&self, table: usize) -> PathBuf {
        self.dir.join(table_file_name(self.first_number + table as u64))
    }
}

impl SnapshotFiles {
    /// What is received.
    #[must_use]
    pub const fn body(&self) -> &SnapshotBody {
        &self.body
    }

    /// How much of the stream was given to [`SnapshotFiles::write`].
    #[must_use]
    pub const fn written(&self) -> u64 {
        self.written
    }

    /// The work that writes the next piece of the stream. The jobs of one snapshot run one after the other, in order.
    /// A piece that is not the next one, or goes past the end, makes a job that fails.
    pub fn write(&mut self, offset: u64, data: Bytes) -> WriteJob {
        let (place, checked) = (self.place.clone(), Arc::clone(&self.checked));
        let total = self.body.stream_bytes();
        let left = total - self.written;
        if offset != self.written || data.len() as u64 > left {
            let fault = format!(
                "a piece of {} bytes at offset {offset} does not follow on {} of {total} bytes",
                data.len(),
                self.written
            );
            return WriteJob { place, checked, pieces: Vec::new(), fault: Some(fault) };
        }
        self.written += data.len() as u64;
        let (mut start, mut pieces) = (0, Vec::new());
        for (table, meta) in self.body.tables.iter().enumerate() {
            let end = start + meta.bytes;
            let (from, to) = (offset.max(start), self.written.min(end));
            if from < to {
                let data = data.slice((from - offset) as usize..(to - offset) as usize);
                let steps = |at: u64| (at - start) / SNAPSHOT_SYNC_BYTES;
                let then = if to == end {
                    Then::Check(Box::new(self.place.meta(table, meta)))
                } else if steps(from) < steps(to) {
                    Then::Sync
                } else {
                    Then::Nothing
                };
                pieces.push(Piece { table, at: from - start, data, then });
            }
            start = end;
        }
        WriteJob { place, checked, pieces, fault: None }
    }
}

/// Part of one table.
struct Piece {
    table: usize,
    /// Offset in the table's file.
    at: u64,
    data: Bytes,
    then: Then,
}

/// What is done when a piece is written.
enum Then {
    Nothing,
    /// What the table has so far is synced, so that its end does not find a disk with all of it to do: a leader's log on
    /// the same disk would wait for as long.
    Sync,
    /// The table is complete.
    Check(Box<TableMeta>),
}

/// Writes a piece of the stream; pure, for [`Lane::Maintenance`].
pub struct WriteJob {
    place: Place,
    checked: Arc<AtomicUsize>,
    pieces: Vec<Piece>,
    fault: Option<String>,
}

impl WriteJob {
    /// Writes it; syncs now and then; checks and syncs every table that it completes. Blocks on the disk. After an error the
    /// whole snapshot is of no use; nothing else has changed.
    pub fn run(self) -> Result<(), InstallFault> {
        if let Some(fault) = self.fault {
            return Err(InstallFault::Refused(fault));
        }
        for Piece { table, at, data, then } in self.pieces {
            let path = tmp(&self.place.path(table));
            let mode = if at == 0 { OpenMode::CreateNew } else { OpenMode::ReadWrite };
            let file = self.place.disk.open(&path, mode).map_err(EngineError::from)?;
            file.write_at(at, &data).map_err(EngineError::from)?;
            match then {
                Then::Nothing => {}
                Then::Sync if planted!(InstallNotSynced) => {}
                Then::Sync => file.sync_data().map_err(EngineError::from)?,
                Then::Check(meta) => {
                    check_table(file, &meta)?;
                    self.checked.fetch_add(1, Ordering::Release);
                }
            }
        }
        Ok(())
    }
}

/// Where the one install at a time is.
pub(in crate::engine) enum Incoming {
    /// Its files are checked.
    Checking { job: JobId },
    /// Checked; a flush has the manifest.
    Checked(Box<Staged>),
    /// The new manifest is written.
    Installing { job: JobId, staged: Box<Staged> },
    /// A sync or write failed: the process stops. Whether the files count is decided at the next open.
    Failed { _staged: Option<Box<Staged>> },
}

impl Incoming {
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Checking { .. } => "checking",
            Self::Checked(_) => "waiting for a flush",
            Self::Installing { .. } => "installing",
            Self::Failed { .. } => "failed",
        }
    }
}

/// Tables that are checked, durable under their names, and in no manifest.
pub(in crate::engine) struct Staged {
    body: SnapshotBody,
    metas: Vec<TableMeta>,
    version: Version,
    rows: InternalRows,
    _alive: Arc<()>,
}

/// A finished job of an install.
pub(in crate::engine) enum Step {
    Checked(Result<Box<Staged>, InstallFault>),
    Replaced { manifest: Box<Manifest>, state: Box<State>, result: Result<(), EngineError> },
}

/// Why a snapshot is not taken in.
#[derive(Debug, thiserror::Error)]
pub enum InstallFault {
    /// What came is not what was promised, or there is no room, or a write failed: everything is as it was. For people.
    #[error("{0}")]
    Refused(String),
    /// A sync failed (pitfall 19), or the simulated machine crashed: the process stops.
    #[error(transparent)]
    Fatal(EngineError),
}

impl From<EngineError> for InstallFault {
    fn from(error: EngineError) -> Self {
        let sync = error.io().is_some_and(|e| matches!(e.op, "fdatasync" | "fsync"));
        if sync || error.is_simulated_crash() {
            Self::Fatal(error)
        } else {
            Self::Refused(error.to_string())
        }
    }
}

/// Stages the files of a snapshot, which were checked as they came.
struct CheckJob {
    files: SnapshotFiles,
}

impl CheckJob {
    fn run(self) -> Result<Box<Staged>, InstallFault> {
        let SnapshotFiles { place, body, written, checked, alive } = self.files;
        if written != body.stream_bytes() {
            let total = body.stream_bytes();
            let fault = format!("the stream is not complete: {written} of {total} bytes");
            return Err(InstallFault::Refused(fault));
        }
        let checked = checked.load(Ordering::Acquire);
        if checked != body.tables.len() {
            let of = body.tables.len();
            let fault = format!("{checked} of {of} tables were written without a fault");
            return Err(InstallFault::Refused(fault));
        }
        let tables = body.tables.iter().enumerate();
        let metas: Vec<TableMeta> = tables.map(|(i, meta)| place.meta(i, meta)).collect();
        for i in 0..metas.len() {
            let path = place.path(i);
            place.disk.rename(&tmp(&path), &path).map_err(EngineError::from)?;
        }
        // The new manifest syncs this directory again before `CURRENT` names it. That its names are durable by then must
        // not hang on how a manifest is made.
        place.disk.sync_dir(&place.dir).map_err(EngineError::from)?;
        let tables =
            metas.iter().map(|meta| Arc::new(LiveTable::new(&place.tables, &place.dir, meta)));
        let version = Version::new(tables);
        let rows = read_internal_rows(&Memtable::new(), &[], &version, body.last_seq)?;
        Ok(Box::new(Staged { body, metas, version, rows, _alive: alive }))
    }
}

/// Checks all that the description and the table itself claim, and makes its bytes durable.
fn check_table(file: Arc<dyn File>, meta: &TableMeta) -> Result<(), InstallFault> {
    let path = file.path().display().to_string();
    let len = file.len().map_err(EngineError::from)?;
    let wrong = |Difference { what, expected, found }| {
        InstallFault::Refused(format!("{path}: {what} is {found}, the description says {expected}"))
    };
    Difference::unless_equal("its length", meta.bytes, len).map_err(wrong)?;
    let table = Table::open(Arc::clone(&file), meta.number).map_err(EngineError::from)?;
    check_properties(meta, &table).map_err(wrong)?;
    table.verify().map_err(EngineError::from)?;
    if !planted!(InstallNotSynced) {
        file.sync_data().map_err(EngineError::from)?;
    }
    Ok(())
}

impl Engine {
    /// Makes ready to take in the snapshot at `applied` that `body` describes, with a stream of `bytes` bytes.
    ///
    /// # Errors
    /// For people: the description is not valid, or it is not newer than what is applied (pitfall 24).
    pub fn begin_install(
        &mut self,
        applied: (LogIndex, Term),
        bytes: u64,
        body: &[u8],
    ) -> Result<SnapshotFiles, String> {
        let body = SnapshotBody::decode(body).map_err(|e| e.to_string())?;
        if (body.applied_index, body.applied_term, body.stream_bytes())
            != (applied.0, applied.1, bytes)
        {
            return Err(format!(
                "a snapshot at entry {} of term {} with {bytes} bytes is described as one at entry {} of term {} \
                 with {} bytes",
                applied.0,
                applied.1,
                body.applied_index,
                body.applied_term,
                body.stream_bytes()
            ));
        }
        if let Some(reason) = self.refuses(&body) {
            return Err(reason);
        }
        let first_number = self.next_file;
        self.next_file += body.tables.len() as u64;
        let alive = Arc::new(());
        let numbers: Range<u64> = first_number..self.next_file;
        self.holds.received.push(Received { alive: Arc::downgrade(&alive), numbers });
        let (disk, dir) = (Arc::clone(&self.env.disk), self.options.dir.clone());
        let checked = Arc::default();
        let place = Place { disk, tables: Arc::clone(&self.tables), dir, first_number };
        Ok(SnapshotFiles { place, body, written: 0, checked, alive })
    }

    fn refuses(&self, body: &SnapshotBody) -> Option<String> {
        let (index, seq) = (body.applied_index, body.last_seq);
        if index <= self.applied.0 {
            return Some(format!(
                "the snapshot stands at entry {index}, and entry {} is applied already",
                self.applied.0
            ));
        }
        (seq < self.last_seq).then(|| {
            format!(
                "the snapshot stands at sequence number {seq} behind entry {index}, but {} are in use at entry {}: it is of \
                 another history",
                self.last_seq, self.applied.0
            )
        })
    }

    /// Whether an install is in flight: nothing may be applied then.
    #[must_use]
    pub const fn is_installing(&self) -> bool {
        self.incoming.is_some()
    }

    /// Installs a received snapshot: answered by [`JobOutcome::SnapshotInstalled`] or [`JobOutcome::SnapshotFailed`]. Its
    /// last write must be done. Until then the owner applies nothing.
    pub fn install(&mut self, files: SnapshotFiles) {
        assert!(self.incoming.is_none(), "one install at a time");
        self.cancel_compaction();
        let refusal = self.refuses(&files.body);
        // In the lane of table builds: a build that runs ends first, and none begins meanwhile.
        let job = self.submit(Lane::Flush, move || {
            let checked = match refusal {
                Some(reason) => Err(InstallFault::Refused(reason)),
                None => CheckJob { files }.run(),
            };
            EngineOutput::Snapshot(Step::Checked(checked))
        });
        self.incoming = Some(Incoming::Checking { job });
    }

    /// Takes a finished step of an install; gives it back when it is another engine's.
    pub(in crate::engine) fn install_step(
        &mut self,
        id: JobId,
        step: Step,
    ) -> Result<Result<JobOutcome, Step>, EngineError> {
        match (step, self.incoming.take()) {
            (Step::Checked(checked), Some(Incoming::Checking { job })) if job == id => {
                match checked {
                    Ok(staged) => {
                        self.incoming = Some(Incoming::Checked(staged));
                        Ok(Ok(JobOutcome::Nothing))
                    }
                    Err(InstallFault::Refused(reason)) => Ok(Ok(self.install_failed(reason))),
                    Err(InstallFault::Fatal(error)) => {
                        self.incoming = Some(Incoming::Failed { _staged: None });
                        Err(error)
                    }
                }
            }
            (
                Step::Replaced { manifest, state, result },
                Some(Incoming::Installing { job, staged }),
            ) if job == id => {
                self.manifest = Some(*manifest);
                match result {
                    Ok(()) => Ok(Ok(self.replace_all(*staged, *state))),
                    Err(e) if e.is_disk_full() => Ok(Ok(self.install_failed(e.to_string()))),
                    Err(e) => {
                        self.incoming = Some(Incoming::Failed { _staged: Some(staged) });
                        Err(e)
                    }
                }
            }
            (step, incoming) => {
                self.incoming = incoming;
                Ok(Err(step))
            }
        }
    }

    fn install_failed(&mut self, reason: String) -> JobOutcome {
        log::warn!("snapshot: not installed: {reason}");
        self.counters.installs_failed += 1;
        JobOutcome::SnapshotFailed { reason }
    }

    /// Writes the manifest of a checked snapshot, once no flush has the old one.
    pub(in crate::engine) fn go_on_installing(&mut self) {
        let building = matches!(self.flush, Flush::Building { .. });
        let free = self.manifest.is_some() && !building;
        if !free || !matches!(self.incoming, Some(Incoming::Checked(_))) {
            return;
        }
        let (Some(mut manifest), Some(Incoming::Checked(staged))) =
            (self.manifest.take(), self.incoming.take())
        else {
            unreachable!("no flush has the manifest, and a snapshot is checked")
        };
        let number = self.next_file;
        self.next_file += 1;
        let state = staged.body.state(self.next_file, staged.metas.clone());
        // Only the numbers differ from what was checked when the description came.
        let mut state = Box::new(state.expect("a checked description is a state"));
        state.oldest_readable = state.oldest_readable.max(self.durable.oldest_readable);
        let job = self.submit(Lane::Manifest, move || {
            let result = manifest.rotate(number, &state);
            EngineOutput::Snapshot(Step::Replaced { manifest: Box::new(manifest), state, result })
        });
        self.incoming = Some(Incoming::Installing { job, staged });
    }

    /// The snapshot is durably the state: so it is in memory from here on.
    fn replace_all(&mut self, staged: Staged, state: State) -> JobOutcome {
        let Staged { version, rows, .. } = staged;
        let old_version = Arc::clone(&self.version);
        self.put_version(version);
        self.retire(old_version.tables().cloned().collect::<Vec<_>>());
        match std::mem::replace(&mut self.flush, Flush::Idle) {
            // Built for the old state, and never installed.
            Flush::Waiting { then: Some(install), .. } => self.retire(install.table),
            Flush::Built { table, .. } => self.retire(table),
            _ => {}
        }
        self.forget_compaction();
        drop(old_version);
        let memtables = (std::mem::take(&mut self.active), std::mem::take(&mut self.frozen));
        self.submit(Lane::Maintenance, move || {
            drop(memtables);
            EngineOutput::Dropped
        });
        self.read_only = None;
        self.applied = state.applied;
        self.last_seq = state.last_seq;
        self.durable = state;
        self.load_range_deletes();
        self.counters.installs += 1;
        let (index, term) = self.applied;
        log::info!(
            "snapshot: installed entry {index} of term {term}: {} tables, {} bytes",
            self.version.len(),
            self.version.bytes()
        );
        JobOutcome::SnapshotInstalled { index, term, rows }
    }

    /// The entry of the snapshot that the durable state is, as long as nothing was flushed after it: a log that does not
    /// hold it is legitimately behind.
    #[must_use]
    pub const fn installed_from_snapshot(&self) -> Option<(LogIndex, Term)> {
        self.durable.installed
    }

    /// The oldest pinned sequence number that is still readable: versions from there on stay.
    pub(in crate::engine) fn oldest_pin(&self) -> Option<SequenceNumber> {
        self.snapshots.range(self.durable.oldest_readable..).next().map(|(seq, _)| *seq)
    }
}
