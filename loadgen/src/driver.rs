//! The client side: one thread, one mio loop, hundreds of connections, each with up to `pipeline` requests in
//! flight.
//!
//! ```text
//!   closed loop   reply ──▶ record(now - sent) ──▶ next operation on the same connection, one write a wake-up
//!   open loop     schedule t0 + i / rate ──▶ any free slot ──▶ reply ──▶ record(now - *intended*)
//! ```
//!
//! Invariants:
//! - A slot holds at most one request; its id is (serial << 16 | slot), never used twice on a connection.
//! - In an open loop a late request keeps its intended time: a stall of the server shows in every request that
//!   should have been sent during it (no coordinated omission).
//! - A connection that breaks fails what was in flight on it, is counted, and is opened again, to the next endpoint.
//! - A connection whose node does not lead sends nothing more, waits for its answers, and is opened again to the leader
//!   that the node named ([`crate::follow`]). Each refusal is counted; a refused operation is not sent again.
//!
//! It shares the machine with the server it measures, so it reads the clock once per wake-up of a connection,
//! not per request, and writes all requests of a wake-up with one call.

use crate::clock::{self, Timer};
use crate::follow::{Course, Names};
use crate::stats::{ErrorKind, Recorder};
use crate::target::{Decoded, Outcome, Protocol};
use crate::workload::{Op, OpKind, Workload};
use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::Duration;

/// Bytes asked for in one read; a larger reply makes the buffer grow.
const READ_BYTES: usize = 256 << 10;
/// How long to wait before a broken connection is opened again.
const RECONNECT_NS: u64 = 100_000_000;
/// How long to wait after BUSY when the server named no time.
const BUSY_PAUSE_NS: u64 = 1_000_000;
/// What the client waits for a reply beyond the deadline in the request.
const REPLY_GRACE_NS: u64 = 2_000_000_000;
const SECOND_NS: u64 = 1_000_000_000;
/// How long no connection may stand before the run is given up: longer than an election.
const OUTAGE_NS: u64 = 15 * SECOND_NS;
const TIMER: Token = Token(usize::MAX - 1);

/// How requests are paced.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Pace {
    /// The next request follows the reply.
    Closed,
    /// This many a second, whatever the replies do.
    Open {
        /// Operations per second.
        rate: f64,
    },
}

/// When a run ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Until {
    /// After each key was written once (preload); failed ones are tried again.
    Written {
        /// Keys 0 … keys - 1.
        keys: u64,
    },
    /// After the measured time, which follows the warm-up.
    Elapsed {
        /// Not measured.
        warmup_ns: u64,
        /// Measured.
        measure_ns: u64,
    },
}

/// Settings of a [`Driver`].
#[derive(Clone, Debug)]
pub struct DriverOptions {
    /// Where to connect; connections take them in turn, and go where a leader is named.
    pub endpoints: Vec<SocketAddr>,
    /// Connections.
    pub clients: usize,
    /// Most requests in flight on each, at most 65,536.
    pub pipeline: usize,
    /// The deadline of each request.
    pub timeout: Duration,
    /// Whether to print a line each second to stderr.
    pub progress: bool,
}

/// What a run did besides the latencies in its [`Recorder`].
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct RunSummary {
    /// Operations that the schedule had in the window (open loop; 0 in a closed one).
    pub scheduled: u64,
    /// Of these, how many were sent at all.
    pub sent: u64,
    /// The furthest the sender was behind its schedule, in nanoseconds.
    pub max_lag_ns: u64,
    /// Share of one core that this thread used, 0 to 1.
    pub client_cpu: f64,
    /// Connections opened again after they broke.
    pub reconnects: u64,
}

#[derive(Clone, Copy)]
struct Slot {
    /// 0 = free.
    id: u64,
    start: u64,
    sent: u64,
    op: Op,
}

const FREE: Slot =
    Slot { id: 0, start: 0, sent: 0, op: Op { kind: OpKind::Put, key: 0, missing: false } };

struct Connection {
    course: Course,
    stream: Option<TcpStream>,
    connected: bool,
    out: Vec<u8>,
    written: usize,
    /// The beginning of a reply whose rest has not arrived.
    tail: Vec<u8>,
    slots: Vec<Slot>,
    free: Vec<u16>,
    /// Slots in the order they were sent, for protocols that answer in order.
    order: VecDeque<u16>,
    serial: u64,
    /// Sends nothing before this time: after BUSY, or until it is opened again.
    paused_until: u64,
    /// The node does not lead: the address it named, and its advice in ms.
    leaving: Option<(String, u32)>,
}

/// What one run is about; the generator side of the loop.
struct Run<'a> {
    workload: &'a mut Workload,
    recorder: &'a mut Recorder,
    pace: Pace,
    until: Until,
    begin: u64,
    end: u64,
    /// Preload: next key, and those to try again.
    next_key: u64,
    again: Vec<u64>,
    written: u64,
    /// Open loop: number of the next operation of the schedule.
    next_scheduled: u64,
    summary: RunSummary,
}

/// The loop and its connections.
pub struct Driver<P: Protocol> {
    protocol: P,
    options: DriverOptions,
    poll: Poll,
    timer: Timer,
    connections: Vec<Connection>,
    scratch: Vec<u8>,
    in_flight: usize,
    /// Where the open loop looks for a free slot next.
    cursor: usize,
    /// No connection's pause ends before this time.
    next_pause_end: u64,
    reconnects: u64,
    names: Names,
    /// When a connection stood for the last time.
    last_standing: u64,
}

impl<P: Protocol> Driver<P> {
    /// Opens all connections and waits until they stand.
    pub fn connect(protocol: P, options: DriverOptions) -> Result<Self, String> {
        let fail = |what: &str, e: io::Error| format!("{what}: {e}");
        let poll = Poll::new().map_err(|e| fail("epoll", e))?;
        let timer = Timer::new().map_err(|e| fail("timerfd", e))?;
        poll.registry()
            .register(&mut SourceFd(&timer.as_raw_fd()), TIMER, Interest::READABLE)
            .map_err(|e| fail("epoll", e))?;
        let mut connections = Vec::with_capacity(options.clients);
        for i in 0..options.clients {
            // A blocking connect, one after the other: none is lost to a full accept queue, and a server that
            // is not there is one clear message.
            let mut course = Course::new(&options.endpoints, i);
            let stream = connect_somewhere(&mut course, &options)
                .map_err(|e| format!("connection {} of {}: {e}", i + 1, options.clients))?;
            let mut connection = Connection::new(course, options.pipeline);
            connection.stream = Some(TcpStream::from_std(stream));
            connection.connected = true;
            connection.register(&poll, i).map_err(|e| fail("epoll", e))?;
            connections.push(connection);
        }
        Ok(Self {
            protocol,
            options,
            poll,
            timer,
            connections,
            scratch: vec![0; READ_BYTES],
            in_flight: 0,
            cursor: 0,
            next_pause_end: u64::MAX,
            reconnects: 0,
            names: Names::default(),
            last_standing: clock::now(),
        })
    }

    /// Runs operations of `workload` until the end and waits for the last replies.
    pub fn run(
        &mut self,
        workload: &mut Workload,
        recorder: &mut Recorder,
        pace: Pace,
        until: Until,
    ) -> Result<RunSummary, String> {
        let begin = clock::now();
        let (window, end) = match until {
            Until::Written { .. } => (begin..u64::MAX, u64::MAX),
            Until::Elapsed { warmup_ns, measure_ns } => {
                (begin + warmup_ns..begin + warmup_ns + measure_ns, begin + warmup_ns + measure_ns)
            }
        };
        recorder.set_window(window);
        let mut run = Run {
            workload,
            recorder,
            pace,
            until,
            begin,
            end,
            next_key: 0,
            again: Vec::new(),
            written: 0,
            next_scheduled: 0,
            summary: RunSummary { scheduled: scheduled(pace, until), ..RunSummary::default() },
        };
        let cpu_before = clock::thread_cpu();
        let result = self.turn_until_done(&mut run);
        let elapsed = clock::now().saturating_sub(begin).max(1);
        run.summary.client_cpu =
            clock::thread_cpu().saturating_sub(cpu_before) as f64 / elapsed as f64;
        run.summary.reconnects = self.reconnects;
        result.map(|()| run.summary)
    }

    fn turn_until_done(&mut self, run: &mut Run<'_>) -> Result<(), String> {
        let mut events = Events::with_capacity(1024);
        let mut next_progress = run.begin + SECOND_NS;
        let mut last_progress = run.begin;
        self.fill_all(run);
        loop {
            let now = clock::now();
            if now >= next_progress {
                self.give_up_on_lost_replies(run, now);
                self.print_progress(run, now, last_progress);
                last_progress = now;
                next_progress += SECOND_NS;
            }
            if run.finished(now) && (self.in_flight == 0 || self.drained_long_enough(run, now)) {
                self.abandon_in_flight(run);
                return Ok(());
            }
            if self.connections.iter().any(|c| c.connected) {
                self.last_standing = now;
            } else if now.saturating_sub(self.last_standing) > OUTAGE_NS {
                return Err(format!(
                    "all {} connections are broken for {} s; first error: {}",
                    self.connections.len(),
                    OUTAGE_NS / SECOND_NS,
                    run.recorder.first_error().unwrap_or("none")
                ));
            }
            let wait = self.next_wakeup(run, now).min(next_progress.saturating_sub(now));
            match self.poll.poll(&mut events, Some(Duration::from_nanos(wait))) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(format!("epoll_wait: {e}")),
            }
            for event in &events {
                let Token(i) = event.token();
                if event.token() != TIMER {
                    if event.is_readable() || event.is_error() || event.is_read_closed() {
                        self.on_readable(run, i);
                    }
                    if event.is_writable() {
                        self.on_writable(run, i);
                    }
                }
            }
            self.wake_paused(run);
            if let Pace::Open { rate } = run.pace {
                self.pump_schedule(run, rate)?;
            }
        }
    }

    /// Nanoseconds until something must happen without a reply.
    fn next_wakeup(&self, run: &Run<'_>, now: u64) -> u64 {
        let end = if run.end > now { run.end } else { now + SECOND_NS / 100 };
        self.next_pause_end.min(end).saturating_sub(now)
    }

    fn fill_all(&mut self, run: &mut Run<'_>) {
        if run.pace == Pace::Closed {
            let now = clock::now();
            for i in 0..self.connections.len() {
                self.fill(run, i, now);
                self.flush(run, i);
            }
        }
    }

    /// Closed loop: every free slot of connection `i` gets the next operation.
    fn fill(&mut self, run: &mut Run<'_>, i: usize, now: u64) {
        let connection = &mut self.connections[i];
        if !connection.takes_more(now) || now >= run.end {
            return;
        }
        while !connection.free.is_empty() {
            let Some(op) = run.next_op() else { return };
            connection.send(&mut self.protocol, run.workload, op, now, now);
            self.in_flight += 1;
        }
    }

    /// Open loop: sends everything the schedule has up to now, as far as slots are free.
    fn pump_schedule(&mut self, run: &mut Run<'_>, rate: f64) -> Result<(), String> {
        let now = clock::now();
        let spacing = 1e9 / rate;
        let mut touched = Vec::new();
        loop {
            let intended = run.begin + (run.next_scheduled as f64 * spacing) as u64;
            if intended >= run.end || now >= run.end {
                break; // what was not sent by the end is not sent at all, and shows in the verdict
            }
            if intended > now {
                self.timer.arm(intended - now).map_err(|e| format!("timerfd_settime: {e}"))?;
                break;
            }
            run.summary.max_lag_ns = run.summary.max_lag_ns.max(now - intended);
            let Some(i) = self.free_connection(now) else { break };
            let op = run.workload.next_op();
            self.connections[i].send(&mut self.protocol, run.workload, op, intended, now);
            if touched.last() != Some(&i) {
                touched.push(i);
            }
            self.in_flight += 1;
            run.next_scheduled += 1;
            run.count_sent(intended);
        }
        for i in touched {
            self.flush(run, i);
        }
        Ok(())
    }

    fn free_connection(&mut self, now: u64) -> Option<usize> {
        let n = self.connections.len();
        let found = (0..n).map(|k| (self.cursor + k) % n).find(|&i| {
            let c = &self.connections[i];
            c.takes_more(now) && !c.free.is_empty()
        })?;
        self.cursor = (found + 1) % n;
        Some(found)
    }

    fn on_readable(&mut self, run: &mut Run<'_>, i: usize) {
        loop {
            let connection = &mut self.connections[i];
            let Some(stream) = connection.stream.as_mut() else { return };
            let have = connection.tail.len();
            if have * 2 > self.scratch.len() {
                self.scratch.resize(have * 4, 0);
            }
            self.scratch[..have].copy_from_slice(&connection.tail);
            let room = self.scratch.len() - have;
            let got = match stream.read(&mut self.scratch[have..]) {
                Ok(0) => return self.broken(run, i, "the server closed the connection"),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return self.broken(run, i, &e.to_string()),
            };
            connection.tail.clear();
            let now = clock::now();
            if let Err(reason) = self.take_replies(run, i, have + got, now) {
                run.recorder.error(ErrorKind::Proto, now, || reason.clone());
                return self.broken(run, i, &reason);
            }
            if run.pace == Pace::Closed {
                self.fill(run, i, now);
                self.flush(run, i);
            }
            // A short read means that the socket is empty (epoll(7)); the next bytes are a new edge.
            if got < room {
                return;
            }
        }
    }

    /// Records the replies in the first `len` bytes of the scratch buffer; keeps an incomplete one.
    fn take_replies(
        &mut self,
        run: &mut Run<'_>,
        i: usize,
        len: usize,
        now: u64,
    ) -> Result<(), String> {
        let connection = &mut self.connections[i];
        let mut at = 0;
        while at < len {
            match self.protocol.decode(&self.scratch[at..len])? {
                Decoded::Incomplete => break,
                Decoded::Reply { consumed, id, outcome } => {
                    at += consumed;
                    let slot = connection.release(id)?;
                    self.in_flight -= 1;
                    run.outcome(connection, &slot, now, outcome);
                }
            }
        }
        connection.tail.extend_from_slice(&self.scratch[at..len]);
        if connection.paused_until > now {
            self.next_pause_end = self.next_pause_end.min(connection.paused_until);
        }
        self.leave(i, now);
        Ok(())
    }

    /// Closes connection `i` if its node does not lead and owes it no answer; it is opened again to another one.
    fn leave(&mut self, i: usize, now: u64) {
        let connection = &mut self.connections[i];
        if connection.free.len() < connection.slots.len() {
            return;
        }
        let Some((leader, retry_after_ms)) = connection.leaving.take() else { return };
        let endpoints = &self.options.endpoints;
        let pause = connection.course.refused(endpoints, &mut self.names, &leader, retry_after_ms);
        connection.stream = None;
        connection.connected = false;
        connection.tail.clear();
        connection.paused_until = now + u64::from(pause) * 1_000_000;
        self.next_pause_end = self.next_pause_end.min(connection.paused_until);
    }

    fn on_writable(&mut self, run: &mut Run<'_>, i: usize) {
        let connection = &mut self.connections[i];
        let Some(stream) = connection.stream.as_ref() else { return };
        if !connection.connected {
            if let Ok(Some(e)) | Err(e) = stream.take_error() {
                return self.broken(run, i, &e.to_string());
            }
            if stream.peer_addr().is_err() {
                return; // still connecting
            }
            connection.connected = true;
            if run.pace == Pace::Closed {
                self.fill(run, i, clock::now());
            }
        }
        self.flush(run, i);
    }

    fn flush(&mut self, run: &mut Run<'_>, i: usize) {
        let connection = &mut self.connections[i];
        let Some(stream) = connection.stream.as_mut() else { return };
        while connection.written < connection.out.len() {
            match stream.write(&connection.out[connection.written..]) {
                Ok(n) => connection.written += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return self.broken(run, i, &e.to_string()),
            }
        }
        connection.out.clear();
        connection.written = 0;
    }

    /// Fails everything in flight on connection `i` and lets it be opened again in a moment.
    fn broken(&mut self, run: &mut Run<'_>, i: usize, reason: &str) {
        let now = clock::now();
        let connection = &mut self.connections[i];
        self.in_flight -= connection.fail_all(|slot| {
            run.failed(slot, ErrorKind::Conn, || reason.to_owned());
        });
        connection.stream = None; // closing the descriptor also takes it out of epoll
        connection.connected = false;
        connection.leaving = None;
        connection.course.broken(&self.options.endpoints);
        connection.paused_until = now + RECONNECT_NS;
        self.next_pause_end = self.next_pause_end.min(connection.paused_until);
    }

    /// Opens broken connections again and lets those go on whose pause is over.
    fn wake_paused(&mut self, run: &mut Run<'_>) {
        if self.next_pause_end == u64::MAX {
            return;
        }
        let now = clock::now();
        if now < self.next_pause_end {
            return;
        }
        self.next_pause_end = u64::MAX;
        for i in 0..self.connections.len() {
            let connection = &mut self.connections[i];
            if connection.paused_until > now {
                self.next_pause_end = self.next_pause_end.min(connection.paused_until);
            } else if std::mem::take(&mut connection.paused_until) != 0 && now < run.end {
                if connection.stream.is_none() {
                    self.reopen(run, i);
                } else if run.pace == Pace::Closed {
                    self.fill(run, i, now);
                    self.flush(run, i);
                }
            }
        }
    }

    fn reopen(&mut self, run: &mut Run<'_>, i: usize) {
        self.reconnects += 1;
        let connection = &mut self.connections[i];
        let opened = TcpStream::connect(connection.course.endpoint).and_then(|stream| {
            connection.stream = Some(stream);
            connection.register(&self.poll, i)
        });
        if let Err(e) = opened {
            self.broken(run, i, &e.to_string());
        }
    }

    /// Once a second: a connection whose oldest request is far over its deadline is given up.
    fn give_up_on_lost_replies(&mut self, run: &mut Run<'_>, now: u64) {
        let patience = self.options.timeout.as_nanos() as u64 + REPLY_GRACE_NS;
        for i in 0..self.connections.len() {
            let slots = self.connections[i].slots.iter();
            let oldest = slots.filter(|s| s.id != 0).map(|s| s.sent).min();
            if oldest.is_some_and(|sent| now.saturating_sub(sent) > patience) {
                self.broken(run, i, "no reply within the timeout");
            }
        }
    }

    fn drained_long_enough(&self, run: &Run<'_>, now: u64) -> bool {
        now > run.end.saturating_add(self.options.timeout.as_nanos() as u64)
    }

    /// After the drain: what is still unanswered is an error, not a silence.
    fn abandon_in_flight(&mut self, run: &mut Run<'_>) {
        for i in 0..self.connections.len() {
            let abandoned = self.connections[i].fail_all(|slot| {
                let kind = match slot.op.kind {
                    OpKind::Put => ErrorKind::Unknown,
                    OpKind::Get | OpKind::Scan => ErrorKind::Deadline,
                };
                run.failed(slot, kind, || "no reply when the run ended".into());
            });
            self.in_flight -= abandoned;
            if abandoned > 0 {
                self.connections[i].stream = None;
                self.connections[i].connected = false;
            }
        }
    }

    fn print_progress(&self, run: &mut Run<'_>, now: u64, last: u64) {
        let line = run.recorder.take_progress(now - last);
        if !self.options.progress {
            return;
        }
        let at = (now - run.begin) / SECOND_NS;
        match run.until {
            Until::Written { keys } => {
                let done = run.written * 100 / keys.max(1);
                eprintln!("preload {done:>3} %  {} of {keys} keys  {line}", run.written);
            }
            Until::Elapsed { warmup_ns, .. } => {
                let phase = if now < run.begin + warmup_ns + SECOND_NS / 2 { "warmup" } else { "" };
                eprintln!("{at:>4} s {line}  {phase}");
            }
        }
    }
}

impl Connection {
    fn new(course: Course, pipeline: usize) -> Self {
        let pipeline = pipeline.clamp(1, 1 << 16);
        Self {
            course,
            stream: None,
            connected: false,
            out: Vec::new(),
            written: 0,
            tail: Vec::new(),
            slots: vec![FREE; pipeline],
            free: (0..pipeline).rev().map(|i| i as u16).collect(),
            order: VecDeque::new(),
            serial: 0,
            paused_until: 0,
            leaving: None,
        }
    }

    /// Whether requests may be sent on it now, if a slot is free.
    const fn takes_more(&self, now: u64) -> bool {
        self.connected && self.paused_until <= now && self.leaving.is_none()
    }

    fn register(&mut self, poll: &Poll, i: usize) -> io::Result<()> {
        let Some(stream) = self.stream.as_mut() else { return Ok(()) };
        stream.set_nodelay(true)?;
        poll.registry().register(stream, Token(i), Interest::READABLE | Interest::WRITABLE)
    }

    /// Puts one request into the output buffer. There must be a free slot.
    fn send<P: Protocol>(
        &mut self,
        protocol: &mut P,
        workload: &mut Workload,
        op: Op,
        start: u64,
        now: u64,
    ) {
        let index = self.free.pop().expect("the caller checked that a slot is free");
        self.serial += 1;
        let id = self.serial << 16 | u64::from(index);
        self.slots[usize::from(index)] = Slot { id, start, sent: now, op };
        if P::IN_ORDER {
            self.order.push_back(index);
        }
        protocol.encode(&op, id, workload, &mut self.out);
    }

    /// Frees the slot that a reply answers.
    fn release(&mut self, id: u64) -> Result<Slot, String> {
        let index = match self.order.pop_front() {
            Some(index) => index,
            None => id as u16,
        };
        match self.slots.get_mut(usize::from(index)) {
            Some(slot) if slot.id != 0 && (id == 0 || slot.id == id) => {
                self.free.push(index);
                Ok(std::mem::replace(slot, FREE))
            }
            _ => Err(format!("a reply to request id {id}, which is not in flight")),
        }
    }

    /// Frees all slots and forgets all buffered bytes; returns how many were in flight.
    fn fail_all(&mut self, mut each: impl FnMut(&Slot)) -> usize {
        let mut failed = 0;
        for index in 0..self.slots.len() {
            if self.slots[index].id != 0 {
                each(&self.slots[index]);
                self.slots[index] = FREE;
                self.free.push(index as u16);
                failed += 1;
            }
        }
        self.order.clear();
        self.out.clear();
        self.written = 0;
        self.tail.clear();
        failed
    }
}

/// Connects to the first endpoint of the course that answers.
fn connect_somewhere(
    course: &mut Course,
    options: &DriverOptions,
) -> Result<std::net::TcpStream, String> {
    let mut causes = Vec::new();
    for _ in &options.endpoints {
        let endpoint = course.endpoint;
        let stream = std::net::TcpStream::connect_timeout(&endpoint, options.timeout)
            .and_then(|s| s.set_nonblocking(true).map(|()| s));
        match stream {
            Ok(stream) => return Ok(stream),
            Err(e) => causes.push(format!("connecting to {endpoint}: {e}")),
        }
        course.broken(&options.endpoints);
    }
    Err(format!("{}; is the server running there?", causes.join("; ")))
}

/// Operations that an open-loop schedule has in the measured window.
fn scheduled(pace: Pace, until: Until) -> u64 {
    match (pace, until) {
        (Pace::Open { rate }, Until::Elapsed { measure_ns, .. }) => {
            (rate * measure_ns as f64 / 1e9) as u64
        }
        _ => 0,
    }
}

impl Run<'_> {
    fn finished(&self, now: u64) -> bool {
        match self.until {
            Until::Written { keys } => self.written >= keys,
            Until::Elapsed { .. } => now >= self.end,
        }
    }

    fn next_op(&mut self) -> Option<Op> {
        let Until::Written { keys } = self.until else { return Some(self.workload.next_op()) };
        let key = match self.again.pop() {
            Some(key) => key,
            None if self.next_key < keys => {
                self.next_key += 1;
                self.next_key - 1
            }
            None => return None,
        };
        Some(Op { kind: OpKind::Put, key, missing: false })
    }

    fn count_sent(&mut self, intended: u64) {
        if let Until::Elapsed { warmup_ns, .. } = self.until {
            self.summary.sent += u64::from(intended >= self.begin + warmup_ns);
        }
    }

    fn outcome(&mut self, connection: &mut Connection, slot: &Slot, now: u64, outcome: Outcome) {
        match outcome {
            Outcome::Done { found } => {
                connection.course.served();
                self.written += 1;
                self.recorder.success(slot.op.kind, slot.start, now, found);
            }
            Outcome::Error { kind, retry_after_ms, leader, message } => {
                match kind {
                    ErrorKind::Busy => {
                        let pause = u64::from(retry_after_ms) * 1_000_000;
                        connection.paused_until = now + pause.max(BUSY_PAUSE_NS);
                    }
                    ErrorKind::NotLeader => {
                        connection.leaving.get_or_insert((leader, retry_after_ms));
                    }
                    _ => {}
                }
                self.failed(slot, kind, || message);
            }
        }
    }

    fn failed(&mut self, slot: &Slot, kind: ErrorKind, detail: impl FnOnce() -> String) {
        self.recorder.error(kind, slot.start, detail);
        if matches!(self.until, Until::Written { .. }) {
            self.again.push(slot.op.key);
        }
    }
}

impl RunSummary {
    /// How much of the schedule was sent, 1 in a closed loop.
    #[must_use]
    pub fn sent_share(&self) -> f64 {
        if self.scheduled == 0 { 1.0 } else { self.sent as f64 / self.scheduled as f64 }
    }
}
