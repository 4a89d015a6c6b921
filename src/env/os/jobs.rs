//! [`OsJobs`]: a queue and a thread for each [`Lane`].
//!
//! ```text
//! submit ──► queue of the lane ──► its thread runs the job ──► completions ──► wake() ──► poll
//! ```
//!
//! Invariants: jobs of one lane run in the order of their submission, one at a time ([`Lane::Read`]: two at a
//! time); a lane never waits for another; every submitted job runs, also when the `OsJobs` is dropped first.
//! What it does not do: bound the queues. Whoever submits has a bound of its own (one log group in flight, one
//! flush at a time, parked reads counted as requests).

use crate::base::Nanos;
use crate::env::{Clock, Completion, Job, JobId, Jobs, Lane};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Threads of [`Lane::Read`] and [`Lane::Names`], the only lanes with more than one: their jobs have no order among them.
const UNORDERED_THREADS: usize = 2;

/// Helper threads.
pub struct OsJobs {
    shared: Arc<Shared>,
    lanes: [Arc<LaneQueue>; Lane::ALL.len()],
    next_id: AtomicU64,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What the threads share with their owner.
struct Shared {
    clock: Arc<dyn Clock>,
    wake: Arc<dyn Fn() + Send + Sync>,
    finished: Mutex<Vec<Completion>>,
    finished_changed: Condvar,
    /// Length of `finished`, to be read without the mutex.
    ready: AtomicUsize,
    /// Submitted and not yet polled.
    outstanding: AtomicUsize,
}

#[derive(Default)]
struct LaneQueue {
    state: Mutex<LaneState>,
    changed: Condvar,
}

#[derive(Default)]
struct LaneState {
    queue: VecDeque<Queued>,
    started: bool,
    closing: bool,
}

struct Queued {
    id: JobId,
    job: Job,
    submitted_at: Nanos,
}

/// The guarded values stay consistent at every step, so a panic elsewhere is no reason to fail here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl OsJobs {
    /// Lanes without threads yet; `wake` is called by a helper thread after each completion and must not block.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, wake: Arc<dyn Fn() + Send + Sync>) -> Self {
        Self {
            shared: Arc::new(Shared {
                clock,
                wake,
                finished: Mutex::new(Vec::new()),
                finished_changed: Condvar::new(),
                ready: AtomicUsize::new(0),
                outstanding: AtomicUsize::new(0),
            }),
            lanes: std::array::from_fn(|_| Arc::default()),
            next_id: AtomicU64::new(1),
            threads: Mutex::new(Vec::new()),
        }
    }

    fn start(&self, lane: Lane) {
        let count = if lane.is_unordered() { UNORDERED_THREADS } else { 1 };
        for n in 0..count {
            let (queue, shared) =
                (Arc::clone(&self.lanes[lane as usize]), Arc::clone(&self.shared));
            let name = if count == 1 {
                format!("lane-{}", lane.name())
            } else {
                format!("lane-{}-{n}", lane.name())
            };
            let thread = std::thread::Builder::new()
                .name(name)
                .spawn(move || run_lane(lane, &queue, &shared))
                .unwrap_or_else(|e| {
                    // Without its lanes the process can neither write nor stop cleanly.
                    eprintln!(
                        "beachdb: cannot start the helper thread of lane {}: {e}",
                        lane.name()
                    );
                    std::process::abort()
                });
            lock(&self.threads).push(thread);
        }
    }
}

/// The life of a lane's thread: run what is queued, leave when the queue is empty and closing.
fn run_lane(lane: Lane, queue: &LaneQueue, shared: &Shared) {
    while let Some(Queued { id, job, submitted_at }) = queue.next() {
        let started_at = shared.clock.now();
        // A job works on data that others will trust. If it panicked, nothing after it may run (the panic hook
        // has printed the message and the place).
        let output = catch_unwind(AssertUnwindSafe(job)).unwrap_or_else(|_| {
            eprintln!("beachdb: a job of lane {} panicked; the process stops", lane.name());
            std::process::abort()
        });
        let finished_at = shared.clock.now();
        shared.finish(Completion { id, lane, output, submitted_at, started_at, finished_at });
    }
}

impl LaneQueue {
    /// The next job; `None` when the lane is closed and empty.
    fn next(&self) -> Option<Queued> {
        let mut state = lock(&self.state);
        loop {
            if let Some(job) = state.queue.pop_front() {
                return Some(job);
            }
            if state.closing {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Shared {
    fn finish(&self, completion: Completion) {
        let mut finished = lock(&self.finished);
        finished.push(completion);
        self.ready.store(finished.len(), Ordering::Release);
        drop(finished);
        self.finished_changed.notify_all();
        (self.wake)();
    }
}

impl Jobs for OsJobs {
    fn submit(&self, lane: Lane, job: Job) -> JobId {
        let id = JobId(self.next_id.fetch_add(1, Ordering::Relaxed));
        self.shared.outstanding.fetch_add(1, Ordering::Relaxed);
        let queue = &self.lanes[lane as usize];
        let submitted_at = self.shared.clock.now();
        let mut state = lock(&queue.state);
        state.queue.push_back(Queued { id, job, submitted_at });
        let start = !std::mem::replace(&mut state.started, true);
        drop(state);
        if start {
            self.start(lane);
        }
        queue.changed.notify_one();
        id
    }

    fn poll(&self, out: &mut Vec<Completion>) {
        if !self.has_completions() {
            return;
        }
        let mut finished = lock(&self.shared.finished);
        self.shared.outstanding.fetch_sub(finished.len(), Ordering::Relaxed);
        out.append(&mut finished);
        self.shared.ready.store(0, Ordering::Release);
    }

    fn wait(&self, timeout: Duration) -> bool {
        // A timeout too long to be a point in time means "for ever".
        let deadline = Instant::now().checked_add(timeout);
        let mut finished = lock(&self.shared.finished);
        loop {
            if !finished.is_empty() {
                return true;
            }
            if self.outstanding() == 0 {
                return false;
            }
            let left =
                deadline.map_or(Duration::MAX, |d| d.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return false;
            }
            let (guard, _) = self
                .shared
                .finished_changed
                .wait_timeout(finished, left.min(Duration::from_secs(3600)))
                .unwrap_or_else(PoisonError::into_inner);
            finished = guard;
        }
    }

    fn has_completions(&self) -> bool {
        self.shared.ready.load(Ordering::Acquire) > 0
    }

    fn outstanding(&self) -> usize {
        self.shared.outstanding.load(Ordering::Relaxed)
    }
}

impl Drop for OsJobs {
    /// Runs out the queues and joins the threads; completions nobody polled are dropped.
    fn drop(&mut self) {
        for lane in &self.lanes {
            lock(&lane.state).closing = true;
            lane.changed.notify_all();
        }
        for thread in lock(&self.threads).drain(..) {
            // A lane's thread aborts the process instead of panicking.
            if thread.join().is_err() {
                eprintln!("beachdb: a helper thread ended in a panic");
            }
        }
    }
}

impl std::fmt::Debug for OsJobs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OsJobs").field("outstanding", &self.outstanding()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::os::OsClock;
    use std::sync::mpsc;

    fn jobs(wake: Arc<dyn Fn() + Send + Sync>) -> OsJobs {
        OsJobs::new(Arc::new(OsClock::new()), wake)
    }

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn jobs_of_a_lane_run_in_order_and_each_completion_wakes() {
        let wakes = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&wakes);
        let jobs = jobs(Arc::new(move || {
            counter.fetch_add(1, Ordering::SeqCst);
        }));
        let ids: Vec<JobId> =
            (0..100_u64).map(|n| jobs.submit(Lane::Log, Box::new(move || Box::new(n)))).collect();
        let mut done = Vec::new();
        while done.len() < 100 {
            assert!(jobs.wait(LONG));
            jobs.poll(&mut done);
        }
        for (n, completion) in done.into_iter().enumerate() {
            assert_eq!(completion.id, ids[n]);
            assert_eq!(completion.lane, Lane::Log);
            assert!(completion.submitted_at <= completion.started_at);
            assert!(completion.started_at <= completion.finished_at);
            assert_eq!(completion.output.downcast::<u64>().ok().map(|v| *v), Some(n as u64));
        }
        assert_eq!(jobs.outstanding(), 0);
        assert!(!jobs.wait(LONG), "nothing is outstanding: returns at once");
        drop(jobs);
        assert_eq!(wakes.load(Ordering::SeqCst), 100);
    }

    #[test]
    fn a_blocked_lane_delays_no_other_lane() {
        let jobs = jobs(Arc::new(|| {}));
        let (release, blocked) = mpsc::channel::<()>();
        jobs.submit(Lane::Compact, Box::new(move || Box::new(blocked.recv())));
        for lane in Lane::ALL {
            if lane == Lane::Compact {
                continue;
            }
            let id = jobs.submit(lane, Box::new(|| Box::new(())));
            assert!(jobs.wait(LONG));
            let mut done = Vec::new();
            jobs.poll(&mut done);
            assert_eq!(done.iter().map(|c| c.id).collect::<Vec<_>>(), [id]);
        }
        assert_eq!(jobs.outstanding(), 1);
        assert!(!jobs.wait(Duration::from_millis(5)), "the blocked one is not done");
        release.send(()).expect("the job waits");
        assert!(jobs.wait(LONG));
    }

    #[test]
    fn dropping_runs_out_the_queues() {
        let ran = Arc::new(AtomicUsize::new(0));
        let jobs = jobs(Arc::new(|| {}));
        for lane in Lane::ALL {
            for _ in 0..50 {
                let ran = Arc::clone(&ran);
                jobs.submit(lane, Box::new(move || Box::new(ran.fetch_add(1, Ordering::SeqCst))));
            }
        }
        drop(jobs);
        assert_eq!(ran.load(Ordering::SeqCst), 50 * Lane::ALL.len());
    }

    /// Not a test of its own: the process that `a_panicking_job_stops_the_process` watches.
    #[test]
    #[ignore = "started by a_panicking_job_stops_the_process"]
    fn panic_in_a_job() {
        let jobs = jobs(Arc::new(|| {}));
        jobs.submit(Lane::Log, Box::new(|| panic!("the job's own message")));
        jobs.wait(LONG);
    }

    #[test]
    fn a_panicking_job_stops_the_process() {
        let output = std::process::Command::new(std::env::current_exe().expect("this test binary"))
            .args(["--exact", "env::os::jobs::tests::panic_in_a_job", "--ignored", "--nocapture"])
            .output()
            .expect("start this binary");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success());
        assert_eq!(output.status.code(), None, "ended by SIGABRT: {text}");
        assert!(text.contains("the job's own message"), "{text}");
        assert!(text.contains("a job of lane log panicked; the process stops"), "{text}");
    }
}
