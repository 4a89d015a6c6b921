//! [`Recovery`]: one node of a cluster that has lost its quorum for ever becomes a new cluster of itself alone.
//!
//! A majority that is gone took with it the proof of what is committed. Nothing brings that back; what is left is to take
//! one log for the truth. The node keeps all its data, gets a new incarnation, and its log a last word: the members are I
//! alone. Being all the voters there are, it then leads, and commits whatever its log holds.
//!
//! ```text
//!   IDENTITY (old)        IDENTITY (new, recovering)     IDENTITY (new, recovering)          IDENTITY (new)
//!   log: … last    ──1──▶ log: … last             ──2──▶ log: … last, MEMBERSHIP {new}  ──3──▶ log: … last, MEMBERSHIP
//!                                                        cluster: a new uid
//!   the old node          refused                        refused                             a cluster of one
//! ```
//!
//! Invariants:
//! - [`Recovery::prepare`] changes nothing: engine and log are only read. What is damaged or does not fit is refused there.
//! - Steps 1 and 3 are one rename each, step 2 is one group of the log. A crash before 1 leaves the old node; after it,
//!   [`Node::open`](super::Node::open) refuses with [`IdentityError::Unrecovered`] until another run, under the
//!   incarnation that the first one drew, has come to its end.
//! - A log that an installed snapshot superseded begins anew behind it, as at every open, once that snapshot is durable.
//! - Else nothing is removed: no entry, no row. The new membership stands behind the last entry, so it is in force from there on
//!   (a replica uses the newest in its log), and the row of the members and the log's state slot follow when it is applied.
//! - The old voter is no more: whatever the others send goes to its (node, incarnation), and no vote of it is in the new
//!   membership's terms, which begin [`RECOVERED_TERM_STEP`] above all that this node has seen.
//! - The cluster gets a new uid, so that what is left of the old one is refused by it, and by whom it adds, even under the old
//!   name.
//!
//! What it does not do: it cannot know what the others had acknowledged without this log, nor keep them from coming back
//! on their old data, as the old cluster. It prints nothing and asks nobody: that is `server::recover`.

use super::identity::{IdentityFile, NAME};
use super::open::superseded;
use super::{EngineMachine, Identity, IdentityError, Replicated, StateMachine};
use crate::base::{
    ClusterUid, LogIndex, Member, MemberRole, Membership, MembershipError, ReplicaId, Term,
};
use crate::engine::{Engine, EngineOptions};
use crate::env::{Env, IoError, LockGuard};
use crate::limits::{DEFAULT_SEGMENT_BYTES, MAX_SESSIONS, MAX_STORED_INDEX, RECOVERED_TERM_STEP};
use crate::raft::{Entry, HardState, IoId, LogStore, LogView, Persist};
use crate::raft_log::{LogImage, RaftLog, RaftLogError};
use std::io;
use std::path::{Path, PathBuf};

const LOCK_NAME: &str = "LOCK";

/// Why a node cannot become a new cluster. Nothing was changed, or [`Recovery`] can be run again and goes on.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The directory cannot be read or written.
    #[error(transparent)]
    Io(#[from] IoError),
    /// Another process has the directory open.
    #[error("{}: another process holds this lock: stop the beachd that runs on this directory first", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The identity cannot be read, or something else is under way.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// There is nothing that a cluster could begin with.
    #[error("{}: {problem}; nothing was changed", dir.display())]
    NoData {
        /// The directory.
        dir: PathBuf,
        /// What is missing.
        problem: &'static str,
    },
    /// Engine or log cannot be read, or are not of one node and one moment.
    #[error(
        "{}: {part}: {fault}. Nothing was changed: a cluster cannot begin with this copy. Choose another member whose copy \
         is whole, or restore this directory from a backup",
        dir.display()
    )]
    Unreadable {
        /// The directory.
        dir: PathBuf,
        /// `engine` or `raft log`.
        part: &'static str,
        /// What is wrong with it.
        fault: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The new incarnation must be another one.
    #[error("{}: the new incarnation is the old one, {incarnation:016x}; draw another", dir.display())]
    SameIncarnation {
        /// The directory.
        dir: PathBuf,
        /// The incarnation.
        incarnation: u64,
    },
    /// An address that cannot stand in a membership.
    #[error(transparent)]
    Address(#[from] MembershipError),
    /// An interrupted run gave the new cluster another name.
    #[error(
        "the interrupted recover named the new cluster {begun}, not {wanted}: leave --new-cluster-id out"
    )]
    OtherName {
        /// The name that it has.
        begun: String,
        /// The one that is wanted now.
        wanted: String,
    },
    /// Index or term are at the end of what a log can hold.
    #[error("{}: the log ends at entry {} of term {}: there is no room behind it", dir.display(), last.0, last.1)]
    NoRoom {
        /// The directory.
        dir: PathBuf,
        /// The last entry, with the highest term seen.
        last: (LogIndex, Term),
    },
    /// The engine could not be opened to make sure of an installed snapshot.
    #[error("{}: engine: {reason}; run the command again when that is mended", dir.display())]
    Engine {
        /// The directory.
        dir: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The log could not be written.
    #[error("raft log: {0}; run the command again when that is mended")]
    Log(#[from] RaftLogError),
}

/// What the operator wants to be different in the new cluster.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NewCluster {
    /// Its name; else the old one.
    pub cluster_id: Option<String>,
    /// Where members will reach the node; else as it was.
    pub peer_address: Option<String>,
    /// Where clients will reach the node; else as it was.
    pub client_address: Option<String>,
}

/// What there is, and what will be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecoveryPlan {
    /// Who the node was.
    pub before: ReplicaId,
    /// What it was in its cluster by its own log; `None`: no member, it was removed.
    pub role: Option<MemberRole>,
    /// Who it will be, and of which cluster.
    pub identity: Identity,
    /// The uid of the cluster that it was of; none if that was formed before clusters had one.
    pub old_cluster: ClusterUid,
    /// The uid of the new cluster.
    pub cluster: ClusterUid,
    /// An earlier run was interrupted; this one goes on with it.
    pub resumed: bool,
    /// The members that are forgotten.
    pub others: Membership,
    /// The entry that made them members.
    pub members_at: LogIndex,
    /// The first entry in the log.
    pub first: LogIndex,
    /// The last one.
    pub last: (LogIndex, Term),
    /// The highest term that it has seen.
    pub highest: Term,
    /// The last entry in the engine's tables: committed up to here, at least.
    pub applied: (LogIndex, Term),
    /// The only member that there will be.
    pub member: Member,
}

/// A directory that is locked and was looked at. See the module.
pub struct Recovery {
    env: Env,
    dir: PathBuf,
    plan: RecoveryPlan,
    /// The membership at `plan.applied`, when the log must begin anew there.
    reset: Option<(LogIndex, Membership)>,
    /// An earlier run got as far as the log.
    logged: bool,
    _lock: Box<dyn LockGuard>,
}

impl Recovery {
    /// Locks `dir` and reads what is in it; the node is to come back as `new_incarnation` and as the cluster
    /// `new_cluster`, or as what an interrupted run drew. Changes nothing (but for a lock file, if there was none). Blocks.
    pub fn prepare(
        env: &Env,
        dir: &Path,
        (new_incarnation, new_cluster): (u64, ClusterUid),
        wishes: &NewCluster,
    ) -> Result<Self, RecoverError> {
        let no_data = |problem| RecoverError::NoData { dir: dir.to_path_buf(), problem };
        let path = dir.join(NAME);
        if !env.disk.exists(&path)? {
            return Err(no_data("there is no IDENTITY, so this is no data directory of a node"));
        }
        let lock_path = dir.join(LOCK_NAME);
        let lock = env.disk.lock(&lock_path).map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock => RecoverError::Locked { path: lock_path },
            _ => RecoverError::Io(e),
        })?;
        let file = IdentityFile::read(&*env.disk, &path)?;
        let resumed = file.recovering.is_some() && file.moving.is_none();
        let before = ReplicaId {
            node: file.identity.node_id,
            incarnation: file.recovering.unwrap_or(file.identity.incarnation),
        };
        let identity = match resumed {
            true => check_resumed(file.identity, wishes)?,
            false => new_identity(file.into_settled(&path)?, dir, new_incarnation, wishes)?,
        };
        for part in ["engine", "raft"] {
            if !env.disk.exists(&dir.join(part))? {
                return Err(no_data("there is no data: this node has never been open"));
            }
        }
        let Found { image, applied, superseded } = Found::read(env, dir)?;
        let mut memberships = image.recovery.memberships.clone();
        let (mut first, mut last) = (image.first_index(), image.last());
        if let Some(members) = &superseded {
            memberships = vec![members.clone()];
            (first, last) = (applied.0.next(), applied);
        }
        if memberships.iter().all(|(_, members)| members.is_empty()) {
            return Err(no_data(
                "this node has never been a member of a cluster; it waits to be added",
            ));
        }
        let hard_state = image.recovery.hard_state;
        let highest = hard_state.term.max(last.1);
        if last.0.0 >= MAX_STORED_INDEX || highest.0 > MAX_STORED_INDEX - RECOVERED_TERM_STEP {
            return Err(RecoverError::NoRoom { dir: dir.into(), last: (last.0, highest) });
        }
        let me = identity.replica();
        let newest = memberships.last().map(|(_, members)| members);
        let known = newest.and_then(|members| members.replica(me).or(members.replica(before)));
        let member = new_member(me, known, wishes)?;
        let logged = newest == Some(&only(&member));
        let old = memberships.iter().rfind(|(_, members)| members.replica(me).is_none());
        let (members_at, mut members) = old.cloned().unwrap_or_default();
        let old_cluster = image.recovery.cluster;
        let role = members.replica(before).map(|was| was.role);
        if role.is_some() {
            members.remove(before.node);
        }
        let plan = RecoveryPlan {
            before,
            role,
            identity,
            old_cluster,
            cluster: if logged { old_cluster } else { new_cluster },
            resumed,
            others: members,
            members_at,
            first,
            last,
            highest,
            applied,
            member,
        };
        let reset = superseded;
        Ok(Self { env: env.clone(), dir: dir.into(), plan, reset, logged, _lock: lock })
    }

    /// What there is, and what will be.
    #[must_use]
    pub const fn plan(&self) -> &RecoveryPlan {
        &self.plan
    }

    /// Does it. Blocks. After an error or a crash prepare again: what was begun is finished.
    pub fn carry_out(self) -> Result<RecoveryPlan, RecoverError> {
        let Self { env, dir, plan, reset, logged, _lock } = self;
        let settled = IdentityFile::settled(plan.identity.clone());
        if !plan.resumed {
            let recovering = Some(plan.before.incarnation);
            IdentityFile { recovering, ..settled.clone() }.write(&*env.disk, &dir)?;
        }
        if !logged {
            write_log(&env, &dir, &plan, reset)?;
        }
        settled.write(&*env.disk, &dir)?;
        Ok(plan)
    }
}

/// Step 2: the last word of the old log, in a term of its own.
fn write_log(
    env: &Env,
    dir: &Path,
    plan: &RecoveryPlan,
    reset: Option<(LogIndex, Membership)>,
) -> Result<(), RecoverError> {
    if reset.is_some() {
        make_engine_durable(env, dir)?;
    }
    let term = Term(plan.highest.0 + RECOVERED_TERM_STEP);
    let at = (plan.last.0.next(), term);
    let reset = reset.map(|membership| (plan.applied, membership));
    Ok(append_alone(env, dir, plan.cluster, &plan.member, at, reset)?)
}

/// Appends to the log in `dir`, which begins anew at `reset` if there is one, the entry that makes `member` the only one, at
/// this index and in this term; the log is of `cluster` then. Durable when it returns.
pub(super) fn append_alone(
    env: &Env,
    dir: &Path,
    cluster: ClusterUid,
    member: &Member,
    (index, term): (LogIndex, Term),
    reset: Option<((LogIndex, Term), (LogIndex, Membership))>,
) -> Result<(), RaftLogError> {
    let (mut log, _) = RaftLog::open(env, &dir.join("raft"), DEFAULT_SEGMENT_BYTES)?;
    if let Some((baseline, membership)) = reset {
        log.reset(baseline, membership);
    }
    let payload = only(member).to_entry();
    log.use_reserve();
    log.set_cluster(cluster);
    log.submit(Persist {
        io: IoId(1),
        hard_state: Some(HardState { term, vote: None }),
        truncate_from: None,
        entries: vec![Entry { index, term, payload }],
    });
    log.close_blocking()
}

/// The log may begin anew only behind a snapshot that no crash takes any more: what was read of the engine may be in the
/// page cache only. Opening it writes all that it stands on once more, durably.
fn make_engine_durable(env: &Env, dir: &Path) -> Result<(), RecoverError> {
    let failed = |reason| RecoverError::Engine { dir: dir.into(), reason };
    let engine = Engine::open(env, EngineOptions::new(dir.join("engine")))
        .map_err(|error| failed(error.to_string()))?;
    match engine.read_only_reason() {
        None => Ok(()),
        Some(reason) => Err(failed(reason.to_owned())),
    }
}

/// What engine and log say, read only.
struct Found {
    image: LogImage,
    /// What the tables hold.
    applied: (LogIndex, Term),
    /// The membership at `applied`, when that came with a snapshot and the log does not reach it.
    superseded: Option<(LogIndex, Membership)>,
}

impl Found {
    fn read(env: &Env, dir: &Path) -> Result<Self, RecoverError> {
        let unreadable = |part, fault| RecoverError::Unreadable { dir: dir.into(), part, fault };
        let engine = Engine::open_to_look(env, EngineOptions::new(dir.join("engine")))
            .map_err(|error| unreadable("engine", error.into()))?;
        engine.check_tables().map_err(|error| unreadable("engine", error.into()))?;
        let image = LogImage::read(env, &dir.join("raft"))
            .map_err(|error| unreadable("raft log", error.into()))?;
        let applied = engine.applied();
        let installed = engine.installed_from_snapshot() == Some(applied);
        let rows = EngineMachine::new(engine)
            .internal_rows()
            .map_err(|fault| unreadable("engine", fault.into()))?;
        let replicated = Replicated::from_rows(MAX_SESSIONS, &rows)
            .map_err(|fault| unreadable("engine", fault.into()))?;
        let memberships = &image.recovery.memberships;
        let superseded = superseded(&image, applied, installed, &replicated, memberships)
            .map_err(|fault| unreadable("engine and raft log", fault.into()))?;
        Ok(Self { image, applied, superseded })
    }
}

fn new_identity(
    old: Identity,
    dir: &Path,
    incarnation: u64,
    wishes: &NewCluster,
) -> Result<Identity, RecoverError> {
    if old.incarnation == incarnation {
        return Err(RecoverError::SameIncarnation { dir: dir.into(), incarnation });
    }
    let cluster_id = wishes.cluster_id.clone().unwrap_or_else(|| old.cluster_id.clone());
    let new = Identity { cluster_id, incarnation, joining: false, ..old };
    new.check_settings()?;
    Ok(new)
}

/// The identity that an interrupted run wrote, if that is what is wanted now.
fn check_resumed(identity: Identity, wishes: &NewCluster) -> Result<Identity, RecoverError> {
    match &wishes.cluster_id {
        Some(other) if *other != identity.cluster_id => {
            Err(RecoverError::OtherName { begun: identity.cluster_id, wanted: other.clone() })
        }
        _ => Ok(identity),
    }
}

fn new_member(
    replica: ReplicaId,
    known: Option<&Member>,
    wishes: &NewCluster,
) -> Result<Member, RecoverError> {
    let address = |wish: &Option<String>, known: Option<&String>| {
        wish.as_ref().or(known).cloned().unwrap_or_default()
    };
    let member = Member {
        replica,
        role: MemberRole::Voter,
        peer_address: address(&wishes.peer_address, known.map(|m| &m.peer_address)),
        client_address: address(&wishes.client_address, known.map(|m| &m.client_address)),
    };
    member.check()?;
    Ok(member)
}

/// The cluster of this member alone.
fn only(member: &Member) -> Membership {
    let mut members = Membership::new();
    members.insert(member.clone());
    members
}
