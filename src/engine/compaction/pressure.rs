//! [`Pressure`]: how much writers are slowed down by what waits to be done.
//!
//! Three measures, each 0 while all is well and 1 where writes stop; the highest counts:
//!
//! | what waits | from | to |
//! |---|---|---|
//! | memtables that wait for their flush, the active one as far as it is full | 2 | 5 |
//! | tables of level 0 | 3 × the number that is compacted | 9 × |
//! | debt of compaction, in bytes | 8 × the base level | 32 × |
//!
//! At pressure `p` writes are let in at [`RATE_AT_FULL`] / p² bytes per second: so the first steps are not felt, a writer that
//! is a little faster than the disk is slowed to just that, and none is ever stopped with a jerk.
//!
//! What waited when the process started does not count as long as it is there: a directory with much to compact, of an older
//! version for one, takes writes at once.
//!
//! ```text
//!  p       0.1       0.2       0.3      0.5      0.7      1
//!  MiB/s   800       200        89       32       16      8, then none
//! ```

use super::policy::{CompactionOptions, Shape};

/// Bytes per second that are let in just before none are.
pub const RATE_AT_FULL: u64 = 8 << 20;
/// Memtables that may wait before it is felt, and at which writes stop.
const MEMTABLES: (f64, f64) = (2.0, 5.0);
/// Tables of level 0, in units of those that start a compaction.
const L0: (f64, f64) = (3.0, 9.0);
/// Debt, in units of the base level.
const DEBT: (f64, f64) = (8.0, 32.0);
/// How long a write may be held up in all before it is refused.
pub const MAX_WRITE_STALL_NS: u64 = 1_000_000_000;

/// See the module.
#[derive(Clone, Copy, PartialEq, PartialOrd, Debug, Default)]
pub struct Pressure(f64);

impl Pressure {
    /// Of so many memtables, and of compaction where it works (`None`: it cannot, and holding up writers would not help it).
    #[must_use]
    pub fn of(memtables: f64, shape: Option<&Shape>, options: &CompactionOptions) -> Self {
        let part = |x: f64, (from, to): (f64, f64)| ((x - from) / (to - from)).clamp(0.0, 1.0);
        let mut most = part(memtables, MEMTABLES);
        if let Some(shape) = shape {
            let l0 = shape.levels[0].tables as f64 / options.l0_tables.max(1) as f64;
            let debt = shape.debt as f64 / options.base_bytes.max(1) as f64;
            most = most.max(part(l0, L0)).max(part(debt, DEBT));
        }
        Self(most)
    }

    /// 0 while all is well, 1 where writes stop.
    #[must_use]
    pub const fn value(self) -> f64 {
        self.0
    }

    /// Whether no write should be let in.
    #[must_use]
    pub const fn is_full(self) -> bool {
        self.0 >= 1.0
    }

    /// Bytes per second that should be let in; `None`: as many as come.
    #[must_use]
    pub fn bytes_per_s(self) -> Option<u64> {
        (self.0 > 0.0).then(|| (RATE_AT_FULL as f64 / (self.0 * self.0)) as u64)
    }

    /// Nanoseconds that `bytes` take at that rate.
    #[must_use]
    pub fn ns_for(self, bytes: u64) -> u64 {
        let rate = self.bytes_per_s().unwrap_or(u64::MAX).max(1);
        u64::try_from(u128::from(bytes) * 1_000_000_000 / u128::from(rate)).unwrap_or(u64::MAX)
    }
}

/// How much of level 0 and of the debt is above where it begins to be felt.
pub(super) fn felt(shape: &Shape, options: &CompactionOptions) -> (usize, u64) {
    let tables = (L0.0 * options.l0_tables.max(1) as f64) as usize;
    let debt = (DEBT.0 * options.base_bytes.max(1) as f64) as u64;
    (shape.levels[0].tables.saturating_sub(tables), shape.debt.saturating_sub(debt))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rises_smoothly_and_what_compaction_cannot_help_does_not_count() {
        let options = CompactionOptions::default();
        let memtables = |n| Pressure::of(n, None, &options);
        assert_eq!(memtables(2.0).bytes_per_s(), None);
        assert_eq!(memtables(5.0).bytes_per_s(), Some(RATE_AT_FULL));
        assert!(memtables(5.0).is_full() && !memtables(4.99).is_full());
        let mut last = u64::MAX;
        for tenth in 21..=50 {
            let rate = memtables(f64::from(tenth) / 10.0).bytes_per_s().unwrap();
            assert!(rate < last, "{tenth}");
            // No step of a tenth of a memtable costs more than a factor that a writer would feel as a stop.
            assert!(last == u64::MAX || rate > last / 5, "{tenth}: {last} to {rate}");
            last = rate;
        }
        let mut shape = Shape::default();
        shape.levels[0].tables = 9 * options.l0_tables;
        assert!(Pressure::of(0.0, Some(&shape), &options).is_full());
        assert_eq!(Pressure::of(0.0, None, &options), Pressure::default());
        let in_debt = Shape { debt: 20 * options.base_bytes, ..Shape::default() };
        let half = Pressure::of(0.0, Some(&in_debt), &options);
        assert_eq!((half.value(), half.bytes_per_s()), (0.5, Some(4 * RATE_AT_FULL)));
        assert_eq!(half.ns_for(4 * RATE_AT_FULL), 1_000_000_000);
    }
}
