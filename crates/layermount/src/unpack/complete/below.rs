//! Looks a path up in a stack of layers as overlayfs would.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Stat, getxattr, readlinkat, statat};
use rustix::io::Errno;

use super::super::c_name;
use super::super::metadata::proc_path;
use super::super::root::{PATH, open_beneath};
use crate::error::{SyscallContext, SyscallError};
use crate::layer::{Name, quote};

/// The layers below one, base first.
pub(super) struct Below<'a> {
    lowers: &'a [BorrowedFd<'a>],
    mark: &'static str,
}

/// Something in the merged tree of the layers below.
pub(in crate::unpack) struct Found {
    /// The directory of the topmost layer that has it, and its name there; the layer's root and `.` for the root.
    pub(in crate::unpack) parent: Rc<OwnedFd>,
    pub(in crate::unpack) name: Name,
    pub(in crate::unpack) stat: Stat,
    /// Its path without symlinks.
    pub(in crate::unpack) path: Vec<Name>,
}

const MAX_SYMLINKS: usize = 40;

impl<'a> Below<'a> {
    pub(super) fn new(lowers: &'a [BorrowedFd<'a>], mark: &'static str) -> Self {
        Self { lowers, mark }
    }

    /// The name of the opaque mark.
    pub(super) fn mark(&self) -> &'static str {
        self.mark
    }

    /// Finds `path`; `through_symlinks` says whether symlinks on the way (not at the end) are followed, inside the root.
    /// What lies behind more of them than the kernel follows is nowhere.
    pub(super) fn find(&self, path: &[&[u8]], through_symlinks: bool) -> Result<Option<Found>, SyscallError> {
        let mut left: VecDeque<Name> = path.iter().map(|&name| name.into()).collect();
        let mut here: Vec<Name> = Vec::new();
        let mut symlinks = 0;
        let mut found = None;
        while let Some(name) = left.pop_front() {
            if &*name == b".." {
                here.pop();
                continue;
            }
            let Some(next) = self.step(&here, &name)? else { return Ok(None) };
            match FileType::from_raw_mode(next.stat.st_mode) {
                _ if left.is_empty() => {
                    found = Some(next);
                    break;
                }
                FileType::Directory => here.push(name),
                FileType::Symlink if through_symlinks => {
                    symlinks += 1;
                    if symlinks > MAX_SYMLINKS {
                        return Ok(None);
                    }
                    let target =
                        readlinkat(&next.parent, c_name(&name), Vec::new()).syscall("readlinkat", || quote(&name))?;
                    if target.as_bytes().starts_with(b"/") {
                        here.clear();
                    }
                    let components = target.as_bytes().rsplit(|byte| *byte == b'/');
                    for component in components.filter(|component| !matches!(*component, b"" | b".")) {
                        left.push_front(component.into());
                    }
                }
                _ => return Ok(None),
            }
        }
        Ok(found)
    }

    /// Looks for `name` in the merged directory `directory`, a path without symlinks.
    fn step(&self, directory: &[Name], name: &Name) -> Result<Option<Found>, SyscallError> {
        for lower in self.lowers.iter().rev() {
            let (parent, opaque) = match self.descend(*lower, directory)? {
                Descent::Open { fd, opaque } => (fd, opaque),
                Descent::Absent => continue,
                Descent::Hidden => return Ok(None),
            };
            match statat(&parent, c_name(name), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if is_whiteout(&stat) => return Ok(None),
                Ok(stat) => {
                    let mut path = directory.to_vec();
                    path.push(name.clone());
                    return Ok(Some(Found { parent: Rc::new(parent), name: name.clone(), stat, path }));
                }
                Err(Errno::NOENT) if opaque => return Ok(None),
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(SyscallError::new("fstatat", quote(name), errno)),
            }
        }
        Ok(None)
    }

    /// Goes to a directory in one layer, noting what it hides of the layers below it.
    fn descend(&self, lower: BorrowedFd<'_>, path: &[Name]) -> Result<Descent, SyscallError> {
        let mut fd = open_beneath(lower, &[], PATH)?;
        let mut opaque = false;
        for name in path {
            match statat(&fd, c_name(name), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {}
                // A whiteout, or something that is not a directory: nothing further down shows.
                Ok(_) => return Ok(Descent::Hidden),
                Err(Errno::NOENT) if opaque => return Ok(Descent::Hidden),
                Err(Errno::NOENT) => return Ok(Descent::Absent),
                Err(errno) => return Err(SyscallError::new("fstatat", quote(name), errno)),
            }
            fd = open_beneath(fd.as_fd(), &[name], PATH)?;
            opaque |= has_mark(fd.as_fd(), self.mark)?;
        }
        Ok(Descent::Open { fd, opaque })
    }
}

enum Descent {
    Open {
        fd: OwnedFd,
        opaque: bool,
    },
    /// This layer does not speak of it; the next one may.
    Absent,
    /// This layer takes it away.
    Hidden,
}

pub(in crate::unpack) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Whether a directory has this mark, set to `y`.
pub(in crate::unpack) fn has_mark(directory: BorrowedFd<'_>, mark: &str) -> Result<bool, SyscallError> {
    let mut value = [0_u8; 8];
    match getxattr(proc_path(directory), mark, &mut value[..]) {
        Ok(length) => Ok(value.get(..length) == Some(b"y")),
        // A longer value is not the mark: `x` and others mean other things.
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(false),
        Err(errno) => Err(SyscallError::new("getxattr", mark, errno)),
    }
}
