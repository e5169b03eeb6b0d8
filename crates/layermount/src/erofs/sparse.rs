//! Files with holes.
//!
//! An archive has the data of such a file without the holes, at any offsets; EROFS finds data by chunks of a power of two blocks.
//! So the chunks in which data lies are laid out again behind the archive, and the rest are holes. What is written is no more
//! than the data, because the chunks' own gaps are holes of the image's file.

use super::file::Copy;
use super::format::{BLOCK, MAX_CHUNK_BITS, chunk_count};
use super::tree::{Data, Full, HOLE, Inode, InodeId, Tree, What};
use crate::layer::Region;

/// A file with holes of a layer, as its archive has it.
#[derive(Debug)]
pub(super) struct Sparse {
    pub(super) inode: InodeId,
    pub(super) size: u64,
    /// Ascending and disjoint.
    pub(super) regions: Vec<Region>,
    /// Where in the layer's file the data of the regions lies, one behind the other.
    pub(super) data: u64,
}

/// As small as a page, so that no page of the file is made of two chunks.
const SMALLEST: u8 = 3;

/// More than this makes chunks larger instead: an index of 128 KiB for a file that may be nothing but a hole.
const CHUNKS: u64 = 16 << 10;

/// How large chunks of a file of this size are.
fn chunk_bits(size: u64) -> Result<u8, Full> {
    (SMALLEST..=MAX_CHUNK_BITS).find(|bits| chunk_count(size, *bits) <= CHUNKS).ok_or(Full)
}

impl Sparse {
    /// What it takes in memory until the layer's end.
    pub(super) fn kept_bytes(&self) -> Result<u64, Full> {
        let chunks = chunk_count(self.size, chunk_bits(self.size)?);
        Ok(chunks * size_of::<u32>() as u64 + (self.regions.len() * size_of::<Region>()) as u64)
    }
}

/// Gives the inodes of `files` their chunks, laid out from block `next` on. Returns what is to be copied for that, and the first
/// block behind.
pub(super) fn place(tree: &mut Tree, files: &[Sparse], mut next: u64) -> Result<(Vec<Copy>, u64), Full> {
    let mut copies = Vec::new();
    for Sparse { inode, size, regions, data } in files {
        let bits = chunk_bits(*size)?;
        let count = usize::try_from(chunk_count(*size, bits)).map_err(|_| Full)?;
        let (mut chunks, mut from) = (vec![HOLE; count], *data);
        let chunk = BLOCK << bits;
        for Region { offset, length } in regions {
            let (mut at, end) = (*offset, offset + length);
            while at < end {
                let place = chunks.get_mut(usize::try_from(at / chunk).map_err(|_| Full)?).ok_or(Full)?;
                if *place == HOLE {
                    *place = u32::try_from(next).ok().filter(|block| *block != HOLE).ok_or(Full)?;
                    next += 1 << bits;
                }
                let length = (chunk - at % chunk).min(end - at);
                copies.push(Copy { from, to: u64::from(*place) * BLOCK + at % chunk, length });
                (at, from) = (at + length, from + length);
            }
        }
        let first = tree.add_chunks(chunks)?;
        if let Some(Inode { what: What::File { data, .. }, .. }) = tree.inode_mut(*inode) {
            *data = Data::Chunks { device: 0, bits, first };
        }
    }
    Ok((copies, next))
}

#[cfg(test)]
mod tests {
    use super::super::tree::Metadata;
    use super::*;

    fn placed(size: u64, regions: &[(u64, u64)]) -> (Tree, Vec<Copy>, u64) {
        let mut tree = Tree::default();
        let what = What::File { size, data: Data::Plain { device: 0, block: 0 } };
        let inode = tree.add_inode(Inode { metadata: Metadata::IMPLIED, what }).unwrap();
        let regions = regions.iter().map(|&(offset, length)| Region { offset, length }).collect();
        let (copies, next) = place(&mut tree, &[Sparse { inode, size, regions, data: 5000 }], 100).unwrap();
        (tree, copies, next)
    }

    fn chunks(tree: &Tree) -> (u8, &[u32]) {
        match tree.inodes()[0].what {
            What::File { size, data: Data::Chunks { bits, first, .. } } => (bits, tree.chunks(size, bits, first)),
            _ => panic!("no chunks"),
        }
    }

    #[test]
    fn data_lies_in_chunks_and_holes_do_not() {
        let (tree, copies, next) = placed(20_000, &[(10, 20), (4090, 10), (12_288, 1)]);
        assert_eq!(chunks(&tree), (3, &[100, 108, HOLE, 116, HOLE][..]));
        assert_eq!(next, 124);
        let copy = |from, to, length| Copy { from, to, length };
        assert_eq!(
            copies,
            [copy(5000, 51_210, 20), copy(5020, 51_200 + 4090, 6), copy(5026, 55_296, 4), copy(5030, 59_392, 1),]
        );
    }

    #[test]
    fn a_file_that_is_nearly_all_hole_has_a_small_index() {
        let (tree, copies, _) = placed(1 << 40, &[(0, 1), ((1 << 40) - 1, 1)]);
        let (bits, chunks) = chunks(&tree);
        assert!(chunks.len() as u64 <= CHUNKS, "{bits}");
        assert_eq!(copies.len(), 2);
        let (_, copies, next) = placed(1 << 30, &[]);
        assert_eq!((copies.len(), next), (0, 100));
    }

    #[test]
    fn what_has_no_block_number_is_refused() {
        let mut tree = Tree::default();
        let inode = InodeId::ROOT;
        let file = |size, regions| Sparse { inode, size, regions, data: 0 };
        let everywhere = Region { offset: 0, length: 3 << 40 };
        assert_eq!(place(&mut tree, &[file(3 << 40, vec![everywhere])], 0).unwrap_err(), Full);
        assert_eq!(place(&mut tree, &[file(u64::MAX / 2, Vec::new())], 0).unwrap_err(), Full);
    }
}
