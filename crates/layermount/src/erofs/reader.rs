//! Reads images back, to check [what was written](super::writer): takes nothing that the format's rules do not demand or that
//! this crate does not write, and shares no code with the writer but names of constants.
//!
//! For tests and fuzzing only; the kernel reads images otherwise. Answers an error for whatever bytes it is given, in time and
//! memory about proportional to them: nothing is read twice, since all that is read must be [claimed](claims::Claims) first.

mod claims;
mod content;
mod directory;
mod fields;
mod inode;

use std::collections::{BTreeMap, HashMap};

use super::format;
use claims::Claims;
use fields::Fields;
use inode::RawInode;

/// What an image says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) inodes: Vec<Inode>,
    /// Starts with the root, which has no name and lies in itself. Each directory stands before what lies in it.
    pub(crate) names: Vec<Name>,
}

/// A name in a directory.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Name {
    /// Which of [`Image::names`] is the directory.
    pub(crate) directory: usize,
    pub(crate) name: Vec<u8>,
    /// Which of [`Image::inodes`] it leads to.
    pub(crate) inode: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Inode {
    pub(crate) nid: u64,
    pub(crate) kind: Kind,
    /// Permission bits.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: (i64, u32),
    pub(crate) links: u32,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    File { size: u64, extents: Vec<Extent> },
    Symlink(Vec<u8>),
    CharDevice { major: u32, minor: u32 },
    BlockDevice { major: u32, minor: u32 },
    Fifo,
}

/// Blocks behind one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) place: Place,
    pub(crate) blocks: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Hole,
    At { device: u16, block: u32 },
}

/// Adds blocks to a list, to the last piece of it if they go on where that ends.
pub(crate) fn push_extent(extents: &mut Vec<Extent>, place: Place, blocks: u64) {
    if let Some(last) = extents.last_mut() {
        let goes_on = match (last.place, place) {
            (Place::Hole, Place::Hole) => true,
            (Place::At { device: a, block: before }, Place::At { device: b, block: behind }) => {
                a == b && u64::from(before) + last.blocks == u64::from(behind)
            }
            _ => false,
        };
        if goes_on {
            last.blocks += blocks;
            return;
        }
    }
    extents.push(Extent { place, blocks });
}

/// What is wrong with an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wrong(pub(crate) &'static str);

fn check(holds: bool, otherwise: &'static str) -> Result<(), Wrong> {
    if holds { Ok(()) } else { Err(Wrong(otherwise)) }
}

/// Reads an image whose other files have `devices` bytes.
pub(crate) fn read(bytes: &[u8], devices: &[u64]) -> Result<Image, Wrong> {
    let superblock = read_superblock(bytes, devices)?;
    let front = format::SUPERBLOCK_OFFSET + 128 + 128 * devices.len() as u64;
    check(superblock.meta_start >= front, "inodes lie in front")?;
    let mut reader = Reader {
        bytes,
        devices,
        claims: Claims::new(superblock.meta_start..bytes.len() as u64),
        superblock,
        found: HashMap::new(),
        inodes: Vec::new(),
        has_chunks: false,
        own_extents: Vec::new(),
    };
    let names = reader.walk()?;
    reader.finish()?;
    Ok(Image { inodes: reader.inodes, names })
}

#[derive(Debug)]
struct Superblock {
    root: u64,
    inodes: u64,
    chunks: bool,
    meta_start: u64,
}

fn read_superblock(bytes: &[u8], devices: &[u64]) -> Result<Superblock, Wrong> {
    check(bytes.len().is_multiple_of(4096), "its length is none of pages")?;
    let fields = Fields::new(bytes, format::SUPERBLOCK_OFFSET, 128)?;
    check(fields.u32(0) == 0xe0f5_e1e2, "magic")?;
    check(fields.u32(4) == 0, "checksum")?;
    check(fields.u32(8) == format::COMPAT_MTIME, "compatible features")?;
    check(fields.u8(12) == 9, "size of blocks")?;
    check(fields.u8(13) == 0, "extension slots")?;
    check(fields.u64(24) == 0 && fields.u32(32) == 0, "epoch")?;
    check(u64::from(fields.u32(36)) * 512 == bytes.len() as u64, "number of blocks")?;
    check(fields.u32(44) == 0, "address of shared xattrs")?;
    check(fields.bytes(64, 16) == b"layermount\0\0\0\0\0\0", "volume name")?;
    let incompat = fields.u32(80);
    let known = format::INCOMPAT_CHUNKED_FILE | format::INCOMPAT_DEVICE_TABLE;
    check(incompat & !known == 0, "unknown features")?;
    check(fields.u16(84) == 0, "compression")?;
    let count = usize::from(fields.u16(86));
    check(count == devices.len(), "number of devices")?;
    let has_table = incompat & format::INCOMPAT_DEVICE_TABLE != 0;
    check(has_table == (count > 0), "device table without devices, or the other way around")?;
    check(fields.u16(88) == if has_table { 9 } else { 0 }, "place of the device table")?;
    check(fields.bytes(90, 38).iter().all(|byte| *byte == 0), "rest of the superblock")?;

    let mut next = bytes.len() as u64 / 512;
    for (slot, length) in devices.iter().enumerate() {
        let fields = Fields::new(bytes, (9 + slot as u64) * 128, 128)?;
        check(fields.bytes(0, 64).iter().all(|byte| *byte == 0), "tag of a device")?;
        let blocks = u64::from(fields.u32(64));
        check(length.div_ceil(512) == blocks, "blocks of a device")?;
        let fits = next + blocks <= u64::from(u32::MAX);
        check(u64::from(fields.u32(68)) == if fits { next } else { 0 }, "address of a device in the whole")?;
        check(fields.bytes(72, 56).iter().all(|byte| *byte == 0), "rest of a device's slot")?;
        next += blocks;
    }
    Ok(Superblock {
        root: fields.u16(14).into(),
        inodes: fields.u64(16),
        chunks: incompat & format::INCOMPAT_CHUNKED_FILE != 0,
        meta_start: u64::from(fields.u32(40)) * 512,
    })
}

struct Reader<'a> {
    bytes: &'a [u8],
    devices: &'a [u64],
    superblock: Superblock,
    claims: Claims,
    /// Inodes by their nids.
    found: HashMap<u64, usize>,
    inodes: Vec<Inode>,
    has_chunks: bool,
    /// Bytes of files in the image's own file.
    own_extents: Vec<std::ops::Range<u64>>,
}

impl Reader<'_> {
    fn walk(&mut self) -> Result<Vec<Name>, Wrong> {
        let root = self.read_inode(self.superblock.root)?;
        check(root.kind() == 0o040_000, "the root is no directory")?;
        let mut pending = vec![(0, root)];
        let mut names = vec![Name { directory: 0, name: Vec::new(), inode: self.add(root)? }];
        // Names that lead to each inode, and directories in it.
        let mut counted: Vec<(u32, u32)> = vec![(1, 0)];
        while let Some((here, raw)) = pending.pop() {
            let parent = names.get(here).and_then(|name| names.get(name.directory)).map(|parent| parent.inode);
            let parent = parent.and_then(|parent| self.inodes.get(parent)).map(|parent| parent.nid);
            let parent = parent.ok_or(Wrong("no parent"))?;
            let (mut itself, mut up) = (0, 0);
            for entry in self.read_directory(&raw)? {
                let file_type = match entry.name.as_slice() {
                    b"." => {
                        itself += 1;
                        check(entry.nid == raw.nid, "`.` is another directory")?;
                        2
                    }
                    b".." => {
                        up += 1;
                        check(entry.nid == parent, "`..` is not the parent")?;
                        2
                    }
                    _ => self.enter(here, &entry, &mut names, &mut counted, &mut pending)?,
                };
                check(entry.file_type == file_type, "type in a directory")?;
            }
            check((itself, up) == (1, 1), "`.` or `..` is missing")?;
        }
        for (inode, (names, directories)) in self.inodes.iter().zip(counted) {
            let links = if inode.kind == Kind::Directory { directories + 2 } else { names };
            check(inode.links == links, "number of links")?;
        }
        Ok(names)
    }

    /// Goes from a name to its inode; answers which type it has in directories.
    fn enter(
        &mut self,
        here: usize,
        entry: &directory::Entry,
        names: &mut Vec<Name>,
        counted: &mut Vec<(u32, u32)>,
        pending: &mut Vec<(usize, RawInode)>,
    ) -> Result<u8, Wrong> {
        let known = self.found.get(&entry.nid).copied();
        let index = match known {
            Some(index) => {
                let is_directory = self.inodes.get(index).is_some_and(|inode| inode.kind == Kind::Directory);
                check(!is_directory, "a directory has two names")?;
                index
            }
            None => {
                let raw = self.read_inode(entry.nid)?;
                let index = self.add(raw)?;
                counted.push((0, 0));
                if raw.kind() == 0o040_000 {
                    pending.push((names.len(), raw));
                    let directory = names.get(here).and_then(|name| counted.get_mut(name.inode));
                    directory.ok_or(Wrong("no directory"))?.1 += 1;
                }
                index
            }
        };
        counted.get_mut(index).ok_or(Wrong("no inode"))?.0 += 1;
        names.push(Name { directory: here, name: entry.name.clone(), inode: index });
        let kind = self.inodes.get(index).map(|inode| &inode.kind);
        Ok(match kind {
            Some(Kind::File { .. }) => 1,
            Some(Kind::Directory) => 2,
            Some(Kind::CharDevice { .. }) => 3,
            Some(Kind::BlockDevice { .. }) => 4,
            Some(Kind::Fifo) => 5,
            Some(Kind::Symlink(_)) => 7,
            None => 0,
        })
    }

    /// Keeps an inode that is seen for the first time.
    fn add(&mut self, raw: RawInode) -> Result<usize, Wrong> {
        let xattrs = self.read_xattrs(&raw)?;
        let kind = self.read_kind(&raw)?;
        let index = self.inodes.len();
        self.found.insert(raw.nid, index);
        let RawInode { nid, mode, uid, gid, mtime, links, .. } = raw;
        self.inodes.push(Inode { nid, kind, mode: mode & 0o7777, uid, gid, mtime, links, xattrs });
        Ok(index)
    }

    fn finish(&self) -> Result<(), Wrong> {
        check(self.superblock.inodes == self.inodes.len() as u64, "number of inodes")?;
        check(self.superblock.chunks == self.has_chunks, "feature of files in chunks")?;
        for extent in &self.own_extents {
            check(self.claims.leave_free(extent), "a file lies in the metadata")?;
        }
        for gap in self.claims.gaps() {
            let bytes = fields::range(self.bytes, gap.start, gap.end - gap.start)?;
            check(bytes.iter().all(|byte| *byte == 0), "bytes between the metadata")?;
        }
        Ok(())
    }
}
