//! The checker against histories whose verdict is known, and against a checker by brute force.

use super::Action::{Read, Write};
use super::*;
use beachdb::env::sim::SimRandom;

fn op(call: u64, ret: u64, action: Action) -> Operation {
    Operation { call, ret: Some(ret), action }
}

fn unknown(call: u64, action: Action) -> Operation {
    Operation { call, ret: None, action }
}

#[track_caller]
fn right(history: &[Operation]) {
    assert_eq!(check(history), Answer::Linearizable, "{history:?}");
    assert!(brute(history), "brute force disagrees on {history:?}");
}

#[track_caller]
fn wrong(history: &[Operation]) {
    assert!(matches!(check(history), Answer::Not { .. }), "{history:?}: {:?}", check(history));
    assert!(!brute(history), "brute force disagrees on {history:?}");
}

#[test]
fn one_after_the_other() {
    right(&[]);
    right(&[op(1, 2, Read(None))]);
    right(&[op(1, 2, Write(Some(7))), op(3, 4, Read(Some(7)))]);
    right(&[op(1, 2, Write(Some(7))), op(3, 4, Write(None)), op(5, 6, Read(None))]);
}

#[test]
fn a_stale_read_is_refused() {
    wrong(&[op(1, 2, Write(Some(1))), op(3, 4, Write(Some(2))), op(5, 6, Read(Some(1)))]);
    wrong(&[op(1, 2, Write(Some(1))), op(3, 4, Read(None))]);
}

#[test]
fn a_lost_update_is_refused() {
    wrong(&[op(1, 2, Write(Some(1))), op(3, 4, Read(Some(1))), op(5, 6, Read(None))]);
    let overwritten = [op(1, 4, Write(Some(1))), op(2, 3, Write(Some(2)))];
    right(&[overwritten[0], overwritten[1], op(5, 6, Read(Some(1)))]);
    right(&[overwritten[0], overwritten[1], op(5, 6, Read(Some(2)))]);
    wrong(&[overwritten[0], overwritten[1], op(5, 6, Read(Some(2))), op(7, 8, Read(Some(1)))]);
}

#[test]
fn a_write_that_was_applied_twice_is_refused() {
    wrong(&[
        op(1, 2, Write(Some(1))),
        op(3, 4, Write(Some(2))),
        op(5, 6, Read(Some(2))),
        op(7, 8, Read(Some(1))),
    ]);
}

#[test]
fn reads_that_go_back_in_time_are_refused() {
    let write = op(1, 10, Write(Some(1)));
    right(&[write, op(2, 3, Read(None)), op(4, 5, Read(Some(1)))]);
    wrong(&[write, op(2, 3, Read(Some(1))), op(4, 5, Read(None))]);
    right(&[write, op(2, 5, Read(Some(1))), op(3, 4, Read(None))]);
}

#[test]
fn values_from_nowhere_and_from_the_future_are_refused() {
    wrong(&[op(1, 2, Read(Some(9)))]);
    wrong(&[op(1, 2, Read(Some(9))), op(3, 4, Write(Some(9)))]);
    wrong(&[op(1, 2, Read(Some(9))), unknown(3, Write(Some(9)))]);
}

#[test]
fn an_unknown_write_may_take_effect_at_once_late_or_never() {
    let write = unknown(1, Write(Some(1)));
    right(&[write, op(2, 3, Read(Some(1)))]);
    right(&[write, op(2, 3, Read(None)), op(4, 5, Read(None))]);
    right(&[write, op(2, 3, Write(Some(2))), op(4, 5, Read(Some(2))), op(6, 7, Read(Some(1)))]);
    wrong(&[
        write,
        op(2, 3, Read(Some(1))),
        op(4, 5, Write(Some(2))),
        op(6, 7, Read(Some(2))),
        op(8, 9, Read(Some(1))),
    ]);
    wrong(&[op(1, 2, Write(Some(3))), unknown(5, Write(Some(1))), op(3, 4, Read(Some(1)))]);
}

#[test]
fn an_unknown_delete_may_take_effect_once() {
    let first = op(1, 2, Write(Some(1)));
    let delete = unknown(3, Write(None));
    right(&[first, delete, op(4, 5, Read(Some(1))), op(6, 7, Read(None))]);
    let back = op(8, 9, Write(Some(2)));
    right(&[first, delete, op(4, 5, Read(None)), back, op(10, 11, Read(Some(2)))]);
    wrong(&[first, delete, op(4, 5, Read(None)), back, op(10, 11, Read(None))]);
    let another = unknown(7, Write(None));
    right(&[first, delete, op(4, 5, Read(None)), back, another, op(10, 11, Read(None))]);
    wrong(&[first, unknown(12, Write(None)), op(4, 5, Read(None))]);
}

#[test]
fn reads_without_an_answer_say_nothing() {
    right(&[op(1, 2, Write(Some(1))), unknown(3, Read(None)), op(4, 5, Read(Some(1)))]);
}

/// All orders that keep real time, with and without each unknown operation.
fn brute(history: &[Operation]) -> bool {
    fn go(history: &[Operation], done: u32, value: Option<u64>) -> bool {
        let missing = |at: &usize| done & (1 << at) == 0;
        let all: Vec<usize> = (0..history.len()).filter(missing).collect();
        if all.iter().all(|&at| history[at].ret.is_none()) {
            return true;
        }
        let horizon = all.iter().filter_map(|&at| history[at].ret).min().unwrap_or(u64::MAX);
        all.iter().any(|&at| {
            if history[at].call > horizon {
                return false;
            }
            match history[at].action {
                Write(new) => go(history, done | 1 << at, new),
                Read(found) => {
                    (found == value || history[at].ret.is_none())
                        && go(history, done | 1 << at, value)
                }
            }
        })
    }
    go(history, 0, None)
}

/// A tiny history: times are a shuffled counter, reads find anything that was ever written, or nothing.
fn tiny(random: &mut SimRandom) -> Vec<Operation> {
    let count = 2 + random.below(6);
    let mut times: Vec<u64> = (1..=2 * count).collect();
    for at in (1..times.len()).rev() {
        // Mostly local swaps: long overlaps make everything linearizable.
        let with = at - random.below(4.min(at as u64 + 1)) as usize;
        times.swap(at, with);
    }
    let mut value = 0;
    let mut history = Vec::new();
    for pair in times.chunks(2) {
        let (call, ret) = (pair[0].min(pair[1]), pair[0].max(pair[1]));
        let action = match random.below(8) {
            0..=2 => {
                value += 1;
                Write(Some(value))
            }
            3 => Write(None),
            4 => Read(None),
            _ => Read(Some(1 + random.below(value.max(1)))),
        };
        let ret = (!random.chance(1, 4)).then_some(ret);
        history.push(Operation { call, ret, action });
    }
    history
}

#[test]
fn it_agrees_with_brute_force_on_tiny_histories() {
    let (mut accepted, mut refused) = (0, 0);
    for seed in 0..60_000 {
        let history = tiny(&mut SimRandom::new(seed));
        let expected = brute(&history);
        let found = check(&history);
        let agrees = matches!(
            (expected, &found),
            (true, Answer::Linearizable) | (false, Answer::Not { .. })
        );
        assert!(agrees, "seed {seed}: expected {expected}, found {found:?} in {history:?}");
        if expected { accepted += 1 } else { refused += 1 }
    }
    assert!(accepted > 5_000 && refused > 5_000, "{accepted} accepted, {refused} refused");
}

/// A register that really is one, with `clients` at a time and some answers lost.
fn real(random: &mut SimRandom, operations: u64, clients: usize) -> Vec<Operation> {
    let (mut clock, mut value, mut last) = (0, None, 0);
    let mut running: Vec<Option<(u64, Action, bool)>> = vec![None; clients];
    let mut late: Vec<(u64, Action)> = Vec::new();
    let mut history = Vec::new();
    let mut begun = 0;
    while begun < operations || running.iter().any(Option::is_some) {
        clock += 1;
        let client = random.below(clients as u64) as usize;
        match running[client] {
            None if begun < operations => {
                begun += 1;
                last += 1;
                let action = match random.below(10) {
                    0..=3 => Write(Some(last)),
                    4 => Write(None),
                    _ => Read(None),
                };
                running[client] = Some((clock, action, false));
            }
            None => {}
            Some((call, action, false)) => {
                // The moment it takes effect, unless its answer is lost: then later, or never.
                let lost = matches!(action, Write(_)) && random.chance(1, 12);
                if lost {
                    history.push(unknown(call, action));
                    if random.chance(1, 2) {
                        late.push((clock + random.below(200), action));
                    }
                    running[client] = None;
                    continue;
                }
                let action = match action {
                    Write(new) => {
                        value = new;
                        action
                    }
                    Read(_) => Read(value),
                };
                running[client] = Some((call, action, true));
            }
            Some((call, action, true)) => {
                history.push(op(call, clock, action));
                running[client] = None;
            }
        }
        while let Some(at) = late.iter().position(|(when, _)| *when <= clock) {
            if let (_, Write(new)) = late.swap_remove(at) {
                value = new;
            }
        }
    }
    history
}

#[test]
fn long_histories_of_a_real_register_are_accepted_and_quickly() {
    for seed in 0..8 {
        let history = real(&mut SimRandom::new(seed), 5_000, 8);
        assert_eq!(check(&history), Answer::Linearizable, "seed {seed}");
    }
}

#[test]
fn one_wrong_read_in_a_long_history_is_found() {
    let mut found = 0;
    for seed in 0..20 {
        let mut history = real(&mut SimRandom::new(seed), 2_000, 4);
        // A read in the second half finds what was written and overwritten in the first.
        let old = history.iter().find_map(|o| match o.action {
            Write(Some(v)) if o.ret.is_some() => Some(v),
            _ => None,
        });
        let read = history.iter().rposition(|o| matches!(o.action, Read(_)));
        history[read.expect("a read")].action = Read(old);
        found += u32::from(matches!(check(&history), Answer::Not { .. }));
    }
    assert_eq!(found, 20, "some wrong histories were accepted");
}
