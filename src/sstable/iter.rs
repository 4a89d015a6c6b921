//! Walks a table forwards, block by block.

use super::block::Cursor;
use super::error::TableError;
use super::table::{Table, unknown_kind};
use crate::base::internal_key;
use bytes::Bytes;
use std::sync::Arc;

/// A position in a table, or none. Holds one data block and one key buffer.
///
/// After an error the iterator is at no position; seek again to use it.
pub struct TableIter {
    table: Arc<Table>,
    /// The data block of the position.
    block: usize,
    cursor: Option<Cursor>,
}

impl TableIter {
    pub(super) const fn new(table: Arc<Table>) -> Self {
        Self { table, block: 0, cursor: None }
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

    /// Goes to the first entry at or after (user key, trailer); see
    /// [`internal_key::seek_trailer`] for the trailer that a reader at a sequence number wants.
    pub fn seek(&mut self, user_key: &[u8], trailer: u64) -> Result<(), TableError> {
        let table = Arc::clone(&self.table);
        let i = table
            .index
            .restarts_before(user_key, trailer)
            .map_err(|fault| fault.in_file(table.file().path()))?;
        let Some(mut cursor) = self.open(i)? else { return Ok(()) };
        let found =
            cursor.seek(user_key, trailer).map_err(|fault| fault.in_file(table.file().path()))?;
        if found { self.settle(cursor) } else { self.first_of(i + 1) }
    }

    /// Steps to the next entry; at the end the iterator becomes invalid.
    ///
    /// # Panics
    /// When the iterator is not [valid](Self::valid).
    #[expect(clippy::should_implement_trait, reason = "a cursor with a position, not an Iterator")]
    pub fn next(&mut self) -> Result<(), TableError> {
        let mut cursor = self.cursor.take().expect("next is called on a valid iterator");
        let stepped = cursor.advance().map_err(|fault| fault.in_file(self.table.file().path()))?;
        if stepped {
            self.settle(cursor)
        } else {
            self.cursor = Some(cursor);
            self.first_of(self.block + 1)
        }
    }

    /// Whether there is a position.
    #[must_use]
    pub const fn valid(&self) -> bool {
        self.cursor.is_some()
    }

    /// User key and trailer at the position.
    ///
    /// # Panics
    /// When the iterator is not [valid](Self::valid); so do the methods below.
    #[must_use]
    pub fn key(&self) -> (&[u8], u64) {
        self.at().key()
    }

    /// The value at the position; empty for a tombstone.
    #[must_use]
    pub fn value(&self) -> &[u8] {
        self.at().value()
    }

    /// The value at the position, sharing the block's memory.
    #[must_use]
    pub fn value_bytes(&self) -> Bytes {
        self.at().value_bytes()
    }

    fn at(&self) -> &Cursor {
        self.cursor.as_ref().expect("the iterator is valid")
    }

    /// Goes to the first entry of block `i`, or to no position when there is no such block.
    fn first_of(&mut self, i: usize) -> Result<(), TableError> {
        let Some(mut cursor) = self.open(i)? else { return Ok(()) };
        let stepped = cursor.advance().map_err(|fault| fault.in_file(self.table.file().path()))?;
        debug_assert!(stepped, "a block has at least one entry");
        self.settle(cursor)
    }

    /// A cursor before block `i`, reusing the key buffer; leaves the iterator without a position.
    fn open(&mut self, i: usize) -> Result<Option<Cursor>, TableError> {
        let buffer = self.cursor.take().map(Cursor::into_buffer).unwrap_or_default();
        if i >= self.table.data_blocks() {
            return Ok(None);
        }
        let block = self.table.fetch_data_block(self.table.handle(i)?)?;
        self.block = i;
        Ok(Some(Cursor::new(block, buffer)))
    }

    /// Takes the cursor's entry as the position, after a look at its kind.
    fn settle(&mut self, cursor: Cursor) -> Result<(), TableError> {
        let (_, trailer) = cursor.key();
        if internal_key::unpack_trailer(trailer).is_none() {
            let fault = unknown_kind(cursor.block(), &cursor.value_range(), trailer);
            return Err(fault.in_file(self.table.file().path()));
        }
        self.cursor = Some(cursor);
        Ok(())
    }
}
