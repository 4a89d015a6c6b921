//! Which cluster the other side is of. A name is no identity: two clusters may have the same one, formed apart or made by
//! `beachd recover`. So a cluster has a uid besides (`proto-spec/peer.md`), said in the handshake and wherever it changes.
//!
//! ```text
//!  HELLO, its reply: the uids are equal, or one side is blank and has none ──no──▶ WRONG_CLUSTER
//!  this node begins, or is added: Effect::Belongs ─▶ CLUSTER on each dialed link, before anything else
//!                                                 └▶ links with nodes of another cluster end
//!  CLUSTER, BEGIN on an accepted link; the reply to PING on a dialed one: judged again
//! ```
//!
//! Invariant: every message handed to the node comes with the cluster that its sender said last, and the node judges it by that
//! once more (`node::peers`): it may have come to belong to one a moment ago.
//!
//! What it does not do: judge by names; that is a part of judging HELLO (`accepting`, `dialing`).

use super::{Happened, Kind, Me, Peers};
use crate::base::{ClusterUid, Nanos};
use crate::node::PeerFacts;
use crate::proto::peer::{PeerFrame, PeerPong};
use crate::proto::{Effect, ErrorCode, ErrorReply};
use crate::server::peer_link::Class;

/// Whether nodes of these clusters may talk: of the same one, or one of the two belongs to none yet (and is blank). Each says
/// its cluster's uid, and whether it is blank.
pub(super) fn may_meet(one: (ClusterUid, bool), other: (ClusterUid, bool)) -> bool {
    let is_free = |(cluster, blank): (ClusterUid, bool)| cluster.is_none() && blank;
    one.0 == other.0 || is_free(one) || is_free(other)
}

/// A cluster by its uid, in words.
fn uid_in_words(cluster: ClusterUid) -> String {
    match cluster.is_none() {
        true => "from before clusters had a uid".to_owned(),
        false => format!("uid {cluster}"),
    }
}

impl Peers {
    /// This node belongs to a cluster from now on: peers are told before anything else, and those of another one are left.
    pub fn belongs(&mut self, now: Nanos, cluster: ClusterUid) {
        self.me.cluster_uid = cluster;
        let tokens: Vec<usize> = self.sockets.keys().copied().collect();
        for token in tokens {
            let Some(socket) = self.sockets.get(&token) else { continue };
            match &socket.kind {
                Kind::Accepted { from: Some(from), .. } => {
                    self.sender_belongs(now, token, from.cluster);
                }
                Kind::Accepted { .. } => {}
                Kind::Dialed { .. } => {
                    let Some(slot) = self.slot_of(token) else { continue };
                    let is_up = slot.replica.is_some();
                    let of = slot.facts.as_ref().map(|facts| (facts.cluster, facts.blank));
                    if let Some(of) = of.filter(|of| !may_meet((cluster, false), *of)) {
                        let why = self.other_cluster("it", of.0);
                        self.close(now, token, &why);
                    } else if is_up {
                        self.tell_cluster(now, token);
                    }
                }
            }
        }
    }

    /// Says on a dialed link of which cluster this node is, if that was not said yet. False when the link is gone.
    pub(super) fn tell_cluster(&mut self, now: Nanos, token: usize) -> bool {
        let cluster = self.me.cluster_uid;
        let Some(socket) = self.sockets.get_mut(&token) else { return false };
        let Kind::Dialed { said, .. } = &mut socket.kind else { return true };
        if std::mem::replace(said, cluster) == cluster {
            return true;
        }
        let frame = PeerFrame::Cluster(cluster);
        if socket.link.send(now, Class::Urgent, 64, &frame).is_err() {
            self.close(now, token, "no room to say of which cluster this node is");
            return false;
        }
        self.mark_dirty(token);
        true
    }

    /// Who dialed says of which cluster it is; or this node has come to belong to one. False when that is another one: then the
    /// link ends.
    pub(super) fn sender_belongs(&mut self, now: Nanos, token: usize, cluster: ClusterUid) -> bool {
        let me = (self.me.cluster_uid, self.blank);
        let Some(socket) = self.sockets.get_mut(&token) else { return false };
        let Kind::Accepted { from: Some(from), address } = &mut socket.kind else { return false };
        from.cluster = cluster;
        if may_meet(me, (cluster, from.blank)) {
            return true;
        }
        let (who, at) = (from.replica, address.ip());
        let message = self.other_cluster("the one that dials", cluster);
        let line = format!("node {who} at {at} is disconnected: {message}");
        let error = ErrorReply::new(ErrorCode::WrongCluster, Effect::NotApplied, message);
        if let Some(socket) = self.sockets.get_mut(&token) {
            socket.link.refuse(now, error);
        }
        self.counts.refused += 1;
        self.forget_sender(token);
        self.mark_dirty(token);
        self.warn(now, &line);
        false
    }

    /// Why this node and one of another cluster of the same name do not talk, and what to do.
    pub(super) fn other_cluster(&self, who: &str, theirs: ClusterUid) -> String {
        let Me { replica, cluster, cluster_uid, .. } = &self.me;
        format!(
            "node {} is of cluster {cluster}, {}, and {who} is of another cluster of that name, {}: they were formed apart, or \
             beachd recover made one out of what the other had left. Correct the addresses; or let the node that is to give up its \
             data run beachd rejoin, and add it to the other cluster with beachctl member add",
            replica.node,
            uid_in_words(*cluster_uid),
            uid_in_words(theirs)
        )
    }

    /// PING was answered: what the peer says of itself may have changed.
    pub(super) fn refreshed(&mut self, now: Nanos, token: usize, pong: PeerPong) {
        let here = (self.me.cluster_uid, self.blank);
        let Some(facts) = self.slot_of(token).and_then(|slot| slot.facts.as_mut()) else { return };
        let PeerPong { blank, known, cluster_uid: cluster } = pong;
        if (facts.blank, facts.known, facts.cluster) == (blank, known, cluster) {
            return;
        }
        *facts = PeerFacts { blank, known, cluster, ..facts.clone() };
        if may_meet(here, (cluster, blank)) {
            let facts = facts.clone();
            return self.happened.push(Happened::Changed(facts));
        }
        let why = self.other_cluster("it", cluster);
        self.close(now, token, &why);
    }
}
