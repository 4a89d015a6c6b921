//! How messages, effects, and states read in a script: `4@2` is the entry (or the end of a log) at index 4 of term 2.

use super::cluster::Replica;
use super::disk::{Contents, membership_in};
use crate::base::batch::WriteBatch;
use crate::base::{LogIndex, MemberRole, Membership, NodeId, Term};
use crate::raft::message::{Append, AppendOutcome, Body, Message, SnapshotOutcome};
use crate::raft::{Effect, Entry, Persist, ProposeError, Role};
use std::fmt::Write;

fn at((index, term): (LogIndex, Term)) -> String {
    format!("{index}@{term}")
}

fn yes(granted: bool) -> &'static str {
    if granted { "yes" } else { "no" }
}

/// `1 2 3 learner 4`.
pub fn members(membership: &Membership) -> String {
    let one = |m: &crate::base::Member| match m.role {
        MemberRole::Voter => m.replica.to_string(),
        MemberRole::Learner => format!("learner {}", m.replica),
    };
    let all: Vec<String> = membership.members().map(one).collect();
    if all.is_empty() { "nobody".into() } else { all.join(" ") }
}

/// `4@2 foo`.
pub fn entry(entry: &Entry) -> String {
    let place = at((entry.index, entry.term));
    if let Some(membership) = membership_in(entry) {
        format!("{place} members {}", members(&membership))
    } else if entry.payload == WriteBatch::no_op().into_bytes() {
        format!("{place} no-op")
    } else if entry.payload == format!("t{}", entry.term) {
        place
    } else {
        format!("{place} {}", String::from_utf8_lossy(&entry.payload))
    }
}

fn entries(all: &[Entry]) -> String {
    let all: Vec<String> = all.iter().map(entry).collect();
    all.join(", ")
}

/// The kind of a message.
pub fn body_name(body: &Body) -> &'static str {
    match body {
        Body::PreVote { .. } => "pre-vote",
        Body::PreVoteReply { .. } => "pre-vote-reply",
        Body::Vote { .. } => "vote",
        Body::VoteReply { .. } => "vote-reply",
        Body::Append(append) if append.entries.is_empty() => "heartbeat",
        Body::Append(_) => "append",
        Body::AppendReply(_) => "append-reply",
        Body::ReadIndex { .. } => "read-index",
        Body::ReadIndexReply { .. } => "read-index-reply",
        Body::Snapshot(_) => "snapshot",
        Body::SnapshotReply(_) => "snapshot-reply",
        Body::TransferNow => "transfer-now",
    }
}

/// Raft numbers its sessions by (term × 2^20) plus a count.
fn session(session: u64) -> String {
    format!("session {}.{}", session >> 20, session & 0xf_ffff)
}

fn append(append: &Append) -> String {
    let Append { session: of, round, prev, entries: all, commit } = append;
    let what = if all.is_empty() { String::new() } else { format!(" [{}]", entries(all)) };
    format!("prev {}{what} commit {commit} ({}, round {round})", at(*prev), session(*of))
}

fn outcome(outcome: AppendOutcome) -> String {
    match outcome {
        AppendOutcome::Accepted { matched } => format!("matched {matched}"),
        AppendOutcome::Rejected { prev, conflict: (Some(term), first) } => {
            format!("rejected {prev}, its term {term} there begins at {first}")
        }
        AppendOutcome::Rejected { prev, conflict: (None, first) } => {
            format!("rejected {prev}, go on at {first}")
        }
    }
}

fn snapshot_outcome(outcome: &SnapshotOutcome) -> String {
    match outcome {
        SnapshotOutcome::Next { offset } => format!("next byte {offset}"),
        SnapshotOutcome::Installed { index } => format!("installed {index}"),
        SnapshotOutcome::Refused { reason } => format!("refused: {reason}"),
    }
}

/// `1 → 2 vote term 2: log ends at 3@1`.
pub fn message(message: &Message) -> String {
    let Message { from, to, term, body } = message;
    let what = match body {
        Body::PreVote { last } => format!("log ends at {}", at(*last)),
        Body::Vote { last, transfer } => {
            let why = if *transfer { ", by transfer" } else { "" };
            format!("log ends at {}{why}", at(*last))
        }
        Body::PreVoteReply { granted } | Body::VoteReply { granted } => yes(*granted).into(),
        Body::Append(a) => append(a),
        Body::AppendReply(r) => {
            format!("{} ({}, round {})", outcome(r.outcome), session(r.session), r.round)
        }
        Body::ReadIndex { .. } => String::new(),
        Body::ReadIndexReply { index: Some(index), .. } => format!("at {index}"),
        Body::ReadIndexReply { index: None, .. } => "refused".into(),
        Body::Snapshot(chunk) => {
            let meta = chunk.meta.as_ref().map(|m| {
                format!(" of {}, members {}", at((m.index, m.term)), members(&m.membership.1))
            });
            let meta = meta.unwrap_or_default();
            format!("byte {}{meta} ({})", chunk.offset, session(chunk.session))
        }
        Body::SnapshotReply(r) => {
            format!("{} ({})", snapshot_outcome(&r.outcome), session(r.session))
        }
        Body::TransferNow => String::new(),
    };
    let colon = if what.is_empty() { "" } else { ": " };
    format!("{from} → {to} {} term {term}{colon}{what}", body_name(body))
}

fn persist(persist: &Persist) -> String {
    let mut parts = Vec::new();
    if let Some(hard_state) = persist.hard_state {
        let vote = hard_state.vote.map_or("no vote".into(), |v| format!("vote for {v}"));
        parts.push(format!("term {} {vote}", hard_state.term));
    }
    parts.extend(persist.truncate_from.map(|from| format!("cut from {from}")));
    if !persist.entries.is_empty() {
        parts.push(entries(&persist.entries));
    }
    format!("{}: {}", persist.io, parts.join("; "))
}

/// What a replica does; nothing for a trace.
pub fn effect(node: NodeId, effect: &Effect) -> Option<String> {
    let what = match effect {
        Effect::Persist(p) => format!("writes {}", persist(p)),
        Effect::Send { message: m, after } => {
            let after = after.map_or(String::new(), |io| format!(" (after {io})"));
            return Some(format!("{}{after}", message(m)));
        }
        Effect::Proposed { first, term } => format!("takes it at {}", at((*first, *term))),
        Effect::ProposeRefused(ProposeError::NotLeader { leader: Some(leader) }) => {
            format!("refuses: this node does not lead, {leader} does")
        }
        Effect::ProposeRefused(why) => format!("refuses: {why}"),
        Effect::TransferStarted { to } => format!("hands leadership over to {to}"),
        Effect::Apply { through } => format!("applies up to {through}"),
        Effect::ReadReady { read, index } => format!("answers read {} at {index}", read.0),
        Effect::ReadRefused { read } => format!("refuses read {}", read.0),
        Effect::RoleChange { role, term, leader } => {
            let whose = match (role, leader) {
                (Role::Follower, Some(leader)) => format!(", {leader} leads"),
                _ => String::new(),
            };
            format!("is {} in term {term}{whose}", role.name())
        }
        Effect::Fetch { to, lo, hi, .. } => format!("reads {lo}..{hi} back for {to}"),
        Effect::SnapshotNeeded { to, session: of } => {
            format!("must send {to} a snapshot ({})", session(*of))
        }
        Effect::Fatal { reason } => format!("stops: {reason}"),
        Effect::SnapshotOver { to } => format!("is done with the snapshot for {to}"),
        Effect::SnapshotAck { .. } | Effect::SnapshotChunk { .. } | Effect::Trace(_) => {
            return None;
        }
    };
    Some(format!("{node} {what}"))
}

/// `1: leader in term 2, commit 3, applied 3, log 1..4@2, members 1 2 3`.
pub fn status(replica: &Replica) -> String {
    let node = replica.id.node;
    let Some(raft) = &replica.raft else { return format!("{node}: down") };
    let mut line = format!("{node}: {} in term {}", raft.role().name(), raft.term());
    let leader = raft.leader().filter(|l| *l != replica.id);
    let known = leader.map_or(String::new(), |l| format!(", {l} leads"));
    let unsynced = replica.log.pending().len();
    let unsynced = if unsynced == 0 { String::new() } else { format!(", {unsynced} unsynced") };
    write!(line, "{known}, commit {}, log ends at {}", raft.commit(), at(replica.log.view.last()))
        .expect("a string");
    write!(line, "{unsynced}, members {}", members(raft.membership())).expect("a string");
    line
}

/// The log on one line; `|` stands after the last durable entry when there are others.
pub fn log(replica: &Replica) -> String {
    let view = &replica.log.view;
    let Contents { hard_state, .. } = replica.log.durable;
    let mut parts: Vec<String> = Vec::new();
    if view.baseline.0 > LogIndex::ZERO {
        parts.push(format!("…{}", at(view.baseline)));
    }
    parts.extend(view.entries.iter().map(|e| {
        let durable = replica.log.durable.entry(e.index).is_some_and(|d| d.term == e.term);
        format!("{}{}", entry(e), if durable { "" } else { " (unsynced)" })
    }));
    let vote = hard_state.vote.map_or(String::new(), |v| format!(" vote {v}"));
    format!("{}: [term {}{vote}] {}", replica.id.node, hard_state.term, parts.join(", "))
        .trim_end()
        .to_owned()
}

/// What a leader knows of each follower.
pub fn progress(replica: &Replica) -> Vec<String> {
    let status = replica.raft().status();
    status.followers.iter().map(|f| format!("{}: {f}", replica.id.node)).collect()
}
