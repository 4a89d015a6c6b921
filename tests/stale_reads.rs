//! Stale reads of real processes say how old they are, also after the process was stopped.

#![allow(
    clippy::disallowed_methods,
    reason = "black-box tests use the file system, clocks, and threads"
)]

mod common;

use beachdb::base::SequenceNumber;
use beachdb::proto::{Request, Response};
use common::cluster::Cluster;
use common::{PATIENCE, Wire};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

const KEY: &[u8] = b"count";

/// A stale read: the count and what it says of its age.
fn stale(response: &Response) -> (u64, Option<Duration>) {
    let Response::Stale { staleness, answer } = response else { panic!("{response:?}") };
    let count = match &**answer {
        Response::Value { value, .. } => {
            std::str::from_utf8(value).expect("text").parse().expect("a number")
        }
        other => panic!("{other:?}"),
    };
    (count, staleness.age_ms.map(Duration::from_millis))
}

/// A follower is stopped for two seconds while a client counts up. What it answers afterwards must hold every count that had been
/// acknowledged before its age began: above all the first answers, when what its leader sent meanwhile lies in its sockets.
#[test]
fn a_follower_that_was_stopped_does_not_take_what_waited_for_it_for_new() {
    let request = Request::StaleGet { key: KEY, snapshot: SequenceNumber::ZERO };
    let mut first_ages = Vec::new();
    for round in 0..3 {
        let cluster = Cluster::start(3);
        cluster.put(KEY, b"0");
        cluster.settle();
        let (leader, follower) = (cluster.leader(), cluster.follower());
        let daemon = cluster.node(follower).daemon.as_ref().expect("it runs");
        let mut reader = cluster.node(follower).connect();
        assert!(stale(&reader.ask(&request).response).1.is_some(), "it was fresh once");
        let stop = Arc::new(AtomicBool::new(false));
        // When each count was acknowledged.
        let acked = Arc::new(Mutex::new(vec![Instant::now()]));
        let writer = thread::spawn({
            let (stop, acked, to) =
                (Arc::clone(&stop), Arc::clone(&acked), cluster.node(leader).listen);
            move || {
                let mut wire = Wire::connect(to).expect("it accepts clients");
                for count in 1_u64.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let response = wire.put(KEY, count.to_string().as_bytes()).response;
                    assert!(matches!(response, Response::Written { .. }), "{response:?}");
                    acked.lock().expect("no panic").push(Instant::now());
                }
            }
        });
        thread::sleep(Duration::from_millis(300));
        daemon.signal("STOP");
        thread::sleep(Duration::from_secs(2));
        // In front of everybody else when it wakes up.
        reader.send(&request).expect("the kernel takes it");
        // Taken before the signal: it answers while the command that sends the signal still ends.
        let woken = Instant::now();
        let mut asked_at = woken;
        daemon.signal("CONT");
        let mut answers = 0;
        loop {
            let (count, age) = stale(&reader.reply().response);
            answers += 1;
            let age = age.expect("it was fresh once");
            if answers == 1 {
                first_ages.push(age);
            }
            // The answer is not from before this, and its age is cut to whole milliseconds.
            let began = asked_at.checked_sub(age + Duration::from_millis(1));
            let acked = acked.lock().expect("no panic");
            let next = acked.get(count as usize + 1);
            if let (Some(began), Some(next)) = (began, next) {
                assert!(
                    *next > began,
                    "round {round}, answer {answers}: count {count} at an age of {age:?}, but {} was acknowledged {:?} before \
                     the age began",
                    count + 1,
                    began - *next
                );
            }
            let at_end =
                woken.elapsed() > Duration::from_secs(1) && age < Duration::from_millis(500);
            drop(acked);
            assert!(woken.elapsed() < PATIENCE, "it never becomes fresh again: {age:?}");
            if at_end {
                break;
            }
            asked_at = Instant::now();
            reader.send(&request).expect("it reads");
        }
        stop.store(true, Ordering::Relaxed);
        writer.join().expect("the writer ends well");
        assert!(answers > 10, "{answers}");
    }
    assert!(first_ages.iter().all(|age| *age > Duration::from_millis(1_500)), "{first_ages:?}");
}
