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

/// What a pass over the tree knows about a node: nodes stand behind their parents, so that one pass from the first to the last
/// is enough.
#[derive(Debug, Clone, Copy, Default)]
struct Mark {
    /// It, or what holds it, was displaced.
    detached: bool,
    /// Nothing of the lower layers shows at this place anyway.
    hidden: bool,
    /// Nothing of the lower layers shows in it.
    hides: bool,
    /// A whiteout without an entry lies in it.
    holds_whiteouts: bool,
}

impl Fold {
    /// Says the rest. Nodes stay known afterwards, for [`Fold::path`].
    pub(crate) fn finish(&mut self) -> Result<Meaning, LayerError> {
        self.apply_marks()?;
        let marks = self.marks();
        let mark = |node: NodeId| marks.get(node.index()).copied().unwrap_or_default();
        let mut meaning = Meaning {
            root: self.root.take(),
            opaque_root: mark(NodeId::ROOT).hides,
            directories: Vec::new(),
            whiteouts: Vec::new(),
            implied: Vec::new(),
            links: Vec::new(),
        };
        for node in self.tree.ids() {
            let Mark { detached, hidden, hides, holds_whiteouts } = mark(node);
            if detached {
                continue;
            }
            let place = self.tree.node(node);
            let end = |unmade| DirectoryEnd {
                node,
                opaque: hides && !hidden,
                whiteouts: holds_whiteouts && !hides && !hidden,
                unmade,
            };
            match place.what {
                What::Directory(attributes) => {
                    if attributes.is_none() && !hidden && !place.whiteout {
                        meaning.implied.push((node, false));
                    }
                    meaning.directories.push(end(false));
                }
                What::Mentioned if hidden => {}
                What::Mentioned if place.whiteout => meaning.whiteouts.push(node),
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

    /// One mark a node, the root's first.
    fn marks(&self) -> Vec<Mark> {
        let root = Mark { hides: self.tree.node(NodeId::ROOT).opaque, ..Mark::default() };
        let mut marks = vec![root];
        for id in self.tree.ids() {
            let node = self.tree.node(id);
            let parent = self.tree.parent(id).index();
            let above = marks.get(parent).copied().unwrap_or_default();
            let hidden = above.hidden || above.hides;
            let detached = above.detached || node.removed;
            // An entry beats a whiteout of its path: a directory is there, what it had below is not. A whiteout without an entry
            // hides what lies under it all the more.
            let hides = node.opaque || node.whiteout;
            if !detached
                && node.whiteout
                && node.what == What::Mentioned
                && let Some(parent) = marks.get_mut(parent)
            {
                parent.holds_whiteouts = true;
            }
            marks.push(Mark { detached, hidden, hides, holds_whiteouts: false });
        }
        marks
    }

    fn apply_marks(&mut self) -> Result<(), LayerError> {
        let refused = |path: &[u8], reason| LayerError::entry(path, reason);
        for path in std::mem::take(&mut self.whiteouts) {
            let path = self.tree.text(path).to_vec();
            if let Some(node) = self.whiteout_place(&path).map_err(|reason| refused(&path, reason))? {
                self.tree.node_mut(node).whiteout = true;
            }
        }
        for path in std::mem::take(&mut self.opaque) {
            let path = self.tree.text(path).to_vec();
            if let Some(node) = self.walk_marks(components(&path)).map_err(|reason| refused(&path, reason))? {
                self.tree.node_mut(node).opaque = true;
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
