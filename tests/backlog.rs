//! What a follower that takes nothing costs the others in memory: a small version of this is
//! `a_follower_that_stops_reading_costs_no_memory_and_no_write` in `cluster.rs`.

#![allow(
    clippy::disallowed_methods,
    reason = "black-box tests use the file system, clocks, and threads"
)]

mod common;

use beachdb::base::batch::WriteBatch;
use beachdb::client::{Client, ScanOptions};
use bytes::Bytes;
use common::Daemon;
use common::cluster::Cluster;
use std::fs;
use std::time::Instant;

/// The log grows by 256 values of 1 MiB, the data by a few: so many keys are written again and again.
const VALUE: usize = 1 << 20;
const VALUES: u64 = 256;
const KEYS: u64 = 16;
/// What may be in flight on the connection of the writer.
const WINDOW: usize = 8;
/// By how much more a node may grow while one does not listen: half of what it is not told. What the leader may keep for it is
/// what waits on its link (`PEER_OUTPUT_BYTES`, 24 MiB); it reads the log's past for it in pieces of at most 1 MiB. The rest is
/// that the others' writes go on faster or slower beside it, so that more or fewer memtables and requests are there at once.
const MORE: u64 = 128 << 20;

/// `VmHWM`: the most memory that it ever had.
fn peak(daemon: &Daemon) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

/// What a round writes.
fn batch(round: u64, key: u64) -> WriteBatch {
    let mut batch = WriteBatch::new();
    let value = vec![(round * KEYS + key) as u8; VALUE];
    batch.put(format!("key-{key}").as_bytes(), &value).expect("it fits");
    batch
}

/// Writes all of it through whoever leads, many at a time.
fn write_all(client: &mut Client) {
    let (mut written, mut errors) = (0, 0);
    for round in 0.. {
        let batches: Vec<WriteBatch> = (0..KEYS).map(|key| batch(round, key)).collect();
        for outcome in client.write_many(&batches, WINDOW) {
            // Busy, while memtables are flushed.
            if outcome.is_ok() { written += 1 } else { errors += 1 }
        }
        if written >= VALUES {
            break;
        }
        assert!(errors < 100 * VALUES, "{written} of {VALUES} were written, {errors} refused");
    }
    println!("{written} written, {errors} refused");
}

/// Everything that a node has.
fn dump(cluster: &Cluster, node: u64) -> Vec<(Bytes, Bytes)> {
    let at = cluster.node(node).listen.to_string();
    let mut client = Client::connect(&at).expect("it serves");
    let entries = client.scan(ScanOptions::default());
    entries.map(|entry| entry.map(|e| (e.key, e.value)).expect("it answers")).collect()
}

/// Writes all of it to a new cluster, one follower of which is stopped or not; the most that one of the others grew by.
fn growth(with_one_stopped: bool) -> u64 {
    let mut cluster = Cluster::prepared(3);
    // Small memtables do not hide what else there is.
    cluster.args = ["--memtable-size", "4MiB"].map(str::to_owned).to_vec();
    cluster.form();
    let (leader, deaf) = (cluster.leader(), cluster.follower());
    let daemon = |node: u64| cluster.node(node).daemon.as_ref().expect("it runs");
    let run: Vec<u64> = (1..=3).filter(|node| !with_one_stopped || *node != deaf).collect();
    let mut client = Client::connect(&cluster.node(leader).listen.to_string()).expect("it serves");
    if with_one_stopped {
        daemon(deaf).signal("STOP");
    }
    let before: Vec<u64> = run.iter().map(|node| daemon(*node).rss_bytes()).collect();
    let begin = Instant::now();
    write_all(&mut client);
    let took = begin.elapsed();
    let after = run.iter().map(|node| peak(daemon(*node)));
    let grown: Vec<u64> =
        after.zip(before).map(|(after, before)| after.saturating_sub(before)).collect();
    let mib: Vec<u64> = grown.iter().map(|bytes| bytes >> 20).collect();
    println!("{took:?}; leader {leader}; nodes {run:?} grew by {mib:?} MiB");
    if with_one_stopped {
        daemon(deaf).signal("CONT");
        let begin = Instant::now();
        cluster.settle();
        println!("node {deaf} caught up in {:?}", begin.elapsed());
        let everything = dump(&cluster, leader);
        assert_eq!(everything.len() as u64, KEYS);
        assert!(everything == dump(&cluster, deaf), "nodes {leader} and {deaf} differ");
    }
    grown.into_iter().max().expect("nodes run")
}

#[test]
fn a_backlog_of_256_mib_for_a_stopped_follower_is_not_kept_in_memory() {
    let usual = growth(false);
    let with_one_stopped = growth(true);
    assert!(
        with_one_stopped < usual + MORE,
        "nodes grew by {} MiB, and by {} MiB when nobody was stopped",
        with_one_stopped >> 20,
        usual >> 20
    );
}
