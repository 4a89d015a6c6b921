//! What plugs into the simulated world: the [`Observer`] that judges every step, and the [`Clients`] that give the
//! cluster something to do. The world ([`super::world`]) calls them; they never call the world except through
//! what is handed to them, and they never touch a clock or a random source of their own, so that a seed stays a seed.
//!
//! ```text
//!  Clients ── ClientPort::send ──► (latency, loss) ──► Node::step ──► Effect::Reply ──► (latency) ──► Clients::reply
//!                                                          │
//!                            Observer::after_step ◄────────┘   every step, with its effects and the whole world
//! ```

use super::shape::Begin;
use beachdb::base::{ClusterUid, LogIndex, Nanos, ReplicaId};
use beachdb::env::Lane;
use beachdb::env::sim::{CrashKind, SimDisk};
use beachdb::node::{Effect, EngineMachine, Node, Origin};
use beachdb::proto::{Request, Response};
use beachdb::raft_log::RaftLog;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// The node that is simulated: all of the real one.
pub type SimNode = Node<RaftLog, EngineMachine>;

/// Something that must never happen, happened.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Violation {
    /// The broken rule, a short name in `kebab-case`: shrinking keeps it the same.
    pub rule: String,
    /// What was seen, with nodes, indexes, and times.
    pub what: String,
}

impl Violation {
    /// `rule` is broken: `what`.
    pub fn new(rule: impl Into<String>, what: impl Into<String>) -> Self {
        Self { rule: rule.into(), what: what.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.what)
    }
}

impl std::error::Error for Violation {}

/// What an observer says: fine, or a violation, which ends the run.
pub type Verdict = Result<(), Violation>;

/// What a place for a node is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlotState {
    /// The node runs.
    Up,
    /// The node is there, but its process does not get the processor.
    Paused,
    /// There is no process.
    Down,
}

/// A place for a node, as observers see it.
pub struct SlotView<'a> {
    /// Its number, from 0; the node's number is one more.
    pub slot: usize,
    /// Who lives (or lived) here; another incarnation after a wiped disk.
    pub replica: ReplicaId,
    /// Goes up with every start of a process here.
    pub life: u64,
    /// What it is doing.
    pub state: SlotState,
    /// The node; `None` while it is down.
    pub node: Option<&'a SimNode>,
    /// Its disk, up or down; another one after a wipe.
    pub disk: &'a SimDisk,
    /// Its data directory on that disk.
    pub dir: &'a Path,
}

/// The whole world, read only.
pub trait WorldView {
    /// Virtual time.
    fn now(&self) -> Nanos;
    /// How many places for nodes there are.
    fn slots(&self) -> usize;
    /// One of them.
    fn slot(&self, slot: usize) -> SlotView<'_>;
}

/// What a step of a node was about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StepKind {
    /// A client's request.
    Request(Origin),
    /// A client's connection broke.
    ConnectionClosed(u64),
    /// A message of another node, which said that it is of this cluster.
    Peer(ClusterUid),
    /// A connection to another node came up, or it says something else of itself.
    PeerUp,
    /// Another node says who the first members of this cluster are.
    Begin(ClusterUid),
    /// The connection to another node broke.
    PeerUnreachable,
    /// A command of the operator.
    Admin,
    /// A job of this lane finished.
    Job(Lane),
    /// Time passed.
    Tick,
    /// The end of a turn.
    EndOfTurn,
}

/// What an append that a node was given allows it (Figure 2 of the paper, AppendEntries, receiver rule 5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Appended {
    /// The last entry that this very message verifies.
    pub verified: LogIndex,
    /// The leader's commit index.
    pub commit: LogIndex,
}

/// One step of one node, just done.
pub struct Step<'a> {
    /// Virtual time.
    pub at: Nanos,
    /// The node's own clock.
    pub local: Nanos,
    /// Which node.
    pub slot: usize,
    /// Its replica id.
    pub replica: ReplicaId,
    /// Its life.
    pub life: u64,
    /// What happened to it.
    pub kind: StepKind,
    /// The append that it was given, if that is what happened.
    pub append: Option<Appended>,
    /// What it wants done, in order: replies, messages, observations, a fatal error.
    pub effects: &'a [Effect],
}

/// Why a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StopKind {
    /// It crashed; the disk went through this.
    Crash(CrashKind),
    /// It stopped itself after a failure of its disk that was injected.
    Fatal,
    /// It stopped in good order.
    Drained,
    /// Its disk was taken away; the next start is another incarnation on an empty one.
    Wiped,
}

/// Judges. Every method is called in the order of events; the first violation ends the run.
pub trait Observer {
    /// A process came up on this slot (its node is there). Also at the very beginning.
    fn node_started(&mut self, _world: &dyn WorldView, _slot: usize) -> Verdict {
        Ok(())
    }
    /// The process of this slot ended (its node is gone).
    fn node_stopped(&mut self, _world: &dyn WorldView, _slot: usize, _why: StopKind) -> Verdict {
        Ok(())
    }
    /// A node took a step. Messages have not left yet and replies have not been delivered yet.
    fn after_step(&mut self, _world: &dyn WorldView, _step: &Step<'_>) -> Verdict {
        Ok(())
    }
    /// A job of this slot ran: its disk may have changed.
    fn after_job(&mut self, _world: &dyn WorldView, _slot: usize, _lane: Lane) -> Verdict {
        Ok(())
    }
    /// The node that was `before` is a cluster of its own from its next start on, as `after`.
    fn recovered(
        &mut self,
        _before: ReplicaId,
        _after: ReplicaId,
        _cluster: ClusterUid,
    ) -> Verdict {
        Ok(())
    }
    /// A checkpoint was restored; this node opened what came of it, and did nothing yet.
    fn restored(&mut self, _view: &SlotView<'_>) -> Verdict {
        Ok(())
    }
    /// Every fault healed, the clients stopped, and all nodes converged. The last call of a run without a violation.
    fn finish(&mut self, _world: &dyn WorldView) -> Verdict {
        Ok(())
    }
    /// Adds what was covered ("how often did this rare thing happen") to `marks`; called once, at the end.
    fn marks(&self, _marks: &mut Marks) {}
}

/// How clients reach the nodes. Latency, loss, and breaking connections are the world's.
pub trait ClientPort {
    /// Virtual time.
    fn now(&self) -> Nanos;
    /// How many nodes there are to talk to.
    fn nodes(&self) -> usize;
    /// A new connection to the node of this slot; its number is never used again. When the node is down, or goes
    /// down, or the network says so, [`Clients::closed`] is called for it, once (perhaps late, perhaps never).
    fn connect(&mut self, slot: usize) -> u64;
    /// Sends a request on a connection. The node's deadline is `deadline_ms` after it arrives. Requests and replies
    /// of one connection stay in order; either may be lost with the connection.
    fn send(&mut self, conn: u64, request_id: u64, request: &Request<'_>, deadline_ms: u32);
    /// Closes the connection; nothing more comes from it.
    fn close(&mut self, conn: u64);
}

/// Those who use the database, and what they saw.
pub trait Clients {
    /// When [`Clients::act`] wants to be called next; [`Nanos::MAX`]: only after a reply.
    fn next_at(&self) -> Nanos;
    /// The time came.
    fn act(&mut self, port: &mut dyn ClientPort);
    /// A reply arrived at the client.
    fn reply(&mut self, origin: Origin, response: &Response, port: &mut dyn ClientPort);
    /// A connection broke: what was sent on it and not answered has an unknown outcome.
    fn closed(&mut self, conn: u64, port: &mut dyn ClientPort);
    /// The server's last word on a connection: what was sent on it and not answered was not taken.
    fn goodbye(&mut self, conn: u64, port: &mut dyn ClientPort) {
        self.closed(conn, port);
    }
    /// Begin nothing new from now on (the end of the run). What is in flight may still be answered or given up.
    fn stop(&mut self);
    /// Operations answered with success so far: acknowledged writes and served reads.
    fn acknowledged(&self) -> u64;
}

/// Uses nothing and looks at nothing: for runs of which only one of the two matters.
#[derive(Clone, Copy, Debug)]
pub struct Nobody;

impl Observer for Nobody {}

impl Clients for Nobody {
    fn next_at(&self) -> Nanos {
        Nanos::MAX
    }
    fn act(&mut self, _port: &mut dyn ClientPort) {}
    fn reply(&mut self, _origin: Origin, _response: &Response, _port: &mut dyn ClientPort) {}
    fn closed(&mut self, _conn: u64, _port: &mut dyn ClientPort) {}
    fn stop(&mut self) {}
    fn acknowledged(&self) -> u64 {
        0
    }
}

/// How often rare things happened in a run (or in many), by name.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Marks(pub BTreeMap<String, u64>);

impl Marks {
    /// Counts `times` more of `name`; 0 makes it known that there is such a mark.
    pub fn add(&mut self, name: &str, times: u64) {
        match self.0.get_mut(name) {
            Some(count) => *count += times,
            None => drop(self.0.insert(name.to_owned(), times)),
        }
    }
    /// Adds all of another's.
    pub fn merge(&mut self, other: &Self) {
        for (name, times) in &other.0 {
            self.add(name, *times);
        }
    }
}

/// What an observer and clients are told about the run they are for.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Seeds everything random they do.
    pub seed: u64,
    /// Places for nodes; all are voters at first, with the incarnations of [`Setup::replica`].
    pub nodes: usize,
    /// The shortest election timeout.
    pub election_timeout: Nanos,
    /// Virtual time until faults stop.
    pub duration: Nanos,
    /// Sessions at once, on every node.
    pub max_sessions: usize,
    /// How the cluster begins.
    pub begin: Begin,
}

impl Setup {
    /// The first replica of a slot.
    #[must_use]
    pub fn replica(&self, slot: usize) -> ReplicaId {
        let node = beachdb::base::NodeId(slot as u64 + 1);
        ReplicaId { node, incarnation: first_incarnation(slot) }
    }
}

/// The incarnation of a slot's first disk; every wipe adds 1.
#[must_use]
pub const fn first_incarnation(slot: usize) -> u64 {
    1000 * (slot as u64 + 1)
}

/// Both, for one run. Helper `check` provides `super::check::harness(&Setup) -> Harness`.
pub struct Harness {
    /// The judge.
    pub observer: Box<dyn Observer>,
    /// The users.
    pub clients: Box<dyn Clients>,
}
