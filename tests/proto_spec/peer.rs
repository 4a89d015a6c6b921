//! `proto-spec/peer.md` and the vectors of frames between nodes.

use super::{
    blocks, check_frames_of_page, hex_of, membership, put_batch, run_vectors, spec, vectors,
};
use beachdb::base::{ClusterUid, LogIndex, NodeId, ReplicaId, Term, checksum};
use beachdb::proto::explain::{explain, peer_frame_json};
use beachdb::proto::frame::{CrcPolicy, Decoded, decode};
use beachdb::proto::peer::{
    self, AppendAnswer, Lane, PeerFrame, PeerHello, PeerMessage, PeerOpcode, PeerPong, PeerWelcome,
    SnapshotAnswer, WireEntry, WireSnapshotMeta,
};
use beachdb::proto::text::to_hex;
use beachdb::proto::{Effect, ErrorCode, ErrorReply, REPLY_BIT};
use bytes::Bytes;
use serde_json::Value;
use std::collections::BTreeSet;

/// Every frame of the page, by name.
fn frames() -> Vec<(&'static str, PeerFrame)> {
    let replica = |node, incarnation| ReplicaId { node: NodeId(node), incarnation };
    let (first, second) = (replica(1, 0x9f3c_62a1_d04e_77b8), replica(2, 0xab));
    let uid = ClusterUid(0x51c0_ffee_5eed_beac);
    let hello = PeerHello {
        min_version: 1,
        max_version: 1,
        lane: Lane::Raft,
        features: 1,
        replica: second,
        wanted: NodeId(1),
        blank: true,
        list: 0x1f58_0d1b,
        cluster_uid: ClusterUid::NONE,
        cluster: "beach".into(),
        peer_address: "10.0.0.2:7401".into(),
        client_address: "10.0.0.2:7400".into(),
        software: "beachd 0.1.0".into(),
    };
    let welcome = PeerWelcome {
        version: 1,
        features: 1,
        replica: first,
        blank: false,
        known: 0,
        cluster_uid: uid,
        cluster: "beach".into(),
        peer_address: "10.0.0.1:7401".into(),
        client_address: "10.0.0.1:7400".into(),
        software: "beachd 0.1.0".into(),
    };
    let message = "this is node 1 too, as incarnation 9f3c62a1d04e77b8";
    let refused = ErrorReply::new(ErrorCode::DuplicateNode, Effect::NotApplied, message);
    let raft = |message| PeerFrame::Raft(Term(3), message);
    let last = (LogIndex(41), Term(2));
    let heartbeat = |entries| {
        raft(PeerMessage::Append {
            session: 5,
            round: 17,
            prev: last,
            commit: LogIndex(40),
            entries,
        })
    };
    let entry = |index, payload: Vec<u8>| WireEntry {
        index: LogIndex(index),
        term: Term(3),
        payload: payload.into(),
    };
    let no_op = beachdb::base::batch::WriteBatch::no_op();
    let entries = vec![entry(42, no_op.into_bytes()), entry(43, put_batch().into_bytes())];
    let append_reply = |answer| raft(PeerMessage::AppendReply { session: 5, round: 17, answer });
    let conflict = AppendAnswer::Rejected { prev: LogIndex(41), conflict: (Term(1), LogIndex(38)) };
    let meta = WireSnapshotMeta {
        index: LogIndex(40),
        term: Term(2),
        membership: (LogIndex(7), membership()),
        bytes: 11,
        body: Bytes::from_static(b"files"),
    };
    let piece = |meta: Option<WireSnapshotMeta>, offset, data: &'static [u8]| {
        raft(PeerMessage::Snapshot {
            session: 6,
            transfer: 2,
            meta: meta.map(Box::new),
            offset,
            data: Bytes::from_static(data),
            crc: checksum::crc32c(data),
        })
    };
    let snapshot_reply =
        |answer| raft(PeerMessage::SnapshotReply { session: 6, transfer: 2, answer });
    let no_room = SnapshotAnswer::Refused { reason: "12 MiB needed, 3 MiB free".into() };
    let answered = PeerMessage::ReadIndexReply { read: 9, index: Some(LogIndex(43)) };
    vec![
        ("peer-hello", PeerFrame::Hello(hello)),
        ("peer-hello-reply", PeerFrame::Welcome(welcome)),
        ("peer-refused", PeerFrame::Refused(refused)),
        ("peer-ping", PeerFrame::Ping),
        ("peer-pong", PeerFrame::Pong(PeerPong { blank: false, known: 0xab, cluster_uid: uid })),
        ("peer-pre-vote", raft(PeerMessage::PreVote { last })),
        ("peer-pre-vote-reply", raft(PeerMessage::PreVoteReply { granted: true })),
        ("peer-vote", raft(PeerMessage::Vote { last, transfer: false })),
        ("peer-vote-reply", raft(PeerMessage::VoteReply { granted: false })),
        ("peer-append", heartbeat(entries)),
        ("peer-heartbeat", heartbeat(vec![])),
        ("peer-append-reply", append_reply(AppendAnswer::Accepted { matched: LogIndex(43) })),
        ("peer-append-reply-rejected", append_reply(conflict)),
        ("peer-read-index", raft(PeerMessage::ReadIndex { read: 9 })),
        ("peer-read-index-reply", raft(answered)),
        ("peer-snapshot-first", piece(Some(meta), 0, b"beach ")),
        ("peer-snapshot", piece(None, 6, b"sand\n")),
        ("peer-snapshot-reply", snapshot_reply(SnapshotAnswer::Next { offset: 6 })),
        (
            "peer-snapshot-reply-installed",
            snapshot_reply(SnapshotAnswer::Installed { index: LogIndex(40) }),
        ),
        ("peer-snapshot-reply-refused", snapshot_reply(no_room)),
        ("peer-transfer-now", raft(PeerMessage::TransferNow)),
        ("peer-begin", PeerFrame::Begin(uid, membership())),
        ("peer-cluster", PeerFrame::Cluster(uid)),
    ]
}

fn examples() -> Vec<(&'static str, Vec<u8>)> {
    let bytes_of = |frame| {
        let mut out = Vec::new();
        peer::encode(&frame, &mut out).unwrap();
        out
    };
    frames().into_iter().map(|(name, frame)| (name, bytes_of(frame))).collect()
}

#[test]
fn every_worked_frame_between_nodes_is_what_the_codec_says() {
    check_frames_of_page("peer.md", &examples());
}

#[test]
fn every_worked_frame_between_nodes_decodes_to_what_was_encoded() {
    for ((name, frame), (_, bytes)) in frames().into_iter().zip(examples()) {
        let found = decode(&bytes, CrcPolicy::Required);
        assert!(matches!(found, Ok(Decoded::Frame { .. })), "{name}: {found:?}");
        assert_eq!(peer::decode(Bytes::from(bytes)), Ok(frame), "{name}");
    }
}

#[test]
fn every_opcode_between_nodes_has_a_worked_frame_and_a_row() {
    let page = std::fs::read_to_string(spec("peer.md")).unwrap();
    let seen: BTreeSet<u8> = examples().iter().map(|(_, bytes)| bytes[5]).collect();
    for opcode in PeerOpcode::ALL {
        let (byte, name) = (opcode.byte(), opcode.name());
        assert!(seen.contains(&byte), "no example of {name}");
        assert!(page.contains(&format!("| `{byte:02x}` | {name}")), "{name} has no row");
    }
    for opcode in [PeerOpcode::Hello, PeerOpcode::Ping] {
        assert!(seen.contains(&(opcode.byte() | REPLY_BIT)), "no reply to {}", opcode.name());
    }
    assert_eq!(blocks(&page, "frame").len(), examples().len());
}

fn judge(vector: &Value) -> Result<Value, (String, String)> {
    peer_frame_json(&hex_of(vector)).map_err(|(code, message)| (code.name().to_owned(), message))
}

#[test]
fn peer_frame_vectors_decode_as_written() {
    run_vectors("vectors/peer-frames.json", "frames", judge);
}

#[test]
fn reject_peer_frame_vectors_are_refused_with_the_named_error() {
    run_vectors("vectors/peer-frames-reject.json", "frames", judge);
}

/// The vectors' hex comes from another encoder, so this compares two.
#[test]
fn the_peer_frame_vectors_hold_every_worked_example() {
    let have: BTreeSet<Vec<u8>> =
        vectors("vectors/peer-frames.json", "frames").iter().map(hex_of).collect();
    for (name, bytes) in examples() {
        assert!(have.contains(&bytes), "vectors/peer-frames.json lacks {name}: {}", to_hex(&bytes));
    }
}

#[test]
fn explaining_a_bad_frame_between_nodes_names_the_fault() {
    for vector in vectors("vectors/peer-frames-reject.json", "frames") {
        let bytes = hex_of(&vector);
        // Frames of the client protocol are good ones elsewhere, connection errors (80) with a request id among them.
        let of_clients = bytes.get(5).is_some_and(|opcode| PeerOpcode::of_frame(*opcode).is_none());
        assert!(explain(&bytes).fault.is_some() || of_clients, "{vector}");
    }
}
