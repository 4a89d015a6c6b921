//! The real node (engine, Raft log, simulated disk) against a `BTreeMap`, through crashes at any moment.
//!
//! What is checked after every recovery: the state is that of a prefix of the proposed writes, in order, each whole or
//! absent; the prefix holds every acknowledged write and everything that was ever read; every sequence number names
//! the operation it always named; and a second recovery gives the same state.

use super::sim::SimDriver;
use super::*;
use crate::base::NodeId;
use crate::base::batch::{BatchRef, WriteBatch};
use crate::env::Lane;
use crate::env::sim::{
    self, CrashKind, FailKind, FailOn, FailPoint, OpKind, SimHandles, SimRandom,
};
use crate::proto::{Effect as Outcome, Opcode, ScanRange, ScanRequest};
use crate::raft_log::RaftLog;
use std::collections::BTreeMap;

type Driver = SimDriver<RaftLog, EngineMachine>;
type State = BTreeMap<Vec<u8>, Vec<u8>>;
type Operation = (Vec<u8>, Option<Vec<u8>>);

/// Every write sets this key to its number, so that the state says which write was the last.
const MARKER: &[u8] = b"~marker";
const DEADLINE_MS: u64 = 200_000;

/// One proposed write.
struct Write {
    number: u64,
    operations: Vec<Operation>,
    origin: Origin,
    acknowledged: bool,
}

/// A machine with a disk, a node on it while it is up, and the one client that knows what must be true.
struct World {
    env: Env,
    sim: SimHandles,
    random: SimRandom,
    driver: Option<Driver>,
    /// In the order they were proposed; those lost in a crash are removed.
    writes: Vec<Write>,
    /// Up to here (in `writes`) they must survive.
    kept: usize,
    /// What each sequence number that was ever seen stands for.
    sequence: BTreeMap<u64, Operation>,
    next_request: u64,
    next_number: u64,
    memtable_bytes: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let (env, sim) = sim::env(seed);
        Self {
            env,
            sim,
            random: SimRandom::new(seed ^ 0xbeac_4000),
            driver: None,
            writes: Vec::new(),
            kept: 0,
            sequence: BTreeMap::new(),
            next_request: 1,
            next_number: 1,
            memtable_bytes: 64 << 10,
        }
    }

    fn config(&self) -> NodeConfig {
        NodeConfig {
            memtable_bytes: self.memtable_bytes,
            segment_bytes: 32 << 10,
            reserve_bytes: 0,
            ..NodeConfig::new("data", "beach", NodeId(1), 7)
        }
    }

    fn open(&mut self) -> Result<(), OpenError> {
        let node = Node::open(self.config(), self.env.clone())?;
        self.driver = Some(SimDriver::new(node, &self.sim));
        Ok(())
    }

    fn up(seed: u64) -> Self {
        let mut world = Self::new(seed);
        world.open().unwrap();
        world.settle();
        world
    }

    fn driver(&mut self) -> &mut Driver {
        self.driver.as_mut().expect("the node is up")
    }

    /// Whether the disk still works.
    fn is_alive(&self) -> bool {
        !self.sim.disk.is_down()
    }

    fn settle(&mut self) {
        if self.driver.is_some() {
            self.driver().settle();
            self.collect_acknowledgements();
            if self.is_alive() {
                let fatal = &self.driver().fatal;
                assert!(fatal.is_none(), "{fatal:?}");
            }
        }
    }

    fn turn(&mut self) {
        self.driver().turn();
        self.collect_acknowledgements();
    }

    fn origin(&mut self) -> Origin {
        self.next_request += 1;
        Origin { conn: 1, request_id: self.next_request }
    }

    /// Proposes a write of these operations and the marker; the turn stays open.
    fn write(&mut self, mut operations: Vec<Operation>) -> Origin {
        let (number, origin) = (self.next_number, self.origin());
        self.next_number += 1;
        operations.push((MARKER.to_vec(), Some(number.to_string().into_bytes())));
        let mut batch = WriteBatch::new();
        for (key, value) in &operations {
            match value {
                Some(value) => batch.put(key, value).unwrap(),
                None => batch.delete(key).unwrap(),
            }
        }
        let batch = BatchRef::parse(batch.as_bytes()).unwrap();
        self.driver().request(origin, Request::Write { opcode: Opcode::Write, batch }, DEADLINE_MS);
        self.writes.push(Write { number, operations, origin, acknowledged: false });
        self.collect_acknowledgements();
        origin
    }

    fn random_write(&mut self, value_bytes: u64) -> Origin {
        let mut operations = Vec::new();
        for _ in 0..=self.random.below(4) {
            let key = format!("k{:02}", self.random.below(30)).into_bytes();
            let len = self.random.below(value_bytes) as usize;
            let value = vec![b'a' + self.random.below(26) as u8; len];
            operations.push((key, self.random.chance(4, 5).then_some(value)));
        }
        self.write(operations)
    }

    /// A reply that says Written counts; one that refuses takes the write back.
    fn collect_acknowledgements(&mut self) {
        let driver = self.driver.as_mut().expect("the node is up");
        let mut refused = Vec::new();
        for at in 0..self.writes.len() {
            let write = &mut self.writes[at];
            if write.acknowledged {
                continue;
            }
            match driver.take_reply(write.origin) {
                None => {}
                Some(Response::Written { first_seq, last_seq, .. }) => {
                    assert_eq!(last_seq.0 - first_seq.0 + 1, write.operations.len() as u64);
                    write.acknowledged = true;
                    self.kept = self.kept.max(at + 1);
                    for (seq, operation) in (first_seq.0..).zip(&write.operations) {
                        let before = self.sequence.insert(seq, operation.clone());
                        assert!(
                            before.is_none_or(|b| b == *operation),
                            "sequence number {seq} reused"
                        );
                    }
                }
                Some(Response::Error(e)) if e.effect == Outcome::NotApplied => refused.push(at),
                Some(other) => panic!("write {}: {other:?}", write.number),
            }
        }
        for at in refused.into_iter().rev() {
            assert!(at >= self.kept);
            self.writes.remove(at);
        }
    }

    fn state_after(&self, writes: usize) -> State {
        let mut state = State::new();
        for (key, value) in self.writes[..writes].iter().flat_map(|w| &w.operations) {
            match value {
                Some(value) => drop(state.insert(key.clone(), value.clone())),
                None => drop(state.remove(key)),
            }
        }
        state
    }

    /// Everything, read through the node in pages of random size at one snapshot.
    fn read_all(&mut self) -> State {
        let (mut state, mut resume, mut snapshot) =
            (State::new(), Vec::new(), SequenceNumber::ZERO);
        loop {
            let origin = self.origin();
            let limit = 1 + self.random.below(20) as u32;
            let range = ScanRange::Range { start: b"", end: b"" };
            let request =
                ScanRequest { resume: &resume, snapshot, limit, ..ScanRequest::new(range) };
            self.driver().request(origin, Request::Scan(request), DEADLINE_MS);
            self.settle();
            let page = match self.driver().take_reply(origin) {
                Some(Response::Scan(page)) => page,
                other => panic!("{other:?}"),
            };
            for entry in page.entries {
                let operation = (entry.key.to_vec(), Some(entry.value.to_vec()));
                if let Some(before) = self.sequence.insert(entry.seq.0, operation.clone()) {
                    assert_eq!(before, operation, "sequence number {} reused", entry.seq);
                }
                state.insert(entry.key.to_vec(), entry.value.to_vec());
            }
            snapshot = page.snapshot;
            match page.resume {
                Some(next) => resume = next,
                None => return state,
            }
        }
    }

    /// The state must be that of a prefix; what is behind it is lost for good.
    fn check(&mut self) {
        let state = self.read_all();
        let number: u64 =
            state.get(MARKER).map_or(0, |m| std::str::from_utf8(m).unwrap().parse().unwrap());
        let applied = self.writes.iter().position(|w| w.number == number).map_or(0, |at| at + 1);
        assert!(number == 0 || applied > 0, "write {number} was taken back");
        assert!(
            applied >= self.kept,
            "{applied} of {} writes are there, {} must be",
            self.writes.len(),
            self.kept
        );
        assert!(
            state == self.state_after(applied),
            "the state is not that of the first {applied} writes"
        );
        self.kept = applied;
    }

    /// The node dies with its process or its machine, comes back, and is checked, twice.
    fn crash(&mut self, kind: CrashKind) {
        self.sim.disk.crash(kind);
        self.sim.jobs.abandon();
        self.driver = None;
        self.sim.disk.restart();
        self.recover(kind);
    }

    fn recover(&mut self, kind: CrashKind) {
        for again in [false, true] {
            self.open().unwrap();
            self.settle();
            self.check();
            // What did not survive never will: nobody may see it later.
            self.writes.truncate(self.kept);
            if !again {
                self.sim.disk.crash(kind);
                self.sim.jobs.abandon();
                self.driver = None;
                self.sim.disk.restart();
            }
        }
    }
}

/// A workload that visits every mechanism: groups, several segments, flushes, deletes, reads.
fn script(world: &mut World) {
    for step in 0..36u64 {
        for n in 0..=step % 3 {
            let key = format!("k{:02}", (step * 7 + n * 3) % 20).into_bytes();
            let value =
                (step % 5 != 4).then(|| vec![b'a' + (step % 26) as u8; 1_500 + 10 * n as usize]);
            world.write(vec![
                (key, value),
                (format!("s{step:02}").into_bytes(), Some(vec![b'x'; 900])),
            ]);
        }
        world.turn();
        if step % 2 == 1 {
            world.settle();
        }
        if !world.is_alive() {
            return;
        }
    }
    world.settle();
}

#[test]
fn a_crash_at_every_operation_of_a_script_loses_nothing_acknowledged() {
    let first_op = {
        let world = World::up(1);
        world.sim.disk.op_count()
    };
    let ops = {
        let mut world = World::up(1);
        script(&mut world);
        let stats = world.driver().node.stats(Nanos(0));
        assert!(
            stats.engine["flushes"].as_u64() >= Some(1),
            "the script must flush: {}",
            stats.engine
        );
        assert!(stats.log.segments >= 2, "the script must change segments: {:?}", stats.log);
        world.check();
        world.sim.disk.op_count()
    };
    assert!(ops > first_op + 50);
    for op in first_op..ops {
        for kind in [CrashKind::Process, CrashKind::PowerLoss] {
            let mut world = World::up(1);
            world.sim.disk.crash_at(op);
            script(&mut world);
            assert!(!world.is_alive(), "operation {op} of {ops} was not reached");
            world.crash(kind);
            let origin = world.random_write(100);
            world.settle();
            assert!(world.writes.iter().any(|w| w.origin == origin && w.acknowledged));
        }
    }
}

#[test]
fn a_crash_at_every_operation_of_opening_an_empty_directory_can_be_opened_again() {
    let ops = World::up(1).sim.disk.op_count();
    for op in 0..ops {
        for kind in [CrashKind::Process, CrashKind::PowerLoss] {
            let mut world = World::new(1);
            world.sim.disk.crash_at(op);
            if world.open().is_ok() {
                world.settle();
            }
            assert!(!world.is_alive(), "operation {op} of {ops} was not reached");
            world.crash(kind);
            world.random_write(100);
            world.settle();
            world.check();
        }
    }
}

#[test]
fn a_crash_at_every_operation_of_a_recovery_can_be_recovered_from() {
    let prepare = |kind| {
        let mut world = World::up(3);
        script(&mut world);
        world.random_write(500);
        world.turn();
        world.driver().run_lane(Lane::Log);
        world.sim.disk.crash(kind);
        world.sim.jobs.abandon();
        world.driver = None;
        world.sim.disk.restart();
        world
    };
    for kind in [CrashKind::Process, CrashKind::PowerLoss] {
        let (first_op, ops) = {
            let mut world = prepare(kind);
            let first_op = world.sim.disk.op_count();
            world.open().unwrap();
            world.settle();
            (first_op, world.sim.disk.op_count())
        };
        for op in first_op..ops {
            let mut world = prepare(kind);
            world.sim.disk.crash_at(op);
            if world.open().is_ok() {
                world.settle();
            }
            assert!(!world.is_alive(), "operation {op} of {ops} was not reached");
            world.crash(kind);
        }
    }
}

#[test]
fn random_runs_with_crashes_and_full_disks_keep_every_acknowledged_write() {
    let (seeds, mut acknowledged) = (0..100, 0);
    for seed in seeds.clone() {
        println!("seed {seed}");
        let mut world = World::up(seed);
        for _ in 0..120 {
            random_step(&mut world);
        }
        world.sim.disk.set_capacity(None);
        world.driver().pass(3_000);
        world.settle();
        world.check();
        assert_eq!(
            world.kept,
            world.writes.len(),
            "whatever was not refused is applied in the end"
        );
        acknowledged += world.writes.iter().filter(|w| w.acknowledged).count();
    }
    assert!(acknowledged > 20 * seeds.count(), "{acknowledged}: too few to mean anything");
}

fn random_step(world: &mut World) {
    match world.random.below(100) {
        0..50 => drop(world.random_write(3_000)),
        50..70 => world.turn(),
        70..82 => {
            world.sim.jobs.run_one();
        }
        82..88 => world.settle(),
        88..92 => world.driver().pass(50),
        92..95 => {
            world.settle();
            world.check();
        }
        95..97 => {
            // The disk fills up, or is given space again.
            let more = world.sim.disk.used_bytes() + world.random.below(64 << 10);
            let full = world.random.chance(1, 2).then_some(more);
            world.sim.disk.set_capacity(full);
        }
        other => {
            world.sim.disk.set_capacity(None);
            let kind = if other % 2 == 0 { CrashKind::Process } else { CrashKind::PowerLoss };
            if world.random.chance(1, 2) {
                // In the middle of an operation, a little later.
                let op = world.sim.disk.op_count() + world.random.below(12);
                world.sim.disk.crash_at(op);
                for _ in 0..8 {
                    if world.is_alive() {
                        world.random_write(3_000);
                        world.turn();
                        world.sim.jobs.run_one();
                    }
                }
            }
            world.crash(kind);
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_effects_through_crashes() {
    let run = || {
        let mut world = World::up(11);
        for _ in 0..60 {
            random_step(&mut world);
        }
        world.settle();
        (world.driver().trace().to_vec(), world.sim.disk.op_count())
    };
    assert_eq!(run(), run());
}

#[test]
fn a_failed_sync_is_fatal_and_nothing_of_its_group_is_acknowledged() {
    let mut world = World::up(5);
    world.random_write(100);
    world.settle();
    assert_eq!(world.kept, 1);
    world.sim.disk.fail_next_sync(".rlog");
    world.random_write(100);
    let read = world.origin();
    world.driver().settle();
    world.collect_acknowledgements();
    let fatal = world.driver().fatal.take().expect("it stops");
    assert!(fatal.to_string().contains("data/raft/"), "{fatal}");
    assert_eq!(world.kept, 1, "the write is not acknowledged");
    let get = Request::Get { key: MARKER, snapshot: SequenceNumber::ZERO };
    world.driver().request(read, get, DEADLINE_MS);
    world.driver().settle();
    assert_eq!(world.driver().take_reply(read), None, "nor anything else");
    world.crash(CrashKind::PowerLoss);
}

#[test]
fn a_failed_manifest_sync_is_fatal() {
    let mut world = World::up(6);
    world.sim.disk.fail_next_sync(".manifest");
    for _ in 0..200 {
        if world.driver().fatal.is_none() {
            world.random_write(4_000);
            world.driver().settle();
            world.collect_acknowledgements();
        }
    }
    let fatal = world.driver().fatal.take().expect("a flush came");
    assert!(fatal.to_string().starts_with("the engine: "), "{fatal}");
    world.crash(CrashKind::Process);
}

#[test]
fn a_read_error_concerns_its_request_only() {
    let mut world = World::up(7);
    for _ in 0..80 {
        world.random_write(4_000);
        world.settle();
    }
    assert!(world.driver().node.stats(Nanos(0)).engine["tables"].as_u64() >= Some(1));
    let on = FailOn::Matching { op: Some(OpKind::Read), path: ".sst".into(), nth: 0 };
    world.sim.disk.fail(FailPoint { on, error: FailKind::Eio, forever: true });
    let origin = world.origin();
    let scan = ScanRequest::new(ScanRange::Range { start: b"", end: b"" });
    world.driver().request(origin, Request::Scan(scan), DEADLINE_MS);
    world.settle();
    match world.driver().take_reply(origin) {
        Some(Response::Error(e)) => {
            assert_eq!((e.code, e.effect), (ErrorCode::ReadError, Outcome::None));
            assert!(e.message.contains(".sst"), "{}", e.message);
        }
        other => panic!("{other:?}"),
    }
    world.random_write(100);
    world.settle();
    world.sim.disk.clear_faults();
    world.check();
    assert_eq!(world.kept, world.writes.len());
}

#[test]
fn pitfall_44_a_full_disk_refuses_puts_serves_reads_and_recovers_by_itself() {
    let mut world = World::up(8);
    for _ in 0..10 {
        world.random_write(2_000);
        world.settle();
    }
    world.sim.disk.set_capacity(Some(world.sim.disk.used_bytes()));
    let mut refused = None;
    for _ in 0..400 {
        let origin = world.origin();
        let mut batch = WriteBatch::new();
        batch.put(b"fill", &[b'f'; 3_000]).unwrap();
        let batch = BatchRef::parse(batch.as_bytes()).unwrap();
        let request = Request::Write { opcode: Opcode::Write, batch };
        world.driver().request(origin, request, 1_000);
        world.driver().pass(10);
        if let Some(Response::Error(e)) = world.driver().take_reply(origin) {
            refused = Some(e);
            break;
        }
    }
    let refused = refused.expect("the disk fills up");
    assert_eq!((refused.code, refused.effect), (ErrorCode::NoSpace, Outcome::NotApplied));
    assert!(refused.retry_after_ms > 0);
    assert!(world.driver().node.status(Nanos(0)).read_only.is_some());
    assert!(world.driver().fatal.is_none());
    let origin = world.origin();
    let get = Request::Get { key: MARKER, snapshot: SequenceNumber::ZERO };
    world.driver().request(origin, get, DEADLINE_MS);
    world.driver().settle();
    assert!(
        matches!(world.driver().take_reply(origin), Some(Response::Value { .. })),
        "reads go on"
    );
    world.sim.disk.set_capacity(None);
    world.driver().pass(3_000);
    assert_eq!(world.driver().node.status(Nanos(0)).read_only, None, "by itself");
    world.random_write(100);
    world.settle();
    assert!(world.writes.last().unwrap().acknowledged);
}

#[test]
fn pitfall_44_a_full_node_restarts_serves_reads_and_deletes() {
    for seed in 20..30 {
        let mut world = World::up(seed);
        for _ in 0..12 {
            world.random_write(2_000);
            world.settle();
        }
        world.check();
        let before = world.read_all();
        let full = world.sim.disk.used_bytes();
        world.sim.disk.crash(if seed % 2 == 0 { CrashKind::Process } else { CrashKind::PowerLoss });
        world.sim.jobs.abandon();
        world.driver = None;
        world.sim.disk.restart();
        world.sim.disk.set_capacity(Some(full.min(world.sim.disk.used_bytes())));
        if let Err(e) = world.open() {
            panic!("seed {seed}: {e}\n{}", world.sim.disk.trace().join("\n"));
        }
        world.driver().pass(2_000);
        assert!(world.driver().node.is_ready(), "{:?}", world.driver().node.status(Nanos(0)));
        assert_eq!(world.read_all(), before);
        let origin = world.origin();
        let mut batch = WriteBatch::new();
        batch.delete(MARKER).unwrap();
        let batch = BatchRef::parse(batch.as_bytes()).unwrap();
        let request = Request::Write { opcode: Opcode::Delete, batch };
        world.driver().request(origin, request, DEADLINE_MS);
        world.driver().pass(2_000);
        let reply = world.driver().take_reply(origin);
        assert!(matches!(reply, Some(Response::Written { .. })), "seed {seed}: {reply:?}");
    }
}

#[test]
fn a_large_log_forces_a_flush_and_its_segments_are_released() {
    let mut world = World::new(14);
    let config =
        NodeConfig { memtable_bytes: 8 << 20, log_bytes_before_flush: 64 << 10, ..world.config() };
    world.driver = Some(SimDriver::new(Node::open(config, world.env.clone()).unwrap(), &world.sim));
    world.settle();
    for _ in 0..4 * crate::limits::LOG_TAIL_ENTRIES {
        world.write(Vec::new());
        if world.next_number.is_multiple_of(64) {
            world.settle();
        }
    }
    world.settle();
    let stats = world.driver().node.stats(Nanos(0));
    assert!(stats.engine["flushes"].as_u64() >= Some(2), "{}", stats.engine);
    assert!(stats.engine["flushes"].as_u64() <= Some(40), "{}", stats.engine);
    assert!(stats.log.first_index > crate::limits::LOG_TAIL_ENTRIES, "{:?}", stats.log);
    world.check();
    world.crash(CrashKind::PowerLoss);
}

#[test]
fn pitfall_46_a_replay_larger_than_memory_waits_for_flushes_and_shows_its_progress() {
    let mut world = World::new(16);
    world.memtable_bytes = 16 << 20;
    world.open().unwrap();
    world.settle();
    for n in 0..900u64 {
        world.write(vec![(format!("k{n}").into_bytes(), Some(vec![b'v'; 8_000]))]);
        if n % 30 == 0 {
            world.settle();
        }
    }
    world.settle();
    world.sim.disk.crash(CrashKind::Process);
    world.sim.jobs.abandon();
    world.driver = None;
    world.sim.disk.restart();
    world.memtable_bytes = 256 << 10;
    world.sim.jobs.hold(Lane::Flush, true);
    world.open().unwrap();
    world.driver().pass(100);
    let status = world.driver().node.status(Nanos(0));
    assert!(!status.ready && status.applied > 0 && status.applied < status.commit, "{status:?}");
    assert!(status.not_ready_reason.unwrap().contains("replaying the log"));
    assert!(status.memory.memtable_bytes < 7 << 20, "{:?}", status.memory);
    world.sim.jobs.hold(Lane::Flush, false);
    world.settle();
    assert!(world.driver().node.is_ready());
    world.check();
    assert_eq!(world.kept, 900);
}

#[test]
fn a_paged_scan_sees_one_snapshot_through_writes_and_flushes() {
    let mut world = World::up(15);
    for n in 0..40 {
        world.write(vec![(format!("p{n:02}").into_bytes(), Some(b"before".to_vec()))]);
    }
    world.settle();
    let (mut seen, mut resume, mut snapshot) = (Vec::new(), Vec::new(), SequenceNumber::ZERO);
    loop {
        let origin = world.origin();
        let request = ScanRequest {
            resume: &resume,
            snapshot,
            limit: 3,
            ..ScanRequest::new(ScanRange::Prefix(b"p"))
        };
        world.driver().request(origin, Request::Scan(request), DEADLINE_MS);
        for n in 0..10 {
            let key = format!("p{:02}", (seen.len() + n) % 50).into_bytes();
            world.write(vec![(key, (n % 3 != 0).then(|| vec![b'x'; 2_000]))]);
        }
        world.settle();
        let Some(Response::Scan(page)) = world.driver().take_reply(origin) else { panic!() };
        seen.extend(page.entries);
        snapshot = page.snapshot;
        match page.resume {
            Some(next) => resume = next,
            None => break,
        }
    }
    assert!(world.driver().node.stats(Nanos(0)).engine["flushes"].as_u64() >= Some(1));
    assert_eq!(seen.len(), 40);
    assert!(seen.iter().all(|entry| entry.value == "before"), "{seen:?}");
}

#[test]
fn below_the_reserve_only_deletes_are_taken() {
    let mut world = World::new(9);
    let config = NodeConfig { reserve_bytes: 1 << 20, ..world.config() };
    world.driver = Some(SimDriver::new(Node::open(config, world.env.clone()).unwrap(), &world.sim));
    world.driver().pass(1);
    world.write(vec![(b"a".to_vec(), Some(b"1".to_vec()))]);
    world.settle();
    world.sim.disk.set_capacity(Some(world.sim.disk.used_bytes() + (1 << 19)));
    world.driver().pass(1_500);
    world.write(vec![(b"b".to_vec(), Some(b"1".to_vec()))]);
    assert_eq!(world.writes.len(), 1, "a put is refused");
    let origin = world.origin();
    let mut batch = WriteBatch::new();
    batch.delete(b"a").unwrap();
    let batch = BatchRef::parse(batch.as_bytes()).unwrap();
    world.driver().request(origin, Request::Write { opcode: Opcode::Delete, batch }, DEADLINE_MS);
    world.driver().settle();
    assert!(matches!(world.driver().take_reply(origin), Some(Response::Written { .. })));
    world.sim.disk.set_capacity(None);
    world.driver().pass(1_500);
    world.write(vec![(b"b".to_vec(), Some(b"1".to_vec()))]);
    world.settle();
    assert!(world.writes.last().unwrap().acknowledged);
}

#[test]
fn a_drained_node_recovers_clean() {
    let mut world = World::up(10);
    for _ in 0..5 {
        world.random_write(500);
    }
    world.driver().event(Event::Drain);
    world.settle();
    assert!(world.driver().drained);
    assert_eq!(world.kept, 5, "what was admitted is finished");
    world.driver = None;
    world.sim.jobs.abandon();
    world.recover(CrashKind::Process);
    assert_eq!(world.kept, 5);
}

#[test]
fn pitfall_31_a_directory_of_another_node_or_cluster_or_in_use_is_refused() {
    let mut world = World::up(12);
    assert!(matches!(world.open(), Err(OpenError::Locked { .. })));
    world.driver = None;
    let other = NodeConfig { node_id: NodeId(2), ..world.config() };
    assert!(matches!(
        Node::open(other, world.env.clone()),
        Err(OpenError::Identity(IdentityError::Foreign { .. }))
    ));
    let other = NodeConfig { cluster_id: "lake".into(), ..world.config() };
    assert!(matches!(
        Node::open(other, world.env.clone()),
        Err(OpenError::Identity(IdentityError::Foreign { .. }))
    ));
    world.env.disk.remove(std::path::Path::new("data/IDENTITY")).unwrap();
    assert!(matches!(world.open(), Err(OpenError::Identity(IdentityError::Missing { .. }))));
}

#[test]
fn engine_and_log_of_different_moments_are_refused() {
    let mut world = World::up(13);
    for _ in 0..80 {
        world.random_write(4_000);
        world.settle();
    }
    assert!(world.driver().node.stats(Nanos(0)).engine["flushes"].as_u64() >= Some(1));
    world.driver = None;
    world.sim.jobs.abandon();
    let raft_dir = std::path::Path::new("data/raft");
    for entry in world.env.disk.list(raft_dir).unwrap() {
        world.env.disk.remove(&raft_dir.join(entry.name)).unwrap();
    }
    match world.open() {
        Err(OpenError::Unfit { fault: UnfitError::LogBehind { .. }, .. }) => {}
        Err(other) => panic!("{other}"),
        Ok(()) => panic!("it opened without its log"),
    }
}
