//! A database that is read beside its writer.

use super::*;

fn read(env: &Env) -> ReadOnlyDb {
    Db::open_read_only("db", options(env)).unwrap()
}

fn all(db: &ReadOnlyDb) -> Map {
    db.iter().map(|entry| entry.map(|e| (e.key, e.value.to_vec())).unwrap()).collect()
}

#[test]
fn it_sees_tables_and_log_and_stands_still_until_it_is_refreshed() {
    let rig = Rig::new(1);
    rig.db().put(b"a", b"1").unwrap();
    rig.db().flush().unwrap();
    rig.db().put(b"b", b"2").unwrap();
    let reader = read(&rig.env);
    assert_eq!(all(&reader), contents(rig.db()).unwrap());
    assert_eq!(reader.last_seq(), rig.db().last_seq());
    let seen = all(&reader);
    rig.db().delete(b"a").unwrap();
    rig.db().put(b"c", b"3").unwrap();
    rig.db().flush().unwrap();
    assert_eq!(all(&reader), seen);
    assert_eq!(reader.get(b"a").unwrap().as_deref(), Some(&b"1"[..]));
    reader.refresh().unwrap();
    assert_eq!(all(&reader), contents(rig.db()).unwrap());
    assert_eq!(reader.get(b"a").unwrap(), None);
}

#[test]
fn it_is_read_both_ways_in_many_slices_through_deletes_and_a_refresh() {
    let rig = Rig::new(1);
    let key = |i: u32| format!("{i:05}").into_bytes();
    // More than a slice holds, part of them in a table and part in the log.
    let n = 2 * crate::limits::MAX_SCAN_ENTRIES as u32 + 500;
    for from in (0..n).step_by(500) {
        let mut batch = WriteBatch::new();
        for i in from..n.min(from + 500) {
            batch.put(&key(i), b"v").unwrap();
        }
        rig.db().write(batch, WriteOptions::default()).unwrap();
        if from == n / 2 / 500 * 500 {
            rig.db().flush().unwrap();
        }
    }
    rig.db().delete(&key(7)).unwrap();
    rig.db().delete_range(&key(100), &key(n / 2 + 50)).unwrap();
    let reader = read(&rig.env);
    let seen = |iter: ReadOnlyIter<'_>| iter.map(|e| e.unwrap().key).collect::<Vec<_>>();
    let left = |range: std::ops::Range<u32>| {
        let kept = |i: &u32| *i != 7 && !(100..n / 2 + 50).contains(i);
        range.filter(kept).map(key).collect::<Vec<_>>()
    };
    let reversed = |mut keys: Vec<Vec<u8>>| {
        keys.reverse();
        keys
    };
    assert_eq!(seen(reader.iter()), left(0..n));
    assert_eq!(seen(reader.iter().backward()), reversed(left(0..n)));
    let (start, end) = (key(5), key(n - 1));
    assert_eq!(seen(reader.scan(&start, Some(&end)).backward()), reversed(left(5..n - 1)));
    assert_eq!(seen(reader.scan(&end, Some(&start)).backward()), Vec::<Vec<u8>>::new());
    let prefixed = (0..10).filter(|i| *i != 7).map(key).collect::<Vec<_>>();
    assert_eq!(seen(reader.scan_prefix(b"0000")), prefixed);
    assert_eq!(seen(reader.scan_prefix(b"0000").backward()), reversed(prefixed));
    assert!(reader.iter().backward().keys_only().all(|e| e.unwrap().value.is_empty()));
    // A refresh meanwhile changes nothing of what an iterator shows.
    let mut iter = reader.iter().backward();
    let mut keys = vec![iter.next().unwrap().unwrap().key];
    rig.db().put(b"0", b"new, before all").unwrap();
    reader.refresh().unwrap();
    keys.extend(seen(iter));
    assert_eq!(keys, reversed(left(0..n)));
    assert_eq!(seen(reader.iter())[0], b"0");
}

#[test]
fn it_takes_no_lock_and_changes_nothing() {
    let rig = Rig::new(1);
    for i in 0..50_u8 {
        rig.db().put(&[i], &[i; 100]).unwrap();
    }
    rig.db().flush().unwrap();
    rig.db().put(b"last", b"x").unwrap();
    let changes = rig.sim.disk.op_count();
    let reader = read(&rig.env);
    assert_eq!(all(&reader).len(), 51);
    reader.refresh().unwrap();
    drop(reader);
    assert_eq!(rig.sim.disk.op_count(), changes, "{:#?}", rig.sim.disk.trace().last());
    rig.db().put(b"the writer", b"goes on").unwrap();
}

#[test]
fn a_table_that_the_writer_removed_is_read_from_what_replaced_it() {
    let mut rig = Rig::new(1);
    for i in 0..50_u8 {
        rig.db().put(&[i], &[i; 100]).unwrap();
    }
    rig.db().flush().unwrap();
    let expected = contents(rig.db()).unwrap();
    let reader = read(&rig.env);
    // Nothing was read yet, so no table is open: as after a compaction, the old names are gone and a copy is there.
    rig.db().checkpoint("copy").unwrap();
    drop(rig.db.take());
    for file in rig.files("db/engine", "") {
        rig.env.disk.remove(Path::new(&file)).unwrap();
    }
    let table = rig.files("copy/engine", ".sst").remove(0);
    let state = crate::engine::checkpoint::read(&*rig.env.disk, Path::new("copy")).unwrap().1;
    let meta = state.tables.values().next().unwrap().clone();
    let number = meta.number + 40;
    let bytes = rig.sim.disk.read_file(&table).unwrap();
    let renamed = format!("db/engine/{}", crate::engine::manifest::table_file_name(number));
    rig.sim.disk.write_file(&renamed, &bytes);
    let mut replaced = state;
    replaced.tables.clear();
    replaced.tables.insert(number, crate::engine::edit::TableMeta { number, ..meta });
    replaced.next_file = number + 1;
    crate::engine::checkpoint::write_manifest(&rig.env.disk, Path::new("db/engine"), &replaced)
        .unwrap();
    assert_eq!(all(&reader), expected);
}

#[test]
fn what_is_damaged_is_told_and_a_directory_without_a_database_too() {
    let mut rig = Rig::new(1);
    rig.db().put(b"a", b"1").unwrap();
    rig.db().flush().unwrap();
    drop(rig.db.take());
    let manifest = rig.files("db/engine", ".manifest").remove(0);
    rig.sim.disk.flip(&manifest, 70, 1);
    let error = Db::open_read_only("db", options(&rig.env)).unwrap_err().to_string();
    assert!(error.contains(".manifest"), "{error}");
    Db::open_read_only("nothing", options(&rig.env)).unwrap_err();
    assert!(!rig.env.disk.exists(Path::new("nothing")).unwrap());
}

#[test]
fn real_files_are_read_while_a_real_writer_writes_flushes_and_compacts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let small = || DbOptions {
        memtable_bytes: 64 << 10,
        segment_bytes: 64 << 10,
        preallocate: false,
        ..DbOptions::default()
    };
    let db = Db::open(&path, small()).unwrap();
    let no_sync = WriteOptions { sync: false };
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for round in 0..400_u32 {
                let mut batch = WriteBatch::new();
                for key in 0..20_u32 {
                    let mut value = vec![7; 100];
                    value[..4].copy_from_slice(&round.to_be_bytes());
                    batch.put(&key.to_be_bytes(), &value).unwrap();
                }
                db.write(batch, no_sync).unwrap();
            }
        });
        let (mut last, mut looks) = (0, 0);
        while !writer.is_finished() || looks < 3 {
            let reader = Db::open_read_only(&path, small()).unwrap();
            let entries: Result<Vec<_>, _> = reader.iter().collect();
            let entries = match entries {
                // Its tables were replaced between its opening and its first read, and nobody pins them for it.
                Err(DbError::Engine(EngineError::SnapshotTooOld { .. })) => continue,
                entries => entries.unwrap(),
            };
            let round = |value: &[u8]| u32::from_be_bytes(value[..4].try_into().unwrap());
            let rounds: Vec<u32> = entries.iter().map(|entry| round(&entry.value)).collect();
            // Each batch wrote all keys: a consistent state has one round in all of them.
            assert!(rounds.windows(2).all(|pair| pair[0] == pair[1]), "{rounds:?}");
            let now = rounds.first().copied().unwrap_or(0);
            assert!(now >= last, "{now} after {last}");
            (last, looks) = (now, looks + 1);
        }
        writer.join().unwrap();
        let reader = Db::open_read_only(&path, small()).unwrap();
        assert_eq!(reader.iter().count(), 20);
    });
    let report = db.verify(None);
    assert_eq!((report.damaged, report.tables), (0, db.stats().engine.tables), "{report:?}");
    assert!(report.segments > 0 && report.bytes >= report.total_bytes, "{report:?}");
}
