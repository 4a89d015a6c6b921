//! redb, a copy-on-write B+tree, with the cache of `beach-bench`. It has no memtable, blocks, filter, or compression to set.
//!
//! A write is a transaction. Without a sync it is `Durability::None`, which does not survive the process: nearer to what the
//! others promise there is nothing. It commits durably when it is settled.
#![expect(clippy::disallowed_methods, reason = "makes the directory of another database")]

use beach_loadgen::embedded::engine::text;
use beach_loadgen::embedded::{Engine, EngineOptions, Pairs};
use redb::{Database, Durability, ReadableDatabase, TableDefinition, WriteTransaction};
use std::path::Path;

const KEYS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("bench");

/// An open redb file.
pub struct Redb {
    db: Database,
}

impl Redb {
    fn begin(&self, sync: bool) -> Result<WriteTransaction, String> {
        let mut transaction = self.db.begin_write().map_err(text)?;
        let durability = if sync { Durability::Immediate } else { Durability::None };
        transaction.set_durability(durability).map_err(text)?;
        Ok(transaction)
    }

    fn write<'a>(
        &self,
        pairs: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
        sync: bool,
    ) -> Result<(), String> {
        let transaction = self.begin(sync)?;
        {
            let mut table = transaction.open_table(KEYS).map_err(text)?;
            for (key, value) in pairs {
                table.insert(key, value).map_err(text)?;
            }
        }
        transaction.commit().map_err(text)
    }
}

impl Engine for Redb {
    const NAME: &'static str = "redb";

    fn open(dir: &Path, options: &EngineOptions) -> Result<Self, String> {
        std::fs::create_dir_all(dir).map_err(text)?;
        let cache_bytes = usize::try_from(options.cache_bytes).map_err(text)?;
        let db = Database::builder()
            .set_cache_size(cache_bytes)
            .create(dir.join("bench.redb"))
            .map_err(text)?;
        let engine = Self { db };
        engine.write([], true)?; // so that the table is there
        Ok(engine)
    }

    fn put(&self, key: &[u8], value: &[u8], sync: bool) -> Result<(), String> {
        self.write([(key, value)], sync)
    }

    fn put_batch(&self, pairs: &Pairs, sync: bool) -> Result<(), String> {
        self.write(pairs.iter(), sync)
    }

    fn delete(&self, key: &[u8]) -> Result<(), String> {
        let transaction = self.begin(false)?;
        transaction.open_table(KEYS).map_err(text)?.remove(key).map_err(text)?;
        transaction.commit().map_err(text)
    }

    fn sync(&self) -> Result<(), String> {
        self.write([], true)
    }

    fn get<R>(&self, key: &[u8], look: impl FnOnce(&[u8]) -> R) -> Result<Option<R>, String> {
        let transaction = self.db.begin_read().map_err(text)?;
        let table = transaction.open_table(KEYS).map_err(text)?;
        Ok(table.get(key).map_err(text)?.map(|value| look(value.value())))
    }

    fn scan(
        &self,
        start: &[u8],
        limit: usize,
        mut each: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), String> {
        let transaction = self.db.begin_read().map_err(text)?;
        let table = transaction.open_table(KEYS).map_err(text)?;
        for entry in table.range(start..).map_err(text)?.take(limit) {
            let (key, value) = entry.map_err(text)?;
            each(key.value(), value.value());
        }
        Ok(())
    }

    fn settle(&self) -> Result<(), String> {
        self.sync()
    }

    fn table_bytes_written(&self) -> Option<u64> {
        None
    }

    fn close(self) -> Result<(), String> {
        drop(self.db);
        Ok(())
    }
}
