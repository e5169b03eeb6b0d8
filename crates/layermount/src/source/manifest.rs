//! Indexes and manifests as they stand in layouts, archives and registries, OCI's and Docker's (schema 2).
//!
//! Lenient where Go is: `null` lists, a missing `mediaType` (the document's shape decides), unknown members. Strict where a
//! document could mean two things to two readers: one that is both index and manifest is refused (CVE-2021-41190).
//!
//! Source of the rules: the OCI image specification, `image-index.md` and `manifest.md`; distribution's `manifest-v2-2.md`.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::digest::Digest;
use crate::error::{ErrorKind, Fault, Result};
use crate::image::document::{self, null_is_default};
use crate::image::{self, MediaType, Platform};

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

const CONFIGS: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];

const LAYERS: [&str; 10] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
];

/// Whether the layer's blob is usually to be had only from the URLs in its descriptor.
pub(crate) fn is_foreign(media_type: &str) -> bool {
    media_type.contains(".nondistributable.") || media_type.contains(".foreign.")
}

/// A descriptor, with a digest that can be verified. The library's own type is stricter than Go in what it leaves out.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default, deserialize_with = "null_is_default")]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default)]
    pub(crate) data: Option<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(crate) annotations: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "null_is_default")]
    platform: StatedPlatform,
    #[serde(default)]
    urls: Option<Vec<String>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct StatedPlatform {
    #[serde(deserialize_with = "null_is_default")]
    os: String,
    #[serde(deserialize_with = "null_is_default")]
    architecture: String,
    variant: Option<String>,
}

/// What a descriptor in an index leads to, as far as its media type tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Index,
    Manifest,
    /// No media type: the document must be looked at.
    Unstated,
    /// Something that is not an image.
    Other,
}

fn kind(media_type: &str) -> Kind {
    match media_type {
        OCI_INDEX | DOCKER_LIST => Kind::Index,
        OCI_MANIFEST | DOCKER_MANIFEST => Kind::Manifest,
        "" => Kind::Unstated,
        _ => Kind::Other,
    }
}

impl Descriptor {
    pub(crate) fn kind(&self) -> Kind {
        kind(&self.media_type)
    }

    /// The platform, where the index states one.
    pub(crate) fn platform(&self) -> Option<Platform> {
        let StatedPlatform { os, architecture, variant } = &self.platform;
        (!os.is_empty() && !architecture.is_empty()).then(|| Platform::new(os, architecture, variant.as_deref()))
    }

    /// BuildKit keeps provenance and SBOMs beside the images, for the platform unknown/unknown.
    pub(crate) fn is_attestation(&self) -> bool {
        self.platform.os == "unknown" && self.platform.architecture == "unknown"
            || self.annotations.get("vnd.docker.reference.type").is_some_and(|kind| kind == "attestation-manifest")
    }

    fn to_public(&self) -> Result<image::Descriptor, ManifestError> {
        let digest = oci_spec::image::Digest::from_str(&self.digest.to_string())
            .map_err(|_| ManifestError::Digest { digest: self.digest.clone() })?;
        let mut public = image::Descriptor::new(MediaType::from(self.media_type.as_str()), self.size, digest);
        public.set_data(self.data.clone());
        public.set_urls(self.urls.clone());
        public.set_annotations((!self.annotations.is_empty()).then(|| self.annotations.clone().into_iter().collect()));
        Ok(public)
    }
}

/// An index or a manifest.
#[derive(Debug)]
pub(crate) enum Document {
    Index(Vec<Descriptor>),
    Manifest(Manifest),
}

#[derive(Debug, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    #[serde(default, deserialize_with = "null_is_default")]
    layers: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
struct Index {
    #[serde(default, deserialize_with = "null_is_default")]
    manifests: Vec<Descriptor>,
}

/// Which members a document has: enough to tell what it is.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    #[serde(default, deserialize_with = "null_is_default")]
    media_type: String,
    manifests: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
    config: Option<IgnoredAny>,
    fs_layers: Option<IgnoredAny>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ManifestError {
    #[error("the document is both an index and a manifest")]
    Both,
    #[error("the document is neither an index nor a manifest")]
    Neither,
    #[error("the document says that it is {document}, but it is named as {stated}")]
    TypesDisagree { document: String, stated: String },
    #[error("this is a manifest of Docker's schema 1, which ended in 2017")]
    Schema1,
    #[error("this is not an image but an artifact: its config is {media_type:?}")]
    Artifact { media_type: String },
    #[error("layer {index} has the unknown media type {media_type:?}")]
    LayerType { index: usize, media_type: String },
    #[error("{digest} cannot be expressed in a descriptor")]
    Digest { digest: Digest },
}

impl Fault for ManifestError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Schema1 | Self::LayerType { .. } | Self::Artifact { .. } => ErrorKind::Unsupported,
            _ => ErrorKind::InvalidImage,
        }
    }

    fn hint(&self) -> Option<String> {
        matches!(self, Self::Schema1)
            .then(|| "'skopeo copy' with '--format oci' or '--format v2s2' converts it".to_owned())
    }
}

impl Document {
    /// Reads a document that a descriptor calls `stated` (empty where nothing is stated).
    pub(crate) fn parse(bytes: &[u8], stated: &str) -> Result<Self> {
        let shape: Shape = document::parse("manifest or index", bytes)?;
        let is_index = shape.manifests.is_some();
        let is_manifest = shape.layers.is_some() || shape.config.is_some();
        if shape.fs_layers.is_some() && !is_manifest {
            return Err(ManifestError::Schema1.into());
        }
        if is_index && is_manifest {
            return Err(ManifestError::Both.into());
        }
        let kinds = (kind(&shape.media_type), kind(stated));
        if matches!(kinds, (Kind::Index, Kind::Manifest) | (Kind::Manifest, Kind::Index)) {
            let Shape { media_type: document, .. } = shape;
            return Err(ManifestError::TypesDisagree { document, stated: stated.to_owned() }.into());
        }
        // `{"manifests":null}` has no shape; then what it is called decides.
        let called = if kinds.1 == Kind::Unstated { kinds.0 } else { kinds.1 };
        match (is_index, is_manifest, called) {
            (true, _, Kind::Manifest) | (_, true, Kind::Index) => Err(ManifestError::TypesDisagree {
                document: if is_index { "an index" } else { "a manifest" }.to_owned(),
                stated: stated.to_owned(),
            }
            .into()),
            (true, ..) | (false, false, Kind::Index) => {
                Ok(Self::Index(document::parse::<Index>("image index", bytes)?.manifests))
            }
            (_, true, _) | (false, false, Kind::Manifest) => {
                Ok(Self::Manifest(document::parse("image manifest", bytes)?))
            }
            _ => Err(ManifestError::Neither.into()),
        }
    }
}

impl Manifest {
    /// The layers, base first, once it is certain that this is an image whose layers can be read.
    pub(crate) fn layers(&self) -> Result<Vec<image::Descriptor>, ManifestError> {
        let config = &self.config.media_type;
        if !config.is_empty() && !CONFIGS.contains(&config.as_str()) {
            return Err(ManifestError::Artifact { media_type: config.clone() });
        }
        let layers = self.layers.iter().enumerate();
        layers
            .map(|(index, layer)| match LAYERS.contains(&layer.media_type.as_str()) {
                true => layer.to_public(),
                false => Err(ManifestError::LayerType { index, media_type: layer.media_type.clone() }),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn descriptor(media_type: &str) -> String {
        format!(r#"{{"mediaType":"{media_type}","digest":"{EMPTY}","size":0,"annotations":null}}"#)
    }

    fn manifest(config: &str, layer: &str) -> Manifest {
        let text = format!(r#"{{"config":{},"layers":[{}]}}"#, descriptor(config), descriptor(layer));
        match Document::parse(text.as_bytes(), "").unwrap() {
            Document::Manifest(manifest) => manifest,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_shape_decides_where_no_type_is_stated() {
        let index = |text: &str| matches!(Document::parse(text.as_bytes(), "").unwrap(), Document::Index(_));
        assert!(index(r#"{"manifests":[]}"#));
        assert!(index(&format!(r#"{{"mediaType":"{OCI_INDEX}","manifests":null}}"#)));
        assert!(!index(&format!(r#"{{"config":{},"layers":null}}"#, descriptor(CONFIGS[0]))));
    }

    #[test]
    fn what_could_mean_two_things_is_refused() {
        for (text, stated) in [
            (r#"{"manifests":[],"layers":[]}"#, ""),
            (r#"{"manifests":[],"config":{}}"#, ""),
            (r#"{"manifests":[]}"#, OCI_MANIFEST),
            (r#"{"layers":[]}"#, DOCKER_LIST),
            (&format!(r#"{{"mediaType":"{OCI_INDEX}"}}"#), OCI_MANIFEST),
            ("{}", ""),
            ("[]", ""),
            ("{\"config\":", ""),
        ] {
            assert_eq!(Document::parse(text.as_bytes(), stated).unwrap_err().kind(), ErrorKind::InvalidImage, "{text}");
        }
        let schema1 = Document::parse(br#"{"schemaVersion":1,"fsLayers":[]}"#, "").unwrap_err();
        assert_eq!(schema1.kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn only_images_with_known_layers_are_taken() {
        for layer in LAYERS {
            for config in CONFIGS {
                assert_eq!(manifest(config, layer).layers().unwrap().len(), 1);
            }
        }
        let artifact = manifest("application/vnd.cncf.helm.config.v1+json", LAYERS[0]).layers().unwrap_err();
        assert!(artifact.to_string().contains("helm"), "{artifact}");
        let unknown = manifest(CONFIGS[0], "application/x-lzma").layers().unwrap_err();
        assert!(unknown.to_string().contains("application/x-lzma"), "{unknown}");
        assert!(is_foreign(LAYERS[3]) && is_foreign(LAYERS[9]) && !is_foreign(LAYERS[0]));
    }
}
