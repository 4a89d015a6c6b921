//! [`MapMachine`]: the state machine as a `BTreeMap`, for tests of the node that are not about the engine, and as the
//! model that the engine is compared with.

use super::map_snapshot::{Content, MapSink, MapSource};
use super::state_machine::{
    Applied, DiskRead, Frozen, Lookup, MachineError, MachineOutcome, ReadFault, Room, Slice,
    SliceRange, SnapshotSink, SnapshotSource, StateMachine, Versioned,
};
use crate::base::batch::{BatchRef, Op, RESERVED_KEY_END, RESERVED_KEY_PREFIX};
use crate::base::{InternalOp, LogIndex, Membership, Nanos, SequenceNumber, Term, checksum};
use crate::engine::Scrub;
use crate::engine::checkpoint::{CheckpointWork, Origin};
use crate::env::{Completion, JobId, Jobs, Lane};
use crate::limits::SCAN_SLICE_STEPS;
use crate::proto::ScanEntry;
use crate::raft::message::SnapshotMeta;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::Arc;

/// All versions of all keys, in memory. Old versions go at once when no snapshot holds them.
///
/// [`MapMachine::new`] loses everything with the process: nothing is ever durable, a restart applies the log from its
/// beginning, and there are no snapshots. [`MapMachine::with_jobs`] plays the engine: a large log makes it flush, which is to
/// keep a copy of everything, and [`MapMachine::restarted`] is what a new process finds.
#[derive(Clone, Debug, Default)]
pub struct MapMachine {
    content: Content,
    /// The content at the last flush or install.
    durable: Arc<Content>,
    holds: BTreeMap<SequenceNumber, u32>,
    reads_on_disk: bool,
    room: bool,
    lanes: Option<Lanes>,
    flushing: Option<JobId>,
    installing: Option<(JobId, Arc<SnapshotMeta>)>,
}

/// Where its jobs run.
#[derive(Clone)]
struct Lanes(Arc<dyn Jobs>);

impl std::fmt::Debug for Lanes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lanes")
    }
}

/// What its jobs return.
enum MapOutput {
    Flushed(Arc<Content>),
    Received(Result<Box<Content>, String>),
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

    /// Empty; flushes and snapshots are jobs of these lanes.
    #[must_use]
    pub fn with_jobs(jobs: Arc<dyn Jobs>) -> Self {
        Self { lanes: Some(Lanes(jobs)), ..Self::new() }
    }

    /// What a new process finds: the last flush or install.
    #[must_use]
    pub fn restarted(&self) -> Self {
        Self {
            content: (*self.durable).clone(),
            durable: Arc::clone(&self.durable),
            reads_on_disk: self.reads_on_disk,
            lanes: self.lanes.clone(),
            ..Self::new()
        }
    }

    /// The same, flushed.
    #[cfg(test)]
    pub(super) fn flushed(mut self) -> Self {
        self.durable = Arc::new(self.content.clone());
        self
    }

    /// Says whether there is room for writes.
    pub const fn set_room(&mut self, room: bool) {
        self.room = room;
    }

    /// Keys with their newest value and its sequence number.
    pub fn live(&self) -> impl Iterator<Item = (&Bytes, SequenceNumber, &Bytes)> {
        self.content.versions.iter().filter_map(|(key, versions)| {
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
        self.content.last_seq = self.content.last_seq.next();
        let versions = self.content.versions.entry(Bytes::copy_from_slice(key)).or_default();
        versions.push((self.content.last_seq, value));
    }

    /// A tombstone on every key of the range, all under the next sequence number.
    fn delete_range(&mut self, start: &[u8], end: &[u8]) {
        self.content.last_seq = self.content.last_seq.next();
        let end = if end.is_empty() { Bound::Unbounded } else { Bound::Excluded(end) };
        let keys = self.content.versions.range_mut::<[u8], _>((Bound::Included(start), end));
        for (_, versions) in keys.filter(|(key, _)| !key.starts_with(RESERVED_KEY_PREFIX)) {
            if versions.last().is_some_and(|(_, value)| value.is_some()) {
                versions.push((self.content.last_seq, None));
            }
        }
    }

    fn check(&self, at: SequenceNumber) -> Result<(), ReadFault> {
        if at < self.content.oldest_readable {
            return Err(ReadFault::SnapshotTooOld { at, oldest: self.content.oldest_readable });
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
        let keys = self.content.versions.range::<[u8], _>((Bound::Included(range.start), end));
        let mut keys: Box<dyn Iterator<Item = _>> =
            if range.reverse { Box::new(keys.rev()) } else { Box::new(keys) };
        let mut last = Vec::new();
        for (steps, (key, versions)) in (&mut keys).enumerate() {
            if steps >= SCAN_SLICE_STEPS
                || slice.entries.len() >= range.limit
                || bytes >= range.max_bytes
            {
                slice.resume = Some(if range.reverse { last } else { key.to_vec() });
                break;
            }
            last = key.to_vec();
            let Some((seq, value)) = Self::visible(versions, range.at) else { continue };
            let value = if range.keys_only { Bytes::new() } else { value };
            bytes += key.len() + value.len();
            slice.entries.push(ScanEntry { key: key.clone(), seq, value });
        }
        slice
    }

    fn drop_unheld_versions(&mut self) {
        let oldest = self.holds.keys().next().copied().unwrap_or(self.content.last_seq);
        self.content.oldest_readable = self.content.oldest_readable.max(oldest);
        for versions in self.content.versions.values_mut() {
            let keep_from = versions.iter().rposition(|(seq, _)| *seq <= oldest).unwrap_or(0);
            versions.drain(..keep_from);
        }
    }

    fn submit(&self, lane: Lane, work: impl FnOnce() -> MapOutput + Send + 'static) -> JobId {
        let Lanes(jobs) = self.lanes.as_ref().expect("asked before");
        jobs.submit(lane, Box::new(move || Box::new(work())))
    }

    /// Why a snapshot is not taken.
    fn refuses(&self, meta: &SnapshotMeta) -> Option<String> {
        let described = Content::decode_body(&meta.body).map(|(content, _)| content);
        let Some(described) = described.filter(|d| d.applied == (meta.index, meta.term)) else {
            return Some("the description is not one of this snapshot".to_owned());
        };
        let applied = self.content.applied.0;
        if meta.index <= applied {
            return Some(format!(
                "the snapshot stands at entry {}, and entry {applied} is applied already",
                meta.index
            ));
        }
        (described.last_seq < self.content.last_seq)
            .then(|| "sequence numbers go back: it is of another history".to_owned())
    }

    /// The snapshot is all there is from now on.
    fn installed(&mut self, meta: &SnapshotMeta, mut content: Content) -> MachineOutcome {
        content.oldest_readable = content.oldest_readable.max(self.content.oldest_readable);
        self.durable = Arc::new(content.clone());
        self.content = content;
        let rows = self.internal_rows().expect("they are in memory");
        let membership = meta.membership.clone();
        MachineOutcome::Installed { index: meta.index, term: meta.term, membership, rows }
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
        self.content.applied
    }

    fn durable_applied(&self) -> (LogIndex, Term) {
        self.durable.applied
    }

    fn last_seq(&self) -> SequenceNumber {
        self.content.last_seq
    }

    fn oldest_readable_seq(&self) -> SequenceNumber {
        self.content.oldest_readable
    }

    fn apply(
        &mut self,
        index: LogIndex,
        term: Term,
        user: Option<BatchRef<'_>>,
        internal: &[InternalOp],
    ) -> Applied {
        assert_eq!(index, self.content.applied.0.next(), "entries are applied in order");
        assert!(
            self.installing.is_none(),
            "entry {index} is applied while a snapshot is installed"
        );
        let first_seq = self.content.last_seq.next();
        for op in user.iter().flat_map(BatchRef::ops) {
            match op {
                Op::Put { key, value } => self.add(key, Some(Bytes::copy_from_slice(value))),
                Op::Delete { key } => self.add(key, None),
                Op::DeleteRange { start, end } => self.delete_range(start, end),
                // What these change comes as `internal`.
                Op::NoOp | Op::Register | Op::Membership(_) => {
                    self.content.last_seq = self.content.last_seq.next()
                }
            }
        }
        let applied = Applied { first_seq, last_seq: self.content.last_seq };
        for op in internal {
            self.add(op.key(), op.value().cloned());
        }
        self.content.applied = (index, term);
        applied
    }

    fn internal_rows(&self) -> Result<Vec<(Vec<u8>, Bytes)>, ReadFault> {
        let range = self.content.versions.range::<[u8], _>((
            Bound::Included(RESERVED_KEY_PREFIX),
            Bound::Excluded(RESERVED_KEY_END),
        ));
        let newest =
            range.filter_map(|(key, versions)| Some((key.to_vec(), versions.last()?.1.clone()?)));
        Ok(newest.collect())
    }

    fn range_deletes(&self) -> usize {
        // They become tombstones at once.
        0
    }

    fn get(
        &self,
        key: &[u8],
        at: Option<SequenceNumber>,
    ) -> Result<Lookup<Option<Versioned>>, ReadFault> {
        let at = at.unwrap_or(self.content.last_seq);
        self.check(at)?;
        Ok(self.lookup(
            self.content.versions.get(key).and_then(|versions| Self::visible(versions, at)),
        ))
    }

    fn scan(&self, range: &SliceRange<'_>) -> Result<Lookup<Slice>, ReadFault> {
        self.check(range.at)?;
        Ok(self.lookup(self.slice(range)))
    }

    fn snapshot(&mut self) -> SequenceNumber {
        *self.holds.entry(self.content.last_seq).or_default() += 1;
        self.content.last_seq
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
        membership: (LogIndex, Membership),
    ) -> Option<Box<dyn SnapshotSource>> {
        let (index, term) = self.durable.applied;
        if index == LogIndex::ZERO {
            return None;
        }
        let (body, stream) = self.durable.encode();
        let meta = SnapshotMeta { index, term, membership, bytes: stream.len() as u64, body };
        Some(Box::new(MapSource { meta: Arc::new(meta), stream }))
    }

    fn begin_install(&mut self, meta: &Arc<SnapshotMeta>) -> Result<Box<dyn SnapshotSink>, String> {
        if self.lanes.is_none() {
            return Err("this machine has no lanes to install a snapshot in".to_owned());
        }
        self.refuses(meta).map_or_else(
            || {
                let sink = MapSink { meta: Arc::clone(meta), stream: Vec::new() };
                Ok(Box::new(sink) as Box<dyn SnapshotSink>)
            },
            Err,
        )
    }

    fn install(&mut self, sink: Box<dyn SnapshotSink>) {
        assert!(self.installing.is_none(), "one install at a time");
        let sink = sink.into_any().downcast::<MapSink>().expect("a sink that this machine made");
        let MapSink { meta, stream } = *sink;
        let refusal = self.refuses(&meta);
        let described = Arc::clone(&meta);
        let job = self.submit(Lane::Flush, move || {
            let received = refusal.map_or_else(|| receive(&described, &stream).map(Box::new), Err);
            MapOutput::Received(received)
        });
        self.installing = Some((job, meta));
    }

    fn freeze(&mut self) {}

    fn checkpoint(&mut self, _: PathBuf, _: Origin) -> Option<CheckpointWork> {
        None
    }

    fn compact(&mut self, _: &[u8], _: &[u8]) -> bool {
        false
    }

    fn scrub(&mut self, _: PathBuf) -> Option<Scrub> {
        None
    }

    fn room(&self) -> Room {
        if self.room { Room::Ok } else { Room::Stalled }
    }

    fn read_only_reason(&self) -> Option<&str> {
        None
    }

    fn maintain(&mut self, _now: Nanos, log_is_large: bool) {
        let idle = self.flushing.is_none() && self.installing.is_none();
        let wanted = log_is_large && self.content.applied != self.durable.applied;
        if idle && wanted && self.lanes.is_some() {
            let content = Arc::new(self.content.clone());
            let job = self.submit(Lane::Flush, move || MapOutput::Flushed(content));
            self.flushing = Some(job);
        }
    }

    fn take_frozen(&mut self) -> Option<Frozen> {
        None
    }

    fn job_done(&mut self, done: Completion) -> Result<MachineOutcome, MachineError> {
        if self.flushing.take_if(|job| *job == done.id).is_some() {
            let ns = done.finished_at.since(done.submitted_at);
            let Ok(output) = done.output.downcast::<MapOutput>() else { unreachable!("its job") };
            let MapOutput::Flushed(content) = *output else { unreachable!("its job") };
            let index = content.applied.0;
            self.durable = content;
            return Ok(MachineOutcome::Flushed { index, table: None, ns });
        }
        if let Some((_, meta)) = self.installing.take_if(|(job, _)| *job == done.id) {
            let Ok(output) = done.output.downcast::<MapOutput>() else { unreachable!("its job") };
            let MapOutput::Received(received) = *output else { unreachable!("its job") };
            return Ok(match received {
                Ok(content) => self.installed(&meta, *content),
                Err(reason) => MachineOutcome::InstallFailed { reason },
            });
        }
        Ok(MachineOutcome::NotMine(done))
    }

    fn memory_bytes(&self) -> u64 {
        let values =
            self.content.versions.values().flatten().filter_map(|(_, value)| value.as_ref());
        values.map(|value| value.len() as u64).sum()
    }

    fn stats(&self) -> serde_json::Value {
        serde_json::json!({ "keys": self.content.versions.len(), "holds": self.holds() })
    }
}

/// Checks a stream against its description.
fn receive(meta: &SnapshotMeta, stream: &[u8]) -> Result<Content, String> {
    if stream.len() as u64 != meta.bytes {
        return Err(format!(
            "the stream is not complete: {} of {} bytes",
            stream.len(),
            meta.bytes
        ));
    }
    let (content, crc) = Content::decode_body(&meta.body).ok_or("not a description")?;
    let found = checksum::crc32c(stream);
    if crc != found {
        return Err(format!("the stream has crc32c {found:08x}, its description says {crc:08x}"));
    }
    content.decode_stream(stream).ok_or_else(|| "the stream is not one of versions".to_owned())
}
