//! Locks: `flock(2)` on open files, released by the kernel whatever happens to their holder.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FlockOperation, OFlags};
use rustix::io::{Errno, retry_on_intr};

use crate::error::{SyscallContext, SyscallError};

use super::root::{Part, StoreRoot, open_own};
use super::stage::is_linked;

/// The right to make what `key` stands for. Dropping it gives the right to the next in line.
#[derive(Debug)]
pub(crate) struct KeyLock {
    _file: OwnedFd,
}

impl KeyLock {
    /// Takes the lock, calling `waiting` once when somebody else has it.
    pub(crate) fn acquire(root: &StoreRoot, key: &str, waiting: &mut dyn FnMut()) -> crate::Result<Self> {
        let locks = root.part_or_create(Part::Locks)?;
        let path = root.path_of(Part::Locks, key);
        let mut told = false;
        loop {
            let file = open_own(locks.as_fd(), key, OFlags::RDWR | OFlags::CREATE)
                .syscall("openat", || format!("{}, O_CREAT", path.display()))?;
            if !try_lock(&file, &path, FlockOperation::NonBlockingLockExclusive)? {
                if !told {
                    told = true;
                    waiting();
                }
                lock(&file, &path, FlockOperation::LockExclusive)?;
            }
            // `prune` removes lock files while it holds them: a lock on a removed file excludes nobody.
            if is_linked(&file, &path)? {
                return Ok(Self { _file: file });
            }
        }
    }
}

/// Takes a lock, waiting for as long as it takes.
pub(crate) fn lock(file: impl AsFd, path: &Path, operation: FlockOperation) -> Result<(), SyscallError> {
    retry_on_intr(|| rustix::fs::flock(&file, operation))
        .syscall("flock", || format!("{}, {operation:?}", path.display()))
}

/// Takes a lock if nobody is in the way; `operation` must be one of the non-blocking ones.
pub(crate) fn try_lock(file: impl AsFd, path: &Path, operation: FlockOperation) -> Result<bool, SyscallError> {
    // File systems of other machines may answer EINTR even then.
    match retry_on_intr(|| rustix::fs::flock(&file, operation)) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(SyscallError::new("flock", format!("{}, {operation:?}", path.display()), errno)),
    }
}
