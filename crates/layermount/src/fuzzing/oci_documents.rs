//! Manifests, indexes and configs.

use super::assert_printable;
use super::bytes::Bytes;
use crate::image::{Config, Content, Image, ImageParts, Platform};
use crate::source::manifest::Document;

/// Any bytes are read or refused. What is read is the same when it is read again, and when its JSON is written anew: no two
/// readers see two documents (members given twice, unknown members, `null`). A config and a manifest that make an image have as
/// many layers each. A refusal can be printed on a terminal.
///
/// The first byte says what the document is called by its descriptor; a second document may follow a NUL.
pub fn oci_documents(input: &[u8]) {
    const STATED: [&str; 6] = [
        "",
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/octet-stream",
    ];
    let mut choices = Bytes::new(input);
    let stated = choices.pick(&STATED);
    let mut parts = choices.rest().splitn(2, |byte| *byte == 0);
    let (first, second) = (parts.next().unwrap_or_default(), parts.next());
    let descriptors = document(first, stated);
    let config = config(second.unwrap_or(first));
    if let (Some(descriptors), Some(config)) = (descriptors, config) {
        image(descriptors, config);
    }
}

fn document(bytes: &[u8], stated: &str) -> Option<Vec<crate::image::Descriptor>> {
    let document = match Document::parse(bytes, stated) {
        Ok(document) => document,
        Err(error) => {
            assert_printable(&error);
            return None;
        }
    };
    let shown = format!("{document:?}");
    if let Some(anew) = written_anew(bytes) {
        let again = Document::parse(&anew, stated).map(|document| format!("{document:?}"));
        assert_eq!(again.ok().as_ref(), Some(&shown), "{}", String::from_utf8_lossy(&anew));
    }
    match document {
        Document::Index(entries) => {
            for entry in entries {
                let _ = (entry.kind(), entry.platform(), entry.is_attestation());
            }
            None
        }
        Document::Manifest(manifest) => manifest.layers().map_err(|error| assert_printable(&error.into())).ok(),
    }
}

fn config(bytes: &[u8]) -> Option<Config> {
    let config = Config::parse(bytes).map_err(|error| assert_printable(&error)).ok()?;
    assert_eq!(config.raw(), bytes);
    if let Some(anew) = written_anew(bytes) {
        let again = Config::parse(anew.clone()).map(|config| meaning(&config));
        assert_eq!(again.ok(), Some(meaning(&config)), "{}", String::from_utf8_lossy(&anew));
    }
    Some(config)
}

fn image(descriptors: Vec<crate::image::Descriptor>, config: Config) {
    let (layers, diff_ids) = (descriptors.len(), config.diff_ids().len());
    let platform = config.platform().unwrap_or_else(Platform::host);
    let (id, manifest_digest, names, content) = (None, None, Vec::new(), Content::Stored);
    let parts = ImageParts { id, manifest_digest, names, platform, config, descriptors: Some(descriptors), content };
    match Image::new(parts) {
        Ok(image) => assert_eq!((image.layers().len(), layers), (diff_ids, diff_ids)),
        Err(error) => {
            assert_printable(&error);
            assert_ne!(layers, diff_ids);
        }
    }
}

/// All that a config says.
fn meaning(config: &Config) -> String {
    let ports: Vec<&str> = config.exposed_ports().collect();
    let volumes: Vec<&str> = config.volumes().collect();
    let about = (config.platform(), config.created(), config.author(), config.diff_ids(), config.history());
    let how = (config.user(), config.env(), config.entrypoint(), config.cmd(), config.working_dir());
    format!("{about:?} {how:?} {ports:?} {volumes:?} {:?} {:?}", config.labels(), config.stop_signal())
}

/// The same JSON from another writer, which keeps the last of two members of one name. `None` where that cannot hold it: deeper
/// than 128 levels, or text that is no Unicode.
fn written_anew(bytes: &[u8]) -> Option<Vec<u8>> {
    let value: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    serde_json::to_vec(&value).ok()
}
