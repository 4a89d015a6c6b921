//! How the connections of clients end, and what nodes of a cluster that was given its members know of each other.

use super::slot::Item;
use super::world::{CLOSE_DELAY_NS, Core, What};
use beachdb::base::Nanos;
use beachdb::node::{FEATURES, PeerFacts};

impl Core {
    /// A process has started: it and the others that are up learn of each other, unless [`super::links`] sees to it.
    pub(super) fn meet(&mut self, slot: usize) {
        if self.links.is_some() {
            return;
        }
        for other in (0..self.slots.len()).filter(|other| *other != slot) {
            if !self.slots[other].is_up() {
                continue;
            }
            for (at, of) in [(slot, other), (other, slot)] {
                let there = &self.slots[of];
                let facts = PeerFacts {
                    replica: there.replica,
                    cluster: beachdb::base::ClusterUid::NONE,
                    blank: false,
                    known: 0,
                    features: FEATURES,
                    peer_address: String::new(),
                    client_address: String::new(),
                };
                self.give(at, Item::Up(Box::new(facts)));
            }
        }
    }

    /// A node has drained: as the server does, it tells its clients behind its last answers that nothing else was taken. Some do
    /// not hear it.
    pub(super) fn say_goodbye(&mut self, slot: usize) {
        let life = self.slots[slot].life;
        let mut plan: Vec<(Nanos, u64)> = Vec::new();
        for (id, conn) in &mut self.conns {
            let reached = conn.slot == slot && conn.life == life && !conn.leaving;
            if reached && self.random.chance(3, 4) {
                conn.leaving = true;
                plan.push((conn.last_out.max(self.now), *id));
            }
        }
        for (at, conn) in plan {
            self.at(at, What::Goodbye { conn });
        }
    }

    /// Breaks the connections that have reached this slot.
    pub(super) fn break_connections(&mut self, slot: usize, tell_node: bool) {
        let broken: Vec<u64> = self
            .conns
            .iter()
            .filter(|(_, c)| c.slot == slot && !c.leaving)
            .map(|(id, _)| *id)
            .collect();
        for conn in broken {
            self.conns.remove(&conn);
            let delay = self.random.below(CLOSE_DELAY_NS);
            self.after(delay, What::CloseAtClient { conn });
            if tell_node {
                self.give(slot, Item::Closed { conn });
            }
        }
    }

    /// A node whose process died: its peers may see their connections break.
    pub(super) fn peers_notice(&mut self, slot: usize) {
        if self.links.is_some() {
            return self.links_notice(slot);
        }
        for peer in 0..self.slots.len() {
            if peer != slot && self.slots[peer].is_up() && self.random.chance(1, 2) {
                let delay = self.random.below(CLOSE_DELAY_NS);
                let life = self.slots[peer].life;
                self.after(delay, What::Unreachable { slot: peer, life, peer: slot });
            }
        }
    }
}
