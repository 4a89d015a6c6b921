//! Good inputs for each decoder, from the vectors of `proto-spec` and from the encoders: what is mutated.

use beachdb::base::batch::WriteBatch;
use beachdb::base::internal_key::{ValueKind, pack_trailer};
use beachdb::base::{LogIndex, Membership, NodeId, ReplicaId, SequenceNumber, Term};
use beachdb::engine::edit::{RangeDelete, TableMeta, VersionEdit};
use beachdb::engine::manifest;
use beachdb::env::sim::SimDisk;
use beachdb::env::{Disk, OpenMode};
use beachdb::proto::{Opcode, Response};
use beachdb::raft::{Entry, HardState, IoId, LogStore, Persist};
use beachdb::raft_log::RaftLog;
use beachdb::sstable::{BuildOptions, FilterPolicy, NoFilter, TableBuilder};
use beachdb::wal::segment::SegmentWriter;
use beachdb::wal::{self, LogKind, RecordKind};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The seeds of the target with this name.
pub fn of(target: &str) -> Vec<Vec<u8>> {
    match target {
        "batch" => hex_fields("batches.json", "batches"),
        "frame" => hex_fields("frames.json", "frames"),
        "peer" => hex_fields("peer-frames.json", "frames"),
        "body" => bodies(),
        "inline" => lines(),
        "wal" => segments(),
        "raft_log" => raft_logs(),
        "edit" => edits().iter().map(VersionEdit::encode).collect(),
        "manifest" => manifests(),
        "snapshot" => hex_fields("snapshots.json", "snapshots"),
        "checkpoint" => checkpoints(),
        "rows" => internal_rows(),
        "sstable" => tables(),
        "sstable_parts" => table_parts(),
        other => panic!("no seeds for {other}"),
    }
}

fn vectors(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto-spec/vectors").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap()
}

fn unhex(text: &str) -> Vec<u8> {
    beachdb::proto::text::from_hex(text).unwrap()
}

fn hex_fields(file: &str, list: &str) -> Vec<Vec<u8>> {
    let vectors = vectors(file);
    vectors[list].as_array().unwrap().iter().map(|v| unhex(v["hex"].as_str().unwrap())).collect()
}

/// Opcode, status, body, as the driver takes them.
fn bodies() -> Vec<Vec<u8>> {
    let mut out: Vec<Vec<u8>> = hex_fields("frames.json", "frames")
        .into_iter()
        .filter(|frame| frame.len() >= 24)
        .map(|frame| [&frame[5..6], &frame[16..20], &frame[24..]].concat())
        .collect();
    let mut written = Vec::new();
    let response = Response::Written {
        index: LogIndex(1),
        first_seq: SequenceNumber(2),
        last_seq: SequenceNumber(3),
    };
    response.encode(&mut written, Opcode::Write.byte(), 1);
    out.push([&written[5..6], &written[16..20], &written[24..]].concat());
    out
}

/// A session, its outcome, and the members, as the driver takes them.
fn internal_rows() -> Vec<Vec<u8>> {
    let replica = |node| beachdb::base::ReplicaId { node: NodeId(node), incarnation: 7 };
    let members = beachdb::base::Membership::of_voters([replica(1), replica(2)]).to_entry();
    let encoded = &members[beachdb::base::batch::BATCH_HEADER_BYTES + 2..];
    let word = |n: u64| n.to_be_bytes();
    let rows = [
        ([&b"m"[..]].concat(), [&word(9), encoded].concat()),
        ([&b"s"[..], &word(3)].concat(), vec![1]),
        (
            [&b"s"[..], &word(3), &word(5)].concat(),
            [&[1, 1, 0, 3, 0, 0, 0, 0], &word(8)[..], &word(20), &word(22)].concat(),
        ),
    ];
    let prefix = beachdb::base::batch::RESERVED_KEY_PREFIX;
    let one = |(name, value): &(Vec<u8>, Vec<u8>)| {
        let lens = [(prefix.len() + name.len()) as u8, value.len() as u8];
        [&lens[..1], prefix, name, &lens[1..], value].concat()
    };
    vec![rows.iter().flat_map(one).collect(), one(&rows[1]), one(&rows[0])]
}

fn lines() -> Vec<Vec<u8>> {
    let lines: [&[u8]; 12] = [
        b"PING\r\n",
        b"GET key\n",
        b"PUT \"a key\" \"\\x00\\xff\\n\\t\\\\\\\"\"\n",
        b"put k v",
        b"DEL key",
        b"SCAN a z LIMIT 10",
        b"scan \"\" \"\" limit 1",
        b"STATUS",
        b"STATS",
        b"HELP",
        b"QUIT",
        b"GET \\x00beach\\x00x",
    ];
    lines.into_iter().map(<[u8]>::to_vec).collect()
}

fn batch() -> WriteBatch {
    let mut batch = WriteBatch::new();
    batch.put(b"key", b"value").unwrap();
    batch.delete(b"gone").unwrap();
    batch
}

fn segments() -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for kind in [LogKind::Wal, LogKind::RaftLog] {
        let disk = SimDisk::new(1);
        let dir = Path::new("/log");
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let mut options = wal::Options::new(kind, dir);
        options.segment_bytes = 4096;
        let (mut writer, _) = wal::open(&shared, options, &mut |_| Ok(())).unwrap();
        for index in 1..6 {
            writer.append(RecordKind::Data, index, index / 2, batch().as_bytes());
            if index == 3 {
                writer.append(RecordKind::State, 0, 1, b"state");
                writer.append(RecordKind::Truncate, 3, 0, b"");
            }
            writer.sync_blocking().unwrap();
        }
        for (_, path, _) in writer.segment_files() {
            out.push(disk.read_file(path).unwrap());
        }
    }
    let disk = SimDisk::new(1);
    let path = Path::new("/7.manifest");
    let first: &[u8] = b"edit";
    let records = [(RecordKind::Data, 1, 0, first)];
    let mut writer = SegmentWriter::create(&disk, path, LogKind::Manifest, 7, &records).unwrap();
    writer.append(RecordKind::Data, 2, 0, b"another edit");
    writer.commit().unwrap();
    out.push(disk.read_file(path).unwrap());
    out.into_iter().map(without_zeros).collect()
}

fn raft_logs() -> Vec<Vec<u8>> {
    let (env, sim) = beachdb::env::sim::env(1);
    let dir = Path::new("/raft");
    let (mut log, _) = RaftLog::open(&env, dir, 4096).unwrap();
    let entry = |index: u64, term: u64| Entry {
        index: LogIndex(index),
        term: Term(term),
        payload: batch().into_bytes().into(),
    };
    let voter = |node| ReplicaId { node: NodeId(node), incarnation: 7 };
    log.bootstrap(Membership::of_voters([voter(1)]));
    let change = Membership::of_voters([voter(1), voter(2)]).to_entry();
    let persists = [
        (1, None, vec![entry(1, 1), Entry { payload: change, ..entry(2, 1) }]),
        (2, Some(LogIndex(2)), vec![entry(2, 2), entry(3, 2)]),
        (2, None, vec![entry(4, 2)]),
    ];
    for (io, (term, truncate_from, entries)) in persists.into_iter().enumerate() {
        let hard_state = Some(HardState { term: Term(term), vote: Some(voter(1)) });
        log.submit(Persist { io: IoId(io as u64 + 1), hard_state, truncate_from, entries });
        log.kick();
        let mut done = Vec::new();
        while env.jobs.wait(Duration::ZERO) {
            env.jobs.poll(&mut done);
            for completion in done.drain(..) {
                log.job_done(completion).unwrap();
            }
        }
    }
    let segment = sim.disk.read_file(dir.join(LogKind::RaftLog.file_name(1))).unwrap();
    vec![without_zeros(segment)]
}

/// Trailing zeros of a preallocated segment only dilute the mutations.
fn without_zeros(mut segment: Vec<u8>) -> Vec<u8> {
    let used = segment.len() - segment.iter().rev().take_while(|b| **b == 0).count();
    segment.truncate((used + 64).min(segment.len()));
    segment
}

fn edits() -> Vec<VersionEdit> {
    let table = |number: u64| TableMeta {
        level: 0,
        number,
        bytes: 705,
        entries: 5,
        deletes: 1,
        smallest_seq: 3,
        largest_seq: 7,
        smallest_key: b"apple".to_vec(),
        largest_key: b"banana".to_vec(),
        cleared_to: 0,
    };
    let full = VersionEdit {
        full: true,
        applied: Some((LogIndex(0), Term(0))),
        last_seq: Some(SequenceNumber(0)),
        oldest_readable: Some(SequenceNumber(0)),
        next_file: Some(1),
        installed: Some((LogIndex(0), Term(0))),
        ..VersionEdit::default()
    };
    let flush = VersionEdit {
        applied: Some((LogIndex(9), Term(2))),
        last_seq: Some(SequenceNumber(7)),
        next_file: Some(4),
        added: vec![table(2), table(3)],
        ..VersionEdit::default()
    };
    let replace = VersionEdit {
        oldest_readable: Some(SequenceNumber(5)),
        next_file: Some(5),
        added: vec![table(4)],
        removed: vec![(0, 2), (0, 3)],
        ..VersionEdit::default()
    };
    let delete = |seq, end: &[u8]| RangeDelete { seq, start: b"b".to_vec(), end: end.to_vec() };
    let range_deletes = VersionEdit {
        range_deletes: vec![delete(6, b"c"), delete(7, b"")],
        ..VersionEdit::default()
    };
    let compact = VersionEdit {
        next_file: Some(7),
        added: vec![
            TableMeta { level: 6, cleared_to: 6, ..table(5) },
            TableMeta { level: 1, ..table(6) },
        ],
        removed: vec![(0, 4)],
        forgotten: vec![6],
        ..VersionEdit::default()
    };
    vec![full, flush, replace, range_deletes, compact]
}

/// The worked examples of proto-spec/checkpoint.md.
fn checkpoints() -> Vec<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto-spec/checkpoint.md");
    let page = std::fs::read_to_string(path).unwrap();
    let blocks = page.split("```").skip(1).step_by(2);
    let texts =
        blocks.filter_map(|block| block.find("beachdb-checkpoint 1\n").map(|at| &block[at..]));
    texts.map(|text| text.as_bytes().to_vec()).collect()
}

fn manifests() -> Vec<Vec<u8>> {
    let disk = SimDisk::new(1);
    let path = Path::new("/7.manifest");
    let mut edits = edits().into_iter();
    let first = edits.next().unwrap().encode();
    let records = [(RecordKind::Data, 1, 0, &first[..])];
    let mut writer = SegmentWriter::create(&disk, path, LogKind::Manifest, 7, &records).unwrap();
    for (i, edit) in edits.enumerate() {
        writer.append(RecordKind::Data, i as u64 + 2, 0, &edit.encode());
        writer.commit().unwrap();
    }
    vec![disk.read_file(path).unwrap(), manifest::encode_current(7)]
}

fn table(entries: u64, block_bytes: usize, filter: Arc<dyn FilterPolicy>) -> Vec<u8> {
    let disk = SimDisk::new(1);
    let file = disk.open(Path::new("/1.sst"), OpenMode::CreateNew).unwrap();
    let options =
        BuildOptions { block_bytes, restart_interval: 3, filter, ..BuildOptions::default() };
    let mut builder = TableBuilder::new(file, options);
    for i in 0..entries {
        let key = format!("key{:03}", i / 3);
        let kind = if i % 5 == 4 { ValueKind::Delete } else { ValueKind::Put };
        let value = if kind == ValueKind::Put { &key.as_bytes()[..(i % 7) as usize] } else { b"" };
        let trailer = pack_trailer(SequenceNumber(1000 - i), kind);
        builder.add(key.as_bytes(), trailer, value).unwrap();
    }
    builder.finish().unwrap();
    disk.read_file(Path::new("/1.sst")).unwrap()
}

fn tables() -> Vec<Vec<u8>> {
    let rows = &vectors("sstable_table.json")["file_hex"];
    let golden = rows.as_array().unwrap().iter().flat_map(|row| unhex(row.as_str().unwrap()));
    let bloom = BuildOptions::default().filter;
    vec![
        golden.collect(),
        table(1, 64, Arc::new(NoFilter)),
        table(20, 64, Arc::clone(&bloom)),
        table(60, 200, bloom),
        lz4_table(),
    ]
}

fn lz4_table() -> Vec<u8> {
    let rows = &vectors("sstable_table_lz4.json")["file_hex"];
    rows.as_array().unwrap().iter().flat_map(|row| unhex(row.as_str().unwrap())).collect()
}

fn table_parts() -> Vec<Vec<u8>> {
    let filters = vectors("sstable_filter.json");
    let payloads = filters["filters"].as_array().unwrap().iter();
    let mut out: Vec<_> = payloads.map(|f| unhex(f["payload_hex"].as_str().unwrap())).collect();
    // The properties of the worked example (proto-spec/sstable.md).
    out.push(tables()[0][0x12e..0x281].to_vec());
    // The payload of the first data block of the compressed one, which is 12 bytes behind its header at 16.
    let table = lz4_table();
    let len = u32::from_be_bytes(table[24..28].try_into().unwrap()) as usize;
    out.push(table[28..28 + len].to_vec());
    out
}
