//! Scans, in bounded slices.
//!
//! A slice looks at no more than [`SCAN_SLICE_STEPS`] keys and ends when its entries or bytes are full; it then says
//! at which key the next slice resumes. Every slice moves on by at least one key, so a scan always ends.
//!
//! | | forward | in reverse |
//! |---|---|---|
//! | order | ascending keys from the start of the range | descending keys from its end |
//! | [`ScanSlice::resume`] | a key at or after which everything left lies: the next slice's start | one *before* which it lies: the next slice's end |
//!
//! When a table may hold a key of the range, the slice becomes a [`ScanJob`]: a copied [`Run`] of the active memtable,
//! the frozen memtables, and the tables, all immutable. Otherwise it is answered from memory at once.

use super::edit::MAX_LEVELS;
use super::error::EngineError;
use super::level_iter::LevelIter;
use super::memtable::{MemIter, Memtable};
use super::merge::{Merge, Source};
use super::range_delete::RangeDeletes;
use super::run::{Run, RunIter, RunLimits};
use super::version::{LiveTable, Tables, Version};
use super::visible::{Found, Visible};
use crate::base::SequenceNumber;
use crate::limits::{MAX_SCAN_BYTES, MAX_SCAN_ENTRIES, SCAN_SLICE_STEPS};
use crate::sstable::Fetch;
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;

/// What to scan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScanOptions {
    /// The first key, included.
    pub start: Vec<u8>,
    /// The end of the range, excluded; `None` = to the last key.
    pub end: Option<Vec<u8>>,
    /// Most entries in the slice; cut to [`MAX_SCAN_ENTRIES`].
    pub limit: usize,
    /// Most key and value bytes in the slice, which one entry may exceed alone; cut to [`MAX_SCAN_BYTES`].
    pub max_bytes: usize,
    /// Whether values are left out (and not counted).
    pub keys_only: bool,
    /// From the end of the range down, by descending key.
    pub reverse: bool,
    /// The sequence number to read at; `None` = the last one.
    pub seq: Option<SequenceNumber>,
}

impl ScanOptions {
    /// Makes it the next slice, which begins where the one before said.
    pub fn go_on(&mut self, resume: Vec<u8>) {
        if self.reverse { self.end = Some(resume) } else { self.start = resume }
    }
}

impl Default for ScanOptions {
    fn default() -> Self {
        Self {
            start: Vec::new(),
            end: None,
            limit: MAX_SCAN_ENTRIES,
            max_bytes: MAX_SCAN_BYTES,
            keys_only: false,
            reverse: false,
            seq: None,
        }
    }
}

/// One key of a scan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScanEntry {
    /// The key.
    pub key: Vec<u8>,
    /// The sequence number that wrote it.
    pub seq: SequenceNumber,
    /// Its value; empty in a keys-only scan.
    pub value: Bytes,
}

/// A part of a scan.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ScanSlice {
    /// The sequence number it was read at. Pin it to read the following slices of the same state.
    pub seq: SequenceNumber,
    /// The entries, by ascending key, in reverse by descending key. May be empty although there is more: the slice met only
    /// tombstones.
    pub entries: Vec<ScanEntry>,
    /// Where the next slice starts, in reverse where it ends; `None` when the range is done.
    pub resume: Option<Vec<u8>>,
}

/// A slice, or the work that makes it.
#[derive(Debug)]
pub enum Scan {
    /// Answered from memory.
    Done(ScanSlice),
    /// A table may hold keys of the range.
    NeedsDisk(ScanJob),
}

/// The rest of a scan slice: pure, over immutable inputs, for [`Lane::Read`](crate::env::Lane::Read).
#[derive(Debug)]
pub struct ScanJob {
    options: ScanOptions,
    seq: SequenceNumber,
    run: Run,
    /// Keys from here on are not in `run`; in reverse, keys before this one.
    run_end: Option<Vec<u8>>,
    deletes: Arc<RangeDeletes>,
    frozen: Vec<Arc<Memtable>>,
    /// Of level 0.
    tables: Vec<Arc<LiveTable>>,
    /// Parts of the levels below it.
    levels: Vec<(Tables, Range<usize>)>,
}

impl ScanJob {
    /// Reads the slice. Blocks on the disk. An error concerns this scan only.
    pub fn run(self) -> Result<ScanSlice, EngineError> {
        let mut sources = vec![Source::Run(RunIter::new(Arc::new(self.run)))];
        sources.extend(self.frozen.into_iter().map(|t| Source::Frozen(MemIter::new(t))));
        for table in &self.tables {
            sources.push(Source::Table(table.open()?.iter()));
        }
        let levels = self.levels.into_iter();
        sources.extend(
            levels.map(|(tables, range)| Source::Level(LevelIter::new(tables, range, Fetch::Scan))),
        );
        let mut options = self.options;
        if let Some(bound) = &self.run_end {
            if options.reverse {
                options.start.clone_from(bound);
            } else {
                options.end = Some(bound.clone());
            }
        }
        let visible = Visible::new(Merge::new(sources), self.deletes, self.seq);
        let mut slice = slice(visible, &options, self.seq)?;
        if slice.resume.is_none() {
            slice.resume = self.run_end;
        }
        Ok(slice)
    }
}

/// Starts a slice over the given sources at `seq`, which the caller has checked.
pub(super) fn start<'a>(
    active: &Memtable,
    frozen: impl Iterator<Item = &'a Arc<Memtable>>,
    version: &Version,
    deletes: &Arc<RangeDeletes>,
    options: &ScanOptions,
    seq: SequenceNumber,
) -> Result<Scan, EngineError> {
    let mut options = options.clone();
    options.limit = options.limit.clamp(1, MAX_SCAN_ENTRIES);
    options.max_bytes = options.max_bytes.clamp(1, MAX_SCAN_BYTES);
    if options.start.is_empty() {
        // No key is empty: the same range, and a legal seek.
        options.start.push(0);
    }
    let end = options.end.as_deref();
    if end.is_some_and(|end| end <= options.start.as_slice()) {
        return Ok(Scan::Done(ScanSlice { seq, ..ScanSlice::default() }));
    }
    let wanted =
        |t: &&Arc<LiveTable>| t.meta.smallest_seq <= seq.0 && t.overlaps(&options.start, end);
    let tables: Vec<_> = version.level(0).iter().filter(wanted).cloned().collect();
    let levels: Vec<_> = (1..MAX_LEVELS)
        .map(|level| (version.level(level), version.overlapping(level, &options.start, end)))
        .filter(|(_, range)| !range.is_empty())
        .map(|(tables, range)| (Arc::clone(tables), range))
        .collect();
    if tables.is_empty() && levels.is_empty() {
        let mut sources = vec![Source::Active(MemIter::new(active))];
        sources.extend(frozen.map(|t| Source::Frozen(MemIter::new(Arc::clone(t)))));
        let visible = Visible::new(Merge::new(sources), Arc::clone(deletes), seq);
        return slice(visible, &options, seq).map(Scan::Done);
    }
    let limits = RunLimits {
        live: options.limit,
        bytes: options.max_bytes,
        keys_only: options.keys_only,
        keys: SCAN_SLICE_STEPS,
        reverse: options.reverse,
    };
    let (run, run_end) = Run::copy(active, &options.start, end, seq, limits);
    let (frozen, deletes) = (frozen.cloned().collect(), Arc::clone(deletes));
    Ok(Scan::NeedsDisk(ScanJob { options, seq, run, run_end, deletes, frozen, tables, levels }))
}

/// Reads one slice of the options' range.
fn slice(
    mut visible: Visible<'_>,
    options: &ScanOptions,
    seq: SequenceNumber,
) -> Result<ScanSlice, EngineError> {
    let mut out = ScanSlice { seq, ..ScanSlice::default() };
    let (start, end) = (options.start.as_slice(), options.end.as_deref());
    let (mut bytes, mut steps) = (0, SCAN_SLICE_STEPS);
    if options.reverse {
        visible.seek_back(end)?;
    } else {
        visible.seek(start)?;
    }
    loop {
        match visible.find(start, end, &mut steps)? {
            Found::End => return Ok(out),
            Found::Limit => {
                out.resume = Some(visible.resume());
                return Ok(out);
            }
            Found::Entry => {}
        }
        let key = visible.key();
        let size = key.len() + if options.keys_only { 0 } else { visible.value().len() };
        if let Some(last) = out.entries.last()
            && (out.entries.len() >= options.limit || bytes + size > options.max_bytes)
        {
            let resume = if options.reverse { &last.key } else { key };
            out.resume = Some(resume.to_vec());
            return Ok(out);
        }
        bytes += size;
        let value = if options.keys_only { Bytes::new() } else { visible.value_bytes() };
        out.entries.push(ScanEntry { key: key.to_vec(), seq: visible.seq(), value });
        visible.pass();
    }
}
