//! What the API promises, without faults.

use super::*;
use crate::base::batch::{BatchError, RESERVED_KEY_PREFIX};
use crate::env::{Clock, Lane};
use crate::limits::MAX_FROZEN_MEMTABLES;
use std::sync::Barrier;

const UNSYNCED: WriteOptions = WriteOptions { sync: false };

#[test]
fn put_get_delete_batch_and_sequence_numbers() {
    let rig = Rig::new(1);
    let db = rig.db();
    assert_eq!(db.put(b"a", b"1").unwrap(), SequenceNumber(1));
    let applied = db
        .write(
            batch(&[(b"b", Some(b"2")), (b"a", None), (b"c", Some(b""))]),
            WriteOptions::default(),
        )
        .unwrap();
    assert_eq!((applied.first_seq.0, applied.last_seq.0), (2, 4));
    assert_eq!(db.get(b"a").unwrap(), None);
    assert_eq!(db.get_with_seq(b"b").unwrap().unwrap().0, SequenceNumber(2));
    assert_eq!(db.get(b"c").unwrap().as_deref(), Some(&b""[..]));
    assert_eq!(db.get_at(b"a", SequenceNumber(1)).unwrap().unwrap().1, &b"1"[..]);
    assert_eq!(db.delete(b"c").unwrap(), SequenceNumber(5));
    assert_eq!(db.last_seq(), SequenceNumber(5));
}

#[test]
fn what_cannot_be_written_is_refused_and_not_applied() {
    let rig = Rig::new(1);
    let db = rig.db();
    let mut reserved = RESERVED_KEY_PREFIX.to_vec();
    reserved.push(b'x');
    assert!(matches!(db.put(&reserved, b"v"), Err(DbError::Batch(BatchError::ReservedKey))));
    assert!(matches!(db.put(b"", b"v"), Err(DbError::Batch(BatchError::EmptyKey))));
    let empty = db.write(WriteBatch::new(), WriteOptions::default()).unwrap_err();
    assert!(matches!(empty, DbError::Batch(BatchError::Empty)));
    assert_eq!(empty.effect(), Effect::NotApplied);
    assert_eq!(db.last_seq(), SequenceNumber(0));
}

#[test]
fn everything_is_there_after_close_and_open_and_after_drop_and_open() {
    let mut rig = Rig::new(2);
    let mut expected = Map::new();
    for round in 0..4 {
        for i in 0..50 {
            let (key, value) = (format!("{round}/{i}"), format!("{i}"));
            rig.db().put(key.as_bytes(), value.as_bytes()).unwrap();
            expected.insert(key.into(), value.into());
        }
        match round {
            0 => rig.db.take().unwrap().close().unwrap(),
            1 => drop(rig.db.take()),
            2 => rig.db().flush().unwrap(),
            _ => {}
        }
        rig.open().unwrap();
        assert_eq!(contents(rig.db()).unwrap(), expected, "round {round}");
        assert_eq!(rig.db().last_seq().0, expected.len() as u64);
    }
}

#[test]
fn a_log_of_many_memtables_is_replayed_with_the_memory_of_a_few() {
    let (env, _sim) = sim::env(7);
    let large = DbOptions { memtable_bytes: 64 << 20, ..options(&env) };
    let db = Db::open("db", large.clone()).unwrap();
    let value = vec![b'v'; 8 << 10];
    for n in 0..200_u32 {
        db.put(&n.to_be_bytes(), &value).unwrap();
    }
    assert_eq!(db.stats().engine.flushes, 0, "everything is in the log");
    let before = contents(&db).unwrap();
    db.close().unwrap();

    let db = Db::open("db", options(&env)).unwrap();
    let stats = db.stats().engine;
    assert!(stats.flushes > 0, "opening flushes: {stats:?}");
    assert!(stats.frozen_memtables <= MAX_FROZEN_MEMTABLES as u64, "{stats:?}");
    assert_eq!(contents(&db).unwrap(), before);
    db.close().unwrap();

    let db = Db::open("db", large).unwrap();
    assert_eq!(contents(&db).unwrap(), before, "what opening flushed counts");
}

#[test]
fn a_second_open_of_the_same_directory_is_refused_until_the_first_is_closed() {
    let mut rig = Rig::new(1);
    let second = Db::open("db", options(&rig.env));
    assert!(matches!(second, Err(DbError::Locked { path }) if path == Path::new("db/LOCK")));
    rig.db().put(b"k", b"v").unwrap();
    let snapshot = rig.db().snapshot();
    let mut iter = rig.db().iter();
    rig.db.take().unwrap().close().unwrap();
    rig.open().unwrap();
    assert!(matches!(snapshot.get(b"k"), Err(DbError::Closed)), "the old one gave its lock away");
    assert!(matches!(iter.next(), Some(Err(DbError::Closed))));
    assert!(iter.next().is_none());
    assert_eq!(rig.db().get(b"k").unwrap().as_deref(), Some(&b"v"[..]));
}

#[test]
fn an_iterator_shows_its_moment_while_writes_and_flushes_go_on() {
    let rig = Rig::new(3);
    let db = rig.db();
    for i in 0..3_000 {
        db.write(batch(&[(format!("k{i:05}").as_bytes(), Some(b"old"))]), UNSYNCED).unwrap();
    }
    let mut iter = db.iter();
    let mut seen = 0;
    for entry in iter.by_ref() {
        let entry = entry.unwrap();
        assert_eq!((entry.key, &entry.value[..]), (format!("k{seen:05}").into(), &b"old"[..]));
        if seen % 100 == 0 {
            let key = format!("k{:05}", seen + 50);
            db.write(batch(&[(key.as_bytes(), Some(b"new")), (b"zz", Some(b"new"))]), UNSYNCED)
                .unwrap();
            db.write(batch(&[(format!("k{seen:05}").as_bytes(), None)]), UNSYNCED).unwrap();
        }
        if seen % 700 == 0 {
            db.flush().unwrap();
        }
        seen += 1;
    }
    assert_eq!(seen, 3_000);
    iter.seek(b"k02999");
    assert_eq!(iter.by_ref().count(), 1, "and again, back, without the later keys");
    drop(iter);
    assert_eq!(db.stats().engine.snapshots, 0, "its pin is given back");
    assert_eq!(db.iter().count(), 3_000 - 30 + 1);
}

#[test]
fn seek_and_ranges() {
    let rig = Rig::new(1);
    let db = rig.db();
    for key in ["a", "b/1", "b/2", "b/3", "c"] {
        db.put(key.as_bytes(), b"v").unwrap();
    }
    db.flush().unwrap();
    db.delete(b"b/2").unwrap();
    let keys =
        |iter: DbIter| iter.map(|e| String::from_utf8(e.unwrap().key).unwrap()).collect::<Vec<_>>();
    assert_eq!(keys(db.scan(b"b/", Some(b"b0"))), ["b/1", "b/3"]);
    assert_eq!(keys(db.scan(b"b/2", None)), ["b/3", "c"]);
    assert_eq!(keys(db.scan(b"d", None)), [""; 0]);
    let snapshot = db.snapshot();
    let mut iter = snapshot.scan(b"", Some(b"c")).keys_only();
    assert!(iter.next().unwrap().unwrap().value.is_empty());
    iter.seek(b"b/3");
    assert_eq!(keys(iter), ["b/3"]);
}

#[test]
fn old_sequence_numbers_get_snapshot_too_old_after_a_flush_and_pinned_ones_do_not() {
    let rig = Rig::new(1);
    let db = rig.db();
    db.put(b"k", b"1").unwrap();
    let pinned = db.snapshot();
    db.put(b"k", b"2").unwrap();
    db.put(b"k", b"3").unwrap();
    db.flush().unwrap();
    assert_eq!(pinned.get(b"k").unwrap().as_deref(), Some(&b"1"[..]));
    assert_eq!(db.get_at(b"k", SequenceNumber(2)).unwrap().unwrap().1, &b"2"[..]);
    drop(pinned);
    db.put(b"k", b"4").unwrap();
    db.put(b"k", b"5").unwrap();
    db.flush().unwrap();
    let error = db.get_at(b"k", SequenceNumber(4)).unwrap_err();
    assert_eq!(error.snapshot_too_old(), Some(SequenceNumber(5)));
    assert_eq!(db.oldest_readable_seq(), SequenceNumber(5));
}

#[test]
fn writers_wait_for_a_slow_flush_instead_of_filling_memory() {
    let rig = Rig::new(4);
    rig.sim.jobs.hold(Lane::Flush, true);
    let value = [7; 4_000];
    let mut most = 0;
    std::thread::scope(|scope| {
        // The lane is released from here when the writer has met the limit and time passes on the virtual clock.
        scope.spawn(|| {
            while rig.sim.clock.now().0 == 0 {
                std::thread::yield_now();
            }
            rig.sim.jobs.hold(Lane::Flush, false);
        });
        for i in 0..400 {
            // A writer that has waited for a second is told so, and comes again.
            let write = || {
                let batch = batch(&[(format!("{i}").as_bytes(), Some(&value))]);
                rig.db().write(batch, UNSYNCED)
            };
            while let Err(e) = write() {
                assert!(matches!(e, DbError::Busy { .. }), "{e}");
                assert_eq!(e.effect(), Effect::NotApplied);
            }
            let stats = rig.db().stats().engine;
            most = most.max(stats.memtable_bytes + stats.frozen_bytes);
        }
    });
    assert_eq!(rig.db().iter().count(), 400);
    assert!(most < 6 * (64 << 10) * 2, "{most} bytes of memtables");
}

#[test]
fn a_flush_releases_the_log() {
    let mut rig = Rig::new(5);
    let value = [1; 1_000];
    for i in 0..1_000 {
        rig.db().write(batch(&[(format!("{i}").as_bytes(), Some(&value))]), UNSYNCED).unwrap();
    }
    rig.db().flush().unwrap();
    rig.sim.jobs.run_all();
    rig.db().tick().unwrap();
    let stats = rig.db().stats();
    assert!(stats.log_bytes < 300_000, "{stats:?}");
    rig.open().unwrap();
    assert!(rig.db().recovery().records < 150, "only the newest segment: {}", rig.db().recovery());
    assert_eq!(rig.db().iter().count(), 1_000);
}

/// Real threads, real disk: concurrent writers share syncs, and every batch is whole for every reader.
#[test]
fn concurrent_writers_and_readers_see_whole_batches() {
    const WRITERS: u8 = 4;
    const ROUNDS: u32 = 150;
    let dir = tempfile::tempdir().unwrap();
    let options = || DbOptions {
        memtable_bytes: 128 << 10,
        segment_bytes: 256 << 10,
        preallocate: false,
        ..DbOptions::default()
    };
    let path = dir.path().join("db");
    let db = Db::open(&path, options()).unwrap();
    let start = Barrier::new(usize::from(WRITERS) + 1);
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (db, start) = (&db, &start);
            scope.spawn(move || {
                start.wait();
                for round in 0..ROUNDS {
                    let value = round.to_be_bytes();
                    let keys = [[writer, 0], [writer, 1], [writer, 2]];
                    let ops: Vec<_> = keys.iter().map(|k| (&k[..], Some(&value[..]))).collect();
                    let sync = round.is_multiple_of(3);
                    db.write(batch(&ops), WriteOptions { sync }).unwrap();
                    assert_eq!(db.get(&keys[1]).unwrap().as_deref(), Some(&value[..]));
                }
            });
        }
        start.wait();
        for round in 0..60 {
            let all = contents(&db).unwrap();
            for writer in 0..WRITERS {
                let get = |i: u8| all.get(&vec![writer, i]);
                assert!(get(0) == get(1) && get(1) == get(2), "torn batch: {all:?}");
            }
            if round % 20 == 10 {
                db.flush().unwrap();
            }
        }
    });
    let expected = contents(&db).unwrap();
    assert_eq!(expected.len(), 3 * usize::from(WRITERS));
    assert_eq!(db.last_seq().0, u64::from(WRITERS) * u64::from(ROUNDS) * 3);
    db.close().unwrap();
    let db = Db::open(&path, options()).unwrap();
    assert_eq!(contents(&db).unwrap(), expected);
}
