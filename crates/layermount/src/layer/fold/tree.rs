//! The tree that a [`Fold`](super::Fold) builds: an arena of nodes that are never reused, so that an old [`NodeId`] never means
//! something new, and that stand behind their parents.
//!
//! Made to be small, because it stays in memory for as long as the layer is unpacked: 16 bytes a node, 6 to 12 in the table
//! that finds it, and its name. All texts lie behind one another in one piece of memory.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use super::super::entry::Attributes;
use super::super::{LayerLimits, Refusal, memory_of_xattrs};
use crate::limits::Limit;

/// One thing that stands, or stood, in a place of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct NodeId(u32);

impl NodeId {
    pub(crate) const ROOT: Self = Self(0);

    fn index(self) -> usize {
        self.0 as usize
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// A directory that no entry has named yet.
    Implied,
    Directory(AttributesId),
    Leaf,
    /// With its target, for walking through it.
    Symlink(Text),
    /// A hard link to this path of the layers below.
    Open(Text),
    /// Named by whiteouts only: there is nothing here in this layer.
    Mentioned,
}

impl What {
    pub(super) fn is_directory(self) -> bool {
        matches!(self, Self::Implied | Self::Directory(_))
    }
}

/// Attributes of a directory, kept in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AttributesId(u32);

/// A text kept in the tree: where it starts, with its length in two bytes before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Text(u32);

/// What is known of a place beside [`What`] stands there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Marks(u8);

impl Marks {
    /// A later entry has taken its place.
    pub(super) const REMOVED: Self = Self(1);
    /// A whiteout names this place.
    pub(super) const WHITEOUT: Self = Self(2);
    /// An opaque mark lies in this directory.
    pub(super) const OPAQUE: Self = Self(4);
    /// Nothing of the lower layers shows in it: one of the two above.
    pub(super) const HIDES: Self = Self(2 | 4);
    /// It lies in something that was displaced.
    pub(super) const DETACHED: Self = Self(8);
    /// It lies in something in which nothing of the lower layers shows.
    pub(super) const HIDDEN: Self = Self(16);
    /// A whiteout without an entry lies in it.
    pub(super) const HOLDS_WHITEOUTS: Self = Self(32);

    /// Whether one of `marks` is there.
    pub(super) fn has(self, marks: Self) -> bool {
        self.0 & marks.0 != 0
    }

    pub(super) fn add(&mut self, marks: Self) {
        self.0 |= marks.0;
    }
}

#[derive(Debug, Clone, Copy)]
struct Node {
    parent: NodeId,
    name: u32,
    /// An [`AttributesId`] or a [`Text`], by `tag`.
    payload: u32,
    tag: Tag,
    // NAME_MAX
    name_length: u8,
    marks: Marks,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tag {
    Implied,
    Directory,
    Leaf,
    Symlink,
    Open,
    Mentioned,
}

/// Bytes behind one another.
#[derive(Debug, Default)]
struct Texts(Vec<u8>);

impl Texts {
    fn get(&self, start: u32, length: usize) -> &[u8] {
        self.0.get(start as usize..).and_then(|bytes| bytes.get(..length)).unwrap_or_default()
    }

    fn name(&self, node: &Node) -> &[u8] {
        self.get(node.name, node.name_length.into())
    }
}

#[derive(Debug)]
struct Nodes {
    root: Node,
    /// Node 1 and on.
    others: Vec<Node>,
}

impl Nodes {
    /// Ids come from this tree alone and nodes are never taken out, so that every id finds its node.
    fn get(&self, id: NodeId) -> &Node {
        id.index().checked_sub(1).and_then(|index| self.others.get(index)).unwrap_or(&self.root)
    }
}

#[derive(Debug)]
pub(super) struct Tree {
    nodes: Nodes,
    /// Finds nodes that were not removed by parent and name. Keyed at random: archives come from strangers.
    places: HashTable<NodeId>,
    keys: RandomState,
    texts: Texts,
    attributes: Vec<Attributes>,
    /// Bytes kept for names, targets and attributes, of which there may be `limits.kept_bytes`.
    kept: u64,
    limits: LayerLimits,
}

impl Tree {
    pub(super) fn new(limits: &LayerLimits) -> Self {
        let root = Node {
            parent: NodeId::ROOT,
            name: 0,
            payload: 0,
            tag: Tag::Implied,
            name_length: 0,
            marks: Marks::default(),
        };
        Self {
            nodes: Nodes { root, others: Vec::new() },
            places: HashTable::new(),
            keys: RandomState::new(),
            texts: Texts::default(),
            attributes: Vec::new(),
            kept: 0,
            limits: limits.clone(),
        }
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        let Nodes { root, others } = &mut self.nodes;
        id.index().checked_sub(1).and_then(|index| others.get_mut(index)).unwrap_or(root)
    }

    pub(super) fn what(&self, id: NodeId) -> What {
        let Node { tag, payload, .. } = *self.nodes.get(id);
        match tag {
            Tag::Implied => What::Implied,
            Tag::Directory => What::Directory(AttributesId(payload)),
            Tag::Leaf => What::Leaf,
            Tag::Symlink => What::Symlink(Text(payload)),
            Tag::Open => What::Open(Text(payload)),
            Tag::Mentioned => What::Mentioned,
        }
    }

    pub(super) fn marks(&self, id: NodeId) -> Marks {
        self.nodes.get(id).marks
    }

    pub(super) fn mark(&mut self, id: NodeId, marks: Marks) {
        self.node_mut(id).marks.add(marks);
    }

    pub(super) fn parent(&self, id: NodeId) -> NodeId {
        self.nodes.get(id).parent
    }

    pub(super) fn name(&self, id: NodeId) -> &[u8] {
        self.texts.name(self.nodes.get(id))
    }

    pub(super) fn text(&self, Text(start): Text) -> &[u8] {
        let length = match self.texts.get(start.saturating_sub(2), 2) {
            [low, high] => u16::from_le_bytes([*low, *high]),
            _ => 0,
        };
        self.texts.get(start, length.into())
    }

    pub(super) fn child(&self, parent: NodeId, name: &[u8]) -> Option<NodeId> {
        let hash = self.keys.hash_one((parent, name));
        let is_it = |id: &NodeId| {
            let node = self.nodes.get(*id);
            node.parent == parent && self.texts.name(node) == name
        };
        self.places.find(hash, is_it).copied()
    }

    /// All nodes but the root, also those that were removed, each behind its parent.
    pub(super) fn ids(&self) -> impl DoubleEndedIterator<Item = NodeId> + use<> {
        (1..=self.newest().0).map(NodeId)
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
            let node = self.nodes.get(id);
            if node.marks.has(Marks::REMOVED) {
                return false;
            }
            id = node.parent;
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

    pub(super) fn attributes(&self, AttributesId(index): AttributesId) -> Option<&Attributes> {
        self.attributes.get(index as usize)
    }

    /// A directory with attributes of its own, for [`Tree::insert`].
    pub(super) fn directory(&mut self, attributes: &Attributes) -> Result<What, Refusal> {
        self.keep(memory_of_xattrs(&attributes.xattrs))?;
        self.attributes.push(attributes.clone());
        // No more than there are entries.
        Ok(What::Directory(AttributesId(self.attributes.len() as u32 - 1)))
    }

    /// Gives a directory its own entry's attributes; `false` if it is not a directory.
    pub(super) fn set_attributes(&mut self, id: NodeId, new: &Attributes) -> Result<bool, Refusal> {
        match self.what(id) {
            What::Directory(AttributesId(index)) => {
                self.keep(memory_of_xattrs(&new.xattrs))?;
                if let Some(attributes) = self.attributes.get_mut(index as usize) {
                    *attributes = new.clone();
                }
            }
            What::Implied => {
                let what = self.directory(new)?;
                let node = self.node_mut(id);
                (node.tag, node.payload) = packed(what);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Keeps a path or a symlink's target.
    pub(super) fn keep_text(&mut self, text: &[u8]) -> Result<Text, Refusal> {
        let too_long = Refusal::Limit { what: Limit::PathBytes, limit: u16::MAX.into() };
        let length = u16::try_from(text.len()).map_err(|_| too_long)?;
        self.push(&length.to_le_bytes())?;
        self.push(text).map(Text)
    }

    fn push(&mut self, bytes: &[u8]) -> Result<u32, Refusal> {
        self.keep(bytes.len())?;
        let start = u32::try_from(self.texts.0.len()).map_err(|_| self.too_much())?;
        self.texts.0.extend_from_slice(bytes);
        Ok(start)
    }

    /// Counts what is kept until the layer's end.
    fn keep(&mut self, bytes: usize) -> Result<(), Refusal> {
        self.kept = self.kept.saturating_add(bytes as u64);
        if self.kept > self.limits.kept_bytes { Err(self.too_much()) } else { Ok(()) }
    }

    fn too_much(&self) -> Refusal {
        Refusal::Limit { what: Limit::KeptBytes, limit: self.limits.kept_bytes }
    }

    /// Takes a node out of its place.
    pub(super) fn remove(&mut self, parent: NodeId, name: &[u8]) -> Option<NodeId> {
        let id = self.child(parent, name)?;
        let hash = self.keys.hash_one((parent, name));
        if let Ok(place) = self.places.find_entry(hash, |there| *there == id) {
            place.remove();
        }
        self.mark(id, Marks::REMOVED);
        Some(id)
    }

    /// Puts a node into its parent, which must not have this name yet. The number of nodes is limited like that of entries:
    /// names without entries of their own count too.
    pub(super) fn insert(&mut self, parent: NodeId, name: &[u8], what: What) -> Result<NodeId, Refusal> {
        let LayerLimits { entries, path_bytes, path_depth, .. } = self.limits;
        let limit = |what, limit| Refusal::Limit { what, limit };
        let id = NodeId(self.newest().0.saturating_add(1));
        if u64::from(id.0) > entries {
            return Err(limit(Limit::Entries, entries));
        }
        let (bytes, depth) = self.measure(parent);
        let bytes = bytes + usize::from(depth > 0) + name.len();
        if bytes > path_bytes {
            return Err(limit(Limit::PathBytes, path_bytes as u64));
        }
        if depth >= path_depth {
            return Err(limit(Limit::PathDepth, path_depth as u64));
        }
        let name_length = u8::try_from(name.len()).map_err(|_| TOO_LONG)?;
        let name = self.push(name)?;
        let (tag, payload) = packed(what);
        self.nodes.others.push(Node { parent, name, payload, tag, name_length, marks: Marks::default() });
        let Self { nodes, places, keys, texts, .. } = self;
        let hash = |id: &NodeId| {
            let node = nodes.get(*id);
            keys.hash_one((node.parent, texts.name(node)))
        };
        places.insert_unique(hash(&id), id, hash);
        Ok(id)
    }

    /// Length of a node's path and the number of its components.
    fn measure(&self, mut id: NodeId) -> (usize, usize) {
        let (mut bytes, mut depth) = (0, 0);
        while id != NodeId::ROOT {
            let node = self.nodes.get(id);
            bytes += usize::from(depth > 0) + usize::from(node.name_length);
            depth += 1;
            id = node.parent;
        }
        (bytes, depth)
    }

    fn newest(&self) -> NodeId {
        NodeId(self.nodes.others.len() as u32)
    }
}

/// Names were looked at before, except those that symlinks lead to.
const TOO_LONG: Refusal = Refusal::Because("its name has a component of more than 255 bytes");

fn packed(what: What) -> (Tag, u32) {
    match what {
        What::Implied => (Tag::Implied, 0),
        What::Directory(AttributesId(index)) => (Tag::Directory, index),
        What::Leaf => (Tag::Leaf, 0),
        What::Symlink(Text(start)) => (Tag::Symlink, start),
        What::Open(Text(start)) => (Tag::Open, start),
        What::Mentioned => (Tag::Mentioned, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_small() {
        assert_eq!(size_of::<Node>(), 16);
    }

    #[test]
    fn a_removed_node_is_not_found_again() {
        let mut tree = Tree::new(&LayerLimits::default());
        let directory = tree.insert(NodeId::ROOT, b"d", What::Implied).unwrap();
        let file = tree.insert(directory, b"f", What::Leaf).unwrap();
        assert_eq!(tree.child(directory, b"f"), Some(file));
        assert_eq!(tree.path(file), [b"d", b"f"]);
        assert_eq!(tree.remove(NodeId::ROOT, b"d"), Some(directory));
        assert!(!tree.is_attached(file), "what holds it is gone");
        assert_eq!(tree.child(NodeId::ROOT, b"d"), None);
        let again = tree.insert(NodeId::ROOT, b"d", What::Leaf).unwrap();
        assert_eq!(tree.child(NodeId::ROOT, b"d"), Some(again));
        assert_eq!(tree.child(again, b"f"), None);
    }

    #[test]
    fn what_is_kept_is_limited() {
        let limits = LayerLimits { kept_bytes: 10, ..LayerLimits::default() };
        let mut tree = Tree::new(&limits);
        tree.insert(NodeId::ROOT, b"12345", What::Leaf).unwrap();
        tree.insert(NodeId::ROOT, b"67890", What::Leaf).unwrap();
        assert!(matches!(tree.insert(NodeId::ROOT, b"x", What::Leaf), Err(Refusal::Limit { limit: 10, .. })));
        let attributes =
            |bytes| Attributes { mode: 0, uid: 0, gid: 0, mtime: (0, 0), xattrs: vec![(b"user.a".to_vec(), bytes)] };
        let limits = LayerLimits { kept_bytes: memory_of_xattrs(&attributes(vec![0; 4]).xattrs) as u64, ..limits };
        let mut tree = Tree::new(&limits);
        assert!(tree.directory(&attributes(vec![0; 4])).is_ok());
        assert!(tree.directory(&attributes(Vec::new())).is_err());
    }
}
