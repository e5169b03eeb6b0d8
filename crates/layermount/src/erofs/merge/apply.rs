//! One layer over the tree of those below it.

use std::collections::HashMap;

use super::super::tree::{self, Child, Directory, Inode, InodeId, Named};
use super::MergeError;
use super::below::{Links, links};
use super::nodes::{FileId, Layer, NodeId, Nodes, Origin, What};

pub(super) fn apply<'a>(nodes: &mut Nodes<'a>, layer: &'a Layer<'a>) -> Result<(), MergeError> {
    let links = links(nodes, layer.tree)?;
    let files = vec![None; layer.tree.inodes().len()];
    let mut over = Over { nodes, layer, links, files, copies: HashMap::new() };
    over.walk()?;
    over.part();
    Ok(())
}

struct Over<'n, 'a> {
    nodes: &'n mut Nodes<'a>,
    layer: &'a Layer<'a>,
    links: Links<'a>,
    /// What became of the layer's inodes that are no directories.
    files: Vec<Option<FileId>>,
    /// Files of lower layers that this layer's links have new ones of.
    copies: HashMap<NodeId, FileId>,
}

impl<'a> Over<'_, 'a> {
    fn walk(&mut self) -> Result<(), MergeError> {
        let tree = self.layer.tree;
        let Some(inode) = tree.inode(InodeId::ROOT) else { return Ok(()) };
        let tree::What::Directory(directory) = &inode.what else { return Ok(()) };
        let mut open = vec![(directory, self.root(inode, directory)?)];
        while let Some((directory, node)) = open.pop() {
            for entry in tree.entries(directory) {
                let name = tree.text(entry.name);
                match entry.child {
                    Child::Whiteout => self.nodes.remove(node, name),
                    Child::Below(target) => {
                        if let Some(file) = self.copy(tree.text(target))? {
                            self.nodes.put(node, name, What::File(file))?;
                        }
                    }
                    Child::Inode(id) => {
                        let Some(inode) = tree.inode(id) else { continue };
                        if let tree::What::Directory(directory) = &inode.what {
                            if let Some(node) = self.directory(node, name, inode, directory)? {
                                open.push((directory, node));
                            }
                        } else {
                            let file = self.file(id, inode)?;
                            self.nodes.put(node, name, What::File(file))?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn root(&mut self, inode: &'a Inode, directory: &Directory) -> Result<NodeId, MergeError> {
        let root = self.nodes.root();
        let what = self.merged(inode, directory, self.nodes.what(root));
        match what {
            What::Directory(origin) if directory.opaque => Ok(self.nodes.put_root(origin)?),
            what => {
                self.nodes.change(root, what);
                Ok(root)
            }
        }
    }

    /// Puts a directory; `None` if it is not there because nothing but whiteouts speaks of it.
    fn directory(
        &mut self,
        parent: NodeId,
        name: &'a [u8],
        inode: &'a Inode,
        directory: &Directory,
    ) -> Result<Option<NodeId>, MergeError> {
        let below = self.nodes.child(parent, name);
        let below = below.and_then(|node| Some((node, self.nodes.what(node)?)));
        let below = below.filter(|(_, what)| matches!(what, What::Directory(_)));
        if below.is_none() && directory.named == (Named::Below { only_whiteouts: true }) {
            return Ok(None);
        }
        let what = self.merged(inode, directory, below.map(|(_, what)| what));
        match below {
            Some((node, _)) if !directory.opaque => {
                self.nodes.change(node, what);
                Ok(Some(node))
            }
            // Also what is opaque: the new one is empty, and what lay in the old one is gone with it.
            _ => Ok(Some(self.nodes.put(parent, name, what)?)),
        }
    }

    /// A directory over what the layers below have in its place.
    fn merged(&self, inode: &'a Inode, directory: &Directory, below: Option<What<'a>>) -> What<'a> {
        match (directory.named, below) {
            (Named::Here, _) => What::Directory(Some(Origin { layer: self.layer, inode })),
            (Named::Below { .. }, Some(What::Directory(origin))) => What::Directory(origin),
            (Named::Below { .. }, _) => What::Directory(None),
        }
    }

    fn file(&mut self, id: InodeId, inode: &'a Inode) -> Result<FileId, MergeError> {
        if let Some(Some(file)) = self.files.get(id.index()) {
            return Ok(*file);
        }
        let file = self.nodes.add_file(Origin { layer: self.layer, inode })?;
        if let Some(place) = self.files.get_mut(id.index()) {
            *place = Some(file);
        }
        Ok(file)
    }

    /// The file that all links of this layer to one lower file share.
    fn copy(&mut self, target: &[u8]) -> Result<Option<FileId>, MergeError> {
        let Some(found) = self.links.get(target) else { return Ok(None) };
        if let Some(copy) = self.copies.get(found) {
            return Ok(Some(*copy));
        }
        let Some(What::File(file)) = self.nodes.what(*found) else { return Ok(None) };
        let Some(origin) = self.nodes.file(file) else { return Ok(None) };
        let copy = self.nodes.add_file(origin)?;
        self.copies.insert(*found, copy);
        Ok(Some(copy))
    }

    /// Parts the files that links lead to from their other names, where this layer lets them show: as `link(2)` does in a
    /// mounted overlay.
    fn part(&mut self) {
        let mut known = HashMap::new();
        for (found, copy) in &self.copies {
            if self.nodes.shows(*found, &mut known) {
                self.nodes.change(*found, What::File(*copy));
            }
        }
    }
}
