//! Closes a layer's open ends, once it is known which layers lie below.
//!
//! - A parent directory that the layer does not name keeps what the layers below say about it. Overlayfs would show the upper
//!   directory's attributes, so they are copied.
//! - A hard link to a file of a lower layer becomes what `link(2)` makes of it in a mounted overlay: the file, as the lower
//!   layers have it, is copied up to its own place in this layer, unless this layer hides that place, and linked.
//!   An opaque root hides all places.
//! - A directory that holds nothing but whiteouts, and that no lower layer has, is removed: the layer never said that
//!   it exists.
//!
//! A lower symlink in the place of an implied directory is hidden by it, as with every engine that unpacks layer by layer.

pub(super) mod below;
pub(super) mod copy;

use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Stat, fstat, futimens, linkat, statat};
use rustix::io::Errno;

use super::metadata::{IMPLIED, Metadata, forget_inherited_acls, is_stand_in, opaque_mark};
use super::root::{PATH, READ, open_beneath};
use super::{
    FileContent, ImpliedDirectory, LayerPath, OpenEnds, OpenLink, UnpackError, UnpackOptions, c_name, listing,
    remove_tree,
};
use crate::error::{Result, SyscallContext, SyscallError};
use crate::layer::{DanglingLink, Name, quote};
use below::{Below, Found, has_mark};

/// Completes the layer in `into` from the layers below it, `lowers`, base first, and lists the files that it makes. `copying` is
/// told the size of each file before it is copied: a few links can ask for any number of copies.
pub(crate) fn complete(
    into: BorrowedFd<'_>,
    open: &OpenEnds,
    lowers: &[BorrowedFd<'_>],
    listing: &mut dyn Write,
    copying: &mut dyn FnMut(u64) -> Result<()>,
    options: &UnpackOptions,
) -> Result<()> {
    if open.is_empty() {
        return Ok(());
    }
    let below = Below::new(lowers, opaque_mark(options.xattrs));
    let metadata = Metadata::probe(into, options)?.among_finished();
    let links = open.links.iter().map(|link| link.path.0.as_slice()).collect();
    let (implied, root_hidden) = (open.implied.clone(), open.root_hidden);
    let mut layer = Layer {
        into,
        metadata,
        below,
        implied,
        root_hidden,
        links,
        copied_up: HashSet::new(),
        copies: BTreeMap::new(),
        files: BTreeMap::new(),
        copying,
    };
    // First of all, so that what is not there is in no link's way.
    layer.remove_empty()?;
    for link in &open.links {
        layer.link(link)?;
    }
    // Innermost first: a copied mode may close a directory, and a removed one touches its parent's time.
    for directory in std::mem::take(&mut layer.implied).iter().rev() {
        layer.complete_directory(directory)?;
    }
    let mut lines = layer.files.iter().map(|(path, content)| listing::write_line(listing, path, *content));
    Ok(lines.try_for_each(|line| line).and_then(|()| listing.flush()).syscall("write", || "listing".into())?)
}

struct Layer<'a> {
    into: BorrowedFd<'a>,
    metadata: Metadata,
    below: Below<'a>,
    /// Grows by the directories that links need.
    implied: Vec<ImpliedDirectory>,
    /// Nothing of the lower layers shows in its own place.
    root_hidden: bool,
    /// The paths of all links, which are in the way although they are not made yet.
    links: HashSet<&'a [u8]>,
    /// Files of lower layers that this one now has in their own places.
    copied_up: HashSet<Vec<Name>>,
    /// Files of lower layers that this one has under another name only, and that name.
    copies: BTreeMap<Vec<Name>, LayerPath>,
    /// What the regular files hold that were copied or linked.
    files: BTreeMap<Vec<u8>, FileContent>,
    copying: &'a mut dyn FnMut(u64) -> Result<()>,
}

impl Layer<'_> {
    /// Removes directories that hold nothing but whiteouts of what is not there. Innermost first.
    fn remove_empty(&mut self) -> Result<()> {
        let mut kept = Vec::with_capacity(self.implied.len());
        for directory in std::mem::take(&mut self.implied).into_iter().rev() {
            if directory.only_whiteouts && self.lower_directory(&directory)?.is_none() {
                let at = UnpackError::at(&directory.path.0);
                let path = directory.path.components();
                let Some((name, parents)) = path.split_last() else { continue };
                let parent = open_beneath(self.into, parents, READ).map_err(at)?;
                keep_times(parent.as_fd(), |parent| remove_tree(parent, &c_name(name)))?;
            } else {
                kept.push(directory);
            }
        }
        kept.reverse();
        self.implied = kept;
        Ok(())
    }

    fn lower_directory(&self, directory: &ImpliedDirectory) -> Result<Option<Found>> {
        let found = self.below.find(&directory.path.components(), false);
        let found = found.map_err(UnpackError::at(&directory.path.0))?;
        Ok(found.filter(|found| found.is(FileType::Directory)))
    }

    fn complete_directory(&mut self, directory: &ImpliedDirectory) -> Result<()> {
        let at = UnpackError::at(&directory.path.0);
        let lower = self.lower_directory(directory)?;
        let fd = open_beneath(self.into, &directory.path.components(), READ).map_err(&at)?;
        match lower {
            Some(lower) => {
                let attributes = copy::attributes(&lower, self.below.mark())?;
                self.metadata.apply_copy(fd.as_fd(), &directory.path.0, &attributes)?;
            }
            None => self.metadata.apply(fd.as_fd(), &directory.path.0, &IMPLIED)?,
        }
        Ok(())
    }

    fn link(&mut self, link: &OpenLink) -> Result<()> {
        let at = UnpackError::at(&link.path.0);
        let dangling = || DanglingLink::new(&link.path.0, &link.target.0);
        let (path, target) = (link.path.components(), link.target.components());
        let Some((name, parents)) = path.split_last() else { return Err(dangling().into()) };
        let parent = open_beneath(self.into, parents, READ).map_err(&at)?;
        let found = self.below.find(&target, true).map_err(&at)?.ok_or_else(dangling)?;
        if found.is(FileType::Directory) {
            return Err(dangling().into());
        }
        if is_stand_in(&found.stat) {
            self.metadata.mark_whiteouts(parent.as_fd(), &link.path.0)?;
            return keep_times(parent.as_fd(), |parent| {
                self.metadata.stand_in(parent, name).map(drop).map_err(&at).map_err(Into::into)
            });
        }
        // The path without the symlinks that lower layers have in it.
        let real: Vec<&[u8]> = found.path.iter().map(|component| &**component).collect();
        let Some((real_name, real_parents)) = real.split_last() else { return Err(dangling().into()) };
        let is_link = |path: &[&[u8]]| self.links.contains(path.join(&b'/').as_slice());
        let hidden = self.root_hidden || (1..=real.len()).any(|depth| real.get(..depth).is_some_and(is_link));
        let link_to = |from: BorrowedFd<'_>, from_name: &[u8]| -> Result<()> {
            keep_times(parent.as_fd(), |parent| {
                linkat(from, c_name(from_name), parent, c_name(name), AtFlags::empty())
                    .syscall("linkat", || format!("{}, {}", quote(from_name), quote(name)))
                    .map_err(&at)
                    .map_err(Into::into)
            })
        };
        let place = if hidden { None } else { self.own_place(real_parents).map_err(&at)? };
        if let Some(place) = place
            && self.copy_up(&found, place.as_fd(), real_name)?
        {
            link_to(place.as_fd(), real_name)?;
            self.list_link(&real.join(&b'/'), link);
            return Ok(());
        }
        // This layer hides the target's own place: only links have the file.
        if let Some(copy) = self.copies.get(&found.path)
            && let Some((copy_name, copy_parents)) = copy.components().split_last()
        {
            let place = open_beneath(self.into, copy_parents, PATH).map_err(&at)?;
            link_to(place.as_fd(), copy_name)?;
            let copy = copy.0.clone();
            self.list_link(&copy, link);
            return Ok(());
        }
        (self.copying)(found.bytes())?;
        keep_times(parent.as_fd(), |parent| copy::file(&mut self.metadata, &found, self.below.mark(), parent, name))?;
        self.list_copy(&found, link.path.0.clone())?;
        self.copies.insert(found.path, link.path.clone());
        Ok(())
    }

    fn list_copy(&mut self, found: &Found, path: Vec<u8>) -> Result<(), UnpackError> {
        if found.is(FileType::RegularFile) {
            let content = copy::content(found).map_err(UnpackError::at(&path))?;
            self.files.insert(path, content);
        }
        Ok(())
    }

    fn list_link(&mut self, target: &[u8], link: &OpenLink) {
        if let Some(content) = self.files.get(target).copied() {
            self.files.insert(link.path.0.clone(), content);
        }
    }

    /// Makes sure that a lower file is in its own place in this layer; `false` if the layer has something else there.
    fn copy_up(&mut self, found: &Found, place: BorrowedFd<'_>, name: &[u8]) -> Result<bool> {
        if self.copied_up.contains(&found.path) {
            return Ok(true);
        }
        match statat(place, c_name(name), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(false),
            Err(Errno::NOENT) => {
                let mark = self.below.mark();
                (self.copying)(found.bytes())?;
                keep_times(place, |place| copy::file(&mut self.metadata, found, mark, place, name))?;
                self.list_copy(found, found.path.join(&b'/'))?;
                self.copied_up.insert(found.path.clone());
                Ok(true)
            }
            Err(errno) => Err(UnpackError::at(name)(SyscallError::new("fstatat", quote(name), errno)).into()),
        }
    }

    /// Opens this layer's directory with the path of a lower one, making it where it is missing; `None` if this layer hides it.
    fn own_place(&mut self, path: &[&[u8]]) -> Result<Option<OwnedFd>, SyscallError> {
        let mut here = open_beneath(self.into, &[], READ)?;
        for (depth, name) in path.iter().enumerate() {
            let mut made = false;
            match statat(&here, c_name(name), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Directory => return Ok(None),
                Ok(_) => {}
                Err(Errno::NOENT) => {
                    let times = fstat(&here).syscall("fstat", String::new)?;
                    self.metadata.make_directory(here.as_fd(), name)?;
                    restore_times(here.as_fd(), &times)?;
                    let path: LayerPath = path.iter().take(depth + 1).collect();
                    self.implied.push(ImpliedDirectory { path, only_whiteouts: false });
                    made = true;
                }
                Err(errno) => return Err(SyscallError::new("fstatat", quote(name), errno)),
            }
            here = open_beneath(here.as_fd(), &[name], READ)?;
            if made {
                forget_inherited_acls(here.as_fd())?;
            }
            if has_mark(here.as_fd(), self.below.mark())? {
                return Ok(None);
            }
        }
        Ok(Some(here))
    }
}

/// Does something in a directory without a trace in its times.
fn keep_times(directory: BorrowedFd<'_>, change: impl FnOnce(BorrowedFd<'_>) -> Result<()>) -> Result<()> {
    let times = fstat(directory).syscall("fstat", String::new).map_err(UnpackError::Directory)?;
    change(directory)?;
    restore_times(directory, &times).map_err(UnpackError::Directory).map_err(Into::into)
}

fn restore_times(directory: BorrowedFd<'_>, stat: &Stat) -> Result<(), SyscallError> {
    futimens(directory, &copy::times(stat)).syscall("futimens", String::new)
}

impl Found {
    fn is(&self, kind: FileType) -> bool {
        FileType::from_raw_mode(self.stat.st_mode) == kind
    }

    /// What a copy of it takes; holes take nothing.
    fn bytes(&self) -> u64 {
        let blocks = u64::try_from(self.stat.st_blocks).unwrap_or(0).saturating_mul(512);
        if self.is(FileType::RegularFile) { blocks.min(u64::try_from(self.stat.st_size).unwrap_or(0)) } else { 0 }
    }
}
