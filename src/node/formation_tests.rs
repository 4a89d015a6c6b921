//! Clusters that form: nodes over simulated disks, with a network that this test carries itself.

use crate::base::batch::BatchRef;
use crate::base::{ClusterUid, LogIndex, Membership, Nanos, NodeId, ReplicaId, Term};
use crate::env::Env;
use crate::env::sim::{self, CrashKind, SimHandles};
use crate::node::recover::{NewCluster, Recovery};
use crate::node::sim::SimDriver;
use crate::node::{Bootstrap, EngineMachine, Event, Node, NodeConfig, Origin, PeerFacts};
use crate::proto::{ErrorCode, Opcode, Request, Response};
use crate::raft::message::{Append, Body};
use crate::raft::{Message, Role};
use crate::raft_log::RaftLog;
use std::collections::BTreeMap;

struct Slot {
    env: Env,
    sim: SimHandles,
    config: NodeConfig,
    driver: SimDriver<RaftLog, EngineMachine>,
}

/// Nodes by their numbers, and who is linked to whom (both ways).
struct World {
    slots: BTreeMap<u64, Slot>,
    now: u64,
}

fn address(node: u64) -> String {
    format!("n{node}:1")
}

fn list(nodes: &[u64]) -> BTreeMap<NodeId, String> {
    nodes.iter().map(|n| (NodeId(*n), address(*n))).collect()
}

impl World {
    fn new() -> Self {
        Self { slots: BTreeMap::new(), now: 0 }
    }

    /// A node with an empty disk.
    fn start(&mut self, node: u64, life: u64, bootstrap: Bootstrap) {
        let (env, sim) = sim::env(node + 100 * life);
        let config = NodeConfig {
            bootstrap,
            peer_address: address(node),
            client_address: format!("n{node}:0"),
            reserve_bytes: 0,
            ..NodeConfig::new("data", "beach", NodeId(node), 100 * life + node)
        };
        let opened = Node::open(config.clone(), env.clone()).unwrap();
        let driver = SimDriver::new(opened, &sim);
        self.slots.insert(node, Slot { env, sim, config, driver });
        self.settle();
    }

    fn form(nodes: &[u64]) -> Self {
        let mut world = Self::new();
        for node in nodes {
            world.start(*node, 0, Bootstrap::Initial(list(nodes)));
        }
        world
    }

    /// The machine dies; what was not synced is lost. It comes back with these settings.
    fn power_loss(&mut self, node: u64, bootstrap: Bootstrap) {
        let Slot { env, sim, config, driver } = self.slots.remove(&node).unwrap();
        sim.disk.crash(CrashKind::PowerLoss);
        sim.jobs.abandon();
        drop(driver);
        sim.disk.restart();
        let config = NodeConfig { bootstrap, ..config };
        let opened = Node::open(config.clone(), env.clone()).unwrap();
        let driver = SimDriver::new(opened, &sim);
        self.slots.insert(node, Slot { env, sim, config, driver });
    }

    /// `beachd recover` makes the node a cluster of its own.
    fn recover(&mut self, node: u64, incarnation: u64) {
        let Slot { env, sim, config, driver } = self.slots.remove(&node).unwrap();
        sim.disk.crash(CrashKind::Process);
        sim.jobs.abandon();
        drop(driver);
        sim.disk.restart();
        let wishes = NewCluster::default();
        let fresh = (incarnation, ClusterUid(incarnation));
        let recovery = Recovery::prepare(&env, &config.dir, fresh, &wishes).unwrap();
        recovery.carry_out().unwrap();
        let opened = Node::open(config.clone(), env.clone()).unwrap();
        let driver = SimDriver::new(opened, &sim);
        self.slots.insert(node, Slot { env, sim, config, driver });
    }

    fn node(&self, node: u64) -> &Node<RaftLog, EngineMachine> {
        &self.slots[&node].driver.node
    }

    fn facts(&self, of: u64, to: u64) -> PeerFacts {
        let node = self.node(of);
        let known = node.raft().membership().member(NodeId(to));
        PeerFacts {
            replica: node.replica(),
            cluster: node.cluster(),
            blank: node.is_blank(),
            known: known.map_or(0, |member| member.replica.incarnation),
            features: crate::node::FEATURES,
            peer_address: address(of),
            client_address: format!("n{of}:0"),
        }
    }

    /// `from` has dialed `to`, and only that.
    fn link(&mut self, from: u64, to: u64) {
        let facts = self.facts(to, from);
        self.slots.get_mut(&from).unwrap().driver.event(Event::PeerUp(facts));
    }

    /// Everybody is linked with everybody else.
    fn link_all(&mut self) {
        let nodes: Vec<u64> = self.slots.keys().copied().collect();
        for from in &nodes {
            for to in nodes.iter().filter(|to| *to != from) {
                self.link(*from, *to);
            }
        }
    }

    fn settle(&mut self) {
        for _ in 0..1_000 {
            let mut begins = Vec::new();
            let mut mail = Vec::new();
            for slot in self.slots.values_mut() {
                slot.sim.clock.advance_to(Nanos::from_millis(self.now));
                slot.driver.settle();
                let from = slot.driver.node.replica();
                let cluster = slot.driver.node.cluster();
                begins.extend(slot.driver.begins.drain(..).map(|(to, uid, m)| (from, to, uid, m)));
                mail.extend(slot.driver.sent.drain(..).map(|message| (cluster, message)));
            }
            if begins.is_empty() && mail.is_empty() {
                return;
            }
            for (from, to, cluster, members) in begins {
                if let Some(slot) = self.by_replica(to) {
                    slot.driver.event(Event::Begin { from, cluster, members });
                }
            }
            let after = Nanos::from_millis(self.now);
            for (cluster, message) in mail {
                if let Some(slot) = self.by_replica(message.to) {
                    slot.driver.event(Event::Peer { message, cluster, after });
                }
            }
        }
        panic!("no rest");
    }

    fn by_replica(&mut self, replica: ReplicaId) -> Option<&mut Slot> {
        self.slots.get_mut(&replica.node.0).filter(|slot| slot.driver.node.replica() == replica)
    }

    fn pass(&mut self, ms: u64) {
        for _ in 0..ms / 10 {
            self.now += 10;
            self.settle();
        }
    }

    fn leaders(&self) -> Vec<u64> {
        let leads = |(_, slot): &(&u64, &Slot)| slot.driver.node.role() == Role::Leader;
        self.slots.iter().filter(leads).map(|(node, _)| *node).collect()
    }

    fn reason(&self, node: u64) -> String {
        let slot = &self.slots[&node];
        let status = slot.driver.node.status(Nanos::from_millis(self.now));
        status.not_ready_reason.unwrap_or_default()
    }

    fn members(&self, node: u64) -> Vec<(u64, u64)> {
        let members = self.node(node).raft().membership();
        members.members().map(|m| (m.replica.node.0, m.replica.incarnation)).collect()
    }
}

#[test]
fn the_lowest_number_forms_the_cluster_when_all_are_there_and_they_elect_a_leader() {
    let mut world = World::form(&[1, 2, 3]);
    assert!(world.reason(1).contains("node 2 at n2:1, node 3 at n3:1 not reached yet"));
    assert!(world.reason(2).contains("waiting for node 1 at n1:1 to form the cluster"));
    world.link(1, 2);
    world.settle();
    assert!(world.node(1).is_blank(), "one is missing");
    assert!(world.reason(1).contains(": node 3 at n3:1 not"), "{}", world.reason(1));
    // The others reach everybody; it is not their part.
    world.link(2, 1);
    world.link(2, 3);
    world.pass(5_000);
    assert!(world.leaders().is_empty());
    world.link(1, 3);
    world.settle();
    for node in 1..=3 {
        assert_eq!(world.members(node), [(1, 1), (2, 2), (3, 3)], "node {node}");
    }
    let member = world.node(3).raft().membership().member(NodeId(2)).cloned().unwrap();
    assert_eq!((member.peer_address.as_str(), member.client_address.as_str()), ("n2:1", "n2:0"));
    world.pass(3_000);
    assert_eq!(world.leaders().len(), 1);
    assert!((1..=3).all(|node| world.node(node).is_ready()));
}

#[test]
fn whoever_has_begun_tells_those_that_have_not() {
    let mut world = World::form(&[1, 2, 3]);
    world.link(1, 2);
    world.link(1, 3);
    // The word to node 3 is lost, and node 1 with it.
    let slot = world.slots.get_mut(&1).unwrap();
    slot.driver.begins.retain(|(to, ..)| to.node == NodeId(2));
    world.settle();
    assert!(world.node(3).is_blank() && !world.node(2).is_blank());
    world.link(2, 3);
    world.settle();
    assert_eq!(world.members(3), world.members(1));
}

/// Its log still begins with the members of the old cluster, which it has left: two that forgot them must not become that
/// cluster again.
#[test]
fn a_recovered_node_tells_nobody_to_begin_the_old_cluster() {
    let mut world = World::form(&[1, 2, 3]);
    world.link(1, 2);
    world.link(1, 3);
    world.slots.get_mut(&1).unwrap().driver.begins.clear();
    world.settle();
    assert!(!world.node(1).is_blank() && world.node(2).is_blank() && world.node(3).is_blank());
    world.recover(1, 7);
    world.pass(3_000);
    assert_eq!(world.members(1), [(1, 7)]);
    world.link(1, 2);
    world.link(1, 3);
    assert!(world.slots[&1].driver.begins.is_empty());
    world.pass(3_000);
    assert!(world.node(2).is_blank() && world.node(3).is_blank());
    assert_eq!(world.leaders(), [1]);
}

#[test]
fn what_a_cluster_began_with_survives_a_power_loss_and_the_list_is_not_read_again() {
    let mut world = World::form(&[1, 2, 3]);
    world.link_all();
    world.pass(3_000);
    let other = Bootstrap::Initial(list(&[1, 2, 3, 4]));
    for node in 1..=3 {
        world.power_loss(node, other.clone());
        assert_eq!(world.members(node), [(1, 1), (2, 2), (3, 3)]);
        let wanted: Vec<u64> = world.node(node).wants_links().map(|(node, _)| node.0).collect();
        assert_eq!(wanted.len(), 2, "{wanted:?}");
    }
    world.link_all();
    world.pass(4_000);
    assert_eq!(world.leaders().len(), 1);
}

/// The former told the others and lost its own beginning.
#[test]
fn a_former_that_forgot_is_told_what_it_formed() {
    let mut world = World::form(&[1, 2, 3]);
    world.link(1, 2);
    world.link(1, 3);
    let begins = std::mem::take(&mut world.slots.get_mut(&1).unwrap().driver.begins);
    let from = world.node(1).replica();
    for (to, cluster, members) in begins {
        world.by_replica(to).unwrap().driver.event(Event::Begin { from, cluster, members });
    }
    // Its log job never ran.
    world.power_loss(1, Bootstrap::Initial(list(&[1, 2, 3])));
    assert!(world.node(1).is_blank());
    world.settle();
    world.link_all();
    world.settle();
    assert_eq!(world.members(1), [(1, 1), (2, 2), (3, 3)]);
    world.pass(3_000);
    assert_eq!(world.leaders().len(), 1);
}

#[test]
fn a_former_whose_disk_was_wiped_forms_nothing_and_says_what_to_do() {
    let mut world = World::form(&[1, 2, 3]);
    world.link_all();
    world.pass(3_000);
    world.start(1, 7, Bootstrap::Initial(list(&[1, 2, 3])));
    world.link_all();
    world.pass(5_000);
    assert!(world.node(1).is_blank() && world.members(1).is_empty());
    let reason = world.reason(1);
    let expected = "the cluster knows node 1 as incarnation 0000000000000001, and this directory is 00000000000002bd";
    assert!(reason.contains(expected) && reason.contains("member replace 1"), "{reason}");
    assert_eq!(world.leaders().len(), 1, "the other two go on");
}

#[test]
fn a_node_takes_no_beginning_that_is_not_its_own() {
    let mut world = World::form(&[1, 2, 3]);
    world.link_all();
    world.settle();
    let members = world.node(1).raft().membership().clone();
    let (from, cluster) = (world.node(1).replica(), world.node(1).cluster());
    // Another life of node 2, and a node that waits to be added.
    world.start(2, 5, Bootstrap::Initial(list(&[1, 2, 3])));
    world.start(4, 0, Bootstrap::Join);
    for node in [2, 4] {
        let begin = Event::Begin { from, cluster, members: members.clone() };
        world.slots.get_mut(&node).unwrap().driver.event(begin);
        assert!(world.node(node).is_blank(), "node {node}");
    }
    assert!(world.reason(4).contains("beachctl member add 4 n4:1"), "{}", world.reason(4));
    world.pass(3_000);
    let begun = world.members(3);
    let alone = Membership::of_voters([world.node(3).replica()]);
    let begin = Event::Begin { from, cluster, members: alone };
    world.slots.get_mut(&3).unwrap().driver.event(begin);
    assert_eq!(world.members(3), begun, "it has begun already");
}

#[test]
fn no_session_begins_while_a_member_does_not_know_them() {
    let mut world = World::form(&[1, 2, 3]);
    world.link_all();
    world.pass(3_000);
    let leader = world.leaders()[0];
    let origin = |request_id| Origin { conn: 1, request_id };
    let old = if leader == 2 { 3 } else { 2 };
    let mut facts = world.facts(old, leader);
    facts.features = 0;
    let register = |world: &mut World, id| {
        let driver = &mut world.slots.get_mut(&leader).unwrap().driver;
        driver.request(origin(id), Request::Register, 10_000);
        world.settle();
        world.slots.get_mut(&leader).unwrap().driver.take_reply(origin(id))
    };
    let up = |world: &mut World, facts: PeerFacts| {
        world.slots.get_mut(&leader).unwrap().driver.event(Event::PeerUp(facts));
    };
    up(&mut world, facts.clone());
    match register(&mut world, 1) {
        Some(Response::Error(error)) => assert_eq!(error.code, ErrorCode::BadRequest, "{error}"),
        other => panic!("{other:?}"),
    }
    facts.features = crate::node::FEATURES;
    up(&mut world, facts);
    assert!(matches!(register(&mut world, 2), Some(Response::Registered(_))));
}

#[test]
fn no_batch_with_conditions_is_proposed_before_every_member_knows_them_and_then_for_ever() {
    let mut world = World::form(&[1, 2, 3]);
    world.link_all();
    world.pass(3_000);
    let leader = world.leaders()[0];
    let old = if leader == 2 { 3 } else { 2 };
    let mut facts = world.facts(old, leader);
    let mut batch = crate::base::batch::WriteBatch::new();
    batch.require(b"k", crate::base::conditions::Expect::Absent).unwrap();
    let check = |world: &mut World, id| {
        let batch = BatchRef::parse(batch.as_bytes()).unwrap();
        let origin = Origin { conn: 1, request_id: id };
        let driver = &mut world.slots.get_mut(&leader).unwrap().driver;
        driver.request(origin, Request::Write { opcode: Opcode::Write, batch }, 10_000);
        world.settle();
        world.slots.get_mut(&leader).unwrap().driver.take_reply(origin)
    };
    let mut up = |world: &mut World, features| {
        facts.features = features;
        world.slots.get_mut(&leader).unwrap().driver.event(Event::PeerUp(facts.clone()));
    };
    up(&mut world, crate::node::FEATURE_SESSIONS);
    match check(&mut world, 1) {
        Some(Response::Error(error)) => {
            assert_eq!(error.code, ErrorCode::BadRequest, "{error}");
            assert!(error.message.contains("without conditions: upgrade it"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    up(&mut world, crate::node::FEATURES);
    assert!(matches!(check(&mut world, 2), Some(Response::Written { .. })));
    // The rows say so from now on, whoever is reached.
    up(&mut world, crate::node::FEATURE_SESSIONS);
    assert!(matches!(check(&mut world, 3), Some(Response::Written { .. })));
}

#[test]
fn a_node_without_a_majority_says_whom_it_misses() {
    let mut world = World::form(&[1, 2, 3]);
    world.link_all();
    world.pass(3_000);
    world.power_loss(2, Bootstrap::Alone);
    let reason = world.reason(2);
    assert!(reason.contains("2 of the 3 voters are needed"), "{reason}");
    assert!(reason.contains("node 1 at n1:1, node 3 at n3:1"), "{reason}");
}

#[test]
fn a_cluster_has_the_uid_that_its_former_drew_on_every_node_and_after_a_power_loss() {
    let mut world = World::form(&[1, 2, 3]);
    assert!((1..=3).all(|node| world.node(node).cluster().is_none()), "nobody belongs yet");
    world.link_all();
    world.pass(3_000);
    let uid = world.slots[&1].config.new_cluster;
    for node in 1..=3 {
        assert_eq!(world.node(node).cluster(), uid, "node {node}");
        world.power_loss(node, Bootstrap::Alone);
        assert_eq!(world.node(node).cluster(), uid, "node {node}");
    }
}

/// What `from` sends to `to` as its leader, in a term of its own.
fn probe(from: ReplicaId, to: ReplicaId, term: u64) -> Message {
    let append = Append {
        session: 1,
        round: 1,
        prev: (LogIndex::ZERO, Term::ZERO),
        commit: LogIndex::ZERO,
        entries: Vec::new(),
    };
    Message { from, to, term: Term(term), body: Body::Append(append) }
}

#[test]
fn a_node_belongs_to_the_first_cluster_that_counts_it_before_it_acknowledges_anything_and_hears_no_other()
 {
    let mut world = World::new();
    world.start(9, 0, Bootstrap::Join);
    let me = world.node(9).replica();
    let leader = |node| ReplicaId { node: NodeId(node), incarnation: 7 };
    let (first, second) = (ClusterUid(0xf1), ClusterUid(0x5e));
    let tell = |world: &mut World, cluster, message| {
        let after = Nanos::ZERO;
        let driver = &mut world.slots.get_mut(&9).unwrap().driver;
        driver.event(Event::Peer { message, cluster, after });
    };
    // An answer is no reason to belong to anybody.
    let granted = Body::VoteReply { granted: true };
    let reply = Message { from: leader(2), to: me, term: Term(5), body: granted };
    tell(&mut world, second, reply);
    assert!(world.node(9).cluster().is_none());
    tell(&mut world, first, probe(leader(1), me, 1));
    assert_eq!(world.node(9).cluster(), first);
    let sent = |world: &World| world.slots[&9].driver.sent.len();
    assert_eq!(sent(&world), 0, "nothing is durable yet");
    world.slots.get_mut(&9).unwrap().driver.settle();
    assert_eq!(sent(&world), 1, "the answer");
    tell(&mut world, second, probe(leader(2), me, 9));
    world.slots.get_mut(&9).unwrap().driver.settle();
    assert_eq!((sent(&world), world.node(9).raft().term()), (1, Term(1)), "not heard");
    let status = world.node(9).status(Nanos::ZERO);
    assert_eq!(status.peers.other_cluster, 2);
    assert_eq!(status.cluster_uid.as_deref(), Some("00000000000000f1"));
    world.power_loss(9, Bootstrap::Join);
    assert_eq!(world.node(9).cluster(), first, "it acknowledged, so it remembers");
    let members = Membership::of_voters([me, leader(2)]);
    let begin = Event::Begin { from: leader(2), cluster: second, members };
    world.slots.get_mut(&9).unwrap().driver.event(begin);
    assert!(world.members(9).is_empty(), "no beginning of another cluster either");
}

#[test]
fn a_recovered_cluster_has_another_uid() {
    let mut world = World::form(&[1, 2, 3]);
    world.link_all();
    world.pass(3_000);
    let old = world.node(1).cluster();
    world.recover(1, 7);
    assert_eq!(world.node(1).cluster(), ClusterUid(7));
    world.power_loss(1, Bootstrap::Alone);
    assert_eq!(world.node(1).cluster(), ClusterUid(7));
    assert_eq!(world.node(2).cluster(), old);
}

/// It was added to another cluster of the same name while it was linked.
#[test]
fn a_former_does_not_count_on_somebody_who_belongs_elsewhere_by_now() {
    let mut world = World::form(&[1, 2, 3]);
    world.link(1, 2);
    let mut facts = world.facts(2, 1);
    (facts.blank, facts.cluster) = (false, ClusterUid(0x5e));
    world.slots.get_mut(&1).unwrap().driver.event(Event::PeerUp(facts));
    world.link(1, 3);
    world.pass(3_000);
    assert!(world.node(1).is_blank() && world.node(3).is_blank());
    assert!(
        world.reason(1).contains("node 2 at n2:1 belongs to a cluster already"),
        "{}",
        world.reason(1)
    );
}
