//! The *ideal*: the ceiling of a durable server on this machine, of one node or of several.
//!
//! ```text
//!   epoll ──▶ read every ready socket ─┬─▶ append the frames to a zero-filled log ──▶ fdatasync, once a wake-up ─┬─▶ answer
//!                                      └─▶ with followers: send them ──▶ append, fdatasync, acknowledge ──▶ ─────┘
//! ```
//!
//! With followers it answers what it and enough of them to be a majority have synced ([`crate::followers`]).
//!
//! It speaks just enough of the client protocol that the load generator drives it and `beachd` alike: it finds the
//! frames, and answers each with a well-formed PUT reply. It checks nothing, keeps nothing, applies nothing, bounds
//! nothing; a ratio to it says how much of the possible a real server reaches.
//!
//! | [`SyncMode`] | |
//! |---|---|
//! | `Inline` | the loop itself writes and syncs: the fewest hand-overs |
//! | `Helper` | a helper thread does, one group in flight, as in `beachd`: the loop goes on reading meanwhile |
//! | `None` | no log at all: an echo, the ceiling of the network and the client |
#![expect(clippy::disallowed_methods, reason = "a raw probe of the machine, outside the library")]

use crate::files::LogFile;
use crate::followers::Followers;
use beachdb::proto::frame::{self, HEADER_BYTES};
use beachdb::proto::{Opcode, REPLY_BIT};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

const LISTENER: Token = Token(usize::MAX - 1);
const WAKER: Token = Token(usize::MAX - 2);
/// The followers' tokens begin here; below are the clients'.
const FIRST_FOLLOWER: usize = usize::MAX - 2 - MAX_FOLLOWERS;
/// Most followers: a cluster of seven.
pub const MAX_FOLLOWERS: usize = 6;
const READ_BYTES: usize = 256 << 10;
/// How often a loop without traffic looks at its stop flag.
const STOP_POLL: Duration = Duration::from_millis(50);

/// Who writes and syncs the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SyncMode {
    /// The event loop itself.
    Inline,
    /// A helper thread, one group in flight.
    Helper,
    /// Nobody: an echo.
    None,
}

/// Settings of the ideal server.
#[derive(Clone, Debug)]
pub struct IdealOptions {
    /// Where to listen; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Directory of its log file, which has no name and goes away with the process.
    pub dir: PathBuf,
    /// Who syncs.
    pub sync: SyncMode,
    /// Size of the log; it begins again at the front when it is full.
    pub log_bytes: u64,
    /// Nodes that each group is sent to, at most [`MAX_FOLLOWERS`]; a majority of all must have it before the answer.
    pub followers: usize,
}

/// One wake-up's worth of requests.
#[derive(Default)]
struct Group {
    bytes: Vec<u8>,
    /// Connection and request id of each request.
    requests: Vec<(usize, u64)>,
    /// Its number among those sent to followers, 0 without any.
    number: u64,
}

struct Peer {
    stream: TcpStream,
    /// The beginning of a frame whose rest has not arrived.
    tail: Vec<u8>,
    out: Vec<u8>,
    written: usize,
}

struct Helper {
    jobs: Sender<Group>,
    done: Receiver<io::Result<Group>>,
    busy: bool,
}

struct Ideal {
    poll: Poll,
    listener: TcpListener,
    peers: Vec<Option<Peer>>,
    group: Group,
    /// Inline: the log. Helper: the thread has it.
    log: Option<LogFile>,
    helper: Option<Helper>,
    followers: Option<Followers>,
    /// On this node's disk, not yet on those of enough followers.
    unacknowledged: VecDeque<Group>,
    scratch: Vec<u8>,
    answered: u64,
}

/// Serves until `stop`; calls `ready` with the address once it listens.
pub fn serve(
    options: &IdealOptions,
    ready: impl FnOnce(SocketAddr),
    stop: &AtomicBool,
) -> io::Result<()> {
    let mut ideal = Ideal::open(options)?;
    ready(ideal.listener.local_addr()?);
    let mut events = Events::with_capacity(1024);
    while !stop.load(Ordering::Relaxed) {
        match ideal.poll.poll(&mut events, Some(STOP_POLL)) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        }
        ideal.turn(&events)?;
    }
    Ok(())
}

impl Ideal {
    fn open(options: &IdealOptions) -> io::Result<Self> {
        if options.followers > MAX_FOLLOWERS {
            return Err(io::Error::other(format!("more than {MAX_FOLLOWERS} followers")));
        }
        // The logs take seconds to be filled with zeros, and who can connect expects an answer: they come first.
        let new_log = || match options.sync {
            SyncMode::None => Ok(None),
            _ => LogFile::zero_filled(&options.dir, options.log_bytes).map(Some),
        };
        let mut log = new_log()?;
        let logs = (0..options.followers).map(|_| new_log()).collect::<io::Result<Vec<_>>>()?;
        let poll = Poll::new()?;
        let mut listener = TcpListener::bind(options.listen)?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let helper = match options.sync {
            SyncMode::Helper => {
                let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
                log.take().map(|log| Helper::start(log, waker))
            }
            _ => None,
        };
        let followers = match logs.is_empty() {
            true => None,
            false => Some(Followers::start(logs, poll.registry(), FIRST_FOLLOWER)?),
        };
        Ok(Self {
            poll,
            listener,
            peers: Vec::new(),
            group: Group::default(),
            log,
            helper,
            followers,
            unacknowledged: VecDeque::new(),
            scratch: vec![0; READ_BYTES],
            answered: 0,
        })
    }

    fn turn(&mut self, events: &Events) -> io::Result<()> {
        for event in events {
            match event.token() {
                LISTENER => self.accept()?,
                WAKER => {}
                token => {
                    if let Some(followers) = &mut self.followers
                        && followers.turn(token)?
                    {
                        continue;
                    }
                    let Token(i) = token;
                    if event.is_writable() {
                        self.flush(i);
                    }
                    if event.is_readable() || event.is_read_closed() {
                        self.read(i);
                    }
                }
            }
        }
        match &mut self.helper {
            None => self.sync_inline(),
            Some(_) => self.turn_helper(),
        }
    }

    fn sync_inline(&mut self) -> io::Result<()> {
        self.answer_acknowledged();
        // One group at a time: while it is on its way to a majority, the next one grows, and costs no more syncs.
        if self.group.requests.is_empty() || !self.unacknowledged.is_empty() {
            return Ok(());
        }
        let mut group = std::mem::take(&mut self.group);
        if let Some(followers) = &mut self.followers {
            group.number = followers.send(&group.bytes)?;
        }
        if let Some(log) = &mut self.log {
            log.append(&group.bytes)?;
            log.sync()?;
        }
        self.unacknowledged.push_back(group);
        self.answer_acknowledged();
        Ok(())
    }

    /// Hands the next group over *before* the replies of the last one are written: the other order costs 15 %.
    fn turn_helper(&mut self) -> io::Result<()> {
        let Some(helper) = &mut self.helper else { return Ok(()) };
        if helper.busy
            && let Ok(group) = helper.done.try_recv()
        {
            helper.busy = false;
            self.unacknowledged.push_back(group?);
        }
        if !helper.busy && !self.group.requests.is_empty() {
            helper.busy = true;
            let mut group = std::mem::take(&mut self.group);
            if let Some(followers) = &mut self.followers {
                group.number = followers.send(&group.bytes)?;
            }
            helper.jobs.send(group).map_err(|_| io::Error::other("the helper thread ended"))?;
        }
        self.answer_acknowledged();
        Ok(())
    }

    /// Answers what this node has and, where there are followers, enough of them.
    fn answer_acknowledged(&mut self) {
        let majority = self.followers.as_ref().map_or(u64::MAX, Followers::majority);
        while let Some(mut group) = self.unacknowledged.pop_front_if(|g| g.number <= majority) {
            self.answer(&group);
            group.clear();
            if self.group.requests.is_empty() {
                self.group = group; // keeps its memory
            }
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let mut stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e),
            };
            stream.set_nodelay(true)?;
            let i = self.peers.iter().position(Option::is_none).unwrap_or_else(|| {
                self.peers.push(None);
                self.peers.len() - 1
            });
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut stream, Token(i), interest)?;
            self.peers[i] = Some(Peer { stream, tail: Vec::new(), out: Vec::new(), written: 0 });
        }
    }

    fn read(&mut self, i: usize) {
        loop {
            let Some(Some(peer)) = self.peers.get_mut(i) else { return };
            let have = peer.tail.len();
            if have * 2 > self.scratch.len() {
                self.scratch.resize(have * 4, 0);
            }
            self.scratch[..have].copy_from_slice(&peer.tail);
            let room = self.scratch.len() - have;
            let got = match peer.stream.read(&mut self.scratch[have..]) {
                Ok(n) if n > 0 => n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Ok(_) | Err(_) => {
                    self.peers[i] = None;
                    return;
                }
            };
            let used = self.group.take_frames(&self.scratch[..have + got], i);
            peer.tail.clear();
            peer.tail.extend_from_slice(&self.scratch[used..have + got]);
            if got < room {
                return;
            }
        }
    }

    fn answer(&mut self, group: &Group) {
        let mut touched = None;
        for &(i, id) in &group.requests {
            if touched != Some(i) {
                if let Some(last) = touched {
                    self.flush(last);
                }
                touched = Some(i);
            }
            self.answered += 1;
            if let Some(Some(peer)) = self.peers.get_mut(i) {
                reply(&mut peer.out, id, self.answered);
            }
        }
        if let Some(last) = touched {
            self.flush(last);
        }
    }

    fn flush(&mut self, i: usize) {
        let Some(Some(peer)) = self.peers.get_mut(i) else { return };
        while peer.written < peer.out.len() {
            match peer.stream.write(&peer.out[peer.written..]) {
                Ok(n) => peer.written += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.peers[i] = None;
                    return;
                }
            }
        }
        peer.out.clear();
        peer.written = 0;
    }
}

impl Group {
    /// Takes the whole frames at the front of `input`; returns how many bytes they are.
    fn take_frames(&mut self, input: &[u8], connection: usize) -> usize {
        let mut at = 0;
        while let Some(head) = input[at..].first_chunk::<HEADER_BYTES>() {
            let header = frame::parse_header(head);
            let length = (header.length as usize).max(HEADER_BYTES);
            if input.len() - at < length {
                break;
            }
            self.requests.push((connection, header.request_id));
            at += length;
        }
        self.bytes.extend_from_slice(&input[..at]);
        at
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.requests.clear();
    }
}

impl Helper {
    fn start(mut log: LogFile, waker: Arc<Waker>) -> Self {
        let (jobs, todo) = channel::<Group>();
        let (report, done) = channel();
        // The thread ends when `jobs` is dropped with the loop.
        std::thread::spawn(move || {
            for group in todo {
                let result = log.append(&group.bytes).and_then(|()| log.sync()).map(|()| group);
                if report.send(result).is_err() || waker.wake().is_err() {
                    return;
                }
            }
        });
        Self { jobs, done, busy: false }
    }
}

/// A PUT reply, as long as the real one.
fn reply(out: &mut Vec<u8>, id: u64, sequence: u64) {
    let open = frame::begin(out, Opcode::Put.byte() | REPLY_BIT, 0, id, 0);
    for word in [sequence; 3] {
        out.extend_from_slice(&word.to_be_bytes());
    }
    open.finish(out).expect("48 bytes fit in a frame");
}
