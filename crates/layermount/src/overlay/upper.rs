//! The writable top of an overlay, and how a persistent one is kept for one user at a time.
//!
//! ```text
//! DIR/lock    flock, held by the process that mounts, for as long as it keeps the mount to itself
//! DIR/upper   what was changed; gets the image's root attributes when it is first made
//! DIR/work    overlayfs's own
//! ```
//!
//! The kernel lets two mounts share an upper and leaves the results undefined. The lock alone cannot prevent that: it is gone once
//! the process has become another program inside the image. So the second test looks through the mounts of all processes.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self, CWD, FlockOperation, MemfdFlags, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use super::OverlayError;
use super::spec::argument;
use crate::caller::Caller;
use crate::error::SyscallContext;
use crate::kernel::Kernel;
use crate::mountinfo::{self, User};
use crate::script::LayerArgument;
use crate::stack::RootAttributes;

/// Where changes to the image's tree go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upper {
    /// Nowhere: the tree is read-only.
    ReadOnly,
    /// Into memory (tmpfs). Gone with the last process inside.
    Temporary {
        /// In bytes; half of the machine's memory when absent.
        size: Option<u64>,
    },
    /// Into this directory, made when missing, for one user at a time.
    Persistent(PathBuf),
}

impl Upper {
    /// Whether this upper is in memory where memory cannot hold all that an ordinary user may change: a directory that was removed
    /// from the image and made again is marked with a `user.*` xattr, which tmpfs has since Linux 6.6.
    ///
    /// A [`Store::scratch`](crate::Store::scratch) directory can take its place.
    pub fn needs_disk(&self) -> bool {
        matches!(self, Self::Temporary { .. }) && !Caller::current().is_privileged() && !memory_has_user_xattrs()
    }
}

/// A memfd is a file of the kernel's own tmpfs.
fn memory_has_user_xattrs() -> bool {
    fs::memfd_create(c"layermount", MemfdFlags::CLOEXEC)
        .and_then(|file| fs::fsetxattr(&file, c"user.layermount", b"", XattrFlags::empty()))
        .is_ok()
}

impl Default for Upper {
    fn default() -> Self {
        Self::Temporary { size: None }
    }
}

/// A persistent upper that is ours for now.
#[derive(Debug)]
pub(super) struct Persistent {
    upper: OwnedFd,
    work: OwnedFd,
    path: PathBuf,
    lock: OwnedFd,
}

/// A process that has an overlay of it. Not of `directory` itself, which may also be above layers that others use.
fn user_of(directory: &Path) -> Option<User> {
    let path = std::fs::canonicalize(directory).ok()?;
    mountinfo::users_of(&path.join("upper")).into_iter().next()
}

impl Persistent {
    pub(super) fn open(
        directory: &Path,
        attributes: &RootAttributes,
        names: &[CString],
        may_chown: bool,
    ) -> Result<Self, OverlayError> {
        let show = || directory.display().to_string();
        match fs::mkdirat(CWD, directory, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno).syscall("mkdir", show).map_err(OverlayError::Upper),
        }
        let open = |at, name: &Path, flags| {
            fs::openat(at, name, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::from_raw_mode(0o600))
                .syscall("openat", || format!("{}, {}", show(), name.display()))
                .map_err(OverlayError::Upper)
        };
        let top = fs::open(directory, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .syscall("open", show)
            .map_err(OverlayError::Upper)?;
        let lock = open(top.as_fd(), Path::new("lock"), OFlags::RDWR | OFlags::CREATE | OFlags::NONBLOCK)?;
        let busy = |user| OverlayError::UpperBusy { path: directory.to_owned(), user };
        match fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            // Rather who runs in it than who has started that.
            Err(Errno::WOULDBLOCK) => {
                return Err(busy(user_of(directory).or_else(|| mountinfo::lock_holder(lock.as_fd()))));
            }
            Err(errno) => return Err(errno).syscall("flock", show).map_err(OverlayError::Upper),
        }
        let path = std::fs::canonicalize(directory).syscall("realpath", show).map_err(OverlayError::Upper)?;
        if let Some(user) = user_of(&path) {
            return Err(busy(Some(user)));
        }
        if fs::statat(&top, c"upper", fs::AtFlags::SYMLINK_NOFOLLOW).is_err() {
            // Under another name until it has its attributes, so that being killed here costs nothing.
            make(top.as_fd(), c"upper.new").map_err(OverlayError::Upper)?;
            let new = open(top.as_fd(), Path::new("upper.new"), OFlags::DIRECTORY | OFlags::RDONLY)?;
            crate::script::set_attributes(new.as_fd(), attributes, names, may_chown)
                .syscall("fchmod", || format!("{}/upper, {attributes:?}", show()))
                .map_err(OverlayError::Upper)?;
            fs::renameat(&top, c"upper.new", &top, c"upper").syscall("renameat", show).map_err(OverlayError::Upper)?;
        }
        make(top.as_fd(), c"work").map_err(OverlayError::Upper)?;
        let upper = open(top.as_fd(), Path::new("upper"), OFlags::DIRECTORY | OFlags::PATH)?;
        let work = open(top.as_fd(), Path::new("work"), OFlags::DIRECTORY | OFlags::PATH)?;
        Ok(Self { upper, work, path, lock })
    }

    /// What says that it is ours.
    pub(super) fn into_lock(self) -> OwnedFd {
        self.lock
    }

    pub(super) fn arguments(&self, kernel: Kernel, reopen: bool) -> [LayerArgument<'_>; 2] {
        [("upper", &self.upper), ("work", &self.work)]
            .map(|(name, directory)| argument(directory.as_fd(), &self.path.join(name), kernel, reopen))
    }
}

fn make(at: std::os::fd::BorrowedFd<'_>, name: &std::ffi::CStr) -> Result<(), crate::error::SyscallError> {
    match fs::mkdirat(at, name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno).syscall("mkdirat", || name.to_string_lossy().into_owned()),
    }
}

/// Who is in the way, for a message.
pub(super) fn describe(user: Option<&User>) -> String {
    match user {
        Some(User { pid, comm }) => format!("process {pid} ({comm})"),
        None => "another process".to_owned(),
    }
}
