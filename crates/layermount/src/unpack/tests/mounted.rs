//! A real overlay over unpacked layers, read through its descriptor: it is attached to nothing.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{Mode, OFlags, ResolveFlags, Stat, fstat, openat2};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_fd, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

use crate::image::OverlayXattrs;

pub(crate) struct Mounted(OwnedFd);

pub(crate) struct Node {
    pub(super) stat: Stat,
    fd: OwnedFd,
}

impl Mounted {
    pub(super) fn new(lowers: &[BorrowedFd<'_>], xattrs: OverlayXattrs) -> Self {
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
        for lower in lowers.iter().rev() {
            fsconfig_set_fd(context.as_fd(), "lowerdir+", lower).unwrap();
        }
        match xattrs {
            OverlayXattrs::User => fsconfig_set_flag(context.as_fd(), "userxattr").unwrap(),
            OverlayXattrs::Trusted => {
                fsconfig_set_string(context.as_fd(), "redirect_dir", "nofollow").unwrap();
                fsconfig_set_string(context.as_fd(), "metacopy", "off").unwrap();
            }
        }
        fsconfig_create(context.as_fd()).unwrap();
        Self(fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).unwrap())
    }

    /// A plain directory that is to be the same tree.
    pub(super) fn directory(path: &std::path::Path) -> Self {
        Self(super::open(path))
    }

    /// Finds a path as a process inside would; the last component is not followed.
    pub(super) fn find(&self, path: &[u8]) -> Option<Node> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat2(&self.0, path, flags, Mode::empty(), ResolveFlags::IN_ROOT).ok()?;
        Some(Node { stat: fstat(&fd).unwrap(), fd })
    }

    /// All paths, directories with a slash at the end.
    pub(super) fn listing(&self) -> BTreeMap<Vec<u8>, Node> {
        let mut listing = BTreeMap::new();
        self.list(Vec::new(), &mut listing);
        listing
    }

    fn list(&self, directory: Vec<u8>, listing: &mut BTreeMap<Vec<u8>, Node>) {
        let node = self.find(if directory.is_empty() { b"." } else { &directory }).unwrap();
        for entry in std::fs::read_dir(node.path()).unwrap() {
            let mut path = directory.clone();
            path.extend_from_slice(entry.unwrap().file_name().as_bytes());
            let Some(node) = self.find(&path) else { panic!("a ghost: {}", path.escape_ascii()) };
            if node.kind() == "dir" {
                path.push(b'/');
                self.list(path.clone(), listing);
            }
            listing.insert(path, node);
        }
    }
}

impl Node {
    pub(super) fn kind(&self) -> &'static str {
        use rustix::fs::FileType::*;
        match rustix::fs::FileType::from_raw_mode(self.stat.st_mode) {
            RegularFile => "file",
            Directory => "dir",
            Symlink => "symlink",
            CharacterDevice => "char",
            BlockDevice => "block",
            Fifo => "fifo",
            _ => "other",
        }
    }

    pub(super) fn mode(&self) -> u32 {
        self.stat.st_mode & 0o7777
    }

    pub(super) fn content(&self) -> Vec<u8> {
        std::fs::read(self.path()).unwrap()
    }

    pub(super) fn link(&self) -> Vec<u8> {
        rustix::fs::readlinkat(&self.fd, c"", Vec::new()).map(|target| target.into_bytes()).unwrap_or_default()
    }

    pub(super) fn xattr(&self, name: &str) -> Option<Vec<u8>> {
        let mut value = [0; 4096];
        let length = rustix::fs::getxattr(self.path(), name, &mut value[..]).ok()?;
        Some(value[..length].to_vec())
    }

    fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.fd.as_raw_fd())
    }
}
