//! Changes of the cluster that an operator asks for: members, and who leads.
//!
//! A change of the membership is an entry like any other and is answered when it is applied. A transfer is answered when
//! the node that was wanted is known to lead (any other one, if none was named), when another one does, or when this one has
//! stopped waiting for that. It may still happen later: the word to the successor may be on its way, and makes it campaign
//! when it arrives. So the effect is unknown then.
//!
//! | refusal of raft | answer |
//! |---|---|
//! | does not lead | `NOT_LEADER`, not applied |
//! | transferring, change in flight, nothing of this term committed, learner behind, too much uncommitted | `BUSY` with a hint, not applied |
//! | unknown member, is a member already, impossible | `BAD_REQUEST`, not applied |
//!
//! A node is added by its address. Which life of it is there, and where clients reach it, it says itself, so the driver asks it
//! first:
//!
//! ```text
//! ADMIN add(2, "b:7401") ─► Effect::Introduce ─► (the server shakes hands) ─► Event::Introduced ─► entry ─► applied ─► reply
//!                                                   nothing of it came before the deadline: not applied
//! ```

use super::admission::{self, Arrival, Ticket};
use super::{Admin, Effect, Node, Phase, StateMachine};
use crate::base::{Member, MemberRole, Nanos, NodeId, ReplicaId};
use crate::limits::MAX_MEMBERS;
use crate::proto::{self, AdminRequest, ErrorCode, ErrorReply, Opcode, Response};
use crate::raft::{self, Change, LogStore, ProposeError, Role};

/// What an admin command counts as in the queue.
const COMMAND_BYTES: usize = 256;

/// A transfer of leadership on its way.
#[derive(Debug)]
pub(super) struct Handover {
    pub ticket: Ticket,
    /// Who is to lead; `None`: anybody else.
    to: Option<NodeId>,
}

/// A node that is asked who it is, so that it can be added.
#[derive(Debug)]
pub(super) struct Introduction {
    pub ticket: Ticket,
    token: u64,
    node: NodeId,
    address: String,
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

    /// ADMIN arrived.
    pub(super) fn admin_request(
        &mut self,
        now: Nanos,
        arrival: &Arrival,
        request: AdminRequest<'_>,
        out: &mut Vec<Effect>,
    ) {
        let command = match request {
            AdminRequest::Add { node, peer_address } => {
                if let Err(refused) = self.introduce(now, arrival, node, peer_address, out) {
                    self.desk.reply_unadmitted(arrival.origin, arrival.opcode, refused, out);
                }
                return;
            }
            AdminRequest::Promote(node) => Admin::Promote(node),
            AdminRequest::Remove(node) => Admin::Remove(node),
            AdminRequest::Transfer(to) => Admin::Transfer(to),
            AdminRequest::Checkpoint { dir } => return self.checkpoint(now, arrival, dir, out),
            AdminRequest::Verify { rate } => return self.verify(now, arrival, rate, out),
            AdminRequest::Compact { start, end } => {
                return self.compact(now, arrival, (start, end), out);
            }
        };
        self.admin(now, arrival, command, out);
    }

    /// Has the node at `address` asked who it is.
    fn introduce(
        &mut self,
        now: Nanos,
        arrival: &Arrival,
        node: NodeId,
        address: &str,
        out: &mut Vec<Effect>,
    ) -> Result<(), Response> {
        let not_applied = proto::Effect::NotApplied;
        if self.raft.role() != Role::Leader {
            return Err(self.no_leader(arrival.opcode));
        }
        let members = self.raft.membership();
        if members.member(node).is_some() {
            let message = ProposeError::AlreadyMember(node).to_string();
            return Err(admission::error(ErrorCode::BadRequest, not_applied, message));
        }
        if members.members().count() >= MAX_MEMBERS {
            let message = format!("the cluster has {MAX_MEMBERS} members, the limit");
            return Err(admission::error(ErrorCode::BadRequest, not_applied, message));
        }
        if let Some(other) = &self.introduction {
            let message =
                format!("node {} at {} is being asked who it is", other.node, other.address);
            return Err(self.desk.busy(not_applied, super::writes::NO_LEADER_RETRY_MS, message));
        }
        let ticket = self.desk.admit(now, arrival)?;
        self.introductions += 1;
        let (token, address) = (self.introductions, address.to_owned());
        out.push(Effect::Introduce { token, node, address: address.clone() });
        self.introduction = Some(Introduction { ticket, token, node, address });
        Ok(())
    }

    /// The driver has asked the node, or could not.
    pub(super) fn introduced(
        &mut self,
        now: Nanos,
        token: u64,
        result: Result<Member, String>,
        out: &mut Vec<Effect>,
    ) {
        let Some(asked) = self.introduction.take_if(|asked| asked.token == token) else { return };
        let Introduction { ticket, node, address, .. } = asked;
        let found = result.and_then(|member| match member.replica.node {
            found if found != node => Err(format!("node {found} is there")),
            _ => match member.check() {
                Ok(()) => Ok(Member { role: MemberRole::Learner, ..member }),
                Err(e) => Err(e.to_string()),
            },
        });
        match found {
            Ok(member) if self.desk.is_open(&ticket) => {
                self.change(now, ticket, Change::AddLearner(member), out);
                self.kick_log(now);
            }
            // Whoever wanted it has gone.
            Ok(_) => self.desk.finish(&ticket),
            Err(why) => {
                let message = format!("node {node} at {address} cannot be added: {why}");
                let refused = ticket.refusal(ErrorCode::BadRequest, message);
                self.end_introduction(now, &ticket, refused, out);
            }
        }
    }

    fn end_introduction(
        &mut self,
        now: Nanos,
        ticket: &Ticket,
        response: Response,
        out: &mut Vec<Effect>,
    ) {
        self.desk.reply(now, ticket, response, out);
        self.desk.finish(ticket);
    }

    /// The server is going down: nobody is added any more.
    pub(super) fn cancel_introduction(&mut self, now: Nanos, out: &mut Vec<Effect>) {
        if let Some(Introduction { ticket, .. }) = self.introduction.take() {
            let refused = ticket.refusal(ErrorCode::ShuttingDown, "the server is shutting down");
            self.end_introduction(now, &ticket, refused, out);
        }
    }

    /// Answers an operator whose deadline passed while a node was asked; returns the deadline of one who waits.
    pub(super) fn expire_introduction(&mut self, now: Nanos, out: &mut Vec<Effect>) -> Nanos {
        let late = self.introduction.take_if(|asked| asked.ticket.deadline <= now);
        if let Some(Introduction { ticket, node, address, .. }) = late {
            let message = format!("node {node} at {address} did not answer in time");
            let refused = ticket.refusal(ErrorCode::DeadlineExceeded, message);
            self.end_introduction(now, &ticket, refused, out);
        }
        self.introduction.as_ref().map_or(Nanos::MAX, |asked| asked.ticket.deadline)
    }

    /// How a command arrives: as a small write.
    pub(super) const fn admin_arrival(
        now: Nanos,
        origin: super::Origin,
        deadline: Nanos,
    ) -> Arrival {
        let (opcode, bytes) = (Opcode::Admin, COMMAND_BYTES);
        Arrival { origin, opcode, deadline, received_at: now, bytes }
    }

    fn check_admin(&mut self, command: &Admin) -> Result<(), Response> {
        let not_applied = proto::Effect::NotApplied;
        if self.phase != Phase::Running {
            let message = "the server is shutting down";
            return Err(admission::error(ErrorCode::ShuttingDown, not_applied, message));
        }
        if self.raft.role() != Role::Leader {
            return Err(self.no_leader(Opcode::Admin));
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
                let refused = self.propose_refused(Opcode::Admin, &refusal);
                self.desk.reply(now, &ticket, refused, out);
                self.desk.finish(&ticket);
            }
            None => self.handover = Some(Handover { ticket, to }),
        }
    }

    /// Answers a transfer that has come to its end; called after every event.
    pub(super) fn check_handover(&mut self, now: Nanos, out: &mut Vec<Effect>) {
        let Some(Handover { ticket, to }) = &self.handover else { return };
        let leads = self.raft.role() == Role::Leader;
        let other = self.raft.leader().filter(|_| !leads);
        let response = if let Some((other, to)) = other.zip(*to).filter(|(o, to)| o.node != *to) {
            // The word to the one that was wanted may still be on its way.
            let node = other.node;
            Response::Error(ErrorReply {
                leader: self.client_address(node).unwrap_or("").to_owned(),
                ..ErrorReply::new(
                    ErrorCode::NotLeader,
                    proto::Effect::Unknown,
                    format!("node {node} leads now, and not node {to}: ask it to hand over"),
                )
            })
        } else if other.is_some() {
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
        let Some(Handover { ticket, .. }) = self.handover.take() else { return };
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
