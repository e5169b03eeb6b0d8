//! Layers' files and indexes that are not what was written.

use std::collections::BTreeSet;
use std::ops::Range;
use std::os::fd::AsFd;

use layermount_fixtures::seeds;

use super::format::{LAYOUT_CHUNKS, chunk_count};
use super::listing::{Listing, expected, seen};
use super::*;
use crate::fuzzing::memory::{bytes_of, file};
use crate::layer::LayerLimits;

const FRONT: usize = 1024;
/// Told to nobody but those who tell file systems from each other.
const UUID: Range<usize> = FRONT + 48..FRONT + 64;

/// An image, the lengths of its devices, and what it says.
struct Sample {
    name: String,
    bytes: Vec<u8>,
    devices: Vec<u64>,
    listing: Listing,
}

/// Archives in which there is some of everything: as layers' files, and as the indexes over them.
fn samples() -> Vec<Sample> {
    let mut samples = Vec::new();
    let wanted = ["every-kind", "sparse-0.1", "attributes", "many"];
    for (name, archive) in seeds::of("erofs_layer").into_iter().filter(|(name, _)| wanted.contains(&name.as_str())) {
        let layer = file();
        let packed = pack(&mut archive.as_slice(), &layer, &LayerLimits::default()).unwrap();
        packed.seal(&layer, [7; 16]).unwrap();
        let length = layer.metadata().unwrap().len();
        for little in [0, LITTLE] {
            let merged = merge(&[&packed.tree]).unwrap();
            let files = [LayerFile { file: layer.as_fd(), length }];
            let index = file();
            let devices = write_image(merged, &files, little, [7; 16], &index).unwrap();
            let devices = devices.iter().map(|_| length).collect();
            samples.push(Sample::new(format!("index of {name}, {little}"), &index, devices));
        }
        if packed.stands_alone() {
            let sample = Sample::new(name, &layer, Vec::new());
            assert_eq!(sample.listing, expected(&packed.tree));
            samples.push(sample);
        }
    }
    assert!(samples.len() > 10, "{}", samples.len());
    samples
}

impl Sample {
    fn new(name: String, file: &std::fs::File, devices: Vec<u64>) -> Self {
        let bytes = bytes_of(file, u64::MAX).unwrap();
        let listing = seen(&reader::read(&bytes, &devices).unwrap());
        Self { name, bytes, devices, listing }
    }

    /// Bytes of the metadata: all that is not the archive, or content that was copied out of one.
    fn meaning(&self) -> impl Iterator<Item = usize> {
        let front_end = FRONT + 128 + 128 * self.devices.len();
        (FRONT..front_end).filter(|index| !UUID.contains(index)).chain(self.metadata()..self.bytes.len())
    }

    /// Where inodes say how large their chunks are, if one is enough for the file: a larger one means the same.
    fn sizes_of_single_chunks(&self) -> BTreeSet<usize> {
        let image = reader::read(&self.bytes, &self.devices).unwrap();
        let starts = image.inodes.iter().map(|inode| (self.metadata() + inode.nid as usize * 32, &inode.kind));
        let single = starts.filter(|(start, kind)| {
            let reader::Kind::File { size, .. } = kind else { return false };
            self.bytes[*start] >> 1 == LAYOUT_CHUNKS as u8 && chunk_count(*size, self.bytes[start + 16] & 0x1f) == 1
        });
        single.map(|(start, _)| start + 16).collect()
    }

    fn metadata(&self) -> usize {
        u32::from_le_bytes(*self.bytes[FRONT + 40..].first_chunk().unwrap()) as usize * 512
    }

    /// Whether the image says the same with this change.
    fn says_the_same_with(&mut self, index: usize, change: u8) -> bool {
        self.bytes[index] ^= change;
        let same = reader::read(&self.bytes, &self.devices).is_ok_and(|image| seen(&image) == self.listing);
        self.bytes[index] ^= change;
        same
    }
}

#[test]
fn every_byte_of_layers_and_indexes_means_something() {
    for mut sample in samples() {
        let single = sample.sizes_of_single_chunks();
        let meaning: Vec<_> = sample.meaning().filter(|index| !single.contains(index)).collect();
        for index in meaning {
            for change in [1 << (index % 8), 0xff] {
                assert!(!sample.says_the_same_with(index, change), "{}: {change:x} at byte {index}", sample.name);
            }
        }
    }
}

/// What is left: zeros in front, the UUID, the archive, and what was copied out of one.
#[test]
fn content_means_nothing_to_the_tree() {
    for mut sample in samples() {
        let front_end = FRONT + 128 + 128 * sample.devices.len();
        for index in (0..FRONT).chain(UUID).chain(front_end..sample.metadata()).step_by(5) {
            assert!(sample.says_the_same_with(index, 0xff), "{}: byte {index}", sample.name);
        }
    }
}
