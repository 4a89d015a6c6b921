//! [`StateMachine`]: what the log is applied to and reads come from. The engine is the real one
//! ([`EngineMachine`](super::EngineMachine)), [`MapMachine`](super::MapMachine) its twin in a `BTreeMap`.

use crate::base::batch::BatchRef;
use crate::base::{LogIndex, Nanos, SequenceNumber, Term};
use crate::env::Completion;
use crate::proto::ScanEntry;
use bytes::Bytes;

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
    /// a clock, and gives every operation the next sequence number.
    fn apply(&mut self, index: LogIndex, term: Term, batch: BatchRef<'_>) -> Applied;

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
    /// As of this sequence number.
    pub at: SequenceNumber,
}

/// A part of a range, in order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Slice {
    /// What was found; may be empty though there is more.
    pub entries: Vec<ScanEntry>,
    /// Where to go on; `None` = the range is exhausted.
    pub resume: Option<Vec<u8>>,
}

impl Slice {
    /// Key and value bytes in it.
    pub(super) fn bytes(&self) -> usize {
        self.entries.iter().map(|e| e.key.len() + e.value.len()).sum()
    }
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
}

/// The state machine cannot go on (a failed sync of a table or the manifest, corruption): stop the process.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct MachineError(#[from] pub Box<dyn std::error::Error + Send + Sync>);
