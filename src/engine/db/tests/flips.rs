//! One flipped byte, at every place of every file of a small database and of a checkpoint: an error that names the file, or nothing at
//! all, and never another answer. (The exception, the last log group without a watermark, is not here: a clean stop leaves none; see
//! `wal::tests`.)

use super::*;
use crate::engine::{Scrub, checkpoint};
use crate::sstable::Compression;
use crate::wal::RECORD_HEADER_BYTES;
use std::path::PathBuf;

const MASKS: [u8; 3] = [0x01, 0x10, 0x80];

fn tiny(env: &Env, compression: Compression) -> DbOptions {
    DbOptions { segment_bytes: 4 << 10, block_bytes: 128, compression, ..options(env) }
}

/// A closed database: two tables of each kind, range deletes in the manifest and in the log, and a log with records; and a checkpoint of it.
fn closed(compression: Compression) -> (Rig, Map) {
    let (env, sim) = sim::env(7);
    let db = Db::open("db", tiny(&env, compression)).unwrap();
    let pinned = db.snapshot();
    for i in 0..12_u8 {
        db.put(&[b'k', i], &[i; 40]).unwrap();
    }
    db.flush().unwrap();
    let before = db.snapshot();
    db.delete_range(b"k\x03", b"k\x05").unwrap();
    for i in 12..16_u8 {
        db.put(&[b'k', i], &[i; 40]).unwrap();
    }
    db.flush().unwrap();
    db.checkpoint("copy").unwrap();
    for i in 16..20_u8 {
        db.put(&[b'k', i], &[i; 40]).unwrap();
    }
    db.delete_range(b"k\x07", b"k\x09").unwrap();
    let map = contents(&db).unwrap();
    drop((pinned, before));
    db.close().unwrap();
    (Rig { env, sim, db: None }, map)
}

fn all_files(rig: &Rig, dirs: &[&str]) -> Vec<String> {
    let mut all = Vec::new();
    for dir in dirs {
        all.extend(rig.files(dir, ""));
    }
    all.retain(|path| rig.sim.disk.read_file(path).is_some_and(|bytes| !bytes.is_empty()));
    all
}

#[test]
fn every_flipped_byte_of_every_kind_of_file_is_an_error_or_harmless() {
    for compression in [Compression::None, Compression::Lz4] {
        let (rig, expected) = closed(compression);
        let files = all_files(&rig, &["db/engine", "db/wal"]);
        for kind in ["CURRENT", ".manifest", ".sst", ".wal"] {
            assert!(files.iter().any(|f| f.ends_with(kind)), "{kind}: {files:?}");
        }
        for path in files {
            let bytes = rig.sim.disk.read_file(&path).unwrap();
            let used_to = bytes.len() as u64;
            let (mut refused, mut harmless_at) = (0_u32, Vec::new());
            for offset in 0..used_to {
                let mask = MASKS[(offset % 3) as usize];
                let disk = rig.sim.disk.fork(offset);
                disk.flip(&path, offset, mask);
                let env = Env { disk: Arc::new(disk), ..rig.env.clone() };
                let result = Db::open("db", tiny(&env, compression)).and_then(|db| contents(&db));
                rig.sim.jobs.abandon();
                match result {
                    Ok(found) => {
                        assert_eq!(found, expected, "{path} at {offset}, mask {mask:#x}");
                        harmless_at.push(offset);
                    }
                    Err(e) => {
                        let (text, name) = (e.to_string(), path.rsplit('/').next().unwrap());
                        assert!(
                            text.contains(name) || text.contains("log"),
                            "{path} at {offset}: {text}"
                        );
                        refused += 1;
                    }
                }
            }
            // Of a log, only the last watermark, which says that nothing before it is torn: without it everything is still there.
            let is_log = path.ends_with(".manifest") || path.ends_with(".wal");
            let spare =
                if is_log { used_to.saturating_sub(RECORD_HEADER_BYTES as u64) } else { used_to };
            assert!(
                harmless_at.iter().all(|at| *at >= spare),
                "{path}: {refused} refused; not noticed: {harmless_at:?}"
            );
        }
    }
}

#[test]
fn every_flipped_byte_of_a_checkpoint_is_found_before_it_is_used() {
    for compression in [Compression::None, Compression::Lz4] {
        let (rig, _) = closed(compression);
        let files = all_files(&rig, &["copy", "copy/engine"]);
        for kind in ["CHECKPOINT", "CURRENT", ".manifest", ".sst"] {
            assert!(files.iter().any(|f| f.ends_with(kind)), "{kind}: {files:?}");
        }
        for path in files {
            let bytes = rig.sim.disk.read_file(&path).unwrap();
            for offset in 0..bytes.len() as u64 {
                let mask = MASKS[(offset % 3) as usize];
                let disk = rig.sim.disk.fork(offset);
                disk.flip(&path, offset, mask);
                let env = Env { disk: Arc::new(disk), ..rig.env.clone() };
                let read = checkpoint::read(&*env.disk, Path::new("copy"));
                let dir = PathBuf::from("copy/engine");
                let found = read.is_err()
                    || Scrub::of_dir(Arc::clone(&env.disk), dir, None)
                        .map_or(true, |scrub| scrub.run().damaged > 0);
                assert!(found, "{path} at {offset}, mask {mask:#x}: nobody noticed");
            }
        }
    }
}
