//! Two link ends talking through byte vectors.

use super::*;
use crate::base::{LogIndex, NodeId, ReplicaId};
use crate::limits::PEER_OUTPUT_BYTES;
use crate::proto::peer::{Lane, PEER_PROTOCOL_VERSION, WireEntry};
use bytes::Bytes;

fn replica(node: u64) -> ReplicaId {
    ReplicaId { node: NodeId(node), incarnation: 0xab00 + node }
}

fn hello() -> PeerHello {
    PeerHello {
        min_version: PEER_PROTOCOL_VERSION,
        max_version: PEER_PROTOCOL_VERSION,
        lane: Lane::Raft,
        features: 1,
        replica: replica(1),
        wanted: NodeId(2),
        blank: true,
        list: 0,
        cluster_uid: ClusterUid::NONE,
        cluster: "beach".into(),
        peer_address: "a:1".into(),
        client_address: "a:2".into(),
        software: "beachd".into(),
    }
}

fn welcome() -> PeerWelcome {
    PeerWelcome {
        version: PEER_PROTOCOL_VERSION,
        features: 1,
        replica: replica(2),
        blank: false,
        known: 0xab01,
        cluster_uid: ClusterUid(0xc1),
        cluster: "beach".into(),
        peer_address: "b:1".into(),
        client_address: "b:2".into(),
        software: "beachd".into(),
    }
}

fn at(ms: u64) -> Nanos {
    Nanos::from_millis(ms)
}

fn leaving(now: Nanos, link: &mut PeerLink) -> Vec<u8> {
    let mut bytes = Vec::new();
    link.write_to(now, &mut bytes).unwrap();
    bytes
}

/// What one side has to say, heard by the other.
fn carry(now: Nanos, from: &mut PeerLink, to: &mut PeerLink) -> Result<Vec<Heard>, Broken> {
    let bytes = leaving(now, from);
    let mut heard = Vec::new();
    // In pieces, as a network may.
    for piece in bytes.chunks(7) {
        to.receive(now, piece, &mut heard)?;
    }
    Ok(heard)
}

/// Both ends after their handshake.
fn linked(now: Nanos) -> (PeerLink, PeerLink) {
    let (mut dialed, mut accepted) = (PeerLink::dialed(now, hello()), PeerLink::accepted(now));
    let heard = carry(now, &mut dialed, &mut accepted).unwrap();
    assert_eq!(heard, [Heard::Hello(hello())]);
    accepted.welcome(now, welcome());
    let heard = carry(now, &mut accepted, &mut dialed).unwrap();
    assert_eq!(heard, [Heard::Welcome(welcome())]);
    assert!(dialed.is_up() && accepted.is_up());
    (dialed, accepted)
}

fn append(payload: usize) -> PeerFrame {
    let entry =
        WireEntry { index: LogIndex(1), term: Term(1), payload: Bytes::from(vec![7; payload]) };
    PeerFrame::Raft(
        Term(1),
        PeerMessage::Append {
            session: 1,
            round: 1,
            prev: (LogIndex::ZERO, Term::ZERO),
            commit: LogIndex::ZERO,
            entries: vec![entry],
        },
    )
}

#[test]
fn messages_cross_after_the_handshake_and_in_any_pieces() {
    let (mut dialed, mut accepted) = linked(at(0));
    for n in [0, 1, 100, 100_000] {
        dialed.send(at(1), Class::Normal, n, &append(n)).unwrap();
    }
    let heard = carry(at(1), &mut dialed, &mut accepted).unwrap();
    let lengths: Vec<usize> = heard
        .iter()
        .map(|heard| match heard {
            Heard::Message(_, PeerMessage::Append { entries, .. }) => entries[0].payload.len(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(lengths, [0, 1, 100, 100_000]);
}

#[test]
fn a_refusal_is_heard_by_the_one_who_dialed() {
    let (mut dialed, mut accepted) = (PeerLink::dialed(at(0), hello()), PeerLink::accepted(at(0)));
    carry(at(0), &mut dialed, &mut accepted).unwrap();
    let error = ErrorReply::new(ErrorCode::WrongCluster, Effect::NotApplied, "this is the lake");
    accepted.refuse(at(0), error.clone());
    assert!(!accepted.is_over(), "its last words have not left");
    let why = carry(at(0), &mut accepted, &mut dialed).unwrap_err();
    assert_eq!(why, Broken::Refused(error));
    assert!(accepted.is_over());
}

#[test]
fn what_does_not_belong_there_ends_the_link_with_a_reason() {
    // A message instead of HELLO.
    let mut accepted = PeerLink::accepted(at(0));
    let mut bytes = Vec::new();
    peer::encode(&append(1), &mut bytes).unwrap();
    let mut heard = Vec::new();
    let why = accepted.receive(at(0), &bytes, &mut heard).unwrap_err().to_string();
    assert!(why.contains("expected HELLO"), "{why}");
    assert!(heard.is_empty() && accepted.unsent() > 0);
    // A message behind HELLO, before it was answered.
    let mut dialed = PeerLink::dialed(at(0), hello());
    let mut both = leaving(at(0), &mut dialed);
    both.extend(&bytes);
    let mut accepted = PeerLink::accepted(at(0));
    accepted.receive(at(0), &both, &mut heard).unwrap_err();
    assert_eq!(heard, [Heard::Hello(hello())]);
    // A second HELLO.
    let (_, mut accepted) = linked(at(0));
    let again = leaving(at(0), &mut PeerLink::dialed(at(0), hello()));
    accepted.receive(at(0), &again, &mut heard).unwrap_err();
    // Messages to the one who dialed.
    let (mut dialed, _) = linked(at(0));
    dialed.receive(at(0), &bytes, &mut heard).unwrap_err();
    // Noise.
    let (_, mut accepted) = linked(at(0));
    let mut noise = bytes.clone();
    noise[20] ^= 1;
    let why = accepted.receive(at(0), &noise, &mut heard).unwrap_err().to_string();
    assert!(why.contains("CRC32C"), "{why}");
}

#[test]
fn a_stranger_cannot_have_memory_reserved_for_it() {
    let mut accepted = PeerLink::accepted(at(0));
    let mut bytes = Vec::new();
    peer::encode(&append(1 << 20), &mut bytes).unwrap();
    let why = accepted.receive(at(0), &bytes[..100], &mut Vec::new()).unwrap_err().to_string();
    assert!(why.contains("before the handshake"), "{why}");
    let (mut dialed, mut accepted) = linked(at(0));
    dialed.send(at(1), Class::Normal, 1 << 20, &append(1 << 20)).unwrap();
    assert_eq!(carry(at(1), &mut dialed, &mut accepted).unwrap().len(), 1);
}

/// Ten seconds, and one more for each 64 KiB that came.
#[test]
fn a_frame_that_does_not_end_ends_the_link_and_a_slow_one_may_take_its_time() {
    let mut bytes = Vec::new();
    peer::encode(&append(4 << 20), &mut bytes).unwrap();
    let drips = |piece: usize, every_ms: u64| {
        let (_, mut accepted) = linked(at(0));
        let mut heard = Vec::new();
        for (n, piece) in bytes.chunks(piece).enumerate() {
            let now = at(n as u64 * every_ms);
            if let Err(why) = accepted.tick(now) {
                return Err((now, why.to_string()));
            }
            accepted.receive(now, piece, &mut heard).unwrap();
        }
        Ok(heard.len())
    };
    let (when, why) = drips(1, 1_000).unwrap_err();
    assert_eq!((when, why.as_str()), (at(11_000), "a frame that does not end"));
    assert_eq!(drips(64 << 10, 900), Ok(1), "64 KiB and some a second");
    // Complete frames, however many, are no reason.
    let (mut dialed, mut accepted) = linked(at(0));
    for second in 0..30 {
        dialed.send(at(second * 1_000), Class::Urgent, 10, &append(0)).unwrap();
        accepted.tick(at(second * 1_000)).unwrap();
        assert_eq!(carry(at(second * 1_000), &mut dialed, &mut accepted).unwrap().len(), 1);
        assert_eq!(accepted.held(), 0);
    }
}

#[test]
fn whoever_answers_cannot_have_memory_reserved_for_it_either() {
    let (mut dialed, _) = linked(at(0));
    let mut bytes = Vec::new();
    peer::encode(&append(1 << 20), &mut bytes).unwrap();
    let why = dialed.receive(at(1), &bytes[..100], &mut Vec::new()).unwrap_err().to_string();
    assert!(why.contains("in answer to it, at most 4096"), "{why}");
}

#[test]
fn a_client_on_the_peer_port_is_told_where_it_is() {
    for said in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"PUT k v\n", &[0x16, 3, 1, 2, 0]] {
        let mut accepted = PeerLink::accepted(at(0));
        accepted.receive(at(0), said, &mut Vec::new()).unwrap_err();
        let text = String::from_utf8(leaving(at(0), &mut accepted)).unwrap();
        assert!(text.starts_with("ERR WRONG_PROTOCOL") && text.contains("--listen"), "{text}");
        assert!(accepted.is_over());
    }
    let mut frame = Vec::new();
    crate::proto::Request::Ping.encode(&mut frame, 9, 0).unwrap();
    let mut accepted = PeerLink::accepted(at(0));
    let why = accepted.receive(at(0), &frame, &mut Vec::new()).unwrap_err().to_string();
    assert!(why.contains("client") && accepted.unsent() > 0, "{why}");
}

#[test]
fn a_peer_that_answers_lives_and_one_that_does_not_is_dead_after_three_seconds() {
    let (mut dialed, mut accepted) = linked(at(0));
    for second in 1..60 {
        let now = at(1_000 * second);
        assert!(dialed.next_deadline() <= now);
        dialed.tick(now).unwrap();
        accepted.tick(now).unwrap();
        carry(now, &mut dialed, &mut accepted).unwrap();
        let later = now.plus(2_000_000);
        carry(later, &mut accepted, &mut dialed).unwrap();
        assert_eq!(dialed.round_trip_ns(), Some(2_000_000));
    }
    for second in 60..63 {
        dialed.tick(at(1_000 * second)).unwrap();
        leaving(at(1_000 * second), &mut dialed);
    }
    assert!(dialed.is_slow(at(62_000)));
    let why = dialed.tick(at(63_001)).unwrap_err().to_string();
    assert!(why.contains("no answer to PING"), "{why}");
    accepted.tick(at(68_000)).unwrap();
    let why = accepted.tick(at(70_000)).unwrap_err().to_string();
    assert!(why.contains("silent"), "{why}");
}

#[test]
fn a_handshake_that_does_not_come_is_given_up() {
    let (mut dialed, mut accepted) = (PeerLink::dialed(at(0), hello()), PeerLink::accepted(at(0)));
    for link in [&mut dialed, &mut accepted] {
        assert_eq!(link.next_deadline(), at(3_000));
        link.tick(at(2_999)).unwrap();
        assert!(link.tick(at(3_000)).unwrap_err().to_string().contains("HELLO"));
    }
}

/// Takes `room` bytes, then would block.
struct Narrow {
    room: usize,
}

impl Write for Narrow {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let n = data.len().min(self.room);
        self.room -= n;
        if n == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(n) }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_peer_that_reads_slowly_lives_and_is_called_slow_and_what_does_not_fit_is_dropped() {
    let (mut dialed, _) = linked(at(0));
    let mut dropped = 0;
    for _ in 0..100 {
        dropped += u32::from(dialed.send(at(0), Class::Normal, 1 << 20, &append(1 << 20)).is_err());
    }
    assert!(dropped > 50 && dialed.unsent() <= PEER_OUTPUT_BYTES + 10_000, "{dropped} dropped");
    // It takes a little every second, and no PONG comes.
    for second in 1..20 {
        dialed.tick(at(1_000 * second)).unwrap();
        dialed.write_to(at(1_000 * second), &mut Narrow { room: 1_000 }).unwrap();
        assert!(dialed.is_slow(at(1_000 * second)));
    }
    // Then nothing at all.
    for second in 20..22 {
        dialed.tick(at(1_000 * second)).unwrap();
    }
    dialed.tick(at(23_000)).unwrap_err();
}

#[test]
fn heartbeats_into_the_buffer_of_a_dead_kernel_do_not_keep_a_link_alive() {
    let (mut dialed, _) = linked(at(0));
    let mut dead = None;
    for ms in (0..10_000).step_by(100) {
        dialed.send(at(ms), Class::Urgent, 10, &append(0)).unwrap();
        if dialed.tick(at(ms)).is_err() {
            dead = Some(ms);
            break;
        }
        leaving(at(ms), &mut dialed);
    }
    assert_eq!(dead, Some(4_000), "three seconds after the first unanswered PING");
}

#[test]
fn arbitrary_bytes_never_panic() {
    let mut random = 0x5eed_u64;
    let mut next = move || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) as u8
    };
    let good = leaving(at(0), &mut PeerLink::dialed(at(0), hello()));
    for round in 0..2_000 {
        let mut bytes = good.clone();
        for _ in 0..=round % 4 {
            let at = usize::from(next()) % bytes.len();
            bytes[at] = next();
        }
        bytes.truncate(usize::from(next()) % (bytes.len() + 1));
        let mut link = PeerLink::accepted(at(0));
        let mut heard = Vec::new();
        if link.receive(at(0), &bytes, &mut heard).is_ok() {
            assert!(heard.len() <= 1);
        }
    }
}
