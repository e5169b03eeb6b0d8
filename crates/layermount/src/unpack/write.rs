//! Makes what the fold says.

use std::collections::HashSet;
use std::io::{self, BufRead, Write};
use std::os::fd::{AsFd, BorrowedFd};

use flate2::Crc;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ftruncate, linkat, makedev, mknodat, openat, symlinkat, unlinkat};
use rustix::io::{Errno, pwrite, retry_on_intr, write};

use super::checksum::Checksum;
use super::contents::Contents;
use super::metadata::{IMPLIED, Metadata};
use super::root::{READ, Root, open_beneath};
use super::{FileContent, Skipped, UnpackError, c_name, listing, remove_tree};
use crate::error::{Result, SyscallContext, SyscallError};
use crate::layer::{
    Archive, Attributes, Device, DirectoryEnd, Displaced, Entry, Fold, Kind, Meaning, NodeId, Put, Region, Step, quote,
};

#[derive(Debug)]
pub(super) struct Writer<'fd> {
    root: Root<'fd>,
    metadata: Metadata,
    /// Devices that could not be made, and other names for them.
    missing: HashSet<NodeId>,
    /// The directories of those.
    of_missing: HashSet<NodeId>,
    /// Of all regular files, also those that were displaced.
    contents: Contents,
}

impl<'fd> Writer<'fd> {
    pub(super) fn new(root: Root<'fd>, metadata: Metadata) -> Self {
        Self { root, metadata, missing: HashSet::new(), of_missing: HashSet::new(), contents: Contents::default() }
    }

    pub(super) fn skipped(&self) -> Skipped {
        self.metadata.skipped
    }

    /// Lists the files that are there in the end.
    pub(super) fn list(&self, fold: &Fold, to: &mut dyn Write) -> io::Result<()> {
        for (node, content) in self.contents.iter().filter(|(node, _)| fold.holds(*node)) {
            listing::write_line(to, &joined(fold, node), content)?;
        }
        Ok(())
    }

    /// Does one step; answers how many bytes of content were written.
    pub(super) fn take(
        &mut self,
        fold: &Fold,
        step: &Step,
        entry: &Entry,
        archive: &mut Archive<impl BufRead>,
    ) -> Result<u64> {
        let at = UnpackError::at(&entry.name);
        let Step { implied, displaced, put } = step;
        for directory in implied {
            self.make_directory(fold, *directory).map_err(&at)?;
        }
        let (Put::Directory(node) | Put::Leaf(node) | Put::Link { node, .. } | Put::Nothing { node }) = *put;
        let (parent, name) = fold.place_of(node);
        let parent = self.root.directory(fold, parent).map_err(&at)?;
        match displaced {
            Displaced::Nothing => {}
            Displaced::Leaf => match unlinkat(&parent, name, AtFlags::empty()) {
                // A device that could not be made, on a file system where nothing stands in for it.
                Err(Errno::NOENT) => {}
                other => other.syscall("unlinkat", || quote(name)).map_err(&at)?,
            },
            Displaced::Tree => remove_tree(parent.as_fd(), &c_name(name))?,
        }
        match put {
            Put::Nothing { .. } => Ok(0),
            Put::Directory(_) => {
                self.metadata.make_directory(parent.as_fd(), name).map_err(&at).map(|()| 0).map_err(Into::into)
            }
            Put::Leaf(node) => self.make_leaf(fold, parent.as_fd(), *node, entry, archive),
            Put::Link { node, target } => {
                self.link(fold, parent.as_fd(), *node, *target).map_err(at).map(|()| 0).map_err(Into::into)
            }
        }
    }

    /// Whiteouts, opaque marks, and the directories' own attributes.
    pub(super) fn finish(&mut self, fold: &Fold, meaning: &Meaning) -> Result<()> {
        for directory in meaning.directories.iter().filter(|directory| directory.unmade) {
            self.make_directory(fold, directory.node).map_err(UnpackError::at(&joined(fold, directory.node)))?;
        }
        for whiteout in &meaning.whiteouts {
            let (parent, name) = fold.place_of(*whiteout);
            let at = UnpackError::at(name);
            let parent = self.root.directory(fold, parent).map_err(&at)?;
            mknodat(&parent, name, FileType::CharacterDevice, Mode::empty(), makedev(0, 0))
                .syscall("mknodat", || format!("{}, S_IFCHR, makedev(0, 0)", quote(name)))
                .map_err(at)?;
        }
        for DirectoryEnd { node, opaque, whiteouts, .. } in meaning.directories.iter().rev() {
            let path = joined(fold, *node);
            let (parent, name) = fold.place_of(*node);
            let mut open = || -> Result<_, SyscallError> {
                let parent = self.root.directory(fold, parent)?;
                open_beneath(parent.as_fd(), &[name], READ)
            };
            let fd = open().map_err(UnpackError::at(&path))?;
            if *opaque {
                self.metadata.mark_opaque(fd.as_fd(), &path)?;
            }
            if *whiteouts || self.of_missing.contains(node) {
                self.metadata.mark_whiteouts(fd.as_fd(), &path)?;
            }
            self.metadata.apply(fd.as_fd(), &path, fold.attributes(*node).unwrap_or(&IMPLIED))?;
        }
        Ok(())
    }

    fn make_directory(&mut self, fold: &Fold, node: NodeId) -> Result<(), SyscallError> {
        let (parent, name) = fold.place_of(node);
        let parent = self.root.directory(fold, parent)?;
        self.metadata.make_directory(parent.as_fd(), name)
    }

    fn make_leaf(
        &mut self,
        fold: &Fold,
        parent: BorrowedFd<'_>,
        node: NodeId,
        entry: &Entry,
        archive: &mut Archive<impl BufRead>,
    ) -> Result<u64> {
        let at = UnpackError::at(&entry.name);
        let attributes = &entry.attributes;
        let (_, name) = fold.place_of(node);
        match &entry.kind {
            Kind::File { size, sparse } => {
                return self.make_file(parent, name, node, (*size, sparse.as_deref()), entry, archive);
            }
            Kind::Symlink(target) => {
                symlinkat(target, parent, name)
                    .syscall("symlinkat", || format!("{}, {}", quote(target), quote(name)))
                    .map_err(at)?;
                self.metadata.apply_unopened(parent, name, true, attributes)?;
            }
            Kind::Fifo => self.make_special(fold, parent, node, (FileType::Fifo, None), attributes)?,
            Kind::CharDevice(device) => {
                self.make_special(fold, parent, node, (FileType::CharacterDevice, Some(*device)), attributes)?;
            }
            Kind::BlockDevice(device) => {
                self.make_special(fold, parent, node, (FileType::BlockDevice, Some(*device)), attributes)?;
            }
            // The fold puts these otherwise.
            Kind::Directory | Kind::HardLink(_) => {}
        }
        Ok(0)
    }

    fn make_special(
        &mut self,
        fold: &Fold,
        parent: BorrowedFd<'_>,
        node: NodeId,
        (kind, device): (FileType, Option<Device>),
        attributes: &Attributes,
    ) -> Result<(), UnpackError> {
        let (directory, name) = fold.place_of(node);
        let number = device.map_or(0, |Device { major, minor }| makedev(major, minor));
        match mknodat(parent, name, kind, Mode::RUSR | Mode::WUSR, number) {
            // Devices are for root in the initial user namespace alone.
            Err(Errno::PERM) if device.is_some() => {
                self.metadata.stand_in(parent, name).map_err(UnpackError::at(name))?;
                self.missing.insert(node);
                self.of_missing.insert(directory);
                return Ok(());
            }
            other => other.syscall("mknodat", || quote(name)).map_err(UnpackError::at(name))?,
        }
        self.metadata.apply_unopened(parent, name, false, attributes)
    }

    fn make_file(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        node: NodeId,
        (size, sparse): (u64, Option<&[Region]>),
        entry: &Entry,
        archive: &mut Archive<impl BufRead>,
    ) -> Result<u64> {
        let at = UnpackError::at(&entry.name);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(parent, name, flags, Mode::RUSR | Mode::WUSR)
            .syscall("openat", || format!("{}, O_CREAT|O_EXCL|O_NOFOLLOW", quote(name)))
            .map_err(&at)?;
        let file = file.as_fd();
        let mut written = 0;
        match sparse {
            None => {
                let mut crc = Crc::new();
                while let piece @ [_, ..] = archive.data()? {
                    let count = retry_on_intr(|| write(file, piece)).syscall("write", || quote(name)).map_err(&at)?;
                    crc.update(piece.get(..count).unwrap_or(piece));
                    archive.consume(count);
                    written += count as u64;
                }
                self.contents.push(node, FileContent { size: written, checksum: crc.sum() });
            }
            Some(regions) => {
                ftruncate(file, size).syscall("ftruncate", || format!("{}, {size}", quote(name))).map_err(&at)?;
                let mut checksum = Checksum::default();
                let mut end = 0;
                for Region { offset, length } in regions {
                    checksum.skip(offset - end);
                    let mut done = 0;
                    while done < *length {
                        let piece = archive.data()?;
                        let left = usize::try_from(length - done).unwrap_or(usize::MAX);
                        let piece = piece.get(..left).unwrap_or(piece);
                        let count = retry_on_intr(|| pwrite(file, piece, offset + done))
                            .syscall("pwrite", || quote(name))
                            .map_err(&at)?;
                        checksum.update(piece.get(..count).unwrap_or(piece));
                        archive.consume(count);
                        done += count as u64;
                    }
                    end = offset + length;
                    written += length;
                }
                checksum.skip(size - end);
                self.contents.push(node, FileContent { size, checksum: checksum.sum() });
            }
        }
        self.metadata.apply(file, &entry.name, &entry.attributes)?;
        Ok(written)
    }

    fn link(&mut self, fold: &Fold, parent: BorrowedFd<'_>, node: NodeId, target: NodeId) -> Result<(), SyscallError> {
        let (directory, name) = fold.place_of(node);
        if self.missing.contains(&target) {
            self.metadata.stand_in(parent, name)?;
            self.missing.insert(node);
            self.of_missing.insert(directory);
            return Ok(());
        }
        let (target_parent, target_name) = fold.place_of(target);
        let target_parent = self.root.directory(fold, target_parent)?;
        // Without AT_SYMLINK_FOLLOW: a link to a symlink is one more name for the symlink.
        linkat(&target_parent, target_name, parent, name, AtFlags::empty())
            .syscall("linkat", || format!("{}, {}", quote(target_name), quote(name)))?;
        if let Some(content) = self.contents.get(target) {
            self.contents.push(node, content);
        }
        Ok(())
    }
}

fn joined(fold: &Fold, node: NodeId) -> Vec<u8> {
    fold.path(node).join(&b'/')
}
