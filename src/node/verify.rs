//! [`verify_dir`]: checks every file of a data directory, or of a checkpoint, that nobody works in. Changes nothing.

use super::identity::{IdentityFile, NAME};
use crate::engine::checkpoint::{self, DESCRIPTION_NAME, ENGINE_DIR};
use crate::engine::{Scrub, ScrubReport};
use crate::env::{Env, IoError};
use crate::raft_log::LogImage;
use crate::wal::LogKind;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a directory is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DirKind {
    /// The data directory of a node.
    Node,
    /// An embedded database.
    Database,
    /// A checkpoint.
    Checkpoint,
}

/// Why a directory cannot be checked.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It cannot be read.
    #[error(transparent)]
    Io(#[from] IoError),
    /// A process works in it.
    #[error(
        "{}: a process has this directory open; beachctl verify checks it while it runs, or stop it first", path.display()
    )]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// There is nothing to check.
    #[error("{}: neither a data directory nor a checkpoint: there is no directory engine in it", dir.display())]
    NoData {
        /// The directory.
        dir: PathBuf,
    },
}

/// Checks identity or description, manifest, every block of every table, and every record of the log. Blocks. What is found
/// wrong is in the report.
pub fn verify_dir(env: &Env, dir: &Path) -> Result<(DirKind, ScrubReport), VerifyError> {
    let disk = &*env.disk;
    let has = |name: &str| disk.exists(&dir.join(name));
    if !has(ENGINE_DIR)? {
        return Err(VerifyError::NoData { dir: dir.to_path_buf() });
    }
    // Held to the end, but never made: this changes nothing.
    let lock = dir.join("LOCK");
    let _held = match disk.exists(&lock)? {
        false => None,
        true => match disk.lock(&lock) {
            Ok(held) => Some(held),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                return Err(VerifyError::Locked { path: lock });
            }
            // One that may only be read, as this may be.
            Err(_) => None,
        },
    };
    let mut faults: Vec<String> = Vec::new();
    let (kind, log) = if has(DESCRIPTION_NAME)? {
        faults.extend(checkpoint::read(disk, dir).err().map(|e| e.to_string()));
        (DirKind::Checkpoint, None)
    } else if has("raft")? {
        if let Err(e) = IdentityFile::read(disk, &dir.join(NAME)) {
            faults.push(e.to_string());
        }
        (DirKind::Node, Some((LogKind::RaftLog, dir.join("raft"))))
    } else {
        let log = dir.join("wal");
        (DirKind::Database, disk.exists(&log)?.then_some((LogKind::Wal, log)))
    };
    let mut report = match Scrub::of_dir(Arc::clone(&env.disk), dir.join(ENGINE_DIR), log) {
        Ok(scrub) => scrub.run(),
        Err(e) => {
            faults.retain(|fault| *fault != e.to_string());
            faults.push(e.to_string());
            ScrubReport::default()
        }
    };
    // What the records of an intact log say must add up too.
    if kind == DirKind::Node
        && report.damaged == 0
        && let Err(e) = LogImage::read(env, &dir.join("raft"))
    {
        faults.push(e.to_string());
    }
    report.damaged += faults.len() as u64;
    report.faults.splice(0..0, faults);
    Ok((kind, report))
}
