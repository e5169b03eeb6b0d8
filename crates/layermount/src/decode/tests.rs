use std::io::{Read, Write};
use std::str::FromStr;

use flate2::write::GzEncoder;

use super::*;
use crate::image::MediaType;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn archive() -> Vec<u8> {
    (0..200_000_u32).flat_map(|number| (number / 7).to_le_bytes()).collect()
}

fn descriptor(blob: &[u8], media_type: MediaType) -> Descriptor {
    let digest = oci_spec::image::Digest::from_str(&Digest::sha256(blob).to_string()).unwrap();
    Descriptor::new(media_type, blob.len() as u64, digest)
}

/// Hands out one to three bytes at a time.
struct Dribble<'a>(&'a [u8], usize);

impl Read for Dribble<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.1 = self.1 % 3 + 1;
        let length = self.1.min(buffer.len());
        self.0.read(&mut buffer[..length])
    }
}

fn decode(blob: &[u8]) -> Result<(Vec<u8>, Decoded)> {
    let described = descriptor(blob, MediaType::ImageLayerGzip);
    let mut decoder = Decoder::new(Dribble(blob, 0), Some(&described), &DecodeLimits::default())?;
    let mut tar = Vec::new();
    decoder.read_to_end(&mut tar).map_err(from_read)?;
    Ok((tar, decoder.finish()?))
}

#[track_caller]
fn accepts(blob: &[u8], expected: &[u8]) {
    let (tar, decoded) = decode(blob).unwrap();
    assert!(tar == expected, "{} bytes instead of {}", tar.len(), expected.len());
    assert_eq!(decoded.diff_id.0, Digest::sha256(expected));
    assert_eq!(decoded.tar_size, expected.len() as u64);
    assert_eq!(decoded.blob_size, blob.len() as u64);
    assert_eq!(decoded.blob_digest, Some(Digest::sha256(blob)));
}

#[track_caller]
fn refuses(blob: &[u8], kind: ErrorKind) {
    let error = decode(blob).unwrap_err();
    assert_eq!(error.kind(), kind, "{error:#}");
}

#[test]
fn every_byte_of_the_archive_comes_through_and_is_hashed() {
    let tar = archive();
    accepts(&tar, &tar);
    accepts(&gzip(&tar), &tar);
    accepts(b"", b"");
}

#[test]
fn gzip_members_are_all_read() {
    let tar = archive();
    let (first, second) = tar.split_at(100_001);
    accepts(&[gzip(first), gzip(b""), gzip(second)].concat(), &tar);
    accepts(&[gzip(&tar), vec![0; 700]].concat(), &tar);
}

#[test]
fn broken_gzip_is_refused() {
    let blob = gzip(&archive());
    let mut flipped = blob.clone();
    let crc = blob.len() - 8;
    flipped[crc] ^= 1;
    refuses(&flipped, ErrorKind::InvalidLayer);
    refuses(&[&blob[..], b"garbage"].concat(), ErrorKind::InvalidLayer);
    refuses(&[&blob[..], &[0; 100], b"x"].concat(), ErrorKind::InvalidLayer);
    for length in [1, 2, 9, 10, 11, blob.len() / 2, blob.len() - 9, blob.len() - 1] {
        if length >= 2 {
            refuses(&blob[..length], ErrorKind::InvalidLayer);
        }
    }
}

#[test]
fn a_blob_that_is_not_what_the_descriptor_says_is_refused() {
    for blob in [gzip(&archive()), archive()] {
        let other = descriptor(b"other", MediaType::ImageLayer);
        let limits = DecodeLimits::default();
        let read = |bytes: &[u8], descriptor: &Descriptor| -> Result<Decoded> {
            let mut decoder = Decoder::new(bytes, Some(descriptor), &limits)?;
            io::copy(&mut decoder, &mut io::sink()).map_err(from_read)?;
            decoder.finish()
        };
        let right = descriptor(&blob, MediaType::ImageLayer);
        assert!(read(&blob, &right).is_ok());
        let short = read(&blob[..blob.len() - 1], &right).unwrap_err();
        assert!(short.to_string().contains("the blob has"), "{short}");
        assert_eq!(short.kind(), ErrorKind::DigestMismatch);
        let long = read(&[&blob[..], &[0]].concat(), &right).unwrap_err();
        assert!(long.to_string().contains("more than"), "{long}");
        let digest = Descriptor::new(MediaType::ImageLayer, blob.len() as u64, other.digest().clone());
        let error = read(&blob, &digest).unwrap_err();
        assert!(error.to_string().contains("digest"), "{error}");
    }
}

#[test]
fn media_types_of_layers_only() {
    let limits = DecodeLimits::default();
    for (media_type, accepted) in [
        ("application/vnd.oci.image.layer.v1.tar+gzip", true),
        ("application/vnd.oci.image.layer.v1.tar+zstd", true),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", true),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", true),
        ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", false),
        ("application/vnd.oci.image.config.v1+json", false),
        ("text/plain", false),
    ] {
        let result = Decoder::new(&b"abc"[..], Some(&descriptor(b"abc", media_type.into())), &limits);
        assert_eq!(result.is_ok(), accepted, "{media_type}");
    }
}

#[test]
fn expansion_is_limited() {
    let blob = gzip(&vec![0; 1 << 20]);
    for limits in [
        DecodeLimits { tar_bytes: (1 << 20) - 1, ..DecodeLimits::default() },
        DecodeLimits { ratio: 100, ratio_floor: 100_000, ..DecodeLimits::default() },
    ] {
        let mut decoder = Decoder::new(&blob[..], None, &limits).unwrap();
        let error = from_read(io::copy(&mut decoder, &mut io::sink()).unwrap_err());
        assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{error}");
    }
    let floor = DecodeLimits { ratio: 2, ratio_floor: 1 << 20, ..DecodeLimits::default() };
    assert!(Decoder::new(&blob[..], None, &floor).unwrap().finish().is_ok());
}

#[test]
fn unsupported_compressions_are_named() {
    let error = Decoder::new(&b"\xfd7zXZ\0...."[..], None, &DecodeLimits::default()).unwrap_err();
    assert!(error.to_string().contains("xz"));
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[cfg(feature = "zstd")]
mod zstd_streams {
    use super::*;

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        ::zstd::encode_all(bytes, 1).unwrap()
    }

    fn skippable(length: u32) -> Vec<u8> {
        [&[0x50, 0x2a, 0x4d, 0x18][..], &length.to_le_bytes(), &vec![7; length as usize]].concat()
    }

    #[test]
    fn frames_and_skippable_frames() {
        let tar = archive();
        let (first, second) = tar.split_at(70_000);
        accepts(&zstd(&tar), &tar);
        accepts(&[skippable(4), zstd(first), skippable(0), zstd(second), skippable(300_000)].concat(), &tar);
    }

    #[test]
    fn broken_frames_are_refused() {
        let blob = zstd(&archive());
        refuses(&blob[..blob.len() - 3], ErrorKind::InvalidLayer);
        refuses(&[&blob[..], b"garbage"].concat(), ErrorKind::InvalidLayer);
    }

    #[test]
    fn windows_beyond_the_limit_are_refused() {
        let mut encoder = ::zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(28).unwrap();
        // Without a known size the frame header states the window.
        encoder.write_all(&archive()).unwrap();
        refuses(&encoder.finish().unwrap(), ErrorKind::InvalidLayer);
    }
}
