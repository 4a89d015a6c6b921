//! Inline commands: one line of text each, typed into netcat, and one text reply each, in order.
//!
//! ```text
//! PING                          PONG
//! GET key                       VALUE value seq=N   |  NOT_FOUND
//! GET key STALE                 the same, and applied_index=N age_ms=N
//! MGET key…                     VALUE value seq=N  |  NOT_FOUND, a line for each key, then END count=N snapshot=N
//! PUT key value [IF…]           OK seq=N index=N
//! DEL key [IF…]                 OK seq=N index=N
//! DELRANGE start end            OK seq=N index=N
//! SCAN [start [end]] [LIMIT n] [REVERSE]
//!                               ENTRY key value seq=N …   then   END count=N snapshot=N [more=key]
//! STATUS | STATS | MEMBERS      a JSON document on one line
//! HELP                          what may be typed, then END
//! QUIT                          BYE, and the connection is closed
//! anything that fails           ERR CODE effect=… [retry_after_ms=N] message
//! ```
//!
//! `IF…` is a condition on the key: `IFABSENT`, `IFEXISTS`, or `IFSEQ n`, with the `seq` that GET showed. When it does not hold, the answer
//! is `ERR CONDITION_FAILED` with `present=N` (0: the key is absent).
//!
//! Commands and `LIMIT` may be in any case; tokens are as in [`super::text`]. A PUT becomes the same one-operation
//! batch that a binary PUT carries. Normative: `proto-spec/client.md`.

use super::Opcode;
use super::error::{Effect, ErrorCode, ErrorReply};
use super::multi_get::KeyList;
use super::request::{Request, ScanRange, ScanRequest};
use super::response::{Response, ScanReply};
use super::text::{self, TextError, Token};
use crate::base::SequenceNumber;
use crate::base::batch::{BatchError, BatchRef, RESERVED_KEY_PREFIX, WriteBatch};
use crate::base::conditions::Expect;
use crate::limits::{MAX_KEY_BYTES, MAX_MULTI_GET_KEYS, MAX_SCAN_ENTRIES};

/// Entries in a SCAN that names no LIMIT.
pub const DEFAULT_SCAN_LIMIT: u32 = 100;

/// A parsed line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum InlineCommand {
    /// To be answered by the node; see [`InlineRequest::as_request`].
    Request(InlineRequest),
    /// To be answered with [`HELP`].
    Help,
    /// To be answered with [`BYE`]; then close.
    Quit,
    /// An empty line: no answer.
    Empty,
}

/// A request that owns its bytes, because escapes are resolved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum InlineRequest {
    /// PING.
    Ping,
    /// GET.
    Get {
        /// The key.
        key: Vec<u8>,
    },
    /// GET key STALE.
    StaleGet {
        /// The key.
        key: Vec<u8>,
    },
    /// MGET.
    MultiGet(KeyList),
    /// PUT, DEL, or DELRANGE.
    Write {
        /// `Put`, `Delete`, or `Write`.
        opcode: Opcode,
        /// Exactly one operation.
        batch: WriteBatch,
    },
    /// SCAN.
    Scan {
        /// The first key; empty = the first of all.
        start: Vec<u8>,
        /// The first key past the range; empty = no end.
        end: Vec<u8>,
        /// Most entries.
        limit: u32,
        /// From the last key on.
        reverse: bool,
    },
    /// STATUS.
    Status,
    /// STATS.
    Stats,
    /// MEMBERS.
    Members,
}

/// What HELP answers.
pub const HELP: &str = "\
PING                          is anyone there?
GET key [STALE]               read a key; STALE: as this node has it, however old
MGET key...                   read several keys at one moment
PUT key value [IF...]         set a key; OK means durable
DEL key [IF...]               delete a key; IF... is IFABSENT, IFEXISTS, or IFSEQ n, the seq that GET shows
DELRANGE start end            delete all keys from start, up to and without end; \"\" is open
SCAN [start [end]] [LIMIT n] [REVERSE]
                              keys from start, up to and without end; 100 unless LIMIT says otherwise
STATUS                        the node, as JSON
STATS                         the engine, as JSON
MEMBERS                       the cluster, as JSON
QUIT                          close the connection
A token with spaces or bytes is \"quoted\", with \\xNN \\n \\r \\t \\\\ and \\\" in it.
END
";
/// What QUIT answers.
pub const BYE: &str = "BYE\n";

/// Why a line is not a command.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InlineError {
    /// Quotes or escapes.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The first word.
    #[error("unknown command {word}; try HELP")]
    UnknownCommand {
        /// The word, quoted and cut.
        word: String,
    },
    /// The wrong number of words.
    #[error("usage: {usage}")]
    Usage {
        /// How it is typed.
        usage: &'static str,
    },
    /// `LIMIT` without a good number.
    #[error("LIMIT takes a number from 1 to {MAX_SCAN_ENTRIES}")]
    BadLimit,
    /// The key or value.
    #[error(transparent)]
    Batch(#[from] BatchError),
}

impl InlineError {
    /// The reply; the connection goes on.
    #[must_use]
    pub fn reply(&self) -> ErrorReply {
        let code = match self {
            Self::Batch(e) => ErrorCode::of_batch(e),
            _ => ErrorCode::BadRequest,
        };
        ErrorReply::new(code, Effect::NotApplied, self.to_string())
    }
}

/// Parses one line, its `\n` or `\r\n` included or not.
pub fn parse(line: &[u8]) -> Result<InlineCommand, InlineError> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let tokens = text::tokens(line)?;
    let Some((command, args)) = tokens.split_first() else {
        return Ok(InlineCommand::Empty);
    };
    let no_args = |usage, request| match args {
        [] => Ok(request),
        _ => Err(InlineError::Usage { usage }),
    };
    let word = if command.quoted { Vec::new() } else { command.bytes.to_ascii_uppercase() };
    let request = match word.as_slice() {
        b"PING" => no_args("PING", InlineRequest::Ping)?,
        b"STATUS" => no_args("STATUS", InlineRequest::Status)?,
        b"STATS" => no_args("STATS", InlineRequest::Stats)?,
        b"MEMBERS" => no_args("MEMBERS", InlineRequest::Members)?,
        b"GET" => parse_get(args)?,
        b"MGET" => parse_mget(args)?,
        b"PUT" | b"SET" => parse_put(args)?,
        b"DEL" | b"DELETE" => parse_del(args)?,
        b"DELRANGE" => parse_del_range(args)?,
        b"SCAN" => parse_scan(args)?,
        b"HELP" => return Ok(InlineCommand::Help),
        b"QUIT" | b"EXIT" => return Ok(InlineCommand::Quit),
        _ => {
            let shown = &command.bytes[..command.bytes.len().min(32)];
            return Err(InlineError::UnknownCommand { word: text::quote(shown) });
        }
    };
    Ok(InlineCommand::Request(request))
}

fn parse_get(args: &[Token]) -> Result<InlineRequest, InlineError> {
    let (key, stale) = match args {
        [key] => (key, false),
        [key, word] if word.is_keyword("STALE") => (key, true),
        _ => return Err(InlineError::Usage { usage: "GET key [STALE]" }),
    };
    let len = key.bytes.len() as u64;
    match key.bytes.len() {
        0 => Err(BatchError::EmptyKey.into()),
        n if n > MAX_KEY_BYTES => Err(BatchError::KeyTooLarge { len }.into()),
        _ if key.bytes.starts_with(RESERVED_KEY_PREFIX) => Err(BatchError::ReservedKey.into()),
        _ if stale => Ok(InlineRequest::StaleGet { key: key.bytes.clone() }),
        _ => Ok(InlineRequest::Get { key: key.bytes.clone() }),
    }
}

fn parse_put(args: &[Token]) -> Result<InlineRequest, InlineError> {
    const USAGE: &str = "PUT key value [IFABSENT | IFEXISTS | IFSEQ n]";
    let [key, value, condition @ ..] = args else {
        return Err(InlineError::Usage { usage: USAGE });
    };
    let mut batch = WriteBatch::new();
    batch.put(&key.bytes, &value.bytes)?;
    add_condition(&mut batch, key, condition, USAGE)?;
    user_write(Opcode::Put, batch)
}

fn parse_del(args: &[Token]) -> Result<InlineRequest, InlineError> {
    const USAGE: &str = "DEL key [IFABSENT | IFEXISTS | IFSEQ n]";
    let [key, condition @ ..] = args else {
        return Err(InlineError::Usage { usage: USAGE });
    };
    let mut batch = WriteBatch::new();
    batch.delete(&key.bytes)?;
    add_condition(&mut batch, key, condition, USAGE)?;
    user_write(Opcode::Delete, batch)
}

/// The words behind a write: a condition on its key, or nothing.
fn add_condition(
    batch: &mut WriteBatch,
    key: &Token,
    words: &[Token],
    usage: &'static str,
) -> Result<(), InlineError> {
    let expect = match words {
        [] => return Ok(()),
        [word] if word.is_keyword("IFABSENT") => Expect::Absent,
        [word] if word.is_keyword("IFEXISTS") => Expect::Exists,
        [word, n] if word.is_keyword("IFSEQ") => {
            let seq = std::str::from_utf8(&n.bytes).ok().and_then(|n| n.parse::<u64>().ok());
            Expect::Seq(SequenceNumber(seq.ok_or(InlineError::Usage { usage })?))
        }
        _ => return Err(InlineError::Usage { usage }),
    };
    Ok(batch.require(&key.bytes, expect)?)
}

fn parse_mget(args: &[Token]) -> Result<InlineRequest, InlineError> {
    if args.is_empty() || args.len() > MAX_MULTI_GET_KEYS {
        return Err(InlineError::Usage { usage: "MGET key... (1 to 1024 keys)" });
    }
    Ok(InlineRequest::MultiGet(KeyList::of(args.iter().map(|key| &key.bytes[..]))?))
}

fn parse_del_range(args: &[Token]) -> Result<InlineRequest, InlineError> {
    let [start, end] = args else {
        return Err(InlineError::Usage { usage: "DELRANGE start end, each may be \"\" for open" });
    };
    let mut batch = WriteBatch::new();
    batch.delete_range(&start.bytes, &end.bytes)?;
    user_write(Opcode::Write, batch)
}

fn user_write(opcode: Opcode, batch: WriteBatch) -> Result<InlineRequest, InlineError> {
    BatchRef::parse(batch.as_bytes())?.check_user()?;
    Ok(InlineRequest::Write { opcode, batch })
}

fn parse_scan(args: &[Token]) -> Result<InlineRequest, InlineError> {
    let (args, reverse) = match args {
        [args @ .., word] if word.is_keyword("REVERSE") => (args, true),
        _ => (args, false),
    };
    let (range, limit) = match args {
        [range @ .., word, n] if word.is_keyword("LIMIT") => {
            let n = std::str::from_utf8(&n.bytes).ok().and_then(|n| n.parse::<u32>().ok());
            match n {
                Some(n) if (1..=MAX_SCAN_ENTRIES as u32).contains(&n) => (range, n),
                _ => return Err(InlineError::BadLimit),
            }
        }
        _ => (args, DEFAULT_SCAN_LIMIT),
    };
    let (start, end) = match range {
        [] => (Vec::new(), Vec::new()),
        [start] => (start.bytes.clone(), Vec::new()),
        [start, end] => (start.bytes.clone(), end.bytes.clone()),
        _ => return Err(InlineError::Usage { usage: "SCAN [start [end]] [LIMIT n] [REVERSE]" }),
    };
    for bound in [&start, &end] {
        if bound.len() > MAX_KEY_BYTES {
            return Err(BatchError::KeyTooLarge { len: bound.len() as u64 }.into());
        }
    }
    Ok(InlineRequest::Scan { start, end, limit, reverse })
}

impl InlineRequest {
    /// The same request as a frame would carry.
    #[must_use]
    pub fn as_request(&self) -> Request<'_> {
        match self {
            Self::Ping => Request::Ping,
            Self::Get { key } => Request::Get { key, snapshot: SequenceNumber::ZERO },
            Self::StaleGet { key } => Request::StaleGet { key, snapshot: SequenceNumber::ZERO },
            Self::MultiGet(keys) => Request::MultiGet(keys.as_request(SequenceNumber::ZERO)),
            Self::Write { opcode, batch } => Request::Write {
                opcode: *opcode,
                batch: BatchRef::parse(batch.as_bytes()).expect("a WriteBatch is a valid batch"),
            },
            Self::Scan { start, end, limit, reverse } => Request::Scan(ScanRequest {
                limit: *limit,
                reverse: *reverse,
                ..ScanRequest::new(ScanRange::Range { start, end })
            }),
            Self::Status => Request::Status,
            Self::Stats => Request::Stats,
            Self::Members => Request::Members,
        }
    }
}

/// The reply as text, its last line end included.
#[must_use]
pub fn render(response: &Response) -> Vec<u8> {
    let mut out = Vec::new();
    render_into(&mut out, response);
    out
}

/// Appends the reply as text to `out`.
pub fn render_into(out: &mut Vec<u8>, response: &Response) {
    render_line(out, response);
    out.push(b'\n');
}

/// The reply without its last line end.
fn render_line(out: &mut Vec<u8>, response: &Response) {
    match response {
        Response::Pong => out.extend_from_slice(b"PONG"),
        Response::Value { seq, value, .. } => {
            out.extend_from_slice(b"VALUE ");
            text::quote_into(out, value);
            out.extend_from_slice(format!(" seq={seq}").as_bytes());
        }
        Response::NotFound { .. } => out.extend_from_slice(b"NOT_FOUND"),
        Response::Written { index, last_seq, .. } => {
            out.extend_from_slice(format!("OK seq={last_seq} index={index}").as_bytes());
        }
        Response::Scan(scan) => render_scan(out, scan),
        Response::Values(reply) => {
            for found in &reply.values {
                match found {
                    Some((seq, value)) => {
                        out.extend_from_slice(b"VALUE ");
                        text::quote_into(out, value);
                        out.extend_from_slice(format!(" seq={seq}\n").as_bytes());
                    }
                    None => out.extend_from_slice(b"NOT_FOUND\n"),
                }
            }
            let (count, at) = (reply.values.len(), reply.at);
            out.extend_from_slice(format!("END count={count} snapshot={at}").as_bytes());
        }
        Response::Status(json) | Response::Stats(json) | Response::Members(json) => {
            // Raw line ends cannot occur inside a JSON string, so they are only layout.
            out.extend(json.bytes().map(|b| if matches!(b, b'\n' | b'\r') { b' ' } else { b }));
        }
        // No text command asks for it; a person has no retries to number.
        Response::Registered(session) => {
            out.extend_from_slice(format!("REGISTERED client_id={}", session.client_id).as_bytes());
        }
        Response::Hello(hello) => out.extend_from_slice(
            format!(
                "HELLO version={} node={} server={}",
                hello.version, hello.node_id, hello.server
            )
            .as_bytes(),
        ),
        Response::Stale { staleness, answer } => {
            render_line(out, answer);
            let age = staleness.age_ms.map_or_else(|| "never".to_owned(), |ms| ms.to_string());
            let index = staleness.applied_index;
            out.extend_from_slice(format!(" applied_index={index} age_ms={age}").as_bytes());
        }
        Response::Error(error) => render_error(out, error),
    }
}

fn render_scan(out: &mut Vec<u8>, scan: &ScanReply) {
    for entry in &scan.entries {
        out.extend_from_slice(b"ENTRY ");
        text::quote_into(out, &entry.key);
        if !scan.keys_only {
            out.push(b' ');
            text::quote_into(out, &entry.value);
        }
        out.extend_from_slice(format!(" seq={}\n", entry.seq).as_bytes());
    }
    let (count, snapshot) = (scan.entries.len(), scan.snapshot);
    out.extend_from_slice(format!("END count={count} snapshot={snapshot}").as_bytes());
    if let Some(resume) = &scan.resume {
        out.extend_from_slice(b" more=");
        text::quote_into(out, resume);
    }
}

fn render_error(out: &mut Vec<u8>, error: &ErrorReply) {
    out.extend_from_slice(format!("ERR {} effect={}", error.code, error.effect).as_bytes());
    if error.retry_after_ms > 0 {
        out.extend_from_slice(format!(" retry_after_ms={}", error.retry_after_ms).as_bytes());
    }
    if let Some(at) = &error.condition {
        let present = at.failed.present.unwrap_or(SequenceNumber::ZERO);
        let condition = at.failed.condition;
        out.extend_from_slice(format!(" condition={condition} present={present}").as_bytes());
    }
    out.push(b' ');
    // One reply is one line, whatever the message holds.
    let message = error.wire_message().bytes();
    out.extend(message.map(|b| if b.is_ascii_control() { b' ' } else { b }));
}
