//! The listener of the peer port, and what HELLO is answered.
//!
//! | HELLO | answer | both sides log |
//! |---|---|---|
//! | no common version | `BAD_VERSION` | the versions |
//! | another cluster | `WRONG_CLUSTER` | both names |
//! | another cluster of the same name | `WRONG_CLUSTER` | both uids |
//! | both are to form a cluster, of different nodes | `WRONG_CLUSTER` | the numbers of this one's `--initial-cluster` |
//! | this node's own number | `DUPLICATE_NODE` | which two |
//! | wants another node than this one | `WRONG_NODE` | both numbers |
//! | no place left ([`places`](super::places)) | `TOO_MANY_CONNECTIONS` | whose places are taken |
//! | anything else | taken; `known` says as whom the membership knows the sender | a changed disk |
//!
//! A stranger is taken, too: a node that waits to be added must be able to talk with those that add it. What it sends reaches
//! raft, which counts members only.

use super::clusters::may_meet;
use super::{Dialer, Kind, Peers, Standing};
use crate::base::{Nanos, NodeId};
use crate::node::FEATURES;
use crate::proto::peer::{Lane, PEER_PROTOCOL_VERSION, PeerHello, PeerWelcome};
use crate::proto::{Effect, ErrorCode, ErrorReply};
use crate::server::peer_link::PeerLink;
use mio::net::TcpStream;
use std::io;
use std::net::SocketAddr;

/// Connections accepted in one turn.
const ACCEPTS_PER_TURN: usize = 64;
/// A connection on which something was heard within this time is alive: who dialed it PINGs every second.
const ALIVE_NS: u64 = 1_500_000_000;
/// A replica whose living connection is displaced from elsewhere this often runs twice.
const DISPLACED: u64 = 3;
/// How long accepting rests after it failed.
const ACCEPT_PAUSE: u64 = 100_000_000;

impl Peers {
    pub(super) fn accept(&mut self, now: Nanos) {
        if self.accept_at.is_some_and(|at| at <= now) {
            (self.accept_at, self.accept_ready) = (None, true);
        }
        if !self.accept_ready || self.accept_at.is_some() {
            return;
        }
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(listener) = &self.listener else { return };
            match listener.accept() {
                Ok((stream, address)) => self.admit(now, stream, address),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.accept_ready = false;
                    return;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    self.warn(now, &format!("cannot accept connections of peers: {e}"));
                    self.accept_at = Some(now.plus(ACCEPT_PAUSE));
                    return;
                }
            }
        }
    }

    fn admit(&mut self, now: Nanos, stream: TcpStream, address: SocketAddr) {
        self.make_place_to_greet(now);
        if let Err(e) = stream.set_nodelay(true) {
            log::debug!("{address}: {e}");
        }
        let link = PeerLink::accepted(now);
        self.counts.accepted += 1;
        match self.insert(now, stream, link, Kind::Accepted { address, from: None }) {
            Ok(token) => self.mark_dirty(token),
            Err(e) => log::warn!("{address}: cannot register the connection: {e}"),
        }
    }

    /// Answers HELLO.
    pub(super) fn judge(
        &mut self,
        now: Nanos,
        token: usize,
        hello: PeerHello,
        standing: &dyn Standing,
    ) {
        let known = standing.known(hello.replica.node);
        let answer = self.check_hello(&hello, standing).and_then(|()| {
            self.supersede(now, token, &hello);
            self.find_place(now, &hello.replica, standing)
        });
        let Some(socket) = self.sockets.get_mut(&token) else { return };
        let Kind::Accepted { address, from } = &mut socket.kind else { return };
        let at = address.ip();
        if let Err(error) = answer {
            let line = format!("node {} at {at} is refused: {}", hello.replica, error.message);
            socket.link.refuse(now, error);
            self.counts.refused += 1;
            self.mark_dirty(token);
            return self.warn(now, &line);
        }
        *from = Some(Dialer {
            replica: hello.replica,
            lane: hello.lane,
            peer_address: hello.peer_address.clone(),
            cluster: hello.cluster_uid,
            blank: hello.blank,
        });
        let welcome = PeerWelcome {
            version: PEER_PROTOCOL_VERSION,
            features: FEATURES,
            replica: self.me.replica,
            blank: standing.is_blank(),
            known,
            cluster_uid: self.me.cluster_uid,
            cluster: self.me.cluster.clone(),
            peer_address: self.me.peer_address.clone(),
            client_address: self.me.client_address.clone(),
            software: super::dialing::software(),
        };
        socket.link.welcome(now, welcome);
        self.mark_dirty(token);
        log::debug!("node {} at {at} dialed this one (lane {})", hello.replica, hello.lane.name());
        if known != 0 && known != hello.replica.incarnation {
            self.warn(
                now,
                &format!(
                    "node {} at {at} has a new or wiped disk: it is incarnation {:016x}, and the cluster knows {known:016x}; \
                     run beachctl member replace {}",
                    hello.replica.node, hello.replica.incarnation, hello.replica.node
                ),
            );
        }
        if hello.lane == Lane::Raft {
            let member = known == hello.replica.incarnation;
            self.dialed_by(now, &hello, member || known == 0);
        }
    }

    fn check_hello(&self, hello: &PeerHello, standing: &dyn Standing) -> Result<(), ErrorReply> {
        let me = &self.me;
        let refused = |code, message| Err(ErrorReply::new(code, Effect::NotApplied, message));
        if hello.common_version().is_none() {
            let (min, max) = (hello.min_version, hello.max_version);
            return refused(
                ErrorCode::BadVersion,
                format!(
                    "it speaks peer versions {min} to {max}, node {} speaks {PEER_PROTOCOL_VERSION}",
                    me.replica.node
                ),
            );
        }
        if hello.cluster != me.cluster {
            return refused(
                ErrorCode::WrongCluster,
                format!(
                    "node {} is of cluster {}, the one that dials is of cluster {}: correct --cluster-id or the address",
                    me.replica.node, me.cluster, hello.cluster
                ),
            );
        }
        if hello.replica == me.replica {
            return refused(
                ErrorCode::DuplicateNode,
                format!(
                    "node {} dials itself: correct the address of the other node",
                    me.replica.node
                ),
            );
        }
        if hello.replica.node == me.replica.node {
            return refused(
                ErrorCode::DuplicateNode,
                format!(
                    "two nodes have the number {}: incarnations {:016x} and {:016x}; give one of them another --node-id",
                    me.replica.node, me.replica.incarnation, hello.replica.incarnation
                ),
            );
        }
        let (here, there) = ((me.cluster_uid, self.blank), (hello.cluster_uid, hello.blank));
        if !may_meet(here, there) {
            let message = self.other_cluster("the one that dials", hello.cluster_uid);
            return refused(ErrorCode::WrongCluster, message);
        }
        let list = standing.list();
        if hello.list != 0 && list != 0 && hello.list != list {
            let mut nodes = vec![me.replica.node];
            standing.each_wanted(&mut |node, _| nodes.push(node));
            nodes.sort_unstable();
            let nodes: Vec<String> = nodes.iter().map(NodeId::to_string).collect();
            return refused(
                ErrorCode::WrongCluster,
                format!(
                    "node {} and the one that dials, node {}, were started with --initial-cluster of different nodes: here {}; \
                     give every node the same list",
                    me.replica.node,
                    hello.replica.node,
                    nodes.join(", ")
                ),
            );
        }
        if hello.wanted.0 != 0 && hello.wanted != me.replica.node {
            return refused(
                ErrorCode::WrongNode,
                format!(
                    "node {} is dialed as node {}: correct the address of node {}",
                    me.replica.node, hello.wanted, hello.wanted
                ),
            );
        }
        Ok(())
    }

    /// The same replica has dialed again: its earlier connection of that lane is a dead one. If it is not, and comes from elsewhere,
    /// and that again and again, then two processes run on copies of one data directory.
    fn supersede(&mut self, now: Nanos, token: usize, hello: &PeerHello) {
        let at = |address: &SocketAddr, stated: &str| format!("{} ({stated})", address.ip());
        let here = match self.sockets.get(&token).map(|socket| &socket.kind) {
            Some(Kind::Accepted { address, .. }) => at(address, &hello.peer_address),
            _ => return,
        };
        let mut older = Vec::new();
        let mut elsewhere = None;
        for (other, socket) in &self.sockets {
            if let Kind::Accepted { address, from: Some(from) } = &socket.kind
                && *other != token
                && (from.replica, from.lane) == (hello.replica, hello.lane)
            {
                older.push(*other);
                let there = at(address, &from.peer_address);
                let lives = now.since(socket.link.heard_at()) < ALIVE_NS;
                elsewhere = Some(there).filter(|there| lives && *there != here).or(elsewhere);
            }
        }
        for token in older {
            self.close(now, token, "the same node has dialed again");
        }
        let Some(there) = elsewhere else { return };
        let Some(peer) = self.peers.get_mut(&hello.replica.node) else { return };
        peer.displaced += 1;
        if peer.displaced >= DISPLACED {
            let (mut one, mut other) = (&there, &here);
            if one > other {
                std::mem::swap(&mut one, &mut other);
            }
            let line = format!(
                "node {} dials from two places in turn, {one} and {other}: two processes run on copies of one data directory, and \
                 vote as one; stop one of them, and wipe its directory",
                hello.replica
            );
            self.warn(now, &line);
        }
    }

    /// Whoever this connection was from has not dialed us any more.
    pub(super) fn forget_sender(&mut self, token: usize) {
        let Some(socket) = self.sockets.get_mut(&token) else { return };
        let Kind::Accepted { from, .. } = &mut socket.kind else { return };
        if let Some(Dialer { replica, lane: Lane::Raft, .. }) = from.take() {
            self.dialed_no_more(replica);
        }
    }
}
