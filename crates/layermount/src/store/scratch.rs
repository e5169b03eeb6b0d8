//! Directories for what one run changes, where memory is no place for it.

use std::path::Path;

use crate::error::Result;

use super::root::StoreRoot;
use super::stage::Stage;

/// An empty directory on the store's disk, for [`Upper::Persistent`](crate::Upper::Persistent) to be none.
///
/// It is a stage of the store: a lock on it says that somebody needs it, and goes with the process however that ends; who writes to
/// the store next removes what is left then.
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

    /// Removes it with all that is in it, when nothing is mounted there any more.
    pub fn remove(self) -> Result<()> {
        self.stage.remove()
    }
}
