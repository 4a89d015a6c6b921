//! The spec pages and vectors of the protocols cannot lie: every worked example and every vector is run
//! through the codec here.
//!
//! `BEACH_BLESS=1 cargo test --test proto_spec` rewrites the annotated examples, the error table, and the expected
//! decodings from the code; review the difference as code.

#![allow(clippy::disallowed_methods, reason = "a test that reads the repository's own files")]

#[path = "proto_spec/peer.rs"]
mod peer;

use beachdb::base::batch::{BatchRef, WriteBatch};
use beachdb::base::conditions::{Expect, FailedCondition};
use beachdb::base::{LogIndex, Member, MemberRole, Membership, NodeId, ReplicaId, SequenceNumber};
use beachdb::proto::explain::{batch_json, explain, explain_batch, frame_json};
use beachdb::proto::frame::{CrcPolicy, Decoded, FLAG_NO_CRC, decode};
use beachdb::proto::text::{from_hex, to_hex};
use beachdb::proto::{
    AdminRequest, ConditionFailed, Effect, ErrorCode, ErrorReply, HelloReply, HelloRequest,
    KeyList, MultiGetReply, Opcode, REPLY_BIT, Registered, Request, Response, ScanEntry, ScanRange,
    ScanReply, ScanRequest, Staleness,
};
use bytes::Bytes;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::PathBuf;

fn spec(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("proto-spec").join(path)
}

fn blessing() -> bool {
    std::env::var_os("BEACH_BLESS").is_some()
}

/// Compares a file with what it should hold, or rewrites it when blessing.
fn check_file(path: &str, expected: &str) {
    let file = spec(path);
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    if blessing() {
        std::fs::write(&file, expected).unwrap();
    } else if found != expected {
        let line = found.lines().zip(expected.lines()).position(|(a, b)| a != b);
        let at = line.unwrap_or_else(|| found.lines().count().min(expected.lines().count()));
        panic!(
            "{path} line {}:\n  in the file  {:?}\n  by the code  {:?}\n(BEACH_BLESS=1 rewrites it)",
            at + 1,
            found.lines().nth(at),
            expected.lines().nth(at),
        );
    }
}

fn request(request: &Request<'_>, id: u64) -> Vec<u8> {
    let mut out = Vec::new();
    request.encode(&mut out, id, 0).unwrap();
    out
}

fn reply(opcode: Opcode, response: &Response, id: u64) -> Vec<u8> {
    let mut out = Vec::new();
    response.encode(&mut out, opcode.byte(), id);
    out
}

fn put_batch() -> WriteBatch {
    let mut batch = WriteBatch::new();
    batch.put(b"beach", b"sand").unwrap();
    batch
}

fn delete_batch() -> WriteBatch {
    let mut batch = WriteBatch::new();
    batch.delete(b"beach").unwrap();
    batch
}

fn write_batch() -> WriteBatch {
    let mut batch = WriteBatch::new();
    batch.put(b"a", b"1").unwrap();
    batch.put(b"b", b"").unwrap();
    batch.delete(b"beach").unwrap();
    batch
}

fn range_batch() -> WriteBatch {
    let mut batch = WriteBatch::new();
    batch.delete_range(b"log/1", b"log/4").unwrap();
    batch.put(b"log/2", b"kept").unwrap();
    batch
}

fn session_batch() -> WriteBatch {
    let mut batch = put_batch();
    batch.set_client(7, 9, 6);
    batch
}

fn cas_batch() -> WriteBatch {
    let mut batch = put_batch();
    batch.require(b"beach", Expect::Seq(SequenceNumber(1))).unwrap();
    batch
}

fn conditional_batch() -> WriteBatch {
    let mut batch = WriteBatch::new();
    batch.require(b"k", Expect::Seq(SequenceNumber(300))).unwrap();
    batch.require(b"lock", Expect::Absent).unwrap();
    batch.put(b"k", b"2").unwrap();
    batch
}

fn membership() -> Membership {
    let member = |node, incarnation, role, peer: &str, client: &str| Member {
        replica: ReplicaId { node: NodeId(node), incarnation },
        role,
        peer_address: peer.into(),
        client_address: client.into(),
    };
    let mut out = Membership::new();
    let first = 0x9f3c_62a1_d04e_77b8;
    out.insert(member(1, first, MemberRole::Voter, "10.0.0.1:7401", "10.0.0.1:7400"));
    out.insert(member(2, 0xab, MemberRole::Learner, "b:1", ""));
    out
}

/// Every example frame of the pages, by name. Each opcode has its request and its reply.
fn examples() -> Vec<(&'static str, Vec<u8>)> {
    let seq = SequenceNumber;
    let write = |opcode, batch: &WriteBatch, id| {
        request(&Request::Write { opcode, batch: BatchRef::parse(batch.as_bytes()).unwrap() }, id)
    };
    let written = |index, first, last| Response::Written {
        index: LogIndex(index),
        first_seq: seq(first),
        last_seq: seq(last),
    };
    let hello = HelloReply {
        server: "beachd 0.1.0".into(),
        ..HelloReply::with_limits(NodeId(1), "beach", 300_000)
    };
    let entry = |key: &'static [u8], s, value: &'static [u8]| ScanEntry {
        key: Bytes::from_static(key),
        seq: seq(s),
        value: Bytes::from_static(value),
    };
    let page = ScanReply {
        snapshot: seq(4),
        applied: seq(4),
        keys_only: false,
        entries: vec![entry(b"a", 2, b"1"), entry(b"b", 3, b"")],
        resume: Some(b"c".to_vec()),
    };
    let range =
        ScanRequest { limit: 2, ..ScanRequest::new(ScanRange::Range { start: b"a", end: b"m" }) };
    let next = ScanRequest { resume: b"c", snapshot: seq(4), ..range };
    let prefix = ScanRequest { keys_only: true, ..ScanRequest::new(ScanRange::Prefix(b"be")) };
    let get = Request::Get { key: b"beach", snapshot: seq(0) };
    let error = |code, effect, retry_after_ms, message: &str| {
        Response::Error(ErrorReply { retry_after_ms, ..ErrorReply::new(code, effect, message) })
    };
    let mut by_hand = Vec::new();
    get.encode_with_flags(&mut by_hand, 1, 0, FLAG_NO_CRC).unwrap();
    let mut closing = Vec::new();
    let idle = ErrorReply::new(ErrorCode::IdleTimeout, Effect::NotApplied, "idle for 300 s");
    beachdb::proto::response::encode_connection_error(&mut closing, 0, &idle);
    let hello_request =
        HelloRequest { min_version: 1, max_version: 1, name: "beachctl", cluster: "" };
    let value =
        Response::Value { seq: seq(1), applied: seq(4), value: Bytes::from_static(b"sand") };
    let registered =
        Response::Registered(Registered { client_id: 7, applied: seq(5), window: 256 });
    let evicted =
        error(ErrorCode::UnknownSession, Effect::Unknown, 0, "session 7 is not known (any more)");
    let follower = Response::Error(ErrorReply {
        retry_after_ms: 100,
        leader: "10.0.0.2:7400".into(),
        ..ErrorReply::new(ErrorCode::NotLeader, Effect::NotApplied, "node 2 leads")
    });
    let keys = KeyList::of([&b"a"[..], b"beach"]).unwrap();
    let values = Response::Values(MultiGetReply {
        at: seq(4),
        values: vec![None, Some((seq(1), Bytes::from_static(b"sand")))],
    });
    let failed = Response::Error(ErrorReply::condition_failed(ConditionFailed {
        index: LogIndex(6),
        applied: seq(4),
        failed: FailedCondition { condition: 0, present: Some(seq(4)) },
    }));
    let add = AdminRequest::Add { node: NodeId(2), peer_address: "10.0.0.2:7401" };
    let remove = AdminRequest::Remove(NodeId(3));
    let checkpoint = AdminRequest::Checkpoint { dir: "backups/monday" };
    let compact = AdminRequest::Compact { start: b"user/", end: b"user0" };
    let stale = Request::StaleGet { key: b"beach", snapshot: seq(0) };
    let staleness = Staleness { applied_index: LogIndex(12), age_ms: Some(40) };
    let aged = Response::Stale { staleness, answer: Box::new(value.clone()) };
    vec![
        ("hello-request", request(&Request::Hello(hello_request), 1)),
        ("hello-reply", reply(Opcode::Hello, &Response::Hello(hello), 1)),
        ("ping-request", request(&Request::Ping, 2)),
        ("ping-reply", reply(Opcode::Ping, &Response::Pong, 2)),
        ("get-request", request(&get, 3)),
        ("get-reply", reply(Opcode::Get, &value, 3)),
        ("get-reply-not-found", reply(Opcode::Get, &Response::NotFound { applied: seq(4) }, 3)),
        ("put-request", write(Opcode::Put, &put_batch(), 4)),
        ("put-reply", reply(Opcode::Put, &written(2, 1, 1), 4)),
        ("delete-request", write(Opcode::Delete, &delete_batch(), 5)),
        ("delete-reply", reply(Opcode::Delete, &written(3, 2, 2), 5)),
        ("write-request", write(Opcode::Write, &write_batch(), 6)),
        ("write-reply", reply(Opcode::Write, &written(4, 3, 5), 6)),
        ("cas-request", write(Opcode::Put, &cas_batch(), 24)),
        ("error-condition-failed", reply(Opcode::Put, &failed, 24)),
        ("multi-get-request", request(&Request::MultiGet(keys.as_request(seq(0))), 25)),
        ("multi-get-reply", reply(Opcode::MultiGet, &values, 25)),
        ("scan-request", request(&Request::Scan(range), 7)),
        ("scan-reply", reply(Opcode::Scan, &Response::Scan(page), 7)),
        ("scan-request-next", request(&Request::Scan(next), 8)),
        ("scan-request-prefix", request(&Request::Scan(prefix), 9)),
        ("status-request", request(&Request::Status, 10)),
        ("status-reply", reply(Opcode::Status, &Response::Status(r#"{"node":1}"#.into()), 10)),
        ("register-request", request(&Request::Register, 14)),
        ("register-reply", reply(Opcode::Register, &registered, 14)),
        ("session-write-request", write(Opcode::Write, &session_batch(), 15)),
        ("session-write-reply", reply(Opcode::Write, &written(20, 31, 31), 15)),
        ("error-unknown-session", reply(Opcode::Write, &evicted, 16)),
        ("stats-request", request(&Request::Stats, 11)),
        ("stats-reply", reply(Opcode::Stats, &Response::Stats(r#"{"puts":1}"#.into()), 11)),
        (
            "error-busy",
            reply(
                Opcode::Put,
                &error(ErrorCode::Busy, Effect::NotApplied, 20, "queue is full"),
                12,
            ),
        ),
        (
            "error-deadline",
            reply(
                Opcode::Put,
                &error(ErrorCode::DeadlineExceeded, Effect::Unknown, 0, "proposed, not committed"),
                13,
            ),
        ),
        ("stale-get-request", request(&stale, 23)),
        ("stale-get-reply", reply(Opcode::Get, &aged, 23)),
        ("members-request", request(&Request::Members, 20)),
        ("members-reply", reply(Opcode::Members, &Response::Members(r#"{"leader":1}"#.into()), 20)),
        ("admin-add-request", request(&Request::Admin(add), 21)),
        ("admin-remove-request", request(&Request::Admin(remove), 22)),
        ("admin-checkpoint-request", request(&Request::Admin(checkpoint), 23)),
        ("admin-compact-request", request(&Request::Admin(compact), 25)),
        ("admin-reply", reply(Opcode::Admin, &written(9, 4, 4), 21)),
        ("error-not-leader", reply(Opcode::Put, &follower, 17)),
        ("error-connection", closing),
        ("get-by-hand", by_hand),
    ]
}

/// The blocks after `<!-- {marker}: NAME -->`: (name, start of the text, end of the text).
fn blocks(page: &str, marker: &str) -> Vec<(String, usize, usize)> {
    let open = format!("<!-- {marker}: ");
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(n) = page[at..].find(&open) {
        let name_at = at + n + open.len();
        let name_end = name_at + page[name_at..].find(" -->").expect("marker is closed");
        let fence = "```text\n";
        let start = name_end + page[name_end..].find(fence).expect("a block follows") + fence.len();
        let end = start + page[start..].find("```").expect("the block is closed");
        out.push((page[name_at..name_end].to_owned(), start, end));
        at = end;
    }
    out
}

/// The bytes in the hex column of an explained block.
fn hex_column(block: &str) -> Vec<u8> {
    let column = |line: &str| line.get(10..33).map(str::to_owned);
    let hex: String = block.lines().filter_map(column).collect();
    from_hex(&hex).unwrap_or_else(|| panic!("not hex: {block}"))
}

/// Compares the blocks of a page with the example frames, or rewrites them when blessing.
fn check_frames_of_page(file: &str, expected: &[(&str, Vec<u8>)]) {
    let mut page = std::fs::read_to_string(spec(file)).unwrap();
    let found = blocks(&page, "frame");
    let names: Vec<&str> = found.iter().map(|(name, ..)| name.as_str()).collect();
    let known: BTreeSet<&str> = expected.iter().map(|(name, _)| *name).collect();
    assert_eq!(names.iter().copied().collect::<BTreeSet<_>>(), known, "the page's examples");
    for (name, start, end) in found.iter().rev() {
        let bytes = &expected.iter().find(|(n, _)| n == name).unwrap().1;
        let explained = explain(bytes);
        assert_eq!(explained.fault, None, "{name}");
        if blessing() {
            page.replace_range(*start..*end, &explained.text);
            continue;
        }
        let block = &page[*start..*end];
        assert_eq!(to_hex(&hex_column(block)), to_hex(bytes), "bytes of {name}");
        assert_eq!(block, explained.text, "annotations of {name}");
    }
    check_file(file, &page);
}

#[test]
fn every_worked_frame_in_the_page_is_what_the_codec_says() {
    check_frames_of_page("client.md", &examples());
}

#[test]
fn every_opcode_has_a_worked_request_and_reply() {
    let mut seen = BTreeSet::new();
    for (name, bytes) in examples() {
        let Ok(Decoded::Frame { header, body, .. }) = decode(&bytes, CrcPolicy::OptionalOnLoopback)
        else {
            panic!("{name} does not decode");
        };
        seen.insert(header.opcode);
        // What decodes also encodes to the same bytes: there is one spelling.
        let mut again = Vec::new();
        if header.opcode & REPLY_BIT == 0 {
            let request = Request::decode_frame(&header, body).unwrap();
            request
                .encode_with_flags(&mut again, header.request_id, header.word, header.flags)
                .unwrap();
        } else {
            let response = Response::decode(&header, &Bytes::copy_from_slice(body)).unwrap();
            response.encode(&mut again, header.opcode & !REPLY_BIT, header.request_id);
        }
        assert_eq!(to_hex(&again), to_hex(&bytes), "{name}");
    }
    for opcode in Opcode::ALL {
        assert!(seen.contains(&opcode.byte()), "no request example of {}", opcode.name());
        assert!(
            seen.contains(&(opcode.byte() | REPLY_BIT)),
            "no reply example of {}",
            opcode.name()
        );
    }
}

#[test]
fn every_worked_batch_in_the_page_is_what_the_codec_says() {
    let mut page = std::fs::read_to_string(spec("batch.md")).unwrap();
    let expected = [
        ("three-operations", write_batch().into_bytes()),
        ("no-op", WriteBatch::no_op().into_bytes()),
        ("range-delete", range_batch().into_bytes()),
        ("session", session_batch().into_bytes()),
        ("conditions", conditional_batch().into_bytes()),
        ("register", WriteBatch::register().into_bytes()),
        ("membership", membership().to_entry().to_vec()),
    ];
    let found = blocks(&page, "batch");
    assert_eq!(found.len(), expected.len());
    for (name, start, end) in found.iter().rev() {
        let bytes = &expected.iter().find(|(n, _)| n == name).unwrap().1;
        let explained = explain_batch(bytes);
        assert_eq!(explained.fault, None, "{name}");
        if !blessing() {
            assert_eq!(to_hex(&hex_column(&page[*start..*end])), to_hex(bytes), "bytes of {name}");
        }
        page.replace_range(*start..*end, &explained.text);
    }
    check_file("batch.md", &page);
}

#[test]
fn the_error_table_in_the_page_is_the_one_in_the_code() {
    let page = std::fs::read_to_string(spec("errors.md")).unwrap();
    let (begin, end) = ("<!-- table: errors -->\n", "<!-- end of table -->");
    let start = page.find(begin).expect("the table begins") + begin.len();
    let stop = page.find(end).expect("the table ends");
    let mut table = String::from(
        "| code | name | retryable | closes the connection | effect on the write |\n|---|---|---|---|---|\n",
    );
    let yes = |b: bool| if b { "yes" } else { "no" };
    for code in ErrorCode::ALL {
        let effects: Vec<&str> = code.write_effects().iter().map(|e| e.name()).collect();
        table += &format!(
            "| {} | `{}` | {} | {} | {} |\n",
            code.status(),
            code.name(),
            yes(code.retryable()),
            yes(code.closes_connection()),
            effects.join(" or ")
        );
        assert_eq!(ErrorCode::from_u32(code.status()), Some(*code));
        assert!(page[stop..].contains(&format!("`{code}`")), "{code} is not explained in the page");
    }
    check_file("errors.md", &format!("{}{table}{}", &page[..start], &page[stop..]));
}

fn vectors(path: &str, key: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(spec(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    let document: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["schema"], 1, "{path}");
    document[key].as_array().unwrap_or_else(|| panic!("{path}: no {key}")).clone()
}

fn hex_of(vector: &Value) -> Vec<u8> {
    from_hex(vector["hex"].as_str().unwrap()).unwrap_or_else(|| panic!("{vector}: bad hex"))
}

/// Runs a file of vectors. Each has `name`, `hex`, and either `decoded` or `error` (and `message`).
fn run_vectors(
    path: &str,
    key: &str,
    mut judge: impl FnMut(&Value) -> Result<Value, (String, String)>,
) {
    let mut out = Vec::new();
    let mut names = BTreeSet::new();
    for mut vector in vectors(path, key) {
        let name = vector["name"].as_str().unwrap().to_owned();
        assert!(names.insert(name.clone()), "{path}: {name} occurs twice");
        let reject = path.contains("reject");
        match judge(&vector) {
            Ok(decoded) => {
                assert!(!reject, "{path}: {name} was accepted");
                vector["decoded"] = decoded;
            }
            Err((code, message)) => {
                assert!(reject, "{path}: {name} was refused: {code} {message}");
                vector["error"] = code.into();
                vector["message"] = message.into();
            }
        }
        out.push(vector);
    }
    let document = json!({"schema": 1, key: out});
    check_file(path, &format!("{}\n", serde_json::to_string_pretty(&document).unwrap()));
}

fn judge_frame(vector: &Value) -> Result<Value, (String, String)> {
    let crc = match vector["remote"].as_bool() {
        Some(true) => CrcPolicy::Required,
        _ => CrcPolicy::OptionalOnLoopback,
    };
    frame_json(&hex_of(vector), crc).map_err(|(code, message)| (code.name().to_owned(), message))
}

fn judge_batch(vector: &Value) -> Result<Value, (String, String)> {
    let bytes = hex_of(vector);
    let parsed = BatchRef::parse(&bytes);
    // Batches of the log may hold internal kinds; from a client they are refused.
    let judged = match vector["from_client"].as_bool() {
        Some(true) => parsed.and_then(|b| b.check_user().map(|()| b)),
        _ => parsed,
    };
    judged
        .map(|b| batch_json(&b))
        .map_err(|e| (ErrorCode::of_batch(&e).name().to_owned(), e.to_string()))
}

#[test]
fn frame_vectors_decode_as_written() {
    run_vectors("vectors/frames.json", "frames", judge_frame);
}

#[test]
fn reject_frame_vectors_are_refused_with_the_named_error() {
    run_vectors("vectors/frames-reject.json", "frames", judge_frame);
}

#[test]
fn batch_vectors_decode_as_written() {
    run_vectors("vectors/batches.json", "batches", judge_batch);
}

#[test]
fn reject_batch_vectors_are_refused_with_the_named_error() {
    run_vectors("vectors/batches-reject.json", "batches", judge_batch);
}

#[test]
fn the_frame_vectors_hold_every_worked_example() {
    let have: BTreeSet<Vec<u8>> =
        vectors("vectors/frames.json", "frames").iter().map(hex_of).collect();
    for (name, bytes) in examples() {
        assert!(have.contains(&bytes), "vectors/frames.json lacks {name}: {}", to_hex(&bytes));
    }
}

#[test]
fn explaining_a_bad_frame_shows_its_good_part_and_names_the_fault() {
    for vector in vectors("vectors/frames-reject.json", "frames") {
        if vector["remote"].as_bool() == Some(true) {
            continue;
        }
        let explained = explain(&hex_of(&vector));
        assert!(explained.fault.is_some(), "{vector}");
    }
}
