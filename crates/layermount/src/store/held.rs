//! What one realization has found or made so far.
//!
//! Layers are looked up, made and completed one after the other, and only together are they of use. Whoever has the first of
//! them must not lose it to `prune` while the last is made: every layer is therefore kept locked from the moment at which it was
//! found, or before it was published, until the stack holds it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::Result;
use crate::image::Layer;

use super::durability;
use super::entry::{Entry, Key};
use super::realize::{LayerEvent, RealizeOptions};
use super::shelf::{Shelf, ShelfKind};

/// Layers that are kept from being removed for as long as this lives.
#[derive(Debug)]
pub(super) struct Held<'a> {
    options: &'a RealizeOptions<'a>,
    /// By shelf and file name: the same layer may lie on several, as a directory and as a file.
    entries: Mutex<HashMap<(ShelfKind, String), Arc<Entry>>>,
}

impl<'a> Held<'a> {
    pub(super) fn new(options: &'a RealizeOptions<'a>) -> Self {
        Self { options, entries: Mutex::default() }
    }

    /// The mountable entry for a layer of an image, if it is there.
    pub(super) fn mountable(&self, shelf: &Shelf, layer: &Layer) -> Result<Option<Arc<Entry>>> {
        match self.look(shelf, layer, &Key::Diff(layer.diff_id.clone()))? {
            None => self.complete(shelf, layer),
            found => Ok(found),
        }
    }

    /// The layer as it was completed for its place in the image.
    pub(super) fn complete(&self, shelf: &Shelf, layer: &Layer) -> Result<Option<Arc<Entry>>> {
        self.look(shelf, layer, &Key::Chain(layer.chain_id.clone()))
    }

    /// The layer as it waits to be completed, if it is there. Others may take it for a chain of theirs all the same: whoever
    /// relies on it needs the layer's lock too.
    pub(super) fn open(&self, shelf: &Shelf, layer: &Layer) -> Result<Option<Arc<Entry>>> {
        self.look_again(shelf, layer, &Key::Open(layer.diff_id.clone()))
    }

    /// The layer's file, if it is there.
    pub(super) fn file(&self, shelf: &Shelf, layer: &Layer) -> Result<Option<Arc<Entry>>> {
        self.look(shelf, layer, &Key::Diff(layer.diff_id.clone()))
    }

    /// The index of all layers up to this one, if it is there. Others may replace it all the same, as everything in a file.
    pub(super) fn index(&self, shelf: &Shelf, top: &Layer) -> Result<Option<Arc<Entry>>> {
        self.look_again(shelf, top, &Key::Image(top.chain_id.clone()))
    }

    /// Keeps what was published just now.
    pub(super) fn keep(&self, shelf: &Shelf, key: &Key) -> Result<()> {
        let entry = shelf.entry(key)?.map(Arc::new);
        self.entries().extend(entry.map(|entry| (place(shelf, key), entry)));
        Ok(())
    }

    /// The layer was completed, and there is no open one any more.
    pub(super) fn release_open(&self, shelf: &Shelf, layer: &Layer) {
        self.entries().remove(&place(shelf, &Key::Open(layer.diff_id.clone())));
    }

    /// What was found before stays locked until it was found again: nobody prunes it in between.
    fn look_again(&self, shelf: &Shelf, layer: &Layer, key: &Key) -> Result<Option<Arc<Entry>>> {
        let _before = self.entries().remove(&place(shelf, key));
        self.look(shelf, layer, key)
    }

    /// Only removal takes an entry away, which holding it prevents: what was found once is there.
    fn look(&self, shelf: &Shelf, layer: &Layer, key: &Key) -> Result<Option<Arc<Entry>>> {
        let place = place(shelf, key);
        if let Some(entry) = self.entries().get(&place) {
            return Ok(Some(Arc::clone(entry)));
        }
        let Some(entry) = shelf.entry(key)? else { return Ok(None) };
        if !durability::is_whole(&entry, &mut || self.options.tell(layer, LayerEvent::Checking))? {
            return Ok(None);
        }
        let entry = Arc::new(entry);
        self.entries().insert(place, Arc::clone(&entry));
        Ok(Some(entry))
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<(ShelfKind, String), Arc<Entry>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn place(shelf: &Shelf, key: &Key) -> (ShelfKind, String) {
    (shelf.kind(), key.file_name())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::super::entry::{Record, write_record};
    use super::super::in_use::{Claim, claim};
    use super::super::root::{StoreRoot, open_or_create};
    use super::super::shelf::Directories;
    use super::*;
    use crate::digest::{ChainId, DiffId, Digest};
    use crate::unpack::{OpenEnds, Skipped, Unpacked};

    #[test]
    fn an_open_layer_is_never_let_go_of() {
        let place = tempfile::tempdir().unwrap();
        let root = StoreRoot::open(place.path().join("store")).unwrap();
        let shelf = Shelf::open_or_create(&root, ShelfKind::Directories(Directories::OneOwner)).unwrap();
        let digest = Digest::sha256("layer");
        let (diff_id, chain_id) = (DiffId(digest.clone()), ChainId(digest));
        let layer = Layer { diff_id: diff_id.clone(), chain_id, descriptor: None, created_by: None };
        let name = Key::Open(diff_id.clone()).file_name();
        let directory = open_or_create(shelf.directory().as_fd(), &name).unwrap();
        open_or_create(directory.as_fd(), shelf.kind().content()).unwrap();
        let (skipped, open) = (Skipped::default(), OpenEnds::default());
        let unpacked = Unpacked { root: None, opaque_root: false, open, entries: 0, bytes: 0, skipped };
        write_record(directory.as_fd(), &Record::of_directory(diff_id, unpacked, 0)).unwrap();
        let options = RealizeOptions::default();
        let held = Held::new(&options);
        assert!(held.open(&shelf, &layer).unwrap().is_some());
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                (0..3000).for_each(|_| assert!(held.open(&shelf, &layer).unwrap().is_some()));
                ended.store(true, Ordering::Relaxed);
            });
            while !ended.load(Ordering::Relaxed) {
                assert!(matches!(claim(&shelf, &name).unwrap(), Claim::Used));
            }
        });
    }
}
