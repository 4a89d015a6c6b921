//! L2: bytes <-> types of the client protocol, and of the one between nodes. No I/O, no clock, no state.
//!
//! | module | what |
//! |---|---|
//! | [`frame`] | the 24-byte header, length, CRC: where a frame begins and ends |
//! | [`request`] | frame bodies from the client: [`Request`] |
//! | [`response`] | frame bodies to the client: [`Response`] |
//! | [`peer`] | frames between nodes: [`peer::PeerFrame`] |
//! | [`body`] | bounds-checked reads of a body |
//! | [`error`] | the error table: [`ErrorCode`], [`Effect`], [`ErrorReply`] |
//! | [`multi_get`] | the bodies of MULTI_GET |
//! | [`inline`] | text commands typed into netcat, and their text replies |
//! | [`explain`] | frames in words and as JSON, for people and tests |
//! | [`text`] | tokens quoted with `\xNN` escapes |
//!
//! Normative: `proto-spec/client.md`, `proto-spec/peer.md`, and `proto-spec/errors.md`; worked frames: `proto-spec/vectors/`.
//!
//! ```text
//!  byte  0        4         5         6         8
//! row 0  length   version   opcode    flags            whole frame in bytes; 1; request's, or | 0x80
//! row 1  request id                                    chosen by the client, echoed in the reply
//! row 2  deadline ms | status         CRC32C           over the whole frame with this field zero
//! body   …
//! ```
//!
//! Invariants:
//! - A decoder never panics, never allocates, and never reads past the length it checked. Requests borrow from the
//!   receive buffer; replies are slices of it ([`bytes::Bytes`]).
//! - There is one spelling of every frame: reserved bits and padding are zero and checked. The exception is
//!   [`frame::FLAG_NO_CRC`], which the receiver must allow.
//! - A PUT, DELETE, or WRITE body *is* the batch that the log will hold ([`crate::base::batch`]).
//!
//! What it does not do: decide whether a request is admitted, correlate replies with requests, or keep snapshots.

pub mod body;
pub mod error;
pub mod explain;
pub mod frame;
pub mod inline;
pub mod multi_get;
pub mod peer;
pub mod request;
pub mod response;
pub mod text;

pub use body::BodyError;
pub use error::{ConditionFailed, Effect, ErrorCode, ErrorReply};
pub use frame::{Decoded, FrameError, FrameHeader};
pub use multi_get::{KeyList, MultiGetReply, MultiGetRequest};
pub use request::{AdminRequest, HelloRequest, Request, RequestError, ScanRange, ScanRequest};
pub use response::{
    HelloReply, Registered, Response, ResponseError, ScanEntry, ScanReply, Staleness,
};

/// The protocol version this code speaks.
pub const PROTOCOL_VERSION: u8 = 1;
/// Set in the opcode of every reply.
pub const REPLY_BIT: u8 = 0x80;
/// The opcode of a reply that answers no request in particular: the connection is about to be closed, and the
/// error says why. Its request id is 0.
pub const CONNECTION_OPCODE: u8 = 0;

/// What a request asks for. Its byte is the frame's opcode; the reply has [`REPLY_BIT`] added.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Opcode {
    /// Agree on a version; learn limits, node, and cluster.
    Hello = 1,
    /// Is the connection alive?
    Ping = 2,
    /// Read one key.
    Get = 3,
    /// Set one key.
    Put = 4,
    /// Delete one key.
    Delete = 5,
    /// Apply a batch atomically.
    Write = 6,
    /// Read a range or prefix in pages.
    Scan = 7,
    /// The node's state as JSON.
    Status = 8,
    /// The engine's figures as JSON.
    Stats = 9,
    /// Begin a session for exactly-once writes.
    Register = 10,
    /// Who belongs to the cluster, as JSON.
    Members = 11,
    /// Change who belongs to the cluster, or who leads.
    Admin = 12,
    /// Read several keys at one moment.
    MultiGet = 13,
}

impl Opcode {
    /// All of them, by number.
    pub const ALL: [Self; 13] = [
        Self::Hello,
        Self::Ping,
        Self::Get,
        Self::Put,
        Self::Delete,
        Self::Write,
        Self::Scan,
        Self::Status,
        Self::Stats,
        Self::Register,
        Self::Members,
        Self::Admin,
        Self::MultiGet,
    ];

    /// The opcode for a request's byte; `None` for one this version does not know (replies included).
    #[must_use]
    pub const fn from_u8(byte: u8) -> Option<Self> {
        match byte {
            1..=13 => Some(Self::ALL[byte as usize - 1]),
            _ => None,
        }
    }

    /// The byte in a request's frame.
    #[must_use]
    pub const fn byte(self) -> u8 {
        self as u8
    }

    /// The name in docs and messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hello => "HELLO",
            Self::Ping => "PING",
            Self::Get => "GET",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Write => "WRITE",
            Self::Scan => "SCAN",
            Self::Status => "STATUS",
            Self::Stats => "STATS",
            Self::Register => "REGISTER",
            Self::Members => "MEMBERS",
            Self::Admin => "ADMIN",
            Self::MultiGet => "MULTI_GET",
        }
    }

    /// Whether it goes through the log, so that its failure has an [`Effect`] to report.
    #[must_use]
    pub const fn is_write(self) -> bool {
        matches!(self, Self::Put | Self::Delete | Self::Write | Self::Register | Self::Admin)
    }
}

/// What kind of bytes a client sent, judged at the start of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wire {
    /// No byte yet.
    Empty,
    /// A binary frame ([`frame`]).
    Binary,
    /// A text command ([`inline`]), perhaps not yet complete: look for `\n`, up to
    /// [`crate::limits::MAX_INLINE_BYTES`].
    Inline,
    /// A TLS handshake. Answer with [`Wire::refusal`] and close.
    Tls,
    /// An HTTP request line. Answer with [`Wire::refusal`] and close.
    Http,
    /// Neither. Answer with [`Wire::refusal`] and close.
    Unknown,
}

/// Judges the bytes at the start of a message. A text line is told from HTTP only when it is complete, so ask
/// again with the whole line; until then it is [`Wire::Inline`].
#[must_use]
pub fn classify(input: &[u8]) -> Wire {
    match input.first() {
        None => Wire::Empty,
        Some(0x00) => Wire::Binary,
        Some(0x16) => Wire::Tls,
        Some(b' '..=b'~' | b'\t' | b'\r' | b'\n') => {
            // A request line is short; an inline command line may be long, so look at its end only.
            let line = input.iter().position(|&b| b == b'\n').map(|n| input[..n].trim_ascii_end());
            match line {
                Some(line) if is_http_request_line(line) => Wire::Http,
                _ => Wire::Inline,
            }
        }
        Some(_) => Wire::Unknown,
    }
}

fn is_http_request_line(line: &[u8]) -> bool {
    const VERSIONS: [&[u8]; 3] = [b" HTTP/1.0", b" HTTP/1.1", b" HTTP/2.0"];
    let Some(head) = VERSIONS.iter().find_map(|v| line.strip_suffix(*v)) else {
        return false;
    };
    // METHOD SP target, where a method is upper-case letters: "PUT k HTTP/1.1" has the same shape as an inline
    // PUT, so the target must look like one ("/…", "*", "http://…").
    let mut parts = head.splitn(2, |&b| b == b' ');
    let method = parts.next().unwrap_or_default();
    let target = parts.next().unwrap_or_default();
    !method.is_empty()
        && method.iter().all(u8::is_ascii_uppercase)
        && (target.starts_with(b"/") || target == b"*" || target.starts_with(b"http"))
        && !target.contains(&b' ')
}

impl Wire {
    /// What to send before closing the connection, in the words of the protocol the client spoke; `None` for what
    /// is not refused.
    #[must_use]
    pub fn refusal(self) -> Option<Vec<u8>> {
        const HELP: &str = "This is BeachDB's client port. It speaks binary frames (proto-spec/client.md) and text \
                            lines: try PING or HELP in netcat. HTTP (/healthz /readyz /status) has a port of its own, \
                            7402 by default.\n";
        match self {
            Self::Empty | Self::Binary | Self::Inline => None,
            // A fatal alert, protocol_version (RFC 8446 §6.2): TLS clients print it.
            Self::Tls => Some(vec![0x15, 0x03, 0x01, 0x00, 0x02, 0x02, 0x46]),
            Self::Http => Some(
                format!(
                    "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\
                     Connection: close\r\n\r\n{HELP}",
                    HELP.len()
                )
                .into_bytes(),
            ),
            Self::Unknown => Some(format!("ERR WRONG_PROTOCOL {HELP}").into_bytes()),
        }
    }
}

#[cfg(test)]
mod tests;
