//! The end of a layer: whiteouts meet the finished tree, and what the layer leaves to those below it is listed.

use std::collections::VecDeque;

use super::super::LayerError;
use super::super::entry::Attributes;
use super::super::path::Name;
use super::tree::{Marks, NodeId, What};
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
    pub(crate) whiteouts: Vec<NodeId>,
    /// Directories without an entry of their own that lower layers may have: `true` if they hold nothing but whiteouts.
    pub(crate) implied: Vec<(NodeId, bool)>,
    /// Hard links into lower layers: the link, and the path of its target.
    pub(crate) links: Vec<(NodeId, Vec<u8>)>,
}

/// A directory at the layer's end. Its own attributes, if an entry named it, are [`Fold::attributes`].
#[derive(Debug)]
pub(crate) struct DirectoryEnd {
    pub(crate) node: NodeId,
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
        self.spread_marks();
        let mut meaning = Meaning {
            root: self.root.take(),
            opaque_root: self.tree.marks(NodeId::ROOT).has(Marks::HIDES),
            directories: Vec::new(),
            whiteouts: Vec::new(),
            implied: Vec::new(),
            links: Vec::new(),
        };
        for node in self.tree.ids() {
            let marks = self.tree.marks(node);
            let (hidden, hides) = (marks.has(Marks::HIDDEN), marks.has(Marks::HIDES));
            let end = |unmade| DirectoryEnd {
                node,
                opaque: hides && !hidden,
                whiteouts: marks.has(Marks::HOLDS_WHITEOUTS) && !hides && !hidden,
                unmade,
            };
            match self.tree.what(node) {
                _ if marks.has(Marks::DETACHED) => {}
                What::Directory(_) => meaning.directories.push(end(false)),
                What::Implied => {
                    if !hidden && !marks.has(Marks::WHITEOUT) {
                        meaning.implied.push((node, false));
                    }
                    meaning.directories.push(end(false));
                }
                What::Mentioned if hidden => {}
                What::Mentioned if marks.has(Marks::WHITEOUT) => meaning.whiteouts.push(node),
                What::Mentioned => {
                    meaning.implied.push((node, true));
                    meaning.directories.push(end(true));
                }
                What::Open(target) => {
                    let target = self.tree.text(target).to_vec();
                    if self.says(&target) {
                        let path = self.tree.path(node).join(&b'/');
                        return Err(LayerError::entry(&path, Refusal::Because("a hard link to a later entry")));
                    }
                    meaning.links.push((node, target));
                }
                What::Leaf | What::Symlink(_) => {}
            }
        }
        Ok(meaning)
    }

    /// Marks what lies in marked directories. Nodes stand behind their parents, so that one pass is enough.
    fn spread_marks(&mut self) {
        for id in self.tree.ids() {
            let parent = self.tree.parent(id);
            let (marks, above) = (self.tree.marks(id), self.tree.marks(parent));
            if marks.has(Marks::REMOVED) || above.has(Marks::DETACHED) {
                self.tree.mark(id, Marks::DETACHED);
                continue;
            }
            // An entry beats a whiteout of its path: a directory is there, what it had below is not. A whiteout without an
            // entry hides what lies under it all the more.
            if above.has(Marks::HIDES) || above.has(Marks::HIDDEN) {
                self.tree.mark(id, Marks::HIDDEN);
            }
            if marks.has(Marks::WHITEOUT) && self.tree.what(id) == What::Mentioned {
                self.tree.mark(parent, Marks::HOLDS_WHITEOUTS);
            }
        }
    }

    fn apply_marks(&mut self) -> Result<(), LayerError> {
        let refused = |path: &[u8], reason| LayerError::entry(path, reason);
        for path in std::mem::take(&mut self.whiteouts) {
            let path = self.tree.text(path).to_vec();
            if let Some(node) = self.whiteout_place(&path).map_err(|reason| refused(&path, reason))? {
                self.tree.mark(node, Marks::WHITEOUT);
            }
        }
        for path in std::mem::take(&mut self.opaque) {
            let path = self.tree.text(path).to_vec();
            if let Some(node) = self.walk_marks(components(&path)).map_err(|reason| refused(&path, reason))? {
                self.tree.mark(node, Marks::OPAQUE);
            }
        }
        Ok(())
    }

    /// The node that a whiteout speaks of. The last component is not followed.
    fn whiteout_place(&mut self, path: &[u8]) -> Result<Option<NodeId>, Refusal> {
        let mut parents = components(path);
        let Some(name) = parents.next_back() else { return Ok(None) };
        let Some(parent) = self.walk_marks(parents)? else { return Ok(None) };
        match self.tree.child(parent, name) {
            Some(node) => Ok(Some(node)),
            None => self.tree.insert(parent, name, What::Mentioned).map(Some),
        }
    }

    /// Like [`Fold::walk`], but what is missing is only mentioned, and a mark below something that is no directory means
    /// nothing: `None`.
    fn walk_marks<'a>(&mut self, path: impl Iterator<Item = &'a [u8]>) -> Result<Option<NodeId>, Refusal> {
        let mut left: VecDeque<Name> = path.map(Name::from).collect();
        let mut here = NodeId::ROOT;
        let mut symlinks = 0;
        while let Some(component) = left.pop_front() {
            match self.look(here, &component, &mut left, &mut symlinks)? {
                Look::At(node) => here = node,
                Look::Missing => here = self.tree.insert(here, &component, What::Mentioned)?,
                Look::Blocked => return Ok(None),
            }
        }
        Ok(Some(here))
    }

    /// Whether this layer has an entry at this path.
    fn says(&self, path: &[u8]) -> bool {
        let mut here = NodeId::ROOT;
        for component in components(path) {
            match self.tree.child(here, component) {
                Some(child) => here = child,
                None => return false,
            }
        }
        !matches!(self.tree.what(here), What::Mentioned)
    }
}

/// The components of a cleaned path; none for the root.
fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|component| !component.is_empty())
}
