//! [`Tree`]: what an EROFS image says, before it is bytes: names, inodes, and where the content of files lies.
//!
//! One layer's tree speaks of the layer alone and may have whiteouts, opaque directories and ends that only the layers below can
//! tell. The tree of a whole image has none of these. Both are written by the same [writer](super::writer).
//!
//! Made to be small, because those of all layers of an image stay in memory until they are merged: about 100 bytes an entry.

use crate::layer::{Device, memory_of_xattrs};

/// Where an inode stands in [`Tree::inodes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct InodeId(u32);

impl InodeId {
    /// The root directory.
    pub(crate) const ROOT: Self = Self(0);

    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// Bytes kept in a [`Tree`]: a name, or a symlink's target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Text {
    start: u32,
    // A symlink's target has at most 4095.
    length: u16,
}

/// One of the distinct sets of xattrs of a [`Tree`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct XattrsId(u32);

impl XattrsId {
    /// No xattrs.
    pub(crate) const NONE: Self = Self(0);
}

/// Names as they are set (`user.a`, `system.posix_acl_access`) with their values, in the archive's order.
pub(crate) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// Owner, mode, time and xattrs of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Metadata {
    /// Permission bits with set-user-ID, set-group-ID and sticky.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since 1970, and nanoseconds that count upwards from there.
    pub(crate) mtime: (i64, u32),
    pub(crate) xattrs: XattrsId,
}

impl Metadata {
    /// Those of a directory of which no layer says anything: as [the unpacker](crate::unpack) makes them.
    pub(crate) const IMPLIED: Self = Self { mode: 0o755, uid: 0, gid: 0, mtime: (0, 0), xattrs: XattrsId::NONE };
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Inode {
    pub(crate) metadata: Metadata,
    pub(crate) what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Directory(Directory),
    File { size: u64, data: Data },
    Symlink(Text),
    CharDevice(Device),
    BlockDevice(Device),
    Fifo,
}

/// A directory: which of [`Tree::entries`] lie in it, and what a layer says of it to those below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Directory {
    pub(crate) start: u32,
    pub(crate) end: u32,
    /// What the layers below have in it does not show.
    pub(crate) opaque: bool,
    /// Some of its entries are whiteouts.
    pub(crate) whiteouts: bool,
    pub(crate) named: Named,
}

/// Whose attributes a directory has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Named {
    /// Its own: an entry names it, or nothing below could.
    Here,
    /// Those of the same directory in the layers below, if there is one; otherwise [`Metadata::IMPLIED`].
    Below {
        /// It holds whiteouts alone, so that it is not there at all if it is not below.
        only_whiteouts: bool,
    },
}

/// Which file holds a file's bytes: 0 is the image file itself, others are counted as in EROFS's device table.
pub(crate) type DeviceId = u16;

/// Where the content of a file lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Data {
    /// In one piece, from this block on (of [`BLOCK`](super::format::BLOCK) bytes). A file without bytes has any block.
    Plain { device: DeviceId, block: u32 },
    /// In chunks of 1 << `bits` blocks, whose first blocks are [`Tree::chunks`] from `first` on.
    Chunks { device: DeviceId, bits: u8, first: u32 },
}

/// A chunk that is nothing but zeros, and lies nowhere.
pub(crate) const HOLE: u32 = u32::MAX;

/// A name in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: Text,
    pub(crate) child: Child,
}

/// What stands behind a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Child {
    Inode(InodeId),
    /// The layers below have this name in vain.
    Whiteout,
    /// A hard link to this path of the layers below: components joined by `/`, which may be `..` behind lower symlinks.
    Below(Text),
}

/// A tree of inodes. Complete in itself as soon as [`Tree::add_entries`] was called for every directory.
#[derive(Debug, Default)]
#[cfg_attr(any(test, fuzzing), derive(PartialEq))]
pub(crate) struct Tree {
    texts: Vec<u8>,
    entries: Vec<Entry>,
    inodes: Vec<Inode>,
    /// Set 0, the empty one, is left out.
    xattrs: Vec<Xattrs>,
    chunks: Vec<u32>,
}

/// More than a tree can hold: 2^32 of something, or 4 GiB of names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

fn id(length: usize) -> Result<u32, Full> {
    u32::try_from(length).map_err(|_| Full)
}

impl Tree {
    /// What the tree takes in memory, roughly.
    pub(crate) fn memory(&self) -> u64 {
        let xattrs = self.xattrs.iter().map(|set| memory_of_xattrs(set)).sum::<usize>();
        let bytes = self.texts.len()
            + size_of_val(self.entries.as_slice())
            + size_of_val(self.inodes.as_slice())
            + size_of_val(self.chunks.as_slice())
            + xattrs;
        bytes as u64
    }

    pub(crate) fn inode(&self, id: InodeId) -> Option<&Inode> {
        self.inodes.get(id.index())
    }

    /// All inodes, in the order of their ids.
    pub(crate) fn inodes(&self) -> &[Inode] {
        &self.inodes
    }

    /// The ids of all inodes. There are no more than ids.
    pub(crate) fn ids(&self) -> impl Iterator<Item = InodeId> + use<> {
        (0..self.inodes.len() as u32).map(InodeId)
    }

    /// The inode as a directory, if it is one.
    pub(crate) fn directory(&self, id: InodeId) -> Option<&Directory> {
        match self.inode(id) {
            Some(Inode { what: What::Directory(directory), .. }) => Some(directory),
            _ => None,
        }
    }

    /// The entries of a directory, sorted by the bytes of their names.
    pub(crate) fn entries(&self, directory: &Directory) -> &[Entry] {
        self.entries.get(directory.start as usize..directory.end as usize).unwrap_or_default()
    }

    pub(crate) fn text(&self, text: Text) -> &[u8] {
        let start = text.start as usize;
        self.texts.get(start..start + usize::from(text.length)).unwrap_or_default()
    }

    pub(crate) fn xattrs(&self, id: XattrsId) -> &[(Vec<u8>, Vec<u8>)] {
        let index = (id.0 as usize).checked_sub(1);
        index.and_then(|index| self.xattrs.get(index)).map_or(&[], Vec::as_slice)
    }

    /// The first blocks of the chunks of a file of `size` bytes.
    pub(crate) fn chunks(&self, size: u64, bits: u8, first: u32) -> &[u32] {
        let first = first as usize;
        let count = usize::try_from(super::format::chunk_count(size, bits)).unwrap_or(usize::MAX);
        self.chunks.get(first..first.saturating_add(count)).unwrap_or_default()
    }

    pub(crate) fn add_text(&mut self, text: &[u8]) -> Result<Text, Full> {
        let (start, length) = (id(self.texts.len())?, u16::try_from(text.len()).map_err(|_| Full)?);
        self.texts.extend_from_slice(text);
        Ok(Text { start, length })
    }

    /// Adds a set of xattrs that is none of those before.
    pub(crate) fn add_xattrs(&mut self, xattrs: Xattrs) -> Result<XattrsId, Full> {
        if xattrs.is_empty() {
            return Ok(XattrsId::NONE);
        }
        self.xattrs.push(xattrs);
        id(self.xattrs.len()).map(XattrsId)
    }

    /// Adds the first blocks of a file's chunks; answers where they start.
    pub(crate) fn add_chunks(&mut self, blocks: impl IntoIterator<Item = u32>) -> Result<u32, Full> {
        let first = id(self.chunks.len())?;
        self.chunks.extend(blocks);
        Ok(first)
    }

    /// Adds an inode; the first one is the root. A directory has no entries yet.
    pub(crate) fn add_inode(&mut self, inode: Inode) -> Result<InodeId, Full> {
        let id = id(self.inodes.len()).map(InodeId)?;
        self.inodes.push(inode);
        Ok(id)
    }

    pub(crate) fn inodes_mut(&mut self) -> &mut [Inode] {
        &mut self.inodes
    }

    pub(crate) fn inode_mut(&mut self, id: InodeId) -> Option<&mut Inode> {
        self.inodes.get_mut(id.index())
    }

    /// Gives a directory its entries, all at once; they are sorted here. No name may stand twice.
    pub(crate) fn add_entries(&mut self, directory: InodeId, mut entries: Vec<Entry>) -> Result<(), Full> {
        entries.sort_unstable_by(|a, b| self.text(a.name).cmp(self.text(b.name)));
        let (new_start, new_end) = (id(self.entries.len())?, id(self.entries.len() + entries.len())?);
        let holds_whiteouts = entries.iter().any(|entry| entry.child == Child::Whiteout);
        if let Some(Inode { what: What::Directory(directory), .. }) = self.inode_mut(directory) {
            directory.start = new_start;
            directory.end = new_end;
            directory.whiteouts = holds_whiteouts;
        }
        self.entries.extend(entries);
        Ok(())
    }
}

impl Directory {
    /// A directory that has no entries yet.
    pub(crate) fn new(named: Named, opaque: bool) -> Self {
        Self { start: 0, end: 0, opaque, whiteouts: false, named }
    }
}
