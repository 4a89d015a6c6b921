//! Every decoder meets mutated input in every test run, on the stable toolchain: a bounded, seeded smoke of what
//! `tests/fuzz` does for hours with coverage guidance. The drivers are the same (`decoders/drivers.rs`).
//!
//! `BEACH_SEED=N BEACH_ITERATIONS=N cargo test --test decoders` runs others or more; a failure prints the seed, the
//! iteration, and the input as hex.
#![expect(clippy::disallowed_methods, reason = "reads the vectors, writes fuzz corpora")]

#[path = "decoders/drivers.rs"]
mod drivers;
#[path = "decoders/seeds.rs"]
mod seeds;

use beachdb::engine::checkpoint::Description;
use beachdb::env::sim::SimRandom;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// Values that lengths and counts are wrong by.
const INTERESTING: [u64; 10] =
    [0, 1, 7, 0x7f, 0x80, 0xff, 0xffff, 0x7fff_ffff, 0xffff_ffff, u64::MAX];

fn mutate(random: &mut SimRandom, input: &mut Vec<u8>, other: &[u8]) {
    let len = input.len() as u64;
    let at = random.below(len.max(1)) as usize;
    let left = input.len() - at.min(input.len());
    match random.below(9) {
        0..=2 if left > 0 => input[at] ^= 1 << random.below(8),
        3 if left > 0 => input[at] = random.below(256) as u8,
        4 => input.truncate(at),
        5 => {
            let width = 1 << random.below(4);
            let value = INTERESTING[random.below(INTERESTING.len() as u64) as usize];
            let bytes = value.wrapping_sub(random.below(3)).to_be_bytes();
            let width = left.min(width);
            input[at..at + width].copy_from_slice(&bytes[8 - width..]);
        }
        6 => {
            let n = random.below(40) as usize;
            input.drain(at..at + n.min(left));
        }
        7 => {
            let from = random.below(other.len().max(1) as u64) as usize;
            let n = (random.below(40) as usize).min(other.len() - from.min(other.len()));
            input.splice(at..at, other[from..from + n].iter().copied());
        }
        _ => {
            let n = random.below(20) as usize;
            input.extend((0..n).map(|_| random.below(256) as u8));
        }
    }
}

fn smoke(target: &str, iterations: u64) {
    let (_, driver) = drivers::ALL.into_iter().find(|(name, _)| *name == target).unwrap();
    let seed = number("BEACH_SEED", 0xbeac);
    let iterations = number("BEACH_ITERATIONS", iterations);
    println!("{target}: BEACH_SEED={seed} BEACH_ITERATIONS={iterations}");
    let seeds = seeds::of(target);
    let mut random = SimRandom::new(seed);
    for iteration in 0..iterations {
        let pick = |random: &mut SimRandom| random.below(seeds.len() as u64) as usize;
        let mut input = seeds[pick(&mut random)].clone();
        // The seeds themselves come first.
        if let Some(seed) = seeds.get(iteration as usize) {
            input.clone_from(seed);
        } else {
            for _ in 0..=random.below(4) {
                let other = pick(&mut random);
                mutate(&mut random, &mut input, &seeds[other]);
            }
        }
        let run = catch_unwind(AssertUnwindSafe(|| driver(&input)));
        if let Err(panic) = run {
            let hex = beachdb::proto::text::to_hex(&input);
            eprintln!("{target}: BEACH_SEED={seed}, iteration {iteration}, input {hex}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn mutated_batches_are_harmless() {
    smoke("batch", 20_000);
}

#[test]
fn mutated_frames_are_harmless() {
    smoke("frame", 10_000);
}

#[test]
fn mutated_frames_between_nodes_are_harmless() {
    smoke("peer", 20_000);
}

#[test]
fn mutated_bodies_are_harmless() {
    smoke("body", 20_000);
}

#[test]
fn mutated_lines_are_harmless() {
    smoke("inline", 20_000);
}

#[test]
fn mutated_log_segments_are_harmless() {
    smoke("wal", 3_000);
}

#[test]
fn mutated_raft_logs_are_harmless() {
    smoke("raft_log", 3_000);
}

#[test]
fn mutated_edits_are_harmless() {
    smoke("edit", 20_000);
}

#[test]
fn mutated_manifests_are_harmless() {
    smoke("manifest", 5_000);
}

#[test]
fn mutated_snapshot_descriptions_are_harmless() {
    smoke("snapshot", 20_000);
}

#[test]
fn mutated_descriptions_of_checkpoints_are_harmless() {
    let valid = |seed: &[u8]| Description::decode(Path::new("CHECKPOINT"), seed).is_ok();
    assert!(
        seeds::of("checkpoint").iter().filter(|seed| valid(seed)).count() >= 2,
        "the seeds are valid"
    );
    smoke("checkpoint", 20_000);
}

#[test]
fn mutated_internal_rows_are_harmless() {
    smoke("rows", 20_000);
}

#[test]
fn every_manifest_seed_is_valid() {
    let disk = beachdb::env::sim::SimDisk::new(1);
    let path = Path::new("/7.manifest");
    disk.write_file(path, &seeds::of("manifest")[0]);
    let replay = beachdb::engine::manifest::replay(&disk, path, Some(7), &mut |_, _| {}).unwrap();
    assert_eq!((replay.edits, replay.state.tables.len()), (5, 2));
}

#[test]
fn mutated_tables_are_harmless() {
    smoke("sstable", 5_000);
}

#[test]
fn mutated_filters_and_properties_are_harmless() {
    smoke("sstable_parts", 20_000);
}

/// Counts, indexes, lengths, and positions at their extremes, one at a time, with good checksums around them.
#[test]
fn extreme_numbers_in_every_row_are_harmless() {
    let targets = [
        ("wal", 8),
        ("raft_log", 8),
        ("manifest", 4),
        ("sstable", 1),
        ("edit", 1),
        ("peer", 1),
        ("snapshot", 1),
        ("rows", 1),
    ];
    for (target, step) in targets {
        let (_, driver) = drivers::ALL.into_iter().find(|(name, _)| *name == target).unwrap();
        let seed = seeds::of(target).into_iter().next().unwrap();
        for at in (0..seed.len()).step_by(step) {
            for (width, value) in [(8, 0), (8, 1), (8, u64::MAX), (8, u64::MAX - 1), (4, u64::MAX)]
            {
                let mut input = seed.clone();
                let width = (seed.len() - at).min(width);
                input[at..at + width].copy_from_slice(&value.to_be_bytes()[8 - width..]);
                if let Err(panic) = catch_unwind(AssertUnwindSafe(|| driver(&input))) {
                    eprintln!("{target}: {width} bytes at {at} of the first seed = {value:#x}");
                    std::panic::resume_unwind(panic);
                }
            }
        }
    }
}

/// Not a test: writes the seeds where cargo-fuzz looks for its corpora (see `tests/fuzz/README.md`).
#[test]
#[ignore = "writes tests/fuzz/corpus"]
fn write_corpora() {
    for (target, _) in drivers::ALL {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let dir = root.join("tests/fuzz/corpus").join(target);
        std::fs::create_dir_all(&dir).unwrap();
        for (i, seed) in seeds::of(target).into_iter().enumerate() {
            std::fs::write(dir.join(format!("seed{i:02}")), seed).unwrap();
        }
    }
}
