//! Bad input on the client port of the real daemon: whatever one client sends, it gets a clear answer, the daemon does
//! not panic and does not grow, and other clients go on.

#![allow(clippy::disallowed_methods, reason = "black-box tests use clocks and threads")]

mod common;

use beachdb::limits;
use beachdb::proto::frame::{self, FLAG_NO_CRC};
use beachdb::proto::peer::{self, PeerFrame};
use beachdb::proto::{CONNECTION_OPCODE, Effect, ErrorCode, Opcode, REPLY_BIT, Request, Response};
use common::{Daemon, frame_of, netcat};
use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

/// A frame with a patched header and a checksum that fits again.
fn patched(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = frame_of(&Request::Ping, 77);
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    let (head, body) = frame.split_first_chunk().expect("a header");
    let crc = frame::frame_crc(head, body);
    frame[20..24].copy_from_slice(&crc.to_be_bytes());
    frame
}

fn daemon() -> (tempfile::TempDir, Daemon) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let daemon = Daemon::start(&dir.path().join("data"), &[]);
    (dir, daemon)
}

#[test]
fn a_broken_frame_is_answered_with_its_reason_and_the_connection_closes() {
    let (_dir, mut daemon) = daemon();
    let mut bad_crc = frame_of(&Request::Ping, 77);
    bad_crc[23] ^= 1;
    for (frame, code, id) in [
        (patched(0, &[0, 0, 0, 0]), ErrorCode::BadFrame, 0),
        (patched(0, &[0, 0, 0, 23]), ErrorCode::BadFrame, 0),
        (patched(4, &[9]), ErrorCode::BadVersion, 77),
        (patched(4, &[0]), ErrorCode::BadVersion, 77),
        (patched(6, &[0xff, 0xfe]), ErrorCode::BadFrame, 77),
        (bad_crc, ErrorCode::BadCrc, 77),
    ] {
        let mut client = daemon.connect();
        client.send_raw(&frame);
        let reply = client.reply();
        assert_eq!(reply.error(), code);
        assert_eq!(reply.header.request_id, id, "{code}");
        assert_eq!(reply.header.opcode, CONNECTION_OPCODE | REPLY_BIT);
        let Response::Error(error) = reply.response else { unreachable!() };
        assert_eq!(error.effect, Effect::NotApplied);
        client.assert_closed();
    }
    // After a good frame the connection is binary, and a length of 16 MiB or more is too large.
    let mut client = daemon.connect();
    client.send(&Request::Ping).expect("it reads");
    client.reply();
    client.send_raw(&[0xff; 64]);
    assert_eq!(client.reply().error(), ErrorCode::FrameTooLarge);
    client.assert_closed();
    daemon.assert_well();
}

#[test]
fn requests_before_a_broken_frame_are_still_answered() {
    let (_dir, mut daemon) = daemon();
    let mut client = daemon.connect();
    let batch = common::batch_of(&[(b"k", b"v")]);
    let put = Request::Write { opcode: Opcode::Put, batch: common::batch_ref(&batch) };
    let mut bad = frame_of(&Request::Ping, 2);
    bad[20] ^= 0xff;
    client.send_raw(&[frame_of(&put, 1), bad].concat());
    let mut replies = [client.reply(), client.reply()];
    replies.sort_by_key(|r| r.header.request_id);
    replies[0].written();
    assert_eq!(replies[1].error(), ErrorCode::BadCrc);
    client.assert_closed();
    assert_eq!(daemon.connect().get(b"k").as_deref(), Some(&b"v"[..]));
    daemon.assert_well();
}

#[test]
fn a_good_frame_with_a_bad_request_is_answered_and_the_connection_goes_on() {
    let (_dir, mut daemon) = daemon();
    let mut client = daemon.connect();
    for opcode in [0x0e, 0x7f, 0x00] {
        client.send_raw(&patched(5, &[opcode]));
        let reply = client.reply();
        assert_eq!(reply.error(), ErrorCode::UnknownOpcode);
        assert_eq!((reply.header.opcode, reply.header.request_id), (opcode | REPLY_BIT, 77));
    }
    for (key, code) in [
        (&b""[..], ErrorCode::BadRequest),
        (&[b'k'; limits::MAX_KEY_BYTES + 1], ErrorCode::KeyTooLarge),
        (b"\x00beach\x00members", ErrorCode::ReservedKey),
    ] {
        let get = Request::Get { key, snapshot: Default::default() };
        assert_eq!(client.ask(&get).error(), code);
    }
    // The same id twice while the first is in flight.
    let ping = frame_of(&Request::Ping, 5);
    client.send_raw(&[ping.clone(), ping.clone()].concat());
    let codes = [client.reply(), client.reply()];
    let refused = |r: &common::Reply| matches!(&r.response, Response::Error(e) if e.code == ErrorCode::DuplicateRequestId);
    assert_eq!(codes.iter().filter(|r| refused(r)).count(), 1, "{codes:?}");
    client.put(b"still", b"here").written();
    daemon.assert_well();
}

#[test]
fn a_frame_between_nodes_is_told_the_right_port_in_words_that_a_peer_understands() {
    let (_dir, mut daemon) = daemon();
    let mut client = daemon.connect();
    let mut ping = Vec::new();
    peer::encode(&PeerFrame::Ping, &mut ping).expect("it fits");
    client.send_raw(&ping);
    let reply = client.reply();
    assert_eq!(reply.error(), ErrorCode::WrongPort);
    assert_eq!((reply.header.opcode, reply.header.request_id), (REPLY_BIT, 0));
    let mut refusal = Vec::new();
    reply.response.encode(&mut refusal, 0, 0);
    assert!(
        matches!(peer::decode(refusal.into()), Ok(PeerFrame::Refused(e)) if e.message.contains("7401"))
    );
    client.assert_closed();
    daemon.assert_well();
}

#[test]
fn a_frame_without_checksum_is_taken_on_loopback() {
    let (_dir, mut daemon) = daemon();
    let mut client = daemon.connect();
    let mut bytes = Vec::new();
    Request::Ping.encode_with_flags(&mut bytes, 3, 0, FLAG_NO_CRC).expect("it fits");
    client.send_raw(&bytes);
    assert_eq!(client.reply().response, Response::Pong);
    daemon.assert_well();
}

#[test]
fn half_a_frame_then_silence_is_told_and_closed_and_half_a_frame_then_the_end_is_closed() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut daemon = Daemon::start(&dir.path().join("data"), &["--frame-timeout", "300ms"]);
    let mut silent = daemon.connect();
    silent.send_raw(&frame_of(&Request::Ping, 1)[..13]);
    let mut truncated = daemon.connect();
    truncated.send_raw(&frame_of(&Request::Ping, 1)[..20]);
    truncated.socket.shutdown(std::net::Shutdown::Write).expect("our end");
    truncated.assert_closed();
    // A byte now and then does not help: the deadline is for the whole frame.
    let mut drip = daemon.connect();
    let frame = frame_of(&Request::Ping, 1);
    let begin = Instant::now();
    let mut sent = 0;
    while begin.elapsed() < Duration::from_millis(900) && sent < frame.len() - 1 {
        if drip.socket.write_all(&frame[sent..=sent]).is_err() {
            break;
        }
        sent += 1;
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(drip.reply().error(), ErrorCode::SlowFrame);
    assert_eq!(silent.reply().error(), ErrorCode::SlowFrame);
    silent.assert_closed();
    daemon.assert_well();
}

#[test]
fn an_idle_connection_is_told_and_closed() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut daemon = Daemon::start(&dir.path().join("data"), &["--idle-timeout", "1s"]);
    let mut idle = daemon.connect();
    idle.send(&Request::Ping).expect("it reads");
    assert_eq!(idle.reply().response, Response::Pong);
    assert_eq!(idle.reply().error(), ErrorCode::IdleTimeout);
    idle.assert_closed();
    daemon.assert_well();
}

#[test]
fn other_protocols_are_told_what_this_port_speaks() {
    let (_dir, mut daemon) = daemon();
    let http = netcat(daemon.listen, b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n");
    let http = String::from_utf8(http).expect("text");
    assert!(http.starts_with("HTTP/1.1 400 Bad Request\r\n") && http.contains("7402"), "{http}");
    let post = netcat(daemon.listen, b"POST /v3/kv/put HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}");
    assert!(post.starts_with(b"HTTP/1.1 400"));
    let hello = b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03random";
    assert_eq!(netcat(daemon.listen, hello), b"\x15\x03\x01\x00\x02\x02\x46");
    let noise = netcat(daemon.listen, b"\xfe\xed\xfa\xce");
    assert!(noise.starts_with(b"ERR WRONG_PROTOCOL"), "{}", noise.escape_ascii());
    daemon.assert_well();
}

#[test]
fn random_bytes_never_harm_the_daemon_or_its_other_clients() {
    let seed = 0x5eed_0001_u64;
    eprintln!("seed {seed:#x}");
    let (_dir, mut daemon) = daemon();
    let mut other = daemon.connect();
    let mut state = seed;
    let mut next = move || {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    for round in 0..300 {
        let mut bytes: Vec<u8> = (0..next() % 2_000).map(|_| next() as u8).collect();
        // Half of them look like frames or mutated frames, so that they come further than the first byte.
        if round % 2 == 0 {
            let mut frame =
                frame_of(&Request::Get { key: b"some key", snapshot: Default::default() }, round);
            let at = next() as usize % frame.len();
            frame[at] ^= 1 << (next() % 8);
            bytes = [frame, bytes].concat();
        }
        // Whatever is answered, if anything: it must end.
        let answer = netcat(daemon.listen, &bytes);
        assert!(answer.len() < 1 << 20);
        other.put(b"other", &round.to_be_bytes()).written();
    }
    daemon.assert_well();
}

#[test]
fn an_endless_line_and_an_announced_giant_take_no_memory() {
    let (_dir, mut daemon) = daemon();
    let before = daemon.rss_bytes();
    let line = netcat(daemon.listen, &vec![b'x'; 4 << 20]);
    // The answer may be lost to a reset, when the rest of the line was still on its way.
    assert!(line.is_empty() || line.starts_with(b"ERR FRAME_TOO_LARGE"), "{}", line.escape_ascii());
    // 200 clients announce 16 MiB each and send a header.
    let mut giants: Vec<_> = (0..200).map(|_| daemon.connect()).collect();
    for giant in &mut giants {
        let mut head = frame_of(&Request::Ping, 1);
        head[..4].copy_from_slice(&(limits::MAX_FRAME_BYTES as u32).to_be_bytes());
        giant.send_raw(&head);
    }
    daemon.assert_well();
    let grown = daemon.rss_bytes().saturating_sub(before);
    assert!(grown < 32 << 20, "grew by {grown} bytes");
}

#[test]
fn many_half_sent_giants_are_bounded_together_and_answered_busy() {
    let (_dir, mut daemon) = daemon();
    let value = vec![7; limits::MAX_VALUE_BYTES];
    let batch = common::batch_of(&[(b"giant", &value)]);
    let put = Request::Write { opcode: Opcode::Put, batch: common::batch_ref(&batch) };
    let frame = frame_of(&put, 1);
    let clients = limits::MAX_INPUT_BYTES / frame.len() + 8;
    let mut giants: Vec<_> = (0..clients).map(|_| daemon.connect()).collect();
    for giant in &mut giants {
        giant.send_raw(&frame[..frame.len() - 1]);
    }
    // Everybody is nearly done; some were told to come again, and nobody took more than the bound.
    daemon.assert_well();
    let rss = daemon.rss_bytes();
    let bound = (limits::MAX_INPUT_BYTES + (160 << 20)) as u64;
    assert!(rss < bound, "{rss} bytes resident, expected less than {bound}");
    let mut busy = 0;
    for giant in &mut giants {
        // A connection that was told BUSY skips the rest of its frame and goes on.
        giant.socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
        if let Ok(Some(reply)) = giant.receive() {
            assert_eq!(reply.error(), ErrorCode::Busy);
            giant.socket.set_read_timeout(Some(common::PATIENCE)).expect("a timeout");
            giant.send_raw(&frame[frame.len() - 1..]);
            assert_eq!(giant.ask(&Request::Ping).response, Response::Pong);
            busy += 1;
        }
    }
    assert!(busy >= 1, "nobody was told BUSY");
    drop(giants);
    daemon.assert_well();
}

#[test]
fn a_burst_of_gets_of_large_values_waits_for_its_reader_and_takes_bounded_memory() {
    const GETS: u64 = 400;
    let (_dir, mut daemon) = daemon();
    let mut client = daemon.connect();
    client.put(b"large", &vec![5; 1 << 20]).written();
    let before = daemon.rss_bytes();
    let get = Request::Get { key: b"large", snapshot: Default::default() };
    let burst: Vec<u8> = (1..=GETS).flat_map(|id| frame_of(&get, 1_000 + id)).collect();
    client.send_raw(&burst);
    let mut grown = 0;
    for id in 1..=GETS {
        let reply = client.reply();
        assert_eq!(reply.header.request_id, 1_000 + id);
        assert!(matches!(reply.response, Response::Value { value, .. } if value.len() == 1 << 20));
        grown = grown.max(daemon.rss_bytes().saturating_sub(before));
    }
    assert!(grown < 64 << 20, "grew by {grown} bytes for {GETS} replies of 1 MiB");
    daemon.assert_well();
}

#[test]
fn a_client_that_never_reads_is_bounded_and_closed_and_others_go_on() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut daemon = Daemon::start(&dir.path().join("data"), &["--frame-timeout", "2s"]);
    let mut other = daemon.connect();
    other.put(b"large", &vec![5; 1 << 20]).written();
    let before = daemon.rss_bytes();
    let mut deaf = daemon.connect();
    deaf.socket.set_write_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    let get = Request::Get { key: b"large", snapshot: Default::default() };
    // It asks for gigabytes, for as long as the server reads.
    for id in 0..20_000 {
        if deaf.socket.write_all(&frame_of(&get, id)).is_err() {
            break;
        }
    }
    other.put(b"other", b"goes on").written();
    let grown = daemon.rss_bytes().saturating_sub(before);
    let bound = (limits::CONNECTION_OUTPUT_HARD_BYTES + (64 << 20)) as u64;
    assert!(grown < bound, "grew by {grown} bytes for a client that reads nothing");
    // Sooner or later it is closed: what arrived is not all that was asked for.
    let slow = "beachd_connections_closed_total{reason=\"slow_reader\"}";
    common::wait_until("closing the deaf one", || common::metric(&daemon, slow) >= 1.0);
    let mut got = 0;
    let mut chunk = vec![0; 1 << 20];
    loop {
        match common::read_some(&mut deaf.socket, &mut chunk) {
            Ok(0) | Err(_) => break,
            Ok(n) => got += n,
        }
    }
    assert!(got < 200 << 20, "{got} bytes were kept for it");
    daemon.assert_well();
}
