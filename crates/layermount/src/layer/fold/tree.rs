//! The tree that a [`Fold`](super::Fold) builds: an arena of nodes that are never reused, so that an old [`NodeId`] never means
//! something new.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::super::Refusal;
use super::super::entry::Attributes;
use super::super::path::Name;
use crate::limits::Limit;

/// One thing that stands, or stood, in a place of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct NodeId(u32);

impl NodeId {
    pub(crate) const ROOT: Self = Self(0);
}

#[derive(Debug, Clone)]
pub(super) enum What {
    Directory {
        /// `None` while no entry has named it.
        attributes: Option<Box<Attributes>>,
    },
    Leaf {
        /// The target, for walking through it.
        symlink: Option<Rc<[u8]>>,
    },
    /// A hard link to this path of the layers below.
    Open(Rc<[Name]>),
    /// Named by whiteouts only: there is nothing here in this layer.
    Mentioned,
}

impl What {
    pub(super) fn directory(attributes: Option<Attributes>) -> Self {
        Self::Directory { attributes: attributes.map(Box::new) }
    }
}

#[derive(Debug)]
pub(super) struct Node {
    parent: NodeId,
    name: Name,
    pub(super) what: What,
    children: BTreeMap<Name, NodeId>,
    /// Length of the path and number of its components.
    pub(super) measure: (usize, usize),
    /// A whiteout names this place.
    pub(super) whiteout: bool,
    /// An opaque mark lies in this directory.
    pub(super) opaque: bool,
}

impl Node {
    pub(super) fn new(parent: NodeId, name: &[u8], what: What) -> Self {
        Self {
            parent,
            name: name.into(),
            what,
            children: BTreeMap::new(),
            measure: (0, 0),
            whiteout: false,
            opaque: false,
        }
    }
}

#[derive(Debug)]
pub(super) struct Tree {
    root: Node,
    /// Node 1 and on.
    nodes: Vec<Node>,
}

impl Tree {
    pub(super) fn new() -> Self {
        Self { root: Node::new(NodeId::ROOT, b"", What::directory(None)), nodes: Vec::new() }
    }

    /// Ids come from this tree alone and nodes are never taken out, so that every id finds its node.
    pub(super) fn node(&self, id: NodeId) -> &Node {
        (id.0 as usize).checked_sub(1).and_then(|index| self.nodes.get(index)).unwrap_or(&self.root)
    }

    pub(super) fn node_mut(&mut self, id: NodeId) -> &mut Node {
        (id.0 as usize).checked_sub(1).and_then(|index| self.nodes.get_mut(index)).unwrap_or(&mut self.root)
    }

    pub(super) fn what(&self, id: NodeId) -> &What {
        &self.node(id).what
    }

    pub(super) fn parent(&self, id: NodeId) -> NodeId {
        self.node(id).parent
    }

    pub(super) fn name(&self, id: NodeId) -> &[u8] {
        &self.node(id).name
    }

    pub(super) fn child(&self, id: NodeId, name: &[u8]) -> Option<NodeId> {
        self.node(id).children.get(name).copied()
    }

    pub(super) fn children(&self, id: NodeId) -> impl DoubleEndedIterator<Item = NodeId> + '_ {
        self.node(id).children.values().copied()
    }

    pub(super) fn path(&self, mut id: NodeId) -> Vec<&[u8]> {
        let mut path = Vec::new();
        while id != NodeId::ROOT {
            path.push(self.name(id));
            id = self.parent(id);
        }
        path.reverse();
        path
    }

    /// Whether a node and all that hold it are where they were put.
    pub(super) fn is_attached(&self, mut id: NodeId) -> bool {
        while id != NodeId::ROOT {
            let parent = self.parent(id);
            if self.child(parent, self.name(id)) != Some(id) {
                return false;
            }
            id = parent;
        }
        true
    }

    pub(super) fn is_inside(&self, mut id: NodeId, directory: NodeId) -> bool {
        while id != NodeId::ROOT {
            if id == directory {
                return true;
            }
            id = self.parent(id);
        }
        false
    }

    /// Gives a directory its own entry's attributes; `false` if it is not a directory.
    pub(super) fn set_attributes(&mut self, id: NodeId, new: &Attributes) -> bool {
        match &mut self.node_mut(id).what {
            What::Directory { attributes } => {
                *attributes = Some(Box::new(new.clone()));
                true
            }
            _ => false,
        }
    }

    pub(super) fn remove(&mut self, parent: NodeId, name: &[u8]) -> Option<NodeId> {
        self.node_mut(parent).children.remove(name)
    }

    /// Puts a node into its parent. No more than `limit` nodes are ever made: names without entries of their own count too.
    pub(super) fn insert(&mut self, mut node: Node, limit: u64) -> Result<&Node, Refusal> {
        let id = NodeId(self.nodes.len() as u32 + 1);
        if u64::from(id.0) > limit {
            return Err(Refusal::Limit { what: Limit::Entries, limit });
        }
        let (bytes, depth) = self.node(node.parent).measure;
        node.measure = (bytes + usize::from(depth > 0) + node.name.len(), depth + 1);
        let (parent, name) = (node.parent, node.name.clone());
        self.node_mut(parent).children.insert(name, id);
        self.nodes.push(node);
        Ok(self.node(id))
    }

    pub(super) fn newest(&self) -> NodeId {
        NodeId(self.nodes.len() as u32)
    }
}
