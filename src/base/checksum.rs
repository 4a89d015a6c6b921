//! CRC32C (Castagnoli), plain and seeded.
//!
//! A *seeded* checksum is the CRC of the 8-byte big-endian seed followed by the data. The log seeds its records
//! with the segment id, so that a record left over in a recycled segment can never validate.

/// CRC32C of `data`.
#[must_use]
pub fn crc32c(data: &[u8]) -> u32 {
    crc32c::crc32c(data)
}

/// CRC32C of the bytes already summed in `crc` followed by `data`.
#[must_use]
pub fn extend(crc: u32, data: &[u8]) -> u32 {
    crc32c::crc32c_append(crc, data)
}

/// The starting value for sums seeded with `seed`; continue it with [`extend`].
#[must_use]
pub fn seeded(seed: u64) -> u32 {
    crc32c::crc32c(&seed.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answer() {
        // RFC 3720, B.4.
        assert_eq!(crc32c(&[0u8; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn extend_is_concatenation_and_seed_is_a_prefix() {
        assert_eq!(extend(crc32c(b"1234"), b"56789"), crc32c(b"123456789"));
        let mut with_seed = 7u64.to_be_bytes().to_vec();
        with_seed.extend_from_slice(b"abc");
        assert_eq!(extend(seeded(7), b"abc"), crc32c(&with_seed));
        assert_ne!(extend(seeded(7), b"abc"), extend(seeded(8), b"abc"));
    }
}
