//! Compaction when things go wrong: crashes, full disks, failing operations, and damaged tables.

use super::compaction::tiny_rig;
use super::*;
use crate::env::sim::{CrashKind, FailKind, FailOn, FailPoint, OpKind};

const ROUNDS: u64 = 9;

/// Flushes and compacts; the first error ends it. Each round is one log entry and one flush.
fn workload(rig: &mut Rig) -> Result<(), EngineError> {
    for round in 0..ROUNDS as u32 {
        let ops: Vec<_> = (0..60)
            .map(|i| {
                let value = (i % 4 != round % 4).then(|| format!("{round}-{i}"));
                (format!("key{:03}", (i * 7 + round * 11) % 90), value)
            })
            .collect();
        let ops: Vec<_> = ops.iter().map(|(k, v)| (k.as_str(), v.as_deref())).collect();
        rig.write(&ops);
        rig.engine.start_flush();
        drive(rig)?;
        for _ in 0..6 {
            if !rig.engine.start_compaction() {
                break;
            }
            drive(rig)?;
        }
    }
    Ok(())
}

/// Like `settle`, and hands errors on. A second passes when something waits.
fn drive(rig: &mut Rig) -> Result<(), EngineError> {
    for _ in 0..4 {
        loop {
            rig.sim.jobs.run_all();
            let mut done = Vec::new();
            rig.env.jobs.poll(&mut done);
            if done.is_empty() {
                break;
            }
            for completion in done {
                rig.engine.job_done(completion)?;
            }
        }
        let Some(at) = rig.engine.next_wakeup() else { return Ok(()) };
        rig.sim.clock.advance_to(at);
        rig.engine.tick(at);
    }
    Ok(())
}

/// What a new process finds is a state that some flush left: the first `n` rounds, for an `n` of at least `flushed`.
fn check(rig: &mut Rig, flushed: u64, context: &str) {
    rig.sim.disk.clear_faults();
    rig.reopen().unwrap_or_else(|e| panic!("{context}: {e}\n{:#?}", rig.sim.disk.trace()));
    let rounds = rig.engine.applied().0.0;
    assert!(rounds >= flushed, "{context}: {rounds} rounds, {flushed} were flushed");
    let found = rig.scan(ScanOptions::default());
    // The same rounds without a fault and without compaction.
    let mut model = std::collections::BTreeMap::new();
    for round in 0..rounds {
        for i in 0..60 {
            let key = format!("key{:03}", (i * 7 + round as u32 * 11) % 90);
            let round = round as u32;
            if i % 4 == round % 4 {
                model.remove(&key);
            } else {
                model.insert(key, format!("{round}-{i}"));
            }
        }
    }
    let expected: Vec<_> = model.into_iter().collect();
    assert_eq!(found, expected, "{context}: after {rounds} rounds");
    let tables = rig.engine.stats().tables;
    assert_eq!(rig.table_files().len() as u64, tables, "{context}: orphans are removed");
    rig.compact_all();
    assert_eq!(rig.scan(ScanOptions::default()), expected, "{context}: and compacted");
}

#[test]
fn a_crash_at_every_change_of_flush_and_compaction_leaves_the_inputs_or_the_outputs() {
    let mut whole = tiny_rig(1);
    let start = whole.sim.disk.op_count();
    workload(&mut whole).unwrap();
    let stats = whole.engine.stats();
    assert!(stats.compactions > 2 && stats.tables_moved > 0, "{stats:#?}");
    let changes = start..whole.sim.disk.op_count();
    assert!(changes.clone().count() > 80);
    for at in changes {
        for kind in [CrashKind::Process, CrashKind::PowerLoss] {
            let context = format!("change {at}, {kind:?}");
            let mut rig = tiny_rig(1);
            rig.sim.disk.crash_at(at);
            let error = workload(&mut rig).err();
            assert!(rig.sim.disk.is_down(), "{context}: {error:?}");
            let flushed = rig.engine.flushed_applied().0.0;
            rig.sim.jobs.abandon();
            rig.sim.disk.crash(kind);
            rig.sim.disk.restart();
            check(&mut rig, flushed, &context);
        }
    }
}

#[test]
fn a_full_disk_and_a_failing_one_at_every_change_once_and_for_ever_cost_no_data() {
    let mut whole = tiny_rig(1);
    let start = whole.sim.disk.op_count();
    workload(&mut whole).unwrap();
    let changes = start..whole.sim.disk.op_count();
    for error in [FailKind::Enospc, FailKind::Eio, FailKind::ShortWrite] {
        for at in changes.clone() {
            for forever in [false, true] {
                let context = format!("{error:?} at change {at}, forever {forever}");
                let mut rig = tiny_rig(1);
                rig.sim.disk.fail(FailPoint { on: FailOn::Change(at), error, forever });
                let ended = workload(&mut rig);
                if error == FailKind::Enospc && ended.is_ok() && !forever {
                    // It went on by itself.
                    assert_eq!(rig.engine.flushed_applied().0.0, ROUNDS, "{context}");
                    assert_eq!(rig.engine.read_only_reason(), None, "{context}");
                }
                let flushed = rig.engine.flushed_applied().0.0;
                rig.sim.jobs.abandon();
                rig.sim.disk.crash(CrashKind::PowerLoss);
                rig.sim.disk.restart();
                check(&mut rig, flushed, &context);
            }
        }
    }
}

#[test]
fn a_failed_read_at_every_place_destroys_nothing() {
    for op in [OpKind::Read, OpKind::Open, OpKind::Stat] {
        for nth in 0..200 {
            for forever in [false, true] {
                let context = format!("{op:?} number {nth}, forever {forever}");
                let mut rig = tiny_rig(1);
                let on = FailOn::Matching { op: Some(op), path: ".sst".into(), nth };
                rig.sim.disk.fail(FailPoint { on, error: FailKind::Eio, forever });
                drop(workload(&mut rig));
                let flushed = rig.engine.flushed_applied().0.0;
                rig.sim.jobs.abandon();
                rig.sim.disk.crash(CrashKind::PowerLoss);
                rig.sim.disk.restart();
                check(&mut rig, flushed, &context);
            }
        }
    }
}

#[test]
fn a_damaged_input_is_left_alone_and_named_and_the_rest_goes_on() {
    let mut rig = tiny_rig(1);
    let range = |from: u32| -> Vec<(String, String)> {
        (from..from + 200).map(|i| (format!("key{i:05}"), format!("v{i}"))).collect()
    };
    let write = |rig: &mut Rig, from| {
        let ops = range(from);
        let ops: Vec<_> = ops.iter().map(|(k, v)| (k.as_str(), Some(v.as_str()))).collect();
        rig.write(&ops);
        rig.flush();
    };
    write(&mut rig, 0);
    write(&mut rig, 1_000);
    rig.compact_all();
    let bad = rig.engine.version.tables().find(|t| t.meta.smallest_key < b"key00500".to_vec());
    let number = bad.unwrap().meta.number;
    let path = rig.options.dir.join(manifest::table_file_name(number));
    rig.sim.disk.flip(&path, 100, 1);
    let damaged = rig.sim.disk.read_file(&path).unwrap();
    // A new process, with nothing of it in memory.
    rig.reopen().unwrap();
    for _ in 0..4 {
        write(&mut rig, 0);
        write(&mut rig, 1_100);
        rig.compact_all();
    }
    let stats = rig.engine.stats();
    let named: Vec<u64> = stats.unreadable_tables.iter().map(|(number, _)| *number).collect();
    assert_eq!(named, [number], "{:?}", stats.unreadable_tables);
    assert!(stats.unreadable_tables[0].1.contains("corrupt"), "{:?}", stats.unreadable_tables);
    assert_eq!(rig.sim.disk.read_file(&path).unwrap(), damaged, "nothing was destroyed");
    assert!(rig.engine.version.tables().any(|t| t.meta.number == number));
    assert_eq!(rig.get("key01250").as_deref(), Some("v1250"));
    assert!(stats.write_pressure < 1.0, "writers are not held up for what cannot be done");
}

#[test]
fn a_manifest_that_meets_a_full_disk_is_written_with_the_same_edit_before_any_other() {
    let mut rig = tiny_rig(1);
    for round in 0..2 {
        rig.write(&[("a", Some("1")), ("b", Some(if round == 0 { "x" } else { "y" }))]);
        rig.flush();
    }
    assert!(rig.engine.start_compaction());
    let on = FailOn::Matching { op: Some(OpKind::Write), path: ".manifest".into(), nth: 0 };
    rig.sim.disk.fail(FailPoint { on, error: FailKind::Enospc, forever: true });
    rig.settle();
    assert_eq!(rig.engine.stats().compaction_state, "waiting for space");
    assert!(rig.engine.read_only_reason().is_some());
    // A flush is built meanwhile, and waits.
    rig.write(&[("c", Some("3"))]);
    rig.flush();
    assert_eq!(rig.engine.stats().flush_state, "waiting for the manifest");
    assert!(!rig.engine.is_working(), "the owner does not wait for what waits for space");
    rig.sim.disk.clear_faults();
    rig.sim.clock.advance(RETRY_NS);
    rig.engine.tick(rig.env.clock.now());
    rig.settle();
    assert!(rig.engine.is_flushed() && rig.engine.read_only_reason().is_none());
    let pairs = rig.scan(ScanOptions::default());
    rig.reopen().unwrap();
    assert_eq!(rig.scan(ScanOptions::default()), pairs);
    assert_eq!(pairs.len(), 3);
}

fn flush_all(rig: &mut Rig) {
    rig.engine.freeze();
    while rig.engine.start_flush() {
        rig.settle();
    }
}

#[test]
fn a_nearly_full_disk_is_compacted_in_small_steps_until_deleted_space_is_back() {
    let compaction = CompactionOptions { table_bytes: 8 << 10, base_bytes: 1 << 20, ..tiny() };
    let mut rig = Rig::with(
        1,
        EngineOptions { compaction, memtable_bytes: 32 << 10, block_bytes: 256, ..options() },
    );
    let value = "v".repeat(200);
    for first in (0..1_000).step_by(100) {
        let keys: Vec<_> = (first..first + 100).map(|i| format!("key{i:05}")).collect();
        let ops: Vec<_> = keys.iter().map(|k| (k.as_str(), Some(value.as_str()))).collect();
        rig.write(&ops);
        flush_all(&mut rig);
    }
    rig.compact_all();
    let bytes = |rig: &Rig| rig.engine.version.tables().map(|t| t.meta.bytes).sum::<u64>();
    let (before, used) = (bytes(&rig), rig.sim.disk.used_bytes());
    assert!(before > 200_000, "{before}");
    // Everybody else takes all but a quarter of what a compaction of everything needs.
    rig.sim.disk.set_capacity(Some(used + (100 << 10)));
    let gone: Vec<_> = (0..1_000).filter(|i| i % 10 != 0).map(|i| format!("key{i:05}")).collect();
    let ops: Vec<_> = gone.iter().map(|k| (k.as_str(), None)).collect();
    rig.write(&ops);
    flush_all(&mut rig);
    for _ in 0..400 {
        rig.settle();
        if let Some(at) = rig.engine.next_wakeup() {
            rig.sim.clock.advance_to(at);
            rig.engine.tick(at);
        }
        if !rig.engine.start_compaction() && rig.engine.next_wakeup().is_none() {
            break;
        }
    }
    rig.settle();
    let (after, stats) = (bytes(&rig), rig.engine.stats());
    assert!(after < before / 5, "{before} bytes of tables became {after}: {:#?}", stats.history);
    assert_eq!(stats.compaction_state, "idle");
    let found = rig.scan(ScanOptions::default());
    assert_eq!(found.len(), 100);
    rig.reopen().unwrap();
    assert_eq!(rig.scan(ScanOptions::default()), found);
}

#[test]
fn a_disk_without_room_for_any_compaction_makes_it_wait_and_not_spin() {
    let mut rig = tiny_rig(1);
    workload(&mut rig).unwrap();
    let ops: Vec<_> = (0..40).map(|i| (format!("key{i:03}"), "w")).collect();
    for _ in 0..3 {
        let ops: Vec<_> = ops.iter().map(|(k, v)| (k.as_str(), Some(*v))).collect();
        rig.write(&ops);
        rig.engine.start_flush();
        rig.settle();
    }
    rig.sim.disk.set_capacity(Some(rig.sim.disk.used_bytes()));
    let mut started = 0;
    while rig.engine.start_compaction() {
        started += 1;
        assert!(started < 50, "it does not come to an end");
        rig.settle();
        if rig.engine.compaction_waits() {
            break;
        }
    }
    assert_eq!(rig.engine.stats().compaction_state, "waiting for space", "after {started}");
    rig.sim.disk.set_capacity(None);
    rig.sim.clock.advance(100 * RETRY_NS);
    rig.engine.tick(rig.env.clock.now());
    rig.compact_all();
    assert_eq!(rig.engine.stats().compaction_state, "idle");
    assert_eq!(rig.get("key001").as_deref(), Some("w"));
}
