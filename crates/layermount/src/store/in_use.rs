//! Who uses a layer.
//!
//! These say so, and all are asked before anything is removed:
//!
//! - A `flock(2)` on the layer's tree or file. Whoever found or made a layer holds a shared one until the mount that it is for is
//!   closed, and the descriptor that is locked is the very one that overlayfs is given. The exclusive one is only ever tried,
//!   never waited for, and never held while something else is waited for: so a shared one can be waited for at any time.
//! - The mount tables of all processes. A lock belongs to an open file and not to a mount: overlayfs takes the directory from
//!   the descriptor and not the descriptor itself. It is therefore gone when a process that moved *itself* into an image
//!   executes the image's program, when a tree was attached to a path, and when a launcher was killed whose program lives on.
//! - For EROFS files, the kernel itself: it has a file open for as long as it is mounted, and gives no
//!   [lease](crate::sys::lease) on it. That sees every mount, wherever it is.
//!
//! The mount tables do not show a detached mount that was handed to a process in no mount namespace of which it is a part. Outside
//! of user namespaces, only those are read that the caller may look into: the store is its owner's alone, and so are the
//! processes that mount from it. In one, the owner's other processes cannot be told from everybody's, and all are read.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Result, SyscallContext, SyscallError};
use crate::sys::lease::is_open_elsewhere;

use super::lock::{lock, try_lock};
use super::shelf::{Shelf, ShelfKind, is_at};

/// Takes the lock of those who use a layer, on its tree or file.
pub(super) fn lock_content(content: impl AsFd, path: &Path) -> Result<(), SyscallError> {
    lock(content, path, FlockOperation::LockShared)
}

/// What became of the attempt to have a layer alone.
#[derive(Debug)]
pub(super) enum Claim {
    /// It is not there.
    Gone,
    /// A process holds its lock.
    Used,
    /// No process does, nor can as long as this lives.
    Free(Claimed),
}

/// A layer, or whatever lies in the place of one, that is locked against being used.
#[derive(Debug)]
pub(super) struct Claimed {
    /// `None` for what has neither tree nor file, and so cannot be used.
    content: Option<OwnedFd>,
}

/// [`claim`] that gives those a moment who have the layer locked and do not use it: who looks whether it is sound, or starts a
/// child, which has all that is open here until it executes its program.
pub(super) fn claim_soon(shelf: &Shelf, name: &str) -> Result<Claim> {
    const PATIENCE: Duration = Duration::from_millis(300);
    let since = Instant::now();
    loop {
        match claim(shelf, name)? {
            Claim::Used if since.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(5)),
            claim => return Ok(claim),
        }
    }
}

/// Tries to get hold of a layer that nobody uses.
pub(super) fn claim(shelf: &Shelf, name: &str) -> Result<Claim> {
    let path = shelf.path().join(name);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = match rustix::fs::openat(shelf.directory(), name, flags, Mode::empty()) {
        Ok(directory) => directory,
        Err(Errno::NOENT) => return Ok(Claim::Gone),
        // Whatever it is, it is no layer.
        Err(Errno::NOTDIR | Errno::LOOP) => return Ok(Claim::Free(Claimed { content: None })),
        Err(errno) => return Err(SyscallError::new("openat", path.display().to_string(), errno).into()),
    };
    let kind = shelf.kind();
    let content = match kind.open_content(directory.as_fd()) {
        Ok(content) => content,
        // Moved away and half removed meanwhile, or no layer.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::INVAL | Errno::NXIO) => {
            let there = is_at(shelf.directory().as_fd(), name, &directory, &path)?;
            return Ok(if there { Claim::Free(Claimed { content: None }) } else { Claim::Gone });
        }
        Err(errno) => {
            return Err(SyscallError::new("openat", path.join(kind.content()).display().to_string(), errno).into());
        }
    };
    if !try_lock(&content, &path, FlockOperation::NonBlockingLockExclusive)? {
        return Ok(Claim::Used);
    }
    // Where there are no leases, nothing is known; a file that is removed while it is mounted stays until it is not.
    if kind == ShelfKind::Files && is_open_elsewhere(content.as_fd()) == Ok(true) {
        return Ok(Claim::Used);
    }
    // Removed before the lock was had, it may have left its name to an equal layer, which others use.
    let there = is_at(shelf.directory().as_fd(), name, &directory, &path)?;
    Ok(if there { Claim::Free(Claimed { content: Some(content) }) } else { Claim::Gone })
}

/// Whether a layer is a part of one of the overlays that are made of the directories `mounted`.
///
/// The store may have other paths there: in another mount namespace, through a bind mount, before it was renamed. So only the
/// end of the path is compared, and what the path leads to here, if to anything: that may be another store's equal layer.
pub(super) fn is_mounted(mounted: &HashSet<PathBuf>, shelf: &Shelf, name: &str, layer: &Claimed) -> Result<bool> {
    let kind = shelf.kind();
    let Claimed { content: Some(content) } = layer else { return Ok(false) };
    let end = Path::new(&kind.name()).join(name).join(kind.content());
    let mut alike = mounted.iter().filter(|path| path.ends_with(&end)).peekable();
    if alike.peek().is_none() {
        return Ok(false);
    }
    let ours = rustix::fs::fstat(content)
        .syscall("fstat", || shelf.path().join(name).join(kind.content()).display().to_string())?;
    Ok(alike.any(|path| match rustix::fs::statat(rustix::fs::CWD, path, AtFlags::empty()) {
        Ok(there) => (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino),
        Err(_) => true,
    }))
}

#[cfg(test)]
mod tests {
    use super::super::root::{StoreRoot, open_or_create};
    use super::super::shelf::Directories;
    use super::*;

    fn layer(store: &Path) -> (Shelf, OwnedFd) {
        let root = StoreRoot::open(store.to_owned()).unwrap();
        let shelf = Shelf::open_or_create(&root, ShelfKind::Directories(Directories::OneOwner)).unwrap();
        let layer = open_or_create(shelf.directory().as_fd(), "diff-1").unwrap();
        let tree = open_or_create(layer.as_fd(), "fs").unwrap();
        (shelf, tree)
    }

    #[test]
    fn a_mounted_layer_is_known_by_any_path_of_its_store() {
        let place = tempfile::tempdir().unwrap();
        let (shelf, tree) = layer(&place.path().join("store"));
        let _other = layer(&place.path().join("other"));
        std::os::unix::fs::symlink("store", place.path().join("link")).unwrap();
        let claimed = Claimed { content: Some(tree) };
        let is_mounted =
            |path: &str| is_mounted(&HashSet::from([place.path().join(path)]), &shelf, "diff-1", &claimed).unwrap();
        assert!(is_mounted("store/layers/dir-user/diff-1/fs"));
        assert!(is_mounted("link/layers/dir-user/diff-1/fs"));
        assert!(is_mounted("elsewhere/layers/dir-user/diff-1/fs"), "it may be ours under another name");
        assert!(!is_mounted("other/layers/dir-user/diff-1/fs"));
        assert!(!is_mounted("store/layers/dir-user/diff-2/fs"));
        assert!(!is_mounted("store/layers/dir-trusted/diff-1/fs"));
    }

    #[test]
    fn what_is_locked_is_used_and_what_is_no_layer_is_free() {
        let place = tempfile::tempdir().unwrap();
        let (shelf, tree) = layer(&place.path().join("store"));
        lock_content(&tree, Path::new("fs")).unwrap();
        assert!(matches!(claim(&shelf, "diff-1").unwrap(), Claim::Used));
        drop(tree);
        let free = claim(&shelf, "diff-1").unwrap();
        assert!(matches!(free, Claim::Free(Claimed { content: Some(_) })));
        assert!(matches!(claim(&shelf, "diff-1").unwrap(), Claim::Used), "by the claim itself");
        assert!(matches!(claim(&shelf, "diff-2").unwrap(), Claim::Gone));
        std::os::unix::fs::symlink("diff-1", shelf.path().join("link")).unwrap();
        rustix::fs::mkfifoat(shelf.directory(), "fifo", Mode::RWXU).unwrap();
        for name in ["link", "fifo"] {
            assert!(matches!(claim(&shelf, name).unwrap(), Claim::Free(Claimed { content: None })), "{name}");
        }
    }
}
