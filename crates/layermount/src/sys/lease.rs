//! Leases: `fcntl(2)`, "Leases".

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::libc;
use rustix::io::{Errno, Result};

use super::mount::last_errno;

/// From `include/uapi/asm-generic/fcntl.h`; `libc` lacks it.
const F_SETSIG: libc::c_int = 10;

/// A write lease: the kernel gives it to the only user of a regular file.
///
/// Whoever opens the file meanwhile waits for this to be dropped, or is answered `EAGAIN` if it opens with `O_NONBLOCK`. The
/// signal for that is made one that is ignored unless somebody asks for it.
#[derive(Debug)]
pub(crate) struct Lease<'a> {
    file: BorrowedFd<'a>,
}

impl<'a> Lease<'a> {
    /// `None` if the file is open anywhere but through this descriptor, which must be open for reading alone.
    pub(crate) fn take(file: BorrowedFd<'a>) -> Result<Option<Self>> {
        fcntl(file, F_SETSIG, libc::SIGURG)?;
        match fcntl(file, libc::F_SETLEASE, libc::F_WRLCK) {
            Ok(()) => Ok(Some(Self { file })),
            Err(Errno::AGAIN) => Ok(None),
            Err(errno) => Err(errno),
        }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        // It fails only for descriptors that are none. Closing the file would end the lease, too.
        let _ = fcntl(self.file, libc::F_SETLEASE, libc::F_UNLCK);
    }
}

/// Whether a regular file is open anywhere but through this descriptor, which must be open for reading alone; also by the kernel,
/// which has no descriptor of what it mounts. File systems without leases answer `EINVAL`.
pub(crate) fn is_open_elsewhere(file: BorrowedFd<'_>) -> Result<bool> {
    Lease::take(file).map(|lease| lease.is_none())
}

fn fcntl(file: BorrowedFd<'_>, command: libc::c_int, argument: libc::c_int) -> Result<()> {
    // SAFETY: these commands take an integer, and a descriptor that is open for as long as the borrow lasts.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), command, argument) };
    if result < 0 { Err(last_errno()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn every_other_opening_is_noticed() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("file");
        let writer = File::options().write(true).create_new(true).open(&path).unwrap();
        let file = File::open(&path).unwrap();
        assert_eq!(is_open_elsewhere(file.as_fd()), Ok(true));
        drop(writer);
        assert_eq!(is_open_elsewhere(file.as_fd()), Ok(false));
        let reader = File::open(&path).unwrap();
        assert_eq!(is_open_elsewhere(file.as_fd()), Ok(true));
        drop(reader);
        assert_eq!(is_open_elsewhere(file.as_fd()), Ok(false));
    }
}
