//! References: what a person types to name an image.
//!
//! A reference is a name with Docker's normalisation (`ubuntu` is `docker.io/library/ubuntu:latest`), an image ID, or a
//! transport and what it takes, spelled as in containers-transports(5):
//!
//! | spelling                                  | meaning                                                                |
//! |-------------------------------------------|------------------------------------------------------------------------|
//! | `[REGISTRY/]REPOSITORY[:TAG][@DIGEST]`    | a name, searched in every source that knows names                      |
//! | `sha256:HEX`, or 64 hexadecimal digits    | an image ID                                                            |
//! | `oci:DIR`, `oci:DIR:NAME`, `oci:DIR@DIGEST` | an OCI layout directory; `NAME` as it stands in its `index.json`     |
//! | `docker-daemon:REF`                       | a name or image ID, in a Docker Engine only                            |
//! | `rootfs:DIR`                              | a directory that holds a whole tree                                    |
//!
//! - In `oci:`, the first `:` ends `DIR`, which therefore cannot contain one (so say containers-transports(5) too).
//! - A short image ID cannot be told from a name: it is parsed as a name, and [`ImageName::as_id_prefix`] lets a source that
//!   has no such name try it as an ID. A name thus wins over an ID.
//! - The word of a transport wins over an image of that name on Docker Hub: such an image is `docker.io/library/oci:1`.
//!   `docker:24` stays a name, because only `docker://` is a transport.

mod error;
mod name;

pub use error::ParseReferenceError;
pub use name::ImageName;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::digest::Digest;

use error::Reason;

/// A parsed reference. See [the module](self) for the spellings.
///
/// `Display` prints the canonical spelling, which parses to the same value (paths that are not UTF-8 aside).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reference {
    /// A name, to be searched.
    Name(ImageName),
    /// An image ID, to be searched.
    Id(Digest),
    /// `oci:`: an OCI layout directory.
    OciLayout {
        /// The directory with `oci-layout` and `index.json`.
        directory: PathBuf,
        /// Which image of the layout.
        selector: OciSelector,
    },
    /// `docker-daemon:`: an image of a Docker Engine.
    DockerDaemon(DaemonImage),
    /// `rootfs:`: a directory with a whole tree.
    Rootfs(PathBuf),
}

/// Which image of an OCI layout is meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum OciSelector {
    /// The only one.
    Only,
    /// The one that `index.json` calls so: a bare tag, or a whole name.
    Name(String),
    /// The manifest or index with this digest.
    Digest(Digest),
}

/// How an engine is asked for an image.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum DaemonImage {
    /// By name.
    Name(ImageName),
    /// By image ID.
    Id(Digest),
}

/// Transports of containers-transports(5) and of this crate's plans that are recognised, so that they are not taken for names.
const UNSUPPORTED: [&str; 8] =
    ["oci-archive", "docker-archive", "containers-storage", "containerd", "dir", "ostree", "sif", "tarball"];

impl FromStr for Reference {
    type Err = ParseReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).map_err(|reason| ParseReferenceError::new(text, reason))
    }
}

fn parse(text: &str) -> Result<Reference, Reason> {
    if let Some((scheme, _)) = text.split_once("://")
        && matches!(scheme, "docker" | "http" | "https")
    {
        return Err(Reason::Transport(format!("{scheme}://")));
    }
    match text.split_once(':') {
        Some(("oci", rest)) => parse_oci(rest),
        Some(("docker-daemon", rest)) => Ok(Reference::DockerDaemon(match parse_id(rest)? {
            Some(id) => DaemonImage::Id(id),
            None => DaemonImage::Name(ImageName::scan(rest)?),
        })),
        Some(("rootfs", "")) => Err(Reason::Empty("directory")),
        Some(("rootfs", directory)) => path(directory).map(Reference::Rootfs),
        Some((word, _)) if UNSUPPORTED.contains(&word) => Err(Reason::Transport(format!("{word}:"))),
        _ => match parse_id(text)? {
            Some(id) => Ok(Reference::Id(id)),
            None => ImageName::scan(text).map(Reference::Name),
        },
    }
}

/// `None` where the text is not meant as an ID.
fn parse_id(text: &str) -> Result<Option<Digest>, Reason> {
    let bare = text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if bare {
        return Ok(format!("sha256:{text}").parse().ok());
    }
    // An engine would take `sha256:abc` for a name with the tag `abc`; nobody who types it means that.
    if text.starts_with("sha256:") || text.starts_with("sha512:") {
        return text.parse().map(Some).map_err(|_| Reason::ImageId);
    }
    Ok(None)
}

fn parse_oci(rest: &str) -> Result<Reference, Reason> {
    let (rest, digest) = match rest.rsplit_once('@') {
        Some((before, digest)) if digest.starts_with("sha256:") || digest.starts_with("sha512:") => {
            (before, Some(digest.parse::<Digest>().map_err(|_| Reason::Digest(digest.to_owned()))?))
        }
        _ => (rest, None),
    };
    let (directory, name) = match rest.split_once(':') {
        Some((directory, name)) => (directory, Some(name)),
        None => (rest, None),
    };
    if directory.is_empty() {
        return Err(Reason::Empty("directory"));
    }
    let selector = match (name, digest) {
        (None, None) => OciSelector::Only,
        (None, Some(digest)) => OciSelector::Digest(digest),
        (Some(_), Some(_)) => return Err(Reason::NameAndDigest),
        (Some(""), None) => return Err(Reason::Empty("name after the directory")),
        (Some(name), None) => match name.char_indices().find(|(_, c)| c.is_whitespace() || c.is_control()) {
            Some((_, found)) => return Err(Reason::Character { part: "name in a layout", found, text: name.into() }),
            None => OciSelector::Name(name.to_owned()),
        },
    };
    Ok(Reference::OciLayout { directory: path(directory)?, selector })
}

fn path(text: &str) -> Result<PathBuf, Reason> {
    if text.contains('\0') {
        return Err(Reason::Character { part: "path", found: '\0', text: text.to_owned() });
    }
    Ok(PathBuf::from(text))
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => fmt::Display::fmt(name, f),
            Self::Id(id) => fmt::Display::fmt(id, f),
            Self::OciLayout { directory, selector } => write!(f, "oci:{}{selector}", directory.display()),
            Self::DockerDaemon(image) => write!(f, "docker-daemon:{image}"),
            Self::Rootfs(directory) => write!(f, "rootfs:{}", directory.display()),
        }
    }
}

/// As it stands behind the directory, with its separator.
impl fmt::Display for OciSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Only => Ok(()),
            Self::Name(name) => write!(f, ":{name}"),
            Self::Digest(digest) => write!(f, "@{digest}"),
        }
    }
}

impl fmt::Display for DaemonImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => fmt::Display::fmt(name, f),
            Self::Id(id) => fmt::Display::fmt(id, f),
        }
    }
}

impl From<ImageName> for Reference {
    fn from(name: ImageName) -> Self {
        Self::Name(name)
    }
}

#[cfg(test)]
mod tests;
