//! Layers in EROFS files, and the indexes of images that are made of them.

mod said;

use std::fs::File;
use std::io::BufReader;
use std::os::fd::AsFd;

use super::assert_printable;
use super::bytes::ShortReads;
use super::memory::{bytes_of, file, range_of};
use crate::erofs::listing::{Listing, expected, seen};
use crate::erofs::reader::{self, Kind};
use crate::erofs::{ARCHIVE, LITTLE, LayerFile, Tree, merge, pack, tree_of, write_image};
use crate::error::{Error, ErrorKind};
use crate::layer::LayerLimits;
use said::{Said, Shows};

/// Files with holes may be so long that nobody reads the whole of a layer's file.
const MOST: u64 = 16 << 20;

/// An archive is packed if and only if [`Archive`](crate::layer::Archive) and [`Fold`](crate::layer::Fold) take it, and refused in
/// their words otherwise. However its bytes arrive,
///
/// - they are in the file as they were, and [`tree_of`] reads the same tree out of them;
/// - a layer that stands alone is an image to the strict reader; the others have no superblock;
/// - that image, and any index over the layer, shows what the fold says: names, kinds, owners, modes, times, xattrs, targets,
///   hard links, marks, and the content of files;
/// - the layer over itself makes the very tree that it makes alone, whiteouts included: every name of the first is one of the
///   second, too, and what is hidden was not there. Only hard links into lower layers dangle, in both.
///
/// Refused beyond what the fold refuses, each looked at where it comes up:
///
/// 1. An ACL or `security.capability` that `setxattr(2)` would refuse.
/// 2. What EROFS cannot hold, as `Unsupported`: device numbers that Linux does not have, more xattrs than fit behind an inode, files
///    longer than their chunks have numbers. If the layer does not stand alone, only an index over it is refused for that.
/// 3. More than the limit of kept bytes, of which xattrs and the chunks of files with holes are some here.
pub fn erofs_layer(archive: &[u8]) {
    let limits = LayerLimits::default();
    let said = Said::read(archive, &limits);
    let layer = file();
    let sum = archive.iter().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(*byte)));
    let capacity = if sum & 1 == 0 { 8192 } else { 1 + sum as usize / 2 % 1500 };
    let mut pieces = BufReader::with_capacity(capacity, ShortReads::new(archive, sum));
    let packed = pack(&mut pieces, &layer, &limits);
    let (said, packed) = match (said, packed) {
        (Ok(said), Ok(packed)) => (said, packed),
        (Ok(said), Err(error)) => {
            assert_printable(&error);
            assert!(said.may_be_refused(&error), "{error:#}");
            return;
        }
        (Err(said), Err(error)) => {
            let same = format!("{said:#}") == format!("{error:#}");
            assert!(same || said::is_on_purpose(&error), "{said:#} is not {error:#}");
            return;
        }
        (Err(said), Ok(_)) => panic!("packed, but {said:#}"),
    };
    packed.seal(&layer, [7; 16]).expect("memory can be written to");
    assert_eq!(packed.tar_size, archive.len() as u64);
    assert!(range_of(&layer, ARCHIVE, archive.len()) == archive, "the archive is another one");
    let length = layer.metadata().expect("a file has a length").len();
    assert!(length.is_multiple_of(4096), "{length}");
    let again = tree_of(&layer, packed.tar_size).expect("it was read before");
    assert!(again == packed.tree, "another tree:\n{again:?}\n{:?}", packed.tree);

    said.assert_counts(&packed);
    if !packed.stands_alone() {
        assert!(range_of(&layer, 0, ARCHIVE as usize).iter().all(|byte| *byte == 0), "a superblock of half an image");
    } else if let Some(bytes) = bytes_of(&layer, MOST) {
        let image = reader::read(&bytes, &[]).expect("the layer's file is an image");
        let found = seen(&image);
        assert_eq!(found, expected(&packed.tree));
        said.assert_shown(&found, Shows::Layer, &[&layer]);
    }
    indexes(&said, &packed.tree, &layer);
}

/// The layer alone, and over itself, under indexes.
fn indexes(said: &Said, tree: &Tree, layer: &File) {
    let (once, twice) = match (merge(&[tree]), merge(&[tree, tree])) {
        (Ok(once), Ok(twice)) => (once, twice),
        (Err(once), Err(twice)) => {
            assert_eq!(once.to_string(), twice.to_string());
            let error = Error::from(once);
            assert_printable(&error);
            assert!(said.has_links_below() && error.kind() == ErrorKind::InvalidLayer, "{error:#}");
            return;
        }
        other => panic!("only one of them is merged: {other:?}"),
    };
    assert!(!said.has_links_below());
    assert!(once.tree == twice.tree, "another tree:\n{:?}\n{:?}", once.tree, twice.tree);
    assert_eq!(once.devices, twice.devices);
    let wanted = expected(&once.tree);
    let length = layer.metadata().expect("a file has a length").len();
    let file_of_layer = LayerFile { file: layer.as_fd(), length };
    for (merged, layers, little) in
        [(once, &[file_of_layer][..], 0), (twice, &[file_of_layer, file_of_layer][..], LITTLE)]
    {
        let index = file();
        let devices = match write_image(merged, layers, little, [9; 16], &index) {
            Ok(devices) => devices,
            Err(error) => {
                assert_printable(&error);
                assert!(!said.stands_alone() && said.may_be_refused(&error), "{error:#}");
                return;
            }
        };
        let lengths: Vec<u64> = devices.iter().map(|_| length).collect();
        let bytes = bytes_of(&index, u64::MAX).expect("an index of any length");
        let image = reader::read(&bytes, &lengths).expect("the index is an image");
        let found = seen(&image);
        // What is little lies elsewhere then.
        let (mut placed, mut wanted) = (found.clone(), wanted.clone());
        if little > 0 {
            forget_places(&mut placed);
            forget_places(&mut wanted);
        }
        assert_eq!(placed, wanted);
        said.assert_shown(&found, Shows::Image, &[&index, layer]);
    }
}

fn forget_places(listing: &mut Listing) {
    for shown in listing.values_mut() {
        if let Kind::File { extents, .. } = &mut shown.kind {
            extents.clear();
        }
    }
}
