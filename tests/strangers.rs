//! Nodes that are no members, by the dozen, on the peer port of real processes: they take neither the members' places nor the
//! memory, and are not all dialed. And nodes that say one thing and then another.

#![allow(
    clippy::disallowed_methods,
    reason = "black-box tests use the file system, clocks, and threads"
)]

mod common;

use beachdb::base::{ClusterUid, LogIndex, NodeId, ReplicaId, Term};
use beachdb::proto::ErrorCode;
use beachdb::proto::frame::{self, CrcPolicy, Decoded};
use beachdb::proto::peer::{
    self, Lane, PEER_PROTOCOL_VERSION, PeerFrame, PeerHello, PeerMessage, PeerWelcome,
};
use beachdb::proto::request::AdminRequest;
use beachdb::proto::{Request, Response};
use common::cluster::Cluster;
use common::{PATIENCE, wait_until};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

/// HELLO of node `node` to whoever is there.
fn hello(node: u64, peer_address: &str) -> PeerHello {
    PeerHello {
        min_version: PEER_PROTOCOL_VERSION,
        max_version: PEER_PROTOCOL_VERSION,
        lane: Lane::Raft,
        features: 0,
        replica: ReplicaId { node: NodeId(node), incarnation: 0x5000 + node },
        wanted: NodeId(0),
        blank: true,
        list: 0,
        cluster_uid: ClusterUid::NONE,
        cluster: "beachdb".into(),
        peer_address: peer_address.into(),
        client_address: String::new(),
        software: "a test".into(),
    }
}

/// A connection that has said HELLO, and the answer; `None` when it was closed without one.
fn greet(to: SocketAddr, hello: PeerHello) -> (TcpStream, Option<PeerFrame>) {
    let mut socket = TcpStream::connect(to).expect("the peer port accepts");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut bytes = Vec::new();
    peer::encode(&PeerFrame::Hello(hello), &mut bytes).expect("it fits");
    socket.write_all(&bytes).expect("it reads");
    let answer = read_frame(&mut socket);
    (socket, answer)
}

/// The next frame but replies to PING; `None` at the end.
fn read_frame(socket: &mut TcpStream) -> Option<PeerFrame> {
    let mut input = Vec::new();
    let mut byte = [0; 1];
    while let Ok(1) = socket.read(&mut byte) {
        input.push(byte[0]);
        if let Ok(Decoded::Frame { .. }) = frame::decode(&input, CrcPolicy::Required) {
            return Some(peer::decode(input.into()).expect("a peer's frame"));
        }
    }
    None
}

fn refusal(answer: Option<&PeerFrame>) -> Option<ErrorCode> {
    match answer {
        Some(PeerFrame::Refused(error)) => Some(error.code),
        _ => None,
    }
}

#[test]
fn strangers_have_few_places_and_a_member_always_finds_one() {
    let mut cluster = Cluster::start(3);
    cluster.put(b"k", b"1");
    let at = cluster.node(1).peer;
    let mut held = Vec::new();
    let mut refused = 0;
    for node in 100..130 {
        let (socket, answer) = greet(at, hello(node, ""));
        match &answer {
            Some(PeerFrame::Welcome(_)) => held.push(socket),
            other => {
                assert_eq!(
                    refusal(other.as_ref()),
                    Some(ErrorCode::TooManyConnections),
                    "{other:?}"
                );
                refused += 1;
            }
        }
    }
    assert_eq!((held.len(), refused), (16, 14));
    // And four hundred that say nothing at all, again and again.
    let mut silent: Vec<TcpStream> = Vec::new();
    let mut knock = || {
        silent.clear();
        silent.extend((0..400).filter_map(|_| TcpStream::connect(at).ok()));
    };
    knock();
    let other = if cluster.leader() == 2 { 3 } else { 2 };
    cluster.kill(other);
    cluster.put(b"k", b"2");
    knock();
    cluster.spawn(other);
    cluster.wait_ready(&[other]);
    knock();
    wait_until("the member is linked again", || {
        let status = cluster.node(other).status().unwrap_or_default();
        let links = status["links"].as_array().cloned().unwrap_or_default();
        links.iter().any(|link| link["node"] == 1 && link["state"] == "up")
    });
    cluster.put(b"k", b"3");
    assert_eq!(cluster.get(other, b"k").as_deref(), Some(&b"3"[..]));
    drop(held);
}

/// The beginning of the largest frame there is.
fn half_a_frame(bytes: usize) -> Vec<u8> {
    let mut out = vec![0xaa; bytes];
    out[..8].copy_from_slice(&[0, 0xff, 0xff, 0, 1, 0x45, 0, 0]);
    out[16..20].fill(0);
    out
}

#[test]
fn halves_of_frames_from_strangers_are_bounded_together() {
    let cluster = Cluster::start(1);
    let daemon = cluster.node(1).daemon.as_ref().expect("it runs");
    let before = daemon.rss_bytes();
    let mut strangers = Vec::new();
    for node in 100..116 {
        let (socket, answer) = greet(cluster.node(1).peer, hello(node, ""));
        assert!(matches!(answer, Some(PeerFrame::Welcome(_))), "{answer:?}");
        strangers.push(socket);
    }
    let half = half_a_frame(12 << 20);
    for socket in &mut strangers {
        // Whoever is refused may be closed before everything is said.
        drop(socket.write_all(&half));
    }
    let grown = daemon.rss_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "{} MiB for strangers", grown >> 20);
    wait_until("it says why", || {
        cluster.node(1).log().contains("is disconnected: it sends more than there is room for")
    });
    let refused = common::metric(daemon, "beachd_peer_refused_total");
    assert!((14.0..=16.0).contains(&refused), "{refused} were refused");
    cluster.put(b"still", b"here");
}

#[test]
fn not_everybody_who_says_hello_is_dialed() {
    let mut cluster = Cluster::prepared(1);
    cluster.spawn_with(1, &["--join"]);
    wait_until("it waits", || cluster.node(1).field("not_ready_reason").contains("member add 1"));
    let mut held = Vec::new();
    for node in 100..160 {
        // Names that nobody has, and that take a resolver its time.
        let name = format!("nobody-{node}.invalid:7401");
        held.push(greet(cluster.node(1).peer, hello(node, &name)));
    }
    assert!(held.iter().all(|(_, answer)| matches!(answer, Some(PeerFrame::Welcome(_)))));
    let links =
        || cluster.node(1).status().map_or(0, |s| s["links"].as_array().map_or(0, Vec::len));
    wait_until("some are dialed", || links() > 0);
    assert_eq!(links(), 32, "as many as a cluster has members");
    assert!(cluster.node(1).log().contains("is no member and is not dialed"));
    drop(held);
    wait_until("they are forgotten", || links() == 0);
}

fn say(socket: &mut TcpStream, frame: &PeerFrame) {
    let mut bytes = Vec::new();
    peer::encode(frame, &mut bytes).expect("it fits");
    socket.write_all(&bytes).expect("it reads");
}

/// It was blank when it said HELLO, and another cluster of the same name has taken it since.
#[test]
fn whoever_comes_to_belong_to_another_cluster_is_not_heard_any_more() {
    let cluster = Cluster::start(1);
    let node = cluster.node(1);
    let dropped = || node.status().map_or(0, |s| s["peers"]["other_cluster"].as_u64().unwrap_or(0));
    let (mut socket, answer) = greet(node.peer, hello(9, ""));
    let Some(PeerFrame::Welcome(welcome)) = answer else { panic!("{answer:?}") };
    assert_eq!(welcome.cluster_uid.to_string(), node.field("cluster_uid"));
    // It belongs to nobody, and has nothing to say yet.
    let vote = PeerMessage::PreVote { last: (LogIndex(9), Term(9)) };
    say(&mut socket, &PeerFrame::Raft(Term(9), vote));
    wait_until("it is dropped", || dropped() == 1);
    say(&mut socket, &PeerFrame::Cluster(ClusterUid(0xbad)));
    let answer = read_frame(&mut socket);
    assert_eq!(refusal(answer.as_ref()), Some(ErrorCode::WrongCluster), "{answer:?}");
    let Some(PeerFrame::Refused(error)) = answer else { unreachable!() };
    for words in [welcome.cluster_uid.to_string(), ClusterUid(0xbad).to_string()] {
        assert!(error.message.contains(&words), "{error}");
    }
    // One that belongs to this very cluster is heard.
    let (mut socket, _) = greet(node.peer, hello(8, ""));
    say(&mut socket, &PeerFrame::Cluster(welcome.cluster_uid));
    let received = || node.status().map_or(0, |s| s["peers"]["received"].as_u64().unwrap_or(0));
    let before = received();
    let vote = PeerMessage::PreVote { last: (LogIndex(0), Term(0)) };
    say(&mut socket, &PeerFrame::Raft(Term(1), vote));
    wait_until("it is taken", || received() > before);
    assert_eq!(dropped(), 1);
}

/// The reply to HELLO, and nonsense behind it in the same packet: the link has ended before the node hears of it.
#[test]
fn a_node_that_answers_and_breaks_off_is_not_counted_on() {
    let mut cluster = Cluster::prepared(3);
    for node in [2, 3] {
        let listener = TcpListener::bind(cluster.node(node).peer).expect("its port");
        thread::spawn(move || {
            for socket in listener.incoming() {
                let mut socket = socket.expect("a connection");
                let Some(PeerFrame::Hello(hello)) = read_frame(&mut socket) else { continue };
                let welcome = PeerWelcome {
                    version: PEER_PROTOCOL_VERSION,
                    features: hello.features,
                    replica: ReplicaId { node: NodeId(node), incarnation: node },
                    blank: true,
                    known: 0,
                    cluster_uid: ClusterUid::NONE,
                    cluster: hello.cluster,
                    peer_address: String::new(),
                    client_address: String::new(),
                    software: "a test".into(),
                };
                let mut bytes = Vec::new();
                peer::encode(&PeerFrame::Welcome(welcome), &mut bytes).expect("it fits");
                bytes.extend_from_slice(&[0x55; 40]);
                drop(socket.write_all(&bytes));
            }
        });
    }
    cluster.spawn(1);
    wait_until("both have answered", || {
        let log = cluster.node(1).log();
        [2, 3].iter().all(|node| log.contains(&format!("connection to node {node}")))
            || [2, 3].iter().all(|node| log.contains(&format!("cannot reach node {node}")))
    });
    thread::sleep(Duration::from_millis(500));
    assert_eq!(cluster.node(1).field("members"), "[]", "it has formed a cluster with nobody");
    assert!(cluster.node(1).field("not_ready_reason").contains("not reached yet"));
}

/// What a node says on a link that is up: as whom its membership knows the one who dialed.
#[test]
fn a_wiped_node_that_was_removed_is_told_to_be_added_and_not_to_be_replaced() {
    let mut cluster = Cluster::start(3);
    let wiped = cluster.follower();
    cluster.kill(wiped);
    std::fs::remove_dir_all(&cluster.node(wiped).data).expect("its disk is wiped");
    cluster.spawn(wiped);
    let reason = |cluster: &Cluster| cluster.node(wiped).field("not_ready_reason");
    wait_until("it finds out", || reason(&cluster).contains(&format!("member replace {wiped}")));
    let status = || cluster.node(wiped).status().unwrap_or_default();
    let since = status()["links"][0]["connected_ms"].as_u64();
    loop {
        let remove = Request::Admin(AdminRequest::Remove(NodeId(wiped)));
        let removed = cluster.node(cluster_leader(&cluster, wiped)).connect().ask(&remove);
        match removed.response {
            Response::Written { .. } => break,
            Response::Error(error) if error.code.retryable() => {
                thread::sleep(Duration::from_millis(20));
            }
            other => panic!("{other:?}"),
        }
    }
    wait_until("it is told anew", || reason(&cluster).contains(&format!("member add {wiped}")));
    let links = status()["links"].clone();
    let up = |link: &serde_json::Value| link["connected_ms"].as_u64() > since;
    assert!(links.as_array().is_some_and(|links| links.iter().any(up)), "redialed: {links}");
}

/// Who leads, though this node does not know.
fn cluster_leader(cluster: &Cluster, but: u64) -> u64 {
    let mut found = 0;
    wait_until("a leader", || {
        let leads =
            |node: &&common::cluster::Node| node.id != but && node.field("role") == "leader";
        found = cluster.running().find(leads).map_or(0, |node| node.id);
        found != 0
    });
    found
}
