//! [`Sessions`]: what an entry must come to by the rules of sessions, from nothing but the log and the number of sessions
//! that have room. Nothing of a node is believed: not that a write is refused, not which session makes room.
//!
//! | entry | outcome |
//! |---|---|
//! | REGISTER | registered under its index; the session goes whose last use (its registration, or the last write applied in its name) is the oldest, if all places are taken |
//! | a write of a session that is not there | refused: unknown |
//! | … below what its client has acknowledged | refused: stale |
//! | … with a sequence that was applied | a duplicate of that entry |
//! | any other | written |

use crate::sim::hooks::{Verdict, Violation};
use beachdb::base::LogIndex;
use beachdb::base::batch::{BatchRef, Op};
use beachdb::limits::MAX_SESSIONS;
use beachdb::node::EntryOutcome;
use beachdb::proto::ErrorCode;
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
struct Session {
    last_used: LogIndex,
    acked_below: u64,
    /// Where each sequence that is not acknowledged was applied.
    applied: BTreeMap<u64, LogIndex>,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Sessions {
    most: usize,
    by_id: BTreeMap<u64, Session>,
}

impl Default for Sessions {
    fn default() -> Self {
        Self::new(MAX_SESSIONS)
    }
}

/// What an entry must come to; the sequence numbers of a write are judged elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Expected {
    Written,
    Is(EntryOutcome),
}

impl Sessions {
    /// At most `most` at once.
    #[must_use]
    pub const fn new(most: usize) -> Self {
        Self { most, by_id: BTreeMap::new() }
    }

    /// The next entry of the log came to `outcome`.
    pub fn check(
        &mut self,
        index: LogIndex,
        batch: BatchRef<'_>,
        outcome: EntryOutcome,
    ) -> Verdict {
        let expected = self.apply(index, batch);
        let fits = match expected {
            // Which of the two is for the conditions to say; a failed one is remembered like a written one.
            Expected::Written => {
                matches!(outcome, EntryOutcome::Written { .. } | EntryOutcome::ConditionFailed(_))
            }
            Expected::Is(expected) => outcome == expected,
        };
        if fits {
            return Ok(());
        }
        let (id, sequence) = (batch.client_id(), batch.client_sequence());
        let what = format!(
            "entry {index} (session {id}, sequence {sequence}) came to {outcome:?}, expected {expected:?}; \
             last use of the sessions: {:?}",
            self.by_id.iter().map(|(id, s)| (*id, s.last_used.0)).collect::<Vec<_>>()
        );
        Err(Violation::new("session-rules", what))
    }

    fn apply(&mut self, index: LogIndex, batch: BatchRef<'_>) -> Expected {
        match batch.client_id() {
            0 if matches!(batch.ops().next(), Some(Op::Register)) => {
                let evicted = self.register(index);
                Expected::Is(EntryOutcome::Registered { client_id: index.0, evicted })
            }
            0 => Expected::Written,
            id => self.write(index, id, batch.client_sequence(), batch.acked_below()),
        }
    }

    fn register(&mut self, index: LogIndex) -> Option<u64> {
        let oldest = self.by_id.iter().min_by_key(|(_, s)| s.last_used).map(|(id, _)| *id);
        let evicted = oldest.filter(|_| self.by_id.len() >= self.most);
        if let Some(id) = evicted {
            self.by_id.remove(&id);
        }
        let session = Session { last_used: index, acked_below: 0, applied: BTreeMap::new() };
        self.by_id.insert(index.0, session);
        evicted
    }

    fn write(&mut self, index: LogIndex, id: u64, sequence: u64, acked_below: u64) -> Expected {
        let Some(session) = self.by_id.get_mut(&id) else {
            return Expected::Is(EntryOutcome::Refused(ErrorCode::UnknownSession));
        };
        if sequence < session.acked_below {
            return Expected::Is(EntryOutcome::Refused(ErrorCode::SessionStale));
        }
        if let Some(first) = session.applied.get(&sequence) {
            return Expected::Is(EntryOutcome::Duplicate { index: *first });
        }
        session.last_used = index;
        session.acked_below = session.acked_below.max(acked_below);
        session.applied.insert(sequence, index);
        session.applied = session.applied.split_off(&session.acked_below);
        Expected::Written
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use beachdb::base::SequenceNumber;
    use beachdb::base::batch::WriteBatch;

    fn write(id: u64, sequence: u64, acked_below: u64) -> Vec<u8> {
        let mut batch = WriteBatch::new();
        batch.set_client(id, sequence, acked_below);
        batch.put(b"k", b"v").expect("small");
        batch.into_bytes()
    }

    const WRITTEN: EntryOutcome =
        EntryOutcome::Written { first_seq: SequenceNumber(1), last_seq: SequenceNumber(1) };
    const UNKNOWN: EntryOutcome = EntryOutcome::Refused(ErrorCode::UnknownSession);

    fn registered(client_id: u64, evicted: Option<u64>) -> EntryOutcome {
        EntryOutcome::Registered { client_id, evicted }
    }

    fn check(sessions: &mut Sessions, index: u64, bytes: &[u8], outcome: EntryOutcome) -> Verdict {
        sessions.check(LogIndex(index), BatchRef::parse(bytes).expect("a batch"), outcome)
    }

    /// Two places, sessions 1 and 2; 1 wrote last.
    fn two() -> Sessions {
        let mut sessions = Sessions::new(2);
        let register = WriteBatch::register().into_bytes();
        for (index, id) in [(1, 1), (2, 2)] {
            assert_eq!(check(&mut sessions, index, &register, registered(id, None)), Ok(()));
        }
        assert_eq!(check(&mut sessions, 3, &write(1, 1, 1), WRITTEN), Ok(()));
        sessions
    }

    #[test]
    fn the_session_that_was_used_least_lately_makes_room_and_no_other() {
        let register = WriteBatch::register().into_bytes();
        assert_eq!(check(&mut two(), 4, &register, registered(4, Some(2))), Ok(()));
        for wrong in [registered(4, Some(1)), registered(4, None), registered(5, Some(2)), WRITTEN]
        {
            let rule = check(&mut two(), 4, &register, wrong).map_err(|v| v.rule);
            assert_eq!(rule, Err("session-rules".to_owned()), "{wrong:?}");
        }
    }

    #[test]
    fn a_registered_session_is_not_refused_and_one_that_made_room_is() {
        assert!(check(&mut two(), 4, &write(2, 1, 1), UNKNOWN).is_err());
        let mut sessions = two();
        let register = WriteBatch::register().into_bytes();
        assert_eq!(check(&mut sessions, 4, &register, registered(4, Some(2))), Ok(()));
        assert_eq!(check(&mut sessions, 5, &write(2, 1, 1), UNKNOWN), Ok(()));
        assert!(check(&mut sessions, 6, &write(2, 1, 1), WRITTEN).is_err());
    }

    #[test]
    fn a_repeated_write_is_a_duplicate_until_it_is_acknowledged_and_then_stale() {
        let mut sessions = two();
        let duplicate = EntryOutcome::Duplicate { index: LogIndex(3) };
        assert_eq!(check(&mut sessions, 4, &write(1, 1, 1), duplicate), Ok(()));
        assert!(check(&mut two(), 4, &write(1, 1, 1), WRITTEN).is_err());
        assert_eq!(check(&mut sessions, 5, &write(1, 2, 2), WRITTEN), Ok(()));
        let stale = EntryOutcome::Refused(ErrorCode::SessionStale);
        assert_eq!(check(&mut sessions, 6, &write(1, 1, 1), stale), Ok(()));
        assert!(check(&mut sessions, 7, &write(1, 1, 1), duplicate).is_err());
    }
}
