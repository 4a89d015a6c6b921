//! L3: the Raft log over [`crate::wal`]. It *is* the daemon's write-ahead log: an entry is written once.
//!
//! ```text
//!   Raft ─ Persist{io} ─▶ submit ─▶ wal pending group ─ kick ─▶ Lane::Log: write + one sync ─▶ job_done ─▶ Durable(io)
//!                            │
//!                            ├─▶ tail: entries in memory, until applied, durable, and over the budget
//!                            └─▶ shape: terms and sparse positions, for what left memory (read_job, Lane::Read)
//! ```
//!
//! | in the log | record |
//! |---|---|
//! | entry | data: index, aux = term, the batch |
//! | truncation | truncate: first dropped index |
//! | hard state | state, slot [`SLOT_HARD_STATE`] |
//! | baseline: the last released entry | state, slot [`SLOT_BASELINE`] |
//! | membership in force at the baseline | state, slot [`SLOT_MEMBERSHIP`]; those after it are entries |
//! | cluster | state, slot [`SLOT_CLUSTER`]; none before the node belongs to one |
//!
//! Invariants:
//! - `baseline <= released to <= applied`, and `baseline < first <= last + 1`; entries are contiguous.
//! - [`IoId`]s complete in order, each when its records and all before them are durable.
//! - Hard state, truncation, and entries of one [`Persist`] share one sync and are recovered as a prefix in that order.
//! - The baseline and the membership at it are durable before a segment that held entries up to it is given up; state
//!   survives every release, because the wal carries it into each new segment.
//! - A reset is a truncation of everything, then the membership, then the baseline. What a crash leaves of it is a log
//!   that is empty behind the old baseline or the new one: the node, whose state machine stands at the new one, resets again.
//!
//! What it does not do: it does not know what is committed, it does not decide when to release, and it does not
//! judge whether its entries fit the engine's applied (index, term): the node does, and calls [`LogStore::reset`].

#[cfg(test)]
mod membership_tests;
mod offline;
mod shape;
mod state;
#[cfg(test)]
mod tests;

pub use offline::LogImage;
pub use state::{
    RaftLogError, SLOT_BASELINE, SLOT_CLUSTER, SLOT_HARD_STATE, SLOT_MEMBERSHIP, STATE_FORMAT,
    decode_baseline, decode_cluster, decode_hard_state, decode_membership, encode_baseline,
    encode_cluster, encode_hard_state, encode_membership,
};

use crate::base::{ClusterUid, LogIndex, Membership, MembershipHistory, Nanos, Term};
use crate::env::{Completion, Disk, Env, JobId, Lane, OpenMode};
use crate::limits::{MAX_STORED_INDEX, RAFT_LOG_MEMORY_BYTES};
use crate::raft::{
    DurableGroup, Entry, HardState, IoId, LogOutcome, LogStats, LogStore, LogView, Persist,
    ReadEntries, take_entries,
};
use crate::wal::segment::SegmentReader;
use crate::wal::{
    self, AppendId, GroupDone, LogKind, MaintenanceDone, MaintenanceJob, Options,
    RECORD_HEADER_BYTES, Record, RecordKind, RecoveryReport, WalError, Writer,
};
use bytes::Bytes;
use shape::{Mark, Shape};
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How long the making of spares waits after the disk was full.
const SPARE_RETRY_NS: u64 = 1_000_000_000;

/// What to do about a number that no log reaches.
const NO_ROOM_ADVICE: &str = "no log gets that far, so the record is not what was written: keep the file, look at it \
    with wal_dump, and restore this node from a replica or a backup";

/// What [`RaftLog::open`] found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RaftLogRecovery {
    /// The last hard state that was durable.
    pub hard_state: HardState,
    /// The first index in the log.
    pub first: LogIndex,
    /// Index and term of the last entry (or the baseline).
    pub last: (LogIndex, Term),
    /// The memberships from the baseline on, each with the index of the entry that set it, oldest first. Empty in a log
    /// that was never begun ([`LogStore::bootstrap`]).
    pub memberships: Vec<(LogIndex, Membership)>,
    /// The cluster that the log is of ([`LogStore::set_cluster`]).
    pub cluster: ClusterUid,
    /// What the recovery of the record log found and did.
    pub report: RecoveryReport,
}

/// The Raft log. See the module.
pub struct RaftLog {
    env: Env,
    dir: PathBuf,
    writer: Writer,
    shape: Shape,
    hard_state: HardState,
    memberships: MembershipHistory,
    /// The newest entries, up to the last one.
    tail: VecDeque<Entry>,
    tail_bytes: usize,
    applied: LogIndex,
    /// Entries below this are durable as they are now in the log.
    durable_below: LogIndex,
    /// Truncations that are not durable yet.
    truncations: VecDeque<(AppendId, LogIndex)>,
    /// Submitted and not completed, in order.
    unfinished: VecDeque<(IoId, AppendId)>,
    in_flight: Option<InFlight>,
    housekeeping: Vec<JobId>,
    /// A baseline that is not durable yet, or whose segments are still being given up.
    release: Option<(LogIndex, AppendId)>,
    /// Entries up to this may be gone from the disk; shared with read jobs.
    released_to: Arc<AtomicU64>,
    spare_retry_at: Nanos,
    closing: bool,
    syncs: u64,
}

struct InFlight {
    job: JobId,
    kind: JobKind,
    bytes: u64,
    last_written: AppendId,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum JobKind {
    Group,
    /// The final watermark.
    Closing,
    /// Nothing had to be written to close.
    Closed,
}

impl RaftLog {
    /// Opens the log in `dir`, creating it when there is none.
    ///
    /// # Errors
    /// [`RaftLogError::is_corruption`] ones when the log is damaged: nothing has been changed then. I/O errors.
    pub fn open(
        env: &Env,
        dir: &Path,
        segment_bytes: u64,
    ) -> Result<(Self, RaftLogRecovery), RaftLogError> {
        let options = Options { segment_bytes, ..Options::new(LogKind::RaftLog, dir) };
        let mut replay = Replay { dir: dir.to_path_buf(), ..Replay::default() };
        let opened = wal::open(&env.disk, options, &mut |record| replay.add(&record));
        let (writer, report) = opened.map_err(|error| replay.explain(error))?;
        let (shape, memberships, recovery) = replay.finish(dir, &writer, report)?;
        let (hard_state, last) = (recovery.hard_state, recovery.last);
        log::info!("raft log: entries {} to {}; {}", recovery.first, last.0, recovery.report);
        let log = Self {
            env: env.clone(),
            dir: dir.to_path_buf(),
            writer,
            hard_state,
            memberships,
            tail: VecDeque::new(),
            tail_bytes: 0,
            applied: shape.baseline().0,
            durable_below: last.0.next(),
            truncations: VecDeque::new(),
            unfinished: VecDeque::new(),
            in_flight: None,
            housekeeping: Vec::new(),
            release: None,
            released_to: Arc::new(AtomicU64::new(shape.baseline().0.0)),
            spare_retry_at: Nanos::default(),
            closing: false,
            syncs: 0,
            shape,
        };
        Ok((log, recovery))
    }

    /// The last submitted hard state.
    #[must_use]
    pub const fn hard_state(&self) -> HardState {
        self.hard_state
    }

    fn append_baseline(&mut self, baseline: (LogIndex, Term)) -> AppendId {
        self.writer.append(
            RecordKind::State,
            SLOT_BASELINE,
            STATE_FORMAT,
            &encode_baseline(baseline),
        )
    }

    fn append_membership(&mut self, (index, membership): &(LogIndex, Membership)) {
        let payload = encode_membership(*index, membership);
        self.writer.append(RecordKind::State, SLOT_MEMBERSHIP, STATE_FORMAT, &payload);
    }

    fn truncate(&mut self, from: LogIndex) {
        let baseline = self.shape.baseline().0;
        assert!(from > baseline, "truncation from {from} in a log behind {baseline}");
        let id = if planted!(TruncationNotLogged) {
            self.writer.last_append()
        } else {
            self.writer.append(RecordKind::Truncate, from.0, 0, &[])
        };
        self.truncations.push_back((id, from));
        self.durable_below = self.durable_below.min(from);
        self.shape.truncate(from);
        self.memberships.truncate(from);
        while let Some(dropped) = self.tail.pop_back_if(|entry| entry.index >= from) {
            self.tail_bytes -= dropped.payload.len();
        }
    }

    fn append(&mut self, entry: Entry) {
        let last = self.shape.last().0;
        assert_eq!(entry.index, last.next(), "entry {} does not follow on {last}", entry.index);
        self.writer.append(RecordKind::Data, entry.index.0, entry.term.0, &entry.payload);
        self.shape.append(entry.index, entry.term);
        self.memberships.append(entry.index, &entry.payload);
        self.tail_bytes += entry.payload.len();
        self.tail.push_back(entry);
    }

    /// Lets entries leave memory that are applied, durable, and over the budget.
    fn trim_tail(&mut self) {
        let keep_from = self.durable_below.min(self.applied.next());
        while self.tail_bytes > RAFT_LOG_MEMORY_BYTES {
            let Some(entry) = self.tail.pop_front_if(|entry| entry.index < keep_from) else {
                return;
            };
            self.tail_bytes -= entry.payload.len();
        }
    }

    fn group_done(
        &mut self,
        flight: &InFlight,
        done: Completion,
    ) -> Result<LogOutcome, RaftLogError> {
        if flight.kind == JobKind::Closed {
            return Ok(LogOutcome::Closed);
        }
        let times = (done.submitted_at, done.started_at, done.finished_at);
        let output = *done.output.downcast::<GroupDone>().expect("a group job's output");
        let last = match self.writer.group_done(output) {
            Ok(last) => last,
            Err(error) if error.is_retryable() => {
                log::warn!("{error}");
                self.closing |= flight.kind == JobKind::Closing;
                return Ok(LogOutcome::DiskFull);
            }
            Err(error) => return Err(error.into()),
        };
        self.settle(last);
        if flight.kind == JobKind::Closing {
            return Ok(LogOutcome::Closed);
        }
        let mut through = None;
        while let Some((io, _)) = self.unfinished.pop_front_if(|(_, append)| *append <= last) {
            through = Some(io);
        }
        Ok(LogOutcome::Durable(DurableGroup {
            through,
            records: last.0 - flight.last_written.0,
            bytes: flight.bytes,
            submitted_at: times.0,
            started_at: times.1,
            finished_at: times.2,
        }))
    }

    /// Everything up to `last` is durable.
    fn settle(&mut self, last: AppendId) {
        self.syncs += 1;
        for mark in self.writer.last_marks() {
            self.shape.place(LogIndex(mark.index), mark.pos, mark.after_truncation);
        }
        while self.truncations.pop_front_if(|(append, _)| *append <= last).is_some() {}
        let cut = self.truncations.iter().map(|&(_, from)| from).min();
        let written = LogIndex(self.writer.next_index());
        self.durable_below = cut.map_or(written, |from| from.min(written));
        self.trim_tail();
        self.start_release();
    }

    /// Gives up segments, once the baseline that says so is durable.
    fn start_release(&mut self) {
        let Some((index, append)) = self.release else { return };
        if append > self.writer.last_written() || self.writer.is_releasing() {
            return;
        }
        self.release = None;
        self.released_to.store(index.0, Ordering::Release);
        if let Some(job) = self.writer.release_below(index.0.saturating_add(1)) {
            self.submit_housekeeping(job);
        }
    }

    fn submit_housekeeping(&mut self, job: MaintenanceJob) {
        let job = self.env.jobs.submit(Lane::Maintenance, Box::new(move || Box::new(job.run())));
        self.housekeeping.push(job);
    }

    fn housekeeping_done(&mut self, done: Completion) -> Result<LogOutcome, RaftLogError> {
        let output =
            *done.output.downcast::<MaintenanceDone>().expect("a maintenance job's output");
        if let Err(error) = self.writer.maintenance_done(output) {
            self.writer.check()?;
            log::warn!("{}: {error}; trying again later", self.dir.display());
            self.spare_retry_at = Nanos(done.finished_at.0 + SPARE_RETRY_NS);
        }
        self.start_release();
        Ok(LogOutcome::Nothing)
    }

    fn keep_spares(&mut self) {
        if self.spare_retry_at != Nanos::default() && self.env.clock.now() >= self.spare_retry_at {
            self.spare_retry_at = Nanos::default();
            self.writer.retry_maintenance();
        }
        if let Some(job) = self.writer.maintenance() {
            self.submit_housekeeping(job);
        }
    }
}

impl LogView for RaftLog {
    fn first_index(&self) -> LogIndex {
        self.shape.first()
    }

    fn last(&self) -> (LogIndex, Term) {
        self.shape.last()
    }

    fn term(&self, index: LogIndex) -> Option<Term> {
        self.shape.term(index)
    }

    fn entries(&self, lo: LogIndex, hi: LogIndex, max_bytes: usize) -> Option<Vec<Entry>> {
        let first = self.tail.front()?.index;
        let from = lo.0.checked_sub(first.0)? as usize;
        let to = hi.0.checked_sub(first.0)? as usize;
        if from > to || to >= self.tail.len() {
            return None;
        }
        Some(take_entries(self.tail.range(from..=to), max_bytes))
    }
}

impl LogStore for RaftLog {
    type Error = RaftLogError;

    fn submit(&mut self, persist: Persist) {
        let before = self.writer.last_append();
        if let Some(state) = persist.hard_state {
            self.hard_state = state;
            self.writer.append(
                RecordKind::State,
                SLOT_HARD_STATE,
                STATE_FORMAT,
                &encode_hard_state(state),
            );
        }
        if let Some(from) = persist.truncate_from {
            self.truncate(from);
        }
        for entry in persist.entries {
            self.append(entry);
        }
        if self.writer.last_append() == before {
            // Nothing to persist must complete too, in order: the state once more.
            let state = encode_hard_state(self.hard_state);
            self.writer.append(RecordKind::State, SLOT_HARD_STATE, STATE_FORMAT, &state);
        }
        self.unfinished.push_back((persist.io, self.writer.last_append()));
    }

    fn kick(&mut self) {
        if self.in_flight.is_some() {
            return;
        }
        let last_written = self.writer.last_written();
        let (job, kind) = match self.writer.next_group() {
            Some(job) => (Some(job), JobKind::Group),
            None if std::mem::take(&mut self.closing) => match self.writer.close() {
                Some(job) => (Some(job), JobKind::Closing),
                None => (None, JobKind::Closed),
            },
            None => {
                self.keep_spares();
                return;
            }
        };
        let bytes = job.as_ref().map_or(0, |job| job.bytes() as u64);
        let job = self.env.jobs.submit(
            Lane::Log,
            match job {
                Some(job) => Box::new(move || Box::new(job.run())),
                None => Box::new(|| Box::new(())),
            },
        );
        self.in_flight = Some(InFlight { job, kind, bytes, last_written });
        self.keep_spares();
    }

    fn job_done(&mut self, done: Completion) -> Result<LogOutcome, RaftLogError> {
        if let Some(flight) = self.in_flight.take_if(|flight| flight.job == done.id) {
            return self.group_done(&flight, done);
        }
        match self.housekeeping.iter().position(|&id| id == done.id) {
            Some(n) => {
                self.housekeeping.swap_remove(n);
                self.housekeeping_done(done)
            }
            None => Ok(LogOutcome::NotMine(done)),
        }
    }

    fn read_job(&self, lo: LogIndex, hi: LogIndex, max_bytes: usize) -> ReadEntries<RaftLogError> {
        assert!(
            self.shape.contains(lo) && lo <= hi && hi < self.durable_below,
            "entries {lo} to {hi} are not all durable in the log"
        );
        let files: BTreeMap<u64, PathBuf> =
            self.writer.segment_files().map(|(id, path, _)| (id, path.to_path_buf())).collect();
        let parts: Vec<(PathBuf, Mark, LogIndex)> = self
            .shape
            .plan(lo, hi)
            .into_iter()
            .map(|(mark, end)| {
                (files.get(&mark.pos.segment()).cloned().unwrap_or_default(), mark, end)
            })
            .collect();
        let (disk, released_to) = (Arc::clone(&self.env.disk), Arc::clone(&self.released_to));
        Box::new(move || {
            let result = read_entries(&*disk, &parts, lo, max_bytes);
            // A segment that was recycled under the reader looks like damage, and is none.
            if result.is_err() && released_to.load(Ordering::Acquire) >= lo.0 {
                return Err(RaftLogError::Released { lo });
            }
            result
        })
    }

    fn applied_to(&mut self, index: LogIndex) {
        self.applied = self.applied.max(index);
        self.trim_tail();
    }

    fn release_to(&mut self, index: LogIndex) {
        let Some(term) = self.shape.term(index).filter(|_| self.shape.contains(index)) else {
            return;
        };
        if let Some(membership) = self.memberships.release(index).cloned() {
            self.append_membership(&membership);
        }
        let id = self.append_baseline((index, term));
        self.shape.release(index);
        while let Some(entry) = self.tail.pop_front_if(|entry| entry.index <= index) {
            self.tail_bytes -= entry.payload.len();
        }
        self.release = Some((index, id));
    }

    fn reset(&mut self, baseline: (LogIndex, Term), membership: (LogIndex, Membership)) {
        let now = self.shape.baseline().0;
        assert!(baseline.0 >= now, "a reset to {} in a log from {now}", baseline.0);
        self.writer.append(RecordKind::Truncate, 0, 0, &[]);
        self.append_membership(&membership);
        if planted!(ResetLosesHardState) {
            let nothing = encode_hard_state(HardState::default());
            self.writer.append(RecordKind::State, SLOT_HARD_STATE, STATE_FORMAT, &nothing);
        }
        let id = self.append_baseline(baseline);
        self.truncations.push_back((id, LogIndex::ZERO));
        self.durable_below = LogIndex::ZERO;
        self.shape.reset(baseline);
        self.memberships.reset(membership);
        self.tail.clear();
        self.tail_bytes = 0;
        self.applied = baseline.0;
        self.release = Some((baseline.0, id));
    }

    fn set_cluster(&mut self, cluster: ClusterUid) {
        let payload = encode_cluster(cluster);
        self.writer.append(RecordKind::State, SLOT_CLUSTER, STATE_FORMAT, &payload);
    }

    fn use_reserve(&mut self) {
        self.writer.use_reserve();
    }

    fn close(&mut self) {
        self.closing = true;
    }

    fn in_flight(&self) -> Option<u64> {
        self.in_flight.is_some().then_some(self.syncs)
    }

    fn live_bytes(&self) -> u64 {
        self.writer.live_bytes()
    }

    fn stats(&self) -> LogStats {
        LogStats {
            first_index: self.shape.first().0,
            last_index: self.shape.last().0.0,
            segments: self.writer.segments() as u64,
            spare_segments: self.writer.spare_segments() as u64,
            live_bytes: self.writer.live_bytes(),
            pending_bytes: self.writer.pending_bytes() as u64,
            memory_bytes: self.tail_bytes as u64,
            syncs: self.syncs,
        }
    }
}

/// Reads entries from `lo` on: from each part's mark to its last index, until `max_bytes` of payload are reached.
fn read_entries(
    disk: &dyn Disk,
    parts: &[(PathBuf, Mark, LogIndex)],
    lo: LogIndex,
    max_bytes: usize,
) -> Result<Vec<Entry>, RaftLogError> {
    let (mut out, mut bytes) = (Vec::new(), 0);
    for (path, mark, end) in parts {
        let file = disk.open(path, OpenMode::Read).map_err(WalError::from)?;
        let mut reader = SegmentReader::open(file, Some(LogKind::RaftLog))?;
        reader.seek(mark.pos.offset());
        let mut expected = mark.index;
        while expected <= *end {
            let record = reader.expect_record()?;
            if record.kind != RecordKind::Data {
                continue;
            }
            let index = LogIndex(record.index);
            if index != expected {
                return Err(RaftLogError::Gap { dir: path.clone(), expected, found: index });
            }
            expected = expected.next();
            if index < lo {
                continue;
            }
            bytes += record.payload.len();
            let payload = Bytes::copy_from_slice(record.payload);
            out.push(Entry { index, term: Term(record.aux), payload });
            if bytes >= max_bytes {
                return Ok(out);
            }
        }
    }
    Ok(out)
}

/// What a record log says besides its records: one that was opened, or one that was only read.
trait Slots {
    fn state(&self, slot: u64) -> Option<(u64, &[u8])>;
    fn next_index(&self) -> u64;
}

impl Slots for Writer {
    fn state(&self, slot: u64) -> Option<(u64, &[u8])> {
        Self::state(self, slot)
    }

    fn next_index(&self) -> u64 {
        Self::next_index(self)
    }
}

/// Rebuilds the shape from the records of a recovery.
#[derive(Default)]
struct Replay {
    dir: PathBuf,
    shape: Shape,
    memberships: MembershipHistory,
    first: Option<LogIndex>,
    expected: Option<LogIndex>,
    gap: Option<(LogIndex, LogIndex)>,
}

impl Replay {
    fn add(&mut self, record: &Record<'_>) -> Result<(), WalError> {
        self.check_room(record)?;
        let index = LogIndex(record.index);
        match record.kind {
            RecordKind::Data => {
                if let Some(expected) = self.expected.filter(|&expected| expected != index) {
                    self.gap = Some((expected, index));
                    return Err(WalError::Refused {
                        path: PathBuf::new(),
                        pos: record.pos,
                        reason: format!("expected entry {expected}, found {index}"),
                    });
                }
                self.first.get_or_insert(index);
                self.add_membership(index, record)?;
                self.shape.append(index, Term(record.aux));
                self.shape.place(index, record.pos, false);
                self.expected = Some(index.next());
            }
            RecordKind::Truncate => {
                self.shape.truncate(index);
                self.memberships.truncate(index);
                self.shape.note_truncation();
                // From 0: a reset; what follows begins behind a new baseline.
                self.expected =
                    self.expected.map(|e| e.min(index)).filter(|_| index > LogIndex::ZERO);
                self.first = self.first.filter(|&first| first < index);
            }
            RecordKind::State | RecordKind::Group => {}
        }
        Ok(())
    }

    /// A gap stops the replay; it is reported as what it is.
    fn explain(&self, error: WalError) -> RaftLogError {
        match (error, self.gap) {
            (WalError::Refused { .. }, Some((expected, found))) => {
                RaftLogError::Gap { dir: self.dir.clone(), expected, found }
            }
            (error, _) => error.into(),
        }
    }

    fn add_membership(&mut self, index: LogIndex, record: &Record<'_>) -> Result<(), WalError> {
        match Membership::from_entry(record.payload) {
            None => Ok(()),
            Some(Ok(membership)) => {
                self.memberships.push(index, membership);
                Ok(())
            }
            Some(Err(error)) => Err(WalError::Corrupt {
                path: self.dir.join(LogKind::RaftLog.file_name(record.pos.segment())),
                offset: record.pos.offset() + RECORD_HEADER_BYTES as u64,
                expected: "a membership".into(),
                found: format!("an entry that says it is one: {error}"),
                advice: NO_ROOM_ADVICE,
            }),
        }
    }

    /// Refuses an index or term after which there is no next one: a valid checksum does not make it a true one.
    fn check_room(&self, record: &Record<'_>) -> Result<(), WalError> {
        let (at, payload) = (record.pos.offset(), RECORD_HEADER_BYTES as u64);
        let numbers = match (record.kind, record.index) {
            (RecordKind::Data, index) => [(16, "an index", index), (24, "a term", record.aux)],
            (RecordKind::Truncate, index) => [(16, "an index", index), (24, "a term", 0)],
            (RecordKind::State, SLOT_BASELINE) => {
                let baseline = decode_baseline(record.aux, record.payload);
                let (index, term) = baseline.unwrap_or_default();
                [(payload, "a baseline index", index.0), (payload + 8, "a baseline term", term.0)]
            }
            (RecordKind::State, SLOT_HARD_STATE) => {
                let term = decode_hard_state(record.aux, record.payload).unwrap_or_default().term;
                [(payload, "a term", term.0), (payload, "a term", 0)]
            }
            (RecordKind::State, SLOT_MEMBERSHIP) => {
                let found = decode_membership(record.aux, record.payload).unwrap_or_default();
                [(payload, "a membership's index", found.0.0), (payload, "an index", 0)]
            }
            (RecordKind::State | RecordKind::Group, _) => return Ok(()),
        };
        match numbers.into_iter().find(|&(_, _, number)| number > MAX_STORED_INDEX) {
            None => Ok(()),
            Some((offset, what, found)) => Err(WalError::Corrupt {
                path: self.dir.join(LogKind::RaftLog.file_name(record.pos.segment())),
                offset: at + offset,
                expected: format!("{what} of at most {MAX_STORED_INDEX}"),
                found: found.to_string(),
                advice: NO_ROOM_ADVICE,
            }),
        }
    }

    /// Joins what was replayed with the hard state, the baseline, and the membership there.
    fn finish(
        mut self,
        dir: &Path,
        slots: &dyn Slots,
        report: RecoveryReport,
    ) -> Result<(Shape, MembershipHistory, RaftLogRecovery), RaftLogError> {
        let baseline = match slots.state(SLOT_BASELINE) {
            None => (LogIndex::ZERO, Term::ZERO),
            Some((aux, payload)) => decode_baseline(aux, payload).ok_or_else(|| {
                bad_state(dir, SLOT_BASELINE, "a baseline of format 1, 16 bytes", aux, payload)
            })?,
        };
        let mut memberships = MembershipHistory::default();
        if let Some((aux, payload)) = slots.state(SLOT_MEMBERSHIP) {
            let expected = "an index and a membership of format 1";
            let first = decode_membership(aux, payload)
                .ok_or_else(|| bad_state(dir, SLOT_MEMBERSHIP, expected, aux, payload))?;
            memberships.reset(first);
        }
        // Released entries may still lie in the oldest segment, and the slot may be ahead of the baseline.
        memberships.extend(std::mem::take(&mut self.memberships));
        memberships.release(baseline.0);
        let shape = self.join_baseline(dir, slots, baseline)?;
        let mut hard_state = read_hard_state(dir, slots)?;
        let (first, last) = (shape.first(), shape.last());
        if hard_state.term < last.1 {
            // The log proves a newer term; nobody was voted for in it (pitfall 3).
            hard_state = HardState { term: last.1, vote: None };
        }
        let cluster = match slots.state(SLOT_CLUSTER) {
            None => ClusterUid::NONE,
            Some((aux, payload)) => decode_cluster(aux, payload).ok_or_else(|| {
                bad_state(dir, SLOT_CLUSTER, "a cluster's uid of format 1, 8 bytes", aux, payload)
            })?,
        };
        let kept = memberships.to_vec();
        let recovery =
            RaftLogRecovery { hard_state, first, last, memberships: kept, cluster, report };
        Ok((shape, memberships, recovery))
    }

    fn join_baseline(
        mut self,
        dir: &Path,
        slots: &dyn Slots,
        baseline: (LogIndex, Term),
    ) -> Result<Shape, RaftLogError> {
        let gap =
            |expected, found| Err(RaftLogError::Gap { dir: dir.to_path_buf(), expected, found });
        let Some(first) = self.first else {
            let next = LogIndex(slots.next_index());
            if next > baseline.0.next() {
                // There were entries behind the baseline, in a segment that is not there any more.
                return gap(baseline.0.next(), next);
            }
            self.shape.reset(baseline);
            return Ok(self.shape);
        };
        let last = self.shape.last().0;
        if first > baseline.0.next() {
            return gap(baseline.0.next(), first);
        }
        if last < baseline.0 {
            return gap(baseline.0, last);
        }
        if first <= baseline.0 {
            self.shape.release(baseline.0);
        } else {
            self.shape.set_baseline(baseline);
        }
        Ok(self.shape)
    }
}

fn read_hard_state(dir: &Path, slots: &dyn Slots) -> Result<HardState, RaftLogError> {
    let Some((aux, payload)) = slots.state(SLOT_HARD_STATE) else {
        return Ok(HardState::default());
    };
    decode_hard_state(aux, payload).ok_or_else(|| {
        bad_state(dir, SLOT_HARD_STATE, "a hard state of format 1, 32 bytes", aux, payload)
    })
}

fn bad_state(
    dir: &Path,
    slot: u64,
    expected: &'static str,
    format: u64,
    payload: &[u8],
) -> RaftLogError {
    RaftLogError::State { dir: dir.to_path_buf(), slot, expected, format, len: payload.len() }
}
