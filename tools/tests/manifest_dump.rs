//! The real `manifest_dump` on the manifest of `proto-spec/vectors/manifest.json`, whole and damaged.
//!
//! `BEACH_BLESS=1 cargo test -p beach-tools --test manifest_dump` rewrites the golden outputs and the vector.
#![expect(clippy::disallowed_methods, reason = "tests read and write files directly")]

use beachdb::base::{LogIndex, SequenceNumber, Term};
use beachdb::engine::edit::{RangeDelete, State, TableMeta, VersionEdit};
use beachdb::engine::manifest::{Change, Manifest};
use beachdb::env::os::OsDisk;
use beachdb::wal::{LogKind, LogPos, SegmentHeader};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

const MANIFEST: &str = "0000000000000003.manifest";

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn table(number: u64, seqs: (u64, u64), keys: (&[u8], &[u8])) -> TableMeta {
    TableMeta {
        level: 0,
        number,
        bytes: 40 + number,
        entries: seqs.1 - seqs.0 + 1,
        deletes: 1,
        smallest_seq: seqs.0,
        largest_seq: seqs.1,
        smallest_key: keys.0.to_vec(),
        largest_key: keys.1.to_vec(),
        cleared_to: 0,
    }
}

/// A state from nothing but one edit.
fn state_of(edit: &VersionEdit) -> State {
    let mut state = State::default();
    state.apply(edit).unwrap();
    state
}

/// The manifest of the vector: a full edit, then two flushes.
fn build(dir: &Path) {
    let mut manifest = Manifest::new(Arc::new(OsDisk::new()), dir.to_path_buf());
    let mut state = state_of(&VersionEdit { next_file: Some(4), ..VersionEdit::default() });
    manifest.rotate(3, &state).unwrap();
    let flushes = [
        VersionEdit {
            applied: Some((LogIndex(7), Term(2))),
            last_seq: Some(SequenceNumber(9)),
            next_file: Some(6),
            added: vec![table(4, (1, 9), (b"apple", b"plum"))],
            ..VersionEdit::default()
        },
        VersionEdit {
            applied: Some((LogIndex(12), Term(3))),
            last_seq: Some(SequenceNumber(20)),
            oldest_readable: Some(SequenceNumber(18)),
            next_file: Some(8),
            added: vec![table(6, (10, 20), (b"\x00\xff", b"zebra"))],
            ..VersionEdit::default()
        },
    ];
    for edit in flushes {
        state.apply(&edit).unwrap();
        manifest
            .install(&Change { edit, state: state.clone(), rotate_number: 0 }, u64::MAX)
            .unwrap();
    }
    for table in state.tables.values() {
        let path = dir.join(format!("{:016x}.sst", table.number));
        std::fs::write(path, vec![0; table.bytes as usize]).unwrap();
    }
}

fn run(dir: &Path, args: &[&str]) -> Output {
    let tool = env!("CARGO_BIN_EXE_manifest_dump");
    Command::new(tool).args(args).current_dir(dir).output().unwrap()
}

/// Runs the tool on the vector's directory after `change`, and checks that it changes nothing itself.
fn dump(args: &[&str], change: impl Fn(&Path)) -> Output {
    let dir = tempfile::tempdir().unwrap();
    build(dir.path());
    change(dir.path());
    let before = snapshot(dir.path());
    let output = run(dir.path(), args);
    assert_eq!(snapshot(dir.path()), before, "evidence is not changed");
    output
}

fn snapshot(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

fn golden(name: &str, output: &Output, status: i32) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    let found = format!("{out}--- stderr\n{err}--- exit {}\n", output.status.code().unwrap());
    let path = here("tests/golden/manifest_dump").join(name);
    if std::env::var_os("BEACH_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &found).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert_eq!(found, expected, "{}", path.display());
    assert_eq!(output.status.code(), Some(status), "{name}");
    if name.ends_with(".json") {
        for line in out.lines() {
            serde_json::from_str::<Value>(line).unwrap();
        }
    }
}

fn edit_file(path: PathBuf, change: impl Fn(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(&path).unwrap();
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

/// Behind the two flushes: a flush with two range deletes, then a compaction of everything into levels 5 and 6 that applies
/// the older range delete and moves a table.
fn compact(dir: &Path) {
    let mut manifest = Manifest::new(Arc::new(OsDisk::new()), dir.to_path_buf());
    let keys: (&[u8], &[u8]) = (b"n", b"q");
    let mut state = state_of(&VersionEdit {
        applied: Some((LogIndex(12), Term(3))),
        last_seq: Some(SequenceNumber(20)),
        next_file: Some(8),
        added: vec![
            TableMeta { level: 5, ..table(3, (1, 4), keys) },
            table(4, (5, 9), (b"apple", b"plum")),
            table(6, (10, 20), (b"\x00\xff", b"zebra")),
        ],
        ..VersionEdit::default()
    });
    manifest.rotate(7, &state).unwrap();
    std::fs::remove_file(dir.join(MANIFEST)).unwrap();
    let delete = |seq, start: &[u8], end: &[u8]| RangeDelete {
        seq,
        start: start.to_vec(),
        end: end.to_vec(),
    };
    let edits = [
        VersionEdit {
            applied: Some((LogIndex(14), Term(3))),
            last_seq: Some(SequenceNumber(22)),
            next_file: Some(9),
            range_deletes: vec![delete(21, b"b", b"c\xff"), delete(22, b"x", b"")],
            ..VersionEdit::default()
        },
        VersionEdit {
            oldest_readable: Some(SequenceNumber(21)),
            next_file: Some(11),
            added: vec![
                TableMeta { level: 5, cleared_to: 21, ..table(9, (1, 20), (b"\x00\xff", b"kiwi")) },
                TableMeta { level: 6, ..table(3, (1, 4), keys) },
                TableMeta { level: 5, cleared_to: 21, ..table(10, (9, 12), (b"r", b"zebra")) },
            ],
            removed: vec![(0, 4), (0, 6), (5, 3)],
            forgotten: vec![21],
            ..VersionEdit::default()
        },
    ];
    for edit in edits {
        state.apply(&edit).unwrap();
        manifest
            .install(&Change { edit, state: state.clone(), rotate_number: 0 }, u64::MAX)
            .unwrap();
    }
    for number in [4, 6] {
        std::fs::remove_file(dir.join(format!("{number:016x}.sst"))).unwrap();
    }
    for table in state.tables.values() {
        let path = dir.join(format!("{:016x}.sst", table.number));
        std::fs::write(path, vec![0; table.bytes as usize]).unwrap();
    }
}

#[test]
fn levels_and_range_deletes_are_shown() {
    golden("levels.txt", &dump(&["."], compact), 0);
    golden("levels.json", &dump(&["--json", "."], compact), 0);
}

#[test]
fn the_vector_of_the_specification_is_what_the_engine_writes() {
    let dir = tempfile::tempdir().unwrap();
    build(dir.path());
    let path = here("../proto-spec/vectors/manifest.json");
    let hex = |bytes: &[u8]| -> Vec<String> {
        let row = |row: &[u8]| row.iter().map(|b| format!("{b:02x}")).collect();
        bytes.chunks(16).map(row).collect()
    };
    let compacted = tempfile::tempdir().unwrap();
    build(compacted.path());
    compact(compacted.path());
    let found = json!({
        "what": "CURRENT and a manifest with three edits: a full one, and two flushes; and another with levels: a full edit, a \
            flush with range deletes, and a compaction",
        "levels_manifest_hex": hex(&std::fs::read(compacted.path().join("0000000000000007.manifest")).unwrap()),
        "manifest_name": MANIFEST,
        "current_text": std::fs::read_to_string(dir.path().join("CURRENT")).unwrap(),
        "manifest_hex": hex(&std::fs::read(dir.path().join(MANIFEST)).unwrap()),
    });
    if std::env::var_os("BEACH_BLESS").is_some() {
        std::fs::write(&path, format!("{found:#}\n")).unwrap();
    }
    let expected: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(found, expected);
}

#[test]
fn a_valid_directory_and_a_valid_file_are_shown() {
    golden("dir.txt", &dump(&["."], |_| {}), 0);
    golden("dir.json", &dump(&["--json", "."], |_| {}), 0);
    golden("file.txt", &dump(&[MANIFEST], |_| {}), 0);
    golden("current.txt", &dump(&["CURRENT"], |_| {}), 0);
}

/// A snapshot of entry 40 replaces everything, and then something is flushed.
fn install(dir: &Path) {
    let mut manifest = Manifest::new(Arc::new(OsDisk::new()), dir.to_path_buf());
    let tables = [table(8, (1, 31), (b"apple", b"zoo")), table(9, (32, 60), (b"b", b"c"))];
    let mut state = state_of(&VersionEdit {
        applied: Some((LogIndex(40), Term(5))),
        last_seq: Some(SequenceNumber(60)),
        oldest_readable: Some(SequenceNumber(55)),
        next_file: Some(11),
        installed: Some((LogIndex(40), Term(5))),
        added: tables.into(),
        ..VersionEdit::default()
    });
    for table in state.tables.values() {
        let path = dir.join(format!("{:016x}.sst", table.number));
        std::fs::write(path, vec![0; table.bytes as usize]).unwrap();
    }
    manifest.rotate(10, &state).unwrap();
    std::fs::remove_file(dir.join(MANIFEST)).unwrap();
    if !dir.join("then-flush").exists() {
        return;
    }
    let edit = VersionEdit {
        applied: Some((LogIndex(41), Term(5))),
        last_seq: Some(SequenceNumber(60)),
        next_file: Some(12),
        ..VersionEdit::default()
    };
    state.apply(&edit).unwrap();
    manifest.install(&Change { edit, state, rotate_number: 0 }, u64::MAX).unwrap();
}

#[test]
fn an_installed_snapshot_is_named_until_a_flush_goes_past_it() {
    golden("installed.txt", &dump(&["."], install), 0);
    golden("installed.json", &dump(&["--json", "."], install), 0);
    let and_flush = |dir: &Path| {
        std::fs::write(dir.join("then-flush"), b"").unwrap();
        install(dir);
    };
    golden("installed_flushed.txt", &dump(&["."], and_flush), 0);
}

#[test]
fn a_data_directory_is_looked_into() {
    let dir = tempfile::tempdir().unwrap();
    let engine = dir.path().join("engine");
    std::fs::create_dir(&engine).unwrap();
    build(&engine);
    let output = run(dir.path(), &["."]);
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("engine/CURRENT names"));
}

#[test]
fn a_damaged_edit_is_named_after_the_valid_ones() {
    // A byte in the payload of the second edit, which the third one's watermark covers.
    let damage = |dir: &Path| edit_file(dir.join(MANIFEST), |bytes| bytes[230] ^= 1);
    golden("damaged.txt", &dump(&["."], damage), 1);
    golden("damaged.json", &dump(&["--json", "."], damage), 1);
}

#[test]
fn a_torn_last_edit_is_cut_and_not_damage() {
    // The last 32 bytes are the watermark that comes after the edit.
    let tear = |dir: &Path| edit_file(dir.join(MANIFEST), |bytes| bytes.truncate(bytes.len() - 52));
    golden("torn.txt", &dump(&["."], tear), 0);
    golden("torn.json", &dump(&["--json", MANIFEST], tear), 0);
}

#[test]
fn damage_to_the_last_edit_is_not_taken_for_a_torn_write() {
    let damage = |dir: &Path| {
        edit_file(dir.join(MANIFEST), |bytes| {
            let at = bytes.len() - 52;
            bytes[at] ^= 1;
        });
    };
    golden("damaged_last.txt", &dump(&[MANIFEST], damage), 1);
}

#[test]
fn missing_and_shortened_tables_and_orphans_are_named() {
    let change = |dir: &Path| {
        std::fs::remove_file(dir.join("0000000000000004.sst")).unwrap();
        edit_file(dir.join("0000000000000006.sst"), |bytes| bytes.truncate(10));
        std::fs::write(dir.join("0000000000000005.sst"), b"unfinished").unwrap();
    };
    golden("tables.txt", &dump(&["."], change), 1);
    golden("tables.json", &dump(&["--json", "."], change), 1);
}

#[test]
fn without_a_readable_current_every_manifest_is_shown() {
    let remove = |dir: &Path| std::fs::remove_file(dir.join("CURRENT")).unwrap();
    golden("no_current.txt", &dump(&["."], remove), 1);
    let damage = |dir: &Path| edit_file(dir.join("CURRENT"), |bytes| bytes[30] ^= 1);
    golden("damaged_current.txt", &dump(&["."], damage), 1);
    let newer = |dir: &Path| edit_file(dir.join("CURRENT"), |bytes| bytes[16] = b'2');
    golden("newer_current.txt", &dump(&["CURRENT"], newer), 1);
}

#[test]
fn files_that_are_not_manifests_are_refused() {
    let header = SegmentHeader {
        kind: LogKind::Wal,
        id: 3,
        first_index: 0,
        continues: LogPos::ZERO,
        born_durable_to: 64,
        recycled_from: 0,
    };
    let foreign = |dir: &Path| std::fs::write(dir.join(MANIFEST), header.encode()).unwrap();
    golden("foreign.txt", &dump(&[MANIFEST], foreign), 1);
    let missing = dump(&["nowhere"], |_| {});
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("nowhere"));
    assert_eq!(dump(&[], |_| {}).status.code(), Some(2));
}

#[test]
fn every_flipped_byte_of_a_manifest_is_damage_or_in_the_last_watermark() {
    let dir = tempfile::tempdir().unwrap();
    build(dir.path());
    let good = std::fs::read(dir.path().join(MANIFEST)).unwrap();
    for at in (0..good.len()).step_by(5) {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        std::fs::write(dir.path().join(MANIFEST), &bad).unwrap();
        let output = run(dir.path(), &[MANIFEST]);
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        if at < good.len() - 32 {
            assert_eq!(output.status.code(), Some(1), "byte {at}: {out}");
            assert!(String::from_utf8_lossy(&output.stderr).contains("offset"), "byte {at}: {out}");
        } else {
            assert!(output.status.success() && out.contains("after 3 edits"), "byte {at}: {out}");
        }
    }
}
