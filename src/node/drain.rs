//! How requests wait out a change of leaders, and how a node stops: SIGTERM and SIGINT become [`Event::Drain`](super::Event::Drain).
//!
//! Leadership *moves* from when a leader begins to give it away, or a node loses sight of its leader, until a leader is known, and for
//! one election timeout (and the heartbeat at which raft gives a transfer up) at most.
//!
//! ```text
//!             Drain                          nobody waits for an answer,
//!  RUNNING ───────────▶ DRAINING ──────────── and no move of leadership ────▶ CLOSING ──────▶ STOPPED
//!                       │      ▲                                          the log writes    Effect::Drained
//!      leads, and there │      │ another one leads; or nobody took         its watermark
//!      are other voters ▼      │ it within an election timeout
//!                      (moving)
//!
//!  what arrives            RUNNING        moving                        DRAINING            CLOSING, STOPPED
//!  ─────────────────────   ────────────   ───────────────────────────   ─────────────────   ─────────────────
//!  write                   proposed, or   waits, then as in the state   NOT_LEADER with     the same, or
//!                          NOT_LEADER     that follows                  the leader, or      not looked at
//!                                                                       SHUTTING_DOWN
//!  read                    served         waits if nobody leads;        SHUTTING_DOWN       the same
//!                                         SHUTTING_DOWN when the
//!                                         node drains
//!  admitted before Drain                  answered as ever: a write by its entry, whoever commits it
//! ```
//!
//! # Invariants
//! - Leadership goes first (pitfall 53): the successor is told before anything else is waited for, so the pause is an election
//!   that somebody asked for, and not a timeout.
//! - Writes that were admitted before the drain are proposed before it, and the successor has them before it is told. They are
//!   answered when their entries are applied here, also after this node has stepped down (`writes`, *orphans*).
//! - While leadership moves a request is neither served nor refused: a write is then proposed here after all, or sent to the leader
//!   that is known by then, and a read is served. So a client meets one pause, as long as the election is, and does not have to
//!   guess when to come back.
//! - Every request that came before [`Effect::Drained`] has been answered then, unless its client left; what comes later has no effect.
//!   The server's goodbye to its clients rests on this.
//! - Of a draining leader every voter that it hears is asked to lead, one after the other, until one does: the one with most of the
//!   log first. One that is asked may be unable to (it has no space), or just dead. So does a node that becomes leader while it drains.
//!
//! # What it does not do
//! Bound the drain as a whole: requests with long deadlines may keep it waiting. The server does ([`drain-timeout`]).
//!
//! [`drain-timeout`]: crate::server

use super::{Effect, Node, Phase, StateMachine, admission};
use crate::base::{Nanos, NodeId, Term};
use crate::proto::{self, ErrorCode, Opcode, Response};
use crate::raft::{self, LogStore, Role};
use std::cmp::Reverse;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Moving {
    /// Leadership is on its way to another voter, or nobody knows where, until then at most.
    until: Option<Nanos>,
    /// A leader was known after the last event.
    known: bool,
    /// Who was asked to lead by this node while it drains, and in which term.
    asked: (Term, Vec<NodeId>),
}

impl Moving {
    /// Whether leadership moves.
    pub const fn is_on(&self) -> bool {
        self.until.is_some()
    }

    /// When it is given up at the latest.
    pub const fn until(&self) -> Option<Nanos> {
        self.until
    }
}

impl<L: LogStore, S: StateMachine> Node<L, S> {
    /// The server shall stop.
    pub(super) fn begin_drain(&mut self, now: Nanos, out: &mut Vec<Effect>) {
        if self.phase != Phase::Running {
            return;
        }
        // Those of this turn were admitted; what raft has before the transfer goes with it.
        self.propose_turn(now, out);
        self.phase = Phase::Draining;
        self.cancel_introduction(now, out);
    }

    /// Raft has begun to give leadership away, or lost sight of the leader.
    pub(super) const fn leadership_moves(&mut self, now: Nanos) {
        let raft = &self.config.raft;
        self.moving.until = Some(now.plus(raft.election_timeout_ns).plus(raft.heartbeat_ns));
    }

    /// Whether this node is about to stop and has not given its leadership away yet. The driver goes on accepting clients
    /// until then: others still send them here.
    #[must_use]
    pub fn is_handing_over(&self) -> bool {
        self.phase == Phase::Draining && self.moving.is_on()
    }

    /// Goes on with a move of leadership and with the drain; called after every event.
    pub(super) fn drain(&mut self, now: Nanos, out: &mut Vec<Effect>) {
        self.look_who_leads(now);
        if self.phase == Phase::Draining && !self.moving.is_on() {
            self.give_away(now, out);
            if !self.moving.is_on() && !self.desk.anybody_waits() {
                self.phase = Phase::Closing;
                self.log.close();
                self.log.kick();
            }
        }
        if self.phase == Phase::Closing && self.space.log_is_full() {
            // Without its final watermark the log opens as after a crash.
            self.phase = Phase::Stopped;
            out.push(Effect::Drained);
        }
    }

    fn look_who_leads(&mut self, now: Nanos) {
        let known = self.raft.leader().is_some();
        if !known && self.moving.known && !self.moving.is_on() {
            self.leadership_moves(now);
        }
        self.moving.known = known;
        let Some(until) = self.moving.until else { return };
        let decided = match self.raft.role() {
            Role::Leader => self.raft.status().transfer.is_none(),
            _ => known,
        };
        if decided || now >= until {
            self.moving.until = None;
        }
    }

    /// Asks the next of the other voters to lead, if this node does.
    fn give_away(&mut self, now: Nanos, out: &mut Vec<Effect>) {
        if self.raft.role() != Role::Leader {
            return;
        }
        let term = self.raft.term();
        if self.moving.asked.0 != term {
            self.moving.asked = (term, Vec::new());
        }
        let asked = &mut self.moving.asked.1;
        let status = self.raft.status();
        let left =
            |f: &&raft::FollowerStatus| f.voter && f.recent && !asked.contains(&f.replica.node);
        let next = status
            .followers
            .iter()
            .filter(left)
            .max_by_key(|f| (f.matched, Reverse(f.replica.node)));
        let Some(next) = next.map(|f| f.replica.node) else { return };
        asked.push(next);
        self.step_raft(now, raft::Event::Transfer(Some(next)), out);
        if let Some(refusal) = self.refusal.take() {
            log::info!("leadership cannot go to node {next}: {refusal}");
        }
        self.kick_log(now);
    }

    /// Whether reads wait until it is known who leads: nobody could confirm an index now.
    pub(super) fn reads_wait(&self) -> bool {
        self.moving.is_on() && self.raft.role() != Role::Leader && self.raft.leader().is_none()
    }

    /// Whether a request that arrives now waits until it is known who leads.
    pub(super) fn waits_for_leader(&self, opcode: Opcode) -> bool {
        let waits = matches!(self.phase, Phase::Running | Phase::Draining);
        waits && self.moving.is_on() && opcode.is_write() && opcode != Opcode::Admin
    }

    /// The answer of a node that is about to stop: who leads, to a write, if somebody else does and has an address.
    pub(super) fn refuse_stopping(&self, opcode: Opcode) -> Response {
        if opcode.is_write()
            && let Response::Error(error) = self.no_leader(opcode)
            && !error.leader.is_empty()
        {
            return Response::Error(error);
        }
        let message = "the server is shutting down";
        admission::error(ErrorCode::ShuttingDown, proto::Effect::refused(opcode), message)
    }

    /// Answers the writes that waited for a leader on a node that is about to stop and does not lead any more.
    pub(super) fn refuse_turn(&mut self, now: Nanos, out: &mut Vec<Effect>) {
        for ticket in self.writes.take_turn() {
            let refused = self.refuse_stopping(ticket.opcode);
            self.desk.reply(now, &ticket, refused, out);
            self.desk.finish(&ticket);
        }
    }

    /// Answers those of the waiting writes whose deadline has passed.
    pub(super) fn expire_turn(&mut self, now: Nanos, out: &mut Vec<Effect>) {
        for ticket in self.writes.take_late(now) {
            self.expired_in_queue(now, &ticket, out);
            self.desk.finish(&ticket);
        }
    }
}
