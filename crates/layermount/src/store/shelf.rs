//! Shelves: the parts of the store that hold layers of one backing each.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::caller::{Caller, MapId, Owners};
use crate::error::{Result, SyscallContext, SyscallError};
use crate::image::OverlayXattrs;
use crate::mountinfo;
use crate::unpack::Ownership;

use super::StoreError;
use super::entry::{Entry, Key, ReadError, open_file};
use super::in_use::{Claim, claim_soon, is_mounted};
use super::root::{Part, StoreRoot, check_owner, names_in, open_or_create};
use super::stage::Stage;

/// What the layers of a shelf are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ShelfKind {
    /// Directories.
    Directories(Directories),
    /// EROFS files, and indexes of images over them.
    Files,
}

/// The two things in which directories of the same layer differ: the namespace of overlayfs's marks, and the owners of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Directories {
    /// Root's, with all owners.
    Trusted,
    /// An ordinary user's, in which everything belongs to that user.
    OneOwner,
    /// An ordinary user's, whose owners are the image's as seen through this map.
    Mapped(MapId),
}

const TRUSTED: &str = "dir-trusted";
const USER: &str = "dir-user";
const FILES: &str = "erofs";

impl Directories {
    /// Those that this caller makes and mounts.
    pub(crate) fn of(caller: &Caller) -> Self {
        match (caller.overlay_xattrs(), caller.owners) {
            (OverlayXattrs::Trusted, _) => Self::Trusted,
            (OverlayXattrs::User, Owners::Mapped(map)) => Self::Mapped(map),
            (OverlayXattrs::User, Owners::One | Owners::All) => Self::OneOwner,
        }
    }

    /// What becomes of a layer's owners in them.
    pub(crate) fn ownership(self) -> Ownership {
        match self {
            Self::Trusted | Self::Mapped(_) => Ownership::Apply,
            Self::OneOwner => Ownership::Squash,
        }
    }
}

impl ShelfKind {
    /// Those that a store has.
    pub(crate) fn all(root: &StoreRoot) -> Result<Vec<Self>> {
        let Some(layers) = root.part(Part::Layers)? else { return Ok(Vec::new()) };
        let mut names = names_in(&layers, &root.path_of(Part::Layers, ""))?;
        names.sort_unstable();
        Ok(names.iter().filter_map(|name| Self::named(name)).collect())
    }

    /// The name of the shelf's directory.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Directories(Directories::Trusted) => TRUSTED.to_owned(),
            Self::Directories(Directories::OneOwner) => USER.to_owned(),
            Self::Directories(Directories::Mapped(map)) => format!("{USER}-{map}"),
            Self::Files => FILES.to_owned(),
        }
    }

    fn named(name: &str) -> Option<Self> {
        Some(match name {
            TRUSTED => Self::Directories(Directories::Trusted),
            USER => Self::Directories(Directories::OneOwner),
            FILES => Self::Files,
            _ => Self::Directories(Directories::Mapped(MapId::parse(name.strip_prefix(USER)?.strip_prefix('-')?)?)),
        })
    }

    /// The name of what is mounted, in the directory of a layer.
    pub(crate) fn content(self) -> &'static str {
        match self {
            Self::Directories(_) => "fs",
            Self::Files => "image",
        }
    }

    /// Only root mounts EROFS.
    pub(crate) fn xattrs(self) -> OverlayXattrs {
        match self {
            Self::Directories(Directories::Trusted) | Self::Files => OverlayXattrs::Trusted,
            Self::Directories(Directories::OneOwner | Directories::Mapped(_)) => OverlayXattrs::User,
        }
    }

    /// Opens what is mounted, for reading and for locking. What is not of the right kind is `ENOTDIR` or `EINVAL`.
    pub(super) fn open_content(self, directory: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
        match self {
            Self::Directories(_) => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                rustix::fs::openat(directory, self.content(), flags, Mode::empty())
            }
            Self::Files => open_file(directory, self.content()),
        }
    }
}

/// The part of the store that holds layers of one backing.
#[derive(Debug)]
pub(crate) struct Shelf {
    kind: ShelfKind,
    directory: OwnedFd,
    path: PathBuf,
}

impl Shelf {
    /// `None` where nothing was ever stored.
    pub(crate) fn open(root: &StoreRoot, kind: ShelfKind) -> Result<Option<Self>> {
        let Some(layers) = root.part(Part::Layers)? else { return Ok(None) };
        let path = root.path_of(Part::Layers, kind.name());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&layers, kind.name().as_str(), flags, Mode::empty()) {
            Ok(directory) => {
                check_owner(&directory, &path)?;
                Ok(Some(Self { kind, directory, path }))
            }
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(SyscallError::new("openat", path.display().to_string(), errno).into()),
        }
    }

    pub(crate) fn open_or_create(root: &StoreRoot, kind: ShelfKind) -> Result<Self> {
        let layers = root.part_or_create(Part::Layers)?;
        let path = root.path_of(Part::Layers, kind.name());
        let directory =
            open_or_create(layers.as_fd(), &kind.name()).syscall("mkdirat", || path.display().to_string())?;
        check_owner(&directory, &path)?;
        Ok(Self { kind, directory, path })
    }

    pub(crate) fn kind(&self) -> ShelfKind {
        self.kind
    }

    pub(crate) fn directory(&self) -> &OwnedFd {
        &self.directory
    }

    pub(crate) fn path(&self) -> &PathBuf {
        &self.path
    }

    /// The entry of this key, if it is there and sound. A power cut may leave a record that cannot be read; such a layer is as
    /// good as absent, and made anew.
    pub(crate) fn entry(&self, key: &Key) -> Result<Option<Entry>> {
        self.entry_named(&key.file_name())
    }

    pub(crate) fn entry_named(&self, name: &str) -> Result<Option<Entry>> {
        Ok(self.look(name)?.and_then(std::result::Result::ok))
    }

    /// What is wrong with the record of the entry, if it is there and something is.
    pub(crate) fn damage(&self, name: &str) -> Result<Option<StoreError>> {
        Ok(self.look(name)?.and_then(std::result::Result::err))
    }

    fn look(&self, name: &str) -> Result<Option<std::result::Result<Entry, StoreError>>> {
        let path = self.path.join(name);
        loop {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let directory = match rustix::fs::openat(&self.directory, name, flags, Mode::empty()) {
                Ok(directory) => directory,
                Err(Errno::NOENT) => return Ok(None),
                Err(Errno::NOTDIR | Errno::LOOP) => return Ok(Some(Err(StoreError::NotALayer { path }))),
                Err(errno) => return Err(SyscallError::new("openat", path.display().to_string(), errno).into()),
            };
            let entry = Entry::read(self.kind, directory.as_fd(), &path);
            // While it was read, or its lock waited for, it may have been moved away: then nothing of that counts.
            if !is_at(self.directory.as_fd(), name, &directory, &path)? {
                continue;
            }
            return match entry {
                Err(ReadError::Damaged(damage)) => Ok(Some(Err(damage))),
                Err(ReadError::Failed(error)) => Err(error.into()),
                Ok(entry) => Ok(Some(Ok(entry))),
            };
        }
    }

    /// Moves a staged directory (with its content and its record in it) to its public place. Where an equal layer is there
    /// already, that one stays, unless it is damaged.
    ///
    /// # Errors
    ///
    /// [`StoreError::DamagedInUse`] if the one that is there is damaged, and somebody uses it.
    pub(crate) fn publish(&self, stage: &Stage, staged: &str, key: &Key) -> Result<()> {
        let name = key.file_name();
        let mut removed = 0;
        while !stage.publish(staged, self.directory.as_fd(), &name)? {
            match self.look(&name)? {
                Some(Ok(_)) => break,
                Some(Err(_)) => self.remove_damaged(stage, &name, &format!("damaged-{removed}"))?,
                None => {}
            }
            removed += 1;
        }
        Ok(())
    }

    /// Moves a damaged layer into the stage, which will be removed.
    fn remove_damaged(&self, stage: &Stage, name: &str, staged: &str) -> Result<()> {
        // The kernel goes on with a file that has no name any more, and whoever has it open does, too.
        if self.kind == ShelfKind::Files {
            return stage.take(self.directory.as_fd(), name, staged).map(drop);
        }
        let in_use = || StoreError::DamagedInUse { path: self.path.join(name) };
        let claimed = match claim_soon(self, name)? {
            Claim::Gone => return Ok(()),
            Claim::Free(claimed) => claimed,
            Claim::Used => return Err(in_use().into()),
        };
        if is_mounted(&mountinfo::overlay_directories_in_use(), self, name, &claimed)? {
            return Err(in_use().into());
        }
        stage.take(self.directory.as_fd(), name, staged).map(drop)
    }
}

/// Whether `name` still leads to an open file.
pub(super) fn is_at(parent: BorrowedFd<'_>, name: &str, file: &OwnedFd, path: &Path) -> Result<bool> {
    let shown = || path.display().to_string();
    let ours = rustix::fs::fstat(file).syscall("fstat", shown)?;
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(there) => Ok((there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(SyscallError::new("newfstatat", shown(), errno).into()),
    }
}
