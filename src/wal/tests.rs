//! Behaviour of the log, one rule a test. Crashes at every change and flips of every byte: `crash_tests`.

use super::segment::{SegmentReader, SegmentWriter, scan};
use super::*;
use crate::env::sim::{CrashKind, FailKind, FailOn, FailPoint, OpKind, SimDisk};
use crate::env::{Disk, OpenMode};
use crate::limits::{MAX_FILE_NUMBER, MAX_GROUP_BYTES, MAX_RECORD_BYTES};
use proptest::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn small_options() -> Options {
    Options { segment_bytes: 1024, ..Options::new(LogKind::Wal, "/log") }
}

fn shared(disk: &SimDisk) -> Arc<dyn Disk> {
    Arc::new(disk.clone())
}

fn open_with(
    disk: &SimDisk,
    options: &Options,
) -> Result<(Writer, RecoveryReport, Vec<u64>), WalError> {
    let mut indexes = Vec::new();
    let (writer, report) = open(&shared(disk), options.clone(), &mut |r| {
        match r.kind {
            RecordKind::Data => indexes.push(r.index),
            RecordKind::Truncate => indexes.retain(|&i| i < r.index),
            _ => {}
        }
        Ok(())
    })?;
    Ok((writer, report, indexes))
}

fn open_log(disk: &SimDisk) -> Result<(Writer, RecoveryReport, Vec<u64>), WalError> {
    open_with(disk, &small_options())
}

fn put(writer: &mut Writer, index: u64) -> AppendId {
    let payload = vec![index as u8; 10 + index as usize % 90];
    writer.append(RecordKind::Data, index, 0, &payload)
}

fn put_and_sync(writer: &mut Writer, indexes: std::ops::RangeInclusive<u64>) {
    for index in indexes {
        put(writer, index);
        writer.sync_blocking().unwrap();
    }
}

fn names(disk: &SimDisk) -> Vec<String> {
    disk.list("/log".as_ref()).unwrap().into_iter().map(|e| e.name).collect()
}

fn segment(id: u64) -> PathBuf {
    Path::new("/log").join(LogKind::Wal.file_name(id))
}

#[test]
fn what_was_synced_is_there_after_a_power_loss() {
    let disk = SimDisk::new(1);
    let (mut writer, report, found) = open_log(&disk).unwrap();
    assert!(found.is_empty() && report.was_clean(), "{report}");
    for index in 1..=100 {
        let id = put(&mut writer, index);
        if index % 7 == 0 {
            assert_eq!(writer.sync_blocking().unwrap(), id);
        }
    }
    writer.sync_blocking().unwrap();
    assert!(writer.segments() > 3);
    disk.crash(CrashKind::PowerLoss);
    disk.restart();
    let (_, report, found) = open_log(&disk).unwrap();
    assert_eq!(found, (1..=100).collect::<Vec<_>>(), "{report}");
}

#[test]
fn one_group_is_in_flight_and_the_rest_collects() {
    let disk = SimDisk::new(1);
    let (mut writer, ..) = open_log(&disk).unwrap();
    assert!(writer.next_group().is_none(), "nothing is pending");
    let first = put(&mut writer, 1);
    let job = writer.next_group().unwrap();
    let last = (2..=5).map(|i| put(&mut writer, i)).last().unwrap();
    assert!(writer.next_group().is_none() && writer.in_flight() && writer.pending_bytes() > 0);
    let before = writer.durable_to();
    assert_eq!(writer.group_done(job.run()).unwrap(), first);
    assert!(writer.durable_to() > before);
    let job = writer.next_group().unwrap();
    assert_eq!(writer.group_done(job.run()).unwrap(), last);
    assert_eq!(writer.pending_bytes(), 0);
    assert!(writer.next_group().is_none());
}

#[test]
fn a_group_has_a_limit_and_a_record_larger_than_a_segment_gets_a_larger_segment() {
    let disk = SimDisk::new(1);
    let (mut writer, ..) = open_log(&disk).unwrap();
    let big = vec![7; MAX_RECORD_BYTES];
    for index in 1..=3 {
        writer.append(RecordKind::Data, index, 0, &big);
    }
    let job = writer.next_group().unwrap();
    assert!(job.bytes() <= MAX_GROUP_BYTES, "{}", job.bytes());
    assert_eq!(writer.group_done(job.run()).unwrap(), AppendId(1));
    writer.sync_blocking().unwrap();
    drop(writer);
    assert_eq!(open_log(&disk).unwrap().2, [1, 2, 3]);
}

#[test]
fn truncation_is_a_record_and_its_suffix_stays_dropped() {
    let disk = SimDisk::new(1);
    let (mut writer, ..) = open_log(&disk).unwrap();
    put_and_sync(&mut writer, 1..=40);
    writer.append(RecordKind::Truncate, 11, 0, &[]);
    put_and_sync(&mut writer, 11..=12);
    drop(writer);
    let (_, _, found) = open_log(&disk).unwrap();
    assert_eq!(found, (1..=12).collect::<Vec<_>>());
}

#[test]
fn a_written_and_unsynced_group_survives_the_process_but_not_the_machine() {
    for (kind, survives) in [(CrashKind::Process, true), (CrashKind::PowerLoss, false)] {
        let mut lost = 0;
        for seed in 0..20 {
            let disk = SimDisk::new(seed);
            let (mut writer, ..) = open_log(&disk).unwrap();
            put_and_sync(&mut writer, 1..=1);
            put(&mut writer, 2);
            let job = writer.next_group_unsynced().unwrap();
            writer.group_done(job.run()).unwrap();
            assert!(writer.durable_to() < writer.written_to());
            disk.crash(kind);
            disk.restart();
            let (_, report, found) = open_log(&disk).unwrap();
            assert_eq!(report.copied_records, 1, "the one above the watermark: {report}");
            lost += u32::from(found == [1]);
        }
        assert_eq!(lost == 0, survives, "{kind:?}");
    }
}

#[test]
fn next_group_syncs_what_was_written_without_a_sync() {
    let disk = SimDisk::new(1);
    let (mut writer, ..) = open_log(&disk).unwrap();
    let id = put(&mut writer, 1);
    let job = writer.next_group_unsynced().unwrap();
    writer.group_done(job.run()).unwrap();
    assert!(writer.next_group_unsynced().is_none());
    let job = writer.next_group().expect("the sync is still owed");
    assert_eq!(writer.group_done(job.run()).unwrap(), id);
    assert_eq!(writer.durable_to(), writer.written_to());
    assert!(writer.next_group().is_none());
}

#[test]
fn a_clean_close_leaves_nothing_to_copy_and_restarts_do_not_pile_up_segments() {
    let disk = SimDisk::new(1);
    let (mut writer, ..) = open_log(&disk).unwrap();
    put_and_sync(&mut writer, 1..=3);
    writer.close_blocking().unwrap();
    for _ in 0..10 {
        let (mut writer, report, found) = open_log(&disk).unwrap();
        assert!(report.was_clean(), "{report}");
        assert_eq!(found, [1, 2, 3]);
        writer.close_blocking().unwrap();
    }
    let segments = names(&disk).into_iter().filter(|n| n.ends_with(".wal")).count();
    assert_eq!(segments, 2, "{:?}", names(&disk));
}

#[test]
fn states_are_carried_past_the_release_of_their_segment() {
    let disk = SimDisk::new(1);
    let (mut writer, ..) = open_log(&disk).unwrap();
    writer.append(RecordKind::State, 0, 9, b"old");
    writer.append(RecordKind::State, 5, 0, b"five");
    writer.append(RecordKind::State, 0, 10, b"new");
    put_and_sync(&mut writer, 1..=60);
    let job = writer.release_below(50).expect("there are old segments");
    writer.maintenance_done(job.run()).unwrap();
    drop(writer);
    let (writer, _, found) = open_log(&disk).unwrap();
    assert!(found[0] > 30 && found.ends_with(&[59, 60]), "{found:?}");
    assert_eq!(writer.state(0), Some((10, b"new".as_slice())));
    assert_eq!(writer.state(5), Some((0, b"five".as_slice())));
}

/// Records of one size, so that in a recycled segment the old ones stand exactly where new ones would.
#[test]
fn stale_records_of_a_recycled_segment_are_never_replayed() {
    let disk = SimDisk::new(1);
    let options = Options { max_spares: 4, ..small_options() };
    let (mut writer, ..) = open_with(&disk, &options).unwrap();
    let mut next = 1;
    for _ in 0..12 {
        for _ in 0..11 {
            writer.append(RecordKind::Data, next, 0, &[next as u8; 32]);
            writer.sync_blocking().unwrap();
            next += 1;
            let (_, report, found) = open_with(&disk.fork(1), &options).unwrap();
            assert_eq!(found.last(), Some(&(next - 1)), "{report}");
            let expected: Vec<u64> = (found[0]..next).collect();
            assert_eq!(found, expected, "{report}");
        }
        if let Some(job) = writer.release_below(next - 3) {
            writer.maintenance_done(job.run()).unwrap();
        }
    }
    let recycled = writer.segment_files().any(|(id, path, _)| {
        let file = disk.open(path, OpenMode::Read).unwrap();
        let header = *SegmentReader::open(file, None).unwrap().header();
        header.recycled_from != 0 && header.id == id
    });
    assert!(recycled, "the test recycles segments: {:?}", names(&disk));
}

#[test]
fn a_failed_sync_stops_the_log_for_good() {
    let disk = SimDisk::new(1);
    let (mut writer, ..) = open_log(&disk).unwrap();
    put_and_sync(&mut writer, 1..=1);
    put(&mut writer, 2);
    disk.fail_next_sync("/log");
    let error = writer.sync_blocking().unwrap_err();
    assert!(matches!(&error, WalError::Io(e) if e.op == "fdatasync"), "{error}");
    put(&mut writer, 3);
    assert!(writer.next_group().is_none() && writer.close().is_none());
    let error = writer.sync_blocking().unwrap_err();
    assert!(
        matches!(&error, WalError::Poisoned { first } if first.contains("fdatasync")),
        "{error}"
    );
}

#[test]
fn a_full_disk_loses_nothing_and_writing_goes_on_when_there_is_space() {
    let disk = SimDisk::new(1);
    let (mut writer, ..) = open_log(&disk).unwrap();
    put_and_sync(&mut writer, 1..=3);
    disk.set_capacity(Some(disk.used_bytes()));
    let mut full = false;
    for index in 4..=60 {
        put(&mut writer, index);
        match writer.sync_blocking() {
            Ok(_) => assert!(!full, "no space came back"),
            Err(error) => {
                assert!(error.is_retryable(), "{error}");
                full = true;
            }
        }
    }
    assert!(full && writer.pending_bytes() > 0);
    disk.set_capacity(None);
    assert_eq!(writer.sync_blocking().unwrap(), writer.last_append());
    drop(writer);
    assert_eq!(open_log(&disk).unwrap().2, (1..=60).collect::<Vec<_>>());
}

#[test]
fn the_reserve_lets_a_full_node_restart_and_delete() {
    let disk = SimDisk::new(1);
    let options = Options { segment_bytes: 8192, ..small_options() };
    let (mut writer, ..) = open_with(&disk, &options).unwrap();
    let job = writer.maintenance().unwrap();
    writer.maintenance_done(job.run()).unwrap();
    assert!(names(&disk).contains(&"reserve".to_string()));
    put_and_sync(&mut writer, 1..=2);
    drop(writer);
    disk.set_capacity(Some(disk.used_bytes()));
    let (mut writer, _, found) = open_with(&disk, &options).expect("a full disk can be opened");
    assert_eq!(found, [1, 2]);
    assert!(!names(&disk).contains(&"reserve".to_string()));
    // With space again the reserve comes back, and the next full disk can use it for deletes.
    disk.set_capacity(None);
    let job = writer.maintenance().unwrap();
    writer.maintenance_done(job.run()).unwrap();
    disk.set_capacity(Some(disk.used_bytes()));
    writer.append(RecordKind::Data, 3, 0, &[3; 9000]);
    assert!(writer.sync_blocking().unwrap_err().is_retryable());
    writer.use_reserve();
    disk.set_capacity(Some(disk.used_bytes() + 8192));
    writer.sync_blocking().expect("the reserve has room for it");
    assert!(!names(&disk).contains(&"reserve".to_string()));
    disk.set_capacity(None);
    let job = writer.maintenance().expect("a new reserve is made");
    writer.maintenance_done(job.run()).unwrap();
    assert!(names(&disk).contains(&"reserve".to_string()));
    drop(writer);
    assert_eq!(open_with(&disk, &options).unwrap().2, [1, 2, 3]);
}

#[test]
fn a_reserve_that_was_not_finished_is_made_again() {
    let options = Options { segment_bytes: 64 << 10, ..small_options() };
    for changes in 0..8 {
        let disk = SimDisk::new(1);
        let (mut writer, ..) = open_with(&disk, &options).unwrap();
        let job = writer.maintenance().unwrap();
        disk.crash_at(disk.op_count() + changes);
        drop(job.run());
        drop(writer);
        disk.crash(CrashKind::Process);
        disk.restart();
        let (mut writer, ..) = open_with(&disk, &options).unwrap();
        if !names(&disk).contains(&"reserve".to_string()) {
            let job = writer.maintenance().unwrap();
            writer.maintenance_done(job.run()).unwrap();
        }
        let reserve = disk.read_file("/log/reserve").expect("a reserve");
        assert_eq!(reserve.len(), 64 << 10, "after {changes} changes");
    }
}

#[test]
fn a_spare_never_takes_the_last_space() {
    let disk = SimDisk::new(1);
    let options = Options { segment_bytes: 8192, ..small_options() };
    let (mut writer, ..) = open_with(&disk, &options).unwrap();
    let job = writer.maintenance().expect("the reserve");
    writer.maintenance_done(job.run()).unwrap();
    let before = disk.used_bytes();
    disk.set_capacity(Some(before + 2 * 8192 - 1));
    let done = writer.maintenance().expect("a spare").run();
    assert_eq!(disk.used_bytes(), before, "a flush may need what is left");
    assert!(writer.maintenance_done(done).unwrap_err().is_retryable());
    assert!(writer.maintenance().is_none() && writer.spare_segments() == 0);
    disk.set_capacity(Some(before + 2 * 8192));
    writer.retry_maintenance();
    let job = writer.maintenance().expect("a spare");
    writer.maintenance_done(job.run()).unwrap();
    assert_eq!(writer.spare_segments(), 1);
}

#[test]
fn the_log_is_cut_at_a_torn_record_even_if_valid_ones_follow_it() {
    let disk = SimDisk::new(1);
    let (mut writer, ..) = open_log(&disk).unwrap();
    put_and_sync(&mut writer, 1..=2);
    let at = writer.written_to();
    for index in 3..=6 {
        writer.append(RecordKind::Data, index, 0, &[9; 16]);
    }
    writer.sync_blocking().unwrap();
    drop(writer);
    let torn = at.offset() + (RECORD_HEADER_BYTES + record_bytes(16)) as u64;
    disk.flip(segment(at.segment()), torn + 40, 1);
    let (_, report, found) = open_log(&disk).unwrap();
    assert_eq!(found, [1, 2, 3], "4 is torn, 5 and 6 follow it");
    let cut = report.cut.as_ref().unwrap();
    assert_eq!((cut.offset, cut.path.clone()), (torn, segment(at.segment())));
    assert!(report.to_string().contains("checksum"), "{report}");
    assert_eq!(open_log(&disk).unwrap().2, [1, 2, 3], "and stay cut");
}

#[test]
fn damage_below_a_watermark_is_refused_by_name_and_changes_nothing() {
    let disk = SimDisk::new(1);
    let (mut writer, ..) = open_log(&disk).unwrap();
    put_and_sync(&mut writer, 1..=3);
    let at = writer.last_group().unwrap();
    put_and_sync(&mut writer, 4..=5);
    drop(writer);
    disk.flip(segment(at.segment()), at.offset() + 50, 4);
    let before = (names(&disk), disk.read_file(segment(at.segment())));
    let error = open_log(&disk).unwrap_err();
    let text = error.to_string();
    assert!(error.is_corruption(), "{text}");
    let offset = format!("offset {}", at.offset() + RECORD_HEADER_BYTES as u64);
    assert!(text.contains(&offset) && text.contains(".wal: corrupt"), "{text}");
    assert!(text.contains("expected checksum") && text.contains("durable up to"), "{text}");
    assert_eq!(before, (names(&disk), disk.read_file(segment(at.segment()))));
}

#[test]
fn foreign_newer_renamed_empty_and_missing_files_are_each_named() {
    let make = || {
        let disk = SimDisk::new(1);
        let (mut writer, ..) = open_log(&disk).unwrap();
        put_and_sync(&mut writer, 1..=60);
        drop(writer);
        disk
    };
    let first = make().read_file(segment(1)).unwrap();
    let error_of = |disk: &SimDisk| open_log(disk).map(|_| ()).unwrap_err();

    let disk = make();
    disk.remove(&segment(2)).unwrap();
    assert!(matches!(error_of(&disk), WalError::MissingSegment { missing: 2, needed_by: 3, .. }));

    let disk = make();
    disk.write_file(segment(77), &first);
    assert!(error_of(&disk).to_string().contains("as the file's name says"));

    let disk = make();
    disk.write_file(segment(77), &[]);
    assert!(error_of(&disk).to_string().contains("end of the file after 0 bytes"));

    let disk = make();
    disk.write_file(segment(77), b"GIF89a..");
    assert!(error_of(&disk).is_corruption());

    let header = SegmentHeader {
        kind: LogKind::Manifest,
        id: 77,
        first_index: 0,
        continues: LogPos::ZERO,
        born_durable_to: 64,
        recycled_from: 0,
    };
    let disk = make();
    disk.write_file(segment(77), &header.encode());
    let error = error_of(&disk);
    assert!(matches!(&error, WalError::WrongKind { .. }), "{error}");
    assert!(error.to_string().ends_with("expected a wal file, found a manifest file"), "{error}");

    for id in [MAX_FILE_NUMBER + 1, u64::from(u32::MAX)] {
        // No segment could follow it.
        let disk = make();
        disk.write_file(segment(id), &SegmentHeader { kind: LogKind::Wal, id, ..header }.encode());
        let error = error_of(&disk);
        assert!(error.is_corruption() && error.to_string().contains("a segment id of"), "{error}");
    }

    let disk = make();
    let mut newer = SegmentHeader { kind: LogKind::Wal, ..header }.encode();
    newer[15] = 2;
    let crc =
        crate::base::checksum::extend(crate::base::checksum::crc32c(&newer[..8]), &newer[12..]);
    newer[8..12].copy_from_slice(&crc.to_be_bytes());
    disk.write_file(segment(77), &newer);
    assert!(matches!(error_of(&disk), WalError::NewerVersion { found: 2, supported: 1, .. }));
}

#[test]
fn release_gives_up_whole_segments_oldest_first_and_spares_are_used() {
    let disk = SimDisk::new(1);
    let (mut writer, ..) = open_log(&disk).unwrap();
    for _ in 0..2 {
        let job = writer.maintenance().unwrap();
        writer.maintenance_done(job.run()).unwrap();
    }
    assert!(writer.maintenance().is_none(), "one spare and the reserve are enough");
    put_and_sync(&mut writer, 1..=60);
    let (segments, bytes) = (writer.segments(), writer.live_bytes());
    assert!(writer.release_below(1).is_none());
    let job = writer.release_below(31).unwrap();
    assert!(writer.release_below(61).is_none() && writer.is_releasing(), "one release at a time");
    writer.maintenance_done(job.run()).unwrap();
    assert!(writer.segments() < segments && writer.live_bytes() < bytes);
    let job = writer.release_below(u64::MAX).unwrap();
    writer.maintenance_done(job.run()).unwrap();
    assert_eq!(writer.segments(), 1, "the newest one stays");
    put_and_sync(&mut writer, 61..=62);
    drop(writer);
    assert!(open_log(&disk).unwrap().2.ends_with(&[61, 62]));
}

#[test]
fn a_segment_that_cannot_be_removed_is_released_again_later() {
    let disk = SimDisk::new(1);
    let options = Options { max_spares: 0, ..small_options() };
    let (mut writer, ..) = open_with(&disk, &options).unwrap();
    put_and_sync(&mut writer, 1..=60);
    let segments = writer.segments();
    let on = FailOn::Matching { op: Some(OpKind::Remove), path: String::new(), nth: 1 };
    disk.fail(FailPoint { on, error: FailKind::Eio, forever: false });
    let job = writer.release_below(u64::MAX).unwrap();
    writer.maintenance_done(job.run()).unwrap_err();
    assert_eq!(writer.segments(), segments - 1);
    assert!(open_log(&disk.fork(1)).is_ok(), "there is no gap");
    let job = writer.release_below(u64::MAX).unwrap();
    writer.maintenance_done(job.run()).unwrap();
    assert_eq!(writer.segments(), 1);
}

#[test]
fn a_single_file_log_is_created_durably_appended_and_scanned() {
    let disk = SimDisk::new(1);
    let path = Path::new("/log/0000000000000009.manifest");
    disk.create_dir_all("/log".as_ref()).unwrap();
    let first: &[(RecordKind, u64, u64, &[u8])] = &[(RecordKind::Data, 1, 0, b"full edit")];
    let mut writer = SegmentWriter::create(&disk, path, LogKind::Manifest, 9, first).unwrap();
    disk.sync_dir("/log".as_ref()).unwrap();
    for index in 2..=5 {
        writer.append(RecordKind::Data, index, 0, b"edit");
        writer.commit().unwrap();
    }
    disk.fail_next_sync("manifest");
    writer.append(RecordKind::Data, 6, 0, b"edit");
    assert!(writer.commit().is_err());
    assert!(matches!(writer.commit(), Err(WalError::Poisoned { .. })), "a failed sync is for good");
    disk.crash(CrashKind::PowerLoss);
    disk.restart();
    let scan_it = |disk: &SimDisk| {
        let file = disk.open(path, OpenMode::Read).unwrap();
        let mut found = Vec::new();
        let end = scan(&mut SegmentReader::open(file, Some(LogKind::Manifest))?, &mut |r| {
            if r.kind == RecordKind::Data {
                found.push(r.index);
            }
            Ok(())
        })?;
        end.check(path).map(|()| found)
    };
    assert_eq!(scan_it(&disk).unwrap(), [1, 2, 3, 4, 5]);
    disk.flip(path, 110, 1);
    assert!(scan_it(&disk).unwrap_err().is_corruption());
}

/// The bytes of the ```hex block in `proto-spec/wal.md`: an offset, then eight bytes a line.
fn example_of_the_spec() -> Vec<u8> {
    let spec = include_str!("../../proto-spec/wal.md");
    let block = spec.split("```hex").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let rows = block.lines().filter(|line| !line.is_empty());
    rows.flat_map(|row| {
        row.split_whitespace().skip(1).take(8).map(|byte| u8::from_str_radix(byte, 16).unwrap())
    })
    .collect()
}

#[test]
fn the_worked_example_of_the_spec_is_what_is_written() {
    let disk = SimDisk::new(1);
    let options = Options { preallocate: false, ..small_options() };
    let (mut writer, ..) = open_with(&disk, &options).unwrap();
    for index in 1..=2 {
        let mut batch = crate::base::batch::WriteBatch::new();
        batch.put(format!("k{index}").as_bytes(), format!("v{index}").as_bytes()).unwrap();
        writer.append(RecordKind::Data, index, 0, batch.as_bytes());
        writer.sync_blocking().unwrap();
    }
    assert_eq!(disk.read_file(segment(1)).unwrap(), example_of_the_spec());
}

/// `cargo test --release -p beachdb --lib wal::tests::rate -- --ignored --nocapture`: appends of 130 bytes (a put of
/// a 16-byte key and a 72-byte value in its batch) in groups, written and synced on the real disk.
#[test]
#[ignore = "a measurement"]
fn rate() {
    use crate::env::Clock;
    let (clock, dir) = (crate::env::os::OsClock::new(), tempfile::tempdir().unwrap());
    let disk: Arc<dyn Disk> = Arc::new(crate::env::os::OsDisk::new());
    let payload = [7u8; 130];
    for (group, groups) in [(1, 2_000), (64, 2_000), (256, 2_000), (1024, 1_000), (8192, 200)] {
        let options = Options::new(LogKind::Wal, dir.path().join(group.to_string()));
        let (mut writer, _) = open(&disk, options, &mut |_| Ok(())).unwrap();
        for _ in 0..2 {
            let job = writer.maintenance().unwrap();
            writer.maintenance_done(job.run()).unwrap();
        }
        let (mut on_loop, started) = (0, clock.now());
        for _ in 0..groups {
            let before = clock.now();
            for _ in 0..group {
                writer.append(RecordKind::Data, 1, 0, &payload);
            }
            let job = writer.next_group().unwrap();
            on_loop += clock.now().0 - before.0;
            writer.group_done(job.run()).unwrap();
        }
        let total = clock.now().0 - started.0;
        let n = group * groups;
        println!(
            "groups of {group:5}: {:8.0} appends/s, {:6.0} us a group, {:4.0} ns an append on the loop",
            n as f64 * 1e9 / total as f64,
            total as f64 / 1e3 / groups as f64,
            on_loop as f64 / n as f64
        );
    }
}

#[test]
fn file_names_round_trip_and_others_are_ignored() {
    for kind in LogKind::ALL {
        assert_eq!(kind.parse_file_name(&kind.file_name(0x1f)), Some(0x1f));
        assert_eq!(LogKind::from_magic(kind.magic()), Some(kind));
    }
    for name in
        ["1.wal", "000000000000001F.wal", "+00000000000001f.wal", "000000000000001f.rlog", ".wal"]
    {
        assert_eq!(LogKind::Wal.parse_file_name(name), None, "{name}");
    }
}

proptest! {
    /// Whatever a file holds behind a valid header, reading it ends in an answer.
    #[test]
    fn arbitrary_and_mutated_bytes_never_panic(
        noise in proptest::collection::vec(any::<u8>(), 0..600),
        mutations in proptest::collection::vec((any::<u16>(), any::<u8>()), 0..6),
        valid in any::<bool>(),
    ) {
        let disk = SimDisk::new(1);
        let (mut writer, ..) = open_log(&disk).unwrap();
        put_and_sync(&mut writer, 1..=6);
        let mut bytes = disk.read_file(segment(1)).unwrap();
        if !valid {
            bytes.truncate(SEGMENT_HEADER_BYTES);
            bytes.extend_from_slice(&noise);
        }
        for (at, byte) in mutations {
            let at = at as usize % bytes.len();
            bytes[at] = byte;
        }
        disk.write_file(segment(1), &bytes);
        if let Ok((_, report, found)) = open_log(&disk) {
            prop_assert!(found.len() <= 6, "{report}");
        }
    }
}
