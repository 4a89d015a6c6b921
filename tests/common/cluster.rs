//! Several real `beachd` processes on loopback, which form a cluster: each with its own directory and ports picked
//! beforehand (bound, noted, and let go), killed by their own handles.
//!
//! Timing: heartbeats of 20 ms and elections of 200 ms, so that a failover takes a moment and not seconds; a test machine may
//! stall for longer than that, so tests wait for what must happen in the end and never assert that nobody was elected anew.

use super::{
    Daemon, PATIENCE, Wire, beachd_program, command_of, http_get, try_http_get, wait_until,
};
use beachdb::proto::{ErrorCode, Response};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// What the nodes of a test cluster are set to, if nothing else is asked for.
const FAST: [&str; 4] = ["--heartbeat", "20ms", "--election-timeout", "200ms"];

/// What a daemon says whose port is taken.
const PORT_IN_USE: &str = "Address already in use";

/// The first port that [`free_address`] gives, and how many there are. They are below those that the system gives to
/// connections, so that the port of a node that is down for a while is still its own when it comes back.
const PORTS: (u16, u16) = (20_000, 12_000);

/// A port nobody has now. Another process may take it before we do; [`Cluster::wait_ready`] tries again then.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let (first, many) = PORTS;
    // Processes begin in different places.
    let begin = std::process::id().wrapping_mul(64);
    for _ in 0..many {
        let n = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % u32::from(many);
        let at = SocketAddr::from(([127, 0, 0, 1], first + n as u16));
        if TcpListener::bind(at).is_ok() {
            return at;
        }
    }
    panic!("no port from {first} on is free");
}

/// Where a node runs: its ports, and what enters its network namespace.
pub struct Place {
    /// The client port.
    pub listen: SocketAddr,
    /// The peer port.
    pub peer: SocketAddr,
    /// The HTTP port.
    pub http: SocketAddr,
    /// A program that runs the daemon in its own place (so that the process id stays), with its arguments; nothing = none.
    pub wrap: Vec<String>,
}

impl Place {
    fn on_loopback() -> Self {
        Self::wrapped(Vec::new())
    }

    /// On loopback, run by this program.
    pub fn wrapped(wrap: Vec<String>) -> Self {
        let (listen, peer, http) = (free_address(), free_address(), free_address());
        Self { listen, peer, http, wrap }
    }
}

/// One node: its place, and its process while it runs.
pub struct Node {
    /// Its number.
    pub id: u64,
    /// Its data directory.
    pub data: PathBuf,
    /// The client port.
    pub listen: SocketAddr,
    /// The peer port.
    pub peer: SocketAddr,
    /// The HTTP port.
    pub http: SocketAddr,
    /// The process.
    pub daemon: Option<Daemon>,
    /// Settings of this node alone, in place of those that all have: names and values, as in [`Cluster::args`].
    pub own: Vec<String>,
    /// The program that it runs, when that is not the `beachd` to test.
    pub program: Option<PathBuf>,
    /// What it was started with last.
    args: Vec<String>,
    /// See [`Place`].
    pub wrap: Vec<String>,
}

impl Node {
    fn new(dir: &std::path::Path, id: u64, place: Place) -> Self {
        let Place { listen, peer, http, wrap } = place;
        let data = dir.join(format!("n{id}"));
        let (daemon, program, own, args) = (None, None, Vec::new(), Vec::new());
        Self { id, data, listen, peer, http, daemon, program, own, args, wrap }
    }

    /// Its command, with these settings besides.
    pub fn command(&self, args: &[&str]) -> Command {
        let (id, listen) = (self.id.to_string(), self.listen.to_string());
        let (peer, http) = (self.peer.to_string(), self.http.to_string());
        let own = [
            ["--node-id", &id],
            ["--listen", &listen],
            ["--peer-listen", &peer],
            ["--http", &http],
        ];
        let all: Vec<&str> = own.iter().flatten().chain(args).copied().collect();
        let wrap: Vec<&str> = self.wrap.iter().map(String::as_str).collect();
        let program = self.program.as_deref().unwrap_or_else(|| beachd_program());
        command_of(program, &wrap, &self.data, &all)
    }

    /// A document of its HTTP port; `None` while nobody listens there.
    pub fn status(&self) -> Option<serde_json::Value> {
        let page = try_http_get(self.http, "/status").ok()?;
        serde_json::from_str(page.split_once("\r\n\r\n")?.1).ok()
    }

    /// What `/readyz` says.
    pub fn readyz(&self) -> String {
        http_get(self.http, "/readyz")
    }

    /// A field of its status as text; empty while there is none.
    pub fn field(&self, name: &str) -> String {
        match self.status().map(|status| status[name].clone()) {
            None | Some(serde_json::Value::Null) => String::new(),
            Some(serde_json::Value::String(text)) => text,
            Some(other) => other.to_string(),
        }
    }

    /// A connection to its client port.
    pub fn connect(&self) -> Wire {
        Wire::connect(self.listen).expect("it accepts clients")
    }

    /// What it logged.
    pub fn log(&self) -> String {
        self.daemon.as_ref().map_or_else(String::new, Daemon::log)
    }
}

/// See the module.
pub struct Cluster {
    /// The nodes, by their numbers from 1 on.
    pub nodes: Vec<Node>,
    /// Settings of every node: the timing, unless it is changed before the start.
    pub args: Vec<String>,
    /// Removed at the end.
    pub dir: tempfile::TempDir,
}

impl Cluster {
    /// `nodes` places, nobody started.
    pub fn prepared(nodes: u64) -> Self {
        Self::at((0..nodes).map(|_| Place::on_loopback()))
    }

    /// The same, with nodes at these places.
    pub fn at(places: impl IntoIterator<Item = Place>) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let node = |(id, place)| Node::new(dir.path(), id, place);
        let nodes = (1..).zip(places).map(node).collect();
        Self { nodes, args: FAST.map(str::to_owned).to_vec(), dir }
    }

    /// `nodes` nodes that have formed a cluster and serve.
    pub fn start(nodes: u64) -> Self {
        let mut cluster = Self::prepared(nodes);
        cluster.form();
        cluster
    }

    /// Starts all nodes and waits until they serve.
    pub fn form(&mut self) {
        let ids: Vec<u64> = self.nodes.iter().map(|node| node.id).collect();
        for id in &ids {
            self.spawn(*id);
        }
        self.wait_ready(&ids);
    }

    /// `--initial-cluster` with all places.
    pub fn list(&self) -> String {
        let members: Vec<String> =
            self.nodes.iter().map(|node| format!("{}={}", node.id, node.peer)).collect();
        members.join(",")
    }

    /// A node.
    pub fn node(&self, id: u64) -> &Node {
        &self.nodes[id as usize - 1]
    }

    /// The client ports of all places.
    pub fn endpoints(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.listen.to_string()).collect()
    }

    /// One more place.
    pub fn add_place(&mut self) -> u64 {
        let id = self.nodes.len() as u64 + 1;
        self.nodes.push(Node::new(self.dir.path(), id, Place::on_loopback()));
        id
    }

    /// Starts a node as a member of the list, without waiting for it.
    pub fn spawn(&mut self, id: u64) {
        let list = self.list();
        self.spawn_with(id, &["--initial-cluster", &list]);
    }

    /// Starts a node with these settings, without waiting for it.
    pub fn spawn_with(&mut self, id: u64, args: &[&str]) {
        let node = &self.nodes[id as usize - 1];
        let common = self.args.chunks(2).filter(|setting| !node.own.contains(&setting[0]));
        let settings = common.flatten().chain(&node.own).map(String::as_str);
        let all: Vec<&str> = settings.chain(args.iter().copied()).collect();
        let daemon = Daemon::spawn(node.command(&all), &node.data, node.listen, node.http);
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let node = &mut self.nodes[id as usize - 1];
        (node.daemon, node.args) = (Some(daemon), args);
    }

    /// Waits until these nodes serve. One whose port another process has for the moment is started again.
    pub fn wait_ready(&mut self, ids: &[u64]) {
        let begin = Instant::now();
        // All in turn: one that waits for the others to form the cluster is not ready before they run.
        while ids.iter().filter(|id| !self.is_ready(**id, begin)).count() > 0 {
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether a node serves that has been waited for since then.
    fn is_ready(&mut self, id: u64, since: Instant) -> bool {
        let node = &mut self.nodes[id as usize - 1];
        if node.field("ready") == "true" {
            return true;
        }
        let runs = node.daemon.as_mut().is_some_and(Daemon::is_running);
        if !runs {
            // Also until its last words have been read.
            thread::sleep(Duration::from_millis(200));
        }
        if !runs && since.elapsed() < PATIENCE && node.log().contains(PORT_IN_USE) {
            let args = node.args.clone();
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            self.spawn_with(id, &args);
            return false;
        }
        assert!(
            runs && since.elapsed() < PATIENCE,
            "node {id} is not ready ({}); its log:\n{}",
            node.field("not_ready_reason"),
            node.log()
        );
        false
    }

    /// SIGKILL.
    pub fn kill(&mut self, id: u64) {
        self.nodes[id as usize - 1].daemon.take().expect("it runs").kill();
    }

    /// SIGTERM; panics when it does not end well.
    pub fn terminate(&mut self, id: u64) -> Duration {
        let daemon = self.nodes[id as usize - 1].daemon.take().expect("it runs");
        let (status, took) = daemon.terminate();
        assert!(status.success(), "node {id}: {status}");
        took
    }

    /// The nodes that run.
    pub fn running(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.daemon.is_some())
    }

    /// The node that leads and that all follow that run and belong to the cluster; waits for one.
    pub fn leader(&self) -> u64 {
        self.leader_of(&self.running().map(|node| node.id).collect::<Vec<_>>())
    }

    /// The one of these nodes that leads and that they all follow, whatever the others think; waits for it.
    pub fn leader_of(&self, ids: &[u64]) -> u64 {
        let mut found = 0;
        wait_until("an election", || {
            let nodes = || ids.iter().map(|id| self.node(*id));
            let leads = nodes().find(|node| node.field("role") == "leader");
            found = leads.map_or(0, |node| node.id);
            let follows = |node: &Node| {
                node.field("leader") == found.to_string() || node.field("members") == "[]"
            };
            found != 0 && nodes().all(follows)
        });
        found
    }

    /// Somebody who does not lead.
    pub fn follower(&self) -> u64 {
        let leader = self.leader();
        self.running().map(|node| node.id).find(|id| *id != leader).expect("a follower")
    }

    /// Writes through whoever leads; tries again while it was certainly not applied, or is a put of the same again anyway.
    pub fn put(&self, key: &[u8], value: &[u8]) {
        let begin = Instant::now();
        loop {
            for node in self.running() {
                let Ok(mut wire) = Wire::connect(node.listen) else { continue };
                match wire.put(key, value).response {
                    Response::Written { .. } => return,
                    Response::Error(error) => assert!(
                        matches!(
                            error.code,
                            ErrorCode::NotLeader
                                | ErrorCode::Busy
                                | ErrorCode::DeadlineExceeded
                                | ErrorCode::ShuttingDown
                        ),
                        "{error}"
                    ),
                    other => panic!("{other:?}"),
                }
            }
            assert!(begin.elapsed() < PATIENCE, "nobody takes a write");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// A linearizable read at this node; waits while it knows no leader.
    pub fn get(&self, id: u64, key: &[u8]) -> Option<Vec<u8>> {
        let begin = Instant::now();
        loop {
            let request =
                beachdb::proto::Request::Get { key, snapshot: beachdb::base::SequenceNumber::ZERO };
            match self.node(id).connect().ask(&request).response {
                Response::Value { value, .. } => return Some(value.to_vec()),
                Response::NotFound { .. } => return None,
                Response::Error(error) => {
                    assert!(error.code.retryable(), "{error}");
                    assert!(begin.elapsed() < PATIENCE, "node {id} answers no read: {error}");
                    thread::sleep(Duration::from_millis(10));
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// On this connection, or, when the server is busy or has lost the leadership on a slow machine, until it is written.
    pub fn put_on(&self, wire: &mut Wire, key: &[u8], value: &[u8]) {
        if !matches!(wire.put(key, value).response, Response::Written { .. }) {
            self.put(key, value);
        }
    }

    /// Writes about 70 MiB, `key-0` to `key-1399`: more than two segments of the log, and enough entries that its tail is not
    /// all there is. A node that is down meanwhile needs a snapshot, if the memtables are small (`--memtable-size 1MiB`).
    pub fn outgrow(&self) {
        let mut wire = self.node(self.leader()).connect();
        let large = vec![7; 256 << 10];
        for n in 0..1_400_u32 {
            let value = if n % 5 == 0 { &large[..] } else { b"small" };
            self.put_on(&mut wire, format!("key-{n}").as_bytes(), value);
        }
    }

    /// Waits until every running node has applied the same.
    pub fn settle(&self) {
        wait_until("equal logs", || {
            let applied: Vec<String> = self.running().map(|node| node.field("applied")).collect();
            applied.iter().all(|a| *a == applied[0] && !a.is_empty())
        });
    }
}
