//! Signals by number, which the libraries know by name alone: real-time signals have none.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use nix::libc;
use nix::sys::signal::SigSet;
use rustix::io::{Errno, Result};
use rustix::process::Pid;

use super::mount::last_errno;

/// `pidfd_send_signal(2)`. Async-signal-safe.
pub(crate) fn send_signal(process: BorrowedFd<'_>, signal: i32) -> Result<()> {
    let none: *const libc::siginfo_t = ptr::null();
    // SAFETY: takes integers, and a null pointer for "as kill(2) would send it".
    match unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal, none, 0) } {
        0 => Ok(()),
        _ => Err(last_errno()),
    }
}

/// `kill(2)`. Async-signal-safe.
pub(crate) fn kill(process: Pid, signal: i32) -> Result<()> {
    // SAFETY: takes integers.
    match unsafe { libc::kill(process.as_raw_pid(), signal) } {
        0 => Ok(()),
        _ => Err(last_errno()),
    }
}

/// Blocks every signal of the calling thread that can be blocked. Async-signal-safe.
pub(crate) fn block_all() -> Result<()> {
    SigSet::all().thread_set_mask().map_err(|errno| Errno::from_raw_os_error(errno as i32))
}

/// Blocks none. Async-signal-safe.
pub(crate) fn unblock_all() -> Result<()> {
    SigSet::empty().thread_set_mask().map_err(|errno| Errno::from_raw_os_error(errno as i32))
}

/// Waits for any of the signals that are all blocked. Async-signal-safe.
pub(crate) fn wait_for_any() -> Result<i32> {
    let all = SigSet::all();
    // SAFETY: the set lives across the call, and a null pointer means that nothing is to be told about the signal.
    match unsafe { libc::sigwaitinfo(all.as_ref(), ptr::null_mut()) } {
        -1 => Err(last_errno()),
        signal => Ok(signal),
    }
}
