//! The loop with real sockets and a small node: it answers PING at the end of the turn, keeps GETs until the connection
//! is told to let go (PUT answers the oldest), hands over from one MEMBERS to the next, and stops at STATUS. What needs the real node is in `tests/`.

#![allow(clippy::disallowed_methods, reason = "clients of the loop are threads, and wait")]

use super::*;
use crate::base::{ClusterUid, NodeId, ReplicaId, SequenceNumber};
use crate::env::sim;
use crate::proto::frame::{self, CrcPolicy, Decoded};
use crate::server::peers::{Me, Standing};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream as Client};
use std::thread::{self, JoinHandle};

#[derive(Default)]
struct Small {
    turn: Vec<(Origin, Opcode)>,
    kept: Vec<Origin>,
    closed: usize,
    stop: bool,
    hands_over: bool,
}

impl Service for Small {
    fn step(&mut self, _: Nanos, event: Event<'_>, effects: &mut Vec<Effect>) {
        match event {
            Event::Request { origin, request: Request::Get { .. }, .. } => self.kept.push(origin),
            Event::Request { origin, request: Request::Stats, .. } => {
                for origin in self.kept.drain(..) {
                    effects.push(Effect::Reply {
                        origin,
                        opcode: Opcode::Get,
                        response: Response::Pong,
                    });
                }
                self.turn.push((origin, Opcode::Stats));
            }
            Event::Request { origin, request, .. } => {
                self.stop |= request == Request::Status;
                self.hands_over ^= request == Request::Members;
                self.turn.push((origin, request.opcode()));
            }
            Event::ConnectionClosed { .. } => self.closed += 1,
            Event::EndOfTurn => {
                for (origin, opcode) in self.turn.drain(..) {
                    effects.push(Effect::Reply { origin, opcode, response: Response::Pong });
                }
                if self.stop {
                    effects.push(Effect::Drained);
                }
            }
            _ => {}
        }
    }
    fn next_wakeup(&self) -> Option<Nanos> {
        None
    }
    fn responded(&mut self, _: u64) {}
    fn ready(&self, _: Nanos) -> Result<(), String> {
        Err("a small one never is".into())
    }
    fn is_ready(&self) -> bool {
        false
    }
    fn is_handing_over(&self) -> bool {
        self.hands_over
    }
    fn role(&self) -> &'static str {
        "small"
    }
    /// A log group that never completes is in flight while a GET waits.
    fn few_wait_for_log(&self) -> Option<u64> {
        (!self.kept.is_empty()).then_some(7)
    }
    fn status(&self, _: Nanos) -> String {
        "{}".into()
    }
    fn set_links(&mut self, _: Vec<crate::node::LinkStatus>) {}
    fn metrics(&self, _: Nanos, _: &mut String) {}
}

impl Standing for Small {
    fn has_members(&self) -> bool {
        false
    }

    fn list(&self) -> u32 {
        0
    }

    fn is_blank(&self) -> bool {
        false
    }
    fn known(&self, _: NodeId) -> u64 {
        0
    }
    fn each_wanted(&self, _: &mut dyn FnMut(NodeId, &str)) {}
}

/// A loop in a thread of its own.
struct Running {
    listen: SocketAddr,
    thread: JoinHandle<(Result<(), ServerError>, Counters, usize)>,
}

impl Running {
    fn start(max_connections: usize, timeouts: Timeouts) -> Self {
        Self::start_with_signals(max_connections, timeouts, &[])
    }

    fn start_with_signals(max_connections: usize, timeouts: Timeouts, signals: &[i32]) -> Self {
        let signals = Signals::new(signals).unwrap();
        let poll = Poll::new().unwrap();
        let any = "127.0.0.1:0".parse().unwrap();
        let ports = Ports::bind(&poll, Addresses { listen: any, peer: any, http: None }).unwrap();
        let listen = ports.listener.local_addr().unwrap();
        let settings = Settings {
            max_connections,
            timeouts,
            drain_timeout: 500_000_000,
            node_id: 1,
            data_dir: String::new(),
        };
        let thread = thread::spawn(move || {
            let clock = Arc::new(crate::env::os::OsClock::new());
            let jobs = sim::env(1).0.jobs;
            let service = Small::default();
            let me = Me {
                replica: ReplicaId { node: NodeId(1), incarnation: 1 },
                cluster: "beach".into(),
                cluster_uid: ClusterUid::NONE,
                peer_address: String::new(),
                client_address: String::new(),
            };
            let registry = poll.registry().try_clone().unwrap();
            let random = Box::new(sim::SimRandom::new(1));
            let peers = Peers::new(me, ports.peer, registry, Arc::clone(&jobs), random);
            let sockets = (ports.listener, ports.http);
            let driven = Driven { service, peers };
            let mut it =
                EventLoop::new(poll, sockets, signals, clock, jobs, driven, settings).unwrap();
            let result = it.run();
            assert!(result.is_err() || (it.unsent_bytes == 0 && it.held_bytes == 0));
            (result, it.counters, it.service.closed)
        });
        Self { listen, thread }
    }

    fn connect(&self) -> Client {
        let client = Client::connect(self.listen).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        client
    }

    fn stop(self) -> (Counters, usize) {
        ask(&mut self.connect(), Request::Status, 1);
        let (result, counters, closed) = self.thread.join().unwrap();
        result.unwrap();
        (counters, closed)
    }
}

const PATIENT: Timeouts = Timeouts { idle: 60_000_000_000, frame: 60_000_000_000 };
const GET: Request<'static> = Request::Get { key: b"k", snapshot: SequenceNumber::ZERO };

fn send(client: &mut Client, request: Request<'_>, id: u64) {
    let mut bytes = Vec::new();
    request.encode(&mut bytes, id, 0).unwrap();
    client.write_all(&bytes).unwrap();
}

/// The next reply's request id and status; `None` at the end of the stream.
fn hear(client: &mut Client) -> Option<(u64, u32)> {
    let mut bytes = vec![0; 24];
    match client.read(&mut bytes).unwrap() {
        0 => return None,
        n => client.read_exact(&mut bytes[n..]).unwrap(),
    }
    let Decoded::Incomplete { need } = frame::decode(&bytes, CrcPolicy::Required).unwrap() else {
        let head = frame::parse_header(bytes.first_chunk().unwrap());
        return Some((head.request_id, head.word));
    };
    bytes.resize(need, 0);
    client.read_exact(&mut bytes[24..]).unwrap();
    let head = frame::parse_header(bytes.first_chunk().unwrap());
    Some((head.request_id, head.word))
}

fn ask(client: &mut Client, request: Request<'_>, id: u64) {
    send(client, request, id);
    assert_eq!(hear(client), Some((id, 0)));
}

#[test]
fn a_reset_in_mid_pipeline_leaves_no_bytes_on_the_books() {
    let running = Running::start(10_000, PATIENT);
    for n in 0..2_000 {
        let mut client = running.connect();
        reset_on_close(&client);
        // PING takes a turn and BADCMD is answered in the next one, so some resets come between the two.
        client.write_all(b"PING\nBADCMD\n").unwrap();
        let begin = std::time::Instant::now();
        while begin.elapsed() < Duration::from_micros(n % 100) {
            std::hint::spin_loop();
        }
    }
    // `start` checks at the end that nothing is held and nothing unsent.
    let (counters, _) = running.stop();
    assert!(counters.requests >= 1);
}

/// Makes the close of this socket a reset.
fn reset_on_close(client: &Client) {
    use std::os::fd::AsRawFd;
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let size = size_of::<libc::linger>() as libc::socklen_t;
    // SAFETY: the descriptor is open for as long as `client` lives, and the option's value is a `linger` of `size`.
    let done = unsafe {
        libc::setsockopt(
            client.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size,
        )
    };
    assert_eq!(done, 0);
}

#[test]
fn a_slow_log_group_is_waited_for_awake_only_for_a_moment() {
    let running = Running::start(100, PATIENT);
    let mut client = running.connect();
    send(&mut client, GET, 1);
    thread::sleep(Duration::from_millis(200));
    send(&mut client, Request::Stats, 2);
    assert_eq!(hear(&mut client), Some((1, 0)));
    assert_eq!(hear(&mut client), Some((2, 0)));
    let (counters, _) = running.stop();
    // Awake for 200 ms instead of AWAKE it would turn some 100,000 times.
    assert!(counters.turns < 5_000, "{} turns", counters.turns);
}

#[test]
fn pipelined_requests_of_many_connections_are_all_answered() {
    let running = Running::start(100, PATIENT);
    let mut clients: Vec<Client> = (0..20).map(|_| running.connect()).collect();
    let many: Vec<u8> = (1..=5_000)
        .flat_map(|id| {
            let mut bytes = Vec::new();
            Request::Ping.encode(&mut bytes, id, 0).unwrap();
            bytes
        })
        .collect();
    for client in &mut clients {
        client.write_all(&many).unwrap();
    }
    for client in &mut clients {
        for id in 1..=5_000 {
            assert_eq!(hear(client), Some((id, 0)));
        }
    }
    let (counters, _) = running.stop();
    assert_eq!((counters.requests, counters.replies), (100_001, 100_001));
}

#[test]
fn one_busy_connection_does_not_starve_the_others() {
    let running = Running::start(100, PATIENT);
    let mut busy = running.connect();
    let mut chunk = Vec::new();
    for id in 0..100_000 {
        Request::Ping.encode(&mut chunk, id, 0).unwrap();
    }
    // It sends for as long as it can, and reads what comes.
    let mut reader = busy.try_clone().unwrap();
    let drain =
        thread::spawn(move || while hear(&mut reader).is_some_and(|(id, _)| id < 99_999) {});
    let flood = thread::spawn(move || busy.write_all(&chunk));
    let mut other = running.connect();
    for id in 0..50 {
        ask(&mut other, Request::Ping, id);
    }
    flood.join().unwrap().unwrap();
    drain.join().unwrap();
    running.stop();
}

#[test]
fn a_late_answer_never_reaches_the_connection_that_took_the_slot() {
    let running = Running::start(100, PATIENT);
    let mut gone = running.connect();
    send(&mut gone, GET, 7);
    send(&mut gone, Request::Ping, 8);
    gone.peek(&mut [0; 1]).unwrap();
    // Closing a socket with unread bytes resets the connection; closing a read one could be half a close.
    drop(gone);
    thread::sleep(Duration::from_millis(50));
    // Every new connection is a candidate for the slot.
    let mut clients: Vec<Client> = (0..5).map(|_| running.connect()).collect();
    for client in &mut clients {
        ask(client, Request::Ping, 1);
    }
    ask(&mut clients[0], Request::Stats, 2);
    for client in &mut clients {
        ask(client, Request::Ping, 3);
    }
    let (counters, closed) = running.stop();
    assert_eq!(counters.late_replies, 1);
    assert!(closed >= 1);
}

#[test]
fn the_connection_over_the_limit_is_told_and_a_freed_place_is_given_again() {
    let running = Running::start(2, PATIENT);
    let mut first = running.connect();
    let mut second = running.connect();
    ask(&mut first, Request::Ping, 1);
    ask(&mut second, Request::Ping, 1);
    let mut third = running.connect();
    // It may have begun to speak already.
    send(&mut third, Request::Ping, 1);
    assert_eq!(hear(&mut third), Some((0, ErrorCode::TooManyConnections.status())));
    assert_eq!(hear(&mut third), None);
    ask(&mut first, Request::Ping, 2);
    drop(second);
    let again = (0..100).any(|_| {
        let mut client = running.connect();
        send(&mut client, Request::Ping, 1);
        thread::sleep(Duration::from_millis(2));
        hear(&mut client) == Some((1, 0))
    });
    assert!(again);
    drop(first);
    thread::sleep(Duration::from_millis(50));
    running.stop();
}

#[test]
fn half_a_frame_and_silence_is_told_and_closed() {
    let timeouts = Timeouts { idle: 60_000_000_000, frame: 100_000_000 };
    let running = Running::start(10, timeouts);
    let mut slow = running.connect();
    let mut bytes = Vec::new();
    Request::Ping.encode(&mut bytes, 1, 0).unwrap();
    slow.write_all(&bytes[..12]).unwrap();
    let mut patient = running.connect();
    ask(&mut patient, Request::Ping, 1);
    assert_eq!(hear(&mut slow), Some((0, ErrorCode::SlowFrame.status())));
    assert_eq!(hear(&mut slow), None);
    ask(&mut patient, Request::Ping, 2);
    running.stop();
}

#[test]
fn a_client_that_closes_its_end_first_still_gets_its_answers() {
    let running = Running::start(10, PATIENT);
    let mut client = running.connect();
    client.write_all(b"PING\nHELP\nPING").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut said = String::new();
    client.read_to_string(&mut said).unwrap();
    assert!(said.starts_with("PONG\nPING ") && said.ends_with("END\nPONG\n"), "{said}");
    running.stop();
}

#[test]
fn a_drain_that_does_not_end_is_given_up_in_time() {
    let running = Running::start_with_signals(10, PATIENT, &[signal_hook::consts::SIGUSR1]);
    let mut client = running.connect();
    send(&mut client, GET, 1);
    signal_hook::low_level::raise(signal_hook::consts::SIGUSR1).unwrap();
    let (result, _, _) = running.thread.join().unwrap();
    assert!(matches!(result, Err(ServerError::DrainTimeout(_))), "{result:?}");
}

#[test]
fn new_clients_are_taken_while_others_may_still_send_them_here() {
    let running = Running::start_with_signals(10, PATIENT, &[signal_hook::consts::SIGWINCH]);
    let mut client = running.connect();
    ask(&mut client, Request::Members, 1);
    signal_hook::low_level::raise(signal_hook::consts::SIGWINCH).unwrap();
    thread::sleep(Duration::from_millis(20));
    ask(&mut running.connect(), Request::Ping, 1);
    ask(&mut client, Request::Members, 2);
    let refused = (0..100).any(|_| {
        thread::sleep(Duration::from_millis(1));
        Client::connect(running.listen).is_err()
    });
    assert!(refused);
    ask(&mut client, Request::Status, 3);
    assert_eq!(hear(&mut client), Some((0, ErrorCode::ShuttingDown.status())));
    assert_eq!(hear(&mut client), None);
    running.thread.join().unwrap().0.unwrap();
}

#[test]
fn a_second_signal_ends_a_drain_at_once() {
    let running = Running::start_with_signals(10, PATIENT, &[signal_hook::consts::SIGUSR2]);
    let mut client = running.connect();
    ask(&mut client, Request::Ping, 1);
    signal_hook::low_level::raise(signal_hook::consts::SIGUSR2).unwrap();
    // Draining: those who are connected are still served, new ones are not.
    let refused = (0..100).any(|_| {
        thread::sleep(Duration::from_millis(1));
        Client::connect(running.listen).is_err()
    });
    assert!(refused);
    ask(&mut client, Request::Ping, 2);
    signal_hook::low_level::raise(signal_hook::consts::SIGUSR2).unwrap();
    let (result, _, _) = running.thread.join().unwrap();
    assert!(matches!(result, Err(ServerError::Impatient)), "{result:?}");
}
