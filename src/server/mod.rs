//! L5: the daemon: sockets, settings, signals, and the one loop that drives the [`node`](crate::node).
//!
//! | module | what |
//! |---|---|
//! | [`config`] | flags, environment, file |
//! | `event_loop` | the mio loop: turns, fairness, bounds, timers, signals |
//! | `connection` | one client connection as a state machine without a socket |
//! | `link` | a connection with its socket |
//! | `output`, `in_flight` | its unsent replies and unanswered request ids |
//! | `peers` | the other nodes: who is dialed, who has dialed, what goes between |
//! | `peer_link` | one connection between nodes as a state machine without a socket |
//! | `http` | `/healthz /readyz /status /metrics` |
//! | `counters` | what the loop counts |
//! | `service` | what the loop asks of the node |
//! | [`recover`] | the command `beachd recover` |
//! | [`rejoin`] | the command `beachd rejoin` |
//!
//! Architecture invariant: this is the only room that knows mio, and with [`client`](crate::client) the only one that
//! knows sockets. It decides nothing about data: whatever it answers by itself, it answers because the bytes were no
//! request, or because a bound of its own was reached.

pub mod config;
mod connection;
mod counters;
mod event_loop;
mod http;
mod in_flight;
mod link;
mod output;
mod peer_link;
mod peers;
mod process;
pub mod recover;
pub mod rejoin;
pub mod restore;
mod service;

pub use config::{Cli, Config, ConfigError};

use crate::base::ClusterUid;
use crate::env::os;
use crate::env::{Env, Random};
use crate::node::{Bootstrap, EngineMachine, FatalError, Node, NodeConfig, OpenError};
use crate::raft_log::RaftLog;
use config::Formation;
use connection::Timeouts;
use event_loop::{Addresses, Driven, EventLoop, Ports, Settings};
use mio::net::TcpListener;
use mio::{Poll, Token, Waker};
use peers::{Me, Peers};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook_mio::v1_0::Signals;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Why the daemon ended, other than by a clean drain. Exit code 1.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A port is in use, or not ours to open.
    #[error("cannot listen on the {what}, {address}: {source}")]
    Bind {
        /// Which port.
        what: &'static str,
        /// Its address.
        address: SocketAddr,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The loop's own descriptors failed.
    #[error("event loop: {0}")]
    Loop(#[from] io::Error),
    /// The data directory cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The node cannot promise durability any longer.
    #[error("fatal: {0}; every acknowledged write is safe, start again to recover")]
    Fatal(FatalError),
    /// The drain did not finish in time.
    #[error(
        "the drain did not finish within {0:?}; every acknowledged write is safe, the next start recovers the rest"
    )]
    DrainTimeout(Duration),
    /// A second signal came during the drain.
    #[error(
        "a second signal: stopped without finishing the drain; every acknowledged write is safe"
    )]
    Impatient,
}

/// Runs the daemon until it is told to stop. `Ok` after a clean drain.
///
/// Ports are opened before the data directory is touched, and the `ready` line is printed on stdout when the node
/// takes requests.
pub fn run(config: &Config) -> Result<(), ServerError> {
    let descriptors = process::raise_descriptor_limit();
    let max_connections = connections_within(config.max_connections, descriptors);
    let poll = Poll::new()?;
    let at = Addresses { listen: config.listen, peer: config.peer_listen, http: config.http };
    let ports = Ports::bind(&poll, at)?;
    let advertised = Advertised {
        client: advertised(config.advertise.as_ref(), &ports.listener)?,
        peer: advertised(config.advertise_peer.as_ref(), &ports.peer)?,
    };
    let waker = Waker::new(poll.registry(), Token(event_loop::WAKE))?;
    let env = os::env_with_wake(Arc::new(move || {
        if let Err(e) = waker.wake() {
            // The loop would sleep beside finished work for ever: better to stop here, where it can be seen.
            eprintln!("beachd: cannot wake the event loop: {e}");
            std::process::abort();
        }
    }));
    let node = open_node(config, &advertised, &env)?;
    let me = Me {
        replica: node.replica(),
        cluster_uid: node.cluster(),
        cluster: config.cluster_id.clone(),
        peer_address: advertised.peer,
        client_address: advertised.client,
    };
    let random = Box::new(os::OsRandom::new());
    let registry = poll.registry().try_clone()?;
    let peers = Peers::new(me, ports.peer, registry, Arc::clone(&env.jobs), random);
    let nanos = |d: Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
    let settings = Settings {
        max_connections,
        timeouts: Timeouts { idle: nanos(config.idle_timeout), frame: nanos(config.frame_timeout) },
        drain_timeout: nanos(config.drain_timeout),
        node_id: config.node_id.0,
        data_dir: config.data_dir.display().to_string(),
    };
    let signals = Signals::new([SIGTERM, SIGINT])?;
    let sockets = (ports.listener, ports.http);
    let driven = Driven { service: node, peers };
    let mut event_loop =
        EventLoop::new(poll, sockets, signals, env.clock, env.jobs, driven, settings)?;
    let result = event_loop.run();
    if result.is_err() || event_loop.is_resolving() {
        // A helper thread may be stuck in the kernel, or in a resolver. The end of the process ends it; waiting for it might
        // not.
        std::mem::forget(event_loop);
    }
    result
}

/// Where others reach this node; empty when nobody knows.
struct Advertised {
    client: String,
    peer: String,
}

/// What was given, or where it listens; nothing if that is every address of the machine.
fn advertised(given: Option<&String>, listener: &TcpListener) -> io::Result<String> {
    match (given, listener.local_addr()?) {
        (Some(given), _) => Ok(given.clone()),
        (None, at) if at.ip().is_unspecified() => Ok(String::new()),
        (None, at) => Ok(at.to_string()),
    }
}

/// Opens the data directory, or makes a new one.
fn open_node(
    config: &Config,
    advertised: &Advertised,
    env: &Env,
) -> Result<Node<RaftLog, EngineMachine>, OpenError> {
    let incarnation = os::OsRandom::new().next_u64();
    let cluster = config.cluster_id.as_str();
    let mut node = NodeConfig::new(&config.data_dir, cluster, config.node_id, incarnation);
    node.new_cluster = ClusterUid::drawn(os::OsRandom::new().next_u64());
    node.cache_bytes = config.cache;
    node.compression = config.compression;
    node.memtable_bytes = usize::try_from(config.memtable_size).unwrap_or(usize::MAX);
    node.segment_bytes = config.segment_size;
    // What a restart may need: one segment and one memtable.
    node.reserve_bytes = config.segment_size + config.memtable_size;
    node.snapshot_rate = config.snapshot_rate;
    node.peer_address.clone_from(&advertised.peer);
    node.client_address.clone_from(&advertised.client);
    node.bootstrap = match &config.formation {
        Formation::Alone => Bootstrap::Alone,
        Formation::Together(members) => Bootstrap::Initial(members.clone()),
        Formation::Join => Bootstrap::Join,
    };
    let nanos = |d: std::time::Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
    node.raft.heartbeat_ns = nanos(config.heartbeat);
    node.raft.election_timeout_ns = nanos(config.election_timeout);
    node.idle_timeout_ms = u32::try_from(config.idle_timeout.as_millis()).unwrap_or(u32::MAX);
    Node::open(node, env.clone())
}

/// As many connections as asked for, or as the descriptors allow beside log segments and tables.
fn connections_within(wanted: usize, descriptors: u64) -> usize {
    let reserved = config::RESERVED_DESCRIPTORS.min(descriptors / 4);
    let room = usize::try_from(descriptors - reserved).unwrap_or(usize::MAX).max(1);
    if room < wanted {
        log::warn!(
            "the process may open {descriptors} files, which is room for {room} connections, not {wanted}; \
             raise `ulimit -n` or lower --max-connections"
        );
    }
    room.min(wanted)
}

/// A line on stdout. A closed stdout is no reason to stop serving.
fn print_line(line: &str) {
    let mut out = io::stdout().lock();
    if let Err(e) = writeln!(out, "{line}").and_then(|()| out.flush()) {
        log::warn!("cannot write to stdout ({e}): {line}");
    }
}
