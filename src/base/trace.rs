//! Events and stage timers: what the daemon did, and where the time of a request went.
//!
//! - [`TraceRing`] keeps the last events in a fixed amount of memory; nothing here allocates after start-up.
//! - [`StageStats`] keeps one [`hdrhistogram`] per [`Stage`] of a request; `STATUS` shows their percentiles.
//!
//! Neither reads a clock: whoever records brings the time.

use super::Nanos;
use hdrhistogram::Histogram;

/// The stages of a request, in order. A read skips those of the log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Stage {
    /// From the arrival of its last byte to admission.
    Parse,
    /// From admission to the submission of its log group.
    Queue,
    /// From submission to the start of the log job: the group before it was still syncing.
    Append,
    /// The log job: write + sync.
    Sync,
    /// From the completed sync to the commit decision.
    Commit,
    /// Applying the entry to the memtable.
    Apply,
    /// Encoding and sending the replies of one turn of the loop, all connections together.
    Respond,
    /// A read's job on the disk lane, queueing included.
    ReadJob,
    /// Everything, from the last byte in to the reply in the buffer.
    Total,
}

impl Stage {
    /// All stages in order.
    pub const ALL: [Self; 9] = [
        Self::Parse,
        Self::Queue,
        Self::Append,
        Self::Sync,
        Self::Commit,
        Self::Apply,
        Self::Respond,
        Self::ReadJob,
        Self::Total,
    ];

    /// The name in STATUS, metrics, and docs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Parse => "parse",
            Self::Queue => "queue",
            Self::Append => "append",
            Self::Sync => "sync",
            Self::Commit => "commit",
            Self::Apply => "apply",
            Self::Respond => "respond",
            Self::ReadJob => "read_job",
            Self::Total => "total",
        }
    }
}

/// The percentiles of one stage, in microseconds.
#[derive(Clone, Copy, PartialEq, Debug, Default, serde::Serialize)]
pub struct StageSummary {
    /// How many samples.
    pub count: u64,
    /// Median.
    pub p50_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
    /// Largest.
    pub max_us: f64,
}

/// One histogram a stage, 1 ns to 60 s at two significant digits.
#[derive(Debug)]
pub struct StageStats {
    histograms: Vec<Histogram<u64>>,
}

impl Default for StageStats {
    fn default() -> Self {
        let one =
            Histogram::new_with_bounds(1, 60_000_000_000, 2).expect("constant bounds are valid");
        Self { histograms: vec![one; Stage::ALL.len()] }
    }
}

impl StageStats {
    /// Records one duration. Longer than 60 s counts as 60 s.
    pub fn record(&mut self, stage: Stage, ns: u64) {
        self.histograms[stage as usize].saturating_record(ns.max(1));
    }

    /// Records the time between two moments.
    pub fn span(&mut self, stage: Stage, from: Nanos, to: Nanos) {
        self.record(stage, to.since(from));
    }

    /// The percentiles of a stage so far.
    #[must_use]
    pub fn summary(&self, stage: Stage) -> StageSummary {
        let h = &self.histograms[stage as usize];
        if h.is_empty() {
            return StageSummary::default();
        }
        let us = |ns: u64| ns as f64 / 1_000.0;
        StageSummary {
            count: h.len(),
            p50_us: us(h.value_at_quantile(0.5)),
            p99_us: us(h.value_at_quantile(0.99)),
            max_us: us(h.max()),
        }
    }
}

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum TraceEvent {
    /// The Raft role changed.
    RoleChange {
        /// The term.
        term: u64,
        /// The new role.
        role: &'static str,
    },
    /// A log group was written and synced.
    LogSync {
        /// Records in it.
        records: u64,
        /// Bytes in it.
        bytes: u64,
        /// Nanoseconds for write + sync.
        ns: u64,
    },
    /// A memtable was frozen.
    MemtableFrozen {
        /// Entries in it.
        entries: u64,
        /// Its memory.
        bytes: u64,
    },
    /// A flush finished and its table is in the manifest.
    Flush {
        /// The table's number.
        table: u64,
        /// Bytes in it.
        bytes: u64,
        /// Nanoseconds from submission to installation.
        ns: u64,
    },
    /// A request was refused because a queue was full.
    Busy {
        /// Requests in the queue.
        queued: u64,
    },
    /// A request's deadline passed before it was proposed.
    Expired {
        /// How late, in nanoseconds.
        late_ns: u64,
    },
    /// The node began or ended a state in which it takes no writes.
    ReadOnly {
        /// Whether it began.
        on: bool,
    },
}

/// An event with its time and number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub struct TraceRecord {
    /// Counts every event since start-up, also those no longer in the ring.
    pub number: u64,
    /// When.
    #[serde(rename = "at_ns", serialize_with = "nanos_as_u64")]
    pub at: Nanos,
    /// What.
    #[serde(flatten)]
    pub event: TraceEvent,
}

fn nanos_as_u64<S: serde::Serializer>(at: &Nanos, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_u64(at.0)
}

/// The last `capacity` events.
#[derive(Debug)]
pub struct TraceRing {
    records: Vec<TraceRecord>,
    capacity: usize,
    recorded: u64,
}

impl TraceRing {
    /// A ring of `capacity` events, at least 1; its memory is reserved now.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.max(1);
        Self { records: Vec::with_capacity(capacity), capacity, recorded: 0 }
    }

    /// Records an event, over the oldest one when full.
    pub fn record(&mut self, at: Nanos, event: TraceEvent) {
        let record = TraceRecord { number: self.recorded, at, event };
        let slot = (self.recorded % self.capacity as u64) as usize;
        if slot == self.records.len() {
            self.records.push(record);
        } else {
            self.records[slot] = record;
        }
        self.recorded += 1;
    }

    /// Events recorded since start-up.
    #[must_use]
    pub const fn recorded(&self) -> u64 {
        self.recorded
    }

    /// The events in the ring, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &TraceRecord> {
        let split = (self.recorded % self.capacity as u64) as usize;
        let split = if self.records.len() < self.capacity { 0 } else { split };
        self.records[split..].iter().chain(&self.records[..split])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ring_keeps_the_last_events_in_order() {
        let mut ring = TraceRing::new(3);
        for queued in 0..5 {
            ring.record(Nanos(queued), TraceEvent::Busy { queued });
        }
        let numbers: Vec<u64> = ring.iter().map(|r| r.number).collect();
        assert_eq!(numbers, [2, 3, 4]);
        assert_eq!(ring.recorded(), 5);
    }

    #[test]
    fn stage_summary_has_the_percentiles() {
        let mut stats = StageStats::default();
        assert_eq!(stats.summary(Stage::Sync).count, 0);
        for us in 1..=100 {
            stats.record(Stage::Sync, us * 1_000);
        }
        let s = stats.summary(Stage::Sync);
        assert_eq!(s.count, 100);
        assert!((s.p50_us - 50.0).abs() < 1.0, "{s:?}");
        assert!((s.p99_us - 99.0).abs() < 1.5, "{s:?}");
    }
}
