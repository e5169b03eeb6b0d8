//! A layer into a directory, in the form that overlayfs mounts. ([`erofs`](crate::erofs) makes files of layers instead.)
//!
//! | the layer says | on disk (`Documentation/filesystems/overlayfs.rst`) |
//! |---|---|
//! | a whiteout | a character device 0:0 (no privilege needed) |
//! | whiteouts in a directory | also its xattr `….overlay.origin`, empty, so that they are found where nothing is merged |
//! | an opaque directory | the xattr `{trusted,user}.overlay.opaque` = `y` |
//! | an opaque root | nothing: overlayfs ignores the mark there; [`Unpacked::opaque_root`] tells whoever stacks the layers |
//! | anything else | itself |
//!
//! Nothing here follows a path: the [`Fold`](crate::layer::Fold) resolves names in memory, and every call is relative to the
//! descriptor of a directory inside the layer. A process that changes the directory meanwhile can spoil the result, not reach
//! outside of it.
//!
//! A directory is 0700 and ours until the end; its own mode, owner, xattrs and times come last, innermost first, because making
//! something in it would change the times, and because its owner may not be allowed into it any more.

pub(crate) mod checksum;
mod complete;
mod contents;
mod flatten;
pub(crate) mod listing;
mod metadata;
mod remove;
mod root;
mod write;

pub(crate) use complete::complete;
pub(crate) use flatten::flatten;
pub(crate) use listing::FileContent;
pub(crate) use remove::remove_tree;

use std::ffi::CString;
use std::io::{BufRead, Write};
use std::iter::Sum;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::error::{ErrorKind, Fault, Result, SyscallContext, SyscallError};
use crate::image::OverlayXattrs;
use crate::layer::{Archive, Attributes, Fold, LayerError, LayerLimits, Meaning, Refusal, Verdict, judge, quote};
use crate::limits::Limit;
use crate::stack::RootAttributes;
use metadata::{Metadata, forget_inherited_acls};
use root::Root;
use write::Writer;

/// How a layer is unpacked.
#[derive(Debug, Clone)]
pub(crate) struct UnpackOptions {
    /// The namespace of overlayfs's marks; must be the one that the layer will be mounted with.
    pub(crate) xattrs: OverlayXattrs,
    pub(crate) ownership: Ownership,
    pub(crate) limits: LayerLimits,
}

/// What happens with owners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ownership {
    /// Every file gets the owner that the layer names: as root, or in a user namespace as far as that has those owners. Files of
    /// others are nobody's there.
    Apply,
    /// Everything belongs to the caller. Devices, and xattrs that an ordinary user may not set, are left out and counted.
    Squash,
}

/// What became of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unpacked {
    /// The layer's own entry for its root; the directory itself keeps the attributes it had.
    pub(crate) root: Option<RootAttributes>,
    /// No layer below this one shows.
    pub(crate) opaque_root: bool,
    /// What only the layers below can tell. Empty for a layer that means the same in every stack.
    pub(crate) open: OpenEnds,
    pub(crate) entries: u64,
    /// Bytes of file content.
    pub(crate) bytes: u64,
    pub(crate) skipped: Skipped,
}

/// What [`complete()`] does once the layers below are known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OpenEnds {
    /// Directories without an entry of their own, outermost first. They keep what lower layers say about them.
    pub(crate) implied: Vec<ImpliedDirectory>,
    /// Hard links to files of lower layers.
    pub(crate) links: Vec<OpenLink>,
    /// The root is opaque: what links lead to is seen under their names alone.
    #[serde(default)]
    pub(crate) root_hidden: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImpliedDirectory {
    pub(crate) path: LayerPath,
    /// It holds whiteouts only, so that without a lower directory of this name it should not be there at all.
    pub(crate) only_whiteouts: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OpenLink {
    pub(crate) path: LayerPath,
    pub(crate) target: LayerPath,
}

/// A path inside a layer: components joined by `/`, any bytes. Serialized in hexadecimal, as JSON has no byte strings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct LayerPath(Vec<u8>);

impl LayerPath {
    fn components(&self) -> Vec<&[u8]> {
        self.0.split(|byte| *byte == b'/').filter(|component| !component.is_empty()).collect()
    }
}

impl<C: AsRef<[u8]>> FromIterator<C> for LayerPath {
    fn from_iter<I: IntoIterator<Item = C>>(components: I) -> Self {
        let mut path = Vec::new();
        for component in components {
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(component.as_ref());
        }
        Self(path)
    }
}

impl From<LayerPath> for String {
    fn from(path: LayerPath) -> Self {
        hex::encode(path.0)
    }
}

impl TryFrom<String> for LayerPath {
    type Error = hex::FromHexError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        hex::decode(text).map(Self)
    }
}

impl Unpacked {
    /// The same layer without open ends.
    pub(crate) fn completed(&self) -> Self {
        let Self { opaque_root, entries, bytes, skipped, .. } = *self;
        Self { root: self.root.clone(), opaque_root, open: OpenEnds::default(), entries, bytes, skipped }
    }
}

impl OpenEnds {
    /// Whether the layer needs nothing from those below, so that it can be kept under its diff ID.
    pub(crate) fn is_empty(&self) -> bool {
        self.implied.is_empty() && self.links.is_empty()
    }
}

/// What an ordinary user could not have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Skipped {
    /// Entries that do not belong to whom the layer says.
    #[serde(default)]
    pub(crate) owners: u64,
    pub(crate) devices: u64,
    pub(crate) xattrs: u64,
}

impl Sum for Skipped {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            owners: sum.owners.saturating_add(one.owners),
            devices: sum.devices.saturating_add(one.devices),
            xattrs: sum.xattrs.saturating_add(one.xattrs),
        })
    }
}

/// Unpacks the archive `tar` into the empty directory `into` and lists its files. On failure the directory holds remains:
/// remove it.
pub(crate) fn unpack(
    tar: &mut dyn BufRead,
    into: BorrowedFd<'_>,
    listing: &mut dyn Write,
    options: &UnpackOptions,
) -> Result<Unpacked> {
    let mut archive = Archive::new(tar, &options.limits);
    let mut fold = Fold::new(&options.limits);
    forget_inherited_acls(into).map_err(UnpackError::Directory)?;
    let mut writer = Writer::new(Root::new(into), Metadata::probe(into, options)?);
    let (mut entries, mut bytes) = (0, 0);
    while let Some(entry) = archive.next()? {
        entries += 1;
        let step = fold.add(&entry).map_err(|reason| LayerError::entry(&entry.name, reason))?;
        if let Some(step) = step {
            bytes += writer.take(&fold, &step, &entry, &mut archive)?;
        }
    }
    let meaning = fold.finish()?;
    writer.finish(&fold, &meaning)?;
    let open = open_ends(&fold, &meaning, options.limits.kept_bytes)?;
    let Meaning { root, opaque_root, .. } = meaning;
    let root = root.map(|attributes| root_attributes(attributes, options.xattrs));
    let unpacked = Unpacked { root, opaque_root, open, entries, bytes, skipped: writer.skipped() };
    writer.list(&fold, listing).and_then(|()| listing.flush()).syscall("write", || "listing".into())?;
    Ok(unpacked)
}

/// What is left to the layers below. A name is short, but its path can be long, and symlinks make every name's long: so the paths
/// may together have as many bytes as the names that they are made of.
fn open_ends(fold: &Fold, meaning: &Meaning, limit: u64) -> Result<OpenEnds, LayerError> {
    let mut kept = 0_u64;
    let mut path = |node, more: usize| -> Result<LayerPath, LayerError> {
        let path: LayerPath = fold.path(node).into_iter().collect();
        kept = kept.saturating_add((path.0.len() + more) as u64);
        if kept > limit {
            return Err(LayerError::entry(&path.0, Refusal::Limit { what: Limit::KeptBytes, limit }));
        }
        Ok(path)
    };
    let mut open = OpenEnds { root_hidden: meaning.opaque_root, ..OpenEnds::default() };
    for (node, only_whiteouts) in &meaning.implied {
        open.implied.push(ImpliedDirectory { path: path(*node, 0)?, only_whiteouts: *only_whiteouts });
    }
    for (node, target) in &meaning.links {
        open.links.push(OpenLink { path: path(*node, target.len())?, target: LayerPath(target.clone()) });
    }
    Ok(open)
}

pub(crate) fn root_attributes(attributes: Attributes, namespace: OverlayXattrs) -> RootAttributes {
    let Attributes { mode, uid, gid, mtime, xattrs } = attributes;
    let xattrs = (xattrs.into_iter())
        .filter_map(|(name, value)| match judge(&name, namespace) {
            Verdict::Set(name) => Some((name, value)),
            Verdict::Drop => None,
        })
        .collect();
    RootAttributes { mode, uid, gid, mtime, xattrs }
}

/// A layer that is sound, but cannot be had here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnpackError {
    #[error("entry {entry} cannot be unpacked")]
    Entry { entry: String, source: SyscallError },
    #[error("entry {entry} cannot be given to user {uid}, group {gid}")]
    Owner { entry: String, uid: u32, gid: u32, source: SyscallError },
    #[error("the directory of a layer")]
    Directory(#[source] SyscallError),
    #[error("the directory to unpack into")]
    Target(#[source] SyscallError),
    #[error("{} is not empty", directory.display())]
    NotEmpty { directory: std::path::PathBuf },
    #[error("entry {entry} has its content in another place, as {xattr} says, and only overlayfs finds it there")]
    Elsewhere { entry: String, xattr: String },
    #[error("the directory to unpack into is a part of what is unpacked: {directory}")]
    IntoItself { directory: String },
}

impl UnpackError {
    /// For `map_err`: the call failed while this entry was unpacked.
    fn at(name: &[u8]) -> impl Fn(SyscallError) -> Self {
        move |source| Self::Entry { entry: quote(name), source }
    }
}

impl Fault for UnpackError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Entry { source, .. }
            | Self::Owner { source, .. }
            | Self::Directory(source)
            | Self::Target(source) => source.kind(),
            Self::Elsewhere { .. } => ErrorKind::Unsupported,
            Self::NotEmpty { .. } | Self::IntoItself { .. } => ErrorKind::InvalidInput,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Owner { .. } => Some(
                "map this ID into the user namespace (subuid(5), subgid(5)), or give everything to yourself".into(),
            ),
            Self::NotEmpty { .. } => Some("name a directory that is empty, or is not there yet".into()),
            // ovl_mknod() in fs/overlayfs/dir.c; devices that may not be made are left out.
            Self::Entry { source, .. } if source.call() == "mknodat" && source.errno() == Errno::PERM => {
                Some("overlayfs cannot hold the whiteouts of layers: put the store on another file system".into())
            }
            Self::Entry { source, .. } | Self::Directory(source) | Self::Target(source) => source.hint(),
            Self::Elsewhere { .. } => Some("mount the image, and copy the mounted tree".into()),
            Self::IntoItself { .. } => None,
        }
    }
}

/// A name for a system call. Names with NUL bytes are refused long before; should one come, the call fails with `ENOENT`.
fn c_name(name: &[u8]) -> CString {
    CString::new(name).unwrap_or_default()
}

#[cfg(test)]
mod tests;
