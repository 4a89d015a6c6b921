//! The world: N machines with real nodes on them, a network, clients, and one queue of events ordered by (virtual
//! time, sequence number). One thread, one seed, no other source of anything.
//!
//! ```text
//!             ┌───────────── events by (time, sequence) ──────────────┐
//!             ▼                                                       │
//!  arrival ─► inbox of a slot ─► turn: step each item, tick if due, EndOfTurn ─► effects ─► network, clients
//!                                                │                                            (later arrivals)
//!                                                └─► new jobs ─► lane: run at one time, reported at a later one
//! ```
//!
//! A turn is what the server's loop does between two waits: whatever arrived while the last turn was running is
//! taken together. A job's I/O happens when it *runs*; a crash between that and its report is a write that
//! nobody learned of.
//!
//! What it does not do: it decides nothing about right and wrong (observers do, [`super::hooks`]) and nothing about when
//! what fails ([`super::faults`], carried out in [`super::strike`]).

use super::faults::TimedFault;
use super::hooks::{
    Appended, ClientPort, Clients, Harness, Observer, Setup, SimNode, SlotState, SlotView, Step,
    StepKind, StopKind, Verdict, Violation, WorldView, first_incarnation,
};
use super::links::{LinkEvent, Links};
use super::net::Net;
use super::operator::Operator;
use super::shape::{Begin, RunOptions, Shape, between};
use super::slot::{CrashPlan, Health, Item, Slot};
use super::trace::Tracer;
use beachdb::base::{ClusterUid, LogIndex, Membership, Nanos};
use beachdb::env::sim::{CrashKind, SimRandom};
use beachdb::env::{Completion, Jobs, Lane};
use beachdb::node::{Bootstrap, Effect, Event, FatalError, Node, OpenError, Origin};
use beachdb::proto::{Request, Response, frame};
use beachdb::raft::Message;
use beachdb::raft::message::Body;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// Connections with this bit are the operator's.
pub const OPERATOR_CONN: u64 = 1 << 63;
const CRC: frame::CrcPolicy = frame::CrcPolicy::OptionalOnLoopback;
/// Clients act this long after what made them act.
const CLIENT_GRAIN_NS: u64 = 1_000;
/// A closed connection is told to the client after this long at most.
pub(super) const CLOSE_DELAY_NS: u64 = 20_000_000;

/// What happens at a time.
pub(super) enum What {
    Turn { slot: usize, life: u64 },
    Wake { slot: usize, life: u64 },
    RunJob { slot: usize, life: u64, lane: Lane, report_at: Nanos },
    JobDone { slot: usize, life: u64, done: Completion },
    Deliver(Box<Message>),
    Link(LinkEvent),
    Unreachable { slot: usize, life: u64, peer: usize },
    Request { conn: u64, frame: Vec<u8> },
    CloseAtNode { conn: u64 },
    CloseAtClient { conn: u64 },
    Goodbye { conn: u64 },
    Reply { origin: Origin, response: Box<Response> },
    Clients,
    Operator,
    Fault(usize),
    Start { slot: usize, life: u64 },
    Undo(super::strike::Undo),
}

struct Scheduled {
    at: Nanos,
    seq: u64,
    what: What,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.seq == other.seq
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.seq).cmp(&(other.at, other.seq))
    }
}

/// A client's connection.
pub(super) struct Conn {
    pub(super) slot: usize,
    /// Of the process it reached; 0 before the first request arrived.
    pub(super) life: u64,
    last_in: Nanos,
    pub(super) last_out: Nanos,
    /// Its last word is on its way.
    pub(super) leaving: bool,
}

/// Everything but who judges and who uses.
pub struct Core {
    pub(super) shape: Shape,
    pub(super) now: Nanos,
    seq: u64,
    heap: BinaryHeap<Reverse<Scheduled>>,
    pub(super) slots: Vec<Slot>,
    pub(super) net: Net,
    /// Where the cluster forms itself.
    pub(super) links: Option<Links>,
    pub(super) random: SimRandom,
    pub(super) tracer: Tracer,
    pub(super) faults: Vec<TimedFault>,
    pub(super) struck: BTreeMap<&'static str, u64>,
    pub(super) operator: Operator,
    pub(super) conns: BTreeMap<u64, Conn>,
    next_conn: u64,
    clients_at: Nanos,
    pub(super) first_members: Membership,
    pub(super) calm: bool,
    /// A majority has committed something: there is a cluster, and it can spare a minority.
    pub(super) established: bool,
    /// A disk was lost before there was a cluster.
    pub(super) lost_early: bool,
    /// Nodes are made clusters of their own, and nobody changes members.
    pub(super) recovers: bool,
}

/// See the module.
pub struct World {
    pub(super) core: Core,
    pub(super) observer: Box<dyn Observer>,
    pub(super) clients: Box<dyn Clients>,
    effects: Vec<Effect>,
}

impl WorldView for Core {
    fn now(&self) -> Nanos {
        self.now
    }
    fn slots(&self) -> usize {
        self.slots.len()
    }
    fn slot(&self, slot: usize) -> SlotView<'_> {
        self.slots[slot].view()
    }
}

impl Core {
    pub(super) fn at(&mut self, at: Nanos, what: What) {
        let seq = self.seq;
        self.seq += 1;
        self.heap.push(Reverse(Scheduled { at: at.max(self.now), seq, what }));
    }

    pub(super) fn after(&mut self, ns: u64, what: What) {
        self.at(self.now.plus(ns), what);
    }

    pub(super) fn note(&self, text: std::fmt::Arguments<'_>) {
        self.tracer.line(self.now, text);
    }

    /// Puts something into a slot's inbox; it is taken in the next turn.
    pub(super) fn give(&mut self, slot: usize, item: Item) {
        if self.slots[slot].is_up() {
            self.slots[slot].inbox.push_back(item);
            self.plan_turn(slot);
        }
    }

    pub(super) fn plan_turn(&mut self, slot: usize) {
        let now = self.now;
        let s = &mut self.slots[slot];
        if s.state == SlotState::Up && s.turn_at.is_none() {
            let at = s.busy_until.max(now);
            s.turn_at = Some(at);
            let life = s.life;
            self.at(at, What::Turn { slot, life });
        }
    }

    /// Gives the lanes' new jobs their times.
    fn plan_jobs(&mut self, slot: usize) {
        for lane in Lane::ALL {
            loop {
                let s = &mut self.slots[slot];
                let queued = s.jobs.queued(lane);
                let state = s.lanes[lane as usize];
                // Reads run side by side, the others one after the other.
                let free = if lane == Lane::Read {
                    queued > state.busy
                } else {
                    queued > 0 && state.busy == 0
                };
                if !free {
                    break;
                }
                let start = self.now.max(state.hung_until);
                let delay = s.job_delay(start, lane, &self.shape);
                s.lanes[lane as usize].busy += 1;
                let life = s.life;
                let run_at = start.plus(self.random.below(delay + 1));
                let report_at = start.plus(delay);
                self.at(run_at, What::RunJob { slot, life, lane, report_at });
            }
        }
    }

    /// Plans the wake-up that the node wants, if none as early is planned.
    fn plan_wake(&mut self, slot: usize) {
        let s = &mut self.slots[slot];
        let Some(local) = s.node.as_ref().and_then(Node::next_wakeup) else { return };
        let at = s.clock.when(local).max(self.now);
        if s.wake_at.is_some_and(|planned| planned <= at) {
            return;
        }
        s.wake_at = Some(at);
        let life = s.life;
        self.at(at, What::Wake { slot, life });
    }

    fn is(&self, slot: usize, life: u64) -> bool {
        self.slots[slot].life == life && self.slots[slot].is_up()
    }

    /// Sends a message of `slot` on its way.
    fn send(&mut self, slot: usize, message: Message) {
        let to = (message.to.node.0 as usize).wrapping_sub(1);
        if to >= self.slots.len() || to == slot {
            return;
        }
        if self.links.is_some() {
            return self.send_linked(slot, to, message);
        }
        let [first, second] = self.net.route(self.now, slot, to);
        if let Some(at) = second {
            self.at(at, What::Deliver(Box::new(message.clone())));
        }
        if let Some(at) = first {
            self.at(at, What::Deliver(Box::new(message)));
        }
    }

    /// A reply begins its way to the client, in order with the others of its connection.
    fn reply(&mut self, slot: usize, origin: Origin, response: Response) {
        if origin.conn & OPERATOR_CONN != 0 {
            self.operator.reply(self.now, &response);
            if origin.conn == super::copies::COPY_CONN {
                self.copy_answered(slot, origin, &response);
            }
            return;
        }
        let delay = between(&mut self.random, self.shape.client_delay);
        let Some(conn) = self.conns.get_mut(&origin.conn) else { return };
        debug_assert_eq!(conn.slot, slot);
        conn.last_out = conn.last_out.max(self.now.plus(delay));
        let at = conn.last_out;
        self.at(at, What::Reply { origin, response: Box::new(response) });
    }

    /// Who is a member when the data directory of this slot is new.
    fn bootstrap(&self, slot: usize) -> Bootstrap {
        if self.slots[slot].joins {
            Bootstrap::Join
        } else if let Some(links) = &self.links {
            links.initial()
        } else {
            Bootstrap::Members(self.first_members.clone())
        }
    }
}

impl ClientPort for Core {
    fn now(&self) -> Nanos {
        self.now
    }

    fn nodes(&self) -> usize {
        self.slots.len()
    }

    fn connect(&mut self, slot: usize) -> u64 {
        let id = self.next_conn;
        self.next_conn += 1;
        let conn = Conn { slot, life: 0, last_in: self.now, last_out: self.now, leaving: false };
        self.conns.insert(id, conn);
        id
    }

    fn send(&mut self, conn: u64, request_id: u64, request: &Request<'_>, deadline_ms: u32) {
        let delay = between(&mut self.random, self.shape.client_delay);
        let Some(c) = self.conns.get_mut(&conn) else { return };
        c.last_in = c.last_in.max(self.now.plus(delay));
        let at = c.last_in;
        let mut bytes = Vec::with_capacity(64);
        if request
            .encode_with_flags(&mut bytes, request_id, deadline_ms, frame::FLAG_NO_CRC)
            .is_ok()
        {
            self.at(at, What::Request { conn, frame: bytes });
        }
    }

    fn close(&mut self, conn: u64) {
        if self.conns.remove(&conn).is_some() {
            let delay = between(&mut self.random, self.shape.client_delay);
            self.after(delay, What::CloseAtNode { conn });
        }
    }
}

impl World {
    /// A world before its first event: all machines are there, no process runs yet.
    #[must_use]
    pub fn new(
        options: &RunOptions,
        plan: Option<Vec<TimedFault>>,
        harness: impl FnOnce(&Setup) -> Harness,
        text: bool,
    ) -> Self {
        let mut root = SimRandom::new(options.seed);
        // One stream for each part, so that the parts do not disturb each other.
        let mut shapes = root.fork();
        let mut faults = root.fork();
        let mut machines = root.fork();
        let network = root.fork();
        let events = root.fork();
        let mut users = root.fork();
        let connections = root.fork();
        let shape = Shape::of(&mut shapes);
        let nodes = options.nodes;
        let plan = plan.unwrap_or_else(|| draw_plan(options, &shape, &mut faults));
        let slots: Vec<Slot> =
            (0..nodes).map(|n| Slot::new(n, first_incarnation(n), &mut machines)).collect();
        let setup = Setup {
            seed: users.below(u64::MAX),
            nodes,
            election_timeout: Nanos(shape.election_timeout_ns),
            duration: Nanos(options.duration_ns()),
            max_sessions: shape.max_sessions,
            begin: options.begin,
        };
        let Harness { observer, clients } = harness(&setup);
        let mut core = Core {
            net: Net::new(nodes, shape.quality, network),
            links: (options.begin != Begin::Given).then(|| Links::new(nodes, connections)),
            first_members: Membership::of_voters(slots.iter().map(|s| s.replica)),
            shape,
            now: Nanos::ZERO,
            seq: 0,
            heap: BinaryHeap::new(),
            slots,
            random: events,
            tracer: Tracer::new(text),
            faults: plan,
            struck: BTreeMap::new(),
            operator: Operator::default(),
            conns: BTreeMap::new(),
            next_conn: 1,
            clients_at: Nanos::MAX,
            calm: false,
            established: options.begin == Begin::Given,
            lost_early: false,
            recovers: options.begin == Begin::Recovers,
        };
        for slot in 0..nodes {
            let mut delay = core.random.below(50_000_000);
            if let Some(links) = core.links.as_mut() {
                delay = links.first_start();
            }
            core.after(delay, What::Start { slot, life: 0 });
        }
        for n in 0..core.faults.len() {
            let at = Nanos::from_millis(core.faults[n].at_ms);
            core.at(at, What::Fault(n));
        }
        core.after(100_000_000, What::Operator);
        Self { core, observer, clients, effects: Vec::new() }
    }

    /// Virtual time.
    #[must_use]
    pub const fn now(&self) -> Nanos {
        self.core.now
    }

    /// Everything that happens up to and at `until`.
    pub fn run_until(&mut self, until: Nanos) -> Verdict {
        self.plan_clients();
        while let Some(Reverse(next)) = self.core.heap.peek() {
            if next.at > until {
                break;
            }
            let Some(Reverse(next)) = self.core.heap.pop() else { break };
            self.core.now = next.at;
            self.happen(next.what)?;
        }
        self.core.now = self.core.now.max(until);
        Ok(())
    }

    fn happen(&mut self, what: What) -> Verdict {
        let now = self.core.now;
        match what {
            What::Turn { slot, life } => {
                if self.core.is(slot, life) {
                    self.core.slots[slot].turn_at = None;
                    self.turn(slot)?;
                }
            }
            What::Wake { slot, life } => {
                let s = &mut self.core.slots[slot];
                // An earlier one may have been planned since; then this one is not the one.
                if s.life == life && s.is_up() && s.wake_at == Some(now) {
                    s.wake_at = None;
                    let local = s.clock.local(now);
                    if s.node.as_ref().and_then(Node::next_wakeup).is_some_and(|at| at <= local) {
                        self.core.plan_turn(slot);
                    } else {
                        self.core.plan_wake(slot);
                    }
                }
            }
            What::RunJob { slot, life, lane, report_at } => {
                if self.core.is(slot, life) {
                    self.run_job(slot, lane, report_at)?;
                }
            }
            What::JobDone { slot, life, done } => {
                if self.core.is(slot, life) {
                    if done.lane != Lane::Read {
                        self.core.slots[slot].lanes[done.lane as usize].busy -= 1;
                    }
                    self.core.give(slot, Item::Job(done));
                    self.core.plan_jobs(slot);
                }
            }
            What::Deliver(message) => {
                let to = message.to.node.0 as usize - 1;
                self.core.give(to, Item::Peer { message, cluster: ClusterUid::NONE });
            }
            What::Link(event) => self.link_happens(event),
            What::Unreachable { slot, life, peer } => {
                if self.core.is(slot, life) {
                    let replica = self.core.slots[peer].replica;
                    self.core.give(slot, Item::Unreachable(replica));
                }
            }
            What::Request { conn, frame } => self.request_arrives(conn, frame),
            What::CloseAtNode { conn } => {
                for slot in 0..self.core.slots.len() {
                    // Numbers are unique: the others do not know it.
                    self.core.give(slot, Item::Closed { conn });
                }
            }
            What::CloseAtClient { conn } => {
                self.clients.closed(conn, &mut self.core);
                self.plan_clients();
            }
            What::Goodbye { conn } => {
                if self.core.conns.remove(&conn).is_some() {
                    self.clients.goodbye(conn, &mut self.core);
                    self.plan_clients();
                }
            }
            What::Reply { origin, response } => {
                if self.core.conns.contains_key(&origin.conn) {
                    self.clients.reply(origin, &response, &mut self.core);
                    self.plan_clients();
                }
            }
            What::Clients if self.core.clients_at == now => {
                self.core.clients_at = Nanos::MAX;
                if self.clients.next_at() <= now {
                    self.clients.act(&mut self.core);
                }
                self.plan_clients();
            }
            // Another one was planned for an earlier time.
            What::Clients => {}
            What::Operator => self.operate(),
            What::Fault(n) => {
                if !self.core.calm {
                    let fault = self.core.faults[n].fault.clone();
                    self.strike(&fault)?;
                }
            }
            What::Start { slot, life } => {
                let s = &self.core.slots[slot];
                if s.life == life && !s.is_up() && !s.held_down {
                    self.start(slot)?;
                }
            }
            What::Undo(undo) => self.undo(undo)?,
        }
        Ok(())
    }

    fn plan_clients(&mut self) {
        // Later than now, so that time goes on whatever clients want.
        let next = self.clients.next_at().max(self.core.now.plus(CLIENT_GRAIN_NS));
        if next < self.core.clients_at && next != Nanos::MAX {
            self.core.clients_at = next;
            self.core.at(next, What::Clients);
        }
    }

    fn request_arrives(&mut self, conn: u64, frame: Vec<u8>) {
        let Some(c) = self.core.conns.get_mut(&conn).filter(|c| !c.leaving) else { return };
        let slot = c.slot;
        let s = &self.core.slots[slot];
        let reached = s.is_up() && (c.life == 0 || c.life == s.life);
        c.life = s.life;
        if reached {
            self.core.give(slot, Item::Request { conn, frame });
        } else {
            // Nobody listens.
            self.core.conns.remove(&conn);
            let delay = self.core.random.below(CLOSE_DELAY_NS);
            self.core.after(delay, What::CloseAtClient { conn });
        }
    }

    /// One turn of a node's loop.
    fn turn(&mut self, slot: usize) -> Verdict {
        let now = self.core.now;
        if self.core.slots[slot].state != SlotState::Up {
            return Ok(());
        }
        let life = self.core.slots[slot].life;
        self.core.tracer.event(1, slot as u64, now);
        self.core.links_turn(slot);
        let items = self.core.slots[slot].inbox.len();
        for _ in 0..items {
            let Some(item) = self.core.slots[slot].inbox.pop_front() else { break };
            self.take(slot, item)?;
            if !self.core.is(slot, life) {
                return Ok(());
            }
        }
        let s = &self.core.slots[slot];
        let local = s.clock.local(now);
        if s.node.as_ref().and_then(Node::next_wakeup).is_some_and(|at| at <= local) {
            self.step(slot, StepKind::Tick, Event::Tick)?;
        }
        if self.core.is(slot, life) {
            self.step(slot, StepKind::EndOfTurn, Event::EndOfTurn)?;
        }
        if !self.core.is(slot, life) {
            return Ok(());
        }
        let cost = self.core.slots[slot].turn_cost(&self.core.shape);
        self.core.slots[slot].busy_until = now.plus(cost);
        self.core.plan_jobs(slot);
        if !self.core.slots[slot].inbox.is_empty() {
            self.core.plan_turn(slot);
        }
        self.core.plan_wake(slot);
        Ok(())
    }

    /// One item of the inbox.
    fn take(&mut self, slot: usize, item: Item) -> Verdict {
        let local = self.core.slots[slot].clock.local(self.core.now);
        match item {
            Item::Request { conn, frame } => self.take_request(slot, conn, &frame, local),
            Item::Closed { conn } => {
                self.step(slot, StepKind::ConnectionClosed(conn), Event::ConnectionClosed { conn })
            }
            Item::Hello(hello) => {
                self.core.take_hello(slot, &hello);
                Ok(())
            }
            Item::Facts { session, facts } => self.take_facts(slot, session, facts),
            Item::Begin { from, cluster, members } => self.take_begin(slot, from, cluster, members),
            Item::Peer { message, cluster } => {
                if self.core.tracer.is_text() {
                    let text = super::api::describe_message(&message);
                    self.core.note(format_args!("n{} <- {text}", slot + 1));
                }
                self.step(
                    slot,
                    StepKind::Peer(cluster),
                    Event::Peer { message: *message, cluster, after: local },
                )
            }
            Item::Unreachable(replica) => {
                self.step(slot, StepKind::PeerUnreachable, Event::PeerUnreachable(replica))
            }
            Item::Up(facts) => self.step(slot, StepKind::PeerUp, Event::PeerUp(*facts)),
            Item::Admin { origin, command, deadline_ms } => {
                self.core.note(format_args!("n{} <- operator: {command:?}", slot + 1));
                let deadline = local.plus(Nanos::from_millis(deadline_ms).0);
                self.step(slot, StepKind::Admin, Event::Admin { origin, command, deadline })
            }
            Item::Job(done) => self.step(slot, StepKind::Job(done.lane), Event::JobDone(done)),
            Item::Drain => self.step(slot, StepKind::Tick, Event::Drain),
        }
    }

    /// A frame is decoded as the server does.
    fn take_request(&mut self, slot: usize, conn: u64, bytes: &[u8], local: Nanos) -> Verdict {
        let frame::Decoded::Frame { header, body, .. } = (match frame::decode(bytes, CRC) {
            Ok(decoded) => decoded,
            Err(error) => return Err(Violation::new("sim-frame", error.to_string())),
        }) else {
            return Err(Violation::new("sim-frame", "an incomplete frame"));
        };
        let origin = Origin { conn, request_id: header.request_id };
        match Request::decode(header.opcode, body) {
            Ok(request) => {
                if self.core.tracer.is_text() {
                    self.core.note(format_args!(
                        "n{} <- request {conn}.{} {:?}",
                        slot + 1,
                        header.request_id,
                        request.opcode()
                    ));
                }
                let deadline = local.plus(Nanos::from_millis(u64::from(header.word)).0);
                let event = Event::Request {
                    origin,
                    request,
                    deadline,
                    received_at: local,
                    bytes: bytes.len(),
                };
                self.step(slot, StepKind::Request(origin), event)
            }
            Err(error) => {
                self.core.reply(slot, origin, Response::Error(error.reply()));
                Ok(())
            }
        }
    }

    /// One step of a node, judged; then its effects.
    pub(super) fn step(&mut self, slot: usize, kind: StepKind, event: Event<'_>) -> Verdict {
        let now = self.core.now;
        let mut effects = std::mem::take(&mut self.effects);
        let s = &mut self.core.slots[slot];
        let local = s.clock.local(now);
        s.sim_clock.advance_to(local);
        let (replica, life) = (s.replica, s.life);
        let Some(node) = s.node.as_mut() else { return Ok(()) };
        let append = appended(&event);
        node.step(local, event, &mut effects);
        self.core.tracer.effects(now, slot, &effects);
        let step = Step { at: now, local, slot, replica, life, kind, append, effects: &effects };
        self.observer.after_step(&self.core, &step)?;
        let mut stop = None;
        for effect in effects.drain(..) {
            match effect {
                Effect::Reply { origin, response, .. } => self.core.reply(slot, origin, response),
                Effect::Send(message) => self.core.send(slot, message),
                Effect::Begin { to, cluster, members } => {
                    self.core.send_begin(slot, to, cluster, members);
                }
                Effect::Belongs(cluster) => self.core.links_belong(slot, cluster),
                // The simulated operator names members by their replicas, so nobody is to be asked who he is.
                Effect::Observed(_) | Effect::Introduce { .. } => {}
                Effect::Fatal(fatal) => stop = Some(Some(fatal)),
                Effect::Drained => stop = Some(None),
            }
        }
        self.effects = effects;
        match stop {
            None => Ok(()),
            Some(fatal) => self.process_ends(slot, fatal.as_ref()),
        }
    }

    /// The node wants to stop: after a drain, or after a failure that it may have.
    fn process_ends(&mut self, slot: usize, fatal: Option<&FatalError>) -> Verdict {
        let s = &self.core.slots[slot];
        let reason = fatal.map_or_else(|| "drained".to_owned(), ToString::to_string);
        if fatal.is_some_and(|fatal| !super::excuses::may_stop(s, fatal)) {
            let what = format!("node {} stopped itself: {reason}", slot + 1);
            return Err(Violation::new("unexpected-fatal", what));
        }
        self.core.note(format_args!("n{} stops: {reason}", slot + 1));
        let plan = s.crash_plan;
        let down_ms = plan.map_or(1 + self.core.random.below(500), |p| p.down_ms);
        let why = if fatal.is_none() { StopKind::Drained } else { StopKind::Fatal };
        if why == StopKind::Drained {
            self.core.say_goodbye(slot);
        } else {
            self.core.slots[slot].disk.clear_faults();
            self.core.slots[slot].excused = false;
        }
        self.stop(slot, why, CrashKind::Process, down_ms)
    }

    fn run_job(&mut self, slot: usize, lane: Lane, report_at: Nanos) -> Verdict {
        let now = self.core.now;
        let hung_until = self.core.slots[slot].lanes[lane as usize].hung_until;
        let life = self.core.slots[slot].life;
        if hung_until > now {
            let late = hung_until.since(now);
            let what = What::RunJob { slot, life, lane, report_at: report_at.plus(late) };
            self.core.at(hung_until, what);
            return Ok(());
        }
        self.core.tracer.event(2, ((slot as u64) << 8) | lane as u64, now);
        let s = &mut self.core.slots[slot];
        if lane == Lane::Read {
            s.lanes[lane as usize].busy -= 1;
        }
        let done = s.run_job(now, lane);
        if self.core.tracer.is_text() {
            self.core.note(format_args!("n{} ran a job of {}", slot + 1, lane.name()));
        }
        if self.core.slots[slot].disk.is_down() {
            return self.planned_crash(slot);
        }
        self.observer.after_job(&self.core, slot, lane)?;
        if let Some(done) = done {
            self.core.at(report_at, What::JobDone { slot, life, done });
        }
        Ok(())
    }

    /// The planned crash of a disk struck: now it is decided what it was.
    fn planned_crash(&mut self, slot: usize) -> Verdict {
        let plan = self.core.slots[slot]
            .crash_plan
            .unwrap_or(CrashPlan { kind: CrashKind::PowerLoss, down_ms: 100 });
        self.stop(slot, StopKind::Crash(plan.kind), plan.kind, plan.down_ms)
    }

    /// Ends the process of a slot, and plans its next start.
    pub(super) fn stop(
        &mut self,
        slot: usize,
        why: StopKind,
        kind: CrashKind,
        down_ms: u64,
    ) -> Verdict {
        self.core.note(format_args!("n{} is down ({why:?}) for {down_ms} ms", slot + 1));
        self.core.tracer.event(3, slot as u64, self.core.now);
        self.core.slots[slot].kill();
        self.core.slots[slot].disk.crash(kind);
        self.core.break_connections(slot, false);
        self.core.peers_notice(slot);
        let life = self.core.slots[slot].life;
        self.core.after(Nanos::from_millis(down_ms).0, What::Start { slot, life });
        self.observer.node_stopped(&self.core, slot, why)
    }

    /// A process starts on a slot's machine.
    pub(super) fn start(&mut self, slot: usize) -> Verdict {
        let now = self.core.now;
        self.core.tracer.event(4, slot as u64, now);
        let bootstrap = self.core.bootstrap(slot);
        let drift = self.core.shape.clock_drift_ppm;
        let s = &mut self.core.slots[slot];
        s.disk.restart();
        if let Some((changes, plan)) = s.crash_on_start.take() {
            s.disk.crash_at(s.disk.op_count() + changes);
            s.crash_plan = Some(plan);
        }
        let env = s.boot(now, drift);
        let mut config = s.config(&self.core.shape, bootstrap);
        if let Some(links) = self.core.links.as_mut() {
            links.configure(slot, &mut config);
        }
        match SimNode::open(config, env) {
            Ok(node) => {
                let mut early = Vec::new();
                s.jobs.poll(&mut early);
                s.inbox.extend(early.into_iter().map(Item::Job));
                s.node = Some(node);
                s.state = SlotState::Up;
                self.core.note(format_args!("n{} is up", slot + 1));
                self.core.plan_turn(slot);
                self.core.links_started(slot);
                self.core.meet(slot);
                self.observer.node_started(&self.core, slot)
            }
            Err(error) => self.open_failed(slot, &error),
        }
    }

    fn open_failed(&mut self, slot: usize, error: &OpenError) -> Verdict {
        self.core.note(format_args!("n{} cannot start: {error}", slot + 1));
        let s = &mut self.core.slots[slot];
        s.jobs.abandon();
        let life = s.life;
        if s.disk.is_down() {
            // A crash during recovery.
            let plan = s.crash_plan.take();
            let kind = plan.map_or(CrashKind::PowerLoss, |p| p.kind);
            s.disk.crash(kind);
            let down_ms = plan.map_or(50, |p| p.down_ms);
            self.core.after(Nanos::from_millis(down_ms).0, What::Start { slot, life });
            return Ok(());
        }
        s.disk.crash(CrashKind::Process);
        if s.health == Health::Rotten && super::excuses::is_damage(error) {
            return self.rebuild(slot, 100, true);
        }
        if super::excuses::may_refuse(s, error) {
            s.disk.clear_faults();
            s.excused = false;
            self.core.after(200_000_000, What::Start { slot, life });
            return Ok(());
        }
        let what = format!("node {} cannot start: {error}", slot + 1);
        Err(Violation::new("open-refused", what))
    }
}

/// What an event lets a follower commit, if it is an append.
fn appended(event: &Event<'_>) -> Option<Appended> {
    let Event::Peer { message: Message { body: Body::Append(append), .. }, .. } = event else {
        return None;
    };
    let verified = LogIndex(append.prev.0.0 + append.entries.len() as u64);
    Some(Appended { verified, commit: append.commit })
}

fn draw_plan(options: &RunOptions, shape: &Shape, random: &mut SimRandom) -> Vec<TimedFault> {
    let duration = options.duration_ns();
    let nodes = options.nodes;
    let mut plan = super::faults::schedule(random, nodes, duration, shape.election_timeout_ns);
    if options.begin != Begin::Given {
        plan.extend(super::faults::early(&mut random.fork(), nodes));
        if options.begin == Begin::Recovers {
            plan.extend(super::faults::impatient(&mut random.fork(), nodes));
        }
        plan.retain(|f| f.at_ms < duration / 1_000_000);
        plan.sort_by_key(|f| f.at_ms);
    }
    plan
}

/// The schedule that a seed draws for itself.
#[must_use]
pub fn plan_of(options: &RunOptions) -> Vec<TimedFault> {
    let mut root = SimRandom::new(options.seed);
    let shape = Shape::of(&mut root.fork());
    draw_plan(options, &shape, &mut root.fork())
}
