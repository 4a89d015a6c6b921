//! Old entries for followers: [`raft::Effect::Fetch`] becomes a job in [`Lane::Read`], and its result an
//! [`raft::Event::Fetched`].
//!
//! The log reads back only what is durable in it, and what left memory is not told from what is not durable yet:
//! [`Durable`] follows the persists, so that a job never asks for more.
//!
//! What cannot be read back is given up, if the state machine holds it durably: raft then finds it released, and asks for a
//! snapshot, which holds it.

use super::{Effect, Node, StateMachine};
use crate::base::{LogIndex, Nanos, ReplicaId};
use crate::env::{Completion, JobId, Lane};
use crate::raft::{self, Entry, IoId, LogStore, Persist, Role};
use std::collections::{BTreeMap, VecDeque};

/// The end of what is durable of the log as it stands.
#[derive(Debug)]
pub(super) struct Durable {
    to: LogIndex,
    /// On their way: where the log ends when each is through.
    pending: VecDeque<(IoId, LogIndex)>,
}

impl Durable {
    /// A log that ends at `last`, all of it durable.
    pub const fn new(last: LogIndex) -> Self {
        Self { to: last, pending: VecDeque::new() }
    }

    /// All entries up to this one are durable.
    pub const fn to(&self) -> LogIndex {
        self.to
    }

    /// This is about to be submitted.
    pub fn submitted(&mut self, persist: &Persist) {
        if let Some(from) = persist.truncate_from {
            self.cut(from.prev());
        }
        if let Some(last) = persist.entries.last() {
            self.pending.push_back((persist.io, last.index));
        }
    }

    /// The log was cut behind `last`.
    fn cut(&mut self, last: LogIndex) {
        self.to = self.to.min(last);
        for (_, end) in &mut self.pending {
            *end = (*end).min(last);
        }
    }

    /// Everything up to `io` is through.
    pub fn persisted(&mut self, io: IoId) {
        while let Some((_, end)) = self.pending.pop_front_if(|(id, _)| *id <= io) {
            self.to = self.to.max(end);
        }
    }

    /// The log begins anew behind `baseline`: what is on its way counts for nothing.
    pub fn reset(&mut self, baseline: LogIndex) {
        self.pending.clear();
        self.to = baseline;
    }
}

/// A fetch on its way.
#[derive(Clone, Copy, Debug)]
struct Fetch {
    to: ReplicaId,
    session: u64,
    lo: LogIndex,
}

/// Fetches on their way; raft asks for one at a time for each follower.
#[derive(Debug, Default)]
pub(super) struct Fetches(BTreeMap<JobId, Fetch>);

impl<L: LogStore, S: StateMachine> Node<L, S> {
    /// Raft wants these entries for a follower.
    pub(super) fn fetch(
        &mut self,
        (to, session): (ReplicaId, u64),
        (lo, hi): (LogIndex, LogIndex),
        max_bytes: usize,
    ) {
        let end = hi.min(self.durable.to());
        if lo < self.log.first_index() || end < lo {
            let entries = self.log.entries(lo, hi, max_bytes);
            self.raft_next.push_back(raft::Event::Fetched { to, session, entries });
            return;
        }
        let read = self.log.read_job(lo, end, max_bytes);
        let job = self.env.jobs.submit(Lane::Read, Box::new(move || Box::new(read())));
        self.fetches.0.insert(job, Fetch { to, session, lo });
    }

    /// Takes the completion of a fetch.
    pub(super) fn fetch_done(
        &mut self,
        now: Nanos,
        done: Completion,
        out: &mut Vec<Effect>,
    ) -> Option<Completion> {
        let Some(Fetch { to, session, lo }) = self.fetches.0.remove(&done.id) else {
            return Some(done);
        };
        let read = *done
            .output
            .downcast::<Result<Vec<Entry>, L::Error>>()
            .expect("the output of a read of the log");
        let entries = match read {
            Ok(entries) => Some(entries),
            Err(e) => {
                self.unreadable(lo, to, &e, out);
                None
            }
        };
        self.step_raft(now, raft::Event::Fetched { to, session, entries }, out);
        None
    }

    /// The entries from `lo` on were not read. Where they are not gone by the rules, a snapshot must take their place; until
    /// there is one that holds `lo`, raft asks again at every heartbeat.
    fn unreadable(&mut self, lo: LogIndex, to: ReplicaId, error: &L::Error, out: &mut Vec<Effect>) {
        if lo < self.log.first_index() || self.raft.role() != Role::Leader {
            return;
        }
        if lo <= self.machine.durable_applied().0 {
            log::warn!("entries from {lo} for {to}: {error}; it is sent a snapshot instead");
            self.release_through(lo, out);
        } else {
            log::warn!("entries from {lo} for {to}: {error}; a snapshot of them is made first");
            self.sender.wants_flush |= lo <= self.machine.applied().0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Term;

    fn persist(
        io: u64,
        truncate_from: Option<u64>,
        entries: std::ops::RangeInclusive<u64>,
    ) -> Persist {
        let entry = |n| Entry { index: LogIndex(n), term: Term(1), payload: bytes::Bytes::new() };
        Persist {
            io: IoId(io),
            hard_state: None,
            truncate_from: truncate_from.map(LogIndex),
            entries: entries.map(entry).collect(),
        }
    }

    #[test]
    fn what_is_durable_grows_with_syncs_and_shrinks_with_truncations_before_theirs() {
        let mut durable = Durable::new(LogIndex(3));
        durable.submitted(&persist(1, None, 4..=6));
        durable.submitted(&persist(2, None, 7..=9));
        assert_eq!(durable.to(), LogIndex(3));
        durable.persisted(IoId(1));
        assert_eq!(durable.to(), LogIndex(6));
        durable.submitted(&persist(3, Some(5), 5..=7));
        assert_eq!(durable.to(), LogIndex(4), "5 and 6 are others now");
        durable.persisted(IoId(2));
        assert_eq!(durable.to(), LogIndex(4), "7 to 9 were cut before they were through");
        durable.persisted(IoId(3));
        assert_eq!(durable.to(), LogIndex(7));
        durable.submitted(&persist(4, None, 8..=8));
        durable.reset(LogIndex(20));
        durable.persisted(IoId(4));
        assert_eq!(durable.to(), LogIndex(20));
    }
}
