//! [`Engine`]: what the workloads need of an embedded key-value store, and [`Beachdb`]. Others implement it in a build of
//! their own (`loadgen/engines`). Errors are text: a benchmark only prints them.
#![expect(clippy::disallowed_methods, reason = "waits until a database is settled")]

use beachdb::base::batch::WriteBatch;
use beachdb::engine::{Db, DbOptions, WriteOptions};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::Duration;

/// How table blocks are stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum Compression {
    /// As they are
    None,
    /// LZ4
    Lz4,
}

/// Settings that every engine gets, as far as it has them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EngineOptions {
    /// Memory of a memtable at which it is flushed.
    pub memtable_bytes: usize,
    /// Memory for blocks (pages, where the engine is a B+tree).
    pub cache_bytes: u64,
    /// Size of a data block.
    pub block_bytes: usize,
    /// Bits of the filter for each key.
    pub bits_per_key: u32,
    /// Compression of tables.
    pub compression: Compression,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            memtable_bytes: 64 << 20,
            cache_bytes: 256 << 20,
            block_bytes: 4096,
            bits_per_key: 10,
            compression: Compression::None,
        }
    }
}

/// Keys and values of one batch, packed: filling it costs every engine the same.
#[derive(Debug, Default)]
pub struct Pairs {
    bytes: Vec<u8>,
    /// Where each key and each value ends, in turn.
    ends: Vec<usize>,
}

impl Pairs {
    /// Makes it empty.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    /// Adds one.
    pub fn push(&mut self, key: &[u8], value: &[u8]) {
        for part in [key, value] {
            self.bytes.extend_from_slice(part);
            self.ends.push(self.bytes.len());
        }
    }

    /// All of them, in the order they were added.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut start = 0;
        self.ends.chunks_exact(2).map(move |ends| {
            let key = &self.bytes[start..ends[0]];
            start = ends[1];
            (key, &self.bytes[ends[0]..ends[1]])
        })
    }
}

/// An embedded store, driven by one thread.
///
/// Without `sync` a write is in the operating system when it returns, or nearer to the disk: it survives the process
/// (where an engine cannot do that, its implementation says so). With it, it is on the disk.
pub trait Engine: Sized {
    /// Its name in reports.
    const NAME: &'static str;

    /// Opens the store in `dir`, making it when there is none.
    fn open(dir: &Path, options: &EngineOptions) -> Result<Self, String>;
    /// Sets one key.
    fn put(&self, key: &[u8], value: &[u8], sync: bool) -> Result<(), String>;
    /// Sets many keys, all or nothing.
    fn put_batch(&self, pairs: &Pairs, sync: bool) -> Result<(), String>;
    /// Deletes one key, without a sync.
    fn delete(&self, key: &[u8]) -> Result<(), String>;
    /// Brings everything written so far to the disk.
    fn sync(&self) -> Result<(), String>;
    /// Looks at a value in place, with as few copies as the engine allows.
    fn get<R>(&self, key: &[u8], look: impl FnOnce(&[u8]) -> R) -> Result<Option<R>, String>;
    /// Shows up to `limit` entries from `start` on, in order, with as few copies as the engine allows.
    fn scan(
        &self,
        start: &[u8],
        limit: usize,
        each: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), String>;
    /// Empties the memtables and waits until the engine has nothing left that it would do by itself.
    fn settle(&self) -> Result<(), String>;
    /// Bytes of tables that flushes and compactions wrote since it was opened, where the engine counts them.
    fn table_bytes_written(&self) -> Option<u64>;
    /// Closes it in order.
    fn close(self) -> Result<(), String>;
}

/// Turns any error into text.
pub fn text(e: impl std::fmt::Display) -> String {
    e.to_string()
}

/// How often [`Beachdb`] looks whether it is settled.
const LOOK: Duration = Duration::from_millis(10);
/// So many looks in a row must find it idle.
const IDLE_LOOKS: u32 = 5;

/// The house's own.
#[derive(Debug)]
pub struct Beachdb {
    db: Db,
}

impl Beachdb {
    fn write(&self, batch: WriteBatch, sync: bool) -> Result<(), String> {
        self.db.write(batch, WriteOptions { sync }).map(drop).map_err(text)
    }
}

impl Engine for Beachdb {
    const NAME: &'static str = "beachdb";

    fn open(dir: &Path, options: &EngineOptions) -> Result<Self, String> {
        let options = DbOptions {
            memtable_bytes: options.memtable_bytes,
            block_bytes: options.block_bytes,
            bits_per_key: options.bits_per_key,
            cache_bytes: options.cache_bytes,
            compression: match options.compression {
                Compression::None => beachdb::sstable::Compression::None,
                Compression::Lz4 => beachdb::sstable::Compression::Lz4,
            },
            ..DbOptions::default()
        };
        Ok(Self { db: Db::open(dir, options).map_err(text)? })
    }

    fn put(&self, key: &[u8], value: &[u8], sync: bool) -> Result<(), String> {
        let mut batch = WriteBatch::new();
        batch.put(key, value).map_err(text)?;
        self.write(batch, sync)
    }

    fn put_batch(&self, pairs: &Pairs, sync: bool) -> Result<(), String> {
        let mut batch = WriteBatch::new();
        for (key, value) in pairs.iter() {
            batch.put(key, value).map_err(text)?;
        }
        self.write(batch, sync)
    }

    fn delete(&self, key: &[u8]) -> Result<(), String> {
        let mut batch = WriteBatch::new();
        batch.delete(key).map_err(text)?;
        self.write(batch, false)
    }

    /// A synced write takes everything before it along; this one changes nothing that anybody reads.
    fn sync(&self) -> Result<(), String> {
        let mut batch = WriteBatch::new();
        batch.delete(b"beach-bench: there is no such key").map_err(text)?;
        self.write(batch, true)
    }

    fn get<R>(&self, key: &[u8], look: impl FnOnce(&[u8]) -> R) -> Result<Option<R>, String> {
        Ok(self.db.get(key).map_err(text)?.map(|value| look(&value)))
    }

    fn scan(
        &self,
        start: &[u8],
        limit: usize,
        mut each: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), String> {
        let mut cursor = self.db.cursor(b"", None);
        cursor.seek(start).map_err(text)?;
        for _ in 0..limit {
            if !cursor.valid() {
                break;
            }
            each(cursor.key(), cursor.value());
            cursor.next().map_err(text)?;
        }
        Ok(())
    }

    /// Whoever calls next takes in what jobs have finished and starts what is due: that is [`Db::tick`].
    fn settle(&self) -> Result<(), String> {
        self.db.flush().map_err(text)?;
        let mut idle = 0;
        while idle < IDLE_LOOKS {
            std::thread::sleep(LOOK);
            self.db.tick().map_err(text)?;
            let stats = self.db.stats();
            let done = stats.engine.flush_state == "idle"
                && stats.engine.compaction_state == "idle"
                && stats.log_segments <= 1;
            idle = if done { idle + 1 } else { 0 };
            if stats.engine.compaction_state == "failed" || stats.engine.flush_state == "failed" {
                return Err("a flush or a compaction failed; the log says why".into());
            }
        }
        Ok(())
    }

    fn table_bytes_written(&self) -> Option<u64> {
        Some(self.db.stats().engine.levels.iter().map(|level| level.written_bytes).sum())
    }

    fn close(self) -> Result<(), String> {
        self.db.close().map_err(text)
    }
}
