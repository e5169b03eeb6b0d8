//! Stages: directories in which something is made before it is published.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{FlockOperation, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::at_once::at_once;
use crate::caller::Caller;
use crate::error::{Error, ErrorKind, Result, SyscallContext, SyscallError};
use crate::unpack::remove_tree;

use super::lock::try_lock;
use super::root::{Part, StoreRoot, make_own, names_in, open_own};

/// A fresh directory that nobody else touches: its maker holds a lock on it, and what is not locked is swept.
#[derive(Debug)]
pub(crate) struct Stage {
    parent: OwnedFd,
    directory: OwnedFd,
    name: String,
    path: PathBuf,
}

impl Stage {
    /// A new stage. What processes that are gone have left behind is for [`sweep`].
    pub(crate) fn new(root: &StoreRoot) -> Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let parent = root.part_or_create(Part::Stage)?;
        loop {
            // Unique among the living by pid and count; a dead process's name may be reused, and then EEXIST tells.
            let count = COUNTER.fetch_add(1, Ordering::Relaxed);
            let name = format!("{}-{count}", rustix::process::getpid().as_raw_pid());
            let path = root.path_of(Part::Stage, &name);
            match make_own(parent.as_fd(), &name) {
                Ok(()) => {}
                Err(Errno::EXIST) => continue,
                Err(errno) => return Err(SyscallError::new("mkdirat", path.display().to_string(), errno).into()),
            }
            let directory = match open_own(parent.as_fd(), &name, OFlags::RDONLY | OFlags::DIRECTORY) {
                Ok(directory) => directory,
                // A sweeper was faster than the lock.
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(SyscallError::new("openat", path.display().to_string(), errno).into()),
            };
            if try_lock(&directory, &path, FlockOperation::NonBlockingLockExclusive)? && is_linked(&directory, &path)? {
                return Ok(Self { parent, directory, name, path });
            }
        }
    }

    pub(crate) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a directory inside, making it where it is missing.
    pub(crate) fn make_directory(&self, name: &str) -> Result<OwnedFd> {
        super::root::open_or_create(self.directory(), name)
            .map_err(|errno| SyscallError::new("mkdirat", self.path.join(name).display().to_string(), errno).into())
    }

    /// Moves `name` out of the stage to its public place, unless something is there already (`false`).
    pub(crate) fn publish(&self, name: &str, to: BorrowedFd<'_>, public: &str) -> Result<bool> {
        match rustix::fs::renameat_with(&self.directory, name, to, public, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST | Errno::NOTEMPTY) => Ok(false),
            Err(errno) => {
                let arguments = format!("{}, {public:?}, RENAME_NOREPLACE", self.path.join(name).display());
                Err(SyscallError::new("renameat2", arguments, errno).into())
            }
        }
    }

    /// Moves something public into the stage, if it is there (`true`).
    pub(crate) fn take(&self, from: BorrowedFd<'_>, public: &str, name: &str) -> Result<bool> {
        match rustix::fs::renameat_with(from, public, &self.directory, name, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => {
                let arguments = format!("{public:?}, {}, RENAME_NOREPLACE", self.path.join(name).display());
                Err(SyscallError::new("renameat2", arguments, errno).into())
            }
        }
    }

    /// Removes the stage and what is left in it.
    ///
    /// Not in `Drop`: deleting can take long and can fail. A stage that is dropped instead is swept by the next writer.
    pub(crate) fn remove(self) -> Result<()> {
        remove_at_once(self.directory(), names_in(&self.directory, &self.path)?)?;
        let name = CString::new(self.name.as_str()).unwrap_or_default();
        remove_tree(self.parent.as_fd(), &name)
    }

    /// Runs `work` with a fresh stage and removes the stage whatever came of it.
    pub(crate) fn with<T>(root: &StoreRoot, work: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        let stage = Self::new(root)?;
        let result = work(&stage);
        let removed = stage.remove();
        let value = result?;
        removed?;
        Ok(value)
    }
}

/// Removes several things, some at once. What takes long is that the kernel gives back the pages of each file, for which it
/// takes the processor that asks. One alone is left to the caller.
fn remove_at_once(directory: BorrowedFd<'_>, names: Vec<String>) -> Result<()> {
    if names.len() < 2 {
        return Ok(());
    }
    let most = names.len();
    let queue = Mutex::new(names.into_iter());
    let next = || queue.lock().ok()?.next();
    let remove = || {
        while let Some(name) = next() {
            remove_tree(directory, &CString::new(name).unwrap_or_default())?;
        }
        Ok(())
    };
    at_once(most, remove).into_iter().collect()
}

/// What became of the stages of processes that are gone.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Swept {
    pub(crate) removed: usize,
    /// They hold files of users whom this process may not touch: those of a user namespace wait for a process in it.
    pub(crate) left: usize,
}

/// Removes the stages of processes that are gone, as far as this process may.
pub(crate) fn sweep(root: &StoreRoot) -> Result<Swept> {
    let Some(parent) = root.part(Part::Stage)? else { return Ok(Swept::default()) };
    let mut swept = Swept::default();
    for name in names_in(&parent, &root.path_of(Part::Stage, ""))? {
        let path = root.path_of(Part::Stage, &name);
        let Ok(directory) = open_own(parent.as_fd(), &name, OFlags::RDONLY | OFlags::NONBLOCK) else { continue };
        // What was removed before the lock was had may have left its name to somebody else's stage.
        if try_lock(&directory, &path, FlockOperation::NonBlockingLockExclusive)? && is_linked(&directory, &path)? {
            let name = CString::new(name).unwrap_or_default();
            match remove_tree(parent.as_fd(), &name) {
                Err(error) if is_for_others(&error) => swept.left += 1,
                removed => removed.map(|()| swept.removed += 1)?,
            }
        }
    }
    Ok(swept)
}

/// Whether a tree could not be removed because of files that belong to users of a user namespace, which this process is not in.
/// Root of the machine can remove what anybody can.
pub(crate) fn is_for_others(error: &Error) -> bool {
    error.kind() == ErrorKind::PermissionDenied && !Caller::is_root_of_the_machine()
}

/// Whether an open file still has a name.
pub(crate) fn is_linked(file: &OwnedFd, path: &Path) -> Result<bool> {
    let stat = rustix::fs::fstat(file).syscall("fstat", || path.display().to_string())?;
    Ok(stat.st_nlink > 0)
}
