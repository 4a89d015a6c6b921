//! Apply, get, scan, flush, snapshots, reopening.

use super::*;
use crate::env::sim::{FailKind, FailOn, FailPoint, OpKind};
use crate::limits::SCAN_SLICE_STEPS;

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()
}

#[test]
fn reads_merge_memtables_and_tables_newest_first() {
    let mut rig = Rig::new(1);
    rig.write(&[("a", Some("1")), ("b", Some("1")), ("c", Some("1")), ("d", Some("1"))]);
    assert_eq!(rig.flush(), [LogIndex(1)]);
    rig.write(&[("b", Some("2")), ("c", None)]);
    rig.flush();
    rig.write(&[("d", None), ("e", Some("3"))]);
    rig.engine.freeze();
    rig.write(&[("a", Some("4"))]);
    let expected = pairs(&[("a", "4"), ("b", "2"), ("e", "3")]);
    assert_eq!(rig.scan(ScanOptions::default()), expected);
    assert_eq!(rig.get("a").as_deref(), Some("4"));
    assert_eq!(rig.get("b").as_deref(), Some("2"));
    for gone in ["c", "d", "x"] {
        assert_eq!(rig.get(gone), None, "{gone}");
    }
    assert_eq!(rig.engine.stats().tables, 2);
    rig.flush();
    rig.flush();
    assert!(rig.engine.is_flushed());
    assert_eq!(rig.scan(ScanOptions::default()), expected);
    rig.reopen().unwrap();
    assert_eq!(rig.scan(ScanOptions::default()), expected);
    assert_eq!(rig.engine.applied(), (LogIndex(4), Term(1)));
    assert_eq!(rig.engine.last_seq(), SequenceNumber(9));
}

#[test]
fn sequence_numbers_count_operations_and_reads_carry_them() {
    let mut rig = Rig::new(1);
    let first = rig.write(&[("a", Some("1")), ("b", Some("2"))]);
    assert_eq!((first.first_seq.0, first.last_seq.0), (1, 2));
    let no_op = WriteBatch::no_op();
    let applied = rig.engine.apply(
        LogIndex(2),
        Term(2),
        Some(BatchRef::parse(no_op.as_bytes()).unwrap()),
        &[],
    );
    assert_eq!(applied.first_seq, SequenceNumber(3));
    let Get::Found { seq, .. } = rig.engine.get(b"b", None).unwrap() else { panic!("in memory") };
    assert_eq!(seq, SequenceNumber(2));
    rig.flush();
    let Get::NeedsDisk(job) = rig.engine.get(b"b", None).unwrap() else { panic!("in a table") };
    assert_eq!(job.run().unwrap().unwrap().0, SequenceNumber(2));
}

#[test]
fn the_filters_answer_missing_without_the_disk() {
    let mut rig = Rig::new(1);
    let keys: Vec<String> = (0..2_000).map(|i| format!("key{i:06}")).collect();
    for key in &keys {
        rig.write(&[(key, Some("v"))]);
    }
    rig.flush();
    let asked = (0..2_000).filter(|i| {
        let missing = format!("key{i:06}x");
        matches!(rig.engine.get(missing.as_bytes(), None).unwrap(), Get::NeedsDisk(_))
    });
    let asked = asked.count();
    assert!(asked < 100, "{asked} of 2000 missing keys went to the disk");
    assert!(matches!(rig.engine.get(b"zzz", None).unwrap(), Get::Missing), "out of range");
}

#[test]
fn a_snapshot_keeps_what_it_sees_through_overwrites_and_flushes() {
    let mut rig = Rig::new(1);
    rig.write(&[("k", Some("old")), ("gone", Some("x"))]);
    let pinned = rig.engine.snapshot();
    rig.write(&[("k", Some("new")), ("gone", None), ("later", Some("y"))]);
    rig.flush();
    let at = Some(pinned.0);
    assert_eq!(rig.try_get("k", at).unwrap().as_deref(), Some("old"));
    assert_eq!(rig.try_get("gone", at).unwrap().as_deref(), Some("x"));
    assert_eq!(rig.try_get("later", at).unwrap(), None);
    let options = ScanOptions { seq: Some(pinned), ..ScanOptions::default() };
    assert_eq!(rig.scan(options), pairs(&[("gone", "x"), ("k", "old")]));
    assert_eq!(rig.engine.stats().versions_dropped, 0);
    assert_eq!(rig.engine.stats().oldest_snapshot, Some(pinned.0));
    rig.engine.release_snapshot(pinned);
    assert_eq!(rig.engine.stats().snapshots, 0);
}

#[test]
fn a_flush_that_drops_versions_raises_the_oldest_readable_sequence_number_durably() {
    let mut rig = Rig::new(1);
    rig.write(&[("k", Some("1"))]);
    rig.write(&[("k", Some("2"))]);
    rig.write(&[("other", Some("3"))]);
    assert_eq!(rig.try_get("k", Some(1)).unwrap().as_deref(), Some("1"));
    rig.flush();
    assert_eq!(rig.engine.stats().versions_dropped, 1);
    for _ in 0..2 {
        assert_eq!(rig.engine.oldest_readable_seq(), SequenceNumber(3));
        assert!(matches!(
            rig.try_get("k", Some(2)),
            Err(EngineError::SnapshotTooOld {
                seq: SequenceNumber(2),
                oldest_readable: SequenceNumber(3)
            })
        ));
        assert_eq!(rig.try_get("k", Some(3)).unwrap().as_deref(), Some("2"));
        rig.reopen().unwrap();
    }
    assert!(matches!(rig.try_get("k", Some(99)), Err(EngineError::SnapshotInFuture { .. })));
}

#[test]
fn a_flush_that_drops_nothing_leaves_old_snapshots_readable() {
    let mut rig = Rig::new(1);
    rig.write(&[("a", Some("1"))]);
    rig.write(&[("b", Some("2"))]);
    rig.flush();
    assert_eq!(rig.engine.oldest_readable_seq(), SequenceNumber(0));
    assert_eq!(rig.try_get("b", Some(1)).unwrap(), None);
    assert_eq!(rig.try_get("a", Some(1)).unwrap().as_deref(), Some("1"));
}

#[test]
fn writes_during_a_flush_do_not_move_its_horizon() {
    let mut rig = Rig::new(1);
    rig.write(&[("k", Some("1"))]);
    rig.write(&[("k", Some("2"))]);
    rig.engine.freeze();
    rig.write(&[("k", Some("3"))]);
    let pinned = rig.engine.snapshot();
    assert!(rig.engine.start_flush());
    rig.write(&[("k", Some("4"))]);
    rig.settle();
    assert_eq!(rig.engine.oldest_readable_seq(), SequenceNumber(2));
    assert_eq!(rig.try_get("k", Some(2)).unwrap().as_deref(), Some("2"));
    assert_eq!(rig.try_get("k", Some(pinned.0)).unwrap().as_deref(), Some("3"));
    assert_eq!(rig.get("k").as_deref(), Some("4"));
}

#[test]
fn scan_slices_are_bounded_and_resume_without_gaps() {
    let mut rig = Rig::new(1);
    let n = SCAN_SLICE_STEPS + 500;
    for chunk in 0..4 {
        for i in (chunk..n).step_by(4) {
            rig.write(&[(&format!("k{i:06}"), Some(&format!("{i}")))]);
        }
        if chunk < 2 {
            rig.flush();
        }
        if chunk == 2 {
            rig.engine.freeze();
        }
    }
    let all: Vec<_> = (0..n).map(|i| (format!("k{i:06}"), format!("{i}"))).collect();
    for limit in [1, 7, 1_000, usize::MAX] {
        for max_bytes in [1, 100, usize::MAX] {
            if limit.min(max_bytes) < 7 && n > 200 {
                continue;
            }
            let options = ScanOptions { limit, max_bytes, ..ScanOptions::default() };
            assert_eq!(rig.scan(options), all, "limit {limit}, {max_bytes} bytes");
        }
    }
    let range = ScanOptions {
        start: b"k000100".to_vec(),
        end: Some(b"k000110".to_vec()),
        limit: 3,
        ..ScanOptions::default()
    };
    assert_eq!(rig.scan(range), all[100..110]);
    let keys = ScanOptions { keys_only: true, ..ScanOptions::default() };
    assert!(rig.scan(keys).iter().all(|(_, value)| value.is_empty()));
    let empty =
        ScanOptions { start: b"b".to_vec(), end: Some(b"a".to_vec()), ..ScanOptions::default() };
    assert_eq!(rig.scan(empty), []);
}

#[test]
fn a_scan_over_tombstones_and_a_hot_key_moves_on_in_bounded_slices() {
    let mut rig = Rig::new(1);
    for i in 0..6_000 {
        let key = format!("dead{i:06}");
        rig.write(&[(&key, Some("x"))]);
        rig.write(&[(&key, None), ("hot", Some(&i.to_string()))]);
    }
    rig.write(&[("last", Some("z"))]);
    let expected = pairs(&[("hot", "5999"), ("last", "z")]);
    assert_eq!(rig.scan(ScanOptions::default()), expected);
    let Scan::Done(slice) = rig.engine.scan(&ScanOptions::default()).unwrap() else { panic!() };
    assert!(
        slice.entries.is_empty() && slice.resume.is_some(),
        "only tombstones in the first slice"
    );
    rig.flush();
    assert_eq!(rig.scan(ScanOptions::default()), expected);
}

#[test]
fn a_scan_job_is_not_disturbed_by_writes_and_flushes_after_it_started() {
    let mut rig = Rig::new(1);
    rig.write(&[("a", Some("1")), ("b", Some("1"))]);
    rig.flush();
    rig.write(&[("c", Some("2"))]);
    rig.engine.freeze();
    rig.write(&[("d", Some("3"))]);
    let Scan::NeedsDisk(job) = rig.engine.scan(&ScanOptions::default()).unwrap() else {
        panic!("tables overlap")
    };
    rig.write(&[("a", None), ("d", Some("4")), ("e", Some("4"))]);
    rig.flush();
    rig.flush();
    let slice = job.run().unwrap();
    let keys: Vec<_> = slice.entries.iter().map(|e| (&e.key[..], &e.value[..])).collect();
    assert_eq!(keys, [(&b"a"[..], &b"1"[..]), (b"b", b"1"), (b"c", b"2"), (b"d", b"3")]);
}

#[test]
fn full_memtables_freeze_by_themselves_and_write_room_says_when_to_stop() {
    let mut rig = Rig::new(1);
    let value = "v".repeat(1_000);
    let mut i = 0;
    while rig.engine.write_room() == WriteRoom::Ok {
        rig.write(&[(&format!("{i:08}"), Some(&value))]);
        i += 1;
        assert!(i < 10_000, "never stalls");
    }
    assert!(rig.engine.needs_flush());
    assert_eq!(rig.engine.stats().frozen_memtables as usize, MAX_FROZEN_MEMTABLES);
    assert!(
        rig.engine.stats().frozen_bytes as usize >= MAX_FROZEN_MEMTABLES * options().memtable_bytes
    );
    rig.flush();
    assert_eq!(rig.engine.write_room(), WriteRoom::Ok);
    while rig.engine.needs_flush() {
        rig.flush();
    }
    assert_eq!(rig.scan(ScanOptions::default()).len(), i);
    assert_eq!(rig.engine.stats().tables as usize, MAX_FROZEN_MEMTABLES + 1);
}

#[test]
fn no_ops_alone_are_flushed_without_a_table() {
    let mut rig = Rig::new(1);
    let no_op = WriteBatch::no_op();
    rig.engine.apply(LogIndex(5), Term(3), Some(BatchRef::parse(no_op.as_bytes()).unwrap()), &[]);
    assert_eq!(rig.flush(), [LogIndex(5)]);
    assert_eq!((rig.engine.stats().tables, rig.engine.stats().flushes), (0, 0));
    assert!(!rig.engine.start_flush(), "nothing more");
    rig.reopen().unwrap();
    assert_eq!(rig.engine.flushed_applied(), (LogIndex(5), Term(3)));
    assert_eq!(rig.engine.last_seq(), SequenceNumber(1));
}

#[test]
fn the_manifest_is_rotated_when_large_and_at_every_open() {
    let mut rig = Rig::new(1);
    rig.engine.options.manifest_rotate_bytes = 2_000;
    let manifests = |rig: &Rig| {
        let files = rig.env.disk.list(std::path::Path::new("db/engine")).unwrap();
        files.into_iter().filter(|f| f.name.ends_with(".manifest")).collect::<Vec<_>>()
    };
    let mut names = std::collections::BTreeSet::new();
    for i in 0..20 {
        rig.write(&[(&format!("{i}"), Some("v"))]);
        rig.flush();
        let found = manifests(&rig);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(names.len() < 10 && found[0].len < 8_000, "rotated, not grown: {found:?}");
        names.insert(found[0].name.clone());
    }
    assert!(names.len() > 1, "never rotated");
    rig.reopen().unwrap();
    assert!(!names.contains(&manifests(&rig)[0].name));
    assert_eq!(rig.scan(ScanOptions::default()).len(), 20);
}

#[test]
fn completions_of_others_come_back() {
    let mut rig = Rig::new(1);
    rig.env.jobs.submit(Lane::Log, Box::new(|| Box::new(41_u32)));
    rig.sim.jobs.run_all();
    let mut done = Vec::new();
    rig.env.jobs.poll(&mut done);
    let outcome = rig.engine.job_done(done.pop().unwrap()).unwrap();
    let JobOutcome::NotMine(completion) = outcome else { panic!("it is not the engine's") };
    assert_eq!(*completion.output.downcast::<u32>().unwrap(), 41);
}

#[test]
fn an_installation_that_met_a_full_disk_is_repeated_without_building_the_table_again() {
    for (op, path) in
        [(OpKind::Write, ".manifest"), (OpKind::Write, ".sst"), (OpKind::Create, ".sst")]
    {
        let mut rig = Rig::new(1);
        rig.write(&[("a", Some("1"))]);
        rig.sim.disk.fail(FailPoint {
            on: FailOn::Matching { op: Some(op), path: path.into(), nth: 0 },
            error: FailKind::Enospc,
            forever: false,
        });
        assert!(rig.flush().is_empty(), "{op:?} {path}");
        assert!(rig.engine.read_only_reason().is_some());
        assert_eq!(rig.get("a").as_deref(), Some("1"), "the memtable stays");
        rig.engine.tick(rig.env.clock.now());
        assert!(rig.settle().is_empty(), "not before its time");
        let at = rig.engine.next_wakeup().unwrap();
        rig.sim.clock.advance_to(at);
        rig.engine.tick(at);
        assert_eq!(rig.settle(), [LogIndex(1)], "{op:?} {path}");
        assert_eq!(rig.engine.read_only_reason(), None);
        assert_eq!(rig.engine.stats().tables, 1);
        let files = rig.env.disk.list(std::path::Path::new("db/engine")).unwrap();
        assert_eq!(files.iter().filter(|f| f.name.ends_with(".sst")).count(), 1, "{files:?}");
        rig.reopen().unwrap();
        assert_eq!(rig.get("a").as_deref(), Some("1"));
    }
}

#[test]
fn a_rotation_without_room_goes_on_in_the_old_manifest() {
    let mut rig = Rig::new(1);
    rig.engine.options.manifest_rotate_bytes = 1;
    rig.sim.disk.fail(FailPoint {
        on: FailOn::Matching { op: Some(OpKind::Create), path: ".manifest.tmp".into(), nth: 0 },
        error: FailKind::Enospc,
        forever: true,
    });
    for i in 0..3 {
        rig.write(&[(&format!("{i}"), Some("v"))]);
        rig.flush();
        assert_eq!(rig.engine.read_only_reason(), None);
    }
    rig.sim.disk.clear_faults();
    rig.reopen().unwrap();
    assert_eq!(rig.scan(ScanOptions::default()).len(), 3);
}
