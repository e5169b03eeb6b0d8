//! Images that were pulled into the store.

use std::sync::Arc;

use crate::error::{ErrorKind, Fault, Result};
use crate::image::{Image, Platform};
use crate::reference::Reference;
use crate::store::{Store, record};

use super::Source;

/// The images of a [`Store`].
#[derive(Debug, Clone)]
pub struct StoredImages {
    store: Arc<Store>,
}

impl StoredImages {
    /// The images of this store.
    pub fn new(store: Arc<Store>) -> Self {
        Self { store }
    }
}
