//! Data directories that cannot be used: each is refused with exit code 1 and a message that names the file and what to
//! do; a damaged table that is found only by reading fails the reads it must and no others.

#![allow(
    clippy::disallowed_methods,
    reason = "black-box tests use the file system, clocks, and threads"
)]

mod common;

use beachdb::base::checksum::{crc32c, extend};
use beachdb::proto::{ErrorCode, Request, Response};
use common::{Daemon, copy_dir, files, is_root, refused, skip};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

const ARGS: &[&str] = &["--memtable-size", "1MiB"];
const KEYS: u32 = 6_000;

fn key(n: u32) -> Vec<u8> {
    format!("key{n:06}").into_bytes()
}

/// A directory with everything in it: tables, a manifest, a log with more than the tables hold; closed cleanly.
fn full_directory(under: &Path) -> PathBuf {
    let data = under.join("good");
    let daemon = Daemon::start(&data, ARGS);
    let mut client = daemon.connect();
    for first in (0..KEYS).step_by(100) {
        let pairs: Vec<(Vec<u8>, Vec<u8>)> =
            (first..first + 100).map(|n| (key(n), vec![n as u8; 1_000])).collect();
        let pairs: Vec<(&[u8], &[u8])> = pairs.iter().map(|(k, v)| (&k[..], &v[..])).collect();
        let batch = common::batch_of(&pairs);
        let opcode = beachdb::proto::Opcode::Write;
        loop {
            let reply = client.ask(&Request::Write { opcode, batch: common::batch_ref(&batch) });
            match reply.response {
                Response::Written { .. } => break,
                Response::Error(e) if e.code == ErrorCode::Busy => {
                    thread::sleep(Duration::from_millis(20))
                }
                other => panic!("{other:?}"),
            }
        }
    }
    common::wait_until("building a table", || !of_kind(&data, "sst").is_empty());
    let (status, _) = daemon.terminate();
    assert_eq!(status.code(), Some(0));
    data
}

fn of_kind(data: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = files(data);
    found.retain(|p| p.extension().is_some_and(|e| e == extension));
    found
}

/// The file itself, or the first one of a kind.
fn pick(data: &Path, what: &str) -> PathBuf {
    let named = [data.join(what), data.join("engine").join(what)].into_iter().find(|p| p.is_file());
    named.unwrap_or_else(|| {
        of_kind(data, what).first().unwrap_or_else(|| panic!("no {what}")).clone()
    })
}

fn name(path: &Path) -> String {
    path.file_name().expect("a name").to_string_lossy().into_owned()
}

fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).expect("readable");
    change(&mut bytes);
    fs::write(path, bytes).expect("writable");
}

fn assert_refused(data: &Path, file: &str, words: &[&str]) {
    let (code, stderr) = refused(data, ARGS);
    assert_eq!(code, Some(1), "{file}: {stderr}");
    for word in [file].iter().chain(words) {
        assert!(stderr.contains(word), "{file}: `{word}` is not in: {stderr}");
    }
}

/// A table is opened by the first read of it: the daemon starts, reads that need it fail with its name, and a check of the
/// directory names what is wrong.
fn assert_found_by_reading(data: &Path, file: &str, words: &[&str]) {
    let mut daemon = Daemon::start(data, ARGS);
    let mut client = daemon.connect();
    let replies = (0..KEYS)
        .map(|n| client.ask(&Request::Get { key: &key(n), snapshot: Default::default() }).response);
    let failed: Vec<_> = replies
        .filter_map(|response| match response {
            Response::Value { .. } => None,
            Response::Error(e) => Some(e),
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(!failed.is_empty(), "{file}: every key was found");
    for error in &failed {
        assert_eq!(error.code, ErrorCode::ReadError, "{error}");
        assert!(error.message.contains(file), "{error}");
    }
    daemon.assert_well();
    daemon.terminate();
    let check = Command::new(env!("CARGO_BIN_EXE_beachd"))
        .args(["verify", "--data-dir"])
        .arg(data)
        .output()
        .expect("beachd runs");
    let said = [check.stdout, check.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert_eq!(check.status.code(), Some(1), "{file}: {said}");
    for word in [file].iter().chain(words) {
        assert!(said.contains(word), "{file}: `{word}` is not in: {said}");
    }
}

#[test]
fn one_flipped_byte_in_each_kind_of_file_is_named() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let good = full_directory(dir.path());
    for (what, place) in [
        ("IDENTITY", 0.4),
        ("CURRENT", 0.5),
        ("manifest", 0.0),
        ("rlog", 0.5),
        ("rlog", 0.0),
        ("sst", 1.0),
    ] {
        let data = dir.path().join(format!("flipped-{what}-{place}"));
        copy_dir(&good, &data);
        let file = pick(&data, what);
        edit(&file, |bytes| {
            // The log's zero-filled end is no data: count from the last byte that is.
            let used = bytes.iter().rposition(|b| *b != 0).expect("not all zero");
            // Past the header at the front; inside the footer at the end.
            let at = ((used as f64 * place) as usize).clamp(10, used - 10);
            bytes[at] ^= 0x10;
        });
        match what {
            "sst" => assert_found_by_reading(&data, &name(&file), &["expected", "found"]),
            _ => assert_refused(&data, &name(&file), &["expected", "found"]),
        }
    }
    // The original still opens.
    let daemon = Daemon::start(&good, ARGS);
    assert!(daemon.connect().get(&key(0)).is_some());
}

#[test]
fn a_flipped_byte_in_a_data_block_fails_the_reads_of_that_block_and_no_others() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = full_directory(dir.path());
    let file = pick(&data, "sst");
    edit(&file, |bytes| bytes[2_000] ^= 1);
    let mut daemon = Daemon::start(&data, ARGS);
    let mut client = daemon.connect();
    let (mut fine, mut failed) = (0, Vec::new());
    for n in 0..KEYS {
        match client.ask(&Request::Get { key: &key(n), snapshot: Default::default() }).response {
            Response::Value { value, .. } => {
                assert_eq!(&value[..], &vec![n as u8; 1_000][..], "key {n}");
                fine += 1;
            }
            Response::Error(e) => {
                assert_eq!(e.code, ErrorCode::ReadError, "{e}");
                failed.push(e.message);
            }
            other => panic!("key {n}: {other:?}"),
        }
    }
    assert!(!failed.is_empty() && fine > KEYS - 100, "{fine} fine, {} failed", failed.len());
    assert!(failed[0].contains(&name(&file)), "{}", failed[0]);
    daemon.assert_well();
}

#[test]
fn a_newer_format_is_refused_with_the_version_it_has() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let good = full_directory(dir.path());
    let text = |bytes: &mut Vec<u8>, from: &str, to: &str| {
        let old = String::from_utf8(bytes.clone()).expect("text").replace(from, to);
        let body = &old[..old.rfind("crc32c").expect("a checksum line")];
        *bytes = format!("{body}crc32c {:08x}\n", crc32c(body.as_bytes())).into_bytes();
    };
    let segment = |bytes: &mut Vec<u8>| {
        bytes[15] = 2;
        let crc = extend(crc32c(&bytes[..8]), &bytes[12..64]);
        bytes[8..12].copy_from_slice(&crc.to_be_bytes());
    };
    for what in ["IDENTITY", "CURRENT", "manifest", "rlog", "sst"] {
        let data = dir.path().join(format!("newer-{what}"));
        copy_dir(&good, &data);
        let file = pick(&data, what);
        edit(&file, |bytes| match what {
            "IDENTITY" => text(bytes, "identity 1", "identity 2"),
            "CURRENT" => text(bytes, "current 1", "current 2"),
            "sst" => bytes[8] = 2,
            _ => segment(bytes),
        });
        match what {
            "sst" => assert_found_by_reading(&data, &name(&file), &["version", "2"]),
            _ => assert_refused(&data, &name(&file), &["version", "2"]),
        }
    }
}

#[test]
fn a_missing_file_is_named() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let good = full_directory(dir.path());
    for what in ["IDENTITY", "CURRENT", "manifest", "sst"] {
        let data = dir.path().join(format!("missing-{what}"));
        copy_dir(&good, &data);
        let file = pick(&data, what);
        fs::remove_file(&file).expect("ours");
        assert_refused(&data, &name(&file), &[]);
    }
    let data = dir.path().join("missing-log");
    copy_dir(&good, &data);
    for file in of_kind(&data, "rlog") {
        fs::remove_file(file).expect("ours");
    }
    assert_refused(&data, "raft", &[]);
}

#[test]
fn a_log_that_cannot_go_on_stops_the_daemon_with_exit_1() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let mut daemon = Daemon::start(&data, ARGS);
    let mut client = daemon.connect();
    client.put(b"k", b"v").written();
    // Somebody deletes the log under a running daemon. The open segment goes on; the next one has no place.
    // The daemon prepares its next segment meanwhile, so that the directory may have a new file when it is to go.
    let removed = (0..100).any(|_| {
        let result = fs::remove_dir_all(data.join("raft"));
        let again = result.as_ref().is_err_and(|e| e.kind() == ErrorKind::DirectoryNotEmpty);
        assert!(again || result.is_ok(), "{result:?}");
        !again
    });
    assert!(removed, "the directory fills faster than it is emptied");
    let value = vec![1; 1 << 20];
    for n in 0..200_u32 {
        let batch = common::batch_of(&[(&n.to_be_bytes(), &value)]);
        let opcode = beachdb::proto::Opcode::Put;
        let put = Request::Write { opcode, batch: common::batch_ref(&batch) };
        if client.send(&put).is_err() || !matches!(client.receive(), Ok(Some(_))) {
            break;
        }
    }
    let status = daemon.wait().expect("it stops");
    assert_eq!(status.code(), Some(1), "{}", daemon.log());
    let log = daemon.log();
    assert!(
        log.contains("beachd: fatal: ") && log.contains("raft") && !log.contains("panicked"),
        "{log}"
    );
}

#[test]
fn a_directory_in_use_is_refused_and_its_daemon_goes_on() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let mut daemon = Daemon::start(&data, ARGS);
    assert_refused(&data, "LOCK", &["beachd is running"]);
    daemon.assert_well();
    // The lock ends with the process, however it ends.
    daemon.kill();
    Daemon::start(&data, ARGS).assert_well();
}

#[test]
fn the_directory_of_another_node_or_cluster_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    Daemon::start(&data, &["--cluster-id", "ours"]).kill();
    for args in [&["--cluster-id", "theirs"][..], &["--cluster-id", "ours", "--node-id", "2"]] {
        let (code, stderr) = refused(&data, args);
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.contains("IDENTITY"), "{stderr}");
    }
    Daemon::start(&data, &["--cluster-id", "ours"]).assert_well();
}

#[test]
fn what_is_no_directory_or_not_ours_to_read_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("a-file");
    fs::write(&file, "not a directory").expect("written");
    assert_refused(&file, "a-file", &[]);
    assert_refused(&file.join("below"), "a-file", &[]);

    let data = dir.path().join("closed");
    Daemon::start(&data, ARGS).kill();
    let chmod = |mode: &str| {
        let changed = Command::new("chmod").arg(mode).arg(&data).status();
        assert!(changed.is_ok_and(|s| s.success()));
    };
    if is_root() {
        // Modes do not bind root: become somebody else.
        let beachd = env!("CARGO_BIN_EXE_beachd");
        let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
        let can = Command::new("setpriv").args(nobody).args([beachd, "--version"]).output();
        if !can.is_ok_and(|o| o.status.success()) {
            return skip("unreadable directory", "setpriv cannot run beachd as nobody here");
        }
        assert!(
            Command::new("chmod").arg("755").arg(dir.path()).status().is_ok_and(|s| s.success())
        );
        chmod("700");
        let output = Command::new("setpriv")
            .args(nobody)
            .args([
                beachd,
                "--listen",
                "127.0.0.1:0",
                "--peer-listen",
                "127.0.0.1:0",
                "--http",
                "off",
                "--data-dir",
            ])
            .arg(&data)
            .output()
            .expect("it runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("closed") && stderr.contains("ermission denied"), "{stderr}");
    } else {
        chmod("000");
        let (code, stderr) = refused(&data, ARGS);
        chmod("700");
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.contains("closed") && stderr.contains("ermission denied"), "{stderr}");
    }
}
