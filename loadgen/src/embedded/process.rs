//! What this process costs the machine, as Linux counts it: storage, memory, processor time.
#![expect(clippy::disallowed_methods, reason = "reads /proc and sizes, removes what was made")]

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What the process used so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Bytes read through system calls, cached by the kernel or not.
    pub read: u64,
    /// Bytes of pages that it made dirty or wrote.
    pub written: u64,
    /// Microseconds of processor time of all threads, in user and kernel mode.
    pub cpu_us: u64,
}

impl Usage {
    /// Now.
    #[must_use]
    pub fn read() -> Self {
        let text = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
        let field = |name: &str| {
            let line = text.lines().find_map(|l| l.strip_prefix(name));
            line.and_then(|v| v.trim().parse().ok()).unwrap_or(0)
        };
        Self { read: field("rchar:"), written: field("write_bytes:"), cpu_us: cpu_us() }
    }
}

fn cpu_us() -> u64 {
    // SAFETY: all-zero bytes are a valid `rusage`, which is only integers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is ours and outlives the call.
    if unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) } != 0 {
        return 0;
    }
    let us = |t: libc::timeval| t.tv_sec as u64 * 1_000_000 + t.tv_usec as u64;
    us(usage.ru_utime) + us(usage.ru_stime)
}

/// Resident memory now, and its peak since [`forget_peak`] or the start.
#[must_use]
pub fn resident_bytes() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or("0");
        line.split_ascii_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or(0_u64) << 10
    };
    (field("VmRSS:"), field("VmHWM:"))
}

/// Lets the peak of [`resident_bytes`] begin at what is resident now, where the kernel allows it.
pub fn forget_peak() {
    drop(std::fs::write("/proc/self/clear_refs", "5"));
}

/// Waits until all file systems have written what they hold, so that one engine's leftovers are not the next one's load.
pub fn sync_disks() {
    // SAFETY: `sync` takes nothing and cannot fail.
    unsafe { libc::sync() };
}

/// Ends the process as a crash would: nothing is closed, no destructor runs, no exit handler either.
pub fn exit_at_once(code: i32) -> ! {
    // SAFETY: `_exit` does not return; skipping destructors is its purpose.
    unsafe { libc::_exit(code) }
}

/// Bytes allocated to all files under `dir`. A file that goes away meanwhile counts nothing.
pub fn disk_bytes(dir: &Path) -> io::Result<u64> {
    let mut total = 0;
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        total += match std::fs::symlink_metadata(&path) {
            Ok(m) if m.is_dir() => disk_bytes(&path)?,
            Ok(m) => m.blocks() * 512,
            Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
            Err(e) => return Err(e),
        };
    }
    Ok(total)
}

/// Whether `dir` is there with something in it.
#[must_use]
pub fn is_in_use(dir: &Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some())
}

/// Removes `dir` and all in it, if it is there.
pub fn remove_all(dir: &Path) -> Result<(), String> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(format!("removing {}: {e}", dir.display()))
        }
        _ => Ok(()),
    }
}
