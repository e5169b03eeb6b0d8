//! Layers that become EROFS files, and the index that makes one file system of them.
//!
//! A layer's file is the same in every image, and is kept by its diff ID. What the layers of an image come to together is in an
//! index of its own (`image-<chain ID>`), which is made once, when the last layer is there: out of the trees that are still in
//! memory, or are read again from the archives' headers.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::AtFlags;
use rustix::io::Errno;

use crate::caller::Caller;
use crate::digest::{DiffId, Digest};
use crate::erofs::{self, Facts, LayerFile, Tree};
use crate::error::{ErrorKind, Result, ResultExt, SyscallContext, SyscallError};
use crate::image::{Descriptor, Image, Layer, Outline, OverlayXattrs};
use crate::layer::LayerLimits;
use crate::stack::LayerStack;
use crate::unpack::{OpenEnds, Skipped, Unpacked, root_attributes};

use super::super::StoreError;
use super::super::durability::{self, Durability};
use super::super::entry::{DeviceRecord, Entry, FileRecord, Key, Record, create_content, write_record};
use super::super::held::Held;
use super::super::in_use::lock_content;
use super::super::kept::{self, FilesIdentity};
use super::super::lock::KeyLock;
use super::super::root::StoreRoot;
use super::super::shelf::{Shelf, ShelfKind};
use super::super::stage::Stage;
use super::super::verify::file_checksum;
use super::work::Work;
use super::{LayerEvent, RealizeOptions, STAGED};

/// Whether there is a file that seems to be the image. Cheap, and wrong if that is damaged.
pub(super) fn has(root: &StoreRoot, image: &Image) -> Result<bool> {
    let Some(shelf) = Shelf::open(root, ShelfKind::Files)? else { return Ok(false) };
    let is_there = |key: Key| rustix::fs::statat(shelf.directory(), key.file_name(), AtFlags::SYMLINK_NOFOLLOW).is_ok();
    let Outline { layers, top } = image.outline();
    Ok(top.as_ref().is_some_and(|(diff_id, chain_id)| {
        (*layers == 1 && is_there(Key::Diff(diff_id.clone()))) || is_there(Key::Image(chain_id.clone()))
    }))
}

/// Mounts the smallest of images out of the store.
///
/// # Errors
///
/// [`StoreError::ErofsUnavailable`], with what the kernel said.
pub(super) fn probe(root: &StoreRoot) -> Result<()> {
    Stage::with(root, |stage| probe_in(stage.directory(), root.path()))
}

/// [`probe`], in a directory on the file system of the store at `store`.
pub(in crate::store) fn probe_in(directory: BorrowedFd<'_>, store: &Path) -> Result<()> {
    let file = create_content(directory)?;
    erofs::write_smallest(&file)?;
    match erofs::mount(file.as_fd(), directory, &[]) {
        Ok(_) => Ok(()),
        Err(source) => Err(StoreError::ErofsUnavailable { store: store.to_owned(), source }.into()),
    }
}

/// The stack, of one layer, if the image is in the store as a file system.
pub(super) fn stored_stack(root: &StoreRoot, image: &Image, held: &Held<'_>) -> Result<Option<LayerStack>> {
    let Some(shelf) = Shelf::open(root, ShelfKind::Files)? else { return Ok(None) };
    let Some(Found { entry, devices, kept }) = find(root, &shelf, image, held)? else { return Ok(None) };
    if root.durability() == Durability::Power {
        let mut entries = vec![Arc::clone(&entry)];
        for layer in image.layers() {
            entries.extend(held.file(&shelf, layer)?);
        }
        durability::make_durable(root, &entries)?;
    }
    let mounted = match kept.map_or_else(|| mount(&shelf, &entry, &devices), Ok) {
        Ok(mounted) => mounted,
        // Removed since it was looked at.
        Err(_) if !all_there(&shelf, &devices)? => return Ok(None),
        // It may have been made where files can be mounted, and this is not there.
        Err(error) => match probe(root) {
            Err(unavailable) if unavailable.kind() == ErrorKind::Unsupported => return Err(unavailable),
            _ => return Err(error.context(entry.path().display().to_string())),
        },
    };
    let attributes = entry.record.unpacked.root.clone().unwrap_or_default();
    let stack = LayerStack::new(vec![entry.mounted(mounted)], OverlayXattrs::Trusted, attributes);
    Ok(Some(stack.with_skipped(entry.record.unpacked.skipped)))
}

fn mount(shelf: &Shelf, entry: &Entry, devices: &[DeviceRecord]) -> Result<OwnedFd> {
    let paths: Vec<_> = devices.iter().map(path_of).collect();
    erofs::mount(entry.content(), shelf.directory().as_fd(), &paths)
}

/// Has an image that is in the store as a file system stay mounted. Returns whether that is new.
pub(in crate::store) fn keep_mounted(root: &StoreRoot, image: &Image) -> Result<bool> {
    if !Caller::current().may_mount_erofs() {
        return Err(StoreError::ErofsUnprivileged.into());
    }
    let options = RealizeOptions::default();
    let held = Held::new(&options);
    let Some(shelf) = Shelf::open(root, ShelfKind::Files)? else { return Err(StoreError::NoFiles.into()) };
    let Some(Found { entry, devices, kept }) = find(root, &shelf, image, &held)? else {
        return Err(StoreError::NoFiles.into());
    };
    match kept {
        Some(_) => Ok(false),
        None => {
            let before = identity_of(&shelf, &entry)?;
            let mount = mount(&shelf, &entry, &devices)?;
            // Files are mounted by their names, which may have become others' meanwhile.
            let identity = identity_of(&shelf, &entry)?.filter(|identity| before == Some(*identity));
            let identity = identity.ok_or(StoreError::Unsettled)?;
            kept::keep(root, &entry, identity, mount.as_fd())
        }
    }
}

/// The names that the image's entry can have, if it is a file.
pub(in crate::store) fn entry_names(image: &Image) -> Vec<String> {
    let Outline { layers, top: Some((diff_id, chain_id)) } = image.outline() else { return Vec::new() };
    let alone = (*layers == 1).then(|| Key::Diff(diff_id.clone()));
    alone.into_iter().chain([Key::Image(chain_id.clone())]).map(|key| key.file_name()).collect()
}

/// The entry that is an image.
struct Found {
    entry: Arc<Entry>,
    /// The layers that it needs.
    devices: Vec<DeviceRecord>,
    /// A mount of it, if it is [kept mounted](kept).
    kept: Option<OwnedFd>,
}

/// The entry that is the image, if it and the layers that it needs are there.
fn find(root: &StoreRoot, shelf: &Shelf, image: &Image, held: &Held<'_>) -> Result<Option<Found>> {
    let Outline { layers, top: Some((diff_id, chain_id)) } = image.outline() else { return Ok(None) };
    // Who is told of it knows layers by their diff IDs.
    let top = Layer { diff_id: diff_id.clone(), chain_id: chain_id.clone(), descriptor: None, created_by: None };
    if *layers == 1
        && let Some(entry) = held.file(shelf, &top)?
        && is_mountable(&entry)
    {
        let kept = kept_mount(root, shelf, &entry)?;
        return Ok(Some(Found { entry, devices: Vec::new(), kept }));
    }
    let Some(entry) = held.index(shelf, &top)? else { return Ok(None) };
    let devices = devices(&entry).to_vec();
    // The kernel has the files open, which were looked at when it was mounted: in this boot.
    if let Some(kept) = kept_mount(root, shelf, &entry)? {
        return Ok(Some(Found { entry, devices, kept: Some(kept) }));
    }
    // Layers were whole when the index was made, and what this kernel has written it finds. Otherwise each is looked at that may
    // not have reached the disk: it may have been made anew since the index did.
    if !durability::is_of_this_boot(&entry) {
        for device in &devices {
            if durability::is_on_disk_at(shelf, &Key::Diff(device.diff_id.clone()))? {
                continue;
            }
            let layers = image.layers();
            let Some(layer) = layers.iter().find(|layer| layer.diff_id == device.diff_id) else { return Ok(None) };
            if held.file(shelf, layer)?.is_none() {
                return Ok(None);
            }
        }
    }
    Ok(if all_there(shelf, &devices)? { Some(Found { entry, devices, kept: None }) } else { None })
}

/// A mount of the very files that are there now.
fn kept_mount(root: &StoreRoot, shelf: &Shelf, entry: &Entry) -> Result<Option<OwnedFd>> {
    kept::mount_of(root, entry, || identity_of(shelf, entry))
}

fn is_mountable(entry: &Entry) -> bool {
    entry.record.file.as_ref().is_some_and(|file| file.mountable)
}

fn devices(entry: &Entry) -> &[DeviceRecord] {
    entry.record.file.as_ref().map_or(&[], |file| &file.devices)
}

/// Where a layer's file lies on its shelf.
fn path_of(device: &DeviceRecord) -> String {
    format!("{}/{}", Key::Diff(device.diff_id.clone()).file_name(), ShelfKind::Files.content())
}

/// Whether the files are there and as long as they should be: what is missing of one is an error only when it is read.
fn all_there(shelf: &Shelf, devices: &[DeviceRecord]) -> Result<bool, SyscallError> {
    Ok(inodes(shelf, devices)?.is_some())
}

/// What tells the files of an entry from all others that could have their names, if [all are there](all_there).
pub(in crate::store) fn identity_of(shelf: &Shelf, entry: &Entry) -> Result<Option<FilesIdentity>> {
    let Some(inodes) = inodes(shelf, devices(entry))? else { return Ok(None) };
    Ok(Some(FilesIdentity::of(std::iter::once(entry.inode()?).chain(inodes))))
}

fn inodes(shelf: &Shelf, devices: &[DeviceRecord]) -> Result<Option<Vec<u64>>, SyscallError> {
    let mut inodes = Vec::with_capacity(devices.len());
    for device in devices {
        let path = path_of(device);
        match rustix::fs::statat(shelf.directory(), path.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if u64::try_from(stat.st_size) == Ok(device.length) => inodes.push(stat.st_ino),
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(errno) => {
                return Err(SyscallError::new("newfstatat", shelf.path().join(path).display().to_string(), errno));
            }
        }
    }
    Ok(Some(inodes))
}

impl Work<'_> {
    pub(super) fn publish_file(
        &self,
        shelf: &Shelf,
        stage: &Stage,
        blob: (impl Read, Option<&Descriptor>),
        wanted: impl Fn(&DiffId) -> bool,
        limits: &LayerLimits,
    ) -> Result<DiffId> {
        let staged = Staged::new(stage)?;
        let (packed, diff_id) = self.decode(blob, |tar| erofs::pack(tar, &staged.file, limits))?;
        if !wanted(&diff_id) {
            return Ok(diff_id);
        }
        packed.seal(&staged.file, uuid(&diff_id.0))?;
        let mountable = packed.stands_alone();
        let Facts { root, opaque_root, entries, bytes, skipped_xattrs } = packed.facts;
        let unpacked = Unpacked {
            root: root.map(|attributes| root_attributes(attributes, OverlayXattrs::Trusted)),
            opaque_root,
            open: OpenEnds::default(),
            entries,
            bytes,
            skipped: Skipped { xattrs: skipped_xattrs, ..Skipped::default() },
        };
        let made = Made {
            key: Key::Diff(diff_id.clone()),
            diff_id: diff_id.clone(),
            unpacked,
            tar_size: packed.tar_size,
            mountable,
            devices: Vec::new(),
        };
        self.publish_staged(shelf, stage, &staged, made)?;
        self.keep_tree(&diff_id, packed.tree)?;
        Ok(diff_id)
    }

    /// Makes the index of the image, unless a single layer is the image.
    pub(super) fn merge(&self, shelf: &Shelf) -> Result<()> {
        let layers = self.image.layers();
        let Some(top) = layers.last() else { return Ok(()) };
        let mut entries: Vec<Arc<Entry>> = Vec::with_capacity(layers.len());
        for layer in layers {
            match self.held.file(shelf, layer)? {
                Some(entry) => entries.push(entry),
                // Gone again: the next attempt makes it anew.
                None => return Ok(()),
            }
        }
        if let [entry] = entries.as_slice()
            && is_mountable(entry)
        {
            return Ok(());
        }
        let waiting = &mut || self.options.tell(top, LayerEvent::Waiting);
        let _lock = KeyLock::acquire(self.root, &format!("index-{}", top.chain_id.0.hex()), waiting)?;
        if let Some(index) = self.held.index(shelf, top)? {
            if all_there(shelf, devices(&index))? {
                return Ok(());
            }
            // The layers are sound, but not the files that it was made over: another release may write other files. Unless it
            // is marked, it stays where it is.
            index.mark_damaged()?;
        }
        let trees = self.trees_of(&entries)?;
        let merged = erofs::merge(&trees.iter().map(AsRef::as_ref).collect::<Vec<_>>())
            .context(|| format!("image of layer {}", top.diff_id))?;
        let files: Vec<_> =
            entries.iter().map(|entry| LayerFile { file: entry.content(), length: length(entry) }).collect();
        Stage::with(self.root, |stage| {
            let staged = Staged::new(stage)?;
            let needed = erofs::write_image(merged, &files, erofs::LITTLE, uuid(&top.chain_id.0), &staged.file)?;
            let device = |&layer: &usize| {
                let entry = entries.get(layer)?;
                Some(DeviceRecord { diff_id: entry.record.diff_id.clone(), length: length(entry) })
            };
            let devices = needed.iter().filter_map(device).collect();
            let made = Made {
                key: Key::Image(top.chain_id.clone()),
                diff_id: top.diff_id.clone(),
                unpacked: summary(&entries),
                tar_size: 0,
                mountable: true,
                devices,
            };
            self.publish_staged(shelf, stage, &staged, made)
        })
    }

    /// The trees of the layers: those that were packed just now, or out of their files. A layer that stands twice has one.
    fn trees_of(&self, entries: &[Arc<Entry>]) -> Result<Vec<Arc<Tree>>> {
        let tree = |entry: &Arc<Entry>| {
            let diff_id = &entry.record.diff_id;
            if let Some(tree) = self.tree(diff_id) {
                return Ok(tree);
            }
            let file = entry.content().try_clone_to_owned().syscall("fcntl", || "F_DUPFD_CLOEXEC".into())?;
            let tree =
                erofs::tree_of(&File::from(file), tar_size(entry)).context(|| entry.path().display().to_string())?;
            Ok(self.keep_tree(diff_id, tree)?)
        };
        entries.iter().map(tree).collect()
    }

    fn publish_staged(&self, shelf: &Shelf, stage: &Stage, staged: &Staged, made: Made) -> Result<()> {
        let path = stage.path().join(STAGED);
        // Before anybody sees it, so that nobody removes it before it is held.
        lock_content(&staged.file, &path)?;
        let shown = || path.join(shelf.kind().content()).display().to_string();
        let Made { key, diff_id, unpacked, tar_size, mountable, devices } = made;
        let length = staged.file.metadata().syscall("fstat", shown)?.len();
        let checksum = file_checksum(staged.file.as_fd(), length, tar_size).syscall("pread64", shown)?;
        let file = FileRecord { length, tar_size, checksum, mountable, devices };
        write_record(staged.directory(), &Record::of_file(diff_id, unpacked, file))?;
        shelf.publish(stage, STAGED, &key)?;
        self.held.keep(shelf, &key)
    }
}

/// The directory of an entry in the making, with its file.
struct Staged {
    directory: OwnedFd,
    file: File,
}

impl Staged {
    fn new(stage: &Stage) -> Result<Self> {
        let directory = stage.make_directory(STAGED)?;
        let file = create_content(directory.as_fd())?;
        Ok(Self { directory, file })
    }

    fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

/// What only the maker of a file knows of it.
struct Made {
    key: Key,
    /// Of the layer, or of the topmost one.
    diff_id: DiffId,
    unpacked: Unpacked,
    tar_size: u64,
    mountable: bool,
    devices: Vec<DeviceRecord>,
}

fn length(entry: &Entry) -> u64 {
    entry.record.file.as_ref().map_or(0, |file| file.length)
}

fn tar_size(entry: &Entry) -> u64 {
    entry.record.file.as_ref().map_or(0, |file| file.tar_size)
}

/// What the layers were, together. The root's attributes are those of the topmost layer that speaks of it.
fn summary(entries: &[Arc<Entry>]) -> Unpacked {
    let unpacked = || entries.iter().map(|entry| &entry.record.unpacked);
    Unpacked {
        root: unpacked().rev().find_map(|unpacked| unpacked.root.clone()),
        opaque_root: true,
        open: OpenEnds::default(),
        entries: unpacked().map(|unpacked| unpacked.entries).sum(),
        bytes: unpacked().map(|unpacked| unpacked.bytes).sum(),
        skipped: unpacked().map(|unpacked| unpacked.skipped).sum(),
    }
}

/// Tells file systems from each other, as far as anybody asks: from what is in them.
fn uuid(digest: &Digest) -> [u8; 16] {
    let mut uuid = [0; 16];
    let hex = digest.hex().get(..2 * uuid.len()).unwrap_or_default();
    // Digests are hexadecimal, and longer.
    let _ = hex::decode_to_slice(hex, &mut uuid);
    uuid
}
