//! [`OsDisk`]: the file system, with every error carrying its operation, path, and offset.
//!
//! | call | system calls |
//! |---|---|
//! | `open` | `open(O_CLOEXEC)`; `CreateNew` adds `O_CREAT \| O_EXCL` |
//! | `read_at`, `write_at` | `pread`, `pwrite`, repeated until done; `EINTR` is retried |
//! | `sync_data` | `fdatasync` (macOS: `F_FULLFSYNC`); it covers the length, not the directory entry |
//! | `sync_dir` | `fsync` of the directory |
//! | `hard_link`, `remove_dir` | `link`, `rmdir` |
//! | `lock` | `flock(LOCK_EX \| LOCK_NB)`: dies with the process, whatever kills it |
//!
//! What it does not do: retry a failed sync (pitfall 19), cache anything, follow quotas before they bite.

use crate::env::{DirEntry, Disk, File, IoError, IoResult, LockGuard, OpenMode};
use std::fs::{self, OpenOptions, TryLockError};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The real file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsDisk;

impl OsDisk {
    /// The file system of this process.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

fn error(op: &'static str, path: &Path, offset: Option<u64>, source: io::Error) -> IoError {
    IoError { op, path: path.to_path_buf(), offset, source }
}

/// How a directory refuses to be synced that this process could not have changed either: it may not be read, or lies on a
/// file system that is read-only or knows no sync.
const fn is_foreign(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{InvalidInput, PermissionDenied, ReadOnlyFilesystem, Unsupported};
    matches!(kind, InvalidInput | PermissionDenied | ReadOnlyFilesystem | Unsupported)
}

/// The directory that holds `path`; `.` for a bare name.
fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        Some(_) => Path::new("."),
        None => path,
    }
}

impl Disk for OsDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> IoResult<Arc<dyn File>> {
        let mut options = OpenOptions::new();
        options.read(true);
        match mode {
            OpenMode::Read => {}
            OpenMode::ReadWrite => drop(options.write(true)),
            OpenMode::CreateNew => drop(options.write(true).create_new(true)),
        }
        let file = options.open(path).map_err(|e| error("open", path, None, e))?;
        // A directory opens for reading and then has a length; say what is wrong here and not at the first read.
        if file.metadata().map_err(|e| error("stat", path, None, e))?.is_dir() {
            return Err(error("open", path, None, io::ErrorKind::IsADirectory.into()));
        }
        Ok(Arc::new(OsFile { path: path.to_path_buf(), file }))
    }

    fn rename(&self, from: &Path, to: &Path) -> IoResult<()> {
        fs::rename(from, to).map_err(|e| error("rename", from, None, e))
    }

    fn remove(&self, path: &Path) -> IoResult<()> {
        fs::remove_file(path).map_err(|e| error("unlink", path, None, e))
    }

    fn hard_link(&self, from: &Path, to: &Path) -> IoResult<()> {
        fs::hard_link(from, to).map_err(|e| {
            let path = if e.kind() == io::ErrorKind::AlreadyExists { to } else { from };
            error("link", path, None, e)
        })
    }

    fn remove_dir(&self, dir: &Path) -> IoResult<()> {
        fs::remove_dir(dir).map_err(|e| error("rmdir", dir, None, e))
    }

    fn list(&self, dir: &Path) -> IoResult<Vec<DirEntry>> {
        let fail = |e| error("readdir", dir, None, e);
        let mut out = Vec::new();
        for entry in fs::read_dir(dir).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let metadata = match entry.metadata() {
                Ok(m) => m,
                // Removed by somebody else between readdir and stat.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(error("stat", &entry.path(), None, e)),
            };
            // Our own names are ASCII; a foreign one that is not UTF-8 is shown with replacement characters.
            let name = entry.file_name().to_string_lossy().into_owned();
            out.push(DirEntry { name, len: metadata.len(), is_dir: metadata.is_dir() });
        }
        out.sort();
        Ok(out)
    }

    fn create_dir_all(&self, dir: &Path) -> IoResult<()> {
        let parent = parent_of(dir);
        if dir.as_os_str().is_empty() || parent == dir {
            return Ok(());
        }
        if self.is_dir(dir)? {
            // Whoever made it may have died before it synced the parent. A parent that cannot be synced is not one in
            // which this process has made anything: it belongs to somebody else, or to another file system.
            return self
                .sync_dir(parent)
                .or_else(|e| if is_foreign(e.kind()) { Ok(()) } else { Err(e) });
        }
        if parent != dir {
            self.create_dir_all(parent)?;
        }
        match fs::create_dir(dir) {
            Ok(()) => {}
            // Somebody else made it in between.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && self.is_dir(dir)? => {}
            Err(e) => return Err(error("mkdir", dir, None, e)),
        }
        self.sync_dir(parent)
    }

    fn sync_dir(&self, dir: &Path) -> IoResult<()> {
        let handle = fs::File::open(dir).map_err(|e| error("open", dir, None, e))?;
        handle.sync_all().map_err(|e| error("fsync", dir, None, e))
    }

    fn lock(&self, path: &Path) -> IoResult<Box<dyn LockGuard>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(|e| error("open", path, None, e))?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(OsLock { path: path.to_path_buf(), _file: file })),
            Err(TryLockError::WouldBlock) => {
                let reason = "another process holds the lock";
                let source = io::Error::new(io::ErrorKind::WouldBlock, reason);
                Err(error("lock", path, None, source))
            }
            Err(TryLockError::Error(e)) => Err(error("lock", path, None, e)),
        }
    }

    fn free_bytes(&self, dir: &Path) -> IoResult<u64> {
        let fail = |e| error("statvfs", dir, None, e);
        let name = std::ffi::CString::new(dir.as_os_str().as_bytes())
            .map_err(|_| fail(io::ErrorKind::InvalidInput.into()))?;
        let mut stat = std::mem::MaybeUninit::<libc::statvfs>::uninit();
        // SAFETY: `name` is a NUL-terminated string and `stat` is writable memory of the type that the call
        // fills; both outlive the call.
        let result = unsafe { libc::statvfs(name.as_ptr(), stat.as_mut_ptr()) };
        if result != 0 {
            return Err(fail(io::Error::last_os_error()));
        }
        // SAFETY: the call succeeded, so it filled the structure.
        let stat = unsafe { stat.assume_init() };
        #[allow(clippy::unnecessary_cast, reason = "the fields' widths differ between platforms")]
        Ok((stat.f_bavail as u64).saturating_mul(stat.f_frsize as u64))
    }

    fn exists(&self, path: &Path) -> IoResult<bool> {
        path.try_exists().map_err(|e| error("stat", path, None, e))
    }
}

impl OsDisk {
    /// Whether `dir` is a directory; a file of that name is an error.
    fn is_dir(&self, dir: &Path) -> IoResult<bool> {
        match fs::metadata(dir) {
            Ok(m) if m.is_dir() => Ok(true),
            Ok(_) => Err(error("mkdir", dir, None, io::ErrorKind::NotADirectory.into())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(error("stat", dir, None, e)),
        }
    }
}

/// An open file.
#[derive(Debug)]
struct OsFile {
    path: PathBuf,
    file: fs::File,
}

impl File for OsFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn len(&self) -> IoResult<u64> {
        Ok(self.file.metadata().map_err(|e| error("stat", &self.path, None, e))?.len())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> IoResult<usize> {
        let mut filled = 0;
        while filled < buf.len() {
            let at = offset + filled as u64;
            match self.file.read_at(&mut buf[filled..], at) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(error("read", &self.path, Some(at), e)),
            }
        }
        Ok(filled)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> IoResult<()> {
        self.file
            .write_all_at(data, offset)
            .map_err(|e| error("write", &self.path, Some(offset), e))
    }

    fn set_len(&self, len: u64) -> IoResult<()> {
        self.file.set_len(len).map_err(|e| error("truncate", &self.path, Some(len), e))
    }

    fn sync_data(&self) -> IoResult<()> {
        self.file.sync_data().map_err(|e| error("fdatasync", &self.path, None, e))
    }
}

/// A held `flock`; the kernel releases it when the file is closed.
#[derive(Debug)]
struct OsLock {
    path: PathBuf,
    _file: fs::File,
}

impl LockGuard for OsLock {}

impl Drop for OsLock {
    fn drop(&mut self) {
        log::trace!("released the lock {}", self.path.display());
    }
}
