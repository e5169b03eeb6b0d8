//! Trying on the store's file system what will be done there, without making a store.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Result, SyscallContext, SyscallError};
use crate::unpack::remove_tree;

use super::realize::probe_in;
use super::root::{Part, StoreRoot, make_own, open_own};
use super::stage::Stage;

/// Of trials of this process, for their names.
static COUNTER: AtomicU32 = AtomicU32::new(0);

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// An empty directory, for as long as something is tried.
#[derive(Debug)]
pub(crate) struct Rehearsal<'a> {
    pub(crate) directory: BorrowedFd<'a>,
    pub(crate) path: &'a Path,
    store: &'a Path,
}

impl Rehearsal<'_> {
    /// Mounts the smallest EROFS file.
    pub(crate) fn mount_erofs(&self) -> Result<()> {
        probe_in(self.directory, self.store)
    }
}

/// In the store's stage, where a later writer clears away what a killed process leaves; where there is none, beside it.
pub(super) fn rehearse<T>(root: &StoreRoot, work: impl FnOnce(&Rehearsal<'_>) -> Result<T>) -> Result<T> {
    if root.part(Part::Stage)?.is_some() {
        return Stage::with(root, |stage| {
            work(&Rehearsal { directory: stage.directory(), path: stage.path(), store: root.path() })
        });
    }
    let (above, parent) = nearest(root)?;
    let (pid, count) = (rustix::process::getpid().as_raw_pid(), COUNTER.fetch_add(1, Ordering::Relaxed));
    let name = format!(".layermount-trial-{pid}-{count}");
    let path = above.join(&name);
    let shown = || path.display().to_string();
    make_own(parent.as_fd(), &name).syscall("mkdirat", shown)?;
    let result = open_own(parent.as_fd(), &name, DIRECTORY)
        .syscall("openat", shown)
        .map_err(Into::into)
        .and_then(|directory| work(&Rehearsal { directory: directory.as_fd(), path: &path, store: root.path() }));
    let removed = remove_tree(parent.as_fd(), &CString::new(name).unwrap_or_default());
    let value = result?;
    removed?;
    Ok(value)
}

/// The store's directory, or the nearest one above it that exists.
pub(super) fn nearest(root: &StoreRoot) -> Result<(PathBuf, OwnedFd), SyscallError> {
    for path in root.path().ancestors() {
        match rustix::fs::open(path, DIRECTORY, Mode::empty()) {
            Ok(directory) => return Ok((path.to_owned(), directory)),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno).syscall("open", || path.display().to_string()),
        }
    }
    Err(Errno::NOENT).syscall("open", || root.path().display().to_string())
}
