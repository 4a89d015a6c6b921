//! `beachd`'s settings: flag, environment, and config file name the same things.
//!
//! ```text
//! --data-dir DIR   >   BEACHD_DATA_DIR=DIR   >   data-dir = "DIR" in the file   >   the default
//! ```
//!
//! - [`Cli`] is the command line with the environment behind it (clap reads both). [`Settings`] is the part that a
//!   file may hold as well, every field optional. [`Config`] is the result: complete, checked, with addresses resolved.
//! - A key in the file that is no setting is an error that names the file and the line; so is a value of a wrong form.
//! - Everything refused here is wrong usage: exit code 2, before anything was opened or changed.
//!
//! What it does not do: it never touches the data directory, and it does not resolve the names of other nodes: whoever dials
//! them does, each time.

use super::recover::RecoverArgs;
use super::rejoin::RejoinArgs;
use super::restore::{RestoreArgs, VerifyArgs};
use crate::base::NodeId;
use crate::base::units::{UnitError, parse_bytes, parse_duration};
use crate::env::{Disk, OpenMode};
use crate::limits;
use crate::sstable::Compression;
use serde::{Deserialize, Deserializer, de};
use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A config file longer than this is not one.
const MAX_CONFIG_BYTES: u64 = 1 << 20;
/// File descriptors that are not connections: listeners, epoll, log segments, tables.
pub const RESERVED_DESCRIPTORS: u64 = 1_024;

const IDLE_TIMEOUT: Duration = Duration::from_mins(10);
const FRAME_TIMEOUT: Duration = Duration::from_secs(30);
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
const HEARTBEAT: Duration = Duration::from_millis(100);
const ELECTION_TIMEOUT: Duration = Duration::from_secs(1);

const EXAMPLES: &str = "\
Examples:
  beachd                                        a durable database of one node, in ./beachd-data
  beachd --data-dir /var/lib/beachdb --listen 0.0.0.0:7400
  beachd --listen 127.0.0.1:0 --http off        a port picked by the system, printed in the `ready` line
  BEACHD_MAX_CONNECTIONS=500 beachd --config /etc/beachd.toml

A cluster of three, on three machines (each is started with the same list):
  beachd --node-id 1 --listen 10.0.0.1:7400 --peer-listen 10.0.0.1:7401 \\
         --initial-cluster 1=10.0.0.1:7401,2=10.0.0.2:7401,3=10.0.0.3:7401
A fourth node for a cluster that runs:
  beachd --node-id 4 --listen 10.0.0.4:7400 --peer-listen 10.0.0.4:7401 --join
  beachctl --endpoints 10.0.0.1:7400 member add 4 10.0.0.4:7401

The config file holds the same names without the dashes in front, one `name = value` a line:
  data-dir = \"/var/lib/beachdb\"
  memtable-size = \"128MiB\"
  idle-timeout = \"5m\"
The flag wins over the environment (BEACHD_DATA_DIR, ...), and that over the file.

Exit codes: 0 stopped as asked (SIGTERM, SIGINT), 1 failed, 2 wrong usage.";

/// The command line.
#[derive(clap::Parser, Debug, Default)]
#[command(
    name = "beachd",
    version,
    about = "The BeachDB daemon: a durable key-value database over TCP",
    after_help = EXAMPLES,
    args_conflicts_with_subcommands = true
)]
pub struct Cli {
    /// Read settings from this TOML file
    #[arg(long, env = "BEACHD_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The settings.
    #[command(flatten)]
    pub settings: Settings,
    /// Something other than running the daemon.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What `beachd` does besides running.
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// Make the data directory of a new cluster of one from a checkpoint, after checking all of it
    Restore(RestoreArgs),
    /// Check every block of a data directory or a checkpoint that nobody works in; changes nothing
    Verify(VerifyArgs),
    /// Give up this member's damaged copy of the data and come back as a new member
    Rejoin(RejoinArgs),
    /// Make this node a new cluster of itself when the old one has lost its quorum for ever; can lose acknowledged writes
    Recover(RecoverArgs),
}

/// What the command line, the environment, and the file may set.
#[derive(clap::Args, Deserialize, Debug, Default, Clone)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Settings {
    /// Where the data is kept; created if missing [default: ./beachd-data]
    #[arg(long, env = "BEACHD_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where clients connect; port 0 lets the system pick one [default: 127.0.0.1:7400]
    #[arg(long, env = "BEACHD_LISTEN", value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// Where other nodes connect [default: 127.0.0.1:7401]
    #[arg(long, env = "BEACHD_PEER_LISTEN", value_name = "HOST:PORT")]
    pub peer_listen: Option<String>,
    /// Where /healthz, /readyz, /status, and /metrics are served; `off` for nowhere [default: 127.0.0.1:7402]
    #[arg(long, env = "BEACHD_HTTP", value_name = "HOST:PORT|off")]
    pub http: Option<String>,
    /// This node's number, fixed when the data directory is created [default: 1]
    #[arg(long, env = "BEACHD_NODE_ID", value_name = "N")]
    pub node_id: Option<u64>,
    /// The cluster's name, fixed when the data directory is created [default: beachdb]
    #[arg(long, env = "BEACHD_CLUSTER_ID", value_name = "NAME")]
    pub cluster_id: Option<String>,
    /// The members of a new cluster, this node among them, each started with the same list; a directory that belongs to a
    /// cluster ignores it [default: this node alone]
    #[arg(long, env = "BEACHD_INITIAL_CLUSTER", value_name = "1=HOST:PEERPORT,...")]
    pub initial_cluster: Option<String>,
    /// Wait until the leader of a running cluster adds this node (beachctl member add)
    #[arg(long, env = "BEACHD_JOIN", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub join: Option<bool>,
    /// The address clients are told to use [default: --listen]
    #[arg(long, env = "BEACHD_ADVERTISE", value_name = "HOST:PORT")]
    pub advertise: Option<String>,
    /// The address other nodes are told to use [default: this node's in --initial-cluster, or --peer-listen]
    #[arg(long, env = "BEACHD_ADVERTISE_PEER", value_name = "HOST:PORT")]
    pub advertise_peer: Option<String>,
    /// What is logged to stderr: off, error, warn, info, debug, trace, or module=level,... [default: info]
    #[arg(long, env = "BEACHD_LOG", value_name = "LEVEL")]
    pub log: Option<String>,

    /// Client connections at once; the next one is told TOO_MANY_CONNECTIONS [default: 10000]
    #[arg(long, env = "BEACHD_MAX_CONNECTIONS", value_name = "N", help_heading = "Tuning")]
    pub max_connections: Option<usize>,
    /// A connection on which nothing happens for this long is closed [default: 10m]
    #[arg(long, env = "BEACHD_IDLE_TIMEOUT", value_name = "TIME", value_parser = parse_duration, help_heading = "Tuning")]
    #[serde(deserialize_with = "duration")]
    pub idle_timeout: Option<Duration>,
    /// A request that is not complete this long after its first byte, or a client that takes none of its replies for
    /// this long, loses its connection [default: 30s]
    #[arg(long, env = "BEACHD_FRAME_TIMEOUT", value_name = "TIME", value_parser = parse_duration, help_heading = "Tuning")]
    #[serde(deserialize_with = "duration")]
    pub frame_timeout: Option<Duration>,
    /// After SIGTERM or SIGINT, queued requests have this long to finish [default: 10s]
    #[arg(long, env = "BEACHD_DRAIN_TIMEOUT", value_name = "TIME", value_parser = parse_duration, help_heading = "Tuning")]
    #[serde(deserialize_with = "duration")]
    pub drain_timeout: Option<Duration>,
    /// A leader speaks to every follower at least this often; the same on all nodes [default: 100ms]
    #[arg(long, env = "BEACHD_HEARTBEAT", value_name = "TIME", value_parser = parse_duration, help_heading = "Tuning")]
    #[serde(deserialize_with = "duration")]
    pub heartbeat: Option<Duration>,
    /// Without a word from a leader for this long (to twice this, at random) another one is elected; at least four heartbeats,
    /// and the same on all nodes [default: 1s]
    #[arg(long, env = "BEACHD_ELECTION_TIMEOUT", value_name = "TIME", value_parser = parse_duration, help_heading = "Tuning")]
    #[serde(deserialize_with = "duration")]
    pub election_timeout: Option<Duration>,
    /// Writes are collected in memory up to this size, then become a table [default: 64MiB]
    #[arg(long, env = "BEACHD_MEMTABLE_SIZE", value_name = "SIZE", value_parser = parse_bytes, help_heading = "Tuning")]
    #[serde(deserialize_with = "bytes")]
    pub memtable_size: Option<u64>,
    /// Memory for blocks of tables and for the indexes and filters of open ones, 0 to 1TiB [default: 64MiB]
    #[arg(long, env = "BEACHD_CACHE", value_name = "SIZE", value_parser = parse_bytes, help_heading = "Tuning")]
    #[serde(deserialize_with = "bytes")]
    pub cache: Option<u64>,
    /// How new tables are stored: none or lz4. Tables of either kind are read; nodes older than this setting take no lz4 ones
    /// [default: none]
    #[arg(long, env = "BEACHD_COMPRESSION", value_name = "KIND", help_heading = "Tuning")]
    #[serde(deserialize_with = "compression")]
    pub compression: Option<Compression>,
    /// The size of one file of the log, zero-filled ahead of use [default: 64MiB]
    #[arg(long, env = "BEACHD_SEGMENT_SIZE", value_name = "SIZE", value_parser = parse_bytes, help_heading = "Tuning")]
    #[serde(deserialize_with = "bytes")]
    pub segment_size: Option<u64>,
    /// Most bytes a second that a leader sends of snapshots, to all nodes that catch up together, at least 64KiB; `off` for no
    /// bound. Entries and heartbeats have connections of their own and are not bound [default: off]
    #[arg(long, env = "BEACHD_SNAPSHOT_RATE", value_name = "SIZE|off", value_parser = parse_rate, help_heading = "Tuning")]
    #[serde(deserialize_with = "rate")]
    pub snapshot_rate: Option<u64>,
}

/// `off` is 0.
fn parse_rate(text: &str) -> Result<u64, UnitError> {
    if text == "off" { Ok(0) } else { parse_bytes(text) }
}

/// The text of a rate in a file; a bare number is bytes a second.
fn rate<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a size a second, like \"64MiB\", or \"off\"")]
    enum Rate {
        Number(u64),
        Text(String),
    }
    match Rate::deserialize(from)? {
        Rate::Number(n) => Ok(Some(n)),
        Rate::Text(text) => parse_rate(&text).map(Some).map_err(de::Error::custom),
    }
}

/// The text of a size in a file; a bare number is bytes.
fn bytes<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a size, like \"64MiB\"")]
    enum Size {
        Number(u64),
        Text(String),
    }
    match Size::deserialize(from)? {
        Size::Number(n) => Ok(Some(n)),
        Size::Text(text) => parse_bytes(&text).map(Some).map_err(de::Error::custom),
    }
}

/// The name of a compression in a file.
fn compression<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Compression>, D::Error> {
    String::deserialize(from)?.parse().map(Some).map_err(de::Error::custom)
}

/// The text of a duration in a file.
fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(from)?;
    parse_duration(&text).map(Some).map_err(de::Error::custom)
}

/// The complete, checked configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The data directory as given.
    pub data_dir: PathBuf,
    /// The client port.
    pub listen: SocketAddr,
    /// The peer port.
    pub peer_listen: SocketAddr,
    /// The HTTP port; none when it is off.
    pub http: Option<SocketAddr>,
    /// This node.
    pub node_id: NodeId,
    /// How a new data directory becomes a member.
    pub formation: Formation,
    /// Where clients reach this node; none: at the client port.
    pub advertise: Option<String>,
    /// Where other nodes reach this node; none: at the peer port.
    pub advertise_peer: Option<String>,
    /// See [`Settings::heartbeat`].
    pub heartbeat: Duration,
    /// See [`Settings::election_timeout`].
    pub election_timeout: Duration,
    /// The cluster's name.
    pub cluster_id: String,
    /// The log filter.
    pub log: String,
    /// Most client connections.
    pub max_connections: usize,
    /// See [`Settings::idle_timeout`].
    pub idle_timeout: Duration,
    /// See [`Settings::frame_timeout`].
    pub frame_timeout: Duration,
    /// See [`Settings::drain_timeout`].
    pub drain_timeout: Duration,
    /// See [`Settings::memtable_size`].
    pub memtable_size: u64,
    /// See [`Settings::cache`].
    pub cache: u64,
    /// See [`Settings::compression`].
    pub compression: Compression,
    /// See [`Settings::segment_size`].
    pub segment_size: u64,
    /// See [`Settings::snapshot_rate`]; `None`: no bound.
    pub snapshot_rate: Option<u64>,
}

/// How a new data directory becomes a member of a cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Formation {
    /// It is a cluster of one.
    Alone,
    /// It forms one with these, itself among them: numbers and peer addresses.
    Together(BTreeMap<NodeId, String>),
    /// It waits to be added.
    Join,
}

/// Why the settings cannot be used. Always wrong usage: exit code 2.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the config file: {0}")]
    Unreadable(#[from] crate::env::IoError),
    /// The file is not TOML, or has an unknown key or a value of a wrong form. The message names the line.
    #[error("config file {}: {message}", path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// Line, column, and what is wrong there.
        message: String,
    },
    /// A value that has the right form and cannot be used.
    #[error("--{setting} {value}: {why}")]
    BadValue {
        /// The setting's name.
        setting: &'static str,
        /// Its value.
        value: String,
        /// Why not.
        why: String,
    },
    /// It listens everywhere, so others cannot be told where.
    #[error(
        "--{listen_setting} {listen} is every address of this machine, so other nodes cannot be told which one to use: \
         say it with --{setting} HOST:PORT"
    )]
    NoAddress {
        /// The setting that is missing.
        setting: &'static str,
        /// The one that listens.
        listen_setting: &'static str,
        /// Its value.
        listen: SocketAddr,
    },
    /// A command that is no daemon and has no settings.
    #[error("{command} takes no settings of the daemon")]
    NotADaemon {
        /// The command.
        command: &'static str,
    },
}

impl Config {
    /// Puts the command line, the environment (which clap has read into `cli`), and the file together.
    pub fn load(cli: Cli, disk: &dyn Disk) -> Result<Self, ConfigError> {
        if let Some(Command::Restore(_)) = cli.command {
            return Err(ConfigError::NotADaemon { command: "beachd restore" });
        }
        if let Some(Command::Verify(_)) = cli.command {
            return Err(ConfigError::NotADaemon { command: "beachd verify" });
        }
        if let Some(Command::Rejoin(_)) = cli.command {
            return Err(ConfigError::NotADaemon { command: "beachd rejoin" });
        }
        if let Some(Command::Recover(_)) = cli.command {
            return Err(ConfigError::NotADaemon { command: "beachd recover" });
        }
        let file = match &cli.config {
            Some(path) => read_file(path, disk)?,
            None => Settings::default(),
        };
        Self::from_settings(cli.settings.or(file))
    }

    /// Fills in the defaults and checks every value.
    fn from_settings(s: Settings) -> Result<Self, ConfigError> {
        let node_id = s.node_id.unwrap_or(1);
        check("node-id", node_id, 1..=u64::MAX, "node numbers begin at 1")?;
        let (formation, listed) = formation(&s, NodeId(node_id))?;
        let listen = resolve("listen", s.listen.as_deref().unwrap_or("127.0.0.1:7400"))?;
        let peer_listen =
            resolve("peer-listen", s.peer_listen.as_deref().unwrap_or("127.0.0.1:7401"))?;
        let several = formation != Formation::Alone;
        let advertise = advertised(("advertise", "listen"), s.advertise, None, listen, several)?;
        let peer = ("advertise-peer", "peer-listen");
        let advertise_peer = advertised(peer, s.advertise_peer, listed, peer_listen, several)?;
        let heartbeat = s.heartbeat.unwrap_or(HEARTBEAT);
        check("heartbeat", heartbeat.as_millis(), 5..=10_000, "5ms to 10s")?;
        let election_timeout = s.election_timeout.unwrap_or(ELECTION_TIMEOUT.max(4 * heartbeat));
        check("election-timeout", election_timeout.as_millis(), 50..=60_000, "50ms to 1m")?;
        if election_timeout < 4 * heartbeat {
            let why = format!("expected at least four heartbeats of {heartbeat:?}");
            let value = format!("{election_timeout:?}");
            return Err(ConfigError::BadValue { setting: "election-timeout", value, why });
        }
        let cluster_id = s.cluster_id.unwrap_or_else(|| "beachdb".into());
        check_cluster_name(&cluster_id)?;
        let max_connections = s.max_connections.unwrap_or(limits::DEFAULT_MAX_CONNECTIONS);
        check("max-connections", max_connections, 1..=1_000_000, "1 to 1000000")?;
        let idle_timeout = s.idle_timeout.unwrap_or(IDLE_TIMEOUT);
        check_timeout("idle-timeout", idle_timeout)?;
        let frame_timeout = s.frame_timeout.unwrap_or(FRAME_TIMEOUT);
        check_timeout("frame-timeout", frame_timeout)?;
        let drain_timeout = s.drain_timeout.unwrap_or(DRAIN_TIMEOUT);
        check_timeout("drain-timeout", drain_timeout)?;
        let memtable_size = s.memtable_size.unwrap_or(limits::DEFAULT_MEMTABLE_BYTES as u64);
        check("memtable-size", memtable_size, 1 << 20..=2 << 30, "1MiB to 2GiB")?;
        let cache = s.cache.unwrap_or(limits::DEFAULT_CACHE_BYTES);
        check("cache", cache, 0..=1 << 40, "0 to 1TiB")?;
        let compression = s.compression.unwrap_or_default();
        let segment_size = s.segment_size.unwrap_or(limits::DEFAULT_SEGMENT_BYTES);
        let smallest = 2 * limits::MAX_GROUP_BYTES as u64;
        check("segment-size", segment_size, smallest..=2 << 30, "32MiB to 2GiB")?;
        let snapshot_rate = s.snapshot_rate.filter(|rate| *rate > 0);
        if let Some(rate) = snapshot_rate {
            check(
                "snapshot-rate",
                rate,
                limits::MIN_SNAPSHOT_RATE..=1 << 40,
                "64KiB to 1TiB, or off",
            )?;
        }
        let http = match s.http.as_deref().unwrap_or("127.0.0.1:7402") {
            "off" => None,
            address => Some(resolve("http", address)?),
        };
        Ok(Self {
            data_dir: s.data_dir.unwrap_or_else(|| PathBuf::from("./beachd-data")),
            listen,
            peer_listen,
            http,
            node_id: NodeId(node_id),
            formation,
            advertise,
            advertise_peer,
            heartbeat,
            election_timeout,
            cluster_id,
            log: s.log.unwrap_or_else(|| "info".into()),
            max_connections,
            idle_timeout,
            frame_timeout,
            drain_timeout,
            memtable_size,
            cache,
            compression,
            segment_size,
            snapshot_rate,
        })
    }
}

impl Settings {
    /// Every setting of `self`, and of `other` where `self` has none.
    fn or(self, other: Self) -> Self {
        macro_rules! each {
            ($($field:ident),* $(,)?) => { Self { $($field: self.$field.or(other.$field)),* } };
        }
        each!(
            data_dir,
            listen,
            peer_listen,
            http,
            node_id,
            cluster_id,
            initial_cluster,
            join,
            advertise,
            advertise_peer,
            log,
            max_connections,
            idle_timeout,
            frame_timeout,
            drain_timeout,
            heartbeat,
            election_timeout,
            memtable_size,
            cache,
            compression,
            segment_size,
            snapshot_rate,
        )
    }
}

fn read_file(path: &Path, disk: &dyn Disk) -> Result<Settings, ConfigError> {
    let bad = |message: String| ConfigError::BadFile { path: path.to_path_buf(), message };
    let file = disk.open(path, OpenMode::Read)?;
    let len = file.len()?;
    if len > MAX_CONFIG_BYTES {
        return Err(bad(format!("{len} bytes is too long for a config file")));
    }
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(0, &mut bytes)?;
    let text = std::str::from_utf8(&bytes).map_err(|e| bad(format!("not UTF-8: {e}")))?;
    toml::from_str(text).map_err(|e| bad(e.to_string()))
}

fn check<T: PartialOrd + ToString>(
    setting: &'static str,
    value: T,
    range: std::ops::RangeInclusive<T>,
    expected: &str,
) -> Result<(), ConfigError> {
    if range.contains(&value) {
        return Ok(());
    }
    let why = format!("out of range, expected {expected}");
    Err(ConfigError::BadValue { setting, value: value.to_string(), why })
}

/// Shorter than this, honest clients would be cut off; longer, adding it to a clock could overflow.
fn check_timeout(setting: &'static str, value: Duration) -> Result<(), ConfigError> {
    check(setting, value.as_millis(), 100..=365 * 86_400_000, "100ms to a year")
}

fn check_cluster_name(name: &str) -> Result<(), ConfigError> {
    let fits = (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if fits {
        return Ok(());
    }
    let why = "expected 1 to 64 letters, digits, `-`, `_`, or `.`".into();
    Err(ConfigError::BadValue { setting: "cluster-id", value: name.into(), why })
}

/// The first address that `address` stands for.
fn resolve(setting: &'static str, address: &str) -> Result<SocketAddr, ConfigError> {
    let bad = |why: String| ConfigError::BadValue { setting, value: address.into(), why };
    let mut found = address
        .to_socket_addrs()
        .map_err(|e| bad(format!("{e}; expected HOST:PORT, like 127.0.0.1:7400")))?;
    found.next().ok_or_else(|| bad("the name has no address".into()))
}

/// What `--initial-cluster` and `--join` say, and this node's own address in the list.
fn formation(s: &Settings, me: NodeId) -> Result<(Formation, Option<String>), ConfigError> {
    let join = s.join == Some(true);
    let Some(text) = s.initial_cluster.as_deref() else {
        return Ok((if join { Formation::Join } else { Formation::Alone }, None));
    };
    let bad =
        |why: String| ConfigError::BadValue { setting: "initial-cluster", value: text.into(), why };
    if join {
        return Err(bad("a node either begins a cluster or waits to be added (--join)".into()));
    }
    let mut members = BTreeMap::new();
    for member in text.split(',').map(str::trim) {
        let (id, address) = member
            .split_once('=')
            .ok_or_else(|| bad(format!("{member:?} is not of the form ID=HOST:PEERPORT")))?;
        let id = id.parse().ok().filter(|id| *id != 0);
        let id = id.ok_or_else(|| bad(format!("{member:?} does not begin with a node number")))?;
        check_address(address).map_err(bad)?;
        if members.values().any(|other| other == address) {
            return Err(bad(format!("{address} is the address of two nodes")));
        }
        if members.insert(NodeId(id), address.to_owned()).is_some() {
            return Err(bad(format!("node {id} is in it twice")));
        }
    }
    if members.len() > limits::MAX_MEMBERS {
        return Err(bad(format!("a cluster has at most {} members", limits::MAX_MEMBERS)));
    }
    let Some(mine) = members.get(&me).cloned() else {
        return Err(bad(format!("this node, --node-id {me}, is not in it")));
    };
    let formation =
        if members.len() == 1 { Formation::Alone } else { Formation::Together(members) };
    Ok((formation, Some(mine)))
}

/// An address that others are told: as it stands, for it may mean something only where they are.
fn check_address(address: &str) -> Result<(), String> {
    let form = || format!("{address:?} is not of the form HOST:PORT");
    let (host, port) = address.rsplit_once(':').ok_or_else(form)?;
    let port = port.parse::<u16>().map_err(|_| form())?;
    if host.is_empty() || !address.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(form());
    }
    if port == 0 {
        return Err(format!("{address:?} has port 0, where nobody can be reached"));
    }
    if address.len() > limits::MAX_ADDRESS_BYTES {
        return Err(format!("an address has at most {} bytes", limits::MAX_ADDRESS_BYTES));
    }
    Ok(())
}

/// The address that others are told; none: the one that is listened on. `several`: there are, or will be, others.
fn advertised(
    (setting, listen_setting): (&'static str, &'static str),
    given: Option<String>,
    listed: Option<String>,
    listen: SocketAddr,
    several: bool,
) -> Result<Option<String>, ConfigError> {
    if let Some(address) = given {
        return match check_address(&address) {
            Ok(()) => Ok(Some(address)),
            Err(why) => Err(ConfigError::BadValue { setting, value: address, why }),
        };
    }
    if listed.is_none() && several && listen.ip().is_unspecified() {
        return Err(ConfigError::NoAddress { setting, listen_setting, listen });
    }
    Ok(listed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::sim;
    use clap::Parser;

    fn load(args: &[&str], file: &str) -> Result<Config, ConfigError> {
        let (env, handles) = sim::env(1);
        handles.disk.write_file(Path::new("/beachd.toml"), file.as_bytes());
        let args = ["beachd", "--config", "/beachd.toml"].iter().chain(args);
        Config::load(Cli::try_parse_from(args).expect("the arguments parse"), &*env.disk)
    }

    #[test]
    fn no_setting_at_all_works() {
        let config = Config::from_settings(Settings::default()).unwrap();
        assert_eq!(config.listen, "127.0.0.1:7400".parse().unwrap());
        assert_eq!(config.http, Some("127.0.0.1:7402".parse().unwrap()));
        assert_eq!(config.data_dir, Path::new("./beachd-data"));
        assert_eq!(config.node_id, NodeId(1));
    }

    #[test]
    fn the_flag_wins_over_the_file() {
        let file = "node-id = 7\nmemtable-size = \"8MiB\"\nidle-timeout = \"5m\"\nhttp = \"off\"\n";
        let config = load(&["--node-id", "3"], file).unwrap();
        assert_eq!((config.node_id, config.memtable_size), (NodeId(3), 8 << 20));
        assert_eq!((config.idle_timeout, config.http), (Duration::from_mins(5), None));
    }

    #[test]
    fn a_rate_is_a_size_a_second_or_off() {
        assert_eq!(Config::from_settings(Settings::default()).unwrap().snapshot_rate, None);
        let file = "snapshot-rate = \"50MiB\"";
        assert_eq!(load(&[], file).unwrap().snapshot_rate, Some(50 << 20));
        assert_eq!(load(&["--snapshot-rate", "off"], file).unwrap().snapshot_rate, None);
        assert_eq!(load(&[], "snapshot-rate = 100000").unwrap().snapshot_rate, Some(100_000));
        let e = load(&["--snapshot-rate", "1KiB"], file).unwrap_err().to_string();
        assert!(e.contains("--snapshot-rate 1024") && e.contains("64KiB"), "{e}");
        assert!(load(&[], "snapshot-rate = \"fast\"").is_err());
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_file_line_and_key() {
        let e = load(&[], "node-id = 1\n\nmemtable-sise = \"8MiB\"\n").unwrap_err().to_string();
        assert!(e.contains("/beachd.toml") && e.contains("line 3"), "{e}");
        assert!(e.contains("unknown field `memtable-sise`"), "{e}");
    }

    #[test]
    fn a_value_of_a_wrong_form_is_an_error_that_names_the_line() {
        for (line, why) in [
            ("memtable-size = \"8M\"", "unit `M`"),
            ("idle-timeout = 5", "expected a string"),
            ("node-id = \"one\"", "u64"),
            ("node-id = ", "line 2"),
        ] {
            let e = load(&[], &format!("\n{line}\n")).unwrap_err().to_string();
            assert!(e.contains("line 2") && e.contains(why), "{line}: {e}");
        }
    }

    #[test]
    fn a_value_out_of_range_names_the_setting() {
        for args in [
            ["--node-id", "0"],
            ["--max-connections", "0"],
            ["--idle-timeout", "1ms"],
            ["--segment-size", "1MiB"],
            ["--memtable-size", "1KiB"],
            ["--cache", "2000GiB"],
            ["--listen", "nonsense"],
            ["--peer-listen", "nonsense"],
            ["--cluster-id", "two words"],
        ] {
            let e = load(&args, "").unwrap_err().to_string();
            assert!(e.starts_with(args[0]), "{args:?}: {e}");
        }
    }

    #[test]
    fn restore_is_no_daemon() {
        let args = ["beachd", "restore", "--from", "x", "--cluster-id", "y"];
        let cli = Cli::try_parse_from(args).unwrap();
        let e = Config::load(cli, &*sim::env(1).0.disk).unwrap_err();
        assert!(matches!(e, ConfigError::NotADaemon { .. }), "{e}");
    }

    #[test]
    fn a_cluster_is_a_list_with_this_node_in_it() {
        let config = load(&["--initial-cluster", "1=127.0.0.1:7401"], "").unwrap();
        assert_eq!(config.formation, Formation::Alone);
        assert_eq!(config.advertise_peer.as_deref(), Some("127.0.0.1:7401"));
        let list = "1=a:1, 2=b.example:2,3=[::1]:3";
        let config = load(&["--node-id", "2", "--initial-cluster", list], "").unwrap();
        let Formation::Together(members) = config.formation else { panic!("{config:?}") };
        assert_eq!(members[&NodeId(2)], "b.example:2");
        assert_eq!(config.advertise_peer.as_deref(), Some("b.example:2"));
        assert_eq!(load(&["--join"], "").unwrap().formation, Formation::Join);
        for (list, why) in [
            ("2=127.0.0.1:7401", "--node-id 1, is not in it"),
            ("2@host", "ID=HOST:PEERPORT"),
            ("1=host", "HOST:PORT"),
            ("1=host:0", "port 0"),
            ("1=host:70000", "HOST:PORT"),
            ("1=:7401", "HOST:PORT"),
            ("0=a:1,1=b:1", "does not begin with a node number"),
            ("1=a:1,1=b:1", "node 1 is in it twice"),
            ("1=a:1,2=a:1", "two nodes"),
            ("", "ID=HOST:PEERPORT"),
        ] {
            let e = load(&["--initial-cluster", list], "").unwrap_err().to_string();
            assert!(e.starts_with("--initial-cluster") && e.contains(why), "{list}: {e}");
        }
        let e = load(&["--join", "--initial-cluster", "1=a:1,2=b:1"], "").unwrap_err();
        assert!(e.to_string().contains("--join"), "{e}");
    }

    #[test]
    fn who_listens_everywhere_must_say_where_others_reach_it() {
        let list = "1=a:1,2=b:1";
        let everywhere = ["--listen", "0.0.0.0:7400", "--peer-listen", "[::]:7401"];
        let with = |more: &[&'static str]| load(&[&everywhere[..], more].concat(), "");
        assert!(with(&[]).is_ok(), "a cluster of one tells nobody");
        let e = with(&["--initial-cluster", list]).unwrap_err().to_string();
        assert!(e.contains("--advertise HOST:PORT"), "{e}");
        let config = with(&["--initial-cluster", list, "--advertise", "c:7400"]).unwrap();
        assert_eq!(config.advertise_peer.as_deref(), Some("a:1"), "the list says it");
        let e = with(&["--join", "--advertise", "c:7400"]).unwrap_err().to_string();
        assert!(e.contains("--advertise-peer HOST:PORT"), "{e}");
        let e = with(&["--advertise", "c"]).unwrap_err().to_string();
        assert!(e.starts_with("--advertise c"), "{e}");
    }

    #[test]
    fn an_election_takes_several_heartbeats() {
        let config = load(&["--heartbeat", "20ms", "--election-timeout", "150ms"], "").unwrap();
        assert_eq!(config.election_timeout, Duration::from_millis(150));
        let config = load(&[], "heartbeat = \"500ms\"\n").unwrap();
        assert_eq!(config.election_timeout, Duration::from_secs(2));
        for args in [
            &["--heartbeat", "1ms"][..],
            &["--heartbeat", "1m"],
            &["--election-timeout", "10ms", "--heartbeat", "5ms"],
            &["--election-timeout", "300ms"],
        ] {
            let e = load(args, "").unwrap_err().to_string();
            assert!(e.starts_with("--heartbeat") || e.starts_with("--election-timeout"), "{e}");
        }
    }
}
