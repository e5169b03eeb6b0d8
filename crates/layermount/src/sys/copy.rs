//! A process that goes on as a copy of another one.

use std::ffi::CStr;

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

/// The name of this process's thread, of up to 15 bytes. Async-signal-safe.
pub(crate) fn set_name(name: &CStr) {
    // It is for people's eyes alone.
    let _ = rustix::thread::set_name(name);
}
