//! The simulated world: virtual time, seeded randomness, jobs that run when the test says so, and a disk that
//! crashes honestly.
//!
//! Everything here is deterministic: the same seed and the same calls give the same outcome, on every platform.
//! The pieces: [`SimClock`], [`SimRandom`], [`SimDisk`] (what the model covers is said in [`disk`]'s header),
//! [`SimJobs`].
//!
//! ```
//! use beachdb::env::{Disk, OpenMode, sim::{self, CrashKind}};
//! use std::path::Path;
//!
//! let (env, sim) = sim::env(7);
//! env.disk.create_dir_all(Path::new("db"))?;
//! let file = env.disk.open(Path::new("db/a"), OpenMode::CreateNew)?;
//! file.write_at(0, b"hello")?;
//! file.sync_data()?;
//! env.disk.sync_dir(Path::new("db"))?;
//! sim.disk.crash(CrashKind::PowerLoss);
//! assert!(file.sync_data().unwrap_err().is_simulated_crash());
//! sim.disk.restart();
//! assert_eq!(sim.disk.read_file("db/a").as_deref(), Some(&b"hello"[..]));
//! # Ok::<(), beachdb::env::IoError>(())
//! ```

#[cfg(test)]
mod crash_tests;
pub mod disk;
mod faults;
mod file;
mod jobs;
mod names;

pub use disk::{CrashKind, SimDisk};
pub use faults::{FailKind, FailOn, FailPoint, OpKind};
pub use jobs::SimJobs;

use super::{Clock, Env, Random};
use crate::base::Nanos;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, SeedableRng};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Virtual time: it stands still until somebody moves it. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct SimClock {
    now: Arc<AtomicU64>,
}

impl SimClock {
    /// A clock at zero.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
    /// Moves time on.
    pub fn advance(&self, ns: u64) {
        self.now.fetch_add(ns, Ordering::SeqCst);
    }
    /// Moves time on to `to`; no effect when `to` is in the past.
    pub fn advance_to(&self, to: Nanos) {
        self.now.fetch_max(to.0, Ordering::SeqCst);
    }
}

impl Clock for SimClock {
    fn now(&self) -> Nanos {
        Nanos(self.now.load(Ordering::SeqCst))
    }
}

/// Seeded random numbers: xoshiro256++, whose stream is part of its definition, so that a seed noted years ago
/// still replays.
#[derive(Clone, Debug)]
pub struct SimRandom {
    generator: Xoshiro256PlusPlus,
}

impl SimRandom {
    /// The stream of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { generator: Xoshiro256PlusPlus::seed_from_u64(seed) }
    }
    /// A number in `0..bound`; 0 when `bound` is 0. The bias is below `bound` / 2^64.
    pub fn below(&mut self, bound: u64) -> u64 {
        let wide = u128::from(self.generator.next_u64()) * u128::from(bound);
        (wide >> 64) as u64
    }
    /// True in `numerator` of `denominator` cases.
    pub fn chance(&mut self, numerator: u64, denominator: u64) -> bool {
        self.below(denominator) < numerator
    }
    /// A generator of its own, seeded from this one.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Self::new(self.generator.next_u64())
    }
}

impl Random for SimRandom {
    fn next_u64(&mut self) -> u64 {
        self.generator.next_u64()
    }
}

/// The simulated pieces behind an [`Env`], for the test to steer.
#[derive(Clone, Debug)]
pub struct SimHandles {
    /// Virtual time.
    pub clock: SimClock,
    /// The disk.
    pub disk: SimDisk,
    /// The helper lanes.
    pub jobs: SimJobs,
}

impl SimHandles {
    /// The world of these pieces: what is steered here is seen there.
    #[must_use]
    pub fn env(&self) -> Env {
        Env {
            clock: Arc::new(self.clock.clone()),
            disk: Arc::new(self.disk.clone()),
            jobs: Arc::new(self.jobs.clone()),
        }
    }
}

/// A simulated world.
#[must_use]
pub fn env(seed: u64) -> (Env, SimHandles) {
    let mut random = SimRandom::new(seed);
    let clock = SimClock::new();
    let disk = SimDisk::new(random.next_u64());
    let jobs = SimJobs::new(clock.clone(), random.next_u64());
    let handles = SimHandles { clock, disk, jobs };
    (handles.env(), handles)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_of_a_seed_never_changes() {
        let mut random = SimRandom::new(1);
        assert_eq!(random.next_u64(), SimRandom::new(1).next_u64());
        assert_ne!(SimRandom::new(1).next_u64(), SimRandom::new(2).next_u64());
    }

    #[test]
    fn below_stays_below_and_reaches_every_value() {
        let mut random = SimRandom::new(3);
        let mut seen = [false; 7];
        for _ in 0..1000 {
            seen[random.below(7) as usize] = true;
        }
        assert_eq!(seen, [true; 7]);
        assert_eq!(random.below(0), 0);
    }

    #[test]
    fn time_moves_only_forward_and_only_when_told() {
        let clock = SimClock::new();
        assert_eq!(clock.now(), Nanos(0));
        clock.advance(5);
        clock.advance_to(Nanos(3));
        assert_eq!(clock.now(), Nanos(5));
        clock.advance_to(Nanos(9));
        assert_eq!(clock.clone().now(), Nanos(9));
    }
}
