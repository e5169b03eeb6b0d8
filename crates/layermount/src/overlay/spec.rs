//! [`OverlaySpec`]: what will be mounted, as plain data to be looked at.

use std::ffi::CString;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, fstat, statat};

use super::steps::{Lowers, MAX_LAYERS, MAX_LOWERS, OPTIONS};
use super::{OverlayError, Upper};
use crate::image::OverlayXattrs;
use crate::kernel::{Kernel, LayersBy};
use crate::script::{At, LayerArgument};
use crate::stack::{LayerStack, StackedLayer};

/// The mount that an [`Overlay`](super::Overlay) will make. `Display` prints it, one part a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverlaySpec {
    lowers: Vec<PathBuf>,
    nested: Vec<PathBuf>,
    upper: Upper,
    options: Vec<String>,
}

impl OverlaySpec {
    pub(super) fn new(stack: &LayerStack, upper: &Upper) -> Result<Self, OverlayError> {
        let (top, bottom) = top_first(stack)?;
        let paths = |layers: Vec<&StackedLayer>| layers.into_iter().map(|layer| layer.path().to_owned()).collect();
        let mut options: Vec<_> = OPTIONS
            .iter()
            .map(|(key, value)| format!("{}={}", key.to_string_lossy(), value.to_string_lossy()))
            .collect();
        if stack.xattrs() == OverlayXattrs::User {
            options.push("userxattr".to_owned());
        }
        Ok(Self { lowers: paths(top), nested: paths(bottom), upper: upper.clone(), options })
    }

    /// The lower directories, top first, as overlayfs is given them.
    pub fn lowers(&self) -> &[PathBuf] {
        &self.lowers
    }

    /// The lower directories, top first, of the read-only overlay that is the lowest layer of this one: overlayfs takes
    /// 500 in one mount.
    pub fn nested(&self) -> &[PathBuf] {
        &self.nested
    }

    /// The writable top.
    pub fn upper(&self) -> &Upper {
        &self.upper
    }

    /// Mount options besides the directories.
    pub fn options(&self) -> &[String] {
        &self.options
    }
}

impl fmt::Display for OverlaySpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "overlay {}", self.options.join(","))?;
        match &self.upper {
            Upper::ReadOnly => writeln!(f, "  upper    none (read-only)")?,
            Upper::Temporary { size: None } => writeln!(f, "  upper    tmpfs")?,
            Upper::Temporary { size: Some(size) } => writeln!(f, "  upper    tmpfs, {size} bytes")?,
            Upper::Persistent(path) => writeln!(f, "  upper    {}", path.join("upper").display())?,
        }
        for lower in &self.lowers {
            writeln!(f, "  lower    {}", lower.display())?;
        }
        for lower in &self.nested {
            writeln!(f, "  nested   {}", lower.display())?;
        }
        Ok(())
    }
}

/// The one place that turns base → top into overlayfs's top-first order: the layers for the overlay, and those for the
/// one below it.
fn top_first(stack: &LayerStack) -> Result<(Vec<&StackedLayer>, Vec<&StackedLayer>), OverlayError> {
    let mut top: Vec<_> = stack.layers().iter().rev().collect();
    match top.len() {
        0 => Err(OverlayError::NoLayers),
        found if found > MAX_LAYERS => Err(OverlayError::TooManyLayers { found }),
        found if found > MAX_LOWERS => {
            // At least two remain, which an overlay without an upper needs.
            let bottom = top.split_off(MAX_LOWERS - 1);
            Ok((top, bottom))
        }
        _ => Ok((top, Vec::new())),
    }
}

/// Whether overlayfs can take this many layers.
pub(super) fn check(stack: &LayerStack) -> Result<(), OverlayError> {
    top_first(stack).map(drop)
}

/// The layers as arguments for the kernel; opened once more when the overlay is mounted in another namespace. What is mounted
/// nowhere has no path to be opened by.
pub(super) fn lowers<'a>(stack: &'a LayerStack, kernel: Kernel, reopen: bool) -> Result<Lowers<'a>, OverlayError> {
    let (top, bottom) = top_first(stack)?;
    let arguments = |layers: Vec<&'a StackedLayer>| {
        (layers.into_iter())
            .map(|layer| argument(layer.directory(), layer.path(), kernel, reopen && !layer.is_mount()))
            .collect()
    };
    Ok(Lowers { top: arguments(top), bottom: arguments(bottom) })
}

pub(super) fn argument<'a>(directory: BorrowedFd<'a>, path: &Path, kernel: Kernel, reopen: bool) -> LayerArgument<'a> {
    let reopen = if reopen { CString::new(path.as_os_str().as_bytes()).ok() } else { None };
    let path = match kernel.layers {
        LayersBy::Descriptor => None,
        LayersBy::Path | LayersBy::Joined => plain_path(path, directory),
    };
    LayerArgument { at: At::Fd(directory), path, reopen }
}

/// The path, when it may stand in a mount option as it is, and still leads to this very directory.
///
/// A path is better than `/proc/self/fd/N` where only text will do, because mountinfo shows it for as long as the mount lives.
fn plain_path(path: &Path, directory: BorrowedFd<'_>) -> Option<CString> {
    let bytes = path.as_os_str().as_bytes();
    // fsconfig(2) takes strings of up to 255 bytes; `\`, `:` and `,` mean something in some of the ways to pass them.
    if !path.is_absolute() || bytes.len() > 255 || bytes.iter().any(|byte| br"\:,".contains(byte)) {
        return None;
    }
    let (there, here) = (statat(CWD, path, AtFlags::empty()).ok()?, fstat(directory.as_fd()).ok()?);
    ((there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)).then(|| CString::new(bytes).ok())?
}
