//! `unshare(2)`, `setns(2)`, and who owns a namespace: ioctl_ns(2).

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::libc;
use rustix::io::Result;
use rustix::thread::UnshareFlags;

use super::mount::last_errno;

/// Leaves the namespaces that are shared with other processes. Only the calling thread moves, which is why callers
/// make sure that there is no other. Async-signal-safe.
pub(crate) fn unshare(flags: UnshareFlags) -> Result<()> {
    debug_assert!(!flags.contains(UnshareFlags::FILES), "descriptors must stay shared with the rest of the process");
    // SAFETY: unsafe only for CLONE_FILES, which would take descriptors away from other threads; see above.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

/// From `linux/nsfs.h`, `_IO(0xb7, 0x1)`; `libc` lacks it.
const NS_GET_USERNS: libc::Ioctl = 0xb701;

/// Moves the calling thread into the namespace of a descriptor, or into those of a process (`CLONE_NEW*`) that a pidfd stands for
/// (Linux 5.8). Async-signal-safe.
pub(crate) fn set_namespaces(of: BorrowedFd<'_>, which: libc::c_int) -> Result<()> {
    // SAFETY: takes integers. Only ever called in a child that has one thread.
    match unsafe { libc::setns(of.as_raw_fd(), which) } {
        0 => Ok(()),
        _ => Err(last_errno()),
    }
}

/// The user namespace that owns a namespace.
pub(crate) fn owner(namespace: BorrowedFd<'_>) -> Result<OwnedFd> {
    // SAFETY: this request takes no argument, and returns a new descriptor.
    match unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_USERNS) } {
        -1 => Err(last_errno()),
        // SAFETY: the kernel has just made it, for nobody else.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
    }
}
