//! Messages in and out: [`Outbox`] holds back what must not leave before a sync, and what comes in is checked for whom
//! it is.
//!
//! ```text
//!  raft ─ Send{after: None} ─────────────────────────────────────────▶ Effect::Send
//!       ─ Send{after: io} ─▶ gated ── io durable, term unchanged ────▶ Effect::Send
//!                              └───── term moved on, or queue full ──▶ dropped and counted (raft tolerates loss)
//! ```
//!
//! Invariants:
//! - A message with `after` leaves only when everything up to that [`IoId`] is durable ("persist before respond",
//!   pitfall 2), and never in a later term than it was made in.
//! - At most [`MAX_GATED_MESSAGES`] messages wait for one replica, and [`MAX_GATED_MESSAGES_ALL`] for all: a disk that hangs
//!   does not make the node grow. The oldest go first: the newest say more.
//! - A message for another replica, or another incarnation of this one, is never seen by raft (pitfall 31), nor is one of another
//!   cluster, whatever its name.
//!
//! What it does not do: keep order between messages (the network does not either), or know addresses.

use super::{Effect, Node, StateMachine};
use crate::base::{ClusterUid, Nanos, ReplicaId, Term};
use crate::limits::{MAX_GATED_MESSAGES, MAX_GATED_MESSAGES_ALL};
use crate::raft::message::Body;
use crate::raft::{self, IoId, LogStore, Message, Role};
use std::collections::VecDeque;

/// Messages since start-up, for STATUS.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct PeerCounters {
    /// Handed to the network.
    pub sent: u64,
    /// Taken from the network.
    pub received: u64,
    /// Not for this replica: dropped.
    pub misaddressed: u64,
    /// From another cluster of the same name: dropped.
    pub other_cluster: u64,
    /// Held back for a sync, and not sent because the term moved on.
    pub dropped_stale: u64,
    /// Held back for a sync, and not sent because too many waited.
    pub dropped_full: u64,
    /// Appends not taken because too much of the log waits to be applied.
    pub dropped_no_room: u64,
}

#[derive(Debug)]
struct Gated {
    after: IoId,
    /// Of this replica, when the message was made.
    term: Term,
    message: Message,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// By `after`.
    gated: VecDeque<Gated>,
    /// Everything up to here is durable.
    durable: IoId,
    pub counters: PeerCounters,
}

impl Outbox {
    /// Sends a message, or holds it back. `term` is this replica's, also where the message carries another one.
    pub fn send(
        &mut self,
        message: Message,
        after: Option<IoId>,
        term: Term,
        out: &mut Vec<Effect>,
    ) {
        let gate = after.filter(|io| *io > self.durable);
        let Some(after) = gate.filter(|_| !planted!(OutboxIgnoresGates)) else {
            self.counters.sent += 1;
            out.push(Effect::Send(message));
            return;
        };
        self.make_room(message.to);
        let at = self.gated.partition_point(|gated| gated.after <= after);
        self.gated.insert(at, Gated { after, term, message });
    }

    fn make_room(&mut self, to: ReplicaId) {
        let for_it = self.gated.iter().filter(|gated| gated.message.to == to).count();
        let oldest = if for_it >= MAX_GATED_MESSAGES {
            self.gated.iter().position(|gated| gated.message.to == to)
        } else if self.gated.len() >= MAX_GATED_MESSAGES_ALL {
            Some(0)
        } else {
            None
        };
        if let Some(at) = oldest {
            self.gated.remove(at);
            self.counters.dropped_full += 1;
        }
    }

    /// Everything up to `io` is durable; `term` is the one now.
    pub fn persisted(&mut self, io: IoId, term: Term, out: &mut Vec<Effect>) {
        self.durable = self.durable.max(io);
        while let Some(gated) = self.gated.pop_front_if(|gated| gated.after <= self.durable) {
            if gated.term == term {
                self.counters.sent += 1;
                out.push(Effect::Send(gated.message));
            } else {
                self.counters.dropped_stale += 1;
            }
        }
    }

    /// Messages that wait for a sync.
    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        self.gated.len()
    }
}

impl<L: LogStore, S: StateMachine> Node<L, S> {
    /// A message arrived.
    pub(super) fn peer(
        &mut self,
        now: Nanos,
        message: Message,
        cluster: ClusterUid,
        after: Nanos,
        out: &mut Vec<Effect>,
    ) {
        let me = self.replica();
        if message.to != me || message.from == me {
            self.outbox.counters.misaddressed += 1;
            return;
        }
        if !self.is_of_this_cluster(cluster, &message, out) {
            self.outbox.counters.other_cluster += 1;
            return;
        }
        self.outbox.counters.received += 1;
        let (mut told, mut said) = (None, None);
        if let Body::Append(append) = &message.body {
            if !append.entries.is_empty() && self.takes_no_entries() {
                self.outbox.counters.dropped_no_room += 1;
                return;
            }
            // A heartbeat that stands elsewhere than at this log's end says too little.
            let says = !append.entries.is_empty() || append.prev.0 == self.log.last().0;
            told = says.then_some((message.term, append.commit));
            said = Some((message.term, append.commit));
        }
        if self.has_no_space_to(&message.body) {
            log::warn!(
                "node {} hands the lead over, but there is no space here",
                message.from.node
            );
            return;
        }
        self.step_raft(now, raft::Event::Message(message), out);
        if let Some((term, commit)) = said
            && term == self.raft.term()
        {
            self.leader_said(now, after, term, commit);
        }
        if let Some((term, commit)) = told
            && term == self.raft.term()
        {
            self.find_replay_target(commit);
        }
    }

    /// Backpressure of a follower (design.md): apply is paused for want of memtable room and the log has grown to its
    /// limit meanwhile. Appends with entries are then lost as if by the network, so the leader waits and tries again;
    /// heartbeats pass, so nobody is deposed for it.
    fn takes_no_entries(&self) -> bool {
        self.raft.role() != Role::Leader
            && self.apply_is_paused()
            && self.log_bytes_above_flush() > self.config.max_unapplied_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::NodeId;

    fn replica(node: u64) -> ReplicaId {
        ReplicaId { node: NodeId(node), incarnation: node }
    }

    fn message(to: u64, term: u64) -> Message {
        let body = Body::VoteReply { granted: true };
        Message { from: replica(1), to: replica(to), term: Term(term), body }
    }

    fn sent(out: &mut Vec<Effect>) -> Vec<(u64, u64)> {
        let take = |effect| match effect {
            Effect::Send(message) => (message.to.node.0, message.term.0),
            other => panic!("{other:?}"),
        };
        out.drain(..).map(take).collect()
    }

    #[test]
    fn pitfall_02_a_gated_message_leaves_when_its_sync_is_done_and_not_before() {
        let (mut outbox, mut out) = (Outbox::default(), Vec::new());
        outbox.send(message(2, 1), Some(IoId(2)), Term(1), &mut out);
        outbox.send(message(3, 1), Some(IoId(1)), Term(1), &mut out);
        outbox.send(message(4, 1), None, Term(1), &mut out);
        assert_eq!(sent(&mut out), [(4, 1)]);
        outbox.persisted(IoId(1), Term(1), &mut out);
        assert_eq!(sent(&mut out), [(3, 1)]);
        outbox.persisted(IoId(2), Term(1), &mut out);
        assert_eq!(sent(&mut out), [(2, 1)]);
        outbox.send(message(2, 1), Some(IoId(2)), Term(1), &mut out);
        assert_eq!(sent(&mut out), [(2, 1)], "it is durable already");
    }

    #[test]
    fn pitfall_16_a_gated_message_of_an_older_term_never_leaves() {
        let (mut outbox, mut out) = (Outbox::default(), Vec::new());
        outbox.send(message(2, 1), Some(IoId(1)), Term(1), &mut out);
        outbox.send(message(2, 2), Some(IoId(2)), Term(2), &mut out);
        outbox.persisted(IoId(2), Term(2), &mut out);
        assert_eq!(sent(&mut out), [(2, 2)]);
        assert_eq!(outbox.counters.dropped_stale, 1);
    }

    #[test]
    fn a_full_queue_drops_its_oldest_message_and_counts_it() {
        let (mut outbox, mut out) = (Outbox::default(), Vec::new());
        outbox.send(message(3, 1), Some(IoId(1)), Term(1), &mut out);
        for n in 0..=MAX_GATED_MESSAGES as u64 {
            outbox.send(message(2, n), Some(IoId(2)), Term(1), &mut out);
        }
        assert_eq!((outbox.waiting(), outbox.counters.dropped_full), (MAX_GATED_MESSAGES + 1, 1));
        outbox.persisted(IoId(2), Term(1), &mut out);
        assert_eq!(sent(&mut out)[..2], [(3, 1), (2, 1)], "the other replica's is still there");
    }
}
