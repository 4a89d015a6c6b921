//! L0: the words everything else is written in. No I/O, no clock, no randomness.
//!
//! - [`ids`]: newtypes for numbers that must not mix.
//! - [`varint`]: LEB128 integers.
//! - [`checksum`]: CRC32C, plain and seeded.
//! - [`hash`]: the one 64-bit key hash that every filter and hash index uses.
//! - `hint`: what the processor may be told in advance.
//! - [`internal_key`]: (user key, sequence number, kind) and its order.
//! - [`internal_op`]: a change of a row under the reserved prefix.
//! - [`membership`]: who belongs to the cluster, and who of them votes.
//! - `membership_history`: which one is in force where in the log.
//! - [`batch`]: [`batch::WriteBatch`], the one unit of writing.
//! - [`conditions`]: what a batch may require of keys to be applied.
//! - [`planted`]: bugs on purpose, for the simulator's own test; absent from every normal build.
//! - [`trace`]: events and per-stage timers.
//! - [`units`]: sizes and durations as people write them.

pub mod batch;
pub mod checksum;
pub mod conditions;
pub mod hash;
mod hint;
pub mod ids;
pub mod internal_key;
pub mod internal_op;
pub mod membership;
mod membership_history;
pub mod planted;
pub mod trace;
pub mod units;
pub mod varint;

pub(crate) use hint::prefetch;
pub use ids::{ClusterUid, LogIndex, Nanos, NodeId, ReplicaId, SequenceNumber, Term};
pub use internal_op::InternalOp;
pub use membership::{Member, MemberRole, Membership, MembershipError};
pub(crate) use membership_history::MembershipHistory;
