//! Giving up a copy, crashed at every step.

use super::sim::SimDriver;
use super::*;
use crate::base::batch::{BatchRef, WriteBatch};
use crate::base::{NodeId, ReplicaId, checksum};
use crate::env::Disk;
use crate::env::sim::{self, CrashKind, SimDisk, SimHandles};
use crate::raft_log::RaftLog;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

pub(super) type Driver = SimDriver<RaftLog, EngineMachine>;

pub(super) const OLD: u64 = 7;
pub(super) const NEW: u64 = 0xbeac;
const ASIDE: &str = "data/damaged-0000000000000007";

fn config() -> NodeConfig {
    let new = NodeConfig::new("data", "beach", NodeId(3), OLD);
    NodeConfig { memtable_bytes: 4 << 10, segment_bytes: 8 << 10, reserve_bytes: 0, ..new }
}

pub(super) fn machine(disk: &SimDisk) -> (Env, SimHandles) {
    let (mut env, mut sim) = sim::env(1);
    env.disk = Arc::new(disk.clone());
    sim.disk = disk.clone();
    (env, sim)
}

pub(super) fn open(disk: &SimDisk) -> Result<(Driver, SimHandles), OpenError> {
    let (env, sim) = machine(disk);
    Node::open(config(), env).map(|node| (SimDriver::new(node, &sim), sim))
}

/// A disk with a node that has written, flushed, and closed.
pub(super) fn used() -> SimDisk {
    let disk = SimDisk::new(1);
    let (mut driver, sim) = open(&disk).unwrap();
    driver.settle();
    for id in 1..=60 {
        let mut batch = WriteBatch::new();
        batch.put(format!("key{id:02}").as_bytes(), &[id as u8; 300]).unwrap();
        let batch = BatchRef::parse(batch.as_bytes()).unwrap();
        let origin = Origin { conn: 1, request_id: id };
        driver.request(origin, Request::Write { opcode: proto::Opcode::Write, batch }, 10_000);
        driver.settle();
    }
    assert!(driver.node.stats(Nanos(0)).engine["flushes"].as_u64() >= Some(1));
    driver.event(Event::Drain);
    driver.settle();
    assert!(driver.drained);
    drop(driver);
    sim.jobs.abandon();
    // What a power loss can take is gone.
    disk.crash(CrashKind::PowerLoss);
    disk.restart();
    disk
}

/// Every file under `dir` but locks, with length and sum, by its path inside `dir`.
pub(super) fn files(disk: &SimDisk, dir: &Path) -> BTreeMap<String, (usize, u32)> {
    let mut out = BTreeMap::new();
    for entry in disk.list(dir).unwrap() {
        let path = dir.join(&entry.name);
        if entry.is_dir {
            let inside = files(disk, &path);
            out.extend(
                inside.into_iter().map(|(name, bytes)| (format!("{}/{name}", entry.name), bytes)),
            );
        } else if entry.name != "LOCK" {
            let bytes = disk.read_file(&path).unwrap();
            out.insert(entry.name, (bytes.len(), checksum::crc32c(&bytes)));
        }
    }
    out
}

pub(super) fn identity(disk: &SimDisk) -> String {
    String::from_utf8(disk.read_file("data/IDENTITY").unwrap()).unwrap()
}

/// The node of `disk` is new, waits to be added, and never leads.
fn check_waits(disk: &SimDisk, context: &str) {
    let (mut driver, sim) = open(disk).unwrap_or_else(|e| panic!("{context}: {e}"));
    let replica = ReplicaId { node: NodeId(3), incarnation: NEW };
    assert_eq!(driver.node.identity().replica(), replica, "{context}");
    for _ in 0..100 {
        sim.clock.advance(1_000_000_000);
        driver.event(Event::Tick);
        driver.turn();
        sim.jobs.run_all();
    }
    assert!(!driver.node.is_ready() && driver.fatal.is_none(), "{context}: it leads itself");
    assert!(driver.sent.is_empty(), "{context}: it asks for votes");
}

#[test]
fn the_data_moves_aside_and_the_node_waits_to_be_added() {
    let disk = used();
    let before = files(&disk, Path::new("data"));
    let dir = Path::new("data");
    let done = rejoin(&disk, dir, NEW, &Stated::default()).unwrap();
    assert_eq!(done.moved_to.as_deref(), Some(Path::new(ASIDE)));
    assert_eq!((done.identity.incarnation, done.identity.joining), (NEW, true));
    assert_eq!(files(&disk, Path::new(ASIDE)), before, "nothing is lost");
    assert!(identity(&disk).contains("\nincarnation 000000000000beac\njoining yes\ncrc32c "));
    let again = rejoin(&disk, dir, 99, &Stated::default()).unwrap();
    assert_eq!((again.identity, again.moved_to), (done.identity, None), "there is no data since");
    check_waits(&disk, "rejoined");
    // It has been open since, so there is data to give up.
    let third = rejoin(&disk, dir, 99, &Stated::default()).unwrap();
    assert_eq!(third.moved_to.as_deref(), Some(Path::new("data/damaged-000000000000beac")));
    assert_eq!(files(&disk, Path::new(ASIDE)), before, "what was given up before stays there");
}

#[test]
fn a_crash_at_any_step_leaves_the_old_node_or_one_that_a_second_run_finishes() {
    let base = used();
    let before = files(&base, Path::new("data"));
    let dir = Path::new("data");
    let (mut old, mut refused) = (0, 0);
    for step in 0.. {
        let mut finished = false;
        for (seed, kind) in
            [(1, CrashKind::Process), (2, CrashKind::PowerLoss), (3, CrashKind::PowerLoss)]
        {
            let context = format!("step {step}, {kind:?} {seed}");
            let disk = base.fork(seed);
            disk.crash_at(disk.op_count() + step);
            finished = rejoin(&disk, dir, NEW, &Stated::default()).is_ok();
            disk.crash(kind);
            disk.restart();
            let text = identity(&disk);
            if text.contains("incarnation 0000000000000007") {
                assert!(!finished, "{context}: it said that it was done");
                let found: BTreeMap<_, _> = files(&disk, dir)
                    .into_iter()
                    .filter(|(name, _)| !name.starts_with("damaged-") && name != "IDENTITY.tmp")
                    .collect();
                assert_eq!(found, before, "{context}: the old node");
                old += 1;
            } else if text.contains("moving ") {
                assert!(!finished, "{context}: it said that it was done");
                let error = open(&disk.fork(9)).map(|_| ()).unwrap_err();
                let unfinished = IdentityError::Unfinished {
                    path: "data/IDENTITY".into(),
                    to: "damaged-0000000000000007".into(),
                };
                assert_eq!(error.to_string(), unfinished.to_string(), "{context}");
                refused += 1;
            }
            let done = rejoin(&disk, dir, NEW, &Stated::default())
                .unwrap_or_else(|e| panic!("{context}: {e}"));
            assert_eq!(done.identity.incarnation, NEW, "{context}");
            assert_eq!(files(&disk, Path::new(ASIDE)), before, "{context}: nothing is lost");
            assert_eq!(files(&disk, dir).keys().filter(|n| !n.starts_with("damaged-")).count(), 1);
            if step % 5 == 0 {
                check_waits(&disk, &context);
            }
        }
        if finished {
            break;
        }
    }
    assert!(old > 5 && refused > 5, "{old} {refused}");
}

#[test]
fn an_identity_that_cannot_be_read_must_be_said() {
    let dir = Path::new("data");
    for missing in [true, false] {
        let disk = used();
        match missing {
            true => disk.remove(Path::new("data/IDENTITY")).unwrap(),
            false => disk.flip("data/IDENTITY", 30, 1),
        }
        disk.sync_dir(dir).unwrap();
        let before = files(&disk, dir);
        let error = rejoin(&disk, dir, NEW, &Stated::default()).unwrap_err();
        assert!(error.to_string().contains("say whose data this is: --cluster-id"), "{error}");
        assert_eq!(files(&disk, dir), before, "nothing was changed");
        let stated = Stated { cluster_id: Some("beach".into()), node_id: Some(NodeId(3)) };
        let steps = (0..200).find(|&step| {
            let disk = disk.fork(step);
            disk.crash_at(disk.op_count() + step);
            let finished = rejoin(&disk, dir, NEW, &stated).is_ok();
            disk.crash(CrashKind::PowerLoss);
            disk.restart();
            let context = format!("missing {missing}, step {step}");
            if !finished {
                match open(&disk.fork(9)) {
                    Ok((driver, _)) => assert_eq!(driver.node.identity().incarnation, NEW),
                    Err(OpenError::Identity(_)) => {}
                    Err(error) => panic!("{context}: {error}"),
                }
            }
            let done =
                rejoin(&disk, dir, NEW, &stated).unwrap_or_else(|e| panic!("{context}: {e}"));
            let aside = done.moved_to.unwrap_or_else(|| Path::new("data/damaged-unknown").into());
            assert_eq!(files(&disk, &aside), before, "{context}");
            finished
        });
        assert!(steps > Some(10), "{steps:?}");
        rejoin(&disk, dir, NEW, &stated).unwrap();
        check_waits(&disk, "stated");
    }
}

#[test]
fn what_is_not_this_nodes_is_left_alone() {
    let dir = Path::new("data");
    let disk = used();
    let stated = Stated { cluster_id: Some("lake".into()), node_id: None };
    let error = rejoin(&disk, dir, NEW, &stated).unwrap_err();
    assert!(error.to_string().contains("belongs to cluster-id beach"), "{error}");
    let error = rejoin(&disk, dir, OLD, &Stated::default()).unwrap_err();
    assert!(matches!(error, RejoinError::SameIncarnation { .. }), "{error}");
    let (driver, _sim) = open(&disk).unwrap();
    let before = files(&disk, dir);
    let error = rejoin(&disk, dir, NEW, &Stated::default()).unwrap_err();
    assert!(matches!(error, RejoinError::Locked { .. }), "{error}");
    drop(driver);
    let empty = SimDisk::new(1);
    let no_directory = rejoin(&empty, dir, NEW, &Stated::default()).unwrap_err();
    empty.create_dir_all(dir).unwrap();
    let no_file = rejoin(&empty, dir, NEW, &Stated::default()).unwrap_err();
    for error in [no_directory, no_file] {
        assert!(matches!(error, RejoinError::NoData { .. }), "{error}");
    }
    assert_eq!(files(&disk, dir), before);
}

#[test]
fn damage_that_may_be_committed_is_refused_with_the_way_out() {
    let disk = used();
    let raft = Path::new("data/raft");
    let name =
        disk.list(raft).unwrap().into_iter().find(|e| e.name.ends_with(".rlog")).unwrap().name;
    let segment = raft.join(name);
    disk.flip(&segment, 200, 1);
    let before = files(&disk, raft);
    let error = open(&disk).map(|_| ()).unwrap_err();
    assert!(matches!(error, OpenError::Damaged { part: "raft log", .. }), "{error}");
    let text = error.to_string();
    let place = format!("raft log: {}: corrupt at offset ", segment.display());
    assert!(text.starts_with(&place), "{text}");
    assert!(text.ends_with("beachd rejoin --data-dir data"), "{text}");
    assert_eq!(files(&disk, raft), before, "nothing was cut off");
    rejoin(&disk, Path::new("data"), NEW, &Stated::default()).unwrap();
    check_waits(&disk, "after damage");
}
