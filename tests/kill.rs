//! kill -9 while clients write, again and again on one directory: everything acknowledged is there after the restart,
//! nothing is there that was never sent, a batch is there whole or not at all, and recovering twice gives the same.

#![allow(
    clippy::disallowed_methods,
    reason = "black-box tests use the file system, clocks, and threads"
)]

mod common;

use beachdb::proto::{Opcode, Request, Response, ScanEntry};
use common::{Daemon, Wire, batch_of, batch_ref};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

const WRITERS: u64 = 4;
const PIPELINE: usize = 16;
const ROUNDS: u64 = 6;
/// Each batch writes one number to all of them.
const KEYS_PER_BATCH: usize = 3;
/// Batches a writer cycles through.
const SLOTS: u64 = 50;

/// For each (writer, slot): the largest number acknowledged and the largest one sent.
type Book = BTreeMap<(u64, u64), (u64, u64)>;

fn keys(writer: u64, slot: u64) -> Vec<String> {
    (0..KEYS_PER_BATCH).map(|part| format!("w{writer}/{slot:03}/{part}")).collect()
}

/// Writes until the daemon dies. Numbers grow, so that a later one supersedes an earlier one.
fn write_until_killed(
    listen: SocketAddr,
    writer: u64,
    first: u64,
    book: &Mutex<Book>,
    acks: &AtomicUsize,
) {
    let Ok(mut client) = Wire::connect(listen) else { return };
    let mut sent: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    let mut number = first;
    loop {
        while sent.len() < PIPELINE {
            let slot = number % SLOTS;
            // The book is right before the first byte leaves.
            book.lock().expect("no panic").entry((writer, slot)).or_default().1 = number;
            let (names, value) = (keys(writer, slot), number.to_be_bytes());
            let padding = vec![b'.'; 400];
            let value = [&value[..], &padding].concat();
            let pairs: Vec<(&[u8], &[u8])> =
                names.iter().map(|k| (k.as_bytes(), &value[..])).collect();
            let batch = batch_of(&pairs);
            let request = Request::Write { opcode: Opcode::Write, batch: batch_ref(&batch) };
            let Ok(id) = client.send(&request) else { return };
            sent.insert(id, (slot, number));
            number += 1;
        }
        let Ok(Some(reply)) = client.receive() else { return };
        let (slot, number) = sent.remove(&reply.header.request_id).expect("an answer to a request");
        match reply.response {
            Response::Written { .. } => {
                let mut book = book.lock().expect("no panic");
                let entry = book.entry((writer, slot)).or_default();
                entry.0 = entry.0.max(number);
                acks.fetch_add(1, Ordering::Relaxed);
            }
            Response::Error(e) if e.code.retryable() => {}
            other => panic!("{other:?}"),
        }
    }
}

fn check(book: &Book, dump: &[ScanEntry]) {
    let found: BTreeMap<&[u8], &ScanEntry> = dump.iter().map(|e| (&e.key[..], e)).collect();
    let mut expected_keys = 0;
    for (&(writer, slot), &(acknowledged, sent)) in book {
        let numbers: Vec<u64> = keys(writer, slot)
            .iter()
            .map(|key| {
                let value = found
                    .get(key.as_bytes())
                    .map(|e| e.value.first_chunk::<8>().expect("a number"));
                value.map_or(0, |v| u64::from_be_bytes(*v))
            })
            .collect();
        assert!(
            numbers.iter().all(|n| *n == numbers[0]),
            "a torn batch: w{writer}/{slot} has {numbers:?}"
        );
        let number = numbers[0];
        assert!(
            acknowledged <= number && number <= sent,
            "w{writer}/{slot} is {number}, acknowledged {acknowledged}, sent {sent}"
        );
        expected_keys += if number == 0 { 0 } else { KEYS_PER_BATCH };
    }
    assert_eq!(found.len(), expected_keys, "keys that nobody wrote");
}

#[test]
fn kill_9_in_mid_load_keeps_everything_acknowledged() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let book = Arc::new(Mutex::new(Book::new()));
    let mut acknowledged = 0;
    for round in 0..ROUNDS {
        // A small memtable: flushes and log releases happen under the load.
        let daemon = Daemon::start(&data, &["--memtable-size", "1MiB"]);
        let acks = Arc::new(AtomicUsize::new(0));
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (book, acks, listen) = (Arc::clone(&book), Arc::clone(&acks), daemon.listen);
                let first = 1 + round * 10_000_000;
                thread::spawn(move || write_until_killed(listen, writer, first, &book, &acks))
            })
            .collect();
        let enough = 200 + 300 * round as usize;
        let begin = Instant::now();
        while acks.load(Ordering::Relaxed) < enough && begin.elapsed() < Duration::from_secs(20) {
            thread::sleep(Duration::from_millis(2));
        }
        daemon.kill();
        for writer in writers {
            writer.join().expect("no panic");
        }
        acknowledged += acks.load(Ordering::Relaxed);
        assert!(acks.load(Ordering::Relaxed) > 0, "nothing was written in round {round}");
        // Recovered once, and killed again right away; recovered twice: the same to the last sequence number.
        let daemon = Daemon::start(&data, &["--memtable-size", "1MiB"]);
        let once = daemon.connect().dump();
        daemon.kill();
        let mut daemon = Daemon::start(&data, &["--memtable-size", "1MiB"]);
        let twice = daemon.connect().dump();
        assert!(once == twice, "a second recovery gave another state in round {round}");
        check(&book.lock().expect("no panic"), &twice);
        daemon.assert_well();
        let gone = daemon.connect().delete(b"witness");
        gone.written();
        let (status, _) = daemon.terminate();
        assert_eq!(status.code(), Some(0));
    }
    eprintln!("{acknowledged} batches acknowledged in {ROUNDS} rounds");
}
