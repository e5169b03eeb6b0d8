//! Layers, and whole images, as files that the kernel mounts: EROFS (`fs/erofs`, Linux 6.12 for mounts from a file).
//!
//! ```text
//! tar --pack--> a layer's file: the archive as it is, and behind it an index that points into it
//!                    |
//!                    +-- Tree of each layer --merge--> Tree of the image --write_image--> one index over the layers' files
//! ```
//!
//! No file is created for a file of the image, and hardly a byte of it is written twice: the data of [sparse files](sparse), and
//! of layers of which [little is left](absorb). What a layer *means* is decided by the same [`Fold`](crate::layer::Fold) as for a
//! directory.
//!
//! Why it is done like this:
//!
//! - Blocks have 512 bytes, as in tar archives: content can stay where it is. Addresses of such blocks have 32 bits, so that a
//!   layer's file can have 2 TiB.
//! - The index stands [behind the archive](mod@pack), not before it as `mkfs.erofs` has it: the archive is written down while it is
//!   decoded and read, and needs no temporary copy. It is there byte for byte, so that the diff ID can be compared at any time,
//!   and the layer given back.
//! - What only the layers below can tell (the attributes of directories that a layer does not name, hard links to lower files) is
//!   known when the image is merged: a layer's file never depends on the image it is used in, and is shared by all. So only one
//!   that stands alone gets a superblock, and can be mounted alone, by anything that knows EROFS. Of the others, there is nothing
//!   right to be seen without an image.
//! - Plain blobs are copied all the same. An index could point into the blob itself, and nothing would be written; but the blob is
//!   somebody else's, who may change or remove it whenever they please, and no lock of the store's would tell them not to.
//! - No mount is kept for the next process, unless somebody [asks for it](crate::Store::keep_mounted). Mounting is
//!   [cheap](absorb), and a mount that outlives its user has to be cleaned up by somebody. But two mounts of one file have inodes, and
//!   so pages, of their own (until Linux 7.0, which can share them), and what a new one reads is copied out of the pages of the file
//!   itself: that is a third of what it takes to start a small program.

mod absorb;
mod file;
mod format;
mod image;
mod index;
#[cfg(any(test, fuzzing))]
pub(crate) mod listing;
mod merge;
mod mount;
mod pack;
#[cfg(any(test, fuzzing))]
pub(crate) mod reader;
#[cfg(any(test, fuzzing))]
pub(crate) mod rewrite;
mod sparse;
#[cfg(test)]
mod tests;
mod tree;
mod writer;
mod xattrs;

pub(crate) use absorb::LITTLE;
pub(crate) use image::{LayerFile, write_image, write_smallest};
pub(crate) use index::Facts;
#[cfg(any(test, feature = "stages"))]
pub(crate) use merge::Merged;
pub(crate) use merge::merge;
pub(crate) use mount::{MOUNTING, mount};
#[cfg(any(test, fuzzing))]
pub(crate) use pack::Packed;
pub(crate) use pack::{ARCHIVE, pack, tree_of};
pub(crate) use tree::Tree;

use crate::error::{Error, ErrorKind, Fault};
use crate::layer::LayerError;
use tree::Full;
use xattrs::XattrError;

/// Blocks of a layer's file before its archive: a page, so that pages of the archive are pages of the file.
const HEAD_BLOCKS: u32 = 8;

/// What a person does about a sound image that EROFS cannot hold.
const USE_DIRECTORIES: &str = "use --backing dir";

/// A sound layer that EROFS cannot hold, or cannot hold here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ErofsError {
    #[error("the layer, or the image, is more than EROFS has block and inode numbers for")]
    Full,
    #[error("the image was mounted, but its descriptor was lost")]
    NoMount,
}

impl ErofsError {
    /// What is wrong with an entry's xattrs.
    fn xattr(entry: &[u8], error: XattrError) -> Error {
        match error {
            XattrError::Refused(reason) => LayerError::entry(entry, reason).into(),
            XattrError::Full(Full) => Self::Full.into(),
        }
    }
}

impl From<Full> for ErofsError {
    fn from(_: Full) -> Self {
        Self::Full
    }
}

impl Fault for ErofsError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Full => ErrorKind::Unsupported,
            Self::NoMount => ErrorKind::Os,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Full => Some(USE_DIRECTORIES.into()),
            Self::NoMount => None,
        }
    }
}
