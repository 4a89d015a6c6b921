//! What the log keeps: the rules of design.md rule 2.
//!
//! The log is released up to the last flush, less a tail of entries for followers that are a little behind, less what a
//! follower that is being streamed to does not have yet, and less what followers will need right after a snapshot that is
//! on its way (or has just arrived). The latter two up to a byte limit: a follower too slow for it gets a snapshot, but the
//! leader's disk never fills up for its sake.

use super::{Effect, Node, Observed, StateMachine};
use crate::base::{LogIndex, Nanos, ReplicaId};
use crate::raft::{LogStore, ProgressState};
use std::collections::BTreeMap;

/// Log entries that followers will need soon: everything above an index, for a while.
#[derive(Debug, Default)]
pub(super) struct Holds(BTreeMap<ReplicaId, (LogIndex, Nanos)>);

impl Holds {
    /// Keeps what is above `index` for `to`, until then.
    pub fn hold(&mut self, to: ReplicaId, index: LogIndex, until: Nanos) {
        self.0.insert(to, (index, until));
    }

    /// Ends those whose time has passed; whether there were any.
    pub fn expire(&mut self, now: Nanos) -> bool {
        self.0.extract_if(.., |_, (_, until)| *until <= now).count() > 0
    }

    /// The lowest index that is held.
    pub fn lowest(&self) -> Option<LogIndex> {
        self.0.values().map(|(index, _)| *index).min()
    }

    /// When the next one ends.
    pub fn next_expiry(&self) -> Option<Nanos> {
        self.0.values().map(|(_, until)| *until).min()
    }
}

impl<L: LogStore, S: StateMachine> Node<L, S> {
    /// Gives up the log as far as the rules of the module allow.
    pub(super) fn release_log(&mut self, out: &mut Vec<Effect>) {
        let flushed = if planted!(ReleaseAboveFlushed) {
            self.machine.applied().0
        } else {
            self.machine.durable_applied().0
        };
        let mut to = LogIndex(flushed.0.saturating_sub(self.config.log_tail_entries));
        let followers = self.raft.status().followers.into_iter();
        let streaming = followers.filter(|f| f.recent && f.state == ProgressState::Replicate);
        let held = streaming
            .map(|follower| follower.matched)
            .chain(self.sender.lowest_source())
            .chain(self.holds.lowest())
            .min();
        if let Some(held) = held
            && self.log.live_bytes() <= self.config.max_held_log_bytes
        {
            to = to.min(held);
        }
        self.release_through(to, out);
    }

    /// Gives up the entries up to `to`, which the state machine holds durably.
    pub(super) fn release_through(&mut self, to: LogIndex, out: &mut Vec<Effect>) {
        let before = self.log.first_index();
        if to < before {
            return;
        }
        self.log.release_to(to);
        if self.config.observe && self.log.first_index() > before {
            let index = self.log.first_index().prev();
            out.push(Effect::Observed(Observed::Released { index }));
        }
    }

    /// Log bytes above the last flush.
    pub(super) fn log_bytes_above_flush(&self) -> u64 {
        self.log.live_bytes().saturating_sub(self.apply.log_bytes_at_flush)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::NodeId;

    #[test]
    fn holds_end_when_their_time_has_passed() {
        let (a, b) = (ReplicaId { node: NodeId(1), incarnation: 0 }, ReplicaId::default());
        let mut holds = Holds::default();
        holds.hold(a, LogIndex(5), Nanos(10));
        holds.hold(b, LogIndex(3), Nanos(20));
        assert_eq!((holds.lowest(), holds.next_expiry()), (Some(LogIndex(3)), Some(Nanos(10))));
        assert!(holds.expire(Nanos(10)) && !holds.expire(Nanos(11)));
        assert_eq!((holds.lowest(), holds.next_expiry()), (Some(LogIndex(3)), Some(Nanos(20))));
    }
}
