//! [`SimJobs`]: jobs run on the caller's thread, at the moment the test chooses.

use super::{SimClock, SimRandom};
use crate::base::Nanos;
use crate::env::{Clock, Completion, Job, JobId, Jobs, Lane};
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Simulated helper lanes: order within a lane is the order of submission, order across lanes comes from the
/// seed. Nothing runs until [`SimJobs::run_one`], [`SimJobs::run_all`], or [`Jobs::wait`]. Clones share the queues.
///
/// A job that panics panics the test. A job may submit jobs.
#[derive(Clone, Debug)]
pub struct SimJobs {
    clock: SimClock,
    state: Arc<Mutex<State>>,
}

struct State {
    random: SimRandom,
    next_id: u64,
    queues: [VecDeque<(JobId, Job, Nanos)>; Lane::ALL.len()],
    held: BTreeSet<Lane>,
    finished: Vec<Completion>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let queued: usize = self.queues.iter().map(VecDeque::len).sum();
        f.debug_struct("State")
            .field("queued", &queued)
            .field("finished", &self.finished.len())
            .field("held", &self.held)
            .finish_non_exhaustive()
    }
}

impl SimJobs {
    /// Empty lanes; completions carry the time of `clock`.
    #[must_use]
    pub fn new(clock: SimClock, seed: u64) -> Self {
        let state = State {
            random: SimRandom::new(seed),
            next_id: 1,
            queues: std::array::from_fn(|_| VecDeque::new()),
            held: BTreeSet::new(),
            finished: Vec::new(),
        };
        Self { clock, state: Arc::new(Mutex::new(state)) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs one queued job of a lane chosen by the seed; false when none may run.
    pub fn run_one(&self) -> bool {
        let mut state = self.lock();
        let ready: Vec<Lane> = Lane::ALL
            .into_iter()
            .filter(|lane| !state.queues[*lane as usize].is_empty() && !state.held.contains(lane))
            .collect();
        if ready.is_empty() {
            return false;
        }
        let lane = ready[state.random.below(ready.len() as u64) as usize];
        drop(state);
        self.run_lane(lane)
    }

    /// Runs the next queued job of `lane`, held or not; false when it has none.
    pub fn run_lane(&self, lane: Lane) -> bool {
        let Some((id, job, submitted_at)) = self.lock().queues[lane as usize].pop_front() else {
            return false;
        };
        let started_at = self.clock.now();
        // Without the lock: the job may submit jobs.
        let output = job();
        let finished_at = self.clock.now();
        self.lock().finished.push(Completion {
            id,
            lane,
            output,
            submitted_at,
            started_at,
            finished_at,
        });
        true
    }

    /// Runs queued jobs, also those that they submit, until none may run; returns how many ran.
    pub fn run_all(&self) -> usize {
        let mut ran = 0;
        while self.run_one() {
            ran += 1;
        }
        ran
    }

    /// A held lane is a hung disk: its jobs stay queued until it is released.
    pub fn hold(&self, lane: Lane, held: bool) {
        let mut state = self.lock();
        if held {
            state.held.insert(lane);
        } else {
            state.held.remove(&lane);
        }
    }

    /// Jobs queued in `lane` and not yet run.
    #[must_use]
    pub fn queued(&self, lane: Lane) -> usize {
        self.lock().queues[lane as usize].len()
    }

    /// The process died: drops what is queued and what is finished without running or delivering it.
    pub fn abandon(&self) {
        let (queues, finished) = {
            let mut state = self.lock();
            let queues: Vec<_> = state.queues.iter_mut().map(std::mem::take).collect();
            (queues, std::mem::take(&mut state.finished))
        };
        // Dropped without the lock: a job may own something whose drop submits.
        drop((queues, finished));
    }
}

impl Jobs for SimJobs {
    fn submit(&self, lane: Lane, job: Job) -> JobId {
        let now = self.clock.now();
        let mut state = self.lock();
        let id = JobId(state.next_id);
        state.next_id += 1;
        state.queues[lane as usize].push_back((id, job, now));
        id
    }

    fn poll(&self, out: &mut Vec<Completion>) {
        out.append(&mut self.lock().finished);
    }

    /// Runs the next job instead of blocking. When every queued job is in a held lane, `timeout` passes on the
    /// virtual clock.
    fn wait(&self, timeout: Duration) -> bool {
        if self.has_completions() || self.run_one() {
            return true;
        }
        if self.outstanding() > 0 {
            self.clock.advance(u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX));
        }
        false
    }

    fn has_completions(&self) -> bool {
        !self.lock().finished.is_empty()
    }

    fn outstanding(&self) -> usize {
        let state = self.lock();
        state.finished.len() + state.queues.iter().map(VecDeque::len).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order_of(seed: u64) -> Vec<(Lane, u64)> {
        let jobs = SimJobs::new(SimClock::new(), seed);
        for n in 0..20_u64 {
            jobs.submit(Lane::Log, Box::new(move || Box::new(n)));
            jobs.submit(Lane::Flush, Box::new(move || Box::new(n)));
        }
        assert_eq!(jobs.run_all(), 40);
        let mut done = Vec::new();
        jobs.poll(&mut done);
        done.into_iter().map(|c| (c.lane, *c.output.downcast::<u64>().expect("a number"))).collect()
    }

    #[test]
    fn lanes_are_fifo_and_their_interleaving_comes_from_the_seed() {
        let order = order_of(1);
        for lane in [Lane::Log, Lane::Flush] {
            let of_lane: Vec<u64> =
                order.iter().filter(|(l, _)| *l == lane).map(|(_, n)| *n).collect();
            assert_eq!(of_lane, (0..20).collect::<Vec<_>>());
        }
        assert_eq!(order, order_of(1));
        assert_ne!(order, order_of(2));
    }

    #[test]
    fn nothing_runs_before_it_is_told_to() {
        let jobs = SimJobs::new(SimClock::new(), 1);
        jobs.submit(Lane::Log, Box::new(|| Box::new(())));
        assert!(!jobs.has_completions());
        assert_eq!((jobs.outstanding(), jobs.queued(Lane::Log)), (1, 1));
        assert!(jobs.wait(Duration::ZERO), "wait runs it");
        assert_eq!((jobs.outstanding(), jobs.queued(Lane::Log)), (1, 0));
        jobs.poll(&mut Vec::new());
        assert_eq!(jobs.outstanding(), 0);
        assert!(!jobs.wait(Duration::ZERO));
    }

    #[test]
    fn a_held_lane_waits_while_time_passes() {
        let clock = SimClock::new();
        let jobs = SimJobs::new(clock.clone(), 1);
        jobs.hold(Lane::Log, true);
        jobs.submit(Lane::Log, Box::new(|| Box::new(())));
        assert!(!jobs.wait(Duration::from_millis(5)));
        assert_eq!(clock.now(), Nanos::from_millis(5));
        jobs.submit(Lane::Read, Box::new(|| Box::new(())));
        assert_eq!(jobs.run_all(), 1);
        jobs.hold(Lane::Log, false);
        assert_eq!(jobs.run_all(), 1);
    }

    #[test]
    fn a_job_may_submit_jobs_and_a_dead_process_runs_none() {
        let jobs = SimJobs::new(SimClock::new(), 1);
        let inner = jobs.clone();
        let outer: Job =
            Box::new(move || Box::new(inner.submit(Lane::Log, Box::new(|| Box::new(())))));
        jobs.submit(Lane::Flush, outer);
        assert_eq!(jobs.run_all(), 2);
        jobs.submit(Lane::Flush, Box::new(|| panic!("the process is dead")));
        jobs.abandon();
        assert_eq!((jobs.run_all(), jobs.outstanding()), (0, 0));
    }
}
