//! [`Desk`]: who is let in, who waits, and when each one is answered.
//!
//! Invariants:
//! - Every admitted request has one [`Ticket`], is answered at most once, and leaves the queue exactly once
//!   ([`Desk::finish`]). A write whose deadline passed after it was proposed is answered before it leaves.
//! - The queue never holds more than the configured requests and bytes; above, `BUSY` with a hint computed from the
//!   measured service rate.
//! - No two unanswered requests of a connection have the same id, and none of a closed connection is answered.

use super::{Effect, Origin};
use crate::base::Nanos;
use crate::base::trace::{Stage, StageStats};
use crate::proto::{self, ErrorCode, ErrorReply, Opcode, Response};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// One admitted request.
#[derive(Clone, Debug)]
pub(super) struct Ticket {
    number: u64,
    pub origin: Origin,
    pub opcode: Opcode,
    bytes: usize,
    pub deadline: Nanos,
    received_at: Nanos,
    pub admitted_at: Nanos,
    /// Of a write: how many range deletes it holds.
    pub range_deletes: u32,
}

impl Ticket {
    /// The answer to a request whose deadline passed, with what is known about its effect.
    pub fn expired(&self, now: Nanos, effect: proto::Effect) -> Response {
        let late_ms = now.since(self.deadline) / 1_000_000;
        let message = match effect {
            proto::Effect::Unknown => {
                "the deadline passed while the write waited for its commit; it may yet be applied"
            }
            _ => "the deadline passed in the queue",
        };
        error(ErrorCode::DeadlineExceeded, effect, format!("{message} ({late_ms} ms late)"))
    }

    /// A refusal after admission: nothing was done.
    pub fn refusal(&self, code: ErrorCode, message: impl Into<String>) -> Response {
        error(code, proto::Effect::refused(self.opcode), message)
    }
}

/// An error reply.
pub(super) fn error(
    code: ErrorCode,
    effect: proto::Effect,
    message: impl Into<String>,
) -> Response {
    Response::Error(ErrorReply::new(code, effect, message))
}

/// Counters since start-up, for STATUS.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct RequestCounters {
    /// Requests admitted.
    pub admitted: u64,
    /// Requests answered without an error.
    pub answered_ok: u64,
    /// Requests answered with an error, refusals included.
    pub answered_error: u64,
    /// Refused because a queue was full or writes stalled.
    pub busy: u64,
    /// Deadlines passed before admission.
    pub expired_at_admission: u64,
    /// Deadlines passed in the queue, before propose or before the read.
    pub expired_in_queue: u64,
    /// Deadlines passed after propose: the write's effect is unknown to its client.
    pub expired_after_propose: u64,
    /// Refused because the disk is full.
    pub no_space: u64,
    /// Answers that nobody waited for: the connection was closed.
    pub abandoned: u64,
}

/// What waits now, for STATUS.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct QueueStatus {
    /// Requests admitted and not finished.
    pub requests: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Limit on requests.
    pub max_requests: u64,
    /// Limit on bytes.
    pub max_bytes: u64,
    /// Requests finished a second, lately.
    pub served_per_s: u64,
    /// What BUSY would advise now, in ms.
    pub retry_after_ms: u32,
}

/// A request at the door.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub origin: Origin,
    pub opcode: Opcode,
    pub deadline: Nanos,
    pub received_at: Nanos,
    pub bytes: usize,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Desk {
    max_requests: usize,
    max_bytes: usize,
    requests: usize,
    bytes: usize,
    next_number: u64,
    /// (connection, request id) of the unanswered, with the ticket's number.
    open: BTreeMap<(u64, u64), u64>,
    rate: ServiceRate,
    /// No unanswered request's deadline is before this.
    earliest_deadline: Nanos,
    pub stages: StageStats,
    pub counters: RequestCounters,
}

impl Desk {
    pub fn new(max_requests: usize, max_bytes: usize) -> Self {
        Self {
            max_requests,
            max_bytes,
            requests: 0,
            bytes: 0,
            next_number: 0,
            open: BTreeMap::new(),
            rate: ServiceRate::default(),
            earliest_deadline: Nanos::MAX,
            stages: StageStats::default(),
            counters: RequestCounters::default(),
        }
    }

    /// Lets a request in, or says why not.
    pub fn admit(&mut self, now: Nanos, arrival: &Arrival) -> Result<Ticket, Response> {
        let Arrival { origin, opcode, deadline, received_at, bytes } = *arrival;
        let refused = proto::Effect::refused(opcode);
        if deadline <= now {
            self.counters.expired_at_admission += 1;
            let late_ms = now.since(deadline) / 1_000_000;
            let message = format!("the deadline passed before admission ({late_ms} ms late)");
            return Err(error(ErrorCode::DeadlineExceeded, refused, message));
        }
        // A request larger than the whole limit is let in when it is alone: it is bounded by the frame.
        if self.requests >= self.max_requests
            || (self.bytes + bytes > self.max_bytes && self.requests > 0)
        {
            let message =
                format!("{} requests with {} bytes are queued", self.requests, self.bytes);
            return Err(self.busy(refused, 0, message));
        }
        let number = self.next_number;
        let Entry::Vacant(slot) = self.open.entry((origin.conn, origin.request_id)) else {
            let message =
                format!("request id {} is in flight on this connection", origin.request_id);
            return Err(error(ErrorCode::DuplicateRequestId, refused, message));
        };
        slot.insert(number);
        self.next_number += 1;
        self.requests += 1;
        self.bytes += bytes;
        self.earliest_deadline = self.earliest_deadline.min(deadline);
        self.counters.admitted += 1;
        self.stages.span(Stage::Parse, received_at, now);
        Ok(Ticket {
            number,
            origin,
            opcode,
            bytes,
            deadline,
            received_at,
            admitted_at: now,
            range_deletes: 0,
        })
    }

    /// The `BUSY` answer.
    pub fn busy(
        &mut self,
        effect: proto::Effect,
        retry_after_ms_min: u32,
        message: String,
    ) -> Response {
        self.counters.busy += 1;
        Response::Error(ErrorReply {
            retry_after_ms: self.retry_after_ms().max(retry_after_ms_min),
            ..ErrorReply::new(ErrorCode::Busy, effect, message)
        })
    }

    /// Sends an answer to a request that was not admitted, or needs no admission.
    pub fn reply_unadmitted(
        &mut self,
        origin: Origin,
        opcode: Opcode,
        response: Response,
        out: &mut Vec<Effect>,
    ) {
        self.count(&response);
        out.push(Effect::Reply { origin, opcode, response });
    }

    /// Answers a request, unless it was answered before or its connection is closed.
    pub fn reply(
        &mut self,
        now: Nanos,
        ticket: &Ticket,
        response: Response,
        out: &mut Vec<Effect>,
    ) {
        let Entry::Occupied(slot) = self.open.entry((ticket.origin.conn, ticket.origin.request_id))
        else {
            return;
        };
        if *slot.get() != ticket.number {
            return;
        }
        slot.remove();
        self.count(&response);
        self.stages.span(Stage::Total, ticket.received_at, now);
        out.push(Effect::Reply { origin: ticket.origin, opcode: ticket.opcode, response });
    }

    /// A request leaves the queue: nothing more is done for it.
    pub fn finish(&mut self, ticket: &Ticket) {
        self.requests -= 1;
        self.bytes -= ticket.bytes;
        self.rate.served(ticket.bytes);
    }

    /// Whether somebody waits for the answer.
    pub fn is_open(&self, ticket: &Ticket) -> bool {
        self.open.get(&(ticket.origin.conn, ticket.origin.request_id)) == Some(&ticket.number)
    }

    /// Whether somebody waits for any answer.
    pub fn anybody_waits(&self) -> bool {
        !self.open.is_empty()
    }

    /// A connection is gone; its requests need no answer.
    pub fn connection_closed(&mut self, conn: u64) {
        let gone = self.open.extract_if((conn, 0)..=(conn, u64::MAX), |_, _| true).count();
        self.counters.abandoned += gone as u64;
    }

    fn count(&mut self, response: &Response) {
        match response {
            Response::Error(_) => self.counters.answered_error += 1,
            _ => self.counters.answered_ok += 1,
        }
    }

    /// No unanswered request's deadline is before this.
    pub fn earliest_deadline(&self) -> Nanos {
        self.earliest_deadline
    }

    /// Sets the bound after all unanswered requests were looked at.
    pub fn set_earliest_deadline(&mut self, earliest: Nanos) {
        self.earliest_deadline = earliest;
    }

    /// Measures the service rate; called every turn.
    pub fn turn(&mut self, now: Nanos) {
        self.rate.turn(now, self.requests > 0);
    }

    /// When half of what is queued will have been served, at the rate of late.
    pub fn retry_after_ms(&self) -> u32 {
        self.rate.retry_after_ms(self.requests, self.bytes)
    }

    pub fn queue(&self) -> QueueStatus {
        QueueStatus {
            requests: self.requests as u64,
            bytes: self.bytes as u64,
            max_requests: self.max_requests as u64,
            max_bytes: self.max_bytes as u64,
            served_per_s: self.rate.requests_per_s,
            retry_after_ms: self.retry_after_ms(),
        }
    }
}

/// Requests and bytes served a second: a moving average over windows of [`WINDOW_NS`] in which somebody waited.
#[derive(Debug, Default)]
struct ServiceRate {
    window_start: Nanos,
    requests: u64,
    bytes: u64,
    requests_per_s: u64,
    bytes_per_s: u64,
}

const WINDOW_NS: u64 = 100_000_000;
const RETRY_AFTER_MS_MIN: u64 = 1;
const RETRY_AFTER_MS_MAX: u64 = 5_000;
/// The hint before anything was measured.
const RETRY_AFTER_MS_UNKNOWN: u64 = 100;

impl ServiceRate {
    fn served(&mut self, bytes: usize) {
        self.requests += 1;
        self.bytes += bytes as u64;
    }

    fn turn(&mut self, now: Nanos, waiting: bool) {
        let ns = now.since(self.window_start);
        if ns < WINDOW_NS {
            return;
        }
        if self.requests > 0 || waiting {
            let per_s = |n: u64| (u128::from(n) * 1_000_000_000 / u128::from(ns)) as u64;
            // The first measurement stands alone; later ones move the average by a quarter.
            let average = |old: u64, new: u64| if old == 0 { new } else { (3 * old + new) / 4 };
            self.requests_per_s = average(self.requests_per_s, per_s(self.requests));
            self.bytes_per_s = average(self.bytes_per_s, per_s(self.bytes));
        }
        (self.window_start, self.requests, self.bytes) = (now, 0, 0);
    }

    fn retry_after_ms(&self, requests: usize, bytes: usize) -> u32 {
        let ms = |n: usize, per_s: u64| match per_s {
            0 => RETRY_AFTER_MS_UNKNOWN,
            _ => (n as u64 / 2).saturating_mul(1_000) / per_s,
        };
        let longest = ms(requests, self.requests_per_s).max(ms(bytes, self.bytes_per_s));
        longest.clamp(RETRY_AFTER_MS_MIN, RETRY_AFTER_MS_MAX) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrival(conn: u64, request_id: u64) -> Arrival {
        Arrival {
            origin: Origin { conn, request_id },
            opcode: Opcode::Put,
            deadline: Nanos(1_000),
            received_at: Nanos(0),
            bytes: 10,
        }
    }

    fn code(response: Response) -> (ErrorCode, u32) {
        match response {
            Response::Error(e) => (e.code, e.retry_after_ms),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn pitfall_52_a_request_id_in_flight_is_refused_until_it_is_answered() {
        let mut desk = Desk::new(10, 1_000);
        let mut out = Vec::new();
        let first = desk.admit(Nanos(1), &arrival(1, 7)).unwrap();
        desk.admit(Nanos(1), &arrival(2, 7)).unwrap();
        let refused = desk.admit(Nanos(1), &arrival(1, 7)).unwrap_err();
        assert_eq!(code(refused).0, ErrorCode::DuplicateRequestId);
        desk.reply(Nanos(2), &first, Response::Pong, &mut out);
        let again = desk.admit(Nanos(2), &arrival(1, 7)).unwrap();
        desk.reply(Nanos(3), &first, Response::Pong, &mut out);
        assert_eq!(out.len(), 1, "the first is answered once and never in the name of the second");
        desk.reply(Nanos(3), &again, Response::Pong, &mut out);
        assert_eq!(out.len(), 2);
    }

    #[test]
    fn the_queue_is_bounded_in_requests_and_bytes_until_they_finish() {
        let mut desk = Desk::new(3, 25);
        let first = desk.admit(Nanos(1), &arrival(1, 1)).unwrap();
        desk.admit(Nanos(1), &arrival(1, 2)).unwrap();
        assert_eq!(
            code(desk.admit(Nanos(1), &arrival(1, 3)).unwrap_err()).0,
            ErrorCode::Busy,
            "bytes"
        );
        desk.finish(&first);
        desk.admit(Nanos(1), &Arrival { bytes: 1, ..arrival(1, 3) }).unwrap();
        desk.admit(Nanos(1), &Arrival { bytes: 1, ..arrival(1, 4) }).unwrap();
        let refused = desk.admit(Nanos(1), &Arrival { bytes: 1, ..arrival(1, 5) }).unwrap_err();
        assert_eq!(code(refused).0, ErrorCode::Busy, "requests");
        assert_eq!(desk.counters.busy, 2);
    }

    #[test]
    fn a_closed_connections_requests_are_not_answered() {
        let mut desk = Desk::new(10, 1_000);
        let mut out = Vec::new();
        let mine = desk.admit(Nanos(1), &arrival(1, 1)).unwrap();
        let other = desk.admit(Nanos(1), &arrival(2, 1)).unwrap();
        desk.connection_closed(1);
        desk.reply(Nanos(1), &mine, Response::Pong, &mut out);
        desk.reply(Nanos(1), &other, Response::Pong, &mut out);
        assert_eq!(out.len(), 1);
        assert_eq!(desk.counters.abandoned, 1);
    }

    #[test]
    fn the_retry_hint_follows_the_service_rate() {
        let mut rate = ServiceRate::default();
        assert_eq!(rate.retry_after_ms(1_000, 0), 100, "nothing measured");
        for _ in 0..1_000 {
            rate.served(100);
        }
        rate.turn(Nanos(WINDOW_NS), true);
        assert_eq!((rate.requests_per_s, rate.bytes_per_s), (10_000, 1_000_000));
        assert_eq!(rate.retry_after_ms(2_000, 0), 100);
        assert_eq!(rate.retry_after_ms(2_000, 4_000_000), 2_000, "bytes are what takes long");
        rate.turn(Nanos(2 * WINDOW_NS), true);
        assert_eq!(rate.requests_per_s, 7_500, "a window in which nothing was served");
        rate.turn(Nanos(3 * WINDOW_NS), false);
        assert_eq!(rate.requests_per_s, 7_500, "an idle window says nothing");
    }
}
