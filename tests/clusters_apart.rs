//! Clusters that have one name and must not mix, on real processes: formed apart, made by `beachd recover`, or begun from
//! different lists.

#![allow(
    clippy::disallowed_methods,
    reason = "black-box tests use the file system, clocks, and threads"
)]

mod common;

use beachdb::base::NodeId;
use beachdb::proto::request::AdminRequest;
use beachdb::proto::{ErrorCode, Request};
use common::cluster::Cluster;
use common::wait_until;

/// Waits for these words in a node's log.
fn wait_for_word(cluster: &Cluster, node: u64, words: &str) {
    wait_until(&format!("node {node} says: {words}"), || cluster.node(node).log().contains(words));
}

#[test]
fn every_node_of_a_cluster_shows_its_uid_and_keeps_it() {
    let mut cluster = Cluster::start(3);
    let uid = cluster.node(1).field("cluster_uid");
    assert!(uid.len() == 16 && uid != "0000000000000000", "{uid:?}");
    let new = cluster.add_place();
    cluster.spawn_with(new, &["--join"]);
    wait_until("it waits to be added", || {
        cluster.node(new).field("not_ready_reason").contains("member add 4")
    });
    assert_eq!(cluster.node(new).field("cluster_uid"), "", "it belongs to nobody");
    let at = cluster.node(new).peer.to_string();
    let leader = cluster.leader();
    let add = AdminRequest::Add { node: NodeId(new), peer_address: &at };
    let added = cluster.node(leader).connect().ask(&Request::Admin(add)).response;
    wait_until("it is added", || cluster.node(new).field("ready") == "true");
    for node in 1..=4 {
        assert_eq!(cluster.node(node).field("cluster_uid"), uid, "node {node}, {added:?}");
    }
    cluster.kill(new);
    cluster.spawn_with(new, &["--join"]);
    cluster.wait_ready(&[new]);
    assert_eq!(cluster.node(new).field("cluster_uid"), uid);
    assert_ne!(Cluster::start(1).node(1).field("cluster_uid"), uid, "another cluster");
}

#[test]
fn two_clusters_of_one_name_refuse_each_other() {
    let mut cluster = Cluster::prepared(2);
    for node in [1, 2] {
        cluster.spawn_with(node, &[]);
    }
    cluster.wait_ready(&[1, 2]);
    let [here, there] = [1, 2].map(|node| cluster.node(node).field("cluster_uid"));
    assert_ne!(here, there);
    let at = cluster.node(2).peer.to_string();
    let add = AdminRequest::Add { node: NodeId(2), peer_address: &at };
    let refused = cluster.node(1).connect().ask(&Request::Admin(add)).response;
    let beachdb::proto::Response::Error(error) = refused else { panic!("{refused:?}") };
    assert_eq!(error.code, ErrorCode::BadRequest, "{error}");
    for words in ["another cluster of that name", &here, &there] {
        assert!(error.message.contains(words), "{words}: {error}");
        wait_for_word(&cluster, 2, words);
    }
}

/// The two that are left of the old cluster come back, on the addresses that the new one of the same name knows.
#[test]
fn what_is_left_of_a_cluster_is_refused_by_the_one_that_recover_made() {
    let mut cluster = Cluster::start(3);
    cluster.put(b"k", b"old");
    cluster.settle();
    for node in 1..=3 {
        cluster.terminate(node);
    }
    let mut recover = std::process::Command::new(env!("CARGO_BIN_EXE_beachd"));
    recover.args(["recover", "--force-new-cluster", "--yes", "--data-dir"]);
    recover.arg(&cluster.node(3).data);
    let out = recover.output().expect("it runs");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{text}{}", String::from_utf8_lossy(&out.stderr));
    assert!(text.contains("The new cluster refuses them as WRONG_CLUSTER"), "{text}");
    cluster.spawn_with(3, &[]);
    cluster.wait_ready(&[3]);
    let new = cluster.node(3).field("cluster_uid");
    assert!(text.contains(&format!("uid {new}")), "{new} in {text}");
    cluster.spawn(1);
    cluster.spawn(2);
    cluster.wait_ready(&[1, 2]);
    let old = cluster.node(1).field("cluster_uid");
    assert_ne!(old, new);
    for (node, words) in [(1, &new), (3, &old)] {
        wait_for_word(&cluster, node, "is of another cluster of that name, uid");
        wait_for_word(&cluster, node, words);
    }
    // Two of three serve the old cluster among themselves, as `recover` says; nothing of it reaches the new one.
    let mut wire = cluster.node(3).connect();
    assert!(!matches!(wire.put(b"k", b"new").response, beachdb::proto::Response::Error(_)));
    assert_eq!(cluster.get(1, b"k").as_deref(), Some(&b"old"[..]));
    assert_eq!(cluster.node(3).field("role"), "leader");
}

#[test]
fn nodes_that_were_given_different_lists_refuse_to_form_and_both_say_so() {
    let mut cluster = Cluster::prepared(4);
    let at = |node: u64| format!("{node}={}", cluster.node(node).peer);
    let first = [at(1), at(2), at(3)].join(",");
    let second = [at(2), at(3), at(4)].join(",");
    for (node, list) in [(1, &first), (2, &second), (3, &first), (4, &second)] {
        cluster.spawn_with(node, &["--initial-cluster", list]);
    }
    let words = "were started with --initial-cluster of different nodes";
    for node in [1, 2] {
        wait_for_word(&cluster, node, words);
        wait_for_word(&cluster, node, "give every node the same list");
    }
    wait_until("who asks is told", || {
        cluster.node(1).field("links").contains(words)
            && cluster.node(2).field("links").contains(words)
    });
    for node in 1..=4 {
        assert_eq!(cluster.node(node).field("members"), "[]", "node {node} has formed something");
    }
}

/// Two processes on copies of one directory are one replica to everybody: nobody can refuse either, but it must not go unsaid.
#[test]
fn a_directory_that_is_copied_and_run_twice_is_found_out() {
    let mut cluster = Cluster::start(3);
    cluster.put(b"k", b"v");
    cluster.terminate(3);
    let double = cluster.add_place() as usize - 1;
    common::copy_dir(&cluster.node(3).data, &cluster.nodes[double].data);
    cluster.spawn(3);
    let copy = &cluster.nodes[double];
    let (listen, peer, http) =
        (copy.listen.to_string(), copy.peer.to_string(), copy.http.to_string());
    let args = ["--node-id", "3", "--listen", &listen, "--peer-listen", &peer, "--http", &http];
    let command = common::command(&[], &copy.data, &args);
    let daemon = common::Daemon::spawn(command, &copy.data, copy.listen, copy.http);
    cluster.nodes[double].daemon = Some(daemon);
    let words = "dials from two places in turn, 127.0.0.1 (";
    wait_until("somebody says so", || {
        [1, 2].iter().any(|n| cluster.node(*n).log().contains(words))
    });
    let saying = [1, 2].into_iter().find(|n| cluster.node(*n).log().contains(words)).expect("one");
    for at in [&cluster.node(3).peer, &cluster.nodes[double].peer] {
        assert!(cluster.node(saying).log().contains(&format!("127.0.0.1 ({at})")), "{at}");
    }
    let lines = cluster.node(saying).log().matches(words).count();
    assert_eq!(lines, 1, "said once");
}
