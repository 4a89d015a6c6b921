//! Compare-and-set: conditions judged at commit, at replay, against memory and tables.

use super::*;
use crate::base::conditions::{Expect, FailedCondition};

fn conditional(conditions: &[(&[u8], Expect)], ops: &[(&[u8], Option<&[u8]>)]) -> WriteBatch {
    let mut batch = batch(ops);
    for (key, expect) in conditions {
        batch.require(key, *expect).unwrap();
    }
    batch
}

fn write(
    db: &Db,
    conditions: &[(&[u8], Expect)],
    ops: &[(&[u8], Option<&[u8]>)],
) -> Result<Applied, DbError> {
    db.write(conditional(conditions, ops), WriteOptions::default())
}

fn failure(result: Result<Applied, DbError>) -> (u32, Option<u64>) {
    let error = result.unwrap_err();
    assert_eq!(error.effect(), Effect::NotApplied);
    let FailedCondition { condition, present } = error.failed_condition().unwrap();
    (condition, present.map(|seq| seq.0))
}

#[test]
fn a_batch_is_applied_only_if_all_its_conditions_hold() {
    let rig = Rig::new(1);
    let db = rig.db();
    let put: &[(&[u8], Option<&[u8]>)] = &[(b"k", Some(b"1")), (b"l", Some(b"1"))];
    let first = write(db, &[(b"k", Expect::Absent), (b"l", Expect::Absent)], put).unwrap();
    assert_eq!((first.first_seq.0, first.last_seq.0), (1, 2));
    assert_eq!(
        failure(write(db, &[(b"l", Expect::Exists), (b"k", Expect::Absent)], put)),
        (1, Some(1))
    );
    assert_eq!(failure(write(db, &[(b"none", Expect::Exists)], put)), (0, None));
    let stale = Expect::Seq(SequenceNumber(1));
    assert_eq!(failure(write(db, &[(b"l", stale)], put)), (0, Some(2)));
    assert_eq!(db.last_seq(), SequenceNumber(2), "a failed batch takes no sequence number");
    write(db, &[(b"k", stale)], &[(b"k", None)]).unwrap();
    assert_eq!(failure(write(db, &[(b"k", stale)], put)), (0, None), "a deleted key is absent");
    let check = write(db, &[(b"k", Expect::Absent)], &[]).unwrap();
    assert_eq!((check.first_seq.0, check.last_seq.0), (4, 3), "a check writes nothing");
}

#[test]
fn conditions_see_tables_and_what_a_replay_finds_is_what_was_answered() {
    let mut rig = Rig::new(2);
    let old = rig.db().put(b"old", b"in a table").unwrap();
    let gone = rig.db().put(b"gone", b"in a table").unwrap();
    rig.db().flush().unwrap();
    rig.db().delete(b"gone").unwrap();
    let db = rig.db();
    assert_eq!(
        failure(write(db, &[(b"gone", Expect::Seq(gone))], &[(b"x", Some(b"no"))])),
        (0, None)
    );
    assert_eq!(
        failure(write(db, &[(b"old", Expect::Absent)], &[(b"x", Some(b"no"))])),
        (0, Some(old.0))
    );
    write(db, &[(b"old", Expect::Seq(old)), (b"new", Expect::Absent)], &[(b"old", Some(b"2"))])
        .unwrap();
    assert_eq!(failure(write(db, &[(b"old", Expect::Seq(old))], &[(b"x", Some(b"no"))])).0, 0);
    let (state, last_seq) = (contents(db).unwrap(), db.last_seq());
    for kind in [CrashKind::Process, CrashKind::PowerLoss] {
        rig.crash(kind);
        rig.open().unwrap();
        assert_eq!((contents(rig.db()).unwrap(), rig.db().last_seq()), (state.clone(), last_seq));
    }
}

#[test]
fn concurrent_increments_add_up_and_share_syncs() {
    const THREADS: u64 = 4;
    const EACH: u64 = 50;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let db = Db::open(&path, DbOptions::default()).unwrap();
    db.put(b"counter", &0_u64.to_be_bytes()).unwrap();
    db.flush().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let mut done = 0;
                while done < EACH {
                    let (seq, value) = db.get_with_seq(b"counter").unwrap().unwrap();
                    let next = u64::from_be_bytes(value[..].try_into().unwrap()) + 1;
                    let set = conditional(
                        &[(b"counter", Expect::Seq(seq))],
                        &[(b"counter", Some(&next.to_be_bytes()))],
                    );
                    match db.write(set, WriteOptions { sync: false }) {
                        Ok(_) => done += 1,
                        Err(DbError::ConditionFailed(_)) => {}
                        Err(e) => panic!("{e}"),
                    }
                }
            });
        }
    });
    let sum = (THREADS * EACH).to_be_bytes();
    assert_eq!(db.get(b"counter").unwrap().as_deref(), Some(&sum[..]));
    db.close().unwrap();
    let db = Db::open(&path, DbOptions::default()).unwrap();
    assert_eq!(db.get(b"counter").unwrap().as_deref(), Some(&sum[..]));
}
