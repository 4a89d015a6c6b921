//! Flush: a frozen memtable becomes a table. The two jobs of it, as pure functions.
//!
//! ```text
//!  freeze ─▶ Lane::Flush: build(<n>.sst), sync, sync dir, open ─▶ Lane::Manifest: edit, sync ─▶ install on the loop
//!            (memtable stays readable all the while)              (table + applied + sequence numbers, atomically)
//! ```
//!
//! Versions of a key that no reader can want any more are left out ([`Keep`]). Tombstones stay: a flush does not know what older
//! tables hold.

use super::edit::TableMeta;
use super::error::EngineError;
use super::gc::{Keep, Verdict};
use super::manifest::{Change, Manifest, remove_or_warn, table_file_name};
use super::memtable::{MemIter, Memtable};
use super::range_delete::RangeDeletes;
use super::version::LiveTable;
use crate::base::SequenceNumber;
use crate::base::internal_key::ValueKind;
use crate::env::{Disk, OpenMode};
use crate::sstable::{BuildOptions, TableBuilder, TableCache, TableSummary};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The input of a table build.
pub(super) struct BuildJob {
    pub disk: Arc<dyn Disk>,
    pub tables: Arc<TableCache>,
    pub dir: PathBuf,
    pub number: u64,
    pub memtable: Arc<Memtable>,
    /// Those live when the flush began, all of the memtable's among them.
    pub deletes: Arc<RangeDeletes>,
    pub horizon: SequenceNumber,
    pub options: BuildOptions,
}

/// A table that is on the disk and in no manifest yet.
pub(super) struct Built {
    /// `None`: everything was left out.
    pub table: Option<Arc<LiveTable>>,
    /// Versions left out.
    pub dropped: u64,
}

impl BuildJob {
    /// Builds, syncs, and opens the table. Leaves no file behind when it fails for lack of space.
    pub fn run(self) -> Result<Built, EngineError> {
        let path = self.dir.join(table_file_name(self.number));
        let built = self.build(&path);
        if built.as_ref().is_err_and(EngineError::is_disk_full) {
            remove_or_warn(&*self.disk, &path);
        }
        built
    }

    fn build(&self, path: &Path) -> Result<Built, EngineError> {
        let file = self.disk.open(path, OpenMode::CreateNew)?;
        let mut builder = TableBuilder::new(file, self.options.clone());
        let dropped = add_visible(self, &mut builder)?;
        if dropped == self.memtable.len() as u64 {
            drop(builder);
            remove_or_warn(&*self.disk, path);
            return Ok(Built { table: None, dropped });
        }
        let summary = builder.finish()?;
        if !planted!(TableDirNotSynced) {
            self.disk.sync_dir(&self.dir)?;
        }
        let mut meta = meta_of(self.number, &summary);
        meta.cleared_to = self.deletes.cleared_to(&meta, self.horizon.0);
        let table = LiveTable::new(&self.tables, &self.dir, &meta);
        // What cannot be read back is not installed.
        table.open()?;
        Ok(Built { table: Some(Arc::new(table)), dropped })
    }
}

/// Adds what a reader at or above `horizon` can see; returns how many versions were left out.
fn add_visible(job: &BuildJob, builder: &mut TableBuilder) -> Result<u64, EngineError> {
    let BuildJob { memtable, horizon, .. } = job;
    let mut dropped = 0;
    let mut keep = Keep::new(*horizon, &job.deletes);
    let mut iter = MemIter::new(Arc::clone(memtable));
    iter.seek_to_first();
    while let Some(entry) = iter.entry() {
        let lost = planted!(TombstonesDropped) && entry.trailer & 0xff == ValueKind::Delete as u64;
        match keep.judge(entry.key, entry.trailer, || true) {
            Verdict::Hidden | Verdict::Spent => dropped += 1,
            Verdict::Keep if lost => {}
            Verdict::Keep => builder.add(entry.key, entry.trailer, entry.value)?,
        }
        iter.next();
    }
    Ok(dropped)
}

/// What the manifest says about a new table of level 0.
pub(super) fn meta_of(number: u64, summary: &TableSummary) -> TableMeta {
    let p = &summary.properties;
    TableMeta {
        level: 0,
        number,
        bytes: summary.bytes,
        entries: p.entries,
        deletes: p.deletes,
        smallest_seq: p.smallest_seq,
        largest_seq: p.largest_seq,
        smallest_key: p.smallest_key.clone(),
        largest_key: p.largest_key.clone(),
        cleared_to: 0,
    }
}

/// The input of an installation. It takes the manifest along and brings it back.
pub(super) struct InstallJob {
    pub manifest: Manifest,
    pub change: Change,
    pub rotate_bytes: u64,
}

/// An installation that was tried.
pub(super) struct Installed {
    pub manifest: Manifest,
    pub result: Result<(), EngineError>,
}

impl InstallJob {
    /// Makes the edit durable.
    pub fn run(mut self) -> Installed {
        let result = self.manifest.install(&self.change, self.rotate_bytes);
        Installed { manifest: self.manifest, result }
    }
}
