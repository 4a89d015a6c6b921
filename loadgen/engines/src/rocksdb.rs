//! RocksDB with the settings of `beach-bench`.
//!
//! Reads go through pinned slices and raw iterators: the binding copies nothing. Options of reads and writes are made once.

use beach_loadgen::embedded::engine::text;
use beach_loadgen::embedded::{Compression, Engine, EngineOptions, Pairs};
use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, Options, ReadOptions, WaitForCompactOptions,
    WriteBatch, WriteOptions,
};
use std::path::Path;

/// An open RocksDB.
pub struct Rocksdb {
    db: DB,
    read: ReadOptions,
    sync: WriteOptions,
    no_sync: WriteOptions,
}

impl Rocksdb {
    fn options(&self, sync: bool) -> &WriteOptions {
        if sync { &self.sync } else { &self.no_sync }
    }
}

impl Engine for Rocksdb {
    const NAME: &'static str = "rocksdb";

    fn open(dir: &Path, options: &EngineOptions) -> Result<Self, String> {
        let mut table = BlockBasedOptions::default();
        table.set_block_size(options.block_bytes);
        table.set_bloom_filter(f64::from(options.bits_per_key), false);
        let cache_bytes = usize::try_from(options.cache_bytes).map_err(text)?;
        table.set_block_cache(&Cache::new_lru_cache(cache_bytes));
        let mut db = Options::default();
        db.create_if_missing(true);
        db.set_block_based_table_factory(&table);
        db.set_write_buffer_size(options.memtable_bytes);
        db.set_compression_type(match options.compression {
            Compression::None => DBCompressionType::None,
            Compression::Lz4 => DBCompressionType::Lz4,
        });
        let mut sync = WriteOptions::default();
        sync.set_sync(true);
        Ok(Self {
            db: DB::open(&db, dir).map_err(text)?,
            read: ReadOptions::default(),
            sync,
            no_sync: WriteOptions::default(),
        })
    }

    fn put(&self, key: &[u8], value: &[u8], sync: bool) -> Result<(), String> {
        self.db.put_opt(key, value, self.options(sync)).map_err(text)
    }

    fn put_batch(&self, pairs: &Pairs, sync: bool) -> Result<(), String> {
        let mut batch = WriteBatch::default();
        for (key, value) in pairs.iter() {
            batch.put(key, value);
        }
        self.db.write_opt(batch, self.options(sync)).map_err(text)
    }

    fn delete(&self, key: &[u8]) -> Result<(), String> {
        self.db.delete_opt(key, &self.no_sync).map_err(text)
    }

    fn sync(&self) -> Result<(), String> {
        self.db.flush_wal(true).map_err(text)
    }

    fn get<R>(&self, key: &[u8], look: impl FnOnce(&[u8]) -> R) -> Result<Option<R>, String> {
        Ok(self.db.get_pinned_opt(key, &self.read).map_err(text)?.map(|value| look(&value)))
    }

    fn scan(
        &self,
        start: &[u8],
        limit: usize,
        mut each: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), String> {
        let mut iterator = self.db.raw_iterator();
        iterator.seek(start);
        for _ in 0..limit {
            let Some((key, value)) = iterator.item() else { break };
            each(key, value);
            iterator.next();
        }
        iterator.status().map_err(text)
    }

    fn settle(&self) -> Result<(), String> {
        let mut wait = WaitForCompactOptions::default();
        wait.set_flush(true);
        self.db.wait_for_compact(&wait).map_err(text)
    }

    /// "Cumulative compaction: 1.23 GB write, …" counts flushes, too; in steps of ten megabytes.
    fn table_bytes_written(&self) -> Option<u64> {
        let stats = self.db.property_value("rocksdb.stats").ok()??;
        let line = stats.lines().find_map(|l| l.strip_prefix("Cumulative compaction: "))?;
        let gigabytes: f64 = line.split(' ').next()?.parse().ok()?;
        Some((gigabytes * f64::from(1 << 30)) as u64)
    }

    fn close(self) -> Result<(), String> {
        drop(self.db);
        Ok(())
    }
}
