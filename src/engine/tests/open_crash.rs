//! Bug: a kill between creating `CURRENT.tmp` and renaming it made every later open fail with "File exists".
//! Cause: orphans are removed after the new manifest is in place, and `CURRENT.tmp` has no number of its own.
//! Found by `beach-crash run --target engine --seed 77`, cycle 169. Fix: the rotation removes what is in its way.

use super::*;
use crate::env::sim::{CrashKind, SimDisk};
use std::sync::Arc;

fn env_over(disk: &SimDisk, base: &Env) -> Env {
    Env { disk: Arc::new(disk.clone()), ..base.clone() }
}

#[test]
fn an_open_that_crashes_at_any_change_leaves_a_directory_that_opens() {
    let mut rig = Rig::new(1);
    rig.write(&[("a", Some("1")), ("b", Some("2"))]);
    rig.flush();
    let applied = rig.engine.applied();
    let Rig { env, sim, engine, .. } = rig;
    drop(engine);
    sim.jobs.abandon();

    let whole = sim.disk.fork(0);
    let before = whole.op_count();
    drop(Engine::open(&env_over(&whole, &env), options()).expect("nothing is wrong"));
    let changes = before..whole.op_count();
    assert!(changes.clone().count() > 5, "an open writes a manifest and CURRENT");
    for at in changes {
        for seed in 0..20 {
            let disk = sim.disk.fork(seed);
            disk.crash_at(at);
            // A crash in the removal of orphans is only a warning to the open.
            drop(Engine::open(&env_over(&disk, &env), options()));
            assert!(disk.is_down());
            disk.crash(if seed % 2 == 0 { CrashKind::Process } else { CrashKind::PowerLoss });
            disk.restart();
            let engine = Engine::open(&env_over(&disk, &env), options())
                .unwrap_or_else(|e| panic!("crash at {at}, seed {seed}: {e}\n{:#?}", disk.trace()));
            assert_eq!(engine.applied(), applied, "crash at {at}, seed {seed}");
        }
    }
}

/// Bug: a manifest with valid checksums and numbers at the end of their range opened, and the first write, flush, or
/// open after it panicked. Fix: replay refuses numbers without room, by file and offset.
#[test]
fn a_manifest_whose_numbers_have_no_room_is_refused() {
    let good = State { next_file: 9, ..State::default() };
    let forged = [
        (State { applied: (LogIndex(u64::MAX), Term(1)), ..good.clone() }, "applied index"),
        (State { applied: (LogIndex(1), Term(u64::MAX)), ..good.clone() }, "applied term"),
        (State { last_seq: SequenceNumber::MAX, ..good.clone() }, "last sequence number"),
        (State { next_file: u64::MAX, ..good }, "next file number"),
    ];
    for (state, what) in forged {
        let (env, _sim) = sim::env(1);
        let dir = options().dir;
        env.disk.create_dir_all(&dir).unwrap();
        Manifest::new(Arc::clone(&env.disk), dir).rotate(7, &state).unwrap();
        let error = Engine::open(&env, options()).map(|_| ()).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, EngineError::Corrupt { .. }) && text.contains(what), "{text}");
    }
}
