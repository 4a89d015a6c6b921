//! Random schedules of pure Raft clusters: whatever order of deliveries, syncs, ticks, crashes, and changes of the
//! membership, the [`Checker`](super::check::Checker) finds nothing, and when the faults stop the cluster commits.
//!
//! `BEACH_RAFT_SEED=N cargo test -p beachdb --lib raft::testing::random -- --nocapture` replays one seed and tells
//! what happens; `BEACH_RAFT_SEEDS=N` runs that many.

use super::cluster::Cluster;
use super::doubles::replica;
use crate::base::{LogIndex, MemberRole, NodeId, ReplicaId};
use crate::env::sim::SimRandom;
use crate::raft::{Change, Config, Event, Role};
use bytes::Bytes;
use std::collections::BTreeSet;

/// Seeds of a normal run.
const SEEDS: u64 = 250;
/// Actions of one seed.
const ACTIONS: u64 = 2500;
/// Once faults stop, a cluster has this many election timeouts to commit everywhere.
const TIMEOUTS_TO_RECOVER: u64 = 30;

/// What a run did, so that a test that does nothing is noticed.
#[derive(Clone, Copy, Default, Debug)]
struct Sum {
    terms: usize,
    commits: u64,
    reads: u64,
    installs: u64,
    changes: u64,
    transfers: u64,
    crashes: u64,
    lease_seeds: u64,
}

/// Faults of one seed: each is off in half of the seeds.
#[derive(Clone, Copy, Debug)]
struct Odds {
    loss: u64,
    duplicates: u64,
    reorder: u64,
    partitions: u64,
    crashes: u64,
    changes: u64,
    transfers: u64,
    compactions: u64,
    jumps: u64,
    pauses: u64,
    slow_disk: bool,
    delayed_apply: bool,
    cold: bool,
}

struct Run {
    cluster: Cluster,
    random: SimRandom,
    odds: Odds,
    /// How much faster than real time each clock runs, in millionths.
    rates: Vec<u64>,
    /// The replica whose disk is slow.
    slow: NodeId,
    /// Replicas that the operating system does not run: their clocks go on, and what is for them waits.
    paused: BTreeSet<NodeId>,
    sum: Sum,
    proposals: u64,
}

fn config(random: &mut SimRandom, seed: u64) -> Config {
    let mut config = Config::new(replica(0), seed);
    let settings = &mut config.settings;
    settings.max_inflight_messages = 1 + random.below(4) as usize;
    settings.max_append_bytes = 1 + random.below(40) as usize;
    settings.max_inflight_bytes = 20 + random.below(100) as usize;
    settings.max_uncommitted_bytes = 50 + random.below(400) as usize;
    settings.lease_drift_ppm = random.chance(1, 3).then(|| [500, 50_000][random.below(2) as usize]);
    config.trace = random.chance(1, 8);
    config
}

impl Run {
    fn new(seed: u64, talk: bool) -> Self {
        let mut random = SimRandom::new(seed);
        let config = config(&mut random, seed);
        let mut odds = |n: u64| if random.chance(1, 2) { 1 + random.below(n) } else { 0 };
        let jumps = if config.settings.lease_drift_ppm.is_some() { 0 } else { odds(20) };
        let odds = Odds {
            loss: odds(60),
            duplicates: odds(60),
            reorder: odds(100),
            partitions: odds(12),
            crashes: odds(12),
            changes: odds(60),
            transfers: odds(10),
            compactions: odds(60),
            jumps,
            pauses: odds(20),
            slow_disk: odds(1) == 1,
            delayed_apply: odds(1) == 1,
            cold: odds(1) == 1,
        };
        let voters = 1 + random.below(5);
        let spares = random.below(3);
        let drift = u64::from(config.settings.lease_drift_ppm.unwrap_or(0));
        let sum = Sum { lease_seeds: u64::from(drift > 0), ..Sum::default() };
        let mut cluster = Cluster::with(voters, config);
        (voters + 1..=voters + spares).for_each(|node| cluster.join(NodeId(node)));
        cluster.talk = talk;
        cluster.eager = !odds.delayed_apply;
        let rates = (0..=voters + spares).map(|_| random.below(drift + 1)).collect();
        let slow = NodeId(1 + random.below(voters));
        let paused = BTreeSet::new();
        Self { cluster, random, odds, rates, slow, paused, sum, proposals: 0 }
    }

    fn any(&mut self) -> NodeId {
        let at = self.random.below(self.cluster.replicas.len() as u64) as usize;
        *self.cluster.replicas.keys().nth(at).expect("there is one")
    }

    /// Those that are up and run.
    fn running(&self) -> Vec<NodeId> {
        let mut up = self.cluster.up();
        up.retain(|node| !self.paused.contains(node));
        up
    }

    fn any_up(&mut self) -> Option<NodeId> {
        let up = self.running();
        let at = self.random.below(up.len() as u64) as usize;
        up.get(at).copied()
    }

    /// Mostly somebody who believes that it leads, sometimes somebody else.
    fn target(&mut self) -> Option<NodeId> {
        if self.random.chance(1, 10) {
            return self.any_up();
        }
        let mut leaders = self.running();
        leaders.retain(|node| self.cluster.node(*node).raft().role() == Role::Leader);
        let at = self.random.below(leaders.len() as u64) as usize;
        leaders.get(at).copied()
    }

    fn chance(&mut self, of_thousand: u64) -> bool {
        self.random.chance(of_thousand, 1000)
    }

    /// One action, by the odds.
    fn act(&mut self) {
        match self.random.below(100) {
            0..44 => (0..1 + self.random.below(8)).for_each(|_| self.deliver()),
            44..68 => self.sync(),
            68..82 => self.pass_time(),
            82..91 => self.propose(),
            91..95 => self.read(),
            _ => self.catch_up(),
        }
        self.faults();
    }

    fn deliver(&mut self) {
        let waiting = self.cluster.wire.len() as u64;
        if waiting == 0 {
            return;
        }
        let reorder = self.random.chance(self.odds.reorder, 200);
        let at = if reorder { self.random.below(waiting) as usize } else { 0 };
        let message = self.cluster.wire.remove(at).expect("it waits");
        if self.paused.contains(&message.to.node) {
            return self.cluster.wire.push_back(message);
        }
        if self.random.chance(self.odds.loss, 400) {
            return;
        }
        if self.random.chance(self.odds.duplicates, 400) {
            self.cluster.wire.push_back(message.clone());
        }
        self.cluster.hand_over(message);
    }

    fn sync(&mut self) {
        for node in self.running() {
            let slow = self.odds.slow_disk && node == self.slow;
            if self.random.chance(1, if slow { 60 } else { 3 }) {
                let count = if self.random.chance(1, 4) { 1 } else { usize::MAX };
                self.cluster.sync(node, count);
            }
        }
    }

    /// Every clock moves on at its rate; who has a deadline behind it looks.
    fn pass_time(&mut self) {
        let heartbeat = self.cluster.config.settings.heartbeat_ns;
        let timeout = self.cluster.config.settings.election_timeout_ns;
        let ns = match self.random.below(40) {
            0 => timeout,
            1..10 => heartbeat,
            _ => heartbeat / 5,
        };
        self.advance(ns);
        let mut due = self.running();
        while !due.is_empty() {
            let node = due.swap_remove(self.random.below(due.len() as u64) as usize);
            self.tick_if_due(node);
        }
    }

    fn advance(&mut self, ns: u64) {
        for (replica, rate) in self.cluster.replicas.values_mut().zip(&self.rates) {
            replica.clock = replica.clock.plus(ns + ns * rate / 1_000_000);
        }
    }

    fn tick_if_due(&mut self, node: NodeId) {
        let Some(raft) = &self.cluster.node(node).raft else { return };
        if raft.next_deadline() <= self.cluster.node(node).clock {
            self.cluster.step(node, Event::Tick);
            let waiting: Vec<ReplicaId> = self.cluster.node(node).sending.keys().copied().collect();
            for to in waiting {
                if self.random.chance(1, 5) {
                    self.cluster.resend(node, to);
                }
            }
        }
    }

    fn propose(&mut self) {
        let Some(node) = self.target() else { return };
        let group = 1 + self.random.below(3);
        let payloads = (0..group).map(|_| {
            self.proposals += 1;
            Bytes::from(format!("p{}", self.proposals))
        });
        let payloads = payloads.collect();
        self.cluster.step(node, Event::Propose(payloads));
    }

    fn read(&mut self) {
        if let Some(node) = self.any_up() {
            self.cluster.read(node);
        }
    }

    /// The driver's own delays: apply, fetches, installs.
    fn catch_up(&mut self) {
        let Some(node) = self.any_up() else { return };
        match self.random.below(3) {
            0 => self.cluster.apply(node),
            1 => {
                if let Some(fetch) = self.cluster.node_mut(node).fetches.pop_front() {
                    self.cluster.fetched(node, &fetch);
                }
            }
            _ => self.cluster.install(node),
        }
    }

    fn faults(&mut self) {
        let odds = self.odds;
        if self.chance(odds.partitions) {
            self.partition();
        }
        if self.chance(odds.partitions * 2) {
            self.cluster.blocked.clear();
        }
        if self.chance(odds.crashes) {
            self.crash();
        }
        if self.chance(30) {
            self.restart();
        }
        if self.chance(odds.changes) {
            self.change();
        }
        if self.chance(odds.transfers) {
            self.transfer();
        }
        if self.chance(odds.compactions) {
            self.compact();
        }
        if self.chance(odds.jumps)
            && let Some(node) = self.any_up()
        {
            self.cluster.tick(node);
        }
        if self.paused.is_empty()
            && self.chance(odds.pauses)
            && let Some(node) = self.target()
        {
            self.paused.insert(node);
        }
        if self.chance(6) {
            self.resume();
        }
    }

    /// What was paused goes on, with a client that was waiting to read.
    fn resume(&mut self) {
        for node in std::mem::take(&mut self.paused) {
            if self.cluster.node(node).raft.is_some() {
                self.cluster.read(node);
            }
        }
    }

    fn partition(&mut self) {
        let one_way = self.random.chance(1, 3);
        let side = self.random.below(1 << self.cluster.replicas.len());
        let nodes: Vec<NodeId> = self.cluster.replicas.keys().copied().collect();
        let in_side = |n: NodeId| side >> (n.0 - 1) & 1 == 1;
        for from in &nodes {
            for to in nodes.iter().filter(|to| in_side(*from) && !in_side(**to)) {
                self.cluster.block(*from, *to, true);
                if !one_way {
                    self.cluster.block(*to, *from, true);
                }
            }
        }
    }

    fn crash(&mut self) {
        let Some(node) = self.any_up() else { return };
        let keep = self.random.below(4) as usize;
        let id = self.cluster.node(node).id;
        self.cluster.crash(node, keep);
        self.sum.crashes += 1;
        for other in self.running() {
            if self.random.chance(1, 2) {
                self.cluster.step(other, Event::PeerUnreachable(id));
            }
        }
    }

    fn restart(&mut self) {
        let down = self.cluster.replicas.values().filter(|r| r.raft.is_none()).map(|r| r.id);
        let down: Vec<ReplicaId> = down.collect();
        for id in down {
            if self.is_stranger(id) && self.random.chance(1, 2) {
                self.cluster.join(id.node);
            } else {
                self.cluster.start(id.node);
            }
            if self.odds.cold {
                let last = self.cluster.node(id.node).log.view.last().0;
                self.cluster.node_mut(id.node).log.cold_below = last;
            }
        }
    }

    /// Whether no committed membership and no log has it: its disk may be wiped.
    fn is_stranger(&self, id: ReplicaId) -> bool {
        let mut all = self.cluster.replicas.values().flat_map(|r| {
            let durable = r.log.durable.memberships().into_iter();
            durable.chain(r.log.view.memberships()).chain([r.machine.membership.clone()])
        });
        all.all(|(_, membership)| membership.replica(id).is_none())
    }

    fn change(&mut self) {
        let (Some(node), other) = (self.target(), self.any()) else { return };
        let id = self.cluster.node(other).id;
        let members = self.cluster.node(node).raft().membership();
        let role = members.member(other).map(|m| m.role);
        let change = match self.random.below(8) {
            0 => Change::Promote(id),
            1 => Change::AddLearner(self.cluster.learner(other)),
            2 => Change::Remove(id),
            _ => match role {
                None => Change::AddLearner(self.cluster.learner(other)),
                Some(MemberRole::Learner) => Change::Promote(id),
                Some(MemberRole::Voter) if members.voter_count() > 2 => Change::Remove(id),
                Some(MemberRole::Voter) => return,
            },
        };
        let before = self.cluster.node(node).raft().membership_index();
        self.cluster.step(node, Event::ProposeChange(change));
        let after = self.cluster.node(node).raft().membership_index();
        self.sum.changes += u64::from(before != after);
    }

    fn transfer(&mut self) {
        let (Some(node), other) = (self.target(), self.any()) else { return };
        let to = self.random.chance(1, 2).then_some(other);
        self.cluster.step(node, Event::Transfer(to));
        self.sum.transfers += 1;
        if self.chance(30 * self.odds.pauses) {
            self.paused.insert(node);
        }
    }

    fn compact(&mut self) {
        let Some(node) = self.any_up() else { return };
        let applied = self.cluster.node(node).machine.applied.0.0;
        let to = applied.saturating_sub(self.random.below(4));
        self.cluster.compact(node, LogIndex(to));
    }

    /// The faults stop: a leader must come, and what it is given must be applied by every member.
    fn recover(&mut self) {
        self.cluster.blocked.clear();
        self.resume();
        self.odds = Odds {
            loss: 0,
            duplicates: 0,
            reorder: 0,
            partitions: 0,
            crashes: 0,
            changes: 0,
            transfers: 0,
            compactions: 0,
            jumps: 0,
            pauses: 0,
            slow_disk: false,
            ..self.odds
        };
        self.cluster.eager = true;
        let down = self.cluster.replicas.values().filter(|r| r.raft.is_none()).map(|r| r.id.node);
        down.collect::<Vec<_>>().into_iter().for_each(|node| self.cluster.start(node));
        let heartbeat = self.cluster.config.settings.heartbeat_ns;
        let timeout = self.cluster.config.settings.election_timeout_ns;
        for _ in 0..TIMEOUTS_TO_RECOVER * timeout / heartbeat {
            self.cluster.settle();
            self.advance(heartbeat);
            for node in self.cluster.up() {
                self.tick_if_due(node);
            }
        }
        self.cluster.settle();
        let leader = self.cluster.leader().unwrap_or_else(|| panic!("nobody leads"));
        let before = self.cluster.node(leader).raft().commit();
        self.cluster.propose(leader, "the end");
        self.cluster.settle();
        self.cluster.step(leader, Event::Tick);
        self.advance(heartbeat);
        self.cluster.tick(leader);
        self.cluster.settle();
        let end = self.cluster.node(leader).raft().commit();
        assert!(end > before, "{leader} leads and commits nothing");
        assert_eq!(self.cluster.node(leader).raft().role(), Role::Leader);
        let members = self.cluster.node(leader).raft().membership().clone();
        for member in members.members() {
            let Some(it) = self.cluster.replicas.values().find(|r| r.id == member.replica) else {
                continue;
            };
            assert_eq!(it.machine.applied.0, end, "{} has not caught up", member.replica);
        }
        let reads = self.cluster.checker.reads_open();
        assert_eq!(reads, 0, "{reads} reads have no answer");
    }

    fn run(&mut self) -> Sum {
        for _ in 0..ACTIONS {
            self.act();
        }
        self.recover();
        self.sum.terms = self.cluster.checker.terms_led();
        self.sum.commits = self.cluster.checker.committed().0;
        self.sum.installs = self.cluster.installs;
        self.sum.reads = self.cluster.checker.reads_answered();
        self.sum
    }
}

/// Prints the seed when a check panics.
struct Story(Run, u64);

impl Drop for Story {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay it with BEACH_RAFT_SEED={}; {:?}", self.1, self.0.odds);
        }
    }
}

fn run(seed: u64, aloud: bool) -> Sum {
    let mut run = Run::new(seed, aloud);
    run.cluster.aloud = aloud;
    Story(run, seed).0.run()
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|n| n.parse().unwrap_or_else(|_| panic!("{variable}={n}")))
}

#[test]
fn random_schedules_break_no_invariant_and_end_in_a_working_cluster() {
    if let Some(seed) = number("BEACH_RAFT_SEED") {
        println!("{:?}", run(seed, true));
        return;
    }
    let mut sum = Sum::default();
    let seeds = number("BEACH_RAFT_SEEDS").unwrap_or(SEEDS);
    for seed in 0..seeds {
        let one = run(seed, false);
        sum.terms += one.terms;
        sum.commits += one.commits;
        sum.reads += one.reads;
        sum.installs += one.installs;
        sum.changes += one.changes;
        sum.transfers += one.transfers;
        sum.crashes += one.crashes;
        sum.lease_seeds += one.lease_seeds;
    }
    println!("{seeds} seeds: {sum:?}");
    let enough = sum.terms as u64 > 2 * seeds && sum.commits > 20 * seeds;
    let enough = enough && sum.reads > 10 * seeds && sum.crashes > 2 * seeds;
    let enough = enough && sum.changes * 10 > 7 * seeds && sum.installs * 10 > 3 * seeds;
    assert!(enough, "the schedules do too little: {sum:?}");
}

#[test]
fn a_seed_run_twice_tells_the_same_story() {
    let story = |seed| {
        let mut run = Run::new(seed, true);
        run.run();
        run.cluster.told
    };
    assert_eq!(story(7), story(7));
    assert_ne!(story(7), story(8));
}

/// Bugs planted in raft are found by the same schedules: the proof that the checks see something. Only in builds with
/// `RUSTFLAGS='--cfg beach_planted'`. Not in the list: two that break no rule of safety (NoPreVote, LeadsWithHungDisk:
/// `pitfall_05_a_partitioned_replica_does_not_raise_its_term`, `pitfall_20_a_leader_whose_disk_hangs_gives_leadership_up`),
/// and three that these schedules are too short for (CommitUnverified, LongerLogWins, LeaseAfterTransfer:
/// `pitfall_09_a_follower_commits_at_most_what_the_message_verified`,
/// `pitfall_04_logs_are_compared_by_last_term_then_index`, `pitfall_34_a_transfer_drops_the_lease`).
#[cfg(beach_planted)]
#[test]
fn planted_bugs_are_found_by_random_schedules() {
    use crate::base::planted::{Bug, select};
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = Vec::new();
    let bugs = [
        Bug::CommitOldTermByCount,
        Bug::EvenQuorum,
        Bug::LeaderCountsUnsynced,
        Bug::CommitOnAppend,
        Bug::AckBeforeSync,
        Bug::SpeakBeforeSync,
        Bug::VoteNotPersisted,
        Bug::VoteTwice,
        Bug::TruncateAlways,
        Bug::ApplyBeforeDurable,
        Bug::AnyAnswerConfirms,
        Bug::ReadBeforeOwnCommit,
        Bug::ReadUnconfirmed,
        Bug::LearnersCount,
        Bug::ChangeBeforeOwnCommit,
        Bug::TwoChangesAtOnce,
        Bug::ChangeSurvivesTruncation,
    ];
    for bug in &bugs {
        select(Some(*bug));
        let found = (0..16 * SEEDS).find_map(|seed| {
            let run = || Run::new(seed, false).run();
            let panic = std::panic::catch_unwind(run).err()?;
            let text = panic.downcast_ref::<String>().cloned();
            let what = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            Some((seed, what.unwrap_or_default()))
        });
        match found {
            Some((seed, what)) => println!("{}: seed {seed}: {what}", bug.name()),
            None => missed.push(bug.name()),
        }
    }
    select(None);
    std::panic::set_hook(quiet);
    assert!(missed.is_empty(), "not found in {} seeds: {missed:?}", 16 * SEEDS);
}
