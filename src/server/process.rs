//! What the process asks of the kernel for itself.

use std::os::fd::AsRawFd;

/// Raises the soft limit of open files to the hard one and returns what then holds: a connection is a descriptor, and
/// the soft limit of 1,024 that many systems hand out is a default for programs that use `select`, not a decision.
pub fn raise_descriptor_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit for the call to fill in.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        log::warn!("cannot read the limit of open files: {}", std::io::Error::last_os_error());
        return 1_024;
    }
    if limit.rlim_cur < limit.rlim_max {
        let raised = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
        // SAFETY: `raised` is a valid rlimit for the call to read.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } == 0 {
            return raised.rlim_cur;
        }
        log::warn!("cannot raise the limit of open files: {}", std::io::Error::last_os_error());
    }
    limit.rlim_cur
}

/// Connections that the kernel completes and keeps for us until the loop accepts them; it cuts this to `somaxconn`.
/// Beyond it clients see their connect repeated after a second.
const BACKLOG: i32 = 4_096;

/// Deepens the queue of a socket that listens already: mio and the standard library ask for 128, which a burst of
/// clients overruns during one slow turn.
pub fn deepen_backlog(listener: &impl AsRawFd) {
    // SAFETY: the descriptor is open for as long as `listener` is borrowed; `listen` takes no pointers.
    if unsafe { libc::listen(listener.as_raw_fd(), BACKLOG) } != 0 {
        log::warn!("cannot deepen the listen queue: {}", std::io::Error::last_os_error());
    }
}
