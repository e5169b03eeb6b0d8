//! From a blob to the bytes of its tar archive, hashed and limited on the way.
//!
//! Rules: the OCI image specification, `layer.md` ("+gzip", "+zstd" media types) and `descriptor.md` (verification: size before
//! digest). The first bytes decide about the compression, as in Docker, because archives with a wrong media type are in
//! circulation; a media type that is none of a layer's is refused. Exactly one compression is undone: what comes out is read as
//! a tar archive, so a layer compressed twice fails there.
//!
//! A diff ID covers the whole uncompressed stream, also what stands behind the archive's end marker. [`Decoder::finish`]
//! therefore reads to the end before it compares anything.

mod blob;
mod compression;
mod gzip;
mod pipeline;
mod source;
#[cfg(feature = "zstd")]
mod zstd;

pub(crate) use compression::Compression;
pub(crate) use pipeline::decode;

use std::io::{self, BufRead, Read};

use crate::digest::{Algorithm, DiffId, Digest, Hasher};
use crate::error::{Error, ErrorKind, Fault, Result};
use crate::image::Descriptor;
use crate::limits::Limit;
use source::Source;

/// How much of a blob is believed.
#[derive(Debug, Clone)]
pub(crate) struct DecodeLimits {
    /// The longest archive.
    pub(crate) tar_bytes: u64,
    /// How many times longer than its blob an archive may be, once it is longer than `ratio_floor`.
    ///
    /// Deflate cannot exceed 1032; Zstandard can reach millions with nothing but repetitions.
    pub(crate) ratio: u64,
    pub(crate) ratio_floor: u64,
}

impl Default for DecodeLimits {
    fn default() -> Self {
        Self { tar_bytes: 256 << 30, ratio: 1100, ratio_floor: 1 << 30 }
    }
}

impl DecodeLimits {
    /// Whether `bytes` are more than a blob of this size may stand for.
    pub(crate) fn is_bomb(&self, bytes: u64, blob_size: u64) -> bool {
        bytes > self.ratio_floor && bytes > self.ratio.saturating_mul(blob_size)
    }
}

/// Reads the tar archive out of a blob.
#[derive(Debug)]
pub(crate) struct Decoder<R: Read> {
    source: Source<R>,
    /// `None` where blob and archive are the same bytes under the same algorithm, so that one hash serves both.
    hasher: Option<Hasher>,
    /// The piece of the archive that was decoded last, of which what stands before `start` was handed out.
    piece: Vec<u8>,
    start: usize,
}

/// How much of an archive is decoded at once. Much smaller pieces slow inflating down; much larger ones fall out of the
/// processor's cache before they are hashed and written.
const PIECE: usize = 256 << 10;

/// What a blob turned out to hold, once all of it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decoded {
    pub(crate) diff_id: DiffId,
    pub(crate) tar_size: u64,
    pub(crate) blob_size: u64,
    /// The blob's digest; `None` where there was no descriptor to compare it with.
    pub(crate) blob_digest: Option<Digest>,
}

impl<R: Read> Decoder<R> {
    /// Looks at the first bytes of `blob`; with `expected`, its size and digest are checked by [`Decoder::finish`].
    pub(crate) fn new(blob: R, expected: Option<&Descriptor>, limits: &DecodeLimits) -> Result<Self> {
        let source = Source::new(blob, expected, limits)?;
        let hasher = (!source.is_archive_itself()).then(|| Hasher::new(Algorithm::Sha256));
        Ok(Self { source, hasher, piece: Vec::new(), start: 0 })
    }

    /// Reads what is left, then compares the blob with its descriptor: size first, then digest.
    pub(crate) fn finish(mut self) -> Result<Decoded> {
        loop {
            let count = self.fill_buf().map_err(from_read)?.len();
            if count == 0 {
                return self.source.finish(self.hasher);
            }
            self.consume(count);
        }
    }
}

/// Errors carry this crate's [`Error`] inside; [`from_read`] takes it out again.
impl<R: Read> BufRead for Decoder<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.start == self.piece.len() {
            self.start = 0;
            self.piece.resize(PIECE, 0);
            let count = self.source.fill(&mut self.piece);
            self.piece.truncate(*count.as_ref().unwrap_or(&0));
            count?;
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&self.piece);
            }
        }
        Ok(self.piece.get(self.start..).unwrap_or_default())
    }

    fn consume(&mut self, count: usize) {
        self.start = self.piece.len().min(self.start + count);
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

/// The crate's error of a failed read: the one that [`Decoder`] put into it, or the operating system's.
pub(crate) fn from_read(error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => error,
        Err(error) => DecodeError::Read(error).into(),
    }
}

/// A blob that is not what it claims to be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DecodeError {
    #[error("media type {0:?} is not a layer's")]
    MediaType(String),
    #[error("the layer is compressed with {0}")]
    Compression(&'static str),
    #[cfg(not(feature = "zstd"))]
    #[error("the layer is compressed with zstd, and this build cannot decode that")]
    ZstdMissing,
    #[error("the layer cannot be decompressed: {0}")]
    Corrupt(String),
    #[error("the blob has {found} bytes, its descriptor says {expected}")]
    Short { expected: u64, found: u64 },
    #[error("the blob has more than the {expected} bytes that its descriptor says")]
    Long { expected: u64 },
    #[error("the blob's digest is {found}, its descriptor says {expected}")]
    Digest { expected: Digest, found: Digest },
    #[error("{} exceed the limit {}={limit}", Limit::TarBytes.describe(), Limit::TarBytes)]
    TooLong { limit: u64 },
    #[error("{blob} bytes expand to {tar}, which exceeds the limit {}={limit}", Limit::ExpansionRatio)]
    Bomb { tar: u64, blob: u64, limit: u64 },
    #[error("the blob cannot be read")]
    Read(#[source] io::Error),
}

impl Fault for DecodeError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::MediaType(_) | Self::Compression(_) => ErrorKind::Unsupported,
            #[cfg(not(feature = "zstd"))]
            Self::ZstdMissing => ErrorKind::Unsupported,
            Self::Corrupt(_) => ErrorKind::InvalidLayer,
            Self::Short { .. } | Self::Long { .. } | Self::Digest { .. } => ErrorKind::DigestMismatch,
            Self::TooLong { .. } | Self::Bomb { .. } => ErrorKind::LimitExceeded,
            Self::Read(_) => ErrorKind::Os,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            #[cfg(not(feature = "zstd"))]
            Self::ZstdMissing => Some("build with the feature `zstd`".into()),
            Self::Compression(_) => Some("layers are plain tar, gzip or zstd; convert the image".into()),
            Self::Short { .. } | Self::Long { .. } | Self::Digest { .. } => {
                Some("the copy is damaged or incomplete; fetch the image again".into())
            }
            Self::TooLong { limit } => Some(Limit::TarBytes.hint(*limit)),
            Self::Bomb { limit, .. } => Some(Limit::ExpansionRatio.hint(*limit)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
