//! [`WireSnapshots`]: the snapshots held for scans that go on in another request.
//!
//! Bounded in number ([`MAX_WIRE_SNAPSHOTS`]: the least recently used one that no running scan reads makes room) and
//! in time ([`WIRE_SNAPSHOT_TTL_MS`] after its last use). One hold of the state machine per sequence number here.

use crate::base::{Nanos, SequenceNumber};
use crate::limits::{MAX_WIRE_SNAPSHOTS, WIRE_SNAPSHOT_TTL_MS};
use std::collections::BTreeMap;

#[derive(Debug)]
struct Held {
    last_used: Nanos,
    /// Scans that read it now.
    users: u32,
}

/// The table. Methods that end holds return the sequence numbers to release.
#[derive(Debug, Default)]
pub(super) struct WireSnapshots {
    held: BTreeMap<SequenceNumber, Held>,
}

impl WireSnapshots {
    /// How many are held.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// The oldest one held.
    pub fn oldest(&self) -> Option<SequenceNumber> {
        self.held.keys().next().copied()
    }

    /// A scan begins to read `seq`; false when it is not held here.
    pub fn begin_use(&mut self, seq: SequenceNumber, now: Nanos) -> bool {
        let Some(held) = self.held.get_mut(&seq) else { return false };
        held.users += 1;
        held.last_used = now;
        true
    }

    /// The scan of a [`WireSnapshots::begin_use`] that returned true is over.
    pub fn end_use(&mut self, seq: SequenceNumber, now: Nanos) {
        let held = self.held.get_mut(&seq).expect("a snapshot in use stays in the table");
        held.users -= 1;
        held.last_used = now;
    }

    /// Takes over one hold of `seq` for the scan's next page. Returns a hold that is to be released: this one when
    /// `seq` is held already or there is no room, else the one that made room, if any.
    pub fn keep(&mut self, seq: SequenceNumber, now: Nanos) -> Option<SequenceNumber> {
        if let Some(held) = self.held.get_mut(&seq) {
            held.last_used = now;
            return Some(seq);
        }
        let mut evicted = None;
        if self.held.len() >= MAX_WIRE_SNAPSHOTS {
            let unused = self.held.iter().filter(|(_, h)| h.users == 0);
            let Some((&oldest, _)) = unused.min_by_key(|(seq, h)| (h.last_used, **seq)) else {
                return Some(seq);
            };
            self.held.remove(&oldest);
            evicted = Some(oldest);
        }
        self.held.insert(seq, Held { last_used: now, users: 0 });
        evicted
    }

    /// When the next one expires.
    pub fn next_expiry(&self) -> Option<Nanos> {
        let unused = self.held.values().filter(|h| h.users == 0);
        unused.map(|h| expiry(h.last_used)).min()
    }

    /// Forgets those not used for too long; their holds are to be released.
    pub fn expire(&mut self, now: Nanos) -> Vec<SequenceNumber> {
        let expired = |h: &Held| h.users == 0 && expiry(h.last_used) <= now;
        self.held.extract_if(.., |_, h| expired(h)).map(|(seq, _)| seq).collect()
    }
}

fn expiry(last_used: Nanos) -> Nanos {
    last_used.plus(Nanos::from_millis(WIRE_SNAPSHOT_TTL_MS).0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: u64 = WIRE_SNAPSHOT_TTL_MS * 1_000_000;

    #[test]
    fn a_snapshot_lives_a_ttl_from_its_last_use() {
        let mut table = WireSnapshots::default();
        assert_eq!(table.keep(SequenceNumber(5), Nanos(0)), None);
        assert!(table.begin_use(SequenceNumber(5), Nanos(TTL - 1)));
        assert_eq!(table.expire(Nanos(9 * TTL)), [], "not while a scan reads it");
        table.end_use(SequenceNumber(5), Nanos(9 * TTL));
        assert_eq!(table.next_expiry(), Some(Nanos(10 * TTL)));
        assert_eq!(table.expire(Nanos(10 * TTL - 1)), []);
        assert_eq!(table.expire(Nanos(10 * TTL)), [SequenceNumber(5)]);
        assert!(!table.begin_use(SequenceNumber(5), Nanos(10 * TTL)));
    }

    #[test]
    fn one_hold_per_sequence_number() {
        let mut table = WireSnapshots::default();
        assert_eq!(table.keep(SequenceNumber(5), Nanos(0)), None);
        assert_eq!(table.keep(SequenceNumber(5), Nanos(1)), Some(SequenceNumber(5)));
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn at_the_limit_the_least_recently_used_makes_room() {
        let mut table = WireSnapshots::default();
        for n in 0..MAX_WIRE_SNAPSHOTS as u64 {
            assert_eq!(table.keep(SequenceNumber(n), Nanos(n)), None);
        }
        assert!(table.begin_use(SequenceNumber(0), Nanos(0)), "in use, so number 1 goes");
        assert_eq!(table.keep(SequenceNumber(999), Nanos(999)), Some(SequenceNumber(1)));
        assert_eq!(table.len(), MAX_WIRE_SNAPSHOTS);
    }
}
