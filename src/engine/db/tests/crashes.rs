//! A crash at every change of the disk (k = 1 … end) of a scripted workload, both kinds, several seeds.
//!
//! After each: what was acknowledged is there, the one batch in flight is there as a whole or not at all, and a second
//! recovery finds the same.

use super::*;

/// What a run was told before it died.
#[derive(Default)]
struct Told {
    acknowledged: Map,
    /// The state if the write in flight counts.
    in_flight: Option<Map>,
}

fn step(db: &Db, i: u32, told: &mut Told) -> Result<(), DbError> {
    let mut next = told.acknowledged.clone();
    let mut batch = WriteBatch::new();
    for j in 0..3 {
        let key = format!("{:02}", (i * 7 + j * 5) % 23).into_bytes();
        if (i + j) % 4 == 3 {
            batch.delete(&key).unwrap();
            next.remove(&key);
        } else {
            let value = vec![i as u8; if i % 5 == 2 { 3_000 } else { 20 }];
            batch.put(&key, &value).unwrap();
            next.insert(key, value);
        }
    }
    told.in_flight = Some(next.clone());
    db.write(batch, WriteOptions::default())?;
    told.acknowledged = next;
    told.in_flight = None;
    Ok(())
}

/// Opens, writes, rotates the log, flushes, closes, opens again, and writes on.
fn workload(env: &Env, told: &mut Told) -> Result<(), DbError> {
    let small = || DbOptions { segment_bytes: 8 << 10, ..options(env) };
    let db = Db::open("db", small())?;
    for i in 0..8 {
        step(&db, i, told)?;
    }
    db.flush()?;
    for i in 8..13 {
        step(&db, i, told)?;
    }
    db.close()?;
    let db = Db::open("db", small())?;
    for i in 13..17 {
        step(&db, i, told)?;
    }
    db.flush()?;
    step(&db, 17, told)?;
    db.close()
}

fn check(env: &Env, told: &Told, context: &str) {
    let mut found = Vec::new();
    for _ in 0..2 {
        let db = Db::open("db", options(env)).unwrap_or_else(|e| panic!("{context}: {e}"));
        found.push(contents(&db).unwrap());
        drop(db);
    }
    assert_eq!(found[0], found[1], "{context}: a second recovery differs");
    let whole = found[0] == told.acknowledged || Some(&found[0]) == told.in_flight.as_ref();
    assert!(whole, "{context}: neither without nor with the batch in flight");
}

#[test]
fn a_crash_at_every_change_of_the_disk_loses_nothing_acknowledged() {
    let mut crashes = 0;
    for seed in 0..3 {
        let (env, sim) = sim::env(seed);
        workload(&env, &mut Told::default()).unwrap();
        let changes = sim.disk.op_count();
        assert!(changes > 60, "{changes} changes only");
        for at in 0..changes {
            for kind in [CrashKind::Process, CrashKind::PowerLoss] {
                let context = format!("seed {seed}, change {at} of {changes}, {kind:?}");
                let (env, sim) = sim::env(seed);
                sim.disk.crash_at(at);
                let mut told = Told::default();
                let error = workload(&env, &mut told).err();
                assert!(sim.disk.is_down(), "{context}: {error:?}");
                sim.jobs.abandon();
                sim.disk.crash(kind);
                sim.disk.restart();
                check(&env, &told, &context);
                crashes += 1;
            }
        }
    }
    assert!(crashes > 300, "{crashes} crashes");
}

/// Recovery is a workload too: a crash at every change of it, then a recovery from that.
#[test]
fn a_crash_at_every_change_of_a_recovery_changes_nothing() {
    for seed in 0..2 {
        let (env, sim) = sim::env(seed);
        let mut told = Told::default();
        sim.disk.crash_at(45 + seed * 12);
        workload(&env, &mut told).unwrap_err();
        sim.jobs.abandon();
        sim.disk.crash(CrashKind::PowerLoss);
        sim.disk.restart();
        let start = sim.disk.op_count();
        let on = |disk: &sim::SimDisk| Env { disk: Arc::new(disk.clone()), ..env.clone() };
        let whole = sim.disk.fork(seed);
        check(&on(&whole), &told, "undisturbed");
        for at in start..whole.op_count() {
            for kind in [CrashKind::Process, CrashKind::PowerLoss] {
                let disk = sim.disk.fork(seed ^ at);
                disk.crash_at(at);
                drop(Db::open("db", options(&on(&disk))));
                sim.jobs.abandon();
                disk.crash(kind);
                disk.restart();
                check(&on(&disk), &told, &format!("seed {seed}, recovery change {at}, {kind:?}"));
            }
        }
    }
}
