//! Which versions may go: the one rule of flush and compaction.
//!
//! Of each key, all versions above the *horizon* stay, and the newest at or below it; the horizon is the oldest pinned
//! snapshot, or the last sequence number. When one is left out, `oldest_readable_seq` rises to the horizon in the very edit
//! that names the table without it, so there is no moment at which a read below it could get an incomplete answer.
//!
//! ```text
//!  versions of a key     90  70  50  30  10        horizon 60
//!                        └── stay ─┘  └ go ┘       readers at 60 and above see 90, 70, or 50
//! ```
//!
//! - A version at or below the horizon that a range delete at or below the horizon covers goes too.
//! - When the newest at or below the horizon is a tombstone, it goes as well if nothing older of its key can be anywhere else:
//!   then it hides nothing, and every reader finds the same without it. That alone does not raise `oldest_readable_seq`.

use super::range_delete::{Cover, RangeDeletes};
use crate::base::SequenceNumber;
use crate::base::internal_key::ValueKind;
use std::sync::Arc;

/// What becomes of a version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// It stays.
    Keep,
    /// It goes: no reader at or above the horizon can see it.
    Hidden,
    /// It goes: a tombstone that hides nothing.
    Spent,
}

/// The rule, walked along the versions of a merge in internal-key order.
#[derive(Debug)]
pub(super) struct Keep {
    horizon: SequenceNumber,
    /// What range deletes at or below the horizon hide.
    cover: Cover,
    /// The last key of which a version at or below the horizon was met: its older versions are hidden.
    settled: Vec<u8>,
}

impl Keep {
    pub fn new(horizon: SequenceNumber, deletes: &Arc<RangeDeletes>) -> Self {
        let cover = Cover::new(Arc::clone(deletes), horizon);
        Self { horizon, cover, settled: Vec::new() }
    }

    /// What becomes of the next version. `elsewhere` says whether an older version of its key may be in a table that is not
    /// merged here; it is asked about tombstones only.
    pub fn judge(&mut self, key: &[u8], trailer: u64, elsewhere: impl FnOnce() -> bool) -> Verdict {
        let seq = trailer >> 8;
        if seq > self.horizon.0 {
            return Verdict::Keep;
        }
        if self.settled == key {
            return Verdict::Hidden;
        }
        self.settled.clear();
        self.settled.extend_from_slice(key);
        if self.cover.hides(key, SequenceNumber(seq)) {
            return Verdict::Hidden;
        }
        if trailer & 0xff == ValueKind::Delete as u64 && !elsewhere() {
            return Verdict::Spent;
        }
        Verdict::Keep
    }
}

#[cfg(test)]
mod tests {
    use super::super::edit::RangeDelete;
    use super::*;
    use crate::base::internal_key::pack_trailer;

    fn judged(
        horizon: u64,
        deletes: &Arc<RangeDeletes>,
        elsewhere: bool,
        seqs: &[(u64, ValueKind)],
    ) -> String {
        let mut keep = Keep::new(SequenceNumber(horizon), deletes);
        let letters = seqs.iter().map(|(seq, kind)| {
            let trailer = pack_trailer(SequenceNumber(*seq), *kind);
            match keep.judge(b"k", trailer, || elsewhere) {
                Verdict::Keep => 'k',
                Verdict::Hidden => 'h',
                Verdict::Spent => 's',
            }
        });
        letters.collect()
    }

    #[test]
    fn all_above_the_horizon_and_the_newest_at_or_below_it_stay() {
        let puts = [90, 70, 50, 30, 10].map(|seq| (seq, ValueKind::Put));
        let none = Arc::<RangeDeletes>::default();
        assert_eq!(judged(60, &none, false, &puts), "kkkhh");
        assert_eq!(judged(50, &none, false, &puts), "kkkhh");
        assert_eq!(judged(49, &none, false, &puts), "kkkkh");
        assert_eq!(judged(5, &none, false, &puts), "kkkkk");
        assert_eq!(judged(100, &none, false, &puts), "khhhh");
    }

    #[test]
    fn a_tombstone_goes_only_when_nothing_older_is_elsewhere() {
        let (put, delete) = (ValueKind::Put, ValueKind::Delete);
        let versions = [(9, put), (7, delete), (5, put), (3, delete)];
        let none = Arc::<RangeDeletes>::default();
        assert_eq!(judged(7, &none, false, &versions), "kshh");
        assert_eq!(judged(7, &none, true, &versions), "kkhh");
        assert_eq!(judged(6, &none, false, &versions), "kkkh", "a reader at 6 sees 5");
        assert_eq!(judged(4, &none, false, &versions), "kkks");
    }

    #[test]
    fn a_range_delete_at_or_below_the_horizon_hides_what_is_older_than_it() {
        let delete = |seq, start: &[u8], end: &[u8]| RangeDelete {
            seq,
            start: start.to_vec(),
            end: end.to_vec(),
        };
        let all = [delete(6, b"a", b"k\0"), delete(8, b"k", b""), delete(50, b"a", b"k")];
        let puts = [9, 7, 5].map(|seq| (seq, ValueKind::Put));
        let all = Arc::new(RangeDeletes::new(&all));
        assert_eq!(judged(9, &all, false, &puts), "khh");
        assert_eq!(judged(8, &all, false, &puts), "khh", "7 is hidden by 8");
        assert_eq!(judged(7, &all, false, &puts), "kkh", "8 is above the horizon");
        assert_eq!(judged(5, &all, false, &puts), "kkk", "6 is above the horizon");
        let everything = [RangeDelete { seq: 9, start: Vec::new(), end: Vec::new() }];
        let everything = Arc::new(RangeDeletes::new(&everything));
        let mut keep = Keep::new(SequenceNumber(9), &everything);
        let trailer = pack_trailer(SequenceNumber(5), ValueKind::Put);
        let mut judge = |key: &[u8]| keep.judge(key, trailer, || false);
        assert_eq!((judge(b"\0"), judge(b"k")), (Verdict::Hidden, Verdict::Hidden));
        assert_eq!(judge(b"\x00beach\x00m"), Verdict::Keep, "sessions and members stay");
    }
}
