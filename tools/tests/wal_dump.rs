//! The real `wal_dump` on small logs: whole, torn, damaged, and foreign.
//!
//! `BEACH_BLESS=1 cargo test -p beach-tools --test wal_dump` rewrites the golden outputs.
#![expect(clippy::disallowed_methods, reason = "tests read and write files directly")]

use beachdb::base::batch::WriteBatch;
use beachdb::base::{
    ClusterUid, LogIndex, Member, MemberRole, Membership, NodeId, ReplicaId, Term,
};
use beachdb::env::Disk;
use beachdb::env::os::OsDisk;
use beachdb::raft::HardState;
use beachdb::raft_log::{
    SLOT_BASELINE, SLOT_CLUSTER, SLOT_HARD_STATE, SLOT_MEMBERSHIP, STATE_FORMAT, encode_baseline,
    encode_cluster, encode_hard_state, encode_membership,
};
use beachdb::wal::segment::SegmentWriter;
use beachdb::wal::{LogKind, Options, RecordKind, Writer, open};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use tempfile::TempDir;

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), std::fs::read(&path).unwrap()))
        .collect();
    files.sort();
    files
}

/// Runs the tool in the directory that holds `log/`, and checks that it changes nothing.
fn dump(dir: &TempDir, args: &[&str]) -> Output {
    let before = files(&dir.path().join("log"));
    let output = Command::new(env!("CARGO_BIN_EXE_wal_dump"))
        .args(args)
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert_eq!(files(&dir.path().join("log")), before, "evidence is not changed");
    output
}

fn transcript(output: &Output) -> String {
    format!(
        "{}--- stderr\n{}--- exit {}\n",
        std::str::from_utf8(&output.stdout).unwrap(),
        std::str::from_utf8(&output.stderr).unwrap(),
        output.status.code().unwrap()
    )
}

fn golden(name: &str, output: &Output) {
    let found = transcript(output);
    let path = here("tests/golden/wal_dump").join(name);
    if std::env::var_os("BEACH_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &found).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert_eq!(found, expected, "{}", path.display());
}

fn open_log(dir: &TempDir, kind: LogKind) -> Writer {
    let disk: Arc<dyn Disk> = Arc::new(OsDisk::new());
    let options = Options {
        segment_bytes: 640,
        preallocate: true,
        ..Options::new(kind, dir.path().join("log"))
    };
    open(&disk, options, &mut |_| Ok(())).unwrap().0
}

fn batch(n: u64) -> WriteBatch {
    let mut batch = WriteBatch::new();
    batch.put(format!("key{n}").as_bytes(), format!("value {n}").as_bytes()).unwrap();
    if n == 3 {
        batch.set_client(7, 1, 1);
        batch.delete(b"\xffbinary\n").unwrap();
    }
    batch
}

fn put(writer: &mut Writer, index: u64, term: u64) {
    writer.append(RecordKind::Data, index, term, batch(index).as_bytes());
}

/// A WAL of two groups, not closed: the second is above the watermark.
fn small_wal() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = open_log(&dir, LogKind::Wal);
    put(&mut writer, 1, 0);
    put(&mut writer, 2, 0);
    writer.sync_blocking().unwrap();
    put(&mut writer, 3, 0);
    writer.sync_blocking().unwrap();
    dir
}

/// A Raft log with a vote, a truncation, a baseline, memberships, and a second segment; closed.
fn raft_log() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = open_log(&dir, LogKind::RaftLog);
    let vote =
        HardState { term: Term(2), vote: Some(ReplicaId { node: NodeId(1), incarnation: 7 }) };
    writer.append(RecordKind::State, SLOT_HARD_STATE, STATE_FORMAT, &encode_hard_state(vote));
    writer.append(RecordKind::Data, 1, 2, WriteBatch::no_op().as_bytes());
    writer.sync_blocking().unwrap();
    put(&mut writer, 2, 2);
    put(&mut writer, 3, 2);
    writer.sync_blocking().unwrap();
    writer.append(RecordKind::Truncate, 3, 0, &[]);
    let baseline = encode_baseline((LogIndex(1), Term(2)));
    writer.append(RecordKind::State, SLOT_BASELINE, STATE_FORMAT, &baseline);
    put(&mut writer, 3, 3);
    writer.sync_blocking().unwrap();
    let voter = ReplicaId { node: NodeId(1), incarnation: 7 };
    let slot = encode_membership(LogIndex(0), &Membership::of_voters([voter]));
    writer.append(RecordKind::State, SLOT_MEMBERSHIP, STATE_FORMAT, &slot);
    let cluster = encode_cluster(ClusterUid(0x51c0_ffee_5eed_beac));
    writer.append(RecordKind::State, SLOT_CLUSTER, STATE_FORMAT, &cluster);
    let mut members = Membership::of_voters([voter]);
    members.insert(Member {
        replica: ReplicaId { node: NodeId(2), incarnation: 0xab },
        role: MemberRole::Learner,
        peer_address: "b:1".into(),
        client_address: String::new(),
    });
    writer.append(RecordKind::Data, 4, 3, &members.to_entry());
    writer.append(RecordKind::Data, 5, 3, WriteBatch::register().as_bytes());
    writer.append(RecordKind::Data, 6, 3, b"no batch");
    writer.close_blocking().unwrap();
    assert_eq!(writer.segments(), 2);
    dir
}

const WAL: &str = "log/0000000000000001.wal";

fn flip(dir: &TempDir, file: &str, at: usize) {
    let path = dir.path().join(file);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[at] ^= 1;
    std::fs::write(&path, bytes).unwrap();
}

#[test]
fn a_valid_log_is_shown_by_file_and_by_directory() {
    let wal = small_wal();
    golden("wal.txt", &dump(&wal, &[WAL]));
    golden("wal_decode.txt", &dump(&wal, &["--decode", WAL]));
    golden("wal_decode.json", &dump(&wal, &["--decode", "--json", "log"]));
    let raft = raft_log();
    golden("raft_decode.txt", &dump(&raft, &["--decode", "log"]));
    let output = dump(&raft, &["--decode", "--json", "log"]);
    golden("raft_decode.json", &output);
    for line in std::str::from_utf8(&output.stdout).unwrap().lines() {
        serde_json::from_str::<Value>(line).unwrap();
    }
}

#[test]
fn a_torn_tail_is_a_note_and_damage_is_a_fault_with_the_rest_shown() {
    // The payload of the last group: nothing says that it was durable.
    let torn = small_wal();
    flip(&torn, WAL, 330);
    golden("torn.txt", &dump(&torn, &[WAL]));
    golden("torn.json", &dump(&torn, &["--json", WAL]));
    assert_eq!(dump(&torn, &[WAL]).status.code(), Some(0));
    // The first group: the second one says that it was durable.
    let damaged = small_wal();
    flip(&damaged, WAL, 150);
    golden("damaged.txt", &dump(&damaged, &["--decode", WAL]));
    golden("damaged.json", &dump(&damaged, &["--json", WAL]));
    assert_eq!(dump(&damaged, &[WAL]).status.code(), Some(1));
}

#[test]
fn damage_in_an_older_segment_is_found_by_its_directory() {
    let dir = raft_log();
    flip(&dir, "log/0000000000000001.rlog", 278);
    let output = dump(&dir, &["log"]);
    assert_eq!(output.status.code(), Some(1));
    golden("raft_damaged.txt", &output);
    let header = raft_log();
    flip(&header, "log/0000000000000001.rlog", 20);
    golden("raft_bad_header.txt", &dump(&header, &["log"]));
}

#[test]
fn a_flipped_byte_anywhere_ends_in_an_answer_with_file_and_offset() {
    let dir = small_wal();
    let good = std::fs::read(dir.path().join(WAL)).unwrap();
    for at in (0..380).step_by(5) {
        std::fs::write(dir.path().join(WAL), &good).unwrap();
        flip(&dir, WAL, at);
        let output = dump(&dir, &[WAL]);
        let text = transcript(&output);
        assert!(text.contains(WAL) && text.contains("offset"), "byte {at}: {text}");
        assert!(matches!(output.status.code(), Some(0 | 1)), "byte {at}: {text}");
    }
}

#[test]
fn other_files_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("log")).unwrap();
    let manifest = dir.path().join("log/0000000000000005.manifest");
    SegmentWriter::create(&OsDisk::new(), &manifest, LogKind::Manifest, 5, &[]).unwrap();
    golden("manifest.txt", &dump(&dir, &["log/0000000000000005.manifest"]));
    std::fs::write(
        dir.path().join("log/0000000000000001.sst"),
        b"BEACHSST and so on, 64 bytes or more of it, as long as a header is",
    )
    .unwrap();
    golden("not_a_log.txt", &dump(&dir, &["log/0000000000000001.sst"]));
    golden("no_log_here.txt", &dump(&dir, &["log"]));
    assert_eq!(dump(&dir, &["log/nothing.wal"]).status.code(), Some(1));
    assert_eq!(dump(&dir, &[]).status.code(), Some(2));
}
