//! [`Sessions`]: which writes of which client were applied, so that a retry is answered and not applied again.
//!
//! A client registers once (a log entry, whose index is its id) and numbers its writes. Every replica keeps, for each
//! session, the outcomes of the writes that the client may still ask about. Whether an entry is applied, answered from
//! an outcome, or refused is decided here, at apply, from nothing but the log: all replicas decide the same.
//!
//! ```text
//!  sequence:   … 6   7   8 │ 9   10   11   12 │ 13 …
//!                          │ └ outcomes kept ┘
//!              stale: the  │                  │  new: applied, and its outcome kept, as long as the
//!              client said └ acked below      │  header's window (sequence − acked below) is in bounds
//!              it has it                       (gaps are writes still on their way: pipelined, out of order)
//! ```
//!
//! | row | key | value |
//! |---|---|---|
//! | a session | `\x00beach\x00s`, id (8) | version (1) |
//! | an outcome | `\x00beach\x00s`, id (8), sequence (8) | version, kind (1 each), window (2), 0 or the failed condition (4), index (8), first or the key's present (8), last sequence number (8) |
//!
//! Normative: `proto-spec/batch.md`, *Rows under the reserved prefix*.
//!
//! Invariants:
//! - What is in memory is a function of the rows, and the rows change in the same apply as the data
//!   ([`Sessions::from_rows`] at open and after an installed snapshot). Therefore a duplicate changes nothing at all, and
//!   *acked below* is the highest that an outcome's own write said: the outcome that said it is only dropped for a
//!   later one that says more.
//! - An id is known or it is not: an evicted one is never known again, since ids are log indexes.
//! - At most `max_sessions`, each with at most [`MAX_SESSION_WINDOW`] outcomes. To make room the session goes whose last
//!   use (its registration, or the last write applied in its name) has the lowest log index. Two never have the same.
//!
//! What it does not do: look at clocks (a session does not expire by time), or compare the operations of a retry with
//! those of the write it repeats (a client that uses a sequence twice gets the first one's outcome).

use crate::base::batch::{BatchRef, RESERVED_KEY_PREFIX};
use crate::base::conditions::FailedCondition;
use crate::base::{InternalOp, LogIndex, SequenceNumber};
use crate::limits::{MAX_BATCH_CONDITIONS, MAX_SESSION_WINDOW, MAX_SESSIONS};
use byteorder::{BigEndian, ByteOrder};
use bytes::Bytes;
use std::collections::BTreeMap;

/// The byte behind [`RESERVED_KEY_PREFIX`] in the keys of sessions and outcomes.
pub(super) const SESSION_ROWS: u8 = b's';
const ROW_VERSION: u8 = 1;
const KIND_WRITTEN: u8 = 1;
const KIND_CONDITION_FAILED: u8 = 2;
const SESSION_KEY_BYTES: usize = RESERVED_KEY_PREFIX.len() + 9;
const OUTCOME_KEY_BYTES: usize = SESSION_KEY_BYTES + 8;
const OUTCOME_BYTES: usize = 32;

/// What a write of a session came to: the answer that every retry gets. When a condition failed there are no operations, and the
/// first sequence number is one more than the last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionOutcome {
    /// The entry that was applied.
    pub index: LogIndex,
    /// The sequence number of its first operation.
    pub first_seq: SequenceNumber,
    /// The sequence number of its last operation.
    pub last_seq: SequenceNumber,
    /// The condition because of which nothing was applied.
    pub failed: Option<FailedCondition>,
}

/// What is to be done with a write of a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// Apply it and call [`Sessions::written`].
    Apply,
    /// It was applied before.
    Duplicate(SessionOutcome),
    /// It is not applied.
    Refused(Refusal),
}

/// Why a write of a session is not applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refusal {
    /// No such session was ever registered when this entry was applied.
    NeverIssued,
    /// There is no such session (any more).
    Unknown,
    /// The client said that it needs no outcome below this sequence.
    Stale { acked_below: u64 },
}

/// Who writes, from the header of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SessionWrite {
    pub client_id: u64,
    pub sequence: u64,
    pub acked_below: u64,
}

impl SessionWrite {
    /// `None` for a write of no session.
    pub fn of(batch: &BatchRef<'_>) -> Option<Self> {
        let client_id = batch.client_id();
        (client_id != 0).then(|| Self {
            client_id,
            sequence: batch.client_sequence(),
            acked_below: batch.acked_below(),
        })
    }
}

/// Why rows under the reserved prefix cannot be understood: they are of a newer version, or damaged beyond what
/// checksums see.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("internal row {key}: {problem}; open the directory with the version that wrote it")]
pub struct RowError {
    /// The row's key.
    pub key: String,
    /// What is wrong with it.
    pub problem: String,
}

impl RowError {
    pub(super) fn new(key: &[u8], problem: impl Into<String>) -> Self {
        Self { key: key.escape_ascii().to_string(), problem: problem.into() }
    }
}

/// Counts, for STATS.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct SessionStats {
    /// Sessions registered and not evicted.
    pub open: u64,
    /// Most at once; one more evicts the one unused the longest.
    pub max: u64,
    /// Outcomes kept for retries.
    pub outcomes: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Kept {
    outcome: SessionOutcome,
    /// What the write itself said.
    acked_below: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Session {
    last_used: LogIndex,
    acked_below: u64,
    outcomes: BTreeMap<u64, Kept>,
}

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Sessions {
    by_id: BTreeMap<u64, Session>,
    /// Ids by last use.
    by_use: BTreeMap<LogIndex, u64>,
    outcomes: usize,
    max_sessions: usize,
}

impl Default for Sessions {
    fn default() -> Self {
        Self::new(MAX_SESSIONS)
    }
}

impl Sessions {
    /// None. `max_sessions` is the same on every replica, or they would evict different ones.
    pub fn new(max_sessions: usize) -> Self {
        assert!(max_sessions > 0, "a session that is registered must have room");
        Self { by_id: BTreeMap::new(), by_use: BTreeMap::new(), outcomes: 0, max_sessions }
    }

    /// Builds them from all rows under the reserved prefix, in the order of their keys; other rows are passed over.
    pub fn from_rows(max_sessions: usize, rows: &[(Vec<u8>, Bytes)]) -> Result<Self, RowError> {
        let mut sessions = Self::new(max_sessions);
        for (key, value) in rows {
            match RowKey::decode(key)? {
                Some(RowKey { id, sequence: None }) => {
                    if value.as_ref() != [ROW_VERSION] {
                        return Err(RowError::new(key, "not version 1 of a session"));
                    }
                    sessions.insert(id);
                }
                Some(RowKey { id, sequence: Some(sequence) }) => {
                    let (outcome, acked_below) = decode_outcome(key, sequence, value)?;
                    if !sessions.by_id.contains_key(&id) {
                        return Err(RowError::new(key, "the outcome of a session without a row"));
                    }
                    if outcome.index.0 <= id {
                        let problem = format!("written at {}, before the session", outcome.index);
                        return Err(RowError::new(key, problem));
                    }
                    sessions.keep(id, sequence, Kept { outcome, acked_below });
                }
                None => {}
            }
        }
        sessions.check_uses()?;
        Ok(sessions)
    }

    /// What to do with a write of a session that stands at `index` of the log. Changes nothing.
    pub fn judge(&self, index: LogIndex, write: SessionWrite) -> Verdict {
        let SessionWrite { client_id, sequence, .. } = write;
        let Some(session) = self.by_id.get(&client_id) else {
            let never = client_id >= index.0;
            return Verdict::Refused(if never { Refusal::NeverIssued } else { Refusal::Unknown });
        };
        let acked_below = session.acked_below;
        if planted!(RefusesARegisteredSession) && sequence % 40 == 39 {
            return Verdict::Refused(Refusal::Unknown);
        }
        match session.outcomes.get(&sequence) {
            _ if sequence < acked_below => Verdict::Refused(Refusal::Stale { acked_below }),
            Some(kept) if !planted!(DuplicateApplied) => Verdict::Duplicate(kept.outcome),
            Some(_) | None => Verdict::Apply,
        }
    }

    /// Keeps the outcome of a write that is applied now, and forgets those that its client needs no more. The rows that
    /// say so are added to `rows`.
    pub fn written(
        &mut self,
        write: SessionWrite,
        outcome: SessionOutcome,
        rows: &mut Vec<InternalOp>,
    ) {
        let SessionWrite { client_id: id, sequence, acked_below } = write;
        let value = encode_outcome(sequence, outcome, acked_below);
        rows.push(InternalOp::put(&outcome_row(id, sequence), value));
        self.keep(id, sequence, Kept { outcome, acked_below });
        let session = self.by_id.get_mut(&id).expect("judged before");
        let first = session.acked_below + u64::from(planted!(TrimsOneTooMany));
        let needed = session.outcomes.split_off(&first);
        let acked = std::mem::replace(&mut session.outcomes, needed);
        self.outcomes -= acked.len();
        rows.extend(acked.into_keys().map(|s| InternalOp::delete(&outcome_row(id, s))));
    }

    /// Begins the session whose REGISTER stands at `index`, and returns the id of the one that had to make room for it.
    pub fn register(&mut self, index: LogIndex, rows: &mut Vec<InternalOp>) -> Option<u64> {
        let mut evicted = None;
        while self.by_id.len() >= self.max_sessions {
            let wrong = planted!(EvictsTheWrongSession);
            let used = if wrong { self.by_use.pop_last() } else { self.by_use.pop_first() };
            let (_, id) = used.expect("each session has a last use");
            let session = self.by_id.remove(&id).expect("by_use names sessions");
            self.outcomes -= session.outcomes.len();
            rows.push(InternalOp::delete(&session_row(id)));
            let outcomes = session.outcomes.into_keys();
            rows.extend(outcomes.map(|s| InternalOp::delete(&outcome_row(id, s))));
            evicted = Some(id);
        }
        rows.push(InternalOp::put(&session_row(index.0), &[ROW_VERSION][..]));
        self.insert(index.0);
        evicted
    }

    pub const fn max_sessions(&self) -> usize {
        self.max_sessions
    }

    pub fn stats(&self) -> SessionStats {
        SessionStats {
            open: self.by_id.len() as u64,
            max: self.max_sessions as u64,
            outcomes: self.outcomes as u64,
        }
    }

    /// An entry is of one session. (Two that claim the same one, and the rows are not ours.)
    fn check_uses(&mut self) -> Result<(), RowError> {
        self.by_use = self.by_id.iter().map(|(id, session)| (session.last_used, *id)).collect();
        match self.by_id.iter().find(|(id, s)| self.by_use.get(&s.last_used) != Some(*id)) {
            None => Ok(()),
            Some((id, session)) => {
                let problem =
                    format!("entry {} is the last use of two sessions", session.last_used);
                Err(RowError::new(&session_row(*id), problem))
            }
        }
    }

    fn insert(&mut self, id: u64) {
        let last_used = LogIndex(id);
        let session = Session { last_used, acked_below: 0, outcomes: BTreeMap::new() };
        self.by_id.insert(id, session);
        self.by_use.insert(last_used, id);
    }

    fn keep(&mut self, id: u64, sequence: u64, kept: Kept) {
        let session = self.by_id.get_mut(&id).expect("the caller has looked");
        let last_used = session.last_used.max(kept.outcome.index);
        if last_used != session.last_used {
            self.by_use.remove(&session.last_used);
            self.by_use.insert(last_used, id);
            session.last_used = last_used;
        }
        session.acked_below = session.acked_below.max(kept.acked_below);
        session.outcomes.insert(sequence, kept);
        self.outcomes += 1;
    }
}

struct RowKey {
    id: u64,
    sequence: Option<u64>,
}

impl RowKey {
    /// `None` when it is not a row of sessions.
    fn decode(key: &[u8]) -> Result<Option<Self>, RowError> {
        let Some(rest) = key.strip_prefix(RESERVED_KEY_PREFIX) else {
            return Err(RowError::new(key, "it is not under the reserved prefix"));
        };
        if rest.first() != Some(&SESSION_ROWS) {
            return Ok(None);
        }
        let sequence = match key.len() {
            SESSION_KEY_BYTES => None,
            OUTCOME_KEY_BYTES => Some(BigEndian::read_u64(&key[SESSION_KEY_BYTES..])),
            other => {
                return Err(RowError::new(key, format!("a session's key has {other} bytes")));
            }
        };
        Ok(Some(Self { id: BigEndian::read_u64(&rest[1..9]), sequence }))
    }
}

fn session_row(id: u64) -> [u8; 9] {
    let mut name = [SESSION_ROWS; 9];
    name[1..].copy_from_slice(&id.to_be_bytes());
    name
}

fn outcome_row(id: u64, sequence: u64) -> [u8; 17] {
    let mut name = [SESSION_ROWS; 17];
    name[1..9].copy_from_slice(&id.to_be_bytes());
    name[9..].copy_from_slice(&sequence.to_be_bytes());
    name
}

fn encode_outcome(sequence: u64, outcome: SessionOutcome, acked_below: u64) -> Bytes {
    let mut value = vec![0; OUTCOME_BYTES];
    let failed = outcome.failed;
    (value[0], value[1]) =
        (ROW_VERSION, if failed.is_some() { KIND_CONDITION_FAILED } else { KIND_WRITTEN });
    BigEndian::write_u16(&mut value[2..4], (sequence - acked_below) as u16);
    BigEndian::write_u64(&mut value[8..16], outcome.index.0);
    let first_or_present = match failed {
        Some(FailedCondition { condition, present }) => {
            BigEndian::write_u32(&mut value[4..8], condition);
            present.unwrap_or(SequenceNumber::ZERO)
        }
        None => outcome.first_seq,
    };
    BigEndian::write_u64(&mut value[16..24], first_or_present.0);
    BigEndian::write_u64(&mut value[24..32], outcome.last_seq.0);
    value.into()
}

fn decode_outcome(
    key: &[u8],
    sequence: u64,
    value: &[u8],
) -> Result<(SessionOutcome, u64), RowError> {
    let kinds = [[ROW_VERSION, KIND_WRITTEN], [ROW_VERSION, KIND_CONDITION_FAILED]];
    if value.len() != OUTCOME_BYTES || !kinds.iter().any(|kind| value[..2] == *kind) {
        return Err(RowError::new(key, "not version 1 of an outcome"));
    }
    let window = u64::from(BigEndian::read_u16(&value[2..4]));
    let condition = BigEndian::read_u32(&value[4..8]);
    let word = |at| BigEndian::read_u64(&value[at..at + 8]);
    let (index, second, last_seq) =
        (LogIndex(word(8)), SequenceNumber(word(16)), SequenceNumber(word(24)));
    let outcome = if value[1] == KIND_WRITTEN {
        SessionOutcome { index, first_seq: second, last_seq, failed: None }
    } else {
        let present = (second != SequenceNumber::ZERO).then_some(second);
        let Some(first_seq) = last_seq.0.checked_add(1).map(SequenceNumber) else {
            return Err(RowError::new(key, "a last sequence number of 2^64 - 1"));
        };
        let failed = Some(FailedCondition { condition, present });
        SessionOutcome { index, first_seq, last_seq, failed }
    };
    let known = if outcome.failed.is_some() {
        (condition as usize) < MAX_BATCH_CONDITIONS
    } else {
        condition == 0
    };
    match sequence.checked_sub(window) {
        Some(acked_below) if known && window < u64::from(MAX_SESSION_WINDOW) => {
            Ok((outcome, acked_below))
        }
        _ => Err(RowError::new(key, format!("window {window} of sequence {sequence}"))),
    }
}
