//! [`Message`] <-> [`PeerMessage`]: what raft says, as the peer protocol carries it.
//!
//! ```text
//! Effect::Send(message) ─► to_wire ─► peer::encode ─► bytes ─► peer::decode ─► from_wire ─► Event::Peer(message)
//! ```
//!
//! `raft` and `proto` do not know each other; this is the only place that knows both. The two shapes are the same but for
//! names: no field is added, dropped, or computed. Sender and receiver are not on the wire (the handshake of the
//! connection fixes them).
//!
//! Invariants: payloads are shared ([`bytes::Bytes`]), never copied; a message that raft made comes back equal.
//!
//! What it does not do: judge a message. Raft asks [`Message::check`] about every message it is given, and drops what
//! fails.

use crate::base::{ReplicaId, Term};
use crate::proto::peer::{
    AppendAnswer, PeerFrame, PeerMessage, SnapshotAnswer, WireEntry, WireSnapshotMeta,
};
use crate::raft::message::{
    Append, AppendOutcome, AppendReply, Body, Message, SnapshotChunk, SnapshotMeta,
    SnapshotOutcome, SnapshotReply,
};
use crate::raft::{Entry, ReadId};
use std::sync::Arc;

/// The frame that carries a message.
#[must_use]
pub fn to_wire(message: &Message) -> PeerFrame {
    let body = match &message.body {
        Body::PreVote { last } => PeerMessage::PreVote { last: *last },
        Body::PreVoteReply { granted } => PeerMessage::PreVoteReply { granted: *granted },
        Body::Vote { last, transfer } => PeerMessage::Vote { last: *last, transfer: *transfer },
        Body::VoteReply { granted } => PeerMessage::VoteReply { granted: *granted },
        Body::Append(Append { session, round, prev, entries, commit }) => PeerMessage::Append {
            session: *session,
            round: *round,
            prev: *prev,
            commit: *commit,
            entries: entries.iter().map(entry_to_wire).collect(),
        },
        Body::AppendReply(AppendReply { session, round, outcome }) => PeerMessage::AppendReply {
            session: *session,
            round: *round,
            answer: match *outcome {
                AppendOutcome::Accepted { matched } => AppendAnswer::Accepted { matched },
                AppendOutcome::Rejected { prev, conflict: (term, index) } => {
                    AppendAnswer::Rejected { prev, conflict: (term.unwrap_or_default(), index) }
                }
            },
        },
        Body::ReadIndex { read } => PeerMessage::ReadIndex { read: read.0 },
        Body::ReadIndexReply { read, index } => {
            PeerMessage::ReadIndexReply { read: read.0, index: *index }
        }
        Body::Snapshot(SnapshotChunk { session, transfer, meta, offset, data, crc }) => {
            PeerMessage::Snapshot {
                session: *session,
                transfer: *transfer,
                meta: meta.as_deref().map(|meta| Box::new(meta_to_wire(meta))),
                offset: *offset,
                data: data.clone(),
                crc: *crc,
            }
        }
        Body::SnapshotReply(SnapshotReply { session, transfer, outcome }) => {
            PeerMessage::SnapshotReply {
                session: *session,
                transfer: *transfer,
                answer: match outcome {
                    SnapshotOutcome::Next { offset } => SnapshotAnswer::Next { offset: *offset },
                    SnapshotOutcome::Installed { index } => {
                        SnapshotAnswer::Installed { index: *index }
                    }
                    SnapshotOutcome::Refused { reason } => {
                        SnapshotAnswer::Refused { reason: reason.clone() }
                    }
                },
            }
        }
        Body::TransferNow => PeerMessage::TransferNow,
    };
    PeerFrame::Raft(message.term, body)
}

fn entry_to_wire(entry: &Entry) -> WireEntry {
    WireEntry { index: entry.index, term: entry.term, payload: entry.payload.clone() }
}

fn meta_to_wire(meta: &SnapshotMeta) -> WireSnapshotMeta {
    let SnapshotMeta { index, term, membership, bytes, body } = meta.clone();
    WireSnapshotMeta { index, term, membership, bytes, body }
}

/// The message that arrived on a connection from `from` to `to`.
#[must_use]
pub fn from_wire(from: ReplicaId, to: ReplicaId, term: Term, message: PeerMessage) -> Message {
    let body = match message {
        PeerMessage::PreVote { last } => Body::PreVote { last },
        PeerMessage::PreVoteReply { granted } => Body::PreVoteReply { granted },
        PeerMessage::Vote { last, transfer } => Body::Vote { last, transfer },
        PeerMessage::VoteReply { granted } => Body::VoteReply { granted },
        PeerMessage::Append { session, round, prev, commit, entries } => {
            let entries = entries.into_iter().map(entry_from_wire).collect();
            Body::Append(Append { session, round, prev, entries, commit })
        }
        PeerMessage::AppendReply { session, round, answer } => {
            let outcome = match answer {
                AppendAnswer::Accepted { matched } => AppendOutcome::Accepted { matched },
                AppendAnswer::Rejected { prev, conflict: (term, index) } => {
                    let term = (term != Term::ZERO).then_some(term);
                    AppendOutcome::Rejected { prev, conflict: (term, index) }
                }
            };
            Body::AppendReply(AppendReply { session, round, outcome })
        }
        PeerMessage::ReadIndex { read } => Body::ReadIndex { read: ReadId(read) },
        PeerMessage::ReadIndexReply { read, index } => {
            Body::ReadIndexReply { read: ReadId(read), index }
        }
        PeerMessage::Snapshot { session, transfer, meta, offset, data, crc } => {
            let meta = meta.map(|meta| Arc::new(meta_from_wire(*meta)));
            Body::Snapshot(SnapshotChunk { session, transfer, meta, offset, data, crc })
        }
        PeerMessage::SnapshotReply { session, transfer, answer } => {
            let outcome = match answer {
                SnapshotAnswer::Next { offset } => SnapshotOutcome::Next { offset },
                SnapshotAnswer::Installed { index } => SnapshotOutcome::Installed { index },
                SnapshotAnswer::Refused { reason } => SnapshotOutcome::Refused { reason },
            };
            Body::SnapshotReply(SnapshotReply { session, transfer, outcome })
        }
        PeerMessage::TransferNow => Body::TransferNow,
    };
    Message { from, to, term, body }
}

fn entry_from_wire(entry: WireEntry) -> Entry {
    let WireEntry { index, term, payload } = entry;
    Entry { index, term, payload }
}

fn meta_from_wire(meta: WireSnapshotMeta) -> SnapshotMeta {
    let WireSnapshotMeta { index, term, membership, bytes, body } = meta;
    SnapshotMeta { index, term, membership, bytes, body }
}

#[cfg(test)]
mod tests;
