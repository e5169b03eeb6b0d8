//! The on-disk format, as far as it is written here: structures of the kernel's `fs/erofs/erofs_fs.h`, whose names stand behind
//! ours. All numbers are little-endian.
//!
//! Inodes are extended ones only (64 bytes). Compact ones have half the size and no modification time of their own, so that
//! they could serve no entry of a layer but those made in the very second of the image.

/// Bytes of a block: the tar's own, so that content can stay where it lies in an archive.
pub(crate) const BLOCK: u64 = 512;
/// [`BLOCK`] as a power of two (`blkszbits`).
pub(crate) const BLOCK_BITS: u8 = 9;
const _: () = assert!(BLOCK == 1 << BLOCK_BITS);

/// Where the superblock stands in an image (`EROFS_SUPER_OFFSET`).
pub(crate) const SUPERBLOCK_OFFSET: u64 = 1024;
/// `EROFS_SUPER_MAGIC_V1`.
pub(crate) const MAGIC: u32 = 0xe0f5_e1e2;
/// Inodes have times of their own (`EROFS_FEATURE_COMPAT_MTIME`).
pub(crate) const COMPAT_MTIME: u32 = 0x2;
/// Some files have their content in chunks (`EROFS_FEATURE_INCOMPAT_CHUNKED_FILE`).
pub(crate) const INCOMPAT_CHUNKED_FILE: u32 = 0x4;
/// Content lies in other files too (`EROFS_FEATURE_INCOMPAT_DEVICE_TABLE`).
pub(crate) const INCOMPAT_DEVICE_TABLE: u32 = 0x8;
/// Where the device table starts, in slots (`devt_slotoff`): right behind the superblock.
pub(crate) const DEVICE_TABLE_SLOT: u16 = 9;
const _: () = assert!(DEVICE_TABLE_SLOT as u64 * DEVICE_SLOT as u64 == SUPERBLOCK_OFFSET + SUPERBLOCK as u64);

/// Bytes of the structures.
pub(crate) const SUPERBLOCK: usize = 128;
pub(crate) const DEVICE_SLOT: usize = 128;
pub(crate) const INODE: usize = 64;
pub(crate) const DIRENT: usize = 12;
pub(crate) const XATTR_HEADER: usize = 12;
pub(crate) const XATTR_ENTRY: usize = 4;
pub(crate) const CHUNK_INDEX: usize = 8;

/// Inodes start at multiples of this many bytes, and are numbered by them (`EROFS_ISLOTBITS`).
pub(crate) const INODE_SLOT: u64 = 32;

/// How an inode's content lies (`EROFS_INODE_*`): in one piece of blocks.
pub(crate) const LAYOUT_PLAIN: u16 = 0;
/// As [`LAYOUT_PLAIN`], but the last block, which is not full, stands behind the inode.
pub(crate) const LAYOUT_INLINE: u16 = 2;
/// In chunks, whose addresses stand behind the inode.
pub(crate) const LAYOUT_CHUNKS: u16 = 4;

/// In the inode of a file in chunks: each address is a [`ChunkIndex`] (`EROFS_CHUNK_FORMAT_INDEXES`).
pub(crate) const CHUNKS_WITH_DEVICES: u32 = 0x20;
/// The largest chunks, as a power of two in blocks (`EROFS_CHUNK_FORMAT_BLKBITS_MASK`).
pub(crate) const MAX_CHUNK_BITS: u8 = 31;

/// Prefixes that names of xattrs are written without (`EROFS_XATTR_INDEX_*`); those that are whole names come first.
pub(crate) const XATTR_PREFIXES: [(u8, &[u8]); 5] = [
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (1, b"user."),
    (4, b"trusted."),
    (6, b"security."),
];

/// How many chunks of 1 << `bits` blocks a file of `size` bytes has.
pub(crate) fn chunk_count(size: u64, bits: u8) -> u64 {
    size.div_ceil(BLOCK << bits)
}

/// Puts a field into a structure; that it lies in there is known when this is compiled.
fn put<const AT: usize, const SIZE: usize, const FIELD: usize>(bytes: &mut [u8; SIZE], field: [u8; FIELD]) {
    const { assert!(AT + FIELD <= SIZE) };
    bytes[AT..AT + FIELD].copy_from_slice(&field);
}

/// `struct erofs_super_block`. No checksum, no compression, no labels of the kind that this crate does not write.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Superblock {
    pub(crate) root_nid: u16,
    pub(crate) inodes: u64,
    /// Of the image's own file.
    pub(crate) blocks: u32,
    /// Where the counting of inodes starts.
    pub(crate) meta_block: u32,
    pub(crate) uuid: [u8; 16],
    pub(crate) incompat: u32,
    pub(crate) devices: u16,
}

/// `volume_name`.
pub(crate) const VOLUME_NAME: [u8; 16] = *b"layermount\0\0\0\0\0\0";

impl Superblock {
    pub(crate) fn to_bytes(self) -> [u8; SUPERBLOCK] {
        let mut bytes = [0; SUPERBLOCK];
        put::<0, _, _>(&mut bytes, MAGIC.to_le_bytes());
        put::<8, _, _>(&mut bytes, COMPAT_MTIME.to_le_bytes());
        put::<12, _, _>(&mut bytes, [BLOCK_BITS]);
        put::<14, _, _>(&mut bytes, self.root_nid.to_le_bytes());
        put::<16, _, _>(&mut bytes, self.inodes.to_le_bytes());
        put::<36, _, _>(&mut bytes, self.blocks.to_le_bytes());
        put::<40, _, _>(&mut bytes, self.meta_block.to_le_bytes());
        put::<48, _, _>(&mut bytes, self.uuid);
        put::<64, _, _>(&mut bytes, VOLUME_NAME);
        put::<80, _, _>(&mut bytes, self.incompat.to_le_bytes());
        put::<86, _, _>(&mut bytes, self.devices.to_le_bytes());
        if self.devices > 0 {
            put::<88, _, _>(&mut bytes, DEVICE_TABLE_SLOT.to_le_bytes());
        }
        bytes
    }
}

/// `struct erofs_deviceslot`, without a tag: the files are given at the mount.
#[derive(Debug)]
pub(crate) struct DeviceSlot {
    pub(crate) blocks: u32,
    /// Where its blocks would be if all files were one (`uniaddr`), or 0.
    pub(crate) unified_block: u32,
}

impl DeviceSlot {
    pub(crate) fn to_bytes(&self) -> [u8; DEVICE_SLOT] {
        let mut bytes = [0; DEVICE_SLOT];
        put::<64, _, _>(&mut bytes, self.blocks.to_le_bytes());
        put::<68, _, _>(&mut bytes, self.unified_block.to_le_bytes());
        bytes
    }
}

/// `struct erofs_inode_extended`.
#[derive(Debug)]
pub(crate) struct Inode {
    pub(crate) layout: u16,
    /// `i_xattr_icount`.
    pub(crate) xattr_count: u16,
    /// With the type of the file.
    pub(crate) mode: u16,
    pub(crate) size: u64,
    /// `i_u`: what it means depends on `layout` and on the type.
    pub(crate) union: u32,
    pub(crate) number: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: (i64, u32),
    pub(crate) links: u32,
}

impl Inode {
    pub(crate) fn to_bytes(&self) -> [u8; INODE] {
        const EXTENDED: u16 = 1;
        let mut bytes = [0; INODE];
        put::<0, _, _>(&mut bytes, (EXTENDED | self.layout << 1).to_le_bytes());
        put::<2, _, _>(&mut bytes, self.xattr_count.to_le_bytes());
        put::<4, _, _>(&mut bytes, self.mode.to_le_bytes());
        put::<8, _, _>(&mut bytes, self.size.to_le_bytes());
        put::<16, _, _>(&mut bytes, self.union.to_le_bytes());
        put::<20, _, _>(&mut bytes, self.number.to_le_bytes());
        put::<24, _, _>(&mut bytes, self.uid.to_le_bytes());
        put::<28, _, _>(&mut bytes, self.gid.to_le_bytes());
        put::<32, _, _>(&mut bytes, self.mtime.0.to_le_bytes());
        put::<40, _, _>(&mut bytes, self.mtime.1.to_le_bytes());
        put::<44, _, _>(&mut bytes, self.links.to_le_bytes());
        bytes
    }
}

/// The type of a file, in the inode's mode and in directories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileType {
    Regular,
    Directory,
    CharDevice,
    BlockDevice,
    Fifo,
    Symlink,
}

impl FileType {
    /// `S_IFMT` of `stat(2)`.
    pub(crate) fn mode(self) -> u16 {
        match self {
            Self::Fifo => 0o010_000,
            Self::CharDevice => 0o020_000,
            Self::Directory => 0o040_000,
            Self::BlockDevice => 0o060_000,
            Self::Regular => 0o100_000,
            Self::Symlink => 0o120_000,
        }
    }

    /// `EROFS_FT_*`.
    fn in_directory(self) -> u8 {
        match self {
            Self::Regular => 1,
            Self::Directory => 2,
            Self::CharDevice => 3,
            Self::BlockDevice => 4,
            Self::Fifo => 5,
            Self::Symlink => 7,
        }
    }
}

/// `struct erofs_dirent`.
#[derive(Debug)]
pub(crate) struct Dirent {
    pub(crate) nid: u64,
    /// Where the name starts in the block.
    pub(crate) name_offset: u16,
    pub(crate) file_type: FileType,
}

impl Dirent {
    pub(crate) fn to_bytes(&self) -> [u8; DIRENT] {
        let mut bytes = [0; DIRENT];
        put::<0, _, _>(&mut bytes, self.nid.to_le_bytes());
        put::<8, _, _>(&mut bytes, self.name_offset.to_le_bytes());
        put::<10, _, _>(&mut bytes, [self.file_type.in_directory()]);
        bytes
    }
}

/// `struct erofs_xattr_ibody_header` where no xattrs are shared and names have no filter.
pub(crate) const XATTR_HEADER_BYTES: [u8; XATTR_HEADER] = [0; XATTR_HEADER];

/// `struct erofs_xattr_entry`; the rest of the name and the value follow.
#[derive(Debug)]
pub(crate) struct XattrEntry {
    pub(crate) name_length: u8,
    /// Of [`XATTR_PREFIXES`].
    pub(crate) prefix: u8,
    pub(crate) value_length: u16,
}

impl XattrEntry {
    pub(crate) fn to_bytes(&self) -> [u8; XATTR_ENTRY] {
        let mut bytes = [0; XATTR_ENTRY];
        put::<0, _, _>(&mut bytes, [self.name_length, self.prefix]);
        put::<2, _, _>(&mut bytes, self.value_length.to_le_bytes());
        bytes
    }
}

/// `struct erofs_inode_chunk_index`. A block of all ones is a hole.
#[derive(Debug)]
pub(crate) struct ChunkIndex {
    pub(crate) device: u16,
    pub(crate) block: u32,
}

impl ChunkIndex {
    pub(crate) fn to_bytes(&self) -> [u8; CHUNK_INDEX] {
        let mut bytes = [0; CHUNK_INDEX];
        put::<2, _, _>(&mut bytes, self.device.to_le_bytes());
        put::<4, _, _>(&mut bytes, self.block.to_le_bytes());
        bytes
    }
}
