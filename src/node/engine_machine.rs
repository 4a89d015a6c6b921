//! [`EngineMachine`]: the [`Engine`] as the node's state machine.

use super::state_machine::{
    Applied, Frozen, Lookup, MachineError, MachineOutcome, ReadFault, Room, SinkFault, SinkJob,
    Slice, SliceRange, SnapshotRead, SnapshotSink, SnapshotSource, StateMachine, Versioned,
};
use crate::base::batch::BatchRef;
use crate::base::{InternalOp, LogIndex, Membership, Nanos, SequenceNumber, Term};
use crate::engine::checkpoint::{CheckpointWork, Origin};
use crate::engine::{
    Engine, EngineError, FileSnapshot, FrozenSize, Get, InstallFault, JobOutcome, Scan,
    ScanOptions, ScanSlice, Scrub, SnapshotFiles, WriteRoom,
};
use crate::env::{Completion, IoError};
use crate::proto::ScanEntry;
use crate::raft::message::SnapshotMeta;
use crate::wal::LogKind;
use bytes::Bytes;
use std::any::Any;
use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Translates, and decides when to flush: when a memtable is full, or the log is large.
pub struct EngineMachine {
    engine: Engine,
    flush_started_at: Nanos,
    /// How many freezes are in `frozen`, or were.
    freezes_seen: u64,
    /// Not yet taken by the node.
    frozen: VecDeque<Frozen>,
    /// The snapshot whose install is in flight.
    installing: Option<Arc<SnapshotMeta>>,
}

impl EngineMachine {
    /// Around an open engine.
    #[must_use]
    pub fn new(engine: Engine) -> Self {
        let freezes_seen = engine.freezes().0;
        Self {
            engine,
            flush_started_at: Nanos::ZERO,
            freezes_seen,
            frozen: VecDeque::new(),
            installing: None,
        }
    }

    /// Called after whatever may freeze a memtable, which is one at most.
    fn note_freeze(&mut self) {
        let (freezes, FrozenSize { entries, bytes }) = self.engine.freezes();
        if freezes != self.freezes_seen {
            self.freezes_seen = freezes;
            self.frozen.push_back(Frozen { entries, bytes });
        }
    }

    /// The engine, to look at.
    #[must_use]
    pub const fn engine(&self) -> &Engine {
        &self.engine
    }
}

impl StateMachine for EngineMachine {
    fn applied(&self) -> (LogIndex, Term) {
        self.engine.applied()
    }

    fn durable_applied(&self) -> (LogIndex, Term) {
        self.engine.flushed_applied()
    }

    fn last_seq(&self) -> SequenceNumber {
        self.engine.last_seq()
    }

    fn oldest_readable_seq(&self) -> SequenceNumber {
        self.engine.oldest_readable_seq()
    }

    fn apply(
        &mut self,
        index: LogIndex,
        term: Term,
        user: Option<BatchRef<'_>>,
        internal: &[InternalOp],
    ) -> Applied {
        let applied = self.engine.apply(index, term, user, internal);
        self.note_freeze();
        Applied { first_seq: applied.first_seq, last_seq: applied.last_seq }
    }

    fn internal_rows(&self) -> Result<Vec<(Vec<u8>, Bytes)>, ReadFault> {
        Ok(self.engine.internal_rows()?)
    }

    fn range_deletes(&self) -> usize {
        self.engine.range_deletes()
    }

    fn get(
        &self,
        key: &[u8],
        at: Option<SequenceNumber>,
    ) -> Result<Lookup<Option<Versioned>>, ReadFault> {
        Ok(match self.engine.get(key, at)? {
            Get::Found { seq, value } => Lookup::Ready(Some((seq, value))),
            Get::Missing => Lookup::Ready(None),
            Get::NeedsDisk(job) => Lookup::Disk(Box::new(move || Ok(job.run()?))),
        })
    }

    fn scan(&self, range: &SliceRange<'_>) -> Result<Lookup<Slice>, ReadFault> {
        let options = ScanOptions {
            start: range.start.to_vec(),
            end: range.end.map(<[u8]>::to_vec),
            limit: range.limit,
            max_bytes: range.max_bytes,
            keys_only: range.keys_only,
            reverse: range.reverse,
            seq: Some(range.at),
        };
        Ok(match self.engine.scan(&options)? {
            Scan::Done(slice) => Lookup::Ready(slice.into()),
            Scan::NeedsDisk(job) => Lookup::Disk(Box::new(move || Ok(job.run()?.into()))),
        })
    }

    fn snapshot(&mut self) -> SequenceNumber {
        self.engine.snapshot()
    }

    fn release_snapshot(&mut self, seq: SequenceNumber) {
        self.engine.release_snapshot(seq);
    }

    fn file_snapshot(
        &mut self,
        membership: (LogIndex, Membership),
    ) -> Option<Box<dyn SnapshotSource>> {
        let files = self.engine.file_snapshot()?;
        let (index, term) = files.applied();
        let (bytes, body) = (files.bytes(), files.body().clone());
        let meta = Arc::new(SnapshotMeta { index, term, membership, bytes, body });
        Some(Box::new(EngineSource { meta, files }))
    }

    fn begin_install(&mut self, meta: &Arc<SnapshotMeta>) -> Result<Box<dyn SnapshotSink>, String> {
        let files = self.engine.begin_install((meta.index, meta.term), meta.bytes, &meta.body)?;
        Ok(Box::new(EngineSink { meta: Arc::clone(meta), files }))
    }

    fn install(&mut self, sink: Box<dyn SnapshotSink>) {
        let sink = sink.into_any().downcast::<EngineSink>().expect("a sink that this machine made");
        let EngineSink { meta, files } = *sink;
        self.installing = Some(meta);
        self.engine.install(files);
    }

    fn freeze(&mut self) {
        self.engine.freeze();
        self.note_freeze();
    }

    fn checkpoint(&mut self, dir: PathBuf, origin: Origin) -> Option<CheckpointWork> {
        Some(self.engine.checkpoint(dir, Some(origin)))
    }

    fn compact(&mut self, start: &[u8], end: &[u8]) -> bool {
        self.engine.compact(start, (!end.is_empty()).then_some(end));
        self.note_freeze();
        true
    }

    fn scrub(&mut self, log: PathBuf) -> Option<Scrub> {
        Some(self.engine.scrub(Some((LogKind::RaftLog, log))))
    }

    fn room(&self) -> Room {
        match self.engine.write_room() {
            WriteRoom::Ok => Room::Ok,
            WriteRoom::Stalled => Room::Stalled,
        }
    }

    fn read_only_reason(&self) -> Option<&str> {
        self.engine.read_only_reason()
    }

    fn maintain(&mut self, now: Nanos, log_is_large: bool) {
        self.engine.tick(now);
        self.note_freeze();
        let for_the_log = log_is_large && !self.engine.is_flushing() && !self.engine.is_flushed();
        if (self.engine.needs_flush() || for_the_log) && self.engine.start_flush() {
            self.flush_started_at = now;
        }
        self.engine.start_compaction();
        self.note_freeze();
    }

    fn take_frozen(&mut self) -> Option<Frozen> {
        self.frozen.pop_front()
    }

    fn job_done(&mut self, done: Completion) -> Result<MachineOutcome, MachineError> {
        let finished_at = done.finished_at;
        match self.engine.job_done(done).map_err(|e| MachineError(Box::new(e)))? {
            JobOutcome::NotMine(done) => Ok(MachineOutcome::NotMine(done)),
            JobOutcome::Nothing => Ok(MachineOutcome::Nothing),
            JobOutcome::Flushed { index, table, .. } => Ok(MachineOutcome::Flushed {
                index,
                table,
                ns: finished_at.since(self.flush_started_at),
            }),
            JobOutcome::SnapshotInstalled { index, term, rows } => {
                let meta = self.installing.take().expect("an install was asked for");
                let membership = meta.membership.clone();
                Ok(MachineOutcome::Installed { index, term, membership, rows })
            }
            JobOutcome::SnapshotFailed { reason } => {
                self.installing = None;
                Ok(MachineOutcome::InstallFailed { reason })
            }
        }
    }

    fn memory_bytes(&self) -> u64 {
        let stats = self.engine.stats();
        stats.memtable_bytes + stats.frozen_bytes
    }

    fn stats(&self) -> serde_json::Value {
        serde_json::to_value(self.engine.stats()).expect("figures are JSON")
    }
}

/// The engine's pinned tables.
struct EngineSource {
    meta: Arc<SnapshotMeta>,
    files: FileSnapshot,
}

impl SnapshotSource for EngineSource {
    fn meta(&self) -> &Arc<SnapshotMeta> {
        &self.meta
    }

    fn read(&self, offset: u64, len: usize) -> SnapshotRead {
        let job = self.files.read(offset, len);
        Box::new(move || {
            job.run()
                .map_err(|e| io::Error::new(e.io().map_or(io::ErrorKind::Other, IoError::kind), e))
        })
    }
}

/// Tables on their way into the engine.
struct EngineSink {
    meta: Arc<SnapshotMeta>,
    files: SnapshotFiles,
}

impl SnapshotSink for EngineSink {
    fn meta(&self) -> &Arc<SnapshotMeta> {
        &self.meta
    }

    fn written(&self) -> u64 {
        self.files.written()
    }

    fn write(&mut self, offset: u64, data: Bytes) -> SinkJob {
        let job = self.files.write(offset, data);
        Box::new(move || {
            job.run().map_err(|fault| match fault {
                InstallFault::Refused(reason) => SinkFault::Refused(reason),
                InstallFault::Fatal(error) => SinkFault::Fatal(MachineError(Box::new(error))),
            })
        })
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

impl From<EngineError> for ReadFault {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::SnapshotTooOld { seq, oldest_readable } => {
                Self::SnapshotTooOld { at: seq, oldest: oldest_readable }
            }
            other => Self::Failed(other.to_string()),
        }
    }
}

impl From<ScanSlice> for Slice {
    fn from(slice: ScanSlice) -> Self {
        let entries = slice.entries.into_iter().map(|entry| ScanEntry {
            key: Bytes::from(entry.key),
            seq: entry.seq,
            value: entry.value,
        });
        Self { entries: entries.collect(), resume: slice.resume }
    }
}
