//! [`PeerFrame`] -> bytes. Each payload is copied once, from where it is into the frame.

use super::{
    AppendAnswer, FLAG_BLANK, PEER_PROTOCOL_VERSION, PeerFrame, PeerHello, PeerMessage, PeerPong,
    PeerWelcome, SnapshotAnswer, WireEntry, WireSnapshotMeta,
};
use crate::base::{LogIndex, Membership, Term};
use crate::proto::body::{put_padded, put_u64s};
use crate::proto::error::cut_message;
use crate::proto::frame::{self, EncodeTooLarge};
use crate::proto::response::encode_connection_error;

// Written by `frame::begin`.
const _: () = assert!(PEER_PROTOCOL_VERSION == 1);

/// Appends the frame to `out`. The caller keeps texts, counts, and memberships within their limits (the decoder at
/// the other end checks them); only the frame's is checked here, and `out` is then as it was.
///
/// # Panics
/// When [`Membership::check`] fails: what comes from outside is checked when it arrives.
pub fn encode(frame: &PeerFrame, out: &mut Vec<u8>) -> Result<(), EncodeTooLarge> {
    let term = match frame {
        PeerFrame::Refused(error) => {
            encode_connection_error(out, 0, error);
            return Ok(());
        }
        PeerFrame::Raft(term, _) => term.0,
        _ => 0,
    };
    let open = frame::begin(out, frame.opcode(), 0, term, 0);
    match frame {
        PeerFrame::Hello(hello) => put_hello(out, hello),
        PeerFrame::Welcome(welcome) => put_welcome(out, welcome),
        PeerFrame::Begin(cluster, membership) => {
            put_u64s(out, [cluster.0]);
            out.extend_from_slice(&membership.encode());
        }
        PeerFrame::Cluster(cluster) => put_u64s(out, [cluster.0]),
        PeerFrame::Pong(PeerPong { blank, known, cluster_uid }) => {
            put_byte(out, (*blank).into());
            put_u64s(out, [*known, cluster_uid.0]);
        }
        PeerFrame::Raft(_, message) => put_message(out, message),
        PeerFrame::Ping | PeerFrame::Refused(_) => {}
    }
    open.finish(out)
}

fn put_hello(out: &mut Vec<u8>, hello: &PeerHello) {
    let flags = if hello.blank { FLAG_BLANK } else { 0 };
    let bytes = [hello.min_version, hello.max_version, hello.lane as u8, flags];
    out.extend_from_slice(&bytes);
    out.extend_from_slice(&hello.list.to_be_bytes());
    let PeerHello { features, replica, wanted, cluster_uid, .. } = hello;
    put_u64s(out, [*features, replica.node.0, replica.incarnation, wanted.0, cluster_uid.0]);
    put_texts(out, [&hello.cluster, &hello.peer_address, &hello.client_address, &hello.software]);
}

fn put_welcome(out: &mut Vec<u8>, welcome: &PeerWelcome) {
    let flags = if welcome.blank { FLAG_BLANK } else { 0 };
    out.extend_from_slice(&[welcome.version, flags, 0, 0, 0, 0, 0, 0]);
    let PeerWelcome { features, replica, known, cluster_uid, .. } = welcome;
    put_u64s(out, [*features, replica.node.0, replica.incarnation, *known, cluster_uid.0]);
    let PeerWelcome { cluster, peer_address, client_address, software, .. } = welcome;
    put_texts(out, [cluster, peer_address, client_address, software]);
}

fn put_texts(out: &mut Vec<u8>, texts: [&String; 4]) {
    for text in texts {
        out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    }
    for text in texts {
        out.extend_from_slice(text.as_bytes());
    }
}

/// A row with one byte in front.
fn put_byte(out: &mut Vec<u8>, byte: u8) {
    out.extend_from_slice(&[byte, 0, 0, 0, 0, 0, 0, 0]);
}

fn put_message(out: &mut Vec<u8>, message: &PeerMessage) {
    match message {
        PeerMessage::PreVote { last } => put_u64s(out, [last.0.0, last.1.0]),
        PeerMessage::Vote { last, transfer } => {
            put_u64s(out, [last.0.0, last.1.0]);
            put_byte(out, (*transfer).into());
        }
        PeerMessage::PreVoteReply { granted } | PeerMessage::VoteReply { granted } => {
            put_byte(out, (*granted).into());
        }
        PeerMessage::Append { session, round, prev, commit, entries } => {
            put_append(out, [*session, *round], *prev, *commit, entries);
        }
        PeerMessage::AppendReply { session, round, answer } => {
            put_u64s(out, [*session, *round]);
            match *answer {
                AppendAnswer::Accepted { matched } => {
                    put_byte(out, 1);
                    put_u64s(out, [matched.0]);
                }
                AppendAnswer::Rejected { prev, conflict: (term, index) } => {
                    put_byte(out, 2);
                    put_u64s(out, [prev.0, term.0, index.0]);
                }
            }
        }
        PeerMessage::ReadIndex { read } => put_u64s(out, [*read]),
        PeerMessage::ReadIndexReply { read, index } => {
            put_u64s(out, [*read]);
            put_byte(out, index.is_some().into());
            put_u64s(out, [index.unwrap_or_default().0]);
        }
        PeerMessage::Snapshot { session, transfer, meta, offset, data, crc } => {
            put_u64s(out, [*session, *transfer, *offset]);
            put_snapshot(out, *crc, meta.as_deref(), data);
        }
        PeerMessage::SnapshotReply { session, transfer, answer } => {
            put_u64s(out, [*session, *transfer]);
            match answer {
                SnapshotAnswer::Next { offset } => {
                    put_byte(out, 1);
                    put_u64s(out, [*offset]);
                }
                SnapshotAnswer::Installed { index } => {
                    put_byte(out, 2);
                    put_u64s(out, [index.0]);
                }
                SnapshotAnswer::Refused { reason } => {
                    put_byte(out, 3);
                    out.extend_from_slice(cut_message(reason).as_bytes());
                }
            }
        }
        PeerMessage::TransferNow => {}
    }
}

fn put_append(
    out: &mut Vec<u8>,
    [session, round]: [u64; 2],
    prev: (LogIndex, Term),
    commit: LogIndex,
    entries: &[WireEntry],
) {
    put_u64s(out, [session, round, prev.0.0, prev.1.0, commit.0]);
    out.extend_from_slice(&(entries.len() as u32).to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    for WireEntry { index, term, payload } in entries {
        put_u64s(out, [index.0, term.0]);
        out.extend_from_slice(&(payload.len() as u32).to_be_bytes());
        out.extend_from_slice(&[0; 4]);
        put_padded(out, payload, payload.len());
    }
}

fn put_snapshot(out: &mut Vec<u8>, crc: u32, meta: Option<&WireSnapshotMeta>, data: &[u8]) {
    let membership = meta.map(|meta| Membership::encode(&meta.membership.1)).unwrap_or_default();
    out.extend_from_slice(&crc.to_be_bytes());
    out.extend_from_slice(&(membership.len() as u32).to_be_bytes());
    if let Some(meta) = meta {
        put_u64s(out, [meta.index.0, meta.term.0, meta.membership.0.0, meta.bytes]);
        out.extend_from_slice(&(meta.body.len() as u32).to_be_bytes());
        out.extend_from_slice(&[0; 4]);
        put_padded(out, &membership, membership.len());
        put_padded(out, &meta.body, meta.body.len());
    }
    out.extend_from_slice(data);
}
