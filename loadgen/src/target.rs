//! What is spoken to the server: BeachDB's frames or Redis' RESP, behind one small trait, so that both sides of a
//! comparison are driven by the same loop.

use crate::stats::ErrorKind;
use crate::workload::{Op, OpKind, Workload};
use beachdb::base::SequenceNumber;
use beachdb::base::batch::WriteBatch;
use beachdb::proto::frame::{self, CrcPolicy, FrameHeader};
use beachdb::proto::{Effect, ErrorCode, ErrorReply, Opcode, REPLY_BIT, Request, Response};
use beachdb::proto::{ScanRange, ScanRequest};
use bytes::Bytes;
use std::io::Write;

/// The outcome of one request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It was done; a read may have found nothing.
    Done {
        /// Whether there was something to read; true for writes.
        found: bool,
    },
    /// It was not, or nobody knows.
    Error {
        /// Counted as this.
        kind: ErrorKind,
        /// When to try again, 0 = not said.
        retry_after_ms: u32,
        /// Where the leader is, when the node does not lead and knows; else empty.
        leader: String,
        /// The server's words.
        message: String,
    },
}

/// The result of looking for one reply at the front of the input.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decoded {
    /// More bytes are needed.
    Incomplete,
    /// One reply.
    Reply {
        /// Its bytes.
        consumed: usize,
        /// The request it answers, 0 = the oldest one in flight.
        id: u64,
        /// What it says.
        outcome: Outcome,
    },
}

/// A request encoder and reply decoder. Neither keeps state about connections.
pub trait Protocol {
    /// Whether replies come in the order of the requests (and carry no id).
    const IN_ORDER: bool;
    /// Whether it can do this kind of operation at all.
    fn supports(kind: OpKind) -> bool;
    /// Appends the request for `op` to `out`.
    fn encode(&mut self, op: &Op, id: u64, workload: &mut Workload, out: &mut Vec<u8>);
    /// Reads one reply. An error means that the connection cannot be understood any more.
    fn decode(&mut self, input: &[u8]) -> Result<Decoded, String>;
}

/// BeachDB's binary frames (`proto-spec/client.md`).
#[derive(Debug)]
pub struct Beachd {
    deadline_ms: u32,
    batch: WriteBatch,
    scan_limit: u32,
}

impl Beachd {
    /// Requests carry this deadline; scans ask for this many entries.
    #[must_use]
    pub fn new(deadline_ms: u32, scan_limit: u32) -> Self {
        Self { deadline_ms, batch: WriteBatch::new(), scan_limit }
    }
}

impl Protocol for Beachd {
    const IN_ORDER: bool = false;

    fn supports(_kind: OpKind) -> bool {
        true
    }

    fn encode(&mut self, op: &Op, id: u64, workload: &mut Workload, out: &mut Vec<u8>) {
        let encoded = match op.kind {
            OpKind::Put => {
                let (key, value) = workload.key_value(op);
                self.batch.clear();
                self.batch.put(key, value).expect("the workload checked the sizes");
                let open = frame::begin(out, Opcode::Put.byte(), 0, id, self.deadline_ms);
                out.extend_from_slice(self.batch.as_bytes());
                open.finish(out)
            }
            OpKind::Get => {
                let get = Request::Get { key: workload.key(op), snapshot: SequenceNumber::ZERO };
                get.encode(out, id, self.deadline_ms)
            }
            OpKind::Scan => {
                let range = ScanRange::Range { start: workload.key(op), end: b"" };
                let scan = ScanRequest { limit: self.scan_limit, ..ScanRequest::new(range) };
                Request::Scan(scan).encode(out, id, self.deadline_ms)
            }
        };
        encoded.expect("keys, values, and scans within their limits fit in a frame");
    }

    fn decode(&mut self, input: &[u8]) -> Result<Decoded, String> {
        match frame::decode(input, CrcPolicy::OptionalOnLoopback).map_err(|e| e.to_string())? {
            frame::Decoded::Incomplete { .. } => Ok(Decoded::Incomplete),
            frame::Decoded::Frame { header, body, consumed } => Ok(Decoded::Reply {
                consumed,
                id: header.request_id,
                outcome: beachd_outcome(&header, body)?,
            }),
        }
    }
}

/// What a reply frame says. The common replies are judged by their header and first bytes; the rest are decoded
/// in full.
fn beachd_outcome(header: &FrameHeader, body: &[u8]) -> Result<Outcome, String> {
    const PUT_REPLY: u8 = Opcode::Put.byte() | REPLY_BIT;
    const GET_REPLY: u8 = Opcode::Get.byte() | REPLY_BIT;
    match (header.word, header.opcode, body.first_chunk::<8>()) {
        (0, PUT_REPLY, Some(_)) => return Ok(Outcome::Done { found: true }),
        (0, GET_REPLY, Some(seq)) => return Ok(Outcome::Done { found: *seq != [0; 8] }),
        _ => {}
    }
    let reply =
        Response::decode(header, &Bytes::copy_from_slice(body)).map_err(|e| e.to_string())?;
    match reply {
        Response::Scan(scan) => Ok(Outcome::Done { found: !scan.entries.is_empty() }),
        Response::Error(error) => Ok(beachd_error(error)),
        other => Err(format!("a reply of the wrong kind: {other:?}")),
    }
}

fn beachd_error(error: ErrorReply) -> Outcome {
    let kind = match error.code {
        ErrorCode::Busy => ErrorKind::Busy,
        ErrorCode::NotLeader => ErrorKind::NotLeader,
        _ if error.effect == Effect::Unknown => ErrorKind::Unknown,
        ErrorCode::DeadlineExceeded => ErrorKind::Deadline,
        _ => ErrorKind::Refused,
    };
    let message = format!("{}: {}", error.code.name(), error.message);
    Outcome::Error { kind, retry_after_ms: error.retry_after_ms, leader: error.leader, message }
}

/// Redis' RESP: `SET` and `GET`.
#[derive(Debug)]
pub struct Redis;

impl Protocol for Redis {
    const IN_ORDER: bool = true;

    fn supports(kind: OpKind) -> bool {
        kind != OpKind::Scan
    }

    fn encode(&mut self, op: &Op, _id: u64, workload: &mut Workload, out: &mut Vec<u8>) {
        match op.kind {
            OpKind::Put => {
                let (key, value) = workload.key_value(op);
                out.extend_from_slice(b"*3\r\n$3\r\nSET\r\n");
                bulk_string(out, key);
                bulk_string(out, value);
            }
            OpKind::Get => {
                out.extend_from_slice(b"*2\r\n$3\r\nGET\r\n");
                bulk_string(out, workload.key(op));
            }
            OpKind::Scan => unreachable!("`supports` says no, and main asks it first"),
        }
    }

    fn decode(&mut self, input: &[u8]) -> Result<Decoded, String> {
        let Some(end) = input.windows(2).position(|w| w == b"\r\n") else {
            return if input.len() > 64 << 10 {
                Err("a RESP line of more than 64 KiB".into())
            } else {
                Ok(Decoded::Incomplete)
            };
        };
        let (line, after) = (&input[..end], end + 2);
        let text = || String::from_utf8_lossy(line).into_owned();
        let done =
            |consumed, found| Decoded::Reply { consumed, id: 0, outcome: Outcome::Done { found } };
        match line.first() {
            Some(b'+' | b':') => Ok(done(after, true)),
            Some(b'$') if line == b"$-1" => Ok(done(after, false)),
            Some(b'$') => {
                let len: usize = std::str::from_utf8(&line[1..])
                    .ok()
                    .and_then(|digits| digits.parse().ok())
                    .filter(|len| *len <= beachdb::limits::MAX_FRAME_BYTES)
                    .ok_or_else(|| format!("a RESP bulk string length of `{}`", text()))?;
                let total = after + len + 2;
                Ok(if input.len() < total { Decoded::Incomplete } else { done(total, true) })
            }
            Some(b'-') => Ok(Decoded::Reply {
                consumed: after,
                id: 0,
                outcome: Outcome::Error {
                    kind: ErrorKind::Refused,
                    retry_after_ms: 0,
                    leader: String::new(),
                    message: text(),
                },
            }),
            _ => Err(format!("expected a RESP reply, found `{}`", text())),
        }
    }
}

fn bulk_string(out: &mut Vec<u8>, bytes: &[u8]) {
    write!(out, "${}\r\n", bytes.len()).expect("writing to memory");
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{Mix, WorkloadOptions};

    fn workload() -> Workload {
        Workload::new(WorkloadOptions {
            mix: Mix::Put,
            distribution: None,
            keys: 100,
            key_size: 8,
            value_size: 8,
            seed: 1,
            preloaded: false,
        })
        .unwrap()
    }

    #[test]
    fn redis_requests_are_resp() {
        let mut out = Vec::new();
        let put = Op { kind: OpKind::Put, key: 7, missing: false };
        Redis.encode(&put, 0, &mut workload(), &mut out);
        assert_eq!(out, b"*3\r\n$3\r\nSET\r\n$8\r\nkey:0007\r\n$8\r\nkey:0007\r\n");
        out.clear();
        Redis.encode(&Op { kind: OpKind::Get, ..put }, 0, &mut workload(), &mut out);
        assert_eq!(out, b"*2\r\n$3\r\nGET\r\n$8\r\nkey:0007\r\n");
    }

    #[test]
    fn redis_replies_are_understood_at_every_cut() {
        let whole = b"+OK\r\n$5\r\nhello\r\n$-1\r\n-ERR no\r\n";
        let mut at = 0;
        let mut outcomes = Vec::new();
        while at < whole.len() {
            let mut end = at;
            loop {
                match Redis.decode(&whole[at..end]).unwrap() {
                    Decoded::Incomplete => end += 1,
                    Decoded::Reply { consumed, outcome, .. } => {
                        assert_eq!(consumed, end - at, "not before its last byte is there");
                        at = end;
                        outcomes.push(outcome);
                        break;
                    }
                }
            }
        }
        assert_eq!(outcomes[0], Outcome::Done { found: true });
        assert_eq!(outcomes[1], Outcome::Done { found: true });
        assert_eq!(outcomes[2], Outcome::Done { found: false });
        assert!(matches!(&outcomes[3], Outcome::Error { message, .. } if message == "-ERR no"));
    }

    #[test]
    fn garbage_is_an_error_not_a_panic() {
        assert!(Redis.decode(b"HTTP/1.1 400\r\n").is_err());
        assert!(Redis.decode(b"$99999999999999\r\n").is_err());
        assert!(Redis.decode(b"\r\n").is_err());
    }
}
