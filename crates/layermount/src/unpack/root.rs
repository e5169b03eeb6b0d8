//! Descriptors of directories inside a layer, opened so that no symlink is ever followed.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;

use super::c_name;
use crate::error::{SyscallContext, SyscallError};
use crate::layer::{Fold, NodeId, quote};

/// Directories kept open. Archives name the files of a directory together, and its parents soon again.
const KEPT: usize = 16;

/// The directory that a layer is unpacked into, and those inside it that were used last.
#[derive(Debug)]
pub(super) struct Root<'fd> {
    fd: BorrowedFd<'fd>,
    /// Last used first.
    kept: VecDeque<(NodeId, Rc<OwnedFd>)>,
}

/// An open directory (`O_PATH`): good for `*at` calls, not for reading.
#[derive(Debug, Clone)]
pub(super) enum Directory<'fd> {
    Root(BorrowedFd<'fd>),
    Inside(Rc<OwnedFd>),
}

impl AsFd for Directory<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Root(fd) => *fd,
            Self::Inside(fd) => fd.as_fd(),
        }
    }
}

impl<'fd> Root<'fd> {
    pub(super) fn new(fd: BorrowedFd<'fd>) -> Self {
        Self { fd, kept: VecDeque::with_capacity(KEPT + 1) }
    }

    /// Opens a directory of the layer. Nodes are never reused, so that a kept descriptor is never another directory's.
    pub(super) fn directory(&mut self, fold: &Fold, node: NodeId) -> Result<Directory<'fd>, SyscallError> {
        if node == NodeId::ROOT {
            return Ok(Directory::Root(self.fd));
        }
        if let Some(place) = self.kept.iter().position(|(kept, _)| *kept == node)
            && let Some(hit) = self.kept.remove(place)
        {
            let fd = Rc::clone(&hit.1);
            self.kept.push_front(hit);
            return Ok(Directory::Inside(fd));
        }
        let (parent, name) = fold.place_of(node);
        let fd = match self.kept.iter().find(|(kept, _)| *kept == parent) {
            Some((_, parent)) => open_beneath(parent.as_fd(), &[name], PATH)?,
            None => open_beneath(self.fd, &fold.path(node), PATH)?,
        };
        let fd = Rc::new(fd);
        self.kept.push_front((node, Rc::clone(&fd)));
        self.kept.truncate(KEPT);
        Ok(Directory::Inside(fd))
    }
}

/// For descriptors that other calls start from.
pub(super) const PATH: OFlags = OFlags::PATH.union(OFlags::DIRECTORY);
/// For descriptors whose attributes are read and set.
pub(super) const READ: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);

#[cfg(test)]
thread_local! {
    /// Has this thread do as it would on a kernel without `openat2`.
    pub(super) static WITHOUT_OPENAT2: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Opens what lies at `path` under `directory` without leaving it and without following symlinks.
pub(super) fn open_beneath(directory: BorrowedFd<'_>, path: &[&[u8]], flags: OFlags) -> Result<OwnedFd, SyscallError> {
    if let [] | [_] = path {
        return walk_beneath(directory, path, flags);
    }
    #[cfg(test)]
    if WITHOUT_OPENAT2.get() {
        return walk_beneath(directory, path, flags);
    }
    let joined = c_name(&path.join(&b'/'));
    let flags_all = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    loop {
        return match openat2(directory, &joined, flags_all, Mode::empty(), resolve) {
            // Something was renamed meanwhile.
            Err(Errno::INTR | Errno::AGAIN) => continue,
            // Before Linux 5.6, and under seccomp profiles that do not know the call.
            Err(Errno::NOSYS | Errno::PERM) => walk_beneath(directory, path, flags),
            other => other
                .syscall("openat2", || format!("{}, RESOLVE_BENEATH|RESOLVE_NO_SYMLINKS", quote(joined.as_bytes()))),
        };
    }
}

/// [`open_beneath`] one component at a time, none of which can be a symlink or `..`.
fn walk_beneath(directory: BorrowedFd<'_>, path: &[&[u8]], flags: OFlags) -> Result<OwnedFd, SyscallError> {
    let mut here: Option<OwnedFd> = None;
    let (last, parents) = path.split_last().map_or((b".".as_slice(), &[][..]), |(last, parents)| (*last, parents));
    let steps = parents.iter().map(|name| (*name, PATH)).chain([(last, flags)]);
    for (name, flags) in steps {
        let from = here.as_ref().map_or(directory, |fd| fd.as_fd());
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let next = openat(from, name, flags, Mode::empty()).syscall("openat", || quote(name))?;
        here = Some(next);
    }
    here.ok_or_else(|| SyscallError::new("openat", "", Errno::NOENT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn both_ways_of_opening_stay_inside() {
        let outside = tempfile::tempdir().unwrap();
        let inside = outside.path().join("root");
        std::fs::create_dir(&inside).unwrap();
        std::fs::create_dir(inside.join("a")).unwrap();
        std::fs::create_dir(inside.join("a/b")).unwrap();
        symlink("..", inside.join("a/up")).unwrap();
        symlink("/", inside.join("a/host")).unwrap();
        symlink("b", inside.join("a/link")).unwrap();
        let root = rustix::fs::open(&inside, PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        type Open = fn(BorrowedFd<'_>, &[&[u8]], OFlags) -> Result<OwnedFd, SyscallError>;
        for open in [open_beneath as Open, walk_beneath] {
            let open = |path: &[&[u8]]| open(root.as_fd(), path, PATH);
            assert!(open(&[b"a", b"b"]).is_ok());
            assert!(open(&[]).is_ok());
            for path in
                [&[&b"a"[..], b"up"][..], &[b"a", b"host"], &[b"a", b"host", b"etc"], &[b"a", b"link"], &[b"a", b"no"]]
            {
                assert!(open(path).is_err(), "{path:?}");
            }
        }
        assert!(open_beneath(root.as_fd(), &[b"a", b"..", b"..", b".."], PATH).is_err());
    }
}
