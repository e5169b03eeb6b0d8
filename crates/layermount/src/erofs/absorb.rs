//! Layers of which little is left to see give it to the index.
//!
//! The kernel opens the file of every device when an image is mounted, and images have many layers that hold next to nothing:
//! one for each line of whoever built them. What an image has of such a layer is copied, so that an image of five hundred small
//! layers is mounted as fast as one of a single layer.

use super::format::BLOCK;
use super::merge::Merged;
use super::tree::{Data, DeviceId, Tree, What};
use super::writer::front_blocks;

/// More bytes than this stay where they are.
pub(crate) const LITTLE: u64 = 64 << 10;

/// Blocks that an index has of a layer's file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// A place in the list of layers.
    pub(super) layer: usize,
    pub(super) from: u32,
    pub(super) to: u32,
    pub(super) blocks: u32,
}

/// Takes the devices out of `merged` that hold `little` bytes at most; their content then lies behind the front of the index.
/// Returns what is to be copied, and the first block behind it.
pub(super) fn absorb(merged: &mut Merged, little: u64) -> (Vec<Piece>, u32) {
    let bytes = bytes_of(&merged.tree, merged.devices.len());
    let devices = std::mem::take(&mut merged.devices);
    let mut slots: Vec<Slot> = Vec::with_capacity(devices.len());
    for (layer, bytes) in devices.into_iter().zip(bytes) {
        if bytes > little {
            merged.devices.push(layer);
            // No more than there were.
            slots.push(Slot::Kept(merged.devices.len() as DeviceId));
        } else {
            slots.push(Slot::Absorbed { layer });
        }
    }
    let slot = |device: DeviceId| usize::from(device).checked_sub(1).and_then(|index| slots.get(index));
    let mut pieces = Vec::new();
    let mut next = front_blocks(merged.devices.len());
    for inode in merged.tree.inodes_mut() {
        let What::File { size, data } = &mut inode.what else { continue };
        let (Data::Plain { device, .. } | Data::Chunks { device, .. }) = data;
        match slot(*device) {
            // The index itself: of a file that has no content, or nothing but holes.
            None => {}
            Some(Slot::Kept(kept)) => *device = *kept,
            Some(Slot::Absorbed { layer }) => {
                let Data::Plain { block, .. } = *data else { continue };
                // It has a block number, and so have those behind it.
                let blocks = size.div_ceil(BLOCK) as u32;
                pieces.push(Piece { layer: *layer, from: block, to: next, blocks });
                *data = Data::Plain { device: 0, block: next };
                next += blocks;
            }
        }
    }
    (pieces, next)
}

/// What becomes of a device.
enum Slot {
    Kept(DeviceId),
    Absorbed { layer: usize },
}

/// How much content lies on each device, in whole blocks. Files with holes are not little: they have more chunks than bytes.
fn bytes_of(tree: &Tree, devices: usize) -> Vec<u64> {
    let mut bytes = vec![0_u64; devices];
    for inode in tree.inodes() {
        let What::File { size, data } = inode.what else { continue };
        let (device, more) = match data {
            Data::Plain { device, .. } => (device, size.next_multiple_of(BLOCK)),
            Data::Chunks { device, .. } => (device, u64::MAX),
        };
        if let Some(bytes) = usize::from(device).checked_sub(1).and_then(|index| bytes.get_mut(index)) {
            *bytes = bytes.saturating_add(more);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::super::tree::{Inode, Metadata};
    use super::*;

    fn merged(files: &[(u64, Data)], devices: &[usize]) -> Merged {
        let mut tree = Tree::default();
        for &(size, data) in files {
            tree.add_inode(Inode { metadata: Metadata::IMPLIED, what: What::File { size, data } }).unwrap();
        }
        Merged { tree, devices: devices.to_vec() }
    }

    fn plain(device: DeviceId, block: u32) -> Data {
        Data::Plain { device, block }
    }

    #[test]
    fn little_is_copied_and_much_stays() {
        let chunks = Data::Chunks { device: 3, bits: 3, first: 0 };
        let mut image = merged(
            &[
                (1000, plain(1, 8)),
                (LITTLE, plain(2, 9)),
                (1, plain(2, 700)),
                (10, chunks),
                (0, plain(0, 0)),
                (512, plain(1, 12)),
                (LITTLE, plain(4, 8)),
            ],
            &[7, 0, 5, 9],
        );
        let (pieces, next) = absorb(&mut image, LITTLE);
        assert_eq!(image.devices, [0, 5], "what has more than little, or holes");
        let first = front_blocks(2);
        let piece = |layer, from, to, blocks| Piece { layer, from, to, blocks };
        assert_eq!(pieces, [piece(7, 8, first, 2), piece(7, 12, first + 2, 1), piece(9, 8, first + 3, 128)]);
        assert_eq!(next, first + 131);
        let found: Vec<_> = (image.tree.inodes().iter())
            .map(|inode| match inode.what {
                What::File { data, .. } => data,
                _ => panic!("not a file"),
            })
            .collect();
        let wanted = [
            plain(0, first),
            plain(1, 9),
            plain(1, 700),
            Data::Chunks { device: 2, bits: 3, first: 0 },
            plain(0, 0),
            plain(0, first + 2),
            plain(0, first + 3),
        ];
        assert_eq!(found, wanted);
    }
}
