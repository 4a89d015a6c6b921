//! Any message of raft's comes back from the wire as it was.

use super::*;
use crate::base::{LogIndex, Member, MemberRole, Membership, NodeId};
use crate::limits::MAX_STORED_INDEX;
use crate::proto::frame::{self, CrcPolicy, Decoded};
use crate::proto::peer;
use bytes::Bytes;
use proptest::prelude::*;

const FROM: ReplicaId = ReplicaId { node: NodeId(1), incarnation: 0xa };
const TO: ReplicaId = ReplicaId { node: NodeId(2), incarnation: 0xb };

fn index() -> impl Strategy<Value = LogIndex> {
    prop_oneof![0..20u64, any::<u64>(), Just(MAX_STORED_INDEX)].prop_map(LogIndex)
}

fn term() -> impl Strategy<Value = Term> {
    index().prop_map(|index| Term(index.0))
}

fn payload() -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

fn append() -> impl Strategy<Value = Body> {
    let entry = (index(), term(), payload());
    let entries = proptest::collection::vec(
        entry.prop_map(|(index, term, payload)| Entry { index, term, payload }),
        0..6,
    );
    (any::<[u64; 2]>(), (index(), term()), entries, index()).prop_map(
        |([session, round], prev, entries, commit)| {
            Body::Append(Append { session, round, prev, entries, commit })
        },
    )
}

fn append_reply() -> impl Strategy<Value = Body> {
    // No entry has term 0, so nothing conflicts with one of it.
    let conflict = proptest::option::of((1..=u64::MAX).prop_map(Term));
    let outcome = prop_oneof![
        index().prop_map(|matched| AppendOutcome::Accepted { matched }),
        (index(), conflict, index()).prop_map(|(prev, term, first)| AppendOutcome::Rejected {
            prev,
            conflict: (term, first),
        }),
    ];
    (any::<[u64; 2]>(), outcome).prop_map(|([session, round], outcome)| {
        Body::AppendReply(AppendReply { session, round, outcome })
    })
}

fn membership() -> impl Strategy<Value = Membership> {
    let member = (1..9u64, any::<u64>(), any::<bool>(), "[!-~]{0,12}");
    proptest::collection::vec(member, 0..5).prop_map(|members| {
        let mut out = Membership::new();
        for (node, incarnation, votes, address) in members {
            out.insert(Member {
                replica: ReplicaId { node: NodeId(node), incarnation },
                role: if votes { MemberRole::Voter } else { MemberRole::Learner },
                peer_address: address.clone(),
                client_address: address,
            });
        }
        out
    })
}

fn chunk() -> impl Strategy<Value = Body> {
    let meta = (index(), term(), (index(), membership()), any::<u64>(), payload()).prop_map(
        |(index, term, membership, bytes, body)| {
            Arc::new(SnapshotMeta { index, term, membership, bytes, body })
        },
    );
    (any::<[u64; 3]>(), proptest::option::of(meta), payload(), any::<u32>()).prop_map(
        |([session, transfer, offset], meta, data, crc)| {
            Body::Snapshot(SnapshotChunk { session, transfer, meta, offset, data, crc })
        },
    )
}

fn snapshot_reply() -> impl Strategy<Value = Body> {
    let outcome = prop_oneof![
        any::<u64>().prop_map(|offset| SnapshotOutcome::Next { offset }),
        index().prop_map(|index| SnapshotOutcome::Installed { index }),
        ".{0,80}".prop_map(|reason| SnapshotOutcome::Refused { reason }),
    ];
    (any::<[u64; 2]>(), outcome).prop_map(|([session, transfer], outcome)| {
        Body::SnapshotReply(SnapshotReply { session, transfer, outcome })
    })
}

fn body() -> impl Strategy<Value = Body> {
    let last = || (index(), term());
    prop_oneof![
        last().prop_map(|last| Body::PreVote { last }),
        any::<bool>().prop_map(|granted| Body::PreVoteReply { granted }),
        (last(), any::<bool>()).prop_map(|(last, transfer)| Body::Vote { last, transfer }),
        any::<bool>().prop_map(|granted| Body::VoteReply { granted }),
        append(),
        append_reply(),
        any::<u64>().prop_map(|read| Body::ReadIndex { read: ReadId(read) }),
        (any::<u64>(), proptest::option::of(index()))
            .prop_map(|(read, index)| Body::ReadIndexReply { read: ReadId(read), index }),
        chunk(),
        snapshot_reply(),
        Just(Body::TransferNow),
    ]
}

/// The way of a message over the wire.
fn over_the_wire(message: &Message) -> Message {
    let mut out = Vec::new();
    peer::encode(&to_wire(message), &mut out).unwrap();
    let found = frame::decode(&out, CrcPolicy::Required);
    assert!(matches!(found, Ok(Decoded::Frame { consumed, .. }) if consumed == out.len()));
    match peer::decode(out.into()) {
        Ok(PeerFrame::Raft(term, body)) => from_wire(message.from, message.to, term, body),
        other => panic!("{message:?} became {other:?}"),
    }
}

proptest! {
    /// Sensible or not: the wire carries it, raft judges it.
    #[test]
    fn any_message_comes_back_as_it_was(term in term(), body in body()) {
        let message = Message { from: FROM, to: TO, term, body };
        let again = over_the_wire(&message);
        prop_assert_eq!(again.check(), message.check());
        prop_assert_eq!(again, message);
    }
}

#[test]
fn payloads_are_shared_on_the_way_to_the_frame() {
    let payload = Bytes::from(vec![b'x'; 100]);
    let entry = Entry { index: LogIndex(1), term: Term(1), payload: payload.clone() };
    let append = Append {
        session: 1,
        round: 1,
        prev: (LogIndex::ZERO, Term::ZERO),
        entries: vec![entry],
        commit: LogIndex::ZERO,
    };
    let message = Message { from: FROM, to: TO, term: Term(1), body: Body::Append(append) };
    let PeerFrame::Raft(_, PeerMessage::Append { entries, .. }) = to_wire(&message) else {
        panic!("an append");
    };
    assert_eq!(entries[0].payload.as_ptr(), payload.as_ptr());
}

/// What the wire costs an APPEND, sender and receiver, checksums included. A measurement, so it only runs when asked:
/// `cargo test --release -p beachdb --lib node::wire -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn what_an_append_costs_on_the_wire() {
    let clock = crate::env::os::env().clock;
    for (entries, payload_bytes, rounds) in [(0, 0, 20_000), (64, 300, 2_000), (4, 256 << 10, 100)]
    {
        let payload = Bytes::from(vec![b'p'; payload_bytes]);
        let entry = |i| Entry { index: LogIndex(i), term: Term(1), payload: payload.clone() };
        let append = Append {
            session: 1,
            round: 1,
            prev: (LogIndex::ZERO, Term::ZERO),
            entries: (1..=entries).map(entry).collect(),
            commit: LogIndex::ZERO,
        };
        let message = Message { from: FROM, to: TO, term: Term(1), body: Body::Append(append) };
        let (mut sent_ns, mut received_ns, mut out) = (0, 0, Vec::new());
        for _ in 0..rounds {
            out.clear();
            let start = clock.now();
            peer::encode(&to_wire(&message), &mut out).unwrap();
            let sent = clock.now();
            sent_ns += sent.since(start);
            let received = Bytes::copy_from_slice(&out);
            let start = clock.now();
            assert!(frame::decode(&received, CrcPolicy::Required).is_ok());
            let Ok(PeerFrame::Raft(term, body)) = peer::decode(received) else { unreachable!() };
            assert!(from_wire(FROM, TO, term, body).check().is_ok());
            received_ns += clock.now().since(start);
        }
        println!(
            "{entries} entries of {payload_bytes} bytes: {} ns to encode, {} ns to decode, {} bytes",
            sent_ns / rounds,
            received_ns / rounds,
            out.len()
        );
    }
}
