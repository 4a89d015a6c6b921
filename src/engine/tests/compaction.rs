//! Compaction: what it keeps, what it drops, and what it costs.

use super::*;
use crate::engine::edit::MAX_LEVELS;
use crate::env::sim::SimRandom;
use std::collections::BTreeMap;

type Map = BTreeMap<String, String>;

pub(super) fn tiny_rig(seed: u64) -> Rig {
    Rig::with(seed, EngineOptions { compaction: tiny(), block_bytes: 256, ..options() })
}

impl Rig {
    /// Runs compactions until there is nothing to compact.
    pub(super) fn compact_all(&mut self) {
        for _ in 0..10_000 {
            self.settle();
            if !self.engine.start_compaction() {
                self.check_levels();
                return;
            }
        }
        panic!("compaction does not come to an end: {:#?}", self.engine.stats().history);
    }

    /// Deletes and sets what comes, in batches that fit.
    fn write_all(&mut self, ops: &[(String, Option<String>)]) {
        for ops in ops.chunks(500) {
            let ops: Vec<_> = ops.iter().map(|(k, v)| (k.as_str(), v.as_deref())).collect();
            self.write(&ops);
        }
    }

    fn level_tables(&self) -> Vec<u64> {
        self.engine.stats().levels.iter().map(|l| l.tables).collect()
    }

    /// What the state checks when it is read, and that the version is that state.
    fn check_levels(&self) {
        let mut again = State::default();
        again.apply(&self.engine.durable.to_edit()).unwrap();
        assert_eq!(again, self.engine.durable);
        let of = |level| {
            let mut numbers: Vec<u64> =
                self.engine.version.level(level).iter().map(|t| t.meta.number).collect();
            numbers.sort_unstable();
            numbers
        };
        for level in 0..MAX_LEVELS {
            let mut said: Vec<u64> = self.engine.durable.level(level).map(|t| t.number).collect();
            said.sort_unstable();
            assert_eq!(of(level), said, "level {level}");
        }
    }

    pub(super) fn table_files(&self) -> Vec<String> {
        let names = self.env.disk.list(&self.options.dir).unwrap().into_iter().map(|e| e.name);
        names.filter(|name| name.ends_with(".sst")).collect()
    }
}

fn puts(keys: impl IntoIterator<Item = u32>, value: &str) -> Vec<(String, Option<String>)> {
    keys.into_iter().map(|i| (format!("key{i:05}"), Some(format!("{value}-{i}")))).collect()
}

fn deletes(keys: impl IntoIterator<Item = u32>) -> Vec<(String, Option<String>)> {
    keys.into_iter().map(|i| (format!("key{i:05}"), None)).collect()
}

#[test]
fn what_is_compacted_reads_the_same_and_every_level_gets_its_turn() {
    for seed in 0..6 {
        let mut rig = tiny_rig(seed);
        let mut random = SimRandom::new(seed);
        let (mut model, mut pinned) = (Map::new(), Vec::<(SequenceNumber, Map)>::new());
        let mut levels_seen = [false; MAX_LEVELS as usize];
        for step in 0..220 {
            let context = format!("seed {seed}, step {step}");
            match random.below(20) {
                0..=9 => {
                    let first = random.below(900) as u32;
                    let stride = 1 + random.below(3) as u32;
                    let keys = (0..random.below(60) as u32).map(|i| (first + i * stride) % 1_000);
                    let ops = if random.chance(1, 3) {
                        deletes(keys)
                    } else {
                        puts(keys, &format!("{step}-{}", "x".repeat(random.below(80) as usize)))
                    };
                    for (key, value) in &ops {
                        match value {
                            Some(value) => model.insert(key.clone(), value.clone()),
                            None => model.remove(key),
                        };
                    }
                    rig.write_all(&ops);
                }
                10..=12 => {
                    rig.engine.start_flush();
                    rig.settle();
                }
                13..=15 => {
                    rig.engine.start_compaction();
                    if random.chance(1, 2) {
                        rig.settle();
                    }
                }
                16 => rig.compact_all(),
                17 if pinned.len() < 4 => pinned.push((rig.engine.snapshot(), model.clone())),
                18 if !pinned.is_empty() => {
                    let (seq, _) = pinned.swap_remove(random.below(pinned.len() as u64) as usize);
                    rig.engine.release_snapshot(seq);
                }
                _ if random.chance(1, 6) => {
                    rig.engine.freeze();
                    while rig.engine.start_flush() {
                        rig.settle();
                    }
                    pinned.clear();
                    rig.reopen().unwrap_or_else(|e| panic!("{context}: {e}"));
                }
                _ => rig.engine.compact(b"key00200", Some(b"key00700")),
            }
            for (level, tables) in rig.level_tables().into_iter().enumerate() {
                levels_seen[level] |= tables > 0;
            }
            let expected: Vec<_> = model.clone().into_iter().collect();
            assert_eq!(rig.scan(ScanOptions::default()), expected, "{context}");
            for i in [0, 250, 500, 999] {
                let key = format!("key{i:05}");
                assert_eq!(rig.get(&key), model.get(&key).cloned(), "{context}: {key}");
            }
            for (seq, state) in &pinned {
                let options = ScanOptions { seq: Some(*seq), ..ScanOptions::default() };
                let expected: Vec<_> = state.clone().into_iter().collect();
                assert_eq!(rig.scan(options), expected, "{context}: at {seq}");
            }
        }
        rig.compact_all();
        assert!(levels_seen[1..].iter().filter(|seen| **seen).count() >= 5, "{levels_seen:?}");
    }
}

#[test]
fn tombstones_vanish_and_space_comes_back_without_being_asked_for() {
    let mut rig = tiny_rig(1);
    rig.write_all(&puts(0..3_000, &"v".repeat(50)));
    rig.flush();
    rig.compact_all();
    let full = rig.engine.stats();
    rig.write_all(&deletes(100..3_000));
    rig.flush();
    rig.compact_all();
    let stats = rig.engine.stats();
    assert_eq!(stats.table_tombstones, 0, "{:#?}", stats.levels);
    assert_eq!(stats.table_entries, 100);
    assert!(
        stats.table_bytes < full.table_bytes / 10,
        "{} {}",
        stats.table_bytes,
        full.table_bytes
    );
    rig.settle();
    let on_disk: u64 = rig.table_files().len() as u64;
    assert_eq!(on_disk, stats.tables, "the files are gone");
    assert_eq!(rig.scan(ScanOptions::default()).len(), 100);
}

#[test]
fn old_tombstones_get_to_the_bottom_however_few_they_are() {
    let mut rig = tiny_rig(1);
    rig.write_all(&puts(0..1_000, "old"));
    rig.flush();
    rig.compact_all();
    rig.write_all(&deletes([7, 500]));
    // Not enough tombstones in any table to be picked for their share.
    rig.write_all(&puts(0..60, "new"));
    rig.flush();
    for round in 0..40 {
        rig.write_all(&puts(2_000..2_100, &format!("later {round}")));
        rig.flush();
        rig.compact_all();
    }
    let stats = rig.engine.stats();
    assert_eq!(stats.table_tombstones, 0, "{:#?}", stats.levels);
    assert_eq!((rig.get("key00007"), rig.get("key00500")), (Some("new-7".into()), None));
}

#[test]
fn a_tombstone_stays_while_a_deeper_level_holds_its_key() {
    let mut rig = tiny_rig(1);
    for half in [0..1_000, 1_000..2_000] {
        rig.write_all(&puts(half, &"deep".repeat(10)));
        rig.flush();
    }
    rig.compact_all();
    let bottom = rig.engine.stats().levels.iter().rposition(|l| l.tables > 0).unwrap();
    assert_eq!(bottom, 6);
    rig.write_all(&deletes(0..2_000));
    rig.flush();
    // Step by step: at no moment may one of them come back.
    for _ in 0..2_000 {
        assert_eq!(rig.scan(ScanOptions::default()), [], "{:#?}", rig.engine.stats().levels);
        if !rig.engine.start_compaction() {
            break;
        }
        rig.settle();
    }
    assert_eq!(rig.engine.stats().table_entries, 0);
}

#[test]
fn what_a_snapshot_sees_survives_every_compaction_and_goes_when_it_is_released() {
    let mut rig = tiny_rig(1);
    rig.write_all(&puts(0..500, "old"));
    let pinned = rig.engine.snapshot();
    rig.write_all(&puts(0..400, "new"));
    rig.write_all(&deletes(400..500));
    rig.flush();
    rig.engine.compact(b"", None);
    rig.compact_all();
    assert!(!rig.engine.is_compacting_range());
    let at = ScanOptions { seq: Some(pinned), ..ScanOptions::default() };
    let old = rig.scan(at.clone());
    assert_eq!(old.len(), 500);
    assert!(old.iter().all(|(_, value)| value.starts_with("old")));
    assert_eq!(rig.engine.stats().table_entries, 1_000);
    // Later than the pin, and not pinned: gone as soon as something is dropped for the sake of nobody.
    rig.engine.release_snapshot(pinned);
    rig.engine.compact(b"", None);
    rig.compact_all();
    assert_eq!(rig.engine.stats().table_entries, 400);
    let error = rig.engine.scan(&at).unwrap_err();
    assert!(matches!(error, EngineError::SnapshotTooOld { .. }), "{error}");
    rig.reopen().unwrap();
    assert!(matches!(rig.engine.scan(&at), Err(EngineError::SnapshotTooOld { .. })));
}

#[test]
fn a_read_that_has_begun_goes_on_over_compactions_and_its_files_stay() {
    let mut rig = tiny_rig(1);
    rig.write_all(&puts(0..300, "v"));
    rig.flush();
    let Scan::NeedsDisk(scan) = rig.engine.scan(&ScanOptions::default()).unwrap() else { panic!() };
    let Get::NeedsDisk(get) = rig.engine.get(b"key00007", None).unwrap() else { panic!() };
    let held = rig.table_files();
    rig.write_all(&puts(0..300, "w"));
    rig.flush();
    rig.engine.compact(b"", None);
    rig.compact_all();
    assert!(rig.engine.stats().obsolete_tables > 0);
    assert!(held.iter().all(|file| rig.table_files().contains(file)));
    assert_eq!(&get.run().unwrap().unwrap().1[..], b"v-7");
    let slice = scan.run().unwrap();
    assert!(slice.entries.len() == 300 && slice.entries[5].value == "v-5");
    rig.engine.tick(rig.env.clock.now());
    rig.settle();
    assert_eq!(rig.engine.stats().obsolete_tables, 0);
    assert_eq!(rig.table_files().len() as u64, rig.engine.stats().tables);
}

#[test]
fn the_same_input_makes_the_same_bytes() {
    let tables = |seed: u64| {
        // The seed decides in which order jobs of different lanes run, and nothing else.
        let mut rig = tiny_rig(seed);
        for round in 0..6 {
            rig.write_all(&puts((0..700).map(|i| i * (round + 1) % 997), &format!("{round}")));
            rig.write_all(&deletes(round * 50..round * 50 + 80));
            rig.flush();
            rig.compact_all();
        }
        let files = rig.engine.durable.tables.values().map(|meta| {
            let path = rig.options.dir.join(manifest::table_file_name(meta.number));
            (meta.clone(), rig.sim.disk.read_file(path).unwrap())
        });
        files.collect::<Vec<_>>()
    };
    let first = tables(1);
    assert!(first.len() > 5);
    assert!(first == tables(2), "another seed, other bytes");
}

#[test]
fn keys_that_come_in_order_are_moved_and_never_written_again() {
    let mut rig = tiny_rig(1);
    for round in 0..12 {
        rig.write_all(&puts(round * 100..round * 100 + 100, "in order"));
        rig.flush();
        rig.compact_all();
    }
    let stats = rig.engine.stats();
    assert!(stats.tables_moved >= 10, "{stats:#?}");
    assert_eq!(stats.compactions, 0, "{:#?}", stats.history);
    assert_eq!(rig.scan(ScanOptions::default()).len(), 1_200);
    rig.reopen().unwrap();
    assert_eq!(rig.scan(ScanOptions::default()).len(), 1_200);
}

#[test]
fn a_range_that_is_asked_for_is_compacted_and_the_rest_is_not() {
    let mut rig = Rig::with(1, EngineOptions { block_bytes: 256, ..options() });
    rig.options.compaction.table_bytes = 4 << 10;
    rig.reopen().unwrap();
    rig.write_all(&puts(0..1_000, "1"));
    rig.flush();
    rig.engine.compact(b"", None);
    rig.compact_all();
    rig.write_all(&deletes(0..1_000));
    rig.flush();
    assert!(!rig.engine.start_compaction(), "it is not automatic here");
    let before = rig.engine.stats();
    assert_eq!((before.table_tombstones, before.table_entries), (1_000, 2_000));
    rig.engine.compact(b"key00300", Some(b"key00600"));
    assert!(rig.engine.is_compacting_range());
    rig.compact_all();
    assert!(!rig.engine.is_compacting_range());
    let after = rig.engine.stats();
    assert_eq!(after.table_entries, 0, "level 0 is one table: {:#?}", after.levels);
    rig.write_all(&puts(0..1_000, "2"));
    rig.engine.compact(b"key00300", Some(b"key00600"));
    rig.settle();
    assert!(!rig.engine.start_compaction(), "it waits for the flush");
    rig.flush();
    rig.compact_all();
    assert!(!rig.engine.is_compacting_range());
    assert_eq!(rig.scan(ScanOptions::default()).len(), 1_000);
}

#[test]
fn flush_and_compaction_share_the_manifest_whoever_is_first() {
    for seed in 0..20 {
        let mut rig = tiny_rig(seed);
        let mut model = Map::new();
        for round in 0..15_u32 {
            let ops = puts((0..80).map(|i| (i * 7 + round * 13) % 300), &format!("{round}"));
            model.extend(ops.iter().map(|(k, v)| (k.clone(), v.clone().unwrap())));
            rig.write_all(&ops);
            rig.engine.freeze();
            // Both are under way at once; the seed decides which job ends first.
            rig.engine.start_flush();
            rig.engine.start_compaction();
            for _ in 0..3 {
                rig.sim.jobs.run_one();
                let mut done = Vec::new();
                rig.env.jobs.poll(&mut done);
                for completion in done {
                    rig.engine.job_done(completion).unwrap();
                }
                rig.engine.start_compaction();
            }
        }
        while rig.engine.start_flush() || rig.engine.is_flushing() {
            rig.settle();
        }
        rig.compact_all();
        let expected: Vec<_> = model.into_iter().collect();
        assert_eq!(rig.scan(ScanOptions::default()), expected, "seed {seed}");
        rig.reopen().unwrap();
        assert_eq!(rig.scan(ScanOptions::default()), expected, "seed {seed}");
    }
}

#[test]
fn a_write_costs_a_bounded_number_of_table_bytes() {
    let compaction =
        CompactionOptions { table_bytes: 16 << 10, base_bytes: 64 << 10, l0_tables: 4, ..tiny() };
    let mut rig = Rig::with(1, EngineOptions { compaction, block_bytes: 1_024, ..options() });
    let mut random = SimRandom::new(7);
    for _ in 0..150 {
        let keys: Vec<u32> = (0..150).map(|_| random.below(20_000) as u32).collect();
        rig.write_all(&puts(keys, &"v".repeat(90)));
        rig.flush();
        rig.compact_all();
    }
    let stats = rig.engine.stats();
    let written: u64 = stats.levels.iter().map(|l| l.written_bytes).sum();
    let amplification = written as f64 / stats.flushed_bytes as f64;
    println!(
        "{} levels, write amplification {amplification:.2}",
        stats.levels.iter().filter(|l| l.tables > 0).count()
    );
    // Three levels of fan-out 10 are due here; leveled compaction needs half of that for each when keys are random.
    assert!((2.0..16.0).contains(&amplification), "{amplification:.2}: {:#?}", stats.levels);
    let live: u64 =
        rig.scan(ScanOptions::default()).iter().map(|(k, v)| (k.len() + v.len()) as u64).sum();
    let space = stats.table_bytes as f64 / live as f64;
    assert!(space < 1.45, "space amplification {space:.2}");
}

#[test]
fn what_comes_back_from_a_snapshot_of_another_replica_replaces_a_running_compaction() {
    let mut leader = tiny_rig(1);
    leader.write_all(&puts(0..900, "leader"));
    leader.flush();
    leader.compact_all();
    leader.write_all(&puts(100..200, "newer"));
    leader.flush();
    let sent = leader.engine.file_snapshot().unwrap();
    for held in [false, true] {
        let mut rig = tiny_rig(2);
        rig.write(&[("mine", Some("1"))]);
        rig.flush();
        rig.write(&[("mine", Some("2"))]);
        rig.flush();
        rig.sim.jobs.hold(Lane::Compact, held);
        assert!(rig.engine.start_compaction());
        let mut files =
            rig.engine.begin_install(sent.applied(), sent.bytes(), sent.body()).unwrap();
        let (bytes, _) = sent.read(0, sent.bytes() as usize).run().unwrap();
        files.write(0, bytes).run().unwrap();
        rig.engine.install(files);
        rig.settle();
        rig.sim.jobs.hold(Lane::Compact, false);
        rig.settle();
        assert_eq!(rig.engine.stats().installs, 1, "held {held}");
        assert_eq!(rig.scan(ScanOptions::default()), leader.scan(ScanOptions::default()));
        assert_eq!(rig.level_tables(), leader.level_tables(), "levels are kept");
        rig.engine.tick(rig.env.clock.now());
        rig.settle();
        assert_eq!(rig.table_files().len() as u64, rig.engine.stats().tables, "nothing is left");
        rig.compact_all();
        rig.reopen().unwrap();
        assert_eq!(rig.scan(ScanOptions::default()), leader.scan(ScanOptions::default()));
    }
}

/// Bug: a pick whose move was taken back had no lower tables, and its one output spanned those of the next level: the engine
/// stopped at its own edit, at every start. Found by review. Fix: such a pick takes all tables between its ends.
#[test]
fn tombstones_beside_a_gap_that_a_deeper_table_fills_are_compacted_with_it() {
    let mut rig = tiny_rig(1);
    for _ in 0..2 {
        rig.write(&[("m", Some("1")), ("n", Some("1"))]);
        rig.flush();
    }
    rig.compact_all();
    assert_eq!(rig.level_tables(), [0, 0, 0, 0, 0, 0, 1]);
    rig.options.compaction.l0_tables = 100;
    rig.reopen().unwrap();
    rig.write(&[("a", Some("1")), ("b", None)]);
    rig.flush();
    rig.write(&[("y", None), ("z", Some("1"))]);
    rig.flush();
    rig.compact_all();
    let keys: Vec<_> = rig.scan(ScanOptions::default()).into_iter().map(|(k, _)| k).collect();
    assert_eq!(keys, ["a", "m", "n", "z"]);
    assert_eq!(rig.engine.stats().table_tombstones, 0);
    rig.reopen().unwrap();
    assert_eq!(rig.scan(ScanOptions::default()).len(), 4);
}

#[test]
fn a_pick_that_is_no_move_has_every_table_between_its_ends() {
    use crate::engine::compaction::policy::{CompactionPolicy, Leveled};
    for seed in 0..8 {
        let mut rig = tiny_rig(seed);
        let mut random = SimRandom::new(seed);
        for step in 0..150 {
            let first = random.below(1_000) as u32;
            let stride = 1 + random.below(40) as u32;
            let keys = (0..1 + random.below(30) as u32).map(|i| (first + i * stride) % 1_300);
            rig.write_all(&if random.chance(1, 2) { deletes(keys) } else { puts(keys, "v") });
            rig.flush();
            let view = rig.engine.view(rig.engine.last_seq());
            if let Some(pick) = Leveled.pick(&view).filter(|pick| !pick.moves) {
                let from = pick.inputs().map(|t| &t.meta.smallest_key).min().unwrap();
                let to = pick.inputs().map(|t| &t.meta.largest_key).max().unwrap();
                for table in view.version.level(pick.output).iter() {
                    let meets = *from <= table.meta.largest_key && table.meta.smallest_key <= *to;
                    let taken = pick.inputs().any(|t| t.meta.number == table.meta.number);
                    assert_eq!(meets, taken, "seed {seed}, step {step}: {pick:#?}");
                }
            }
            if random.chance(2, 3) {
                rig.engine.start_compaction();
                rig.settle();
            }
        }
    }
}

/// Directories of versions without compaction have nothing but level 0.
#[test]
fn a_directory_of_a_hundred_tables_in_level_0_takes_writes_at_once_and_is_worked_off_in_steps() {
    let mut rig = Rig::with(1, EngineOptions { block_bytes: 256, ..options() });
    for round in 0..100 {
        rig.write_all(&puts((0..20).map(|i| (i * 31 + round * 7) % 400), &format!("{round}")));
        rig.flush();
    }
    let expected = rig.scan(ScanOptions::default());
    rig.options.compaction = tiny();
    rig.reopen().unwrap();
    assert_eq!(rig.engine.stats().write_pressure, 0.0);
    assert_eq!(rig.engine.write_room(), WriteRoom::Ok);
    assert!(rig.engine.start_compaction());
    let running = rig.engine.stats().compaction.unwrap();
    assert!(running.inputs <= 8, "{running:?}");
    rig.compact_all();
    assert_eq!(rig.engine.stats().levels[0].tables, 0);
    assert_eq!(rig.scan(ScanOptions::default()), expected);
    assert_eq!(rig.engine.stats().write_pressure, 0.0);
}

#[test]
fn what_a_range_delete_hides_goes_and_internal_rows_stay() {
    let mut rig = tiny_rig(1);
    for half in [0..300, 300..600] {
        rig.write_all(&puts(half, "v"));
        rig.flush();
    }
    rig.compact_all();
    let seq = rig.engine.last_seq().0;
    let delete =
        crate::engine::edit::RangeDelete { seq, start: Vec::new(), end: b"key00400".to_vec() };
    rig.engine.durable.range_deletes.insert(seq, delete);
    rig.engine.load_range_deletes();
    rig.engine.look_for_compactions();
    rig.compact_all();
    assert_eq!(rig.scan(ScanOptions::default()).len(), 200);
    let cleared = |t: &Arc<LiveTable>| {
        t.meta.cleared_to == seq || t.meta.smallest_key >= b"key00400".to_vec()
    };
    assert!(rig.engine.version.tables().all(cleared));
}

/// A node pins for the time of a job only, which holds its tables anyway: the simulator cannot see this one.
#[cfg(beach_planted)]
#[test]
fn a_planted_compaction_that_ignores_pins_is_caught() {
    use crate::base::planted::{Bug, select};
    select(Some(Bug::CompactionIgnoresPins));
    let seen = std::panic::catch_unwind(
        what_a_snapshot_sees_survives_every_compaction_and_goes_when_it_is_released,
    );
    select(None);
    assert!(seen.is_err(), "CompactionIgnoresPins is not caught");
}
