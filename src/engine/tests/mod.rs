//! Tests of the engine on the simulated world. `Db` has its own beside it.

mod compaction;
mod compaction_faults;
mod core;
mod lazy;
mod open_crash;
mod ranges;
mod snapshot;

use super::*;
use crate::base::batch::WriteBatch;
use crate::env::sim::{self, SimHandles};

/// An engine whose jobs run when the test says so.
struct Rig {
    env: Env,
    sim: SimHandles,
    engine: Engine,
    options: EngineOptions,
    next_index: u64,
}

/// Nothing is compacted unless a test asks for it.
fn options() -> EngineOptions {
    let compaction = CompactionOptions { automatic: false, ..CompactionOptions::default() };
    EngineOptions { memtable_bytes: 256 << 10, compaction, ..EngineOptions::new("db/engine") }
}

/// Levels and tables so small that a few hundred writes fill all of them.
fn tiny() -> CompactionOptions {
    CompactionOptions {
        automatic: true,
        table_bytes: 2 << 10,
        base_bytes: 4,
        l0_tables: 2,
        min_age: 50,
    }
}

impl Rig {
    fn new(seed: u64) -> Self {
        Self::with(seed, options())
    }

    fn with(seed: u64, options: EngineOptions) -> Self {
        let (env, sim) = sim::env(seed);
        let engine = Engine::open(&env, options.clone()).unwrap();
        Self { env, sim, engine, options, next_index: 1 }
    }

    fn write(&mut self, ops: &[(&str, Option<&str>)]) -> Applied {
        let mut batch = WriteBatch::new();
        for (key, value) in ops {
            match value {
                Some(value) => batch.put(key.as_bytes(), value.as_bytes()).unwrap(),
                None => batch.delete(key.as_bytes()).unwrap(),
            }
        }
        let index = LogIndex(self.next_index);
        self.next_index += 1;
        self.engine.apply(index, Term(1), Some(BatchRef::parse(batch.as_bytes()).unwrap()), &[])
    }

    /// Runs all jobs, also those that their completions start.
    fn settle(&mut self) -> Vec<LogIndex> {
        let mut flushed = Vec::new();
        loop {
            self.sim.jobs.run_all();
            let mut done = Vec::new();
            self.env.jobs.poll(&mut done);
            if done.is_empty() {
                return flushed;
            }
            for completion in done {
                if let JobOutcome::Flushed { index, .. } = self.engine.job_done(completion).unwrap()
                {
                    flushed.push(index);
                }
            }
        }
    }

    fn flush(&mut self) -> Vec<LogIndex> {
        assert!(self.engine.start_flush());
        self.settle()
    }

    fn try_get(&self, key: &str, seq: Option<u64>) -> Result<Option<String>, EngineError> {
        let found = match self.engine.get(key.as_bytes(), seq.map(SequenceNumber))? {
            Get::Found { seq, value } => Some((seq, value)),
            Get::Missing => None,
            Get::NeedsDisk(job) => job.run()?,
        };
        Ok(found.map(|(_, value)| String::from_utf8(value.to_vec()).unwrap()))
    }

    fn get(&self, key: &str) -> Option<String> {
        self.try_get(key, None).unwrap()
    }

    fn scan(&self, options: ScanOptions) -> Vec<(String, String)> {
        let mut options = options;
        let mut all = Vec::new();
        loop {
            let slice = match self.engine.scan(&options).unwrap() {
                Scan::Done(slice) => slice,
                Scan::NeedsDisk(job) => job.run().unwrap(),
            };
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            all.extend(slice.entries.iter().map(|e| (text(&e.key), text(&e.value))));
            match slice.resume {
                Some(resume) => {
                    assert!(resume > options.start, "a slice moves on");
                    (options.start, options.seq) = (resume, Some(slice.seq));
                }
                None => return all,
            }
        }
    }

    /// What a new process finds.
    fn reopen(&mut self) -> Result<(), EngineError> {
        self.sim.jobs.abandon();
        self.engine = Engine::open(&self.env, self.options.clone())?;
        self.next_index = self.engine.applied().0.0 + 1;
        Ok(())
    }
}
