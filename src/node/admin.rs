//! Changes of the cluster that an operator asks for: members, and who leads.
//!
//! A change of the membership is an entry like any other and is answered when it is applied. A transfer is answered when
//! another node is known to lead, or when this one has stopped waiting for that. It may still happen later: the word to the
//! successor may be on its way, and makes it campaign when it arrives. So the effect is unknown then.
//!
//! | refusal of raft | answer |
//! |---|---|
//! | does not lead | `NOT_LEADER`, not applied |
//! | transferring, change in flight, nothing of this term committed, learner behind, too much uncommitted | `BUSY` with a hint, not applied |
//! | unknown member, is a member already, impossible | `BAD_REQUEST`, not applied |

use super::admission::{self, Arrival, Ticket};
use super::{Admin, Effect, Node, Phase, StateMachine};
use crate::base::{Nanos, NodeId, ReplicaId};
use crate::proto::{self, ErrorCode, Opcode, Response};
use crate::raft::{self, Change, LogStore, ProposeError, Role};

/// What an admin command counts as in the queue.
const COMMAND_BYTES: usize = 256;

/// A transfer of leadership on its way.
#[derive(Debug)]
pub(super) struct Handover {
    pub ticket: Ticket,
}

impl<L: LogStore, S: StateMachine> Node<L, S> {
    /// An operator's command.
    pub(super) fn admin(
        &mut self,
        now: Nanos,
        arrival: &Arrival,
        command: Admin,
        out: &mut Vec<Effect>,
    ) {
        let admitted = self.check_admin(&command).and_then(|()| self.desk.admit(now, arrival));
        let ticket = match admitted {
            Ok(ticket) => ticket,
            Err(refused) => {
                return self.desk.reply_unadmitted(arrival.origin, arrival.opcode, refused, out);
            }
        };
        match command {
            Admin::Transfer(to) => self.transfer(now, ticket, to, out),
            Admin::AddLearner(member) => {
                self.change(now, ticket, Change::AddLearner(member), out);
            }
            Admin::Promote(node) => self.change_member(now, ticket, node, Change::Promote, out),
            Admin::Remove(node) => self.change_member(now, ticket, node, Change::Remove, out),
        }
        self.kick_log(now);
    }

    /// How a command arrives: as a small write.
    pub(super) const fn admin_arrival(
        now: Nanos,
        origin: super::Origin,
        deadline: Nanos,
    ) -> Arrival {
        let (opcode, bytes) = (Opcode::Write, COMMAND_BYTES);
        Arrival { origin, opcode, deadline, received_at: now, bytes }
    }

    fn check_admin(&mut self, command: &Admin) -> Result<(), Response> {
        let not_applied = proto::Effect::NotApplied;
        if self.phase != Phase::Running {
            let message = "the server is shutting down";
            return Err(admission::error(ErrorCode::ShuttingDown, not_applied, message));
        }
        if self.raft.role() != Role::Leader {
            return Err(self.no_leader(Opcode::Write));
        }
        if matches!(command, Admin::Transfer(_)) && self.handover.is_some() {
            let message = "leadership is being handed over already".to_owned();
            return Err(self.desk.busy(not_applied, super::writes::NO_LEADER_RETRY_MS, message));
        }
        Ok(())
    }

    fn change_member(
        &mut self,
        now: Nanos,
        ticket: Ticket,
        node: NodeId,
        change: impl FnOnce(ReplicaId) -> Change,
        out: &mut Vec<Effect>,
    ) {
        match self.raft.membership().member(node).map(|member| member.replica) {
            Some(replica) => self.change(now, ticket, change(replica), out),
            None => {
                let message = format!("node {node} is not a member of the cluster");
                let refused = ticket.refusal(ErrorCode::BadRequest, message);
                self.desk.reply(now, &ticket, refused, out);
                self.desk.finish(&ticket);
            }
        }
    }

    fn change(&mut self, now: Nanos, ticket: Ticket, change: Change, out: &mut Vec<Effect>) {
        self.writes.offer(ticket);
        self.step_raft(now, raft::Event::ProposeChange(change), out);
        self.refuse_offered(now, out);
    }

    fn transfer(&mut self, now: Nanos, ticket: Ticket, to: Option<NodeId>, out: &mut Vec<Effect>) {
        self.refusal = None;
        self.step_raft(now, raft::Event::Transfer(to), out);
        match self.refusal.take() {
            Some(refusal) => {
                let refused = self.propose_refused(Opcode::Write, &refusal);
                self.desk.reply(now, &ticket, refused, out);
                self.desk.finish(&ticket);
            }
            None => self.handover = Some(Handover { ticket }),
        }
    }

    /// Answers a transfer that has come to its end; called after every event.
    pub(super) fn check_handover(&mut self, now: Nanos, out: &mut Vec<Effect>) {
        let Some(Handover { ticket }) = &self.handover else { return };
        let leads = self.raft.role() == Role::Leader;
        let response = if !leads && self.raft.leader().is_some() {
            let (index, seq) = (self.machine.applied().0, self.machine.last_seq());
            Response::Written { index, first_seq: seq, last_seq: seq }
        } else if leads && self.raft.status().transfer.is_none() {
            let message =
                "the successor did not take over in time, though it may yet; this node leads on";
            admission::error(ErrorCode::DeadlineExceeded, proto::Effect::Unknown, message)
        } else if ticket.deadline <= now {
            ticket.expired(now, proto::Effect::Unknown)
        } else {
            return;
        };
        let Some(Handover { ticket }) = self.handover.take() else { return };
        self.desk.reply(now, &ticket, response, out);
        self.desk.finish(&ticket);
    }

    /// What raft's refusal means to the one who asked.
    pub(super) fn propose_refused(&mut self, opcode: Opcode, refusal: &ProposeError) -> Response {
        let effect = proto::Effect::refused(opcode);
        match refusal {
            ProposeError::NotLeader { .. } => self.no_leader(opcode),
            ProposeError::UnknownMember
            | ProposeError::AlreadyMember(_)
            | ProposeError::Impossible(_) => {
                admission::error(ErrorCode::BadRequest, effect, refusal.to_string())
            }
            ProposeError::Transferring { .. }
            | ProposeError::TooManyUncommitted { .. }
            | ProposeError::ChangeInFlight { .. }
            | ProposeError::NoCommitInTerm
            | ProposeError::NotCaughtUp { .. } => {
                self.desk.busy(effect, super::writes::NO_LEADER_RETRY_MS, refusal.to_string())
            }
        }
    }
}
