//! What the store holds and what that takes on disk.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;
use rustix::io::Errno;

use crate::digest::DiffId;
use crate::error::{Result, SyscallError};
use crate::image::OverlayXattrs;
use crate::stack::Lacking;

use super::entry::{Entry, is_index_name};
use super::realize::Backing;
use super::root::{Part, StoreRoot, names_in};
use super::shelf::{Shelf, ShelfKind};
use super::walk::{Seen, walk};

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
    /// What it is: a directory or a file.
    pub backing: Backing,
    /// The namespace of overlayfs's marks in it, and of those of the overlay that it is mounted with.
    pub xattrs: OverlayXattrs,
    /// Entries of the archive.
    pub entries: u64,
    /// Bytes of file content in the archive.
    pub content_bytes: u64,
    /// What whoever unpacked it could not have.
    pub lacking: Lacking,
}

/// What the store takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// Images that were pulled.
    pub images: usize,
    /// Layers.
    pub layers: usize,
    /// Bytes on disk of all layers, and of the indexes of images over them.
    pub layer_bytes: u64,
    /// Bytes on disk of what is being made, or was when its maker died.
    pub stage_bytes: u64,
}

pub(super) fn layers(root: &StoreRoot) -> Result<Vec<StoredLayer>> {
    let mut layers = Vec::new();
    for kind in ShelfKind::all(root)? {
        let Some(shelf) = Shelf::open(root, kind)? else { continue };
        for name in names_in(shelf.directory(), shelf.path())?.into_iter().filter(|name| !is_index_name(name)) {
            if let Some(entry) = shelf.entry_named(&name)? {
                layers.push(stored_layer(name, &entry));
            }
        }
    }
    layers.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(layers)
}

pub(super) fn stored_layer(name: String, entry: &Entry) -> StoredLayer {
    StoredLayer {
        name,
        diff_id: entry.record.diff_id.clone(),
        path: entry.path().clone(),
        backing: match entry.kind() {
            ShelfKind::Directories(_) => Backing::Directory,
            ShelfKind::Files => Backing::Erofs,
        },
        xattrs: entry.kind().xattrs(),
        entries: entry.record.unpacked.entries,
        content_bytes: entry.record.unpacked.bytes,
        lacking: entry.record.unpacked.skipped.into(),
    }
}

pub(super) fn usage(root: &StoreRoot) -> Result<Usage> {
    Ok(Usage {
        images: super::record::list(root)?.len(),
        layers: layers(root)?.len(),
        layer_bytes: part_bytes(root, Part::Layers)?,
        stage_bytes: part_bytes(root, Part::Stage)?,
    })
}

/// What a part of the store takes on disk.
pub(super) fn part_bytes(root: &StoreRoot, part: Part) -> Result<u64> {
    match root.part(part)? {
        Some(directory) => disk_bytes(directory.as_fd(), &root.path_of(part, "")),
        None => Ok(0),
    }
}

/// The blocks of everything below a directory, in bytes; a file with several links counts once.
///
/// What disappears meanwhile counts for nothing; what may not be read counts with what is known of it.
fn disk_bytes(directory: BorrowedFd<'_>, path: &Path) -> Result<u64> {
    let mut bytes = 0;
    let mut seen = std::collections::HashSet::new();
    walk(directory, &mut |found| {
        match found {
            Seen::Entry { stat, .. } => {
                let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
                if is_directory || stat.st_nlink == 1 || seen.insert((stat.st_dev, stat.st_ino)) {
                    bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
                }
            }
            Seen::Unreadable { errno: Errno::NOENT | Errno::ACCESS, .. } => {}
            Seen::Unreadable { path: below, errno } => {
                let path = path.join(OsStr::from_bytes(below));
                return Err(SyscallError::new("openat", path.display().to_string(), errno).into());
            }
        }
        Ok(())
    })?;
    Ok(bytes)
}
