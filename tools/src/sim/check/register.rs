//! Linearizability of one register, black box: only what was asked, when, and what was answered.
//!
//! Linearizability is compositional (Herlihy and Wing, 1990): a history over many keys is linearizable if and only if each
//! key's is, so the caller cuts the history by key and asks [`check`] once per key. A multi-key batch is one write on
//! each of its keys and a page of a scan one read on each key in its range; that a batch is *atomic* is not this
//! checker's business but that of [`super::model`], which knows the total order.
//!
//! The search is Wing and Gong's with Lowe's memoization ("Testing for linearizability", 2017): a configuration is (which
//! operations took effect, the register's value); from one, any operation may be next whose call precedes every return
//! of those that are still missing. No configuration is visited twice. What makes it fast here, each without loss:
//!
//! - *reads at once*: an allowed read that matches the value takes effect at once, since it changes nothing;
//! - *values are unique*, so once a value is overwritten no read of it may be missing;
//! - *unknown outcomes*: a write that nobody saw is left out (it may take effect after everything else, or never); one
//!   that somebody saw took effect before the first read that saw it returned, which closes it. An unknown delete
//!   leaves no trace of its own, but any two of them are interchangeable once called, so only their *number* is part of a
//!   configuration.
//!
//! Times are numbers of events, all different; the caller draws them from one counter.

use std::collections::{BTreeMap, BTreeSet};

/// Configurations visited before [`Answer::GaveUp`].
pub const MAX_CONFIGURATIONS: usize = 300_000;

/// What one operation did to the register; `None` is "no value".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Action {
    /// Set it; values are unique in a history, except `None`.
    Write(Option<u64>),
    /// Found this.
    Read(Option<u64>),
}

/// One operation of a history.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Operation {
    /// When it was called.
    pub call: u64,
    /// When it was answered; `None`: its outcome is unknown, it may take effect at any time after its call, or never.
    pub ret: Option<u64>,
    /// What it did.
    pub action: Action,
}

/// The verdict on a history.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// There is an order.
    Linearizable,
    /// There is none: an operation that no order could get past, among those that come closest.
    Not {
        /// It.
        stuck: Operation,
        /// How many operations took effect in the longest order found.
        explained: usize,
    },
    /// Too many configurations.
    GaveUp,
}

/// A place in the search: operations before `from` took effect, and those in `ahead`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Configuration {
    from: usize,
    /// Later ones that took effect, ascending.
    ahead: Vec<usize>,
    value: Option<u64>,
    /// How many unknown deletes took effect.
    deletes: usize,
}

struct Search {
    /// By call.
    ops: Vec<(u64, u64, Action)>,
    /// The calls of unknown deletes, ascending.
    deletes: Vec<u64>,
    /// Which operations read a value.
    readers: BTreeMap<u64, Vec<usize>>,
}

/// Judges the history of one register that holds no value at first. The order of `history` does not matter.
#[must_use]
pub fn check(history: &[Operation]) -> Answer {
    let search = match Search::new(history) {
        Ok(search) => search,
        Err(stuck) => return Answer::Not { stuck, explained: 0 },
    };
    search.run()
}

impl Search {
    /// Closes what is open; an error is a read of a value that nobody wrote, or wrote only later.
    fn new(history: &[Operation]) -> Result<Self, Operation> {
        let mut first_seen: BTreeMap<u64, u64> = BTreeMap::new();
        for op in history {
            if let (Action::Read(Some(value)), Some(ret)) = (op.action, op.ret) {
                let seen = first_seen.entry(value).or_insert(ret);
                *seen = ret.min(*seen);
            }
        }
        let mut written = BTreeMap::new();
        let (mut ops, mut deletes) = (Vec::new(), Vec::new());
        for op in history {
            match (op.action, op.ret) {
                (Action::Read(_), None) => {}
                (Action::Write(None), None) => deletes.push(op.call),
                (Action::Write(Some(value)), None) => {
                    written.insert(value, op.call);
                    if let Some(&seen) = first_seen.get(&value) {
                        ops.push((op.call, seen, op.action));
                    }
                }
                (action, Some(ret)) => {
                    if let Action::Write(Some(value)) = action {
                        let twice = written.insert(value, op.call);
                        assert!(twice.is_none(), "value {value} was written twice: {op:?}");
                    }
                    ops.push((op.call, ret, action));
                }
            }
        }
        ops.sort_unstable();
        deletes.sort_unstable();
        let mut readers: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for (at, &(call, ret, action)) in ops.iter().enumerate() {
            let Action::Read(Some(value)) = action else { continue };
            if written.get(&value).is_none_or(|&write| write > ret) {
                return Err(Operation { call, ret: Some(ret), action });
            }
            readers.entry(value).or_default().push(at);
        }
        Ok(Self { ops, deletes, readers })
    }

    fn run(&self) -> Answer {
        let mut stack = vec![Configuration { from: 0, ahead: Vec::new(), value: None, deletes: 0 }];
        let mut seen = BTreeSet::new();
        let mut furthest = (0, 0);
        while let Some(mut here) = stack.pop() {
            let horizon = self.absorb_reads(&mut here);
            if here.from == self.ops.len() {
                return Answer::Linearizable;
            }
            furthest = furthest.max((here.from + here.ahead.len(), here.from));
            if !seen.insert(here.clone()) {
                continue;
            }
            if seen.len() > MAX_CONFIGURATIONS {
                return Answer::GaveUp;
            }
            self.push_next(&here, horizon, &mut stack);
        }
        let (call, ret, action) = self.ops[furthest.1];
        Answer::Not { stuck: Operation { call, ret: Some(ret), action }, explained: furthest.0 }
    }

    /// The operations that did not take effect and were called before every return among them, by call; and that first
    /// return.
    fn allowed(&self, here: &Configuration) -> (Vec<usize>, u64) {
        let (mut allowed, mut horizon) = (Vec::new(), u64::MAX);
        for (at, &(call, ret, _)) in self.ops.iter().enumerate().skip(here.from) {
            if call > horizon {
                break;
            }
            if here.ahead.binary_search(&at).is_err() {
                horizon = horizon.min(ret);
                allowed.push(at);
            }
        }
        allowed.retain(|&at| self.ops[at].0 <= horizon);
        (allowed, horizon)
    }

    /// Lets every allowed read that fits take effect; the first return among what is then missing.
    fn absorb_reads(&self, here: &mut Configuration) -> u64 {
        loop {
            let (allowed, horizon) = self.allowed(here);
            let fits = |at: &usize| self.ops[*at].2 == Action::Read(here.value);
            let reads: Vec<usize> = allowed.into_iter().filter(fits).collect();
            if reads.is_empty() {
                return horizon;
            }
            for at in reads {
                here.take(at);
            }
        }
    }

    fn push_next(&self, here: &Configuration, horizon: u64, stack: &mut Vec<Configuration>) {
        let missing = |at: &usize| *at >= here.from && here.ahead.binary_search(at).is_err();
        let still_read = |value| self.readers.get(&value).is_some_and(|r| r.iter().any(missing));
        if here.value.is_some_and(still_read) {
            return;
        }
        // The last one pushed is tried first: the write that returns first, an unknown delete as the last resort.
        if here.value.is_some()
            && self.deletes.get(here.deletes).is_some_and(|&call| call <= horizon)
        {
            stack.push(Configuration { value: None, deletes: here.deletes + 1, ..here.clone() });
        }
        let (mut writes, _) = self.allowed(here);
        writes.retain(|&at| matches!(self.ops[at].2, Action::Write(_)));
        writes.sort_unstable_by_key(|&at| std::cmp::Reverse(self.ops[at].1));
        for at in writes {
            let Action::Write(value) = self.ops[at].2 else { continue };
            let mut next = Configuration { value, ..here.clone() };
            next.take(at);
            stack.push(next);
        }
    }
}

impl Configuration {
    fn take(&mut self, at: usize) {
        if let Err(slot) = self.ahead.binary_search(&at) {
            self.ahead.insert(slot, at);
        }
        let run = self.ahead.iter().zip(self.from..).take_while(|(a, b)| **a == *b).count();
        self.ahead.drain(..run);
        self.from += run;
    }
}

#[cfg(test)]
#[path = "register_tests.rs"]
mod tests;
