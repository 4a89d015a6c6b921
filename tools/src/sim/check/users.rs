//! [`Users`]: a handful of logical clients that write, read, scan, retry, and believe nothing: every answer goes to
//! [`History`], which judges it.
//!
//! | client | writes | in flight | after an unknown outcome |
//! |---|---|---|---|
//! | even | under a session (`Session`) | up to `PIPELINE` | sends the same write again, elsewhere, until it is answered |
//! | odd | without one | one | forgets it: it may take effect at any time, or never |
//!
//! Few keys, so that clients meet; unique values, so that a read names the write it saw. Now and then a client with a
//! session sends a write twice at once, to two nodes (a hedge), which must come to the same.

use super::history::{Fate, Floor, GOODBYE, History};
use super::model::WriteId;
use super::register::Action;
use crate::sim::hooks::{ClientPort, Clients, Setup, Violation};
use beachdb::base::batch::{BatchRef, WriteBatch};
use beachdb::base::conditions::Expect;
use beachdb::base::{LogIndex, Nanos, SequenceNumber};
use beachdb::env::sim::SimRandom;
use beachdb::node::Origin;
use beachdb::proto::{
    Effect, ErrorCode, ErrorReply, KeyList, MultiGetReply, Opcode, Registered, Request, Response,
    ScanRange, ScanReply, ScanRequest,
};
use bytes::Bytes;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

/// Logical clients.
pub const CLIENTS: usize = 8;
/// Writes that a client with a session has in flight.
pub const PIPELINE: usize = 3;
/// Keys; all clients use all of them.
pub const KEYS: u64 = 12;
/// Mean time between two operations of a client that begins when the one before is done.
const THINK_MS: u64 = 80;
/// How long a client tries one operation.
const GIVES_UP_MS: u64 = 15_000;
/// How long after the request's deadline a client waits for an answer.
const PATIENCE_MS: u64 = 300;
/// Entries wanted in a page of a scan.
const PAGE: u32 = 4;

/// See the module.
pub struct Users {
    history: Rc<RefCell<History>>,
    nodes: u64,
    clients: Vec<Client>,
    /// What waits for an answer: which client, which of its operations.
    waiting: BTreeMap<Origin, (usize, u64)>,
    operations: u64,
    stopped: bool,
    next_at: Nanos,
}

struct Client {
    number: usize,
    random: SimRandom,
    session: Option<Session>,
    sessions: bool,
    /// The slot that answered last.
    target: usize,
    connections: BTreeMap<usize, u64>,
    last_request: u64,
    next_operation: Nanos,
    operations: BTreeMap<u64, Operation>,
    /// What each key had when it was last read: what a compare-and-set expects.
    seen: BTreeMap<Bytes, Expect>,
}

/// A session, as a careful client keeps it.
struct Session {
    id: u64,
    window: u64,
    next: u64,
    /// Sequences that are not answered yet.
    open: std::collections::BTreeSet<u64>,
}

struct Operation {
    what: What,
    /// When it was first sent: the moment, and what was acknowledged before.
    began: Option<(u64, Floor)>,
    gives_up: Nanos,
    /// Attempts without an answer, each with the time when its client stops waiting.
    attempts: Vec<(Origin, Nanos)>,
    /// When the next attempt is due, if none is in flight.
    retry_at: Nanos,
    /// An attempt ended without saying whether it was applied.
    unknown: bool,
}

enum What {
    Register,
    Write {
        /// Key, the value's number and bytes; `None` deletes.
        changes: Vec<(Bytes, Option<(u64, Bytes)>)>,
        /// Not each key of `changes` by itself but all keys of these numbers are deleted, at once.
        range: Option<Range<u64>>,
        /// What must be true of a key.
        condition: Option<(Bytes, Expect)>,
        /// Session and sequence.
        session: Option<(u64, u64)>,
    },
    /// Keys of these numbers, all at one moment.
    MultiGet(Vec<Bytes>),
    Get {
        key: Bytes,
        /// As of then; `None`: now.
        at: Option<SequenceNumber>,
    },
    Scan {
        /// Numbers of keys.
        keys: Range<u64>,
        /// After the first page: the snapshot, and where to go on.
        next: Option<(SequenceNumber, Vec<u8>)>,
    },
}

/// The key with this number.
fn key(number: u64) -> Bytes {
    Bytes::from(format!("key-{number:02}"))
}

/// What a value says about the write that it came from.
fn number_of(value: &[u8]) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(value.get(..16)?).ok()?, 16).ok()
}

const fn millis(ms: u64) -> u64 {
    ms * 1_000_000
}

impl Users {
    /// For one run.
    #[must_use]
    pub fn new(setup: &Setup, history: Rc<RefCell<History>>) -> Self {
        let mut random = SimRandom::new(setup.seed ^ 0x5e_55_10_45);
        let clients = (0..CLIENTS)
            .map(|number| Client {
                number,
                random: random.fork(),
                session: None,
                sessions: number % 2 == 0,
                target: random.below(setup.nodes as u64) as usize,
                connections: BTreeMap::new(),
                last_request: 0,
                next_operation: Nanos(millis(1 + random.below(THINK_MS))),
                operations: BTreeMap::new(),
                seen: BTreeMap::new(),
            })
            .collect();
        Self {
            history,
            nodes: setup.nodes as u64,
            clients,
            waiting: BTreeMap::new(),
            operations: 0,
            stopped: false,
            next_at: Nanos::ZERO,
        }
    }

    fn plan(&mut self) {
        let times = self.clients.iter().flat_map(|client| {
            let idle = !self.stopped && client.has_room();
            let operations = client.operations.values().map(Operation::next_at);
            operations.chain(idle.then_some(client.next_operation))
        });
        self.next_at = times.min().unwrap_or(Nanos::MAX);
    }

    fn act_of(&mut self, at: usize, port: &mut dyn ClientPort) {
        let now = port.now();
        let client = &mut self.clients[at];
        if !self.stopped && client.has_room() && client.next_operation <= now {
            self.operations += 1;
            client.begin(self.operations, now, self.history.borrow().floor().seq);
        }
        let ids: Vec<u64> = self.clients[at].operations.keys().copied().collect();
        for id in ids {
            let Some(operation) = self.clients[at].operations.get(&id) else { continue };
            if let Some(&(late, _)) = operation.attempts.iter().find(|(_, until)| *until <= now) {
                port.close(late.conn);
                self.connection_gone(late.conn, now);
            }
            self.attempt(at, id, port);
        }
    }

    /// Sends an attempt when one is due, or gives the operation up.
    fn attempt(&mut self, at: usize, id: u64, port: &mut dyn ClientPort) {
        let now = port.now();
        let client = &mut self.clients[at];
        let Some(operation) = client.operations.get_mut(&id) else { return };
        let due = operation.retry_at.min(operation.gives_up) <= now;
        if !operation.attempts.is_empty() || !due {
            return;
        }
        let lost = matches!(operation.what, What::Write { session: None, .. }) && operation.unknown;
        if lost || now >= operation.gives_up {
            self.give_up(at, id);
            return;
        }
        let mut slots = vec![client.choose(id, self.nodes)];
        let hedge = matches!(client.operations[&id].what, What::Write { session: Some(_), .. });
        if hedge && self.nodes > 1 && client.random.chance(1, 25) {
            slots.push((slots[0] + 1) % self.nodes as usize);
        }
        for slot in slots {
            let origin = client.send(id, slot, port, &mut self.history.borrow_mut());
            self.waiting.insert(origin, (at, id));
        }
    }

    fn give_up(&mut self, at: usize, id: u64) {
        let client = &mut self.clients[at];
        let Some(operation) = client.operations.remove(&id) else { return };
        for (origin, _) in operation.attempts {
            self.waiting.remove(&origin);
        }
        if let What::Write { session, .. } = operation.what {
            let fate = if operation.unknown { Fate::Unknown } else { Fate::Never };
            self.history.borrow_mut().end(id, fate);
            // Nothing may be written under a session one of whose writes is in doubt and forgotten.
            if session.is_some() && session.map(|s| s.0) == client.session.as_ref().map(|s| s.id) {
                client.session = None;
            }
        }
    }

    fn connection_gone(&mut self, conn: u64, now: Nanos) {
        for client in &mut self.clients {
            client.connections.retain(|_, c| *c != conn);
            for operation in client.operations.values_mut() {
                let before = operation.attempts.len();
                operation.attempts.retain(|(origin, _)| origin.conn != conn);
                if operation.attempts.len() < before {
                    operation.unknown = true;
                    operation.retry_at = now.plus(millis(20 + client.random.below(200)));
                    client.target = client.random.below(self.nodes) as usize;
                }
            }
        }
        self.waiting.retain(|origin, _| origin.conn != conn);
    }

    fn answer(&mut self, origin: Origin, response: &Response, now: Nanos) {
        let Some((at, id)) = self.waiting.remove(&origin) else { return };
        let client = &mut self.clients[at];
        let Some(operation) = client.operations.get_mut(&id) else { return };
        operation.attempts.retain(|(o, _)| *o != origin);
        let slot = client.connections.iter().find(|(_, c)| **c == origin.conn).map(|(s, _)| *s);
        let mut history = self.history.borrow_mut();
        let done = match response {
            Response::Error(error) => client.refused(id, error, now, self.nodes, &mut history),
            response => {
                client.target = slot.unwrap_or(client.target);
                client.accepted(id, response, now, &mut history)
            }
        };
        drop(history);
        match done {
            Next::Wait => {}
            Next::Done => {
                let Some(operation) = client.operations.remove(&id) else { return };
                for (origin, _) in operation.attempts {
                    self.waiting.remove(&origin);
                }
                if let What::Write { session: Some((session, sequence)), .. } = operation.what {
                    client.acknowledged(session, sequence);
                }
            }
            Next::GiveUp => self.give_up(at, id),
        }
    }
}

/// What to do with an operation after an answer.
enum Next {
    /// It goes on, or another attempt is in flight.
    Wait,
    /// It has its answer.
    Done,
    /// It will never have one.
    GiveUp,
}

impl Operation {
    fn next_at(&self) -> Nanos {
        let answers = self.attempts.iter().map(|(_, until)| *until).min();
        answers.unwrap_or_else(|| self.retry_at.min(self.gives_up))
    }
}

impl Client {
    fn has_room(&self) -> bool {
        let most = if self.sessions { PIPELINE } else { 1 };
        self.operations.len() < most
    }

    fn begin(&mut self, id: u64, now: Nanos, newest: SequenceNumber) {
        self.next_operation = now.plus(millis(self.random.below(2 * THINK_MS)));
        let what = self.choose_operation(id, newest);
        let operation = Operation {
            what,
            began: None,
            gives_up: now.plus(millis(GIVES_UP_MS)),
            attempts: Vec::new(),
            retry_at: now,
            unknown: false,
        };
        self.operations.insert(id, operation);
    }

    /// `newest`: the highest place acknowledged so far.
    fn choose_operation(&mut self, id: u64, newest: SequenceNumber) -> What {
        let dice = self.random.below(100);
        if dice < 25 {
            let back = SequenceNumber(1 + self.random.below(1_500));
            let at = (dice < 3 && newest > back).then(|| SequenceNumber(newest.0 - back.0));
            return What::Get { key: key(self.random.below(KEYS)), at };
        }
        if dice < 30 {
            let keys = (0..2 + self.random.below(4)).map(|_| key(self.random.below(KEYS)));
            return What::MultiGet(keys.collect());
        }
        if dice < 37 {
            let (a, b) = (self.random.below(KEYS), self.random.below(KEYS));
            return What::Scan { keys: a.min(b)..a.max(b) + 1, next: None };
        }
        if self.sessions && (self.session.is_none() || self.random.chance(1, 300)) {
            let registers = |o: &Operation| matches!(o.what, What::Register);
            if !self.operations.values().any(registers) {
                return What::Register;
            }
            return What::Get { key: key(self.random.below(KEYS)), at: None };
        }
        let changes = match dice {
            37..50 => 2 + self.random.below(3),
            _ => 1,
        };
        let first = self.random.below(KEYS);
        // Mostly of the first key that is written, as of the last time this client saw it.
        let seen = |(key, expect): (&Bytes, &Expect)| (key.clone(), *expect);
        let condition = match self.random.below(12) {
            0..=3 => self.seen.get_key_value(&key(first)).map(seen),
            4 => self.seen.iter().nth(self.random.below(KEYS) as usize).map(seen),
            5 => Some((key(self.random.below(KEYS)), Expect::Exists)),
            _ => None,
        };
        let changes: Vec<_> = (0..changes)
            .map(|at| {
                let delete = self.random.chance(1, 6);
                let value = (!delete).then(|| self.value(id << 8 | at));
                (key((first + at * 5) % KEYS), value)
            })
            .collect();
        // Now and then all keys of a range, in one operation.
        let range = (changes.len() == 1 && self.random.chance(1, 12)).then(|| {
            let end = (first + 1 + self.random.below(6)).min(KEYS);
            first..end
        });
        let changes = match &range {
            Some(range) => range.clone().map(|number| (key(number), None)).collect(),
            None => changes,
        };
        What::Write { changes, range, condition, session: self.next_sequence() }
    }

    fn value(&mut self, number: u64) -> (u64, Bytes) {
        let padding = match self.random.below(20) {
            0 => self.random.below(3_000),
            _ => self.random.below(100),
        };
        let mut text = format!("{number:016x}");
        text.extend(std::iter::repeat_n('.', padding as usize));
        (number, Bytes::from(text))
    }

    fn next_sequence(&mut self) -> Option<(u64, u64)> {
        let session = self.session.as_mut()?;
        let sequence = session.next;
        session.next += 1;
        session.open.insert(sequence);
        Some((session.id, sequence))
    }

    /// Everything below the lowest open sequence needs no outcome any more.
    fn acknowledged(&mut self, id: u64, sequence: u64) {
        if let Some(session) = self.session.as_mut().filter(|s| s.id == id) {
            session.open.remove(&sequence);
        }
    }

    fn acked_below(&self, id: u64, sequence: u64) -> u64 {
        let session = self.session.as_ref().filter(|s| s.id == id);
        let lowest = session.and_then(|s| s.open.first().copied()).unwrap_or(sequence);
        let window = session.map_or(1, |s| s.window);
        lowest.min(sequence).max((sequence + 1).saturating_sub(window))
    }

    /// Reads go anywhere, the rest where the leader was last.
    fn choose(&mut self, id: u64, nodes: u64) -> usize {
        let read = match &self.operations[&id].what {
            What::Get { .. } | What::MultiGet(_) => true,
            What::Scan { next, .. } => next.is_none(),
            _ => false,
        };
        if read && self.random.chance(1, 3) {
            return self.random.below(nodes) as usize;
        }
        self.target
    }

    fn send(
        &mut self,
        id: u64,
        slot: usize,
        port: &mut dyn ClientPort,
        history: &mut History,
    ) -> Origin {
        let conn = *self.connections.entry(slot).or_insert_with(|| port.connect(slot));
        self.last_request += 1;
        let origin = Origin { conn, request_id: self.last_request };
        let deadline_ms = 100 + self.random.below(1_900) as u32;
        let until = port.now().plus(millis(u64::from(deadline_ms) + PATIENCE_MS));
        let batch = self.batch(id);
        let Some(operation) = self.operations.get_mut(&id) else { return origin };
        operation.attempts.push((origin, until));
        operation.start(id, history);
        let (range, list);
        let request = match &operation.what {
            What::Register => Request::Register,
            What::Get { key, at } => {
                Request::Get { key, snapshot: at.unwrap_or(SequenceNumber::ZERO) }
            }
            What::Scan { keys, next } => {
                range = (key(keys.start), key(keys.end));
                let mut scan =
                    ScanRequest::new(ScanRange::Range { start: &range.0, end: &range.1 });
                scan.limit = PAGE;
                if let Some((snapshot, resume)) = next {
                    (scan.snapshot, scan.resume) = (*snapshot, resume);
                }
                Request::Scan(scan)
            }
            What::MultiGet(keys) => {
                list = KeyList::of(keys.iter().map(|key| &key[..])).expect("within the limits");
                Request::MultiGet(list.as_request(SequenceNumber::ZERO))
            }
            What::Write { changes, range, session, .. } => {
                let batch = BatchRef::parse(batch.as_bytes()).expect("built just now");
                history.sent(WriteId::of(batch));
                if session.is_some() && operation.unknown {
                    history.marks.add(super::marks::WRITE_RETRIED, 1);
                }
                let opcode = match (changes.len(), &changes[0].1) {
                    _ if range.is_some() => Opcode::Write,
                    (1, Some(_)) => Opcode::Put,
                    (1, None) => Opcode::Delete,
                    _ => Opcode::Write,
                };
                Request::Write { opcode, batch }
            }
        };
        port.send(conn, origin.request_id, &request, deadline_ms);
        origin
    }

    fn batch(&self, id: u64) -> WriteBatch {
        let mut batch = WriteBatch::new();
        let Some(Operation { what: What::Write { changes, range, condition, session }, .. }) =
            self.operations.get(&id)
        else {
            return batch;
        };
        if let Some((session, sequence)) = *session {
            batch.set_client(session, sequence, self.acked_below(session, sequence));
        }
        if let Some((key, expect)) = condition {
            batch.require(key, *expect).expect("within the limits");
        }
        if let Some(range) = range {
            batch.delete_range(&key(range.start), &key(range.end)).expect("within the limits");
            return batch;
        }
        for (key, value) in changes {
            let added = match value {
                Some((_, value)) => batch.put(key, value),
                None => batch.delete(key),
            };
            added.expect("within the limits");
        }
        batch
    }

    /// An answer that is not an error.
    fn accepted(
        &mut self,
        id: u64,
        response: &Response,
        now: Nanos,
        history: &mut History,
    ) -> Next {
        let batch = self.batch(id);
        let Some(operation) = self.operations.get_mut(&id) else { return Next::Done };
        let Some((call, floor)) = operation.began else { return Next::Done };
        match (&mut operation.what, response) {
            (What::Register, Response::Registered(Registered { client_id, window, .. })) => {
                history.registered(LogIndex(*client_id), floor);
                self.session = Some(Session {
                    id: *client_id,
                    window: u64::from(*window),
                    next: 1,
                    open: std::collections::BTreeSet::new(),
                });
                Next::Done
            }
            (
                What::Write { condition, changes, range, .. },
                Response::Written { index, first_seq, last_seq },
            ) => {
                history.marks.add(super::marks::CONDITION_HELD, condition.is_some().into());
                history.marks.add(super::marks::RANGE_DELETED, range.is_some().into());
                for ((key, value), seq) in changes.iter().zip(first_seq.0..) {
                    let expect = match value {
                        Some(_) => Expect::Seq(SequenceNumber(seq)),
                        None => Expect::Absent,
                    };
                    self.seen.insert(key.clone(), expect);
                }
                let batch = BatchRef::parse(batch.as_bytes()).expect("built just now");
                history.written(WriteId::of(batch), floor, *index, *first_seq, *last_seq);
                history.end(id, Fate::Applied);
                Next::Done
            }
            (
                What::Get { at: Some(at), .. },
                Response::Value { applied, .. } | Response::NotFound { applied },
            ) if at != applied => {
                let what = format!("client {} asked as of {at}: {response:?}", self.number);
                history.judge(Err(Violation::new("answers-fit-their-questions", what)));
                Next::Done
            }
            (What::Get { key, at: Some(at) }, Response::Value { seq, value, .. }) => {
                let verdict = history.model.check_get(key, *at, Some((*seq, value)));
                history.judge(verdict);
                history.marks.add(super::marks::OLD_READ, 1);
                Next::Done
            }
            (What::Get { key, at: Some(at) }, Response::NotFound { .. }) => {
                let verdict = history.model.check_get(key, *at, None);
                history.judge(verdict);
                Next::Done
            }
            (What::MultiGet(keys), Response::Values(reply)) => {
                multi_got(history, keys, (call, floor), reply);
                for (key, found) in keys.iter().zip(&reply.values) {
                    let expect =
                        found.as_ref().map_or(Expect::Absent, |(seq, _)| Expect::Seq(*seq));
                    self.seen.insert(key.clone(), expect);
                }
                Next::Done
            }
            (What::Get { key, at: None }, Response::Value { seq, applied, value }) => {
                self.seen.insert(key.clone(), Expect::Seq(*seq));
                let verdict = history.model.check_get(key, *applied, Some((*seq, value)));
                history.judge(verdict);
                read(history, key, (call, floor), *applied, Some(value));
                Next::Done
            }
            (What::Get { key, at: None }, Response::NotFound { applied }) => {
                self.seen.insert(key.clone(), Expect::Absent);
                let verdict = history.model.check_get(key, *applied, None);
                history.judge(verdict);
                read(history, key, (call, floor), *applied, None);
                Next::Done
            }
            (What::Scan { keys, next }, Response::Scan(page)) => {
                let more = scanned(history, keys, next, (call, floor), page);
                operation.retry_at = now;
                if more { Next::Wait } else { Next::Done }
            }
            (_, response) => {
                let what = format!("client {} got {response:?}", self.number);
                history.judge(Err(Violation::new("answers-fit-their-questions", what)));
                Next::Done
            }
        }
    }

    fn refused(
        &mut self,
        id: u64,
        error: &ErrorReply,
        now: Nanos,
        nodes: u64,
        history: &mut History,
    ) -> Next {
        let batch = self.batch(id);
        let backoff = u64::from(error.retry_after_ms.min(500)) + self.random.below(120);
        if error.code == ErrorCode::NotLeader || self.random.chance(1, 4) {
            self.target = self.random.below(nodes) as usize;
        }
        let Some(operation) = self.operations.get_mut(&id) else { return Next::Done };
        operation.retry_at = now.plus(millis(backoff));
        if let Some(at) = &error.condition {
            let batch = BatchRef::parse(batch.as_bytes()).expect("built just now");
            let id_of = WriteId::of(batch);
            history.refused(id_of);
            let verdict = history.model.check_failed(id_of, **at);
            history.judge(verdict);
            if let Some((_, floor)) = operation.began {
                history.read_at(floor, at.applied);
            }
            if let What::Write { condition: Some((key, _)), .. } = &operation.what {
                // The refusal says what the key has: the next try expects that, as a careful client's would.
                let expect = at.failed.present.map_or(Expect::Absent, Expect::Seq);
                self.seen.insert(key.clone(), expect);
            }
            history.marks.add(super::marks::CONDITION_FAILED, 1);
            // Also of the tries without an answer: a session remembers it, and without one this was the only try.
            history.end(id, Fate::Never);
            return Next::Done;
        }
        let What::Write { session, .. } = &operation.what else {
            // The snapshot is gone, or this node has not reached it yet.
            let gone = matches!(error.code, ErrorCode::SnapshotTooOld | ErrorCode::BadRequest);
            return if gone { Next::GiveUp } else { Next::Wait };
        };
        match error.effect {
            Effect::NotApplied | Effect::None => {
                let batch = BatchRef::parse(batch.as_bytes()).expect("built just now");
                history.refused(WriteId::of(batch));
            }
            Effect::Unknown => operation.unknown = true,
            Effect::Applied => {
                history.end(id, Fate::Applied);
                return Next::Done;
            }
        }
        let over = match error.code {
            ErrorCode::SessionWindowFull => false,
            code => !code.retryable(),
        };
        let lost = session.is_none() && operation.unknown;
        if operation.attempts.is_empty() && (over || lost) { Next::GiveUp } else { Next::Wait }
    }
}

impl Operation {
    /// A write begins when it is first sent. An attempt at a read is a read of its own.
    fn start(&mut self, id: u64, history: &mut History) {
        let again = match &self.what {
            What::Get { .. } | What::MultiGet(_) => true,
            What::Scan { next, .. } => next.is_none(),
            _ => false,
        };
        if self.began.is_some() && !again {
            return;
        }
        let call = history.moment();
        if let (None, What::Write { changes, .. }) = (self.began, &self.what) {
            let writes = changes.iter().map(|(k, v)| (k.to_vec(), v.as_ref().map(|v| v.0)));
            history.begin(id, call, writes.collect());
        }
        self.began = Some((call, history.floor()));
    }
}

fn read(
    history: &mut History,
    key: &[u8],
    (call, floor): (u64, Floor),
    applied: SequenceNumber,
    value: Option<&Bytes>,
) {
    history.read_at(floor, applied);
    let ret = history.moment();
    let found = value.map(|v| number_of(v).unwrap_or(u64::MAX));
    history.record(key, call, Some(ret), Action::Read(found));
}

/// Several keys, all at one place of the total order.
fn multi_got(
    history: &mut History,
    keys: &[Bytes],
    (call, floor): (u64, Floor),
    reply: &MultiGetReply,
) {
    history.marks.add(super::marks::MULTI_GET, 1);
    if reply.values.len() != keys.len() {
        let what = format!("{} keys asked, {} values", keys.len(), reply.values.len());
        return history.judge(Err(Violation::new("answers-fit-their-questions", what)));
    }
    history.read_at(floor, reply.at);
    let ret = history.moment();
    for (key, found) in keys.iter().zip(&reply.values) {
        let found = found.as_ref().map(|(seq, value)| (*seq, value));
        let verdict = history.model.check_get(key, reply.at, found);
        history.judge(verdict);
        let found = found.map(|(_, value)| number_of(value).unwrap_or(u64::MAX));
        history.record(key, call, Some(ret), Action::Read(found));
    }
}

/// A page; whether there is more.
fn scanned(
    history: &mut History,
    keys: &Range<u64>,
    next: &mut Option<(SequenceNumber, Vec<u8>)>,
    (call, floor): (u64, Floor),
    page: &ScanReply,
) -> bool {
    let (first, last) = (key(keys.start), key(keys.end));
    let start = next.as_ref().map_or(first.to_vec(), |(_, resume)| resume.clone());
    let end = page.resume.clone().unwrap_or_else(|| last.to_vec());
    let verdict = history.model.check_scan(&start, Some(&end), page.snapshot, &page.entries);
    history.judge(verdict);
    match next {
        Some((snapshot, _)) => {
            if *snapshot != page.snapshot {
                let what = format!("asked for snapshot {snapshot}, got {}", page.snapshot);
                history.judge(Err(Violation::new("answers-fit-their-questions", what)));
            }
            if page.applied > page.snapshot {
                history.marks.add(super::marks::OLD_SNAPSHOT_PAGE, 1);
            }
        }
        None => {
            history.read_at(floor, page.snapshot);
            let ret = history.moment();
            for key in keys.clone().map(key).filter(|k: &Bytes| k[..] < end[..]) {
                let entry = page.entries.iter().find(|e| e.key == key);
                let found = entry.map(|e| number_of(&e.value).unwrap_or(u64::MAX));
                history.record(&key, call, Some(ret), Action::Read(found));
            }
        }
    }
    *next = page.resume.clone().map(|resume| (page.snapshot, resume));
    next.is_some()
}

impl Clients for Users {
    fn next_at(&self) -> Nanos {
        self.next_at
    }

    fn act(&mut self, port: &mut dyn ClientPort) {
        for at in 0..self.clients.len() {
            self.act_of(at, port);
        }
        self.plan();
    }

    fn reply(&mut self, origin: Origin, response: &Response, port: &mut dyn ClientPort) {
        self.answer(origin, response, port.now());
        self.plan();
    }

    fn closed(&mut self, conn: u64, port: &mut dyn ClientPort) {
        self.connection_gone(conn, port.now());
        self.plan();
    }

    fn goodbye(&mut self, conn: u64, port: &mut dyn ClientPort) {
        let message = "the server shuts down; requests without an answer were not taken";
        let error = ErrorReply::new(ErrorCode::ShuttingDown, Effect::NotApplied, message);
        let goodbye = Response::Error(error);
        let asked = self.waiting.keys().filter(|origin| origin.conn == conn);
        for origin in asked.copied().collect::<Vec<_>>() {
            self.history.borrow_mut().marks.add(GOODBYE, 1);
            self.answer(origin, &goodbye, port.now());
        }
        self.connection_gone(conn, port.now());
        self.plan();
    }

    fn stop(&mut self) {
        self.stopped = true;
        self.plan();
    }

    fn acknowledged(&self) -> u64 {
        self.history.borrow().acknowledged
    }
}
