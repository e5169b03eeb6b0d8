//! What layers' files and indexes of images have in common as files: metadata written from some block on, content that is copied
//! between them, and the superblock, which comes last.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;

use rustix::io::{Errno, pread, retry_on_intr};

use super::format::{BLOCK, SUPERBLOCK_OFFSET};
use super::tree::Tree;
use super::writer::{Front, Target, write};
use crate::error::{Result, SyscallContext, SyscallError};

/// Bytes that are written, or copied, at once.
const BUFFER: usize = 256 << 10;

/// Writes the metadata of `tree` into its place in `file`. It is no file system before it is [sealed](seal).
pub(super) fn write_metadata(tree: &Tree, target: &Target<'_>, file: &File) -> Result<Front> {
    let offset = u64::from(target.first_block) * BLOCK;
    let mut out = BufWriter::with_capacity(BUFFER, At { file, offset });
    let front = write(tree, target, &mut out)?;
    out.flush().syscall("pwrite64", || "the metadata of an EROFS file".into())?;
    Ok(front)
}

/// Writes the superblock, and what belongs right behind it. `uuid` tells file systems from each other.
pub(super) fn seal(file: &File, front: &Front, uuid: [u8; 16]) -> Result<()> {
    let written = file.write_all_at(&front.to_bytes(uuid), SUPERBLOCK_OFFSET);
    Ok(written.syscall("pwrite64", || "the superblock of an EROFS file".into())?)
}

/// Bytes of one file that stand in another, or in another place, too.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Copy {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) length: u64,
}

/// Copies from file to file, which may be the same; `buffer` is for that.
pub(super) fn copy(from: BorrowedFd<'_>, to: &File, copy: &Copy, buffer: &mut Vec<u8>) -> Result<()> {
    let mut done = 0;
    while done < copy.length {
        let wanted = usize::try_from(copy.length - done).unwrap_or(usize::MAX).min(BUFFER);
        if buffer.len() < wanted {
            buffer.resize(wanted, 0);
        }
        let piece = buffer.get_mut(..wanted).unwrap_or_default();
        let offset = copy.from + done;
        let place = || format!("the content of a layer at byte {offset}");
        let count = retry_on_intr(|| pread(from, &mut *piece, offset)).syscall("pread64", place)?;
        if count == 0 {
            return Err(SyscallError::new("pread64", "a layer became shorter", Errno::IO).into());
        }
        let piece = piece.get(..count).unwrap_or_default();
        to.write_all_at(piece, copy.to + done).syscall("pwrite64", || "copied content of a layer".into())?;
        done += count as u64;
    }
    Ok(())
}

/// Writes a file from some place on.
struct At<'a> {
    file: &'a File,
    offset: u64,
}

impl Write for At<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write_at(bytes, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
