//! A network that can be broken: a namespace for each node and one for the clients, behind `scripts/netswitch.py`.
//!
//! ```text
//!   namespace 1        namespace 2        namespace 3        namespace 4
//!   beachd             beachd             beachd             all threads of the test: Network::inside
//!   10.77.0.1          10.77.0.2          10.77.0.3          10.77.0.4
//!      └───── TUN ────────┴─────── netswitch.py ┴─────── TUN ─────┘   ◄── cut, join, loss, delay, heal
//! ```
//!
//! - Nothing of it is seen outside: every network has the same addresses, and tests run side by side.
//! - A thread is in the clients' namespace with everything that it starts; the test's other threads stay where they are.
//! - It needs root, `ip`, `python3`, and `/dev/net/tun`. Where something is missing, [`Network::open`] says what.

use crate::black_box::cluster::Place;
use crate::black_box::{PATIENCE, is_root, skip, wait_until};
use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use tempfile::TempDir;

const SWITCH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/netswitch.py");
const NETWORK: &str = "10.77.0";

/// See the module.
pub struct Network {
    /// Of the nodes by their numbers, and then of the clients.
    namespaces: Vec<String>,
    switch: Child,
    control: UnixDatagram,
    dir: TempDir,
}

impl Network {
    /// For this many nodes; `None`, having said why, where there can be none.
    pub fn open(test: &str, nodes: u64) -> Option<Self> {
        let missing = missing();
        if let Some(why) = &missing {
            skip(test, why);
        }
        missing.is_none().then(|| Self::start(nodes))
    }

    fn start(nodes: u64) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let (process, net) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let namespaces: Vec<String> =
            (1..=nodes + 1).map(|n| format!("beach-test-{process}-{net}-{n}")).collect();
        for namespace in &namespaces {
            ip(&["netns", "add", namespace]);
        }
        // Not where TMPDIR says: the path of a socket is short.
        let dir = tempfile::tempdir_in("/tmp").expect("a directory");
        let log = File::create(dir.path().join("log")).expect("a log");
        let switch = Command::new("python3")
            .arg(SWITCH)
            .arg(dir.path())
            .arg(NETWORK)
            .args(&namespaces)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("python3 is there");
        let control = UnixDatagram::bind(dir.path().join("test.sock")).expect("a socket");
        control.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut network = Self { namespaces, switch, control, dir };
        wait_until("the switch", || {
            let ended = network.switch.try_wait().expect("our child");
            assert!(ended.is_none(), "the switch ended: {}", network.log());
            network.log().contains("netswitch ready")
        });
        network.control.connect(network.dir.path().join("switch.sock")).expect("it listens");
        network
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// The places of the nodes.
    pub fn places(&self) -> Vec<Place> {
        let nodes = self.namespaces.iter().zip(1..).take(self.namespaces.len() - 1);
        let place = |(namespace, n): (&String, u64)| {
            let at = |port: u16| -> SocketAddr {
                format!("{NETWORK}.{n}:{port}").parse().expect("an address")
            };
            let wrap = ["ip", "netns", "exec", namespace].map(str::to_owned).to_vec();
            Place { listen: at(7400), peer: at(7401), http: at(7402), wrap }
        };
        nodes.map(place).collect()
    }

    /// Runs a task, and all threads that it starts, where the clients are.
    pub fn inside<T: Send>(&self, task: impl FnOnce() -> T + Send) -> T {
        let clients = self.namespaces.last().expect("the clients'");
        let namespace = File::open(Path::new("/run/netns").join(clients)).expect("it was added");
        let outcome = thread::scope(|scope| {
            let moved = move || {
                // SAFETY: setns(2) with an open descriptor of a network namespace; it changes this thread alone.
                let entered = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
                assert_eq!(entered, 0, "setns: {}", std::io::Error::last_os_error());
                task()
            };
            scope.spawn(moved).join()
        });
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// A command to the switch; returns what it says.
    pub fn tell(&self, command: &str) -> String {
        self.control.send(command.as_bytes()).expect("the switch runs");
        let mut answer = [0; 4096];
        let len = self.control.recv(&mut answer).expect("the switch answers");
        let answer = String::from_utf8_lossy(&answer[..len]).into_owned();
        assert!(!answer.starts_with("error"), "{answer}");
        answer
    }

    /// No packet passes from one node to the other.
    pub fn cut(&self, from: u64, to: u64) {
        self.tell(&format!("cut {from} {to}"));
    }

    /// Nothing passes between these two.
    pub fn part(&self, a: u64, b: u64) {
        self.cut(a, b);
        self.cut(b, a);
    }

    /// All is well again.
    pub fn heal(&self) {
        self.tell("heal");
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // It may have failed: what is left of it is ended all the same.
        let stopped = self.control.send(b"stop").is_ok() && self.control.recv(&mut [0; 64]).is_ok();
        if !stopped {
            drop(self.switch.kill());
        }
        drop(self.switch.wait());
        for namespace in &self.namespaces {
            drop(Command::new("ip").args(["netns", "del", namespace]).output());
        }
    }
}

/// What namespaces need and is not here.
fn missing() -> Option<String> {
    if !is_root() {
        return Some("network namespaces need root".into());
    }
    if !Path::new("/dev/net/tun").exists() {
        return Some("there is no /dev/net/tun".into());
    }
    for program in ["ip", "python3"] {
        let version = Command::new(program).arg("-V").output();
        if !version.is_ok_and(|output| output.status.success()) {
            return Some(format!("there is no {program}"));
        }
    }
    None
}

fn ip(args: &[&str]) {
    let Output { status, stderr, .. } = Command::new("ip").args(args).output().expect("ip runs");
    assert!(status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&stderr));
}
