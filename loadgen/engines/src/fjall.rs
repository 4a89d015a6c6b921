//! fjall with the settings of `beach-bench`.
#![expect(clippy::disallowed_methods, reason = "waits for another database")]

use beach_loadgen::embedded::engine::text;
use beach_loadgen::embedded::{Compression, Engine, EngineOptions, Pairs};
use fjall::config::{
    BlockSizePolicy, BloomConstructionPolicy, CompressionPolicy, FilterPolicy, FilterPolicyEntry,
};
use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use std::path::Path;
use std::time::Duration;

/// How often [`Fjall::settle`] looks.
const LOOK: Duration = Duration::from_millis(20);
/// So many looks in a row must find it idle: a worker takes a moment to begin.
const IDLE_LOOKS: u32 = 10;

/// An open fjall database with one keyspace.
pub struct Fjall {
    db: Database,
    keys: Keyspace,
}

impl Engine for Fjall {
    const NAME: &'static str = "fjall";

    fn open(dir: &Path, options: &EngineOptions) -> Result<Self, String> {
        let db = Database::builder(dir).cache_size(options.cache_bytes).open().map_err(text)?;
        let bits = options.bits_per_key as f32;
        let block_bytes = u32::try_from(options.block_bytes).map_err(text)?;
        let compression = match options.compression {
            Compression::None => CompressionType::None,
            Compression::Lz4 => CompressionType::Lz4,
        };
        let keyspace = || {
            let filter = FilterPolicyEntry::Bloom(BloomConstructionPolicy::BitsPerKey(bits));
            KeyspaceCreateOptions::default()
                .max_memtable_size(options.memtable_bytes as u64)
                .data_block_size_policy(BlockSizePolicy::all(block_bytes))
                .data_block_compression_policy(CompressionPolicy::all(compression))
                .filter_policy(FilterPolicy::all(filter))
        };
        let keys = db.keyspace("bench", keyspace).map_err(text)?;
        Ok(Self { db, keys })
    }

    fn put(&self, key: &[u8], value: &[u8], sync: bool) -> Result<(), String> {
        self.keys.insert(key, value).map_err(text)?;
        if sync { self.sync() } else { Ok(()) }
    }

    fn put_batch(&self, pairs: &Pairs, sync: bool) -> Result<(), String> {
        let mode = if sync { PersistMode::SyncData } else { PersistMode::Buffer };
        let mut batch = self.db.batch().durability(Some(mode));
        for (key, value) in pairs.iter() {
            batch.insert(&self.keys, key, value);
        }
        batch.commit().map_err(text)
    }

    fn delete(&self, key: &[u8]) -> Result<(), String> {
        self.keys.remove(key).map_err(text)
    }

    fn sync(&self) -> Result<(), String> {
        self.db.persist(PersistMode::SyncData).map_err(text)
    }

    fn get<R>(&self, key: &[u8], look: impl FnOnce(&[u8]) -> R) -> Result<Option<R>, String> {
        Ok(self.keys.get(key).map_err(text)?.map(|value| look(&value)))
    }

    fn scan(
        &self,
        start: &[u8],
        limit: usize,
        mut each: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), String> {
        for entry in self.keys.range(start..).take(limit) {
            let (key, value) = entry.into_inner().map_err(text)?;
            each(&key, &value);
        }
        Ok(())
    }

    fn settle(&self) -> Result<(), String> {
        self.keys.rotate_memtable_and_wait().map_err(text)?;
        let (mut idle, mut done) = (0, self.db.compactions_completed());
        while idle < IDLE_LOOKS {
            std::thread::sleep(LOOK);
            let now = self.db.compactions_completed();
            let busy = self.db.outstanding_flushes() > 0 || self.db.active_compactions() > 0;
            idle = if busy || now != done { 0 } else { idle + 1 };
            done = now;
        }
        Ok(())
    }

    fn table_bytes_written(&self) -> Option<u64> {
        None
    }

    fn close(self) -> Result<(), String> {
        self.sync()
    }
}
