//! [`Shape`]: what the Raft log looks like, in little memory whatever its length: where it begins and ends, which
//! term wrote which stretch, and sparse positions by which entries are found on the disk.
//!
//! ```text
//!   baseline   first                                   last
//!   (40, t2)    41 …                                    97
//!      runs:    41: t2 │ 60: t3 │ 91: t5                      (first index of a stretch: its term)
//!      marks:   41: seg 7 @ 64 │ 66: seg 7 @ 65600 │ 93: seg 8 @ 96
//! ```
//!
//! Invariant: between a mark and the next one (or the end of what is durable) the entries follow each other in one
//! segment, without a truncation between them; so a reader that starts at a mark meets them in order.

use crate::base::{LogIndex, Term};
use crate::wal::{LogPos, MARK_EVERY_BYTES};
use std::collections::VecDeque;

/// A known position.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Mark {
    pub index: LogIndex,
    pub pos: LogPos,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Shape {
    baseline: (LogIndex, Term),
    last: LogIndex,
    /// First index and term of each stretch of one term.
    runs: VecDeque<(LogIndex, Term)>,
    marks: VecDeque<Mark>,
    /// The next position comes behind a truncation.
    truncated: bool,
}

impl Shape {
    pub fn baseline(&self) -> (LogIndex, Term) {
        self.baseline
    }
    pub fn first(&self) -> LogIndex {
        self.baseline.0.next()
    }
    pub fn last(&self) -> (LogIndex, Term) {
        match self.runs.back() {
            Some(&(_, term)) => (self.last, term),
            None => self.baseline,
        }
    }
    pub fn contains(&self, index: LogIndex) -> bool {
        self.baseline.0 < index && index <= self.last
    }

    /// The term of an entry or of the baseline.
    pub fn term(&self, index: LogIndex) -> Option<Term> {
        if index == self.baseline.0 {
            return Some(self.baseline.1);
        }
        if !self.contains(index) {
            return None;
        }
        let after = self.runs.partition_point(|&(first, _)| first <= index);
        after.checked_sub(1).map(|run| self.runs[run].1)
    }

    /// Adds the next entry. The caller has checked that it follows.
    pub fn append(&mut self, index: LogIndex, term: Term) {
        self.last = index;
        if self.runs.back().is_none_or(|&(_, t)| t != term) {
            self.runs.push_back((index, term));
        }
    }

    /// Drops the entries at and above `from`. Marks stay until a position behind the truncation replaces them.
    pub fn truncate(&mut self, from: LogIndex) {
        if from > self.last {
            return;
        }
        while self.runs.pop_back_if(|(first, _)| *first >= from).is_some() {}
        self.last = from.prev().max(self.baseline.0);
    }

    /// Drops the entries up to `index`, which becomes the baseline.
    pub fn release(&mut self, index: LogIndex) {
        let Some(term) = self.term(index) else { return };
        self.baseline = (index, term);
        while self.runs.len() > 1 && self.runs[1].0 <= index.next() {
            self.runs.pop_front();
        }
        match self.runs.front_mut() {
            Some(run) if index < self.last => run.0 = run.0.max(index.next()),
            _ => self.runs.clear(),
        }
        while self.marks.len() > 1 && self.marks[1].index <= index.next() {
            self.marks.pop_front();
        }
    }

    /// Forgets all entries; the log goes on behind `baseline`.
    pub fn reset(&mut self, baseline: (LogIndex, Term)) {
        *self = Self { baseline, last: baseline.0, truncated: true, ..Self::default() };
    }

    /// For recovery: the entries begin behind `baseline`, whose term is known from elsewhere.
    pub fn set_baseline(&mut self, baseline: (LogIndex, Term)) {
        self.baseline = baseline;
        if self.runs.is_empty() {
            self.last = baseline.0;
        }
    }

    /// The positions that follow are behind a truncation.
    pub fn note_truncation(&mut self) {
        self.truncated = true;
    }

    /// Notes where an entry is, by rising positions. Most notes are not kept.
    pub fn place(&mut self, index: LogIndex, pos: LogPos, after_truncation: bool) {
        let after_truncation = std::mem::take(&mut self.truncated) | after_truncation;
        let near = self.marks.back().is_some_and(|mark| {
            mark.pos.segment() == pos.segment()
                && pos.offset() - mark.pos.offset() < MARK_EVERY_BYTES as u64
        });
        if near && !after_truncation {
            return;
        }
        while self.marks.pop_back_if(|mark| mark.index >= index).is_some() {}
        self.marks.push_back(Mark { index, pos });
    }

    /// Where to start reading for each part of `lo..=hi`: a mark, and the last index to read from it.
    pub fn plan(&self, lo: LogIndex, hi: LogIndex) -> Vec<(Mark, LogIndex)> {
        let start = self.marks.partition_point(|mark| mark.index <= lo).saturating_sub(1);
        let mut parts = Vec::new();
        for (n, &mark) in self.marks.iter().enumerate().skip(start) {
            if mark.index > hi {
                break;
            }
            let end = self.marks.get(n + 1).map_or(hi, |next| next.index.prev().min(hi));
            parts.push((mark, end));
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(terms: &[u64]) -> Shape {
        let mut shape = Shape::default();
        for (i, &term) in terms.iter().enumerate() {
            shape.append(LogIndex(i as u64 + 1), Term(term));
        }
        shape
    }

    fn terms(shape: &Shape) -> Vec<Option<u64>> {
        (0..=8).map(|i| shape.term(LogIndex(i)).map(|t| t.0)).collect()
    }

    #[test]
    fn terms_follow_appends_truncations_and_releases() {
        let mut s = shape(&[1, 1, 2, 2, 5]);
        assert_eq!(terms(&s)[..7], [Some(0), Some(1), Some(1), Some(2), Some(2), Some(5), None]);
        s.truncate(LogIndex(4));
        assert_eq!(s.last(), (LogIndex(3), Term(2)));
        s.append(LogIndex(4), Term(6));
        s.release(LogIndex(2));
        assert_eq!(terms(&s)[..6], [None, None, Some(1), Some(2), Some(6), None]);
        s.release(LogIndex(4));
        assert_eq!((s.last(), s.runs.is_empty()), ((LogIndex(4), Term(6)), true));
        assert_eq!(terms(&s)[3..6], [None, Some(6), None]);
        s.append(LogIndex(5), Term(6));
        s.truncate(LogIndex(5));
        assert_eq!(s.last(), (LogIndex(4), Term(6)));
        s.reset((LogIndex(7), Term(9)));
        assert_eq!((s.first(), s.last()), (LogIndex(8), (LogIndex(7), Term(9))));
    }

    #[test]
    fn marks_are_sparse_but_never_skip_a_truncation_or_a_segment() {
        let mut s = shape(&[1; 8]);
        let pos = |segment, offset| LogPos::new(segment, offset);
        s.place(LogIndex(1), pos(1, 96), false);
        s.place(LogIndex(2), pos(1, 160), false);
        s.place(LogIndex(3), pos(2, 96), false);
        s.place(LogIndex(4), pos(2, 70_000), false);
        s.place(LogIndex(4), pos(2, 70_100), true);
        let plan: Vec<_> =
            s.plan(LogIndex(2), LogIndex(6)).iter().map(|(m, end)| (m.index.0, end.0)).collect();
        assert_eq!(plan, [(1, 2), (3, 3), (4, 6)]);
        assert_eq!(s.plan(LogIndex(5), LogIndex(5))[0].0.pos, pos(2, 70_100));
        s.release(LogIndex(3));
        assert_eq!(s.plan(LogIndex(4), LogIndex(4)).len(), 1);
    }
}
