//! The scripts of `../testscripts/*.txt`: protocol traces with their exact outcome.
//!
//! A line that begins a column is a command, indented lines below it are what it did, `#` begins a comment.
//! `BEACH_BLESS=1 cargo test -p beachdb --lib raft::testing::script` rewrites the outcomes; a change there is reviewed
//! as code. The commands are those of [`COMMANDS`]; `../testscripts/README.md` explains how outcomes read.
//!
//! Every script also passes the [`Checker`](super::check::Checker) at every step.

use super::cluster::Cluster;
use super::doubles::replica;
use super::show;
use crate::base::{LogIndex, Nanos, NodeId, Term};
use crate::raft::message::Message;
use crate::raft::{Change, Config, Event, HardState, LogView};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// All commands, for the README and for mistakes.
const COMMANDS: &[(&str, &str)] = &[
    (
        "set KEY VALUE",
        "before `cluster`: inflight-messages, inflight-bytes, append-bytes, uncommitted-bytes, lease-drift-ppm",
    ),
    ("cluster N", "voters 1..N, all up, with empty logs"),
    (
        "log N = T T … [term T] [vote V]",
        "node N has entries of these terms, and this hard state (else the last entry's term)",
    ),
    (
        "node N",
        "a new replica that waits to be added; of a crashed node: another incarnation with an empty disk",
    ),
    ("campaign N", "its clock moves to its election timeout"),
    ("elect N", "campaign, then settle"),
    ("tick N", "its clock moves to its next deadline"),
    ("beats N COUNT", "so many times: tick, deliver"),
    ("pass MS [N,N]", "clocks move on, of these nodes or of all; nobody looks at them"),
    ("propose N PAYLOAD…", "one group of payloads"),
    ("read N", "a linearizable read begins"),
    ("transfer N [TO]", "leadership is to be handed over"),
    ("add-learner N L", "node L, which `node` made"),
    ("promote N L", "learner L is to vote"),
    ("remove N M", "member M is to go"),
    ("sync [N [COUNT]]", "the oldest persists become durable: all, or COUNT of node N"),
    (
        "deliver [LINK] [KIND] [COUNT]",
        "messages arrive: without arguments until none is in flight, else those in flight now",
    ),
    ("drop [LINK] [KIND] [COUNT]", "messages are lost"),
    ("duplicate [LINK] [KIND] [COUNT]", "a second copy of each goes to the end"),
    ("reorder [LINK]", "messages in flight change places: last first"),
    ("hold LINK", "what is in flight there stays there, except for a `deliver` that names it"),
    ("release LINK", "no longer"),
    ("settle", "deliver and sync until nothing moves"),
    ("partition A,B|C", "nothing arrives between the groups"),
    ("block LINK", "nothing arrives over this link"),
    ("heal", "everything arrives again"),
    (
        "crash N [keep K]",
        "its memory is gone, and what was not synced, but for the first K records",
    ),
    ("restart N", "it comes up with what its disk has"),
    ("unreachable N M", "node N hears that its connection to M broke"),
    ("cold N I", "entries below I of node N's log must be read from the disk"),
    ("compact N I", "its applied state is on its disk, its log forgets what is up to I"),
    ("resend N M", "the piece of a snapshot that has no answer is sent again"),
    ("raft-log [N]", "the logs, the hard state that is durable"),
    ("status [N]", "roles, terms, commit indexes"),
    ("progress N", "what leader N knows of its followers"),
    ("in-flight", "the messages on the wire"),
    ("quiet COMMAND", "the command without its outcome"),
];

struct Script {
    config: Config,
    cluster: Option<Cluster>,
    held: BTreeSet<(u64, u64)>,
}

/// Messages by link, kind, and number.
#[derive(Clone, Copy, Default)]
struct Pattern<'a> {
    link: Option<(Option<u64>, Option<u64>)>,
    kind: Option<&'a str>,
    count: Option<usize>,
}

impl<'a> Pattern<'a> {
    fn parse(words: &[&'a str]) -> Self {
        let mut pattern = Self::default();
        for word in words {
            if let Some((from, to)) = word.split_once("->") {
                let end = |w: &str| (w != "*").then(|| number(w));
                pattern.link = Some((end(from), end(to)));
            } else if word.bytes().all(|b| b.is_ascii_digit()) {
                pattern.count = Some(number(word) as usize);
            } else {
                pattern.kind = Some(word);
            }
        }
        pattern
    }

    fn fits(&self, message: &Message) -> bool {
        let (from, to) = self.link.unwrap_or_default();
        from.is_none_or(|f| f == message.from.node.0)
            && to.is_none_or(|t| t == message.to.node.0)
            && self.kind.is_none_or(|kind| kind == show::body_name(&message.body))
    }
}

fn number(word: &str) -> u64 {
    word.parse().unwrap_or_else(|_| panic!("{word:?} is not a number"))
}

fn node(word: &str) -> NodeId {
    NodeId(number(word))
}

fn link(word: &str) -> (u64, u64) {
    let (from, to) = word.split_once("->").unwrap_or_else(|| panic!("{word:?} is not a link"));
    (number(from), number(to))
}

fn nodes(word: &str) -> Vec<NodeId> {
    word.split(',').map(node).collect()
}

impl Script {
    fn new() -> Self {
        let config = Config::new(replica(0), 1);
        Self { config, cluster: None, held: BTreeSet::new() }
    }

    fn world(&mut self) -> &mut Cluster {
        self.cluster.as_mut().expect("the first command is `cluster`")
    }

    /// Carries out a line; returns its outcome.
    fn run(&mut self, line: &str) -> Vec<String> {
        let (quiet, line) = line.strip_prefix("quiet ").map_or((false, line), |rest| (true, rest));
        let words: Vec<&str> = line.split_whitespace().collect();
        let (command, args) = words.split_first().expect("an empty line is no command");
        if let Some(cluster) = &mut self.cluster {
            cluster.talk = !quiet;
        }
        let told = self.set_up(command, args)
            || self.act(command, args)
            || self.fault(command, args)
            || self.look(command, args);
        assert!(told, "no such command: {command}");
        let Some(cluster) = &mut self.cluster else { return Vec::new() };
        let mut told = std::mem::take(&mut cluster.told);
        let says = matches!(
            *command,
            "campaign"
                | "elect"
                | "tick"
                | "beats"
                | "propose"
                | "read"
                | "transfer"
                | "add-learner"
                | "promote"
                | "remove"
                | "sync"
                | "deliver"
                | "settle"
                | "unreachable"
                | "resend"
                | "compact"
        );
        if told.is_empty() && says && !quiet {
            told.push("nothing".into());
        }
        told
    }

    fn set_up(&mut self, command: &str, args: &[&str]) -> bool {
        match (command, args) {
            ("set", [key, value]) => self.set(key, number(value)),
            ("cluster", [voters]) => {
                let cluster = Cluster::with(number(voters), self.config.clone());
                self.cluster = Some(cluster);
            }
            ("log", [at, "=", rest @ ..]) => {
                let words = rest.iter().position(|w| w.parse::<u64>().is_err());
                let (terms, rest) = rest.split_at(words.unwrap_or(rest.len()));
                let terms: Vec<u64> = terms.iter().map(|w| number(w)).collect();
                let mut hard_state =
                    HardState { term: Term(terms.last().copied().unwrap_or(0)), vote: None };
                for pair in rest.chunks(2) {
                    match pair {
                        ["term", term] => hard_state.term = Term(number(term)),
                        ["vote", vote] => hard_state.vote = Some(replica(number(vote))),
                        _ => panic!("{pair:?} is neither a term nor a vote"),
                    }
                }
                self.world().set_log(node(at), &terms, hard_state);
            }
            ("node", [new]) => self.world().join(node(new)),
            _ => return false,
        }
        true
    }

    fn set(&mut self, key: &str, value: u64) {
        let settings = &mut self.config.settings;
        match key {
            "inflight-messages" => settings.max_inflight_messages = value as usize,
            "inflight-bytes" => settings.max_inflight_bytes = value as usize,
            "append-bytes" => settings.max_append_bytes = value as usize,
            "uncommitted-bytes" => settings.max_uncommitted_bytes = value as usize,
            "lease-drift-ppm" => settings.lease_drift_ppm = Some(value as u32),
            _ => panic!("no such setting: {key}"),
        }
    }

    fn act(&mut self, command: &str, args: &[&str]) -> bool {
        let world = self.world();
        match (command, args) {
            ("campaign", [at]) => world.campaign(node(at)),
            ("elect", [at]) => {
                world.campaign(node(at));
                self.settle();
            }
            ("tick", [at]) => world.tick(node(at)),
            ("beats", [at, count]) => {
                for _ in 0..number(count) {
                    self.world().tick(node(at));
                    self.deliver_all();
                }
            }
            ("propose", [at, payloads @ ..]) => {
                let payloads = payloads.iter().map(|p| Bytes::copy_from_slice(p.as_bytes()));
                world.step(node(at), Event::Propose(payloads.collect()));
            }
            ("read", [at]) => {
                world.read(node(at));
            }
            ("transfer", [at]) => world.step(node(at), Event::Transfer(None)),
            ("transfer", [at, to]) => world.step(node(at), Event::Transfer(Some(node(to)))),
            ("add-learner", [at, new]) => {
                let member = world.learner(node(new));
                world.step(node(at), Event::ProposeChange(Change::AddLearner(member)));
            }
            ("promote", [at, learner]) => {
                let id = world.node(node(learner)).id;
                world.step(node(at), Event::ProposeChange(Change::Promote(id)));
            }
            ("remove", [at, member]) => {
                let id = world.node(node(member)).id;
                world.step(node(at), Event::ProposeChange(Change::Remove(id)));
            }
            ("sync", []) => world.up().into_iter().for_each(|n| world.sync(n, usize::MAX)),
            ("sync", [at]) => world.sync(node(at), usize::MAX),
            ("sync", [at, count]) => world.sync(node(at), number(count) as usize),
            ("deliver", []) => self.deliver_all(),
            ("deliver", pattern) => {
                for message in self.take(Pattern::parse(pattern)) {
                    self.world().hand_over(message);
                }
            }
            ("settle", []) => self.settle(),
            _ => return false,
        }
        true
    }

    fn fault(&mut self, command: &str, args: &[&str]) -> bool {
        match (command, args) {
            ("drop", pattern) => drop(self.take(Pattern::parse(pattern))),
            ("duplicate", pattern) => {
                let taken = self.take(Pattern::parse(pattern));
                let wire = &mut self.world().wire;
                wire.extend(taken.iter().cloned());
                wire.extend(taken);
            }
            ("reorder", pattern) => {
                let taken = self.take(Pattern::parse(pattern));
                self.world().wire.extend(taken.into_iter().rev());
            }
            ("hold", [on]) => {
                self.held.insert(link(on));
            }
            ("release", [on]) => {
                self.held.remove(&link(on));
            }
            ("pass", [ms]) => self.pass(number(ms), None),
            ("pass", [ms, who]) => self.pass(number(ms), Some(nodes(who))),
            ("partition", [groups]) => self.partition(groups),
            ("block", [on]) => {
                let (from, to) = link(on);
                self.world().block(NodeId(from), NodeId(to), true);
            }
            ("heal", []) => self.world().blocked.clear(),
            ("crash", [at]) => self.world().crash(node(at), 0),
            ("crash", [at, "keep", keep]) => self.world().crash(node(at), number(keep) as usize),
            ("restart", [at]) => self.world().start(node(at)),
            ("unreachable", [at, peer]) => {
                let id = self.world().node(node(peer)).id;
                self.world().step(node(at), Event::PeerUnreachable(id));
            }
            ("cold", [at, below]) => {
                self.world().node_mut(node(at)).log.cold_below = LogIndex(number(below));
            }
            ("compact", [at, to]) => self.compact(node(at), LogIndex(number(to))),
            ("resend", [at, to]) => {
                let id = self.world().node(node(to)).id;
                self.world().resend(node(at), id);
            }
            _ => return false,
        }
        true
    }

    fn look(&mut self, command: &str, args: &[&str]) -> bool {
        let world = self.world();
        let which: Vec<NodeId> = match args {
            [] => world.replicas.keys().copied().collect(),
            [at] => nodes(at),
            _ => return false,
        };
        let which = which.into_iter();
        let lines: Vec<String> = match command {
            "raft-log" => which.map(|n| show::log(world.node(n))).collect(),
            "status" => which.map(|n| show::status(world.node(n))).collect(),
            "progress" => which.flat_map(|n| show::progress(world.node(n))).collect(),
            "in-flight" => world.wire.iter().map(show::message).collect(),
            _ => return false,
        };
        world.told.extend(lines);
        true
    }

    fn compact(&mut self, at: NodeId, to: LogIndex) {
        let done = self.world().compact(at, to);
        let first = self.world().node(at).log.first_index();
        let flushed = self.world().node(at).flushed.applied.0;
        let line = if done {
            format!("{at} has the state at {flushed} on its disk; its log begins at {first}")
        } else {
            format!("{at} cannot: not applied or not durable")
        };
        self.world().told.push(line);
    }

    /// Time passes and nobody looks.
    fn pass(&mut self, ms: u64, who: Option<Vec<NodeId>>) {
        for replica in self.world().replicas.values_mut() {
            if who.as_ref().is_none_or(|who| who.contains(&replica.id.node)) {
                replica.clock = replica.clock.plus(Nanos::from_millis(ms).0);
            }
        }
    }

    fn partition(&mut self, groups: &str) {
        let groups: Vec<Vec<NodeId>> = groups.split('|').map(nodes).collect();
        let groups: Vec<&[NodeId]> = groups.iter().map(Vec::as_slice).collect();
        self.world().partition(&groups);
    }

    /// Takes the messages of a pattern off the wire.
    fn take(&mut self, pattern: Pattern<'_>) -> Vec<Message> {
        let mut left = pattern.count.unwrap_or(usize::MAX);
        let (mut taken, mut kept) = (Vec::new(), Vec::new());
        for message in self.world().wire.drain(..) {
            if left > 0 && pattern.fits(&message) {
                left -= 1;
                taken.push(message);
            } else {
                kept.push(message);
            }
        }
        self.world().wire.extend(kept);
        taken
    }

    fn next(&mut self) -> Option<Message> {
        let held = self.held.clone();
        let wire = &mut self.world().wire;
        let at = wire.iter().position(|m| !held.contains(&(m.from.node.0, m.to.node.0)))?;
        wire.remove(at)
    }

    fn deliver_all(&mut self) {
        for _ in 0..10_000 {
            let Some(message) = self.next() else { return };
            self.world().hand_over(message);
        }
        panic!("messages without end");
    }

    fn settle(&mut self) {
        for _ in 0..10_000 {
            self.deliver_all();
            let world = self.world();
            let waiting = |n: &NodeId| !world.node(*n).log.pending().is_empty();
            let Some(at) = world.up().into_iter().find(waiting) else { return };
            world.sync(at, usize::MAX);
        }
        panic!("the cluster does not come to rest");
    }
}

/// The script with the outcomes of today.
fn rerun(text: &str, name: &str) -> String {
    let mut script = Script::new();
    let mut out = String::new();
    let commands = text.lines().enumerate().filter(|(_, line)| !line.starts_with("    "));
    for (number, line) in commands {
        out.push_str(line);
        out.push('\n');
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let _place = Place { name, number: number + 1, line };
        for outcome in script.run(line) {
            out.push_str("    ");
            out.push_str(&outcome);
            out.push('\n');
        }
    }
    out
}

/// Says where the script was, when a command panics.
struct Place<'a> {
    name: &'a str,
    number: usize,
    line: &'a str,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{} line {}: {}", self.name, self.number, self.line);
        }
    }
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/raft/testscripts")
}

#[expect(clippy::disallowed_methods, reason = "golden files")]
fn check(name: &str) {
    let path = directory().join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let now = rerun(&text, name);
    if std::env::var_os("BEACH_BLESS").is_some() {
        std::fs::write(&path, &now).expect("written");
    } else if let Some((number, (is, was))) =
        now.lines().chain([""]).zip(text.lines().chain([""])).enumerate().find(|(_, (a, b))| a != b)
    {
        panic!(
            "{name} line {}:\n  in the file {was:?}\n  now         {is:?}\n(BEACH_BLESS=1 rewrites it)\n{now}",
            number + 1
        );
    }
}

macro_rules! scripts {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                check(concat!(stringify!($name), ".txt"));
            }
        )*
        const SCRIPTS: &[&str] = &[$(stringify!($name)),*];
    };
}

scripts! {
    election split_vote conflict_hints figure_7 figure_8_d figure_8_e
    pre_vote check_quorum stickiness transfer transfer_gives_up
    membership removed_leader changes_refused
    read_index stale_read late_answer
    snapshot snapshot_conflict aba sync_order full_window hung_disk crash_torn
}

#[test]
#[expect(clippy::disallowed_methods, reason = "it lists the golden files")]
fn every_script_is_run_and_every_command_is_explained() {
    let files = std::fs::read_dir(directory()).expect("the scripts");
    for file in files.map(|f| f.expect("a file").file_name().into_string().expect("ASCII")) {
        let name = file.strip_suffix(".txt").unwrap_or("README");
        assert!(name == "README" || SCRIPTS.contains(&name), "{file} is not in `scripts!`");
    }
    let readme = std::fs::read_to_string(directory().join("README.md")).expect("the README");
    for (command, what) in COMMANDS {
        let line = format!("| `{}` | {what} |", command.replace('|', "\\|"));
        assert!(readme.contains(&line), "the README lacks this line:\n{line}");
    }
}
