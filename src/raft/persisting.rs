//! Which [`Persist`](super::Persist)s are on their way to the disk, and what each one proves when it completes.
//!
//! Invariant: a proof never speaks of an entry that is not in the log any more. A truncation cuts all proofs in flight
//! down to what stays, so that the completion of an old write never acknowledges a newer entry at the same index
//! (pitfall 16, the ABA of asynchronous appends); what an old leader's write and the log still share is proved by it.

use super::IoId;
use crate::base::{LogIndex, Nanos, Term};
use std::collections::VecDeque;

/// What the completion of one [`Persist`](super::Persist) proves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Proof {
    /// The term it was issued in. A vote counts in its own term only.
    pub term: Term,
    /// The log is durable up to here.
    pub last: LogIndex,
    /// The first index that it writes or truncates; `None` when it holds no entries.
    pub first: Option<LogIndex>,
    /// It holds the hard state.
    pub hard_state: bool,
    /// This node's vote for itself in `term` is durable.
    pub vote: bool,
}

/// What a completion proved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Proved {
    /// The log is durable up to here.
    pub last: LogIndex,
    /// This node's vote for itself in the current term is durable.
    pub vote: bool,
}

#[derive(Debug)]
struct InFlight {
    io: IoId,
    issued_at: Nanos,
    proof: Proof,
}

/// The persists in flight, oldest first.
#[derive(Debug, Default)]
pub(super) struct Persisting {
    issued: IoId,
    in_flight: VecDeque<InFlight>,
}

impl Persisting {
    /// Issues the next id.
    pub fn issue(&mut self, now: Nanos, proof: Proof) -> IoId {
        self.issued = IoId(self.issued.0 + 1);
        self.in_flight.push_back(InFlight { io: self.issued, issued_at: now, proof });
        self.issued
    }

    /// Everything up to `io` completed. `None` when that proves nothing new.
    pub fn complete(&mut self, io: IoId, term: Term) -> Option<Proved> {
        assert!(io <= self.issued, "{io} completed, but only {} was issued", self.issued);
        let mut proved: Option<Proved> = None;
        while let Some(InFlight { proof, .. }) = self.in_flight.pop_front_if(|f| f.io <= io) {
            let before = proved.unwrap_or(Proved { last: LogIndex::ZERO, vote: false });
            let vote = before.vote || (proof.vote && proof.term == term);
            proved = Some(Proved { last: before.last.max(proof.last), vote });
        }
        proved
    }

    /// The log now ends at `last`: nothing above it is proved by what is in flight.
    pub fn truncated(&mut self, last: LogIndex) {
        if planted!(OldWriteProvesNew) {
            return;
        }
        for InFlight { proof, .. } in &mut self.in_flight {
            proof.last = proof.last.min(last);
        }
    }

    /// What a message must wait for that tells the term or the vote.
    pub fn gate_for_hard_state(&self) -> Option<IoId> {
        self.newest(|proof| proof.hard_state)
    }

    /// What a message must wait for that says "I have your entries up to `matched`" in this term.
    pub fn gate_for_log(&self, matched: LogIndex) -> Option<IoId> {
        self.newest(|p| p.hard_state || p.first.is_some_and(|first| first <= matched))
    }

    /// When the oldest persist in flight was issued (pitfall 20).
    pub fn oldest(&self) -> Option<Nanos> {
        self.in_flight.front().map(|f| f.issued_at)
    }

    fn newest(&self, wanted: impl Fn(&Proof) -> bool) -> Option<IoId> {
        self.in_flight.iter().rev().find(|f| wanted(&f.proof)).map(|f| f.io)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proof(term: u64, first: u64, last: u64) -> Proof {
        Proof {
            term: Term(term),
            last: LogIndex(last),
            first: Some(LogIndex(first)),
            hard_state: false,
            vote: false,
        }
    }

    fn vote(term: u64, last: u64) -> Proof {
        Proof { first: None, hard_state: true, vote: true, ..proof(term, 0, last) }
    }

    #[test]
    fn pitfall_16_an_old_terms_completion_acknowledges_nothing_at_the_same_index() {
        let mut persisting = Persisting::default();
        let old = persisting.issue(Nanos(1), proof(1, 4, 5));
        // In term 2 the entries from 4 are truncated and another 4..=5 written in their place.
        persisting.truncated(LogIndex(3));
        let new = persisting.issue(Nanos(2), proof(2, 4, 5));
        let at = |index| Some(Proved { last: LogIndex(index), vote: false });
        assert_eq!(persisting.complete(old, Term(2)), at(3), "what was not truncated");
        assert_eq!(persisting.complete(new, Term(2)), at(5));
    }

    #[test]
    fn a_vote_counts_in_its_own_term_only() {
        let mut persisting = Persisting::default();
        let first = persisting.issue(Nanos(1), vote(1, 7));
        let proved = |vote| Some(Proved { last: LogIndex(7), vote });
        assert_eq!(persisting.complete(first, Term(2)), proved(false));
        let second = persisting.issue(Nanos(1), vote(2, 7));
        assert_eq!(persisting.complete(second, Term(2)), proved(true));
    }

    #[test]
    fn completions_cover_all_ids_before_them_once() {
        let mut persisting = Persisting::default();
        let a = persisting.issue(Nanos(1), vote(1, 0));
        let b = persisting.issue(Nanos(2), proof(1, 1, 3));
        assert_eq!(persisting.oldest(), Some(Nanos(1)));
        let both = Proved { last: LogIndex(3), vote: true };
        assert_eq!(persisting.complete(b, Term(1)), Some(both), "a's vote and b's entries");
        assert_eq!(persisting.complete(b, Term(1)), None);
        assert_eq!(persisting.complete(a, Term(1)), None);
        assert_eq!(persisting.oldest(), None);
    }

    #[test]
    fn an_acknowledgement_waits_only_for_what_it_says() {
        let mut persisting = Persisting::default();
        assert_eq!(persisting.gate_for_log(LogIndex(9)), None);
        let hard = persisting.issue(Nanos(1), vote(1, 3));
        let four = persisting.issue(Nanos(1), proof(1, 4, 6));
        let seven = persisting.issue(Nanos(1), proof(1, 7, 9));
        assert_eq!(persisting.gate_for_hard_state(), Some(hard));
        assert_eq!(persisting.gate_for_log(LogIndex(3)), Some(hard));
        assert_eq!(persisting.gate_for_log(LogIndex(4)), Some(four));
        assert_eq!(persisting.gate_for_log(LogIndex(6)), Some(four));
        assert_eq!(persisting.gate_for_log(LogIndex(7)), Some(seven));
        persisting.complete(four, Term(1));
        assert_eq!(persisting.gate_for_hard_state(), None);
        assert_eq!(persisting.gate_for_log(LogIndex(6)), None);
    }

    #[test]
    #[should_panic(expected = "io 7 completed, but only io 0 was issued")]
    fn an_id_that_was_never_issued_is_the_drivers_mistake() {
        Persisting::default().complete(IoId(7), Term(1));
    }
}
