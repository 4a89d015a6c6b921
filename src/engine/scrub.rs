//! [`Scrub`]: checks every block of every table, the manifest, and the log beside them, in bounded steps, while they are in
//! use or while they are not. It reads the files, not what is cached of them, and changes nothing.
//!
//! ```text
//!  manifest: every edit, and that they add up  ─▶  tables: existence, length, every block, every claim  ─▶  log: every record
//! ```
//!
//! What is wrong with one file does not end it: the fault is noted, and the next file is looked at. The tables are those of
//! one version, which is pinned, so none is removed meanwhile; what the manifest says may be newer.

use super::edit::{State, TableMeta};
use super::error::EngineError;
use super::manifest::{self, table_file_name};
use super::version::{Difference, Version, check_properties};
use super::{Engine, recovery};
use crate::env::{Disk, OpenMode};
use crate::limits::MAX_SCRUB_FAULTS;
use crate::sstable::Table;
use crate::sstable::verify::Verification;
use crate::wal::{LogCheck, LogKind};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

/// How often the manifest is read before what is found in it is believed: it may be written to, or replaced.
const READINGS: u32 = 3;

/// What a check read, and what it found.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct ScrubReport {
    /// Bytes read so far.
    pub bytes: u64,
    /// Bytes of all tables; manifest and log come on top.
    pub total_bytes: u64,
    /// Tables checked.
    pub tables: u64,
    /// Manifests checked.
    pub manifests: u64,
    /// Segments of the log checked.
    pub segments: u64,
    /// Files that are damaged, missing, or cannot be read.
    pub damaged: u64,
    /// What is wrong with the first of them, at most [`MAX_SCRUB_FAULTS`]: file, offset, expected, and found.
    pub faults: Vec<String>,
}

/// See the module.
pub struct Scrub {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    manifest_left: bool,
    tables: VecDeque<TableMeta>,
    current: Option<(Table, Verification)>,
    log: Log,
    report: ScrubReport,
    /// Holds the tables.
    _pin: Option<Arc<Version>>,
}

enum Log {
    None,
    /// Not begun.
    At(LogKind, PathBuf),
    Checking(Box<LogCheck>),
}

impl Engine {
    /// The work that checks the manifest, the tables, and `log`, of this kind in this directory.
    #[must_use]
    pub fn scrub(&self, log: Option<(LogKind, PathBuf)>) -> Scrub {
        let pin = Some(Arc::clone(&self.version));
        let disk = Arc::clone(&self.env.disk);
        Scrub::new(disk, self.options.dir.clone(), &self.durable, log, pin)
    }
}

impl Scrub {
    /// Of a directory that nobody works in.
    ///
    /// # Errors
    /// The manifest cannot be read, so it is not known which tables count.
    pub fn of_dir(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        log: Option<(LogKind, PathBuf)>,
    ) -> Result<Self, EngineError> {
        let state = recovery::read_state(&*disk, &dir)?;
        Ok(Self::new(disk, dir, &state, log, None))
    }

    fn new(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        state: &State,
        log: Option<(LogKind, PathBuf)>,
        pin: Option<Arc<Version>>,
    ) -> Self {
        let tables: VecDeque<_> = state.tables.values().cloned().collect();
        let total_bytes = tables.iter().map(|table| table.bytes).sum();
        // An engine that was never flushed, on a full disk, may have none.
        Self {
            disk,
            dir,
            manifest_left: true,
            tables,
            current: None,
            log: log.map_or(Log::None, |(kind, dir)| Log::At(kind, dir)),
            report: ScrubReport { total_bytes, ..ScrubReport::default() },
            _pin: pin,
        }
    }

    /// What was read and found so far.
    #[must_use]
    pub const fn report(&self) -> &ScrubReport {
        &self.report
    }

    /// Does all of it. Blocks.
    #[must_use]
    pub fn run(mut self) -> ScrubReport {
        while !self.step(u64::MAX) {}
        self.report
    }

    /// Reads about `max_bytes` more; whether everything was read. Blocks on the disk.
    pub fn step(&mut self, max_bytes: u64) -> bool {
        if self.manifest_left {
            self.manifest_left = false;
            match self.check_manifest() {
                Ok(bytes) => {
                    self.report.manifests += 1;
                    self.report.bytes += bytes;
                }
                Err(error) => self.fault(&error),
            }
            return false;
        }
        if let Some(meta) = self.tables.front().cloned() {
            match self.check_table(&meta, max_bytes) {
                Ok(false) => return false,
                Ok(true) => self.report.tables += 1,
                Err(error) => self.fault(&error),
            }
            self.current = None;
            self.tables.pop_front();
            return false;
        }
        self.check_log(max_bytes)
    }

    fn fault(&mut self, error: &dyn std::fmt::Display) {
        log::error!("verify: {error}");
        self.report.damaged += 1;
        if self.report.faults.len() < MAX_SCRUB_FAULTS {
            self.report.faults.push(error.to_string());
        }
    }

    fn check_manifest(&self) -> Result<u64, EngineError> {
        let mut reading = 1;
        loop {
            match self.read_manifest() {
                Err(_) if reading < READINGS => reading += 1,
                result => return result,
            }
        }
    }

    fn read_manifest(&self) -> Result<u64, EngineError> {
        let Some(number) = manifest::read_current(&*self.disk, &self.dir)? else {
            let path = self.dir.join(manifest::CURRENT);
            return Err(EngineError::corrupt(&path, 0, "the name of the manifest", "no such file"));
        };
        let path = self.dir.join(LogKind::Manifest.file_name(number));
        manifest::replay(&*self.disk, &path, Some(number), &mut |_, _| {})?;
        Ok(self.disk.open(&path, OpenMode::Read)?.len()?)
    }

    /// Whether the table was checked to its end.
    fn check_table(&mut self, meta: &TableMeta, max_bytes: u64) -> Result<bool, EngineError> {
        let (table, mut verification) = match self.current.take() {
            Some(current) => current,
            None => {
                let table =
                    open_table(&*self.disk, self.dir.join(table_file_name(meta.number)), meta)?;
                // Index, filter, properties, and footer were read to open it.
                let data: u64 = table.properties().data_bytes;
                self.report.bytes += meta.bytes.saturating_sub(data);
                let verification = Verification::new(&table);
                (table, verification)
            }
        };
        let before = verification.offset();
        let done = verification.step(&table, max_bytes)?;
        let after = if done { table.footer().data_end() } else { verification.offset() };
        self.report.bytes += after.saturating_sub(before);
        if !done {
            self.current = Some((table, verification));
        }
        Ok(done)
    }

    fn check_log(&mut self, max_bytes: u64) -> bool {
        match std::mem::replace(&mut self.log, Log::None) {
            Log::None => true,
            Log::At(kind, dir) => {
                match LogCheck::new(Arc::clone(&self.disk), kind, dir) {
                    Ok(check) => self.log = Log::Checking(Box::new(check)),
                    Err(error) => self.fault(&error),
                }
                false
            }
            Log::Checking(mut check) => {
                let (segments, bytes) = (check.segments, check.bytes);
                let result = check.step(max_bytes);
                self.report.segments += check.segments - segments;
                self.report.bytes += check.bytes - bytes;
                match result {
                    Ok(true) => return true,
                    Ok(false) => {}
                    Err(error) => self.fault(&error),
                }
                self.log = Log::Checking(check);
                false
            }
        }
    }
}

/// Opens a table by itself, past every cache, and checks that it is the one that `meta` describes.
fn open_table(disk: &dyn Disk, path: PathBuf, meta: &TableMeta) -> Result<Table, EngineError> {
    if !disk.exists(&path)? {
        return Err(EngineError::MissingTable { path });
    }
    let file = disk.open(&path, OpenMode::Read)?;
    let bytes = file.len()?;
    let wrong = |Difference { what, expected, found }| EngineError::WrongTable {
        path: path.clone(),
        what,
        expected,
        found,
    };
    Difference::unless_equal("its length", meta.bytes, bytes).map_err(wrong)?;
    let table = Table::open(file, meta.number)?;
    check_properties(meta, &table).map_err(wrong)?;
    Ok(table)
}
