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
#[cfg(feature = "zstd")]
mod zstd;

pub(crate) use compression::Compression;

use std::io::{self, Read};

use crate::digest::{Algorithm, DiffId, Digest, Hasher};
use crate::error::{Error, ErrorKind, Fault, Result};
use crate::image::Descriptor;
use crate::limits::Limit;
use blob::Blob;

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

/// Reads the tar archive out of a blob.
#[derive(Debug)]
pub(crate) struct Decoder<R: Read> {
    stream: Stream<R>,
    /// `None` where blob and archive are the same bytes under the same algorithm, so that one hash serves both.
    hasher: Option<Hasher>,
    tar_size: u64,
    limits: DecodeLimits,
}

/// What a blob turned out to hold, once all of it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decoded {
    pub(crate) diff_id: DiffId,
    pub(crate) tar_size: u64,
    pub(crate) blob_size: u64,
    /// The blob's digest; `None` where there was no descriptor to compare it with.
    pub(crate) blob_digest: Option<Digest>,
}

enum Stream<R: Read> {
    Plain(Blob<R>),
    Gzip(Box<gzip::Members<R>>),
    #[cfg(feature = "zstd")]
    Zstd(zstd::Frames<R>),
}

impl<R: Read> std::fmt::Debug for Stream<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain",
            Self::Gzip(_) => "Gzip",
            #[cfg(feature = "zstd")]
            Self::Zstd(_) => "Zstd",
        })
    }
}

impl<R: Read> Stream<R> {
    fn blob(&self) -> &Blob<R> {
        match self {
            Self::Plain(blob) => blob,
            Self::Gzip(members) => members.blob(),
            #[cfg(feature = "zstd")]
            Self::Zstd(frames) => frames.blob(),
        }
    }

    fn into_blob(self) -> Blob<R> {
        match self {
            Self::Plain(blob) => blob,
            Self::Gzip(members) => members.into_blob(),
            #[cfg(feature = "zstd")]
            Self::Zstd(frames) => frames.into_blob(),
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(blob) => blob.read(buffer),
            Self::Gzip(members) => members.read(buffer),
            #[cfg(feature = "zstd")]
            Self::Zstd(frames) => frames.read(buffer),
        }
    }
}

impl<R: Read> Decoder<R> {
    /// Looks at the first bytes of `blob`; with `expected`, its size and digest are checked by [`Decoder::finish`].
    pub(crate) fn new(blob: R, expected: Option<&Descriptor>, limits: &DecodeLimits) -> Result<Self> {
        if let Some(descriptor) = expected {
            compression::check_media_type(descriptor.media_type())?;
        }
        let mut blob = Blob::new(blob, expected)?;
        let compression = Compression::sniff(blob.peek(compression::MAGIC_LENGTH).map_err(from_read)?)?;
        let shared = compression == Compression::None && blob.algorithm() == Some(Algorithm::Sha256);
        let stream = match compression {
            Compression::None => Stream::Plain(blob),
            Compression::Gzip => Stream::Gzip(Box::new(gzip::Members::new(blob))),
            #[cfg(feature = "zstd")]
            Compression::Zstd => Stream::Zstd(zstd::Frames::new(blob).map_err(from_read)?),
            #[cfg(not(feature = "zstd"))]
            Compression::Zstd => return Err(DecodeError::ZstdMissing.into()),
        };
        let hasher = (!shared).then(|| Hasher::new(Algorithm::Sha256));
        Ok(Self { stream, hasher, tar_size: 0, limits: limits.clone() })
    }

    /// Reads what is left, then compares the blob with its descriptor: size first, then digest.
    pub(crate) fn finish(mut self) -> Result<Decoded> {
        let mut rest = vec![0; blob::BUFFER];
        while self.read(&mut rest).map_err(from_read)? > 0 {}
        let Self { stream, hasher, tar_size, .. } = self;
        let (blob_size, blob_digest) = stream.into_blob().verify()?;
        let diff_id = match (hasher, &blob_digest) {
            (Some(hasher), _) => hasher.finish(),
            (None, Some(digest)) => digest.clone(),
            (None, None) => return Err(DecodeError::Corrupt("the archive was not hashed".into()).into()),
        };
        Ok(Decoded { diff_id: DiffId(diff_id), tar_size, blob_size, blob_digest })
    }

    fn check_expansion(&self) -> Result<(), DecodeError> {
        let DecodeLimits { tar_bytes, ratio, ratio_floor } = self.limits;
        if self.tar_size > tar_bytes {
            return Err(DecodeError::TooLong { limit: tar_bytes });
        }
        let blob_size = self.stream.blob().taken();
        if self.tar_size > ratio_floor && self.tar_size > ratio.saturating_mul(blob_size) {
            return Err(DecodeError::Bomb { tar: self.tar_size, blob: blob_size, limit: ratio });
        }
        Ok(())
    }
}

/// Errors carry this crate's [`Error`] inside; [`from_read`] takes it out again.
impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(buffer).map_err(|error| {
            // A blob that ends early is short, whatever the decompressor thought of its last bytes.
            match self.stream.blob().check_short() {
                Err(short) => io::Error::other(Error::from(short)),
                Ok(()) if error.get_ref().is_some_and(|inner| inner.is::<Error>()) => error,
                Ok(()) if error.raw_os_error().is_some() => error,
                Ok(()) => io::Error::other(Error::from(DecodeError::Corrupt(error.to_string()))),
            }
        })?;
        if let (Some(hasher), Some(bytes)) = (&mut self.hasher, buffer.get(..count)) {
            hasher.update(bytes);
        }
        self.tar_size += count as u64;
        self.check_expansion().map_err(|error| io::Error::other(Error::from(error)))?;
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
