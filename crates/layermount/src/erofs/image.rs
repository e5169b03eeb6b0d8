//! The index of a whole image: one file system over the files of its layers, which are its devices.
//!
//! Overlayfs has one layer then, however many the image has, and a name is looked up once.

use std::fs::File;
use std::os::fd::BorrowedFd;

use super::ErofsError;
use super::absorb::{Piece, absorb};
use super::file::{Copy, copy, seal, write_metadata};
use super::format::BLOCK;
use super::merge::Merged;
use super::tree::{Directory, Inode, Metadata, Named, Tree, What};
use super::writer::Target;
use crate::error::Result;

/// Writes an image of an empty directory: to find out what the kernel mounts.
pub(crate) fn write_smallest(into: &File) -> Result<()> {
    let mut tree = Tree::default();
    let what = What::Directory(Directory::new(Named::Here, false));
    tree.add_inode(Inode { metadata: Metadata::IMPLIED, what }).map_err(ErofsError::from)?;
    write_image(Merged { tree, devices: Vec::new() }, &[], 0, [0; 16], into).map(drop)
}

/// A layer's file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LayerFile<'a> {
    pub(crate) file: BorrowedFd<'a>,
    /// In bytes.
    pub(crate) length: u64,
}

/// Writes the index into the empty file `into`; `layers` are those that were merged. Content of layers of which no more than
/// `little` bytes are left is copied, usually up to [`LITTLE`](super::LITTLE). Returns the places in `layers` of those that the
/// index needs as devices, in their order. `uuid` tells file systems from each other.
pub(crate) fn write_image(
    mut merged: Merged,
    layers: &[LayerFile<'_>],
    little: u64,
    uuid: [u8; 16],
    into: &File,
) -> Result<Vec<usize>> {
    let (pieces, first_block) = absorb(&mut merged, little);
    let mut buffer = Vec::new();
    for Piece { layer, from, to, blocks } in &pieces {
        let Some(LayerFile { file, .. }) = layers.get(*layer) else { continue };
        let [from, to, length] = [from, to, blocks].map(|blocks| u64::from(*blocks) * BLOCK);
        copy(*file, into, &Copy { from, to, length }, &mut buffer)?;
    }
    let blocks = |layer: &usize| {
        let length = layers.get(*layer).map_or(0, |layer| layer.length);
        u32::try_from(length / BLOCK).map_err(|_| ErofsError::Full)
    };
    let devices = merged.devices.iter().map(blocks).collect::<Result<Vec<_>, _>>()?;
    let front = write_metadata(&merged.tree, &Target { first_block, devices: &devices }, into)?;
    seal(into, &front, uuid)?;
    Ok(merged.devices)
}
