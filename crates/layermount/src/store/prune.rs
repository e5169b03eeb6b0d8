//! Removing what nobody needs.
//!
//! Two things keep a layer: an image that was pulled and names it, and a process that uses it. Users hold a shared lock on
//! the layer's directory. A lock ends with its holder, though, and a process that moved *itself* into an image and then
//! executed the image's program holds none any more, nor does a tree that was attached to a path: so the mount tables of all
//! processes are asked too.
//!
//! A layer is first renamed into a stage, so that nobody sees it half removed.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, Result, SyscallContext, SyscallError};
use crate::mountinfo;

use super::entry::{Key, Shelf, TREE, shelf_name};
use super::lock::try_lock;
use super::record;
use super::root::{Part, StoreRoot, names_in, open_own};
use super::stage::{Stage, is_linked, sweep};
use super::usage::{ALL_SHELVES, part_bytes};

/// What [`Store::prune`](crate::Store::prune) removes.
#[derive(Debug, Clone, Default)]
pub struct PruneOptions {
    all_images: bool,
}

impl PruneOptions {
    /// Forgets all images first, so that every layer goes that no process uses.
    #[must_use]
    pub fn all_images(mut self, all: bool) -> Self {
        self.all_images = all;
        self
    }
}

/// What was removed, and what was not.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Pruned {
    /// Images that were forgotten.
    pub images: usize,
    /// Layers that were removed, by name.
    pub layers: Vec<String>,
    /// Layers that no image needs, but a process does, by name.
    pub in_use: Vec<String>,
    /// Leftovers of processes that died in the middle of something.
    pub leftovers: usize,
    /// Bytes on disk that became free.
    pub bytes: u64,
}

pub(super) fn prune(root: &StoreRoot, options: &PruneOptions) -> Result<Pruned> {
    let mut pruned = Pruned::default();
    if !root.exists() {
        return Ok(pruned);
    }
    // Nothing that is going to be removed is read: it may be what is broken.
    let bytes = || Ok::<_, Error>(part_bytes(root, Part::Layers)? + part_bytes(root, Part::Stage)?);
    let before = bytes()?;
    if options.all_images {
        pruned.images = record::remove_all(root)?;
    }
    pruned.leftovers = sweep(root)? + record::remove_damaged(root)?;
    for xattrs in ALL_SHELVES {
        if let Some(shelf) = Shelf::open(root, shelf_name(xattrs))? {
            prune_shelf(root, &shelf, &mut pruned)?;
        }
    }
    prune_locks(root)?;
    pruned.bytes = before.saturating_sub(bytes()?);
    Ok(pruned)
}

/// The names of all layers that pulled images are made of.
fn needed_names(root: &StoreRoot) -> Result<HashSet<String>> {
    let mut names = HashSet::new();
    for stored in record::list(root)? {
        for layer in stored.image().layers() {
            let (diff_id, chain_id) = (layer.diff_id.clone(), layer.chain_id.clone());
            names.extend(
                [Key::Diff(diff_id.clone()), Key::Chain(chain_id), Key::Open(diff_id)].map(|key| key.file_name()),
            );
        }
    }
    Ok(names)
}

fn prune_shelf(root: &StoreRoot, shelf: &Shelf, pruned: &mut Pruned) -> Result<()> {
    let mut candidates: Vec<(String, OwnedFd)> = Vec::new();
    let mut damaged: HashSet<String> = HashSet::new();
    let needed = needed_names(root)?;
    for name in names_in(shelf.directory(), shelf.path())? {
        if shelf.damage(&name)?.is_some() {
            damaged.insert(name.clone());
        } else if needed.contains(&name) {
            continue;
        }
        let path = shelf.path().join(&name);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = match rustix::fs::openat(shelf.directory(), name.as_str(), flags, Mode::empty()) {
            Ok(directory) => directory,
            // Pruned by somebody else, or taken to be completed.
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(SyscallError::new("openat", path.display().to_string(), errno).into()),
        };
        if try_lock(&directory, &path, FlockOperation::NonBlockingLockExclusive)? {
            candidates.push((name, directory));
        } else {
            pruned.in_use.push(name);
        }
    }
    // Asked only now, under the locks: an image may have been recorded, or a layer mounted, just before its user let go.
    let needed = needed_names(root)?;
    let mounted = mountinfo::overlay_directories_in_use();
    for (name, directory) in candidates {
        if needed.contains(&name) && !damaged.contains(&name) {
            continue;
        }
        if is_mounted(&mounted, shelf, &name, &directory)? {
            pruned.in_use.push(name);
            continue;
        }
        // Whoever waits for the lock finds, once it has it, that the directory is not there any more.
        if Stage::with(root, |stage| stage.take(shelf.directory().as_fd(), &name, &name))? {
            pruned.layers.push(name);
        }
    }
    Ok(())
}

/// Whether a layer is a part of one of the overlays that are made of the directories `mounted`.
///
/// The store may have other paths there: in another mount namespace, through a bind mount, before it was renamed. So only the
/// end of the path is compared, and what the path leads to here, if to anything: that may be another store's equal layer.
fn is_mounted(mounted: &HashSet<PathBuf>, shelf: &Shelf, name: &str, directory: &OwnedFd) -> Result<bool> {
    let tree = Path::new(shelf.path().file_name().unwrap_or_default()).join(name).join(TREE);
    let mut alike = mounted.iter().filter(|path| path.ends_with(&tree)).peekable();
    if alike.peek().is_none() {
        return Ok(false);
    }
    let ours = rustix::fs::statat(directory, TREE, AtFlags::SYMLINK_NOFOLLOW)
        .syscall("newfstatat", || shelf.path().join(name).join(TREE).display().to_string())?;
    Ok(alike.any(|path| match rustix::fs::stat(path) {
        Ok(there) => (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino),
        Err(_) => true,
    }))
}

/// Lock files outlive what they guarded; one that nobody holds can go.
fn prune_locks(root: &StoreRoot) -> Result<()> {
    let Some(locks) = root.part(Part::Locks)? else { return Ok(()) };
    for name in names_in(&locks, &root.path_of(Part::Locks, ""))? {
        let path = root.path_of(Part::Locks, &name);
        let Ok(file) = open_own(locks.as_fd(), &name, OFlags::RDWR) else { continue };
        // Removed before the lock was had: the name may be another file's by now, which somebody holds.
        if try_lock(&file, &path, FlockOperation::NonBlockingLockExclusive)? && is_linked(&file, &path)? {
            rustix::fs::unlinkat(&locks, name.as_str(), AtFlags::empty())
                .syscall("unlinkat", || path.display().to_string())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mounted_layer_is_known_by_any_path_of_its_store() {
        let place = tempfile::tempdir().unwrap();
        let open = |store: &str| {
            let root = StoreRoot::open(place.path().join(store)).unwrap();
            let shelf = Shelf::open_or_create(&root, "dir-user").unwrap();
            let layer = super::super::root::open_or_create(shelf.directory().as_fd(), "diff-1").unwrap();
            super::super::root::open_or_create(layer.as_fd(), TREE).unwrap();
            (shelf, layer)
        };
        let ((shelf, layer), _other) = (open("store"), open("other"));
        std::os::unix::fs::symlink("store", place.path().join("link")).unwrap();
        let is_mounted =
            |path: &str| is_mounted(&HashSet::from([place.path().join(path)]), &shelf, "diff-1", &layer).unwrap();
        assert!(is_mounted("store/layers/dir-user/diff-1/fs"));
        assert!(is_mounted("link/layers/dir-user/diff-1/fs"));
        assert!(is_mounted("elsewhere/layers/dir-user/diff-1/fs"), "it may be ours under another name");
        assert!(!is_mounted("other/layers/dir-user/diff-1/fs"));
        assert!(!is_mounted("store/layers/dir-user/diff-2/fs"));
        assert!(!is_mounted("store/layers/dir-trusted/diff-1/fs"));
    }
}
