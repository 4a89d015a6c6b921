//! The log without a loop: reading it without changing a byte, and writing to it on the calling thread. For commands that
//! work on the data directory of a node that is not running ([`node::Recovery`](crate::node::Recovery)).

use super::{RaftLog, RaftLogError, RaftLogRecovery, Replay, Slots, shape::Shape};
use crate::base::{LogIndex, Term};
use crate::env::Env;
use crate::raft::{Entry, LogView};
use crate::wal::{self, LogKind, Options};
use std::path::Path;

/// A log as it lies on the disk: what [`RaftLog::open`] would find. It has no entries in memory.
pub struct LogImage {
    shape: Shape,
    /// What opening would report.
    pub recovery: RaftLogRecovery,
}

impl Slots for wal::Contents {
    fn state(&self, slot: u64) -> Option<(u64, &[u8])> {
        Self::state(self, slot)
    }

    fn next_index(&self) -> u64 {
        self.next_index
    }
}

impl LogImage {
    /// Reads the log in `dir`. Changes nothing. Blocks.
    ///
    /// # Errors
    /// Those of [`RaftLog::open`].
    pub fn read(env: &Env, dir: &Path) -> Result<Self, RaftLogError> {
        let options = Options::new(LogKind::RaftLog, dir);
        let mut replay = Replay { dir: dir.to_path_buf(), ..Replay::default() };
        let read = wal::read(&env.disk, &options, &mut |record| replay.add(&record));
        let contents = read.map_err(|error| replay.explain(error))?;
        let report = contents.report.clone();
        let (shape, _, recovery) = replay.finish(dir, &contents, report)?;
        Ok(Self { shape, recovery })
    }
}

impl LogView for LogImage {
    fn first_index(&self) -> LogIndex {
        self.shape.first()
    }

    fn last(&self) -> (LogIndex, Term) {
        self.shape.last()
    }

    fn term(&self, index: LogIndex) -> Option<Term> {
        self.shape.term(index)
    }

    fn entries(&self, _: LogIndex, _: LogIndex, _: usize) -> Option<Vec<Entry>> {
        None
    }
}

impl RaftLog {
    /// Writes and syncs what was submitted, and the clean end, on this thread. For a log that was never
    /// [kicked](crate::raft::LogStore::kick). Blocks.
    ///
    /// # Errors
    /// I/O errors; a full disk is one. A prefix of what was submitted may be in the log then, in the order of
    /// [`Persist`](crate::raft::Persist).
    pub fn close_blocking(mut self) -> Result<(), RaftLogError> {
        assert!(self.in_flight.is_none(), "a group is in flight");
        self.writer.sync_blocking()?;
        Ok(self.writer.close_blocking()?)
    }
}
