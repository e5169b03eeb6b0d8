//! Content: of directories and symlinks, which lies in the metadata, and of files, which lies elsewhere.

use super::fields::{Fields, range};
use super::inode::RawInode;
use super::{Extent, Place, Reader, Wrong, check, push_extent};

impl Reader<'_> {
    /// Reads the content of a directory or symlink.
    pub(super) fn read_written(&mut self, raw: &RawInode) -> Result<Vec<u8>, Wrong> {
        let (whole, tail) = match raw.layout {
            0 => (raw.size, 0),
            2 => (raw.size / 512 * 512, raw.size % 512),
            _ => return Err(Wrong("layout of a directory or symlink")),
        };
        check(raw.layout == 0 || tail > 0, "nothing stands behind an inode")?;
        check(whole > 0 || raw.union == 0, "address of nothing")?;
        let start = u64::from(raw.union) * 512;
        let mut content = Vec::new();
        if whole > 0 {
            self.claims.claim(start, whole)?;
            content.extend_from_slice(range(self.bytes, start, whole)?);
        }
        if tail > 0 {
            let behind = raw.behind();
            check(behind % 512 + tail <= 512, "what stands behind an inode crosses blocks")?;
            self.claims.claim(behind, tail)?;
            content.extend_from_slice(range(self.bytes, behind, tail)?);
        }
        Ok(content)
    }

    /// Reads where the content of a file lies.
    pub(super) fn read_extents(&mut self, raw: &RawInode) -> Result<Vec<Extent>, Wrong> {
        let mut extents = Vec::new();
        let blocks = raw.size.div_ceil(512);
        if raw.layout == 0 {
            if blocks == 0 {
                check(raw.union == 0, "address of nothing")?;
                return Ok(extents);
            }
            let place = Place::At { device: 0, block: raw.union };
            self.check_extent(place, blocks)?;
            push_extent(&mut extents, place, blocks);
            return Ok(extents);
        }
        check(raw.layout == 4, "layout of a file")?;
        check(blocks > 0, "chunks of nothing")?;
        check(raw.union & !0x3f == 0 && raw.union & 0x20 != 0, "format of chunks")?;
        self.has_chunks = true;
        let chunk = 1_u64 << (raw.union & 0x1f);
        let start = raw.behind().next_multiple_of(8);
        let count = blocks.div_ceil(chunk);
        let length = count.checked_mul(8).ok_or(Wrong("too many chunks"))?;
        self.claims.claim(start, length)?;
        let index = range(self.bytes, start, length)?;
        let (mut left, mut used) = (blocks, None);
        for entry in index.chunks_exact(8) {
            let fields = Fields::new(entry, 0, 8)?;
            check(fields.u16(0) == 0, "reserved field of a chunk")?;
            let (device, block) = (fields.u16(2), fields.u32(4));
            check(usize::from(device) <= self.devices.len(), "device of a chunk")?;
            check(block != u32::MAX || device == 0, "device of a hole")?;
            check(block == u32::MAX || *used.get_or_insert(device) == device, "a file lies on two devices")?;
            let place = if block == u32::MAX { Place::Hole } else { Place::At { device, block } };
            let blocks = left.min(chunk);
            self.check_extent(place, blocks)?;
            push_extent(&mut extents, place, blocks);
            left -= blocks;
        }
        Ok(extents)
    }

    /// Whether blocks exist; that those in the image's file are not metadata is seen at the end.
    fn check_extent(&mut self, place: Place, blocks: u64) -> Result<(), Wrong> {
        let Place::At { device, block } = place else { return Ok(()) };
        let start = u64::from(block) * 512;
        let end = u64::from(block).saturating_add(blocks).saturating_mul(512);
        let length = match usize::from(device).checked_sub(1) {
            None => {
                let behind_front = 1024 + 128 + 128 * self.devices.len() as u64;
                check(start >= behind_front, "a file lies in front")?;
                self.own_extents.push(start..end);
                self.bytes.len() as u64
            }
            Some(index) => self.devices.get(index).copied().ok_or(Wrong("no such device"))?,
        };
        check(end <= length.next_multiple_of(512), "a file lies behind the end")
    }
}
