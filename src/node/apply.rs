//! From commit to applied: at start-up the replay of the log, afterwards every write.
//!
//! Both take the same path, in slices of [`APPLY_SLICE_BYTES`], so that other work has its turn. Entries that are no
//! longer in memory are read back by a job, and so is what conditions ask for ([`conditions`](super::conditions)). A state machine out of room pauses apply until a flush is through: during the
//! replay (unless the flush waits for disk space: then the memtables that were in memory before the restart are built
//! again, and reads can be served), and on a node that does not lead, whose log then grows to a limit
//! ([`peers`](super::peers)). On a leader, admission keeps the room. While a snapshot is installed nothing is applied.

use super::{Effect, FatalError, Frozen, Node, Observed, Phase, Room, StateMachine};
use crate::base::batch::BatchRef;
use crate::base::trace::{Stage, StageStats, TraceEvent};
use crate::base::{LogIndex, Nanos};
use crate::env::{Completion, JobId, Lane};
use crate::limits::APPLY_SLICE_BYTES;
use crate::raft::{self, Entry, LogStore, Role};
use std::collections::BTreeSet;

/// How far apply is.
#[derive(Debug)]
pub(super) struct Progress {
    /// The commit index, as raft last said.
    commit: LogIndex,
    committed_at: Nanos,
    /// The first commit that is known to hold everything that was committed when the node came up, because it is at an
    /// entry of its leader's own term: the replay ends there. What an earlier one says may be less than nothing: a new
    /// leader does not know yet what is committed, and a heartbeat says no more than its receiver is known to have.
    replay_target: Option<LogIndex>,
    /// What was applied when the node opened.
    opened_at: LogIndex,
    caught_up: bool,
    /// The job that reads entries back from the disk.
    job: Option<JobId>,
    /// Those whose entries a snapshot has overtaken.
    stale_jobs: BTreeSet<JobId>,
    /// Something was applied at this moment; when the next event comes tells how long it took.
    measuring: Option<Nanos>,
    /// What was left of the log after the last flush: whole segments and a tail stay behind.
    pub log_bytes_at_flush: u64,
}

/// How far the replay of the log is, for STATUS.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub struct ReplayStatus {
    /// Applied when the node opened, without the log.
    pub from_index: u64,
    /// Where the replay ends; `null` until an entry of its leader's own term is known to be committed.
    pub to_index: Option<u64>,
    /// Whether it is done.
    pub done: bool,
}

impl Progress {
    pub fn new(applied: LogIndex) -> Self {
        Self {
            commit: applied,
            committed_at: Nanos::ZERO,
            replay_target: None,
            opened_at: applied,
            caught_up: false,
            job: None,
            stale_jobs: BTreeSet::new(),
            measuring: None,
            log_bytes_at_flush: 0,
        }
    }

    /// Raft committed everything up to `through`.
    pub fn committed(&mut self, now: Nanos, through: LogIndex) {
        self.commit = self.commit.max(through);
        self.committed_at = now;
    }

    /// The replay ends at `target`, if that was not known before.
    fn aim(&mut self, target: LogIndex, applied: LogIndex) {
        let target = self.replay_target.get_or_insert(target);
        self.caught_up |= *target <= applied;
    }

    /// A snapshot of everything up to `index` replaced the state.
    pub fn installed(&mut self, index: LogIndex) {
        self.commit = self.commit.max(index);
        self.caught_up |= self.replay_target.is_some_and(|target| target <= index);
        // Its entries may not even be there any more.
        self.stale_jobs.extend(self.job.take());
    }

    pub const fn caught_up(&self) -> bool {
        self.caught_up
    }

    /// Called at the start of every step.
    pub fn measure(&mut self, now: Nanos, stages: &mut StageStats) {
        if let Some(from) = self.measuring.take() {
            stages.span(Stage::Apply, from, now);
        }
    }

    pub fn replay_status(&self) -> ReplayStatus {
        ReplayStatus {
            from_index: self.opened_at.0,
            to_index: self.replay_target.map(|index| index.0),
            done: self.caught_up,
        }
    }
}

impl<L: LogStore, S: StateMachine> Node<L, S> {
    /// Looks whether it is known by now where the replay ends: the commit index stands at an entry of the present term.
    /// `told` is what the leader said, if this node does not lead.
    pub(super) fn find_replay_target(&mut self, told: LogIndex) {
        let commit = self.raft.commit();
        if self.apply.replay_target.is_none() && self.log.term(commit) == Some(self.raft.term()) {
            self.apply.aim(commit.max(told), self.machine.applied().0);
        }
    }

    /// Whether a committed entry can be applied right now.
    fn can_apply(&self) -> bool {
        let behind = self.machine.applied().0 < self.apply.commit && self.phase != Phase::Closing;
        let waits = self.apply.job.is_some() || self.conditions.is_waiting();
        behind && !waits && !self.apply_is_paused()
    }

    /// Whether committed entries must wait. See the module.
    pub(super) fn apply_is_paused(&self) -> bool {
        if self.receiver.is_installing() {
            return true;
        }
        let leads = self.raft.role() == Role::Leader;
        if (leads && self.apply.caught_up) || self.machine.room() == Room::Ok {
            return false;
        }
        self.apply.caught_up || self.machine.read_only_reason().is_none()
    }

    /// Applies a slice of what is committed.
    pub(super) fn apply_committed(
        &mut self,
        now: Nanos,
        out: &mut Vec<Effect>,
    ) -> Result<(), FatalError> {
        if self.phase == Phase::Closing {
            return Ok(());
        }
        let live_bytes = self.log.live_bytes();
        self.apply.log_bytes_at_flush = self.apply.log_bytes_at_flush.min(live_bytes);
        let log_is_large = self.log_bytes_above_flush() > self.config.log_bytes_before_flush;
        self.machine.maintain(now, log_is_large || self.sender.wants_flush);
        self.trace_frozen(now);
        if self.can_apply() {
            let (lo, hi) = (self.machine.applied().0.next(), self.apply.commit);
            match self.log.entries(lo, hi, APPLY_SLICE_BYTES) {
                Some(entries) => self.apply_entries(now, entries, out)?,
                None => self.submit_replay(lo, hi),
            }
        }
        Ok(())
    }

    /// Applies `entries` as far as it goes: until there is no room, or a condition that memory cannot judge.
    pub(super) fn apply_entries(
        &mut self,
        now: Nanos,
        entries: Vec<Entry>,
        out: &mut Vec<Effect>,
    ) -> Result<(), FatalError> {
        for (n, entry) in entries.iter().enumerate() {
            if entry.index <= self.machine.applied().0 {
                continue;
            }
            if self.apply_is_paused() {
                // The rest is read again when there is room.
                break;
            }
            let batch = BatchRef::parse(&entry.payload).map_err(|e| {
                let what = std::io::Error::other(format!(
                    "entry {} of term {} is not a batch ({e}): it was written by a newer beachd, or damaged in \
                     memory; open the directory with the version that wrote it",
                    entry.index, entry.term
                ));
                FatalError::new("apply", what)
            })?;
            let at = (entry.index, entry.term);
            let judged = batch.has_conditions() && self.replicated.takes(entry.index, &batch);
            let Some(failed) = (if judged { self.judge(&batch) } else { Some(None) }) else {
                self.look_up(entries[n..].to_vec());
                break;
            };
            let outcome = self
                .replicated
                .apply(&mut self.machine, at, batch, failed)
                .map_err(|e| FatalError::new("apply", e))?;
            self.conditions.applied(entry.index, &batch, outcome);
            if self.config.observe {
                out.push(Effect::Observed(Observed::Applied {
                    index: entry.index,
                    term: entry.term,
                    payload: entry.payload.clone(),
                    outcome: outcome.observed(),
                }));
            }
            self.writes.applied(now, at, outcome, &self.raft, &mut self.desk, out);
        }
        self.trace_frozen(now);
        let applied = self.machine.applied().0;
        self.log.applied_to(applied);
        self.apply.measuring = Some(now);
        self.apply.caught_up |= self.apply.replay_target.is_some_and(|target| target <= applied);
        self.step_raft(now, raft::Event::Applied(applied), out);
        self.serve_reads(now, out);
        Ok(())
    }

    fn trace_frozen(&mut self, now: Nanos) {
        while let Some(Frozen { entries, bytes }) = self.machine.take_frozen() {
            self.trace.record(now, TraceEvent::MemtableFrozen { entries, bytes });
        }
    }

    fn submit_replay(&mut self, lo: LogIndex, hi: LogIndex) {
        // What left memory is durable; what follows it may not be yet.
        let read = self.log.read_job(lo, hi.min(self.durable.to()), APPLY_SLICE_BYTES);
        self.apply.job = Some(self.env.jobs.submit(Lane::Read, Box::new(move || Box::new(read()))));
    }

    /// Takes the completion of a replay read. A disk that cannot read back what it acknowledged is fatal: nothing
    /// after it can be applied.
    pub(super) fn replay_done(
        &mut self,
        now: Nanos,
        done: Completion,
        out: &mut Vec<Effect>,
    ) -> Result<Option<Completion>, FatalError> {
        if self.apply.stale_jobs.remove(&done.id) {
            return Ok(None);
        }
        if self.apply.job.take_if(|id| *id == done.id).is_none() {
            return Ok(Some(done));
        }
        let read = *done
            .output
            .downcast::<Result<Vec<Entry>, L::Error>>()
            .expect("the replay job's output");
        let entries = read.map_err(|e| FatalError::new("replay of the log", e))?;
        self.apply_entries(now, entries, out)?;
        Ok(None)
    }

    /// Whether a turn would find something to do without any event.
    pub(super) fn has_runnable_work(&self) -> bool {
        self.can_apply()
            || self.reads.has_runnable(self.reads_wait())
            || (!self.moving.is_on() && self.writes.has_turn())
    }
}
