//! Time for measuring, and timers finer than epoll's millisecond.
//!
//! The load generator is a program of its own, outside the deterministic library, so it reads the machine's
//! clock directly; this file is the only one of the package that does.
#![expect(clippy::disallowed_methods, reason = "a load generator measures real time")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Nanoseconds since the first call in this process. Monotonic; costs about 25 ns.
#[must_use]
pub fn now() -> u64 {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    ORIGIN.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

/// Seconds since 1970, for reports.
#[must_use]
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// Nanoseconds of CPU that the calling thread has used, or 0 where the kernel does not say.
#[must_use]
pub fn thread_cpu() -> u64 {
    std::fs::read_to_string("/proc/thread-self/schedstat")
        .ok()
        .and_then(|text| text.split_ascii_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// A one-shot timer as a file descriptor (`timerfd`). epoll's own timeout counts whole milliseconds, which an
/// open loop at 10,000 requests/s would report as the server's latency.
#[derive(Debug)]
pub struct Timer {
    fd: OwnedFd,
}

impl Timer {
    /// A timer that is not armed. Also sets the thread's timer slack to 1 ns (the default is 50 µs).
    pub fn new() -> io::Result<Self> {
        // SAFETY: timerfd_create takes two integers and returns a new descriptor or -1; no memory is shared.
        let fd = unsafe {
            libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: PR_SET_TIMERSLACK takes one integer and touches only the calling thread's slack. Its failure
        // only makes the timer less exact, so the result does not matter.
        unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_u64) };
        // SAFETY: `fd` was just created, is valid, and nobody else owns it.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Fires once, `ns` nanoseconds from now (at least 1).
    pub fn arm(&self, ns: u64) -> io::Result<()> {
        let ns = ns.max(1);
        let spec = libc::itimerspec {
            it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: libc::timespec {
                tv_sec: (ns / 1_000_000_000) as libc::time_t,
                tv_nsec: (ns % 1_000_000_000) as libc::c_long,
            },
        };
        // SAFETY: the descriptor is ours and open; `spec` is a valid itimerspec that outlives the call, and a
        // null old value is allowed.
        let result = unsafe {
            libc::timerfd_settime(self.fd.as_raw_fd(), 0, &raw const spec, std::ptr::null_mut())
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}
