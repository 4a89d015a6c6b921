//! Many seeds: workers that run whole seeds in child processes, the failures they find, and the sums.

use super::artifact::Artifact;
use super::check::history::{CHECKED, GAVE_UP};
use super::child::{Job, Worker, elapsed};
use super::hooks::{Marks, Violation};
use super::run::RunReport;
use super::shape::{Begin, RunOptions};
use super::shrink::shrink;
use beachdb::env::Clock;
use beachdb::env::os::OsClock;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A swarm of at least this many seeds fails when a mark was never hit.
pub const MARKS_NEED_SEEDS: u64 = 300;
/// A swarm of at least [`OPS_NEED_SEEDS`] seeds fails when fewer operations succeed per simulated second of faults.
pub const MIN_OPS_PER_SECOND: f64 = 10.0;
/// See [`MIN_OPS_PER_SECOND`].
pub const OPS_NEED_SEEDS: u64 = 20;
/// A swarm fails when its checker gave up on a larger share of the keys.
pub const GAVE_UP_AT_MOST_ONE_IN: u64 = 1_000;
/// Every so many seeds one is run twice: the hashes must be equal.
const TWICE_EVERY: u64 = 8;
/// A run that takes longer than this, in wall time and for each virtual minute, hangs: many times what it takes on a
/// machine with other work.
const PATIENCE: Duration = Duration::from_secs(120);
/// Failures after which a swarm gives up: there is enough to look at.
const MAX_FAILURES: usize = 10;

/// What to run.
#[derive(Clone, Debug)]
pub struct SwarmOptions {
    /// The first seed; the others follow.
    pub start_seed: u64,
    /// Stop after this much wall time …
    pub time: Option<Duration>,
    /// … or after this many seeds.
    pub seeds: Option<u64>,
    /// Nodes; `None`: 1 to 7, by seed.
    pub nodes: Option<usize>,
    /// How clusters begin; `None`: by seed.
    pub begin: Option<Begin>,
    /// Virtual minutes of faults.
    pub minutes: f64,
    /// Processes at once.
    pub jobs: usize,
    /// Run every seed twice.
    pub twice: bool,
    /// How long one failure may be shrunk.
    pub shrink: Duration,
    /// Where artifacts go.
    pub artifacts: PathBuf,
    /// Say how it goes on standard error.
    pub progress: bool,
}

/// A failed seed.
#[derive(Clone, PartialEq, Debug, serde::Serialize)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// What it broke, as it was found.
    pub violation: Violation,
    /// What runs it again.
    pub artifact: Option<PathBuf>,
}

/// The sums. Its JSON is what `--json` prints.
#[derive(Clone, PartialEq, Debug, Default, serde::Serialize)]
pub struct Summary {
    /// 1.
    pub schema: u32,
    /// Seeds without a violation.
    pub passed: u64,
    /// Seeds with one.
    pub failed: u64,
    /// Wall time.
    pub wall_seconds: f64,
    /// Virtual time, all runs together.
    pub virtual_seconds: f64,
    /// Turns, jobs, starts, and stops.
    pub events: u64,
    /// Operations answered with success.
    pub acknowledged: u64,
    /// How often each rare thing happened.
    pub marks: Marks,
    /// What went wrong.
    pub failures: Vec<Failure>,
    /// What the swarm as a whole lacks: marks never hit, too few operations.
    pub complaints: Vec<String>,
}

impl Summary {
    fn add(&mut self, report: &RunReport) {
        self.virtual_seconds += report.virtual_ns as f64 / 1e9;
        self.events += report.events;
        self.acknowledged += report.acknowledged;
        self.marks.merge(&report.marks);
    }

    /// Virtual hours per minute of wall time.
    #[must_use]
    pub fn hours_per_minute(&self) -> f64 {
        self.virtual_seconds / 60.0 / self.wall_seconds.max(1e-9)
    }

    /// Operations per virtual second.
    #[must_use]
    pub fn ops_per_second(&self) -> f64 {
        self.acknowledged as f64 / self.virtual_seconds.max(1e-9)
    }

    /// Whether nothing is wrong.
    #[must_use]
    pub const fn is_good(&self) -> bool {
        self.failed == 0 && self.complaints.is_empty()
    }

    fn complain(&mut self) {
        let seeds = self.passed + self.failed;
        if seeds >= OPS_NEED_SEEDS && self.ops_per_second() < MIN_OPS_PER_SECOND {
            let found = self.ops_per_second();
            self.complaints.push(format!(
                "only {found:.1} operations succeed per simulated second, at least {MIN_OPS_PER_SECOND} must"
            ));
        }
        let mark = |name| self.marks.0.get(name).copied().unwrap_or(0);
        let (gave_up, checked) = (mark(GAVE_UP), mark(CHECKED));
        // One is no share.
        if gave_up > 1 && gave_up * GAVE_UP_AT_MOST_ONE_IN > checked {
            self.complaints.push(format!(
                "the checker gave up on {gave_up} of {checked} keys, at most one in {GAVE_UP_AT_MOST_ONE_IN} may be so hard"
            ));
        }
        if seeds >= MARKS_NEED_SEEDS {
            let never = self.marks.0.iter().filter(|(_, times)| **times == 0);
            let names: Vec<&str> = never.map(|(name, _)| name.as_str()).collect();
            if !names.is_empty() {
                self.complaints.push(format!("never hit in {seeds} seeds: {}", names.join(", ")));
            }
        }
    }
}

struct Shared {
    options: SwarmOptions,
    clock: OsClock,
    next: AtomicU64,
    summary: Mutex<Summary>,
}

/// The nodes of a seed where the user did not choose: mostly three and five.
#[must_use]
pub const fn nodes_of(seed: u64) -> usize {
    [3, 5, 3, 5, 3, 4, 1, 3, 5, 3, 7, 5, 3, 2, 5, 6][(seed % 16) as usize]
}

/// How the cluster of a seed begins where the user did not choose: one in three forms itself, and in one of twelve nodes are
/// recovered.
#[must_use]
pub const fn begin_of(seed: u64, nodes: usize) -> Begin {
    match seed % 12 {
        _ if nodes == 1 => Begin::Given,
        1 => Begin::Recovers,
        0 | 3 | 6 | 9 => Begin::Forms,
        _ => Begin::Given,
    }
}

/// Runs a swarm to its end.
///
/// # Errors
/// No child can be started, or an artifact cannot be written.
pub fn swarm(options: SwarmOptions) -> io::Result<Summary> {
    let shared = Shared {
        next: AtomicU64::new(options.start_seed),
        clock: OsClock::new(),
        summary: Mutex::new(Summary { schema: 1, ..Summary::default() }),
        options,
    };
    let start = shared.clock.now();
    let results: Vec<io::Result<()>> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..shared.options.jobs).map(|_| scope.spawn(|| shared.work(start))).collect();
        threads
            .into_iter()
            .map(|t| t.join().unwrap_or_else(|_| Err(io::Error::other("a worker panicked"))))
            .collect()
    });
    results.into_iter().collect::<io::Result<()>>()?;
    let mut summary = shared.summary.into_inner().unwrap_or_else(PoisonError::into_inner);
    summary.wall_seconds = elapsed(&shared.clock, start).as_secs_f64();
    summary.complain();
    Ok(summary)
}

impl Shared {
    fn with_summary<T>(&self, run: impl FnOnce(&mut Summary) -> T) -> T {
        run(&mut self.summary.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The next seed, while there is time.
    fn next_seed(&self, start: beachdb::base::Nanos) -> Option<u64> {
        let o = &self.options;
        let late = o.time.is_some_and(|time| elapsed(&self.clock, start) >= time);
        let seed = self.next.fetch_add(1, Ordering::Relaxed);
        let enough = o.seeds.is_some_and(|seeds| seed - o.start_seed >= seeds);
        let bad = self.with_summary(|s| s.failures.len() >= MAX_FAILURES);
        (!late && !enough && !bad).then_some(seed)
    }

    fn work(&self, start: beachdb::base::Nanos) -> io::Result<()> {
        let mut worker = Worker::new(PATIENCE.mul_f64(self.options.minutes.max(1.0)));
        while let Some(seed) = self.next_seed(start) {
            let nodes = self.options.nodes.unwrap_or_else(|| nodes_of(seed));
            let begin = self.options.begin.unwrap_or_else(|| begin_of(seed, nodes));
            let options = RunOptions { seed, nodes, minutes: self.options.minutes, begin };
            let job = Job { options, plan: None };
            let mut report = worker.run(&job)?;
            if report.violation.is_none()
                && (self.options.twice || seed.is_multiple_of(TWICE_EVERY))
            {
                let again = worker.run(&job)?;
                if again.hash != report.hash || again.violation.is_some() {
                    let what = format!("hashes {:016x} and {:016x}", report.hash, again.hash);
                    report.violation = Some(Violation::new("nondeterminism", what));
                }
            }
            self.with_summary(|s| s.add(&report));
            match report.violation.clone() {
                None => self.with_summary(|s| s.passed += 1),
                Some(violation) => self.fail(&mut worker, report, violation)?,
            }
            self.progress(start);
        }
        Ok(())
    }

    fn fail(&self, worker: &mut Worker, report: RunReport, violation: Violation) -> io::Result<()> {
        let seed = report.options.seed;
        if self.options.progress {
            eprintln!("seed {seed}: {violation}");
        }
        let plan =
            if report.plan.is_empty() { own_plan(&report.options) } else { report.plan.clone() };
        let begin = self.clock.now();
        let mut goes_on = || elapsed(&self.clock, begin) < self.options.shrink;
        let artifact =
            if goes_on() && violation.rule != "hang" && violation.rule != "nondeterminism" {
                let mut runner = |job: &Job| Ok(worker.run(job)?.violation);
                let small = shrink(&mut runner, &report, plan, violation.clone(), &mut goes_on)?;
                Artifact::new(small.options, small.plan, small.violation)
            } else {
                Artifact::new(report.options, plan, violation.clone())
            };
        let path = artifact.save(&self.options.artifacts)?;
        self.with_summary(|s| {
            s.failed += 1;
            s.failures.push(Failure { seed, violation, artifact: Some(path) });
        });
        Ok(())
    }

    fn progress(&self, start: beachdb::base::Nanos) {
        if !self.options.progress {
            return;
        }
        let wall = elapsed(&self.clock, start).as_secs_f64();
        self.with_summary(|s| {
            let seeds = s.passed + s.failed;
            if seeds.is_multiple_of(20) {
                s.wall_seconds = wall;
                eprintln!(
                    "{seeds} seeds, {} failed, {:.0} s: {:.1} seeds/min, {:.2} cluster-hours/min, {:.0} ops per simulated second",
                    s.failed,
                    wall,
                    seeds as f64 * 60.0 / wall,
                    s.hours_per_minute(),
                    s.ops_per_second()
                );
            }
        });
    }
}

/// The schedule that a seed draws: what a child that died could not say.
fn own_plan(options: &RunOptions) -> Vec<super::faults::TimedFault> {
    super::world::plan_of(options)
}
