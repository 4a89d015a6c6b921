//! [`StateMachine`]: what the log is applied to and reads come from. The engine is the real one
//! ([`EngineMachine`](super::EngineMachine)), [`MapMachine`](super::MapMachine) its twin in a `BTreeMap`.
//!
//! # Snapshots between replicas
//! ```text
//!  leader    file_snapshot ─▶ SnapshotSource: meta, read(offset, len) as jobs in Lane::Read      (dropped: unpinned)
//!  follower  begin_install(meta) ─▶ SnapshotSink: write(offset, data) as jobs in Lane::Maintenance, one after the other
//!                                        └─▶ install(sink) ─ jobs ─▶ MachineOutcome::Installed | InstallFailed
//! ```
//! A snapshot is what the machine holds *durably*: it stands at [`StateMachine::durable_applied`] and never forces a flush.
//! It is immutable and stays readable while its source is held, whatever is applied, flushed, or installed meanwhile.
//! An install replaces everything in one step: a crash at any moment leaves the old state or the new one (pitfall 25).
//! While one is in flight the owner applies nothing, and begins no other. Layout: `proto-spec/snapshot.md`.

use crate::base::batch::BatchRef;
use crate::base::{InternalOp, LogIndex, Membership, Nanos, SequenceNumber, Term};
use crate::engine::Scrub;
use crate::engine::checkpoint::{CheckpointWork, Origin};
use crate::env::Completion;
use crate::proto::ScanEntry;
use crate::raft::message::SnapshotMeta;
use bytes::Bytes;
use std::any::Any;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Applied, read, flushed. All calls are on the loop and never block; what needs the disk becomes a job.
pub trait StateMachine {
    /// The last applied entry; (0, 0) before the first.
    fn applied(&self) -> (LogIndex, Term);
    /// The last entry that a restart would find applied without the log.
    fn durable_applied(&self) -> (LogIndex, Term);
    /// The last sequence number given out.
    fn last_seq(&self) -> SequenceNumber;
    /// Reads below this sequence number are refused: some of their versions may be gone.
    fn oldest_readable_seq(&self) -> SequenceNumber;

    /// Applies the next entry: `index` is one more than [`StateMachine::applied`]'s. Never refuses, never looks at
    /// a clock, and gives every operation the next sequence number: those of `user` first, then the changes of rows
    /// under the reserved prefix. Without `user` only the rows change, if any (a duplicate or refused write). Answers about
    /// `user` alone.
    fn apply(
        &mut self,
        index: LogIndex,
        term: Term,
        user: Option<BatchRef<'_>>,
        internal: &[InternalOp],
    ) -> Applied;
    /// The rows under the reserved prefix, by ascending key, as they are now. Blocks on the disk: at open only.
    fn internal_rows(&self) -> Result<Vec<(Vec<u8>, Bytes)>, ReadFault>;

    /// What the live range deletes count of [`MAX_RANGE_DELETES`](crate::limits::MAX_RANGE_DELETES).
    fn range_deletes(&self) -> usize;

    /// Reads a key as of `at` (`None` = now).
    fn get(
        &self,
        key: &[u8],
        at: Option<SequenceNumber>,
    ) -> Result<Lookup<Option<Versioned>>, ReadFault>;
    /// Reads a bounded slice of a range.
    fn scan(&self, range: &SliceRange<'_>) -> Result<Lookup<Slice>, ReadFault>;

    /// Holds the present state readable under the returned sequence number until it is released as often as it was
    /// taken.
    fn snapshot(&mut self) -> SequenceNumber;
    /// Ends one hold.
    fn release_snapshot(&mut self, seq: SequenceNumber);

    /// Pins what is durable, to be sent to another replica; `None` when nothing is, or when its description would be too
    /// large for anybody to take (the machine logs it). `membership` is the one in force at
    /// [`StateMachine::durable_applied`], with the index of the entry that set it.
    fn file_snapshot(
        &mut self,
        membership: (LogIndex, Membership),
    ) -> Option<Box<dyn SnapshotSource>>;
    /// Makes ready to take the snapshot that `meta` describes. Refused, with the reason for people, when it is not newer
    /// than what is applied (pitfall 24) or its description is not valid.
    fn begin_install(&mut self, meta: &Arc<SnapshotMeta>) -> Result<Box<dyn SnapshotSink>, String>;
    /// Installs a snapshot whose stream is complete and whose last write is done. It is checked first, whole: a damaged one
    /// leaves everything as it was. Answered by [`MachineOutcome::Installed`] or [`MachineOutcome::InstallFailed`].
    fn install(&mut self, sink: Box<dyn SnapshotSink>);

    /// Freezes what is applied, so that flushes from here on bring [`StateMachine::durable_applied`] at least to it.
    fn freeze(&mut self);
    /// The work that makes a checkpoint of what is durable, in `dir`; `None`: this machine has no files.
    fn checkpoint(&mut self, dir: PathBuf, origin: Origin) -> Option<CheckpointWork>;
    /// Has what is applied now of a range of keys compacted, in the background; an empty end is past the last key. `false`: this machine has
    /// no files.
    fn compact(&mut self, start: &[u8], end: &[u8]) -> bool;
    /// The work that checks every block of what is durable, and of the log in this directory; `None`: this machine has no files.
    fn scrub(&mut self, log: PathBuf) -> Option<Scrub>;

    /// Whether more may be applied now.
    fn room(&self) -> Room;
    /// Why writes should wait for disk space; `None` when they need not.
    fn read_only_reason(&self) -> Option<&str>;
    /// Called every turn and every tick: starts a flush when the memtable is large or `log_is_large`, and retries
    /// what failed for lack of space.
    fn maintain(&mut self, now: Nanos, log_is_large: bool);
    /// The next memtable that was frozen since the last call, oldest first; `None` when all were told.
    fn take_frozen(&mut self) -> Option<Frozen>;
    /// Takes a completion.
    fn job_done(&mut self, done: Completion) -> Result<MachineOutcome, MachineError>;
    /// Bytes of memory that hold data.
    fn memory_bytes(&self) -> u64;
    /// For STATS: a JSON object.
    fn stats(&self) -> serde_json::Value;
}

/// The sequence numbers of one applied batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Applied {
    /// Of its first operation.
    pub first_seq: SequenceNumber,
    /// Of its last operation.
    pub last_seq: SequenceNumber,
}

/// A value and the operation that wrote it.
pub type Versioned = (SequenceNumber, Bytes);

/// The answer, or the job that will find it.
pub enum Lookup<T> {
    /// Found in memory.
    Ready(T),
    /// On the disk: a job for [`Lane::Read`](crate::env::Lane::Read), over a pinned version.
    Disk(DiskRead<T>),
}

/// A read that blocks on the disk.
pub type DiskRead<T> = Box<dyn FnOnce() -> Result<T, ReadFault> + Send>;

/// What to read of a range, at most.
#[derive(Clone, Copy, Debug)]
pub struct SliceRange<'a> {
    /// The first key; empty = the first of all.
    pub start: &'a [u8],
    /// The first key past the range; `None` = no end.
    pub end: Option<&'a [u8]>,
    /// Most entries.
    pub limit: usize,
    /// Stop after the entry that reaches this many key and value bytes.
    pub max_bytes: usize,
    /// Leave the values out.
    pub keys_only: bool,
    /// By descending key, from the end of the range.
    pub reverse: bool,
    /// As of this sequence number.
    pub at: SequenceNumber,
}

/// A part of a range, in order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Slice {
    /// What was found; may be empty though there is more.
    pub entries: Vec<ScanEntry>,
    /// Where to go on: the next slice's start, in reverse its end; `None` = the range is exhausted.
    pub resume: Option<Vec<u8>>,
}

impl Slice {
    /// Key and value bytes in it.
    pub(super) fn bytes(&self) -> usize {
        self.entries.iter().map(|e| e.key.len() + e.value.len()).sum()
    }
}

/// A pinned snapshot, to be sent. Dropping it unpins.
pub trait SnapshotSource: Send {
    /// What it is.
    fn meta(&self) -> &Arc<SnapshotMeta>;
    /// The job that reads at most `len` bytes of the stream from `offset`, fewer only at its end. Jobs may run in any order,
    /// also after the source was dropped.
    fn read(&self, offset: u64, len: usize) -> SnapshotRead;
}

/// A read of a snapshot's stream, for [`Lane::Read`](crate::env::Lane::Read): the bytes and their CRC32C. An error concerns
/// this read; it names the file and the offset.
pub type SnapshotRead = Box<dyn FnOnce() -> io::Result<(Bytes, u32)> + Send>;

/// Takes in a snapshot's stream. What was written counts for nothing before [`StateMachine::install`]; dropping the sink
/// abandons it, and the machine then removes what was written.
pub trait SnapshotSink: Send {
    /// What is taken in.
    fn meta(&self) -> &Arc<SnapshotMeta>;
    /// How much of the stream has been given to [`SnapshotSink::write`].
    fn written(&self) -> u64;
    /// The job that writes the next piece of the stream. `offset` is [`SnapshotSink::written`], and `data` ends within the
    /// stream; whatever else is asked makes a job that fails. The owner submits it to
    /// [`Lane::Maintenance`](crate::env::Lane::Maintenance) at once. After a failure the sink is of no use.
    fn write(&mut self, offset: u64, data: Bytes) -> SinkJob;
    /// For the machine that made it.
    fn into_any(self: Box<Self>) -> Box<dyn Any>;
}

/// See [`SnapshotSink::write`].
pub type SinkJob = Box<dyn FnOnce() -> Result<(), SinkFault> + Send>;

/// A piece of a snapshot could not be written.
#[derive(Debug, thiserror::Error)]
pub enum SinkFault {
    /// No space, a failed write, or what came is not what was promised: the transfer is of no use any more, and what the
    /// machine holds is as it was. For people.
    #[error("{0}")]
    Refused(String),
    /// A sync failed (pitfall 19): stop the process.
    #[error(transparent)]
    Fatal(#[from] MachineError),
}

/// Whether apply may go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Room {
    /// It may.
    Ok,
    /// Too many memtables wait for their flush.
    Stalled,
}

/// A memtable that was frozen: it takes no more entries and waits for its flush.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frozen {
    /// Entries in it.
    pub entries: u64,
    /// Its memory.
    pub bytes: u64,
}

/// Why a read has no answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReadFault {
    /// The snapshot's versions may be gone.
    #[error("sequence number {at} is below the oldest readable one, {oldest}")]
    SnapshotTooOld {
        /// What was asked for.
        at: SequenceNumber,
        /// What can be read.
        oldest: SequenceNumber,
    },
    /// The disk failed or is damaged: which file, where, and how.
    #[error("{0}")]
    Failed(String),
}

/// What a completion meant to the state machine.
pub enum MachineOutcome {
    /// It belongs to somebody else.
    NotMine(Completion),
    /// Housekeeping.
    Nothing,
    /// Everything up to this entry is durable without the log.
    Flushed {
        /// The entry.
        index: LogIndex,
        /// The new table's number and bytes, if there is one.
        table: Option<(u64, u64)>,
        /// Nanoseconds from the start of the flush.
        ns: u64,
    },
    /// A snapshot is installed, durably: the machine stands at it, nothing of what it held before is left.
    Installed {
        /// The last entry in it.
        index: LogIndex,
        /// Its term.
        term: Term,
        /// The membership in force there, as its description said.
        membership: (LogIndex, Membership),
        /// The rows under the reserved prefix, by ascending key.
        rows: Vec<(Vec<u8>, Bytes)>,
    },
    /// A snapshot was not installed, and everything is as it was before.
    InstallFailed {
        /// Why, for people: which file, where, and how.
        reason: String,
    },
}

/// The state machine cannot go on (a failed sync of a table or the manifest, corruption): stop the process.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct MachineError(#[from] pub Box<dyn std::error::Error + Send + Sync>);
