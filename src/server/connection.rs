//! One client connection as a state machine: bytes in, requests out; responses in, bytes out. It has no socket.
//!
//! ```text
//!            ┌─ first byte 00 ──────▶ binary: frames, pipelined, answered by request id ─┐
//!  undecided ┼─ a text line ────────▶ inline: one command at a time, answered in order ──┼─▶ closing ─▶ finished
//!            └─ TLS, HTTP, noise ───▶ told what this port speaks ───────────────────────┘
//! ```
//!
//! Invariants:
//! - `pending` holds the bytes that are not yet parsed: less than one frame, or what had arrived when the connection
//!   was paused. A frame's length is checked against the limit before `pending` grows for it.
//! - *Paused* means that no further request is taken: too many are in flight for the size of their replies, too many reply bytes are unsent, or an
//!   inline command has no answer yet. Pausing never drops bytes; the server stops reading and TCP does the rest.
//! - Every request handed to the [`Sink`] gets exactly one [`Connection::reply`], or the connection goes away.
//! - *Closing* takes no more input; what is in flight is still answered and sent before the connection is finished.
//! - *Goodbye*: when the server stops, the last frame of a connection is the error `SHUTTING_DOWN` about no request in particular. All that
//!   was taken is answered before it, so a client knows that the rest was not, and sends it elsewhere.
//!
//! What it does not do: admit requests (the node does) and read clocks (the loop brings the time).

use super::in_flight::InFlight;
use super::output::Output;
use crate::base::Nanos;
use crate::limits::{
    CONNECTION_OUTPUT_SOFT_BYTES, DEFAULT_DEADLINE_MS, MAX_CONNECTION_IN_FLIGHT, MAX_DEADLINE_MS,
    MAX_INLINE_BYTES,
};
use crate::proto::frame::{self, CrcPolicy, Decoded, FrameHeader};
use crate::proto::inline::{self, InlineCommand};
use crate::proto::response::encode_connection_error;
use crate::proto::{
    Effect, ErrorCode, ErrorReply, Opcode, Request, RequestError, Response, Wire, classify,
};

/// A half-received frame at least this large may be skipped when the server is short of input memory.
const SKIP_FROM_BYTES: usize = 64 << 10;
/// Requests that a fresh connection may have in flight: the replies to so few fit in the output, however large.
const FIRST_WINDOW: usize = 4;
/// An inline command's id; there is only ever one of them in flight.
const INLINE_ID: u64 = 0;

/// A request on its way to the node.
#[derive(Debug)]
pub struct Incoming<'a> {
    /// The client's id for it.
    pub request_id: u64,
    /// What it asks.
    pub request: Request<'a>,
    /// When its client stops waiting.
    pub deadline: Nanos,
    /// Bytes it took on the wire.
    pub bytes: usize,
}

/// Takes the requests of a connection.
pub trait Sink {
    /// One complete, well-formed request.
    fn request(&mut self, incoming: Incoming<'_>);
}

/// Times after which a silent connection is given up, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Nothing in flight and no byte in either direction.
    pub idle: u64,
    /// From the first byte of a request to its last, and between two moments at which the client takes reply bytes.
    pub frame: u64,
}

/// What [`Connection::check_time`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Patience {
    /// All is well.
    Fine,
    /// The client was told why; send that and close.
    Told,
    /// The client does not read, so there is nobody to tell; close.
    Deaf,
}

/// The state of one connection.
#[derive(Debug)]
pub struct Connection {
    crc: CrcPolicy,
    wire: Wire,
    pending: Vec<u8>,
    /// `pending` is not worth parsing before it has this many bytes.
    need: usize,
    /// Bytes of a refused frame that are still to come and are dropped.
    skip: usize,
    /// Parsing stopped because bytes were missing, not because of a pause.
    starved: bool,
    in_flight: InFlight,
    /// Most requests in flight, as far as this client has earned it: one more with every reply.
    window: usize,
    /// The largest reply lately.
    large_reply: usize,
    output: Output,
    input_ended: bool,
    closing: bool,
    /// The server stops: when everything taken is answered, the client is told that nothing else was.
    leaving: bool,
    /// When the first byte of the incomplete request came.
    partial_since: Option<Nanos>,
    /// The last byte in, or the last request answered.
    active_at: Nanos,
    /// When the client last took reply bytes, or the oldest unsent ones came.
    taken_at: Nanos,
}

impl Connection {
    /// A fresh one. `loopback`: the peer is on this machine and may leave checksums out.
    pub fn new(now: Nanos, loopback: bool) -> Self {
        Self {
            crc: if loopback { CrcPolicy::OptionalOnLoopback } else { CrcPolicy::Required },
            wire: Wire::Empty,
            pending: Vec::new(),
            need: 0,
            skip: 0,
            starved: true,
            in_flight: InFlight::default(),
            window: FIRST_WINDOW,
            large_reply: 0,
            output: Output::default(),
            input_ended: false,
            closing: false,
            leaving: false,
            partial_since: None,
            active_at: now,
            taken_at: now,
        }
    }

    /// Bytes came in.
    pub fn receive(&mut self, now: Nanos, fresh: &[u8], sink: &mut impl Sink) {
        self.active_at = now;
        if self.pending.is_empty() {
            let used = self.parse(now, fresh, sink);
            self.keep(&fresh[used..]);
        } else {
            self.keep(fresh);
            self.resume(now, sink);
        }
        self.watch_partial(now);
    }

    /// Goes on with the bytes that are there already, after a pause.
    pub fn resume(&mut self, now: Nanos, sink: &mut impl Sink) {
        if self.pending.len() < self.need && !self.input_ended {
            self.starved = true;
            return;
        }
        let pending = std::mem::take(&mut self.pending);
        let used = self.parse(now, &pending, sink);
        self.pending = pending;
        if used == self.pending.len() {
            self.pending = Vec::new();
        } else if used > 0 {
            self.pending.drain(..used);
            self.partial_since = None;
        }
        self.watch_partial(now);
    }

    /// The client will send no more. What it sent is still answered.
    pub fn end_input(&mut self, now: Nanos, sink: &mut impl Sink) {
        self.input_ended = true;
        self.resume(now, sink);
    }

    /// The answer to a request that was given to the sink.
    pub fn reply(&mut self, now: Nanos, opcode: Opcode, request_id: u64, response: &Response) {
        if !self.in_flight.remove(request_id) {
            log::error!("a second answer to request {request_id} was dropped (a bug of the node)");
            return;
        }
        self.active_at = now;
        if let Response::Error(error) = response {
            self.closing |= error.code.closes_connection();
            self.leaving |= error.code == ErrorCode::ShuttingDown;
        }
        let (text, before) = (self.speaks_text(), self.output.len());
        self.say(now, |out| match text {
            true => inline::render_into(out, response),
            false => response.encode(out, opcode.byte(), request_id),
        });
        let size = self.output.len() - before;
        self.large_reply = size.max(self.large_reply - self.large_reply / 16);
        self.window = (self.window + 1).min(MAX_CONNECTION_IN_FLIGHT);
        self.end_leaving(now);
    }

    /// Tells the client why the connection ends, and takes no more input.
    pub fn refuse(&mut self, now: Nanos, error: &ErrorReply) {
        self.refuse_frame(now, 0, error);
    }

    /// The server has answered all that it will. Takes no more input, and tells the client that whatever of its requests has no
    /// answer was not taken: those that lie here in part or behind a pause, those on their way, and those that came to the
    /// node after its end.
    pub fn say_goodbye(&mut self, now: Nanos) {
        if self.closing && !self.leaving {
            // It has been told already why the connection ends.
            return self.close_gently();
        }
        self.in_flight = InFlight::default();
        self.leaving = true;
        self.end_leaving(now);
        self.close_gently();
    }

    /// The goodbye, once everything that was taken is answered. A text client, which has one command in flight, reads it in the
    /// answer to that.
    fn end_leaving(&mut self, now: Nanos) {
        if !self.leaving || !self.in_flight.is_empty() {
            return;
        }
        self.leaving = false;
        if self.speaks_text() && self.closing {
            return;
        }
        let message = "the server shuts down; requests without an answer were not taken";
        let error = ErrorReply::new(ErrorCode::ShuttingDown, Effect::NotApplied, message);
        self.refuse(now, &error);
    }

    /// Takes no more input; finished when everything in flight is answered and sent.
    pub fn close_gently(&mut self) {
        self.closing = true;
        self.pending = Vec::new();
    }

    /// Half-received bytes that are held.
    pub fn held_bytes(&self) -> usize {
        self.pending.len()
    }

    /// Unsent replies.
    pub fn output(&self) -> &Output {
        &self.output
    }

    /// Unsent replies, to send them. The caller says afterwards that bytes were taken: [`Connection::taken`].
    pub fn output_mut(&mut self) -> &mut Output {
        &mut self.output
    }

    /// The client took reply bytes.
    pub fn taken(&mut self, now: Nanos) {
        self.taken_at = now;
        self.active_at = now;
    }

    /// More bytes from the socket are welcome.
    pub fn wants_bytes(&self) -> bool {
        self.starved && !self.closing && !self.input_ended && !self.paused()
    }

    /// There may be a complete request in what was received, and it may be taken.
    pub fn can_resume(&self) -> bool {
        !self.starved && !self.closing && !self.paused()
    }

    /// Nothing more will come out of this connection.
    pub fn finished(&self) -> bool {
        (self.closing || (self.input_ended && self.starved))
            && self.in_flight.is_empty()
            && self.output.is_empty()
    }

    /// The client's end of the stream was seen.
    pub fn input_ended(&self) -> bool {
        self.input_ended
    }

    /// Gives up on a client that is silent or deaf for too long, and gives back memory while it idles.
    pub fn check_time(&mut self, now: Nanos, timeouts: Timeouts) -> Patience {
        if !self.output.is_empty() {
            return if now.since(self.taken_at) > timeouts.frame {
                Patience::Deaf
            } else {
                Patience::Fine
            };
        }
        let (code, what) = match self.partial_since {
            Some(since) if now.since(since) > timeouts.frame => {
                (ErrorCode::SlowFrame, "a request was begun and not completed in time")
            }
            None if self.in_flight.is_empty() && now.since(self.active_at) > timeouts.idle => {
                (ErrorCode::IdleTimeout, "nothing was sent for too long")
            }
            _ => {
                self.trim();
                return Patience::Fine;
            }
        };
        if self.closing {
            return Patience::Deaf;
        }
        self.refuse(now, &ErrorReply::new(code, Effect::NotApplied, what));
        Patience::Told
    }

    /// Drops a large half-received frame: answers it `BUSY` now and skips the rest of it as it comes. The way out when
    /// all connections together hold too many input bytes. False when there is no such frame.
    pub fn skip_partial_frame(&mut self, now: Nanos) -> bool {
        let large = self.wire == Wire::Binary && self.starved && self.need >= SKIP_FROM_BYTES;
        let Some(head) = self.pending.first_chunk().filter(|_| large) else { return false };
        let header = frame::parse_header(head);
        self.skip = self.need - self.pending.len();
        self.need = 0;
        self.pending = Vec::new();
        let effect = Opcode::from_u8(header.opcode).map_or(Effect::NotApplied, Effect::refused);
        let message = "the server holds too many half-received requests";
        let mut error = ErrorReply::new(ErrorCode::Busy, effect, message);
        error.retry_after_ms = 1_000;
        self.answer_frame(now, &header, error);
        true
    }

    fn paused(&self) -> bool {
        let most = if self.speaks_text() { 1 } else { self.most_in_flight() };
        self.in_flight.len() >= most || self.output.len() >= CONNECTION_OUTPUT_SOFT_BYTES
    }

    /// As many requests as have replies that fit in the output together, judged by the last ones; so a client that asks
    /// for large values faster than it takes them waits, and is not closed.
    fn most_in_flight(&self) -> usize {
        let fitting = CONNECTION_OUTPUT_SOFT_BYTES / self.large_reply.max(1);
        self.window.min(fitting).max(1)
    }

    fn speaks_text(&self) -> bool {
        match self.wire {
            Wire::Binary => false,
            Wire::Empty => matches!(classify(&self.pending), Wire::Inline),
            _ => true,
        }
    }

    fn keep(&mut self, rest: &[u8]) {
        if self.closing || rest.is_empty() {
            return;
        }
        // Grow as bytes come, and never past the frame that is being collected.
        if self.pending.capacity() - self.pending.len() < rest.len() {
            let wanted = self.pending.len() + rest.len();
            let target = (2 * wanted).min(self.need).max(wanted);
            self.pending.reserve_exact(target - self.pending.len());
        }
        self.pending.extend_from_slice(rest);
    }

    fn watch_partial(&mut self, now: Nanos) {
        let partial = self.starved && (!self.pending.is_empty() || self.skip > 0);
        match (partial, self.partial_since) {
            (true, None) => self.partial_since = Some(now),
            (false, Some(_)) => self.partial_since = None,
            _ => {}
        }
    }

    fn trim(&mut self) {
        self.output.trim();
        self.in_flight.trim();
        if self.pending.is_empty() {
            self.pending = Vec::new();
        }
    }

    /// Takes requests from `input` until it is exhausted or the connection pauses; returns the bytes used.
    fn parse(&mut self, now: Nanos, input: &[u8], sink: &mut impl Sink) -> usize {
        let mut used = 0;
        self.starved = false;
        self.need = 0;
        while !self.closing && !self.paused() {
            let rest = &input[used..];
            let step = match self.wire {
                _ if self.skip > 0 => self.skip_bytes(rest),
                Wire::Binary => self.take_frame(now, rest, sink),
                _ => self.take_line(now, rest, sink),
            };
            match step {
                Some(n) => used += n,
                None => {
                    self.starved = true;
                    break;
                }
            }
        }
        if self.closing { input.len() } else { used }
    }

    fn skip_bytes(&mut self, rest: &[u8]) -> Option<usize> {
        let n = self.skip.min(rest.len());
        self.skip -= n;
        (n > 0).then_some(n)
    }

    fn take_frame(&mut self, now: Nanos, rest: &[u8], sink: &mut impl Sink) -> Option<usize> {
        match frame::decode(rest, self.crc) {
            Ok(Decoded::Frame { header, body, consumed }) => {
                self.take_request(now, &header, body, sink);
                Some(consumed)
            }
            Ok(Decoded::Incomplete { need }) => {
                self.need = need;
                None
            }
            Err(e) => {
                self.refuse_frame(now, e.request_id(), &e.reply());
                Some(rest.len())
            }
        }
    }

    fn take_request(
        &mut self,
        now: Nanos,
        header: &FrameHeader,
        body: &[u8],
        sink: &mut impl Sink,
    ) {
        let request = match Request::decode_frame(header, body) {
            Ok(request) => request,
            // A peer understands refusals of the connection, not replies to requests.
            Err(e @ RequestError::PeerFrame { .. }) => {
                return self.refuse_frame(now, header.request_id, &e.reply());
            }
            Err(e) => return self.answer_frame(now, header, e.reply()),
        };
        if !self.in_flight.insert(header.request_id) {
            let message =
                format!("request id {} is in flight on this connection", header.request_id);
            let effect = Effect::refused(request.opcode());
            let error = ErrorReply::new(ErrorCode::DuplicateRequestId, effect, message);
            return self.answer_frame(now, header, error);
        }
        sink.request(Incoming {
            request_id: header.request_id,
            request,
            deadline: deadline(now, header.word),
            bytes: header.length as usize,
        });
    }

    /// Takes a text line, or decides what the first bytes of the connection are.
    fn take_line(&mut self, now: Nanos, rest: &[u8], sink: &mut impl Sink) -> Option<usize> {
        if self.wire == Wire::Empty {
            let wire = classify(rest);
            match wire {
                Wire::Empty => return None,
                Wire::Binary => {
                    self.wire = Wire::Binary;
                    return Some(0);
                }
                _ => {}
            }
            if let Some(refusal) = wire.refusal() {
                log::debug!("a client spoke {wire:?} on the client port");
                self.wire = wire;
                self.closing = true;
                self.say(now, |out| out.extend_from_slice(&refusal));
                return Some(rest.len());
            }
        }
        let end = rest.iter().position(|b| *b == b'\n').map(|at| at + 1);
        let line = match end {
            Some(end) => &rest[..end],
            None if rest.len() > MAX_INLINE_BYTES => rest,
            // A last line without a line end is a line.
            None if self.input_ended && !rest.is_empty() => rest,
            None => return None,
        };
        self.wire = Wire::Inline;
        if line.len() > MAX_INLINE_BYTES {
            let message = format!("a text line is at most {MAX_INLINE_BYTES} bytes");
            let error = ErrorReply::new(ErrorCode::FrameTooLarge, Effect::NotApplied, message);
            self.refuse(now, &error);
        } else {
            self.take_command(now, line, sink);
        }
        Some(line.len())
    }

    fn take_command(&mut self, now: Nanos, line: &[u8], sink: &mut impl Sink) {
        match inline::parse(line) {
            Ok(InlineCommand::Empty) => {}
            Ok(InlineCommand::Help) => self.say(now, |out| out.extend(inline::HELP.bytes())),
            Ok(InlineCommand::Quit) => {
                self.say(now, |out| out.extend(inline::BYE.bytes()));
                self.close_gently();
            }
            Ok(InlineCommand::Request(request)) => {
                self.in_flight.insert(INLINE_ID);
                sink.request(Incoming {
                    request_id: INLINE_ID,
                    request: request.as_request(),
                    deadline: deadline(now, 0),
                    bytes: line.len(),
                });
            }
            Err(e) => self.say(now, |out| inline::render_into(out, &Response::Error(e.reply()))),
        }
    }

    /// Answers a frame without asking the node.
    fn answer_frame(&mut self, now: Nanos, header: &FrameHeader, error: ErrorReply) {
        self.closing |= error.code.closes_connection();
        let (opcode, id) = (header.opcode, header.request_id);
        self.say(now, |out| Response::Error(error).encode(out, opcode, id));
    }

    /// Tells the client why the connection ends, in answer to the frame `request_id` (0 = to none).
    fn refuse_frame(&mut self, now: Nanos, request_id: u64, error: &ErrorReply) {
        let text = self.speaks_text();
        self.say(now, |out| match text {
            true => inline::render_into(out, &Response::Error(error.clone())),
            false => encode_connection_error(out, request_id, error),
        });
        self.close_gently();
    }

    fn say(&mut self, now: Nanos, encode: impl FnOnce(&mut Vec<u8>)) {
        if self.output.is_empty() {
            self.taken_at = now;
        }
        self.output.append(encode);
    }
}

fn deadline(now: Nanos, ms: u32) -> Nanos {
    let ms = match u64::from(ms) {
        0 => DEFAULT_DEADLINE_MS,
        ms => ms.min(MAX_DEADLINE_MS),
    };
    now.plus(ms * 1_000_000)
}

#[cfg(test)]
mod tests;
