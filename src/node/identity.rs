//! `DATA/IDENTITY`: whose data this is. A small text file, readable with `cat`:
//!
//! ```text
//! beachdb-identity 1
//! cluster-id NAME
//! node-id 1
//! incarnation 9f3c62a1d04e77b8
//! joining yes                          only in the directory of a node that was told to join a cluster
//! moving damaged-0000000000000007      only while `beachd rejoin` is under way
//! recovering 0000000000000007          only while `beachd recover` is under way: the incarnation before
//! restoring yes                        only while `beachd restore` is under way
//! crc32c 5d1e0f2a
//! ```
//!
//! The last line is the CRC32C of all bytes before it. The incarnation is a random number drawn when the directory
//! is created: a node whose disk was wiped comes back with another one and is never taken for the old voter.
//!
//! Invariants: the file is written before anything else in the directory, whole (temporary name, sync, rename, sync
//! of the directory), and never changed afterwards but by [`rejoin`](super::rejoin()), [`restore`](super::restore()), and
//! [`Recovery`](super::Recovery). A
//! directory with data but without it is refused.

use crate::base::{NodeId, ReplicaId, checksum};
use crate::env::{Disk, IoError, OpenMode};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

const MAGIC: &str = "beachdb-identity";
const VERSION: u32 = 1;
pub(super) const NAME: &str = "IDENTITY";
pub(super) const TEMP_NAME: &str = "IDENTITY.tmp";
/// Longest file that is read.
const MAX_BYTES: u64 = 4 << 10;
/// Longest cluster id.
pub const MAX_CLUSTER_ID_BYTES: usize = 255;

/// What a cluster id must be, for messages.
pub const CLUSTER_ID_RULE: &str = "must be 1 to 255 printable ASCII characters without spaces";

/// Whether a cluster can have this name.
#[must_use]
pub fn is_cluster_id(id: &str) -> bool {
    let id = id.as_bytes();
    !id.is_empty() && id.len() <= MAX_CLUSTER_ID_BYTES && id.iter().all(u8::is_ascii_graphic)
}

/// Who this node is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The cluster's name: 1 to [`MAX_CLUSTER_ID_BYTES`] printable ASCII characters without spaces.
    pub cluster_id: String,
    /// The node's number in the cluster, not 0.
    pub node_id: NodeId,
    /// Which life of the node this is: changes when its disk is wiped.
    pub incarnation: u64,
    /// Whether it was told to join a cluster that exists: it never begins one of its own.
    pub joining: bool,
}

/// Why a data directory is not ours to open.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The operating system failed.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The settings do not name a possible identity.
    #[error("{what}: {problem}")]
    BadSetting {
        /// The setting.
        what: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The file is not an identity file, or damaged.
    #[error(
        "{}: byte {offset}: expected {expected}, found {found}; restore the file from a backup of this directory, \
         or move the directory away to start an empty node", path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where in it.
        offset: usize,
        /// What should be there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A newer beachd wrote it.
    #[error(
        "{}: format version {found}, this beachd reads version {VERSION}: open this directory with the newer beachd \
         that wrote it", path.display()
    )]
    NewerVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// It is the data of another node or cluster.
    #[error(
        "{}: this directory belongs to {what} {found}, but beachd was started as {what} {expected}: \
         correct --{what} or --data-dir", path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// `cluster-id` or `node-id`.
        what: &'static str,
        /// What the settings say.
        expected: String,
        /// What the file says.
        found: String,
    },
    /// `beachd rejoin` did not get to its end.
    #[error(
        "{}: beachd rejoin was interrupted while it moved the old data to {to}; run it again: beachd rejoin --data-dir {}",
        path.display(), path.parent().unwrap_or(path).display()
    )]
    Unfinished {
        /// The file.
        path: PathBuf,
        /// Where the old data goes.
        to: String,
    },
    /// `beachd recover` did not get to its end.
    #[error(
        "{}: beachd recover was interrupted before its new cluster began; run it again: beachd recover --data-dir {} \
         --force-new-cluster",
        path.display(), path.parent().unwrap_or(path).display()
    )]
    Unrecovered {
        /// The file.
        path: PathBuf,
    },
    /// `beachd restore` did not get to its end.
    #[error(
        "{}: beachd restore was interrupted before all data was in this directory; run it again: beachd restore --data-dir {} \
         --from … --cluster-id …",
        path.display(), path.parent().unwrap_or(path).display()
    )]
    Unrestored {
        /// The file.
        path: PathBuf,
    },
    /// There is data, but no file that says whose.
    #[error(
        "{}: the directory has data ({entry}) but no IDENTITY file: it is not a BeachDB data directory, or the file \
         was removed; restore it, or choose an empty directory", path.display()
    )]
    Missing {
        /// The directory.
        path: PathBuf,
        /// Something that is in it.
        entry: String,
    },
}

/// The file's content: who it is, and what is under way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct IdentityFile {
    pub identity: Identity,
    /// Where an unfinished [`rejoin`](super::rejoin()) moves the old data.
    pub moving: Option<String>,
    /// The incarnation before an unfinished [`Recovery`](super::Recovery).
    pub recovering: Option<u64>,
    /// A [`restore`](super::restore()) is not at its end.
    pub restoring: bool,
}

impl Identity {
    /// What votes and is counted.
    #[must_use]
    pub const fn replica(&self) -> ReplicaId {
        ReplicaId { node: self.node_id, incarnation: self.incarnation }
    }

    pub(super) fn check_settings(&self) -> Result<(), IdentityError> {
        let bad = |what, problem: &str| {
            Err(IdentityError::BadSetting { what, problem: problem.to_owned() })
        };
        if !is_cluster_id(&self.cluster_id) {
            return bad("cluster-id", CLUSTER_ID_RULE);
        }
        if self.node_id == NodeId::ZERO {
            return bad("node-id", "must not be 0");
        }
        Ok(())
    }

    /// The file's text.
    #[must_use]
    pub fn encode(&self) -> String {
        IdentityFile::settled(self.clone()).encode()
    }

    /// Reads the text back. `path` is for the messages.
    ///
    /// # Errors
    /// [`IdentityError::Corrupt`], [`IdentityError::NewerVersion`], [`IdentityError::Unfinished`],
    /// [`IdentityError::Unrecovered`].
    pub fn decode(path: &Path, text: &[u8]) -> Result<Self, IdentityError> {
        IdentityFile::decode(path, text)?.into_settled(path)
    }

    /// Checks the directory's identity against `wanted`, or gives it that identity when it is empty but for `LOCK`.
    /// Returns the one on disk: its incarnation is the first one's, not `wanted`'s.
    pub fn open_or_create(
        disk: &dyn Disk,
        dir: &Path,
        wanted: Self,
    ) -> Result<Self, IdentityError> {
        wanted.check_settings()?;
        let path = dir.join(NAME);
        let names: Vec<String> = disk.list(dir)?.into_iter().map(|entry| entry.name).collect();
        if names.iter().any(|name| name == NAME) {
            let found = IdentityFile::read(disk, &path)?.into_settled(&path)?;
            found.check_is(&wanted, &path)?;
            return Ok(found);
        }
        let ours = ["LOCK", TEMP_NAME];
        if let Some(entry) = names.into_iter().find(|name| !ours.contains(&name.as_str())) {
            return Err(IdentityError::Missing { path: dir.to_path_buf(), entry });
        }
        let file = IdentityFile::settled(wanted);
        file.write(disk, dir)?;
        Ok(file.identity)
    }

    pub(super) fn check_is(&self, wanted: &Self, path: &Path) -> Result<(), IdentityError> {
        let foreign = |what, expected: String, found: String| {
            Err(IdentityError::Foreign { path: path.to_path_buf(), what, expected, found })
        };
        if self.cluster_id != wanted.cluster_id {
            return foreign("cluster-id", wanted.cluster_id.clone(), self.cluster_id.clone());
        }
        if self.node_id != wanted.node_id {
            return foreign("node-id", wanted.node_id.to_string(), self.node_id.to_string());
        }
        Ok(())
    }
}

impl IdentityFile {
    /// Nothing is under way.
    pub(super) const fn settled(identity: Identity) -> Self {
        Self { identity, moving: None, recovering: None, restoring: false }
    }

    pub(super) fn into_settled(self, path: &Path) -> Result<Identity, IdentityError> {
        let path = path.to_path_buf();
        if self.restoring {
            return Err(IdentityError::Unrestored { path });
        }
        match (self.moving, self.recovering) {
            (None, None) => Ok(self.identity),
            (Some(to), _) => Err(IdentityError::Unfinished { path, to }),
            (None, Some(_)) => Err(IdentityError::Unrecovered { path }),
        }
    }

    fn encode(&self) -> String {
        let Identity { cluster_id, node_id, incarnation, joining } = &self.identity;
        let mut text = format!(
            "{MAGIC} {VERSION}\ncluster-id {cluster_id}\nnode-id {node_id}\nincarnation {incarnation:016x}\n"
        );
        if *joining {
            text.push_str("joining yes\n");
        }
        if let Some(to) = &self.moving {
            writeln!(text, "moving {to}").expect("writing to a string");
        }
        if let Some(before) = self.recovering {
            writeln!(text, "recovering {before:016x}").expect("writing to a string");
        }
        if self.restoring {
            text.push_str("restoring yes\n");
        }
        let crc = checksum::crc32c(text.as_bytes());
        writeln!(text, "crc32c {crc:08x}").expect("writing to a string");
        text
    }

    fn decode(path: &Path, text: &[u8]) -> Result<Self, IdentityError> {
        let mut lines = Lines { path, text, offset: 0 };
        let version = lines.field(MAGIC)?;
        match version.parse::<u32>() {
            Ok(VERSION) => {}
            Ok(found) if found > VERSION => {
                return Err(IdentityError::NewerVersion { path: path.to_path_buf(), found });
            }
            _ => return Err(lines.corrupt(0, format!("version {VERSION}"), version)),
        }
        let cluster_id = lines.field("cluster-id")?.to_owned();
        let at = lines.offset;
        let node_id = lines.field("node-id")?;
        let node_id = match node_id.parse::<u64>() {
            Ok(id) => NodeId(id),
            Err(_) => return Err(lines.corrupt(at, "a number".into(), node_id)),
        };
        let at = lines.offset;
        let incarnation = lines.field("incarnation")?;
        let incarnation = lines.incarnation(at, incarnation)?;
        let joining = lines.optional_yes("joining")?;
        let moving = lines.optional_field("moving")?.map(str::to_owned);
        let at = lines.offset;
        let recovering = match lines.optional_field("recovering")? {
            None => None,
            Some(before) => Some(lines.incarnation(at, before)?),
        };
        let restoring = lines.optional_yes("restoring")?;
        let at = lines.offset;
        let expected = format!("{:08x}", checksum::crc32c(&text[..at]));
        let found = lines.field("crc32c")?;
        if found != expected {
            return Err(lines.corrupt(at, format!("crc32c {expected}"), found));
        }
        if lines.offset != text.len() {
            return Err(lines.corrupt(lines.offset, "the end of the file".into(), "more bytes"));
        }
        let identity = Identity { cluster_id, node_id, incarnation, joining };
        Ok(Self { identity, moving, recovering, restoring })
    }

    pub(super) fn read(disk: &dyn Disk, path: &Path) -> Result<Self, IdentityError> {
        let file = disk.open(path, OpenMode::Read)?;
        let len = file.len()?;
        if len > MAX_BYTES {
            return Err(IdentityError::Corrupt {
                path: path.to_path_buf(),
                offset: 0,
                expected: format!("at most {MAX_BYTES} bytes"),
                found: format!("{len} bytes"),
            });
        }
        let mut text = vec![0; len as usize];
        file.read_exact_at(0, &mut text)?;
        Self::decode(path, &text)
    }

    /// Puts it in the place of the one that is there, if one is.
    pub(super) fn write(&self, disk: &dyn Disk, dir: &Path) -> Result<(), IdentityError> {
        let temp = dir.join(TEMP_NAME);
        if disk.exists(&temp)? {
            disk.remove(&temp)?;
        }
        let file = disk.open(&temp, OpenMode::CreateNew)?;
        file.write_at(0, self.encode().as_bytes())?;
        file.sync_data()?;
        disk.rename(&temp, &dir.join(NAME))?;
        disk.sync_dir(dir)?;
        Ok(())
    }
}

/// Reads `name value` lines and knows where it is.
struct Lines<'a> {
    path: &'a Path,
    text: &'a [u8],
    offset: usize,
}

impl<'a> Lines<'a> {
    fn field(&mut self, name: &str) -> Result<&'a str, IdentityError> {
        let at = self.offset;
        let rest = &self.text[at..];
        let line = rest.split(|&b| b == b'\n').next().unwrap_or_default();
        let parsed = std::str::from_utf8(line)
            .ok()
            .filter(|_| line.len() < rest.len())
            .and_then(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let Some(value) = parsed else {
            let shown =
                String::from_utf8_lossy(&line[..line.len().min(64)]).escape_debug().to_string();
            return Err(self.corrupt(at, format!("a line \"{name} …\""), &format!("\"{shown}\"")));
        };
        self.offset = at + line.len() + 1;
        Ok(value)
    }

    /// A field that may be left out.
    fn optional_field(&mut self, name: &str) -> Result<Option<&'a str>, IdentityError> {
        let here = self.text[self.offset..].strip_prefix(name.as_bytes());
        match here.is_some_and(|rest| rest.starts_with(b" ")) {
            true => self.field(name).map(Some),
            false => Ok(None),
        }
    }

    /// Whether the field is there, which then says `yes`.
    fn optional_yes(&mut self, name: &str) -> Result<bool, IdentityError> {
        let at = self.offset;
        match self.optional_field(name)? {
            None => Ok(false),
            Some("yes") => Ok(true),
            Some(other) => Err(self.corrupt(at, "yes".into(), other)),
        }
    }

    fn incarnation(&self, at: usize, value: &str) -> Result<u64, IdentityError> {
        u64::from_str_radix(value, 16)
            .map_err(|_| self.corrupt(at, "a hexadecimal number".into(), value))
    }

    fn corrupt(&self, offset: usize, expected: String, found: &str) -> IdentityError {
        IdentityError::Corrupt {
            path: self.path.to_path_buf(),
            offset,
            expected,
            found: found.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            cluster_id: "beach".into(),
            node_id: NodeId(3),
            incarnation: 0x9f3c_62a1_d04e_77b8,
            joining: false,
        }
    }

    fn decode(text: &str) -> Result<Identity, IdentityError> {
        Identity::decode(Path::new("D/IDENTITY"), text.as_bytes())
    }

    #[test]
    fn the_text_round_trips() {
        let text = identity().encode();
        assert!(text.starts_with(
            "beachdb-identity 1\ncluster-id beach\nnode-id 3\nincarnation 9f3c62a1d04e77b8\ncrc32c "
        ));
        assert_eq!(decode(&text).unwrap(), identity());
        let joining = Identity { joining: true, ..identity() };
        assert!(joining.encode().contains("77b8\njoining yes\ncrc32c "));
        assert_eq!(decode(&joining.encode()).unwrap(), joining);
        let recovering = IdentityFile { recovering: Some(7), ..IdentityFile::settled(identity()) };
        let text = recovering.encode();
        assert!(text.contains("77b8\nrecovering 0000000000000007\ncrc32c "), "{text}");
        assert_eq!(IdentityFile::decode(Path::new("I"), text.as_bytes()).unwrap(), recovering);
        let error = decode(&text).unwrap_err().to_string();
        assert!(error.ends_with("beachd recover --data-dir D --force-new-cluster"), "{error}");
        let file =
            IdentityFile { moving: Some("damaged-7".into()), ..IdentityFile::settled(joining) };
        assert_eq!(IdentityFile::decode(Path::new("I"), file.encode().as_bytes()).unwrap(), file);
        let error = decode(&file.encode()).unwrap_err().to_string();
        assert!(error.contains("moved the old data to damaged-7; run it again"), "{error}");
        assert!(error.ends_with("beachd rejoin --data-dir D"), "{error}");
    }

    #[test]
    fn every_flipped_byte_and_every_truncation_is_refused() {
        let joining = Identity { joining: true, ..identity() };
        let moving = Some("damaged-7".into());
        let file = IdentityFile { identity: joining, moving, recovering: Some(7), restoring: true };
        let text = file.encode().into_bytes();
        for at in 0..text.len() {
            let mut flipped = text.clone();
            flipped[at] ^= 0x04;
            IdentityFile::decode(Path::new("I"), &flipped).unwrap_err();
            IdentityFile::decode(Path::new("I"), &text[..at]).unwrap_err();
        }
    }

    #[test]
    fn a_newer_version_says_what_to_do() {
        let error = decode("beachdb-identity 2\nwhatever\n").unwrap_err();
        assert!(matches!(error, IdentityError::NewerVersion { found: 2, .. }));
        assert!(error.to_string().contains("open this directory with the newer beachd"), "{error}");
    }

    #[test]
    fn pitfall_31_another_cluster_or_node_is_refused_by_name() {
        let found = identity();
        let other = Identity { cluster_id: "lake".into(), ..identity() };
        let error = found.check_is(&other, Path::new("I")).unwrap_err().to_string();
        assert_eq!(
            error,
            "I: this directory belongs to cluster-id beach, but beachd was started as cluster-id lake: \
             correct --cluster-id or --data-dir"
        );
        let other = Identity { node_id: NodeId(4), ..identity() };
        let error = found.check_is(&other, Path::new("I")).unwrap_err().to_string();
        assert!(error.contains("node-id 3, but beachd was started as node-id 4"), "{error}");
    }

    #[test]
    fn impossible_settings_are_refused() {
        for cluster_id in ["", "a b", "a\nnode-id 7", "näme", &"x".repeat(256)] {
            let wanted = Identity { cluster_id: cluster_id.into(), ..identity() };
            assert!(wanted.check_settings().is_err(), "{cluster_id:?}");
        }
        assert!(Identity { node_id: NodeId(0), ..identity() }.check_settings().is_err());
    }
}
