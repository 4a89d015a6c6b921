//! The numbers below n, each once, in an order that looks random and takes no memory: with ten million keys a shuffled list
//! would be half of what an engine's memory is measured by.
//!
//! A Feistel network of four rounds permutes the next power of four; numbers that leave the range walk on until they are
//! back in it (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002), 1 to 4 steps.

/// A permutation of `0..n`.
#[derive(Clone, Debug)]
pub struct Order {
    n: u64,
    half_bits: u32,
    seed: u64,
}

impl Order {
    /// Of `0..n`, n at least 1 and below 2^62; another for each seed.
    #[must_use]
    pub const fn new(n: u64, seed: u64) -> Self {
        let bits = 64 - n.leading_zeros();
        Self { n, half_bits: bits.div_ceil(2), seed }
    }

    /// The number at place `i`, counted on from the front again behind the end.
    #[must_use]
    pub const fn at(&self, i: u64) -> u64 {
        let mut x = self.permute(i % self.n);
        while x >= self.n {
            x = self.permute(x);
        }
        x
    }

    const fn permute(&self, x: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let (mut left, mut right) = (x >> self.half_bits, x & mask);
        let mut round = 0;
        while round < 4 {
            (left, right) = (right, left ^ (mix(right ^ self.seed.rotate_left(round * 16)) & mask));
            round += 1;
        }
        left << self.half_bits | right
    }
}

/// SplitMix64's finish.
const fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_once_and_seldom_beside_its_neighbour() {
        for n in [1, 2, 3, 10, 4096, 65_537] {
            let order = Order::new(n, 7);
            let list: Vec<u64> = (0..n).map(|i| order.at(i)).collect();
            assert_eq!(order.at(n), list[0]);
            let near = list.windows(2).filter(|w| w[0].abs_diff(w[1]) < 10).count();
            assert!(n < 4096 || near < 100, "{near} of {n}");
            let mut sorted = list;
            sorted.sort_unstable();
            assert!(sorted.into_iter().eq(0..n));
        }
    }

    #[test]
    fn the_seed_decides() {
        let list = |seed| (0..50).map(|i| Order::new(1000, seed).at(i)).collect::<Vec<_>>();
        assert_eq!(list(1), list(1));
        assert_ne!(list(1), list(2));
    }
}
