//! [`Nodes`]: the merged tree while layers are put over one another.
//!
//! A node is something that stands, or stood, in a place of the tree. Nodes are detached and never reused, so that one that was
//! found before a layer was applied tells afterwards whether it is still there. Nobody looks at what lies in a detached node:
//! what takes its place is another one.

use std::collections::HashMap;
use std::num::NonZeroU32;

use super::super::tree::{Full, Inode, Tree};

/// One of the layers that are merged.
#[derive(Debug)]
pub(super) struct Layer<'a> {
    pub(super) tree: &'a Tree,
    /// The first place in the list where this tree stands.
    pub(super) index: usize,
}

impl<'a> Layer<'a> {
    pub(super) fn list(trees: &[&'a Tree]) -> Vec<Self> {
        let mut first = HashMap::new();
        let layer = |(place, tree): (usize, &&'a Tree)| Layer {
            tree,
            index: *first.entry(std::ptr::from_ref::<Tree>(tree)).or_insert(place),
        };
        trees.iter().enumerate().map(layer).collect()
    }
}

/// An inode of a layer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origin<'a> {
    pub(super) layer: &'a Layer<'a>,
    pub(super) inode: &'a Inode,
}

/// Counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct NodeId(NonZeroU32);

impl NodeId {
    const FIRST: Self = Self(NonZeroU32::MIN);

    fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// Anything but a directory, by whichever names it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileId(u32);

impl FileId {
    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) enum What<'a> {
    /// With the inode whose metadata it has; without one nobody has named it.
    Directory(Option<Origin<'a>>),
    File(FileId),
}

#[derive(Debug)]
struct Node<'a> {
    name: &'a [u8],
    what: What<'a>,
    /// A root lies in itself.
    parent: NodeId,
    /// What was put into it last, and what was put into the same directory before it. Detached nodes stay in the list.
    last_child: Option<NodeId>,
    previous: Option<NodeId>,
    attached: bool,
}

#[derive(Debug)]
pub(super) struct Nodes<'a> {
    nodes: Vec<Node<'a>>,
    root: NodeId,
    /// Finds attached nodes. Keyed at random: names come from strangers.
    places: HashMap<(NodeId, &'a [u8]), NodeId>,
    files: Vec<Origin<'a>>,
}

impl<'a> Nodes<'a> {
    /// A root that nobody has named, with room for so many nodes.
    pub(super) fn new(room: usize) -> Self {
        let mut nodes = Vec::with_capacity(room.saturating_add(1));
        nodes.push(Node::root(NodeId::FIRST, None));
        Self { nodes, root: NodeId::FIRST, places: HashMap::with_capacity(room), files: Vec::with_capacity(room) }
    }

    pub(super) fn root(&self) -> NodeId {
        self.root
    }

    pub(super) fn parent(&self, id: NodeId) -> NodeId {
        self.node(id).map_or(self.root, |node| node.parent)
    }

    pub(super) fn child(&self, parent: NodeId, name: &'a [u8]) -> Option<NodeId> {
        self.places.get(&(parent, name)).copied()
    }

    pub(super) fn what(&self, id: NodeId) -> Option<What<'a>> {
        self.node(id).map(|node| node.what)
    }

    /// What is in a directory, in no order.
    pub(super) fn children(&self, parent: NodeId) -> impl Iterator<Item = (NodeId, &'a [u8], What<'a>)> {
        let mut next = self.node(parent).and_then(|node| node.last_child);
        let all = std::iter::from_fn(move || {
            let id = next?;
            let node = self.node(id)?;
            next = node.previous;
            Some((id, node))
        });
        all.filter(|(_, node)| node.attached).map(|(id, node)| (id, node.name, node.what))
    }

    pub(super) fn file(&self, file: FileId) -> Option<Origin<'a>> {
        self.files.get(file.index()).copied()
    }

    /// How many files there are, those without a name included.
    pub(super) fn file_count(&self) -> usize {
        self.files.len()
    }

    /// A file that has no name yet.
    pub(super) fn add_file(&mut self, origin: Origin<'a>) -> Result<FileId, Full> {
        let id = u32::try_from(self.files.len()).map(FileId).map_err(|_| Full)?;
        self.files.push(origin);
        Ok(id)
    }

    /// Puts something into a directory, in the place of whatever has this name.
    pub(super) fn put(&mut self, parent: NodeId, name: &'a [u8], what: What<'a>) -> Result<NodeId, Full> {
        let id = self.next_id()?;
        let previous = self.node_mut(parent).and_then(|node| node.last_child.replace(id));
        self.nodes.push(Node { name, what, parent, last_child: None, previous, attached: true });
        let replaced = self.places.insert((parent, name), id);
        self.detach(replaced);
        Ok(id)
    }

    /// Takes whatever has this name out of a directory.
    pub(super) fn remove(&mut self, parent: NodeId, name: &'a [u8]) {
        let removed = self.places.remove(&(parent, name));
        self.detach(removed);
    }

    /// Puts an empty root in the place of the one that is there.
    pub(super) fn put_root(&mut self, origin: Option<Origin<'a>>) -> Result<NodeId, Full> {
        let id = self.next_id()?;
        self.nodes.push(Node::root(id, origin));
        self.detach(Some(self.root));
        self.root = id;
        Ok(id)
    }

    /// Makes another thing of the same kind of what stands in a place.
    pub(super) fn change(&mut self, id: NodeId, what: What<'a>) {
        if let Some(node) = self.node_mut(id) {
            node.what = what;
        }
    }

    /// Whether a node, and all that it lies in, is still in its place. `known` remembers the answer for directories, of which
    /// many nodes lie in the same; it holds for as long as nothing changes.
    pub(super) fn shows(&self, id: NodeId, known: &mut HashMap<NodeId, bool>) -> bool {
        let mut way = Vec::new();
        let mut here = id;
        let shows = loop {
            if let Some(shows) = known.get(&here) {
                break *shows;
            }
            way.push(here);
            match self.node(here) {
                Some(node) if node.attached && node.parent != here => here = node.parent,
                Some(node) => break node.attached,
                None => break false,
            }
        };
        known.extend(way.into_iter().map(|id| (id, shows)));
        shows
    }

    fn detach(&mut self, id: Option<NodeId>) {
        if let Some(node) = id.and_then(|id| self.node_mut(id)) {
            node.attached = false;
        }
    }

    fn node(&self, id: NodeId) -> Option<&Node<'a>> {
        self.nodes.get(id.index())
    }

    fn node_mut(&mut self, id: NodeId) -> Option<&mut Node<'a>> {
        self.nodes.get_mut(id.index())
    }

    fn next_id(&self) -> Result<NodeId, Full> {
        let number = u32::try_from(self.nodes.len()).ok().and_then(|length| length.checked_add(1));
        number.and_then(NonZeroU32::new).map(NodeId).ok_or(Full)
    }
}

impl<'a> Node<'a> {
    fn root(id: NodeId, origin: Option<Origin<'a>>) -> Self {
        let what = What::Directory(origin);
        Self { name: b"", what, parent: id, last_child: None, previous: None, attached: true }
    }
}
