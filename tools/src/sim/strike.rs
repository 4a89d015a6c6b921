//! Faults, carried out. And the atlas: what the cluster can survive.
//!
//! | fault | limit |
//! |---|---|
//! | partitions, pauses, slow and hung disks, full disks, crashes with or without loss of un-synced data | none: everybody at once, for a while |
//! | wiped disk, flipped bits, a member that leaves | a minority of the slots at once, each until it is a voter again |
//! | flipped bits in the log | not in its last two segments: damage behind the last watermark cannot be told from a torn write (design.md 6) |
//! | clocks | while reads may use a lease, within the drift that the lease assumes, and no jumps |

use super::faults::Fault;
use super::hooks::{SlotState, StopKind, Verdict};
use super::operator::node_of;
use super::slot::{CrashPlan, Goal, Health, Item};
use super::world::{Core, What, World};
use beachdb::base::Nanos;
use beachdb::env::sim::{CrashKind, FailKind, FailOn, FailPoint, OpKind, SimDisk};
use beachdb::env::{Disk, Random};
use beachdb::node::Admin;
use beachdb::wal::LogKind;
use std::path::{Path, PathBuf};

/// The end of a fault.
#[derive(Debug)]
#[expect(missing_docs, reason = "the variants say it")]
pub enum Undo {
    /// These directions work again.
    Unblock(Vec<(usize, usize)>),
    /// The links of a slot change from down to up or back.
    Flap { slot: usize, left: u64, ms: u64, down: bool },
    /// Begin to clog the links of a slot.
    Clog { slot: usize, until: Nanos },
    /// It gets the processor again.
    Resume { slot: usize, life: u64 },
    /// The disk has room again.
    Room { slot: usize },
    /// A damaged node is restarted, so that it sees the damage.
    Rot { slot: usize, incarnation: u64 },
    /// A damaged node is built again.
    Repair { slot: usize, incarnation: u64 },
}

const fn kind_of(power: bool) -> CrashKind {
    if power { CrashKind::PowerLoss } else { CrashKind::Process }
}

impl Core {
    /// Whether the data (or the membership) of this slot may be lost now.
    fn may_lose(&self, slot: usize) -> bool {
        let missing = |s: &super::slot::Slot| {
            s.number != slot && (s.health != Health::Whole || s.goal != Goal::In)
        };
        let others = self.slots.iter().filter(|s| missing(s)).count();
        others < (self.slots.len() - 1) / 2
    }

    fn block(&mut self, links: Vec<(usize, usize)>, ms: u64) {
        for (from, to) in &links {
            self.net.block(*from, *to, true);
        }
        self.after(Nanos::from_millis(ms).0, What::Undo(Undo::Unblock(links)));
    }

    /// All links for which `is_cut` says so.
    fn links(&self, is_cut: impl Fn(usize, usize) -> bool) -> Vec<(usize, usize)> {
        let n = self.slots.len();
        let all = (0..n).flat_map(|from| (0..n).map(move |to| (from, to)));
        all.filter(|(from, to)| from != to && is_cut(*from, *to)).collect()
    }

    fn links_of(&self, slot: usize) -> Vec<(usize, usize)> {
        self.links(|from, to| from == slot || to == slot)
    }

    fn set_flap(&mut self, slot: usize, down: bool) {
        for (from, to) in self.links_of(slot) {
            self.net.block(from, to, down);
        }
    }

    fn replan_wake(&mut self, slot: usize) {
        self.slots[slot].wake_at = None;
        self.plan_turn(slot);
    }

    fn clock_rate(&mut self, slot: usize, ppm: i64) {
        let limit = self.shape.clock_drift_ppm as i64;
        let ppm = if self.shape.lease { ppm.clamp(-limit, limit) } else { ppm };
        let rate = u64::try_from(1_000_000 + ppm).unwrap_or(1_000_000);
        let now = self.now;
        self.slots[slot].clock.set_rate(now, rate);
        self.replan_wake(slot);
    }

    fn clock_jump(&mut self, slot: usize, ms: u64) {
        if !self.shape.lease {
            self.slots[slot].clock.jump(Nanos::from_millis(ms).0);
            self.replan_wake(slot);
        }
    }

    /// Clogs the links of the slots of `set` in order, and releases them in another.
    fn swizzle(&mut self, set: u64, step_ms: u64, order: u64) {
        let members: Vec<usize> = (0..self.slots.len()).filter(|n| set >> n & 1 == 1).collect();
        let count = members.len() as u64;
        let step = Nanos::from_millis(step_ms).0;
        for (n, slot) in members.into_iter().enumerate() {
            let n = n as u64;
            let release = count + (n + order) % count;
            let until = self.now.plus(step * (release + 1));
            self.after(step * n, What::Undo(Undo::Clog { slot, until }));
        }
    }

    fn crash_at_io(&mut self, slot: usize, changes: u64, plan: CrashPlan) {
        let s = &mut self.slots[slot];
        if s.is_up() {
            s.disk.crash_at(s.disk.op_count() + changes);
            s.crash_plan = Some(plan);
        } else {
            s.crash_on_start = Some((changes, plan));
        }
    }

    fn fail_io(&mut self, slot: usize, op: u64, nth: u64) {
        let op = [OpKind::Read, OpKind::Write, OpKind::Sync][op as usize % 3];
        let on = FailOn::Matching { op: Some(op), path: String::new(), nth };
        let s = &mut self.slots[slot];
        s.disk.fail(FailPoint { on, error: FailKind::Eio, forever: false });
        s.excused = true;
    }

    fn fill_disk(&mut self, slot: usize, spare_bytes: u64, ms: u64) {
        let s = &mut self.slots[slot];
        s.disk.set_capacity(Some(s.disk.used_bytes() + spare_bytes));
        s.cramped = true;
        self.after(Nanos::from_millis(ms).0, What::Undo(Undo::Room { slot }));
    }
}

/// The mark of a transfer that the operator asked for while links were blocked.
pub const TRANSFER_IN_PARTITION: &str = "transfer asked for during a partition";
/// Marks of what has rotted: a class of faults that finds no file is none.
pub const ROTTEN: [&str; 3] = ["bit rot in the log", "bit rot in a manifest", "bit rot in a table"];

fn rotten(path: &Path) -> &'static str {
    match path.extension().and_then(|e| e.to_str()) {
        Some(e) if e == LogKind::RaftLog.extension() => ROTTEN[0],
        Some(e) if e == LogKind::Manifest.extension() => ROTTEN[1],
        _ => ROTTEN[2],
    }
}

/// The files in which a bit may flip.
fn rot_targets(disk: &SimDisk, dir: &Path, kind: u64) -> Vec<(PathBuf, u64)> {
    let files = |name: &str| -> Vec<(PathBuf, u64)> {
        let path = dir.join(name);
        let entries = disk.list(&path).unwrap_or_default();
        let files = entries.into_iter().filter(|e| !e.is_dir && e.len > 0);
        files.map(|e| (path.join(e.name), e.len)).collect()
    };
    let mut log = files("raft");
    // Segments are named by rising numbers; spares and the reserve have other names.
    log.retain(|(path, _)| path.extension().is_some_and(|e| e == LogKind::RaftLog.extension()));
    log.truncate(log.len().saturating_sub(2));
    let engine = files("engine");
    let with = |extension: &str| -> Vec<(PathBuf, u64)> {
        let has = |p: &PathBuf| p.extension().is_some_and(|e| e == extension);
        engine.iter().filter(|(p, _)| has(p)).cloned().collect()
    };
    match kind {
        0 => log,
        1 => with("sst"),
        2 => with(LogKind::Manifest.extension()),
        _ => [engine, log].concat(),
    }
}

impl World {
    /// A fault strikes, if it may.
    pub(super) fn strike(&mut self, fault: &Fault) -> Verdict {
        let core = &mut self.core;
        core.note(format_args!("*** {}", serde_json::to_string(fault).unwrap_or_default()));
        *core.struck.entry(fault.class()).or_default() += 1;
        match *fault {
            Fault::Partition { side, ms } => {
                let cut = core.links(|from, to| (side >> from ^ side >> to) & 1 == 1);
                core.block(cut, ms);
            }
            Fault::OneWay { from, to, ms } => core.block(vec![(from, to)], ms),
            Fault::HalfDeaf { slot, hears, ms } => {
                let cut = core.links(|from, to| if hears { from == slot } else { to == slot });
                core.block(cut, ms);
            }
            Fault::CutOff { heard, ms } => {
                if let Some(slot) = core.leader() {
                    let cut = core.links(|from, to| from == slot || (to == slot && !heard));
                    core.block(cut, ms);
                }
            }
            Fault::Bridge { slot, side, ms } => {
                let apart = |from: usize, to: usize| (side >> from ^ side >> to) & 1 == 1;
                let cut = core.links(|from, to| from != slot && to != slot && apart(from, to));
                core.block(cut, ms);
            }
            Fault::Flap { slot, times, ms } => {
                core.set_flap(slot, true);
                let undo = Undo::Flap { slot, left: times, ms, down: true };
                core.after(Nanos::from_millis(ms).0, What::Undo(undo));
            }
            Fault::Swizzle { set, step_ms, order } => core.swizzle(set, step_ms, order),
            Fault::Storm { loss_ppm, duplicate_ppm, slow_ppm, ms } => {
                let quality = super::net::Quality {
                    loss_ppm,
                    duplicate_ppm,
                    slow_ppm,
                    reorder: true,
                    ..core.net.normal()
                };
                core.net.storm(quality, core.now.plus(Nanos::from_millis(ms).0));
            }
            Fault::Disconnect { slot } => core.break_connections(slot, true),
            Fault::Crash { slot, power, down_ms } => return self.crash(slot, power, down_ms),
            Fault::CrashAtIo { slot, changes, power, down_ms } => {
                core.crash_at_io(slot, changes, CrashPlan { kind: kind_of(power), down_ms });
            }
            Fault::CrashMany { set, power, down_ms } => {
                for slot in (0..core.slots.len()).filter(|n| set >> n & 1 == 1) {
                    self.crash(slot, power, down_ms)?;
                }
            }
            Fault::Drain { slot, down_ms } => {
                core.slots[slot].crash_plan = Some(CrashPlan { kind: CrashKind::Process, down_ms });
                core.give(slot, Item::Drain);
            }
            Fault::Pause { slot, ms } => {
                let s = &mut core.slots[slot];
                if s.state == SlotState::Up {
                    s.state = SlotState::Paused;
                    let undo = Undo::Resume { slot, life: s.life };
                    core.after(Nanos::from_millis(ms).0, What::Undo(undo));
                }
            }
            Fault::ClockRate { slot, ppm } => core.clock_rate(slot, ppm),
            Fault::ClockJump { slot, ms } => core.clock_jump(slot, ms),
            Fault::SlowDisk { slot, factor, ms } => {
                core.slots[slot].slow = (factor, core.now.plus(Nanos::from_millis(ms).0));
            }
            Fault::HungLane { slot, lane, ms } => {
                let until = core.now.plus(Nanos::from_millis(ms).0);
                core.slots[slot].lanes[lane].hung_until = until;
            }
            Fault::Eio { slot, op, nth, .. } => core.fail_io(slot, op, nth),
            Fault::DiskFull { slot, spare_bytes, ms } => core.fill_disk(slot, spare_bytes, ms),
            Fault::BitRot { slot, kind, at, repair_ms } => self.rot(slot, kind, at, repair_ms),
            Fault::Wipe { slot, .. } => {
                if core.may_lose(slot) {
                    return self.rebuild(slot);
                }
            }
            Fault::Leave { slot, ms } => {
                if core.may_lose(slot) {
                    let until = core.now.plus(Nanos::from_millis(ms).0);
                    let s = &mut core.slots[slot];
                    s.goal = Goal::Out(until);
                    if s.health == Health::Whole {
                        s.health = Health::Returning;
                    }
                }
            }
            Fault::Transfer { to } => {
                if core.net.any_blocked() {
                    *core.struck.entry(TRANSFER_IN_PARTITION).or_default() += 1;
                }
                core.operator.queue.push_back(Admin::Transfer(to.map(node_of)))
            }
        }
        Ok(())
    }

    fn crash(&mut self, slot: usize, power: bool, down_ms: u64) -> Verdict {
        if !self.core.slots[slot].is_up() {
            return Ok(());
        }
        let kind = kind_of(power);
        self.stop(slot, StopKind::Crash(kind), kind, down_ms)
    }

    fn rot(&mut self, slot: usize, kind: u64, at: u64, repair_ms: u64) {
        let core = &mut self.core;
        if !core.may_lose(slot) || !core.slots[slot].is_up() {
            return;
        }
        let s = &mut core.slots[slot];
        let targets = rot_targets(&s.disk, &s.dir, kind);
        if targets.is_empty() {
            return;
        }
        let (path, len) = &targets[(at % targets.len() as u64) as usize];
        let offset = (at / 7) % len;
        s.disk.flip(path, offset, 1 << (at % 8));
        s.health = Health::Rotten;
        *core.struck.entry(rotten(path)).or_default() += 1;
        let s = &core.slots[slot];
        let incarnation = s.replica.incarnation;
        let text = path.display().to_string();
        core.note(format_args!("n{} rots: {text} at {offset}", slot + 1));
        let repair = Nanos::from_millis(repair_ms).0;
        let restart = core.random.below(repair + 1);
        core.after(restart, What::Undo(Undo::Rot { slot, incarnation }));
        core.after(repair, What::Undo(Undo::Repair { slot, incarnation }));
    }

    /// What was on this slot's disk is given up; another incarnation begins, and the operator takes it in.
    pub(super) fn rebuild(&mut self, slot: usize) -> Verdict {
        let life = self.core.slots[slot].life;
        if self.core.slots[slot].is_up() {
            self.stop(slot, StopKind::Wiped, CrashKind::PowerLoss, 100)?;
        } else {
            self.core.after(100_000_000, What::Start { slot, life });
        }
        let seed = self.core.random.next_u64();
        let s = &mut self.core.slots[slot];
        s.replica.incarnation += 1;
        s.health = Health::Returning;
        s.joins = true;
        s.excused = false;
        s.cramped = false;
        s.crash_on_start = None;
        s.disk = super::slot::new_disk(seed);
        Ok(())
    }

    /// A fault ends.
    pub(super) fn undo(&mut self, undo: Undo) -> Verdict {
        let core = &mut self.core;
        match undo {
            Undo::Unblock(links) => {
                for (from, to) in links {
                    core.net.block(from, to, false);
                }
            }
            Undo::Flap { slot, left, ms, down } => {
                // Whatever happens, the last step is up.
                if down || (left > 0 && !core.calm) {
                    core.set_flap(slot, !down);
                    let undo = Undo::Flap { slot, left: left.saturating_sub(1), ms, down: !down };
                    core.after(Nanos::from_millis(ms).0, What::Undo(undo));
                }
            }
            Undo::Clog { slot, until } => {
                if !core.calm {
                    for (from, to) in core.links_of(slot) {
                        core.net.clog(from, to, until);
                    }
                }
            }
            Undo::Resume { slot, life } => core.resume(slot, life),
            Undo::Room { slot } => {
                core.slots[slot].disk.set_capacity(None);
                core.slots[slot].cramped = false;
            }
            Undo::Rot { slot, incarnation } => {
                let s = &core.slots[slot];
                if s.replica.incarnation == incarnation && s.health == Health::Rotten {
                    return self.crash(slot, false, 10);
                }
            }
            Undo::Repair { slot, incarnation } => {
                let s = &core.slots[slot];
                if s.replica.incarnation == incarnation && s.health == Health::Rotten {
                    return self.rebuild(slot);
                }
            }
        }
        Ok(())
    }
}

impl Core {
    /// A paused process goes on.
    pub(super) fn resume(&mut self, slot: usize, life: u64) {
        let s = &mut self.slots[slot];
        if s.life == life && s.state == SlotState::Paused {
            s.state = SlotState::Up;
            self.plan_turn(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::shape::RunOptions;
    use crate::sim::steady;

    #[test]
    fn every_kind_of_rot_finds_files_of_a_real_node() {
        let mut found = [0; 4];
        for seed in 0..4 {
            let options = RunOptions { seed, nodes: 1, minutes: 0.5 };
            let mut world = World::new(&options, Some(Vec::new()), steady::harness, false);
            assert_eq!(world.run_until(Nanos(options.duration_ns())), Ok(()));
            let slot = &world.core.slots[0];
            for kind in 0..4 {
                let targets = rot_targets(&slot.disk, &slot.dir, kind);
                found[kind as usize] += targets.len();
                let is_kind =
                    |path: &PathBuf| kind == 3 || rotten(path) == ROTTEN[[0, 2, 1][kind as usize]];
                assert!(targets.iter().all(|(path, _)| is_kind(path)), "{targets:?}");
            }
        }
        assert!(found.iter().all(|files| *files > 0), "log, tables, manifest, any: {found:?}");
    }
}
