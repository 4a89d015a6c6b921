//! The client against a scripted server: what it retries, what it never retries, and what it says.

use super::*;
use crate::base::NodeId;
use crate::proto::frame::{self, CrcPolicy, Decoded, HEADER_BYTES};
use crate::proto::response::encode_connection_error;
use crate::proto::{ScanRange, inline};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Instant;

/// One accepted connection of the scripted server.
pub(super) struct Peer {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Peer {
    /// The next request's opcode, id, and body; `None` when the client has gone.
    pub(super) fn request(&mut self) -> Option<(u8, u64, Vec<u8>)> {
        loop {
            match frame::decode(&self.input, CrcPolicy::Required).expect("a client sends frames") {
                Decoded::Frame { header, body, consumed } => {
                    let out = (header.opcode, header.request_id, body.to_vec());
                    self.input.drain(..consumed);
                    return Some(out);
                }
                Decoded::Incomplete { .. } => {
                    let mut chunk = [0; 65536];
                    match self.stream.read(&mut chunk) {
                        Ok(0) | Err(_) => return None,
                        Ok(n) => self.input.extend_from_slice(&chunk[..n]),
                    }
                }
            }
        }
    }

    pub(super) fn reply(&mut self, opcode: u8, id: u64, response: &Response) {
        let mut out = Vec::new();
        response.encode(&mut out, opcode, id);
        self.raw(&out);
    }

    fn raw(&mut self, bytes: &[u8]) {
        // The client may have gone, which is what some tests are about.
        drop(self.stream.write_all(bytes));
    }
}

/// A server that answers HELLO and runs `script(connection number, peer)` for each connection.
pub(super) fn serve(script: impl Fn(usize, Peer) + Send + 'static) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    (endpoint, serve_on(listener, script))
}

fn serve_on(
    listener: TcpListener,
    script: impl Fn(usize, Peer) + Send + 'static,
) -> Arc<AtomicUsize> {
    let accepted = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&accepted);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut peer = Peer { stream: stream.unwrap(), input: Vec::new() };
            let number = counter.fetch_add(1, Ordering::SeqCst);
            let Some((opcode, id, _)) = peer.request() else {
                continue;
            };
            assert_eq!(opcode, Opcode::Hello.byte());
            let hello = HelloReply::with_limits(NodeId(1), "test", 0);
            peer.reply(opcode, id, &Response::Hello(hello));
            script(number, peer);
        }
    });
    accepted
}

fn client(endpoint: &str) -> Client {
    let mut options = ClientOptions::new([endpoint]);
    options.timeout = Duration::from_secs(2);
    Client::with_options(options).unwrap()
}

fn written(n: u64) -> Response {
    Response::Written {
        index: LogIndex(n),
        first_seq: SequenceNumber(n),
        last_seq: SequenceNumber(n),
    }
}

fn error(code: ErrorCode, effect: Effect) -> Response {
    Response::Error(ErrorReply::new(code, effect, "scripted"))
}

fn put_batch(key: &str) -> WriteBatch {
    let mut batch = WriteBatch::new();
    batch.put(key.as_bytes(), b"v").unwrap();
    batch
}

#[test]
fn a_refused_write_that_was_not_applied_is_sent_again() {
    let (endpoint, accepted) = serve(|_, mut peer| {
        for answer in [error(ErrorCode::Busy, Effect::NotApplied), written(7)] {
            let (opcode, id, _) = peer.request().unwrap();
            peer.reply(opcode, id, &answer);
        }
        peer.request();
    });
    let mut client = client(&endpoint);
    assert_eq!(client.put(b"k", b"v").unwrap().index, LogIndex(7));
    assert_eq!(client.retries(), 1);
    assert_eq!(accepted.load(Ordering::SeqCst), 1, "the connection stays");
}

#[test]
fn retry_after_is_respected_and_never_outlasts_the_deadline() {
    let (endpoint, _) = serve(|_, mut peer| {
        while let Some((opcode, id, _)) = peer.request() {
            let busy = ErrorReply {
                retry_after_ms: 60_000,
                ..ErrorReply::new(ErrorCode::Busy, Effect::NotApplied, "full")
            };
            peer.reply(opcode, id, &Response::Error(busy));
        }
    });
    let mut client = client(&endpoint);
    let begun = Instant::now();
    let e = client.put(b"k", b"v").unwrap_err();
    assert_eq!((e.code(), e.effect()), (Some(ErrorCode::Busy), Effect::NotApplied));
    assert!(begun.elapsed() < Duration::from_secs(1), "it does not wait for what cannot help");
}

#[test]
fn a_write_whose_connection_breaks_is_unknown_and_not_sent_again() {
    let (endpoint, accepted) = serve(|_, mut peer| {
        peer.request();
    });
    let mut client = client(&endpoint);
    let e = client.put(b"k", b"v").unwrap_err();
    assert!(matches!(e, ClientError::Unknown { .. }), "{e:?}");
    assert_eq!(e.effect(), Effect::Unknown);
    assert_eq!((client.retries(), accepted.load(Ordering::SeqCst)), (0, 1));
}

#[test]
fn a_write_with_unknown_effect_in_its_answer_is_unknown() {
    let (endpoint, _) = serve(|_, mut peer| {
        let (opcode, id, _) = peer.request().unwrap();
        peer.reply(opcode, id, &error(ErrorCode::DeadlineExceeded, Effect::Unknown));
        assert!(peer.request().is_none(), "sent twice");
    });
    let e = client(&endpoint).put(b"k", b"v").unwrap_err();
    assert!(
        matches!(&e, ClientError::Unknown { cause, .. } if cause.contains("DEADLINE")),
        "{e:?}"
    );
}

#[test]
fn a_read_whose_connection_breaks_is_asked_again() {
    let (endpoint, accepted) = serve(|number, mut peer| {
        let (opcode, id, body) = peer.request().unwrap();
        assert_eq!(&body[8..], b"k");
        if number > 0 {
            let value = Response::Value {
                seq: SequenceNumber(1),
                applied: SequenceNumber(2),
                value: Bytes::from_static(b"v"),
            };
            peer.reply(opcode, id, &value);
            peer.request();
        }
    });
    let mut client = client(&endpoint);
    let found = client.get(b"k").unwrap().unwrap();
    assert_eq!((&found.value[..], found.seq), (&b"v"[..], SequenceNumber(1)));
    assert_eq!((client.retries(), accepted.load(Ordering::SeqCst)), (1, 2));
}

#[test]
fn a_connection_closed_while_idle_costs_a_write_nothing() {
    let (endpoint, _) = serve(|number, mut peer| {
        if number == 0 {
            let mut out = Vec::new();
            let idle = ErrorReply::new(ErrorCode::IdleTimeout, Effect::NotApplied, "idle");
            encode_connection_error(&mut out, 0, &idle);
            peer.raw(&out);
            return;
        }
        let (opcode, id, _) = peer.request().unwrap();
        peer.reply(opcode, id, &written(1));
        peer.request();
    });
    let mut client = client(&endpoint);
    std::thread::sleep(Duration::from_millis(120));
    client.put(b"k", b"v").unwrap();
    assert_eq!(client.retries(), 0);
}

#[test]
fn a_server_that_never_answers_is_left_at_the_deadline() {
    let (endpoint, _) = serve(|_, mut peer| while peer.request().is_some() {});
    let mut client = client(&endpoint);
    client.set_timeout(Duration::from_millis(200));
    let begun = Instant::now();
    let e = client.get(b"k").unwrap_err();
    assert!(matches!(e, ClientError::NoAnswer { .. }), "{e:?}");
    assert_eq!(e.effect(), Effect::None);
    let e = client.put(b"k", b"v").unwrap_err();
    assert!(matches!(e, ClientError::Unknown { .. }), "{e:?}");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[test]
fn dead_endpoints_are_passed_over_and_named_when_all_are_dead() {
    let (endpoint, _) = serve(|_, mut peer| {
        while let Some((opcode, id, _)) = peer.request() {
            peer.reply(opcode, id, &Response::Pong);
        }
    });
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut client =
        Client::with_options(ClientOptions::new([dead.clone(), endpoint.clone()])).unwrap();
    client.ping().unwrap();
    assert_eq!(client.endpoint(), endpoint);
    let e = Client::connect(&dead).unwrap_err();
    assert!(matches!(&e, ClientError::NotSent { cause } if cause.contains(&dead)), "{e:?}");
    let none = Client::with_options(ClientOptions::new(Vec::<String>::new())).unwrap_err();
    assert!(none.to_string().contains("no endpoint"), "{none}");
}

#[test]
fn not_leader_moves_on_to_the_next_endpoint() {
    let (follower, _) = serve(|_, mut peer| {
        let (opcode, id, _) = peer.request().unwrap();
        peer.reply(opcode, id, &error(ErrorCode::NotLeader, Effect::NotApplied));
        peer.request();
    });
    let (leader, _) = serve(|_, mut peer| {
        let (opcode, id, _) = peer.request().unwrap();
        peer.reply(opcode, id, &written(3));
        peer.request();
    });
    let mut client = Client::with_options(ClientOptions::new([follower, leader.clone()])).unwrap();
    client.put(b"k", b"v").unwrap();
    assert_eq!(client.endpoint(), leader);
}

/// `NOT_LEADER` that names a leader, with the pause that a server advises to those who do not follow it.
fn led_by(leader: &str) -> Response {
    Response::Error(ErrorReply {
        retry_after_ms: 60_000,
        leader: leader.to_owned(),
        ..ErrorReply::new(ErrorCode::NotLeader, Effect::NotApplied, "scripted")
    })
}

/// A server that answers every request alike.
fn always(answer: Response) -> (String, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let (endpoint, _) = serve(move |_, mut peer| {
        while let Some((opcode, id, _)) = peer.request() {
            counter.fetch_add(1, Ordering::SeqCst);
            peer.reply(opcode, id, &answer);
        }
    });
    (endpoint, asked)
}

#[test]
fn a_named_leader_is_asked_at_once_and_from_then_on_also_when_it_is_not_in_the_list() {
    let (leader, led) = always(written(3));
    let (follower, refused) = always(led_by(&leader));
    let mut client = Client::connect(&follower).unwrap();
    let begun = Instant::now();
    client.put(b"k", b"v").unwrap();
    client.put(b"k", b"v").unwrap();
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "the advised pause is not for those who follow"
    );
    assert_eq!((client.endpoint(), client.retries()), (leader.as_str(), 1));
    assert_eq!((refused.load(Ordering::SeqCst), led.load(Ordering::SeqCst)), (1, 2));
}

#[test]
fn a_named_leader_that_is_dead_is_passed_over() {
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let (leader, _) = always(written(3));
    let (follower, _) = always(led_by(&dead));
    let mut client = Client::with_options(ClientOptions::new([follower, leader.clone()])).unwrap();
    client.put(b"k", b"v").unwrap();
    assert_eq!(client.endpoint(), leader);
}

#[test]
fn nodes_that_name_each_other_are_asked_at_the_rate_of_the_pauses() {
    // Each must know the other's address before it serves.
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let names = listeners.each_ref().map(|l| l.local_addr().unwrap().to_string());
    let asked = Arc::new(AtomicUsize::new(0));
    for (i, listener) in listeners.into_iter().enumerate() {
        let (other, asked) = (names[1 - i].clone(), Arc::clone(&asked));
        serve_on(listener, move |_, mut peer| {
            while let Some((opcode, id, _)) = peer.request() {
                asked.fetch_add(1, Ordering::SeqCst);
                let answer = ErrorReply {
                    leader: other.clone(),
                    ..ErrorReply::new(ErrorCode::NotLeader, Effect::NotApplied, "it leads")
                };
                peer.reply(opcode, id, &Response::Error(answer));
            }
        });
    }
    let mut client = Client::with_options(ClientOptions::new([&names[0]])).unwrap();
    client.set_timeout(Duration::from_secs(1));
    let e = client.put(b"k", b"v").unwrap_err();
    assert_eq!((e.code(), e.effect()), (Some(ErrorCode::NotLeader), Effect::NotApplied));
    // Pauses of 5 ms and more that double up to 100 ms and more: about 13 in a second, three requests between two of them.
    let asked = asked.load(Ordering::SeqCst);
    assert!((6..=60).contains(&asked), "{asked} requests in a second");
}

#[test]
fn a_read_stays_with_the_follower_that_serves_it() {
    let value = Response::NotFound { applied: SequenceNumber(1) };
    let (leader, led) = always(value.clone());
    let (follower, served) = always(value);
    let mut client = Client::with_options(ClientOptions::new([follower.clone(), leader])).unwrap();
    for _ in 0..5 {
        client.get(b"k").unwrap();
    }
    assert_eq!((served.load(Ordering::SeqCst), led.load(Ordering::SeqCst)), (5, 0));
    assert_eq!(client.endpoint(), follower);
}

#[test]
fn a_stale_read_comes_with_its_age() {
    let staleness = Staleness { applied_index: LogIndex(7), age_ms: None };
    let answer = Box::new(Response::NotFound { applied: SequenceNumber(3) });
    let (endpoint, _) = always(Response::Stale { staleness, answer });
    let mut client = client(&endpoint);
    assert_eq!(client.get_stale(b"k").unwrap(), (None, staleness));
    assert!(matches!(client.get(b"k"), Err(ClientError::Protocol { .. })), "it was not asked for");
}

#[test]
fn a_read_leaves_a_node_that_hangs_after_a_share_of_its_time() {
    let (hanging, _) = serve(|_, mut peer| while peer.request().is_some() {});
    let (other, _) = always(Response::NotFound { applied: SequenceNumber(1) });
    let mut options = ClientOptions::new([hanging, other.clone()]);
    options.timeout = Duration::from_secs(3);
    let mut client = Client::with_options(options).unwrap();
    client.get(b"k").unwrap();
    assert_eq!(client.endpoint(), other);
}

#[test]
fn a_node_that_accepts_and_never_speaks_does_not_use_up_the_time_of_the_others() {
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let (other, _) = always(written(1));
    let names = [mute.local_addr().unwrap().to_string(), other.clone()];
    let mut options = ClientOptions::new(names);
    options.timeout = Duration::from_secs(2);
    let mut client = Client::with_options(options).unwrap();
    client.put(b"k", b"v").unwrap();
    assert_eq!(client.endpoint(), other);
}

#[test]
fn pipelined_writes_that_meet_a_follower_are_refused_and_the_next_go_to_the_leader() {
    let (leader, led) = always(written(3));
    let (follower, _) = always(led_by(&leader));
    let mut client = Client::connect(&follower).unwrap();
    let batches: Vec<WriteBatch> = (0..4).map(|i| put_batch(&format!("k{i}"))).collect();
    for outcome in client.write_many(&batches, 8) {
        let e = outcome.unwrap_err();
        assert_eq!((e.code(), e.effect()), (Some(ErrorCode::NotLeader), Effect::NotApplied));
        assert!(e.to_string().contains(&follower), "who refused it is named: {e}");
    }
    assert!(client.write_many(&batches, 8).iter().all(Result::is_ok));
    assert_eq!((client.endpoint(), led.load(Ordering::SeqCst)), (leader.as_str(), 4));
}

#[test]
fn another_protocol_is_named_and_not_retried() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            drop(stream.unwrap().write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n"));
        }
    });
    let e = Client::connect(&endpoint).unwrap_err();
    assert!(matches!(e, ClientError::Protocol { .. }), "{e:?}");
}

#[test]
fn a_hello_refusal_is_the_servers_error() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let mut peer = Peer { stream: listener.accept().unwrap().0, input: Vec::new() };
        let (opcode, id, _) = peer.request().unwrap();
        peer.reply(opcode, id, &error(ErrorCode::WrongCluster, Effect::None));
        peer.request();
    });
    let e = Client::connect(&endpoint).unwrap_err();
    assert_eq!(e.code(), Some(ErrorCode::WrongCluster), "{e:?}");
}

#[test]
fn invalid_requests_are_refused_before_they_are_sent() {
    let (endpoint, _) = serve(|_, mut peer| assert!(peer.request().is_none()));
    let mut client = client(&endpoint);
    for e in [
        client.get(b"").unwrap_err(),
        client.put(&[b'k'; MAX_KEY_BYTES + 1], b"").unwrap_err(),
        client.delete(b"\0beach\0x").unwrap_err(),
        client.write(&WriteBatch::new()).unwrap_err(),
    ] {
        assert!(matches!(e, ClientError::Invalid(_)), "{e:?}");
        assert_eq!(e.effect(), Effect::NotApplied);
    }
}

#[test]
fn a_scan_pages_on_one_snapshot_and_stops_at_its_limit() {
    let (endpoint, _) = serve(|_, mut peer| {
        while let Some((opcode, id, body)) = peer.request() {
            let Ok(Request::Scan(scan)) = Request::decode(opcode, &body) else {
                panic!("not a scan");
            };
            let first = scan.resume.is_empty();
            assert_eq!(scan.snapshot.0, if first { 0 } else { 42 });
            assert_eq!(scan.range, ScanRange::Prefix(b"k"));
            let from = if first { 0 } else { scan.resume[1] - b'0' };
            let entries: Vec<ScanEntry> = (from..10)
                .take(scan.effective_limit().min(3))
                .map(|i| ScanEntry {
                    key: vec![b'k', b'0' + i].into(),
                    seq: SequenceNumber(u64::from(i) + 1),
                    value: Bytes::new(),
                })
                .collect();
            let next = from + entries.len() as u8;
            let reply = ScanReply {
                snapshot: SequenceNumber(42),
                applied: SequenceNumber(50),
                keys_only: scan.keys_only,
                entries,
                resume: (next < 10).then(|| vec![b'k', b'0' + next]),
            };
            peer.reply(opcode, id, &Response::Scan(reply));
        }
    });
    let mut client = client(&endpoint);
    let keys = |scan: Scan<'_>| -> Vec<u8> { scan.map(|e| e.unwrap().key[1] - b'0').collect() };
    let all = client.scan(ScanOptions::prefix(b"k"));
    assert_eq!(keys(all), (0..10).collect::<Vec<u8>>());
    let mut some = client.scan(ScanOptions { limit: Some(5), ..ScanOptions::prefix(b"k") });
    assert_eq!(some.by_ref().map(|e| e.unwrap().key[1]).collect::<Vec<_>>(), b"01234");
    assert_eq!(some.resume_key(), Some(&b"k5"[..]));
    assert_eq!(some.snapshot(), SequenceNumber(42));
    let none = client.scan(ScanOptions { limit: Some(0), ..ScanOptions::prefix(b"k") });
    assert_eq!(keys(none), Vec::<u8>::new());
}

#[test]
fn pipelined_writes_get_their_own_outcomes_in_any_order_of_replies() {
    let (endpoint, _) = serve(|_, mut peer| {
        let requests: Vec<_> = (0..4).map(|_| peer.request().unwrap()).collect();
        for (i, (opcode, id, _)) in requests.iter().enumerate().rev() {
            let answer = if i == 1 {
                error(ErrorCode::Busy, Effect::NotApplied)
            } else {
                written(i as u64 + 1)
            };
            peer.reply(*opcode, *id, &answer);
        }
        assert!(peer.request().is_none(), "a pipelined write was sent again");
    });
    let mut client = client(&endpoint);
    let batches: Vec<WriteBatch> = (0..4).map(|i| put_batch(&format!("k{i}"))).collect();
    let outcomes = client.write_many(&batches, 16);
    let got: Vec<_> =
        outcomes.iter().map(|o| o.as_ref().map(|w| w.index.0).map_err(|e| e.effect())).collect();
    assert_eq!(got, [Ok(1), Err(Effect::NotApplied), Ok(3), Ok(4)]);
}

#[test]
fn a_pipeline_that_breaks_leaves_the_unanswered_writes_unknown() {
    let (sender, receiver) = mpsc::channel();
    let (endpoint, _) = serve(move |number, mut peer| {
        if number > 0 {
            sender.send(peer.request().is_some()).unwrap();
            return;
        }
        let (opcode, id, _) = peer.request().unwrap();
        peer.reply(opcode, id, &written(1));
        // The rest is read and never answered.
        for _ in 0..2 {
            peer.request();
        }
    });
    let mut client = client(&endpoint);
    let batches: Vec<WriteBatch> = (0..3).map(|i| put_batch(&format!("k{i}"))).collect();
    let outcomes = client.write_many(&batches, 16);
    let effects: Vec<_> = outcomes
        .iter()
        .map(|o| o.as_ref().map(|w| w.index.0).map_err(ClientError::effect))
        .collect();
    assert_eq!(effects, [Ok(1), Err(Effect::Unknown), Err(Effect::Unknown)]);
    drop(client);
    assert!(receiver.try_recv().is_err(), "nothing was sent again");
}

#[test]
fn a_pipeline_respects_its_window() {
    let (endpoint, _) = serve(|_, mut peer| {
        while let Some((opcode, id, _)) = peer.request() {
            peer.reply(opcode, id, &written(id));
        }
    });
    let mut client = client(&endpoint);
    let mut pipeline = client.pipeline(2);
    let mut outcomes = 0;
    for i in 0..100 {
        while pipeline.is_full() {
            pipeline.wait().unwrap().1.unwrap();
            outcomes += 1;
        }
        assert_eq!(pipeline.submit(&put_batch(&format!("k{i}"))).unwrap(), Ticket(i));
        assert!(pipeline.len() <= 2);
    }
    while let Some((_, outcome)) = pipeline.wait() {
        outcome.unwrap();
        outcomes += 1;
    }
    assert_eq!(outcomes, 100);
    assert!(pipeline.is_empty());
    drop(pipeline);
    client.put(b"after", b"").unwrap();
}

#[test]
fn an_invalid_batch_among_many_is_the_only_one_refused() {
    let (endpoint, _) = serve(|_, mut peer| {
        while let Some((opcode, id, _)) = peer.request() {
            peer.reply(opcode, id, &written(id));
        }
    });
    let batches = [put_batch("a"), WriteBatch::new(), put_batch("b")];
    let ok: Vec<bool> =
        client(&endpoint).write_many(&batches, 1).iter().map(Result::is_ok).collect();
    assert_eq!(ok, [true, false, true]);
}

#[test]
fn frames_that_arrive_byte_by_byte_are_put_together() {
    let (endpoint, _) = serve(|_, mut peer| {
        let (opcode, id, _) = peer.request().unwrap();
        let mut out = Vec::new();
        Response::Pong.encode(&mut out, opcode, id);
        assert_eq!(out.len(), HEADER_BYTES);
        for byte in out {
            peer.raw(&[byte]);
            std::thread::sleep(Duration::from_millis(1));
        }
        peer.request();
    });
    client(&endpoint).ping().unwrap();
    assert!(matches!(inline::parse(b"PING"), Ok(inline::InlineCommand::Request(_))));
}

/// A server that takes `taken` requests and answers them, then says goodbye to whatever comes, after it has come.
fn stops_after(taken: usize) -> (String, Arc<AtomicUsize>) {
    serve(move |_, mut peer| {
        for n in 0..taken {
            let Some((opcode, id, _)) = peer.request() else { return };
            peer.reply(opcode, id, &written(n as u64 + 1));
        }
        peer.request();
        let mut out = Vec::new();
        let goodbye = ErrorReply::new(ErrorCode::ShuttingDown, Effect::NotApplied, "it stops");
        encode_connection_error(&mut out, 0, &goodbye);
        peer.raw(&out);
        peer.stream.shutdown(std::net::Shutdown::Write).unwrap();
        while peer.request().is_some() {}
    })
}

#[test]
fn after_the_goodbye_of_a_node_that_stops_everything_goes_on_at_the_next_one_at_once() {
    let (stops, _) = stops_after(1);
    let (other, served) = always(written(9));
    let mut client = Client::with_options(ClientOptions::new([stops, other.clone()])).unwrap();
    assert_eq!(client.put(b"k", b"v").unwrap().index, LogIndex(1));
    let begun = Instant::now();
    assert_eq!(client.put(b"k", b"v").unwrap().index, LogIndex(9), "it was not applied");
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert_eq!((client.endpoint(), client.retries()), (other.as_str(), 1));
    assert_eq!(served.load(Ordering::SeqCst), 1);
    // And a read.
    let (stops, _) = stops_after(0);
    let (other, _) = always(Response::NotFound { applied: SequenceNumber(1) });
    let mut client = Client::with_options(ClientOptions::new([stops, other])).unwrap();
    assert_eq!(client.get(b"k").unwrap(), None);
}

#[test]
fn after_the_goodbye_writes_of_a_pipeline_without_an_answer_are_refused_as_not_applied() {
    let (stops, _) = stops_after(3);
    let (other, _) = always(written(9));
    let mut client = Client::with_options(ClientOptions::new([stops, other.clone()])).unwrap();
    let batches: Vec<WriteBatch> = (0..8).map(|n| put_batch(&n.to_string())).collect();
    let outcomes = client.write_many(&batches, 8);
    let (written, refused) = outcomes.split_at(3);
    assert!(written.iter().all(Result::is_ok), "{written:?}");
    for outcome in refused {
        let error = outcome.as_ref().unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::ShuttingDown), "{error}");
        assert_eq!(error.effect(), Effect::NotApplied);
    }
    assert_eq!(client.put(b"k", b"v").unwrap().index, LogIndex(9));
    assert_eq!(client.endpoint(), other);
}
