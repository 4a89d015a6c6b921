//! [`SimDisk`]: a file system in memory that crashes the way real ones do.
//!
//! | event | open handles, locks | un-synced data | un-synced names |
//! |---|---|---|---|
//! | process crash | dead, released | stay in the page cache, still un-synced | stay, still un-synced |
//! | power loss | dead, released | any subset of 512-byte sectors survives | any subset survives that keeps each name's order |
//!
//! **Covered.** Lost, kept, torn, and reordered writes; lengths and truncations that survive or not; entries,
//! renames, and removals that survive or not until the directory is synced; a failed sync that drops dirty data for
//! good while the page cache still shows it (and may stop showing it after the next crash); a crash at any change, with the
//! change itself applied in part or in full but never acknowledged; the n-th operation failing with `EIO`, `ENOSPC`, or
//! a short write, once or for ever; a full disk (`set_len` makes holes: they reserve no space); bit flips; exclusive
//! locks; removed files that stay readable through open handles.
//!
//! **Not covered.** Tearing inside a sector; old bytes of other files in a hole; a medium that loses data it has
//! synced (a lying cache) other than by [`SimDisk::flip`]; permissions; symbolic links; delayed allocation that reports
//! `ENOSPC` only at the sync; what is created in a directory and survives while the rename of that directory before it does
//! not (it is lost with the rename).
//!
//! Determinism: one seed and one order of calls give one outcome. Threads that race for the disk give their own
//! order; use [`SimJobs`](super::SimJobs).

use super::SimRandom;
use super::faults::{FailKind, FailOn, FailPoint, Faults, OpKind};
use super::file::SimFileState;
use super::names::{Names, Node, normal};
use crate::env::{DirEntry, Disk, File, IoError, IoResult, LockGuard, OpenMode, SimulatedCrash};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Operations remembered for [`SimDisk::trace`].
const TRACE_LEN: usize = 10_000;
/// What [`Disk::free_bytes`] says when there is no capacity.
const FREE_WITHOUT_CAPACITY: u64 = 1 << 40;

/// What died.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CrashKind {
    /// The process (`kill -9`, abort): the kernel lives on, and with it all that was written.
    Process,
    /// The machine: what was not synced may be lost.
    PowerLoss,
}

/// The simulated disk. Clones share it; [`SimDisk::fork`] makes an independent copy.
#[derive(Clone, Debug)]
pub struct SimDisk {
    machine: Arc<Mutex<Machine>>,
}

#[derive(Clone, Debug)]
struct Machine {
    random: SimRandom,
    names: Names,
    files: BTreeMap<u64, Inode>,
    next_inode: u64,
    locks: BTreeSet<PathBuf>,
    faults: Faults,
    /// Changes so far.
    changes: u64,
    capacity: Option<u64>,
    /// Goes up with each crash; handles of an older epoch are dead.
    epoch: u64,
    power: Power,
    trace: VecDeque<Record>,
    /// Whether the last operations are remembered.
    records: bool,
}

/// One remembered operation; it becomes text when somebody asks.
#[derive(Clone, Debug)]
struct Record {
    number: u64,
    what: RecordKind,
}

#[derive(Clone, Debug)]
enum RecordKind {
    Done { op: OpKind, path: Arc<Path>, detail: Detail, error: Option<io::ErrorKind> },
    Halt { op: OpKind, path: Arc<Path>, detail: Detail, extent: Option<Extent> },
    Crash(CrashKind),
    Restart,
}

/// Where in the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Detail {
    None,
    Range { offset: u64, len: usize },
    Length(u64),
}

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::Range { offset, len } => write!(f, " {offset}+{len}"),
            Self::Length(len) => write!(f, " {len}"),
        }
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.number;
        match &self.what {
            RecordKind::Done { op, path, detail, error } => {
                write!(f, "{number} {op:?} {}{detail}", path.display())?;
                error.map_or(Ok(()), |e| write!(f, " -> {e}"))
            }
            RecordKind::Halt { op, path, detail, extent } => {
                write!(f, "{number} {op:?} {}{detail} -> halt, done: {extent:?}", path.display())
            }
            RecordKind::Crash(kind) => write!(f, "crash {kind:?}"),
            RecordKind::Restart => f.write_str("restart"),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Power {
    /// Running.
    On,
    /// A planned crash struck; what it did to the disk is not decided yet.
    Halted,
    /// Crashed and decided, waiting for [`SimDisk::restart`].
    Off,
}

#[derive(Clone, Debug, Default)]
struct Inode {
    data: SimFileState,
    handles: u64,
    /// Some name stopped leading to it: only then may nothing lead to it any more.
    unlinked: bool,
}

/// How much of a change happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Extent {
    Whole,
    /// A prefix, for a write that fails or is cut by a crash; the loss of dirty data, for a sync that fails.
    Part,
}

impl SimDisk {
    /// An empty disk.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let machine = Machine {
            random: SimRandom::new(seed),
            names: Names::new(),
            files: BTreeMap::new(),
            next_inode: 1,
            locks: BTreeSet::new(),
            faults: Faults::default(),
            changes: 0,
            capacity: None,
            epoch: 0,
            power: Power::On,
            trace: VecDeque::new(),
            records: true,
        };
        Self { machine: Arc::new(Mutex::new(machine)) }
    }

    fn lock_machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An independent machine in the same state, with the randomness of `seed` from here on: crash one state many
    /// times. Handles and locks stay with the original.
    #[must_use]
    pub fn fork(&self, seed: u64) -> Self {
        let mut machine = self.lock_machine().clone();
        machine.random = SimRandom::new(seed);
        machine.locks.clear();
        for inode in machine.files.values_mut() {
            inode.handles = 0;
        }
        machine.collect_all();
        Self { machine: Arc::new(Mutex::new(machine)) }
    }

    /// The machine halts at the change with this number: the change happens in part, in full, or not at all, and
    /// it and everything after it fail with [`SimulatedCrash`]. Say what kind of crash it was with
    /// [`SimDisk::crash`], then [`SimDisk::restart`].
    pub fn crash_at(&self, change: u64) {
        self.lock_machine().faults.crash_at = Some(change);
    }

    /// How many changes (creates, links, renames, removes, writes, length changes, syncs, locks) were tried so far. The
    /// next one has this number.
    #[must_use]
    pub fn op_count(&self) -> u64 {
        self.lock_machine().changes
    }

    /// Whether a planned crash has struck, or [`SimDisk::crash`] was called, and there was no restart since.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.lock_machine().power != Power::On
    }

    /// Plans a failure.
    pub fn fail(&self, point: FailPoint) {
        self.lock_machine().faults.plan(point);
    }

    /// The next sync of a file whose path contains `path` fails with `EIO`.
    pub fn fail_next_sync(&self, path: &str) {
        let on = FailOn::Matching { op: Some(OpKind::Sync), path: path.into(), nth: 0 };
        self.fail(FailPoint { on, error: FailKind::Eio, forever: false });
    }

    /// Forgets all planned failures and the planned crash.
    pub fn clear_faults(&self) {
        self.lock_machine().faults.clear();
    }

    /// The size of the disk in bytes; writes that need more fail with `ENOSPC`. Space is counted in 4 KiB blocks.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.lock_machine().capacity = bytes;
    }

    /// Bytes in use, in whole blocks.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.lock_machine().used()
    }

    /// Crashes now (or decides about the planned crash that struck): handles die, locks are released, and for
    /// [`CrashKind::PowerLoss`] the seed chooses what survives. Every operation fails until [`SimDisk::restart`].
    pub fn crash(&self, kind: CrashKind) {
        self.lock_machine().crash(kind);
    }

    /// The machine (or a new process) comes up and sees what survived. Planned crashes are forgotten, planned
    /// failures stay. A halt that nobody decided about counts as a power loss.
    pub fn restart(&self) {
        let mut machine = self.lock_machine();
        if machine.power == Power::Halted {
            machine.crash(CrashKind::PowerLoss);
        }
        machine.power = Power::On;
        machine.faults.crash_at = None;
        let number = machine.changes;
        machine.note(number, RecordKind::Restart);
    }

    /// Damage on the medium: flips the bits of `mask` at `offset`.
    ///
    /// # Panics
    /// When there is no such file or it is not that long: the test is wrong.
    pub fn flip(&self, path: impl AsRef<Path>, offset: u64, mask: u8) {
        let path = normal(path.as_ref());
        let mut machine = self.lock_machine();
        let flipped = machine.inode_of(&path).is_some_and(|inode| inode.data.flip(offset, mask));
        assert!(flipped, "cannot flip {} at {offset}: no such byte", path.display());
    }

    /// The file as a process would read it, up or down; `None` when there is none. Counts as no operation.
    #[must_use]
    pub fn read_file(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        let path = normal(path.as_ref());
        self.lock_machine().inode_of(&path).map(|inode| inode.data.view().to_vec())
    }

    /// The part of the file that a power loss cannot take, if its name is durable too.
    #[must_use]
    pub fn read_durable(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        let machine = self.lock_machine();
        match machine.names.get_durable(&normal(path.as_ref()))? {
            Node::File(id) => machine.files.get(&id).map(|inode| inode.data.durable().to_vec()),
            Node::Dir => None,
        }
    }

    /// Puts a durable file there, and its directories. Counts as no operation; replaces what was there.
    pub fn write_file(&self, path: impl AsRef<Path>, content: &[u8]) {
        let path = normal(path.as_ref());
        let mut machine = self.lock_machine();
        for dir in path.ancestors().skip(1) {
            machine.names.create_durable_dir(dir);
        }
        let inode = Inode { data: SimFileState::durable_with(content), ..Inode::default() };
        let id = machine.add_inode(inode);
        machine.unlink(&path);
        machine.names.create_durable(&path, id);
        machine.collect_all();
    }

    /// Remembers no operations from now on: [`SimDisk::trace`] stays empty, and every operation is cheaper.
    pub fn forget_operations(&self) {
        let mut machine = self.lock_machine();
        machine.records = false;
        machine.trace = VecDeque::new();
    }

    /// The last operations, oldest first, for a failure's report.
    #[must_use]
    pub fn trace(&self) -> Vec<String> {
        self.lock_machine().trace.iter().map(Record::to_string).collect()
    }
}

impl Machine {
    fn note(&mut self, number: u64, what: RecordKind) {
        if !self.records {
            return;
        }
        if self.trace.len() == TRACE_LEN {
            self.trace.pop_front();
        }
        self.trace.push_back(Record { number, what });
    }

    fn add_inode(&mut self, inode: Inode) -> u64 {
        let id = self.next_inode;
        self.next_inode += 1;
        self.files.insert(id, inode);
        id
    }

    fn inode_of(&mut self, path: &Path) -> Option<&mut Inode> {
        match self.names.get(path)? {
            Node::File(id) => self.files.get_mut(&id),
            Node::Dir => None,
        }
    }

    /// Forgets files that nothing leads to.
    fn collect(&mut self) {
        let names = &self.names;
        self.files.retain(|id, inode| inode.handles > 0 || !inode.unlinked || names.can_reach(*id));
    }

    /// After a crash any name may be gone.
    fn collect_all(&mut self) {
        for inode in self.files.values_mut() {
            inode.unlinked = true;
        }
        self.collect();
    }

    /// `path` is about to lead elsewhere, or nowhere.
    fn unlink(&mut self, path: &Path) {
        if let Some(inode) = self.inode_of(path) {
            inode.unlinked = true;
        }
    }

    /// Bytes of the files that a process can reach; a removed file gives its space back with its last handle.
    fn used(&self) -> u64 {
        let alive = |(id, inode): &(&u64, &Inode)| inode.handles > 0 || self.names.is_visible(**id);
        self.files.iter().filter(alive).map(|(_, inode)| inode.data.allocated_bytes()).sum()
    }

    fn free(&self) -> u64 {
        self.capacity.map_or(FREE_WITHOUT_CAPACITY, |c| c.saturating_sub(self.used()))
    }

    fn crash(&mut self, kind: CrashKind) {
        self.epoch += 1;
        self.power = Power::Off;
        self.locks.clear();
        for inode in self.files.values_mut() {
            inode.handles = 0;
            match kind {
                CrashKind::PowerLoss => inode.data.lose_power(&mut self.random),
                CrashKind::Process => {
                    if inode.data.has_phantoms() && self.random.chance(1, 2) {
                        inode.data.evict();
                    }
                }
            }
        }
        if kind == CrashKind::PowerLoss {
            self.names.lose_power(&mut self.random);
        }
        self.collect_all();
        self.note(self.changes, RecordKind::Crash(kind));
    }

    /// Runs one operation through the planned faults.
    fn operate<T>(
        &mut self,
        op: OpKind,
        path: &Arc<Path>,
        detail: Detail,
        run: impl FnOnce(&mut Self, Extent) -> io::Result<T>,
    ) -> io::Result<T> {
        if self.power != Power::On {
            return Err(crashed());
        }
        let number = self.changes;
        if op.is_change() {
            self.changes += 1;
            if self.faults.crash_at.is_some_and(|at| number >= at) {
                return Err(self.halt(op, path, detail, run));
            }
        }
        let outcome = match self.faults.check(op, path, number) {
            None => run(self, Extent::Whole),
            Some(kind) => {
                // What a failing write or sync does on its way; how that run ended does not matter any more.
                if matches!(op, OpKind::Write | OpKind::Sync) {
                    drop(run(self, Extent::Part));
                }
                Err(kind.error())
            }
        };
        if op.is_change() {
            let error = outcome.as_ref().err().map(io::Error::kind);
            self.note(number, RecordKind::Done { op, path: Arc::clone(path), detail, error });
        }
        outcome
    }

    /// The planned crash: the change happens in part, in full, or not at all.
    fn halt<T>(
        &mut self,
        op: OpKind,
        path: &Arc<Path>,
        detail: Detail,
        run: impl FnOnce(&mut Self, Extent) -> io::Result<T>,
    ) -> io::Error {
        let number = self.changes - 1;
        let extent = match self.random.below(3) {
            0 => None,
            1 => Some(Extent::Whole),
            // Only a write has parts.
            _ => (op == OpKind::Write).then_some(Extent::Part),
        };
        if let Some(extent) = extent {
            drop(run(self, extent));
        }
        self.power = Power::Halted;
        self.note(number, RecordKind::Halt { op, path: Arc::clone(path), detail, extent });
        crashed()
    }

    fn write(&mut self, id: u64, offset: u64, data: &[u8], extent: Extent) -> io::Result<()> {
        let free = self.free();
        let wanted = match extent {
            Extent::Whole => data.len(),
            Extent::Part => self.random.below(data.len() as u64 + 1) as usize,
        };
        let inode = self.files.get_mut(&id).ok_or(io::ErrorKind::NotFound)?;
        let fits = inode.data.fits(offset, wanted, free);
        inode.data.write(offset, &data[..fits]);
        if fits < wanted { Err(FailKind::Enospc.error()) } else { Ok(()) }
    }

    fn create(&mut self, path: &Path) -> io::Result<u64> {
        if !self.names.parent_is_dir(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if self.names.get(path).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let id = self.add_inode(Inode::default());
        self.names.create(path, id);
        Ok(id)
    }

    fn rename_dir(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        if from == to {
            return Ok(());
        }
        if to.starts_with(from) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if !self.names.parent_is_dir(to) {
            return Err(io::ErrorKind::NotFound.into());
        }
        match self.names.get(to) {
            Some(Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
            Some(Node::Dir) => self.need_empty(to)?,
            None => {}
        }
        self.names.rename_dir(from, to);
        Ok(())
    }

    fn need_empty(&self, dir: &Path) -> io::Result<()> {
        if self.names.children(dir).is_empty() {
            return Ok(());
        }
        Err(io::ErrorKind::DirectoryNotEmpty.into())
    }

    fn file_named(&self, path: &Path) -> io::Result<u64> {
        match self.names.get(path) {
            Some(Node::File(id)) => Ok(id),
            Some(Node::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn need_dir(&self, dir: &Path) -> io::Result<()> {
        match self.names.get(dir) {
            Some(Node::Dir) => Ok(()),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

fn crashed() -> io::Error {
    io::Error::other(SimulatedCrash)
}

fn io_error(op: OpKind, path: &Path, offset: Option<u64>, source: io::Error) -> IoError {
    IoError { op: op.name(), path: path.to_path_buf(), offset, source }
}

impl SimDisk {
    /// One operation on a name.
    fn named<T>(
        &self,
        op: OpKind,
        path: &Path,
        run: impl FnOnce(&mut Machine, &Path) -> io::Result<T>,
    ) -> IoResult<T> {
        let name: Arc<Path> = normal(path).into();
        self.lock_machine()
            .operate(op, &name, Detail::None, |machine, _| run(machine, &name))
            .map_err(|e| io_error(op, path, None, e))
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> IoResult<Arc<dyn File>> {
        let op = if mode == OpenMode::CreateNew { OpKind::Create } else { OpKind::Open };
        let (inode, epoch) = self.named(op, path, |machine, name| {
            let id = match mode {
                OpenMode::CreateNew => machine.create(name)?,
                OpenMode::Read | OpenMode::ReadWrite => machine.file_named(name)?,
            };
            if let Some(inode) = machine.files.get_mut(&id) {
                inode.handles += 1;
            }
            Ok((id, machine.epoch))
        })?;
        Ok(Arc::new(SimFile {
            disk: self.clone(),
            name: normal(path).into(),
            path: path.to_path_buf(),
            inode,
            epoch,
            writable: mode != OpenMode::Read,
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> IoResult<()> {
        let target = normal(to);
        self.named(OpKind::Rename, from, |machine, name| {
            if machine.names.get(name) == Some(Node::Dir) {
                return machine.rename_dir(name, &target);
            }
            let id = machine.file_named(name)?;
            if !machine.names.parent_is_dir(&target) {
                return Err(io::ErrorKind::NotFound.into());
            }
            if machine.names.get(&target) == Some(Node::Dir) {
                return Err(io::ErrorKind::IsADirectory.into());
            }
            // POSIX: between two names of one file a rename does nothing.
            if machine.names.get(&target) == Some(Node::File(id)) {
                return Ok(());
            }
            machine.unlink(&target);
            machine.names.rename(name, &target, id);
            machine.collect();
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> IoResult<()> {
        self.named(OpKind::Remove, path, |machine, name| {
            machine.file_named(name)?;
            machine.unlink(name);
            machine.names.remove(name);
            machine.collect();
            Ok(())
        })
    }

    fn hard_link(&self, from: &Path, to: &Path) -> IoResult<()> {
        let target = normal(to);
        let exists = |e: &IoError| e.kind() == io::ErrorKind::AlreadyExists;
        let linked = self.named(OpKind::Link, from, |machine, name| {
            let id = match machine.names.get(name) {
                Some(Node::File(id)) => id,
                Some(Node::Dir) => return Err(io::ErrorKind::PermissionDenied.into()),
                None => return Err(io::ErrorKind::NotFound.into()),
            };
            if !machine.names.parent_is_dir(&target) {
                return Err(io::ErrorKind::NotFound.into());
            }
            if machine.names.get(&target).is_some() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            machine.names.create(&target, id);
            Ok(())
        });
        linked.map_err(|e| if exists(&e) { IoError { path: to.to_path_buf(), ..e } } else { e })
    }

    fn remove_dir(&self, dir: &Path) -> IoResult<()> {
        self.named(OpKind::RemoveDir, dir, |machine, name| {
            machine.need_dir(name)?;
            machine.need_empty(name)?;
            machine.names.remove(name);
            Ok(())
        })
    }

    fn list(&self, dir: &Path) -> IoResult<Vec<DirEntry>> {
        self.named(OpKind::List, dir, |machine, name| {
            machine.need_dir(name)?;
            let mut out = Vec::new();
            for (name, node) in machine.names.children(name) {
                let (len, is_dir) = match node {
                    Node::Dir => (0, true),
                    Node::File(id) => (machine.files[&id].data.view().len() as u64, false),
                };
                out.push(DirEntry { name, len, is_dir });
            }
            out.sort();
            Ok(out)
        })
    }

    fn create_dir_all(&self, dir: &Path) -> IoResult<()> {
        let name = normal(dir);
        let Some(parent) = name.parent() else { return Ok(()) };
        let exists =
            self.named(OpKind::Stat, dir, |machine, name| match machine.names.get(name) {
                Some(Node::Dir) => Ok(true),
                Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
                None => Ok(false),
            })?;
        if !exists {
            self.create_dir_all(parent)?;
            self.named(OpKind::CreateDir, dir, |machine, name| {
                machine.names.create_dir(name);
                Ok(())
            })?;
        }
        // Also of one that exists: whoever made it may have died before it did this.
        self.sync_dir(parent)
    }

    fn sync_dir(&self, dir: &Path) -> IoResult<()> {
        self.named(OpKind::SyncDir, dir, |machine, name| {
            machine.need_dir(name)?;
            machine.names.sync_dir(name);
            machine.collect();
            Ok(())
        })
    }

    fn lock(&self, path: &Path) -> IoResult<Box<dyn LockGuard>> {
        let epoch = self.named(OpKind::Lock, path, |machine, name| {
            match machine.names.get(name) {
                Some(_) => drop(machine.file_named(name)?),
                None => drop(machine.create(name)?),
            }
            if !machine.locks.insert(name.to_path_buf()) {
                let reason = "another process holds the lock";
                return Err(io::Error::new(io::ErrorKind::WouldBlock, reason));
            }
            Ok(machine.epoch)
        })?;
        Ok(Box::new(SimLock { disk: self.clone(), path: normal(path), epoch }))
    }

    fn free_bytes(&self, dir: &Path) -> IoResult<u64> {
        self.named(OpKind::Stat, dir, |machine, name| {
            machine.need_dir(name)?;
            Ok(machine.free())
        })
    }

    fn exists(&self, path: &Path) -> IoResult<bool> {
        self.named(OpKind::Stat, path, |machine, name| Ok(machine.names.get(name).is_some()))
    }
}

/// An open simulated file.
#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    path: PathBuf,
    /// The path in its one spelling.
    name: Arc<Path>,
    inode: u64,
    epoch: u64,
    writable: bool,
}

impl SimFile {
    fn operate<T>(
        &self,
        op: OpKind,
        offset: Option<u64>,
        detail: Detail,
        run: impl FnOnce(&mut Machine, Extent) -> io::Result<T>,
    ) -> IoResult<T> {
        let mut machine = self.disk.lock_machine();
        let outcome = if machine.epoch == self.epoch {
            machine.operate(op, &self.name, detail, run)
        } else {
            Err(crashed())
        };
        outcome.map_err(|e| io_error(op, &self.path, offset, e))
    }

    /// Like writing through a read-only descriptor: `EBADF`.
    fn need_writable(&self) -> io::Result<()> {
        if self.writable { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EBADF)) }
    }
}

impl File for SimFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn len(&self) -> IoResult<u64> {
        self.operate(OpKind::Stat, None, Detail::None, |machine, _| {
            Ok(machine.files[&self.inode].data.view().len() as u64)
        })
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> IoResult<usize> {
        self.operate(OpKind::Read, Some(offset), Detail::None, |machine, _| {
            let view = machine.files[&self.inode].data.view();
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(view.len());
            let count = buf.len().min(view.len() - start);
            buf[..count].copy_from_slice(&view[start..start + count]);
            Ok(count)
        })
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> IoResult<()> {
        let detail = Detail::Range { offset, len: data.len() };
        self.operate(OpKind::Write, Some(offset), detail, |machine, extent| {
            self.need_writable()?;
            machine.write(self.inode, offset, data, extent)
        })
    }

    fn set_len(&self, len: u64) -> IoResult<()> {
        self.operate(OpKind::SetLen, Some(len), Detail::Length(len), |machine, _| {
            self.need_writable()?;
            let inode = machine.files.get_mut(&self.inode).ok_or(io::ErrorKind::NotFound)?;
            inode.data.set_len(len);
            Ok(())
        })
    }

    fn sync_data(&self) -> IoResult<()> {
        self.operate(OpKind::Sync, None, Detail::None, |machine, extent| {
            let inode = machine.files.get_mut(&self.inode).ok_or(io::ErrorKind::NotFound)?;
            match extent {
                Extent::Whole => inode.data.sync(),
                Extent::Part => inode.data.fail_sync(),
            }
            Ok(())
        })
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut machine = self.disk.lock_machine();
        if machine.epoch == self.epoch {
            let Some(inode) = machine.files.get_mut(&self.inode) else { return };
            inode.handles = inode.handles.saturating_sub(1);
            if inode.handles == 0 && inode.unlinked {
                machine.collect();
            }
        }
    }
}

/// A held simulated lock.
#[derive(Debug)]
struct SimLock {
    disk: SimDisk,
    path: PathBuf,
    epoch: u64,
}

impl LockGuard for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut machine = self.disk.lock_machine();
        if machine.epoch == self.epoch {
            machine.locks.remove(&self.path);
        }
    }
}
