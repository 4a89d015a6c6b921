//! Tables are opened when they are read, and what the cache has is answered on the loop.

use super::*;
use crate::env::Disk;
use crate::env::sim::{FailKind, FailOn, FailPoint, OpKind};
use crate::sstable::Compression;

impl Rig {
    /// `count` tables in level 0, each with a key of its own and with "all".
    fn with_tables(seed: u64, count: u64, options: &EngineOptions) -> Self {
        let (env, sim) = sim::env(seed);
        let engine = Engine::open(&env, options.clone()).unwrap();
        let mut rig = Self { env, sim, engine, options: options.clone(), next_index: 1 };
        for i in 0..count {
            let value = format!("value of {i}");
            rig.write(&[(&format!("key{i:04}"), Some(&value)), ("all", Some(&value))]);
            rig.flush();
        }
        rig
    }

    fn reopen_with(&mut self, options: &EngineOptions) -> Result<(), EngineError> {
        self.sim.jobs.abandon();
        self.engine = Engine::open(&self.env, options.clone())?;
        Ok(())
    }

    fn table_paths(&self) -> Vec<std::path::PathBuf> {
        let dir = &self.engine.options.dir;
        let numbers = self.engine.durable.tables.keys();
        numbers.map(|&number| dir.join(manifest::table_file_name(number))).collect()
    }
}

#[test]
fn an_open_reads_no_table_and_a_get_opens_what_it_needs_in_a_job() {
    let options = options();
    let mut rig = Rig::with_tables(1, 20, &options);
    // A read of any table fails from here on.
    let read = FailOn::Matching { op: Some(OpKind::Read), path: ".sst".into(), nth: 0 };
    rig.sim.disk.fail(FailPoint { on: read, error: FailKind::Eio, forever: true });
    rig.reopen_with(&options).unwrap();
    assert_eq!(rig.engine.stats().open_tables.opened, 0);
    assert!(matches!(rig.engine.get(b"zzz", None).unwrap(), Get::Missing), "in no range");
    assert!(rig.try_get("key0019", None).is_err(), "an error of this read");
    rig.sim.disk.clear_faults();

    let Get::NeedsDisk(job) = rig.engine.get(b"key0019", None).unwrap() else {
        panic!("a table is opened on the loop")
    };
    assert_eq!(job.run().unwrap().unwrap().1, "value of 19");
    assert_eq!(rig.engine.stats().open_tables.opened, 1);
    let Get::Found { value, .. } = rig.engine.get(b"key0019", None).unwrap() else {
        panic!("its block is in the cache")
    };
    assert_eq!(value, "value of 19");
    let stats = rig.engine.stats();
    assert!(stats.cache.hits == 1 && stats.cache.misses == 1 && stats.cache.inserted == 1);
    assert!(stats.cache.charged > 0, "index and filter count");
}

#[test]
fn a_newer_table_that_is_not_in_memory_is_asked_before_an_older_one_that_is() {
    let options = options();
    let mut rig = Rig::with_tables(1, 3, &options);
    rig.reopen_with(&options).unwrap();
    // The oldest table is open, with its block in the cache.
    let oldest = rig.engine.version.tables().last().unwrap().clone();
    let probe = Probe::of(b"all");
    let seq = rig.engine.last_seq();
    oldest.open().unwrap().get(b"all", seq, &probe, Fetch::Point).unwrap().unwrap();
    assert!(oldest.get_in_memory(b"all", seq, &probe).unwrap().is_some());
    assert_eq!(rig.get("all").as_deref(), Some("value of 2"));
}

#[test]
fn a_missing_table_or_one_of_another_length_is_fatal_at_open() {
    let options = options();
    let mut rig = Rig::with_tables(1, 4, &options);
    for (i, path) in rig.table_paths().into_iter().enumerate() {
        let whole = rig.sim.disk.read_file(&path).unwrap();
        rig.sim.disk.remove(&path).unwrap();
        let error = rig.reopen_with(&options).unwrap_err();
        assert!(matches!(error, EngineError::MissingTable { .. }), "{error}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        for bytes in [&whole[..whole.len() - 1], &[&whole[..], b"x"].concat(), &[]] {
            rig.sim.disk.write_file(&path, bytes);
            let error = rig.reopen_with(&options).unwrap_err();
            assert!(matches!(error, EngineError::WrongTable { .. }), "table {i}: {error}");
        }
        rig.sim.disk.write_file(&path, &whole);
    }
    rig.reopen_with(&options).unwrap();
    rig.engine.check_tables().unwrap();
}

#[test]
fn other_damage_is_an_error_of_the_reads_that_meet_it() {
    let options = options();
    let mut rig = Rig::with_tables(1, 2, &options);
    let paths = rig.table_paths();
    let whole = rig.sim.disk.read_file(&paths[0]).unwrap();
    for at in 0..whole.len() {
        let mut bad = whole.clone();
        bad[at] ^= 0x10;
        rig.sim.disk.write_file(&paths[0], &bad);
        rig.reopen_with(&options).unwrap();
        match rig.try_get("key0000", None) {
            Err(error) => assert!(error.to_string().contains("offset"), "byte {at}: {error}"),
            Ok(_) => panic!("byte {at} is read over"),
        }
        assert_eq!(rig.get("key0001").as_deref(), Some("value of 1"), "the other table");
        assert_eq!(rig.get("all").as_deref(), Some("value of 1"), "hides the damaged one");
    }
    // A table in the place of another one of the same length.
    let other = rig.sim.disk.read_file(&paths[1]).unwrap();
    assert_eq!(other.len(), whole.len());
    rig.sim.disk.write_file(&paths[0], &other);
    rig.reopen_with(&options).unwrap();
    let error = rig.try_get("key0000", None).unwrap_err();
    assert!(matches!(error, EngineError::WrongTable { .. }), "{error}");
    assert!(rig.engine.check_tables().is_err());
}

#[test]
fn more_tables_than_may_be_open_are_read_all_the_same() {
    let options = EngineOptions { max_open_tables: 4, ..options() };
    let mut rig = Rig::with_tables(1, 40, &options);
    rig.reopen_with(&options).unwrap();
    for round in 0..2 {
        for i in 0..40 {
            let value = format!("value of {i}");
            assert_eq!(rig.get(&format!("key{i:04}")), Some(value), "round {round}");
            assert!(rig.engine.stats().open_tables.open <= 4);
        }
        // A scan holds all that it reads.
        assert_eq!(rig.scan(ScanOptions::default()).len(), 41);
    }
    rig.get("key0000");
    let stats = rig.engine.stats().open_tables;
    assert!(stats.open <= 4 && stats.closed >= 70, "{stats:?}");
}

#[test]
fn tables_of_both_compressions_are_read_side_by_side() {
    let lz4 = EngineOptions { compression: Compression::Lz4, ..options() };
    let mut rig = Rig::with_tables(1, 1, &options());
    rig.reopen_with(&lz4).unwrap();
    let text = "the same words again and again ".repeat(20);
    for i in 0..50 {
        rig.write(&[(&format!("long{i:03}"), Some(&text))]);
    }
    rig.flush();
    let newest = rig.engine.version.tables().next().unwrap().open().unwrap();
    assert_eq!(newest.compression(), Compression::Lz4);
    assert!(newest.bytes() < 10_000, "{} bytes of 31,000", newest.bytes());
    rig.reopen_with(&options()).unwrap();
    assert_eq!(rig.get("long007"), Some(text));
    assert_eq!(rig.get("key0000").as_deref(), Some("value of 0"));
    assert_eq!(rig.scan(ScanOptions::default()).len(), 52);
}
