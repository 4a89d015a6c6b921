//! `Db` on the simulated world: the API, group commit, read-only and back. The model and crash tests are in
//! [`model`] and [`crashes`].

mod api;
mod checkpoints;
mod conditions;
mod crashes;
mod faults;
mod flips;
mod model;
mod read_only;
mod scripted;

use super::*;
use crate::env::sim::{self, CrashKind, SimHandles};
use std::collections::BTreeMap;

/// A database in a simulated world, small enough that a test meets rotations and flushes.
struct Rig {
    env: Env,
    sim: SimHandles,
    db: Option<Db>,
}

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

fn options(env: &Env) -> DbOptions {
    DbOptions {
        env: Some(env.clone()),
        memtable_bytes: 64 << 10,
        segment_bytes: 128 << 10,
        preallocate: false,
        compaction: CompactionOptions {
            table_bytes: 2 << 10,
            base_bytes: 16,
            l0_tables: 2,
            min_age: 50,
            automatic: true,
        },
        ..DbOptions::default()
    }
}

impl Rig {
    fn new(seed: u64) -> Self {
        let (env, sim) = sim::env(seed);
        let db = Db::open("db", options(&env)).unwrap();
        Self { env, sim, db: Some(db) }
    }

    fn db(&self) -> &Db {
        self.db.as_ref().expect("the database is open")
    }

    /// The process or the machine dies and comes up again; the database stays closed.
    fn crash(&mut self, kind: CrashKind) {
        self.sim.disk.crash(kind);
        self.sim.jobs.abandon();
        self.db = None;
        self.sim.jobs.abandon();
        self.sim.disk.restart();
    }

    fn open(&mut self) -> Result<(), DbError> {
        self.db = None;
        self.db = Some(Db::open("db", options(&self.env))?);
        Ok(())
    }

    fn files(&self, dir: &str, suffix: &str) -> Vec<String> {
        let entries = self.env.disk.list(Path::new(dir)).unwrap();
        let names = entries.into_iter().map(|e| e.name).filter(|name| name.ends_with(suffix));
        names.map(|name| format!("{dir}/{name}")).collect()
    }
}

fn contents(db: &Db) -> Result<Map, DbError> {
    db.iter().map(|entry| entry.map(|e| (e.key, e.value.to_vec()))).collect()
}

fn batch(ops: &[(&[u8], Option<&[u8]>)]) -> WriteBatch {
    let mut batch = WriteBatch::new();
    for (key, value) in ops {
        match value {
            Some(value) => batch.put(key, value).unwrap(),
            None => batch.delete(key).unwrap(),
        }
    }
    batch
}
