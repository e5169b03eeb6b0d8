//! What an inode is made of beside its 64 bytes: `inode | xattrs | addresses of chunks | end of the content`.
//!
//! All of it follows from the inode alone, so that placing and writing see the same without anything being kept between them.

use super::directory::{Shape, names};
use super::xattr::Xattrs;
use crate::erofs::format::{BLOCK, CHUNK_INDEX, INODE, INODE_SLOT, MAX_CHUNK_BITS, chunk_count};
use crate::erofs::tree::{Data, DeviceId, HOLE, Inode, InodeId, Tree, What};
use crate::layer::Device;

#[derive(Debug)]
pub(super) struct Body<'t> {
    pub(super) xattrs: Xattrs<'t>,
    pub(super) xattr_bytes: u32,
    pub(super) size: u64,
    pub(super) content: Content<'t>,
}

#[derive(Debug)]
pub(super) enum Content<'t> {
    /// None of its own: empty, or a device of this number.
    Nothing(u32),
    /// From this block of the image's file on.
    Plain(u32),
    Chunks {
        device: DeviceId,
        bits: u8,
        blocks: Chunks<'t>,
    },
    /// Blocks that the image gets for it, behind all inodes; and bytes behind the inode itself.
    Written {
        blocks: u64,
        tail: u64,
    },
}

/// First blocks of chunks.
#[derive(Debug, Clone, Copy)]
pub(super) enum Chunks<'t> {
    /// One behind the other.
    From {
        first: u32,
        count: u64,
    },
    Listed(&'t [u32]),
}

impl Chunks<'_> {
    pub(super) fn count(&self) -> u64 {
        match self {
            Self::From { count, .. } => *count,
            Self::Listed(blocks) => blocks.len() as u64,
        }
    }

    pub(super) fn get(&self, index: u64, bits: u8) -> u32 {
        match self {
            // `of_plain` saw that the last one has an address.
            Self::From { first, .. } => first.wrapping_add((index << bits) as u32),
            Self::Listed(blocks) => {
                usize::try_from(index).ok().and_then(|index| blocks.get(index)).copied().unwrap_or(HOLE)
            }
        }
    }
}

impl<'t> Body<'t> {
    /// The body of an inode, or why EROFS cannot hold it.
    pub(super) fn new(tree: &'t Tree, id: InodeId, inode: &Inode) -> Result<Self, &'static str> {
        let xattrs = Xattrs::new(tree, inode, id == InodeId::ROOT);
        let xattr_bytes = xattrs.bytes()?;
        let (size, content) = match inode.what {
            What::Directory(directory) => {
                let size = Shape::new(names(tree, &directory)).size();
                (size, written(size, xattr_bytes))
            }
            What::Symlink(target) => {
                let size = tree.text(target).len() as u64;
                (size, written(size, xattr_bytes))
            }
            What::File { size, data } => (size, of_file(tree, size, data)?),
            What::CharDevice(device) | What::BlockDevice(device) => (0, Content::Nothing(encode(device)?)),
            What::Fifo => (0, Content::Nothing(0)),
        };
        Ok(Self { xattrs, xattr_bytes, size, content })
    }

    /// Where the content's end, or what follows the xattrs, begins behind the beginning of the inode.
    pub(super) fn tail_offset(&self) -> u64 {
        INODE as u64 + u64::from(self.xattr_bytes)
    }

    /// Bytes behind the beginning of an inode at a multiple of its alignment.
    pub(super) fn length(&self) -> u64 {
        let behind = self.tail_offset();
        match &self.content {
            Content::Nothing(_) | Content::Plain(_) => behind,
            Content::Chunks { blocks, .. } => {
                behind.next_multiple_of(CHUNK_INDEX as u64) + blocks.count() * CHUNK_INDEX as u64
            }
            Content::Written { tail, .. } => behind + tail,
        }
    }
}

/// The end of content stands behind the inode if it fits: it must lie in one block, and inodes can only be moved by slots.
fn written(size: u64, xattr_bytes: u32) -> Content<'static> {
    let tail = size % BLOCK;
    let least_offset = (INODE as u64 + u64::from(xattr_bytes)) % INODE_SLOT;
    if tail > 0 && least_offset + tail <= BLOCK {
        Content::Written { blocks: size / BLOCK, tail }
    } else {
        Content::Written { blocks: size.div_ceil(BLOCK), tail: 0 }
    }
}

fn of_file<'t>(tree: &'t Tree, size: u64, data: Data) -> Result<Content<'t>, &'static str> {
    if i64::try_from(size).is_err() {
        return Err("it has more than 2^63 bytes");
    }
    match data {
        _ if size == 0 => Ok(Content::Nothing(0)),
        Data::Plain { device, block } => of_plain(size, device, block),
        Data::Chunks { device, bits, first } => {
            Ok(Content::Chunks { device, bits, blocks: Chunks::Listed(tree.chunks(size, bits, first)) })
        }
    }
}

fn of_plain(size: u64, device: DeviceId, block: u32) -> Result<Content<'static>, &'static str> {
    let blocks = size.div_ceil(BLOCK);
    // The last address means a hole.
    if u64::from(block) + blocks > u32::MAX.into() {
        return Err("it lies behind the 2^32 blocks that have addresses");
    }
    if device == 0 {
        return Ok(Content::Plain(block));
    }
    // One chunk, if that can be: of the next power of two, of which only what the file has is ever read.
    let bits = (blocks.next_power_of_two().trailing_zeros() as u8).min(MAX_CHUNK_BITS);
    Ok(Content::Chunks { device, bits, blocks: Chunks::From { first: block, count: chunk_count(size, bits) } })
}

/// As in the kernel's `new_encode_dev()`.
fn encode(Device { major, minor }: Device) -> Result<u32, &'static str> {
    if major >= 1 << 12 || minor >= 1 << 20 {
        return Err("Linux has no device of this number");
    }
    Ok((minor & 0xff) | major << 8 | (minor & !0xff) << 12)
}
