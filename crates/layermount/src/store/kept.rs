//! Images that stay mounted.
//!
//! Mounting EROFS files is cheap, and what it costs comes later: each mount has inodes, and so pages, of its own (until Linux 7.0,
//! which can share them). A program's first moments are faults in its libraries, and with a new mount none of their pages is there,
//! whatever the page cache holds of the file behind it. So an image of which much is started can be kept mounted: its programs then
//! share one file system, and its pages, however many run at once.
//!
//! Nothing of that is done unasked: such a mount is the machine's until it is taken away or the machine goes down, and it is seen in
//! the mount table. It is attached below `mounts/` to a directory that is called after the entry and after the inodes of its file and
//! of the layers' files. The kernel has these open, so that no others can get the same inodes: whoever finds an entry finds the mount
//! of these very files, or none. Where there is none (after a reboot, in another mount namespace), they are mounted as ever.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};

use crate::error::{Result, SyscallContext, SyscallError};
use crate::sys::mount::restrict;

use super::entry::Entry;
use super::lock::KeyLock;
use super::root::{Part, StoreRoot, names_in, open_or_create};

/// Stands between the name of an entry and the identity of its files.
const OF_FILES: char = '.';

/// Tells files from all others that could have their names, for as long as they are open anywhere: made of their inodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FilesIdentity(u64);

impl FilesIdentity {
    /// FNV-1a, over whole numbers.
    pub(super) fn of(inodes: impl IntoIterator<Item = u64>) -> Self {
        let mix = |hash: u64, inode: u64| (hash ^ inode).wrapping_mul(0x0100_0000_01b3).rotate_left(31);
        Self(inodes.into_iter().fold(0xcbf2_9ce4_8422_2325, mix))
    }

    fn parse(text: &str) -> Option<Self> {
        u64::from_str_radix(text, 16).ok().map(Self)
    }
}

/// The root of the entry's file system, in a mount of the caller's own, if it is kept mounted where the caller can see it.
/// `identity` is asked for only where something was ever kept, which nearly nobody does.
pub(super) fn mount_of(
    root: &StoreRoot,
    entry: &Entry,
    identity: impl FnOnce() -> Result<Option<FilesIdentity>>,
) -> Result<Option<OwnedFd>> {
    let Some(mounts) = root.part(Part::Mounts)? else { return Ok(None) };
    let Some(identity) = identity()? else { return Ok(None) };
    let name = name_of(entry, identity);
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
pub(super) fn keep(root: &StoreRoot, entry: &Entry, identity: FilesIdentity, mount: BorrowedFd<'_>) -> Result<bool> {
    let mounts = root.part_or_create(Part::Mounts)?;
    let name = name_of(entry, identity);
    let _lock = lock(root, &name)?;
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

/// What becomes of the directory of a mount that is not seen here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unseen {
    /// It may be seen in another mount namespace.
    Stays,
    /// It is removed, and what is mounted there in other mount namespaces goes with it.
    Goes,
}

/// Takes away the mounts of those entries of which `lets_go` says so by their names and files, in all mount namespaces. Programs that
/// run in them go on. Returns how many there were here, or the first error, after all have been tried.
pub(super) fn release(
    root: &StoreRoot,
    unseen: Unseen,
    lets_go: impl Fn(&str, FilesIdentity) -> bool,
) -> Result<usize> {
    let Some(mounts) = root.part(Part::Mounts)? else { return Ok(0) };
    let (mut released, mut failed) = (0, Ok(()));
    for name in names_in(&mounts, &root.path_of(Part::Mounts, ""))? {
        // Anything else is not of our making.
        let Some((entry, identity)) = name.split_once(OF_FILES) else { continue };
        if FilesIdentity::parse(identity).is_some_and(|identity| lets_go(entry, identity)) {
            match release_one(root, mounts.as_fd(), &name, unseen) {
                Ok(was_mounted) => released += usize::from(was_mounted),
                Err(error) => failed = failed.and(Err(error)),
            }
        }
    }
    failed?;
    Ok(released)
}

fn release_one(root: &StoreRoot, mounts: BorrowedFd<'_>, name: &str, unseen: Unseen) -> Result<bool> {
    let _lock = lock(root, name)?;
    let mut released = false;
    while let Some(kept) = open_mount(mounts, name).syscall("openat", || shown(root, name))? {
        // Through the descriptor, as other paths may lead elsewhere by now. Whoever has it mounted keeps what they have.
        let path = format!("/proc/thread-self/fd/{}", kept.as_raw_fd());
        match rustix::mount::unmount(path, UnmountFlags::DETACH) {
            Ok(()) => released = true,
            // Somebody else was faster.
            Err(Errno::INVAL) if !is_kept(mounts, name) => {}
            Err(errno) => return Err(SyscallError::new("umount2", shown(root, name), errno).into()),
        }
    }
    if !released && unseen == Unseen::Stays {
        return Ok(false);
    }
    match rustix::fs::unlinkat(mounts, name, AtFlags::REMOVEDIR) {
        // Kept again already, or removed by somebody else, or nothing of ours: a file, or a copy of what was mounted.
        Ok(()) | Err(Errno::BUSY | Errno::NOENT | Errno::NOTDIR | Errno::NOTEMPTY) => Ok(released),
        Err(errno) => Err(SyscallError::new("unlinkat", shown(root, name), errno).into()),
    }
}

/// One at a time, or the place could be removed by the one before the other has it mounted on, or be mounted on twice.
fn lock(root: &StoreRoot, name: &str) -> Result<KeyLock> {
    KeyLock::acquire(root, &format!("mount-{name}"), &mut || ())
}

fn is_kept(mounts: BorrowedFd<'_>, name: &str) -> bool {
    open_mount(mounts, name).is_ok_and(|kept| kept.is_some())
}

/// The root of what is mounted at a directory, if something is.
fn open_mount(mounts: BorrowedFd<'_>, name: &str) -> rustix::io::Result<Option<OwnedFd>> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(mounts, name, flags, Mode::empty()) {
        Ok(place) => Ok(is_mount(place.as_fd())?.then_some(place)),
        // What is no directory is none of ours, and nothing that keeps from mounting the file.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Whether this is the root of a mount (`STATX_ATTR_MOUNT_ROOT`, Linux 5.8), and of EROFS: only root can mount anything else here, or
/// another image, and has everything else in hand as well.
fn is_mount(directory: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    const EROFS_SUPER_MAGIC: u32 = 0xe0f5_e1e2;
    let statx = rustix::fs::statx(directory, c"", AtFlags::EMPTY_PATH, StatxFlags::empty())?;
    if !statx.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
        return Ok(false);
    }
    // The type of the field differs between architectures; the number fits all.
    Ok(rustix::fs::fstatfs(directory)?.f_type as u32 == EROFS_SUPER_MAGIC)
}

fn name_of(entry: &Entry, FilesIdentity(identity): FilesIdentity) -> String {
    let name = entry.path().file_name().unwrap_or_default().to_string_lossy();
    format!("{name}{OF_FILES}{identity:016x}")
}

fn shown(root: &StoreRoot, name: &str) -> String {
    root.path_of(Part::Mounts, name).display().to_string()
}
