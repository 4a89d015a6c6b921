//! [`MembershipHistory`]: the memberships in force from some log index on. The log keeps one for its restart, raft one for
//! what is in force, and the node one for what is applied.
//!
//! Invariant: indexes rise. The first membership is in force where the history begins, at or above its index; the others begin
//! with their entries.

use super::{LogIndex, Membership};
use std::collections::VecDeque;

/// See the module. Each membership stands with the index of the entry that set it, oldest first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct MembershipHistory {
    list: VecDeque<(LogIndex, Membership)>,
}

impl MembershipHistory {
    /// Only this one is in force.
    pub fn reset(&mut self, membership: (LogIndex, Membership)) {
        self.list.clear();
        self.list.push_back(membership);
    }

    /// An entry set a new one.
    pub fn push(&mut self, index: LogIndex, membership: Membership) {
        self.list.push_back((index, membership));
    }

    /// An entry was appended. What raft lets into a log is sound.
    pub fn append(&mut self, index: LogIndex, payload: &[u8]) {
        match Membership::from_entry(payload) {
            None => {}
            Some(Ok(membership)) => self.push(index, membership),
            Some(Err(error)) => panic!("entry {index} was never checked: {error}"),
        }
    }

    /// Goes on with those of `later` that come after the ones here.
    pub fn extend(&mut self, later: Self) {
        let last = self.newest().map(|(index, _)| *index);
        self.list.extend(later.list.into_iter().filter(|(index, _)| Some(*index) > last));
    }

    /// This one is in force at `index`, whatever was known before; those of later entries stay if `later` says so.
    pub fn install(&mut self, index: LogIndex, membership: (LogIndex, Membership), later: bool) {
        self.list.retain(|(set_at, _)| later && *set_at > index);
        self.list.push_front(membership);
    }

    /// The entries at and above `from` are gone.
    pub fn truncate(&mut self, from: LogIndex) {
        while self.list.pop_back_if(|(index, _)| *index >= from).is_some() {}
    }

    /// Nobody asks for what was in force below `index` any more. Returns the membership in force there when it is another one
    /// than the first one before.
    pub fn release(&mut self, index: LogIndex) -> Option<&(LogIndex, Membership)> {
        let before = self.list.len();
        while self.list.get(1).is_some_and(|(set_at, _)| *set_at <= index) {
            self.list.pop_front();
        }
        self.list.front().filter(|_| self.list.len() < before)
    }

    /// The one in force at `index`, while the history has it.
    pub fn at(&self, index: LogIndex) -> Option<&(LogIndex, Membership)> {
        self.list.iter().rfind(|(set_at, _)| *set_at <= index)
    }

    /// The first one.
    pub fn oldest(&self) -> Option<&(LogIndex, Membership)> {
        self.list.front()
    }

    /// The last one.
    pub fn newest(&self) -> Option<&(LogIndex, Membership)> {
        self.list.back()
    }

    /// The one before the last one.
    pub fn before_newest(&self) -> Option<&(LogIndex, Membership)> {
        self.list.iter().nth_back(1)
    }

    /// All, oldest first.
    pub fn to_vec(&self) -> Vec<(LogIndex, Membership)> {
        self.list.iter().cloned().collect()
    }
}

impl From<Vec<(LogIndex, Membership)>> for MembershipHistory {
    fn from(list: Vec<(LogIndex, Membership)>) -> Self {
        Self { list: list.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{NodeId, ReplicaId};

    fn of(nodes: u64) -> Membership {
        Membership::of_voters((1..=nodes).map(|n| ReplicaId { node: NodeId(n), incarnation: 0 }))
    }

    fn history(indexes: &[u64]) -> MembershipHistory {
        indexes.iter().map(|&i| (LogIndex(i), of(i + 1))).collect::<Vec<_>>().into()
    }

    fn indexes(history: &MembershipHistory) -> Vec<u64> {
        history.to_vec().iter().map(|(index, _)| index.0).collect()
    }

    #[test]
    fn the_newest_one_at_or_below_an_index_is_in_force_there() {
        let history = history(&[2, 5, 9]);
        let at = |index| history.at(LogIndex(index)).map(|(index, _)| index.0);
        assert_eq!(
            [1, 2, 4, 5, 9, 99].map(at),
            [None, Some(2), Some(2), Some(5), Some(9), Some(9)]
        );
        assert_eq!(history.before_newest().map(|m| m.0), Some(LogIndex(5)));
    }

    #[test]
    fn a_truncation_takes_back_and_a_release_says_what_is_in_force_now() {
        let mut history = history(&[0, 5, 9]);
        history.truncate(LogIndex(9));
        assert_eq!(indexes(&history), [0, 5]);
        assert_eq!(history.release(LogIndex(4)), None, "the same as before");
        assert_eq!(history.release(LogIndex(5)), Some(&(LogIndex(5), of(6))));
        assert_eq!(history.release(LogIndex(8)), None);
        history.truncate(LogIndex(1));
        assert_eq!(history, MembershipHistory::default());
    }

    #[test]
    fn an_installed_one_and_those_of_another_history_are_joined_by_index() {
        let installed = (LogIndex(4), of(1));
        let mut kept = history(&[0, 3, 9]);
        kept.install(LogIndex(6), installed.clone(), true);
        assert_eq!(indexes(&kept), [4, 9]);
        let mut reset = history(&[0, 3, 9]);
        reset.install(LogIndex(6), installed, false);
        assert_eq!(indexes(&reset), [4]);
        reset.extend(history(&[3, 4, 7]));
        assert_eq!(indexes(&reset), [4, 7]);
        let mut empty = MembershipHistory::default();
        empty.extend(history(&[0, 3]));
        assert_eq!(indexes(&empty), [0, 3]);
    }
}
