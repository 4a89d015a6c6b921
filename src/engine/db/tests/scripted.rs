//! One scripted life of a database with everything in it: writes, range deletes, flushes, compactions, a checkpoint, a check of
//! all files, a close, and an open. It is run once for each of its operations, which crashes or fails there (k = 1 … end).

use super::*;
use crate::engine::checkpoint;
use crate::env::sim::{FailKind, FailOn, FailPoint, OpKind};

/// What a life was told, and what may be true besides.
struct Told {
    /// What a read may find: each write of unknown effect doubles it.
    possible: Vec<Map>,
    /// The contents of the checkpoint, once it was acknowledged.
    checkpoint: Option<Map>,
    /// Files that the check of all files found damaged.
    damaged: u64,
}

impl Told {
    fn new() -> Self {
        Self { possible: vec![Map::new()], checkpoint: None, damaged: 0 }
    }

    /// One write; `change` is what it does to a map.
    fn write(
        &mut self,
        result: Result<(), DbError>,
        change: impl Fn(&mut Map),
    ) -> Result<(), DbError> {
        match &result {
            Ok(()) => self.possible.iter_mut().for_each(&change),
            Err(e) if e.effect() == Effect::NotApplied => {}
            Err(_) => {
                let mut with = self.possible.clone();
                with.iter_mut().for_each(&change);
                self.possible.extend(with);
            }
        }
        self.possible.dedup();
        result
    }
}

fn small(env: &Env) -> DbOptions {
    DbOptions { segment_bytes: 8 << 10, cache_bytes: 0, ..options(env) }
}

/// Writes number `i`; every fifth is a range delete.
fn step(db: &Db, i: u32, told: &mut Told) -> Result<(), DbError> {
    if i % 5 == 4 {
        let (start, end) = (format!("{:02}", i % 17), format!("{:02}", i % 17 + 6));
        let result = db.delete_range(start.as_bytes(), end.as_bytes()).map(drop);
        return told.write(result, |map| {
            map.retain(|key, _| {
                *key < start.clone().into_bytes() || *key >= end.clone().into_bytes()
            });
        });
    }
    let ops: Vec<_> = (0..4)
        .map(|j| {
            let key = format!("{:02}", (i * 7 + j * 5) % 23).into_bytes();
            let value = vec![i as u8; if i % 6 == 2 { 900 } else { 20 }];
            (key, ((i + j) % 7 != 6).then_some(value))
        })
        .collect();
    let refs: Vec<_> = ops.iter().map(|(k, v)| (&k[..], v.as_deref())).collect();
    let result = db.write(batch(&refs), WriteOptions::default()).map(drop);
    told.write(result, |map| {
        for (key, value) in &ops {
            match value {
                Some(value) => map.insert(key.clone(), value.clone()),
                None => map.remove(key),
            };
        }
    })
}

/// The script. It ends at the first error when `stubborn` is not set; else it goes on with what is next.
fn life(env: &Env, told: &mut Told, stubborn: bool) -> Result<(), DbError> {
    let end = |result: Result<(), DbError>| if stubborn { Ok(()) } else { result };
    let db = Db::open("db", small(env))?;
    for i in 0..18 {
        end(step(&db, i, told))?;
        look(&db, told)?;
        if i % 6 == 5 {
            end(db.flush())?;
        }
    }
    end(db.compact(None, None))?;
    look(&db, told)?;
    let made = db.checkpoint("copy");
    if made.is_ok() {
        told.checkpoint = Some(contents_of_copy(told));
    }
    end(made.map(drop))?;
    told.damaged = db.verify(None).damaged;
    for i in 18..22 {
        end(step(&db, i, told))?;
    }
    end(db.close())?;
    let db = Db::open("db", small(env))?;
    look(&db, told)?;
    for i in 22..26 {
        end(step(&db, i, told))?;
    }
    end(db.flush())?;
    end(db.compact(None, None))?;
    look(&db, told)?;
    end(db.close())
}

/// What a checkpoint made now holds, if there is only one possibility; an empty map stands for "one of several".
fn contents_of_copy(told: &Told) -> Map {
    match &told.possible[..] {
        [only] => only.clone(),
        _ => Map::new(),
    }
}

/// What is read now is right, or an error.
fn look(db: &Db, told: &Told) -> Result<(), DbError> {
    if let Ok(found) = contents(db) {
        assert!(told.possible.contains(&found), "{found:?} is none of {:?}", told.possible);
    }
    Ok(())
}

/// What the next process finds, twice, and the checkpoint.
fn check(env: &Env, told: &Told, context: &str) {
    let mut found = Vec::new();
    for _ in 0..2 {
        let db = Db::open("db", small(env)).unwrap_or_else(|e| panic!("{context}: {e}"));
        found.push(contents(&db).unwrap_or_else(|e| panic!("{context}: {e}")));
        assert_eq!(db.verify(None).damaged, 0, "{context}: {:?}", db.verify(None).faults);
    }
    assert_eq!(found[0], found[1], "{context}: a second recovery differs");
    assert!(
        told.possible.contains(&found[0]),
        "{context}: {:?} is none of {:?}",
        found[0],
        told.possible
    );
    let Some(expected) = &told.checkpoint else { return };
    checkpoint::read(&*env.disk, Path::new("copy")).unwrap_or_else(|e| panic!("{context}: {e}"));
    let copy = Db::open("copy", small(env)).unwrap_or_else(|e| panic!("{context}: {e}"));
    let copied = contents(&copy).unwrap();
    assert!(expected.is_empty() || copied == *expected, "{context}: the checkpoint has {copied:?}");
}

/// The number of changes of an undisturbed life.
fn changes() -> u64 {
    let (env, sim) = sim::env(1);
    let mut told = Told::new();
    life(&env, &mut told, false).unwrap();
    assert_eq!((told.possible.len(), told.damaged), (1, 0));
    assert!(told.checkpoint.is_some());
    sim.jobs.run_all();
    sim.jobs.abandon();
    check(&env, &told, "undisturbed");
    sim.disk.op_count()
}

#[test]
fn a_crash_at_every_change_of_a_life_with_everything_in_it_loses_nothing_acknowledged() {
    let changes = changes();
    assert!(changes > 150, "{changes} changes only");
    for at in 0..changes {
        for kind in [CrashKind::Process, CrashKind::PowerLoss] {
            let context = format!("change {at}, {kind:?}");
            let (env, sim) = sim::env(1);
            sim.disk.crash_at(at);
            let mut told = Told::new();
            let ended = life(&env, &mut told, false);
            if !sim.disk.is_down() {
                // The checks at the end of an undisturbed life make changes, too.
                ended.unwrap();
                continue;
            }
            sim.jobs.abandon();
            sim.disk.crash(kind);
            sim.disk.restart();
            check(&env, &told, &context);
        }
    }
}

#[test]
fn a_failure_at_every_change_of_a_life_once_and_for_ever_gives_no_wrong_answer() {
    let changes = changes();
    for error in [FailKind::Eio, FailKind::Enospc, FailKind::ShortWrite] {
        for at in 0..changes {
            for forever in [false, true] {
                let context = format!("{error:?} at change {at}, forever {forever}");
                let on = FailOn::Change(at);
                fails(FailPoint { on, error, forever }, &context);
            }
        }
    }
}

#[test]
fn a_failed_read_at_every_place_of_a_life_gives_no_wrong_answer() {
    for op in [OpKind::Read, OpKind::Open, OpKind::List, OpKind::Stat] {
        for nth in 0..400 {
            let context = format!("{op:?} number {nth}");
            let on = FailOn::Matching { op: Some(op), path: String::new(), nth };
            fails(FailPoint { on, error: FailKind::Eio, forever: false }, &context);
        }
    }
}

fn fails(point: FailPoint, context: &str) {
    let (env, sim) = sim::env(1);
    sim.disk.fail(point);
    let mut told = Told::new();
    drop(life(&env, &mut told, true));
    sim.disk.clear_faults();
    sim.jobs.run_all();
    sim.jobs.abandon();
    sim.disk.crash(CrashKind::PowerLoss);
    sim.disk.restart();
    check(&env, &told, context);
}
