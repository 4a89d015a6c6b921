//! Who belongs to the cluster, and who leads it, changes under load.

use crate::black_box::cluster::Cluster;
use crate::black_box::wait_until;
use crate::faults::{ctl_until_done, fall_behind, installed, wipe_and_replace};
use crate::load::{client, run, run_on};
use beachdb::base::NodeId;
use beachdb::client::AdminRequest;
use serde_json::Value;

#[test]
fn leadership_moves_and_the_leader_is_removed_under_load() {
    run("transfers", 4, |cluster, load| {
        let mut operator = client(&cluster.endpoints());
        for _ in 0..2 {
            for node in 1..=4 {
                if cluster.leader() != node {
                    let transfer = AdminRequest::Transfer(Some(NodeId(node)));
                    operator.admin(&transfer).expect("it is up to date");
                }
                load.goes_on();
            }
        }
        let old = cluster.leader();
        operator.admin(&AdminRequest::Remove(NodeId(old))).expect("it is one of four");
        // It runs on for a while, and is asked, but is no member.
        load.goes_on();
        load.goes_on();
        cluster.kill(old);
        assert_ne!(cluster.leader(), old);
        load.goes_on();
    });
}

#[test]
fn a_new_node_joins_under_load_and_the_leader_is_removed() {
    run("a node joins", 3, |cluster, load| {
        let new = cluster.add_place();
        cluster.spawn_with(new, &["--join"]);
        let (number, peer) = (new.to_string(), cluster.node(new).peer);
        wait_until("it waits to be added", || {
            cluster.node(new).field("not_ready_reason").contains("beachctl member add")
        });
        ctl_until_done(cluster, &["member", "add", &format!("{number}={peer}")]);
        ctl_until_done(cluster, &["member", "promote", &number]);
        cluster.wait_ready(&[new]);
        load.goes_on();
        let old = cluster.leader();
        ctl_until_done(cluster, &["member", "remove", &old.to_string()]);
        load.goes_on();
        cluster.kill(old);
        // Three are left, and it is one of the majority when another one dies.
        let next = cluster.running().map(|node| node.id).find(|id| *id != new).expect("two");
        cluster.kill(next);
        load.goes_on();
        cluster.spawn(next);
        cluster.wait_ready(&[next]);
    });
}

#[test]
fn a_node_that_was_down_past_compaction_returns_by_snapshot_under_load() {
    let mut cluster = Cluster::prepared(3);
    cluster.args.extend(["--memtable-size", "1MiB"].map(str::to_owned));
    run_on("a snapshot", &mut cluster, |cluster, load| {
        let late = cluster.follower();
        fall_behind(cluster, late);
        cluster.spawn(late);
        cluster.wait_ready(&[late]);
        assert!(installed(cluster, late) >= 1, "it came back without a snapshot");
        load.goes_on();
        // It counts at once.
        let other = (1..=3).find(|id| ![late, cluster.leader()].contains(id));
        let other = other.unwrap_or_else(|| cluster.follower());
        cluster.kill(other);
        load.goes_on();
        cluster.spawn(other);
        cluster.wait_ready(&[other]);
    });
}

#[test]
fn wiped_disks_are_replaced_under_load_and_nothing_is_lost() {
    run("wiped disks", 3, |cluster, load| {
        for victim in [cluster.follower(), cluster.leader()] {
            wipe_and_replace(cluster, load, victim);
            load.goes_on();
        }
    });
}

/// Who belongs to the cluster, as a node knows it.
fn members(cluster: &Cluster, node: u64) -> Vec<(Value, Value, Value)> {
    let status = cluster.node(node).status().expect("it runs");
    let members = status["members"].as_array().expect("members").iter();
    let member = |m: &Value| (m["node"].clone(), m["incarnation"].clone(), m["role"].clone());
    members.map(member).collect()
}

#[test]
fn a_node_of_another_cluster_that_knocks_on_all_changes_nothing() {
    run("a stranger", 3, |cluster, load| {
        let before = members(cluster, 1);
        assert_eq!(before.len(), 3);
        let stranger = cluster.add_place();
        cluster
            .spawn_with(stranger, &["--initial-cluster", &cluster.list(), "--cluster-id", "lake"]);
        for node in 1..=3 {
            wait_until("it is refused", || {
                cluster.node(node).log().contains("the one that dials is of cluster lake")
            });
        }
        for _ in 0..5 {
            load.goes_on();
        }
        assert_eq!(members(cluster, stranger), Vec::new(), "it belongs nowhere");
        // Whoever runs at the end is asked what it has.
        cluster.kill(stranger);
        for node in 1..=3 {
            assert_eq!(members(cluster, node), before, "as node {node} knows it");
        }
    });
}
