//! Frames and batches in words: every row of bytes with what it means, and decoded messages as JSON. A frame between
//! nodes is told by its opcode.
//!
//! `beachctl frame explain`, the examples in `proto-spec/client.md` and `peer.md` (a test compares them), and the vectors use this
//! module; it shares the codec's constants but walks the bytes itself, so that it can show the good part of a bad frame.
//!
//! ```text
//! 00000000  00 00 00 21 01 03 00 00  length 33, version 1, GET request, flags none
//! 00000008  00 00 00 00 00 00 00 02  request id 2
//! …
//! ```

use super::error::{ConditionFailed, ErrorCode, ErrorReply};
use super::frame::{
    self, CrcPolicy, Decoded, FLAG_NO_CRC, FLAG_STALE, FrameHeader, HEADER_BYTES, KNOWN_FLAGS,
};
use super::peer::{self as peer_protocol, PeerOpcode};
use super::request::{AdminRequest, Request, ScanRange};
use super::response::{HelloReply, Response};
use super::{CONNECTION_OPCODE, Opcode, REPLY_BIT, text};
use crate::base::batch::{BATCH_HEADER_BYTES, BatchRef, FLAG_CONDITIONS, Op, kind};
use crate::base::conditions::{self, Condition, Expect};
use crate::base::{Member, Membership, SequenceNumber, varint};
use byteorder::{BigEndian, ByteOrder};
use bytes::Bytes;
use serde_json::{Value, json};
use std::fmt::Write as _;

mod peer;

pub use peer::peer_frame_json;

/// Longest run of key or value rows that is shown in full; the middle of a longer one is left out.
const SHOWN_ROWS: usize = 8;

/// Rows of bytes with their meaning, and the first fault found in them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Explained {
    /// One line a row.
    pub text: String,
    /// What is wrong, when something is. The rows before it are good.
    pub fault: Option<String>,
}

struct Rows<'a> {
    bytes: &'a [u8],
    at: usize,
    text: String,
}

impl<'a> Rows<'a> {
    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Shows the next `len` bytes (at most 8, at most those left) as one row.
    fn row(&mut self, len: usize, note: impl AsRef<str>) {
        let end = self.bytes.len().min(self.at + len);
        let hex: Vec<String> =
            self.bytes[self.at..end].iter().map(|b| format!("{b:02x}")).collect();
        writeln!(self.text, "{:08x}  {:<23}  {}", self.at, hex.join(" "), note.as_ref())
            .expect("writing to a String cannot fail");
        self.at = end;
    }

    /// Shows `len` bytes of data, eight a row.
    fn data(&mut self, len: usize, name: &str) {
        let len = len.min(self.left());
        let rows = len.div_ceil(8);
        for i in 0..rows {
            let n = (len - i * 8).min(8);
            if rows > SHOWN_ROWS && i == SHOWN_ROWS / 2 {
                let skipped = rows - SHOWN_ROWS;
                writeln!(self.text, "          … {} bytes of {name} …", skipped * 8)
                    .expect("writing to a String cannot fail");
            }
            if rows > SHOWN_ROWS && (SHOWN_ROWS / 2..rows - SHOWN_ROWS / 2).contains(&i) {
                self.at += n;
                continue;
            }
            let mut shown = Vec::new();
            text::escape_into(&mut shown, &self.bytes[self.at..self.at + n]);
            self.row(n, format!("{name} \"{}\"", String::from_utf8_lossy(&shown)));
        }
    }

    fn u64(&self, offset: usize) -> u64 {
        BigEndian::read_u64(&self.bytes[self.at + offset..self.at + offset + 8])
    }
    fn u32(&self, offset: usize) -> u32 {
        BigEndian::read_u32(&self.bytes[self.at + offset..self.at + offset + 4])
    }
    fn u16(&self, offset: usize) -> u16 {
        BigEndian::read_u16(&self.bytes[self.at + offset..self.at + offset + 2])
    }
}

/// What an opcode's byte is called, `GET request`, `GET reply`, or `peer APPEND`.
#[must_use]
pub fn opcode_name(byte: u8) -> String {
    if let Some((opcode, reply)) = PeerOpcode::of_frame(byte) {
        return format!("peer {}", opcode.frame_name(reply));
    }
    let kind = if byte & REPLY_BIT == 0 { "request" } else { "reply" };
    match (byte, Opcode::from_u8(byte & !REPLY_BIT)) {
        (_, Some(opcode)) => format!("{} {kind}", opcode.name()),
        (b, None) if b == CONNECTION_OPCODE | REPLY_BIT => "connection error".to_owned(),
        (b, None) => format!("unknown opcode {b:#04x} ({kind})"),
    }
}

/// Explains one frame.
#[must_use]
pub fn explain(bytes: &[u8]) -> Explained {
    let mut rows = Rows { bytes, at: 0, text: String::new() };
    let Some((head, body)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        rows.data(bytes.len(), "incomplete header");
        let fault = format!("a frame has at least {HEADER_BYTES} bytes, here are {}", bytes.len());
        return Explained { text: rows.text, fault: Some(fault) };
    };
    let header = frame::parse_header(head);
    explain_header(&mut rows, &header, frame::frame_crc(head, body));
    let fault = match frame::decode(bytes, CrcPolicy::OptionalOnLoopback) {
        Err(e) => Some(e.to_string()),
        Ok(Decoded::Incomplete { need }) => {
            Some(format!("the frame says {need} bytes, here are {}", bytes.len()))
        }
        Ok(Decoded::Frame { consumed, .. }) if consumed < bytes.len() => {
            Some(format!("{} bytes after the end of the frame", bytes.len() - consumed))
        }
        Ok(Decoded::Frame { header, .. }) if PeerOpcode::of_frame(header.opcode).is_some() => {
            peer_protocol::decode(Bytes::copy_from_slice(bytes)).err().map(|e| e.to_string())
        }
        Ok(Decoded::Frame { header, body, .. }) if header.opcode & REPLY_BIT == 0 => {
            Request::decode_frame(&header, body).err().map(|e| e.to_string())
        }
        Ok(Decoded::Frame { header, body, .. }) => {
            Response::decode(&header, &Bytes::copy_from_slice(body)).err().map(|e| e.to_string())
        }
    };
    match PeerOpcode::of_frame(header.opcode) {
        Some((opcode, reply)) => peer::explain_body(&mut rows, opcode, reply),
        None => explain_body(&mut rows, &header),
    }
    let rest = rows.left();
    rows.data(rest, "unexplained");
    Explained { text: rows.text, fault }
}

fn explain_header(rows: &mut Rows<'_>, h: &FrameHeader, crc: u32) {
    let flags = match h.flags {
        0 => "none".to_owned(),
        FLAG_NO_CRC => "NO_CRC".to_owned(),
        FLAG_STALE => "STALE".to_owned(),
        KNOWN_FLAGS => "NO_CRC STALE".to_owned(),
        other => format!("{other:#06x}"),
    };
    let name = opcode_name(h.opcode);
    rows.row(8, format!("length {}, version {}, {name}, flags {flags}", h.length, h.version));
    let peer = PeerOpcode::of_frame(h.opcode);
    rows.row(
        8,
        match peer {
            Some((opcode, _)) if !opcode.has_term() && h.request_id == 0 => "no term".to_owned(),
            Some(_) => format!("term {}", h.request_id),
            None => format!("request id {}", h.request_id),
        },
    );
    let word = if peer.is_some() {
        format!("reserved {}", h.word)
    } else if h.opcode & REPLY_BIT == 0 {
        match h.word {
            0 => "default deadline".to_owned(),
            ms => format!("deadline {ms} ms"),
        }
    } else {
        match (h.word, ErrorCode::from_u32(h.word)) {
            (0, _) => "status OK".to_owned(),
            (_, Some(code)) => format!("status {} {code}", h.word),
            (n, None) => format!("status {n}, unknown"),
        }
    };
    let sum = match (h.flags & FLAG_NO_CRC != 0, h.crc == crc) {
        (true, _) => "no checksum".to_owned(),
        (false, true) => "CRC32C good".to_owned(),
        (false, false) => format!("CRC32C BAD, the bytes give {crc:08x}"),
    };
    rows.row(8, format!("{word}, {sum}"));
}

fn explain_body(rows: &mut Rows<'_>, h: &FrameHeader) {
    let reply = h.opcode & REPLY_BIT != 0;
    if reply && h.word != 0 {
        return explain_error(rows, h.word);
    }
    if reply && h.flags & FLAG_STALE != 0 && rows.left() >= 16 {
        let index = rows.u64(0);
        rows.row(8, format!("applied log index {index}"));
        match rows.u64(0) {
            u64::MAX => rows.row(8, "age: never known to be fresh"),
            ms => rows.row(8, format!("age {ms} ms")),
        }
    }
    match (Opcode::from_u8(h.opcode & !REPLY_BIT), reply) {
        (Some(Opcode::Get), false) if rows.left() >= 8 => {
            let note = snapshot_note(rows.u64(0));
            rows.row(8, note);
            let rest = rows.left();
            rows.data(rest, "key");
        }
        (Some(Opcode::Get), true) if rows.left() >= 16 => {
            match rows.u64(0) {
                0 => rows.row(8, "sequence 0: the key was not found"),
                n => rows.row(8, format!("the key's sequence {n}")),
            }
            let applied = rows.u64(0);
            rows.row(8, format!("applied sequence {applied}"));
            let rest = rows.left();
            rows.data(rest, "value");
        }
        (Some(Opcode::Put | Opcode::Delete | Opcode::Write), false) => explain_batch_rows(rows),
        (Some(Opcode::Put | Opcode::Delete | Opcode::Write | Opcode::Admin), true)
            if rows.left() >= 24 =>
        {
            for name in ["log index", "first sequence", "last sequence"] {
                let n = rows.u64(0);
                rows.row(8, format!("{name} {n}"));
            }
        }
        (Some(Opcode::Register), true) if rows.left() >= 24 => {
            let (client, applied, window) = (rows.u64(0), rows.u64(8), rows.u32(16));
            rows.row(8, format!("client id {client}"));
            rows.row(8, format!("applied sequence {applied}"));
            rows.row(8, format!("window of {window} sequences"));
        }
        (Some(Opcode::MultiGet), false) if rows.left() >= 16 => explain_multi_get(rows),
        (Some(Opcode::MultiGet), true) if rows.left() >= 16 => explain_values(rows),
        (Some(Opcode::Scan), false) if rows.left() >= 24 => explain_scan_request(rows),
        (Some(Opcode::Scan), true) if rows.left() >= 24 => explain_scan_reply(rows),
        (Some(Opcode::Hello), false) if rows.left() >= 8 => {
            let (low, high) = (rows.bytes[rows.at], rows.bytes[rows.at + 1]);
            let (name, cluster) = (usize::from(rows.u16(2)), usize::from(rows.u16(4)));
            rows.row(
                8,
                format!("versions {low} to {high}, name of {name} bytes, cluster of {cluster}"),
            );
            rows.data(name, "name");
            rows.data(cluster, "cluster");
        }
        (Some(Opcode::Hello), true) if rows.left() >= 64 => explain_hello_reply(rows),
        (Some(Opcode::Admin), false) if rows.left() >= 16 => {
            let (kind, address) = (rows.bytes[rows.at], usize::from(rows.u16(6)));
            let name = match kind {
                1 => "add",
                2 => "promote",
                3 => "remove",
                4 => "transfer",
                5 => "checkpoint",
                6 => "verify",
                7 => "compact",
                _ => "unknown",
            };
            let what = match kind {
                5 => "path",
                7 => "keys",
                _ => "address",
            };
            rows.row(8, format!("{name}, {what} of {address} bytes"));
            match (kind, rows.u64(0)) {
                (5, _) => rows.row(8, "0"),
                (6, 0) => rows.row(8, "rate 0: no bound"),
                (6, n) => rows.row(8, format!("rate {n} bytes a second")),
                (7, n) => {
                    let start = usize::try_from(n).unwrap_or(usize::MAX).min(address);
                    rows.row(8, format!("START of {n} bytes"));
                    rows.data(start, "START");
                    rows.data(address - start, "END");
                    return;
                }
                (_, 0) => rows.row(8, "node 0: any"),
                (_, n) => rows.row(8, format!("node {n}")),
            }
            rows.data(address, if kind == 5 { "path" } else { "peer address" });
        }
        (Some(Opcode::Status | Opcode::Stats | Opcode::Members), true) => {
            let rest = rows.left();
            rows.data(rest, "JSON");
        }
        _ => {}
    }
}

fn snapshot_note(seq: u64) -> String {
    match seq {
        0 => "snapshot 0: now".to_owned(),
        n => format!("snapshot {n}"),
    }
}

fn explain_error(rows: &mut Rows<'_>, status: u32) {
    if rows.left() < 8 {
        return;
    }
    let effect = super::Effect::from_u8(rows.bytes[rows.at + 4])
        .map_or_else(|| "BAD".to_owned(), |e| e.to_string());
    let (retry, leader) = (rows.u32(0), usize::from(rows.u16(6)));
    let named = if leader == 0 { String::new() } else { format!(", leader's address of {leader}") };
    rows.row(8, format!("retry after {retry} ms, effect on the write: {effect}{named}"));
    rows.data(leader, "leader's address");
    if status == ErrorCode::ConditionFailed.status() && rows.left() >= 32 {
        for name in ["log index", "applied sequence"] {
            let n = rows.u64(0);
            rows.row(8, format!("{name} {n}"));
        }
        match rows.u64(0) {
            0 => rows.row(8, "present sequence 0: the key is absent"),
            n => rows.row(8, format!("the key's present sequence {n}")),
        }
        let condition = rows.u32(0);
        rows.row(8, format!("condition {condition}, from 0"));
    }
    let rest = rows.left();
    rows.data(rest, "message");
}

fn explain_multi_get(rows: &mut Rows<'_>) {
    let (note, keys) = (snapshot_note(rows.u64(0)), rows.u32(8));
    rows.row(8, note);
    rows.row(8, format!("{keys} keys"));
    for i in 1..=keys {
        if rows.left() < 2 {
            return;
        }
        let len = usize::from(rows.u16(0));
        rows.row(2, format!("key {i}: {len} bytes"));
        rows.data(len, "key");
    }
}

fn explain_values(rows: &mut Rows<'_>) {
    let (at, values) = (rows.u64(0), rows.u32(8));
    rows.row(8, format!("read at sequence {at}"));
    rows.row(8, format!("{values} values"));
    for i in 1..=values {
        if rows.left() < 16 {
            return;
        }
        match rows.u64(0) {
            0 => rows.row(8, format!("value {i}: sequence 0: the key was not found")),
            seq => rows.row(8, format!("value {i}: the key's sequence {seq}")),
        }
        let len = rows.u32(0) as usize;
        rows.row(8, format!("value {i}: {len} bytes"));
        rows.data(len, "value");
        pad(rows, len);
    }
}

fn explain_scan_request(rows: &mut Rows<'_>) {
    let note = snapshot_note(rows.u64(0));
    rows.row(8, note);
    let (limit, bytes) = (rows.u32(0), rows.u32(4));
    rows.row(8, format!("limit {limit} entries, {bytes} bytes (0 = the server's)"));
    let flags = rows.u16(0);
    let prefix = flags & 2 != 0;
    let names = match flags {
        0 => "none",
        1 => "keys only",
        2 => "prefix",
        3 => "keys only, prefix",
        _ => "unknown",
    };
    let lens = [rows.u16(2), rows.u16(4), rows.u16(6)].map(usize::from);
    let [start, end, resume] = lens;
    rows.row(8, format!("flags {names}; lengths: start {start}, end {end}, resume {resume}"));
    rows.data(start, if prefix { "prefix" } else { "start" });
    rows.data(end, "end");
    rows.data(resume, "resume");
}

fn explain_scan_reply(rows: &mut Rows<'_>) {
    let (snapshot, applied) = (rows.u64(0), rows.u64(8));
    rows.row(8, format!("snapshot {snapshot}"));
    rows.row(8, format!("applied sequence {applied}"));
    let (count, flags, resume) = (rows.u32(0), rows.u16(4), usize::from(rows.u16(6)));
    let flags = if flags == 1 { "keys only" } else { "none" };
    rows.row(8, format!("{count} entries, flags {flags}, resume key of {resume} bytes"));
    rows.data(resume, "resume");
    pad(rows, resume);
    for i in 1..=count {
        if rows.left() < 16 {
            return;
        }
        let seq = rows.u64(0);
        rows.row(8, format!("entry {i}: sequence {seq}"));
        let (key, value) = (rows.u32(0) as usize, rows.u32(4) as usize);
        rows.row(8, format!("entry {i}: key of {key} bytes, value of {value}"));
        rows.data(key, "key");
        rows.data(value, "value");
        pad(rows, key.wrapping_add(value));
    }
}

fn pad(rows: &mut Rows<'_>, len: usize) {
    let n = (len.wrapping_neg() % 8).min(rows.left());
    if n > 0 {
        rows.row(n, "padding");
    }
}

fn explain_hello_reply(rows: &mut Rows<'_>) {
    let (version, frame) = (rows.bytes[rows.at], rows.u32(4));
    rows.row(8, format!("version {version}, largest frame {frame}"));
    for (a, b) in [
        ("longest key", "longest value"),
        ("largest batch", "most operations in it"),
        ("most requests in flight", "largest scan page"),
        ("default deadline ms", "longest deadline ms"),
        ("idle timeout ms", "snapshot kept ms"),
    ] {
        let (x, y) = (rows.u32(0), rows.u32(4));
        rows.row(8, format!("{a} {x}, {b} {y}"));
    }
    let node = rows.u64(0);
    rows.row(8, format!("node {node}"));
    let (cluster, server) = (usize::from(rows.u16(0)), usize::from(rows.u16(2)));
    rows.row(8, format!("cluster of {cluster} bytes, server of {server}"));
    rows.data(cluster, "cluster");
    rows.data(server, "server");
}

/// Explains one batch.
#[must_use]
pub fn explain_batch(bytes: &[u8]) -> Explained {
    let mut rows = Rows { bytes, at: 0, text: String::new() };
    explain_batch_rows(&mut rows);
    let rest = rows.left();
    rows.data(rest, "unexplained");
    Explained { text: rows.text, fault: BatchRef::parse(bytes).err().map(|e| e.to_string()) }
}

fn explain_batch_rows(rows: &mut Rows<'_>) {
    if rows.left() < BATCH_HEADER_BYTES {
        return;
    }
    let (version, flags) = (rows.bytes[rows.at], rows.bytes[rows.at + 1]);
    let (window, ops) = (rows.u16(2), rows.u32(4));
    let session = if window == 0 { String::new() } else { format!(", session window {window}") };
    let flags = if flags == FLAG_CONDITIONS { "conditions".into() } else { flags.to_string() };
    rows.row(8, format!("batch version {version}, flags {flags}{session}, {ops} operations"));
    for name in ["client id", "client sequence"] {
        match rows.u64(0) {
            0 => rows.row(8, format!("{name} 0: none")),
            n => rows.row(8, format!("{name} {n}")),
        }
    }
    if flags == "conditions" && explain_conditions(rows).is_none() {
        return;
    }
    for i in 1..=ops {
        let Some(&kind_byte) = rows.bytes.get(rows.at) else {
            return;
        };
        let name = match kind_byte {
            kind::PUT => "PUT",
            kind::DELETE => "DELETE",
            kind::DELETE_RANGE => {
                let Some((len, n)) = varint::get_u32(&rows.bytes[rows.at + 1..]) else {
                    return;
                };
                rows.row(1 + n, format!("operation {i}: DELETE_RANGE, start of {len} bytes"));
                rows.data(len as usize, "start");
                let Some((len, n)) = varint::get_u32(&rows.bytes[rows.at..]) else {
                    return;
                };
                rows.row(n, format!("end of {len} bytes"));
                rows.data(len as usize, "end");
                continue;
            }
            kind::NO_OP => {
                rows.row(1, format!("operation {i}: no-op"));
                continue;
            }
            kind::REGISTER => {
                rows.row(1, format!("operation {i}: a session begins"));
                continue;
            }
            kind::MEMBERSHIP => {
                let Some((len, n)) = varint::get_u32(&rows.bytes[rows.at + 1..]) else {
                    return;
                };
                rows.row(1 + n, format!("operation {i}: membership of {len} bytes"));
                explain_membership(rows, len as usize);
                continue;
            }
            _ => return,
        };
        let Some((key, n)) = varint::get_u32(&rows.bytes[rows.at + 1..]) else {
            return;
        };
        rows.row(1 + n, format!("operation {i}: {name}, key of {key} bytes"));
        rows.data(key as usize, "key");
        if kind_byte == kind::PUT {
            let Some((value, n)) = varint::get_u32(&rows.bytes[rows.at..]) else {
                return;
            };
            rows.row(n, format!("value of {value} bytes"));
            rows.data(value as usize, "value");
        }
    }
}

/// The conditions of a batch; `None` where they cannot be read.
fn explain_conditions(rows: &mut Rows<'_>) -> Option<()> {
    let count = rows.bytes.get(rows.at..rows.at + 2).map(|_| rows.u16(0))?;
    rows.row(2, format!("{count} conditions"));
    for i in 1..=count {
        let expect = match *rows.bytes.get(rows.at)? {
            conditions::kind::ABSENT => "absent",
            conditions::kind::EXISTS => "exists",
            conditions::kind::SEQ => "written under a sequence number",
            _ => return None,
        };
        let is_seq = rows.bytes[rows.at] == conditions::kind::SEQ;
        let (key, n) = varint::get_u32(&rows.bytes[rows.at + 1..])?;
        rows.row(1 + n, format!("condition {i}: {expect}, key of {key} bytes"));
        rows.data(key as usize, "key");
        if is_seq {
            let (seq, n) = varint::get_u64(rows.bytes.get(rows.at..)?)?;
            rows.row(n, format!("sequence number {seq}"));
        }
    }
    Some(())
}

/// The bytes of a membership; what cannot be read stays unexplained.
fn explain_membership(rows: &mut Rows<'_>, len: usize) {
    let bytes = rows.bytes;
    let Some(encoded) = bytes.get(rows.at..rows.at.saturating_add(len)) else { return };
    let Ok(membership) = Membership::decode(encoded) else { return };
    rows.row(2, format!("membership version 1, {} members", membership.members().count()));
    for member in membership.members() {
        let (peer, client) = (member.peer_address.len(), member.client_address.len());
        rows.row(8, format!("node {}", member.replica.node));
        rows.row(8, format!("incarnation {:016x}", member.replica.incarnation));
        rows.row(1, member.role.name());
        rows.row(4, format!("addresses: for peers {peer} bytes, for clients {client}"));
        rows.data(peer, "peer address");
        rows.data(client, "client address");
    }
}

/// A membership as JSON: `[{"node", "incarnation", "role", "peer_address", "client_address"}]`.
#[must_use]
pub fn membership_json(membership: &Membership) -> Value {
    let member = |m: &Member| {
        json!({
            "node": m.replica.node.0, "incarnation": format!("{:016x}", m.replica.incarnation),
            "role": m.role.name(), "peer_address": m.peer_address, "client_address": m.client_address,
        })
    };
    membership.members().map(member).collect()
}

fn escaped(bytes: &[u8]) -> String {
    let mut out = Vec::new();
    text::escape_into(&mut out, bytes);
    String::from_utf8_lossy(&out).into_owned()
}

/// A batch as JSON: `{"client_id", "client_sequence", "acked_below", "conditions"?: [{"key", "expect", "seq"?}], "ops": [{"op",
/// "key", "value"?}]}`, a range delete with "start" and "end"; bytes as escaped text.
#[must_use]
pub fn batch_json(batch: &BatchRef<'_>) -> Value {
    let ops: Vec<Value> = batch
        .ops()
        .map(|op| match op {
            Op::Put { key, value } => {
                json!({"op": "put", "key": escaped(key), "value": escaped(value)})
            }
            Op::Delete { key } => json!({"op": "delete", "key": escaped(key)}),
            Op::DeleteRange { start, end } => {
                json!({"op": "delete_range", "start": escaped(start), "end": escaped(end)})
            }
            Op::NoOp => json!({"op": "no_op"}),
            Op::Register => json!({"op": "register"}),
            Op::Membership(encoded) => match Membership::decode(encoded) {
                Ok(membership) => {
                    json!({"op": "membership", "members": membership_json(&membership)})
                }
                Err(error) => json!({"op": "membership", "error": error.to_string()}),
            },
        })
        .collect();
    let mut out = json!({
        "client_id": batch.client_id(), "client_sequence": batch.client_sequence(),
        "acked_below": batch.acked_below(), "ops": ops,
    });
    if batch.has_conditions() {
        out["conditions"] = conditions_json(batch);
    }
    out
}

/// The conditions of a batch as JSON: `[{"key", "expect": "absent" | "exists" | "seq", "seq"?}]`.
#[must_use]
pub fn conditions_json(batch: &BatchRef<'_>) -> Value {
    let condition = |Condition { key, expect }: Condition<'_>| match expect {
        Expect::Absent => json!({"key": escaped(key), "expect": "absent"}),
        Expect::Exists => json!({"key": escaped(key), "expect": "exists"}),
        Expect::Seq(seq) => json!({"key": escaped(key), "expect": "seq", "seq": seq.0}),
    };
    batch.conditions().map(condition).collect()
}

/// A request as JSON; `kind` is its opcode's name, bytes are escaped text.
#[must_use]
pub fn request_json(request: &Request<'_>) -> Value {
    match request {
        Request::Ping | Request::Status | Request::Stats | Request::Register | Request::Members => {
            json!({"kind": request.opcode().name()})
        }
        Request::Admin(admin) => match *admin {
            AdminRequest::Add { node, peer_address } => json!({
                "kind": "ADMIN", "command": "add", "node": node.0, "peer_address": peer_address,
            }),
            AdminRequest::Promote(node) => {
                json!({"kind": "ADMIN", "command": "promote", "node": node.0})
            }
            AdminRequest::Remove(node) => {
                json!({"kind": "ADMIN", "command": "remove", "node": node.0})
            }
            AdminRequest::Transfer(to) => {
                json!({"kind": "ADMIN", "command": "transfer", "node": to.map(|node| node.0)})
            }
            AdminRequest::Checkpoint { dir } => {
                json!({"kind": "ADMIN", "command": "checkpoint", "dir": dir})
            }
            AdminRequest::Verify { rate } => {
                json!({"kind": "ADMIN", "command": "verify", "rate": rate})
            }
            AdminRequest::Compact { start, end } => json!({
                "kind": "ADMIN", "command": "compact", "start": escaped(start), "end": escaped(end),
            }),
        },
        Request::Hello(h) => json!({
            "kind": "HELLO", "min_version": h.min_version, "max_version": h.max_version,
            "name": h.name, "cluster": h.cluster,
        }),
        Request::Get { key, snapshot } | Request::StaleGet { key, snapshot } => {
            json!({"kind": "GET", "key": escaped(key), "snapshot": snapshot.0})
        }
        Request::MultiGet(get) | Request::StaleMultiGet(get) => {
            let keys: Vec<String> = get.keys().map(escaped).collect();
            json!({"kind": "MULTI_GET", "keys": keys, "snapshot": get.snapshot.0})
        }
        Request::Write { opcode, batch } => {
            json!({"kind": opcode.name(), "batch": batch_json(batch)})
        }
        Request::Scan(s) | Request::StaleScan(s) => {
            let mut out = json!({
                "kind": "SCAN", "resume": escaped(s.resume), "snapshot": s.snapshot.0,
                "limit": s.limit, "max_bytes": s.max_bytes, "keys_only": s.keys_only,
            });
            if s.reverse {
                out["reverse"] = true.into();
            }
            match s.range {
                ScanRange::Range { start, end } => {
                    out["start"] = escaped(start).into();
                    out["end"] = escaped(end).into();
                }
                ScanRange::Prefix(prefix) => out["prefix"] = escaped(prefix).into(),
            }
            out
        }
    }
}

/// A reply as JSON; `kind` says what it holds, bytes are escaped text.
#[must_use]
pub fn response_json(response: &Response) -> Value {
    match response {
        Response::Pong => json!({"kind": "PONG"}),
        Response::Hello(h) => hello_json(h),
        Response::Value { seq, applied, value } => {
            json!({"kind": "VALUE", "seq": seq.0, "applied": applied.0, "value": escaped(value)})
        }
        Response::Stale { staleness, answer } => {
            let mut out = response_json(answer);
            out["applied_index"] = staleness.applied_index.0.into();
            out["age_ms"] = staleness.age_ms.into();
            out
        }
        Response::NotFound { applied } => json!({"kind": "NOT_FOUND", "applied": applied.0}),
        Response::Written { index, first_seq, last_seq } => json!({
            "kind": "WRITTEN", "index": index.0, "first_seq": first_seq.0, "last_seq": last_seq.0,
        }),
        Response::Registered(r) => json!({
            "kind": "REGISTERED", "client_id": r.client_id, "applied": r.applied.0, "window": r.window,
        }),
        Response::Scan(s) => {
            let entries: Vec<Value> = s
                .entries
                .iter()
                .map(
                    |e| json!({"key": escaped(&e.key), "seq": e.seq.0, "value": escaped(&e.value)}),
                )
                .collect();
            json!({
                "kind": "SCAN", "snapshot": s.snapshot.0, "applied": s.applied.0,
                "keys_only": s.keys_only, "entries": entries,
                "resume": s.resume.as_deref().map(escaped),
            })
        }
        Response::Status(json) => json!({"kind": "STATUS", "document": json}),
        Response::Members(json) => json!({"kind": "MEMBERS", "document": json}),
        Response::Stats(json) => json!({"kind": "STATS", "document": json}),
        Response::Values(reply) => {
            let value = |found: &Option<(SequenceNumber, Bytes)>| match found {
                Some((seq, value)) => json!({"seq": seq.0, "value": escaped(value)}),
                None => Value::Null,
            };
            let values: Vec<Value> = reply.values.iter().map(value).collect();
            json!({"kind": "MULTI_GET", "at": reply.at.0, "values": values})
        }
        Response::Error(e) => error_json(e),
    }
}

fn error_json(e: &ErrorReply) -> Value {
    let mut out = json!({
        "kind": "ERROR", "code": e.code.name(), "effect": e.effect.name(),
        "retry_after_ms": e.retry_after_ms, "leader": e.leader, "message": e.message,
    });
    if let Some(ConditionFailed { index, applied, failed }) = e.condition.as_deref() {
        out["condition"] = json!({
            "index": index.0, "applied": applied.0, "condition": failed.condition,
            "present": failed.present.map(|seq| seq.0),
        });
    }
    out
}

fn hello_json(h: &HelloReply) -> Value {
    json!({
        "kind": "HELLO", "version": h.version, "node_id": h.node_id.0, "cluster": h.cluster,
        "server": h.server, "max_frame_bytes": h.max_frame_bytes, "max_key_bytes": h.max_key_bytes,
        "max_value_bytes": h.max_value_bytes, "max_batch_bytes": h.max_batch_bytes,
        "max_batch_ops": h.max_batch_ops, "max_in_flight": h.max_in_flight,
        "max_scan_bytes": h.max_scan_bytes, "default_deadline_ms": h.default_deadline_ms,
        "max_deadline_ms": h.max_deadline_ms, "idle_timeout_ms": h.idle_timeout_ms,
        "snapshot_ttl_ms": h.snapshot_ttl_ms,
    })
}

/// A frame as JSON: header fields and `request`, `reply`, or `peer`. An error is the code's name and the message.
pub fn frame_json(bytes: &[u8], crc: CrcPolicy) -> Result<Value, (ErrorCode, String)> {
    let (header, body) = whole_frame(bytes, crc)?;
    if PeerOpcode::of_frame(header.opcode).is_some() {
        return peer_frame_json(bytes);
    }
    let mut out = json!({
        "length": header.length, "version": header.version, "opcode": header.opcode,
        "no_crc": header.flags & FLAG_NO_CRC != 0, "request_id": header.request_id,
    });
    if header.flags & FLAG_STALE != 0 {
        out["stale"] = true.into();
    }
    if header.opcode & REPLY_BIT == 0 {
        let request =
            Request::decode_frame(&header, body).map_err(|e| (e.code(), e.to_string()))?;
        out["deadline_ms"] = header.word.into();
        out["request"] = request_json(&request);
    } else {
        let reply = Response::decode(&header, &Bytes::copy_from_slice(body))
            .map_err(|e| (ErrorCode::BadFrame, e.to_string()))?;
        out["status"] = header.word.into();
        out["reply"] = response_json(&reply);
    }
    Ok(out)
}

/// The one frame that `bytes` are: its header and body.
fn whole_frame(bytes: &[u8], crc: CrcPolicy) -> Result<(FrameHeader, &[u8]), (ErrorCode, String)> {
    match frame::decode(bytes, crc) {
        Ok(Decoded::Frame { header, body, consumed }) if consumed == bytes.len() => {
            Ok((header, body))
        }
        Ok(Decoded::Frame { consumed, .. }) => {
            let extra = bytes.len() - consumed;
            Err((ErrorCode::BadFrame, format!("{extra} bytes after the end of the frame")))
        }
        Ok(Decoded::Incomplete { need }) => {
            let have = bytes.len();
            Err((ErrorCode::BadFrame, format!("{need} bytes needed, here are {have}")))
        }
        Err(e) => Err((e.code(), e.to_string())),
    }
}
