//! [`Cluster`]: nodes over simulated disks, on one clock, with a network that delivers at once, loses every n-th message,
//! or cuts links.

use crate::base::batch::{BatchRef, WriteBatch};
use crate::base::{ClusterUid, LogIndex, Membership, Nanos, NodeId, ReplicaId, SequenceNumber};
use crate::env::Lane;
use crate::env::sim::{self, CrashKind, SimHandles};
use crate::env::{Env, Jobs};
use crate::node::OpenError;
use crate::node::sim::SimDriver;
use crate::node::{
    Admin, Bootstrap, EngineMachine, Event, NewCluster, Node, NodeConfig, Origin, RecoverError,
    Recovery, RecoveryPlan,
};
use crate::node::{FEATURES, PeerFacts};
use crate::proto::{ErrorReply, Opcode, Request, Response};
use crate::raft::{LogView, Role};
use crate::raft_log::{LogImage, RaftLog};
use std::collections::{BTreeMap, BTreeSet};

type Driver = SimDriver<RaftLog, EngineMachine>;

/// Rounds of delivery after which a cluster that finds no rest is reported.
const SETTLE_ROUNDS_MAX: usize = 100_000;
const RAFT_DIR: &str = "data/raft";
/// How time passes.
const STEP_MS: u64 = 10;

struct Slot {
    env: Env,
    sim: SimHandles,
    config: NodeConfig,
    driver: Option<Driver>,
    down: bool,
}

/// The same for the same number, and no pattern in those of numbers that follow each other (splitmix64).
const fn scatter(n: u64) -> u64 {
    let x = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// See the module.
pub struct Cluster {
    slots: BTreeMap<u64, Slot>,
    now: Nanos,
    cuts: BTreeSet<(u64, u64)>,
    lose_one_of: u64,
    messages: u64,
    next_request: u64,
    seed: u64,
    change: fn(&mut NodeConfig),
}

fn incarnation(node: u64, life: u64) -> u64 {
    100 * life + node
}

impl Cluster {
    /// Nodes 1 to `nodes`, voters from the beginning.
    pub fn of(nodes: u64, change: fn(&mut NodeConfig)) -> Self {
        Self::seeded(0, nodes, change)
    }

    /// The same with other timeouts for each seed.
    pub fn seeded(seed: u64, nodes: u64, change: fn(&mut NodeConfig)) -> Self {
        let mut cluster = Self {
            slots: BTreeMap::new(),
            now: Nanos::ZERO,
            cuts: BTreeSet::new(),
            lose_one_of: 0,
            messages: 0,
            next_request: 1,
            seed,
            change,
        };
        let replica = |n| ReplicaId { node: NodeId(n), incarnation: incarnation(n, 0) };
        let members = Membership::of_voters((1..=nodes).map(replica));
        for node in 1..=nodes {
            cluster.begin(node, 0, Bootstrap::Members(members.clone()));
        }
        cluster
    }

    /// The same, and the leader that they elected.
    pub fn with_leader(nodes: u64, change: fn(&mut NodeConfig)) -> (Self, u64) {
        let mut cluster = Self::of(nodes, change);
        let leader = cluster.elect();
        (cluster, leader)
    }

    fn begin(&mut self, node: u64, life: u64, bootstrap: Bootstrap) {
        let (env, sim) = sim::env(1_000 * self.seed + node + 10 * life);
        let mut config = NodeConfig {
            bootstrap,
            reserve_bytes: 0,
            ..NodeConfig::new("data", "beach", NodeId(node), incarnation(node, life))
        };
        (self.change)(&mut config);
        sim.clock.advance_to(self.now);
        let slot = Slot { env, sim, config, driver: None, down: true };
        self.slots.insert(node, slot);
        self.open(node);
    }

    /// A node without data that waits to be added, in its `life`-th life.
    pub fn join(&mut self, node: u64, life: u64) {
        self.begin(node, life, Bootstrap::Join);
    }

    fn open(&mut self, node: u64) {
        let now = self.now;
        let slot = self.slots.get_mut(&node).expect("a node");
        slot.sim.clock.advance_to(now);
        slot.config.seed = now.0 + node + (self.seed << 40);
        let opened = Node::open(slot.config.clone(), slot.env.clone());
        let opened = opened.unwrap_or_else(|e| panic!("node {node} does not open: {e}"));
        slot.driver = Some(SimDriver::new(opened, &slot.sim));
        slot.down = false;
        for other in self.others(node) {
            self.link(node, other, FEATURES);
            self.link(other, node, FEATURES);
        }
    }

    /// A node learns who is at the other end of a link, and what its software can do.
    pub fn link(&mut self, node: u64, other: u64, features: u64) {
        let there = self.node(other);
        let facts = PeerFacts {
            replica: there.replica(),
            cluster: there.cluster(),
            blank: false,
            known: 0,
            features,
            peer_address: String::new(),
            client_address: format!("node-{other}:7400"),
        };
        self.driver(node).event(Event::PeerUp(facts));
    }

    pub fn now(&self) -> Nanos {
        self.now
    }

    pub fn driver(&mut self, node: u64) -> &mut Driver {
        let slot = self.slots.get_mut(&node).expect("a node");
        slot.driver.as_mut().expect("the node is up")
    }

    pub fn node(&self, node: u64) -> &Node<RaftLog, EngineMachine> {
        &self.slots[&node].driver.as_ref().expect("the node is up").node
    }

    pub fn replica(&self, node: u64) -> ReplicaId {
        self.node(node).replica()
    }

    pub fn is_up(&self, node: u64) -> bool {
        !self.slots[&node].down
    }

    pub fn others(&self, than: u64) -> Vec<u64> {
        self.slots.keys().copied().filter(|n| *n != than && self.is_up(*n)).collect()
    }

    pub fn another(&self, than: u64) -> u64 {
        self.others(than)[0]
    }

    /// Everything that can happen without time passing.
    pub fn settle(&mut self) {
        for _ in 0..SETTLE_ROUNDS_MAX {
            let mut mail = Vec::new();
            for slot in self.slots.values_mut().filter(|slot| !slot.down) {
                let Some(driver) = &mut slot.driver else { continue };
                driver.settle();
                if slot.sim.disk.is_down() {
                    slot.down = true;
                } else if let Some(fatal) = &driver.fatal {
                    panic!("node {}: {fatal}", slot.config.node_id);
                }
                mail.append(&mut driver.sent);
            }
            if mail.is_empty() {
                return;
            }
            for message in mail {
                let (from, to) = (message.from.node.0, message.to.node.0);
                self.messages += 1;
                let lost =
                    self.lose_one_of > 0 && scatter(self.messages).is_multiple_of(self.lose_one_of);
                if lost || self.cuts.contains(&(from, to)) {
                    continue;
                }
                let Some(slot) = self.slots.get_mut(&to).filter(|slot| !slot.down) else {
                    continue;
                };
                if let Some(driver) = slot.driver.as_mut().filter(|driver| !driver.drained) {
                    // As if of the same cluster: what is tested here must hold by incarnations alone.
                    let (cluster, after) = (driver.node.cluster(), self.now);
                    driver.event(Event::Peer { message, cluster, after });
                }
            }
        }
        panic!("no rest");
    }

    /// Lets time pass.
    pub fn pass(&mut self, ms: u64) {
        self.run_until_or(ms, |_| false);
    }

    fn run_until_or(&mut self, ms: u64, done: impl Fn(&Self) -> bool) -> bool {
        let end = self.now.plus(Nanos::from_millis(ms).0);
        self.settle();
        while !done(self) {
            if self.now >= end {
                return false;
            }
            self.now = self.now.plus(Nanos::from_millis(STEP_MS).0);
            for slot in self.slots.values() {
                slot.sim.clock.advance_to(self.now);
            }
            self.settle();
        }
        true
    }

    /// Lets time pass until it is so.
    pub fn run_until(&mut self, ms: u64, done: impl Fn(&Self) -> bool) {
        assert!(self.run_until_or(ms, done), "not within {ms} ms");
    }

    /// The nodes that lead in the highest term in which anybody leads.
    pub fn leaders(&self) -> Vec<u64> {
        let up = self.slots.iter().filter(|(_, slot)| !slot.down);
        let nodes = up.filter_map(|(n, slot)| Some((*n, &slot.driver.as_ref()?.node)));
        let leaders: Vec<_> = nodes.filter(|(_, node)| node.role() == Role::Leader).collect();
        let term = leaders.iter().map(|(_, node)| node.raft().term()).max();
        leaders
            .iter()
            .filter(|(_, node)| Some(node.raft().term()) == term)
            .map(|(n, _)| *n)
            .collect()
    }

    /// Waits for a leader that serves.
    pub fn elect(&mut self) -> u64 {
        self.elect_without(0)
    }

    /// Waits for a leader other than `node` that serves.
    pub fn elect_without(&mut self, node: u64) -> u64 {
        let serving = |c: &Self| {
            let leaders = c.leaders();
            leaders.len() == 1 && leaders[0] != node && c.node(leaders[0]).is_ready()
        };
        self.run_until(20_000, serving);
        self.leaders()[0]
    }

    pub fn send(&mut self, node: u64, request: Request<'_>) -> Origin {
        let origin = Origin { conn: 1, request_id: self.next_request };
        self.next_request += 1;
        self.driver(node).request(origin, request, 10_000);
        self.settle();
        origin
    }

    pub fn send_put(&mut self, node: u64, key: &str, value: &str) -> Origin {
        let mut batch = WriteBatch::new();
        batch.put(key.as_bytes(), value.as_bytes()).unwrap();
        self.send_batch(node, &batch)
    }

    fn send_batch(&mut self, node: u64, batch: &WriteBatch) -> Origin {
        let batch = BatchRef::parse(batch.as_bytes()).unwrap();
        self.send(node, Request::Write { opcode: Opcode::Write, batch })
    }

    pub fn send_delete(&mut self, node: u64, key: &str) -> Origin {
        let mut batch = WriteBatch::new();
        batch.delete(key.as_bytes()).unwrap();
        self.send_batch(node, &batch)
    }

    pub fn send_get(&mut self, node: u64, key: &str) -> Origin {
        self.send(node, Request::Get { key: key.as_bytes(), snapshot: SequenceNumber::ZERO })
    }

    pub fn reply(&mut self, node: u64, origin: Origin) -> Option<Response> {
        self.driver(node).take_reply(origin)
    }

    /// A request and its reply.
    pub fn ask(&mut self, node: u64, request: Request<'_>) -> Response {
        let origin = self.send(node, request);
        self.answer(node, origin)
    }

    /// Waits for the reply.
    fn answer(&mut self, node: u64, origin: Origin) -> Response {
        for _ in 0..2_000 {
            if let Some(reply) = self.reply(node, origin) {
                return reply;
            }
            self.pass(STEP_MS);
        }
        panic!("no answer");
    }

    /// A put that must be acknowledged, if need be after a while.
    pub fn put(&mut self, node: u64, key: &str, value: &str) {
        for _ in 0..500 {
            let origin = self.send_put(node, key, value);
            match self.answer(node, origin) {
                Response::Written { .. } => return,
                Response::Error(e) if e.safe_to_retry() => self.pass(STEP_MS),
                other => panic!("put {key}: {other:?}"),
            }
        }
        panic!("put {key} is refused again and again");
    }

    pub fn get(&mut self, node: u64, key: &str) -> Option<String> {
        let origin = self.send_get(node, key);
        match self.answer(node, origin) {
            Response::Value { value, .. } => Some(String::from_utf8(value.to_vec()).unwrap()),
            Response::NotFound { .. } => None,
            other => panic!("{other:?}"),
        }
    }

    /// A session's id.
    pub fn register(&mut self, node: u64) -> u64 {
        match self.ask(node, Request::Register) {
            Response::Registered(registered) => registered.client_id,
            other => panic!("{other:?}"),
        }
    }

    /// A put of a session.
    pub fn put_as(
        &mut self,
        node: u64,
        session: u64,
        sequence: u64,
        key: &str,
        value: &str,
    ) -> Result<LogIndex, ErrorReply> {
        let mut batch = WriteBatch::new();
        batch.put(key.as_bytes(), value.as_bytes()).unwrap();
        batch.set_client(session, sequence, 1);
        let origin = self.send_batch(node, &batch);
        match self.answer(node, origin) {
            Response::Written { index, .. } => Ok(index),
            Response::Error(error) => Err(error),
            other => panic!("{other:?}"),
        }
    }

    /// An operator's command, tried again while the node is busy.
    pub fn admin(&mut self, node: u64, command: Admin) -> Result<LogIndex, ErrorReply> {
        for _ in 0..500 {
            let origin = Origin { conn: 2, request_id: self.next_request };
            self.next_request += 1;
            let deadline = self.now.plus(Nanos::from_millis(10_000).0);
            self.driver(node).event(Event::Admin { origin, command: command.clone(), deadline });
            self.settle();
            match self.answer(node, origin) {
                Response::Written { index, .. } => return Ok(index),
                Response::Error(e) if e.code == crate::proto::ErrorCode::Busy => self.pass(STEP_MS),
                Response::Error(error) => return Err(error),
                other => panic!("{other:?}"),
            }
        }
        panic!("{command:?} is refused again and again");
    }

    /// Messages from `from` to `to` are lost from now on.
    pub fn cut(&mut self, from: u64, to: u64) {
        self.cuts.insert((from, to));
    }

    pub fn cut_off(&mut self, node: u64) {
        for other in self.slots.keys().copied().collect::<Vec<_>>() {
            self.cut(node, other);
            self.cut(other, node);
        }
    }

    /// The network works again.
    pub fn heal(&mut self) {
        self.cuts.clear();
        self.lose_one_of = 0;
    }

    /// One of `n` messages is lost from now on, scattered: what is said once a second is not always or never the one.
    pub fn lose_one_of(&mut self, n: u64) {
        self.lose_one_of = n;
    }

    /// A held lane is a disk that hangs.
    pub fn hold(&mut self, node: u64, lane: Lane, held: bool) {
        self.slots[&node].sim.jobs.hold(lane, held);
    }

    pub fn crash(&mut self, node: u64, kind: CrashKind) {
        let slot = self.slots.get_mut(&node).expect("a node");
        slot.sim.disk.crash(kind);
        slot.down = true;
    }

    /// Lets the node's disk do this many more operations and then crash, while `run` goes on; how many it did, and
    /// whether it came to the crash.
    pub fn crash_after_operations(
        &mut self,
        node: u64,
        operations: u64,
        kind: CrashKind,
        run: impl FnOnce(&mut Self),
    ) -> (u64, bool) {
        let disk = self.slots[&node].sim.disk.clone();
        let before = disk.op_count();
        disk.crash_at(before + operations);
        run(self);
        let (done, crashed) = (disk.op_count() - before, disk.is_down());
        disk.crash(kind);
        self.slots.get_mut(&node).expect("a node").down = true;
        (done, crashed)
    }

    /// Opens the node again, after a crash or in its place.
    pub fn restart(&mut self, node: u64) {
        let slot = self.slots.get_mut(&node).expect("a node");
        if !slot.down {
            slot.sim.disk.crash(CrashKind::Process);
        }
        slot.sim.jobs.abandon();
        slot.driver = None;
        slot.sim.disk.restart();
        self.open(node);
    }

    /// What `beachd recover` does to a node that is down, and then the power goes. Also the last entry that its log had.
    pub fn recover(
        &mut self,
        node: u64,
        life: u64,
    ) -> Result<(RecoveryPlan, LogIndex), RecoverError> {
        let slot = self.slots.get_mut(&node).expect("a node");
        assert!(slot.down, "node {node} is up");
        slot.sim.jobs.abandon();
        slot.driver = None;
        slot.sim.disk.restart();
        let last = LogImage::read(&slot.env, RAFT_DIR.as_ref()).expect("a whole log").last().0;
        let (dir, wishes) = (&slot.config.dir, NewCluster::default());
        let fresh = (incarnation(node, life), ClusterUid(life));
        let recovery = Recovery::prepare(&slot.env, dir, fresh, &wishes)?;
        let plan = recovery.carry_out()?;
        slot.sim.disk.crash(CrashKind::PowerLoss);
        Ok((plan, last))
    }

    /// Every file of the node's log rots, behind its header.
    pub fn rot_log(&mut self, node: u64) {
        let slot = &self.slots[&node];
        for file in slot.env.disk.list(RAFT_DIR.as_ref()).expect("the log's directory") {
            let path = std::path::Path::new(RAFT_DIR).join(&file.name);
            let len = slot.sim.disk.read_file(&path).expect("a file").len() as u64;
            for offset in (64..len).step_by(16) {
                slot.sim.disk.flip(&path, offset, 1);
            }
        }
    }

    /// Nothing new fits on the node's disk, or everything does again.
    pub fn fill_disk(&mut self, node: u64, full: bool) {
        let disk = &self.slots[&node].sim.disk;
        disk.set_capacity(full.then(|| disk.used_bytes()));
    }

    /// Opens a node that crashed after its log's files were removed; what it says.
    pub fn open_without_log(&mut self, node: u64) -> String {
        let slot = self.slots.get_mut(&node).expect("a node");
        slot.sim.jobs.abandon();
        slot.driver = None;
        slot.sim.disk.restart();
        for file in slot.env.disk.list(RAFT_DIR.as_ref()).expect("the log's directory") {
            let path = std::path::Path::new(RAFT_DIR).join(&file.name);
            slot.env.disk.remove(&path).expect("a file");
        }
        self.open_again(node)
    }

    /// Opens a node that did not open before; what it says.
    pub fn open_again(&mut self, node: u64) -> String {
        let slot = &self.slots[&node];
        match Node::open(slot.config.clone(), slot.env.clone()) {
            Ok(_) => panic!("node {node} opens"),
            Err(refused) => refused.to_string(),
        }
    }

    /// Opens a node that crashed while its disk is full, to look at what happens: it does nothing more. Its disk has
    /// room again afterwards.
    pub fn open_on_a_full_disk(&mut self, node: u64) -> Result<(), OpenError> {
        let slot = self.slots.get_mut(&node).expect("a node");
        slot.sim.jobs.abandon();
        slot.driver = None;
        slot.sim.disk.restart();
        self.fill_disk(node, true);
        let slot = &self.slots[&node];
        let opened = Node::open(slot.config.clone(), slot.env.clone()).map(drop);
        slot.sim.jobs.abandon();
        slot.sim.disk.crash(CrashKind::Process);
        self.fill_disk(node, false);
        opened
    }

    /// The node and its disk are gone.
    pub fn wipe(&mut self, node: u64) {
        self.slots.remove(&node);
    }

    pub fn drain(&mut self, node: u64) {
        self.driver(node).event(Event::Drain);
    }

    pub fn is_drained(&self, node: u64) -> bool {
        self.slots[&node].driver.as_ref().is_some_and(|driver| driver.drained)
    }

    /// All nodes have applied the same entries and hold the same data.
    pub fn same_state(&mut self) {
        let up =
            |c: &Self| c.slots.iter().filter(|(_, s)| !s.down).map(|(n, _)| *n).collect::<Vec<_>>();
        self.run_until(5_000, |c| {
            let applied: BTreeSet<LogIndex> = up(c).iter().map(|n| c.node(*n).applied()).collect();
            applied.len() == 1
        });
        let seqs: BTreeSet<_> = up(self).iter().map(|n| self.node(*n).last_seq()).collect();
        assert_eq!(seqs.len(), 1, "sequence numbers {seqs:?}");
        let rows = |c: &Self, n: u64| {
            use crate::node::{Lookup, SliceRange, StateMachine};
            let node = c.node(n);
            let range = SliceRange {
                start: b"",
                end: None,
                limit: 100_000,
                max_bytes: 64 << 20,
                keys_only: false,
                reverse: false,
                at: node.last_seq(),
            };
            match node.machine().scan(&range).unwrap() {
                Lookup::Ready(slice) => slice,
                Lookup::Disk(job) => job().unwrap(),
            }
        };
        let nodes = up(self);
        let first = rows(self, nodes[0]);
        for node in &nodes[1..] {
            let other = rows(self, *node);
            assert!(first.entries == other.entries, "nodes {} and {node} differ", nodes[0]);
        }
        for (_, slot) in self.slots.iter().filter(|(_, slot)| !slot.down) {
            let node = &slot.driver.as_ref().expect("it is up").node;
            let (applied, term) = (node.applied(), node.log().term(node.applied()));
            assert!(term.is_some(), "entry {applied} is not in the log");
            assert!(slot.sim.jobs.outstanding() < 100);
        }
    }

    /// What all nodes did, as text.
    pub fn traces(&self) -> Vec<String> {
        let drivers = self.slots.values().filter_map(|slot| slot.driver.as_ref());
        drivers.flat_map(|driver| driver.trace().iter().cloned()).collect()
    }
}
