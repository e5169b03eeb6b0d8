//! In place of the source for Docker, in a build without the feature `docker`: the same signatures, and one clear answer.

use std::time::Duration;

use crate::digest::Digest;
use crate::error::{ErrorKind, Fault, Result};
use crate::image::{Image, Platform};
use crate::reference::Reference;

use super::{EngineFacts, Source};

/// A Docker Engine, which this build cannot talk to.
#[derive(Debug, Default)]
pub struct Docker {
    _private: (),
}

/// An image that its engine will not delete. This build makes none.
#[must_use]
#[derive(Debug)]
pub struct Pin {
    never: std::convert::Infallible,
}

#[derive(Debug, thiserror::Error)]
#[error("this build of layermount cannot talk to Docker: it was made without the feature \"docker\"")]
struct NotBuiltIn;

impl Fault for NotBuiltIn {
    fn kind(&self) -> ErrorKind {
        // So that a search goes on, and says where else was looked.
        ErrorKind::EngineUnavailable
    }
}

impl Docker {
    /// The engine at `host`. Always fails in this build.
    pub fn at(_host: &str) -> Result<Self> {
        Err(NotBuiltIn.into())
    }

    /// Keeps the engine from deleting `image`. Always fails in this build.
    pub fn pin(&self, _image: &Image) -> Result<Pin> {
        Err(NotBuiltIn.into())
    }

    /// The chain of images that `image` was built on. Always fails in this build.
    pub fn parents(&self, _image: &Image) -> Result<Vec<Digest>> {
        Err(NotBuiltIn.into())
    }

    /// What the engine is. Always fails in this build.
    pub(crate) fn look(&self, _patience: Duration) -> Result<Option<EngineFacts>> {
        Err(NotBuiltIn.into())
    }
}

impl Pin {
    /// Lets the engine delete the image again.
    pub fn release(self) -> Result<()> {
        match self.never {}
    }
}

impl Source for Docker {
    fn describe(&self) -> String {
        "Docker".to_owned()
    }

    fn accepts(&self, reference: &Reference) -> bool {
        matches!(reference, Reference::Name(_) | Reference::Id(_) | Reference::DockerDaemon(_))
    }

    fn resolve(&self, _reference: &Reference, _platform: &Platform) -> Result<Image> {
        Err(NotBuiltIn.into())
    }
}
