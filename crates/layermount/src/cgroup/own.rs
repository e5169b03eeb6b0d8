//! Cgroups that are layermount's: how they are called, and that one whose owner is gone is not left behind.
//!
//! An owner holds a `flock` on the cgroup's directory for as long as it may need it. The kernel drops that with the process, so that
//! of a cgroup that can be locked, the owner is gone; and the kernel itself refuses to remove one in which there are processes.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock, fstat, mkdir, open, statat};
use rustix::io::Errno;

use crate::error::SyscallError;
use crate::sys::random;

const PREFIX: &str = "layermount-";

/// How deep programs nest cgroups of their own. Those that go further clean up themselves.
const DEPTH: usize = 16;

/// `layermount-PID-XXXXXXXX`. The number is for people who look: what counts is the lock.
pub(super) fn new_name() -> Result<String, SyscallError> {
    Ok(format!("{PREFIX}{}-{}", std::process::id(), random::hex::<4>()?))
}

fn is_ours(name: &str) -> bool {
    let Some((pid, random)) = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-')) else { return false };
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit()) && random.len() == 8 && random.bytes().all(is_hex)
}

/// Makes a cgroup and locks it. `EEXIST` when somebody who cleans up was faster than the lock.
pub(super) fn make(path: &Path) -> Result<OwnedFd, Errno> {
    mkdir(path, Mode::from_raw_mode(0o755))?;
    let directory = open_directory(path)?;
    flock(&directory, FlockOperation::NonBlockingLockExclusive).map_err(|_| Errno::EXIST)?;
    // Locked and removed by somebody, in between.
    let (here, there) = (fstat(&directory)?, statat(CWD, path, rustix::fs::AtFlags::SYMLINK_NOFOLLOW));
    match there {
        Ok(there) if (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino) => Ok(directory),
        _ => Err(Errno::EXIST),
    }
}

fn open_directory(path: &Path) -> Result<OwnedFd, Errno> {
    open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Removes what owners that are gone have left below `parent`. What cannot be removed stays.
pub(super) fn remove_stale(parent: &Path) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        if !entry.file_name().to_str().is_some_and(is_ours) {
            continue;
        }
        let path = entry.path();
        let Ok(directory) = open_directory(&path) else { continue };
        if flock(&directory, FlockOperation::NonBlockingLockExclusive).is_ok() {
            // There may be processes in it, whose parent is gone.
            let _ = remove(&path);
        }
    }
}

/// Removes a cgroup that has no processes, and those that its program may have made below. `EBUSY` if there are any processes.
pub(super) fn remove(path: &Path) -> Result<(), Errno> {
    match rustix::fs::rmdir(path) {
        // Version 1 says the one, version 2 the other, and both also of processes.
        Err(Errno::BUSY | Errno::NOTEMPTY) if is_deserted(path, DEPTH) => {
            remove_children(path, DEPTH);
            rustix::fs::rmdir(path)
        }
        Err(Errno::NOENT) => Ok(()),
        result => result,
    }
}

/// [`remove`] with some patience: processes that have been killed take a moment to end.
pub(super) fn remove_soon(path: &Path) {
    let mut pause = Duration::from_micros(200);
    while remove(path) == Err(Errno::BUSY) && pause < Duration::from_millis(50) {
        std::thread::sleep(pause);
        pause *= 2;
    }
}

fn children(path: &Path) -> impl Iterator<Item = std::path::PathBuf> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path())
}

fn is_deserted(path: &Path, depth: usize) -> bool {
    let is_empty = std::fs::read(path.join("cgroup.procs")).is_ok_and(|processes| processes.is_empty());
    is_empty && depth > 0 && children(path).all(|child| is_deserted(&child, depth - 1))
}

fn remove_children(path: &Path, depth: usize) {
    for child in children(path) {
        if depth > 0 {
            remove_children(&child, depth - 1);
        }
        // Whoever is in it after all keeps it.
        let _ = rustix::fs::rmdir(&child);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_others_are_left_alone() {
        assert!(is_ours(&new_name().unwrap()) && is_ours("layermount-1-0123abcd"));
        for other in [
            "layermount",
            "layermount-",
            "layermount-1",
            "layermount-x-0123abcd",
            "layermount--0123abcd",
            "layermount-1-0123abc",
            "layermount-1-0123ABCD",
            "layermount-1-0123abcd-x",
            "xlayermount-1-0123abcd",
            "docker",
        ] {
            assert!(!is_ours(other), "{other}");
        }
    }

    #[test]
    fn only_unlocked_and_empty_ones_of_ours_are_removed() {
        let parent = tempfile::tempdir().unwrap();
        let path = |name: &str| parent.path().join(name);
        let owner = make(&path("layermount-1-00000001")).unwrap();
        assert_eq!(make(&path("layermount-1-00000001")).unwrap_err(), Errno::EXIST);
        for stale in ["layermount-1-00000002", "layermount-1-00000003", "other"] {
            mkdir(path(stale), Mode::from_raw_mode(0o755)).unwrap();
        }
        // As a populated cgroup, it refuses to go.
        mkdir(path("layermount-1-00000003").join("cgroup.procs"), Mode::from_raw_mode(0o755)).unwrap();
        let left = || {
            let entries = std::fs::read_dir(parent.path()).unwrap();
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        remove_stale(parent.path());
        assert_eq!(left(), ["layermount-1-00000001", "layermount-1-00000003", "other"]);
        drop(owner);
        remove_stale(parent.path());
        assert_eq!(left(), ["layermount-1-00000003", "other"]);
    }
}
