//! etcd's messages, as far as a put and a linearizable get need them: protobuf inside of gRPC's length-prefixed framing.
//!
//! ```text
//!   gRPC      1 B  0 = not compressed     4 B  length, big-endian     the message
//!   protobuf  a field is a varint tag (number << 3 | wire type), then: 0 a varint, 1 eight bytes, 2 a varint length and
//!             so many bytes, 5 four bytes; fields of value 0 are left out
//!
//!   PutRequest      1 key  2 value  3 lease  …           PutResponse    1 header  2 prev_kv
//!   RangeRequest    1 key  2 range_end  3 limit  …       RangeResponse  1 header  2 kvs…  3 more  4 count
//!                   7 serializable (left out = linearizable)
//!   StatusRequest   nothing                              StatusResponse 1 header  2 version  3 db_size  4 leader  …
//!   ResponseHeader  1 cluster_id  2 member_id  3 revision  4 raft_term
//! ```
//!
//! From `etcd/api/etcdserverpb/rpc.proto`; the same in 3.4 to 3.6. Unknown fields are passed over, as protobuf wants it.

use bytes::{BufMut, Bytes, BytesMut};

/// The method that writes a key.
pub const PUT: &str = "/etcdserverpb.KV/Put";
/// The method that reads one key or a run of them.
pub const RANGE: &str = "/etcdserverpb.KV/Range";
/// The method that says who leads.
pub const STATUS: &str = "/etcdserverpb.Maintenance/Status";

/// Bytes of gRPC's prefix of a message.
pub const PREFIX_BYTES: usize = 5;
/// `range_end` of a range from a key to the end of all keys.
const TO_THE_END: &[u8] = b"\0";

const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const BYTES: u8 = 2;
const FIXED32: u8 = 5;

/// `PutRequest`, framed.
#[must_use]
pub fn put(key: &[u8], value: &[u8]) -> Bytes {
    framed(key.len() + value.len(), |out| {
        bytes_field(out, 1, key);
        bytes_field(out, 2, value);
    })
}

/// A linearizable `RangeRequest` for one key, framed.
#[must_use]
pub fn get(key: &[u8]) -> Bytes {
    framed(key.len(), |out| bytes_field(out, 1, key))
}

/// A linearizable `RangeRequest` for `limit` keys from `start` on, framed.
#[must_use]
pub fn scan(start: &[u8], limit: u32) -> Bytes {
    framed(start.len(), |out| {
        bytes_field(out, 1, start);
        bytes_field(out, 2, TO_THE_END);
        if limit > 0 {
            out.put_u8(3 << 3 | VARINT);
            varint(out, u64::from(limit));
        }
    })
}

/// `StatusRequest`, framed.
#[must_use]
pub fn status() -> Bytes {
    framed(0, |_| ())
}

fn framed(payload: usize, message: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut out = BytesMut::with_capacity(PREFIX_BYTES + payload + 24);
    out.put_bytes(0, PREFIX_BYTES);
    message(&mut out);
    let length = u32::try_from(out.len() - PREFIX_BYTES)
        .expect("keys and values within the workload's limits");
    out[1..PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
    out.freeze()
}

fn bytes_field(out: &mut BytesMut, number: u8, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    out.put_u8(number << 3 | BYTES);
    varint(out, bytes.len() as u64);
    out.put_slice(bytes);
}

fn varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// What a `PutResponse` or a `RangeResponse` says of the key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The store's revision: at least 1 in an answer that etcd has made.
    pub revision: u64,
    /// Key-value pairs in it.
    pub pairs: u64,
}

/// Reads the one message of a body: a `PutResponse` or a `RangeResponse`.
pub fn parse_answer(body: &[u8]) -> Result<Answer, String> {
    let mut answer = Answer { revision: 0, pairs: 0 };
    for field in Fields::new(unframed(body)?) {
        match field? {
            (1, Value::Bytes(header)) => answer.revision = parse_header(header)?.1,
            (2, Value::Bytes(_)) => answer.pairs += 1,
            _ => {}
        }
    }
    if answer.revision == 0 {
        return Err("a response whose header has no revision".into());
    }
    Ok(answer)
}

/// What a `StatusResponse` says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    /// Who answered.
    pub member: u64,
    /// Who leads, 0 = nobody known.
    pub leader: u64,
    /// etcd's version.
    pub version: String,
}

/// Reads the one message of a body: a `StatusResponse`.
pub fn parse_status(body: &[u8]) -> Result<Status, String> {
    let mut status = Status { member: 0, leader: 0, version: String::new() };
    for field in Fields::new(unframed(body)?) {
        match field? {
            (1, Value::Bytes(header)) => status.member = parse_header(header)?.0,
            (2, Value::Bytes(version)) => {
                status.version = String::from_utf8_lossy(version).into_owned();
            }
            (4, Value::Varint(leader)) => status.leader = leader,
            _ => {}
        }
    }
    Ok(status)
}

/// Member and revision of a `ResponseHeader`.
fn parse_header(header: &[u8]) -> Result<(u64, u64), String> {
    let (mut member, mut revision) = (0, 0);
    for field in Fields::new(header) {
        match field? {
            (2, Value::Varint(value)) => member = value,
            (3, Value::Varint(value)) => revision = value,
            _ => {}
        }
    }
    Ok((member, revision))
}

/// The message in a body that must hold exactly one, not compressed.
fn unframed(body: &[u8]) -> Result<&[u8], String> {
    let Some((prefix, message)) = body.split_first_chunk::<PREFIX_BYTES>() else {
        return Err(format!("a gRPC body of {} bytes, less than a message's prefix", body.len()));
    };
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
    if prefix[0] != 0 {
        return Err("a compressed gRPC message, which was not asked for".into());
    }
    if length != message.len() {
        return Err(format!("a gRPC message of {length} bytes in {} bytes", message.len()));
    }
    Ok(message)
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    /// Eight or four bytes; no field that is read here is of that kind.
    Fixed,
}

/// The fields of a message, in order; ends after the first error.
struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    const fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    fn field(&mut self) -> Result<(u64, Value<'a>), String> {
        let tag = self.varint()?;
        let value = match (tag & 7) as u8 {
            VARINT => Value::Varint(self.varint()?),
            FIXED64 => self.take(8).map(|_| Value::Fixed)?,
            BYTES => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            FIXED32 => self.take(4).map(|_| Value::Fixed)?,
            other => return Err(format!("protobuf wire type {other} in field {}", tag >> 3)),
        };
        Ok((tag >> 3, value))
    }

    fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0;
        for shift in (0..70).step_by(7) {
            let (byte, rest) =
                self.rest.split_first().ok_or("a protobuf varint that is cut off")?;
            self.rest = rest;
            if shift == 63 && *byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("a protobuf varint of more than 64 bits".into())
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], String> {
        let taken = usize::try_from(length).ok().and_then(|n| self.rest.split_at_checked(n));
        let Some((taken, rest)) = taken else {
            return Err(format!(
                "a protobuf field of {length} bytes where {} are left",
                self.rest.len()
            ));
        };
        self.rest = rest;
        Ok(taken)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // What etcdctl 3.4.23 and etcd 3.4.23 sent each other: DATA frames, between two nodes of a cluster of three.
    const PUT_REQUEST: &str = "00000000190a106b65793a303030303030303030303037120568656c6c6f";
    const PUT_RESPONSE: &str = "000000001b0a19089b8b87afaaed9ae47d10f3e780cac1d1b4cfd10118032002";
    const GET_REQUEST: &str = "00000000120a106b65793a303030303030303030303037";
    const GET_RESPONSE: &str = "000000003e0a19089b8b87afaaed9ae47d10f3e780cac1d1b4cfd10118032002\
         121f0a106b65793a3030303030303030303030371003180320012a0568656c6c6f2001";
    const GET_NOTHING: &str = "000000001b0a19089b8b87afaaed9ae47d10f3e780cac1d1b4cfd10118032002";
    const SCAN_REQUEST: &str = "000000000c0a056b65793a301201001802";
    const STATUS_REQUEST: &str = "0000000000";
    const STATUS_RESPONSE: &str = "000000003b0a19089b8b87afaaed9ae47d10f3e780cac1d1b4cfd10118032002\
         1206332e342e32331880c00120e69897e0c2cdb8d124280a3002380a48808001";

    fn bytes(hex: &str) -> Vec<u8> {
        let digit = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        (0..hex.len()).step_by(2).map(digit).collect()
    }

    #[test]
    fn requests_are_the_bytes_that_etcdctl_sends() {
        assert_eq!(put(b"key:000000000007", b"hello"), bytes(PUT_REQUEST));
        assert_eq!(get(b"key:000000000007"), bytes(GET_REQUEST));
        assert_eq!(scan(b"key:0", 2), bytes(SCAN_REQUEST));
        assert_eq!(status(), bytes(STATUS_REQUEST));
    }

    #[test]
    fn a_long_value_has_a_long_length() {
        let framed = put(b"k", &[7; 300]);
        assert_eq!(framed[..5], [0, 0, 0, 1, 0x32]); // 306: 2 + 1, 1 + 2 + 300
        assert_eq!(framed[5..11], [0x0a, 1, b'k', 0x12, 0xac, 0x02]);
        assert_eq!(framed.len(), 311);
    }

    #[test]
    fn answers_that_etcd_sent_are_understood() {
        let answer = |hex| parse_answer(&bytes(hex)).unwrap();
        assert_eq!(answer(PUT_RESPONSE), Answer { revision: 3, pairs: 0 });
        assert_eq!(answer(GET_RESPONSE), Answer { revision: 3, pairs: 1 });
        assert_eq!(answer(GET_NOTHING), Answer { revision: 3, pairs: 0 });
        let status = parse_status(&bytes(STATUS_RESPONSE)).unwrap();
        assert_eq!(status.version, "3.4.23");
        assert_eq!((status.member, status.leader), (0xd19e_d28c_1940_33f3, 0x24a2_e26c_2c05_cc66));
    }

    #[test]
    fn no_cut_and_no_damaged_byte_is_a_panic_or_passes_for_a_whole_answer() {
        for hex in [PUT_RESPONSE, GET_RESPONSE, STATUS_RESPONSE] {
            let whole = bytes(hex);
            for end in 0..whole.len() {
                assert!(parse_answer(&whole[..end]).is_err(), "cut at {end}");
                assert!(parse_status(&whole[..end]).is_err(), "cut at {end}");
            }
            for at in 0..whole.len() {
                for bit in 0..8 {
                    let mut damaged = whole.clone();
                    damaged[at] ^= 1 << bit;
                    drop((parse_answer(&damaged), parse_status(&damaged)));
                }
            }
        }
    }

    #[test]
    fn what_protobuf_forbids_is_an_error_that_says_it() {
        let framed = |message: &[u8]| super::framed(0, |out| out.put_slice(message));
        let error = |message: &[u8]| parse_answer(&framed(message)).unwrap_err();
        assert!(error(b"").contains("no revision"));
        assert!(error(b"\x0b").contains("wire type 3"));
        assert!(error(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01").contains("0 are left"));
        assert!(error(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01").contains("64 bits"));
        assert!(error(b"\x80").contains("cut off"));
        let compressed = [1, 0, 0, 0, 0];
        assert!(parse_answer(&compressed).unwrap_err().contains("compressed"));
    }

    #[test]
    fn fields_of_a_later_version_are_passed_over() {
        let message = [0x0a, 2, 0x18, 9, 0x79, 0, 0, 0, 0, 0, 0, 0, 0, 0x7d, 0, 0, 0, 0, 0x78, 5];
        let answer = parse_answer(&framed(0, |out| out.put_slice(&message))).unwrap();
        assert_eq!(answer, Answer { revision: 9, pairs: 0 });
    }
}
