//! Reading the JSON documents of an image: manifests, indexes, configs.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::{ErrorKind, Fault};

/// No manifest, index or config may be larger (the limit of containers-image and containerd).
pub(crate) const MAX_DOCUMENT: u64 = 4 << 20;

/// A document that cannot be read. `what` is "image config", "manifest"…
#[derive(Debug, thiserror::Error)]
pub(crate) enum DocumentError {
    #[error("the {what} has {size} bytes, more than the {MAX_DOCUMENT} that are accepted")]
    TooLarge { what: &'static str, size: usize },
    #[error("the {what} is not a JSON object")]
    NotAnObject { what: &'static str },
    #[error("the {what} is malformed")]
    Malformed { what: &'static str, source: serde_json::Error },
}

impl Fault for DocumentError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidImage
    }
}

/// Reads one JSON object. Nesting is bounded by serde_json (128 levels).
pub(crate) fn parse<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, DocumentError> {
    if bytes.len() as u64 > MAX_DOCUMENT {
        return Err(DocumentError::TooLarge { what, size: bytes.len() });
    }
    // serde would also fill a struct from an array, by position.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(DocumentError::NotAnObject { what });
    }
    serde_json::from_slice(bytes).map_err(|source| DocumentError::Malformed { what, source })
}

/// For members where Docker and Go take `null` for "empty": use as `deserialize_with`, together with `default`.
pub(crate) fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
