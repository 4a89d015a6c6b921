//! How a new cluster of several nodes begins, and what a node that does not belong to one waits for.
//!
//! ```text
//!  lowest number of --initial-cluster, blank          the others of the list, blank
//!    dials all ── every one linked and blank? ──no──▶ waits, and says for whom
//!                        │yes
//!          M0 := identities and addresses from the handshakes
//!          uid := the number drawn at start
//!          log.bootstrap(M0), a new Raft from it
//!                        └── Begin(uid, M0) ────────▶ holds me as a voter? log.bootstrap(M0), a new Raft from it
//!                                                      └── Begin(uid, M0) to whoever is linked and still blank
//!
//!  waits to be added ◀── the first APPEND, SNAPSHOT, or vote of a cluster that counts it: uid := that cluster's
//! ```
//!
//! A node is *blank* while its log is empty, its term is 0, and it knows of no members: it has promised nothing to anybody,
//! so it may begin as whatever the first members say.
//!
//! # Invariants
//! - Only a blank node begins, and only with members that hold this very replica (node and incarnation) as a voter. So a node
//!   whose disk was wiped never takes the place of the one it was.
//! - Only the lowest number of the list forms, and only when *every* other one is linked and blank: who finds a cluster
//!   never makes a second one.
//! - Whoever has begun tells it to each linked member that is blank *before* it sends it anything else on that link; so the
//!   order in which nodes start, and which of them crash meanwhile, does not matter.
//! - What a node begins with is in front of everything else in its log, and durable before its first vote. So is the uid of
//!   its cluster, whether it forms it, is told to begin, or is added: it is durable before anything is acknowledged to anybody.
//! - A node belongs to one cluster for as long as it has its log. What comes from another one, whatever its name, is dropped.
//!
//! # What it does not do
//! It adds nobody to a cluster that exists: that is a change of the membership ([`admin`](super::admin)). That two
//! nodes were started with *different* lists is found out by the handshake (`server::peers`), which refuses them to each other.

use super::types::{FEATURE_CONDITIONS, FEATURE_RANGE_DELETES, FEATURE_SESSIONS, PeerFacts};
use super::{Bootstrap, Effect, Node, Phase, StateMachine};
use crate::base::{
    ClusterUid, LogIndex, Member, MemberRole, Membership, Nanos, NodeId, ReplicaId, Term, checksum,
};
use crate::raft::message::Body;
use crate::raft::{self, HardState, LogStore, Message, Raft};
use std::collections::BTreeMap;
use std::fmt::Write;

/// What keeps a feature from being used. One that is known to lack it is worse.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Lack {
    /// This member has not been linked since this node started, so what its software can do is not known.
    Unknown(ReplicaId),
    /// This member's software does not know it.
    Feature(ReplicaId),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Formation {
    /// Who is reached now, by its node number.
    linked: BTreeMap<NodeId, PeerFacts>,
    /// What the software of each replica could do when it was last linked, for members and those linked now.
    features: BTreeMap<ReplicaId, u64>,
    /// The last reason not to form that was logged.
    said: String,
}

impl<L: LogStore, S: StateMachine> Node<L, S> {
    /// Whether this node has promised nothing yet: an empty log, term 0, and no members known.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        self.raft.term() == Term::ZERO
            && self.log.last() == (LogIndex::ZERO, Term::ZERO)
            && self.machine.applied().0 == LogIndex::ZERO
            && self.raft.membership().is_empty()
    }

    /// Whom this node should reach, with the addresses it knows: the other members, or while it knows of none those of
    /// `--initial-cluster`.
    pub fn wants_links(&self) -> impl Iterator<Item = (NodeId, &str)> {
        let members = self.raft.membership();
        let list = match &self.config.bootstrap {
            Bootstrap::Initial(list) if members.is_empty() => Some(list),
            _ => None,
        };
        let me = self.identity.node_id;
        let members = members.members().map(|m| (m.replica.node, m.peer_address.as_str()));
        let list = list.into_iter().flatten().map(|(node, address)| (*node, address.as_str()));
        members.chain(list).filter(move |(node, _)| *node != me)
    }

    /// Where clients reach a node: what it said itself when it was linked, else what the membership says.
    #[must_use]
    pub fn client_address(&self, node: NodeId) -> Option<&str> {
        if node == self.identity.node_id {
            return Some(self.config.client_address.as_str()).filter(|a| !a.is_empty());
        }
        let member = self.raft.membership().member(node);
        let linked = self.formation.linked.get(&node).map(|facts| facts.client_address.as_str());
        let stated = member.map(|m| m.client_address.as_str());
        [linked, stated].into_iter().flatten().find(|address| !address.is_empty())
    }

    /// A link to this replica is up.
    pub(super) fn peer_up(&mut self, now: Nanos, facts: PeerFacts, out: &mut Vec<Effect>) {
        let blank = facts.blank;
        let replica = facts.replica;
        self.formation.features.insert(replica, facts.features);
        self.formation.linked.insert(replica.node, facts);
        let (members, linked) = (self.raft.membership(), &self.formation.linked);
        self.formation.features.retain(|of, _| {
            members.replica(*of).is_some() || linked.get(&of.node).is_some_and(|f| f.replica == *of)
        });
        if blank {
            self.tell_to_begin(replica, out);
        }
        self.try_to_form(now, out);
    }

    /// The link is gone.
    pub(super) fn peer_down(&mut self, replica: ReplicaId) {
        if self.formation.linked.get(&replica.node).is_some_and(|facts| facts.replica == replica) {
            self.formation.linked.remove(&replica.node);
        }
    }

    /// A member that has begun says with whom.
    pub(super) fn asked_to_begin(
        &mut self,
        now: Nanos,
        from: ReplicaId,
        cluster: ClusterUid,
        members: Membership,
        out: &mut Vec<Effect>,
    ) {
        if !self.cluster.is_none() && self.cluster != cluster {
            log::warn!(
                "{from} says who the first members of cluster {cluster} are; this node is of {}",
                self.cluster
            );
        } else if !self.is_blank() || self.phase != Phase::Running {
            log::debug!("{from} says who the first members are; this node knows already");
        } else if let Err(error) = members.check() {
            log::warn!("{from} names impossible first members: {error}");
        } else if !members.is_voter(self.replica()) {
            let (me, names) = (self.replica(), names(&members));
            log::warn!("{from} asks to begin as a member of {names}; this is {me}");
        } else {
            self.begin(now, cluster, members, &format!("told by {from}"), out);
        }
    }

    /// The first members, while the log still begins with them and this replica is one of them: one that `recover` made a
    /// cluster of its own has left them.
    fn first_members(&self) -> Option<&Membership> {
        let (set_at, members) = self.raft.membership_at(LogIndex::ZERO)?;
        let whole = *set_at == LogIndex::ZERO && self.log.first_index() == LogIndex(1);
        let mine = |members: &Membership| members.is_voter(self.replica());
        Some(members).filter(|members| whole && (mine(members) || planted!(BeginByRecovered)))
    }

    /// Tells a blank replica that it is one of the first members, if it is, and still a member.
    fn tell_to_begin(&self, to: ReplicaId, out: &mut Vec<Effect>) {
        let belongs = planted!(BeginByRecovered) || self.raft.membership().replica(to).is_some();
        let first = self.first_members().filter(|members| belongs && members.is_voter(to));
        if let Some(members) = first {
            let (cluster, members) = (self.cluster, members.clone());
            out.push(Effect::Begin { to, cluster, members });
        }
    }

    /// Forms the cluster, if that is this node's part and everybody is there.
    fn try_to_form(&mut self, now: Nanos, out: &mut Vec<Effect>) {
        let Bootstrap::Initial(list) = &self.config.bootstrap else { return };
        let me = self.replica();
        let forms = list.keys().next() == Some(&me.node) && !self.identity.joining;
        if !forms || !self.is_blank() || self.phase != Phase::Running {
            return;
        }
        let others = list.keys().filter(|node| **node != me.node);
        let Some(facts) =
            others.map(|node| self.formation.linked.get(node)).collect::<Option<Vec<_>>>()
        else {
            return;
        };
        // One that is blank and has a cluster's uid has heard from that cluster: it has begun without us, and will tell us.
        let is_new = |facts: &&PeerFacts| facts.blank && facts.cluster.is_none();
        let all_new = self.cluster.is_none() && facts.iter().all(is_new);
        if !all_new && !planted!(FormsBesideOthers) {
            self.say_why_not();
            return;
        }
        let mut members = Membership::new();
        let voter = |replica, peer: &str, client: &str| Member {
            replica,
            role: MemberRole::Voter,
            peer_address: peer.to_owned(),
            client_address: client.to_owned(),
        };
        members.insert(voter(me, &self.config.peer_address, &self.config.client_address));
        for facts in facts {
            members.insert(voter(facts.replica, &facts.peer_address, &facts.client_address));
        }
        match members.check() {
            Ok(()) => {
                let (cluster, why) =
                    (self.config.new_cluster, "every node of --initial-cluster is here");
                self.begin(now, cluster, members, why, out);
            }
            Err(error) => log::error!("the cluster cannot be formed: {error}"),
        }
    }

    fn say_why_not(&mut self) {
        let reason = self.waits_to_belong().unwrap_or_default();
        if self.formation.said != reason {
            log::warn!("this node does not form a cluster: {reason}");
            self.formation.said = reason;
        }
    }

    /// Begins as one of these first members.
    fn begin(
        &mut self,
        now: Nanos,
        cluster: ClusterUid,
        members: Membership,
        why: &str,
        out: &mut Vec<Effect>,
    ) {
        log::info!(
            "cluster {} begins ({why}), uid {cluster}: {}",
            self.identity.cluster_id,
            names_and_addresses(&members)
        );
        self.belong(cluster, out);
        self.log.bootstrap(members.clone());
        self.replicated.begin(members.clone());
        let start = raft::Start {
            hard_state: HardState::default(),
            applied: LogIndex::ZERO,
            memberships: vec![(LogIndex::ZERO, members)],
        };
        self.raft = Raft::new(&self.config.raft_config(self.replica()), start, &self.log);
        let blank = self.formation.linked.values().filter(|f| f.blank).map(|f| f.replica);
        for to in blank.collect::<Vec<_>>() {
            self.tell_to_begin(to, out);
        }
        self.compare_list();
        self.step_raft(now, raft::Event::Tick, out);
        self.kick_log(now);
    }

    /// This node belongs to a cluster from now on. The log says so durably before it says anything that follows.
    fn belong(&mut self, cluster: ClusterUid, out: &mut Vec<Effect>) {
        if self.cluster != cluster {
            self.cluster = cluster;
            if !planted!(ClusterNotPersisted) {
                self.log.set_cluster(cluster);
            }
            out.push(Effect::Belongs(cluster));
        }
    }

    /// Whether a message comes from this node's cluster. A blank node belongs to the first one that counts it as a member: only
    /// such a one asks for a vote, or sends a log or a snapshot, to this very replica.
    pub(super) fn is_of_this_cluster(
        &mut self,
        cluster: ClusterUid,
        message: &Message,
        out: &mut Vec<Effect>,
    ) -> bool {
        if self.cluster == cluster || planted!(HearsOtherClusters) {
            return true;
        }
        let counts_me = matches!(
            message.body,
            Body::Append(_) | Body::Snapshot(_) | Body::Vote { .. } | Body::PreVote { .. }
        );
        if !self.cluster.is_none() || !self.is_blank() || !counts_me {
            return false;
        }
        let name = &self.identity.cluster_id;
        log::info!(
            "this node belongs to cluster {name} from now on, uid {cluster}: {} counts it as a member",
            message.from
        );
        self.belong(cluster, out);
        true
    }

    /// A check of the node numbers of `--initial-cluster`, while this node is blank and may form the cluster by it; else 0.
    #[must_use]
    pub fn list_check(&self) -> u32 {
        match &self.config.bootstrap {
            Bootstrap::Initial(list) if self.is_blank() && !self.identity.joining => {
                let numbers: Vec<u8> = list.keys().flat_map(|node| node.0.to_be_bytes()).collect();
                checksum::crc32c(&numbers).max(1)
            }
            _ => 0,
        }
    }

    /// Why sessions cannot begin yet: entries of that kind may be in the log only when *every* member, voter or learner, can apply
    /// them, whether it is up or not. Once a session has begun this holds for ever (who cannot apply it stops there, and a node
    /// with older software is not added), so it is not asked again: a member that is down when the leader restarts does not matter.
    pub(super) fn lacks_sessions(&self) -> Option<Lack> {
        if self.replicated.session_stats().open > 0 {
            return None;
        }
        self.lacks(FEATURE_SESSIONS)
    }

    /// Why batches cannot have conditions yet. As with sessions: entries of that kind may be in the log only when every member can
    /// apply them, and once one was applied, all can for ever.
    pub(super) fn lacks_conditions(&self) -> Option<Lack> {
        if self.replicated.features() & FEATURE_CONDITIONS != 0 {
            return None;
        }
        self.lacks(FEATURE_CONDITIONS)
    }

    /// Why batches cannot hold range deletes yet, likewise.
    pub(super) fn lacks_range_deletes(&self) -> Option<Lack> {
        if self.replicated.features() & FEATURE_RANGE_DELETES != 0 {
            return None;
        }
        self.lacks(FEATURE_RANGE_DELETES)
    }

    fn lacks(&self, feature: u64) -> Option<Lack> {
        let members = self.raft.membership().members().map(|member| member.replica);
        let others = members.filter(|replica| *replica != self.replica());
        let lack = others.map(|replica| match self.formation.features.get(&replica) {
            Some(features) if features & feature != 0 => None,
            Some(_) => Some(Lack::Feature(replica)),
            None => Some(Lack::Unknown(replica)),
        });
        lack.flatten().max()
    }

    /// What a node without members waits for, and what to do about it; `None` when it knows its members.
    pub(super) fn waits_to_belong(&self) -> Option<String> {
        if !self.raft.membership().is_empty() {
            return None;
        }
        let me = self.replica();
        let linked = self.formation.linked.values();
        if let Some(facts) = linked.clone().find(|f| f.known != 0 && f.known != me.incarnation) {
            return Some(format!(
                "the cluster knows node {} as incarnation {:016x}, and this directory is {:016x} (a new or wiped disk): \
                 run beachctl member replace {}",
                me.node, facts.known, me.incarnation, me.node
            ));
        }
        let peer_address = &self.config.peer_address;
        let add = format!("beachctl member add {} {peer_address}", me.node);
        if let Some(facts) = linked.clone().find(|f| !f.blank) {
            return Some(format!(
                "node {} at {} belongs to a cluster already, and that does not count this node: add it there with {add}",
                facts.replica.node, facts.peer_address
            ));
        }
        let cluster = &self.identity.cluster_id;
        let list = match &self.config.bootstrap {
            Bootstrap::Initial(list) if !self.identity.joining => list,
            Bootstrap::Join => {
                return Some(format!("waiting to be added to cluster {cluster}: run {add}"));
            }
            _ if self.identity.joining => {
                return Some(format!("waiting to be added to cluster {cluster}: run {add}"));
            }
            _ => {
                return Some(format!(
                    "this directory was made for a cluster of several and never became a member of one: start beachd with the \
                     --initial-cluster it had, or add it to cluster {cluster} with {add}"
                ));
            }
        };
        match list.first_key_value() {
            Some((first, address)) if *first != me.node => Some(format!(
                "waiting for node {first} at {address} to form the cluster: it has the lowest number of --initial-cluster"
            )),
            _ => {
                let missing = list
                    .iter()
                    .filter(|(node, _)| **node != me.node)
                    .filter(|(node, _)| !self.formation.linked.contains_key(node));
                let mut text =
                    "waiting for every node of --initial-cluster, to form it:".to_owned();
                for (n, (node, address)) in missing.enumerate() {
                    let comma = if n == 0 { "" } else { "," };
                    write!(text, "{comma} node {node} at {address}").expect("a String takes it");
                }
                Some(text + " not reached yet")
            }
        }
    }

    /// Why nobody leads, as far as this node can tell.
    pub(super) fn why_no_leader(&self) -> String {
        let me = self.replica();
        let members = self.raft.membership();
        let voters = members.voter_count();
        let reached = |m: &&Member| {
            let linked = self.formation.linked.get(&m.replica.node);
            m.replica == me || linked.is_some_and(|facts| facts.replica == m.replica)
        };
        let needed = voters / 2 + 1;
        let (here, missing): (Vec<&Member>, Vec<&Member>) =
            members.members().filter(|m| m.role == MemberRole::Voter).partition(reached);
        if here.len() >= needed {
            return "no leader is elected yet".to_owned();
        }
        let mut text = format!(
            "no leader can be elected: {needed} of the {voters} voters are needed and this node reaches {} with itself; \
             start, or connect, one of:",
            here.len()
        );
        for (n, m) in missing.iter().enumerate() {
            let (comma, node) = (if n == 0 { "" } else { "," }, m.replica.node);
            write!(text, "{comma} node {node} at {}", m.peer_address).expect("a String takes it");
        }
        text
    }

    /// A directory that belongs to a cluster does not look at the list any more.
    pub(super) fn compare_list(&self) {
        let (Bootstrap::Initial(list), members) = (&self.config.bootstrap, self.raft.membership())
        else {
            return;
        };
        let differs = !members.members().map(|m| m.replica.node).eq(list.keys().copied());
        if !members.is_empty() && differs {
            log::info!(
                "--initial-cluster is ignored: this directory belongs to a cluster already, of {}",
                names(members)
            );
        }
    }
}

fn names(members: &Membership) -> String {
    let names: Vec<String> = members.members().map(|m| m.replica.to_string()).collect();
    format!("nodes {}", names.join(", "))
}

fn names_and_addresses(members: &Membership) -> String {
    let name = |m: &Member| format!("node {} at {}", m.replica, m.peer_address);
    members.members().map(name).collect::<Vec<_>>().join(", ")
}
