//! `beachd restore` and `beachd verify`: what they do is [`crate::node::restore`](crate::node::restore()) and
//! [`crate::node::verify_dir`]; here they are told what to do, and say what they did.
//!
//! Results go to stdout, errors to stderr. Exit codes: 0 done, 1 failed or damaged, 2 wrong usage.

use crate::base::{ClusterUid, NodeId};
use crate::env::{Env, Random};
use crate::node::{self, DirKind, RestoreError, RestorePlan, Restored, VerifyError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The arguments of `beachd restore`.
#[derive(clap::Args, Clone, PartialEq, Eq, Debug)]
#[command(after_help = "\
Examples:
  beachctl checkpoint /backup/monday                                              on a node that runs
  beachd restore --from /backup/monday --cluster-id beach-2 --data-dir /var/lib/beach-2
  beachd --data-dir /var/lib/beach-2 --cluster-id beach-2                         starts it: a cluster of one
  beachctl member add 2 HOST:PEERPORT                                             and grows it

Every block of the checkpoint is checked first. Tables are linked where that can be, else copied.
Exit codes: 0 done, 1 failed (nothing was changed, or run it again), 2 wrong usage.")]
pub struct RestoreArgs {
    /// The checkpoint; it is only read
    #[arg(long, value_name = "DIR")]
    pub from: PathBuf,
    /// The name of the new cluster; another one than the checkpoint's
    #[arg(long, value_name = "NAME", value_parser = super::recover::cluster_id)]
    pub cluster_id: String,
    /// Where the new data goes: a directory that is empty or does not exist
    #[arg(long, value_name = "DIR", default_value = "./beachd-data")]
    pub data_dir: PathBuf,
    /// The node's number in the new cluster
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub node_id: u64,
    /// The address clients are told to use
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7400", value_parser = super::recover::address)]
    pub advertise: String,
    /// The address members are told to use
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7401", value_parser = super::recover::address)]
    pub advertise_peer: String,
}

/// The arguments of `beachd verify`.
#[derive(clap::Args, Clone, PartialEq, Eq, Debug)]
#[command(after_help = "\
Examples:
  beachd verify --data-dir /var/lib/beachdb       while no beachd runs on it; beachctl verify does it while one runs
  beachd verify --data-dir /backup/monday         a checkpoint

It changes nothing. Exit codes: 0 all is well, 1 damaged (file, offset, expected, and found on stderr) or cannot be read,
2 wrong usage.")]
pub struct VerifyArgs {
    /// A data directory, an embedded database, or a checkpoint
    #[arg(long, value_name = "DIR", default_value = "./beachd-data")]
    pub data_dir: PathBuf,
}

/// Why a command came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum RestoreCommandError {
    /// It cannot be done.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// It cannot be checked.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// It was checked.
    #[error("{}", faults.join("\nbeachd: "))]
    Damaged {
        /// What is wrong, a line each.
        faults: Vec<String>,
    },
    /// stdout.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Runs `beachd restore` in this world, with this source of a new incarnation and uid.
pub fn run(
    args: &RestoreArgs,
    env: &Env,
    random: &mut dyn Random,
    out: &mut dyn Write,
) -> Result<(), RestoreCommandError> {
    let plan = RestorePlan {
        from: args.from.clone(),
        data_dir: args.data_dir.clone(),
        cluster_id: args.cluster_id.clone(),
        node_id: NodeId(args.node_id),
        incarnation: random.next_u64(),
        cluster: ClusterUid::drawn(random.next_u64()),
        peer_address: args.advertise_peer.clone(),
        client_address: args.advertise.clone(),
    };
    let done = node::restore(env, &plan)?;
    report(&plan, &done, out)?;
    Ok(())
}

fn report(plan: &RestorePlan, done: &Restored, out: &mut dyn Write) -> io::Result<()> {
    let Restored { description, origin, report, linked, copied_bytes } = done;
    let (from, dir) = (plan.from.display(), plan.data_dir.display());
    let (index, seq) = (description.applied.0, description.last_seq);
    let (node, cluster) = (plan.node_id, &plan.cluster_id);
    writeln!(
        out,
        "Checked {from}: {} tables, {} bytes, all well.
It was made by node {} of cluster {}, up to entry {index} and sequence number {seq}.
{dir} is now node {node} of the new cluster {cluster}, uid {}, and its only member; {linked} tables are links, {copied_bytes} \
         bytes were copied.

Next:
  beachd --data-dir {dir} --node-id {node} --cluster-id {cluster} …   start it; it leads at once
  beachctl member add N HOST:PEERPORT        add others, each with an empty directory and --join; then member promote N",
        report.tables, report.bytes, origin.replica.node, origin.cluster_id, plan.cluster
    )
}

/// Runs `beachd verify` in this world.
pub fn verify(
    args: &VerifyArgs,
    env: &Env,
    out: &mut dyn Write,
) -> Result<(), RestoreCommandError> {
    let dir: &Path = &args.data_dir;
    let (kind, report) = node::verify_dir(env, dir)?;
    if report.damaged > 0 {
        let mut faults = report.faults;
        let more = report.damaged.saturating_sub(faults.len() as u64);
        if more > 0 {
            faults.push(format!("and {more} files more"));
        }
        return Err(RestoreCommandError::Damaged { faults });
    }
    let what = match kind {
        DirKind::Node => "a node's data directory",
        DirKind::Database => "an embedded database",
        DirKind::Checkpoint => "a checkpoint",
    };
    writeln!(
        out,
        "{} is {what}: {} tables, {} segments of the log, {} bytes, all well",
        dir.display(),
        report.tables,
        report.segments,
        report.bytes
    )?;
    Ok(())
}
