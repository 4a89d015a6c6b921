//! [`MapMachine`]: the state machine as a `BTreeMap`, for tests of the node that are not about the engine, and as the
//! model that the engine is compared with.

use super::state_machine::{
    Applied, DiskRead, Frozen, Lookup, MachineError, MachineOutcome, ReadFault, Room, Slice,
    SliceRange, SnapshotSink, SnapshotSource, StateMachine, Versioned,
};
use crate::base::batch::{BatchRef, Op, RESERVED_KEY_END, RESERVED_KEY_PREFIX};
use crate::base::{InternalOp, LogIndex, Membership, Nanos, SequenceNumber, Term};
use crate::env::Completion;
use crate::limits::SCAN_SLICE_STEPS;
use crate::proto::ScanEntry;
use crate::raft::message::SnapshotMeta;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

/// All versions of all keys, in memory, lost with the process: a restart applies the log from its beginning. Old
/// versions go at once when no snapshot holds them.
#[derive(Clone, Debug, Default)]
pub struct MapMachine {
    /// Each key's versions, oldest first; `None` is a tombstone.
    versions: BTreeMap<Bytes, Vec<(SequenceNumber, Option<Bytes>)>>,
    applied: (LogIndex, Term),
    last_seq: SequenceNumber,
    oldest_readable: SequenceNumber,
    holds: BTreeMap<SequenceNumber, u32>,
    reads_on_disk: bool,
    room: bool,
}

impl MapMachine {
    /// Empty.
    #[must_use]
    pub fn new() -> Self {
        Self { room: true, ..Self::default() }
    }

    /// Empty, and every read is a job, as if everything were on the disk.
    #[must_use]
    pub fn with_reads_on_disk() -> Self {
        Self { reads_on_disk: true, ..Self::new() }
    }

    /// Says whether there is room for writes.
    pub const fn set_room(&mut self, room: bool) {
        self.room = room;
    }

    /// Keys with their newest value and its sequence number.
    pub fn live(&self) -> impl Iterator<Item = (&Bytes, SequenceNumber, &Bytes)> {
        self.versions.iter().filter_map(|(key, versions)| {
            let (seq, value) = versions.last()?;
            Some((key, *seq, value.as_ref()?))
        })
    }

    /// Snapshots held, counting each hold.
    #[must_use]
    pub fn holds(&self) -> u32 {
        self.holds.values().sum()
    }

    /// A new version of `key`, under the next sequence number.
    fn add(&mut self, key: &[u8], value: Option<Bytes>) {
        self.last_seq = self.last_seq.next();
        let versions = self.versions.entry(Bytes::copy_from_slice(key)).or_default();
        versions.push((self.last_seq, value));
    }

    fn check(&self, at: SequenceNumber) -> Result<(), ReadFault> {
        if at < self.oldest_readable {
            return Err(ReadFault::SnapshotTooOld { at, oldest: self.oldest_readable });
        }
        Ok(())
    }

    fn visible(
        versions: &[(SequenceNumber, Option<Bytes>)],
        at: SequenceNumber,
    ) -> Option<Versioned> {
        let (seq, value) = versions.iter().rev().find(|(seq, _)| *seq <= at)?;
        Some((*seq, value.clone()?))
    }

    fn slice(&self, range: &SliceRange<'_>) -> Slice {
        let end = range.end.map_or(Bound::Unbounded, Bound::Excluded);
        if range.end.is_some_and(|end| end <= range.start) {
            return Slice::default();
        }
        let mut slice = Slice::default();
        let mut bytes = 0;
        let keys = self.versions.range::<[u8], _>((Bound::Included(range.start), end));
        for (steps, (key, versions)) in keys.enumerate() {
            if steps >= SCAN_SLICE_STEPS
                || slice.entries.len() >= range.limit
                || bytes >= range.max_bytes
            {
                slice.resume = Some(key.to_vec());
                break;
            }
            let Some((seq, value)) = Self::visible(versions, range.at) else { continue };
            let value = if range.keys_only { Bytes::new() } else { value };
            bytes += key.len() + value.len();
            slice.entries.push(ScanEntry { key: key.clone(), seq, value });
        }
        slice
    }

    fn drop_unheld_versions(&mut self) {
        let oldest = self.holds.keys().next().copied().unwrap_or(self.last_seq);
        self.oldest_readable = self.oldest_readable.max(oldest);
        for versions in self.versions.values_mut() {
            let keep_from = versions.iter().rposition(|(seq, _)| *seq <= oldest).unwrap_or(0);
            versions.drain(..keep_from);
        }
    }

    fn lookup<T: Send + 'static>(&self, found: T) -> Lookup<T> {
        if self.reads_on_disk {
            let job: DiskRead<T> = Box::new(move || Ok(found));
            return Lookup::Disk(job);
        }
        Lookup::Ready(found)
    }
}

impl StateMachine for MapMachine {
    fn applied(&self) -> (LogIndex, Term) {
        self.applied
    }

    fn durable_applied(&self) -> (LogIndex, Term) {
        (LogIndex::ZERO, Term::ZERO)
    }

    fn last_seq(&self) -> SequenceNumber {
        self.last_seq
    }

    fn oldest_readable_seq(&self) -> SequenceNumber {
        self.oldest_readable
    }

    fn apply(
        &mut self,
        index: LogIndex,
        term: Term,
        user: Option<BatchRef<'_>>,
        internal: &[InternalOp],
    ) -> Applied {
        assert_eq!(index, self.applied.0.next(), "entries are applied in order");
        let first_seq = self.last_seq.next();
        for op in user.iter().flat_map(BatchRef::ops) {
            match op {
                Op::Put { key, value } => self.add(key, Some(Bytes::copy_from_slice(value))),
                Op::Delete { key } => self.add(key, None),
                // What these change comes as `internal`.
                Op::NoOp | Op::Register | Op::Membership(_) => self.last_seq = self.last_seq.next(),
            }
        }
        let applied = Applied { first_seq, last_seq: self.last_seq };
        for op in internal {
            self.add(op.key(), op.value().cloned());
        }
        self.applied = (index, term);
        applied
    }

    fn internal_rows(&self) -> Result<Vec<(Vec<u8>, Bytes)>, ReadFault> {
        let range = self.versions.range::<[u8], _>((
            Bound::Included(RESERVED_KEY_PREFIX),
            Bound::Excluded(RESERVED_KEY_END),
        ));
        let newest =
            range.filter_map(|(key, versions)| Some((key.to_vec(), versions.last()?.1.clone()?)));
        Ok(newest.collect())
    }

    fn get(
        &self,
        key: &[u8],
        at: Option<SequenceNumber>,
    ) -> Result<Lookup<Option<Versioned>>, ReadFault> {
        let at = at.unwrap_or(self.last_seq);
        self.check(at)?;
        Ok(self.lookup(self.versions.get(key).and_then(|versions| Self::visible(versions, at))))
    }

    fn scan(&self, range: &SliceRange<'_>) -> Result<Lookup<Slice>, ReadFault> {
        self.check(range.at)?;
        Ok(self.lookup(self.slice(range)))
    }

    fn snapshot(&mut self) -> SequenceNumber {
        *self.holds.entry(self.last_seq).or_default() += 1;
        self.last_seq
    }

    fn release_snapshot(&mut self, seq: SequenceNumber) {
        let holds = self.holds.get_mut(&seq).expect("released as often as taken");
        *holds -= 1;
        if *holds == 0 {
            self.holds.remove(&seq);
            self.drop_unheld_versions();
        }
    }

    fn file_snapshot(
        &mut self,
        _membership: (LogIndex, Membership),
    ) -> Option<Box<dyn SnapshotSource>> {
        None
    }

    fn begin_install(
        &mut self,
        _meta: &Arc<SnapshotMeta>,
    ) -> Result<Box<dyn SnapshotSink>, String> {
        Err("this build does not install snapshots yet".to_owned())
    }

    fn install(&mut self, _sink: Box<dyn SnapshotSink>) {
        unreachable!("no sink was made");
    }

    fn room(&self) -> Room {
        if self.room { Room::Ok } else { Room::Stalled }
    }

    fn read_only_reason(&self) -> Option<&str> {
        None
    }

    fn maintain(&mut self, _now: Nanos, _log_is_large: bool) {}

    fn take_frozen(&mut self) -> Option<Frozen> {
        None
    }

    fn job_done(&mut self, done: Completion) -> Result<MachineOutcome, MachineError> {
        Ok(MachineOutcome::NotMine(done))
    }

    fn memory_bytes(&self) -> u64 {
        let values = self.versions.values().flatten().filter_map(|(_, value)| value.as_ref());
        values.map(|value| value.len() as u64).sum()
    }

    fn stats(&self) -> serde_json::Value {
        serde_json::json!({ "keys": self.versions.len(), "holds": self.holds() })
    }
}
