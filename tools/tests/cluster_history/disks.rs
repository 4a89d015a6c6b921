//! Disks that are full, or slow. Full ones are small file systems (as root); a slow one is a node whose syncs `strace` delays.

use crate::black_box::cluster::{Cluster, Place};
use crate::black_box::small_disk::SmallDisk;
use crate::black_box::{PATIENCE, is_root, skip, wait_until};
use crate::faults::{move_leader, piece};
use crate::load::{ELECTION_TIMEOUT, Load, client, client_for, run_on};
use beachdb::client::{Client, ClientError, ErrorCode};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Each node's disk: a few segments of the log, memtables, their tables, and the reserve.
const DISK_MIB: u32 = 320;
/// How long a cluster may stand still because of one disk: the lead is offered five seconds after an election, and a machine
/// stalls. Nothing here may last until somebody does something.
const PAUSE_MAX: Duration = Duration::from_secs(12);

/// Waits until another one of the three leads.
fn wait_for_another(cluster: &Cluster, old: u64) {
    wait_until("another one leads", || {
        let mut others = (1..=3).filter(|node| *node != old);
        others.any(|node| cluster.node(node).field("role") == "leader")
    });
}

/// A cluster whose nodes have small disks, not started; `None` where there can be none.
fn on_small_disks(test: &str) -> Option<(Vec<SmallDisk>, Cluster)> {
    if !is_root() {
        skip(test, "mounting a small file system needs root");
        return None;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let disks: Result<Vec<SmallDisk>, String> =
        (1..=3).map(|n| SmallDisk::new(&dir.path().join(format!("disk{n}")), DISK_MIB)).collect();
    let disks = match disks {
        Ok(disks) => disks,
        Err(why) => {
            skip(test, &why);
            return None;
        }
    };
    let mut cluster = Cluster::at(disks.iter().map(|disk| Place::wrapped(disk.wrap())));
    cluster.dir = dir;
    for (node, disk) in cluster.nodes.iter_mut().zip(&disks) {
        node.data = disk.at().join("data");
    }
    cluster.args = ["--memtable-size", "4MiB"].map(str::to_owned).to_vec();
    Some((disks, cluster))
}

fn disk(disks: &[SmallDisk], node: u64) -> &SmallDisk {
    &disks[node as usize - 1]
}

/// Waits until a node says that it takes no writes.
fn is_full(cluster: &Cluster, node: u64, why: &str) {
    wait_until("it says that its disk is full", || {
        cluster.node(node).field("read_only").contains(why)
    });
}

/// Waits until a node says that it would take writes, and has what the others have.
fn is_back(cluster: &Cluster, node: u64) {
    wait_until("it has space again", || cluster.node(node).field("read_only").is_empty());
    let applied = |node: u64| cluster.node(node).field("applied").parse::<u64>().ok();
    let wanted = applied(cluster.leader());
    wait_until("it catches up", || applied(node) >= wanted);
}

#[test]
fn a_follower_whose_disk_is_full_says_so_and_comes_back_by_itself() {
    let Some((disks, mut cluster)) = on_small_disks("a follower's full disk") else { return };
    run_on("a full follower", &mut cluster, |cluster, load| {
        let victim = cluster.follower();
        disk(&disks, victim).fill(0);
        is_full(cluster, victim, "reads and deletes go on");
        // Until not even its log can grow.
        let mut writer = client(&cluster.endpoints());
        let mut pieces = 0;
        wait_until("its log is full", || {
            piece(&mut writer, pieces);
            pieces += 1;
            cluster.node(victim).field("read_only").contains("the log cannot grow")
        });
        load.goes_on();
        let paused = load.longest_pause(2 * ELECTION_TIMEOUT);
        println!("its log was full after {pieces} pieces; the cluster paused {paused:?}");
        disk(&disks, victim).empty();
        is_back(cluster, victim);
        load.goes_on();
    });
}

#[test]
fn a_leader_whose_disk_is_full_lets_one_with_space_lead() {
    let Some((disks, mut cluster)) = on_small_disks("a leader's full disk") else { return };
    run_on("a full leader", &mut cluster, |cluster, load| {
        let old = cluster.leader();
        disk(&disks, old).fill(0);
        let begin = Instant::now();
        wait_for_another(cluster, old);
        let moved = begin.elapsed();
        load.goes_on();
        println!("another one led after {moved:?}, writes went on after {:?}", begin.elapsed());
        assert!(begin.elapsed() < PAUSE_MAX);
        is_full(cluster, old, "reads and deletes go on");
        // It is not asked again, and it would not lead.
        let watched = Instant::now();
        while watched.elapsed() < Duration::from_secs(2) {
            assert_ne!(cluster.node(old).field("role"), "leader");
            thread::sleep(Duration::from_millis(20));
        }
        load.goes_on();
        disk(&disks, old).empty();
        is_back(cluster, old);
        move_leader(cluster, old);
        load.goes_on();
    });
}

/// A put that is tried for this long.
fn put(client: &mut Client) -> Result<(), ClientError> {
    client.put(b"one more", &[7; 1 << 10]).map(drop)
}

#[test]
fn when_all_disks_are_full_writes_are_refused_at_once_and_the_first_with_space_leads() {
    let Some((disks, mut cluster)) = on_small_disks("all disks full") else { return };
    run_on("all full", &mut cluster, |cluster, load| {
        disks.iter().for_each(|disk| disk.fill(24 << 20));
        (1..=3).for_each(|node| is_full(cluster, node, "are a reserve"));
        let leader = cluster.leader();
        let term = cluster.node(leader).field("term");
        let mut writer = client_for(&cluster.endpoints(), Duration::from_secs(1));
        for _ in 0..5 {
            let begin = Instant::now();
            let refused = put(&mut writer).expect_err("there is no space");
            assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
            // Or while the lead is offered to somebody.
            let code = refused.code();
            let expected = [ErrorCode::NoSpace, ErrorCode::Busy, ErrorCode::NotLeader];
            assert!(code.is_some_and(|code| expected.contains(&code)), "{refused}");
        }
        let mut reader = client(&cluster.endpoints());
        assert!(load.read(&mut reader, &crate::load::key(0)), "reads go on");
        println!("term {term}, then {}", cluster.node(cluster.leader()).field("term"));
        let first = cluster.follower();
        disk(&disks, first).empty();
        is_back(cluster, first);
        wait_until("the one with space leads", || cluster.node(first).field("role") == "leader");
        load.goes_on();
        for node in (1..=3).filter(|node| *node != first) {
            disk(&disks, node).empty();
            is_back(cluster, node);
        }
    });
}

/// `strace` that delays the syncs of a process while this lives.
struct SlowSyncs(Child);

impl SlowSyncs {
    /// `Err` says why it cannot.
    fn of(pid: u32, delay: Duration) -> Result<Self, String> {
        let calls = "fsync,fdatasync,sync_file_range";
        let inject = format!("inject={calls}:delay_enter={}", delay.as_micros());
        let mut strace = Command::new("strace")
            .args(["-f", "-q", "-e", &format!("trace={calls}"), "-e", &inject])
            .args(["-o", "/dev/null", "-p", &pid.to_string()])
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|e| format!("strace: {e}"))?;
        // It traces all threads soon, or ends.
        let status = format!("/proc/{pid}/status");
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            if strace.try_wait().expect("our child").is_some() {
                let mut why = String::new();
                let stderr = strace.stderr.take().expect("piped");
                drop(BufReader::new(stderr).read_line(&mut why));
                return Err(format!("strace cannot trace here: {}", why.trim_end()));
            }
            let text = std::fs::read_to_string(&status).unwrap_or_default();
            let tracer = text.lines().find_map(|line| line.strip_prefix("TracerPid:"));
            if tracer.is_some_and(|pid| pid.trim() != "0") {
                return Ok(Self(strace));
            }
            thread::sleep(Duration::from_millis(5));
        }
        drop(Self(strace));
        Err("strace does not attach".into())
    }
}

impl Drop for SlowSyncs {
    fn drop(&mut self) {
        // SIGTERM: it lets go of the threads before it ends.
        let pid = self.0.id().to_string();
        drop(Command::new("kill").args(["-s", "TERM", &pid]).status());
        drop(self.0.wait());
    }
}

/// Its heartbeats come on time, so nobody else would depose it.
#[test]
fn a_slow_disk_costs_the_leader_the_lead_and_not_the_cluster_its_writes() {
    let mut cluster = Cluster::prepared(3);
    let mut ran = Ok(());
    run_on("a slow leader", &mut cluster, |cluster, load| ran = slow_leader(cluster, load));
    if let Err(why) = ran {
        skip("a slow disk", &why);
    }
}

fn slow_leader(cluster: &Cluster, load: &Load) -> Result<(), String> {
    let old = cluster.leader();
    let pid = cluster.node(old).daemon.as_ref().expect("it runs").pid();
    let slow = SlowSyncs::of(pid, 3 * ELECTION_TIMEOUT)?;
    let begin = Instant::now();
    wait_for_another(cluster, old);
    let moved = begin.elapsed();
    load.goes_on();
    let went_on = begin.elapsed();
    // The other two go on without it, and it does not lead again at once.
    let paused = thread::scope(|scope| {
        let watch = scope.spawn(|| load.longest_pause(Duration::from_secs(3)));
        while !watch.is_finished() {
            assert_ne!(cluster.node(old).field("role"), "leader");
            thread::sleep(Duration::from_millis(20));
        }
        watch.join().expect("writes go on")
    });
    println!(
        "syncs of {:?}: another one led after {moved:?}, 20 writes more after {went_on:?}, then a pause of {paused:?}",
        3 * ELECTION_TIMEOUT
    );
    assert!(went_on < PAUSE_MAX && paused < PAUSE_MAX, "{went_on:?}, {paused:?}");
    drop(slow);
    move_leader(cluster, old);
    load.goes_on();
    Ok(())
}
