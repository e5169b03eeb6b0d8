//! The merged tree of a stack of layers as one plain directory, without overlayfs.
//!
//! One walk over the merged tree, from its root down: of each name the topmost layer that has it decides, as overlayfs
//! decides (`Documentation/filesystems/overlayfs.rst`, "Whiteouts and opaque directories"), and what it has is copied once.
//! Nothing is written that another layer would take away again.
//!
//! Overlayfs's marks are left behind. Xattrs of the image that were escaped for overlayfs stay escaped: a mount over the
//! directory shows them as a mount of the layers does, and none can ever act on them.

use std::collections::{BTreeMap, HashMap};
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, chmod, fstat, linkat, mkdirat, open, statat};
use rustix::io::Errno;

use super::complete::below::{Found, has_mark};
use super::complete::copy;
use super::metadata::{Metadata, forget_inherited_acls, is_whiteout, opaque_mark, proc_path};
use super::root::{PATH, READ, open_beneath};
use super::{Ownership, Skipped, UnpackError, UnpackOptions, c_name};
use crate::caller::Caller;
use crate::error::{Result, SyscallContext, SyscallError};
use crate::layer::{Attributes, LayerLimits, Name};
use crate::stack::{Flattened, LayerStack, RootAttributes};

/// Copies the merged tree of `stack` into `directory`, which is made unless it is there and empty.
pub(crate) fn flatten(stack: &LayerStack, directory: &Path) -> Result<Flattened> {
    let target = target(directory)?;
    let ownership = if Caller::current().is_privileged() { Ownership::Apply } else { Ownership::Squash };
    let options = UnpackOptions { xattrs: stack.xattrs(), ownership, limits: LayerLimits::default() };
    forget_inherited_acls(target.as_fd()).map_err(UnpackError::Target)?;
    let metadata = Metadata::probe(target.as_fd(), &options)?;
    let stat = fstat(&target).syscall("fstat", || directory.display().to_string()).map_err(UnpackError::Target)?;
    let layers: Vec<_> = stack.layers().iter().rev().map(|layer| layer.directory()).collect();
    let mut flat = Flat {
        target: target.as_fd(),
        inode: (stat.st_dev, stat.st_ino),
        mark: opaque_mark(stack.xattrs()),
        metadata,
        squash: ownership == Ownership::Squash,
        first_names: HashMap::new(),
        directories: Vec::new(),
        files: 0,
        layers: &layers,
    };
    flat.walk()?;
    flat.finish(stack.root())?;
    let Skipped { devices, xattrs, .. } = flat.metadata.skipped;
    Ok(Flattened { files: flat.files, skipped_devices: devices, skipped_xattrs: xattrs })
}

/// Opens the directory to copy into.
fn target(directory: &Path) -> Result<OwnedFd, UnpackError> {
    let show = || directory.display().to_string();
    match mkdirat(CWD, directory, Mode::RWXU) {
        // Whatever the umask has taken away from us.
        Ok(()) => {
            let flags = PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let made = open(directory, flags, Mode::empty()).syscall("open", show).map_err(UnpackError::Target)?;
            chmod(proc_path(made.as_fd()), Mode::RWXU).syscall("chmod", show).map_err(UnpackError::Target)?;
        }
        Err(Errno::EXIST) => {}
        other => other.syscall("mkdir", show).map_err(UnpackError::Target)?,
    }
    let fd = open(directory, READ | OFlags::CLOEXEC, Mode::empty())
        .syscall("open", || format!("{}, O_RDONLY|O_DIRECTORY", directory.display()))
        .map_err(UnpackError::Target)?;
    let entries = names(fd.as_fd()).map_err(UnpackError::Target)?;
    if entries.is_empty() { Ok(fd) } else { Err(UnpackError::NotEmpty { directory: directory.to_owned() }) }
}

fn names(directory: BorrowedFd<'_>) -> Result<Vec<CString>, SyscallError> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory).syscall("openat", || ".".to_owned())? {
        let entry = entry.syscall("getdents64", String::new)?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

struct Flat<'a> {
    target: BorrowedFd<'a>,
    /// Device and inode of the target.
    inode: (u64, u64),
    mark: &'static str,
    metadata: Metadata,
    /// Everything becomes the caller's.
    squash: bool,
    /// Where files with several names were put first, by layer, device and inode.
    first_names: HashMap<(usize, u64, u64), (Place, Name)>,
    /// Directories that were made, each behind those that hold it.
    directories: Vec<Made>,
    files: u64,
    /// Top first.
    layers: &'a [BorrowedFd<'a>],
}

/// A directory that was made, and what it gets in the end. Not its path: there may be a million of them far down.
struct Made {
    parent: Place,
    name: Name,
    attributes: Attributes,
}

/// 0 for the root, otherwise one more than the place in [`Flat::directories`].
type Place = usize;

/// A directory of the merged tree, and the layers that have a part in it, topmost first.
struct Merged {
    place: Place,
    layers: Vec<usize>,
}

/// What the layers that were looked at so far make of a name.
enum Choice {
    Hidden,
    File { layer: usize, parent: Rc<OwnedFd>, stat: Box<Stat> },
    Directory { layers: Vec<usize>, parent: Rc<OwnedFd>, stat: Box<Stat>, closed: bool },
}

impl Flat<'_> {
    fn walk(&mut self) -> Result<()> {
        let mut open = vec![Merged { place: 0, layers: (0..self.layers.len()).collect() }];
        while let Some(directory) = open.pop() {
            let path = path(&self.directories, directory.place);
            let at = path.join(&b'/');
            let choices = self.merge(&path, &directory.layers).map_err(UnpackError::at(&at))?;
            let into = open_beneath(self.target, &path, PATH).map_err(UnpackError::at(&at))?;
            for (name, choice) in choices {
                match choice {
                    Choice::Hidden => {}
                    Choice::File { layer, parent, stat } => {
                        let found = Found { parent, name, stat: *stat, path: Vec::new() };
                        self.file(into.as_fd(), layer, directory.place, found)?;
                    }
                    Choice::Directory { layers, parent, stat, .. } => {
                        let at = if at.is_empty() { name.to_vec() } else { [&at, &*name].join(&b'/') };
                        if (stat.st_dev, stat.st_ino) == self.inode {
                            return Err(UnpackError::IntoItself { directory: crate::layer::quote(&at) }.into());
                        }
                        self.metadata.make_directory(into.as_fd(), &name).map_err(UnpackError::at(&at))?;
                        let found = Found { parent, name: name.clone(), stat: *stat, path: Vec::new() };
                        let attributes = copy::attributes(&found, self.mark)?;
                        self.directories.push(Made { parent: directory.place, name, attributes });
                        open.push(Merged { place: self.directories.len(), layers });
                    }
                }
            }
        }
        Ok(())
    }

    fn merge(&self, path: &[&[u8]], layers: &[usize]) -> Result<BTreeMap<Name, Choice>, SyscallError> {
        let mut choices: BTreeMap<Name, Choice> = BTreeMap::new();
        for &layer in layers {
            let Some(fd) = self.layers.get(layer) else { continue };
            let parent = Rc::new(open_beneath(*fd, path, READ)?);
            for c_name in names(parent.as_fd())? {
                let name: Name = c_name.to_bytes().into();
                if let Some(Choice::Hidden | Choice::File { .. } | Choice::Directory { closed: true, .. }) =
                    choices.get(&name)
                {
                    continue;
                }
                let stat = statat(&parent, &c_name, AtFlags::SYMLINK_NOFOLLOW)
                    .syscall("fstatat", || crate::layer::quote(&name))?;
                let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
                let opaque =
                    is_directory && has_mark(open_beneath(parent.as_fd(), &[&name], PATH)?.as_fd(), self.mark)?;
                match choices.get_mut(&name) {
                    Some(Choice::Directory { layers, closed, .. }) => {
                        if is_directory {
                            layers.push(layer);
                        }
                        // Below a whiteout or a file, nothing is merged any more.
                        *closed = opaque || !is_directory;
                    }
                    _ => {
                        let (parent, stat) = (Rc::clone(&parent), Box::new(stat));
                        let choice = match is_directory {
                            true => Choice::Directory { layers: vec![layer], parent, stat, closed: opaque },
                            false if is_whiteout(&stat) => Choice::Hidden,
                            false => Choice::File { layer, parent, stat },
                        };
                        choices.insert(name, choice);
                    }
                }
            }
        }
        Ok(choices)
    }

    fn file(&mut self, into: BorrowedFd<'_>, layer: usize, place: Place, mut found: Found) -> Result<()> {
        let name = found.name.clone();
        if found.stat.st_nlink > 1 {
            let inode = (layer, found.stat.st_dev, found.stat.st_ino);
            if let Some((first, first_name)) = self.first_names.get(&inode) {
                let at = UnpackError::at(&name);
                let parent = open_beneath(self.target, &path(&self.directories, *first), PATH).map_err(&at)?;
                self.files += 1;
                return linkat(&parent, c_name(first_name), into, c_name(&name), AtFlags::empty())
                    .syscall("linkat", || crate::layer::quote(first_name))
                    .map_err(at)
                    .map_err(Into::into);
            }
        }
        // Whoever may execute it would be the caller, where the image meant somebody else (`cp -p` and tar take them away, too).
        if self.squash && FileType::from_raw_mode(found.stat.st_mode) == FileType::RegularFile {
            found.stat.st_mode &= !(Mode::SUID | Mode::SGID).as_raw_mode();
        }
        let skipped = self.metadata.skipped.devices;
        copy::file(&mut self.metadata, &found, self.mark, into, &name)?;
        if self.metadata.skipped.devices == skipped {
            self.files += 1;
            if found.stat.st_nlink > 1 {
                self.first_names.insert((layer, found.stat.st_dev, found.stat.st_ino), (place, name));
            }
        }
        Ok(())
    }

    /// The directories' own attributes, innermost first, because making something in them changes their times, and because
    /// their modes may close them.
    fn finish(&mut self, root: &RootAttributes) -> Result<()> {
        let directories = std::mem::take(&mut self.directories);
        for (index, Made { attributes, .. }) in directories.iter().enumerate().rev() {
            let path = path(&directories, index + 1);
            let at = path.join(&b'/');
            let fd = open_beneath(self.target, &path, READ).map_err(UnpackError::at(&at))?;
            self.metadata.apply_copy(fd.as_fd(), &at, attributes)?;
        }
        let RootAttributes { mode, uid, gid, mtime, xattrs } = root.clone();
        self.metadata.apply_root(self.target, &Attributes { mode, uid, gid, mtime, xattrs })?;
        Ok(())
    }
}

/// The path of a directory that was made.
fn path(directories: &[Made], mut place: Place) -> Vec<&[u8]> {
    let mut path = Vec::new();
    while let Some(Made { parent, name, .. }) = place.checked_sub(1).and_then(|index| directories.get(index)) {
        path.push(&**name);
        place = *parent;
    }
    path.reverse();
    path
}
