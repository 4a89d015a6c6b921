//! The operator: sees to it that the cluster has the members it should have, one admin command at a time, and hands
//! leadership over when a fault asks for it. It finds the leader as people do, by asking around (here: by looking), and
//! sometimes asks the wrong node.

use super::hooks::SlotState;
use super::slot::{Goal, Health, Item};
use super::world::{Core, OPERATOR_CONN, World};
use beachdb::base::{LogIndex, Member, MemberRole, Membership, Nanos, NodeId};
use beachdb::node::{Admin, Origin};
use beachdb::proto::Response;
use beachdb::raft::Role;
use std::collections::VecDeque;

/// See the module.
#[derive(Debug, Default)]
pub struct Operator {
    next_request: u64,
    /// Checkpoints asked for.
    pub copies: u64,
    /// Commands besides those that the members need.
    pub queue: VecDeque<Admin>,
    /// Sends nothing.
    pub rests: bool,
    /// Commands that were done, and that were refused or lost.
    pub done: u64,
    /// See `done`.
    pub refused: u64,
}

impl Operator {
    /// A word on a command.
    pub fn reply(&mut self, _now: Nanos, response: &Response) {
        if matches!(response, Response::Error(_)) {
            self.refused += 1;
        } else {
            self.done += 1;
        }
    }
}

impl Core {
    /// The slot whose node leads in the highest term, if any does.
    pub(super) fn leader(&self) -> Option<usize> {
        let leads = |slot: &usize| {
            let s = &self.slots[*slot];
            s.node.as_ref().is_some_and(|n| n.role() == Role::Leader)
        };
        (0..self.slots.len())
            .filter(leads)
            .max_by_key(|slot| self.slots[*slot].node.as_ref().map(|n| n.raft().term()))
    }

    /// What the members need next, as this leader sees them; `None`: all is as it should be.
    fn next_change(&self, members: &Membership) -> Option<Admin> {
        for s in &self.slots {
            let node = s.replica.node;
            let wanted = match s.goal {
                Goal::In => true,
                Goal::Out(until) => until <= self.now,
            };
            let member = members.member(node);
            match member {
                Some(m) if !wanted || m.replica != s.replica => return Some(Admin::Remove(node)),
                Some(m) if m.role == MemberRole::Learner => return Some(Admin::Promote(node)),
                None if wanted => {
                    return Some(Admin::AddLearner(Member {
                        replica: s.replica,
                        role: MemberRole::Learner,
                        peer_address: String::new(),
                        client_address: String::new(),
                    }));
                }
                _ => {}
            }
        }
        None
    }

    /// Slots that the leader has durably taken back are whole again.
    fn confirm(&mut self, leader: usize) {
        let Some(node) = self.slots[leader].node.as_ref() else { return };
        // What it has applied was committed, whoever leads now.
        if node.raft().membership_index() > node.applied() {
            return;
        }
        let members = node.raft().membership().clone();
        let now = self.now;
        for s in &mut self.slots {
            let wanted = match s.goal {
                Goal::In => true,
                Goal::Out(until) => until <= now,
            };
            if s.health == Health::Returning && wanted && members.is_voter(s.replica) {
                s.health = Health::Whole;
                s.goal = Goal::In;
            }
        }
    }
}

impl World {
    /// The operator looks around, about five times in an election timeout.
    pub(super) fn operate(&mut self) {
        let core = &mut self.core;
        let pause = core.shape.election_timeout_ns / 10;
        let pause = pause + core.random.below(pause);
        core.after(pause, super::world::What::Operator);
        if core.operator.rests || core.recovers {
            return;
        }
        let Some(leader) = core.leader() else { return };
        let commit = core.slots[leader].node.as_ref().map(|node| node.raft().commit());
        core.established |= commit > Some(LogIndex::ZERO);
        core.confirm(leader);
        let Some(node) = core.slots[leader].node.as_ref() else { return };
        let change = core.next_change(node.raft().membership());
        let Some(command) = core.operator.queue.pop_front().or(change) else { return };
        let lost = core.random.chance(1, 8);
        let slot = if lost { core.random.below(core.slots.len() as u64) as usize } else { leader };
        if core.slots[slot].state != SlotState::Up {
            return;
        }
        core.operator.next_request += 1;
        let origin = Origin { conn: OPERATOR_CONN, request_id: core.operator.next_request };
        let deadline_ms = core.shape.election_timeout_ns / 1_000_000;
        core.give(slot, Item::Admin { origin, command, deadline_ms });
    }
}

/// The node number of a slot.
#[must_use]
pub const fn node_of(slot: usize) -> NodeId {
    NodeId(slot as u64 + 1)
}
