//! Finding, or making, the target of a bind mount inside a root that may be hostile.
//!
//! Links are followed as the image's own programs would follow them, never out of the root; every directory that is missing is
//! made relative to the descriptor of its parent. Async-signal-safe: paths are kept in arrays on the stack.

use std::ffi::CStr;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::{Errno, Result};

use super::TargetKind;

const PATH_MAX: usize = 4096;
/// As many as the kernel follows in one path.
const MAX_LINKS: usize = 40;

/// Opens `path` inside `root` with `O_PATH`, made when missing.
pub(super) fn open_target(root: BorrowedFd<'_>, path: &CStr, kind: TargetKind) -> Result<OwnedFd> {
    match open_in(root, path, OFlags::empty()) {
        Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno),
        Ok(target) => {
            let found = FileType::from_raw_mode(fs::fstat(&target)?.st_mode);
            return match (kind, found) {
                (TargetKind::Directory, FileType::Directory) => Ok(target),
                (TargetKind::Directory, _) => Err(Errno::NOTDIR),
                (TargetKind::File, FileType::Directory) => Err(Errno::ISDIR),
                (TargetKind::File, _) => Ok(target),
            };
        }
    }
    make_target(root, path, kind)
}

/// Apart, with all that is large on the stack: what is there already needs none of it.
#[inline(never)]
fn make_target(root: BorrowedFd<'_>, path: &CStr, kind: TargetKind) -> Result<OwnedFd> {
    let mut wanted = PathBuffer::new();
    wanted.push(path.to_bytes())?;
    for _ in 0..MAX_LINKS {
        if let Some(target) = make(root, &mut wanted, kind)? {
            return Ok(target);
        }
    }
    Err(Errno::LOOP)
}

/// What a program of the image may be told by files of the host in the place of the kernel's: what lxcfs offers, as runc has it.
const MAY_BE_COVERED: [&CStr; 9] = [
    c"/proc/cpuinfo",
    c"/proc/diskstats",
    c"/proc/loadavg",
    c"/proc/meminfo",
    c"/proc/slabinfo",
    c"/proc/stat",
    c"/proc/swaps",
    c"/proc/sys/crypto/fips_enabled",
    c"/proc/uptime",
];

/// [`open_target`], for a mount. `EBUSY` for the root itself, where it would lie over what is entered, seen by nobody.
///
/// `EPERM` in any proc file system, by whatever path: who is told by `/proc` what it has just written there could be made to write
/// elsewhere (CVE-2019-16884).
pub(super) fn open_mount_point(root: BorrowedFd<'_>, path: &CStr, kind: TargetKind) -> Result<OwnedFd> {
    let target = open_target(root, path, kind)?;
    let (above, below) = (identify(root)?, identify(target.as_fd())?);
    if (above.device, above.inode) == (below.device, below.inode) {
        return Err(Errno::BUSY);
    }
    let in_the_tree = above.mount.is_some() && above.mount == below.mount;
    if in_the_tree || fs::fstatfs(&target)?.f_type != fs::PROC_SUPER_MAGIC {
        return Ok(target);
    }
    if !MAY_BE_COVERED.contains(&path) {
        return Err(Errno::PERM);
    }
    // That very file, not one that the path leads to by way of links.
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    fs::openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// Which file of which mount.
struct Identity {
    device: (u32, u32),
    inode: u64,
    /// Known since Linux 5.8.
    mount: Option<u64>,
}

fn identify(file: BorrowedFd<'_>) -> Result<Identity> {
    let found = fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::INO | StatxFlags::MNT_ID)?;
    let device = (found.stx_dev_major, found.stx_dev_minor);
    let told = StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::MNT_ID);
    Ok(Identity { device, inode: found.stx_ino, mount: told.then_some(found.stx_mnt_id) })
}

/// Makes `path` and all directories above it that are missing, and opens it. For working directories.
pub(crate) fn make_directories(root: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd> {
    open_target(root, path, TargetKind::Directory)
}

/// `None` when there is a link on the way that leads nowhere: then `path` says where that would be.
fn make(root: BorrowedFd<'_>, path: &mut PathBuffer, kind: TargetKind) -> Result<Option<OwnedFd>> {
    let mut parent = open_in(root, c".", OFlags::DIRECTORY)?;
    let mut component = path.component_from(0);
    while let Some(place) = component {
        component = path.component_from(place.end);
        let last = component.is_none();
        let flags = if last { OFlags::empty() } else { OFlags::DIRECTORY };
        let opened = path.up_to(&place, |so_far, name| match open_in(root, so_far, flags) {
            Err(Errno::NOENT) => {
                let made = match kind {
                    TargetKind::File if last => make_file(parent.as_fd(), name),
                    _ => fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)),
                };
                made.and_then(|()| {
                    let open = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC | flags;
                    fs::openat(&parent, name, open, Mode::empty())
                })
            }
            opened => opened,
        })?;
        match opened {
            Ok(opened) => parent = opened,
            // It is there and yet leads nowhere: a dangling link.
            Err(Errno::EXIST) => {
                follow(parent.as_fd(), path, &place)?;
                return Ok(None);
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(Some(parent))
}

fn make_file(parent: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(parent, name, flags, Mode::from_raw_mode(0o644)).map(drop)
}

/// Replaces the link at `place` by what it says.
// Two paths more on the stack, which hardly ever are needed.
#[inline(never)]
fn follow(parent: BorrowedFd<'_>, path: &mut PathBuffer, place: &Range<usize>) -> Result<()> {
    let mut link = [0_u8; PATH_MAX];
    let length = path.up_to(place, |_, name| fs::readlinkat_raw(parent, name, &mut link[..]))??;
    let link = link.get(..length).unwrap_or_default();
    let before = if link.starts_with(b"/") { &[] } else { path.bytes().get(..place.start).unwrap_or_default() };
    let mut followed = PathBuffer::new();
    followed.push(before)?;
    followed.push(b"/")?;
    followed.push(link)?;
    followed.push(path.bytes().get(place.end..).unwrap_or_default())?;
    *path = followed;
    Ok(())
}

fn open_in(root: BorrowedFd<'_>, path: &CStr, flags: OFlags) -> Result<OwnedFd> {
    open_in_root(root, path, OFlags::PATH | flags)
}

/// Opens something inside `root`, links followed in it, but no magic ones. Async-signal-safe.
///
/// On the way through `..` the kernel answers `EAGAIN` when anything was renamed or mounted on the machine meanwhile, because it
/// cannot tell then whether the path has left the root (openat2(2)).
pub(crate) fn open_in_root(root: BorrowedFd<'_>, path: &CStr, flags: OFlags) -> Result<OwnedFd> {
    resolve(root, path, flags, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
}

/// Opens a directory inside `root` likewise, if no other mount is on the way: `EXDEV`. Async-signal-safe.
pub(super) fn open_in_mount(root: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd> {
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    resolve(root, path, OFlags::PATH | OFlags::DIRECTORY, how)
}

fn resolve(root: BorrowedFd<'_>, path: &CStr, flags: OFlags, how: ResolveFlags) -> Result<OwnedFd> {
    const ATTEMPTS: usize = 1000;
    let mut attempts = 1;
    loop {
        match fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), how) {
            Err(Errno::AGAIN) if attempts < ATTEMPTS => attempts += 1,
            opened => return opened,
        }
    }
}

/// Whether a path exists, links followed. Async-signal-safe.
pub(crate) fn exists(path: &CStr) -> bool {
    fs::statat(fs::CWD, path, AtFlags::empty()).is_ok()
}

/// A path of less than [`PATH_MAX`] bytes.
struct PathBuffer {
    bytes: [u8; PATH_MAX],
    length: usize,
}

impl PathBuffer {
    fn new() -> Self {
        Self { bytes: [0; PATH_MAX], length: 0 }
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    fn push(&mut self, part: &[u8]) -> Result<()> {
        let end = self.length + part.len();
        if end >= PATH_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        self.bytes.get_mut(self.length..end).ok_or(Errno::NAMETOOLONG)?.copy_from_slice(part);
        self.length = end;
        Ok(())
    }

    /// Where the first name lies that begins at `from` or later.
    fn component_from(&self, from: usize) -> Option<Range<usize>> {
        let rest = self.bytes().get(from..)?;
        let start = from + rest.iter().position(|byte| *byte != b'/')?;
        let length = self.bytes().get(start..)?.iter().position(|byte| *byte == b'/');
        Some(start..length.map_or(self.length, |length| start + length))
    }

    /// Has `work` done with the path up to the end of a name, and with that name alone.
    fn up_to<T>(&mut self, name: &Range<usize>, work: impl FnOnce(&CStr, &CStr) -> T) -> Result<T> {
        let end = self.bytes.get_mut(name.end).ok_or(Errno::NAMETOOLONG)?;
        let behind = std::mem::replace(end, 0);
        let text = |from: usize| {
            let bytes = self.bytes.get(from..=name.end).unwrap_or_default();
            CStr::from_bytes_with_nul(bytes).map_err(|_| Errno::INVAL)
        };
        let done = text(0).and_then(|path| Ok(work(path, text(name.start)?)));
        if let Some(end) = self.bytes.get_mut(name.end) {
            *end = behind;
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    fn open(root: &Path, path: &CStr, kind: TargetKind) -> Result<()> {
        let root = fs::open(root, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
        open_target(root.as_fd(), path, kind).map(drop)
    }

    #[test]
    fn missing_targets_are_made_inside_the_root() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        std::fs::create_dir(&root).unwrap();
        open(&root, c"/a/b/c", TargetKind::Directory).unwrap();
        open(&root, c"a/f", TargetKind::File).unwrap();
        assert!(root.join("a/b/c").is_dir());
        assert!(root.join("a/f").is_file());
        assert_eq!(open(&root, c"a/f", TargetKind::Directory), Err(Errno::NOTDIR));
        assert_eq!(open(&root, c"a", TargetKind::File), Err(Errno::ISDIR));
        assert_eq!(open(&root, c"a/f/x", TargetKind::File), Err(Errno::NOTDIR));
    }

    #[test]
    fn links_lead_around_inside_the_root_only() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        std::fs::create_dir(&root).unwrap();
        symlink("../../../outside", root.join("up")).unwrap();
        symlink("/run/systemd/resolve/stub.conf", root.join("resolv.conf")).unwrap();
        symlink("circle", root.join("circle")).unwrap();
        symlink("/new", root.join("dir")).unwrap();
        open(&root, c"up/x", TargetKind::Directory).unwrap();
        open(&root, c"resolv.conf", TargetKind::File).unwrap();
        open(&root, c"dir/sub/f", TargetKind::File).unwrap();
        assert!(root.join("outside/x").is_dir());
        assert!(root.join("run/systemd/resolve/stub.conf").is_file());
        assert!(root.join("new/sub/f").is_file());
        assert_eq!(open(&root, c"circle", TargetKind::File), Err(Errno::LOOP));
        let beside: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
        assert_eq!(beside.len(), 1, "nothing was made outside: {beside:?}");
    }

    /// A directory on the way turns into a link to the outside and back, all the time.
    #[test]
    fn nobody_can_lead_a_target_out_of_the_root() {
        use rustix::fs::{RenameFlags, renameat_with};
        let directory = tempfile::tempdir().unwrap();
        let (root, outside) = (directory.path().join("root"), directory.path().join("outside"));
        std::fs::create_dir(&root).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::create_dir(root.join("a")).unwrap();
        symlink("../outside", root.join("b")).unwrap();
        let absolute = root.join("c");
        symlink(&outside, &absolute).unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    for other in ["b", "c"] {
                        renameat_with(fs::CWD, root.join("a"), fs::CWD, root.join(other), RenameFlags::EXCHANGE)
                            .unwrap();
                    }
                }
            });
            let file = fs::open(&root, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
            let (mut found, shown) = (0, root.to_str().unwrap());
            for number in 0..3000 {
                let path = std::ffi::CString::new(format!("/a/{number}/x")).unwrap();
                let kind = if number % 2 == 0 { TargetKind::Directory } else { TargetKind::File };
                // A component that changes at the wrong moment is an error, never another place.
                if let Ok(target) = open_target(file.as_fd(), &path, kind) {
                    let path = std::fs::read_link(format!("/proc/self/fd/{}", target.as_raw_fd())).unwrap();
                    assert!(path.to_str().unwrap().starts_with(shown), "{path:?}");
                    found += 1;
                }
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(found > 100, "{found}");
        });
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "something was made outside");
    }

    /// Renames anywhere on the machine have the kernel say `EAGAIN`.
    #[test]
    fn a_busy_machine_keeps_nobody_from_a_target() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        std::fs::create_dir(&root).unwrap();
        open(&root, c"/a/b", TargetKind::Directory).unwrap();
        open(&root, c"/a/f", TargetKind::File).unwrap();
        symlink("../a/../a/b/../f", root.join("a/link")).unwrap();
        let (one, other) = (directory.path().join("one"), directory.path().join("other"));
        std::fs::create_dir(&one).unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    fs::rename(&one, &other).unwrap();
                    fs::rename(&other, &one).unwrap();
                }
            });
            let opened: Vec<_> = (0..20_000).map(|_| open(&root, c"a/link", TargetKind::File)).collect();
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(opened.iter().all(Result::is_ok), "{:?}", opened.iter().find(|result| result.is_err()));
        });
    }
}
