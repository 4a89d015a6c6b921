//! [`rejoin`]: a member of a cluster gives up its copy of the data and becomes a stranger that waits to be added.
//!
//! A node refuses to open when something that may be committed is damaged: cutting it off would take back what this
//! replica has promised, and then a majority is no longer one. The way out is to stop being that replica. Its data moves
//! aside, and the directory gets a new incarnation, which nobody counts until the leader has added it (as a learner, then
//! promoted). The new IDENTITY says `joining`: such a node begins with nobody as members, so that it never campaigns and
//! never begins a cluster of its own.
//!
//! ```text
//!   D/IDENTITY (old)              D/IDENTITY (new, joining, moving X)        D/IDENTITY (new, joining)
//!   D/engine/… D/raft/…   ──1──▶  D/engine/… D/raft/… D/X/IDENTITY (old) ──2──▶ D/X/IDENTITY D/X/engine/… D/X/raft/…
//!                                                                        ──3──▶
//! ```
//!
//! Invariants:
//! - Step 1 is one rename, with a copy of the old IDENTITY durable before it. A crash before it leaves the old node; after
//!   it, [`Node::open`](super::Node::open) refuses with [`IdentityError::Unfinished`] until a second run has finished.
//! - Nothing is deleted and nothing is overwritten: X = `damaged-<old incarnation>` is new, or has only that copy in it.
//! - An IDENTITY that cannot be read cannot be replaced by one rename: it is moved first, and between the two a
//!   directory with data and without IDENTITY is refused too ([`IdentityError::Missing`]).
//!
//! What it does not do: it cannot know whether enough other replicas are whole. Never run it on a majority.

use super::identity::{IdentityFile, NAME, TEMP_NAME};
use super::{Identity, IdentityError};
use crate::base::NodeId;
use crate::env::{Disk, IoError};
use std::io;
use std::path::{Path, PathBuf};

/// The beginning of the names of directories with data that was given up.
const DAMAGED: &str = "damaged-";
const LOCK_NAME: &str = "LOCK";

/// Why a node cannot rejoin. Nothing was changed, or [`rejoin`] can be run again and goes on where it stopped.
#[derive(Debug, thiserror::Error)]
pub enum RejoinError {
    /// The directory cannot be read or written.
    #[error(transparent)]
    Io(#[from] IoError),
    /// Another process has the directory open.
    #[error("{}: another process holds this lock: stop the beachd that runs on this directory first", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// It is another node's directory, or a newer beachd's.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// IDENTITY cannot be read, and nobody says what it said.
    #[error(
        "{problem}; say whose data this is: --cluster-id NAME and --node-id N, as in the settings of this node"
    )]
    Unknown {
        /// What is wrong with the file.
        problem: String,
    },
    /// There is nothing to give up.
    #[error("{}: no data here; to add a new node, start beachd with --join on an empty directory", dir.display())]
    NoData {
        /// The directory.
        dir: PathBuf,
    },
    /// The new incarnation must be another one.
    #[error("{}: the new incarnation is the old one, {incarnation:016x}; draw another", dir.display())]
    SameIncarnation {
        /// The directory.
        dir: PathBuf,
        /// The incarnation.
        incarnation: u64,
    },
}

/// What the operator says about the node; checked against IDENTITY, and needed where that cannot be read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Stated {
    /// The cluster's name.
    pub cluster_id: Option<String>,
    /// The node's number.
    pub node_id: Option<NodeId>,
}

/// A directory whose data was given up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rejoined {
    /// Who the node is now.
    pub identity: Identity,
    /// Where the old data is; `None` when the directory had been given up before and held no data since.
    pub moved_to: Option<PathBuf>,
}

/// Gives up the data in `dir`; the node comes back as `new_incarnation`. Needs the directory's lock. Blocks. See the
/// module. After an error or a crash run it again: what was begun is finished, under the incarnation it began with.
pub fn rejoin(
    disk: &dyn Disk,
    dir: &Path,
    new_incarnation: u64,
    stated: &Stated,
) -> Result<Rejoined, RejoinError> {
    let lock_path = dir.join(LOCK_NAME);
    let _lock = disk.lock(&lock_path).map_err(|e| match e.kind() {
        io::ErrorKind::WouldBlock => RejoinError::Locked { path: lock_path },
        io::ErrorKind::NotFound => RejoinError::NoData { dir: dir.into() },
        _ => RejoinError::Io(e),
    })?;
    let begun = begin(disk, dir, new_incarnation, stated)?;
    if let Some(to) = &begun.moving {
        let to = dir.join(to);
        let ours =
            |name: &str| [LOCK_NAME, NAME, TEMP_NAME].contains(&name) || name.starts_with(DAMAGED);
        disk.create_dir_all(&to)?;
        disk.sync_dir(dir)?;
        move_all(disk, dir, &to, &ours)?;
        IdentityFile::settled(begun.identity.clone()).write(disk, dir)?;
    }
    Ok(Rejoined { identity: begun.identity, moved_to: begun.moving.map(|to| dir.join(to)) })
}

/// Puts the new IDENTITY in place, unless that was done before.
fn begin(
    disk: &dyn Disk,
    dir: &Path,
    new_incarnation: u64,
    stated: &Stated,
) -> Result<IdentityFile, RejoinError> {
    let path = dir.join(NAME);
    let found = match IdentityFile::read(disk, &path) {
        Ok(found) => found,
        Err(error @ IdentityError::NewerVersion { .. }) => return Err(error.into()),
        Err(error) => return begin_unknown(disk, dir, new_incarnation, stated, &error),
    };
    let said = |old: &Identity| Identity {
        cluster_id: stated.cluster_id.clone().unwrap_or_else(|| old.cluster_id.clone()),
        node_id: stated.node_id.unwrap_or(old.node_id),
        ..old.clone()
    };
    found.identity.check_is(&said(&found.identity), &path)?;
    if found.moving.is_some() || found.identity.joining && !has_data(disk, dir)? {
        return Ok(found);
    }
    let incarnation = found.identity.incarnation;
    if incarnation == new_incarnation {
        return Err(RejoinError::SameIncarnation { dir: dir.to_path_buf(), incarnation });
    }
    let to = unused_name(disk, dir, &format!("{DAMAGED}{incarnation:016x}"))?;
    disk.create_dir_all(&dir.join(&to))?;
    found.write(disk, &dir.join(&to))?;
    disk.sync_dir(dir)?;
    let identity = Identity { incarnation: new_incarnation, joining: true, ..found.identity };
    let begun = IdentityFile { moving: Some(to), ..IdentityFile::settled(identity) };
    begun.write(disk, dir)?;
    Ok(begun)
}

/// The same where IDENTITY is missing or damaged.
fn begin_unknown(
    disk: &dyn Disk,
    dir: &Path,
    new_incarnation: u64,
    stated: &Stated,
    error: &IdentityError,
) -> Result<IdentityFile, RejoinError> {
    let exists = disk.exists(&dir.join(NAME))?;
    if !exists && disk.list(dir)?.iter().all(|e| [LOCK_NAME, TEMP_NAME].contains(&e.name.as_str()))
    {
        return Err(RejoinError::NoData { dir: dir.to_path_buf() });
    }
    let Stated { cluster_id: Some(cluster_id), node_id: Some(node_id) } = stated.clone() else {
        return Err(RejoinError::Unknown { problem: error.to_string() });
    };
    let identity = Identity { cluster_id, node_id, incarnation: new_incarnation, joining: true };
    identity.check_settings()?;
    let to = unused_name(disk, dir, &format!("{DAMAGED}unknown"))?;
    let aside = dir.join(&to);
    disk.create_dir_all(&aside)?;
    disk.sync_dir(dir)?;
    if exists {
        disk.rename(&dir.join(NAME), &aside.join(NAME))?;
        disk.sync_dir(&aside)?;
        disk.sync_dir(dir)?;
    }
    let begun = IdentityFile { moving: Some(to), ..IdentityFile::settled(identity) };
    begun.write(disk, dir)?;
    Ok(begun)
}

/// Whether a node has opened the directory since it got its IDENTITY.
fn has_data(disk: &dyn Disk, dir: &Path) -> Result<bool, IoError> {
    for part in ["engine", "raft"] {
        let part = dir.join(part);
        if disk.exists(&part)? && !disk.list(&part)?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// `base`, or `base-2`, …: one that holds nothing, or only the IDENTITY that an earlier run left there.
fn unused_name(disk: &dyn Disk, dir: &Path, base: &str) -> Result<String, IoError> {
    let mut name = base.to_owned();
    for n in 2u64.. {
        let path = dir.join(&name);
        let is_unused = !disk.exists(&path)?
            || disk.list(&path)?.iter().all(|e| [NAME, TEMP_NAME].contains(&e.name.as_str()));
        if is_unused {
            break;
        }
        name = format!("{base}-{n}");
    }
    Ok(name)
}

/// Moves every file under `from`, but for those `kept`, to the same place under `to`. Directories stay, empty.
fn move_all(
    disk: &dyn Disk,
    from: &Path,
    to: &Path,
    kept: &dyn Fn(&str) -> bool,
) -> Result<(), IoError> {
    for entry in disk.list(from)? {
        let (here, there) = (from.join(&entry.name), to.join(&entry.name));
        if kept(&entry.name) {
            continue;
        }
        if entry.is_dir {
            disk.create_dir_all(&there)?;
            // Its name is durable before anything moves into it, or a power loss takes both.
            disk.sync_dir(to)?;
            move_all(disk, &here, &there, &|_| false)?;
        } else {
            disk.rename(&here, &there)?;
        }
    }
    disk.sync_dir(to)?;
    disk.sync_dir(from)
}
