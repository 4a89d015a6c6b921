//! [`SimDriver`]: drives a [`Node`] over a simulated world ([`crate::env::sim`]), on one thread, with time and jobs
//! under the test's control. It checks what must hold in every run: no request is answered twice, nothing follows a
//! fatal effect, and a drain answers everybody.

use super::{Effect, Event, FatalError, Node, Observed, Origin, StateMachine};
use crate::base::{ClusterUid, Membership, Nanos, NodeId, ReplicaId};
use crate::env::sim::{SimClock, SimHandles, SimJobs};
use crate::env::{Clock, Completion, Jobs, Lane};
use crate::proto::{Request, Response};
use crate::raft::message::{Append, Body, SnapshotChunk};
use crate::raft::{LogStore, Message};
use std::collections::BTreeMap;

/// Turns of [`SimDriver::settle`] after which a node that finds no rest is reported.
const SETTLE_TURNS_MAX: usize = 1_000_000;

/// See the module.
pub struct SimDriver<L, S> {
    /// The node.
    pub node: Node<L, S>,
    clock: SimClock,
    jobs: SimJobs,
    replies: BTreeMap<Origin, Response>,
    /// Why the node stopped, if it did.
    pub fatal: Option<FatalError>,
    /// Whether the node drained.
    pub drained: bool,
    /// Messages to other replicas, for the test to carry.
    pub sent: Vec<Message>,
    /// Replicas that are to be told who the first members are, for the test to carry.
    pub begins: Vec<(ReplicaId, ClusterUid, Membership)>,
    /// What the node showed of its inside, for the test to take.
    pub observed: Vec<Observed>,
    /// Nodes that it wants to be introduced to: token, number, address. For the test to take and answer.
    pub introductions: Vec<(u64, NodeId, String)>,
    trace: Vec<String>,
    effects: Vec<Effect>,
    completions: Vec<Completion>,
}

impl<L: LogStore, S: StateMachine> SimDriver<L, S> {
    /// Drives `node`, whose [`Env`](crate::env::Env) came with `sim`.
    #[must_use]
    pub fn new(node: Node<L, S>, sim: &SimHandles) -> Self {
        Self {
            node,
            clock: sim.clock.clone(),
            jobs: sim.jobs.clone(),
            replies: BTreeMap::new(),
            fatal: None,
            drained: false,
            sent: Vec::new(),
            begins: Vec::new(),
            observed: Vec::new(),
            introductions: Vec::new(),
            trace: Vec::new(),
            effects: Vec::new(),
            completions: Vec::new(),
        }
    }

    /// Steps the node with one event.
    pub fn event(&mut self, event: Event<'_>) {
        let stopped = self.fatal.is_some() || self.drained;
        let now = self.clock.now();
        self.node.step(now, event, &mut self.effects);
        for effect in self.effects.drain(..) {
            assert!(!stopped, "after it stopped: {effect:?}");
            self.trace.push(format!("{now} {}", brief(&effect)));
            match effect {
                Effect::Reply { origin, response, .. } => {
                    let second = self.replies.insert(origin, response);
                    assert!(second.is_none(), "{origin:?} answered twice, first {second:?}");
                }
                Effect::Fatal(fatal) => self.fatal = Some(fatal),
                Effect::Drained => self.drained = true,
                Effect::Send(message) => self.sent.push(message),
                Effect::Begin { to, cluster, members } => self.begins.push((to, cluster, members)),
                Effect::Belongs(_) => {}
                Effect::Observed(observed) => self.observed.push(observed),
                Effect::Introduce { token, node, address } => {
                    self.introductions.push((token, node, address));
                }
            }
        }
    }

    /// A request arrives now, with a deadline `deadline_ms` from now. The turn stays open.
    pub fn request(&mut self, origin: Origin, request: Request<'_>, deadline_ms: u64) {
        let now = self.clock.now();
        let deadline = now.plus(Nanos::from_millis(deadline_ms).0);
        let bytes = match &request {
            Request::Write { batch, .. } => batch.as_bytes().len(),
            _ => 64,
        };
        self.event(Event::Request { origin, request, deadline, received_at: now, bytes });
    }

    /// One turn: the completions so far, a tick if it is due, the end of the turn.
    pub fn turn(&mut self) {
        let mut completions = std::mem::take(&mut self.completions);
        self.jobs.poll(&mut completions);
        for done in completions.drain(..) {
            self.event(Event::JobDone(done));
        }
        self.completions = completions;
        if self.is_due() {
            self.event(Event::Tick);
        }
        self.event(Event::EndOfTurn);
    }

    fn is_due(&self) -> bool {
        self.node.next_wakeup().is_some_and(|at| at <= self.clock.now())
    }

    /// Turns and jobs (in the order of the seed) until there is nothing to do; time stands still.
    pub fn settle(&mut self) {
        for _ in 0..SETTLE_TURNS_MAX {
            self.turn();
            if !self.jobs.run_one() && !self.jobs.has_completions() && !self.is_due() {
                return;
            }
        }
        panic!(
            "no rest after {SETTLE_TURNS_MAX} turns, the next wake-up is {:?}",
            self.node.next_wakeup()
        );
    }

    /// Runs the next job of one lane and nothing else; whether there was one. The next turn delivers its completion.
    pub fn run_lane(&mut self, lane: Lane) -> bool {
        self.jobs.run_lane(lane)
    }

    /// Lets `ms` milliseconds pass, settling at every wake-up on the way.
    pub fn pass(&mut self, ms: u64) {
        let end = self.clock.now().plus(Nanos::from_millis(ms).0);
        self.settle();
        while let Some(at) = self.node.next_wakeup().filter(|at| *at <= end) {
            self.clock.advance_to(at);
            self.settle();
        }
        self.clock.advance_to(end);
        self.settle();
    }

    /// The reply to `origin`, which is then forgotten (and `origin` may be used again).
    pub fn take_reply(&mut self, origin: Origin) -> Option<Response> {
        self.replies.remove(&origin)
    }

    /// Every effect so far, as text, with its time. Two runs of the same seed have equal ones.
    #[must_use]
    pub fn trace(&self) -> &[String] {
        &self.trace
    }
}

/// An effect as one line of text: everything but the bytes that clients wrote, of which there may be megabytes.
fn brief(effect: &Effect) -> String {
    match effect {
        Effect::Send(Message { from, to, term, body: Body::Append(append) }) => {
            let Append { session, round, prev, entries, commit } = append;
            let last = entries.last().map_or(prev.0, |entry| entry.index);
            format!(
                "Send {from}->{to} term {term} Append session {session} round {round} prev {prev:?} to {last} \
                 commit {commit}"
            )
        }
        Effect::Send(Message { from, to, term, body: Body::Snapshot(chunk) }) => {
            let SnapshotChunk { session, transfer, offset, data, crc, .. } = chunk;
            format!(
                "Send {from}->{to} term {term} Snapshot session {session} transfer {transfer} at {offset} \
                 bytes {} crc {crc:08x}",
                data.len()
            )
        }
        Effect::Observed(Observed::Applied { index, term, payload, outcome }) => {
            format!("Applied {index} term {term} bytes {} {outcome:?}", payload.len())
        }
        other => format!("{other:?}"),
    }
}
