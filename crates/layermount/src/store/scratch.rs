//! Directories for what one run changes, where memory is no place for it.

use std::path::Path;

use crate::error::Result;

use super::root::StoreRoot;
use super::stage::Stage;

/// A directory on the store's disk, empty at first, for an [`Upper::Persistent`](crate::Upper::Persistent) that is not kept.
///
/// It is a stage of the store: a lock on it says that somebody needs it, and goes with the process however that ends. Whoever writes
/// to the store next removes what is left of it then.
#[derive(Debug)]
pub struct Scratch {
    stage: Stage,
}

impl Scratch {
    pub(super) fn new(root: &StoreRoot) -> Result<Self> {
        Ok(Self { stage: Stage::new(root)? })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.stage.path()
    }

    /// Removes it with all that is in it. Nothing may be mounted there any more.
    pub fn remove(self) -> Result<()> {
        self.stage.remove()
    }
}
