//! `mount_setattr(2)`, which `rustix` lacks, and `mount(2)` with a data page.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::libc;
use rustix::io::{Errno, Result};
use rustix::mount::MountAttrFlags;

/// Makes a mount, or a mount and all below it, read-only (Linux 5.12). Async-signal-safe.
pub(crate) fn set_read_only(mount: BorrowedFd<'_>, recursive: bool) -> Result<()> {
    set_attribute(mount, libc::MOUNT_ATTR_RDONLY, recursive)
}

/// Takes away what a mount, or a mount and all below it, allows (Linux 5.12). Async-signal-safe.
pub(crate) fn restrict(mount: BorrowedFd<'_>, attributes: MountAttrFlags, recursive: bool) -> Result<()> {
    set_attribute(mount, attributes.bits().into(), recursive)
}

fn set_attribute(mount: BorrowedFd<'_>, attribute: u64, recursive: bool) -> Result<()> {
    let attributes = libc::mount_attr { attr_set: attribute, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a terminated string, the structure lives across the call and its size is passed with it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of_val(&attributes),
        )
    };
    check(result)
}

/// `mount(2)` of a new file system with an option string. Async-signal-safe.
pub(crate) fn mount(fs: &CStr, target: &CStr, data: &CStr) -> Result<()> {
    // SAFETY: all four are terminated strings that live across the call.
    let result = unsafe {
        libc::syscall(libc::SYS_mount, fs.as_ptr(), target.as_ptr(), fs.as_ptr(), 0 as libc::c_ulong, data.as_ptr())
    };
    check(result)
}

fn check(result: libc::c_long) -> Result<()> {
    if result < 0 { Err(last_errno()) } else { Ok(()) }
}

pub(super) fn last_errno() -> Errno {
    Errno::from_raw_os_error(nix::errno::Errno::last_raw())
}
