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

use crate::error::{Result, ResultExt};
use crate::image::{Blobs, Config, Content, Image, ImageParts, Platform};
use crate::reference::{OciSelector, Reference};

use super::manifest::{Descriptor, Document, Manifest, ManifestError};
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
    let names = selection.names(&chosen.entry);
    let digest = chosen.manifest.digest.clone();
    let (manifest, config) = read_image(&layout, &chosen.manifest)?;
    let descriptors = manifest.layers().context(|| format!("manifest {digest}"))?;
    // An index and a config that disagree: the config is what the image was built as.
    let stated = config.platform().or_else(|| chosen.manifest.platform());
    if let Some(stated) = &stated
        && stated.distance_to(wanted).is_none()
    {
        return Err(PlatformNotFound::new(layout.describe(), wanted, [stated.clone()]).into());
    }
    Image::new(ImageParts {
        id: Some(manifest.config.digest),
        manifest_digest: Some(digest.clone()),
        names,
        platform: stated.unwrap_or_else(|| wanted.clone()),
        config,
        descriptors: Some(descriptors),
        content: Content::Blobs(layout),
    })
    .context(|| format!("manifest {digest}"))
}

/// The platform that the index states is believed for the choice; only where it states none, the config is read.
fn choose(layout: &Layout, candidates: Vec<Candidate>, wanted: &Platform) -> Result<Candidate> {
    let mut known = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        let platform = match candidate.manifest.platform() {
            None => read_image(layout, &candidate.manifest)?.1.platform(),
            stated => stated,
        };
        known.push((candidate, platform));
    }
    match select::best(&known, wanted) {
        Some(best) => Ok(Candidate { manifest: best.manifest.clone(), entry: best.entry.clone() }),
        None => {
            let present = known.into_iter().filter_map(|(_, platform)| platform);
            Err(PlatformNotFound::new(layout.describe(), wanted, present).into())
        }
    }
}

fn read_image(layout: &Layout, descriptor: &Descriptor) -> Result<(Manifest, Config)> {
    let digest = &descriptor.digest;
    let bytes = layout.read("image manifest", descriptor)?;
    let manifest = match Document::parse(&bytes, &descriptor.media_type).context(|| format!("manifest {digest}"))? {
        Document::Manifest(manifest) => manifest,
        Document::Index(_) => return Err(ManifestError::Neither.into()),
    };
    // Before the config is read: that of an artifact is anything.
    manifest.layers().context(|| format!("manifest {digest}"))?;
    let config = layout.read("image config", &manifest.config)?;
    let config = Config::parse(config).context(|| format!("config {}", manifest.config.digest))?;
    Ok((manifest, config))
}

#[cfg(test)]
mod tests;
