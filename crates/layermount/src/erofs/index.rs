//! The tree of one layer, out of its archive.
//!
//! The archive is folded as for a directory ([`Fold`]), but where the unpacker acts, only what is needed for the index is kept:
//! attributes, and where in the archive the content lies.

use std::collections::HashMap;
use std::io::BufRead;

use super::format::BLOCK;
use super::sparse::Sparse;
use super::tree::{Child, Data, Directory, Entry as TreeEntry, Full, Inode, InodeId, Metadata, Named, Tree, What};
use super::xattrs::{Holder, Interner, XattrError};
use super::{ErofsError, HEAD_BLOCKS};
use crate::error::Result;
use crate::layer::{Archive, Attributes, Entry, Fold, Kind, LayerError, LayerLimits, Meaning, NodeId, Put, Refusal};
use crate::limits::Limit;

/// What an archive says.
#[derive(Debug)]
pub(super) struct Index {
    /// Sparse files have no data in it yet: [`sparse::place`](super::sparse::place).
    pub(super) tree: Tree,
    pub(super) sparse: Vec<Sparse>,
    /// Some of it only the layers below can tell.
    pub(super) open: bool,
    pub(super) facts: Facts,
}

/// What is to be known of a layer beside its tree.
#[derive(Debug)]
pub(crate) struct Facts {
    /// The layer's own entry for its root.
    pub(crate) root: Option<Attributes>,
    /// No layer below this one shows.
    pub(crate) opaque_root: bool,
    /// Entries of the archive.
    pub(crate) entries: u64,
    /// Bytes of file content.
    pub(crate) bytes: u64,
    /// Xattrs that were left out.
    pub(crate) skipped_xattrs: u64,
}

/// Reads an archive that lies [`HEAD_BLOCKS`] from the start of a layer's file. `pass` moves on behind the data of each entry.
pub(super) fn index<R: BufRead>(
    archive: &mut Archive<R>,
    limits: &LayerLimits,
    mut pass: impl FnMut(&mut Archive<R>) -> Result<()>,
) -> Result<Index> {
    let mut fold = Fold::new(limits);
    let mut leaves = Leaves::default();
    let (mut entries, mut bytes) = (0, 0);
    while let Some(entry) = archive.next()? {
        entries += 1;
        let step = fold.add(&entry).map_err(|reason| LayerError::entry(&entry.name, reason))?;
        match step.map(|step| step.put) {
            Some(Put::Leaf(node)) => {
                bytes += leaves.add(node, &entry, archive.offset())?;
                if leaves.kept() > limits.kept_bytes {
                    let reason = Refusal::Limit { what: Limit::KeptBytes, limit: limits.kept_bytes };
                    return Err(LayerError::entry(&entry.name, reason).into());
                }
            }
            Some(Put::Link { node, target }) => leaves.link(node, target),
            Some(Put::Directory(_) | Put::Nothing { .. }) | None => {}
        }
        pass(archive)?;
    }
    let meaning = fold.finish()?;
    let open = !meaning.implied.is_empty() || !meaning.links.is_empty();
    let opaque_root = meaning.opaque_root;
    let root = meaning.root.clone();
    let (tree, sparse, skipped_xattrs) = leaves.into_tree(&fold, meaning)?;
    Ok(Index { tree, sparse, open, facts: Facts { root, opaque_root, entries, bytes, skipped_xattrs } })
}

/// The inodes that are not directories, also those that a later entry has taken the place of.
#[derive(Debug, Default)]
struct Leaves {
    /// Holds their xattrs and targets, and becomes the layer's tree.
    tree: Tree,
    xattrs: Interner,
    inodes: Vec<Inode>,
    /// With the index of its inode, each node that has one, in the order of the nodes.
    nodes: Vec<(NodeId, u32)>,
    /// By the index of the inode.
    sparse: HashMap<u32, Sparse>,
    /// Bytes that those take.
    sparse_bytes: u64,
}

impl Leaves {
    /// Answers how many bytes of content the entry has, which stand at `offset` of the archive.
    fn add(&mut self, node: NodeId, entry: &Entry, offset: u64) -> Result<u64> {
        let at = |error| ErofsError::xattr(&entry.name, error);
        let full = |Full| ErofsError::Full;
        let data = u64::from(HEAD_BLOCKS) * BLOCK + offset;
        let index = u32::try_from(self.inodes.len()).map_err(|_| ErofsError::Full)?;
        let (mut content, mut holder) = (0, Holder::Special);
        let what = match &entry.kind {
            Kind::File { size, sparse } => {
                holder = Holder::File;
                content = *size;
                if let Some(regions) = sparse {
                    content = regions.iter().map(|region| region.length).sum();
                    let sparse = Sparse { inode: InodeId::ROOT, size: *size, regions: regions.clone(), data };
                    self.sparse_bytes += sparse.kept_bytes().map_err(full)?;
                    self.sparse.insert(index, sparse);
                }
                let block = u32::try_from(data / BLOCK).map_err(|_| ErofsError::Full)?;
                What::File { size: *size, data: Data::Plain { device: 0, block } }
            }
            Kind::Symlink(target) => {
                holder = Holder::Symlink;
                What::Symlink(self.tree.add_text(target).map_err(full)?)
            }
            Kind::CharDevice(device) => What::CharDevice(*device),
            Kind::BlockDevice(device) => What::BlockDevice(*device),
            Kind::Fifo => What::Fifo,
            // The fold puts these otherwise.
            Kind::Directory | Kind::HardLink(_) => return Ok(0),
        };
        let mut metadata = metadata(&mut self.tree, &mut self.xattrs, &entry.attributes, holder).map_err(at)?;
        if holder == Holder::Symlink {
            metadata.mode = 0o777;
        }
        self.inodes.push(Inode { metadata, what });
        self.nodes.push((node, index));
        Ok(content)
    }

    /// What stays in memory until the layer's end, beside what the fold keeps.
    fn kept(&self) -> u64 {
        self.xattrs.kept + self.sparse_bytes
    }

    fn link(&mut self, node: NodeId, target: NodeId) {
        if let Some(inode) = self.inode_of(target) {
            self.nodes.push((node, inode));
        }
    }

    fn inode_of(&self, node: NodeId) -> Option<u32> {
        let place = self.nodes.binary_search_by_key(&node, |(node, _)| *node).ok()?;
        self.nodes.get(place).map(|(_, inode)| *inode)
    }

    fn into_tree(mut self, fold: &Fold, meaning: Meaning) -> Result<(Tree, Vec<Sparse>, u64)> {
        let children = self.children(fold, &meaning)?;
        let mut layout = Layout { fold, children, directories: Vec::new(), inodes: vec![None; self.inodes.len()] };
        layout.add_directories(&mut self, &meaning)?;
        let sparse = layout.add_entries(&mut self)?;
        Ok((self.tree, sparse, self.xattrs.skipped))
    }

    /// What lies in which directory, directory by directory.
    fn children(&mut self, fold: &Fold, meaning: &Meaning) -> Result<Vec<(NodeId, NodeId, Leaf)>> {
        let mut children = Vec::new();
        let mut add = |node, leaf| children.push((fold.place_of(node).0, node, leaf));
        for directory in &meaning.directories {
            add(directory.node, Leaf::Directory);
        }
        for &(node, inode) in self.nodes.iter().filter(|(node, _)| fold.holds(*node)) {
            add(node, Leaf::Inode(inode));
        }
        for &node in &meaning.whiteouts {
            add(node, Leaf::Child(Child::Whiteout));
        }
        for (node, target) in &meaning.links {
            let target = self.tree.add_text(target).map_err(|Full| ErofsError::Full)?;
            add(*node, Leaf::Child(Child::Below(target)));
        }
        children.sort_unstable_by_key(|(parent, node, _)| (*parent, *node));
        Ok(children)
    }
}

/// What a name stands for, until all inodes have their numbers.
#[derive(Debug, Clone, Copy)]
enum Leaf {
    Directory,
    /// An index of [`Leaves::inodes`].
    Inode(u32),
    Child(Child),
}

/// Puts the nodes of a fold into a tree.
struct Layout<'a> {
    fold: &'a Fold,
    /// Parent, node and what it stands for, in this order.
    children: Vec<(NodeId, NodeId, Leaf)>,
    /// With their inodes, in the order of the nodes, the root first.
    directories: Vec<(NodeId, InodeId)>,
    /// What became of [`Leaves::inodes`].
    inodes: Vec<Option<InodeId>>,
}

impl Layout<'_> {
    /// The root first, for which EROFS has 16 bits alone.
    fn add_directories(&mut self, leaves: &mut Leaves, meaning: &Meaning) -> Result<()> {
        let Leaves { tree, xattrs, .. } = leaves;
        // Ascending, as the nodes are.
        let mut implied = meaning.implied.iter().peekable();
        let (root, named) = match &meaning.root {
            Some(attributes) => {
                let at = |error| ErofsError::xattr(b"/", error);
                (metadata(tree, xattrs, attributes, Holder::Directory).map_err(at)?, Named::Here)
            }
            None => (Metadata::IMPLIED, Named::Below { only_whiteouts: false }),
        };
        let what = What::Directory(Directory::new(named, meaning.opaque_root));
        let full = |Full| ErofsError::Full;
        self.directories.push((NodeId::ROOT, tree.add_inode(Inode { metadata: root, what }).map_err(full)?));
        for directory in &meaning.directories {
            let node = directory.node;
            let attributes = self.fold.attributes(node);
            let own = match attributes {
                None => Metadata::IMPLIED,
                Some(attributes) => {
                    let at = |error| ErofsError::xattr(&self.fold.path(node).join(&b'/'), error);
                    metadata(tree, xattrs, attributes, Holder::Directory).map_err(at)?
                }
            };
            let named = match implied.next_if(|(implied, _)| *implied == node) {
                Some((_, only_whiteouts)) => Named::Below { only_whiteouts: *only_whiteouts },
                None => Named::Here,
            };
            let what = What::Directory(Directory::new(named, directory.opaque));
            self.directories.push((node, tree.add_inode(Inode { metadata: own, what }).map_err(full)?));
        }
        Ok(())
    }

    fn add_entries(&mut self, leaves: &mut Leaves) -> Result<Vec<Sparse>, ErofsError> {
        let mut sparse = Vec::new();
        let children = std::mem::take(&mut self.children);
        for of_one in children.chunk_by(|a, b| a.0 == b.0) {
            let Some((parent, _, _)) = of_one.first() else { continue };
            let mut entries = Vec::with_capacity(of_one.len());
            for (_, node, leaf) in of_one {
                let child = match *leaf {
                    Leaf::Child(child) => Some(child),
                    Leaf::Directory => self.inode_of(*node).map(Child::Inode),
                    Leaf::Inode(index) => self.leaf(leaves, index, &mut sparse)?.map(Child::Inode),
                };
                let Some(child) = child else { continue };
                let name = leaves.tree.add_text(self.fold.place_of(*node).1)?;
                entries.push(TreeEntry { name, child });
            }
            if let Some(parent) = self.inode_of(*parent) {
                leaves.tree.add_entries(parent, entries)?;
            }
        }
        Ok(sparse)
    }

    /// The inode of a leaf, which may have other names.
    fn leaf(
        &mut self,
        leaves: &mut Leaves,
        index: u32,
        sparse: &mut Vec<Sparse>,
    ) -> Result<Option<InodeId>, ErofsError> {
        let Some(known) = self.inodes.get_mut(index as usize) else { return Ok(None) };
        if known.is_none()
            && let Some(inode) = leaves.inodes.get(index as usize)
        {
            let inode = leaves.tree.add_inode(*inode)?;
            sparse.extend(leaves.sparse.remove(&index).map(|file| Sparse { inode, ..file }));
            *known = Some(inode);
        }
        Ok(*known)
    }

    fn inode_of(&self, directory: NodeId) -> Option<InodeId> {
        let place = self.directories.binary_search_by_key(&directory, |(node, _)| *node).ok()?;
        self.directories.get(place).map(|(_, inode)| *inode)
    }
}

fn metadata(
    tree: &mut Tree,
    xattrs: &mut Interner,
    attributes: &Attributes,
    holder: Holder,
) -> Result<Metadata, XattrError> {
    let (xattrs, mode) = xattrs.add(tree, attributes, holder)?;
    let Attributes { uid, gid, mtime, .. } = *attributes;
    // Twelve bits: the reader masks the rest.
    Ok(Metadata { mode: (mode & 0o7777) as u16, uid, gid, mtime, xattrs })
}
