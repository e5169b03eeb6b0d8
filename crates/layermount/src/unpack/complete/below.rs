//! Looks a path up in a stack of layers as overlayfs would.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Stat, getxattr, readlinkat, statat};
use rustix::io::Errno;

use super::super::c_name;
use super::super::metadata::{is_stand_in, is_whiteout, proc_path};
use super::super::root::{PATH, open_beneath};
use crate::error::{SyscallContext, SyscallError};
use crate::layer::{Name, quote};

/// The layers below one, base first. They do not change while one looks.
pub(super) struct Below<'a> {
    lowers: &'a [BorrowedFd<'a>],
    mark: &'static str,
    /// The way to the directory that was looked into last: the next one is often the same, and may lie deep.
    way: RefCell<Vec<Level>>,
}

/// A directory on the way.
struct Level {
    name: Name,
    holders: Vec<usize>,
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
        Self { lowers, mark, way: RefCell::default() }
    }

    /// The name of the opaque mark.
    pub(super) fn mark(&self) -> &'static str {
        self.mark
    }

    /// Finds `path`; `through_symlinks` says whether symlinks on the way (not at the end) are followed, inside the root.
    /// What lies behind more of them than the kernel follows is nowhere.
    pub(super) fn find(&self, path: &[&[u8]], through_symlinks: bool) -> Result<Option<Found>, SyscallError> {
        // What is on the way is known to be directories.
        let (known, rest) = path.split_at(self.known(path.get(..path.len().saturating_sub(1)).unwrap_or_default()));
        let mut left: VecDeque<Name> = rest.iter().map(|&name| name.into()).collect();
        let mut here: Vec<Name> = known.iter().map(|&name| name.into()).collect();
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
        for index in self.holders(directory)? {
            let parent = self.open(index, directory)?;
            match statat(&parent, &**name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if is_whiteout(&stat) && !is_stand_in(&stat) => return Ok(None),
                Ok(stat) => {
                    let mut path = directory.to_vec();
                    path.push(name.clone());
                    return Ok(Some(Found { parent: Rc::new(parent), name: name.clone(), stat, path }));
                }
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(SyscallError::new("fstatat", quote(name), errno)),
            }
        }
        Ok(None)
    }

    /// How many of the components of `path` are on the way already.
    fn known(&self, path: &[impl AsRef<[u8]>]) -> usize {
        self.way.borrow().iter().zip(path).take_while(|(level, name)| *level.name == *name.as_ref()).count()
    }

    /// The layers whose directories at this path make up the merged one, topmost first.
    fn holders(&self, directory: &[Name]) -> Result<Vec<usize>, SyscallError> {
        let mut way = self.way.borrow_mut();
        let known = way.iter().zip(directory).take_while(|(level, name)| level.name == **name).count();
        way.truncate(known);
        let mut holders =
            way.last().map_or_else(|| (0..self.lowers.len()).rev().collect(), |last| last.holders.clone());
        for (depth, name) in directory.iter().enumerate().skip(known) {
            holders = self.narrow(&holders, directory.get(..depth).unwrap_or_default(), name)?;
            way.push(Level { name: name.clone(), holders: holders.clone() });
        }
        Ok(holders)
    }

    /// Those that hold `name` in `directory`, out of the holders of that.
    fn narrow(&self, above: &[usize], directory: &[Name], name: &Name) -> Result<Vec<usize>, SyscallError> {
        let mut holders = Vec::new();
        for &index in above {
            let parent = self.open(index, directory)?;
            match statat(&parent, &**name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {}
                // A whiteout, or something that is not a directory: nothing further down shows.
                Ok(_) => break,
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(SyscallError::new("fstatat", quote(name), errno)),
            }
            holders.push(index);
            if has_mark(open_beneath(parent.as_fd(), &[name], PATH)?.as_fd(), self.mark)? {
                break;
            }
        }
        Ok(holders)
    }

    fn open(&self, index: usize, directory: &[Name]) -> Result<OwnedFd, SyscallError> {
        let lower = self.lowers.get(index).ok_or_else(|| SyscallError::new("openat", "", Errno::NOENT))?;
        let path: Vec<&[u8]> = directory.iter().map(|name| &**name).collect();
        open_beneath(*lower, &path, PATH)
    }
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
