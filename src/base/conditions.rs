//! Preconditions of a batch (compare-and-set): what must be true of some keys for the batch to be applied.
//!
//! ```text
//!  batch ─▶ entry of the log ─▶ apply: each condition against the state at that entry ─┬─ all hold ─▶ its operations
//!                                                                                     └─ one fails ▶ nothing, and which
//! ```
//!
//! A condition names a key and what is expected of it: that it is absent, that it exists, or that its present value was
//! written under one sequence number. Sequence numbers never repeat, so the last is a compare-and-set without the A-B-A
//! problem. A deleted key is absent and has no sequence number: tombstones come and go with compaction, answers do not.
//!
//! Layout, behind the batch's header when its flag bit 0 is set (normative: `proto-spec/batch.md`):
//!
//! ```text
//! OFFSET SIZE DESCRIPTION (integers big-endian)
//! 24     2    number of conditions, 1 to MAX_BATCH_CONDITIONS
//! 26     …    conditions: kind (1) | varint key length | key | for SEQ: varint sequence number, not 0
//! ```
//!
//! Invariants:
//! - The verdict is a function of the log up to the entry: [`first_failed`] asks for each key's newest version *there*,
//!   in the order of the conditions. Who evaluates it, and from memory or from disk, makes no difference.
//! - [`KnownKeys`] stays true while entries are applied, because it is told of each: what was looked up on the disk for
//!   several entries at once is right for each of them, whatever the ones before it wrote, and whatever was flushed or
//!   compacted since (that moves versions and never changes which is the newest).
//!
//! It does not read anything itself, and knows nothing of sessions.

use super::SequenceNumber;
use super::batch::{BatchError, BatchRef, Op, check_key_len, decode_slice};
use super::varint;
use crate::limits::MAX_BATCH_CONDITIONS;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;

/// Condition kind bytes.
pub mod kind {
    /// The key has no value.
    pub const ABSENT: u8 = 0x01;
    /// The key has a value.
    pub const EXISTS: u8 = 0x02;
    /// The key's value was written under this sequence number.
    pub const SEQ: u8 = 0x03;
}

/// What is expected of a key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Expect {
    /// It has no value.
    Absent,
    /// It has a value.
    Exists,
    /// Its value was written under this sequence number, not 0.
    Seq(SequenceNumber),
}

impl Expect {
    /// Whether it is so, of a key whose value was written under `present` (`None`: it has no value).
    #[must_use]
    pub fn holds(self, present: Option<SequenceNumber>) -> bool {
        match self {
            Self::Absent => present.is_none(),
            Self::Exists => present.is_some(),
            Self::Seq(seq) => present == Some(seq),
        }
    }
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("absent"),
            Self::Exists => f.write_str("exists"),
            Self::Seq(seq) => write!(f, "seq {seq}"),
        }
    }
}

/// One condition, borrowed from the bytes of its batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Condition<'a> {
    /// The key.
    pub key: &'a [u8],
    /// What is expected of it.
    pub expect: Expect,
}

/// Why a batch was not applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FailedCondition {
    /// Which condition: the first that did not hold, from 0.
    pub condition: u32,
    /// The sequence number that wrote its key's value; `None`: the key has none.
    pub present: Option<SequenceNumber>,
}

impl fmt::Display for FailedCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.present {
            Some(seq) => {
                write!(f, "condition {} does not hold: its key has seq {seq}", self.condition)
            }
            None => write!(f, "condition {} does not hold: its key is absent", self.condition),
        }
    }
}

/// The first condition of `batch` that does not hold, when `present` tells under which sequence number a key's value was
/// written. Stops at the first failure, and at the first error of `present`.
pub fn first_failed<E>(
    batch: &BatchRef<'_>,
    mut present: impl FnMut(&[u8]) -> Result<Option<SequenceNumber>, E>,
) -> Result<Option<FailedCondition>, E> {
    for (condition, Condition { key, expect }) in (0..).zip(batch.conditions()) {
        let present = present(key)?;
        if !expect.holds(present) {
            return Ok(Some(FailedCondition { condition, present }));
        }
    }
    Ok(None)
}

/// The newest versions of some keys, kept up to date while entries are applied.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KnownKeys(BTreeMap<Vec<u8>, Option<SequenceNumber>>);

impl KnownKeys {
    /// Whether it knows of no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `key`'s value was written under `present` (`None`: it has none), as of the last entry applied.
    pub fn insert(&mut self, key: Vec<u8>, present: Option<SequenceNumber>) {
        self.0.insert(key, present);
    }

    /// Under which sequence number `key`'s value was written; the outer `None`: not known here.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<Option<SequenceNumber>> {
        self.0.get(key).copied()
    }

    /// The operations of `batch` were applied; the first one's sequence number is `first_seq`.
    pub fn applied(&mut self, batch: &BatchRef<'_>, first_seq: SequenceNumber) {
        if self.0.is_empty() {
            return;
        }
        for (seq, op) in (first_seq.0..).zip(batch.ops()) {
            let (key, present) = match op {
                Op::Put { key, .. } => (key, Some(SequenceNumber(seq))),
                Op::Delete { key } => (key, None),
                Op::DeleteRange { start, end } => {
                    self.delete_range(start, end);
                    continue;
                }
                Op::NoOp | Op::Register | Op::Membership(_) => continue,
            };
            if let Some(known) = self.0.get_mut(key) {
                *known = present;
            }
        }
    }

    /// The keys of the range have no value any more. No condition is about a reserved key.
    fn delete_range(&mut self, start: &[u8], end: &[u8]) {
        let end = if end.is_empty() { Bound::Unbounded } else { Bound::Excluded(end) };
        for (_, known) in self.0.range_mut::<[u8], _>((Bound::Included(start), end)) {
            *known = None;
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// Encodes one condition.
pub(super) fn encode(key: &[u8], expect: Expect) -> Result<Vec<u8>, BatchError> {
    check_key_len(key.len() as u64)?;
    let mut out = Vec::with_capacity(key.len() + 2 + varint::MAX_VARINT_BYTES);
    out.push(match expect {
        Expect::Absent => kind::ABSENT,
        Expect::Exists => kind::EXISTS,
        Expect::Seq(_) => kind::SEQ,
    });
    varint::put_u64(&mut out, key.len() as u64);
    out.extend_from_slice(key);
    if let Expect::Seq(seq) = expect {
        check_seq(seq.0)?;
        varint::put_u64(&mut out, seq.0);
    }
    Ok(out)
}

/// The condition at `at`, and where it ends.
pub(super) fn decode(bytes: &[u8], at: usize) -> Result<(Condition<'_>, usize), BatchError> {
    let Some(&kind) = bytes.get(at) else { return Err(BatchError::Truncated { offset: at }) };
    if !matches!(kind, kind::ABSENT | kind::EXISTS | kind::SEQ) {
        return Err(BatchError::UnknownCondition { kind, offset: at });
    }
    let (key, next) = decode_slice(bytes, at + 1, check_key_len)?;
    let (expect, next) = match kind {
        kind::ABSENT => (Expect::Absent, next),
        kind::EXISTS => (Expect::Exists, next),
        _ => {
            let Some((seq, n)) = varint::get_u64(&bytes[next..]) else {
                return Err(super::batch::bad_length(bytes, next));
            };
            check_seq(seq)?;
            (Expect::Seq(SequenceNumber(seq)), next + n)
        }
    };
    Ok((Condition { key, expect }, next))
}

fn check_seq(seq: u64) -> Result<(), BatchError> {
    if seq == 0 || seq > SequenceNumber::MAX.0 {
        return Err(BatchError::ConditionSeq { seq });
    }
    Ok(())
}

/// Checks a number of conditions.
pub(super) fn check_count(count: usize) -> Result<(), BatchError> {
    if count == 0 || count > MAX_BATCH_CONDITIONS {
        return Err(BatchError::ConditionCount { count });
    }
    Ok(())
}

/// Iterates over the conditions of a validated batch.
#[derive(Clone, Debug)]
pub struct Conditions<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) offset: usize,
    pub(super) end: usize,
}

impl<'a> Iterator for Conditions<'a> {
    type Item = Condition<'a>;

    fn next(&mut self) -> Option<Condition<'a>> {
        if self.offset >= self.end {
            return None;
        }
        let (condition, next) = decode(self.bytes, self.offset).expect("batch was validated");
        self.offset = next;
        Some(condition)
    }
}

#[cfg(test)]
mod tests {
    use super::super::batch::{BATCH_HEADER_BYTES, RESERVED_KEY_PREFIX, WriteBatch};
    use super::*;

    const SEQ: Expect = Expect::Seq(SequenceNumber(300));

    fn sample() -> WriteBatch {
        let mut batch = WriteBatch::new();
        batch.require(b"a", Expect::Absent).unwrap();
        batch.put(b"k", b"v").unwrap();
        batch.require(b"b", SEQ).unwrap();
        batch
    }

    #[test]
    fn conditions_stand_before_the_operations_whenever_they_were_added() {
        let hex: String = sample().as_bytes().iter().map(|b| format!("{b:02x}")).collect();
        let header = "010100000000000100000000000000000000000000000000";
        assert_eq!(hex, format!("{header}00020101610301 62ac02 01016b0176").replace(' ', ""));
        let batch = sample();
        let parsed = BatchRef::parse(batch.as_bytes()).unwrap();
        assert_eq!((parsed.len(), parsed.has_conditions()), (1, true));
        let found: Vec<_> = parsed.conditions().map(|c| (c.key, c.expect)).collect();
        assert_eq!(found, [(&b"a"[..], Expect::Absent), (b"b", SEQ)]);
        assert_eq!(parsed.ops().collect::<Vec<_>>(), [Op::Put { key: b"k", value: b"v" }]);
        assert_eq!(parsed.check_user(), Ok(()));
    }

    #[test]
    fn clearing_a_batch_clears_its_conditions() {
        let mut batch = sample();
        batch.clear();
        assert_eq!(batch, WriteBatch::new());
    }

    #[test]
    fn every_truncation_is_an_error_and_so_is_every_wrong_field() {
        let good = sample().into_bytes();
        for cut in 0..good.len() {
            assert!(BatchRef::parse(&good[..cut]).is_err(), "cut at {cut}");
        }
        let with = |changes: &[(usize, u8)]| {
            let mut bytes = good.clone();
            for (at, byte) in changes {
                bytes[*at] = *byte;
            }
            BatchRef::parse(&bytes).map(|_| ())
        };
        assert!(matches!(with(&[(1, 4)]), Err(BatchError::Header { field: "flags", .. })));
        assert_eq!(with(&[(25, 0)]), Err(BatchError::ConditionCount { count: 0 }));
        assert_eq!(with(&[(24, 0xff)]), Err(BatchError::ConditionCount { count: 0xff02 }));
        assert_eq!(with(&[(26, 9)]), Err(BatchError::UnknownCondition { kind: 9, offset: 26 }));
        assert_eq!(with(&[(27, 0)]), Err(BatchError::EmptyKey));
        assert!(with(&[(33, 0)]).is_err(), "a sequence number in two bytes that fits one");
        let mut zero = good.clone();
        zero.splice(32..34, [0]);
        assert_eq!(BatchRef::parse(&zero), Err(BatchError::ConditionSeq { seq: 0 }));
    }

    #[test]
    fn conditions_are_bounded_and_an_error_leaves_the_batch_unchanged() {
        let mut batch = WriteBatch::new();
        for _ in 0..MAX_BATCH_CONDITIONS {
            batch.require(b"k", Expect::Exists).unwrap();
        }
        let before = batch.clone();
        let count = MAX_BATCH_CONDITIONS + 1;
        assert_eq!(batch.require(b"k", Expect::Exists), Err(BatchError::ConditionCount { count }));
        assert_eq!(sample().require(b"", Expect::Exists), Err(BatchError::EmptyKey));
        let zero = Expect::Seq(SequenceNumber::ZERO);
        assert_eq!(sample().require(b"k", zero), Err(BatchError::ConditionSeq { seq: 0 }));
        assert_eq!(batch, before);
        BatchRef::parse(batch.as_bytes()).unwrap().check_user().unwrap();
    }

    #[test]
    fn reserved_keys_are_refused_and_internal_operations_have_no_conditions() {
        let mut reserved = WriteBatch::new();
        reserved.require(RESERVED_KEY_PREFIX, Expect::Absent).unwrap();
        let parsed = BatchRef::parse(reserved.as_bytes()).unwrap();
        assert_eq!(parsed.check_user(), Err(BatchError::ReservedKey));
        let mut internal = WriteBatch::register();
        internal.require(b"k", Expect::Absent).unwrap();
        let parsed = BatchRef::parse(internal.as_bytes());
        assert_eq!(parsed, Err(BatchError::NotAlone { kind: 0x81 }));
        assert_eq!(internal.as_bytes().len(), BATCH_HEADER_BYTES + 2 + 3 + 1);
    }

    #[test]
    fn the_first_condition_that_fails_is_named_with_what_is_there() {
        let mut batch = WriteBatch::new();
        batch.require(b"a", Expect::Exists).unwrap();
        batch.require(b"b", SEQ).unwrap();
        batch.require(b"c", Expect::Absent).unwrap();
        let parsed = BatchRef::parse(batch.as_bytes()).unwrap();
        let judge = |a: Option<u64>, b: Option<u64>, c: Option<u64>| {
            let seq = |n: Option<u64>| Ok::<_, ()>(n.map(SequenceNumber));
            first_failed(&parsed, |key| seq([a, b, c][usize::from(key[0] - b'a')])).unwrap()
        };
        let failed = |condition, present: Option<u64>| {
            Some(FailedCondition { condition, present: present.map(SequenceNumber) })
        };
        assert_eq!(judge(Some(1), Some(300), None), None);
        assert_eq!(judge(None, None, Some(2)), failed(0, None));
        assert_eq!(judge(Some(1), Some(301), Some(2)), failed(1, Some(301)));
        assert_eq!(judge(Some(1), Some(300), Some(2)), failed(2, Some(2)));
    }

    #[test]
    fn what_is_known_follows_what_is_applied() {
        let mut known = KnownKeys::default();
        known.insert(b"k".to_vec(), Some(SequenceNumber(3)));
        known.insert(b"x".to_vec(), None);
        let mut batch = WriteBatch::new();
        batch.put(b"other", b"").unwrap();
        batch.put(b"x", b"").unwrap();
        batch.delete(b"k").unwrap();
        known.applied(&BatchRef::parse(batch.as_bytes()).unwrap(), SequenceNumber(10));
        assert_eq!(known.get(b"k"), Some(None));
        assert_eq!(known.get(b"x"), Some(Some(SequenceNumber(11))));
        assert_eq!(known.get(b"other"), None);
    }
}
