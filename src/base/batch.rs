//! `WriteBatch`: the one unit of writing.
//!
//! The bytes of a batch are the same in a client's frame, in a Raft log entry, in the write-ahead log, and at apply;
//! nothing re-encodes them on the way. Normative layout and worked example: `proto-spec/batch.md`.
//!
//! ```text
//! OFFSET SIZE DESCRIPTION (integers big-endian)
//! 0      1    format version, 1
//! 1      1    flags: bit 0 = conditions, bit 1 = holds a range delete, others 0
//! 2      2    session window: client sequence - acked below; 0 without a client id
//! 4      4    number of operations
//! 8      8    client id, 0 = none
//! 16     8    client sequence, 0 without a client id, else from 1
//! 24     …    with conditions: their number (2), and them (`conditions` draws them)
//!        …    operations: kind (1) | varint key length | key | for Put: varint value length | value;
//!             for DeleteRange: varint end length | end
//! ```
//!
//! A session's write says which of its outcomes the client still waits for: those from *acked below* on, which is the
//! client sequence less the window. The replicas forget the ones below.
//!
//! Invariants:
//! - Encoding is deterministic: equal batches have equal bytes, and there is one spelling of each ([`BatchRef::parse`]
//!   refuses the others).
//! - The flag of range deletes is set exactly when there is one: whoever must treat such a batch differently need not
//!   walk it, and software that knows no range deletes refuses it at its header.
//! - A parsed [`BatchRef`] is fully validated; iterating it cannot fail.
//! - An internal operation is alone in its batch, and the batch has no client and no conditions: a write cannot carry a change of the
//!   membership past raft.
//! - It carries no checksum of its own: the frame or log record around it does.

use super::conditions::{self, Conditions, Expect};
use super::varint;
use crate::limits::{
    MAX_BATCH_BYTES, MAX_BATCH_CONDITIONS, MAX_BATCH_OPS, MAX_BATCH_RANGE_DELETES, MAX_KEY_BYTES,
    MAX_MEMBERSHIP_BYTES, MAX_SESSION_WINDOW, MAX_VALUE_BYTES, RANGE_DELETE_UNIT_BYTES,
};
use byteorder::{BigEndian, ByteOrder};

/// Bytes before the first operation.
pub const BATCH_HEADER_BYTES: usize = 24;
/// What a batch of one small write takes.
const SMALL_BATCH_BYTES: usize = 192;
/// The format version this code writes and reads.
pub const BATCH_VERSION: u8 = 1;
/// The header's flag of a batch with conditions.
pub const FLAG_CONDITIONS: u8 = 0x01;
/// Flag: at least one operation deletes a range.
pub const FLAG_RANGE_DELETES: u8 = 0x02;
/// Keys with this prefix hold replicated internal state (sessions, membership); user requests cannot name them.
pub const RESERVED_KEY_PREFIX: &[u8] = b"\x00beach\x00";
/// The first key after all of those.
pub const RESERVED_KEY_END: &[u8] = b"\x00beach\x01";

/// Operation kind bytes. Below 0x80: user operations. From 0x80: internal, refused from clients.
pub mod kind {
    /// Set a key.
    pub const PUT: u8 = 0x01;
    /// Delete a key.
    pub const DELETE: u8 = 0x02;
    /// Delete every key of a range.
    pub const DELETE_RANGE: u8 = 0x03;
    /// The no-op that a new leader appends (Raft §8).
    pub const NO_OP: u8 = 0x80;
    /// A client's session begins; its id is the entry's index.
    pub const REGISTER: u8 = 0x81;
    /// The cluster's members change, from this entry on.
    pub const MEMBERSHIP: u8 = 0x82;
    /// The first internal kind.
    pub const INTERNAL: u8 = 0x80;
}

/// Why bytes are not a valid batch, or an operation does not fit in one.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BatchError {
    /// The bytes end before the batch does.
    #[error("batch truncated at byte {offset}")]
    Truncated {
        /// Where the missing bytes would begin.
        offset: usize,
    },
    /// A header field has a value this version does not know.
    #[error("batch header field {field} is {found}, expected {expected}")]
    Header {
        /// The field.
        field: &'static str,
        /// Its value.
        found: u64,
        /// What it must be.
        expected: u64,
    },
    /// A client sequence or session window that cannot be.
    #[error(
        "batch of client {client_id} with sequence {client_sequence} and window {window}: {problem}"
    )]
    Session {
        /// The client id.
        client_id: u64,
        /// The client sequence.
        client_sequence: u64,
        /// The session window.
        window: u16,
        /// What is wrong.
        problem: &'static str,
    },
    /// A sequence [`MAX_SESSION_WINDOW`] or more above the first one whose outcome the client still wants.
    #[error(
        "write {client_sequence} of client {client_id} is {window} above the first one that is not acknowledged, the limit \
         is {MAX_SESSION_WINDOW}: wait for answers"
    )]
    SessionWindowFull {
        /// The client id.
        client_id: u64,
        /// The client sequence.
        client_sequence: u64,
        /// The session window.
        window: u16,
    },
    /// An internal operation with another one, of a client, or with conditions.
    #[error(
        "operation kind {kind:#04x} is internal, alone in its batch, of no client, and unconditional"
    )]
    NotAlone {
        /// The kind byte.
        kind: u8,
    },
    /// A membership over [`MAX_MEMBERSHIP_BYTES`].
    #[error("membership of {len} bytes, the limit is {MAX_MEMBERSHIP_BYTES}")]
    MembershipTooLarge {
        /// Its length.
        len: u64,
    },
    /// An operation kind this version does not know.
    #[error("unknown operation kind {kind:#04x} at byte {offset}")]
    UnknownKind {
        /// The kind byte.
        kind: u8,
        /// Where it is.
        offset: usize,
    },
    /// A condition kind this version does not know.
    #[error("unknown condition kind {kind:#04x} at byte {offset}")]
    UnknownCondition {
        /// The kind byte.
        kind: u8,
        /// Where it is.
        offset: usize,
    },
    /// A condition on a sequence number that no key can have.
    #[error(
        "a condition on sequence number {seq}: 1 to 2^56 - 1 are meant (a key without a value is absent)"
    )]
    ConditionSeq {
        /// The sequence number.
        seq: u64,
    },
    /// More than [`MAX_BATCH_CONDITIONS`] conditions, or none where the header promises some.
    #[error("{count} conditions, the limit is {MAX_BATCH_CONDITIONS}, and none have no flag")]
    ConditionCount {
        /// How many.
        count: usize,
    },
    /// A length that is not a canonical varint.
    #[error("bad length at byte {offset}")]
    BadLength {
        /// Where it is.
        offset: usize,
    },
    /// Bytes after the last operation.
    #[error("{extra} bytes after the last operation")]
    TrailingBytes {
        /// How many.
        extra: usize,
    },
    /// An empty key.
    #[error("empty key")]
    EmptyKey,
    /// A key over [`MAX_KEY_BYTES`].
    #[error("key of {len} bytes, the limit is {MAX_KEY_BYTES}")]
    KeyTooLarge {
        /// Its length.
        len: u64,
    },
    /// A value over [`MAX_VALUE_BYTES`].
    #[error("value of {len} bytes, the limit is {MAX_VALUE_BYTES}")]
    ValueTooLarge {
        /// Its length.
        len: u64,
    },
    /// More than [`MAX_BATCH_OPS`] operations or [`MAX_BATCH_BYTES`] bytes.
    #[error(
        "batch of {ops} operations and {bytes} bytes, the limits are {MAX_BATCH_OPS} and {MAX_BATCH_BYTES}"
    )]
    TooLarge {
        /// Operations.
        ops: u64,
        /// Encoded bytes.
        bytes: u64,
    },
    /// A batch without operations.
    #[error("empty batch")]
    Empty,
    /// A range delete whose end is not above its start.
    #[error("a range delete whose end is not above its start deletes nothing")]
    EmptyRange,
    /// More than [`MAX_BATCH_RANGE_DELETES`] range deletes.
    #[error("batch of {found} range deletes, the limit is {MAX_BATCH_RANGE_DELETES}")]
    TooManyRangeDeletes {
        /// How many.
        found: usize,
    },
    /// A client sent an internal operation kind.
    #[error("operation kind {kind:#04x} is internal")]
    InternalKind {
        /// The kind byte.
        kind: u8,
    },
    /// A client named a key under [`RESERVED_KEY_PREFIX`].
    #[error("keys beginning with \\x00beach\\x00 are reserved for internal state")]
    ReservedKey,
}

/// One operation, borrowed from the bytes of its batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op<'a> {
    /// Set `key` to `value`.
    Put {
        /// The key.
        key: &'a [u8],
        /// The value.
        value: &'a [u8],
    },
    /// Delete `key`.
    Delete {
        /// The key.
        key: &'a [u8],
    },
    /// Delete every key from `start` up to and without `end`, except those under [`RESERVED_KEY_PREFIX`].
    DeleteRange {
        /// The first key; empty = the first of all.
        start: &'a [u8],
        /// The first key past the range; empty = there is none.
        end: &'a [u8],
    },
    /// Nothing; see [`kind::NO_OP`].
    NoOp,
    /// A session begins; see [`kind::REGISTER`].
    Register,
    /// The members from here on, as [`Membership::encode`](super::Membership::encode) writes them; their length is
    /// checked, not what they say.
    Membership(&'a [u8]),
}

/// Builds a batch. It holds the final encoding at all times.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WriteBatch {
    bytes: Vec<u8>,
    ops: u32,
    /// Where the operations begin.
    ops_at: usize,
    conditions: u16,
    range_deletes: usize,
}

impl Default for WriteBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl WriteBatch {
    /// An empty batch with client id 0 and client sequence 0.
    #[must_use]
    pub fn new() -> Self {
        // Growing to one small write step by step takes three allocations.
        let mut bytes = Vec::with_capacity(SMALL_BATCH_BYTES);
        bytes.resize(BATCH_HEADER_BYTES, 0);
        bytes[0] = BATCH_VERSION;
        Self { bytes, ops: 0, ops_at: BATCH_HEADER_BYTES, conditions: 0, range_deletes: 0 }
    }

    /// The batch of a new leader's no-op entry.
    #[must_use]
    pub fn no_op() -> Self {
        Self::internal(kind::NO_OP)
    }

    /// The batch that begins a client's session.
    #[must_use]
    pub fn register() -> Self {
        Self::internal(kind::REGISTER)
    }

    /// The batch of a membership's encoding; [`Membership::to_entry`](super::Membership::to_entry) makes it.
    pub(super) fn membership(encoded: &[u8]) -> Self {
        assert!(encoded.len() <= MAX_MEMBERSHIP_BYTES, "{} bytes", encoded.len());
        let mut batch = Self::internal(kind::MEMBERSHIP);
        varint::put_u64(&mut batch.bytes, encoded.len() as u64);
        batch.bytes.extend_from_slice(encoded);
        batch
    }

    fn internal(kind: u8) -> Self {
        let mut batch = Self::new();
        batch.bytes.push(kind);
        batch.set_ops(1);
        batch
    }

    /// Makes it the write `client_sequence` (from 1) of session `client_id`, whose client needs no outcome below
    /// `acked_below` any more; (0, 0, 0): of no session.
    ///
    /// # Panics
    /// When `acked_below` is above `client_sequence` or [`MAX_SESSION_WINDOW`] or more below it, or one of id and
    /// sequence is 0 and the other is not: a client waits when its window is full.
    pub fn set_client(&mut self, client_id: u64, client_sequence: u64, acked_below: u64) {
        let window = client_sequence.checked_sub(acked_below);
        let window = window.filter(|&w| w < u64::from(MAX_SESSION_WINDOW)).map(|w| w as u16);
        let session = window.map(|w| (w, check_session(client_id, client_sequence, w)));
        let Some((window, Ok(()))) = session else {
            panic!("client {client_id}, sequence {client_sequence}, acked below {acked_below}");
        };
        BigEndian::write_u16(&mut self.bytes[2..4], window);
        BigEndian::write_u64(&mut self.bytes[8..16], client_id);
        BigEndian::write_u64(&mut self.bytes[16..24], client_sequence);
    }

    /// Adds "set `key` to `value`". On an error the batch is unchanged.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), BatchError> {
        check_key_len(key.len() as u64)?;
        check_value_len(value.len() as u64)?;
        let bytes = 1
            + varint::len_u64(key.len() as u64)
            + key.len()
            + varint::len_u64(value.len() as u64)
            + value.len();
        self.check_room(bytes)?;
        self.bytes.reserve(bytes);
        self.bytes.push(kind::PUT);
        varint::put_u64(&mut self.bytes, key.len() as u64);
        self.bytes.extend_from_slice(key);
        varint::put_u64(&mut self.bytes, value.len() as u64);
        self.bytes.extend_from_slice(value);
        self.set_ops(self.ops + 1);
        Ok(())
    }

    /// Adds "delete `key`". On an error the batch is unchanged.
    pub fn delete(&mut self, key: &[u8]) -> Result<(), BatchError> {
        check_key_len(key.len() as u64)?;
        self.check_room(1 + varint::len_u64(key.len() as u64) + key.len())?;
        self.bytes.push(kind::DELETE);
        varint::put_u64(&mut self.bytes, key.len() as u64);
        self.bytes.extend_from_slice(key);
        self.set_ops(self.ops + 1);
        Ok(())
    }

    /// Adds a condition: the batch is applied only if `expect` is true of `key` when its turn comes, and all the others
    /// are of theirs. A batch of conditions alone is a check. On an error the batch is unchanged.
    pub fn require(&mut self, key: &[u8], expect: Expect) -> Result<(), BatchError> {
        conditions::check_count(usize::from(self.conditions) + 1)?;
        let encoded = conditions::encode(key, expect)?;
        let bytes = self.bytes.len() + encoded.len() + 2;
        if bytes > MAX_BATCH_BYTES {
            return Err(BatchError::TooLarge { ops: self.ops.into(), bytes: bytes as u64 });
        }
        if self.conditions == 0 {
            self.bytes[1] |= FLAG_CONDITIONS;
            self.bytes.splice(self.ops_at..self.ops_at, [0, 0]);
            self.ops_at += 2;
        }
        self.ops_at += encoded.len();
        let at = self.ops_at - encoded.len();
        self.bytes.splice(at..at, encoded);
        self.conditions += 1;
        BigEndian::write_u16(&mut self.bytes[BATCH_HEADER_BYTES..], self.conditions);
        Ok(())
    }

    /// Conditions so far.
    #[must_use]
    pub fn conditions(&self) -> usize {
        self.conditions.into()
    }

    /// Adds "delete every key from `start` up to and without `end`"; an empty `start` is the first key of all, an empty
    /// `end` is past the last one. Keys that the batch sets before it go as well, those it sets behind it stay. On an error
    /// the batch is unchanged.
    pub fn delete_range(&mut self, start: &[u8], end: &[u8]) -> Result<(), BatchError> {
        check_range(start, end)?;
        if self.range_deletes == MAX_BATCH_RANGE_DELETES {
            return Err(BatchError::TooManyRangeDeletes { found: self.range_deletes + 1 });
        }
        let len = |key: &[u8]| varint::len_u64(key.len() as u64) + key.len();
        self.check_room(1 + len(start) + len(end))?;
        self.bytes.push(kind::DELETE_RANGE);
        for bound in [start, end] {
            varint::put_u64(&mut self.bytes, bound.len() as u64);
            self.bytes.extend_from_slice(bound);
        }
        self.bytes[1] |= FLAG_RANGE_DELETES;
        self.range_deletes += 1;
        self.set_ops(self.ops + 1);
        Ok(())
    }

    /// Operations so far.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.ops as usize
    }

    /// Whether it has no operations.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.ops == 0
    }

    /// The encoded bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The encoded bytes, given away.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Removes all operations and conditions, and keeps the memory and the client.
    pub fn clear(&mut self) {
        self.bytes.truncate(BATCH_HEADER_BYTES);
        self.bytes[1] = 0;
        (self.ops_at, self.conditions) = (BATCH_HEADER_BYTES, 0);
        self.range_deletes = 0;
        self.set_ops(0);
    }

    fn check_room(&self, more: usize) -> Result<(), BatchError> {
        let (ops, bytes) = (self.ops as usize + 1, self.bytes.len() + more);
        if ops > MAX_BATCH_OPS || bytes > MAX_BATCH_BYTES {
            return Err(BatchError::TooLarge { ops: ops as u64, bytes: bytes as u64 });
        }
        Ok(())
    }

    fn set_ops(&mut self, ops: u32) {
        self.ops = ops;
        BigEndian::write_u32(&mut self.bytes[4..8], ops);
    }
}

/// A validated batch, borrowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchRef<'a> {
    bytes: &'a [u8],
    /// Where the operations begin.
    ops_at: usize,
}

impl<'a> BatchRef<'a> {
    /// Validates all of `bytes` as one batch. Allocates nothing.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BatchError> {
        if bytes.len() > MAX_BATCH_BYTES {
            return Err(BatchError::TooLarge { ops: 0, bytes: bytes.len() as u64 });
        }
        if bytes.len() < BATCH_HEADER_BYTES {
            return Err(BatchError::Truncated { offset: bytes.len() });
        }
        let expect = |field, found: u64, expected: u64| {
            if found == expected {
                Ok(())
            } else {
                Err(BatchError::Header { field, found, expected })
            }
        };
        expect("version", bytes[0].into(), BATCH_VERSION.into())?;
        expect("flags", (bytes[1] & !(FLAG_CONDITIONS | FLAG_RANGE_DELETES)).into(), 0)?;
        let ops = BigEndian::read_u32(&bytes[4..8]);
        if ops as usize > MAX_BATCH_OPS {
            return Err(BatchError::TooLarge { ops: ops.into(), bytes: bytes.len() as u64 });
        }
        let mut batch = Self { bytes, ops_at: BATCH_HEADER_BYTES };
        check_session(batch.client_id(), batch.client_sequence(), batch.window())?;
        if batch.has_conditions() {
            batch.ops_at = decode_conditions(bytes)?;
        }
        let mut offset = batch.ops_at;
        let is_plain = batch.client_id() == 0 && !batch.has_conditions();
        let mut range_deletes = 0;
        for _ in 0..ops {
            let (_, next) = decode_op(bytes, offset)?;
            if bytes[offset] >= kind::INTERNAL && (ops > 1 || !is_plain) {
                return Err(BatchError::NotAlone { kind: bytes[offset] });
            }
            range_deletes += usize::from(bytes[offset] == kind::DELETE_RANGE);
            offset = next;
        }
        if offset != bytes.len() {
            return Err(BatchError::TrailingBytes { extra: bytes.len() - offset });
        }
        if range_deletes > MAX_BATCH_RANGE_DELETES {
            return Err(BatchError::TooManyRangeDeletes { found: range_deletes });
        }
        let flag = if range_deletes > 0 { FLAG_RANGE_DELETES } else { 0 };
        expect("flags", bytes[1].into(), (bytes[1] & FLAG_CONDITIONS | flag).into())?;
        Ok(batch)
    }

    /// Refuses what a client may not send: a batch with neither operations nor conditions, internal kinds, and reserved
    /// keys.
    pub fn check_user(&self) -> Result<(), BatchError> {
        if self.is_empty() && !self.has_conditions() {
            return Err(BatchError::Empty);
        }
        if self.conditions().any(|condition| condition.key.starts_with(RESERVED_KEY_PREFIX)) {
            return Err(BatchError::ReservedKey);
        }
        for op in self.ops() {
            match op {
                Op::Put { key, .. } | Op::Delete { key } => {
                    if key.starts_with(RESERVED_KEY_PREFIX) {
                        return Err(BatchError::ReservedKey);
                    }
                }
                // One that spans the reserved keys passes over them; its bounds do not name them.
                Op::DeleteRange { start, end } => {
                    if [start, end].iter().any(|key| key.starts_with(RESERVED_KEY_PREFIX)) {
                        return Err(BatchError::ReservedKey);
                    }
                }
                Op::NoOp => return Err(BatchError::InternalKind { kind: kind::NO_OP }),
                Op::Register => return Err(BatchError::InternalKind { kind: kind::REGISTER }),
                Op::Membership(_) => {
                    return Err(BatchError::InternalKind { kind: kind::MEMBERSHIP });
                }
            }
        }
        Ok(())
    }

    /// The encoded bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Number of operations, which is also how many sequence numbers apply assigns to it.
    #[must_use]
    pub fn len(&self) -> usize {
        BigEndian::read_u32(&self.bytes[4..8]) as usize
    }

    /// Whether it has no operations.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether an operation deletes a range.
    #[must_use]
    pub const fn has_range_deletes(&self) -> bool {
        self.bytes[1] & FLAG_RANGE_DELETES != 0
    }

    /// What its range deletes count of [`MAX_RANGE_DELETES`](crate::limits::MAX_RANGE_DELETES). Walks the batch only when it
    /// holds one.
    #[must_use]
    pub fn range_deletes(&self) -> usize {
        if !self.has_range_deletes() {
            return 0;
        }
        let cost = |op: Op<'_>| match op {
            Op::DeleteRange { start, end } => range_delete_cost(start, end),
            _ => 0,
        };
        self.ops().map(cost).sum()
    }

    /// The session's client id, 0 = none.
    #[must_use]
    pub fn client_id(&self) -> u64 {
        BigEndian::read_u64(&self.bytes[8..16])
    }

    /// The session's sequence of this write, 0 = none.
    #[must_use]
    pub fn client_sequence(&self) -> u64 {
        BigEndian::read_u64(&self.bytes[16..24])
    }

    /// The client holds the outcome of every write of its session below this sequence, or gave it up; 0 without a
    /// client id.
    #[must_use]
    pub fn acked_below(&self) -> u64 {
        self.client_sequence() - u64::from(self.window())
    }

    fn window(&self) -> u16 {
        BigEndian::read_u16(&self.bytes[2..4])
    }

    /// The internal operation, which is alone in its batch; `None`: a user's batch.
    #[must_use]
    pub fn internal(&self) -> Option<Op<'a>> {
        let is_internal = self.bytes.get(self.ops_at).is_some_and(|&k| k >= kind::INTERNAL);
        if is_internal { self.ops().next() } else { None }
    }

    /// The operations, in order. The i-th gets the batch's first sequence number + i.
    #[must_use]
    pub const fn ops(&self) -> Ops<'a> {
        Ops { bytes: self.bytes, offset: self.ops_at }
    }

    /// Whether it is applied only if something is true of some keys.
    #[must_use]
    pub const fn has_conditions(&self) -> bool {
        self.bytes[1] & FLAG_CONDITIONS != 0
    }

    /// What must be true for it to be applied, in order.
    #[must_use]
    pub const fn conditions(&self) -> Conditions<'a> {
        let offset = BATCH_HEADER_BYTES + if self.has_conditions() { 2 } else { 0 };
        Conditions { bytes: self.bytes, offset, end: self.ops_at }
    }
}

/// Iterates over the operations of a validated batch.
#[derive(Clone, Debug)]
pub struct Ops<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Iterator for Ops<'a> {
    type Item = Op<'a>;

    fn next(&mut self) -> Option<Op<'a>> {
        if self.offset >= self.bytes.len() {
            return None;
        }
        let (op, next) = decode_op(self.bytes, self.offset).expect("batch was validated");
        self.offset = next;
        Some(op)
    }
}

/// The first key after every key with this prefix; `None` when there is none (the prefix is empty or all `ff`).
#[must_use]
pub fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let keep = prefix.iter().rposition(|&b| b != 0xff)?;
    let mut end = prefix[..=keep].to_vec();
    end[keep] += 1;
    Some(end)
}

fn check_session(client_id: u64, client_sequence: u64, window: u16) -> Result<(), BatchError> {
    let problem = match (client_id, client_sequence, window) {
        (0, 0, 0) => return Ok(()),
        (0, _, _) => "without a client id both are 0",
        (_, 0, _) => "a client's sequences begin with 1",
        (_, sequence, window) if u64::from(window) > sequence => "the window is over the sequence",
        (_, _, window) if window >= MAX_SESSION_WINDOW => {
            return Err(BatchError::SessionWindowFull { client_id, client_sequence, window });
        }
        _ => return Ok(()),
    };
    Err(BatchError::Session { client_id, client_sequence, window, problem })
}

fn check_membership_len(len: u64) -> Result<(), BatchError> {
    if len > MAX_MEMBERSHIP_BYTES as u64 {
        Err(BatchError::MembershipTooLarge { len })
    } else {
        Ok(())
    }
}

/// Checks the conditions of a batch whose header promises some; where they end.
fn decode_conditions(bytes: &[u8]) -> Result<usize, BatchError> {
    let Some(count) = bytes.get(BATCH_HEADER_BYTES..BATCH_HEADER_BYTES + 2) else {
        return Err(BatchError::Truncated { offset: bytes.len() });
    };
    let count = BigEndian::read_u16(count).into();
    conditions::check_count(count)?;
    let mut offset = BATCH_HEADER_BYTES + 2;
    for _ in 0..count {
        (_, offset) = conditions::decode(bytes, offset)?;
    }
    Ok(offset)
}

pub(super) fn check_key_len(len: u64) -> Result<(), BatchError> {
    match len {
        0 => Err(BatchError::EmptyKey),
        n if n > MAX_KEY_BYTES as u64 => Err(BatchError::KeyTooLarge { len }),
        _ => Ok(()),
    }
}

/// What a range delete with these bounds counts of [`MAX_RANGE_DELETES`](crate::limits::MAX_RANGE_DELETES).
#[must_use]
pub const fn range_delete_cost(start: &[u8], end: &[u8]) -> usize {
    1 + (start.len() + end.len()) / RANGE_DELETE_UNIT_BYTES
}

fn check_bound_len(len: u64) -> Result<(), BatchError> {
    if len > MAX_KEY_BYTES as u64 { Err(BatchError::KeyTooLarge { len }) } else { Ok(()) }
}

/// Whether `start..end` can hold a key; an empty `end` is past the last key.
fn check_range(start: &[u8], end: &[u8]) -> Result<(), BatchError> {
    check_bound_len(start.len() as u64)?;
    check_bound_len(end.len() as u64)?;
    if end.is_empty() || start < end { Ok(()) } else { Err(BatchError::EmptyRange) }
}

fn check_value_len(len: u64) -> Result<(), BatchError> {
    if len > MAX_VALUE_BYTES as u64 { Err(BatchError::ValueTooLarge { len }) } else { Ok(()) }
}

#[inline]
fn decode_op(bytes: &[u8], at: usize) -> Result<(Op<'_>, usize), BatchError> {
    let Some(&kind_byte) = bytes.get(at) else {
        return Err(BatchError::Truncated { offset: at });
    };
    match kind_byte {
        kind::PUT => {
            let (key, next) = decode_slice(bytes, at + 1, check_key_len)?;
            let (value, next) = decode_slice(bytes, next, check_value_len)?;
            Ok((Op::Put { key, value }, next))
        }
        kind::DELETE => {
            let (key, next) = decode_slice(bytes, at + 1, check_key_len)?;
            Ok((Op::Delete { key }, next))
        }
        kind::DELETE_RANGE => {
            let (start, next) = decode_slice(bytes, at + 1, check_bound_len)?;
            let (end, next) = decode_slice(bytes, next, check_bound_len)?;
            check_range(start, end)?;
            Ok((Op::DeleteRange { start, end }, next))
        }
        kind::NO_OP => Ok((Op::NoOp, at + 1)),
        kind::REGISTER => Ok((Op::Register, at + 1)),
        kind::MEMBERSHIP => {
            let (encoded, next) = decode_slice(bytes, at + 1, check_membership_len)?;
            Ok((Op::Membership(encoded), next))
        }
        other => Err(BatchError::UnknownKind { kind: other, offset: at }),
    }
}

#[inline]
pub(super) fn decode_slice(
    bytes: &[u8],
    at: usize,
    check: impl Fn(u64) -> Result<(), BatchError>,
) -> Result<(&[u8], usize), BatchError> {
    let rest = &bytes[at..];
    let Some((len, n)) = varint::get_u64(rest) else { return Err(bad_length(bytes, at)) };
    check(len)?;
    let len = usize::try_from(len).map_err(|_| BatchError::BadLength { offset: at })?;
    match rest.get(n..n + len) {
        Some(slice) => Ok((slice, at + n + len)),
        None => Err(BatchError::Truncated { offset: bytes.len() }),
    }
}

#[cold]
pub(super) fn bad_length(bytes: &[u8], at: usize) -> BatchError {
    let rest = &bytes[at..];
    let cut_short = rest.len() < varint::MAX_VARINT_BYTES && rest.iter().all(|b| b & 0x80 != 0);
    if cut_short {
        BatchError::Truncated { offset: bytes.len() }
    } else {
        BatchError::BadLength { offset: at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> WriteBatch {
        let mut batch = WriteBatch::new();
        batch.set_client(7, 9, 6);
        batch.put(b"k1", b"v1").unwrap();
        batch.delete(b"k2").unwrap();
        batch.put(b"k3", b"").unwrap();
        batch
    }

    #[test]
    fn golden_bytes() {
        let hex: String = sample().as_bytes().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            hex,
            "0100000300000003000000000000000700000000000000090102\
             6b310276310202\
             6b320102\
             6b3300"
        );
    }

    #[test]
    fn every_truncation_is_an_error_and_never_panics() {
        let batch = sample();
        for cut in 0..batch.as_bytes().len() {
            assert!(BatchRef::parse(&batch.as_bytes()[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn bad_fields_are_named() {
        let good = sample().into_bytes();
        let with = |i: usize, b: u8| {
            let mut bytes = good.clone();
            bytes[i] = b;
            bytes
        };
        assert!(matches!(
            BatchRef::parse(&with(0, 2)),
            Err(BatchError::Header { field: "version", found: 2, .. })
        ));
        assert!(matches!(
            BatchRef::parse(&with(24, 0x7f)),
            Err(BatchError::UnknownKind { kind: 0x7f, offset: 24 })
        ));
        assert!(matches!(BatchRef::parse(&with(25, 0)), Err(BatchError::EmptyKey)));
        assert!(matches!(BatchRef::parse(&with(7, 2)), Err(BatchError::TrailingBytes { .. })));
        assert!(matches!(BatchRef::parse(&with(4, 0xff)), Err(BatchError::TooLarge { .. })));
    }

    #[test]
    fn range_deletes_have_bounds_a_flag_and_a_limit() {
        let mut batch = WriteBatch::new();
        batch.put(b"b", b"1").unwrap();
        assert_eq!(batch.as_bytes()[1], 0);
        for (start, end) in [(&b"b"[..], &b"b"[..]), (b"c", b"b")] {
            assert_eq!(batch.delete_range(start, end), Err(BatchError::EmptyRange));
        }
        let long = vec![b'a'; MAX_KEY_BYTES + 1];
        assert!(matches!(batch.delete_range(b"", &long), Err(BatchError::KeyTooLarge { .. })));
        batch.delete_range(b"a", b"c").unwrap();
        batch.delete_range(b"", b"").unwrap();
        assert_eq!(batch.as_bytes()[1], FLAG_RANGE_DELETES);
        let parsed = BatchRef::parse(batch.as_bytes()).unwrap();
        assert!(parsed.has_range_deletes());
        assert_eq!((parsed.len(), parsed.range_deletes()), (3, 2));
        let ops: Vec<_> = parsed.ops().skip(1).collect();
        let all = Op::DeleteRange { start: b"", end: b"" };
        assert_eq!(ops, [Op::DeleteRange { start: b"a", end: b"c" }, all]);
        parsed.check_user().unwrap();
        let mut unflagged = batch.as_bytes().to_vec();
        unflagged[1] = 0;
        let wrong = Err(BatchError::Header { field: "flags", found: 0, expected: 2 });
        assert_eq!(BatchRef::parse(&unflagged), wrong);
        let mut flagged = sample().into_bytes();
        flagged[1] = 2;
        let wrong = Err(BatchError::Header { field: "flags", found: 2, expected: 0 });
        assert_eq!(BatchRef::parse(&flagged), wrong);
        batch.clear();
        assert_eq!(batch, WriteBatch::new());
        for _ in 0..MAX_BATCH_RANGE_DELETES {
            batch.delete_range(b"a", b"").unwrap();
        }
        let full = Err(BatchError::TooManyRangeDeletes { found: MAX_BATCH_RANGE_DELETES + 1 });
        assert_eq!(batch.delete_range(b"a", b""), full);
    }

    #[test]
    fn a_range_delete_spans_reserved_keys_and_does_not_name_them() {
        let check = |start: &[u8], end: &[u8]| {
            let mut batch = WriteBatch::new();
            batch.delete_range(start, end).unwrap();
            BatchRef::parse(batch.as_bytes()).unwrap().check_user()
        };
        assert_eq!(check(b"", b""), Ok(()));
        assert_eq!(check(b"\x00", b"\x01"), Ok(()));
        assert_eq!(check(b"\x00beach\x00s", b"z"), Err(BatchError::ReservedKey));
        assert_eq!(check(b"\x00", b"\x00beach\x00s"), Err(BatchError::ReservedKey));
    }

    #[test]
    fn clients_may_not_send_internal_kinds_or_reserved_keys_or_nothing() {
        let check = |b: &WriteBatch| BatchRef::parse(b.as_bytes()).unwrap().check_user();
        assert_eq!(check(&sample()), Ok(()));
        assert_eq!(check(&WriteBatch::new()), Err(BatchError::Empty));
        assert_eq!(check(&WriteBatch::no_op()), Err(BatchError::InternalKind { kind: 0x80 }));
        assert_eq!(check(&WriteBatch::register()), Err(BatchError::InternalKind { kind: 0x81 }));
        let membership = WriteBatch::membership(b"any");
        assert_eq!(check(&membership), Err(BatchError::InternalKind { kind: 0x82 }));
        let mut reserved = WriteBatch::new();
        reserved.put(b"\x00beach\x00x", b"").unwrap();
        assert_eq!(check(&reserved), Err(BatchError::ReservedKey));
    }

    #[test]
    fn a_session_has_an_id_a_sequence_and_a_bounded_window_or_nothing() {
        let parse = |id: u64, sequence: u64, window: u16| {
            let mut bytes = sample().into_bytes();
            BigEndian::write_u16(&mut bytes[2..4], window);
            BigEndian::write_u64(&mut bytes[8..16], id);
            BigEndian::write_u64(&mut bytes[16..24], sequence);
            BatchRef::parse(&bytes).map(|b| b.acked_below())
        };
        assert_eq!(parse(0, 0, 0), Ok(0));
        assert_eq!(parse(7, 9, 3), Ok(6));
        assert_eq!(parse(7, 9, 9), Ok(0));
        assert_eq!(parse(u64::MAX, u64::MAX, MAX_SESSION_WINDOW - 1), Ok(u64::MAX - 255));
        for (id, sequence, window) in [(0, 1, 0), (0, 0, 1), (0, 9, 3), (7, 0, 0), (7, 9, 10)] {
            let found = parse(id, sequence, window);
            assert!(matches!(found, Err(BatchError::Session { .. })), "{id} {sequence} {window}");
        }
        for window in [MAX_SESSION_WINDOW, MAX_SESSION_WINDOW + 1] {
            let full = BatchError::SessionWindowFull { client_id: 7, client_sequence: 900, window };
            assert_eq!(parse(7, 900, window), Err(full));
        }
    }

    #[test]
    #[should_panic(expected = "client 7, sequence 300, acked below 44")]
    fn a_client_that_overruns_its_window_is_a_programmers_mistake() {
        WriteBatch::new().set_client(7, 300, 44);
    }

    #[test]
    fn an_internal_operation_is_alone_and_of_no_client() {
        for internal in
            [WriteBatch::no_op(), WriteBatch::register(), WriteBatch::membership(b"any")]
        {
            let good = internal.as_bytes().to_vec();
            assert_eq!(BatchRef::parse(&good).unwrap().len(), 1);
            let mut with_put = good.clone();
            with_put[7] = 2;
            with_put.extend_from_slice(&[kind::PUT, 1, b'k', 1, b'v']);
            let expected = Err(BatchError::NotAlone { kind: good[24] });
            assert_eq!(BatchRef::parse(&with_put), expected);
            let mut of_client = good.clone();
            (of_client[15], of_client[23]) = (7, 1);
            assert_eq!(BatchRef::parse(&of_client), expected);
        }
    }

    #[test]
    fn limits_leave_the_batch_unchanged() {
        let mut batch = sample();
        let before = batch.clone();
        assert_eq!(batch.put(b"", b""), Err(BatchError::EmptyKey));
        assert!(matches!(
            batch.put(&vec![0; MAX_KEY_BYTES + 1], b""),
            Err(BatchError::KeyTooLarge { .. })
        ));
        assert!(matches!(
            batch.put(b"k", &vec![0; MAX_VALUE_BYTES + 1]),
            Err(BatchError::ValueTooLarge { .. })
        ));
        assert_eq!(batch, before);
        batch.put(b"k", &vec![0; MAX_VALUE_BYTES]).unwrap();
        assert!(matches!(
            batch.put(b"k", &vec![0; MAX_VALUE_BYTES]),
            Err(BatchError::TooLarge { .. })
        ));
    }

    proptest! {
        #[test]
        fn round_trip(ops in proptest::collection::vec(
            (any::<bool>(), proptest::collection::vec(any::<u8>(), 1..40), proptest::collection::vec(any::<u8>(), 0..300)), 0..40)) {
            let mut batch = WriteBatch::new();
            for (put, key, value) in &ops {
                if *put { batch.put(key, value).unwrap() } else { batch.delete(key).unwrap() }
            }
            let parsed = BatchRef::parse(batch.as_bytes()).unwrap();
            prop_assert_eq!(parsed.len(), ops.len());
            for (op, (put, key, value)) in parsed.ops().zip(&ops) {
                let expected = if *put { Op::Put { key, value } } else { Op::Delete { key } };
                prop_assert_eq!(op, expected);
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic_and_parsing_is_canonical(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(parsed) = BatchRef::parse(&bytes) {
                prop_assert_eq!(parsed.ops().count(), parsed.len());
            }
        }
    }
}
