//! The write path of [`Db`](super::Db): group commit without a thread of its own.
//!
//! A writer puts its batch in the queue. If nobody leads, it becomes the leader: it takes the whole queue as one group,
//! writes and syncs it, applies it, stores every member's outcome, and steps down; the others sleep until their outcome
//! is there or leadership is free. So the sync of one group collects the next.
//!
//! Leadership is also the right to use the log and to take in completed jobs; whoever wants that leads for a moment.
//!
//! What the conditions of a group's batches ask for is looked up before the group is logged, so that a read that fails is the error of one
//! batch; whether they hold is judged when each is applied, by what was looked up and what the batches before it wrote
//! ([`KnownKeys`]). A batch whose condition fails is in the log all the same, and comes to the same at replay.
//!
//! A group that met a full disk stays in the log writer and is written when there is space again. Its writers were
//! told `Unknown`; its batches are applied when they are durable, before anything later.

use super::{DbError, Effect, Inner};
use crate::base::batch::{BatchRef, Op};
use crate::base::conditions::{FailedCondition, KnownKeys, first_failed};
use crate::base::{LogIndex, Term};
use crate::engine::{Applied, EngineError, JobOutcome, MAX_WRITE_STALL_NS};
use crate::env::{Completion, JobOutput, Lane};
use crate::limits::MAX_GROUP_BYTES;
use crate::wal::{self, AppendId, MaintenanceDone, RecordKind, WalError};
use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// How long a stalled caller waits for a completion before it looks again.
pub(super) const WAIT: Duration = Duration::from_millis(100);
/// What a writer is told that was refused for lack of room.
const BUSY_RETRY: Duration = Duration::from_millis(100);
/// A shorter delay is owed and not yet waited for: timers are no finer.
const DELAY_NS_MIN: u64 = 1_000_000;
/// The longest that one group is held up by what is owed. A long pause is many short ones.
const DELAY_NS_MAX: u64 = 10_000_000;
/// The most that may be owed: what one batch earned is not held against those after it for longer.
const OWED_NS_MAX: u64 = 200_000_000;
/// How often a dropped or closed database waits for its jobs before it gives up on them.
const CLOSE_WAITS: usize = 600;

/// The queue of writers.
#[derive(Default)]
pub(super) struct Commit {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    leading: bool,
    /// How many sleep until something changes: waking nobody costs a system call too.
    sleepers: usize,
    queue: VecDeque<Waiting>,
    next_ticket: u64,
    outcomes: BTreeMap<u64, Outcome>,
    /// The first fatal failure.
    stopped: Option<String>,
    /// Why the log could not be written, while a group waits for space.
    log_full: Option<String>,
    /// The delay that the groups so far have earned and not waited for.
    owed_ns: u64,
}

struct Waiting {
    ticket: u64,
    batch: Vec<u8>,
    sync: bool,
}

/// What became of one batch.
#[derive(Debug)]
enum Outcome {
    Applied(Applied),
    ConditionFailed(FailedCondition),
    /// What its conditions ask for could not be read.
    Unread(EngineError),
    Failed(Failure),
}

/// Why a group was not written.
#[derive(Clone, Debug)]
enum Failure {
    NoSpace(String, Effect),
    /// Not applied.
    Busy,
    Stopped(String, Effect),
}

impl From<Outcome> for Result<Applied, DbError> {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Applied(applied) => Ok(applied),
            Outcome::ConditionFailed(failed) => Err(DbError::ConditionFailed(failed)),
            Outcome::Unread(error) => Err(DbError::Engine(error)),
            Outcome::Failed(Failure::NoSpace(reason, effect)) => {
                Err(DbError::NoSpace { reason, effect })
            }
            Outcome::Failed(Failure::Busy) => Err(DbError::Busy { retry_after: BUSY_RETRY }),
            Outcome::Failed(Failure::Stopped(first, effect)) => {
                Err(DbError::Stopped { first, effect })
            }
        }
    }
}

impl Commit {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("a thread panicked while it changed the write queue")
    }

    fn wait<'a>(&self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        state.sleepers += 1;
        let mut state =
            self.changed.wait(state).expect("a thread panicked while it changed the write queue");
        state.sleepers -= 1;
        state
    }

    pub(super) fn log_full(&self) -> Option<String> {
        self.lock().log_full.clone()
    }
}

/// The log and what is on its way into it.
pub(super) struct Log {
    writer: wal::Writer,
    next_index: LogIndex,
    /// Appended and not known to be written, oldest first.
    in_log: VecDeque<InLog>,
    /// What the conditions of those ask for; empty while nothing is on its way.
    known: KnownKeys,
}

struct InLog {
    id: AppendId,
    index: LogIndex,
    batch: Vec<u8>,
    /// `None` when its writer got an answer already.
    ticket: Option<u64>,
}

impl Log {
    pub(super) fn new(writer: wal::Writer, next_index: LogIndex) -> Self {
        Self { writer, next_index, in_log: VecDeque::new(), known: KnownKeys::default() }
    }

    pub(super) fn live_bytes(&self) -> u64 {
        self.writer.live_bytes()
    }

    pub(super) fn segments(&self) -> u64 {
        self.writer.segments() as u64
    }

    fn append(&mut self, waiting: Waiting) {
        let index = self.next_index;
        self.next_index = index.next();
        let id = self.writer.append(RecordKind::Data, index.0, 0, &waiting.batch);
        self.in_log.push_back(InLog {
            id,
            index,
            batch: waiting.batch,
            ticket: Some(waiting.ticket),
        });
    }

    /// Writes everything that was appended. Returns up to where it got, and the error that stopped it.
    fn write_out(&mut self, sync: bool) -> (AppendId, Option<WalError>) {
        let mut written = AppendId(0);
        loop {
            let job =
                if sync { self.writer.next_group() } else { self.writer.next_group_unsynced() };
            let Some(job) = job else { return (written, self.writer.check().err()) };
            match self.writer.group_done(job.run()) {
                Ok(id) => written = id,
                Err(e) => return (written, Some(e)),
            }
        }
    }
}

/// What a finished maintenance job of the log returns.
struct LogMaintenance(MaintenanceDone);

/// The right to write the log and to take in completions. Dropping it lets the next one lead.
pub(super) struct Lead<'a> {
    inner: &'a Inner,
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        // Not `lock()`: this may run while a panic unwinds.
        let Ok(mut state) = self.inner.commit.state.lock() else { return };
        state.leading = false;
        if state.sleepers > 0 {
            self.inner.commit.changed.notify_all();
        }
    }
}

impl Inner {
    /// Waits for leadership.
    pub(super) fn lead(&self) -> Lead<'_> {
        let mut state = self.commit.lock();
        while state.leading {
            state = self.commit.wait(state);
        }
        state.leading = true;
        Lead { inner: self }
    }

    /// Takes in completed jobs if there are any and nobody leads. For readers; what fails is kept for the next writer.
    pub(super) fn pump_if_due(&self) {
        if !self.env.jobs.has_completions() {
            return;
        }
        let mut state = self.commit.lock();
        if state.leading {
            return;
        }
        state.leading = true;
        drop(state);
        if let Err(e) = (Lead { inner: self }).pump() {
            log::error!("{e}");
        }
    }

    /// Writes one validated batch.
    pub(super) fn write(&self, batch: Vec<u8>, sync: bool) -> Result<Applied, DbError> {
        let mut state = self.commit.lock();
        self.check_open()?;
        if let Some(first) = &state.stopped {
            return Err(DbError::Stopped { first: first.clone(), effect: Effect::NotApplied });
        }
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.queue.push_back(Waiting { ticket, batch, sync });
        loop {
            if let Some(outcome) = state.outcomes.remove(&ticket) {
                return outcome.into();
            }
            if state.leading {
                state = self.commit.wait(state);
                continue;
            }
            state.leading = true;
            let group = take_group(&mut state.queue);
            drop(state);
            let lead = Lead { inner: self };
            let mut outcomes = lead.commit(group);
            let own = outcomes.iter().position(|(of, _)| *of == ticket);
            let own = own.map(|at| outcomes.swap_remove(at).1);
            if !outcomes.is_empty() {
                self.commit.lock().outcomes.extend(outcomes);
            }
            drop(lead);
            // The leader's own does not go through the queue's books: with one writer that is every write.
            if let Some(outcome) = own {
                return outcome.into();
            }
            state = self.commit.lock();
        }
    }

    /// Writes everything into tables.
    pub(super) fn flush(&self) -> Result<(), DbError> {
        self.check_open()?;
        let target = {
            let lead = self.lead();
            lead.pump()?;
            let mut engine = self.engine_mut();
            engine.freeze();
            engine.retry_now();
            engine.applied().0
        };
        loop {
            self.lead().pump()?;
            let (flushed, working, full) = {
                let engine = self.engine();
                let full = engine.read_only_reason().map(str::to_owned);
                (engine.flushed_applied().0, engine.is_working(), full)
            };
            if flushed >= target {
                return Ok(());
            }
            if let Some(first) = self.commit.lock().stopped.clone() {
                return Err(DbError::Stopped { first, effect: Effect::NotApplied });
            }
            if let (false, Some(reason)) = (working, full) {
                return Err(DbError::NoSpace { reason, effect: Effect::NotApplied });
            }
            self.env.jobs.wait(WAIT);
        }
    }

    /// See [`Db::compact`](super::Db::compact).
    pub(super) fn compact(&self, start: &[u8], end: Option<&[u8]>) -> Result<(), DbError> {
        self.check_open()?;
        self.flush()?;
        self.engine_mut().compact(start, end);
        loop {
            self.lead().pump()?;
            let (asked_for, busy, waits) = {
                let engine = self.engine();
                let busy = engine.is_compacting() || engine.is_working();
                (engine.is_compacting_range(), busy, engine.compaction_waits())
            };
            if !asked_for {
                return Ok(());
            }
            if let Some(first) = self.commit.lock().stopped.clone() {
                return Err(DbError::Stopped { first, effect: Effect::NotApplied });
            }
            self.check_open()?;
            if waits && !busy {
                let reason = "the disk is full: the compaction goes on when there is space".into();
                return Err(DbError::NoSpace { reason, effect: Effect::NotApplied });
            }
            self.env.jobs.wait(WAIT);
        }
    }

    /// See [`Db::close`](super::Db::close). The second time it does nothing.
    pub(super) fn close(&self) -> Result<(), DbError> {
        let lead = self.lead();
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.engine_mut().cancel_compaction();
        let mut result = lead.take_completions();
        for _ in 0..CLOSE_WAITS {
            if self.env.jobs.outstanding() == 0 {
                break;
            }
            self.env.jobs.wait(WAIT);
            result = result.and(lead.take_completions());
        }
        let mut log = lead.log();
        let closed = log.writer.close_blocking().map_err(DbError::from);
        drop(log);
        let guard = self.lock.lock().expect("nobody panics while taking the lock guard").take();
        if self.env.jobs.outstanding() > 0 {
            // A job on a hung disk may still write: nobody else may open the directory while this process lives.
            log::error!("a job is still running after a minute; the directory stays locked");
            std::mem::forget(guard);
        }
        result.and(closed)
    }
}

/// The front of the queue, as much as fits one log group.
fn take_group(queue: &mut VecDeque<Waiting>) -> Vec<Waiting> {
    let mut bytes = 0;
    let mut group = Vec::with_capacity(queue.len());
    while let Some(next) = queue.front() {
        bytes += wal::record_bytes(next.batch.len());
        if !group.is_empty() && bytes > MAX_GROUP_BYTES / 2 {
            break;
        }
        group.extend(queue.pop_front());
    }
    group
}

impl Lead<'_> {
    pub(super) fn log(&self) -> MutexGuard<'_, Log> {
        self.inner.log.lock().expect("a thread panicked while it wrote the log")
    }

    /// Writes, syncs, and applies a group, and whatever waited for space before it.
    fn commit(&self, group: Vec<Waiting>) -> Vec<(u64, Outcome)> {
        if let Err(outcome) = self.make_room(&group).and_then(|()| self.slow_down(&group)) {
            return group.iter().map(|w| (w.ticket, Outcome::Failed(outcome.clone()))).collect();
        }
        let sync = group.iter().any(|w| w.sync);
        let mut log = self.log();
        let mut outcomes = Vec::new();
        if !log.in_log.is_empty() {
            // Left from a full disk. Until it is written, nothing later is taken.
            if group.iter().all(|w| only_deletes(&w.batch)) {
                log.writer.use_reserve();
            }
            let (written, error) = log.write_out(true);
            outcomes.extend(self.apply(&mut log, written));
            if let Some(error) = error {
                let failure = self.failed(&error, Effect::NotApplied);
                outcomes.extend(group.iter().map(|w| (w.ticket, Outcome::Failed(failure.clone()))));
                return outcomes;
            }
        }
        for waiting in group {
            match self.look_up(&mut log.known, &waiting.batch) {
                Ok(()) => log.append(waiting),
                Err(e) => outcomes.push((waiting.ticket, Outcome::Unread(e))),
            }
        }
        let (written, error) = log.write_out(sync);
        outcomes.extend(self.apply(&mut log, written));
        match error {
            None => self.inner.commit.lock().log_full = None,
            Some(error) => {
                let failure = self.failed(&error, Effect::Unknown);
                let left = log.in_log.iter_mut().filter_map(|b| b.ticket.take());
                outcomes.extend(left.map(|ticket| (ticket, Outcome::Failed(failure.clone()))));
            }
        }
        let job = log.writer.maintenance();
        drop(log);
        self.submit_maintenance(job);
        if let Err(e) = self.take_completions() {
            // The group is durable and applied; the next writer is told.
            log::error!("{e}");
        }
        outcomes
    }

    /// Holds the group up for as long as the pressure on writers asks: the leader waits, and takes in what is finished meanwhile.
    fn slow_down(&self, group: &[Waiting]) -> Result<(), Failure> {
        let inner = self.inner;
        let pressure = inner.engine().pressure();
        let bytes: usize = group.iter().map(|w| w.batch.len()).sum();
        let owed = {
            let mut state = inner.commit.lock();
            if pressure.bytes_per_s().is_none() {
                state.owed_ns = 0;
                return Ok(());
            }
            let more = pressure.ns_for(bytes as u64);
            state.owed_ns = state.owed_ns.saturating_add(more).min(OWED_NS_MAX);
            state.owed_ns
        };
        if owed < DELAY_NS_MIN {
            return Ok(());
        }
        let begun = inner.env.clock.now();
        let until = begun.plus(owed.min(DELAY_NS_MAX));
        let mut now = begun;
        while now < until && inner.env.jobs.outstanding() > 0 {
            if !inner.env.jobs.wait(Duration::from_nanos(until.since(now))) {
                break;
            }
            self.pump().map_err(|e| Failure::Stopped(e.to_string(), Effect::NotApplied))?;
            now = inner.env.clock.now();
        }
        let mut state = inner.commit.lock();
        state.owed_ns = state.owed_ns.saturating_sub(now.since(begun));
        Ok(())
    }

    /// Waits while the memtables are full; refuses what needs space while there is none.
    fn make_room(&self, group: &[Waiting]) -> Result<(), Failure> {
        let inner = self.inner;
        let stopped = |first: String| Failure::Stopped(first, Effect::NotApplied);
        if let Some(first) = inner.commit.lock().stopped.clone() {
            return Err(stopped(first));
        }
        let begun = inner.env.clock.now();
        while inner.is_blocked() {
            self.pump().map_err(|e| stopped(e.to_string()))?;
            let (working, compacting) = {
                let engine = inner.engine();
                (engine.is_working(), engine.is_compacting())
            };
            if working || (compacting && inner.is_stalled()) {
                if inner.env.clock.now().since(begun) > MAX_WRITE_STALL_NS {
                    return Err(Failure::Busy);
                }
                inner.env.jobs.wait(WAIT);
                continue;
            }
            let reason = inner.engine().read_only_reason().map(str::to_owned);
            match reason {
                Some(_) if !inner.is_stalled() && group.iter().all(|w| only_deletes(&w.batch)) => {
                    self.log().writer.use_reserve();
                    return Ok(());
                }
                Some(reason) => return Err(Failure::NoSpace(reason, Effect::NotApplied)),
                None if inner.is_stalled() => {
                    return Err(stopped("memtables are full and flushes have stopped".into()));
                }
                None => {}
            }
        }
        Ok(())
    }

    /// Looks up what the conditions of `batch` ask for, as of the last batch applied, which is the last one logged before
    /// this group.
    fn look_up(&self, known: &mut KnownKeys, batch: &[u8]) -> Result<(), EngineError> {
        let batch = BatchRef::parse(batch).expect("batches are validated before they queue");
        for condition in batch.conditions() {
            if known.get(condition.key).is_none() {
                // The reads run without the engine's lock.
                let get = self.inner.engine().get(condition.key, None)?;
                known.insert(condition.key.to_vec(), get.seq_blocking()?);
            }
        }
        Ok(())
    }

    /// Applies what the log has up to `written`.
    fn apply(&self, log: &mut Log, written: AppendId) -> Vec<(u64, Outcome)> {
        let mut outcomes = Vec::new();
        let mut engine = self.inner.engine_mut();
        while let Some(next) = log.in_log.front()
            && next.id <= written
        {
            let batch =
                BatchRef::parse(&next.batch).expect("batches are validated before they queue");
            let known = &log.known;
            let Ok(failed) = first_failed(&batch, |key| {
                Ok::<_, Infallible>(known.get(key).expect("looked up before it was logged"))
            });
            let user = Some(batch).filter(|_| failed.is_none());
            let applied = engine.apply(next.index, Term::ZERO, user, &[]);
            let outcome = match failed {
                None => {
                    log.known.applied(&batch, applied.first_seq);
                    Outcome::Applied(applied)
                }
                Some(failed) => Outcome::ConditionFailed(failed),
            };
            outcomes.extend(next.ticket.map(|ticket| (ticket, outcome)));
            log.in_log.pop_front();
        }
        if log.in_log.is_empty() {
            log.known.clear();
        }
        if engine.needs_flush() {
            engine.start_flush();
        }
        outcomes
    }

    /// Notes a failed log write.
    fn failed(&self, error: &WalError, effect: Effect) -> Failure {
        let mut state = self.inner.commit.lock();
        let text = error.to_string();
        if matches!(error, WalError::DiskFull { .. }) {
            state.log_full = Some(text.clone());
            return Failure::NoSpace(text, effect);
        }
        let first = state.stopped.get_or_insert(text).clone();
        Failure::Stopped(first, effect)
    }

    /// Takes in completions, retries what is due, starts what is due.
    pub(super) fn pump(&self) -> Result<(), DbError> {
        self.take_completions()?;
        let now = self.inner.env.clock.now();
        if self.inner.engine().next_wakeup().is_some_and(|at| at <= now) {
            self.inner.engine_mut().tick(now);
        }
        self.start_flush();
        self.start_compaction();
        Ok(())
    }

    fn start_compaction(&self) {
        if !self.inner.closed.load(Ordering::Acquire) {
            self.inner.engine_mut().start_compaction();
        }
    }

    fn start_flush(&self) {
        if self.inner.engine().needs_flush() {
            self.inner.engine_mut().start_flush();
        }
    }

    fn submit_maintenance(&self, job: Option<wal::MaintenanceJob>) {
        if let Some(job) = job {
            let work = move || Box::new(LogMaintenance(job.run())) as JobOutput;
            self.inner.env.jobs.submit(Lane::Maintenance, Box::new(work));
        }
    }

    fn take_completions(&self) -> Result<(), DbError> {
        if !self.inner.env.jobs.has_completions() {
            return Ok(());
        }
        let mut completions = Vec::new();
        self.inner.env.jobs.poll(&mut completions);
        let mut first_error = Ok(());
        for completion in completions {
            let result = self.take_completion(completion);
            if let Err(e) = &result {
                let mut state = self.inner.commit.lock();
                state.stopped.get_or_insert_with(|| e.to_string());
            }
            first_error = first_error.and(result);
        }
        self.start_compaction();
        first_error
    }

    fn take_completion(&self, completion: Completion) -> Result<(), DbError> {
        let outcome = self.inner.engine_mut().job_done(completion)?;
        match outcome {
            // An embedded database installs no snapshots.
            JobOutcome::Nothing
            | JobOutcome::SnapshotInstalled { .. }
            | JobOutcome::SnapshotFailed { .. } => {}
            JobOutcome::Flushed { index, .. } => {
                let job = self.log().writer.release_below(index.next().0);
                self.submit_maintenance(job);
            }
            JobOutcome::NotMine(completion) => {
                let Ok(done) = completion.output.downcast::<LogMaintenance>() else {
                    log::error!("a completed job of lane {} is nobody's", completion.lane.name());
                    return Ok(());
                };
                let mut log = self.log();
                match log.writer.maintenance_done(done.0) {
                    // A flush that was done during a release could not begin another.
                    Ok(()) => {
                        let flushed = self.inner.engine().flushed_applied().0;
                        let job = log.writer.release_below(flushed.next().0);
                        drop(log);
                        self.submit_maintenance(job);
                    }
                    // No spare for now, or a segment that stays for longer; unless a sync failed, the log goes on.
                    Err(e) => {
                        log::warn!("log: {e}");
                        log.writer.check()?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn only_deletes(batch: &[u8]) -> bool {
    let batch = BatchRef::parse(batch).expect("batches are validated before they queue");
    !batch.is_empty()
        && batch.ops().all(|op| matches!(op, Op::Delete { .. } | Op::DeleteRange { .. }))
}
