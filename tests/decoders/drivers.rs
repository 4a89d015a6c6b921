//! One driver for each decoder: it takes any bytes, and panics when a promise of the decoder does not hold.
//!
//! Two callers share this file: `tests/decoders.rs` (mutated seeds, stable toolchain, in every test run) and
//! `tests/fuzz` (cargo-fuzz, coverage-guided). What is checked besides "does not panic":
//! - what decodes also encodes, and gives the same bytes or the same value again;
//! - what verifies can be read in full, in order.
//!
//! Random bytes do not get past a checksum, so files and frames are tried twice: as they are, and with their
//! checksums put right ([`with_good_sums`]), as if somebody had forged them.

use beachdb::base::batch::{BatchRef, Op, WriteBatch};
use beachdb::base::{Membership, NodeId, ReplicaId, SequenceNumber, checksum};
use beachdb::engine::checkpoint::Description;
use beachdb::engine::edit::{State, VersionEdit};
use beachdb::engine::manifest;
use beachdb::engine::snapshot::SnapshotBody;
use beachdb::env::sim::SimDisk;
use beachdb::env::{Disk, File, IoResult};
use beachdb::limits::{MAX_FRAME_BYTES, MAX_INLINE_BYTES, MAX_SESSIONS};
use beachdb::node::{Replicated, wire};
use beachdb::proto::explain::{batch_json, explain, explain_batch, frame_json, peer_frame_json};
use beachdb::proto::frame::{self, CrcPolicy, Decoded, FLAG_STALE, FrameHeader, HEADER_BYTES};
use beachdb::proto::inline::InlineCommand;
use beachdb::proto::peer::{self, PeerFrame};
use beachdb::proto::{REPLY_BIT, Request, Response, classify, inline};
use beachdb::raft::{LogStore, LogView};
use beachdb::raft_log::RaftLog;
use beachdb::sstable::format::{BLOCK_HEADER_BYTES, FILE_HEADER_BYTES, FOOTER_BYTES, Properties};
use beachdb::sstable::{Fetch, Probe, Table, filter, format, verify};
use beachdb::wal::segment::{SegmentReader, scan};
use beachdb::wal::{self, LogKind, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES};
use bytes::Bytes;
use std::path::Path;
use std::sync::Arc;

/// A driver and the name of its fuzz target and corpus.
pub type Driver = fn(&[u8]);

/// All drivers.
pub const ALL: [(&str, Driver); 14] = [
    ("batch", batch),
    ("frame", frame),
    ("peer", peer_frame),
    ("body", body),
    ("inline", inline_text),
    ("wal", wal_segment),
    ("raft_log", raft_log_segment),
    ("edit", edit),
    ("manifest", manifest_file),
    ("snapshot", snapshot_description),
    ("checkpoint", checkpoint_file),
    ("rows", internal_rows),
    ("sstable", sstable),
    ("sstable_parts", sstable_parts),
];

/// `base::batch`: a valid batch has one spelling.
pub fn batch(data: &[u8]) {
    let explained = explain_batch(data);
    let Ok(batch) = BatchRef::parse(data) else {
        assert!(explained.fault.is_some(), "what does not parse is explained with its fault");
        return;
    };
    assert_eq!(batch.ops().count(), batch.len());
    drop(batch_json(&batch));
    let internal = batch.ops().any(|op| matches!(op, Op::NoOp | Op::Register | Op::Membership(_)));
    assert!(!internal || batch.check_user().is_err(), "internal kinds are refused from users");
    if let Some(Ok(membership)) = Membership::from_entry(data) {
        assert_eq!(membership.to_entry(), data, "one spelling");
    }
    if internal {
        return;
    }
    let mut again = WriteBatch::new();
    again.set_client(batch.client_id(), batch.client_sequence(), batch.acked_below());
    for condition in batch.conditions() {
        again.require(condition.key, condition.expect).expect("what was in a batch fits in one");
    }
    for op in batch.ops() {
        match op {
            Op::Put { key, value } => again.put(key, value),
            Op::Delete { key } => again.delete(key),
            Op::DeleteRange { start, end } => again.delete_range(start, end),
            Op::NoOp | Op::Register | Op::Membership(_) => Ok(()),
        }
        .expect("what was in a batch fits in one");
    }
    assert_eq!(again.as_bytes(), data, "one spelling");
}

/// `node::Replicated`: rows under the reserved prefix, as key length (1), key, value length (1), value; in any order, as
/// no state machine gives them.
pub fn internal_rows(data: &[u8]) {
    let (mut rows, mut rest) = (Vec::new(), data);
    while let Some((key, after)) = short_slice(rest)
        && let Some((value, after)) = short_slice(after)
    {
        rows.push((key.to_vec(), Bytes::copy_from_slice(value)));
        rest = after;
    }
    rows.sort();
    rows.dedup_by(|a, b| a.0 == b.0);
    for max_sessions in [1, MAX_SESSIONS] {
        if let Err(error) = Replicated::from_rows(max_sessions, &rows) {
            assert!(error.to_string().contains("internal row"), "{error}");
        }
    }
}

fn short_slice(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = data.split_first()?;
    rest.split_at_checked(usize::from(*len))
}

/// `proto::frame` and all that follows from a whole frame.
pub fn frame(data: &[u8]) {
    one_frame(data);
    one_frame(&with_good_frame_sum(data));
}

/// Puts length, version, flags, and checksum of a frame right.
fn with_good_frame_sum(data: &[u8]) -> Vec<u8> {
    let mut forged = data.to_vec();
    if data.len() >= HEADER_BYTES {
        let len = forged.len() as u32;
        forged[..4].copy_from_slice(&len.to_be_bytes());
        forged[4] = beachdb::proto::PROTOCOL_VERSION;
        forged[6..8].fill(0);
        forged[20..24].fill(0);
        let crc = checksum::crc32c(&forged);
        forged[20..24].copy_from_slice(&crc.to_be_bytes());
    }
    forged
}

/// `proto::peer` and `node::wire`: what decodes has one spelling, and raft's messages come back from raft's own form.
pub fn peer_frame(data: &[u8]) {
    for data in [data, &with_good_frame_sum(data)] {
        drop(explain(data));
        let shown = peer_frame_json(data);
        let Ok(Decoded::Frame { consumed, .. }) = frame::decode(data, CrcPolicy::Required) else {
            continue;
        };
        let decoded = match peer::decode(Bytes::copy_from_slice(&data[..consumed])) {
            Ok(decoded) => decoded,
            Err(error) => {
                drop(error.reply());
                continue;
            }
        };
        assert!(shown.is_ok() || consumed < data.len(), "what decodes can be shown: {shown:?}");
        // A refusal of a newer version is understood as another one; a long message is cut.
        if matches!(decoded, PeerFrame::Refused(_)) {
            continue;
        }
        let mut again = Vec::new();
        peer::encode(&decoded, &mut again).expect("a decoded frame fits in one");
        assert_eq!(again, data[..consumed], "one spelling of {decoded:?}");
        if let PeerFrame::Raft(term, message) = decoded.clone() {
            let replica = |node| ReplicaId { node: NodeId(node), incarnation: node };
            let message = wire::from_wire(replica(1), replica(2), term, message);
            if let Err(problem) = message.check() {
                assert!(!problem.is_empty());
            }
            assert_eq!(wire::to_wire(&message), decoded, "{message:?}");
        }
    }
}

fn one_frame(data: &[u8]) {
    drop(classify(data).refusal());
    drop(explain(data));
    for policy in [CrcPolicy::Required, CrcPolicy::OptionalOnLoopback] {
        drop(frame_json(data, policy));
        match frame::decode(data, policy) {
            Err(error) => drop(error.reply()),
            Ok(Decoded::Incomplete { need }) => {
                assert!(need > data.len() && need <= MAX_FRAME_BYTES, "need {need}");
            }
            Ok(Decoded::Frame { header, body, consumed }) => {
                assert_eq!(consumed, HEADER_BYTES + body.len());
                assert!(consumed <= data.len());
                request_round_trip(header.opcode, header.flags & FLAG_STALE, body);
                response_round_trip(&header, body);
            }
        }
    }
}

/// `proto::request` and `proto::response` without a frame around them: opcode, status word, body.
pub fn body(data: &[u8]) {
    let Some((head, body)) = data.split_first_chunk::<5>() else { return };
    for flags in [0, FLAG_STALE] {
        request_round_trip(head[0], flags, body);
    }
    let header = FrameHeader {
        length: (HEADER_BYTES + body.len()) as u32,
        version: beachdb::proto::PROTOCOL_VERSION,
        opcode: head[0] | REPLY_BIT,
        flags: 0,
        request_id: 7,
        word: u32::from_be_bytes([head[1], head[2], head[3], head[4]]),
        crc: 0,
    };
    response_round_trip(&header, body);
    response_round_trip(&FrameHeader { flags: FLAG_STALE, ..header }, body);
}

fn request_round_trip(opcode: u8, flags: u16, body: &[u8]) {
    let header = FrameHeader {
        length: (HEADER_BYTES + body.len()) as u32,
        version: beachdb::proto::PROTOCOL_VERSION,
        opcode,
        flags,
        request_id: 1,
        word: 2,
        crc: 0,
    };
    let request = match Request::decode_frame(&header, body) {
        Ok(request) => request,
        Err(error) => return drop(error.reply()),
    };
    let mut out = Vec::new();
    request.encode(&mut out, 1, 2).expect("a decoded body fits in a frame");
    let Ok(Decoded::Frame { header, body: again, .. }) = frame::decode(&out, CrcPolicy::Required)
    else {
        panic!("an encoded request is a frame: {request:?}");
    };
    assert_eq!((header.opcode, header.flags), (opcode, flags));
    assert_eq!(again, body, "one spelling of {request:?}");
}

fn response_round_trip(header: &FrameHeader, body: &[u8]) {
    let Ok(response) = Response::decode(header, &Bytes::copy_from_slice(body)) else { return };
    drop(inline::render(&response));
    let mut out = Vec::new();
    response.encode(&mut out, header.opcode & !REPLY_BIT, header.request_id);
    let Ok(Decoded::Frame { header, body, .. }) = frame::decode(&out, CrcPolicy::Required) else {
        panic!("an encoded response is a frame: {response:?}");
    };
    let again = Response::decode(&header, &Bytes::copy_from_slice(body));
    // A message too long for the wire is cut when it is encoded.
    let mut expected = response;
    if let Response::Error(error) = &mut expected {
        error.message = error.wire_message().to_owned();
    }
    assert_eq!(again.as_ref().ok(), Some(&expected), "{again:?}");
}

/// `proto::inline`: a line that parses is a request that a frame could carry.
pub fn inline_text(data: &[u8]) {
    drop(classify(data).refusal());
    let line = &data[..data.len().min(MAX_INLINE_BYTES)];
    match inline::parse(line) {
        Ok(InlineCommand::Request(request)) => {
            let request = request.as_request();
            let mut out = Vec::new();
            request.encode(&mut out, 1, 0).expect("a line is shorter than a frame");
            let again = Request::decode(request.opcode().byte(), &out[HEADER_BYTES..]);
            assert_eq!(again.as_ref().ok(), Some(&request), "{again:?}");
        }
        Ok(_) => {}
        Err(error) => drop(inline::render(&Response::Error(error.reply()))),
    }
}

/// `wal`: one segment, scanned alone and recovered as a log of one segment.
pub fn wal_segment(data: &[u8]) {
    one_segment(data);
    one_segment(&with_good_wal_sums(data));
}

type Seen = Vec<(wal::RecordKind, u64, u64, Vec<u8>)>;

fn one_segment(data: &[u8]) {
    let Ok(mut reader) = SegmentReader::open(MemFile::new(data), None) else { return };
    let header = *reader.header();
    let mut end_of_last = SEGMENT_HEADER_BYTES as u64;
    let end = scan(&mut reader, &mut |record| {
        assert_eq!(record.pos.offset(), end_of_last, "records are one behind the other");
        end_of_last += wal::record_bytes(record.payload.len()) as u64;
        Ok(())
    })
    .expect("memory does not fail");
    assert_eq!(end.end, end_of_last);
    assert!(end.end <= data.len() as u64);
    let mut from = 0;
    while let Some(found) = reader.find_group(from).expect("memory does not fail") {
        assert!(found.group.offset() >= from, "the next group is not behind");
        from = found.group.offset() + 8;
    }

    if header.kind == LogKind::Manifest {
        return;
    }
    let disk = SimDisk::new(1);
    let dir = Path::new("/log");
    disk.create_dir_all(dir).expect("the simulated disk works");
    disk.write_file(dir.join(header.kind.file_name(header.id)), data);
    let disk: Arc<dyn Disk> = Arc::new(disk);
    if let Ok(first) = recover(&disk, header.kind) {
        let second = recover(&disk, header.kind).expect("what was recovered is recovered again");
        assert_eq!(first, second, "a second recovery is identical");
    }
}

/// The data that a recovery shows. (State may be shown twice; the newest counts.)
fn recover(disk: &Arc<dyn Disk>, kind: LogKind) -> Result<Seen, wal::WalError> {
    let mut seen = Seen::new();
    let mut options = wal::Options::new(kind, "/log");
    options.segment_bytes = 1 << 16;
    let (writer, _) = wal::open(disk, options, &mut |record| {
        if record.kind == wal::RecordKind::Data {
            seen.push((record.kind, record.index, record.aux, record.payload.to_vec()));
        }
        Ok(())
    })?;
    drop(writer);
    Ok(seen)
}

/// Puts the checksums right along the chain of records that the lengths describe.
fn with_good_wal_sums(data: &[u8]) -> Vec<u8> {
    let mut out = data.to_vec();
    if out.len() < SEGMENT_HEADER_BYTES {
        return out;
    }
    let header = checksum::extend(checksum::crc32c(&out[..8]), &out[12..SEGMENT_HEADER_BYTES]);
    out[8..12].copy_from_slice(&header.to_be_bytes());
    let id = u64::from_be_bytes(out[16..24].try_into().expect("8 bytes"));
    let mut at = SEGMENT_HEADER_BYTES;
    while let Some(head) = out.get(at..at + RECORD_HEADER_BYTES) {
        let len = u32::from_be_bytes(head[4..8].try_into().expect("4 bytes")) as usize;
        let Some(record) = out.get_mut(at..at + RECORD_HEADER_BYTES + len) else { break };
        let seed = id.wrapping_shl(32) | at as u64;
        let crc = checksum::extend(checksum::seeded(seed), &record[4..]);
        record[..4].copy_from_slice(&crc.to_be_bytes());
        at += wal::record_bytes(len);
    }
    out
}

/// `raft_log`: opening a log of one segment, twice, and reading its entries back.
pub fn raft_log_segment(data: &[u8]) {
    for data in [data, &with_good_wal_sums(data)] {
        let (env, sim) = beachdb::env::sim::env(1);
        let dir = Path::new("/raft");
        env.disk.create_dir_all(dir).expect("the simulated disk works");
        sim.disk.write_file(dir.join(LogKind::RaftLog.file_name(1)), data);
        let Ok((log, first)) = RaftLog::open(&env, dir, 1 << 16) else { continue };
        assert!(first.first.0 <= first.last.0.0.saturating_add(1), "{first:?}");
        assert!(first.hard_state.term >= first.last.1, "{first:?}");
        let (from, to) = (log.first_index(), log.last().0);
        if from <= to {
            let entries =
                log.read_job(from, to, usize::MAX)().expect("what was opened is readable");
            assert_eq!(entries.len() as u64, to.0 - from.0 + 1);
        }
        drop(log);
        let (_, second) = RaftLog::open(&env, dir, 1 << 16).expect("what was opened opens again");
        assert_eq!(
            (first.hard_state, first.first, first.last, first.memberships),
            (second.hard_state, second.first, second.last, second.memberships),
            "a second recovery is identical"
        );
    }
}

/// `engine::edit`: a version edit has one spelling, and what can be applied can be written as one full edit.
pub fn edit(data: &[u8]) {
    let Ok(edit) = VersionEdit::decode(data) else { return };
    assert_eq!(edit.encode(), data, "one spelling of {edit:?}");
    let mut state = State::default();
    if state.apply(&edit).is_ok() {
        same_as_full_edit(&state);
    }
}

fn same_as_full_edit(state: &State) {
    let bytes = state.to_edit().encode();
    let full = VersionEdit::decode(&bytes).expect("what was encoded decodes");
    let mut again = State::default();
    again.apply(&full).expect("a state is a valid edit");
    assert_eq!(&again, state);
}

/// `engine::snapshot`: the description of a snapshot, as it is and with its checksum put right.
pub fn snapshot_description(data: &[u8]) {
    let mut forged = data.to_vec();
    if let Some((content, crc)) = forged.split_last_chunk_mut::<4>() {
        *crc = checksum::crc32c(content).to_be_bytes();
    }
    for bytes in [data, &forged] {
        let Ok(body) = SnapshotBody::decode(bytes) else { continue };
        assert_eq!(body.encode(), bytes, "one spelling of {body:?}");
        assert!(body.tables.iter().all(|t| t.bytes <= body.stream_bytes()), "lengths add up");
    }
}

/// `engine::checkpoint`: the text file `CHECKPOINT`, as it is and with its checksum line put right.
pub fn checkpoint_file(data: &[u8]) {
    let path = Path::new("D/CHECKPOINT");
    let content = data.iter().rposition(|b| *b == b'\n').map_or(data, |end| &data[..end]);
    let content = content.iter().rposition(|b| *b == b'\n').map_or(content, |end| &content[..=end]);
    let crc = format!("crc32c {:08x}\n", checksum::crc32c(content));
    for bytes in [data, &[content, crc.as_bytes()].concat()] {
        if let Ok(found) = Description::decode(path, bytes) {
            assert_eq!(found.encode().as_bytes(), bytes, "one spelling of {found:?}");
        }
    }
}

/// `engine::manifest`: a whole manifest, and `CURRENT`.
pub fn manifest_file(data: &[u8]) {
    if let Ok(number) = manifest::decode_current(Path::new("/CURRENT"), data) {
        assert_eq!(manifest::encode_current(number), data, "one spelling");
    }
    let good_sums = with_good_wal_sums(data);
    for data in [data, &good_sums] {
        let disk = SimDisk::new(1);
        let path = Path::new("/7.manifest");
        disk.write_file(path, data);
        let mut edits = 0;
        let replay = manifest::replay(&disk, path, None, &mut |found, _| {
            edits += 1;
            assert_eq!(found.number, edits);
            assert!(found.offset as usize + found.bytes <= data.len());
        });
        if let Ok(replay) = replay {
            assert_eq!(replay.edits, edits);
            same_as_full_edit(&replay.state);
        }
    }
}

/// `sstable`: open, iterate, seek, get, verify, walk.
pub fn sstable(data: &[u8]) {
    one_table(data);
    one_table(&with_good_table_sums(data));
}

/// Entries looked at; forged tables may claim many.
const MAX_ENTRIES: usize = 2_000;

fn one_table(data: &[u8]) {
    let file: Arc<dyn File> = MemFile::new(data);
    let mut end = FILE_HEADER_BYTES as u64;
    let walked = verify::walk(&*file, &mut |block| {
        assert_eq!(block.handle.offset, end);
        end = block.handle.end().expect("inside the file");
        true
    });
    walked.expect("memory does not fail");
    let Ok(table) = Table::open(file, 1) else { return };
    let table = Arc::new(table);
    let verified = table.verify().is_ok();
    for i in 0..table.data_blocks().min(MAX_ENTRIES) {
        let shown = table.for_each_in_block(i, &mut |_, _, _| {});
        assert!(!verified || shown.is_ok(), "what verifies is readable");
    }
    let mut keys = Vec::new();
    let mut iter = table.iter();
    let mut step = iter.seek_to_first();
    while step.is_ok() && iter.valid() && keys.len() < MAX_ENTRIES {
        let (key, trailer) = iter.key();
        keys.push((key.to_vec(), trailer, iter.value().to_vec()));
        step = iter.next();
    }
    assert!(!verified || step.is_ok(), "what verifies is readable");
    for (key, trailer, value) in &keys {
        let seq = SequenceNumber(trailer >> 8);
        let got = table.get(key, seq, &Probe::of(key), Fetch::Point);
        let sought = iter.seek(key, *trailer);
        if verified {
            let (_, _, found) = got.expect("readable").expect("a key of the table is found");
            // Two kinds at one sequence number: the newest trailer is shown first.
            let newest = keys.iter().find(|(k, t, _)| k == key && t >> 8 == seq.0);
            assert_eq!(Some(&found[..]), newest.map(|(_, _, v)| &v[..]));
            sought.expect("readable");
            assert_eq!(iter.key(), (&key[..], *trailer));
            assert_eq!(iter.value(), value);
        }
    }
    if verified && keys.len() < MAX_ENTRIES {
        assert_eq!(keys.len() as u64, table.properties().entries);
    }
}

/// Puts the checksums of the blocks that the lengths describe, and of the footer, right.
fn with_good_table_sums(data: &[u8]) -> Vec<u8> {
    let mut out = data.to_vec();
    let Some(footer) = out.len().checked_sub(FOOTER_BYTES).filter(|at| *at >= FILE_HEADER_BYTES)
    else {
        return out;
    };
    let mut at = FILE_HEADER_BYTES;
    while at + BLOCK_HEADER_BYTES <= footer {
        let len = u32::from_be_bytes(out[at + 8..at + 12].try_into().expect("4 bytes")) as usize;
        let end = at + BLOCK_HEADER_BYTES + len;
        if end > footer {
            break;
        }
        let crc = checksum::extend(checksum::seeded(at as u64), &out[at + 4..end]);
        out[at..at + 4].copy_from_slice(&crc.to_be_bytes());
        at = end;
    }
    let crc = checksum::extend(checksum::seeded(footer as u64), &out[footer..footer + 52]);
    let crc = checksum::extend(crc, &out[footer + 56..]);
    out[footer + 52..footer + 56].copy_from_slice(&crc.to_be_bytes());
    out
}

/// `sstable`: properties, filters, and compressed blocks, whose checksums cost the fuzzer effort above.
pub fn sstable_parts(data: &[u8]) {
    if let Ok(payload) = format::decompress(data, 100) {
        assert!(payload.len() <= 255 * data.len(), "no more than the bytes can stand for");
    }
    if let Ok(properties) = Properties::decode(data, 100) {
        let mut out = Vec::new();
        properties.encode(&mut out);
        assert_eq!(out, data, "one spelling of {properties:?}");
    }
    for id in 0..3 {
        if let Some(Ok(Some(filter))) = filter::open(id, bytes::Bytes::copy_from_slice(data), 100) {
            let summary = filter.summary();
            assert!(summary.bits_set <= summary.bits);
            for hash in [0, 1, u64::MAX, data.len() as u64] {
                std::hint::black_box(filter.may_contain(&Probe::new(hash)));
            }
        }
    }
}

/// A read-only file in memory.
#[derive(Debug)]
pub struct MemFile(Vec<u8>);

impl MemFile {
    fn new(data: &[u8]) -> Arc<Self> {
        Arc::new(Self(data.to_vec()))
    }
}

impl File for MemFile {
    fn path(&self) -> &Path {
        Path::new("memory")
    }
    fn len(&self) -> IoResult<u64> {
        Ok(self.0.len() as u64)
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> IoResult<usize> {
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(self.0.len());
        let n = buf.len().min(self.0.len() - from);
        buf[..n].copy_from_slice(&self.0[from..from + n]);
        Ok(n)
    }
    fn write_at(&self, _: u64, _: &[u8]) -> IoResult<()> {
        unreachable!("a reader does not write")
    }
    fn set_len(&self, _: u64) -> IoResult<()> {
        unreachable!("a reader does not write")
    }
    fn sync_data(&self) -> IoResult<()> {
        unreachable!("a reader does not sync")
    }
}
