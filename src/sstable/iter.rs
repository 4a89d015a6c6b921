//! Walks a table forwards and backwards, block by block.

use super::block::Cursor;
use super::cache::Fetch;
use super::error::{Fault, TableError};
use super::table::{Table, unknown_kind};
use crate::base::internal_key::{self, Head};
use bytes::Bytes;
use std::sync::Arc;

/// A position in a table, or none. Holds one data block and one key buffer.
///
/// Over either end, and after an error, the iterator is at no position; seek again to use it.
pub struct TableIter {
    table: Arc<Table>,
    fetch: Fetch,
    /// The data block of the position.
    block: usize,
    /// Its buffers stay when there is no position.
    cursor: Option<Cursor>,
    valid: bool,
}

impl TableIter {
    pub(super) const fn new(table: Arc<Table>, fetch: Fetch) -> Self {
        Self { table, fetch, block: 0, cursor: None, valid: false }
    }

    /// The table.
    #[must_use]
    pub const fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// Goes to the first entry.
    pub fn seek_to_first(&mut self) -> Result<(), TableError> {
        self.first_of(0)
    }

    /// Goes to the last entry.
    pub fn seek_to_last(&mut self) -> Result<(), TableError> {
        self.last_before(self.table.data_blocks())
    }

    /// Goes to the first entry at or after (user key, trailer); see
    /// [`internal_key::seek_trailer`] for the trailer that a reader at a sequence number wants.
    pub fn seek(&mut self, user_key: &[u8], trailer: u64) -> Result<(), TableError> {
        // Nothing at or after it is before that block, nothing at or before it behind.
        let i = self.table.index.before(user_key, trailer);
        if !self.open(i)? {
            return Ok(());
        }
        if self.within(|cursor| cursor.seek(user_key, trailer))? {
            self.settle()
        } else {
            self.first_of(i + 1)
        }
    }

    /// Goes to the last entry at or before (user key, trailer), in the order of [`internal_key::compare`]: with trailer 0
    /// that is the oldest version of the last key at or before `user_key`.
    pub fn seek_for_prev(&mut self, user_key: &[u8], trailer: u64) -> Result<(), TableError> {
        let i = self.table.index.before(user_key, trailer);
        if !self.open(i)? {
            return self.last_before(i);
        }
        // The separator before this block may lie below its first entry.
        if self.within(|cursor| cursor.seek_for_prev(user_key, trailer))? {
            self.settle()
        } else {
            self.last_before(i)
        }
    }

    /// Steps to the next entry; at the end the iterator becomes invalid.
    ///
    /// # Panics
    /// When the iterator is not [valid](Self::valid).
    #[expect(clippy::should_implement_trait, reason = "a cursor with a position, not an Iterator")]
    #[inline]
    pub fn next(&mut self) -> Result<(), TableError> {
        assert!(self.valid, "next is called on a valid iterator");
        if self.within(Cursor::advance)? { self.settle() } else { self.first_of(self.block + 1) }
    }

    /// Steps to the entry before; at the first one the iterator becomes invalid.
    ///
    /// # Panics
    /// When the iterator is not [valid](Self::valid).
    pub fn prev(&mut self) -> Result<(), TableError> {
        assert!(self.valid, "prev is called on a valid iterator");
        if self.within(Cursor::back)? { self.settle() } else { self.last_before(self.block) }
    }

    /// Whether there is a position.
    #[must_use]
    #[inline]
    pub const fn valid(&self) -> bool {
        self.valid
    }

    /// User key and trailer at the position.
    ///
    /// # Panics
    /// When the iterator is not [valid](Self::valid); so do the methods below.
    #[must_use]
    #[inline]
    pub fn key(&self) -> (&[u8], u64) {
        self.at().key()
    }

    /// The head of the user key at the position.
    #[inline]
    #[must_use]
    pub fn head(&self) -> Head {
        self.at().head()
    }

    /// The value at the position; empty for a tombstone.
    #[must_use]
    #[inline]
    pub fn value(&self) -> &[u8] {
        self.at().value()
    }

    /// The value at the position, sharing the block's memory.
    #[must_use]
    pub fn value_bytes(&self) -> Bytes {
        self.at().value_bytes()
    }

    #[inline]
    fn at(&self) -> &Cursor {
        assert!(self.valid, "the iterator is valid");
        self.cursor.as_ref().expect("a valid iterator has a cursor")
    }

    /// Goes to the first entry of block `i`, or to no position when there is no such block.
    fn first_of(&mut self, i: usize) -> Result<(), TableError> {
        if !self.open(i)? {
            return Ok(());
        }
        let stepped = self.within(Cursor::advance)?;
        debug_assert!(stepped, "a block has at least one entry");
        if planted!(BlockEdgeSkipped) && i > 0 {
            self.within(Cursor::advance)?;
        }
        self.settle()
    }

    /// Goes to the last entry before block `i`, or to no position when there is none.
    fn last_before(&mut self, i: usize) -> Result<(), TableError> {
        self.valid = false;
        let Some(i) = i.checked_sub(1) else { return Ok(()) };
        self.open(i)?;
        self.within(|cursor| cursor.last().map(|()| true))?;
        if planted!(BlockEdgeSkipped) {
            self.within(Cursor::back)?;
        }
        self.settle()
    }

    /// Puts the cursor before the first entry of block `i`, at no position yet; `false` when there is no such block.
    fn open(&mut self, i: usize) -> Result<bool, TableError> {
        self.valid = false;
        if i >= self.table.data_blocks() {
            return Ok(false);
        }
        let block = self.table.fetch_data_block(self.table.index.handle(i), self.fetch)?;
        self.block = i;
        match &mut self.cursor {
            Some(cursor) => cursor.reset(block),
            none => *none = Some(Cursor::new(block)),
        }
        Ok(true)
    }

    /// Moves within the block that is open.
    #[inline]
    fn within(
        &mut self,
        step: impl FnOnce(&mut Cursor) -> Result<bool, Fault>,
    ) -> Result<bool, TableError> {
        let cursor = self.cursor.as_mut().expect("a block is open");
        step(cursor).map_err(|fault| {
            self.valid = false;
            fault.in_file(self.table.file().path())
        })
    }

    /// Takes the cursor's entry as the position, after a look at its kind.
    #[inline]
    fn settle(&mut self) -> Result<(), TableError> {
        let cursor = self.cursor.as_ref().expect("a block is open");
        self.valid = internal_key::unpack_trailer(cursor.key().1).is_some();
        if self.valid {
            return Ok(());
        }
        let fault = unknown_kind(cursor.block(), &cursor.value_range(), cursor.key().1);
        Err(fault.in_file(self.table.file().path()))
    }
}
