//! Exactly-once writes on the real `beachd`: retries over cut connections, kill -9, eviction, and what reads show.

#![allow(clippy::disallowed_methods, reason = "black-box tests use threads")]

mod common;

use beachdb::base::batch::{RESERVED_KEY_PREFIX, WriteBatch};
use beachdb::client::{Client, ClientOptions};
use beachdb::limits::MAX_SESSIONS;
use beachdb::proto::{Effect, ErrorCode, Opcode, Request, Response, ScanRange};
use common::{Daemon, Wire, batch_ref};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

fn register(wire: &mut Wire) -> u64 {
    match wire.ask(&Request::Register).response {
        Response::Registered(session) => session.client_id,
        other => panic!("{other:?}"),
    }
}

fn session_put(id: u64, sequence: u64, acked_below: u64, key: &str, value: &str) -> WriteBatch {
    let mut batch = WriteBatch::new();
    batch.put(key.as_bytes(), value.as_bytes()).unwrap();
    batch.set_client(id, sequence, acked_below);
    batch
}

fn write(batch: &WriteBatch) -> Request<'_> {
    Request::Write { opcode: Opcode::Write, batch: batch_ref(batch) }
}

#[test]
fn pitfall_36_a_retry_over_a_new_connection_is_applied_once_also_after_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    // The smallest memtable: the sessions are in tables, and in the log behind them.
    let settings = ["--memtable-size", "1MiB"];
    let mut daemon = Daemon::start(&data, &settings);
    let mut wire = daemon.connect();
    let id = register(&mut wire);
    let mut answers = Vec::new();
    for sequence in 1..=20u64 {
        let key = format!("k{sequence}");
        let batch = session_put(id, sequence, 1, &key, &"once ".repeat(20_000));
        // The first connection is cut before the answer can come.
        wire.send(&write(&batch)).unwrap();
        drop(wire.socket.shutdown(Shutdown::Both));
        if sequence % 7 == 0 {
            daemon.kill();
            daemon = Daemon::start(&data, &settings);
        }
        wire = daemon.connect();
        let answer = wire.ask(&write(&batch));
        answer.written();
        wire.put(key.as_bytes(), b"changed by another client").written();
        answers.push((batch, answer.response));
    }
    daemon.kill();
    let daemon = Daemon::start(&data, &settings);
    let mut wire = daemon.connect();
    for (batch, answer) in &answers {
        assert_eq!(wire.ask(&write(batch)).response, *answer, "the first answer, again");
    }
    for sequence in 1..=20 {
        let value = wire.get(format!("k{sequence}").as_bytes());
        assert_eq!(value.as_deref(), Some(&b"changed by another client"[..]), "applied once");
    }
    assert_eq!(wire.dump().len(), 20, "a scan shows no row of a session");
    assert_eq!(wire.scan(ScanRange::Prefix(RESERVED_KEY_PREFIX)), []);
}

#[test]
fn the_session_above_the_limit_makes_the_one_unused_the_longest_go() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&dir.path().join("data"), &[]);
    let mut wire = daemon.connect();
    let (used, unused) = (register(&mut wire), register(&mut wire));
    wire.ask(&write(&session_put(used, 1, 1, "k", "used"))).written();
    for _ in 0..MAX_SESSIONS - 1 {
        wire.send(&Request::Register).unwrap();
    }
    for _ in 0..MAX_SESSIONS - 1 {
        assert!(matches!(wire.reply().response, Response::Registered(_)));
    }
    match wire.ask(&write(&session_put(unused, 1, 1, "k", "unused"))).response {
        Response::Error(e) => {
            assert_eq!((e.code, e.effect), (ErrorCode::UnknownSession, Effect::Unknown));
        }
        other => panic!("{other:?}"),
    }
    wire.ask(&write(&session_put(used, 2, 2, "k", "used again"))).written();
    let stats = match wire.ask(&Request::Stats).response {
        Response::Stats(json) => json,
        other => panic!("{other:?}"),
    };
    let stats: serde_json::Value = serde_json::from_str(&stats).unwrap();
    assert_eq!(stats["sessions"]["open"], MAX_SESSIONS, "{}", stats["sessions"]);
    assert_eq!(wire.get(b"k").as_deref(), Some(&b"used again"[..]));
}

/// Passes bytes on, and cuts every connection after a number of bytes from the server that grows slowly.
fn cutting_proxy(to: SocketAddr) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let cuts = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&cuts);
    std::thread::spawn(move || {
        for (n, client) in listener.incoming().enumerate() {
            let (mut client, mut server) = (client.unwrap(), TcpStream::connect(to).unwrap());
            let (mut up_from, mut up_to) =
                (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || drop(std::io::copy(&mut up_from, &mut up_to)));
            // The HELLO, and then some answers; the last one is cut anywhere.
            let mut left = 120 + 31 * n;
            let mut chunk = [0; 512];
            while left > 0 {
                let most = left.min(chunk.len());
                let got = server.read(&mut chunk[..most]).unwrap_or(0);
                if got == 0 || client.write_all(&chunk[..got]).is_err() {
                    break;
                }
                left -= got;
            }
            counter.fetch_add(1, Ordering::SeqCst);
            drop(client.shutdown(Shutdown::Both));
            drop(server.shutdown(Shutdown::Both));
        }
    });
    (at, cuts)
}

#[test]
fn pitfall_36_the_client_library_writes_once_through_connections_that_are_cut() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&dir.path().join("data"), &[]);
    let (proxy, cuts) = cutting_proxy(daemon.listen);
    let mut options = ClientOptions::new([proxy.to_string()]);
    options.timeout = Duration::from_secs(30);
    let mut client = Client::with_options(options).unwrap();
    let mut session = client.session().unwrap();
    for i in 0..60 {
        session.put(format!("one{i}").as_bytes(), b"v").unwrap();
    }
    let batches: Vec<WriteBatch> = (0..200)
        .map(|i| {
            let mut batch = WriteBatch::new();
            batch.put(format!("many{i}").as_bytes(), b"v").unwrap();
            batch
        })
        .collect();
    let outcomes = session.write_many(&batches, 16);
    let written: Vec<_> = outcomes.into_iter().map(Result::unwrap).collect();
    assert!(cuts.load(Ordering::SeqCst) > 10, "{cuts:?}");
    let mut wire = daemon.connect();
    for (i, written) in written.iter().enumerate() {
        let found = wire.scan(ScanRange::Prefix(format!("many{i}").as_bytes()));
        assert_eq!(found[0].seq, written.last_seq, "many{i} was written again");
    }
    let mut entries: Vec<u64> = written.iter().map(|w| w.index.0).collect();
    entries.sort_unstable();
    entries.dedup();
    assert_eq!(entries.len(), batches.len(), "each was one entry");
}
