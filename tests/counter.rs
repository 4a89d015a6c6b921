//! A counter that clients raise by compare-and-set while the daemon is killed with -9 again and again: no increment that was
//! acknowledged is lost, none counts twice, and no two clients are told the same number.

#![allow(
    clippy::disallowed_methods,
    reason = "black-box tests use the file system, clocks, and threads"
)]

mod common;

use beachdb::base::SequenceNumber;
use beachdb::base::batch::WriteBatch;
use beachdb::base::conditions::Expect;
use beachdb::proto::{ErrorCode, Opcode, Request, Response};
use common::{Daemon, Wire, batch_ref};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const KEY: &[u8] = b"counter";
const CLIENTS: u64 = 6;
const ROUNDS: usize = 5;

/// What a client was told until the daemon died.
#[derive(Default)]
struct Told {
    /// Numbers that it was told it has set.
    set: Vec<u64>,
    /// The one that was on its way, of unknown effect.
    open: Option<u64>,
    /// How often another one was faster.
    lost: u64,
}

/// The counter and the sequence number that wrote it; `None` when the connection is gone.
fn read(client: &mut Wire) -> Option<Option<(u64, SequenceNumber)>> {
    client.send(&Request::Get { key: KEY, snapshot: SequenceNumber::ZERO }).ok()?;
    match client.receive().ok()??.response {
        Response::Value { value, seq, .. } => {
            Some(Some((u64::from_be_bytes(*value.first_chunk().expect("a number")), seq)))
        }
        Response::NotFound { .. } => Some(None),
        Response::Error(e) if e.code.retryable() => None,
        other => panic!("{other:?}"),
    }
}

fn increment_until_killed(listen: SocketAddr, who: u64, acks: &AtomicUsize) -> Told {
    let mut told = Told::default();
    let Ok(mut client) = Wire::connect(listen) else { return told };
    // Values are long, so that memtables fill and are flushed and compacted meanwhile.
    let padding = vec![who as u8; 2_000];
    while let Some(found) = read(&mut client) {
        let (number, expect) =
            found.map_or((1, Expect::Absent), |(number, seq)| (number + 1, Expect::Seq(seq)));
        let mut batch = WriteBatch::new();
        batch.put(KEY, &[&number.to_be_bytes(), &padding[..]].concat()).expect("it fits");
        batch.put(format!("log/{number:012}").as_bytes(), &who.to_be_bytes()).expect("it fits");
        batch.require(KEY, expect).expect("it fits");
        let request = Request::Write { opcode: Opcode::Write, batch: batch_ref(&batch) };
        told.open = Some(number);
        if client.send(&request).is_err() {
            return told;
        }
        let Ok(Some(reply)) = client.receive() else { return told };
        match reply.response {
            Response::Written { .. } => {
                told.set.push(number);
                acks.fetch_add(1, Ordering::Relaxed);
            }
            Response::Error(e) if e.code == ErrorCode::ConditionFailed => told.lost += 1,
            Response::Error(e) if e.code.retryable() => return told,
            other => panic!("{other:?}"),
        }
        told.open = None;
    }
    told
}

#[test]
fn a_counter_by_compare_and_set_loses_and_doubles_nothing_under_kill_9() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let args = ["--memtable-size", "1MiB"];
    // Who was told to have set a number; and who may have.
    let (mut set, mut open) = (BTreeMap::<u64, u64>::new(), Vec::<(u64, u64)>::new());
    let mut lost = 0;
    for round in 0..ROUNDS {
        let daemon = Daemon::start(&data, &args);
        let acks = AtomicUsize::new(0);
        let told: Vec<Told> = thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|who| {
                    let (acks, listen) = (&acks, daemon.listen);
                    scope.spawn(move || increment_until_killed(listen, who, acks))
                })
                .collect();
            let begin = Instant::now();
            while acks.load(Ordering::Relaxed) < 150 && begin.elapsed() < Duration::from_secs(20) {
                thread::sleep(Duration::from_millis(1));
            }
            daemon.kill();
            clients.into_iter().map(|client| client.join().expect("no panic")).collect()
        });
        assert!(acks.load(Ordering::Relaxed) > 0, "nothing was counted in round {round}");
        for (who, told) in (0..).zip(told) {
            lost += told.lost;
            open.extend(told.open.map(|number| (number, who)));
            for number in told.set {
                let other = set.insert(number, who);
                assert_eq!(other, None, "{number} was given to {who}, too");
            }
        }
        let mut daemon = Daemon::start(&data, &args);
        let mut client = daemon.connect();
        let (counter, _) = read(&mut client).expect("it answers").expect("it was set");
        // Every number up to the counter was set once, by who was told so or was not told anything.
        let log = client.dump();
        let log: Vec<_> = log.iter().filter(|e| e.key.starts_with(b"log/")).collect();
        assert_eq!(log.len() as u64, counter, "round {round}: one row for each number");
        for (number, row) in (1..).zip(log) {
            assert_eq!(row.key, format!("log/{number:012}").as_bytes(), "round {round}");
            let who = u64::from_be_bytes(row.value[..].try_into().expect("a number"));
            match set.get(&number) {
                Some(told) => assert_eq!(*told, who, "round {round}: {number}"),
                None => assert!(open.contains(&(number, who)), "round {round}: {number} by {who}"),
            }
        }
        let most = set.last_key_value().map_or(0, |(number, _)| *number);
        assert!(
            most <= counter,
            "round {round}: {most} was acknowledged, the counter is {counter}"
        );
        daemon.assert_well();
        daemon.kill();
    }
    eprintln!(
        "{} increments acknowledged, {} of unknown effect, {lost} lost a race",
        set.len(),
        open.len()
    );
}
