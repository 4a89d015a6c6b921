//! [`Judge`]: what must hold after every step of every node, checked at every step, each rule in constant time or in time
//! proportional to what the step did.
//!
//! | rule | how it is checked |
//! |---|---|
//! | election safety | one leader per term; it had the votes of a majority, as *sent*; one vote per replica and term, over all its lives |
//! | log matching | an (index, term) has one payload and one predecessor, in every append that was ever sent |
//! | leader completeness | a new leader has the last entry that was committed in an older term |
//! | commit | never goes back in a life; a leader's moves only to an entry of its own term, which a majority of its voters acknowledged in this term (counted here, not asked) |
//! | durable before said | what a message promised (a term, a vote, entries up to *matched*) is there again after every crash |
//! | a follower's commit | in a step with an append: at most the smaller of the leader's and the last entry that this append verified (Figure 2) |
//! | state-machine safety | [`super::model`]: same entry, same outcome, same sequence number per applied index |
//! | exactly once | [`super::model`]: a session's write is applied once; [`super::sessions`]: refused, repeated, and evicted by the rules only |
//! | membership | one per entry; a leader begins a change when the one before and an entry of its own term are committed; the one in force is that of an entry in the log |
//! | pre-vote | who campaigns uncalled had a majority's yes, as sent |
//! | hung disk | a leader whose sync takes one and a half election timeouts leads no more |
//! | reads | [`super::confirmed`]: a majority answered in one term after the read arrived, or a lease holds |
//! | applied | is committed, also after a restart, and durable on the same node |
//! | formation | [`super::formation`]: one beginning, one cluster for a replica, no word for another one |
//! | bounded | uncommitted bytes, messages of one step |
//!
//! A leader that counted itself *promised* its own entries: the next power loss tells whether they were durable.

use super::confirmed::Confirmed;
use super::content;
use super::formation::Formation;
use super::history::History;
use super::marks;
use crate::sim::api::membership;
use crate::sim::hooks::{
    Marks, Observer, Setup, SimNode, SlotView, Step, StepKind, StopKind, Verdict, Violation,
    WorldView,
};
use beachdb::base::hash::key_hash;
use beachdb::base::{LogIndex, Membership, ReplicaId, Term};
use beachdb::env::sim::CrashKind;
use beachdb::node::{Effect, Observed};
use beachdb::proto::Response;
use beachdb::raft::message::{Append, AppendOutcome, Body, SnapshotOutcome};
use beachdb::raft::{LogView, Message, Role};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// More messages than this in one step are a storm.
const MAX_MESSAGES_PER_STEP: usize = 20_000;
/// A group of entries that is admitted whole above the limit of uncommitted bytes.
const GROUP_BYTES: usize = 1 << 20;
/// Appended entries remembered below the commit index, for log matching.
const KEPT_ENTRIES: u64 = 5_000;

/// Of how many terms a replica's acknowledgements are remembered.
const KEPT_TERMS: usize = 64;

/// What a replica said in all its lives.
#[derive(Debug, Default)]
struct Word {
    /// The highest term in a message that makes it durable.
    term: Term,
    /// Its votes.
    votes: BTreeMap<Term, ReplicaId>,
    /// "I have the leader's log up to here", in the newest term it said so in.
    acked: (Term, LogIndex),
    /// What it said in each term, whatever became of it since: a deposed leader may hear it late, and commit by it.
    said: BTreeMap<Term, LogIndex>,
    /// What must be in its log after a crash.
    promised: Option<(LogIndex, Term)>,
}

/// What a process showed last.
#[derive(Clone, Copy, Debug, Default)]
struct Shown {
    term: Term,
    commit: LogIndex,
    membership: LogIndex,
    leads: bool,
}

/// See the module.
pub struct Judge {
    history: Rc<RefCell<History>>,
    leaders: BTreeMap<Term, ReplicaId>,
    /// Who granted whom a vote, by term.
    granted: BTreeMap<Term, BTreeMap<ReplicaId, BTreeSet<ReplicaId>>>,
    /// Who would have granted whom a vote, by term.
    pre_granted: BTreeMap<Term, BTreeMap<ReplicaId, BTreeSet<ReplicaId>>>,
    /// The membership that an entry sets.
    memberships: BTreeMap<(LogIndex, Term), Membership>,
    words: BTreeMap<ReplicaId, Word>,
    shown: Vec<Shown>,
    /// (index, term) of every entry that was sent: its payload's hash, and the term of the entry before it.
    entries: BTreeMap<(LogIndex, Term), (u64, Term)>,
    pruned_below: LogIndex,
    reads: Confirmed,
    marks: marks::Watch,
    content: content::Sampler,
    formation: Formation,
}

fn broken(rule: &str, what: String) -> Verdict {
    Err(Violation::new(rule, what))
}

impl Judge {
    /// For one run.
    #[must_use]
    pub fn new(setup: &Setup, history: Rc<RefCell<History>>) -> Self {
        Self {
            history,
            leaders: BTreeMap::new(),
            granted: BTreeMap::new(),
            pre_granted: BTreeMap::new(),
            memberships: BTreeMap::new(),
            words: BTreeMap::new(),
            shown: vec![Shown::default(); setup.nodes],
            entries: BTreeMap::new(),
            pruned_below: LogIndex::ZERO,
            reads: Confirmed::default(),
            marks: marks::Watch::new(setup),
            content: content::Sampler::new(setup.seed),
            formation: Formation::new(setup.nodes),
        }
    }

    fn check_message(&mut self, world: &dyn WorldView, step: &Step<'_>, m: &Message) -> Verdict {
        if m.from != step.replica {
            return broken("messages-name-their-sender", format!("{} sent {m:?}", step.replica));
        }
        self.check_vote(world, step, m)?;
        self.reads.message(step.at, m);
        let word = self.words.entry(m.from).or_default();
        match &m.body {
            Body::Append(append) => {
                word.term = word.term.max(m.term);
                self.check_leader(m.term, m.from)?;
                self.check_append(m, append)
            }
            Body::AppendReply(reply) => {
                word.term = word.term.max(m.term);
                if let AppendOutcome::Accepted { matched } = reply.outcome {
                    self.acknowledge(world, step, m.term, matched);
                }
                Ok(())
            }
            Body::SnapshotReply(reply) => {
                if let SnapshotOutcome::Installed { index } = reply.outcome {
                    word.term = word.term.max(m.term);
                    self.acknowledge(world, step, m.term, index);
                }
                Ok(())
            }
            Body::Snapshot(_) => self.check_leader(m.term, m.from),
            _ => Ok(()),
        }
    }

    fn check_vote(&mut self, world: &dyn WorldView, step: &Step<'_>, m: &Message) -> Verdict {
        let candidate = match &m.body {
            Body::Vote { transfer, .. } => {
                if !transfer {
                    self.check_campaign(world, step, m)?;
                }
                m.from
            }
            Body::PreVoteReply { granted: true } => {
                let granted = self.pre_granted.entry(m.term).or_default();
                granted.entry(m.to).or_default().insert(m.from);
                return Ok(());
            }
            Body::VoteReply { granted: true } => m.to,
            Body::VoteReply { granted: false } => {
                let word = self.words.entry(m.from).or_default();
                word.term = word.term.max(m.term);
                return Ok(());
            }
            _ => return Ok(()),
        };
        let word = self.words.entry(m.from).or_default();
        let before = *word.votes.entry(m.term).or_insert(candidate);
        if before != candidate {
            let what = format!("{} voted for {before} and {candidate} in term {}", m.from, m.term);
            return broken("one-vote-per-term", what);
        }
        if m.from != candidate {
            word.term = word.term.max(m.term);
            self.granted.entry(m.term).or_default().entry(candidate).or_default().insert(m.from);
        }
        Ok(())
    }

    /// A majority said that it would vote.
    fn check_campaign(&self, world: &dyn WorldView, step: &Step<'_>, m: &Message) -> Verdict {
        let Some(node) = world.slot(step.slot).node else { return Ok(()) };
        let granted = self.pre_granted.get(&m.term).and_then(|g| g.get(&m.from));
        let voters: Vec<_> = node.raft().membership().voters().collect();
        let yes = voters
            .iter()
            .filter(|v| **v == m.from || granted.is_some_and(|g| g.contains(v)))
            .count();
        if yes * 2 <= voters.len() {
            let what = format!(
                "{} campaigns in term {} with {yes} pre-votes of {voters:?}",
                m.from, m.term
            );
            return broken("campaigns-after-pre-votes", what);
        }
        Ok(())
    }

    fn check_leader(&mut self, term: Term, leader: ReplicaId) -> Verdict {
        let first = *self.leaders.entry(term).or_insert(leader);
        if first != leader {
            let what = format!("{first} and {leader} both lead in term {term}");
            return broken("election-safety", what);
        }
        Ok(())
    }

    fn check_append(&mut self, m: &Message, append: &Append) -> Verdict {
        let (mut index, mut before) = append.prev;
        for entry in &append.entries {
            if entry.index != index.next() || entry.term < before || entry.term > m.term {
                let what = format!(
                    "{} sent entry {} of term {} after {index} of {before}, in term {}",
                    m.from, entry.index, entry.term, m.term
                );
                return broken("log-matching", what);
            }
            if entry.index > self.pruned_below {
                let here = (key_hash(&entry.payload), before);
                let known = *self.entries.entry((entry.index, entry.term)).or_insert(here);
                if known != here {
                    let what = format!(
                        "entry {} of term {}: (payload, term before) {here:x?} from {}, {known:x?} before",
                        entry.index, entry.term, m.from
                    );
                    return broken("log-matching", what);
                }
            }
            (index, before) = (entry.index, entry.term);
        }
        Ok(())
    }

    fn acknowledge(&mut self, world: &dyn WorldView, step: &Step<'_>, term: Term, to: LogIndex) {
        let word = self.words.entry(step.replica).or_default();
        if word.acked.0 < term {
            word.acked = (term, to);
        }
        let said = word.said.entry(term).or_default();
        *said = (*said).max(to);
        if word.said.len() > KEPT_TERMS {
            word.said.pop_first();
        }
        word.acked.1 = word.acked.1.max(to);
        self.promise(world, step, to);
    }

    /// After a crash of this replica, this entry is still there.
    fn promise(&mut self, world: &dyn WorldView, step: &Step<'_>, index: LogIndex) {
        let Some(node) = world.slot(step.slot).node else { return };
        let word = self.words.entry(step.replica).or_default();
        let Some(term) = node.log().term(index) else { return };
        if word.promised.is_none_or(|(i, _)| i < index) {
            word.promised = Some((index, term));
        }
    }

    /// A promise lasts until the entry is overwritten by a newer leader's.
    fn keep_promise(
        &mut self,
        log: &dyn LogView,
        (term, commit): (Term, LogIndex),
        replica: ReplicaId,
    ) -> Verdict {
        let Some(word) = self.words.get_mut(&replica) else { return Ok(()) };
        let Some((index, entry_term)) = word.promised else { return Ok(()) };
        if index < log.first_index() || log.term(index) == Some(entry_term) {
            return Ok(());
        }
        if word.acked.0 == term && word.acked.1 >= index {
            let what = format!(
                "{replica} acknowledged entry {index} of {entry_term} in term {term}, and has {:?} there now",
                log.term(index)
            );
            return broken("acknowledged-entries-stay", what);
        }
        // What stands there now was not promised yet: a follower may know of a commit before its own sync.
        word.promised = None;
        word.acked.1 = word.acked.1.min(commit);
        Ok(())
    }

    /// The membership in force changed, or may have.
    fn check_membership(
        &mut self,
        world: &dyn WorldView,
        step: &Step<'_>,
        before: Shown,
    ) -> Verdict {
        let Some(node) = world.slot(step.slot).node else { return Ok(()) };
        let (raft, log) = (node.raft(), node.log());
        let index = raft.membership_index();
        if index > log.last().0 {
            let what =
                format!("{}: of entry {index}, its log ends at {:?}", step.replica, log.last());
            return broken("membership-is-in-the-log", what);
        }
        if index == before.membership {
            return Ok(());
        }
        if let Some(term) = log.term(index).filter(|_| index >= log.first_index()) {
            let membership = raft.membership();
            let known = self.memberships.entry((index, term)).or_insert_with(|| membership.clone());
            if known != membership {
                let what = format!(
                    "{} has {membership:?} of entry {index} of {term}, another one {known:?}",
                    step.replica
                );
                return broken("one-membership-per-entry", what);
            }
        }
        let leads_on = raft.role() == Role::Leader && before.leads && before.term == raft.term();
        if !leads_on || index < before.membership {
            return Ok(());
        }
        // Whether it was allowed to begin is judged by what was committed before this step.
        let own_term = log.term(before.commit).is_none_or(|term| term == raft.term());
        if before.membership > before.commit || !own_term {
            let what = format!(
                "{} changes the membership at {index} in term {}: the one before is of {}, {} is committed, of term {:?}",
                step.replica,
                raft.term(),
                before.membership,
                before.commit,
                log.term(before.commit)
            );
            return broken("one-change-at-a-time", what);
        }
        Ok(())
    }

    fn check_state(&mut self, world: &dyn WorldView, step: &Step<'_>) -> Verdict {
        let view = world.slot(step.slot);
        let Some(node) = view.node else { return Ok(()) };
        let (raft, log) = (node.raft(), node.log());
        let (term, commit) = (raft.term(), raft.commit());
        let leads = raft.role() == Role::Leader;
        let before = self.shown[step.slot];
        let membership = raft.membership_index();
        self.shown[step.slot] = Shown { term, commit, membership, leads };
        self.keep_promise(log, (term, commit), step.replica)?;
        self.check_membership(world, step, before)?;
        if term < before.term || commit < before.commit {
            let what = format!(
                "{} went from term {}, commit {} to {term}, {commit}",
                step.replica, before.term, before.commit
            );
            return broken("never-goes-back", what);
        }
        let elected = leads && (!before.leads || before.term != term);
        if elected {
            self.check_leader(term, step.replica)?;
            self.check_election(world, step)?;
        }
        if commit > before.commit {
            check_followers_commit(step, before.commit, commit)?;
            self.check_commit(world, step, before, elected)?;
        }
        Ok(())
    }

    /// A majority voted, and the new leader has what was committed.
    fn check_election(&mut self, world: &dyn WorldView, step: &Step<'_>) -> Verdict {
        let Some(node) = world.slot(step.slot).node else { return Ok(()) };
        let (term, me) = (node.raft().term(), step.replica);
        let granted = self.granted.get(&term).and_then(|g| g.get(&me));
        let voters: Vec<_> = node.raft().membership().voters().collect();
        let votes =
            voters.iter().filter(|v| **v == me || granted.is_some_and(|g| g.contains(v))).count();
        if votes * 2 <= voters.len() {
            let what = format!("{me} leads in term {term} with {votes} votes of {voters:?}");
            return broken("elected-by-a-majority", what);
        }
        // Only votes that were sent count, and only entries committed in an older term bind it.
        let history = self.history.borrow();
        let mut last = history.model.committed();
        while let Some((entry_term, in_term)) = history.model.term_at(last) {
            if in_term < term {
                let has = node.log().term(last);
                let released = last < node.log().first_index();
                if !released && has != Some(entry_term) {
                    let what = format!(
                        "{me} leads in term {term} without entry {last} of {entry_term}, committed in {in_term} (it has {has:?})"
                    );
                    return broken("leader-completeness", what);
                }
                break;
            }
            last = last.prev();
        }
        drop(history);
        let old = Term(term.0.saturating_sub(50));
        self.granted = self.granted.split_off(&old);
        self.pre_granted = self.pre_granted.split_off(&old);
        Ok(())
    }

    fn check_commit(
        &mut self,
        world: &dyn WorldView,
        step: &Step<'_>,
        before: Shown,
        elected: bool,
    ) -> Verdict {
        let Some(node) = world.slot(step.slot).node else { return Ok(()) };
        let (raft, log) = (node.raft(), node.log());
        let (term, commit) = (raft.term(), raft.commit());
        if raft.role() == Role::Leader && before.leads && before.term == term && !elected {
            self.check_leaders_commit(world, step, commit)?;
        }
        let first = before.commit.next().max(log.first_index());
        let mut history = self.history.borrow_mut();
        let in_memory = log.entries(first, commit, usize::MAX).unwrap_or_default();
        let mut payloads = in_memory.iter().map(|e| (e.index, key_hash(&e.payload))).peekable();
        for index in first.0..=commit.0 {
            let index = LogIndex(index);
            let Some(entry_term) = log.term(index) else {
                let what = format!("{} committed entry {index} and does not have it", step.replica);
                return broken("commit-is-in-the-log", what);
            };
            let payload = payloads.next_if(|(i, _)| *i == index).map(|(_, hash)| hash);
            history.model.commit(step.replica, term, index, entry_term, payload)?;
        }
        let keep = LogIndex(history.model.committed().0.saturating_sub(KEPT_ENTRIES));
        if keep.0 > self.pruned_below.0 + KEPT_ENTRIES {
            self.pruned_below = keep;
            self.entries = self.entries.split_off(&(keep.next(), Term::ZERO));
        }
        Ok(())
    }

    /// §5.4.2 and the quorum, counted from what the others said.
    fn check_leaders_commit(
        &mut self,
        world: &dyn WorldView,
        step: &Step<'_>,
        commit: LogIndex,
    ) -> Verdict {
        let Some(node) = world.slot(step.slot).node else { return Ok(()) };
        let term = node.raft().term();
        let entry_term = node.log().term(commit);
        if entry_term != Some(term) {
            let what = format!(
                "{} leads in term {term} and committed entry {commit} of term {entry_term:?}",
                step.replica
            );
            return broken("commits-its-own-term", what);
        }
        let voters: Vec<_> = node.raft().membership().voters().collect();
        let acked = |v: &&ReplicaId| {
            self.words.get(v).is_some_and(|w| w.said.get(&term).is_some_and(|i| *i >= commit))
        };
        let others = voters.iter().filter(|v| **v != step.replica).filter(acked).count();
        let me = usize::from(voters.contains(&step.replica));
        if others * 2 > voters.len() {
            return Ok(());
        }
        let durable = node.raft().status().durable;
        if (others + me) * 2 > voters.len() && durable >= commit {
            self.promise(world, step, commit);
            return Ok(());
        }
        let acks: Vec<_> = voters.iter().map(|v| (v, self.words.get(v).map(|w| w.acked))).collect();
        let what = format!(
            "{} committed entry {commit} of term {term}; it is durable here up to {durable}; what the voters said: {acks:?}",
            step.replica
        );
        broken("commit-needs-a-majority", what)
    }

    fn check_observed(
        &mut self,
        world: &dyn WorldView,
        step: &Step<'_>,
        observed: &Observed,
    ) -> Verdict {
        match observed {
            Observed::Applied { index, term, payload, outcome } => {
                let mut history = self.history.borrow_mut();
                let raft = world.slot(step.slot).node.map(beachdb::node::Node::raft);
                if raft.is_some_and(|raft| *index > raft.commit()) {
                    let what = format!("{} applied entry {index}", step.replica);
                    return broken("applied-is-committed", what);
                }
                let in_term = raft.map_or(*term, |raft| raft.term());
                let entry = (*index, *term);
                let id = history.model.apply(step.replica, in_term, entry, payload, *outcome)?;
                if let Some(id) = id {
                    history.applied(id);
                }
                Ok(())
            }
            Observed::Installed { index, term } => {
                let history = self.history.borrow();
                match history.model.term_at(*index) {
                    Some((expected, _)) if expected == *term => {
                        self.check_installed_membership(world, step, *index)
                    }
                    expected => {
                        let what = format!(
                            "{} installed a snapshot at {index} of term {term}, where {expected:?} is committed",
                            step.replica
                        );
                        broken("snapshot-is-committed", what)
                    }
                }
            }
            Observed::Released { index } => {
                let applied = world.slot(step.slot).node.map(|n| n.applied());
                if applied.is_some_and(|applied| *index > applied) {
                    let what = format!("{} released its log up to {index}", step.replica);
                    return broken("released-is-applied", what);
                }
                Ok(())
            }
            Observed::Raft(_) => Ok(()),
        }
    }

    /// A snapshot carries the membership in force at its index (pitfall 26).
    fn check_installed_membership(
        &self,
        world: &dyn WorldView,
        step: &Step<'_>,
        index: LogIndex,
    ) -> Verdict {
        let Some(node) = world.slot(step.slot).node else { return Ok(()) };
        let history = self.history.borrow();
        let committed =
            |at: &LogIndex, term: &Term| history.model.term_at(*at).is_some_and(|t| t.0 == *term);
        let below = self.memberships.range(..=(index, Term(u64::MAX)));
        let newest = below.rev().find(|((at, term), _)| committed(at, term)).map(|(k, _)| k.0);
        let has = node.raft().membership_index();
        if newest.is_some_and(|newest| has < newest) {
            let what = format!(
                "{} installed a snapshot at {index} and has the membership of entry {has}, entry {newest:?} set another",
                step.replica
            );
            return broken("snapshot-carries-membership", what);
        }
        Ok(())
    }

    fn check_bounds(world: &dyn WorldView, step: &Step<'_>) -> Verdict {
        let messages = step.effects.iter().filter(|e| matches!(e, Effect::Send(_))).count();
        if messages > MAX_MESSAGES_PER_STEP {
            return broken(
                "bounded",
                format!("{} sent {messages} messages in one step", step.replica),
            );
        }
        let Some(node) = world.slot(step.slot).node else { return Ok(()) };
        check_membership(node)?;
        if node.raft().role() != Role::Leader {
            return Ok(());
        }
        let max = node.config().raft.max_uncommitted_bytes + GROUP_BYTES;
        if node.raft().uncommitted_bytes() > max {
            let bytes = node.raft().uncommitted_bytes();
            let what = format!("{}: {bytes} uncommitted bytes, the limit is {max}", step.replica);
            return broken("bounded", what);
        }
        if step.kind == StepKind::Tick && node.raft().membership().voter_count() > 1 {
            let timeout = node.config().raft.election_timeout_ns;
            let oldest = node.raft().status().oldest_unsynced;
            if oldest.is_some_and(|at| step.local.since(at) > timeout + timeout / 2) {
                let what =
                    format!("{} leads at {} with a sync of {oldest:?}", step.replica, step.local);
                return broken("hung-disk-loses-leadership", what);
            }
        }
        Ok(())
    }

    /// What was said before is true after a restart.
    fn check_promises(&self, world: &dyn WorldView, slot: usize) -> Verdict {
        let view = world.slot(slot);
        let (Some(node), Some(word)) = (view.node, self.words.get(&view.replica)) else {
            return Ok(());
        };
        let hard_state = node.log().hard_state();
        if hard_state.term < word.term {
            let what = format!(
                "{} spoke in term {} and came back in {}",
                view.replica, word.term, hard_state.term
            );
            return broken("term-durable-before-said", what);
        }
        // Its vote for itself counts for nothing before it is durable, so only votes for others are promises.
        let vote = word.votes.get(&hard_state.term).filter(|v| **v != view.replica);
        if vote.is_some_and(|v| hard_state.vote != Some(*v)) {
            let what = format!(
                "{} voted for {vote:?} in term {} and came back with {:?}",
                view.replica, hard_state.term, hard_state.vote
            );
            return broken("vote-durable-before-said", what);
        }
        let Some((index, term)) = word.promised else { return Ok(()) };
        let log = node.log();
        if index >= log.first_index() && log.term(index) != Some(term) {
            let what = format!(
                "{} acknowledged entry {index} of term {term} and came back with {:?} there, its log ends at {:?}",
                view.replica,
                log.term(index),
                log.last()
            );
            return broken("entries-durable-before-acknowledged", what);
        }
        Ok(())
    }

    fn effect(&mut self, world: &dyn WorldView, step: &Step<'_>, effect: &Effect) -> Verdict {
        match effect {
            Effect::Send(message) => self.check_message(world, step, message),
            Effect::Observed(observed) => self.check_observed(world, step, observed),
            Effect::Reply {
                origin,
                response:
                    Response::Value { .. }
                    | Response::NotFound { .. }
                    | Response::Values(_)
                    | Response::Scan(_),
                ..
            } => {
                let Some(node) = world.slot(step.slot).node else { return Ok(()) };
                let changes = self.memberships.len();
                let newest =
                    self.memberships.last_key_value().map_or(LogIndex::ZERO, |(key, _)| key.0);
                self.reads.check(step, *origin, node, &self.leaders, changes, newest)
            }
            Effect::Reply { response: Response::Written { index, .. }, .. } => {
                let history = self.history.borrow();
                if *index > history.model.applied() {
                    let what = format!("{} acknowledged entry {index}", step.replica);
                    return broken("acknowledged-is-applied", what);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl Observer for Judge {
    fn node_started(&mut self, world: &dyn WorldView, slot: usize) -> Verdict {
        let view = world.slot(slot);
        self.marks.started(world.now(), &view);
        self.formation.started(world, slot)?;
        let Some(node) = view.node else { return Ok(()) };
        self.shown[slot] = Shown {
            term: node.raft().term(),
            commit: node.raft().commit(),
            membership: node.raft().membership_index(),
            leads: false,
        };
        self.check_promises(world, slot)?;
        let (applied, seq) = (node.applied(), node.last_seq());
        let newest = self.history.borrow().model.applied();
        if applied > newest {
            // What is in its tables it applied itself, or somebody did whose snapshot it installed.
            let what = format!(
                "{} came back with entry {applied} applied, the newest that anybody applied is {newest}",
                view.replica
            );
            return broken("applied-is-committed", what);
        }
        self.history.borrow_mut().model.stands_at(view.replica, applied, seq)?;
        self.content.compare(&self.history.borrow().model, &view)
    }

    fn node_stopped(&mut self, world: &dyn WorldView, slot: usize, why: StopKind) -> Verdict {
        self.marks.stopped(&world.slot(slot), why);
        self.formation.stopped(world, slot, why);
        if let (StopKind::Crash(CrashKind::Process), false) = (why, self.shown.is_empty()) {
            self.marks.hit(marks::PROCESS_CRASH);
        }
        self.shown[slot] = Shown::default();
        Ok(())
    }

    fn after_step(&mut self, world: &dyn WorldView, step: &Step<'_>) -> Verdict {
        self.history.borrow_mut().verdict()?;
        self.formation.stepped(world, step)?;
        self.reads.begin(step, self.memberships.len());
        for effect in step.effects {
            self.effect(world, step, effect)?;
        }
        self.check_state(world, step)?;
        Self::check_bounds(world, step)?;
        self.marks.after_step(world, step);
        let view = world.slot(step.slot);
        let Some(node) = view.node else { return Ok(()) };
        let advanced = |e: &Effect| {
            matches!(e, Effect::Observed(Observed::Applied { .. } | Observed::Installed { .. }))
        };
        if step.effects.iter().any(advanced) {
            let mut history = self.history.borrow_mut();
            history.model.stands_at(step.replica, node.applied(), node.last_seq())?;
            let durable = node.raft().status().durable;
            if node.applied() > durable {
                let what = format!(
                    "{} applied entry {}, and its log is durable up to {durable}",
                    step.replica,
                    node.applied()
                );
                return broken("applied-is-durable", what);
            }
            let installed = |e: &Effect| matches!(e, Effect::Observed(Observed::Installed { .. }));
            if step.effects.iter().any(installed) || self.content.is_due() {
                self.content.compare(&history.model, &view)?;
            }
        }
        Ok(())
    }

    fn restored(&mut self, view: &SlotView<'_>) -> Verdict {
        let history = self.history.borrow();
        self.content.compare(&history.model, view)
    }

    fn finish(&mut self, world: &dyn WorldView) -> Verdict {
        let mut history = self.history.borrow_mut();
        history.verdict()?;
        for slot in 0..world.slots() {
            self.content.compare(&history.model, &world.slot(slot))?;
        }
        history.check_registers()
    }

    fn marks(&self, marks: &mut Marks) {
        self.marks.report(marks);
        self.formation.report(marks);
        marks.merge(&self.history.borrow().marks);
    }
}

/// Figure 2, AppendEntries, receiver rule 5: what an append lets its receiver commit is what the leader has committed of
/// what this very append has verified. (Judged whether or not the entries behind it happen to be the leader's.)
fn check_followers_commit(step: &Step<'_>, before: LogIndex, commit: LogIndex) -> Verdict {
    let Some(append) = step.append else { return Ok(()) };
    if commit <= before.max(append.commit.min(append.verified)) {
        return Ok(());
    }
    let what = format!(
        "{} went from commit {before} to {commit} by an append that verifies up to {}, of a leader that committed {}",
        step.replica, append.verified, append.commit
    );
    broken("commits-what-the-append-verified", what)
}

/// The membership in force was set by an entry that stands in the log (looked at while it is not committed: a later one cannot be
/// cut off any more).
fn check_membership(node: &SimNode) -> Verdict {
    let (index, _) = membership(node);
    if index <= node.raft().commit() {
        return Ok(());
    }
    // What was there before a restart is not in memory; that it is in the log must do.
    let in_memory =
        node.log().entries(index, index, 1).and_then(|entries| entries.into_iter().next());
    let fits = match in_memory {
        Some(entry) => matches!(Membership::from_entry(&entry.payload), Some(Ok(_))),
        None => index <= node.log().last().0,
    };
    if fits {
        return Ok(());
    }
    let what = format!(
        "{} uses the membership of entry {index}, which is not one (its log ends at {:?})",
        node.raft().id(),
        node.log().last()
    );
    broken("membership-is-in-the-log", what)
}
