//! The other nodes: who is dialed, who has dialed, and what goes between.
//!
//! ```text
//!  Effect::Send ─▶ the link to exactly that replica, on its lane ─▶ unsent frames ─▶ one vectored write a turn
//!                      └─ none is up: dropped and counted (raft tolerates loss)
//!  readable sockets, within a budget ─▶ frames ─▶ Happened ─▶ Event::{Peer, Begin, PeerUp, PeerUnreachable}
//! ```
//!
//! Every node dials every other member, and whoever has dialed it (so that a node that waits to be added can answer). It
//! *sends* on the connections that it dialed and *receives* on those that it accepted. Two lanes to each peer: `raft` always,
//! `bulk` for pieces of snapshots while there are any, so that a heartbeat never waits behind them.
//!
//! | file | what |
//! |---|---|
//! | `dialing` | whom to dial, when, at which address; what HELLO's reply means |
//! | `names` | addresses of names, members' first |
//! | `accepting` | the listener; judging HELLO |
//! | `places` | how many connections, and how much memory, members and strangers may have |
//! | `clusters` | nodes of two clusters do not talk |
//! | `backoff`, `quiet` | when to try again; not to say everything twice |
//!
//! # Invariants
//! - A message leaves only on a link whose handshake named the very replica that it is addressed to (pitfall 31), and only
//!   after the node has heard of the link ([`Peers::activate`]): what the node says to a new link comes first.
//! - A link that was up and ends is told to the node once.
//! - Nodes of two clusters do not talk, whatever the clusters' names (`clusters`). A node that comes to belong to one says so on
//!   each link before it sends anything else ([`Peers::belongs`]).
//! - What is read from a socket that had been read empty arrived after that: each message comes with that time, and what waited
//!   while the process stood still is dropped ([`Peers::stood_still`]), so that no old word makes an old state look fresh.
//! - Bounded: connections, bytes of unsent frames, bytes read in one turn; see [`crate::limits`]. Nothing here blocks: names are
//!   resolved in a lane of their own, sockets never wait.
//! - Tokens are never reused while the process lives (four billion connections), so a late event meets nobody.
//!
//! What it does not do: understand raft's messages, or decide who belongs to the cluster.

mod accepting;
mod backoff;
mod clusters;
mod dialing;
mod names;
mod places;
mod quiet;
mod status;

pub use status::PeerMetrics;

use super::link::read_once;
use super::peer_link::{Broken, Class, Heard, NotTaken, PeerLink};
use crate::base::{ClusterUid, Member, Membership, Nanos, NodeId, ReplicaId};
use crate::env::{Jobs, Random};
use crate::limits::PEER_TURN_BYTES;
use crate::node::{PeerFacts, wire};
use crate::proto::peer::{Lane, PeerFrame, PeerPong};
use crate::raft::Message;
use crate::raft::message::{Append, Body};
use dialing::{Dial, Introduction, Peer, Purpose};
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use names::Names;
use quiet::Quiet;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;

/// The listener's token.
pub const LISTEN: usize = 3;
/// Tokens of connections: from here to 2^32, where the clients' begin.
const FIRST: usize = 1 << 16;
const END: usize = 1 << 32;

/// What this node says of itself in handshakes.
#[derive(Clone, Debug)]
pub struct Me {
    /// Which life of which node.
    pub replica: ReplicaId,
    /// The cluster's name.
    pub cluster: String,
    /// The cluster that it belongs to.
    pub cluster_uid: ClusterUid,
    /// Where peers reach it.
    pub peer_address: String,
    /// Where clients reach it.
    pub client_address: String,
}

/// What handshakes and dialing ask of the node.
pub trait Standing {
    /// Whether it has promised nothing to anybody.
    fn is_blank(&self) -> bool;
    /// While it is blank and to form a cluster: a check of who is to be in it; else 0.
    fn list(&self) -> u32;
    /// The incarnation by which its membership knows a node; 0: not at all.
    fn known(&self, node: NodeId) -> u64;
    /// Whether it knows any members.
    fn has_members(&self) -> bool;
    /// Everybody it should reach, with the address it knows.
    fn each_wanted(&self, tell: &mut dyn FnMut(NodeId, &str));
}

/// What the loop hands on to the node.
#[derive(Debug)]
pub enum Happened {
    /// A link is up; [`Peers::activate`] it, then tell the node.
    Up {
        /// Which.
        token: usize,
        /// What the peer says of itself.
        facts: PeerFacts,
    },
    /// What the peer of a link that is up says of itself is not what it said before.
    Changed(PeerFacts),
    /// The link to this replica is gone.
    Down(ReplicaId),
    /// The link for pieces of snapshots to this replica is gone; it may be wanted again.
    BulkDown(ReplicaId),
    /// A member says who the first members are.
    Begin {
        /// Which one.
        from: ReplicaId,
        /// Of which cluster.
        cluster: ClusterUid,
        /// They.
        members: Membership,
    },
    /// A message of raft.
    Message {
        /// It.
        message: Message,
        /// Of which cluster its sender is.
        cluster: ClusterUid,
        /// When it had not arrived yet.
        after: Nanos,
    },
    /// The answer to [`Peers::introduce`].
    Introduced {
        /// As given there.
        callback: u64,
        /// Who is there, as a member to be added; or why it cannot be.
        result: Result<Member, String>,
    },
}

/// A connection.
struct Socket {
    stream: TcpStream,
    link: PeerLink,
    kind: Kind,
    readable: bool,
    read_closed: bool,
    queued: bool,
    dirty: bool,
    /// What is read now was not there yet at this time: a read had left nothing behind.
    drained_at: Nanos,
}

enum Kind {
    /// We dialed it. `connected`: the kernel says so. `said`: the cluster of which we are, as it was told.
    Dialed { purpose: Purpose, connected: bool, said: ClusterUid },
    /// It dialed us, from this address; who it is, when it has said so.
    Accepted { address: SocketAddr, from: Option<Dialer> },
}

/// Who has dialed us.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Dialer {
    replica: ReplicaId,
    lane: Lane,
    /// Where it says that it is reached.
    peer_address: String,
    /// Of which cluster, as it said last.
    cluster: ClusterUid,
    /// Whether it was blank when it dialed.
    blank: bool,
}

/// Counts since the start of the process.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    sent: u64,
    received: u64,
    bytes_out: u64,
    bytes_in: u64,
    dropped_no_link: u64,
    dropped_full: u64,
    dials: u64,
    dials_failed: u64,
    accepted: u64,
    refused: u64,
}

/// See the module.
pub struct Peers {
    me: Me,
    /// Whether this node has promised nothing yet, as of this turn.
    blank: bool,
    /// [`Standing::list`], as of this turn.
    list: u32,
    registry: Registry,
    jobs: Arc<dyn Jobs>,
    random: Box<dyn Random>,
    listener: Option<TcpListener>,
    accept_ready: bool,
    accept_at: Option<Nanos>,
    sockets: BTreeMap<usize, Socket>,
    next_token: usize,
    peers: BTreeMap<NodeId, Peer>,
    introductions: BTreeMap<u64, Introduction>,
    introduced: u64,
    names: Names,
    ready: VecDeque<usize>,
    dirty: Vec<usize>,
    heard: Vec<Heard>,
    happened: Vec<Happened>,
    quiet: Quiet,
    counts: Counts,
}

impl Peers {
    /// Nobody yet. `listener` is registered under [`LISTEN`].
    pub fn new(
        me: Me,
        listener: TcpListener,
        registry: Registry,
        jobs: Arc<dyn Jobs>,
        random: Box<dyn Random>,
    ) -> Self {
        Self {
            me,
            blank: false,
            list: 0,
            registry,
            jobs,
            random,
            listener: Some(listener),
            accept_ready: true,
            accept_at: None,
            sockets: BTreeMap::new(),
            next_token: FIRST,
            peers: BTreeMap::new(),
            introductions: BTreeMap::new(),
            introduced: 0,
            names: Names::default(),
            ready: VecDeque::new(),
            dirty: Vec::new(),
            heard: Vec::new(),
            happened: Vec::new(),
            quiet: Quiet::default(),
            counts: Counts::default(),
        }
    }

    /// Whether a token is one of ours.
    pub const fn owns(token: usize) -> bool {
        token == LISTEN || (token >= FIRST && token < END)
    }

    /// Something happened at one of our tokens.
    pub fn on_event(&mut self, now: Nanos, event: &mio::event::Event) {
        let token = event.token().0;
        if token == LISTEN {
            self.accept_ready = true;
            return;
        }
        let Some(socket) = self.sockets.get_mut(&token) else { return };
        if matches!(socket.kind, Kind::Dialed { connected: false, .. }) {
            return self.check_connected(now, token);
        }
        if event.is_writable() && socket.link.unsent() > 0 {
            self.mark_dirty(token);
        }
        let Some(socket) = self.sockets.get_mut(&token) else { return };
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            socket.readable = true;
            socket.read_closed |= event.is_read_closed() || event.is_error();
            if !socket.queued {
                socket.queued = true;
                self.ready.push_back(token);
            }
        }
    }

    /// A turn's work before the clients have theirs: accepts, dials, and reads, within a budget. What it comes to is appended to
    /// `happened`.
    pub fn turn(
        &mut self,
        now: Nanos,
        standing: &dyn Standing,
        scratch: &mut [u8],
        happened: &mut Vec<Happened>,
    ) {
        (self.blank, self.list) = (standing.is_blank(), standing.list());
        self.follow(now, standing);
        self.accept(now);
        self.tick(now);
        self.read_all(now, standing, scratch);
        happened.append(&mut self.happened);
    }

    /// The process was stopped for a while, or the machine. What its peers sent meanwhile waits in the sockets on both sides, for
    /// as long as it takes to read, and looks as if it came now. So they dial again: what comes on the new connections is new.
    pub fn stood_still(&mut self, now: Nanos) {
        let is_raft = |socket: &Socket| {
            matches!(
                socket.kind,
                Kind::Accepted { from: Some(Dialer { lane: Lane::Raft, .. }), .. }
            )
        };
        let tokens: Vec<usize> =
            self.sockets.iter().filter(|(_, s)| is_raft(s)).map(|(token, _)| *token).collect();
        if !tokens.is_empty() {
            self.inform(
                now,
                "this process stood still for a while: what its peers said meanwhile is dropped",
            );
        }
        for token in tokens {
            self.close(now, token, "this process stood still for a while");
        }
    }

    /// When [`Peers::turn`] is wanted; a time in the past: at once.
    pub fn next_wakeup(&self) -> Option<Nanos> {
        let more = !self.ready.is_empty()
            || !self.happened.is_empty()
            || (self.accept_ready && self.accept_at.is_none() && self.listener.is_some());
        let links = self.sockets.values().map(|socket| socket.link.next_deadline());
        let times = [more.then_some(Nanos::ZERO), self.accept_at, self.next_dial()];
        times.into_iter().flatten().chain(links).min().filter(|at| *at != Nanos::MAX)
    }

    fn tick(&mut self, now: Nanos) {
        let due: Vec<usize> = self
            .sockets
            .iter()
            .filter(|(_, socket)| socket.link.next_deadline() <= now)
            .map(|(token, _)| *token)
            .collect();
        for token in due {
            let Some(socket) = self.sockets.get_mut(&token) else { continue };
            match socket.link.tick(now) {
                Ok(()) => self.mark_dirty(token),
                Err(why) => self.close(now, token, &why.to_string()),
            }
        }
        self.dial_all(now);
    }

    fn read_all(&mut self, now: Nanos, standing: &dyn Standing, scratch: &mut [u8]) {
        let mut left = PEER_TURN_BYTES;
        let mut batch = std::mem::take(&mut self.ready);
        while left > 0
            && let Some(token) = batch.pop_front()
        {
            left = left.saturating_sub(self.read(now, token, standing, scratch));
        }
        batch.append(&mut self.ready);
        self.ready = batch;
    }

    /// One read of one connection; how many bytes that was.
    fn read(
        &mut self,
        now: Nanos,
        token: usize,
        standing: &dyn Standing,
        scratch: &mut [u8],
    ) -> usize {
        let cluster_uid = self.me.cluster_uid;
        let Some(socket) = self.sockets.get_mut(&token) else { return 0 };
        socket.queued = false;
        if let Kind::Accepted { from: Some(from), .. } = &socket.kind {
            let (blank, known) = (self.blank, standing.known(from.replica.node));
            socket.link.set_pong(PeerPong { blank, known, cluster_uid });
        }
        let read = socket.read(scratch);
        let mut heard = std::mem::take(&mut self.heard);
        let (total, broken) = match &read {
            Ok(Some(n)) if *n > 0 => {
                (*n, socket.link.receive(now, &scratch[..*n], &mut heard).err())
            }
            _ => (0, None),
        };
        if socket.readable {
            socket.queued = true;
            self.ready.push_back(token);
        }
        self.counts.bytes_in += total as u64;
        for heard in heard.drain(..) {
            self.hear(now, token, heard, standing);
        }
        self.heard = heard;
        if let Some(socket) = self.sockets.get_mut(&token).filter(|socket| !socket.readable) {
            socket.drained_at = now;
        }
        if let Some(why) = broken {
            self.broken(now, token, &why);
        }
        self.check_input(now, token, standing);
        match read {
            Ok(Some(0)) => self.close(now, token, "the other side closed the connection"),
            Err(e) => self.close(now, token, &e.to_string()),
            Ok(_) => self.mark_dirty(token),
        }
        total
    }

    fn hear(&mut self, now: Nanos, token: usize, heard: Heard, standing: &dyn Standing) {
        let Some(socket) = self.sockets.get(&token) else { return };
        match (heard, &socket.kind) {
            (Heard::Hello(hello), _) => self.judge(now, token, hello, standing),
            (Heard::Welcome(welcome), Kind::Dialed { purpose, .. }) => {
                let purpose = *purpose;
                self.welcomed(now, token, purpose, welcome);
            }
            (Heard::Pong(pong), Kind::Dialed { .. }) => self.refreshed(now, token, pong),
            (Heard::Cluster(cluster), Kind::Accepted { .. }) => {
                self.sender_belongs(now, token, cluster);
            }
            (Heard::Begin(cluster, members), Kind::Accepted { from: Some(from), .. }) => {
                let from = from.replica;
                if self.sender_belongs(now, token, cluster) {
                    self.happened.push(Happened::Begin { from, cluster, members });
                }
            }
            (Heard::Message(term, message), Kind::Accepted { from: Some(from), .. }) => {
                self.counts.received += 1;
                let message = wire::from_wire(from.replica, self.me.replica, term, message);
                let (cluster, after) = (from.cluster, socket.drained_at);
                self.happened.push(Happened::Message { message, cluster, after });
            }
            // The link takes each of these only after the handshake that decides it.
            (heard, _) => log::debug!("connection {token}: dropped {heard:?}"),
        }
    }

    /// A link said something that does not belong there, or was refused.
    fn broken(&mut self, now: Nanos, token: usize, why: &Broken) {
        let Some(socket) = self.sockets.get(&token) else { return };
        match &socket.kind {
            Kind::Dialed { .. } => self.close(now, token, &why.to_string()),
            Kind::Accepted { address, from } => {
                let who = match from {
                    Some(from) => format!("node {}", from.replica),
                    None => "a stranger".to_owned(),
                };
                let line = format!("{who} at {} is disconnected: {why}", address.ip());
                self.warn(now, &line);
                self.counts.refused += 1;
                self.forget_sender(token);
                self.mark_dirty(token);
            }
        }
    }

    fn inform(&mut self, now: Nanos, line: &str) {
        if let Some(line) = self.quiet.say(now, line) {
            log::info!("{line}");
        }
    }

    fn warn(&mut self, now: Nanos, line: &str) {
        if let Some(line) = self.quiet.say(now, line) {
            log::warn!("{line}");
        }
    }

    fn mark_dirty(&mut self, token: usize) {
        let Some(socket) = self.sockets.get_mut(&token) else { return };
        let open = !matches!(socket.kind, Kind::Dialed { connected: false, .. });
        if open && !socket.dirty && (socket.link.unsent() > 0 || socket.link.is_over()) {
            socket.dirty = true;
            self.dirty.push(token);
        }
    }

    /// Registers a connection.
    fn insert(
        &mut self,
        now: Nanos,
        mut stream: TcpStream,
        link: PeerLink,
        kind: Kind,
    ) -> io::Result<usize> {
        while self.sockets.contains_key(&self.next_token) {
            self.next_token = if self.next_token + 1 < END { self.next_token + 1 } else { FIRST };
        }
        let token = self.next_token;
        self.next_token = if token + 1 < END { token + 1 } else { FIRST };
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.registry.register(&mut stream, Token(token), interest)?;
        let readable = matches!(kind, Kind::Accepted { .. });
        let socket = Socket {
            stream,
            link,
            kind,
            readable,
            read_closed: false,
            queued: readable,
            dirty: false,
            drained_at: now,
        };
        self.sockets.insert(token, socket);
        if readable {
            self.ready.push_back(token);
        }
        Ok(token)
    }

    /// Ends a connection.
    fn close(&mut self, now: Nanos, token: usize, why: &str) {
        self.forget_sender(token);
        let Some(mut socket) = self.sockets.remove(&token) else { return };
        if let Err(e) = self.registry.deregister(&mut socket.stream) {
            log::debug!("peer connection {token}: {e}");
        }
        match socket.kind {
            Kind::Dialed { purpose, .. } => {
                let lived = if socket.link.is_up() { now.since(socket.link.since()) } else { 0 };
                if self.is_current(purpose, token) {
                    self.dial_ended(now, purpose, why, lived);
                }
            }
            Kind::Accepted { address, .. } => log::debug!("connection from {address} ended: {why}"),
        }
        if self.accept_at.is_some() {
            self.accept_at = Some(now);
        }
    }

    /// The node is about to know of this link: messages may leave on it. False when it has ended meanwhile.
    pub fn activate(&mut self, now: Nanos, token: usize, replica: ReplicaId) -> bool {
        let Some(slot) = self.slot_of(token) else { return false };
        slot.replica = Some(replica);
        let held = std::mem::take(&mut slot.held);
        if !self.tell_cluster(now, token) {
            return false;
        }
        for message in held {
            self.send(now, &message);
        }
        true
    }

    /// Carries a message, if a link to exactly that replica is up.
    pub fn send(&mut self, now: Nanos, message: &Message) {
        let lane = lane_of(message);
        let slot = self.peers.get_mut(&message.to.node).map(|peer| peer.slot_mut(lane));
        let Some(slot) = slot else {
            self.counts.dropped_no_link += 1;
            return;
        };
        slot.used_at = now;
        let Dial::Open(token) = slot.dial else {
            if lane == Lane::Raft || !slot.hold(message) {
                self.counts.dropped_no_link += 1;
            }
            return;
        };
        if slot.replica != Some(message.to) {
            if lane == Lane::Raft || slot.replica.is_some() || !slot.hold(message) {
                self.counts.dropped_no_link += 1;
            }
            return;
        }
        let (class, weight) = class_of(message);
        self.send_frame(now, token, class, weight, &wire::to_wire(message));
    }

    /// Tells a blank replica who the first members are.
    pub fn begin(&mut self, now: Nanos, to: ReplicaId, cluster: ClusterUid, members: Membership) {
        let slot = self.peers.get_mut(&to.node).map(|peer| peer.slot_mut(Lane::Raft));
        match slot.filter(|slot| slot.replica == Some(to)).map(|slot| slot.dial) {
            Some(Dial::Open(token)) => {
                let weight = crate::limits::MAX_MEMBERSHIP_BYTES;
                let frame = PeerFrame::Begin(cluster, members);
                self.send_frame(now, token, Class::Urgent, weight, &frame);
            }
            _ => log::debug!("no link to {to}: it is told who the first members are when there is"),
        }
    }

    fn send_frame(
        &mut self,
        now: Nanos,
        token: usize,
        class: Class,
        weight: usize,
        frame: &PeerFrame,
    ) {
        let Some(socket) = self.sockets.get_mut(&token) else { return };
        let sent = socket.link.send(now, class, weight, frame);
        self.mark_dirty(token);
        let Some(slot) = self.slot_of(token) else { return };
        match sent {
            Ok(()) => {
                slot.sent += 1;
                self.counts.sent += 1;
            }
            Err(why) => {
                slot.dropped += 1;
                self.counts.dropped_full += 1;
                if why == NotTaken::TooLarge {
                    let line = format!(
                        "a message {:#04x} for a peer is longer than a frame and was dropped",
                        frame.opcode()
                    );
                    self.warn(now, &line);
                }
            }
        }
    }

    /// Sends what there is, once for each connection.
    pub fn flush(&mut self, now: Nanos) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for token in dirty.drain(..) {
            let Some(socket) = self.sockets.get_mut(&token) else { continue };
            socket.dirty = false;
            match socket.link.write_to(now, &mut socket.stream) {
                // When it would block, the next writable edge makes it dirty again.
                Ok(n) => {
                    self.counts.bytes_out += n as u64;
                    if socket.link.is_over()
                        && let Err(e) = socket.stream.shutdown(Shutdown::Write)
                    {
                        log::debug!("peer connection {token}: {e}");
                    }
                }
                Err(e) => self.close(now, token, &e.to_string()),
            }
        }
        if self.dirty.is_empty() {
            self.dirty = dirty;
        }
    }
}

impl Socket {
    /// One read. `None`: nothing there now.
    fn read(&mut self, scratch: &mut [u8]) -> io::Result<Option<usize>> {
        read_once(&mut self.stream, &mut self.readable, self.read_closed, scratch)
    }
}

const fn lane_of(message: &Message) -> Lane {
    match message.body {
        Body::Snapshot(_) => Lane::Bulk,
        _ => Lane::Raft,
    }
}

/// What goes first, and about how many bytes it is.
fn class_of(message: &Message) -> (Class, usize) {
    match &message.body {
        Body::Append(Append { entries, .. }) if !entries.is_empty() => {
            let bytes: usize = entries.iter().map(|entry| entry.payload.len() + 32).sum();
            (Class::Normal, 128 + bytes)
        }
        Body::Snapshot(chunk) => {
            let meta = chunk.meta.as_ref().map_or(0, |meta| meta.body.len());
            (Class::Normal, 1_024 + meta + chunk.data.len())
        }
        _ => (Class::Urgent, 128),
    }
}
