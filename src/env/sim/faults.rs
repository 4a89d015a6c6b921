//! Which operations of the simulated disk fail, and how.

use std::io;
use std::path::Path;

/// An operation of the simulated disk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum OpKind {
    /// Opening an existing file.
    Open,
    /// Opening with [`OpenMode::CreateNew`](crate::env::OpenMode::CreateNew).
    Create,
    /// Renaming.
    Rename,
    /// Removing.
    Remove,
    /// Giving a file a second name.
    Link,
    /// Removing a directory.
    RemoveDir,
    /// Listing a directory.
    List,
    /// Creating directories.
    CreateDir,
    /// Syncing a directory.
    SyncDir,
    /// Taking a lock.
    Lock,
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Setting a length.
    SetLen,
    /// Syncing a file.
    Sync,
    /// Asking for a length, an existence, or free space.
    Stat,
}

impl OpKind {
    /// Whether it changes the disk. Only these are numbered: crashing before a read and crashing before the next
    /// change leave the same disk.
    #[must_use]
    pub const fn is_change(self) -> bool {
        !matches!(self, Self::Open | Self::List | Self::Read | Self::Stat)
    }
    /// The word in an [`IoError`](crate::env::IoError), the same as the real disk's.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open | Self::Create => "open",
            Self::Rename => "rename",
            Self::Remove => "unlink",
            Self::Link => "link",
            Self::RemoveDir => "rmdir",
            Self::List => "readdir",
            Self::CreateDir => "mkdir",
            Self::SyncDir => "fsync",
            Self::Lock => "lock",
            Self::Read => "read",
            Self::Write => "write",
            Self::SetLen => "truncate",
            Self::Sync => "fdatasync",
            Self::Stat => "stat",
        }
    }
    const fn takes_space(self) -> bool {
        matches!(
            self,
            Self::Create | Self::CreateDir | Self::Write | Self::SetLen | Self::Rename | Self::Link
        )
    }
}

/// How an operation fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FailKind {
    /// `EIO`. A write may have left a prefix; a sync drops the dirty data for good.
    Eio,
    /// `ENOSPC`, for operations that take space. A write may have left a prefix.
    Enospc,
    /// A write that leaves a prefix and then fails with `WriteZero`.
    ShortWrite,
    /// `EXDEV`, for links: the new name is on another file system.
    Exdev,
}

impl FailKind {
    const fn fits(self, op: OpKind) -> bool {
        match self {
            Self::Eio => true,
            Self::Enospc => op.takes_space(),
            Self::ShortWrite => matches!(op, OpKind::Write),
            Self::Exdev => matches!(op, OpKind::Link),
        }
    }
    pub(super) fn error(self) -> io::Error {
        match self {
            // libc's constants, so that the kind is what a real disk gives.
            Self::Eio => io::Error::from_raw_os_error(libc::EIO),
            Self::Enospc => io::Error::from_raw_os_error(libc::ENOSPC),
            Self::Exdev => io::Error::from_raw_os_error(libc::EXDEV),
            Self::ShortWrite => io::Error::new(io::ErrorKind::WriteZero, "simulated short write"),
        }
    }
}

/// Which operation fails.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FailOn {
    /// The change with this number ([`SimDisk::op_count`](super::SimDisk::op_count)), or the first one after it
    /// that can fail this way.
    Change(u64),
    /// The `nth` (0 = the next) operation of this kind on a path that contains this text.
    Matching {
        /// The kind of operation; `None` matches every kind.
        op: Option<OpKind>,
        /// Part of the path; the empty text matches every path.
        path: String,
        /// Matching operations to let through first.
        nth: u64,
    },
}

/// A planned failure.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FailPoint {
    /// Where.
    pub on: FailOn,
    /// How.
    pub error: FailKind,
    /// Whether everything that matches from then on fails too.
    pub forever: bool,
}

/// The planned failures, and the planned crash.
#[derive(Clone, Default, Debug)]
pub(super) struct Faults {
    points: Vec<FailPoint>,
    pub(super) crash_at: Option<u64>,
}

impl Faults {
    pub(super) fn plan(&mut self, point: FailPoint) {
        self.points.push(point);
    }

    pub(super) fn clear(&mut self) {
        self.points.clear();
        self.crash_at = None;
    }

    /// Whether this operation fails; `number` is the number of the change at hand, or of the next one for a read.
    pub(super) fn check(&mut self, op: OpKind, path: &Path, number: u64) -> Option<FailKind> {
        if self.points.is_empty() {
            return None;
        }
        let text = path.to_string_lossy();
        for n in 0..self.points.len() {
            let point = &mut self.points[n];
            if !point.error.fits(op) {
                continue;
            }
            let hit = match &mut point.on {
                FailOn::Change(at) => op.is_change() && number >= *at,
                FailOn::Matching { op: wanted, path, nth } => {
                    let matches = wanted.is_none_or(|w| w == op) && text.contains(path.as_str());
                    matches && nth.checked_sub(1).map(|left| *nth = left).is_none()
                }
            };
            if hit {
                let error = point.error;
                if !point.forever {
                    self.points.remove(n);
                }
                return Some(error);
            }
        }
        None
    }
}
