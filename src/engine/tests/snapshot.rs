//! Snapshots between engines: what is pinned, sent, checked, and installed, and what a crash or a fault in the middle leaves.

use super::*;
use crate::base::InternalOp;
use crate::engine::InstallFault;
use crate::engine::snapshot::SnapshotBody;
use crate::env::sim::{CrashKind, FailKind, FailOn, FailPoint, OpKind, SimDisk};
use std::path::Path;
use std::sync::Arc;

const DIR: &str = "db/engine";

impl Rig {
    /// A write with a row of internal state.
    fn write_with_row(&mut self, ops: &[(&str, &str)], row: (&str, &str)) {
        let mut batch = WriteBatch::new();
        for (key, value) in ops {
            batch.put(key.as_bytes(), value.as_bytes()).unwrap();
        }
        let index = LogIndex(self.next_index);
        self.next_index += 1;
        let internal = [InternalOp::put(row.0.as_bytes(), row.1.as_bytes().to_vec())];
        let user = BatchRef::parse(batch.as_bytes()).unwrap();
        self.engine.apply(index, Term(1), Some(user), &internal);
    }

    /// Runs all jobs and what they start; returns what the owner hears.
    fn outcomes(&mut self) -> Result<Vec<JobOutcome>, EngineError> {
        let mut heard = Vec::new();
        loop {
            self.sim.jobs.run_all();
            let mut done = Vec::new();
            self.env.jobs.poll(&mut done);
            if done.is_empty() {
                return Ok(heard);
            }
            for completion in done {
                match self.engine.job_done(completion)? {
                    JobOutcome::Nothing => {}
                    outcome => heard.push(outcome),
                }
            }
        }
    }

    /// Installs and says whether it worked: the rows, or why not.
    fn install(
        &mut self,
        files: SnapshotFiles,
    ) -> Result<Result<InternalRows, String>, EngineError> {
        self.engine.install(files);
        self.installed()
    }

    fn installed(&mut self) -> Result<Result<InternalRows, String>, EngineError> {
        let mut answer = None;
        for outcome in self.outcomes()? {
            match outcome {
                JobOutcome::SnapshotInstalled { index, term, rows } => {
                    assert_eq!((index, term), self.engine.applied());
                    assert!(answer.replace(Ok(rows)).is_none(), "one answer");
                }
                JobOutcome::SnapshotFailed { reason } => {
                    assert!(answer.replace(Err(reason)).is_none(), "one answer");
                }
                JobOutcome::Flushed { .. } => {}
                _ => panic!("whose is it?"),
            }
        }
        assert!(!self.engine.is_installing());
        Ok(answer.expect("an install is answered"))
    }

    fn all(&self) -> Vec<(String, String)> {
        self.scan(ScanOptions { start: b"a".to_vec(), ..ScanOptions::default() })
    }

    fn file_names(&self) -> Vec<String> {
        let files = self.env.disk.list(Path::new(DIR)).unwrap();
        files.into_iter().map(|f| f.name).collect()
    }

    fn tables_on_disk(&self) -> usize {
        self.file_names().iter().filter(|name| name.contains(".sst")).count()
    }
}

fn begin(to: &mut Rig, snapshot: &FileSnapshot) -> Result<SnapshotFiles, String> {
    to.engine.begin_install(snapshot.applied(), snapshot.bytes(), snapshot.body())
}

/// What stops nobody.
fn refusal(fault: InstallFault) -> String {
    match fault {
        InstallFault::Refused(reason) => reason,
        InstallFault::Fatal(error) => panic!("{error}"),
    }
}

/// Sends all of `snapshot` in pieces of `piece` bytes.
fn send(to: &mut Rig, snapshot: &FileSnapshot, piece: usize) -> Result<SnapshotFiles, String> {
    try_send(to, snapshot, piece).map_err(refusal)
}

fn try_send(
    to: &mut Rig,
    snapshot: &FileSnapshot,
    piece: usize,
) -> Result<SnapshotFiles, InstallFault> {
    let mut files = begin(to, snapshot).map_err(InstallFault::Refused)?;
    while files.written() < snapshot.bytes() {
        let at = files.written();
        let (data, crc) = snapshot.read(at, piece).run().unwrap();
        assert_eq!(crc, crate::base::checksum::crc32c(&data));
        files.write(at, data).run()?;
    }
    Ok(files)
}

/// Three flushes and something that is not flushed; entries 1 to 8.
fn leader() -> Rig {
    let mut rig = Rig::new(7);
    for round in 0..3 {
        rig.write(&[(&format!("k{round}"), Some("v")), ("shared", Some(&round.to_string()))]);
        rig.write_with_row(&[("user", &round.to_string())], ("row", &format!("r{round}")));
        rig.flush();
    }
    rig.write(&[("not-flushed", Some("x"))]);
    rig.write_with_row(&[], ("row", "not flushed"));
    rig
}

/// Entries 1 and 2 of another life: one flushed, one not.
fn follower(seed: u64) -> Rig {
    let mut rig = Rig::new(seed);
    rig.write(&[("old", Some("1"))]);
    rig.flush();
    rig.write(&[("old", Some("2"))]);
    rig
}

fn leaders_flushed() -> Vec<(String, String)> {
    let pairs = [("k0", "v"), ("k1", "v"), ("k2", "v"), ("shared", "2"), ("user", "2")];
    pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec()
}

fn row(value: &str) -> InternalRows {
    vec![([RESERVED_KEY_PREFIX, b"row"].concat(), Bytes::copy_from_slice(value.as_bytes()))]
}

#[test]
fn an_installed_snapshot_is_what_the_sender_had_flushed_and_nothing_else() {
    let mut from = leader();
    let snapshot = from.engine.file_snapshot().unwrap();
    assert_eq!(snapshot.applied(), (LogIndex(6), Term(1)), "no flush is forced");
    for piece in [1, 100, 1 << 20] {
        let mut to = follower(1);
        let files = send(&mut to, &snapshot, piece).unwrap();
        assert_eq!(to.all(), [("old".to_owned(), "2".to_owned())], "nothing counts yet");
        let rows = to.install(files).unwrap().unwrap();
        assert_eq!(rows, row("r2"));
        for reopened in [false, true] {
            if reopened {
                to.reopen().unwrap();
            }
            assert_eq!(to.all(), leaders_flushed());
            assert_eq!(to.engine.internal_rows().unwrap(), row("r2"));
            assert_eq!(to.engine.applied(), (LogIndex(6), Term(1)));
            assert_eq!(to.engine.flushed_applied(), (LogIndex(6), Term(1)));
            assert_eq!(to.engine.installed_from_snapshot(), Some((LogIndex(6), Term(1))));
            assert_eq!(to.engine.last_seq(), SequenceNumber(12));
            assert_eq!(to.tables_on_disk(), 3, "{:?}", to.file_names());
        }
        to.next_index = 7;
        to.write(&[("after", Some("1")), ("shared", None)]);
        to.flush();
        assert_eq!(to.engine.installed_from_snapshot(), None, "a flush is past it");
        to.reopen().unwrap();
        assert_eq!(to.engine.installed_from_snapshot(), None);
        assert_eq!((to.get("after").as_deref(), to.get("shared")), (Some("1"), None));
    }
}

#[test]
fn a_snapshot_of_no_ops_alone_has_no_files() {
    let mut from = Rig::new(1);
    assert!(from.engine.file_snapshot().is_none(), "nothing is flushed");
    from.engine.apply(LogIndex(4), Term(2), None, &[]);
    assert!(from.engine.file_snapshot().is_none(), "nothing is flushed");
    from.flush();
    let snapshot = from.engine.file_snapshot().unwrap();
    assert_eq!((snapshot.applied().0, snapshot.bytes()), (LogIndex(4), 0));
    assert_eq!(snapshot.read(0, 100).run().unwrap(), (Bytes::new(), 0));
    let mut to = Rig::new(2);
    let files = send(&mut to, &snapshot, 100).unwrap();
    assert_eq!(to.install(files).unwrap().unwrap(), []);
    to.reopen().unwrap();
    assert_eq!(to.engine.applied(), (LogIndex(4), Term(2)));
    assert_eq!(to.tables_on_disk(), 0);
}

#[test]
fn pitfall_24_a_snapshot_at_or_below_what_is_applied_is_refused() {
    let mut from = leader();
    let snapshot = from.engine.file_snapshot().unwrap();
    let mut to = follower(1);
    let files = send(&mut to, &snapshot, 1_000).unwrap();
    for _ in 3..=6 {
        to.write(&[("old", Some("3"))]);
    }
    let reason = begin(&mut to, &snapshot).err().unwrap();
    assert!(reason.contains("entry 6") && reason.contains("applied already"), "{reason}");
    // It was newer when its transfer began.
    let reason = to.install(files).unwrap().unwrap_err();
    assert!(reason.contains("applied already"), "{reason}");
    assert_eq!(to.get("old").as_deref(), Some("3"));
    assert_eq!(to.engine.applied().0, LogIndex(6));
    to.engine.tick(Nanos::ZERO);
    to.settle();
    assert_eq!(to.tables_on_disk(), 1, "{:?}", to.file_names());
}

#[test]
fn a_description_that_is_not_the_announced_one_is_refused() {
    let mut from = leader();
    let snapshot = from.engine.file_snapshot().unwrap();
    let mut to = follower(1);
    let ((index, term), bytes) = (snapshot.applied(), snapshot.bytes());
    for (applied, bytes) in
        [((index.next(), term), bytes), ((index, Term(9)), bytes), ((index, term), bytes + 1)]
    {
        let reason = to.engine.begin_install(applied, bytes, snapshot.body()).err().unwrap();
        assert!(reason.contains("is described as"), "{reason}");
    }
    let reason = to.engine.begin_install((index, term), bytes, b"BSNP").err().unwrap();
    assert!(reason.contains("snapshot description"), "{reason}");
    // Sequence numbers only grow with the log: one that is lower later is another cluster's.
    to.write(&[("x", Some("1")); 30]);
    let reason = begin(&mut to, &snapshot).err().unwrap();
    assert!(reason.contains("another history"), "{reason}");
}

#[test]
fn pieces_out_of_order_and_past_the_end_are_refused() {
    let mut from = leader();
    let snapshot = from.engine.file_snapshot().unwrap();
    let mut to = follower(1);
    let mut files = begin(&mut to, &snapshot).unwrap();
    let piece = |at, len| snapshot.read(at, len).run().unwrap().0;
    files.write(0, piece(0, 10)).run().unwrap();
    for (at, data) in [
        (0, piece(0, 10)),
        (11, piece(11, 10)),
        (10, Bytes::from(vec![0; snapshot.bytes() as usize])),
    ] {
        let reason = refusal(files.write(at, data).run().unwrap_err());
        assert!(reason.contains("does not follow on 10"), "{reason}");
    }
    let reason = to.install(files).unwrap().unwrap_err();
    assert!(reason.contains("10 of"), "{reason}");
    assert_eq!(to.tables_on_disk(), 1, "what came is gone: {:?}", to.file_names());
}

#[test]
fn an_abandoned_snapshot_leaves_no_files() {
    let mut from = leader();
    let snapshot = from.engine.file_snapshot().unwrap();
    let mut to = follower(1);
    let files = send(&mut to, &snapshot, 1_000).unwrap();
    assert_eq!(to.tables_on_disk(), 4);
    drop(files);
    to.engine.tick(Nanos::ZERO);
    to.settle();
    assert_eq!(to.tables_on_disk(), 1, "{:?}", to.file_names());

    let files = send(&mut to, &snapshot, 1_000).unwrap();
    to.reopen().unwrap();
    assert_eq!(to.tables_on_disk(), 1, "a new process removes them too: {:?}", to.file_names());
    drop(files);
}

#[test]
fn a_flipped_byte_anywhere_is_refused_by_file_and_offset() {
    let mut from = leader();
    let snapshot = from.engine.file_snapshot().unwrap();
    let good = snapshot.read(0, usize::MAX).run().unwrap().0;
    let mut to = follower(1);
    for at in (0..good.len()).step_by(7) {
        let mut bad = good.to_vec();
        bad[at] ^= 1 << (at % 8);
        let mut files = begin(&mut to, &snapshot).unwrap();
        let reason = refusal(files.write(0, bad.into()).run().unwrap_err());
        assert!(reason.contains(".sst.tmp"), "byte {at}: {reason}");
        assert!(reason.contains("offset") || reason.contains("description says"), "{reason}");
        let again = to.install(files).unwrap().unwrap_err();
        assert!(again.contains("of 3 tables were written without a fault"), "byte {at}: {again}");
        assert_eq!(to.get("old").as_deref(), Some("2"), "byte {at}");
    }
    to.engine.tick(Nanos::ZERO);
    to.settle();
    assert_eq!(to.tables_on_disk(), 1);
    assert_eq!(to.engine.stats().installs_failed, good.len().div_ceil(7) as u64);
    let files = send(&mut to, &snapshot, 1_000).unwrap();
    to.install(files).unwrap().unwrap();
    assert_eq!(to.all(), leaders_flushed());
}

#[test]
fn tables_that_are_not_the_described_ones_are_refused() {
    let mut from = leader();
    let snapshot = from.engine.file_snapshot().unwrap();
    let good = SnapshotBody::decode(snapshot.body()).unwrap();
    let stream = snapshot.read(0, usize::MAX).run().unwrap().0;
    let mut to = follower(1);
    for (what, change) in [
        ("entries", (|b| b.tables[1].entries += 1) as fn(&mut SnapshotBody)),
        ("tombstones", |b| b.tables[1].deletes += 1),
        ("largest sequence number", |b| b.tables[2].largest_seq -= 1),
        ("first key", |b| b.tables[0].smallest_key = b"\x00a".to_vec()),
        ("last key", |b| b.tables[0].largest_key.push(b'x')),
        // The stream is cut between the tables at another place.
        ("offset", |b| {
            b.tables[0].bytes += 1;
            b.tables[1].bytes -= 1;
        }),
    ] {
        let mut body = good.clone();
        change(&mut body);
        let mut files =
            to.engine.begin_install(snapshot.applied(), snapshot.bytes(), &body.encode()).unwrap();
        let reason = refusal(files.write(0, stream.clone()).run().unwrap_err());
        drop(files);
        assert!(reason.contains(what), "{reason:?} does not say {what:?}");
    }
    assert_eq!(to.get("old").as_deref(), Some("2"));
}

#[test]
fn a_pinned_snapshot_stays_readable_while_everything_changes() {
    let mut from = leader();
    let snapshot = from.engine.file_snapshot().unwrap();
    let expected = snapshot.read(0, usize::MAX).run().unwrap();
    let stats = from.engine.stats();
    assert_eq!((stats.file_snapshots, stats.oldest_file_snapshot), (1, Some(6)));
    assert_eq!(stats.file_snapshot_bytes, snapshot.bytes());

    // A flush begins and ends.
    assert!(from.engine.start_flush());
    assert_eq!(snapshot.read(0, usize::MAX).run().unwrap(), expected);
    from.settle();
    let newer = from.engine.file_snapshot().unwrap();
    assert_eq!(newer.applied().0, LogIndex(8));
    assert_eq!(from.engine.stats().file_snapshots, 2);

    // All of its tables are replaced.
    let mut other = Rig::new(5);
    for i in 0..20 {
        other.write(&[("only", Some(&i.to_string()))]);
    }
    other.flush();
    let files = send(&mut from, &other.engine.file_snapshot().unwrap(), 1_000).unwrap();
    from.install(files).unwrap().unwrap();
    assert_eq!(from.all(), [("only".to_owned(), "19".to_owned())]);
    assert_eq!(snapshot.read(0, usize::MAX).run().unwrap(), expected);
    assert_eq!(from.tables_on_disk(), 5, "nothing pinned is unlinked: {:?}", from.file_names());
    let job = snapshot.read(3, 700);
    drop(snapshot);
    from.engine.tick(Nanos::ZERO);
    from.settle();
    assert_eq!(from.tables_on_disk(), 5, "the newer one and a read that has begun hold them");
    assert_eq!(from.engine.stats().obsolete_tables, 4);
    drop(newer);
    assert_eq!(job.run().unwrap().0, expected.0.slice(3..703));
    from.engine.tick(Nanos::ZERO);
    from.settle();
    assert_eq!(from.tables_on_disk(), 1, "{:?}", from.file_names());
    let stats = from.engine.stats();
    assert_eq!((stats.file_snapshots, stats.obsolete_tables, stats.installs), (0, 0, 1));
}

#[test]
fn a_read_that_has_begun_goes_on_over_an_install() {
    let mut from = leader();
    let snapshot = from.engine.file_snapshot().unwrap();
    let mut to = Rig::new(1);
    to.write(&[("old", Some("1"))]);
    to.flush();
    let Get::NeedsDisk(get) = to.engine.get(b"old", None).unwrap() else { panic!("on the disk") };
    let files = send(&mut to, &snapshot, 1_000).unwrap();
    to.install(files).unwrap().unwrap();
    assert_eq!(to.get("old"), None);
    assert_eq!(to.tables_on_disk(), 4, "its table stays");
    assert_eq!(get.run().unwrap().unwrap().1, "1");
    to.engine.tick(Nanos::ZERO);
    to.settle();
    assert_eq!(to.tables_on_disk(), 3);
}

#[test]
fn old_reads_go_on_where_the_snapshot_has_their_versions_and_are_refused_where_not() {
    // Two replicas of one history: the leader keeps everything from sequence number 3 on.
    let write = |rig: &mut Rig, n: u64| {
        rig.write(&[("k", Some(&n.to_string()))]);
    };
    let mut from = Rig::new(1);
    (1..=3).for_each(|n| write(&mut from, n));
    let pinned = from.engine.snapshot();
    (4..=6).for_each(|n| write(&mut from, n));
    from.flush();
    assert_eq!(from.engine.oldest_readable_seq(), pinned);

    let mut to = Rig::new(2);
    (1..=2).for_each(|n| write(&mut to, n));
    let early = to.engine.snapshot();
    (3..=5).for_each(|n| write(&mut to, n));
    let late = to.engine.snapshot();
    let snapshot = from.engine.file_snapshot().unwrap();
    let files = send(&mut to, &snapshot, 100).unwrap();
    to.install(files).unwrap().unwrap();
    assert_eq!(to.engine.oldest_readable_seq(), pinned);
    assert_eq!(
        to.try_get("k", Some(late.0)).unwrap().as_deref(),
        Some("5"),
        "same answer as before"
    );
    let error = to.try_get("k", Some(early.0)).unwrap_err();
    assert!(matches!(error, EngineError::SnapshotTooOld { .. }), "{error}");
    // A pin that nothing can be read at holds nothing back either; one that can does.
    to.next_index = 7;
    (7..=9).for_each(|n| write(&mut to, n));
    to.engine.release_snapshot(late);
    to.flush();
    assert_eq!(to.engine.oldest_readable_seq(), SequenceNumber(9));
    to.engine.release_snapshot(early);
}

#[test]
fn a_flush_that_runs_ends_before_the_install_and_none_begins() {
    for held in [Lane::Flush, Lane::Manifest] {
        let mut from = leader();
        let snapshot = from.engine.file_snapshot().unwrap();
        let mut to = follower(1);
        let files = send(&mut to, &snapshot, 1_000).unwrap();
        to.sim.jobs.hold(held, true);
        assert!(to.engine.start_flush());
        assert!(to.outcomes().unwrap().is_empty());
        to.engine.install(files);
        assert!(to.outcomes().unwrap().is_empty());
        assert!(!to.engine.needs_flush() && !to.engine.start_flush());
        assert!(to.engine.is_installing());
        to.sim.jobs.hold(held, false);
        to.installed().unwrap().unwrap();
        assert_eq!(to.all(), leaders_flushed());
        assert!(to.engine.is_flushed() && !to.engine.is_flushing());
        to.engine.tick(Nanos::ZERO);
        to.settle();
        assert_eq!(to.tables_on_disk(), 3, "{held:?}: {:?}", to.file_names());
        to.reopen().unwrap();
        assert_eq!(to.all(), leaders_flushed());
    }
}

#[test]
fn no_flush_begins_while_an_install_is_in_flight() {
    let mut from = leader();
    let snapshot = from.engine.file_snapshot().unwrap();
    let mut to = Rig::new(1);
    to.write(&[("old", Some("1"))]);
    let files = send(&mut to, &snapshot, 1_000).unwrap();
    to.engine.install(files);
    assert!(!to.engine.is_flushed(), "there would be something to flush");
    assert!(!to.engine.start_flush() && !to.engine.is_flushing());
    to.installed().unwrap().unwrap();
    assert_eq!(to.engine.stats().flushes, 0);
    assert!(to.engine.is_flushed());
}

#[test]
fn a_flush_that_waits_for_space_is_forgotten_by_an_install() {
    // The edit of the flush is half in the manifest when the snapshot comes.
    for path in [".sst", ".manifest"] {
        let mut from = leader();
        let snapshot = from.engine.file_snapshot().unwrap();
        let mut to = follower(1);
        to.sim.disk.fail(FailPoint {
            on: FailOn::Matching { op: Some(OpKind::Write), path: path.into(), nth: 0 },
            error: FailKind::Enospc,
            forever: false,
        });
        assert!(to.flush().is_empty());
        assert!(to.engine.read_only_reason().is_some());
        let files = send(&mut to, &snapshot, 1_000).unwrap();
        to.install(files).unwrap().unwrap();
        assert_eq!(to.engine.read_only_reason(), None);
        let later = to.env.clock.now().plus(10 * RETRY_NS);
        to.engine.tick(later);
        to.settle();
        assert_eq!(to.tables_on_disk(), 3, "{path}: {:?}", to.file_names());
        to.next_index = 7;
        to.write(&[("after", Some("1"))]);
        to.flush();
        to.reopen().unwrap();
        assert_eq!(to.engine.applied().0, LogIndex(7));
        assert_eq!((to.get("after").as_deref(), to.get("old")), (Some("1"), None));
    }
}

#[test]
#[should_panic(expected = "entry 3 is applied while a snapshot is installed")]
fn nothing_is_applied_while_an_install_is_in_flight() {
    let mut from = leader();
    let snapshot = from.engine.file_snapshot().unwrap();
    let mut to = follower(1);
    let files = send(&mut to, &snapshot, 1_000).unwrap();
    to.engine.install(files);
    to.write(&[("x", Some("1"))]);
}

/// What a receiver is in front of, on a disk to crash.
struct Scene {
    disk: SimDisk,
    snapshot: FileSnapshot,
}

impl Scene {
    fn new() -> Self {
        let mut from = leader();
        let snapshot = from.engine.file_snapshot().unwrap();
        let to = follower(1);
        to.sim.jobs.abandon();
        Self { disk: to.sim.disk.fork(0), snapshot }
    }

    /// The receiver on a copy of the disk.
    fn receiver(&self, seed: u64) -> (Rig, SimDisk) {
        let disk = self.disk.fork(seed);
        (Self::open(&disk, seed).unwrap(), disk)
    }

    fn open(disk: &SimDisk, seed: u64) -> Result<Rig, EngineError> {
        let (env, sim) = sim::env(seed);
        let env = Env { disk: Arc::new(disk.clone()), ..env };
        let engine = Engine::open(&env, options())?;
        let next_index = engine.applied().0.0 + 1;
        Ok(Rig { env, sim, engine, options: options(), next_index })
    }

    /// Entry 2 again, and the whole transfer and install.
    fn run(&self, to: &mut Rig) -> Result<Result<InternalRows, String>, EngineError> {
        to.write(&[("old", Some("2"))]);
        match try_send(to, &self.snapshot, 777) {
            Ok(files) => to.install(files),
            Err(InstallFault::Refused(reason)) => Ok(Err(reason)),
            Err(InstallFault::Fatal(error)) => Err(error),
        }
    }
}

/// Whether it is the new state; whatever is neither that nor the old one panics.
fn is_new(rig: &Rig, context: &str) -> bool {
    let old = [("old".to_owned(), "1".to_owned())];
    match rig.engine.applied().0 {
        LogIndex(1) => {
            assert_eq!(rig.all(), old, "{context}");
            assert_eq!(rig.engine.installed_from_snapshot(), None, "{context}");
            assert_eq!(rig.tables_on_disk(), 1, "{context}: {:?}", rig.file_names());
            false
        }
        LogIndex(6) => {
            assert_eq!(rig.all(), leaders_flushed(), "{context}");
            assert_eq!(rig.engine.internal_rows().unwrap(), row("r2"), "{context}");
            assert_eq!(rig.engine.last_seq(), SequenceNumber(12), "{context}");
            assert!(rig.engine.installed_from_snapshot().is_some(), "{context}");
            assert_eq!(rig.tables_on_disk(), 3, "{context}: {:?}", rig.file_names());
            true
        }
        other => panic!("{context}: neither old nor new: entry {other}"),
    }
}

#[test]
fn pitfall_25_a_crash_at_any_change_of_an_install_leaves_the_old_state_or_the_new() {
    let scene = Scene::new();
    let (mut whole, disk) = scene.receiver(0);
    let before = disk.op_count();
    scene.run(&mut whole).unwrap().unwrap();
    let changes = before..disk.op_count();
    assert!(changes.clone().count() > 20, "files, renames, syncs, a manifest, CURRENT, removals");
    let (mut old, mut new) = (0, 0);
    for at in changes {
        for seed in 0..12 {
            let kind = if seed % 2 == 0 { CrashKind::Process } else { CrashKind::PowerLoss };
            let context = format!("crash {kind:?} at change {at}, seed {seed}");
            let (mut to, disk) = scene.receiver(seed);
            disk.crash_at(at);
            let acknowledged = matches!(scene.run(&mut to), Ok(Ok(_)));
            assert!(disk.is_down(), "{context}");
            to.sim.jobs.abandon();
            drop(to);
            disk.crash(kind);
            disk.restart();
            let again = Scene::open(&disk, seed + 100)
                .unwrap_or_else(|e| panic!("{context}: {e}\n{:#?}", disk.trace()));
            let is_new = is_new(&again, &context);
            assert!(is_new || !acknowledged, "{context}: it was acknowledged");
            *if is_new { &mut new } else { &mut old } += 1;

            // Whatever it is, the engine goes on from it.
            let mut again = again;
            if !is_new {
                scene.run(&mut again).unwrap().unwrap_or_else(|e| panic!("{context}: {e}"));
            }
            again.engine.tick(Nanos::ZERO);
            again.settle();
            assert!(self::is_new(&again, &context));
        }
    }
    assert!(old > 100 && new > 20, "{old} old, {new} new: both are met");
}

#[test]
fn an_install_without_space_at_any_change_fails_and_the_old_state_goes_on() {
    let scene = Scene::new();
    let (mut whole, disk) = scene.receiver(0);
    let before = disk.op_count();
    scene.run(&mut whole).unwrap().unwrap();
    let (mut failed, mut passed) = (0, 0);
    for at in before..disk.op_count() {
        let context = format!("no space at change {at}");
        let (mut to, disk) = scene.receiver(at);
        disk.fail(FailPoint { on: FailOn::Change(at), error: FailKind::Enospc, forever: false });
        let outcome = scene.run(&mut to);
        disk.clear_faults();
        match outcome.unwrap_or_else(|e| panic!("{context}: {e}\n{:#?}", disk.trace())) {
            // The failure hit a removal after the edit, or nothing.
            Ok(_) => passed += 1,
            Err(reason) => {
                failed += 1;
                assert!(reason.contains("os error 28"), "{context}: {reason}");
                assert_eq!(to.get("old").as_deref(), Some("2"), "{context}");
                assert_eq!(to.engine.applied().0, LogIndex(2), "{context}");
                to.engine.tick(Nanos::ZERO);
                to.settle();
                assert_eq!(to.tables_on_disk(), 1, "{context}: {:?}", to.file_names());
                // It flushes, and takes the snapshot when there is room.
                to.flush();
                let files = send(&mut to, &scene.snapshot, 500).unwrap();
                to.install(files).unwrap().unwrap();
            }
        }
        to.reopen().unwrap();
        assert!(is_new(&to, &context));
    }
    assert!(failed > 10 && passed > 0, "{failed} failed, {passed} passed");
}

#[test]
fn pitfall_19_a_failed_sync_of_an_install_is_fatal_and_what_is_there_opens() {
    let scene = Scene::new();
    for (op, path) in [
        (OpKind::Sync, ".sst.tmp"),
        (OpKind::SyncDir, "db"),
        (OpKind::Sync, ".manifest.tmp"),
        (OpKind::Sync, "CURRENT"),
    ] {
        for nth in 0..3 {
            let context = format!("{nth}. {op:?} of {path}");
            let (mut to, disk) = scene.receiver(nth);
            let on = FailOn::Matching { op: Some(op), path: path.into(), nth };
            disk.fail(FailPoint { on, error: FailKind::Eio, forever: false });
            match scene.run(&mut to) {
                // Fewer than that many happen.
                Ok(Ok(_)) => assert!(nth > 0, "{context}"),
                Ok(Err(reason)) => panic!("{context}: {reason}"),
                Err(error) => assert!(error.to_string().contains("sync"), "{context}: {error}"),
            }
            to.sim.jobs.abandon();
            drop(to);
            disk.clear_faults();
            disk.crash(CrashKind::PowerLoss);
            disk.restart();
            let again = Scene::open(&disk, nth).unwrap_or_else(|e| panic!("{context}: {e}"));
            is_new(&again, &context);
        }
    }
}

#[test]
fn a_read_error_while_checking_refuses_the_snapshot() {
    let scene = Scene::new();
    for nth in [0, 3, 9] {
        let (mut to, disk) = scene.receiver(nth);
        let on = FailOn::Matching { op: Some(OpKind::Read), path: ".sst.tmp".into(), nth };
        disk.fail(FailPoint { on, error: FailKind::Eio, forever: false });
        let reason = scene.run(&mut to).unwrap().unwrap_err();
        assert!(reason.contains(".sst.tmp") && reason.contains("offset"), "{reason}");
        assert_eq!(to.get("old").as_deref(), Some("2"));
    }
}

#[test]
fn a_sender_that_cannot_read_says_which_file() {
    let mut from = leader();
    let snapshot = from.engine.file_snapshot().unwrap();
    let on = FailOn::Matching { op: Some(OpKind::Read), path: ".sst".into(), nth: 1 };
    from.sim.disk.fail(FailPoint { on, error: FailKind::Eio, forever: false });
    let error = snapshot.read(0, usize::MAX).run().unwrap_err().to_string();
    assert!(error.contains(".sst") && error.contains("offset"), "{error}");
    snapshot.read(0, usize::MAX).run().unwrap();
}
