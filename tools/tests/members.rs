//! The real `beachctl` against clusters of real `beachd`: members, leadership, a wiped disk, and status of everybody.

#![allow(clippy::disallowed_methods, reason = "black-box tests start programs and keep time")]

mod common;

use common::{Ran, beachctl, beachd_program};
use serde_json::Value;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);

/// A port nobody has now.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port")
}

struct Node {
    id: u64,
    data: PathBuf,
    listen: SocketAddr,
    peer: SocketAddr,
    process: Option<Child>,
}

impl Node {
    fn new(directory: &std::path::Path, id: u64) -> Self {
        let data = directory.join(format!("n{id}"));
        Self { id, data, listen: free_address(), peer: free_address(), process: None }
    }

    fn start(&mut self, args: &[&str]) {
        let log = std::fs::File::create(self.data.with_extension("log")).expect("a log");
        let own = [
            ("--node-id", self.id.to_string()),
            ("--listen", self.listen.to_string()),
            ("--peer-listen", self.peer.to_string()),
            ("--http", "off".to_owned()),
            ("--heartbeat", "20ms".to_owned()),
            ("--election-timeout", "200ms".to_owned()),
        ];
        let child = Command::new(beachd_program())
            .arg("--data-dir")
            .arg(&self.data)
            .args(own.iter().flat_map(|(name, value)| [*name, value.as_str()]))
            .args(args)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.process = Some(child.expect("beachd starts"));
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("it runs");
            process.wait().expect("it ends");
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Three nodes that have formed a cluster.
struct Cluster {
    nodes: Vec<Node>,
    directory: tempfile::TempDir,
}

impl Cluster {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut nodes: Vec<Node> = (1..=3).map(|id| Node::new(directory.path(), id)).collect();
        let list: Vec<String> = nodes.iter().map(|n| format!("{}={}", n.id, n.peer)).collect();
        for node in &mut nodes {
            node.start(&["--initial-cluster", &list.join(",")]);
        }
        let cluster = Self { nodes, directory };
        wait("a cluster", || cluster.ctl(&["put", "beach", "sand"]).code == Some(0));
        cluster
    }

    fn node(&mut self, id: u64) -> &mut Node {
        &mut self.nodes[id as usize - 1]
    }

    /// Runs beachctl with the endpoints of all.
    fn ctl(&self, args: &[&str]) -> Ran {
        let all: Vec<String> = self.nodes.iter().map(|node| node.listen.to_string()).collect();
        Self::ctl_at(&all.join(","), args)
    }

    fn ctl_at(endpoints: &str, args: &[&str]) -> Ran {
        beachctl(&[&["--endpoints", endpoints, "--timeout", "10s"], args].concat(), b"")
    }

    fn members(&self) -> Value {
        let mut document = Value::Null;
        wait("a leader", || {
            let ran = self.ctl(&["--json", "member", "list"]);
            document = serde_json::from_str(&ran.stdout).unwrap_or_default();
            document["leader"].is_u64()
        });
        document
    }

    fn leader(&self) -> u64 {
        self.members()["leader"].as_u64().expect("a leader")
    }
}

fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "{what} did not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn roles(document: &Value) -> Vec<(u64, String)> {
    let role = |m: &Value| (m["node"].as_u64().unwrap(), m["role"].as_str().unwrap().to_owned());
    document["members"].as_array().unwrap().iter().map(role).collect()
}

#[test]
fn a_node_is_added_promoted_made_the_leader_and_removed() {
    let mut cluster = Cluster::start();
    let mut fourth = Node::new(cluster.directory.path(), 4);
    let nobody = cluster.ctl(&["member", "add", &format!("4={}", fourth.peer)]);
    assert_eq!(nobody.code, Some(1));
    assert!(nobody.stderr.contains("not_applied"), "{nobody:?}");
    fourth.start(&["--join"]);
    let other = cluster.node(2).peer;
    let wrong = cluster.ctl(&["member", "add", &format!("4={other}")]);
    assert!(wrong.code == Some(1) && wrong.stderr.contains("node 2"), "{wrong:?}");
    let at = format!("4={}", fourth.peer);
    wait("the new node", || cluster.ctl(&["member", "add", &at]).code == Some(0));
    cluster.ctl(&["member", "promote", "4"]).ok();
    cluster.nodes.push(fourth);
    let voters = roles(&cluster.members());
    assert_eq!(voters.len(), 4);
    assert!(voters.iter().all(|(_, role)| role == "voter"), "{voters:?}");
    cluster.ctl(&["transfer-leader", "4"]).ok();
    wait("the transfer", || cluster.leader() == 4);
    // Who asks only a follower is sent to the leader, which it was not told of.
    let follower = cluster.nodes[0].listen.to_string();
    Cluster::ctl_at(&follower, &["put", "k", "v"]).ok();
    cluster.ctl(&["member", "remove", "4"]).ok();
    wait("another leader", || cluster.leader() != 4);
    assert_eq!(roles(&cluster.members()).len(), 3);
    assert_eq!(cluster.ctl(&["get", "k"]).ok(), "v\n");
}

#[test]
fn a_wiped_node_is_replaced_by_one_command_and_one_that_is_only_down_is_not() {
    let mut cluster = Cluster::start();
    let wiped = 1 + cluster.leader() % 3;
    cluster.node(wiped).kill();
    let name = wiped.to_string();
    wait("the silence", || cluster.ctl(&["member", "list"]).stdout.contains("not heard"));
    let down = cluster.ctl(&["member", "replace", &name]);
    assert!(down.code == Some(1) && down.stderr.contains("nothing was changed"), "{down:?}");
    assert_eq!(roles(&cluster.members()).len(), 3);
    let data = cluster.node(wiped).data.clone();
    std::fs::rename(&data, data.with_extension("old")).unwrap();
    cluster.node(wiped).start(&["--join"]);
    wait("the new life", || {
        let ran = cluster.ctl(&["member", "replace", &name]);
        assert!(ran.code == Some(0) || ran.stderr.contains("does not answer"), "{ran:?}");
        ran.code == Some(0)
    });
    let again = cluster.ctl(&["member", "replace", &name]).ok();
    assert!(again.contains("nothing to replace"), "{again}");
    assert!(roles(&cluster.members()).iter().all(|(_, role)| role == "voter"));
    let at = cluster.node(wiped).listen.to_string();
    assert_eq!(
        Cluster::ctl_at(&at, &["get", "beach"]).ok(),
        "sand\n",
        "linearizable, on a follower"
    );
}

#[test]
fn status_of_one_endpoint_shows_every_member_and_marks_who_does_not_answer() {
    let mut cluster = Cluster::start();
    let leader = cluster.leader();
    let dead = 1 + leader % 3;
    cluster.node(dead).kill();
    let at = cluster.node(leader).listen.to_string();
    let status = Cluster::ctl_at(&at, &["status"]);
    assert_eq!(status.code, Some(0), "{status:?}");
    let lines: Vec<&str> = status.stdout.lines().collect();
    assert_eq!(lines.len(), 4, "{status:?}");
    let of_dead = cluster.node(dead).listen.to_string();
    let line = lines.iter().find(|line| line.starts_with(&of_dead)).expect("its line");
    assert!(line.contains("unreachable"), "{line}");
    let status = Cluster::ctl_at(&at, &["--json", "status"]);
    let document: Value = serde_json::from_str(&status.stdout).unwrap();
    let nodes = document["nodes"].as_array().unwrap();
    assert_eq!(nodes.iter().filter(|node| node["status"]["leader"] == leader).count(), 2);
    assert_eq!(nodes.iter().filter(|node| node["error"].is_object()).count(), 1);
    // A stale read asks nobody: it goes on with the last node.
    cluster.node(leader).kill();
    let last = (1..=3).find(|id| *id != leader && *id != dead).unwrap();
    let at = cluster.node(last).listen.to_string();
    let stale = Cluster::ctl_at(&at, &["get", "--stale", "beach"]);
    assert_eq!(stale.stdout, "sand\n", "{stale:?}");
    let fresh = beachctl(&["--endpoints", &at, "--timeout", "1s", "get", "beach"], b"");
    assert_eq!(fresh.code, Some(1), "{fresh:?}");
}
