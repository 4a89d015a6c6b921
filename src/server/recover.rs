//! `beachd recover --force-new-cluster`: shows what a node holds and what making it a new cluster can lose, asks, does it
//! ([`crate::node::Recovery`]), and says what comes next.
//!
//! What it says goes to stdout, one question with it; errors go to stderr. Without `--yes` it goes on only after the
//! cluster's name on stdin. Exit codes: 0 done, 1 failed or not confirmed, 2 wrong usage.

use super::rejoin::is_confirmed;
use crate::base::{ClusterUid, Member};
use crate::env::{Env, Random};
use crate::limits::MAX_ADDRESS_BYTES;
use crate::node::{
    CLUSTER_ID_RULE, NewCluster, RecoverError, Recovery, RecoveryPlan, is_cluster_id,
};
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};

/// The arguments of `beachd recover`.
#[derive(clap::Args, Clone, PartialEq, Eq, Debug)]
#[command(after_help = "\
Examples:
  beachd recover --data-dir /var/lib/beachdb --force-new-cluster             shows, asks, does it
  beachd recover --data-dir /var/lib/beachdb --force-new-cluster </dev/null  only shows: compare the survivors' logs first
  beachd recover --data-dir /var/lib/beachdb --force-new-cluster --yes --new-cluster-id beachdb-2

ONLY when a majority of the voters is lost for ever. Choose one survivor: the one whose last entry has the highest term, of
those the one with the highest index. Writes that were acknowledged can be lost. The other members must never be started on
their old data again.
Exit codes: 0 done, 1 failed or not confirmed, 2 wrong usage.")]
pub struct RecoverArgs {
    /// The data directory; no beachd may be running on it
    #[arg(long, value_name = "DIR", default_value = "./beachd-data")]
    pub data_dir: PathBuf,
    /// Forget all other members and begin a new cluster with this node's data: say that you mean it
    #[arg(long, required = true)]
    pub force_new_cluster: bool,
    /// Another name for the new cluster, so that members and clients of the old one are refused
    #[arg(long, value_name = "NAME", value_parser = cluster_id)]
    pub new_cluster_id: Option<String>,
    /// The address clients are told to use [default: as it was]
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    pub advertise: Option<String>,
    /// The address members are told to use [default: as it was]
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    pub advertise_peer: Option<String>,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

pub(super) fn cluster_id(text: &str) -> Result<String, String> {
    is_cluster_id(text).then(|| text.to_owned()).ok_or_else(|| CLUSTER_ID_RULE.to_owned())
}

pub(super) fn address(text: &str) -> Result<String, String> {
    let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
    let is_port = port.is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port != 0));
    let is_plain = text.len() <= MAX_ADDRESS_BYTES && text.bytes().all(|b| b.is_ascii_graphic());
    match is_port && is_plain {
        true => Ok(text.to_owned()),
        false => Err("expected HOST:PORT".to_owned()),
    }
}

/// Why nothing was done, or not to the end.
#[derive(Debug, thiserror::Error)]
pub enum RecoverCommandError {
    /// It cannot be done.
    #[error(transparent)]
    Recover(#[from] RecoverError),
    /// The answer was not the cluster's name.
    #[error("not confirmed: nothing was changed (answer with the cluster's name, or give --yes)")]
    NotConfirmed,
    /// stdin or stdout.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Runs the command in this world, with this source of a new incarnation, and these streams.
pub fn run(
    args: &RecoverArgs,
    env: &Env,
    random: &mut dyn Random,
    input: &mut dyn BufRead,
    out: &mut dyn Write,
) -> Result<(), RecoverCommandError> {
    let wishes = NewCluster {
        cluster_id: args.new_cluster_id.clone(),
        peer_address: args.advertise_peer.clone(),
        client_address: args.advertise.clone(),
    };
    let fresh = (random.next_u64(), ClusterUid::drawn(random.next_u64()));
    let recovery = Recovery::prepare(env, &args.data_dir, fresh, &wishes)?;
    explain(&args.data_dir, recovery.plan(), out)?;
    if !args.yes && !is_confirmed(&recovery.plan().identity.cluster_id, input, out)? {
        return Err(RecoverCommandError::NotConfirmed);
    }
    let plan = recovery.carry_out()?;
    report(&args.data_dir, &plan, out)?;
    Ok(())
}

fn explain(dir: &Path, plan: &RecoveryPlan, out: &mut dyn Write) -> io::Result<()> {
    let (dir, node, cluster) = (dir.display(), plan.before.node, &plan.identity.cluster_id);
    writeln!(out, "Node {node} in {dir} becomes a new cluster, {cluster}, of itself alone.\n")?;
    if plan.resumed {
        writeln!(out, "  An earlier run was interrupted; this one goes on with it.\n")?;
    }
    let role = plan
        .role
        .map_or("NO MEMBER: it was removed, and may lack all that came after", |r| r.name());
    writeln!(out, "  was        incarnation {:016x}, {role}", plan.before.incarnation)?;
    writeln!(out, "  becomes    incarnation {:016x}, the only voter", plan.identity.incarnation)?;
    let old = plan.old_cluster;
    let from = if old.is_none() || plan.resumed { String::new() } else { format!(", not {old}") };
    writeln!(out, "  cluster    {cluster}, uid {}{from}", plan.cluster)?;
    let mut what = "forgets";
    for Member { replica, role, peer_address, .. } in plan.others.members() {
        let (node, incarnation, role) = (replica.node, replica.incarnation, role.name());
        let at = if peer_address.is_empty() { "" } else { " at " };
        writeln!(
            out,
            "  {what:<10} node {node}, incarnation {incarnation:016x}, {role}{at}{peer_address}"
        )?;
        what = "";
    }
    if plan.others.is_empty() {
        writeln!(
            out,
            "  forgets    nobody: by its log it is the only member, and has a quorum without this"
        )?;
    }
    let (first, (last, term)) = (plan.first, plan.last);
    let applied = plan.applied.0;
    let above = last.0.saturating_sub(applied.0);
    writeln!(
        out,
        "  log        entries {first} to {last}; the last one is of term {term}; highest term seen: {}
  committed  entry {applied} at least (it is in the tables); of the {above} above it this node alone cannot tell

WHAT THIS CAN DO TO YOUR DATA
- Acknowledged writes can be lost: what the others acknowledged without this node's log is gone.
- The {above} entries above {applied} become committed, also those that were never acknowledged to anybody.
- Prefer the survivor whose last entry has the highest term, of those the one with the highest index.
- The other members must never be started on their old data again: they would be the old cluster, with another truth.
  Wipe each, or let it give up its copy with beachd rejoin. The new cluster refuses them as WRONG_CLUSTER, also under the
  same name: it has another uid. Two of three of them would still serve the old one among themselves.
- It cannot be undone. Copy {dir} away first if there is room.
",
        plan.highest
    )
}

fn report(dir: &Path, plan: &RecoveryPlan, out: &mut dyn Write) -> io::Result<()> {
    let dir = dir.display();
    let (node, incarnation) = (plan.identity.node_id, plan.identity.incarnation);
    let cluster = &plan.identity.cluster_id;
    writeln!(
        out,
        "Node {node} of cluster {cluster} is now incarnation {incarnation:016x}, and the only voter. The cluster's uid is {}.

Next:
  beachd --data-dir {dir} --node-id {node} --cluster-id {cluster} …   start it with its other settings as before; it leads at once
  beachctl scan                              look at what is there
  beachd rejoin --data-dir …                 on each other old member, or an empty directory there
  beachctl member add N …                    add each again, and promote it when it has caught up",
        plan.cluster
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::NodeId;
    use crate::env::OpenMode;
    use crate::env::sim::{self, SimRandom};
    use crate::node::sim::SimDriver;
    use crate::node::{Node, NodeConfig};

    fn world() -> Env {
        let (env, sim) = sim::env(1);
        let node = Node::open(NodeConfig::new("data", "beach", NodeId(3), 7), env.clone()).unwrap();
        SimDriver::new(node, &sim).settle();
        env
    }

    fn command(env: &Env, yes: bool, mut input: &[u8]) -> (Result<(), String>, String) {
        let args = RecoverArgs {
            data_dir: "data".into(),
            force_new_cluster: true,
            new_cluster_id: None,
            advertise: Some("h:1".into()),
            advertise_peer: None,
            yes,
        };
        let mut out = Vec::new();
        let result = run(&args, env, &mut SimRandom::new(5), &mut input, &mut out);
        (result.map_err(|e| e.to_string()), String::from_utf8(out).unwrap())
    }

    fn files(env: &Env) -> Vec<(String, Vec<u8>)> {
        let read = |path: String| {
            let file = env.disk.open(path.as_ref(), OpenMode::Read).unwrap();
            let mut bytes = vec![0; file.len().unwrap() as usize];
            file.read_exact_at(0, &mut bytes).unwrap();
            (path, bytes)
        };
        let in_dir = |dir: &'static str| {
            let list = env.disk.list(dir.as_ref()).unwrap();
            list.into_iter().filter(|e| !e.is_dir).map(move |e| format!("{dir}/{}", e.name))
        };
        ["data", "data/raft", "data/engine"].into_iter().flat_map(in_dir).map(read).collect()
    }

    #[test]
    fn it_shows_what_can_be_lost_and_does_nothing_without_the_clusters_name() {
        for answer in [&b""[..], b"no\n", b"yes\n", b"beac\n", &[b'y'; 4096]] {
            let env = world();
            let before = files(&env);
            let (result, out) = command(&env, false, answer);
            assert!(result.unwrap_err().starts_with("not confirmed: nothing was changed"));
            for part in ["Acknowledged writes can be lost", "incarnation 0000000000000007, voter"] {
                assert!(out.contains(part), "{part} in\n{out}");
            }
            assert!(files(&env) == before, "byte for byte");
        }
    }

    #[test]
    fn the_clusters_name_is_a_yes_and_it_says_what_comes_next() {
        for (yes, answer) in [(true, &b""[..]), (false, b"beach\n")] {
            let env = world();
            let (result, out) = command(&env, yes, answer);
            result.unwrap();
            let node = Node::open(NodeConfig::new("data", "beach", NodeId(3), 8), env).unwrap();
            let me = node.replica();
            assert_ne!(me.incarnation, 7);
            assert_eq!(node.raft().membership().replica(me).unwrap().client_address, "h:1");
            let line =
                format!("Node 3 of cluster beach is now incarnation {:016x}", me.incarnation);
            let uid = node.cluster();
            assert!(out.contains(&format!("The cluster's uid is {uid}.")), "{out}");
            assert_ne!(uid, NodeConfig::new("data", "beach", NodeId(3), 7).new_cluster);
            assert!(out.contains(&line) && out.contains("beachctl member add"), "{out}");
        }
    }

    #[test]
    fn addresses_and_names_that_cannot_be_are_wrong_usage() {
        for good in ["h:1", "127.0.0.1:7400", "[::1]:65535"] {
            assert_eq!(address(good).as_deref(), Ok(good));
        }
        for bad in ["", "h", ":1", "h:", "h:0", "h:65536", "h h:1"] {
            address(bad).unwrap_err();
        }
        cluster_id("two words").unwrap_err();
    }
}
