//! The reader of EROFS images, which other promises lean on.

use std::fs::File;
use std::os::fd::AsFd;

use super::bytes::Bytes;
use super::memory::{bytes_of, file};
use crate::erofs::reader::{self, Image, Kind};
use crate::erofs::rewrite::rewrite;
use crate::erofs::{LITTLE, LayerFile, merge, pack, write_image};
use crate::layer::LayerLimits;

/// Whatever it is given, the reader answers; what it finds is no larger than the image it was found in. An image that it takes can be
/// written again by this crate's writer, from a tree that is made of what was found, and is the same then but for the places of
/// inodes.
///
/// The input is an image and the lengths of its devices, or makes one out of an archive: the file of a layer, an index over it,
/// or one that has its content; and says what is changed in it then.
pub fn erofs_reader(input: &[u8]) {
    let Some((bytes, devices)) = image_of(input) else { return };
    let Ok(mut image) = reader::read(&bytes, &devices) else { return };
    assert_is_no_larger(&image, bytes.len());
    let again = rewrite(&bytes, &image, &devices).expect("what was read can be written");
    let mut again = reader::read(&again, &devices).expect("what was written can be read");
    for inode in image.inodes.iter_mut().chain(&mut again.inodes) {
        inode.nid = 0;
    }
    assert!(again == image, "another image came back");
}

fn assert_is_no_larger(image: &Image, length: usize) {
    // An inode has 64 bytes, a name 12 and its own, an address of a chunk 8.
    assert!(image.inodes.len() * 64 <= length);
    let names: usize = image.names.iter().skip(1).map(|name| 12 + name.name.len()).sum();
    let inodes = image.inodes.iter().map(|inode| {
        let xattrs: usize =
            inode.xattrs.iter().map(|(name, value)| (name.len() + value.len()).saturating_sub(24)).sum();
        xattrs
            + match &inode.kind {
                Kind::File { extents, .. } => extents.len().saturating_sub(1) * 8,
                Kind::Symlink(target) => target.len(),
                _ => 0,
            }
    });
    assert!(names + inodes.sum::<usize>() <= length);
}

/// An image, and the lengths of its devices.
fn image_of(input: &[u8]) -> Option<(Vec<u8>, Vec<u64>)> {
    let mut choices = Bytes::new(input);
    let form = choices.below(4);
    if form == 0 {
        let devices = (0..choices.below(3)).map(|_| u64::from(choices.u32())).collect();
        return Some((choices.rest().to_vec(), devices));
    }
    let changes: Vec<_> = (0..choices.below(4))
        .map(|_| (usize::from(choices.byte()) << 8 | usize::from(choices.byte()), choices.byte()))
        .collect();
    let (mut image, devices) = made(form, choices.rest())?;
    for (place, change) in changes {
        let place = (place * image.len()) >> 16;
        image[place] ^= change;
    }
    Some((image, devices))
}

/// An input that is the very image that this one makes: where a mutator goes on.
pub fn erofs_reader_image(input: &[u8]) -> Option<Vec<u8>> {
    let (image, devices) = image_of(input)?;
    let mut made = vec![0, devices.len() as u8];
    for device in devices {
        made.extend(u32::try_from(device).ok()?.to_le_bytes());
    }
    made.extend(image);
    Some(made)
}

/// An image that this crate writes.
fn made(form: usize, archive: &[u8]) -> Option<(Vec<u8>, Vec<u64>)> {
    let layer = file();
    let packed = pack(&mut &*archive, &layer, &LayerLimits::default()).ok()?;
    if form == 1 {
        packed.seal(&layer, [1; 16]).expect("memory can be written to");
        return Some((small(&layer)?, Vec::new()));
    }
    let length = layer.metadata().expect("a file has a length").len();
    let little = if form == 2 { 0 } else { LITTLE };
    let index = file();
    let files = [LayerFile { file: layer.as_fd(), length }];
    let devices = write_image(merge(&[&packed.tree]).ok()?, &files, little, [1; 16], &index).ok()?;
    Some((small(&index)?, devices.iter().map(|_| length).collect()))
}

/// The bytes of a file, but not of one whose holes are larger than any input.
fn small(file: &File) -> Option<Vec<u8>> {
    bytes_of(file, 4 << 20)
}
