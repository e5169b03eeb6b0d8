//! Making what an image lacks.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::at_once::at_once;
use crate::caller::Caller;
use crate::decode::{DecodeLimits, Decoded, decode};
use crate::digest::DiffId;
use crate::erofs::Tree;
use crate::error::{Error, Result, ResultExt};
use crate::image::{Blobs, Content, Descriptor, Image, Layer};
use crate::layer::LayerLimits;
use crate::limits::{Limit, Limits};
use crate::unpack::UnpackOptions;

use super::super::StoreError;
use super::super::archive;
use super::super::held::Held;
use super::super::lock::KeyLock;
use super::super::root::StoreRoot;
use super::super::shelf::{Directories, Shelf, ShelfKind};
use super::super::stage::Stage;
use super::streams::{Metered, Watched};
use super::{LayerEvent, RealizeOptions};

/// What this process makes of layers.
#[derive(Debug)]
pub(super) struct Form {
    pub(super) shelf: ShelfKind,
    pub(super) make: Make,
    decode: DecodeLimits,
}

/// What a layer becomes.
#[derive(Debug)]
pub(super) enum Make {
    Directory(UnpackOptions),
    File(LayerLimits),
}

impl Form {
    pub(super) fn directories(caller: &Caller, limits: &Limits) -> Self {
        let directories = Directories::of(caller);
        let (xattrs, ownership) = (caller.overlay_xattrs(), directories.ownership());
        Self {
            shelf: ShelfKind::Directories(directories),
            make: Make::Directory(UnpackOptions { xattrs, ownership, limits: limits.layer() }),
            decode: limits.decode(),
        }
    }

    pub(super) fn files(limits: &Limits) -> Self {
        Self { shelf: ShelfKind::Files, make: Make::File(limits.layer()), decode: limits.decode() }
    }

    pub(super) fn is_files(&self) -> bool {
        matches!(self.make, Make::File(_))
    }

    /// Whether `bytes` are more than a blob of this size may stand for; if so, the limit.
    pub(super) fn is_bomb(&self, bytes: u64, blob: u64) -> Option<u64> {
        self.decode.is_bomb(bytes, blob).then_some(self.decode.ratio)
    }
}

/// Making what is missing of one image.
pub(in crate::store) struct Work<'a> {
    pub(in crate::store) root: &'a StoreRoot,
    pub(in crate::store) image: &'a Image,
    pub(in crate::store) options: &'a RealizeOptions<'a>,
    pub(super) form: &'a Form,
    pub(super) held: &'a Held<'a>,
    /// Bytes of archives so far.
    unpacked: AtomicU64,
    pub(super) cancelled: AtomicBool,
    /// Of the layers that were packed into files just now.
    trees: Mutex<HashMap<DiffId, Arc<Tree>>>,
    /// Bytes of all trees so far.
    tree_bytes: AtomicU64,
}

impl<'a> Work<'a> {
    pub(super) fn new(
        root: &'a StoreRoot,
        image: &'a Image,
        options: &'a RealizeOptions<'a>,
        form: &'a Form,
        held: &'a Held<'a>,
    ) -> Self {
        let (unpacked, tree_bytes, cancelled) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
        Self { root, image, options, form, held, unpacked, cancelled, trees: Mutex::default(), tree_bytes }
    }

    pub(super) fn make_missing(&self) -> Result<()> {
        let shelf = Shelf::open_or_create(self.root, self.form.shelf)?;
        let missing = self.missing(&shelf)?;
        match self.image.content() {
            Content::Blobs(blobs) => self.make_from_blobs(&shelf, blobs.as_ref(), missing)?,
            Content::Archive(archive) => archive::make(self, &shelf, archive.as_ref())?,
            Content::Stored | Content::Located(_) => {
                if let Some(layer) = missing.first() {
                    let (diff_id, store) = (layer.diff_id.to_string(), self.root.path().to_owned());
                    return Err(StoreError::LayerGone { diff_id, store }.into());
                }
            }
        }
        match &self.form.make {
            Make::Directory(options) => self.complete_open(&shelf, options),
            Make::File(_) => self.merge(&shelf),
        }
    }

    /// Layers of which there is no entry that the image can be made of; each once.
    pub(in crate::store) fn missing(&self, shelf: &Shelf) -> Result<Vec<&'a Layer>> {
        let mut seen = HashSet::new();
        let mut missing = Vec::new();
        for layer in self.image.layers() {
            if !self.has(shelf, layer)? && seen.insert(&layer.diff_id) {
                missing.push(layer);
            }
        }
        Ok(missing)
    }

    fn has(&self, shelf: &Shelf, layer: &Layer) -> Result<bool> {
        match self.form.make {
            Make::Directory(_) => {
                Ok(self.held.mountable(shelf, layer)?.is_some() || self.held.open(shelf, layer)?.is_some())
            }
            Make::File(_) => Ok(self.held.file(shelf, layer)?.is_some()),
        }
    }

    /// Layers are independent of each other, so they are made at once, as many as there are processors.
    fn make_from_blobs(&self, shelf: &Shelf, blobs: &dyn Blobs, mut missing: Vec<&Layer>) -> Result<()> {
        // The largest first: at the end it would keep one processor busy while the others have nothing left to do.
        missing.sort_by_key(|layer| std::cmp::Reverse(layer.descriptor.as_ref().map_or(0, Descriptor::size)));
        let most = missing.len();
        let queue = Mutex::new(missing.into_iter());
        let next = || queue.lock().ok()?.next();
        let failure: Mutex<Option<Error>> = Mutex::new(None);
        let worker = || {
            while let Some(layer) = next() {
                if self.cancelled.load(Ordering::Relaxed) {
                    return;
                }
                if let Err(error) = self.make_from_blob(shelf, blobs, layer) {
                    // Only the first failure counts: the others may be its consequence.
                    if !self.cancelled.swap(true, Ordering::Relaxed)
                        && let Ok(mut first) = failure.lock()
                    {
                        *first = Some(error);
                    }
                }
            }
        };
        // The caller's own code, which opens and reads blobs, may panic in any of them.
        at_once(most, worker);
        match failure.into_inner() {
            Ok(Some(error)) => Err(error),
            _ => Ok(()),
        }
    }

    /// The right to work on a layer.
    pub(super) fn lock(&self, layer: &Layer) -> Result<KeyLock> {
        let waiting = &mut || self.options.tell(layer, LayerEvent::Waiting);
        KeyLock::acquire(self.root, layer.diff_id.0.hex(), waiting)
    }

    fn make_from_blob(&self, shelf: &Shelf, blobs: &dyn Blobs, layer: &Layer) -> Result<()> {
        let _lock = self.lock(layer)?;
        if !self.has(shelf, layer)? {
            self.unpack_blob(shelf, blobs, layer)?;
        }
        self.options.tell(layer, LayerEvent::Ready);
        Ok(())
    }

    /// Makes a layer, which must be locked, from its blob.
    pub(super) fn unpack_blob(&self, shelf: &Shelf, blobs: &dyn Blobs, layer: &Layer) -> Result<()> {
        let descriptor =
            layer.descriptor.as_ref().ok_or_else(|| StoreError::NoBlob { diff_id: layer.diff_id.to_string() })?;
        let made = Stage::with(self.root, |stage| {
            let (inner, size) = (blobs.open(descriptor)?, Some(descriptor.size()));
            let blob = Watched::new(inner, self, layer, size);
            self.unpack_and_publish(shelf, stage, (blob, Some(descriptor)), |found| found == &layer.diff_id)
        });
        let found = made.context(|| format!("layer {} of {}", layer.diff_id, blobs.describe()))?;
        if found != layer.diff_id {
            let (diff_id, found) = (layer.diff_id.to_string(), found.to_string());
            return Err(StoreError::WrongDiffId { diff_id, found }.into());
        }
        Ok(())
    }

    /// Unpacks a layer and publishes it if its diff ID is `wanted`. Returns the diff ID.
    pub(in crate::store) fn unpack_and_publish(
        &self,
        shelf: &Shelf,
        stage: &Stage,
        blob: (impl Read, Option<&Descriptor>),
        wanted: impl Fn(&DiffId) -> bool,
    ) -> Result<DiffId> {
        match &self.form.make {
            Make::Directory(options) => self.publish_directory(shelf, stage, blob, wanted, options),
            Make::File(limits) => self.publish_file(shelf, stage, blob, wanted, limits),
        }
    }

    /// Has `consume` read the archive in a blob, which counts towards what is unpacked for the image.
    pub(super) fn decode<T: Send>(
        &self,
        (blob, descriptor): (impl Read, Option<&Descriptor>),
        mut consume: impl FnMut(&mut dyn BufRead) -> Result<T> + Send,
    ) -> Result<(T, DiffId)> {
        let mut metered = 0;
        let mut consume = |tar: &mut dyn BufRead| consume(&mut Metered::new(tar, self, &mut metered));
        let (made, Decoded { diff_id, tar_size, .. }) = decode(blob, descriptor, &self.form.decode, &mut consume)?;
        self.meter(tar_size.saturating_sub(metered))?;
        Ok((made, diff_id))
    }

    /// Counts bytes of archives.
    pub(super) fn meter(&self, bytes: u64) -> Result<(), StoreError> {
        let limit = self.options.limits.get(Limit::ImageBytes);
        let before = self.unpacked.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > limit { Err(StoreError::ImageTooLarge { limit }) } else { Ok(()) }
    }

    /// Keeps a tree until all layers are there. Each is limited by what its layer may ask for; an image has any number.
    pub(super) fn keep_tree(&self, diff_id: &DiffId, tree: Tree) -> Result<Arc<Tree>, StoreError> {
        let (tree, limit) = (Arc::new(tree), self.options.limits.get(Limit::IndexBytes));
        let before = self.tree_bytes.fetch_add(tree.memory(), Ordering::Relaxed);
        if before.saturating_add(tree.memory()) > limit {
            return Err(StoreError::IndexTooLarge { limit });
        }
        self.trees().insert(diff_id.clone(), Arc::clone(&tree));
        Ok(tree)
    }

    /// The tree of a layer that was packed just now.
    pub(super) fn tree(&self, diff_id: &DiffId) -> Option<Arc<Tree>> {
        self.trees().get(diff_id).cloned()
    }

    fn trees(&self) -> MutexGuard<'_, HashMap<DiffId, Arc<Tree>>> {
        self.trees.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
