//! [`LogCheck`]: reads every record of a log that is in use, in bounded steps, and changes nothing.
//!
//! Records that must be there are those below the point where the next segment takes over, and in the newest segment those
//! below its highest watermark; what is behind may be a write in flight. The writer goes on meanwhile: segments may be released
//! or recycled under the reader, so what looks like damage counts only when the segment is still part of the log, and a second
//! reading of it from its start finds it again.

use super::error::{RecordFault, WalError};
use super::format::{LogKind, LogPos, RecordKind};
use super::recovery::{Chain, ChainSegment};
use super::segment::{ScanEnd, SegmentReader, Watermark};
use crate::env::Disk;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

/// How often a segment is read before what is found in it is believed.
const READINGS: u32 = 3;

/// See the module.
pub struct LogCheck {
    disk: Arc<dyn Disk>,
    kind: LogKind,
    dir: PathBuf,
    left: VecDeque<ChainSegment>,
    current: Option<SegmentReader>,
    newest: Option<Newest>,
    readings: u32,
    /// Segments read.
    pub segments: u64,
    /// Bytes read.
    pub bytes: u64,
}

/// How far the newest segment was read, whose end is judged by its watermarks.
#[derive(Clone, Copy)]
struct Newest {
    watermark: Watermark,
    /// Why the records end, and from where on later groups are looked for.
    end: Option<(RecordFault, u64)>,
}

impl LogCheck {
    /// Of the log in `dir` as it is now.
    pub fn new(disk: Arc<dyn Disk>, kind: LogKind, dir: PathBuf) -> Result<Self, WalError> {
        let left = Chain::read(&*disk, kind, &dir)?.segments.into();
        Ok(Self {
            disk,
            kind,
            dir,
            left,
            current: None,
            newest: None,
            readings: 0,
            segments: 0,
            bytes: 0,
        })
    }

    /// Reads about `max_bytes` more; whether everything was read.
    ///
    /// # Errors
    /// What is wrong with a segment. The next step goes on with the one after it.
    pub fn step(&mut self, max_bytes: u64) -> Result<bool, WalError> {
        let Some(segment) = self.left.front().cloned() else { return Ok(true) };
        match self.read(&segment, max_bytes) {
            Ok(false) => return Ok(false),
            Ok(true) => self.segments += 1,
            Err(error) => {
                (self.current, self.newest) = (None, None);
                self.readings += 1;
                let still_there = self.is_in_use(&segment)?;
                if still_there && self.readings < READINGS {
                    return Ok(false);
                }
                self.next();
                return if still_there { Err(error) } else { Ok(self.left.is_empty()) };
            }
        }
        self.next();
        Ok(self.left.is_empty())
    }

    fn next(&mut self) {
        self.left.pop_front();
        (self.current, self.newest, self.readings) = (None, None, 0);
    }

    /// Whether the segment is still part of the log, under its place in it.
    fn is_in_use(&self, segment: &ChainSegment) -> Result<bool, WalError> {
        let chain = Chain::read(&*self.disk, self.kind, &self.dir)?;
        Ok(chain.segments.iter().any(|now| now.header == segment.header))
    }

    /// Whether the segment was read to its end.
    fn read(&mut self, segment: &ChainSegment, max_bytes: u64) -> Result<bool, WalError> {
        let mut reader = match self.current.take() {
            Some(reader) => reader,
            None => segment.reader(&*self.disk)?,
        };
        let Some(limit) = segment.limit else {
            return self.read_newest(segment, reader, max_bytes);
        };
        let start = reader.offset();
        while reader.offset() < limit {
            if reader.offset() - start >= max_bytes {
                self.bytes += reader.offset() - start;
                self.current = Some(reader);
                return Ok(false);
            }
            reader.expect_record()?;
        }
        self.bytes += reader.offset() - start;
        Ok(true)
    }

    /// The same of the newest segment: its records, then the rest of the file for groups that say that more was durable.
    fn read_newest(
        &mut self,
        segment: &ChainSegment,
        mut reader: SegmentReader,
        max_bytes: u64,
    ) -> Result<bool, WalError> {
        let header = reader.header();
        let (group, durable_to) =
            (LogPos::new(header.id, 0), LogPos::new(header.id, header.born_durable_to));
        let watermark = Watermark { group, durable_to };
        let Newest { mut watermark, mut end } =
            self.newest.unwrap_or(Newest { watermark, end: None });
        let start = reader.offset();
        while end.is_none() && reader.offset() - start < max_bytes {
            match reader.next_record()? {
                Ok(record) => {
                    if record.kind == RecordKind::Group && record.aux > watermark.durable_to.0 {
                        watermark = Watermark { group: record.pos, durable_to: LogPos(record.aux) };
                    }
                }
                Err(fault) => end = Some((fault, reader.offset())),
            }
        }
        self.bytes += reader.offset() - start;
        if let Some((fault, from)) = end {
            let until = from.saturating_add(max_bytes);
            let mut from = from;
            while let Some(found) = reader.find_group_before(from, until)? {
                if found.durable_to > watermark.durable_to {
                    watermark = found;
                }
                from = found.group.offset() + 8;
            }
            if until >= reader.file_len() {
                let end = ScanEnd { end: reader.offset(), fault, watermark };
                // What was not there yet when the records were read may be since: the writer goes on.
                let mut again = segment.reader(&*self.disk)?;
                again.seek(end.end);
                if end.is_damage() && again.next_record()?.is_ok() {
                    again.seek(end.end);
                    self.newest = Some(Newest { watermark, end: None });
                    self.current = Some(again);
                    return Ok(false);
                }
                return end.check(reader.path()).map(|()| true);
            }
            end = Some((fault, until.max(from)));
        }
        self.newest = Some(Newest { watermark, end });
        self.current = Some(reader);
        Ok(false)
    }
}
