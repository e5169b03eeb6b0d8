//! How a tree's names lead to its inodes: which ones are reached at all, from where, and by how many names.

use crate::erofs::tree::{Child, InodeId, Tree};
use crate::layer::quote;

/// How an inode is reached from the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    /// Not at all: what replaced it came later in the archive. It is left out of the image.
    Nowhere,
    /// A directory, by its name in this one. The root lies in itself.
    In(InodeId),
    /// Something else, by this many names.
    Names(u32),
}

#[derive(Debug)]
pub(super) struct Links {
    /// Of all inodes, in the order of their ids.
    links: Vec<Link>,
    /// How many names are whiteouts.
    pub(super) whiteouts: u32,
}

impl Links {
    pub(super) fn new(tree: &Tree) -> Self {
        let mut links = vec![Link::Nowhere; tree.inodes().len()];
        let mut whiteouts = 0_u32;
        let mut pending = Vec::new();
        if let Some(root) = links.first_mut() {
            *root = Link::In(InodeId::ROOT);
            pending.push(InodeId::ROOT);
        }
        while let Some(id) = pending.pop() {
            let Some(directory) = tree.directory(id) else { continue };
            for entry in tree.entries(directory) {
                let child = match entry.child {
                    Child::Inode(child) => child,
                    Child::Whiteout => {
                        whiteouts = whiteouts.saturating_add(1);
                        continue;
                    }
                    Child::Below(_) => continue,
                };
                let Some(link) = links.get_mut(child.index()) else { continue };
                match link {
                    Link::Nowhere if tree.directory(child).is_some() => {
                        *link = Link::In(id);
                        pending.push(child);
                    }
                    Link::Nowhere => *link = Link::Names(1),
                    Link::Names(names) => *names = names.saturating_add(1),
                    // Directories have one name.
                    Link::In(_) => {}
                }
            }
        }
        Self { links, whiteouts }
    }

    pub(super) fn get(&self, id: InodeId) -> Link {
        self.links.get(id.index()).copied().unwrap_or(Link::Nowhere)
    }

    /// The directory that a directory lies in.
    pub(super) fn parent(&self, directory: InodeId) -> InodeId {
        match self.get(directory) {
            Link::In(parent) => parent,
            _ => InodeId::ROOT,
        }
    }

    /// A path of an inode, for messages; looks through the whole tree.
    pub(super) fn path(&self, tree: &Tree, inode: InodeId) -> String {
        let mut names = Vec::new();
        let mut found = self.name(tree, inode);
        while let Some((directory, name)) = found {
            names.push(name);
            found = (directory != InodeId::ROOT).then(|| self.name(tree, directory)).flatten();
        }
        names.reverse();
        quote(&if names.is_empty() { b".".to_vec() } else { names.join(&b'/') })
    }

    /// A name of an inode other than the root, and the directory in which it stands.
    fn name<'t>(&self, tree: &'t Tree, inode: InodeId) -> Option<(InodeId, &'t [u8])> {
        let name_in = |id: InodeId| {
            let entries = tree.entries(tree.directory(id)?);
            let entry = entries.iter().find(|entry| entry.child == Child::Inode(inode))?;
            Some((id, tree.text(entry.name)))
        };
        match self.get(inode) {
            _ if inode == InodeId::ROOT => None,
            Link::In(parent) => name_in(parent),
            _ => tree.ids().filter(|id| self.get(*id) != Link::Nowhere).find_map(name_in),
        }
    }
}
