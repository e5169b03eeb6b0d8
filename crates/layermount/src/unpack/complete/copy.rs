//! Copies what layers have into another directory, with everything that belongs to it.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{
    FileType, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, copy_file_range, ftruncate, getxattr, ioctl_ficlone,
    listxattr, mknodat, openat, readlinkat, seek, symlinkat,
};
use rustix::io::{Errno, pread, pwrite, retry_on_intr};

use super::super::metadata::{Metadata, forget_inherited_acls, proc_path};
use super::super::{FileContent, UnpackError, c_name, checksum};
use super::below::Found;
use crate::error::{Result, SyscallContext, SyscallError};
use crate::layer::{Attributes, quote};

/// Owner, mode, time and xattrs; the xattrs as they are on disk, overlayfs's own left out.
pub(in crate::unpack) fn attributes(found: &Found, mark: &str) -> Result<Attributes, UnpackError> {
    let Found { parent, name, stat, .. } = found;
    let at = UnpackError::at(name);
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = openat(parent, c_name(name), flags, Mode::empty()).syscall("openat", || quote(name)).map_err(&at)?;
    let path = proc_path(fd.as_fd());
    let mut xattrs = Vec::new();
    let private = mark.trim_end_matches("opaque").as_bytes();
    for xattr in list(&path).map_err(&at)? {
        // Trees that this crate did not make may have them: their content lies elsewhere.
        if let Some(b"metacopy" | b"redirect") = xattr.strip_prefix(private) {
            return Err(UnpackError::Elsewhere {
                entry: quote(name),
                xattr: String::from_utf8_lossy(&xattr).into_owned(),
            });
        }
        // Escaped ones belong to the image. In the other namespace, where other trees may have them, there is no escape.
        let overlayfs = match xattr.strip_prefix(private) {
            Some(rest) => !rest.starts_with(b"overlay."),
            None => xattr.starts_with(b"trusted.overlay.") || xattr.starts_with(b"user.overlay."),
        };
        if !overlayfs && let Some(value) = get(&path, &xattr).map_err(&at)? {
            xattrs.push((xattr, value));
        }
    }
    Ok(Attributes {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: (stat.st_mtime, stat.st_mtime_nsec as u32),
        xattrs,
    })
}

fn list(path: &str) -> Result<Vec<Vec<u8>>, SyscallError> {
    // XATTR_LIST_MAX
    let mut names = vec![0_u8; 64 << 10];
    match listxattr(path, &mut names[..]) {
        Ok(length) => {
            names.truncate(length);
            Ok(names.split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect())
        }
        Err(Errno::OPNOTSUPP) => Ok(Vec::new()),
        Err(errno) => Err(SyscallError::new("listxattr", path, errno)),
    }
}

fn get(path: &str, name: &[u8]) -> Result<Option<Vec<u8>>, SyscallError> {
    // XATTR_SIZE_MAX
    let mut value = vec![0_u8; 64 << 10];
    match getxattr(path, c_name(name), &mut value[..]) {
        Ok(length) => {
            value.truncate(length);
            Ok(Some(value))
        }
        Err(Errno::NODATA) => Ok(None),
        Err(errno) => Err(SyscallError::new("getxattr", quote(name), errno)),
    }
}

/// Copies anything but a directory to `name` in `parent`. Devices that may not be made are left out and counted.
pub(in crate::unpack) fn file(
    metadata: &mut Metadata,
    found: &Found,
    mark: &str,
    parent: BorrowedFd<'_>,
    name: &[u8],
) -> Result<()> {
    let at = UnpackError::at(name);
    let attributes = attributes(found, mark)?;
    let kind = FileType::from_raw_mode(found.stat.st_mode);
    match kind {
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let from = openat(&found.parent, c_name(&found.name), flags, Mode::empty())
                .syscall("openat", || quote(&found.name))
                .map_err(&at)?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let to = openat(parent, c_name(name), flags, Mode::RUSR | Mode::WUSR)
                .syscall("openat", || format!("{}, O_CREAT|O_EXCL|O_NOFOLLOW", quote(name)))
                .map_err(&at)?;
            data(from.as_fd(), to.as_fd(), found.stat.st_size as u64).map_err(&at)?;
            forget_inherited_acls(to.as_fd()).map_err(&at)?;
            metadata.apply_copy(to.as_fd(), name, &attributes)?;
        }
        FileType::Symlink => {
            let target = readlinkat(&found.parent, c_name(&found.name), Vec::new())
                .syscall("readlinkat", || quote(&found.name))
                .map_err(&at)?;
            symlinkat(&target, parent, c_name(name)).syscall("symlinkat", || quote(name)).map_err(&at)?;
            metadata.apply_copy_unopened(parent, name, true, &attributes)?;
        }
        kind => {
            match mknodat(parent, c_name(name), kind, Mode::RUSR | Mode::WUSR, found.stat.st_rdev) {
                // Devices are for root in the initial user namespace alone.
                Err(Errno::PERM) if matches!(kind, FileType::CharacterDevice | FileType::BlockDevice) => {
                    metadata.skipped.devices += 1;
                    return Ok(());
                }
                other => other.syscall("mknodat", || quote(name)).map_err(&at)?,
            }
            let made = openat(parent, c_name(name), OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
                .syscall("openat", || quote(name))
                .map_err(&at)?;
            forget_inherited_acls(made.as_fd()).map_err(&at)?;
            metadata.apply_copy_unopened(parent, name, false, &attributes)?;
        }
    }
    Ok(())
}

/// What a regular file holds.
pub(super) fn content(found: &Found) -> Result<FileContent, SyscallError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(&found.parent, &*found.name, flags, Mode::empty()).syscall("openat", || quote(&found.name))?;
    let size = found.stat.st_size as u64;
    let checksum = checksum::of_file(file.as_fd(), size, &mut vec![0; 256 << 10]);
    Ok(FileContent { size, checksum: checksum.syscall("read", || quote(&found.name))? })
}

/// Copies the data and leaves the holes.
fn data(from: BorrowedFd<'_>, to: BorrowedFd<'_>, size: u64) -> Result<(), SyscallError> {
    // The file systems that can (btrfs, xfs) share the blocks.
    if size > 0 && ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    ftruncate(to, size).syscall("ftruncate", || size.to_string())?;
    let mut buffer = Vec::new();
    let mut end = 0;
    loop {
        let start = match seek(from, SeekFrom::Data(end)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(()),
            Err(errno) => return Err(SyscallError::new("lseek", "SEEK_DATA", errno)),
        };
        end = seek(from, SeekFrom::Hole(start)).syscall("lseek", || "SEEK_HOLE".to_owned())?;
        let mut offset = start;
        while offset < end {
            // Within the kernel, where it can.
            let (mut source, mut target) = (offset, offset);
            let wanted = usize::try_from(end - offset).unwrap_or(usize::MAX);
            match retry_on_intr(|| copy_file_range(from, Some(&mut source), to, Some(&mut target), wanted)) {
                Ok(count @ 1..) => {
                    offset += count as u64;
                    continue;
                }
                Ok(0) | Err(Errno::XDEV | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL | Errno::PERM) => {}
                Err(errno) => return Err(SyscallError::new("copy_file_range", String::new(), errno)),
            }
            buffer.resize(256 << 10, 0_u8);
            let wanted = usize::try_from(end - offset).unwrap_or(usize::MAX).min(buffer.len());
            let piece = buffer.get_mut(..wanted).unwrap_or_default();
            let count = retry_on_intr(|| pread(from, &mut *piece, offset)).syscall("pread64", String::new)?;
            let mut rest = piece.get(..count).unwrap_or_default();
            if rest.is_empty() {
                return Err(SyscallError::new("pread64", "the file became shorter", Errno::IO));
            }
            while !rest.is_empty() {
                let written = retry_on_intr(|| pwrite(to, rest, offset)).syscall("pwrite64", String::new)?;
                rest = rest.get(written..).unwrap_or_default();
                offset += written as u64;
            }
        }
    }
}

pub(super) fn times(stat: &Stat) -> Timestamps {
    let time = |seconds, nanoseconds: u64| Timespec { tv_sec: seconds, tv_nsec: nanoseconds as _ };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}
