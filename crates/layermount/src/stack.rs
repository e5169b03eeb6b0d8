//! [`LayerStack`]: the layers of one image as open directories, ready to be mounted. Of an image in EROFS files, that is one: the
//! root of the file system that all layers are.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::error::SyscallContext;
use crate::image::OverlayXattrs;
use crate::unpack::Skipped;

/// Layers as directories in overlayfs form, base first, each with what keeps it from being removed.
///
/// Always base → top. Only [`crate::overlay`] reverses it into overlayfs's top-first order, in one place.
/// No directory stands twice (overlayfs answers `ELOOP`), and nothing stands below an opaque root.
#[derive(Debug)]
pub struct LayerStack {
    layers: Vec<StackedLayer>,
    xattrs: OverlayXattrs,
    root: RootAttributes,
    skipped: Skipped,
}

/// What an image has and its layers lack, because whoever unpacked them could not have it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lacking {
    /// Files of users who do not exist here. Without ranges of subordinate IDs ([`IdMaps::granted`](crate::IdMaps::granted)) all
    /// belong to root. With them, those of IDs beyond the ranges belong to nobody (65534), and are no set-user-ID programs then.
    pub owners: u64,
    /// Devices, which only root in the initial user namespace can make.
    pub devices: u64,
    /// Extended attributes that the file system or the user cannot have.
    pub xattrs: u64,
}

/// One directory of a [`LayerStack`]: a layer, or all layers of an image in EROFS files.
#[derive(Debug)]
pub struct StackedLayer {
    /// Locked if the layer is a directory of the store: closing it lets `prune` remove the layer.
    directory: Arc<OwnedFd>,
    path: PathBuf,
    /// The file that was mounted to have the directory, also locked.
    mounted: Option<Arc<OwnedFd>>,
}

/// Owner, mode, times and xattrs of the merged tree's root directory.
///
/// Overlayfs shows those of the topmost directory, and most layers do not speak of their root. They are therefore kept
/// apart: taken from the topmost layer that has an entry for its root, and given to the directory that ends up on top.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RootAttributes {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds and nanoseconds since 1970.
    pub(crate) mtime: (i64, u32),
    /// Names as they are set, that is, already escaped where they would mean something to overlayfs.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What [`LayerStack::flatten_into`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Flattened {
    /// Everything that is not a directory, hard links included.
    pub files: u64,
    /// Devices that were left out, because an ordinary user cannot make them.
    pub skipped_devices: u64,
    /// Extended attributes that the file system or an ordinary user cannot have.
    pub skipped_xattrs: u64,
}

impl From<Skipped> for Lacking {
    fn from(Skipped { owners, devices, xattrs }: Skipped) -> Self {
        Self { owners, devices, xattrs }
    }
}

impl Default for RootAttributes {
    fn default() -> Self {
        Self { mode: 0o755, uid: 0, gid: 0, mtime: (0, 0), xattrs: Vec::new() }
    }
}

impl LayerStack {
    /// Directories that are in overlayfs form already, base first, with the namespace of the marks in them. The root
    /// directory's attributes are the topmost one's. A directory that stands twice counts once, at its topmost place.
    ///
    /// # Errors
    ///
    /// When one cannot be opened, or is no directory.
    pub fn from_directories(
        directories: impl IntoIterator<Item = PathBuf>,
        xattrs: OverlayXattrs,
    ) -> crate::error::Result<Self> {
        let mut layers: Vec<StackedLayer> = Vec::new();
        let mut seen = std::collections::HashMap::new();
        let mut root = RootAttributes::default();
        for path in directories {
            let show = || format!("{}, O_PATH|O_DIRECTORY", path.display());
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let directory = rustix::fs::open(&path, flags, Mode::empty()).syscall("open", show)?;
            let stat = rustix::fs::fstat(&directory).syscall("fstat", show)?;
            root = RootAttributes {
                mode: stat.st_mode & 0o7777,
                uid: stat.st_uid,
                gid: stat.st_gid,
                mtime: (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)),
                xattrs: Vec::new(),
            };
            if let Some(below) = seen.insert((stat.st_dev, stat.st_ino), layers.len()) {
                layers.remove(below);
                seen.values_mut().filter(|place| **place > below).for_each(|place| *place -= 1);
            }
            let path = std::path::absolute(&path).unwrap_or(path);
            layers.push(StackedLayer::new(Arc::new(directory), path));
        }
        Ok(Self::new(layers, xattrs, root))
    }

    /// Copies the merged tree into a plain directory, without overlayfs: for chroot(2), for other tools, for other file
    /// systems. The directory is made unless it is there and empty, and gets the attributes of the image's root.
    ///
    /// Owners, devices and set-user-ID and set-group-ID bits are kept by root alone; an ordinary user owns everything, and
    /// nobody else should run it in their name. Hard links within a layer stay hard links, holes stay holes, and on file
    /// systems that can share blocks no data is copied. Xattrs that would mean something to overlayfs stay escaped
    /// (`trusted.overlay.overlay.*`), so that the directory can become a layer of an overlay.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) when the directory is not empty, and whatever the
    /// kernel says. What was copied by then stays there.
    pub fn flatten_into(&self, directory: &Path) -> crate::error::Result<Flattened> {
        crate::unpack::flatten(self, directory)
    }

    pub(crate) fn new(layers: Vec<StackedLayer>, xattrs: OverlayXattrs, root: RootAttributes) -> Self {
        Self { layers, xattrs, root, skipped: Skipped::default() }
    }

    pub(crate) fn with_skipped(self, skipped: Skipped) -> Self {
        Self { skipped, ..self }
    }

    /// What the layers lack, as it was noted when they were made.
    pub fn lacking(&self) -> Lacking {
        self.skipped.into()
    }

    /// The layers, base first.
    pub fn layers(&self) -> &[StackedLayer] {
        &self.layers
    }

    /// The namespace of overlay xattrs that the layers are written in.
    pub fn xattrs(&self) -> OverlayXattrs {
        self.xattrs
    }

    /// The descriptors that hold locks on layers of the store. Mounts are closed: an overlay made of them has its own, and the kernel has
    /// whoever closes one wait.
    pub(crate) fn into_locks(self) -> Vec<Arc<OwnedFd>> {
        self.layers.into_iter().map(|layer| layer.mounted.unwrap_or(layer.directory)).collect()
    }

    pub(crate) fn root(&self) -> &RootAttributes {
        &self.root
    }
}

impl StackedLayer {
    pub(crate) fn new(directory: Arc<OwnedFd>, path: PathBuf) -> Self {
        Self { directory, path, mounted: None }
    }

    /// The root directory of a mount that is attached nowhere, of the locked `file` at `path`.
    pub(crate) fn mounted(root: OwnedFd, file: Arc<OwnedFd>, path: PathBuf) -> Self {
        Self { directory: Arc::new(root), path, mounted: Some(file) }
    }

    /// Whether the directory is the root of a mount that is attached nowhere.
    pub(crate) fn is_mount(&self) -> bool {
        self.mounted.is_some()
    }

    /// The directory, opened to be mounted.
    pub fn directory(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.directory.as_fd()
    }

    /// Where the directory, or the file that it is in, lies: for display.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
