//! `oci:DIR[:NAME|@DIGEST]`: images in an OCI layout directory, as skopeo, umoci, BuildKit and crane write them.
//!
//! `index.json` names entries by `org.opencontainers.image.ref.name` (a tag, or a whole name) and by containerd's
//! `io.containerd.image.name`; a selector may be either. Below an entry there may be indexes in indexes; the platform chooses.
//! Every document is verified against its descriptor before it is believed; layers are verified by who reads them.
//!
//! Source of the rules: the OCI image specification, `image-layout.md`, `image-index.md` and `annotations.md`.

mod directory;
mod select;

use std::path::Path;
use std::sync::Arc;

use crate::digest::Digest;
use crate::error::{Result, ResultExt};
use crate::image::{self, Blobs, Config, Content, Image, ImageParts, Platform};
use crate::reference::{OciSelector, Reference};

use super::manifest::{Descriptor, Document, ManifestError};
use super::{PlatformNotFound, Source};

use directory::Layout;
use select::{Candidate, Selection};

/// OCI layout directories named by `oci:DIR`.
#[derive(Debug, Clone, Copy, Default)]
pub struct OciLayouts;

impl Source for OciLayouts {
    fn describe(&self) -> String {
        "the OCI layout".to_owned()
    }

    fn accepts(&self, reference: &Reference) -> bool {
        matches!(reference, Reference::OciLayout { .. })
    }

    fn resolve(&self, reference: &Reference, platform: &Platform) -> Result<Image> {
        match reference {
            Reference::OciLayout { directory, selector } => resolve(directory, selector, platform),
            _ => Err(super::not_mine(self, reference)),
        }
    }
}

fn resolve(directory: &Path, selector: &OciSelector, wanted: &Platform) -> Result<Image> {
    let layout = Arc::new(Layout::open(directory)?);
    let mut selection = Selection::new(&layout)?;
    let candidates = selection.candidates(selector)?;
    let chosen = choose(&layout, candidates, wanted)?;
    let digest = chosen.manifest.digest.clone();
    let found = read_image(&layout, &chosen.manifest)?;
    // An index and a config that disagree: the config is what the image was built as.
    let stated = found.config.platform().or_else(|| chosen.manifest.platform());
    if let Some(stated) = &stated
        && stated.distance_to(wanted).is_none()
    {
        return Err(PlatformNotFound::new(layout.describe(), wanted, [stated.clone()]).into());
    }
    Image::new(ImageParts {
        id: Some(found.id),
        manifest_digest: Some(digest.clone()),
        names: selection.names(&chosen.entry),
        platform: stated.unwrap_or_else(|| wanted.clone()),
        config: found.config,
        descriptors: Some(found.layers),
        content: Content::Blobs(layout.clone()),
    })
    .context(|| format!("manifest {digest}"))
}

/// The platform that the index states is believed for the choice; only where it states none, the config is read.
fn choose(layout: &Layout, mut candidates: Vec<Candidate>, wanted: &Platform) -> Result<Candidate> {
    let may_run = |candidate: &Candidate| candidate.manifest.platform().is_none_or(|p| p.distance_to(wanted).is_some());
    if candidates.len() == 1
        && let Some(only) = candidates.pop_if(|only| may_run(only))
    {
        return Ok(only);
    }
    let mut best: Option<(u8, Candidate)> = None;
    let mut present = Vec::new();
    for candidate in candidates {
        let platform = match candidate.manifest.platform() {
            None => read_image(layout, &candidate.manifest)?.config.platform(),
            stated => stated,
        };
        let Some(platform) = platform else { continue };
        // The first of equals, as Docker and containerd choose.
        if let Some(distance) = platform.distance_to(wanted)
            && best.as_ref().is_none_or(|(least, _)| distance < *least)
        {
            best = Some((distance, candidate));
        }
        present.push(platform);
    }
    match best {
        Some((_, candidate)) => Ok(candidate),
        None => Err(PlatformNotFound::new(layout.describe(), wanted, present).into()),
    }
}

struct Found {
    /// The config's digest.
    id: Digest,
    config: Config,
    layers: Vec<image::Descriptor>,
}

fn read_image(layout: &Layout, manifest: &Descriptor) -> Result<Found> {
    let digest = &manifest.digest;
    let bytes = layout.read("image manifest", manifest)?;
    let manifest = match Document::parse(&bytes, &manifest.media_type).context(|| format!("manifest {digest}"))? {
        Document::Manifest(manifest) => manifest,
        Document::Index(_) => return Err(ManifestError::Neither.into()),
    };
    // Before the config is read: that of an artifact may be anything.
    let layers = manifest.layers().context(|| format!("manifest {digest}"))?;
    let id = manifest.config.digest.clone();
    let config = Config::parse(layout.read("image config", &manifest.config)?).context(|| format!("config {id}"))?;
    Ok(Found { id, config, layers })
}

#[cfg(test)]
mod tests;
