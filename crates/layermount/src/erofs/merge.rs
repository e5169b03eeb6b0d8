//! The trees of an image's layers put over one another: what the kernel would show of them in an overlay, as one tree.
//!
//! Each layer is applied to the tree of those below it in one walk over what the layer itself says: a name stands once in a
//! directory, so that hiding what lower layers have and putting something there is one step. Only hard links into lower layers
//! look at more: they mean the tree as it is before their layer, so [they are found](below) first.
//!
//! What it costs is counted in the entries of the layers. Nothing looks at the whole tree but the walk that
//! [writes it out](emit) in the end: what goes is only detached, with all that lies in it.
//!
//! The unpacked layers of [`complete`](crate::unpack::complete) mean the same tree.

mod apply;
mod below;
mod emit;
mod nodes;

use super::USE_DIRECTORIES;
use super::tree::{Full, Tree};
use crate::error::{ErrorKind, Fault};
use crate::layer::DanglingLink;
use nodes::{Layer, Nodes};

/// The tree of an image, and which layers' files hold the content of its files.
#[derive(Debug)]
pub(crate) struct Merged {
    pub(crate) tree: Tree,
    /// Places in the list of layers; the first of them is device 1. Layers that no content is taken from are not there.
    pub(crate) devices: Vec<usize>,
}

/// Layers that do not become one image.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MergeError {
    #[error(transparent)]
    DanglingLink(#[from] DanglingLink),
    #[error("the image has more names or files than one EROFS index can")]
    Full,
}

impl From<Full> for MergeError {
    fn from(Full: Full) -> Self {
        Self::Full
    }
}

impl Fault for MergeError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::DanglingLink(link) => link.kind(),
            Self::Full => ErrorKind::Unsupported,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::DanglingLink(link) => link.hint(),
            Self::Full => Some(USE_DIRECTORIES.into()),
        }
    }
}

/// Merges layers, base first. Device 0 of each is that layer's own file. A layer may stand in several places: it is one device.
pub(crate) fn merge(layers: &[&Tree]) -> Result<Merged, MergeError> {
    let layers = Layer::list(layers);
    let mut nodes = Nodes::new(layers.iter().map(|layer| layer.tree.inodes().len()).max().unwrap_or(0));
    for layer in &layers {
        apply::apply(&mut nodes, layer)?;
    }
    Ok(emit::emit(&nodes, layers.len())?)
}

#[cfg(test)]
mod tests;
