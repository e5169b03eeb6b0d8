//! A copy of a directory of the image in a file system of memory: what a volume begins with.
//!
//! Async-signal-safe: nothing is allocated. The directories on the way down are kept open in an array, so that no path is ever looked
//! up, and a directory that has been left for one in it goes on where it was. The tree is one that nobody is in yet.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, RawDir, SeekFrom, Stat, Timestamps, XattrFlags};
use rustix::io::{Errno, Result};

use super::write_all;
use crate::userns::nobody::give;

/// Directories inside of each other; two descriptors each.
const MAX_DEPTH: usize = 64;
/// Of what is read at once, on a stack of 256 KiB.
const BUFFER: usize = 16 << 10;

/// One that is being copied.
struct Level {
    from: OwnedFd,
    into: OwnedFd,
    stat: Stat,
}

/// Copies the directory `from` with all that is in it into the directory `into`. Attributes that memory cannot have are left out.
// Apart from what runs all steps, which would have this one's stack with each.
#[inline(never)]
pub(super) fn copy_tree(from: BorrowedFd<'_>, into: BorrowedFd<'_>) -> Result<()> {
    let mut levels: [Option<Level>; MAX_DEPTH] = [const { None }; MAX_DEPTH];
    let mut depth = 0;
    let mut next = Some(Level::open(from, into, c".")?);
    let mut buffer = [MaybeUninit::uninit(); BUFFER];
    loop {
        if let Some(level) = next.take() {
            *levels.get_mut(depth).ok_or(Errno::LOOP)? = Some(level);
            depth += 1;
        }
        let Some(level) = depth.checked_sub(1).and_then(|top| levels.get_mut(top)) else { return Ok(()) };
        let Some(Level { from, into, stat }) = level else { return Ok(()) };
        next = copy_until_directory(from.as_fd(), into.as_fd(), &mut buffer)?;
        if next.is_none() {
            // Last, because all else changes the times.
            give_attributes(into.as_fd(), from.as_fd(), stat)?;
            *level = None;
            depth -= 1;
        }
    }
}

impl Level {
    fn open(from: BorrowedFd<'_>, into: BorrowedFd<'_>, name: &CStr) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let from = fs::openat(from, name, flags, Mode::empty())?;
        let into = fs::openat(into, name, flags, Mode::empty())?;
        let stat = fs::fstat(&from)?;
        Ok(Self { from, into, stat })
    }
}

/// Copies what is next in a directory, up to a directory in it, which is made and opened. `None` at the end.
fn copy_until_directory(
    from: BorrowedFd<'_>,
    into: BorrowedFd<'_>,
    buffer: &mut [MaybeUninit<u8>; BUFFER],
) -> Result<Option<Level>> {
    let mut entries = RawDir::new(from, buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let stat = fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            fs::mkdirat(into, name, Mode::RWXU)?;
            let level = Level::open(from, into, name)?;
            // What was read ahead is read again.
            fs::seek(from, SeekFrom::Start(entry.next_entry_cookie()))?;
            return Ok(Some(level));
        }
        copy_file(from, into, name, &stat)?;
    }
    Ok(None)
}

fn copy_file(from: BorrowedFd<'_>, into: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> Result<()> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let source = fs::openat(from, name, flags, Mode::empty())?;
            if FileType::from_raw_mode(fs::fstat(&source)?.st_mode) != FileType::RegularFile {
                // An upper that is kept is somebody's who may change it meanwhile.
                return Err(Errno::STALE);
            }
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let copy = fs::openat(into, name, flags, Mode::RUSR | Mode::WUSR)?;
            copy_contents(source.as_fd(), copy.as_fd(), stat)?;
            give_attributes(copy.as_fd(), source.as_fd(), stat)
        }
        kind => {
            if kind == FileType::Symlink {
                let mut target = [0_u8; 4096];
                let length = fs::readlinkat_raw(from, name, &mut target[..4095])?;
                let target = target.get(..=length).ok_or(Errno::NAMETOOLONG)?;
                fs::symlinkat(CStr::from_bytes_until_nul(target).map_err(|_| Errno::INVAL)?, into, name)?;
            } else {
                fs::mknodat(into, name, kind, Mode::RUSR | Mode::WUSR, stat.st_rdev)?;
            }
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            let given = give(stat.st_uid, stat.st_gid, &|uid, gid| fs::chownat(into, name, uid, gid, flags))?;
            if kind != FileType::Symlink {
                let mode = Mode::from_raw_mode(stat.st_mode & 0o7777 & given.kept());
                fs::chmodat(into, name, mode, AtFlags::empty())?;
            }
            fs::utimensat(into, name, &times(stat), flags)
        }
    }
}

/// What a sparse file has not, its copy has not either.
fn copy_contents(from: BorrowedFd<'_>, into: BorrowedFd<'_>, stat: &Stat) -> Result<()> {
    let mut buffer = [0_u8; BUFFER];
    let mut at = 0_u64;
    loop {
        match fs::seek(from, SeekFrom::Data(at)) {
            Ok(data) => at = data,
            // Nothing but a hole is left.
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => drop(fs::seek(from, SeekFrom::Start(at))?),
            Err(errno) => return Err(errno),
        }
        let hole = fs::seek(from, SeekFrom::Hole(at)).unwrap_or(u64::MAX);
        fs::seek(from, SeekFrom::Start(at))?;
        fs::seek(into, SeekFrom::Start(at))?;
        while at < hole {
            let wanted = usize::try_from(hole - at).unwrap_or(BUFFER).min(BUFFER);
            let room = buffer.get_mut(..wanted).unwrap_or_default();
            match rustix::io::read(from, &mut *room) {
                Ok(0) => return fs::ftruncate(into, u64::try_from(stat.st_size).unwrap_or(0)),
                Ok(length) => {
                    write_all(into, room.get(..length).unwrap_or_default())?;
                    at += length as u64;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
    fs::ftruncate(into, u64::try_from(stat.st_size).unwrap_or(0))
}

/// Owner first, because a change of it takes set-user-ID bits and capabilities away; times last.
fn give_attributes(copy: BorrowedFd<'_>, of: BorrowedFd<'_>, stat: &Stat) -> Result<()> {
    let given = give(stat.st_uid, stat.st_gid, &|uid, gid| fs::fchown(copy, uid, gid))?;
    fs::fchmod(copy, Mode::from_raw_mode(stat.st_mode & 0o7777 & given.kept()))?;
    copy_xattrs(copy, of)?;
    fs::futimens(copy, &times(stat))
}

fn copy_xattrs(copy: BorrowedFd<'_>, of: BorrowedFd<'_>) -> Result<()> {
    let mut names = [0_u8; BUFFER];
    let length = match fs::flistxattr(of, &mut names[..]) {
        Err(Errno::OPNOTSUPP) => return Ok(()),
        length => length?,
    };
    let mut rest = names.get(..length).unwrap_or_default();
    while let Ok(name) = CStr::from_bytes_until_nul(rest) {
        rest = rest.get(name.count_bytes() + 1..).unwrap_or_default();
        let mut value = [0_u8; BUFFER];
        let length = match fs::fgetxattr(of, name, &mut value[..]) {
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS) => continue,
            length => length?,
        };
        let value = value.get(..length).unwrap_or_default();
        match fs::fsetxattr(copy, name, value, XattrFlags::empty()) {
            // What files of layers go without in the same place.
            Err(Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS | Errno::INVAL) => {}
            other => other?,
        }
    }
    Ok(())
}

fn times(stat: &Stat) -> Timestamps {
    // The types differ between machines.
    let last_access = fs::Timespec { tv_sec: stat.st_atime, tv_nsec: stat.st_atime_nsec as _ };
    let last_modification = fs::Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ };
    Timestamps { last_access, last_modification }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
    use std::path::Path;

    use super::*;

    fn copy(from: &Path, into: &Path) -> Result<()> {
        let open = |path: &Path| fs::open(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        copy_tree(open(from).as_fd(), open(into).as_fd())
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a tree for a test")]
    fn a_copy_is_the_same_tree() {
        use std::fs;
        let directory = tempfile::tempdir().unwrap();
        let (from, into) = (directory.path().join("from"), directory.path().join("into"));
        // More than one buffer of names, with directories between files.
        for number in 0..700 {
            let name = format!("{number:04}-{}", "n".repeat(60));
            fs::create_dir_all(from.join(&name)).unwrap();
            fs::write(from.join(&name).join("f"), &name).unwrap();
            fs::write(from.join(format!("f{name}")), "").unwrap();
        }
        fs::create_dir_all(from.join("a/b/c/d")).unwrap();
        fs::write(from.join("a/b/c/d/large"), vec![7; 100_001]).unwrap();
        symlink("/etc/shadow", from.join("a/link")).unwrap();
        let sparse = fs::File::create(from.join("sparse")).unwrap();
        sparse.write_all_at(b"x", 1 << 20).unwrap();
        sparse.set_len(64 << 20).unwrap();
        fs::set_permissions(from.join("sparse"), fs::Permissions::from_mode(0o4710)).unwrap();
        fs::set_permissions(from.join("a"), fs::Permissions::from_mode(0o1711)).unwrap();
        let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(12_345);
        fs::File::open(from.join("a")).unwrap().set_modified(old).unwrap();
        fs::create_dir(&into).unwrap();
        copy(&from, &into).unwrap();
        let compared =
            std::process::Command::new("diff").args(["-r", "--no-dereference"]).args([&from, &into]).status();
        assert!(compared.unwrap().success());
        for path in ["", "a", "a/link", "sparse", "a/b/c/d/large"] {
            let of = |root: &Path| {
                let found = root.join(path).symlink_metadata().unwrap();
                (found.mode(), found.uid(), found.gid(), found.mtime(), found.mtime_nsec())
            };
            assert_eq!(of(&from), of(&into), "{path}");
        }
        assert!(into.join("sparse").metadata().unwrap().blocks() < 1000);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a tree for a test")]
    fn what_lies_too_deep_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let (from, into) = (directory.path().join("from"), directory.path().join("into"));
        std::fs::create_dir_all(from.join("d/".repeat(MAX_DEPTH - 1))).unwrap();
        std::fs::create_dir(&into).unwrap();
        copy(&from, &into).unwrap();
        assert!(into.join("d/".repeat(MAX_DEPTH - 1)).is_dir());
        std::fs::create_dir_all(from.join("d/".repeat(MAX_DEPTH))).unwrap();
        let second = directory.path().join("second");
        std::fs::create_dir(&second).unwrap();
        assert_eq!(copy(&from, &second), Err(Errno::LOOP));
    }
}
