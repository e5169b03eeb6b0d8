#![allow(clippy::disallowed_methods, reason = "tests make and read their surroundings by path")]

mod build;
mod damage;
mod kernel;
mod random;

use super::*;
use crate::erofs::format::MAX_CHUNK_BITS;
use crate::erofs::listing::{Listing, expected, seen};
use crate::erofs::reader;
use crate::erofs::tree::{Data, HOLE};
use crate::layer::Device;
use build::{Builder, Files, named};

/// What the reader finds is the tree that was written.
#[track_caller]
fn assert_comes_back(tree: &Tree, files: &Files) {
    let image = files.image(tree).unwrap();
    let read = reader::read(&image, &files.device_bytes()).unwrap();
    assert!(seen(&read) == expected(tree), "another tree came back");
}

#[test]
fn an_empty_root_is_an_image_of_two_pages() {
    let tree = Builder::new().finish();
    let files = Files::in_one(0);
    assert_comes_back(&tree, &files);
    let image = files.image(&tree).unwrap();
    assert_eq!(image.len(), 4096);
    // Read by other programs as well, such as blkid.
    assert_eq!(image[1024..1028], [0xe2, 0xe1, 0xf5, 0xe0]);
    assert_eq!(&image[1024 + 64..1024 + 74], b"layermount");
}

#[test]
fn everything_comes_back() {
    assert_comes_back(&build::everything(&Files::in_one(64)), &Files::in_one(64));
    let apart = Files::apart(vec![100, 1, 7]);
    assert_comes_back(&build::everything(&apart), &apart);
}

#[test]
fn dots_are_sorted_among_the_names() {
    let mut builder = Builder::new();
    for name in [&b"-"[..], b"!", b".-", b"...", b".a", b"0", b"\xff", b"\x01"] {
        builder.file(named(name));
    }
    let tree = builder.finish();
    let root = names(&tree, tree.directory(InodeId::ROOT).unwrap()).map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(root, [&b"\x01"[..], b"!", b"-", b".", b".-", b"..", b"...", b".a", b"0", b"\xff"]);
    assert_comes_back(&tree, &Files::in_one(0));
}

#[test]
fn a_directory_of_a_hundred_thousand_names_comes_back() {
    let mut builder = Builder::new();
    for number in 0..100_000 {
        builder.file(named(format!("some-name-{number:x}").as_bytes()));
    }
    assert_comes_back(&builder.finish(), &Files::in_one(0));
}

#[test]
fn ends_of_every_length_come_back() {
    // Directories and symlinks around the size of a block, with xattrs that move them.
    for length in (1..60).chain(380..530).chain([1023, 1024, 1025, 4095]) {
        let mut builder = Builder::new();
        for value in [None, Some(0), Some(3), Some(20), Some(500)] {
            let xattrs: Vec<_> = value.map(|length| (b"user.x".to_vec(), vec![b'v'; length])).into_iter().collect();
            let metadata = builder.metadata(xattrs);
            let name = format!("{value:?}");
            builder.symlink(named(name.as_bytes()), metadata, &vec![b'l'; length]);
            let directory = builder.directory(named(format!("d{name}").as_bytes()), metadata);
            // Together with `.` and `..` as long as the symlink.
            for rest in (0..length.saturating_sub(27)).step_by(200) {
                let name = vec![b'n'; (length - 27 - rest).min(200).saturating_sub(12)];
                if !name.is_empty() {
                    builder.file(build::Where { directory, ..named(&[format!("{rest}").as_bytes(), &name].concat()) });
                }
            }
        }
        assert_comes_back(&builder.finish(), &Files::in_one(0));
    }
}

#[test]
fn overlayfs_is_told_what_it_asks_for() {
    let marks = |opaque, whiteout| {
        let mut builder = Builder::new();
        builder.opaque_root(opaque);
        let directory =
            if opaque { builder.opaque(named(b"d")) } else { builder.directory(named(b"d"), tree::Metadata::IMPLIED) };
        if whiteout {
            builder.name(named(b"gone"), Child::Whiteout);
            builder.name(build::Where { directory, name: b"gone" }, Child::Whiteout);
        }
        let tree = builder.finish();
        let read = reader::read(&Files::in_one(0).image(&tree).unwrap(), &[]).unwrap();
        let listing = seen(&read);
        [&b""[..], b"d"].map(|path| {
            let xattrs = &listing[path].xattrs;
            xattrs.keys().map(|name| String::from_utf8(name.clone()).unwrap()).collect::<Vec<_>>().join(" ")
        })
    };
    let (opaque, origin) = ("trusted.overlay.opaque", "trusted.overlay.origin");
    assert_eq!(marks(false, false), ["", ""]);
    assert_eq!(marks(false, true), [origin, origin]);
    assert_eq!(marks(true, false), ["", opaque]);
    assert_eq!(marks(true, true), [origin, opaque]);
}

#[test]
fn inodes_that_no_name_leads_to_are_left_out() {
    let mut builder = Builder::new();
    builder.file(named(b"kept"));
    let kept = builder.finish();
    let mut builder = Builder::new();
    builder.orphan(What::Fifo);
    builder.orphan(What::Directory(Directory::new(tree::Named::Here, false)));
    builder.file(named(b"kept"));
    let tree = builder.finish();
    let files = Files::in_one(0);
    assert_eq!(seen(&reader::read(&files.image(&tree).unwrap(), &[]).unwrap()), expected(&kept));
    assert_eq!(files.image(&tree).unwrap(), files.image(&kept).unwrap());
}

#[test]
fn a_file_in_another_file_is_one_chunk_if_it_can_be() {
    for (blocks, bits, chunks) in [(1_u64, 0, 1), (2, 1, 1), (3, 2, 1), (1 << 31, 31, 1), ((1 << 31) + 1, 31, 2)] {
        let mut builder = Builder::new();
        let data = Data::Plain { device: 1, block: 5 };
        builder.put(named(b"f"), What::File { size: blocks * 512 - 1, data });
        let tree = builder.finish();
        let body = Body::new(&tree, tree.ids().nth(1).unwrap(), &tree.inodes()[1]).unwrap();
        let Content::Chunks { device: 1, bits: found, blocks: list } = body.content else { panic!("{body:?}") };
        assert_eq!((found, list.count(), list.get(0, bits)), (bits, chunks, 5), "{blocks}");
        assert!(found <= MAX_CHUNK_BITS);
        let files = Files::apart(vec![u32::MAX]);
        assert_comes_back(&tree, &files);
    }
}

#[test]
fn what_erofs_cannot_hold_is_said_with_its_path() {
    let refused = |xattrs: Vec<(Vec<u8>, Vec<u8>)>, what: Option<What>| {
        let mut builder = Builder::new();
        let plain = builder.metadata(Vec::new());
        let metadata = builder.metadata(xattrs);
        let directory = builder.directory(named(b"a"), plain);
        let directory = builder.directory(build::Where { directory, ..named(b"b\n") }, plain);
        let at = build::Where { directory, ..named(b"c") };
        builder.put_with(at, metadata, what.unwrap_or(What::Fifo));
        let tree = builder.finish();
        let mut out = Vec::new();
        let target = Target { first_block: 8, devices: &[] };
        let error = write(&tree, &target, &mut out).unwrap_err();
        assert!(out.is_empty(), "nothing was written");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(error.hint().as_deref(), Some("use --backing dir"));
        error.to_string()
    };
    let xattr = |name: &str, length| vec![(name.as_bytes().to_vec(), vec![0; length])];
    for (xattrs, what, reason) in [
        (xattr("user.a", 65536), None, "an xattr has more than 65535 bytes"),
        (xattr("system.nfs4_acl", 1), None, "an xattr's name has a prefix that EROFS does not have"),
        (xattr("system.posix_acl_access2", 1), None, "an xattr's name has a prefix that EROFS does not have"),
        (xattr(&format!("user.{}", "n".repeat(251)), 1), None, "an xattr's name has more than 255 bytes"),
        (
            (0..5).flat_map(|number| xattr(&format!("user.{number}"), 60_000)).collect(),
            None,
            "its xattrs have more than 256 KiB",
        ),
        (Vec::new(), Some(What::CharDevice(Device { major: 4096, minor: 0 })), "Linux has no device of this number"),
        (
            Vec::new(),
            Some(What::BlockDevice(Device { major: 0, minor: 1 << 20 })),
            "Linux has no device of this number",
        ),
        (
            Vec::new(),
            Some(What::File { size: u64::MAX, data: Data::Chunks { device: 0, bits: 31, first: 0 } }),
            "it has more than 2^63 bytes",
        ),
        (
            Vec::new(),
            Some(What::File { size: 513, data: Data::Plain { device: 0, block: HOLE - 1 } }),
            "it lies behind the 2^32 blocks that have addresses",
        ),
    ] {
        assert_eq!(refused(xattrs, what), format!("EROFS cannot hold \"a/b\\n/c\": {reason}"));
    }
    let image = |first_block| {
        let target = Target { first_block, devices: &[] };
        write(&Builder::new().finish(), &target, &mut io::sink())
    };
    assert!(image(u32::MAX - 15).is_ok());
    assert!(matches!(image(u32::MAX - 1), Err(WriteError::TooLarge(_))));
}

#[test]
fn failures_to_write_are_the_operating_systems() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error()))
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let target = Target { first_block: 8, devices: &[] };
    let error = write(&Builder::new().finish(), &target, &mut Full).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
}

#[test]
fn the_front_has_room_for_all_devices() {
    for (devices, blocks) in [(0, 3), (3, 3), (4, 4), (7, 4), (8, 5)] {
        assert_eq!(front_blocks(devices), blocks);
    }
}
