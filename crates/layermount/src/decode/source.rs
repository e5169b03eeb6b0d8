//! From a blob to its archive's bytes, whatever the compression; limited, but not hashed.

use std::io::{self, Read};

use crate::digest::{Algorithm, DiffId, Hasher};
use crate::error::{Error, Result};
use crate::image::Descriptor;

use super::blob::Blob;
#[cfg(feature = "zstd")]
use super::zstd;
use super::{Compression, DecodeError, DecodeLimits, Decoded, compression, from_read, gzip};

/// Decodes a blob.
#[derive(Debug)]
pub(super) struct Source<R: Read> {
    stream: Stream<R>,
    tar_size: u64,
    limits: DecodeLimits,
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

impl<R: Read> Source<R> {
    pub(super) fn new(blob: R, expected: Option<&Descriptor>, limits: &DecodeLimits) -> Result<Self> {
        if let Some(descriptor) = expected {
            compression::check_media_type(descriptor.media_type())?;
        }
        let mut blob = Blob::new(blob, expected)?;
        let stream = match Compression::sniff(blob.peek(compression::MAGIC_LENGTH).map_err(from_read)?)? {
            Compression::None => Stream::Plain(blob),
            Compression::Gzip => Stream::Gzip(Box::new(gzip::Members::new(blob))),
            #[cfg(feature = "zstd")]
            Compression::Zstd => Stream::Zstd(zstd::Frames::new(blob).map_err(from_read)?),
            #[cfg(not(feature = "zstd"))]
            Compression::Zstd => return Err(DecodeError::ZstdMissing.into()),
        };
        Ok(Self { stream, tar_size: 0, limits: limits.clone() })
    }

    /// Whether the blob's digest is its archive's as well.
    pub(super) fn is_archive_itself(&self) -> bool {
        matches!(&self.stream, Stream::Plain(blob) if blob.algorithm() == Some(Algorithm::Sha256))
    }

    /// Whether the whole blob lies in memory, so that there is little left to be done.
    pub(super) fn is_short(&self) -> bool {
        self.stream.blob().has_all()
    }

    /// Fills `buffer` with the next bytes of the archive; with fewer than fit only at its end.
    pub(super) fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(free) = buffer.get_mut(filled..).filter(|free| !free.is_empty()) {
            match self.read(free)? {
                0 => break,
                count => filled += count,
            }
        }
        Ok(filled)
    }

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
        self.tar_size += count as u64;
        self.check_expansion().map_err(|error| io::Error::other(Error::from(error)))?;
        Ok(count)
    }

    fn check_expansion(&self) -> Result<(), DecodeError> {
        let DecodeLimits { tar_bytes, ratio, .. } = self.limits;
        if self.tar_size > tar_bytes {
            return Err(DecodeError::TooLong { limit: tar_bytes });
        }
        let blob_size = self.stream.blob().taken();
        if self.limits.is_bomb(self.tar_size, blob_size) {
            return Err(DecodeError::Bomb { tar: self.tar_size, blob: blob_size, limit: ratio });
        }
        Ok(())
    }

    /// Compares the blob with its descriptor, size first, then digest. It must have been read to its end.
    pub(super) fn finish(self, hasher: Option<Hasher>) -> Result<Decoded> {
        let (blob_size, blob_digest) = self.stream.into_blob().verify()?;
        let diff_id = match (hasher, &blob_digest) {
            (Some(hasher), _) => hasher.finish(),
            (None, Some(digest)) => digest.clone(),
            (None, None) => return Err(DecodeError::Corrupt("the archive was not hashed".into()).into()),
        };
        Ok(Decoded { diff_id: DiffId(diff_id), tar_size: self.tar_size, blob_size, blob_digest })
    }
}
