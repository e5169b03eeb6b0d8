//! Directories as blocks: each begins with entries of a fixed size, whose names follow.
//!
//! Lookups search for the block and then inside of it, so all names are sorted by their bytes, `.` and `..` among them: `-` stands
//! before `.`, and `.-` before `..`.

use std::io;

use super::Output;
use crate::erofs::format::{BLOCK, DIRENT, Dirent, FileType};
use crate::erofs::tree::{Child, Directory, Entry, Tree};

/// What a name in a directory leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum To {
    Itself,
    Parent,
    /// Never [`Child::Below`].
    Child(Child),
}

/// Everything that a directory lists, in its order.
pub(super) fn names<'t>(tree: &'t Tree, directory: &Directory) -> impl Iterator<Item = (&'t [u8], To)> + Clone + 't {
    let entries = tree.entries(directory);
    let place = |name: &[u8]| entries.partition_point(|entry| tree.text(entry.name) < name);
    let (before, rest) = entries.split_at(place(b"."));
    let (between, behind) = rest.split_at(place(b"..") - before.len());
    // What lies below is found before anything is written.
    let list = |entries: &'t [Entry]| {
        let known = entries.iter().filter(|entry| !matches!(entry.child, Child::Below(_)));
        known.map(|entry| (tree.text(entry.name), To::Child(entry.child)))
    };
    let itself: (&[u8], To) = (b".", To::Itself);
    let parent: (&[u8], To) = (b"..", To::Parent);
    list(before).chain([itself]).chain(list(between)).chain([parent]).chain(list(behind))
}

/// A directory as it is divided into blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Shape {
    pub(super) blocks: u64,
    /// Bytes of the last block that are used.
    pub(super) last_bytes: u64,
    /// How many names stand in the blocks before the last.
    pub(super) names_before_last: usize,
}

impl Shape {
    pub(super) fn new<'t>(mut names: impl Iterator<Item = (&'t [u8], To)> + Clone) -> Self {
        let mut shape = Self::default();
        let mut last = Piece::default();
        loop {
            let piece = Piece::take(names.clone());
            if piece.names == 0 {
                return shape;
            }
            shape.blocks += 1;
            shape.last_bytes = piece.bytes;
            shape.names_before_last += last.names;
            names.nth(piece.names - 1);
            last = piece;
        }
    }

    pub(super) fn size(&self) -> u64 {
        self.blocks.saturating_sub(1) * BLOCK + self.last_bytes
    }
}

/// As many names as one block takes.
#[derive(Debug, Clone, Copy, Default)]
struct Piece {
    names: usize,
    bytes: u64,
}

impl Piece {
    fn take<'t>(names: impl Iterator<Item = (&'t [u8], To)>) -> Self {
        let mut piece = Self::default();
        for (name, _) in names {
            let bytes = (DIRENT + name.len()) as u64;
            // A name has at most 255 bytes, so that every block has room for one.
            if piece.names > 0 && piece.bytes + bytes > BLOCK {
                break;
            }
            piece.names += 1;
            piece.bytes += bytes;
        }
        piece
    }
}

/// Writes `count` blocks of a directory, the first of which begins with the first of `names`. The last one is not filled up.
pub(super) fn write_blocks<'t>(
    out: &mut Output<'_>,
    mut names: impl Iterator<Item = (&'t [u8], To)> + Clone,
    count: u64,
    find: impl Fn(To) -> (u64, FileType),
) -> io::Result<()> {
    for block in 0..count {
        if block > 0 {
            out.align(BLOCK)?;
        }
        let piece = Piece::take(names.clone());
        let mut name_offset = piece.names * DIRENT;
        for (name, to) in names.clone().take(piece.names) {
            let (nid, file_type) = find(to);
            // Offsets in a block are small.
            out.write(&Dirent { nid, name_offset: name_offset as u16, file_type }.to_bytes())?;
            name_offset += name.len();
        }
        for (name, _) in names.by_ref().take(piece.names) {
            out.write(name)?;
        }
    }
    Ok(())
}
