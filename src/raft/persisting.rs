//! Which [`Persist`](super::Persist)s are on their way to the disk, and what each one proves when it completes.

use super::IoId;
use crate::base::{LogIndex, Term};
use std::collections::VecDeque;

/// What the completion of one [`Persist`](super::Persist) proves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Proof {
    /// It was issued in this term; in another one it proves nothing about the log (pitfall 16: by then another
    /// leader's entries may stand at the same indexes).
    pub term: Term,
    /// The log is durable up to here.
    pub last: LogIndex,
    /// This node's vote in `term` is durable.
    pub vote: bool,
}

/// The persists in flight, oldest first.
#[derive(Debug, Default)]
pub(super) struct Persisting {
    issued: IoId,
    in_flight: VecDeque<(IoId, Proof)>,
}

impl Persisting {
    /// Issues the next id.
    pub fn issue(&mut self, proof: Proof) -> IoId {
        self.issued = IoId(self.issued.0 + 1);
        self.in_flight.push_back((self.issued, proof));
        self.issued
    }

    /// Everything up to `io` completed. Returns what that proves in `term`; `None` when it proves nothing: the id
    /// was completed before, or nothing completed belongs to `term`.
    pub fn complete(&mut self, io: IoId, term: Term) -> Option<Proof> {
        assert!(io <= self.issued, "{io} completed, but only {} was issued", self.issued);
        let mut proved: Option<Proof> = None;
        while let Some((_, proof)) = self.in_flight.pop_front_if(|(id, _)| *id <= io) {
            if proof.term == term {
                let vote = proof.vote || proved.is_some_and(|p| p.vote);
                proved = Some(Proof { vote, ..proof });
            }
        }
        proved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proof(term: u64, last: u64, vote: bool) -> Proof {
        Proof { term: Term(term), last: LogIndex(last), vote }
    }

    #[test]
    fn pitfall_16_an_old_terms_completion_acknowledges_nothing_at_the_same_index() {
        let mut persisting = Persisting::default();
        let old = persisting.issue(proof(1, 5, false));
        // In term 2 the entries from 4 were truncated and another 4..=5 written in their place.
        let new = persisting.issue(proof(2, 5, false));
        assert_eq!(persisting.complete(old, Term(2)), None);
        assert_eq!(persisting.complete(new, Term(2)), Some(proof(2, 5, false)));
    }

    #[test]
    fn completions_cover_all_ids_before_them_once() {
        let mut persisting = Persisting::default();
        let a = persisting.issue(proof(1, 0, true));
        let b = persisting.issue(proof(1, 3, false));
        assert_eq!(
            persisting.complete(b, Term(1)),
            Some(proof(1, 3, true)),
            "a's vote and b's entries"
        );
        assert_eq!(persisting.complete(b, Term(1)), None);
        assert_eq!(persisting.complete(a, Term(1)), None);
    }

    #[test]
    #[should_panic(expected = "io 7 completed, but only io 0 was issued")]
    fn an_id_that_was_never_issued_is_the_drivers_mistake() {
        Persisting::default().complete(IoId(7), Term(1));
    }
}
