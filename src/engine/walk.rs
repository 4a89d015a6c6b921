//! [`Walk`]: what one reader sees of the engine, from key to key, either way.
//!
//! It holds what is immutable (frozen memtables, tables, range deletes) for as long as it lives, and of the active memtable a
//! bounded copy, a [`Run`]. At the run's end it asks for the engine again, for the next run; when the active memtable was
//! frozen meanwhile, it takes all its sources anew. Its reader has pinned its sequence number, so that both show the same.
//!
//! It does not hold the engine between two calls: writers go on, and flushes and compactions are installed meanwhile; the files
//! that it reads stay until it is dropped or renews its sources.

use super::Engine;
use super::edit::MAX_LEVELS;
use super::error::EngineError;
use super::level_iter::LevelIter;
use super::memtable::MemIter;
use super::merge::{Merge, Source};
use super::run::{Run, RunIter, RunLimits};
use super::visible::{Found, Visible};
use crate::base::SequenceNumber;
use crate::limits::SCAN_SLICE_STEPS;
use crate::sstable::Fetch;
use std::sync::Arc;

/// Entries of the first run: a short walk should cost little.
const FIRST_RUN: usize = 16;
/// Bytes of a run.
const RUN_BYTES: usize = 1 << 20;
/// The run's place among the sources.
const RUN: usize = 0;

/// Where a step ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stand {
    /// At an entry.
    Entry,
    /// Past the bounds, or there is nothing more.
    End,
    /// It needs the engine to go on: [`Walk::renew`], then [`Walk::go`].
    Renew,
}

/// See the module.
pub struct Walk {
    seq: SequenceNumber,
    /// The first key that it may show.
    start: Vec<u8>,
    /// The first one past them; `None` = no end.
    end: Option<Vec<u8>>,
    visible: Visible<'static>,
    /// Which active memtable the run is of.
    generation: u64,
    /// Forwards the run holds the keys below this one, backwards those from this one on; `None`: all in the bounds.
    run_bound: Option<Vec<u8>>,
    run_entries: usize,
    back: bool,
    next: Next,
}

/// What [`Walk::go`] does first.
enum Next {
    Step,
    /// Another run, and everything to this place.
    Seek(RunIter, Option<Vec<u8>>),
    /// Another run, and only that to this place.
    Replace(RunIter, Vec<u8>),
}

impl Engine {
    /// Changes with each freeze of the active memtable.
    const fn generation(&self) -> u64 {
        self.counters.generations
    }

    /// A walk of the keys from `start` up to and without `end` as a reader at `seq` sees them, which is pinned. Aim it first.
    pub fn walk(&self, start: &[u8], end: Option<&[u8]>, seq: SequenceNumber) -> Walk {
        // No key is empty: the same range, and a legal seek.
        let start = if start.is_empty() { &[0] } else { start };
        Walk {
            seq,
            start: start.to_vec(),
            end: end.map(<[u8]>::to_vec),
            visible: self.visible_for(start, end, seq),
            generation: self.generation(),
            run_bound: None,
            run_entries: FIRST_RUN,
            back: false,
            next: Next::Step,
        }
    }

    /// All sources, with an empty run.
    fn visible_for(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        seq: SequenceNumber,
    ) -> Visible<'static> {
        let mut sources = vec![Source::Run(RunIter::new(Arc::default()))];
        let frozen = self.frozen.iter().map(|frozen| &frozen.memtable).filter(|m| !m.is_empty());
        sources.extend(frozen.map(|m| Source::Frozen(MemIter::new(Arc::clone(m)))));
        let wanted = self.version.level(0).iter();
        let wanted = wanted.filter(|t| t.meta.smallest_seq <= seq.0 && t.overlaps(start, end));
        sources.extend(wanted.map(|t| {
            // Opened when it is sought, outside of the engine.
            let tables = std::iter::once(Arc::clone(t)).collect();
            Source::Level(LevelIter::new(tables, 0..1, Fetch::Scan))
        }));
        for level in 1..MAX_LEVELS {
            let range = self.version.overlapping(level, start, end);
            if !range.is_empty() {
                let tables = Arc::clone(self.version.level(level));
                sources.push(Source::Level(LevelIter::new(tables, range, Fetch::Scan)));
            }
        }
        Visible::new(Merge::new(sources), Arc::clone(&self.range_deletes), seq)
    }
}

impl Walk {
    /// Prepares to go to the first entry at or after `key` that is in the bounds; [`Walk::go`] does. No I/O.
    pub fn aim(&mut self, engine: &Engine, key: &[u8]) {
        let key = key.max(&self.start).to_vec();
        self.aim_at(engine, false, Some(key));
    }

    /// Prepares to go to the last entry before `end` (`None` = the last of all) that is in the bounds; [`Walk::go`] does. No
    /// I/O.
    pub fn aim_before(&mut self, engine: &Engine, end: Option<&[u8]>) {
        let end = match (end, &self.end) {
            (Some(end), Some(own)) => Some(end.min(own)),
            (end, own) => end.or(own.as_deref()),
        };
        let end = end.map(<[u8]>::to_vec);
        self.aim_at(engine, true, end);
    }

    fn aim_at(&mut self, engine: &Engine, back: bool, at: Option<Vec<u8>>) {
        self.run_entries = FIRST_RUN;
        self.back = back;
        self.take_sources(engine);
        let run = self.next_run(engine, at.as_deref());
        self.next = Next::Seek(run, at);
    }

    /// Takes all sources anew when the active memtable is another one.
    fn take_sources(&mut self, engine: &Engine) -> bool {
        let renewed = self.generation != engine.generation();
        if renewed {
            self.generation = engine.generation();
            self.visible = engine.visible_for(&self.start, self.end.as_deref(), self.seq);
        }
        renewed
    }

    /// The next part of the active memtable: forwards from `at`, backwards before it.
    fn next_run(&mut self, engine: &Engine, at: Option<&[u8]>) -> RunIter {
        let limits = RunLimits {
            live: self.run_entries,
            bytes: RUN_BYTES,
            keys_only: false,
            keys: SCAN_SLICE_STEPS,
            reverse: self.back,
        };
        self.run_entries = (self.run_entries * 4).min(SCAN_SLICE_STEPS);
        let (start, end) = match at {
            Some(key) if !self.back => (key, self.end.as_deref()),
            end => (self.start.as_slice(), end),
        };
        let (run, bound) = Run::copy(&engine.active, start, end, self.seq, limits);
        self.run_bound = bound;
        RunIter::new(Arc::new(run))
    }

    /// Prepares to go on after [`Stand::Renew`]; [`Walk::go`] does. No I/O.
    pub fn renew(&mut self, engine: &Engine) {
        let Some(bound) = self.run_bound.take() else { return };
        let renewed = self.take_sources(engine);
        let run = self.next_run(engine, Some(&bound));
        self.next = if renewed { Next::Seek(run, Some(bound)) } else { Next::Replace(run, bound) };
    }

    /// Goes where it was prepared to go. Without the engine: this may wait for the disk.
    pub fn go(&mut self) -> Result<Stand, EngineError> {
        match std::mem::replace(&mut self.next, Next::Step) {
            Next::Step => {}
            Next::Replace(run, bound) => self.visible.replace(RUN, Source::Run(run), &bound)?,
            Next::Seek(run, at) => {
                self.visible.set_source(RUN, Source::Run(run));
                match at {
                    Some(key) if !self.back => self.visible.seek(&key)?,
                    end => self.visible.seek_back(end.as_deref())?,
                }
            }
        }
        self.find()
    }

    /// Goes to the next entry in the direction of the last seek.
    #[inline]
    pub fn step(&mut self) -> Result<Stand, EngineError> {
        self.visible.pass();
        self.find()
    }

    #[inline]
    fn find(&mut self) -> Result<Stand, EngineError> {
        let bound = self.run_bound.as_deref();
        let (start, end) = match self.back {
            false => (self.start.as_slice(), bound.or(self.end.as_deref())),
            true => (bound.unwrap_or(&self.start), self.end.as_deref()),
        };
        match self.visible.find(start, end, &mut usize::MAX.clone())? {
            Found::Entry => Ok(Stand::Entry),
            Found::End | Found::Limit if self.run_bound.is_some() => Ok(Stand::Renew),
            Found::End | Found::Limit => Ok(Stand::End),
        }
    }

    /// Whether it goes backwards.
    #[must_use]
    pub const fn is_back(&self) -> bool {
        self.back
    }

    /// What it stands at.
    #[must_use]
    pub const fn visible(&self) -> &Visible<'static> {
        &self.visible
    }
}
