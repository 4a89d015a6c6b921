//! A long mix of all faults, round by round: what `scripts/soak.sh` runs.
//!
//! ```text
//!   round = a new cluster ─► fault ─► heal, all nodes ready, writes go on ─► next fault … ─► read back, judge
//!   seed of a round = the seed + its number, so one round can be run alone: --seed (that of the round)
//! ```
//!
//! A round's seed picks the size of the cluster, the faults, their victims, and how long they last. When they meet which
//! message is the machine's, so a seed repeats the faults and not the run. The directory of a round that fails is kept.

use crate::black_box::cluster::{Cluster, Node};
use crate::faults::{fall_behind, installed, move_leader, wipe_and_replace};
use crate::load::{ELECTION_TIMEOUT, Load, any_seed, given_seed, run_seeded};
use crate::network::Network;
use crate::partitions::PATIENT;
use beachdb::env::sim::SimRandom;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::{Duration, Instant};

/// Faults of a round.
const FAULTS: u64 = 12;
/// How long new rounds are begun, when neither `BEACH_SOAK_ROUNDS` nor `BEACH_SOAK_SECONDS` says.
const SECONDS: u64 = 60;

#[test]
#[ignore = "it takes minutes: bash scripts/soak.sh --seed N --minutes M"]
fn soak() {
    let setting = |name: &str| {
        let text = std::env::var(name).ok().filter(|text| !text.is_empty());
        text.map(|text| text.parse::<u64>().expect("a number"))
    };
    let rounds = setting("BEACH_SOAK_ROUNDS");
    let time = Duration::from_secs(setting("BEACH_SOAK_SECONDS").unwrap_or(SECONDS));
    let first = given_seed().unwrap_or_else(|| any_seed() % 1_000_000);
    let (begin, mut round) = (Instant::now(), 0);
    while rounds.map_or(begin.elapsed() < time, |rounds| round < rounds) {
        let seed = first.wrapping_add(round);
        let began = Instant::now();
        let repeat = format!("bash scripts/soak.sh --seed {seed} --rounds 1");
        println!("round {round}: {repeat}");
        let mut random = SimRandom::new(seed);
        let nodes = if random.chance(1, 4) { 5 } else { 3 };
        let network = Network::open("partitions", nodes);
        let mut cluster = network
            .as_ref()
            .map_or_else(|| Cluster::prepared(nodes), |network| Cluster::at(network.places()));
        cluster.args.extend(["--memtable-size", "1MiB"].map(str::to_owned));
        if random.chance(1, 3) {
            // Its clock goes wrong, say: it leads on for long when nobody hears it.
            let patient = 1 + random.below(nodes);
            println!("  node {patient} is patient");
            cluster.nodes[patient as usize - 1].own = PATIENT.map(str::to_owned).to_vec();
        }
        cluster.dir.disable_cleanup(true);
        let run = || {
            let name = format!("round {round}");
            run_seeded(&name, seed, &mut cluster, |cluster, load| {
                let mut mix = Mix { cluster, load, network: network.as_ref(), random, nodes };
                for _ in 0..FAULTS {
                    mix.fault();
                }
            });
        };
        // Its panic has said what is wrong.
        let outcome = catch_unwind(AssertUnwindSafe(|| match &network {
            Some(network) => network.inside(run),
            None => run(),
        }));
        let kept = cluster.dir.path().display().to_string();
        if outcome.is_err() {
            for node in &cluster.nodes {
                println!("node {}: {}", node.id, node.data.display());
            }
            panic!("round {round} failed; its directory is kept: {kept}\nagain: {repeat}");
        }
        cluster.dir.disable_cleanup(false);
        println!("round {round}: passed in {:.1} s", began.elapsed().as_secs_f32());
        round += 1;
    }
    println!("{round} rounds passed, from seed {first} on");
}

/// A round.
struct Mix<'a> {
    cluster: &'a mut Cluster,
    load: &'a Load,
    /// `None` where there can be none: then nothing is cut.
    network: Option<&'a Network>,
    random: SimRandom,
    nodes: u64,
}

impl Mix<'_> {
    /// One fault or two at once, and the end of them.
    fn fault(&mut self) {
        match self.random.below(20) {
            0..5 => self.processes(),
            5..9 => self.network(),
            9..13 => {
                self.break_network();
                self.processes();
                self.heal_network();
            }
            13 => self.rolling_restart(),
            14..17 => {
                let to = self.anybody();
                self.say(&format!("node {to} is to lead"));
                move_leader(self.cluster, to);
            }
            17..19 => {
                let victim = self.anybody();
                self.say(&format!("the disk of node {victim} is wiped"));
                wipe_and_replace(self.cluster, self.load, victim);
            }
            _ => {
                let victim = self.anybody();
                self.say(&format!("node {victim} misses much of the log"));
                fall_behind(self.cluster, victim);
                self.cluster.spawn(victim);
                self.cluster.wait_ready(&[victim]);
                assert!(installed(self.cluster, victim) >= 1, "it needs a snapshot");
            }
        }
        let all: Vec<u64> = (1..=self.nodes).collect();
        self.cluster.wait_ready(&all);
        self.load.goes_on();
    }

    fn say(&self, what: &str) {
        println!("  {what}");
    }

    /// Who leads, as often as not.
    fn anybody(&mut self) -> u64 {
        let anybody = 1 + self.random.below(self.nodes);
        let leads = |node: &&Node| node.field("role") == "leader";
        let leader = self.random.chance(1, 2).then(|| self.cluster.running().find(leads));
        leader.flatten().map_or(anybody, |node| node.id)
    }

    /// A node or more; all of them are not rare.
    fn some(&mut self) -> Vec<u64> {
        let many = match self.random.below(8) {
            0..4 => 1,
            4..6 => 2,
            6 => self.nodes / 2 + 1,
            _ => self.nodes,
        };
        let mut nodes: Vec<u64> = (1..=self.nodes).collect();
        for last in (1..nodes.len()).rev() {
            nodes.swap(last, self.random.below(last as u64 + 1) as usize);
        }
        nodes.truncate(many as usize);
        nodes
    }

    /// From a moment to a few election timeouts.
    fn hold(&mut self) {
        let longest = 6 * ELECTION_TIMEOUT.as_millis() as u64;
        thread::sleep(Duration::from_millis(1 + self.random.below(longest)));
    }

    /// Nodes die or stand still for a while.
    fn processes(&mut self) {
        let victims = self.some();
        if self.random.chance(2, 3) {
            self.say(&format!("nodes {victims:?} are killed"));
            for victim in &victims {
                self.cluster.kill(*victim);
            }
            self.hold();
            for victim in &victims {
                self.cluster.spawn(*victim);
            }
        } else {
            self.say(&format!("nodes {victims:?} are stopped"));
            self.signal(&victims, "STOP");
            self.hold();
            self.signal(&victims, "CONT");
        }
    }

    fn signal(&self, nodes: &[u64], signal: &str) {
        for node in nodes {
            self.cluster.node(*node).daemon.as_ref().expect("it runs").signal(signal);
        }
    }

    fn rolling_restart(&mut self) {
        self.say("a rolling restart");
        for node in 1..=self.nodes {
            self.cluster.terminate(node);
            self.cluster.spawn(node);
            self.cluster.wait_ready(&[node]);
        }
    }

    /// The network breaks in one way, and perhaps in others after it, and heals.
    fn network(&mut self) {
        for _ in 0..=self.random.below(3) {
            self.break_network();
            self.hold();
            if self.random.chance(1, 2) {
                self.heal_network();
            }
        }
        self.heal_network();
    }

    fn break_network(&mut self) {
        let Some(network) = self.network else { return };
        match self.random.below(6) {
            // Some nodes from the others.
            0 | 1 => {
                let apart = self.some();
                for (a, b) in pairs(self.nodes) {
                    if apart.contains(&a) != apart.contains(&b) {
                        network.cut(a, b);
                    }
                }
            }
            // A node does not hear, or is not heard.
            2 => {
                let (node, deaf) = (self.anybody(), self.random.chance(1, 2));
                for (a, b) in pairs(self.nodes) {
                    if (deaf && b == node) || (!deaf && a == node) {
                        network.cut(a, b);
                    }
                }
            }
            // Whatever: bridges, circles, half links.
            3 => {
                for (a, b) in pairs(self.nodes) {
                    if self.random.chance(1, 3) {
                        network.cut(a, b);
                    }
                }
            }
            4 => drop(network.tell(&format!("loss {}", 1 + self.random.below(30)))),
            _ => {
                let (delay, jitter) = (self.random.below(50), self.random.below(100));
                network.tell(&format!("delay {delay} {jitter}"));
            }
        }
        self.say(&format!("the network: {}", network.tell("show")));
    }

    fn heal_network(&self) {
        if let Some(network) = self.network {
            network.heal();
        }
    }
}

/// Every node with every other one, in both directions.
fn pairs(nodes: u64) -> impl Iterator<Item = (u64, u64)> {
    (1..=nodes).flat_map(move |a| (1..=nodes).filter(move |b| *b != a).map(move |b| (a, b)))
}
