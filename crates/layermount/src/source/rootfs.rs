//! `rootfs:DIR`: a directory that holds a whole tree, used where it lies.
//!
//! It has no configuration, no layers and no name. Its image ID is the SHA-256 of its canonical path: it says which directory
//! it is, not what is in it.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};

use crate::digest::Digest;
use crate::error::{ErrorKind, Fault, Result, SyscallContext, SyscallError};
use crate::image::{Config, Content, Image, ImageParts, Located, Platform};
use crate::reference::Reference;

use super::Source;

/// Directories named by `rootfs:DIR`.
#[derive(Debug, Clone, Copy, Default)]
pub struct RootfsDirectories;

#[derive(Debug, thiserror::Error)]
enum RootfsError {
    #[error("there is no directory {directory:?}")]
    Missing { directory: PathBuf, source: SyscallError },
    #[error("{directory:?} cannot be used as a root directory")]
    Unusable { directory: PathBuf, source: SyscallError },
}

impl Fault for RootfsError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Missing { .. } => ErrorKind::ImageNotFound,
            Self::Unusable { source, .. } => match source.errno() {
                rustix::io::Errno::NOTDIR => ErrorKind::InvalidInput,
                _ => source.kind(),
            },
        }
    }
}

impl Source for RootfsDirectories {
    fn describe(&self) -> String {
        "the file system".to_owned()
    }

    fn accepts(&self, reference: &Reference) -> bool {
        matches!(reference, Reference::Rootfs(_))
    }

    fn resolve(&self, reference: &Reference, _platform: &Platform) -> Result<Image> {
        let Reference::Rootfs(directory) = reference else {
            return Err(super::not_mine(self, reference));
        };
        let fault = |source: SyscallError| match source.errno() {
            rustix::io::Errno::NOENT => RootfsError::Missing { directory: directory.clone(), source },
            _ => RootfsError::Unusable { directory: directory.clone(), source },
        };
        rustix::fs::open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .syscall("open", || format!("{directory:?}, O_PATH|O_DIRECTORY"))
            .map_err(fault)?;
        let canonical = directory.canonicalize().syscall("realpath", || format!("{directory:?}")).map_err(fault)?;
        Image::new(ImageParts {
            id: Some(Digest::sha256(canonical.as_os_str().as_bytes())),
            manifest_digest: None,
            names: Vec::new(),
            platform: Platform::host(),
            config: Config::empty(),
            descriptors: None,
            content: Content::Located(Located::Tree(canonical)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(directory: impl Into<PathBuf>) -> Result<Image> {
        RootfsDirectories.resolve(&Reference::Rootfs(directory.into()), &Platform::host())
    }

    #[test]
    fn a_directory_is_an_image_without_layers() {
        let directory = tempfile::tempdir().unwrap();
        let image = resolve(directory.path().join(".")).unwrap();
        let canonical = directory.path().canonicalize().unwrap();
        assert!(matches!(image.content(), Content::Located(Located::Tree(tree)) if *tree == canonical));
        assert!(image.layers().is_empty());
        assert_eq!(*image.id(), Digest::sha256(canonical.as_os_str().as_bytes()));
    }

    #[test]
    fn what_is_no_directory_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = tempfile::NamedTempFile::new_in(&directory).unwrap();
        assert_eq!(resolve(file.path()).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(resolve(directory.path().join("none")).unwrap_err().kind(), ErrorKind::ImageNotFound);
    }
}
