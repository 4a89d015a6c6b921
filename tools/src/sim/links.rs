//! Connections between nodes of a cluster that forms itself: who has dialed whom, what was said in the handshake, and that
//! what is said first on a connection arrives first. A cluster that is given its members ([`super::shape::Begin::Given`])
//! has none of this: its messages find their way by themselves.
//!
//! ```text
//!  A                                             B
//!  dial ── HELLO: who I am, blank?, my cluster ─▶ may they meet? ──no──▶ nothing (A dials again)
//!                                                 │ what it says of itself is of the *beginning* of this turn
//!  up: Event::PeerUp(facts) ◀────── WELCOME ──────┘
//!  ── BEGIN, messages (with A's cluster) ───────▶ taken while B's process lives and A has not dialed again since
//!  ── PING ─────────────────────────────────────▶
//!  Event::PeerUp again, if the facts changed ◀─── PONG
//! ```
//!
//! Invariants:
//! - What a node knows of a peer is as old as the handshake or the last PONG.
//! - BEGIN is lost only with its connection, and nothing that was sent after it on that connection arrives before it. Other
//!   messages are lost, copied, and reordered by [`super::net`] as they are without connections.
//! - A connection ends some time after one of its ends did, or after nothing got through for a while; until then its other
//!   end believes in it.
//! - A connection of an earlier incarnation is not closed by the next one: what it carried may still arrive.
//!
//! What it does not do: bytes, versions, and addresses (`server::peers` has its own tests of those).

use super::api;
use super::hooks::{SimNode, StepKind, Verdict};
use super::slot::Item;
use super::world::{Core, What, World};
use beachdb::base::{ClusterUid, LogIndex, Membership, Nanos, NodeId, ReplicaId, Term};
use beachdb::env::Random;
use beachdb::env::sim::SimRandom;
use beachdb::node::{Bootstrap, Event, FEATURES, NodeConfig, PeerFacts};
use beachdb::raft::Message;
use beachdb::raft::message::{Append, Body};

const MS: u64 = 1_000_000;
/// Dialing is tried again after at most this.
const DIAL_NS: (u64, u64) = (30 * MS, 250 * MS);
/// A connection attempt without an answer is given up after this.
const DIAL_TIMEOUT_NS: u64 = 1_500 * MS;
/// Between two PINGs.
const PING_NS: (u64, u64) = (200 * MS, 800 * MS);
/// PINGs in a row that get no answer end a connection.
const MISSED_PINGS: u32 = 4;
/// A peer whose machine is gone is missed after this at most.
const LATE_NS: u64 = 3_000 * MS;
/// One delay in this many is long.
const LATE_ONE_IN: u64 = 12;

/// What a node says of itself when it dials.
#[derive(Clone, Debug)]
pub struct Hello {
    from: usize,
    life: u64,
    session: u64,
    replica: ReplicaId,
    cluster: ClusterUid,
    blank: bool,
}

/// What happens to connections.
#[derive(Debug)]
#[expect(missing_docs, reason = "the variants say it")]
pub enum LinkEvent {
    /// It is time to dial whoever is not reached.
    Dial { slot: usize, life: u64 },
    /// It is time to ping.
    Ping { slot: usize, life: u64 },
    /// HELLO arrives.
    Hello { to: usize, life: u64, hello: Hello },
    /// WELCOME or PONG arrives.
    Facts { at: usize, life: u64, session: u64, facts: PeerFacts },
    /// A message arrives.
    Message { to: usize, session: u64, cluster: ClusterUid, message: Box<Message> },
    /// BEGIN arrives.
    Begin { to: usize, session: u64, from: ReplicaId, cluster: ClusterUid, members: Membership },
    /// The end at `slot` sees that its connection is over.
    Down { slot: usize, to: usize, session: u64 },
}

#[derive(Clone, Debug, Default)]
enum State {
    #[default]
    Idle,
    Dialing(Nanos),
    Up {
        facts: PeerFacts,
        missed: u32,
    },
}

/// One direction.
#[derive(Clone, Debug, Default)]
struct Link {
    /// The newest attempt to connect.
    session: u64,
    state: State,
    /// Nothing that is sent from now on arrives before this.
    floor: Nanos,
    /// What the other end has accepted and not closed: session, who dialed, in which of its lives.
    accepted: Vec<(u64, ReplicaId, u64)>,
}

/// See the module.
#[derive(Debug)]
pub struct Links {
    nodes: usize,
    links: Vec<Link>,
    sessions: u64,
    /// What each slot's node was at the beginning of its turn: its cluster, and whether it is blank.
    standing: Vec<(ClusterUid, bool)>,
    random: SimRandom,
}

/// Whether nodes of these clusters may talk; as in `server::peers`.
fn may_meet(one: (ClusterUid, bool), other: (ClusterUid, bool)) -> bool {
    let is_free = |(cluster, blank): (ClusterUid, bool)| cluster.is_none() && blank;
    one.0 == other.0 || is_free(one) || is_free(other)
}

fn standing(node: &SimNode) -> (ClusterUid, bool) {
    (node.cluster(), node.is_blank())
}

fn peer_address(slot: usize) -> String {
    format!("n{}:1", slot + 1)
}

fn client_address(slot: usize) -> String {
    format!("n{}:0", slot + 1)
}

impl Links {
    /// None is up.
    #[must_use]
    pub fn new(nodes: usize, random: SimRandom) -> Self {
        let links = vec![Link::default(); nodes * nodes];
        Self { nodes, links, sessions: 0, standing: vec![Default::default(); nodes], random }
    }

    /// `--initial-cluster` of every node; a list of one means the node alone.
    #[must_use]
    pub fn initial(&self) -> Bootstrap {
        if self.nodes == 1 {
            return Bootstrap::Alone;
        }
        let node = |slot| (NodeId(slot as u64 + 1), peer_address(slot));
        Bootstrap::Initial((0..self.nodes).map(node).collect())
    }

    /// What a node's command line says besides: its addresses, and the number that a start draws.
    pub fn configure(&mut self, slot: usize, config: &mut NodeConfig) {
        config.peer_address = peer_address(slot);
        config.client_address = client_address(slot);
        config.new_cluster = ClusterUid::drawn(self.random.next_u64());
    }

    /// How long a node waits before its first start: some are late.
    pub fn first_start(&mut self) -> u64 {
        let longest = if self.random.chance(1, 3) { 2_000 * MS } else { 50 * MS };
        self.random.below(longest)
    }

    fn link(&mut self, from: usize, to: usize) -> &mut Link {
        &mut self.links[from * self.nodes + to]
    }

    /// The replica that a connection is up to.
    fn reached(&self, from: usize, to: usize) -> Option<ReplicaId> {
        match &self.links[from * self.nodes + to].state {
            State::Up { facts, .. } => Some(facts.replica),
            _ => None,
        }
    }

    fn is_accepted(&self, from: usize, to: usize, session: u64, life: u64) -> bool {
        let accepted = &self.links[from * self.nodes + to].accepted;
        accepted.iter().any(|(s, _, l)| (*s, *l) == (session, life))
    }

    /// Whether `from` has a connection to `to` that this life of `to` knows.
    fn has_dialed(&self, from: usize, to: usize, life: u64) -> bool {
        self.links[from * self.nodes + to].accepted.iter().any(|(.., l)| *l == life)
    }

    fn delay(&mut self, usual: (u64, u64)) -> u64 {
        let longest = if self.random.chance(1, LATE_ONE_IN) { LATE_NS } else { usual.1 };
        usual.0 + self.random.below(longest.saturating_sub(usual.0) + 1)
    }

    fn pause(&mut self, (low, high): (u64, u64)) -> u64 {
        low + self.random.below(high - low)
    }
}

impl Core {
    fn link_event(&mut self, after: u64, event: LinkEvent) {
        self.after(after, What::Link(event));
    }

    /// How long something on a connection is on its way; `None`: nothing gets through.
    fn way(&mut self, from: usize, to: usize) -> Option<u64> {
        if self.net.is_blocked(from, to) {
            return None;
        }
        let quality = self.net.normal();
        let calm = self.calm;
        let usual = (quality.delay_min, quality.delay_max);
        let links = self.links.as_mut()?;
        Some(if calm { usual.1 } else { links.delay(usual) })
    }

    /// A process came up: it begins to dial.
    pub(super) fn links_started(&mut self, slot: usize) {
        let life = self.slots[slot].life;
        let Some(links) = self.links.as_mut() else { return };
        for to in 0..links.nodes {
            links.link(slot, to).state = State::Idle;
        }
        let (dial, ping) = (links.random.below(DIAL_NS.0), links.pause(PING_NS));
        self.link_event(dial, LinkEvent::Dial { slot, life });
        self.link_event(ping, LinkEvent::Ping { slot, life });
    }

    /// A process died: whoever was connected with it will see it, soon or late.
    pub(super) fn links_notice(&mut self, slot: usize) {
        for from in 0..self.slots.len() {
            let Some(links) = self.links.as_mut() else { return };
            if from == slot || links.reached(from, slot).is_none() {
                continue;
            }
            let soon = links.random.chance(1, 2);
            let delay = links.random.below(if soon { 20 * MS } else { LATE_NS });
            let session = links.link(from, slot).session;
            self.link_event(delay, LinkEvent::Down { slot: from, to: slot, session });
        }
    }

    /// A turn begins.
    pub(super) fn links_turn(&mut self, slot: usize) {
        if let (Some(links), Some(node)) = (self.links.as_mut(), self.slots[slot].node.as_ref()) {
            links.standing[slot] = standing(node);
        }
    }

    /// What `slot` says of itself to `to`.
    fn facts(
        &self,
        slot: usize,
        to: usize,
        (cluster, blank): (ClusterUid, bool),
    ) -> Option<PeerFacts> {
        let node = self.slots[slot].node.as_ref()?;
        let known = node.raft().membership().member(NodeId(to as u64 + 1));
        Some(PeerFacts {
            replica: node.replica(),
            cluster,
            blank,
            known: known.map_or(0, |member| member.replica.incarnation),
            features: FEATURES,
            peer_address: peer_address(slot),
            client_address: client_address(slot),
        })
    }

    fn dial(&mut self, slot: usize, life: u64) {
        let Some(node) = self.slots[slot].node.as_ref() else { return };
        let (replica, (cluster, blank)) = (node.replica(), standing(node));
        let wanted: Vec<usize> = node.wants_links().map(|(node, _)| node.0 as usize - 1).collect();
        let now = self.now;
        for to in 0..self.slots.len() {
            let Some(links) = self.links.as_mut() else { return };
            let dialed_by = links.has_dialed(to, slot, life);
            let waits = match links.link(slot, to).state {
                State::Idle => false,
                State::Dialing(since) => now.since(since) < DIAL_TIMEOUT_NS,
                State::Up { .. } => true,
            };
            if to == slot || waits || !(wanted.contains(&to) || dialed_by) {
                continue;
            }
            links.sessions += 1;
            let session = links.sessions;
            let link = links.link(slot, to);
            (link.session, link.state, link.floor) = (session, State::Dialing(now), Nanos::ZERO);
            if let Some(delay) = self.way(slot, to) {
                let hello = Hello { from: slot, life, session, replica, cluster, blank };
                let life = self.slots[to].life;
                self.link_event(delay, LinkEvent::Hello { to, life, hello });
            }
        }
        let Some(links) = self.links.as_mut() else { return };
        let pause = links.pause(DIAL_NS);
        self.link_event(pause, LinkEvent::Dial { slot, life });
    }

    /// HELLO is read: the answer says what this node was when the turn began.
    pub(super) fn take_hello(&mut self, slot: usize, hello: &Hello) {
        let Hello { from, life, session, replica, cluster, blank } = *hello;
        let here = self.slots[slot].life;
        let Some(node) = self.slots[slot].node.as_ref() else { return };
        let now = node.cluster();
        let Some(links) = self.links.as_mut() else { return };
        let (_, was_blank) = links.standing[slot];
        if !may_meet((now, was_blank), (cluster, blank)) {
            return;
        }
        let accepted = &mut links.link(from, slot).accepted;
        accepted.retain(|(_, of, life)| *of != replica && *life == here);
        accepted.push((session, replica, here));
        let Some(facts) = self.facts(slot, from, (now, was_blank)) else { return };
        if let Some(delay) = self.way(slot, from) {
            self.link_event(delay, LinkEvent::Facts { at: from, life, session, facts });
        }
    }

    fn ping(&mut self, slot: usize, life: u64) {
        for to in 0..self.slots.len() {
            let blocked = self.net.is_blocked(slot, to) || self.net.is_blocked(to, slot);
            let alive = self.slots[to].state == super::hooks::SlotState::Up;
            let there = self.slots[to].life;
            let Some(links) = self.links.as_mut() else { return };
            let link = links.link(slot, to);
            let session = link.session;
            let State::Up { missed, .. } = &mut link.state else { continue };
            *missed += 1;
            if *missed > MISSED_PINGS {
                self.link_event(0, LinkEvent::Down { slot, to, session });
            } else if !blocked && alive && links.is_accepted(slot, to, session, there) {
                let Some(now) = self.slots[to].node.as_ref().map(standing) else { continue };
                let Some(facts) = self.facts(to, slot, now) else { continue };
                if let Some(delay) = self.way(to, slot) {
                    self.link_event(delay, LinkEvent::Facts { at: slot, life, session, facts });
                }
            }
        }
        let Some(links) = self.links.as_mut() else { return };
        let pause = links.pause(PING_NS);
        self.link_event(pause, LinkEvent::Ping { slot, life });
    }

    /// A message of `slot`, on the connection to whom it is for, if there is one.
    pub(super) fn send_linked(&mut self, slot: usize, to: usize, message: Message) {
        let cluster = self.slots[slot].node.as_ref().map_or(ClusterUid::NONE, SimNode::cluster);
        let Some(links) = self.links.as_mut() else { return };
        if links.reached(slot, to) != Some(message.to) {
            return;
        }
        let link = links.link(slot, to);
        let (session, floor) = (link.session, link.floor);
        for at in self.net.route(self.now, slot, to).into_iter().flatten() {
            let message = Box::new(message.clone());
            let event = LinkEvent::Message { to, session, cluster, message };
            self.at(at.max(floor), What::Link(event));
        }
    }

    /// BEGIN leaves.
    pub(super) fn send_begin(
        &mut self,
        slot: usize,
        to: ReplicaId,
        cluster: ClusterUid,
        members: Membership,
    ) {
        let from = self.slots[slot].replica;
        let number = to.node.0 as usize - 1;
        if self.links.as_ref().is_none_or(|links| links.reached(slot, number) != Some(to)) {
            return;
        }
        let way = self.way(slot, number);
        let now = self.now;
        let Some(links) = self.links.as_mut() else { return };
        let link = links.link(slot, number);
        let session = link.session;
        match way {
            Some(delay) => {
                let at = now.plus(delay).max(link.floor);
                link.floor = at;
                let event = LinkEvent::Begin { to: number, session, from, cluster, members };
                self.at(at, What::Link(event));
            }
            // What follows must not arrive without it.
            None => self.link_event(0, LinkEvent::Down { slot, to: number, session }),
        }
    }

    /// The node of `slot` belongs to a cluster from now on: it leaves those of another one.
    pub(super) fn links_belong(&mut self, slot: usize, cluster: ClusterUid) {
        for to in 0..self.slots.len() {
            let Some(links) = self.links.as_mut() else { return };
            let link = links.link(slot, to);
            let session = link.session;
            if let State::Up { facts, .. } = &link.state
                && !may_meet((cluster, false), (facts.cluster, facts.blank))
            {
                self.link_event(0, LinkEvent::Down { slot, to, session });
            }
        }
    }

    fn down(&mut self, slot: usize, to: usize, session: u64) {
        let Some(links) = self.links.as_mut() else { return };
        let link = links.link(slot, to);
        if link.session == session
            && let State::Up { facts, .. } = std::mem::take(&mut link.state)
        {
            self.give(slot, Item::Unreachable(facts.replica));
        }
    }

    /// What a node is told of a peer is taken, if the connection is still that one; whether the node is to know.
    fn take_facts(&mut self, slot: usize, session: u64, facts: &PeerFacts) -> bool {
        let here = self.slots[slot].node.as_ref().map(standing);
        let to = facts.replica.node.0 as usize - 1;
        let (Some(links), Some(here)) = (self.links.as_mut(), here) else { return false };
        let link = links.link(slot, to);
        if link.session != session || matches!(link.state, State::Idle) {
            return false;
        }
        if !may_meet(here, (facts.cluster, facts.blank)) {
            self.down(slot, to, session);
            return false;
        }
        let state = State::Up { facts: facts.clone(), missed: 0 };
        match std::mem::replace(&mut link.state, state) {
            State::Up { facts: before, .. } => before != *facts,
            _ => true,
        }
    }
}

impl Core {
    /// A node of another cluster of the same name has `number`'s address: `slot` dials it; and what it says reaches `slot`.
    pub(super) fn meet_stranger(&mut self, slot: usize, number: usize, ms: u64) {
        let Some(node) = self.slots[slot].node.as_ref() else { return };
        let (me, here, term) = (node.replica(), standing(node), node.raft().term());
        let Some(links) = self.links.as_mut() else { return };
        let cluster = ClusterUid::drawn(links.random.next_u64());
        let replica = ReplicaId { node: NodeId(number as u64 + 1), incarnation: 77 };
        let members = Membership::of_voters([replica]);
        if may_meet(here, (cluster, false)) && matches!(links.link(slot, number).state, State::Idle)
        {
            links.sessions += 1;
            let session = links.sessions;
            let link = links.link(slot, number);
            (link.session, link.state) = (session, State::Dialing(self.now));
            let facts = PeerFacts {
                replica,
                cluster,
                blank: false,
                known: 0,
                features: FEATURES,
                peer_address: peer_address(number),
                client_address: client_address(number),
            };
            self.give(slot, Item::Facts { session, facts });
            let down = LinkEvent::Down { slot, to: number, session };
            self.link_event(Nanos::from_millis(ms).0, down);
            self.give(slot, Item::Begin { from: replica, cluster, members });
            return;
        }
        // It speaks to a node that belongs elsewhere, at times under the name of a member: nothing of it is heard.
        if here.0.is_none() {
            return;
        }
        let alike = links.random.chance(1, 2);
        let from = if alike { self.slots[number].replica } else { replica };
        let term = Term(term.0 + 1 + links.random.below(5));
        let prev = (LogIndex::ZERO, Term::ZERO);
        let body = match links.random.below(3) {
            0 => Body::Vote { last: (LogIndex(1 << 40), term), transfer: true },
            1 => Body::PreVote { last: (LogIndex(1 << 40), term) },
            _ => Body::Append(Append {
                session: 1,
                round: 1,
                prev,
                commit: LogIndex::ZERO,
                entries: Vec::new(),
            }),
        };
        let message = Box::new(Message { from, to: me, term, body });
        self.give(slot, Item::Peer { message, cluster });
    }
}

impl World {
    /// Something happens to a connection.
    pub(super) fn link_happens(&mut self, event: LinkEvent) {
        let core = &mut self.core;
        let lives = |core: &Core, slot: usize, life: u64| {
            core.slots[slot].life == life && core.slots[slot].is_up()
        };
        match event {
            LinkEvent::Dial { slot, life } if lives(core, slot, life) => core.dial(slot, life),
            LinkEvent::Ping { slot, life } if lives(core, slot, life) => core.ping(slot, life),
            LinkEvent::Hello { to, life, hello } if lives(core, to, life) => {
                core.give(to, Item::Hello(hello));
            }
            LinkEvent::Facts { at, life, session, facts } if lives(core, at, life) => {
                core.give(at, Item::Facts { session, facts });
            }
            LinkEvent::Message { to, session, cluster, message } => {
                if core.takes(message.from, to, session) {
                    core.give(to, Item::Peer { message, cluster });
                }
            }
            LinkEvent::Begin { to, session, from, cluster, members } => {
                if core.takes(from, to, session) {
                    core.give(to, Item::Begin { from, cluster, members });
                }
            }
            LinkEvent::Down { slot, to, session } => core.down(slot, to, session),
            LinkEvent::Dial { .. }
            | LinkEvent::Ping { .. }
            | LinkEvent::Hello { .. }
            | LinkEvent::Facts { .. } => {}
        }
    }

    /// WELCOME or PONG is read.
    pub(super) fn take_facts(&mut self, slot: usize, session: u64, facts: PeerFacts) -> Verdict {
        if !self.core.take_facts(slot, session, &facts) {
            return Ok(());
        }
        self.core.note(format_args!("n{} <- {}", slot + 1, api::describe_facts(&facts)));
        self.step(slot, StepKind::PeerUp, Event::PeerUp(facts))
    }

    /// BEGIN is read.
    pub(super) fn take_begin(
        &mut self,
        slot: usize,
        from: ReplicaId,
        cluster: ClusterUid,
        members: Membership,
    ) -> Verdict {
        let here = self.core.slots[slot].node.as_ref().map(standing);
        if !here.is_some_and(|here| may_meet(here, (cluster, false))) {
            return Ok(());
        }
        self.core.note(format_args!("n{} <- {from}: begin cluster {cluster}", slot + 1));
        self.step(slot, StepKind::Begin(cluster), Event::Begin { from, cluster, members })
    }
}

impl Core {
    fn takes(&self, from: ReplicaId, to: usize, session: u64) -> bool {
        let from = from.node.0 as usize - 1;
        let life = self.slots[to].life;
        self.links.as_ref().is_some_and(|links| links.is_accepted(from, to, session, life))
    }
}
