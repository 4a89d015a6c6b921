//! A new cluster of one, crashed at every step, and what is refused.

use super::rejoin_tests::{Driver, NEW, OLD, files, identity, machine, open, used};
use super::*;
use crate::base::{NodeId, Term};
use crate::env::Disk;
use crate::env::sim::{CrashKind, SimDisk};
use crate::raft::{Entry, IoId, LogView, Persist};
use crate::raft_log::{LogImage, RaftLog};
use std::path::Path;

const SEGMENT_BYTES: u64 = 8 << 10;

fn dir() -> &'static Path {
    Path::new("data")
}

fn replica(node: u64, incarnation: u64) -> ReplicaId {
    ReplicaId { node: NodeId(node), incarnation }
}

fn prepare(disk: &SimDisk, incarnation: u64) -> Result<Recovery, RecoverError> {
    Recovery::prepare(&machine(disk).0, dir(), fresh(incarnation), &NewCluster::default())
}

/// What a run of `beachd recover` draws.
fn fresh(incarnation: u64) -> (u64, ClusterUid) {
    (incarnation, ClusterUid(incarnation ^ 0xff00))
}

fn recover(disk: &SimDisk, incarnation: u64) -> Result<RecoveryPlan, RecoverError> {
    prepare(disk, incarnation)?.carry_out()
}

/// Writes to the log of a node that is not running what a leader would have sent it.
fn append(disk: &SimDisk, payloads: Vec<bytes::Bytes>) -> LogIndex {
    let (mut log, recovery) =
        RaftLog::open(&machine(disk).0, &dir().join("raft"), SEGMENT_BYTES).unwrap();
    let (first, term) = (recovery.last.0.next(), recovery.hard_state.term);
    let entry = |(n, payload)| Entry { index: LogIndex(first.0 + n), term, payload };
    let entries: Vec<Entry> = (0u64..).zip(payloads).map(entry).collect();
    let last = entries.last().unwrap().index;
    log.submit(Persist { io: IoId(1), hard_state: None, truncate_from: None, entries });
    log.close_blocking().unwrap();
    last
}

fn put(key: &str) -> bytes::Bytes {
    let mut batch = WriteBatch::new();
    batch.put(key.as_bytes(), b"tail").unwrap();
    batch.as_bytes().to_vec().into()
}

/// The only node that is left of three: it has 60 keys, and 5 more in its log that it does not know to be committed.
fn minority() -> SimDisk {
    let disk = used();
    let members = Membership::of_voters([replica(1, 1), replica(2, 2), replica(3, OLD)]);
    let tail = (0..5).map(|n| put(&format!("tail{n}")));
    append(&disk, [members.to_entry()].into_iter().chain(tail).collect());
    // What a power loss can take is gone.
    disk.crash(CrashKind::PowerLoss);
    disk.restart();
    disk
}

fn get(driver: &mut Driver, key: &str) -> bool {
    let origin = Origin { conn: 2, request_id: 1 };
    let get = Request::Get { key: key.as_bytes(), snapshot: SequenceNumber::ZERO };
    driver.request(origin, get, 10_000);
    driver.settle();
    matches!(driver.take_reply(origin), Some(Response::Value { .. }))
}

/// The node opens, leads alone, and has everything.
fn check_serves(disk: &SimDisk, incarnation: u64, tail: bool, context: &str) {
    let (mut driver, sim) = open(disk).unwrap_or_else(|e| panic!("{context}: {e}"));
    driver.pass(100);
    let me = replica(3, incarnation);
    assert_eq!(driver.node.replica(), me, "{context}");
    assert!(driver.node.is_ready() && driver.fatal.is_none(), "{context}");
    assert_eq!(driver.node.role(), Role::Leader, "{context}");
    assert_eq!(driver.node.raft().membership(), &Membership::of_voters([me]), "{context}");
    let applied = driver.node.applied();
    let (_, members) = driver.node.replicated.members_at(applied).unwrap();
    assert_eq!(members, &Membership::of_voters([me]), "{context}: the row of the members");
    for id in 1..=60 {
        assert!(get(&mut driver, &format!("key{id:02}")), "{context}: key {id}");
    }
    for n in 0..5 {
        assert_eq!(get(&mut driver, &format!("tail{n}")), tail, "{context}: tail {n}");
    }
    drop(driver);
    sim.jobs.abandon();
}

#[test]
fn a_node_becomes_a_cluster_of_itself_with_all_that_its_log_holds() {
    let disk = minority();
    let before = files(&disk, dir());
    {
        let (mut driver, sim) = open(&disk.fork(1)).unwrap();
        driver.pass(5_000);
        assert!(!driver.node.is_ready(), "one of three is no quorum");
        sim.jobs.abandon();
    }
    let recovery = prepare(&disk, NEW).unwrap();
    let plan = recovery.plan().clone();
    assert_eq!(files(&disk, dir()), before, "looking changes nothing");
    assert_eq!((plan.before, plan.resumed), (replica(3, OLD), false));
    assert_eq!(plan.others, Membership::of_voters([replica(1, 1), replica(2, 2)]));
    assert!(plan.applied.0 >= LogIndex(30) && plan.applied.0 < plan.last.0, "{plan:?}");
    drop(recovery);
    assert_eq!(recover(&disk, NEW).unwrap(), plan);
    disk.crash(CrashKind::PowerLoss);
    disk.restart();
    assert!(identity(&disk).contains("\nincarnation 000000000000beac\ncrc32c "));
    let image = LogImage::read(&machine(&disk).0, &dir().join("raft")).unwrap();
    let term = Term(plan.highest.0 + crate::limits::RECOVERED_TERM_STEP);
    assert_eq!(image.last(), (plan.last.0.next(), term), "one entry, in a term of its own");
    assert_eq!(image.recovery.hard_state, HardState { term, vote: None });
    check_serves(&disk, NEW, true, "recovered");
    check_serves(&disk, NEW, true, "once more");
    // Alone already, it may do it again.
    let again = recover(&disk, 99).unwrap();
    assert!(again.others.is_empty() && again.before == replica(3, NEW), "{again:?}");
    check_serves(&disk, 99, true, "again");
}

#[test]
fn a_crash_at_any_step_of_a_recovery_leaves_the_old_node_or_one_that_a_second_run_finishes() {
    let base = minority();
    let before = files(&base, dir());
    let (mut old, mut refused, mut logged) = (0, 0, 0);
    for step in 0.. {
        let mut finished = false;
        for (seed, kind) in
            [(1, CrashKind::Process), (2, CrashKind::PowerLoss), (3, CrashKind::PowerLoss)]
        {
            let context = format!("step {step}, {kind:?} {seed}");
            let disk = base.fork(seed);
            disk.crash_at(disk.op_count() + step);
            finished = recover(&disk, NEW).is_ok();
            disk.crash(kind);
            disk.restart();
            let (looked, opened) = (disk.fork(8), disk.fork(8));
            let looked = LogImage::read(&machine(&looked).0, &dir().join("raft")).unwrap();
            let opened =
                RaftLog::open(&machine(&opened).0, &dir().join("raft"), SEGMENT_BYTES).unwrap().1;
            assert_eq!(looked.recovery.memberships, opened.memberships, "{context}");
            assert_eq!(looked.recovery.hard_state, opened.hard_state, "{context}");
            assert_eq!((looked.first_index(), looked.last()), (opened.first, opened.last));
            let text = identity(&disk);
            let mut incarnation = NEW;
            if text.contains("incarnation 0000000000000007") {
                assert!(!finished, "{context}: it said that it was done");
                let mut found = files(&disk, dir());
                found.remove("IDENTITY.tmp");
                assert_eq!(found, before, "{context}: the old node");
                drop(open(&disk.fork(9)).unwrap_or_else(|e| panic!("{context}: {e}")));
                (old, incarnation) = (old + 1, 99);
            } else if text.contains("recovering 0000000000000007") {
                assert!(!finished, "{context}: it said that it was done");
                let error = open(&disk.fork(9)).map(|_| ()).unwrap_err();
                let unrecovered = IdentityError::Unrecovered { path: "data/IDENTITY".into() };
                assert_eq!(error.to_string(), unrecovered.to_string(), "{context}");
                refused += 1;
                logged += u32::from(opened.memberships.last().unwrap().1.is_voter(replica(3, NEW)));
            } else {
                let (_, members) = opened.memberships.last().unwrap();
                assert_eq!(members, &Membership::of_voters([replica(3, NEW)]), "{context}: done");
                incarnation = 99;
            }
            let plan = recover(&disk, 99).unwrap_or_else(|e| panic!("{context}: {e}"));
            assert_eq!(plan.resumed, text.contains("recovering "), "{context}");
            assert_eq!(plan.identity.incarnation, incarnation, "{context}");
            if incarnation == NEW {
                assert_eq!(plan.others.voter_count(), 2, "{context}: {plan:?}");
            }
            if (step + seed) % 3 == 0 || finished {
                check_serves(&disk, incarnation, true, &context);
            }
        }
        if finished {
            break;
        }
    }
    assert!(old > 5 && refused > 10 && logged > 3, "{old} {refused} {logged}");
}

#[test]
fn a_full_disk_stops_a_recovery_that_goes_on_when_there_is_room() {
    let disk = minority();
    let room = (0..64).find(|&kib| {
        let disk = disk.fork(kib);
        disk.set_capacity(Some(disk.used_bytes() + (kib << 10)));
        let first = recover(&disk, NEW);
        disk.set_capacity(None);
        if let Err(error) = &first {
            assert!(error.to_string().contains("space"), "{error}");
            let plan = recover(&disk, NEW + 1).unwrap();
            let begun = if plan.resumed { NEW } else { NEW + 1 };
            assert_eq!(plan.identity.incarnation, begun);
            check_serves(&disk, begun, true, &format!("{kib} KiB"));
        }
        first.is_ok()
    });
    assert!(room > Some(0), "{room:?}");
}

#[test]
fn what_cannot_become_a_cluster_is_left_as_it_is() {
    let refused = |disk: &SimDisk, what: &str| {
        let before = files(disk, dir());
        let error = prepare(disk, NEW).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
        assert_eq!(files(disk, dir()), before, "{what}");
    };
    let base = minority();
    let (driver, _sim) = open(&base).unwrap();
    refused(&base, "stop the beachd that runs on this directory first");
    drop(driver);
    assert!(matches!(prepare(&base, OLD), Err(RecoverError::SameIncarnation { .. })));

    for part in ["raft", "engine"] {
        let disk = base.fork(1);
        let list = disk.list(&dir().join(part)).unwrap();
        let name = &list
            .iter()
            .find(|e| e.name.ends_with(".rlog") || e.name.ends_with(".sst"))
            .unwrap()
            .name;
        let path = dir().join(part).join(name);
        let at = disk.read_file(&path).unwrap().len() as u64;
        disk.flip(&path, if part == "raft" { 200 } else { at - 20 }, 1);
        refused(&disk, &path.display().to_string());
        refused(&disk, "Choose another member whose copy is whole");
    }
    let disk = base.fork(2);
    for file in disk.list(&dir().join("raft")).unwrap() {
        disk.remove(&dir().join("raft").join(file.name)).unwrap();
    }
    refused(&disk, "log segments are missing");

    let disk = base.fork(3);
    rejoin(&disk, dir(), 99, &Stated::default()).unwrap();
    refused(&disk, "this node has never been a member of a cluster");
    let disk = base.fork(4);
    disk.crash_at(disk.op_count() + 20);
    rejoin(&disk, dir(), 99, &Stated::default()).unwrap_err();
    disk.crash(CrashKind::Process);
    disk.restart();
    refused(&disk, "beachd rejoin was interrupted");

    let disk = SimDisk::new(1);
    disk.write_file("data/family.jpg", b"us");
    refused(&disk, "this is no data directory of a node");
    assert!(disk.list(dir()).unwrap().iter().all(|e| e.name != "LOCK"), "not even a lock");
}

#[test]
fn a_new_name_is_the_new_clusters_and_an_interrupted_run_keeps_it() {
    let disk = minority();
    let wishes = |name: &str| NewCluster {
        cluster_id: Some(name.into()),
        peer_address: Some("a:7401".into()),
        client_address: None,
    };
    let run =
        |wishes| Recovery::prepare(&machine(&disk).0, dir(), fresh(NEW), &wishes)?.carry_out();
    let error = run(wishes("two words")).unwrap_err().to_string();
    assert!(error.starts_with("cluster-id: must be 1 to 255"), "{error}");
    disk.crash_at(disk.op_count() + 12);
    run(wishes("lake")).unwrap_err();
    disk.crash(CrashKind::Process);
    disk.restart();
    assert!(identity(&disk).contains("cluster-id lake\n"), "it was begun");
    let error = run(wishes("pond")).unwrap_err().to_string();
    assert!(error.contains("named the new cluster lake, not pond"), "{error}");
    let plan = run(wishes("lake")).unwrap();
    assert_eq!((plan.identity.cluster_id.as_str(), plan.resumed), ("lake", true));
    assert_eq!(plan.member.peer_address, "a:7401");
    let error = open(&disk).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("belongs to cluster-id lake"), "{error}");
    let again = recover(&disk, 99).unwrap();
    assert_eq!(again.member.peer_address, "a:7401", "kept when nobody says another");
}

#[test]
fn a_node_that_was_removed_is_told_so() {
    let disk = used();
    append(&disk, vec![Membership::of_voters([replica(1, 1), replica(2, 2)]).to_entry()]);
    let plan = prepare(&disk, NEW).unwrap().plan().clone();
    assert_eq!((plan.role, plan.others.voter_count()), (None, 2));
    recover(&disk, NEW).unwrap();
    check_serves(&disk, NEW, false, "removed");
}
