//! `beach-bench`: the embedded engine ([`beachdb::engine::Db`]), one calling thread, the customary workloads.
//!
//! | workload | starts from | one operation |
//! |---|---|---|
//! | `fillseq` `fillrandom` | an empty directory | put, each key once, in order or shuffled, no sync |
//! | `fillsync` | an empty directory | put with a sync each; a hundredth of `--num` |
//! | `fillbatchsync` | an empty directory | a batch of 100 puts with one sync; counted as 100 puts, timed as one |
//! | `overwrite` | what is there | put of a random existing key, no sync |
//! | `readrandom` `readmissing` | what is there | get of a random existing key, or of its missing neighbour |
//! | `readseq` | what is there | one key of a scan over everything; timed by 1,000 keys |
//! | `seekrandom` | what is there | scan of 100 keys from a random one |
//! | `deleterandom` | what is there | delete of a random key, no sync |
//!
//! "What is there" is what the workload before left; when that is nothing, all keys are filled in shuffled order
//! and flushed first, unmeasured. Results are checked: a read that finds the wrong thing fails the run.
//!
//! - `write_amp`: bytes the process wrote to storage (`/proc/self/io`, log, its zero-filled segments, and tables
//!   together) per byte of keys and values written.
//! - `read_amp`: bytes read through system calls, cached by the kernel or not, per byte of keys and values returned.
//! - `space_amp`: bytes in the directory per byte of live keys and values.
#![expect(clippy::disallowed_methods, reason = "makes directories, reads /proc/self/io and sizes")]

use crate::clock;
use crate::stats::{self, Percentiles};
use crate::workload::{Mix, Op, OpKind, Workload, WorkloadOptions};
use beachdb::base::batch::WriteBatch;
use beachdb::engine::{Db, DbOptions, WriteOptions};
use bytes::Bytes;
use hdrhistogram::Histogram;
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;
use serde::Serialize;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Puts in one batch of `fillbatchsync`.
const BATCH_PUTS: u64 = 100;
/// `fillsync` does this share of `--num`.
const SYNC_SHARE: u64 = 100;
/// Keys of one `seekrandom`.
const SEEK_KEYS: usize = 100;
/// Keys timed together in `readseq`.
const PAGE_KEYS: usize = 1000;

/// A workload of the embedded benchmark.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum BenchWorkload {
    /// Put every key once, in order
    FillSeq,
    /// Put every key once, shuffled
    FillRandom,
    /// Put random existing keys
    Overwrite,
    /// Put with a sync each
    FillSync,
    /// Batches of 100 puts, one sync each
    FillBatchSync,
    /// Get random existing keys
    ReadRandom,
    /// Get keys that are not there
    ReadMissing,
    /// Scan everything
    ReadSeq,
    /// Scan 100 keys from a random one
    SeekRandom,
    /// Delete random keys
    DeleteRandom,
}

impl BenchWorkload {
    /// The name in reports.
    #[must_use]
    pub fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    const fn starts_empty(self) -> bool {
        matches!(self, Self::FillSeq | Self::FillRandom | Self::FillSync | Self::FillBatchSync)
    }
}

/// Settings of the embedded benchmark.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// What to run, in order.
    pub workloads: Vec<BenchWorkload>,
    /// Keys.
    pub num: u64,
    /// Operations of the read workloads; `None` = `num`.
    pub reads: Option<u64>,
    /// Bytes in a key.
    pub key_size: usize,
    /// Bytes in a value.
    pub value_size: usize,
    /// Where the database is made; must be empty or missing at first, and is removed at the end.
    pub dir: PathBuf,
    /// Seed of all choices.
    pub seed: u64,
}

/// The result of one workload, one JSON object each.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct BenchResult {
    workload: BenchWorkload,
    ops: u64,
    ops_s: f64,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    max_us: f64,
    write_amp: Option<f64>,
    read_amp: Option<f64>,
    space_amp: Option<f64>,
    disk_bytes: u64,
    rss_bytes: u64,
}

impl BenchResult {
    /// The line above the lines of [`BenchResult::to_text`].
    #[must_use]
    pub fn text_header() -> String {
        format!(
            "{:<14}{:>10}{:>12}{:>9}{:>9}{:>10}{:>8}{:>8}{:>8}{:>10}{:>9}",
            "workload",
            "ops",
            "ops/s",
            "p50 us",
            "p99 us",
            "max us",
            "w-amp",
            "r-amp",
            "s-amp",
            "disk MiB",
            "rss MiB"
        )
    }

    /// One line of a table.
    #[must_use]
    pub fn to_text(&self) -> String {
        let amp = |a: Option<f64>| a.map_or_else(|| "-".into(), |a| format!("{a:.2}"));
        format!(
            "{:<14}{:>10}{:>12.0}{:>9.1}{:>9.1}{:>10.1}{:>8}{:>8}{:>8}{:>10.1}{:>9.1}",
            self.workload.name(),
            self.ops,
            self.ops_s,
            self.p50_us,
            self.p99_us,
            self.max_us,
            amp(self.write_amp),
            amp(self.read_amp),
            amp(self.space_amp),
            self.disk_bytes as f64 / f64::from(1 << 20),
            self.rss_bytes as f64 / f64::from(1 << 20)
        )
    }

    /// One JSON object on one line.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers and names are valid JSON")
    }
}

/// Runs the workloads in order; calls `each` after every one.
pub fn run(options: &BenchOptions, mut each: impl FnMut(&BenchResult)) -> Result<(), String> {
    let in_use = std::fs::read_dir(&options.dir).is_ok_and(|mut entries| entries.next().is_some());
    if in_use {
        return Err(format!("{} is not empty: name a directory to be made", options.dir.display()));
    }
    let mut bench = Bench::new(options)?;
    let outcome = options.workloads.iter().try_for_each(|workload| {
        bench.prepare(*workload)?;
        each(&bench.measure(*workload)?);
        Ok(())
    });
    let closed = bench.close();
    remove_all(&options.dir)?;
    outcome.and(closed)
}

struct Bench<'a> {
    options: &'a BenchOptions,
    keys: Workload,
    rng: Xoshiro256PlusPlus,
    store: Option<Store>,
    /// Which keys are there.
    live: Vec<bool>,
    /// Key and value bytes that the current workload wrote, and that it was given.
    written: u64,
    returned: u64,
}

impl<'a> Bench<'a> {
    fn new(options: &'a BenchOptions) -> Result<Self, String> {
        let keys = Workload::new(WorkloadOptions {
            mix: Mix::Put,
            distribution: None,
            keys: options.num,
            key_size: options.key_size,
            value_size: options.value_size,
            seed: options.seed,
            preloaded: true,
        })?;
        Ok(Self {
            options,
            keys,
            rng: Xoshiro256PlusPlus::seed_from_u64(options.seed),
            store: None,
            live: vec![false; options.num as usize],
            written: 0,
            returned: 0,
        })
    }

    fn store(&self) -> &Store {
        self.store.as_ref().expect("`prepare` opened it")
    }

    /// Brings the database into the state that `workload` starts from.
    fn prepare(&mut self, workload: BenchWorkload) -> Result<(), String> {
        if workload.starts_empty() {
            self.close()?;
            remove_all(&self.options.dir)?;
            self.live.fill(false);
        }
        if self.store.is_none() {
            self.store = Some(Store::open(&self.options.dir)?);
        }
        if !workload.starts_empty() && !self.live.contains(&true) {
            eprintln!("{}: filling {} keys first", workload.name(), self.options.num);
            for key in self.shuffled() {
                self.put(key, false)?;
            }
            self.store().flush()?;
        }
        Ok(())
    }

    fn measure(&mut self, workload: BenchWorkload) -> Result<BenchResult, String> {
        let num = self.options.num;
        let reads = self.options.reads.unwrap_or(num);
        let shuffled = self.shuffled();
        let order = |i: u64| shuffled[(i % num) as usize];
        (self.written, self.returned) = (0, 0);
        let io_before = ProcessIo::read();
        let mut timer = Timer::start();
        let ops = match workload {
            BenchWorkload::FillSeq => timer.each(num, |i| self.put(i, false))?,
            BenchWorkload::FillRandom | BenchWorkload::Overwrite => {
                timer.each(num, |i| self.put(order(i), false))?
            }
            BenchWorkload::FillSync => {
                timer.each((num / SYNC_SHARE).max(1), |i| self.put(order(i), true))?
            }
            BenchWorkload::FillBatchSync => {
                let batches = num.div_ceil(BATCH_PUTS);
                timer.each(batches, |i| {
                    let first = i * BATCH_PUTS;
                    self.put_batch((first..num.min(first + BATCH_PUTS)).map(order))
                })?;
                num
            }
            BenchWorkload::ReadRandom => timer.each(reads, |i| self.get(order(i), false))?,
            BenchWorkload::ReadMissing => timer.each(reads, |i| self.get(order(i), true))?,
            BenchWorkload::ReadSeq => self.read_all(&mut timer)?,
            BenchWorkload::SeekRandom => {
                timer.each(reads.div_ceil(SEEK_KEYS as u64), |i| self.seek(order(i)))?
            }
            BenchWorkload::DeleteRandom => timer.each(num, |i| self.delete(order(i)))?,
        };
        let ops_s = ops as f64 * 1e9 / timer.elapsed() as f64;
        if workload.starts_empty() {
            self.store().flush()?; // so that sizes and write amplification are those of the tables too
        }
        self.result(workload, ops, ops_s, &timer.latencies, &io_before)
    }

    fn result(
        &self,
        workload: BenchWorkload,
        ops: u64,
        ops_s: f64,
        latencies: &Histogram<u64>,
        before: &ProcessIo,
    ) -> Result<BenchResult, String> {
        let after = ProcessIo::read();
        let p = Percentiles::of(latencies);
        let entry = (self.options.key_size + self.options.value_size) as u64;
        let live = self.live.iter().filter(|there| **there).count() as u64 * entry;
        let disk_bytes = disk_bytes(&self.options.dir)
            .map_err(|e| format!("sizing {}: {e}", self.options.dir.display()))?;
        let amp = |part: u64, whole: u64| {
            (whole > 0).then(|| (part as f64 * 100.0 / whole as f64).round() / 100.0)
        };
        Ok(BenchResult {
            workload,
            ops,
            ops_s: ops_s.round(),
            p50_us: p.p50_us,
            p99_us: p.p99_us,
            p999_us: p.p999_us,
            max_us: p.max_us,
            write_amp: amp(after.written - before.written, self.written),
            read_amp: amp(after.read - before.read, self.returned),
            space_amp: amp(disk_bytes, live),
            disk_bytes,
            rss_bytes: rss_bytes(),
        })
    }

    /// All keys, each once, in an order that is the same for every workload of a seed.
    fn shuffled(&mut self) -> Vec<u64> {
        let mut order: Vec<u64> = (0..self.options.num).collect();
        order.shuffle(&mut self.rng);
        order
    }

    fn put(&mut self, key: u64, sync: bool) -> Result<(), String> {
        let (k, v) = self.keys.key_value(&put_op(key));
        self.written += (k.len() + v.len()) as u64;
        self.live[key as usize] = true;
        self.store.as_ref().expect("`prepare` opened it").put(k, v, sync)
    }

    fn put_batch(&mut self, keys: impl Iterator<Item = u64>) -> Result<(), String> {
        let mut batch = WriteBatch::new();
        for key in keys {
            let (k, v) = self.keys.key_value(&put_op(key));
            self.written += (k.len() + v.len()) as u64;
            self.live[key as usize] = true;
            batch.put(k, v).map_err(|e| e.to_string())?;
        }
        self.store().write(batch, true)
    }

    fn delete(&mut self, key: u64) -> Result<(), String> {
        let k = self.keys.key(&put_op(key));
        self.written += k.len() as u64;
        self.live[key as usize] = false;
        self.store.as_ref().expect("`prepare` opened it").delete(k)
    }

    fn get(&mut self, key: u64, missing: bool) -> Result<(), String> {
        let op = Op { kind: OpKind::Get, key, missing };
        let there = self.live[key as usize] && !missing;
        let k = self.keys.key(&op);
        let found = self.store.as_ref().expect("`prepare` opened it").get(k)?;
        if found.as_ref().map(|v| v.len()) != there.then_some(self.options.value_size) {
            let k = String::from_utf8_lossy(k);
            return Err(format!("wrong result: get {k}: {found:?}, expected a value: {there}"));
        }
        self.returned += found.map_or(0, |v| (k.len() + v.len()) as u64);
        Ok(())
    }

    fn seek(&mut self, key: u64) -> Result<(), String> {
        let start = self.keys.key(&put_op(key)).to_vec();
        let (mut first, mut bytes) = (None, 0);
        self.store().scan(&start, SEEK_KEYS, |key, value| {
            first.get_or_insert_with(|| key.to_vec());
            bytes += (key.len() + value.len()) as u64;
        })?;
        self.returned += bytes;
        if self.live[key as usize] && first.as_ref() != Some(&start) {
            return Err(format!("wrong result: seek {}: {first:?}", start.escape_ascii()));
        }
        Ok(())
    }

    /// One scan over everything, timed by page.
    fn read_all(&mut self, timer: &mut Timer) -> Result<u64, String> {
        let (mut keys, mut bytes, mut in_order) = (0, 0, true);
        let mut last = Vec::new();
        self.store().scan(b"", usize::MAX, |key, value| {
            in_order &= last.as_slice() < key;
            last.clear();
            last.extend_from_slice(key);
            keys += 1;
            bytes += (key.len() + value.len()) as u64;
            if keys % PAGE_KEYS == 0 {
                timer.lap();
            }
        })?;
        timer.lap();
        self.returned += bytes;
        let live = self.live.iter().filter(|there| **there).count();
        if !in_order || keys != live {
            return Err(format!(
                "wrong result: scanned {keys} of {live} keys, in order: {in_order}"
            ));
        }
        Ok(keys as u64)
    }

    fn close(&mut self) -> Result<(), String> {
        self.store.take().map_or(Ok(()), Store::close)
    }
}

const fn put_op(key: u64) -> Op {
    Op { kind: OpKind::Put, key, missing: false }
}

/// The engine's API as the workloads see it; errors are text.
struct Store {
    db: Db,
}

impl Store {
    fn open(dir: &Path) -> Result<Self, String> {
        let db = Db::open(dir, DbOptions::default()).map_err(|e| e.to_string())?;
        Ok(Self { db })
    }

    fn put(&self, key: &[u8], value: &[u8], sync: bool) -> Result<(), String> {
        let mut batch = WriteBatch::new();
        batch.put(key, value).map_err(|e| e.to_string())?;
        self.write(batch, sync)
    }

    fn delete(&self, key: &[u8]) -> Result<(), String> {
        let mut batch = WriteBatch::new();
        batch.delete(key).map_err(|e| e.to_string())?;
        self.write(batch, false)
    }

    fn write(&self, batch: WriteBatch, sync: bool) -> Result<(), String> {
        self.db.write(batch, WriteOptions { sync }).map(|_| ()).map_err(|e| e.to_string())
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, String> {
        self.db.get(key).map_err(|e| e.to_string())
    }

    fn scan(
        &self,
        start: &[u8],
        limit: usize,
        mut each: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), String> {
        for entry in self.db.scan(start, None).take(limit) {
            let entry = entry.map_err(|e| e.to_string())?;
            each(&entry.key, &entry.value);
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), String> {
        self.db.flush().map_err(|e| e.to_string())
    }

    fn close(self) -> Result<(), String> {
        self.db.close().map_err(|e| e.to_string())
    }
}

/// Times operations that follow each other: one clock reading each.
struct Timer {
    begin: u64,
    last: u64,
    latencies: Histogram<u64>,
}

impl Timer {
    fn start() -> Self {
        let now = clock::now();
        Self { begin: now, last: now, latencies: stats::histogram() }
    }

    fn lap(&mut self) {
        let now = clock::now();
        self.latencies.saturating_record((now - self.last).max(1));
        self.last = now;
    }

    fn each(
        &mut self,
        n: u64,
        mut operation: impl FnMut(u64) -> Result<(), String>,
    ) -> Result<u64, String> {
        for i in 0..n {
            operation(i)?;
            self.lap();
        }
        Ok(n)
    }

    const fn elapsed(&self) -> u64 {
        let ns = self.last - self.begin;
        if ns == 0 { 1 } else { ns }
    }
}

/// What the process read and wrote so far.
#[derive(Default)]
struct ProcessIo {
    read: u64,
    written: u64,
}

impl ProcessIo {
    fn read() -> Self {
        let text = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
        let field = |name: &str| {
            let line = text.lines().find_map(|l| l.strip_prefix(name));
            line.and_then(|v| v.trim().parse().ok()).unwrap_or(0)
        };
        Self { read: field("rchar:"), written: field("write_bytes:") }
    }
}

fn rss_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap_or("0");
    line.split_ascii_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or(0) << 10
}

/// Bytes allocated to all files under `dir`.
fn disk_bytes(dir: &Path) -> io::Result<u64> {
    let mut total = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        total +=
            if metadata.is_dir() { disk_bytes(&entry.path())? } else { metadata.blocks() * 512 };
    }
    Ok(total)
}

fn remove_all(dir: &Path) -> Result<(), String> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(format!("removing {}: {e}", dir.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn every_workload_runs_and_leaves_nothing_behind() {
        let parent = tempfile::tempdir().unwrap();
        let options = BenchOptions {
            workloads: BenchWorkload::value_variants().to_vec(),
            num: 2000,
            reads: None,
            key_size: 16,
            value_size: 100,
            dir: parent.path().join("db"),
            seed: 1,
        };
        let mut results = Vec::new();
        run(&options, |result| results.push(result.clone())).unwrap();
        assert_eq!(results.len(), 10);
        for r in &results {
            assert!(r.ops > 0 && r.ops_s > 0.0 && r.disk_bytes > 0, "{r:?}");
        }
        assert!(!options.dir.exists());
    }

    #[test]
    fn a_directory_with_something_in_it_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("precious"), b"x").unwrap();
        let options = BenchOptions {
            workloads: vec![BenchWorkload::FillSeq],
            num: 10,
            reads: None,
            key_size: 16,
            value_size: 100,
            dir: dir.path().to_owned(),
            seed: 1,
        };
        let error = run(&options, |_| ()).unwrap_err();
        assert!(error.contains("not empty"), "{error}");
        assert!(dir.path().join("precious").exists());
    }
}
