//! Inodes and their xattrs.

use std::collections::BTreeMap;

use super::fields::{Fields, range};
use super::{Kind, Reader, Wrong, check};

/// An inode's own 64 bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct RawInode {
    pub(super) nid: u64,
    /// Where it stands in the image.
    pub(super) start: u64,
    pub(super) layout: u16,
    pub(super) xattr_count: u16,
    pub(super) mode: u16,
    pub(super) size: u64,
    pub(super) union: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: (i64, u32),
    pub(super) links: u32,
}

impl RawInode {
    pub(super) fn kind(&self) -> u16 {
        self.mode & 0o170_000
    }

    fn xattr_bytes(&self) -> u64 {
        match self.xattr_count {
            0 => 0,
            count => 12 + 4 * (u64::from(count) - 1),
        }
    }

    /// What stands behind it and its xattrs.
    pub(super) fn behind(&self) -> u64 {
        self.start + 64 + self.xattr_bytes()
    }
}

impl Reader<'_> {
    pub(super) fn read_inode(&mut self, nid: u64) -> Result<RawInode, Wrong> {
        let offset = nid.checked_mul(32).and_then(|offset| offset.checked_add(self.superblock.meta_start));
        let start = offset.ok_or(Wrong("an inode behind all addresses"))?;
        check(nid > 0, "an inode has the number of deleted ones")?;
        let fields = Fields::new(self.bytes, start, 64)?;
        let format = fields.u16(0);
        check(format & 1 == 1, "a compact inode")?;
        check(fields.u16(6) == 0 && fields.bytes(48, 16).iter().all(|byte| *byte == 0), "reserved fields of an inode")?;
        check(u64::from(fields.u32(20)) == nid, "number of an inode")?;
        let raw = RawInode {
            nid,
            start,
            layout: format >> 1,
            xattr_count: fields.u16(2),
            mode: fields.u16(4),
            size: fields.u64(8),
            union: fields.u32(16),
            uid: fields.u32(24),
            gid: fields.u32(28),
            mtime: (fields.u64(32).cast_signed(), fields.u32(40)),
            links: fields.u32(44),
        };
        check(raw.mtime.1 < 1_000_000_000, "nanoseconds")?;
        check(i64::try_from(raw.size).is_ok(), "size of a file")?;
        self.claims.claim(start, 64 + raw.xattr_bytes())?;
        Ok(raw)
    }

    /// Reads what kind of thing an inode is, with its content unless it is a directory.
    pub(super) fn read_kind(&mut self, raw: &RawInode) -> Result<Kind, Wrong> {
        let device = ((raw.union >> 8) & 0xfff, (raw.union & 0xff) | ((raw.union >> 12) & 0xf_ff00));
        let plain = raw.layout == 0 && raw.size == 0;
        Ok(match raw.kind() {
            0o040_000 => Kind::Directory,
            0o100_000 => Kind::File { size: raw.size, extents: self.read_extents(raw)? },
            0o120_000 => {
                check((1..=4095).contains(&raw.size), "length of a symlink")?;
                let target = self.read_written(raw)?;
                check(!target.contains(&0), "a symlink's target has a NUL")?;
                Kind::Symlink(target)
            }
            0o020_000 if plain => Kind::CharDevice { major: device.0, minor: device.1 },
            0o060_000 if plain => Kind::BlockDevice { major: device.0, minor: device.1 },
            0o010_000 if plain && raw.union == 0 => Kind::Fifo,
            _ => return Err(Wrong("type of an inode")),
        })
    }

    pub(super) fn read_xattrs(&self, raw: &RawInode) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Wrong> {
        let mut xattrs = BTreeMap::new();
        check(raw.xattr_count != 1, "xattrs of which there are none")?;
        if raw.xattr_count == 0 {
            return Ok(xattrs);
        }
        let body = range(self.bytes, raw.start + 64, raw.xattr_bytes())?;
        let (header, mut rest) = body.split_at_checked(12).ok_or(Wrong("header of xattrs"))?;
        check(header.iter().all(|byte| *byte == 0), "header of xattrs")?;
        while !rest.is_empty() {
            let fields = Fields::new(rest, 0, 4)?;
            let (name_length, value_length) = (u64::from(fields.u8(0)), u64::from(fields.u16(2)));
            let prefix: &[u8] = match fields.u8(1) {
                1 => b"user.",
                2 => b"system.posix_acl_access",
                3 => b"system.posix_acl_default",
                4 => b"trusted.",
                6 => b"security.",
                _ => return Err(Wrong("prefix of an xattr")),
            };
            let name = [prefix, range(rest, 4, name_length)?].concat();
            check(!matches!(fields.u8(1), 2 | 3) || name_length == 0, "name of an ACL")?;
            check(name.len() <= 255 && !name.contains(&0), "name of an xattr")?;
            let value = range(rest, 4 + name_length, value_length)?;
            check(xattrs.insert(name, value.to_vec()).is_none(), "an xattr stands twice")?;
            let used = 4 + name_length + value_length;
            let length = used.next_multiple_of(4);
            check(range(rest, used, length - used)?.iter().all(|byte| *byte == 0), "padding of an xattr")?;
            rest = rest.get(length as usize..).unwrap_or_default();
        }
        Ok(xattrs)
    }
}
