//! Deadlines, and the random numbers that spread them.

use crate::base::Nanos;

/// SplitMix64 (Steele, Lea, Flood 2014): one addition and a mix; equal seeds give equal timeouts.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Stirs `salt` in.
    pub fn stir(&mut self, salt: u64) {
        self.0 ^= salt.rotate_left(32);
        self.next();
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// A replica's deadlines.
#[derive(Debug)]
pub(super) struct Timers {
    pub random: Random,
    /// Time never runs backwards here.
    now: Option<Nanos>,
    /// Not a leader: when it will ask whether it should be.
    pub election: Nanos,
    /// A leader: when it must speak again.
    pub heartbeat: Nanos,
    /// When a leader was last heard (stickiness).
    pub leader_heard: Option<Nanos>,
}

impl Timers {
    pub fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            now: None,
            election: Nanos::ZERO,
            heartbeat: Nanos::MAX,
            leader_heard: None,
        }
    }

    /// Whether a step has been seen.
    pub const fn started(&self) -> bool {
        self.now.is_some()
    }

    /// The time of the last step.
    pub fn now(&self) -> Nanos {
        self.now.unwrap_or(Nanos::ZERO)
    }

    /// The time of a step: the given one, or the last one if that is later.
    pub fn observe(&mut self, now: Nanos) -> Nanos {
        let now = self.now.map_or(now, |last| last.max(now));
        self.now = Some(now);
        now
    }

    /// §5.2: drawn from one to two election timeouts.
    pub fn arm_election(&mut self, now: Nanos, timeout_ns: u64) {
        let spread = self.random.next() % timeout_ns.max(1);
        self.election = now.plus(timeout_ns).plus(spread);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn election_timeouts_spread_over_one_to_two_and_depend_on_the_seed_alone() {
        let draw = |seed| {
            let mut timers = Timers::new(seed);
            (0..200)
                .map(|_| {
                    timers.arm_election(Nanos(5), 1000);
                    timers.election.0 - 5
                })
                .collect::<Vec<_>>()
        };
        let timeouts = draw(7);
        assert!(timeouts.iter().all(|t| (1000..2000).contains(t)), "{timeouts:?}");
        assert!(timeouts.iter().any(|t| *t < 1200) && timeouts.iter().any(|t| *t > 1800));
        assert_eq!(timeouts, draw(7));
        assert_ne!(timeouts, draw(8));
    }

    #[test]
    fn time_never_runs_backwards() {
        let mut timers = Timers::new(1);
        assert_eq!(timers.observe(Nanos(9)), Nanos(9));
        assert_eq!(timers.observe(Nanos(4)), Nanos(9));
    }
}
