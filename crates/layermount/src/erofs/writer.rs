//! From a [`Tree`] to the metadata of an image: one pass that [places](place) every inode, and one that writes them in order.
//!
//! ```text
//! first block: inode, xattrs, addresses of chunks, end of a directory or symlink | inode… | whiteouts' inode
//!              blocks of large directories and of long symlinks
//!              zeros up to a multiple of 4096 bytes
//! ```
//!
//! Nothing of this is kept in memory but a place of 8 bytes and a link of 8 bytes for each inode.

mod body;
mod directory;
mod links;
mod place;
#[cfg(test)]
mod tests;
mod xattr;

use std::io::{self, Write};

use super::USE_DIRECTORIES;
use super::format::{
    BLOCK, CHUNK_INDEX, CHUNKS_WITH_DEVICES, ChunkIndex, DEVICE_SLOT, DeviceSlot, FileType, INCOMPAT_CHUNKED_FILE,
    INCOMPAT_DEVICE_TABLE, INODE_SLOT, Inode, LAYOUT_CHUNKS, LAYOUT_INLINE, LAYOUT_PLAIN, SUPERBLOCK,
    SUPERBLOCK_OFFSET, Superblock,
};
use super::tree::{self, Child, Directory, InodeId, Tree, What};
use crate::error::{ErrorKind, Fault};
use body::{Body, Content};
use directory::{Shape, To, names, write_blocks};
use links::{Link, Links};
use place::Places;

/// Files end at a multiple of this, which is the largest page that anybody reads them by.
pub(super) const PAGE: u64 = 4096;

/// What an image is written for.
#[derive(Debug)]
pub(crate) struct Target<'a> {
    /// Block of the image file at which the metadata begins (everything before is the caller's).
    pub(crate) first_block: u32,
    /// Blocks of each file of the device table, in slot order; empty for an image in one file.
    pub(crate) devices: &'a [u32],
}

/// Superblock and device table: to be written at byte 1024, last of all, so that half an image is none.
#[derive(Debug)]
pub(crate) struct Front {
    superblock: Superblock,
    devices: Vec<DeviceSlot>,
}

impl Front {
    /// The bytes, of a file system that is called `uuid`. That should differ between images: overlayfs does without some
    /// features where two layers have the same one.
    pub(crate) fn to_bytes(&self, uuid: [u8; 16]) -> Vec<u8> {
        let mut bytes = Superblock { uuid, ..self.superblock }.to_bytes().to_vec();
        bytes.extend(self.devices.iter().flat_map(DeviceSlot::to_bytes));
        bytes
    }
}

/// How many blocks the front takes, with what stands before it: the first one that may be the caller's.
pub(crate) fn front_blocks(devices: usize) -> u32 {
    let bytes = SUPERBLOCK_OFFSET + SUPERBLOCK as u64 + devices as u64 * DEVICE_SLOT as u64;
    u32::try_from(bytes.div_ceil(BLOCK)).unwrap_or(u32::MAX)
}

/// A tree that does not become an image.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    #[error("the image cannot be written")]
    Io(#[from] io::Error),
    #[error("EROFS cannot hold {entry}: {reason}")]
    Entry { entry: String, reason: &'static str },
    #[error("EROFS cannot hold the image: {0}")]
    TooLarge(&'static str),
}

impl Fault for WriteError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Io(error) => match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::StorageFull,
                _ => ErrorKind::Os,
            },
            Self::Entry { .. } | Self::TooLarge(_) => ErrorKind::Unsupported,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Io(_) => None,
            Self::Entry { .. } | Self::TooLarge(_) => Some(USE_DIRECTORIES.into()),
        }
    }
}

/// Writes the metadata: all bytes from `target.first_block` on, up to a multiple of 4096 of the file's length. Returns what
/// belongs in front.
///
/// `tree` has a root, every directory in it has one name, and no [`Child::Below`] is left: one that is would be left out of the
/// image. Nothing is written when the tree has something that EROFS cannot hold.
pub(crate) fn write(tree: &Tree, target: &Target<'_>, out: &mut dyn Write) -> Result<Front, WriteError> {
    let links = Links::new(tree);
    let places = Places::new(tree, &links)?;
    let start = u64::from(target.first_block) * BLOCK;
    let end = (start + places.inode_bytes + places.blocks * BLOCK).next_multiple_of(PAGE);
    let blocks = u32::try_from(end / BLOCK).map_err(|_| WriteError::TooLarge("its file has more than 2 TiB"))?;
    let front = front(target, &places, blocks)?;

    let data_block = u64::from(target.first_block) + places.inode_bytes / BLOCK;
    let writer = Writer { tree, links: &links, places: &places, data_block };
    let mut out = Output { out, position: start };
    for (id, inode) in tree.ids().zip(tree.inodes()) {
        let links = match links.get(id) {
            Link::Nowhere => continue,
            Link::Names(names) => names,
            Link::In(_) => writer.links_of_directory(id),
        };
        out.fill(start + places.nid(id) * INODE_SLOT)?;
        writer.write_inode(&mut out, id, inode, links)?;
    }
    if links.whiteouts > 0 {
        out.fill(start + places.whiteout * INODE_SLOT)?;
        out.write(&whiteout(places.whiteout, links.whiteouts).to_bytes())?;
    }
    out.fill(start + places.inode_bytes)?;
    if places.blocks > 0 {
        for (id, inode) in tree.ids().zip(tree.inodes()).filter(|(id, _)| links.get(*id) != Link::Nowhere) {
            writer.write_blocks(&mut out, id, inode)?;
        }
    }
    out.fill(end)?;
    Ok(front)
}

fn front(target: &Target<'_>, places: &Places, blocks: u32) -> Result<Front, WriteError> {
    let too_many = |_| WriteError::TooLarge("it has more than 65535 layers");
    let devices = u16::try_from(target.devices.len()).map_err(too_many)?;
    let superblock = Superblock {
        // The first inode stands in the first blocks.
        root_nid: places.nid(InodeId::ROOT) as u16,
        inodes: places.inodes,
        blocks,
        meta_block: target.first_block,
        uuid: [0; 16],
        incompat: if places.chunks { INCOMPAT_CHUNKED_FILE } else { 0 }
            | if devices > 0 { INCOMPAT_DEVICE_TABLE } else { 0 },
        devices,
    };
    let mut next = u64::from(blocks);
    let slot = |blocks: &u32| {
        // Without an address in the whole, a device can be reached by its number only, which is how content is found here.
        let end = next + u64::from(*blocks);
        let unified_block = if end <= u32::MAX.into() { next as u32 } else { 0 };
        next = end;
        DeviceSlot { blocks: *blocks, unified_block }
    };
    Ok(Front { superblock, devices: target.devices.iter().map(slot).collect() })
}

/// What a layer has instead of a name that those below have in vain: a character device 0:0 (overlayfs.rst, "whiteouts and
/// opaque directories").
fn whiteout(nid: u64, links: u32) -> Inode {
    Inode {
        layout: LAYOUT_PLAIN,
        xattr_count: 0,
        mode: FileType::CharDevice.mode(),
        size: 0,
        union: 0,
        number: nid as u32,
        uid: 0,
        gid: 0,
        mtime: (0, 0),
        links,
    }
}

struct Writer<'a> {
    tree: &'a Tree,
    links: &'a Links,
    places: &'a Places,
    /// The first block behind the inodes.
    data_block: u64,
}

impl Writer<'_> {
    /// Its name, its `.`, and the `..` of each directory in it.
    fn links_of_directory(&self, id: InodeId) -> u32 {
        let entries = self.tree.directory(id).map(|directory| self.tree.entries(directory)).unwrap_or_default();
        let is_directory = |child| matches!(child, Child::Inode(child) if self.tree.directory(child).is_some());
        let inside = entries.iter().filter(|entry| is_directory(entry.child)).count();
        u32::try_from(inside).unwrap_or(u32::MAX).saturating_add(2)
    }

    fn body(&self, id: InodeId, inode: &tree::Inode) -> Result<Body<'_>, WriteError> {
        Body::new(self.tree, id, inode)
            .map_err(|reason| WriteError::Entry { entry: self.links.path(self.tree, id), reason })
    }

    /// Writes an inode with all that stands behind it.
    fn write_inode(
        &self,
        out: &mut Output<'_>,
        id: InodeId,
        inode: &tree::Inode,
        links: u32,
    ) -> Result<(), WriteError> {
        let tree::Metadata { mode, uid, gid, mtime, .. } = inode.metadata;
        let body = self.body(id, inode)?;
        let (layout, union) = match body.content {
            Content::Nothing(number) => (LAYOUT_PLAIN, number),
            Content::Plain(block) => (LAYOUT_PLAIN, block),
            Content::Chunks { bits, .. } => (LAYOUT_CHUNKS, u32::from(bits) | CHUNKS_WITH_DEVICES),
            Content::Written { blocks, tail } => {
                // That the image's end has an address was seen before.
                let block = if blocks > 0 { self.data_block + self.places.block(id) } else { 0 };
                (if tail > 0 { LAYOUT_INLINE } else { LAYOUT_PLAIN }, block as u32)
            }
        };
        let head = Inode {
            layout,
            // Both were looked at when the places were given.
            xattr_count: xattr::count(body.xattr_bytes.into()) as u16,
            number: self.places.nid(id) as u32,
            mode: file_type(inode).mode() | mode & 0o7777,
            size: body.size,
            union,
            uid,
            gid,
            mtime,
            links,
        };
        out.write(&head.to_bytes())?;
        body.xattrs.write(out)?;
        match body.content {
            Content::Nothing(_) | Content::Plain(_) | Content::Written { tail: 0, .. } => {}
            Content::Chunks { device, bits, blocks } => {
                out.align(CHUNK_INDEX as u64)?;
                for index in 0..blocks.count() {
                    let block = blocks.get(index, bits);
                    let device = if block == tree::HOLE { 0 } else { device };
                    out.write(&ChunkIndex { device, block }.to_bytes())?;
                }
            }
            Content::Written { blocks, .. } => match &inode.what {
                What::Directory(directory) => {
                    let before = Shape::new(names(self.tree, directory)).names_before_last;
                    self.write_names(out, id, directory, before, 1)?;
                }
                What::Symlink(target) => {
                    let whole = usize::try_from(blocks * BLOCK).unwrap_or(usize::MAX);
                    out.write(self.tree.text(*target).get(whole..).unwrap_or_default())?;
                }
                _ => {}
            },
        }
        Ok(())
    }

    /// Writes the blocks that an inode has behind all inodes.
    fn write_blocks(&self, out: &mut Output<'_>, id: InodeId, inode: &tree::Inode) -> Result<(), WriteError> {
        if !matches!(inode.what, What::Directory(_) | What::Symlink(_)) {
            return Ok(());
        }
        let body = self.body(id, inode)?;
        let Content::Written { blocks: blocks @ 1.., .. } = body.content else { return Ok(()) };
        match &inode.what {
            What::Directory(directory) => self.write_names(out, id, directory, 0, blocks)?,
            What::Symlink(target) => {
                let target = self.tree.text(*target);
                let whole = usize::try_from(blocks * BLOCK).unwrap_or(usize::MAX).min(target.len());
                out.write(target.get(..whole).unwrap_or_default())?;
            }
            _ => {}
        }
        Ok(out.align(BLOCK)?)
    }

    /// Writes blocks of a directory, behind its first names.
    fn write_names(
        &self,
        out: &mut Output<'_>,
        id: InodeId,
        directory: &Directory,
        before: usize,
        blocks: u64,
    ) -> io::Result<()> {
        let find = |to| match to {
            To::Itself => (self.places.nid(id), FileType::Directory),
            To::Parent => (self.places.nid(self.links.parent(id)), FileType::Directory),
            To::Child(Child::Inode(child)) => {
                let file_type = self.tree.inode(child).map_or(FileType::CharDevice, file_type);
                (self.places.nid(child), file_type)
            }
            To::Child(_) => (self.places.whiteout, FileType::CharDevice),
        };
        write_blocks(out, names(self.tree, directory).skip(before), blocks, find)
    }
}

fn file_type(inode: &tree::Inode) -> FileType {
    match inode.what {
        What::Directory(_) => FileType::Directory,
        What::File { .. } => FileType::Regular,
        What::Symlink(_) => FileType::Symlink,
        What::CharDevice(_) => FileType::CharDevice,
        What::BlockDevice(_) => FileType::BlockDevice,
        What::Fifo => FileType::Fifo,
    }
}

/// Where bytes go, and where they end up in the image's file.
struct Output<'a> {
    out: &'a mut dyn Write,
    position: u64,
}

impl Output<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.position += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    /// Writes zeros up to a multiple.
    fn align(&mut self, to: u64) -> io::Result<()> {
        self.fill(self.position.next_multiple_of(to))
    }

    /// Writes zeros up to a place in the file.
    fn fill(&mut self, end: u64) -> io::Result<()> {
        const ZEROS: [u8; BLOCK as usize] = [0; BLOCK as usize];
        while self.position < end {
            let count = (end - self.position).min(BLOCK) as usize;
            self.write(ZEROS.get(..count).unwrap_or(&ZEROS))?;
        }
        Ok(())
    }
}
