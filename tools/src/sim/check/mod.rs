//! What judges a simulated run, and what gives it something to do.
//!
//! ```text
//!   Users ── requests ──► world ──► nodes ── effects ──► Judge ── every step: elections, log, commit, promises
//!     │                                                    │
//!     └── what was asked and answered ──► History ◄── what was committed and applied ──┘
//!                                           │ Model: the one log, every key's versions: each reply at its place
//!                                           └ register: linearizability of each key, at the end
//! ```
//!
//! Two kinds of checks, on purpose: the black box ([`register`]) knows only questions, answers, and times; the total
//! order ([`model`], [`history`]) believes the numbers in the replies and compares everything at its place. What
//! one of them is blind to, the other sees.

pub mod confirmed;
pub mod content;
pub mod formation;
pub mod history;
pub mod judge;
pub mod marks;
pub mod model;
pub mod register;
pub mod sessions;
pub mod users;

use super::hooks::{Harness, Setup};
use super::shape::Begin;
use std::cell::RefCell;
use std::rc::Rc;

/// The judge and the users of one run.
#[must_use]
pub fn harness(setup: &Setup) -> Harness {
    if setup.begin == Begin::Recovers {
        return formation::harness(setup);
    }
    let history = Rc::new(RefCell::new(history::History::new(setup.max_sessions)));
    Harness {
        observer: Box::new(judge::Judge::new(setup, Rc::clone(&history))),
        clients: Box::new(users::Users::new(setup, history)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::run::run;
    use crate::sim::shape::RunOptions;

    #[test]
    fn nodes_that_are_alone_keep_every_rule() {
        for seed in 0..12 {
            let options = RunOptions::given(seed, 1, 0.2);
            let report = run(&options, None, harness, false);
            assert_eq!(report.violation, None, "seed {seed}");
            assert!(report.acknowledged > 10, "seed {seed}: {}", report.acknowledged);
        }
    }

    #[test]
    fn three_nodes_keep_every_rule() {
        for seed in 0..6 {
            let options = RunOptions::given(seed, 3, 0.2);
            let report = run(&options, None, harness, false);
            assert_eq!(report.violation, None, "seed {seed}");
            assert!(report.acknowledged > 100, "seed {seed}: {}", report.acknowledged);
        }
    }
}
