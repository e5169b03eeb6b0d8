//! [`Fold`]: the entries of a layer, in any order, put together into what the layer says.
//!
//! The order of entries matters in two places only, as it does to everyone who writes layers: of two entries for one path the
//! later counts, and a hard link or a name that leads through a symlink refers to what stood before it. Whiteouts are
//! different:
//! they speak of lower layers, never of this one, so they wait until everything else is known ([`Fold::finish`]).
//!
//! The fold decides and remembers; it does not act. Each [`Fold::add`] answers with the one [`Step`] that a backing takes at
//! once, while the entry's data passes by; [`Meaning`] holds what can only be done at the end.

mod finish;
mod tree;

pub(crate) use finish::{DirectoryEnd, Meaning};
pub(crate) use tree::NodeId;

use std::collections::VecDeque;

use super::entry::{Attributes, Device, Entry, Kind};
use super::path::{Name, check_component, clean};
use super::whiteout::{Mark, mark};
use super::{LayerLimits, Refusal};
use crate::limits::Limit;
use tree::{Text, Tree, What};

/// Symlinks followed in one name, as in the kernel (`MAXSYMLINKS`).
const MAX_SYMLINKS: usize = 40;

#[derive(Debug)]
pub(crate) struct Fold {
    tree: Tree,
    limits: LayerLimits,
    root: Option<Attributes>,
    /// Cleaned paths as they were named; resolved when the tree is complete.
    whiteouts: Vec<Text>,
    opaque: Vec<Text>,
    /// Components of symlinks' targets that names were led through.
    followed: u64,
}

/// What a backing does for one entry, in this order: make `implied`, remove what is `displaced`, `put`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// Directories that the name leads through and that no entry has named yet, outermost first.
    pub(crate) implied: Vec<NodeId>,
    pub(crate) displaced: Displaced,
    pub(crate) put: Put,
}

/// What stood in the place before, made by an earlier step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Displaced {
    Nothing,
    Leaf,
    Tree,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Put {
    /// Nothing yet: the layers below, or an earlier step, have it.
    Nothing {
        node: NodeId,
    },
    Directory(NodeId),
    /// A new inode that is not a directory.
    Leaf(NodeId),
    /// One more name for the inode at `target`, which is as it was when that node was put.
    Link {
        node: NodeId,
        target: NodeId,
    },
}

/// Where a hard link's target was found.
enum Target {
    Here(NodeId),
    /// Not in this layer so far: its path, through this layer's symlinks.
    Below(Vec<u8>),
}

/// Where one component of a name leads.
enum Look {
    At(NodeId),
    /// This layer has said nothing of it so far.
    Missing,
    /// It is no directory.
    Blocked,
}

impl Fold {
    pub(crate) fn new(limits: &LayerLimits) -> Self {
        let limits = limits.clone();
        Self { tree: Tree::new(&limits), limits, root: None, whiteouts: Vec::new(), opaque: Vec::new(), followed: 0 }
    }

    /// Takes one more entry; `None` if nothing is to be done about it before the end.
    pub(crate) fn add(&mut self, entry: &Entry) -> Result<Option<Step>, Refusal> {
        // A cleaned name borrows from the entry; a whiteout's name alone may be longer than a file name.
        let components = clean(&entry.name, &self.limits)?;
        let mark = mark(&components)?;
        if mark != Mark::None && entry.kind == Kind::Directory && mark != Mark::Aufs {
            return Err(Refusal::Because("a whiteout that is a directory"));
        }
        let Some((last, parents)) = components.split_last() else { return self.add_root(entry).map(|()| None) };
        match mark {
            Mark::Aufs => Ok(None),
            Mark::Opaque => {
                let path = self.keep_path(parents)?;
                self.opaque.push(path);
                Ok(None)
            }
            Mark::Whiteout(name) => {
                let path = self.keep_path(&[parents, &[name]].concat())?;
                self.whiteouts.push(path);
                Ok(None)
            }
            Mark::None => {
                let mut implied = Vec::new();
                let parent = self.walk(parents, &mut implied)?;
                self.place(entry, parent, last, implied)
            }
        }
    }

    /// The path of a node from the root, for opening it.
    pub(crate) fn path(&self, node: NodeId) -> Vec<&[u8]> {
        self.tree.path(node)
    }

    /// The directory that holds a node, and the node's name in it.
    pub(crate) fn place_of(&self, node: NodeId) -> (NodeId, &[u8]) {
        (self.tree.parent(node), self.tree.name(node))
    }

    /// Whether a node is still in its place, and not displaced by a later entry.
    pub(crate) fn holds(&self, node: NodeId) -> bool {
        self.tree.is_attached(node)
    }

    /// What a directory's own entry said.
    pub(crate) fn attributes(&self, node: NodeId) -> Option<&Attributes> {
        match self.tree.what(node) {
            What::Directory(attributes) => self.tree.attributes(attributes),
            _ => None,
        }
    }

    /// Marks count as entries in any case, so only their names need watching.
    fn keep_path(&mut self, components: &[&[u8]]) -> Result<Text, Refusal> {
        self.tree.keep_text(&components.join(&b'/'))
    }

    fn add_root(&mut self, entry: &Entry) -> Result<(), Refusal> {
        if entry.kind != Kind::Directory {
            return Err(Refusal::Because("the root can only be a directory"));
        }
        self.root = Some(entry.attributes.clone());
        Ok(())
    }

    fn place(
        &mut self,
        entry: &Entry,
        parent: NodeId,
        name: &[u8],
        implied: Vec<NodeId>,
    ) -> Result<Option<Step>, Refusal> {
        let existing = self.tree.child(parent, name);
        let what = match &entry.kind {
            Kind::Directory => {
                if let Some(node) = existing
                    && self.tree.set_attributes(node, &entry.attributes)?
                {
                    // A directory over a directory: the same one, with other attributes. They are set at the end.
                    return Ok((!implied.is_empty()).then_some(Step {
                        implied,
                        displaced: Displaced::Nothing,
                        put: Put::Nothing { node },
                    }));
                }
                self.tree.directory(&entry.attributes)?
            }
            Kind::HardLink(target) => match self.target(target)? {
                Target::Here(target) => {
                    if existing == Some(target) {
                        return Ok(None);
                    }
                    return self.link(parent, name, existing, target, implied).map(Some);
                }
                Target::Below(path) => What::Open(self.tree.keep_text(&path)?),
            },
            Kind::Symlink(target) => What::Symlink(self.tree.keep_text(target)?),
            Kind::CharDevice(Device { major: 0, minor: 0 }) => {
                return Err(Refusal::Because("a character device 0:0 would be a whiteout to overlayfs"));
            }
            Kind::File { .. } | Kind::CharDevice(_) | Kind::BlockDevice(_) | Kind::Fifo => What::Leaf,
        };
        let displaced = self.displace(parent, name);
        let node = self.tree.insert(parent, name, what)?;
        let put = match what {
            What::Open(_) => Put::Nothing { node },
            What::Implied | What::Directory(_) => Put::Directory(node),
            What::Leaf | What::Symlink(_) | What::Mentioned => Put::Leaf(node),
        };
        Ok(Some(Step { implied, displaced, put }))
    }

    fn link(
        &mut self,
        parent: NodeId,
        name: &[u8],
        existing: Option<NodeId>,
        target: NodeId,
        implied: Vec<NodeId>,
    ) -> Result<Step, Refusal> {
        let what = match self.tree.what(target) {
            What::Implied | What::Directory(_) => return Err(Refusal::Because("a hard link to a directory")),
            other => other,
        };
        if existing.is_some_and(|existing| self.tree.is_inside(target, existing)) {
            return Err(Refusal::Because("a hard link into the directory that it replaces"));
        }
        let displaced = self.displace(parent, name);
        let node = self.tree.insert(parent, name, what)?;
        let put = if matches!(what, What::Open(_)) { Put::Nothing { node } } else { Put::Link { node, target } };
        Ok(Step { implied, displaced, put })
    }

    /// Takes whatever has this name out of the tree.
    fn displace(&mut self, parent: NodeId, name: &[u8]) -> Displaced {
        let Some(node) = self.tree.remove(parent, name) else { return Displaced::Nothing };
        match self.tree.what(node) {
            What::Implied | What::Directory(_) => Displaced::Tree,
            What::Leaf | What::Symlink(_) => Displaced::Leaf,
            What::Open(_) | What::Mentioned => Displaced::Nothing,
        }
    }

    /// Looks for one component of a name in `here`. A symlink's target is put in front of `left`.
    fn look(
        &mut self,
        here: NodeId,
        component: &[u8],
        left: &mut VecDeque<Name>,
        symlinks: &mut usize,
    ) -> Result<Look, Refusal> {
        if component == b".." {
            return Ok(Look::At(self.tree.parent(here)));
        }
        let Some(child) = self.tree.child(here, component) else { return Ok(Look::Missing) };
        match self.tree.what(child) {
            What::Implied | What::Directory(_) | What::Mentioned => Ok(Look::At(child)),
            What::Symlink(target) => self.follow(target, here, left, symlinks).map(Look::At),
            What::Leaf | What::Open(_) => Ok(Look::Blocked),
        }
    }

    /// Puts a symlink's target in front of the rest of a path; answers where that path goes on.
    fn follow(
        &mut self,
        target: Text,
        here: NodeId,
        left: &mut VecDeque<Name>,
        symlinks: &mut usize,
    ) -> Result<NodeId, Refusal> {
        *symlinks += 1;
        if *symlinks > MAX_SYMLINKS {
            return Err(Refusal::Because("its name leads through too many symlinks"));
        }
        let target = self.tree.text(target);
        for component in target.rsplit(|byte| *byte == b'/').filter(|component| !matches!(*component, b"" | b".")) {
            left.push_front(component.into());
            self.followed += 1;
        }
        // A short name can lead through forty long symlinks, and an archive has many names.
        let limit = self.limits.symlink_components;
        if self.followed > limit {
            return Err(Refusal::Limit { what: Limit::SymlinkComponents, limit });
        }
        Ok(if target.starts_with(b"/") { NodeId::ROOT } else { here })
    }

    /// Goes to the directory with this path, through symlinks of this layer, staying inside the root as a process would that
    /// has it as its root. What is missing on the way becomes an implied directory.
    fn walk(&mut self, path: &[&[u8]], implied: &mut Vec<NodeId>) -> Result<NodeId, Refusal> {
        let mut here = NodeId::ROOT;
        // Nearly every name leads through directories alone that are known already.
        let mut known = path.iter();
        let rest = loop {
            let rest = known.as_slice();
            let Some(component) = known.next() else { return Ok(here) };
            match self.tree.child(here, component) {
                Some(child) if self.tree.what(child).is_directory() => here = child,
                _ => break rest,
            }
        };
        let mut left: VecDeque<Name> = rest.iter().map(|&component| component.into()).collect();
        let mut symlinks = 0;
        while let Some(component) = left.pop_front() {
            match self.look(here, &component, &mut left, &mut symlinks)? {
                Look::At(node) => here = node,
                Look::Missing => {
                    check_component(&component)?;
                    here = self.tree.insert(here, &component, What::Implied)?;
                    implied.push(here);
                }
                Look::Blocked => return Err(Refusal::Because("it lies under something that is not a directory")),
            }
        }
        Ok(here)
    }

    /// Finds a hard link's target. The last component is not followed: a link to a symlink is one more name for the symlink.
    fn target(&mut self, target: &[u8]) -> Result<Target, Refusal> {
        let components = clean(target, &self.limits).map_err(|refusal| match refusal {
            Refusal::Because(_) => Refusal::Because("a hard link to a name outside of the layer"),
            limit => limit,
        })?;
        if components.is_empty() {
            return Err(Refusal::Because("a hard link to a directory"));
        }
        let mut left: VecDeque<Name> = components.iter().map(|&component| component.into()).collect();
        let mut here = NodeId::ROOT;
        let mut symlinks = 0;
        while let Some(component) = left.pop_front() {
            if left.is_empty()
                && let Some(child) = self.tree.child(here, &component)
            {
                return Ok(Target::Here(child));
            }
            match self.look(here, &component, &mut left, &mut symlinks)? {
                Look::At(node) => here = node,
                Look::Missing => {
                    let mut path: Vec<Name> = self.tree.path(here).into_iter().map(Name::from).collect();
                    left.push_front(component);
                    for component in left {
                        match &*component {
                            b".." => drop(path.pop()),
                            _ => path.push(component),
                        }
                    }
                    return Ok(Target::Below(path.join(&b'/')));
                }
                Look::Blocked => {
                    return Err(Refusal::Because("a hard link to a name under something that is not a directory"));
                }
            }
        }
        Ok(Target::Here(here))
    }
}

#[cfg(test)]
mod tests;
