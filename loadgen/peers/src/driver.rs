//! The closed loop: `clients × pipeline` tasks on one thread, each with one request in flight, over `conns` connections.
//!
//! ```text
//!   task ──▶ next operation ──▶ call over its connection ──▶ record(now - sent) ──▶ the same again
//!   link ──▶ connect ──▶ hand the connection to its tasks ──▶ until it breaks ──▶ connect again
//! ```
//!
//! Invariants:
//! - One thread does everything, as in `beach_loadgen::driver`: what it costs the machine is its `client_cpu`.
//! - Connections go to the leader unless `spread` is asked for: a follower forwards puts and asks the leader before it reads,
//!   which is a hop that the other side of the comparison does not pay. Where the leader is, is asked when a connection is made.
//!   When it moves meanwhile, requests are forwarded; they do not fail.
//! - A connection that breaks fails what was in flight on it and is opened again; a refused operation is not sent again.

use crate::messages::{self, Status};
use crate::rpc::{self, Failure};
use beach_loadgen::clock;
use beach_loadgen::driver::{RunSummary, Until};
use beach_loadgen::stats::Recorder;
use beach_loadgen::workload::{Op, OpKind, Workload};
use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::task::{JoinSet, LocalSet, spawn_local};
use tokio::time::{sleep, timeout};

/// How long to wait before a broken connection is opened again.
const RECONNECT: Duration = Duration::from_millis(100);
/// How long a task waits after a refusal, and between looks at a connection that is down.
const PAUSE: Duration = Duration::from_millis(20);
const SECOND_NS: u64 = 1_000_000_000;
/// How long no connection may stand before the run is given up.
const OUTAGE_NS: u64 = 15 * SECOND_NS;

/// Settings of a [`Driver`].
#[derive(Clone, Debug)]
pub struct DriverOptions {
    /// The members of the cluster.
    pub endpoints: Vec<SocketAddr>,
    /// Clients.
    pub clients: usize,
    /// Requests in flight of each client.
    pub pipeline: usize,
    /// Connections that they share.
    pub conns: usize,
    /// Connections go to all endpoints in turn, not to the leader.
    pub spread: bool,
    /// How long an answer is waited for.
    pub timeout: Duration,
    /// Entries asked for by a scan.
    pub scan_length: u32,
    /// Whether to print a line each second to stderr.
    pub progress: bool,
}

/// A connection as its tasks see it.
struct Link {
    /// Its place in the list: where it goes when connections are spread.
    number: usize,
    server: RefCell<Option<Server>>,
}

/// An open connection, and the heads of the requests to it.
#[derive(Clone)]
struct Server {
    connection: SendRequest<Bytes>,
    put: Request<()>,
    range: Request<()>,
}

/// What all tasks of one run share.
struct Run {
    workload: Workload,
    recorder: Recorder,
    until: Until,
    begin: u64,
    end: u64,
    /// Preload: next key, those to try again, and how many are written.
    next_key: u64,
    again: Vec<u64>,
    written: u64,
}

struct Shared {
    options: DriverOptions,
    links: Vec<Link>,
    reconnects: Cell<u64>,
    /// There is only one thread, and no borrow lives across an await.
    run: RefCell<Option<Run>>,
    /// The run is given up.
    stop: Cell<bool>,
}

/// The loop and its connections.
pub struct Driver {
    runtime: Runtime,
    local: LocalSet,
    shared: Rc<Shared>,
}

impl Driver {
    /// Opens all connections and waits until they stand.
    pub fn connect(options: DriverOptions) -> Result<Self, String> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| format!("the event loop: {e}"))?;
        let local = LocalSet::new();
        let links = (0..options.conns.max(1))
            .map(|number| Link { number, server: RefCell::new(None) })
            .collect();
        let shared = Rc::new(Shared {
            options,
            links,
            reconnects: Cell::new(0),
            run: RefCell::new(None),
            stop: Cell::new(false),
        });
        local.block_on(&runtime, shared.clone().connect_all())?;
        Ok(Self { runtime, local, shared })
    }

    /// Runs operations of `workload` until the end and waits for the last replies; gives the workload back.
    pub fn run(
        &self,
        workload: Workload,
        until: Until,
    ) -> Result<(Workload, Recorder, RunSummary), String> {
        let begin = clock::now();
        let (window, end) = match until {
            Until::Written { .. } => (begin..u64::MAX, u64::MAX),
            Until::Elapsed { warmup_ns, measure_ns } => {
                let measured = begin + warmup_ns;
                (measured..measured + measure_ns, measured + measure_ns)
            }
        };
        let mut recorder = Recorder::default();
        recorder.set_window(window);
        let (next_key, again, written) = (0, Vec::new(), 0);
        let run = Run { workload, recorder, until, begin, end, next_key, again, written };
        self.shared.run.replace(Some(run));
        let cpu_before = clock::thread_cpu();
        let result = self.local.block_on(&self.runtime, self.shared.clone().drive());
        let elapsed = clock::now().saturating_sub(begin).max(1);
        let cpu = clock::thread_cpu().saturating_sub(cpu_before);
        let run = self.shared.run.take().expect("it was put there above");
        result?;
        let summary = RunSummary {
            client_cpu: cpu as f64 / elapsed as f64,
            reconnects: self.shared.reconnects.get(),
            ..RunSummary::default()
        };
        Ok((run.workload, run.recorder, summary))
    }
}

impl Shared {
    async fn connect_all(self: Rc<Self>) -> Result<(), String> {
        let leader = if self.options.spread { None } else { Some(self.find_leader().await?) };
        for link in 0..self.links.len() {
            let (n, at) = (self.options.endpoints.len(), self.links[link].number);
            let mut causes = Vec::new();
            for k in 0..n {
                let endpoint = leader.unwrap_or(self.options.endpoints[(at + k) % n]);
                match self.open(endpoint).await {
                    Ok(opened) => {
                        let ended = self.publish(link, endpoint, opened);
                        spawn_local(self.clone().keep_open(link, ended));
                        break;
                    }
                    Err(e) => causes.push(e),
                }
            }
            if self.links[link].server.borrow().is_none() {
                return Err(format!("{}; is etcd running there?", causes.join("; ")));
            }
        }
        Ok(())
    }

    async fn open(&self, endpoint: SocketAddr) -> Result<Opened, String> {
        let opening = async {
            let stream = TcpStream::connect(endpoint).await.map_err(|e| e.to_string())?;
            stream.set_nodelay(true).map_err(|e| e.to_string())?;
            rpc::connection_settings().handshake(stream).await.map_err(|e| e.to_string())
        };
        let opened = timeout(self.options.timeout, opening).await;
        opened
            .unwrap_or_else(|_| Err("no answer within the timeout".into()))
            .map_err(|e| format!("connecting to {endpoint}: {e}"))
    }

    /// Hands an open connection to the tasks; what is returned ends with it.
    fn publish(&self, link: usize, endpoint: SocketAddr, opened: Opened) -> Connection {
        let (connection, io) = opened;
        let put = rpc::head(endpoint, messages::PUT);
        let range = rpc::head(endpoint, messages::RANGE);
        self.links[link].server.replace(Some(Server { connection, put, range }));
        io
    }

    /// Drives connection `link`, and opens it again whenever it breaks, to the leader or else the next endpoint.
    async fn keep_open(self: Rc<Self>, link: usize, mut io: Connection) {
        let mut at = self.links[link].number;
        loop {
            // What broke it is in the failures of the requests that were in flight.
            drop(io.await);
            self.links[link].server.replace(None);
            io = loop {
                sleep(RECONNECT).await;
                self.reconnects.set(self.reconnects.get() + 1);
                at += 1;
                let next = self.options.endpoints[at % self.options.endpoints.len()];
                let leader = if self.options.spread { None } else { self.find_leader().await.ok() };
                let endpoint = leader.unwrap_or(next);
                if let Ok(opened) = self.open(endpoint).await {
                    break self.publish(link, endpoint, opened);
                }
            };
        }
    }

    /// The endpoint that says of itself that it leads.
    async fn find_leader(&self) -> Result<SocketAddr, String> {
        let mut seen = Vec::new();
        for endpoint in &self.options.endpoints {
            match self.status(*endpoint).await {
                Ok(status) if status.leader != 0 && status.leader == status.member => {
                    return Ok(*endpoint);
                }
                Ok(status) if status.leader == 0 => seen.push(format!("{endpoint} has no leader")),
                Ok(status) => seen.push(format!("{endpoint} follows {:x}", status.leader)),
                Err(e) => seen.push(e),
            }
        }
        Err(format!(
            "no endpoint leads (name all members in --endpoints, or use --spread): {}",
            seen.join("; ")
        ))
    }

    /// Asks one member over a connection of its own.
    async fn status(&self, endpoint: SocketAddr) -> Result<Status, String> {
        let (connection, io) = self.open(endpoint).await?;
        let io = spawn_local(io);
        let head = rpc::head(endpoint, messages::STATUS);
        let asked = rpc::call(connection, head, messages::status());
        let answer = timeout(self.options.timeout, asked).await.unwrap_or(Err(Failure::Timeout));
        io.abort();
        answer
            .map_err(|failure| failure.classify(OpKind::Get).1)
            .and_then(|body| messages::parse_status(&body))
            .map_err(|e| format!("asking {endpoint} for its status: {e}"))
    }

    /// Starts the clients, and once a second looks at what they do.
    async fn drive(self: Rc<Self>) -> Result<(), String> {
        self.stop.set(false);
        let mut clients = JoinSet::new();
        for i in 0..self.options.clients * self.options.pipeline {
            let link = (i / self.options.pipeline) % self.links.len();
            clients.spawn_local(self.clone().client(link));
        }
        let second = Duration::from_nanos(SECOND_NS);
        let mut last = clock::now();
        let (mut next, mut last_standing) = (last + SECOND_NS, last);
        let mut lost = None;
        loop {
            let now = clock::now();
            if now >= next {
                self.print_progress(now, last);
                (last, next) = (now, next + SECOND_NS);
                if self.links.iter().any(|link| link.server.borrow().is_some()) {
                    last_standing = now;
                } else if now - last_standing > OUTAGE_NS && lost.is_none() {
                    self.stop.set(true);
                    lost = Some(self.outage());
                }
            }
            let wait = Duration::from_nanos(next.saturating_sub(now)).min(second);
            match timeout(wait, clients.join_next()).await {
                Ok(None) => return lost.map_or(Ok(()), Err),
                Ok(Some(Err(e))) => return Err(format!("a client ended by itself: {e}")),
                Ok(Some(Ok(()))) | Err(_) => {}
            }
        }
    }

    fn outage(&self) -> String {
        let run = self.run.borrow();
        let first = run.as_ref().and_then(|run| run.recorder.first_error()).unwrap_or("none");
        format!(
            "all {} connections are broken for {} s; first error: {first}",
            self.links.len(),
            OUTAGE_NS / SECOND_NS
        )
    }

    /// One request after the other until the run ends.
    async fn client(self: Rc<Self>, link: usize) {
        loop {
            let server = self.links[link].server.borrow().clone();
            let Some(server) = server else {
                if self.stop.get() || self.with_run(|run| run.is_over(clock::now())) {
                    return;
                }
                sleep(PAUSE).await;
                continue;
            };
            let start = clock::now();
            let scan_length = self.options.scan_length;
            let next = self.with_run(|run| run.next(start, scan_length));
            let Some((op, body)) = next.filter(|_| !self.stop.get()) else { return };
            let head = if op.kind == OpKind::Put { server.put } else { server.range };
            let call = rpc::call(server.connection, head, body);
            let answer = timeout(self.options.timeout, call).await;
            let answer = answer
                .unwrap_or(Err(Failure::Timeout))
                .and_then(|body| messages::parse_answer(&body).map_err(Failure::Proto));
            let end = clock::now();
            let refused = answer.is_err();
            self.with_run(|run| run.outcome(op, start, end, answer));
            if refused {
                sleep(PAUSE).await;
            }
        }
    }

    fn with_run<T>(&self, f: impl FnOnce(&mut Run) -> T) -> T {
        f(self.run.borrow_mut().as_mut().expect("clients live only during a run"))
    }

    fn print_progress(&self, now: u64, last: u64) {
        self.with_run(|run| {
            let line = run.recorder.take_progress(now - last);
            if !self.options.progress {
                return;
            }
            match run.until {
                Until::Written { keys } => {
                    let done = run.written * 100 / keys.max(1);
                    eprintln!("preload {done:>3} %  {} of {keys} keys  {line}", run.written);
                }
                Until::Elapsed { warmup_ns, .. } => {
                    let warm = now < run.begin + warmup_ns + SECOND_NS / 2;
                    let phase = if warm { "warmup" } else { "" };
                    eprintln!("{:>4} s {line}  {phase}", (now - run.begin) / SECOND_NS);
                }
            }
        });
    }
}

type Connection = h2::client::Connection<TcpStream, Bytes>;
type Opened = (SendRequest<Bytes>, Connection);

impl Run {
    fn is_over(&self, now: u64) -> bool {
        match self.until {
            Until::Written { keys } => self.written >= keys,
            Until::Elapsed { .. } => now >= self.end,
        }
    }

    /// The next operation and its request, or nothing when the run is over.
    fn next(&mut self, now: u64, scan_length: u32) -> Option<(Op, Bytes)> {
        let op = match self.until {
            Until::Elapsed { .. } if now >= self.end => return None,
            Until::Elapsed { .. } => self.workload.next_op(),
            Until::Written { keys } => {
                let key = match self.again.pop() {
                    Some(key) => key,
                    None if self.next_key < keys => {
                        self.next_key += 1;
                        self.next_key - 1
                    }
                    // What is still in flight and fails is tried again by the client that had it.
                    None => return None,
                };
                Op { kind: OpKind::Put, key, missing: false }
            }
        };
        let body = match op.kind {
            OpKind::Put => {
                let (key, value) = self.workload.key_value(&op);
                messages::put(key, value)
            }
            OpKind::Get => messages::get(self.workload.key(&op)),
            OpKind::Scan => messages::scan(self.workload.key(&op), scan_length),
        };
        Some((op, body))
    }

    fn outcome(&mut self, op: Op, start: u64, end: u64, answer: Result<messages::Answer, Failure>) {
        match answer {
            Ok(answer) => {
                self.written += 1;
                let found = op.kind == OpKind::Put || answer.pairs > 0;
                self.recorder.success(op.kind, start, end, found);
            }
            Err(failure) => {
                let (kind, message) = failure.classify(op.kind);
                self.recorder.error(kind, start, || message);
                if matches!(self.until, Until::Written { .. }) {
                    self.again.push(op.key);
                }
            }
        }
    }
}
