//! What is asked for: which operation, on which key, with which value.
//!
//! - Keys are `key:` and the key's number in decimal, zero-padded to the key size: in key order they are in
//!   number order, and `redis-benchmark -r` draws the same ones at 16 bytes. A *missing* key is an existing one
//!   with `!` behind it: it lies between two existing keys, so only a filter or a look-up can tell.
//! - Values begin with their key, so that a reader can tell whose they are; the rest is slices of a pool of
//!   random bytes (incompressible).
//! - The same seed gives the same sequence of operations.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, RngExt, SeedableRng};

/// Bytes of random filler that values are cut from.
const FILLER_BYTES: usize = 1 << 20;
/// The skew of the zipfian distributions, the customary YCSB value.
const ZIPFIAN_THETA: f64 = 0.99;
/// What every key begins with.
const KEY_PREFIX: &[u8] = b"key:";

/// A kind of operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum OpKind {
    /// Set one key.
    Put,
    /// Read one key.
    Get,
    /// Read a run of keys.
    Scan,
}

impl OpKind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Put, Self::Get, Self::Scan];

    /// The name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::Scan => "scan",
        }
    }
}

/// One operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Op {
    /// What to do.
    pub kind: OpKind,
    /// The number of the key.
    pub key: u64,
    /// Whether it is the missing neighbour of that key.
    pub missing: bool,
}

/// The mix of operations.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mix {
    /// 95 % put, 5 % get, sequential with overwrites
    A,
    /// 95 % get, 5 % put, uniform over existing keys
    B,
    /// 99 % get of missing keys, 1 % put
    C,
    /// Only puts, uniform
    Put,
    /// Only gets, uniform
    Get,
    /// Only scans of --scan-length entries, uniform start
    Scan,
}

impl Mix {
    /// How keys are drawn when nobody says it.
    #[must_use]
    pub const fn default_distribution(self) -> Distribution {
        match self {
            Self::A => Distribution::Sequential,
            _ => Distribution::Uniform,
        }
    }

    /// Whether it reads keys that somebody must have written first.
    #[must_use]
    pub const fn wants_preload(self) -> bool {
        matches!(self, Self::B | Self::C | Self::Get | Self::Scan)
    }
}

/// How keys are drawn.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Distribution {
    /// Every key alike
    Uniform,
    /// A few keys often (theta 0.99), scattered over the key space
    Zipfian,
    /// Zipfian from the newest key backwards; puts add new keys
    Latest,
    /// One after the other, again from the first after the last
    Sequential,
}

/// What [`Workload::new`] needs.
#[derive(Clone, Copy, Debug)]
pub struct WorkloadOptions {
    /// The mix.
    pub mix: Mix,
    /// Key choice; `None` = the mix's own.
    pub distribution: Option<Distribution>,
    /// Number of keys.
    pub keys: u64,
    /// Bytes in a key.
    pub key_size: usize,
    /// Bytes in a value.
    pub value_size: usize,
    /// Seed of every choice.
    pub seed: u64,
    /// Whether all keys exist from the start.
    pub preloaded: bool,
}

/// A stream of operations with their keys and values.
#[derive(Debug)]
pub struct Workload {
    options: WorkloadOptions,
    distribution: Distribution,
    rng: Xoshiro256PlusPlus,
    zipfian: Option<Zipfian>,
    /// Next key of sequential puts, and next key beyond the last of `latest`.
    next_put: u64,
    next_get: u64,
    key_buf: Vec<u8>,
    value_buf: Vec<u8>,
    filler: Vec<u8>,
}

impl Workload {
    /// Checks the options and makes the stream. An error is one line for the user.
    pub fn new(options: WorkloadOptions) -> Result<Self, String> {
        let WorkloadOptions { mix, keys, key_size, .. } = options;
        if keys == 0 {
            return Err("--keys must be at least 1".into());
        }
        let digits = keys.to_string().len() + 1; // one more, for keys that `latest` adds
        let least = KEY_PREFIX.len() + digits;
        if key_size < least || key_size > beachdb::limits::MAX_KEY_BYTES - 1 {
            return Err(format!(
                "--key-size {key_size} is not between {least} (for {keys} keys) and {}",
                beachdb::limits::MAX_KEY_BYTES - 1
            ));
        }
        if options.value_size > beachdb::limits::MAX_VALUE_BYTES {
            return Err(format!(
                "--value-size {} is over the limit of {}",
                options.value_size,
                beachdb::limits::MAX_VALUE_BYTES
            ));
        }
        let distribution = options.distribution.unwrap_or(mix.default_distribution());
        let zipfian = matches!(distribution, Distribution::Zipfian | Distribution::Latest)
            .then(|| Zipfian::new(keys, ZIPFIAN_THETA));
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(options.seed);
        let mut filler = vec![0; FILLER_BYTES + options.value_size];
        rng.fill_bytes(&mut filler);
        let mut key_buf = KEY_PREFIX.to_vec();
        key_buf.resize(key_size, b'0');
        Ok(Self {
            next_put: if distribution == Distribution::Latest { keys } else { 0 },
            next_get: 0,
            options,
            distribution,
            rng,
            zipfian,
            key_buf,
            value_buf: vec![0; options.value_size],
            filler,
        })
    }

    /// The distribution in use.
    #[must_use]
    pub const fn distribution(&self) -> Distribution {
        self.distribution
    }

    /// The next operation.
    pub fn next_op(&mut self) -> Op {
        let percent = self.rng.next_u64() % 100;
        let (kind, missing) = match self.options.mix {
            Mix::A if percent < 95 => (OpKind::Put, false),
            Mix::B if percent < 5 => (OpKind::Put, false),
            Mix::C if percent < 1 => (OpKind::Put, false),
            Mix::A | Mix::B | Mix::Get => (OpKind::Get, false),
            Mix::C => (OpKind::Get, true),
            Mix::Put => (OpKind::Put, false),
            Mix::Scan => (OpKind::Scan, false),
        };
        let key = if kind == OpKind::Put { self.put_key() } else { self.read_key() };
        Op { kind, key, missing }
    }

    fn put_key(&mut self) -> u64 {
        match self.distribution {
            Distribution::Sequential => {
                let key = self.next_put % self.options.keys;
                self.next_put += 1;
                key
            }
            Distribution::Latest => {
                self.next_put += 1;
                self.next_put - 1
            }
            Distribution::Uniform => self.uniform(),
            Distribution::Zipfian => self.scattered_zipfian(),
        }
    }

    fn read_key(&mut self) -> u64 {
        match self.distribution {
            Distribution::Sequential => {
                let keys = self.options.keys;
                let there =
                    if self.options.preloaded { keys } else { self.next_put.clamp(1, keys) };
                self.next_get += 1;
                (self.next_get - 1) % there
            }
            Distribution::Latest => {
                let rank = self.zipfian_rank();
                self.next_put.saturating_sub(1 + rank)
            }
            Distribution::Uniform => self.uniform(),
            Distribution::Zipfian => self.scattered_zipfian(),
        }
    }

    fn uniform(&mut self) -> u64 {
        self.rng.random_range(0..self.options.keys)
    }

    fn zipfian_rank(&mut self) -> u64 {
        let unit: f64 = self.rng.random();
        self.zipfian.as_ref().map_or(0, |z| z.rank(unit))
    }

    fn scattered_zipfian(&mut self) -> u64 {
        let rank = self.zipfian_rank();
        beachdb::base::hash::key_hash(&rank.to_be_bytes()) % self.options.keys
    }

    /// The key's bytes, until the next call.
    pub fn key(&mut self, op: &Op) -> &[u8] {
        self.key_buf.truncate(self.options.key_size);
        write_key(&mut self.key_buf, op.key);
        if op.missing {
            self.key_buf.push(b'!');
        }
        &self.key_buf
    }

    /// The bytes of the key and of a fresh value for it, until the next call.
    pub fn key_value(&mut self, op: &Op) -> (&[u8], &[u8]) {
        self.key(op);
        let at = (self.rng.next_u64() as usize) % FILLER_BYTES;
        let size = self.value_buf.len();
        let named = size.min(self.key_buf.len());
        self.value_buf[..named].copy_from_slice(&self.key_buf[..named]);
        self.value_buf[named..].copy_from_slice(&self.filler[at..at + size - named]);
        (&self.key_buf, &self.value_buf)
    }
}

/// Writes `number` in decimal at the end of `key`, zero-padded back to the prefix.
fn write_key(key: &mut [u8], mut number: u64) {
    for digit in key[KEY_PREFIX.len()..].iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// Zipf-distributed ranks by the method of Gray et al., "Quickly Generating Billion-Record Synthetic Databases"
/// (SIGMOD 1994), the one YCSB uses.
#[derive(Debug)]
struct Zipfian {
    items: u64,
    alpha: f64,
    zeta_n: f64,
    eta: f64,
    /// Below this (times zeta) the rank is 1.
    second: f64,
}

impl Zipfian {
    fn new(items: u64, theta: f64) -> Self {
        let zeta = |n: u64| (1..=n).map(|i| 1.0 / (i as f64).powf(theta)).sum::<f64>();
        let (zeta_n, zeta_2) = (zeta(items), zeta(2));
        let eta = (1.0 - (2.0 / items as f64).powf(1.0 - theta)) / (1.0 - zeta_2 / zeta_n);
        Self { items, alpha: 1.0 / (1.0 - theta), zeta_n, eta, second: 1.0 + 0.5_f64.powf(theta) }
    }

    /// The rank for a uniform number in [0, 1).
    fn rank(&self, unit: f64) -> u64 {
        let uz = unit * self.zeta_n;
        if uz < 1.0 {
            return 0;
        }
        if uz < self.second {
            return 1.min(self.items - 1);
        }
        let rank = self.items as f64 * (self.eta * unit - self.eta + 1.0).powf(self.alpha);
        (rank as u64).min(self.items - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(mix: Mix, keys: u64) -> WorkloadOptions {
        WorkloadOptions {
            mix,
            distribution: None,
            keys,
            key_size: 16,
            value_size: 100,
            seed: 7,
            preloaded: true,
        }
    }

    #[test]
    fn keys_sort_by_number_and_missing_ones_lie_between() {
        let mut w = Workload::new(options(Mix::Put, 1_000_000)).unwrap();
        let mut key = |key, missing| w.key(&Op { kind: OpKind::Get, key, missing }).to_vec();
        assert_eq!(key(42, false), b"key:000000000042");
        let (a, missing, b) = (key(42, false), key(42, true), key(43, false));
        assert!(a < missing && missing < b);
        assert!(key(9, false) < key(10, false) && key(99_999, false) < key(100_000, false));
    }

    #[test]
    fn values_begin_with_their_key_and_have_the_size() {
        for size in [0, 5, 16, 100, 5_000] {
            let mut w =
                Workload::new(WorkloadOptions { value_size: size, ..options(Mix::Put, 10) })
                    .unwrap();
            let op = w.next_op();
            let (key, value) = w.key_value(&op);
            assert_eq!(value.len(), size);
            let named = size.min(key.len());
            assert_eq!(value[..named], key[..named]);
        }
    }

    #[test]
    fn the_seed_decides() {
        let run = |seed| {
            let mut w = Workload::new(WorkloadOptions { seed, ..options(Mix::B, 1000) }).unwrap();
            (0..100).map(|_| w.next_op()).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn mixes_have_their_shares() {
        for (mix, puts) in [(Mix::A, 0.95), (Mix::B, 0.05), (Mix::C, 0.01), (Mix::Put, 1.0)] {
            let mut w = Workload::new(options(mix, 1000)).unwrap();
            let n = 100_000;
            let ops: Vec<Op> = (0..n).map(|_| w.next_op()).collect();
            let got = ops.iter().filter(|o| o.kind == OpKind::Put).count() as f64 / f64::from(n);
            assert!((got - puts).abs() < 0.005, "{mix:?}: {got}");
            let reads_missing = ops.iter().all(|o| o.missing == (o.kind == OpKind::Get));
            assert_eq!(mix == Mix::C, reads_missing && mix != Mix::Put, "{mix:?}");
        }
    }

    #[test]
    fn sequential_wraps_and_reads_only_what_was_written() {
        let mut w =
            Workload::new(WorkloadOptions { preloaded: false, ..options(Mix::A, 10) }).unwrap();
        let mut written = 0;
        for _ in 0..1000 {
            let op = w.next_op();
            match op.kind {
                OpKind::Put => {
                    assert_eq!(op.key, written % 10);
                    written += 1;
                }
                _ => assert!(op.key < written.clamp(1, 10)),
            }
        }
    }

    #[test]
    fn zipfian_is_skewed_as_its_formula_says_and_latest_prefers_the_newest() {
        let z = Zipfian::new(1000, ZIPFIAN_THETA);
        let n = 200_000;
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
        let first = (0..n).filter(|_| z.rank(rng.random()) == 0).count() as f64 / f64::from(n);
        assert!((first - 1.0 / z.zeta_n).abs() < 0.005, "{first}");
        let mut w = Workload::new(WorkloadOptions {
            distribution: Some(Distribution::Latest),
            ..options(Mix::B, 1000)
        })
        .unwrap();
        let gets: Vec<u64> = (0..10_000)
            .map(|_| w.next_op())
            .filter(|o| o.kind == OpKind::Get)
            .map(|o| o.key)
            .collect();
        let recent = gets.iter().filter(|k| **k >= 900).count();
        assert!(recent * 2 > gets.len(), "{recent} of {}", gets.len());
    }

    #[test]
    fn a_key_too_short_for_the_number_of_keys_is_refused() {
        let error = Workload::new(WorkloadOptions { key_size: 8, ..options(Mix::Put, 1_000_000) })
            .unwrap_err();
        assert!(error.contains("--key-size 8"), "{error}");
    }
}
