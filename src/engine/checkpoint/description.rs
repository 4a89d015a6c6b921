//! [`Description`]: `DIR/CHECKPOINT`, what a checkpoint is of. A small text file, readable with `cat`;
//! `proto-spec/checkpoint.md` is the home of the layout.
//!
//! ```text
//! beachdb-checkpoint 1
//! created-by beachdb 0.1.0
//! applied 1234 5                       log index and term of the last entry in it
//! last-seq 5678
//! oldest-readable-seq 5000
//! tables 12 34567890                   how many, and their bytes
//! cluster-id NAME                      from here to the members: only of a node, not of an embedded database
//! cluster-uid 0123456789abcdef
//! node 1 9f3c62a1d04e77b8              number and incarnation
//! members-at 3                         the entry that made them members
//! member 1 9f3c62a1d04e77b8 voter 10.0.0.1:7401 10.0.0.1:7400
//! crc32c 5d1e0f2a
//! ```
//!
//! Invariants: one spelling for each description, so that what decodes encodes to the same bytes; the last line is the CRC32C
//! of all bytes before it; decoding never panics and reads no more than [`MAX_CHECKPOINT_FILE_BYTES`].

use super::CheckpointError;
use crate::base::{
    ClusterUid, LogIndex, Member, MemberRole, Membership, NodeId, ReplicaId, SequenceNumber, Term,
    checksum,
};
use crate::engine::edit::State;
use crate::env::{Disk, OpenMode};
use crate::limits::MAX_CHECKPOINT_FILE_BYTES;
use std::fmt::Write as _;
use std::path::Path;

/// The file's name.
pub const DESCRIPTION_NAME: &str = "CHECKPOINT";
const MAGIC: &str = "beachdb-checkpoint";
const VERSION: u32 = 1;
/// An address that is not known.
const NO_ADDRESS: &str = "-";

/// The node that made it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Origin {
    /// Its cluster's name.
    pub cluster_id: String,
    /// Its cluster's uid; none if that was formed before clusters had one.
    pub cluster: ClusterUid,
    /// Which life of which node it was.
    pub replica: ReplicaId,
    /// The members of its cluster at the checkpoint's entry, and the entry that set them.
    pub members: (LogIndex, Membership),
}

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Description {
    /// The program that made it.
    pub created_by: String,
    /// The last log entry in it; of an embedded database the last batch, in term 0.
    pub applied: (LogIndex, Term),
    /// The last sequence number in it.
    pub last_seq: SequenceNumber,
    /// The oldest sequence number that can be read from it.
    pub oldest_readable: SequenceNumber,
    /// How many tables it has.
    pub tables: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The node that made it; `None` when it is of an embedded database.
    pub origin: Option<Origin>,
}

impl Description {
    /// Of this state.
    #[must_use]
    pub fn of(state: &State, origin: Option<Origin>) -> Self {
        Self {
            created_by: format!("beachdb {}", crate::VERSION),
            applied: state.applied,
            last_seq: state.last_seq,
            oldest_readable: state.oldest_readable,
            tables: state.tables.len() as u64,
            bytes: state.tables.values().map(|table| table.bytes).sum(),
            origin,
        }
    }

    /// The file's text.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = self.content();
        let crc = checksum::crc32c(text.as_bytes());
        writeln!(text, "crc32c {crc:08x}").expect("writing to a string");
        text
    }

    fn content(&self) -> String {
        let Self { created_by, applied: (index, term), last_seq, oldest_readable, .. } = self;
        let (tables, bytes) = (self.tables, self.bytes);
        let mut text = format!(
            "{MAGIC} {VERSION}\ncreated-by {created_by}\napplied {index} {term}\nlast-seq {last_seq}\n\
             oldest-readable-seq {oldest_readable}\ntables {tables} {bytes}\n"
        );
        if let Some(Origin { cluster_id, cluster, replica, members: (at, members) }) = &self.origin
        {
            let ReplicaId { node, incarnation } = replica;
            write!(
                text,
                "cluster-id {cluster_id}\ncluster-uid {cluster}\nnode {node} {incarnation:016x}\nmembers-at {at}\n"
            )
            .expect("writing to a string");
            for Member { replica, role, peer_address, client_address } in members.members() {
                let ReplicaId { node, incarnation } = replica;
                let known = |address: &str| match address {
                    "" => NO_ADDRESS.to_owned(),
                    address => address.to_owned(),
                };
                let (peer, client) = (known(peer_address), known(client_address));
                let role = role.name();
                writeln!(text, "member {node} {incarnation:016x} {role} {peer} {client}")
                    .expect("writing to a string");
            }
        }
        text
    }

    /// Reads the text back; all of `bytes` must be one. `path` is for the messages.
    pub fn decode(path: &Path, bytes: &[u8]) -> Result<Self, CheckpointError> {
        let corrupt = |offset: usize, expected: &str, found: &str| CheckpointError::Corrupt {
            path: path.to_path_buf(),
            offset: offset as u64,
            expected: expected.to_owned(),
            found: found.chars().take(64).collect::<String>().escape_debug().to_string(),
        };
        let text = std::str::from_utf8(bytes)
            .map_err(|e| corrupt(e.valid_up_to(), "text", "bytes that are no UTF-8"))?;
        let mut lines = Lines { text, offset: 0 };
        let bad = |lines: &Lines<'_>, expected: &str| {
            corrupt(lines.offset, expected, lines.rest().lines().next().unwrap_or_default())
        };
        let version = lines.field(MAGIC).ok_or_else(|| bad(&lines, "beachdb-checkpoint 1"))?;
        match version.parse::<u32>() {
            Ok(VERSION) => {}
            Ok(found) if found > VERSION => {
                return Err(CheckpointError::NewerVersion { path: path.to_path_buf(), found });
            }
            _ => return Err(corrupt(MAGIC.len() + 1, "version 1", version)),
        }
        let end = text.trim_end_matches('\n').rfind('\n').map_or(0, |at| at + 1);
        let expected = format!("crc32c {:08x}\n", checksum::crc32c(&bytes[..end]));
        if text[end..] != expected {
            return Err(corrupt(end, expected.trim_end(), text[end..].trim_end()));
        }
        let found = Self::decode_lines(&mut lines)
            .ok_or_else(|| bad(&lines, "the next line of a checkpoint's description"))?;
        // One spelling: whatever else is there was not written by this format.
        let good = found.encode();
        if good != text {
            let at = good.bytes().zip(text.bytes()).take_while(|(a, b)| a == b).count();
            let at = (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            return Err(corrupt(at, "its one spelling", &text[at..]));
        }
        Ok(found)
    }

    fn decode_lines(lines: &mut Lines<'_>) -> Option<Self> {
        let created_by = lines.field("created-by")?.to_owned();
        let (index, term) = lines.field("applied")?.split_once(' ')?;
        let applied = (LogIndex(index.parse().ok()?), Term(term.parse().ok()?));
        let last_seq = SequenceNumber(lines.field("last-seq")?.parse().ok()?);
        let oldest_readable = SequenceNumber(lines.field("oldest-readable-seq")?.parse().ok()?);
        let (tables, bytes) = lines.field("tables")?.split_once(' ')?;
        let (tables, bytes) = (tables.parse().ok()?, bytes.parse().ok()?);
        let origin = match lines.field("cluster-id") {
            None => None,
            Some(cluster_id) => {
                let cluster = u64::from_str_radix(lines.field("cluster-uid")?, 16).ok()?;
                let replica = replica(&mut lines.field("node")?.split(' '))?;
                let at = LogIndex(lines.field("members-at")?.parse().ok()?);
                let mut members = Membership::new();
                while let Some(line) = lines.field("member") {
                    members.insert(member(line)?);
                }
                members.check().ok()?;
                Some(Origin {
                    cluster_id: cluster_id.to_owned(),
                    cluster: ClusterUid(cluster),
                    replica,
                    members: (at, members),
                })
            }
        };
        lines.field("crc32c").filter(|_| lines.rest().is_empty())?;
        Some(Self { created_by, applied, last_seq, oldest_readable, tables, bytes, origin })
    }

    /// Reads the file in `dir`.
    pub fn read(disk: &dyn Disk, dir: &Path) -> Result<Self, CheckpointError> {
        let path = dir.join(DESCRIPTION_NAME);
        if !disk.exists(&path)? {
            return Err(CheckpointError::NotACheckpoint { dir: dir.to_path_buf() });
        }
        let file = disk.open(&path, OpenMode::Read)?;
        let len = file.len()?;
        if len > MAX_CHECKPOINT_FILE_BYTES {
            return Err(CheckpointError::Corrupt {
                path,
                offset: 0,
                expected: format!("at most {MAX_CHECKPOINT_FILE_BYTES} bytes"),
                found: format!("{len} bytes"),
            });
        }
        let mut bytes = vec![0; len as usize];
        file.read_exact_at(0, &mut bytes)?;
        Self::decode(&path, &bytes)
    }
}

fn replica<'a>(words: &mut impl Iterator<Item = &'a str>) -> Option<ReplicaId> {
    let node = NodeId(words.next()?.parse().ok()?);
    let incarnation = u64::from_str_radix(words.next()?, 16).ok()?;
    Some(ReplicaId { node, incarnation })
}

fn member(line: &str) -> Option<Member> {
    let mut words = line.split(' ');
    let replica = replica(&mut words)?;
    let role = words.next()?;
    let role = [MemberRole::Voter, MemberRole::Learner].into_iter().find(|r| r.name() == role)?;
    let mut address =
        || words.next().map(|word| if word == NO_ADDRESS { "" } else { word }.to_owned());
    let (peer_address, client_address) = (address()?, address()?);
    Some(Member { replica, role, peer_address, client_address })
}

/// Takes `name value` lines from the front.
struct Lines<'a> {
    text: &'a str,
    offset: usize,
}

impl<'a> Lines<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.offset..]
    }

    /// The value of the next line, if it has this name.
    fn field(&mut self, name: &str) -> Option<&'a str> {
        let (line, _) = self.rest().split_once('\n')?;
        let value = line.strip_prefix(name)?.strip_prefix(' ')?;
        self.offset += line.len() + 1;
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description(origin: bool) -> Description {
        let replica = ReplicaId { node: NodeId(1), incarnation: 0x9f3c_62a1_d04e_77b8 };
        let mut members = Membership::of_voters([replica]);
        members.insert(Member {
            replica: ReplicaId { node: NodeId(2), incarnation: 7 },
            role: MemberRole::Learner,
            peer_address: "10.0.0.2:7401".into(),
            client_address: "10.0.0.2:7400".into(),
        });
        let members = (LogIndex(3), members);
        let cluster = ClusterUid(0x0123_4567_89ab_cdef);
        Description {
            created_by: "beachdb 0.1.0".into(),
            applied: (LogIndex(1234), Term(5)),
            last_seq: SequenceNumber(5678),
            oldest_readable: SequenceNumber(5000),
            tables: 12,
            bytes: 34_567_890,
            origin: origin.then(|| Origin {
                cluster_id: "beach".into(),
                cluster,
                replica,
                members,
            }),
        }
    }

    #[test]
    fn the_text_is_what_the_spec_shows_and_round_trips() {
        let spec = include_str!("../../../proto-spec/checkpoint.md");
        for origin in [true, false] {
            let text = description(origin).encode();
            assert!(spec.contains(&text), "proto-spec/checkpoint.md lacks\n{text}");
            let back = Description::decode(Path::new("D/CHECKPOINT"), text.as_bytes()).unwrap();
            assert_eq!(back, description(origin));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_refused() {
        for origin in [true, false] {
            let good = description(origin).encode().into_bytes();
            for at in 0..good.len() {
                Description::decode(Path::new("C"), &good[..at]).unwrap_err();
                for bit in 0..8 {
                    let mut bytes = good.clone();
                    bytes[at] ^= 1 << bit;
                    Description::decode(Path::new("C"), &bytes).unwrap_err();
                }
            }
            let more = [&good[..], b"\n"].concat();
            Description::decode(Path::new("C"), &more).unwrap_err();
        }
    }

    #[test]
    fn a_valid_checksum_makes_no_other_spelling_valid() {
        let resealed = |from: &str, to: &str| {
            let text = description(true).content().replace(from, to);
            let crc = checksum::crc32c(text.as_bytes());
            let text = format!("{text}crc32c {crc:08x}\n");
            Description::decode(Path::new("C"), text.as_bytes()).unwrap_err().to_string()
        };
        for (from, to) in [
            ("applied 1234", "applied 01234"),
            ("cdef", "CDEF"),
            ("tables 12 ", "tables  12 "),
            ("learner", "observer"),
            ("members-at 3\n", "members-at 3\nmembers-at 3\n"),
            ("node 1", "node"),
        ] {
            assert!(resealed(from, to).contains("corrupt at offset"), "{from} {to}");
        }
        assert!(resealed("checkpoint 1", "checkpoint 2").contains("version 2"));
    }
}
