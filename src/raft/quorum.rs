//! Counting to a majority.

/// How many of `voters` are a majority.
pub(super) fn majority(voters: usize) -> usize {
    if planted!(EvenQuorum) {
        return voters.div_ceil(2);
    }
    voters / 2 + 1
}

/// The highest value that a majority has reached, given every voter's; the lowest there is without voters.
pub(super) fn agreed<T: Copy + Ord + Default>(values: impl Iterator<Item = T>) -> T {
    let mut sorted: Vec<T> = values.collect();
    sorted.sort_unstable();
    match sorted.len() {
        0 => T::default(),
        n => sorted[n - majority(n)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agreed_value_is_the_one_a_majority_has_reached() {
        let at = |values: &[u64]| agreed(values.iter().copied());
        assert_eq!(at(&[]), 0);
        assert_eq!(at(&[7]), 7);
        assert_eq!(at(&[7, 3]), 3);
        assert_eq!(at(&[9, 1, 4]), 4);
        assert_eq!(at(&[9, 9, 1, 4]), 4);
        assert_eq!(at(&[5, 2, 9, 1, 4]), 4);
    }
}
