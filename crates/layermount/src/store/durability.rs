//! What is certain after the machine went down without notice.
//!
//! A layer appears under its name by a rename, and whoever looks at it while the machine runs finds it whole. On disk, names
//! and contents take different ways: file systems write the names first and the contents when they please (delayed
//! allocation), so that a power cut can leave a whole tree of files that are empty or full of zeros. Therefore:
//!
//! - The record of a layer says in which boot it was written, after `/proc/sys/kernel/random/boot_id`.
//! - A layer that is known to be on disk has the mark [`ON_DISK`] beside its tree: an empty file, which has no content to
//!   lose. It is made after `syncfs(2)` has returned, so that where it is, the rest is.
//! - A layer without the mark, of another boot, is compared with its listing before it is used; an EROFS file with its diff ID and
//!   checksum. If it is whole, what was read
//!   came from the disk, and it gets the mark; if not, it is marked as damaged and counts as absent. Where the boot is not
//!   known, the mark waits for `syncfs(2)` here, too.
//! - An index of an image's layers vouches for them in the boot that made it. After that, each of them is known to be on disk
//!   itself, or is looked at.
//! - Completing a layer changes its tree, so that it loses the mark first.
//!
//! This rests on two things. Changes of one file system's names and attributes become permanent in the order in which they
//! were made, or not at all: true of ext4, XFS and btrfs, whose journals and trees are written whole (and which
//! `syncfs(2)` waits for). And `syncfs` reports what could not be written: since Linux 5.8.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, OnceLock};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Result, SyscallContext, SyscallError};

use super::entry::{Entry, Key};
use super::root::StoreRoot;
use super::shelf::Shelf;
use super::verify;

/// What a layer or record survives once the call that makes it has returned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Durability {
    /// The death of any process. Nothing waits for the disk; after a power cut, or any other end of the kernel that made
    /// them, layers are compared with what was unpacked at their next use, and are absent if they were cut short.
    #[default]
    Process,
    /// Power cuts, too: everything is on disk before the call returns, by one `syncfs(2)` for all layers of an image.
    Power,
}

/// An empty file beside the tree, or the file, of a layer that is known to be on disk.
const ON_DISK: &str = "on-disk";

/// This boot of this kernel; `None` where `/proc` does not tell.
pub(super) fn boot_id() -> Option<&'static str> {
    static BOOT_ID: OnceLock<Option<String>> = OnceLock::new();
    let read = || {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::open(c"/proc/sys/kernel/random/boot_id", flags, Mode::empty()).ok()?;
        // More than a UUID and a line break. Without the calls by which std finds out how long a file is.
        let mut text = [0; 64];
        let length = rustix::io::read(&file, &mut text).ok()?;
        Some(std::str::from_utf8(text.get(..length)?).ok()?.trim().to_owned())
    };
    BOOT_ID.get_or_init(read).as_deref()
}

/// Whether the layer is as it was unpacked, which has to be looked at if it was written in another boot (then `checking` is
/// told). One that is not is marked as damaged.
pub(super) fn is_whole(entry: &Entry, checking: &mut dyn FnMut()) -> Result<bool> {
    // Nothing can have been lost while the kernel that wrote it still runs.
    if is_of_this_boot(entry) || is_on_disk(entry)? {
        return Ok(true);
    }
    checking();
    if !verify::is_whole(entry)? {
        return match entry.mark_damaged() {
            Ok(()) => Ok(false),
            // Nothing can be made there that could be taken for it.
            Err(error) if error.errno() == Errno::ROFS => Ok(false),
            Err(error) => Err(error.into()),
        };
    }
    if entry.record.boot.is_none() || boot_id().is_none() {
        // That may have been this very boot, and what was read may not be on the disk yet.
        sync(entry.content(), || shown(entry))?;
    }
    match entry.put_mark(ON_DISK) {
        Ok(()) => Ok(true),
        // Then it will be looked at again.
        Err(error) if matches!(error.errno(), Errno::ROFS | Errno::ACCESS | Errno::NOSPC | Errno::DQUOT) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// Makes sure that layers that are published are on disk, all at once.
pub(super) fn make_durable(root: &StoreRoot, entries: &[Arc<Entry>]) -> Result<()> {
    let mut left = Vec::new();
    for entry in entries {
        if !is_on_disk(entry)? {
            left.push(entry);
        }
    }
    let Some(first) = left.first() else { return Ok(()) };
    sync(first.content(), || root.path().display().to_string())?;
    left.into_iter().try_for_each(|entry| entry.put_mark(ON_DISK))?;
    Ok(())
}

/// Writes the whole file system to the disk. One call for thousands of files: a call for each takes the disk's patience for
/// each.
pub(super) fn sync(directory: impl AsFd, shown: impl FnOnce() -> String) -> Result<(), SyscallError> {
    rustix::fs::syncfs(directory).syscall("syncfs", shown)
}

/// Whether the kernel that wrote the layer still runs.
pub(super) fn is_of_this_boot(entry: &Entry) -> bool {
    entry.record.boot.is_some() && entry.record.boot.as_deref() == boot_id()
}

fn is_on_disk(entry: &Entry) -> Result<bool, SyscallError> {
    match rustix::fs::statat(entry.directory()?, ON_DISK, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(SyscallError::new("newfstatat", shown(entry), errno)),
    }
}

/// The same of a layer that is only known by its name.
pub(super) fn is_on_disk_at(shelf: &Shelf, key: &Key) -> Result<bool, SyscallError> {
    let path = format!("{}/{ON_DISK}", key.file_name());
    match rustix::fs::statat(shelf.directory(), path.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        Err(errno) => Err(SyscallError::new("newfstatat", shelf.path().join(path).display().to_string(), errno)),
    }
}

/// Takes the mark from a layer, before its tree is changed.
pub(super) fn unmark(directory: BorrowedFd<'_>) -> Result<(), SyscallError> {
    match rustix::fs::unlinkat(directory, ON_DISK, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(SyscallError::new("unlinkat", ON_DISK, errno)),
    }
}

fn shown(entry: &Entry) -> String {
    entry.path().join(ON_DISK).display().to_string()
}
