//! The hunt: each planted bug ([`beachdb::base::planted`]) must be found by the same seeds, faults, and checks that a
//! swarm has. A bug that no seed finds is a hole in the simulator.
//!
//! Only in a build with `--cfg beach_planted`. Each bug has child processes of its own in which it is awake
//! (`beach-sim worker --planted NAME`); the seeds are those of [`nodes_of`], from 1 on, until one of them breaks a rule.

#![expect(
    clippy::disallowed_methods,
    reason = "a program of this machine: threads that wait for child processes"
)]

use super::child::{Job, Worker, elapsed};
use super::shape::RunOptions;
use super::swarm::{begin_of, nodes_of};
use beachdb::base::planted::Bug;
use beachdb::env::Clock;
use beachdb::env::os::OsClock;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A run that takes longer than this, in wall time, hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long to hunt, and how.
#[derive(Clone, Debug)]
pub struct HuntOptions {
    /// Which bugs.
    pub bugs: Vec<Bug>,
    /// Wall time for one bug.
    pub time: Duration,
    /// Virtual minutes of faults of a seed.
    pub minutes: f64,
    /// Bugs hunted at once.
    pub jobs: usize,
    /// The first seed.
    pub start_seed: u64,
    /// Whether to say how it goes, on standard error.
    pub progress: bool,
}

/// What became of one hunt.
#[derive(Clone, PartialEq, Debug, serde::Serialize)]
pub struct Hunt {
    /// The bug's name.
    pub bug: &'static str,
    /// What it does wrong.
    pub what: &'static str,
    /// The rule that found it; `None`: nothing did.
    pub found_by: Option<String>,
    /// What was seen.
    pub seen: String,
    /// Seeds run, the last one found it.
    pub seeds: u64,
    /// Wall time.
    pub seconds: f64,
    /// Virtual time.
    pub virtual_seconds: f64,
}

/// Hunts all bugs, in the order of the list.
///
/// # Errors
/// No child process can be started, or one cannot be understood.
pub fn hunt_all(options: &HuntOptions) -> io::Result<Vec<Hunt>> {
    let next = AtomicUsize::new(0);
    let hunts = Mutex::new(Vec::new());
    let work = || -> io::Result<()> {
        while let Some(bug) = options.bugs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let hunt = hunt(*bug, options)?;
            if options.progress {
                eprintln!("{}", line(&hunt));
            }
            hunts.lock().unwrap_or_else(PoisonError::into_inner).push((*bug, hunt));
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..options.jobs.max(1)).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|w| {
            w.join().unwrap_or_else(|_| Err(io::Error::other("a thread of the hunt panicked")))
        })
    })?;
    let mut hunts = hunts.into_inner().unwrap_or_else(PoisonError::into_inner);
    hunts.sort_by_key(|(bug, _)| *bug);
    Ok(hunts.into_iter().map(|(_, hunt)| hunt).collect())
}

fn hunt(bug: Bug, options: &HuntOptions) -> io::Result<Hunt> {
    let clock = OsClock::new();
    let began = clock.now();
    let mut worker = Worker::with_planted(PATIENCE, bug.name());
    let mut hunt = Hunt {
        bug: bug.name(),
        what: bug.what(),
        found_by: None,
        seen: String::new(),
        seeds: 0,
        seconds: 0.0,
        virtual_seconds: 0.0,
    };
    while hunt.found_by.is_none() && elapsed(&clock, began) < options.time {
        let seed = options.start_seed + hunt.seeds;
        let nodes = nodes_of(seed);
        let run =
            RunOptions { seed, nodes, minutes: options.minutes, begin: begin_of(seed, nodes) };
        let report = worker.run(&Job { options: run, plan: None })?;
        hunt.seeds += 1;
        hunt.virtual_seconds += report.virtual_ns as f64 / 1e9;
        if let Some(violation) = report.violation {
            hunt.found_by = Some(violation.rule);
            hunt.seen = format!("seed {seed}: {}", violation.what);
        }
        hunt.seconds = elapsed(&clock, began).as_secs_f64();
    }
    Ok(hunt)
}

/// One line for people.
#[must_use]
pub fn line(hunt: &Hunt) -> String {
    let found = hunt.found_by.as_deref().unwrap_or("NOT FOUND");
    let seen: String = hunt.seen.chars().filter(|c| *c != '\n').take(220).collect();
    format!("{:26} {found:38} {:5} seeds {:7.1} s  {seen}", hunt.bug, hunt.seeds, hunt.seconds)
}

/// The table of `loadgen/RESULTS.md`.
#[must_use]
pub fn table(hunts: &[Hunt]) -> String {
    let mut text = String::from(
        "| bug | what is wrong | found by | seeds | seconds |\n|---|---|---|---|---|\n",
    );
    for h in hunts {
        let found = h.found_by.as_deref().unwrap_or("**not found**");
        let row =
            format!("| {} | {} | {found} | {} | {:.1} |\n", h.bug, h.what, h.seeds, h.seconds);
        text.push_str(&row);
    }
    text
}
