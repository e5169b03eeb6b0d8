//! What one realization has found or made so far.
//!
//! Layers are looked up, made and completed one after the other, and only together are they of use. Whoever has the first of
//! them must not lose it to `prune` while the last is made: every layer is therefore kept locked from the moment at which it was
//! found, or before it was published, until the stack holds it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::Result;
use crate::image::Layer;

use super::entry::{Entry, Key, Shelf};

/// Layers that are kept from being removed for as long as this lives.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// By file name.
    entries: Mutex<HashMap<String, Arc<Entry>>>,
}

impl Held {
    /// The mountable entry for a layer of an image, if it is there.
    pub(super) fn mountable(&self, shelf: &Shelf, layer: &Layer) -> Result<Option<Arc<Entry>>> {
        match self.complete(shelf, &Key::Diff(layer.diff_id.clone()))? {
            None => self.complete(shelf, &Key::Chain(layer.chain_id.clone())),
            found => Ok(found),
        }
    }

    /// An entry of a layer that only removal takes away, which holding it prevents.
    pub(super) fn complete(&self, shelf: &Shelf, key: &Key) -> Result<Option<Arc<Entry>>> {
        if let Some(entry) = self.entries().get(&key.file_name()) {
            return Ok(Some(Arc::clone(entry)));
        }
        self.look(shelf, key)
    }

    /// The layer as it waits to be completed, if it is there. Others may take it for a chain of theirs all the same: whoever
    /// relies on it needs the layer's lock too.
    pub(super) fn open(&self, shelf: &Shelf, layer: &Layer) -> Result<Option<Arc<Entry>>> {
        self.look(shelf, &Key::Open(layer.diff_id.clone()))
    }

    /// Keeps what was published just now.
    pub(super) fn keep(&self, shelf: &Shelf, key: &Key) -> Result<()> {
        self.look(shelf, key).map(drop)
    }

    /// The layer was completed, and there is no open one any more.
    pub(super) fn release_open(&self, layer: &Layer) {
        self.entries().remove(&Key::Open(layer.diff_id.clone()).file_name());
    }

    fn look(&self, shelf: &Shelf, key: &Key) -> Result<Option<Arc<Entry>>> {
        let Some(entry) = shelf.entry(key)?.map(Arc::new) else { return Ok(None) };
        self.entries().insert(key.file_name(), Arc::clone(&entry));
        Ok(Some(entry))
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<String, Arc<Entry>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
