//! What every [`Disk`] does, run against the real one in a temporary directory and the simulated one.
//!
//! The last test is differential: the same random calls on both must give the same answers.

use super::os::OsDisk;
use super::sim::{SimDisk, SimRandom};
use super::{Disk, File, IoResult, OpenMode};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Runs `body` on both disks, each with an empty directory to play in.
fn on_both(body: impl Fn(&dyn Disk, &Path)) {
    let temp = tempfile::tempdir().expect("a temporary directory");
    body(&OsDisk::new(), temp.path());
    let sim = SimDisk::new(1);
    sim.create_dir_all(Path::new("/play")).expect("a fresh disk");
    body(&sim, Path::new("/play"));
}

fn create(disk: &dyn Disk, path: &Path, content: &[u8]) -> Arc<dyn File> {
    let file = disk.open(path, OpenMode::CreateNew).expect("create");
    file.write_at(0, content).expect("write");
    file
}

fn content(file: &dyn File) -> Vec<u8> {
    let mut out = vec![0; usize::try_from(file.len().expect("len")).expect("small")];
    file.read_exact_at(0, &mut out).expect("read");
    out
}

fn kind<T>(result: IoResult<T>) -> Option<ErrorKind> {
    result.err().map(|e| e.kind())
}

fn names(disk: &dyn Disk, dir: &Path) -> Vec<String> {
    disk.list(dir).expect("list").into_iter().map(|e| e.name).collect()
}

#[test]
fn open_finds_or_creates_as_asked() {
    on_both(|disk, dir| {
        let path = dir.join("a");
        assert_eq!(kind(disk.open(&path, OpenMode::Read)), Some(ErrorKind::NotFound));
        assert_eq!(kind(disk.open(&path, OpenMode::ReadWrite)), Some(ErrorKind::NotFound));
        let file = create(disk, &path, b"x");
        assert_eq!(file.path(), path);
        assert!(!file.is_empty().expect("len"));
        assert_eq!(kind(disk.open(&path, OpenMode::CreateNew)), Some(ErrorKind::AlreadyExists));
        let missing = dir.join("no/a");
        assert_eq!(kind(disk.open(&missing, OpenMode::CreateNew)), Some(ErrorKind::NotFound));
        assert_eq!(kind(disk.open(dir, OpenMode::Read)), Some(ErrorKind::IsADirectory));
        assert!(disk.exists(&path).expect("stat"));
        assert!(!disk.exists(&missing).expect("stat"));
    });
}

#[test]
fn errors_name_the_operation_and_the_path() {
    on_both(|disk, dir| {
        let path = dir.join("missing");
        let text = disk.open(&path, OpenMode::Read).expect_err("missing").to_string();
        assert!(text.starts_with(&format!("open {}: ", path.display())), "{text}");
        let text = disk.remove(&path).expect_err("missing").to_string();
        assert!(text.starts_with(&format!("unlink {}: ", path.display())), "{text}");
        let file = create(disk, &dir.join("short"), b"abc");
        let error = file.read_exact_at(1, &mut [0; 9]).expect_err("too short");
        assert_eq!(
            (error.op, error.offset, error.kind()),
            ("read", Some(1), ErrorKind::UnexpectedEof)
        );
    });
}

#[test]
fn reads_are_short_only_at_the_end() {
    on_both(|disk, dir| {
        let file = create(disk, &dir.join("a"), b"hello");
        let mut buf = [0xff; 4];
        assert_eq!(file.read_at(0, &mut buf).expect("read"), 4);
        assert_eq!(&buf, b"hell");
        assert_eq!(file.read_at(3, &mut buf).expect("read"), 2);
        assert_eq!(&buf, b"loll");
        assert_eq!(file.read_at(5, &mut buf).expect("read"), 0);
        assert_eq!(file.read_at(1 << 40, &mut buf).expect("read"), 0);
        assert_eq!(file.read_at(0, &mut []).expect("read"), 0);
    });
}

#[test]
fn writes_past_the_end_and_set_len_give_zeros() {
    on_both(|disk, dir| {
        let file = create(disk, &dir.join("a"), b"ab");
        file.write_at(6, b"cd").expect("write");
        assert_eq!(content(&*file), b"ab\0\0\0\0cd");
        file.set_len(3).expect("truncate");
        file.set_len(5).expect("extend");
        assert_eq!(content(&*file), b"ab\0\0\0");
        file.write_at(9, b"").expect("an empty write");
        assert_eq!(file.len().expect("len"), 5, "an empty write extends nothing");
        file.sync_data().expect("sync");
        assert_eq!(content(&*file), b"ab\0\0\0");
    });
}

#[test]
fn a_read_only_handle_refuses_to_write() {
    on_both(|disk, dir| {
        create(disk, &dir.join("a"), b"ab");
        let file = disk.open(&dir.join("a"), OpenMode::Read).expect("open");
        assert!(file.write_at(0, b"x").is_err());
        assert!(file.set_len(0).is_err());
        assert_eq!(content(&*file), b"ab");
    });
}

#[test]
fn handles_see_each_others_writes() {
    on_both(|disk, dir| {
        let writer = create(disk, &dir.join("a"), b"ab");
        let reader = disk.open(&dir.join("a"), OpenMode::Read).expect("open");
        writer.write_at(1, b"XY").expect("write");
        assert_eq!(content(&*reader), b"aXY");
    });
}

#[test]
fn rename_replaces_and_open_handles_follow_the_file() {
    on_both(|disk, dir| {
        let (a, b) = (dir.join("a"), dir.join("b"));
        let first = create(disk, &a, b"first");
        let second = create(disk, &b, b"second");
        disk.rename(&a, &b).expect("rename");
        disk.sync_dir(dir).expect("sync");
        assert_eq!(names(disk, dir), ["b"]);
        first.write_at(0, b"F").expect("write");
        assert_eq!(content(&*disk.open(&b, OpenMode::Read).expect("open")), b"First");
        assert_eq!(content(&*second), b"second", "the replaced file lives as long as its handle");
        assert_eq!(kind(disk.rename(&a, &b)), Some(ErrorKind::NotFound));
        assert_eq!(kind(disk.rename(&b, &dir.join("no/b"))), Some(ErrorKind::NotFound));
        disk.rename(&b, &b).expect("renaming to itself does nothing");
        assert_eq!(names(disk, dir), ["b"]);
    });
}

#[test]
fn a_removed_file_stays_readable_through_its_handle() {
    on_both(|disk, dir| {
        let file = create(disk, &dir.join("a"), b"abc");
        disk.remove(&dir.join("a")).expect("remove");
        assert!(!disk.exists(&dir.join("a")).expect("stat"));
        assert_eq!(content(&*file), b"abc");
        assert_eq!(kind(disk.remove(&dir.join("a"))), Some(ErrorKind::NotFound));
        let again = create(disk, &dir.join("a"), b"new");
        assert_eq!(content(&*file), b"abc");
        assert_eq!(content(&*again), b"new");
    });
}

#[test]
fn a_hard_link_is_a_second_name_of_one_file() {
    on_both(|disk, dir| {
        let (a, b) = (dir.join("a"), dir.join("b"));
        let file = create(disk, &a, b"abc");
        disk.hard_link(&a, &b).expect("link");
        disk.sync_dir(dir).expect("sync");
        assert_eq!(names(disk, dir), ["a", "b"]);
        file.write_at(0, b"X").expect("write");
        assert_eq!(content(&*disk.open(&b, OpenMode::Read).expect("open")), b"Xbc");
        let error = disk.hard_link(&a, &b).expect_err("it is there");
        assert_eq!((error.kind(), &error.path, error.op), (ErrorKind::AlreadyExists, &b, "link"));
        assert_eq!(kind(disk.hard_link(&a, &a)), Some(ErrorKind::AlreadyExists));
        assert_eq!(
            kind(disk.hard_link(&dir.join("no"), &dir.join("c"))),
            Some(ErrorKind::NotFound)
        );
        assert_eq!(kind(disk.hard_link(&a, &dir.join("no/c"))), Some(ErrorKind::NotFound));
        disk.remove(&a).expect("remove");
        drop(file);
        assert_eq!(content(&*disk.open(&b, OpenMode::Read).expect("open")), b"Xbc");
        assert!(disk.hard_link(dir, &dir.join("c")).is_err(), "links are for files");
    });
}

#[test]
fn a_directory_is_renamed_with_all_that_is_in_it() {
    on_both(|disk, dir| {
        let (from, to) = (dir.join("from"), dir.join("to"));
        disk.create_dir_all(&from.join("sub")).expect("mkdir");
        create(disk, &from.join("sub/a"), b"abc");
        create(disk, &dir.join("file"), b"");
        disk.rename(&from, &to).expect("rename");
        assert_eq!(names(disk, dir), ["file", "to"]);
        let file = disk.open(&to.join("sub/a"), OpenMode::Read).expect("open");
        assert_eq!(content(&*file), b"abc");
        assert_eq!(kind(disk.rename(&to, &to.join("sub/x"))), Some(ErrorKind::InvalidInput));
        assert_eq!(kind(disk.rename(&to, &dir.join("file"))), Some(ErrorKind::NotADirectory));
        assert_eq!(kind(disk.rename(&to, &dir.join("no/x"))), Some(ErrorKind::NotFound));
        disk.create_dir_all(&from).expect("mkdir");
        assert_eq!(kind(disk.rename(&from, &to)), Some(ErrorKind::DirectoryNotEmpty));
        disk.rename(&to, &from).expect("onto an empty directory");
        assert_eq!(names(disk, dir), ["file", "from"]);
    });
}

#[test]
fn only_an_empty_directory_is_removed() {
    on_both(|disk, dir| {
        let sub = dir.join("sub");
        disk.create_dir_all(&sub).expect("mkdir");
        create(disk, &sub.join("a"), b"");
        assert_eq!(kind(disk.remove_dir(&sub)), Some(ErrorKind::DirectoryNotEmpty));
        assert_eq!(kind(disk.remove_dir(&sub.join("a"))), Some(ErrorKind::NotADirectory));
        disk.remove(&sub.join("a")).expect("remove");
        disk.remove_dir(&sub).expect("rmdir");
        assert_eq!(names(disk, dir), [""; 0]);
        assert_eq!(kind(disk.remove_dir(&sub)), Some(ErrorKind::NotFound));
    });
}

#[test]
fn directories_are_made_with_their_parents_and_listed_in_order() {
    on_both(|disk, dir| {
        let deep = dir.join("x/y");
        disk.create_dir_all(&deep).expect("mkdir");
        disk.create_dir_all(&deep).expect("again");
        create(disk, &dir.join("x/b"), b"12345");
        create(disk, &dir.join("x/a"), b"");
        create(disk, &dir.join("x/y/inner"), b"");
        let entries = disk.list(&dir.join("x")).expect("list");
        let files: Vec<_> = entries.iter().map(|e| (e.name.as_str(), e.is_dir)).collect();
        assert_eq!(files, [("a", false), ("b", false), ("y", true)]);
        assert_eq!(entries[1].len, 5);
        assert_eq!(kind(disk.list(&dir.join("none"))), Some(ErrorKind::NotFound));
        assert_eq!(kind(disk.sync_dir(&dir.join("none"))), Some(ErrorKind::NotFound));
        let under_a_file = dir.join("x/b/sub");
        assert_eq!(kind(disk.create_dir_all(&under_a_file)), Some(ErrorKind::NotADirectory));
        assert_eq!(kind(disk.create_dir_all(&dir.join("x/b"))), Some(ErrorKind::NotADirectory));
        assert!(disk.remove(&deep).is_err(), "remove is for files");
    });
}

#[test]
fn a_lock_is_exclusive_until_it_is_dropped() {
    on_both(|disk, dir| {
        let path = dir.join("LOCK");
        let held = disk.lock(&path).expect("free");
        assert!(disk.exists(&path).expect("stat"), "the lock file is created");
        assert_eq!(kind(disk.lock(&path)), Some(ErrorKind::WouldBlock));
        drop(held);
        let again = disk.lock(&path).expect("free again");
        drop(again);
        assert!(disk.exists(&path).expect("stat"), "the lock file stays");
        assert_eq!(kind(disk.lock(&dir.join("no/LOCK"))), Some(ErrorKind::NotFound));
    });
}

#[test]
fn free_space_is_known() {
    on_both(|disk, dir| {
        assert!(disk.free_bytes(dir).expect("statvfs") > 0);
        assert_eq!(kind(disk.free_bytes(&dir.join("none"))), Some(ErrorKind::NotFound));
    });
}

/// Open handles of the differential test: the same file on both disks.
type Pair = (Arc<dyn File>, Arc<dyn File>);

struct Twins {
    os: OsDisk,
    sim: SimDisk,
    os_dir: PathBuf,
    sim_dir: PathBuf,
    handles: Vec<Pair>,
    random: SimRandom,
}

impl Twins {
    fn path(&mut self) -> (PathBuf, PathBuf) {
        let name = ["a", "b", "c", "sub/a", "sub/b", "none/a"][self.random.below(6) as usize];
        (self.os_dir.join(name), self.sim_dir.join(name))
    }

    /// Both succeeded, or both failed with the same kind.
    fn same<T>(os: IoResult<T>, sim: IoResult<T>, what: &str) -> Option<(T, T)> {
        match (os, sim) {
            (Ok(a), Ok(b)) => Some((a, b)),
            (Err(a), Err(b)) => {
                assert_eq!(a.kind(), b.kind(), "{what}: {a} / {b}");
                assert_eq!(a.op, b.op, "{what}");
                None
            }
            (a, b) => panic!("{what}: os {:?}, sim {:?}", a.err(), b.err()),
        }
    }

    fn step(&mut self) {
        let what = self.random.below(11);
        match what {
            0 | 1 => {
                let (os, sim) = self.path();
                let mode = [OpenMode::Read, OpenMode::ReadWrite, OpenMode::CreateNew]
                    [self.random.below(3) as usize];
                let files = Self::same(self.os.open(&os, mode), self.sim.open(&sim, mode), "open");
                self.handles.extend(files);
                if self.handles.len() > 8 {
                    self.handles.remove(0);
                }
            }
            2 => {
                let ((os_a, sim_a), (os_b, sim_b)) = (self.path(), self.path());
                Self::same(self.os.rename(&os_a, &os_b), self.sim.rename(&sim_a, &sim_b), "rename");
            }
            3 => {
                let (os, sim) = self.path();
                Self::same(self.os.remove(&os), self.sim.remove(&sim), "remove");
            }
            4 => {
                for sub in ["", "sub"] {
                    let (os, sim) = (self.os_dir.join(sub), self.sim_dir.join(sub));
                    Self::same(self.os.sync_dir(&os), self.sim.sync_dir(&sim), "sync_dir");
                }
            }
            5 => {
                let ((os_a, sim_a), (os_b, sim_b)) = (self.path(), self.path());
                let (os, sim) =
                    (self.os.hard_link(&os_a, &os_b), self.sim.hard_link(&sim_a, &sim_b));
                Self::same(os, sim, "link");
            }
            _ => self.step_on_a_handle(),
        }
    }

    fn step_on_a_handle(&mut self) {
        if self.handles.is_empty() {
            return;
        }
        let (os, sim) = &self.handles[self.random.below(self.handles.len() as u64) as usize];
        let offset = self.random.below(3000);
        match self.random.below(4) {
            0 | 1 => {
                let data = vec![self.random.below(256) as u8; self.random.below(1500) as usize];
                // What a read-only handle says differs in kind between kernels; that it refuses does not.
                let results = (os.write_at(offset, &data), sim.write_at(offset, &data));
                if !data.is_empty() {
                    assert_eq!(results.0.is_ok(), results.1.is_ok(), "{results:?}");
                }
            }
            2 => {
                let results = (os.set_len(offset), sim.set_len(offset));
                assert_eq!(results.0.is_ok(), results.1.is_ok(), "{results:?}");
            }
            _ => drop(Self::same(os.sync_data(), sim.sync_data(), "sync")),
        }
        assert_eq!(content(&**os), content(&**sim));
    }

    fn compare(&self) {
        for sub in ["", "sub"] {
            let strip = |entries: Vec<super::DirEntry>| -> Vec<(String, u64, bool)> {
                let of = |e: super::DirEntry| (e.name, if e.is_dir { 0 } else { e.len }, e.is_dir);
                entries.into_iter().map(of).collect()
            };
            let os = strip(self.os.list(&self.os_dir.join(sub)).expect("list"));
            assert_eq!(os, strip(self.sim.list(&self.sim_dir.join(sub)).expect("list")));
        }
    }
}

#[test]
fn random_calls_give_the_same_answers_on_both() {
    for seed in 0..15 {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let mut twins = Twins {
            os: OsDisk::new(),
            sim: SimDisk::new(seed),
            os_dir: temp.path().to_path_buf(),
            sim_dir: PathBuf::from("/play"),
            handles: Vec::new(),
            random: SimRandom::new(seed),
        };
        for disk in [&twins.os as &dyn Disk, &twins.sim] {
            let dir = if disk.exists(&twins.os_dir).expect("stat") {
                &twins.os_dir
            } else {
                &twins.sim_dir
            };
            disk.create_dir_all(&dir.join("sub")).expect("mkdir");
        }
        println!("seed {seed}");
        for _ in 0..200 {
            twins.step();
        }
        twins.compare();
    }
}
