//! Finds what hard links into lower layers mean, in the tree of the layers below.

use std::collections::HashMap;

use super::super::tree::{self, Child, Directory, Tree};
use super::nodes::{NodeId, Nodes, What};
use crate::layer::DanglingLink;

/// Symlinks followed in one name, as in the kernel (`MAXSYMLINKS`).
const MAX_SYMLINKS: usize = 40;

/// The files that a layer's hard links lead to, by the targets' paths.
pub(super) type Links<'a> = HashMap<&'a [u8], NodeId>;

/// Finds the targets of all links of `layer` in `nodes`, to which it has not been applied yet.
pub(super) fn links<'a>(nodes: &Nodes<'a>, layer: &'a Tree) -> Result<Links<'a>, DanglingLink> {
    let mut links = Links::new();
    let mut below = Below { nodes, through: HashMap::new() };
    for (holder, directory) in directories(layer) {
        for entry in layer.entries(directory) {
            let Child::Below(target) = entry.child else { continue };
            let target = layer.text(target);
            if links.contains_key(target) {
                continue;
            }
            let found = below.find(target).ok_or_else(|| DanglingLink::new(&path_of(layer, holder, entry), target))?;
            links.insert(target, found);
        }
    }
    Ok(links)
}

struct Below<'n, 'a> {
    nodes: &'n Nodes<'a>,
    /// Where symlinks lead that were followed already, and through how many. A layer can have any number of links through the
    /// same long symlinks.
    through: HashMap<NodeId, (NodeId, usize)>,
}

/// What is left of a path.
enum Step<'a> {
    Name(&'a [u8]),
    /// The target of this symlink is behind us; so many symlinks were followed before it.
    Through {
        symlink: NodeId,
        before: usize,
    },
}

impl<'a> Below<'_, 'a> {
    /// Finds anything but a directory. Symlinks on the way, not at the end, are followed inside the root. What lies behind more
    /// of them than the kernel follows is nowhere.
    fn find(&mut self, path: &'a [u8]) -> Option<NodeId> {
        // The next step stands last.
        let mut left: Vec<Step<'a>> = names(path).map(Step::Name).collect();
        let mut here = self.nodes.root();
        let mut symlinks = 0;
        while let Some(step) = left.pop() {
            let name = match step {
                Step::Name(b"..") => {
                    here = self.nodes.parent(here);
                    continue;
                }
                Step::Name(name) => name,
                Step::Through { symlink, before } => {
                    self.through.insert(symlink, (here, symlinks - before));
                    continue;
                }
            };
            let next = self.nodes.child(here, name)?;
            match self.nodes.what(next)? {
                What::File(_) if left.is_empty() => return Some(next),
                What::Directory(_) => here = next,
                What::File(_) => {
                    if let Some((end, count)) = self.through.get(&next) {
                        here = *end;
                        symlinks += count;
                    } else {
                        let target = self.target(next)?;
                        left.push(Step::Through { symlink: next, before: symlinks });
                        left.extend(names(target).map(Step::Name));
                        if target.starts_with(b"/") {
                            here = self.nodes.root();
                        }
                        symlinks += 1;
                    }
                    if symlinks > MAX_SYMLINKS {
                        return None;
                    }
                }
            }
        }
        None
    }

    fn target(&self, node: NodeId) -> Option<&'a [u8]> {
        let Some(What::File(file)) = self.nodes.what(node) else { return None };
        let origin = self.nodes.file(file)?;
        match origin.inode.what {
            tree::What::Symlink(target) => Some(origin.layer.tree.text(target)),
            _ => None,
        }
    }
}

/// The names in a path that mean something, last first.
fn names(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.rsplit(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b"."))
}

/// The path of an entry in the directory `holder`, for a person to read. Looked for only when there is an error to tell.
fn path_of(layer: &Tree, holder: usize, entry: &tree::Entry) -> Vec<u8> {
    let mut parents: HashMap<usize, (usize, &[u8])> = HashMap::new();
    for (parent, directory) in directories(layer) {
        for other in layer.entries(directory) {
            if let Child::Inode(child) = other.child {
                parents.insert(child.index(), (parent, layer.text(other.name)));
            }
        }
    }
    let mut names = vec![layer.text(entry.name)];
    let mut here = holder;
    while let Some((parent, name)) = parents.remove(&here) {
        names.push(name);
        here = parent;
    }
    names.reverse();
    names.join(&b'/')
}

/// All directories, each with the index of its inode.
fn directories(layer: &Tree) -> impl Iterator<Item = (usize, &Directory)> {
    layer.inodes().iter().enumerate().filter_map(|(index, inode)| match &inode.what {
        tree::What::Directory(directory) => Some((index, directory)),
        _ => None,
    })
}
