//! What is done to a cluster under load, by more than one test.

use crate::black_box::cluster::Cluster;
use crate::black_box::{PATIENCE, wait_until};
use crate::common::{Ran, beachctl};
use crate::load::{Load, client};
use beachdb::client::Client;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

/// What one [`piece`] adds to the log.
const PIECE: usize = 1 << 20;

/// Runs beachctl with the endpoints of all.
pub fn ctl(cluster: &Cluster, args: &[&str]) -> Ran {
    let all = cluster.endpoints().join(",");
    beachctl(&[&["--endpoints", &all, "--timeout", "10s"], args].concat(), b"")
}

/// The same, again while it fails: an election or a change that is on its way passes.
pub fn ctl_until_done(cluster: &Cluster, args: &[&str]) -> String {
    let mut last = String::new();
    let begin = Instant::now();
    loop {
        let Ran { code, stdout, stderr } = ctl(cluster, args);
        if code == Some(0) {
            return stdout;
        }
        if stderr != last {
            println!("beachctl {args:?}: {stderr}");
        }
        last = stderr;
        // Perhaps an earlier try did it, whose answer was lost.
        if last.contains("it leads already") {
            return stdout;
        }
        assert!(begin.elapsed() < PATIENCE, "beachctl {args:?} does not succeed: {last}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Makes a node lead, unless it does.
pub fn move_leader(cluster: &Cluster, to: u64) {
    ctl_until_done(cluster, &["transfer-leader", &to.to_string()]);
}

/// Makes the log grow, but not the data.
pub fn piece(writer: &mut Client, number: u64) {
    let value = vec![number as u8; PIECE];
    if let Err(e) = writer.put(format!("piece-{}", number % 4).as_bytes(), &value) {
        println!("a piece: {e}");
    }
}

/// Kills a node and writes until the others have given up the log that it misses.
pub fn fall_behind(cluster: &mut Cluster, victim: u64) {
    let applied: u64 = cluster.node(victim).field("applied").parse().expect("a number");
    cluster.kill(victim);
    let mut writer = client(&cluster.endpoints());
    let mut pieces = 0_u64;
    wait_until("the log to be given up", || {
        piece(&mut writer, pieces);
        pieces += 1;
        let first = |node: &crate::black_box::cluster::Node| {
            node.status().and_then(|status| status["log"]["first_index"].as_u64())
        };
        cluster.running().all(|node| first(node).is_some_and(|first| first > applied + 1))
    });
}

/// How many snapshots a node has installed since it started.
pub fn installed(cluster: &Cluster, node: u64) -> u64 {
    let status = cluster.node(node).status().expect("it runs");
    status["snapshots"]["received"]["installed"].as_u64().expect("a number")
}

/// Takes a node's disk away under it; with a new one it is refused until it is replaced by the documented command.
pub fn wipe_and_replace(cluster: &mut Cluster, load: &Load, victim: u64) {
    let before = cluster.node(victim).field("incarnation");
    cluster.kill(victim);
    fs::remove_dir_all(&cluster.node(victim).data).expect("its directory");
    cluster.spawn(victim);
    let number = victim.to_string();
    wait_until("it says what to do", || {
        let reason = cluster.node(victim).field("not_ready_reason");
        reason.contains(&format!("beachctl member replace {number}"))
    });
    // It is somebody else, who is no member and does not count.
    assert_ne!(cluster.node(victim).field("incarnation"), before);
    assert_eq!(cluster.node(victim).field("members"), "[]");
    load.goes_on();
    // A leader that has not missed it yet says that there is nothing to replace.
    wait_until("the replacement", || {
        ctl_until_done(cluster, &["member", "replace", &number]).starts_with("OK")
    });
    cluster.wait_ready(&[victim]);
}
