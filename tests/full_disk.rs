//! A full disk, on a small file system of its own: writes are refused with a reason, reads and deletes go on, a full node can
//! be restarted, and when there is space again it takes writes again by itself. Clusters of full and slow disks are in
//! `tools/tests/cluster_history/disks.rs`.

#![allow(
    clippy::disallowed_methods,
    reason = "black-box tests use the file system, clocks, and threads"
)]

mod common;

use beachdb::proto::{Effect, ErrorCode, Response};
use common::small_disk::SmallDisk;
use common::{Daemon, is_root, skip};
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn a_full_disk_refuses_writes_serves_reads_and_heals_by_itself() {
    const TEST: &str = "a_full_disk";
    if !is_root() {
        return skip(TEST, "mounting a small file system needs root");
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let disk = match SmallDisk::new(&dir.path().join("small"), 320) {
        Ok(disk) => disk,
        Err(why) => return skip(TEST, &why),
    };
    // Most of it is taken by somebody else, for now.
    disk.fill(170 << 20);
    let wrap = disk.wrap();
    let wrap: Vec<&str> = wrap.iter().map(String::as_str).collect();
    let data = disk.at().join("data");
    let args = ["--segment-size", "32MiB", "--memtable-size", "4MiB"];
    let daemon = Daemon::start_under(&wrap, &data, &args);
    let mut client = daemon.connect();
    let value = vec![7_u8; 64 << 10];
    let (mut written, mut last_error, mut caught) = (0_u32, None, false);
    let begin = Instant::now();
    while last_error.is_none() && begin.elapsed() < Duration::from_secs(60) {
        match client.put(format!("key{written:06}").as_bytes(), &value).response {
            Response::Written { .. } => written += 1,
            Response::Error(e) if e.code == ErrorCode::Busy => {
                thread::sleep(Duration::from_millis(10))
            }
            // In the log's hands when the disk filled up between two looks at it: it waits for space.
            Response::Error(e)
                if (e.code, e.effect) == (ErrorCode::DeadlineExceeded, Effect::Unknown)
                    && !caught =>
            {
                caught = true;
            }
            Response::Error(e) => last_error = Some(e),
            other => panic!("{other:?}"),
        }
    }
    let error = last_error.expect("the disk has an end");
    assert_eq!((error.code, error.effect), (ErrorCode::NoSpace, Effect::NotApplied), "{error}");
    assert!(written > 10, "{written}");
    // Reads and deletes go on.
    assert_eq!(client.get(b"key000000").as_deref(), Some(&value[..]));
    client.delete(b"key000000").written();
    assert_eq!(client.get(b"key000000"), None);
    assert_eq!(client.put(b"more", &value).error(), ErrorCode::NoSpace);
    let ready = common::http_get(daemon.http, "/status");
    assert!(ready.contains("\"read_only\":\""), "{ready}");
    // Killed and started again while it is full: everything acknowledged is there.
    daemon.kill();
    let mut daemon = Daemon::start_under(&wrap, &data, &args);
    let mut client = daemon.connect();
    assert_eq!(client.get(b"key000000"), None);
    for n in 1..written {
        assert!(client.get(format!("key{n:06}").as_bytes()).is_some(), "key {n} of {written}");
    }
    // Space comes back, and so do writes, without anybody's help.
    disk.empty();
    let begin = Instant::now();
    loop {
        match client.put(b"more", &value).response {
            Response::Written { .. } => break,
            Response::Error(e) if matches!(e.code, ErrorCode::NoSpace | ErrorCode::Busy) => {}
            other => panic!("{other:?}"),
        }
        assert!(begin.elapsed() < common::PATIENCE, "it did not heal; its log:\n{}", daemon.log());
        thread::sleep(Duration::from_millis(50));
    }
    daemon.assert_well();
    let (status, _) = daemon.terminate();
    assert_eq!(status.code(), Some(0));
}
