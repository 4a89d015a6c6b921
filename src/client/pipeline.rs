//! Many writes in flight on one connection.
//!
//! ```no_run
//! # use beachdb::{base::batch::WriteBatch, client::Client};
//! # fn batches() -> Vec<WriteBatch> { Vec::new() }
//! let mut client = Client::connect("127.0.0.1:7400")?;
//! let mut pipeline = client.pipeline(64);
//! for batch in batches() {
//!     while pipeline.is_full() {
//!         let (ticket, outcome) = pipeline.wait().expect("something is in flight");
//!         println!("{ticket:?} {outcome:?}");
//!     }
//!     pipeline.submit(&batch)?;
//! }
//! while let Some((ticket, outcome)) = pipeline.wait() {
//!     println!("{ticket:?} {outcome:?}");
//! }
//! # Ok::<(), beachdb::client::ClientError>(())
//! ```
//!
//! Invariants:
//! - Each submitted write gets exactly one outcome, and none is sent twice: a retry in here would overtake the
//!   writes behind it. Who wants one submits again, in the order that matters.
//! - When the connection breaks, every write in flight is [`ClientError::Unknown`], except those whose bytes were still
//!   in the pipeline's own buffer. When the server says that it stops, each is refused, not applied.
//! - The window bounds what is in flight, in requests and in bytes; a reply to a write is small, so a server that stops
//!   reading until its replies are taken cannot lock up with a client that only sends.

use super::connection::{decode_reply, left};
use super::{Attempt, Broken, Client, ClientError, Written};
use crate::base::Nanos;
use crate::base::batch::{BatchRef, WriteBatch};
use crate::limits::MAX_CONNECTION_IN_FLIGHT;
use crate::proto::{Effect, ErrorCode, ErrorReply, Opcode, Request, Response};
use std::collections::{BTreeMap, VecDeque};

/// Bytes in flight above which the pipeline is full.
const WINDOW_BYTES: usize = 8 << 20;
/// Bytes gathered before they are sent without being asked.
const FLUSH_BYTES: usize = 64 << 10;

/// Names a submitted write; counts up from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(pub u64);

#[derive(Debug)]
struct InFlight {
    ticket: Ticket,
    bytes: usize,
    deadline: Nanos,
}

/// See [`Client::pipeline`]. Dropping it with writes in flight closes the connection: their outcomes are lost.
#[derive(Debug)]
pub struct Pipeline<'c> {
    client: &'c mut Client,
    window: usize,
    next: Ticket,
    /// By request id.
    in_flight: BTreeMap<u64, InFlight>,
    /// Ids above this one are still in `buffer`.
    sent_id: u64,
    bytes: usize,
    buffer: Vec<u8>,
    /// The node does not lead, or stops: when what is in flight is answered, the next write goes elsewhere.
    leaving: bool,
    done: VecDeque<(Ticket, Result<Written, ClientError>)>,
}

impl<'c> Pipeline<'c> {
    pub(super) fn new(client: &'c mut Client, window: usize) -> Self {
        Self {
            client,
            window: window.clamp(1, MAX_CONNECTION_IN_FLIGHT),
            next: Ticket(0),
            in_flight: BTreeMap::new(),
            sent_id: 0,
            bytes: 0,
            buffer: Vec::new(),
            leaving: false,
            done: VecDeque::new(),
        }
    }

    /// Whether [`Pipeline::wait`] should be called before the next [`Pipeline::submit`].
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.in_flight.len() >= self.window || self.bytes >= WINDOW_BYTES
    }

    /// Writes whose outcome has not been returned by [`Pipeline::wait`].
    #[must_use]
    pub fn len(&self) -> usize {
        self.in_flight.len() + self.done.len()
    }

    /// Whether every outcome has been returned.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Queues a write and returns its ticket. It leaves with those beside it, at the latest with [`Pipeline::wait`] or
    /// [`Pipeline::flush`]. Connects again when the connection was lost and nothing is in flight on it. On an error
    /// nothing was queued: this write was not applied. May be called on a full pipeline; it then goes over the window.
    pub fn submit(&mut self, batch: &WriteBatch) -> Result<Ticket, ClientError> {
        self.submit_until(batch, self.client.deadline())
    }

    pub(super) const fn client(&self) -> &Client {
        self.client
    }

    /// As [`Pipeline::submit`], with a deadline of its own.
    pub(super) fn submit_until(
        &mut self,
        batch: &WriteBatch,
        deadline: Nanos,
    ) -> Result<Ticket, ClientError> {
        let batch = BatchRef::parse(batch.as_bytes())?;
        batch.check_user()?;
        if self.in_flight.is_empty()
            && self.client.connection.as_mut().is_some_and(|c| c.is_stale(&self.client.clock))
        {
            self.client.connection = None;
        }
        self.leave();
        if self.client.connection.is_none() {
            // Request ids begin again with the connection.
            self.sent_id = 0;
        }
        if let Err(attempt) = self.client.ensure_connected(deadline) {
            return Err(self.client.failure(attempt, Effect::NotApplied));
        }
        let connection = self.client.connection.as_mut().expect("connected above");
        let old = self.buffer.len();
        let request = Request::Write { opcode: Opcode::Write, batch };
        let id = connection
            .encode(&mut self.buffer, &request, &self.client.clock, deadline)
            .map_err(|e| ClientError::NotSent { cause: e.to_string() })?;
        let ticket = self.next;
        self.skip_ticket();
        let bytes = self.buffer.len() - old;
        self.bytes += bytes;
        self.in_flight.insert(id, InFlight { ticket, bytes, deadline });
        if self.buffer.len() >= FLUSH_BYTES {
            self.flush();
        }
        Ok(ticket)
    }

    /// Counts a write that could not be submitted.
    pub(super) fn skip_ticket(&mut self) {
        self.next = Ticket(self.next.0 + 1);
    }

    /// Sends what is queued. A failure becomes the outcome of what is in flight.
    pub fn flush(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        let last_id = self.in_flight.last_key_value().map_or(self.sent_id, |(id, _)| *id);
        let deadline =
            self.in_flight.first_key_value().map_or(Nanos::ZERO, |(_, entry)| entry.deadline);
        let Some(connection) = self.client.connection.as_mut() else {
            return self.break_off(&Broken::Io("the connection is gone".into()));
        };
        let sent = connection.send(&self.buffer, &self.client.clock, deadline);
        self.buffer.clear();
        match sent {
            Ok(()) => self.sent_id = last_id,
            Err(broken) => {
                // Some of these frames may have left; only the last one is known to be cut.
                self.sent_id = last_id.saturating_sub(1);
                self.break_off(&broken);
            }
        }
    }

    /// The outcome of some write, in the order of the replies; `None` when nothing is in flight. Blocks, at most until
    /// the deadline of the oldest one.
    pub fn wait(&mut self) -> Option<(Ticket, Result<Written, ClientError>)> {
        while self.done.is_empty() {
            let deadline = self.in_flight.first_key_value()?.1.deadline;
            self.flush();
            if self.done.is_empty() {
                self.receive(deadline);
            }
        }
        self.done.pop_front()
    }

    /// As [`Pipeline::wait`], but only what has arrived and was read already.
    pub fn try_wait(&mut self) -> Option<(Ticket, Result<Written, ClientError>)> {
        while self.done.is_empty() && self.client.connection.as_ref().is_some_and(|c| c.has_frame())
        {
            let deadline = self.in_flight.first_key_value()?.1.deadline;
            self.receive(deadline);
        }
        self.done.pop_front()
    }

    fn receive(&mut self, deadline: Nanos) {
        let Some(connection) = self.client.connection.as_mut() else {
            return self.break_off(&Broken::Io("the connection is gone".into()));
        };
        let reply = connection
            .receive(&self.client.clock, deadline)
            .and_then(|(header, body)| Ok((header.request_id, decode_reply(&header, &body)?)));
        let (id, response) = match reply {
            Ok(reply) => reply,
            Err(broken) => return self.break_off(&broken),
        };
        let Some(entry) = self.in_flight.remove(&id) else {
            let cause = format!("a reply to request {id}, which is not in flight");
            return self.break_off(&Broken::Protocol(cause));
        };
        self.bytes -= entry.bytes;
        let outcome = match response {
            Response::Written { index, first_seq, last_seq } => {
                self.client.route.answered();
                Ok(Written { index, first_seq, last_seq })
            }
            Response::Error(reply) => {
                if !self.leaving {
                    self.leave_after(&reply);
                }
                Err(self.client.refused(reply))
            }
            other => {
                let endpoint = self.client.endpoint().to_owned();
                let cause = format!("WRITE was answered with {other:?}");
                Err(ClientError::Protocol { endpoint, cause, effect: Effect::Unknown })
            }
        };
        self.done.push_back((entry.ticket, outcome));
    }

    /// Gives everything in flight its outcome, in order, and drops the connection.
    fn break_off(&mut self, broken: &Broken) {
        self.client.connection = None;
        if !self.leaving && !matches!(broken, Broken::Protocol(_)) {
            self.client.route.rotate();
        }
        self.leaving = false;
        self.buffer.clear();
        self.bytes = 0;
        let sent_id = std::mem::take(&mut self.sent_id);
        for (id, entry) in std::mem::take(&mut self.in_flight) {
            let attempt = if id > sent_id {
                Attempt::NotSent(broken.to_string())
            } else {
                match broken {
                    Broken::Io(cause) => Attempt::Lost(cause.clone()),
                    Broken::Protocol(cause) => Attempt::Protocol(cause.clone()),
                    // Only the frame that the server names is known to be refused, unless it stops: then it has answered
                    // everything that it took.
                    Broken::Closed(reply, about)
                        if *about == id || reply.code == ErrorCode::ShuttingDown =>
                    {
                        Attempt::Refused(reply.clone())
                    }
                    Broken::Closed(reply, _) => Attempt::Lost(reply.to_string()),
                }
            };
            let error = self.client.failure(attempt, Effect::Unknown);
            self.done.push_back((entry.ticket, Err(error)));
        }
    }

    /// After a refusal: whether the next write goes elsewhere.
    fn leave_after(&mut self, reply: &ErrorReply) {
        match reply.code {
            ErrorCode::NotLeader => self.client.route.redirected(&reply.leader),
            ErrorCode::ShuttingDown => self.client.route.goes_away(),
            _ => return,
        }
        self.leaving = true;
    }

    /// Drops the connection to a node that does not lead, or stops, when nothing is in flight on it.
    fn leave(&mut self) {
        if self.leaving && self.in_flight.is_empty() {
            self.leaving = false;
            self.client.connection = None;
        }
    }

    /// Time left for the oldest write in flight.
    #[must_use]
    pub fn time_left(&self) -> Option<std::time::Duration> {
        let (_, oldest) = self.in_flight.first_key_value()?;
        Some(left(&self.client.clock, oldest.deadline))
    }
}

impl Drop for Pipeline<'_> {
    fn drop(&mut self) {
        if self.leaving || !self.in_flight.is_empty() {
            self.client.connection = None;
        }
    }
}
