//! The command line.

use beachdb::base::units::{parse_bytes, parse_duration};
use clap::{Args as ClapArgs, Parser, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  beachctl put beach 'fine sand'          beachctl get beach
  beachctl get beach --with-seq           beachctl put 'a\\x00b' --file photo.jpg
  beachctl scan --prefix user/ --limit 10 beachctl scan a m --keys-only
  beachctl scan --reverse --limit 1       beachctl delete-range log/2025 log/2026
  beachctl batch changes.txt              lines: put K V, del K, delrange START END; all or nothing
  beachctl --exactly-once --timeout 30s batch changes.txt
  beachctl load --tsv data.tsv            KEY<TAB>VALUE lines; - is stdin
  beachctl --endpoints 10.0.0.1:7400,10.0.0.2:7400 status
  beachctl member list                    beachctl transfer-leader 2
  beachctl member add 4=10.0.0.4:7401     the address of its peer port; then: member promote 4
  beachctl member replace 3               node 3 has a new, empty disk and waits to be added
  beachctl checkpoint /backup/monday      on that node's machine; beachd restore --from /backup/monday
  beachctl verify --rate 64MiB            checks every block of its files, and waits for the result
  beachctl frame encode get beach         hex; pipe it through: xxd -r -p | nc -q1 HOST 7400
  beachctl frame explain 0000001801020000000000000000000200000000 91471fb5
  beachctl                                a prompt, on a terminal

Keys and values are text with \\xNN \\n \\r \\t \\\\ \\\" escapes; scan prints them so, with a tab between.

JSON (--json), one document unless it says lines:
  put, del, delete-range, batch  {\"index\",\"first_seq\",\"last_seq\",\"ops\"}
  get              {\"key\",\"found\",\"value\"?,\"seq\"?,\"applied\"?}, with --stale \"applied_index\",\"age_ms\" (null = never known)
  scan (lines)     {\"type\":\"entry\",\"key\",\"seq\",\"value\"?} then {\"type\":\"end\",\"count\",\"snapshot\",\"more\"}
  load             {\"lines\",\"batches\",\"first_seq\",\"last_seq\",\"seconds\",\"acknowledged_through\",\"resume_from\"}
  ping             {\"endpoint\",\"server\",\"node\",\"cluster\",\"us\"}
  status, stats    {\"nodes\":[{\"endpoint\",\"node\"?,\"status\"|\"stats\"|\"error\"}]}
  member list      the MEMBERS document: {\"node\",\"leader\",\"term\",\"index\",\"committed\",\"members\":[…]}
  member add, promote, remove   {\"node\",\"index\"};   replace   also \"replaced\"
  transfer-leader  {\"leader\"}
  checkpoint       {\"dir\",\"node\",\"index\",\"last_seq\",\"bytes\"}
  verify           {\"done\",\"rate\",\"ms\",\"bytes\",\"total_bytes\",\"tables\",\"manifests\",\"segments\",\"damaged\",\"faults\"}
  frame decode     (lines) {\"length\",\"version\",\"opcode\",\"no_crc\",\"request_id\",\"deadline_ms\"|\"status\",\"request\"|\"reply\"};
                   a frame between nodes: {\"length\",\"version\",\"opcode\",\"term\"?,\"peer\"}
  a failure        {\"error\":{\"code\",\"effect\",\"message\"}}, effect: none, not_applied, applied, or unknown

Exit code: 0 done, 1 failed or not found, 2 wrong usage or not available in this version.";

/// Talks to BeachDB.
#[derive(Parser, Debug)]
#[command(name = "beachctl", version = beachdb::VERSION, after_help = EXAMPLES)]
pub struct Args {
    /// Options of all commands.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Options of all commands.
#[derive(ClapArgs, Debug, Clone)]
pub struct Global {
    /// Client addresses of the nodes, tried in turn
    #[arg(
        long,
        global = true,
        env = "BEACHCTL_ENDPOINTS",
        value_delimiter = ',',
        value_name = "HOST:PORT,…",
        default_value = "127.0.0.1:7400"
    )]
    pub endpoints: Vec<String>,
    /// Deadline of each request, safe retries included
    #[arg(long, global = true, value_parser = parse_duration, default_value = "2s")]
    pub timeout: Duration,
    /// Insist on this cluster id
    #[arg(long, global = true, value_name = "NAME")]
    pub cluster: Option<String>,
    /// put, del, batch, load: try again until the deadline also when an answer is lost, and apply once. Registers a
    /// session, which costs one more commit; a prompt registers one for all its commands
    #[arg(long, global = true)]
    pub exactly_once: bool,
    /// JSON on stdout
    #[arg(long, global = true)]
    pub json: bool,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Set a key; done means durable
    Put(Put),
    /// Print the value of a key; exit 1 when there is none
    Get(Get),
    /// Print the values of several keys at one moment; exit 1 when one has none
    Mget(Mget),
    /// Delete a key
    Del(Del),
    /// Print the keys of a range or prefix, at one moment
    Scan(Scan),
    /// Apply a file of "put K V", "del K", and "delrange START END" lines atomically
    Batch(Batch),
    /// Put each line of a file, in batches, with progress
    Load(Load),
    /// Say who answers, and how fast
    Ping,
    /// The state of each endpoint's node; with one endpoint, of every member of its cluster
    Status,
    /// The figures of each endpoint's engine
    Stats,
    /// Encode, decode, and explain protocol frames; needs no server
    #[command(subcommand)]
    Frame(Frame),
    /// Who belongs to the cluster, and changes of that
    #[command(subcommand)]
    Member(Member),
    /// Let another voter lead
    TransferLeader(TransferLeader),
    /// Have the node rewrite its tables of a range of keys, so that space comes back now
    Compact(Compact),
    /// Have the node copy all its data into a new directory on its machine
    Checkpoint(Checkpoint),
    /// Have the node check every block of its files
    Verify(Verify),
    /// Delete all keys of a range, as one operation
    DeleteRange(DeleteRange),
}

impl Command {
    /// Its name on the command line.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Put(_) => "put",
            Self::Get(_) => "get",
            Self::Mget(_) => "mget",
            Self::Del(_) => "del",
            Self::Scan(_) => "scan",
            Self::Batch(_) => "batch",
            Self::Load(_) => "load",
            Self::Ping => "ping",
            Self::Status => "status",
            Self::Stats => "stats",
            Self::Frame(_) => "frame",
            Self::Member(_) => "member",
            Self::TransferLeader(_) => "transfer-leader",
            Self::Compact(_) => "compact",
            Self::Checkpoint(_) => "checkpoint",
            Self::Verify(_) => "verify",
            Self::DeleteRange(_) => "delete-range",
        }
    }
}

/// `put`.
#[derive(ClapArgs, Debug)]
pub struct Put {
    /// The key, text with escapes
    pub key: String,
    /// The value, text with escapes
    #[arg(
        required_unless_present = "file",
        conflicts_with = "file",
        allow_negative_numbers = true
    )]
    pub value: Option<String>,
    /// Read the value's bytes from a file; - is stdin
    #[arg(long)]
    pub file: Option<PathBuf>,
    /// KEY and VALUE are hex digits
    #[arg(long)]
    pub hex: bool,
    /// What must be true of the key.
    #[command(flatten)]
    pub conditions: Conditions,
}

/// What must be true of the key for the write to happen; else it exits 1 and nothing is written.
#[derive(ClapArgs, Debug)]
pub struct Conditions {
    /// Only if the key has no value
    #[arg(long, conflicts_with = "if_seq")]
    pub if_absent: bool,
    /// Only if the key's value is still the one of this sequence number, which get --with-seq prints
    #[arg(long, value_name = "SEQ", value_parser = clap::value_parser!(u64).range(1..))]
    pub if_seq: Option<u64>,
}

/// `get`.
#[derive(ClapArgs, Debug)]
pub struct Get {
    /// The key, text with escapes
    pub key: String,
    /// Print `SEQ<TAB>VALUE`: the sequence number of the write that set the key
    #[arg(long)]
    pub with_seq: bool,
    /// Read as of this sequence number
    #[arg(long, value_name = "SEQ")]
    pub snapshot: Option<u64>,
    /// Read what the node that answers has, however old; how old is said on stderr
    #[arg(long, conflicts_with = "snapshot")]
    pub stale: bool,
    /// KEY is hex digits, and so is the value printed
    #[arg(long)]
    pub hex: bool,
    /// Write exactly the value's bytes to a file; - is stdout. Without it a line end is added
    #[arg(long)]
    pub file: Option<PathBuf>,
}

/// `del`.
#[derive(ClapArgs, Debug)]
pub struct Del {
    /// The key, text with escapes
    pub key: String,
    /// KEY is hex digits
    #[arg(long)]
    pub hex: bool,
    /// What must be true of the key.
    #[command(flatten)]
    pub conditions: Conditions,
}

/// `mget`.
#[derive(ClapArgs, Debug)]
pub struct Mget {
    /// The keys, text with escapes
    #[arg(required = true, value_name = "KEY")]
    pub keys: Vec<String>,
    /// Read as of this sequence number
    #[arg(long, value_name = "SEQ")]
    pub snapshot: Option<u64>,
    /// The keys are hex digits, and so is what is printed
    #[arg(long)]
    pub hex: bool,
}

/// `delete-range`.
#[derive(ClapArgs, Debug)]
pub struct DeleteRange {
    /// The first key, text with escapes; empty: the first of all
    pub start: String,
    /// The first key that stays; empty: none does
    pub end: String,
    /// START and END are hex digits
    #[arg(long)]
    pub hex: bool,
}

/// `scan`.
#[derive(ClapArgs, Debug)]
pub struct Scan {
    /// The first key; without it, or empty: the first of all
    #[arg(conflicts_with = "prefix")]
    pub start: Option<String>,
    /// The first key past the range; without it, or empty: no end
    pub end: Option<String>,
    /// Every key that begins with this
    #[arg(long)]
    pub prefix: Option<String>,
    /// Most entries
    #[arg(long)]
    pub limit: Option<u64>,
    /// From the last key down
    #[arg(long)]
    pub reverse: bool,
    /// Leave the values out
    #[arg(long)]
    pub keys_only: bool,
    /// Read as of this sequence number
    #[arg(long, value_name = "SEQ")]
    pub snapshot: Option<u64>,
    /// Read what the node that answers has, however old; how old is said on stderr
    #[arg(long)]
    pub stale: bool,
    /// START, END, and PREFIX are hex digits, and so is what is printed
    #[arg(long)]
    pub hex: bool,
}

/// `batch`.
#[derive(ClapArgs, Debug)]
pub struct Batch {
    /// Lines "put K V", "del K", or "delrange START END"; tokens may be "quoted with \xNN"; # begins a comment line; - is stdin
    pub file: PathBuf,
}

/// `load`.
#[derive(ClapArgs, Debug)]
#[command(after_help = "\
Every line is KEY<TAB>VALUE, ended by a line feed; the value is everything after the first tab. Lines are sent in order, \
in batches, several batches in flight; each batch is atomic. When it fails, load says which lines are acknowledged \
(durable), which are not known, and which --resume-from goes on. Loading lines again is harmless: the same puts in \
the same order. With --exactly-once a batch whose answer is lost is sent again, and applied once; one batch is in \
flight at a time, so that a retry overtakes none, and larger ones (--batch-lines) make up for it.

The acknowledgement log gets one line a batch, when its answer arrived and in order:
  FIRST_LINE<TAB>LAST_LINE<TAB>FIRST_SEQ<TAB>LAST_SEQ")]
pub struct Load {
    /// The file; - is stdin
    pub file: PathBuf,
    /// Lines are `KEY<TAB>VALUE`
    #[arg(long, required = true)]
    pub tsv: bool,
    /// Resolve \xNN and the other escapes in keys and values, as scan prints them
    #[arg(long)]
    pub escapes: bool,
    /// Most lines in a batch
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub batch_lines: u32,
    /// Batches in flight [default: 8; with --exactly-once it is always one]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub pipeline: Option<u32>,
    /// Skip the lines before this one
    #[arg(long, default_value_t = 1, value_name = "LINE", value_parser = clap::value_parser!(u64).range(1..))]
    pub resume_from: u64,
    /// Append a line to this file for each acknowledged batch
    #[arg(long, value_name = "FILE")]
    pub ack_log: Option<PathBuf>,
}

/// `member`.
#[derive(Subcommand, Debug)]
pub enum Member {
    /// Print the members, as the leader knows them
    List,
    /// Add a node that waits to be added (beachd --join), as a learner: it gets the data and does not vote
    Add(MemberAdd),
    /// Let a learner vote; waits until it has caught up
    Promote(Promote),
    /// Take a node out of the cluster, the leader included
    Remove(Remove),
    /// Give a node's place to its new disk: remove, add, wait until it has caught up, promote. Can be run again after an
    /// interruption
    Replace(Replace),
}

/// A node and where its peers reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeAt {
    /// Its number.
    pub node: u64,
    /// `HOST:PORT` of its peer port.
    pub address: String,
}

fn parse_node_at(text: &str) -> Result<NodeAt, String> {
    let expected = || format!("{text:?}: expected N=HOST:PORT, as in 4=10.0.0.4:7401");
    let (node, address) = text.split_once('=').ok_or_else(expected)?;
    let node = node.parse().ok().filter(|node| *node > 0).ok_or_else(expected)?;
    Ok(NodeAt { node, address: parse_address(address).map_err(|_| expected())? })
}

fn parse_address(text: &str) -> Result<String, String> {
    let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    match port.and_then(|(_, port)| port.parse::<u16>().ok()) {
        Some(_) => Ok(text.to_owned()),
        None => Err(format!("{text:?}: expected HOST:PORT")),
    }
}

/// `member add`.
#[derive(ClapArgs, Debug)]
pub struct MemberAdd {
    /// Its number, no member's, and the address of its peer port
    #[arg(value_name = "N=HOST:PORT", value_parser = parse_node_at)]
    pub member: NodeAt,
}

/// How long to wait for a node to catch up.
#[derive(ClapArgs, Debug, Clone, Copy)]
pub struct Wait {
    /// How long to wait until it has caught up, with progress on stderr
    #[arg(long, value_parser = parse_duration, default_value = "10m")]
    pub wait: Duration,
}

/// `member promote`.
#[derive(ClapArgs, Debug)]
pub struct Promote {
    /// The learner's number
    #[arg(value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub node: u64,
    /// How long to wait for it.
    #[command(flatten)]
    pub wait: Wait,
}

/// `member remove`.
#[derive(ClapArgs, Debug)]
pub struct Remove {
    /// The member's number
    #[arg(value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub node: u64,
}

/// `member replace`.
#[derive(ClapArgs, Debug)]
pub struct Replace {
    /// The member's number
    #[arg(value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub node: u64,
    /// The address of its peer port; without it the one it had
    #[arg(long, value_name = "HOST:PORT", value_parser = parse_address)]
    pub peer: Option<String>,
    /// How long to wait for it.
    #[command(flatten)]
    pub wait: Wait,
}

/// `transfer-leader`.
#[derive(ClapArgs, Debug)]
pub struct TransferLeader {
    /// The voter that is to lead; without it the one that has most of the log
    #[arg(value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub node: Option<u64>,
}

/// `checkpoint`.
#[derive(ClapArgs, Debug)]
pub struct Checkpoint {
    /// The new directory, on the machine of the node that is asked (name one with --endpoints): absolute, or relative to its
    /// data directory. It must not exist
    #[arg(value_name = "DIR")]
    pub dir: String,
    /// How long to wait for it
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = parse_duration)]
    pub wait: Duration,
}

/// `verify`.
#[derive(ClapArgs, Debug)]
pub struct Verify {
    /// Most bytes a second that the node reads for it [default: no bound]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub rate: Option<u64>,
    /// Only begin it; `status` says how it goes
    #[arg(long)]
    pub no_wait: bool,
}

/// `compact`.
#[derive(ClapArgs, Debug)]
pub struct Compact {
    /// The first key, text with escapes; without it, or empty: the first of all
    pub start: Option<String>,
    /// The first key past them; without it, or empty: to the last one
    pub end: Option<String>,
    /// START and END are hex digits
    #[arg(long)]
    pub hex: bool,
    /// Only begin it; `stats` says how it goes
    #[arg(long)]
    pub no_wait: bool,
}

/// `frame`.
#[derive(Subcommand, Debug)]
pub enum Frame {
    /// Print a request frame: ping, get K, put K V, del K, `scan [START [END]] [LIMIT N]`, status, stats, hello
    Encode(FrameEncode),
    /// Print each frame as a line of JSON
    Decode(FrameInput),
    /// Print each row of each frame with its meaning
    Explain(FrameInput),
}

/// `frame encode`.
#[derive(ClapArgs, Debug)]
pub struct FrameEncode {
    /// The request's id
    #[arg(long, default_value_t = 1)]
    pub request_id: u64,
    /// Its deadline; without it the server's default
    #[arg(long, value_parser = parse_duration)]
    pub deadline: Option<Duration>,
    /// Leave the checksum out, for loopback
    #[arg(long)]
    pub no_crc: bool,
    /// Write the frame's bytes instead of hex
    #[arg(long)]
    pub raw: bool,
    /// The request, as typed into netcat
    #[arg(required = true, value_name = "REQUEST")]
    pub words: Vec<String>,
}

/// `frame decode` and `frame explain`.
#[derive(ClapArgs, Debug)]
pub struct FrameInput {
    /// Hex digits, spaces ignored; - reads them from stdin
    #[arg(required_unless_present = "file", value_name = "HEX")]
    pub hex: Vec<String>,
    /// Read the bytes themselves from a file; - is stdin
    #[arg(long, conflicts_with = "hex")]
    pub file: Option<PathBuf>,
    /// They are a batch, not frames
    #[arg(long)]
    pub batch: bool,
}
