//! [`Pace`]: a bound on bytes per second. [`Meter`]: how many there are.
//!
//! A token bucket, kept as the time at which it is not in debt any more: whoever takes bytes moves that time on by what they
//! take at the rate, and nobody takes any before it has come. What was not taken in the last [`BURST_NS`] may be made up
//! for; what was not taken before is lost. So in any time `t` at most `rate × (t + BURST_NS)` bytes and one piece pass.
//!
//! Both are functions of the times they are told: same calls, same answers.

use crate::base::Nanos;

/// Idle time that may be made up for: more than a late timer, less than anybody notices.
const BURST_NS: u64 = 50_000_000;
/// Pieces are cut so small that this many a second pass; a transfer that crawls is still seen to move.
const PIECES_PER_S: u64 = 16;
/// No piece is cut smaller.
const MIN_PIECE_BYTES: u64 = 4 << 10;
/// The time over which a [`Meter`] looks back.
const METER_NS: u64 = 1_000_000_000;
const NS_PER_S: u128 = 1_000_000_000;

/// See the module.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Pace {
    /// `None`: no bound.
    bytes_per_s: Option<u64>,
    open_at: Nanos,
}

impl Pace {
    /// At most so many bytes a second, not 0.
    pub fn new(bytes_per_s: Option<u64>) -> Self {
        Self { bytes_per_s: bytes_per_s.filter(|rate| *rate > 0), open_at: Nanos::ZERO }
    }

    /// The bound.
    pub const fn bytes_per_s(&self) -> Option<u64> {
        self.bytes_per_s
    }

    /// From when on bytes may be taken.
    pub const fn open_at(&self) -> Nanos {
        self.open_at
    }

    /// How large a piece should be that may have `most` bytes.
    pub fn piece(&self, most: u64) -> u64 {
        let cut = |rate: u64| most.min((rate / PIECES_PER_S).max(MIN_PIECE_BYTES));
        self.bytes_per_s.map_or(most, cut)
    }

    /// `bytes` are taken, at or after [`Pace::open_at`].
    pub fn take(&mut self, now: Nanos, bytes: u64) {
        let Some(rate) = self.bytes_per_s else { return };
        let takes = u128::from(bytes) * NS_PER_S / u128::from(rate);
        let takes = u64::try_from(takes).unwrap_or(u64::MAX);
        self.open_at = Nanos(self.open_at.0.max(now.0.saturating_sub(BURST_NS))).plus(takes);
    }
}

/// Bytes per second over about the last one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Meter {
    since: Nanos,
    bytes: u64,
    /// Of the second before `since`.
    before: u64,
}

impl Meter {
    /// Nothing has passed yet.
    pub const fn new(now: Nanos) -> Self {
        Self { since: now, bytes: 0, before: 0 }
    }

    /// `bytes` passed.
    pub fn note(&mut self, now: Nanos, bytes: u64) {
        let seconds = now.since(self.since) / METER_NS;
        if seconds > 0 {
            self.before = if seconds == 1 { self.bytes } else { 0 };
            self.bytes = 0;
            self.since = self.since.plus(seconds * METER_NS);
        }
        self.bytes += bytes;
    }

    /// How many passed in the last second: of the one before this one as much as it reaches into.
    pub fn bytes_per_s(&self, now: Nanos) -> u64 {
        let mut at_now = *self;
        at_now.note(now, 0);
        let left = METER_NS - now.since(at_now.since);
        let reached = u128::from(at_now.before) * u128::from(left) / NS_PER_S;
        at_now.bytes + u64::try_from(reached).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// Takes whenever it may, looking every `every_ns`; how many bytes in `for_ns`.
    fn taken(rate: u64, piece: u64, every_ns: u64, for_ns: u64) -> u64 {
        let (mut pace, mut total) = (Pace::new(Some(rate)), 0);
        let mut now = Nanos(7 * MS);
        let end = now.plus(for_ns);
        while now < end {
            while pace.open_at() <= now {
                pace.take(now, pace.piece(piece));
                total += pace.piece(piece);
            }
            now = now.plus(every_ns);
        }
        total
    }

    #[test]
    fn as_much_passes_as_the_rate_says_however_often_it_is_looked() {
        for rate in [64 << 10, 1 << 20, 50_000_000, 3 << 30] {
            for every_ns in [MS / 100, MS, 7 * MS, 30 * MS] {
                let total = taken(rate, 1 << 20, every_ns, 4_000 * MS);
                let most = rate * 4 + rate / 20 + (1 << 20);
                let least = rate * 4 / 100 * 97;
                assert!((least..=most).contains(&total), "{rate} every {every_ns}: {total}");
            }
        }
    }

    #[test]
    fn what_was_not_taken_long_ago_is_lost() {
        let mut pace = Pace::new(Some(1_000_000));
        pace.take(Nanos(10_000 * MS), 100_000);
        assert_eq!(
            pace.open_at(),
            Nanos(10_050 * MS),
            "100 ms of work, 50 of which are made up for"
        );
    }

    #[test]
    fn without_a_bound_it_is_always_open_and_pieces_are_whole() {
        for mut pace in [Pace::new(None), Pace::new(Some(0)), Pace::default()] {
            pace.take(Nanos(5), u64::MAX);
            assert_eq!((pace.open_at(), pace.piece(77)), (Nanos::ZERO, 77));
        }
    }

    #[test]
    fn the_meter_forgets_after_a_second() {
        let mut meter = Meter::new(Nanos(0));
        for ms in 0..3_000 {
            meter.note(Nanos(ms * MS), 10);
        }
        let rate = meter.bytes_per_s(Nanos(3_000 * MS));
        assert!((9_990..=10_010).contains(&rate), "{rate}");
        assert_eq!(meter.bytes_per_s(Nanos(3_500 * MS)), 5_000);
        assert_eq!(meter.bytes_per_s(Nanos(9_000 * MS)), 0);
    }
}
