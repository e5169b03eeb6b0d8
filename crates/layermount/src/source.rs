//! Where images come from.
//!
//! A [`Source`] turns a reference into an [`Image`]. [`Sources`] asks several in a stated order. Each place that images come
//! from has its own file below this one.

mod base64;
#[cfg_attr(not(feature = "docker"), path = "source/docker_absent.rs")]
mod docker;
pub(crate) mod manifest;
mod near;
mod oci_layout;
mod rootfs;
mod stored;

#[cfg(all(any(test, fuzzing), feature = "docker"))]
pub(crate) use docker::fuzzing::docker_replies;
pub use docker::{Docker, Pin};
pub use oci_layout::OciLayouts;
pub use rootfs::RootfsDirectories;
pub use stored::StoredImages;

use std::fmt;

use crate::error::{Error, ErrorKind, Fault, Result};
use crate::image::{Image, Platform};
use crate::reference::Reference;

/// A place that images come from. Embedders may bring their own.
pub trait Source: fmt::Debug + Send + Sync {
    /// What a person calls this place, for messages: `the store at /var/lib/layermount`, `Docker at unix:///run/docker.sock`.
    fn describe(&self) -> String;

    /// Whether references of this kind are this source's business at all.
    fn accepts(&self, reference: &Reference) -> bool;

    /// Finds the image, or says why not.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::ImageNotFound`] and [`ErrorKind::EngineUnavailable`] let [`Sources`] go on to the next place; anything
    /// else ends the search.
    fn resolve(&self, reference: &Reference, platform: &Platform) -> Result<Image>;

    /// Names that this source holds, for "did you mean"; empty where that cannot be told cheaply.
    fn names(&self) -> Vec<String> {
        Vec::new()
    }
}

/// An engine that was asked what it is.
#[derive(Debug, Clone)]
pub(crate) struct EngineFacts {
    pub(crate) endpoint: String,
    /// The newest that both sides speak.
    pub(crate) api_version: String,
    /// Its storage driver.
    pub(crate) storage: String,
}

/// Several sources, asked in order. Each is only asked for references that it accepts.
#[derive(Debug)]
pub struct Sources {
    sources: Vec<Box<dyn Source>>,
}

impl Sources {
    /// These sources, the first asked first.
    pub fn new(sources: Vec<Box<dyn Source>>) -> Self {
        Self { sources }
    }

    /// Asks `source` before all others.
    #[must_use]
    pub fn with_first(mut self, source: impl Source + 'static) -> Self {
        self.sources.insert(0, Box::new(source));
        self
    }

    /// Finds the image in the first source that has it.
    ///
    /// # Errors
    ///
    /// Where no source has it, the error lists where was looked and why each said no.
    pub fn resolve(&self, reference: &Reference, platform: &Platform) -> Result<Image> {
        let mut refusals = Vec::new();
        for source in self.sources.iter().filter(|source| source.accepts(reference)) {
            match source.resolve(reference, platform) {
                Err(error) if matches!(error.kind(), ErrorKind::ImageNotFound | ErrorKind::EngineUnavailable) => {
                    refusals.push(Refusal { place: source.describe(), error });
                }
                // It may be there: a later place could have another image of that name.
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                    refusals.push(Refusal { place: source.describe(), error });
                    break;
                }
                found_or_failed => return found_or_failed,
            }
        }
        if refusals.is_empty() {
            return Err(SourcesError::NobodyAccepts { reference: reference.to_string() }.into());
        }
        Err(SourcesError::NotFound {
            reference: reference.to_string(),
            near: near::nearest(
                reference,
                self.sources.iter().filter(|s| s.accepts(reference)).flat_map(|s| s.names()),
            ),
            refusals: Refusals(refusals),
            is_name: matches!(reference, Reference::Name(_)),
        }
        .into())
    }
}

/// The default store, then Docker; and what the transports `oci:` and `rootfs:` name.
impl Default for Sources {
    fn default() -> Self {
        Self::new(vec![
            Box::new(StoredImages::default()),
            Box::new(Docker::default()),
            Box::new(OciLayouts),
            Box::new(RootfsDirectories),
        ])
    }
}

#[derive(Debug)]
struct Refusal {
    place: String,
    error: Error,
}

#[derive(Debug, thiserror::Error)]
enum SourcesError {
    #[error("{reference} was not found")]
    NotFound {
        reference: String,
        #[source]
        refusals: Refusals,
        near: Vec<String>,
        is_name: bool,
    },
    #[error("no source takes references like {reference}")]
    NobodyAccepts { reference: String },
}

/// Where was looked, one place a line.
#[derive(Debug)]
struct Refusals(Vec<Refusal>);

impl fmt::Display for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.0.iter().map(|Refusal { place, error }| format!("{place} says: {error:#}")).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for Refusals {}

impl Fault for SourcesError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NobodyAccepts { .. } => ErrorKind::Unsupported,
            // What a person can change first: a permission. One place that could be asked is enough to call the image
            // not found.
            Self::NotFound { refusals, .. } => [ErrorKind::PermissionDenied, ErrorKind::ImageNotFound]
                .into_iter()
                .find(|kind| refusals.0.iter().any(|refusal| refusal.error.kind() == *kind))
                .unwrap_or(ErrorKind::EngineUnavailable),
        }
    }

    fn hint(&self) -> Option<String> {
        let Self::NotFound { refusals, near, is_name, .. } = self else { return None };
        let mut hints = Vec::new();
        if !near.is_empty() {
            hints.push(format!("did you mean {}?", near.join(" or ")));
        }
        for hint in refusals.0.iter().filter_map(|refusal| refusal.error.hint()) {
            if !hints.contains(&hint) {
                hints.push(hint);
            }
        }
        if *is_name && near.is_empty() {
            hints.push("'docker pull' or 'layermount pull oci:DIR' brings an image here".to_owned());
        }
        (!hints.is_empty()).then(|| hints.join("\n"))
    }
}

/// The image is there, but not for the platform that was asked for.
#[derive(Debug, thiserror::Error)]
#[error("the image in {place} is not for {wanted} but for {}", .present.join(", "))]
pub(crate) struct PlatformNotFound {
    place: String,
    wanted: Platform,
    present: Vec<String>,
}

impl PlatformNotFound {
    pub(crate) fn new(place: String, wanted: &Platform, present: impl IntoIterator<Item = Platform>) -> Self {
        let mut platforms: Vec<String> = Vec::new();
        for platform in present {
            let platform = platform.to_string();
            if !platforms.contains(&platform) {
                platforms.push(platform);
            }
        }
        Self { place, wanted: wanted.clone(), present: platforms }
    }
}

impl Fault for PlatformNotFound {
    fn kind(&self) -> ErrorKind {
        ErrorKind::PlatformNotFound
    }

    fn hint(&self) -> Option<String> {
        let first = self.present.first()?;
        Some(format!("'--platform {first}' takes it nevertheless; its programs run only where the kernel can run them"))
    }
}

/// What a source answers to a reference that it does not accept.
fn not_mine(source: &dyn Source, reference: &Reference) -> Error {
    SourcesError::NobodyAccepts { reference: format!("{reference} ({} does not)", source.describe()) }.into()
}

#[cfg(test)]
mod tests;
