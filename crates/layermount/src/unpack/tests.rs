#![allow(clippy::disallowed_methods, reason = "tests make and read their surroundings by path")]

mod archives;
mod cases;
mod complete;
mod files;
mod gnu_tar;
mod hazards;
mod mapped;
mod metadata;
mod mounted;
mod odd;
mod races;
mod recipes;
mod stacks;

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use layermount_fixtures::model::Users;

use super::*;
use crate::caller::{Caller, Owners};
use crate::image::OverlayXattrs;
use crate::stack::{LayerStack, StackedLayer};

pub(super) use layermount_fixtures::requirement::skip;

/// Root of the initial user namespace: its first mapping is the identity over all IDs.
pub(super) fn is_root() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    rustix::process::geteuid().is_root() && map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Overlays can be mounted, and layers have owners or it is known whose everything is.
pub(super) fn can_mount() -> bool {
    is_root() || users().is_some()
}

/// Whom files can belong to in the user namespace that these tests run in, if that is not the machine's.
pub(super) fn users() -> Option<Users> {
    let caller = Caller::current();
    let map = fs::read_to_string("/proc/self/uid_map").ok()?;
    let counts = map.lines().map(|range| range.split_whitespace().nth(2)?.parse::<u32>().ok());
    match (caller.may_mount && !is_root(), caller.owners) {
        (false, _) => None,
        (true, Owners::Mapped(_)) => Some(Users::Mapped(counts.sum::<Option<u32>>()?)),
        (true, Owners::One | Owners::All) => Some(Users::One),
    }
}

pub(super) fn options(xattrs: OverlayXattrs) -> UnpackOptions {
    let ownership = if Caller::current().may_chown() { Ownership::Apply } else { Ownership::Squash };
    UnpackOptions { xattrs, ownership, limits: LayerLimits::default() }
}

pub(super) fn open(path: &Path) -> OwnedFd {
    rustix::fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

/// Layers of any backing, made one after the other as a store would.
pub(super) trait Subject {
    /// Where the layers and their surroundings lie.
    fn place(&self) -> &Path;

    /// Of overlayfs's marks.
    fn namespace(&self) -> OverlayXattrs;

    /// Makes a layer of an archive.
    fn push(&mut self, tar: &[u8]) -> Result<()>;

    /// What a store would hand out for these layers.
    fn layer_stack(&self) -> LayerStack;

    /// The directory of the topmost layer, if it is one.
    fn top(&self) -> Option<&Path>;

    /// The merged tree, mounted nowhere.
    fn mount(&self) -> mounted::Mounted {
        let empty = self.place().join("empty");
        if !empty.exists() {
            fs::create_dir(&empty).unwrap();
        }
        let empty = open(&empty);
        let stack = self.layer_stack();
        // A single lower layer is no overlay to the kernel.
        let layers = stack.layers().iter().map(StackedLayer::directory);
        let lowers: Vec<_> = std::iter::once(empty.as_fd()).chain(layers).collect();
        mounted::Mounted::new(&lowers, self.namespace())
    }
}

impl Subject for Stack {
    fn place(&self) -> &Path {
        self.place.path()
    }

    fn namespace(&self) -> OverlayXattrs {
        self.options.xattrs
    }

    fn push(&mut self, tar: &[u8]) -> Result<()> {
        Self::push(self, tar).map(drop)
    }

    fn layer_stack(&self) -> LayerStack {
        let layers = (self.layers.iter())
            .map(|(path, fd)| StackedLayer::new(fd.try_clone().unwrap().into(), path.clone()))
            .collect();
        LayerStack::new(layers, self.options.xattrs, self.root.clone().unwrap_or_default())
    }

    fn top(&self) -> Option<&Path> {
        Some(Self::top(self))
    }
}

/// Layers unpacked one after the other, as a store would.
pub(super) struct Stack {
    place: tempfile::TempDir,
    pub(super) options: UnpackOptions,
    /// Base first; emptied by an opaque root.
    pub(super) layers: Vec<(PathBuf, OwnedFd)>,
    /// Of the topmost layer that speaks of its root.
    root: Option<RootAttributes>,
    count: usize,
}

impl Stack {
    pub(super) fn new(options: UnpackOptions) -> Self {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("layers")).unwrap();
        Self { place, options, layers: Vec::new(), root: None, count: 0 }
    }

    pub(super) fn push(&mut self, tar: &[u8]) -> Result<Unpacked> {
        let path = self.place().join("layers").join(self.count.to_string());
        self.count += 1;
        fs::create_dir(&path).unwrap();
        let fd = open(&path);
        let unpacked = unpack(&mut &*tar, fd.as_fd(), &mut io::sink(), &self.options)?;
        // What is kept beside a layer must come back as it was.
        let json = serde_json::to_string(&unpacked).unwrap();
        assert_eq!(serde_json::from_str::<Unpacked>(&json).unwrap(), unpacked);
        let lowers: Vec<BorrowedFd<'_>> = self.layers.iter().map(|(_, fd)| fd.as_fd()).collect();
        complete(fd.as_fd(), &unpacked.open, &lowers, &mut io::sink(), &mut |_| Ok(()), &self.options)?;
        if unpacked.opaque_root {
            self.layers.clear();
        }
        self.root = unpacked.root.clone().or(self.root.take());
        self.layers.push((path, fd));
        Ok(unpacked)
    }

    pub(super) fn top(&self) -> &Path {
        &self.layers.last().unwrap().0
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // Directories may be closed to their owner.
        let place = open(self.place());
        for name in [c"layers", c"empty"] {
            let _ = remove_tree(place.as_fd(), name);
        }
    }
}
