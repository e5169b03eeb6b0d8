//! Images as the kernel sees them, mounted nowhere.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use layermount_fixtures::requirement::skip;
use proptest::test_runner::{Config, TestRunner};
use rustix::fs::{
    AtFlags, Dir, FileType as Type, Mode, OFlags, fstat, getxattr, listxattr, major, minor, openat, readlinkat, statat,
};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen};

use super::build::{content, content_byte};
use super::*;
use crate::erofs::listing::{Shown, join, share};
use crate::erofs::reader::{Extent, Kind, Place};

/// Not on a tmpfs: EROFS mounts no files from there.
fn file(bytes: &[u8]) -> File {
    let file = tempfile::tempfile_in("/var/tmp").unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file
}

/// The root of a mount that ends with it.
struct Mounted {
    root: OwnedFd,
}

impl Mounted {
    fn new(tree: &Tree, files: &Files) -> Result<Self, Errno> {
        let path = |file: &File| format!("/proc/self/fd/{}", file.as_raw_fd());
        let image = file(&files.image(tree).unwrap());
        let devices =
            files.devices.iter().zip(1..).map(|(blocks, device)| {
                file(&(0..*blocks).flat_map(|block| content(device, block)).collect::<Vec<_>>())
            });
        let devices: Vec<_> = devices.collect();
        let context = fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(context.as_fd(), "source", path(&image))?;
        for device in &devices {
            fsconfig_set_string(context.as_fd(), "device", path(device))?;
        }
        fsconfig_create(context.as_fd())?;
        let root = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY)?;
        Ok(Self { root })
    }

    /// Everything there is, beside what files hold.
    fn listing(&self) -> (Listing, BTreeMap<Vec<u8>, Vec<Vec<u8>>>) {
        let mut things = BTreeMap::new();
        let mut contents = BTreeMap::new();
        let root = openat(&self.root, c".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let mut pending = vec![(Vec::new(), Rc::new(root), b".".to_vec())];
        while let Some((path, directory, name)) = pending.pop() {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = Rc::new(openat(&directory, name.as_slice(), flags, Mode::empty()).unwrap());
            let stat = fstat(&fd).unwrap();
            let proc = format!("/proc/self/fd/{}", fd.as_raw_fd());
            let kind = match Type::from_raw_mode(stat.st_mode) {
                Type::Directory => {
                    pending.extend(children(&fd).into_iter().map(|name| (join(&path, &name), Rc::clone(&fd), name)));
                    Kind::Directory
                }
                Type::RegularFile => {
                    contents.insert(path.clone(), samples(&File::open(&proc).unwrap(), stat.st_size as u64));
                    Kind::File { size: stat.st_size as u64, extents: Vec::new() }
                }
                Type::Symlink => {
                    let target = readlinkat(&fd, c"", Vec::new()).unwrap().into_bytes();
                    assert_eq!(target.len() as i64, stat.st_size);
                    Kind::Symlink(target)
                }
                Type::CharacterDevice => Kind::CharDevice { major: major(stat.st_rdev), minor: minor(stat.st_rdev) },
                Type::BlockDevice => Kind::BlockDevice { major: major(stat.st_rdev), minor: minor(stat.st_rdev) },
                Type::Fifo => Kind::Fifo,
                other => panic!("{other:?}"),
            };
            let shown = Shown {
                kind,
                mode: (stat.st_mode & 0o7777) as u16,
                uid: stat.st_uid,
                gid: stat.st_gid,
                mtime: (stat.st_mtime, stat.st_mtime_nsec as u32),
                links: stat.st_nlink as u32,
                xattrs: xattrs(&proc),
                inode: Vec::new(),
            };
            assert!(things.insert(path, (stat.st_ino, shown)).is_none());
        }
        let numbers = things.iter().map(|(path, (number, _))| (path.clone(), *number)).collect();
        let first = share(&numbers);
        let show = |(path, (number, mut shown)): (Vec<u8>, (u64, Shown))| {
            shown.inode = first[&number].clone();
            (path, shown)
        };
        (things.into_iter().map(show).collect(), contents)
    }
}

/// All that `readdir` shows, each found by its name.
fn children(directory: &OwnedFd) -> Vec<Vec<u8>> {
    let opened = openat(directory, c".", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let mut children = Vec::new();
    for entry in Dir::new(opened).unwrap() {
        let entry = entry.unwrap();
        let stat = statat(directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW).unwrap();
        assert_eq!(entry.file_type(), Type::from_raw_mode(stat.st_mode), "{entry:?}");
        let name = entry.file_name().to_bytes().to_vec();
        if matches!(name.as_slice(), b"." | b"..") {
            continue;
        }
        assert_eq!(entry.ino(), stat.st_ino, "{entry:?}");
        children.push(name);
    }
    children
}

fn xattrs(path: &str) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut list = vec![0; 65536];
    let length = listxattr(path, list.as_mut_slice()).unwrap();
    let names = list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let get = |name: &[u8]| {
        let mut value = vec![0; 65536];
        let length = getxattr(path, OsStr::from_bytes(name), value.as_mut_slice()).unwrap();
        value.truncate(length);
        (name.to_vec(), value)
    };
    names.map(get).collect()
}

/// Where files are looked at: all of a small one, beginning and end of others.
fn sampled(size: u64) -> Vec<(u64, usize)> {
    const MUCH: u64 = 1 << 18;
    if size <= MUCH { vec![(0, size as usize)] } else { vec![(0, MUCH as usize), (size - 5000, 5000)] }
}

fn samples(file: &File, size: u64) -> Vec<Vec<u8>> {
    let read = |(offset, length)| {
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, offset).unwrap();
        bytes
    };
    sampled(size).into_iter().map(read).collect()
}

/// The same from where the content lies.
fn expected_samples(size: u64, extents: &[Extent]) -> Vec<Vec<u8>> {
    let byte = |offset: u64| {
        let mut block = offset / 512;
        for extent in extents {
            if block < extent.blocks {
                return match extent.place {
                    Place::Hole => 0,
                    Place::At { device, block: first } => {
                        content_byte(device, first + block as u32, offset as usize % 512)
                    }
                };
            }
            block -= extent.blocks;
        }
        panic!("nothing lies at {offset}")
    };
    let read = |(offset, length): (u64, usize)| (offset..offset + length as u64).map(byte).collect();
    sampled(size).into_iter().map(read).collect()
}

#[track_caller]
fn assert_mounts(tree: &Tree, files: &Files) {
    let mounted = Mounted::new(tree, files).unwrap();
    let (found, contents) = mounted.listing();
    let mut listing = expected(tree);
    for (path, shown) in &mut listing {
        if let Kind::File { size, extents } = &mut shown.kind {
            let extents = std::mem::take(extents);
            assert!(contents[path] == expected_samples(*size, &extents), "{}", path.escape_ascii());
        }
    }
    assert_eq!(found.keys().collect::<Vec<_>>(), listing.keys().collect::<Vec<_>>());
    for (path, shown) in &found {
        assert_eq!(shown, &listing[path], "{}", path.escape_ascii());
    }
}

/// Whether images can be mounted here.
fn can_mount() -> bool {
    if !rustix::process::geteuid().is_root() {
        skip("root", "EROFS can be mounted by root only");
        return false;
    }
    match Mounted::new(&Builder::new().finish(), &Files::in_one(0)) {
        Ok(_) => true,
        Err(errno) => {
            skip("erofs", &format!("an EROFS image in /var/tmp cannot be mounted: {errno}"));
            false
        }
    }
}

#[test]
fn the_kernel_sees_everything() {
    if can_mount() {
        for files in [Files::in_one(64), Files::apart(vec![100, 1, 7])] {
            assert_mounts(&build::everything(&files), &files);
        }
    }
}

#[test]
fn the_kernel_sees_random_trees_as_they_are() {
    if can_mount() {
        let mut runner = TestRunner::new(Config { cases: 24, failure_persistence: None, ..Config::default() });
        let result = runner.run(&random::plans(), |(files, tree)| {
            assert_mounts(&tree, &files);
            Ok(())
        });
        result.unwrap();
    }
}

#[test]
fn the_kernel_finds_every_name_of_a_large_directory() {
    if !can_mount() {
        return;
    }
    let mut builder = Builder::new();
    let name = |number: u32| format!("name-{:x}", number.wrapping_mul(2_654_435_761));
    for number in 0..100_000 {
        builder.file(named(name(number).as_bytes()));
    }
    let mounted = Mounted::new(&builder.finish(), &Files::in_one(0)).unwrap();
    let root = openat(&mounted.root, c".", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    assert_eq!(Dir::new(root).unwrap().count(), 100_002);
    for number in 0..100_000 {
        statat(&mounted.root, name(number), AtFlags::SYMLINK_NOFOLLOW).unwrap();
        let missing = statat(&mounted.root, format!("{}-", name(number)), AtFlags::SYMLINK_NOFOLLOW);
        assert_eq!(missing.map(|_| ()), Err(Errno::NOENT));
    }
}
