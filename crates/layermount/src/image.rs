//! The layer graph: what a source says an image is.
//!
//! An [`Image`] is only ever made by [`Image::new`], which refuses documents that disagree, so that later stages may rely on
//! it: layers stand base first, there is one diff ID for each, and chain IDs follow from them.

mod config;
mod deferred;
pub(crate) mod document;
mod platform;

pub(crate) use config::Execution;
pub use config::{Config, HistoryEntry};
pub use platform::{ParsePlatformError, Platform};

use std::fmt;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

pub use oci_spec::image::{Descriptor, MediaType};

use serde::{Deserialize, Serialize};

use crate::digest::{ChainId, DiffId, Digest};
use crate::error::{ErrorKind, Fault, Result};
use deferred::Deferred;

/// An image, resolved: its configuration and its layers, base first.
#[derive(Debug, Clone)]
pub struct Image {
    id: Digest,
    platform: Platform,
    config: Config,
    outline: Outline,
    /// Other names than those of `details`.
    names: Option<Vec<String>>,
    content: Content,
    parent: Option<Digest>,
    notes: Vec<String>,
    details: Deferred<Details>,
}

/// What of the layers is enough to find the image in the store as a file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outline {
    /// How many there are.
    pub(crate) layers: usize,
    /// Diff ID and chain ID of the topmost.
    pub(crate) top: Option<(DiffId, ChainId)>,
}

/// What nobody needs to run a program in an image whose file system is in the store, and takes long to read where layers are many.
#[derive(Debug, Clone, Default)]
struct Details {
    manifest_digest: Option<Digest>,
    names: Vec<String>,
    layers: Vec<Layer>,
}

/// One layer of an [`Image`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Layer {
    /// The digest of the uncompressed archive.
    pub diff_id: DiffId,
    /// The identity of this layer together with all that lie below it.
    pub chain_id: ChainId,
    /// The blob as the manifest names it; `None` where the source has no blobs (an engine's directories).
    pub descriptor: Option<Descriptor>,
    /// The build step that made the layer, from the config's history.
    pub created_by: Option<String>,
}

/// Where an image's layers can be had.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Content {
    /// Each layer is a blob, opened by its descriptor.
    Blobs(Arc<dyn Blobs>),
    /// Directories that somebody else has unpacked and owns, to be mounted where they lie.
    Located(Located),
    /// An engine hands out all layers as one archive (`docker save`), in its own order.
    Archive(Arc<dyn ImageArchive>),
    /// Only the store has them.
    Stored,
}

/// Opens blobs by descriptor. Implementations need not verify: the store does.
pub trait Blobs: fmt::Debug + Send + Sync {
    /// Opens the blob. Must not block on anything but the content itself (a fifo in place of a blob is an error).
    fn open(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>>;

    /// What a person calls this place, for messages: `oci:/srv/images/app`.
    fn describe(&self) -> String;
}

/// An archive of a whole image, as `GET /images/{name}/get` streams it.
pub trait ImageArchive: fmt::Debug + Send + Sync {
    /// Starts the stream.
    fn open(&self) -> Result<Box<dyn Read + Send>>;

    /// What a person calls this place, for messages.
    fn describe(&self) -> String;
}

/// Directories in place.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Located {
    /// One directory per layer in overlayfs form, base first, as many as the image has layers.
    Layers {
        /// Base first.
        directories: Vec<PathBuf>,
        /// The namespace of the overlay xattrs that their owner wrote.
        xattrs: OverlayXattrs,
    },
    /// One directory with the whole tree (`rootfs:DIR`, or a graph driver that keeps full copies).
    Tree(PathBuf),
}

/// Which xattr namespace holds overlayfs's own marks (opaque directories and the like).
///
/// A mount reads one of the two only: with the other kind, deleted files would reappear.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OverlayXattrs {
    /// `trusted.overlay.*`, written with `CAP_SYS_ADMIN` in the initial user namespace.
    Trusted,
    /// `user.overlay.*`, for mounts with `userxattr` (Linux 5.11) in a user namespace.
    User,
}

impl OverlayXattrs {
    /// `trusted` or `user`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trusted => "trusted",
            Self::User => "user",
        }
    }
}

/// What a source knows about an image before it is checked.
#[derive(Debug, Clone)]
pub struct ImageParts {
    /// The image ID where it is not the config's digest; `None` computes it from the config.
    pub id: Option<Digest>,
    /// The digest of the manifest, where there is one.
    pub manifest_digest: Option<Digest>,
    /// Full names with tag, such as `docker.io/library/ubuntu:24.04`.
    pub names: Vec<String>,
    /// The platform of this image (config first, then what the index said).
    pub platform: Platform,
    /// The configuration.
    pub config: Config,
    /// The manifest's layers base first; `None` where the source has no manifest.
    pub descriptors: Option<Vec<Descriptor>>,
    /// Where the layers can be had.
    pub content: Content,
}

impl Image {
    /// Checks that manifest, config and content agree, and computes the chain IDs.
    pub fn new(parts: ImageParts) -> Result<Self> {
        let ImageParts { id, manifest_digest, names, platform, config, descriptors, content } = parts;
        let diff_ids = config.diff_ids();
        let disagree = |what, found| ImageError::Disagree { what, found, diff_ids: diff_ids.len() };
        if let Some(descriptors) = &descriptors
            && descriptors.len() != diff_ids.len()
        {
            return Err(disagree("layers in the manifest", descriptors.len()).into());
        }
        if let Content::Located(Located::Layers { directories, .. }) = &content
            && directories.len() != diff_ids.len()
        {
            return Err(disagree("directories named by the engine", directories.len()).into());
        }
        let mut descriptors = descriptors.into_iter().flatten();
        let mut created_by = config.created_by_layer().into_iter();
        let mut layers: Vec<Layer> = Vec::with_capacity(diff_ids.len());
        for diff_id in diff_ids {
            let chain_id = ChainId::push(layers.last().map(|below| &below.chain_id), diff_id);
            layers.push(Layer {
                diff_id: diff_id.clone(),
                chain_id,
                descriptor: descriptors.next(),
                created_by: created_by.next().flatten(),
            });
        }
        let id = id.unwrap_or_else(|| Digest::sha256(config.raw()));
        let top = layers.last().map(|top| (top.diff_id.clone(), top.chain_id.clone()));
        let outline = Outline { layers: layers.len(), top };
        let details = Deferred::ready(Details { manifest_digest, names, layers });
        let (names, parent, notes) = (None, None, Vec::new());
        Ok(Self { id, platform, config, outline, names, content, parent, notes, details })
    }

    /// An image of the store that is known to be sound, of which `read` gives all the rest when somebody asks for it.
    pub(crate) fn deferred(
        (id, platform): (Digest, Platform),
        execution: Execution,
        outline: Outline,
        read: impl FnOnce() -> Option<Self> + Send + 'static,
    ) -> Self {
        let whole = Deferred::later(read);
        let again = whole.clone();
        // It was read before, so that there is no `None`; if there were, the image would say nothing of itself.
        let text = Deferred::later(move || again.as_ref().map(|image| image.config.text().clone()).unwrap_or_default());
        let details = Deferred::later(move || whole.as_ref().map(|image| (*image.details).clone()).unwrap_or_default());
        let (names, content, parent, notes) = (None, Content::Stored, None, Vec::new());
        let config = Config::deferred(execution, text);
        Self { id, platform, config, outline, names, content, parent, notes, details }
    }

    /// The image ID: the digest of the configuration.
    pub fn id(&self) -> &Digest {
        &self.id
    }

    /// The digest of the manifest, where the source has one.
    pub fn manifest_digest(&self) -> Option<&Digest> {
        self.details.manifest_digest.as_ref()
    }

    /// Full names with tag under which the source knows the image.
    pub fn names(&self) -> &[String] {
        self.names.as_ref().unwrap_or(&self.details.names)
    }

    pub(crate) fn set_names(&mut self, names: Vec<String>) {
        self.names = Some(names);
    }

    /// The platform that the image is for.
    pub fn platform(&self) -> &Platform {
        &self.platform
    }

    /// The configuration: environment, user, entrypoint and so on.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The layers, base first.
    pub fn layers(&self) -> &[Layer] {
        &self.details.layers
    }

    pub(crate) fn outline(&self) -> &Outline {
        &self.outline
    }

    /// Where the layers can be had.
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// The image that this one was built on, where an engine's classic builder recorded it (Docker's `ParentId`).
    pub fn parent(&self) -> Option<&Digest> {
        self.parent.as_ref()
    }

    /// What the source decided and a person may want to know, such as why layers are not used in place.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The same image with its [`Image::parent`].
    #[must_use]
    pub fn with_parent(mut self, parent: Option<Digest>) -> Self {
        self.parent = parent;
        self
    }

    /// The same image with one more of [`Image::notes`].
    #[must_use]
    pub fn with_note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }
}

/// An image whose own documents cannot be believed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    #[error("{what}: {found}, but diff IDs in the config: {diff_ids}")]
    Disagree { what: &'static str, found: usize, diff_ids: usize },
}

impl Fault for ImageError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidImage
    }
}
