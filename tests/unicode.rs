//! Real input: Unicode's `UnicodeData.txt` (34,000 lines in Debian's package `unicode-data`), keyed by code point.
//! Where the file is not installed the tests say so and pass.

#![allow(
    clippy::disallowed_methods,
    reason = "black-box tests use the file system, clocks, and threads"
)]

mod common;

use beachdb::client::Client;
use beachdb::proto::{Opcode, Request, Response, ScanRange};
use common::{Daemon, batch_of, batch_ref, skip};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

const FILE: &str = "/usr/share/unicode/UnicodeData.txt";
const LINES_PER_BATCH: usize = 100;
const PIPELINE: usize = 8;

/// Code point to the rest of its line. `None`, said on stderr, where the file is not there.
fn lines(test: &str) -> Option<Vec<(String, String)>> {
    let text = match fs::read_to_string(FILE) {
        Ok(text) => text,
        Err(e) => {
            skip(test, &format!("{FILE}: {e}; `apt-get install unicode-data` brings it"));
            return None;
        }
    };
    let line = |l: &str| l.split_once(';').map(|(k, v)| (k.to_owned(), v.to_owned()));
    Some(text.lines().map(|l| line(l).expect("CODE;NAME;…")).collect())
}

/// `beachctl load --tsv`, where the workspace has built it; else the same lines through the client library.
fn load(daemon: &Daemon, lines: &[(String, String)], dir: &Path) {
    let endpoint = daemon.listen.to_string();
    let beachctl = Path::new(env!("CARGO_BIN_EXE_beachd")).with_file_name("beachctl");
    if beachctl.is_file() {
        let tsv = dir.join("unicode.tsv");
        let text: String = lines.iter().map(|(k, v)| format!("{k}\t{v}\n")).collect();
        fs::write(&tsv, text).expect("written");
        let output = Command::new(beachctl)
            .args(["--endpoints", &endpoint, "load", "--tsv"])
            .arg(&tsv)
            .output()
            .expect("beachctl runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    eprintln!("beachctl is not built: loading through the client library");
    let mut client = Client::connect(&endpoint).expect("connected");
    for chunk in lines.chunks(LINES_PER_BATCH) {
        let pairs: Vec<(&[u8], &[u8])> =
            chunk.iter().map(|(k, v)| (k.as_bytes(), v.as_bytes())).collect();
        client.write(&batch_of(&pairs)).expect("written");
    }
}

#[test]
fn ranges_and_prefixes_of_unicode_data_are_those_of_the_file() {
    let Some(lines) = lines("ranges_and_prefixes_of_unicode_data") else { return };
    let model: BTreeMap<&str, &str> = lines.iter().map(|(k, v)| (&k[..], &v[..])).collect();
    assert!(model.len() > 30_000);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    // Small memtables: most of it is read back from tables.
    let daemon = Daemon::start(&data, &["--memtable-size", "1MiB"]);
    load(&daemon, &lines, dir.path());
    let compare = |daemon: &Daemon| {
        let mut wire = daemon.connect();
        let mut scan = |range: ScanRange<'_>| -> Vec<(String, String)> {
            let text = |b: &[u8]| String::from_utf8(b.to_vec()).expect("text");
            wire.scan(range).iter().map(|e| (text(&e.key), text(&e.value))).collect()
        };
        let expected = |from: &str, to: Option<&str>| -> Vec<(String, String)> {
            model
                .range(from..)
                .take_while(|(k, _)| to.is_none_or(|to| **k < to))
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect()
        };
        assert_eq!(scan(ScanRange::Prefix(b"")).len(), model.len());
        for (from, to) in
            [("0041", "005B"), ("", "0100"), ("1F600", "1F650"), ("AC00", "D7A4"), ("4", "3")]
        {
            let range = ScanRange::Range { start: from.as_bytes(), end: to.as_bytes() };
            assert_eq!(scan(range), expected(from, Some(to)), "{from}..{to}");
        }
        let range = ScanRange::Range { start: b"F", end: b"" };
        assert_eq!(scan(range), expected("F", None));
        for prefix in ["1F6", "00", "FFFFF", "nothing"] {
            let found = scan(ScanRange::Prefix(prefix.as_bytes()));
            let expected: Vec<_> = expected(prefix, None)
                .into_iter()
                .take_while(|(k, _)| k.starts_with(prefix))
                .collect();
            assert_eq!(found, expected, "{prefix}");
        }
        let mut wire = daemon.connect();
        for (code, line) in model.iter().step_by(501) {
            assert_eq!(wire.get(code.as_bytes()).as_deref(), Some(line.as_bytes()), "{code}");
        }
        assert_eq!(wire.get(b"110000"), None);
    };
    compare(&daemon);
    let (status, _) = daemon.terminate();
    assert_eq!(status.code(), Some(0));
    compare(&Daemon::start(&data, &["--memtable-size", "1MiB"]));
}

#[test]
fn kill_9_in_mid_load_keeps_every_acknowledged_line() {
    let Some(lines) = lines("kill_9_in_mid_load") else { return };
    let batches: Vec<_> = lines.chunks(LINES_PER_BATCH).collect();
    for stop_after in [3, batches.len() / 3, batches.len() - 20] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let data = dir.path().join("data");
        let daemon = Daemon::start(&data, &["--memtable-size", "1MiB"]);
        let mut client = daemon.connect();
        let (mut sent, mut acknowledged) = (BTreeMap::new(), Vec::new());
        let mut next = batches.iter().enumerate();
        while acknowledged.len() < stop_after {
            while sent.len() < PIPELINE {
                let Some((number, chunk)) = next.next() else { break };
                let pairs: Vec<(&[u8], &[u8])> =
                    chunk.iter().map(|(k, v)| (k.as_bytes(), v.as_bytes())).collect();
                let batch = batch_of(&pairs);
                let write = Request::Write { opcode: Opcode::Write, batch: batch_ref(&batch) };
                sent.insert(client.send(&write).expect("it reads"), number);
            }
            let reply = client.reply();
            assert!(matches!(reply.response, Response::Written { .. }), "{reply:?}");
            acknowledged
                .push(sent.remove(&reply.header.request_id).expect("an answer to a request"));
        }
        daemon.kill();
        let daemon = Daemon::start(&data, &[]);
        let once = daemon.connect().dump();
        daemon.kill();
        let daemon = Daemon::start(&data, &[]);
        let twice = daemon.connect().dump();
        assert!(once == twice, "a second recovery gave another state");
        let found: BTreeMap<&[u8], &[u8]> =
            twice.iter().map(|e| (&e.key[..], &e.value[..])).collect();
        for (number, chunk) in batches.iter().enumerate() {
            let there = chunk
                .iter()
                .filter(|(k, v)| found.get(k.as_bytes()) == Some(&v.as_bytes()))
                .count();
            if acknowledged.contains(&number) {
                assert_eq!(there, chunk.len(), "batch {number} was acknowledged");
            } else {
                assert!(
                    there == 0 || there == chunk.len(),
                    "batch {number} is torn: {there} lines"
                );
            }
        }
    }
}
