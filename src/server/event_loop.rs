//! The loop: one thread, every socket, one turn after the other.
//!
//! ```text
//!  poll ─▶ peers: accept, dial, read ─▶ node     one turn
//!            │          finished jobs ─▶ node
//!            │          readable connections, one read each ─▶ parse ─▶ node
//!            │          due timers ─▶ node
//!            └────────▶ end of turn ─▶ node: everything proposed is ONE log group, submitted now
//!                       effects ─▶ messages into the peers' output, replies into the connections'
//!                       one vectored write for each that has some, peers first
//! ```
//!
//! Invariants:
//! - *Fair*: a connection gets one read of at most [`READ_BUDGET_BYTES`] a turn. What it has left over waits in `ready`,
//!   and a turn with somebody in `ready` does not block in `poll`. A turn serves for [`TURN_BUDGET`] at most. mio is edge-triggered: `readable` remembers the edge
//!   until a read would block.
//! - *Submit, then write*: the log group of a turn is on its way to the disk before the replies of the turn are encoded
//!   and sent (the other order cost 15 %).
//! - *Peers first*: what comes from other nodes is taken before the clients have their turn, and leaves before the replies, so
//!   that heartbeats and acknowledgements never wait behind thousands of clients.
//! - *Bounded*: connections, bytes held of half-received requests, unsent bytes of each connection and of all; see
//!   [`crate::limits`]. Running out of file descriptors pauses accepting for [`ACCEPT_PAUSE`]; it never spins.
//! - It sleeps when there is nothing to do, but for [`AWAKE`] at most while a log group that only a few requests wait for
//!   is in flight: a lone client would pay for the sleep and the wake-up with every write.
//! - A connection is known to the node by a key with a generation in it, so that a late answer never reaches the
//!   connection that has taken the slot since.
//!
//! What it does not do: decide anything about requests. It never touches a file, and never waits for one.

mod accepting;
mod draining;
mod ports;

use draining::{LINGER, Stopping};
pub use ports::{Addresses, Ports};

use super::ServerError;
use super::connection::{Incoming, Patience, Sink, Timeouts};
use super::counters::{CloseReason, Counters};
use super::http::{HttpPort, Pages};
use super::link::{Link, LinkKey};
use super::peers::{Happened, PeerMetrics, Peers};
use super::service::Service;
use crate::base::Nanos;
use crate::env::{Clock, Completion, Jobs};
use crate::limits::{
    CONNECTION_OUTPUT_HARD_BYTES, MAX_INPUT_BYTES, MAX_OUTPUT_BYTES, READ_BUDGET_BYTES,
};
use crate::node::{Effect, Event, Origin};
use crate::proto::{Effect as WriteEffect, ErrorCode, ErrorReply, Opcode, Request, Response};
use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token};
use signal_hook_mio::v1_0::Signals;
use slotmap::SlotMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Tokens below 2^32 are ours; a connection's token is its key, which is above.
pub(super) const WAKE: usize = 0;
const LISTEN: usize = 1;
const SIGNAL: usize = 2;
const HTTP: usize = 16;

const EVENTS_PER_POLL: usize = 1_024;
/// What one read takes while half of [`MAX_INPUT_BYTES`] is held.
const SMALL_READ: usize = 4 << 10;
/// How long a turn goes on serving connections before it proposes, carries out, and answers what it has.
const TURN_BUDGET: u64 = 10_000_000;
/// Connections accepted in one turn.
const ACCEPTS_PER_TURN: usize = 256;
/// How long accepting rests after it failed for want of descriptors or memory.
const ACCEPT_PAUSE: u64 = 100_000_000;
/// The loop stood still when it comes back this much later than it wanted to: the process was stopped, or the machine.
const STOOD_STILL: u64 = 500_000_000;
/// How long the loop waits awake for a log group that only a few requests wait for; longer than a fast disk's sync.
const AWAKE: u64 = 300_000;
/// Connections above the limit that may linger while they are told that there is no room.
const MAX_REFUSED: usize = 64;
/// While the node is not ready, the log says this often what it waits for.
const EXPLAIN: u64 = 10_000_000_000;

/// What the loop is set up with.
pub struct Settings {
    /// Most client connections.
    pub max_connections: usize,
    /// When silence is too long.
    pub timeouts: Timeouts,
    /// How long queued requests have after SIGTERM, in nanoseconds.
    pub drain_timeout: u64,
    /// What the ready line says of node and data directory.
    pub node_id: u64,
    /// The data directory as given.
    pub data_dir: String,
}

/// The loop with everything it owns.
pub struct EventLoop<S> {
    poll: Poll,
    clock: Arc<dyn Clock>,
    /// Before `service`, which drops its lock when no job is left.
    jobs: Arc<dyn Jobs>,
    service: S,
    settings: Settings,
    listener: Option<TcpListener>,
    listen: SocketAddr,
    http: Option<HttpPort>,
    peers: Peers,
    happened: Vec<Happened>,
    signals: Signals,
    links: SlotMap<LinkKey, Link>,
    refused: usize,
    /// To be served in the next turn without a new event.
    ready: Vec<LinkKey>,
    /// Have unsent output.
    dirty: Vec<LinkKey>,
    scratch: Vec<u8>,
    effects: Vec<Effect>,
    completions: Vec<Completion>,
    counters: Counters,
    held_bytes: usize,
    unsent_bytes: usize,
    accept_ready: bool,
    /// Accepting rests until then.
    accept_at: Option<Nanos>,
    /// The last attempt to accept failed, and the log says so.
    accept_failing: bool,
    sweep_at: Option<Nanos>,
    /// The log group that the loop waits for awake, and until when.
    awake: Option<(u64, Nanos)>,
    announced: bool,
    /// While it is not ready: when the log says why, the next time.
    explain_at: Option<Nanos>,
    stopping: Stopping,
}

/// Hands a connection's requests to the node.
struct Front<'a, S> {
    service: &'a mut S,
    effects: &'a mut Vec<Effect>,
    counters: &'a mut Counters,
    peers: &'a Peers,
    now: Nanos,
    link: u64,
}

impl<S: Service> Sink for Front<'_, S> {
    fn request(&mut self, incoming: Incoming<'_>) {
        self.counters.requests += 1;
        if incoming.request == Request::Status {
            self.service.set_links(self.peers.status(self.now));
        }
        let event = Event::Request {
            origin: Origin { conn: self.link, request_id: incoming.request_id },
            request: incoming.request,
            deadline: incoming.deadline,
            received_at: self.now,
            bytes: incoming.bytes,
        };
        self.service.step(self.now, event, self.effects);
    }
}

struct View<'a, S> {
    service: &'a S,
    counters: &'a Counters,
    peers: PeerMetrics,
    connections: usize,
    held_bytes: usize,
    unsent_bytes: usize,
    draining: bool,
    now: Nanos,
}

impl<S: Service> Pages for View<'_, S> {
    fn ready(&self) -> Result<(), String> {
        if self.draining {
            return Err("draining, about to stop".into());
        }
        self.service.ready(self.now)
    }
    fn status(&self) -> String {
        self.service.status(self.now)
    }
    fn metrics(&self) -> String {
        let mut out = String::new();
        self.counters.metrics(&mut out, self.connections, self.held_bytes, self.unsent_bytes);
        self.peers.write(&mut out);
        self.service.metrics(self.now, &mut out);
        out
    }
}

/// What the loop drives.
pub struct Driven<S> {
    /// The node.
    pub service: S,
    /// The other nodes.
    pub peers: Peers,
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl<S: Service> EventLoop<S> {
    /// Puts the loop together. Each of `signals` asks it to drain, the second one to give up.
    pub fn new(
        poll: Poll,
        (listener, http): (TcpListener, Option<HttpPort>),
        mut signals: Signals,
        clock: Arc<dyn Clock>,
        jobs: Arc<dyn Jobs>,
        driven: Driven<S>,
        settings: Settings,
    ) -> io::Result<Self> {
        poll.registry().register(&mut signals, Token(SIGNAL), Interest::READABLE)?;
        Ok(Self {
            poll,
            clock,
            jobs,
            service: driven.service,
            peers: driven.peers,
            happened: Vec::new(),
            settings,
            listen: listener.local_addr()?,
            listener: Some(listener),
            http,
            signals,
            links: SlotMap::with_key(),
            refused: 0,
            ready: Vec::new(),
            dirty: Vec::new(),
            scratch: vec![0; READ_BUDGET_BYTES],
            effects: Vec::new(),
            completions: Vec::new(),
            counters: Counters::default(),
            held_bytes: 0,
            unsent_bytes: 0,
            accept_ready: true,
            accept_at: None,
            accept_failing: false,
            sweep_at: None,
            awake: None,
            announced: false,
            explain_at: None,
            stopping: Stopping::default(),
        })
    }

    /// Turns until it is told to stop. `Ok` after a clean drain.
    pub fn run(&mut self) -> Result<(), ServerError> {
        let mut events = Events::with_capacity(EVENTS_PER_POLL);
        let mut turned_at = self.clock.now();
        loop {
            let slept_at = self.clock.now();
            let timeout = self.timeout(slept_at);
            match self.poll.poll(&mut events, timeout) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e.into()),
            }
            let now = self.clock.now();
            let wanted = timeout.map_or(Nanos::MAX, |wait| slept_at.plus(nanos(wait)));
            if now.since(wanted).max(slept_at.since(turned_at)) >= STOOD_STILL {
                self.peers.stood_still(now);
            }
            turned_at = now;
            if self.turn(now, &events)? {
                return Ok(());
            }
        }
    }

    /// One turn; true when the work is over.
    fn turn(&mut self, now: Nanos, events: &Events) -> Result<bool, ServerError> {
        self.counters.turns += 1;
        // Those left over from the last turn come first; whoever reads again now queues behind the new ones.
        for event in events {
            self.take_event(now, event)?;
        }
        self.serve_peers(now)?;
        self.finish_jobs(now);
        self.accept(now);
        self.serve_ready(now);
        if self.service.next_wakeup().is_some_and(|at| at <= now) {
            self.service.step(now, Event::Tick, &mut self.effects);
        }
        // As of after the reads: what says how old it is must not leave out a pause between them and the beginning of the turn.
        self.service.step(self.clock.now(), Event::EndOfTurn, &mut self.effects);
        self.stop_accepting();
        self.respond(now)?;
        self.sweep(now);
        self.announce(now)?;
        self.is_over(now)
    }

    /// Encodes and sends the replies of the turn.
    fn respond(&mut self, now: Nanos) -> Result<(), ServerError> {
        if self.effects.is_empty() && self.dirty.is_empty() {
            self.peers.flush(now);
            return Ok(());
        }
        let begin = self.clock.now();
        self.carry_out(now)?;
        self.peers.flush(now);
        self.send_all(now);
        self.service.responded(self.clock.now().since(begin));
        Ok(())
    }

    /// Whether to wait awake for the log group in flight: a sleep and a wake-up would double what a lone client waits.
    /// Only while few requests wait (many keep the loop busy anyway), and no longer than [`AWAKE`] for one group.
    fn stays_awake(&mut self, now: Nanos) -> bool {
        let Some(group) = self.service.few_wait_for_log() else { return false };
        match self.awake {
            Some((of, until)) if of == group => now < until,
            _ => {
                self.awake = Some((group, now.plus(AWAKE)));
                true
            }
        }
    }

    /// How long `poll` may block: `None` for ever.
    fn timeout(&mut self, now: Nanos) -> Option<Duration> {
        let more = !self.ready.is_empty() || !self.effects.is_empty();
        if more || (self.accept_ready && self.accept_at.is_none()) || self.stays_awake(now) {
            return Some(Duration::ZERO);
        }
        let due = [
            self.service.next_wakeup(),
            self.peers.next_wakeup(),
            self.sweep_at,
            self.accept_at,
            self.explain_at,
            self.stop_deadline(now),
        ];
        due.into_iter().flatten().min().map(|at| Duration::from_nanos(at.since(now)))
    }

    fn take_event(&mut self, now: Nanos, event: &mio::event::Event) -> Result<(), ServerError> {
        let token = event.token().0;
        match token {
            WAKE => {}
            LISTEN => self.accept_ready = true,
            SIGNAL => self.take_signals(now)?,
            _ if self.http.as_ref().is_some_and(|http| http.owns(token)) => {
                self.serve_http(now, token);
            }
            _ if Peers::owns(token) => self.peers.on_event(now, event),
            _ => self.note_readiness(event),
        }
        Ok(())
    }

    fn note_readiness(&mut self, event: &mio::event::Event) {
        let key = LinkKey::of(event.token().0 as u64);
        let Some(link) = self.links.get_mut(key) else { return };
        if event.is_writable() && !link.connection.output().is_empty() && !link.dirty {
            link.dirty = true;
            self.dirty.push(key);
        }
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            link.readable = true;
            link.read_closed |= event.is_read_closed() || event.is_error();
            if !link.queued {
                link.queued = true;
                self.ready.push(key);
            }
        }
    }

    /// What comes from other nodes, before the clients have their turn.
    fn serve_peers(&mut self, now: Nanos) -> Result<(), ServerError> {
        let mut happened = std::mem::take(&mut self.happened);
        self.peers.turn(now, &self.service, &mut self.scratch, &mut happened);
        for what in happened.drain(..) {
            let event = match what {
                Happened::Message { message, cluster, after } => {
                    Event::Peer { message, cluster, after }
                }
                Happened::Begin { from, cluster, members } => {
                    Event::Begin { from, cluster, members }
                }
                Happened::Changed(facts) => Event::PeerUp(facts),
                Happened::Down(replica) => Event::PeerUnreachable(replica),
                Happened::BulkDown(replica) => Event::BulkLinkLost(replica),
                Happened::Up { token, facts } => {
                    // What the node said before it knew of the link does not leave on it.
                    self.carry_out(now)?;
                    if !self.peers.activate(now, token, facts.replica) {
                        // It ended before the node heard of it.
                        continue;
                    }
                    Event::PeerUp(facts)
                }
                Happened::Introduced { callback, result } => {
                    Event::Introduced { token: callback, result }
                }
            };
            self.service.step(now, event, &mut self.effects);
        }
        self.happened = happened;
        Ok(())
    }

    fn serve_http(&mut self, now: Nanos, token: usize) {
        self.service.set_links(self.peers.status(now));
        let Some(http) = &mut self.http else { return };
        let view = View {
            service: &self.service,
            counters: &self.counters,
            peers: self.peers.metrics(now),
            connections: self.links.len(),
            held_bytes: self.held_bytes,
            unsent_bytes: self.unsent_bytes,
            draining: self.stopping.is_asked(),
            now,
        };
        http.on_event(token, now, self.poll.registry(), &view);
        self.plan_sweep(now);
    }

    fn finish_jobs(&mut self, now: Nanos) {
        if !self.jobs.has_completions() {
            return;
        }
        self.jobs.poll(&mut self.completions);
        for completion in self.completions.drain(..) {
            let Some(completion) = self.peers.job_done(now, completion) else { continue };
            self.service.step(now, Event::JobDone(completion), &mut self.effects);
        }
    }

    fn mark_dirty(&mut self, key: LinkKey) {
        let link = &mut self.links[key];
        if !link.dirty {
            link.dirty = true;
            self.dirty.push(key);
        }
    }

    /// Gives every ready connection its turn, until [`TURN_BUDGET`] is used up; the others are first in the next one.
    fn serve_ready(&mut self, now: Nanos) {
        let mut batch = std::mem::take(&mut self.ready);
        let mut served = 0;
        while served < batch.len() && (served == 0 || self.clock.now().since(now) < TURN_BUDGET) {
            self.serve(now, batch[served]);
            served += 1;
        }
        batch.drain(..served);
        batch.append(&mut self.ready);
        self.ready = batch;
    }

    /// A connection's turn: what was left over, or one read.
    fn serve(&mut self, now: Nanos, key: LinkKey) {
        let Some(link) = self.links.get_mut(key) else { return };
        link.queued = false;
        if link.lingering.is_some() {
            return self.drop_input(now, key);
        }
        let (held, unsent) = (link.connection.held_bytes(), link.connection.output().len());
        let mut failed = false;
        let mut front = Front {
            service: &mut self.service,
            effects: &mut self.effects,
            counters: &mut self.counters,
            peers: &self.peers,
            now,
            link: key.number(),
        };
        if link.connection.can_resume() {
            link.connection.resume(now, &mut front);
        }
        if link.readable && link.connection.wants_bytes() {
            // When much is held already, everybody gets on in small steps.
            let budget =
                if self.held_bytes > MAX_INPUT_BYTES / 2 { SMALL_READ } else { READ_BUDGET_BYTES };
            match link.read(&mut self.scratch[..budget]) {
                Ok(Some(0)) => link.connection.end_input(now, &mut front),
                Ok(Some(n)) => {
                    front.counters.bytes_in += n as u64;
                    link.connection.receive(now, &self.scratch[..n], &mut front);
                }
                Ok(None) => {}
                Err(e) => {
                    log::debug!("connection {}: {e}", key.number());
                    failed = true;
                }
            }
        }
        self.held_bytes = self.held_bytes + link.connection.held_bytes() - held;
        if self.held_bytes > MAX_INPUT_BYTES {
            let held = link.connection.held_bytes();
            if link.connection.skip_partial_frame(now) {
                self.held_bytes -= held;
                self.counters.skipped_frames += 1;
            }
        }
        self.unsent_bytes += link.connection.output().len() - unsent;
        if failed {
            return self.close(now, key, CloseReason::Failed);
        }
        if !link.connection.output().is_empty() {
            self.mark_dirty(key);
        }
        self.requeue(now, key);
    }

    /// Queues a connection that can go on without a new event, or closes one that is done.
    fn requeue(&mut self, now: Nanos, key: LinkKey) {
        let Some(link) = self.links.get_mut(key) else { return };
        if link.lingering.is_some() {
            return;
        }
        let connection = &link.connection;
        if connection.finished() {
            return self.finish(now, key);
        }
        let more = connection.can_resume() || (link.readable && connection.wants_bytes());
        if more && !link.queued {
            link.queued = true;
            self.ready.push(key);
        }
    }

    fn close(&mut self, now: Nanos, key: LinkKey, reason: CloseReason) {
        let Some(mut link) = self.links.remove(key) else { return };
        self.held_bytes -= link.connection.held_bytes();
        self.unsent_bytes -= link.connection.output().len();
        if let Err(e) = self.poll.registry().deregister(&mut link.socket) {
            log::debug!("connection {}: {e}", key.number());
        }
        self.counters.closed[reason as usize] += 1;
        if link.refused {
            self.refused -= 1;
        } else {
            let event = Event::ConnectionClosed { conn: key.number() };
            self.service.step(now, event, &mut self.effects);
        }
        // A descriptor is free again: no need to wait for the end of the pause.
        if self.accept_at.is_some() {
            self.accept_at = Some(now);
        }
    }

    /// Carries out the node's effects; those of closing connections included.
    fn carry_out(&mut self, now: Nanos) -> Result<(), ServerError> {
        while !self.effects.is_empty() {
            let mut effects = std::mem::take(&mut self.effects);
            for effect in effects.drain(..) {
                match effect {
                    Effect::Reply { origin, opcode, response } => {
                        self.reply(now, origin, opcode, &response);
                    }
                    Effect::Send(message) => self.peers.send(now, &message),
                    Effect::Belongs(cluster) => self.peers.belongs(now, cluster),
                    Effect::Begin { to, cluster, members } => {
                        self.peers.begin(now, to, cluster, members);
                    }
                    Effect::Introduce { token, node, address } => {
                        self.peers.introduce(now, node, &address, token);
                    }
                    Effect::Observed(_) => {}
                    Effect::Drained => self.drained(now),
                    Effect::Fatal(error) => return Err(ServerError::Fatal(error)),
                }
            }
            if self.effects.is_empty() {
                self.effects = effects;
            }
        }
        Ok(())
    }

    fn reply(&mut self, now: Nanos, origin: Origin, opcode: Opcode, response: &Response) {
        let key = LinkKey::of(origin.conn);
        let Some(link) = self.links.get_mut(key) else {
            self.counters.late_replies += 1;
            return;
        };
        let (held, unsent) = (link.connection.held_bytes(), link.connection.output().len());
        let large = matches!(
            response,
            Response::Value { .. }
                | Response::Values(_)
                | Response::Scan(_)
                | Response::Stale { .. }
        );
        if large && self.unsent_bytes > MAX_OUTPUT_BYTES {
            let message = "too many bytes of replies wait for clients that do not take them";
            let mut busy = ErrorReply::new(ErrorCode::Busy, WriteEffect::None, message);
            busy.retry_after_ms = 1_000;
            link.connection.reply(now, opcode, origin.request_id, &Response::Error(busy));
        } else {
            link.connection.reply(now, opcode, origin.request_id, response);
        }
        let total = link.connection.output().len();
        self.unsent_bytes += total - unsent;
        // The last answer of a connection lets go of what lies behind it.
        self.held_bytes = self.held_bytes + link.connection.held_bytes() - held;
        self.counters.replies += 1;
        // `unsent` was there before this turn's replies when the connection is not dirty yet.
        let slow = !link.dirty && unsent > 0 && self.unsent_bytes > MAX_OUTPUT_BYTES;
        // A single reply is sent whatever its size.
        if (unsent > 0 && total > CONNECTION_OUTPUT_HARD_BYTES) || slow {
            log::info!("connection {}: closed, {total} reply bytes not taken", key.number());
            return self.close(now, key, CloseReason::SlowReader);
        }
        if !link.dirty {
            link.dirty = true;
            self.dirty.push(key);
        }
    }

    /// Sends what there is, once for each connection.
    fn send_all(&mut self, now: Nanos) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for key in dirty.drain(..) {
            let Some(link) = self.links.get_mut(key) else { continue };
            link.dirty = false;
            let unsent = link.connection.output().len();
            let result = link.connection.output_mut().write_to(&mut link.socket);
            let sent = unsent - link.connection.output().len();
            self.unsent_bytes -= sent;
            self.counters.bytes_out += sent as u64;
            if sent > 0 {
                link.connection.taken(now);
            }
            match result {
                // When it would block, the socket's next writable edge makes it dirty again.
                Ok(_) => self.requeue(now, key),
                Err(e) => {
                    log::debug!("connection {}: {e}", key.number());
                    self.close(now, key, CloseReason::Failed);
                }
            }
        }
        if self.dirty.is_empty() {
            self.dirty = dirty;
        }
    }

    fn plan_sweep(&mut self, now: Nanos) {
        if self.sweep_at.is_none() {
            let shortest = self.settings.timeouts.idle.min(self.settings.timeouts.frame);
            self.sweep_at = Some(now.plus((shortest / 4).min(1_000_000_000)));
        }
    }

    /// Now and then: gives up on connections that are silent for too long.
    fn sweep(&mut self, now: Nanos) {
        if self.sweep_at.is_none_or(|at| at > now) {
            return;
        }
        self.sweep_at = None;
        if self.http.as_ref().is_some_and(HttpPort::stalled) {
            self.serve_http(now, HTTP);
        }
        let http_left = self.http.as_mut().is_some_and(|http| http.sweep(now));
        let keys: Vec<LinkKey> = self.links.keys().collect();
        for key in keys {
            self.sweep_one(now, key);
        }
        if !self.links.is_empty() || http_left {
            self.plan_sweep(now);
        }
    }

    fn sweep_one(&mut self, now: Nanos, key: LinkKey) {
        let link = &mut self.links[key];
        if let Some(since) = link.lingering {
            if now.since(since) >= LINGER {
                self.close(now, key, CloseReason::Finished);
            }
            return;
        }
        let (held, unsent) = (link.connection.held_bytes(), link.connection.output().len());
        match link.connection.check_time(now, self.settings.timeouts) {
            Patience::Fine => {}
            Patience::Deaf => self.close(now, key, CloseReason::SlowReader),
            Patience::Told => {
                self.counters.timeouts += 1;
                self.held_bytes -= held - link.connection.held_bytes();
                self.unsent_bytes += link.connection.output().len() - unsent;
                self.mark_dirty(key);
            }
        }
    }

    /// Prints the `ready` line once. While the node is not ready, the log says now and then what it waits for.
    fn announce(&mut self, now: Nanos) -> Result<(), ServerError> {
        if !self.service.is_ready() {
            self.explain(now);
            return Ok(());
        }
        self.explain_at = None;
        if self.announced {
            return Ok(());
        }
        self.announced = true;
        let http = match &self.http {
            Some(http) => http.local_addr()?.to_string(),
            None => "off".into(),
        };
        super::print_line(&format!(
            "beachd ready node={} role={} listen={} http={http} data={}",
            self.settings.node_id,
            self.service.role(),
            self.listen,
            self.settings.data_dir,
        ));
        Ok(())
    }

    fn explain(&mut self, now: Nanos) {
        if self.stopping.is_asked() {
            self.explain_at = None;
        } else if self.explain_at.is_none_or(|at| at <= now) {
            if self.explain_at.is_some()
                && let Err(reason) = self.service.ready(now)
            {
                log::warn!("not ready: {reason}");
            }
            self.explain_at = Some(now.plus(EXPLAIN));
        }
    }

    /// Whether a resolver is at work, which may take long and must not hold up the end of the process.
    pub fn is_resolving(&self) -> bool {
        self.peers.is_resolving()
    }
}

#[cfg(test)]
mod tests;
