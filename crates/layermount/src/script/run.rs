//! Carrying out a [`Script`]: async-signal-safe, nothing is allocated.

use std::ffi::CStr;
use std::fmt::Write as _;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, XattrFlags};
use rustix::io::Errno;
use rustix::mount::{
    self, FsMountFlags, FsOpenFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::copy::copy_tree;
use super::target::{make_directories, open_in_mount, open_in_root, open_mount_point};
use super::{At, Failure, LayerArgument, Script, Slot, Step};
use crate::command::StopWatch;
use crate::stack::RootAttributes;
use crate::userns::nobody::give;

type Result<T, E = Errno> = std::result::Result<T, E>;

/// The descriptors that a running script has opened. Those that are left are closed with it.
#[derive(Debug)]
pub(crate) struct Files {
    slots: Vec<Option<OwnedFd>>,
    /// Running, if marks are to be heeded.
    pub(crate) watch: Option<StopWatch>,
}

impl Files {
    pub(super) fn new(slots: usize) -> Self {
        Self { slots: (0..slots).map(|_| None).collect(), watch: None }
    }

    pub(crate) fn take(&mut self, slot: Slot) -> Option<OwnedFd> {
        self.slots.get_mut(slot.0)?.take()
    }

    /// Forgets what a child has opened, whose memory this was but whose table of descriptors was another.
    pub(crate) fn disown(&mut self) {
        self.slots.iter_mut().filter_map(Option::take).for_each(std::mem::forget);
    }

    /// Closes what is open, and frees nothing.
    pub(super) fn close_all(&mut self) {
        for file in &mut self.slots {
            drop(file.take());
        }
    }

    fn put(&mut self, slot: Slot, file: OwnedFd) -> Result<()> {
        *self.slots.get_mut(slot.0).ok_or(Errno::BADF)? = Some(file);
        Ok(())
    }

    fn slot(&self, slot: Slot) -> Result<BorrowedFd<'_>> {
        self.slots.get(slot.0).and_then(Option::as_ref).map(AsFd::as_fd).ok_or(Errno::BADF)
    }

    fn at<'a>(&'a self, at: At<'a>) -> Result<BorrowedFd<'a>> {
        match at {
            At::Cwd => Ok(CWD),
            At::Slot(slot) => self.slot(slot),
            At::Fd(fd) => Ok(fd),
        }
    }
}

impl Script<'_> {
    #[expect(clippy::result_large_err, reason = "a box could not be made in a child")]
    /// Runs all steps, up to the first that fails.
    pub(crate) fn run(&self, files: &mut Files) -> Result<(), Failure> {
        for (position, (step, _)) in self.steps.iter().enumerate() {
            if let Err(errno) = step.run(files) {
                let mut failure = Failure::new(u32::try_from(position).unwrap_or(u32::MAX), errno);
                step.read_kernel_log(files, &mut failure);
                return Err(failure);
            }
        }
        Ok(())
    }
}

impl Step<'_> {
    fn run(&self, files: &mut Files) -> Result<()> {
        match self {
            Step::Unshare(flags) => crate::sys::namespace::unshare(*flags),
            Step::JoinNetwork { namespace } => {
                move_into_link_name_space(files.at(*namespace)?, Some(LinkNameSpaceType::Network))
            }
            Step::BringLoopbackUp => crate::sys::network::bring_loopback_up(),
            Step::MountSysfs { attributes, into } => {
                let sysfs = match new_sysfs(*attributes) {
                    Err(Errno::PERM) => {
                        let flags = OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::OPEN_TREE_CLONE;
                        let tree = mount::open_tree(CWD, c"/sys", flags | OpenTreeFlags::AT_RECURSIVE)?;
                        if attributes.contains(mount::MountAttrFlags::MOUNT_ATTR_RDONLY) {
                            crate::sys::mount::set_read_only(tree.as_fd(), true)?;
                        }
                        tree
                    }
                    sysfs => sysfs?,
                };
                files.put(*into, sysfs)
            }
            Step::WriteProc { path, contents } => {
                let file = fs::open(*path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
                write_all(file.as_fd(), contents.to_bytes())
            }
            Step::MakePrivate => mount::mount_change(c"/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE),
            Step::FsOpen { fs, into } => files.put(*into, mount::fsopen(*fs, FsOpenFlags::FSOPEN_CLOEXEC)?),
            Step::FsFlag { context, key } => mount::fsconfig_set_flag(files.slot(*context)?, *key),
            Step::FsString { context, key, value } => {
                mount::fsconfig_set_string(files.slot(*context)?, *key, value.as_c_str())
            }
            Step::FsFd { context, key, fd } => mount::fsconfig_set_fd(files.slot(*context)?, *key, files.at(*fd)?),
            Step::FsPath { context, key, layer } => {
                let mut text = Text::<256>::new();
                text.layer(layer, files)?;
                mount::fsconfig_set_string(files.slot(*context)?, *key, text.terminated()?)
            }
            Step::FsCreate { context } => mount::fsconfig_create(files.slot(*context)?),
            Step::FsMount { context, attributes, into } => {
                let mount = mount::fsmount(files.slot(*context)?, FsMountFlags::FSMOUNT_CLOEXEC, *attributes)?;
                files.put(*into, mount)
            }
            Step::MountJoined { lowers, upper, options, into } => {
                let mount = mount_joined(lowers, upper.as_ref(), options, files)?;
                files.put(*into, mount)
            }
            Step::MoveMount { from, to, path } => attach(files.at(*from)?, files.at(*to)?, path),
            // Above the root itself it would be one more that has to be taken away alone, for which the kernel waits each time
            // until no processor looks at it any more. There is no store below /sys, and what is wanted of it has been taken.
            Step::PutAside { mount } => {
                let mount = files.at(*mount)?;
                attach(mount, CWD, c"/sys").or_else(|_| attach(mount, CWD, c"/"))
            }
            Step::OpenTree { at, path, recursive, into } => {
                let mut flags = OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::OPEN_TREE_CLONE;
                flags.set(OpenTreeFlags::AT_RECURSIVE, *recursive);
                flags.set(OpenTreeFlags::AT_EMPTY_PATH, path.is_empty());
                let tree = mount::open_tree(files.at(*at)?, path.as_c_str(), flags)?;
                files.put(*into, tree)
            }
            Step::SetReadOnly { mount, recursive } => crate::sys::mount::set_read_only(files.at(*mount)?, *recursive),
            Step::Restrict { mount, attributes, recursive } => {
                crate::sys::mount::restrict(files.at(*mount)?, *attributes, *recursive)
            }
            Step::OpenDirectory { at, path, readable, into } => {
                let kind = if *readable { OFlags::empty() } else { OFlags::PATH };
                let directory = open_directory(files.at(*at)?, path, kind)?;
                files.put(*into, directory)
            }
            Step::OpenPlace { at, path, into } => {
                let at = files.at(*at)?;
                let directory = match open_directory(at, path, OFlags::PATH) {
                    Err(Errno::NOENT) => {
                        make_directory(at, path, 0o755)?;
                        open_directory(at, path, OFlags::PATH)?
                    }
                    opened => opened?,
                };
                files.put(*into, directory)
            }
            Step::Reopen { path, same_as, into } => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let directory = fs::openat(CWD, path.as_c_str(), flags, Mode::empty())?;
                let (here, there) = (fs::fstat(&directory)?, fs::fstat(files.at(*same_as)?)?);
                if (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino) {
                    return Err(Errno::STALE);
                }
                files.put(*into, directory)
            }
            Step::OpenTarget { root, path, kind, into } => {
                let target = open_mount_point(files.at(*root)?, path, *kind)?;
                files.put(*into, target)
            }
            Step::MakeDirectories { root, path } => match make_directories(files.at(*root)?, path) {
                // Links may go in circles or to nowhere, and no mount needs it.
                Err(Errno::NOTDIR | Errno::LOOP | Errno::NOENT | Errno::ACCESS | Errno::PERM | Errno::ROFS) => Ok(()),
                made => made.map(drop),
            },
            Step::TakeMode { root, path, mount } => {
                let found = match open_in_root(files.at(*root)?, path, OFlags::PATH | OFlags::DIRECTORY) {
                    // What is no directory is refused when it is to be mounted on.
                    Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
                    found => fs::fstat(found?)?,
                };
                fs::chmodat(files.at(*mount)?, c".", Mode::from_raw_mode(found.st_mode & 0o7777), AtFlags::empty())
            }
            Step::SetMode { directory, mode } => {
                fs::chmodat(files.at(*directory)?, c".", Mode::from_raw_mode(*mode), AtFlags::empty())
            }
            Step::CopyTree { root, path, into } => match open_in_mount(files.at(*root)?, path) {
                // Made when it is mounted on, or refused there; and what the image has below other mounts nobody sees.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::XDEV) => Ok(()),
                from => copy_tree(from?.as_fd(), files.slot(*into)?),
            },
            Step::MakeDirectory { at, path, mode } => make_directory(files.at(*at)?, path, *mode),
            Step::RemoveDirectory { at, path } => fs::unlinkat(files.at(*at)?, path.as_c_str(), AtFlags::REMOVEDIR),
            Step::MakeSymlink { target, at, path } => fs::symlinkat(*target, files.at(*at)?, *path),
            Step::MakeCharacterDevice { at, path, major, minor } => {
                let (at, device) = (files.at(*at)?, fs::makedev(*major, *minor));
                fs::mknodat(at, *path, FileType::CharacterDevice, Mode::from_raw_mode(0o666), device)?;
                // Past the umask.
                fs::chmodat(at, *path, Mode::from_raw_mode(0o666), AtFlags::empty())
            }
            Step::MakeDevice { at, path, device } => {
                let at = files.at(*at)?;
                let mode = Mode::from_raw_mode(device.mode);
                fs::mknodat(at, path.as_c_str(), FileType::from_raw_mode(device.mode), mode, device.rdev)?;
                let (uid, gid) = (fs::Uid::from_raw(device.uid), fs::Gid::from_raw(device.gid));
                fs::chownat(at, path.as_c_str(), Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
                fs::chmodat(at, path.as_c_str(), mode, AtFlags::empty())
            }
            Step::Cover { at, path, empty } => cover(files.at(*at)?, path, files.at(*empty)?),
            Step::Protect { at, path } => protect(files.at(*at)?, path),
            Step::MakeFile { at, path, contents } => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = fs::openat(files.at(*at)?, path.as_c_str(), flags, Mode::from_raw_mode(0o644))?;
                fs::fchmod(&file, Mode::from_raw_mode(0o644))?;
                write_all(file.as_fd(), contents)
            }
            Step::SetAttributes { of, attributes, names, owner } => {
                set_attributes(files.slot(*of)?, attributes, names, *owner)
            }
            Step::SetHostname(name) => rustix::system::sethostname(name.to_bytes()),
            Step::Enter { root } => enter(files.at(*root)?),
            Step::Mark(phase) => {
                if let Some(watch) = &mut files.watch {
                    watch.lap(*phase);
                }
                Ok(())
            }
            Step::Close(slot) => {
                drop(files.take(*slot));
                Ok(())
            }
        }
    }

    /// The kernel explains failures of `fsconfig` and `fsmount` in messages that are read from the context, one a call.
    fn read_kernel_log(&self, files: &Files, failure: &mut Failure) {
        let (Step::FsFlag { context, .. }
        | Step::FsString { context, .. }
        | Step::FsFd { context, .. }
        | Step::FsPath { context, .. }
        | Step::FsCreate { context }
        | Step::FsMount { context, .. }) = self
        else {
            return;
        };
        let Ok(context) = files.slot(*context) else { return };
        let mut message = [0_u8; 256];
        while let Ok(length) = rustix::io::read(context, &mut message) {
            // "e overlay: ...": the level, a space, the text.
            match message.get(..length) {
                Some([_, b' ', text @ ..]) => {
                    failure.append(text);
                    failure.append(b"\n");
                }
                _ => return,
            }
        }
    }
}

/// That it exists already is fine.
fn make_directory(at: BorrowedFd<'_>, path: &CStr, mode: u32) -> Result<()> {
    match fs::mkdirat(at, path, Mode::from_raw_mode(mode)) {
        Err(Errno::EXIST) => Ok(()),
        made => made,
    }
}

/// Where a link leads is not looked at.
fn open_directory(at: BorrowedFd<'_>, path: &CStr, kind: OFlags) -> Result<OwnedFd> {
    let flags = kind | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    fs::openat2(at, path, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
}

fn new_sysfs(attributes: mount::MountAttrFlags) -> Result<OwnedFd> {
    let context = mount::fsopen(c"sysfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    mount::fsconfig_set_string(context.as_fd(), c"source", c"sysfs")?;
    mount::fsconfig_create(context.as_fd())?;
    mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

fn cover(at: BorrowedFd<'_>, path: &CStr, empty: BorrowedFd<'_>) -> Result<()> {
    let target = match fs::statat(at, path, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        target => target?,
    };
    let flags = OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::OPEN_TREE_CLONE;
    let is_directory = FileType::from_raw_mode(target.st_mode) == FileType::Directory;
    let cover = if is_directory {
        mount::open_tree(empty, c"", flags | OpenTreeFlags::AT_EMPTY_PATH)?
    } else {
        let null = mount::open_tree(CWD, c"/dev/null", flags)?;
        let found = fs::fstat(&null)?;
        if FileType::from_raw_mode(found.st_mode) != FileType::CharacterDevice || found.st_rdev != fs::makedev(1, 3) {
            return Err(Errno::NODEV);
        }
        null
    };
    attach(cover.as_fd(), at, path)
}

fn protect(at: BorrowedFd<'_>, path: &CStr) -> Result<()> {
    let flags = OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::AT_RECURSIVE;
    let tree = match mount::open_tree(at, path, flags) {
        Err(Errno::NOENT) => return Ok(()),
        tree => tree?,
    };
    crate::sys::mount::set_read_only(tree.as_fd(), true)?;
    attach(tree.as_fd(), at, path)
}

/// Gives a directory the attributes of an image's root, as far as this user can; times last, because all else changes them.
///
/// `names` are the names of the xattrs, in order, as C strings.
pub(crate) fn set_attributes(
    directory: BorrowedFd<'_>,
    attributes: &RootAttributes,
    names: &[std::ffi::CString],
    owner: bool,
) -> Result<()> {
    let mut mode = attributes.mode & 0o7777;
    if owner {
        mode &= give(attributes.uid, attributes.gid, &|uid, gid| fs::fchown(directory, uid, gid))?.kept();
    }
    fs::fchmod(directory, Mode::from_raw_mode(mode))?;
    for (name, (_, value)) in names.iter().zip(&attributes.xattrs) {
        match fs::fsetxattr(directory, name.as_c_str(), value, XattrFlags::empty()) {
            // What files of layers go without in the same place.
            Err(Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS | Errno::INVAL) => {}
            other => other?,
        }
    }
    let (seconds, nanoseconds) = attributes.mtime;
    let time = fs::Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
    fs::futimens(directory, &fs::Timestamps { last_access: time, last_modification: time })
}

fn attach(mount: BorrowedFd<'_>, to: BorrowedFd<'_>, path: &CStr) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    mount::move_mount(mount, c"", to, path, flags)
}

/// `pivot_root(".", ".")` stacks the old root on the new one, where `umount2(".")` finds it: see pivot_root(2), "Notes".
///
/// Other mounts may lie over the old root (those that had to be attached somewhere in the meantime), and each call takes only
/// the topmost away. So this goes on until the topmost is the new root itself; `..` of `/` is looked up through all mounts.
fn enter(root: BorrowedFd<'_>) -> Result<()> {
    rustix::process::fchdir(root)?;
    rustix::process::pivot_root(c".", c".")?;
    let expected = fs::fstat(root)?;
    let is_root = |found: fs::Stat| (expected.st_dev, expected.st_ino) == (found.st_dev, found.st_ino);
    while !is_root(fs::stat(c"/..")?) {
        mount::unmount(c".", UnmountFlags::DETACH)?;
    }
    rustix::process::chdir(c"/")?;
    if is_root(fs::stat(c".")?) { Ok(()) } else { Err(Errno::XDEV) }
}

/// Mounts over `/` of a private namespace, and takes the mount from there as a detached one.
// Apart from what runs all steps, which would have this one's stack with each.
#[inline(never)]
fn mount_joined(
    lowers: &[LayerArgument<'_>],
    upper: Option<&[LayerArgument<'_>; 2]>,
    options: &CStr,
    files: &Files,
) -> Result<OwnedFd> {
    // The kernel takes one page of options, whatever the size of pages.
    let mut data = Text::<4096>::new();
    data.append(options.to_bytes())?;
    data.append(b",lowerdir=")?;
    for (index, lower) in lowers.iter().enumerate() {
        if index > 0 {
            data.append(b":")?;
        }
        data.layer(lower, files)?;
    }
    if let Some([upper, work]) = upper {
        data.append(b",upperdir=")?;
        data.layer(upper, files)?;
        data.append(b",workdir=")?;
        data.layer(work, files)?;
    }
    crate::sys::mount::mount(c"overlay", c"/", data.terminated()?)?;
    // "/" is the process's root directory below the new mount; ".." of it is looked up again and finds what lies on top.
    let flags = OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::OPEN_TREE_CLONE;
    mount::open_tree(CWD, c"/..", flags)
}

/// Writes all of it, however often the kernel takes only a part. Async-signal-safe.
pub(crate) fn write_all(file: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(file, bytes) {
            Ok(0) => return Err(Errno::IO),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Text of a bounded length on the stack.
struct Text<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Text<N> {
    fn new() -> Self {
        Self { bytes: [0; N], length: 0 }
    }

    /// One byte is kept for the terminating zero.
    fn append(&mut self, text: &[u8]) -> Result<()> {
        let end = self.length + text.len();
        if end >= N {
            return Err(Errno::NAMETOOLONG);
        }
        self.bytes.get_mut(self.length..end).ok_or(Errno::NAMETOOLONG)?.copy_from_slice(text);
        self.length = end;
        Ok(())
    }

    fn layer(&mut self, layer: &LayerArgument<'_>, files: &Files) -> Result<()> {
        match &layer.path {
            Some(path) => self.append(path.to_bytes()),
            None => {
                let fd = files.at(layer.at)?.as_raw_fd();
                write!(self, "/proc/self/fd/{fd}").map_err(|_| Errno::NAMETOOLONG)
            }
        }
    }

    fn terminated(&self) -> Result<&CStr> {
        CStr::from_bytes_until_nul(&self.bytes).map_err(|_| Errno::NAMETOOLONG)
    }
}

impl<const N: usize> std::fmt::Write for Text<N> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.append(text.as_bytes()).map_err(|_| std::fmt::Error)
    }
}
