//! Exactly-once writes: a retry is answered, not applied again.
//!
//! ```no_run
//! use beachdb::client::Client;
//!
//! let mut client = Client::connect("127.0.0.1:7400")?;
//! let mut session = client.session()?; // one more commit; the cluster remembers its writes from here on
//! session.put(b"beach", b"sand")?; // tried again until the deadline, also when an answer is lost; applied once
//! # Ok::<(), beachdb::client::ClientError>(())
//! ```
//!
//! The rules on the wire are those of `proto-spec/client.md`, *Sessions*.
//!
//! Invariants:
//! - **A write has one sequence until its outcome is known or given up**, whatever happens to connections and leaders.
//! - *Acked below* is the lowest sequence that is open. A write that is given up ([`ClientError::Unknown`]) is open no longer:
//!   once a later write of the session has succeeded, it was either applied before that, or never will be.
//! - [`Effect::NotApplied`] in an error is about the write, not about its last try: every try ended so, none was lost.
//! - A new session takes the place of one that the cluster has evicted. A write goes into it only when no try of it was lost:
//!   otherwise it is [`ClientError::Unknown`].
//! - A write ends by its deadline ([`ClientOptions::timeout`](super::ClientOptions::timeout)), like any other call. A try is
//!   given a third of it, so that a node that hangs does not use it up.
//!
//! What it does not do: survive this process. A session that is to go on after a crash of the client needs its numbers
//! on the client's own disk, before each write.

use super::connection::left;
use super::{Client, ClientError, FIRST_BACKOFF, Pipeline, Ticket, Written};
use crate::base::Nanos;
use crate::base::batch::{BatchRef, WriteBatch};
use crate::base::conditions::Expect;
use crate::proto::{Effect, ErrorCode, ErrorReply, Opcode, Registered, Request, Response};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// The numbers of a session: its id, and which of its writes are open. [`Session::suspend`] gives it,
/// [`Client::resume_session`] takes it, on the same or another connection to the cluster; never two at once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionState {
    client_id: u64,
    window: u64,
    next: u64,
    open: BTreeSet<u64>,
}

impl SessionState {
    fn new(registered: Registered) -> Self {
        let window = registered.window.into();
        Self { client_id: registered.client_id, window, next: 1, open: BTreeSet::new() }
    }

    /// The id that the cluster gave out.
    #[must_use]
    pub const fn client_id(&self) -> u64 {
        self.client_id
    }

    /// No outcome below this sequence is wanted any more.
    #[must_use]
    pub fn acked_below(&self) -> u64 {
        self.open.first().copied().unwrap_or(self.next)
    }

    fn is_full(&self) -> bool {
        self.next - self.acked_below() >= self.window
    }

    fn begin(&mut self) -> u64 {
        let sequence = self.next;
        self.open.insert(sequence);
        self.next += 1;
        sequence
    }

    fn end(&mut self, sequence: u64) {
        self.open.remove(&sequence);
    }
}

/// See the [module](self). Made by [`Client::session`].
#[derive(Debug)]
pub struct Session<'c> {
    client: &'c mut Client,
    state: SessionState,
}

impl Client {
    /// Begins a session for exactly-once writes, which costs one commit. The cluster keeps a few thousand of them and drops
    /// the one unused the longest: use one for many writes.
    pub fn session(&mut self) -> Result<Session<'_>, ClientError> {
        let deadline = self.deadline();
        let state = self.register(deadline)?;
        Ok(self.resume_session(state))
    }

    /// Goes on with a session that was [suspended](Session::suspend).
    pub const fn resume_session(&mut self, state: SessionState) -> Session<'_> {
        Session { client: self, state }
    }

    /// Registers until it works. A lost answer leaves a session behind that nobody uses.
    fn register(&mut self, deadline: Nanos) -> Result<SessionState, ClientError> {
        let mut backoff = FIRST_BACKOFF;
        loop {
            let until = self.try_deadline(deadline);
            let error = match self.try_once(&Request::Register, until) {
                Ok(Response::Registered(registered)) => return Ok(SessionState::new(registered)),
                Ok(other) => return Err(self.unexpected(Opcode::Register, &other)),
                Err(error) => error,
            };
            let lost = matches!(error, ClientError::Unknown { .. });
            if !lost && !error.safe_to_retry() {
                return Err(error);
            }
            self.move_on(&error);
            if !self.back_off(&mut backoff, error.retry_after(), deadline) {
                return Err(error);
            }
        }
    }
}

impl Session<'_> {
    /// Its numbers, for the log of the application.
    #[must_use]
    pub const fn state(&self) -> &SessionState {
        &self.state
    }

    /// The client, for reads.
    pub const fn client(&mut self) -> &mut Client {
        self.client
    }

    /// Gives the client back; [`Client::resume_session`] goes on.
    #[must_use]
    pub fn suspend(self) -> SessionState {
        self.state
    }

    /// Sets a key, once.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<Written, ClientError> {
        let mut batch = WriteBatch::new();
        batch.put(key, value)?;
        self.write_as(Opcode::Put, &mut batch)
    }

    /// Deletes a key, there or not, once.
    pub fn delete(&mut self, key: &[u8]) -> Result<Written, ClientError> {
        let mut batch = WriteBatch::new();
        batch.delete(key)?;
        self.write_as(Opcode::Delete, &mut batch)
    }

    /// Applies a batch atomically, once.
    pub fn write(&mut self, batch: &WriteBatch) -> Result<Written, ClientError> {
        self.write_as(Opcode::Write, &mut batch.clone())
    }

    /// Sets a key if it is as expected, once; see [`Client::put_if`]. A retry of it gets the first answer.
    pub fn put_if(
        &mut self,
        key: &[u8],
        value: &[u8],
        expect: Expect,
    ) -> Result<Written, ClientError> {
        let mut batch = WriteBatch::new();
        batch.put(key, value)?;
        batch.require(key, expect)?;
        self.write_as(Opcode::Put, &mut batch)
    }

    /// Deletes a key if it is as expected, once; see [`Client::put_if`].
    pub fn delete_if(&mut self, key: &[u8], expect: Expect) -> Result<Written, ClientError> {
        let mut batch = WriteBatch::new();
        batch.delete(key)?;
        batch.require(key, expect)?;
        self.write_as(Opcode::Delete, &mut batch)
    }

    fn write_as(&mut self, opcode: Opcode, batch: &mut WriteBatch) -> Result<Written, ClientError> {
        check(batch)?;
        let deadline = self.client.deadline();
        let mut backoff = FIRST_BACKOFF;
        let mut write = Open::new(&mut self.state, deadline);
        let outcome = loop {
            write.number(&self.state, batch);
            match write.judge(self.try_write(opcode, batch, deadline)) {
                Verdict::Done(outcome) => break outcome,
                Verdict::Again(error) => {
                    self.client.move_on(&error);
                    if !self.client.back_off(&mut backoff, error.retry_after(), deadline) {
                        break Err(write.honest(error));
                    }
                }
                Verdict::NewSession(endpoint) => match self.client.register(deadline) {
                    Ok(state) => {
                        self.state = state;
                        write.sequence = self.state.begin();
                    }
                    Err(e) => break Err(evicted(endpoint, &e)),
                },
            }
        };
        self.state.end(write.sequence);
        outcome
    }

    fn try_write(
        &mut self,
        opcode: Opcode,
        batch: &WriteBatch,
        deadline: Nanos,
    ) -> Result<Written, ClientError> {
        let request = Request::Write { opcode, batch: BatchRef::parse(batch.as_bytes())? };
        let until = self.client.try_deadline(deadline);
        match self.client.try_once(&request, until)? {
            Response::Written { index, first_seq, last_seq } => {
                Ok(Written { index, first_seq, last_seq })
            }
            other => Err(self.client.unexpected(opcode, &other)),
        }
    }

    /// Writes many batches, each once, with up to `window` in flight, and returns an outcome for each, in order. A batch
    /// that had to be sent again may be applied behind those after it: what must stay in order belongs in one batch.
    pub fn write_many<'b>(
        &mut self,
        batches: impl IntoIterator<Item = &'b WriteBatch>,
        window: usize,
    ) -> Vec<Result<Written, ClientError>> {
        let mut many = Many::default();
        let mut source = batches.into_iter().enumerate().fuse();
        let mut backoff = FIRST_BACKOFF;
        loop {
            let before = many.outcomes.len();
            many.round(self, &mut source, window);
            many.renew(self);
            if many.again.is_empty() && many.healthy {
                return many.outcomes.into_values().collect();
            }
            if many.outcomes.len() > before {
                backoff = FIRST_BACKOFF;
            }
            many.pause(self, &mut backoff);
        }
    }
}

/// What the client itself can refuse.
fn check(batch: &WriteBatch) -> Result<(), ClientError> {
    Ok(BatchRef::parse(batch.as_bytes())?.check_user()?)
}

/// The session was evicted, and there is no new one.
fn evicted(endpoint: String, why: &ClientError) -> ClientError {
    let message =
        format!("the session had to make room for others, and a new one could not begin: {why}");
    let reply = ErrorReply::new(ErrorCode::UnknownSession, Effect::NotApplied, message);
    ClientError::Refused { endpoint, reply }
}

/// A write that has no outcome yet.
#[derive(Debug)]
struct Open {
    sequence: u64,
    deadline: Nanos,
    /// A try of it was lost: it may have been applied.
    maybe_applied: bool,
}

/// What the outcome of a try means for its write.
enum Verdict {
    Done(Result<Written, ClientError>),
    /// To be tried again; the error is the answer when there is no time.
    Again(ClientError),
    /// The session is gone, says this endpoint, and the write was not applied in it.
    NewSession(String),
}

impl Open {
    fn new(state: &mut SessionState, deadline: Nanos) -> Self {
        Self { sequence: state.begin(), deadline, maybe_applied: false }
    }

    fn number(&self, state: &SessionState, batch: &mut WriteBatch) {
        batch.set_client(state.client_id, self.sequence, state.acked_below());
    }

    fn judge(&mut self, outcome: Result<Written, ClientError>) -> Verdict {
        let error = match outcome {
            Ok(written) => return Verdict::Done(Ok(written)),
            Err(error) => error,
        };
        match (error.code(), error.effect()) {
            (Some(ErrorCode::UnknownSession), _) if self.maybe_applied => {
                Verdict::Done(Err(self.honest(error)))
            }
            // This was the only try that counts, and the server says that it was not applied.
            (Some(ErrorCode::UnknownSession), _) => Verdict::NewSession(match error {
                ClientError::Refused { endpoint, .. } | ClientError::Unknown { endpoint, .. } => {
                    endpoint
                }
                _ => String::new(),
            }),
            // The session remembers this outcome: it is that of every try.
            (Some(ErrorCode::ConditionFailed), _) => Verdict::Done(Err(error)),
            // Somebody else writes with the numbers of this session.
            (Some(ErrorCode::SessionStale), _) => Verdict::Done(Err(error)),
            (_, Effect::Unknown) if matches!(error, ClientError::Unknown { .. }) => {
                self.maybe_applied = true;
                Verdict::Again(error)
            }
            _ if error.safe_to_retry() => Verdict::Again(error),
            _ => Verdict::Done(Err(self.honest(error))),
        }
    }

    /// The error, speaking of the write and not of its last try.
    fn honest(&self, error: ClientError) -> ClientError {
        if !self.maybe_applied || matches!(error.effect(), Effect::Applied | Effect::Unknown) {
            return error;
        }
        let (code, cause) =
            (error.code(), format!("a try got no answer, and the last one: {error}"));
        let endpoint = match error {
            ClientError::Refused { endpoint, .. } | ClientError::Protocol { endpoint, .. } => {
                endpoint
            }
            _ => "(no endpoint)".to_owned(),
        };
        ClientError::Unknown { endpoint, cause, code }
    }
}

/// One of many batches.
#[derive(Debug)]
struct Item<'b> {
    at: usize,
    batch: &'b WriteBatch,
    open: Open,
}

/// The state of [`Session::write_many`].
#[derive(Debug)]
struct Many<'b> {
    outcomes: BTreeMap<usize, Result<Written, ClientError>>,
    /// To be sent again, with the error of the last try.
    again: VecDeque<(Item<'b>, ClientError)>,
    /// Not applied in a session that is gone.
    homeless: Vec<(Item<'b>, String)>,
    /// Nothing has gone wrong in this round.
    healthy: bool,
}

impl Default for Many<'_> {
    fn default() -> Self {
        Self {
            outcomes: BTreeMap::new(),
            again: VecDeque::new(),
            homeless: Vec::new(),
            healthy: true,
        }
    }
}

impl<'b> Many<'b> {
    /// Sends what is to be sent again, and then new batches, until all are answered or something goes wrong.
    fn round(
        &mut self,
        session: &mut Session<'_>,
        source: &mut impl Iterator<Item = (usize, &'b WriteBatch)>,
        window: usize,
    ) {
        self.healthy = true;
        let Session { client, state } = session;
        let mut queue = std::mem::take(&mut self.again);
        let mut in_flight: BTreeMap<Ticket, Item<'b>> = BTreeMap::new();
        let mut pipeline = client.pipeline(window);
        let mut scratch = WriteBatch::new();
        loop {
            while self.healthy && !pipeline.is_full() {
                let item = match queue.pop_front() {
                    Some((item, _)) => item,
                    None if state.is_full() => break,
                    None => match source.next() {
                        Some((at, batch)) => match check(batch) {
                            Ok(()) => {
                                let open = Open::new(state, pipeline.client().deadline());
                                Item { at, batch, open }
                            }
                            Err(e) => {
                                self.outcomes.insert(at, Err(e));
                                continue;
                            }
                        },
                        None => break,
                    },
                };
                scratch.clone_from(item.batch);
                item.open.number(state, &mut scratch);
                self.submit(&mut pipeline, &mut in_flight, state, item, &scratch);
            }
            let Some((ticket, outcome)) = pipeline.wait() else { break };
            let item = in_flight.remove(&ticket).expect("each ticket is answered once");
            self.settle(state, item, outcome);
        }
        // What was not sent in this round goes first in the next one, after what came before it.
        self.again.extend(queue);
        self.again.make_contiguous().sort_by_key(|(item, _)| item.open.sequence);
    }

    fn submit(
        &mut self,
        pipeline: &mut Pipeline<'_>,
        in_flight: &mut BTreeMap<Ticket, Item<'b>>,
        state: &mut SessionState,
        item: Item<'b>,
        batch: &WriteBatch,
    ) {
        let until = pipeline.client().try_deadline(item.open.deadline);
        match pipeline.submit_until(batch, until) {
            Ok(ticket) => drop(in_flight.insert(ticket, item)),
            Err(e) => self.settle(state, item, Err(e)),
        }
    }

    fn settle(
        &mut self,
        state: &mut SessionState,
        mut item: Item<'b>,
        outcome: Result<Written, ClientError>,
    ) {
        match item.open.judge(outcome) {
            Verdict::Done(outcome) => {
                state.end(item.open.sequence);
                self.outcomes.insert(item.at, outcome);
            }
            Verdict::Again(error) => {
                self.healthy = false;
                self.again.push_back((item, error));
            }
            Verdict::NewSession(endpoint) => {
                self.healthy = false;
                self.homeless.push((item, endpoint));
            }
        }
    }

    /// Begins a new session if the old one is gone, and moves what was not applied in the old one into it.
    fn renew(&mut self, session: &mut Session<'_>) {
        let latest = self.homeless.iter().map(|(item, _)| item.open.deadline).max();
        let Some(deadline) = latest else { return };
        match session.client.register(deadline) {
            Ok(state) => {
                session.state = state;
                let homeless = self.homeless.drain(..).map(|(item, endpoint)| {
                    let cause = "the session was evicted".to_owned();
                    (item, ClientError::NotSent { cause: format!("{endpoint}: {cause}") })
                });
                let again: Vec<_> = homeless.chain(self.again.drain(..)).collect();
                for (mut item, error) in again {
                    if item.open.maybe_applied {
                        self.outcomes.insert(item.at, Err(item.open.honest(error)));
                    } else {
                        item.open.sequence = session.state.begin();
                        self.again.push_back((item, error));
                    }
                }
            }
            Err(e) => {
                for (item, endpoint) in self.homeless.drain(..) {
                    session.state.end(item.open.sequence);
                    self.outcomes.insert(item.at, Err(evicted(endpoint, &e)));
                }
            }
        }
    }

    /// Waits before the next round, and gives up the writes that have no time for one.
    fn pause(&mut self, session: &mut Session<'_>, backoff: &mut Duration) {
        let Session { client, state } = session;
        let Some((_, error)) = self.again.back() else { return };
        client.move_on(error);
        let wait = self.again.iter().map(|(_, error)| error.retry_after()).max();
        let pause_for = client.next_pause(backoff, wait.unwrap_or_default());
        for (item, error) in std::mem::take(&mut self.again) {
            if pause_for < left(&client.clock, item.open.deadline) {
                self.again.push_back((item, error));
            } else {
                state.end(item.open.sequence);
                self.outcomes.insert(item.at, Err(item.open.honest(error)));
            }
        }
        if !self.again.is_empty() {
            client.pause(pause_for);
            client.retries += self.again.len() as u64;
        }
    }
}

#[cfg(test)]
mod tests;
