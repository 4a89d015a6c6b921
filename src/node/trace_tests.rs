//! Every stage that the node times and every event that it knows is really recorded. ([`Stage::Respond`] is the server's:
//! `tests/daemon.rs`.)

use super::sim::SimDriver;
use super::*;
use crate::base::NodeId;
use crate::base::batch::{BatchRef, WriteBatch};
use crate::base::trace::{Stage, TraceRecord};
use crate::engine::manifest::table_file_name;
use crate::env::Lane;
use crate::env::sim::{self, SimHandles};
use crate::proto::Opcode;
use crate::raft_log::RaftLog;

const MEMTABLE_BYTES: usize = 64 << 10;
const QUEUE: u64 = 64;
const FLUSH_NS: u64 = 5_000_000;

struct World {
    sim: SimHandles,
    driver: SimDriver<RaftLog, EngineMachine>,
    next: u64,
}

impl World {
    fn new() -> Self {
        let (env, sim) = sim::env(1);
        let config = NodeConfig {
            memtable_bytes: MEMTABLE_BYTES,
            segment_bytes: 1 << 20,
            reserve_bytes: 0,
            max_queued_requests: QUEUE as usize,
            ..NodeConfig::new("data", "beach", NodeId(1), 7)
        };
        let mut driver = SimDriver::new(Node::open(config, env).unwrap(), &sim);
        driver.settle();
        Self { sim, driver, next: 0 }
    }

    fn put(&mut self, deadline_ms: u64) {
        self.next += 1;
        let mut batch = WriteBatch::new();
        batch.put(&self.next.to_be_bytes(), &[7; 1024]).unwrap();
        let batch = BatchRef::parse(batch.as_bytes()).unwrap();
        let origin = Origin { conn: 1, request_id: self.next };
        self.driver.request(origin, Request::Write { opcode: Opcode::Put, batch }, deadline_ms);
    }

    fn events(&self) -> Vec<TraceEvent> {
        self.driver.node.trace().iter().map(|&TraceRecord { event, .. }| event).collect()
    }
}

/// Bug: the event of a frozen memtable was defined and documented, and never recorded. Cause: nobody told the node.
/// Fix: the engine's adapter does.
#[test]
fn every_stage_and_every_event_is_recorded() {
    let mut world = World::new();
    let role = |name| move |e: &TraceEvent| matches!(e, TraceEvent::RoleChange { role, .. } if *role == name);
    assert!(
        world.events().iter().any(role("leader")) && world.events().iter().any(role("candidate"))
    );

    // A full memtable is frozen and flushed.
    world.sim.jobs.hold(Lane::Flush, true);
    for _ in 0..100 {
        world.put(10_000);
        world.driver.settle();
    }
    let frozen = |world: &World| -> Vec<(u64, u64)> {
        let size = |event| match event {
            TraceEvent::MemtableFrozen { entries, bytes } => Some((entries, bytes)),
            _ => None,
        };
        world.events().into_iter().filter_map(size).collect()
    };
    let (entries, bytes) = frozen(&world)[0];
    assert!((10..=100).contains(&entries) && bytes >= MEMTABLE_BYTES as u64, "{entries} {bytes}");
    let flush = |event: &TraceEvent| match *event {
        TraceEvent::Flush { table, bytes, ns } => Some((table, bytes, ns)),
        _ => None,
    };
    assert_eq!(world.events().iter().find_map(flush), None, "it is held");
    world.sim.clock.advance(FLUSH_NS);
    world.sim.jobs.hold(Lane::Flush, false);
    world.driver.settle();
    let (table, bytes, ns) = world.events().iter().find_map(flush).expect("a flush");
    let file = world.sim.disk.read_file(format!("data/engine/{}", table_file_name(table))).unwrap();
    assert_eq!((file.len() as u64, ns), (bytes, FLUSH_NS));
    let stats = world.driver.node.machine.engine().stats();
    assert_eq!(frozen(&world).len() as u64, stats.flushes + stats.frozen_memtables);

    // A read of the table is a job.
    let get = Request::Get { key: &1u64.to_be_bytes(), snapshot: SequenceNumber::ZERO };
    world.driver.request(Origin { conn: 2, request_id: 1 }, get, 10_000);
    world.driver.settle();

    // Refused: the queue is full; the deadline passed; the disk is full.
    for _ in 0..=QUEUE {
        world.put(10_000);
    }
    assert!(world.events().contains(&TraceEvent::Busy { queued: QUEUE }));
    world.driver.settle();
    world.put(5);
    world.sim.clock.advance(6_000_000);
    world.driver.settle();
    assert!(world.events().contains(&TraceEvent::Expired { late_ns: 1_000_000 }));
    world.sim.disk.set_capacity(Some(0));
    while !world.events().contains(&TraceEvent::ReadOnly { on: true }) {
        world.put(10_000);
        world.driver.pass(100);
    }
    world.sim.disk.set_capacity(None);
    world.driver.pass(5_000);
    assert!(world.events().contains(&TraceEvent::ReadOnly { on: false }));

    let synced = |e: &TraceEvent| matches!(e, TraceEvent::LogSync { records: 1, bytes, .. } if *bytes > 1024);
    assert!(world.events().iter().any(synced));
    for stage in Stage::ALL.into_iter().filter(|&stage| stage != Stage::Respond) {
        let summary = world.driver.node.stages_mut().summary(stage);
        assert!(summary.count > 0, "{} is never recorded", stage.name());
    }
}
