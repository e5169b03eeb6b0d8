//! Blobs to archives.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;

use super::assert_printable;
use super::bytes::{Bytes, ShortReads};
use crate::decode::{DecodeLimits, Decoded, Decoder, from_read};
use crate::digest::Digest;
use crate::error::{ErrorKind, Result};
use crate::image::{Descriptor, MediaType};

/// Archives longer than this are not decoded.
const LIMIT: u64 = 4 << 20;

/// A blob that is decoded gives what an independent decoder makes of the whole of it, and one that is not, cannot be decoded
/// there either. Where the bytes are cut on their way in makes no difference, nor on how many threads the work is done. A blob that was cut short never passes for the one
/// that its descriptor names.
///
/// One difference is libzstd's own: read as a stream, a frame that ends with an empty block may hold less than its header says;
/// in one call, it may not. What is missing, the diff ID would miss.
///
/// The input is a blob, or makes one: its first byte says whether the rest is compressed (in several members or frames) and
/// whether the blob is damaged then.
pub fn decode(input: &[u8]) {
    let mut choices = Bytes::new(input);
    let (form, damage, seed) = (choices.below(4), choices.below(4), choices.u32());
    let whole = compress(form, seed, choices.rest());
    check_descriptor(&whole, seed);
    check(&damaged(&whole, damage, seed), seed);
}

fn limits() -> DecodeLimits {
    DecodeLimits { tar_bytes: LIMIT, ..DecodeLimits::default() }
}

fn check(blob: &[u8], seed: u32) {
    let whole = run(blob, None);
    let pieces = run_side_by_side(ShortReads::new(blob, seed));
    match (&whole, &pieces) {
        (Ok(whole), Ok(pieces)) => assert_eq!(whole, pieces, "short reads give something else"),
        (Err(whole), Err(pieces)) => {
            assert_printable(whole);
            assert_eq!(whole.kind(), pieces.kind(), "short reads give another error");
        }
        // With the whole frame before it, libzstd decodes in one call.
        _ if ends_with_nothing(blob) => {}
        _ => panic!("short reads decide: {whole:?} {pieces:?}"),
    }
    let (oracle, any_window) = match blob {
        [0x1f, 0x8b, ..] => (gzip(blob), false),
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => (zstd(blob), true),
        blob => (Some(blob.to_vec()), false),
    };
    match (whole, oracle) {
        (Ok((tar, decoded)), Some(oracle)) => {
            assert_eq!(tar, oracle, "the independent decoder gives something else");
            assert_eq!(decoded.diff_id.0, Digest::sha256(&tar));
            assert_eq!((decoded.tar_size, decoded.blob_size), (tar.len() as u64, blob.len() as u64));
        }
        (Ok(_), None) if any_window && ends_with_nothing(blob) => {}
        (Ok((tar, _)), None) => panic!("the independent decoder refuses, after {} bytes", tar.len()),
        (Err(error), Some(_)) => {
            // xz and bzip2 are known and refused; windows over 128 MiB are, by one of the two decoders.
            let expected = error.kind() == ErrorKind::Unsupported || any_window;
            assert!(expected, "only the independent decoder takes it: {error:#}");
        }
        // Too long for both, or broken for both: which of the two comes first is theirs to say.
        (Err(_), None) => {}
    }
}

fn check_descriptor(whole: &[u8], seed: u32) {
    let digest: oci_spec::image::Digest = Digest::sha256(whole).to_string().parse().expect("a digest is a digest");
    let descriptor = Descriptor::new(MediaType::ImageLayer, whole.len() as u64, digest);
    if let (Ok((plain, _)), Ok((tar, decoded))) = (run(whole, None), run(whole, Some(&descriptor))) {
        assert_eq!(plain, tar);
        assert_eq!(decoded.blob_digest, Some(Digest::sha256(whole)));
        assert_eq!(decoded.diff_id.0, Digest::sha256(&tar));
    }
    if !whole.is_empty() {
        let short = &whole[..seed as usize % whole.len()];
        assert!(run(short, Some(&descriptor)).is_err(), "{} of {} bytes pass", short.len(), whole.len());
        let mut other = whole.to_vec();
        other[seed as usize % whole.len()] ^= 1 << (seed >> 29);
        assert!(run(other.as_slice(), Some(&descriptor)).is_err(), "another blob passes");
    }
}

fn run(blob: impl Read, expected: Option<&Descriptor>) -> Result<(Vec<u8>, Decoded)> {
    let mut decoder = Decoder::new(blob, expected, &limits())?;
    let mut tar = Vec::new();
    decoder.read_to_end(&mut tar).map_err(from_read)?;
    assert!(tar.len() as u64 <= LIMIT, "the limit of an archive's length does not hold");
    Ok((tar, decoder.finish()?))
}

/// As layers are decoded: without a descriptor no blob is short enough for one thread.
fn run_side_by_side(blob: impl Read) -> Result<(Vec<u8>, Decoded)> {
    crate::decode::decode(blob, None, &limits(), &mut |tar| {
        let mut bytes = Vec::new();
        tar.read_to_end(&mut bytes).map_err(from_read)?;
        Ok(bytes)
    })
}

fn compress(form: usize, seed: u32, plain: &[u8]) -> Vec<u8> {
    let cut = plain.len().min((seed >> 8) as usize % (plain.len() + 1));
    let (first, second) = plain.split_at(cut);
    match form {
        0 | 1 => plain.to_vec(),
        2 => [first, second]
            .map(|part| {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::new(seed % 10));
                encoder.write_all(part).and_then(|()| encoder.finish()).expect("memory can be written to")
            })
            .concat(),
        _ => {
            let skippable = [&[0x50 | (seed % 16) as u8, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
            let frames = [first, second].map(|part| zstd::encode_all(part, 1 + (seed % 5) as i32).expect("as above"));
            [&skippable[..], &frames[0], &skippable, &frames[1]].concat()
        }
    }
}

fn damaged(blob: &[u8], damage: usize, seed: u32) -> Vec<u8> {
    let mut blob = blob.to_vec();
    let place = seed as usize % blob.len().max(1);
    match damage {
        0 => {}
        1 => blob.truncate(place),
        2 => {
            if let Some(byte) = blob.get_mut(place) {
                *byte ^= 1 << (seed >> 29);
            }
        }
        _ => blob.resize(blob.len() + place % 2000, (seed >> 31) as u8),
    }
    blob
}

/// Member by member, to nothing but zeros.
fn gzip(mut blob: &[u8]) -> Option<Vec<u8>> {
    let mut tar = Vec::new();
    while blob.starts_with(&[0x1f, 0x8b]) {
        let mut member = GzDecoder::new(blob);
        let read = (&mut member).take(LIMIT + 1 - tar.len() as u64).read_to_end(&mut tar);
        if read.is_err() || tar.len() as u64 > LIMIT {
            return None;
        }
        blob = member.into_inner();
    }
    blob.iter().all(|byte| *byte == 0).then_some(tar)
}

/// All frames in one call, which knows where the blob ends.
fn zstd(blob: &[u8]) -> Option<Vec<u8>> {
    zstd::bulk::decompress(blob, LIMIT as usize).ok()
}

/// Whether one of the frames states its length and ends with an empty block (RFC 8878, 3.1.1).
fn ends_with_nothing(mut blob: &[u8]) -> bool {
    while let Some(found) = frame(&mut blob) {
        if found {
            return true;
        }
    }
    false
}

/// Walks over one frame. `None` where there is none.
fn frame(blob: &mut &[u8]) -> Option<bool> {
    let magic = take(blob, 4)?;
    if magic != [0x28, 0xb5, 0x2f, 0xfd] {
        let length = take(blob, 4)?.try_into().map(u32::from_le_bytes).ok()?;
        return take(blob, length as usize).map(|_| false);
    }
    let descriptor = take(blob, 1)?[0];
    let single = descriptor >> 5 & 1 == 1;
    let window = usize::from(!single);
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let length = [usize::from(single), 2, 4, 8][usize::from(descriptor >> 6)];
    take(blob, window + dictionary + length)?;
    loop {
        let header = take(blob, 3)?;
        let header = u32::from_le_bytes([header[0], header[1], header[2], 0]);
        let size = header >> 3;
        // One byte stands for a whole block of its kind.
        take(blob, if header >> 1 & 3 == 1 { 1 } else { size as usize })?;
        if header & 1 == 1 {
            take(blob, if descriptor >> 2 & 1 == 1 { 4 } else { 0 })?;
            return Some(length > 0 && size == 0);
        }
    }
}

fn take<'a>(from: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = from.split_at_checked(count)?;
    *from = rest;
    Some(taken)
}
