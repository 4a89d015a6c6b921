//! The log as raft and node see it: [`LogView`] to read, [`LogStore`] to write, and [`MemLog`], their in-memory twin.
//! The real one is [`raft_log`](crate::raft_log), over segments on the disk.

use super::{Entry, HardState, IoId, Persist};
use crate::base::{ClusterUid, LogIndex, Membership, MembershipHistory, Nanos, Term};
use crate::env::{Completion, JobId, Jobs, Lane};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

/// The log, to read. What was submitted is visible at once, durable or not.
pub trait LogView {
    /// The index of the first entry that is still there; one more than the baseline's when there is none.
    /// The *baseline* is the last released entry, (0, 0) in a log that has never released any.
    fn first_index(&self) -> LogIndex;
    /// Index and term of the last entry; the baseline when there is none.
    fn last(&self) -> (LogIndex, Term);
    /// The term of an entry or of the baseline; `None` for what is neither.
    fn term(&self, index: LogIndex) -> Option<Term>;
    /// The entries from `lo` up to and including `hi`, cut after the first one that reaches `max_bytes` of payload:
    /// at least one entry, at most the range. `None` when they are not all in memory; [`LogStore::read_job`] then
    /// has them. Never touches the disk.
    fn entries(&self, lo: LogIndex, hi: LogIndex, max_bytes: usize) -> Option<Vec<Entry>>;
}

/// Entries read back from the disk, off the loop.
pub type ReadEntries<E> = Box<dyn FnOnce() -> Result<Vec<Entry>, E> + Send>;

/// The log, to write. Nothing here blocks: writing and syncing are jobs in [`Lane::Log`], at most one at a time.
pub trait LogStore: LogView {
    /// What can go wrong. After an error from [`LogStore::job_done`] the log is unusable: stop the process.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Adds to the pending group; memory only. Panics when the entries do not follow on the log.
    fn submit(&mut self, persist: Persist);

    /// Starts the job of the pending group, if there is one and no other is in flight. Called at the end of every
    /// turn of the loop and after every completion.
    fn kick(&mut self);

    /// Takes a completion. It does *not* start the next group: the caller does, with [`LogStore::kick`], when it has
    /// added what the completion leads to.
    fn job_done(&mut self, done: Completion) -> Result<LogOutcome, Self::Error>;

    /// A job that reads entries back from the disk, with the bounds of [`LogView::entries`].
    /// All of `lo..=hi` must be durable and in the log.
    fn read_job(&self, lo: LogIndex, hi: LogIndex, max_bytes: usize) -> ReadEntries<Self::Error>;

    /// Says that everything up to `index` is applied: its entries may leave memory (they stay on disk).
    fn applied_to(&mut self, index: LogIndex);

    /// Says that nobody needs the entries up to `index` any more: whole segments below it are recycled or deleted
    /// by a job. `index` must be durable and applied. A lower index than before is ignored.
    fn release_to(&mut self, index: LogIndex);

    /// Discards all entries and goes on behind `baseline` (not below the present one) with the membership in force there
    /// and the index of the entry that set it; the hard state stays. For a state machine that stands at `baseline`
    /// because it was installed. At any time, also with groups in flight: their [`IoId`]s complete in order. Becomes
    /// durable with, and in front of, whatever is submitted next.
    fn reset(&mut self, baseline: (LogIndex, Term), membership: (LogIndex, Membership));

    /// The cluster that this log is of, from now on; stays through resets. Becomes durable with, and in front of, whatever is
    /// submitted next.
    fn set_cluster(&mut self, cluster: ClusterUid);

    /// The first membership of a cluster, before anything else is in the log; empty: this node waits to be added.
    fn bootstrap(&mut self, membership: Membership) {
        assert_eq!(self.last(), (LogIndex::ZERO, Term::ZERO), "the log has a beginning");
        self.reset((LogIndex::ZERO, Term::ZERO), (LogIndex::ZERO, membership));
    }

    /// Lets the next group use the space held back for a full disk. For writes that free space (deletes).
    fn use_reserve(&mut self);

    /// Asks for the clean end: once nothing is pending, the next [`LogStore::kick`] writes and syncs a final
    /// watermark, and [`LogOutcome::Closed`] comes back. Nothing may be submitted after it.
    fn close(&mut self);

    /// The number of the group in flight, counted since the log was opened; `None` while the log is at rest.
    fn in_flight(&self) -> Option<u64>;

    /// [`LogStats::live_bytes`] alone: cheap enough for every completion.
    fn live_bytes(&self) -> u64;

    /// Sizes for STATUS.
    fn stats(&self) -> LogStats;
}

/// What a completion meant to the log.
pub enum LogOutcome {
    /// It belongs to somebody else.
    NotMine(Completion),
    /// Housekeeping; nothing to do.
    Nothing,
    /// A group is durable.
    Durable(DurableGroup),
    /// The disk is full. Nothing is lost: the group is pending again and the next [`LogStore::kick`] retries it.
    DiskFull,
    /// The final watermark is durable; see [`LogStore::close`].
    Closed,
}

/// A group that became durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DurableGroup {
    /// Every [`Persist`] up to this id is durable; `None` when the group completed none of them.
    pub through: Option<IoId>,
    /// Records in the group.
    pub records: u64,
    /// Bytes in the group.
    pub bytes: u64,
    /// When its job was submitted.
    pub submitted_at: Nanos,
    /// When its job started to write.
    pub started_at: Nanos,
    /// When its sync returned.
    pub finished_at: Nanos,
}

/// Sizes of a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct LogStats {
    /// First index still there.
    pub first_index: u64,
    /// Last index.
    pub last_index: u64,
    /// Segment files in use.
    pub segments: u64,
    /// Zero-filled or recycled segment files ready for use.
    pub spare_segments: u64,
    /// Bytes of records from the first index to the end.
    pub live_bytes: u64,
    /// Bytes submitted and not yet in a job.
    pub pending_bytes: u64,
    /// Payload bytes of entries held in memory.
    pub memory_bytes: u64,
    /// Groups synced since start-up.
    pub syncs: u64,
}

/// The first of `entries` whose payloads together reach `max_bytes`, at least one; see [`LogView::entries`].
pub(crate) fn take_entries<'a>(
    entries: impl Iterator<Item = &'a Entry>,
    max_bytes: usize,
) -> Vec<Entry> {
    let mut out = Vec::new();
    let mut bytes = 0;
    for entry in entries {
        out.push(entry.clone());
        bytes += entry.payload.len();
        if bytes >= max_bytes {
            break;
        }
    }
    out
}

/// A log in memory, for tests of raft and node that are not about the disk. Its "sync" is an empty job in
/// [`Lane::Log`], so that its timing is that of the given [`Jobs`]. `DiskFull` never happens.
pub struct MemLog {
    jobs: Arc<dyn Jobs>,
    hard_state: HardState,
    baseline: (LogIndex, Term),
    entries: VecDeque<Entry>,
    memberships: MembershipHistory,
    /// Payload bytes of `entries`.
    bytes: u64,
    pending: Option<Group>,
    in_flight: Option<(JobId, Group)>,
    closing: bool,
    syncs: u64,
}

#[derive(Clone, Copy, Default)]
struct Group {
    through: Option<IoId>,
    records: u64,
    bytes: u64,
    closes: bool,
}

impl MemLog {
    /// An empty log.
    #[must_use]
    pub fn new(jobs: Arc<dyn Jobs>) -> Self {
        Self {
            jobs,
            hard_state: HardState::default(),
            baseline: (LogIndex::ZERO, Term::ZERO),
            entries: VecDeque::new(),
            memberships: MembershipHistory::default(),
            bytes: 0,
            pending: None,
            in_flight: None,
            closing: false,
            syncs: 0,
        }
    }

    /// The last submitted hard state.
    #[must_use]
    pub const fn hard_state(&self) -> HardState {
        self.hard_state
    }

    /// The memberships from the baseline on, as a restart would find them.
    #[must_use]
    pub fn memberships(&self) -> Vec<(LogIndex, Membership)> {
        self.memberships.to_vec()
    }

    fn slot(&self, index: LogIndex) -> Option<usize> {
        let slot = index.0.checked_sub(self.baseline.0.0 + 1)?;
        (slot < self.entries.len() as u64).then_some(slot as usize)
    }
}

impl LogView for MemLog {
    fn first_index(&self) -> LogIndex {
        self.baseline.0.next()
    }

    fn last(&self) -> (LogIndex, Term) {
        self.entries.back().map_or(self.baseline, |e| (e.index, e.term))
    }

    fn term(&self, index: LogIndex) -> Option<Term> {
        if index == self.baseline.0 {
            return Some(self.baseline.1);
        }
        self.slot(index).map(|slot| self.entries[slot].term)
    }

    fn entries(&self, lo: LogIndex, hi: LogIndex, max_bytes: usize) -> Option<Vec<Entry>> {
        let (from, to) = (self.slot(lo)?, self.slot(hi)?);
        (from <= to).then(|| take_entries(self.entries.range(from..=to), max_bytes))
    }
}

impl LogStore for MemLog {
    type Error = Infallible;

    fn submit(&mut self, persist: Persist) {
        let mut group = self.pending.take().unwrap_or_default();
        group.through = Some(persist.io);
        if let Some(hard_state) = persist.hard_state {
            self.hard_state = hard_state;
            group.records += 1;
        }
        if let Some(from) = persist.truncate_from {
            assert!(
                from > self.baseline.0,
                "truncation from {from} in a log from {:?}",
                self.baseline
            );
            let keep = (from.0 - self.baseline.0.0 - 1) as usize;
            for dropped in self.entries.drain(keep.min(self.entries.len())..) {
                self.bytes -= dropped.payload.len() as u64;
            }
            self.memberships.truncate(from);
            group.records += 1;
        }
        for entry in persist.entries {
            let last = self.last().0;
            assert_eq!(entry.index, last.next(), "entry {} does not follow on {last}", entry.index);
            group.records += 1;
            group.bytes += entry.payload.len() as u64;
            self.bytes += entry.payload.len() as u64;
            self.memberships.append(entry.index, &entry.payload);
            self.entries.push_back(entry);
        }
        self.pending = Some(group);
    }

    fn kick(&mut self) {
        if self.in_flight.is_some() {
            return;
        }
        let closing = Group { closes: true, ..Group::default() };
        let next =
            self.pending.take().or_else(|| std::mem::take(&mut self.closing).then_some(closing));
        if let Some(group) = next {
            self.in_flight = Some((self.jobs.submit(Lane::Log, Box::new(|| Box::new(()))), group));
        }
    }

    fn job_done(&mut self, done: Completion) -> Result<LogOutcome, Infallible> {
        let Some((_, group)) = self.in_flight.take_if(|(id, _)| *id == done.id) else {
            return Ok(LogOutcome::NotMine(done));
        };
        if group.closes {
            return Ok(LogOutcome::Closed);
        }
        self.syncs += 1;
        Ok(LogOutcome::Durable(DurableGroup {
            through: group.through,
            records: group.records,
            bytes: group.bytes,
            submitted_at: done.submitted_at,
            started_at: done.started_at,
            finished_at: done.finished_at,
        }))
    }

    fn read_job(&self, lo: LogIndex, hi: LogIndex, max_bytes: usize) -> ReadEntries<Infallible> {
        let entries = self.entries(lo, hi, max_bytes).expect("the range is in the log");
        Box::new(move || Ok(entries))
    }

    fn applied_to(&mut self, _index: LogIndex) {}

    fn release_to(&mut self, index: LogIndex) {
        while let Some(entry) = self.entries.pop_front_if(|e| e.index <= index) {
            self.baseline = (entry.index, entry.term);
            self.bytes -= entry.payload.len() as u64;
        }
        self.memberships.release(self.baseline.0);
    }

    fn reset(&mut self, baseline: (LogIndex, Term), membership: (LogIndex, Membership)) {
        let now = self.baseline.0;
        assert!(baseline.0 >= now, "a reset to {} in a log from {now}", baseline.0);
        self.baseline = baseline;
        self.entries.clear();
        self.bytes = 0;
        self.memberships.reset(membership);
        // Three records, as in the real one; they are durable with what is submitted next, or alone.
        self.pending.get_or_insert_default().records += 3;
    }

    /// Not kept: nobody asks a log in memory after a restart.
    fn set_cluster(&mut self, _: ClusterUid) {
        self.pending.get_or_insert_default().records += 1;
    }

    fn use_reserve(&mut self) {}

    fn close(&mut self) {
        self.closing = true;
    }

    fn in_flight(&self) -> Option<u64> {
        self.in_flight.is_some().then_some(self.syncs)
    }

    fn live_bytes(&self) -> u64 {
        self.bytes
    }

    fn stats(&self) -> LogStats {
        LogStats {
            first_index: self.first_index().0,
            last_index: self.last().0.0,
            segments: 1,
            spare_segments: 0,
            live_bytes: self.bytes,
            pending_bytes: self.pending.map_or(0, |g| g.bytes),
            memory_bytes: self.bytes,
            syncs: self.syncs,
        }
    }
}
