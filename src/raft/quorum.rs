//! Counting to a majority.

use crate::base::LogIndex;

/// How many of `voters` are a majority.
pub(super) fn majority(voters: usize) -> usize {
    if planted!(EvenQuorum) {
        return voters.div_ceil(2);
    }
    voters / 2 + 1
}

/// The highest index that a majority has reached, given every voter's match index; zero without voters.
pub(super) fn committed(matches: impl Iterator<Item = LogIndex>) -> LogIndex {
    let mut sorted: Vec<LogIndex> = matches.collect();
    sorted.sort_unstable();
    match sorted.len() {
        0 => LogIndex::ZERO,
        n => sorted[n - majority(n)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_index_is_the_one_a_majority_has_reached() {
        let at = |matches: &[u64]| committed(matches.iter().map(|&m| LogIndex(m))).0;
        assert_eq!(at(&[]), 0);
        assert_eq!(at(&[7]), 7);
        assert_eq!(at(&[7, 3]), 3);
        assert_eq!(at(&[9, 1, 4]), 4);
        assert_eq!(at(&[9, 9, 1, 4]), 4);
        assert_eq!(at(&[5, 2, 9, 1, 4]), 4);
    }
}
