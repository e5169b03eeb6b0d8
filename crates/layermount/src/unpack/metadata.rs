//! Owner, mode, xattrs and times of what was made.
//!
//! The order is the kernel's doing: a change of owner clears set-user-ID bits and `security.capability`, so it comes first; a
//! `user.*` xattr needs write permission by mode, so it is set while the file is still ours to write; an ACL holds the group's
//! bits, so it comes after the mode; and everything but setting them touches the times.

use std::borrow::Cow;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags, chmod, chownat, fchmod, fchown,
    fsetxattr, futimens, makedev, mkdirat, mknodat, openat, removexattr, setxattr, statat, unlinkat, utimensat,
};
use rustix::io::Errno;

use super::{Ownership, Skipped, UnpackError, UnpackOptions};
use crate::error::{SyscallContext, SyscallError};
use crate::image::OverlayXattrs;
use crate::layer::{Attributes, Verdict, judge, quote};
use crate::userns::nobody::{Chown, Given, give};

/// What a directory has of which no layer says anything, as engines make it; the time is fixed so that trees are equal.
pub(super) const IMPLIED: Attributes = Attributes { mode: 0o755, uid: 0, gid: 0, mtime: (0, 0), xattrs: Vec::new() };

#[derive(Debug)]
pub(super) struct Metadata {
    ownership: Ownership,
    namespace: OverlayXattrs,
    /// The owner that the kernel gives to whatever we make here; `None` where that depends on the directory.
    given: Option<(u32, u32)>,
    /// The umask takes rights from us that we need for working in our own directories.
    narrow_umask: bool,
    pub(super) skipped: Skipped,
}

impl Metadata {
    /// Looks at what creation gives in `into`: set-group-ID directories, mount options and id maps all have a say.
    pub(super) fn probe(into: BorrowedFd<'_>, options: &UnpackOptions) -> Result<Self, UnpackError> {
        // A name that no layer can have.
        const PROBE: &str = ".wh..layermount-probe";
        let probe = || {
            mkdirat(into, PROBE, Mode::RWXU).syscall("mkdirat", || PROBE.to_owned())?;
            let stat = statat(into, PROBE, AtFlags::SYMLINK_NOFOLLOW).syscall("fstatat", || PROBE.to_owned());
            unlinkat(into, PROBE, AtFlags::REMOVEDIR).syscall("unlinkat", || PROBE.to_owned())?;
            stat
        };
        let stat = probe().map_err(UnpackError::Directory)?;
        Ok(Self {
            ownership: options.ownership,
            namespace: options.xattrs,
            given: Some((stat.st_uid, stat.st_gid)),
            narrow_umask: stat.st_mode & 0o700 != 0o700,
            skipped: Skipped::default(),
        })
    }

    /// For making things in directories that have their own attributes already: a set-group-ID one gives its group away.
    pub(super) fn among_finished(self) -> Self {
        Self { given: None, ..self }
    }

    /// Makes a directory that we can work in, whatever the umask.
    pub(super) fn make_directory(&self, parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), SyscallError> {
        mkdirat(parent, name, Mode::RWXU).syscall("mkdirat", || quote(name))?;
        if self.narrow_umask {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let fd = openat(parent, name, flags, Mode::empty()).syscall("openat", || quote(name))?;
            chmod(proc_path(fd.as_fd()), Mode::RWXU).syscall("chmod", || quote(name))?;
        }
        Ok(())
    }

    /// Gives an open file or directory attributes from an archive.
    pub(super) fn apply(
        &mut self,
        fd: BorrowedFd<'_>,
        name: &[u8],
        attributes: &Attributes,
    ) -> Result<(), UnpackError> {
        let attributes = self.judged(attributes);
        self.apply_copy(fd, name, &attributes)
    }

    /// Gives a symlink, fifo or device attributes from an archive.
    pub(super) fn apply_unopened(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        is_symlink: bool,
        attributes: &Attributes,
    ) -> Result<(), UnpackError> {
        let attributes = self.judged(attributes);
        self.apply_copy_unopened(parent, name, is_symlink, &attributes)
    }

    /// With the xattrs that are set, under the names that they are set with.
    fn judged<'a>(&mut self, attributes: &'a Attributes) -> Cow<'a, Attributes> {
        if attributes.xattrs.is_empty() {
            return Cow::Borrowed(attributes);
        }
        let mut judged = attributes.clone();
        judged.xattrs.retain_mut(|(name, _)| match judge(name, self.namespace) {
            Verdict::Set(set) => {
                *name = set;
                true
            }
            Verdict::Drop => {
                self.skipped.xattrs += 1;
                false
            }
        });
        Cow::Owned(judged)
    }

    /// Attributes of an open file or directory, as they are.
    pub(super) fn apply_copy(
        &mut self,
        fd: BorrowedFd<'_>,
        name: &[u8],
        attributes: &Attributes,
    ) -> Result<(), UnpackError> {
        let Attributes { mode, uid, gid, mtime, xattrs } = attributes;
        let mut mode = *mode;
        if self.changes_owner(*uid, *gid) {
            let kept = self
                .give(*uid, *gid, &|uid, gid| fchown(fd, uid, gid))
                .syscall("fchown", || format!("{}, {uid}, {gid}", quote(name)))
                .map_err(|source| UnpackError::Owner { entry: quote(name), uid: *uid, gid: *gid, source })?;
            mode &= kept;
        }
        let (early, late): (Vec<_>, Vec<_>) = xattrs.iter().partition(|(name, _)| name.starts_with(b"user."));
        let set = |name: &[u8], value: &[u8]| fsetxattr(fd, name, value, XattrFlags::empty());
        self.set_xattrs(name, &early, set)?;
        fchmod(fd, Mode::from_raw_mode(mode)).syscall("fchmod", || quote(name)).map_err(UnpackError::at(name))?;
        self.set_xattrs(name, &late, set)?;
        futimens(fd, &times(*mtime)).syscall("futimens", || quote(name)).map_err(UnpackError::at(name))
    }

    /// Attributes of a directory that was not made here, and may belong to anybody.
    pub(super) fn apply_root(&mut self, fd: BorrowedFd<'_>, attributes: &Attributes) -> Result<(), UnpackError> {
        let given = self.given.take();
        let result = self.apply_copy(fd, b".", attributes);
        self.given = given;
        result
    }

    /// Attributes of something that cannot be opened: a symlink, a fifo or a device.
    pub(super) fn apply_copy_unopened(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        is_symlink: bool,
        attributes: &Attributes,
    ) -> Result<(), UnpackError> {
        let Attributes { mode, uid, gid, mtime, xattrs } = attributes;
        let mut mode = *mode;
        if self.changes_owner(*uid, *gid) {
            let kept = self
                .give(*uid, *gid, &|uid, gid| chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW))
                .syscall("fchownat", || format!("{}, {uid}, {gid}, AT_SYMLINK_NOFOLLOW", quote(name)))
                .map_err(|source| UnpackError::Owner { entry: quote(name), uid: *uid, gid: *gid, source })?;
            mode &= kept;
        }
        // Through a descriptor of the thing itself: chmod(2) and setxattr(2) by name could be led elsewhere.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || openat(parent, name, flags, Mode::empty()).syscall("openat", || quote(name));
        if !is_symlink {
            let fd = open().map_err(UnpackError::at(name))?;
            chmod(proc_path(fd.as_fd()), Mode::from_raw_mode(mode))
                .syscall("chmod", || quote(name))
                .map_err(UnpackError::at(name))?;
        }
        // xattr(7): user attributes are for files and directories.
        let (user, others): (Vec<_>, Vec<_>) = xattrs.iter().partition(|(name, _)| name.starts_with(b"user."));
        self.skipped.xattrs += user.len() as u64;
        if !others.is_empty() {
            let fd = open().map_err(UnpackError::at(name))?;
            let path = proc_path(fd.as_fd());
            self.set_xattrs(name, &others, |name, value| setxattr(&path, name, value, XattrFlags::empty()))?;
        }
        utimensat(parent, name, &times(*mtime), AtFlags::SYMLINK_NOFOLLOW)
            .syscall("utimensat", || quote(name))
            .map_err(UnpackError::at(name))
    }

    /// Puts something in the place of a device that may not be made: what lower layers have there must not show instead. It is a
    /// whiteout with rights, of which overlayfs takes no notice, and by which a link to the device is known for what it is.
    ///
    /// `false` where the file system can have no whiteouts.
    pub(super) fn stand_in(&mut self, parent: BorrowedFd<'_>, name: &[u8]) -> Result<bool, SyscallError> {
        self.skipped.devices += 1;
        match mknodat(parent, name, FileType::CharacterDevice, Mode::RUSR, makedev(0, 0)) {
            Err(Errno::PERM) => return Ok(false),
            other => other.syscall("mknodat", || format!("{}, S_IFCHR, makedev(0, 0)", quote(name)))?,
        }
        if self.narrow_umask {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = openat(parent, name, flags, Mode::empty()).syscall("openat", || quote(name))?;
            chmod(proc_path(fd.as_fd()), Mode::RUSR).syscall("chmod", || quote(name))?;
        }
        Ok(true)
    }

    /// Marks an open directory as opaque.
    pub(super) fn mark_opaque(&self, fd: BorrowedFd<'_>, name: &[u8]) -> Result<(), UnpackError> {
        let mark = opaque_mark(self.namespace);
        fsetxattr(fd, mark, b"y", XattrFlags::empty())
            .syscall("fsetxattr", || format!("{}, {mark}", quote(name)))
            .map_err(UnpackError::at(name))
    }

    /// Tells overlayfs that whiteouts lie in an open directory.
    ///
    /// In a directory that only one layer has, overlayfs does not look for them, and `readdir` would show their names, unless
    /// the directory has an origin: then it may be what is left of a merged one (`ovl_get_inode()` in `fs/overlayfs/inode.c`,
    /// "non-merge dir that may have whiteouts"). An empty origin is an unknown one and means nothing else.
    pub(super) fn mark_whiteouts(&self, fd: BorrowedFd<'_>, name: &[u8]) -> Result<(), UnpackError> {
        let mark = match self.namespace {
            OverlayXattrs::Trusted => "trusted.overlay.origin",
            OverlayXattrs::User => "user.overlay.origin",
        };
        fsetxattr(fd, mark, b"", XattrFlags::empty())
            .syscall("fsetxattr", || format!("{}, {mark}", quote(name)))
            .map_err(UnpackError::at(name))
    }

    fn changes_owner(&mut self, uid: u32, gid: u32) -> bool {
        match self.ownership {
            Ownership::Apply => self.given != Some((uid, gid)),
            Ownership::Squash => {
                self.skipped.owners += u64::from((uid, gid) != (0, 0));
                false
            }
        }
    }

    /// Changes an owner, and counts what becomes nobody's. Returns the bits of the mode that may be kept.
    fn give(&mut self, uid: u32, gid: u32, chown: Chown<'_>) -> rustix::io::Result<u32> {
        if self.namespace == OverlayXattrs::Trusted {
            return chown(Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).map(|()| u32::MAX);
        }
        let given = give(uid, gid, chown)?;
        self.skipped.owners += u64::from(given != Given::Away);
        Ok(given.kept())
    }

    fn set_xattrs(
        &mut self,
        entry: &[u8],
        xattrs: &[&(Vec<u8>, Vec<u8>)],
        set: impl Fn(&[u8], &[u8]) -> rustix::io::Result<()>,
    ) -> Result<(), UnpackError> {
        for (name, value) in xattrs {
            match set(name, value) {
                // A file system without such attributes.
                Err(Errno::OPNOTSUPP) => self.skipped.xattrs += 1,
                // In a user namespace: what only root may set, and ACLs that name users whom it has not.
                Err(Errno::PERM | Errno::ACCESS | Errno::INVAL) if self.namespace == OverlayXattrs::User => {
                    self.skipped.xattrs += 1;
                }
                other => other
                    .syscall("setxattr", || format!("{}, {}", quote(entry), quote(name)))
                    .map_err(UnpackError::at(entry))?,
            }
        }
        Ok(())
    }
}

pub(super) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Whether it is what [`Metadata::stand_in`] makes.
pub(super) fn is_stand_in(stat: &Stat) -> bool {
    is_whiteout(stat) && stat.st_mode & 0o777 != 0
}

/// Takes the ACLs away that a new file or directory has from the default ACL of the directory it was made in (acl(5)).
pub(super) fn forget_inherited_acls(fd: BorrowedFd<'_>) -> Result<(), SyscallError> {
    for name in [c"system.posix_acl_default", c"system.posix_acl_access"] {
        match removexattr(proc_path(fd), name) {
            // None there, none on this kind of file, none on this file system.
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::ACCESS) => {}
            other => other.syscall("removexattr", || name.to_string_lossy().into_owned())?,
        }
    }
    Ok(())
}

pub(super) fn opaque_mark(namespace: OverlayXattrs) -> &'static str {
    match namespace {
        OverlayXattrs::Trusted => "trusted.overlay.opaque",
        OverlayXattrs::User => "user.overlay.opaque",
    }
}

/// The one path through which an `O_PATH` descriptor's own file is changed.
pub(super) fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Access and modification time. The kernel clamps them to what the file system can hold.
pub(super) fn times((seconds, nanoseconds): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}
