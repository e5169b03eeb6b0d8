//! The store's directory and its parts, as file descriptors.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::caller::in_initial_user_namespace;
use crate::error::{Result, SyscallContext, SyscallError};

use super::StoreError;
use super::durability::Durability;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A part of the store.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Part {
    Layers,
    Stage,
    Locks,
    Images,
    Names,
    MountPoint,
    Mounts,
}

impl Part {
    /// Those that are made with the store; the others are when they are first used.
    const INITIAL: [Self; 5] = [Self::Layers, Self::Stage, Self::Locks, Self::Images, Self::Names];

    fn name(self) -> &'static str {
        match self {
            Self::Layers => "layers",
            Self::Stage => "stage",
            Self::Locks => "locks",
            Self::Images => "images",
            Self::Names => "names",
            Self::MountPoint => "mnt",
            Self::Mounts => "mounts",
        }
    }
}

/// The store's directory, which may not exist yet.
#[derive(Debug, Clone)]
pub(crate) struct StoreRoot {
    path: PathBuf,
    fd: OnceLock<Arc<OwnedFd>>,
    durability: Durability,
}

impl StoreRoot {
    pub(crate) fn open(path: PathBuf) -> Result<Self> {
        // Names that are shown and locked should not depend on where the caller happens to be.
        let path = std::path::absolute(&path).syscall("getcwd", String::new)?;
        let root = Self { path, fd: OnceLock::new(), durability: Durability::default() };
        // Nearly always: then there is nothing else that leads to it.
        if let Ok(fd) = rustix::fs::openat2(CWD, &root.path, DIRECTORY, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
            root.adopt(fd, None)?;
            return Ok(root);
        }
        match rustix::fs::open(&root.path, DIRECTORY, Mode::empty()) {
            Ok(fd) => {
                let real = real_path(&fd);
                root.adopt(fd, real)?;
            }
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(root.failed("open", errno).into()),
        }
        Ok(root)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn durability(&self) -> Durability {
        self.durability
    }

    pub(crate) fn set_durability(&mut self, durability: Durability) {
        self.durability = durability;
    }

    /// Whether the store's directory exists.
    pub(crate) fn exists(&self) -> bool {
        self.fd.get().is_some()
    }

    /// A part of the store, or `None` where nothing was ever written to it.
    pub(crate) fn part(&self, part: Part) -> Result<Option<OwnedFd>> {
        let Some(root) = self.fd.get() else { return Ok(None) };
        match rustix::fs::openat(root, part.name(), DIRECTORY | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(fd) => check_owner(&fd, &self.path.join(part.name())).map(|()| Some(fd)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(SyscallError::new("openat", self.display(part), errno).into()),
        }
    }

    /// A part of the store, made where it is missing.
    pub(crate) fn part_or_create(&self, part: Part) -> Result<OwnedFd> {
        let root = self.create()?;
        let fd = open_or_create(root, part.name())
            .map_err(|errno| SyscallError::new("mkdirat", self.display(part), errno))?;
        check_owner(&fd, &self.path.join(part.name())).map(|()| fd)
    }

    /// The path of a part's entry, for messages and for display.
    pub(crate) fn path_of(&self, part: Part, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(part.name()).join(name)
    }

    fn display(&self, part: Part) -> String {
        self.path.join(part.name()).display().to_string()
    }

    fn create(&self) -> Result<BorrowedFd<'_>> {
        if let Some(fd) = self.fd.get() {
            return Ok(fd.as_fd());
        }
        let ancestors: Vec<&Path> = self.path.ancestors().skip(1).collect();
        for ancestor in ancestors.into_iter().rev() {
            make_directory(ancestor, Mode::from_raw_mode(0o755))?;
        }
        make_directory(&self.path, Mode::from_raw_mode(0o700))?;
        let fd = rustix::fs::open(&self.path, DIRECTORY, Mode::empty()).map_err(|errno| self.failed("open", errno))?;
        for part in Part::INITIAL {
            open_or_create(fd.as_fd(), part.name())
                .map_err(|errno| SyscallError::new("mkdirat", self.display(part), errno))?;
        }
        let real = real_path(&fd);
        self.adopt(fd, real)?;
        self.fd.get().map(AsFd::as_fd).ok_or_else(|| self.failed("open", Errno::NOENT).into())
    }

    /// An adopted fd never changes. `real` is where it lies, if the path has symlinks: the parents that they lead to have no part in it.
    fn adopt(&self, fd: OwnedFd, real: Option<PathBuf>) -> Result<()> {
        check_owner(&fd, &self.path)?;
        check_parents(&self.path)?;
        if let Some(real) = real.filter(|real| *real != self.path) {
            check_parents(&real)?;
        }
        let _ = self.fd.set(fd.into());
        Ok(())
    }

    fn failed(&self, call: &'static str, errno: Errno) -> SyscallError {
        SyscallError::new(call, self.path.display().to_string(), errno)
    }
}

/// Where an open directory lies, as far as `/proc` tells.
fn real_path(directory: &OwnedFd) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", directory.as_raw_fd())).ok()
}

/// Checks that nobody else could have put something into a directory of the store.
pub(super) fn check_owner(directory: &OwnedFd, path: &Path) -> Result<()> {
    let stat = rustix::fs::fstat(directory).syscall("fstat", || path.display().to_string())?;
    let user = rustix::process::geteuid().as_raw();
    if stat.st_uid != user {
        return Err(StoreError::ForeignOwner { path: path.to_owned(), owner: stat.st_uid, user }.into());
    }
    let mode = stat.st_mode & 0o7777;
    if mode & 0o022 != 0 {
        return Err(StoreError::WritableByOthers { path: path.to_owned(), mode }.into());
    }
    Ok(())
}

/// Checks that no other user can put another directory in the store's place, such as an old one of the same user's, or a link to
/// one. In a sticky directory (`/tmp`) nobody can, once it is there. A parent's group, if that may write, can, and is trusted: many
/// users are alone in theirs.
fn check_parents(path: &Path) -> Result<()> {
    let user = rustix::process::geteuid().as_raw();
    // In a user namespace, the host's root is nobody, as is everybody else who is not mapped.
    let tells_owners = in_initial_user_namespace();
    for parent in path.ancestors().skip(1) {
        // What may not even be looked at may not be written to either.
        let Ok(stat) = rustix::fs::stat(parent) else { continue };
        let mode = stat.st_mode & 0o7777;
        if mode & 0o1002 == 0o0002 {
            return Err(StoreError::UnsafeParent { path: parent.to_owned(), mode }.into());
        }
        if tells_owners && stat.st_uid != 0 && stat.st_uid != user {
            return Err(StoreError::ForeignParent { path: parent.to_owned(), owner: stat.st_uid }.into());
        }
    }
    Ok(())
}

/// Opens a directory below `parent`, making it (0700) where it is missing.
pub(crate) fn open_or_create(parent: BorrowedFd<'_>, name: &str) -> rustix::io::Result<OwnedFd> {
    match open_own(parent, name, DIRECTORY) {
        Err(Errno::NOENT) => {}
        opened => return opened,
    }
    match make_own(parent, name) {
        Ok(()) | Err(Errno::EXIST) => open_own(parent, name, DIRECTORY),
        Err(errno) => Err(errno),
    }
}

/// Makes a directory (0700), whatever the umask.
pub(crate) fn make_own(parent: BorrowedFd<'_>, name: &str) -> rustix::io::Result<()> {
    rustix::fs::mkdirat(parent, name, Mode::RWXU)?;
    match open_to_owner(parent, Path::new(name)) {
        // Swept, before it could be locked.
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// Opens a directory or file of the store's, made (0600) if `flags` say so. What the umask of its maker has closed to its owner
/// is opened first.
pub(crate) fn open_own(parent: BorrowedFd<'_>, name: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = || rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR);
    match open() {
        Err(Errno::ACCESS) => {
            // Where the mode is not ours to change, the first error is the better one.
            open_to_owner(parent, Path::new(name)).map_err(|_| Errno::ACCESS)?;
            open()
        }
        opened => opened,
    }
}

/// Gives the owner all rights to a directory, or those to read and write a file.
fn open_to_owner(parent: BorrowedFd<'_>, name: &Path) -> rustix::io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&fd)?;
    let rights = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Mode::RWXU,
        _ => Mode::RUSR | Mode::WUSR,
    };
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    if mode.contains(rights) {
        return Ok(());
    }
    // Through the descriptor: chmod(2) by name would follow a symlink.
    rustix::fs::chmod(format!("/proc/self/fd/{}", fd.as_raw_fd()), mode | rights)
}

/// Makes a directory that its owner can work in, whatever the umask.
fn make_directory(path: &Path, mode: Mode) -> Result<(), SyscallError> {
    match rustix::fs::mkdirat(CWD, path, mode) {
        Ok(()) => open_to_owner(CWD, path).syscall("chmod", || path.display().to_string()),
        Err(Errno::EXIST) => Ok(()),
        // A parent that exists may lie on a read-only or foreign file system: what counts is that it is there.
        Err(_) if rustix::fs::statat(CWD, path, AtFlags::empty()).is_ok() => Ok(()),
        Err(errno) => Err(SyscallError::new("mkdir", format!("{:?}, {:#o}", path, mode.as_raw_mode()), errno)),
    }
}

/// The names in a directory, in no order.
pub(crate) fn names_in(directory: &OwnedFd, path: &Path) -> Result<Vec<String>> {
    let read = || -> rustix::io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(directory)? {
            // Whatever is not UTF-8 is not the store's.
            if let Ok(name) = entry?.file_name().to_str()
                && name != "."
                && name != ".."
            {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    };
    Ok(read().syscall("getdents64", || path.display().to_string())?)
}
