//! The network between the nodes breaks; the clients reach them all. Where there can be no such network, the tests say so
//! and pass.

use crate::black_box::cluster::Cluster;
use crate::black_box::wait_until;
use crate::faults::move_leader;
use crate::load::{
    ELECTION_TIMEOUT, KEYS, Load, Notes, Writer, client_for, judge, key, number, run_on,
};
use crate::network::Network;
use beach_tools::sim::check::register::{Action, Operation};
use beachdb::client::Client;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

/// Longest time without an acknowledged write, whatever breaks that leaves a majority connected: fifty election timeouts.
const OUTAGE: Duration = Duration::from_secs(10);
/// A leader with these settings gives up late.
pub const PATIENT: [&str; 2] = ["--election-timeout", "4s"];
/// Who asks a node that is cut off gives up soon.
const SHORT: Duration = Duration::from_secs(1);

/// Runs the faults on a network of this many nodes, if there can be one.
fn run_apart(
    name: &str,
    nodes: u64,
    faults: impl FnOnce(&mut Cluster, &Load, &Network) + Send,
) -> Option<Notes> {
    let network = Network::open(name, nodes)?;
    Some(network.inside(|| {
        let mut cluster = Cluster::at(network.places());
        run_on(name, &mut cluster, |cluster, load| faults(cluster, load, &network))
    }))
}

/// Clients that speak with one node only, a reader and a writer for every key, and are connected to it.
struct Pinned(Vec<(Client, Client)>);

impl Pinned {
    fn to(cluster: &Cluster, node: u64) -> Self {
        let at = [cluster.node(node).listen.to_string()];
        let mut pairs: Vec<(Client, Client)> =
            (0..KEYS).map(|_| (client_for(&at, SHORT), client_for(&at, SHORT))).collect();
        for (reader, writer) in &mut pairs {
            reader.ping().expect("it runs");
            writer.ping().expect("it runs");
        }
        Self(pairs)
    }

    /// Each of them asks once, all at the same time.
    fn ask(&mut self, load: &Load) {
        thread::scope(|scope| {
            for ((reader, writer), n) in self.0.iter_mut().zip(0..) {
                scope.spawn(move || load.read(reader, &key(n)));
                scope.spawn(move || load.write(&mut Writer::Plain(writer), &key(n), true));
            }
        });
    }
}

/// The other nodes of a cluster of three.
fn others(node: u64) -> Vec<u64> {
    (1..=3).filter(|other| *other != node).collect()
}

/// Breaks the network around the leader so that the other two must elect one of them.
fn the_leader_is_replaced(name: &str, cut: impl Fn(&Network, u64, u64) + Sync) {
    let notes = run_apart(name, 3, |cluster, load, network| {
        for _ in 0..2 {
            let old = cluster.leader();
            let mut pinned = Pinned::to(cluster, old);
            let begin = Instant::now();
            for other in others(old) {
                cut(network, old, other);
            }
            let (new, took) = thread::scope(|scope| {
                // It still believes that it leads, and takes writes into its log.
                scope.spawn(|| pinned.ask(load));
                let new = cluster.leader_of(&others(old));
                load.goes_on();
                (new, begin.elapsed())
            });
            println!("{name}: node {new} leads instead of {old}, writes went on within {took:?}");
            assert!(took < OUTAGE, "{took:?} without a leader");
            // Others have written since.
            pinned.ask(load);
            wait_until("the old leader steps down", || cluster.node(old).field("role") != "leader");
            network.heal();
            cluster.wait_ready(&[old]);
            load.goes_on();
        }
    });
    // What the old leader took is lost or not: it cannot say.
    assert!(notes.is_none_or(|notes| !notes.unknown.is_empty()), "every outcome was known");
}

#[test]
fn a_leader_that_is_cut_off_is_replaced_and_answers_no_stale_read() {
    the_leader_is_replaced("the leader is cut off", Network::part);
}

#[test]
fn a_leader_that_nobody_hears_is_replaced_and_answers_no_stale_read() {
    the_leader_is_replaced("nobody hears the leader", Network::cut);
}

/// Its heartbeats arrive and keep the others from voting, so it must give up by itself.
#[test]
fn a_leader_that_hears_nobody_steps_down() {
    the_leader_is_replaced("the leader hears nobody", |network, old, other| {
        network.cut(other, old);
    });
}

/// No clock is trusted: this leader goes on believing that it leads long after another one does, and still answers nothing.
#[test]
fn a_leader_that_is_cut_off_and_too_patient_answers_no_stale_read() {
    let name = "a patient leader";
    let Some(network) = Network::open(name, 3) else { return };
    network.inside(|| {
        let mut cluster = Cluster::at(network.places());
        cluster.nodes[0].own = PATIENT.map(str::to_owned).to_vec();
        run_on(name, &mut cluster, |cluster, load| {
            let mut two_led = 0;
            for _ in 0..3 {
                move_leader(cluster, 1);
                let mut pinned = Pinned::to(cluster, 1);
                network.part(1, 2);
                network.part(1, 3);
                let new = cluster.leader_of(&[2, 3]);
                let mut writer = client_for(&[cluster.node(new).listen.to_string()], OUTAGE);
                for n in 0..KEYS {
                    load.write(&mut Writer::Plain(&mut writer), &key(n), true);
                }
                pinned.ask(load);
                // On a machine that stands still for seconds it may have given up before.
                two_led += u64::from(cluster.node(1).field("role") == "leader");
                network.heal();
                cluster.wait_ready(&[1]);
                load.goes_on();
                load.goes_on();
            }
            assert!(two_led > 0, "the old leader never led on");
        });
    });
}

/// And what it serves as stale is stale: a history with these reads among the others is rejected.
#[test]
fn a_follower_that_is_cut_off_is_not_missed_and_answers_no_stale_read() {
    let stale = Mutex::new(Vec::new());
    let notes = run_apart("a follower is cut off", 3, |cluster, load, network| {
        let away = cluster.follower();
        let mut pinned = Pinned::to(cluster, away);
        for other in others(away) {
            network.part(away, other);
        }
        pinned.ask(load);
        load.goes_on();
        // Every key is overwritten where it cannot see it, so every answer of its own is a stale one.
        let writer = cluster.leader_of(&others(away));
        let mut writer = client_for(&[cluster.node(writer).listen.to_string()], OUTAGE);
        for n in 0..KEYS {
            load.write(&mut Writer::Plain(&mut writer), &key(n), true);
        }
        // Of their own: who asked before may have been sent to the leader, and would ask there.
        let at = [cluster.node(away).listen.to_string()];
        for n in 0..KEYS {
            let mut reader = client_for(&at, OUTAGE);
            let call = load.tick();
            let (found, _) = reader.get_stale(&key(n)).expect("it answers what it has");
            let ret = Some(load.tick());
            let action = Action::Read(found.map(|found| number(&found.value)));
            let read = Operation { call, ret, action };
            stale.lock().expect("nobody panicked with it").push((key(n), read));
        }
        pinned.ask(load);
        network.heal();
        cluster.wait_ready(&[away]);
        load.goes_on();
    });
    let Some(notes) = notes else { return };
    let stale = stale.into_inner().expect("nobody panicked with it");
    let with_stale = [notes.history, stale].concat();
    let verdict = judge(&with_stale).map_err(|violation| violation.rule);
    assert_eq!(verdict, Err("linearizability".to_owned()), "stale reads go unnoticed");
}

/// Waits for a while in which writes must go on.
fn stays_available(name: &str, load: &Load) {
    let longest = load.longest_pause(10 * ELECTION_TIMEOUT);
    println!("{name}: at most {longest:?} without a write");
    assert!(longest < OUTAGE, "{longest:?} without a write");
    load.goes_on();
}

#[test]
fn a_bridge_keeps_the_cluster_available_wherever_the_leader_is() {
    run_apart("a bridge", 3, |cluster, load, network| {
        // The leader at an end: the other end hears nobody who leads.
        let end = cluster.leader();
        let [middle, other] = others(end)[..] else { unreachable!("three nodes") };
        network.part(end, other);
        stays_available("the leader at an end", load);
        network.heal();
        cluster.leader();
        // In the middle: the ends do not need each other.
        move_leader(cluster, middle);
        let middle = cluster.leader();
        let [one, other] = others(middle)[..] else { unreachable!("three nodes") };
        network.part(one, other);
        stays_available("the leader in the middle", load);
        // It dies, and nobody can be elected before the ends see each other or it is back.
        cluster.kill(middle);
        thread::sleep(2 * ELECTION_TIMEOUT);
        cluster.spawn(middle);
        stays_available("the middle died and came back", load);
        network.heal();
        cluster.wait_ready(&[1, 2, 3]);
        // Half of a link: one follower hears nothing of the leader, which hears it.
        let leader = cluster.leader();
        network.cut(leader, others(leader)[0]);
        stays_available("a follower does not hear the leader", load);
        network.heal();
        cluster.wait_ready(&[1, 2, 3]);
    });
}

#[test]
fn a_network_that_loses_and_delays_packets_makes_nothing_wrong() {
    run_apart("a bad network", 3, |_, load, network| {
        for rules in [&["loss 3"][..], &["delay 5 10"], &["loss 10", "delay 1 30"]] {
            for rule in rules {
                network.tell(rule);
            }
            load.longest_pause(Duration::from_millis(1_500));
            println!("{}", network.tell("show"));
            network.heal();
            load.goes_on();
        }
    });
}
