//! The manifest: which tables are live, and since when. `proto-spec/manifest.md` is the home of its bytes.
//!
//! ```text
//! CURRENT ──names──▶ 0000000000000007.manifest
//!                    segment header "BEACHMAN" (wal::segment) │ group: full edit │ group: edit │ group │ group: edit │ group │ …
//! ```
//!
//! Invariants (pitfalls 37 and 38):
//! - A table is written, synced, and its name is durable before an edit names it; the edit is durable before the
//!   engine counts on it, releases log, or deletes what the edit replaces.
//! - A manifest is created under a temporary name with one full edit, synced, renamed, and its directory synced;
//!   then `CURRENT` is replaced the same way. So `CURRENT` always names a manifest that is whole.
//! - A manifest that was found is never appended to: opening starts a new one. So nothing that only a page cache
//!   held is ever built upon.
//! - An edit that was acknowledged has a watermark behind it: damage to it is an error and never a torn tail.
//! - A full disk leaves the old manifest in use; any other failed write and any failed sync is final.
//!
//! It does not decide when to rotate, and it knows nothing about the tables beyond their [`TableMeta`].
//!
//! [`TableMeta`]: super::edit::TableMeta

use super::edit::{EditFault, State, VersionEdit};
use super::error::EngineError;
use crate::base::checksum;
use crate::env::{Disk, IoError, OpenMode};
use crate::wal::segment::{SegmentReader, SegmentWriter, scan};
use crate::wal::{LogKind, RECORD_HEADER_BYTES, RecordKind, WalError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file that names the manifest.
pub const CURRENT: &str = "CURRENT";
const CURRENT_VERSION: u64 = 1;
/// Longer than any `CURRENT`; a longer file is not one.
const CURRENT_BYTES_MAX: u64 = 256;
/// Where files are written before they get their name.
pub(super) const TMP_SUFFIX: &str = ".tmp";
const TABLE_SUFFIX: &str = ".sst";

/// The file name of table `number`.
#[must_use]
pub fn table_file_name(number: u64) -> String {
    format!("{number:016x}{TABLE_SUFFIX}")
}

/// The number in the file name of a table.
#[must_use]
pub fn parse_table_file_name(name: &str) -> Option<u64> {
    let stem = name.strip_suffix(TABLE_SUFFIX)?;
    let canonical = stem.len() == 16 && !stem.bytes().any(|b| b.is_ascii_uppercase() || b == b'+');
    if canonical { u64::from_str_radix(stem, 16).ok() } else { None }
}

/// The bytes of a `CURRENT` that names manifest `number`.
#[must_use]
pub fn encode_current(number: u64) -> Vec<u8> {
    let mut text = format!(
        "beachdb current {CURRENT_VERSION}\nmanifest {}\n",
        LogKind::Manifest.file_name(number)
    );
    let crc = checksum::crc32c(text.as_bytes());
    text.push_str(&format!("crc32c {crc:08x}\n"));
    text.into_bytes()
}

/// The manifest number that the `CURRENT` at `path` with these bytes names.
pub fn decode_current(path: &Path, bytes: &[u8]) -> Result<u64, EngineError> {
    let bad = |offset: usize, expected: &str| {
        let rest = &bytes[offset.min(bytes.len())..];
        let line = rest.split(|&b| b == b'\n').next().unwrap_or_default();
        let shown = &line[..line.len().min(60)];
        let found = format!("\"{}\"", shown.escape_ascii());
        EngineError::corrupt(path, offset as u64, expected, found)
    };
    let head = b"beachdb current ";
    let rest = bytes.strip_prefix(head).ok_or_else(|| bad(0, "the line \"beachdb current 1\""))?;
    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    let version = std::str::from_utf8(&rest[..digits]).ok().and_then(|s| s.parse().ok());
    match version {
        Some(CURRENT_VERSION) => {}
        Some(found) => {
            return Err(EngineError::Unsupported {
                path: path.to_path_buf(),
                offset: head.len() as u64,
                what: "format version",
                found,
                supported: "version 1",
            });
        }
        None => return Err(bad(head.len(), "a version number")),
    }
    let at = head.len() + digits + 1;
    let name = bytes
        .get(at..)
        .and_then(|rest| rest.strip_prefix(b"manifest "))
        .and_then(|rest| rest.split(|&b| b == b'\n').next())
        .and_then(|name| std::str::from_utf8(name).ok())
        .and_then(|name| LogKind::Manifest.parse_file_name(name))
        .ok_or_else(|| bad(at, "the line \"manifest <16 hex digits>.manifest\""))?;
    let good = encode_current(name);
    if bytes != good {
        let offset = bytes.iter().zip(&good).take_while(|(a, b)| a == b).count();
        let line = good[..offset].iter().rposition(|&b| b == b'\n').map_or(0, |i| i + 1);
        let expected = String::from_utf8_lossy(&good[line..]).trim_end().replace('\n', "\\n");
        return Err(bad(line, &format!("the line \"{expected}\" and the end of the file")));
    }
    Ok(name)
}

/// Reads `CURRENT` in `dir`; `None` when there is none.
pub fn read_current(disk: &dyn Disk, dir: &Path) -> Result<Option<u64>, EngineError> {
    let path = dir.join(CURRENT);
    if !disk.exists(&path)? {
        return Ok(None);
    }
    let file = disk.open(&path, OpenMode::Read)?;
    let len = file.len()?;
    if len > CURRENT_BYTES_MAX {
        return Err(EngineError::corrupt(&path, 0, "three short lines", format!("{len} bytes")));
    }
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(0, &mut bytes)?;
    decode_current(&path, &bytes).map(Some)
}

/// One edit as it was read, with where its record is.
#[derive(Clone, Debug)]
pub struct FoundEdit {
    /// Its number in the file, from 1.
    pub number: u64,
    /// The offset of its record.
    pub offset: u64,
    /// Bytes of its payload.
    pub bytes: usize,
    /// What it says.
    pub edit: VersionEdit,
}

/// What reading a manifest gave.
#[derive(Debug)]
pub struct Replay {
    /// The sum of its edits.
    pub state: State,
    /// Edits read.
    pub edits: u64,
    /// Why and where a torn tail was cut, when there was one.
    pub torn_tail: Option<String>,
}

/// Reads the manifest at `path`, which must be number `number`, and shows each valid edit to `visit`. A torn tail
/// ends it; damage is an error, reported after the edits before it were shown.
pub fn replay(
    disk: &dyn Disk,
    path: &Path,
    number: Option<u64>,
    visit: &mut dyn FnMut(&FoundEdit, &State),
) -> Result<Replay, EngineError> {
    let file = disk.open(path, OpenMode::Read)?;
    let mut reader =
        SegmentReader::open(Arc::clone(&file), Some(LogKind::Manifest)).map_err(with_our_advice)?;
    let id = reader.header().id;
    if let Some(number) = number
        && id != number
    {
        let (expected, found) = (format!("manifest number {number}"), format!("{id}"));
        return Err(EngineError::corrupt(path, 16, expected, found));
    }
    let mut state = State::default();
    let mut edits = 0;
    let mut fault = None;
    let end = scan(&mut reader, &mut |record| {
        if record.kind != RecordKind::Data || fault.is_some() {
            return Ok(());
        }
        match read_edit(path, edits, &mut state, &record) {
            Ok(found) => {
                edits = found.number;
                visit(&found, &state);
            }
            Err(e) => fault = Some(e),
        }
        Ok(())
    })?;
    if let Some(fault) = fault {
        return Err(fault);
    }
    end.check(path).map_err(with_our_advice)?;
    if edits == 0 {
        return Err(EngineError::corrupt(path, end.end, "a full edit", end.fault.found()));
    }
    let torn_tail = (!end.fault.is_clean_end())
        .then(|| format!("{}: cut at offset {}: {}", path.display(), end.end, end.fault));
    Ok(Replay { state, edits, torn_tail })
}

/// A log's advice is not a manifest's.
fn with_our_advice(error: WalError) -> EngineError {
    match error {
        WalError::Corrupt { path, offset, expected, found, .. } => {
            EngineError::Corrupt { path, offset, expected, found }
        }
        other => other.into(),
    }
}

/// Reads the next edit and adds it to `state`, which is of no use after an error.
fn read_edit(
    path: &Path,
    edits: u64,
    state: &mut State,
    record: &crate::wal::Record<'_>,
) -> Result<FoundEdit, EngineError> {
    let offset = record.pos.offset();
    let payload_at = offset + RECORD_HEADER_BYTES as u64;
    let number = edits + 1;
    if record.index != number {
        let (expected, found) = (format!("edit number {number}"), format!("{}", record.index));
        return Err(EngineError::corrupt(path, offset + 16, expected, found));
    }
    let edit = VersionEdit::decode(record.payload).map_err(|fault| match fault {
        EditFault::Bad { offset, expected } => {
            let rest = record.payload.get(offset..).unwrap_or_default();
            let hex: Vec<String> = rest.iter().take(8).map(|b| format!("{b:02x}")).collect();
            let found = if hex.is_empty() { "the end of the edit".into() } else { hex.join(" ") };
            EngineError::corrupt(path, payload_at + offset as u64, expected, found)
        }
        EditFault::Newer { offset, what, found } => EngineError::Unsupported {
            path: path.to_path_buf(),
            offset: payload_at + offset as u64,
            what,
            found: u64::from(found),
            supported: "edits of version 1",
        },
    })?;
    if edits == 0 && !edit.full {
        return Err(EngineError::corrupt(path, payload_at, "a full edit first", "a partial one"));
    }
    state.apply(&edit).map_err(|why| {
        EngineError::corrupt(path, payload_at, "an edit that fits the edits before it", why)
    })?;
    state.check_room().map_err(|found| {
        EngineError::corrupt(path, payload_at, "numbers that leave room for the next ones", found)
    })?;
    Ok(FoundEdit { number, offset, bytes: record.payload.len(), edit })
}

/// Appends edits to the manifest that `CURRENT` names. Blocking: it travels into a job and back.
pub struct Manifest {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// The manifest in use, `None` until the first one could be created.
    open: Option<OpenManifest>,
}

#[derive(Debug)]
struct OpenManifest {
    number: u64,
    writer: SegmentWriter,
    edits: u64,
    /// An edit is in the writer's group and not durable: the disk was full.
    pending: bool,
}

/// An edit to make durable.
#[derive(Clone, Debug)]
pub struct Change {
    /// The edit.
    pub edit: VersionEdit,
    /// What the state is with it, in case a new manifest is written.
    pub state: State,
    /// The number for a new manifest; unused when none is written.
    pub rotate_number: u64,
}

impl Manifest {
    /// A manifest to be created by the first [`Manifest::install`] or [`Manifest::rotate`].
    #[must_use]
    pub const fn new(disk: Arc<dyn Disk>, dir: PathBuf) -> Self {
        Self { disk, dir, open: None }
    }

    /// The number of the manifest in use.
    #[must_use]
    pub fn number(&self) -> Option<u64> {
        self.open.as_ref().map(|open| open.number)
    }

    /// Bytes in the manifest in use.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| open.writer.durable_bytes())
    }

    /// Makes `change` durable, in a new manifest when there is none yet or this one is over `rotate_bytes`. After
    /// [`EngineError::is_disk_full`] nothing is lost and the same change may be installed again; any other error
    /// is final.
    pub fn install(&mut self, change: &Change, rotate_bytes: u64) -> Result<(), EngineError> {
        if self.open.is_none() {
            return self.rotate(change.rotate_number, &change.state);
        }
        if self.bytes() >= rotate_bytes {
            match self.rotate(change.rotate_number, &change.state) {
                // The old one still works, if it has a little room.
                Err(e) if e.is_disk_full() => log::warn!("cannot rotate the manifest: {e}"),
                other => return other,
            }
        }
        let open = self.open.as_mut().expect("checked above");
        if !open.pending {
            open.writer.append(RecordKind::Data, open.edits + 1, 0, &change.edit.encode());
            open.pending = true;
        }
        open.writer.commit()?;
        open.edits += 1;
        open.pending = false;
        // An empty group, only for its watermark: it says that the edit is durable, so that damage to the edit can
        // never be taken for a torn write. Without it the last flush could vanish, its log being released already.
        match open.writer.commit().map_err(EngineError::from) {
            Err(e) if e.is_disk_full() => log::warn!("manifest: no room for a watermark: {e}"),
            other => other?,
        }
        Ok(())
    }

    /// Starts manifest `number` with one full edit and makes `CURRENT` name it.
    pub fn rotate(&mut self, number: u64, state: &State) -> Result<(), EngineError> {
        match self.try_rotate(number, state) {
            Ok(writer) => {
                let old =
                    self.open.replace(OpenManifest { number, writer, edits: 1, pending: false });
                if let Some(old) = old {
                    remove_or_warn(&*self.disk, &self.path_of(old.number));
                }
                Ok(())
            }
            Err(e) => {
                if e.is_disk_full() {
                    let path = self.path_of(number);
                    for path in [tmp(&path), path, tmp(&self.dir.join(CURRENT))] {
                        remove_or_warn(&*self.disk, &path);
                    }
                }
                Err(e)
            }
        }
    }

    fn try_rotate(&self, number: u64, state: &State) -> Result<SegmentWriter, EngineError> {
        let path = self.path_of(number);
        let payload = state.to_edit().encode();
        let writer = SegmentWriter::create(
            &*self.disk,
            &tmp(&path),
            LogKind::Manifest,
            number,
            &[(RecordKind::Data, 1, 0, &payload)],
        )?;
        self.disk.rename(&tmp(&path), &path)?;
        self.disk.sync_dir(&self.dir)?;
        let current = self.dir.join(CURRENT);
        // A crash may have left one behind; unlike the manifest's, its name is not a new one each time.
        if self.disk.exists(&tmp(&current))? {
            self.disk.remove(&tmp(&current))?;
        }
        let file = self.disk.open(&tmp(&current), OpenMode::CreateNew)?;
        file.write_at(0, &encode_current(number))?;
        file.sync_data()?;
        self.disk.rename(&tmp(&current), &current)?;
        self.disk.sync_dir(&self.dir)?;
        Ok(writer)
    }

    fn path_of(&self, number: u64) -> PathBuf {
        self.dir.join(LogKind::Manifest.file_name(number))
    }
}

/// Where the file at `path` is written before it gets its name.
pub(super) fn tmp(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(TMP_SUFFIX);
    PathBuf::from(name)
}

/// Removes a file that does not count. What is left behind is removed at the next open.
pub(super) fn remove_or_warn(disk: &dyn Disk, path: &Path) {
    let gone = |e: &IoError| e.kind() == std::io::ErrorKind::NotFound;
    if let Err(e) = disk.remove(path)
        && !gone(&e)
    {
        log::warn!("cannot remove a file that is no longer needed: {e}");
    }
}
