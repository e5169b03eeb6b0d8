//! From an [`Image`] to a [`LayerStack`]: locate, look up, or make.

mod streams;

use std::collections::HashSet;
use std::io::BufRead;
use std::os::fd::AsFd;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::ScopedJoinHandle;

use crate::decode::{DecodeLimits, Decoded, decode};
use crate::digest::DiffId;
use crate::error::{Error, Result, ResultExt, SyscallContext};
use crate::image::{Blobs, Content, Descriptor, Image, Layer, Located, OverlayXattrs};
use crate::limits::{Limit, Limits};
use crate::stack::{LayerStack, RootAttributes, StackedLayer};
use crate::unpack::{Ownership, UnpackOptions, complete, unpack};
use crate::userns::Caller;

use super::StoreError;
use super::archive;
use super::durability::{self, Durability};
use super::entry::{
    Entry, Key, Record, Shelf, TREE, create_listing, extend_listing, listing_checksum, shelf_name, write_record,
};
use super::held::Held;
use super::in_use::lock_tree;
use super::lock::KeyLock;
use super::root::StoreRoot;
use super::stage::{Stage, sweep};
use streams::{Metered, Watched};

/// The name of a layer's directory in the stage.
const STAGED: &str = "layer";

/// How often a layer may be taken away before this is an error.
const ATTEMPTS: usize = 50;

/// What a layer becomes in the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Backing {
    /// The fastest that this machine can mount.
    #[default]
    Auto,
    /// A directory.
    Directory,
    /// One EROFS file. Not built yet: asking for it is an error.
    Erofs,
}

/// How [`Store::realize_with`](crate::Store::realize_with) works.
#[derive(Debug, Default)]
pub struct RealizeOptions<'a> {
    pub(super) backing: Backing,
    limits: Limits,
    progress: Option<&'a dyn Progress>,
}

/// Is told how realizing goes on.
pub trait Progress: std::fmt::Debug + Sync {
    /// Something happened to `layer`.
    fn layer(&self, layer: &Layer, event: LayerEvent);
}

/// What happens to a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LayerEvent {
    /// Another process is making it; this one waits.
    Waiting,
    /// It is being unpacked; `read` bytes of the blob have been read, of `size` where that is known. Told first before anything
    /// is read, except of a layer of an archive: which one that is, is known when it is done.
    Unpacking {
        /// Bytes of the blob so far.
        read: u64,
        /// Bytes of the blob in all.
        size: Option<u64>,
    },
    /// It was written before the machine was last started, and is compared with what was unpacked.
    Checking,
    /// It is in the store.
    Ready,
}

impl<'a> RealizeOptions<'a> {
    /// Says what a layer becomes; [`Backing::Auto`] by default.
    #[must_use]
    pub fn backing(mut self, backing: Backing) -> Self {
        self.backing = backing;
        self
    }

    /// Says how much layers may ask for.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Has `progress` told how the work goes on, from several threads.
    #[must_use]
    pub fn progress(mut self, progress: &'a dyn Progress) -> Self {
        self.progress = Some(progress);
        self
    }

    pub(super) fn tell(&self, layer: &Layer, event: LayerEvent) {
        if let Some(progress) = self.progress {
            progress.layer(layer, event);
        }
    }
}

pub(super) fn realize(root: &StoreRoot, image: &Image, options: &RealizeOptions<'_>) -> Result<LayerStack> {
    if options.backing == Backing::Erofs {
        return Err(StoreError::ErofsNotBuilt.into());
    }
    if let Content::Located(located) = image.content() {
        return located_stack(located);
    }
    let form = Form::of_this_process(&options.limits);
    let held = Held::new(options);
    // What is made stays. Only open layers are taken, by others, for chains of theirs, of which there are so many as images
    // that are made right now. Out of an archive, one attempt makes an open layer once, and the image may have it in as many
    // places as it has layers.
    for attempt in 0..ATTEMPTS + image.layers().len() {
        match stored_stack(root, image, &form, &held)? {
            Some(stack) => return Ok(stack),
            None if attempt == 0 => _ = sweep(root)?,
            None => {}
        }
        let work = Work {
            root,
            image,
            options,
            form: &form,
            held: &held,
            unpacked: AtomicU64::new(0),
            cancelled: AtomicBool::new(false),
        };
        work.make_missing()?;
    }
    stored_stack(root, image, &form, &held)?.ok_or_else(|| StoreError::Unsettled.into())
}

/// Layers that another engine keeps, where they lie.
fn located_stack(located: &Located) -> Result<LayerStack> {
    let (directories, xattrs) = match located {
        Located::Layers { directories, xattrs } => (directories.clone(), *xattrs),
        Located::Tree(directory) => (vec![directory.clone()], Caller::current().overlay_xattrs()),
    };
    LayerStack::from_directories(directories, xattrs)
}

/// The stack, if every layer is in the store.
fn stored_stack(root: &StoreRoot, image: &Image, form: &Form, held: &Held<'_>) -> Result<Option<LayerStack>> {
    let Some(shelf) = Shelf::open(root, form.shelf)? else {
        return if image.layers().is_empty() { Ok(Some(empty_stack(form))) } else { Ok(None) };
    };
    let mut entries: Vec<Arc<Entry>> = Vec::with_capacity(image.layers().len());
    for layer in image.layers() {
        match held.mountable(&shelf, layer)? {
            Some(entry) => entries.push(entry),
            None => return Ok(None),
        }
    }
    if root.durability() == Durability::Power {
        durability::make_durable(root, &entries)?;
    }
    Ok(Some(stack_of(&entries, form)))
}

fn empty_stack(form: &Form) -> LayerStack {
    LayerStack::new(Vec::new(), form.xattrs, RootAttributes::default())
}

/// Drops what an opaque root hides and takes the root's attributes from the topmost layer that speaks of its root.
fn stack_of(entries: &[Arc<Entry>], form: &Form) -> LayerStack {
    let base = entries.iter().rposition(|entry| entry.record.unpacked.opaque_root).unwrap_or(0);
    let visible = &entries[base..];
    // An opaque root hides what lies in the root directory below, not what is said of the directory itself.
    let root = entries.iter().rev().find_map(|entry| entry.record.unpacked.root.clone()).unwrap_or_default();
    let mut seen = HashSet::new();
    let mut layers: Vec<StackedLayer> = Vec::with_capacity(visible.len());
    for entry in visible.iter().rev() {
        if seen.insert(entry.path()) {
            layers.push(entry.stacked());
        }
    }
    layers.reverse();
    LayerStack::new(layers, form.xattrs, root)
}

/// What this process makes of layers.
#[derive(Debug)]
pub(super) struct Form {
    pub(super) shelf: &'static str,
    pub(super) xattrs: OverlayXattrs,
    pub(super) unpack: UnpackOptions,
    pub(super) decode: DecodeLimits,
}

impl Form {
    fn of_this_process(limits: &Limits) -> Self {
        let caller = Caller::current();
        let xattrs = caller.overlay_xattrs();
        let ownership = if caller.may_chown() { Ownership::Apply } else { Ownership::Squash };
        Self {
            shelf: shelf_name(xattrs),
            xattrs,
            unpack: UnpackOptions { xattrs, ownership, limits: limits.layer() },
            decode: limits.decode(),
        }
    }
}

/// Making what is missing of one image.
pub(super) struct Work<'a> {
    pub(super) root: &'a StoreRoot,
    pub(super) image: &'a Image,
    pub(super) options: &'a RealizeOptions<'a>,
    pub(super) form: &'a Form,
    held: &'a Held<'a>,
    /// Bytes of archives so far.
    unpacked: AtomicU64,
    cancelled: AtomicBool,
}

impl Work<'_> {
    fn make_missing(&self) -> Result<()> {
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
        self.complete_open(&shelf)
    }

    /// Layers of which there is neither a mountable nor an open entry; each once.
    pub(super) fn missing(&self, shelf: &Shelf) -> Result<Vec<&Layer>> {
        let mut seen = HashSet::new();
        let mut missing = Vec::new();
        for layer in self.image.layers() {
            if self.held.mountable(shelf, layer)?.is_none()
                && self.held.open(shelf, layer)?.is_none()
                && seen.insert(&layer.diff_id)
            {
                missing.push(layer);
            }
        }
        Ok(missing)
    }

    /// Layers are independent of each other, so they are made at once, as many as there are processors.
    fn make_from_blobs(&self, shelf: &Shelf, blobs: &dyn Blobs, mut missing: Vec<&Layer>) -> Result<()> {
        // The largest first: at the end it would keep one processor busy while the others have nothing left to do.
        missing.sort_by_key(|layer| std::cmp::Reverse(layer.descriptor.as_ref().map_or(0, Descriptor::size)));
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(missing.len());
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
        std::thread::scope(|scope| {
            // Where no more threads are to be had, this one does the work.
            let others: Vec<_> =
                (1..threads).map_while(|_| std::thread::Builder::new().spawn_scoped(scope, worker).ok()).collect();
            worker();
            // The scope's end waits for closures to return, a join for threads to be gone: `pivot` counts threads.
            let ended: Vec<_> = others.into_iter().map(ScopedJoinHandle::join).collect();
            // The caller's own code, which opens and reads blobs, may panic in any of them.
            if let Some(panic) = ended.into_iter().find_map(std::thread::Result::err) {
                resume_unwind(panic);
            }
        });
        match failure.into_inner() {
            Ok(Some(error)) => Err(error),
            _ => Ok(()),
        }
    }

    /// The right to work on a layer.
    fn lock(&self, layer: &Layer) -> Result<KeyLock> {
        let waiting = &mut || self.options.tell(layer, LayerEvent::Waiting);
        KeyLock::acquire(self.root, layer.diff_id.0.hex(), waiting)
    }

    fn make_from_blob(&self, shelf: &Shelf, blobs: &dyn Blobs, layer: &Layer) -> Result<()> {
        let _lock = self.lock(layer)?;
        let made_meanwhile = self.held.mountable(shelf, layer)?.is_some() || self.held.open(shelf, layer)?.is_some();
        if !made_meanwhile {
            self.unpack_blob(shelf, blobs, layer)?;
        }
        self.options.tell(layer, LayerEvent::Ready);
        Ok(())
    }

    /// Makes a layer, which must be locked, from its blob.
    fn unpack_blob(&self, shelf: &Shelf, blobs: &dyn Blobs, layer: &Layer) -> Result<()> {
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
    pub(super) fn unpack_and_publish(
        &self,
        shelf: &Shelf,
        stage: &Stage,
        (blob, descriptor): (impl std::io::Read, Option<&Descriptor>),
        wanted: impl Fn(&DiffId) -> bool,
    ) -> Result<DiffId> {
        let directory = stage.make_directory(STAGED)?;
        let tree = super::root::open_or_create(directory.as_fd(), TREE).syscall("mkdirat", || TREE.into())?;
        let mut listing = create_listing(directory.as_fd())?;
        let mut metered = 0;
        let mut unpack = |tar: &mut dyn BufRead| {
            let mut tar = Metered::new(tar, self, &mut metered);
            unpack(&mut tar, tree.as_fd(), &mut listing, &self.form.unpack)
        };
        let (unpacked, Decoded { diff_id, tar_size, .. }) = decode(blob, descriptor, &self.form.decode, &mut unpack)?;
        self.meter(tar_size.saturating_sub(metered))?;
        if wanted(&diff_id) {
            // Before anybody sees it, so that nobody removes it before it is held.
            lock_tree(&tree, &stage.path().join(STAGED).join(TREE))?;
            let key = if unpacked.open.is_empty() { Key::Diff(diff_id.clone()) } else { Key::Open(diff_id.clone()) };
            write_record(
                directory.as_fd(),
                &Record::new(diff_id.clone(), unpacked, listing_checksum(directory.as_fd())?),
            )?;
            shelf.publish(stage, STAGED, &key)?;
            self.held.keep(shelf, &key)?;
        }
        Ok(diff_id)
    }

    /// Counts bytes of archives.
    fn meter(&self, bytes: u64) -> Result<(), StoreError> {
        let limit = self.options.limits.get(Limit::ImageBytes);
        let before = self.unpacked.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > limit { Err(StoreError::ImageTooLarge { limit }) } else { Ok(()) }
    }

    /// Copies of lower files are what a layer expands to, too: a few links can ask for any number of them.
    fn check_copies(&self, layer: &Layer, bytes: u64) -> Result<(), StoreError> {
        let blob = layer.descriptor.as_ref().map_or(u64::MAX, Descriptor::size);
        if self.form.decode.is_bomb(bytes, blob) {
            return Err(StoreError::CopiesTooLarge { bytes, limit: self.form.decode.ratio });
        }
        Ok(())
    }

    /// Completes open layers from those below them, base first.
    fn complete_open(&self, shelf: &Shelf) -> Result<()> {
        let mut below: Vec<Arc<Entry>> = Vec::new();
        for layer in self.image.layers() {
            let entry = match self.held.mountable(shelf, layer)? {
                Some(entry) => entry,
                None => match self.complete(shelf, layer, &below)? {
                    Some(entry) => entry,
                    // Gone again, or taken for another chain, and not to be had alone: the next attempt makes it anew.
                    None => return Ok(()),
                },
            };
            below.push(entry);
        }
        Ok(())
    }

    fn complete(&self, shelf: &Shelf, layer: &Layer, below: &[Arc<Entry>]) -> Result<Option<Arc<Entry>>> {
        let key = Key::Chain(layer.chain_id.clone());
        // The same lock as for making it: while it is in the stage it is neither open nor complete, and nobody else should
        // take that for missing.
        let _lock = self.lock(layer)?;
        if let Some(entry) = self.held.complete(shelf, layer)? {
            return Ok(Some(entry));
        }
        let mut open = self.held.open(shelf, layer)?;
        // Completed for another image, or for another place in this one. Every chain takes one of its own.
        if let (None, Content::Blobs(blobs)) = (&open, self.image.content()) {
            self.unpack_blob(shelf, blobs.as_ref(), layer)?;
            open = self.held.open(shelf, layer)?;
        }
        let Some(open) = open else { return Ok(None) };
        Stage::with(self.root, |stage| {
            let name = Key::Open(layer.diff_id.clone()).file_name();
            if !stage.take(shelf.directory().as_fd(), &name, STAGED)? {
                return Ok(());
            }
            let base = below.iter().rposition(|entry| entry.record.unpacked.opaque_root).unwrap_or(0);
            let lowers: Vec<_> = below[base..].iter().map(|entry| entry.tree()).collect();
            let directory = stage.make_directory(STAGED)?;
            durability::unmark(directory.as_fd())?;
            let mut listing = extend_listing(directory.as_fd())?;
            let mut copied = 0;
            let mut copying = |bytes| {
                copied += bytes;
                self.check_copies(layer, copied)?;
                Ok(self.meter(bytes)?)
            };
            complete(open.tree(), &open.record.unpacked.open, &lowers, &mut listing, &mut copying, &self.form.unpack)
                .context(|| format!("layer {}", layer.diff_id))?;
            // Nobody asks a second time what was open, and every start reads the record.
            let unpacked = open.record.unpacked.completed();
            let record = Record::new(layer.diff_id.clone(), unpacked, listing_checksum(directory.as_fd())?);
            write_record(directory.as_fd(), &record)?;
            shelf.publish(stage, STAGED, &key)
        })?;
        self.held.release_open(layer);
        self.held.complete(shelf, layer)
    }
}
