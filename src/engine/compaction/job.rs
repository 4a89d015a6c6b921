//! The work of a compaction: pure but for the disk, over immutable tables, for [`Lane::Compact`](crate::env::Lane::Compact).
//!
//! It merges its inputs, leaves out what [`Keep`] says, and writes tables of the output level. An output ends, always between
//! two user keys, when it is large enough; at the border of a table of the level below (a *grandparent*) once it is half as large;
//! or when it overlaps with too many grandparents: then its own compaction would be too large.
//!
//! Same inputs, same bytes. Nothing that was there is changed: the inputs stay as they are, and when the job does not succeed
//! its outputs are removed, or, if that is not possible any more, by the next open.

use super::super::edit::{MAX_LEVELS, TableMeta};
use super::super::error::EngineError;
use super::super::flush::meta_of;
use super::super::gc::{Keep, Verdict};
use super::super::level_iter::LevelIter;
use super::super::manifest::{remove_or_warn, table_file_name};
use super::super::merge::{Merge, Source};
use super::super::range_delete::RangeDeletes;
use super::super::version::{LiveTable, Tables, Version};
use super::policy::Pick;
use crate::base::SequenceNumber;
use crate::env::{Disk, OpenMode};
use crate::sstable::{BuildOptions, Fetch, TableBuilder, TableCache, TableError};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// After so many versions it looks whether it is still wanted, and says how far it is.
const STEP: u64 = 1_024;

/// What owner and job tell each other while it runs.
#[derive(Debug, Default)]
pub(in crate::engine) struct Progress {
    /// Key and value bytes merged so far.
    pub merged_bytes: AtomicU64,
    /// Set by the owner: stop, nobody wants the result.
    pub cancelled: AtomicBool,
}

/// The input of a compaction.
pub(in crate::engine) struct CompactJob {
    pub disk: Arc<dyn Disk>,
    pub tables: Arc<TableCache>,
    pub dir: PathBuf,
    pub build: BuildOptions,
    pub pick: Pick,
    /// What the tables were when it was picked: what is below, and what is beside.
    pub version: Arc<Version>,
    pub horizon: SequenceNumber,
    /// The range deletes that were live: those up to the horizon are applied.
    pub deletes: Arc<RangeDeletes>,
    /// File numbers for its outputs.
    pub numbers: Range<u64>,
    pub table_bytes: u64,
    /// What must be free beside its outputs.
    pub spare_bytes: u64,
    /// Outputs end when they overlap with more bytes of the level below than this.
    pub most_overlap: u64,
    pub progress: Arc<Progress>,
}

/// Tables that are on the disk and in no manifest yet.
#[derive(Debug)]
pub(in crate::engine) struct Compacted {
    pub tables: Vec<Arc<LiveTable>>,
    /// Versions left out because no reader can want them.
    pub hidden: u64,
    /// Tombstones left out because they hide nothing.
    pub spent: u64,
}

/// Why there are no tables.
#[derive(Debug)]
pub(in crate::engine) enum Fault {
    /// An input cannot be read.
    Input(EngineError),
    /// The outputs might not fit on the disk: nothing was written.
    NoRoom {
        /// Bytes that may be needed.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// An output cannot be written.
    Output(EngineError),
    /// The owner did not want it any more.
    Cancelled,
}

impl CompactJob {
    /// Does it. Blocks on the disk.
    pub fn run(self) -> Result<Compacted, Fault> {
        let needed = self.pick.bytes() + self.spare_bytes;
        if let Ok(free) = self.disk.free_bytes(&self.dir)
            && free < needed
        {
            return Err(Fault::NoRoom { needed, free });
        }
        let mut outputs = Outputs {
            job: &self,
            next: self.numbers.start,
            open: None,
            done: Vec::new(),
            grandparents: Grandparents::new(&self),
        };
        let merged = merge(&self, &mut outputs);
        let written = self.numbers.start..outputs.next;
        let result = match merged {
            Ok((hidden, spent)) => match outputs.finish() {
                Ok(tables) => Ok(Compacted { tables, hidden, spent }),
                Err(e) => Err(Fault::Output(e)),
            },
            Err(fault) => {
                drop(outputs);
                Err(fault)
            }
        };
        let keep = match &result {
            Ok(_) => true,
            // The process stops: what it leaves is evidence until the next open.
            Err(Fault::Output(e) | Fault::Input(e)) if e.is_simulated_crash() => true,
            Err(Fault::Output(e)) => !e.is_disk_full(),
            Err(Fault::Input(_) | Fault::Cancelled | Fault::NoRoom { .. }) => false,
        };
        if !keep {
            for number in written {
                remove_or_warn(&*self.disk, &self.dir.join(table_file_name(number)));
            }
        }
        if result.is_ok() && planted!(InputsRemovedEarly) {
            for input in self.pick.inputs() {
                let path = self.dir.join(table_file_name(input.meta.number));
                remove_or_warn(&*self.disk, &path);
            }
        }
        result
    }
}

/// Merges the inputs into `outputs`; returns how many versions and tombstones were left out.
fn merge(job: &CompactJob, outputs: &mut Outputs<'_>) -> Result<(u64, u64), Fault> {
    let mut merge = Merge::new(sources(&job.pick));
    merge.seek(&[0], u64::MAX).map_err(Fault::Input)?;
    let mut keep = Keep::new(job.horizon, &job.deletes);
    let mut below = Below::new(job);
    let (mut hidden, mut spent, mut merged_bytes) = (0, 0, 0);
    let mut last_key: Vec<u8> = Vec::new();
    for step in 0_u64.. {
        if step.is_multiple_of(STEP) {
            if job.progress.cancelled.load(Ordering::Relaxed) {
                return Err(Fault::Cancelled);
            }
            job.progress.merged_bytes.store(merged_bytes, Ordering::Relaxed);
        }
        let Some((key, trailer)) = merge.key() else { break };
        merged_bytes += (key.len() + 8 + merge.value_slice().len()) as u64;
        match keep.judge(key, trailer, || below.may_hold(key)) {
            Verdict::Hidden => hidden += 1,
            Verdict::Spent => spent += 1,
            Verdict::Keep => {
                let new_key = last_key != key;
                if new_key {
                    last_key.clear();
                    last_key.extend_from_slice(key);
                }
                outputs.add(key, trailer, &merge.value(), new_key).map_err(fault_of_output)?;
            }
        }
        merge.next().map_err(Fault::Input)?;
    }
    job.progress.merged_bytes.store(merged_bytes, Ordering::Relaxed);
    Ok((hidden, spent))
}

/// What the builder refuses came from inputs that contradict each other: that is not the disk's fault.
fn fault_of_output(error: EngineError) -> Fault {
    match error {
        EngineError::Table(
            TableError::OutOfOrder { .. }
            | TableError::UnknownKind { .. }
            | TableError::EntryTooLarge { .. },
        ) => Fault::Input(error),
        error => Fault::Output(error),
    }
}

/// Tables of level 0 overlap and are merged one by one; those of other levels are walked one after the other.
fn sources(pick: &Pick) -> Vec<Source<'static>> {
    let mut sources = Vec::new();
    let mut level = |tables: &[Arc<LiveTable>]| {
        if !tables.is_empty() {
            let all: Tables = tables.into();
            sources.push(Source::Level(LevelIter::new(all, 0..tables.len(), Fetch::Once)));
        }
    };
    if pick.level > 0 {
        level(&pick.upper);
    } else {
        for table in &pick.upper {
            level(std::slice::from_ref(table));
        }
    }
    level(&pick.lower);
    sources
}

/// Whether a key may have a version below the output level. Keys are asked for in ascending order.
struct Below<'a> {
    /// The levels below, each with the first table that may hold what comes.
    levels: Vec<(&'a Tables, usize)>,
}

impl<'a> Below<'a> {
    fn new(job: &'a CompactJob) -> Self {
        let levels = (job.pick.output + 1..MAX_LEVELS).map(|l| (job.version.level(l), 0));
        Self { levels: levels.filter(|(tables, _)| !tables.is_empty()).collect() }
    }

    fn may_hold(&mut self, key: &[u8]) -> bool {
        if planted!(TombstoneDroppedEarly) {
            return false;
        }
        self.levels.iter_mut().any(|(tables, at)| {
            while tables.get(*at).is_some_and(|t| t.meta.largest_key.as_slice() < key) {
                *at += 1;
            }
            tables.get(*at).is_some_and(|t| t.meta.smallest_key.as_slice() <= key)
        })
    }
}

/// The tables that the outputs will be merged with one day.
struct Grandparents<'a> {
    tables: &'a [Arc<LiveTable>],
    at: usize,
    /// Bytes of those that the present output overlaps with, about.
    overlap: u64,
    /// Whether the last key began a new one.
    crossed: bool,
}

impl<'a> Grandparents<'a> {
    fn new(job: &'a CompactJob) -> Self {
        let level = job.pick.output + 1;
        let tables = if level < MAX_LEVELS { &job.version.level(level)[..] } else { &[] };
        Self { tables, at: 0, overlap: 0, crossed: false }
    }

    fn go_to(&mut self, key: &[u8]) {
        self.crossed = false;
        while let Some(table) = self.tables.get(self.at)
            && table.meta.largest_key.as_slice() < key
        {
            self.overlap += table.meta.bytes;
            self.crossed = true;
            self.at += 1;
        }
    }
}

/// Writes the tables.
struct Outputs<'a> {
    job: &'a CompactJob,
    /// The next file number.
    next: u64,
    open: Option<(u64, TableBuilder)>,
    done: Vec<TableMeta>,
    grandparents: Grandparents<'a>,
}

impl Outputs<'_> {
    fn add(
        &mut self,
        key: &[u8],
        trailer: u64,
        value: &[u8],
        new_key: bool,
    ) -> Result<(), EngineError> {
        if new_key {
            self.grandparents.go_to(key);
            if self.is_full() {
                self.end()?;
            }
        }
        if self.open.is_none() {
            let number = self.next;
            let path = self.job.dir.join(table_file_name(number));
            let file = self.job.disk.open(&path, OpenMode::CreateNew)?;
            self.next += 1;
            self.open = Some((number, TableBuilder::new(file, self.job.build.clone())));
            self.grandparents.overlap = 0;
        }
        let (_, builder) = self.open.as_mut().expect("opened above");
        builder.add(key, trailer, value)?;
        Ok(())
    }

    fn is_full(&self) -> bool {
        let Some((number, builder)) = &self.open else { return false };
        // The last number takes all the rest. There are numbers for far more tables than should come about.
        if number + 1 >= self.job.numbers.end {
            return false;
        }
        let (bytes, most) = (builder.data_bytes(), self.job.table_bytes);
        bytes >= most
            || (self.grandparents.crossed && bytes >= most / 2)
            || self.grandparents.overlap > self.job.most_overlap
    }

    fn end(&mut self) -> Result<(), EngineError> {
        let Some((number, builder)) = self.open.take() else { return Ok(()) };
        let summary = builder.finish()?;
        let meta = meta_of(number, &summary);
        let level = self.job.pick.output;
        let cleared_to = self.job.deletes.cleared_to(&meta, self.job.horizon.0);
        self.done.push(TableMeta { level, cleared_to, ..meta });
        Ok(())
    }

    /// Ends the last one, makes the names durable, and opens all.
    fn finish(mut self) -> Result<Vec<Arc<LiveTable>>, EngineError> {
        self.end()?;
        let CompactJob { disk, tables, dir, .. } = self.job;
        if !self.done.is_empty() && !planted!(TableDirNotSynced) {
            disk.sync_dir(dir)?;
        }
        let open = |meta| {
            let table = LiveTable::new(tables, dir, meta);
            // What cannot be read back is not installed.
            table.open()?;
            Ok(Arc::new(table))
        };
        self.done.iter().map(open).collect()
    }
}
