//! The faults, and the schedule of them that a seed makes.
//!
//! A schedule is a list of (time, fault), drawn before the run begins and independent of what happens in it, so that
//! shrinking may take any of them out. Whether a fault may strike at its time is the atlas's word
//! ([`super::strike`]): it keeps within what the cluster can survive, right at the limit.
//!
//! Each class is on or off with its own mean interval per seed, so that runs differ in kind: some have no fault at
//! all, some have one class, some have all of them at once.

use beachdb::env::sim::SimRandom;

/// One kind of trouble. Slots count from 0; times are virtual milliseconds; sets of slots are bit masks.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[expect(
    missing_docs,
    reason = "slots, durations, and odds; the enum and its variants say what they mean"
)]
pub enum Fault {
    /// Nothing passes between the slots in `side` and the others.
    Partition { side: u64, ms: u64 },
    /// Nothing passes from `from` to `to`; the other direction works.
    OneWay { from: usize, to: usize, ms: u64 },
    /// A node hears everybody and is heard by nobody, or the other way round.
    HalfDeaf { slot: usize, hears: bool, ms: u64 },
    /// Whoever leads at that moment is cut off from its peers, not from its clients: its log grows a tail that nobody else has.
    /// With `heard` it still hears them.
    CutOff { heard: bool, ms: u64 },
    /// Two halves that see each other only through one slot.
    Bridge { slot: usize, side: u64, ms: u64 },
    /// A node's links go down and come back, `times` times, `ms` each.
    Flap { slot: usize, times: u64, ms: u64 },
    /// The links of the slots in `set` are clogged one after the other, `step_ms` apart, and released in another
    /// order (swizzle-clogging).
    Swizzle { set: u64, step_ms: u64, order: u64 },
    /// Loss, copies, and long delays on all links.
    Storm { loss_ppm: u64, duplicate_ppm: u64, slow_ppm: u64, ms: u64 },
    /// Clients lose their connections to this slot.
    Disconnect { slot: usize },
    /// The process dies, or (`power`) the machine with its un-synced data.
    Crash { slot: usize, power: bool, down_ms: u64 },
    /// The same at the n-th change of the disk from now on, which happens in part, in full, or not at all.
    CrashAtIo { slot: usize, changes: u64, power: bool, down_ms: u64 },
    /// Many at once.
    CrashMany { set: u64, power: bool, down_ms: u64 },
    /// An orderly stop (SIGTERM) and a start.
    Drain { slot: usize, down_ms: u64 },
    /// The process gets no processor.
    Pause { slot: usize, ms: u64 },
    /// The node's clock runs this much off, in millionths.
    ClockRate { slot: usize, ppm: i64 },
    /// The node's clock jumps forward.
    ClockJump { slot: usize, ms: u64 },
    /// Every job takes `factor` times as long.
    SlowDisk { slot: usize, factor: u64, ms: u64 },
    /// One lane (by number) does nothing.
    HungLane { slot: usize, lane: usize, ms: u64 },
    /// The n-th read, write, or sync (`op` 0, 1, 2) from now on fails with EIO.
    Eio { slot: usize, op: u64, nth: u64, down_ms: u64 },
    /// The disk has this much room left.
    DiskFull { slot: usize, spare_bytes: u64, ms: u64 },
    /// A bit on the medium flips, in the `kind`-th kind of file (log, table, manifest, any); `at` chooses the byte. Soon the
    /// node is restarted, and if it is not whole it is rebuilt from its peers.
    BitRot { slot: usize, kind: u64, at: u64, repair_ms: u64 },
    /// The disk is replaced by an empty one.
    Wipe { slot: usize, down_ms: u64 },
    /// The operator takes the node out of the cluster and adds it again later.
    Leave { slot: usize, ms: u64 },
    /// The operator hands leadership over, to this slot or to whom raft likes.
    Transfer { to: Option<usize> },
    /// Where a cluster forms itself: a node of another cluster of the same name, with the number of `number`, is found by `slot`
    /// at that one's address, and speaks to it.
    Stranger { slot: usize, number: usize, ms: u64 },
    /// The operator asks the node for a checkpoint; see [`super::copies`].
    Checkpoint { slot: usize },
    /// The operator makes a cluster of its own of this node, once it has begun; only in worlds that have this.
    Recover { slot: usize },
}

impl Fault {
    /// Its class, for odds and figures.
    #[must_use]
    pub const fn class(&self) -> &'static str {
        match self {
            Self::Partition { .. } => "partition",
            Self::OneWay { .. } => "one-way",
            Self::HalfDeaf { .. } => "half-deaf",
            Self::CutOff { .. } => "cut-off",
            Self::Bridge { .. } => "bridge",
            Self::Flap { .. } => "flap",
            Self::Swizzle { .. } => "swizzle",
            Self::Storm { .. } => "storm",
            Self::Disconnect { .. } => "disconnect",
            Self::Crash { .. } => "crash",
            Self::CrashAtIo { .. } => "crash-at-io",
            Self::CrashMany { .. } => "crash-many",
            Self::Drain { .. } => "drain",
            Self::Pause { .. } => "pause",
            Self::ClockRate { .. } => "clock-rate",
            Self::ClockJump { .. } => "clock-jump",
            Self::SlowDisk { .. } => "slow-disk",
            Self::HungLane { .. } => "hung-lane",
            Self::Eio { .. } => "eio",
            Self::DiskFull { .. } => "disk-full",
            Self::BitRot { .. } => "bit-rot",
            Self::Wipe { .. } => "wipe",
            Self::Leave { .. } => "leave",
            Self::Transfer { .. } => "transfer",
            Self::Stranger { .. } => STRANGER,
            Self::Checkpoint { .. } => "checkpoint",
            Self::Recover { .. } => RECOVER,
        }
    }
}

/// A fault and when it strikes, in virtual milliseconds.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct TimedFault {
    /// When.
    pub at_ms: u64,
    /// What.
    pub fault: Fault,
}

/// Draws one fault of a class.
type Draw = fn(&mut Dice<'_>) -> Fault;

/// Name, mean interval in ms at its most frequent, and the draw.
const CLASSES: [(&str, u64, Draw); 25] = [
    ("partition", 4_000, |d| Fault::Partition { side: d.side(), ms: d.span() }),
    ("one-way", 4_000, |d| {
        let from = d.slot();
        Fault::OneWay { from, to: d.other(from), ms: d.span() }
    }),
    ("half-deaf", 6_000, |d| Fault::HalfDeaf { slot: d.slot(), hears: d.coin(), ms: d.span() }),
    ("bridge", 6_000, |d| Fault::Bridge { slot: d.slot(), side: d.side(), ms: d.span() }),
    ("flap", 8_000, |d| Fault::Flap {
        slot: d.slot(),
        times: 2 + d.below(20),
        ms: 20 + d.below(800),
    }),
    ("swizzle", 8_000, |d| Fault::Swizzle {
        set: d.set(),
        step_ms: 10 + d.below(1_000),
        order: d.below(1 << 16),
    }),
    ("storm", 10_000, |d| Fault::Storm {
        loss_ppm: d.below(400_000),
        duplicate_ppm: d.below(300_000),
        slow_ppm: d.below(200_000),
        ms: d.span(),
    }),
    ("disconnect", 5_000, |d| Fault::Disconnect { slot: d.slot() }),
    ("crash", 3_000, |d| Fault::Crash { slot: d.slot(), power: d.coin(), down_ms: d.down() }),
    ("crash-at-io", 2_000, |d| Fault::CrashAtIo {
        slot: d.slot(),
        changes: d.skewed(300),
        power: d.chance(2, 3),
        down_ms: d.down(),
    }),
    ("crash-many", 10_000, |d| Fault::CrashMany {
        set: d.set(),
        power: d.coin(),
        down_ms: d.down(),
    }),
    ("drain", 10_000, |d| Fault::Drain { slot: d.slot(), down_ms: d.down() }),
    ("pause", 5_000, |d| Fault::Pause { slot: d.slot(), ms: d.span() }),
    ("clock-rate", 10_000, |d| Fault::ClockRate {
        slot: d.slot(),
        ppm: d.below(200_001) as i64 - 100_000,
    }),
    ("clock-jump", 10_000, |d| Fault::ClockJump { slot: d.slot(), ms: 1 + d.skewed(20_000) }),
    ("slow-disk", 5_000, |d| Fault::SlowDisk {
        slot: d.slot(),
        factor: 2 + d.skewed(500),
        ms: d.span(),
    }),
    ("hung-lane", 5_000, |d| Fault::HungLane {
        slot: d.slot(),
        lane: if d.coin() { 0 } else { d.below(6) as usize },
        ms: d.span(),
    }),
    ("eio", 8_000, |d| Fault::Eio {
        slot: d.slot(),
        op: d.below(3),
        nth: d.skewed(100),
        down_ms: d.down(),
    }),
    ("disk-full", 12_000, |d| Fault::DiskFull {
        slot: d.slot(),
        spare_bytes: d.skewed(256 << 10),
        ms: d.span(),
    }),
    ("bit-rot", 12_000, |d| Fault::BitRot {
        slot: d.slot(),
        kind: d.below(4),
        at: d.below(1 << 40),
        repair_ms: d.span(),
    }),
    ("wipe", 15_000, |d| Fault::Wipe { slot: d.slot(), down_ms: d.down() }),
    ("leave", 12_000, |d| Fault::Leave { slot: d.slot(), ms: d.span() }),
    ("transfer", 5_000, |d| Fault::Transfer { to: d.coin().then(|| d.slot()) }),
    ("cut-off", 3_000, |d| Fault::CutOff { heard: d.chance(1, 4), ms: 20 + d.below(d.span_max) }),
    ("checkpoint", 4_000, |d| Fault::Checkpoint { slot: d.slot() }),
];

/// The class that only clusters have that form themselves.
pub const STRANGER: &str = "stranger";

/// The class of worlds in which a node is recovered.
pub const RECOVER: &str = "recover";

/// Longest time after the start in which a cluster is made to form in trouble, ms.
const EARLY_MS: u64 = 4_000;

/// What a cluster that forms itself meets in its first seconds besides: everything that can lose, delay, or part what a node
/// begins with. None in a world of four.
#[must_use]
pub fn early(random: &mut SimRandom, nodes: usize) -> Vec<TimedFault> {
    let mut faults = Vec::new();
    let density = [0, 2, 5, 12][random.below(4) as usize];
    let mut dice = Dice { random, nodes, span_max: 2_000 };
    for _ in 0..density * nodes as u64 / 2 {
        let at_ms = dice.skewed(EARLY_MS);
        let slot = dice.slot();
        let fault = match dice.below(16) {
            // Forming takes few writes: nearly every one of them is struck in some seed.
            0..=5 => Fault::CrashAtIo {
                slot,
                changes: dice.below(40),
                power: dice.chance(2, 3),
                down_ms: dice.down(),
            },
            6..=8 => Fault::Crash { slot, power: dice.chance(2, 3), down_ms: dice.down() },
            9 => Fault::CrashMany { set: dice.set(), power: true, down_ms: dice.down() },
            10 => Fault::Partition { side: dice.side(), ms: dice.span() },
            11 => Fault::OneWay { from: slot, to: dice.other(slot), ms: dice.span() },
            12 => Fault::Pause { slot, ms: dice.span() },
            13 => Fault::HungLane { slot, lane: 0, ms: dice.span() },
            14 => Fault::Wipe { slot, down_ms: dice.down() },
            _ => Fault::Stranger { slot, number: dice.other(slot), ms: dice.span() },
        };
        faults.push(TimedFault { at_ms, fault });
    }
    // Somebody's address is another cluster's now and then, also later.
    for _ in 0..dice.below(6) {
        let (at_ms, slot) = (dice.skewed(60_000), dice.slot());
        let fault = Fault::Stranger { slot, number: dice.other(slot), ms: dice.span() };
        faults.push(TimedFault { at_ms, fault });
    }
    faults
}

/// Who is recovered, and when; what else a machine room has on such a day: power losses of many nodes at once.
#[must_use]
pub fn impatient(random: &mut SimRandom, nodes: usize) -> Vec<TimedFault> {
    let mut dice = Dice { random, nodes, span_max: 2_000 };
    let mut faults = Vec::new();
    for _ in 0..1 + dice.below(2) {
        let slot = if dice.coin() { 0 } else { dice.slot() };
        faults.push(TimedFault { at_ms: dice.skewed(6_000), fault: Fault::Recover { slot } });
        let (set, down_ms) = (dice.set(), 1_000 + dice.down());
        let fault = Fault::CrashMany { set, power: true, down_ms };
        faults.push(TimedFault { at_ms: dice.below(3_000), fault });
    }
    faults
}

/// The names of all classes.
pub fn classes() -> impl Iterator<Item = &'static str> {
    CLASSES.iter().map(|(name, ..)| *name)
}

struct Dice<'a> {
    random: &'a mut SimRandom,
    nodes: usize,
    /// Longest usual duration of a fault, ms.
    span_max: u64,
}

impl Dice<'_> {
    fn below(&mut self, bound: u64) -> u64 {
        self.random.below(bound)
    }
    fn coin(&mut self) -> bool {
        self.chance(1, 2)
    }
    fn chance(&mut self, numerator: u64, denominator: u64) -> bool {
        self.random.chance(numerator, denominator)
    }
    fn slot(&mut self) -> usize {
        self.random.below(self.nodes as u64) as usize
    }
    fn other(&mut self, than: usize) -> usize {
        if self.nodes == 1 {
            return than;
        }
        let other = self.random.below(self.nodes as u64 - 1) as usize;
        if other >= than { other + 1 } else { other }
    }
    /// Some of the slots.
    fn set(&mut self) -> u64 {
        1 + self.random.below((1 << self.nodes) - 1)
    }
    /// Some, but not all (where there are two).
    fn side(&mut self) -> u64 {
        if self.nodes == 1 { 1 } else { 1 + self.random.below((1 << self.nodes) - 2) }
    }
    /// Small numbers are as likely as large ones: uniform in the logarithm.
    fn skewed(&mut self, bound: u64) -> u64 {
        let bits = u64::from(bound.ilog2()) + 1;
        let top = 1 << self.random.below(bits + 1);
        self.random.below(top.min(bound))
    }
    fn span(&mut self) -> u64 {
        20 + self.skewed(self.span_max)
    }
    fn down(&mut self) -> u64 {
        1 + self.skewed(self.span_max)
    }
}

/// The schedule of a run: `nodes`, until `duration_ns`, with election timeouts of about `election_ns`.
#[must_use]
pub fn schedule(
    random: &mut SimRandom,
    nodes: usize,
    duration_ns: u64,
    election_ns: u64,
) -> Vec<TimedFault> {
    let end_ms = duration_ns / 1_000_000;
    // A world in 16 is calm; in the others a quarter, half, or all of the classes are on.
    let on_of_8 = match random.below(16) {
        0 => 0,
        1..=7 => 2,
        8..=13 => 4,
        _ => 8,
    };
    let mut faults = Vec::new();
    for (_, interval_ms, draw) in CLASSES {
        // Drawn for every class, so that one more class does not change the others.
        let mut stream = random.fork();
        if !stream.chance(on_of_8, 8) {
            continue;
        }
        let mean = interval_ms * [1, 2, 4, 8][stream.below(4) as usize] * (on_of_8 / 2);
        let span_max = (election_ns / 1_000_000) * [1, 4, 12][stream.below(3) as usize];
        let mut at_ms = 200;
        loop {
            at_ms += 1 + stream.below(2 * mean);
            if at_ms >= end_ms {
                break;
            }
            let mut dice = Dice { random: &mut stream, nodes, span_max };
            faults.push(TimedFault { at_ms, fault: draw(&mut dice) });
        }
    }
    faults.sort_by_key(|f| f.at_ms);
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_schedule_of_a_seed_is_always_the_same_and_seeds_differ() {
        let of = |seed| schedule(&mut SimRandom::new(seed), 5, 60_000_000_000, 1_000_000_000);
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
        assert!((0..64).any(|seed| of(seed).is_empty()), "no calm world among 64");
    }

    #[test]
    fn every_class_is_drawn_and_survives_json() {
        let mut seen = BTreeSet::new();
        for seed in 0..64 {
            let faults = schedule(&mut SimRandom::new(seed), 3, 60_000_000_000, 1_000_000_000);
            let text = serde_json::to_string(&faults).unwrap();
            assert_eq!(serde_json::from_str::<Vec<TimedFault>>(&text).unwrap(), faults);
            assert!(faults.is_sorted_by_key(|f| f.at_ms));
            seen.extend(faults.iter().map(|f| f.fault.class()));
        }
        assert_eq!(seen, classes().collect());
    }

    #[test]
    fn skewed_numbers_reach_up_to_their_bound_and_are_mostly_small() {
        let mut random = SimRandom::new(1);
        let mut dice = Dice { random: &mut random, nodes: 3, span_max: 1_000 };
        let drawn: Vec<u64> = (0..20_000).map(|_| dice.skewed(300)).collect();
        assert!(drawn.iter().all(|n| *n < 300));
        assert!(drawn.iter().any(|n| *n > 290), "the largest: {:?}", drawn.iter().max());
        assert!(drawn.iter().filter(|n| **n < 16).count() > drawn.len() / 3);
    }

    #[test]
    fn slots_are_in_range_whatever_the_number_of_nodes() {
        for nodes in 1..=7 {
            for seed in 0..20 {
                for timed in schedule(&mut SimRandom::new(seed), nodes, 60_000_000_000, 500_000_000)
                {
                    if let Fault::OneWay { from, to, .. } = timed.fault {
                        assert!(from < nodes && to < nodes && (nodes == 1 || from != to));
                    }
                    if let Fault::Partition { side, .. } = timed.fault {
                        assert!(side >= 1 && side < 1 << nodes);
                    }
                }
            }
        }
    }
}
