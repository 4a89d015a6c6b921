//! One connection between two nodes, as a state machine without a socket: bytes in, frames out.
//!
//! ```text
//!  dialed:    HELLO ─▶ … ◀─ HELLO reply ─▶ up: messages and PING ─▶, ◀─ PONG
//!  accepted:  ◀─ HELLO, judged by `peers` ─▶ HELLO reply ─▶ up: ◀─ messages and PING, PONG ─▶
//!                                       └──▶ refusal ─▶ closing
//! ```
//!
//! Connections are one-way: a node sends messages on those that it dialed, and receives on those that it accepted.
//!
//! # Invariants
//! - Nothing is sent before the handshake is complete, but HELLO; nothing is taken that does not belong there: the other side
//!   is told why, and the connection ends.
//! - A dialed link that hears no PONG for [`DEAD_NS`] is dead, unless the peer takes bytes meanwhile; an accepted one on which
//!   nothing arrives for [`SILENT_NS`] as well. So a peer that vanished without a word is noticed on both sides.
//! - A frame that does not end is given up ([`inbox`]): who drips bytes holds no memory for long.
//! - Unsent bytes and half-received frames are bounded ([`outbound`], [`inbox`]).
//!
//! What it does not do: it knows no sockets, no other links, and nothing of what raft means by its messages.

mod inbox;
mod outbound;
#[cfg(test)]
mod tests;

pub use outbound::{Class, NotTaken};

use crate::base::{ClusterUid, Membership, Nanos, Term};
use crate::limits::MAX_FRAME_BYTES;
use crate::proto::peer::{self, PeerFrame, PeerHello, PeerMessage, PeerPong, PeerWelcome};
use crate::proto::{Effect, ErrorCode, ErrorReply};
use inbox::Inbox;
use outbound::Outbound;
use std::io::{self, Write};

/// No frame of a handshake is longer, nor any that the one who was dialed says: strangers hold no more memory than this.
const MAX_HANDSHAKE_BYTES: usize = 4 << 10;
/// From the first byte of a connection to the end of its handshake.
pub const HANDSHAKE_NS: u64 = 3_000_000_000;
/// A dialed link asks for a sign of life this often.
const PING_NS: u64 = 1_000_000_000;
/// Without one for this long it is dead.
const DEAD_NS: u64 = 3_000_000_000;
/// An accepted link on which nothing arrives for this long is dead.
const SILENT_NS: u64 = 10_000_000_000;
/// How long the last words of a link have to leave.
const CLOSING_NS: u64 = 1_000_000_000;
/// A link whose oldest bytes wait, or whose PONG is late, for this long is called slow.
const SLOW_NS: u64 = 1_000_000_000;
/// After a message had to be dropped, a link is called slow for this long.
const SLOW_AFTER_DROP_NS: u64 = 10_000_000_000;

/// What is said to somebody who types text, or speaks HTTP or TLS, on the peer port.
const NOT_FOR_TEXT: &[u8] =
    b"ERR WRONG_PROTOCOL none: this is the port for BeachDB's nodes among themselves; clients are served on --listen \
      (7400 by default), pages on --http (7402 by default)\n";

/// Who opened the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// We did: we send.
    Dialed,
    /// The peer did: we receive.
    Accepted,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Waiting for HELLO or its reply.
    Greeting,
    /// HELLO is being judged.
    Judging,
    /// The handshake is complete.
    Up,
    /// The last words are on their way out.
    Closing,
}

/// What was heard on a link, for `peers` to judge or to hand on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Heard {
    /// The peer dialed us: answer with [`PeerLink::welcome`] or [`PeerLink::refuse`].
    Hello(PeerHello),
    /// The peer answered our HELLO: the link is up.
    Welcome(PeerWelcome),
    /// What the peer answers to PING.
    Pong(PeerPong),
    /// The first members of this cluster.
    Begin(ClusterUid, Membership),
    /// What follows is of this cluster.
    Cluster(ClusterUid),
    /// A message of raft.
    Message(Term, PeerMessage),
}

/// Why a link ends.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Broken {
    /// The peer refused us.
    #[error("refused: {0}")]
    Refused(ErrorReply),
    /// It said something that does not belong there.
    #[error("{0}")]
    Nonsense(String),
    /// It was silent for too long.
    #[error("{0}")]
    Silent(&'static str),
}

/// See the module.
#[derive(Debug)]
pub struct PeerLink {
    side: Side,
    stage: Stage,
    inbox: Inbox,
    out: Outbound,
    /// When the stage began.
    since: Nanos,
    heard_at: Nanos,
    /// The peer's socket did not take everything at the last write.
    blocked: bool,
    /// When it last took bytes since then, or when that began.
    moved_at: Nanos,
    ping_at: Nanos,
    /// The PING without a PONG so far.
    asked_at: Option<Nanos>,
    round_trip_ns: Option<u64>,
    dropped_at: Option<Nanos>,
    /// What PING is answered.
    pong: PeerPong,
}

impl PeerLink {
    fn new(now: Nanos, side: Side) -> Self {
        Self {
            side,
            stage: Stage::Greeting,
            inbox: Inbox::default(),
            out: Outbound::default(),
            since: now,
            heard_at: now,
            blocked: false,
            moved_at: now,
            ping_at: now.plus(PING_NS),
            asked_at: None,
            round_trip_ns: None,
            dropped_at: None,
            pong: PeerPong::default(),
        }
    }

    /// We dial: HELLO is the first thing to send.
    pub fn dialed(now: Nanos, hello: PeerHello) -> Self {
        let mut link = Self::new(now, Side::Dialed);
        link.say(now, &PeerFrame::Hello(hello));
        link
    }

    /// Somebody dialed us.
    pub fn accepted(now: Nanos) -> Self {
        Self::new(now, Side::Accepted)
    }

    /// Bytes came in; what they say is appended to `heard`. After an error the link sends what it has to say and ends.
    pub fn receive(
        &mut self,
        now: Nanos,
        fresh: &[u8],
        heard: &mut Vec<Heard>,
    ) -> Result<(), Broken> {
        if self.stage == Stage::Closing {
            return Ok(());
        }
        self.heard_at = now;
        let block = self.frame_limit().min(inbox::BLOCK_BYTES);
        self.inbox.push(now, fresh, block);
        if self.side == Side::Accepted
            && self.stage == Stage::Greeting
            && self.inbox.first_byte().is_some_and(|byte| byte != 0)
        {
            self.last_words(now, |out| out.extend_from_slice(NOT_FOR_TEXT));
            return Err(Broken::Nonsense("it speaks no protocol of BeachDB".into()));
        }
        loop {
            let frame = match self.inbox.next_frame(now) {
                Ok(Some(frame)) => frame,
                Ok(None) if self.inbox.need() <= self.frame_limit() => return Ok(()),
                Ok(None) => {
                    let what = format!(
                        "a frame of {} bytes before the handshake or in answer to it, at most {MAX_HANDSHAKE_BYTES} are taken",
                        self.inbox.need()
                    );
                    let reply = ErrorReply::new(ErrorCode::FrameTooLarge, Effect::NotApplied, what);
                    return Err(self.nonsense(now, reply));
                }
                Err(e) => return Err(self.nonsense(now, e.reply())),
            };
            let frame = match peer::decode(frame) {
                Ok(frame) => frame,
                Err(e) => return Err(self.nonsense(now, e.reply())),
            };
            self.take(now, frame, heard)?;
        }
    }

    /// The longest frame that is taken now.
    fn frame_limit(&self) -> usize {
        match (self.side, self.stage) {
            (Side::Accepted, Stage::Up) => MAX_FRAME_BYTES,
            _ => MAX_HANDSHAKE_BYTES,
        }
    }

    fn take(&mut self, now: Nanos, frame: PeerFrame, heard: &mut Vec<Heard>) -> Result<(), Broken> {
        match (self.side, self.stage, frame) {
            (Side::Accepted, Stage::Greeting, PeerFrame::Hello(hello)) => {
                self.stage = Stage::Judging;
                heard.push(Heard::Hello(hello));
            }
            (Side::Dialed, Stage::Greeting, PeerFrame::Welcome(welcome)) => {
                self.enter(now, Stage::Up);
                heard.push(Heard::Welcome(welcome));
            }
            (Side::Dialed, _, PeerFrame::Refused(error)) => return Err(Broken::Refused(error)),
            (Side::Dialed, Stage::Up, PeerFrame::Pong(pong)) => {
                if let Some(asked_at) = self.asked_at.take() {
                    self.round_trip_ns = Some(now.since(asked_at));
                }
                heard.push(Heard::Pong(pong));
            }
            (Side::Accepted, Stage::Up, PeerFrame::Ping) => {
                self.say(now, &PeerFrame::Pong(self.pong));
            }
            (Side::Accepted, Stage::Up, PeerFrame::Begin(cluster, members)) => {
                heard.push(Heard::Begin(cluster, members));
            }
            (Side::Accepted, Stage::Up, PeerFrame::Cluster(cluster)) => {
                heard.push(Heard::Cluster(cluster));
            }
            (Side::Accepted, Stage::Up, PeerFrame::Raft(term, message)) => {
                heard.push(Heard::Message(term, message));
            }
            (_, _, frame) => {
                let opcode = frame.opcode();
                let expected = match (self.side, self.stage) {
                    (Side::Accepted, Stage::Up) => "a message, BEGIN, CLUSTER, or PING",
                    (Side::Accepted, _) => "HELLO, and then nothing before its reply",
                    (Side::Dialed, Stage::Up) => "the reply to PING",
                    (Side::Dialed, _) => "the reply to HELLO",
                };
                let what = format!("frame {opcode:#04x} does not belong here: expected {expected}");
                let reply = ErrorReply::new(ErrorCode::BadFrame, Effect::NotApplied, what);
                return Err(self.nonsense(now, reply));
            }
        }
        Ok(())
    }

    fn nonsense(&mut self, now: Nanos, reply: ErrorReply) -> Broken {
        let what = reply.message.clone();
        self.refuse(now, reply);
        Broken::Nonsense(what)
    }

    /// The peer may send us messages.
    pub fn welcome(&mut self, now: Nanos, welcome: PeerWelcome) {
        self.enter(now, Stage::Up);
        self.say(now, &PeerFrame::Welcome(welcome));
    }

    /// What PING is answered from now on.
    pub const fn set_pong(&mut self, pong: PeerPong) {
        self.pong = pong;
    }

    /// The peer is told why not; then the link ends.
    pub fn refuse(&mut self, now: Nanos, error: ErrorReply) {
        // What a dialer could say is no answer to anything.
        if self.side == Side::Accepted {
            self.say(now, &PeerFrame::Refused(error));
        }
        self.enter(now, Stage::Closing);
    }

    fn last_words(&mut self, now: Nanos, text: impl FnOnce(&mut Vec<u8>)) {
        let said = self.out.push(Class::Urgent, NOT_FOR_TEXT.len(), |out| {
            text(out);
            true
        });
        if said.is_err() {
            log::debug!("a link had no room for its last words");
        }
        self.enter(now, Stage::Closing);
    }

    fn enter(&mut self, now: Nanos, stage: Stage) {
        (self.stage, self.since) = (stage, now);
        if stage == Stage::Closing {
            self.inbox = Inbox::default();
        }
    }

    /// A frame of the handshake, or a sign of life.
    fn say(&mut self, now: Nanos, frame: &PeerFrame) {
        if let Err(why) = self.send(now, Class::Urgent, 1_024, frame) {
            log::debug!("a frame {:#04x} was not sent: {why:?}", frame.opcode());
        }
    }

    /// A frame of about `weight` bytes. Dropped when too much waits.
    pub fn send(
        &mut self,
        now: Nanos,
        class: Class,
        weight: usize,
        frame: &PeerFrame,
    ) -> Result<(), NotTaken> {
        let sent = self.out.push(class, weight, |out| peer::encode(frame, out).is_ok());
        if sent.is_err() {
            self.dropped_at = Some(now);
        }
        sent
    }

    /// Time passed: asks for a sign of life, or finds that there is none.
    pub fn tick(&mut self, now: Nanos) -> Result<(), Broken> {
        if self.deadline() <= now {
            return Err(Broken::Silent(match (self.side, self.stage) {
                (_, Stage::Closing) => "its last words were said",
                (_, Stage::Up) if self.inbox.deadline() <= now => "a frame that does not end",
                (Side::Dialed, Stage::Up) => "no answer to PING for 3 s",
                (Side::Dialed, _) => "no answer to HELLO for 3 s",
                (Side::Accepted, Stage::Up) => "silent for 10 s",
                (Side::Accepted, _) => "no HELLO for 3 s",
            }));
        }
        if self.side == Side::Dialed && self.stage == Stage::Up && self.ping_at <= now {
            self.ping_at = now.plus(PING_NS);
            self.asked_at.get_or_insert(now);
            self.say(now, &PeerFrame::Ping);
        }
        Ok(())
    }

    /// When it is given up if nothing happens.
    fn deadline(&self) -> Nanos {
        let silent = match (self.side, self.stage) {
            (_, Stage::Closing) => return self.since.plus(CLOSING_NS),
            (_, Stage::Greeting | Stage::Judging) => return self.since.plus(HANDSHAKE_NS),
            (Side::Dialed, Stage::Up) => match self.asked_at {
                None => Nanos::MAX,
                // A peer that takes what waited lives, too: its answer comes when it has read up to the question.
                Some(at) => at.max(self.moved_at).plus(DEAD_NS),
            },
            (Side::Accepted, Stage::Up) => self.heard_at.plus(SILENT_NS),
        };
        silent.min(self.inbox.deadline())
    }

    /// When [`PeerLink::tick`] is wanted.
    pub fn next_deadline(&self) -> Nanos {
        match (self.side, self.stage) {
            (Side::Dialed, Stage::Up) => self.deadline().min(self.ping_at),
            _ => self.deadline(),
        }
    }

    /// Sends what `to` takes; how many bytes that was.
    pub fn write_to(&mut self, now: Nanos, to: &mut impl Write) -> io::Result<usize> {
        let wrote = self.out.write_to(to)?;
        let blocked = !self.out.is_empty();
        if (self.blocked && wrote > 0) || (blocked && !self.blocked) {
            self.moved_at = now;
        }
        self.blocked = blocked;
        Ok(wrote)
    }

    /// Unsent bytes.
    pub const fn unsent(&self) -> usize {
        self.out.len()
    }

    /// Bytes held of a frame that is not complete, or promised to it.
    pub fn held(&self) -> usize {
        self.inbox.held()
    }

    /// Whether the handshake is complete.
    pub fn is_up(&self) -> bool {
        self.stage == Stage::Up
    }

    /// Whether it has said its last words, and they have left.
    pub fn is_over(&self) -> bool {
        self.stage == Stage::Closing && self.out.is_empty()
    }

    /// Since when it is up, or opened.
    pub const fn since(&self) -> Nanos {
        self.since
    }

    /// When something was last heard.
    pub const fn heard_at(&self) -> Nanos {
        self.heard_at
    }

    /// The last PING's round trip.
    pub const fn round_trip_ns(&self) -> Option<u64> {
        self.round_trip_ns
    }

    /// Whether the peer does not keep up: bytes wait, a PONG is late, or messages had to be dropped.
    pub fn is_slow(&self, now: Nanos) -> bool {
        let waits = self.blocked && now.since(self.moved_at) >= SLOW_NS;
        let late = self.asked_at.is_some_and(|at| now.since(at) >= SLOW_NS);
        let dropped = self.dropped_at.is_some_and(|at| now.since(at) < SLOW_AFTER_DROP_NS);
        waits || late || dropped
    }
}
