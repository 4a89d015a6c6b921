//! The codec of frames between nodes: what holds for every frame, and the bounds. Layouts are compared with the page and
//! the vectors in `tests/proto_spec.rs`; raft's messages go through `node::wire`'s tests too.

use super::*;
use crate::base::{Member, MemberRole};
use crate::limits::{
    MAX_ADDRESS_BYTES, MAX_APPEND_BYTES, MAX_APPEND_ENTRIES, MAX_BATCH_BYTES, MAX_FRAME_BYTES,
    MAX_MEMBERS, MAX_SNAPSHOT_BODY_BYTES,
};
use crate::proto::frame::{self, CrcPolicy, Decoded, EncodeTooLarge, HEADER_BYTES};
use crate::proto::{Request, RequestError};
use proptest::prelude::*;

fn bytes_of(frame: &PeerFrame) -> Bytes {
    let mut out = Vec::new();
    encode(frame, &mut out).unwrap();
    let found = frame::decode(&out, CrcPolicy::Required);
    assert!(matches!(found, Ok(Decoded::Frame { consumed, .. }) if consumed == out.len()));
    out.into()
}

fn append(entries: Vec<WireEntry>) -> PeerFrame {
    let (prev, commit) = ((LogIndex(1), Term(1)), LogIndex(1));
    let message = PeerMessage::Append { session: 1, round: 2, prev, commit, entries };
    PeerFrame::Raft(Term(1), message)
}

fn entry(index: u64, payload: impl Into<Bytes>) -> WireEntry {
    WireEntry { index: LogIndex(index), term: Term(1), payload: payload.into() }
}

/// The largest membership there can be.
fn largest_membership() -> Membership {
    let mut out = Membership::new();
    for node in 1..=MAX_MEMBERS as u64 {
        out.insert(Member {
            replica: ReplicaId { node: NodeId(node), incarnation: u64::MAX },
            role: MemberRole::Voter,
            peer_address: "p".repeat(MAX_ADDRESS_BYTES),
            client_address: "c".repeat(MAX_ADDRESS_BYTES),
        });
    }
    out
}

fn text(max: usize, lowest: u8) -> impl Strategy<Value = String> {
    let bytes = proptest::collection::vec(lowest..=b'~', 0..=max);
    bytes.prop_map(|bytes| bytes.into_iter().map(char::from).collect())
}

fn replica() -> impl Strategy<Value = ReplicaId> {
    (1..=u64::MAX, any::<u64>())
        .prop_map(|(node, incarnation)| ReplicaId { node: NodeId(node), incarnation })
}

/// The four texts of a handshake.
fn texts() -> impl Strategy<Value = (String, String, String, String)> {
    let cluster = text(MAX_PEER_TEXT_BYTES - 1, b'!').prop_map(|rest| format!("c{rest}"));
    let address = || text(MAX_ADDRESS_BYTES, b'!');
    (cluster, address(), address(), text(MAX_PEER_TEXT_BYTES, b' '))
}

fn handshake() -> impl Strategy<Value = PeerFrame> {
    let numbers = (any::<[u64; 3]>(), any::<u32>(), 1..=255u8, 0..=255u8);
    (numbers, replica(), texts(), any::<[bool; 3]>()).prop_map(
        |(([features, other, uid], list, version, more), replica, texts, [hello, blank, bulk])| {
            let (cluster, peer_address, client_address, software) = texts;
            match hello {
                true => PeerFrame::Hello(PeerHello {
                    min_version: version,
                    max_version: version.max(more),
                    lane: if bulk { Lane::Bulk } else { Lane::Raft },
                    features,
                    replica,
                    wanted: NodeId(other),
                    blank,
                    list: if blank { list } else { 0 },
                    cluster_uid: ClusterUid(uid),
                    cluster,
                    peer_address,
                    client_address,
                    software,
                }),
                false => PeerFrame::Welcome(PeerWelcome {
                    version,
                    features,
                    replica,
                    blank,
                    known: other,
                    cluster_uid: ClusterUid(uid),
                    cluster,
                    peer_address,
                    client_address,
                    software,
                }),
            }
        },
    )
}

fn membership() -> impl Strategy<Value = Membership> {
    let member = (replica(), any::<bool>(), text(20, b'!'), text(20, b'!'));
    proptest::collection::vec(member, 0..6).prop_map(|members| {
        let mut out = Membership::new();
        for (replica, votes, peer_address, client_address) in members {
            let role = if votes { MemberRole::Voter } else { MemberRole::Learner };
            out.insert(Member { replica, role, peer_address, client_address });
        }
        out
    })
}

fn begin() -> impl Strategy<Value = PeerFrame> {
    (any::<u64>(), membership())
        .prop_map(|(uid, members)| PeerFrame::Begin(ClusterUid(uid), members))
}

fn pong() -> impl Strategy<Value = PeerFrame> {
    any::<(bool, u64, u64)>().prop_map(|(blank, known, uid)| {
        PeerFrame::Pong(PeerPong { blank, known, cluster_uid: ClusterUid(uid) })
    })
}

fn refusal() -> impl Strategy<Value = PeerFrame> {
    (0..ErrorCode::ALL.len(), any::<u32>(), ".{0,60}").prop_map(|(code, retry, message)| {
        let mut error = ErrorReply::new(ErrorCode::ALL[code], Effect::NotApplied, message);
        let conditional = error.code == ErrorCode::ConditionFailed;
        error.condition = conditional.then(Box::default);
        error.retry_after_ms = retry;
        PeerFrame::Refused(error)
    })
}

proptest! {
    #[test]
    fn every_frame_of_a_connection_decodes_to_what_was_encoded(
        frame in prop_oneof![handshake(), refusal(), begin(), pong(), Just(PeerFrame::Ping),
                             (1..=u64::MAX).prop_map(|uid| PeerFrame::Cluster(ClusterUid(uid)))]) {
        prop_assert_eq!(decode(bytes_of(&frame)), Ok(frame));
    }

    /// Any body under any opcode: no panic, and what is taken has one spelling.
    #[test]
    fn arbitrary_bodies_never_panic_and_have_one_spelling(
        opcode in FIRST_PEER_OPCODE..=0x4e, reply in any::<bool>(), term in any::<u64>(),
        body in proptest::collection::vec(prop_oneof![3 => Just(0u8), 1 => Just(1), 1 => any::<u8>()], 0..160)) {
        let mut out = Vec::new();
        let term = if PeerOpcode::from_u8(opcode).unwrap().has_term() { term } else { 0 };
        let open = frame::begin(&mut out, opcode | if reply { REPLY_BIT } else { 0 }, 0, term, 0);
        out.extend(body);
        open.finish(&mut out).unwrap();
        if let Ok(frame) = decode(out.clone().into()) {
            prop_assert_eq!(bytes_of(&frame), out, "{:?}", frame);
        }
    }

    #[test]
    fn half_a_frame_is_refused(frame in handshake(), cut in 0usize..40) {
        let bytes = bytes_of(&frame);
        let cut = cut.min(bytes.len() - 1);
        let refused = matches!(decode(bytes.slice(..cut)), Err(PeerError::Frame { .. }));
        prop_assert!(refused, "cut at {}", cut);
    }
}

#[test]
fn payloads_are_slices_of_the_frame() {
    let bytes = bytes_of(&append(vec![entry(2, "first"), entry(3, "second")]));
    let within = |slice: &Bytes| {
        let offset = slice.as_ptr() as usize - bytes.as_ptr() as usize;
        assert_eq!(bytes.slice(offset..offset + slice.len()), slice);
    };
    let Ok(PeerFrame::Raft(_, PeerMessage::Append { entries, .. })) = decode(bytes.clone()) else {
        panic!("an append");
    };
    entries.iter().for_each(|entry| within(&entry.payload));
}

#[test]
fn the_largest_append_and_the_largest_first_piece_fit_in_a_frame() {
    // As raft cuts appends: entries below the limit, and a last one of any size.
    let small = MAX_APPEND_BYTES / 25;
    let mut entries: Vec<WireEntry> =
        (0..small as u64).map(|i| entry(2 + i, vec![b'e'; 25])).collect();
    entries.push(entry(2 + small as u64, vec![b'b'; MAX_BATCH_BYTES]));
    let frame = append(entries);
    assert_eq!(decode(bytes_of(&frame)), Ok(frame));

    let meta = WireSnapshotMeta {
        index: LogIndex(9),
        term: Term(1),
        membership: (LogIndex(1), largest_membership()),
        bytes: 1 << 40,
        body: vec![b'd'; MAX_SNAPSHOT_BODY_BYTES].into(),
    };
    let data = vec![b's'; crate::limits::DEFAULT_SNAPSHOT_CHUNK_BYTES].into();
    let frame = PeerFrame::Raft(
        Term(1),
        PeerMessage::Snapshot {
            session: 1,
            transfer: 1,
            meta: Some(Box::new(meta)),
            offset: 0,
            data,
            crc: 5,
        },
    );
    assert_eq!(decode(bytes_of(&frame)), Ok(frame));
}

#[test]
fn a_frame_over_the_limit_is_not_encoded_and_leaves_the_buffer_as_it_was() {
    let half = vec![b'x'; MAX_FRAME_BYTES / 2];
    let mut out = b"before".to_vec();
    let refused = encode(&append(vec![entry(2, half.clone()), entry(3, half)]), &mut out);
    assert!(matches!(refused, Err(EncodeTooLarge { length }) if length > MAX_FRAME_BYTES));
    assert_eq!(out, b"before");
}

#[test]
fn an_append_of_too_many_entries_is_refused_before_memory_is_reserved() {
    let entries = |n: usize| (0..n as u64).map(|i| entry(2 + i, "")).collect::<Vec<_>>();
    assert!(decode(bytes_of(&append(entries(MAX_APPEND_ENTRIES)))).is_ok());
    let refused = decode(bytes_of(&append(entries(MAX_APPEND_ENTRIES + 1)))).unwrap_err();
    assert!(refused.to_string().contains("count"), "{refused}");
}

#[test]
fn a_reason_too_long_for_the_wire_is_cut_at_a_character() {
    let answer = SnapshotAnswer::Refused { reason: "ü".repeat(1000) };
    let message = PeerMessage::SnapshotReply { session: 1, transfer: 2, answer };
    let Ok(PeerFrame::Raft(_, PeerMessage::SnapshotReply { answer, .. })) =
        decode(bytes_of(&PeerFrame::Raft(Term(1), message)))
    else {
        panic!("a snapshot reply");
    };
    assert_eq!(answer, SnapshotAnswer::Refused { reason: "ü".repeat(512) });
}

#[test]
fn a_frame_on_the_wrong_port_is_answered_with_the_right_one() {
    let mut client = Vec::new();
    Request::Ping.encode(&mut client, 7, 0).unwrap();
    let refused = decode(client.into()).unwrap_err();
    assert_eq!(refused.code(), ErrorCode::WrongPort);
    assert!(refused.reply().message.contains("7400"), "{refused}");

    for opcode in PeerOpcode::ALL {
        let refused = Request::decode(opcode.byte(), b"").unwrap_err();
        assert_eq!(refused, RequestError::PeerFrame { opcode: opcode.byte() });
        assert_eq!(refused.code(), ErrorCode::WrongPort);
        assert!(refused.reply().message.contains("7401"), "{refused}");
    }
}

#[test]
fn opcodes_follow_on_each_other_and_only_two_have_replies() {
    for (i, opcode) in PeerOpcode::ALL.into_iter().enumerate() {
        assert_eq!(opcode.byte(), FIRST_PEER_OPCODE + i as u8);
        assert_eq!(PeerOpcode::of_frame(opcode.byte()), Some((opcode, false)));
        let reply = PeerOpcode::of_frame(opcode.byte() | REPLY_BIT);
        assert_eq!(reply.is_some(), matches!(opcode, PeerOpcode::Hello | PeerOpcode::Ping));
    }
    assert_eq!(PeerOpcode::of_frame(0x4f), None);
    assert_eq!(PeerOpcode::of_frame(FIRST_PEER_OPCODE - 1), None);
}

#[test]
fn the_highest_common_version_is_chosen() {
    let hello = |min_version, max_version| PeerHello {
        min_version,
        max_version,
        lane: Lane::Raft,
        features: 0,
        replica: ReplicaId::default(),
        wanted: NodeId(1),
        blank: false,
        list: 0,
        cluster_uid: ClusterUid::NONE,
        cluster: "beach".into(),
        peer_address: String::new(),
        client_address: String::new(),
        software: String::new(),
    };
    assert_eq!(hello(1, 1).common_version(), Some(1));
    assert_eq!(hello(1, 9).common_version(), Some(1));
    assert_eq!(hello(2, 9).common_version(), None);
}

#[test]
fn a_frame_whose_length_is_not_its_own_is_refused() {
    let bytes = bytes_of(&PeerFrame::Ping);
    let longer = [&bytes[..], b"\0"].concat();
    let found = HEADER_BYTES + 1;
    assert_eq!(decode(longer.into()), Err(PeerError::Frame { found, length: 24 }));
}
