//! Unit tests of the room; the vectors and the spec pages are tested in `tests/proto_spec.rs`.

use super::*;
use crate::base::conditions::FailedCondition;

#[test]
fn classify_by_first_byte_and_line() {
    let cases: [(&[u8], Wire); 12] = [
        (b"", Wire::Empty),
        (b"\0\0\0\x18", Wire::Binary),
        (b"\x16\x03\x01", Wire::Tls),
        (b"GET k", Wire::Inline),
        (b"GET k\r\n", Wire::Inline),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", Wire::Http),
        (b"GET / HTTP/1.0\n", Wire::Http),
        (b"PRI * HTTP/2.0\r\n", Wire::Http),
        (b"POST /v1/x HTTP/1.1\r\n", Wire::Http),
        (b"PUT k HTTP/1.1\r\n", Wire::Inline),
        (b"\r\n", Wire::Inline),
        (b"\xff\xfe", Wire::Unknown),
    ];
    for (input, expected) in cases {
        assert_eq!(classify(input), expected, "{input:?}");
    }
}

use crate::base::batch::{BATCH_HEADER_BYTES, BatchRef, WriteBatch};
use crate::base::{LogIndex, NodeId, SequenceNumber};
use crate::limits::{
    MAX_ADDRESS_BYTES, MAX_FRAME_BYTES, MAX_KEY_BYTES, MAX_SCAN_ENTRIES, MAX_VALUE_BYTES,
};
use bytes::Bytes;
use frame::{CrcPolicy, FLAG_NO_CRC, HEADER_BYTES, decode};
use proptest::prelude::*;

fn one_put(key: &[u8], value: &[u8]) -> WriteBatch {
    let mut batch = WriteBatch::new();
    batch.put(key, value).unwrap();
    batch
}

fn encode(request: &Request<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    request.encode(&mut out, 7, 250).unwrap();
    out
}

fn expect_frame(bytes: &[u8]) -> (FrameHeader, &[u8]) {
    match decode(bytes, CrcPolicy::Required).unwrap() {
        Decoded::Frame { header, body, consumed } => {
            assert_eq!(consumed, bytes.len());
            (header, body)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn http_and_tls_refusals_are_in_their_own_words() {
    assert!(Wire::Http.refusal().unwrap().starts_with(b"HTTP/1.1 400 "));
    assert_eq!(Wire::Tls.refusal().unwrap()[0], 0x15);
    assert!(Wire::Unknown.refusal().unwrap().starts_with(b"ERR WRONG_PROTOCOL "));
    assert_eq!(Wire::Inline.refusal(), None);
}

#[test]
fn every_prefix_of_a_frame_is_incomplete_and_says_what_it_needs() {
    let frame = encode(&Request::Get { key: b"k", snapshot: SequenceNumber(0) });
    for len in 0..frame.len() {
        let need = if len < HEADER_BYTES { HEADER_BYTES } else { frame.len() };
        assert_eq!(
            decode(&frame[..len], CrcPolicy::Required),
            Ok(Decoded::Incomplete { need }),
            "{len} bytes"
        );
    }
}

#[test]
fn every_flipped_bit_of_a_frame_is_noticed() {
    let frame = encode(&Request::Get { key: b"k", snapshot: SequenceNumber(0) });
    for bit in 0..frame.len() * 8 {
        let mut flipped = frame.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        match decode(&flipped, CrcPolicy::Required) {
            Err(_) => {}
            // A longer length waits for more bytes; the checksum is checked when they come.
            Ok(Decoded::Incomplete { need }) => {
                assert!(bit < 32 && need > frame.len(), "bit {bit}")
            }
            Ok(Decoded::Frame { .. }) => panic!("bit {bit} was not noticed"),
        }
    }
}

#[test]
fn a_length_over_the_limit_is_refused_from_its_first_four_bytes() {
    let length = MAX_FRAME_BYTES as u32 + 1;
    assert_eq!(
        decode(&length.to_be_bytes(), CrcPolicy::Required),
        Err(FrameError::TooLarge { length })
    );
    assert_eq!(decode(&[0; 4], CrcPolicy::Required), Err(FrameError::TooShort { length: 0 }));
    assert_eq!(
        decode(&[0, 0, 0, 23], CrcPolicy::Required),
        Err(FrameError::TooShort { length: 23 })
    );
}

#[test]
fn a_frame_without_checksum_needs_permission_and_a_zero_field() {
    let mut out = Vec::new();
    Request::Ping.encode_with_flags(&mut out, 1, 0, FLAG_NO_CRC).unwrap();
    assert_eq!(
        decode(&out, CrcPolicy::Required),
        Err(FrameError::NoCrcNotAllowed { request_id: 1 })
    );
    assert!(matches!(decode(&out, CrcPolicy::OptionalOnLoopback), Ok(Decoded::Frame { .. })));
    out[23] = 1;
    assert!(decode(&out, CrcPolicy::OptionalOnLoopback).is_err());
}

#[test]
fn put_and_delete_hold_exactly_one_operation_of_their_kind() {
    let put = one_put(b"k", b"v");
    let mut delete = WriteBatch::new();
    delete.delete(b"k").unwrap();
    let mut two = put.clone();
    two.delete(b"k").unwrap();
    let decode = |opcode: Opcode, batch: &WriteBatch| {
        Request::decode(opcode.byte(), batch.as_bytes()).map(|r| r.opcode()).map_err(|e| e.code())
    };
    assert_eq!(decode(Opcode::Put, &put), Ok(Opcode::Put));
    assert_eq!(decode(Opcode::Delete, &delete), Ok(Opcode::Delete));
    for batch in [&put, &delete, &two] {
        assert_eq!(decode(Opcode::Write, batch), Ok(Opcode::Write));
    }
    assert_eq!(decode(Opcode::Put, &delete), Err(ErrorCode::BadRequest));
    assert_eq!(decode(Opcode::Delete, &put), Err(ErrorCode::BadRequest));
    assert_eq!(decode(Opcode::Put, &two), Err(ErrorCode::BadRequest));
    assert_eq!(decode(Opcode::Write, &WriteBatch::new()), Err(ErrorCode::BadRequest));
    assert_eq!(decode(Opcode::Write, &WriteBatch::no_op()), Err(ErrorCode::BadRequest));
    assert_eq!(decode(Opcode::Put, &one_put(b"\0beach\0x", b"")), Err(ErrorCode::ReservedKey));
}

#[test]
fn a_decoded_write_borrows_the_batch_from_the_frame() {
    let batch = one_put(b"key", b"value");
    let frame = encode(&Request::Write {
        opcode: Opcode::Put,
        batch: BatchRef::parse(batch.as_bytes()).unwrap(),
    });
    let (header, body) = expect_frame(&frame);
    let Ok(Request::Write { batch: decoded, .. }) = Request::decode(header.opcode, body) else {
        panic!("not a write");
    };
    assert_eq!(decoded.as_bytes().as_ptr(), frame[HEADER_BYTES..].as_ptr());
    assert_eq!(decoded.as_bytes(), batch.as_bytes());
}

#[test]
fn refused_writes_are_not_applied_and_refused_reads_have_no_effect() {
    let write = Request::decode(Opcode::Put.byte(), b"").unwrap_err().reply();
    assert_eq!((write.code, write.effect), (ErrorCode::BadRequest, Effect::NotApplied));
    let read = Request::decode(Opcode::Get.byte(), &[0; 8]).unwrap_err().reply();
    assert_eq!((read.code, read.effect), (ErrorCode::BadRequest, Effect::None));
    let long = [vec![0; 8], vec![b'k'; MAX_KEY_BYTES + 1]].concat();
    assert_eq!(Request::decode(3, &long).unwrap_err().code(), ErrorCode::KeyTooLarge);
}

#[test]
fn a_scan_knows_its_bounds() {
    let scan = |range| ScanRequest::new(range);
    assert_eq!(scan(ScanRange::Prefix(b"a\xff\xff")).end_key().as_deref(), Some(&b"b"[..]));
    assert_eq!(scan(ScanRange::Prefix(b"\xff")).end_key(), None);
    assert_eq!(scan(ScanRange::Prefix(b"")).end_key(), None);
    assert_eq!(scan(ScanRange::Range { start: b"a", end: b"" }).end_key(), None);
    let resumed = ScanRequest { resume: b"ab", ..scan(ScanRange::Prefix(b"a")) };
    assert_eq!(resumed.first_key(), b"ab");
    let stale = ScanRequest { resume: b"a", ..scan(ScanRange::Range { start: b"b", end: b"" }) };
    assert_eq!(stale.first_key(), b"b");
    assert_eq!(resumed.effective_limit(), MAX_SCAN_ENTRIES);
    assert_eq!(ScanRequest { limit: 3, ..resumed }.effective_limit(), 3);
}

#[test]
fn a_reply_too_large_for_a_frame_becomes_an_error() {
    let mut out = b"before".to_vec();
    Response::Status("x".repeat(MAX_FRAME_BYTES)).encode(&mut out, Opcode::Status.byte(), 9);
    assert_eq!(&out[..6], b"before");
    let (header, body) = expect_frame(&out[6..]);
    let reply = Response::decode(&header, &Bytes::copy_from_slice(body)).unwrap();
    assert!(matches!(&reply, Response::Error(e) if e.code == ErrorCode::Internal), "{reply:?}");
}

#[test]
fn the_largest_value_fits_in_a_reply() {
    let value = Bytes::from(vec![7; MAX_VALUE_BYTES]);
    let reply = Response::Value { seq: SequenceNumber(1), applied: SequenceNumber(1), value };
    let mut out = Vec::new();
    reply.encode(&mut out, Opcode::Get.byte(), 1);
    let (header, body) = expect_frame(&out);
    assert_eq!(Response::decode(&header, &Bytes::copy_from_slice(body)), Ok(reply));
}

#[test]
fn a_status_of_a_newer_server_is_an_internal_error_that_names_it() {
    let mut out = Vec::new();
    let open = frame::begin(&mut out, 0x84, 0, 1, 999);
    out.extend_from_slice(&[0, 0, 0, 9, 3, 0, 0, 0]);
    out.extend_from_slice(b"new");
    open.finish(&mut out).unwrap();
    let (header, body) = expect_frame(&out);
    let Ok(Response::Error(e)) = Response::decode(&header, &Bytes::copy_from_slice(body)) else {
        panic!("not an error");
    };
    assert_eq!((e.code, e.effect, e.retry_after_ms), (ErrorCode::Internal, Effect::Unknown, 9));
    assert!(e.message.contains("999"), "{e}");
    assert!(!e.safe_to_retry());
}

#[test]
fn long_error_messages_are_cut_at_a_character() {
    let e = ErrorReply::new(ErrorCode::Busy, Effect::None, "é".repeat(600) + "x");
    assert_eq!(e.wire_message().len(), 1024);
    let odd = ErrorReply::new(ErrorCode::Busy, Effect::None, format!("x{}", "é".repeat(600)));
    assert_eq!(odd.wire_message().len(), 1023);
}

#[test]
fn a_leaders_address_that_no_member_can_have_stays_at_home() {
    let named = |leader: &str| ErrorReply {
        leader: leader.into(),
        ..ErrorReply::new(ErrorCode::NotLeader, Effect::NotApplied, "elsewhere")
    };
    let sent = |reply: ErrorReply| {
        let mut out = Vec::new();
        Response::Error(reply).encode(&mut out, Opcode::Put.byte(), 1);
        let (header, body) = expect_frame(&out);
        match Response::decode(&header, &Bytes::copy_from_slice(body)) {
            Ok(Response::Error(reply)) => reply.leader,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(sent(named("10.0.0.2:7400")), "10.0.0.2:7400");
    let long = "x".repeat(MAX_ADDRESS_BYTES);
    assert_eq!(sent(named(&long)), long);
    for bad in [&format!("{long}x"), "a b:1", "bücher:1"] {
        assert_eq!(sent(named(bad)), "");
    }
}

#[test]
fn inline_commands_parse_in_any_case_with_quotes_and_escapes() {
    use inline::{InlineCommand, InlineRequest, parse};
    let request = |line: &[u8]| match parse(line).unwrap() {
        InlineCommand::Request(r) => r,
        other => panic!("{other:?}"),
    };
    assert_eq!(request(b"ping\r\n"), InlineRequest::Ping);
    assert_eq!(request(b"GET k\n"), InlineRequest::Get { key: b"k".to_vec() });
    assert_eq!(request(b"GET k stale"), InlineRequest::StaleGet { key: b"k".to_vec() });
    assert_eq!(request(b"get \"a b\\x00\""), InlineRequest::Get { key: b"a b\0".to_vec() });
    let put = request(b"PUT k \"\"");
    assert_eq!(put, InlineRequest::Write { opcode: Opcode::Put, batch: one_put(b"k", b"") });
    assert_eq!(put.as_request().opcode(), Opcode::Put);
    let scan = |start: &[u8], end: &[u8], limit| InlineRequest::Scan {
        start: start.to_vec(),
        end: end.to_vec(),
        limit,
        reverse: false,
    };
    assert_eq!(request(b"SCAN"), scan(b"", b"", 100));
    assert_eq!(request(b"SCAN a limit 5"), scan(b"a", b"", 5));
    assert_eq!(request(b"SCAN a b LIMIT 5"), scan(b"a", b"b", 5));
    let reverse =
        InlineRequest::Scan { start: b"a".to_vec(), end: vec![], limit: 5, reverse: true };
    assert_eq!(request(b"SCAN a limit 5 reverse"), reverse);
    let mut range = WriteBatch::new();
    range.delete_range(b"a", b"").unwrap();
    let range = InlineRequest::Write { opcode: Opcode::Write, batch: range };
    assert_eq!(request(b"delrange a \"\""), range);
    assert_eq!(request(b"SCAN a \"LIMIT\""), scan(b"a", b"LIMIT", 100));
    assert_eq!(parse(b" \t\r\n"), Ok(InlineCommand::Empty));
    assert_eq!(parse(b"quit"), Ok(InlineCommand::Quit));
}

#[test]
fn bad_inline_commands_say_what_was_expected() {
    use inline::parse;
    let message = |line: &[u8]| parse(line).unwrap_err().reply().message;
    assert!(message(b"GTE k").contains("unknown command GTE; try HELP"));
    assert!(message(b"GET").contains("GET key"));
    assert!(message(b"GET k k").contains("GET key [STALE]"));
    assert!(message(b"PUT k").contains("PUT key value"));
    assert!(message(b"PUT k v w").contains("PUT key value"));
    assert!(message(b"GET \"k").contains("byte 4 is not closed"));
    assert!(message(b"GET a\\q").contains("bad escape at byte 5"));
    assert!(message(b"GET \"a\"b").contains("byte 7"));
    assert!(message(b"SCAN a b LIMIT 0").contains("LIMIT"));
    assert!(message(b"GET \"\"").contains("empty key"));
    assert_eq!(parse(b"PUT \\x00beach\\x00 v").unwrap_err().reply().code, ErrorCode::ReservedKey);
}

#[test]
fn text_replies_are_one_line_each_whatever_the_bytes_are() {
    let value = Response::Value {
        seq: SequenceNumber(3),
        applied: SequenceNumber(9),
        value: Bytes::from_static(b"two words\n\xff"),
    };
    assert_eq!(inline::render(&value), b"VALUE \"two words\\x0a\\xff\" seq=3\n");
    let stale = |age_ms| Response::Stale {
        staleness: Staleness { applied_index: LogIndex(7), age_ms },
        answer: Box::new(Response::NotFound { applied: SequenceNumber(9) }),
    };
    assert_eq!(inline::render(&stale(Some(40))), b"NOT_FOUND applied_index=7 age_ms=40\n");
    assert_eq!(inline::render(&stale(None)), b"NOT_FOUND applied_index=7 age_ms=never\n");
    let error = Response::Error(ErrorReply {
        code: ErrorCode::Busy,
        effect: Effect::NotApplied,
        retry_after_ms: 5,
        leader: String::new(),
        condition: None,
        message: "queue\nfull".into(),
    });
    assert_eq!(
        inline::render(&error),
        b"ERR BUSY effect=not_applied retry_after_ms=5 queue full\n"
    );
    assert_eq!(inline::render(&Response::Status("{\n \"a\": 1\n}".into())), b"{  \"a\": 1 }\n");
    let scan = Response::Scan(ScanReply {
        snapshot: SequenceNumber(4),
        applied: SequenceNumber(4),
        keys_only: false,
        entries: vec![ScanEntry {
            key: Bytes::from_static(b"k"),
            seq: SequenceNumber(1),
            value: Bytes::new(),
        }],
        resume: Some(b"l m".to_vec()),
    });
    assert_eq!(
        inline::render(&scan),
        b"ENTRY k \"\" seq=1\nEND count=1 snapshot=4 more=\"l m\"\n".to_vec()
    );
}

fn bytes_up_to(len: usize) -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..len).prop_map(Bytes::from)
}

fn seq() -> impl Strategy<Value = SequenceNumber> {
    (1..=SequenceNumber::MAX.0).prop_map(SequenceNumber)
}

fn any_response() -> impl Strategy<Value = (Opcode, Response)> {
    let entry = (bytes_up_to(20), seq(), bytes_up_to(40)).prop_map(|(key, seq, value)| ScanEntry {
        key,
        seq,
        value,
    });
    let parts = (0..ErrorCode::ALL.len(), 0u8..4, any::<u32>(), "[!-~]{0,30}", ".{0,40}");
    let failed = (any::<u64>(), seq(), prop::option::of(1..1_000_u64), any::<u32>());
    let failed = failed.prop_map(|(index, applied, present, condition)| ConditionFailed {
        index: LogIndex(index),
        applied,
        failed: FailedCondition { condition, present: present.map(SequenceNumber) },
    });
    let parts = (parts, failed);
    let error =
        parts.prop_map(|((code, effect, retry_after_ms, leader, message), failed)| ErrorReply {
            condition: (ErrorCode::ALL[code] == ErrorCode::ConditionFailed)
                .then(|| Box::new(failed)),
            code: ErrorCode::ALL[code],
            effect: Effect::from_u8(effect).unwrap(),
            retry_after_ms,
            leader,
            message,
        });
    prop_oneof![
        Just((Opcode::Ping, Response::Pong)),
        (seq(), seq(), bytes_up_to(64)).prop_map(|(seq, applied, value)| (
            Opcode::Get,
            Response::Value { seq, applied, value }
        )),
        seq().prop_map(|applied| (Opcode::Get, Response::NotFound { applied })),
        (any::<u64>(), prop::option::of(0..u64::MAX), seq()).prop_map(
            |(index, age_ms, applied)| (
                Opcode::Get,
                Response::Stale {
                    staleness: Staleness { applied_index: LogIndex(index), age_ms },
                    answer: Box::new(Response::NotFound { applied }),
                }
            )
        ),
        (any::<u64>(), 1u64..1 << 40, 0u64..1 << 20).prop_map(|(index, first, more)| (
            Opcode::Write,
            Response::Written {
                index: LogIndex(index),
                first_seq: SequenceNumber(first),
                last_seq: SequenceNumber(first + more),
            }
        )),
        (
            seq(),
            seq(),
            any::<bool>(),
            prop::collection::vec(entry, 0..8),
            prop::option::of(prop::collection::vec(any::<u8>(), 1..20))
        )
            .prop_map(|(snapshot, applied, keys_only, entries, resume)| (
                Opcode::Scan,
                Response::Scan(ScanReply { snapshot, applied, keys_only, entries, resume })
            )),
        (any::<u64>(), "[a-z]{0,20}", any::<u32>()).prop_map(|(node, cluster, idle)| (
            Opcode::Hello,
            Response::Hello(HelloReply::with_limits(NodeId(node), &cluster, idle))
        )),
        (1u64.., seq(), 1u32..).prop_map(|(client_id, applied, window)| (
            Opcode::Register,
            Response::Registered(Registered { client_id, applied, window })
        )),
        ".{0,60}".prop_map(|json| (Opcode::Status, Response::Status(json))),
        ".{0,60}".prop_map(|json| (Opcode::Stats, Response::Stats(json))),
        ".{0,60}".prop_map(|json| (Opcode::Members, Response::Members(json))),
        error.prop_map(|e| (Opcode::Put, Response::Error(e))),
    ]
}

proptest! {
    #[test]
    fn requests_round_trip(
        key in prop::collection::vec(any::<u8>(), 1..40),
        other in prop::collection::vec(any::<u8>(), 0..40),
        resume in prop::collection::vec(any::<u8>(), 0..40),
        snapshot in 0..=SequenceNumber::MAX.0,
        (limit, max_bytes, keys_only, reverse) in any::<(u32, u32, bool, bool)>(),
        (name, cluster, address) in ("[ -~]{0,40}", ".{0,20}", "[!-~]{1,30}"),
        (id, deadline, path) in (any::<u64>(), any::<u32>(), "[ -~é]{1,30}"),
    ) {
        let snapshot = SequenceNumber(snapshot);
        let batch = one_put(&key, &other);
        let scan = ScanRequest {
            range: ScanRange::Range { start: &key, end: &other },
            resume: &resume, snapshot, limit, max_bytes, keys_only, reverse,
        };
        let requests = [
            Request::Ping,
            Request::Status,
            Request::Stats,
            Request::Register,
            Request::Members,
            Request::StaleGet { key: &key, snapshot },
            Request::StaleScan(scan),
            Request::Admin(AdminRequest::Add { node: NodeId(1), peer_address: &address }),
            Request::Admin(AdminRequest::Promote(NodeId(2))),
            Request::Admin(AdminRequest::Remove(NodeId(u64::MAX))),
            Request::Admin(AdminRequest::Transfer(None)),
            Request::Admin(AdminRequest::Transfer(Some(NodeId(3)))),
            Request::Admin(AdminRequest::Checkpoint { dir: &path }),
            Request::Admin(AdminRequest::Verify { rate: id }),
            Request::Admin(AdminRequest::Compact { start: b"", end: b"" }),
            Request::Admin(AdminRequest::Compact { start: &key, end: b"" }),
            Request::Admin(AdminRequest::Compact { start: b"", end: &key }),
            Request::Get { key: &key, snapshot },
            Request::Write { opcode: Opcode::Put, batch: BatchRef::parse(batch.as_bytes()).unwrap() },
            Request::Scan(scan),
            Request::Scan(ScanRequest { range: ScanRange::Prefix(&other), ..scan }),
            Request::Hello(HelloRequest { min_version: 1, max_version: 3, name: &name, cluster: &cluster }),
        ];
        prop_assume!(!key.starts_with(b"\0beach\0"));
        let mut out = Vec::new();
        for request in &requests {
            request.encode(&mut out, id, deadline).unwrap();
        }
        let mut rest = out.as_slice();
        for request in &requests {
            let Decoded::Frame { header, body, consumed } = decode(rest, CrcPolicy::Required).unwrap() else {
                panic!("incomplete");
            };
            prop_assert_eq!((header.request_id, header.word), (id, deadline));
            prop_assert_eq!(&Request::decode_frame(&header, body).unwrap(), request);
            rest = &rest[consumed..];
        }
        prop_assert!(rest.is_empty());
    }

    #[test]
    fn responses_round_trip((opcode, response) in any_response(), id in any::<u64>()) {
        let mut out = Vec::new();
        response.encode(&mut out, opcode.byte(), id);
        let (header, body) = expect_frame(&out);
        prop_assert_eq!(header.request_id, id);
        prop_assert_eq!(header.opcode, opcode.byte() | REPLY_BIT);
        prop_assert_eq!(Response::decode(&header, &Bytes::copy_from_slice(body)), Ok(response));
    }

    #[test]
    fn truncated_or_extended_replies_are_refused_or_mean_something_else(
        (opcode, response) in any_response(), cut in any::<prop::sample::Index>(),
    ) {
        let mut out = Vec::new();
        response.encode(&mut out, opcode.byte(), 1);
        let (header, body) = expect_frame(&out);
        let cut = &body[..cut.index(body.len() + 1)];
        if cut.len() < body.len() {
            prop_assert_ne!(Response::decode(&header, &Bytes::copy_from_slice(cut)), Ok(response));
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        opcode in any::<u8>(), status in prop_oneof![Just(0u32), any::<u32>()],
    ) {
        prop_assert_eq!(classify(&bytes) == Wire::Empty, bytes.is_empty());
        prop_assert!(decode(&bytes, CrcPolicy::OptionalOnLoopback).is_ok() || bytes.len() >= 4);
        if let Err(e) = Request::decode(opcode, &bytes) {
            prop_assert!(!e.reply().message.is_empty());
        }
        if let Err(e) = Request::decode(opcode % 14, &bytes) {
            prop_assert!(!e.code().retryable());
        }
        if let Ok(inline::InlineCommand::Request(r)) = inline::parse(&bytes) {
            prop_assert!(!matches!(r.as_request(), Request::Hello(_)));
        }
        let header = FrameHeader {
            length: 0, version: 1, opcode: (opcode % 14) | REPLY_BIT, flags: 0, request_id: 0, word: status, crc: 0,
        };
        if let Ok(reply) = Response::decode(&header, &Bytes::from(bytes)) {
            prop_assert!(inline::render(&reply).ends_with(b"\n"));
        }
    }

    #[test]
    fn quoted_tokens_come_back(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        let line = format!("{} {}", text::quote(&bytes), text::quote(&bytes));
        let tokens = text::tokens(line.as_bytes()).unwrap();
        prop_assert_eq!(tokens.len(), 2);
        prop_assert!(tokens.iter().all(|t| t.bytes == bytes));
        prop_assert_eq!(text::from_hex(&text::to_hex(&bytes)), Some(bytes.clone()));
        let mut escaped = Vec::new();
        text::escape_into(&mut escaped, &bytes);
        prop_assert_eq!(text::unescape(&escaped).unwrap(), bytes);
    }
}

#[test]
fn a_put_body_has_the_batch_header_of_the_log() {
    assert_eq!(BATCH_HEADER_BYTES, 24);
    let batch = one_put(b"k", b"v");
    let frame = encode(&Request::Write {
        opcode: Opcode::Put,
        batch: BatchRef::parse(batch.as_bytes()).unwrap(),
    });
    assert_eq!(&frame[HEADER_BYTES..], batch.as_bytes());
}
