//! All keys of a range or prefix at one moment, fetched page by page.

use super::{Client, ClientError, Staleness};
use crate::base::SequenceNumber;
use crate::proto::{ScanEntry, ScanRange, ScanRequest};
use bytes::Bytes;
use std::collections::VecDeque;

/// What to scan.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ScanOptions {
    /// The first key; empty = the first of all. Not used with a prefix.
    pub start: Vec<u8>,
    /// The first key past the range; empty = no end. Not used with a prefix.
    pub end: Vec<u8>,
    /// Every key that begins with this, instead of a range.
    pub prefix: Option<Vec<u8>>,
    /// Most entries in all; `None` = no limit.
    pub limit: Option<u64>,
    /// Leave the values out.
    pub keys_only: bool,
    /// By descending key, from the end of the range.
    pub reverse: bool,
    /// Read as of this sequence number; 0 = now.
    pub snapshot: SequenceNumber,
    /// Most entries in a page; 0 = the server's limit.
    pub page_entries: u32,
    /// Read what the node that is asked has, however old.
    pub stale: bool,
}

impl ScanOptions {
    /// Every key that begins with `prefix`.
    #[must_use]
    pub fn prefix(prefix: &[u8]) -> Self {
        Self { prefix: Some(prefix.to_vec()), ..Self::default() }
    }

    /// From `start` up to and without `end`; empty = open.
    #[must_use]
    pub fn range(start: &[u8], end: &[u8]) -> Self {
        Self { start: start.to_vec(), end: end.to_vec(), ..Self::default() }
    }
}

/// An iterator over the entries of a scan, by key, of a reverse one by descending key. All pages are read at the snapshot of the first. Ends after an error;
/// `SNAPSHOT_TOO_OLD` means that the caller took longer than the server keeps an unused snapshot.
#[derive(Debug)]
pub struct Scan<'c> {
    client: &'c mut Client,
    options: ScanOptions,
    page: VecDeque<ScanEntry>,
    resume: Vec<u8>,
    left: u64,
    more: bool,
    staleness: Option<Staleness>,
    /// The key that was shown last.
    last: Option<Bytes>,
}

impl<'c> Scan<'c> {
    pub(super) fn new(client: &'c mut Client, options: ScanOptions) -> Self {
        let left = options.limit.unwrap_or(u64::MAX);
        let (page, resume, more) = (VecDeque::new(), Vec::new(), left > 0);
        Self { client, options, page, resume, left, more, staleness: None, last: None }
    }

    /// The sequence number the scan reads at; 0 before the first page of a scan that began with "now".
    #[must_use]
    pub const fn snapshot(&self) -> SequenceNumber {
        self.options.snapshot
    }

    /// How old the state was that the first page saw, and so all of them; `None` before it, and when the scan is not a stale one.
    #[must_use]
    pub const fn staleness(&self) -> Option<Staleness> {
        self.staleness
    }

    /// Where the next page would begin; `None` when the range is exhausted. After a limit: where to go on, of a reverse scan with
    /// the keys before it.
    #[must_use]
    pub fn resume_key(&self) -> Option<&[u8]> {
        if self.options.reverse && !self.page.is_empty() {
            return self.last.as_deref();
        }
        if let Some(entry) = self.page.front() {
            return Some(&entry.key);
        }
        (!self.resume.is_empty()).then_some(&self.resume)
    }

    fn fetch(&mut self) -> Result<(), ClientError> {
        let page_entries = match self.options.page_entries {
            0 => u32::MAX,
            n => n,
        };
        let range = match &self.options.prefix {
            Some(prefix) => ScanRange::Prefix(prefix),
            None => ScanRange::Range { start: &self.options.start, end: &self.options.end },
        };
        let request = ScanRequest {
            range,
            resume: &self.resume,
            snapshot: self.options.snapshot,
            limit: u64::from(page_entries).min(self.left) as u32,
            max_bytes: 0,
            keys_only: self.options.keys_only,
            reverse: self.options.reverse,
        };
        let reply = if self.options.stale {
            let (reply, staleness) = self.client.scan_page_stale(&request)?;
            self.staleness.get_or_insert(staleness);
            reply
        } else {
            self.client.scan_page(&request)?
        };
        self.options.snapshot = reply.snapshot;
        self.more = reply.resume.is_some();
        self.resume = reply.resume.unwrap_or_default();
        self.page = reply.entries.into();
        Ok(())
    }
}

impl Iterator for Scan<'_> {
    type Item = Result<ScanEntry, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.page.is_empty() {
            if !self.more || self.left == 0 {
                return None;
            }
            if let Err(e) = self.fetch() {
                self.more = false;
                return Some(Err(e));
            }
        }
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        let entry = self.page.pop_front()?;
        if self.options.reverse {
            self.last = Some(entry.key.clone());
        }
        Some(Ok(entry))
    }
}
