//! Effects in few words, for the trace, and in one word, for its hash.

use super::hooks::SimNode;
use beachdb::base::hash::key_hash;
use beachdb::base::{LogIndex, Membership};
use beachdb::node::{Effect, EntryOutcome, Observed, PeerFacts};
use beachdb::proto::Response;
use beachdb::raft::Message;
use beachdb::raft::message::{AppendOutcome, Body, SnapshotOutcome};
use std::fmt::{self, Write as _};

/// The membership in force in a node's log, and the entry that set it.
#[must_use]
pub fn membership(node: &SimNode) -> (LogIndex, &Membership) {
    (node.raft().membership_index(), node.raft().membership())
}

const fn mix(hash: u64, word: u64) -> u64 {
    (hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95)
}

/// A number that two different effects hardly share: of values, payloads, and outcomes, too. Entries that an append carries
/// count when they are applied; raft's trace by its text.
#[must_use]
pub fn digest(effect: &Effect) -> u64 {
    match effect {
        Effect::Reply { origin, response, .. } => {
            mix(mix(mix(1, origin.conn), origin.request_id), digest_response(response))
        }
        Effect::Send(message) => mix(2, digest_message(message)),
        Effect::Observed(observed) => match observed {
            Observed::Raft(trace) => digest_text(trace),
            Observed::Applied { index, term, payload, outcome } => {
                let what = mix(key_hash(payload), digest_outcome(outcome));
                mix(mix(mix(4, index.0), term.0), what)
            }
            Observed::Installed { index, term } => mix(mix(5, index.0), term.0),
            Observed::Released { index } => mix(6, index.0),
        },
        Effect::Fatal(_) => 7,
        Effect::Drained => 8,
        Effect::Introduce { token, node, .. } => mix(mix(9, *token), node.0),
        Effect::Belongs(cluster) => mix(11, cluster.0),
        Effect::Begin { to, .. } => mix(mix(10, to.node.0), to.incarnation),
    }
}

/// A number for something that is only known by its `Debug` text, which is not kept.
fn digest_text(what: &impl fmt::Debug) -> u64 {
    struct Hash(u64);
    impl fmt::Write for Hash {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            for piece in text.as_bytes().chunks(8) {
                let word = piece.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
                self.0 = mix(self.0, word);
            }
            Ok(())
        }
    }
    let mut hash = Hash(3);
    let written = write!(hash, "{what:?}");
    debug_assert!(written.is_ok());
    hash.0
}

fn digest_outcome(outcome: &EntryOutcome) -> u64 {
    match outcome {
        EntryOutcome::Written { first_seq, last_seq } => mix(mix(1, first_seq.0), last_seq.0),
        EntryOutcome::ConditionFailed(failed) => {
            mix(mix(5, failed.condition.into()), failed.present.map_or(0, |seq| seq.0))
        }
        EntryOutcome::Duplicate { index } => mix(2, index.0),
        EntryOutcome::Refused(code) => mix(3, *code as u64),
        EntryOutcome::Registered { client_id, evicted } => {
            mix(mix(4, *client_id), evicted.unwrap_or_default())
        }
    }
}

/// A number for a reply.
#[must_use]
pub fn digest_response(response: &Response) -> u64 {
    match response {
        Response::Value { seq, applied, value } => {
            mix(mix(mix(1, seq.0), applied.0), key_hash(value))
        }
        Response::NotFound { applied } => mix(2, applied.0),
        Response::Written { index, first_seq, last_seq } => {
            mix(mix(mix(3, index.0), first_seq.0), last_seq.0)
        }
        Response::Scan(scan) => {
            scan.entries.iter().fold(mix(4, scan.entries.len() as u64), |hash, e| {
                mix(mix(mix(hash, e.seq.0), key_hash(&e.key)), key_hash(&e.value))
            })
        }
        Response::Values(reply) => reply.values.iter().fold(mix(7, reply.at.0), |hash, found| {
            let (seq, value) = found.as_ref().map_or((0, 0), |(s, v)| (s.0, key_hash(v)));
            mix(mix(hash, seq), value)
        }),
        Response::Error(error) => mix(5, error.code as u64),
        _ => 6,
    }
}

/// A number for a message, without payloads.
#[must_use]
pub fn digest_message(message: &Message) -> u64 {
    let mut hash = mix(mix(message.from.node.0, message.to.node.0), message.term.0);
    hash = mix(mix(hash, message.from.incarnation), message.to.incarnation);
    match &message.body {
        Body::PreVote { last } => mix(mix(mix(hash, last.0.0), last.1.0), 1),
        Body::PreVoteReply { granted } => mix(mix(hash, u64::from(*granted)), 2),
        Body::Vote { last, transfer } => {
            mix(mix(mix(mix(hash, last.0.0), last.1.0), u64::from(*transfer)), 3)
        }
        Body::VoteReply { granted } => mix(mix(hash, u64::from(*granted)), 4),
        Body::Append(append) => {
            let sizes = mix(append.prev.0.0, append.entries.len() as u64);
            mix(mix(mix(mix(hash, append.round), append.commit.0), sizes), append.session)
        }
        Body::AppendReply(reply) => {
            let outcome = match reply.outcome {
                AppendOutcome::Accepted { matched } => matched.0,
                AppendOutcome::Rejected { prev, conflict: (term, index) } => {
                    mix(mix(prev.0, index.0), term.map_or(0, |t| t.0))
                }
            };
            mix(mix(mix(hash, reply.round), outcome), 6)
        }
        Body::ReadIndex { read } => mix(mix(hash, read.0), 7),
        Body::ReadIndexReply { read, index } => {
            mix(mix(mix(hash, read.0), index.map_or(0, |i| i.0)), 8)
        }
        Body::Snapshot(chunk) => {
            mix(mix(mix(hash, chunk.offset), u64::from(chunk.crc)), chunk.transfer)
        }
        Body::SnapshotReply(reply) => {
            let outcome = match &reply.outcome {
                SnapshotOutcome::Next { offset } => *offset,
                SnapshotOutcome::Installed { index } => mix(index.0, 1),
                SnapshotOutcome::Refused { .. } => 3,
            };
            mix(mix(hash, outcome), 10)
        }
        Body::TransferNow => mix(hash, 11),
    }
}

/// What a peer says of itself, for people.
#[must_use]
pub fn describe_facts(facts: &PeerFacts) -> String {
    let PeerFacts { replica, cluster, blank, known, .. } = facts;
    let is = if *blank { "blank" } else { "not blank" };
    format!(
        "{}.{} is {is}, of cluster {cluster}, knows this number as {}",
        replica.node.0,
        replica.incarnation % 1000,
        known % 1000
    )
}

/// An effect for people: what `--trace` prints.
#[must_use]
pub fn describe(effect: &Effect) -> String {
    match effect {
        Effect::Send(message) => describe_message(message),
        Effect::Reply { origin, response, .. } => {
            format!("reply {}.{} {}", origin.conn, origin.request_id, describe_response(response))
        }
        Effect::Observed(Observed::Applied { index, term, payload, outcome }) => {
            format!("applied {}@{} {} bytes: {outcome:?}", index.0, term.0, payload.len())
        }
        Effect::Observed(Observed::Raft(trace)) => format!("raft {trace:?}"),
        other => format!("{other:?}"),
    }
}

/// A reply for people.
#[must_use]
pub fn describe_response(response: &Response) -> String {
    let mut text = format!("{response:?}");
    if text.len() > 300 {
        let cut = (0..=300).rev().find(|n| text.is_char_boundary(*n)).unwrap_or(0);
        text.truncate(cut);
        text.push('…');
    }
    text
}

/// A message for people.
#[must_use]
pub fn describe_message(message: &Message) -> String {
    let mut text = format!(
        "{}.{} => {}.{} term {}: ",
        message.from.node.0,
        message.from.incarnation % 1000,
        message.to.node.0,
        message.to.incarnation % 1000,
        message.term.0
    );
    let written = match &message.body {
        Body::Append(a) => write!(
            text,
            "append after {}@{}, {} entries, commit {}, round {}, session {}",
            a.prev.0.0,
            a.prev.1.0,
            a.entries.len(),
            a.commit.0,
            a.round,
            a.session
        ),
        Body::Snapshot(c) => write!(
            text,
            "snapshot {} offset {} + {}{}",
            c.transfer,
            c.offset,
            c.data.len(),
            c.meta.as_ref().map_or(String::new(), |m| format!(
                ", of {}@{}, {} bytes",
                m.index.0, m.term.0, m.bytes
            ))
        ),
        other => write!(text, "{other:?}"),
    };
    debug_assert!(written.is_ok());
    text
}
