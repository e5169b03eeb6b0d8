//! Where everything goes: inodes one after the other in the order of their ids, then the blocks of directories and symlinks.

use super::WriteError;
use super::body::{Body, Content};
use super::links::{Link, Links};
use crate::erofs::format::{BLOCK, INODE, INODE_SLOT};
use crate::erofs::tree::{InodeId, Tree};

/// Where an inode goes, and its blocks.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    nid: u32,
    /// Counted from the first block behind the inodes.
    block: u32,
}

#[derive(Debug)]
pub(super) struct Places {
    /// Of all inodes, in the order of their ids; those that are not written have any.
    places: Vec<Place>,
    /// The one inode of all whiteouts.
    pub(super) whiteout: u64,
    /// How many inodes are written.
    pub(super) inodes: u64,
    /// Bytes of all inodes, filled up to a block.
    pub(super) inode_bytes: u64,
    /// Blocks behind them.
    pub(super) blocks: u64,
    /// Whether a file lies in chunks.
    pub(super) chunks: bool,
}

impl Places {
    pub(super) fn new(tree: &Tree, links: &Links) -> Result<Self, WriteError> {
        let mut places = vec![Place::default(); tree.inodes().len()];
        // Number 0 stays free: programs take an entry of a directory that has it for a deleted one.
        let mut position = INODE_SLOT;
        let (mut inodes, mut blocks, mut chunks) = (0, 0_u64, false);
        for ((id, inode), place) in tree.ids().zip(tree.inodes()).zip(&mut places) {
            if links.get(id) == Link::Nowhere {
                continue;
            }
            let body = Body::new(tree, id, inode)
                .map_err(|reason| WriteError::Entry { entry: links.path(tree, id), reason })?;
            chunks |= matches!(body.content, Content::Chunks { .. });
            position += slide(position, &body);
            *place = Place { nid: number(position)?, block: block(blocks)? };
            position = (position + body.length()).next_multiple_of(INODE_SLOT);
            if let Content::Written { blocks: more, .. } = body.content {
                blocks += more;
            }
            inodes += 1;
        }
        let mut whiteout = 0;
        if links.whiteouts > 0 {
            whiteout = number(position)?.into();
            position += INODE as u64;
            inodes += 1;
        }
        Ok(Self { places, whiteout, inodes, inode_bytes: position.next_multiple_of(BLOCK), blocks, chunks })
    }

    fn get(&self, id: InodeId) -> Place {
        self.places.get(id.index()).copied().unwrap_or_default()
    }

    pub(super) fn nid(&self, id: InodeId) -> u64 {
        self.get(id).nid.into()
    }

    /// The first of the blocks that are written for an inode, counted from the first one behind the inodes.
    pub(super) fn block(&self, id: InodeId) -> u64 {
        self.get(id).block.into()
    }
}

/// How many bytes an inode stays away from those before it so that the end of its content lies in one block.
fn slide(position: u64, body: &Body<'_>) -> u64 {
    let Content::Written { tail, .. } = body.content else { return 0 };
    let start = (position + body.tail_offset()) % BLOCK;
    // The next block, but not its very beginning: inodes are moved by slots.
    if start + tail > BLOCK { BLOCK - start + start % INODE_SLOT } else { 0 }
}

/// Numbers of inodes have 64 bits, except that `i_ino` has 32; 128 GiB of inodes is more than enough.
fn number(position: u64) -> Result<u32, WriteError> {
    u32::try_from(position / INODE_SLOT).map_err(|_| WriteError::TooLarge("inodes have more than 128 GiB"))
}

fn block(block: u64) -> Result<u32, WriteError> {
    u32::try_from(block).map_err(|_| WriteError::TooLarge("directories have more than 2 TiB"))
}
