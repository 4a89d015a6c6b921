//! L2: the Raft algorithm, pure.
//!
//! [`Raft::step`] takes the time, one [`Event`], and a view of the log, and appends [`Effect`]s. It does no I/O, reads
//! no clock, and draws its random numbers from a seed; the same events give the same effects. The node is one driver
//! of it, the simulator another. "§n" is a section of the extended Raft paper (Ongaro and Ousterhout, 2014),
//! "thesis n" one of Ongaro's dissertation.
//!
//! ```text
//!            Tick, Propose, Read, Persisted(io)              Persist ──► LogStore ──► Lane::Log ──► Persisted(io)
//!  driver ────────────────────────────────────► Raft::step ─► Send{after} ─► when durable ─► the other replicas
//!         ◄──────────────────────────────────── effects       Apply ───► state machine
//!  other replicas ── Message ─────────────────►               ReadReady ► answer the waiting reads
//! ```
//!
//! # Roles
//! ```text
//!                     no leader heard                  a majority would         a majority voted, and the
//!                     for a timeout                    vote for it              own vote is durable
//!      ┌──────────┐ ───────────────► ┌──────────────┐ ─────────────► ┌───────────┐ ──────────► ┌────────┐
//! ───► │ Follower │                  │ PreCandidate │                │ Candidate │             │ Leader │
//!      └──────────┘ ◄─────────────── └──────────────┘ ◄───────────── └───────────┘             └────────┘
//!       ▲    │  ▲       a leader, a higher term,        a timeout:      ▲    │                      │
//!       │    │  │       or a majority refuses           ask again       │    │                      │
//!       │    │  └───────────────────────────────────────────────────────┼────┘                      │
//!       │    └──────────────────────────────────────────────────────────┘                           │
//!       │       the leader hands over (TransferNow), or it is the only voter                        │
//!       └───────────────────────────────────────────────────────────────────────────────────────────┘
//!          a higher term; no majority heard (check-quorum); removed; its disk hangs
//! ```
//! Who does not vote (a learner, a removed replica, one that waits to be added) stays a follower; but one whose removal
//! may not be committed still campaigns, since it may be the only one that can win (thesis 4.2.2).
//!
//! # Where to find what
//! | file | what | source |
//! |---|---|---|
//! | `core` | the state, dispatch, terms, persisting, committing | §5.1 |
//! | `election` | votes, pre-vote, stickiness, transfer | §5.2, §5.4.1, thesis 3.10, 4.2.3, 9.6 |
//! | `replication` | appends and their answers, the commit index, check-quorum | §5.3, §5.4.2, thesis 6.2, 10.2 |
//! | `progress` | one follower as its leader sees it | thesis 4.2.1, 10.2.1 |
//! | `reads` | ReadIndex, lease, reads on followers | §8, thesis 6.4 |
//! | `membership` | one change at a time, learners first | §6, thesis 4 |
//! | `snapshot` | what raft has to do with them | §7 |
//! | `persisting` | what is on its way to the disk, and what it proves | thesis 10.2.1 |
//! | `context`, `timers`, `quorum`, `status`, `trace` | tools | |
//!
//! # Contract with the driver
//! - It carries out the effects in order, and all of a step's before the next step.
//! - It reports [`Event::Persisted`] for a [`Persist`] only when everything in it is durable, and those in order.
//! - It sends a message with `after` only when that is durable, and drops it if the term has changed meanwhile. Messages
//!   may be lost, doubled, late, and out of order.
//! - It applies entries in index order up to the newest [`Effect::Apply`], and answers a read at
//!   [`Effect::ReadReady`]'s index only when that index is applied.
//! - It answers every [`Effect::Fetch`], sooner or later, with [`Event::Fetched`].
//! - Installing a snapshot, it resets the log and reports [`Event::SnapshotInstalled`] with no other event between. A
//!   snapshot at or below the newest [`Effect::Apply`] is never installed.
//! - The hard state and the memberships given to [`Raft::new`] are the last that were persisted, everything in the log is
//!   then durable, and `applied` never exceeds what was once committed. [`Config::seed`] is another one in every run.
//! - After [`Effect::Fatal`] it stops the process.
//!
//! # Invariants
//! - *Election safety* (§5.2): at most one leader in a term, because a vote is durable before it is told (pitfall 2)
//!   and counts only from a voter of the membership in force. Seeing two is [`Effect::Fatal`] (pitfall 7).
//! - *Leader append-only, log matching* (§5.3): a leader truncates nothing; a follower truncates only at an entry that
//!   conflicts (pitfall 8), and one at or below its commit index is [`Effect::Fatal`].
//! - *Persist before counting.* A vote and a match index count only when their [`IoId`] completed, on a leader like on
//!   everybody, in a group of one as in any other (pitfall 15). A completion proves only what is still in the log
//!   (pitfall 16).
//! - *Only the current term commits by counting* (§5.4.2, pitfall 1); older entries commit with it.
//! - *Nothing is believed that this exchange did not establish*: a follower commits what the message verified (pitfall 9),
//!   a leader takes answers of its term and the follower's session (pitfalls 10 and 11), and a read is confirmed by
//!   a round that began after it arrived (pitfall 33).
//! - *Reads and membership changes wait for a commit of the leader's own term* (pitfalls 29 and 32).
//! - `handed out <= commit <= last`, `durable <= last`, on a leader `match < next`; `commit`, `term`, and `match` never
//!   go back. The first three are asserted at the end of every step.
//! - No input of a peer makes it panic: what passes [`Message::check`] has numbers that cannot overflow.
//!
//! # Bounds
//! Bytes not committed ([`Settings::max_uncommitted_bytes`]: refused, not queued); appends and bytes in flight per follower;
//! two rounds of reads; one transfer; one membership change. Persists in flight are bounded by what the driver
//! proposes and peers send: appends of one leader are bounded by its window.
//!
//! # Deliberate divergences
//! - *A leader sends before its own sync* (thesis 10.2.1) and counts itself when it is done. Entries are nevertheless
//!   applied only when they are durable *here*, so that a state machine never has more than its log after a crash.
//! - *Stickiness is measured from when a leader was heard*, whatever was heard since; a lease stands on it.
//! - *After a transfer began there is no lease for the rest of the term*: the successor's election bypasses
//!   stickiness, and the word to it may arrive late.
//! - *A removed leader, and one whose sync hangs for an election timeout* (pitfall 20), name a successor like a
//!   transfer does, instead of leaving everybody to a timeout. A replica whose disk hangs does not campaign.
//! - *A lone voter* does not wait for a timeout, and reads without a round. Nobody else could lead.
//! - *Heartbeats stand at `match`*, not at `next - 1`: the answer never waits for a sync, so a slow disk delays neither
//!   reads nor check-quorum.
//! - *A stranger's request is answered* as the paper says (the receiver's membership may be old); nothing is sent to a
//!   stranger unasked, and its answers count for nothing.

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
#[cfg(test)]
mod testing;
mod timers;
mod trace;
mod types;

#[cfg(test)]
mod cluster_tests;

pub use self::core::Raft;
pub use api::{Change, Config, Effect, Event, ProposeError, ReadId, Role, Settings, Start};
pub(crate) use log::take_entries;
pub use log::{DurableGroup, LogOutcome, LogStats, LogStore, LogView, MemLog, ReadEntries};
pub use message::Message;
pub use progress::ProgressState;
pub use status::{FollowerStatus, RaftStatus};
pub use trace::{Brief, Trace};
pub use types::{Entry, HardState, IoId, Persist};
