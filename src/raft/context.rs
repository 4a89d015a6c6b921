//! [`Context`]: what one step works with, and the log as it stands *within* the step.
//!
//! The [`LogView`] shows what earlier steps asked to persist. A leader also sends what this very step appended, before
//! the driver has even submitted it, so the context looks at the step's own [`Effect::Persist`]s too.

use super::{Effect, Entry, LogView, Persist, Trace};
use crate::base::{LogIndex, Nanos, Term};

/// One step's time, log, and effects.
pub(super) struct Context<'a> {
    /// The time of the event.
    pub now: Nanos,
    log: &'a dyn LogView,
    /// The effects, in order.
    pub out: &'a mut Vec<Effect>,
    /// Where in `out` the first persist of this step stands.
    first_persist: usize,
    trace: bool,
}

impl<'a> Context<'a> {
    pub fn new(now: Nanos, log: &'a dyn LogView, out: &'a mut Vec<Effect>, trace: bool) -> Self {
        Self { now, log, out, first_persist: usize::MAX, trace }
    }

    /// Adds a persist.
    pub fn persist(&mut self, persist: Persist) {
        self.first_persist = self.first_persist.min(self.out.len());
        self.out.push(Effect::Persist(persist));
    }

    /// Tells what happened, when anybody wants to know.
    pub fn trace(&mut self, trace: impl FnOnce() -> Trace) {
        if self.trace {
            self.out.push(Effect::Trace(trace()));
        }
    }

    /// The last released entry.
    pub fn baseline(&self) -> LogIndex {
        self.log.first_index().prev()
    }

    /// Index and term of the last entry before this step.
    pub fn last_before(&self) -> (LogIndex, Term) {
        self.log.last()
    }

    fn persists(&self) -> impl DoubleEndedIterator<Item = &Persist> {
        let from = self.first_persist.min(self.out.len());
        self.out[from..]
            .iter()
            .filter_map(|e| if let Effect::Persist(p) = e { Some(p) } else { None })
    }

    /// The term of an entry, this step's included, or of the baseline.
    pub fn term(&self, index: LogIndex) -> Option<Term> {
        for persist in self.persists().rev() {
            if let Some(entry) = slot(&persist.entries, index) {
                return Some(entry.term);
            }
            if persist.truncate_from.is_some_and(|from| index >= from) {
                return None;
            }
        }
        self.log.term(index)
    }

    /// Entries `lo..=hi`, this step's included, at most `max_bytes` of payload but at least one; `None` when they are
    /// not in memory. For a leader, whose steps truncate nothing.
    pub fn entries(&self, lo: LogIndex, hi: LogIndex, max_bytes: usize) -> Option<Vec<Entry>> {
        let stored = self.log.last().0;
        let mut entries = Vec::new();
        if lo <= stored {
            entries = self.log.entries(lo, hi.min(stored), max_bytes)?;
        }
        let mut bytes: usize = entries.iter().map(|e| e.payload.len()).sum();
        let complete =
            entries.last().map_or(lo.prev(), |e| e.index) == hi.min(stored.max(lo.prev()));
        if complete {
            for entry in self.persists().flat_map(|p| &p.entries) {
                if entry.index >= lo && entry.index <= hi && bytes < max_bytes {
                    bytes += entry.payload.len();
                    entries.push(entry.clone());
                }
            }
        }
        if bytes > max_bytes && entries.len() > 1 {
            entries.pop();
        }
        Some(entries)
    }
}

fn slot(entries: &[Entry], index: LogIndex) -> Option<&Entry> {
    let first = entries.first()?.index;
    entries.get(usize::try_from(index.0.checked_sub(first.0)?).ok()?)
}
