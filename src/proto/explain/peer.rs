//! Frames between nodes in words and as JSON.

use super::{
    Rows, batch_json, error_json, escaped, explain_batch_rows, explain_membership, membership_json,
    pad, whole_frame,
};
use crate::base::batch::BatchRef;
use crate::proto::error::ErrorCode;
use crate::proto::frame::CrcPolicy;
use crate::proto::peer::{
    self, AppendAnswer, FLAG_BLANK, HELLO_BYTES, Lane, PeerFrame, PeerHello, PeerMessage,
    PeerOpcode, PeerPong, PeerWelcome, SnapshotAnswer, WireEntry, WireSnapshotMeta,
};
use bytes::Bytes;
use serde_json::{Value, json};

/// The next row as one number, if it is there.
fn number(rows: &mut Rows<'_>, name: &str) {
    named(rows, |n| format!("{name} {n}"));
}

fn named(rows: &mut Rows<'_>, note: impl FnOnce(u64) -> String) {
    if rows.left() >= 8 {
        let n = rows.u64(0);
        rows.row(8, note(n));
    }
}

/// The next row by its first byte, if it is there.
fn answer(rows: &mut Rows<'_>, note: impl FnOnce(u8) -> &'static str) -> Option<u8> {
    let &byte = rows.bytes.get(rows.at).filter(|_| rows.left() >= 8)?;
    rows.row(8, note(byte));
    Some(byte)
}

fn yes_or_no(rows: &mut Rows<'_>, yes: &'static str, no: &'static str) {
    answer(rows, |byte| match byte {
        0 => no,
        1 => yes,
        _ => "BAD: neither 0 nor 1",
    });
}

/// Every row of the body.
pub(super) fn explain_body(rows: &mut Rows<'_>, opcode: PeerOpcode, reply: bool) {
    match opcode {
        PeerOpcode::Hello => explain_hello(rows, reply),
        PeerOpcode::PreVote => explain_last(rows),
        PeerOpcode::Vote => {
            explain_last(rows);
            yes_or_no(rows, "the leader asked for this election", "a timeout began this election");
        }
        PeerOpcode::PreVoteReply | PeerOpcode::VoteReply => yes_or_no(rows, "granted", "refused"),
        PeerOpcode::Append => explain_append(rows),
        PeerOpcode::AppendReply => {
            number(rows, "session");
            number(rows, "round");
            match answer(rows, |byte| match byte {
                1 => "accepted",
                2 => "rejected",
                _ => "BAD: neither 1 nor 2",
            }) {
                Some(1) => number(rows, "matched index"),
                _ => {
                    number(rows, "previous index");
                    named(rows, |term| match term {
                        0 => "conflict: the log ends before it".to_owned(),
                        _ => format!("conflict: an entry of term {term}"),
                    });
                    number(rows, "go on from index");
                }
            }
        }
        PeerOpcode::ReadIndex => number(rows, "read"),
        PeerOpcode::ReadIndexReply => {
            number(rows, "read");
            yes_or_no(rows, "answer when applied:", "no answer: ask somebody else");
            number(rows, "index");
        }
        PeerOpcode::Snapshot => explain_snapshot(rows),
        PeerOpcode::SnapshotReply => {
            number(rows, "session");
            number(rows, "transfer");
            match answer(rows, |byte| match byte {
                1 => "go on from offset:",
                2 => "installed up to index:",
                3 => "refused",
                _ => "BAD: not 1 to 3",
            }) {
                Some(1) => number(rows, "offset"),
                Some(2) => number(rows, "index"),
                _ => {
                    let rest = rows.left();
                    rows.data(rest, "reason");
                }
            }
        }
        PeerOpcode::Ping if reply => {
            yes_or_no(rows, "blank", "not blank");
            named(rows, known_as);
            named(rows, of_cluster);
        }
        PeerOpcode::Cluster => named(rows, of_cluster),
        PeerOpcode::Begin => {
            named(rows, of_cluster);
            let rest = rows.left();
            explain_membership(rows, rest);
        }
        PeerOpcode::TransferNow | PeerOpcode::Ping => {}
    }
}

/// As whom the one who answers knows the one who dialed.
fn known_as(incarnation: u64) -> String {
    match incarnation {
        0 => "you are no member here".to_owned(),
        n => format!("a member here as incarnation {n:016x}"),
    }
}

fn of_cluster(uid: u64) -> String {
    match uid {
        0 => "of no cluster yet".to_owned(),
        uid => format!("cluster uid {uid:016x}"),
    }
}

fn explain_last(rows: &mut Rows<'_>) {
    number(rows, "last index");
    number(rows, "last term");
}

fn explain_hello(rows: &mut Rows<'_>, reply: bool) {
    if rows.left() < HELLO_BYTES {
        return;
    }
    let bytes = &rows.bytes[rows.at..];
    let blank = |flags: u8| if flags & FLAG_BLANK == 0 { "not blank" } else { "blank" };
    let first = if reply {
        format!("version {}, {}", bytes[0], blank(bytes[1]))
    } else {
        let lane = Lane::from_u8(bytes[2]).map_or("BAD", Lane::name);
        let shown = format!("versions {} to {}, lane {lane}", bytes[0], bytes[1]);
        match rows.u32(4) {
            0 => format!("{shown}, {}", blank(bytes[3])),
            list => format!("{shown}, {}, list {list:08x}", blank(bytes[3])),
        }
    };
    rows.row(8, first);
    named(rows, |features| format!("features {features:016x}"));
    number(rows, "node");
    named(rows, |incarnation| format!("incarnation {incarnation:016x}"));
    named(rows, |n| match (reply, n) {
        (true, n) => known_as(n),
        (false, 0) => "wants whoever is there".to_owned(),
        (false, n) => format!("wants node {n}"),
    });
    named(rows, of_cluster);
    let lens = [0, 2, 4, 6].map(|at| usize::from(rows.u16(at)));
    let names = ["cluster", "peer address", "client address", "software"];
    let shown: Vec<String> =
        names.iter().zip(lens).map(|(name, len)| format!("{name} {len}")).collect();
    rows.row(8, format!("lengths: {}", shown.join(", ")));
    for (name, len) in names.iter().zip(lens) {
        rows.data(len, name);
    }
}

fn explain_append(rows: &mut Rows<'_>) {
    for name in ["session", "round", "previous index", "previous term", "commit index"] {
        number(rows, name);
    }
    if rows.left() < 8 {
        return;
    }
    let count = rows.u32(0);
    rows.row(8, format!("{count} entries"));
    for i in 1..=count {
        if rows.left() < 24 {
            return;
        }
        named(rows, |index| format!("entry {i}: index {index}"));
        named(rows, |term| format!("entry {i}: term {term}"));
        let len = rows.u32(0) as usize;
        rows.row(8, format!("entry {i}: payload of {len} bytes"));
        // Only this payload's bytes, so that a bad batch does not run into the next entry.
        let end = rows.at.saturating_add(len).min(rows.bytes.len());
        let whole = rows.bytes;
        rows.bytes = &whole[..end];
        explain_batch_rows(rows);
        let rest = rows.left();
        rows.data(rest, "payload");
        rows.bytes = whole;
        pad(rows, len);
    }
}

fn explain_snapshot(rows: &mut Rows<'_>) {
    for name in ["session", "transfer", "offset"] {
        number(rows, name);
    }
    if rows.left() < 8 {
        return;
    }
    let (crc, membership) = (rows.u32(0), rows.u32(4) as usize);
    if membership == 0 {
        rows.row(8, format!("CRC32C of the data {crc:08x}, no description"));
    } else {
        rows.row(8, format!("CRC32C of the data {crc:08x}, membership of {membership} bytes"));
        for name in ["snapshot of index", "snapshot of term", "membership of index", "stream bytes"]
        {
            number(rows, name);
        }
        if rows.left() < 8 {
            return;
        }
        let body = rows.u32(0) as usize;
        rows.row(8, format!("description of {body} bytes"));
        explain_membership(rows, membership);
        pad(rows, membership);
        rows.data(body, "description");
        pad(rows, body);
    }
    let rest = rows.left();
    rows.data(rest, "data");
}

/// A frame between nodes as JSON: header fields and `peer`, what it says. Judges it as the peer port does. An error is the
/// code's name and the message.
pub fn peer_frame_json(bytes: &[u8]) -> Result<Value, (ErrorCode, String)> {
    let (header, _) = whole_frame(bytes, CrcPolicy::Required)?;
    let frame = peer::decode(Bytes::copy_from_slice(bytes))
        .map_err(|error| (error.code(), error.to_string()))?;
    let mut out = json!({
        "length": header.length, "version": header.version, "opcode": header.opcode,
        "peer": frame_json(&frame),
    });
    if let PeerFrame::Raft(term, _) = frame {
        out["term"] = term.0.into();
    }
    Ok(out)
}

fn frame_json(frame: &PeerFrame) -> Value {
    match frame {
        PeerFrame::Hello(hello) => hello_json(hello),
        PeerFrame::Welcome(welcome) => welcome_json(welcome),
        PeerFrame::Refused(error) => error_json(error),
        PeerFrame::Ping => json!({"kind": "PING"}),
        PeerFrame::Pong(PeerPong { blank, known, cluster_uid }) => json!({
            "kind": "PONG", "blank": blank, "known": format!("{known:016x}"),
            "cluster_uid": cluster_uid.to_string(),
        }),
        PeerFrame::Begin(cluster, membership) => json!({
            "kind": "BEGIN", "cluster_uid": cluster.to_string(),
            "members": membership_json(membership),
        }),
        PeerFrame::Cluster(cluster) => {
            json!({"kind": "CLUSTER", "cluster_uid": cluster.to_string()})
        }
        PeerFrame::Raft(_, message) => {
            let mut out = message_json(message);
            out["kind"] = message.opcode().name().into();
            out
        }
    }
}

fn hello_json(h: &PeerHello) -> Value {
    json!({
        "kind": "HELLO", "min_version": h.min_version, "max_version": h.max_version,
        "lane": h.lane.name(), "features": h.features, "node": h.replica.node.0,
        "incarnation": format!("{:016x}", h.replica.incarnation), "wanted": h.wanted.0,
        "blank": h.blank, "list": h.list, "cluster_uid": h.cluster_uid.to_string(),
        "cluster": h.cluster, "peer_address": h.peer_address,
        "client_address": h.client_address, "software": h.software,
    })
}

fn welcome_json(w: &PeerWelcome) -> Value {
    json!({
        "kind": "WELCOME", "version": w.version, "features": w.features,
        "node": w.replica.node.0, "incarnation": format!("{:016x}", w.replica.incarnation),
        "known": format!("{:016x}", w.known), "blank": w.blank,
        "cluster_uid": w.cluster_uid.to_string(), "cluster": w.cluster,
        "peer_address": w.peer_address, "client_address": w.client_address, "software": w.software,
    })
}

fn message_json(message: &PeerMessage) -> Value {
    match message {
        PeerMessage::PreVote { last } => {
            json!({"last_index": last.0.0, "last_term": last.1.0})
        }
        PeerMessage::Vote { last, transfer } => {
            json!({"last_index": last.0.0, "last_term": last.1.0, "by_transfer": transfer})
        }
        PeerMessage::PreVoteReply { granted } | PeerMessage::VoteReply { granted } => {
            json!({"granted": granted})
        }
        PeerMessage::Append { session, round, prev, commit, entries } => json!({
            "session": session, "round": round, "prev_index": prev.0.0, "prev_term": prev.1.0,
            "commit": commit.0, "entries": entries.iter().map(entry_json).collect::<Value>(),
        }),
        PeerMessage::AppendReply { session, round, answer } => match answer {
            AppendAnswer::Accepted { matched } => {
                json!({"session": session, "round": round, "matched": matched.0})
            }
            AppendAnswer::Rejected { prev, conflict: (term, index) } => json!({
                "session": session, "round": round, "prev_index": prev.0,
                "conflict_term": term.0, "conflict_index": index.0,
            }),
        },
        PeerMessage::ReadIndex { read } => json!({"read": read}),
        PeerMessage::ReadIndexReply { read, index } => {
            json!({"read": read, "index": index.map(|index| index.0)})
        }
        PeerMessage::Snapshot { session, transfer, meta, offset, data, crc } => json!({
            "session": session, "transfer": transfer, "offset": offset, "data": escaped(data),
            "data_crc": crc, "description": meta.as_deref().map(meta_json),
        }),
        PeerMessage::SnapshotReply { session, transfer, answer } => {
            let mut out = json!({"session": session, "transfer": transfer});
            match answer {
                SnapshotAnswer::Next { offset } => out["next_offset"] = (*offset).into(),
                SnapshotAnswer::Installed { index } => out["installed_index"] = index.0.into(),
                SnapshotAnswer::Refused { reason } => out["refused"] = reason.as_str().into(),
            }
            out
        }
        PeerMessage::TransferNow => json!({}),
    }
}

fn meta_json(meta: &WireSnapshotMeta) -> Value {
    json!({
        "index": meta.index.0, "term": meta.term.0, "membership_index": meta.membership.0.0,
        "members": membership_json(&meta.membership.1), "stream_bytes": meta.bytes,
        "body": escaped(&meta.body),
    })
}

/// The protocol does not look into payloads: one that is no batch is shown as it is.
fn entry_json(entry: &WireEntry) -> Value {
    let mut out = json!({"index": entry.index.0, "term": entry.term.0});
    match BatchRef::parse(&entry.payload) {
        Ok(batch) => out["batch"] = batch_json(&batch),
        Err(_) => out["payload"] = escaped(&entry.payload).into(),
    }
    out
}
