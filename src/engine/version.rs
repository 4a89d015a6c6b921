//! A version: the set of live tables at one moment, immutable and shared.
//!
//! ```text
//!  level 0   [7: a…z] [6: c…k] [4: b…y]         newest first; they overlap
//!  level 1   [3: a…f] [5: g…p] [2: q…z]         by key; disjoint
//!  …                                            each about ten times the one above
//!  level 6   [1: a…c] [8: d…h] …
//! ```
//!
//! A read pins the `Arc<Version>` of its moment (or the tables it needs from it); installing a flush or a compaction
//! makes a new version and leaves the old one to its readers.
//!
//! Invariants:
//! - For any key, every version of it in a table is newer than every version of it in a table further down, and among tables
//!   of level 0 the one with the higher number has the newer ones. So the first table that knows a key, asked from the
//!   top, has its newest version.
//! - Below level 0 all versions of a key are in one table of the level: at most one table of it is asked for a key, and a
//!   scan reads the level's tables one after the other (`LevelIter`).
//! - A table that moved to another level is another [`LiveTable`] of the same file; `hold` counts both.

use super::edit::{MAX_LEVELS, State, TableMeta};
use super::error::EngineError;
use super::manifest::table_file_name;
use crate::base::SequenceNumber;
use crate::base::internal_key::ValueKind;
use crate::env::DirEntry;
use crate::sstable::{Fetch, LazyTable, Probe, Table, TableCache, TableError};
use bytes::Bytes;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// A live table. Its file is opened by the first read.
#[derive(Debug)]
pub struct LiveTable {
    /// What the manifest says about it.
    pub meta: TableMeta,
    table: LazyTable,
    /// Shared by all that stand for the same file: it is removed when the last of them is gone.
    hold: Arc<()>,
}

impl LiveTable {
    /// The table that `meta` describes, in `dir`. The disk is not touched.
    #[must_use]
    pub fn new(tables: &Arc<TableCache>, dir: &Path, meta: &TableMeta) -> Self {
        let table = tables.table(meta.number, dir.join(table_file_name(meta.number)));
        Self { meta: meta.clone(), table, hold: Arc::default() }
    }

    /// The open table, which is checked to be the one of the manifest when it is opened. Blocks on the disk.
    ///
    /// # Errors
    /// The file is damaged, another one, or unreadable. They concern this read: the next one tries again.
    pub fn open(&self) -> Result<Arc<Table>, EngineError> {
        self.table.open(|table| {
            let wrong = |Difference { what, expected, found }| EngineError::WrongTable {
                path: self.table.path().to_path_buf(),
                what,
                expected,
                found,
            };
            Difference::unless_equal("its length", self.meta.bytes, table.bytes())
                .map_err(wrong)?;
            check_properties(&self.meta, table).map_err(wrong)
        })
    }

    /// Looks `key` up without the disk: [`TableError::NotInMemory`] when that cannot tell.
    pub fn get_in_memory(
        &self,
        key: &[u8],
        seq: SequenceNumber,
        probe: &Probe,
    ) -> Result<Option<(SequenceNumber, ValueKind, Bytes)>, TableError> {
        self.table
            .if_open(|table| table.get(key, seq, probe, Fetch::MemoryOnly))
            .unwrap_or(Err(TableError::NotInMemory))
    }

    /// Frees what the block cache has of it. Looks at every block there: not for the loop.
    pub fn forget_blocks(&self) {
        self.table.forget_blocks();
    }

    /// The same table in another level.
    #[must_use]
    pub fn moved_to(&self, level: u8) -> Self {
        let meta = TableMeta { level, ..self.meta.clone() };
        Self { meta, table: self.table.clone(), hold: Arc::clone(&self.hold) }
    }

    /// Whether `table` is the only one that stands for its file.
    #[must_use]
    pub fn is_last(table: &Arc<Self>) -> bool {
        Arc::strong_count(table) == 1 && Arc::strong_count(&table.hold) == 1
    }

    /// Whether it may hold a version of `key` (with this probe) that a reader at `seq` sees. Memory only; a table that is
    /// not open may hold everything in its range.
    #[must_use]
    pub fn may_hold(&self, key: &[u8], probe: &Probe, seq: SequenceNumber) -> bool {
        self.meta.smallest_seq <= seq.0
            && self.meta.smallest_key.as_slice() <= key
            && key <= self.meta.largest_key.as_slice()
            && self.table.if_open(|table| table.may_contain(probe)).unwrap_or(true)
    }

    /// Whether its key range meets `start..end`.
    #[must_use]
    pub fn overlaps(&self, start: &[u8], end: Option<&[u8]>) -> bool {
        self.meta.overlaps(start, end)
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

/// Tables of one level.
pub type Tables = Arc<[Arc<LiveTable>]>;

/// See the module.
#[derive(Debug, Default)]
pub struct Version {
    levels: [Tables; MAX_LEVELS as usize],
}

impl Version {
    /// Of these tables, in any order. They fit together as [`State`] checks.
    #[must_use]
    pub fn new(tables: impl IntoIterator<Item = Arc<LiveTable>>) -> Self {
        Self::default().with(&[], tables.into_iter().collect())
    }

    /// The tables of `state`, whose files are in `dir` and are `files`, by name. None is opened: each has to be there, with the
    /// length that the manifest says.
    pub fn of_state(
        tables: &Arc<TableCache>,
        dir: &Path,
        state: &State,
        files: &[DirEntry],
    ) -> Result<Self, EngineError> {
        for meta in state.tables.values() {
            let name = table_file_name(meta.number);
            let path = || dir.join(&name);
            let found = files.binary_search_by(|file| file.name.as_str().cmp(&name));
            let Some(file) = found.ok().map(|at| &files[at]).filter(|file| !file.is_dir) else {
                return Err(EngineError::MissingTable { path: path() });
            };
            let wrong = |Difference { what, expected, found }| {
                let path = path();
                EngineError::WrongTable { path, what, expected, found }
            };
            Difference::unless_equal("its length", meta.bytes, file.len).map_err(wrong)?;
        }
        let live = |meta| Arc::new(LiveTable::new(tables, dir, meta));
        Ok(Self::new(state.tables.values().map(live)))
    }

    /// This version after an edit that removes these tables (level, number) and adds those. Levels that it does not touch
    /// are shared.
    #[must_use]
    pub fn with(&self, removed: &[(u8, u64)], added: Vec<Arc<LiveTable>>) -> Self {
        let mut touched: [Option<Vec<Arc<LiveTable>>>; MAX_LEVELS as usize] = Default::default();
        let of = |level: u8| usize::from(level);
        for level in removed.iter().map(|r| r.0).chain(added.iter().map(|t| t.meta.level)) {
            touched[of(level)].get_or_insert_with(|| self.levels[of(level)].to_vec());
        }
        for (level, tables) in touched.iter_mut().enumerate() {
            if let Some(tables) = tables {
                tables.retain(|t| !removed.contains(&(level as u8, t.meta.number)));
            }
        }
        for table in added {
            touched[of(table.meta.level)].as_mut().expect("made above").push(table);
        }
        let mut levels = self.levels.clone();
        for (level, tables) in touched.into_iter().enumerate() {
            let Some(mut tables) = tables else { continue };
            if level == 0 {
                tables.sort_by_key(|table| std::cmp::Reverse(table.meta.number));
            } else {
                tables.sort_by(|a, b| a.meta.smallest_key.cmp(&b.meta.smallest_key));
                debug_assert!(tables.is_sorted_by(|a, b| a.meta.largest_key < b.meta.smallest_key));
            }
            levels[level] = tables.into();
        }
        Self { levels }
    }

    /// All tables, newest first: level 0, then those below by level and key.
    pub fn tables(&self) -> impl Iterator<Item = &Arc<LiveTable>> {
        self.levels.iter().flat_map(|level| level.iter())
    }

    /// The tables of one level: 0 newest first, the others by ascending key.
    #[must_use]
    pub fn level(&self, level: u8) -> &Tables {
        &self.levels[usize::from(level)]
    }

    /// The tables whose key range holds `key`, newest first: those of level 0, then at most one of each level.
    pub fn around<'a>(&'a self, key: &'a [u8]) -> impl Iterator<Item = &'a Arc<LiveTable>> {
        let top = self.levels[0].iter().filter(move |t| {
            t.meta.smallest_key.as_slice() <= key && key <= t.meta.largest_key.as_slice()
        });
        let below = self.levels[1..].iter().filter_map(move |tables| {
            let at = tables.partition_point(|t| t.meta.largest_key.as_slice() < key);
            tables.get(at).filter(|t| t.meta.smallest_key.as_slice() <= key)
        });
        top.chain(below)
    }

    /// The tables of a level below 0 whose key range meets `start..end`: a part of [`Version::level`].
    #[must_use]
    pub fn overlapping(&self, level: u8, start: &[u8], end: Option<&[u8]>) -> Range<usize> {
        let tables = self.level(level);
        let from = tables.partition_point(|t| t.meta.largest_key.as_slice() < start);
        let len = end.map_or(tables.len() - from, |end| {
            tables[from..].partition_point(|t| t.meta.smallest_key.as_slice() < end)
        });
        from..from + len
    }

    /// How many tables.
    #[must_use]
    pub fn len(&self) -> usize {
        self.levels.iter().map(|level| level.len()).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of all tables.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.tables().map(|t| t.meta.bytes).sum()
    }
}
