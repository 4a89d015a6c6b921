//! Bytes -> [`PeerFrame`]. Payloads and pieces are slices of the frame; nothing is copied but texts and memberships.

use super::{
    APPEND_BYTES, AppendAnswer, ENTRY_BYTES, FLAG_BLANK, HELLO_BYTES, Lane, MAX_PEER_TEXT_BYTES,
    META_BYTES, PONG_BYTES, PeerError, PeerFrame, PeerHello, PeerMessage, PeerOpcode, PeerPong,
    PeerWelcome, SNAPSHOT_BYTES, SnapshotAnswer, WireEntry, WireSnapshotMeta,
};
use crate::base::{
    ClusterUid, LogIndex, Membership, MembershipError, NodeId, ReplicaId, Term, membership,
};
use crate::limits::{
    MAX_APPEND_ENTRIES, MAX_BATCH_BYTES, MAX_MEMBERSHIP_BYTES, MAX_SNAPSHOT_BODY_BYTES,
};
use crate::proto::body::{BodyError, Reader, padding};
use crate::proto::error::MAX_ERROR_MESSAGE_BYTES;
use crate::proto::explain::opcode_name;
use crate::proto::frame::{FrameHeader, HEADER_BYTES, parse_header};
use crate::proto::{CONNECTION_OPCODE, Opcode, REPLY_BIT, Response};
use bytes::Bytes;

/// Decodes one whole frame, which [`frame::decode`](crate::proto::frame::decode) has found at the front of the input and
/// whose checksum it has checked. Slices `frame`: as long as a payload lives, so does the frame's buffer.
pub fn decode(frame: Bytes) -> Result<PeerFrame, PeerError> {
    let found = frame.len();
    let Some(header) = frame.first_chunk::<HEADER_BYTES>().map(parse_header) else {
        return Err(PeerError::Frame { found, length: 0 });
    };
    if header.length as usize != found {
        return Err(PeerError::Frame { found, length: header.length });
    }
    let body = frame.slice(HEADER_BYTES..);
    if header.opcode == CONNECTION_OPCODE | REPLY_BIT {
        return decode_refusal(&header, &body);
    }
    let Some((opcode, reply)) = PeerOpcode::of_frame(header.opcode) else {
        let opcode = header.opcode;
        return Err(match Opcode::from_u8(opcode & !REPLY_BIT) {
            Some(_) => PeerError::ClientFrame { opcode, name: opcode_name(opcode) },
            None => PeerError::UnknownOpcode { opcode },
        });
    };
    let name = opcode.frame_name(reply);
    check_header(name, &header, opcode.has_term())?;
    decode_body(opcode, reply, Term(header.request_id), &body).map_err(|fault| match fault {
        Fault::Body(source) => PeerError::Body { name, source },
        Fault::Membership(source) => PeerError::Membership { name, source },
    })
}

enum Fault {
    Body(BodyError),
    Membership(MembershipError),
}

impl From<BodyError> for Fault {
    fn from(error: BodyError) -> Self {
        Self::Body(error)
    }
}

impl From<MembershipError> for Fault {
    fn from(error: MembershipError) -> Self {
        Self::Membership(error)
    }
}

/// Flags, the word of row 2, and where there is no term its field are 0.
fn check_header(name: &'static str, header: &FrameHeader, has_term: bool) -> Result<(), PeerError> {
    let term = if has_term { 0 } else { header.request_id };
    for (field, offset, found) in [
        ("flags", 6, u64::from(header.flags)),
        ("term", 8, term),
        ("reserved", 16, u64::from(header.word)),
    ] {
        if found != 0 {
            return Err(PeerError::Header { name, field, offset, found });
        }
    }
    Ok(())
}

fn decode_refusal(header: &FrameHeader, body: &Bytes) -> Result<PeerFrame, PeerError> {
    let name = "refusal";
    check_header(name, &FrameHeader { word: 0, ..*header }, false)?;
    match Response::decode(header, body) {
        Ok(Response::Error(error)) => Ok(PeerFrame::Refused(error)),
        Ok(_) => Err(PeerError::UnknownOpcode { opcode: header.opcode }),
        Err(error) => Err(PeerError::Body { name, source: error.source }),
    }
}

fn decode_hello(r: &Reader<'_>) -> Result<PeerHello, Fault> {
    r.len_at_least(HELLO_BYTES, "at least 56")?;
    let [min_version, max_version, lane, flags] = [0, 1, 2, 3].map(|at: usize| r.body[at]);
    if min_version == 0 || max_version < min_version {
        let found = u64::from(r.u16(0));
        return Err(r
            .bad("versions", 0, "two bytes, the first not 0 nor above the other", found)
            .into());
    }
    let Some(lane) = Lane::from_u8(lane) else {
        return Err(r.bad("lane", 2, "1 (raft) or 2 (bulk)", lane.into()).into());
    };
    let blank = flag(r, 3, flags, "flags")?;
    let list = r.u32(4);
    if list != 0 && !blank {
        return Err(r.bad("list", 4, "0 when not blank", list.into()).into());
    }
    let (replica, texts) = decode_who(r)?;
    let [cluster, peer_address, client_address, software] = texts;
    Ok(PeerHello {
        min_version,
        max_version,
        lane,
        features: r.u64(8),
        replica,
        wanted: NodeId(r.u64(32)),
        blank,
        list,
        cluster_uid: ClusterUid(r.u64(40)),
        cluster,
        peer_address,
        client_address,
        software,
    })
}

fn decode_welcome(r: &Reader<'_>) -> Result<PeerWelcome, Fault> {
    r.len_at_least(HELLO_BYTES, "at least 56")?;
    let version = r.body[0];
    if version == 0 {
        return Err(r.bad("version", 0, "not 0", 0).into());
    }
    let blank = flag(r, 1, r.body[1], "flags")?;
    r.zero(2, 6, "reserved")?;
    let (replica, texts) = decode_who(r)?;
    let [cluster, peer_address, client_address, software] = texts;
    Ok(PeerWelcome {
        version,
        features: r.u64(8),
        replica,
        blank,
        known: r.u64(32),
        cluster_uid: ClusterUid(r.u64(40)),
        cluster,
        peer_address,
        client_address,
        software,
    })
}

/// The rows that HELLO and its reply share: replica, and the four texts.
fn decode_who(r: &Reader<'_>) -> Result<(ReplicaId, [String; 4]), Fault> {
    let replica = ReplicaId { node: NodeId(r.u64(16)), incarnation: r.u64(24) };
    if replica.node == NodeId::ZERO {
        return Err(r.bad("node", 16, "not 0", 0).into());
    }
    let lens = [48, 50, 52, 54].map(|at| usize::from(r.u16(at)));
    for (i, field) in [(0, "cluster length"), (3, "software length")] {
        if lens[i] > MAX_PEER_TEXT_BYTES {
            return Err(r.bad(field, 48 + 2 * i, "at most 255", lens[i] as u64).into());
        }
    }
    if lens[0] == 0 {
        return Err(r.bad("cluster length", 48, "not 0", 0).into());
    }
    r.len_is(HELLO_BYTES + lens.iter().sum::<usize>(), "56 and the four texts")?;
    let mut at = HELLO_BYTES;
    let mut texts = [const { String::new() }; 4];
    for (i, text) in texts.iter_mut().enumerate() {
        let bytes = &r.body[at..at + lens[i]];
        match i {
            0 => printable(r, at, bytes, "cluster", b'!')?,
            3 => printable(r, at, bytes, "software", b' ')?,
            _ => membership::check_address(replica.node, bytes)?,
        }
        // ASCII, as was just checked.
        *text = r.text(at, lens[i], "text")?;
        at += lens[i];
    }
    Ok((replica, texts))
}

fn printable(
    r: &Reader<'_>,
    at: usize,
    bytes: &[u8],
    field: &'static str,
    lowest: u8,
) -> Result<(), BodyError> {
    match bytes.iter().position(|b| !(lowest..=b'~').contains(b)) {
        None => Ok(()),
        Some(n) => Err(r.bad(field, at + n, "printable ASCII", bytes[n].into())),
    }
}

/// Bit 0 of a byte whose other bits are reserved.
fn flag(r: &Reader<'_>, at: usize, byte: u8, field: &'static str) -> Result<bool, BodyError> {
    match byte {
        0 => Ok(false),
        FLAG_BLANK => Ok(true),
        found => Err(r.bad(field, at, "0 or 1", found.into())),
    }
}

/// A row that is 0 or 1 in its first byte.
fn flag_row(r: &Reader<'_>, at: usize, field: &'static str) -> Result<bool, BodyError> {
    r.zero(at + 1, 7, "reserved")?;
    flag(r, at, r.body[at], field)
}

fn decode_body(
    opcode: PeerOpcode,
    reply: bool,
    term: Term,
    body: &Bytes,
) -> Result<PeerFrame, Fault> {
    let r = &Reader { body };
    let last = || (LogIndex(r.u64(0)), Term(r.u64(8)));
    let message = match opcode {
        PeerOpcode::Hello if reply => return decode_welcome(r).map(PeerFrame::Welcome),
        PeerOpcode::Hello => return decode_hello(r).map(PeerFrame::Hello),
        PeerOpcode::Ping => {
            if reply {
                return Ok(decode_pong(r).map(PeerFrame::Pong)?);
            }
            r.len_is(0, "0")?;
            return Ok(PeerFrame::Ping);
        }
        PeerOpcode::Begin => {
            r.len_at_least(8, "at least 8")?;
            let cluster = ClusterUid(r.u64(0));
            return Ok(PeerFrame::Begin(cluster, Membership::decode(&body[8..])?));
        }
        PeerOpcode::Cluster => {
            r.len_is(8, "8")?;
            let cluster = ClusterUid(r.u64(0));
            if cluster.is_none() {
                return Err(r.bad("cluster uid", 0, "not 0", 0).into());
            }
            return Ok(PeerFrame::Cluster(cluster));
        }
        PeerOpcode::PreVote => {
            r.len_is(16, "16")?;
            PeerMessage::PreVote { last: last() }
        }
        PeerOpcode::Vote => {
            r.len_is(24, "24")?;
            PeerMessage::Vote { last: last(), transfer: flag_row(r, 16, "transfer")? }
        }
        PeerOpcode::PreVoteReply => {
            r.len_is(8, "8")?;
            PeerMessage::PreVoteReply { granted: flag_row(r, 0, "granted")? }
        }
        PeerOpcode::VoteReply => {
            r.len_is(8, "8")?;
            PeerMessage::VoteReply { granted: flag_row(r, 0, "granted")? }
        }
        PeerOpcode::Append => decode_append(r)?,
        PeerOpcode::AppendReply => decode_append_reply(r)?,
        PeerOpcode::ReadIndex => {
            r.len_is(8, "8")?;
            PeerMessage::ReadIndex { read: r.u64(0) }
        }
        PeerOpcode::ReadIndexReply => {
            r.len_is(24, "24")?;
            let index = flag_row(r, 8, "answered")?.then(|| LogIndex(r.u64(16)));
            if index.is_none() {
                r.zero(16, 8, "index of no answer")?;
            }
            PeerMessage::ReadIndexReply { read: r.u64(0), index }
        }
        PeerOpcode::Snapshot => decode_snapshot(r)?,
        PeerOpcode::SnapshotReply => decode_snapshot_reply(r)?,
        PeerOpcode::TransferNow => {
            r.len_is(0, "0")?;
            PeerMessage::TransferNow
        }
    };
    Ok(PeerFrame::Raft(term, message))
}

fn decode_pong(r: &Reader<'_>) -> Result<PeerPong, BodyError> {
    r.len_is(PONG_BYTES, "24")?;
    let blank = flag_row(r, 0, "blank")?;
    Ok(PeerPong { blank, known: r.u64(8), cluster_uid: ClusterUid(r.u64(16)) })
}

fn decode_append(r: &Reader<'_>) -> Result<PeerMessage, BodyError> {
    r.len_at_least(APPEND_BYTES, "at least 48")?;
    let count = r.u32(40) as usize;
    r.zero(44, 4, "reserved")?;
    // The count is checked against the bytes that are there before memory is reserved for it.
    if count > MAX_APPEND_ENTRIES || count > (r.body.len() - APPEND_BYTES) / ENTRY_BYTES {
        return Err(r.bad("count", 40, "as many as the body holds, at most 65536", count as u64));
    }
    let mut entries = Vec::with_capacity(count);
    let mut at = APPEND_BYTES;
    for _ in 0..count {
        r.len_at_least(at + ENTRY_BYTES, "room for each entry")?;
        let (index, term) = (LogIndex(r.u64(at)), Term(r.u64(at + 8)));
        let len = r.u32(at + 16) as usize;
        r.zero(at + 20, 4, "reserved")?;
        if len > MAX_BATCH_BYTES {
            return Err(r.bad("payload length", at + 16, "at most 12582912", len as u64));
        }
        let (payload, next) = padded(r, at + ENTRY_BYTES, len, "room for each payload")?;
        entries.push(WireEntry { index, term, payload });
        at = next;
    }
    r.len_is(at, "the entries and nothing after them")?;
    Ok(PeerMessage::Append {
        session: r.u64(0),
        round: r.u64(8),
        prev: (LogIndex(r.u64(16)), Term(r.u64(24))),
        commit: LogIndex(r.u64(32)),
        entries,
    })
}

/// `len` bytes at `at` and their padding; where the next field begins.
fn padded(
    r: &Reader<'_>,
    at: usize,
    len: usize,
    room: &'static str,
) -> Result<(Bytes, usize), BodyError> {
    let end = at + len;
    let next = end + padding(len);
    r.len_at_least(next, room)?;
    r.zero(end, padding(len), "padding")?;
    Ok((r.body.slice(at..end), next))
}

fn decode_append_reply(r: &Reader<'_>) -> Result<PeerMessage, BodyError> {
    r.len_at_least(32, "at least 32")?;
    r.zero(17, 7, "reserved")?;
    let answer = match r.body[16] {
        1 => {
            r.len_is(32, "32 when accepted")?;
            AppendAnswer::Accepted { matched: LogIndex(r.u64(24)) }
        }
        2 => {
            r.len_is(48, "48 when rejected")?;
            let conflict = (Term(r.u64(32)), LogIndex(r.u64(40)));
            AppendAnswer::Rejected { prev: LogIndex(r.u64(24)), conflict }
        }
        other => return Err(r.bad("answer", 16, "1 (accepted) or 2 (rejected)", other.into())),
    };
    Ok(PeerMessage::AppendReply { session: r.u64(0), round: r.u64(8), answer })
}

fn decode_snapshot(r: &Reader<'_>) -> Result<PeerMessage, Fault> {
    r.len_at_least(SNAPSHOT_BYTES, "at least 32")?;
    let membership_len = r.u32(28) as usize;
    if membership_len > MAX_MEMBERSHIP_BYTES {
        let found = membership_len as u64;
        return Err(r.bad("membership length", 28, "that of at most 32 members", found).into());
    }
    let (meta, at) = match membership_len {
        0 => (None, SNAPSHOT_BYTES),
        len => decode_meta(r, len).map(|(meta, at)| (Some(Box::new(meta)), at))?,
    };
    Ok(PeerMessage::Snapshot {
        session: r.u64(0),
        transfer: r.u64(8),
        meta,
        offset: r.u64(16),
        data: r.body.slice(at..),
        crc: r.u32(24),
    })
}

fn decode_meta(r: &Reader<'_>, membership_len: usize) -> Result<(WireSnapshotMeta, usize), Fault> {
    let at = SNAPSHOT_BYTES;
    r.len_at_least(at + META_BYTES, "room for a description")?;
    let body_len = r.u32(at + 32) as usize;
    r.zero(at + 36, 4, "reserved")?;
    if body_len > MAX_SNAPSHOT_BODY_BYTES {
        return Err(r
            .bad("description length", at + 32, "at most 8388608", body_len as u64)
            .into());
    }
    let (membership, next) = padded(r, at + META_BYTES, membership_len, "room for the membership")?;
    let (body, next) = padded(r, next, body_len, "room for the description")?;
    let meta = WireSnapshotMeta {
        index: LogIndex(r.u64(at)),
        term: Term(r.u64(at + 8)),
        membership: (LogIndex(r.u64(at + 16)), Membership::decode(&membership)?),
        bytes: r.u64(at + 24),
        body,
    };
    Ok((meta, next))
}

fn decode_snapshot_reply(r: &Reader<'_>) -> Result<PeerMessage, BodyError> {
    r.len_at_least(24, "at least 24")?;
    r.zero(17, 7, "reserved")?;
    let kind = r.body[16];
    if matches!(kind, 1 | 2) {
        r.len_is(32, "32 unless refused")?;
    }
    let answer = match kind {
        1 => SnapshotAnswer::Next { offset: r.u64(24) },
        2 => SnapshotAnswer::Installed { index: LogIndex(r.u64(24)) },
        3 => {
            let len = r.body.len() - 24;
            if len > MAX_ERROR_MESSAGE_BYTES {
                return Err(r.bad("reason length", 24, "at most 1024", len as u64));
            }
            SnapshotAnswer::Refused { reason: r.text(24, len, "reason")? }
        }
        other => {
            let expected = "1 (next), 2 (installed), or 3 (refused)";
            return Err(r.bad("answer", 16, expected, other.into()));
        }
    };
    Ok(PeerMessage::SnapshotReply { session: r.u64(0), transfer: r.u64(8), answer })
}
