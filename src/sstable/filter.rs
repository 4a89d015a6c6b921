//! Filters: a few bits per key that answer "surely not here" without reading a block.
//!
//! A filter sees only the 64-bit [`key_hash`] of user keys, so that a lookup hashes its key once (that, and what a bloom
//! filter makes of it, is a [`Probe`]) and asks every table's filter with the result. The footer names which filter a table has:
//!
//! | id | filter |
//! |---|---|
//! | 0 | [`NoFilter`]: none, every key may be there |
//! | 1 | [`BloomPolicy`]: crate `bloomfilter` 3 with [`BLOOM_SEED`], our own header and its bitmap |
//!
//! ```text
//! BLOOM PAYLOAD
//! 0   4  number of probes (k), 1 … 30
//! 4   4  reserved, 0
//! 8   8  distinct user keys
//! 16  8  bitmap length in bytes, a multiple of 8, at least 8
//! 24  …  bitmap: bit i is byte i / 8, mask 1 << (i % 8)
//! ```
//!
//! The probes of a hash, exactly: `x` = its 8 bytes little-endian; `h0`, `h1` = SipHash-1-3 of `x` under the first
//! and second half of the seed; probe 0 = h0, probe 1 = h1, probe i = (h0 + i·h1 mod 2^64) mod (2^64 − 59); each
//! mod the number of bits. The crate would take any `Hash`, but std's slice `Hash` adds a native-endian length, so
//! [`HashedKey`] feeds it those 8 bytes and nothing else.
//!
//! The crate builds the bitmap. Questions are answered here, from the bytes of the block as they are: the crate would
//! copy them, and hash the key again for every table. A test asks both (`the_crate_and_the_reader_agree`).

use super::error::Fault;
use super::format::BlockType;
use crate::base::hash::key_hash;
use bloomfilter::Bloom;
use bloomfilter::reexports::siphasher::sip::SipHasher13;
use byteorder::{BigEndian, ByteOrder};
use bytes::Bytes;
use std::fmt;
use std::hash::{Hash, Hasher};

/// The id of [`NoFilter`].
pub const FILTER_NONE: u8 = 0;
/// The id of [`BloomPolicy`].
pub const FILTER_BLOOM: u8 = 1;
/// The seed of every bloom filter, two SipHash keys. The halves must differ: equal ones make `h0 = h1` and
/// quadruple the false positives (measured, 0.82 % to 3.3 %).
pub const BLOOM_SEED: [u8; 32] = *b"BeachDB bloom #0beachdb BLOOM #1";
/// Bytes before the bitmap.
pub const BLOOM_HEADER_BYTES: usize = 24;
/// Most probes; more never pays.
pub const MAX_PROBES: u32 = 30;
/// Default bits per key: under 1 % false positives with 7 probes.
pub const DEFAULT_BITS_PER_KEY: u32 = 10;

/// How filters are built. One value serves many tables.
pub trait FilterPolicy: Send + Sync + fmt::Debug {
    /// The id that goes into the footer.
    fn id(&self) -> u8;
    /// The payload of the filter block for the hashes of all distinct user keys; empty for id 0 only.
    fn build(&self, hashes: &[u64]) -> Vec<u8>;
}

/// A key as filters see it, made once for a lookup.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Probe {
    hash: u64,
    /// What the first two probes of a bloom filter and the steps to the others are made of.
    sips: [u64; 2],
}

impl Probe {
    /// Of a user key.
    #[must_use]
    pub fn of(user_key: &[u8]) -> Self {
        Self::new(key_hash(user_key))
    }

    /// Of the [`key_hash`] of one.
    #[must_use]
    pub fn new(hash: u64) -> Self {
        let (a, b) = BLOOM_SEED.split_at(16);
        let sip = |key: &[u8]| {
            let key = key.try_into().expect("half of 32 bytes");
            SipHasher13::new_with_key(key).hash(&hash.to_le_bytes())
        };
        Self { hash, sips: [sip(a), sip(b)] }
    }

    /// The [`key_hash`].
    #[must_use]
    pub const fn hash(&self) -> u64 {
        self.hash
    }
}

/// An opened filter.
pub trait FilterReader: Send + Sync + fmt::Debug {
    /// `false`: no such key was added. `true`: perhaps it was.
    fn may_contain(&self, key: &Probe) -> bool;
    /// Bytes in memory.
    fn memory_bytes(&self) -> usize;
    /// For dumps and stats.
    fn summary(&self) -> FilterSummary;
}

/// What a filter says about itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FilterSummary {
    /// Its name.
    pub name: &'static str,
    /// Keys added.
    pub keys: u64,
    /// Probes for one question.
    pub probes: u32,
    /// Bits in the bitmap.
    pub bits: u64,
    /// Bits that are set.
    pub bits_set: u64,
}

/// Opens the filter with `id` from the payload of its block, which begins at `offset` in the file. `None` when the
/// id is not known.
pub fn open(
    id: u8,
    payload: Bytes,
    offset: u64,
) -> Option<Result<Option<Box<dyn FilterReader>>, Fault>> {
    match id {
        FILTER_NONE => Some(Ok(None)),
        FILTER_BLOOM => {
            Some(BloomReader::open(payload, offset).map(|f| Some(Box::new(f) as Box<_>)))
        }
        _ => None,
    }
}

/// The name of a filter id.
#[must_use]
pub const fn name(id: u8) -> &'static str {
    match id {
        FILTER_NONE => "none",
        FILTER_BLOOM => "bloom",
        _ => "unknown",
    }
}

/// No filter: every lookup reads a block.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoFilter;

impl FilterPolicy for NoFilter {
    fn id(&self) -> u8 {
        FILTER_NONE
    }
    fn build(&self, _hashes: &[u64]) -> Vec<u8> {
        Vec::new()
    }
}

/// The default filter.
#[derive(Clone, Copy, Debug)]
pub struct BloomPolicy {
    bits_per_key: u32,
}

impl Default for BloomPolicy {
    fn default() -> Self {
        Self::new(DEFAULT_BITS_PER_KEY)
    }
}

impl BloomPolicy {
    /// A filter with about `bits_per_key` bits for each distinct user key, 1 … 64.
    ///
    /// # Panics
    /// When it is outside those bounds.
    #[must_use]
    pub fn new(bits_per_key: u32) -> Self {
        assert!((1..=64).contains(&bits_per_key), "bits per key: 1 … 64, not {bits_per_key}");
        Self { bits_per_key }
    }

    /// bits per key × ln 2, rounded, in integers so that it is the same everywhere.
    fn probes(self) -> u32 {
        ((self.bits_per_key * 69 + 50) / 100).clamp(1, MAX_PROBES)
    }
}

impl FilterPolicy for BloomPolicy {
    fn id(&self) -> u8 {
        FILTER_BLOOM
    }

    fn build(&self, hashes: &[u64]) -> Vec<u8> {
        let bits = (hashes.len() as u64 * u64::from(self.bits_per_key)).max(1);
        let bitmap_bytes = bits.div_ceil(64) as usize * 8;
        let mut bloom = assemble(self.probes(), &vec![0; bitmap_bytes]);
        for &hash in hashes {
            bloom.set(&HashedKey(hash));
        }
        let mut out = vec![0; BLOOM_HEADER_BYTES];
        BigEndian::write_u32(&mut out[..4], self.probes());
        BigEndian::write_u64(&mut out[8..16], hashes.len() as u64);
        BigEndian::write_u64(&mut out[16..24], bitmap_bytes as u64);
        out.extend_from_slice(&bloom.as_slice()[CRATE_HEADER_BYTES..]);
        out
    }
}

/// A key hash that feeds a hasher its 8 little-endian bytes and nothing else.
#[derive(Clone, Copy, Debug)]
pub struct HashedKey(pub u64);

impl Hash for HashedKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0.to_le_bytes());
    }
}

/// The crate's own header before its bitmap: version (1) | length (8, LE) | probes (4, LE) | seed (32).
const CRATE_HEADER_BYTES: usize = 45;

/// A crate filter with this bitmap and exactly this number of probes (its own constructor would compute one with
/// floating point). `bitmap` is not empty and `probes` is not 0: the crate would divide by zero (pitfall 47).
fn assemble(probes: u32, bitmap: &[u8]) -> Bloom<HashedKey> {
    assert!(!bitmap.is_empty() && probes > 0);
    let mut bytes = Vec::with_capacity(CRATE_HEADER_BYTES + bitmap.len());
    bytes.push(1);
    bytes.extend_from_slice(&(bitmap.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&probes.to_le_bytes());
    bytes.extend_from_slice(&BLOOM_SEED);
    bytes.extend_from_slice(bitmap);
    Bloom::from_bytes(bytes).expect("the header was made here")
}

struct BloomReader {
    /// The payload, header included: the memory of the block that was read.
    payload: Bytes,
    probes: u32,
    bits: u64,
}

/// The largest prime below 2^64.
const LARGEST_PRIME: u64 = 0xffff_ffff_ffff_ffc5;

impl BloomReader {
    /// The block's CRC has been checked; this checks that the lengths mean something.
    fn open(payload: Bytes, offset: u64) -> Result<Self, Fault> {
        let fault = |at: u64, expected: String, found: String| {
            Err(Fault::new(offset + at, BlockType::Filter.name(), expected, found))
        };
        let Some((header, bitmap)) = payload.split_first_chunk::<BLOOM_HEADER_BYTES>() else {
            let found = format!("{}", payload.len());
            return fault(0, format!("at least {BLOOM_HEADER_BYTES} bytes"), found);
        };
        let probes = BigEndian::read_u32(&header[..4]);
        if !(1..=MAX_PROBES).contains(&probes) {
            return fault(0, format!("1 … {MAX_PROBES} probes"), format!("{probes}"));
        }
        if header[4..8] != [0; 4] {
            return fault(4, "reserved bytes 00000000".into(), format!("{:02x?}", &header[4..8]));
        }
        let len = BigEndian::read_u64(&header[16..24]);
        if len != bitmap.len() as u64 || len == 0 || len % 8 != 0 {
            let expected = format!("a bitmap of {} bytes, a multiple of 8 above 0", bitmap.len());
            return fault(16, expected, format!("{len}"));
        }
        Ok(Self { probes, bits: 8 * len, payload })
    }

    fn bitmap(&self) -> &[u8] {
        &self.payload[BLOOM_HEADER_BYTES..]
    }
}

impl fmt::Debug for BloomReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.summary().fmt(f)
    }
}

impl FilterReader for BloomReader {
    fn may_contain(&self, key: &Probe) -> bool {
        let bitmap = self.bitmap();
        let [h0, h1] = key.sips;
        (0..self.probes).all(|i| {
            let sum = match i {
                0 => h0,
                1 => h1,
                _ => h0.wrapping_add(u64::from(i).wrapping_mul(h1)) % LARGEST_PRIME,
            };
            let bit = sum % self.bits;
            bitmap[(bit / 8) as usize] & (1 << (bit % 8)) != 0
        })
    }

    fn memory_bytes(&self) -> usize {
        self.payload.len()
    }

    fn summary(&self) -> FilterSummary {
        FilterSummary {
            name: name(FILTER_BLOOM),
            keys: BigEndian::read_u64(&self.payload[8..16]),
            probes: self.probes,
            bits: self.bits,
            bits_set: self.bitmap().iter().map(|b| u64::from(b.count_ones())).sum(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crate_and_the_reader_agree() {
        for (keys, bits_per_key) in [(1u64, 1), (3, 10), (1000, 10), (1000, 3), (777, 40)] {
            let hashes: Vec<u64> = (0..keys).map(|i| key_hash(&i.to_be_bytes())).collect();
            let policy = BloomPolicy::new(bits_per_key);
            let payload = Bytes::from(policy.build(&hashes));
            let bloom = assemble(policy.probes(), &payload[BLOOM_HEADER_BYTES..]);
            let reader = BloomReader::open(payload, 0).unwrap();
            for i in 0..3000u64 {
                let hash = key_hash(&i.to_be_bytes());
                let ours = reader.may_contain(&Probe::new(hash));
                assert_eq!(ours, bloom.check(&HashedKey(hash)), "{i} of {keys}");
                assert!(ours || i >= keys);
            }
        }
    }
}
