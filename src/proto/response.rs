//! Reply bodies. Layouts and worked hex: `proto-spec/client.md`.
//!
//! | reply to | body |
//! |---|---|
//! | HELLO | 8 rows of versions, limits, times, node, text lengths; cluster; server |
//! | PING | empty |
//! | GET | key's sequence (8), 0 = not found; applied sequence (8); value |
//! | PUT, DELETE, WRITE, ADMIN | log index, first sequence, last sequence (8 each) |
//! | SCAN | snapshot, applied (8 each); count (4), flags, resume length (2 each); resume, padded; entries, padded |
//! | MULTI_GET | sequence (8); number of values, 0 (4 each); values: sequence (8), length, 0 (4 each), value, padded |
//! | STATUS, STATS, MEMBERS | a JSON document |
//! | REGISTER | client id, applied sequence (8 each); window, 0 (4 each) |
//! | GET, SCAN with flag STALE | applied index, age in ms or ffffffffffffffff = never (8 each); then as without the flag |
//! | any, status ≠ 0 | retry after ms (4), effect (1), 0 (1), length of the leader's address (2); leader's address; message |
//! | any, status 29 | as above, and before the message: log index, applied, the key's present sequence, 0 = absent (8 each); condition, 0 (4 each) |

use super::body::{BodyError, Reader, padding, put_padded, put_u64s};
use super::error::{ConditionFailed, Effect, ErrorCode, ErrorReply};
use super::frame::{self, FLAG_STALE, FrameHeader};
use super::multi_get::MultiGetReply;
use super::request::{MAX_BOUND_BYTES, MAX_NAME_BYTES};
use super::{CONNECTION_OPCODE, Opcode, REPLY_BIT};
use crate::base::conditions::FailedCondition;
use crate::base::{LogIndex, NodeId, SequenceNumber};
use crate::limits::MAX_ADDRESS_BYTES;
use bytes::Bytes;

const SCAN_FIXED_BYTES: usize = 24;
const ENTRY_FIXED_BYTES: usize = 16;
const HELLO_FIXED_BYTES: usize = 64;
const ERROR_FIXED_BYTES: usize = 8;
const STALE_FIXED_BYTES: usize = 16;
const CONDITION_FAILED_BYTES: usize = 32;
/// The age of a state that was never known to be fresh.
const NEVER: u64 = u64::MAX;
const SCAN_KEYS_ONLY: u16 = 0x0001;

/// A reply; bytes in it are slices of the receive buffer, or of the memtable or block they come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Response {
    /// To HELLO.
    Hello(HelloReply),
    /// To PING.
    Pong,
    /// To GET: the key has a value.
    Value {
        /// The sequence number of the operation that set it.
        seq: SequenceNumber,
        /// The last operation applied when it was read (the snapshot, when one was named).
        applied: SequenceNumber,
        /// The value.
        value: Bytes,
    },
    /// To GET: the key has no value.
    NotFound {
        /// The last operation applied when it was read (the snapshot, when one was named).
        applied: SequenceNumber,
    },
    /// To PUT, DELETE, WRITE: committed, applied, and durable on a majority. To ADMIN: done; a change of the members is an
    /// entry of the log, a transfer has none of its own and tells the last one applied.
    Written {
        /// The log entry that holds the batch.
        index: LogIndex,
        /// The sequence number of its first operation.
        first_seq: SequenceNumber,
        /// The sequence number of its last operation.
        last_seq: SequenceNumber,
    },
    /// To SCAN.
    Scan(ScanReply),
    /// To MULTI_GET.
    Values(MultiGetReply),
    /// To GET, MULTI_GET, and SCAN with flag STALE: the answer, and how old it is.
    Stale {
        /// How old.
        staleness: Staleness,
        /// A `Value`, `NotFound`, `Values`, or `Scan`.
        answer: Box<Response>,
    },
    /// To STATUS: a JSON document.
    Status(String),
    /// To STATS: a JSON document.
    Stats(String),
    /// To MEMBERS: a JSON document.
    Members(String),
    /// To REGISTER: the session has begun, durable on a majority.
    Registered(Registered),
    /// To anything.
    Error(ErrorReply),
}

/// How old the state is that a read saw.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Staleness {
    /// Every log entry up to this one is applied.
    pub applied_index: LogIndex,
    /// Milliseconds since the node last knew that it had applied everything that its leader had committed; `None`: it has not
    /// known that since it started.
    pub age_ms: Option<u64>,
}

/// A session that has begun.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Registered {
    /// The id to write under: the index of the log entry.
    pub client_id: u64,
    /// The last operation applied when it began.
    pub applied: SequenceNumber,
    /// Writes whose outcome the client may want at once: a sequence this far above *acked below* is refused.
    pub window: u32,
}

/// What the server says about itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HelloReply {
    /// The version to speak from here on.
    pub version: u8,
    /// The node that answers.
    pub node_id: NodeId,
    /// Largest frame, header included.
    pub max_frame_bytes: u32,
    /// Longest key.
    pub max_key_bytes: u32,
    /// Longest value.
    pub max_value_bytes: u32,
    /// Largest encoded batch.
    pub max_batch_bytes: u32,
    /// Most operations in a batch.
    pub max_batch_ops: u32,
    /// Most requests in flight on this connection; with more the server stops reading for a while.
    pub max_in_flight: u32,
    /// Most key and value bytes in a scan's page.
    pub max_scan_bytes: u32,
    /// The deadline of a request that names none.
    pub default_deadline_ms: u32,
    /// A longer deadline is cut to this.
    pub max_deadline_ms: u32,
    /// A connection silent for this long is closed; 0 = never.
    pub idle_timeout_ms: u32,
    /// A scan's snapshot not used for this long is released.
    pub snapshot_ttl_ms: u32,
    /// The cluster's id.
    pub cluster: String,
    /// The server's program and version, `beachd 0.1.0`.
    pub server: String,
}

impl HelloReply {
    /// The limits compiled in; `idle_timeout_ms` is a setting of the server.
    #[must_use]
    pub fn with_limits(node_id: NodeId, cluster: &str, idle_timeout_ms: u32) -> Self {
        use crate::limits as l;
        Self {
            version: super::PROTOCOL_VERSION,
            node_id,
            max_frame_bytes: l::MAX_FRAME_BYTES as u32,
            max_key_bytes: l::MAX_KEY_BYTES as u32,
            max_value_bytes: l::MAX_VALUE_BYTES as u32,
            max_batch_bytes: l::MAX_BATCH_BYTES as u32,
            max_batch_ops: l::MAX_BATCH_OPS as u32,
            max_in_flight: l::MAX_CONNECTION_IN_FLIGHT as u32,
            max_scan_bytes: l::MAX_SCAN_BYTES as u32,
            default_deadline_ms: l::DEFAULT_DEADLINE_MS as u32,
            max_deadline_ms: l::MAX_DEADLINE_MS as u32,
            idle_timeout_ms,
            snapshot_ttl_ms: l::WIRE_SNAPSHOT_TTL_MS as u32,
            cluster: cluster.to_owned(),
            server: format!("beachd {}", crate::VERSION),
        }
    }
}

/// One page of a scan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScanReply {
    /// The sequence number the page was read at; name it in the request for the next page.
    pub snapshot: SequenceNumber,
    /// The last operation applied when the page was read.
    pub applied: SequenceNumber,
    /// The values were left out, as asked.
    pub keys_only: bool,
    /// The entries, by key; of a reverse scan by descending key.
    pub entries: Vec<ScanEntry>,
    /// Where the next page begins: with this key or the next one there is, of a reverse scan with the one before it; `None` =
    /// the range is exhausted.
    pub resume: Option<Vec<u8>>,
}

/// One key of a scan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScanEntry {
    /// The key.
    pub key: Bytes,
    /// The sequence number of the operation that set it.
    pub seq: SequenceNumber,
    /// The value; empty when only keys were asked for.
    pub value: Bytes,
}

/// Why a frame is not a reply to the request.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("reply {opcode:#04x}: {source}")]
pub struct ResponseError {
    /// The opcode's byte.
    pub opcode: u8,
    /// What is wrong with its body.
    pub source: BodyError,
}

impl Response {
    /// Appends the reply as a frame to `out`. `opcode` is the request's byte (known or not), or
    /// [`CONNECTION_OPCODE`]. A reply that does not fit in a frame becomes an `INTERNAL` error, so that the client
    /// always gets an answer.
    pub fn encode(&self, out: &mut Vec<u8>, opcode: u8, request_id: u64) {
        let status = match self {
            Self::Error(error) => error.code.status(),
            _ => 0,
        };
        let flags = if matches!(self, Self::Stale { .. }) { FLAG_STALE } else { 0 };
        let open = frame::begin(out, opcode | REPLY_BIT, flags, request_id, status);
        self.encode_body(out);
        if let Err(too_large) = open.finish(out) {
            let effect = match self {
                Self::Written { .. } | Self::Registered(_) => Effect::Applied,
                Self::Error(error) => error.effect,
                _ => Effect::None,
            };
            let message = format!("the reply does not fit: {too_large}");
            Self::Error(ErrorReply::new(ErrorCode::Internal, effect, message))
                .encode(out, opcode, request_id);
        }
    }

    fn encode_body(&self, out: &mut Vec<u8>) {
        match self {
            Self::Pong => {}
            Self::Value { seq, applied, value } => {
                put_u64s(out, [seq.0, applied.0]);
                out.extend_from_slice(value);
            }
            Self::NotFound { applied } => put_u64s(out, [0, applied.0]),
            Self::Stale { staleness, answer } => {
                let age_ms = staleness.age_ms.unwrap_or(NEVER);
                put_u64s(out, [staleness.applied_index.0, age_ms]);
                answer.encode_body(out);
            }
            Self::Written { index, first_seq, last_seq } => {
                put_u64s(out, [index.0, first_seq.0, last_seq.0]);
            }
            Self::Registered(session) => {
                put_u64s(out, [session.client_id, session.applied.0]);
                out.extend_from_slice(&session.window.to_be_bytes());
                out.extend_from_slice(&[0; 4]);
            }
            Self::Scan(scan) => encode_scan(out, scan),
            Self::Values(values) => values.encode(out),
            Self::Hello(hello) => encode_hello(out, hello),
            Self::Status(json) | Self::Stats(json) | Self::Members(json) => {
                out.extend_from_slice(json.as_bytes())
            }
            Self::Error(error) => {
                out.extend_from_slice(&error.retry_after_ms.to_be_bytes());
                out.extend_from_slice(&[error.effect as u8, 0]);
                let leader = error.wire_leader();
                out.extend_from_slice(&(leader.len() as u16).to_be_bytes());
                out.extend_from_slice(leader.as_bytes());
                if error.code == ErrorCode::ConditionFailed {
                    let at = error.condition.as_deref().copied().unwrap_or_default();
                    encode_condition_failed(out, at);
                }
                out.extend_from_slice(error.wire_message().as_bytes());
            }
        }
    }

    /// Decodes a reply frame. Slices `body`, copies no value. A status this version does not know becomes
    /// [`ErrorCode::Internal`] with the number in the message, so that newer servers can be understood.
    pub fn decode(header: &FrameHeader, body: &Bytes) -> Result<Self, ResponseError> {
        Self::decode_body(header, body)
            .map_err(|source| ResponseError { opcode: header.opcode, source })
    }

    fn decode_body(header: &FrameHeader, body: &Bytes) -> Result<Self, BodyError> {
        let r = Reader { body };
        if header.flags & FLAG_STALE != 0 {
            return decode_stale(header, &r);
        }
        if header.word != 0 {
            return decode_error(&r, header.word).map(Self::Error);
        }
        let opcode = match header.opcode & REPLY_BIT {
            0 => None,
            _ => Opcode::from_u8(header.opcode & !REPLY_BIT),
        };
        match opcode {
            Some(Opcode::Ping) => r.len_is(0, "0").map(|()| Self::Pong),
            Some(Opcode::Get) => decode_get(&r),
            Some(Opcode::Put | Opcode::Delete | Opcode::Write | Opcode::Admin) => {
                decode_written(&r)
            }
            Some(Opcode::Scan) => decode_scan(&r).map(Self::Scan),
            Some(Opcode::MultiGet) => MultiGetReply::decode(&r).map(Self::Values),
            Some(Opcode::Hello) => decode_hello(&r).map(Self::Hello),
            Some(Opcode::Status) => r.text(0, body.len(), "document").map(Self::Status),
            Some(Opcode::Stats) => r.text(0, body.len(), "document").map(Self::Stats),
            Some(Opcode::Members) => r.text(0, body.len(), "document").map(Self::Members),
            Some(Opcode::Register) => decode_registered(&r).map(Self::Registered),
            None => Err(r.bad("opcode", 0, "a reply's", header.opcode.into())),
        }
    }
}

fn decode_stale(header: &FrameHeader, r: &Reader<'_>) -> Result<Response, BodyError> {
    let reads =
        [Opcode::Get, Opcode::MultiGet, Opcode::Scan].map(|opcode| opcode.byte() | REPLY_BIT);
    if header.word != 0 || !reads.contains(&header.opcode) {
        let expected = "flag STALE on an answer to GET, MULTI_GET, or SCAN only";
        return Err(r.bad("frame flags", 0, expected, header.flags.into()));
    }
    r.len_at_least(STALE_FIXED_BYTES, "at least 16 more with flag STALE")?;
    let (applied_index, age_ms) = (LogIndex(r.u64(0)), r.u64(8));
    let plain = FrameHeader { flags: header.flags & !FLAG_STALE, ..*header };
    let answer = Response::decode_body(&plain, &r.body.slice(STALE_FIXED_BYTES..));
    let answer = answer
        .map_err(|e| BodyError { offset: e.offset.saturating_add(STALE_FIXED_BYTES), ..e })?;
    let age_ms = (age_ms != NEVER).then_some(age_ms);
    Ok(Response::Stale { staleness: Staleness { applied_index, age_ms }, answer: Box::new(answer) })
}

/// Encodes an error that answers no request in particular; the connection is closed after it.
pub fn encode_connection_error(out: &mut Vec<u8>, request_id: u64, error: &ErrorReply) {
    Response::Error(error.clone()).encode(out, CONNECTION_OPCODE, request_id);
}

fn encode_scan(out: &mut Vec<u8>, scan: &ScanReply) {
    let resume = scan.resume.as_deref().unwrap_or_default();
    put_u64s(out, [scan.snapshot.0, scan.applied.0]);
    out.extend_from_slice(&(scan.entries.len() as u32).to_be_bytes());
    let flags = if scan.keys_only { SCAN_KEYS_ONLY } else { 0 };
    out.extend_from_slice(&flags.to_be_bytes());
    out.extend_from_slice(&(resume.len() as u16).to_be_bytes());
    put_padded(out, resume, resume.len());
    for entry in &scan.entries {
        out.extend_from_slice(&entry.seq.0.to_be_bytes());
        out.extend_from_slice(&(entry.key.len() as u32).to_be_bytes());
        out.extend_from_slice(&(entry.value.len() as u32).to_be_bytes());
        out.extend_from_slice(&entry.key);
        put_padded(out, &entry.value, entry.key.len() + entry.value.len());
    }
}

fn encode_hello(out: &mut Vec<u8>, h: &HelloReply) {
    out.extend_from_slice(&[h.version, 0, 0, 0]);
    for word in [
        h.max_frame_bytes,
        h.max_key_bytes,
        h.max_value_bytes,
        h.max_batch_bytes,
        h.max_batch_ops,
        h.max_in_flight,
        h.max_scan_bytes,
        h.default_deadline_ms,
        h.max_deadline_ms,
        h.idle_timeout_ms,
        h.snapshot_ttl_ms,
    ] {
        out.extend_from_slice(&word.to_be_bytes());
    }
    put_u64s(out, [h.node_id.0]);
    out.extend_from_slice(&(h.cluster.len() as u16).to_be_bytes());
    out.extend_from_slice(&(h.server.len() as u16).to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(h.cluster.as_bytes());
    out.extend_from_slice(h.server.as_bytes());
}

fn decode_get(r: &Reader<'_>) -> Result<Response, BodyError> {
    r.len_at_least(16, "at least 16")?;
    let (seq, applied) = (r.seq(0, "sequence")?, r.seq(8, "applied")?);
    if seq == SequenceNumber::ZERO {
        r.len_is(16, "16 when the key was not found")?;
        return Ok(Response::NotFound { applied });
    }
    Ok(Response::Value { seq, applied, value: r.body.slice(16..) })
}

fn decode_written(r: &Reader<'_>) -> Result<Response, BodyError> {
    r.len_is(24, "24")?;
    let (first_seq, last_seq) = (r.seq(8, "first sequence")?, r.seq(16, "last sequence")?);
    if last_seq < first_seq {
        return Err(r.bad("last sequence", 16, "at least the first", last_seq.0));
    }
    Ok(Response::Written { index: LogIndex(r.u64(0)), first_seq, last_seq })
}

fn decode_registered(r: &Reader<'_>) -> Result<Registered, BodyError> {
    r.len_is(24, "24")?;
    let (client_id, applied, window) = (r.u64(0), r.seq(8, "applied")?, r.u32(16));
    if client_id == 0 {
        return Err(r.bad("client id", 0, "not 0", 0));
    }
    if window == 0 {
        return Err(r.bad("window", 16, "not 0", 0));
    }
    r.zero(20, 4, "reserved")?;
    Ok(Registered { client_id, applied, window })
}

fn decode_error(r: &Reader<'_>, status: u32) -> Result<ErrorReply, BodyError> {
    r.len_at_least(ERROR_FIXED_BYTES, "at least 8")?;
    let Some(effect) = Effect::from_u8(r.body[4]) else {
        return Err(r.bad("effect", 4, "0 to 3", r.body[4].into()));
    };
    r.zero(5, 1, "reserved")?;
    let leader_len = usize::from(r.u16(6));
    if leader_len > MAX_ADDRESS_BYTES {
        return Err(r.bad("leader's address length", 6, "at most 260", leader_len as u64));
    }
    let message_at = ERROR_FIXED_BYTES + leader_len;
    r.len_at_least(message_at, "room for the leader's address")?;
    let address = &r.body[ERROR_FIXED_BYTES..message_at];
    if let Some(at) = address.iter().position(|byte| !byte.is_ascii_graphic()) {
        let found = address[at].into();
        return Err(r.bad("leader's address", ERROR_FIXED_BYTES + at, "printable ASCII", found));
    }
    let leader = r.text(ERROR_FIXED_BYTES, leader_len, "leader's address")?;
    let (condition, message_at) = match ErrorCode::from_u32(status) {
        Some(ErrorCode::ConditionFailed) => {
            let at = decode_condition_failed(r, message_at)?;
            (Some(Box::new(at)), message_at + CONDITION_FAILED_BYTES)
        }
        _ => (None, message_at),
    };
    let message = r.text(message_at, r.body.len() - message_at, "message")?;
    let (code, message) = match ErrorCode::from_u32(status) {
        Some(code) => (code, message),
        None => {
            (ErrorCode::Internal, format!("status {status}, unknown to this client: {message}"))
        }
    };
    Ok(ErrorReply { code, effect, retry_after_ms: r.u32(0), leader, condition, message })
}

fn encode_condition_failed(out: &mut Vec<u8>, at: ConditionFailed) {
    let FailedCondition { condition, present } = at.failed;
    put_u64s(out, [at.index.0, at.applied.0, present.unwrap_or(SequenceNumber::ZERO).0]);
    out.extend_from_slice(&condition.to_be_bytes());
    out.extend_from_slice(&[0; 4]);
}

fn decode_condition_failed(r: &Reader<'_>, at: usize) -> Result<ConditionFailed, BodyError> {
    r.len_at_least(at + CONDITION_FAILED_BYTES, "room for the condition that failed")?;
    let (applied, present) = (r.seq(at + 8, "applied")?, r.seq(at + 16, "present sequence")?);
    r.zero(at + 28, 4, "reserved")?;
    let present = (present != SequenceNumber::ZERO).then_some(present);
    let failed = FailedCondition { condition: r.u32(at + 24), present };
    Ok(ConditionFailed { index: LogIndex(r.u64(at)), applied, failed })
}

fn decode_scan(r: &Reader<'_>) -> Result<ScanReply, BodyError> {
    r.len_at_least(SCAN_FIXED_BYTES, "at least 24")?;
    let (snapshot, applied) = (r.seq(0, "snapshot")?, r.seq(8, "applied")?);
    let count = r.u32(16);
    let flags = r.u16(20);
    if flags & !SCAN_KEYS_ONLY != 0 {
        return Err(r.bad("flags", 20, "bit 0 (keys only)", flags.into()));
    }
    let resume_len = usize::from(r.u16(22));
    if resume_len > MAX_BOUND_BYTES {
        return Err(r.bad("resume length", 22, "at most 8193", resume_len as u64));
    }
    let mut at = SCAN_FIXED_BYTES + resume_len;
    r.len_at_least(at + padding(resume_len), "room for the resume key")?;
    r.zero(at, padding(resume_len), "padding")?;
    let resume = (resume_len > 0).then(|| r.body[SCAN_FIXED_BYTES..at].to_vec());
    at += padding(resume_len);
    // The count is checked against the bytes that are there before memory is reserved for it.
    if count as usize > (r.body.len() - at) / ENTRY_FIXED_BYTES {
        return Err(r.bad("count", 16, "as many as the body holds", count.into()));
    }
    let mut entries = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let (entry, next) = decode_entry(r, at)?;
        entries.push(entry);
        at = next;
    }
    r.len_is(at, "the entries and nothing after them")?;
    Ok(ScanReply { snapshot, applied, keys_only: flags & SCAN_KEYS_ONLY != 0, entries, resume })
}

fn decode_entry(r: &Reader<'_>, at: usize) -> Result<(ScanEntry, usize), BodyError> {
    r.len_at_least(at + ENTRY_FIXED_BYTES, "room for each entry")?;
    let seq = r.seq(at, "entry sequence")?;
    let (key_len, value_len) = (r.u32(at + 8) as usize, r.u32(at + 12) as usize);
    let key_at = at + ENTRY_FIXED_BYTES;
    let room = r.body.len() - key_at;
    let data = key_len.saturating_add(value_len);
    if data.saturating_add(padding(data)) > room {
        return Err(r.bad("entry length", at + 8, "within the body", data as u64));
    }
    let value_at = key_at + key_len;
    let end = value_at + value_len;
    r.zero(end, padding(data), "padding")?;
    let entry =
        ScanEntry { key: r.body.slice(key_at..value_at), seq, value: r.body.slice(value_at..end) };
    Ok((entry, end + padding(data)))
}

fn decode_hello(r: &Reader<'_>) -> Result<HelloReply, BodyError> {
    r.len_at_least(HELLO_FIXED_BYTES, "at least 64")?;
    r.zero(1, 3, "reserved")?;
    r.zero(60, 4, "reserved")?;
    let (cluster_len, server_len) = (usize::from(r.u16(56)), usize::from(r.u16(58)));
    if cluster_len > MAX_NAME_BYTES || server_len > MAX_NAME_BYTES {
        return Err(r.bad("text length", 56, "at most 255", cluster_len.max(server_len) as u64));
    }
    r.len_is(HELLO_FIXED_BYTES + cluster_len + server_len, "64 and the two texts")?;
    Ok(HelloReply {
        version: r.body[0],
        max_frame_bytes: r.u32(4),
        max_key_bytes: r.u32(8),
        max_value_bytes: r.u32(12),
        max_batch_bytes: r.u32(16),
        max_batch_ops: r.u32(20),
        max_in_flight: r.u32(24),
        max_scan_bytes: r.u32(28),
        default_deadline_ms: r.u32(32),
        max_deadline_ms: r.u32(36),
        idle_timeout_ms: r.u32(40),
        snapshot_ttl_ms: r.u32(44),
        node_id: NodeId(r.u64(48)),
        cluster: r.text(HELLO_FIXED_BYTES, cluster_len, "cluster")?,
        server: r.text(HELLO_FIXED_BYTES + cluster_len, server_len, "server")?,
    })
}
