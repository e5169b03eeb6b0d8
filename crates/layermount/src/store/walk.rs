//! Going through a tree of any depth with few descriptors.
//!
//! Archives may nest directories deeper than a process may have files open, and deeper than a stack should be.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::error::Result;

/// So many names that they fit into `PATH_MAX` whatever they are.
const NAMES_AT_ONCE: usize = 15;

/// Something in a tree. Paths are from its root.
pub(super) enum Seen<'a> {
    /// An entry of any kind; directories are gone into afterwards.
    Entry { path: &'a [u8], stat: &'a Stat },
    /// Something that cannot be looked at.
    Unreadable { path: &'a [u8], errno: Errno },
}

/// Shows everything below `top` to `see`, in no order.
pub(super) fn walk(top: BorrowedFd<'_>, see: &mut dyn FnMut(Seen<'_>) -> Result<()>) -> Result<()> {
    // Each with the path of its parent, which they share: there may be a million of them far down.
    let mut left = vec![(Rc::<[u8]>::default(), Box::<[u8]>::default())];
    while let Some((parent, name)) = left.pop() {
        let here: Rc<[u8]> = joined(&parent, &name).into();
        drop(parent);
        let path = &*here;
        let opened = open(top, path).and_then(|fd| Ok((Dir::read_from(&fd)?, fd)));
        let (entries, directory) = match opened {
            Ok(opened) => opened,
            Err(errno) => {
                see(Seen::Unreadable { path, errno })?;
                continue;
            }
        };
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(errno) => {
                    see(Seen::Unreadable { path, errno })?;
                    break;
                }
            };
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let path = joined(path, name.to_bytes());
            match rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => {
                    see(Seen::Entry { path: &path, stat: &stat })?;
                    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                        left.push((Rc::clone(&here), name.to_bytes().into()));
                    }
                }
                Err(errno) => see(Seen::Unreadable { path: &path, errno })?,
            }
        }
    }
    Ok(())
}

fn joined(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, name].join(&b'/') }
}

/// Opens a directory for reading without following a symlink at the end. Those on the way were directories a moment ago, and
/// only the store's owner can change that.
pub(super) fn open(top: BorrowedFd<'_>, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut here: Option<OwnedFd> = None;
    let names: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    for names in names.chunks(NAMES_AT_ONCE) {
        let from = here.as_ref().map_or(top, AsFd::as_fd);
        let part = names.join(&b'/');
        let part = if part.is_empty() { b"." } else { part.as_slice() };
        here = Some(rustix::fs::openat(from, part, flags | OFlags::RDONLY, Mode::empty())?);
    }
    here.ok_or(Errno::NOENT)
}
