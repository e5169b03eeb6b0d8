//! The end of a layer: whiteouts meet the finished tree, and what the layer leaves to those below it is listed.

use std::collections::VecDeque;

use super::super::LayerError;
use super::super::entry::Attributes;
use super::super::path::Name;
use super::tree::{NodeId, What};
use super::{Fold, Look, Refusal};

/// What a layer says beyond the things that were put already.
#[derive(Debug)]
pub(crate) struct Meaning {
    /// The layer's own entry for its root.
    pub(crate) root: Option<Attributes>,
    /// The root is opaque: no lower layer shows.
    pub(crate) opaque_root: bool,
    /// All directories but the root, each behind those that hold it.
    pub(crate) directories: Vec<DirectoryEnd>,
    /// Each in the directory that is to hold it.
    pub(crate) whiteouts: Vec<(NodeId, Name)>,
    /// Directories without an entry of their own that lower layers may have: `true` if they hold nothing but whiteouts.
    pub(crate) implied: Vec<(NodeId, bool)>,
    /// Hard links into lower layers: the link, and the path of its target.
    pub(crate) links: Vec<(NodeId, Vec<Name>)>,
}

#[derive(Debug)]
pub(crate) struct DirectoryEnd {
    pub(crate) node: NodeId,
    /// `None` for a directory that has no entry of its own.
    pub(crate) attributes: Option<Attributes>,
    /// Nothing that lower layers have in it shows.
    pub(crate) opaque: bool,
    /// Some of [`Meaning::whiteouts`] lie in it.
    pub(crate) whiteouts: bool,
    /// No step has made it: only whiteouts speak of it.
    pub(crate) unmade: bool,
}

impl Fold {
    /// Says the rest. Nodes stay known afterwards, for [`Fold::path`].
    pub(crate) fn finish(&mut self) -> Result<Meaning, LayerError> {
        self.apply_marks()?;
        let opaque_root = self.tree.node(NodeId::ROOT).opaque;
        let mut meaning = Meaning {
            root: self.root.take(),
            opaque_root,
            directories: Vec::new(),
            whiteouts: Vec::new(),
            implied: Vec::new(),
            links: Vec::new(),
        };
        // Outermost first; `hidden` says that nothing of the lower layers shows there anyway.
        let mut open = vec![(NodeId::ROOT, opaque_root)];
        while let Some((directory, hidden)) = open.pop() {
            for node in self.tree.children(directory) {
                let marks = self.tree.node(node);
                match self.tree.what(node) {
                    What::Directory { attributes } => {
                        // An entry beats a whiteout of its path: the directory is there, what it had below is not.
                        let opaque = marks.opaque || marks.whiteout;
                        if attributes.is_none() && !hidden && !marks.whiteout {
                            meaning.implied.push((node, false));
                        }
                        let attributes = attributes.as_deref().cloned();
                        let whiteouts = !hidden && !opaque && self.holds_whiteouts(node);
                        let end =
                            DirectoryEnd { node, attributes, opaque: opaque && !hidden, whiteouts, unmade: false };
                        meaning.directories.push(end);
                        open.push((node, hidden || opaque));
                    }
                    What::Mentioned if hidden => {}
                    What::Mentioned if marks.whiteout => {
                        meaning.whiteouts.push((directory, self.tree.name(node).into()));
                    }
                    What::Mentioned => {
                        meaning.implied.push((node, true));
                        let opaque = marks.opaque;
                        let whiteouts = !opaque && self.holds_whiteouts(node);
                        let end = DirectoryEnd { node, attributes: None, opaque, whiteouts, unmade: true };
                        meaning.directories.push(end);
                        open.push((node, opaque));
                    }
                    What::Open(target) => {
                        if self.says(target) {
                            let path = self.tree.path(node).join(&b'/');
                            return Err(LayerError::entry(&path, Refusal::Because("a hard link to a later entry")));
                        }
                        meaning.links.push((node, target.to_vec()));
                    }
                    What::Leaf { .. } => {}
                }
            }
        }
        Ok(meaning)
    }

    fn apply_marks(&mut self) -> Result<(), LayerError> {
        for path in std::mem::take(&mut self.whiteouts) {
            let node = self.whiteout_place(&path).map_err(|reason| LayerError::entry(&path.join(&b'/'), reason))?;
            if let Some(node) = node {
                self.tree.node_mut(node).whiteout = true;
            }
        }
        for path in std::mem::take(&mut self.opaque) {
            let node = self.walk_marks(&path).map_err(|reason| LayerError::entry(&path.join(&b'/'), reason))?;
            if let Some(node) = node {
                self.tree.node_mut(node).opaque = true;
            }
        }
        Ok(())
    }

    /// The node that a whiteout speaks of. The last component is not followed.
    fn whiteout_place(&mut self, path: &[Name]) -> Result<Option<NodeId>, Refusal> {
        let Some((name, parents)) = path.split_last() else { return Ok(None) };
        let Some(parent) = self.walk_marks(parents)? else { return Ok(None) };
        match self.tree.child(parent, name) {
            Some(node) => Ok(Some(node)),
            None => self.insert(parent, name, What::Mentioned).map(Some),
        }
    }

    /// Like [`Fold::walk`], but what is missing is only mentioned, and a mark below something that is no directory means
    /// nothing: `None`.
    fn walk_marks(&mut self, path: &[Name]) -> Result<Option<NodeId>, Refusal> {
        let mut left: VecDeque<Name> = path.iter().cloned().collect();
        let mut here = NodeId::ROOT;
        let mut symlinks = 0;
        while let Some(component) = left.pop_front() {
            match self.look(here, &component, &mut left, &mut symlinks)? {
                Look::At(node) => here = node,
                Look::Missing => here = self.insert(here, &component, What::Mentioned)?,
                Look::Blocked => return Ok(None),
            }
        }
        Ok(Some(here))
    }

    fn holds_whiteouts(&self, directory: NodeId) -> bool {
        self.tree.children(directory).any(|child| {
            let child = self.tree.node(child);
            child.whiteout && matches!(child.what, What::Mentioned)
        })
    }

    /// Whether this layer has an entry at this path.
    fn says(&self, path: &[Name]) -> bool {
        let mut here = NodeId::ROOT;
        for component in path {
            match self.tree.child(here, component) {
                Some(child) => here = child,
                None => return false,
            }
        }
        !matches!(self.tree.what(here), What::Mentioned)
    }
}
