//! The structure against a list that is searched.

use super::*;
use proptest::prelude::*;

fn delete(seq: u64, start: &[u8], end: &[u8]) -> RangeDelete {
    RangeDelete { seq, start: start.to_vec(), end: end.to_vec() }
}

fn covers(delete: &RangeDelete, key: &[u8]) -> bool {
    delete.start.as_slice() <= key
        && (delete.end.is_empty() || key < delete.end.as_slice())
        && !key.starts_with(RESERVED_KEY_PREFIX)
}

fn check(deletes: &[RangeDelete], structure: &RangeDeletes, keys: &[Vec<u8>], top: u64) {
    assert_eq!(structure.len(), deletes.len());
    let sorted = structure.fragments.windows(2).all(|pair| {
        pair[0].end.as_ref().is_some_and(|end| *end <= pair[1].start)
            && pair[0].start < pair[1].start
    });
    assert!(sorted, "{structure:?}");
    assert!(structure.fragments.iter().all(|f| !f.seqs.is_empty() && f.seqs.is_sorted()));
    let shared = Arc::new(structure.clone());
    for at in 0..=top + 1 {
        let mut cover = Cover::new(Arc::clone(&shared), SequenceNumber(at));
        for key in keys {
            let expected = deletes.iter().filter(|d| d.seq <= at && covers(d, key));
            let expected = SequenceNumber(expected.map(|d| d.seq).max().unwrap_or(0));
            assert_eq!(structure.covering(key, SequenceNumber(at)), expected, "{key:?} at {at}");
            assert_eq!(cover.covering(key), expected, "{key:?} at {at}");
            let hidden = cover.hides(key, SequenceNumber(3));
            assert_eq!(hidden, expected > SequenceNumber(3));
        }
    }
}

proptest! {
    #[test]
    fn covers_what_a_list_of_all_covers(
        ranges in prop::collection::vec((prop::collection::vec(0u8..4, 0..3), prop::collection::vec(0u8..4, 0..3)), 0..12),
        keys in prop::collection::vec(prop::collection::vec(0u8..5, 1..4), 1..20),
        gone in prop::collection::vec(any::<bool>(), 12),
    ) {
        let mut keys = keys;
        keys.push(b"\x00beach\x00s".to_vec());
        keys.push(b"\x00beach\x01".to_vec());
        keys.extend(ranges.iter().flat_map(|(a, b)| [a.clone(), b.clone()]).filter(|k| !k.is_empty()));
        let fit = ranges.iter().filter(|(start, end)| end.is_empty() || start < end);
        let mut deletes: Vec<_> = fit.zip(1..).map(|((a, b), seq)| delete(seq, a, b)).collect();
        let mut structure = RangeDeletes::new(&deletes);
        check(&deletes, &structure, &keys, 12);
        // Sorted keys, both ways: the cover's memory of its place.
        keys.sort();
        check(&deletes, &structure, &keys, 12);
        keys.reverse();
        check(&deletes, &structure, &keys, 12);
        let is_gone = |seq: u64| gone[seq as usize - 1];
        structure.forget(is_gone);
        deletes.retain(|delete| !is_gone(delete.seq));
        check(&deletes, &structure, &keys, 12);
        structure.forget(|_| true);
        prop_assert!(structure.is_empty() && structure.fragments.is_empty());
    }
}

#[test]
fn fragments_join_again_when_what_split_them_is_forgotten() {
    let mut structure = RangeDeletes::new(&[delete(1, b"a", b"z"), delete(2, b"f", b"k")]);
    assert_eq!(structure.fragments.len(), 3);
    structure.forget(|seq| seq == 2);
    assert_eq!(structure.fragments.len(), 1);
    let mut cover = Cover::new(Arc::new(structure), SequenceNumber::MAX);
    assert_eq!(cover.bounds(b"g"), Some((&b"a"[..], Some(&b"z"[..]))));
    assert_eq!(cover.bounds(b"z"), None);
}
