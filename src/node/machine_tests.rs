//! What every [`StateMachine`] does, run over the engine and over its twin in a map.

use super::{
    EngineMachine, Lookup, MachineOutcome, MapMachine, ReadFault, SliceRange, SnapshotSink,
    SnapshotSource, StateMachine,
};
use crate::base::batch::{BatchRef, RESERVED_KEY_PREFIX, WriteBatch};
use crate::base::{
    InternalOp, LogIndex, Membership, Nanos, NodeId, ReplicaId, SequenceNumber, Term, checksum,
};
use crate::engine::{Engine, EngineOptions};
use crate::env::sim::{self, SimHandles};
use crate::env::{Completion, Env, Lane};
use bytes::Bytes;
use std::sync::Arc;

type Rows = Vec<(Vec<u8>, Bytes)>;

/// A machine that can be made, and found again by a new process.
pub(super) trait Kind: StateMachine {
    fn make(env: &Env) -> Self;
    fn reopen(self, env: &Env) -> Self;
}

impl Kind for EngineMachine {
    fn make(env: &Env) -> Self {
        Self::new(Engine::open(env, EngineOptions::new("db/engine")).unwrap())
    }

    fn reopen(self, env: &Env) -> Self {
        drop(self);
        Self::make(env)
    }
}

impl Kind for MapMachine {
    fn make(env: &Env) -> Self {
        Self::with_jobs(Arc::clone(&env.jobs))
    }

    fn reopen(self, _env: &Env) -> Self {
        self.restarted()
    }
}

/// One machine in a world of its own.
pub(super) struct Place<M> {
    env: Env,
    sim: SimHandles,
    pub machine: M,
}

impl<M: Kind> Place<M> {
    pub fn new(seed: u64) -> Self {
        let (env, sim) = sim::env(seed);
        let machine = M::make(&env);
        Self { env, sim, machine }
    }

    fn put(&mut self, key: &str, value: &str, row: Option<&str>) {
        let mut batch = WriteBatch::new();
        batch.put(key.as_bytes(), value.as_bytes()).unwrap();
        let user = BatchRef::parse(batch.as_bytes()).unwrap();
        let internal = row.map(|row| InternalOp::put(b"row", row.as_bytes().to_vec()));
        let index = self.machine.applied().0.next();
        self.machine.apply(index, Term(3), Some(user), internal.as_slice());
    }

    /// Runs `job` in `lane` as the node does; returns its output.
    fn run<T: Send + 'static>(&self, lane: Lane, job: impl FnOnce() -> T + Send + 'static) -> T {
        let id = self.env.jobs.submit(lane, Box::new(move || Box::new(job())));
        self.sim.jobs.run_all();
        let mut done = Vec::new();
        self.env.jobs.poll(&mut done);
        let mine = done.into_iter().find(|completion| completion.id == id);
        *mine.expect("it ran").output.downcast().expect("its output")
    }

    /// Runs all jobs; returns what they meant.
    fn settle(&mut self) -> Vec<MachineOutcome> {
        let mut heard = Vec::new();
        loop {
            self.sim.jobs.run_all();
            let mut done: Vec<Completion> = Vec::new();
            self.env.jobs.poll(&mut done);
            if done.is_empty() {
                return heard;
            }
            for completion in done {
                match self.machine.job_done(completion).unwrap() {
                    MachineOutcome::Nothing => {}
                    outcome => heard.push(outcome),
                }
            }
        }
    }

    pub fn flush(&mut self) {
        self.machine.maintain(Nanos::ZERO, true);
        let heard = self.settle();
        let applied = self.machine.applied();
        assert!(matches!(heard[..], [MachineOutcome::Flushed { index, .. }] if index == applied.0));
        assert_eq!(self.machine.durable_applied(), applied);
    }

    fn reopen(self) -> Self {
        let Self { env, sim, machine } = self;
        sim.jobs.abandon();
        let machine = machine.reopen(&env);
        Self { env, sim, machine }
    }

    fn get(&self, key: &[u8], at: Option<SequenceNumber>) -> Result<Option<Bytes>, ReadFault> {
        let found = match self.machine.get(key, at)? {
            Lookup::Ready(found) => found,
            Lookup::Disk(job) => job()?,
        };
        Ok(found.map(|(_, value)| value))
    }

    fn all(&self) -> Vec<(Bytes, Bytes)> {
        let at = self.machine.last_seq();
        let (limit, max_bytes) = (1_000, usize::MAX);
        let range = SliceRange {
            start: b"a",
            end: None,
            limit,
            max_bytes,
            keys_only: false,
            reverse: false,
            at,
        };
        let slice = match self.machine.scan(&range).unwrap() {
            Lookup::Ready(slice) => slice,
            Lookup::Disk(job) => job().unwrap(),
        };
        assert_eq!(slice.resume, None);
        slice.entries.into_iter().map(|e| (e.key, e.value)).collect()
    }

    /// Takes in a whole stream, piece by piece, as the node does.
    pub fn receive(&mut self, source: &dyn SnapshotSource, piece: usize) -> Box<dyn SnapshotSink> {
        let mut sink = self.machine.begin_install(source.meta()).unwrap();
        assert_eq!(sink.meta(), source.meta());
        while sink.written() < source.meta().bytes {
            let read = source.read(sink.written(), piece);
            let (data, crc) = self.run(Lane::Read, read).unwrap();
            assert_eq!(crc, checksum::crc32c(&data));
            assert!(data.len() <= piece && !data.is_empty());
            let write = sink.write(sink.written(), data);
            self.run(Lane::Maintenance, write).unwrap();
        }
        sink
    }

    pub fn install(&mut self, sink: Box<dyn SnapshotSink>) -> Result<Rows, String> {
        let meta = Arc::clone(sink.meta());
        self.machine.install(sink);
        let mut heard = self.settle();
        heard.retain(|outcome| !matches!(outcome, MachineOutcome::Flushed { .. }));
        match (heard.pop(), heard.len()) {
            (Some(MachineOutcome::Installed { index, term, membership, rows }), 0) => {
                assert_eq!((index, term), (meta.index, meta.term));
                assert_eq!(membership, meta.membership);
                Ok(rows)
            }
            (Some(MachineOutcome::InstallFailed { reason }), 0) => Err(reason),
            _ => panic!("an install has one answer"),
        }
    }
}

fn membership() -> (LogIndex, Membership) {
    let voters = [1, 2].map(|node| ReplicaId { node: NodeId(node), incarnation: 7 });
    (LogIndex(2), Membership::of_voters(voters))
}

/// Entries 1 to 6 flushed, 7 not.
fn sender<M: Kind>() -> Place<M> {
    let mut from = Place::<M>::new(1);
    for n in 1..=6 {
        from.put(&format!("k{}", n % 4), &n.to_string(), Some(&format!("r{n}")));
    }
    from.flush();
    from.put("not-flushed", "x", Some("not flushed"));
    from
}

fn expected() -> Vec<(Bytes, Bytes)> {
    [("k0", "4"), ("k1", "5"), ("k2", "6"), ("k3", "3")].map(|(k, v)| (k.into(), v.into())).to_vec()
}

fn rows(value: &'static str) -> Rows {
    vec![([RESERVED_KEY_PREFIX, b"row"].concat(), Bytes::from(value))]
}

macro_rules! for_every_machine {
    ($($test:ident)*) => {
        mod engine {
            $(#[test] fn $test() { super::$test::<super::EngineMachine>(); })*
        }
        mod map {
            $(#[test] fn $test() { super::$test::<super::MapMachine>(); })*
        }
    };
}

for_every_machine! {
    internal_rows_follow_the_batch_of_their_entry
    a_snapshot_is_what_is_durable_and_replaces_everything
    pitfall_26_a_snapshot_carries_membership_and_the_rows_of_sessions
    a_snapshot_that_is_not_newer_is_refused
    a_damaged_or_incomplete_stream_changes_nothing
    pieces_out_of_order_are_refused
    a_source_stays_readable_while_its_machine_moves_on
    an_install_behind_a_running_flush_wins
    reads_below_what_the_snapshot_can_answer_are_refused
}

fn internal_rows_follow_the_batch_of_their_entry<M: Kind>() {
    let mut place = Place::<M>::new(1);
    let row = |name: &[u8]| [RESERVED_KEY_PREFIX, name].concat();
    let mut batch = WriteBatch::new();
    batch.put(b"a", b"1").unwrap();
    batch.put(b"b", b"2").unwrap();
    let internal = [InternalOp::put(b"s2", &b"two"[..]), InternalOp::put(b"s1", &b"one"[..])];
    let user = BatchRef::parse(batch.as_bytes()).unwrap();
    let applied = place.machine.apply(LogIndex(1), Term(1), Some(user), &internal);
    assert_eq!((applied.first_seq.0, applied.last_seq.0), (1, 2), "the user's only");
    assert_eq!(place.machine.last_seq(), SequenceNumber(4));
    assert_eq!(place.get(&row(b"s1"), None).unwrap(), Some(Bytes::from("one")));
    let rows = place.machine.internal_rows().unwrap();
    assert_eq!(rows, [(row(b"s1"), Bytes::from("one")), (row(b"s2"), Bytes::from("two"))]);

    let applied = place.machine.apply(LogIndex(2), Term(1), None, &[InternalOp::delete(b"s1")]);
    assert_eq!((applied.first_seq.0, applied.last_seq.0), (5, 4), "nothing of the user's");
    assert_eq!(place.machine.last_seq(), SequenceNumber(5));
    place.machine.apply(LogIndex(3), Term(2), None, &[]);
    assert_eq!(place.machine.applied(), (LogIndex(3), Term(2)));
    assert_eq!(place.machine.last_seq(), SequenceNumber(5), "no effect takes no number");
    let left = [(row(b"s2"), Bytes::from("two"))];
    assert_eq!(place.machine.internal_rows().unwrap(), left);
    place.flush();
    assert_eq!(place.machine.internal_rows().unwrap(), left, "from the disk");
    assert_eq!(place.reopen().machine.internal_rows().unwrap(), left);
}

fn a_snapshot_is_what_is_durable_and_replaces_everything<M: Kind>() {
    let mut from = Place::<M>::new(1);
    assert!(from.machine.file_snapshot(membership()).is_none(), "nothing is durable");
    from.put("k", "v", None);
    assert!(from.machine.file_snapshot(membership()).is_none(), "nothing is durable");

    let mut from = sender::<M>();
    let source = from.machine.file_snapshot(membership()).unwrap();
    let at = (source.meta().index, source.meta().term);
    assert_eq!(at, (LogIndex(6), Term(3)), "no flush is forced");
    for piece in [1, 50, 1 << 20] {
        let mut to = Place::<M>::new(2);
        to.put("old", "1", Some("old"));
        to.flush();
        to.put("old", "2", None);
        let sink = to.receive(&*source, piece);
        assert_eq!(to.get(b"old", None).unwrap(), Some(Bytes::from("2")), "nothing counts yet");
        to.install(sink).unwrap();
        for reopened in [false, true] {
            if reopened {
                to = to.reopen();
            }
            assert_eq!(to.all(), expected());
            assert_eq!(to.machine.applied(), at);
            assert_eq!(to.machine.durable_applied(), at);
            assert_eq!(to.machine.last_seq(), SequenceNumber(12));
        }
        // The next entry is applied on top, and the machine can send itself.
        to.put("after", "7", None);
        to.flush();
        let mut third = Place::<M>::new(3);
        let again = to.machine.file_snapshot(membership()).unwrap();
        let sink = third.receive(&*again, 100);
        third.install(sink).unwrap();
        assert_eq!(third.all(), to.all());
        assert_eq!(third.machine.last_seq(), to.machine.last_seq());
    }
}

fn pitfall_26_a_snapshot_carries_membership_and_the_rows_of_sessions<M: Kind>() {
    let mut from = sender::<M>();
    let source = from.machine.file_snapshot(membership()).unwrap();
    assert_eq!(source.meta().membership, membership());
    let mut to = Place::<M>::new(2);
    to.put("old", "1", Some("another row"));
    let sink = to.receive(&*source, 64);
    assert_eq!(to.install(sink).unwrap(), rows("r6"), "those at the snapshot, not later ones");
    assert_eq!(to.machine.internal_rows().unwrap(), rows("r6"));
    assert_eq!(to.reopen().machine.internal_rows().unwrap(), rows("r6"));
}

fn a_snapshot_that_is_not_newer_is_refused<M: Kind>() {
    let mut from = sender::<M>();
    let source = from.machine.file_snapshot(membership()).unwrap();
    let mut to = Place::<M>::new(2);
    for n in 1..=5 {
        to.put("k", &n.to_string(), Some("r"));
    }
    let sink = to.receive(&*source, 1_000);
    to.put("k", "6", Some("r"));
    let refused = to.machine.begin_install(source.meta()).err().unwrap();
    assert!(refused.contains("applied already"), "{refused}");
    let refused = to.install(sink).unwrap_err();
    assert!(refused.contains("applied already"), "{refused}");
    assert_eq!(to.get(b"k", None).unwrap(), Some(Bytes::from("6")));
}

fn a_damaged_or_incomplete_stream_changes_nothing<M: Kind>() {
    let mut from = sender::<M>();
    let source = from.machine.file_snapshot(membership()).unwrap();
    let stream = from.run(Lane::Read, source.read(0, usize::MAX)).unwrap().0;
    let mut to = Place::<M>::new(2);
    to.put("old", "1", None);
    for at in (0..stream.len()).step_by(5) {
        let mut bad = stream.to_vec();
        bad[at] ^= 0x20;
        let mut sink = to.machine.begin_install(source.meta()).unwrap();
        let write = sink.write(0, bad.into());
        // A table is checked when its last piece is written.
        let written = to.run(Lane::Maintenance, write);
        assert!(written.is_err() || to.install(sink).is_err(), "byte {at}");
    }
    let mut sink = to.machine.begin_install(source.meta()).unwrap();
    let write = sink.write(0, stream.slice(..stream.len() - 1));
    to.run(Lane::Maintenance, write).unwrap();
    let refused = to.install(sink).unwrap_err();
    assert!(refused.contains("not complete"), "{refused}");

    assert_eq!(to.all(), [(Bytes::from("old"), Bytes::from("1"))]);
    assert_eq!(to.machine.applied().0, LogIndex(1));
    to.put("new", "2", None);
    to.flush();
    let sink = to.receive(&*source, 1_000);
    to.install(sink).unwrap();
    assert_eq!(to.all(), expected());
}

fn pieces_out_of_order_are_refused<M: Kind>() {
    let mut from = sender::<M>();
    let source = from.machine.file_snapshot(membership()).unwrap();
    let mut to = Place::<M>::new(2);
    let total = source.meta().bytes as usize;
    for (offset, len) in [(1, 1), (0, total + 1)] {
        let mut sink = to.machine.begin_install(source.meta()).unwrap();
        let write = sink.write(offset, vec![0; len].into());
        let fault = to.run(Lane::Maintenance, write).unwrap_err();
        assert!(fault.to_string().contains("does not follow on 0"), "{fault}");
    }
}

fn a_source_stays_readable_while_its_machine_moves_on<M: Kind>() {
    let mut from = sender::<M>();
    let source = from.machine.file_snapshot(membership()).unwrap();
    let stream = from.run(Lane::Read, source.read(0, usize::MAX)).unwrap();
    // Sent while a flush is running, and after it.
    from.sim.jobs.hold(Lane::Flush, true);
    from.machine.maintain(Nanos::ZERO, true);
    assert_eq!(from.run(Lane::Read, source.read(0, usize::MAX)).unwrap(), stream);
    from.sim.jobs.hold(Lane::Flush, false);
    from.settle();
    assert_eq!(from.machine.durable_applied().0, LogIndex(7));
    // And after everything was replaced.
    let mut other = Place::<M>::new(9);
    for n in 0..20 {
        other.put("other", &n.to_string(), None);
    }
    other.flush();
    let theirs = other.machine.file_snapshot(membership()).unwrap();
    let sink = from.receive(&*theirs, 1_000);
    from.install(sink).unwrap();
    from.machine.maintain(Nanos::ZERO, false);
    from.settle();
    assert_eq!(from.run(Lane::Read, source.read(0, usize::MAX)).unwrap(), stream);
    assert_eq!(from.run(Lane::Read, source.read(stream.0.len() as u64, 5)).unwrap().0, "");
}

fn an_install_behind_a_running_flush_wins<M: Kind>() {
    for held in [Lane::Flush, Lane::Manifest] {
        let mut from = sender::<M>();
        let source = from.machine.file_snapshot(membership()).unwrap();
        let mut to = Place::<M>::new(2);
        to.put("old", "1", None);
        let sink = to.receive(&*source, 1_000);
        to.sim.jobs.hold(held, true);
        to.machine.maintain(Nanos::ZERO, true);
        to.settle();
        to.machine.install(sink);
        to.machine.maintain(Nanos::ZERO, true);
        to.sim.jobs.hold(held, false);
        let heard = to.settle();
        assert!(matches!(heard.last(), Some(MachineOutcome::Installed { .. })));
        to.machine.maintain(Nanos::ZERO, true);
        assert!(to.settle().is_empty(), "nothing is left to flush");
        assert_eq!(to.all(), expected());
        assert_eq!(to.reopen().all(), expected());
    }
}

fn reads_below_what_the_snapshot_can_answer_are_refused<M: Kind>() {
    let mut from = Place::<M>::new(1);
    let mut to = Place::<M>::new(2);
    for n in 1..=4 {
        to.put("k", &n.to_string(), None);
    }
    let held = to.machine.snapshot();
    assert_eq!(to.get(b"k", Some(held)).unwrap(), Some(Bytes::from("4")));
    for n in 1..=6 {
        from.put("k", &n.to_string(), None);
        // So that old versions may go, in either machine.
        let seq = from.machine.snapshot();
        from.machine.release_snapshot(seq);
    }
    from.flush();
    let source = from.machine.file_snapshot(membership()).unwrap();
    let sink = to.receive(&*source, 1_000);
    to.install(sink).unwrap();
    assert_eq!(to.machine.oldest_readable_seq(), SequenceNumber(6));
    let fault = to.get(b"k", Some(held)).unwrap_err();
    assert!(matches!(fault, ReadFault::SnapshotTooOld { .. }), "{fault}");
    assert_eq!(to.get(b"k", None).unwrap(), Some(Bytes::from("6")));
    to.machine.release_snapshot(held);
}
