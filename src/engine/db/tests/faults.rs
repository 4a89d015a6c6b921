//! Failing operations, full disks, damaged and missing files.

use super::*;
use crate::engine::EngineError;
use crate::env::sim::{FailKind, FailOn, FailPoint, OpKind};
use crate::wal::WalError;

/// Writes, flushes, and reads on a disk that fails; every answer must be right or an error. Returns what must be
/// there, and what may be there besides.
fn survive(env: &Env, context: &str) -> (Map, Vec<Map>) {
    let mut sure = Map::new();
    // Every state that a write of unknown effect could have made.
    let mut possible: Vec<Map> = vec![Map::new()];
    for life in 0..2_u8 {
        let Ok(db) = Db::open("db", options(env)) else { continue };
        for i in 0..12_u8 {
            let (key, value) = ([i % 5], [life, i]);
            match db.write(
                batch(&[(&key, Some(&value)), (b"all", Some(&value))]),
                WriteOptions::default(),
            ) {
                Ok(_) => {
                    for state in &mut possible {
                        state.insert(key.to_vec(), value.to_vec());
                        state.insert(b"all".to_vec(), value.to_vec());
                    }
                    possible.dedup();
                }
                Err(e) if e.effect() == Effect::NotApplied => {}
                Err(_) => {
                    let with: Vec<Map> = possible
                        .iter()
                        .cloned()
                        .map(|mut state| {
                            state.insert(key.to_vec(), value.to_vec());
                            state.insert(b"all".to_vec(), value.to_vec());
                            state
                        })
                        .collect();
                    possible.extend(with);
                }
            }
            if i == 6 {
                drop(db.flush());
            }
            if let Ok(found) = contents(&db) {
                assert!(possible.contains(&found), "{context}: life {life}, write {i}: {found:?}");
            }
            if let Ok(found) = db.get(b"all") {
                let found = found.map(|v| v.to_vec());
                assert!(
                    possible.iter().any(|state| state.get(&b"all"[..]).cloned() == found),
                    "{context}: life {life}, write {i}: {found:?}"
                );
            }
        }
        drop(db.close());
    }
    if let [only] = &possible[..] {
        sure.clone_from(only);
    }
    (sure, possible)
}

#[test]
fn a_failure_at_every_change_once_or_for_ever_never_gives_a_wrong_answer() {
    for error in [FailKind::Eio, FailKind::Enospc, FailKind::ShortWrite] {
        let (env, sim) = sim::env(1);
        survive(&env, "no failure");
        let changes = sim.disk.op_count();
        for at in 0..changes {
            for forever in [false, true] {
                let context = format!("{error:?} at change {at} of {changes}, forever {forever}");
                let (env, sim) = sim::env(1);
                sim.disk.fail(FailPoint { on: FailOn::Change(at), error, forever });
                let (sure, possible) = survive(&env, &context);
                sim.disk.clear_faults();
                sim.jobs.run_all();
                sim.jobs.abandon();
                for kind in [CrashKind::Process, CrashKind::PowerLoss] {
                    sim.disk.crash(kind);
                    sim.disk.restart();
                    let db =
                        Db::open("db", options(&env)).unwrap_or_else(|e| panic!("{context}: {e}"));
                    let found = contents(&db).unwrap();
                    assert!(
                        possible.contains(&found),
                        "{context}: {found:?} is not in {possible:?}"
                    );
                    if possible.len() == 1 {
                        assert_eq!(found, sure, "{context}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_failed_read_at_every_place_once_or_for_ever_never_gives_a_wrong_answer() {
    for op in [OpKind::Read, OpKind::Open, OpKind::List, OpKind::Stat] {
        for nth in 0..40 {
            for forever in [false, true] {
                let context = format!("{op:?} number {nth}, forever {forever}");
                let (env, sim) = sim::env(1);
                let on = FailOn::Matching { op: Some(op), path: String::new(), nth };
                sim.disk.fail(FailPoint { on, error: FailKind::Eio, forever });
                let (_, possible) = survive(&env, &context);
                sim.disk.clear_faults();
                sim.jobs.run_all();
                sim.jobs.abandon();
                sim.disk.crash(CrashKind::PowerLoss);
                sim.disk.restart();
                let db = Db::open("db", options(&env)).unwrap_or_else(|e| panic!("{context}: {e}"));
                let found = contents(&db).unwrap();
                assert!(possible.contains(&found), "{context}: {found:?} is not in {possible:?}");
            }
        }
    }
}

#[test]
fn a_failed_read_is_an_error_of_that_read_only() {
    let rig = Rig::new(1);
    // Without a cache every read meets the disk.
    let db = Db::open("uncached", DbOptions { cache_bytes: 0, ..options(&rig.env) }).unwrap();
    db.put(b"a", b"1").unwrap();
    db.put(b"b", b"2").unwrap();
    db.flush().unwrap();
    let read = FailOn::Matching { op: Some(OpKind::Read), path: ".sst".into(), nth: 0 };
    for _ in 0..2 {
        rig.sim.disk.fail(FailPoint { on: read.clone(), error: FailKind::Eio, forever: false });
        assert!(matches!(db.get(b"a"), Err(DbError::Engine(EngineError::Table(_)))));
        assert_eq!(db.get(b"a").unwrap().as_deref(), Some(&b"1"[..]));
        rig.sim.disk.fail(FailPoint { on: read.clone(), error: FailKind::Eio, forever: false });
        let mut iter = db.iter();
        assert!(iter.next().unwrap().is_err());
        assert!(iter.next().is_none(), "an iterator ends at an error");
        iter.seek(b"a");
        assert_eq!(iter.count(), 2, "and goes on when told to");
    }
    db.put(b"c", b"3").unwrap();
}

#[test]
fn a_failed_sync_stops_all_writes_and_says_so() {
    for path in [".wal", ".sst", ".manifest"] {
        let mut rig = Rig::new(1);
        rig.db().put(b"a", b"1").unwrap();
        rig.sim.disk.fail_next_sync(path);
        let first = rig.db().put(b"b", b"2").and_then(|_| rig.db().flush()).unwrap_err();
        let second = rig.db().put(b"c", b"3").unwrap_err();
        assert!(
            matches!(second, DbError::Stopped { effect: Effect::NotApplied, .. }),
            "{first}; {second}"
        );
        assert!(second.to_string().contains(path), "{second}");
        assert_eq!(rig.db().get(b"a").unwrap().as_deref(), Some(&b"1"[..]), "reads go on");
        assert_eq!(rig.db().get(b"c").unwrap(), None);
        assert!(rig.db().flush().is_err());
        rig.crash(CrashKind::PowerLoss);
        rig.open().unwrap();
        let found = contents(rig.db()).unwrap();
        assert_eq!(found.get(&b"a"[..]).map(Vec::as_slice), Some(&b"1"[..]));
        assert!(!found.contains_key(&b"c"[..]));
    }
}

#[test]
fn a_full_disk_makes_it_read_only_and_space_brings_it_back() {
    let rig = Rig::new(1);
    let db = rig.db();
    let value = [5; 1_000];
    let unsynced = WriteOptions { sync: false };
    for i in 0..20_u8 {
        db.put(&[i], &value).unwrap();
    }
    rig.sim.disk.set_capacity(Some(rig.sim.disk.used_bytes()));
    let error = db.flush().unwrap_err();
    assert!(matches!(&error, DbError::NoSpace { .. }), "{error}");
    assert!(db.read_only_reason().unwrap().contains("full"));
    assert!(rig.files("db/engine", ".sst").is_empty(), "the partial table is removed");
    let refused = db.put(b"x", &value).unwrap_err();
    assert_eq!(refused.effect(), Effect::NotApplied, "{refused}");
    assert_eq!(db.iter().count(), 20, "reads go on");
    // Space comes back; a second later the next call notices.
    rig.sim.disk.set_capacity(None);
    rig.sim.clock.advance(1_100_000_000);
    db.write(batch(&[(b"x", Some(&value))]), unsynced).unwrap();
    assert_eq!(db.read_only_reason(), None);
    db.flush().unwrap();
    assert_eq!(db.iter().count(), 21);
    assert!(!rig.files("db/engine", ".sst").is_empty());
}

#[test]
fn a_full_log_refuses_writes_until_there_is_space_and_loses_nothing() {
    let mut rig = Rig::new(2);
    let value = [5; 3_000];
    let mut acknowledged = Map::new();
    rig.sim.disk.set_capacity(Some(rig.sim.disk.used_bytes() + (40 << 10)));
    let mut unknown = None;
    for i in 0..60_u8 {
        match rig.db().put(&[i], &value) {
            Ok(_) => {
                acknowledged.insert(vec![i], value.to_vec());
            }
            Err(e) if e.effect() == Effect::Unknown => {
                assert_eq!(unknown, None, "only the first one is unknown: {e}");
                unknown = Some(i);
            }
            Err(e) => assert!(matches!(e, DbError::NoSpace { .. }), "{e}"),
        }
    }
    assert!(rig.db().read_only_reason().is_some());
    assert_eq!(contents(rig.db()).unwrap(), acknowledged);
    rig.sim.disk.set_capacity(None);
    rig.sim.clock.advance(1_100_000_000);
    rig.db().put(b"back", b"v").unwrap();
    acknowledged.insert(b"back".to_vec(), b"v".to_vec());
    if let Some(i) = unknown {
        // It was in the log's next group, and is now written before what came later.
        acknowledged.insert(vec![i], value.to_vec());
    }
    assert_eq!(contents(rig.db()).unwrap(), acknowledged);
    assert_eq!(rig.db().read_only_reason(), None);
    rig.open().unwrap();
    assert_eq!(contents(rig.db()).unwrap(), acknowledged);
}

#[test]
fn it_opens_on_a_full_disk_for_reading_and_recovers() {
    let mut rig = Rig::new(3);
    for i in 0..20_u8 {
        rig.db().put(&[i], &[1; 500]).unwrap();
    }
    rig.db().flush().unwrap();
    rig.db.take().unwrap().close().unwrap();
    rig.sim.disk.fail(FailPoint {
        on: FailOn::Matching { op: Some(OpKind::Create), path: "engine".into(), nth: 0 },
        error: FailKind::Enospc,
        forever: true,
    });
    rig.open().unwrap();
    assert_eq!(rig.db().iter().count(), 20);
    assert!(rig.db().put(b"x", b"v").is_err());
    rig.sim.disk.clear_faults();
    rig.sim.clock.advance(1_100_000_000);
    rig.db().put(b"x", b"v").unwrap();
    rig.db().flush().unwrap();
    rig.open().unwrap();
    assert_eq!(rig.db().iter().count(), 21);
}

/// A closed database with a table, a manifest, and a log with records.
fn closed() -> Rig {
    let mut rig = Rig::new(7);
    for i in 0..30_u8 {
        rig.db().put(&[i], &[i; 50]).unwrap();
    }
    rig.db().flush().unwrap();
    for i in 30..40_u8 {
        rig.db().put(&[i], &[i; 50]).unwrap();
    }
    rig.db.take().unwrap().close().unwrap();
    rig
}

#[test]
fn a_flipped_byte_in_any_file_is_never_a_wrong_answer() {
    let rig = closed();
    let expected: Map = (0..40_u8).map(|i| (vec![i], vec![i; 50])).collect();
    let mut files = vec!["db/engine/CURRENT".to_owned()];
    for (dir, suffix) in [("db/engine", ".manifest"), ("db/engine", ".sst"), ("db/wal", ".wal")] {
        let found = rig.files(dir, suffix);
        assert!(!found.is_empty(), "{suffix}");
        files.extend(found);
    }
    for path in files {
        let len = rig.sim.disk.read_file(&path).unwrap().len() as u64;
        let mut refused = 0;
        let step = (len / 400).max(1);
        for offset in (0..len).step_by(step as usize) {
            let disk = rig.sim.disk.fork(offset);
            disk.flip(&path, offset, 0x10);
            let env = Env { disk: Arc::new(disk), ..rig.env.clone() };
            let result = Db::open("db", options(&env)).and_then(|db| contents(&db));
            rig.sim.jobs.abandon();
            match result {
                Ok(found) => assert_eq!(found, expected, "{path} at {offset}"),
                Err(e) => {
                    let text = e.to_string();
                    let name = path.rsplit('/').next().unwrap();
                    assert!(
                        text.contains(name) || text.contains("log"),
                        "{path} at {offset}: {text}"
                    );
                    refused += 1;
                }
            }
        }
        assert!(refused > 0, "{path}: no flip was noticed");
    }
}

#[test]
fn a_missing_a_replaced_and_a_shortened_table_are_fatal_and_named() {
    let rig = closed();
    let table = rig.files("db/engine", ".sst").pop().unwrap();
    let open = |change: &dyn Fn(&sim::SimDisk)| {
        let disk = rig.sim.disk.fork(1);
        change(&disk);
        let env = Env { disk: Arc::new(disk), ..rig.env.clone() };
        let error = Db::open("db", options(&env)).unwrap_err();
        assert!(error.to_string().contains(&table), "{error}");
        error
    };
    let missing = open(&|disk| crate::env::Disk::remove(disk, Path::new(&table)).unwrap());
    assert!(matches!(missing, DbError::Engine(EngineError::MissingTable { .. })));
    let short = open(&|disk| {
        let bytes = disk.read_file(&table).unwrap();
        disk.write_file(&table, &bytes[..bytes.len() - 1]);
    });
    assert!(matches!(short, DbError::Engine(EngineError::WrongTable { what: "its length", .. })));
}

#[test]
fn a_lost_current_and_newer_formats_are_named() {
    let rig = closed();
    let current = "db/engine/CURRENT";
    let manifest = rig.files("db/engine", ".manifest").pop().unwrap();
    let open = |change: &dyn Fn(&sim::SimDisk)| {
        let disk = rig.sim.disk.fork(1);
        change(&disk);
        let env = Env { disk: Arc::new(disk), ..rig.env.clone() };
        Db::open("db", options(&env)).unwrap_err()
    };
    let lost = open(&|disk| crate::env::Disk::remove(disk, Path::new(current)).unwrap());
    assert!(matches!(lost, DbError::Engine(EngineError::CurrentMissing { .. })), "{lost}");
    let newer = open(&|disk| disk.write_file(current, b"beachdb current 2\nsomething else\n"));
    assert!(matches!(newer, DbError::Engine(EngineError::Unsupported { found: 2, .. })), "{newer}");
    let garbage = open(&|disk| disk.write_file(current, b"\x00\x01garbage"));
    assert!(
        matches!(garbage, DbError::Engine(EngineError::Corrupt { offset: 0, .. })),
        "{garbage}"
    );
    let dangling = open(&|disk| crate::env::Disk::remove(disk, Path::new(&manifest)).unwrap());
    assert!(dangling.to_string().contains(current), "{dangling}");
    let foreign = open(&|disk| {
        let wal = rig.files("db/wal", ".wal").pop().unwrap();
        disk.write_file(&manifest, &disk.read_file(wal).unwrap());
    });
    assert!(
        matches!(foreign, DbError::Engine(EngineError::Manifest(WalError::WrongKind { .. }))),
        "{foreign}"
    );
}

#[test]
fn a_missing_log_segment_with_all_unflushed_writes_is_noticed() {
    let mut rig = closed();
    let oldest = rig.files("db/wal", ".wal");
    rig.open().unwrap();
    rig.db.take().unwrap().close().unwrap();
    for path in oldest {
        crate::env::Disk::remove(&rig.sim.disk, Path::new(&path)).unwrap();
    }
    for _ in 0..2 {
        let error = rig.open().unwrap_err();
        assert!(matches!(error, DbError::BadLogRecord { .. }), "{error}");
    }
}

#[test]
fn leftovers_of_unfinished_work_are_removed_and_foreign_files_stay() {
    let mut rig = closed();
    let orphans = [
        "db/engine/00000000000000ff.sst",
        "db/engine/00000000000000fe.manifest",
        "db/engine/00000000000000fd.manifest.tmp",
        "db/engine/CURRENT.tmp",
    ];
    // Numbers that would be the last ones, if they were ours.
    let foreign = [
        "db/engine/notes.txt",
        "db/engine/ffffffffffffffff.sst",
        "db/engine/00000001ffffffff.manifest",
        "db/engine/7fffffffffffffff.sst.tmp",
    ];
    for path in orphans.iter().chain(&foreign) {
        rig.sim.disk.write_file(path, b"left over");
    }
    rig.open().unwrap();
    for path in orphans {
        assert_eq!(rig.sim.disk.read_file(path), None, "{path}");
    }
    for path in foreign {
        assert!(rig.sim.disk.read_file(path).is_some(), "{path}");
    }
    rig.db().put(b"new", b"v").unwrap();
    rig.db().flush().unwrap();
    let tables = rig.files("db/engine", ".sst");
    let newest = tables.iter().rfind(|path| !foreign.contains(&path.as_str())).unwrap();
    assert!(
        newest.as_str() > "db/engine/00000000000000ff.sst",
        "numbers are never reused: {newest}"
    );
}
