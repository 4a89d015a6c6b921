//! The Raft log on the simulated disk. Resets and memberships: [`membership_tests`](super::membership_tests).

use super::*;
use crate::base::{NodeId, ReplicaId};
use crate::env::sim::{CrashKind, FailKind, FailOn, FailPoint, OpKind, SimHandles, SimRandom, env};
use std::time::Duration;

pub(super) const DIR: &str = "/data/raft";
const SEGMENT: u64 = 2048;

pub(super) struct Host {
    pub env: Env,
    pub sim: SimHandles,
    next_io: u64,
}

impl Host {
    pub fn new(seed: u64) -> Self {
        let (env, sim) = env(seed);
        Self { env, sim, next_io: 0 }
    }

    /// A new process on the same machine.
    pub fn crashed(self, kind: CrashKind) -> Self {
        self.sim.disk.crash(kind);
        self.sim.disk.restart();
        let disk = self.sim.disk.clone();
        let (mut env, mut sim) = env(1);
        env.disk = Arc::new(disk.clone());
        sim.disk = disk;
        Self { env, sim, next_io: 0 }
    }

    pub fn open(&self) -> Result<(RaftLog, RaftLogRecovery), RaftLogError> {
        RaftLog::open(&self.env, DIR.as_ref(), SEGMENT)
    }

    pub fn persist(&mut self) -> Persist {
        self.next_io += 1;
        Persist {
            io: IoId(self.next_io),
            hard_state: None,
            truncate_from: None,
            entries: Vec::new(),
        }
    }

    /// Runs jobs until nothing is left to do; returns what completed.
    pub fn pump(&self, log: &mut RaftLog) -> Result<Vec<LogOutcome>, RaftLogError> {
        let (mut outcomes, mut done) = (Vec::new(), Vec::new());
        log.kick();
        while self.env.jobs.wait(Duration::ZERO) {
            self.env.jobs.poll(&mut done);
            for completion in done.drain(..) {
                let outcome = log.job_done(completion)?;
                let full = matches!(outcome, LogOutcome::DiskFull);
                outcomes.push(outcome);
                if full {
                    return Ok(outcomes);
                }
            }
            log.kick();
        }
        Ok(outcomes)
    }

    pub fn append(&mut self, log: &mut RaftLog, range: std::ops::RangeInclusive<u64>, term: u64) {
        let entries = range.map(|i| entry(i, term)).collect();
        let persist = Persist { entries, ..self.persist() };
        log.submit(persist);
        self.pump(log).unwrap();
    }
}

pub(super) fn entry(index: u64, term: u64) -> Entry {
    let payload = vec![(index * 7 + term) as u8; 10 + (index as usize * 13) % 150];
    Entry { index: LogIndex(index), term: Term(term), payload: payload.into() }
}

pub(super) fn read_all(log: &RaftLog) -> Vec<Entry> {
    let (first, last) = (log.first_index(), log.last().0);
    if first > last { Vec::new() } else { log.read_job(first, last, usize::MAX)().unwrap() }
}

pub(super) fn completed(outcomes: &[LogOutcome]) -> Vec<u64> {
    let through = |o: &LogOutcome| match o {
        LogOutcome::Durable(group) => group.through.map(|io| io.0),
        _ => None,
    };
    outcomes.iter().filter_map(through).collect()
}

#[test]
fn what_completed_survives_a_power_loss_with_its_hard_state() {
    let mut host = Host::new(1);
    let (mut log, recovery) = host.open().unwrap();
    assert_eq!(
        (recovery.last, recovery.hard_state),
        ((LogIndex(0), Term(0)), HardState::default())
    );
    let hard_state = HardState { term: Term(3), vote: Some(replica(1)) };
    let entries = vec![entry(1, 3), entry(2, 3)];
    let persist =
        Persist { hard_state: Some(hard_state), entries: entries.clone(), ..host.persist() };
    log.submit(persist);
    assert_eq!(log.last(), (LogIndex(2), Term(3)));
    let syncs =
        |host: &Host| host.sim.disk.trace().iter().filter(|op| op.contains(" Sync ")).count();
    let before = syncs(&host);
    log.kick();
    host.sim.jobs.run_lane(crate::env::Lane::Log);
    assert_eq!(syncs(&host), before + 1, "one sync for hard state and entries");
    assert_eq!(completed(&host.pump(&mut log).unwrap()), [1]);
    let host = host.crashed(CrashKind::PowerLoss);
    let (log, recovery) = host.open().unwrap();
    assert_eq!((recovery.hard_state, recovery.last), (hard_state, (LogIndex(2), Term(3))));
    assert_eq!(read_all(&log), entries);
}

#[test]
fn ids_complete_in_order_and_an_empty_persist_completes_too() {
    let mut host = Host::new(1);
    let (mut log, _) = host.open().unwrap();
    for index in 1..=3 {
        log.submit(Persist { entries: vec![entry(index, 1)], ..host.persist() });
    }
    assert_eq!(completed(&host.pump(&mut log).unwrap()), [3], "one group");
    log.submit(host.persist());
    assert_eq!(completed(&host.pump(&mut log).unwrap()), [4]);
    log.submit(Persist { entries: vec![entry(4, 1)], ..host.persist() });
    log.kick();
    log.submit(Persist { entries: vec![entry(5, 1)], ..host.persist() });
    log.kick();
    assert_eq!(
        completed(&host.pump(&mut log).unwrap()),
        [5, 6],
        "one in flight, the next collects"
    );
}

#[test]
fn truncation_drops_a_suffix_and_new_entries_take_its_place() {
    let mut host = Host::new(1);
    let (mut log, _) = host.open().unwrap();
    host.append(&mut log, 1..=40, 1);
    for (from, term) in [(20, 2), (20, 3), (35, 4), (5, 5)] {
        let entries: Vec<_> = (from..=from + 18).map(|i| entry(i, term)).collect();
        let persist = Persist { truncate_from: Some(LogIndex(from)), entries, ..host.persist() };
        log.submit(persist);
        // A truncation and its entries in one group, and also split over two.
        host.append(&mut log, from + 19..=from + 20, term);
        let expected: Vec<_> = read_all(&log);
        assert_eq!(expected.last().unwrap(), &entry(from + 20, term));
        assert_eq!(log.term(LogIndex(from)), Some(Term(term)));
        assert_eq!(log.term(LogIndex(from + 21)), None);
        let again = Host { env: host.env.clone(), sim: env(2).1, next_io: 0 };
        let disk = host.sim.disk.fork(1);
        let again = Host { env: Env { disk: Arc::new(disk), ..again.env }, ..again };
        assert_eq!(read_all(&again.open().unwrap().0), expected, "recovered");
    }
}

#[test]
fn a_truncation_alone_in_its_group_hides_the_old_entries_from_readers() {
    let mut host = Host::new(1);
    let (mut log, _) = host.open().unwrap();
    host.append(&mut log, 1..=10, 1);
    let persist = Persist { truncate_from: Some(LogIndex(6)), ..host.persist() };
    log.submit(persist);
    host.pump(&mut log).unwrap();
    assert_eq!(log.last(), (LogIndex(5), Term(1)));
    host.append(&mut log, 6..=8, 2);
    let expected: Vec<_> =
        (1..=5).map(|i| entry(i, 1)).chain((6..=8).map(|i| entry(i, 2))).collect();
    assert_eq!(read_all(&log), expected);
    let host = host.crashed(CrashKind::PowerLoss);
    let (mut log, _) = host.open().unwrap();
    assert_eq!(read_all(&log), expected);
    let mut host = host;
    let persist = Persist { truncate_from: Some(LogIndex(7)), ..host.persist() };
    log.submit(persist);
    host.pump(&mut log).unwrap();
    let mut host = host.crashed(CrashKind::Process);
    let (mut log, _) = host.open().unwrap();
    host.append(&mut log, 7..=7, 3);
    assert_eq!(read_all(&log).last().unwrap(), &entry(7, 3));
}

#[test]
fn a_released_prefix_stays_released_and_state_survives_it() {
    let mut host = Host::new(1);
    let (mut log, _) = host.open().unwrap();
    let hard_state = HardState { term: Term(2), vote: Some(replica(9)) };
    log.submit(Persist { hard_state: Some(hard_state), ..host.persist() });
    for index in 1..=200 {
        host.append(&mut log, index..=index, 2);
    }
    let before = log.stats();
    log.applied_to(LogIndex(150));
    log.release_to(LogIndex(150));
    host.pump(&mut log).unwrap();
    let after = log.stats();
    assert!(
        after.segments < before.segments && after.live_bytes < before.live_bytes,
        "{before:?} {after:?}"
    );
    let check = |log: &RaftLog| {
        assert_eq!(log.first_index(), LogIndex(151));
        assert_eq!((log.term(LogIndex(149)), log.term(LogIndex(150))), (None, Some(Term(2))));
        assert_eq!(log.entries(LogIndex(150), LogIndex(151), 1), None);
        assert_eq!(read_all(log), (151..=200).map(|i| entry(i, 2)).collect::<Vec<_>>());
    };
    check(&log);
    log.release_to(LogIndex(100));
    check(&log);
    let host = host.crashed(CrashKind::PowerLoss);
    let (mut log, recovery) = host.open().unwrap();
    assert_eq!(recovery.hard_state, hard_state);
    check(&log);
    log.release_to(LogIndex(200));
    host.pump(&mut log).unwrap();
    let mut host = host.crashed(CrashKind::PowerLoss);
    let (mut log, recovery) = host.open().unwrap();
    assert_eq!((recovery.hard_state, recovery.last), (hard_state, (LogIndex(200), Term(2))));
    host.append(&mut log, 201..=203, 4);
    assert_eq!(read_all(&log).len(), 3);
}

#[test]
fn reset_goes_on_behind_a_new_baseline_and_keeps_the_hard_state() {
    let mut host = Host::new(1);
    let (mut log, _) = host.open().unwrap();
    let hard_state = HardState { term: Term(2), vote: None };
    log.submit(Persist { hard_state: Some(hard_state), ..host.persist() });
    host.append(&mut log, 1..=60, 2);
    log.reset((LogIndex(500), Term(2)), membership(480, 1));
    assert_eq!((log.first_index(), log.last()), (LogIndex(501), (LogIndex(500), Term(2))));
    host.append(&mut log, 501..=510, 3);
    assert_eq!(log.stats().segments, 1, "what was discarded is given up");
    let host = host.crashed(CrashKind::PowerLoss);
    let (log, recovery) = host.open().unwrap();
    assert_eq!(recovery.hard_state, HardState { term: Term(3), vote: None }, "raised from the log");
    assert_eq!(read_all(&log), (501..=510).map(|i| entry(i, 3)).collect::<Vec<_>>());
}

#[test]
fn entries_leave_memory_when_applied_and_over_the_budget_and_are_read_back() {
    let mut host = Host::new(1);
    let (mut log, _) = RaftLog::open(&host.env, DIR.as_ref(), 64 << 20).unwrap();
    let big = |index| Entry { payload: vec![index as u8; 1 << 20].into(), ..entry(index, 1) };
    for index in 1..=20 {
        let persist = Persist { entries: vec![big(index)], ..host.persist() };
        log.submit(persist);
    }
    host.pump(&mut log).unwrap();
    assert_eq!(log.stats().memory_bytes, 20 << 20, "nothing is applied yet");
    log.applied_to(LogIndex(20));
    assert!(log.stats().memory_bytes <= RAFT_LOG_MEMORY_BYTES as u64);
    assert_eq!(log.entries(LogIndex(1), LogIndex(3), usize::MAX), None);
    let read = log.read_job(LogIndex(2), LogIndex(9), 3 << 20)().unwrap();
    assert_eq!(read, (2..=4).map(big).collect::<Vec<_>>(), "cut at max_bytes");
    let hot = log.entries(LogIndex(19), LogIndex(20), 1).unwrap();
    assert_eq!(hot, [big(19)]);
}

#[test]
fn a_full_disk_is_reported_and_the_group_goes_through_later() {
    let mut host = Host::new(1);
    let (mut log, _) = host.open().unwrap();
    host.append(&mut log, 1..=5, 1);
    host.sim.disk.set_capacity(Some(host.sim.disk.used_bytes()));
    log.submit(Persist { entries: (6..=80).map(|i| entry(i, 1)).collect(), ..host.persist() });
    let outcomes = host.pump(&mut log).unwrap();
    assert!(outcomes.iter().any(|o| matches!(o, LogOutcome::DiskFull)));
    assert_eq!(completed(&outcomes), Vec::<u64>::new());
    host.sim.disk.set_capacity(None);
    assert_eq!(completed(&host.pump(&mut log).unwrap()), [2]);
    assert_eq!(read_all(&log).len(), 80);
}

#[test]
fn a_failed_sync_is_final() {
    let mut host = Host::new(1);
    let (mut log, _) = host.open().unwrap();
    host.append(&mut log, 1..=5, 1);
    host.sim.disk.fail_next_sync("rlog");
    log.submit(Persist { entries: vec![entry(6, 1)], ..host.persist() });
    let error = host.pump(&mut log).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("fdatasync") && !error.is_corruption(), "{error}");
    let host = host.crashed(CrashKind::Process);
    assert!(host.open().unwrap().1.last.0 >= LogIndex(5));
}

#[test]
fn a_clean_close_comes_back_and_leaves_nothing_to_copy() {
    let mut host = Host::new(1);
    let (mut log, _) = host.open().unwrap();
    log.submit(Persist { entries: vec![entry(1, 1)], ..host.persist() });
    log.close();
    let outcomes = host.pump(&mut log).unwrap();
    assert_eq!(completed(&outcomes), [1]);
    assert!(matches!(
        outcomes.iter().rfind(|o| !matches!(o, LogOutcome::Nothing)),
        Some(LogOutcome::Closed)
    ));
    let (mut log, recovery) = host.open().unwrap();
    assert!(recovery.report.was_clean(), "{}", recovery.report);
    log.close();
    assert!(
        host.pump(&mut log).unwrap().iter().any(|o| matches!(o, LogOutcome::Closed)),
        "an idle log closes too"
    );
}

#[test]
fn a_missing_first_segment_is_a_gap_also_when_it_held_all_entries() {
    let mut host = Host::new(1);
    let (mut log, _) = host.open().unwrap();
    host.append(&mut log, 1..=3, 1);
    log.close();
    host.pump(&mut log).unwrap();
    drop(log);
    let mut oldest = host.env.disk.list(DIR.as_ref()).unwrap();
    oldest.retain(|file| file.name.ends_with(".rlog"));
    let (log, recovery) = host.open().unwrap();
    assert_eq!(recovery.last.0, LogIndex(3));
    drop(log);
    host.env.disk.remove(&Path::new(DIR).join(&oldest[0].name)).unwrap();
    for _ in 0..2 {
        let error = host.open().map(|_| ()).unwrap_err();
        let expected = (LogIndex(1), LogIndex(4));
        assert!(
            matches!(error, RaftLogError::Gap { expected: e, found: f, .. } if (e, f) == expected),
            "{error}"
        );
    }
}

#[test]
fn a_missing_first_segment_is_a_gap() {
    let mut host = Host::new(1);
    let (mut log, _) = host.open().unwrap();
    for index in 1..=100 {
        host.append(&mut log, index..=index, 1);
    }
    drop(log);
    host.env.disk.remove(&Path::new(DIR).join(LogKind::RaftLog.file_name(1))).unwrap();
    let error = host.open().map(|_| ()).unwrap_err();
    assert!(matches!(error, RaftLogError::Gap { expected: LogIndex(1), .. }), "{error}");
}

/// Bug: a record with a valid checksum and an index (or term, or baseline) of 2^64 - 1 panicked the open.
/// Cause: the next one was computed unchecked. Fix: numbers without room are refused as damage, by file and offset.
#[test]
fn numbers_without_room_for_the_next_one_are_refused_by_name() {
    const MAX: u64 = u64::MAX;
    let baseline = |index, term| encode_baseline((LogIndex(index), Term(term))).to_vec();
    let members = encode_membership(LogIndex(MAX), &Membership::new());
    // Members of a version to come.
    let mut no_members = Membership::new().to_entry().to_vec();
    no_members[26] = 2;
    let voted = encode_hard_state(HardState { term: Term(MAX), vote: None }).to_vec();
    for (kind, index, aux, payload, what) in [
        (RecordKind::Data, MAX, 1, vec![], "an index"),
        (RecordKind::Data, MAX_STORED_INDEX + 1, 1, vec![], "an index"),
        (RecordKind::Data, 1, MAX, vec![], "a term"),
        (RecordKind::Truncate, MAX, 0, vec![], "an index"),
        (RecordKind::State, SLOT_BASELINE, STATE_FORMAT, baseline(MAX, 1), "a baseline index"),
        (RecordKind::State, SLOT_BASELINE, STATE_FORMAT, baseline(1, MAX), "a baseline term"),
        (RecordKind::State, SLOT_HARD_STATE, STATE_FORMAT, voted, "a term"),
        (RecordKind::State, SLOT_MEMBERSHIP, STATE_FORMAT, members, "a membership's index"),
        (RecordKind::Data, 1, 1, no_members, "a membership, found an entry that says it is one"),
    ] {
        let host = Host::new(1);
        let options = Options::new(LogKind::RaftLog, DIR);
        let (mut writer, _) = wal::open(&host.env.disk, options, &mut |_| Ok(())).unwrap();
        writer.append(kind, index, aux, &payload);
        writer.sync_blocking().unwrap();
        drop(writer);
        let error = host.open().map(|_| ()).unwrap_err();
        let text = error.to_string();
        assert!(error.is_corruption() && text.contains(what), "{text}");
        assert!(text.contains(".rlog: corrupt at offset"), "{text}");
    }
}

/// What the owner knows; entries by index after truncations.
#[derive(Clone, Default)]
struct Model {
    log: Vec<Entry>,
    hard_state: HardState,
    /// How many entries the last persist's truncation left.
    kept: usize,
}

/// The memberships that a log with these first entries has, released up to `baseline`.
fn memberships_of(log: &[Entry], baseline: u64) -> Vec<(LogIndex, Membership)> {
    let entries = log.iter().filter_map(|entry| {
        Some((entry.index, Membership::from_entry(&entry.payload)?.expect("sound")))
    });
    let all: Vec<_> = std::iter::once(membership(0, 1)).chain(entries).collect();
    let first = all.iter().rposition(|(index, _)| index.0 <= baseline).expect("index 0 is in it");
    all[first..].to_vec()
}

/// A random run until its planned crash: appends, truncations, votes, applies, releases. Gives back the model after
/// every persist, which of them completed, and the highest index released.
fn random_run(host: &mut Host, seed: u64) -> (Vec<Model>, usize, u64) {
    let mut random = SimRandom::new(seed);
    let (mut model, mut history) = (Model::default(), vec![Model::default()]);
    let (mut durable, mut released) = (0, 0);
    let Ok((mut log, _)) = host.open() else { return (history, 0, 0) };
    log.bootstrap(membership(0, 1).1);
    for _ in 0..40 {
        let mut persist = host.persist();
        let (last, term) = (model.log.len() as u64, model.hard_state.term.0);
        if random.chance(1, 5) {
            model.hard_state =
                HardState { term: Term(term + 1), vote: Some(replica(1 + random.below(3))) };
            persist.hard_state = Some(model.hard_state);
        }
        model.kept = model.log.len();
        if random.chance(1, 4) && last > released {
            let from = released + 1 + random.below(last - released);
            model.log.truncate(from as usize - 1);
            persist.truncate_from = Some(LogIndex(from));
            model.kept = model.log.len();
        }
        for _ in 0..random.below(6) {
            let mut next = entry(model.log.len() as u64 + 1, model.hard_state.term.0);
            if random.chance(1, 4) {
                next.payload = membership(0, 1 + random.below(9)).1.to_entry();
            }
            model.log.push(next.clone());
            persist.entries.push(next);
        }
        log.submit(persist);
        history.push(model.clone());
        if random.chance(2, 3) {
            match host.pump(&mut log) {
                Ok(outcomes) => {
                    durable = completed(&outcomes).last().map_or(durable, |&io| io as usize)
                }
                Err(_) => return (history, durable, released),
            }
            let last = model.log.len() as u64;
            if random.chance(1, 4) && last > released + 4 {
                log.applied_to(LogIndex(last - 2));
                log.release_to(LogIndex(last - 2));
                released = last - 2;
            }
        }
    }
    log.close();
    host.pump(&mut log).ok();
    (history, durable, released)
}

#[test]
fn random_runs_crashed_anywhere_recover_to_a_persist_boundary_or_a_prefix_of_one() {
    for seed in 0..120 {
        let mut host = Host::new(seed);
        host.sim.disk.crash_at(5 + seed * 3 % 160);
        let (history, durable, released) = random_run(&mut host, seed);
        for kind in [CrashKind::Process, CrashKind::PowerLoss] {
            let disk = host.sim.disk.fork(seed);
            let mut forked = Host::new(seed);
            forked.env.disk = Arc::new(disk.clone());
            forked.sim.disk = disk;
            let forked = forked.crashed(kind);
            let context =
                format!("seed {seed}, {kind:?}, {durable} of {} durable", history.len() - 1);
            let (log, recovery) = forked.open().unwrap_or_else(|e| panic!("{context}: {e}"));
            let found = read_all(&log);
            let first = log.first_index().0;
            assert!(first <= released + 1, "{context}: first {first}, released {released}");
            // A whole persist, and of the next one a prefix: perhaps the truncation, and some of the entries.
            let end = first as usize - 1 + found.len();
            let fits = |model: &Model, next: Option<&Model>| {
                let holds =
                    |m: &Model| m.log.get(first as usize - 1..end).is_some_and(|l| l == found);
                let whole = holds(model) && end == model.log.len();
                whole || next.is_some_and(|next| holds(next) && end >= next.kept)
            };
            let n = (durable..history.len()).find(|&n| fits(&history[n], history.get(n + 1)));
            let n = n
                .unwrap_or_else(|| panic!("{context}: found {} entries from {first}", found.len()));
            let holding = history[n..].iter().find(|m| m.log.len() >= end).expect("one holds it");
            let whole = [&holding.log[..first as usize - 1], &found].concat();
            let expected = memberships_of(&whole, first - 1);
            let never_begun = durable == 0 && end == 0 && recovery.memberships.is_empty();
            assert!(never_begun || recovery.memberships == expected, "{context}");
            let known = history[durable].hard_state;
            assert!(
                recovery.hard_state.term >= known.term,
                "{context}: {:?} {n}",
                recovery.hard_state
            );
            if recovery.hard_state.term == known.term {
                assert_eq!(recovery.hard_state, known, "{context}");
            }
        }
    }
}

#[test]
fn segments_are_given_up_only_when_the_baseline_is_durable() {
    let mut host = Host::new(1);
    let (mut log, _) = host.open().unwrap();
    for index in 1..=100 {
        host.append(&mut log, index..=index, 1);
    }
    log.applied_to(LogIndex(90));
    log.submit(Persist { entries: vec![entry(101, 1)], ..host.persist() });
    log.kick();
    // The baseline comes behind the group in flight, whose completion must not start the release.
    log.release_to(LogIndex(90));
    let mut done = Vec::new();
    for _ in 0..3 {
        host.sim.jobs.run_all();
        host.env.jobs.poll(&mut done);
        done.drain(..).for_each(|completion| drop(log.job_done(completion).unwrap()));
    }
    let mut other = Host::new(1);
    other.sim.disk = host.sim.disk.fork(1);
    other.env.disk = Arc::new(other.sim.disk.clone());
    let (recovered, _) = other.crashed(CrashKind::PowerLoss).open().expect("there is no gap");
    assert_eq!((recovered.first_index(), recovered.last().0), (LogIndex(1), LogIndex(101)));
    let before = log.stats().segments;
    host.pump(&mut log).unwrap();
    assert!(log.stats().segments < before, "given up when the baseline is durable");
}

#[test]
fn reading_back_what_was_released_meanwhile_says_so() {
    let mut host = Host::new(1);
    let (mut log, _) = host.open().unwrap();
    for index in 1..=100 {
        host.append(&mut log, index..=index, 1);
    }
    let job = log.read_job(LogIndex(1), LogIndex(3), 1 << 20);
    log.applied_to(LogIndex(90));
    log.release_to(LogIndex(90));
    host.pump(&mut log).unwrap();
    assert!(matches!(job(), Err(RaftLogError::Released { lo: LogIndex(1) })));
}

#[test]
fn spares_are_made_off_the_log_lane_and_tried_again_after_a_full_disk() {
    let mut host = Host::new(1);
    let (mut log, _) = host.open().unwrap();
    let on = FailOn::Matching { op: Some(OpKind::Create), path: "spare".into(), nth: 0 };
    host.sim.disk.fail(FailPoint { on, error: FailKind::Enospc, forever: false });
    host.append(&mut log, 1..=3, 1);
    assert_eq!(log.stats().spare_segments, 0);
    host.append(&mut log, 4..=4, 1);
    assert_eq!(log.stats().spare_segments, 0, "not tried again at once");
    host.sim.clock.advance(2 * SPARE_RETRY_NS);
    host.append(&mut log, 5..=5, 1);
    assert_eq!(log.stats().spare_segments, 1);
}

/// A membership that entry `index` set, different for each.
pub(super) fn membership(index: u64, voters: u64) -> (LogIndex, Membership) {
    (LogIndex(index), Membership::of_voters((1..=voters).map(replica)))
}

pub(super) fn replica(node: u64) -> ReplicaId {
    ReplicaId { node: NodeId(node), incarnation: 0 }
}
