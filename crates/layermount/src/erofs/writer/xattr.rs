//! The xattrs of an inode, which stand behind it.
//!
//! None are shared between inodes: few files of an image have any, and of those hardly two the same.

use std::io;

use super::Output;
use crate::erofs::format::{XATTR_ENTRY, XATTR_HEADER, XATTR_HEADER_BYTES, XATTR_PREFIXES, XattrEntry};
use crate::erofs::tree::{Inode, Tree, What};

/// `XATTR_NAME_MAX`.
const MAX_NAME: usize = 255;

/// Those of an inode, and the mark that overlayfs looks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Xattrs<'t> {
    set: &'t [(Vec<u8>, Vec<u8>)],
    mark: Option<(&'static [u8], &'static [u8])>,
}

impl<'t> Xattrs<'t> {
    pub(super) fn new(tree: &'t Tree, inode: &Inode, is_root: bool) -> Self {
        let mark: Option<(&[u8], &[u8])> = match inode.what {
            // Overlayfs does not ask whether the root of a layer is opaque; whoever stacks layers leaves those below out.
            What::Directory(directory) if directory.opaque && !is_root => Some((b"trusted.overlay.opaque", b"y")),
            // So that whiteouts do not show where only one layer has the directory: see `mark_whiteouts` of the unpacker.
            What::Directory(directory) if directory.whiteouts => Some((b"trusted.overlay.origin", b"")),
            _ => None,
        };
        Self { set: tree.xattrs(inode.metadata.xattrs), mark }
    }

    fn iter(&self) -> impl Iterator<Item = (&'t [u8], &'t [u8])> {
        self.set.iter().map(|(name, value)| (name.as_slice(), value.as_slice())).chain(self.mark)
    }

    /// How many bytes they take behind the inode; or why EROFS cannot hold them.
    pub(super) fn bytes(&self) -> Result<u32, &'static str> {
        if self.set.is_empty() && self.mark.is_none() {
            return Ok(0);
        }
        let mut bytes = XATTR_HEADER;
        for (name, value) in self.iter() {
            let (_, rest) = split(name).ok_or("an xattr's name has a prefix that EROFS does not have")?;
            if name.len() > MAX_NAME {
                return Err("an xattr's name has more than 255 bytes");
            }
            if value.len() > u16::MAX.into() {
                return Err("an xattr has more than 65535 bytes");
            }
            bytes += (XATTR_ENTRY + rest.len() + value.len()).next_multiple_of(4);
        }
        if count(bytes as u64) > u16::MAX.into() {
            return Err("its xattrs have more than 256 KiB");
        }
        Ok(bytes as u32)
    }

    pub(super) fn write(&self, out: &mut Output<'_>) -> io::Result<()> {
        if self.set.is_empty() && self.mark.is_none() {
            return Ok(());
        }
        out.write(&XATTR_HEADER_BYTES)?;
        for (name, value) in self.iter() {
            let (prefix, rest) = split(name).unwrap_or((0, name));
            // `bytes` looked at the lengths before.
            let entry = XattrEntry { name_length: rest.len() as u8, prefix, value_length: value.len() as u16 };
            out.write(&entry.to_bytes())?;
            out.write(rest)?;
            out.write(value)?;
            out.align(4)?;
        }
        Ok(())
    }
}

/// `i_xattr_icount` for this many bytes. The kernel takes none, but not a header alone.
pub(super) fn count(bytes: u64) -> u64 {
    match bytes.checked_sub(XATTR_HEADER as u64) {
        Some(entries) => entries / 4 + 1,
        None => 0,
    }
}

/// A name as the number of its prefix and what follows that.
fn split(name: &[u8]) -> Option<(u8, &[u8])> {
    XATTR_PREFIXES.iter().find_map(|(prefix, text)| {
        let rest = name.strip_prefix(*text)?;
        // The others are whole names.
        (text.ends_with(b".") || rest.is_empty()).then_some((*prefix, rest))
    })
}
