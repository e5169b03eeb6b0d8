//! An EROFS file: the archive in it has its diff ID, and the rest the checksum that was noted.

use std::os::fd::BorrowedFd;

use rustix::io::{Errno, pread, retry_on_intr};

use crate::digest::{Algorithm, DiffId, Hasher};
use crate::erofs::ARCHIVE;
use crate::error::{Result, SyscallError};
use crate::unpack::checksum::{self, Checksum};

use super::super::entry::{Entry, FileRecord};
use super::{BUFFER, DamageKind, Findings, Verified, is_ours};

pub(super) fn verify_file(entry: &Entry, file: &FileRecord, verified: &mut Verified) -> Result<Findings> {
    let mut findings = Findings::default();
    verified.files += 1;
    verified.bytes += file.length;
    match check_file(entry, file) {
        Ok(None) => {}
        Ok(Some(what)) => findings.add("", DamageKind::Content, what),
        Err(errno) if is_ours(errno) => {
            return Err(SyscallError::new("read", entry.path().display().to_string(), errno).into());
        }
        Err(errno) => findings.add("", DamageKind::Unreadable, format!("cannot be read: {errno}")),
    }
    Ok(findings)
}

fn check_file(entry: &Entry, file: &FileRecord) -> rustix::io::Result<Option<String>> {
    if file.tar_size > 0 {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        archive_of(entry.content(), file.tar_size, &mut |piece| {
            hasher.update(piece);
            Ok(())
        })?;
        let found = DiffId(hasher.finish());
        if found != entry.record.diff_id {
            return Ok(Some(format!("has the archive {found}")));
        }
    }
    let found = file_checksum(entry.content(), file.length, file.tar_size)?;
    Ok((found != file.checksum).then(|| format!("has the checksum {found:08x} instead of {:08x}", file.checksum)))
}

/// Shows the archive in a layer's file to `see`, piece by piece.
pub(in crate::store) fn archive_of(
    file: BorrowedFd<'_>,
    tar_size: u64,
    see: &mut dyn FnMut(&[u8]) -> rustix::io::Result<()>,
) -> rustix::io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    let mut done = 0;
    while done < tar_size {
        let wanted = usize::try_from(tar_size - done).unwrap_or(usize::MAX).min(BUFFER);
        let piece = buffer.get_mut(..wanted).unwrap_or_default();
        let count = retry_on_intr(|| pread(file, &mut *piece, ARCHIVE + done))?;
        if count == 0 {
            return Err(Errno::IO);
        }
        see(piece.get(..count).unwrap_or_default())?;
        done += count as u64;
    }
    Ok(())
}

/// The checksum of everything in an EROFS file but the archive.
pub(in crate::store) fn file_checksum(file: BorrowedFd<'_>, length: u64, tar_size: u64) -> rustix::io::Result<u32> {
    let mut checksum = Checksum::default();
    let mut buffer = vec![0; BUFFER];
    let behind = if tar_size > 0 { ARCHIVE + tar_size } else { ARCHIVE.min(length) };
    checksum::add_range(&mut checksum, file, 0..ARCHIVE.min(length), &mut buffer)?;
    checksum::add_range(&mut checksum, file, behind..length, &mut buffer)?;
    Ok(checksum.sum())
}
