//! Removing what nobody needs.
//!
//! Three things keep a layer: an image that was pulled and names it, unless the layer is damaged; a process that
//! [uses](super::in_use) it; and a process that uses an index which points into it. Indexes go first.
//!
//! A layer is first renamed into a stage, so that nobody sees it half removed.

use std::collections::HashSet;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, FlockOperation, OFlags};

use crate::error::{Error, Result, SyscallContext};
use crate::mountinfo;

use super::entry::{Key, is_index_name};
use super::in_use::{Claim, Claimed, claim, is_mounted};
use super::kept::{self, Unseen};
use super::lock::try_lock;
use super::realize::identity_of;
use super::record;
use super::root::{Part, StoreRoot, names_in, open_own};
use super::shelf::{Shelf, ShelfKind};
use super::stage::{Stage, is_for_others, is_linked, sweep};
use super::usage::part_bytes;

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

/// How many layers are looked at, and locked, at once: a store has more of them than a process may have files open.
const AT_ONCE: usize = 64;

/// Why a layer may be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// No image names it.
    None,
    /// It is of no use to whatever image names it.
    Damaged,
}

/// What was removed, and what was not.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Pruned {
    /// Images that were forgotten.
    pub images: usize,
    /// Layers that were removed, by name.
    pub layers: Vec<String>,
    /// Indexes of images over EROFS layers that were removed, by name.
    pub indexes: Vec<String>,
    /// Layers, and indexes, that would have been removed, if no process used them, by name.
    pub in_use: Vec<String>,
    /// Leftovers of processes that died in the middle of something, with those that are [to be swept](Self::to_be_swept).
    pub leftovers: usize,
    /// Not everything that was removed is gone: some of it belongs to users of a user namespace, and only a process in that
    /// ([`UserNamespace::enter`](crate::UserNamespace::enter)) can delete it, by [`Store::sweep`](crate::Store::sweep).
    pub to_be_swept: bool,
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
    let swept = sweep(root)?;
    pruned.leftovers = swept.removed + swept.left + record::remove_damaged(root)?;
    pruned.to_be_swept = swept.left > 0;
    for kind in ShelfKind::all(root)? {
        if let Some(shelf) = Shelf::open(root, kind)? {
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
        names.extend(stored.image().layers().last().map(|top| Key::Image(top.chain_id.clone()).file_name()));
    }
    Ok(names)
}

fn prune_shelf(root: &StoreRoot, shelf: &Shelf, pruned: &mut Pruned) -> Result<()> {
    let needed = needed_names(root)?;
    let mut unneeded: Vec<(String, Need)> = Vec::new();
    for name in names_in(shelf.directory(), shelf.path())? {
        if shelf.damage(&name)?.is_some() {
            unneeded.push((name, Need::Damaged));
        } else if !needed.contains(&name) {
            unneeded.push((name, Need::None));
        }
    }
    release_mounts(root, shelf, &unneeded);
    // An index without its layers would be damage. Whoever is killed here leaves none, and a layer waits for its index to go.
    let (indexes, mut layers): (Vec<_>, Vec<_>) = unneeded.into_iter().partition(|(name, _)| is_index_name(name));
    indexes.chunks(AT_ONCE).try_for_each(|names| prune_some(root, shelf, names, pruned))?;
    let indexed = names_in_used_indexes(shelf, pruned)?;
    pruned.in_use.extend(layers.extract_if(.., |(name, _)| indexed.contains(name)).map(|(name, _)| name));
    layers.chunks(AT_ONCE).try_for_each(|names| prune_some(root, shelf, names, pruned))
}

/// A mount goes with what it is of: entries that are going to be removed, and files that are not there any more.
fn release_mounts(root: &StoreRoot, shelf: &Shelf, unneeded: &[(String, Need)]) {
    if shelf.kind() != ShelfKind::Files {
        return;
    }
    let is_unneeded = |name: &str| unneeded.iter().any(|(unneeded, _)| unneeded == name);
    let is_there = |name: &str, identity| {
        let entry = shelf.entry_named(name).ok().flatten();
        entry.is_some_and(|entry| identity_of(shelf, &entry).is_ok_and(|ours| ours == Some(identity)))
    };
    // What cannot be taken away here keeps its file in use, and [`Pruned::in_use`] tells of that.
    let _ = kept::release(root, Unseen::Goes, |name, identity| is_unneeded(name) || !is_there(name, identity));
}

/// The names of the layers that indexes need which stay because somebody uses them.
fn names_in_used_indexes(shelf: &Shelf, pruned: &Pruned) -> Result<HashSet<String>> {
    let mut names = HashSet::new();
    for index in pruned.in_use.iter().filter(|name| is_index_name(name)) {
        if let Some(entry) = shelf.entry_named(index)? {
            let devices = entry.record.file.iter().flat_map(|file| &file.devices);
            names.extend(devices.map(|device| Key::Diff(device.diff_id.clone()).file_name()));
        }
    }
    Ok(names)
}

/// Removes those of the layers that nobody uses.
fn prune_some(root: &StoreRoot, shelf: &Shelf, names: &[(String, Need)], pruned: &mut Pruned) -> Result<()> {
    let mut candidates: Vec<(&String, Need, Claimed)> = Vec::new();
    for (name, need) in names {
        match claim(shelf, name)? {
            Claim::Free(claimed) => candidates.push((name, *need, claimed)),
            Claim::Used => pruned.in_use.push(name.clone()),
            // Pruned by somebody else, or taken to be completed.
            Claim::Gone => {}
        }
    }
    if candidates.is_empty() {
        return Ok(());
    }
    // Asked only now, under the locks: an image may have been recorded, or a layer mounted, just before its user let go.
    let needed = needed_names(root)?;
    let mounted = mountinfo::overlay_directories_in_use();
    // All are moved away before the first is deleted, which may take long: nobody who needs one of the others waits for that.
    let stage = Stage::new(root)?;
    let take_all = || {
        for (name, need, claimed) in candidates {
            if need == Need::None && needed.contains(name) {
                continue;
            }
            if is_mounted(&mounted, shelf, name, &claimed)? {
                pruned.in_use.push(name.clone());
                continue;
            }
            // Whoever waits for the lock finds, once it has it, that the directory is not there any more.
            if stage.take(shelf.directory().as_fd(), name, name)? {
                let removed = if is_index_name(name) { &mut pruned.indexes } else { &mut pruned.layers };
                removed.push(name.clone());
            }
        }
        Ok(())
    };
    let taken: Result<()> = take_all();
    let removed = stage.remove();
    taken?;
    match removed {
        Err(error) if is_for_others(&error) => pruned.to_be_swept = true,
        removed => removed?,
    }
    Ok(())
}

/// Removes what processes have left behind that died in the middle of something.
pub(super) fn sweep_only(root: &StoreRoot) -> Result<Pruned> {
    let mut pruned = Pruned::default();
    if root.exists() {
        let before = part_bytes(root, Part::Stage)?;
        let swept = sweep(root)?;
        pruned.leftovers = swept.removed;
        pruned.to_be_swept = swept.left > 0;
        pruned.bytes = before.saturating_sub(part_bytes(root, Part::Stage)?);
    }
    Ok(pruned)
}

/// Lock files outlive what they guarded; one that nobody holds can go.
fn prune_locks(root: &StoreRoot) -> Result<()> {
    let Some(locks) = root.part(Part::Locks)? else { return Ok(()) };
    for name in names_in(&locks, &root.path_of(Part::Locks, ""))? {
        let path = root.path_of(Part::Locks, &name);
        let Ok(file) = open_own(locks.as_fd(), &name, OFlags::RDWR | OFlags::NONBLOCK) else { continue };
        // Removed before the lock was had: the name may be another file's by now, which somebody holds.
        if try_lock(&file, &path, FlockOperation::NonBlockingLockExclusive)? && is_linked(&file, &path)? {
            rustix::fs::unlinkat(&locks, name.as_str(), AtFlags::empty())
                .syscall("unlinkat", || path.display().to_string())?;
        }
    }
    Ok(())
}
