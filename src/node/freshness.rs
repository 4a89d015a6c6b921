//! How old the state is that a stale read sees: the time since this node last knew that it had applied everything that
//! its leader had committed.
//!
//! A follower hears the leader's commit index with every append and heartbeat. It was up to date at that moment if it has
//! applied that far now, and if the leader knew what is committed: the entry at that index is of the leader's own term. A
//! leader was up to date when it sent the last round that a majority has confirmed; a lone voter always is.
//!
//! ```text
//!   heard (100, 5 s) ─► applied 100 ─► at 9 s the age is 4 s        heard (100), (130), (170)…, applied 110 ─► the age of the
//!                                                                   oldest one that is reached
//! ```
//!
//! Invariant: the state holds everything that was committed, as far as the leader of that moment knew, when the age began. The
//! age counts from a moment when the word had not arrived yet: the driver's last look at the socket that found nothing more
//! ([`Event::Peer`](super::Event::Peer)). So a pause of this process is in the age, and so is the time between two looks.
//!
//! What it does not do: the word's way through the network is not in the age. It says nothing of what another leader has
//! committed that this node has not heard of: a leader that is cut off together with this node keeps the age small until it
//! finds that it has no majority, an election timeout later.

use super::{Node, StateMachine};
use crate::base::{LogIndex, Nanos, Term};
use crate::proto::response::Staleness;
use crate::raft::{LogStore, Role};

/// What a leader said.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    pub term: Term,
    pub commit: LogIndex,
    pub at: Nanos,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Freshness {
    /// The oldest word that was not reached when it came, and the newest one. One of both may be missing.
    waiting: Option<Told>,
    newest: Option<Told>,
    /// When the state held everything, for the last time that is known.
    at: Option<Nanos>,
}

impl Freshness {
    fn told(&mut self, told: Told) {
        self.newest = Some(told);
        // What a deposed leader said may never be reached.
        if self.waiting.is_none_or(|waiting| waiting.term < told.term) {
            self.waiting = Some(told);
        }
    }

    fn look(&mut self, reached: impl Fn(&Told) -> bool) {
        for told in [self.newest, self.waiting].into_iter().flatten() {
            if reached(&told) {
                self.fresh(told.at);
                self.waiting = self.newest.take_if(|newest| newest.at > told.at);
                return;
            }
        }
    }

    /// How long ago that was.
    pub fn age_ms(&self, now: Nanos) -> Option<u64> {
        self.at.map(|at| now.since(at) / 1_000_000)
    }

    fn fresh(&mut self, at: Nanos) {
        self.at = self.at.max(Some(at));
    }
}

impl<L: LogStore, S: StateMachine> Node<L, S> {
    /// The leader of `term` has committed up to `commit`; its word arrived not before `after`.
    pub(super) fn leader_said(&mut self, now: Nanos, after: Nanos, term: Term, commit: LogIndex) {
        self.freshness.told(Told { term, commit, at: after });
        self.look_for_freshness(now);
    }

    /// Looks whether what was heard is reached by now.
    pub(super) fn look_for_freshness(&mut self, now: Nanos) {
        let applied = self.machine.applied().0;
        if self.raft.role() == Role::Leader {
            let confirmed = self.raft.confirmed_at(now);
            if let Some(at) = confirmed.filter(|_| applied >= self.raft.commit()) {
                self.freshness.fresh(at);
            }
            return;
        }
        let log = &self.log;
        self.freshness
            .look(|told| applied >= told.commit && log.term(told.commit) == Some(told.term));
    }

    /// What a stale read that is answered now sees.
    pub(super) fn staleness(&mut self, now: Nanos) -> Staleness {
        self.look_for_freshness(now);
        Staleness { applied_index: self.machine.applied().0, age_ms: self.freshness.age_ms(now) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(term: u64, commit: u64, at: u64) -> Told {
        Told { term: Term(term), commit: LogIndex(commit), at: Nanos(at) }
    }

    #[test]
    fn a_state_that_runs_behind_is_as_fresh_as_the_oldest_word_it_has_reached() {
        let mut freshness = Freshness::default();
        let look = |freshness: &mut Freshness, applied: u64| {
            freshness.look(|told| told.commit.0 <= applied);
            freshness.at.map(|at| at.0)
        };
        assert_eq!(look(&mut freshness, 0), None, "nothing was heard");
        freshness.told(told(1, 10, 100));
        assert_eq!(look(&mut freshness, 5), None);
        for n in 1..=50 {
            freshness.told(told(1, 10 + n, 100 + n));
        }
        assert_eq!(look(&mut freshness, 10), Some(100), "the first word, not the last");
        assert_eq!(look(&mut freshness, 59), Some(100));
        assert_eq!(look(&mut freshness, 60), Some(150), "the newest");
        freshness.told(told(1, 60, 300));
        assert_eq!(look(&mut freshness, 60), Some(300), "an idle leader's heartbeat");
    }

    #[test]
    fn what_a_deposed_leader_said_is_not_waited_for() {
        let mut freshness = Freshness::default();
        freshness.told(told(1, 90, 100));
        freshness.told(told(2, 20, 200));
        freshness.look(|told| told.term == Term(2));
        assert_eq!(freshness.at, Some(Nanos(200)));
    }
}
