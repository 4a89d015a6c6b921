//! L3: the blocking client library.
//!
//! ```no_run
//! use beachdb::client::Client;
//!
//! let mut client = Client::connect("127.0.0.1:7400")?;
//! client.put(b"beach", b"sand")?; // durable when this returns Ok
//! let found = client.get(b"beach")?.expect("just written");
//! assert_eq!(&found.value[..], b"sand");
//! # Ok::<(), beachdb::client::ClientError>(())
//! ```
//!
//! A [`Client`] is one connection with one request in flight, for one thread; make one per thread. Many writes at once:
//! [`Client::pipeline`]. Pages of a range at one moment: [`Client::scan`].
//!
//! ```text
//!   call ──► connect (each endpoint in turn) ──► HELLO ──► send ──► receive ──► answer
//!              │ fails                                      │ fails   │ fails
//!              ▼                                            ▼         ▼
//!            not sent: try again                      not sent     read:  try again
//!            inside the deadline                     (try again)   write: Unknown, never sent twice
//! ```
//!
//! Invariants:
//! - **A write is sent again only when it is known not to be applied**: the frame did not leave completely, or the server
//!   answered `not_applied` with a retryable code. Anything else is [`ClientError::Unknown`].
//! - Every call ends by its deadline ([`ClientOptions::timeout`]), retries and back-off included, plus a quarter of a
//!   second in which the server's own "deadline exceeded" can still arrive and say what became of the write.
//! - A connection that failed in any way is dropped, never reused.
//!
//! - **Unless it is written in a [`Session`]**, which the cluster remembers: [`Client::session`], exactly once.
//!
//! # Several nodes
//! The client speaks with one node at a time: the first of its endpoints that answers, and then the same one as long as it can.
//! Any node serves linearizable reads, so a client that only reads stays where it is. A write that meets a follower is sent
//! again to the leader that the follower names, at once, also to an address that is not among the endpoints; the client then stays
//! with the leader. A node that does not answer is left for the next one. With several endpoints a read is given up for another
//! node after a third of the time that it has.
//!
//! What it does not do: share a connection between threads, keep a pool, or spread its reads over the nodes (give each client the
//! endpoints in another order).

mod connection;
mod error;
mod pipeline;
mod route;
mod scan;
pub mod session;
#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the scripted server is a thread with its own clock")]
mod tests;

pub use crate::proto::{
    AdminRequest, Effect, ErrorCode, ErrorReply, HelloReply, ScanEntry, ScanReply, Staleness,
};
pub use error::ClientError;
pub use pipeline::{Pipeline, Ticket};
pub use scan::{Scan, ScanOptions};
pub use session::{Session, SessionState};

use crate::base::batch::{BatchError, BatchRef, WriteBatch};
use crate::base::conditions::Expect;
use crate::base::{LogIndex, Nanos, SequenceNumber};
use crate::env::os::{OsClock, OsRandom, pause};
use crate::env::{Clock, Random};
use crate::limits::MAX_KEY_BYTES;
use crate::proto::{KeyList, MultiGetReply, Opcode, Request, Response, ScanRequest};
use bytes::Bytes;
use connection::{Broken, Connection, decode_reply, left};
use route::Route;
use std::time::Duration;

const FIRST_BACKOFF: Duration = Duration::from_millis(10);
const LAST_BACKOFF: Duration = Duration::from_millis(200);
/// Tries that fit between the begin of a call and its deadline, at least, when there is more than one node to try.
const TRIES_MIN: u32 = 3;

/// How to reach the cluster, and how long to try.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// `HOST:PORT` of each node; tried in turn.
    pub endpoints: Vec<String>,
    /// The deadline of a call, from its beginning to its answer, retries included.
    pub timeout: Duration,
    /// Longest wait for one TCP connection.
    pub connect_timeout: Duration,
    /// What the client calls itself in the server's log; at most 255 bytes.
    pub name: String,
    /// The cluster id to insist on; empty = any.
    pub cluster: String,
}

impl ClientOptions {
    /// The defaults: a deadline of 5 s, 2 s to connect, any cluster.
    #[must_use]
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(2),
            name: format!("beachdb-client {}", crate::VERSION),
            cluster: String::new(),
        }
    }
}

/// A value that was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// The value.
    pub value: Bytes,
    /// The sequence number of the operation that set it.
    pub seq: SequenceNumber,
    /// The last operation applied when it was read.
    pub applied: SequenceNumber,
}

/// A write that is durable and applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written {
    /// Its log entry.
    pub index: LogIndex,
    /// The sequence number of its first operation.
    pub first_seq: SequenceNumber,
    /// The sequence number of its last operation.
    pub last_seq: SequenceNumber,
}

/// A blocking client; see the [module](self).
#[derive(Debug)]
pub struct Client {
    options: ClientOptions,
    clock: OsClock,
    random: OsRandom,
    connection: Option<Connection>,
    route: Route,
    out: Vec<u8>,
    retries: u64,
}

/// How one attempt ended without an answer.
enum Attempt {
    /// The server cannot have taken the request.
    NotSent(String),
    /// The server may have taken the request.
    Lost(String),
    /// The server refused it and closes the connection.
    Refused(ErrorReply),
    /// Whoever is there does not speak the protocol.
    Protocol(String),
}

impl Client {
    /// Connects to one node with the default options.
    pub fn connect(endpoint: &str) -> Result<Self, ClientError> {
        Self::with_options(ClientOptions::new([endpoint]))
    }

    /// Connects to the first endpoint that answers; each is tried once.
    pub fn with_options(options: ClientOptions) -> Result<Self, ClientError> {
        let mut client = Self {
            route: Route::new(options.endpoints.clone()),
            options,
            clock: OsClock::new(),
            random: OsRandom::new(),
            connection: None,
            out: Vec::new(),
            retries: 0,
        };
        let deadline = client.deadline();
        match client.ensure_connected(deadline) {
            Ok(()) => Ok(client),
            Err(attempt) => Err(client.failure(attempt, Effect::None)),
        }
    }

    /// What the server said about itself when the connection was made; `None` after it broke.
    #[must_use]
    pub fn server(&self) -> Option<&HelloReply> {
        self.connection.as_ref().map(|c| &c.hello)
    }

    /// The endpoint in use, or the one to be tried next.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        if self.connection.is_some() { self.route.asked() } else { self.route.next() }
    }

    /// How many times a request was sent again so far.
    #[must_use]
    pub const fn retries(&self) -> u64 {
        self.retries
    }

    /// Changes the deadline of the calls from now on.
    pub const fn set_timeout(&mut self, timeout: Duration) {
        self.options.timeout = timeout;
    }

    /// Asks whether the connection and the server's loop are alive.
    pub fn ping(&mut self) -> Result<(), ClientError> {
        match self.call(&Request::Ping)? {
            Response::Pong => Ok(()),
            other => Err(self.unexpected(Opcode::Ping, &other)),
        }
    }

    /// Reads a key; `None` when it has no value.
    pub fn get(&mut self, key: &[u8]) -> Result<Option<Found>, ClientError> {
        self.get_at(key, SequenceNumber::ZERO)
    }

    /// Reads a key as of a snapshot (0 = now): the one of a scan, or the last sequence of a write.
    pub fn get_at(
        &mut self,
        key: &[u8],
        snapshot: SequenceNumber,
    ) -> Result<Option<Found>, ClientError> {
        check_key(key)?;
        match self.call(&Request::Get { key, snapshot })? {
            Response::Value { seq, applied, value } => Ok(Some(Found { value, seq, applied })),
            Response::NotFound { .. } => Ok(None),
            other => Err(self.unexpected(Opcode::Get, &other)),
        }
    }

    /// Reads a key as the node that is asked has it, however old, and says how old: for a node without a leader, or when
    /// any value will do. The client does not leave the node for it.
    pub fn get_stale(&mut self, key: &[u8]) -> Result<(Option<Found>, Staleness), ClientError> {
        check_key(key)?;
        let request = Request::StaleGet { key, snapshot: SequenceNumber::ZERO };
        match self.call(&request)? {
            Response::Stale { staleness, answer } => match *answer {
                Response::Value { seq, applied, value } => {
                    Ok((Some(Found { value, seq, applied }), staleness))
                }
                Response::NotFound { .. } => Ok((None, staleness)),
                other => Err(self.unexpected(Opcode::Get, &other)),
            },
            other => Err(self.unexpected(Opcode::Get, &other)),
        }
    }

    /// Sets a key. When this returns `Ok`, it is durable on a majority and applied.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<Written, ClientError> {
        let mut batch = WriteBatch::new();
        batch.put(key, value)?;
        self.write_as(Opcode::Put, &batch)
    }

    /// Deletes a key, there or not. When this returns `Ok`, it is durable on a majority and applied.
    pub fn delete(&mut self, key: &[u8]) -> Result<Written, ClientError> {
        let mut batch = WriteBatch::new();
        batch.delete(key)?;
        self.write_as(Opcode::Delete, &batch)
    }

    /// Applies a batch atomically. When this returns `Ok`, all of it is durable on a majority and applied; on an
    /// error [`ClientError::effect`] speaks for all of it.
    pub fn write(&mut self, batch: &WriteBatch) -> Result<Written, ClientError> {
        self.write_as(Opcode::Write, batch)
    }

    /// Sets a key if it is as expected; if not, nothing is written, and [`ClientError::failed_condition`] says what it has.
    /// [`Client::get`] tells the sequence number for [`Expect::Seq`]. A lost answer leaves open which of the two it was: a
    /// [`Session`] answers a retry alike.
    pub fn put_if(
        &mut self,
        key: &[u8],
        value: &[u8],
        expect: Expect,
    ) -> Result<Written, ClientError> {
        let mut batch = WriteBatch::new();
        batch.put(key, value)?;
        batch.require(key, expect)?;
        self.write_as(Opcode::Put, &batch)
    }

    /// Deletes a key if it is as expected; see [`Client::put_if`].
    pub fn delete_if(&mut self, key: &[u8], expect: Expect) -> Result<Written, ClientError> {
        let mut batch = WriteBatch::new();
        batch.delete(key)?;
        batch.require(key, expect)?;
        self.write_as(Opcode::Delete, &batch)
    }

    /// Reads several keys at one moment, at most [`MAX_MULTI_GET_KEYS`](crate::limits::MAX_MULTI_GET_KEYS).
    pub fn multi_get<'k>(
        &mut self,
        keys: impl IntoIterator<Item = &'k [u8]>,
    ) -> Result<MultiGetReply, ClientError> {
        self.multi_get_at(keys, SequenceNumber::ZERO)
    }

    /// Reads several keys as of a snapshot (0 = now), such as that of an earlier [`Client::multi_get`].
    pub fn multi_get_at<'k>(
        &mut self,
        keys: impl IntoIterator<Item = &'k [u8]>,
        snapshot: SequenceNumber,
    ) -> Result<MultiGetReply, ClientError> {
        let keys = KeyList::of(keys)?;
        match self.call(&Request::MultiGet(keys.as_request(snapshot)))? {
            Response::Values(reply) => Ok(reply),
            other => Err(self.unexpected(Opcode::MultiGet, &other)),
        }
    }

    fn write_as(&mut self, opcode: Opcode, batch: &WriteBatch) -> Result<Written, ClientError> {
        let batch = BatchRef::parse(batch.as_bytes())?;
        batch.check_user()?;
        match self.call(&Request::Write { opcode, batch })? {
            Response::Written { index, first_seq, last_seq } => {
                Ok(Written { index, first_seq, last_seq })
            }
            other => Err(self.unexpected(opcode, &other)),
        }
    }

    /// One page of a range or prefix; [`Client::scan`] asks for all pages.
    pub fn scan_page(&mut self, request: &ScanRequest<'_>) -> Result<ScanReply, ClientError> {
        match self.call(&Request::Scan(*request))? {
            Response::Scan(reply) => Ok(reply),
            other => Err(self.unexpected(Opcode::Scan, &other)),
        }
    }

    /// One page of a range or prefix as the node that is asked has it, and how old that is.
    pub fn scan_page_stale(
        &mut self,
        request: &ScanRequest<'_>,
    ) -> Result<(ScanReply, Staleness), ClientError> {
        match self.call(&Request::StaleScan(*request))? {
            Response::Stale { staleness, answer } => match *answer {
                Response::Scan(reply) => Ok((reply, staleness)),
                other => Err(self.unexpected(Opcode::Scan, &other)),
            },
            other => Err(self.unexpected(Opcode::Scan, &other)),
        }
    }

    /// The keys of a range or prefix, all at one moment, fetched page by page.
    pub fn scan(&mut self, options: ScanOptions) -> Scan<'_> {
        Scan::new(self, options)
    }

    /// The node's state: a JSON document.
    pub fn status(&mut self) -> Result<String, ClientError> {
        match self.call(&Request::Status)? {
            Response::Status(json) => Ok(json),
            other => Err(self.unexpected(Opcode::Status, &other)),
        }
    }

    /// The engine's figures: a JSON document.
    pub fn stats(&mut self) -> Result<String, ClientError> {
        match self.call(&Request::Stats)? {
            Response::Stats(json) => Ok(json),
            other => Err(self.unexpected(Opcode::Stats, &other)),
        }
    }

    /// Who belongs to the cluster, as far as the node that is asked knows: a JSON document.
    pub fn members(&mut self) -> Result<String, ClientError> {
        match self.call(&Request::Members)? {
            Response::Members(json) => Ok(json),
            other => Err(self.unexpected(Opcode::Members, &other)),
        }
    }

    /// Changes who belongs to the cluster, or who leads it; the leader is looked for as with a write. Tried again while
    /// it is refused as busy: another change is on its way, or a learner has not caught up. Returns the entry that made
    /// the change.
    pub fn admin(&mut self, request: &AdminRequest<'_>) -> Result<LogIndex, ClientError> {
        match self.call(&Request::Admin(*request))? {
            Response::Written { index, .. } => Ok(index),
            other => Err(self.unexpected(Opcode::Admin, &other)),
        }
    }

    /// Many writes in flight at once, at most `window` of them; see [`Pipeline`].
    pub fn pipeline(&mut self, window: usize) -> Pipeline<'_> {
        Pipeline::new(self, window)
    }

    /// Writes many batches with up to `window` in flight, and returns an outcome for each, in order. Batches that are
    /// taken are applied in this order; none is sent twice, and a refused one does not stop those behind it.
    pub fn write_many<'b>(
        &mut self,
        batches: impl IntoIterator<Item = &'b WriteBatch>,
        window: usize,
    ) -> Vec<Result<Written, ClientError>> {
        let mut outcomes = std::collections::BTreeMap::new();
        let mut next = 0u64;
        let mut pipeline = self.pipeline(window);
        for batch in batches {
            if pipeline.is_full()
                && let Some((ticket, outcome)) = pipeline.wait()
            {
                outcomes.insert(ticket, outcome);
            }
            match pipeline.submit(batch) {
                Ok(ticket) => next = ticket.0 + 1,
                Err(e) => {
                    outcomes.insert(Ticket(next), Err(e));
                    pipeline.skip_ticket();
                    next += 1;
                }
            }
        }
        while let Some((ticket, outcome)) = pipeline.wait() {
            outcomes.insert(ticket, outcome);
        }
        outcomes.into_values().collect()
    }

    /// Makes a request and waits for its answer, with the retries that are safe. An error reply becomes an `Err`.
    pub fn call(&mut self, request: &Request<'_>) -> Result<Response, ClientError> {
        let deadline = self.deadline();
        let mut backoff = FIRST_BACKOFF;
        loop {
            let until = match request.opcode().is_write() || self.route.len() < 2 {
                true => deadline,
                false => self.try_deadline(deadline),
            };
            let error = match self.try_once(request, until) {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            if !error.safe_to_retry() {
                return Err(error);
            }
            if until < deadline {
                self.move_on(&error);
            }
            if !self.back_off(&mut backoff, error.retry_after(), deadline) {
                return Err(error);
            }
        }
    }

    /// One try. An error reply becomes an `Err`.
    fn try_once(
        &mut self,
        request: &Request<'_>,
        deadline: Nanos,
    ) -> Result<Response, ClientError> {
        match self.attempt(request, deadline) {
            Ok(Response::Error(reply)) => {
                self.after_refusal(&reply);
                Err(self.refused(reply))
            }
            Ok(response) => {
                self.route.answered();
                Ok(response)
            }
            Err(attempt) => Err(self.failure(attempt, Effect::lost(request.opcode()))),
        }
    }

    /// Waits before the next try, at least `wait`, unless the leader was just named; `false` when the deadline leaves no
    /// time for one.
    fn back_off(&mut self, backoff: &mut Duration, wait: Duration, deadline: Nanos) -> bool {
        let pause_for = self.next_pause(backoff, wait);
        if pause_for >= left(&self.clock, deadline) {
            return false;
        }
        self.pause(pause_for);
        self.retries += 1;
        true
    }

    /// How long to wait before the next try; zero when there is somebody to go to at once.
    fn next_pause(&mut self, backoff: &mut Duration, wait: Duration) -> Duration {
        if self.route.take_at_once() {
            return Duration::ZERO;
        }
        let pause_for = wait.max(self.jitter(*backoff));
        *backoff = (*backoff * 2).min(LAST_BACKOFF);
        pause_for
    }

    fn pause(&mut self, pause_for: Duration) {
        if !pause_for.is_zero() {
            pause(pause_for);
            self.route.paused();
        }
    }

    /// When a try that begins now should be given up for another one.
    fn try_deadline(&self, deadline: Nanos) -> Nanos {
        let share = (self.options.timeout / TRIES_MIN).as_nanos();
        self.clock.now().plus(u64::try_from(share).unwrap_or(u64::MAX)).min(deadline)
    }

    /// After an error that another node might not give.
    fn move_on(&mut self, error: &ClientError) {
        if matches!(error.code(), Some(ErrorCode::Busy | ErrorCode::NoSpace)) {
            return;
        }
        // Without a connection the next one was chosen already.
        if self.connection.take().is_some() {
            self.route.rotate();
        }
    }

    fn attempt(&mut self, request: &Request<'_>, deadline: Nanos) -> Result<Response, Attempt> {
        if self.connection.as_mut().is_some_and(|c| c.is_stale(&self.clock)) {
            self.connection = None;
        }
        self.ensure_connected(deadline)?;
        let mut connection = self.connection.take().expect("connected above");
        self.out.clear();
        let id = connection
            .encode(&mut self.out, request, &self.clock, deadline)
            .and_then(|id| connection.send(&self.out, &self.clock, deadline).map(|()| id))
            .map_err(|e| Attempt::NotSent(e.to_string()))?;
        let reply = connection
            .receive(&self.clock, deadline)
            .and_then(|(header, body)| Ok((header, decode_reply(&header, &body)?)));
        match reply {
            Ok((header, response)) if header.request_id == id => {
                self.connection = Some(connection);
                Ok(response)
            }
            Ok((header, _)) => Err(Attempt::Protocol(format!(
                "request {id} was answered with a reply to request {}",
                header.request_id
            ))),
            Err(e) => {
                let attempt = e.into_attempt(id);
                if matches!(attempt, Attempt::Lost(_)) {
                    self.route.rotate();
                }
                Err(attempt)
            }
        }
    }

    fn ensure_connected(&mut self, deadline: Nanos) -> Result<(), Attempt> {
        if self.connection.is_some() {
            return Ok(());
        }
        let mut causes = Vec::new();
        for untried in (1..=self.route.len()).rev() {
            let endpoint = self.route.next().to_owned();
            self.route.asking();
            // One that does not answer leaves the others their share of the time.
            let share = left(&self.clock, deadline) / u32::try_from(untried).unwrap_or(u32::MAX);
            let until = self.clock.now().plus(share.as_nanos() as u64);
            match Connection::open(&endpoint, &self.options, &self.clock, until) {
                Ok(connection) => {
                    self.connection = Some(connection);
                    return Ok(());
                }
                // A fault that every attempt would meet again.
                Err(Broken::Closed(reply, _)) if !reply.code.retryable() => {
                    return Err(Attempt::Refused(reply));
                }
                Err(Broken::Protocol(cause)) => return Err(Attempt::Protocol(cause)),
                Err(e) => causes.push(format!("{endpoint}: {e}")),
            }
            self.route.rotate();
        }
        if causes.is_empty() {
            causes.push("no endpoint was given".to_owned());
        }
        Err(Attempt::NotSent(causes.join("; ")))
    }

    /// Where to go after a refusal, if not to the same node again.
    fn after_refusal(&mut self, reply: &ErrorReply) {
        if reply.code == ErrorCode::NotLeader {
            self.connection = None;
            self.route.redirected(&reply.leader);
        } else if reply.code == ErrorCode::ShuttingDown {
            self.connection = None;
            self.route.goes_away();
        } else if reply.code.closes_connection() {
            self.connection = None;
            self.route.redirected("");
        }
    }

    fn refused(&self, reply: ErrorReply) -> ClientError {
        let endpoint = self.route.asked().to_owned();
        match reply.effect {
            Effect::Unknown => {
                let code = Some(reply.code);
                ClientError::Unknown { endpoint, cause: reply.to_string(), code }
            }
            _ => ClientError::Refused { endpoint, reply },
        }
    }

    /// The error for an attempt without an answer; `lost` is the effect of the request when it may have been taken.
    fn failure(&mut self, attempt: Attempt, lost: Effect) -> ClientError {
        let endpoint = self.route.asked().to_owned();
        match attempt {
            Attempt::NotSent(cause) => ClientError::NotSent { cause },
            Attempt::Refused(reply) => {
                self.after_refusal(&reply);
                // The refusal of a connection says "not applied" of whatever was sent; a read has nothing to apply.
                let effect = if lost == Effect::None { Effect::None } else { reply.effect };
                ClientError::Refused { endpoint, reply: ErrorReply { effect, ..reply } }
            }
            Attempt::Protocol(cause) => ClientError::Protocol { endpoint, cause, effect: lost },
            Attempt::Lost(cause) => match lost {
                Effect::Unknown => ClientError::Unknown { endpoint, cause, code: None },
                _ => ClientError::NoAnswer { endpoint, cause },
            },
        }
    }

    fn unexpected(&mut self, opcode: Opcode, found: &Response) -> ClientError {
        self.connection = None;
        ClientError::Protocol {
            endpoint: self.route.asked().to_owned(),
            cause: format!("{} was answered with {found:?}", opcode.name()),
            effect: Effect::lost(opcode),
        }
    }

    fn deadline(&self) -> Nanos {
        self.clock.now().plus(u64::try_from(self.options.timeout.as_nanos()).unwrap_or(u64::MAX))
    }

    /// Between half and all of `backoff`, so that clients that failed together do not come back together.
    fn jitter(&mut self, backoff: Duration) -> Duration {
        let half = (backoff / 2).as_nanos() as u64;
        Duration::from_nanos(half + self.random.next_u64() % half.max(1))
    }
}

impl Broken {
    /// What it means for request `id`, which was sent completely.
    fn into_attempt(self, id: u64) -> Attempt {
        match self {
            Self::Io(cause) => Attempt::Lost(cause),
            Self::Protocol(cause) => Attempt::Protocol(cause),
            // The server closes before it took a frame: because of this one, or while it waited for one. One that stops
            // has answered everything that it took before it says so.
            Self::Closed(reply, about)
                if about == id
                    || matches!(
                        reply.code,
                        ErrorCode::TooManyConnections
                            | ErrorCode::ShuttingDown
                            | ErrorCode::IdleTimeout
                            | ErrorCode::SlowFrame
                    ) =>
            {
                Attempt::Refused(reply)
            }
            Self::Closed(reply, _) => Attempt::Lost(reply.to_string()),
        }
    }
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(cause) => f.write_str(cause),
            Self::Closed(reply, _) => reply.fmt(f),
            Self::Protocol(cause) => write!(f, "not this protocol: {cause}"),
        }
    }
}

fn check_key(key: &[u8]) -> Result<(), BatchError> {
    match key.len() {
        0 => Err(BatchError::EmptyKey),
        len if len > MAX_KEY_BYTES => Err(BatchError::KeyTooLarge { len: len as u64 }),
        _ => Ok(()),
    }
}
