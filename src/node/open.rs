//! Opening a data directory: lock, identity, engine, log, and whether they fit.
//!
//! # Damage
//! A torn write at the log's end is cut: nobody was told that it is durable. Anything else that is damaged may be
//! committed, and this replica may be one of the majority that holds it; so the node refuses, names file and offset, and
//! says that a member of a cluster can [`rejoin`](super::rejoin()).
//!
//! # Engine and log must fit
//! The engine has applied a prefix of the log and says so by (index, term). A flush holds only committed entries,
//! and those were durable in the log before they were applied, so after any crash the log still has that entry or
//! has released exactly up to it or less. Whatever else is found means that files were lost, or that `raft/` and
//! `engine/` come from different moments or nodes, and the node refuses: going on would lose acknowledged writes or
//! apply others twice. The one legitimate exception is a log that an installed snapshot superseded, and whose reset was
//! lost in a crash (design rule 2: discard the log, keep the hard state): the engine's version edit says so. An *empty* log is
//! not that: a node writes its first members before anything else, so it was lost, and the hard state with it.

use super::{
    Bootstrap, EngineMachine, Identity, IdentityError, Node, NodeConfig, Parts, ReadFault,
    Replicated, RowError, StateMachine,
};
use crate::base::{ClusterUid, LogIndex, Member, MemberRole, Membership, Term};
use crate::engine::{Engine, EngineError, EngineOptions};
use crate::env::{Env, IoError};
use crate::raft::{HardState, LogStore, LogView};
use crate::raft_log::{RaftLog, RaftLogError, RaftLogRecovery};
use std::io;
use std::path::{Path, PathBuf};

/// Why a node cannot start. Nothing was changed, except that an empty directory may have been given its identity.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The data directory cannot be used.
    #[error(transparent)]
    Io(#[from] IoError),
    /// Another process has the directory open.
    #[error("{}: another process holds this lock: a beachd is running on this directory", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// It is not this node's directory.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The engine's files.
    #[error("engine: {0}")]
    Engine(#[from] EngineError),
    /// A table that holds rows under the reserved prefix cannot be read.
    #[error("engine: {0}")]
    Read(#[from] ReadFault),
    /// A row under the reserved prefix cannot be understood.
    #[error("engine: {0}")]
    Row(#[from] RowError),
    /// The log's files.
    #[error("raft log: {0}")]
    Log(#[from] RaftLogError),
    /// The members that a new directory was to begin with.
    #[error("{}: {problem}", dir.display())]
    Bootstrap {
        /// The data directory.
        dir: PathBuf,
        /// What is wrong with them.
        problem: String,
    },
    /// What was durable has changed, and may be committed: nothing is cut off, nothing was changed.
    #[error(
        "{part}: {fault}. What is damaged may be committed, so this node does not start without it. {}",
        way_out(dir)
    )]
    Damaged {
        /// The data directory.
        dir: PathBuf,
        /// `engine` or `raft log`.
        part: &'static str,
        /// File, offset, expected, and found.
        fault: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Engine and log are not of one node and one moment.
    #[error("{}: {fault}; restore the whole directory from one backup. {}", dir.display(), way_out(dir))]
    Unfit {
        /// The data directory.
        dir: PathBuf,
        /// How they differ.
        fault: UnfitError,
    },
    /// The log is to begin anew behind an installed snapshot, but that may be in the page cache only, and the disk is
    /// too full to write it down once more: a power loss would leave neither. Nothing was changed.
    #[error(
        "{}: a snapshot was installed shortly before the last stop, and cannot be made durable before the log that it \
         supersedes is given up: {reason}; free some space on this disk and start again", dir.display()
    )]
    SnapshotNotDurable {
        /// The data directory.
        dir: PathBuf,
        /// Why not.
        reason: String,
    },
}

/// How an engine and a log differ that should fit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UnfitError {
    /// The log ends too early.
    #[error(
        "engine/ has applied entry {applied}, but raft/ ends at entry {last}: log segments are missing"
    )]
    LogBehind {
        /// The engine's.
        applied: LogIndex,
        /// The log's.
        last: LogIndex,
    },
    /// The log begins too late.
    #[error(
        "engine/ has applied up to entry {applied}, but raft/ begins at entry {first}: \
         the entries between are in neither"
    )]
    Gap {
        /// The engine's.
        applied: LogIndex,
        /// The log's.
        first: LogIndex,
    },
    /// They disagree about an entry.
    #[error(
        "engine/ has applied entry {applied} of term {expected}, but in raft/ it is of term {found}"
    )]
    OtherHistory {
        /// The entry.
        applied: LogIndex,
        /// Its term by the engine.
        expected: Term,
        /// Its term in the log.
        found: Term,
    },
    /// The engine's state came with a snapshot, and the log is new.
    #[error(
        "engine/ stands at a snapshot of entry {applied}, but raft/ is empty: what this node has voted for is lost, and it \
         could vote twice in one term"
    )]
    NoLog {
        /// The engine's.
        applied: LogIndex,
    },
    /// The log has entries and no members.
    #[error("raft/ ends at entry {last} and does not say who the members are")]
    NoMembers {
        /// The log's.
        last: LogIndex,
    },
}

/// What a person can do about data that is damaged or missing.
fn way_out(dir: &Path) -> String {
    format!(
        "If this node is a member of a cluster and a majority of the members is whole, let it give up its copy and come \
         back as a new member: beachd rejoin --data-dir {}",
        dir.display()
    )
}

/// Checks that `log` continues what was applied. See the module.
fn check_fit(log: &dyn LogView, applied: (LogIndex, Term)) -> Result<(), UnfitError> {
    let (applied, expected) = applied;
    match log.term(applied) {
        Some(found) if found == expected => Ok(()),
        Some(found) => Err(UnfitError::OtherHistory { applied, expected, found }),
        None if log.last().0 < applied => {
            Err(UnfitError::LogBehind { applied, last: log.last().0 })
        }
        None => Err(UnfitError::Gap { applied, first: log.first_index() }),
    }
}

/// The members that a log begins with, if this one has not begun: written before anything else, so that a node whose
/// directory is not new never asks its settings who they are.
fn begin(
    config: &NodeConfig,
    identity: &Identity,
    log: &mut RaftLog,
    memberships: &mut Vec<(LogIndex, Membership)>,
    cluster: &mut ClusterUid,
) -> Result<(), OpenError> {
    let me = identity.replica();
    let has_none = cluster.is_none();
    let mut form = |log: &mut RaftLog| {
        *cluster = config.new_cluster;
        log.set_cluster(config.new_cluster);
    };
    if let Some((_, newest)) = memberships.last() {
        // A cluster of this node alone from before there were uids: nobody else can have another opinion.
        if has_none && newest.is_voter(me) && newest.members().count() == 1 {
            form(log);
        }
        return Ok(());
    }
    let last = log.last().0;
    if last > LogIndex::ZERO {
        let fault = UnfitError::NoMembers { last };
        return Err(OpenError::Unfit { dir: config.dir.clone(), fault });
    }
    let wrong = |problem| OpenError::Bootstrap { dir: config.dir.clone(), problem };
    let first = match &config.bootstrap {
        _ if identity.joining => Membership::new(),
        Bootstrap::Join => Membership::new(),
        Bootstrap::Alone => {
            let mut members = Membership::new();
            members.insert(Member {
                replica: me,
                role: MemberRole::Voter,
                peer_address: config.peer_address.clone(),
                client_address: config.client_address.clone(),
            });
            members.check().map_err(|e| wrong(format!("this node's own addresses: {e}")))?;
            form(log);
            members
        }
        // Whoever has the lowest number asks the others first; see `formation`.
        Bootstrap::Initial(_) => Membership::new(),
        Bootstrap::Members(members) => {
            members.check().map_err(|e| wrong(format!("the first members of the cluster: {e}")))?;
            if members.replica(me).is_none() {
                let problem = format!("this node is {me}, which is not among the first members");
                return Err(wrong(problem));
            }
            members.clone()
        }
    };
    log.bootstrap(first.clone());
    memberships.push((LogIndex::ZERO, first));
    Ok(())
}

/// Checks that `log` continues what was applied, or that a snapshot that was `installed` superseded it: then it begins anew
/// there, with the membership that comes back. See the module.
pub(super) fn superseded(
    log: &dyn LogView,
    applied: (LogIndex, Term),
    installed: bool,
    replicated: &Replicated,
    memberships: &[(LogIndex, Membership)],
) -> Result<Option<(LogIndex, Membership)>, UnfitError> {
    match check_fit(log, applied) {
        Ok(()) => Ok(None),
        // Every log says who the members are from its first write on, if only that nobody is known yet.
        Err(UnfitError::LogBehind { .. }) if installed && memberships.is_empty() => {
            Err(UnfitError::NoLog { applied: applied.0 })
        }
        Err(UnfitError::LogBehind { .. } | UnfitError::OtherHistory { .. }) if installed => {
            Ok(Some(members_at_snapshot(replicated, applied.0, memberships)))
        }
        Err(fault) => Err(fault),
    }
}

/// The membership in force at an installed snapshot of entry `index`: the row of the members. Without such a row no
/// entry up to there has changed them, and they are still the first ones, if this node knows those. One that joined does
/// not: it knows of nobody until the log brings the entry that added it, which is above such a snapshot.
fn members_at_snapshot(
    replicated: &Replicated,
    index: LogIndex,
    memberships: &[(LogIndex, Membership)],
) -> (LogIndex, Membership) {
    let first = || memberships.iter().find(|(set_at, _)| *set_at == LogIndex::ZERO).cloned();
    replicated.members_at(index).cloned().or_else(first).unwrap_or_default()
}

impl Node<RaftLog, EngineMachine> {
    /// Opens the data directory, or makes a new one of it if it is empty, and recovers. Blocks on the disk. Takes time
    /// proportional to the log's un-flushed part at most; applying that part is done later, by [`Node::step`].
    pub fn open(config: NodeConfig, env: Env) -> Result<Self, OpenError> {
        let dir = config.dir.clone();
        env.disk.create_dir_all(&dir)?;
        let lock_path = dir.join("LOCK");
        let lock = env.disk.lock(&lock_path).map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock => OpenError::Locked { path: lock_path },
            _ => OpenError::Io(e),
        })?;
        let wanted = Identity {
            cluster_id: config.cluster_id.clone(),
            node_id: config.node_id,
            incarnation: config.new_incarnation,
            joining: config.bootstrap == Bootstrap::Join,
        };
        let identity = Identity::open_or_create(&*env.disk, &dir, wanted)?;
        let mut options = EngineOptions::new(dir.join("engine"));
        options.memtable_bytes = config.memtable_bytes;
        options.cache_bytes = config.cache_bytes;
        options.compression = config.compression;
        options.compaction = config.compaction;
        let damaged = |part, fault| OpenError::Damaged { dir: dir.clone(), part, fault };
        let engine = Engine::open(&env, options).map_err(|error| match error.is_corruption() {
            true => damaged("engine", Box::new(error)),
            false => error.into(),
        })?;
        let opened = RaftLog::open(&env, &dir.join("raft"), config.segment_bytes);
        let (mut log, recovery) = opened.map_err(|error| match error.is_corruption() {
            true => damaged("raft log", Box::new(error)),
            false => error.into(),
        })?;
        let (index, term) = engine.applied();
        let tables = engine.stats().tables;
        let installed = engine.installed_from_snapshot() == Some((index, term));
        let machine = EngineMachine::new(engine);
        let rows = machine.internal_rows()?;
        let replicated = Replicated::from_rows(config.max_sessions, &rows)?;
        let RaftLogRecovery { mut hard_state, mut memberships, mut cluster, report, .. } = recovery;
        let superseded = superseded(&log, (index, term), installed, &replicated, &memberships)
            .map_err(|fault| OpenError::Unfit { dir: dir.clone(), fault })?;
        match superseded {
            None => begin(&config, &identity, &mut log, &mut memberships, &mut cluster)?,
            Some(members) => {
                if let Some(reason) = machine.read_only_reason() {
                    let reason = reason.to_owned();
                    return Err(OpenError::SnapshotNotDurable { dir, reason });
                }
                log.reset((index, term), members.clone());
                memberships = vec![members];
                if hard_state.term < term {
                    hard_state = HardState { term, vote: None };
                }
            }
        }
        let mut lines = vec![
            format!("engine: {tables} tables, applied entry {index} of term {term}"),
            format!("raft log: {report}"),
        ];
        if memberships.last().is_none_or(|(_, members)| members.is_empty()) {
            lines.push(
                "members: nobody yet; this node waits to become a member of a cluster".into(),
            );
        }
        let parts = Parts {
            identity,
            log,
            hard_state,
            memberships,
            cluster,
            machine,
            replicated,
            lock: Some(lock),
            recovery: lines,
        };
        let node = Self::from_parts(config, env, parts);
        node.compare_list();
        if let Some(waits) = node.waits_to_belong() {
            log::warn!("{waits}");
        }
        Ok(node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::NodeId;
    use crate::env::{Disk, Lane, os, sim};
    use crate::raft::{Entry, IoId, LogStore, MemLog, Persist};

    #[test]
    fn a_log_fits_when_it_continues_what_was_applied() {
        let mut log = MemLog::new(sim::env(1).0.jobs);
        let check = |log: &MemLog, index, term| check_fit(log, (LogIndex(index), Term(term)));
        assert_eq!(check(&log, 0, 0), Ok(()), "both empty");
        let (applied, last) = (LogIndex(3), LogIndex(0));
        assert_eq!(
            check(&log, 3, 1),
            Err(UnfitError::LogBehind { applied, last }),
            "raft/ was wiped"
        );
        let entries = (1..=6).map(|index| Entry {
            index: LogIndex(index),
            term: Term(index.div_ceil(2)),
            payload: bytes::Bytes::new(),
        });
        log.submit(Persist {
            io: IoId(1),
            hard_state: None,
            truncate_from: None,
            entries: entries.collect(),
        });
        assert_eq!(check(&log, 0, 0), Ok(()), "engine/ can be built again from a whole log");
        assert_eq!(check(&log, 3, 2), Ok(()));
        assert_eq!(check(&log, 6, 3), Ok(()));
        let (expected, found) = (Term(1), Term(2));
        assert_eq!(check(&log, 3, 1), Err(UnfitError::OtherHistory { applied, expected, found }));
        log.release_to(LogIndex(4));
        assert_eq!(check(&log, 4, 2), Ok(()), "released exactly up to what was applied");
        let first = LogIndex(5);
        assert_eq!(check(&log, 3, 2), Err(UnfitError::Gap { applied, first }), "engine/ is older");
        let applied = LogIndex(0);
        assert_eq!(check(&log, 0, 0), Err(UnfitError::Gap { applied, first }), "engine/ was wiped");
    }

    #[test]
    fn the_lock_is_held_until_the_last_job_is_done() {
        let dir = tempfile::tempdir_in(".").unwrap();
        let data = dir.path().join("data");
        let env = os::env();
        let node = Node::open(NodeConfig::new(&data, "beach", NodeId(1), 7), env.clone()).unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let job = move || -> crate::env::JobOutput {
            // Long enough for a node that does not wait to be gone.
            os::pause(std::time::Duration::from_millis(100));
            Box::new(tell.send(os::OsDisk::new().lock(&data.join("LOCK")).is_err()))
        };
        env.jobs.submit(Lane::Manifest, Box::new(job));
        drop(env);
        drop(node);
        assert!(
            told.recv().unwrap(),
            "a manifest may be replaced in a directory that has a new owner"
        );
    }
}
