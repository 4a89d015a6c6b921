//! The writing half of a log: records collect in a pending group (a memcpy each), [`Writer::next_group`] closes it
//! into a [`GroupJob`] that a helper lane runs (checksums, write, sync), and [`Writer::group_done`] makes it count.
//!
//! ```text
//!             append            next_group              GroupJob::run              group_done
//!   ┌───────┐  ──▶  ┌─────────┐   ──▶   ┌───────────┐  seal, write, sync  ┌──────┐  ──▶  durable_to moves
//!   │ owner │       │ pending │         │ in flight │  ────────────────▶  │ done │  ──▶  disk full: back to the queue
//!   └───────┘       └─────────┘         └───────────┘                     └──────┘  ──▶  else: poisoned for good
//! ```
//!
//! Invariants:
//! - At most one group is in flight; groups are written in the order of their records.
//! - A group that met a full disk is written again *with the same bytes at the same place*, or in a segment with a
//!   new id; so no bytes of the failed attempt can be taken for records later.
//! - The watermark of a group is what was durable before it was submitted.
//! - A failed sync is never retried, whatever its reason.

use super::error::WalError;
use super::format::{
    self, LogPos, RECORD_HEADER_BYTES, RecordKind, SEGMENT_HEADER_BYTES, SegmentHeader,
    record_bytes,
};
use super::maintenance::Spares;
use super::{Options, segment::new_group};
use crate::env::{Disk, File, IoError, IoResult, OpenMode};
use crate::limits::{LOG_SHORT_SEGMENT_BYTES, MAX_GROUP_BYTES};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Numbers the appended records of one [`Writer`], from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct AppendId(pub u64);

/// One segment that the log still needs.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub id: u64,
    pub path: PathBuf,
    /// Bytes of records and header in it that count.
    pub used: u64,
    /// The length of its file.
    pub file_bytes: u64,
    /// The highest index of data in it.
    pub max_data: Option<u64>,
}

/// The newest value of every state slot: slot -> (aux, payload).
pub(super) type States = BTreeMap<u64, (u64, Vec<u8>)>;

/// What recovery hands to [`Writer::new`].
pub(super) struct Parts {
    pub disk: Arc<dyn Disk>,
    pub options: Options,
    pub segments: VecDeque<Segment>,
    pub file: Arc<dyn File>,
    /// The end of the newest segment's records; all of it is durable.
    pub end: LogPos,
    pub states: States,
    pub next_index: u64,
    pub has_reserve: bool,
}

/// Appends to a log. See the module's page for the life of a group.
pub struct Writer {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) options: Options,
    /// Oldest first; the last one is written to.
    pub(super) segments: VecDeque<Segment>,
    file: Arc<dyn File>,
    /// Where the next group goes.
    written_to: LogPos,
    durable_to: LogPos,
    /// Whether a watermark in the log covers everything that is durable.
    watermarked: bool,
    next_segment: u64,
    next_index: u64,
    states: States,
    /// Closed groups, oldest first; the front one may have met a full disk.
    queue: VecDeque<Group>,
    pending: Group,
    queued_bytes: usize,
    /// A buffer to be used again.
    free: Option<Group>,
    last_append: AppendId,
    last_written: AppendId,
    last_group: Option<LogPos>,
    /// Where data of the last written group is.
    last_marks: Vec<DataMark>,
    /// A truncation was appended and no data since.
    truncated: bool,
    in_flight: bool,
    pub(super) spares: Spares,
    use_reserve: bool,
    pub(super) poisoned: Option<String>,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer")
            .field("dir", &self.options.dir)
            .field("durable_to", &self.durable_to)
            .field("written_to", &self.written_to)
            .field("pending_bytes", &self.queued_bytes)
            .field("in_flight", &self.in_flight)
            .field("poisoned", &self.poisoned)
            .finish_non_exhaustive()
    }
}

/// Records that are written and synced together.
#[derive(Debug)]
struct Group {
    /// The group header and the records, unsealed until the job runs.
    bytes: Vec<u8>,
    last: AppendId,
    max_data: Option<u64>,
    next_index: Option<u64>,
    /// Offsets of state records in `bytes`.
    states: Vec<usize>,
    /// Offsets in `bytes` of some data records.
    marks: Vec<(usize, DataMark)>,
}

/// Where a data record is: a sparse index for owners that read entries back. Every first data record of a group, every
/// first one after a truncation, and one in about [`MARK_EVERY_BYTES`] has one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DataMark {
    /// The record's index.
    pub index: u64,
    /// The record's position.
    pub pos: LogPos,
    /// A truncation was appended between the data record before it and this one.
    pub after_truncation: bool,
}

/// About how far apart [`DataMark`]s of one group are.
pub const MARK_EVERY_BYTES: usize = 64 << 10;

impl Group {
    fn new() -> Self {
        Self {
            bytes: new_group(),
            last: AppendId(0),
            max_data: None,
            next_index: None,
            states: Vec::new(),
            marks: Vec::new(),
        }
    }
    fn is_empty(&self) -> bool {
        self.bytes.len() == RECORD_HEADER_BYTES
    }
    fn clear(&mut self) {
        self.bytes.truncate(RECORD_HEADER_BYTES);
        (self.max_data, self.next_index) = (None, None);
        self.states.clear();
        self.marks.clear();
    }
    fn mark(&mut self, index: u64, after_truncation: bool) {
        let at = self.bytes.len();
        let near = self.marks.last().is_some_and(|(last, _)| at - last < MARK_EVERY_BYTES);
        if after_truncation || !near {
            self.marks.push((at, DataMark { index, pos: LogPos::ZERO, after_truncation }));
        }
    }
}

impl Writer {
    pub(super) fn new(parts: Parts) -> Self {
        let newest = parts.segments.back().expect("a log has a segment").id;
        Self {
            spares: Spares::new(parts.has_reserve),
            disk: parts.disk,
            options: parts.options,
            segments: parts.segments,
            file: parts.file,
            written_to: parts.end,
            durable_to: parts.end,
            watermarked: true,
            next_segment: newest + 1,
            next_index: parts.next_index,
            states: parts.states,
            queue: VecDeque::new(),
            pending: Group::new(),
            queued_bytes: 0,
            free: None,
            last_append: AppendId(0),
            last_written: AppendId(0),
            last_group: None,
            last_marks: Vec::new(),
            truncated: false,
            in_flight: false,
            use_reserve: false,
            poisoned: None,
        }
    }

    /// Adds a record to the pending group: a copy in memory, nothing is written. Panics when the payload is longer
    /// than [`crate::limits::MAX_RECORD_BYTES`] or the kind may have none; owners check their input before.
    ///
    /// A [`RecordKind::State`] record is also carried into every later segment, so that releasing old segments never
    /// loses the newest value of a slot.
    pub fn append(&mut self, kind: RecordKind, index: u64, aux: u64, payload: &[u8]) -> AppendId {
        assert_ne!(kind, RecordKind::Group, "groups are made by the writer");
        let bytes = record_bytes(payload.len());
        if self.pending.bytes.len() + bytes > MAX_GROUP_BYTES && !self.pending.is_empty() {
            self.close_pending();
        }
        let group = &mut self.pending;
        match kind {
            RecordKind::Data => {
                group.mark(index, std::mem::take(&mut self.truncated));
                group.max_data = group.max_data.max(Some(index));
                group.next_index = Some(index.saturating_add(1));
            }
            RecordKind::Truncate => {
                group.next_index = Some(index);
                self.truncated = true;
            }
            RecordKind::State => group.states.push(group.bytes.len()),
            RecordKind::Group => {}
        }
        format::put_record(&mut group.bytes, kind, index, aux, payload);
        self.last_append.0 += 1;
        group.last = self.last_append;
        self.queued_bytes += bytes;
        self.last_append
    }

    fn close_pending(&mut self) {
        let fresh = self.free.take().unwrap_or_else(Group::new);
        self.queue.push_back(std::mem::replace(&mut self.pending, fresh));
    }

    /// The next group to write and sync, for [`crate::env::Lane::Log`]. `None` while one is in flight, when nothing
    /// waits for a write or a sync, or after a fatal failure.
    pub fn next_group(&mut self) -> Option<GroupJob> {
        self.take_group(true)
    }

    /// Like [`Writer::next_group`], without the sync: what is written survives the process, not the machine, until a
    /// later synced group (or one with nothing but the sync, which `next_group` then gives).
    pub fn next_group_unsynced(&mut self) -> Option<GroupJob> {
        self.take_group(false)
    }

    fn take_group(&mut self, sync: bool) -> Option<GroupJob> {
        if self.in_flight || self.poisoned.is_some() {
            return None;
        }
        if self.queue.is_empty() && !self.pending.is_empty() {
            self.close_pending();
        }
        let Some(group) = self.queue.pop_front() else {
            let unsynced = self.durable_to < self.written_to;
            self.in_flight = sync && unsynced;
            return self.in_flight.then(|| GroupJob::sync_only(Arc::clone(&self.file)));
        };
        self.queued_bytes -= group.bytes.len() - RECORD_HEADER_BYTES;
        self.in_flight = true;
        Some(self.job_for(group, sync))
    }

    /// The next job on the way to a clean close: first what [`Writer::next_group`] gives, then a last group that only
    /// carries the watermark, so that the next start knows that the tail is whole. `None` when there is nothing to do
    /// (or a job is in flight). Call it, run the job, and call it again until it is `None`.
    pub fn close(&mut self) -> Option<GroupJob> {
        if let Some(job) = self.next_group() {
            return Some(job);
        }
        if self.in_flight || self.poisoned.is_some() || self.watermarked {
            return None;
        }
        self.in_flight = true;
        let mut group = self.free.take().unwrap_or_else(Group::new);
        group.last = self.last_written;
        format::set_watermark(&mut group.bytes, self.durable_to);
        let (file, at) = (Arc::clone(&self.file), self.written_to);
        Some(GroupJob { group: Some(group), work: Work::Append { file, at }, sync: true })
    }

    fn job_for(&mut self, mut group: Group, sync: bool) -> GroupJob {
        let current = self.segments.back().expect("a log has a segment");
        let room_for_close = RECORD_HEADER_BYTES as u64;
        let end = self.written_to.offset() + group.bytes.len() as u64 + room_for_close;
        let capacity =
            current.file_bytes.max(self.options.segment_bytes.min(LOG_SHORT_SEGMENT_BYTES));
        let capacity = if self.options.preallocate { capacity } else { self.options.segment_bytes };
        let work = if end <= capacity {
            self.use_reserve = false;
            format::set_watermark(&mut group.bytes, self.durable_to);
            Work::Append { file: Arc::clone(&self.file), at: self.written_to }
        } else {
            // The job syncs the old segment first, so the new one may say that all of it is durable.
            format::set_watermark(&mut group.bytes, self.written_to);
            Work::Rotate(Box::new(self.rotation()))
        };
        for &at in &group.states {
            let (slot, aux, payload) = format::state_at(&group.bytes, at);
            self.states.insert(slot, (aux, payload.to_vec()));
        }
        GroupJob { group: Some(group), work, sync }
    }

    fn rotation(&mut self) -> Rotation {
        let id = self.next_segment;
        self.next_segment += 1;
        let (spare, recycled_from) = match self.spares.take() {
            Some(spare) => (Some(spare.path), spare.recycled_from),
            None => (None, 0),
        };
        let unsynced = self.durable_to < self.written_to;
        Rotation {
            disk: Arc::clone(&self.disk),
            options: self.options.clone(),
            header: SegmentHeader {
                kind: self.options.kind,
                id,
                first_index: self.next_index,
                continues: self.written_to,
                born_durable_to: 0,
                recycled_from,
            },
            preamble: preamble(&self.states, self.written_to),
            spare,
            sync_first: unsynced.then(|| Arc::clone(&self.file)),
            use_reserve: std::mem::take(&mut self.use_reserve),
        }
    }

    /// Takes the outcome of the group in flight. Ok: every append with an id up to the answer is durable (or, after
    /// [`Writer::next_group_unsynced`], written).
    ///
    /// # Errors
    /// [`WalError::DiskFull`]: nothing is lost, the group waits to be written again. Anything else is for good: the
    /// writer is poisoned, and only what was reported before is known to be durable.
    pub fn group_done(&mut self, done: GroupDone) -> Result<AppendId, WalError> {
        assert!(self.in_flight, "a group that is not in flight is done");
        self.in_flight = false;
        if done.reserve_used {
            self.spares.reserve_is_gone();
        }
        match done.outcome {
            Ok(written) => Ok(self.advance(done.group, written, done.sync)),
            Err(failure) if failure.retryable => {
                if let Some(group) = done.group.filter(|group| !group.is_empty()) {
                    self.queued_bytes += group.bytes.len() - RECORD_HEADER_BYTES;
                    self.queue.push_front(group);
                }
                Err(WalError::DiskFull { source: failure.error })
            }
            Err(failure) => {
                self.poison(&failure.error);
                Err(failure.error.into())
            }
        }
    }

    fn advance(&mut self, group: Option<Group>, written: Written, sync: bool) -> AppendId {
        let rotated = matches!(written, Written::Rotated { .. });
        let durable = match written {
            Written::SyncOnly => true,
            Written::Appended { to } => {
                self.last_group = Some(self.written_to);
                self.written_to = to;
                sync
            }
            Written::Rotated { file, path, group_at, to, file_bytes } => {
                let segment =
                    Segment { id: to.segment(), path, used: 0, file_bytes, max_data: None };
                self.segments.push_back(segment);
                self.file = file;
                self.last_group = Some(group_at);
                self.written_to = to;
                true
            }
        };
        if durable {
            self.durable_to = self.written_to;
        }
        if let Some(mut group) = group {
            let current = self.segments.back_mut().expect("a log has a segment");
            current.used = self.written_to.offset();
            current.file_bytes = current.file_bytes.max(current.used);
            current.max_data = current.max_data.max(group.max_data);
            self.next_index = group.next_index.unwrap_or(self.next_index);
            self.watermarked = group.is_empty() || rotated;
            self.last_written = group.last;
            let start = self.last_group.unwrap_or_default().0;
            let marks = group
                .marks
                .iter()
                .map(|&(at, mark)| DataMark { pos: LogPos(start + at as u64), ..mark });
            self.last_marks.clear();
            self.last_marks.extend(marks);
            group.clear();
            self.free = Some(group);
        }
        self.last_written
    }

    pub(super) fn poison(&mut self, error: &IoError) {
        self.poisoned.get_or_insert_with(|| error.to_string());
    }

    /// Writes and syncs everything that is pending, on this thread. For the embedded engine's close, and tests.
    pub fn sync_blocking(&mut self) -> Result<AppendId, WalError> {
        self.check()?;
        while let Some(job) = self.next_group() {
            self.group_done(job.run())?;
        }
        Ok(self.last_written)
    }

    /// Writes and syncs everything and the final watermark, on this thread.
    pub fn close_blocking(&mut self) -> Result<(), WalError> {
        self.check()?;
        while let Some(job) = self.close() {
            self.group_done(job.run())?;
        }
        Ok(())
    }

    /// Fails with [`WalError::Poisoned`] when the log has stopped.
    pub fn check(&self) -> Result<(), WalError> {
        match &self.poisoned {
            Some(first) => Err(WalError::Poisoned { first: first.clone() }),
            None => Ok(()),
        }
    }

    /// Lets the next group use the space of the reserve file when it needs a new segment and the disk is full. For writes that free
    /// space (deletes); [`Writer::maintenance`] makes a new reserve when there is room.
    pub const fn use_reserve(&mut self) {
        self.use_reserve = true;
    }

    /// Bytes appended and neither written nor in flight.
    #[must_use]
    pub const fn pending_bytes(&self) -> usize {
        self.queued_bytes
    }
    /// Whether a group is in flight.
    #[must_use]
    pub const fn in_flight(&self) -> bool {
        self.in_flight
    }
    /// Everything before this is durable.
    #[must_use]
    pub const fn durable_to(&self) -> LogPos {
        self.durable_to
    }
    /// Everything before this is written, durable or not.
    #[must_use]
    pub const fn written_to(&self) -> LogPos {
        self.written_to
    }
    /// Where the last written group's header is; its records follow it without a gap, in the order of their appends.
    #[must_use]
    pub const fn last_group(&self) -> Option<LogPos> {
        self.last_group
    }
    /// Where data of the last written group is, by rising position.
    #[must_use]
    pub fn last_marks(&self) -> &[DataMark] {
        &self.last_marks
    }
    /// One past the newest data written, after truncations. After recovery also of data in segments that are gone: an
    /// owner that does not hold everything below misses a segment.
    #[must_use]
    pub const fn next_index(&self) -> u64 {
        self.next_index
    }
    /// The id of the last append that was written.
    #[must_use]
    pub const fn last_written(&self) -> AppendId {
        self.last_written
    }
    /// The id of the last append.
    #[must_use]
    pub const fn last_append(&self) -> AppendId {
        self.last_append
    }
    /// Bytes of records in segments that are not released.
    #[must_use]
    pub fn live_bytes(&self) -> u64 {
        self.segments.iter().map(|s| s.used).sum()
    }
    /// How many segments are not released.
    #[must_use]
    pub fn segments(&self) -> usize {
        self.segments.len()
    }
    /// The segments that are not released, oldest first: id, path, and bytes of records.
    pub fn segment_files(&self) -> impl Iterator<Item = (u64, &Path, u64)> {
        self.segments.iter().map(|s| (s.id, s.path.as_path(), s.used))
    }
    /// The newest state of `slot`: (aux, payload).
    #[must_use]
    pub fn state(&self, slot: u64) -> Option<(u64, &[u8])> {
        self.states.get(&slot).map(|(aux, payload)| (*aux, payload.as_slice()))
    }
}

/// The group at the start of a new segment that carries the state of the log; empty when there is none.
pub(super) fn preamble(states: &States, durable_to: LogPos) -> Vec<u8> {
    if states.is_empty() || planted!(StateNotCarried) {
        return Vec::new();
    }
    let mut bytes = new_group();
    format::set_watermark(&mut bytes, durable_to);
    for (&slot, (aux, payload)) in states {
        format::put_record(&mut bytes, RecordKind::State, slot, *aux, payload);
    }
    bytes
}

/// Blocking work on the log: write a group, sync it, with a new segment when it does not fit in the present one.
pub struct GroupJob {
    group: Option<Group>,
    work: Work,
    sync: bool,
}

enum Work {
    SyncOnly { file: Arc<dyn File> },
    Append { file: Arc<dyn File>, at: LogPos },
    Rotate(Box<Rotation>),
}

/// A finished [`GroupJob`], for [`Writer::group_done`].
#[derive(Debug)]
pub struct GroupDone {
    group: Option<Group>,
    outcome: Result<Written, Failure>,
    sync: bool,
    /// The reserve was given back to make room.
    reserve_used: bool,
}

#[derive(Debug)]
enum Written {
    SyncOnly,
    Appended { to: LogPos },
    Rotated { file: Arc<dyn File>, path: PathBuf, group_at: LogPos, to: LogPos, file_bytes: u64 },
}

#[derive(Debug)]
pub(super) struct Failure {
    pub error: IoError,
    pub retryable: bool,
    /// It was a sync that failed.
    pub sync: bool,
}

impl Failure {
    /// A failed sync: never to be tried again.
    pub fn of_sync(error: IoError) -> Self {
        Self { error, retryable: false, sync: true }
    }
    /// Any other failed operation: a full disk may pass.
    pub fn of_write(error: IoError) -> Self {
        let retryable = error.is_disk_full();
        Self { error, retryable, sync: false }
    }
}

impl GroupJob {
    const fn sync_only(file: Arc<dyn File>) -> Self {
        Self { group: None, work: Work::SyncOnly { file }, sync: true }
    }

    /// Bytes that it writes, without the preamble of a new segment.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.group.as_ref().map_or(0, |group| group.bytes.len())
    }

    /// Does it. Blocks for the write and the sync.
    #[must_use]
    pub fn run(mut self) -> GroupDone {
        let mut nothing = Vec::new();
        let bytes = self.group.as_mut().map_or(&mut nothing, |group| &mut group.bytes);
        let mut reserve_used = false;
        let outcome = match self.work {
            Work::SyncOnly { file } => {
                file.sync_data().map(|()| Written::SyncOnly).map_err(Failure::of_sync)
            }
            Work::Append { file, at } => append(&*file, at, bytes, self.sync),
            Work::Rotate(rotation) => rotation.run(bytes, &mut reserve_used),
        };
        GroupDone { group: self.group, outcome, sync: self.sync, reserve_used }
    }
}

fn append(file: &dyn File, at: LogPos, bytes: &mut [u8], sync: bool) -> Result<Written, Failure> {
    format::seal(bytes, at);
    file.write_at(at.offset(), bytes).map_err(Failure::of_write)?;
    if sync && !planted!(LogNotSynced) {
        file.sync_data().map_err(Failure::of_sync)?;
    }
    Ok(Written::Appended { to: LogPos::new(at.segment(), at.offset() + bytes.len() as u64) })
}

/// Starts a new segment with the preamble and one group in it.
struct Rotation {
    disk: Arc<dyn Disk>,
    options: Options,
    header: SegmentHeader,
    preamble: Vec<u8>,
    spare: Option<PathBuf>,
    /// The old segment, when something in it is written and not synced.
    sync_first: Option<Arc<dyn File>>,
    use_reserve: bool,
}

impl Rotation {
    fn run(mut self, group: &mut [u8], reserve_used: &mut bool) -> Result<Written, Failure> {
        if let Some(old) = self.sync_first.take() {
            old.sync_data().map_err(Failure::of_sync)?;
        }
        match self.attempt(group) {
            Err(failure) if failure.retryable && self.use_reserve => {
                *reserve_used = true;
                free_reserve(&*self.disk, &self.options.dir).map_err(Failure::of_write)?;
                self.spare = None;
                self.attempt(group)
            }
            result => result,
        }
    }

    fn attempt(&mut self, group: &mut [u8]) -> Result<Written, Failure> {
        let id = self.header.id;
        let group_at = LogPos::new(id, (SEGMENT_HEADER_BYTES + self.preamble.len()) as u64);
        let to = LogPos::new(id, group_at.offset() + group.len() as u64);
        self.header.born_durable_to = to.offset();
        format::seal(&mut self.preamble, LogPos::new(id, SEGMENT_HEADER_BYTES as u64));
        format::seal(group, group_at);
        let name = self.spare.clone().unwrap_or_else(|| temporary_path(&self.options, id));
        let content = [&self.header.encode(), self.preamble.as_slice(), group];
        let result =
            new_segment_file(&*self.disk, &self.options, &name, self.spare.is_some(), &content)
                .and_then(|file| {
                    publish(&*self.disk, &self.options, &name, id).map(|path| (file, path))
                });
        match result {
            Ok(((file, file_bytes), path)) => {
                Ok(Written::Rotated { file, path, group_at, to, file_bytes })
            }
            Err(failure) => {
                if failure.retryable {
                    discard(&*self.disk, &name);
                }
                Err(failure)
            }
        }
    }
}

/// The name under which segment `id` is made.
pub(super) fn temporary_path(options: &Options, id: u64) -> PathBuf {
    options.dir.join(format!("{}.tmp", options.kind.file_name(id)))
}

/// Writes `content` to the spare `path`, or to a new file which is then zero-filled to a short segment's length, and
/// syncs it. Returns the file and its length.
pub(super) fn new_segment_file(
    disk: &dyn Disk,
    options: &Options,
    path: &Path,
    is_spare: bool,
    content: &[&[u8]],
) -> Result<(Arc<dyn File>, u64), Failure> {
    let mode = if is_spare { OpenMode::ReadWrite } else { OpenMode::CreateNew };
    let file = disk.open(path, mode).map_err(Failure::of_write)?;
    let mut at = 0;
    for part in content {
        file.write_at(at, part).map_err(Failure::of_write)?;
        at += part.len() as u64;
    }
    let mut file_bytes = at;
    if is_spare {
        file_bytes = file.len().map_err(Failure::of_write)?;
    } else if options.preallocate {
        let short = options.segment_bytes.min(LOG_SHORT_SEGMENT_BYTES);
        fill_with_zeros(&*file, at, short).map_err(Failure::of_write)?;
        file_bytes = at.max(short);
    }
    file.sync_data().map_err(Failure::of_sync)?;
    Ok((file, file_bytes))
}

/// Writes zeros over `from..to` of `file`. In small pieces: a page cache folio is as large as the write that made it,
/// and ext4 walks all 4 KiB blocks of the folio at each small write into it later. Pieces of 16 KiB instead of 1 MiB
/// take `beach-bench fillrandom` from 3.6 to 2.4 us (median) and from 2.9 to 1.3 s of kernel time for 1 M puts.
pub(super) fn fill_with_zeros(file: &dyn File, from: u64, to: u64) -> IoResult<()> {
    let zeros = vec![0u8; to.saturating_sub(from).min(16 << 10) as usize];
    let mut at = from;
    while at < to {
        let n = (to - at).min(zeros.len() as u64);
        file.write_at(at, &zeros[..n as usize])?;
        at += n;
    }
    Ok(())
}

/// Gives a synced segment its name, durably.
pub(super) fn publish(
    disk: &dyn Disk,
    options: &Options,
    from: &Path,
    id: u64,
) -> Result<PathBuf, Failure> {
    let path = options.dir.join(options.kind.file_name(id));
    disk.rename(from, &path).map_err(Failure::of_write)?;
    if !planted!(SegmentDirNotSynced) {
        disk.sync_dir(&options.dir).map_err(Failure::of_sync)?;
    }
    Ok(path)
}

/// Removes a file that no longer counts, to give back its space. If that fails it is removed at the next open.
pub(super) fn discard(disk: &dyn Disk, path: &Path) {
    match disk.remove(path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => log::warn!("{error}; it will be removed at the next start"),
    }
}

/// The name of the file that holds space back.
pub(super) const RESERVE_NAME: &str = "reserve";

/// Gives back the space of the reserve.
pub(super) fn free_reserve(disk: &dyn Disk, dir: &Path) -> IoResult<()> {
    match disk.remove(&dir.join(RESERVE_NAME)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => disk.sync_dir(dir),
    }
}
