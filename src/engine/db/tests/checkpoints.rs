//! Checkpoints: what is in them, and what a crash or a failing disk at any operation leaves of them.

use super::*;
use crate::engine::checkpoint::{self, CheckpointError};
use crate::env::sim::{FailKind, FailOn, FailPoint, OpKind};

/// Three tables and something in the log.
fn fill(db: &Db, seed: u64) -> Map {
    let mut map = Map::new();
    for i in 0..40_u8 {
        let (key, value) = ([i % 17], [i, seed as u8, 7]);
        if i % 5 == 4 {
            db.delete(&key).unwrap();
            map.remove(&key[..]);
        } else {
            db.put(&key, &value).unwrap();
            map.insert(key.to_vec(), value.to_vec());
        }
        if i % 15 == 14 {
            db.flush().unwrap();
        }
    }
    map
}

fn checkpoint_contents(env: &Env, dir: &str) -> Map {
    let (description, state) = checkpoint::read(&*env.disk, Path::new(dir)).unwrap();
    assert_eq!(description.tables, state.tables.len() as u64);
    let db = Db::open(dir, options(env)).unwrap();
    let map = contents(&db).unwrap();
    assert_eq!(db.last_seq(), description.last_seq);
    db.close().unwrap();
    map
}

/// Whether a power loss now would leave it as it is.
fn is_durable(rig: &SimHandles, env: &Env, dir: &str, expected: &Map) -> bool {
    (0..10).all(|seed| {
        let disk = rig.disk.fork(seed);
        disk.crash(CrashKind::PowerLoss);
        disk.restart();
        let env = Env { disk: Arc::new(disk), ..env.clone() };
        let whole = checkpoint::read(&*env.disk, Path::new(dir)).is_ok();
        whole && checkpoint_contents(&env, dir) == *expected
    })
}

fn exists(env: &Env, path: &str) -> bool {
    env.disk.exists(Path::new(path)).unwrap()
}

#[test]
fn a_checkpoint_holds_what_was_written_before_it_and_nothing_after() {
    let rig = Rig::new(1);
    let before = fill(rig.db(), 1);
    let made = rig.db().checkpoint("copies/one").unwrap();
    assert_eq!((made.linked, made.copied_bytes), (made.description.tables, 0));
    assert!(is_durable(&rig.sim, &rig.env, "copies/one", &before));
    rig.db().put(b"later", b"x").unwrap();
    rig.db().delete(&[1]).unwrap();
    rig.db().flush().unwrap();
    assert_eq!(checkpoint_contents(&rig.env, "copies/one"), before);
    // The copy may be changed as well; the original does not see it.
    let copy = Db::open("copies/one", options(&rig.env)).unwrap();
    copy.put(b"elsewhere", b"y").unwrap();
    copy.flush().unwrap();
    copy.close().unwrap();
    let mut after = before;
    after.insert(b"later".to_vec(), b"x".to_vec());
    after.remove(&[1][..]);
    assert_eq!(contents(rig.db()).unwrap(), after);
    assert!(!exists(&rig.env, "copies/one.tmp"));
}

#[test]
fn an_empty_database_has_a_checkpoint_too() {
    let rig = Rig::new(1);
    rig.db().checkpoint("one").unwrap();
    assert_eq!(checkpoint_contents(&rig.env, "one"), Map::new());
}

#[test]
fn nothing_is_overwritten() {
    let rig = Rig::new(1);
    fill(rig.db(), 1);
    rig.sim.disk.write_file("there/precious", b"data");
    let error = rig.db().checkpoint("there").unwrap_err();
    assert!(matches!(error, DbError::Checkpoint(CheckpointError::Exists { .. })), "{error}");
    rig.sim.disk.write_file("other.tmp/precious", b"data");
    let error = rig.db().checkpoint("other").unwrap_err();
    assert!(matches!(error, DbError::Checkpoint(CheckpointError::NotOurs { .. })), "{error}");
    assert!(error.to_string().contains("precious"), "{error}");
    assert_eq!(rig.sim.disk.read_file("other.tmp/precious").as_deref(), Some(&b"data"[..]));
    rig.sim.disk.write_file("third.tmp/engine/0000000000000001.sst/x", b"data");
    rig.db().checkpoint("third").unwrap_err();
}

#[test]
fn a_slash_at_the_end_changes_nothing_and_no_name_is_none() {
    let rig = Rig::new(1);
    let map = fill(rig.db(), 1);
    rig.db().checkpoint("copies/one/").unwrap();
    assert_eq!(checkpoint_contents(&rig.env, "copies/one"), map);
    assert_eq!(rig.files("copies/one", "LOCK").len(), 1, "of the database that was opened there");
    for bad in ["", "/"] {
        rig.db().checkpoint(bad).unwrap_err();
    }
}

#[test]
fn two_that_work_for_one_name_do_not_mix() {
    let rig = Rig::new(1);
    let map = fill(rig.db(), 1);
    rig.db().flush().unwrap();
    let first = rig.db().inner.engine().checkpoint("copies/one".into(), None);
    let second = rig.db().inner.engine().checkpoint("copies/one".into(), None);
    // One step is enough to hold the directory; the next ones give it its name.
    let held = rig.env.disk.lock(Path::new("copies/one.tmp/LOCK"));
    drop(held);
    rig.env.disk.create_dir_all(Path::new("copies/one.tmp")).unwrap();
    let held = rig.env.disk.lock(Path::new("copies/one.tmp/LOCK")).unwrap();
    let error = second.run().unwrap_err();
    assert!(matches!(error, CheckpointError::Busy { .. }), "{error}");
    drop(held);
    first.run().unwrap();
    assert_eq!(checkpoint_contents(&rig.env, "copies/one"), map);
}

#[test]
fn tables_are_copied_where_they_cannot_be_linked() {
    let rig = Rig::new(1);
    let map = fill(rig.db(), 1);
    let on = FailOn::Matching { op: Some(OpKind::Link), path: String::new(), nth: 0 };
    rig.sim.disk.fail(FailPoint { on, error: FailKind::Exdev, forever: true });
    let made = rig.db().checkpoint("one").unwrap();
    assert_eq!((made.linked, made.copied_bytes), (0, made.description.bytes));
    assert!(is_durable(&rig.sim, &rig.env, "one", &map));
}

/// All changes of the disk that a checkpoint makes, by number.
fn changes_of_a_checkpoint(seed: u64) -> std::ops::Range<u64> {
    let rig = Rig::new(seed);
    fill(rig.db(), seed);
    let start = rig.sim.disk.op_count();
    rig.db().checkpoint("copies/one").unwrap();
    start..rig.sim.disk.op_count()
}

#[test]
fn a_crash_at_any_change_leaves_the_whole_checkpoint_or_none() {
    for seed in 0..3 {
        let changes = changes_of_a_checkpoint(seed);
        assert!(changes.clone().count() > 20, "{changes:?}");
        for at in changes {
            for kind in [CrashKind::Process, CrashKind::PowerLoss] {
                let context = format!("seed {seed}, change {at}, {kind:?}");
                let mut rig = Rig::new(seed);
                let map = fill(rig.db(), seed);
                rig.sim.disk.crash_at(at);
                let acknowledged = rig.db().checkpoint("copies/one").is_ok();
                rig.crash(kind);
                let there = exists(&rig.env, "copies/one");
                assert!(there || !acknowledged, "{context}: it was acknowledged");
                if there {
                    assert_eq!(checkpoint_contents(&rig.env, "copies/one"), map, "{context}");
                }
                rig.open().unwrap_or_else(|e| panic!("{context}: {e}"));
                assert_eq!(contents(rig.db()).unwrap(), map, "{context}");
                // What is left is in nobody's way.
                let name = if there { "copies/two" } else { "copies/one" };
                rig.db().checkpoint(name).unwrap_or_else(|e| panic!("{context}: {e}"));
                assert_eq!(checkpoint_contents(&rig.env, name), map, "{context}");
            }
        }
    }
}

#[test]
fn a_failure_at_any_change_is_an_error_of_the_checkpoint_or_of_the_flush_before() {
    let changes = changes_of_a_checkpoint(1);
    for at in changes {
        for error in [FailKind::Eio, FailKind::Enospc] {
            for forever in [false, true] {
                let context = format!("{error:?} at change {at}, forever: {forever}");
                let mut rig = Rig::new(1);
                let map = fill(rig.db(), 1);
                rig.sim.disk.fail(FailPoint { on: FailOn::Change(at), error, forever });
                let result = rig.db().checkpoint("copies/one");
                rig.sim.disk.clear_faults();
                assert_eq!(contents(rig.db()).unwrap(), map, "{context}: reads go on");
                let there = exists(&rig.env, "copies/one");
                if there {
                    assert_eq!(checkpoint_contents(&rig.env, "copies/one"), map, "{context}");
                }
                match result {
                    Ok(_) => assert!(there, "{context}"),
                    Err(DbError::Checkpoint(_)) => {
                        let left = exists(&rig.env, "copies/one.tmp");
                        assert!(!left || forever, "{context}: what it made is removed");
                        rig.db().put(b"more", b"x").unwrap_or_else(|e| panic!("{context}: {e}"));
                        rig.db().delete(b"more").unwrap();
                    }
                    // The flush before it: what that means is told in `faults`.
                    Err(_) => rig.open().unwrap_or_else(|e| panic!("{context}: {e}")),
                }
                let name = if there { "copies/two" } else { "copies/one" };
                let again = rig.db().checkpoint(name);
                again.unwrap_or_else(|e| panic!("{context}: {e}"));
                assert_eq!(checkpoint_contents(&rig.env, name), map, "{context}");
            }
        }
    }
}

#[test]
fn files_that_are_not_of_one_checkpoint_are_refused() {
    let rig = Rig::new(1);
    fill(rig.db(), 1);
    rig.db().checkpoint("one").unwrap();
    rig.db().put(b"more", b"x").unwrap();
    rig.db().checkpoint("two").unwrap();
    let other = rig.sim.disk.read_file("two/CHECKPOINT").unwrap();
    rig.sim.disk.write_file("one/CHECKPOINT", &other);
    let error = checkpoint::read(&*rig.env.disk, Path::new("one")).unwrap_err();
    assert!(matches!(error, CheckpointError::Differs { .. }), "{error}");
    rig.env.disk.remove(Path::new("one/CHECKPOINT")).unwrap();
    let error = checkpoint::read(&*rig.env.disk, Path::new("one")).unwrap_err().to_string();
    assert!(error.contains("no checkpoint"), "{error}");
}

/// Planted bugs of checkpoints are seen by the tests above.
#[cfg(beach_planted)]
#[test]
fn planted_bugs_of_checkpoints_are_caught() {
    use crate::base::planted::{Bug, select};
    for bug in [Bug::CheckpointDirNotSynced, Bug::CheckpointMissesFlush] {
        select(Some(bug));
        let seen = std::panic::catch_unwind(
            a_checkpoint_holds_what_was_written_before_it_and_nothing_after,
        );
        select(None);
        assert!(seen.is_err(), "{bug:?} is not caught");
    }
}
