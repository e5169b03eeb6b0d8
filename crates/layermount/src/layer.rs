//! What one layer's tar archive *means*, without touching a file system.
//!
//! Two halves. [`Archive`] reads entries: the ustar, GNU and PAX grammars as Go's `archive/tar` reads them (the reader that
//! most images are written for), and stricter where another reader could be led to see other entries. [`Fold`] puts the entries
//! together, in whatever order they stand, into what the layer says about its tree (OCI image specification, `layer.md`).
//!
//! The `tar` crate reads none of this: up to 0.4.46 its PAX reader splits records at newlines before it honours their
//! length, so that the value of an xattr can name another link target. Only its header structs are used.

mod archive;
mod entry;
mod fold;
mod header;
mod path;
mod pax;
mod sparse;
mod whiteout;
mod xattr;

pub(crate) use archive::Archive;
pub(crate) use entry::{Attributes, Device, Entry, Kind, Region};
pub(crate) use fold::{DirectoryEnd, Displaced, Fold, Meaning, NodeId, Put, Step};
pub(crate) use path::Name;
pub(crate) use xattr::{Verdict, judge, memory_of_xattrs};

use crate::error::{ErrorKind, Fault};
use crate::limits::Limit;

/// How much an archive may ask for, as the user says it in [`Limits`](crate::Limits). Content is limited where it is decoded,
/// by [`DecodeLimits`](crate::decode::DecodeLimits).
#[derive(Debug, Clone)]
pub(crate) struct LayerLimits {
    pub(crate) entries: u64,
    /// A longer path cannot be named in one system call (`PATH_MAX`).
    pub(crate) path_bytes: usize,
    pub(crate) path_depth: usize,
    /// One extended header (PAX records, GNU long name) or sparse map.
    pub(crate) extension_bytes: u64,
    pub(crate) xattrs: usize,
    /// Linux takes values of up to 64 KiB (`XATTR_SIZE_MAX`).
    pub(crate) xattr_bytes: usize,
    pub(crate) sparse_regions: usize,
    /// Components of symlinks' targets looked up for the names of all entries.
    pub(crate) symlink_components: u64,
    /// What stays in memory until the layer's end: names, symlinks, whiteouts, and the xattrs of directories.
    pub(crate) kept_bytes: u64,
}

impl LayerLimits {
    /// For archives that were within somebody's limits before.
    pub(crate) fn none() -> Self {
        Self {
            entries: u64::MAX,
            path_bytes: usize::MAX,
            path_depth: usize::MAX,
            extension_bytes: u64::MAX,
            xattrs: usize::MAX,
            xattr_bytes: usize::MAX,
            sparse_regions: usize::MAX,
            symlink_components: u64::MAX,
            kept_bytes: u64::MAX,
        }
    }
}

impl Default for LayerLimits {
    fn default() -> Self {
        Self {
            entries: 1_000_000,
            path_bytes: 4095,
            path_depth: 1024,
            extension_bytes: 1 << 20,
            xattrs: 256,
            xattr_bytes: 64 << 10,
            sparse_regions: 10_000,
            symlink_components: 32 << 20,
            kept_bytes: 256 << 20,
        }
    }
}

/// Why something in an archive is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("{0}")]
    Because(&'static str),
    #[error("{} exceed the limit {what}={limit}", what.describe())]
    Limit { what: Limit, limit: u64 },
}

/// A layer that is refused: which entry, and why.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LayerError {
    #[error("entry {entry}: {reason}")]
    Entry { entry: String, reason: Refusal },
    #[error("{} byte {offset}: {reason}", reason.place())]
    Archive { offset: u64, reason: Refusal },
}

impl Refusal {
    /// What is wrong with the byte of an archive that is refused.
    fn place(&self) -> &'static str {
        match self {
            Self::Because(_) => "the archive is malformed at",
            Self::Limit { .. } => "the archive asks for too much at",
        }
    }
}

impl LayerError {
    pub(crate) fn entry(name: &[u8], reason: Refusal) -> Self {
        Self::Entry { entry: quote(name), reason }
    }
}

impl Fault for LayerError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Entry { reason: Refusal::Limit { .. }, .. } | Self::Archive { reason: Refusal::Limit { .. }, .. } => {
                ErrorKind::LimitExceeded
            }
            _ => ErrorKind::InvalidLayer,
        }
    }

    fn hint(&self) -> Option<String> {
        let (Self::Entry { reason, .. } | Self::Archive { reason, .. }) = self;
        match reason {
            Refusal::Limit { what, limit } => Some(what.hint(*limit)),
            Refusal::Because(_) => None,
        }
    }
}

/// A hard link into the layers below that leads to nothing there, or to a directory.
#[derive(Debug, thiserror::Error)]
#[error("the hard link {link} has no target {target} in the layers below")]
pub(crate) struct DanglingLink {
    link: String,
    target: String,
}

impl DanglingLink {
    pub(crate) fn new(link: &[u8], target: &[u8]) -> Self {
        Self { link: quote(link), target: quote(target) }
    }
}

impl Fault for DanglingLink {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidLayer
    }
}

/// A name as it may be printed on a terminal: quoted, control characters escaped, shortened.
pub(crate) fn quote(name: &[u8]) -> String {
    const SHOWN: usize = 200;
    let shown = name.get(..SHOWN).unwrap_or(name);
    let dots = if shown.len() < name.len() { "…" } else { "" };
    format!("\"{}{dots}\"", String::from_utf8_lossy(shown).escape_debug())
}

#[cfg(test)]
mod tests;
