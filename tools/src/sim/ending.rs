//! The end of a run: is the cluster still alive, and do all nodes hold the same?
//!
//! 0. Where the cluster forms itself and a disk was lost before it had: somebody may have begun what nobody else will join
//!    any more. Then it is rebuilt; or, where no majority began as one, every node says what it waits for.
//! 1. **Liveness.** Faults stop. A random quorum of the voters stays up (the others go down), with whole disks and a
//!    good network. Within [`LIVENESS_TIMEOUTS`] longest election timeouts it must have a leader that serves and has committed
//!    something new, and every one of the quorum must have applied what that leader had applied then. Where a snapshot has to be
//!    sent in tiny chunks, its way is added to the time.
//! 2. **Convergence.** Everybody comes up, damaged nodes are rebuilt, the operator makes everybody a voter, clients stop.
//!    Within [`CONVERGENCE_TIMEOUTS`] longest election timeouts all nodes have applied the same entry.
//! 3. **Equality.** All user rows and all internal rows of all nodes are equal.

use super::hooks::{SimNode, Verdict, Violation};
use super::slot::{Goal, Health, Slot};
use super::world::{What, World};
use beachdb::base::{LogIndex, Membership, Nanos};
use beachdb::env::sim::CrashKind;
use beachdb::node::{Lookup, SliceRange, StateMachine};
use beachdb::raft::LogView as _;

/// Longest election timeouts (twice the shortest one) that a healthy quorum may take to elect, commit, and catch up.
/// An election takes one or two; a split vote one more, rarely twice; a snapshot and a restart's replay the rest.
pub const LIVENESS_TIMEOUTS: u64 = 20;
/// The same for all nodes to come back (each after a remove, an add, a snapshot, and a promote) and be equal.
pub const CONVERGENCE_TIMEOUTS: u64 = 100;
/// Longest time of a job in the end of a run.
const CALM_JOB_NS: u64 = 2_000_000;
/// How often it is looked whether it is done.
const LOOKS_PER_TIMEOUT: u64 = 40;

/// The mark of a run whose cluster never formed, because a disk was lost on the way.
pub const GIVEN_UP: &str = "cluster not formed after a lost disk";

/// What one node holds.
type Rows = Vec<(Vec<u8>, Vec<u8>)>;

impl World {
    /// See the module. Called once, when the time of the faults is over.
    pub fn finish(&mut self) -> Verdict {
        self.calm();
        if self.core.recovers {
            return self.finish_recovered(LIVENESS_TIMEOUTS);
        }
        if self.core.lost_early && !self.settle_formation()? {
            return self.observer.finish(&self.core);
        }
        let core = self.choose_core();
        self.core.note(format_args!("=== faults stop; the quorum {core:?} stays"));
        let known = self.highest_commit();
        self.isolate(&core)?;
        let mut target = None;
        let alive = |world: &Self| world.lives(&core, known, &mut target);
        if !self.wait_for(LIVENESS_TIMEOUTS, alive)? {
            let what = format!(
                "slots {core:?} are a quorum without faults, but after {LIVENESS_TIMEOUTS} longest election \
                 timeouts: {}",
                self.describe()
            );
            return Err(Violation::new("liveness", what));
        }
        self.core.note(format_args!("=== everything heals"));
        self.clients.stop();
        self.heal()?;
        if !self.wait_for(CONVERGENCE_TIMEOUTS, |world| world.converged())? {
            let what = format!(
                "everything is healed, but after {CONVERGENCE_TIMEOUTS} longest election timeouts: {}",
                self.describe()
            );
            return Err(Violation::new("convergence", what));
        }
        self.compare()?;
        self.observer.finish(&self.core)
    }

    /// A disk was lost before there was a cluster: some may have begun one that others will never join. Whoever is of another
    /// cluster than the one that has a leader is rebuilt, as its operator would. Whether there is one; if not, every
    /// node says why.
    fn settle_formation(&mut self) -> Result<bool, Violation> {
        for slot in 0..self.core.slots.len() {
            if !self.core.slots[slot].is_up() {
                self.start(slot)?;
            }
        }
        let led = |world: &Self| {
            let leader = world.core.leader().and_then(|slot| world.core.slots[slot].node.as_ref());
            leader.is_some_and(SimNode::is_ready)
        };
        if self.wait_for(LIVENESS_TIMEOUTS, led)? {
            let leader = self.core.leader().and_then(|slot| self.core.slots[slot].node.as_ref());
            let cluster = leader.map(SimNode::cluster);
            self.core.established = true;
            for slot in 0..self.core.slots.len() {
                let theirs = self.core.slots[slot].node.as_ref().map(SimNode::cluster);
                if theirs.is_some_and(|theirs| !theirs.is_none()) && theirs != cluster {
                    self.core.note(format_args!("n{} is of another cluster", slot + 1));
                    self.rebuild(slot, 1, true)?;
                }
            }
            return Ok(true);
        }
        for s in &self.core.slots {
            let status = s.node.as_ref().map(|node| node.status(s.clock.local(self.core.now)));
            if status.is_none_or(|s| s.not_ready_reason.is_none_or(|why| why.is_empty())) {
                let what = format!(
                    "n{} does not say what it waits for: {}",
                    s.number + 1,
                    self.describe()
                );
                return Err(Violation::new("formation-says-why", what));
            }
        }
        *self.core.struck.entry(GIVEN_UP).or_default() += 1;
        Ok(false)
    }

    /// No fault from here on.
    fn calm(&mut self) {
        let core = &mut self.core;
        core.calm = true;
        core.operator.rests = true;
        core.operator.queue.clear();
        core.net.heal();
        core.shape.job_delay.1 = core.shape.job_delay.1.min(CALM_JOB_NS);
        for slot in 0..core.slots.len() {
            let now = core.now;
            let s = &mut core.slots[slot];
            s.disk.clear_faults();
            s.disk.set_capacity(None);
            s.cramped = false;
            // `excused` stays: what failed on a slow disk before the calm may be told after it, and nothing else fails like
            // that any more.
            s.crash_on_start = None;
            s.slow = (1, now);
            for lane in &mut s.lanes {
                lane.hung_until = now;
            }
            let life = s.life;
            core.resume(slot, life);
        }
    }

    /// A random set of slots with whole data that is a quorum of every membership that may be in force.
    fn choose_core(&mut self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.core.slots.len()).collect();
        for n in (1..order.len()).rev() {
            order.swap(n, self.core.random.below(n as u64 + 1) as usize);
        }
        let memberships: Vec<Membership> = self
            .core
            .slots
            .iter()
            .filter_map(|s| s.node.as_ref())
            .map(|n| n.raft().membership().clone())
            .filter(|members| self.core.links.is_none() || !members.is_empty())
            .collect();
        // A process that is down may know a newer membership: then everybody stays.
        let all_up = self.core.slots.iter().all(|s| s.is_up() || s.health != Health::Whole);
        let mut chosen = Vec::new();
        for slot in order {
            if all_up && !memberships.is_empty() && self.is_quorum(&chosen, &memberships) {
                break;
            }
            if self.core.slots[slot].health != Health::Rotten {
                chosen.push(slot);
            }
        }
        chosen.sort_unstable();
        chosen
    }

    fn is_quorum(&self, chosen: &[usize], memberships: &[Membership]) -> bool {
        memberships.iter().all(|m| {
            let forms = self.core.links.is_some();
            // One that has not begun yet waits for any one that has.
            let has_begun = |s: &Slot| !forms || s.node.as_ref().is_some_and(|n| !n.is_blank());
            let there = chosen.iter().map(|n| &self.core.slots[*n]);
            let there = there.filter(|s| m.is_voter(s.replica) && has_begun(s)).count();
            m.is_empty() || 2 * there > m.voter_count()
        })
    }

    /// The core comes up, the others go down.
    fn isolate(&mut self, core: &[usize]) -> Verdict {
        for slot in 0..self.core.slots.len() {
            if core.contains(&slot) {
                if !self.core.slots[slot].is_up() {
                    self.start(slot)?;
                }
                continue;
            }
            self.core.slots[slot].held_down = true;
            if self.core.slots[slot].is_up() {
                let kind = CrashKind::Process;
                self.stop(slot, super::hooks::StopKind::Crash(kind), kind, 1)?;
            }
        }
        Ok(())
    }

    /// Everybody comes up; what is damaged is rebuilt; the operator wants all of them.
    fn heal(&mut self) -> Verdict {
        self.core.operator.rests = false;
        for slot in 0..self.core.slots.len() {
            let now = self.core.now;
            let s = &mut self.core.slots[slot];
            s.held_down = false;
            s.goal = Goal::In;
            if s.health == Health::Rotten {
                self.rebuild(slot, 100, true)?;
            } else if !s.is_up() {
                let life = s.life;
                self.core.at(now, What::Start { slot, life });
            }
        }
        Ok(())
    }

    /// Runs until `done` or so many longest election timeouts have passed; whether it is done.
    pub(super) fn wait_for(
        &mut self,
        timeouts: u64,
        mut done: impl FnMut(&Self) -> bool,
    ) -> Result<bool, Violation> {
        let longest = 2 * self.core.shape.election_timeout_ns;
        let timeouts = timeouts + self.transfer_ns() / longest;
        for _ in 0..timeouts * LOOKS_PER_TIMEOUT {
            if done(self) {
                return Ok(true);
            }
            self.run_until(self.core.now.plus(longest / LOOKS_PER_TIMEOUT))?;
        }
        Ok(done(self))
    }

    /// How long the largest snapshot there is may be on its way, a chunk at a time (chunks are tiny here), once more
    /// after a leader change.
    fn transfer_ns(&self) -> u64 {
        let shape = &self.core.shape;
        let bytes = self.core.slots.iter().map(|s| s.disk.used_bytes()).max().unwrap_or(0);
        let chunks = bytes / shape.snapshot_chunk_bytes as u64;
        let one = 2 * self.core.net.normal().delay_max + 2 * shape.job_delay.1 + shape.turn_cost.1;
        2 * chunks * one
    }

    /// Whether the core has a leader that serves and everybody in it has caught up with what it had then.
    ///
    /// A leader from before counts only once it has committed something that nobody had committed when faults stopped
    /// (`known`): clients still write.
    fn lives(&self, core: &[usize], known: LogIndex, target: &mut Option<LogIndex>) -> bool {
        if target.is_none() {
            let leader = self.core.leader().and_then(|slot| self.core.slots[slot].node.as_ref());
            *target =
                leader.filter(|n| n.is_ready()).map(SimNode::applied).filter(|at| *at > known);
        }
        let Some(target) = *target else { return false };
        core.iter().all(|slot| {
            let s = &self.core.slots[*slot];
            // Who is no member (any more, or yet) need not catch up.
            let member = self.core.leader().and_then(|l| self.core.slots[l].node.as_ref());
            let is_member = member.is_some_and(|n| n.raft().membership().is_voter(s.replica));
            !is_member || s.node.as_ref().is_some_and(|n| n.applied() >= target)
        })
    }

    /// The highest commit index of any process that is up.
    fn highest_commit(&self) -> LogIndex {
        let nodes = self.core.slots.iter().filter_map(|s| s.node.as_ref());
        nodes.map(|n| n.raft().commit()).max().unwrap_or_default()
    }

    /// Whether everybody is a voter and has applied the same, and nothing is on its way.
    fn converged(&self) -> bool {
        let Some(leader) = self.core.leader().and_then(|l| self.core.slots[l].node.as_ref()) else {
            return false;
        };
        let applied = leader.applied();
        leader.is_ready()
            && leader.raft().commit() == applied
            && leader.log().last().0 == applied
            && self.core.slots.iter().all(|s| {
                s.health == Health::Whole
                    && leader.raft().membership().is_voter(s.replica)
                    && s.node.as_ref().is_some_and(|n| n.applied() == applied)
            })
    }

    /// All nodes in words, for a violation.
    pub(super) fn describe(&self) -> String {
        let one = |s: &super::slot::Slot| match &s.node {
            None => format!("n{} down ({:?}, {:?})", s.number + 1, s.health, s.goal),
            Some(node) => format!(
                "n{} {} of term {}, commit {}, applied {}, {} voters{} ({:?}, {:?})",
                s.number + 1,
                node.role().name(),
                node.raft().term().0,
                node.raft().commit().0,
                node.applied().0,
                node.raft().membership().voter_count(),
                if node.is_ready() { ", ready" } else { "" },
                s.health,
                s.goal
            ),
        };
        self.core.slots.iter().map(one).collect::<Vec<_>>().join("; ")
    }

    fn compare(&self) -> Verdict {
        let mut first: Option<(usize, Rows)> = None;
        for s in &self.core.slots {
            let Some(node) = &s.node else { continue };
            let rows = rows_of(node).map_err(|what| {
                Violation::new("unreadable", format!("node {}: {what}", s.number + 1))
            })?;
            match &first {
                None => first = Some((s.number, rows)),
                Some((other, expected)) => {
                    if let Some(what) = difference(expected, &rows) {
                        let what =
                            format!("nodes {} and {} differ: {what}", other + 1, s.number + 1);
                        return Err(Violation::new("unequal-state", what));
                    }
                }
            }
        }
        Ok(())
    }
}

/// Everything a node's state machine holds: user rows, then internal rows.
fn rows_of(node: &SimNode) -> Result<Rows, String> {
    let machine = node.machine();
    let mut rows = Rows::new();
    let mut start = Vec::new();
    loop {
        let range = SliceRange {
            start: &start,
            end: None,
            limit: 10_000,
            max_bytes: usize::MAX,
            keys_only: false,
            reverse: false,
            at: machine.last_seq(),
        };
        let slice = match machine.scan(&range).map_err(|e| e.to_string())? {
            Lookup::Ready(slice) => slice,
            Lookup::Disk(read) => read().map_err(|e| e.to_string())?,
        };
        rows.extend(slice.entries.into_iter().map(|e| (e.key.to_vec(), e.value.to_vec())));
        match slice.resume {
            Some(resume) => start = resume,
            None => break,
        }
    }
    let internal = machine.internal_rows().map_err(|e| e.to_string())?;
    rows.extend(internal.into_iter().map(|(key, value)| (key, value.to_vec())));
    Ok(rows)
}

/// The first difference, in words.
fn difference(left: &Rows, right: &Rows) -> Option<String> {
    let show = |row: Option<&(Vec<u8>, Vec<u8>)>| match row {
        None => "nothing".to_owned(),
        Some((key, value)) => {
            format!("{} = {}", key.escape_ascii(), value.escape_ascii())
        }
    };
    let rows = left.len().max(right.len());
    let n = (0..rows).find(|n| left.get(*n) != right.get(*n))?;
    Some(format!("row {n} is {} and {}", show(left.get(n)), show(right.get(n))))
}

/// Longest time that the end of a run may take, virtually.
#[must_use]
pub const fn longest_end(election_timeout_ns: u64) -> Nanos {
    Nanos(2 * election_timeout_ns * (LIVENESS_TIMEOUTS + CONVERGENCE_TIMEOUTS))
}

#[cfg(test)]
mod tests {
    use crate::sim::hooks::{Harness, Nobody, Setup};
    use crate::sim::run::run;
    use crate::sim::shape::RunOptions;

    #[test]
    fn a_leader_from_before_that_commits_nothing_new_is_not_alive() {
        let silence = |_: &Setup| Harness { observer: Box::new(Nobody), clients: Box::new(Nobody) };
        let options = RunOptions::given(1, 1, 0.1);
        let report = run(&options, Some(Vec::new()), silence, false);
        assert_eq!(report.violation.map(|v| v.rule).as_deref(), Some("liveness"));
    }
}
