//! [`Cluster`]: replicas of [`Raft`], their disks, and the wire between them, all driven by hand.
//!
//! Nothing happens by itself: time, syncs, deliveries, and crashes are calls, so that a test says exactly what came
//! first. Every step passes the [`Checker`]. What happens can be told as text (`talk`).
//!
//! What it leaves out: the node around raft (`node` and `beach-sim` have that), and torn records (a crash keeps a
//! prefix of the records on their way to the disk).

use super::check::{Checker, Seen, Up};
use super::disk::{Contents, DiskLog, membership_in};
use super::doubles::{learner, replica};
use super::machine::{Machine, Receiving, Transfer};
use super::show;
use crate::base::{LogIndex, Member, Membership, Nanos, NodeId, ReplicaId, Term};
use crate::raft::message::{Message, SnapshotChunk, SnapshotOutcome, SnapshotReply};
use crate::raft::{Config, Effect, Event, HardState, IoId, LogView, Raft, ReadId, Role, Start};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Entries that raft asked to be read from the disk.
#[derive(Clone, Debug)]
pub struct Fetch {
    to: ReplicaId,
    session: u64,
    lo: LogIndex,
    hi: LogIndex,
    max_bytes: usize,
}

/// A message that waits for a sync.
struct Held {
    after: IoId,
    /// The term right after the step that sent it.
    said_in: Term,
    message: Message,
}

/// One replica and its disk.
pub struct Replica {
    pub id: ReplicaId,
    /// `None`: it is down.
    pub raft: Option<Raft>,
    pub log: DiskLog,
    pub machine: Machine,
    /// The state on the disk.
    pub flushed: Machine,
    /// Its own time.
    pub clock: Nanos,
    /// The newest completed persist.
    synced: IoId,
    /// Messages that wait for a sync.
    held: Vec<Held>,
    /// The newest `Effect::Apply`.
    pub to_apply: LogIndex,
    pub fetches: VecDeque<Fetch>,
    pub sending: BTreeMap<ReplicaId, Transfer>,
    receiving: Option<(ReplicaId, Receiving)>,
    /// A complete snapshot and whom to tell.
    pub installing: Option<(ReplicaId, SnapshotReply, Machine)>,
    /// Reads that may be answered.
    pub ready: Vec<(ReadId, LogIndex)>,
    /// The last role that was told.
    pub told: (Role, Term),
}

impl Replica {
    fn new(id: ReplicaId, membership: Membership) -> Self {
        let membership = (LogIndex::ZERO, membership);
        let machine = Machine { membership: membership.clone(), ..Machine::default() };
        Self {
            id,
            raft: None,
            log: DiskLog::of(Contents { membership, ..Contents::default() }),
            flushed: machine.clone(),
            machine,
            clock: Nanos::ZERO,
            synced: IoId(0),
            held: Vec::new(),
            to_apply: LogIndex::ZERO,
            fetches: VecDeque::new(),
            sending: BTreeMap::new(),
            receiving: None,
            installing: None,
            ready: Vec::new(),
            told: (Role::Follower, Term::ZERO),
        }
    }

    /// It, for the checker.
    pub fn seen(&self) -> Seen<'_> {
        let up = self.raft.as_ref().map(|raft| Up {
            role: raft.role(),
            term: raft.term(),
            commit: raft.commit(),
            membership: raft.membership(),
        });
        Seen { id: self.id, up, log: &self.log, flushed: self.flushed.applied.0 }
    }

    /// Its raft; panics when it is down.
    pub fn raft(&self) -> &Raft {
        self.raft.as_ref().unwrap_or_else(|| panic!("{} is down", self.id))
    }
}

/// See the module.
pub struct Cluster {
    pub replicas: BTreeMap<NodeId, Replica>,
    pub checker: Checker,
    /// Messages in flight, oldest first.
    pub wire: VecDeque<Message>,
    /// Links that lose what is delivered over them.
    pub blocked: BTreeSet<(NodeId, NodeId)>,
    /// What [`Cluster::settle_but`] did not deliver.
    pub lost: Vec<Message>,
    /// Whether what happens is told.
    pub talk: bool,
    /// Whether it is told to people at once; otherwise it is kept in `told`.
    pub aloud: bool,
    pub told: Vec<String>,
    /// Whether entries are applied, fetches answered, and snapshots installed in the step that allows it.
    pub eager: bool,
    /// How every replica is configured, apart from its id and seed.
    pub config: Config,
    first: Membership,
    /// Snapshots that moved a replica forward.
    pub installs: u64,
    reads: u64,
    transfers: u64,
    /// Events that the driver owes.
    queue: VecDeque<(NodeId, Event)>,
}

impl Cluster {
    /// Voters `1..=voters`, all up, with empty logs.
    pub fn new(voters: u64) -> Self {
        let mut config = Config::new(replica(0), 1);
        config.trace = false;
        Self::with(voters, config)
    }

    /// The same with a configuration.
    pub fn with(voters: u64, config: Config) -> Self {
        let first = Membership::of_voters((1..=voters).map(replica));
        let mut cluster = Self {
            replicas: BTreeMap::new(),
            checker: Checker::default(),
            wire: VecDeque::new(),
            blocked: BTreeSet::new(),
            lost: Vec::new(),
            talk: false,
            aloud: false,
            told: Vec::new(),
            eager: true,
            config,
            first: first.clone(),
            installs: 0,
            reads: 0,
            transfers: 0,
            queue: VecDeque::new(),
        };
        for id in first.voters() {
            cluster.replicas.insert(id.node, Replica::new(id, first.clone()));
            cluster.start(id.node);
        }
        cluster
    }

    /// A new replica that waits to be added; it replaces a down one of that number under a new incarnation.
    pub fn join(&mut self, node: NodeId) {
        let before = self.replicas.get(&node);
        assert!(before.is_none_or(|r| r.raft.is_none()), "node {node} is up");
        let incarnation = before.map_or(0, |r| r.id.incarnation + 1);
        let id = ReplicaId { node, incarnation };
        self.replicas.insert(node, Replica::new(id, Membership::new()));
        self.start(node);
    }

    /// Gives a replica another log and hard state, as if it had lived before; all of it durable.
    pub fn set_log(&mut self, node: NodeId, terms: &[u64], hard_state: HardState) {
        let membership = (LogIndex::ZERO, self.first.clone());
        let entries = (1..).zip(terms).map(|(index, term)| crate::raft::Entry {
            index: LogIndex(index),
            term: Term(*term),
            payload: Bytes::from(format!("t{term}")),
        });
        let entries = entries.collect();
        let contents = Contents { hard_state, membership, entries, ..Contents::default() };
        let old = self.node(node);
        let clock = old.clock;
        let mut fresh = Replica::new(old.id, self.first.clone());
        fresh.log = DiskLog::of(contents);
        fresh.clock = clock;
        self.replicas.insert(node, fresh);
        self.start(node);
    }

    /// The replica; panics when there is none.
    pub fn node(&self, node: NodeId) -> &Replica {
        self.replicas.get(&node).unwrap_or_else(|| panic!("there is no node {node}"))
    }

    /// The same, to change.
    pub fn node_mut(&mut self, node: NodeId) -> &mut Replica {
        self.replicas.get_mut(&node).unwrap_or_else(|| panic!("there is no node {node}"))
    }

    /// The nodes that are up.
    pub fn up(&self) -> Vec<NodeId> {
        self.replicas.values().filter(|r| r.raft.is_some()).map(|r| r.id.node).collect()
    }

    /// The leader of the highest term, if it is up.
    pub fn leader(&self) -> Option<NodeId> {
        let leaders = self.replicas.values().filter_map(|r| Some((r.raft.as_ref()?, r.id.node)));
        let leaders = leaders.filter(|(raft, _)| raft.role() == Role::Leader);
        leaders.max_by_key(|(raft, _)| raft.term()).map(|(_, node)| node)
    }

    fn tell(&mut self, line: impl FnOnce() -> String) {
        if self.talk {
            let line = line();
            if self.aloud {
                eprintln!("{line}");
            } else {
                self.told.push(line);
            }
        }
    }

    /// Brings a replica up from its disk.
    pub fn start(&mut self, node: NodeId) {
        let mut config = self.config.clone();
        let replica = self.node_mut(node);
        assert!(replica.raft.is_none(), "{node} is up already");
        config.id = replica.id;
        config.seed ^= node.0.wrapping_mul(0x9e37_79b9) ^ (replica.id.incarnation << 32);
        replica.machine = replica.flushed.clone();
        let (applied, term) = replica.flushed.applied;
        if !replica.log.holds_durably(applied, term) {
            // A crash between the install of a snapshot and the reset of the log.
            let membership = replica.flushed.membership.clone();
            replica.log.reset((applied, term), membership);
            replica.log.sync_rest();
        }
        let start = Start {
            hard_state: replica.log.view.hard_state,
            applied,
            memberships: replica.log.view.memberships(),
        };
        let raft = Raft::new(&config, start, &replica.log);
        replica.told = (raft.role(), raft.term());
        replica.to_apply = raft.commit();
        replica.raft = Some(raft);
        let replica = self.replicas.get(&node).expect("just started");
        self.checker.started(replica.seen());
    }

    /// Takes a replica down. What was not synced is lost, except the first `keep` records.
    pub fn crash(&mut self, node: NodeId, keep: usize) {
        let replica = self.node_mut(node);
        replica.raft = None;
        replica.log.crash(keep);
        replica.machine = replica.flushed.clone();
        replica.synced = IoId(0);
        replica.held.clear();
        replica.fetches.clear();
        replica.sending.clear();
        replica.receiving = None;
        replica.installing = None;
        replica.ready.clear();
        let id = replica.id;
        self.checker.crashed(id);
    }

    /// One event in, its effects carried out, and what they lead to in the driver.
    pub fn step(&mut self, node: NodeId, event: Event) {
        self.step_alone(node, event);
        self.drain(node);
    }

    fn drain(&mut self, node: NodeId) {
        if self.eager {
            self.catch_up(node);
        }
        // Effects that lead to an event: it waits until all of the step's effects are carried out.
        while let Some((node, event)) = self.queue.pop_front() {
            self.step_alone(node, event);
            if self.eager {
                self.catch_up(node);
            }
        }
    }

    fn step_alone(&mut self, node: NodeId, event: Event) {
        if let Event::Read(read) = event {
            self.checker.read_began(self.node(node).id, read);
        }
        let changes = matches!(event, Event::ProposeChange(_));
        let replica = self.node_mut(node);
        let raft = replica.raft.as_mut().unwrap_or_else(|| panic!("{node} is down"));
        let mut effects = Vec::new();
        raft.step(replica.clock, event, &replica.log, &mut effects);
        // The log takes everything of the step before anybody else looks.
        for effect in &effects {
            if let Effect::Persist(persist) = effect {
                let replica = self.node_mut(node);
                replica.log.submit(persist.clone());
                let replica = self.replicas.get(&node).expect("it stepped");
                self.checker.persisted(replica.seen(), persist);
            }
        }
        self.check_step(node);
        for effect in effects {
            if let (true, Effect::Proposed { first, .. }) = (changes, &effect) {
                let replica = self.replicas.get(&node).expect("it stepped");
                self.checker.changed(replica.seen(), *first);
            }
            self.carry_out(node, effect);
        }
    }

    fn check_step(&mut self, node: NodeId) {
        let all: Vec<Seen<'_>> = self.replicas.values().map(Replica::seen).collect();
        let seen = self.replicas.get(&node).expect("it stepped").seen();
        self.checker.stepped(seen, &all);
    }

    /// Applies what may be applied, brings what was asked for, installs what is complete.
    fn catch_up(&mut self, node: NodeId) {
        self.apply(node);
        while let Some(fetch) = self.node_mut(node).fetches.pop_front() {
            self.fetched(node, &fetch);
        }
        self.install(node);
    }

    fn carry_out(&mut self, node: NodeId, effect: Effect) {
        if let Some(line) = self.talk.then(|| show::effect(node, &effect)).flatten() {
            self.tell(|| line);
        }
        match effect {
            Effect::Persist(_)
            | Effect::Proposed { .. }
            | Effect::ProposeRefused(_)
            | Effect::TransferStarted { .. }
            | Effect::Trace(_) => {}
            Effect::Fatal { reason } => panic!("fatal: {node} says {reason}"),
            Effect::Send { message, after } => self.send(node, message, after),
            Effect::Apply { through } => {
                let seen = self.replicas.get(&node).expect("it stepped").seen();
                self.checker.handed_out(seen, through);
                self.node_mut(node).to_apply = through;
            }
            Effect::ReadReady { read, index } => {
                let id = self.node(node).id;
                self.checker.read_ready(id, read, index);
                self.node_mut(node).ready.push((read, index));
            }
            Effect::ReadRefused { read } => {
                let id = self.node(node).id;
                self.checker.read_refused(id, read);
            }
            Effect::RoleChange { role, term, .. } => {
                self.node_mut(node).told = (role, term);
                if role == Role::Leader {
                    let seen = self.replicas.get(&node).expect("it stepped").seen();
                    self.checker.elected(seen);
                }
            }
            Effect::Fetch { to, session, lo, hi, max_bytes } => {
                let fetch = Fetch { to, session, lo, hi, max_bytes };
                self.node_mut(node).fetches.push_back(fetch);
            }
            Effect::SnapshotNeeded { to, session } => self.begin_transfer(node, to, session),
            Effect::SnapshotOver { to } => {
                self.node_mut(node).sending.remove(&to);
            }
            Effect::SnapshotAck { from, reply } => self.snapshot_ack(node, from, reply),
            Effect::SnapshotChunk { from, chunk } => self.snapshot_chunk(node, from, chunk),
        }
    }

    fn send(&mut self, node: NodeId, message: Message, after: Option<IoId>) {
        let replica = self.node_mut(node);
        match after.filter(|io| *io > replica.synced) {
            Some(after) => {
                let said_in = replica.raft().term();
                replica.held.push(Held { after, said_in, message });
            }
            None => self.put_on_wire(node, message),
        }
    }

    fn put_on_wire(&mut self, node: NodeId, message: Message) {
        let all: Vec<Seen<'_>> = self.replicas.values().map(Replica::seen).collect();
        let seen = self.replicas.get(&node).expect("it sent").seen();
        self.checker.sent(seen, &message, &all);
        self.wire.push_back(message);
    }

    /// Completes the oldest `count` persists of a replica.
    pub fn sync(&mut self, node: NodeId, count: usize) {
        let pending = self.node(node).log.pending();
        let Some(io) = pending.get(count.min(pending.len()).wrapping_sub(1)).copied() else {
            self.node_mut(node).log.sync_rest();
            return;
        };
        let replica = self.node_mut(node);
        replica.log.sync_to(io);
        replica.synced = io;
        let term = replica.raft().term();
        let due: Vec<Held> = replica.held.extract_if(.., |held| held.after <= io).collect();
        self.tell(|| format!("{node} has synced {io}"));
        for Held { message, said_in, .. } in due {
            // The contract of `Effect::Send`: not at all when the term has moved on.
            let stale = said_in != term;
            let what = if stale { "is dropped, the term has moved on" } else { "leaves" };
            self.tell(|| format!("{}: {what}", show::message(&message)));
            if !stale {
                self.put_on_wire(node, message);
            }
        }
        self.step(node, Event::Persisted(io));
        if self.node(node).log.pending().is_empty() {
            self.node_mut(node).log.sync_rest();
        }
    }

    /// Applies everything up to the newest `Effect::Apply`.
    pub fn apply(&mut self, node: NodeId) {
        let replica = self.node_mut(node);
        if replica.installing.is_some() || replica.to_apply <= replica.machine.applied.0 {
            return;
        }
        while replica.machine.applied.0 < replica.to_apply {
            let next = replica.machine.applied.0.next();
            let entry = replica.log.view.entry(next);
            let entry = entry.unwrap_or_else(|| panic!("{node} has no entry {next} to apply"));
            replica.machine.apply(entry, membership_in(entry));
        }
        let (id, index) = (replica.id, replica.machine.applied.0);
        let digest = replica.machine.digest;
        self.checker.applied(id, index, digest);
        self.step(node, Event::Applied(index));
    }

    /// Brings the entries that raft asked for.
    pub fn fetched(&mut self, node: NodeId, fetch: &Fetch) {
        let Fetch { to, session, lo, hi, max_bytes } = *fetch;
        let entries = self.node(node).log.read(lo, hi, max_bytes);
        self.step(node, Event::Fetched { to, session, entries });
    }

    /// The state up to what is applied is on the disk, and the log forgets what is up to `index`.
    pub fn compact(&mut self, node: NodeId, index: LogIndex) -> bool {
        let replica = self.node_mut(node);
        let (applied, term) = replica.machine.applied;
        if index > applied || !replica.log.holds_durably(applied, term) {
            return false;
        }
        replica.flushed = replica.machine.clone();
        index <= replica.log.view.baseline.0 || replica.log.release_to(index)
    }

    fn begin_transfer(&mut self, node: NodeId, to: ReplicaId, session: u64) {
        self.transfers += 1;
        let transfer = self.transfers;
        let replica = self.node_mut(node);
        let meta = replica.flushed.meta();
        let fresh = Transfer { session, transfer, meta, offset: 0 };
        let sending = replica.sending.entry(to).or_insert(fresh);
        sending.session = session;
        sending.offset = 0;
        self.chunk(node, to, true);
    }

    /// Sends the piece that has no answer yet once more.
    pub fn resend(&mut self, node: NodeId, to: ReplicaId) {
        self.chunk(node, to, true);
        self.drain(node);
    }

    fn chunk(&mut self, node: NodeId, to: ReplicaId, first: bool) {
        let Some(sending) = self.node(node).sending.get(&to) else { return };
        let meta = (first || sending.offset == 0).then(|| sending.meta.clone());
        let left = sending.meta.bytes.saturating_sub(sending.offset).min(1) as usize;
        let chunk = SnapshotChunk {
            session: sending.session,
            transfer: sending.transfer,
            meta,
            offset: sending.offset,
            data: Bytes::from(vec![0x5a; left]),
            crc: 0,
        };
        self.queue.push_back((node, Event::SendChunk { to, chunk }));
    }

    fn snapshot_ack(&mut self, node: NodeId, from: ReplicaId, reply: SnapshotReply) {
        let sending = self.node_mut(node).sending.get_mut(&from);
        let Some(sending) = sending.filter(|s| s.transfer == reply.transfer) else { return };
        match reply.outcome {
            SnapshotOutcome::Next { offset } => {
                sending.offset = offset;
                self.chunk(node, from, false);
            }
            SnapshotOutcome::Installed { .. } => {
                self.node_mut(node).sending.remove(&from);
            }
            SnapshotOutcome::Refused { .. } => {
                let session = sending.session;
                self.node_mut(node).sending.remove(&from);
                self.queue.push_back((node, Event::SnapshotFailed { to: from, session }));
            }
        }
    }

    fn snapshot_chunk(&mut self, node: NodeId, from: ReplicaId, chunk: SnapshotChunk) {
        let replica = self.node_mut(node);
        if replica.installing.is_some() {
            return;
        }
        let known = replica.receiving.as_ref();
        let known = known.is_some_and(|(f, r)| *f == from && r.transfer == chunk.transfer);
        if let (false, Some(meta)) = (known, &chunk.meta) {
            let fresh = Receiving { transfer: chunk.transfer, meta: meta.clone(), have: 0 };
            replica.receiving = Some((from, fresh));
        }
        let mut reply = SnapshotReply {
            session: chunk.session,
            transfer: chunk.transfer,
            outcome: SnapshotOutcome::Next { offset: 0 },
        };
        let receiving = replica.receiving.as_mut().filter(|(_, r)| r.transfer == chunk.transfer);
        if let Some((_, receiving)) = receiving {
            if receiving.have == chunk.offset {
                receiving.have += chunk.data.len() as u64;
            }
            if receiving.have >= receiving.meta.bytes {
                let machine = Machine::of(&receiving.meta);
                let index = machine.applied.0;
                reply.outcome = SnapshotOutcome::Installed { index };
                replica.installing = Some((from, reply, machine));
                replica.receiving = None;
                return;
            }
            reply.outcome = SnapshotOutcome::Next { offset: receiving.have };
        }
        self.queue.push_back((node, Event::ReplyToChunk { to: from, reply }));
    }

    /// Installs the complete snapshot, if there is one.
    pub fn install(&mut self, node: NodeId) {
        let replica = self.node_mut(node);
        let Some((from, reply, machine)) = replica.installing.take() else { return };
        let ((index, term), membership) = (machine.applied, machine.membership.clone());
        if index > replica.machine.applied.0 {
            let (id, digest) = (replica.id, machine.digest);
            replica.machine = machine.clone();
            replica.flushed = machine;
            if replica.log.term(index) != Some(term) {
                replica.log.reset((index, term), membership.clone());
            }
            replica.to_apply = replica.to_apply.max(index);
            self.installs += 1;
            self.checker.applied(id, index, digest);
        }
        let reply = Some((from, reply));
        self.tell(|| format!("{node} installs the snapshot at {index}@{term}"));
        self.step(node, Event::SnapshotInstalled { index, term, membership, reply });
    }

    /// Hands a message to its receiver, or loses it.
    pub fn hand_over(&mut self, message: Message) {
        let (from, to) = (message.from.node, message.to.node);
        let receiver = self.replicas.get(&to).filter(|r| r.raft.is_some() && r.id == message.to);
        let lost = receiver.is_none() || self.blocked.contains(&(from, to));
        let what = if lost { "lost" } else { "arrives" };
        self.tell(|| format!("{from} → {to} {}: {what}", show::body_name(&message.body)));
        if !lost {
            self.step(to, Event::Message(message));
        }
    }

    /// Cuts or mends one direction of a link.
    pub fn block(&mut self, from: NodeId, to: NodeId, blocked: bool) {
        if blocked {
            self.blocked.insert((from, to));
        } else {
            self.blocked.remove(&(from, to));
        }
    }

    /// Nothing arrives between the groups.
    pub fn partition(&mut self, groups: &[&[NodeId]]) {
        for (g, group) in groups.iter().enumerate() {
            for other in groups.iter().enumerate().filter(|(h, _)| *h != g).map(|(_, o)| o) {
                for (from, to) in group.iter().flat_map(|f| other.iter().map(move |t| (f, t))) {
                    self.block(*from, *to, true);
                }
            }
        }
    }

    /// Takes the messages that fit off the wire.
    pub fn take(&mut self, fits: impl Fn(&Message) -> bool) -> Vec<Message> {
        let (taken, kept): (Vec<Message>, Vec<Message>) =
            self.wire.drain(..).partition(|m| fits(m));
        self.wire = kept.into();
        taken
    }

    /// Hands over what is in flight of this kind.
    pub fn deliver_kind(&mut self, kind: &str) {
        for message in self.take(|m| show::body_name(&m.body) == kind) {
            self.hand_over(message);
        }
    }

    /// Loses what is in flight of this kind to or from `node`.
    pub fn drop_kind(&mut self, node: NodeId, kind: &str) {
        let with = |m: &Message| m.from.node == node || m.to.node == node;
        drop(self.take(|m| with(m) && show::body_name(&m.body) == kind));
    }

    /// Moves a replica's clock to its next deadline and lets it look.
    pub fn tick(&mut self, node: NodeId) {
        let replica = self.node_mut(node);
        let deadline = replica.raft().next_deadline();
        if deadline < Nanos::MAX {
            replica.clock = replica.clock.max(deadline);
        }
        self.step(node, Event::Tick);
    }

    /// Ticks until it asks for (pre-)votes; panics when it does not.
    pub fn campaign(&mut self, node: NodeId) {
        for _ in 0..20 {
            let before = (self.node(node).raft().role(), self.node(node).raft().term());
            self.tick(node);
            let after = (self.node(node).raft().role(), self.node(node).raft().term());
            if after.0 != Role::Follower && (before != after || before.0 == Role::PreCandidate) {
                return;
            }
        }
        panic!("{node} does not campaign");
    }

    /// A linearizable read begins.
    pub fn read(&mut self, node: NodeId) -> ReadId {
        self.reads += 1;
        let read = ReadId(self.reads);
        self.step(node, Event::Read(read));
        read
    }

    /// Delivers and syncs until nothing moves.
    pub fn settle(&mut self) {
        self.settle_but(|_| false);
    }

    /// The same, but messages that fit are not delivered; they are in `lost`.
    pub fn settle_but(&mut self, fits: impl Fn(&Message) -> bool) {
        self.lost.clear();
        for _ in 0..100_000 {
            if let Some(message) = self.wire.pop_front() {
                if fits(&message) {
                    self.lost.push(message);
                } else {
                    self.hand_over(message);
                }
                continue;
            }
            let waiting = |n: &NodeId| !self.node(*n).log.pending().is_empty();
            let Some(node) = self.up().into_iter().find(waiting) else { return };
            self.sync(node, usize::MAX);
        }
        panic!("the cluster does not come to rest");
    }

    /// `node` campaigns and everything settles.
    pub fn elect(&mut self, node: NodeId) {
        self.campaign(node);
        self.settle();
        assert_eq!(self.node(node).raft().role(), Role::Leader, "{node} was not elected");
    }

    /// Proposes one payload.
    pub fn propose(&mut self, node: NodeId, payload: &str) {
        self.step(node, Event::Propose(vec![Bytes::copy_from_slice(payload.as_bytes())]));
    }

    /// What a learner looks like when it is added.
    pub fn learner(&self, node: NodeId) -> Member {
        learner(self.node(node).id)
    }
}
