//! From an image tag to a process inside the image.

mod command;
mod digest;
mod enter;
mod error;
mod image;
mod kernel;
mod mountinfo;
mod overlay;
mod reference;
mod script;
mod source;
mod stack;
mod sys;
mod userns;

pub use command::{Child, Command, Namespaces, ParseSignalError, Signal, Stdio};
pub use digest::{Algorithm, ChainId, DiffId, Digest, ParseDigestError};
pub use enter::{Access, Entered, Furnish};
pub use error::{Error, ErrorKind, Result};
pub use image::{
    Blobs, Config, Content, Descriptor, HistoryEntry, Image, ImageArchive, ImageParts, Layer, Located, MediaType,
    OverlayXattrs, ParsePlatformError, Platform,
};
#[doc(hidden)]
pub use kernel::{Kernel, LayersBy};
pub use overlay::{Overlay, OverlaySpec, RootMount, Upper};
pub use reference::Reference;
pub use source::Source;
pub use stack::{LayerStack, StackedLayer};
