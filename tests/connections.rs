//! Many connections: ten thousand that are idle cost little, the one above the limit is told, and running out of file
//! descriptors neither spins nor stops the daemon.

#![allow(clippy::disallowed_methods, reason = "black-box tests use clocks and threads")]

mod common;

use beachdb::proto::{ErrorCode, Request, Response};
use common::{Daemon, Wire, skip};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// Open files this process may have.
fn descriptors() -> u64 {
    let output = Command::new("sh").args(["-c", "ulimit -Hn"]).output().expect("sh");
    String::from_utf8_lossy(&output.stdout).trim().parse().unwrap_or(u64::MAX)
}

fn raise_own_limit() {
    let pid = std::process::id().to_string();
    let raised = Command::new("prlimit").args(["--pid", &pid, "--nofile=65536:65536"]).output();
    let raised = raised.is_ok_and(|o| o.status.success());
    if !raised {
        // Up to the hard limit, then.
        let hard = descriptors().to_string();
        drop(
            Command::new("prlimit")
                .args(["--pid", &pid, &format!("--nofile={hard}:{hard}")])
                .output(),
        );
    }
}

#[test]
fn ten_thousand_idle_connections_cost_little_and_are_all_served() {
    const WANTED: usize = 10_000;
    raise_own_limit();
    if descriptors() < WANTED as u64 + 2_000 {
        return skip(
            "ten_thousand_idle_connections",
            "the hard limit of open files is below 12000",
        );
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut daemon = Daemon::start(&dir.path().join("data"), &["--max-connections", "10002"]);
    let before = daemon.rss_bytes();
    let mut clients = Vec::with_capacity(WANTED);
    for _ in 0..WANTED {
        match Wire::connect(daemon.listen) {
            Ok(client) => clients.push(client),
            Err(e) => {
                return skip("ten_thousand_idle_connections", &format!("cannot connect: {e}"));
            }
        }
    }
    // Everyone says something once, all at the same time.
    for client in &mut clients {
        client.send(&Request::Ping).expect("it reads");
    }
    for client in &mut clients {
        assert_eq!(client.reply().response, Response::Pong);
    }
    thread::sleep(Duration::from_millis(1_500));
    let each = daemon.rss_bytes().saturating_sub(before) / WANTED as u64;
    assert!(each < 2_048, "{each} bytes of memory for each idle connection");
    // Idling costs (almost) no processor either.
    let ticks = daemon.cpu_ticks();
    thread::sleep(Duration::from_secs(1));
    let spent = daemon.cpu_ticks() - ticks;
    assert!(spent < 20, "{spent} ticks of 10 ms in one idle second");
    daemon.assert_well();
    drop(clients);
    daemon.assert_well();
}

#[test]
fn the_connection_above_the_limit_is_told_and_a_freed_place_is_used() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut daemon = Daemon::start(&dir.path().join("data"), &["--max-connections", "3"]);
    let mut clients: Vec<Wire> = (0..3).map(|_| daemon.connect()).collect();
    for client in &mut clients {
        assert_eq!(client.ask(&Request::Ping).response, Response::Pong);
    }
    let mut fourth = daemon.connect();
    let reply = fourth.reply();
    assert_eq!(reply.error(), ErrorCode::TooManyConnections);
    assert!(matches!(reply.response, Response::Error(e) if e.retry_after_ms > 0));
    fourth.assert_closed();
    // A text client can read it as well.
    let said = common::netcat(daemon.listen, b"PING\n");
    assert!(String::from_utf8_lossy(&said).contains("limit of 3 connections"));
    clients.pop();
    let begin = Instant::now();
    while begin.elapsed() < common::PATIENCE {
        let mut again = daemon.connect();
        if again.send(&Request::Ping).is_ok()
            && matches!(again.receive(), Ok(Some(r)) if r.response == Response::Pong)
        {
            drop((again, clients));
            thread::sleep(Duration::from_millis(100));
            return daemon.assert_well();
        }
    }
    panic!("the freed place was not given to anybody");
}

#[test]
fn running_out_of_descriptors_does_not_spin_and_heals() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let limited = ["prlimit", "--nofile=48:48"];
    if !Command::new("prlimit").arg("--version").output().is_ok_and(|o| o.status.success()) {
        return skip("running_out_of_descriptors", "prlimit (util-linux) is not there");
    }
    let mut daemon =
        Daemon::start_under(&limited, &dir.path().join("data"), &["--max-connections", "1000"]);
    assert!(
        daemon.log().contains("room for"),
        "the log says what the limit means: {}",
        daemon.log()
    );
    let mut first = daemon.connect();
    first.put(b"k", b"v").written();
    // More than there are descriptors; the kernel accepts them into the backlog.
    let crowd: Vec<Wire> = (0..100).map(|_| daemon.connect()).collect();
    thread::sleep(Duration::from_millis(300));
    let ticks = daemon.cpu_ticks();
    thread::sleep(Duration::from_secs(1));
    let spent = daemon.cpu_ticks() - ticks;
    assert!(spent < 30, "{spent} ticks of 10 ms in one second without descriptors");
    first.put(b"k", b"goes on").written();
    drop(crowd);
    let begin = Instant::now();
    loop {
        let mut again = daemon.connect();
        if again.send(&Request::Ping).is_ok()
            && matches!(again.receive(), Ok(Some(r)) if r.response == Response::Pong)
        {
            break;
        }
        assert!(begin.elapsed() < common::PATIENCE, "it did not heal; its log:\n{}", daemon.log());
        thread::sleep(Duration::from_millis(50));
    }
    drop(first);
    thread::sleep(Duration::from_millis(200));
    daemon.assert_well();
}
