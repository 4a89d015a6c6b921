//! The bodies of MULTI_GET: several keys read at one sequence number.
//!
//! ```text
//! request  snapshot (8), 0 = now | number of keys (4), 0 (4) | keys: length (2), key
//! reply    sequence number (8)   | number of values (4), 0 (4) | values, in the order of the keys:
//!                                    sequence (8), 0 = the key has no value | length (4), 0 (4) | value, padded to 8
//! ```
//!
//! Normative, with worked frames: `proto-spec/client.md`. The keys of a request borrow from the receive buffer, and are checked
//! once: walking them cannot fail.

use super::body::{BodyError, Reader, padding, put_padded, put_u64s};
use crate::base::SequenceNumber;
use crate::base::batch::{BatchError, RESERVED_KEY_PREFIX};
use crate::limits::{MAX_KEY_BYTES, MAX_MULTI_GET_KEYS};
use byteorder::{BigEndian, ByteOrder};
use bytes::Bytes;

const FIXED_BYTES: usize = 16;
const VALUE_FIXED_BYTES: usize = 16;

/// Keys to be read together, as they stand in a request.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KeyList {
    bytes: Vec<u8>,
    len: u32,
}

impl KeyList {
    /// Of these keys.
    pub fn of<'k>(keys: impl IntoIterator<Item = &'k [u8]>) -> Result<Self, BatchError> {
        let mut list = Self::default();
        for key in keys {
            list.push(key)?;
        }
        Ok(list)
    }

    /// Adds a key. On an error the list is unchanged; how many there are is checked by the one who gets the request.
    pub fn push(&mut self, key: &[u8]) -> Result<(), BatchError> {
        check_key(key)?;
        self.bytes.extend_from_slice(&(key.len() as u16).to_be_bytes());
        self.bytes.extend_from_slice(key);
        self.len += 1;
        Ok(())
    }

    /// The request for them, as of `snapshot`; 0 = now.
    #[must_use]
    pub fn as_request(&self, snapshot: SequenceNumber) -> MultiGetRequest<'_> {
        MultiGetRequest { snapshot, len: self.len, keys: &self.bytes }
    }
}

/// The body of a MULTI_GET.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MultiGetRequest<'a> {
    /// Read as of this sequence number; 0 = now.
    pub snapshot: SequenceNumber,
    len: u32,
    keys: &'a [u8],
}

impl<'a> MultiGetRequest<'a> {
    /// How many keys.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there is none; a server refuses that.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut rest = self.keys;
        std::iter::from_fn(move || {
            let (len, after) = rest.split_first_chunk::<2>()?;
            let (key, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
            rest = after;
            Some(key)
        })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_u64s(out, [self.snapshot.0]);
        out.extend_from_slice(&self.len.to_be_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(self.keys);
    }

    /// `body` without its snapshot, which the caller has checked.
    pub(super) fn decode(snapshot: SequenceNumber, body: &'a [u8]) -> Result<Self, RequestFault> {
        let bad =
            |field, offset, expected, found| RequestFault::Body { field, offset, expected, found };
        let Some(keys) = body.get(FIXED_BYTES..) else {
            return Err(bad("body length", 0, "at least 16", body.len()));
        };
        let len = BigEndian::read_u32(&body[8..12]);
        if len == 0 || len as usize > MAX_MULTI_GET_KEYS {
            return Err(bad("number of keys", 8, "1 to 1024", len as usize));
        }
        if body[12..16] != [0; 4] {
            return Err(bad("reserved", 12, "0", BigEndian::read_u32(&body[12..16]) as usize));
        }
        let request = Self { snapshot, len, keys };
        let mut at = FIXED_BYTES;
        for _ in 0..len {
            let Some(key_len) = body.get(at..at + 2) else {
                return Err(bad("key length", at, "as many as there are keys", body.len()));
            };
            let key_at = at + 2;
            at = key_at + usize::from(BigEndian::read_u16(key_len));
            let Some(key) = body.get(key_at..at) else {
                return Err(bad("key", key_at, "as many bytes as its length says", body.len()));
            };
            check_key(key).map_err(RequestFault::Key)?;
        }
        if at != body.len() {
            return Err(bad("body length", at, "nothing after the keys", body.len()));
        }
        Ok(request)
    }
}

/// Why a body is not a request.
pub(super) enum RequestFault {
    Body { field: &'static str, offset: usize, expected: &'static str, found: usize },
    Key(BatchError),
}

/// The answer to a MULTI_GET.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MultiGetReply {
    /// The sequence number that all were read at.
    pub at: SequenceNumber,
    /// For each key in the order of the request: the sequence number that wrote its value, and the value; `None`: it has none.
    pub values: Vec<Option<(SequenceNumber, Bytes)>>,
}

impl MultiGetReply {
    /// Bytes of the values.
    #[must_use]
    pub fn value_bytes(&self) -> usize {
        self.values.iter().flatten().map(|(_, value)| value.len()).sum()
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_u64s(out, [self.at.0]);
        out.extend_from_slice(&(self.values.len() as u32).to_be_bytes());
        out.extend_from_slice(&[0; 4]);
        for found in &self.values {
            let (seq, value) = match found {
                Some((seq, value)) => (seq.0, &value[..]),
                None => (0, &[][..]),
            };
            put_u64s(out, [seq]);
            out.extend_from_slice(&(value.len() as u32).to_be_bytes());
            out.extend_from_slice(&[0; 4]);
            put_padded(out, value, value.len());
        }
    }

    pub(super) fn decode(r: &Reader<'_>) -> Result<Self, BodyError> {
        r.len_at_least(FIXED_BYTES, "at least 16")?;
        let (at, len) = (r.seq(0, "sequence")?, r.u32(8));
        r.zero(12, 4, "reserved")?;
        // The number is checked against the bytes that are there before memory is reserved for it.
        if len as usize > (r.body.len() - FIXED_BYTES) / VALUE_FIXED_BYTES {
            return Err(r.bad("number of values", 8, "as many as the body holds", len.into()));
        }
        let mut values = Vec::with_capacity(len as usize);
        let mut offset = FIXED_BYTES;
        for _ in 0..len {
            r.len_at_least(offset + VALUE_FIXED_BYTES, "room for each value")?;
            let (seq, value_len) = (r.seq(offset, "value sequence")?, r.u32(offset + 8) as usize);
            r.zero(offset + 12, 4, "reserved")?;
            let value_at = offset + VALUE_FIXED_BYTES;
            let room = r.body.len() - value_at;
            if value_len.saturating_add(padding(value_len)) > room {
                return Err(r.bad("value length", offset + 8, "within the body", value_len as u64));
            }
            if seq == SequenceNumber::ZERO && value_len > 0 {
                return Err(r.bad(
                    "value length",
                    offset + 8,
                    "0 without a value",
                    value_len as u64,
                ));
            }
            let end = value_at + value_len;
            r.zero(end, padding(value_len), "padding")?;
            let found = (seq != SequenceNumber::ZERO).then(|| (seq, r.body.slice(value_at..end)));
            values.push(found);
            offset = end + padding(value_len);
        }
        r.len_is(offset, "the values and nothing after them")?;
        Ok(Self { at, values })
    }
}

fn check_key(key: &[u8]) -> Result<(), BatchError> {
    match key.len() {
        0 => Err(BatchError::EmptyKey),
        len if len > MAX_KEY_BYTES => Err(BatchError::KeyTooLarge { len: len as u64 }),
        _ if key.starts_with(RESERVED_KEY_PREFIX) => Err(BatchError::ReservedKey),
        _ => Ok(()),
    }
}
