//! Images of archives that no recipe makes.

use layermount::Platform;
use layermount_fixtures::{Built, BuiltLayer, Compression, sha256};
use serde_json::json;

/// An image of these archives.
pub(crate) fn built(tars: Vec<Vec<u8>>, compression: Compression) -> Built {
    let mut built =
        Built::new(&json!({}), json!({ "os": "linux", "architecture": Platform::host().architecture() }), &[]).unwrap();
    built.layers = (tars.into_iter())
        .map(|tar| {
            let blob = compression.compress(&tar).unwrap();
            BuiltLayer { diff_id: sha256(&tar), tar, blob, compression }
        })
        .collect();
    let mut config: serde_json::Value = serde_json::from_slice(&built.config).unwrap();
    config["rootfs"]["diff_ids"] = built.layers.iter().map(|layer| layer.diff_id.clone()).collect();
    config["history"] = json!([]);
    built.config = serde_json::to_vec(&config).unwrap();
    let descriptor =
        |media_type: &str, blob: &[u8]| json!({ "mediaType": media_type, "digest": sha256(blob), "size": blob.len() });
    let mut manifest: serde_json::Value = serde_json::from_slice(&built.manifest).unwrap();
    manifest["config"] = descriptor("application/vnd.oci.image.config.v1+json", &built.config);
    manifest["layers"] = built.layers.iter().map(|layer| descriptor(compression.media_type(), &layer.blob)).collect();
    built.manifest = serde_json::to_vec(&manifest).unwrap();
    built
}
