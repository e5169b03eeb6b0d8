//! Removes a tree through directory descriptors, without ever following a symlink.
//!
//! The one recursive deletion of this crate: of half-made layers, of what an archive replaces, of what `prune` has
//! moved into a stage. Never for anything that is or was a mount point.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, chmod, fchmod, fstat, openat, renameat, unlinkat};
use rustix::io::Errno;

use super::UnpackError;
use super::metadata::proc_path;
use crate::error::{Result, SyscallContext, SyscallError};
use crate::layer::quote;

/// Directories open at once. What lies deeper is first moved up, so that no depth runs out of descriptors.
const OPEN: usize = 48;

/// Removes `name` in `parent` with all that it holds; it is no error if there is nothing.
pub(crate) fn remove_tree(parent: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    remove(parent, name).map_err(UnpackError::Directory).map_err(Into::into)
}

struct Level {
    fd: OwnedFd,
    name: CString,
    entries: Dir,
    /// Something in it was removed or moved since it was last read from the start.
    progress: bool,
}

fn remove(parent: BorrowedFd<'_>, name: &CStr) -> Result<(), SyscallError> {
    if unlink(parent, name)? {
        return Ok(());
    }
    let mut moved = 0_u64;
    let mut levels = vec![Level::open(parent, name)?];
    while let Some(level) = levels.last_mut() {
        let Some(entry) = level.entries.next() else {
            let Some(level) = levels.pop() else { break };
            let above = levels.last().map_or(parent, |above| above.fd.as_fd());
            match unlinkat(above, &level.name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {
                    if let Some(above) = levels.last_mut() {
                        above.progress = true;
                    }
                }
                // Directories were moved up here, or reading missed entries while others were removed.
                Err(Errno::NOTEMPTY | Errno::EXIST) if level.progress => {
                    let again = Level::open(above, &level.name)?;
                    levels.push(again);
                }
                other => other.syscall("unlinkat", || format!("{}, AT_REMOVEDIR", quote(level.name.as_bytes())))?,
            }
            continue;
        };
        let entry = entry.syscall("getdents64", || quote(level.name.as_bytes()))?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if unlink(level.fd.as_fd(), name)? {
            level.progress = true;
        } else if levels.len() < OPEN {
            let below = levels.last().map_or(parent, |level| level.fd.as_fd());
            let next = Level::open(below, name)?;
            levels.push(next);
        } else {
            move_up(&mut levels, name, &mut moved)?;
        }
    }
    Ok(())
}

/// Moves a directory of the innermost level into the outermost, which will be read again.
fn move_up(levels: &mut [Level], name: &CStr, moved: &mut u64) -> Result<(), SyscallError> {
    let [top, .., deep] = levels else { return Ok(()) };
    loop {
        *moved += 1;
        match renameat(&deep.fd, name, &top.fd, format!(".layermount-removed-{moved}")) {
            // A directory that happens to have this name.
            Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {}
            other => {
                (top.progress, deep.progress) = (true, true);
                return other.syscall("renameat", || quote(name.to_bytes()));
            }
        }
    }
}

/// Removes anything but a directory; `false` for a directory.
fn unlink(parent: BorrowedFd<'_>, name: &CStr) -> Result<bool, SyscallError> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::ISDIR) => Ok(false),
        Err(errno) => Err(SyscallError::new("unlinkat", quote(name.to_bytes()), errno)),
    }
}

impl Level {
    /// Opens a directory for reading and emptying, giving its owner the rights that this takes.
    fn open(parent: BorrowedFd<'_>, name: &CStr) -> Result<Self, SyscallError> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let shown = || quote(name.to_bytes());
        let open = || openat(parent, name, flags | OFlags::RDONLY, Mode::empty());
        let fd = match open() {
            Err(Errno::ACCESS) => {
                let fd = openat(parent, name, flags | OFlags::PATH, Mode::empty()).syscall("openat", shown)?;
                chmod(proc_path(fd.as_fd()), Mode::RWXU).syscall("chmod", shown)?;
                open()
            }
            other => other,
        };
        let fd = fd.syscall("openat", shown)?;
        let mode = fstat(&fd).syscall("fstat", shown)?.st_mode;
        if mode & 0o700 != 0o700 {
            // Not the owner, but perhaps privileged: then the mode does not matter.
            match fchmod(&fd, Mode::RWXU) {
                Ok(()) | Err(Errno::PERM) => {}
                other => other.syscall("fchmod", shown)?,
            }
        }
        let entries = Dir::read_from(&fd).syscall("openat", shown)?;
        Ok(Self { fd, name: name.to_owned(), entries, progress: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{mkdirat, symlinkat};

    #[test]
    fn a_deep_tree_goes_and_its_symlinks_targets_stay() {
        let place = tempfile::tempdir().unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let top = rustix::fs::open(place.path(), flags, Mode::empty()).unwrap();
        mkdirat(&top, "kept", Mode::RWXU).unwrap();
        mkdirat(&top, "kept/inside", Mode::RWXU).unwrap();
        mkdirat(&top, "tree", Mode::RWXU).unwrap();
        let mut here = openat(&top, "tree", flags, Mode::empty()).unwrap();
        for level in 0..300 {
            for name in ["a", "b"] {
                mkdirat(&here, name, Mode::RWXU).unwrap();
            }
            symlinkat(place.path().join("kept"), &here, "link").unwrap();
            let next = openat(&here, "a", flags, Mode::empty()).unwrap();
            if level % 7 == 0 {
                rustix::fs::chmodat(&here, "b", Mode::empty(), AtFlags::empty()).unwrap();
            }
            here = next;
        }
        drop(here);
        remove_tree(top.as_fd(), c"tree").unwrap();
        assert!(!place.path().join("tree").exists());
        assert!(place.path().join("kept/inside").exists());
        remove_tree(top.as_fd(), c"tree").unwrap();
    }
}
