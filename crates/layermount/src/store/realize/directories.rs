//! Layers that become directories, and stacks of them.

use std::collections::HashSet;
use std::io::Read;
use std::os::fd::AsFd;
use std::sync::Arc;

use crate::caller::Caller;
use crate::digest::DiffId;
use crate::error::{Result, ResultExt, SyscallContext};
use crate::image::{Content, Descriptor, Image, Layer};
use crate::stack::{LayerStack, RootAttributes, StackedLayer};
use crate::unpack::{UnpackOptions, complete, unpack};

use super::super::StoreError;
use super::super::durability::{self, Durability};
use super::super::entry::{Entry, Key, Record, create_listing, extend_listing, listing_checksum, write_record};
use super::super::held::Held;
use super::super::in_use::lock_content;
use super::super::root::{StoreRoot, open_or_create};
use super::super::shelf::Shelf;
use super::super::stage::Stage;
use super::STAGED;
use super::work::{Form, Work};

/// The stack, if every layer is in the store.
pub(super) fn stored_stack(
    root: &StoreRoot,
    image: &Image,
    form: &Form,
    held: &Held<'_>,
) -> Result<Option<LayerStack>> {
    let Some(shelf) = Shelf::open(root, form.shelf)? else { return Ok(None) };
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

/// That of an image without layers.
pub(super) fn empty_stack() -> LayerStack {
    LayerStack::new(Vec::new(), Caller::current().overlay_xattrs(), RootAttributes::default())
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
    let skipped = entries.iter().map(|entry| entry.record.unpacked.skipped).sum();
    LayerStack::new(layers, form.shelf.xattrs(), root).with_skipped(skipped)
}

impl Work<'_> {
    pub(super) fn publish_directory(
        &self,
        shelf: &Shelf,
        stage: &Stage,
        blob: (impl Read, Option<&Descriptor>),
        wanted: impl Fn(&DiffId) -> bool,
        options: &UnpackOptions,
    ) -> Result<DiffId> {
        let directory = stage.make_directory(STAGED)?;
        let name = shelf.kind().content();
        let tree = open_or_create(directory.as_fd(), name).syscall("mkdirat", || name.into())?;
        let mut listing = create_listing(directory.as_fd())?;
        let (unpacked, diff_id) = self.decode(blob, |tar| unpack(tar, tree.as_fd(), &mut listing, options))?;
        if wanted(&diff_id) {
            // Before anybody sees it, so that nobody removes it before it is held.
            lock_content(&tree, &stage.path().join(STAGED).join(name))?;
            let key = if unpacked.open.is_empty() { Key::Diff(diff_id.clone()) } else { Key::Open(diff_id.clone()) };
            let record = Record::of_directory(diff_id.clone(), unpacked, listing_checksum(directory.as_fd())?);
            write_record(directory.as_fd(), &record)?;
            shelf.publish(stage, STAGED, &key)?;
            self.held.keep(shelf, &key)?;
        }
        Ok(diff_id)
    }

    /// Copies of lower files are what a layer expands to, too: a few links can ask for any number of them.
    fn check_copies(&self, layer: &Layer, bytes: u64) -> Result<(), StoreError> {
        let blob = layer.descriptor.as_ref().map_or(u64::MAX, Descriptor::size);
        self.form.is_bomb(bytes, blob).map_or(Ok(()), |limit| Err(StoreError::CopiesTooLarge { bytes, limit }))
    }

    /// Completes open layers from those below them, base first.
    pub(super) fn complete_open(&self, shelf: &Shelf, options: &UnpackOptions) -> Result<()> {
        let mut below: Vec<Arc<Entry>> = Vec::new();
        for layer in self.image.layers() {
            let entry = match self.held.mountable(shelf, layer)? {
                Some(entry) => entry,
                None => match self.complete(shelf, layer, &below, options)? {
                    Some(entry) => entry,
                    // Gone again, or taken for another chain, and not to be had alone: the next attempt makes it anew.
                    None => return Ok(()),
                },
            };
            below.push(entry);
        }
        Ok(())
    }

    fn complete(
        &self,
        shelf: &Shelf,
        layer: &Layer,
        below: &[Arc<Entry>],
        options: &UnpackOptions,
    ) -> Result<Option<Arc<Entry>>> {
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
            let lowers: Vec<_> = below[base..].iter().map(|entry| entry.content()).collect();
            let directory = stage.make_directory(STAGED)?;
            durability::unmark(directory.as_fd())?;
            let mut listing = extend_listing(directory.as_fd())?;
            let mut copied = 0;
            let mut copying = |bytes| {
                copied += bytes;
                self.check_copies(layer, copied)?;
                Ok(self.meter(bytes)?)
            };
            complete(open.content(), &open.record.unpacked.open, &lowers, &mut listing, &mut copying, options)
                .context(|| format!("layer {}", layer.diff_id))?;
            // Nobody asks a second time what was open, and every start reads the record.
            let unpacked = open.record.unpacked.completed();
            let record = Record::of_directory(layer.diff_id.clone(), unpacked, listing_checksum(directory.as_fd())?);
            write_record(directory.as_fd(), &record)?;
            shelf.publish(stage, STAGED, &key)
        })?;
        self.held.release_open(shelf, layer);
        self.held.complete(shelf, layer)
    }
}
