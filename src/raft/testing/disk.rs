//! [`DiskLog`]: a replica's log with a disk under it: what was submitted is visible at once, and durable only when the
//! test says so.
//!
//! ```text
//! submit(Persist) ──► view (what raft sees)
//!        └──► queue of records ── sync ──► durable (what a restart finds)
//!                      └── crash: a prefix of the queue may survive, the rest is gone
//! ```

use crate::base::{LogIndex, Membership, Term};
use crate::raft::{Entry, HardState, IoId, LogView, Persist, take_entries};
use std::collections::VecDeque;

/// What a log holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Contents {
    /// The last hard state.
    pub hard_state: HardState,
    /// The last entry that is not there any more.
    pub baseline: (LogIndex, Term),
    /// The membership in force at the baseline, and the entry that set it.
    pub membership: (LogIndex, Membership),
    /// The entries after the baseline.
    pub entries: Vec<Entry>,
}

/// One thing on its way to the disk.
#[derive(Clone, Debug)]
enum Record {
    HardState(HardState),
    TruncateFrom(LogIndex),
    Entry(Entry),
    Reset {
        baseline: (LogIndex, Term),
        membership: (LogIndex, Membership),
    },
    /// Everything of this persist stands before it.
    End(IoId),
}

impl Contents {
    /// Index and term of the last entry, or the baseline.
    pub fn last(&self) -> (LogIndex, Term) {
        self.entries.last().map_or(self.baseline, |e| (e.index, e.term))
    }

    /// The entry at `index`.
    pub fn entry(&self, index: LogIndex) -> Option<&Entry> {
        self.entries.get(self.slot(index)?)
    }

    /// Where the entry at `index` stands, if the log goes that far.
    fn slot(&self, index: LogIndex) -> Option<usize> {
        usize::try_from(index.0.checked_sub(self.baseline.0.0 + 1)?).ok()
    }

    /// The term at `index`, the baseline's included.
    pub fn term(&self, index: LogIndex) -> Option<Term> {
        if index == self.baseline.0 {
            return Some(self.baseline.1);
        }
        self.entry(index).map(|e| e.term)
    }

    /// All memberships from the baseline on, as [`Start`](crate::raft::Start) wants them.
    pub fn memberships(&self) -> Vec<(LogIndex, Membership)> {
        let mut all = vec![self.membership.clone()];
        all.extend(self.entries.iter().filter_map(|e| Some((e.index, membership_in(e)?))));
        all
    }

    fn take(&mut self, record: Record) {
        match record {
            Record::HardState(hard_state) => self.hard_state = hard_state,
            Record::TruncateFrom(from) => {
                assert!(from > self.baseline.0, "truncation from {from} at {:?}", self.baseline);
                self.entries.retain(|e| e.index < from);
            }
            Record::Entry(entry) => {
                let last = self.last().0;
                assert_eq!(entry.index, last.next(), "{entry:?} does not follow on {last}");
                self.entries.push(entry);
            }
            Record::Reset { baseline, membership } => {
                (self.baseline, self.membership) = (baseline, membership);
                self.entries.clear();
            }
            Record::End(_) => {}
        }
    }

    fn release_to(&mut self, index: LogIndex) {
        let Some(term) = self.term(index) else { return };
        let in_force = self.memberships().into_iter().rev().find(|(at, _)| *at <= index);
        self.membership = in_force.unwrap_or_default();
        self.entries.retain(|e| e.index > index);
        self.baseline = (index, term);
    }
}

/// The membership that an entry sets, if it is that kind of entry.
pub fn membership_in(entry: &Entry) -> Option<Membership> {
    let membership = Membership::from_entry(&entry.payload)?;
    Some(membership.expect("a membership entry in a log was checked on its way in"))
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct DiskLog {
    /// Everything that was submitted.
    pub view: Contents,
    /// What a restart finds.
    pub durable: Contents,
    queue: VecDeque<Record>,
    /// Entries below it are on the disk only: raft must ask for them by `Fetch`.
    pub cold_below: LogIndex,
}

impl DiskLog {
    /// A log that holds this, durably.
    pub fn of(contents: Contents) -> Self {
        Self { view: contents.clone(), durable: contents, ..Self::default() }
    }

    /// Takes a persist; visible at once.
    pub fn submit(&mut self, persist: Persist) {
        let Persist { io, hard_state, truncate_from, entries } = persist;
        let records = hard_state.map(Record::HardState).into_iter();
        let records = records.chain(truncate_from.map(Record::TruncateFrom));
        for record in records.chain(entries.into_iter().map(Record::Entry)) {
            self.view.take(record.clone());
            self.queue.push_back(record);
        }
        self.queue.push_back(Record::End(io));
    }

    /// Discards all entries for a snapshot; visible at once, durable in its turn.
    pub fn reset(&mut self, baseline: (LogIndex, Term), membership: (LogIndex, Membership)) {
        let record = Record::Reset { baseline, membership };
        self.view.take(record.clone());
        self.queue.push_back(record);
    }

    /// The persists on their way, oldest first.
    pub fn pending(&self) -> Vec<IoId> {
        let ends = self.queue.iter();
        ends.filter_map(|r| if let Record::End(io) = r { Some(*io) } else { None }).collect()
    }

    /// Completes the persists up to `io`, and what stands before them.
    pub fn sync_to(&mut self, io: IoId) {
        while let Some(record) = self.queue.pop_front() {
            let done = matches!(record, Record::End(id) if id >= io);
            self.durable.take(record);
            if done {
                return;
            }
        }
    }

    /// Completes what stands in the queue after the last persist: a reset.
    pub fn sync_rest(&mut self) {
        for record in self.queue.drain(..) {
            self.durable.take(record);
        }
    }

    /// The disk after a crash: what is durable, and the first `keep` records of the queue.
    pub fn crash(&mut self, keep: usize) {
        let kept: Vec<Record> = self.queue.drain(..).collect();
        let kept = kept.into_iter().filter(|r| !matches!(r, Record::End(_)));
        for record in kept.take(keep) {
            self.durable.take(record);
        }
        self.view = self.durable.clone();
    }

    /// Forgets the entries up to `index`; `false` when the disk does not have them all yet.
    pub fn release_to(&mut self, index: LogIndex) -> bool {
        let reset = self.queue.iter().any(|r| matches!(r, Record::Reset { .. }));
        let held = self.view.term(index).is_some_and(|term| self.holds_durably(index, term));
        if held && !reset {
            self.durable.release_to(index);
            self.view.release_to(index);
        }
        held && !reset
    }

    /// Whether (index, term) is in the durable log or what it was built from.
    pub fn holds_durably(&self, index: LogIndex, term: Term) -> bool {
        index < self.durable.baseline.0 || self.durable.term(index) == Some(term)
    }

    /// The entries `lo..=hi` from the disk; `None` when they are not all there.
    pub fn read(&self, lo: LogIndex, hi: LogIndex, max_bytes: usize) -> Option<Vec<Entry>> {
        let (from, to) = (self.view.slot(lo)?, self.view.slot(hi)?);
        self.view.entries.get(from..=to).map(|range| take_entries(range.iter(), max_bytes))
    }
}

impl LogView for DiskLog {
    fn first_index(&self) -> LogIndex {
        self.view.baseline.0.next()
    }

    fn last(&self) -> (LogIndex, Term) {
        self.view.last()
    }

    fn term(&self, index: LogIndex) -> Option<Term> {
        self.view.term(index)
    }

    fn entries(&self, lo: LogIndex, hi: LogIndex, max_bytes: usize) -> Option<Vec<Entry>> {
        (lo >= self.cold_below).then(|| self.read(lo, hi, max_bytes))?
    }
}
