//! `beachd rejoin`: explains what giving up a copy means, asks, does it ([`crate::node::rejoin`]), and says what comes
//! next.
//!
//! What it says goes to stdout, one question with it; errors go to stderr. Without `--yes` it goes on only after `yes` on
//! stdin. Exit codes: 0 done, 1 failed or not confirmed, 2 wrong usage.

use crate::base::NodeId;
use crate::env::{Disk, Random};
use crate::node::{self, RejoinError, Rejoined, Stated};
use std::io::{self, BufRead, Write};
use std::path::PathBuf;

/// Longest answer that is read: a cluster's name and a line end fit.
const MAX_ANSWER_BYTES: u64 = 260;

/// Asks for `word`; whether that is the answer.
pub(super) fn is_confirmed(
    word: &str,
    input: &mut dyn BufRead,
    out: &mut dyn Write,
) -> io::Result<bool> {
    write!(out, "Type {word} to go on: ")?;
    out.flush()?;
    let mut answer = String::new();
    io::Read::take(input, MAX_ANSWER_BYTES).read_line(&mut answer)?;
    writeln!(out)?;
    Ok(answer.trim() == word)
}

/// The arguments of `beachd rejoin`.
#[derive(clap::Args, Clone, PartialEq, Eq, Debug)]
#[command(after_help = "\
Examples:
  beachd rejoin --data-dir /var/lib/beachdb
  beachd rejoin --data-dir /var/lib/beachdb --yes
  beachd rejoin --data-dir /var/lib/beachdb --cluster-id beachdb --node-id 3      when IDENTITY is damaged

Nothing is deleted: the old data moves to DIR/damaged-<old incarnation>.
Exit codes: 0 done, 1 failed or not confirmed, 2 wrong usage.")]
pub struct RejoinArgs {
    /// The data directory; no beachd may be running on it
    #[arg(long, value_name = "DIR", default_value = "./beachd-data")]
    pub data_dir: PathBuf,
    /// The cluster's name; needed when IDENTITY cannot be read, else only checked
    #[arg(long, value_name = "NAME")]
    pub cluster_id: Option<String>,
    /// This node's number; needed when IDENTITY cannot be read, else only checked
    #[arg(long, value_name = "N")]
    pub node_id: Option<u64>,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

/// Why nothing was done, or not to the end.
#[derive(Debug, thiserror::Error)]
pub enum RejoinCommandError {
    /// It cannot be done.
    #[error(transparent)]
    Rejoin(#[from] RejoinError),
    /// The answer was not `yes`.
    #[error("not confirmed: nothing was changed (answer `yes`, or give --yes)")]
    NotConfirmed,
    /// stdin or stdout.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Runs the command with this disk, this source of a new incarnation, and these streams.
pub fn run(
    args: &RejoinArgs,
    disk: &dyn Disk,
    random: &mut dyn Random,
    input: &mut dyn BufRead,
    out: &mut dyn Write,
) -> Result<(), RejoinCommandError> {
    explain(args, out)?;
    if !args.yes && !is_confirmed("yes", input, out)? {
        return Err(RejoinCommandError::NotConfirmed);
    }
    let stated = Stated { cluster_id: args.cluster_id.clone(), node_id: args.node_id.map(NodeId) };
    let done = node::rejoin(disk, &args.data_dir, random.next_u64(), &stated)?;
    report(args, &done, out)?;
    Ok(())
}

fn explain(args: &RejoinArgs, out: &mut dyn Write) -> io::Result<()> {
    let dir = args.data_dir.display();
    writeln!(
        out,
        "\
The node in {dir} gives up its copy of the data and comes back as a new member of its cluster.

- Its data moves to {dir}/damaged-<old incarnation>; nothing is deleted. What only this copy holds is lost to the cluster.
- It does not vote and holds nothing until the leader has added it again and it has caught up.
- Never do this on half of the members or more, counting those that are down: what was acknowledged may be lost then.
- The only member of a cluster has nobody to catch up from: restore it from a backup instead.
"
    )
}

fn report(args: &RejoinArgs, done: &Rejoined, out: &mut dyn Write) -> io::Result<()> {
    let (dir, identity) = (args.data_dir.display(), &done.identity);
    let (node, incarnation) = (identity.node_id, identity.incarnation);
    match &done.moved_to {
        Some(to) => writeln!(out, "The old data is in {}.", to.display())?,
        None => {
            writeln!(out, "It had rejoined before and holds no data since: nothing was moved.")?
        }
    }
    writeln!(
        out,
        "Node {node} of cluster {} is now incarnation {incarnation:016x}.

Next:
  beachd --data-dir {dir} …                 start this node with its usual settings; it waits to be added
  beachctl member replace {node}            at a member that is up: the old incarnation leaves, this one comes
                                            as a learner, catches up, and votes",
        identity.cluster_id
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::sim::{SimDisk, SimRandom};
    use crate::node::Identity;

    fn disk() -> SimDisk {
        let disk = SimDisk::new(1);
        let identity = Identity {
            cluster_id: "beach".into(),
            node_id: NodeId(3),
            incarnation: 7,
            joining: false,
        };
        disk.write_file("data/IDENTITY", identity.encode().as_bytes());
        disk.write_file("data/raft/x.rlog", b"damaged");
        disk
    }

    fn command(disk: &SimDisk, yes: bool, mut input: &[u8]) -> (Result<(), String>, String) {
        let args = RejoinArgs { data_dir: "data".into(), cluster_id: None, node_id: None, yes };
        let mut out = Vec::new();
        let result = run(&args, disk, &mut SimRandom::new(5), &mut input, &mut out);
        (result.map_err(|e| e.to_string()), String::from_utf8(out).unwrap())
    }

    #[test]
    fn it_explains_and_does_nothing_without_a_yes() {
        for answer in [&b""[..], b"no\n", b"y\n", b"yes please\n", &[b'y'; 4096]] {
            let disk = disk();
            let (result, out) = command(&disk, false, answer);
            assert!(result.unwrap_err().starts_with("not confirmed: nothing was changed"));
            assert!(out.contains("Never do this on half of the members or more"), "{out}");
            assert!(disk.read_file("data/raft/x.rlog").is_some());
        }
    }

    #[test]
    fn a_yes_moves_the_data_and_names_the_new_incarnation_and_the_next_commands() {
        for (yes, answer) in [(true, &b""[..]), (false, b"yes\n")] {
            let disk = disk();
            let (result, out) = command(&disk, yes, answer);
            result.unwrap();
            assert!(disk.read_file("data/damaged-0000000000000007/raft/x.rlog").is_some());
            let text = String::from_utf8(disk.read_file("data/IDENTITY").unwrap()).unwrap();
            let incarnation = text.lines().find_map(|l| l.strip_prefix("incarnation ")).unwrap();
            let line = format!("Node 3 of cluster beach is now incarnation {incarnation}.");
            assert!(out.contains(&line), "{out}");
            assert!(out.contains("beachctl member replace 3"), "{out}");
        }
    }
}
