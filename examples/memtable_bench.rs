//! Measures the memtable: `cargo run --release --example memtable_bench [entries]`.
//! The figures in `src/engine/memtable/mod.rs` come from here.
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use beachdb::base::SequenceNumber;
use beachdb::base::internal_key::ValueKind;
use beachdb::engine::memtable::{Lookup, MemIter, Memtable};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Instant;

fn mix(i: u64) -> u64 {
    let mut z = i.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn rate(n: usize, from: Instant) -> f64 {
    n as f64 / from.elapsed().as_secs_f64() / 1e6
}

/// The plain structure that the memtable must beat to earn its keep.
fn btreemap_insert(n: usize, value: &[u8]) -> f64 {
    let keys: Vec<Vec<u8>> =
        (0..n as u64).map(|i| format!("{:016x}", mix(i)).into_bytes()).collect();
    type Key = (Box<[u8]>, Reverse<u64>);
    let mut map: BTreeMap<Key, Box<[u8]>> = BTreeMap::new();
    let at = Instant::now();
    for (i, key) in keys.iter().enumerate() {
        map.insert((key.as_slice().into(), Reverse(i as u64)), value.into());
    }
    rate(n, at)
}

type KeyOf = fn(u64) -> Vec<u8>;

fn main() {
    let n: usize = std::env::args().nth(1).map_or(1_000_000, |a| a.parse().expect("a number"));
    let value = [7u8; 100];
    let sets: [(&str, KeyOf); 4] = [
        ("random hex 16", |i| format!("{:016x}", mix(i)).into_bytes()),
        ("user:%020d random", |i| format!("user:{:020}", mix(i) % 1_000_000_000).into_bytes()),
        ("sequential hex 16", |i| format!("{i:016x}").into_bytes()),
        ("1000 hot keys", |i| format!("{:016x}", mix(i % 1000)).into_bytes()),
    ];
    println!("BTreeMap baseline: {:.2} M inserts/s", btreemap_insert(n, &value));
    println!("{n} entries, 100-byte values; M operations/s");
    println!("keys                 insert  get hit  get miss  scan   bytes/entry  drop ms");
    for (name, key_of) in sets {
        let keys: Vec<Vec<u8>> = (0..n as u64).map(key_of).collect();
        let misses: Vec<Vec<u8>> = (0..n as u64).map(|i| key_of(i + (1 << 40))).collect();
        let mut table = Memtable::new();
        let at = Instant::now();
        for (i, key) in keys.iter().enumerate() {
            table.insert(key, SequenceNumber(i as u64 + 1), ValueKind::Put, &value);
        }
        let insert = rate(n, at);
        let at = Instant::now();
        for i in 0..n {
            let key = &keys[(mix(i as u64) % n as u64) as usize];
            assert!(matches!(table.get(key, SequenceNumber::MAX), Lookup::Found(..)));
        }
        let hit = rate(n, at);
        let at = Instant::now();
        for key in &misses {
            black_box(table.get(key, SequenceNumber::MAX));
        }
        let miss = rate(n, at);
        let at = Instant::now();
        let mut iter = MemIter::new(&table);
        iter.seek_to_first();
        let mut seen = 0;
        while let Some(entry) = iter.entry() {
            black_box(entry.value[0]);
            seen += 1;
            iter.next();
        }
        assert_eq!(seen, n);
        let scan = rate(n, at);
        let memory = table.memory_bytes() as f64 / n as f64;
        let at = Instant::now();
        drop(table);
        let dropped = at.elapsed().as_secs_f64() * 1e3;
        println!(
            "{name:<20} {insert:>6.2} {hit:>8.2} {miss:>9.2} {scan:>5.1} {memory:>13.1} {dropped:>8.1}"
        );
    }
}
