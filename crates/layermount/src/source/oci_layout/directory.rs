//! An OCI layout directory: its files, opened without following what an untrusted layout could point elsewhere.
//!
//! The directory itself, and `blobs` and `blobs/sha256` in it, may be symbolic links, because people share pools of blobs that
//! way. `oci-layout`, `index.json` and each blob may not, and must be regular files. Nothing here blocks on a fifo.
//!
//! Source of the rules: the OCI image specification, `image-layout.md`.

use std::fs::File;
use std::io::{Cursor, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use serde::Deserialize;

use crate::digest::Digest;
use crate::error::{ErrorKind, Fault, Result, ResultExt, SyscallContext, SyscallError};
use crate::image::document::{self, MAX_DOCUMENT};
use crate::image::{self, Blobs};
use crate::source::base64;
use crate::source::manifest::{self, Descriptor};

/// An open layout. Blobs are found relative to the open directory, so that it may be renamed meanwhile.
#[derive(Debug)]
pub(super) struct Layout {
    directory: OwnedFd,
    path: PathBuf,
    /// Bytes of the documents that were read, each as often as it was.
    read: AtomicU64,
}

/// How much may be read to find an image. One large index that is named thousands of times costs nothing to make.
const MAX_DOCUMENTS: u64 = 64 * MAX_DOCUMENT;

#[derive(Debug, thiserror::Error)]
pub(super) enum LayoutError {
    #[error("there is no directory {path:?}")]
    NoDirectory { path: PathBuf, source: SyscallError },
    #[error("{path:?} is not an OCI layout")]
    NotALayout { path: PathBuf, source: SyscallError },
    #[error("{path:?} is an OCI layout of version {version:?}, not 1.x")]
    Version { path: PathBuf, version: String },
    #[error("the blob {digest} is not in {layout}")]
    NoBlob { digest: Digest, layout: String, foreign: bool, source: SyscallError },
    #[error("{name} in {layout} cannot be opened")]
    Open { name: String, layout: String, source: SyscallError },
    #[error("{name} in {layout} is not a regular file")]
    NotAFile { name: String, layout: String },
    #[error("{digest} in {layout} has {found} bytes, but its descriptor says {stated}")]
    Size { digest: Digest, layout: String, found: u64, stated: u64 },
    #[error("{what} in {layout} does not have the digest {digest}")]
    Digest { what: &'static str, digest: Digest, layout: String },
    #[error("the inline data of {digest} is not base64")]
    Data { digest: Digest },
    #[error("{name} has {size} bytes, more than the {MAX_DOCUMENT} that are accepted")]
    TooLarge { name: String, size: u64 },
    #[error("the indexes, manifests and configs of {layout} have more than {MAX_DOCUMENTS} bytes in all")]
    TooMuch { layout: String },
}

impl Fault for LayoutError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoDirectory { .. } => ErrorKind::ImageNotFound,
            Self::NotALayout { source, .. } | Self::Open { source, .. } => match source.errno() {
                Errno::NOENT | Errno::NOTDIR | Errno::ISDIR | Errno::LOOP | Errno::NXIO => ErrorKind::InvalidImage,
                _ => source.kind(),
            },
            Self::Version { .. } => ErrorKind::Unsupported,
            Self::NoBlob { .. } => ErrorKind::BlobNotFound,
            Self::Size { .. } | Self::Digest { .. } => ErrorKind::DigestMismatch,
            Self::NotAFile { .. } | Self::Data { .. } => ErrorKind::InvalidImage,
            Self::TooLarge { .. } | Self::TooMuch { .. } => ErrorKind::LimitExceeded,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NotALayout { source, .. } | Self::Open { source, .. } if source.hint().is_some() => source.hint(),
            Self::NotALayout { source, .. } if source.errno() == Errno::NOTDIR => {
                Some("an archive of a layout must be unpacked first, with 'tar -xf FILE -C DIR'".into())
            }
            Self::NotALayout { .. } => Some(
                "an OCI layout is a directory with the files oci-layout and index.json; 'skopeo copy' makes one".into(),
            ),
            Self::NoBlob { foreign: true, .. } => {
                Some("the layer may not be redistributed, so that it was left out when the image was copied".into())
            }
            Self::NoBlob { .. } => Some("the layout was copied in part only: copy the image again".into()),
            Self::Open { source, .. } if source.errno() == Errno::LOOP => {
                Some("files of a layout that are symbolic links are not followed: copy it with 'cp -rL'".into())
            }
            _ => None,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Marker {
    #[serde(default, deserialize_with = "document::null_is_default")]
    image_layout_version: String,
}

impl Layout {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let not_a_layout = |source: SyscallError| match source.errno() {
            Errno::NOENT => LayoutError::NoDirectory { path: path.to_owned(), source },
            _ => LayoutError::NotALayout { path: path.to_owned(), source },
        };
        let directory = rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .syscall("open", || format!("{path:?}, O_RDONLY|O_DIRECTORY"))
            .map_err(not_a_layout)?;
        let layout = Self { directory, path: path.to_owned(), read: AtomicU64::new(0) };
        let marker: Marker = document::parse("file oci-layout", &layout.read_file("oci-layout")?)
            .context(|| format!("{} is not an OCI layout that can be read", layout.describe()))?;
        match marker.image_layout_version.starts_with("1.") {
            true => Ok(layout),
            false => Err(LayoutError::Version { path: path.to_owned(), version: marker.image_layout_version }.into()),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// `index.json`, whose digest nobody states.
    pub(super) fn index(&self) -> Result<Vec<u8>> {
        self.read_file("index.json")
    }

    /// A document, verified.
    pub(super) fn read(&self, what: &'static str, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let Descriptor { digest, size, data, .. } = descriptor;
        if *size > MAX_DOCUMENT {
            return Err(LayoutError::TooLarge { name: format!("the {what} {digest}"), size: *size }.into());
        }
        if self.read.fetch_add(*size, Ordering::Relaxed) + size > MAX_DOCUMENTS {
            return Err(LayoutError::TooMuch { layout: self.describe() }.into());
        }
        let mut bytes = Vec::new();
        self.open_blob(digest, *size, data.as_deref(), &descriptor.media_type)?
            .take(size + 1)
            .read_to_end(&mut bytes)
            .syscall("read", || format!("{digest}"))?;
        self.check_size(digest, bytes.len() as u64, *size)?;
        // A copy is hashed as it was read: the file may change while we look at it.
        let mut hasher = crate::digest::Hasher::new(digest.algorithm());
        hasher.update(&bytes);
        match hasher.finish() == *digest {
            true => Ok(bytes),
            false => Err(LayoutError::Digest { what, digest: digest.clone(), layout: self.describe() }.into()),
        }
    }

    fn read_file(&self, name: &str) -> Result<Vec<u8>> {
        let (file, size) = match self.open_regular(name) {
            // Without these two files, the directory is something else.
            Err(LayoutError::Open { source, .. }) if source.errno() == Errno::NOENT => {
                return Err(LayoutError::NotALayout { path: self.path.clone(), source }.into());
            }
            opened => opened?,
        };
        if size > MAX_DOCUMENT {
            return Err(LayoutError::TooLarge { name: name.to_owned(), size }.into());
        }
        let mut bytes = Vec::new();
        file.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes).syscall("read", || name.to_owned())?;
        Ok(bytes)
    }

    fn open_blob(
        &self,
        digest: &Digest,
        size: u64,
        data: Option<&str>,
        media_type: &str,
    ) -> Result<Box<dyn Read + Send>, LayoutError> {
        if let Some(data) = data {
            let bytes = base64::decode(data).ok_or_else(|| LayoutError::Data { digest: digest.clone() })?;
            self.check_size(digest, bytes.len() as u64, size)?;
            return Ok(Box::new(Cursor::new(bytes)));
        }
        // Digests are parsed strictly, so that both parts are plain file names.
        let name = format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex());
        let (file, found) = match self.open_regular(&name) {
            Err(LayoutError::Open { source, .. }) if source.errno() == Errno::NOENT => {
                let foreign = manifest::is_foreign(media_type);
                return Err(LayoutError::NoBlob { digest: digest.clone(), layout: self.describe(), foreign, source });
            }
            opened => opened?,
        };
        self.check_size(digest, found, size)?;
        Ok(Box::new(file))
    }

    fn check_size(&self, digest: &Digest, found: u64, stated: u64) -> Result<(), LayoutError> {
        match found == stated {
            true => Ok(()),
            false => Err(LayoutError::Size { digest: digest.clone(), layout: self.describe(), found, stated }),
        }
    }

    fn open_regular(&self, name: &str) -> Result<(File, u64), LayoutError> {
        let open = |source| LayoutError::Open { name: name.to_owned(), layout: self.describe(), source };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.directory, name, flags, Mode::empty())
            .syscall("openat", || format!("{:?}, {name:?}, O_RDONLY|O_NOFOLLOW|O_NONBLOCK", self.path))
            .map_err(open)?;
        let stat = rustix::fs::fstat(&file).syscall("fstat", || name.to_owned()).map_err(open)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok((File::from(file), u64::try_from(stat.st_size).unwrap_or_default())),
            _ => Err(LayoutError::NotAFile { name: name.to_owned(), layout: self.describe() }),
        }
    }
}

impl Blobs for Layout {
    fn open(&self, descriptor: &image::Descriptor) -> Result<Box<dyn Read + Send>> {
        let digest = Digest::try_from(descriptor.digest())?;
        let media_type = descriptor.media_type().to_string();
        Ok(self.open_blob(&digest, descriptor.size(), descriptor.data().as_deref(), &media_type)?)
    }

    fn describe(&self) -> String {
        format!("oci:{}", self.path.display())
    }
}
