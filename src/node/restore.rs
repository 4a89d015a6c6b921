//! [`restore`]: a checkpoint becomes the data directory of a new cluster of one.
//!
//! ```text
//!   (nothing) ──1──▶ IDENTITY (new, restoring) ──2──▶ engine/ ──3──▶ raft/: baseline, MEMBERSHIP {new} ──4──▶ IDENTITY (new)
//!   no directory     refused                          refused        refused                                a cluster of one
//! ```
//!
//! Invariants:
//! - Nothing is made before every block of the checkpoint was checked, and the checkpoint is only read.
//! - The target is empty, does not exist, or is what an interrupted restore left; that begins anew. Anything else is refused.
//! - Steps 1 and 4 are one rename each. A crash between them leaves a directory that [`Node::open`](super::Node::open) refuses
//!   with [`IdentityError::Unrestored`] until another run has come to its end.
//! - The cluster has another name, another uid, and the node another incarnation, so that members of the old cluster are
//!   refused by it, and by whom it adds. Terms begin [`RECOVERED_TERM_STEP`] above the checkpoint's.
//! - What was replicated is what the checkpoint holds: user data and sessions as they were, and the members as a row that the first
//!   entry of the new log replaces.
//!
//! It prints nothing: that is `server::restore`.

use super::identity::{IdentityFile, NAME, TEMP_NAME};
use super::recover::append_alone;
use super::{Identity, IdentityError};
use crate::base::{ClusterUid, Member, MemberRole, MembershipError, NodeId, Term};
use crate::engine::checkpoint::{self, CheckpointError, Description, ENGINE_DIR, Origin, Transfer};
use crate::engine::{Scrub, ScrubReport};
use crate::env::{Disk, Env, IoError, IoResult, LockGuard};
use crate::limits::{MAX_STORED_INDEX, RECOVERED_TERM_STEP};
use crate::raft_log::RaftLogError;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const LOCK_NAME: &str = "LOCK";
const LOG_DIR: &str = "raft";

/// Why no cluster was made of a checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// A file or directory cannot be read or written.
    #[error(transparent)]
    Io(#[from] IoError),
    /// It is no checkpoint, or not a whole one. Nothing was changed.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Blocks of it are damaged. Nothing was changed.
    #[error("{}: {} of its files are damaged: {}. Nothing was changed; use another checkpoint", dir.display(), report.damaged, report.faults.join("; "))]
    Damaged {
        /// The checkpoint.
        dir: PathBuf,
        /// What was found.
        report: Box<ScrubReport>,
    },
    /// It is of an embedded database.
    #[error(
        "{}: it is a checkpoint of an embedded database, not of a node: open it with beachdb::engine::Db", dir.display()
    )]
    Embedded {
        /// The checkpoint.
        dir: PathBuf,
    },
    /// There is something in the target.
    #[error(
        "{}: the directory is not empty ({entry}): a restore makes a new one and overwrites nothing; choose another \
         --data-dir", dir.display()
    )]
    NotEmpty {
        /// The target.
        dir: PathBuf,
        /// Something that is in it.
        entry: String,
    },
    /// Another process works in the target.
    #[error("{}: another process holds this lock", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The new name or number cannot be.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The name is that of the cluster that the checkpoint is of.
    #[error(
        "--cluster-id {name}: that is the name of the cluster that the checkpoint was made of; the new cluster needs a name of \
         its own, so that nobody takes one for the other"
    )]
    SameName {
        /// The name.
        name: String,
    },
    /// An address that cannot stand in a membership.
    #[error(transparent)]
    Address(#[from] MembershipError),
    /// Index or term are at the end of what a log can hold.
    #[error("{}: it ends at entry {index} of term {term}: there is no room behind it", dir.display())]
    NoRoom {
        /// The checkpoint.
        dir: PathBuf,
        /// Its last entry.
        index: u64,
        /// Its term.
        term: u64,
    },
    /// The new log could not be written. The next run begins anew.
    #[error("raft log: {0}; run the command again when that is mended")]
    Log(#[from] RaftLogError),
}

/// What the new cluster is to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RestorePlan {
    /// The checkpoint.
    pub from: PathBuf,
    /// The new data directory.
    pub data_dir: PathBuf,
    /// The new cluster's name.
    pub cluster_id: String,
    /// The node's number in it.
    pub node_id: NodeId,
    /// The node's incarnation, freshly drawn.
    pub incarnation: u64,
    /// The new cluster's uid, freshly drawn.
    pub cluster: ClusterUid,
    /// Where members will reach the node.
    pub peer_address: String,
    /// Where clients will reach the node.
    pub client_address: String,
}

/// What was made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Restored {
    /// Of what.
    pub description: Description,
    /// By whom the checkpoint was made.
    pub origin: Origin,
    /// What was read to check it.
    pub report: ScrubReport,
    /// Tables that are links.
    pub linked: u64,
    /// Bytes of tables that were copied.
    pub copied_bytes: u64,
}

/// Makes a data directory of a checkpoint. Blocks. See the module.
///
/// # Errors
/// Nothing was changed, or the target holds what the next run begins anew and no start takes for data.
pub fn restore(env: &Env, plan: &RestorePlan) -> Result<Restored, RestoreError> {
    let disk = &*env.disk;
    let identity = Identity {
        cluster_id: plan.cluster_id.clone(),
        node_id: plan.node_id,
        incarnation: plan.incarnation,
        joining: false,
    };
    identity.check_settings()?;
    let member = Member {
        replica: identity.replica(),
        role: MemberRole::Voter,
        peer_address: plan.peer_address.clone(),
        client_address: plan.client_address.clone(),
    };
    member.check()?;
    check_target(disk, &plan.data_dir)?;
    let (description, state) = checkpoint::read(disk, &plan.from)?;
    let Some(origin) = description.origin.clone() else {
        return Err(RestoreError::Embedded { dir: plan.from.clone() });
    };
    if origin.cluster_id == plan.cluster_id {
        return Err(RestoreError::SameName { name: origin.cluster_id });
    }
    let (index, term) = description.applied;
    if index.0 >= MAX_STORED_INDEX || term.0 > MAX_STORED_INDEX - RECOVERED_TERM_STEP {
        let dir = plan.from.clone();
        return Err(RestoreError::NoRoom { dir, index: index.0, term: term.0 });
    }
    let tables = plan.from.join(ENGINE_DIR);
    let scrub = Scrub::of_dir(Arc::clone(&env.disk), tables.clone(), None);
    let report = scrub.map_err(CheckpointError::from)?.run();
    if report.damaged > 0 {
        let report = Box::new(report);
        return Err(RestoreError::Damaged { dir: plan.from.clone(), report });
    }

    let dir = &plan.data_dir;
    disk.create_dir_all(dir)?;
    let _lock = lock(disk, dir)?;
    check_target(disk, dir)?;
    let settled = IdentityFile::settled(identity);
    IdentityFile { restoring: true, ..settled.clone() }.write(disk, dir)?;
    let (engine, log) = (dir.join(ENGINE_DIR), dir.join(LOG_DIR));
    for part in [&engine, &log] {
        empty(disk, part)?;
    }
    disk.create_dir_all(&engine)?;
    let all = state.tables.values().cloned().collect();
    let mut transfer = Transfer::new(Arc::clone(&env.disk), tables, engine.clone(), all);
    while !transfer.step()? {}
    checkpoint::write_manifest(&env.disk, &engine, &state).map_err(CheckpointError::from)?;
    let reset = (description.applied, origin.members.clone());
    let term = Term(term.0 + RECOVERED_TERM_STEP);
    append_alone(env, dir, plan.cluster, &member, (index.next(), term), Some(reset))?;
    settled.write(disk, dir)?;
    let (linked, copied_bytes) = transfer.counts();
    Ok(Restored { description, origin, report, linked, copied_bytes })
}

fn lock(disk: &dyn Disk, dir: &Path) -> Result<Box<dyn LockGuard>, RestoreError> {
    let path = dir.join(LOCK_NAME);
    disk.lock(&path).map_err(|e| match e.kind() {
        io::ErrorKind::WouldBlock => RestoreError::Locked { path },
        _ => RestoreError::Io(e),
    })
}

/// The target may be missing, empty, or what an interrupted restore left.
fn check_target(disk: &dyn Disk, dir: &Path) -> Result<(), RestoreError> {
    if !disk.exists(dir)? {
        return Ok(());
    }
    let path = dir.join(NAME);
    if disk.exists(&path)? && IdentityFile::read(disk, &path).is_ok_and(|file| file.restoring) {
        return Ok(());
    }
    let ours = [LOCK_NAME, TEMP_NAME];
    let names = disk.list(dir)?.into_iter().map(|entry| entry.name);
    match names.into_iter().find(|name| !ours.contains(&name.as_str())) {
        None => Ok(()),
        Some(entry) => Err(RestoreError::NotEmpty { dir: dir.to_path_buf(), entry }),
    }
}

/// Removes what an interrupted run made in `dir`, durably.
fn empty(disk: &dyn Disk, dir: &Path) -> IoResult<()> {
    if !disk.exists(dir)? {
        return Ok(());
    }
    for entry in disk.list(dir)?.iter().filter(|entry| !entry.is_dir) {
        disk.remove(&dir.join(&entry.name))?;
    }
    disk.sync_dir(dir)
}
