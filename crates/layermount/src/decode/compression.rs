//! Which compression a blob has.

use crate::error::Result;
use crate::image::MediaType;

use super::DecodeError;

/// How a layer's archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

/// As many bytes as [`Compression::sniff`] wants to see.
pub(super) const MAGIC_LENGTH: usize = 6;

impl Compression {
    /// Tells by the first bytes. What has no known magic is taken for a plain archive; the tar reader will say if it is not.
    pub(super) fn sniff(bytes: &[u8]) -> Result<Self> {
        Ok(match bytes {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // A skippable frame (RFC 8878, 3.1.2), as zstd:chunked and pzstd write first.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => return Err(DecodeError::Compression("xz").into()),
            [b'B', b'Z', b'h', b'1'..=b'9', b'1', b'A', ..] => return Err(DecodeError::Compression("bzip2").into()),
            _ => Self::None,
        })
    }
}

/// Refuses descriptors of things that are not layers, or not readable ones (encrypted).
pub(super) fn check_media_type(media_type: &MediaType) -> Result<(), DecodeError> {
    match media_type {
        MediaType::ImageLayer
        | MediaType::ImageLayerGzip
        | MediaType::ImageLayerZstd
        | MediaType::ImageLayerNonDistributable
        | MediaType::ImageLayerNonDistributableGzip
        | MediaType::ImageLayerNonDistributableZstd => Ok(()),
        other => {
            let text = other.to_string();
            // Docker's names: the registry's (schema 2), the legacy one without "rootfs", and what engines derive for zstd.
            let docker = text.strip_prefix("application/vnd.docker.").and_then(|rest| {
                rest.strip_prefix("image.rootfs.diff.tar")
                    .or_else(|| rest.strip_prefix("image.rootfs.foreign.diff.tar"))
                    .or_else(|| rest.strip_prefix("container.image.rootfs.diff+x-gtar"))
            });
            match docker {
                Some("" | ".gzip" | "+gzip" | ".zstd" | "+zstd") => Ok(()),
                _ => Err(DecodeError::MediaType(text)),
            }
        }
    }
}
