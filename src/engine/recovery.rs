//! Opening an engine's directory.
//!
//! 1. `CURRENT` names the manifest; without one the directory is new, unless it holds tables.
//! 2. The manifest's edits add up to the state. A torn last edit was never counted on, and is dropped.
//! 3. Every table of the state has to be there, with the length that the manifest says; a missing or longer or shorter one is
//!    fatal: nothing has been changed so far. None is opened: other damage is an error of the read that meets it.
//! 4. A new manifest with one full edit is written and `CURRENT` made to name it. On a full disk this waits: the engine
//!    opens read-only and retries from [`Engine::tick`].
//! 5. Files that the state does not name are removed: unfinished tables, old manifests, temporary files.
//!
//! Time and memory grow with the number of tables (its lines in the manifest and in the directory), not with the data.

use super::compaction::{Compaction, Leveled};
use super::edit::State;
use super::error::EngineError;
use super::manifest::{self, Manifest, TMP_SUFFIX, parse_table_file_name, remove_or_warn};
use super::memtable::Memtable;
use super::range_delete::RangeDeletes;
use super::version::Version;
use super::{Engine, EngineOptions, Flush, snapshot, stats};
use crate::env::{DirEntry, Disk, Env};
use crate::sstable::{BlockCache, TableCache};
use crate::wal::LogKind;
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

impl Engine {
    /// Opens the engine in `options.dir`, creating it when there is none. Blocks. The owner holds the directory's lock.
    ///
    /// # Errors
    /// [`EngineError::MissingTable`], [`EngineError::WrongTable`], [`EngineError::CurrentMissing`],
    /// [`EngineError::Corrupt`], [`EngineError::Unsupported`], or an I/O error: nothing was changed, or only what the
    /// next open repeats.
    pub fn open(env: &Env, options: EngineOptions) -> Result<Self, EngineError> {
        env.disk.create_dir_all(&options.dir)?;
        let Found { files, current, mut state, tables, version } = Found::read(env, &options)?;
        // Never reuse a number, not even one of a file that no edit names.
        let highest = files.iter().filter_map(|f| file_number(&f.name)).max().unwrap_or(0);
        state.next_file = state.next_file.max(highest + 1).max(1);
        let manifest_number = state.next_file;
        state.next_file += 1;

        let mut manifest = Manifest::new(Arc::clone(&env.disk), options.dir.clone());
        let mut read_only = None;
        let mut flush = Flush::Idle;
        match manifest.rotate(manifest_number, &state) {
            Ok(()) => remove_orphans(env, &options, &files, &state, manifest_number),
            Err(e) if e.is_disk_full() && current.is_some() => {
                log::warn!("open: {e}; starting read-only");
                read_only = Some(format!("the disk is full: {e}"));
                flush = Flush::Waiting { until: env.clock.now(), then: None };
            }
            Err(e) => return Err(e),
        }
        Ok(Self { flush, read_only, ..Self::of(env, options, state, (tables, version), manifest) })
    }

    /// Opens the engine in `options.dir` to look at it: changes nothing, neither now nor later. Nothing may be applied to
    /// it. Blocks.
    ///
    /// # Errors
    /// Those of [`Engine::open`] about what is in the directory.
    pub fn open_to_look(env: &Env, options: EngineOptions) -> Result<Self, EngineError> {
        let Found { state, tables, version, .. } = Found::read(env, &options)?;
        let manifest = Manifest::new(Arc::clone(&env.disk), options.dir.clone());
        let read_only = Some("it was opened to be looked at".to_owned());
        let engine = Self::of(env, options, state, (tables, version), manifest);
        Ok(Self { flush: Flush::Failed, read_only, ..engine })
    }

    /// Opens every table once, to see that all are what the manifest says, with sound indexes, filters, and properties. Data
    /// blocks are not read. Blocks on the disk: for who will not go on with a damaged one.
    ///
    /// # Errors
    /// What is wrong with the first table with which something is.
    pub fn check_tables(&self) -> Result<(), EngineError> {
        self.version.tables().try_for_each(|table| table.open().map(drop))
    }

    fn of(
        env: &Env,
        options: EngineOptions,
        state: State,
        (tables, version): (Arc<TableCache>, Version),
        manifest: Manifest,
    ) -> Self {
        let range_deletes = RangeDeletes::new(state.range_deletes.values());
        let mut engine = Self {
            env: env.clone(),
            active: Memtable::new(),
            frozen: VecDeque::new(),
            version: Arc::default(),
            tables,
            applied: state.applied,
            last_seq: state.last_seq,
            next_file: state.next_file,
            durable: state,
            snapshots: BTreeMap::new(),
            manifest: Some(manifest),
            flush: Flush::Idle,
            compaction: Compaction::new(Box::new(Leveled)),
            incoming: None,
            holds: snapshot::Holds::default(),
            read_only: None,
            counters: stats::Counters::default(),
            range_deletes: Arc::new(range_deletes),
            last_frozen: stats::FrozenSize::default(),
            options,
        };
        engine.put_version(version);
        engine.forgive_debt();
        engine
    }
}

/// Steps 1 to 3, which change nothing.
struct Found {
    files: Vec<DirEntry>,
    current: Option<u64>,
    state: State,
    tables: Arc<TableCache>,
    version: Version,
}

impl Found {
    fn read(env: &Env, options: &EngineOptions) -> Result<Self, EngineError> {
        let (disk, dir) = (&*env.disk, options.dir.as_path());
        let files = disk.list(dir)?;
        let current = manifest::read_current(disk, dir)?;
        let state = match current {
            Some(number) => read_manifest(disk, dir, number)?,
            None => new_state(options, &files)?,
        };
        let cache = BlockCache::new(options.cache_bytes);
        let tables = TableCache::new(Arc::clone(&env.disk), cache, options.max_open_tables);
        let version = Version::of_state(&tables, dir, &state, &files)?;
        Ok(Self { files, current, state, tables, version })
    }
}

fn read_manifest(disk: &dyn Disk, dir: &Path, number: u64) -> Result<State, EngineError> {
    let path = dir.join(LogKind::Manifest.file_name(number));
    if !disk.exists(&path)? {
        let current = dir.join(manifest::CURRENT);
        let expected = format!("the name of a manifest that is there, not {}", path.display());
        return Err(EngineError::corrupt(&current, 0, expected, "a name without a file"));
    }
    let replay = manifest::replay(disk, &path, Some(number), &mut |_, _| {})?;
    if let Some(cut) = replay.torn_tail {
        log::warn!("manifest: {cut}; an edit there was never acknowledged");
    }
    Ok(replay.state)
}

/// What the manifest in `dir` says; there must be one.
pub(super) fn read_state(disk: &dyn Disk, dir: &Path) -> Result<State, EngineError> {
    match manifest::read_current(disk, dir)? {
        Some(number) => read_manifest(disk, dir, number),
        None => {
            let path = dir.join(manifest::CURRENT);
            Err(EngineError::corrupt(&path, 0, "the name of the manifest", "no such file"))
        }
    }
}

/// Whether an engine may have made a file of this name, finished or not.
pub(super) fn is_engine_file(name: &str) -> bool {
    let name = name.strip_suffix(TMP_SUFFIX).unwrap_or(name);
    name == manifest::CURRENT || file_number(name).is_some()
}

fn new_state(options: &EngineOptions, files: &[DirEntry]) -> Result<State, EngineError> {
    match files.iter().find(|f| parse_table_file_name(&f.name).is_some()) {
        None => Ok(State::default()),
        Some(table) => Err(EngineError::CurrentMissing {
            path: options.dir.join(manifest::CURRENT),
            example: table.name.clone(),
        }),
    }
}

/// File numbers start at 1 and a manifest's must fit 32 bits; no directory gets as far as this in its life. A name with
/// a higher number is somebody else's, and must not push ours to the end of the range.
const FILE_NUMBER_MAX: u64 = 1 << 31;

/// The number of a file of ours, finished or not.
fn file_number(name: &str) -> Option<u64> {
    let name = name.strip_suffix(TMP_SUFFIX).unwrap_or(name);
    parse_table_file_name(name)
        .or_else(|| LogKind::Manifest.parse_file_name(name))
        .filter(|&number| number <= FILE_NUMBER_MAX)
}

/// Removes what `state` does not name. Files that are not ours stay.
fn remove_orphans(
    env: &Env,
    options: &EngineOptions,
    files: &[DirEntry],
    state: &State,
    manifest_number: u64,
) {
    for file in files.iter().filter(|f| !f.is_dir) {
        let ours = file_number(&file.name).is_some();
        let unfinished = file.name.ends_with(TMP_SUFFIX)
            && (ours || file.name.strip_suffix(TMP_SUFFIX) == Some(manifest::CURRENT));
        let old_manifest =
            LogKind::Manifest.parse_file_name(&file.name).is_some_and(|n| n != manifest_number);
        let orphan_table =
            parse_table_file_name(&file.name).is_some_and(|n| !state.tables.contains_key(&n));
        if unfinished || (ours && (old_manifest || orphan_table)) {
            log::info!("open: removing {}, which nothing names", file.name);
            remove_or_warn(&*env.disk, &options.dir.join(&file.name));
        }
    }
}
