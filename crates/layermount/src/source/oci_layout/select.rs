//! Which image of a layout is meant: by name or digest among the entries of `index.json`, then by platform below it.

use std::collections::BTreeSet;
use std::path::Path;

use crate::digest::Digest;
use crate::error::{ErrorKind, Fault, Result, ResultExt};
use crate::image::Blobs;
use crate::reference::{ImageName, OciSelector};
use crate::source::manifest::{Descriptor, Document, Kind};

use super::directory::Layout;

/// Limits for hostile layouts: an index may refer to itself only by breaking SHA-256, but may be wide and deep.
const MAX_DEPTH: usize = 8;
const MAX_DESCRIPTORS: usize = 10_000;

const REF_NAME: &str = "org.opencontainers.image.ref.name";
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// An image manifest that the selector leads to.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) manifest: Descriptor,
    /// The entry of `index.json` that it hangs from, by which it has its names.
    pub(super) entry: Digest,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum SelectError {
    #[error("there is no image {wanted:?} in {layout}, which holds {}", words(.present))]
    NoSuchName { wanted: String, layout: String, present: Vec<String> },
    #[error("there is no manifest {wanted} in the indexes of {layout}")]
    NoSuchDigest { wanted: Digest, layout: String },
    #[error("there are several images in {layout}: {}", words(.present))]
    Ambiguous { layout: String, present: Vec<String> },
    #[error("the index of {layout} leads to no image")]
    NoImage { layout: String },
    #[error("index.json of {layout} is a manifest, not an index")]
    NotAnIndex { layout: String },
    #[error("the indexes of {layout} are nested more than {MAX_DEPTH} deep")]
    TooDeep { layout: String },
    #[error("the indexes of {layout} have more than {MAX_DESCRIPTORS} entries")]
    TooMany { layout: String },
}

fn words(names: &[String]) -> String {
    match names {
        [] => "nothing".to_owned(),
        names => names.join(", "),
    }
}

impl Fault for SelectError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSuchName { .. } | Self::NoSuchDigest { .. } => ErrorKind::ImageNotFound,
            Self::Ambiguous { .. } => ErrorKind::InvalidInput,
            Self::NoImage { .. } | Self::NotAnIndex { .. } => ErrorKind::InvalidImage,
            Self::TooDeep { .. } | Self::TooMany { .. } => ErrorKind::LimitExceeded,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Ambiguous { layout, present } | Self::NoSuchName { layout, present, .. } => {
                let first = present.first()?;
                let separator = if first.starts_with("sha256:") { '@' } else { ':' };
                Some(format!("say which one: {layout}{separator}{first}"))
            }
            _ => None,
        }
    }
}

/// The entries of `index.json`, and what is read below them.
#[derive(Debug)]
pub(super) struct Selection<'a> {
    layout: &'a Layout,
    entries: Vec<Descriptor>,
    seen: usize,
}

impl<'a> Selection<'a> {
    pub(super) fn new(layout: &'a Layout) -> Result<Self> {
        let document =
            Document::parse(&layout.index()?, "").context(|| format!("index.json of {}", layout.describe()))?;
        match document {
            Document::Index(entries) => Ok(Self { layout, entries, seen: 0 }),
            Document::Manifest(_) => Err(SelectError::NotAnIndex { layout: layout.describe() }.into()),
        }
    }

    /// All manifests that `selector` can mean, in the order of the indexes, for a choice by platform.
    pub(super) fn candidates(&mut self, selector: &OciSelector) -> Result<Vec<Candidate>> {
        let layout = self.layout.describe();
        let (entries, wanted) = match selector {
            OciSelector::Only => (self.only()?, None),
            OciSelector::Name(name) => (self.named(name)?, None),
            OciSelector::Digest(digest) => (self.entries.clone(), Some(digest)),
        };
        let mut found = Vec::new();
        for entry in &entries {
            self.walk(entry, &entry.digest, 1, wanted, &mut found)?;
        }
        match (found.is_empty(), wanted) {
            (false, _) => Ok(found),
            (true, Some(wanted)) => Err(SelectError::NoSuchDigest { wanted: wanted.clone(), layout }.into()),
            (true, None) => Err(SelectError::NoImage { layout }.into()),
        }
    }

    /// Full names of what hangs from `entry`.
    ///
    /// A whole name counts as it stands. A bare tag, as skopeo and umoci write it, does not say what it is a tag of: it
    /// becomes `localhost/DIRECTORY:TAG`, which cannot be mistaken for an image of a registry.
    pub(super) fn names(&self, entry: &Digest) -> Vec<String> {
        let of_entry = self.entries.iter().filter(|candidate| candidate.digest == *entry);
        let names: BTreeSet<String> = of_entry.flat_map(annotated).filter_map(|name| self.full_name(name)).collect();
        names.into_iter().collect()
    }

    fn full_name(&self, name: &str) -> Option<String> {
        if name.contains(['/', ':']) {
            return name.parse::<ImageName>().ok().map(|name| name.to_string());
        }
        let path = self.layout.path();
        let directory = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let directory = Path::file_name(&directory)?.to_str()?.to_lowercase();
        ImageName::new("localhost", &directory, Some(name), None).ok().map(|name| name.to_string())
    }

    fn only(&self) -> Result<Vec<Descriptor>, SelectError> {
        let entries: Vec<&Descriptor> = self.entries.iter().filter(|entry| !entry.is_attestation()).collect();
        let digests: BTreeSet<&Digest> = entries.iter().map(|entry| &entry.digest).collect();
        let names: BTreeSet<Vec<&str>> = entries.iter().map(|entry| annotated(entry).collect()).collect();
        let platforms: BTreeSet<String> =
            entries.iter().filter_map(|entry| entry.platform()).map(|platform| platform.to_string()).collect();
        // One image for several platforms may be spread out in index.json itself.
        let one_image = names.len() == 1 && platforms.len() == entries.len();
        match digests.len() <= 1 || one_image {
            true => Ok(entries.into_iter().cloned().collect()),
            false => Err(SelectError::Ambiguous { layout: self.layout.describe(), present: self.present() }),
        }
    }

    /// By the annotation as it stands, then as a normalised name, then by the tag of a whole name.
    fn named(&self, wanted: &str) -> Result<Vec<Descriptor>, SelectError> {
        let exact = |name: &str| name == wanted;
        let full = wanted.contains(['/', ':']).then(|| wanted.parse::<ImageName>().ok()).flatten();
        let same = |name: &str| full.is_some() && name.parse::<ImageName>().ok() == full;
        let tagged = |name: &str| {
            name.contains(['/', ':']) && name.parse::<ImageName>().is_ok_and(|name| name.tag() == Some(wanted))
        };
        let ways: [&dyn Fn(&str) -> bool; 3] = [&exact, &same, &tagged];
        for matches in ways {
            let found: Vec<Descriptor> =
                self.entries.iter().filter(|entry| annotated(entry).any(matches)).cloned().collect();
            if !found.is_empty() {
                return Ok(found);
            }
        }
        Err(SelectError::NoSuchName {
            wanted: wanted.to_owned(),
            layout: self.layout.describe(),
            present: self.present(),
        })
    }

    /// What a person can choose from.
    fn present(&self) -> Vec<String> {
        const SHOWN: usize = 20;
        let mut present = Vec::new();
        for entry in self.entries.iter().filter(|entry| !entry.is_attestation()) {
            let before = present.len();
            for name in annotated(entry) {
                if !present.iter().any(|known| known == name) {
                    present.push(name.to_owned());
                }
            }
            if before == present.len() && annotated(entry).next().is_none() {
                present.push(entry.digest.to_string());
            }
        }
        if present.len() > SHOWN {
            let more = present.len() - SHOWN;
            present.truncate(SHOWN);
            present.push(format!("{more} more"));
        }
        present
    }

    /// Collects the manifests at and below `descriptor`; with `wanted`, only those at and below that digest.
    fn walk(
        &mut self,
        descriptor: &Descriptor,
        entry: &Digest,
        depth: usize,
        wanted: Option<&Digest>,
        found: &mut Vec<Candidate>,
    ) -> Result<()> {
        self.seen += 1;
        if self.seen > MAX_DESCRIPTORS {
            return Err(SelectError::TooMany { layout: self.layout.describe() }.into());
        }
        if descriptor.is_attestation() {
            return Ok(());
        }
        let wanted = wanted.filter(|digest| **digest != descriptor.digest);
        let nested = match descriptor.kind() {
            Kind::Other => return Ok(()),
            Kind::Manifest => None,
            Kind::Index | Kind::Unstated => {
                let bytes = self.layout.read("image index", descriptor)?;
                let document = Document::parse(&bytes, &descriptor.media_type)
                    .context(|| format!("index {} of {}", descriptor.digest, self.layout.describe()))?;
                match document {
                    Document::Index(nested) => Some(nested),
                    Document::Manifest(_) => None,
                }
            }
        };
        match nested {
            None if wanted.is_none() => {
                found.push(Candidate { manifest: descriptor.clone(), entry: entry.clone() });
            }
            None => {}
            Some(_) if depth == MAX_DEPTH => {
                return Err(SelectError::TooDeep { layout: self.layout.describe() }.into());
            }
            Some(nested) => {
                for below in &nested {
                    self.walk(below, entry, depth + 1, wanted, found)?;
                }
            }
        }
        Ok(())
    }
}

fn annotated(entry: &Descriptor) -> impl Iterator<Item = &str> {
    [REF_NAME, CONTAINERD_NAME].into_iter().filter_map(|key| entry.annotations.get(key)).map(String::as_str)
}
