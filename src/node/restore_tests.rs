//! Checkpoints of a node, what is made of them, a crash at every step of that, and checks of all files.

use super::rejoin_tests::{Driver, OLD, files, machine, open, used};
use super::*;
use crate::base::NodeId;
use crate::engine::checkpoint::Description;
use crate::env::sim::{CrashKind, FailKind, FailOn, FailPoint, OpKind, SimDisk, SimHandles};
use crate::env::{Disk, Lane};
use crate::proto::{AdminRequest, Opcode};
use std::path::Path;

const COPY: &str = "backups/monday";
const NEW_DIR: &str = "new";

fn ask(driver: &mut Driver, request: Request<'_>) -> Response {
    let origin = Origin { conn: 9, request_id: 1 };
    driver.request(origin, request, 10_000);
    driver.settle();
    driver.take_reply(origin).expect("an answer")
}

fn checkpoint(driver: &mut Driver, dir: &str) -> Response {
    ask(driver, Request::Admin(AdminRequest::Checkpoint { dir }))
}

fn put(driver: &mut Driver, key: &str) {
    let mut batch = crate::base::batch::WriteBatch::new();
    batch.put(key.as_bytes(), b"value").unwrap();
    let batch = BatchRef::parse(batch.as_bytes()).unwrap();
    let response = ask(driver, Request::Write { opcode: Opcode::Write, batch });
    assert!(matches!(response, Response::Written { .. }), "{response:?}");
}

fn has(driver: &mut Driver, key: &str) -> bool {
    let get = Request::Get { key: key.as_bytes(), snapshot: SequenceNumber::ZERO };
    matches!(ask(driver, get), Response::Value { .. })
}

fn error_text(response: Response) -> (ErrorCode, String) {
    match response {
        Response::Error(error) => (error.code, error.to_string()),
        other => panic!("{other:?}"),
    }
}

fn stop(driver: Driver, sim: &SimHandles) {
    drop(driver);
    sim.jobs.abandon();
}

/// A disk with a checkpoint of a node that has 60 keys and `last`, durable as far as it was promised.
fn copied() -> SimDisk {
    let disk = used();
    let (mut driver, sim) = open(&disk).unwrap();
    driver.settle();
    put(&mut driver, "last");
    let response = checkpoint(&mut driver, &format!("/{COPY}"));
    let Response::Written { index, last_seq, .. } = response else { panic!("{response:?}") };
    put(&mut driver, "after");
    stop(driver, &sim);
    disk.crash(CrashKind::PowerLoss);
    disk.restart();
    let description = Description::read(&disk, &Path::new("/").join(COPY)).unwrap();
    assert_eq!((description.applied.0, description.last_seq), (index, last_seq));
    let origin = description.origin.unwrap();
    assert_eq!((origin.cluster_id.as_str(), origin.replica.incarnation), ("beach", OLD));
    assert_eq!(origin.members.1, Membership::of_voters([origin.replica]));
    disk
}

fn plan(incarnation: u64) -> RestorePlan {
    RestorePlan {
        from: Path::new("/").join(COPY),
        data_dir: NEW_DIR.into(),
        cluster_id: "lake".into(),
        node_id: NodeId(5),
        incarnation,
        cluster: ClusterUid(incarnation ^ 0xff00),
        peer_address: "h:2".into(),
        client_address: "h:1".into(),
    }
}

fn restored(disk: &SimDisk) -> Result<(Driver, SimHandles), OpenError> {
    let (env, sim) = machine(disk);
    let config = NodeConfig::new(NEW_DIR, "lake", NodeId(5), 99);
    Node::open(config, env).map(|node| (Driver::new(node, &sim), sim))
}

fn check_restored(disk: &SimDisk, incarnation: u64, context: &str) {
    let (mut driver, sim) = restored(disk).unwrap_or_else(|e| panic!("{context}: {e}"));
    driver.pass(100);
    let me = ReplicaId { node: NodeId(5), incarnation };
    assert_eq!((driver.node.replica(), driver.node.role()), (me, Role::Leader), "{context}");
    assert_eq!(driver.node.cluster(), ClusterUid(incarnation ^ 0xff00), "{context}");
    let members = driver.node.raft().membership().clone();
    assert_eq!(members.members().count(), 1, "{context}");
    assert_eq!(members.replica(me).unwrap().peer_address, "h:2", "{context}");
    for id in 1..=60 {
        assert!(has(&mut driver, &format!("key{id:02}")), "{context}: key {id}");
    }
    assert!(has(&mut driver, "last") && !has(&mut driver, "after"), "{context}");
    put(&mut driver, "anew");
    let applied = driver.node.applied();
    let (_, row) = driver.node.replicated.members_at(applied).unwrap();
    assert_eq!(row, &members, "{context}: the row of the members");
    stop(driver, &sim);
}

#[test]
fn a_checkpoint_becomes_a_cluster_of_one_with_what_was_applied_before_it() {
    let disk = copied();
    let before = files(&disk, &Path::new("/").join(COPY));
    let done = restore(&machine(&disk).0, &plan(7)).unwrap();
    assert_eq!((done.linked, done.copied_bytes), (done.description.tables, 0));
    disk.crash(CrashKind::PowerLoss);
    disk.restart();
    check_restored(&disk, 7, "restored");
    check_restored(&disk, 7, "once more");
    assert_eq!(files(&disk, &Path::new("/").join(COPY)), before, "the checkpoint is only read");
    let error = restore(&machine(&disk).0, &plan(8)).unwrap_err();
    assert!(matches!(error, RestoreError::NotEmpty { .. }), "{error}");
    let (mut driver, sim) = open(&disk).unwrap();
    driver.settle();
    assert!(has(&mut driver, "after"), "the source goes on");
    stop(driver, &sim);
}

#[test]
fn a_crash_at_any_step_of_a_restore_leaves_what_no_start_takes_and_the_next_run_finishes() {
    let base = copied();
    let (mut nothing, mut refused) = (0, 0);
    for step in 0.. {
        let mut finished = false;
        for (seed, kind) in
            [(1, CrashKind::Process), (2, CrashKind::PowerLoss), (3, CrashKind::PowerLoss)]
        {
            let context = format!("step {step}, {kind:?} {seed}");
            let disk = base.fork(seed);
            disk.crash_at(disk.op_count() + step);
            finished = restore(&machine(&disk).0, &plan(7)).is_ok();
            disk.crash(kind);
            disk.restart();
            let identity = disk.read_file("new/IDENTITY").unwrap_or_default();
            let text = String::from_utf8(identity).unwrap();
            if text.is_empty() || text.contains("restoring yes") {
                assert!(!finished, "{context}: it said that it was done");
                if text.is_empty() {
                    nothing += 1;
                } else {
                    let error = restored(&disk.fork(9)).map(|_| ()).unwrap_err();
                    let wanted = IdentityError::Unrestored { path: "new/IDENTITY".into() };
                    assert_eq!(error.to_string(), wanted.to_string(), "{context}");
                    refused += 1;
                }
                restore(&machine(&disk).0, &plan(8)).unwrap_or_else(|e| panic!("{context}: {e}"));
                if (step + seed) % 16 == 0 {
                    check_restored(&disk, 8, &context);
                }
            } else {
                check_restored(&disk, 7, &context);
            }
        }
        if finished {
            break;
        }
    }
    assert!(nothing > 3 && refused > 20, "{nothing} {refused}");
}

#[test]
fn a_failure_at_any_step_of_a_restore_is_told_and_the_next_run_finishes() {
    let base = copied();
    for error in [FailKind::Eio, FailKind::Enospc] {
        for step in 0.. {
            let disk = base.fork(step);
            let on = FailOn::Change(disk.op_count() + step);
            disk.fail(FailPoint { on, error, forever: step % 2 == 0 });
            let first = restore(&machine(&disk).0, &plan(7));
            disk.clear_faults();
            let context = format!("{error:?} at step {step}");
            match &first {
                Ok(_) => check_restored(&disk, 7, &context),
                Err(e) => {
                    assert!(!matches!(e, RestoreError::Damaged { .. }), "{context}: {e}");
                    match restore(&machine(&disk).0, &plan(8)) {
                        Ok(_) if step % 16 == 0 => check_restored(&disk, 8, &context),
                        Ok(_) => {}
                        // The very last sync failed: all of it is there.
                        Err(RestoreError::NotEmpty { .. }) => check_restored(&disk, 7, &context),
                        Err(e) => panic!("{context}: {e}"),
                    }
                }
            }
            if first.is_ok() && step % 2 == 0 {
                break;
            }
        }
    }
}

#[test]
fn a_damaged_checkpoint_is_refused_by_file_and_offset_and_nothing_is_made() {
    let base = copied();
    for (name, (bytes, _)) in files(&base, &Path::new("/").join(COPY)) {
        let disk = base.fork(1);
        let path = Path::new("/").join(COPY).join(&name);
        disk.flip(&path, bytes as u64 / 2, 1);
        let error = restore(&machine(&disk).0, &plan(7)).unwrap_err().to_string();
        let file = Path::new(&name).file_name().unwrap().to_str().unwrap();
        assert!(error.contains(file) && error.contains("offset"), "{name}: {error}");
        assert!(!disk.exists(Path::new(NEW_DIR)).unwrap(), "{name}");
        let (kind, report) = verify_dir(&machine(&disk).0, &Path::new("/").join(COPY)).unwrap();
        assert_eq!(kind, DirKind::Checkpoint);
        assert!(report.damaged > 0 && report.faults.join("").contains(file), "{name}: {report:?}");
    }
}

#[test]
fn what_a_restore_refuses() {
    let disk = copied();
    let env = machine(&disk).0;
    let refused = |change: &dyn Fn(&mut RestorePlan)| {
        let mut plan = plan(7);
        change(&mut plan);
        restore(&env, &plan).unwrap_err().to_string()
    };
    assert!(refused(&|p| p.cluster_id = "beach".into()).contains("a name of its own"));
    assert!(refused(&|p| p.cluster_id = "two words".into()).contains("cluster-id"));
    assert!(refused(&|p| p.data_dir = "data".into()).contains("not empty"));
    assert!(refused(&|p| p.from = "data".into()).contains("no checkpoint"));
    assert!(refused(&|p| p.node_id = NodeId(0)).contains("node-id"));
    assert!(!disk.exists(Path::new(NEW_DIR)).unwrap());
}

#[test]
fn one_checkpoint_at_a_time_and_never_over_anything() {
    let disk = used();
    let (mut driver, sim) = open(&disk).unwrap();
    driver.settle();
    put(&mut driver, "more");
    let (code, text) = error_text(checkpoint(&mut driver, "a/../b"));
    assert!(code == ErrorCode::BadRequest && text.contains(".."), "{text}");
    let first = Origin { conn: 1, request_id: 1 };
    driver.request(first, Request::Admin(AdminRequest::Checkpoint { dir: "one" }), 10_000);
    let second = Origin { conn: 1, request_id: 2 };
    driver.request(second, Request::Admin(AdminRequest::Checkpoint { dir: "two" }), 10_000);
    driver.settle();
    let (code, text) = error_text(driver.take_reply(second).unwrap());
    assert!(code == ErrorCode::Busy && text.contains("data/one"), "{text}");
    assert!(matches!(driver.take_reply(first), Some(Response::Written { .. })));
    let (code, text) = error_text(checkpoint(&mut driver, "one"));
    assert!(code == ErrorCode::BadRequest && text.contains("exists already"), "{text}");
    let status = driver.node.status(Nanos(0)).checkpoint.unwrap();
    assert_eq!((status.state, status.dir.as_str()), ("failed", "data/one"));
    stop(driver, &sim);
    // A checkpoint inside the data directory is in nobody's way.
    stop(open(&disk).unwrap().0, &sim);
}

#[test]
fn a_checkpoint_that_finds_no_space_is_refused_and_the_node_goes_on() {
    let disk = used();
    let (mut driver, sim) = open(&disk).unwrap();
    driver.settle();
    put(&mut driver, "more");
    let on = FailOn::Matching { op: Some(OpKind::Write), path: "one.tmp".into(), nth: 0 };
    disk.fail(FailPoint { on, error: FailKind::Enospc, forever: true });
    let (code, text) = error_text(checkpoint(&mut driver, "/one"));
    assert_eq!(code, ErrorCode::NoSpace, "{text}");
    disk.clear_faults();
    assert!(!disk.exists(Path::new("/one.tmp")).unwrap(), "what it made is removed");
    put(&mut driver, "and more");
    assert!(matches!(checkpoint(&mut driver, "/one"), Response::Written { .. }));
    stop(driver, &sim);
}

#[test]
fn a_late_checkpoint_is_made_all_the_same() {
    let disk = used();
    let (mut driver, sim) = open(&disk).unwrap();
    driver.settle();
    sim.jobs.hold(Lane::Flush, true);
    put(&mut driver, "more");
    let origin = Origin { conn: 1, request_id: 1 };
    driver.request(origin, Request::Admin(AdminRequest::Checkpoint { dir: "/one" }), 100);
    driver.pass(200);
    let (code, _) = error_text(driver.take_reply(origin).unwrap());
    assert_eq!(code, ErrorCode::DeadlineExceeded);
    sim.jobs.hold(Lane::Flush, false);
    driver.pass(200);
    Description::read(&disk, Path::new("/one")).unwrap();
    stop(driver, &sim);
}

fn verify(driver: &mut Driver, rate: u64) -> VerifyStatus {
    let response = ask(driver, Request::Admin(AdminRequest::Verify { rate }));
    assert!(matches!(response, Response::Written { .. }), "{response:?}");
    driver.node.status(Nanos(0)).verify.unwrap()
}

#[test]
fn a_check_of_all_files_reads_everything_in_slices_at_its_rate() {
    let disk = used();
    let (mut driver, sim) = open(&disk).unwrap();
    driver.settle();
    let status = verify(&mut driver, 0);
    assert!(status.done && status.report.damaged == 0, "{status:?}");
    let report = &status.report;
    assert!(report.tables > 0 && report.manifests == 1 && report.segments > 0, "{report:?}");
    assert!(report.bytes >= report.total_bytes, "{report:?}");
    // A second's worth is all of it: it takes about a second, and puts go on.
    let all = report.bytes;
    let status = verify(&mut driver, all);
    assert!(!status.done, "{status:?}");
    put(&mut driver, "meanwhile");
    let busy = ask(&mut driver, Request::Admin(AdminRequest::Verify { rate: 0 }));
    assert_eq!(error_text(busy).0, ErrorCode::Busy);
    driver.pass(300);
    assert!(!driver.node.status(Nanos(0)).verify.unwrap().done);
    driver.pass(3_000);
    let status = driver.node.status(Nanos(0)).verify.unwrap();
    assert!(status.done && status.report.damaged == 0, "{status:?}");
    stop(driver, &sim);
}

#[test]
fn damage_in_any_file_is_found_online_and_offline_and_an_unreadable_one_too() {
    let base = used();
    let mut checked = 0;
    for (name, (bytes, _)) in files(&base, Path::new("data")) {
        let disk = base.fork(1);
        let table = name.ends_with(".sst");
        if !table && !name.ends_with(".rlog") {
            continue;
        }
        let path = Path::new("data").join(&name);
        let file = path.file_name().unwrap().to_str().unwrap();
        let before = files(&disk, Path::new("data"));
        let (_, report) = verify_dir(&machine(&disk).0, Path::new("data")).unwrap();
        assert_eq!((report.damaged, &report.faults[..]), (0, &[][..]), "{name}");
        assert_eq!(files(&disk, Path::new("data")), before, "it changes nothing");
        let (mut driver, sim) = open(&disk).unwrap();
        driver.settle();
        if table {
            // A data block in the middle.
            disk.flip(&path, bytes as u64 / 3, 1);
            let report = verify(&mut driver, 0).report;
            assert_eq!(report.damaged, 1, "{name}: {report:?}");
            assert!(report.faults[0].contains(file), "{report:?}");
            assert!(report.faults[0].contains("offset"), "{report:?}");
            let on = FailOn::Matching { op: Some(OpKind::Read), path: file.into(), nth: 0 };
            disk.fail(FailPoint { on, error: FailKind::Eio, forever: true });
            let report = verify(&mut driver, 0).report;
            assert!(report.faults[0].contains("read"), "{report:?}");
            disk.clear_faults();
            put(&mut driver, "the node goes on");
        }
        stop(driver, &sim);
        let disk = base.fork(1);
        // The first record of a log, or a block.
        disk.flip(&path, if table { bytes as u64 / 3 } else { 64 + 33 }, 1);
        let (kind, report) = verify_dir(&machine(&disk).0, Path::new("data")).unwrap();
        assert_eq!(kind, DirKind::Node);
        assert!(report.damaged > 0 && report.faults.join("").contains(file), "{name}: {report:?}");
        checked += 1;
    }
    assert!(checked > 3, "{checked}");
}
