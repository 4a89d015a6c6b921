//! The driver against servers with programmed faults: what goes wrong is counted, told apart, and survived.
#![expect(clippy::disallowed_methods, reason = "fake servers run on threads and sleep")]

use beach_loadgen::driver::{Driver, DriverOptions, Pace, RunSummary, Until};
use beach_loadgen::stats::{Percentiles, Recorder};
use beach_loadgen::target::Beachd;
use beach_loadgen::workload::{Mix, OpKind, Workload, WorkloadOptions};
use beachdb::base::{LogIndex, SequenceNumber};
use beachdb::proto::frame::{self, CrcPolicy, Decoded};
use beachdb::proto::{Effect, ErrorCode, ErrorReply, Response};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// What the fake server does with its n-th request, all connections together.
type Behaviour = dyn Fn(u64) -> Act + Send + Sync;

enum Act {
    Answer,
    Busy,
    /// Does not lead; this one does.
    Follow(Option<SocketAddr>),
    Garbage,
    Close,
    Pause(Duration),
    Ignore,
}

fn fake_server(behaviour: impl Fn(u64) -> Act + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (behaviour, count): (Arc<Behaviour>, _) =
        (Arc::new(behaviour), Arc::new(AtomicU64::new(0)));
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let (behaviour, count) = (behaviour.clone(), count.clone());
            thread::spawn(move || serve(stream, &*behaviour, &count));
        }
    });
    address
}

/// Serves one connection until it ends; an error means that the client went away, which is fine.
fn serve(mut stream: TcpStream, behaviour: &Behaviour, count: &AtomicU64) -> Option<()> {
    let mut input = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let n = stream.read(&mut buffer).ok().filter(|n| *n > 0)?;
        input.extend_from_slice(&buffer[..n]);
        while let Decoded::Frame { header, consumed, .. } =
            frame::decode(&input, CrcPolicy::Required).unwrap()
        {
            input.drain(..consumed);
            let response = match behaviour(count.fetch_add(1, Ordering::Relaxed)) {
                Act::Answer => written(),
                Act::Pause(time) => {
                    thread::sleep(time);
                    written()
                }
                Act::Busy => {
                    let mut busy =
                        ErrorReply::new(ErrorCode::Busy, Effect::NotApplied, "the queue is full");
                    busy.retry_after_ms = 20;
                    Response::Error(busy)
                }
                Act::Follow(leader) => Response::Error(ErrorReply {
                    leader: leader.map(|leader| leader.to_string()).unwrap_or_default(),
                    ..ErrorReply::new(ErrorCode::NotLeader, Effect::NotApplied, "it follows")
                }),
                Act::Garbage => {
                    stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").ok()?;
                    continue;
                }
                Act::Close => return None,
                Act::Ignore => continue,
            };
            let mut out = Vec::new();
            response.encode(&mut out, header.opcode, header.request_id);
            stream.write_all(&out).ok()?;
        }
    }
}

fn written() -> Response {
    let one = SequenceNumber(1);
    Response::Written { index: LogIndex(1), first_seq: one, last_seq: one }
}

fn drive(address: SocketAddr, clients: usize, pace: Pace, until: Until) -> (Recorder, RunSummary) {
    drive_all(vec![address], clients, pace, until)
}

fn drive_all(
    endpoints: Vec<SocketAddr>,
    clients: usize,
    pace: Pace,
    until: Until,
) -> (Recorder, RunSummary) {
    let mut workload = Workload::new(WorkloadOptions {
        mix: Mix::Put,
        distribution: None,
        keys: 1000,
        key_size: 16,
        value_size: 32,
        seed: 1,
        preloaded: false,
    })
    .unwrap();
    let options = DriverOptions {
        endpoints,
        clients,
        pipeline: 1,
        timeout: Duration::from_secs(1),
        progress: false,
    };
    let mut driver = Driver::connect(Beachd::new(1000, 1), options).unwrap();
    let mut recorder = Recorder::default();
    let summary = driver.run(&mut workload, &mut recorder, pace, until).unwrap();
    (recorder, summary)
}

const fn measure(ms: u64) -> Until {
    Until::Elapsed { warmup_ns: 0, measure_ns: ms * 1_000_000 }
}

#[test]
fn busy_is_counted_and_respects_the_retry_hint() {
    let address = fake_server(|_| Act::Busy);
    let (recorder, _) = drive(address, 2, Pace::Closed, measure(500));
    let busy = recorder.errors().busy;
    assert_eq!((recorder.successes(), recorder.errors().total()), (0, busy));
    // 2 connections, at most one attempt each 20 ms in 500 ms.
    assert!((4..=52).contains(&busy), "{busy}");
}

#[test]
fn a_connection_that_breaks_is_counted_and_opened_again() {
    let address = fake_server(|n| if n % 50 == 49 { Act::Close } else { Act::Answer });
    let (recorder, summary) = drive(address, 2, Pace::Closed, measure(800));
    assert!(recorder.errors().conn >= 2, "{:?}", recorder.errors());
    assert!(summary.reconnects >= 2, "{summary:?}");
    assert!(recorder.successes() > 100);
}

#[test]
fn connections_go_to_the_leader_that_a_follower_names() {
    let leader = fake_server(|_| Act::Answer);
    let follower = fake_server(move |_| Act::Follow(Some(leader)));
    let (recorder, summary) = drive(follower, 4, Pace::Closed, measure(400));
    assert_eq!((recorder.errors().not_leader, recorder.errors().total()), (4, 4));
    assert_eq!(summary.reconnects, 4);
    assert!(recorder.successes() > 100);
}

#[test]
fn a_run_goes_on_through_a_failover() {
    // The first leads for 200 requests, then nobody for 100 refusals, then the second. The third only knows what is.
    let refusals = Arc::new(AtomicU64::new(0));
    let second_leads = {
        let refusals = refusals.clone();
        move || refusals.load(Ordering::Relaxed) >= 100
    };
    let second = {
        let (leads, refusals) = (second_leads.clone(), refusals.clone());
        fake_server(move |_| {
            if leads() {
                return Act::Answer;
            }
            refusals.fetch_add(1, Ordering::Relaxed);
            Act::Follow(None)
        })
    };
    let knows = {
        let refusals = refusals.clone();
        move || {
            refusals.fetch_add(1, Ordering::Relaxed);
            Act::Follow(second_leads().then_some(second))
        }
    };
    let third = fake_server({
        let knows = knows.clone();
        move |_| knows()
    });
    let first = fake_server(move |n| if n < 200 { Act::Answer } else { knows() });
    let endpoints = vec![first, second, third];
    let (recorder, _) = drive_all(endpoints, 6, Pace::Closed, measure(3_000));
    let errors = recorder.errors();
    assert!(recorder.successes() > 1_000, "{} {errors:?}", recorder.successes());
    assert_eq!(errors.total(), errors.not_leader);
    assert!((100..200).contains(&errors.not_leader), "{errors:?}");
}

#[test]
fn an_endpoint_that_is_down_is_passed_over() {
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let alive = fake_server(|_| Act::Answer);
    let (recorder, _) = drive_all(vec![dead, alive], 2, Pace::Closed, measure(200));
    assert_eq!(recorder.errors().total(), 0);
    assert!(recorder.successes() > 20);
}

#[test]
fn garbage_is_a_protocol_error_not_a_crash() {
    let address = fake_server(|n| if n == 20 { Act::Garbage } else { Act::Answer });
    let (recorder, _) = drive(address, 1, Pace::Closed, measure(500));
    let errors = recorder.errors();
    assert_eq!((errors.proto, errors.conn), (1, 1), "the garbage, and the request it left open");
    assert!(recorder.successes() > 20);
}

#[test]
fn a_write_without_an_answer_is_unknown_not_failed() {
    let address = fake_server(|n| if n == 10 { Act::Ignore } else { Act::Answer });
    let (recorder, _) = drive(address, 1, Pace::Closed, measure(300));
    assert_eq!((recorder.successes(), recorder.errors().unknown), (10, 1));
}

#[test]
fn preload_writes_each_key_once_whatever_happens() {
    let address = fake_server(|n| match n {
        100 => Act::Busy,
        200 => Act::Close,
        _ => Act::Answer,
    });
    let (recorder, _) = drive(address, 4, Pace::Closed, Until::Written { keys: 1000 });
    assert_eq!(recorder.successes(), 1000);
}

#[test]
fn an_open_loop_shows_a_pause_that_a_closed_loop_hides() {
    const PAUSE: Duration = Duration::from_millis(300);
    let pausing = || fake_server(|n| if n == 300 { Act::Pause(PAUSE) } else { Act::Answer });
    let p90_us = |recorder: &Recorder| Percentiles::of(recorder.latencies(OpKind::Put)).p90_us;
    let (closed, _) = drive(pausing(), 1, Pace::Closed, measure(1000));
    let (open, summary) = drive(pausing(), 1, Pace::Open { rate: 1000.0 }, measure(1000));
    assert_eq!(summary.scheduled, 1000);
    assert_eq!(summary.sent, 1000, "it catches up after the pause");
    assert!(p90_us(&closed) < 50_000.0, "{}", p90_us(&closed));
    // Requests meant to be sent during the pause waited for its end: about 30 % of them, up to 300 ms.
    assert!(p90_us(&open) > 150_000.0, "{}", p90_us(&open));
}
