//! Request bodies. Layouts and worked hex: `proto-spec/client.md`.
//!
//! | opcode | body |
//! |---|---|
//! | HELLO | lowest version, highest version (1 each), name length, cluster length (2 each), reserved (2); name; cluster |
//! | PING, STATUS, STATS, REGISTER, MEMBERS | empty |
//! | GET | snapshot (8); key |
//! | PUT, DELETE | a batch of exactly one such operation |
//! | WRITE | a batch |
//! | SCAN | snapshot (8); limit, byte limit (4 each); flags, start, end, resume lengths (2 each); start; end; resume |
//! | MULTI_GET | snapshot (8); number of keys, 0 (4 each); keys: length (2), key |
//! | ADMIN | kind (1), 0 (5), address length (2); node (8); peer address, or path |

use super::error::{Effect, ErrorCode, ErrorReply};
use super::frame::{self, EncodeTooLarge, FrameHeader};
use super::multi_get::{MultiGetRequest, RequestFault};
use super::peer::PeerOpcode;
use super::{Opcode, PROTOCOL_VERSION};
use crate::base::batch::{BatchError, BatchRef, Op, RESERVED_KEY_PREFIX, prefix_end};
use crate::base::{NodeId, SequenceNumber};
use crate::limits::{
    MAX_ADDRESS_BYTES, MAX_CHECKPOINT_PATH_BYTES, MAX_KEY_BYTES, MAX_SCAN_BYTES, MAX_SCAN_ENTRIES,
};
use byteorder::{BigEndian, ByteOrder};

/// Longest client name or cluster id in a HELLO.
pub const MAX_NAME_BYTES: usize = 255;
/// Longest start, end, or resume key of a scan: the successor of the longest key.
pub const MAX_BOUND_BYTES: usize = MAX_KEY_BYTES + 1;

const SCAN_KEYS_ONLY: u16 = 0x0001;
const SCAN_PREFIX: u16 = 0x0002;
const SCAN_REVERSE: u16 = 0x0004;
const SCAN_KNOWN_FLAGS: u16 = SCAN_KEYS_ONLY | SCAN_PREFIX | SCAN_REVERSE;
const SCAN_FIXED_BYTES: usize = 24;
const HELLO_FIXED_BYTES: usize = 8;
const ADMIN_FIXED_BYTES: usize = 16;
const ADMIN_ADD: u8 = 1;
const ADMIN_PROMOTE: u8 = 2;
const ADMIN_REMOVE: u8 = 3;
const ADMIN_TRANSFER: u8 = 4;
const ADMIN_CHECKPOINT: u8 = 5;
const ADMIN_VERIFY: u8 = 6;
const ADMIN_COMPACT: u8 = 7;

/// A decoded request; keys and batches borrow from the receive buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request<'a> {
    /// Agree on a version; learn limits, node, and cluster.
    Hello(HelloRequest<'a>),
    /// Is the connection alive?
    Ping,
    /// Read one key.
    Get {
        /// The key, 1 ..= `MAX_KEY_BYTES` bytes.
        key: &'a [u8],
        /// Read as of this sequence number; 0 = now.
        snapshot: SequenceNumber,
    },
    /// Apply a batch. The body is the batch, and it has passed [`BatchRef::check_user`].
    Write {
        /// `Put`, `Delete`, or `Write`; the first two hold exactly one such operation.
        opcode: Opcode,
        /// The batch.
        batch: BatchRef<'a>,
    },
    /// Read a page of a range or prefix.
    Scan(ScanRequest<'a>),
    /// The node's state as JSON.
    Status,
    /// The engine's figures as JSON.
    Stats,
    /// GET with flag STALE: what this node has applied will do.
    StaleGet {
        /// As in [`Request::Get`].
        key: &'a [u8],
        /// As in [`Request::Get`].
        snapshot: SequenceNumber,
    },
    /// SCAN with flag STALE.
    StaleScan(ScanRequest<'a>),
    /// Read several keys at one sequence number.
    MultiGet(MultiGetRequest<'a>),
    /// MULTI_GET with flag STALE.
    StaleMultiGet(MultiGetRequest<'a>),
    /// Begin a session.
    Register,
    /// Who belongs to the cluster, as JSON.
    Members,
    /// Change who belongs to the cluster, or who leads.
    Admin(AdminRequest<'a>),
}

/// The body of ADMIN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AdminRequest<'a> {
    /// The node at this address becomes a member that does not vote yet.
    Add {
        /// Its number, not 0.
        node: NodeId,
        /// Where its peers reach it, `HOST:PORT`: 1 ..= [`MAX_ADDRESS_BYTES`] bytes of printable ASCII without spaces.
        peer_address: &'a str,
    },
    /// This member votes from now on.
    Promote(NodeId),
    /// This member belongs to the cluster no more.
    Remove(NodeId),
    /// Another voter leads: this one, or (`None`, 0 on the wire) the one that has most of the log.
    Transfer(Option<NodeId>),
    /// The node that is asked, leader or not, makes a checkpoint of its data.
    Checkpoint {
        /// The new directory, on the node's machine: absolute, or relative to its data directory.
        /// 1 ..= [`MAX_CHECKPOINT_PATH_BYTES`] bytes of UTF-8 without control characters.
        dir: &'a str,
    },
    /// The node that is asked, leader or not, begins to check every block of its files.
    Verify {
        /// Bytes a second that it reads at most; 0: no bound.
        rate: u64,
    },
    /// The node that is asked, leader or not, begins to compact what it has of a range of keys, down to the last level.
    Compact {
        /// The first key, at most [`MAX_KEY_BYTES`]; empty: the first of all.
        start: &'a [u8],
        /// The first key past them, after `start`; empty: there is none.
        end: &'a [u8],
    },
}

/// The body of HELLO.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HelloRequest<'a> {
    /// Lowest protocol version the client speaks.
    pub min_version: u8,
    /// Highest protocol version the client speaks.
    pub max_version: u8,
    /// What the client calls itself, for logs.
    pub name: &'a str,
    /// The cluster the client expects; empty = any. Another one is refused with `WRONG_CLUSTER`.
    pub cluster: &'a str,
}

impl HelloRequest<'_> {
    /// The version to speak with this client, `None` when there is none in common (`BAD_VERSION`).
    #[must_use]
    pub const fn choose_version(&self) -> Option<u8> {
        if self.min_version <= PROTOCOL_VERSION && PROTOCOL_VERSION <= self.max_version {
            Some(PROTOCOL_VERSION)
        } else {
            None
        }
    }
}

/// Which keys a scan covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ScanRange<'a> {
    /// `start ..` up to and without `end`; an empty `start` is the first key, an empty `end` is past the last.
    Range {
        /// The first key.
        start: &'a [u8],
        /// The first key that is not in the range; empty = no end.
        end: &'a [u8],
    },
    /// Every key that begins with these bytes; empty = every key.
    Prefix(&'a [u8]),
}

/// The body of SCAN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScanRequest<'a> {
    /// Which keys.
    pub range: ScanRange<'a>,
    /// Where the page before ended (its reply's resume key): this page has the keys from it on, of a reverse scan those
    /// below it. Empty = from the start of the range, of a reverse scan from its end.
    pub resume: &'a [u8],
    /// Read as of this sequence number; 0 = now, and the reply names the snapshot for the next pages.
    pub snapshot: SequenceNumber,
    /// Most entries wanted in this page; 0 = as many as the server gives.
    pub limit: u32,
    /// Most key and value bytes wanted in this page; 0 = as many as the server gives. One entry may exceed it.
    pub max_bytes: u32,
    /// Leave the values out.
    pub keys_only: bool,
    /// By descending key, from the end of the range.
    pub reverse: bool,
}

impl<'a> ScanRequest<'a> {
    /// All of `range`, now, as large a page as the server gives.
    #[must_use]
    pub const fn new(range: ScanRange<'a>) -> Self {
        Self {
            range,
            resume: b"",
            snapshot: SequenceNumber::ZERO,
            limit: 0,
            max_bytes: 0,
            keys_only: false,
            reverse: false,
        }
    }

    /// The lowest key to look at: the start of the range, or the resume key of a forward scan, whichever is later.
    #[must_use]
    pub fn first_key(&self) -> &'a [u8] {
        let start = match self.range {
            ScanRange::Range { start, .. } => start,
            ScanRange::Prefix(prefix) => prefix,
        };
        if self.reverse { start } else { start.max(self.resume) }
    }

    /// The first key past what is to be looked at, `None` when there is none: the end of the range, or the resume key of a
    /// reverse scan, whichever is lower.
    #[must_use]
    pub fn end_key(&self) -> Option<Vec<u8>> {
        let end = self.range_end();
        if !self.reverse || self.resume.is_empty() {
            return end;
        }
        let resume = self.resume.to_vec();
        Some(end.map_or(resume.clone(), |end| end.min(resume)))
    }

    fn range_end(&self) -> Option<Vec<u8>> {
        match self.range {
            ScanRange::Range { end: b"", .. } => None,
            ScanRange::Range { end, .. } => Some(end.to_vec()),
            ScanRange::Prefix(prefix) => prefix_end(prefix),
        }
    }

    /// Entries in this page at most, after the server's own limit.
    #[must_use]
    pub fn effective_limit(&self) -> usize {
        match self.limit as usize {
            0 => MAX_SCAN_ENTRIES,
            n => n.min(MAX_SCAN_ENTRIES),
        }
    }

    /// Key and value bytes in this page at most, after the server's own limit.
    #[must_use]
    pub fn effective_max_bytes(&self) -> usize {
        match self.max_bytes as usize {
            0 => MAX_SCAN_BYTES,
            n => n.min(MAX_SCAN_BYTES),
        }
    }
}

/// Why a frame's body is not a request.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RequestError {
    /// An opcode this version does not know.
    #[error("unknown request opcode {opcode:#04x}, known are 0x01 (HELLO) to 0x0d (MULTI_GET)")]
    UnknownOpcode {
        /// The opcode's byte.
        opcode: u8,
    },
    /// A frame of a peer.
    #[error(
        "opcode {opcode:#04x} is a frame between nodes (proto-spec/peer.md), and this is the port for clients; peers \
         are served on --peer-listen, port 7401 by default"
    )]
    PeerFrame {
        /// The opcode's byte.
        opcode: u8,
    },
    /// The body's bytes are not what the opcode asks for.
    #[error("{}: {field} at body byte {offset}: expected {expected}, found {found}", opcode.name())]
    Body {
        /// The request.
        opcode: Opcode,
        /// The field.
        field: &'static str,
        /// Where it is in the body.
        offset: usize,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        found: u64,
    },
    /// A flag that this opcode cannot have.
    #[error("{}: flags {found:#06x}, but bit 1 (STALE) is for GET, MULTI_GET, and SCAN", opcode.name())]
    Flags {
        /// The request.
        opcode: Opcode,
        /// The frame's flags.
        found: u16,
    },
    /// The body is not a batch that a client may send.
    #[error("{}: {source}", opcode.name())]
    Batch {
        /// The request.
        opcode: Opcode,
        /// What is wrong with the batch.
        source: BatchError,
    },
    /// A GET of an empty, too long, or reserved key.
    #[error("{}: {source}", opcode.name())]
    Key {
        /// The request.
        opcode: Opcode,
        /// What is wrong with the key.
        source: BatchError,
    },
}

impl RequestError {
    /// The error's code in the reply.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::UnknownOpcode { .. } => ErrorCode::UnknownOpcode,
            Self::PeerFrame { .. } => ErrorCode::WrongPort,
            Self::Body { .. } | Self::Flags { .. } => ErrorCode::BadRequest,
            Self::Batch { source, .. } | Self::Key { source, .. } => ErrorCode::of_batch(source),
        }
    }

    /// The reply to send with the request's opcode and id. The connection goes on.
    #[must_use]
    pub fn reply(&self) -> ErrorReply {
        let effect = match self {
            Self::UnknownOpcode { .. } | Self::PeerFrame { .. } => Effect::NotApplied,
            Self::Body { opcode, .. }
            | Self::Flags { opcode, .. }
            | Self::Batch { opcode, .. }
            | Self::Key { opcode, .. } => Effect::refused(*opcode),
        };
        ErrorReply::new(self.code(), effect, self.to_string())
    }
}

impl<'a> Request<'a> {
    /// Its opcode.
    #[must_use]
    pub const fn opcode(&self) -> Opcode {
        match self {
            Self::Hello(_) => Opcode::Hello,
            Self::Ping => Opcode::Ping,
            Self::Get { .. } | Self::StaleGet { .. } => Opcode::Get,
            Self::Write { opcode, .. } => *opcode,
            Self::Scan(_) | Self::StaleScan(_) => Opcode::Scan,
            Self::MultiGet(_) | Self::StaleMultiGet(_) => Opcode::MultiGet,
            Self::Status => Opcode::Status,
            Self::Stats => Opcode::Stats,
            Self::Register => Opcode::Register,
            Self::Members => Opcode::Members,
            Self::Admin(_) => Opcode::Admin,
        }
    }

    /// Decodes the body of a frame: as [`Request::decode`], and the flag STALE, which only GET and SCAN may have.
    pub fn decode_frame(header: &FrameHeader, body: &'a [u8]) -> Result<Self, RequestError> {
        let request = Self::decode(header.opcode, body)?;
        match request {
            _ if header.flags & frame::FLAG_STALE == 0 => Ok(request),
            Self::Get { key, snapshot } => Ok(Self::StaleGet { key, snapshot }),
            Self::Scan(scan) => Ok(Self::StaleScan(scan)),
            Self::MultiGet(keys) => Ok(Self::StaleMultiGet(keys)),
            other => Err(RequestError::Flags { opcode: other.opcode(), found: header.flags }),
        }
    }

    /// Decodes the body of a frame with this opcode byte and no flag that changes its meaning. Borrows from `body`; copies and allocates nothing unless
    /// there is an error to describe.
    pub fn decode(opcode: u8, body: &'a [u8]) -> Result<Self, RequestError> {
        let opcode = match Opcode::from_u8(opcode) {
            Some(known) => known,
            None if PeerOpcode::from_u8(opcode).is_some() => {
                return Err(RequestError::PeerFrame { opcode });
            }
            None => return Err(RequestError::UnknownOpcode { opcode }),
        };
        match opcode {
            Opcode::Put | Opcode::Delete | Opcode::Write => decode_write(opcode, body),
            Opcode::Get => decode_get(body),
            Opcode::Scan => decode_scan(body).map(Self::Scan),
            Opcode::MultiGet => decode_multi_get(body).map(Self::MultiGet),
            Opcode::Hello => decode_hello(body).map(Self::Hello),
            Opcode::Ping => empty(opcode, body).map(|()| Self::Ping),
            Opcode::Status => empty(opcode, body).map(|()| Self::Status),
            Opcode::Stats => empty(opcode, body).map(|()| Self::Stats),
            Opcode::Register => empty(opcode, body).map(|()| Self::Register),
            Opcode::Members => empty(opcode, body).map(|()| Self::Members),
            Opcode::Admin => decode_admin(body).map(Self::Admin),
        }
    }

    /// Appends the request as a frame to `out`. `deadline_ms` 0 asks for the server's default. The caller keeps the
    /// lengths within the limits (the decoder at the other end checks them); only the frame's is checked here.
    pub fn encode(
        &self,
        out: &mut Vec<u8>,
        request_id: u64,
        deadline_ms: u32,
    ) -> Result<(), EncodeTooLarge> {
        self.encode_with_flags(out, request_id, deadline_ms, 0)
    }

    /// As [`Request::encode`], with frame flags such as [`frame::FLAG_NO_CRC`].
    pub fn encode_with_flags(
        &self,
        out: &mut Vec<u8>,
        request_id: u64,
        deadline_ms: u32,
        flags: u16,
    ) -> Result<(), EncodeTooLarge> {
        let stale =
            matches!(self, Self::StaleGet { .. } | Self::StaleScan(_) | Self::StaleMultiGet(_));
        let flags = if stale { flags | frame::FLAG_STALE } else { flags };
        let open = frame::begin(out, self.opcode().byte(), flags, request_id, deadline_ms);
        match self {
            Self::Ping | Self::Status | Self::Stats | Self::Register | Self::Members => {}
            Self::Admin(admin) => encode_admin(out, admin),
            Self::Get { key, snapshot } | Self::StaleGet { key, snapshot } => {
                out.extend_from_slice(&snapshot.0.to_be_bytes());
                out.extend_from_slice(key);
            }
            Self::Write { batch, .. } => out.extend_from_slice(batch.as_bytes()),
            Self::Hello(hello) => encode_hello(out, hello),
            Self::Scan(scan) | Self::StaleScan(scan) => encode_scan(out, scan),
            Self::MultiGet(keys) | Self::StaleMultiGet(keys) => keys.encode(out),
        }
        open.finish(out)
    }
}

fn empty(opcode: Opcode, body: &[u8]) -> Result<(), RequestError> {
    if body.is_empty() {
        return Ok(());
    }
    Err(bad_length(opcode, body, "0"))
}

fn decode_write(opcode: Opcode, body: &[u8]) -> Result<Request<'_>, RequestError> {
    let refuse = |source| RequestError::Batch { opcode, source };
    let batch = BatchRef::parse(body).map_err(refuse)?;
    batch.check_user().map_err(refuse)?;
    if opcode != Opcode::Write {
        let mut ops = batch.ops();
        let right_kind = matches!(
            (opcode, ops.next()),
            (Opcode::Put, Some(Op::Put { .. })) | (Opcode::Delete, Some(Op::Delete { .. }))
        );
        if batch.len() != 1 || !right_kind {
            let expected = "exactly one, of the kind that the opcode names (use WRITE for others)";
            return Err(bad_body(opcode)("operations in the batch", 4, expected, batch.len()));
        }
    }
    Ok(Request::Write { opcode, batch })
}

fn decode_get(body: &[u8]) -> Result<Request<'_>, RequestError> {
    let opcode = Opcode::Get;
    let Some((snapshot, key)) = body.split_first_chunk::<8>() else {
        return Err(bad_length(opcode, body, "a snapshot (8 bytes) and a key"));
    };
    let snapshot = snapshot_field(opcode, u64::from_be_bytes(*snapshot))?;
    let source = match key.len() {
        0 => BatchError::EmptyKey,
        n if n > MAX_KEY_BYTES => BatchError::KeyTooLarge { len: n as u64 },
        _ if key.starts_with(RESERVED_KEY_PREFIX) => BatchError::ReservedKey,
        _ => return Ok(Request::Get { key, snapshot }),
    };
    Err(RequestError::Key { opcode, source })
}

fn decode_multi_get(body: &[u8]) -> Result<MultiGetRequest<'_>, RequestError> {
    let opcode = Opcode::MultiGet;
    let Some((snapshot, _)) = body.split_first_chunk::<8>() else {
        return Err(bad_length(opcode, body, "at least 16"));
    };
    let snapshot = snapshot_field(opcode, u64::from_be_bytes(*snapshot))?;
    MultiGetRequest::decode(snapshot, body).map_err(|fault| match fault {
        RequestFault::Key(source) => RequestError::Key { opcode, source },
        RequestFault::Body { field, offset, expected, found } => {
            bad_body(opcode)(field, offset, expected, found)
        }
    })
}

fn decode_hello(body: &[u8]) -> Result<HelloRequest<'_>, RequestError> {
    let opcode = Opcode::Hello;
    let Some((fixed, rest)) = body.split_first_chunk::<HELLO_FIXED_BYTES>() else {
        return Err(bad_length(opcode, body, "at least 8 bytes"));
    };
    let name_len = usize::from(BigEndian::read_u16(&fixed[2..4]));
    let cluster_len = usize::from(BigEndian::read_u16(&fixed[4..6]));
    let bad = bad_body(opcode);
    if name_len > MAX_NAME_BYTES {
        return Err(bad("name length", 2, "at most 255", name_len));
    }
    if cluster_len > MAX_NAME_BYTES {
        return Err(bad("cluster length", 4, "at most 255", cluster_len));
    }
    let reserved = BigEndian::read_u16(&fixed[6..8]);
    if reserved != 0 {
        return Err(bad("reserved", 6, "0", reserved.into()));
    }
    if rest.len() != name_len + cluster_len {
        return Err(bad("text bytes", 8, "the two lengths added", rest.len()));
    }
    let (name, cluster) = rest.split_at(name_len);
    let text = |bytes, field, offset| {
        std::str::from_utf8(bytes).map_err(|e| bad(field, offset, "UTF-8", e.valid_up_to()))
    };
    Ok(HelloRequest {
        min_version: fixed[0],
        max_version: fixed[1],
        name: text(name, "name", 8)?,
        cluster: text(cluster, "cluster", 8 + name_len)?,
    })
}

fn encode_hello(out: &mut Vec<u8>, hello: &HelloRequest<'_>) {
    out.extend_from_slice(&[hello.min_version, hello.max_version]);
    out.extend_from_slice(&(hello.name.len() as u16).to_be_bytes());
    out.extend_from_slice(&(hello.cluster.len() as u16).to_be_bytes());
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(hello.name.as_bytes());
    out.extend_from_slice(hello.cluster.as_bytes());
}

fn decode_scan(body: &[u8]) -> Result<ScanRequest<'_>, RequestError> {
    let opcode = Opcode::Scan;
    let Some((fixed, rest)) = body.split_first_chunk::<SCAN_FIXED_BYTES>() else {
        return Err(bad_length(opcode, body, "at least 24 bytes"));
    };
    let bad = bad_body(opcode);
    let snapshot = snapshot_field(opcode, BigEndian::read_u64(&fixed[0..8]))?;
    let flags = BigEndian::read_u16(&fixed[16..18]);
    if flags & !SCAN_KNOWN_FLAGS != 0 {
        return Err(bad(
            "flags",
            16,
            "bits 0 (keys only), 1 (prefix), and 2 (reverse)",
            flags.into(),
        ));
    }
    let prefix = flags & SCAN_PREFIX != 0;
    let len = |offset: usize| usize::from(BigEndian::read_u16(&fixed[offset..offset + 2]));
    let (start_len, end_len, resume_len) = (len(18), len(20), len(22));
    for (field, offset, len) in [
        ("start length", 18, start_len),
        ("end length", 20, end_len),
        ("resume length", 22, resume_len),
    ] {
        if len > MAX_BOUND_BYTES {
            return Err(bad(field, offset, "at most 8193", len));
        }
    }
    if prefix && end_len != 0 {
        return Err(bad("end length", 20, "0 with the prefix flag", end_len));
    }
    if rest.len() != start_len + end_len + resume_len {
        return Err(bad("key bytes", 24, "the three lengths added", rest.len()));
    }
    let (start, rest) = rest.split_at(start_len);
    let (end, resume) = rest.split_at(end_len);
    Ok(ScanRequest {
        range: if prefix { ScanRange::Prefix(start) } else { ScanRange::Range { start, end } },
        resume,
        snapshot,
        limit: BigEndian::read_u32(&fixed[8..12]),
        max_bytes: BigEndian::read_u32(&fixed[12..16]),
        keys_only: flags & SCAN_KEYS_ONLY != 0,
        reverse: flags & SCAN_REVERSE != 0,
    })
}

fn encode_scan(out: &mut Vec<u8>, scan: &ScanRequest<'_>) {
    let (start, end, prefix) = match scan.range {
        ScanRange::Range { start, end } => (start, end, 0),
        ScanRange::Prefix(prefix) => (prefix, &b""[..], SCAN_PREFIX),
    };
    let flag = |on, flag| if on { flag } else { 0 };
    let flags = prefix | flag(scan.keys_only, SCAN_KEYS_ONLY) | flag(scan.reverse, SCAN_REVERSE);
    out.extend_from_slice(&scan.snapshot.0.to_be_bytes());
    out.extend_from_slice(&scan.limit.to_be_bytes());
    out.extend_from_slice(&scan.max_bytes.to_be_bytes());
    for word in [flags, start.len() as u16, end.len() as u16, scan.resume.len() as u16] {
        out.extend_from_slice(&word.to_be_bytes());
    }
    out.extend_from_slice(start);
    out.extend_from_slice(end);
    out.extend_from_slice(scan.resume);
}

fn decode_admin(body: &[u8]) -> Result<AdminRequest<'_>, RequestError> {
    let opcode = Opcode::Admin;
    let Some((fixed, rest)) = body.split_first_chunk::<ADMIN_FIXED_BYTES>() else {
        return Err(bad_length(opcode, body, "at least 16 bytes"));
    };
    let bad = bad_body(opcode);
    let kind = fixed[0];
    if let Some(at) = fixed[1..6].iter().position(|byte| *byte != 0) {
        return Err(bad("reserved", 1 + at, "0", fixed[1 + at].into()));
    }
    let address_len = usize::from(BigEndian::read_u16(&fixed[6..8]));
    let address_expected = match kind {
        ADMIN_ADD if !(1..=MAX_ADDRESS_BYTES).contains(&address_len) => Some("1 to 260"),
        ADMIN_COMPACT if address_len > 2 * MAX_KEY_BYTES => Some("at most two keys of 8192 bytes"),
        ADMIN_CHECKPOINT if !(1..=MAX_CHECKPOINT_PATH_BYTES).contains(&address_len) => {
            Some("1 to 1024")
        }
        ADMIN_PROMOTE | ADMIN_REMOVE | ADMIN_TRANSFER | ADMIN_VERIFY if address_len != 0 => {
            Some("0, only an added node has an address, a checkpoint a path, and a compaction keys")
        }
        _ => None,
    };
    if let Some(expected) = address_expected {
        return Err(bad("address length", 6, expected, address_len));
    }
    if rest.len() != address_len {
        return Err(bad("address bytes", 16, "as many as the length says", rest.len()));
    }
    let node = NodeId(BigEndian::read_u64(&fixed[8..16]));
    match kind {
        ADMIN_CHECKPOINT if node != NodeId::ZERO => {
            return Err(bad("node", 8, "0, a checkpoint is made by the node that is asked", 1));
        }
        ADMIN_ADD | ADMIN_PROMOTE | ADMIN_REMOVE if node == NodeId::ZERO => {
            return Err(bad("node", 8, "not 0", 0));
        }
        ADMIN_CHECKPOINT => return decode_checkpoint(rest),
        ADMIN_COMPACT => return decode_compact(rest, node.0),
        _ => {}
    }
    if let Some(at) = rest.iter().position(|byte| !byte.is_ascii_graphic()) {
        let expected = "printable ASCII without spaces";
        return Err(bad("address", ADMIN_FIXED_BYTES + at, expected, rest[at].into()));
    }
    let peer_address = std::str::from_utf8(rest)
        .map_err(|e| bad("address", ADMIN_FIXED_BYTES, "UTF-8", e.valid_up_to()))?;
    match kind {
        ADMIN_ADD => Ok(AdminRequest::Add { node, peer_address }),
        ADMIN_PROMOTE => Ok(AdminRequest::Promote(node)),
        ADMIN_REMOVE => Ok(AdminRequest::Remove(node)),
        ADMIN_TRANSFER => Ok(AdminRequest::Transfer((node != NodeId::ZERO).then_some(node))),
        ADMIN_VERIFY => Ok(AdminRequest::Verify { rate: node.0 }),
        other => {
            let expected = "1 (add), 2 (promote), 3 (remove), 4 (transfer), 5 (checkpoint), 6 (verify), or 7 (compact)";
            Err(bad("kind", 0, expected, other.into()))
        }
    }
}

fn decode_checkpoint(path: &[u8]) -> Result<AdminRequest<'_>, RequestError> {
    let bad = bad_body(Opcode::Admin);
    let dir = std::str::from_utf8(path)
        .map_err(|e| bad("path", ADMIN_FIXED_BYTES, "UTF-8", e.valid_up_to()))?;
    match dir.char_indices().find(|(_, c)| c.is_control()) {
        None => Ok(AdminRequest::Checkpoint { dir }),
        Some((at, _)) => {
            let expected = "text without control characters";
            Err(bad("path", ADMIN_FIXED_BYTES + at, expected, path[at].into()))
        }
    }
}

fn decode_compact(keys: &[u8], start_len: u64) -> Result<AdminRequest<'_>, RequestError> {
    let bad = bad_body(Opcode::Admin);
    let split = usize::try_from(start_len).ok().and_then(|len| keys.split_at_checked(len));
    let Some((start, end)) = split else {
        let expected = "the length of START, at most that of both keys";
        return Err(bad("length of START", 8, expected, start_len.min(1 << 32) as usize));
    };
    if let Some(key) = [start, end].into_iter().find(|key| key.len() > MAX_KEY_BYTES) {
        return Err(bad("key", ADMIN_FIXED_BYTES, "a key of at most 8192 bytes", key.len()));
    }
    if !end.is_empty() && end <= start {
        return Err(bad("END", ADMIN_FIXED_BYTES + start.len(), "a key after START", end.len()));
    }
    Ok(AdminRequest::Compact { start, end })
}

fn encode_admin(out: &mut Vec<u8>, admin: &AdminRequest<'_>) {
    let (kind, node, address) = match *admin {
        AdminRequest::Compact { start, end } => {
            out.extend_from_slice(&[ADMIN_COMPACT, 0, 0, 0, 0, 0]);
            out.extend_from_slice(&((start.len() + end.len()) as u16).to_be_bytes());
            out.extend_from_slice(&(start.len() as u64).to_be_bytes());
            out.extend_from_slice(start);
            out.extend_from_slice(end);
            return;
        }
        AdminRequest::Add { node, peer_address } => (ADMIN_ADD, node, peer_address),
        AdminRequest::Promote(node) => (ADMIN_PROMOTE, node, ""),
        AdminRequest::Remove(node) => (ADMIN_REMOVE, node, ""),
        AdminRequest::Transfer(to) => (ADMIN_TRANSFER, to.unwrap_or(NodeId::ZERO), ""),
        AdminRequest::Checkpoint { dir } => (ADMIN_CHECKPOINT, NodeId::ZERO, dir),
        AdminRequest::Verify { rate } => (ADMIN_VERIFY, NodeId(rate), ""),
    };
    out.extend_from_slice(&[kind, 0, 0, 0, 0, 0]);
    out.extend_from_slice(&(address.len() as u16).to_be_bytes());
    out.extend_from_slice(&node.0.to_be_bytes());
    out.extend_from_slice(address.as_bytes());
}

fn snapshot_field(opcode: Opcode, found: u64) -> Result<SequenceNumber, RequestError> {
    if found > SequenceNumber::MAX.0 {
        let expected = "a sequence number below 2^56, or 0";
        return Err(RequestError::Body { opcode, field: "snapshot", offset: 0, expected, found });
    }
    Ok(SequenceNumber(found))
}

fn bad_length(opcode: Opcode, body: &[u8], expected: &'static str) -> RequestError {
    bad_body(opcode)("body length", 0, expected, body.len())
}

/// Makes the errors of a body: which field, where it is, what it must be, what it is.
fn bad_body(
    opcode: Opcode,
) -> impl Fn(&'static str, usize, &'static str, usize) -> RequestError + Copy {
    move |field, offset, expected, found: usize| RequestError::Body {
        opcode,
        field,
        offset,
        expected,
        found: found as u64,
    }
}
