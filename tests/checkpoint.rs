//! Checkpoints of a cluster under load, a new cluster made of one and grown, and checks of files, with the real binaries.

#![allow(
    clippy::disallowed_methods,
    reason = "black-box tests use the file system, clocks, and threads"
)]

mod common;

use beachdb::base::NodeId;
use beachdb::client::{AdminRequest, Client, ClientOptions, ScanOptions};
use common::cluster::Cluster;
use common::{PATIENCE, wait_until};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

fn client(at: SocketAddr) -> Client {
    let mut options = ClientOptions::new(&[at.to_string()]);
    options.timeout = Duration::from_secs(30);
    Client::with_options(options).expect("it is there")
}

fn beachd(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_beachd")).args(args).output().expect("it runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// All keys and values that a node has.
fn contents(at: SocketAddr) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut client = client(at);
    let mut all = BTreeMap::new();
    for entry in client.scan(ScanOptions::default()) {
        let entry = entry.expect("a scan");
        all.insert(entry.key.to_vec(), entry.value.to_vec());
    }
    all
}

/// ADMIN until it is done: what must come first (a commit in the term, catching up) takes a moment.
fn admin(at: SocketAddr, request: AdminRequest<'_>) {
    let begin = Instant::now();
    while let Err(e) = client(at).admin(&request) {
        assert!(e.safe_to_retry() && begin.elapsed() < PATIENCE, "{e}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_checkpoint_taken_under_load_becomes_a_cluster_that_grows_and_knows_the_old_one_no_more() {
    let mut old = Cluster::prepared(3);
    old.args.extend(["--memtable-size", "1MiB"].map(str::to_owned));
    old.form();
    let leader = old.leader();
    let at = old.node(leader).listen;
    let value = |n: u64| format!("{n:08}").repeat(50).into_bytes();
    let stop = AtomicBool::new(false);
    let temp = tempfile::tempdir().expect("a temporary directory");
    let copy = temp.path().join("copy");
    let copy_text = copy.to_str().expect("UTF-8");
    let (before, written) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut client = client(at);
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                client.put(format!("key{n:08}").as_bytes(), &value(n)).expect("a put");
                n += 1;
            }
            n
        });
        let mut other = client(at);
        let newest = |client: &mut Client| {
            let mut n = 0_u64;
            while client.get(format!("key{n:08}").as_bytes()).expect("a get").is_some() {
                n += 50;
            }
            n.saturating_sub(50)
        };
        let mut before = 0;
        while before < 500 {
            before = newest(&mut other);
        }
        admin(at, AdminRequest::Checkpoint { dir: copy_text });
        stop.store(true, Ordering::Relaxed);
        (before, writer.join().expect("the writer"))
    });
    let checked = beachd(&["verify", "--data-dir", copy_text]);
    assert!(checked.status.success(), "{}", text(&checked.stderr));
    assert!(text(&checked.stdout).contains("a checkpoint"), "{}", text(&checked.stdout));

    // A new cluster, of one, in the place of a node of a cluster to come.
    let mut new = Cluster::prepared(3);
    let data = new.node(1).data.to_str().expect("UTF-8").to_owned();
    let (advertise, peer) = (new.node(1).listen.to_string(), new.node(1).peer.to_string());
    let made = beachd(&[
        "restore",
        "--from",
        copy_text,
        "--cluster-id",
        "lake",
        "--data-dir",
        &data,
        "--advertise",
        &advertise,
        "--advertise-peer",
        &peer,
    ]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    new.spawn_with(1, &["--cluster-id", "lake"]);
    new.wait_ready(&[1]);
    let found = contents(new.node(1).listen);
    // A prefix of what was written one after the other, with everything from before the checkpoint was asked for.
    let count = found.len() as u64;
    assert!(before < count && count <= written, "{before} {count} {written}");
    for n in 0..count {
        assert_eq!(found.get(format!("key{n:08}").as_bytes()), Some(&value(n)), "key {n}");
    }
    // Two join, catch up, and hold the same.
    for n in [2, 3] {
        new.spawn_with(n, &["--cluster-id", "lake", "--join"]);
        let peer_address = new.node(n).peer.to_string();
        let first = new.node(1).listen;
        wait_until("it listens", || new.node(n).status().is_some());
        admin(first, AdminRequest::Add { node: NodeId(n), peer_address: &peer_address });
        new.wait_ready(&[n]);
        admin(first, AdminRequest::Promote(NodeId(n)));
    }
    client(new.node(1).listen).put(b"anew", b"1").expect("a put");
    new.kill(1);
    let begin = Instant::now();
    let survivors = loop {
        // The other two are a majority, and go on.
        match client(new.node(2).listen).put(b"anew", b"2") {
            Ok(_) => break contents(new.node(3).listen),
            Err(e) => assert!(begin.elapsed() < PATIENCE, "{e}"),
        }
    };
    let mut expected = found;
    expected.insert(b"anew".to_vec(), b"2".to_vec());
    assert!(survivors == expected, "{} keys, expected {}", survivors.len(), expected.len());
    // A member of the old cluster is a stranger here.
    let stranger = old.node(leader).peer.to_string();
    let refused = client(new.node(2).listen)
        .admin(&AdminRequest::Add { node: NodeId(9), peer_address: &stranger });
    let refused = refused.expect_err("another cluster's").to_string();
    assert!(refused.to_lowercase().contains("cluster"), "{refused}");
}

#[test]
fn damage_is_told_by_file_and_offset_with_exit_code_1() {
    let cluster = Cluster::start(1);
    let node = cluster.node(1);
    let mut client = client(node.listen);
    for n in 0..200_u32 {
        client.put(format!("key{n:04}").as_bytes(), &[n as u8; 400]).expect("a put");
    }
    client.admin(&AdminRequest::Checkpoint { dir: "copies/one" }).expect("a checkpoint");
    let error = client.admin(&AdminRequest::Checkpoint { dir: "copies/one" }).unwrap_err();
    assert!(error.to_string().contains("exists already"), "{error}");
    let data = node.data.to_str().expect("UTF-8").to_owned();
    let online = beachd(&["verify", "--data-dir", &data]);
    assert_eq!(online.status.code(), Some(1));
    assert!(text(&online.stderr).contains("beachctl verify"), "{}", text(&online.stderr));
    client.admin(&AdminRequest::Verify { rate: 0 }).expect("a check");
    let begin = Instant::now();
    let status = loop {
        let status: serde_json::Value =
            serde_json::from_str(&client.status().expect("a status")).expect("JSON");
        if status["verify"]["done"] == true {
            break status["verify"].clone();
        }
        assert!(begin.elapsed() < PATIENCE, "{status}");
        std::thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(status["damaged"], 0, "{status}");
    assert!(status["tables"].as_u64() > Some(0) && status["segments"].as_u64() > Some(0));
    // The copy has links to the same bytes: they are damaged for both.
    let engine = node.data.join("copies/one/engine");
    let table = std::fs::read_dir(&engine)
        .expect("it is there")
        .map(|entry| entry.expect("an entry").path())
        .find(|path| path.extension().is_some_and(|e| e == "sst"))
        .expect("a table");
    let mut bytes = std::fs::read(&table).expect("it is ours");
    let middle = bytes.len() / 3;
    bytes[middle] ^= 1;
    std::fs::write(&table, bytes).expect("it is ours");
    let copy = format!("{data}/copies/one");
    let checked = beachd(&["verify", "--data-dir", &copy]);
    let said = text(&checked.stderr);
    assert_eq!(checked.status.code(), Some(1), "{said}");
    assert!(said.contains(".sst") && said.contains("at offset"), "{said}");
    let refused =
        beachd(&["restore", "--from", &copy, "--cluster-id", "lake", "--data-dir", "never"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("at offset"), "{}", text(&refused.stderr));
    assert!(!std::path::Path::new("never").exists());
}
