//! The one 64-bit hash of a user key.
//!
//! A lookup hashes its key once and probes every table's filter with the result, so the algorithm and its seed
//! are part of the on-disk format (`proto-spec/sstable.md`): XXH3-64, seed 0, over the raw key bytes.

/// XXH3-64 of the raw key bytes.
#[must_use]
pub fn key_hash(user_key: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(user_key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answer() {
        assert_eq!(key_hash(b""), 0x2d06_8005_38d3_94c2);
    }
}
