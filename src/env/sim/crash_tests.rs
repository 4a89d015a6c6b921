//! The crash model itself: each promise of [`disk`](super::disk)'s header, over many seeds.

use super::file::SECTOR;
use super::{CrashKind, FailKind, FailOn, FailPoint, OpKind, SimDisk, SimRandom};
use crate::env::{Disk, File, IoResult, OpenMode};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

const SEEDS: u64 = 300;

fn create(disk: &SimDisk, path: &str, content: &[u8]) -> Arc<dyn File> {
    let file = disk.open(Path::new(path), OpenMode::CreateNew).expect("create");
    file.write_at(0, content).expect("write");
    file
}

/// A durable file of two sectors of `o`, open for writing.
fn durable_file(disk: &SimDisk) -> Arc<dyn File> {
    disk.write_file("/d/f", &[b'o'; 2 * SECTOR]);
    disk.open(Path::new("/d/f"), OpenMode::ReadWrite).expect("open")
}

/// What is left of `path` after losing power in the state that `prepare` made, for many seeds.
fn survivors(path: &str, prepare: impl Fn(&SimDisk)) -> BTreeSet<Option<Vec<u8>>> {
    let disk = SimDisk::new(0);
    disk.create_dir_all(Path::new("/d")).expect("mkdir");
    prepare(&disk);
    (0..SEEDS)
        .map(|seed| {
            let machine = disk.fork(seed);
            machine.crash(CrashKind::PowerLoss);
            machine.restart();
            machine.read_file(path)
        })
        .collect()
}

fn sectors(letters: &str) -> Option<Vec<u8>> {
    Some(letters.bytes().flat_map(|b| [b; SECTOR]).collect())
}

#[test]
fn synced_data_always_survives() {
    let left = survivors("/d/f", |disk| {
        let file = create(disk, "/d/f", b"hello");
        file.sync_data().expect("sync");
        disk.sync_dir(Path::new("/d")).expect("sync");
    });
    assert_eq!(left, [Some(b"hello".to_vec())].into());
}

#[test]
fn a_link_may_be_lost_until_its_directory_is_synced_and_both_names_hold_the_file() {
    let whole = Some(b"hello".to_vec());
    let link = |disk: &SimDisk, synced: bool| {
        disk.write_file("/d/f", b"hello");
        disk.hard_link(Path::new("/d/f"), Path::new("/d/g")).expect("link");
        if synced {
            disk.sync_dir(Path::new("/d")).expect("sync");
        }
        disk.remove(Path::new("/d/f")).expect("remove");
    };
    assert_eq!(survivors("/d/g", |disk| link(disk, false)), [None, whole.clone()].into());
    assert_eq!(survivors("/d/g", |disk| link(disk, true)), [whole.clone()].into());
    assert_eq!(survivors("/d/f", |disk| link(disk, true)), [None, whole].into());
}

#[test]
fn a_renamed_directory_keeps_what_was_synced_in_it_and_may_lose_the_rest() {
    let whole = Some(b"hello".to_vec());
    let make = |disk: &SimDisk, sync: &[&str]| {
        disk.create_dir_all(Path::new("/d/tmp")).expect("mkdir");
        create(disk, "/d/tmp/f", b"hello").sync_data().expect("sync");
        if sync.contains(&"before") {
            disk.sync_dir(Path::new("/d/tmp")).expect("sync");
        }
        disk.rename(Path::new("/d/tmp"), Path::new("/d/x")).expect("rename");
        if sync.contains(&"after") {
            disk.sync_dir(Path::new("/d/x")).expect("sync");
        }
        if sync.contains(&"parent") {
            disk.sync_dir(Path::new("/d")).expect("sync");
        }
    };
    let left = |sync: &[&str]| survivors("/d/x/f", |disk| make(disk, sync));
    assert_eq!(left(&["before", "parent"]), [whole.clone()].into());
    assert_eq!(left(&["after", "parent"]), [whole.clone()].into());
    assert_eq!(left(&["before"]), [None, whole.clone()].into(), "the name is lost, or not");
    assert_eq!(
        left(&["parent"]),
        [None, whole.clone()].into(),
        "the name is there, the file maybe"
    );
    let old = survivors("/d/tmp/f", |disk| make(disk, &["before"]));
    assert_eq!(old, [None, whole].into(), "the old name, or the new one");
}

#[test]
fn un_synced_sectors_are_lost_kept_torn_and_reordered() {
    let left = survivors("/d/f", |disk| {
        let file = durable_file(disk);
        file.write_at(0, &[b'a'; SECTOR]).expect("write");
        file.write_at(SECTOR as u64, &[b'b'; SECTOR]).expect("write");
    });
    // Nothing, all, only the first, and only the second: the order of writing protects nobody.
    assert_eq!(left, [sectors("oo"), sectors("ab"), sectors("ao"), sectors("ob")].into());
}

#[test]
fn one_big_write_is_torn_at_sectors_and_never_inside() {
    let left = survivors("/d/f", |disk| {
        let file = durable_file(disk);
        file.write_at(0, &[b'n'; 2 * SECTOR]).expect("write");
    });
    assert_eq!(left, [sectors("oo"), sectors("nn"), sectors("no"), sectors("on")].into());
}

#[test]
fn an_overwritten_sector_may_show_any_of_its_versions() {
    let left = survivors("/d/f", |disk| {
        let file = durable_file(disk);
        file.write_at(0, &[b'1'; SECTOR]).expect("write");
        file.write_at(0, &[b'2'; SECTOR]).expect("write");
    });
    assert_eq!(left, [sectors("oo"), sectors("1o"), sectors("2o")].into());
}

#[test]
fn a_growing_file_may_keep_its_length_and_lose_its_bytes() {
    let left = survivors("/d/f", |disk| {
        let file = durable_file(disk);
        file.write_at(2 * SECTOR as u64, &[b'n'; 2 * SECTOR]).expect("write");
    });
    let lens: BTreeSet<usize> = left.iter().flatten().map(Vec::len).collect();
    assert_eq!(lens, [2 * SECTOR, 4 * SECTOR].into());
    assert!(left.contains(&sectors("oo\0\0")), "the length alone");
    assert!(left.contains(&sectors("oo\0n")), "a hole before the last sector");
    assert!(left.contains(&sectors("oonn")));
    let ok = |c: &Option<Vec<u8>>| c.as_ref().is_some_and(|c| c.starts_with(&[b'o'; 2 * SECTOR]));
    assert!(left.iter().all(ok), "what was durable is untouched");
}

#[test]
fn a_truncation_happened_or_did_not() {
    let left = survivors("/d/f", |disk| {
        let file = durable_file(disk);
        file.set_len(100).expect("truncate");
    });
    assert_eq!(left, [sectors("oo"), Some(vec![b'o'; 100])].into());
    let left = survivors("/d/f", |disk| {
        let file = durable_file(disk);
        file.set_len(100).expect("truncate");
        file.set_len(200).expect("extend");
        file.sync_data().expect("sync");
    });
    let mut cut = vec![b'o'; 100];
    cut.resize(200, 0);
    assert_eq!(left, [Some(cut)].into(), "bytes cut off do not come back with the length");
}

#[test]
fn a_process_crash_keeps_all_that_was_written_and_syncs_none_of_it() {
    let disk = SimDisk::new(0);
    let file = durable_file(&disk);
    file.write_at(0, &[b'n'; SECTOR]).expect("write");
    create(&disk, "/d/new", b"x");
    disk.crash(CrashKind::Process);
    disk.restart();
    assert_eq!(disk.read_file("/d/f"), sectors("no"));
    assert_eq!(disk.read_file("/d/new").as_deref(), Some(&b"x"[..]));
    assert_eq!(disk.read_durable("/d/f"), sectors("oo"));
    assert_eq!(disk.read_durable("/d/new"), None);
    let mut outcomes = BTreeSet::new();
    for seed in 0..SEEDS {
        let machine = disk.fork(seed);
        machine.crash(CrashKind::PowerLoss);
        outcomes.insert((machine.read_file("/d/f"), machine.read_file("/d/new").is_some()));
    }
    assert!(outcomes.contains(&(sectors("oo"), false)), "the power loss still takes it");
    assert!(outcomes.contains(&(sectors("no"), true)));
}

#[test]
fn a_new_name_needs_its_directory_synced() {
    let left = survivors("/d/f", |disk| {
        create(disk, "/d/f", b"hello").sync_data().expect("sync");
    });
    assert_eq!(left, [None, Some(b"hello".to_vec())].into());
}

#[test]
fn a_removed_name_may_come_back_until_its_directory_is_synced() {
    let remove = |disk: &SimDisk| {
        durable_file(disk);
        disk.remove(Path::new("/d/f")).expect("remove");
    };
    assert_eq!(survivors("/d/f", remove), [None, sectors("oo")].into());
    let left = survivors("/d/f", |disk| {
        remove(disk);
        disk.sync_dir(Path::new("/d")).expect("sync");
    });
    assert_eq!(left, [None].into());
}

/// The steps of replacing CURRENT, with one left out.
fn replace_current(disk: &SimDisk, skip: &str) -> IoResult<()> {
    let step =
        |name: &str, run: &dyn Fn() -> IoResult<()>| if name == skip { Ok(()) } else { run() };
    let file = disk.open(Path::new("/d/CURRENT.tmp"), OpenMode::CreateNew)?;
    file.write_at(0, b"new")?;
    step("sync file", &|| file.sync_data())?;
    disk.rename(Path::new("/d/CURRENT.tmp"), Path::new("/d/CURRENT"))?;
    step("sync dir", &|| disk.sync_dir(Path::new("/d")))
}

#[test]
fn replacing_a_file_needs_both_syncs_and_the_model_shows_which_one_is_missing() {
    let outcomes = |skip: &str| {
        survivors("/d/CURRENT", |disk| {
            disk.write_file("/d/CURRENT", b"old");
            replace_current(disk, skip).expect("no faults planned");
        })
    };
    let some = |text: &str| Some(text.as_bytes().to_vec());
    assert_eq!(outcomes("nothing"), [some("new")].into());
    assert_eq!(outcomes("sync dir"), [some("old"), some("new")].into());
    assert_eq!(outcomes("sync file"), [some(""), some("\0\0\0"), some("new")].into());
}

#[test]
fn a_rename_is_atomic_whatever_else_is_lost() {
    let disk = SimDisk::new(0);
    disk.write_file("/d/a", b"A");
    disk.write_file("/d/b", b"B");
    disk.create_dir_all(Path::new("/e")).expect("mkdir");
    disk.rename(Path::new("/d/a"), Path::new("/d/b")).expect("rename");
    disk.rename(Path::new("/d/b"), Path::new("/e/c")).expect("rename");
    create(&disk, "/d/a", b"new A").sync_data().expect("sync");
    let mut outcomes = BTreeSet::new();
    for seed in 0..SEEDS {
        let machine = disk.fork(seed);
        machine.crash(CrashKind::PowerLoss);
        let names = ["/d/a", "/d/b", "/e/c"]
            .map(|p| machine.read_file(p).map(|c| String::from_utf8(c).expect("text")));
        let with_a = names.iter().flatten().filter(|c| *c == "A").count();
        assert_eq!(with_a, 1, "seed {seed}: the file has exactly one name: {names:?}");
        outcomes.insert(names.map(Option::unwrap_or_default).join(","));
    }
    let expected = ["A,B,", ",A,", ",,A", "new A,A,", "new A,,A"];
    assert_eq!(outcomes, expected.map(String::from).into());
}

#[test]
fn syncing_the_target_directory_makes_the_whole_chain_durable() {
    let disk = SimDisk::new(0);
    for dir in ["/d", "/e"] {
        disk.create_dir_all(Path::new(dir)).expect("mkdir");
    }
    create(&disk, "/d/a", b"A").sync_data().expect("sync");
    create(&disk, "/d/other", b"O").sync_data().expect("sync");
    disk.rename(Path::new("/d/a"), Path::new("/e/a")).expect("rename");
    disk.sync_dir(Path::new("/e")).expect("sync");
    for seed in 0..SEEDS {
        let machine = disk.fork(seed);
        machine.crash(CrashKind::PowerLoss);
        assert_eq!(machine.read_file("/d/a"), None, "seed {seed}: never under both names");
        assert_eq!(machine.read_file("/e/a").as_deref(), Some(&b"A"[..]), "seed {seed}");
    }
}

#[test]
fn a_failed_sync_loses_the_data_for_good_although_reads_still_show_it() {
    let disk = SimDisk::new(0);
    let file = durable_file(&disk);
    file.write_at(0, &[b'n'; SECTOR]).expect("write");
    disk.fail_next_sync("/d/f");
    assert!(file.sync_data().is_err());
    file.sync_data().expect("the second sync lies: the pages are clean");
    assert_eq!(disk.read_file("/d/f"), sectors("no"), "the page cache still shows it");
    let (mut after_kill, mut after_power_loss) = (BTreeSet::new(), BTreeSet::new());
    for seed in 0..SEEDS {
        let machine = disk.fork(seed);
        machine.crash(CrashKind::Process);
        after_kill.insert(machine.read_file("/d/f"));
        machine.crash(CrashKind::PowerLoss);
        after_power_loss.insert(machine.read_file("/d/f"));
    }
    assert_eq!(after_kill, [sectors("no"), sectors("oo")].into(), "cached or evicted");
    assert_eq!(after_power_loss, [sectors("oo")].into());
    // Only writing it again helps.
    file.write_at(0, &[b'n'; SECTOR]).expect("write");
    file.sync_data().expect("sync");
    assert_eq!(disk.read_durable("/d/f"), sectors("no"));
}

#[test]
fn a_failed_sync_hits_the_file_behind_the_handle_and_not_its_old_name() {
    let disk = SimDisk::new(0);
    let file = durable_file(&disk);
    disk.rename(Path::new("/d/f"), Path::new("/d/g")).expect("rename");
    disk.sync_dir(Path::new("/d")).expect("sync");
    file.write_at(0, &[b'n'; SECTOR]).expect("write");
    disk.fail_next_sync("/d/f");
    assert!(file.sync_data().is_err());
    file.sync_data().expect("the second sync lies");
    disk.crash(CrashKind::PowerLoss);
    assert_eq!(disk.read_file("/d/g"), sectors("oo"));
}

#[test]
fn the_nth_operation_fails_once_or_for_ever() {
    let disk = SimDisk::new(0);
    let file = durable_file(&disk);
    let on = |nth| FailOn::Matching { op: Some(OpKind::Read), path: "/f".into(), nth };
    disk.fail(FailPoint { on: on(1), error: FailKind::Eio, forever: false });
    let mut buf = [0; 1];
    file.read_at(0, &mut buf).expect("the first is let through");
    let error = file.read_at(0, &mut buf).expect_err("the second fails");
    assert_eq!((error.op, error.source.raw_os_error()), ("read", Some(libc::EIO)));
    file.read_at(0, &mut buf).expect("once only");

    let at = disk.op_count() + 1;
    disk.fail(FailPoint { on: FailOn::Change(at), error: FailKind::Enospc, forever: true });
    file.write_at(0, b"x").expect("the change before");
    for _ in 0..3 {
        assert!(file.write_at(0, b"x").expect_err("full").is_disk_full());
        file.sync_data().expect("a sync takes no space");
        file.read_at(0, &mut buf).expect("nor does a read");
    }
    disk.clear_faults();
    file.write_at(0, b"x").expect("space is back");
}

#[test]
fn a_short_write_leaves_a_prefix_and_an_error() {
    let mut lens = BTreeSet::new();
    for seed in 0..SEEDS {
        let disk = SimDisk::new(seed);
        disk.write_file("/d/f", b"");
        let file = disk.open(Path::new("/d/f"), OpenMode::ReadWrite).expect("open");
        let on = FailOn::Matching { op: None, path: String::new(), nth: 0 };
        disk.fail(FailPoint { on, error: FailKind::ShortWrite, forever: false });
        let error = file.write_at(0, b"abcdef").expect_err("short");
        assert_eq!((error.kind(), error.offset), (ErrorKind::WriteZero, Some(0)));
        let left = disk.read_file("/d/f").expect("there");
        assert!(b"abcdef".starts_with(&left[..]));
        lens.insert(left.len());
    }
    assert_eq!(lens, (0..=6).collect());
}

#[test]
fn a_full_disk_refuses_writes_until_space_is_freed() {
    let disk = SimDisk::new(0);
    disk.create_dir_all(Path::new("/d")).expect("mkdir");
    disk.set_capacity(Some(3 * 4096));
    assert_eq!(disk.free_bytes(Path::new("/d")).expect("statvfs"), 3 * 4096);
    let a = create(&disk, "/d/a", &[1; 2 * 4096]);
    let b = create(&disk, "/d/b", &[2; 100]);
    assert_eq!(disk.free_bytes(Path::new("/d")).expect("statvfs"), 0);
    b.write_at(100, &[2; 3996]).expect("its block is allocated already");
    let error = b.write_at(4000, &[3; 200]).expect_err("full");
    assert!(error.is_disk_full());
    assert_eq!(b.len().expect("len"), 4096, "a prefix was written");
    a.set_len(1 << 20).expect("a hole takes no space");
    assert!(a.write_at(1 << 19, b"x").expect_err("and so promises none").is_disk_full());
    a.write_at(0, b"x").expect("overwriting what is allocated works when full");
    disk.remove(Path::new("/d/a")).expect("remove");
    assert!(b.write_at(4096, b"x").is_err(), "the open handle keeps the space");
    drop(a);
    b.write_at(4096, b"x").expect("space is back");
    assert_eq!(disk.used_bytes(), 2 * 4096);
}

/// Creates, writes, syncs, renames; the number of changes is the number of crash points.
fn script(disk: &SimDisk) -> IoResult<()> {
    let dir = Path::new("/d");
    let _lock = disk.lock(&dir.join("LOCK"))?;
    let file = disk.open(&dir.join("log"), OpenMode::CreateNew)?;
    disk.sync_dir(dir)?;
    for n in 0..4_u8 {
        file.write_at(u64::from(n) * 700, &[n + 1; 700])?;
        file.sync_data()?;
    }
    file.set_len(2000)?;
    replace_current(disk, "nothing")?;
    disk.remove(&dir.join("log"))
}

fn ready_disk(seed: u64) -> SimDisk {
    let disk = SimDisk::new(seed);
    disk.write_file("/d/CURRENT", b"old");
    disk
}

#[test]
fn every_change_is_a_crash_point_and_nothing_works_until_the_restart() {
    let disk = ready_disk(0);
    script(&disk).expect("no faults planned");
    let changes = disk.op_count();
    assert_eq!(changes, 18, "{:#?}", disk.trace());
    for at in 0..changes {
        for seed in 0..40 {
            let disk = ready_disk(seed);
            disk.crash_at(at);
            let error = script(&disk).expect_err("crashed");
            assert!(error.is_simulated_crash(), "{error}");
            assert!(disk.is_down());
            assert!(disk.list(Path::new("/d")).expect_err("down").is_simulated_crash());
            let kind = if seed % 2 == 0 { CrashKind::Process } else { CrashKind::PowerLoss };
            disk.crash(kind);
            assert!(disk.exists(Path::new("/d")).expect_err("down").is_simulated_crash());
            disk.restart();
            let current = disk.read_file("/d/CURRENT").expect("always one of the two");
            assert!(current == b"old" || current == b"new", "at {at}, seed {seed}: {current:?}");
            disk.lock(Path::new("/d/LOCK")).expect("the lock died with its holder");
        }
    }
}

#[test]
fn a_crash_inside_a_write_may_leave_part_of_it() {
    let mut lens = BTreeSet::new();
    for seed in 0..SEEDS {
        let disk = SimDisk::new(seed);
        disk.write_file("/d/f", b"");
        let file = disk.open(Path::new("/d/f"), OpenMode::ReadWrite).expect("open");
        disk.crash_at(disk.op_count());
        assert!(file.write_at(0, b"abc").expect_err("crashed").is_simulated_crash());
        disk.crash(CrashKind::Process);
        lens.insert(disk.read_file("/d/f").expect("there").len());
    }
    assert_eq!(lens, (0..=3).collect());
}

#[test]
fn handles_of_before_the_crash_stay_dead_after_the_restart() {
    let disk = SimDisk::new(0);
    let file = durable_file(&disk);
    let lock = disk.lock(Path::new("/d/LOCK")).expect("free");
    disk.crash(CrashKind::Process);
    disk.restart();
    assert!(file.write_at(0, b"x").expect_err("dead").is_simulated_crash());
    assert!(file.sync_data().expect_err("dead").is_simulated_crash());
    assert!(file.len().expect_err("dead").is_simulated_crash());
    let new_lock = disk.lock(Path::new("/d/LOCK")).expect("free");
    drop(lock);
    let taken = disk.lock(Path::new("/d/LOCK"));
    assert!(taken.is_err(), "the dead guard released nothing");
    drop(new_lock);
    assert_eq!(disk.read_file("/d/f"), sectors("oo"));
}

#[test]
fn one_seed_gives_one_outcome() {
    let outcome = |seed: u64| {
        let disk = ready_disk(seed);
        disk.crash_at(SimRandom::new(seed).below(18));
        drop(script(&disk));
        disk.restart();
        let entries = {
            let list = disk.list(Path::new("/d")).expect("list");
            list.into_iter()
                .map(|e| (disk.read_file(Path::new("/d").join(&e.name)), e))
                .collect::<Vec<_>>()
        };
        (entries, disk.trace())
    };
    let mut all = BTreeSet::new();
    for seed in 0..100 {
        let first = outcome(seed);
        assert_eq!(first, outcome(seed), "seed {seed}");
        all.insert(first);
    }
    assert!(all.len() > 30, "seeds differ: {}", all.len());
}

#[test]
fn a_fork_is_independent_and_a_flip_damages_cache_and_medium() {
    let disk = SimDisk::new(0);
    let file = durable_file(&disk);
    let copy = disk.fork(1);
    file.write_at(0, b"X").expect("write");
    copy.flip("/d/f", 3, 0x01);
    assert_eq!(copy.read_file("/d/f").expect("there")[..5], *b"ooono");
    assert_eq!(copy.read_durable("/d/f").expect("there")[..5], *b"ooono");
    assert_eq!(disk.read_file("/d/f").expect("there")[..5], *b"Xoooo");
    assert!(
        disk.trace().last().is_some_and(|l| l.contains("Write /d/f 0+1")),
        "{:?}",
        disk.trace()
    );
}

#[test]
fn one_path_has_one_spelling() {
    let disk = SimDisk::new(0);
    disk.create_dir_all(Path::new("./db/")).expect("mkdir");
    create(&disk, "db//a", b"x");
    assert!(disk.exists(Path::new("./db/a")).expect("stat"));
    assert_eq!(disk.list(Path::new("db/.")).expect("list").len(), 1);
    assert_eq!(disk.list(Path::new("")).expect("list").len(), 1);
}

#[test]
fn a_directory_is_durable_when_it_was_made_and_lost_with_all_that_is_in_it_when_that_was_cut_short()
{
    let path = "/d/sub/deep/f";
    let fill = |disk: &SimDisk| {
        create(disk, path, b"hello").sync_data().expect("sync");
        disk.sync_dir(Path::new("/d/sub/deep")).expect("sync");
    };
    let whole = survivors(path, |disk| {
        disk.create_dir_all(Path::new("/d/sub/deep")).expect("mkdir");
        fill(disk);
    });
    assert_eq!(whole, [Some(b"hello".to_vec())].into());
    // The process dies between making a directory and syncing its parent; the next one goes on in it.
    let cut_short = |again: bool| {
        move |disk: &SimDisk| {
            let deep = Path::new("/d/sub/deep");
            disk.create_dir_all(Path::new("/d/sub")).expect("mkdir");
            let syncs_of_parents =
                FailOn::Matching { op: Some(OpKind::SyncDir), path: "sub".into(), nth: 0 };
            disk.fail(FailPoint { on: syncs_of_parents, error: FailKind::Eio, forever: false });
            disk.create_dir_all(deep).expect_err("the parent is not synced");
            disk.crash(CrashKind::Process);
            disk.restart();
            assert!(disk.exists(deep).expect("stat"), "mkdir came before");
            if again {
                disk.create_dir_all(deep).expect("it exists");
            }
            fill(disk);
        }
    };
    let lost_or_not = [None, Some(b"hello".to_vec())].into();
    assert_eq!(survivors(path, cut_short(false)), lost_or_not);
    assert_eq!(survivors(path, cut_short(true)), [Some(b"hello".to_vec())].into());
}
