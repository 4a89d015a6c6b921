use super::*;
use crate::base::SequenceNumber;
use crate::base::batch::WriteBatch;
use crate::limits::{CONNECTION_OUTPUT_SOFT_BYTES, MAX_FRAME_BYTES};
use crate::proto::frame::FLAG_NO_CRC;
use bytes::Bytes;

const NOW: Nanos = Nanos(1_000_000_000);
const TIMEOUTS: Timeouts = Timeouts { idle: 60_000_000_000, frame: 10_000_000_000 };

/// Writes down what it is asked.
#[derive(Default)]
struct Asked(Vec<(u64, String)>);

impl Sink for Asked {
    fn request(&mut self, incoming: Incoming<'_>) {
        let what = match incoming.request {
            Request::Get { key, .. } => format!("get {}", key.escape_ascii()),
            Request::Write { batch, .. } => format!("write {} ops", batch.len()),
            other => other.opcode().name().to_ascii_lowercase(),
        };
        self.0.push((incoming.request_id, what));
    }
}

fn get(id: u64, key: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    Request::Get { key, snapshot: SequenceNumber::ZERO }.encode(&mut out, id, 0).unwrap();
    out
}

fn put(id: u64, value: &[u8]) -> Vec<u8> {
    let mut batch = WriteBatch::new();
    batch.put(b"key", value).unwrap();
    let mut out = Vec::new();
    let batch = crate::base::batch::BatchRef::parse(batch.as_bytes()).unwrap();
    Request::Write { opcode: Opcode::Put, batch }.encode(&mut out, id, 0).unwrap();
    out
}

/// What the connection has to say: status and request id of each frame.
fn frames(connection: &mut Connection) -> Vec<(u64, u32)> {
    let mut bytes = Vec::new();
    connection.output_mut().write_to(&mut bytes).unwrap();
    let mut rest = &bytes[..];
    let mut found = Vec::new();
    while !rest.is_empty() {
        match frame::decode(rest, CrcPolicy::Required).unwrap() {
            Decoded::Frame { header, consumed, .. } => {
                found.push((header.request_id, header.word));
                rest = &rest[consumed..];
            }
            Decoded::Incomplete { .. } => panic!("half a reply"),
        }
    }
    found
}

fn text(connection: &mut Connection) -> String {
    let mut bytes = Vec::new();
    connection.output_mut().write_to(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

fn pong(connection: &mut Connection, id: u64) {
    connection.reply(NOW, Opcode::Ping, id, &Response::Pong);
}

#[test]
fn requests_come_out_the_same_however_the_bytes_are_cut() {
    let stream = [get(1, b"a"), put(2, &[7; 5_000]), get(3, b"b"), get(4, b"c")].concat();
    for cut in [1, 2, 7, 23, 24, 25, 100, 5_000, stream.len()] {
        let (mut c, mut asked) = (Connection::new(NOW, false), Asked::default());
        for piece in stream.chunks(cut) {
            assert!(c.wants_bytes());
            c.receive(NOW, piece, &mut asked);
        }
        let ids: Vec<u64> = asked.0.iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, [1, 2, 3, 4], "cut {cut}");
        assert_eq!(asked.0[1].1, "write 1 ops");
        assert_eq!((c.held_bytes(), c.pending.capacity()), (0, 0), "idle connections hold nothing");
    }
}

#[test]
fn memory_grows_with_the_bytes_that_came_and_not_with_the_length_that_was_announced() {
    let (mut c, mut asked) = (Connection::new(NOW, false), Asked::default());
    let mut head = get(1, b"k")[..24].to_vec();
    head[..4].copy_from_slice(&(MAX_FRAME_BYTES as u32).to_be_bytes());
    c.receive(NOW, &head, &mut asked);
    assert!(c.wants_bytes() && c.pending.capacity() < 1_000);
    for _ in 0..100 {
        c.receive(NOW, &[0; 1_000], &mut asked);
    }
    assert!(c.pending.capacity() <= 2 * c.held_bytes() + 2_000, "{}", c.pending.capacity());
}

#[test]
fn what_is_no_frame_is_answered_and_closes() {
    let good = get(9, b"key");
    let broken = |at: usize, byte: u8| {
        let mut frame = good.clone();
        frame[at] = byte;
        frame
    };
    let mut short = good.clone();
    short[..4].copy_from_slice(&3_u32.to_be_bytes());
    let mut zero = good.clone();
    zero[..4].copy_from_slice(&0_u32.to_be_bytes());
    let mut long = good.clone();
    long[..4].copy_from_slice(&(MAX_FRAME_BYTES as u32).to_be_bytes());
    for (frame, code, id) in [
        (broken(4, 2), ErrorCode::BadVersion, 9),
        (broken(24, 0xee), ErrorCode::BadCrc, 9),
        (broken(6, 0x80), ErrorCode::BadFrame, 9),
        (broken(7, FLAG_NO_CRC as u8), ErrorCode::NoCrcNotAllowed, 9),
        (short, ErrorCode::BadFrame, 0),
        (zero, ErrorCode::BadFrame, 0),
    ] {
        let (mut c, mut asked) = (Connection::new(NOW, false), Asked::default());
        c.receive(NOW, &[get(1, b"x"), frame, get(2, b"never seen")].concat(), &mut asked);
        assert_eq!(asked.0.len(), 1, "{code}");
        assert!(!c.wants_bytes() && !c.finished(), "request 1 is still answered");
        pong(&mut c, 1);
        assert_eq!(frames(&mut c), [(id, code.status()), (1, 0)], "{code}");
        assert!(c.finished());
    }
    // The largest frame is only a slow one; one byte more cannot be written in the length's lower three bytes, and a
    // connection that begins with another byte than 00 is not binary at all.
    let (mut c, mut asked) = (Connection::new(NOW, false), Asked::default());
    c.receive(NOW, &long, &mut asked);
    assert!(c.wants_bytes());
    let (mut c, mut asked) = (Connection::new(NOW, false), Asked::default());
    c.receive(NOW, &[get(1, b"x"), vec![0xff; 40]].concat(), &mut asked);
    assert_eq!(frames(&mut c), [(0, ErrorCode::FrameTooLarge.status())]);
}

#[test]
fn a_frame_without_checksum_is_taken_from_loopback_only() {
    let mut bytes = Vec::new();
    Request::Ping.encode_with_flags(&mut bytes, 5, 0, FLAG_NO_CRC).unwrap();
    let (mut c, mut asked) = (Connection::new(NOW, true), Asked::default());
    c.receive(NOW, &bytes, &mut asked);
    assert_eq!(asked.0, [(5, "ping".to_owned())]);
}

#[test]
fn a_bad_request_in_a_good_frame_is_answered_and_the_connection_goes_on() {
    let (mut c, mut asked) = (Connection::new(NOW, false), Asked::default());
    let mut unknown = Vec::new();
    frame::begin(&mut unknown, 99, 0, 7, 0).finish(&mut unknown).unwrap();
    c.receive(NOW, &[unknown, get(8, b""), get(9, b"k")].concat(), &mut asked);
    assert_eq!(asked.0, [(9, "get k".to_owned())]);
    let codes = [(7, ErrorCode::UnknownOpcode.status()), (8, ErrorCode::BadRequest.status())];
    assert_eq!(frames(&mut c), codes);
    assert!(c.wants_bytes());
}

#[test]
fn an_id_in_flight_is_refused_and_the_first_request_still_answered() {
    let (mut c, mut asked) = (Connection::new(NOW, false), Asked::default());
    c.receive(NOW, &[get(1, b"a"), get(1, b"b")].concat(), &mut asked);
    assert_eq!(frames(&mut c), [(1, ErrorCode::DuplicateRequestId.status())]);
    pong(&mut c, 1);
    assert_eq!(frames(&mut c), [(1, 0)]);
    c.receive(NOW, &get(1, b"again"), &mut asked);
    assert_eq!(asked.0.len(), 2, "an answered id may be used again");
}

#[test]
fn too_many_in_flight_pauses_and_answers_widen_the_window() {
    const MANY: u64 = 3 * MAX_CONNECTION_IN_FLIGHT as u64;
    let (mut c, mut asked) = (Connection::new(NOW, false), Asked::default());
    let many: Vec<u8> = (0..MANY).flat_map(|id| get(id, b"k")).collect();
    c.receive(NOW, &many, &mut asked);
    assert_eq!(asked.0.len(), FIRST_WINDOW);
    assert!(!c.wants_bytes() && !c.can_resume());
    let mut widest = 0;
    for id in 0..MANY {
        pong(&mut c, id);
        c.output_mut().write_to(&mut std::io::sink()).unwrap();
        assert!(c.can_resume() || c.held_bytes() == 0, "reply {id}");
        c.resume(NOW, &mut asked);
        widest = widest.max(asked.0.len() - 1 - id as usize);
    }
    assert_eq!((asked.0.len() as u64, c.held_bytes()), (MANY, 0));
    assert_eq!(widest, MAX_CONNECTION_IN_FLIGHT);
    assert_eq!(c.check_time(NOW.plus(TIMEOUTS.frame), TIMEOUTS), Patience::Fine);
}

#[test]
fn large_replies_narrow_the_window_and_small_ones_widen_it_again() {
    let (mut c, mut asked) = (Connection::new(NOW, false), Asked::default());
    let seq = SequenceNumber(1);
    let reply = |c: &mut Connection, id: u64, size: usize| {
        let value = Bytes::from(vec![1; size]);
        c.reply(NOW, Opcode::Get, id, &Response::Value { seq, applied: seq, value });
        c.output_mut().write_to(&mut std::io::sink()).unwrap();
        c.most_in_flight()
    };
    let many: Vec<u8> = (0..500).flat_map(|id| get(id, b"k")).collect();
    c.receive(NOW, &many, &mut asked);
    let mut narrowest = usize::MAX;
    for id in 0..500 {
        let most = reply(&mut c, id, if id == 100 { CONNECTION_OUTPUT_SOFT_BYTES } else { 100 });
        narrowest = narrowest.min(most);
        c.resume(NOW, &mut asked);
    }
    assert_eq!(narrowest, 1);
    assert!(c.most_in_flight() > 400, "{}", c.most_in_flight());
}

#[test]
fn unsent_replies_pause_reading_until_they_are_taken() {
    let (mut c, mut asked) = (Connection::new(NOW, false), Asked::default());
    c.receive(NOW, &get(1, b"k"), &mut asked);
    let value = Bytes::from(vec![1; CONNECTION_OUTPUT_SOFT_BYTES]);
    let applied = SequenceNumber(1);
    c.reply(NOW, Opcode::Get, 1, &Response::Value { seq: applied, applied, value });
    assert!(!c.wants_bytes());
    assert_eq!(frames(&mut c).len(), 1);
    assert!(c.wants_bytes());
}

#[test]
fn text_commands_are_taken_one_at_a_time_and_answered_in_order() {
    let (mut c, mut asked) = (Connection::new(NOW, false), Asked::default());
    c.receive(NOW, b"PING\r\n\nGET k\nNONSENSE\nPUT k v\nQUIT\nPING\n", &mut asked);
    assert_eq!(asked.0.len(), 1);
    let mut transcript = String::new();
    while !c.finished() {
        if !c.in_flight.is_empty() {
            pong(&mut c, INLINE_ID);
        }
        transcript += &text(&mut c);
        if c.can_resume() {
            c.resume(NOW, &mut asked);
        }
    }
    assert_eq!(asked.0.len(), 3, "nothing is taken after QUIT");
    let lines: Vec<&str> = transcript.lines().collect();
    assert_eq!(lines[..2], ["PONG", "PONG"]);
    assert!(lines[2].starts_with("ERR BAD_REQUEST"), "{}", lines[2]);
    assert_eq!(lines[3..], ["PONG", "BYE"]);
}

#[test]
fn the_last_line_needs_no_line_end() {
    let (mut c, mut asked) = (Connection::new(NOW, false), Asked::default());
    c.receive(NOW, b"PI", &mut asked);
    c.receive(NOW, b"NG", &mut asked);
    c.end_input(NOW, &mut asked);
    assert_eq!(asked.0.len(), 1);
    assert!(!c.finished());
    pong(&mut c, INLINE_ID);
    assert_eq!(text(&mut c), "PONG\n");
    c.resume(NOW, &mut asked);
    assert!(c.finished());
}

#[test]
fn half_a_frame_and_the_end_of_input_is_the_end() {
    let (mut c, mut asked) = (Connection::new(NOW, false), Asked::default());
    c.receive(NOW, &[get(1, b"k"), get(2, b"k")[..30].to_vec()].concat(), &mut asked);
    c.end_input(NOW, &mut asked);
    assert!(!c.finished());
    pong(&mut c, 1);
    assert_eq!(frames(&mut c), [(1, 0)]);
    assert!(c.finished());
}

#[test]
fn http_tls_and_noise_are_told_what_this_port_speaks() {
    for (bytes, answer) in [
        (&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], &b"HTTP/1.1 400"[..]),
        (b"PUT /k HTTP/1.1\r\n\r\n", b"HTTP/1.1 400"),
        (b"\x16\x03\x01\x02\x00\x01", b"\x15\x03"),
        (b"\xff\xfe\xfd", b"ERR WRONG_PROTOCOL"),
    ] {
        let (mut c, mut asked) = (Connection::new(NOW, true), Asked::default());
        c.receive(NOW, bytes, &mut asked);
        let mut said = Vec::new();
        c.output_mut().write_to(&mut said).unwrap();
        assert!(said.starts_with(answer), "{}", said.escape_ascii());
        assert!(c.finished() && asked.0.is_empty());
    }
}

#[test]
fn an_endless_line_is_refused() {
    let (mut c, mut asked) = (Connection::new(NOW, true), Asked::default());
    c.receive(NOW, &[b'x'; MAX_INLINE_BYTES], &mut asked);
    assert!(c.wants_bytes());
    c.receive(NOW, b"x", &mut asked);
    assert!(text(&mut c).starts_with("ERR FRAME_TOO_LARGE"));
    assert!(c.finished());
}

#[test]
fn a_slow_frame_an_idle_connection_and_a_deaf_one_are_given_up() {
    let (frame, idle) = (NOW.plus(TIMEOUTS.frame + 1), NOW.plus(TIMEOUTS.idle + 1));
    let mut asked = Asked::default();
    // Half a frame: even if a byte comes now and then.
    let mut c = Connection::new(NOW, true);
    c.receive(NOW, &get(1, b"key")[..10], &mut asked);
    c.receive(NOW.plus(TIMEOUTS.frame), &get(1, b"key")[10..11], &mut asked);
    assert_eq!(c.check_time(NOW.plus(TIMEOUTS.frame), TIMEOUTS), Patience::Fine);
    assert_eq!(c.check_time(frame, TIMEOUTS), Patience::Told);
    assert_eq!(frames(&mut c), [(0, ErrorCode::SlowFrame.status())]);
    // Half a line is answered as text.
    let mut c = Connection::new(NOW, true);
    c.receive(NOW, b"GET ", &mut asked);
    assert_eq!(c.check_time(frame, TIMEOUTS), Patience::Told);
    assert!(text(&mut c).starts_with("ERR SLOW_FRAME"));
    // Nothing at all.
    let mut c = Connection::new(NOW, true);
    assert_eq!(c.check_time(frame, TIMEOUTS), Patience::Fine);
    assert_eq!(c.check_time(idle, TIMEOUTS), Patience::Told);
    assert_eq!(frames(&mut c), [(0, ErrorCode::IdleTimeout.status())]);
    // Waiting for an answer is not idle; not taking it is deaf.
    let mut c = Connection::new(NOW, true);
    c.receive(NOW, &get(1, b"key"), &mut asked);
    assert_eq!(c.check_time(idle, TIMEOUTS), Patience::Fine);
    c.reply(idle, Opcode::Ping, 1, &Response::Pong);
    assert_eq!(c.check_time(idle, TIMEOUTS), Patience::Fine);
    assert_eq!(c.check_time(idle.plus(TIMEOUTS.frame + 1), TIMEOUTS), Patience::Deaf);
}

#[test]
fn a_large_half_frame_can_be_skipped_and_is_answered_busy() {
    let (mut c, mut asked) = (Connection::new(NOW, true), Asked::default());
    let large = put(5, &[9; 200_000]);
    c.receive(NOW, &large[..100_000], &mut asked);
    assert!(c.skip_partial_frame(NOW));
    assert_eq!(frames(&mut c), [(5, ErrorCode::Busy.status())]);
    assert_eq!(c.held_bytes(), 0);
    c.receive(NOW, &large[100_000..150_000], &mut asked);
    c.receive(NOW, &[large[150_000..].to_vec(), get(6, b"k")].concat(), &mut asked);
    assert_eq!(asked.0, [(6, "get k".to_owned())]);
    assert!(!c.skip_partial_frame(NOW));
}

#[test]
fn the_goodbye_follows_the_answers_and_says_that_nothing_else_was_taken() {
    let goodbye = (0, ErrorCode::ShuttingDown.status());
    // Nothing said, all answered, half a frame, or a frame behind a pause.
    let many: Vec<u8> = (1..=8).flat_map(|id| get(id, b"k")).collect();
    for bytes in [&[][..], &get(1, b"k"), &get(1, b"k")[..30], &many] {
        let (mut c, mut asked) = (Connection::new(NOW, false), Asked::default());
        c.receive(NOW, bytes, &mut asked);
        for (id, _) in &asked.0 {
            pong(&mut c, *id);
        }
        c.say_goodbye(NOW);
        let said = frames(&mut c);
        assert_eq!(said.len(), asked.0.len() + 1, "{said:?}");
        assert_eq!(said.last(), Some(&goodbye));
        assert!(c.finished() && c.held_bytes() == 0);
        c.receive(NOW, &get(9, b"late"), &mut asked);
        c.say_goodbye(NOW);
        assert!(frames(&mut c).is_empty(), "once");
    }
    // What came to the node after its end has no answer.
    let (mut c, mut asked) = (Connection::new(NOW, false), Asked::default());
    c.receive(NOW, &get(1, b"k"), &mut asked);
    c.say_goodbye(NOW);
    assert_eq!(frames(&mut c), [goodbye]);
    assert!(c.finished());
}

#[test]
fn a_refusal_of_a_server_that_stops_is_followed_by_the_goodbye_when_the_others_are_answered() {
    let (mut c, mut asked) = (Connection::new(NOW, false), Asked::default());
    c.receive(NOW, &[get(1, b"a"), get(2, b"b")].concat(), &mut asked);
    let stops = ErrorReply::new(ErrorCode::ShuttingDown, Effect::None, "it stops");
    c.reply(NOW, Opcode::Get, 2, &Response::Error(stops.clone()));
    c.receive(NOW, &get(3, b"never taken"), &mut asked);
    let status = ErrorCode::ShuttingDown.status();
    assert_eq!(frames(&mut c), [(2, status)]);
    pong(&mut c, 1);
    assert_eq!(frames(&mut c), [(1, 0), (0, status)]);
    assert!(c.finished() && asked.0.len() == 2);
    // A text client has one command in flight, and reads it in the answer to that; one that is silent is told.
    let mut c = Connection::new(NOW, false);
    c.receive(NOW, b"GET k\nGET l\n", &mut asked);
    c.reply(NOW, Opcode::Get, INLINE_ID, &Response::Error(stops));
    c.say_goodbye(NOW);
    assert_eq!(text(&mut c).lines().count(), 1);
    let mut c = Connection::new(NOW, false);
    c.receive(NOW, b"GET ", &mut asked);
    c.say_goodbye(NOW);
    assert!(text(&mut c).starts_with("ERR SHUTTING_DOWN"));
}
