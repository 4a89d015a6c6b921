//! What goes into a node and what comes out.

use crate::base::Nanos;
use crate::env::Completion;
use crate::proto::{Opcode, Request, Response};

/// Where a request came from; it comes back with the reply. Connection numbers are the server's and never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Origin {
    /// The connection.
    pub conn: u64,
    /// The request's id on it.
    pub request_id: u64,
}

/// What happens to a node. One turn of the loop is any number of events and then [`Event::EndOfTurn`].
pub enum Event<'a> {
    /// A request arrived. It is answered by exactly one [`Effect::Reply`], in this step or a later one, unless its
    /// connection closes first.
    Request {
        /// Who wants the answer.
        origin: Origin,
        /// What is asked; what is kept of it is copied.
        request: Request<'a>,
        /// When the client gives up.
        deadline: Nanos,
        /// When its last byte arrived.
        received_at: Nanos,
        /// Its frame's length.
        bytes: usize,
    },
    /// A connection is gone: its requests need no answer. Its proposed writes go on.
    ConnectionClosed {
        /// The connection.
        conn: u64,
    },
    /// A job of this node finished.
    JobDone(Completion),
    /// Time passed; wanted at [`Node::next_wakeup`](super::Node::next_wakeup), harmless at any time.
    Tick,
    /// All events of this turn are in: propose its writes as one group, start the log's job, serve its reads.
    EndOfTurn,
    /// Refuse new requests, finish the admitted ones, close the log, then [`Effect::Drained`].
    Drain,
}

/// What the driver must do, in order.
#[derive(Debug)]
pub enum Effect {
    /// Send this reply.
    Reply {
        /// To whom.
        origin: Origin,
        /// The request's opcode.
        opcode: Opcode,
        /// The reply.
        response: Response,
    },
    /// Stop the process at once, without another reply: durability can no longer be promised. The node ignores all
    /// further events.
    Fatal(FatalError),
    /// The drain is complete and the log is closed: the process may exit 0. The node ignores all further events.
    Drained,
}

/// Why the process must stop.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct FatalError {
    /// The part that failed.
    pub what: &'static str,
    /// How.
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

impl FatalError {
    pub(super) fn new(
        what: &'static str,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self { what, source: Box::new(source) }
    }
}
