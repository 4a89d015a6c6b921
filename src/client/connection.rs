//! One TCP connection: frames out, frames in, and nothing about retries.
//!
//! Invariant: after any error the connection is dropped by its owner; a stream in an unknown state is never reused.

use super::ClientOptions;
use crate::base::Nanos;
use crate::env::Clock;
use crate::env::os::OsClock;
use crate::proto::frame::{self, CrcPolicy, Decoded, FrameHeader};
use crate::proto::{
    CONNECTION_OPCODE, ErrorReply, HelloReply, HelloRequest, PROTOCOL_VERSION, REPLY_BIT, Request,
    Response,
};
use bytes::{Bytes, BytesMut};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// How much longer than the deadline the client listens: the server's own answer says what happened to the write.
const GRACE: Duration = Duration::from_millis(250);
const READ_CHUNK: usize = 16 << 10;
/// A connection unused for longer is checked for a close before a request is sent on it.
const CHECK_AFTER: Duration = Duration::from_millis(50);

/// Why there is no reply.
#[derive(Debug)]
pub(super) enum Broken {
    /// Input, output, or the deadline.
    Io(String),
    /// The server said why it closes the connection, and which frame made it so (0 = none in particular).
    Closed(ErrorReply, u64),
    /// The bytes are not frames.
    Protocol(String),
}

/// A connection that has said HELLO.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    input: BytesMut,
    next_id: u64,
    last_used: Nanos,
    pub hello: HelloReply,
}

impl Connection {
    /// Connects to the first address of `endpoint` that answers, and says HELLO.
    pub fn open(
        endpoint: &str,
        options: &ClientOptions,
        clock: &OsClock,
        deadline: Nanos,
    ) -> Result<Self, Broken> {
        let addresses = endpoint
            .to_socket_addrs()
            .map_err(|e| Broken::Io(format!("cannot resolve the address: {e}")))?;
        let mut cause = "the name has no address".to_owned();
        for address in addresses {
            let left = left(clock, deadline).min(options.connect_timeout);
            match TcpStream::connect_timeout(&address, left.max(Duration::from_millis(1))) {
                Ok(stream) => return Self::greet(stream, options, clock, deadline),
                Err(e) => cause = format!("connect: {e}"),
            }
        }
        Err(Broken::Io(cause))
    }

    fn greet(
        stream: TcpStream,
        options: &ClientOptions,
        clock: &OsClock,
        deadline: Nanos,
    ) -> Result<Self, Broken> {
        stream.set_nodelay(true).map_err(|e| Broken::Io(format!("TCP_NODELAY: {e}")))?;
        let placeholder = HelloReply::with_limits(crate::base::NodeId::ZERO, "", 0);
        let mut connection = Self {
            stream,
            input: BytesMut::new(),
            next_id: 1,
            last_used: clock.now(),
            hello: placeholder,
        };
        let hello = HelloRequest {
            min_version: PROTOCOL_VERSION,
            max_version: PROTOCOL_VERSION,
            name: &options.name,
            cluster: &options.cluster,
        };
        let mut out = Vec::new();
        let id = connection.encode(&mut out, &Request::Hello(hello), clock, deadline)?;
        connection.send(&out, clock, deadline)?;
        let (header, body) = connection.receive(clock, deadline)?;
        match decode_reply(&header, &body)? {
            Response::Hello(reply) if header.request_id == id => connection.hello = reply,
            Response::Error(reply) => return Err(Broken::Closed(reply, id)),
            other => return Err(Broken::Protocol(format!("HELLO was answered with {other:?}"))),
        }
        Ok(connection)
    }

    /// Appends a request to `out` and returns its id. The deadline on the wire is what is left of `deadline`.
    pub fn encode(
        &mut self,
        out: &mut Vec<u8>,
        request: &Request<'_>,
        clock: &OsClock,
        deadline: Nanos,
    ) -> Result<u64, Broken> {
        let id = self.next_id;
        let ms = left(clock, deadline).as_millis().clamp(1, u128::from(u32::MAX)) as u32;
        request.encode(out, id, ms).map_err(|e| Broken::Io(e.to_string()))?;
        self.next_id += 1;
        Ok(id)
    }

    /// Hands all of `bytes` to the kernel. On an error the last frame in them was not handed over completely, so the
    /// server cannot have taken it.
    pub fn send(&mut self, bytes: &[u8], clock: &OsClock, deadline: Nanos) -> Result<(), Broken> {
        self.last_used = clock.now();
        let timeout = left(clock, deadline) + GRACE;
        self.stream
            .set_write_timeout(Some(timeout))
            .and_then(|()| self.stream.write_all(bytes))
            .map_err(|e| Broken::Io(format!("send: {}", told(&e, timeout))))
    }

    /// The next frame, whatever request it answers.
    pub fn receive(
        &mut self,
        clock: &OsClock,
        deadline: Nanos,
    ) -> Result<(FrameHeader, Bytes), Broken> {
        loop {
            let need = match frame::decode(&self.input, CrcPolicy::Required) {
                Err(e) => return Err(Broken::Protocol(e.to_string())),
                Ok(Decoded::Frame { header, consumed, .. }) => {
                    let mut frame = self.input.split_to(consumed).freeze();
                    let body = frame.split_off(frame::HEADER_BYTES);
                    return Ok((header, body));
                }
                Ok(Decoded::Incomplete { need }) => need,
            };
            self.fill(need, clock, deadline)?;
        }
    }

    /// Whether a whole frame is in the buffer already.
    pub fn has_frame(&self) -> bool {
        !matches!(frame::decode(&self.input, CrcPolicy::Required), Ok(Decoded::Incomplete { .. }))
    }

    fn fill(&mut self, need: usize, clock: &OsClock, deadline: Nanos) -> Result<(), Broken> {
        let limit = deadline.plus(GRACE.as_nanos() as u64);
        let timeout = left(clock, limit);
        if timeout.is_zero() {
            return Err(Broken::Io("the deadline passed without an answer".into()));
        }
        let old = self.input.len();
        self.input.resize(need.max(old + READ_CHUNK), 0);
        let read = self
            .stream
            .set_read_timeout(Some(timeout))
            .and_then(|()| self.stream.read(&mut self.input[old..]));
        let got = *read.as_ref().unwrap_or(&0);
        self.input.truncate(old + got);
        match read {
            Ok(0) if old == 0 => Err(Broken::Io("the server closed the connection".into())),
            Ok(0) => Err(Broken::Io("the server closed the connection in mid-frame".into())),
            Ok(_) => Ok(()),
            Err(e) if e.kind() == ErrorKind::Interrupted => Ok(()),
            Err(e) => Err(Broken::Io(format!("receive: {}", told(&e, timeout)))),
        }
    }

    /// Whether the server has closed an idle connection. Nothing is in flight, so any byte is an error frame.
    pub fn is_stale(&mut self, clock: &OsClock) -> bool {
        if clock.now().since(self.last_used) < CHECK_AFTER.as_nanos() as u64 {
            return false;
        }
        if !self.input.is_empty() || self.stream.set_nonblocking(true).is_err() {
            return true;
        }
        let peeked = self.stream.peek(&mut [0]);
        let quiet = matches!(&peeked, Err(e) if e.kind() == ErrorKind::WouldBlock);
        !quiet || self.stream.set_nonblocking(false).is_err()
    }
}

/// Decodes a reply; an error about the connection is [`Broken::Closed`].
pub(super) fn decode_reply(header: &FrameHeader, body: &Bytes) -> Result<Response, Broken> {
    let response = Response::decode(header, body).map_err(|e| Broken::Protocol(e.to_string()))?;
    match response {
        Response::Error(reply) if header.opcode == CONNECTION_OPCODE | REPLY_BIT => {
            Err(Broken::Closed(reply, header.request_id))
        }
        other => Ok(other),
    }
}

/// What is left until `deadline`.
pub(super) fn left(clock: &OsClock, deadline: Nanos) -> Duration {
    Duration::from_nanos(deadline.since(clock.now()))
}

fn told(e: &std::io::Error, timeout: Duration) -> String {
    match e.kind() {
        // What a blocking socket with a timeout reports.
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            format!("no progress for {} ms", timeout.as_millis())
        }
        _ => e.to_string(),
    }
}
