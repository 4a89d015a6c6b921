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
//! | anything else | taken; `known` says as whom the membership knows the sender | a changed disk |
//!
//! A stranger is taken, too: a node that waits to be added must be able to talk with those that add it. What it sends reaches
//! raft, which counts members only.

use super::clusters::may_meet;
use super::{Dialer, Kind, Peers, Standing};
use crate::base::{Nanos, NodeId};
use crate::limits::MAX_PEER_CONNECTIONS;
use crate::node::FEATURES;
use crate::proto::peer::{Lane, PEER_PROTOCOL_VERSION, PeerHello, PeerWelcome};
use crate::proto::{Effect, ErrorCode, ErrorReply};
use crate::server::peer_link::PeerLink;
use mio::net::TcpStream;
use std::io;
use std::net::SocketAddr;

/// Connections accepted in one turn.
const ACCEPTS_PER_TURN: usize = 64;
/// How long accepting rests after it failed.
const ACCEPT_PAUSE: u64 = 100_000_000;
/// Connections above the limit that are kept while they are told.
const MAX_REFUSED: usize = 16;

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
        let accepted =
            self.sockets.values().filter(|s| matches!(s.kind, Kind::Accepted { .. })).count();
        if accepted >= MAX_PEER_CONNECTIONS + MAX_REFUSED {
            return;
        }
        if let Err(e) = stream.set_nodelay(true) {
            log::debug!("{address}: {e}");
        }
        let mut link = PeerLink::accepted(now);
        if accepted >= MAX_PEER_CONNECTIONS {
            let message =
                format!("this node has its limit of {MAX_PEER_CONNECTIONS} connections from peers");
            self.warn(now, &message);
            let mut error =
                ErrorReply::new(ErrorCode::TooManyConnections, Effect::NotApplied, message);
            error.retry_after_ms = 1_000;
            link.refuse(now, error);
            self.counts.refused += 1;
        }
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
        let answer = self.check_hello(&hello, standing);
        let known = standing.known(hello.replica.node);
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
        self.supersede(now, token, &hello);
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

    /// The same replica has dialed again: its earlier connection of that lane is a dead one.
    fn supersede(&mut self, now: Nanos, token: usize, hello: &PeerHello) {
        let is_same = |from: &Dialer| from.replica == hello.replica && from.lane == hello.lane;
        let is_older = |(at, socket): &(&usize, &super::Socket)| {
            **at != token
                && matches!(&socket.kind, Kind::Accepted { from: Some(from), .. } if is_same(from))
        };
        let older: Vec<usize> =
            self.sockets.iter().filter(is_older).map(|(token, _)| *token).collect();
        for token in older {
            self.close(now, token, "the same node has dialed again");
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
