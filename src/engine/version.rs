//! A version: the set of live tables at one moment, immutable and shared.
//!
//! A read pins the `Arc<Version>` of its moment (or the tables it needs from it); installing a flush makes a new
//! version and leaves the old one to its readers.
//!
//! At this stage every table is in level 0, newest first: the tables of a later flush hold only later sequence
//! numbers, so the first table that knows a key has its newest version. Levels below, and who moves tables into them,
//! come with compaction (issue 5): it builds tables in a `Lane::Compact` job and installs them with one edit that
//! removes its inputs, through the same [`State`] and [`Manifest`](super::manifest::Manifest).

use super::edit::{State, TableMeta};
use super::error::EngineError;
use super::manifest::table_file_name;
use crate::base::SequenceNumber;
use crate::env::{Disk, OpenMode};
use crate::sstable::Table;
use std::path::Path;
use std::sync::Arc;

/// A live table.
#[derive(Debug)]
pub struct LiveTable {
    /// What the manifest says about it.
    pub meta: TableMeta,
    /// The open table.
    pub table: Arc<Table>,
}

impl LiveTable {
    /// Opens the table that `meta` describes, and checks that it is that one.
    pub fn open(disk: &dyn Disk, dir: &Path, meta: &TableMeta) -> Result<Self, EngineError> {
        let path = dir.join(table_file_name(meta.number));
        if !disk.exists(&path)? {
            return Err(EngineError::MissingTable { path });
        }
        let file = disk.open(&path, OpenMode::Read)?;
        let bytes = file.len()?;
        let wrong = |Difference { what, expected, found }| EngineError::WrongTable {
            path: path.clone(),
            what,
            expected,
            found,
        };
        Difference::unless_equal("its length", meta.bytes, bytes).map_err(wrong)?;
        let table = Table::open(file, meta.number)?;
        check_properties(meta, &table).map_err(wrong)?;
        Ok(Self { meta: meta.clone(), table: Arc::new(table) })
    }

    /// Whether it may hold a version of `key` (with this hash) that a reader at `seq` sees. Memory only.
    #[must_use]
    pub fn may_hold(&self, key: &[u8], hash: u64, seq: SequenceNumber) -> bool {
        self.meta.smallest_seq <= seq.0
            && self.meta.smallest_key.as_slice() <= key
            && key <= self.meta.largest_key.as_slice()
            && self.table.may_contain(hash)
    }

    /// Whether its key range meets `start..end`.
    #[must_use]
    pub fn overlaps(&self, start: &[u8], end: Option<&[u8]>) -> bool {
        self.meta.largest_key.as_slice() >= start
            && end.is_none_or(|end| self.meta.smallest_key.as_slice() < end)
    }
}

/// What a table is said to be, and is not.
#[derive(Debug)]
pub(super) struct Difference {
    pub what: &'static str,
    pub expected: String,
    pub found: String,
}

impl Difference {
    pub fn unless_equal<T: PartialEq + ToString>(
        what: &'static str,
        expected: T,
        found: T,
    ) -> Result<(), Self> {
        if expected == found {
            return Ok(());
        }
        Err(Self { what, expected: expected.to_string(), found: found.to_string() })
    }
}

/// Checks that `table` is the one that `meta` describes. Its length is the caller's to check.
pub(super) fn check_properties(meta: &TableMeta, table: &Table) -> Result<(), Difference> {
    let p = table.properties();
    for (what, expected, found) in [
        ("its number of entries", meta.entries, p.entries),
        ("its number of tombstones", meta.deletes, p.deletes),
        ("its smallest sequence number", meta.smallest_seq, p.smallest_seq),
        ("its largest sequence number", meta.largest_seq, p.largest_seq),
    ] {
        Difference::unless_equal(what, expected, found)?;
    }
    for (what, expected, found) in [
        ("its first key", &meta.smallest_key, &p.smallest_key),
        ("its last key", &meta.largest_key, &p.largest_key),
    ] {
        let text = |key: &[u8]| key.escape_ascii().to_string();
        Difference::unless_equal(what, text(expected), text(found))?;
    }
    Ok(())
}

/// See the module.
#[derive(Debug, Default)]
pub struct Version {
    /// Newest first.
    tables: Vec<Arc<LiveTable>>,
}

impl Version {
    /// Of these tables, newest first.
    #[must_use]
    pub fn new(tables: Vec<Arc<LiveTable>>) -> Self {
        debug_assert!(tables.windows(2).all(|pair| pair[0].meta.number > pair[1].meta.number));
        Self { tables }
    }

    /// Opens all tables of `state`.
    pub fn open(disk: &dyn Disk, dir: &Path, state: &State) -> Result<Self, EngineError> {
        let newest_first = state.tables.values().rev();
        let tables = newest_first
            .map(|meta| LiveTable::open(disk, dir, meta).map(Arc::new))
            .collect::<Result<_, _>>()?;
        Ok(Self { tables })
    }

    /// This version with a table more, which is newer than all others.
    #[must_use]
    pub fn with_newest(&self, table: Arc<LiveTable>) -> Self {
        debug_assert!(self.tables.first().is_none_or(|t| t.meta.number < table.meta.number));
        let mut tables = Vec::with_capacity(self.tables.len() + 1);
        tables.push(table);
        tables.extend(self.tables.iter().cloned());
        Self { tables }
    }

    /// The tables, newest first.
    #[must_use]
    pub fn tables(&self) -> &[Arc<LiveTable>] {
        &self.tables
    }

    /// Bytes of all tables.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.tables.iter().map(|t| t.meta.bytes).sum()
    }
}
