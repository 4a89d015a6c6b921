//! `beachd recover --force-new-cluster` as a fault: an operator who does not wait makes a cluster of one of a node, with the
//! real [`Recovery`], which may crash on the way; the others come back later, as they were.
//!
//! Two clusters are then what was asked for. [`super::check::formation`] sees to it that neither hears the other, that nobody
//! comes to belong to the new one unasked, and that nobody is told to begin the old one by whom it does not count any more.
//!
//! What it does not do: serve clients. What each of the two promised cannot be judged as one history, so such worlds
//! ([`super::shape::Begin::Recovers`]) have none, and nobody who changes the members.

use super::hooks::{StopKind, Verdict, Violation};
use super::slot::Health;
use super::strike::Undo;
use super::world::{What, World};
use beachdb::base::{ClusterUid, Nanos};
use beachdb::env::Random;
use beachdb::env::sim::{CrashKind, SimRandom};
use beachdb::node::{NewCluster, RecoverError, Recovery};

/// The mark of a node that became a cluster of its own.
pub const RECOVERED: &str = "recovered as a cluster of its own";
/// The mark of a crash during that.
pub const RECOVER_CRASHED: &str = "crashed while recovering";
/// A node that has not begun yet is looked at again after this at most: what its peers have not written yet is lost with them.
const PATIENCE_NS: u64 = 10_000_000;
/// So often.
const LOOKS: u64 = 1_000;

impl World {
    /// The operator makes a cluster of this node, as soon as it has begun.
    pub(super) fn recover(&mut self, slot: usize, looks: u64) -> Verdict {
        let core = &mut self.core;
        if !core.recovers || core.calm {
            return Ok(());
        }
        let s = &core.slots[slot];
        let has_begun = s.node.as_ref().is_some_and(|n| !n.raft().membership().is_empty());
        if !has_begun || s.health != Health::Whole {
            if looks < LOOKS {
                let pause = core.random.below(PATIENCE_NS);
                core.after(pause, What::Undo(Undo::Recover { slot, looks: looks + 1 }));
            }
            return Ok(());
        }
        let mut random = SimRandom::new(core.random.next_u64());
        if random.chance(1, 2) {
            // The reason for all this: the others lost their power.
            for other in (0..self.core.slots.len()).filter(|other| *other != slot) {
                self.crash(other, true, 1 + random.below(2_000))?;
            }
        }
        let kind = if random.chance(1, 2) { CrashKind::PowerLoss } else { CrashKind::Process };
        self.stop(slot, StopKind::Crash(kind), kind, 1 + random.below(500))?;
        let s = &mut self.core.slots[slot];
        s.disk.clear_faults();
        s.disk.set_capacity(None);
        s.disk.restart();
        if random.chance(1, 2) {
            s.disk.crash_at(s.disk.op_count() + random.below(40));
        }
        let env = s.env();
        let mut crashed = false;
        let plan = loop {
            let fresh = (random.next_u64() | 1, ClusterUid::drawn(random.next_u64()));
            let outcome = Recovery::prepare(&env, &s.dir, fresh, &NewCluster::default())
                .and_then(Recovery::carry_out);
            if !s.disk.is_down() {
                break outcome;
            }
            crashed = true;
            let power = random.chance(2, 3);
            s.disk.crash(if power { CrashKind::PowerLoss } else { CrashKind::Process });
            s.disk.restart();
        };
        let plan = match plan {
            Ok(plan) => plan,
            // What it had begun was not durable.
            Err(RecoverError::NoData { .. }) => return Ok(()),
            Err(error) => {
                let what = format!("node {} cannot recover: {error}", slot + 1);
                return Err(Violation::new("recover-refused", what));
            }
        };
        if random.chance(1, 2) {
            // What it said is done is durable.
            s.disk.crash(CrashKind::PowerLoss);
            s.disk.restart();
        }
        let before = s.replica;
        s.replica = plan.identity.replica();
        s.recovered = Some(plan.cluster);
        let (after, cluster) = (s.replica, plan.cluster);
        self.core.note(format_args!("n{} recovers as {after}, cluster {cluster}", slot + 1));
        *self.core.struck.entry(RECOVERED).or_default() += 1;
        *self.core.struck.entry(RECOVER_CRASHED).or_default() += u64::from(crashed);
        self.observer.recovered(before, after, cluster)
    }

    /// The end of such a world: whoever was recovered leads its own cluster.
    pub(super) fn finish_recovered(&mut self, timeouts: u64) -> Verdict {
        for slot in 0..self.core.slots.len() {
            if !self.core.slots[slot].is_up() {
                self.start(slot)?;
            }
        }
        let leads = |world: &Self| {
            world.core.slots.iter().filter(|s| s.recovered.is_some()).all(|s| {
                s.node.as_ref().is_some_and(|n| {
                    n.is_ready()
                        && Some(n.cluster()) == s.recovered
                        && n.raft().membership().voter_count() == 1
                })
            })
        };
        if !self.wait_for(timeouts, leads)? {
            let what =
                format!("who was recovered does not serve its own cluster: {}", self.describe());
            return Err(Violation::new("recovered-serves", what));
        }
        // The old ones meet the new one for a while, in peace.
        let end = self.core.now.plus(Nanos(4 * self.core.shape.election_timeout_ns).0);
        self.run_until(end)?;
        self.observer.finish(&self.core)
    }
}
