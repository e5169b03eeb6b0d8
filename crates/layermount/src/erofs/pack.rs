//! A layer's archive into one file, as it passes.
//!
//! ```text
//! 0      1024         4096                          behind the archive, in blocks of 512 bytes
//! zeros | superblock | the archive, byte for byte | chunks of sparse files | index | zeros up to a page
//! ```
//!
//! Nothing is written twice and nothing is read back, but for the data of sparse files. The superblock comes last, by
//! [`Packed::seal`], so that the file cannot be mounted before it is whole, and never if the layer needs those below it: such a
//! file is only good for the [index of an image](super::image).

use std::fs::File;
use std::io::{self, BufRead, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use super::file::{copy, seal, write_metadata};
use super::format::BLOCK;
use super::index::{Facts, Index, index};
use super::sparse;
use super::tree::Tree;
use super::writer::{Front, PAGE, Target};
use super::{ErofsError, HEAD_BLOCKS};
use crate::decode::from_read;
use crate::error::{Error, Result, SyscallContext};
use crate::layer::{Archive, LayerLimits};

/// Where the archive begins.
pub(crate) const ARCHIVE: u64 = HEAD_BLOCKS as u64 * BLOCK;

/// What a layer's file holds.
#[derive(Debug)]
pub(crate) struct Packed {
    pub(crate) tree: Tree,
    /// `None` for a layer that cannot stand alone.
    front: Option<Front>,
    pub(crate) facts: Facts,
    /// Of the archive.
    pub(crate) tar_size: u64,
}

/// Writes the archive `tar` and its index into the empty file `into`.
pub(crate) fn pack(tar: &mut dyn BufRead, into: &File, limits: &LayerLimits) -> Result<Packed> {
    let mut archive = Archive::new(Recorder { inner: tar, into, end: 0, ahead: 0 }, limits);
    let Index { mut tree, sparse, open, facts } = index(&mut archive, limits, |_| Ok(()))?;
    // The diff ID covers what stands behind the archive's end, too.
    let tar_size = archive.into_inner().finish().map_err(from_read)?;
    let (copies, next) = sparse::place(&mut tree, &sparse, behind(tar_size)).map_err(|_| ErofsError::Full)?;
    let mut buffer = Vec::new();
    copies.iter().try_for_each(|place| copy(into.as_fd(), into, place, &mut buffer))?;
    let front = if open {
        let length = (next * BLOCK).next_multiple_of(PAGE);
        into.set_len(length).syscall("ftruncate", || length.to_string())?;
        None
    } else {
        let first_block = u32::try_from(next).map_err(|_| ErofsError::Full)?;
        Some(write_metadata(&tree, &Target { first_block, devices: &[] }, into)?)
    };
    Ok(Packed { tree, front, facts, tar_size })
}

/// The tree of a layer that was packed before: equal to [`Packed::tree`].
pub(crate) fn tree_of(file: &File, tar_size: u64) -> Result<Tree> {
    // It was within the limits that somebody set when it was packed.
    let limits = LayerLimits::none();
    let input = TarFile { file, offset: 0, end: tar_size, buffer: Vec::new(), start: 0 };
    let mut archive = Archive::new(input, &limits);
    let Index { mut tree, sparse, .. } = index(&mut archive, &limits, |archive| {
        archive.pass_data(TarFile::skip);
        Ok(())
    })?;
    sparse::place(&mut tree, &sparse, behind(tar_size)).map_err(|_| ErofsError::Full)?;
    Ok(tree)
}

impl Packed {
    /// Whether the file can be mounted by itself.
    pub(crate) fn stands_alone(&self) -> bool {
        self.front.is_some()
    }

    /// Writes the superblock. `uuid` tells file systems from each other.
    pub(crate) fn seal(&self, file: &File, uuid: [u8; 16]) -> Result<()> {
        match &self.front {
            Some(front) => seal(file, front, uuid),
            None => Ok(()),
        }
    }
}

/// The first block behind an archive.
fn behind(tar_size: u64) -> u64 {
    u64::from(HEAD_BLOCKS) + tar_size.div_ceil(BLOCK)
}

/// An archive that is written down while it is read, in pieces as they come out of the decoder.
struct Recorder<'a> {
    inner: &'a mut dyn BufRead,
    into: &'a File,
    /// How much was written down.
    end: u64,
    /// How much of that was not consumed yet.
    ahead: usize,
}

impl Recorder<'_> {
    /// Writes down the rest; answers the length of all.
    fn finish(mut self) -> io::Result<u64> {
        loop {
            let count = self.fill_buf()?.len();
            if count == 0 {
                return Ok(self.end);
            }
            self.consume(count);
        }
    }
}

impl BufRead for Recorder<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let piece = self.inner.fill_buf()?;
        if self.ahead == 0 {
            let place = || format!("the archive at byte {}", self.end);
            let written = self.into.write_all_at(piece, ARCHIVE + self.end).syscall("pwrite64", place);
            written.map_err(|error| io::Error::other(Error::from(error)))?;
            self.ahead = piece.len();
            self.end += piece.len() as u64;
        }
        Ok(piece)
    }

    fn consume(&mut self, count: usize) {
        self.ahead = self.ahead.saturating_sub(count);
        self.inner.consume(count);
    }
}

impl Read for Recorder<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

/// The archive in a layer's file, of which only the headers are read.
struct TarFile<'a> {
    file: &'a File,
    /// Behind the buffer.
    offset: u64,
    end: u64,
    buffer: Vec<u8>,
    start: usize,
}

impl TarFile<'_> {
    /// A header, and often the next one, too.
    const READ: usize = 2048;

    fn skip(&mut self, count: u64) {
        let buffered = self.buffer.len() - self.start;
        match usize::try_from(count) {
            Ok(count) if count <= buffered => self.start += count,
            _ => {
                self.offset = self.offset.saturating_add(count - buffered as u64).min(self.end);
                self.start = self.buffer.len();
            }
        }
    }
}

impl BufRead for TarFile<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.start == self.buffer.len() {
            let wanted = usize::try_from(self.end - self.offset).unwrap_or(usize::MAX).min(Self::READ);
            self.buffer.resize(wanted, 0);
            self.start = wanted;
            self.file.read_exact_at(&mut self.buffer, ARCHIVE + self.offset)?;
            self.start = 0;
            self.offset += wanted as u64;
        }
        Ok(self.buffer.get(self.start..).unwrap_or_default())
    }

    fn consume(&mut self, count: usize) {
        self.start = self.buffer.len().min(self.start + count);
    }
}

impl Read for TarFile<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}
