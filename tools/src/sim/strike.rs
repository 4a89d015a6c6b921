//! Faults, carried out (flipped bits: [`super::rot`]). And the atlas: what the cluster can survive.
//!
//! | fault | limit |
//! |---|---|
//! | partitions, pauses, slow and hung disks, full disks, crashes with or without loss of un-synced data | none: everybody at once, for a while |
//! | wiped disk, flipped bits, a member that leaves | a minority of the slots at once, each until it is a voter again |
//! | flipped bits in the log | in its last two segments only where opening must notice ([`super::rot`]) |
//! | clocks | while reads may use a lease, within the drift that the lease assumes, and no jumps |

use super::faults::Fault;
use super::hooks::{SlotState, StopKind, Verdict};
use super::operator::node_of;
use super::slot::{CrashPlan, Goal, Health, Item};
use super::world::{Core, What, World};
use beachdb::base::Nanos;
use beachdb::env::sim::{CrashKind, FailKind, FailOn, FailPoint, OpKind};
use beachdb::node::Admin;

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
    /// A node is looked at again that is to be recovered.
    Recover { slot: usize, looks: u64 },
    /// Not an end: a checkpoint is there, and is looked at.
    Copied(Box<super::copies::Copy>),
}

const fn kind_of(power: bool) -> CrashKind {
    if power { CrashKind::PowerLoss } else { CrashKind::Process }
}

impl Core {
    /// Whether the data (or the membership) of this slot may be lost now.
    pub(super) fn may_lose(&self, slot: usize) -> bool {
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
            Fault::Wipe { slot, down_ms } => {
                if core.may_lose(slot) {
                    let rejoins = core.random.chance(1, 3) && core.established;
                    return self.rebuild(slot, down_ms, rejoins);
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
            Fault::Checkpoint { slot } => core.ask_for_copy(slot),
            Fault::Recover { slot } => return self.recover(slot, 0),
            Fault::Stranger { slot, number, ms } => core.meet_stranger(slot, number, ms),
        }
        Ok(())
    }

    pub(super) fn crash(&mut self, slot: usize, power: bool, down_ms: u64) -> Verdict {
        if !self.core.slots[slot].is_up() {
            return Ok(());
        }
        let kind = kind_of(power);
        self.stop(slot, StopKind::Crash(kind), kind, down_ms)
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
            Undo::Copied(copy) => return self.check_copy(&copy),
            Undo::Recover { slot, looks } => return self.recover(slot, looks),
            Undo::Rot { slot, incarnation } => {
                let s = &core.slots[slot];
                if s.replica.incarnation == incarnation && s.health == Health::Rotten {
                    return self.crash(slot, false, 10);
                }
            }
            Undo::Repair { slot, incarnation } => {
                let s = &core.slots[slot];
                if s.replica.incarnation == incarnation && s.health == Health::Rotten {
                    return self.rebuild(slot, 100, true);
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
