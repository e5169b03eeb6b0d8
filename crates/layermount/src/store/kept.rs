//! Images that stay mounted.
//!
//! Mounting EROFS files is cheap, and what it costs comes later: each mount has inodes, and so pages, of its own (until Linux 7.0,
//! which can share them). A program's first moments are faults in its libraries, and with a new mount none of their pages is there,
//! whatever the page cache holds of the file behind it. So an image of which much is started can be kept mounted: its programs then
//! share one file system, and its pages, however many run at once.
//!
//! Nothing of that is done unasked: such a mount is the machine's until it is taken away or the machine goes down, and it is seen in
//! the mount table. It is attached below `mounts/` to a directory that is called after the entry and after the inode of its file.
//! The kernel has that file open, so that no other can get the same inode: whoever finds an entry finds the mount of this very
//! file, or none. Where there is none (after a reboot, in another mount namespace), the file is mounted as ever.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};

use crate::error::{Result, SyscallContext, SyscallError};
use crate::sys::mount::restrict;

use super::entry::Entry;
use super::root::{Part, StoreRoot, names_in, open_or_create};

/// Stands between the name of an entry and the inode of its file.
const OF_INODE: char = '.';

/// The root of the entry's file system, in a mount of the caller's own, if it is kept mounted where the caller can see it.
pub(super) fn mount_of(root: &StoreRoot, entry: &Entry) -> Result<Option<OwnedFd>> {
    let Some(mounts) = root.part(Part::Mounts)? else { return Ok(None) };
    let name = name_of(entry)?;
    let Some(kept) = open_mount(mounts.as_fd(), &name).syscall("openat", || shown(root, &name))? else {
        return Ok(None);
    };
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    match rustix::mount::open_tree(&kept, c"", flags) {
        Ok(mount) => Ok(Some(mount)),
        // Taken away just now.
        Err(Errno::INVAL) => Ok(None),
        Err(errno) => Err(SyscallError::new("open_tree", shown(root, &name), errno).into()),
    }
}

/// Attaches a mount of the entry for whoever comes next. Returns whether there was none.
pub(super) fn keep(root: &StoreRoot, entry: &Entry, mount: BorrowedFd<'_>) -> Result<bool> {
    let mounts = root.part_or_create(Part::Mounts)?;
    let name = name_of(entry)?;
    let place = open_or_create(mounts.as_fd(), &name).syscall("mkdirat", || shown(root, &name))?;
    if is_mount(place.as_fd()).syscall("statx", || shown(root, &name))? {
        return Ok(false);
    }
    // Nobody is meant to run anything from here; overlayfs does not look at this.
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    restrict(mount, attributes, false).syscall("mount_setattr", || shown(root, &name))?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, c"", &place, c"", flags).syscall("move_mount", || shown(root, &name))?;
    Ok(true)
}

/// Takes away the mounts of those entries of which `lets_go` says so by their names. Programs that run in them go on. Returns how
/// many there were.
pub(super) fn release(root: &StoreRoot, lets_go: impl Fn(&str, u64) -> bool) -> Result<usize> {
    let Some(mounts) = root.part(Part::Mounts)? else { return Ok(0) };
    let mut released = 0;
    for name in names_in(&mounts, &root.path_of(Part::Mounts, ""))? {
        // Anything else is not of our making.
        let Some((entry, inode)) = name.split_once(OF_INODE) else { continue };
        if inode.parse().is_ok_and(|inode| lets_go(entry, inode)) {
            released += usize::from(release_one(root, mounts.as_fd(), &name)?);
        }
    }
    Ok(released)
}

fn release_one(root: &StoreRoot, mounts: BorrowedFd<'_>, name: &str) -> Result<bool, SyscallError> {
    let mut released = false;
    while let Some(kept) = open_mount(mounts, name).syscall("openat", || shown(root, name))? {
        // Through the descriptor, as other paths may lead elsewhere by now. Whoever has it mounted keeps what they have.
        let path = format!("/proc/thread-self/fd/{}", kept.as_raw_fd());
        match rustix::mount::unmount(path, UnmountFlags::DETACH) {
            Ok(()) => released = true,
            // Somebody else was faster.
            Err(Errno::INVAL) if !is_kept(mounts, name) => {}
            Err(errno) => return Err(SyscallError::new("umount2", shown(root, name), errno)),
        }
    }
    match rustix::fs::unlinkat(mounts, name, AtFlags::REMOVEDIR) {
        // Kept again already, or removed by somebody else.
        Ok(()) | Err(Errno::BUSY | Errno::NOENT) => Ok(released),
        Err(errno) => Err(SyscallError::new("unlinkat", shown(root, name), errno)),
    }
}

fn is_kept(mounts: BorrowedFd<'_>, name: &str) -> bool {
    open_mount(mounts, name).is_ok_and(|kept| kept.is_some())
}

/// The root of what is mounted at a directory, if something is.
fn open_mount(mounts: BorrowedFd<'_>, name: &str) -> rustix::io::Result<Option<OwnedFd>> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(mounts, name, flags, Mode::empty()) {
        Ok(place) => Ok(is_mount(place.as_fd())?.then_some(place)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Whether this is the root of a mount (`STATX_ATTR_MOUNT_ROOT`, Linux 5.8).
fn is_mount(directory: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    let statx = rustix::fs::statx(directory, c"", AtFlags::EMPTY_PATH, StatxFlags::empty())?;
    Ok(statx.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

fn name_of(entry: &Entry) -> Result<String, SyscallError> {
    let inode = entry.inode()?;
    let name = entry.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(format!("{name}{OF_INODE}{inode}"))
}

fn shown(root: &StoreRoot, name: &str) -> String {
    root.path_of(Part::Mounts, name).display().to_string()
}
