//! What a reader sees of a merge: of each key the newest version at or before the reader's sequence number, if it is a value
//! and no range delete hides it. Forwards and backwards, a bounded number of keys at a time.
//!
//! Nothing is allocated for a step: forwards, key and value are borrowed from the source that holds them; backwards the
//! newest version of a key comes last, so key and value are kept in buffers that are used again and again, and a large value
//! as a share of its block.
//!
//! A table in which a range delete covers everything older is not read through: it goes to the end of what is covered. So a
//! range delete costs a scan one seek in each table, however much lies under it.

use super::error::EngineError;
use super::merge::{Merge, Source};
use super::range_delete::{Cover, RangeDeletes};
use crate::base::SequenceNumber;
use crate::base::internal_key::{HEAD_BYTES, Head, ValueKind, seek_trailer, unpack_trailer};
use bytes::Bytes;
use std::sync::Arc;

/// Versions of one key that are stepped over before the next key is sought.
const FEW_VERSIONS: usize = 4;
/// Values up to here are copied when they are kept.
const COPIED_VALUE_BYTES: usize = 1 << 10;

/// Where a search ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// At an entry that the reader sees.
    Entry,
    /// Nothing is left between the bounds.
    End,
    /// The keys that may be looked at are used up; there may be more.
    Limit,
}

/// See the module. Starts at no position: seek first, then [`Visible::find`].
pub struct Visible<'a> {
    merge: Merge<'a>,
    cover: Cover,
    /// The trailer at or behind which versions are old enough.
    newest: u64,
    back: bool,
    /// Forwards: versions of this key are passed over, if `passing`; not kept when head and length tell it. Backwards: the key
    /// that was looked at last.
    key: Vec<u8>,
    passing: Option<Passing>,
    /// Backwards: the entry found.
    trailer: u64,
    value: Kept,
}

/// A key of which everything is passed over.
#[derive(Clone, Copy)]
struct Passing {
    head: Head,
    len: usize,
}

/// A value that is kept.
#[derive(Default)]
struct Kept {
    copied: Vec<u8>,
    shared: Option<Bytes>,
}

impl Kept {
    fn keep(&mut self, merge: &Merge<'_>) {
        let value = merge.value_slice();
        self.copied.clear();
        self.shared = (value.len() > COPIED_VALUE_BYTES).then(|| merge.value());
        if self.shared.is_none() {
            self.copied.extend_from_slice(value);
        }
    }

    fn slice(&self) -> &[u8] {
        self.shared.as_deref().unwrap_or(&self.copied)
    }
}

impl<'a> Visible<'a> {
    /// What a reader at `seq` sees of `merge`, of which `deletes` hide a part.
    #[must_use]
    pub fn new(merge: Merge<'a>, deletes: Arc<RangeDeletes>, seq: SequenceNumber) -> Self {
        Self {
            merge,
            cover: Cover::new(deletes, seq),
            newest: seek_trailer(seq),
            back: false,
            key: Vec::new(),
            passing: None,
            trailer: 0,
            value: Kept::default(),
        }
    }

    /// Before the first key at or after `key`, forwards from there.
    pub fn seek(&mut self, key: &[u8]) -> Result<(), EngineError> {
        (self.back, self.passing) = (false, None);
        self.merge.seek(key, self.newest)
    }

    /// Behind the last key before `end` (`None` = the last of all), backwards from there.
    pub fn seek_back(&mut self, end: Option<&[u8]>) -> Result<(), EngineError> {
        (self.back, self.passing) = (true, None);
        match end {
            Some(end) => self.merge.seek_for_prev(end, u64::MAX),
            None => self.merge.seek_to_last(),
        }
    }

    /// Another source takes the place of source `number`; seek next.
    pub fn set_source(&mut self, number: usize, source: Source<'a>) {
        self.merge.replace(number, source);
    }

    /// Another source takes the place of source `number`: it goes on at `key`, backwards before `key`, where the others are.
    pub fn replace(
        &mut self,
        number: usize,
        source: Source<'a>,
        key: &[u8],
    ) -> Result<(), EngineError> {
        self.merge.replace(number, source);
        self.merge.continue_at(number, key, if self.back { u64::MAX } else { self.newest })
    }

    /// Goes past the entry that was found.
    #[inline]
    pub fn pass(&mut self) {
        if self.back {
            return;
        }
        if let Some((key, _)) = self.merge.key() {
            if key.len() > HEAD_BYTES {
                self.key.clear();
                self.key.extend_from_slice(key);
            }
            self.passing = Some(Passing { head: self.merge.head(), len: key.len() });
        }
    }

    /// Goes on to the next entry that the reader sees, in the direction of the last seek: forwards below `end`, backwards at or
    /// after `start`. Takes one of `steps` for each key that it looks at.
    #[inline]
    pub fn find(
        &mut self,
        start: &[u8],
        end: Option<&[u8]>,
        steps: &mut usize,
    ) -> Result<Found, EngineError> {
        if self.back { self.find_back(start, steps) } else { self.find_forward(end, steps) }
    }

    #[inline]
    fn find_forward(
        &mut self,
        end: Option<&[u8]>,
        steps: &mut usize,
    ) -> Result<Found, EngineError> {
        // Entries in a row that are of the key that is passed over, or too new.
        let mut row = 0;
        loop {
            let Some((key, trailer)) = self.merge.key() else { return Ok(Found::End) };
            if let Some(Passing { head, len }) = self.passing
                && head == self.merge.head()
                && len == key.len()
                && (len <= HEAD_BYTES || key == self.key)
            {
                row += 1;
                if row > FEW_VERSIONS {
                    self.key.clear();
                    self.key.extend_from_slice(key);
                    self.merge.seek_forward(&self.key, 0)?;
                } else {
                    self.merge.next()?;
                }
                continue;
            }
            if end.is_some_and(|end| key >= end) {
                return Ok(Found::End);
            }
            if trailer > self.newest {
                row += 1;
                if row > FEW_VERSIONS {
                    self.key.clear();
                    self.key.extend_from_slice(key);
                    self.passing = None;
                    self.merge.seek_forward(&self.key, self.newest)?;
                } else {
                    self.merge.next()?;
                }
                continue;
            }
            if *steps == 0 {
                return Ok(Found::Limit);
            }
            *steps -= 1;
            let covering = self.cover.covering(key);
            if covering.0 > 0 && self.merge.top_is_older(covering.0) {
                let (start, end) = self.cover.bounds(key).expect("a covered key has bounds");
                self.merge.pass_top(start, end)?;
                continue;
            }
            // A kind that is not known cannot pass a memtable or a table's reader.
            let is_put = trailer as u8 == ValueKind::Put as u8;
            if is_put && SequenceNumber(trailer >> 8) >= covering {
                return Ok(Found::Entry);
            }
            self.pass();
            row = 0;
        }
    }

    fn find_back(&mut self, start: &[u8], steps: &mut usize) -> Result<Found, EngineError> {
        loop {
            let Some((key, _)) = self.merge.key().filter(|(key, _)| *key >= start) else {
                return Ok(Found::End);
            };
            if *steps == 0 {
                return Ok(Found::Limit);
            }
            *steps -= 1;
            let covering = self.cover.covering(key);
            if covering.0 > 0 && self.merge.top_is_older(covering.0) {
                let (start, end) = self.cover.bounds(key).expect("a covered key has bounds");
                self.merge.pass_top(start, end)?;
                continue;
            }
            self.key.clear();
            self.key.extend_from_slice(key);
            let Some(trailer) = self.newest_of_key()? else { continue };
            let is_put = trailer as u8 == ValueKind::Put as u8;
            if is_put && SequenceNumber(trailer >> 8) >= covering {
                self.trailer = trailer;
                return Ok(Found::Entry);
            }
        }
    }

    /// Backwards, from the oldest version of `self.key`: keeps the newest one that is old enough, and goes to the key before.
    fn newest_of_key(&mut self) -> Result<Option<u64>, EngineError> {
        let mut newest = None;
        for _ in 0..FEW_VERSIONS {
            let here = self.merge.key().filter(|(key, _)| *key == self.key);
            let Some((_, trailer)) = here else { return Ok(newest) };
            if trailer <= self.newest {
                newest = Some(trailer);
                self.value.keep(&self.merge);
            }
            self.merge.next()?;
        }
        self.merge.seek(&self.key, self.newest)?;
        let here = self.merge.key().filter(|(key, _)| *key == self.key);
        let newest = here.map(|(_, trailer)| trailer);
        if newest.is_some() {
            self.value.keep(&self.merge);
        }
        self.merge.seek_for_prev(&self.key, u64::MAX)?;
        Ok(newest)
    }

    /// The key of the entry found.
    #[must_use]
    #[inline]
    pub fn key(&self) -> &[u8] {
        if self.back { &self.key } else { self.merge.key().map_or(&[], |(key, _)| key) }
    }

    /// The sequence number that wrote it.
    #[must_use]
    pub fn seq(&self) -> SequenceNumber {
        let trailer = if self.back {
            self.trailer
        } else {
            self.merge.key().map_or(0, |(_, trailer)| trailer)
        };
        unpack_trailer(trailer).map_or(SequenceNumber::ZERO, |(seq, _)| seq)
    }

    /// Its value.
    #[must_use]
    #[inline]
    pub fn value(&self) -> &[u8] {
        if self.back { self.value.slice() } else { self.merge.value_slice() }
    }

    /// Its value, to keep.
    #[must_use]
    pub fn value_bytes(&self) -> Bytes {
        if !self.back {
            return self.merge.value();
        }
        self.value.shared.clone().unwrap_or_else(|| Bytes::copy_from_slice(&self.value.copied))
    }

    /// After [`Found::Limit`]: where to go on. The first key not looked at, or not in every source; backwards, what is left lies
    /// before what this returns, which is the key after that one.
    #[must_use]
    pub fn resume(&self) -> Vec<u8> {
        let mut key = self.merge.key().map(|(key, _)| key.to_vec()).unwrap_or_default();
        if self.back {
            key.push(0);
        }
        key
    }
}
