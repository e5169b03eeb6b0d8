//! Descriptors by number: what a process closes, keeps and moves before it becomes another program.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::libc;
use rustix::io::Result;
use rustix::process::{Resource, getrlimit};

use super::mount::last_errno;

/// Marks every descriptor from 3 up to be closed by `execve`, known to us or not. Async-signal-safe.
pub(crate) fn close_all_on_exec() {
    if close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC).is_ok() {
        return;
    }
    // Before Linux 5.11.
    for fd in 3..one_by_one() {
        // SAFETY: takes integers; what is not open answers EBADF.
        unsafe { libc::fcntl(fd.cast_signed(), libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}

/// Closes every descriptor but these. Only for a child with a table of its own, which uses no other. Async-signal-safe.
pub(crate) fn close_all_except(kept: impl Iterator<Item = RawFd> + Clone) {
    let mut first: libc::c_uint = 0;
    loop {
        let next = kept.clone().filter_map(|fd| libc::c_uint::try_from(fd).ok()).filter(|fd| *fd >= first).min();
        match next {
            None => return close_from_to(first, libc::c_uint::MAX),
            Some(next) if next > first => close_from_to(first, next - 1),
            Some(_) => {}
        }
        // Of a descriptor, which is not negative as a signed number.
        first = next.map_or(first, |next| next + 1);
    }
}

fn close_from_to(first: libc::c_uint, last: libc::c_uint) {
    if close_range(first, last, 0).is_ok() {
        return;
    }
    // Before Linux 5.9, or where a filter hides the call. The limit of open files may be the program's by now, and lower than what is open.
    for fd in first..MOST.min(last.saturating_add(1)) {
        // SAFETY: takes an integer; the caller does not use this descriptor.
        unsafe { libc::close(fd.cast_signed()) };
    }
}

/// How many descriptors are gone through one by one at most: daemons are known to raise the limit to a thousand millions.
const MOST: libc::c_uint = 1 << 16;

fn one_by_one() -> libc::c_uint {
    let limit = getrlimit(Resource::Nofile).current.and_then(|limit| libc::c_uint::try_from(limit).ok());
    limit.unwrap_or(MOST).min(MOST)
}

fn close_range(first: libc::c_uint, last: libc::c_uint, flags: libc::c_uint) -> Result<()> {
    // SAFETY: takes integers. Whoever has it close something answers for that nobody uses it any more.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) } {
        0 => Ok(()),
        _ => Err(last_errno()),
    }
}

/// Whether there is `close_range(2)`, tried on a descriptor that is marked already.
pub(crate) fn has_close_range(fd: BorrowedFd<'_>) -> Result<()> {
    let fd = fd.as_raw_fd().cast_unsigned();
    close_range(fd, fd, libc::CLOSE_RANGE_CLOEXEC)
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

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::sys::fork;

    #[test]
    fn all_but_these_are_closed_whatever_their_order() {
        let files: Vec<_> = (0..4).map(|_| File::open("/dev/null").unwrap()).collect();
        let [a, b, c, d] = [0, 1, 2, 3].map(|index: usize| files[index].as_raw_fd());
        let is_open = |fd: RawFd| {
            // SAFETY: takes integers, and changes nothing.
            unsafe { libc::fcntl(fd, libc::F_GETFD) != -1 }
        };
        let status = fork::run(0, &mut || {
            close_all_except([d, a, a, -1].into_iter());
            i32::from([a, b, c, d].map(is_open) != [true, false, false, true] || is_open(0))
        });
        assert_eq!(status, Ok(Some(0)));
    }
}
