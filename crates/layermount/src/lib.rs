//! From an image tag to a process inside the image.

mod decode;
mod digest;
mod error;
mod image;
mod layer;
mod reference;
mod source;
mod stack;
mod unpack;

pub use digest::{Algorithm, ChainId, DiffId, Digest, ParseDigestError};
pub use error::{Error, ErrorKind, Result};
pub use image::{
    Blobs, Config, Content, Descriptor, HistoryEntry, Image, ImageArchive, ImageParts, Layer, Located, MediaType,
    OverlayXattrs, ParsePlatformError, Platform,
};
pub use reference::{DaemonImage, ImageName, OciSelector, ParseReferenceError, Reference};
pub use source::{Docker, OciLayouts, Pin, RootfsDirectories, Source, Sources};
pub use stack::{LayerStack, StackedLayer};
