//! One segment file: [`SegmentReader`] streams its records, [`scan`] reads it whole and judges its end, and
//! [`SegmentWriter`] writes a log that is a single file (the manifest).
//!
//! A reader holds one window of the file in memory: 256 KiB, or the one record that is larger.

use super::error::{RecordFault, WalError};
use super::format::{
    self, GROUP_ROW, LogKind, LogPos, RECORD_HEADER_BYTES, Record, RecordKind,
    SEGMENT_HEADER_BYTES, SegmentHeader, record_bytes,
};
use crate::env::{Disk, File, IoResult, OpenMode};
use std::path::Path;
use std::sync::Arc;

/// Bytes read at a time.
const WINDOW_BYTES: usize = 256 << 10;

/// Streams the records of one segment file.
#[derive(Debug)]
pub struct SegmentReader {
    file: Arc<dyn File>,
    header: SegmentHeader,
    file_len: u64,
    /// Where the next record starts.
    offset: u64,
    window: Vec<u8>,
    /// The file offset of `window[0]`.
    window_at: u64,
}

impl SegmentReader {
    /// Reads the header of `file`, which must be of `kind` (`None`: of any kind), and stands before its first record.
    pub fn open(file: Arc<dyn File>, kind: Option<LogKind>) -> Result<Self, WalError> {
        // Positions hold 32 bits of offset: nothing behind that is part of a log.
        let file_len = file.len()?.min(u64::from(u32::MAX) & !7);
        let mut bytes = [0u8; SEGMENT_HEADER_BYTES];
        let got = file.read_at(0, &mut bytes)?;
        let header = SegmentHeader::decode(&bytes[..got], kind, file.path())?;
        let offset = SEGMENT_HEADER_BYTES as u64;
        Ok(Self { file, header, file_len, offset, window: Vec::new(), window_at: 0 })
    }

    /// The segment's header.
    #[must_use]
    pub const fn header(&self) -> &SegmentHeader {
        &self.header
    }
    /// The file's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.file.path()
    }
    /// The file.
    #[must_use]
    pub const fn file(&self) -> &Arc<dyn File> {
        &self.file
    }
    /// The file's length when it was opened, at most 4 GiB.
    #[must_use]
    pub const fn file_len(&self) -> u64 {
        self.file_len
    }
    /// Where the next record starts.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }
    /// The position of the next record.
    #[must_use]
    pub fn position(&self) -> LogPos {
        LogPos::new(self.header.id, self.offset)
    }
    /// Goes to the record at `offset`.
    pub const fn seek(&mut self, offset: u64) {
        self.offset = offset;
    }

    /// The next record, or why there is none; the reader then stays where it is. The outer error is a failed read.
    pub fn next_record(&mut self) -> IoResult<Result<Record<'_>, RecordFault>> {
        let at = self.offset;
        let have = self.file_len.saturating_sub(at);
        if have == 0 {
            return Ok(Err(RecordFault::EndOfFile));
        }
        if have < RECORD_HEADER_BYTES as u64 {
            let rest = self.fill(at, have as usize)?;
            let zeros = rest.iter().all(|&b| b == 0);
            let need = RECORD_HEADER_BYTES as u64;
            return Ok(Err(if zeros {
                RecordFault::Zeros
            } else {
                RecordFault::CutShort { need, have }
            }));
        }
        let header = self.fill(at, RECORD_HEADER_BYTES)?;
        let header = header.try_into().expect("filled to the length of a header");
        let raw = match format::check_header(header) {
            Ok(raw) => raw,
            Err(fault) => return Ok(Err(fault)),
        };
        let need = record_bytes(raw.len) as u64;
        if have < need {
            return Ok(Err(RecordFault::CutShort { need, have }));
        }
        let pos = LogPos::new(self.header.id, at);
        self.fill(at, need as usize)?;
        let start = (at - self.window_at) as usize;
        Ok(format::decode_record(&self.window[start..start + need as usize], raw, pos)
            .inspect(|_| self.offset = at + need))
    }

    /// The next record; what is not a record is corruption, because the log is known to be durable here.
    pub fn expect_record(&mut self) -> Result<Record<'_>, WalError> {
        let (file, offset) = (Arc::clone(&self.file), self.offset);
        self.next_record()?.map_err(|fault| WalError::corrupt(file.path(), offset, fault))
    }

    /// The highest watermark in valid groups at or after the present position, with the position of its group.
    pub fn watermark_ahead(&mut self) -> IoResult<Option<Watermark>> {
        let mut best: Option<Watermark> = None;
        let mut from = self.offset;
        while let Some(found) = self.find_group(from)? {
            if best.is_none_or(|best| best.durable_to < found.durable_to) {
                best = Some(found);
            }
            from = found.group.offset() + 8;
        }
        Ok(best)
    }

    /// The first valid group header at or after `from`. Groups are found by their marker at any multiple of 8,
    /// whatever is before them.
    pub fn find_group(&mut self, from: u64) -> IoResult<Option<Watermark>> {
        self.find_group_before(from, u64::MAX)
    }

    /// The same, and none that is found only by looking much behind `until`.
    pub fn find_group_before(&mut self, from: u64, until: u64) -> IoResult<Option<Watermark>> {
        let mut at = from.next_multiple_of(8);
        let id = self.header.id;
        while at + RECORD_HEADER_BYTES as u64 <= self.file_len && at < until {
            // What the window still has first, so that finding many groups reads the file once.
            let in_window = (self.window_at + self.window.len() as u64).saturating_sub(at);
            let useful = at >= self.window_at && in_window >= RECORD_HEADER_BYTES as u64;
            let len =
                if useful { in_window } else { (self.file_len - at).min(WINDOW_BYTES as u64) };
            let window = self.fill(at, len as usize)?;
            let last = window.len().saturating_sub(RECORD_HEADER_BYTES);
            for i in (0..=last).step_by(8) {
                if window[i + 8..i + 16] != GROUP_ROW {
                    continue;
                }
                let header =
                    window[i..i + RECORD_HEADER_BYTES].try_into().expect("a header's length");
                let group = LogPos::new(id, at + i as u64);
                let Ok(raw) = format::check_header(header) else { continue };
                if let Ok(record) = format::decode_record(header, raw, group) {
                    return Ok(Some(Watermark { group, durable_to: LogPos(record.aux) }));
                }
            }
            at += last as u64 / 8 * 8 + 8;
        }
        Ok(None)
    }

    /// Whether anything but zeros follows the present position.
    pub fn rest_is_zero(&mut self) -> IoResult<bool> {
        let mut at = self.offset;
        while at < self.file_len {
            let len = (self.file_len - at).min(WINDOW_BYTES as u64) as usize;
            if self.fill(at, len)?.iter().any(|&b| b != 0) {
                return Ok(false);
            }
            at += len as u64;
        }
        Ok(true)
    }

    /// The `len` bytes at `at`, which must lie inside the file.
    fn fill(&mut self, at: u64, len: usize) -> IoResult<&[u8]> {
        let end = at + len as u64;
        let window_end = self.window_at + self.window.len() as u64;
        if at < self.window_at || end > window_end {
            let want = (len.max(WINDOW_BYTES) as u64).min(self.file_len - at) as usize;
            self.window.resize(want, 0);
            self.window_at = at;
            if let Err(error) = self.file.read_exact_at(at, &mut self.window) {
                self.window.clear();
                return Err(error);
            }
        }
        let start = (at - self.window_at) as usize;
        Ok(&self.window[start..start + len])
    }
}

/// A claim that the log was durable up to a position, and the group that makes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Watermark {
    /// The group that says so (or the start of the segment, for its birth mark).
    pub group: LogPos,
    /// Everything before this was durable.
    pub durable_to: LogPos,
}

/// Where the records of a segment end, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScanEnd {
    /// The offset behind the last record.
    pub end: u64,
    /// What is there instead of a record.
    pub fault: RecordFault,
    /// The highest watermark that this file holds for itself, also behind the end.
    pub watermark: Watermark,
}

impl ScanEnd {
    /// Whether records that were durable are missing: the fault is damage, not a torn write.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        self.watermark.durable_to.offset() > self.end
    }

    /// The error for damage; nothing for a torn tail.
    pub fn check(&self, path: &Path) -> Result<(), WalError> {
        if !self.is_damage() {
            return Ok(());
        }
        let mut error = WalError::corrupt(path, self.end, self.fault);
        if let WalError::Corrupt { expected, .. } = &mut error {
            *expected = format!(
                "{expected} (the group at offset {} says that the log was durable up to offset {})",
                self.watermark.group.offset(),
                self.watermark.durable_to.offset()
            );
        }
        Err(error)
    }
}

/// Reads one segment to its end, showing every record (groups too) to `visit`, and says how it ends. Damage is in
/// the answer ([`ScanEnd::check`] makes it an error); errors are failed reads and what `visit` returns.
pub fn scan(
    reader: &mut SegmentReader,
    visit: &mut dyn FnMut(Record<'_>) -> Result<(), WalError>,
) -> Result<ScanEnd, WalError> {
    let id = reader.header.id;
    let mut watermark = Watermark {
        group: LogPos::new(id, 0),
        durable_to: LogPos::new(id, reader.header.born_durable_to),
    };
    let fault = loop {
        match reader.next_record()? {
            Ok(record) => {
                if record.kind == RecordKind::Group && record.aux > watermark.durable_to.0 {
                    watermark = Watermark { group: record.pos, durable_to: LogPos(record.aux) };
                }
                visit(record)?;
            }
            Err(fault) => break fault,
        }
    };
    if let Some(ahead) = reader.watermark_ahead()?
        && ahead.durable_to > watermark.durable_to
    {
        watermark = ahead;
    }
    Ok(ScanEnd { end: reader.offset, fault, watermark })
}

/// Writes a log that is one file: create it under a temporary name, rename it when its start is durable
/// ([`SegmentWriter::create`] syncs it), then append and [`SegmentWriter::commit`]. Blocking; for a job.
#[derive(Debug)]
pub struct SegmentWriter {
    file: Arc<dyn File>,
    id: u64,
    /// The end of what is durable, which is where the next group goes.
    durable_to: u64,
    group: Vec<u8>,
    failed: bool,
}

impl SegmentWriter {
    /// Creates `path` as file `id` of `kind`, holding one group of `records` (kind, index, aux, payload), and syncs
    /// it. The caller renames it and syncs the directory.
    pub fn create(
        disk: &dyn Disk,
        path: &Path,
        kind: LogKind,
        id: u64,
        records: &[(RecordKind, u64, u64, &[u8])],
    ) -> Result<Self, WalError> {
        let mut group = new_group();
        for &(kind, index, aux, payload) in records {
            format::put_record(&mut group, kind, index, aux, payload);
        }
        let start = SEGMENT_HEADER_BYTES as u64;
        let header = SegmentHeader {
            kind,
            id,
            first_index: 0,
            continues: LogPos::ZERO,
            born_durable_to: start + group.len() as u64,
            recycled_from: 0,
        };
        format::set_watermark(&mut group, LogPos::ZERO);
        format::seal(&mut group, LogPos::new(id, start));
        let mut bytes = header.encode().to_vec();
        bytes.extend_from_slice(&group);
        let file = disk.open(path, OpenMode::CreateNew)?;
        file.write_at(0, &bytes)?;
        file.sync_data()?;
        Ok(Self { file, id, durable_to: header.born_durable_to, group: new_group(), failed: false })
    }

    /// Adds a record to the next group, in memory.
    pub fn append(&mut self, kind: RecordKind, index: u64, aux: u64, payload: &[u8]) {
        format::put_record(&mut self.group, kind, index, aux, payload);
    }

    /// Writes the group and syncs the file. After [`WalError::DiskFull`] it may be called again, with the same group;
    /// after any other error the writer takes no more.
    pub fn commit(&mut self) -> Result<(), WalError> {
        if self.failed {
            return Err(WalError::Poisoned {
                first: format!("{}: an earlier commit failed", self.path().display()),
            });
        }
        let pos = LogPos::new(self.id, self.durable_to);
        format::set_watermark(&mut self.group, pos);
        format::seal(&mut self.group, pos);
        if let Err(source) = self.file.write_at(self.durable_to, &self.group) {
            if source.is_disk_full() {
                return Err(WalError::DiskFull { source });
            }
            self.failed = true;
            return Err(source.into());
        }
        if let Err(error) = self.file.sync_data() {
            self.failed = true;
            return Err(error.into());
        }
        self.durable_to += self.group.len() as u64;
        self.group.truncate(RECORD_HEADER_BYTES);
        Ok(())
    }

    /// The file's path as it was created (before any rename).
    #[must_use]
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Bytes that are durable.
    #[must_use]
    pub const fn durable_bytes(&self) -> u64 {
        self.durable_to
    }
}

/// An empty group: its header, unsealed.
pub(super) fn new_group() -> Vec<u8> {
    let mut group = Vec::new();
    format::put_record(&mut group, RecordKind::Group, 0, 0, &[]);
    group
}
