//! What was measured: latencies by operation, errors by kind, second by second and over the window.
//!
//! An operation counts when it *began* inside the window (in an open loop: was meant to begin), so a slow one that
//! ends after it is not lost; throughput counts the ones that *ended* inside it. Errors never enter a latency histogram.

use crate::workload::OpKind;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::ops::Range;

/// Longest latency told apart; anything longer is recorded as this.
const MAX_LATENCY_NS: u64 = 120_000_000_000;

/// An empty latency histogram in nanoseconds, three significant digits.
#[must_use]
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, MAX_LATENCY_NS, 3).expect("constant bounds are valid")
}

/// Why an operation failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum ErrorKind {
    /// The server's queue was full; nothing was applied.
    Busy,
    /// The deadline passed, here or there.
    Deadline,
    /// Somebody else leads.
    NotLeader,
    /// A write whose outcome is unknown: no reply in time, or the server said so.
    Unknown,
    /// The connection broke with the request in flight.
    Conn,
    /// The reply was not understood, or did not fit the request.
    Proto,
    /// Any other refusal by the server.
    Refused,
}

/// Errors by kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Errors {
    /// [`ErrorKind::Busy`]
    pub busy: u64,
    /// [`ErrorKind::Deadline`]
    pub deadline: u64,
    /// [`ErrorKind::NotLeader`]
    pub not_leader: u64,
    /// [`ErrorKind::Unknown`]
    pub unknown: u64,
    /// [`ErrorKind::Conn`]
    pub conn: u64,
    /// [`ErrorKind::Proto`]
    pub proto: u64,
    /// [`ErrorKind::Refused`]
    pub refused: u64,
}

impl Errors {
    fn slot(&mut self, kind: ErrorKind) -> &mut u64 {
        match kind {
            ErrorKind::Busy => &mut self.busy,
            ErrorKind::Deadline => &mut self.deadline,
            ErrorKind::NotLeader => &mut self.not_leader,
            ErrorKind::Unknown => &mut self.unknown,
            ErrorKind::Conn => &mut self.conn,
            ErrorKind::Proto => &mut self.proto,
            ErrorKind::Refused => &mut self.refused,
        }
    }

    /// All together.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.busy
            + self.deadline
            + self.not_leader
            + self.unknown
            + self.conn
            + self.proto
            + self.refused
    }
}

/// Collects the results of one run.
#[derive(Debug)]
pub struct Recorder {
    window: Range<u64>,
    by_kind: Vec<Histogram<u64>>,
    second: Histogram<u64>,
    errors: Errors,
    errors_this_second: u64,
    not_found: u64,
    completed: u64,
    first_error: Option<String>,
}

impl Default for Recorder {
    fn default() -> Self {
        Self {
            window: 0..u64::MAX,
            by_kind: OpKind::ALL.iter().map(|_| histogram()).collect(),
            second: histogram(),
            errors: Errors::default(),
            errors_this_second: 0,
            not_found: 0,
            completed: 0,
            first_error: None,
        }
    }
}

impl Recorder {
    /// Only operations that begin in `window` count from now on.
    pub fn set_window(&mut self, window: Range<u64>) {
        self.window = window;
    }

    /// The window in nanoseconds.
    #[must_use]
    pub const fn window_ns(&self) -> u64 {
        self.window.end.saturating_sub(self.window.start)
    }

    /// One answered operation.
    pub fn success(&mut self, kind: OpKind, start: u64, end: u64, found: bool) {
        let ns = end.saturating_sub(start).max(1);
        self.second.saturating_record(ns);
        self.completed += u64::from(self.window.contains(&end));
        if self.window.contains(&start) {
            self.by_kind[kind as usize].saturating_record(ns);
            self.not_found += u64::from(!found);
        }
    }

    /// One failed operation; `detail` is only called for the first one.
    pub fn error(&mut self, kind: ErrorKind, start: u64, detail: impl FnOnce() -> String) {
        self.errors_this_second += 1;
        if self.window.contains(&start) {
            *self.errors.slot(kind) += 1;
        }
        if self.first_error.is_none() {
            self.first_error = Some(format!("{kind:?}: {}", detail()));
        }
    }

    /// The latencies of one kind of operation.
    #[must_use]
    pub fn latencies(&self, kind: OpKind) -> &Histogram<u64> {
        &self.by_kind[kind as usize]
    }

    /// Successful operations per second of the window, by when they ended.
    #[must_use]
    pub fn throughput(&self) -> f64 {
        self.completed as f64 * 1e9 / self.window_ns().max(1) as f64
    }

    /// Successful operations that began in the window.
    #[must_use]
    pub fn successes(&self) -> u64 {
        self.by_kind.iter().map(Histogram::len).sum()
    }

    /// Errors in the window.
    #[must_use]
    pub const fn errors(&self) -> &Errors {
        &self.errors
    }

    /// Reads in the window that found nothing; they are successes.
    #[must_use]
    pub const fn not_found(&self) -> u64 {
        self.not_found
    }

    /// What the first error was.
    #[must_use]
    pub fn first_error(&self) -> Option<&str> {
        self.first_error.as_deref()
    }

    /// The progress line of the last `ns` nanoseconds; the next one starts from zero.
    pub fn take_progress(&mut self, ns: u64) -> String {
        let rate = self.second.len() as f64 * 1e9 / ns.max(1) as f64;
        let us = |q| self.second.value_at_quantile(q) as f64 / 1e3;
        let line = format!(
            "{rate:>10.0} op/s   p50 {:>8.0} us   p99 {:>8.0} us   errors {}",
            us(0.5),
            us(0.99),
            self.errors_this_second
        );
        self.second.reset();
        self.errors_this_second = 0;
        line
    }
}

/// The percentiles of one kind of operation, as in the JSON report.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Percentiles {
    /// Successful operations.
    pub count: u64,
    /// Mean latency.
    pub mean_us: f64,
    /// Median.
    pub p50_us: f64,
    /// 90th percentile.
    pub p90_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
    /// 99.9th percentile.
    pub p999_us: f64,
    /// Largest.
    pub max_us: f64,
}

impl Percentiles {
    /// Of a histogram in nanoseconds; all zero when it is empty.
    #[must_use]
    pub fn of(h: &Histogram<u64>) -> Self {
        let us = |q| round_us(h.value_at_quantile(q) as f64);
        Self {
            count: h.len(),
            mean_us: round_us(h.mean()),
            p50_us: us(0.5),
            p90_us: us(0.9),
            p99_us: us(0.99),
            p999_us: us(0.999),
            max_us: round_us(h.max() as f64),
        }
    }
}

/// Nanoseconds as microseconds with one decimal.
fn round_us(ns: f64) -> f64 {
    (ns / 100.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_begins_in_the_window_counts() {
        let mut r = Recorder::default();
        r.set_window(100..200);
        r.success(OpKind::Put, 99, 150, true);
        r.success(OpKind::Put, 100, 5_000, true);
        r.success(OpKind::Get, 199, 300, false);
        r.success(OpKind::Get, 200, 201, true);
        r.error(ErrorKind::Busy, 150, || "full".into());
        r.error(ErrorKind::Busy, 250, || unreachable!("only the first is kept"));
        assert_eq!(r.successes(), 2);
        assert_eq!(r.throughput(), 1e9 / 100.0, "only the first one ended in the window");
        assert_eq!(r.latencies(OpKind::Put).max(), 4_900 | 3);
        assert_eq!((r.not_found(), r.errors().busy, r.errors().total()), (1, 1, 1));
        assert_eq!(r.first_error(), Some("Busy: full"));
    }

    #[test]
    fn errors_are_not_latencies() {
        let mut r = Recorder::default();
        r.error(ErrorKind::Conn, 1, || "reset".into());
        assert_eq!(r.successes(), 0);
        assert_eq!(Percentiles::of(r.latencies(OpKind::Put)).count, 0);
        assert!(r.take_progress(1_000_000_000).ends_with("errors 1"));
        assert!(r.take_progress(1_000_000_000).ends_with("errors 0"));
    }
}
