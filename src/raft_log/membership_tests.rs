//! Memberships and resets: what a release, a truncation, a crash, a full disk, and damage leave of them.

use super::tests::{DIR, Host, completed, entry, membership, read_all, replica};
use super::*;
use crate::env::sim::CrashKind;
use crate::wal::recovery::Chain;

/// An entry that sets a membership of this many voters.
fn change(index: u64, term: u64, voters: u64) -> Entry {
    Entry { payload: membership(0, voters).1.to_entry(), ..entry(index, term) }
}

/// A log of entries 1 to 200 of term 2 whose entries 5, 50, and 120 change the members, and a vote.
fn long_log(host: &mut Host) -> RaftLog {
    let (mut log, recovery) = host.open().unwrap();
    assert!(recovery.memberships.is_empty(), "it was never begun");
    log.bootstrap(membership(0, 1).1);
    let hard_state = Some(HardState { term: Term(2), vote: Some(replica(9)) });
    log.submit(Persist { hard_state, ..host.persist() });
    for index in 1..=200 {
        let next = match index {
            5 => change(index, 2, 2),
            50 => change(index, 2, 3),
            120 => change(index, 2, 4),
            _ => entry(index, 2),
        };
        log.submit(Persist { entries: vec![next], ..host.persist() });
        host.pump(&mut log).unwrap();
    }
    log
}

fn recovered(host: Host) -> (Host, RaftLog, RaftLogRecovery) {
    let host = host.crashed(CrashKind::PowerLoss);
    let (log, recovery) = host.open().unwrap();
    (host, log, recovery)
}

/// The same machine once more, to crash it.
fn fork(host: &Host, seed: u64) -> Host {
    let mut forked = Host::new(seed);
    forked.sim.disk = host.sim.disk.fork(seed);
    forked.env.disk = Arc::new(forked.sim.disk.clone());
    forked
}

#[test]
fn memberships_survive_the_release_of_their_entries() {
    let mut host = Host::new(1);
    let mut log = long_log(&mut host);
    let mut expected =
        vec![membership(0, 1), membership(5, 2), membership(50, 3), membership(120, 4)];
    for (released, left) in [(4, 4), (5, 3), (49, 3), (60, 2), (119, 2), (120, 1), (200, 1)] {
        log.applied_to(LogIndex(released));
        log.release_to(LogIndex(released));
        host.pump(&mut log).unwrap();
        expected.drain(..expected.len() - left);
        let (again, recovery);
        (host, again, recovery) = recovered(host);
        assert_eq!(recovery.memberships, expected, "released to {released}");
        assert_eq!(recovery.hard_state.vote, Some(replica(9)));
        log = again;
    }
}

#[test]
fn a_truncation_takes_the_memberships_of_its_entries() {
    let mut host = Host::new(1);
    let mut log = long_log(&mut host);
    let truncated = |from| Persist {
        io: IoId(1000),
        hard_state: None,
        truncate_from: Some(LogIndex(from)),
        entries: vec![change(from, 3, 7)],
    };
    log.submit(truncated(110));
    host.pump(&mut log).unwrap();
    let (host, mut log, recovery) = recovered(host);
    let first = [membership(0, 1), membership(5, 2)];
    let expected = [first.to_vec(), vec![membership(50, 3), membership(110, 7)]].concat();
    assert_eq!(recovery.memberships, expected);
    log.submit(truncated(50));
    host.pump(&mut log).unwrap();
    let (_, _, recovery) = recovered(host);
    assert_eq!(recovery.memberships, [first.to_vec(), vec![membership(50, 7)]].concat());
}

#[test]
fn every_segment_begins_with_hard_state_baseline_and_membership() {
    let mut host = Host::new(1);
    let log = long_log(&mut host);
    assert!(log.stats().segments > 10);
    let chain = Chain::read(&*host.env.disk, LogKind::RaftLog, DIR.as_ref()).unwrap();
    for segment in &chain.segments[1..] {
        let mut reader = segment.reader(&*host.env.disk).unwrap();
        let mut slots = Vec::new();
        for _ in 0..4 {
            let record = reader.expect_record().unwrap();
            if record.kind == RecordKind::State {
                slots.push(record.index);
            }
        }
        assert_eq!(slots, [SLOT_HARD_STATE, SLOT_BASELINE, SLOT_MEMBERSHIP]);
    }
}

/// A reset with a group in flight and one pending, and a persist behind it. Gives back what completed.
fn reset_in_flight(host: &mut Host) -> Vec<u64> {
    let Ok((mut log, _)) = host.open() else { return Vec::new() };
    let hard_state = Some(HardState { term: Term(3), vote: Some(replica(4)) });
    log.submit(Persist { hard_state, entries: vec![entry(201, 2)], ..host.persist() });
    log.kick();
    log.submit(Persist { entries: vec![change(202, 2, 5)], ..host.persist() });
    log.reset((LogIndex(500), Term(3)), membership(480, 6));
    assert_eq!((log.first_index(), log.last()), (LogIndex(501), (LogIndex(500), Term(3))));
    log.submit(Persist { entries: vec![entry(501, 3), change(502, 3, 8)], ..host.persist() });
    let mut all = Vec::new();
    while all.last() != Some(&3) {
        let Ok(outcomes) = host.pump(&mut log) else { break };
        assert!(!outcomes.is_empty(), "{all:?}");
        all.extend(completed(&outcomes));
        if outcomes.iter().any(|o| matches!(o, LogOutcome::DiskFull)) {
            host.sim.disk.set_capacity(None);
        }
    }
    all
}

fn after_reset() -> (Vec<Entry>, Vec<(LogIndex, Membership)>) {
    (vec![entry(501, 3), change(502, 3, 8)], vec![membership(480, 6), membership(502, 8)])
}

#[test]
fn a_reset_with_groups_in_flight_completes_their_ids_in_order() {
    for full in [false, true] {
        let mut base = Host::new(1);
        drop(long_log(&mut base));
        let mut host = fork(&base, 1);
        if full {
            // Nothing but the first group fits.
            host.sim.disk.set_capacity(Some(host.sim.disk.used_bytes()));
            host.open().map(drop).ok();
        }
        let done = reset_in_flight(&mut host);
        assert!(done.is_sorted() && done.last() == Some(&3), "full {full}: {done:?}");
        let (_, log, recovery) = recovered(host);
        let (entries, memberships) = after_reset();
        assert_eq!((read_all(&log), recovery.memberships), (entries, memberships), "full {full}");
        assert_eq!(recovery.hard_state, HardState { term: Term(3), vote: Some(replica(4)) });
        assert!(log.stats().segments <= 2, "what was discarded is given up");
    }
}

#[test]
fn a_crash_anywhere_in_a_reset_leaves_the_old_log_or_an_empty_one_or_the_new_one() {
    let mut base = Host::new(1);
    drop(long_log(&mut base));
    let old = [membership(0, 1), membership(5, 2), membership(50, 3), membership(120, 4)];
    let (mut steps, mut empty) = (0, 0);
    for step in 0.. {
        let mut done = Vec::new();
        for (seed, kind) in
            [(1, CrashKind::Process), (2, CrashKind::PowerLoss), (3, CrashKind::PowerLoss)]
        {
            let mut host = fork(&base, seed);
            host.sim.disk.crash_at(host.sim.disk.op_count() + step);
            done = reset_in_flight(&mut host);
            let mut host = host.crashed(kind);
            let (mut log, recovery) = host.open().unwrap();
            let context =
                format!("step {step}, {kind:?} {seed}, done {done:?}: last {:?}", log.last());
            let (last, count) = (log.last().0.0, read_all(&log).len());
            assert!(recovery.hard_state.term >= Term(2) && recovery.hard_state.vote.is_some());
            if !done.is_empty() {
                let vote = HardState { term: Term(3), vote: Some(replica(4)) };
                assert_eq!(recovery.hard_state, vote, "{context}");
            }
            match (log.first_index().0, last) {
                (1, 200 | 201) => assert_eq!(recovery.memberships, old, "{context}"),
                (1, 202) => assert_eq!(recovery.memberships.len(), 5, "{context}"),
                (1, 0) => {
                    // The baseline was lost: the node resets again.
                    let members = &recovery.memberships;
                    assert!(*members == old[..1] || *members == [membership(480, 6)], "{context}");
                    empty += 1;
                }
                (501, 500 | 501) => {
                    assert_eq!(recovery.memberships, [membership(480, 6)], "{context}");
                }
                (501, 502) => assert_eq!(recovery.memberships, after_reset().1, "{context}"),
                _ => panic!("{context}"),
            }
            assert!(last == 502 || done.last() != Some(&3), "{context}");
            assert!(last >= 200 || count == 0, "{context}");
            if last < 500 {
                log.reset((LogIndex(500), Term(3)), membership(480, 6));
                log.submit(Persist { entries: vec![entry(501, 3)], ..host.persist() });
                host.pump(&mut log).unwrap();
                let (_, log, recovery) = recovered(host);
                assert_eq!(read_all(&log), [entry(501, 3)], "{context}");
                assert_eq!(recovery.memberships, [membership(480, 6)], "{context}");
            }
            steps += 1;
        }
        if done.last() == Some(&3) && step > 40 {
            break;
        }
    }
    assert!(steps > 60, "{steps} steps, {empty} of them left an empty log");
}

#[test]
fn a_flipped_byte_is_refused_or_changes_nothing() {
    let mut host = Host::new(1);
    let mut log = long_log(&mut host);
    log.applied_to(LogIndex(190));
    log.release_to(LogIndex(190));
    host.pump(&mut log).unwrap();
    log.close();
    host.pump(&mut log).unwrap();
    drop(log);
    let clean = fork(&host, 1).open().map(|(log, r)| (read_all(&log), r.hard_state, r.memberships));
    let clean = clean.unwrap();
    let (mut refused, mut same) = (0, 0);
    for file in host.env.disk.list(DIR.as_ref()).unwrap() {
        let records = file.name.ends_with(".rlog");
        for offset in (0..file.len.min(4096)).step_by(if records { 3 } else { 997 }) {
            let flipped = fork(&host, 1);
            flipped.sim.disk.flip(Path::new(DIR).join(&file.name), offset, 1 << (offset % 8));
            match flipped.open() {
                Ok((log, r)) => {
                    let found = (read_all(&log), r.hard_state, r.memberships);
                    assert!(found == clean, "{} at {offset}", file.name);
                    same += 1;
                }
                Err(error) => {
                    let named = matches!(error, RaftLogError::Wal(WalError::NewerVersion { .. }));
                    assert!(error.is_corruption() || named, "{} at {offset}: {error}", file.name);
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 100 && same > 100, "{refused} refused, {same} harmless");
}

/// The second block of bytes in `proto-spec/wal.md`.
#[test]
fn the_hard_state_of_the_spec_is_what_is_written() {
    let spec = include_str!("../../proto-spec/wal.md");
    let block = spec.split("```hex").nth(2).and_then(|rest| rest.split("```").next()).unwrap();
    let rows = block.lines().filter(|line| !line.is_empty());
    let bytes: Vec<u8> = rows
        .flat_map(|row| row.split_whitespace().skip(1).take(8))
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect();
    let mut host = Host::new(1);
    let (mut log, _) = host.open().unwrap();
    let voted_for = crate::base::ReplicaId { incarnation: 7, ..replica(3) };
    let hard_state = Some(HardState { term: Term(5), vote: Some(voted_for) });
    log.submit(Persist { hard_state, ..host.persist() });
    host.pump(&mut log).unwrap();
    let path = Path::new(DIR).join(LogKind::RaftLog.file_name(1));
    assert_eq!(host.sim.disk.read_file(path).unwrap()[0x60..0xa0], bytes);
}

#[test]
fn a_membership_slot_that_is_none_is_refused() {
    let host = Host::new(1);
    let options = Options::new(LogKind::RaftLog, DIR);
    let (mut writer, _) = wal::open(&host.env.disk, options, &mut |_| Ok(())).unwrap();
    writer.append(RecordKind::State, SLOT_MEMBERSHIP, STATE_FORMAT, b"nobody");
    writer.sync_blocking().unwrap();
    drop(writer);
    let error = host.open().map(|_| ()).unwrap_err();
    assert!(error.is_corruption(), "{error}");
    assert!(error.to_string().contains("slot 3: expected an index and a membership"), "{error}");
}
