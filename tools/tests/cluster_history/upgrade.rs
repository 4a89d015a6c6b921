//! Rolling upgrades, from a `beachd` that is built of an earlier commit.
//!
//! ```text
//!   git archive OLD ─► target/upgrade/OLD/src ─► cargo build ─► target/upgrade/build/debug/beachd ─► target/upgrade/OLD/beachd
//! ```
//!
//! The rule is in ARCHITECTURE.md (*Compatibility*): two versions whose HELLO ranges meet run in one cluster, so nodes are
//! upgraded one by one, and one can go back as long as nothing new was used.

use crate::black_box::cluster::Cluster;
use crate::black_box::skip;
use crate::load::run_on;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The commit to come from: the last one that changed the bytes between nodes without a new version of the protocol (the
/// cluster's uid in HELLO), which was allowed before the first release only. Move it only if that happens once more.
const OLD: &str = "f97dafa0fd4322042809d01b05ca1594fb60bf0a";

fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// `beachd` of an earlier commit; built now, unless an earlier run did. `Err` says why it cannot be.
fn build(commit: &str) -> Result<PathBuf, String> {
    let upgrade = repository().join("target/upgrade");
    let (at, program) = (upgrade.join(commit), upgrade.join(commit).join("beachd"));
    if program.exists() {
        return Ok(program);
    }
    let git = |args: &[&str]| {
        let mut git = Command::new("git");
        git.current_dir(repository()).args(args).stderr(Stdio::null());
        git
    };
    let there = git(&["cat-file", "-e", &format!("{commit}^{{commit}}")]).status();
    if !there.is_ok_and(|status| status.success()) {
        return Err(format!("commit {commit} is not here: no git, or a clone without history"));
    }
    let sources = at.join("src");
    std::fs::create_dir_all(&sources).expect("a directory below target");
    let mut archive = git(&["archive", commit]).stdout(Stdio::piped()).spawn().expect("git runs");
    let tar = archive.stdout.take().expect("piped");
    let unpacked = Command::new("tar").arg("-xC").arg(&sources).stdin(tar).status();
    let archived = archive.wait().expect("our child");
    assert!(unpacked.is_ok_and(|status| status.success()) && archived.success(), "its sources");
    let target = upgrade.join("build");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--locked", "--package", "beachdb", "--bin", "beachd"]);
    cargo.arg("--target-dir").arg(&target).current_dir(&sources);
    assert!(cargo.status().expect("cargo runs").success(), "beachd of {commit} does not build");
    std::fs::rename(target.join("debug/beachd"), &program).expect("the program");
    Ok(program)
}

/// Restarts a node with this program, under load.
fn restart(cluster: &mut Cluster, node: u64, program: Option<PathBuf>) {
    cluster.terminate(node);
    cluster.nodes[node as usize - 1].program = program;
    cluster.spawn(node);
    cluster.wait_ready(&[node]);
}

#[test]
#[ignore = "it builds beachd of an earlier commit: bash .ci/run upgrade"]
fn a_cluster_is_upgraded_node_by_node_under_load_and_one_goes_back() {
    let old = match build(OLD) {
        Ok(old) => old,
        Err(why) => return skip("a rolling upgrade", &why),
    };
    let mut cluster = Cluster::prepared(3);
    for node in &mut cluster.nodes {
        node.program = Some(old.clone());
    }
    let notes = run_on("a rolling upgrade", &mut cluster, |cluster, load| {
        // The followers first, and then the leader.
        let leader = cluster.leader();
        let order = (1..=3).filter(|node| *node != leader).chain([leader]);
        for node in order {
            restart(cluster, node, None);
            load.goes_on();
        }
        // One goes back, and leads the new ones for a while.
        let back = cluster.follower();
        restart(cluster, back, Some(old.clone()));
        crate::faults::move_leader(cluster, back);
        load.goes_on();
        restart(cluster, back, None);
    });
    // Only new programs are left, which have read what the old ones wrote.
    assert_eq!(notes.unhidden, Vec::<String>::new());
}
