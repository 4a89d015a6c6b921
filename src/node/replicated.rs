//! [`Replicated`]: what the cluster knows about itself, kept in the replicated data: sessions and members.
//!
//! It lives in rows under [`RESERVED_KEY_PREFIX`], written by the same apply as user data, so that a flush, a replay, a
//! snapshot, and a checkpoint carry it with the data it belongs to (pitfalls 21, 26). In memory there is a mirror of the
//! rows for quick answers; [`Replicated::from_rows`] builds it at open and after an installed snapshot.
//!
//! | row | key | value |
//! |---|---|---|
//! | the members | `\x00beach\x00m` | index of the entry that said so (8), the membership |
//! | features in use | `\x00beach\x00f` | bits (8), as in HELLO between nodes |
//! | sessions and outcomes | `\x00beach\x00s…` | [`sessions`](super::sessions) |
//!
//! ```text
//!  entry ─► user's write, no session ─────────────────────────────► machine.apply(batch, no rows)
//!        ─► user's write of a session ─► judge ─┬─ new ───────────► machine.apply(batch, outcome row, deletes)
//!        │                                      └─ known, refused ► machine.apply(nothing)
//!        ─► a condition of it failed (`conditions`) ──────────────► machine.apply(no batch, outcome row, deletes)
//!        ─► REGISTER ─► evict, begin ─────────────────────────────► machine.apply(session row, deletes)
//!        ─► MEMBERSHIP ───────────────────────────────────────────► machine.apply(members row)
//! ```
//!
//! Invariant: what an entry comes to depends on the entries before it alone. Nothing here looks at a clock, at who
//! leads, or at who waits for an answer.

use super::sessions::{
    Refusal, RowError, SessionOutcome, SessionStats, SessionWrite, Sessions, Verdict,
};
use super::state_machine::{Applied, StateMachine};
use super::types::{EntryOutcome, FEATURE_CONDITIONS, FEATURE_RANGE_DELETES};
use crate::base::batch::{BatchRef, Op, RESERVED_KEY_PREFIX};
use crate::base::conditions::FailedCondition;
use crate::base::{InternalOp, LogIndex, Membership, MembershipHistory, SequenceNumber, Term};
use crate::limits::MAX_SESSION_WINDOW;
use crate::proto::{self, ConditionFailed, ErrorCode, ErrorReply, Registered, Response};
use bytes::Bytes;

/// The byte behind [`RESERVED_KEY_PREFIX`] in the key of the members.
const MEMBERS_ROW: u8 = b'm';
/// The byte behind [`RESERVED_KEY_PREFIX`] in the key of the features in use.
const FEATURES_ROW: u8 = b'f';

/// What applying an entry came to; the answer to the one who wrote it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// Its operations were applied, or a condition failed.
    Written(SessionOutcome),
    /// They had been applied by an earlier entry.
    Duplicate(SessionOutcome),
    /// They are not applied.
    Refused(SessionWrite, Refusal),
    /// A session began.
    Registered { client_id: u64, evicted: Option<u64>, applied: SequenceNumber },
    /// The members changed.
    Membership { index: LogIndex, seq: SequenceNumber },
}

impl Outcome {
    /// The reply to the one who wrote the entry.
    pub fn response(self) -> Response {
        match self {
            Self::Written(o) | Self::Duplicate(o) => {
                let SessionOutcome { index, first_seq, last_seq, failed } = o;
                match failed {
                    None => Response::Written { index, first_seq, last_seq },
                    Some(failed) => {
                        let at = ConditionFailed { index, applied: last_seq, failed };
                        Response::Error(ErrorReply::condition_failed(at))
                    }
                }
            }
            Self::Membership { index, seq } => {
                Response::Written { index, first_seq: seq, last_seq: seq }
            }
            Self::Registered { client_id, applied, .. } => {
                let window = MAX_SESSION_WINDOW.into();
                Response::Registered(Registered { client_id, applied, window })
            }
            Self::Refused(write, refusal) => refused(write, refusal),
        }
    }

    /// The same, for checkers.
    pub fn observed(self) -> EntryOutcome {
        match self {
            Self::Written(SessionOutcome { failed: Some(failed), .. }) => {
                EntryOutcome::ConditionFailed(failed)
            }
            Self::Written(SessionOutcome { first_seq, last_seq, .. }) => {
                EntryOutcome::Written { first_seq, last_seq }
            }
            Self::Duplicate(SessionOutcome { index, .. }) => EntryOutcome::Duplicate { index },
            Self::Refused(_, refusal) => EntryOutcome::Refused(code(refusal)),
            Self::Registered { client_id, evicted, .. } => {
                EntryOutcome::Registered { client_id, evicted }
            }
            Self::Membership { seq, .. } => EntryOutcome::Written { first_seq: seq, last_seq: seq },
        }
    }
}

const fn code(refusal: Refusal) -> ErrorCode {
    match refusal {
        Refusal::NeverIssued | Refusal::Unknown => ErrorCode::UnknownSession,
        Refusal::Stale { .. } => ErrorCode::SessionStale,
    }
}

/// The entry was not applied. But the effect is about the *write*, of which this entry may be one try of several: only
/// of an id that did not exist yet it is certain that no earlier try was applied.
fn refused(write: SessionWrite, refusal: Refusal) -> Response {
    let SessionWrite { client_id, sequence, .. } = write;
    let (effect, message) = match refusal {
        Refusal::NeverIssued => (
            proto::Effect::NotApplied,
            format!("session {client_id} was never registered; REGISTER gives out ids"),
        ),
        Refusal::Unknown => (
            proto::Effect::Unknown,
            format!(
                "session {client_id} is not known (any more): this try of write {sequence} was not applied, an earlier \
                 one may have been; REGISTER a new session"
            ),
        ),
        Refusal::Stale { acked_below } => (
            proto::Effect::Unknown,
            format!(
                "this try of write {sequence} of session {client_id} was not applied: the client has said that it needs \
                 no outcome below {acked_below}"
            ),
        ),
    };
    super::admission::error(code(refusal), effect, message)
}

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Replicated {
    sessions: Sessions,
    /// In force from some applied entry on.
    members: MembershipHistory,
    /// What entries of the log have used that not every software knows.
    features: u64,
    /// The rows of the entry that is being applied; kept for its memory.
    rows: Vec<InternalOp>,
}

impl Replicated {
    /// From all rows under the reserved prefix, in the order of their keys. `max_sessions` is the same on every replica.
    pub fn from_rows(max_sessions: usize, rows: &[(Vec<u8>, Bytes)]) -> Result<Self, RowError> {
        let mut members = MembershipHistory::default();
        let mut features = 0;
        for (key, value) in rows {
            match key.strip_prefix(RESERVED_KEY_PREFIX) {
                Some([MEMBERS_ROW]) => members.reset(decode_members(key, value)?),
                Some([super::sessions::SESSION_ROWS, ..]) => {}
                Some([FEATURES_ROW]) => match <[u8; 8]>::try_from(&value[..]) {
                    Ok(bits) => features = u64::from_be_bytes(bits),
                    Err(_) => {
                        return Err(RowError::new(
                            key,
                            format!("{} bytes, 8 are needed", value.len()),
                        ));
                    }
                },
                _ => return Err(RowError::new(key, "no row of this version has such a key")),
            }
        }
        let sessions = Sessions::from_rows(max_sessions, rows)?;
        Ok(Self { sessions, members, features, rows: Vec::new() })
    }

    /// Whether the entry's operations are applied if its conditions hold: it repeats nothing and is not refused.
    pub(super) fn takes(&self, index: LogIndex, batch: &BatchRef<'_>) -> bool {
        let write = SessionWrite::of(batch);
        write.is_none_or(|write| matches!(self.sessions.judge(index, write), Verdict::Apply))
    }

    /// What the log has used that not every software knows.
    pub(super) const fn features(&self) -> u64 {
        self.features
    }

    /// An entry that needs `feature` is applied: from now on every replica is known to have it.
    fn uses(&mut self, feature: u64) {
        if self.features & feature != feature {
            self.features |= feature;
            let bits = self.features.to_be_bytes();
            self.rows.push(InternalOp::put(&[FEATURES_ROW], bits.to_vec()));
        }
    }

    /// Applies one entry: decides what it comes to, and hands the machine its operations and rows together. `failed` is the
    /// condition of it that does not hold, if it [takes](Self::takes) the entry.
    pub(super) fn apply(
        &mut self,
        machine: &mut impl StateMachine,
        (index, term): (LogIndex, Term),
        batch: BatchRef<'_>,
        failed: Option<FailedCondition>,
    ) -> Result<Outcome, RowError> {
        if let Some(write) = SessionWrite::of(&batch) {
            return Ok(self.apply_session_write(machine, (index, term), batch, write, failed));
        }
        match batch.internal() {
            Some(Op::Register) => {
                let evicted = self.sessions.register(index, &mut self.rows);
                let applied = self.apply_rows(machine, (index, term));
                Ok(Outcome::Registered { client_id: index.0, evicted, applied })
            }
            Some(Op::Membership(encoded)) => {
                let row = [&index.0.to_be_bytes(), encoded].concat();
                let (set_at, membership) = decode_members(&[MEMBERS_ROW], &row)?;
                self.members.push(set_at, membership);
                self.rows.push(InternalOp::put(&[MEMBERS_ROW], row));
                let seq = self.apply_rows(machine, (index, term));
                Ok(Outcome::Membership { index, seq })
            }
            _ => {
                self.note_features(&batch);
                let user = Some(batch).filter(|_| failed.is_none());
                let Applied { first_seq, last_seq } = machine.apply(index, term, user, &self.rows);
                self.rows.clear();
                Ok(Outcome::Written(SessionOutcome { index, first_seq, last_seq, failed }))
            }
        }
    }

    /// The first batch that needs a feature says so in a row: from then on nobody asks whether every member has it.
    fn note_features(&mut self, batch: &BatchRef<'_>) {
        if batch.has_conditions() {
            self.uses(FEATURE_CONDITIONS);
        }
        if batch.has_range_deletes() {
            self.uses(FEATURE_RANGE_DELETES);
        }
    }

    fn apply_session_write(
        &mut self,
        machine: &mut impl StateMachine,
        (index, term): (LogIndex, Term),
        batch: BatchRef<'_>,
        write: SessionWrite,
        failed: Option<FailedCondition>,
    ) -> Outcome {
        let outcome = match self.sessions.judge(index, write) {
            Verdict::Apply => {
                // The row says what the machine is about to answer.
                let last = machine.last_seq().0;
                let user = Some(batch).filter(|_| failed.is_none());
                let ops = user.map_or(0, |batch| batch.len() as u64);
                let outcome = SessionOutcome {
                    index,
                    first_seq: SequenceNumber(last + 1),
                    last_seq: SequenceNumber(last + ops),
                    failed,
                };
                if failed.is_none() || !planted!(FailureForgotten) {
                    self.sessions.written(write, outcome, &mut self.rows);
                }
                self.note_features(&batch);
                let applied = machine.apply(index, term, user, &self.rows);
                self.rows.clear();
                assert_eq!(
                    (applied.first_seq, applied.last_seq),
                    (outcome.first_seq, outcome.last_seq),
                    "the sequence numbers of entry {index}"
                );
                return Outcome::Written(outcome);
            }
            Verdict::Duplicate(outcome) => Outcome::Duplicate(outcome),
            Verdict::Refused(_) if planted!(EvictedApplied) => {
                let Applied { first_seq, last_seq } = machine.apply(index, term, Some(batch), &[]);
                return Outcome::Written(SessionOutcome {
                    index,
                    first_seq,
                    last_seq,
                    failed: None,
                });
            }
            Verdict::Refused(refusal) => Outcome::Refused(write, refusal),
        };
        self.apply_rows(machine, (index, term));
        outcome
    }

    /// Applies an entry without operations of a user; the sequence number of its last row.
    fn apply_rows(
        &mut self,
        machine: &mut impl StateMachine,
        (index, term): (LogIndex, Term),
    ) -> SequenceNumber {
        machine.apply(index, term, None, &self.rows);
        self.rows.clear();
        machine.last_seq()
    }

    /// A snapshot with these rows replaced the state.
    pub(super) fn installed(
        &mut self,
        membership: (LogIndex, Membership),
        rows: &[(Vec<u8>, Bytes)],
    ) -> Result<(), RowError> {
        let rows = if planted!(SessionsNotInstalled) { &[] } else { rows };
        *self = Self::from_rows(self.sessions.max_sessions(), rows)?;
        self.members.reset(membership);
        Ok(())
    }

    /// What was in force before the first entry that says so, for a data directory without a row of members.
    pub(super) fn bootstrap(&mut self, membership: (LogIndex, Membership)) {
        if self.members.newest().is_none() {
            self.members.reset(membership);
        }
    }

    /// A blank node begins as one of these first members.
    pub(super) fn begin(&mut self, first: Membership) {
        self.members.reset((LogIndex::ZERO, first));
    }

    /// The membership in force at an applied entry, at or above the one last [released](Self::release_members).
    pub(super) fn members_at(&self, index: LogIndex) -> Option<&(LogIndex, Membership)> {
        self.members.at(index).or_else(|| self.members.oldest())
    }

    /// Nobody asks for the membership at an entry below `index` again.
    pub(super) fn release_members(&mut self, index: LogIndex) {
        self.members.release(index);
    }

    pub(super) fn session_stats(&self) -> SessionStats {
        self.sessions.stats()
    }
}

fn decode_members(key: &[u8], value: &[u8]) -> Result<(LogIndex, Membership), RowError> {
    let Some((index, encoded)) = value.split_first_chunk::<8>() else {
        return Err(RowError::new(key, format!("{} bytes, at least 8 are needed", value.len())));
    };
    let membership = Membership::decode(encoded).map_err(|e| RowError::new(key, e.to_string()))?;
    Ok((LogIndex(u64::from_be_bytes(*index)), membership))
}
