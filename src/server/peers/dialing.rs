//! Whom to dial, when, and at which address; and what the reply to HELLO means.
//!
//! ```text
//!  Idle ─▶ Resolving (a name; `names`) ─▶ Open: connecting ─▶ greeting ─▶ up
//!    ▲                    │failed                     │failed, refused, ended
//!    └── the time comes ──┴──── Waiting, 50 ms … 2 s ◀┘
//! ```
//!
//! The address of a peer is what it said itself when it dialed us, if it is the member that we know or no member; else what the
//! membership says, or `--initial-cluster` as long as there is none. So a member that moved is found when it comes back, and a
//! stranger under a member's number is not dialed in its place.

use super::backoff::Backoff;
use super::clusters::may_meet;
use super::names::RESOLVE_NS;
use super::{Happened, Kind, Peers, Standing};
use crate::base::{Member, MemberRole, Nanos, NodeId, ReplicaId};
use crate::limits::{MAX_INTRODUCTIONS, MAX_STRANGERS_DIALED, PEER_OUTPUT_BYTES};
use crate::node::{FEATURES, PeerFacts};
use crate::proto::peer::{Lane, PEER_PROTOCOL_VERSION, PeerHello, PeerWelcome};
use crate::raft::Message;
use crate::server::peer_link::PeerLink;
use mio::net::TcpStream;
use std::collections::VecDeque;
use std::net::SocketAddr;

/// A bulk connection without messages is closed after this long.
const BULK_IDLE_NS: u64 = 10_000_000_000;
/// What is said of that.
const IDLE: &str = "idle";
/// A connection that was up for this long was a good one: the next attempt comes soon, and is news.
const STABLE_NS: u64 = 2_000_000_000;
/// An introduction that has not answered after this long has failed.
const INTRODUCTION_NS: u64 = 5_000_000_000;

/// The program and its version, for people.
pub(super) fn software() -> String {
    concat!("beachd ", env!("CARGO_PKG_VERSION")).to_owned()
}

/// What a connection is dialed for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// To send messages to a node.
    Lane(NodeId, Lane),
    /// To find out who is there.
    Introduction(u64),
}

/// Where a lane is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dial {
    /// Not dialed, and not about to be.
    Idle,
    /// The next attempt is at this time.
    Waiting(Nanos),
    /// A name is being resolved, until this time at most.
    Resolving(Nanos),
    /// There is a connection, up or on its way.
    Open(usize),
}

/// One lane to a peer.
#[derive(Debug)]
pub struct Slot {
    pub dial: Dial,
    /// The handshake named this one, and the node knows.
    pub replica: Option<ReplicaId>,
    /// What it said of itself; lane `raft` only.
    pub facts: Option<PeerFacts>,
    backoff: Backoff,
    /// Addresses of the name that were not tried yet.
    pub addresses: VecDeque<SocketAddr>,
    /// Messages that wait for the connection; bulk only.
    pub held: Vec<Message>,
    held_bytes: usize,
    pub used_at: Nanos,
    pub sent: u64,
    pub dropped: u64,
    pub dials_failed: u64,
    pub last_error: Option<String>,
}

impl Default for Slot {
    fn default() -> Self {
        Self {
            dial: Dial::Idle,
            replica: None,
            facts: None,
            backoff: Backoff::default(),
            addresses: VecDeque::new(),
            held: Vec::new(),
            held_bytes: 0,
            used_at: Nanos::ZERO,
            sent: 0,
            dropped: 0,
            dials_failed: 0,
            last_error: None,
        }
    }
}

impl Slot {
    /// Keeps a message until the connection is up. False when too many wait.
    pub fn hold(&mut self, message: &Message) -> bool {
        let (_, bytes) = super::class_of(message);
        if self.held.is_empty() {
            self.held_bytes = 0;
        }
        if self.held_bytes + bytes > PEER_OUTPUT_BYTES && !self.held.is_empty() {
            return false;
        }
        self.held_bytes += bytes;
        self.held.push(message.clone());
        true
    }

    fn clear(&mut self) {
        self.replica = None;
        self.facts = None;
        self.held = Vec::new();
    }
}

/// Another node.
#[derive(Debug, Default)]
pub struct Peer {
    /// By the membership, or by `--initial-cluster`.
    stated: Option<String>,
    /// What it said itself.
    told: Option<(ReplicaId, String)>,
    /// How many connections it has dialed to us.
    pub inbound: usize,
    /// How often a connection of it that was alive was displaced by one from elsewhere.
    pub displaced: u64,
    slots: [Slot; 2],
}

impl Peer {
    pub fn slot(&self, lane: Lane) -> &Slot {
        &self.slots[lane as usize - 1]
    }

    pub fn slot_mut(&mut self, lane: Lane) -> &mut Slot {
        &mut self.slots[lane as usize - 1]
    }

    /// Where to dial it; empty when nobody knows.
    pub fn address(&self) -> &str {
        let told = self.told.as_ref().map(|(_, address)| address.as_str());
        told.or(self.stated.as_deref()).unwrap_or_default()
    }

    /// Whether the membership, or `--initial-cluster`, names it.
    pub fn is_stated(&self) -> bool {
        self.stated.is_some()
    }

    fn is_wanted(&self) -> bool {
        self.stated.is_some() || self.inbound > 0
    }

    /// The address changed: try it now.
    fn moved(&mut self) {
        for slot in &mut self.slots {
            if matches!(slot.dial, Dial::Waiting(_)) {
                slot.dial = Dial::Idle;
                slot.backoff.reset();
                slot.addresses.clear();
            }
        }
    }
}

/// A node that somebody asked about.
#[derive(Debug)]
pub struct Introduction {
    callback: u64,
    node: NodeId,
    pub address: String,
    pub addresses: VecDeque<SocketAddr>,
    token: Option<usize>,
    deadline: Nanos,
}

impl Peers {
    /// Dials an address once, where this node should be, to learn who is there. The answer comes as [`Happened::Introduced`],
    /// with `callback`.
    pub fn introduce(&mut self, now: Nanos, node: NodeId, address: &str, callback: u64) {
        if self.introductions.len() >= MAX_INTRODUCTIONS {
            let result =
                Err("too many addresses are being looked at already; try again".to_owned());
            self.happened.push(Happened::Introduced { callback, result });
            return;
        }
        self.introduced += 1;
        let introduction = Introduction {
            callback,
            node,
            address: address.to_owned(),
            addresses: VecDeque::new(),
            token: None,
            deadline: now.plus(INTRODUCTION_NS),
        };
        self.introductions.insert(self.introduced, introduction);
        self.dial(now, Purpose::Introduction(self.introduced), address);
    }

    /// Brings the book of peers up to date with what the node wants.
    pub(super) fn follow(&mut self, now: Nanos, standing: &dyn Standing) {
        let mut wanted = 0;
        standing.each_wanted(&mut |node, address| {
            wanted += 1;
            let peer = self.peers.entry(node).or_default();
            if peer.stated.as_deref() != Some(address) {
                peer.stated = Some(address.to_owned());
                peer.moved();
            }
        });
        if self.peers.len() == wanted && self.peers.values().all(|peer| peer.stated.is_some()) {
            return;
        }
        let mut named = std::collections::BTreeSet::new();
        standing.each_wanted(&mut |node, _| {
            named.insert(node);
        });
        let mut gone = Vec::new();
        for (node, peer) in &mut self.peers {
            if !named.contains(node) {
                peer.stated = None;
            }
            if !peer.is_wanted() {
                gone.push(*node);
            }
        }
        for node in gone {
            self.drop_peer(now, node);
        }
    }

    fn drop_peer(&mut self, now: Nanos, node: NodeId) {
        for lane in Lane::ALL {
            let slot = self.peers.get(&node).map(|peer| peer.slot(lane).dial);
            if let Some(Dial::Open(token)) = slot {
                self.close(now, token, "nobody wants it any more");
            }
        }
        self.peers.remove(&node);
    }

    /// A node dialed us. `trusted`: it is the member of its number, or its number is no member's.
    pub(super) fn dialed_by(&mut self, now: Nanos, hello: &PeerHello, trusted: bool) {
        let node = hello.replica.node;
        let strangers = self.peers.values().filter(|peer| !peer.is_stated()).count();
        if strangers >= MAX_STRANGERS_DIALED && !self.peers.contains_key(&node) {
            let line = format!(
                "node {} is no member and is not dialed: {strangers} others that are none are dialed already",
                hello.replica
            );
            return self.warn(now, &line);
        }
        let peer = self.peers.entry(node).or_default();
        peer.inbound += 1;
        if hello.peer_address.is_empty() {
            if peer.address().is_empty() {
                let line = format!(
                    "node {} dialed this node and does not say where it can be reached: start it with --advertise-peer",
                    hello.replica
                );
                self.warn(now, &line);
            }
            return;
        }
        if trusted || peer.address().is_empty() {
            let before = peer.address().to_owned();
            peer.told = Some((hello.replica, hello.peer_address.clone()));
            if before != hello.peer_address {
                peer.moved();
            }
        }
        // It is there: no need to wait any longer.
        let slot = peer.slot_mut(Lane::Raft);
        if matches!(slot.dial, Dial::Waiting(_)) {
            slot.dial = Dial::Waiting(now);
        }
    }

    /// One of its connections ended.
    pub(super) fn dialed_no_more(&mut self, replica: ReplicaId) {
        let Some(peer) = self.peers.get_mut(&replica.node) else { return };
        peer.inbound = peer.inbound.saturating_sub(1);
        if peer.inbound == 0
            && peer.stated.as_ref().is_some_and(|address| !address.is_empty())
            && peer.told.as_ref().is_some_and(|(told, _)| *told == replica)
            && matches!(peer.slot(Lane::Raft).dial, Dial::Waiting(_))
        {
            // It cannot be reached where it said: back to what the membership says.
            peer.told = None;
        }
    }

    /// When the next dial is due. Never for a node without an address: it would be due at every turn.
    pub(super) fn next_dial(&self) -> Option<Nanos> {
        let lane = |peer: &Peer, lane| match peer.slot(lane).dial {
            Dial::Waiting(_) | Dial::Idle if peer.address().is_empty() => None,
            Dial::Waiting(at) | Dial::Resolving(at) => Some(at),
            Dial::Idle if lane == Lane::Raft || !peer.slot(lane).held.is_empty() => {
                Some(Nanos::ZERO)
            }
            Dial::Open(_) if lane == Lane::Bulk => Some(peer.slot(lane).used_at.plus(BULK_IDLE_NS)),
            _ => None,
        };
        let lanes = self.peers.values().flat_map(|peer| Lane::ALL.map(|l| lane(peer, l)));
        let introductions = self.introductions.values().map(|i| Some(i.deadline));
        lanes.chain(introductions).flatten().min()
    }

    /// Dials whom it is time to dial, and gives up what took too long.
    pub(super) fn dial_all(&mut self, now: Nanos) {
        let nodes: Vec<NodeId> = self.peers.keys().copied().collect();
        for node in nodes {
            for lane in Lane::ALL {
                let Some(peer) = self.peers.get_mut(&node) else { continue };
                let address = peer.address().to_owned();
                let slot = peer.slot_mut(lane);
                let due = match slot.dial {
                    Dial::Waiting(at) if at <= now => true,
                    Dial::Resolving(until) if until <= now => {
                        self.stop_resolving(now, Purpose::Lane(node, lane));
                        continue;
                    }
                    Dial::Idle => lane == Lane::Raft || !slot.held.is_empty(),
                    Dial::Open(token)
                        if lane == Lane::Bulk && now.since(slot.used_at) >= BULK_IDLE_NS =>
                    {
                        self.close(now, token, IDLE);
                        continue;
                    }
                    _ => false,
                };
                if !due || address.is_empty() {
                    continue;
                }
                if lane == Lane::Bulk && slot.held.is_empty() {
                    slot.dial = Dial::Idle;
                    continue;
                }
                self.dial(now, Purpose::Lane(node, lane), &address);
            }
        }
        let late: Vec<u64> = self
            .introductions
            .iter()
            .filter(|(_, introduction)| introduction.deadline <= now)
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            self.answer_introduction(now, id, Err("it does not answer within 5 s".to_owned()));
        }
    }

    /// One attempt: at an address, or at the first one of a name.
    fn dial(&mut self, now: Nanos, purpose: Purpose, address: &str) {
        self.counts.dials += 1;
        if let Ok(address) = address.parse::<SocketAddr>() {
            return self.connect(now, purpose, address);
        }
        if let Purpose::Lane(node, lane) = purpose
            && let Some(peer) = self.peers.get_mut(&node)
        {
            peer.slot_mut(lane).dial = Dial::Resolving(now.plus(RESOLVE_NS));
        }
        self.resolve(purpose, address);
    }

    /// The next address of a resolved name; whether there was one.
    pub(super) fn dial_next(&mut self, now: Nanos, purpose: Purpose) -> bool {
        let next = match purpose {
            Purpose::Lane(node, lane) => {
                self.peers.get_mut(&node).and_then(|peer| peer.slot_mut(lane).addresses.pop_front())
            }
            Purpose::Introduction(id) => {
                self.introductions.get_mut(&id).and_then(|i| i.addresses.pop_front())
            }
        };
        let Some(address) = next else { return false };
        self.connect(now, purpose, address);
        true
    }

    fn connect(&mut self, now: Nanos, purpose: Purpose, address: SocketAddr) {
        let (lane, wanted) = match purpose {
            Purpose::Lane(node, lane) => (lane, node),
            Purpose::Introduction(id) => {
                (Lane::Raft, self.introductions.get(&id).map_or(NodeId::ZERO, |i| i.node))
            }
        };
        let hello = PeerHello {
            min_version: PEER_PROTOCOL_VERSION,
            max_version: PEER_PROTOCOL_VERSION,
            lane,
            features: FEATURES,
            replica: self.me.replica,
            wanted,
            blank: self.blank,
            list: self.list,
            cluster_uid: self.me.cluster_uid,
            cluster: self.me.cluster.clone(),
            peer_address: self.me.peer_address.clone(),
            client_address: self.me.client_address.clone(),
            software: software(),
        };
        let link = PeerLink::dialed(now, hello);
        let said = self.me.cluster_uid;
        let kind = Kind::Dialed { purpose, connected: false, said };
        let opened =
            TcpStream::connect(address).and_then(|stream| self.insert(now, stream, link, kind));
        match opened {
            Ok(token) => match purpose {
                Purpose::Lane(node, lane) => {
                    if let Some(peer) = self.peers.get_mut(&node) {
                        peer.slot_mut(lane).dial = Dial::Open(token);
                    }
                }
                Purpose::Introduction(id) => {
                    if let Some(introduction) = self.introductions.get_mut(&id) {
                        introduction.token = Some(token);
                    }
                }
            },
            Err(e) => self.dial_ended(now, purpose, &e.to_string(), 0),
        }
    }

    /// Whether a dialed connection has come about.
    pub(super) fn check_connected(&mut self, now: Nanos, token: usize) {
        let Some(socket) = self.sockets.get_mut(&token) else { return };
        match socket.stream.take_error() {
            Ok(None) => {}
            Ok(Some(e)) | Err(e) => return self.close(now, token, &e.to_string()),
        }
        if socket.stream.peer_addr().is_err() {
            // Not yet; another event comes.
            return;
        }
        if let Err(e) = socket.stream.set_nodelay(true) {
            log::debug!("peer connection {token}: {e}");
        }
        if let Kind::Dialed { connected, .. } = &mut socket.kind {
            *connected = true;
        }
        // An answer may have come with the same event.
        socket.readable = true;
        if !socket.queued {
            socket.queued = true;
            self.ready.push_back(token);
        }
        self.mark_dirty(token);
    }

    /// HELLO was answered.
    pub(super) fn welcomed(
        &mut self,
        now: Nanos,
        token: usize,
        purpose: Purpose,
        welcome: PeerWelcome,
    ) {
        if let Err(why) = self.check_welcome(purpose, &welcome) {
            return self.close(now, token, &why);
        }
        if !self.is_current(purpose, token) {
            return self.close(now, token, "another connection has taken its place");
        }
        let replica = welcome.replica;
        let dialed = match purpose {
            Purpose::Introduction(id) => {
                self.introductions.get(&id).map(|introduction| introduction.address.clone())
            }
            Purpose::Lane(node, _) => self.peers.get(&node).map(|peer| peer.address().to_owned()),
        };
        let Some(address) = dialed else { return };
        let said = Some(welcome.peer_address).filter(|said| !said.is_empty());
        let facts = PeerFacts {
            replica,
            cluster: welcome.cluster_uid,
            blank: welcome.blank,
            known: welcome.known,
            features: welcome.features,
            peer_address: said.unwrap_or_else(|| address.clone()),
            client_address: welcome.client_address,
        };
        match purpose {
            Purpose::Introduction(id) => {
                let newcomer = self.newcomer(facts);
                self.answer_introduction(now, id, newcomer);
            }
            Purpose::Lane(node, lane) => {
                let Some(peer) = self.peers.get_mut(&node) else { return };
                let slot = peer.slot_mut(lane);
                if let Some(error) = &slot.last_error {
                    self.quiet.forget(&cannot_reach(node, &address, error));
                }
                if lane == Lane::Bulk {
                    log::debug!("connected to node {replica} at {address} (lane bulk)");
                    self.activate(now, token, replica);
                    return;
                }
                slot.facts = Some(facts.clone());
                self.inform(now, &connected(replica, &address));
                self.happened.push(Happened::Up { token, facts });
            }
        }
    }

    /// The one who answered, as a member to be added. One with a history of another cluster would lose it, or break on what it
    /// has committed.
    fn newcomer(&self, facts: PeerFacts) -> Result<Member, String> {
        if facts.features & FEATURES != FEATURES {
            return Err(
                "its software is older and lacks what this cluster may use: upgrade it first"
                    .to_owned(),
            );
        }
        if !facts.blank && facts.known != self.me.replica.incarnation {
            if facts.cluster == self.me.cluster_uid {
                return Err(format!(
                    "it has data of this cluster from before node {} was a member, so it was one itself and was removed: \
                     run beachd rejoin there, and add it again",
                    self.me.replica
                ));
            }
            return Err(
                "it has data of its own that does not come from this cluster; start it with --join and an empty --data-dir"
                    .to_owned(),
            );
        }
        Ok(Member {
            replica: facts.replica,
            role: MemberRole::Learner,
            peer_address: facts.peer_address,
            client_address: facts.client_address,
        })
    }

    fn check_welcome(&self, purpose: Purpose, welcome: &PeerWelcome) -> Result<(), String> {
        if welcome.version != PEER_PROTOCOL_VERSION {
            return Err(format!(
                "it chose peer version {}, this node speaks {PEER_PROTOCOL_VERSION}",
                welcome.version
            ));
        }
        if welcome.cluster != self.me.cluster {
            return Err(format!(
                "it is of cluster {}, this node of cluster {}: correct --cluster-id or the address",
                welcome.cluster, self.me.cluster
            ));
        }
        let (here, there) =
            ((self.me.cluster_uid, self.blank), (welcome.cluster_uid, welcome.blank));
        if !may_meet(here, there) {
            return Err(self.other_cluster("it", welcome.cluster_uid));
        }
        match purpose {
            Purpose::Lane(node, _) if welcome.replica.node != node => {
                Err(format!("it is node {}, and node {node} was expected", welcome.replica.node))
            }
            _ => Ok(()),
        }
    }

    fn answer_introduction(&mut self, now: Nanos, id: u64, result: Result<Member, String>) {
        let Some(introduction) = self.introductions.remove(&id) else { return };
        self.names.forget(Purpose::Introduction(id));
        let callback = introduction.callback;
        self.happened.push(Happened::Introduced { callback, result });
        if let Some(token) = introduction.token {
            self.close(now, token, "the introduction is over");
        }
    }

    /// Whether this connection is the one that its purpose has now.
    pub(super) fn is_current(&self, purpose: Purpose, token: usize) -> bool {
        match purpose {
            Purpose::Lane(node, lane) => {
                self.peers.get(&node).is_some_and(|p| p.slot(lane).dial == Dial::Open(token))
            }
            Purpose::Introduction(id) => {
                self.introductions.get(&id).is_some_and(|i| i.token == Some(token))
            }
        }
    }

    /// An attempt failed, or a connection ended that was up for so many nanoseconds.
    pub(super) fn dial_ended(&mut self, now: Nanos, purpose: Purpose, why: &str, lived: u64) {
        let (node, lane) = match purpose {
            Purpose::Introduction(id) => {
                if !self.introductions.contains_key(&id) || self.dial_next(now, purpose) {
                    return;
                }
                return self.answer_introduction(now, id, Err(why.to_owned()));
            }
            Purpose::Lane(node, lane) => (node, lane),
        };
        let random = self.random.next_u64();
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let address = peer.address().to_owned();
        let slot = peer.slot_mut(lane);
        let was_up = slot.replica;
        slot.clear();
        if lane == Lane::Bulk
            && let Some(replica) = was_up
        {
            slot.dial = Dial::Idle;
            if why != IDLE {
                slot.last_error = Some(why.to_owned());
            }
            self.happened.push(Happened::BulkDown(replica));
            return;
        }
        if lived >= STABLE_NS {
            slot.backoff.reset();
        }
        slot.dials_failed += u64::from(was_up.is_none());
        self.counts.dials_failed += u64::from(was_up.is_none());
        slot.last_error = Some(why.to_owned());
        slot.dial = Dial::Waiting(now.plus(slot.backoff.failed(random)));
        if let Some(replica) = was_up {
            let line = format!("the connection to node {replica} at {address} ended: {why}");
            if lived >= STABLE_NS {
                self.quiet.forget(&line);
                self.quiet.forget(&connected(replica, &address));
            }
            self.warn(now, &line);
            self.happened.push(Happened::Down(replica));
        } else if !self.dial_next(now, purpose) {
            self.warn(now, &cannot_reach(node, &address, why));
        }
    }

    /// The lane that a dialed connection is for.
    pub(super) fn slot_of(&mut self, token: usize) -> Option<&mut Slot> {
        let Kind::Dialed { purpose: Purpose::Lane(node, lane), .. } =
            self.sockets.get(&token)?.kind
        else {
            return None;
        };
        let slot = self.peers.get_mut(&node)?.slot_mut(lane);
        (slot.dial == Dial::Open(token)).then_some(slot)
    }
}

fn connected(replica: ReplicaId, address: &str) -> String {
    format!("connected to node {replica} at {address}")
}

fn cannot_reach(node: NodeId, address: &str, why: &str) -> String {
    format!("cannot reach node {node} at {address}: {why}; trying again")
}
