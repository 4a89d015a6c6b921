//! The three real dump tools on data that a real database wrote: together they account for every write, and each
//! names the file and the offset of a flipped byte in its kind of file.
#![expect(clippy::disallowed_methods, reason = "tests read and write files directly")]

use beachdb::base::batch::WriteBatch;
use beachdb::base::{LogIndex, NodeId, Term};
use beachdb::engine::db::{Db, DbOptions, WriteOptions};
use beachdb::raft::{Entry, HardState, IoId, LogStore, Persist};
use beachdb::raft_log::RaftLog;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

const SST_DUMP: &str = env!("CARGO_BIN_EXE_sst_dump");
const WAL_DUMP: &str = env!("CARGO_BIN_EXE_wal_dump");
const MANIFEST_DUMP: &str = env!("CARGO_BIN_EXE_manifest_dump");

type Model = BTreeMap<String, String>;

/// A database with two tables, a log behind them, and what it should hold.
struct Data {
    dir: tempfile::TempDir,
    model: Model,
}

impl Data {
    fn path(&self, inside: &str) -> PathBuf {
        self.dir.path().join(inside)
    }

    /// The files of a directory with this extension, in order.
    fn files(&self, inside: &str, extension: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.path(inside)).unwrap();
        let mut files: Vec<_> = entries
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e == extension))
            .collect();
        files.sort();
        files
    }
}

fn database() -> Data {
    let dir = tempfile::tempdir().unwrap();
    let mut model = Model::new();
    let options = DbOptions { segment_bytes: 64 << 10, block_bytes: 512, ..DbOptions::default() };
    let db = Db::open(dir.path(), options).unwrap();
    for round in 0..3 {
        for i in (round..240).step_by(1 + round) {
            let (key, value) = (format!("key{i:03}"), format!("value {i} of round {round}"));
            db.put(key.as_bytes(), value.as_bytes()).unwrap();
            model.insert(key, value);
        }
        let mut batch = WriteBatch::new();
        for i in (round..240).step_by(17) {
            let key = format!("key{i:03}");
            batch.delete(key.as_bytes()).unwrap();
            model.remove(&key);
        }
        batch.put(b"\x00\xff", b"bytes\n").unwrap();
        db.write(batch, WriteOptions::default()).unwrap();
        model.insert("\\x00\\xff".into(), "bytes\\n".into());
        if round < 2 {
            db.flush().unwrap();
        }
    }
    db.close().unwrap();
    Data { dir, model }
}

fn run(tool: &str, args: &[&str], path: &Path) -> Output {
    Command::new(tool).args(args).arg(path).output().unwrap()
}

/// The JSON documents of a run that must succeed.
fn documents(tool: &str, args: &[&str], path: &Path) -> Vec<Value> {
    let output = run(tool, args, path);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{tool} {args:?} {}: {errors}", path.display());
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn of_type<'a>(documents: &'a [Value], name: &'a str) -> impl Iterator<Item = &'a Value> {
    documents.iter().filter(move |doc| doc["type"] == name)
}

#[test]
fn tables_and_log_together_are_the_database() {
    let data = database();
    let manifest = documents(MANIFEST_DUMP, &["--json"], data.dir.path());
    let state = &of_type(&manifest, "manifest").last().unwrap()["state"];
    let tables = state["tables"].as_array().unwrap();
    assert_eq!(tables.len(), 2, "{state}");

    // (sequence number, value) of the newest version of each key in the tables.
    let mut newest: BTreeMap<String, (u64, Option<String>)> = BTreeMap::new();
    for table in tables {
        let name = format!("engine/{:016x}.sst", table["number"].as_u64().unwrap());
        let dump = documents(SST_DUMP, &["--json", "--entries"], &data.path(&name));
        let summary = of_type(&dump, "table").next().unwrap();
        assert_eq!(summary["bytes"], table["bytes"]);
        for field in
            ["entries", "deletes", "smallest_seq", "largest_seq", "smallest_key", "largest_key"]
        {
            assert_eq!(summary["properties"][field], table[field], "{field} of {name}");
        }
        assert_eq!(of_type(&dump, "entry").count() as u64, table["entries"].as_u64().unwrap());
        for entry in of_type(&dump, "entry") {
            let key = entry["key"].as_str().unwrap().to_owned();
            let seq = entry["seq"].as_u64().unwrap();
            let value =
                (entry["kind"] == "put").then(|| entry["value"].as_str().unwrap().to_owned());
            if newest.get(&key).is_none_or(|(newest, _)| *newest < seq) {
                newest.insert(key, (seq, value));
            }
        }
    }
    let mut found: Model =
        newest.into_iter().filter_map(|(key, (_, value))| Some((key, value?))).collect();
    assert_ne!(found, data.model, "the last round is only in the log");

    // The log begins at or before what the tables hold; in order, it ends at the same state.
    let log = documents(WAL_DUMP, &["--json", "--decode"], &data.path("wal"));
    let applied = state["applied"]["index"].as_u64().unwrap();
    for record in of_type(&log, "record").filter(|record| record["kind"] == "data") {
        if record["index"].as_u64().unwrap() <= applied {
            continue;
        }
        for op in record["ops"].as_array().unwrap() {
            let key = op["key"].as_str().unwrap().to_owned();
            match op["op"].as_str().unwrap() {
                "put" => found.insert(key, op["value"].as_str().unwrap().to_owned()),
                _ => found.remove(&key),
            };
        }
    }
    assert_eq!(found, data.model);
}

/// Flips bytes of `file` one at a time, every `step`-th below `end`, and expects `tool` to name file and offset.
fn flip(tool: &str, file: &Path, end: usize, step: usize) {
    assert!(end / step > 20, "{} flips in {}", end / step, file.display());
    let good = std::fs::read(file).unwrap();
    let name = file.file_name().unwrap().to_str().unwrap();
    assert!(run(tool, &[], file).status.success(), "{name} is valid as it is");
    for at in (0..end).step_by(step) {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        std::fs::write(file, &bad).unwrap();
        let output = run(tool, &[], file);
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        );
        assert_eq!(output.status.code(), Some(1), "{name}, byte {at}: {out}{err}");
        assert!(err.contains(name) && err.contains("offset"), "{name}, byte {at}: {err}");
        assert!(!err.contains("panicked"), "{name}, byte {at}: {err}");
        assert_eq!(std::fs::read(file).unwrap(), bad, "evidence is not changed");
    }
    std::fs::write(file, &good).unwrap();
}

/// Up to where a segment is known to be durable: behind that, a flipped byte is a torn write.
fn durable_to(file: &Path) -> usize {
    let dump = documents(WAL_DUMP, &["--json"], file);
    let end = of_type(&dump, "end").last().unwrap();
    end["durable_to"]["offset"].as_u64().unwrap() as usize
}

#[test]
fn a_flipped_byte_of_a_table_is_named() {
    let data = database();
    let file = &data.files("engine", "sst")[0];
    let len = std::fs::metadata(file).unwrap().len() as usize;
    flip(SST_DUMP, file, len, 97);
}

#[test]
fn a_flipped_byte_of_a_log_is_named() {
    let data = database();
    let file = data.files("wal", "wal").pop().unwrap();
    flip(WAL_DUMP, &file, durable_to(&file), 131);
}

#[test]
fn a_flipped_byte_of_a_manifest_and_of_current_is_named() {
    let data = database();
    let file = data.files("engine", "manifest").pop().unwrap();
    let dump = documents(MANIFEST_DUMP, &["--json"], &file);
    let last = of_type(&dump, "edit").last().unwrap()["offset"].as_u64().unwrap() as usize;
    // The group header in front of the last edit, and that edit, could be a torn write.
    flip(MANIFEST_DUMP, &file, last - 32, 3);
    let current = data.path("engine/CURRENT");
    let len = std::fs::metadata(&current).unwrap().len() as usize;
    flip(MANIFEST_DUMP, &current, len, 3);
}

#[test]
fn a_flipped_byte_of_a_raft_log_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let env = beachdb::env::os::env();
    let (mut log, _) = RaftLog::open(&env, dir.path(), 64 << 10).unwrap();
    for index in 1..=20 {
        let mut batch = WriteBatch::new();
        batch.put(format!("key{index}").as_bytes(), &[b'v'; 50]).unwrap();
        let payload = batch.into_bytes().into();
        log.submit(Persist {
            io: IoId(index),
            hard_state: Some(HardState {
                term: Term(1),
                vote: Some(beachdb::base::ReplicaId { node: NodeId(1), incarnation: 7 }),
            }),
            truncate_from: None,
            entries: vec![Entry { index: LogIndex(index), term: Term(1), payload }],
        });
        log.kick();
        let mut done = Vec::new();
        while env.jobs.outstanding() > 0 {
            env.jobs.wait(Duration::from_secs(10));
            env.jobs.poll(&mut done);
            for completion in done.drain(..) {
                log.job_done(completion).unwrap();
            }
        }
    }
    drop(log);
    let entries = std::fs::read_dir(dir.path()).unwrap();
    let mut files: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "rlog"))
        .collect();
    files.sort();
    let file = files.pop().unwrap();
    flip(WAL_DUMP, &file, durable_to(&file), 31);
}

#[test]
fn each_tool_refuses_the_files_of_the_others() {
    let data = database();
    let sst = &data.files("engine", "sst")[0];
    let manifest = &data.files("engine", "manifest")[0];
    let wal = &data.files("wal", "wal")[0];
    for (tool, files) in
        [(SST_DUMP, [manifest, wal]), (WAL_DUMP, [manifest, sst]), (MANIFEST_DUMP, [wal, sst])]
    {
        for file in files {
            let output = run(tool, &[], file);
            let err = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{tool} {}", file.display());
            assert!(err.contains(&*file.display().to_string()), "{err}");
        }
    }
}

#[test]
fn no_tool_opens_a_file_for_writing() {
    let data = database();
    let files = [
        (SST_DUMP, data.files("engine", "sst")),
        (WAL_DUMP, data.files("wal", "wal")),
        (MANIFEST_DUMP, data.files("engine", "manifest")),
    ];
    let listing = |data: &Data| -> Vec<PathBuf> {
        ["", "engine", "wal"]
            .iter()
            .flat_map(|dir| {
                std::fs::read_dir(data.path(dir)).unwrap().map(|entry| entry.unwrap().path())
            })
            .collect()
    };
    let before = listing(&data);
    for (tool, files) in files {
        for file in files {
            let mut permissions = std::fs::metadata(&file).unwrap().permissions();
            permissions.set_readonly(true);
            std::fs::set_permissions(&file, permissions).unwrap();
            let was = (std::fs::read(&file).unwrap(), std::fs::metadata(&file).unwrap().modified());
            assert!(run(tool, &[], &file).status.success(), "{tool} {}", file.display());
            let is = (std::fs::read(&file).unwrap(), std::fs::metadata(&file).unwrap().modified());
            assert_eq!((was.0, was.1.unwrap()), (is.0, is.1.unwrap()));
        }
    }
    assert_eq!(listing(&data), before, "nothing was made or removed");
}
