//! Images written again from what the reader found in them. For tests and fuzzing only.

use super::format::MAX_CHUNK_BITS;
use super::reader::{Extent, Image, Kind, Place};
use super::tree::{Child, Data, Directory, Entry, Full, HOLE, Inode, InodeId, Metadata, Named, Tree, What, Xattrs};
use super::writer::{Target, WriteError, write};
use crate::layer::Device;

/// The image `bytes`, in which `image` was found, with metadata of its own behind all that was there.
pub(crate) fn rewrite(bytes: &[u8], image: &Image, devices: &[u64]) -> Result<Vec<u8>, WriteError> {
    let full = |Full| WriteError::TooLarge("a tree is full");
    let tree = tree(image).map_err(full)?;
    let blocks = |bytes: u64| u32::try_from(bytes / 512).map_err(|_| WriteError::TooLarge("its files"));
    let devices = devices.iter().map(|bytes| blocks(bytes.next_multiple_of(512))).collect::<Result<Vec<_>, _>>()?;
    let first_block = blocks(bytes.len() as u64)?;
    let mut again = bytes.to_vec();
    let front = write(&tree, &Target { first_block, devices: &devices }, &mut again)?.to_bytes([1; 16]);
    again[1024..1024 + front.len()].copy_from_slice(&front);
    Ok(again)
}

/// A tree of the same inodes, in their order. Whiteouts are the devices that they look like, and the marks of overlayfs are xattrs.
fn tree(image: &Image) -> Result<Tree, Full> {
    let mut tree = Tree::default();
    let mut ids = Vec::new();
    for inode in &image.inodes {
        let xattrs: Xattrs = inode.xattrs.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        let xattrs = tree.add_xattrs(xattrs)?;
        let metadata = Metadata { mode: inode.mode, uid: inode.uid, gid: inode.gid, mtime: inode.mtime, xattrs };
        let device = |major: &u32, minor: &u32| Device { major: *major, minor: *minor };
        let what = match &inode.kind {
            Kind::Directory => What::Directory(Directory::new(Named::Here, false)),
            Kind::File { size, extents } => What::File { size: *size, data: data(&mut tree, extents)? },
            Kind::Symlink(target) => What::Symlink(tree.add_text(target)?),
            Kind::CharDevice { major, minor } => What::CharDevice(device(major, minor)),
            Kind::BlockDevice { major, minor } => What::BlockDevice(device(major, minor)),
            Kind::Fifo => What::Fifo,
        };
        ids.push(tree.add_inode(Inode { metadata, what })?);
    }
    let mut entries: Vec<Vec<Entry>> = ids.iter().map(|_| Vec::new()).collect();
    // The first one is the root's own.
    for name in image.names.iter().skip(1) {
        let entry = Entry { name: tree.add_text(&name.name)?, child: Child::Inode(ids[name.inode]) };
        entries[image.names[name.directory].inode].push(entry);
    }
    for (id, entries) in ids.into_iter().zip(entries) {
        if tree.directory(id).is_some() {
            tree.add_entries(id, entries)?;
        }
    }
    debug_assert!(tree.directory(InodeId::ROOT).is_some());
    Ok(tree)
}

/// The same blocks, in the largest chunks that they can be divided into: no more than they were in.
fn data(tree: &mut Tree, extents: &[Extent]) -> Result<Data, Full> {
    match extents {
        [] => return Ok(Data::Plain { device: 0, block: 0 }),
        [Extent { place: Place::At { device, block }, .. }] => {
            return Ok(Data::Plain { device: *device, block: *block });
        }
        _ => {}
    }
    let (mut bits, mut position) = (MAX_CHUNK_BITS, 0);
    for extent in extents.iter().rev().skip(1).rev() {
        position += extent.blocks;
        bits = bits.min(position.trailing_zeros() as u8);
    }
    let (mut device, mut blocks) = (0, Vec::new());
    for Extent { place, blocks: count } in extents {
        for chunk in 0..count.div_ceil(1 << bits) {
            blocks.push(match place {
                Place::Hole => HOLE,
                Place::At { device: on, block } => {
                    device = *on;
                    block + (chunk << bits) as u32
                }
            });
        }
    }
    Ok(Data::Chunks { device, bits, first: tree.add_chunks(blocks)? })
}
