//! A cluster of real processes: it forms, elects, replicates, fails over, and refuses whom it should.

#![allow(
    clippy::disallowed_methods,
    reason = "black-box tests use the file system, clocks, and threads"
)]

mod common;

use beachdb::base::{ClusterUid, LogIndex, NodeId, ReplicaId, Term};
use beachdb::proto::frame::{self, CrcPolicy, Decoded};
use beachdb::proto::peer::{self, Lane, PEER_PROTOCOL_VERSION, PeerFrame, PeerHello, PeerMessage};
use beachdb::proto::request::AdminRequest;
use beachdb::proto::{ErrorCode, Request, Response};
use common::cluster::{Cluster, free_address};
use common::{PATIENCE, http_get, netcat, wait_until};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

#[test]
fn three_nodes_form_elect_and_replicate() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    cluster.put(b"k", b"v");
    for node in 1..=3 {
        assert_eq!(cluster.get(node, b"k").as_deref(), Some(&b"v"[..]), "node {node}");
        let log = cluster.node(node).log();
        let role = if node == leader { "leader" } else { "follower" };
        wait_until("the ready line", || {
            cluster.node(node).log().contains(&format!("beachd ready node={node} role="))
        });
        let _ = role;
        assert!(!log.contains("panicked"), "{log}");
    }
    // A follower takes no write, and says who does.
    let follower = cluster.follower();
    let refused = cluster.node(follower).connect().put(b"k", b"w");
    assert_eq!(refused.error(), ErrorCode::NotLeader);
    let status = cluster.node(leader).status().expect("a status");
    let members = status["members"].as_array().expect("members");
    assert_eq!(members.len(), 3);
    for (member, node) in members.iter().zip(&cluster.nodes) {
        assert_eq!(member["peer_address"], node.peer.to_string());
        assert_eq!(member["client_address"], node.listen.to_string());
    }
    let links = status["links"].as_array().expect("links");
    assert_eq!(links.len(), 2, "{links:?}");
    for link in links {
        assert_eq!(
            (&link["state"], &link["lane"], &link["slow"]),
            (&"up".into(), &"raft".into(), &false.into()),
            "{link}"
        );
    }
    let metrics = http_get(cluster.node(leader).http, "/metrics");
    assert!(
        metrics.contains("beachd_peer_link_up{node=") && metrics.contains("} 1\n"),
        "{metrics}"
    );
}

#[test]
fn a_killed_leader_is_replaced_nothing_is_lost_and_it_catches_up_when_it_returns() {
    let mut cluster = Cluster::start(3);
    for n in 0..50_u32 {
        cluster.put(format!("before-{n}").as_bytes(), b"1");
    }
    let first = cluster.leader();
    cluster.kill(first);
    for n in 0..50_u32 {
        cluster.put(format!("after-{n}").as_bytes(), b"2");
    }
    let second = cluster.leader();
    assert_ne!(first, second);
    cluster.spawn(first);
    cluster.wait_ready(&[1, 2, 3]);
    cluster.settle();
    for node in 1..=3 {
        for n in 0..50_u32 {
            let before = cluster.get(node, format!("before-{n}").as_bytes());
            let after = cluster.get(node, format!("after-{n}").as_bytes());
            assert_eq!((before.as_deref(), after.as_deref()), (Some(&b"1"[..]), Some(&b"2"[..])));
        }
    }
}

#[test]
fn a_follower_is_restarted_and_two_nodes_go_on_and_one_does_not() {
    let mut cluster = Cluster::start(3);
    let follower = cluster.follower();
    cluster.terminate(follower);
    cluster.put(b"two", b"serve");
    let other = cluster.follower();
    cluster.kill(other);
    let last = cluster.running().next().expect("one is left").id;
    wait_until("the last one notices", || cluster.node(last).field("role") != "leader");
    let ready = cluster.node(last).readyz();
    assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
    wait_until("it says whom it misses", || {
        cluster.node(last).readyz().contains("2 of the 3 voters are needed")
    });
    cluster.spawn(follower);
    cluster.wait_ready(&[last, follower]);
    cluster.put(b"back", b"again");
    assert_eq!(cluster.get(follower, b"two").as_deref(), Some(&b"serve"[..]));
}

#[test]
fn every_node_can_be_restarted_in_turn_without_losing_the_cluster() {
    let mut cluster = Cluster::start(3);
    for node in [1, 2, 3, 1] {
        cluster.terminate(node);
        cluster.put(format!("without-{node}").as_bytes(), b"x");
        cluster.spawn(node);
        cluster.wait_ready(&[1, 2, 3]);
    }
    for node in 1..=3 {
        assert!(cluster.get(2, format!("without-{node}").as_bytes()).is_some());
    }
}

#[test]
fn a_cluster_of_five_survives_two() {
    let mut cluster = Cluster::start(5);
    cluster.put(b"five", b"5");
    for _ in 0..2 {
        let leader = cluster.leader();
        cluster.kill(leader);
    }
    cluster.put(b"three", b"3");
    let leader = cluster.leader();
    assert_eq!(cluster.get(leader, b"five").as_deref(), Some(&b"5"[..]));
}

#[test]
fn a_node_waits_for_the_others_and_says_for_whom() {
    let mut cluster = Cluster::prepared(3);
    cluster.spawn(2);
    wait_until("it waits", || {
        cluster.node(2).field("not_ready_reason").contains("waiting for node 1")
    });
    assert!(cluster.node(2).readyz().starts_with("HTTP/1.1 503"));
    cluster.spawn(1);
    let missing = format!("node 3 at {} not reached yet", cluster.node(3).peer);
    wait_until("the former says who is missing", || {
        cluster.node(1).field("not_ready_reason").contains(&missing)
    });
    assert!(cluster.node(1).field("members") == "[]");
    cluster.spawn(3);
    cluster.wait_ready(&[1, 2, 3]);
}

#[test]
fn a_directory_that_belongs_to_a_cluster_does_not_read_the_list_again() {
    let mut cluster = Cluster::start(3);
    cluster.put(b"k", b"v");
    for node in 1..=3 {
        cluster.terminate(node);
    }
    let other = format!("1={},9={}", cluster.node(1).peer, free_address());
    cluster.spawn_with(1, &["--initial-cluster", &other]);
    cluster.spawn_with(2, &[]);
    cluster.spawn(3);
    cluster.wait_ready(&[1, 2, 3]);
    assert!(
        cluster.node(1).log().contains("--initial-cluster is ignored"),
        "{}",
        cluster.node(1).log()
    );
    assert_eq!(cluster.get(1, b"k").as_deref(), Some(&b"v"[..]));
}

#[test]
fn a_wiped_former_forms_no_second_cluster_and_says_what_to_do() {
    let mut cluster = Cluster::start(3);
    cluster.put(b"k", b"v");
    cluster.kill(1);
    fs::remove_dir_all(&cluster.node(1).data).expect("its directory");
    cluster.spawn(1);
    wait_until("it says what to do", || {
        cluster.node(1).field("not_ready_reason").contains("beachctl member replace 1")
    });
    assert_eq!(cluster.node(1).field("members"), "[]");
    // The others know, too, and go on.
    wait_until("the others say so", || {
        [2, 3]
            .iter()
            .any(|n| cluster.node(*n).log().contains("node 1 at 127.0.0.1 has a new or wiped disk"))
    });
    wait_until("the other two go on", || {
        [2, 3].iter().any(|n| cluster.node(*n).field("role") == "leader")
    });
    assert_eq!(cluster.get(2, b"k").as_deref(), Some(&b"v"[..]));
}

/// ADMIN at whoever leads, until it is done: what must come first (a commit in the term, catching up) takes a moment.
fn admin(cluster: &Cluster, request: AdminRequest<'_>) {
    let begin = std::time::Instant::now();
    loop {
        let leader = cluster.node(cluster.leader());
        match leader.connect().ask(&Request::Admin(request)).response {
            Response::Written { .. } => return,
            Response::Error(error) => {
                assert!(error.code.retryable() && begin.elapsed() < PATIENCE, "{error}");
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_node_joins_by_its_address_catches_up_votes_and_replaces_another() {
    let mut cluster = Cluster::start(3);
    cluster.put(b"before", b"1");
    let new = cluster.add_place();
    cluster.spawn_with(new, &["--join"]);
    let peer = cluster.node(new).peer.to_string();
    wait_until("it says how to add it", || {
        cluster
            .node(new)
            .field("not_ready_reason")
            .contains(&format!("beachctl member add {new} {peer}"))
    });
    admin(&cluster, AdminRequest::Add { node: NodeId(new), peer_address: &peer });
    cluster.wait_ready(&[new]);
    admin(&cluster, AdminRequest::Promote(NodeId(new)));
    assert_eq!(cluster.get(new, b"before").as_deref(), Some(&b"1"[..]));
    // It counts: with one old node removed and another one dead, the new one makes the majority.
    let mut old: Vec<u64> = (1..=3).filter(|node| *node != cluster.leader()).collect();
    admin(&cluster, AdminRequest::Remove(NodeId(old[0])));
    cluster.kill(old.remove(0));
    cluster.kill(old.remove(0));
    cluster.put(b"after", b"2");
    assert_eq!(cluster.get(new, b"after").as_deref(), Some(&b"2"[..]));
}

#[test]
fn an_address_where_the_wrong_one_is_or_nobody_is_not_added() {
    let mut cluster = Cluster::start(1);
    let own = cluster.add_place();
    // A cluster of one by itself, of the same name: it has a history of its own.
    cluster.spawn_with(own, &[]);
    cluster.wait_ready(&[own]);
    cluster.nodes[own as usize - 1].daemon.as_ref().expect("it runs");
    let other = cluster.node(own).peer.to_string();
    let waits = cluster.add_place();
    cluster.spawn_with(waits, &["--join"]);
    let blank = cluster.node(waits).peer.to_string();
    wait_until("it waits", || {
        cluster.node(waits).field("not_ready_reason").contains("member add 3")
    });
    let nobody = free_address().to_string();
    for (node, address, why) in [
        (2, other.as_str(), "another cluster of that name"),
        (4, blank.as_str(), "is dialed as node 4"),
        (4, nobody.as_str(), "refused"),
    ] {
        let add = AdminRequest::Add { node: NodeId(node), peer_address: address };
        let reply = cluster.node(1).connect().ask(&Request::Admin(add));
        let Response::Error(error) = &reply.response else { panic!("{reply:?}") };
        assert!(error.message.contains(why), "{error}");
    }
}

#[test]
fn a_follower_far_behind_gets_a_snapshot_on_a_lane_of_its_own() {
    let mut cluster = Cluster::prepared(3);
    cluster.args.extend(["--memtable-size", "1MiB"].map(str::to_owned));
    for node in 1..=3 {
        cluster.spawn(node);
    }
    cluster.wait_ready(&[1, 2, 3]);
    let late = cluster.follower();
    cluster.kill(late);
    cluster.outgrow();
    cluster.spawn(late);
    cluster.wait_ready(&[late]);
    cluster.settle();
    let status = cluster.node(cluster.leader()).status().expect("a status");
    let completed = status["snapshots"]["sent"]["completed"].as_u64();
    assert!(completed >= Some(1), "{}", status["snapshots"]);
    let bulk = status["links"].as_array().expect("links").iter().find(|l| l["lane"] == "bulk");
    assert!(bulk.is_some_and(|link| link["sent"].as_u64() > Some(4)), "{}", status["links"]);
    assert_eq!(cluster.get(late, b"key-0").map(|v| v.len()), Some(256 << 10));
    assert_eq!(cluster.get(late, b"key-1399").as_deref(), Some(&b"small"[..]));
}

#[test]
fn a_follower_that_stops_reading_costs_no_memory_and_no_write() {
    let cluster = Cluster::start(3);
    let (leader, deaf) = (cluster.leader(), cluster.follower());
    let daemon = |node: u64| cluster.node(node).daemon.as_ref().expect("it runs");
    let mut wire = cluster.node(leader).connect();
    let value = vec![7; 1 << 20];
    for n in 0..20_u32 {
        cluster.put_on(&mut wire, format!("warm-{n}").as_bytes(), &value);
    }
    daemon(deaf).signal("STOP");
    let before = daemon(leader).rss_bytes();
    let mut most = 0;
    for n in 0..150_u32 {
        cluster.put_on(&mut wire, format!("key-{n}").as_bytes(), &value);
        most = most.max(daemon(leader).rss_bytes());
    }
    wait_until("it is noticed", || {
        let status = cluster.node(leader).status().expect("a status");
        let links = status["links"].as_array().expect("links");
        links.iter().any(|l| l["node"] == deaf && (l["slow"] == true || l["state"] != "up"))
    });
    daemon(deaf).signal("CONT");
    // Two memtables, the log's tail, and what waits for the one that does not read; 150 MiB were written.
    let grown = most.saturating_sub(before) >> 20;
    assert!(grown < 140, "the leader grew by {grown} MiB");
    assert_eq!(cluster.leader(), leader, "the leader stays");
    cluster.settle();
    assert_eq!(cluster.get(deaf, b"key-149").map(|v| v.len()), Some(1 << 20));
}

#[test]
fn names_are_resolved_and_every_address_of_a_name_is_tried() {
    let mut cluster = Cluster::prepared(3);
    let list = cluster.list().replace("127.0.0.1", "localhost");
    for node in 1..=3 {
        cluster.spawn_with(node, &["--initial-cluster", &list]);
    }
    cluster.wait_ready(&[1, 2, 3]);
    cluster.put(b"k", b"v");
    let other = format!("1={},2=no-such-host.invalid:7401", cluster.node(1).peer);
    let alone = cluster.add_place();
    let list = other.replace("1=", &format!("{alone}=")).replace(",2=", ",9=");
    let own = format!("{alone}={}", cluster.node(alone).peer);
    let list = format!("{own},{}", list.split_once(',').expect("two").1);
    cluster.spawn_with(alone, &["--initial-cluster", &list]);
    wait_until("it says that the name is wrong", || {
        cluster.node(alone).log().contains("cannot reach node 9 at no-such-host.invalid:7401")
    });
    cluster.terminate(alone);
}

#[test]
fn a_member_that_moved_is_found_when_it_comes_back() {
    let mut cluster = Cluster::start(3);
    let moved = cluster.follower();
    cluster.kill(moved);
    cluster.put(b"while", b"away");
    let node = &mut cluster.nodes[moved as usize - 1];
    (node.listen, node.peer, node.http) = (free_address(), free_address(), free_address());
    cluster.spawn(moved);
    cluster.wait_ready(&[moved]);
    cluster.settle();
    // It can lead from there, and clients are told where that is. On a slow machine another one may lead again soon.
    let address = cluster.node(moved).listen.to_string();
    wait_until("a follower names the new address of the leader", || {
        if cluster.leader() != moved {
            admin(&cluster, AdminRequest::Transfer(Some(NodeId(moved))));
        }
        let refused = cluster.node(cluster.follower()).connect().put(b"k", b"v");
        matches!(refused.response, Response::Error(error) if error.leader == address)
    });
}

#[test]
fn a_leader_that_is_told_to_stop_hands_over_and_writes_go_on_at_once() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    cluster.put(b"before", b"1");
    let term: u64 = cluster.node(leader).field("term").parse().expect("a number");
    cluster.terminate(leader);
    let next = cluster.leader();
    let new_term: u64 = cluster.node(next).field("term").parse().expect("a number");
    assert_eq!(new_term, term + 1, "one election, asked for by the old leader");
    cluster.put(b"after", b"2");
}

#[test]
fn a_node_of_another_cluster_is_refused_on_both_sides() {
    let mut cluster = Cluster::start(1);
    let stranger = cluster.add_place();
    let list = cluster.list();
    cluster.spawn_with(stranger, &["--initial-cluster", &list, "--cluster-id", "lake"]);
    let both = |node: u64, what: &str| {
        wait_until("a line about the cluster", || cluster.node(node).log().contains(what));
    };
    both(1, "is refused: node 1 is of cluster beachdb, the one that dials is of cluster lake");
    both(2, "WRONG_CLUSTER");
    let lines = cluster.node(1).log().matches("is of cluster lake").count();
    assert_eq!(lines, 1, "said once");
}

#[test]
fn a_second_node_with_the_same_number_is_refused_by_the_first() {
    let mut cluster = Cluster::start(3);
    let double = cluster.add_place();
    let (first, node) = (cluster.node(2).peer, cluster.node(double));
    let list = format!("1={first},2={}", node.peer);
    let (listen, peer, http) =
        (node.listen.to_string(), node.peer.to_string(), node.http.to_string());
    let args = [
        "--node-id",
        "2",
        "--listen",
        &listen,
        "--peer-listen",
        &peer,
        "--http",
        &http,
        "--initial-cluster",
        &list,
    ];
    let daemon = common::Daemon::spawn(
        common::command(&[], &node.data, &args),
        &node.data,
        node.listen,
        node.http,
    );
    cluster.nodes[double as usize - 1].daemon = Some(daemon);
    for node in [2, double] {
        wait_until("both say so", || {
            cluster.node(node).log().contains("two nodes have the number 2")
        });
    }
}

/// Opens a connection to the peer port, says these frames, and reads until it is closed or patience ends.
fn say(to: SocketAddr, frames: &[PeerFrame]) -> Vec<PeerFrame> {
    let mut bytes = Vec::new();
    for frame in frames {
        peer::encode(frame, &mut bytes).expect("it fits");
    }
    let mut socket = TcpStream::connect(to).expect("the peer port accepts");
    socket.set_read_timeout(Some(std::time::Duration::from_secs(2))).expect("a timeout");
    socket.write_all(&bytes).expect("it reads");
    let mut input = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(n @ 1..) = socket.read(&mut chunk) {
        input.extend_from_slice(&chunk[..n]);
    }
    let mut heard = Vec::new();
    while let Ok(Decoded::Frame { consumed, .. }) = frame::decode(&input, CrcPolicy::Required) {
        let frame = bytes::Bytes::copy_from_slice(&input[..consumed]);
        heard.push(peer::decode(frame).expect("a peer's frame"));
        input.drain(..consumed);
    }
    heard
}

fn hello() -> PeerHello {
    PeerHello {
        min_version: PEER_PROTOCOL_VERSION,
        max_version: PEER_PROTOCOL_VERSION,
        lane: Lane::Raft,
        features: 0,
        replica: ReplicaId { node: NodeId(9), incarnation: 0x99 },
        wanted: NodeId(1),
        blank: true,
        list: 0,
        cluster_uid: ClusterUid::NONE,
        cluster: "beachdb".into(),
        peer_address: String::new(),
        client_address: String::new(),
        software: "a test".into(),
    }
}

fn refusal(heard: &[PeerFrame]) -> ErrorCode {
    match heard {
        [PeerFrame::Refused(error)] => error.code,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[test]
fn strangers_on_the_peer_port_are_told_what_is_wrong() {
    let cluster = Cluster::start(1);
    let peer = cluster.node(1).peer;
    let with = |change: fn(&mut PeerHello)| {
        let mut hello = hello();
        change(&mut hello);
        say(peer, &[PeerFrame::Hello(hello)])
    };
    let versions = with(|h| (h.min_version, h.max_version) = (7, 9));
    assert_eq!(refusal(&versions), ErrorCode::BadVersion);
    assert_eq!(refusal(&with(|h| h.cluster = "lake".into())), ErrorCode::WrongCluster);
    assert_eq!(refusal(&with(|h| h.wanted = NodeId(5))), ErrorCode::WrongNode);
    assert_eq!(refusal(&with(|h| h.replica.node = NodeId(1))), ErrorCode::DuplicateNode);
    assert_eq!(refusal(&say(peer, &[PeerFrame::Ping])), ErrorCode::BadFrame);
    let text = String::from_utf8(netcat(peer, b"GET / HTTP/1.1\r\n\r\n")).expect("text");
    assert!(text.starts_with("ERR WRONG_PROTOCOL"), "{text}");
    let mut client = common::Wire::connect(peer).expect("it accepts");
    client.send(&Request::Ping).expect("it reads");
    assert_eq!(client.reply().error(), ErrorCode::WrongPort);
    client.assert_closed();
    // Whoever it was, the node serves on.
    cluster.put(b"still", b"here");
}

#[test]
fn a_stranger_that_says_anything_changes_nothing() {
    let cluster = Cluster::start(3);
    cluster.put(b"k", b"v");
    let target = cluster.follower();
    let peer = cluster.node(target).peer;
    let before = cluster.node(target).field("term");
    let hello = PeerHello { wanted: NodeId(target), ..hello() };
    let vote = PeerMessage::PreVote { last: (LogIndex(1 << 40), Term(1 << 40)) };
    let mut socket = TcpStream::connect(peer).expect("the peer port accepts");
    let mut bytes = Vec::new();
    peer::encode(&PeerFrame::Hello(hello), &mut bytes).expect("it fits");
    socket.write_all(&bytes).expect("it reads");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut reply = [0; 24];
    socket.read_exact(&mut reply).expect("a welcome");
    bytes.clear();
    peer::encode(&PeerFrame::Raft(Term((1 << 40) + 1), vote), &mut bytes).expect("it fits");
    // And half a frame.
    bytes.extend_from_slice(&[0, 1, 0, 0, 1, 0x45]);
    socket.write_all(&bytes).expect("it reads");
    cluster.put(b"k", b"w");
    assert_eq!(cluster.get(target, b"k").as_deref(), Some(&b"w"[..]));
    assert_eq!(cluster.node(target).field("term"), before);
}

#[test]
fn usage_that_cannot_work_is_refused_before_anything_is_touched() {
    let cluster = Cluster::prepared(1);
    let data = &cluster.node(1).data;
    for (args, why) in [
        (
            &["--initial-cluster", "2=127.0.0.1:1,3=127.0.0.1:2"][..],
            "this node, --node-id 1, is not in it",
        ),
        (&["--join", "--listen", "0.0.0.0:0"], "--advertise HOST:PORT"),
        (&["--join", "--initial-cluster", "1=127.0.0.1:1,2=127.0.0.1:2"], "--join"),
        (&["--election-timeout", "10ms"], "--election-timeout"),
    ] {
        let (code, stderr) = common::refused(data, args);
        assert_eq!(code, Some(2), "{args:?}: {stderr}");
        assert!(stderr.contains(why), "{args:?}: {stderr}");
        assert!(!data.exists(), "{args:?}");
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().map(|at| (taken, at)).expect("its address");
    let (code, stderr) = common::refused(data, &["--peer-listen", &taken.1.to_string()]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("--peer-listen") && !data.exists(), "{stderr}");
}
