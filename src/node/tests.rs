//! The node over a log and a state machine in memory: what does not need a disk.

mod conditions;

use super::sim::SimDriver;
use super::*;
use crate::base::batch::{BatchRef, WriteBatch};
use crate::base::{NodeId, Term};
use crate::env::Lane;
use crate::env::sim::{self, SimHandles};
use crate::proto::{Effect as Outcome, ErrorReply, Opcode, ScanRange, ScanReply, ScanRequest};
use crate::raft::{Entry, IoId, MemLog, Persist};

type Driver = SimDriver<MemLog, MapMachine>;

/// A node in memory and a client that numbers its requests.
struct World {
    sim: SimHandles,
    driver: Driver,
    next_id: u64,
}

const CONN: u64 = 1;

fn at(request_id: u64) -> Origin {
    Origin { conn: CONN, request_id }
}

impl World {
    fn with(seed: u64, machine: MapMachine, change: impl FnOnce(&mut NodeConfig)) -> Self {
        Self::over(seed, machine, &[], change)
    }

    /// Over a log that holds these batches already, in term 1.
    fn over(
        seed: u64,
        machine: MapMachine,
        batches: &[WriteBatch],
        change: impl FnOnce(&mut NodeConfig),
    ) -> Self {
        let (env, sim) = sim::env(seed);
        let mut config = NodeConfig::new("data", "beach", NodeId(1), 7);
        change(&mut config);
        env.disk.create_dir_all(&config.dir).unwrap();
        let mut log = MemLog::new(env.jobs.clone());
        let entries = (1..).zip(batches).map(|(index, batch)| Entry {
            index: LogIndex(index),
            term: Term(1),
            payload: batch.as_bytes().to_vec().into(),
        });
        let hard_state = HardState { term: Term(1), vote: None };
        log.submit(Persist {
            io: IoId(0),
            hard_state: Some(hard_state),
            truncate_from: None,
            entries: entries.collect(),
        });
        let identity = Identity {
            cluster_id: "beach".into(),
            node_id: NodeId(1),
            incarnation: 7,
            joining: false,
        };
        let memberships = vec![(LogIndex::ZERO, Membership::of_voters([identity.replica()]))];
        let replicated = Replicated::from_rows(config.max_sessions, &[]).unwrap();
        let recovery = Vec::new();
        let parts = Parts {
            identity,
            log,
            hard_state,
            memberships,
            cluster: ClusterUid::NONE,
            machine,
            replicated,
            lock: None,
            recovery,
        };
        let driver = SimDriver::new(Node::from_parts(config, env, parts), &sim);
        Self { sim, driver, next_id: 1 }
    }

    fn ready() -> Self {
        let mut world = Self::with(1, MapMachine::new(), |_| {});
        world.driver.settle();
        assert!(world.driver.node.is_ready());
        world
    }

    fn send(&mut self, request: Request<'_>, deadline_ms: u64) -> Origin {
        let origin = at(self.next_id);
        self.next_id += 1;
        self.driver.request(origin, request, deadline_ms);
        origin
    }

    fn put(&mut self, key: &str, value: &str) -> Origin {
        self.put_within(key, value, 10_000)
    }

    fn put_within(&mut self, key: &str, value: &str, deadline_ms: u64) -> Origin {
        let batch = put_batch(key, value);
        self.send(write(&batch), deadline_ms)
    }

    fn get(&mut self, key: &str) -> Origin {
        self.send(Request::Get { key: key.as_bytes(), snapshot: SequenceNumber::ZERO }, 10_000)
    }

    fn reply(&mut self, origin: Origin) -> Option<Response> {
        self.driver.take_reply(origin)
    }

    /// Settles and returns the reply, which must be there.
    fn answer(&mut self, origin: Origin) -> Response {
        self.driver.settle();
        self.reply(origin).expect("an answer")
    }

    fn scan(&mut self, request: ScanRequest<'_>) -> ScanReply {
        let origin = self.send(Request::Scan(request), 10_000);
        match self.answer(origin) {
            Response::Scan(reply) => reply,
            other => panic!("{other:?}"),
        }
    }

    fn value(&mut self, key: &str) -> Option<String> {
        let origin = self.get(key);
        match self.answer(origin) {
            Response::Value { value, .. } => Some(String::from_utf8(value.to_vec()).unwrap()),
            Response::NotFound { .. } => None,
            other => panic!("{other:?}"),
        }
    }
}

fn put_batch(key: &str, value: &str) -> WriteBatch {
    let mut batch = WriteBatch::new();
    batch.put(key.as_bytes(), value.as_bytes()).unwrap();
    batch
}

fn write(batch: &WriteBatch) -> Request<'_> {
    Request::Write { opcode: Opcode::Write, batch: BatchRef::parse(batch.as_bytes()).unwrap() }
}

fn error(response: Option<Response>) -> ErrorReply {
    match response {
        Some(Response::Error(error)) => error,
        other => panic!("{other:?}"),
    }
}

fn is_written(response: Option<Response>) -> bool {
    matches!(response, Some(Response::Written { .. }))
}

const ALL: ScanRange<'static> = ScanRange::Range { start: b"", end: b"" };

#[test]
fn a_put_is_answered_after_its_sync_with_its_sequence_numbers() {
    let mut world = World::ready();
    let mut batch = put_batch("a", "1");
    batch.delete(b"b").unwrap();
    let first = world.send(write(&batch), 10_000);
    let second = world.put("c", "3");
    world.driver.turn();
    assert_eq!(world.reply(first), None, "not before the sync");
    assert!(world.driver.run_lane(Lane::Log));
    assert_eq!(world.reply(first), None, "not before the node knows of it");
    world.driver.turn();
    // Entry 1 and sequence number 1 are the leader's no-op.
    let written = |index, first, last| Response::Written {
        index: LogIndex(index),
        first_seq: SequenceNumber(first),
        last_seq: SequenceNumber(last),
    };
    assert_eq!(world.reply(first), Some(written(2, 2, 3)));
    assert_eq!(world.reply(second), Some(written(3, 4, 4)));
    assert_eq!(world.driver.node.status(Nanos(0)).log.syncs, 3, "hard state, no-op, one group");
}

#[test]
fn pitfall_35_no_reads_after_a_restart_until_replay_reached_a_confirmed_commit() {
    let batches = [put_batch("k", "old"), put_batch("k", "new")];
    let mut world = World::over(1, MapMachine::new(), &batches, |_| {});
    world.driver.turn();
    let refused = world.get("k");
    world.driver.turn();
    assert_eq!(
        error(world.reply(refused)).code,
        ErrorCode::NotLeader,
        "its vote is not durable yet"
    );
    world.driver.run_lane(Lane::Log);
    world.driver.turn();
    assert_eq!(world.driver.node.role(), Role::Leader);
    let waiting = world.get("k");
    for _ in 0..5 {
        world.driver.turn();
    }
    assert_eq!(world.reply(waiting), None, "nothing of its term is committed");
    assert!(!world.driver.node.is_ready());
    assert_eq!(world.driver.node.applied(), LogIndex(0));
    world.driver.settle();
    assert!(world.driver.node.is_ready());
    assert!(matches!(world.reply(waiting), Some(Response::Value { value, .. }) if value == "new"));
}

#[test]
fn a_long_replay_is_sliced_and_reads_wait_for_its_end() {
    let big = "x".repeat(3 << 20);
    let batches: Vec<WriteBatch> =
        (0..6).map(|_| put_batch("big", &big)).chain([put_batch("k", "new")]).collect();
    let mut world = World::over(1, MapMachine::new(), &batches, |_| {});
    world.driver.turn();
    world.driver.run_lane(Lane::Log);
    world.driver.turn();
    assert_eq!(world.driver.node.role(), Role::Leader);
    let read = world.get("k");
    world.driver.run_lane(Lane::Log);
    let mut turns = 0;
    let reply = loop {
        world.driver.turn();
        turns += 1;
        if let Some(reply) = world.reply(read) {
            break reply;
        }
        let status = world.driver.node.status(Nanos(0));
        assert!(status.not_ready_reason.is_some_and(|why| why.contains("replaying the log")));
    };
    assert!(matches!(reply, Response::Value { value, .. } if value == "new"));
    assert!(turns >= 2, "{turns}");
}

#[test]
fn a_deadline_that_passed_before_propose_is_not_applied() {
    let mut world = World::ready();
    let late = world.put_within("a", "1", 0);
    assert_eq!(error(world.reply(late)).code, ErrorCode::DeadlineExceeded, "at admission");
    let queued = world.put_within("a", "2", 5);
    let read = world.send(Request::Get { key: b"a", snapshot: SequenceNumber::ZERO }, 5);
    let alive = world.put("b", "1");
    world.sim.clock.advance(Nanos::from_millis(6).0);
    world.driver.settle();
    let refused = error(world.reply(queued));
    assert_eq!((refused.code, refused.effect), (ErrorCode::DeadlineExceeded, Outcome::NotApplied));
    let refused = error(world.reply(read));
    assert_eq!((refused.code, refused.effect), (ErrorCode::DeadlineExceeded, Outcome::None));
    assert!(is_written(world.reply(alive)));
    assert_eq!(world.value("a"), None);
    assert_eq!(world.driver.node.status(Nanos(0)).queue.requests, 0);
}

#[test]
fn a_deadline_that_passes_after_propose_is_unknown_and_the_write_is_applied_all_the_same() {
    let mut world = World::ready();
    world.sim.jobs.hold(Lane::Log, true);
    let put = world.put_within("a", "1", 20);
    world.driver.pass(30);
    let reply = error(world.reply(put));
    assert_eq!((reply.code, reply.effect), (ErrorCode::DeadlineExceeded, Outcome::Unknown));
    world.sim.jobs.hold(Lane::Log, false);
    world.driver.settle();
    assert_eq!(world.value("a").as_deref(), Some("1"));
    assert_eq!(world.driver.node.stats(Nanos(0)).requests.expired_after_propose, 1);
}

#[test]
fn a_full_queue_answers_busy_with_a_hint_and_takes_requests_again() {
    let mut world = World::with(1, MapMachine::new(), |config| config.max_queued_requests = 3);
    world.driver.settle();
    world.sim.jobs.hold(Lane::Log, true);
    let puts: Vec<Origin> = (0..3).map(|n| world.put("k", &n.to_string())).collect();
    let refused = world.put("k", "3");
    let refused = error(world.reply(refused));
    assert_eq!((refused.code, refused.effect), (ErrorCode::Busy, Outcome::NotApplied));
    assert!(refused.retry_after_ms > 0);
    world.sim.jobs.hold(Lane::Log, false);
    world.driver.settle();
    for put in puts {
        assert!(is_written(world.reply(put)));
    }
    let put = world.put("k", "4");
    assert!(is_written(Some(world.answer(put))));
}

#[test]
fn writes_are_busy_while_flushes_lag_and_reads_go_on() {
    let mut world = World::ready();
    world.driver.node.machine.set_room(false);
    let put = world.put("a", "1");
    assert_eq!(error(world.reply(put)).code, ErrorCode::Busy);
    assert_eq!(world.value("a"), None);
    world.driver.node.machine.set_room(true);
    let put = world.put("a", "1");
    assert!(is_written(Some(world.answer(put))));
}

#[test]
fn a_slow_log_does_not_delay_reads_and_they_see_what_was_acknowledged() {
    let mut world = World::ready();
    let put = world.put("a", "1");
    assert!(is_written(Some(world.answer(put))));
    world.sim.jobs.hold(Lane::Log, true);
    let slow = world.put("a", "2");
    let read = world.get("a");
    world.driver.turn();
    assert!(matches!(world.reply(read), Some(Response::Value { value, .. }) if value == "1"));
    assert_eq!(world.reply(slow), None);
    let scan = world.scan(ScanRequest::new(ALL));
    assert_eq!(scan.entries.len(), 1);
}

#[test]
fn slow_disk_reads_do_not_delay_writes_or_reads_from_memory() {
    let mut world = World::with(1, MapMachine::with_reads_on_disk(), |_| {});
    world.driver.settle();
    world.sim.jobs.hold(Lane::Read, true);
    let read = world.get("a");
    let put = world.put("a", "1");
    assert!(is_written(Some(world.answer(put))));
    assert_eq!(world.reply(read), None);
    world.sim.jobs.hold(Lane::Read, false);
    assert!(matches!(world.answer(read), Response::NotFound { .. }), "as of its read index");
}

#[test]
fn a_drain_before_the_election_is_over_closes_the_log_and_writes_nothing_more() {
    let mut world = World::with(1, MapMachine::new(), |_| {});
    world.driver.turn();
    world.driver.event(Event::Drain);
    world.driver.settle();
    assert!(world.driver.drained);
    assert_eq!(world.driver.node.status(Nanos(0)).log.last_index, 0);
}

#[test]
fn pitfall_52_a_request_id_in_flight_is_refused() {
    let mut world = World::ready();
    let first = world.get("a");
    // The driver must not see two replies under one name, so take the refusal at once.
    let batch = put_batch("a", "1");
    world.driver.request(first, write(&batch), 10_000);
    let refused = error(world.reply(first));
    assert_eq!(
        (refused.code, refused.effect),
        (ErrorCode::DuplicateRequestId, Outcome::NotApplied)
    );
    assert!(matches!(world.answer(first), Response::NotFound { .. }));
}

#[test]
fn a_closed_connections_writes_are_applied_and_its_reads_dropped() {
    let mut world = World::with(1, MapMachine::with_reads_on_disk(), |_| {});
    world.driver.settle();
    let put = world.put("a", "1");
    let read = world.get("a");
    world.driver.turn();
    world.driver.event(Event::ConnectionClosed { conn: CONN });
    world.driver.settle();
    assert_eq!((world.reply(put), world.reply(read)), (None, None));
    let queue = world.driver.node.status(Nanos(0)).queue;
    assert_eq!((queue.requests, queue.bytes), (0, 0));
    assert_eq!(world.value("a").as_deref(), Some("1"));
}

#[test]
fn reads_that_need_the_disk_are_parked_and_answered_by_their_job() {
    let mut world = World::with(1, MapMachine::with_reads_on_disk(), |_| {});
    world.driver.settle();
    let put = world.put("a", "1");
    world.answer(put);
    let read = world.get("a");
    let slow = world.send(Request::Get { key: b"a", snapshot: SequenceNumber::ZERO }, 5);
    world.driver.turn();
    assert_eq!(world.reply(read), None);
    assert_eq!(world.driver.node.stats(Nanos(0)).reads.on_disk, 2);
    world.sim.clock.advance(Nanos::from_millis(6).0);
    world.driver.turn();
    assert_eq!(error(world.reply(slow)).code, ErrorCode::DeadlineExceeded, "its job still runs");
    world.driver.settle();
    assert!(matches!(world.reply(read), Some(Response::Value { value, .. }) if value == "1"));
    assert_eq!(world.driver.node.status(Nanos(0)).queue.requests, 0);
    assert_eq!(world.scan(ScanRequest::new(ALL)).entries.len(), 1);
}

#[test]
fn a_paged_scan_sees_one_snapshot_while_writes_go_on() {
    for machine in [MapMachine::new(), MapMachine::with_reads_on_disk()] {
        let mut world = World::with(1, machine, |_| {});
        world.driver.settle();
        for n in 0..10 {
            world.put(&format!("k{n}"), "before");
        }
        world.driver.settle();
        let first = ScanRequest { limit: 3, ..ScanRequest::new(ALL) };
        let mut page = world.scan(first);
        let mut keys = page.entries.clone();
        let mut pages = 1;
        while let Some(resume) = page.resume.take() {
            world.put(&format!("k{pages}"), "after");
            world.put(&format!("k{pages}-new"), "after");
            world.driver.settle();
            let snapshot = page.snapshot;
            let next = world.scan(ScanRequest { resume: &resume, snapshot, ..first });
            assert_eq!(next.snapshot, page.snapshot);
            assert!(next.applied > next.snapshot);
            keys.extend(next.entries.iter().cloned());
            page = next;
            pages += 1;
        }
        assert_eq!((keys.len(), pages), (10, 4));
        assert!(keys.iter().all(|e| e.value == "before"));
        let held = world.driver.node.stats(Nanos(0)).reads.wire_snapshots;
        assert_eq!((held, world.driver.node.machine.holds()), (1, 1));
    }
}

#[test]
fn a_wire_snapshot_is_released_after_its_ttl_and_its_next_page_is_too_old() {
    let mut world = World::ready();
    for key in ["a", "b", "c"] {
        world.put(key, "1");
    }
    world.driver.settle();
    let page = world.scan(ScanRequest { limit: 1, ..ScanRequest::new(ALL) });
    let put = world.put("b", "2");
    world.answer(put);
    let next =
        ScanRequest { limit: 1, resume: b"b", snapshot: page.snapshot, ..ScanRequest::new(ALL) };
    world.driver.pass(crate::limits::WIRE_SNAPSHOT_TTL_MS - 1);
    assert_eq!(world.scan(next).entries[0].value, "1", "and this use renews it");
    world.driver.pass(crate::limits::WIRE_SNAPSHOT_TTL_MS);
    assert_eq!(world.driver.node.machine.holds(), 0);
    let origin = world.send(Request::Scan(next), 10_000);
    let reply = error(Some(world.answer(origin)));
    assert_eq!((reply.code, reply.effect), (ErrorCode::SnapshotTooOld, Outcome::None));
}

#[test]
fn a_scan_without_a_next_page_holds_nothing() {
    let mut world = World::ready();
    let put = world.put("a", "1");
    world.answer(put);
    assert_eq!(world.scan(ScanRequest::new(ALL)).resume, None);
    assert_eq!(world.driver.node.machine.holds(), 0);
    let expired = world.send(Request::Scan(ScanRequest::new(ALL)), 1);
    world.sim.clock.advance(Nanos::from_millis(2).0);
    assert!(matches!(world.answer(expired), Response::Error(_)));
    assert_eq!(world.driver.node.machine.holds(), 0);
}

/// Bug: a scan over the front of the key space returned the cluster's own rows. Cause: only writes and gets looked at
/// the reserved prefix. Fix: a scan passes over it, in every slice and from every page.
#[test]
fn a_scan_never_shows_reserved_keys_whatever_its_range_and_pages() {
    let mut batch = WriteBatch::new();
    let rows: [&[u8]; 9] = [
        b"\x00a",
        b"\x00beach",
        b"\x00beach\x00",
        b"\x00beach\x00members",
        b"\x00beach\x00\xff",
        b"\x00beach\x01",
        b"\x00c",
        b"a",
        b"b",
    ];
    for key in rows {
        batch.put(key, b"v").unwrap();
    }
    let is_reserved = |key: &[u8]| key.starts_with(crate::base::batch::RESERVED_KEY_PREFIX);
    let bounds: Vec<&[u8]> =
        [&b""[..], b"\x00beach\x00\x00", b"z"].into_iter().chain(rows).collect();
    for machine in [MapMachine::new(), MapMachine::with_reads_on_disk()] {
        let mut world = World::over(1, machine, std::slice::from_ref(&batch), |_| {});
        world.driver.settle();
        let mut ranges: Vec<ScanRange<'_>> = Vec::new();
        for &start in &bounds {
            ranges.push(ScanRange::Prefix(start));
            ranges.extend(bounds.iter().map(|&end| ScanRange::Range { start, end }));
        }
        for range in ranges {
            let in_range = |key: &[u8]| match range {
                ScanRange::Prefix(prefix) => key.starts_with(prefix),
                ScanRange::Range { start, end } => key >= start && (end.is_empty() || key < end),
            };
            let visible = rows.into_iter().filter(|key| in_range(key) && !is_reserved(key));
            let expected: Vec<&[u8]> = visible.collect();
            for limit in [0, 1, 2] {
                let (mut found, mut resume, mut snapshot) = (Vec::new(), Vec::new(), 0.into());
                loop {
                    let request =
                        ScanRequest { limit, resume: &resume, snapshot, ..ScanRequest::new(range) };
                    let page = world.scan(request);
                    found.extend(page.entries.into_iter().map(|entry| entry.key));
                    snapshot = page.snapshot;
                    match page.resume {
                        Some(next) => resume = next,
                        None => break,
                    }
                }
                assert_eq!(found, expected, "{range:?}, limit {limit}");
            }
        }
    }
    let get = |key: &'static [u8]| {
        let request = Request::Get { key, snapshot: SequenceNumber::ZERO };
        let mut bytes = Vec::new();
        request.encode(&mut bytes, 1, 0).unwrap();
        let error = Request::decode(Opcode::Get as u8, &bytes[crate::proto::frame::HEADER_BYTES..]);
        error.map(|_| ()).unwrap_err().reply().code
    };
    assert_eq!(get(b"\x00beach\x00members"), ErrorCode::ReservedKey);
}

#[test]
fn a_snapshot_of_the_future_is_a_bad_request() {
    let mut world = World::ready();
    let origin = world.send(Request::Get { key: b"a", snapshot: SequenceNumber(99) }, 10_000);
    assert_eq!(error(Some(world.answer(origin))).code, ErrorCode::BadRequest);
}

#[test]
fn a_long_scan_takes_turns_with_other_work() {
    let mut batch = WriteBatch::new();
    for n in 0..50_000 {
        batch.put(format!("k{n:06}").as_bytes(), b"").unwrap();
    }
    for n in 0..40_000 {
        batch.delete(format!("k{n:06}").as_bytes()).unwrap();
    }
    let mut world = World::over(1, MapMachine::new(), &[batch], |_| {});
    world.driver.settle();
    let long = world.send(Request::Scan(ScanRequest { limit: 1, ..ScanRequest::new(ALL) }), 10_000);
    let mut turns = 0;
    loop {
        let get = world.get("k049999");
        world.driver.turn();
        assert!(matches!(world.reply(get), Some(Response::Value { .. })), "in every turn");
        turns += 1;
        if let Some(reply) = world.reply(long) {
            assert!(matches!(reply, Response::Scan(page) if page.entries[0].key == "k040000"));
            break;
        }
        assert_eq!(world.driver.node.next_wakeup(), Some(Nanos(0)), "it wants to go on");
    }
    assert!(turns >= 5, "{turns}");
}

#[test]
fn few_scans_run_at_once_and_the_others_wait_for_them() {
    use crate::limits::MAX_RUNNING_SCANS;
    let mut batch = WriteBatch::new();
    for n in 0..6_000 {
        batch.put(format!("k{n:06}").as_bytes(), b"").unwrap();
    }
    let mut world = World::over(1, MapMachine::with_reads_on_disk(), &[batch], |_| {});
    world.driver.settle();
    let scan = |world: &mut World| world.send(Request::Scan(ScanRequest::new(ALL)), 10_000);
    let mut scans: Vec<Origin> = (0..500).map(|_| scan(&mut world)).collect();
    for _ in 0..200 {
        world.driver.turn();
    }
    assert_eq!(world.driver.node.reads.parked(), MAX_RUNNING_SCANS, "each may hold megabytes");
    assert_eq!(world.driver.node.reads.scans(), 500 - MAX_RUNNING_SCANS);
    assert_ne!(world.driver.node.next_wakeup(), Some(Nanos(0)), "there is nothing to do but wait");
    let get = world.get("k000001");
    world.driver.turn();
    assert!(world.driver.run_lane(Lane::Read) && world.driver.node.reads.parked() > 0, "{get:?}");
    world.driver.event(Event::ConnectionClosed { conn: CONN });
    scans.clear();
    world.driver.settle();
    let waiting = (world.driver.node.reads.parked(), world.driver.node.reads.scans());
    assert_eq!(waiting, (0, 0), "those of a closed connection leave");
    scans.extend((0..500).map(|_| scan(&mut world)));
    world.driver.settle();
    for origin in scans {
        let reply = world.reply(origin);
        assert!(matches!(reply, Some(Response::Scan(page)) if page.entries.len() == 6_000));
    }
}

#[test]
fn a_drain_refuses_new_requests_and_finishes_the_admitted_ones() {
    let mut world = World::ready();
    let put = world.put("a", "1");
    world.driver.turn();
    world.driver.event(Event::Drain);
    let refused = world.put("b", "1");
    let refused = error(world.reply(refused));
    assert_eq!((refused.code, refused.effect), (ErrorCode::ShuttingDown, Outcome::NotApplied));
    let ping = world.send(Request::Ping, 1_000);
    assert_eq!(world.reply(ping), Some(Response::Pong));
    assert!(!world.driver.drained);
    world.driver.settle();
    assert!(is_written(world.reply(put)));
    assert!(world.driver.drained);
    assert_eq!(world.driver.node.next_wakeup(), None);
}

/// Bug: a node whose log took long to close turned without end. Cause: raft's next deadline passed, and raft is told
/// nothing any more. Fix: it is not asked for its deadline then.
#[test]
fn a_node_that_waits_for_its_log_to_close_sleeps() {
    let mut world = World::ready();
    let put = world.put("a", "1");
    world.driver.turn();
    world.sim.jobs.hold(Lane::Log, true);
    world.driver.event(Event::Drain);
    world.driver.pass(20_000);
    assert!(error(world.reply(put)).effect == Outcome::Unknown && !world.driver.drained);
    world.sim.jobs.hold(Lane::Log, false);
    world.driver.settle();
    assert!(world.driver.drained);
}

#[test]
fn hello_names_the_node_and_refuses_other_clusters_and_versions() {
    let mut world = World::ready();
    let hello = HelloRequest { min_version: 1, max_version: 3, name: "test", cluster: "beach" };
    let origin = world.send(Request::Hello(hello), 1_000);
    let Some(Response::Hello(reply)) = world.reply(origin) else { panic!() };
    assert_eq!((reply.node_id, reply.cluster.as_str(), reply.version), (NodeId(1), "beach", 1));
    let origin = world.send(Request::Hello(HelloRequest { cluster: "lake", ..hello }), 1_000);
    assert_eq!(error(world.reply(origin)).code, ErrorCode::WrongCluster);
    let origin = world.send(Request::Hello(HelloRequest { min_version: 2, ..hello }), 1_000);
    assert_eq!(error(world.reply(origin)).code, ErrorCode::BadVersion);
}

#[test]
fn status_and_stats_are_json_with_a_schema() {
    let mut world = World::ready();
    let put = world.put("a", "1");
    world.answer(put);
    let origin = world.send(Request::Status, 1_000);
    let Some(Response::Status(text)) = world.reply(origin) else { panic!() };
    let status: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(status["schema"], 1);
    assert_eq!((&status["role"], &status["ready"]), (&"leader".into(), &true.into()));
    assert_eq!((&status["applied"], &status["last_seq"]), (&2.into(), &2.into()));
    assert_eq!(status["stages"]["sync"]["count"], 3);
    let origin = world.send(Request::Stats, 1_000);
    let Some(Response::Stats(text)) = world.reply(origin) else { panic!() };
    let stats: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(stats["requests"]["answered_ok"], 2);
    assert_eq!(stats["events"][0]["event"], "role_change");
}

#[test]
fn the_same_seed_gives_the_same_trace_of_effects() {
    let run = || {
        let mut world = World::with(42, MapMachine::with_reads_on_disk(), |_| {});
        for n in 0..200u64 {
            world.put(&format!("k{}", n % 7), &n.to_string());
            world.get(&format!("k{}", n % 5));
            if n % 3 == 0 {
                world.sim.jobs.run_one();
                world.driver.turn();
            }
            world.sim.clock.advance(10_000);
        }
        world.driver.settle();
        world.driver.trace().to_vec()
    };
    let (first, second) = (run(), run());
    assert!(first.len() >= 400);
    assert_eq!(first, second);
}

/// Bug: a node that had joined, flushed below the entry that added it, and led sent a snapshot without members, which
/// every receiver refuses, again and again. Cause: the members there are not known here. Fix: it waits for a flush.
#[test]
fn a_snapshot_of_nobody_is_not_sent_but_waits_for_a_flush() {
    let batch = put_batch("k", "v");
    let mut machine = MapMachine::new();
    let parsed = BatchRef::parse(batch.as_bytes()).unwrap();
    machine.apply(LogIndex(1), Term(1), Some(parsed), &[]);
    let mut world = World::over(1, machine.flushed(), &[batch], |_| {});
    let node = &mut world.driver.node;
    node.replicated = Replicated::default();
    node.replicated.bootstrap((LogIndex::ZERO, Membership::new()));
    let other = ReplicaId { node: NodeId(2), incarnation: 2 };
    node.snapshot_needed(Nanos(1), other, 1);
    assert!(node.sender.wants_flush && node.sender.status(Nanos::ZERO).is_empty());
    // The flush was behind the entry that says who the members are.
    let members = Membership::of_voters([node.replica()]);
    node.replicated = Replicated::default();
    node.replicated.bootstrap((LogIndex(1), members));
    node.start_snapshots(Nanos(2));
    assert_eq!(node.sender.status(Nanos::ZERO).len(), 1);
}
