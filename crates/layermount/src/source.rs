//! Where images come from.
//!
//! A [`Source`] turns a reference into an [`Image`]. [`Sources`] asks several in a stated order. Each place that images come
//! from has its own file below this one.

use std::fmt;

use crate::error::Result;
use crate::image::{Image, Platform};
use crate::reference::Reference;

/// A place that images come from. Embedders may bring their own.
pub trait Source: fmt::Debug + Send + Sync {
    /// What a person calls this place, for messages: `the store at /var/lib/layermount`, `Docker at unix:///run/docker.sock`.
    fn describe(&self) -> String;

    /// Whether references of this kind are this source's business at all.
    fn accepts(&self, reference: &Reference) -> bool;

    /// Finds the image, or says why not.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::ImageNotFound`](crate::ErrorKind::ImageNotFound) and
    /// [`ErrorKind::EngineUnavailable`](crate::ErrorKind::EngineUnavailable) let [`Sources`] go on to the next place;
    /// anything else ends the search.
    fn resolve(&self, reference: &Reference, platform: &Platform) -> Result<Image>;

    /// Names that this source holds, for "did you mean"; empty where that cannot be told cheaply.
    fn names(&self) -> Vec<String> {
        Vec::new()
    }
}
