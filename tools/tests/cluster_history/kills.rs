//! Nodes that die, or stand still.

use crate::load::{ELECTION_TIMEOUT, KEYS, client, key, run};
use beachdb::client::Client;
use std::thread;
use std::time::Duration;

#[test]
fn killed_nodes_lose_nothing_and_no_read_is_stale() {
    run("kills", 3, |cluster, load| {
        let mut victims = vec![cluster.leader(), cluster.follower()];
        victims.extend(1..=3);
        for victim in victims {
            cluster.kill(victim);
            load.goes_on();
            cluster.spawn(victim);
            cluster.wait_ready(&[victim]);
            load.goes_on();
        }
        // And all at once.
        for node in 1..=3 {
            cluster.kill(node);
        }
        for node in 1..=3 {
            cluster.spawn(node);
        }
        cluster.wait_ready(&[1, 2, 3]);
    });
}

/// Reads are sent to the stopped leader after another one has taken writes: it finds them in its sockets when it wakes up and
/// still believes that it leads.
#[test]
fn a_leader_that_was_stopped_answers_no_stale_read_when_it_wakes_up() {
    run("stops", 3, |cluster, load| {
        let mut answered = 0;
        for _ in 0..2 {
            let old = cluster.leader();
            let at = [cluster.node(old).listen.to_string()];
            // Their connections are made before it stops.
            let mut readers: Vec<(Vec<u8>, Client)> =
                (0..KEYS).map(|n| (key(n), client(&at))).collect();
            for (key, reader) in &mut readers {
                load.read(reader, key);
            }
            let daemon = cluster.node(old).daemon.as_ref().expect("it runs");
            daemon.signal("STOP");
            thread::sleep(2 * ELECTION_TIMEOUT);
            load.goes_on();
            answered += thread::scope(|scope| {
                let read = |(key, mut reader): (Vec<u8>, Client)| load.read(&mut reader, &key);
                let asked: Vec<_> =
                    readers.into_iter().map(|reader| scope.spawn(move || read(reader))).collect();
                thread::sleep(Duration::from_millis(50));
                daemon.signal("CONT");
                asked.into_iter().filter_map(|reader| reader.join().ok()).filter(|ok| *ok).count()
            });
            cluster.wait_ready(&[old]);
            load.goes_on();
        }
        assert!(answered > 0, "no read of a stopped leader was answered");
    });
}
