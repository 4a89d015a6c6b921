//! One run of one seed: the world, its end, and what is told about it.

use super::faults::TimedFault;
use super::hooks::{Harness, Marks, Setup, Violation};
use super::shape::RunOptions;
use super::world::World;
use beachdb::base::Nanos;

/// What came of a run. Everything in it follows from the seed (and the plan), and from nothing else.
#[derive(Clone, PartialEq, Debug, serde::Serialize, serde::Deserialize)]
pub struct RunReport {
    /// What was run.
    pub options: RunOptions,
    /// What went wrong; `None`: nothing.
    pub violation: Option<Violation>,
    /// Of every event and effect.
    pub hash: u64,
    /// How long it was, virtually, in nanoseconds.
    pub virtual_ns: u64,
    /// Turns, jobs, starts, and stops.
    pub events: u64,
    /// Operations answered with success.
    pub acknowledged: u64,
    /// Rare things, by name.
    pub marks: Marks,
    /// The schedule of the faults.
    pub plan: Vec<TimedFault>,
}

/// Runs. `plan` takes the place of the seed's own schedule of faults; with `text` the trace goes to stdout.
#[must_use]
pub fn run(
    options: &RunOptions,
    plan: Option<Vec<TimedFault>>,
    harness: impl FnOnce(&Setup) -> Harness,
    text: bool,
) -> RunReport {
    let mut world = World::new(options, plan, harness, text);
    let end = Nanos(options.duration_ns());
    let verdict = world.run_until(end).and_then(|()| world.finish());
    world.report(options, verdict.err())
}

impl World {
    fn report(&self, options: &RunOptions, violation: Option<Violation>) -> RunReport {
        let core = &self.core;
        let mut marks = Marks::default();
        for class in super::faults::classes().chain([super::faults::STRANGER]) {
            marks.add(&format!("fault: {class}"), core.struck.get(class).copied().unwrap_or(0));
        }
        let others = [
            super::strike::TRANSFER_IN_PARTITION,
            super::rot::REJOINED,
            super::rot::REJOIN_CRASHED,
            super::copies::RESTORED,
            super::copies::RESTORE_CRASHED,
        ];
        for what in super::rot::ROTTEN.into_iter().chain(others) {
            marks.add(what, core.struck.get(what).copied().unwrap_or(0));
        }
        // Too rare to be asked of every swarm.
        for what in
            [super::ending::GIVEN_UP, super::recover::RECOVERED, super::recover::RECOVER_CRASHED]
        {
            if let Some(times) = core.struck.get(what) {
                marks.add(what, *times);
            }
        }
        marks.add("operator: done", core.operator.done);
        marks.add("operator: refused", core.operator.refused);
        self.observer.marks(&mut marks);
        RunReport {
            options: options.clone(),
            violation,
            hash: core.tracer.hash(),
            virtual_ns: core.now.0,
            events: core.tracer.events(),
            acknowledged: self.clients.acknowledged(),
            marks,
            plan: core.faults.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::steady;

    fn options(seed: u64, nodes: usize) -> RunOptions {
        RunOptions::given(seed, nodes, 0.2)
    }

    #[test]
    fn the_same_seed_gives_the_same_run_and_another_one_does_not() {
        let one = run(&options(1, 1), None, steady::harness, false);
        assert_eq!(run(&options(1, 1), None, steady::harness, false), one);
        assert_ne!(run(&options(2, 1), None, steady::harness, false).hash, one.hash);
    }

    #[test]
    fn nodes_that_are_alone_survive_every_fault() {
        for seed in 0..20 {
            let report = run(&options(seed, 1), None, steady::harness, false);
            assert_eq!(report.violation, None, "seed {seed}");
            assert!(report.acknowledged > 10, "seed {seed}: {}", report.acknowledged);
        }
    }
}
