//! Tables that are opened when they are first read, and closed when others need their place.
//!
//! ```text
//!  LazyTable ──▶ slot: number, path, open table or nothing
//!                  ▲ weak
//!  TableCache: ring of open slots, oldest first ── one too many: the first that was not used since the last look is closed
//! ```
//!
//! Opening an engine costs nothing for each table this way, and a directory with more tables than a process may have files
//! can be read all the same. Closing is CLOCK: a use sets a flag, and a look clears it.
//!
//! Invariants:
//! - At most `max_open` tables are kept open, and they hold at most three quarters of the block cache's capacity (16 MiB at
//!   least) in memory. When all of them are in use, one more is opened for its reader alone, and closed behind it.
//! - A table that is not open costs its name. Nothing is remembered of a failed opening: the next read tries again.
//! - [`LazyTable::if_open`] neither blocks nor touches the disk.
//!
//! What it does not do: keep files from being removed. Whoever holds a `LazyTable` of a table that no version names any more
//! keeps the engine from removing it, so that it can still be opened.

use super::cache::BlockCache;
use super::error::TableError;
use super::table::Table;
use crate::env::{Disk, OpenMode};
use serde::Serialize;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, TryLockError, Weak};

/// What open tables may hold in memory whatever the capacity of the cache is.
const TABLE_BYTES_MIN: u64 = 16 << 20;

/// The tables of an engine that are open. See the module.
pub struct TableCache {
    disk: Arc<dyn Disk>,
    blocks: Arc<BlockCache>,
    max_open: usize,
    /// Oldest first; some may be gone.
    ring: Mutex<VecDeque<Weak<Slot>>>,
    opened: AtomicU64,
    closed: AtomicU64,
}

impl std::fmt::Debug for TableCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TableCache").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Slot {
    number: u64,
    path: PathBuf,
    table: RwLock<Option<Arc<Table>>>,
    /// Since the ring last looked.
    used: AtomicBool,
}

impl Slot {
    fn mark_used(&self) {
        // Mostly it is marked, and a line that is only read stays with all readers.
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }
}

/// Counts since the start, and what is open now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct TableCacheStats {
    /// Tables that are open.
    pub open: u64,
    /// Most that may be.
    pub max_open: u64,
    /// Tables opened.
    pub opened: u64,
    /// Tables closed to make room.
    pub closed: u64,
}

impl TableCache {
    /// No table is open. Data blocks go through `blocks`.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>, blocks: Arc<BlockCache>, max_open: usize) -> Arc<Self> {
        Arc::new(Self {
            disk,
            blocks,
            max_open: max_open.max(1),
            ring: Mutex::new(VecDeque::new()),
            opened: AtomicU64::new(0),
            closed: AtomicU64::new(0),
        })
    }

    /// The table `number` in the file at `path`, which is opened when it is needed.
    #[must_use]
    pub fn table(self: &Arc<Self>, number: u64, path: PathBuf) -> LazyTable {
        let (table, used) = (RwLock::new(None), AtomicBool::new(false));
        LazyTable { slot: Arc::new(Slot { number, path, table, used }), tables: Arc::clone(self) }
    }

    /// The block cache.
    #[must_use]
    pub const fn blocks(&self) -> &Arc<BlockCache> {
        &self.blocks
    }

    /// The numbers now.
    #[must_use]
    pub fn stats(&self) -> TableCacheStats {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        TableCacheStats {
            open: ring.iter().filter(|slot| slot.strong_count() > 0).count() as u64,
            max_open: self.max_open as u64,
            opened: self.opened.load(Ordering::Relaxed),
            closed: self.closed.load(Ordering::Relaxed),
        }
    }

    /// Whether `open` open tables are too many, or too large.
    fn is_over(&self, open: usize) -> bool {
        let bytes_max = (self.blocks.capacity() / 4 * 3).max(TABLE_BYTES_MIN);
        open > self.max_open || self.blocks.charged() > bytes_max
    }

    /// Takes `slot`, which is being opened, into the ring, after it closed others if they are too many; `false` when there is
    /// no room.
    fn admit(&self, slot: &Arc<Slot>) -> bool {
        self.opened.fetch_add(1, Ordering::Relaxed);
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        if ring.len() >= self.max_open {
            ring.retain(|slot| slot.strong_count() > 0);
        }
        // Each is looked at twice at most: the first look may only clear its flag.
        for _ in 0..2 * ring.len() {
            if !self.is_over(ring.len() + 1) {
                break;
            }
            let Some(weak) = ring.pop_front() else { break };
            let Some(old) = weak.upgrade() else { continue };
            let closed = !old.used.swap(false, Ordering::Relaxed)
                && old.table.try_write().is_ok_and(|mut table| {
                    let in_use = table.as_ref().is_some_and(|t| Arc::strong_count(t) > 1);
                    if !in_use {
                        *table = None;
                    }
                    !in_use
                });
            if closed {
                self.closed.fetch_add(1, Ordering::Relaxed);
            } else {
                ring.push_back(weak);
            }
        }
        let has_room = !self.is_over(ring.len() + 1);
        if has_room {
            ring.push_back(Arc::downgrade(slot));
        } else {
            self.closed.fetch_add(1, Ordering::Relaxed);
        }
        has_room
    }
}

/// A table that is opened when it is needed. Copies stand for the same one.
#[derive(Clone, Debug)]
pub struct LazyTable {
    slot: Arc<Slot>,
    tables: Arc<TableCache>,
}

impl LazyTable {
    /// Where the table is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.slot.path
    }

    /// What `look` says about the table if it is open. Never blocks.
    #[inline]
    pub fn if_open<R>(&self, look: impl FnOnce(&Table) -> R) -> Option<R> {
        let table = match self.slot.table.try_read() {
            Ok(table) => table,
            Err(TryLockError::Poisoned(table)) => table.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        let table = table.as_ref()?;
        self.slot.mark_used();
        Some(look(table))
    }

    /// The table; opened, and shown to `check` first, when it is not open. Blocks on the disk. Hold it only for one read: it
    /// stays open for as long.
    pub fn open<E: From<TableError>>(
        &self,
        check: impl FnOnce(&Table) -> Result<(), E>,
    ) -> Result<Arc<Table>, E> {
        let slot = &self.slot;
        let open = slot.table.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(table) = open {
            slot.mark_used();
            return Ok(table);
        }
        // Others who want it wait here: it is opened once.
        let mut place = slot.table.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = &*place {
            return Ok(Arc::clone(table));
        }
        let file = self.tables.disk.open(&slot.path, OpenMode::Read).map_err(TableError::from)?;
        let blocks = Some(Arc::clone(&self.tables.blocks));
        let table = Arc::new(Table::open_with(file, slot.number, blocks)?);
        check(&table)?;
        // Of the other slots it only tries the locks, so nobody waits for two.
        if self.tables.admit(slot) {
            slot.mark_used();
            *place = Some(Arc::clone(&table));
        }
        Ok(table)
    }

    /// Frees what the block cache has of it: the file is about to be removed. Not for the loop.
    pub fn forget_blocks(&self) {
        self.tables.blocks.forget(self.slot.number);
    }
}
