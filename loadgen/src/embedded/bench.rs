//! The workloads, on any [`Engine`].

use super::engine::{Engine, Pairs};
use super::order::Order;
use super::process::{self, Usage};
use super::{BenchOptions, BenchResult, BenchWorkload, Leave};
use crate::clock;
use crate::files::{self, FileMode};
use crate::stats::{self, Percentiles};
use crate::workload::{Mix, Op, OpKind, Workload, WorkloadOptions};
use beachdb::base::hash::key_hash;
use beachdb::sstable::filter::{self, BloomPolicy, FilterPolicy, FilterReader, Probe};
use hdrhistogram::Histogram;

/// Puts in one batch of `fillbatchsync`.
const BATCH_PUTS: u64 = 100;
/// `fillsync` does this share of `--num`.
const SYNC_SHARE: u64 = 100;
/// Keys of one `seekrandom`.
const SEEK_KEYS: usize = 100;
/// Keys timed together in `readseq`.
const PAGE_KEYS: usize = 1000;
/// How long each raw probe takes; four stand around a workload that syncs.
const PROBE_NS: u64 = 250_000_000;
/// What a log record adds to the keys and values of a batch, about.
const RECORD_OVERHEAD: usize = 40;

/// Runs the workloads in order; calls `each` after every one.
pub fn run<E: Engine>(
    options: &BenchOptions,
    mut each: impl FnMut(&BenchResult),
) -> Result<(), String> {
    let dir = options.dir.display();
    match (options.existing, process::is_in_use(&options.dir)) {
        (false, true) => return Err(format!("{dir} is not empty: name a directory to be made")),
        (true, false) => return Err(format!("{dir} is missing or empty: nothing to go on with")),
        _ => {}
    }
    let mut bench = Bench::<E>::new(options)?;
    let outcome = options.workloads.iter().try_for_each(|workload| {
        bench.prepare(*workload)?;
        each(&bench.measure(*workload)?);
        Ok(())
    });
    let left = bench.leave();
    if options.leave == Leave::Nothing {
        process::remove_all(&options.dir)?;
    }
    outcome.and(left)
}

struct Bench<'a, E> {
    options: &'a BenchOptions,
    keys: Workload,
    store: Option<E>,
    filter: Option<Box<dyn FilterReader>>,
    /// Which keys are there.
    live: BitSet,
    pairs: Pairs,
    /// Changes with each workload, so that none meets the keys in the order of another.
    turn: u64,
    /// Key and value bytes that the current workload wrote, and that it was given.
    written: u64,
    returned: u64,
}

impl<'a, E: Engine> Bench<'a, E> {
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
        let mut live = BitSet::new(options.num);
        if options.existing {
            live.fill(true);
        }
        Ok(Self {
            options,
            keys,
            store: None,
            filter: None,
            live,
            pairs: Pairs::default(),
            turn: 0,
            written: 0,
            returned: 0,
        })
    }

    fn store(&self) -> &E {
        self.store.as_ref().expect("`prepare` opened it")
    }

    fn open(&self) -> Result<E, String> {
        E::open(&self.options.dir, &self.options.engine)
    }

    /// Brings the database into the state that `workload` starts from.
    fn prepare(&mut self, workload: BenchWorkload) -> Result<(), String> {
        self.turn += 1;
        if workload.starts_empty() {
            self.close()?;
            process::remove_all(&self.options.dir)?;
            self.live.fill(false);
        }
        if workload == BenchWorkload::FilterOnly {
            self.filter = Some(self.build_filter()?);
            return Ok(());
        }
        if workload.needs_keys() && self.live.count() == 0 {
            eprintln!("{}: filling {} keys first", workload.name(), self.options.num);
            if self.store.is_none() {
                self.store = Some(self.open()?);
            }
            let order = self.order();
            for i in 0..self.options.num {
                self.put(order.at(i), false)?;
            }
            self.store().settle()?;
        }
        if workload == BenchWorkload::Reopen {
            self.close()?;
        } else if self.store.is_none() {
            self.store = Some(self.open()?);
        }
        Ok(())
    }

    fn measure(&mut self, workload: BenchWorkload) -> Result<BenchResult, String> {
        let raw_bytes = self.raw_bytes(workload);
        let mut raw = raw_bytes.map(|bytes| self.probe(bytes)).transpose()?;
        (self.written, self.returned) = (0, 0);
        process::forget_peak();
        let before = Usage::read();
        let tables_before = self.store.as_ref().and_then(E::table_bytes_written);
        let mut timer = Timer::start();
        let ops = self.operate(workload, &mut timer)?;
        let ops_s = ops as f64 * 1e9 / timer.elapsed() as f64;
        if workload.writes() && self.options.settle {
            self.store().settle()?;
        }
        let settle_ns = clock::now() - timer.last;
        let after = Usage::read();
        let tables = self.store.as_ref().and_then(E::table_bytes_written);
        let (rss_bytes, peak_rss_bytes) = process::resident_bytes();
        let disk_bytes = process::disk_bytes(&self.options.dir).or_else(|e| {
            if self.store.is_none() { Ok(0) } else { Err(self.in_dir("sizing", &e)) }
        })?;
        if let (Some((zero_filled, growing)), Some(bytes)) = (&mut raw, raw_bytes) {
            let behind = self.probe(bytes)?;
            (*zero_filled, *growing) =
                ((*zero_filled + behind.0) / 2.0, (*growing + behind.1) / 2.0);
        }
        let p = Percentiles::of(&timer.latencies);
        let entry = (self.options.key_size + self.options.value_size) as u64;
        let amp =
            |part: u64, whole: u64| (whole > 0).then(|| hundredths(part as f64 / whole as f64));
        Ok(BenchResult {
            engine: E::NAME.into(),
            workload,
            ops,
            ops_s: if ops_s > 1000.0 { ops_s.round() } else { hundredths(ops_s) },
            p50_us: p.p50_us,
            p99_us: p.p99_us,
            p999_us: p.p999_us,
            max_us: p.max_us,
            cpu_us: hundredths((after.cpu_us - before.cpu_us) as f64 / ops as f64),
            settle_ms: hundredths(settle_ns as f64 / 1e6),
            write_amp: amp(after.written - before.written, self.written),
            table_write_amp: tables.and_then(|t| amp(t - tables_before.unwrap_or(0), self.written)),
            read_amp: amp(after.read - before.read, self.returned),
            space_amp: amp(disk_bytes, self.live.count() * entry),
            disk_bytes,
            rss_bytes,
            peak_rss_bytes,
            raw_zero_filled_ops_s: raw.map(|(zero_filled, _)| zero_filled.round()),
            raw_growing_ops_s: raw.map(|(_, growing)| growing.round()),
        })
    }

    /// Does the operations of `workload`. Returns how many.
    fn operate(&mut self, workload: BenchWorkload, timer: &mut Timer) -> Result<u64, String> {
        let num = self.options.num;
        let reads = self.options.reads.unwrap_or(num);
        let writes = self.options.writes.unwrap_or(num);
        let order = self.order();
        match workload {
            BenchWorkload::FillSeq => timer.each(num, |i| self.put(i, false)),
            BenchWorkload::FillRandom => timer.each(num, |i| self.put(order.at(i), false)),
            BenchWorkload::Overwrite => timer.each(writes, |i| self.put(order.at(i), false)),
            BenchWorkload::FillSync => {
                timer.each((num / SYNC_SHARE).max(1), |i| self.put(order.at(i), true))
            }
            BenchWorkload::FillBatchSync => {
                let batches = num.div_ceil(BATCH_PUTS);
                timer.each(batches, |i| {
                    let first = i * BATCH_PUTS;
                    self.put_batch((first..num.min(first + BATCH_PUTS)).map(|i| order.at(i)))
                })?;
                Ok(num)
            }
            BenchWorkload::ReadRandom => timer.each(reads, |i| self.get(order.at(i), false)),
            BenchWorkload::ReadMissing => timer.each(reads, |i| self.get(order.at(i), true)),
            BenchWorkload::ReadSeq => self.read_all(timer),
            BenchWorkload::SeekRandom => {
                timer.each(reads.div_ceil(SEEK_KEYS as u64), |i| self.seek(order.at(i)))
            }
            BenchWorkload::DeleteRandom => timer.each(writes, |i| self.delete(order.at(i))),
            BenchWorkload::Reopen => timer.each(1, |_| {
                self.store = Some(self.open()?);
                self.get(order.at(0), false)
            }),
            BenchWorkload::FilterOnly => self.ask_filter(timer, reads, &order),
        }
    }

    fn order(&self) -> Order {
        Order::new(self.options.num, self.options.seed ^ self.turn << 32)
    }

    fn put(&mut self, key: u64, sync: bool) -> Result<(), String> {
        let (k, v) = self.keys.key_value(&put_op(key));
        self.written += (k.len() + v.len()) as u64;
        self.live.set(key, true);
        self.store.as_ref().expect("`prepare` opened it").put(k, v, sync)
    }

    fn put_batch(&mut self, keys: impl Iterator<Item = u64>) -> Result<(), String> {
        self.pairs.clear();
        for key in keys {
            let (k, v) = self.keys.key_value(&put_op(key));
            self.written += (k.len() + v.len()) as u64;
            self.live.set(key, true);
            self.pairs.push(k, v);
        }
        self.store().put_batch(&self.pairs, true)
    }

    fn delete(&mut self, key: u64) -> Result<(), String> {
        let k = self.keys.key(&put_op(key));
        self.written += k.len() as u64;
        self.live.set(key, false);
        self.store.as_ref().expect("`prepare` opened it").delete(k)
    }

    fn get(&mut self, key: u64, missing: bool) -> Result<(), String> {
        let op = Op { kind: OpKind::Get, key, missing };
        let there = self.live.get(key) && !missing;
        let k = self.keys.key(&op);
        let named = k.len().min(self.options.value_size);
        let store = self.store.as_ref().expect("`prepare` opened it");
        let found = store.get(k, |v| (v.len(), v.get(..named) == Some(&k[..named])))?;
        if found != there.then_some((self.options.value_size, true)) {
            let k = String::from_utf8_lossy(k);
            return Err(format!(
                "wrong result: get {k}: {found:?} (length, right beginning), expected a value: {there}"
            ));
        }
        self.returned += found.map_or(0, |(len, _)| (k.len() + len) as u64);
        Ok(())
    }

    fn seek(&mut self, key: u64) -> Result<(), String> {
        let start = self.keys.key(&put_op(key)).to_vec();
        let (mut first_is_it, mut keys, mut bytes) = (false, 0, 0);
        self.store().scan(&start, SEEK_KEYS, |key, value| {
            first_is_it |= keys == 0 && key == start;
            keys += 1;
            bytes += (key.len() + value.len()) as u64;
        })?;
        self.returned += bytes;
        if self.live.get(key) && !first_is_it {
            return Err(format!("wrong result: seek {}: another first key", start.escape_ascii()));
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
        let live = self.live.count();
        if !in_order || keys as u64 != live {
            return Err(format!(
                "wrong result: scanned {keys} of {live} keys, in order: {in_order}"
            ));
        }
        Ok(keys as u64)
    }

    /// One filter over all keys.
    fn build_filter(&mut self) -> Result<Box<dyn FilterReader>, String> {
        let hashes: Vec<u64> =
            (0..self.options.num).map(|i| key_hash(self.keys.key(&put_op(i)))).collect();
        let policy = BloomPolicy::new(self.options.engine.bits_per_key);
        let payload = policy.build(&hashes);
        let opened = filter::open(policy.id(), payload.into(), 0)
            .transpose()
            .map_err(|e| format!("{e:?}"))?;
        opened.flatten().ok_or_else(|| "a bloom filter opens as none".into())
    }

    fn ask_filter(&mut self, timer: &mut Timer, reads: u64, order: &Order) -> Result<u64, String> {
        let filter = self.filter.take().expect("`prepare` built it");
        let mut wrong = 0_u64;
        timer.each(reads, |i| {
            let op = Op { kind: OpKind::Get, key: order.at(i), missing: true };
            wrong += u64::from(filter.may_contain(&Probe::of(self.keys.key(&op))));
            Ok(())
        })?;
        if wrong > reads / 2 {
            return Err(format!(
                "wrong result: the filter let {wrong} of {reads} missing keys pass"
            ));
        }
        Ok(reads)
    }

    /// The size of a raw append beside `workload`, when it syncs.
    const fn raw_bytes(&self, workload: BenchWorkload) -> Option<usize> {
        let entry = self.options.key_size + self.options.value_size;
        match workload {
            BenchWorkload::FillSync => Some(entry + RECORD_OVERHEAD),
            BenchWorkload::FillBatchSync => {
                Some((entry + 4) * BATCH_PUTS as usize + RECORD_OVERHEAD)
            }
            _ => None,
        }
    }

    /// Appends with fdatasync per second: zero-filled, growing.
    fn probe(&self, bytes: usize) -> Result<(f64, f64), String> {
        let dir = self.options.dir.parent().filter(|p| !p.as_os_str().is_empty());
        let dir = dir.unwrap_or_else(|| ".".as_ref());
        let probe = |mode| {
            files::probe(dir, mode, bytes, PROBE_NS)
                .map(|row| row.ops_s)
                .map_err(|e| self.in_dir("append + fdatasync beside", &e))
        };
        Ok((probe(FileMode::ZeroFilled)?, probe(FileMode::Growing)?))
    }

    fn in_dir(&self, what: &str, e: &std::io::Error) -> String {
        format!("{what} {}: {e}", self.options.dir.display())
    }

    fn close(&mut self) -> Result<(), String> {
        self.store.take().map_or(Ok(()), E::close)
    }

    fn leave(&mut self) -> Result<(), String> {
        if self.options.leave != Leave::Open {
            return self.close();
        }
        match self.store.take() {
            Some(store) => {
                let synced = store.sync();
                std::mem::forget(store);
                synced
            }
            None => Ok(()),
        }
    }
}

const fn put_op(key: u64) -> Op {
    Op { kind: OpKind::Put, key, missing: false }
}

fn hundredths(x: f64) -> f64 {
    (x * 100.0).round() / 100.0
}

/// Which numbers below n; a bit each.
struct BitSet {
    n: u64,
    words: Vec<u64>,
    count: u64,
}

impl BitSet {
    fn new(n: u64) -> Self {
        Self { n, words: vec![0; n.div_ceil(64) as usize], count: 0 }
    }

    fn get(&self, i: u64) -> bool {
        self.words[(i / 64) as usize] >> (i % 64) & 1 == 1
    }

    fn set(&mut self, i: u64, on: bool) {
        match (self.get(i), on) {
            (false, true) => self.count += 1,
            (true, false) => self.count -= 1,
            _ => return,
        }
        self.words[(i / 64) as usize] ^= 1 << (i % 64);
    }

    /// Bits beyond n are set as well; nobody asks for them.
    fn fill(&mut self, on: bool) {
        self.words.fill(if on { u64::MAX } else { 0 });
        self.count = if on { self.n } else { 0 };
    }

    const fn count(&self) -> u64 {
        self.count
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

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "puts something into a directory")]
    use super::super::{Beachdb, EngineOptions};
    use super::*;
    use clap::ValueEnum;
    use std::path::PathBuf;

    fn options(num: u64, dir: PathBuf, workloads: &[BenchWorkload]) -> BenchOptions {
        BenchOptions {
            workloads: workloads.to_vec(),
            num,
            reads: None,
            writes: None,
            key_size: 16,
            value_size: 100,
            dir,
            seed: 1,
            engine: EngineOptions::default(),
            existing: false,
            settle: true,
            leave: Leave::Nothing,
        }
    }

    fn results(options: &BenchOptions) -> Vec<BenchResult> {
        let mut results = Vec::new();
        run::<Beachdb>(options, |result| results.push(result.clone())).unwrap();
        results
    }

    #[test]
    fn every_workload_runs_and_leaves_nothing_behind() {
        let parent = tempfile::tempdir().unwrap();
        let all = BenchWorkload::value_variants();
        let options = options(2000, parent.path().join("db"), all);
        let results = results(&options);
        assert_eq!(results.len(), all.len());
        for r in &results {
            assert!(r.ops > 0 && r.ops_s > 0.0 && r.disk_bytes > 0, "{r:?}");
            let back: BenchResult = serde_json::from_str(&r.to_json()).unwrap();
            assert_eq!(&back, r);
        }
        assert!(!options.dir.exists());
    }

    #[test]
    fn one_run_goes_on_with_what_another_left_closed_or_open() {
        use BenchWorkload::{FillRandom, Overwrite, ReadRandom, Reopen};
        let parent = tempfile::tempdir().unwrap();
        let fill = options(1000, parent.path().join("db"), &[FillRandom]);
        results(&BenchOptions { leave: Leave::Closed, ..fill.clone() });
        // In a process of its own it would exit now; the lock is this process's until then, so this test closes.
        let again = BenchOptions { existing: true, leave: Leave::Closed, ..fill.clone() };
        let unsettled = BenchOptions { settle: false, writes: Some(200), ..again.clone() };
        assert_eq!(results(&BenchOptions { workloads: vec![Overwrite], ..unsettled })[0].ops, 200);
        let reads = BenchOptions { workloads: vec![Reopen, ReadRandom], ..again };
        assert_eq!(results(&BenchOptions { leave: Leave::Nothing, ..reads })[1].ops, 1000);
        let error = run::<Beachdb>(&BenchOptions { existing: true, ..fill }, |_| ()).unwrap_err();
        assert!(error.contains("nothing to go on with"), "{error}");
    }

    #[test]
    fn a_directory_with_something_in_it_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("precious"), b"x").unwrap();
        let options = options(10, dir.path().to_owned(), &[BenchWorkload::FillSeq]);
        let error = run::<Beachdb>(&options, |_| ()).unwrap_err();
        assert!(error.contains("not empty"), "{error}");
        assert!(dir.path().join("precious").exists());
    }

    #[test]
    fn bits_are_counted() {
        let mut set = BitSet::new(70);
        set.set(69, true);
        set.set(69, true);
        set.set(3, true);
        assert!(set.get(69) && set.get(3) && !set.get(4));
        assert_eq!(set.count(), 2);
        set.set(3, false);
        assert_eq!(set.count(), 1);
        set.fill(true);
        assert_eq!(set.count(), 70);
    }
}
