//! [`Formation`]: what must hold while clusters form, and of their uids ever after. Silent where nodes are given their
//! members: such clusters have no uid.
//!
//! | rule | how it is checked |
//! |---|---|
//! | one beginning | nodes that are up are of one cluster; of two only when the disk of the one that formed the first was lost before |
//! | one M0 | every node of a uid has begun with the same first members |
//! | begins as a member | who says with whom a cluster began is one of them, as is whom it tells, and belongs to that cluster |
//! | belongs once | a replica that acknowledged anything (a vote, an append, a snapshot), or asked for it, in one cluster never is of another one, nor of none, also after a power loss |
//! | joins unasked | nobody but the recovered node is of a cluster that `recover` made: there, nobody adds members |
//! | hears no other | a message of another cluster makes a node that has one say nothing and learn no term |

use crate::sim::hooks::{
    Harness, Marks, Nobody, Observer, Setup, SimNode, Step, StepKind, StopKind, Verdict, Violation,
    WorldView,
};
use beachdb::base::{ClusterUid, LogIndex, Membership, NodeId, ReplicaId, Term};
use beachdb::node::Effect;
use beachdb::raft::Message;
use beachdb::raft::message::{AppendOutcome, Body, SnapshotOutcome};
use std::collections::{BTreeMap, BTreeSet};

/// A cluster formed itself.
const FORMED: &str = "cluster formed";
/// A node was told with whom its cluster began.
const TOLD: &str = "node told with whom to begin";
/// A node that had begun lost its beginning in a crash, and began again with the same members.
const FORGOTTEN: &str = "beginning lost in a crash";
/// A node that had not begun became a member by a log or a snapshot.
const ADDED: &str = "blank node added";
/// A message of another cluster arrived.
const FOREIGN: &str = "message of another cluster";
/// Two clusters began, because a disk was lost meanwhile.
const TWICE: &str = "formed twice, after a lost disk";

/// What a slot's node showed last.
#[derive(Clone, Copy, Debug, Default)]
struct Shown {
    cluster: ClusterUid,
    begun: bool,
    term: Term,
}

/// See the module.
#[derive(Debug)]
pub struct Formation {
    shown: Vec<Shown>,
    /// The first members of each cluster.
    first: BTreeMap<ClusterUid, Membership>,
    /// In which cluster a replica has given its word.
    word: BTreeMap<ReplicaId, ClusterUid>,
    /// Replicas whose disks are lost.
    lost: BTreeSet<ReplicaId>,
    /// Clusters that `recover` made, and of whom.
    made: BTreeMap<ClusterUid, ReplicaId>,
    /// Whoever had a beginning when it went down.
    had: BTreeMap<ReplicaId, ClusterUid>,
    marks: Marks,
}

fn broken(rule: &str, what: String) -> Verdict {
    Err(Violation::new(rule, what))
}

fn has_begun(node: &SimNode) -> bool {
    !node.raft().membership().is_empty()
}

/// The first members, while they are the ones in force.
fn first_members(node: &SimNode) -> Option<&Membership> {
    let raft = node.raft();
    Some(raft.membership()).filter(|m| raft.membership_index() == LogIndex::ZERO && !m.is_empty())
}

/// Whether others may count on what this message says.
fn gives_word(message: &Message) -> bool {
    match &message.body {
        Body::Vote { .. } | Body::VoteReply { granted: true } => true,
        Body::AppendReply(reply) => matches!(reply.outcome, AppendOutcome::Accepted { .. }),
        Body::SnapshotReply(reply) => matches!(reply.outcome, SnapshotOutcome::Installed { .. }),
        _ => false,
    }
}

impl Formation {
    /// Of a run with so many slots.
    #[must_use]
    pub fn new(slots: usize) -> Self {
        let mut marks = Marks::default();
        // The others are too rare to be asked of every swarm.
        for name in [FORMED, TOLD, ADDED, FOREIGN] {
            marks.add(name, 0);
        }
        Self {
            shown: vec![Shown::default(); slots],
            first: BTreeMap::new(),
            word: BTreeMap::new(),
            lost: BTreeSet::new(),
            made: BTreeMap::new(),
            had: BTreeMap::new(),
            marks,
        }
    }

    /// A process came up.
    pub fn started(&mut self, world: &dyn WorldView, slot: usize) -> Verdict {
        let view = world.slot(slot);
        let Some(node) = view.node else { return Ok(()) };
        let cluster = node.cluster();
        let had = self.had.remove(&view.replica);
        if had.is_some() && cluster.is_none() {
            self.marks.add(FORGOTTEN, 1);
        }
        let word = self.word.get(&view.replica).copied();
        if word.is_some_and(|word| word != cluster) {
            let what = format!(
                "{} gave its word in cluster {} and came back in {cluster}",
                view.replica,
                word.unwrap_or_default()
            );
            return broken("cluster-durable-before-said", what);
        }
        self.shown[slot] = Shown { cluster, begun: has_begun(node), term: node.raft().term() };
        self.belongs(world, slot, node)
    }

    /// A process ended.
    pub fn stopped(&mut self, world: &dyn WorldView, slot: usize, why: StopKind) {
        let replica = world.slot(slot).replica;
        let shown = std::mem::take(&mut self.shown[slot]);
        if why == StopKind::Wiped {
            self.lost.insert(replica);
            self.had.remove(&replica);
        } else if shown.begun && !shown.cluster.is_none() {
            self.had.insert(replica, shown.cluster);
        }
    }

    /// A node is a cluster of its own from its next start on.
    pub fn is_made(&mut self, before: ReplicaId, after: ReplicaId, cluster: ClusterUid) {
        self.made.insert(cluster, after);
        self.lost.insert(before);
        self.had.remove(&before);
    }

    /// A node took a step.
    pub fn stepped(&mut self, world: &dyn WorldView, step: &Step<'_>) -> Verdict {
        let Some(node) = world.slot(step.slot).node else { return Ok(()) };
        let cluster = node.cluster();
        let before = self.shown[step.slot];
        let now = Shown { cluster, begun: has_begun(node), term: node.raft().term() };
        self.shown[step.slot] = now;
        self.hears_no_other(step, before, now)?;
        if cluster.is_none() {
            return Ok(());
        }
        if cluster != before.cluster || now.begun != before.begun {
            if now.begun {
                self.count_beginning(step);
            }
            self.belongs(world, step.slot, node)?;
        }
        for effect in step.effects {
            match effect {
                Effect::Begin { to, cluster, members } => {
                    self.check_begin(step, node, *to, *cluster, members)?;
                }
                Effect::Send(message) if gives_word(message) => {
                    let word = *self.word.entry(step.replica).or_insert(cluster);
                    if word != cluster {
                        let what = format!(
                            "{} gave its word in cluster {word}, and now in {cluster}",
                            step.replica
                        );
                        return broken("belongs-once", what);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn count_beginning(&mut self, step: &Step<'_>) {
        self.marks.add(
            match step.kind {
                StepKind::PeerUp => FORMED,
                StepKind::Begin(_) => TOLD,
                _ => ADDED,
            },
            1,
        );
    }

    /// A node belongs to a cluster: it is everybody's.
    fn belongs(&mut self, world: &dyn WorldView, slot: usize, node: &SimNode) -> Verdict {
        let (replica, cluster) = (node.replica(), node.cluster());
        if cluster.is_none() {
            return Ok(());
        }
        if let Some(of) = self.made.get(&cluster) {
            if *of != replica {
                let what =
                    format!("{replica} is of cluster {cluster}, which was made of {of} alone");
                return broken("joins-unasked", what);
            }
            return Ok(());
        }
        if let Some(members) = first_members(node) {
            let known = self.first.entry(cluster).or_insert_with(|| members.clone());
            if known != members {
                let what = format!(
                    "{replica} is of cluster {cluster} with {members:?}, another one with {known:?}"
                );
                return broken("one-beginning", what);
            }
        }
        for other in (0..world.slots()).filter(|other| *other != slot) {
            let view = world.slot(other);
            let Some(theirs) = view.node.map(SimNode::cluster) else { continue };
            if theirs.is_none() || theirs == cluster || self.made.contains_key(&theirs) {
                continue;
            }
            if ![cluster, theirs].iter().any(|uid| self.former_is_lost(*uid)) {
                let what = format!(
                    "{replica} is of cluster {cluster}, {} of cluster {theirs}, and no disk was lost",
                    view.replica
                );
                return broken("one-beginning", what);
            }
            self.marks.add(TWICE, 1);
        }
        Ok(())
    }

    /// Whether the disk of whoever formed this cluster is lost.
    fn former_is_lost(&self, cluster: ClusterUid) -> bool {
        let members = self.first.get(&cluster).map(Membership::members);
        let former = members.and_then(|mut members| members.next());
        former.is_some_and(|former| self.lost.contains(&former.replica))
    }

    fn check_begin(
        &self,
        step: &Step<'_>,
        node: &SimNode,
        to: ReplicaId,
        cluster: ClusterUid,
        members: &Membership,
    ) -> Verdict {
        let known = self.first.get(&cluster);
        let fits = !self.made.contains_key(&cluster)
            && members.is_voter(step.replica)
            && members.is_voter(to)
            && cluster == node.cluster()
            && known.is_none_or(|known| known == members);
        if fits {
            return Ok(());
        }
        let nodes: Vec<NodeId> = members.members().map(|m| m.replica.node).collect();
        let what = format!(
            "{} of cluster {} tells {to} to begin cluster {cluster} as one of {nodes:?}: {members:?}",
            step.replica,
            node.cluster()
        );
        broken("begins-as-a-member", what)
    }

    fn hears_no_other(&mut self, step: &Step<'_>, before: Shown, now: Shown) -> Verdict {
        let (StepKind::Peer(cluster) | StepKind::Begin(cluster)) = step.kind else {
            return Ok(());
        };
        if before.cluster.is_none() || cluster == before.cluster {
            return Ok(());
        }
        self.marks.add(FOREIGN, 1);
        let speaks = step.effects.iter().any(|e| matches!(e, Effect::Send(_)));
        if speaks || now.term != before.term || now.cluster != before.cluster {
            let what = format!(
                "{} of cluster {} heard a message of cluster {cluster}: {before:?} before, {now:?} after",
                step.replica, before.cluster
            );
            return broken("hears-no-other-cluster", what);
        }
        Ok(())
    }

    /// Adds what happened.
    pub fn report(&self, marks: &mut Marks) {
        marks.merge(&self.marks);
    }
}

/// Formation alone, and nobody who uses the cluster.
#[must_use]
pub fn harness(setup: &Setup) -> Harness {
    let observer = Box::new(Formation::new(setup.nodes));
    Harness { observer, clients: Box::new(Nobody) }
}

impl Observer for Formation {
    fn node_started(&mut self, world: &dyn WorldView, slot: usize) -> Verdict {
        self.started(world, slot)
    }

    fn node_stopped(&mut self, world: &dyn WorldView, slot: usize, why: StopKind) -> Verdict {
        self.stopped(world, slot, why);
        Ok(())
    }

    fn after_step(&mut self, world: &dyn WorldView, step: &Step<'_>) -> Verdict {
        self.stepped(world, step)
    }

    fn recovered(&mut self, before: ReplicaId, after: ReplicaId, cluster: ClusterUid) -> Verdict {
        self.is_made(before, after, cluster);
        Ok(())
    }

    fn marks(&self, marks: &mut Marks) {
        self.report(marks);
    }
}
