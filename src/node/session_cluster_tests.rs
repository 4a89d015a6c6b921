//! Sessions among three real nodes: a retry goes to another leader than the first try.

use super::sim::SimDriver;
use super::*;
use crate::base::{Member, MemberRole, NodeId};
use crate::env::sim::{self, SimHandles};
use crate::proto::{Effect as Fate, Opcode};
use crate::raft_log::RaftLog;
use std::collections::BTreeSet;

type Driver = SimDriver<RaftLog, EngineMachine>;

/// Three nodes, each with a disk and a clock of its own; the clocks run together.
struct Trio {
    nodes: Vec<(SimHandles, Driver)>,
    /// What these say is lost, and what is said to them.
    cut: BTreeSet<usize>,
    requests: u64,
}

impl Trio {
    fn up(seed: u64) -> Self {
        let mut membership = Membership::new();
        for node in 1..=3 {
            let replica = ReplicaId { node: NodeId(node), incarnation: node * 100 };
            let (peer_address, client_address) = Default::default();
            let role = MemberRole::Voter;
            membership.insert(Member { replica, role, peer_address, client_address });
        }
        let node = |node: u64| {
            let (env, sim) = sim::env(seed * 10 + node);
            let config = NodeConfig {
                segment_bytes: 64 << 10,
                reserve_bytes: 0,
                bootstrap: Bootstrap::Members(membership.clone()),
                ..NodeConfig::new("data", "beach", NodeId(node), node * 100)
            };
            let driver = SimDriver::new(Node::open(config, env).unwrap(), &sim);
            (sim, driver)
        };
        let nodes = (1..=3).map(node).collect();
        Self { nodes, cut: BTreeSet::new(), requests: 0 }
    }

    /// Carries messages until nobody says anything more; time stands still.
    fn settle(&mut self) {
        loop {
            let mut said = Vec::new();
            for (at, (_, driver)) in self.nodes.iter_mut().enumerate() {
                driver.settle();
                said.extend(driver.sent.drain(..).filter(|_| !self.cut.contains(&at)));
            }
            if said.is_empty() {
                return;
            }
            for message in said {
                let to = message.to.node.0 as usize - 1;
                if !self.cut.contains(&to) {
                    self.nodes[to].1.event(Event::Peer(message));
                }
            }
        }
    }

    fn pass(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(10) {
            for (_, driver) in &mut self.nodes {
                driver.pass(10);
            }
            self.settle();
        }
    }

    /// The leader among those that are not cut off, once there is one that serves.
    fn leader(&mut self) -> usize {
        for _ in 0..100 {
            self.pass(100);
            let leads = |(_, driver): &(_, Driver)| driver.node.role() == Role::Leader;
            let found = (0..3).find(|at| !self.cut.contains(at) && leads(&self.nodes[*at]));
            if let Some(at) = found.filter(|at| self.nodes[*at].1.node.is_ready()) {
                return at;
            }
        }
        panic!("no leader within 10 s");
    }

    fn send(&mut self, to: usize, request: Request<'_>) -> Origin {
        self.requests += 1;
        let origin = Origin { conn: 1, request_id: self.requests };
        self.nodes[to].1.request(origin, request, 60_000);
        origin
    }

    fn ask(&mut self, to: usize, request: Request<'_>) -> Response {
        let origin = self.send(to, request);
        self.pass(200);
        self.nodes[to].1.take_reply(origin).expect("an answer")
    }

    fn register(&mut self, leader: usize) -> u64 {
        match self.ask(leader, Request::Register) {
            Response::Registered(session) => session.client_id,
            other => panic!("{other:?}"),
        }
    }
}

fn session_put(id: u64, sequence: u64, value: &str) -> WriteBatch {
    let mut batch = WriteBatch::new();
    batch.put(b"k", value.as_bytes()).unwrap();
    batch.set_client(id, sequence, 1);
    batch
}

fn write(batch: &WriteBatch) -> Request<'_> {
    Request::Write { opcode: Opcode::Write, batch: BatchRef::parse(batch.as_bytes()).unwrap() }
}

fn get(trio: &mut Trio, at: usize) -> (u64, Vec<u8>) {
    match trio.ask(at, Request::Get { key: b"k", snapshot: SequenceNumber::ZERO }) {
        Response::Value { seq, value, .. } => (seq.0, value.to_vec()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn pitfall_36_a_new_leader_answers_the_retry_of_a_write_that_the_old_one_applied() {
    for seed in 0..5 {
        println!("seed {seed}");
        let mut trio = Trio::up(seed);
        let old = trio.leader();
        let id = trio.register(old);
        let batch = session_put(id, 1, "once");
        // Everybody applied it, and the answer does not reach the client.
        let first = trio.ask(old, write(&batch));
        let Response::Written { last_seq, .. } = first else { panic!("{first:?}") };
        trio.cut.insert(old);
        let new = trio.leader();
        assert_ne!(new, old);
        assert_eq!(trio.ask(new, write(&batch)), first);
        assert_eq!(get(&mut trio, new), (last_seq.0, b"once".to_vec()));
    }
}

#[test]
fn pitfall_36_a_try_that_is_still_in_the_log_of_a_deposed_leader_is_not_applied_again() {
    for seed in 0..5 {
        println!("seed {seed}");
        let mut trio = Trio::up(seed);
        let old = trio.leader();
        let id = trio.register(old);
        let (mine, other) = (session_put(id, 1, "mine"), session_put(id, 2, "changed since"));
        // The first try reaches nobody but its leader.
        trio.cut.insert(old);
        let lost = trio.send(old, write(&mine));
        let new = trio.leader();
        let answer = trio.ask(new, write(&mine));
        assert!(matches!(answer, Response::Written { .. }), "{answer:?}");
        trio.ask(new, write(&other));
        trio.cut.clear();
        trio.pass(2_000);
        // Another entry took the place of the lost one: that try was not applied, and the write was, once.
        match trio.nodes[old].1.take_reply(lost) {
            Some(Response::Error(e)) => {
                assert_eq!((e.code, e.effect), (ErrorCode::NotLeader, Fate::NotApplied));
            }
            reply => panic!("{reply:?}"),
        }
        let leader = trio.leader();
        assert_eq!(trio.ask(leader, write(&mine)), answer);
        assert_eq!(get(&mut trio, leader).1, b"changed since");
        let stats: BTreeSet<_> = trio
            .nodes
            .iter()
            .map(|(_, driver)| (driver.node.last_seq().0, driver.node.applied().0))
            .collect();
        assert_eq!(stats.len(), 1, "all are equal: {stats:?}");
    }
}
