//! What happens to a process right before `execve(2)`, and the call itself.

use std::ffi::{CStr, CString, c_char};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use nix::libc;
use rustix::io::{Errno, Result};

use super::mount::last_errno;

/// Terminated strings and the null-terminated array of pointers to them that `execve` takes.
#[derive(Debug)]
pub(crate) struct Strings {
    strings: Vec<CString>,
    /// Points into `strings` and `spares`, which are never changed in length after `new`.
    pointers: Vec<*const c_char>,
    spares: Vec<Vec<u8>>,
    /// How many of them are in use.
    appended: usize,
}

impl Strings {
    /// For each of `spares`, that many bytes are set aside for one more string that becomes known only in the child.
    pub(crate) fn new(strings: Vec<CString>, spares: &[usize]) -> Self {
        let mut pointers: Vec<_> = strings.iter().map(|string| string.as_ptr()).collect();
        pointers.extend(std::iter::repeat_n(ptr::null(), spares.len() + 1));
        Self { strings, pointers, spares: spares.iter().map(|size| vec![0; *size]).collect(), appended: 0 }
    }

    /// Takes away what was appended, for a child that tries once more in the same memory. Async-signal-safe.
    pub(crate) fn forget_appended(&mut self) {
        self.appended = 0;
        self.pointers.iter_mut().skip(self.strings.len()).for_each(|pointer| *pointer = ptr::null());
    }

    /// Appends a string in the next spare room; false when it does not fit. Async-signal-safe.
    pub(crate) fn append(&mut self, parts: [&[u8]; 2]) -> bool {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let Some(spare) = self.spares.get_mut(self.appended) else { return false };
        let Some(room) = spare.get_mut(..=length) else { return false };
        for (to, from) in room.iter_mut().zip(parts.into_iter().flatten().chain(&[0])) {
            *to = *from;
        }
        match self.pointers.get_mut(self.strings.len() + self.appended) {
            Some(slot) => *slot = spare.as_ptr().cast(),
            None => return false,
        }
        self.appended += 1;
        true
    }
}

/// Replaces the program; returns only when that failed. Async-signal-safe.
pub(crate) fn execve(program: &CStr, arguments: &Strings, environment: &Strings) -> Errno {
    // SAFETY: both arrays end with a null pointer and point to terminated strings that `Strings` owns.
    unsafe { libc::execve(program.as_ptr(), arguments.pointers.as_ptr(), environment.pointers.as_ptr()) };
    last_errno()
}

/// Marks every descriptor from 3 up to be closed by `execve`, known to us or not. Async-signal-safe.
pub(crate) fn close_all_on_exec() {
    let (first, last): (libc::c_uint, libc::c_uint) = (3, libc::c_uint::MAX);
    // SAFETY: takes integers, and changes only a flag of each descriptor.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_CLOEXEC) };
    if result == 0 {
        return;
    }
    // Before Linux 5.11: one by one up to the limit, which daemons are known to raise to a thousand millions.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(1 << 16).min(1 << 16);
    for fd in 3..RawFd::try_from(limit).unwrap_or(RawFd::MAX) {
        // SAFETY: takes integers; what is not open answers EBADF.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}

/// Closes every descriptor but one, as far as there is `close_range(2)`. Only for a child with a table of its own, which uses no
/// other. Async-signal-safe.
pub(crate) fn close_all_but(fd: BorrowedFd<'_>) {
    let (fd, none): (libc::c_uint, libc::c_uint) = (fd.as_raw_fd().cast_unsigned(), 0);
    if let Some(last) = fd.checked_sub(1) {
        // SAFETY: takes integers; the child uses none of these.
        unsafe { libc::syscall(libc::SYS_close_range, none, last, none) };
    }
    // SAFETY: as above.
    unsafe { libc::syscall(libc::SYS_close_range, fd.saturating_add(1), libc::c_uint::MAX, none) };
}

/// Closes every descriptor from 3 up but `own`, which `execve` is going to close, and those in `passed_on`. Only for a child with a table
/// of its own, which uses no other. Async-signal-safe.
pub(crate) fn close_all_but_these(own: BorrowedFd<'_>, passed_on: &[RawFd]) {
    let mut first = 3;
    loop {
        let kept = passed_on.iter().copied().chain([own.as_raw_fd()]).filter(|fd| *fd >= first).min();
        let last = kept.map_or(libc::c_uint::MAX, |kept| kept.cast_unsigned().saturating_sub(1));
        if last >= first.cast_unsigned() {
            let none: libc::c_uint = 0;
            // SAFETY: takes integers; the child uses none of these any more.
            if unsafe { libc::syscall(libc::SYS_close_range, first, last, none) } != 0 {
                // Before Linux 5.9. `execve` closes them.
                return mark_all_but(passed_on);
            }
        }
        match kept.and_then(|kept| kept.checked_add(1)) {
            Some(next) => first = next,
            None => return,
        }
    }
}

fn mark_all_but(passed_on: &[RawFd]) {
    close_all_on_exec();
    for fd in passed_on {
        // They are open, as was found out before.
        let _ = keep_on_exec(*fd);
    }
}

/// Whether there is `close_range(2)`, tried on a descriptor that is marked already.
pub(crate) fn has_close_range(fd: BorrowedFd<'_>) -> Result<()> {
    let fd = fd.as_raw_fd().cast_unsigned();
    // SAFETY: takes integers, and changes only a flag of this descriptor.
    match unsafe { libc::syscall(libc::SYS_close_range, fd, fd, libc::CLOSE_RANGE_CLOEXEC) } {
        0 => Ok(()),
        _ => Err(last_errno()),
    }
}

/// Lets `execve` pass this descriptor on. Async-signal-safe.
pub(crate) fn keep_on_exec(fd: RawFd) -> Result<()> {
    // SAFETY: takes integers, and changes only a flag of the descriptor.
    match unsafe { libc::fcntl(fd, libc::F_SETFD, 0) } {
        -1 => Err(last_errno()),
        _ => Ok(()),
    }
}

/// Makes `target` a copy of `fd`, kept across `execve`. Async-signal-safe.
pub(crate) fn duplicate_onto(fd: BorrowedFd<'_>, target: RawFd) -> Result<()> {
    if fd.as_raw_fd() == target {
        return keep_on_exec(target);
    }
    // SAFETY: only ever called in a process that is about to become another program, for numbers that the program is to find
    // something under; whoever owns what is there is not asked again.
    match unsafe { libc::dup2(fd.as_raw_fd(), target) } {
        -1 => Err(last_errno()),
        _ => Ok(()),
    }
}

/// A copy of a descriptor that this process was started with, which itself is no longer passed on by `execve`.
pub(crate) fn copy_of(fd: RawFd) -> Result<OwnedFd> {
    // SAFETY: takes integers; what is not open answers EBADF.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    if copy == -1 {
        return Err(last_errno());
    }
    // SAFETY: the kernel has just made it, and nobody else knows of it.
    let copy = unsafe { OwnedFd::from_raw_fd(copy) };
    // SAFETY: takes integers, and changes only a flag of the descriptor.
    match unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } {
        -1 => Err(last_errno()),
        _ => Ok(copy),
    }
}
