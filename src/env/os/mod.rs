//! The real world: the file system, the monotonic clock, the OS's randomness, and helper threads.
//!
//! - [`OsDisk`]: `open`, `pread`, `pwrite`, `fdatasync`, `fsync` of directories, `flock`.
//! - [`OsJobs`]: one thread a [`Lane`](super::Lane), started with its first job.
//! - [`OsClock`]: `CLOCK_MONOTONIC`, from the moment it was made. [`OsRandom`]: seeded by the kernel.
//!
//! Architecture invariant: this room is the only place in the library with `std::fs`, `Instant::now`, threads,
//! and random devices. `tests/layering.rs` and `clippy.toml` keep it so.

#![expect(clippy::disallowed_methods, reason = "this is the room that touches the real world")]

mod disk;
mod jobs;

pub use disk::OsDisk;
pub use jobs::OsJobs;

use super::{Clock, Env, Random};
use crate::base::Nanos;
use rand::Rng;
use rand::rngs::StdRng;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

/// The monotonic clock, in nanoseconds since this value was made (so that numbers in traces stay small).
#[derive(Clone, Copy, Debug)]
pub struct OsClock {
    origin: Instant,
}

impl OsClock {
    /// A clock that reads zero now. Clocks made at different moments must not be mixed.
    #[must_use]
    pub fn new() -> Self {
        Self { origin: Instant::now() }
    }
}

impl Default for OsClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for OsClock {
    fn now(&self) -> Nanos {
        // 2^64 ns are 584 years.
        Nanos(u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

/// Random numbers from a generator that the operating system seeded.
pub struct OsRandom {
    generator: StdRng,
}

impl OsRandom {
    /// Seeds a generator from the operating system.
    #[must_use]
    pub fn new() -> Self {
        Self { generator: rand::make_rng() }
    }
}

impl Default for OsRandom {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for OsRandom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OsRandom")
    }
}

impl Random for OsRandom {
    fn next_u64(&mut self) -> u64 {
        self.generator.next_u64()
    }
}

/// Blocks the calling thread. For the blocking client's back-off and for tools; the event loop never sleeps.
pub fn pause(duration: std::time::Duration) {
    std::thread::sleep(duration);
}

/// The real world with nobody to wake: for the embedded [`Db`](crate::engine), tools, and tests.
#[must_use]
pub fn env() -> Env {
    env_with_wake(Arc::new(|| {}))
}

/// The real world; `wake` is called from a helper thread after each completion.
#[must_use]
pub fn env_with_wake(wake: Arc<dyn Fn() + Send + Sync>) -> Env {
    let clock: Arc<dyn Clock> = Arc::new(OsClock::new());
    Env {
        clock: Arc::clone(&clock),
        disk: Arc::new(OsDisk::new()),
        jobs: Arc::new(OsJobs::new(clock, wake)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_never_goes_back() {
        let clock = OsClock::new();
        let mut last = clock.now();
        for _ in 0..1000 {
            let now = clock.now();
            assert!(now >= last);
            last = now;
        }
    }

    #[test]
    fn two_generators_differ() {
        let (mut a, mut b) = (OsRandom::new(), OsRandom::new());
        assert_ne!((a.next_u64(), a.next_u64()), (b.next_u64(), b.next_u64()));
    }
}
