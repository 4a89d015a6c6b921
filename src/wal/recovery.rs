//! Opening a log: which segments count, where the log ends, and making sure that what is shown to the owner is on
//! the disk and not only in the page cache.
//!
//! ```text
//!   chain: newest segment ─continues▶ older ─continues▶ … ─▶ oldest that is there
//!
//!   newest segment:  header ▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒│ records, valid │ fault …
//!                           durable by mark  D                B
//!
//!   B <  D   damage: refuse to open, change nothing
//!   B >= D   torn (or clean): copy D..B into a new segment that continues at D, sync, rename, sync the directory;
//!            what is behind D in the old segment no longer counts and is cut off
//! ```
//!
//! D is the highest watermark in any valid group of the newest segment, before or behind the fault, and at least
//! its birth mark. In every older segment all records below the position where the next one takes over must be
//! valid. A newest segment without data is replaced as a whole, so that restarts do not pile up segments.

use super::Options;
use super::error::{ADVICE, RecordFault, WalError};
use super::format::{
    self, LogKind, LogPos, Record, RecordKind, SEGMENT_HEADER_BYTES, SegmentHeader,
};
use super::maintenance::SPARE_EXTENSION;
use super::segment::{ScanEnd, SegmentReader, new_group, scan};
use super::writer::{
    self, Failure, Parts, RESERVE_NAME, Segment, States, Writer, discard, fill_with_zeros,
    free_reserve, publish, temporary_path,
};
use crate::env::{Disk, File, OpenMode};
use crate::limits::{LOG_SHORT_SEGMENT_BYTES, RECOVERY_PROGRESS_BYTES};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What recovery shows records to.
pub type Visit<'v> = dyn FnMut(Record<'_>) -> Result<(), WalError> + 'v;

/// The segments of a log that count, oldest first, and what else lies in its directory. Reading it changes nothing.
#[derive(Debug)]
pub struct Chain {
    /// The segments that count, oldest first.
    pub segments: Vec<ChainSegment>,
    /// Segments whose place was taken by a newer one.
    pub superseded: Vec<PathBuf>,
    /// Temporary files and spares of an earlier process.
    pub leftovers: Vec<PathBuf>,
    /// Whether the reserve is there.
    pub has_reserve: bool,
}

/// One segment of a [`Chain`].
#[derive(Clone, Debug)]
pub struct ChainSegment {
    /// Its file.
    pub path: PathBuf,
    /// The file's length.
    pub file_bytes: u64,
    /// Its header.
    pub header: SegmentHeader,
    /// The offset where the next segment takes over; `None` for the newest.
    pub limit: Option<u64>,
}

impl ChainSegment {
    /// Opens it for reading.
    pub fn reader(&self, disk: &dyn Disk) -> Result<SegmentReader, WalError> {
        SegmentReader::open(disk.open(&self.path, OpenMode::Read)?, Some(self.header.kind))
    }
}

impl Chain {
    /// Reads the directory and every segment's header.
    pub fn read(disk: &dyn Disk, kind: LogKind, dir: &Path) -> Result<Self, WalError> {
        let mut chain = Self {
            segments: Vec::new(),
            superseded: Vec::new(),
            leftovers: Vec::new(),
            has_reserve: false,
        };
        let mut found = BTreeMap::new();
        for entry in disk.list(dir)?.into_iter().filter(|entry| !entry.is_dir) {
            let path = dir.join(&entry.name);
            if let Some(id) = kind.parse_file_name(&entry.name) {
                let segment = read_header(disk, kind, &path, id)?;
                found.insert(id, segment);
            } else if entry.name.ends_with(".tmp")
                || entry.name.ends_with(&format!(".{SPARE_EXTENSION}"))
            {
                chain.leftovers.push(path);
            } else if entry.name == RESERVE_NAME {
                chain.has_reserve = true;
            }
        }
        let mut next = found.keys().next_back().copied();
        let mut limit = None;
        while let Some(mut segment) = next.and_then(|id| found.remove(&id)) {
            let continues = segment.header.continues;
            segment.limit = limit;
            let id = segment.header.id;
            chain.segments.push(segment);
            let previous = continues.segment();
            let older = found.range(..previous).next().is_some();
            if continues != LogPos::ZERO && !found.contains_key(&previous) && older {
                return Err(WalError::MissingSegment {
                    dir: dir.into(),
                    missing: previous,
                    needed_by: id,
                });
            }
            next = (continues != LogPos::ZERO).then_some(previous);
            limit = Some(continues.offset());
        }
        chain.segments.reverse();
        chain.superseded = found.into_values().map(|segment| segment.path).collect();
        Ok(chain)
    }
}

fn read_header(
    disk: &dyn Disk,
    kind: LogKind,
    path: &Path,
    id: u64,
) -> Result<ChainSegment, WalError> {
    let reader = SegmentReader::open(disk.open(path, OpenMode::Read)?, Some(kind))?;
    let header = *reader.header();
    if header.id != id {
        return Err(WalError::Corrupt {
            path: path.to_path_buf(),
            offset: 16,
            expected: format!("segment id {id:016x}, as the file's name says"),
            found: format!("{:016x}", header.id),
            advice: ADVICE,
        });
    }
    Ok(ChainSegment {
        path: path.to_path_buf(),
        file_bytes: reader.file_len(),
        header,
        limit: None,
    })
}

/// A torn tail that recovery cut off.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cut {
    /// The file.
    pub path: PathBuf,
    /// The offset of the first byte that does not count.
    pub offset: u64,
    /// Bytes from there to the end of the file.
    pub bytes: u64,
    /// Why the record there is none.
    pub fault: RecordFault,
    /// The file was recycled: the bytes may be what it held in its life before, and nothing was torn.
    pub recycled: bool,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.recycled {
            "torn write or stale bytes of a recycled segment"
        } else {
            "torn write"
        };
        write!(f, "{}: {what} at offset {}: {}", self.path.display(), self.offset, self.fault)
    }
}

/// What [`open`] found and did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RecoveryReport {
    /// Segments that held the log.
    pub segments: usize,
    /// Records shown to the owner.
    pub records: u64,
    /// Where the log was known to be durable.
    pub durable_to: LogPos,
    /// Where the valid records ended.
    pub end: LogPos,
    /// Records above `durable_to` that were copied into the new segment.
    pub copied_records: u64,
    /// Bytes behind `end` that are not zero, if there were any: they no longer count.
    pub cut: Option<Cut>,
    /// Segments, spares, and temporary files that were removed.
    pub removed: Vec<PathBuf>,
    /// The segment that is written to from now on.
    pub new_segment: u64,
}

impl RecoveryReport {
    /// Whether the log had been closed, or had nothing in flight when its process ended. (Bytes behind the end of a
    /// recycled segment do not count against it.)
    #[must_use]
    pub fn was_clean(&self) -> bool {
        self.cut.as_ref().is_none_or(|cut| cut.recycled) && self.copied_records == 0
    }
}

impl fmt::Display for RecoveryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} records in {} segments, durable to {}, end {}; {} copied into segment {}",
            self.records,
            self.segments,
            self.durable_to,
            self.end,
            self.copied_records,
            self.new_segment
        )?;
        match &self.cut {
            Some(cut) => write!(f, "; cut: {cut}"),
            None => Ok(()),
        }
    }
}

/// Opens the log in `options.dir`, creating it when there is none, and shows every record that counts to `visit`,
/// oldest first, group headers left out. A record is durable when it is shown. State records may be shown twice; the
/// last one of a slot is the newest.
///
/// # Errors
/// [`WalError::Corrupt`] and [`WalError::MissingSegment`] when bytes that were durable are not there;
/// [`WalError::WrongKind`] and [`WalError::NewerVersion`] for foreign files; I/O errors; and what `visit` returns.
/// When damage is found nothing in the directory has been changed.
pub fn open(
    disk: &Arc<dyn Disk>,
    options: Options,
    visit: &mut Visit<'_>,
) -> Result<(Writer, RecoveryReport), WalError> {
    assert!(
        options.segment_bytes <= 1 << 30,
        "segments are at most 1 GiB: {}",
        options.segment_bytes
    );
    disk.create_dir_all(&options.dir)?;
    let chain = Chain::read(&**disk, options.kind, &options.dir)?;
    let mut recovery = Recovery::new(disk, &options, visit, &chain);
    let tail = recovery.read_durable(&chain)?;
    recovery.remove(chain.leftovers.clone())?;
    let (file, end) = recovery.start_new_segment(&tail)?;
    recovery.cut_old_tail(&tail)?;
    let superseded = chain.superseded.into_iter().chain(tail.replaced()).collect();
    recovery.remove(superseded)?;
    let Recovery { states, next_index, segments, report, has_reserve, .. } = recovery;
    let disk = Arc::clone(disk);
    let writer =
        Writer::new(Parts { disk, options, segments, file, end, states, next_index, has_reserve });
    Ok((writer, report))
}

/// What [`read`] found in a log.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Contents {
    /// What would count if the log were opened now. Nothing was removed, and no segment was made.
    pub report: RecoveryReport,
    /// One past the newest data, after truncations.
    pub next_index: u64,
    states: States,
}

impl Contents {
    /// The newest value of a state slot: its `aux` and its payload.
    #[must_use]
    pub fn state(&self, slot: u64) -> Option<(u64, &[u8])> {
        self.states.get(&slot).map(|(aux, payload)| (*aux, payload.as_slice()))
    }
}

/// Shows what [`open`] would show, and changes nothing. A record at the end may be one that only the page cache has: a
/// crash of the machine can still take it, until the log is opened.
///
/// # Errors
/// Those of [`open`] about what is in the files.
pub fn read(
    disk: &Arc<dyn Disk>,
    options: &Options,
    visit: &mut Visit<'_>,
) -> Result<Contents, WalError> {
    let chain = Chain::read(&**disk, options.kind, &options.dir)?;
    let mut recovery = Recovery::new(disk, options, visit, &chain);
    let tail = recovery.read_durable(&chain)?;
    recovery.show_tail(&tail)?;
    let Recovery { states, next_index, report, .. } = recovery;
    Ok(Contents { report, next_index, states })
}

/// What becomes of the newest segment that was found.
enum Tail {
    /// There was no log.
    None,
    /// It keeps what is below the watermark; the rest is copied.
    Kept { segment: ChainSegment, end: ScanEnd },
    /// It held no data: the new segment takes its place.
    Replaced { segment: ChainSegment, end: ScanEnd },
}

impl Tail {
    const fn newest_id(&self) -> u64 {
        match self {
            Self::None => 0,
            Self::Kept { segment, .. } | Self::Replaced { segment, .. } => segment.header.id,
        }
    }
    const fn continues(&self) -> LogPos {
        match self {
            Self::None => LogPos::ZERO,
            Self::Kept { end, .. } => end.watermark.durable_to,
            Self::Replaced { segment, .. } => segment.header.continues,
        }
    }
    fn replaced(&self) -> Option<PathBuf> {
        match self {
            Self::Replaced { segment, .. } => Some(segment.path.clone()),
            _ => None,
        }
    }
}

/// Says now and then how far a long log has been read (pitfall 46).
struct Progress {
    total: u64,
    done: u64,
    said: u64,
}

impl Progress {
    const fn new(total: u64) -> Self {
        Self { total, done: 0, said: 0 }
    }

    /// So many bytes more were read. The percentage, when it is time to say it.
    fn read(&mut self, bytes: u64) -> Option<u64> {
        self.done += bytes;
        if self.done - self.said < RECOVERY_PROGRESS_BYTES {
            return None;
        }
        self.said = self.done;
        Some(self.done * 100 / self.total.max(1))
    }
}

struct Recovery<'a, 'v> {
    disk: &'a Arc<dyn Disk>,
    options: &'a Options,
    visit: &'a mut Visit<'v>,
    states: States,
    next_index: u64,
    segments: VecDeque<Segment>,
    report: RecoveryReport,
    has_reserve: bool,
}

impl<'a, 'v> Recovery<'a, 'v> {
    fn new(
        disk: &'a Arc<dyn Disk>,
        options: &'a Options,
        visit: &'a mut Visit<'v>,
        chain: &Chain,
    ) -> Self {
        Self {
            disk,
            options,
            visit,
            states: States::new(),
            next_index: 0,
            segments: VecDeque::new(),
            report: RecoveryReport { segments: chain.segments.len(), ..RecoveryReport::default() },
            has_reserve: chain.has_reserve,
        }
    }

    /// Judges the newest segment, then shows everything below its watermark.
    fn read_durable(&mut self, chain: &Chain) -> Result<Tail, WalError> {
        let Some((newest, older)) = chain.segments.split_last() else { return Ok(Tail::None) };
        // What came before the oldest segment was given up, or is missing: the owner can tell by the index.
        self.next_index = chain.segments[0].header.first_index;
        let mut reader = newest.reader(&**self.disk)?;
        let mut has_data = false;
        let mut end = scan(&mut reader, &mut |record| {
            has_data |= matches!(record.kind, RecordKind::Data | RecordKind::Truncate);
            Ok(())
        })?;
        if planted!(DamageIsCut) {
            let found = LogPos::new(newest.header.id, end.end);
            end.watermark.durable_to = end.watermark.durable_to.min(found);
        }
        end.check(&newest.path)?;
        let id = newest.header.id;
        self.report.durable_to = end.watermark.durable_to;
        self.report.end = LogPos::new(id, end.end);
        if !reader.rest_is_zero()? {
            self.report.cut = Some(Cut {
                path: newest.path.clone(),
                offset: end.end,
                // A log that is only read may have grown since its length was taken.
                bytes: newest.file_bytes.saturating_sub(end.end),
                fault: end.fault,
                recycled: newest.header.recycled_from != 0,
            });
        }
        let mut progress = Progress::new(chain.segments.iter().map(|s| s.file_bytes).sum());
        for segment in older {
            let limit = segment.limit.unwrap_or(0);
            let max_data = self.show_until(&mut segment.reader(&**self.disk)?, limit)?;
            self.keep(segment, limit, segment.file_bytes, max_data);
            if let Some(percent) = progress.read(segment.file_bytes) {
                let (dir, records) = (self.options.dir.display(), self.report.records);
                log::info!("{dir}: {percent} % of the log read, {records} records so far");
            }
        }
        let limit = end.watermark.durable_to.offset();
        reader.seek(SEGMENT_HEADER_BYTES as u64);
        let max_data = self.show_until(&mut reader, limit)?;
        let segment = newest.clone();
        if has_data {
            self.keep(newest, limit, limit, max_data);
            return Ok(Tail::Kept { segment, end });
        }
        Ok(Tail::Replaced { segment, end })
    }

    fn keep(&mut self, segment: &ChainSegment, used: u64, file_bytes: u64, max_data: Option<u64>) {
        let (id, path) = (segment.header.id, segment.path.clone());
        self.segments.push_back(Segment { id, path, used, file_bytes, max_data });
    }

    /// Shows the records up to `limit`, all of which were durable. Returns the highest index of data among them.
    fn show_until(
        &mut self,
        reader: &mut SegmentReader,
        limit: u64,
    ) -> Result<Option<u64>, WalError> {
        let mut max_data = None;
        while reader.offset() < limit {
            let record = reader.expect_record()?;
            match record.kind {
                RecordKind::Group => continue,
                RecordKind::Data => {
                    max_data = max_data.max(Some(record.index));
                    self.next_index = record.index.saturating_add(1);
                }
                RecordKind::Truncate => self.next_index = record.index,
                RecordKind::State => {
                    self.states.insert(record.index, (record.aux, record.payload.to_vec()));
                }
            }
            self.report.records += 1;
            (self.visit)(record)?;
        }
        if reader.offset() == limit {
            return Ok(max_data);
        }
        Err(WalError::Corrupt {
            path: reader.path().to_path_buf(),
            offset: limit,
            expected: "the end of a record, where the log was durable".into(),
            found: "the middle of a record".into(),
            advice: ADVICE,
        })
    }

    /// Shows what is valid above the watermark, where it is.
    fn show_tail(&mut self, tail: &Tail) -> Result<(), WalError> {
        let (Tail::Kept { segment, end } | Tail::Replaced { segment, end }) = tail else {
            return Ok(());
        };
        let mut reader = segment.reader(&**self.disk)?;
        reader.seek(end.watermark.durable_to.offset());
        self.show_until(&mut reader, end.end)?;
        Ok(())
    }

    /// Makes the segment that is written to from now on, with everything in it that was not known to be durable,
    /// and then shows it.
    fn start_new_segment(&mut self, tail: &Tail) -> Result<(Arc<dyn File>, LogPos), WalError> {
        let id = tail.newest_id() + 1;
        let made = match self.make_segment(tail, id, self.options.preallocate) {
            Err(MakeError::Write(failure)) if failure.retryable => {
                log::warn!(
                    "{}; using the reserve of {}",
                    failure.error,
                    self.options.dir.display()
                );
                discard(&**self.disk, &temporary_path(self.options, id));
                free_reserve(&**self.disk, &self.options.dir)?;
                self.has_reserve = false;
                self.make_segment(tail, id, false)
            }
            result => result,
        };
        let (file, end, file_bytes) = made.map_err(|error| match error {
            MakeError::Write(failure) => WalError::Io(failure.error),
            MakeError::Read(error) => error,
        })?;
        let path = publish(&**self.disk, self.options, &temporary_path(self.options, id), id)
            .map_err(|failure| failure.error)?;
        // The handle was opened under the temporary name; errors should name the segment.
        let reading = self.disk.open(&path, OpenMode::Read)?;
        let mut reader = SegmentReader::open(reading, Some(self.options.kind))?;
        let max_data = self.show_until(&mut reader, end)?;
        self.segments.push_back(Segment { id, path, used: end, file_bytes, max_data });
        self.report.new_segment = id;
        Ok((file, LogPos::new(id, end)))
    }

    /// Writes and syncs the new segment under its temporary name. Returns the file, the end of its records, and its
    /// length.
    fn make_segment(
        &mut self,
        tail: &Tail,
        id: u64,
        preallocate: bool,
    ) -> Result<(Arc<dyn File>, u64, u64), MakeError> {
        let path = temporary_path(self.options, id);
        let file = self.disk.open(&path, OpenMode::CreateNew).map_err(Failure::of_write)?;
        let mut out = Copier {
            file: &*file,
            at: LogPos::new(id, SEGMENT_HEADER_BYTES as u64),
            bytes: Vec::new(),
        };
        let mut states = self.states.clone();
        let mut copied = 0;
        if let Tail::Replaced { segment, end } = tail {
            self.for_each_copied(segment, end, &mut |record| {
                if record.kind == RecordKind::State {
                    states.insert(record.index, (record.aux, record.payload.to_vec()));
                }
                Ok(())
            })?;
        }
        out.bytes = writer::preamble(&states, tail.continues());
        if let Tail::Kept { segment, end } = tail {
            let mut group = new_group();
            format::set_watermark(&mut group, tail.continues());
            out.bytes.extend_from_slice(&group);
            self.for_each_copied(segment, end, &mut |record| {
                copied += 1;
                out.add(&record).map_err(MakeError::Write)
            })?;
        }
        out.write_out()?;
        let end = out.at.offset();
        let header = SegmentHeader {
            kind: self.options.kind,
            id,
            first_index: self.next_index,
            continues: tail.continues(),
            born_durable_to: end,
            recycled_from: 0,
        };
        file.write_at(0, &header.encode()).map_err(Failure::of_write)?;
        let short = self.options.segment_bytes.min(LOG_SHORT_SEGMENT_BYTES);
        let file_bytes = if preallocate { end.max(short) } else { end };
        fill_with_zeros(&*file, end, file_bytes).map_err(Failure::of_write)?;
        if !planted!(RecoveryTrustsCache) {
            file.sync_data().map_err(Failure::of_sync)?;
        }
        self.report.copied_records = copied;
        Ok((file, end, file_bytes))
    }

    /// Calls `f` with every record of `segment` between its watermark and its end, groups left out.
    fn for_each_copied(
        &self,
        segment: &ChainSegment,
        end: &ScanEnd,
        f: &mut dyn FnMut(Record<'_>) -> Result<(), MakeError>,
    ) -> Result<(), MakeError> {
        let mut reader = segment.reader(&**self.disk).map_err(MakeError::Read)?;
        reader.seek(end.watermark.durable_to.offset());
        while reader.offset() < end.end {
            let record = reader.expect_record().map_err(MakeError::Read)?;
            if record.kind != RecordKind::Group {
                f(record)?;
            }
        }
        Ok(())
    }

    /// Cuts off what no longer counts in the segment that was the newest.
    fn cut_old_tail(&self, tail: &Tail) -> Result<(), WalError> {
        if let Tail::Kept { segment, end } = tail {
            let keep = end.watermark.durable_to.offset();
            if keep < segment.file_bytes {
                self.disk.open(&segment.path, OpenMode::ReadWrite)?.set_len(keep)?;
            }
        }
        Ok(())
    }

    fn remove(&mut self, paths: Vec<PathBuf>) -> Result<(), WalError> {
        if paths.is_empty() {
            return Ok(());
        }
        for path in paths {
            self.disk.remove(&path)?;
            self.report.removed.push(path);
        }
        Ok(self.disk.sync_dir(&self.options.dir)?)
    }
}

enum MakeError {
    Write(Failure),
    Read(WalError),
}

impl From<Failure> for MakeError {
    fn from(failure: Failure) -> Self {
        Self::Write(failure)
    }
}

/// Writes records into a new segment, a megabyte at a time.
struct Copier<'a> {
    file: &'a dyn File,
    at: LogPos,
    bytes: Vec<u8>,
}

impl Copier<'_> {
    fn add(&mut self, record: &Record<'_>) -> Result<(), Failure> {
        format::put_record(&mut self.bytes, record.kind, record.index, record.aux, record.payload);
        if self.bytes.len() < 1 << 20 { Ok(()) } else { self.write_out() }
    }
    fn write_out(&mut self) -> Result<(), Failure> {
        format::seal(&mut self.bytes, self.at);
        self.file.write_at(self.at.offset(), &self.bytes).map_err(Failure::of_write)?;
        self.at = LogPos::new(self.at.segment(), self.at.offset() + self.bytes.len() as u64);
        self.bytes.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_log_says_how_far_it_is_and_a_short_one_nothing() {
        let mut progress = Progress::new(4 * RECOVERY_PROGRESS_BYTES);
        let half = RECOVERY_PROGRESS_BYTES / 2;
        let said: Vec<_> = (0..8).map(|_| progress.read(half)).collect();
        assert_eq!(said, [None, Some(25), None, Some(50), None, Some(75), None, Some(100)]);
        assert_eq!(Progress::new(half).read(half), None);
    }
}
