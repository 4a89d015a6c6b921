//! The error table. Normative: `proto-spec/errors.md`, which a test compares with this file.
//!
//! An error answers three questions: may the same request be sent again (`retryable`), is the connection still
//! usable (`closes`), and what happened to the write ([`Effect`]).

use super::Opcode;
use crate::base::batch::BatchError;
use crate::base::conditions::FailedCondition;
use crate::base::{LogIndex, SequenceNumber};
use crate::limits::MAX_ADDRESS_BYTES;
use std::fmt;

/// Longest message in an error reply; longer ones are cut at a character.
pub const MAX_ERROR_MESSAGE_BYTES: usize = 1024;

/// What a failed request did to the data.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Effect {
    /// It was a read: there is nothing to apply.
    None = 0,
    /// The write was not applied and never will be. It is safe to send it again.
    NotApplied = 1,
    /// The write was applied; only its answer failed.
    Applied = 2,
    /// The write may have been applied, or may still be. Read before writing again.
    Unknown = 3,
}

impl Effect {
    /// The effect for a byte.
    #[must_use]
    pub const fn from_u8(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::None),
            1 => Some(Self::NotApplied),
            2 => Some(Self::Applied),
            3 => Some(Self::Unknown),
            _ => None,
        }
    }

    /// The effect of a request that is refused before anything is done with it.
    #[must_use]
    pub const fn refused(opcode: Opcode) -> Self {
        if opcode.is_write() { Self::NotApplied } else { Self::None }
    }

    /// The effect of a request whose answer will not come, after it was proposed.
    #[must_use]
    pub const fn lost(opcode: Opcode) -> Self {
        if opcode.is_write() { Self::Unknown } else { Self::None }
    }

    /// The name in docs, text replies, and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::NotApplied => "not_applied",
            Self::Applied => "applied",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

macro_rules! error_codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal $text:literal
        retryable=$retryable:literal closes=$closes:literal effects=[$($effect:ident),+];)+) => {
        /// Why a request failed. The number is the status of the reply frame; 0 is OK.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u32)]
        pub enum ErrorCode { $($(#[$doc])* $name = $code,)+ }

        impl ErrorCode {
            /// All of them, by number.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The code for a reply's status; `None` for 0 and for numbers this version does not know.
            #[must_use]
            pub const fn from_u32(status: u32) -> Option<Self> {
                match status { $($code => Some(Self::$name),)+ _ => None }
            }
            /// The name in docs, text replies, and JSON.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
            /// Whether the same request may succeed later, so that a client may send it again when the
            /// [`Effect`] allows.
            #[must_use]
            pub const fn retryable(self) -> bool {
                match self { $(Self::$name => $retryable,)+ }
            }
            /// Whether the server closes the connection after this error.
            #[must_use]
            pub const fn closes_connection(self) -> bool {
                match self { $(Self::$name => $closes,)+ }
            }
            /// The effects on a write that this error may report. Reads always report [`Effect::None`].
            #[must_use]
            pub const fn write_effects(self) -> &'static [Effect] {
                match self { $(Self::$name => &[$(Effect::$effect),+],)+ }
            }
        }
    };
}

error_codes! {
    /// The frame's length or flags are impossible: what follows cannot be trusted.
    BadFrame = 1 "BAD_FRAME" retryable=false closes=true effects=[NotApplied];
    /// The frame's version is not one this server speaks.
    BadVersion = 2 "BAD_VERSION" retryable=false closes=true effects=[NotApplied];
    /// The frame's CRC32C does not match its bytes.
    BadCrc = 3 "BAD_CRC" retryable=true closes=true effects=[NotApplied];
    /// The frame or text line is longer than the limit; no memory was reserved for it.
    FrameTooLarge = 4 "FRAME_TOO_LARGE" retryable=false closes=true effects=[NotApplied];
    /// TLS, HTTP, or noise on the client port.
    WrongProtocol = 5 "WRONG_PROTOCOL" retryable=false closes=true effects=[NotApplied];
    /// A frame without a checksum on a connection that is not loopback.
    NoCrcNotAllowed = 6 "NO_CRC_NOT_ALLOWED" retryable=false closes=true effects=[NotApplied];
    /// A frame was begun and not completed in time.
    SlowFrame = 7 "SLOW_FRAME" retryable=true closes=true effects=[NotApplied];
    /// Nothing was sent for too long.
    IdleTimeout = 8 "IDLE_TIMEOUT" retryable=true closes=true effects=[NotApplied];
    /// The server has as many connections as it may.
    TooManyConnections = 9 "TOO_MANY_CONNECTIONS" retryable=true closes=true effects=[NotApplied];
    /// A frame of a peer on the port for clients, or the reverse.
    WrongPort = 10 "WRONG_PORT" retryable=false closes=true effects=[NotApplied];

    /// A request opcode this version does not know.
    UnknownOpcode = 16 "UNKNOWN_OPCODE" retryable=false closes=false effects=[NotApplied];
    /// The body is not what the opcode asks for.
    BadRequest = 17 "BAD_REQUEST" retryable=false closes=false effects=[NotApplied];
    /// The request id is that of a request still in flight on this connection.
    DuplicateRequestId = 18 "DUPLICATE_REQUEST_ID" retryable=false closes=false effects=[NotApplied];
    /// A key is over the limit.
    KeyTooLarge = 19 "KEY_TOO_LARGE" retryable=false closes=false effects=[NotApplied];
    /// A value is over the limit.
    ValueTooLarge = 20 "VALUE_TOO_LARGE" retryable=false closes=false effects=[NotApplied];
    /// A batch has too many operations or bytes.
    BatchTooLarge = 21 "BATCH_TOO_LARGE" retryable=false closes=false effects=[NotApplied];
    /// The key is in the range kept for internal state.
    ReservedKey = 22 "RESERVED_KEY" retryable=false closes=false effects=[NotApplied];
    /// HELLO named another cluster.
    WrongCluster = 23 "WRONG_CLUSTER" retryable=false closes=true effects=[NotApplied];
    /// The session was never registered, or was evicted to make room: what became of earlier tries is not known any more.
    UnknownSession = 24 "UNKNOWN_SESSION" retryable=false closes=false effects=[NotApplied, Unknown];
    /// The sequence is below what the client said it needs no outcome of.
    SessionStale = 25 "SESSION_STALE" retryable=false closes=false effects=[Unknown];
    /// The sequence is a whole window above the oldest outcome that the client still waits for.
    SessionWindowFull = 26 "SESSION_WINDOW_FULL" retryable=false closes=false effects=[NotApplied];
    /// The handshake of a peer has this node's own number: two nodes were given the same one, or a node dials itself.
    DuplicateNode = 27 "DUPLICATE_NODE" retryable=false closes=true effects=[NotApplied];
    /// The handshake of a peer wants another node than this one.
    WrongNode = 28 "WRONG_NODE" retryable=false closes=true effects=[NotApplied];

    /// A condition of the batch does not hold; the reply says which, and what its key has.
    ConditionFailed = 29 "CONDITION_FAILED" retryable=false closes=false effects=[NotApplied];

    /// A queue is full, or writes stall on a flush. `retry_after_ms` says when to try again.
    Busy = 32 "BUSY" retryable=true closes=false effects=[NotApplied];
    /// The deadline passed: before propose (not applied), or while waiting for the commit (unknown).
    DeadlineExceeded = 33 "DEADLINE_EXCEEDED" retryable=true closes=false effects=[NotApplied, Unknown];
    /// This node is not the leader, or no leader is known yet.
    NotLeader = 34 "NOT_LEADER" retryable=true closes=false effects=[NotApplied, Unknown];
    /// The server is draining.
    ShuttingDown = 35 "SHUTTING_DOWN" retryable=true closes=true effects=[NotApplied];
    /// The disk is full: reads go on, writes are refused until there is space.
    NoSpace = 36 "NO_SPACE" retryable=true closes=false effects=[NotApplied];
    /// The snapshot is older than the versions the engine still holds, or its hold has ended.
    SnapshotTooOld = 37 "SNAPSHOT_TOO_OLD" retryable=false closes=false effects=[NotApplied];
    /// The disk failed to read what the request needs, or it is damaged.
    ReadError = 38 "READ_ERROR" retryable=false closes=false effects=[NotApplied];
    /// A fault of the server itself; the message says which.
    Internal = 39 "INTERNAL" retryable=false closes=false effects=[NotApplied, Applied, Unknown];
    /// What was asked for does not fit in one reply: ask for less at once.
    ReplyTooLarge = 40 "REPLY_TOO_LARGE" retryable=false closes=false effects=[NotApplied];
}

impl ErrorCode {
    /// The status of the reply frame.
    #[must_use]
    pub const fn status(self) -> u32 {
        self as u32
    }

    /// The code for a batch that is refused.
    #[must_use]
    pub const fn of_batch(error: &BatchError) -> Self {
        match error {
            BatchError::KeyTooLarge { .. } => Self::KeyTooLarge,
            BatchError::ValueTooLarge { .. } => Self::ValueTooLarge,
            BatchError::ConditionCount { count: 0 } => Self::BadRequest,
            BatchError::TooLarge { .. }
            | BatchError::ConditionCount { .. }
            | BatchError::TooManyRangeDeletes { .. } => Self::BatchTooLarge,
            BatchError::ReservedKey => Self::ReservedKey,
            BatchError::SessionWindowFull { .. } => Self::SessionWindowFull,
            _ => Self::BadRequest,
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a batch with conditions was not applied, and where in the log that was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ConditionFailed {
    /// The log entry that holds the batch.
    pub index: LogIndex,
    /// The last operation applied when it was judged.
    pub applied: SequenceNumber,
    /// The first condition that did not hold, and what its key had.
    pub failed: FailedCondition,
}

/// The answer to a request that failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{code} ({effect}): {message}")]
pub struct ErrorReply {
    /// Why.
    pub code: ErrorCode,
    /// What happened to the write.
    pub effect: Effect,
    /// How long to wait before trying again; 0 = no advice.
    pub retry_after_ms: u32,
    /// With [`ErrorCode::NotLeader`]: where clients reach the leader, `HOST:PORT`; empty when it is not known, and with
    /// every other code. At most [`MAX_ADDRESS_BYTES`] of printable ASCII; another one does not go on the wire.
    pub leader: String,
    /// With [`ErrorCode::ConditionFailed`], and only then: which one, and what its key has.
    pub condition: Option<Box<ConditionFailed>>,
    /// What was expected and found, for a person. At most [`MAX_ERROR_MESSAGE_BYTES`] go on the wire.
    pub message: String,
}

impl ErrorReply {
    /// An error without advice on when to retry.
    #[must_use]
    pub fn new(code: ErrorCode, effect: Effect, message: impl Into<String>) -> Self {
        let (retry_after_ms, leader) = (0, String::new());
        Self { code, effect, retry_after_ms, leader, condition: None, message: message.into() }
    }

    /// The answer to a batch that was not applied because of a condition.
    #[must_use]
    pub fn condition_failed(at: ConditionFailed) -> Self {
        let effect = Effect::NotApplied;
        let message = at.failed.to_string();
        Self {
            condition: Some(Box::new(at)),
            ..Self::new(ErrorCode::ConditionFailed, effect, message)
        }
    }

    /// Whether the same request may be sent again without risk of applying it twice.
    #[must_use]
    pub const fn safe_to_retry(&self) -> bool {
        self.code.retryable() && matches!(self.effect, Effect::None | Effect::NotApplied)
    }

    /// The leader's address as it goes on the wire: one that a member of a cluster cannot have is left out.
    #[must_use]
    pub fn wire_leader(&self) -> &str {
        let sound = self.leader.len() <= MAX_ADDRESS_BYTES
            && self.leader.bytes().all(|byte| byte.is_ascii_graphic());
        if sound { &self.leader } else { "" }
    }

    /// The message, cut to what goes on the wire.
    #[must_use]
    pub fn wire_message(&self) -> &str {
        cut_message(&self.message)
    }
}

/// A message for people, cut at a character to [`MAX_ERROR_MESSAGE_BYTES`].
pub(super) fn cut_message(message: &str) -> &str {
    let mut end = message.len().min(MAX_ERROR_MESSAGE_BYTES);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    &message[..end]
}
