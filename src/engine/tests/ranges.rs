//! Range deletes and scans in reverse, slice by slice.

use super::*;

impl Rig {
    fn delete_range(&mut self, start: &str, end: &str) -> u64 {
        let mut batch = WriteBatch::new();
        batch.delete_range(start.as_bytes(), end.as_bytes()).unwrap();
        let index = LogIndex(self.next_index);
        self.next_index += 1;
        let batch = BatchRef::parse(batch.as_bytes()).unwrap();
        self.engine.apply(index, Term(1), Some(batch), &[]).last_seq.0
    }

    fn slice(&self, options: &ScanOptions) -> ScanSlice {
        match self.engine.scan(options).unwrap() {
            Scan::Done(slice) => slice,
            Scan::NeedsDisk(job) => job.run().unwrap(),
        }
    }

    fn keys(&self, reverse: bool, seq: Option<u64>) -> String {
        let seq = seq.map(SequenceNumber);
        let mut options = ScanOptions { reverse, seq, limit: 2, ..ScanOptions::default() };
        let mut keys = Vec::new();
        loop {
            let slice = self.slice(&options);
            keys.extend(slice.entries.into_iter().map(|e| String::from_utf8(e.key).unwrap()));
            match slice.resume {
                Some(resume) => options.go_on(resume),
                None => return keys.join(" "),
            }
        }
    }
}

#[test]
fn a_range_delete_hides_what_is_older_from_those_who_read_later_wherever_it_lies() {
    // Flushed after so many of the four steps.
    for flushes in 0..16 {
        let mut rig = Rig::new(1);
        let flush = |rig: &mut Rig, step: u32| {
            if flushes & (1 << step) != 0 {
                rig.flush();
            }
        };
        rig.write(&[("a", Some("1")), ("b", Some("1")), ("c", Some("1")), ("d", Some("1"))]);
        let before = rig.engine.snapshot();
        flush(&mut rig, 0);
        rig.write(&[("b", Some("2"))]);
        flush(&mut rig, 1);
        rig.delete_range("b", "d");
        let deleted = rig.engine.snapshot();
        flush(&mut rig, 2);
        rig.write(&[("c", Some("3"))]);
        flush(&mut rig, 3);
        let check = |rig: &Rig| {
            assert_eq!(rig.keys(false, None), "a c d", "flushes {flushes:04b}");
            assert_eq!(rig.keys(true, None), "d c a", "flushes {flushes:04b}");
            assert_eq!(rig.get("b"), None);
            assert_eq!(rig.get("c").as_deref(), Some("3"));
        };
        check(&rig);
        for (reverse, old, mid) in [(false, "a b c d", "a d"), (true, "d c b a", "d a")] {
            assert_eq!(rig.keys(reverse, Some(before.0)), old, "flushes {flushes:04b}");
            assert_eq!(rig.keys(reverse, Some(deleted.0)), mid, "flushes {flushes:04b}");
        }
        assert_eq!(rig.try_get("b", Some(before.0)).unwrap().as_deref(), Some("1"));
        assert_eq!(rig.try_get("b", Some(deleted.0)).unwrap(), None);
        rig.engine.release_snapshot(before);
        rig.engine.release_snapshot(deleted);
        rig.write(&[("a", Some("9"))]);
        rig.flush();
        check(&rig);
        rig.reopen().unwrap();
        check(&rig);
    }
}

#[test]
fn a_range_delete_that_no_table_needs_is_forgotten_with_its_flush() {
    let mut rig = Rig::new(2);
    rig.write(&[("a", Some("1")), ("b", Some("1"))]);
    rig.delete_range("", "");
    assert_eq!((rig.engine.range_deletes(), rig.keys(false, None).as_str()), (1, ""));
    rig.flush();
    assert_eq!(rig.engine.range_deletes(), 0, "everything that it hid was in its own memtable");
    assert!(rig.engine.version.is_empty(), "nothing was left for a table");
    rig.write(&[("b", Some("2"))]);
    rig.flush();
    rig.delete_range("c", "d");
    rig.flush();
    assert_eq!(rig.engine.range_deletes(), 0, "no table holds keys of it");
    rig.delete_range("a", "d");
    rig.flush();
    assert_eq!(rig.engine.stats().flushed_range_deletes, 1, "a table holds a key that it hides");
    assert_eq!(rig.keys(true, None), "");
    rig.reopen().unwrap();
    assert_eq!((rig.engine.range_deletes(), rig.keys(false, None).as_str()), (1, ""));
}

#[test]
fn internal_rows_outlive_a_range_delete_of_everything() {
    let mut rig = Rig::new(3);
    let rows = [InternalOp::put(b"m", b"row".to_vec())];
    rig.engine.apply(LogIndex(1), Term(1), None, &rows);
    rig.next_index = 2;
    rig.delete_range("", "");
    assert_eq!(rig.engine.internal_rows().unwrap().len(), 1);
    rig.flush();
    assert_eq!(rig.engine.internal_rows().unwrap().len(), 1);
}

#[test]
fn slices_over_many_tombstones_are_bounded_both_ways_and_a_range_delete_is_passed_by_a_seek() {
    let mut rig = Rig::new(4);
    let n = 3 * SCAN_STEPS;
    let key = |i: usize| format!("k{i:06}");
    for i in 0..n {
        rig.write(&[(&key(i), Some("v"))]);
        rig.write(&[(&key(i), None)]);
    }
    rig.write(&[("a", Some("first")), ("z", Some("last"))]);
    for reverse in [false, true] {
        let mut options = ScanOptions { reverse, ..ScanOptions::default() };
        let (mut slices, mut found) = (0, 0);
        loop {
            let slice = rig.slice(&options);
            (slices, found) = (slices + 1, found + slice.entries.len());
            let Some(resume) = slice.resume else { break };
            options.go_on(resume);
        }
        assert_eq!((slices, found), (n.div_ceil(SCAN_STEPS) + 1, 2), "reverse: {reverse}");
    }
    for i in 0..n {
        rig.write(&[(&key(i), Some("v"))]);
    }
    while !rig.engine.is_flushed() {
        rig.flush();
    }
    rig.delete_range("k", "l");
    for reverse in [false, true] {
        let slice = rig.slice(&ScanOptions { reverse, ..ScanOptions::default() });
        let found = slice.entries.len();
        assert_eq!((found, slice.resume), (2, None), "one slice is enough, reverse: {reverse}");
    }
}

const SCAN_STEPS: usize = crate::limits::SCAN_SLICE_STEPS;

#[test]
fn the_number_of_live_range_deletes_is_bounded() {
    let mut rig = Rig::new(5);
    rig.write(&[("a", Some("1"))]);
    rig.flush();
    let mut batch = WriteBatch::new();
    batch.delete_range(b"a", b"b").unwrap();
    let batch = BatchRef::parse(batch.as_bytes()).unwrap();
    for _ in 0..crate::limits::MAX_RANGE_DELETES {
        rig.engine.check_range_deletes(&batch).unwrap();
        rig.delete_range("a", "b");
    }
    let refused = rig.engine.check_range_deletes(&batch).unwrap_err();
    assert!(matches!(refused, EngineError::TooManyRangeDeletes { .. }), "{refused}");
    // It is applied all the same.
    rig.delete_range("a", "b");
    assert_eq!(rig.get("a"), None);
}

#[test]
fn long_bounds_count_more_so_that_the_bytes_of_live_range_deletes_are_bounded() {
    let mut rig = Rig::new(6);
    rig.write(&[("a", Some("1"))]);
    rig.flush();
    let long = "b".repeat(crate::limits::MAX_KEY_BYTES);
    let mut batch = WriteBatch::new();
    batch.delete_range(b"a", long.as_bytes()).unwrap();
    let batch = BatchRef::parse(batch.as_bytes()).unwrap();
    let mut taken = 0;
    while rig.engine.check_range_deletes(&batch).is_ok() {
        rig.delete_range("a", &long);
        taken += 1;
    }
    assert!((100..200).contains(&taken), "{taken} of 8 KiB");
    assert!(rig.engine.needs_flush(), "so that those that nobody needs go");
    rig.flush();
    assert!(rig.engine.durable.to_edit().encode().len() < 2 << 20);
}

/// All tables in level 1, side by side.
fn move_down(rig: &mut Rig) {
    let tables = rig.engine.version.tables().map(|table| Arc::new(table.moved_to(1)));
    let version = Version::new(tables.collect::<Vec<_>>());
    rig.engine.version = Arc::new(version);
}

#[test]
fn only_the_table_that_a_range_delete_covers_is_passed_over_and_not_its_level() {
    for (start, end) in [("a", "z"), ("", ""), ("a", ""), ("", "z")] {
        let mut rig = Rig::new(7);
        rig.write(&[("a", Some("1")), ("b", Some("1")), ("c", Some("1"))]);
        rig.flush();
        rig.delete_range(start, end);
        rig.write(&[("d", Some("2")), ("e", Some("2"))]);
        rig.flush();
        rig.write(&[("f", Some("3"))]);
        rig.flush();
        assert_eq!(rig.engine.range_deletes(), 1);
        move_down(&mut rig);
        assert_eq!(rig.keys(false, None), "d e f", "{start:?}..{end:?}");
        assert_eq!(rig.keys(true, None), "f e d", "{start:?}..{end:?}");
    }
    // The covered table between two others, both ways.
    let mut rig = Rig::new(8);
    rig.write(&[("m", Some("1")), ("n", Some("1"))]);
    rig.flush();
    rig.delete_range("a", "z");
    rig.write(&[("b", Some("2"))]);
    rig.flush();
    rig.write(&[("x", Some("3"))]);
    rig.flush();
    move_down(&mut rig);
    assert_eq!(rig.keys(false, None), "b x");
    assert_eq!(rig.keys(true, None), "x b");
}

#[test]
fn a_slice_that_ends_at_a_key_of_which_one_version_was_passed_over_goes_on_at_that_key() {
    // Whether the slice ends just before, at, or behind the covered version.
    for above in SCAN_STEPS - 3..SCAN_STEPS + 2 {
        let mut rig = Rig::new(9);
        rig.write(&[("kk", Some("old"))]);
        rig.flush();
        rig.delete_range("k", "l");
        rig.write(&[("kk", Some("new"))]);
        for i in 0..above {
            rig.write(&[(&format!("z{i:05}"), Some("v"))]);
            rig.write(&[(&format!("a{i:05}"), Some("v"))]);
        }
        for reverse in [false, true] {
            let mut options = ScanOptions { reverse, ..ScanOptions::default() };
            let mut keys = Vec::new();
            loop {
                let slice = rig.slice(&options);
                keys.extend(slice.entries.into_iter().map(|e| e.key));
                let Some(resume) = slice.resume else { break };
                options.go_on(resume);
            }
            assert_eq!(keys.len(), 2 * above + 1, "{above} keys, reverse: {reverse}");
            assert_eq!(keys[above], b"kk");
        }
    }
}

#[test]
fn compactions_apply_a_range_delete_of_everything_and_keep_the_rows_of_the_cluster() {
    let mut rig = Rig::with(10, EngineOptions { compaction: tiny(), ..options() });
    let rows = [InternalOp::put(b"m", b"row".to_vec())];
    rig.engine.apply(LogIndex(1), Term(1), None, &rows);
    rig.next_index = 2;
    for i in 0..500 {
        rig.write(&[(&format!("k{i:05}"), Some("value"))]);
    }
    rig.flush();
    let pin = rig.engine.snapshot();
    rig.delete_range("", "");
    rig.write(&[("k00007", Some("new"))]);
    rig.flush();
    for _ in 0..20 {
        rig.engine.start_compaction();
        rig.settle();
    }
    assert_eq!(rig.engine.range_deletes(), 1, "a reader of before holds it");
    assert_eq!(rig.keys(false, Some(pin.0)).split(' ').count(), 501, "and the row");
    rig.engine.release_snapshot(pin);
    for _ in 0..20 {
        rig.engine.start_compaction();
        rig.settle();
    }
    assert_eq!(rig.engine.range_deletes(), 0, "applied to every table, and forgotten");
    assert_eq!(rig.keys(false, None), "\0beach\0m k00007");
    assert_eq!(rig.keys(true, None), "k00007 \0beach\0m");
    assert_eq!(rig.engine.internal_rows().unwrap().len(), 1);
    rig.reopen().unwrap();
    assert_eq!(
        (rig.keys(false, None).as_str(), rig.engine.range_deletes()),
        ("\0beach\0m k00007", 0)
    );
    assert_eq!(rig.engine.internal_rows().unwrap().len(), 1);
}
