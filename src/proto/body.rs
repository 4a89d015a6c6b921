//! Bounds-checked reads of a frame's body, and the writes that go with them: shared by replies and peer frames.
//!
//! Bodies are rows of 8 bytes. A decoder checks how many bytes there are (`Reader::len_is`,
//! `Reader::len_at_least`) before it reads fields at their offsets; what is reserved or padding must be zero
//! (`Reader::zero`), so that every message has one spelling.

use crate::base::SequenceNumber;
use byteorder::{BigEndian, ByteOrder};
use bytes::Bytes;

/// What is wrong with a body, and where.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{field} at body byte {offset}: expected {expected}, found {found}")]
pub struct BodyError {
    /// The field.
    pub field: &'static str,
    /// Where it is in the body.
    pub offset: usize,
    /// What it must be.
    pub expected: &'static str,
    /// What it is.
    pub found: u64,
}

/// One body. Reads of fields panic beyond its end: lengths are checked first.
pub(super) struct Reader<'a> {
    pub(super) body: &'a Bytes,
}

impl Reader<'_> {
    pub(super) const fn bad(
        &self,
        field: &'static str,
        offset: usize,
        expected: &'static str,
        found: u64,
    ) -> BodyError {
        BodyError { field, offset, expected, found }
    }

    pub(super) fn len_is(&self, len: usize, expected: &'static str) -> Result<(), BodyError> {
        if self.body.len() == len {
            return Ok(());
        }
        Err(self.bad("body length", 0, expected, self.body.len() as u64))
    }

    pub(super) fn len_at_least(&self, len: usize, expected: &'static str) -> Result<(), BodyError> {
        if self.body.len() >= len {
            return Ok(());
        }
        Err(self.bad("body length", 0, expected, self.body.len() as u64))
    }

    pub(super) fn u64(&self, at: usize) -> u64 {
        BigEndian::read_u64(&self.body[at..at + 8])
    }

    pub(super) fn u32(&self, at: usize) -> u32 {
        BigEndian::read_u32(&self.body[at..at + 4])
    }

    pub(super) fn u16(&self, at: usize) -> u16 {
        BigEndian::read_u16(&self.body[at..at + 2])
    }

    pub(super) fn zero(&self, at: usize, len: usize, field: &'static str) -> Result<(), BodyError> {
        match self.body[at..at + len].iter().find(|b| **b != 0) {
            None => Ok(()),
            Some(&b) => Err(self.bad(field, at, "0", b.into())),
        }
    }

    pub(super) fn seq(&self, at: usize, field: &'static str) -> Result<SequenceNumber, BodyError> {
        match self.u64(at) {
            n if n <= SequenceNumber::MAX.0 => Ok(SequenceNumber(n)),
            n => Err(self.bad(field, at, "below 2^56", n)),
        }
    }

    pub(super) fn text(
        &self,
        at: usize,
        len: usize,
        field: &'static str,
    ) -> Result<String, BodyError> {
        std::str::from_utf8(&self.body[at..at + len])
            .map(str::to_owned)
            .map_err(|e| self.bad(field, at, "UTF-8", e.valid_up_to() as u64))
    }
}

pub(super) fn put_u64s<const N: usize>(out: &mut Vec<u8>, words: [u64; N]) {
    for word in words {
        out.extend_from_slice(&word.to_be_bytes());
    }
}

/// Zero bytes after `len` bytes up to the next row.
pub(super) const fn padding(len: usize) -> usize {
    len.wrapping_neg() % 8
}

/// Appends `bytes`, then the padding of a field of `len` bytes that they are the end of.
pub(super) fn put_padded(out: &mut Vec<u8>, bytes: &[u8], len: usize) {
    out.extend_from_slice(bytes);
    out.extend_from_slice(&[0; 8][..padding(len)]);
}
