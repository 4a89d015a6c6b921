//! How long to wait before the next attempt: 50 ms, twice that after each failure, at most 2 s, each time with jitter, so
//! that nodes that lost each other at once do not come back at once.

const FIRST_NS: u64 = 50_000_000;
const MOST_NS: u64 = 2_000_000_000;

/// The state of one series of attempts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backoff {
    step: u64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { step: FIRST_NS }
    }
}

impl Backoff {
    /// An attempt failed: how long to wait, between half of the step and all of it. `random`: any 64 bits.
    pub fn failed(&mut self, random: u64) -> u64 {
        let half = self.step / 2;
        self.step = (2 * self.step).min(MOST_NS);
        half + random % (half + 1)
    }

    /// An attempt succeeded.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_two_seconds_and_begin_again_after_a_success() {
        let mut longest = Backoff::default();
        let waits: Vec<u64> = (0..8).map(|_| longest.failed(25_000_000) / 1_000_000).collect();
        assert_eq!(waits[0], 50);
        let mut backoff = Backoff::default();
        let steps = [50, 100, 200, 400, 800, 1_600, 2_000, 2_000];
        for (n, step) in steps.into_iter().enumerate() {
            let wait = backoff.failed((n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)) / 1_000_000;
            assert!((step / 2..=step).contains(&wait), "attempt {n}: {wait} ms, step {step} ms");
        }
        backoff.reset();
        assert_eq!(backoff, Backoff::default());
    }

    #[test]
    fn nodes_that_failed_together_come_back_apart() {
        let waits: std::collections::BTreeSet<u64> =
            (0..100).map(|n| Backoff::default().failed(n << 20)).collect();
        assert!(waits.len() > 20, "{waits:?}");
    }
}
