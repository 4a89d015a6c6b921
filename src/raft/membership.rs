//! Who belongs to the cluster: the history that a replica keeps, and the changes a leader makes (§6; §4 of the
//! thesis).
//!
//! One server at a time, so that any majority of the old voters and any of the new ones share one. A replica uses the
//! newest membership in its log, committed or not; a truncation takes it back. A leader begins a change only when an
//! entry of its own term is committed (pitfall 29, the 2015 bug of the single-server change) and no other is in flight.
//! A new member is a learner first, and votes when its rounds of catching up are short. A removed leader leads, without
//! counting itself, until its removal is committed (§6; pitfall 30).

use super::context::Context;
use super::progress::Progress;
use super::trace::Trace;
use super::{Change, Effect, Entry, ProposeError, Raft, Role};
use crate::base::{LogIndex, Member, MemberRole, Membership, MembershipHistory, NodeId, ReplicaId};

/// The memberships of the log and of its baseline, oldest first. Never empty.
#[derive(Debug)]
pub(super) struct Memberships {
    history: MembershipHistory,
    /// Of the newest one.
    voters: Vec<ReplicaId>,
}

impl Memberships {
    pub fn new(history: Vec<(LogIndex, Membership)>) -> Self {
        let mut history = MembershipHistory::from(history);
        if history.newest().is_none() {
            history.reset((LogIndex::ZERO, Membership::new()));
        }
        let mut memberships = Self { history, voters: Vec::new() };
        memberships.changed();
        memberships
    }

    fn changed(&mut self) {
        self.voters = if planted!(LearnersCount) {
            self.current().members().map(|m| m.replica).collect()
        } else {
            self.current().voters().collect()
        };
    }

    fn newest(&self) -> &(LogIndex, Membership) {
        self.history.newest().expect("the history is never empty")
    }

    /// The newest one: the one in force.
    pub fn current(&self) -> &Membership {
        &self.newest().1
    }

    /// The entry that set it.
    pub fn index(&self) -> LogIndex {
        self.newest().0
    }

    /// The one in force at `index`, while the history has it.
    pub fn at(&self, index: LogIndex) -> Option<&(LogIndex, Membership)> {
        self.history.at(index)
    }

    /// Its voters.
    pub fn voters(&self) -> &[ReplicaId] {
        &self.voters
    }

    pub fn is_voter(&self, replica: ReplicaId) -> bool {
        self.voters.contains(&replica)
    }

    /// Whether `replica` may ask for votes: it votes, or it did until a change that may not be committed. Such a one
    /// may be the only replica that can win, since nobody else has the change (thesis 4.2.2); it does not count itself.
    pub fn may_campaign(&self, replica: ReplicaId, commit: LogIndex) -> bool {
        let before = || self.history.before_newest().is_some_and(|(_, m)| m.is_voter(replica));
        self.is_voter(replica) || (self.index() > commit && before())
    }

    /// Whether `replica` is all the voters there are.
    pub fn is_lone_voter(&self, replica: ReplicaId) -> bool {
        self.voters == [replica]
    }

    /// An entry set a new one.
    pub fn push(&mut self, index: LogIndex, membership: Membership) {
        self.history.push(index, membership);
        self.changed();
    }

    /// The log is cut at `from`. Returns whether that took a membership back.
    pub fn truncate(&mut self, from: LogIndex) -> bool {
        let before = self.index();
        if !planted!(ChangeSurvivesTruncation) {
            // The first one was in force before any entry that can be cut off.
            let first = self.history.oldest().map_or(LogIndex::ZERO, |(set_at, _)| *set_at);
            self.history.truncate(from.max(first.next()));
        }
        self.changed();
        self.index() != before
    }

    /// Forgets what was in force before `index` only.
    pub fn prune(&mut self, index: LogIndex) {
        self.history.release(index);
    }

    /// A snapshot at `index` has this one. What the log holds above it stays in force when the log was kept.
    pub fn install(&mut self, index: LogIndex, membership: (LogIndex, Membership), log_kept: bool) {
        if planted!(MembershipNotInstalled) {
            return;
        }
        self.history.install(index, membership, log_kept);
        self.changed();
    }
}

/// The membership that `change` makes of `current`.
pub(super) fn changed(
    current: &Membership,
    change: Change,
    behind: impl FnOnce(ReplicaId) -> Option<u64>,
) -> Result<Membership, ProposeError> {
    let mut next = current.clone();
    match change {
        Change::AddLearner(member) => {
            let node = member.replica.node;
            if current.member(node).is_some() {
                return Err(ProposeError::AlreadyMember(node));
            }
            next.insert(Member { role: MemberRole::Learner, ..member });
        }
        Change::Promote(replica) => {
            let member = current.replica(replica).ok_or(ProposeError::UnknownMember)?;
            if member.role == MemberRole::Voter {
                return Err(ProposeError::Impossible("it votes already"));
            }
            if let Some(behind) = behind(replica) {
                return Err(ProposeError::NotCaughtUp { behind });
            }
            next.insert(Member { role: MemberRole::Voter, ..member.clone() });
        }
        Change::Remove(replica) => {
            current.replica(replica).ok_or(ProposeError::UnknownMember)?;
            next.remove(replica.node);
            if next.voter_count() == 0 {
                return Err(ProposeError::Impossible("the last voter cannot be removed"));
            }
        }
    }
    match next.check() {
        Ok(()) => Ok(next),
        Err(_) => Err(ProposeError::Impossible(
            "that would be too many members, or one without a number or with an address that is too long",
        )),
    }
}

impl Raft {
    /// Appends a change of the membership, or says why not.
    pub(super) fn propose_change(&mut self, change: Change, ctx: &mut Context<'_>) {
        match self.next_membership(change, ctx) {
            Err(error) => ctx.out.push(Effect::ProposeRefused(error)),
            Ok(membership) => {
                let first = self.append(vec![membership.to_entry()], ctx);
                ctx.out.push(Effect::Proposed { first, term: self.term() });
                self.membership_appended(first, membership, ctx);
                // With fewer voters, more may be agreed on already.
                self.advance_commit(ctx);
                self.confirm_reads(ctx);
            }
        }
    }

    fn next_membership(
        &self,
        change: Change,
        ctx: &Context<'_>,
    ) -> Result<Membership, ProposeError> {
        self.may_propose()?;
        if !self.committed_in_term() && !planted!(ChangeBeforeOwnCommit) {
            return Err(ProposeError::NoCommitInTerm);
        }
        if self.memberships.index() > self.commit && !planted!(TwoChangesAtOnce) {
            return Err(ProposeError::ChangeInFlight { index: self.memberships.index() });
        }
        changed(self.memberships.current(), change, |replica| self.learner_lag(replica, ctx))
    }

    /// How far a learner is behind; `None` when it caught up.
    fn learner_lag(&self, replica: ReplicaId, ctx: &Context<'_>) -> Option<u64> {
        let behind = |matched: LogIndex| self.last.0.0.saturating_sub(matched.0);
        match self.lead.followers.get(&replica) {
            None => Some(behind(LogIndex::ZERO)),
            Some(p) if p.catch_up.caught_up(ctx.now, self.settings.election_timeout_ns) => None,
            Some(p) => Some(behind(p.matched)),
        }
    }

    /// A membership entry was appended: it is in force from now on.
    pub(super) fn membership_appended(
        &mut self,
        index: LogIndex,
        membership: Membership,
        ctx: &mut Context<'_>,
    ) {
        self.memberships.push(index, membership);
        self.membership_in_force("appended", ctx);
    }

    /// Takes back what a truncation at `from` cut off.
    pub(super) fn memberships_truncated(&mut self, from: LogIndex, ctx: &mut Context<'_>) {
        if self.memberships.truncate(from) {
            self.membership_in_force("taken back", ctx);
        }
    }

    pub(super) fn membership_in_force(&mut self, why: &'static str, ctx: &mut Context<'_>) {
        let (index, membership) = (self.memberships.index(), self.memberships.current());
        ctx.trace(|| Trace::membership(index, membership, why));
        if self.role == Role::Leader {
            self.follow_membership(ctx);
        }
    }

    /// Followers are exactly the members but this replica. A new one gets a session of its own (pitfall 11).
    pub(super) fn follow_membership(&mut self, ctx: &mut Context<'_>) {
        let members: Vec<ReplicaId> = self
            .memberships
            .current()
            .members()
            .map(|m| m.replica)
            .filter(|r| *r != self.id)
            .collect();
        let gone: Vec<ReplicaId> =
            self.lead.followers.keys().copied().filter(|f| !members.contains(f)).collect();
        for follower in gone {
            self.snapshot_over(follower, ctx);
            self.lead.followers.remove(&follower);
        }
        for member in members {
            if !self.lead.followers.contains_key(&member) {
                self.sessions = self.sessions.wrapping_add(1);
                let (next, last) = (self.lead.no_op, self.last.0);
                let progress = Progress::new(self.sessions, ctx.now, next, last);
                self.lead.followers.insert(member, progress);
            }
        }
    }

    /// The memberships that `entries` of a peer set, or that one of them cannot be read.
    pub(super) fn memberships_in(
        entries: &[Entry],
    ) -> Result<Vec<(LogIndex, Membership)>, &'static str> {
        entries
            .iter()
            .filter_map(|e| Some((e.index, Membership::from_entry(&e.payload)?)))
            .map(|(index, m)| m.map(|m| (index, m)).map_err(|_| "a malformed membership entry"))
            .collect()
    }

    /// The replica of a node number, if it votes.
    pub(super) fn voter_of(&self, node: NodeId) -> Result<ReplicaId, ProposeError> {
        let member = self.memberships.current().member(node).ok_or(ProposeError::UnknownMember)?;
        match member.role {
            MemberRole::Voter => Ok(member.replica),
            MemberRole::Learner => Err(ProposeError::Impossible("a learner cannot lead")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::testing::doubles::{learner, replica};

    fn of(nodes: &[u64]) -> Membership {
        Membership::of_voters(nodes.iter().map(|&n| replica(n)))
    }

    #[test]
    fn the_newest_membership_is_in_force_until_it_is_truncated() {
        let mut memberships = Memberships::new(vec![(LogIndex(0), of(&[1]))]);
        assert!(memberships.is_lone_voter(replica(1)));
        memberships.push(LogIndex(5), of(&[1, 2]));
        memberships.push(LogIndex(9), of(&[1, 2, 3]));
        assert_eq!((memberships.index(), memberships.voters().len()), (LogIndex(9), 3));
        assert_eq!(memberships.at(LogIndex(8)).map(|m| m.0), Some(LogIndex(5)));
        assert!(!memberships.truncate(LogIndex(10)));
        assert!(memberships.truncate(LogIndex(9)));
        assert_eq!((memberships.index(), memberships.voters().len()), (LogIndex(5), 2));
    }

    #[test]
    fn a_replica_whose_removal_may_not_be_committed_still_campaigns() {
        let mut memberships = Memberships::new(vec![(LogIndex(0), of(&[1, 2]))]);
        memberships.push(LogIndex(5), of(&[2]));
        assert!(memberships.may_campaign(replica(1), LogIndex(4)));
        assert!(!memberships.may_campaign(replica(1), LogIndex(5)));
        assert!(!memberships.may_campaign(replica(3), LogIndex(4)));
        assert!(memberships.may_campaign(replica(2), LogIndex(5)));
    }

    #[test]
    fn what_was_in_force_before_the_baseline_is_forgotten() {
        let mut memberships = Memberships::new(vec![(LogIndex(0), of(&[1]))]);
        memberships.push(LogIndex(5), of(&[1, 2]));
        memberships.prune(LogIndex(4));
        assert!(memberships.at(LogIndex(4)).is_some());
        memberships.prune(LogIndex(5));
        assert_eq!(memberships.at(LogIndex(4)), None);
        assert_eq!(memberships.index(), LogIndex(5));
    }

    #[test]
    fn an_installed_membership_gives_way_to_later_ones_of_a_log_that_was_kept() {
        let history = || {
            let mut memberships = Memberships::new(vec![(LogIndex(0), of(&[1]))]);
            memberships.push(LogIndex(9), of(&[1, 2, 3]));
            memberships
        };
        let installed = || (LogIndex(4), of(&[1, 2]));
        let mut kept = history();
        kept.install(LogIndex(6), installed(), true);
        assert_eq!(kept.index(), LogIndex(9));
        let mut reset = history();
        reset.install(LogIndex(12), installed(), false);
        assert_eq!((reset.index(), reset.voters().len()), (LogIndex(4), 2));
    }

    #[test]
    fn a_membership_that_no_entry_can_hold_is_refused() {
        let full = of(&(1..=crate::limits::MAX_MEMBERS as u64).collect::<Vec<_>>());
        for (members, node) in [(full, 1000), (of(&[1]), 0)] {
            let result = changed(&members, Change::AddLearner(learner(replica(node))), |_| None);
            assert!(matches!(result, Err(ProposeError::Impossible(_))), "{result:?}");
        }
    }

    #[test]
    fn changes_are_refused_for_a_reason() {
        let mut members = of(&[1]);
        members.insert(learner(replica(2)));
        let change = |change, behind| changed(&members, change, |_| behind);
        assert_eq!(
            change(Change::AddLearner(learner(replica(2))), None),
            Err(ProposeError::AlreadyMember(NodeId(2)))
        );
        assert_eq!(
            change(Change::Promote(replica(2)), Some(7)),
            Err(ProposeError::NotCaughtUp { behind: 7 })
        );
        let other_life = ReplicaId { node: NodeId(2), incarnation: 9 };
        assert_eq!(change(Change::Promote(other_life), None), Err(ProposeError::UnknownMember));
        assert!(matches!(
            change(Change::Remove(replica(1)), None),
            Err(ProposeError::Impossible(_))
        ));
        assert!(change(Change::Promote(replica(2)), None).unwrap().is_voter(replica(2)));
        assert!(change(Change::Remove(replica(2)), None).unwrap().member(NodeId(2)).is_none());
        let added = change(Change::AddLearner(learner(replica(3))), None).unwrap();
        assert_eq!(added.voter_count(), 1);
    }
}
