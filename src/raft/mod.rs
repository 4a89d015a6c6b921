//! L2: the Raft algorithm, pure.
//!
//! [`Raft::step`] takes the time, one [`Event`], and a view of the log, and appends [`Effect`]s. It does no I/O, reads
//! no clock, and draws no random numbers; the same events give the same effects. The node is one driver of it, the
//! simulator another. References "§n" are to the extended Raft paper (Ongaro and Ousterhout, 2014).
//!
//! ```text
//!           Tick, Propose, Read, Persisted(io)              Persist ──► LogStore ──► Lane::Log ──► Persisted(io)
//! driver ────────────────────────────────────► Raft::step ─► Apply ───► state machine
//!        ◄──────────────────────────────────── effects       ReadReady ► answer the waiting reads
//! ```
//!
//! # Contract with the driver
//! - It carries out the effects in order, and all of a step's before the next step.
//! - It reports [`Event::Persisted`] for a [`Persist`] only when everything in it is durable, and those in order.
//! - It applies entries in index order up to the newest [`Effect::Apply`], and answers a read at
//!   [`Effect::ReadReady`]'s index only when that index is applied.
//! - The hard state given to [`Raft::new`] is the last one that was persisted, and `applied` never exceeds what was
//!   once committed.
//!
//! # Invariants
//! - *Persist before counting.* This node's vote and its own match index count only when their [`IoId`] completed;
//!   a group of one waits for its own sync like any other (pitfalls 2 and 15, etcd #14370).
//! - *Only the current term commits by counting* (§5.4.2, pitfall 1): the commit index moves to an index by quorum
//!   only if that entry's term is the current one; older entries commit with it.
//! - *A completion counts for the term that wrote it* (pitfall 16): one that comes back in another term acknowledges
//!   nothing.
//! - *Reads wait for a commit of the leader's own term* (§8, pitfall 32): until then the leader does not know what is
//!   committed.
//! - `commit <= match <= last`, `commit` and `term` never go back, and at most one vote is cast in a term.
//!
//! # What there is, and what comes
//! The voters are one node: election, proposal, commitment, and reads are complete for it, by the general rules (a
//! quorum of match indexes, a quorum of votes). A lone voter campaigns at its first tick, since nobody else can lead.
//! The replication issue adds peer messages (`Event::Message`; `Effect::Send` with `after: Option<IoId>`, so that a
//! vote or an acknowledgement cannot leave before its sync), followers' progress, pre-vote, check-quorum, transfer,
//! membership changes, and snapshots; nothing here changes shape for it.

mod api;
mod context;
mod core;
mod election;
mod log;
mod membership;
pub mod message;
mod persisting;
mod progress;
mod quorum;
mod reads;
mod replication;
mod snapshot;
mod status;
mod timers;
mod trace;
mod types;

#[cfg(test)]
mod cluster_tests;

pub use self::core::Raft;
pub use api::{Change, Config, Effect, Event, ProposeError, ReadId, Role, Start};
pub use log::{DurableGroup, LogOutcome, LogStats, LogStore, LogView, MemLog, ReadEntries};
pub(crate) use log::{MembershipLog, take_entries};
pub use message::Message;
pub use progress::ProgressState;
pub use status::{FollowerStatus, RaftStatus};
pub use trace::{Brief, Trace};
pub use types::{Entry, HardState, IoId, Persist};
