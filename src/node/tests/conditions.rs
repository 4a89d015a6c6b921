//! Compare-and-set through the node: what is judged when, by which state, and what a retry is told.

use super::*;
use crate::base::conditions::Expect;
use crate::proto::ConditionFailed;

fn conditional(conditions: &[(&str, Expect)], puts: &[(&str, &str)]) -> WriteBatch {
    let mut batch = WriteBatch::new();
    for (key, expect) in conditions {
        batch.require(key.as_bytes(), *expect).unwrap();
    }
    for (key, value) in puts {
        batch.put(key.as_bytes(), value.as_bytes()).unwrap();
    }
    batch
}

const fn seq(n: u64) -> Expect {
    Expect::Seq(SequenceNumber(n))
}

/// Which condition failed, and what its key had.
fn failure(response: Response) -> (u32, Option<u64>) {
    let Response::Error(ErrorReply { code, effect, condition: Some(at), .. }) = response else {
        panic!("{response:?}");
    };
    assert_eq!((code, effect), (ErrorCode::ConditionFailed, Outcome::NotApplied));
    (at.failed.condition, at.failed.present.map(|seq| seq.0))
}

fn written(response: Response) -> (u64, u64) {
    let Response::Written { first_seq, last_seq, .. } = response else { panic!("{response:?}") };
    (first_seq.0, last_seq.0)
}

impl World {
    fn lookups(&self) -> (u64, u64) {
        let stats = self.driver.node.stats(Nanos::ZERO).conditions;
        (stats.lookups, stats.keys)
    }
}

#[test]
fn a_write_is_applied_when_its_conditions_hold_at_its_place_in_the_log() {
    for machine in [MapMachine::new(), MapMachine::with_reads_on_disk()] {
        let mut world = World::with(1, machine, |_| {});
        world.driver.settle();
        let create = conditional(&[("k", Expect::Absent)], &[("k", "1")]);
        let origin = world.send(write(&create), 10_000);
        let (first, _) = written(world.answer(origin));
        let origin = world.send(write(&create), 10_000);
        assert_eq!(failure(world.answer(origin)), (0, Some(first)));
        // Three in one group: the second stands on what the first does, the third on what the second does not.
        let next = conditional(&[("k", seq(first))], &[("k", "2")]);
        let check = conditional(&[("k", Expect::Exists), ("none", Expect::Absent)], &[]);
        let origins = [&next, &next, &check].map(|batch| world.send(write(batch), 10_000));
        world.driver.settle();
        let [one, two, three] = origins.map(|origin| world.reply(origin).unwrap());
        let (second, last) = written(one);
        assert_eq!(second, last);
        assert_eq!(failure(two), (0, Some(second)));
        let (check_first, check_last) = written(three);
        assert_eq!(check_first, check_last + 1, "a check has no operations");
        assert_eq!(world.value("k").as_deref(), Some("2"));
    }
}

#[test]
fn a_run_of_conditional_writes_costs_one_job_and_each_sees_the_ones_before_it() {
    let mut world = World::with(2, MapMachine::with_reads_on_disk(), |_| {});
    world.driver.settle();
    let create = conditional(&[("a", Expect::Absent)], &[("a", "1")]);
    let first = world.send(write(&create), 10_000);
    let plain = world.put("b", "x");
    let delete = {
        let mut batch = conditional(&[("b", Expect::Exists)], &[]);
        batch.delete(b"b").unwrap();
        world.send(write(&batch), 10_000)
    };
    let gone = world.send(write(&conditional(&[("b", Expect::Absent)], &[("c", "y")])), 10_000);
    let again = world.send(write(&create), 10_000);
    assert_eq!(world.lookups(), (0, 0));
    world.driver.settle();
    let a = written(world.reply(first).unwrap()).0;
    for origin in [plain, delete, gone] {
        written(world.reply(origin).unwrap());
    }
    assert_eq!(failure(world.reply(again).unwrap()), (0, Some(a)));
    assert_eq!(world.lookups(), (1, 2), "a and b, in one job");
}

#[test]
fn nothing_behind_is_applied_while_the_disk_is_asked_and_reads_wait_for_it() {
    let mut world = World::with(3, MapMachine::with_reads_on_disk(), |_| {});
    world.driver.settle();
    let before = world.driver.node.applied();
    let cas = world.send(write(&conditional(&[("k", Expect::Absent)], &[("k", "1")])), 10_000);
    let behind = world.put("k", "2");
    world.driver.turn();
    while world.driver.run_lane(Lane::Log) {
        world.driver.turn();
    }
    assert_eq!(world.driver.node.applied(), before, "it waits for the lookup");
    assert!(world.reply(cas).is_none() && world.reply(behind).is_none());
    assert!(world.driver.run_lane(Lane::Read));
    world.driver.turn();
    assert_eq!(world.driver.node.applied().0, before.0 + 2);
    written(world.reply(cas).unwrap());
    written(world.reply(behind).unwrap());
}

#[test]
fn a_retry_is_told_that_its_condition_failed_even_when_it_would_hold_by_now() {
    let mut world = World::with(4, MapMachine::with_reads_on_disk(), |_| {});
    world.driver.settle();
    let origin = world.send(Request::Register, 10_000);
    let Response::Registered(session) = world.answer(origin) else { panic!() };
    let mut cas = conditional(&[("k", Expect::Exists)], &[("k", "mine")]);
    cas.set_client(session.client_id, 1, 1);
    let origin = world.send(write(&cas), 10_000);
    let first = world.answer(origin);
    let origin = world.put("k", "theirs");
    world.answer(origin);
    let origin = world.send(write(&cas), 10_000);
    assert_eq!(world.answer(origin), first, "the same answer, with its index");
    assert_eq!(failure(first), (0, None));
    assert_eq!(world.value("k").as_deref(), Some("theirs"));
    // And the other way round: what was applied once is told so, though its condition fails by now.
    let mut cas = conditional(&[("l", Expect::Absent)], &[("l", "mine")]);
    cas.set_client(session.client_id, 2, 2);
    let origin = world.send(write(&cas), 10_000);
    let first = world.answer(origin);
    let origin = world.send(write(&cas), 10_000);
    assert_eq!(world.answer(origin), first);
    written(first);
}

#[test]
fn a_replay_judges_as_the_first_time() {
    let batches = [
        put_batch("k", "1"),
        conditional(&[("k", seq(1))], &[("k", "2")]),
        conditional(&[("k", seq(1))], &[("k", "never")]),
        conditional(&[("k", seq(2)), ("l", Expect::Absent)], &[("l", "3")]),
    ];
    for machine in [MapMachine::new(), MapMachine::with_reads_on_disk()] {
        let mut world = World::over(5, machine, &batches, |config| config.observe = true);
        world.driver.settle();
        assert_eq!(world.value("k").as_deref(), Some("2"));
        assert_eq!(world.value("l").as_deref(), Some("3"));
        let failed = |o: &&Observed| {
            matches!(o, Observed::Applied { outcome: EntryOutcome::ConditionFailed(_), .. })
        };
        assert_eq!(world.driver.observed.iter().filter(failed).count(), 1);
    }
}

#[test]
fn the_answer_names_the_entry_and_the_state_it_was_judged_by() {
    let mut world = World::ready();
    let origin = world.put("k", "1");
    let Response::Written { last_seq, .. } = world.answer(origin) else { panic!() };
    let origin = world.send(write(&conditional(&[("k", Expect::Absent)], &[])), 10_000);
    let Response::Error(ErrorReply { condition, message, .. }) = world.answer(origin) else {
        panic!()
    };
    let Some(at) = condition else { panic!() };
    let ConditionFailed { index, applied, .. } = *at;
    assert_eq!((index, applied), (world.driver.node.applied(), last_seq));
    assert_eq!(message, format!("condition 0 does not hold: its key has seq {last_seq}"));
}
