//! Sessions: against a naive model after every random step, over both state machines, and through the whole node with
//! crashes, restarts, and retries.

use super::machine_tests::{Kind, Place};
use super::replicated::Outcome;
use super::sessions::{Refusal, SessionOutcome, SessionWrite, Sessions, Verdict};
use super::sim::SimDriver;
use super::*;
use crate::base::batch::RESERVED_KEY_PREFIX;
use crate::base::{InternalOp, Member, MemberRole, NodeId, ReplicaId, Term};
use crate::engine::{Engine, EngineOptions};
use crate::env::sim::{self, CrashKind, SimHandles, SimRandom};
use crate::limits::MAX_SESSION_WINDOW;
use crate::proto::{Effect as Fate, ErrorReply, Opcode, ScanRange, ScanRequest};
use crate::raft_log::RaftLog;
use bytes::Bytes;
use std::collections::BTreeMap;

type Driver = SimDriver<RaftLog, EngineMachine>;
type Rows = BTreeMap<Vec<u8>, Bytes>;

const WINDOW: u64 = MAX_SESSION_WINDOW as u64;

fn change(rows: &mut Rows, ops: &mut Vec<InternalOp>) {
    for op in ops.drain(..) {
        let found = match op.value() {
            Some(value) => rows.insert(op.key().to_vec(), value.clone()).is_some(),
            None => rows.remove(op.key()).is_none(),
        };
        assert!(!found, "a row is set once and deleted once: {op:?}");
    }
}

fn listed(rows: &Rows) -> Vec<(Vec<u8>, Bytes)> {
    rows.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn outcome_at(index: u64) -> SessionOutcome {
    let seq = SequenceNumber(index * 10);
    SessionOutcome { index: LogIndex(index), first_seq: seq, last_seq: seq.next(), failed: None }
}

/// What sessions are, said as plainly as possible: it forgets nothing and searches everything.
#[derive(Default)]
struct Model {
    sessions: BTreeMap<u64, ModelSession>,
    registered: Vec<u64>,
}

#[derive(Default)]
struct ModelSession {
    last_used: u64,
    acked_below: u64,
    applied: BTreeMap<u64, SessionOutcome>,
}

impl Model {
    fn register(&mut self, index: u64, max: usize) -> Option<u64> {
        let oldest = self.sessions.iter().min_by_key(|(_, s)| s.last_used).map(|(id, _)| *id);
        let evicted = oldest.filter(|_| self.sessions.len() == max);
        if let Some(id) = evicted {
            self.sessions.remove(&id);
        }
        self.sessions.insert(index, ModelSession { last_used: index, ..ModelSession::default() });
        self.registered.push(index);
        evicted
    }

    fn write(&mut self, index: u64, write: SessionWrite) -> Verdict {
        let SessionWrite { client_id, sequence, acked_below } = write;
        let Some(session) = self.sessions.get_mut(&client_id) else {
            return Verdict::Refused(
                if self.registered.contains(&client_id) || client_id < index {
                    Refusal::Unknown
                } else {
                    Refusal::NeverIssued
                },
            );
        };
        if sequence < session.acked_below {
            return Verdict::Refused(Refusal::Stale { acked_below: session.acked_below });
        }
        if let Some(outcome) = session.applied.get(&sequence) {
            return Verdict::Duplicate(*outcome);
        }
        session.applied.insert(sequence, outcome_at(index));
        session.acked_below = session.acked_below.max(acked_below);
        session.last_used = index;
        Verdict::Apply
    }

    fn kept(&self) -> usize {
        self.sessions.values().map(|s| s.applied.range(s.acked_below..).count()).sum()
    }
}

#[test]
fn sessions_behave_like_a_model_that_forgets_nothing_and_rows_alone_rebuild_them() {
    for seed in 0..40 {
        println!("seed {seed}");
        let mut random = SimRandom::new(seed);
        let max = 1 + random.below(6) as usize;
        let (mut sessions, mut model) = (Sessions::new(max), Model::default());
        let (mut rows, mut ops) = (Rows::new(), Vec::new());
        // What each client would send next; clients of evicted sessions go on as if nothing had happened.
        let mut next: BTreeMap<u64, u64> = BTreeMap::new();
        let (mut duplicates, mut refused, mut evicted) = (0, 0, 0);
        for index in 1..600 {
            if random.chance(1, 20) || next.is_empty() {
                let gone = sessions.register(LogIndex(index), &mut ops);
                assert_eq!(gone, model.register(index, max), "evicted at {index}");
                evicted += usize::from(gone.is_some());
                next.insert(index, 1);
            } else {
                let nth = random.below(next.len() as u64) as usize;
                let (&client_id, next_sequence) = next.iter_mut().nth(nth).unwrap();
                // Pipelined and out of order: some way ahead; a retry or a stale one: some way back.
                let sequence = match random.below(3) {
                    0 => *next_sequence + random.below(8),
                    1 => next_sequence.saturating_sub(random.below(8)).max(1),
                    _ => *next_sequence,
                };
                *next_sequence = (*next_sequence).max(sequence + 1);
                let window = random.below(WINDOW.min(12)).min(sequence);
                let client_id = if random.chance(1, 40) { index + 3 } else { client_id };
                let write = SessionWrite { client_id, sequence, acked_below: sequence - window };
                let verdict = sessions.judge(LogIndex(index), write);
                assert_eq!(verdict, model.write(index, write), "{write:?} at {index}");
                match verdict {
                    Verdict::Apply => sessions.written(write, outcome_at(index), &mut ops),
                    Verdict::Duplicate(_) => duplicates += 1,
                    Verdict::Refused(_) => refused += 1,
                }
            }
            change(&mut rows, &mut ops);
            assert_eq!(Sessions::from_rows(max, &listed(&rows)).as_ref(), Ok(&sessions), "{index}");
            assert_eq!(sessions.stats().outcomes, model.kept() as u64);
            assert_eq!(rows.len(), model.kept() + model.sessions.len());
        }
        assert!(duplicates > 0 && refused > 0 && evicted > 0, "{duplicates} {refused} {evicted}");
    }
}

#[test]
fn a_window_of_outcomes_is_bounded_by_what_the_client_says_it_has() {
    let (mut sessions, mut rows, mut ops) = (Sessions::new(4), Rows::new(), Vec::new());
    sessions.register(LogIndex(1), &mut ops);
    let mut write = |sequence: u64, acked_below: u64, index: u64| {
        let write = SessionWrite { client_id: 1, sequence, acked_below };
        assert_eq!(sessions.judge(LogIndex(index), write), Verdict::Apply, "{write:?}");
        sessions.written(write, outcome_at(index), &mut ops);
        change(&mut rows, &mut ops);
        sessions.stats().outcomes
    };
    for sequence in 1..=WINDOW {
        assert_eq!(write(sequence, 1, 1 + sequence), sequence);
    }
    assert_eq!(write(WINDOW + 1, 2, 500), WINDOW, "one came, one went");
    assert_eq!(write(WINDOW + 2, WINDOW + 2, 501), 1, "all but the newest");
    assert_eq!(rows.len(), 2, "the session and one outcome");
}

#[test]
fn rows_that_make_no_sense_are_refused_by_name() {
    let (mut rows, mut ops) = (Rows::new(), Vec::new());
    let mut sessions = Sessions::new(4);
    sessions.register(LogIndex(3), &mut ops);
    let write = SessionWrite { client_id: 3, sequence: 1, acked_below: 1 };
    sessions.written(write, outcome_at(4), &mut ops);
    change(&mut rows, &mut ops);
    let good = listed(&rows);
    assert!(Replicated::from_rows(4, &good).is_ok());
    let (session, outcome) = (&good[0], &good[1]);
    let with = |at: usize, byte: u8| {
        let mut value = outcome.1.to_vec();
        value[at] = byte;
        vec![session.clone(), (outcome.0.clone(), value.into())]
    };
    let renamed = |key: &[u8]| {
        let mut rows = good.clone();
        rows.push(([RESERVED_KEY_PREFIX, key].concat(), Bytes::new()));
        rows
    };
    let mut two_sessions = Vec::new();
    for id in [3, 2] {
        let renumbered = |key: &[u8]| {
            let mut key = key.to_vec();
            key[RESERVED_KEY_PREFIX.len() + 8] = id;
            key
        };
        two_sessions.insert(0, (renumbered(&outcome.0), outcome.1.clone()));
        two_sessions.insert(0, (renumbered(&session.0), session.1.clone()));
    }
    for bad in [
        vec![outcome.clone()],
        vec![(session.0.clone(), Bytes::from_static(&[9]))],
        with(0, 2),
        with(1, 7),
        with(3, 9),
        with(5, 1),
        vec![session.clone(), (outcome.0.clone(), outcome.1.slice(..31))],
        // The outcome is older than its session; two sessions were last used by one entry.
        with(15, 2),
        two_sessions,
        renamed(b"s1234"),
        renamed(b"x"),
        renamed(b"m"),
        vec![(b"user".to_vec(), Bytes::new())],
    ] {
        let error = Replicated::from_rows(4, &bad).unwrap_err().to_string();
        assert!(error.contains("internal row"), "{error}");
    }
}

#[test]
fn rows_have_the_bytes_of_the_page() {
    let (mut sessions, mut ops) = (Sessions::new(1), Vec::new());
    sessions.register(LogIndex(3), &mut ops);
    let write = |sequence, acked_below| SessionWrite { client_id: 3, sequence, acked_below };
    sessions.written(write(1, 1), outcome_at(4), &mut ops);
    sessions.written(write(5, 2), outcome_at(0x105), &mut ops);
    sessions.register(LogIndex(0x106), &mut ops);
    let hex = crate::proto::text::to_hex;
    let name = |op: &InternalOp| hex(&op.key()[RESERVED_KEY_PREFIX.len()..]);
    let found: Vec<(String, Option<String>)> =
        ops.iter().map(|op| (name(op), op.value().map(|value| hex(value)))).collect();
    let set = |key: &str, value: &str| (key.to_owned(), Some(value.to_owned()));
    let gone = |key: &str| (key.to_owned(), None);
    let (first, fifth) =
        ("7300000000000000030000000000000001", "7300000000000000030000000000000005");
    assert_eq!(
        found,
        [
            set("730000000000000003", "01"),
            set(first, "0101000000000000000000000000000400000000000000280000000000000029"),
            set(fifth, "010100030000000000000000000001050000000000000a320000000000000a33"),
            gone(first),
            gone("730000000000000003"),
            gone(fifth),
            set("730000000000000106", "01"),
        ]
    );
}

/// A replica without a node around it.
struct Replica<S> {
    machine: S,
    replicated: Replicated,
    index: u64,
}

impl<S: StateMachine> Replica<S> {
    fn new(machine: S, max_sessions: usize) -> Self {
        Self { machine, replicated: Replicated::from_rows(max_sessions, &[]).unwrap(), index: 0 }
    }

    fn apply(&mut self, payload: &[u8]) -> Outcome {
        self.index += 1;
        let batch = BatchRef::parse(payload).unwrap();
        let at = (LogIndex(self.index), Term(1));
        self.replicated.apply(&mut self.machine, at, batch, None).unwrap()
    }

    /// The mirror is what the rows say, but for the memberships before the last.
    fn check_mirror(&self, max_sessions: usize) {
        let rows = self.machine.internal_rows().unwrap();
        let mut mirror = self.replicated.clone();
        mirror.release_members(self.machine.applied().0);
        assert_eq!(Replicated::from_rows(max_sessions, &rows), Ok(mirror));
    }
}

fn engine_machine() -> EngineMachine {
    let (env, _sim) = sim::env(1);
    EngineMachine::new(Engine::open(&env, EngineOptions::new("db/engine")).unwrap())
}

fn put(key: &str, value: &str) -> WriteBatch {
    let mut batch = WriteBatch::new();
    batch.put(key.as_bytes(), value.as_bytes()).unwrap();
    batch
}

fn session_put(id: u64, sequence: u64, acked_below: u64, key: &str, value: &str) -> WriteBatch {
    let mut batch = put(key, value);
    batch.set_client(id, sequence, acked_below);
    batch
}

fn members(nodes: &[u64]) -> Membership {
    let mut membership = Membership::new();
    for &node in nodes {
        membership.insert(Member {
            replica: ReplicaId { node: NodeId(node), incarnation: node * 100 },
            role: MemberRole::Voter,
            peer_address: format!("10.0.0.{node}:7401"),
            client_address: format!("10.0.0.{node}:7400"),
        });
    }
    membership
}

#[test]
fn engine_and_map_come_to_the_same_outcomes_rows_and_sequence_numbers() {
    for seed in 0..6 {
        println!("seed {seed}");
        let mut random = SimRandom::new(seed);
        let mut map = Replica::new(MapMachine::new(), 3);
        let mut engine = Replica::new(engine_machine(), 3);
        let mut ids = vec![1];
        for step in 0..300 {
            let id = ids[random.below(ids.len() as u64) as usize];
            let key = format!("k{}", random.below(9));
            let payload: Bytes = match random.below(10) {
                0 => WriteBatch::register().into_bytes().into(),
                1 => put(&key, "unsessioned").into_bytes().into(),
                2 => members(&[1, 2 + random.below(3)]).to_entry(),
                _ => {
                    let sequence = 1 + random.below(40);
                    let window = random.below(sequence);
                    let batch =
                        session_put(id, sequence, sequence - window, &key, &step.to_string());
                    Bytes::from(batch.into_bytes())
                }
            };
            let outcome = map.apply(&payload);
            assert_eq!(outcome, engine.apply(&payload), "step {step}");
            if let Outcome::Registered { client_id, .. } = outcome {
                ids.push(client_id);
            }
            map.check_mirror(3);
            engine.check_mirror(3);
        }
        assert_eq!(map.machine.internal_rows(), engine.machine.internal_rows());
        assert_eq!(map.machine.last_seq(), engine.machine.last_seq());
        assert_eq!(map.machine.applied(), engine.machine.applied());
    }
}

#[test]
fn the_membership_in_force_at_an_entry_is_remembered_until_it_is_released() {
    let mut replica = Replica::new(engine_machine(), 3);
    let bootstrap = (LogIndex(0), members(&[1]));
    replica.replicated.bootstrap(bootstrap.clone());
    let at = |replica: &Replica<EngineMachine>, index| {
        replica.replicated.members_at(LogIndex(index)).unwrap().clone()
    };
    assert_eq!(at(&replica, 0), bootstrap);
    replica.apply(put("a", "1").as_bytes());
    replica.apply(&members(&[1, 2]).to_entry());
    replica.apply(put("a", "2").as_bytes());
    replica.apply(&members(&[1, 2, 3]).to_entry());
    assert_eq!(at(&replica, 1), bootstrap);
    assert_eq!(at(&replica, 3), (LogIndex(2), members(&[1, 2])));
    assert_eq!(at(&replica, 9), (LogIndex(4), members(&[1, 2, 3])));
    replica.replicated.release_members(LogIndex(3));
    assert_eq!(at(&replica, 3), (LogIndex(2), members(&[1, 2])));
    assert_eq!(at(&replica, 4).0, LogIndex(4));

    let rows = replica.machine.internal_rows().unwrap();
    let mut reopened = Replicated::from_rows(3, &rows).unwrap();
    reopened.bootstrap(bootstrap);
    let found = reopened.members_at(LogIndex(4)).unwrap();
    assert_eq!(*found, (LogIndex(4), members(&[1, 2, 3])), "the row counts, not the bootstrap");
}

fn recognizes_after_a_snapshot<M: Kind>() {
    let apply = |place: &mut Place<M>, replicated: &mut Replicated, payload: &[u8]| {
        let batch = BatchRef::parse(payload).unwrap();
        let at = (place.machine.applied().0.next(), Term(3));
        replicated.apply(&mut place.machine, at, batch, None).unwrap()
    };
    let (mut from, mut mine) = (Place::<M>::new(1), Replicated::from_rows(4, &[]).unwrap());
    let membership = members(&[1, 2]);
    let first = session_put(1, 1, 1, "k", "one");
    apply(&mut from, &mut mine, WriteBatch::register().as_bytes());
    let outcome = apply(&mut from, &mut mine, first.as_bytes());
    let Outcome::Written(written) = outcome else { panic!("{outcome:?}") };
    apply(&mut from, &mut mine, &membership.to_entry());
    from.flush();
    let in_force = mine.members_at(LogIndex(3)).unwrap().clone();
    let source = from.machine.file_snapshot(in_force.clone()).unwrap();

    let (mut to, mut theirs) = (Place::<M>::new(2), Replicated::from_rows(4, &[]).unwrap());
    let sink = to.receive(&*source, 64);
    let rows = to.install(sink).unwrap();
    theirs.installed(in_force.clone(), &rows).unwrap();
    assert_eq!(theirs.members_at(LogIndex(3)), Some(&in_force));
    assert_eq!(theirs.members_at(LogIndex(3)), Some(&(LogIndex(3), membership)));
    let second = session_put(1, 2, 1, "k", "two");
    for payload in [first.as_bytes(), second.as_bytes(), first.as_bytes()] {
        let outcome = apply(&mut from, &mut mine, payload);
        assert_eq!(outcome, apply(&mut to, &mut theirs, payload));
        assert_eq!(from.machine.last_seq(), to.machine.last_seq());
    }
    let again = apply(&mut to, &mut theirs, first.as_bytes());
    assert_eq!(again, Outcome::Duplicate(written));
    assert_eq!(theirs.session_stats(), mine.session_stats());
}

#[test]
fn pitfall_26_a_replica_that_got_everything_as_a_snapshot_recognizes_a_retry() {
    recognizes_after_a_snapshot::<EngineMachine>();
    recognizes_after_a_snapshot::<MapMachine>();
}

/// A real node on a simulated disk, and what a client of sessions says to it.
struct World {
    env: Env,
    sim: SimHandles,
    driver: Option<Driver>,
    max_sessions: usize,
    requests: u64,
}

impl World {
    fn up(seed: u64, max_sessions: usize) -> Self {
        let (env, sim) = sim::env(seed);
        let mut world = Self { env, sim, driver: None, max_sessions, requests: 0 };
        world.open();
        world
    }

    fn driver(&mut self) -> &mut Driver {
        self.driver.as_mut().expect("the node is up")
    }

    fn open(&mut self) {
        let config = NodeConfig {
            memtable_bytes: 16 << 10,
            segment_bytes: 32 << 10,
            reserve_bytes: 0,
            log_bytes_before_flush: 8 << 10,
            max_sessions: self.max_sessions,
            ..NodeConfig::new("data", "beach", NodeId(1), 7)
        };
        let node = Node::open(config, self.env.clone()).unwrap();
        self.driver = Some(SimDriver::new(node, &self.sim));
        self.driver().settle();
    }

    fn crash(&mut self, kind: CrashKind) {
        self.sim.disk.crash(kind);
        self.sim.jobs.abandon();
        self.sim.disk.restart();
        // The old node goes, and its lock, before the new one opens.
        self.driver = None;
        self.open();
    }

    fn send(&mut self, request: Request<'_>) -> Origin {
        self.requests += 1;
        let origin = Origin { conn: 1, request_id: self.requests };
        self.driver().request(origin, request, 10_000);
        origin
    }

    fn ask(&mut self, request: Request<'_>) -> Response {
        let origin = self.send(request);
        self.driver().settle();
        self.driver().take_reply(origin).expect("an answer")
    }

    fn register(&mut self) -> u64 {
        match self.ask(Request::Register) {
            Response::Registered(session) => {
                assert_eq!(u64::from(session.window), WINDOW);
                session.client_id
            }
            other => panic!("{other:?}"),
        }
    }

    fn write(&mut self, batch: &WriteBatch) -> Response {
        self.ask(request(batch))
    }

    fn refusal(&mut self, batch: &WriteBatch) -> ErrorReply {
        match self.write(batch) {
            Response::Error(error) => error,
            other => panic!("{other:?}"),
        }
    }

    fn value(&mut self, key: &str) -> Option<(u64, Bytes)> {
        match self.ask(Request::Get { key: key.as_bytes(), snapshot: SequenceNumber::ZERO }) {
            Response::Value { seq, value, .. } => Some((seq.0, value)),
            Response::NotFound { .. } => None,
            other => panic!("{other:?}"),
        }
    }
}

fn request(batch: &WriteBatch) -> Request<'_> {
    Request::Write { opcode: Opcode::Write, batch: BatchRef::parse(batch.as_bytes()).unwrap() }
}

#[test]
fn pitfall_36_a_retry_of_a_write_is_answered_like_the_first_try_and_not_applied_again() {
    let mut world = World::up(1, 4);
    let id = world.register();
    let first = world.write(&session_put(id, 1, 1, "k", "one"));
    let Response::Written { last_seq, .. } = first else { panic!("{first:?}") };
    world.write(&put("k", "of another client"));
    assert_eq!(world.write(&session_put(id, 1, 1, "k", "one")), first);
    assert_eq!(world.value("k").unwrap().1, "of another client", "the retry changed nothing");
    for kind in [CrashKind::Process, CrashKind::PowerLoss] {
        world.crash(kind);
        assert_eq!(world.write(&session_put(id, 1, 1, "k", "one")), first, "after a {kind:?}");
    }
    let second = world.write(&session_put(id, 2, 2, "k", "two"));
    let Response::Written { first_seq, .. } = second else { panic!("{second:?}") };
    assert!(first_seq > last_seq);
    let stale = world.refusal(&session_put(id, 1, 1, "k", "one"));
    assert_eq!((stale.code, stale.effect), (ErrorCode::SessionStale, Fate::Unknown));
    assert_eq!(world.value("k").unwrap(), (first_seq.0, Bytes::from("two")));
}

#[test]
fn pitfall_36_two_tries_in_the_log_at_once_are_applied_once() {
    let mut world = World::up(2, 4);
    let id = world.register();
    let batch = session_put(id, 1, 1, "k", "v");
    let before = world.driver().node.last_seq();
    let tries: Vec<Origin> = (0..3).map(|_| world.send(request(&batch))).collect();
    world.driver().settle();
    let replies: Vec<Response> =
        tries.into_iter().map(|origin| world.driver().take_reply(origin).unwrap()).collect();
    assert!(replies.iter().all(|reply| *reply == replies[0]), "{replies:?}");
    // One operation, one row that remembers it.
    assert_eq!(world.driver().node.last_seq().0, before.0 + 2);
}

#[test]
fn an_unknown_or_evicted_session_is_refused_and_the_effect_says_what_can_be_known() {
    let mut world = World::up(3, 2);
    let never = world.refusal(&session_put(1 << 40, 1, 1, "k", "v"));
    assert_eq!((never.code, never.effect), (ErrorCode::UnknownSession, Fate::NotApplied));
    let (first, second) = (world.register(), world.register());
    world.write(&session_put(first, 1, 1, "k", "first"));
    let third = world.register();
    assert_eq!(world.driver().node.stats(Nanos(0)).sessions.open, 2);
    // `second` was registered after `first`, but `first` was used after that.
    let evicted = world.refusal(&session_put(second, 1, 1, "k", "second"));
    assert_eq!((evicted.code, evicted.effect), (ErrorCode::UnknownSession, Fate::Unknown));
    assert_eq!(world.value("k").unwrap().1, "first");
    assert!(matches!(
        world.write(&session_put(third, 1, 1, "k", "third")),
        Response::Written { .. }
    ));
    world.crash(CrashKind::PowerLoss);
    let evicted = world.refusal(&session_put(second, 1, 1, "k", "second"));
    assert_eq!(evicted.code, ErrorCode::UnknownSession, "for good");
    assert!(matches!(
        world.write(&session_put(first, 2, 1, "k", "again")),
        Response::Written { .. }
    ));
}

#[test]
fn no_read_shows_the_rows_of_sessions() {
    let mut world = World::up(4, 4);
    let id = world.register();
    world.write(&session_put(id, 1, 1, "k", "v"));
    let whole = ScanRequest::new(ScanRange::Range { start: b"", end: b"" });
    let prefix = ScanRequest::new(ScanRange::Prefix(RESERVED_KEY_PREFIX));
    for (range, keys) in [(whole, vec![Bytes::from("k")]), (prefix, vec![])] {
        let Response::Scan(page) = world.ask(Request::Scan(range)) else { panic!() };
        let found: Vec<Bytes> = page.entries.into_iter().map(|entry| entry.key).collect();
        assert_eq!((found, page.resume), (keys, None));
    }
}

/// Clients with pipelined, lost, and repeated writes, and a node that crashes: in the end every write that was ever
/// answered has one answer, and every counter has counted each of its writes once.
#[test]
fn random_retries_through_crashes_apply_every_write_once() {
    for seed in 0..25 {
        println!("seed {seed}");
        let mut world = World::up(seed, 8);
        let mut random = SimRandom::new(seed ^ 0x5e55);
        let ids: Vec<u64> = (0..4).map(|_| world.register()).collect();
        let mut answers: BTreeMap<(u64, u64), Response> = BTreeMap::new();
        let mut next = vec![1u64; ids.len()];
        for _ in 0..80 {
            let client = random.below(4) as usize;
            let id = ids[client];
            let oldest_open =
                (1..).find(|s| !answers.contains_key(&(id, *s))).expect("some write is open");
            if random.chance(1, 2) && next[client] < oldest_open + 6 {
                next[client] += 1;
            }
            // Everything that is open is sent (again), in any order, some of it twice.
            let mut tries = Vec::new();
            for _ in 0..random.below(6) {
                let sequence = oldest_open + random.below(next[client] - oldest_open + 1);
                // The key tells how often it was written: its sequence number changes every time.
                let key = format!("c{client}w{sequence}");
                let batch = session_put(id, sequence, oldest_open, &key, "once");
                tries.push((sequence, world.send(request(&batch))));
                next[client] = next[client].max(sequence + 1);
            }
            match random.below(10) {
                0 => {
                    world.driver().turn();
                    world.crash(CrashKind::PowerLoss);
                }
                1 => {
                    world.driver().turn();
                    world.driver().run_lane(crate::env::Lane::Log);
                    world.crash(CrashKind::Process);
                }
                _ => world.driver().settle(),
            }
            for (sequence, origin) in tries {
                // Lost in a crash, or by the client.
                let Some(reply) = world.driver().take_reply(origin).filter(|_| random.chance(2, 3))
                else {
                    continue;
                };
                assert!(matches!(reply, Response::Written { .. }), "{reply:?}");
                let before = answers.insert((id, sequence), reply.clone());
                assert!(before.is_none_or(|before| before == reply), "{sequence}: two answers");
            }
        }
        for ((id, sequence), answer) in answers {
            let client = ids.iter().position(|i| *i == id).unwrap();
            let Response::Written { last_seq, .. } = answer else { unreachable!() };
            let found = world.value(&format!("c{client}w{sequence}"));
            assert_eq!(found, Some((last_seq.0, Bytes::from("once"))), "written again later");
        }
        world.driver().pass(1_000);
        let node = &world.driver().node;
        let rows = node.machine().internal_rows().unwrap();
        let mirror = Replicated::from_rows(8, &rows).unwrap();
        assert_eq!(mirror.session_stats(), node.stats(Nanos(0)).sessions);
    }
}
