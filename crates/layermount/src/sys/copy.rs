//! A process that goes on as a copy of another one, and what it lets go of.

use std::ffi::CStr;
use std::os::fd::RawFd;

use nix::libc;
use rustix::io::{Errno, Result};
use rustix::process::Pid;

use super::mount::last_errno;

/// `fork(2)` without anything that the C library does around it: `None` in the child. Only for a child of a threaded program, which has
/// a memory of its own. Async-signal-safe.
pub(crate) fn fork() -> Result<Option<Pid>> {
    clone(libc::SIGCHLD)
}

/// The same, for a child whose parent is the caller's own, which it tells of its end as the caller would. Async-signal-safe.
pub(crate) fn fork_sibling() -> Result<Option<Pid>> {
    clone(libc::CLONE_PARENT)
}

fn clone(flags: libc::c_int) -> Result<Option<Pid>> {
    let (flags, none): (libc::c_ulong, libc::c_ulong) = (libc::c_ulong::from(flags.cast_unsigned()), 0);
    #[cfg(target_arch = "s390x")]
    // SAFETY: without CLONE_VM the child works on a copy of the memory, and a null stack means "the same one, copied". On this machine
    // the stack comes first.
    let pid = unsafe { libc::syscall(libc::SYS_clone, none, flags, none, none, none) };
    #[cfg(not(target_arch = "s390x"))]
    // SAFETY: without CLONE_VM the child works on a copy of the memory, and a null stack means "the same one, copied".
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, none, none, none, none) };
    match i32::try_from(pid) {
        Ok(-1) => Err(last_errno()),
        Ok(pid) => Ok(Pid::from_raw(pid)),
        Err(_) => Err(Errno::INVAL),
    }
}

/// Closes every descriptor but these, which are in order. Only for a child with a table of its own. Async-signal-safe.
pub(crate) fn close_all_except(kept: &[RawFd]) {
    let mut first: libc::c_uint = 0;
    for fd in kept.iter().filter_map(|fd| libc::c_uint::try_from(*fd).ok()) {
        if first < fd {
            close_range(first, fd - 1);
        }
        first = fd + 1;
    }
    close_range(first, libc::c_uint::MAX);
}

fn close_range(first: libc::c_uint, last: libc::c_uint) {
    let none: libc::c_uint = 0;
    // SAFETY: takes integers; the caller uses none of these.
    if unsafe { libc::syscall(libc::SYS_close_range, first, last, none) } == 0 {
        return;
    }
    // Before Linux 5.9; see `exec::close_all_on_exec`.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(1 << 16).min(1 << 16);
    for fd in first..=last.min(limit.try_into().unwrap_or(libc::c_uint::MAX)) {
        // SAFETY: takes an integer; the caller does not use this descriptor.
        unsafe { libc::close(fd.cast_signed()) };
    }
}

/// The name of this process's thread, of up to 15 bytes. Async-signal-safe.
pub(crate) fn set_name(name: &CStr) {
    // It is for people's eyes alone.
    let _ = rustix::thread::set_name(name);
}
