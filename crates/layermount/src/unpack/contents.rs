//! What the regular files of a layer hold, kept until the layer's end: there may be a million.

use super::FileContent;
use crate::layer::NodeId;

/// Contents by node, in the order of the nodes, which is that of the steps that make them.
#[derive(Debug, Default)]
pub(super) struct Contents(Vec<Packed>);

/// Eight bytes less than a pair of node and content would take.
#[derive(Debug)]
struct Packed {
    node: NodeId,
    checksum: u32,
    size: u64,
}

impl Contents {
    /// Adds a node that came after all others.
    pub(super) fn push(&mut self, node: NodeId, FileContent { size, checksum }: FileContent) {
        self.0.push(Packed { node, checksum, size });
    }

    pub(super) fn get(&self, node: NodeId) -> Option<FileContent> {
        let place = self.0.binary_search_by_key(&node, |packed| packed.node).ok()?;
        self.0.get(place).map(Packed::content)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (NodeId, FileContent)> {
        self.0.iter().map(|packed| (packed.node, packed.content()))
    }
}

impl Packed {
    fn content(&self) -> FileContent {
        FileContent { size: self.size, checksum: self.checksum }
    }
}
