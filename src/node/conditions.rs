//! Compare-and-set at apply: whether the conditions of an entry hold, without ever waiting for the disk on the loop.
//!
//! ```text
//!  committed:  41 put x   42 if a…   43 put a   44 if a…, b…   45 …
//!                          │ memory cannot tell `a`
//!                          └─▶ one job in Lane::Read: the newest versions of a and b, as of entry 41
//!                              apply waits at 42, everything behind it too; heartbeats, votes, and the log go on
//!  job done ─▶ known: a ↦ 7, b ↦ none ─▶ 42 judged by a ↦ 7 ─▶ 43 applied: a ↦ 9 ─▶ 44 judged by a ↦ 9, b ↦ none
//! ```
//!
//! What a condition asks is the newest version of its key at the entry's place in the log. Memory answers it or a job does,
//! and what the job answered is [kept up to date](KnownKeys) by every entry that is applied until the last entry it was made
//! for. So the verdict of 44 sees what 43 wrote; a flush or a compaction in between moves versions, and the newest stays the
//! newest. All replicas decide the same, leader, follower, and learner, now and at any replay.
//!
//! Invariants:
//! - Nothing is applied while the job is out: it reads the state that the entry stands on.
//! - An entry whose write is not applied anyhow (a duplicate, a refused one) asks for nothing.
//! - One job at a time. It holds what the entry that apply waits at asks for, and of those behind it in the slice as much as
//!   [`MAX_CONDITION_LOOKUPS`] allows: a run of conditional writes costs one job, not one each.
//! - A snapshot that is installed makes everything here void.
//!
//! A read that fails is tried again after a while, and until it succeeds apply stands at the entry: it cannot be skipped, because the
//! other replicas apply it, and it cannot be guessed. The node stays up: it votes, takes the log, and serves stale reads, and STATUS
//! says that it is not ready, and why (a disk to be mended, a member to be replaced).

use super::replicated::Outcome;
use super::sessions::SessionOutcome;
use super::{Effect, FatalError, Lookup, Node, Phase, ReadFault, StateMachine};
use crate::base::batch::BatchRef;
use crate::base::conditions::{FailedCondition, KnownKeys, first_failed};
use crate::base::{LogIndex, Nanos, SequenceNumber};
use crate::env::{Completion, JobId, JobOutput, Lane};
use crate::limits::MAX_CONDITION_LOOKUPS;
use crate::raft::{Entry, LogStore};
use std::collections::{BTreeMap, BTreeSet};

/// After a failed read, how long until the next try.
const RETRY_NS: u64 = 1_000_000_000;

/// Counters since start-up, for STATS.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct ConditionStats {
    /// Batches with conditions that were judged.
    pub judged: u64,
    /// Of those, the ones that were not applied because a condition did not hold.
    pub failed: u64,
    /// Jobs that looked up what memory could not tell.
    pub lookups: u64,
    /// Keys that they looked up.
    pub keys: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    known: KnownKeys,
    /// `known` is for entries up to this one.
    until: LogIndex,
    waiting: Option<Waiting>,
    stuck: Option<Stuck>,
    /// Jobs whose answer nobody wants any more.
    stale_jobs: BTreeSet<JobId>,
    pub stats: ConditionStats,
}

/// Apply stands at the first of these entries.
#[derive(Debug)]
struct Waiting {
    job: JobId,
    entries: Vec<Entry>,
}

/// Apply stands at the first of these entries, and what its conditions ask for could not be read.
#[derive(Debug)]
struct Stuck {
    entries: Vec<Entry>,
    retry_at: Nanos,
    reason: String,
}

/// What memory cannot tell.
struct Undecided;

/// What the job returns: keys, and under which sequence number their values were written.
type Found = Result<Vec<(Vec<u8>, Option<SequenceNumber>)>, ReadFault>;

impl Conditions {
    /// Whether apply stands at an entry until a job is done.
    pub const fn is_waiting(&self) -> bool {
        self.waiting.is_some() || self.stuck.is_some()
    }

    /// Why apply stands still, for people; `None` when it does not.
    pub fn stuck(&self) -> Option<&str> {
        self.stuck.as_ref().map(|stuck| stuck.reason.as_str())
    }

    /// When a failed read is to be tried again.
    pub fn retry_at(&self) -> Option<Nanos> {
        self.stuck.as_ref().map(|stuck| stuck.retry_at)
    }

    /// An entry was applied, and came to this.
    pub fn applied(&mut self, index: LogIndex, batch: &BatchRef<'_>, outcome: Outcome) {
        if let Outcome::Written(SessionOutcome { first_seq, failed: None, .. }) = outcome {
            self.known.applied(batch, first_seq);
        }
        if index >= self.until {
            self.known.clear();
        }
    }

    /// A snapshot replaced the state.
    pub fn installed(&mut self) {
        self.known.clear();
        self.stuck = None;
        self.stale_jobs.extend(self.waiting.take().map(|waiting| waiting.job));
    }
}

impl<L: LogStore, S: StateMachine> Node<L, S> {
    /// The first condition of the entry that is applied next which does not hold; the outer `None`: memory cannot tell.
    pub(super) fn judge(&mut self, batch: &BatchRef<'_>) -> Option<Option<FailedCondition>> {
        if planted!(ConditionAtPropose) {
            return Some(None);
        }
        let verdict = self.verdict(batch).ok()?;
        self.conditions.stats.judged += 1;
        self.conditions.stats.failed += u64::from(verdict.is_some());
        Some(verdict)
    }

    fn verdict(&self, batch: &BatchRef<'_>) -> Result<Option<FailedCondition>, Undecided> {
        first_failed(batch, |key| match self.conditions.known.get(key) {
            Some(present) => Ok(present),
            None => match self.machine.get(key, None) {
                Ok(Lookup::Ready(found)) => Ok(found.map(|(seq, _)| seq)),
                Ok(Lookup::Disk(_)) if planted!(ConditionIgnoresTables) => Ok(None),
                // The job meets the fault again, and says what it was.
                Ok(Lookup::Disk(_)) | Err(_) => Err(Undecided),
            },
        })
    }

    /// What the leader would say now; the planted bug that takes it for the verdict.
    pub(super) fn judge_too_early(&self, batch: &BatchRef<'_>) -> Option<FailedCondition> {
        self.verdict(batch).ok().flatten()
    }

    /// Apply cannot go on before what the conditions of the first of `entries` ask for is read. So is what those of the
    /// others do.
    pub(super) fn look_up(&mut self, entries: Vec<Entry>) {
        let mut reads = BTreeMap::new();
        let mut until = LogIndex::ZERO;
        for entry in &entries {
            // One that is not a batch is found when it is its turn.
            let Ok(batch) = BatchRef::parse(&entry.payload) else { break };
            if reads.len() >= MAX_CONDITION_LOOKUPS {
                break;
            }
            until = entry.index;
            for condition in batch.conditions() {
                let key = condition.key;
                if reads.contains_key(key) || self.conditions.known.get(key).is_some() {
                    continue;
                }
                match self.machine.get(key, None) {
                    Ok(Lookup::Ready(_)) => {}
                    Ok(Lookup::Disk(read)) => drop(reads.insert(key.to_vec(), Ok(read))),
                    Err(fault) => drop(reads.insert(key.to_vec(), Err(fault))),
                }
            }
        }
        self.conditions.stats.lookups += 1;
        self.conditions.stats.keys += reads.len() as u64;
        let work = move || -> Found {
            let found = reads.into_iter().map(|(key, read)| {
                let found = read.and_then(|read| read())?;
                Ok((key, found.map(|(seq, _)| seq)))
            });
            found.collect()
        };
        let job = Box::new(move || Box::new(work()) as JobOutput);
        let job = self.env.jobs.submit(Lane::Read, job);
        self.conditions.until = self.conditions.until.max(until);
        self.conditions.waiting = Some(Waiting { job, entries });
    }

    /// Takes the completion of a lookup, and goes on where apply stands.
    pub(super) fn lookup_done(
        &mut self,
        now: Nanos,
        done: Completion,
        out: &mut Vec<Effect>,
    ) -> Result<Option<Completion>, FatalError> {
        if self.conditions.stale_jobs.remove(&done.id) {
            return Ok(None);
        }
        let Some(Waiting { entries, .. }) =
            self.conditions.waiting.take_if(|waiting| waiting.job == done.id)
        else {
            return Ok(Some(done));
        };
        match *done.output.downcast::<Found>().expect("the lookup job's output") {
            Ok(found) => {
                for (key, present) in found {
                    self.conditions.known.insert(key, present);
                }
                self.apply_entries(now, entries, out)?;
            }
            Err(fault) => {
                let reason = format!(
                    "nothing is applied: whether the conditions of entry {} hold cannot be read ({fault}). The entry is committed \
                     and cannot be skipped; other replicas go on. Mend the disk, or replace this member",
                    entries[0].index
                );
                log::error!("{reason}; next try in 1 s");
                self.conditions.stuck =
                    Some(Stuck { entries, retry_at: now.plus(RETRY_NS), reason });
            }
        }
        Ok(None)
    }

    /// Tries a failed read again when its time has come.
    pub(super) fn retry_lookup(&mut self, now: Nanos) {
        if self.phase == Phase::Closing {
            return;
        }
        if let Some(stuck) = self.conditions.stuck.take_if(|stuck| stuck.retry_at <= now) {
            self.look_up(stuck.entries);
        }
    }
}
