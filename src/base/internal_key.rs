//! Internal keys: a user key with the sequence number and kind of one operation on it.
//!
//! ```text
//! user key (any bytes) | trailer: 8 bytes big-endian = (sequence number << 8) | kind
//! ```
//!
//! Order: user key ascending (bytewise), then trailer *descending*, so that the newest version of a key comes
//! first and `seek(key, S)` lands on the newest version that a reader at sequence number `S` may see.
//! The order is not that of the concatenated bytes; always compare with [`compare`] or on the parts.

use super::SequenceNumber;
use std::cmp::Ordering;

/// What a version of a key is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum ValueKind {
    /// The key holds a value.
    Put = 1,
    /// A tombstone: the key is deleted.
    Delete = 2,
}

impl ValueKind {
    /// The kind for a byte, `None` for one this version does not know.
    #[must_use]
    pub const fn from_u8(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Put),
            2 => Some(Self::Delete),
            _ => None,
        }
    }
}

/// Bytes in the trailer.
pub const TRAILER_BYTES: usize = 8;

/// A trailer that sorts before every other trailer of the same user key at sequence numbers ≤ `seq`.
#[must_use]
pub const fn seek_trailer(seq: SequenceNumber) -> u64 {
    (seq.0 << 8) | 0xff
}

/// Packs a sequence number and a kind.
#[must_use]
pub const fn pack_trailer(seq: SequenceNumber, kind: ValueKind) -> u64 {
    debug_assert!(seq.0 <= SequenceNumber::MAX.0);
    (seq.0 << 8) | kind as u64
}

/// Unpacks a trailer; `None` when the kind is unknown.
#[must_use]
pub const fn unpack_trailer(trailer: u64) -> Option<(SequenceNumber, ValueKind)> {
    match ValueKind::from_u8(trailer as u8) {
        Some(kind) => Some((SequenceNumber(trailer >> 8), kind)),
        None => None,
    }
}

/// Appends the internal key to `out`.
pub fn encode(out: &mut Vec<u8>, user_key: &[u8], trailer: u64) {
    out.extend_from_slice(user_key);
    out.extend_from_slice(&trailer.to_be_bytes());
}

/// Splits an encoded internal key into user key and trailer; `None` when it is shorter than a trailer.
#[must_use]
pub fn split(internal: &[u8]) -> Option<(&[u8], u64)> {
    let (user, trailer) = internal.split_last_chunk::<TRAILER_BYTES>()?;
    Some((user, u64::from_be_bytes(*trailer)))
}

/// The order of internal keys, on the parts.
#[must_use]
pub fn compare(a: (&[u8], u64), b: (&[u8], u64)) -> Ordering {
    a.0.cmp(b.0).then_with(|| b.1.cmp(&a.1))
}

/// The first 16 bytes of a user key as a number that sorts like them; shorter keys are filled up with zeros. Keys whose heads
/// differ are in the order of their heads; of equal heads, keys of one length up to [`HEAD_BYTES`] are equal.
pub type Head = u128;

/// Bytes of a key that its [`Head`] tells.
pub const HEAD_BYTES: usize = 16;

/// The head of `user_key`.
#[inline]
#[must_use]
pub fn head(user_key: &[u8]) -> Head {
    if let Some(chunk) = user_key.first_chunk::<HEAD_BYTES>() {
        return Head::from_be_bytes(*chunk);
    }
    let mut padded = [0; HEAD_BYTES];
    padded[..user_key.len()].copy_from_slice(user_key);
    Head::from_be_bytes(padded)
}

/// The part of a head that the first `len` bytes make, as a mask.
#[inline]
const fn head_mask(len: usize) -> Head {
    match len {
        0 => 0,
        1..HEAD_BYTES => Head::MAX << (8 * (HEAD_BYTES - len)),
        _ => Head::MAX,
    }
}

/// The head of the key that shares `shared` bytes with one whose head is `before`, and goes on with the first `len` bytes of
/// `rest`. Bytes of `rest` behind them do not matter, but when there are enough nothing is copied.
#[inline]
#[must_use]
pub fn next_head(before: Head, shared: usize, rest: &[u8], len: usize) -> Head {
    if shared >= HEAD_BYTES {
        return before;
    }
    let suffix = head(rest) & head_mask(len);
    (before & head_mask(shared)) | (suffix >> (8 * shared))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_version_first_and_prefixes_before_extensions() {
        let t = |s, k| pack_trailer(SequenceNumber(s), k);
        let sorted = [
            (&b"a"[..], t(9, ValueKind::Put)),
            (b"a", t(3, ValueKind::Delete)),
            (b"a", t(3, ValueKind::Put)),
            (b"a\xff", t(1, ValueKind::Put)),
            (b"b", t(2, ValueKind::Put)),
        ];
        for pair in sorted.windows(2) {
            assert_eq!(compare(pair[0], pair[1]), Ordering::Less, "{pair:?}");
        }
    }

    #[test]
    fn seek_trailer_sees_its_own_sequence_number_and_nothing_newer() {
        let at = seek_trailer(SequenceNumber(5));
        let five = pack_trailer(SequenceNumber(5), ValueKind::Put);
        let six = pack_trailer(SequenceNumber(6), ValueKind::Put);
        assert_eq!(compare((b"k", at), (b"k", five)), Ordering::Less);
        assert_eq!(compare((b"k", at), (b"k", six)), Ordering::Greater);
    }

    #[test]
    fn encode_split_round_trip() {
        let trailer = pack_trailer(SequenceNumber::MAX, ValueKind::Delete);
        let mut out = Vec::new();
        encode(&mut out, b"key", trailer);
        assert_eq!(split(&out), Some((&b"key"[..], trailer)));
        assert_eq!(unpack_trailer(trailer), Some((SequenceNumber::MAX, ValueKind::Delete)));
        assert_eq!(split(&[1, 2, 3]), None);
    }

    #[test]
    fn heads_sort_like_keys_and_go_on_from_the_one_before() {
        let keys: Vec<Vec<u8>> = (0..40_usize)
            .flat_map(|len| [0, 1, 127, 255].map(|byte| vec![byte; len]))
            .chain((0..18).map(|at| (0..18).map(|i| u8::from(i == at)).collect()))
            .collect();
        for a in &keys {
            for b in &keys {
                if head(a) != head(b) {
                    assert_eq!(head(a).cmp(&head(b)), a.cmp(b), "{a:?} {b:?}");
                }
                if head(a) == head(b) && a.len() == b.len() && a.len() <= HEAD_BYTES {
                    assert_eq!(a, b);
                }
                let shared = a.iter().zip(b).take_while(|(a, b)| a == b).count();
                for tail in [&b""[..], b"what comes behind, whatever it is"] {
                    let rest = [&b[shared..], tail].concat();
                    assert_eq!(next_head(head(a), shared, &rest, b.len() - shared), head(b));
                }
            }
        }
    }
}
