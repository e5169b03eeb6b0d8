//! What the store holds and what that takes on disk.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::digest::DiffId;
use crate::error::{Result, SyscallError};
use crate::image::OverlayXattrs;

use super::entry::{Shelf, shelf_name};
use super::root::{Part, StoreRoot, names_in};

/// A layer in the store.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StoredLayer {
    /// Its directory's name: `diff-…`, `chain-…` or `open-…` (see the [store's layout](crate::store)).
    pub name: String,
    /// The digest of the uncompressed archive.
    pub diff_id: DiffId,
    /// Where it lies.
    pub path: PathBuf,
    /// The namespace of overlayfs's marks in it.
    pub xattrs: OverlayXattrs,
    /// Entries of the archive.
    pub entries: u64,
    /// Bytes of file content in the archive.
    pub content_bytes: u64,
}

/// What the store takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// Images that were pulled.
    pub images: usize,
    /// Layers.
    pub layers: usize,
    /// Bytes on disk of all layers.
    pub layer_bytes: u64,
    /// Bytes on disk of what is being made, or was when its maker died.
    pub stage_bytes: u64,
}

pub(super) const ALL_SHELVES: [OverlayXattrs; 2] = [OverlayXattrs::Trusted, OverlayXattrs::User];

pub(super) fn layers(root: &StoreRoot) -> Result<Vec<StoredLayer>> {
    let mut layers = Vec::new();
    for xattrs in ALL_SHELVES {
        let Some(shelf) = Shelf::open(root, shelf_name(xattrs))? else { continue };
        for name in names_in(shelf.directory(), shelf.path())? {
            if let Some(entry) = shelf.entry_named(&name)? {
                let unpacked = &entry.record.unpacked;
                layers.push(StoredLayer {
                    name,
                    diff_id: entry.record.diff_id.clone(),
                    path: entry.path().clone(),
                    xattrs,
                    entries: unpacked.entries,
                    content_bytes: unpacked.bytes,
                });
            }
        }
    }
    layers.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(layers)
}

pub(super) fn usage(root: &StoreRoot) -> Result<Usage> {
    let bytes = |part| match root.part(part)? {
        Some(directory) => disk_bytes(directory.as_fd(), &root.path_of(part, "")),
        None => Ok(0),
    };
    Ok(Usage {
        images: super::record::list(root)?.len(),
        layers: layers(root)?.len(),
        layer_bytes: bytes(Part::Layers)?,
        stage_bytes: bytes(Part::Stage)?,
    })
}

/// The blocks of everything below a directory, in bytes; a file with several links counts once.
///
/// What disappears meanwhile counts for nothing; what may not be read counts with what is known of it.
pub(super) fn disk_bytes(directory: BorrowedFd<'_>, path: &Path) -> Result<u64> {
    fn walk(directory: BorrowedFd<'_>, seen: &mut std::collections::HashSet<(u64, u64)>) -> rustix::io::Result<u64> {
        let mut bytes = 0;
        for entry in rustix::fs::Dir::read_from(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let stat = match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(errno),
            };
            let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if is_directory || stat.st_nlink == 1 || seen.insert((stat.st_dev, stat.st_ino)) {
                bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
            }
            if is_directory {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                match rustix::fs::openat(directory, name, flags, Mode::empty()) {
                    Ok(child) => bytes += walk(child.as_fd(), seen)?,
                    Err(Errno::NOENT | Errno::ACCESS) => {}
                    Err(errno) => return Err(errno),
                }
            }
        }
        Ok(bytes)
    }
    walk(directory, &mut std::collections::HashSet::new())
        .map_err(|errno| SyscallError::new("getdents64", path.display().to_string(), errno).into())
}
