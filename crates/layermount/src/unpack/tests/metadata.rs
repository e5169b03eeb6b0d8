use std::os::unix::fs::{FileTypeExt, MetadataExt};

use layermount_fixtures::case;
use serde_json::{Value, json};

use super::*;

fn layer(xattrs: OverlayXattrs, entries: Value) -> (Stack, Unpacked) {
    let mut stack = Stack::new(options(xattrs));
    let unpacked = stack.push(&case::archive(entries.as_array().unwrap(), "").unwrap()).unwrap();
    (stack, unpacked)
}

fn stat(stack: &Stack, path: &str) -> fs::Metadata {
    fs::symlink_metadata(stack.top().join(path)).unwrap()
}

#[test]
fn modes_and_times_are_the_archives_own() {
    let (stack, unpacked) = layer(
        OverlayXattrs::Trusted,
        json!([
            {"name": "closed/inner/f", "type": "file", "mode": "0000", "content": "x", "mtime": -5},
            {"name": "closed/inner", "type": "dir", "mode": "0000", "mtime": 7},
            {"name": "closed", "type": "dir", "mode": "1000", "mtime": 8},
            {"name": "su", "type": "file", "mode": "6755", "mtime": 8_589_934_592_i64},
            {"name": "far", "type": "file", "mtime": i64::MAX},
            {"name": "pipe", "type": "fifo", "mode": "0622", "mtime": 9},
            {"name": "l", "type": "symlink", "linkname": "nowhere", "mtime": 10},
            {"name": "./", "type": "dir", "mode": "0711", "mtime": 11},
        ]),
    );
    assert_eq!((stat(&stack, "closed").mode() & 0o7777, stat(&stack, "closed").mtime()), (0o1000, 8));
    assert_eq!((stat(&stack, "su").mode() & 0o7777, stat(&stack, "su").mtime()), (0o6755, 1 << 33));
    assert!(stat(&stack, "far").mtime() > 1 << 33);
    assert_eq!((stat(&stack, "pipe").mode() & 0o7777, stat(&stack, "pipe").mtime()), (0o622, 9));
    assert!(stat(&stack, "pipe").file_type().is_fifo());
    assert_eq!(stat(&stack, "l").mtime(), 10);
    if is_root() {
        let inner = stat(&stack, "closed/inner");
        assert_eq!((inner.mode() & 0o7777, inner.mtime()), (0, 7));
        assert_eq!(stat(&stack, "closed/inner/f").mtime(), -5);
    }
    let root = unpacked.root.unwrap();
    assert_eq!((root.mode, root.mtime), (0o711, (11, 0)));
    assert!(unpacked.open.is_empty());
    assert_eq!((unpacked.entries, unpacked.bytes), (8, 1));
}

#[test]
fn owners_devices_and_hard_links() {
    if !is_root() {
        return skip("root", "only root can give files away");
    }
    let (stack, unpacked) = layer(
        OverlayXattrs::Trusted,
        json!([
            {"name": "f", "type": "file", "mode": "4711", "uid": 4_294_967_294_u32, "gid": 5, "content": "x",
             "xattrs": {"security.capability": "b64:AQAAAgAgAAAAAAAAAAAAAAAAAAA="}},
            {"name": "h", "type": "hardlink", "linkname": "/f", "mode": "0777", "uid": 1},
            {"name": "l", "type": "symlink", "linkname": "f", "uid": 6, "gid": 7},
            {"name": "n", "type": "char", "devmajor": 1, "devminor": 3, "mode": "0666", "uid": 8},
            {"name": "b", "type": "block", "devmajor": 259, "devminor": 65_537, "mode": "0660"},
            {"name": "n2", "type": "hardlink", "linkname": "n"},
        ]),
    );
    let file = stat(&stack, "f");
    assert_eq!((file.uid(), file.gid(), file.mode() & 0o7777, file.nlink()), (4_294_967_294, 5, 0o4711, 2));
    assert_eq!(file.ino(), stat(&stack, "h").ino());
    assert!(rustix::fs::lgetxattr(stack.top().join("f"), c"security.capability", &mut [0_u8; 64][..]).is_ok());
    assert_eq!((stat(&stack, "l").uid(), stat(&stack, "l").gid()), (6, 7));
    let null = stat(&stack, "n");
    assert_eq!((null.rdev(), null.mode() & 0o7777, null.uid(), null.nlink()), (rustix::fs::makedev(1, 3), 0o666, 8, 2));
    assert_eq!(stat(&stack, "b").rdev(), rustix::fs::makedev(259, 65_537));
    assert_eq!(unpacked.skipped, Skipped::default());
}

/// The kernel unescapes what we escape, and acts on none of it.
#[test]
fn overlay_attributes_of_an_archive_are_inert() {
    if !is_root() {
        return skip("root", "an overlay is mounted");
    }
    for namespace in [OverlayXattrs::Trusted, OverlayXattrs::User] {
        let mut stack = Stack::new(options(namespace));
        let mut push = |entries: Value| stack.push(&case::archive(entries.as_array().unwrap(), "").unwrap()).unwrap();
        push(json!([
            {"name": "secret", "type": "dir", "mode": "0700"},
            {"name": "secret/key", "type": "file", "content": "k"},
            {"name": "d", "type": "dir"},
            {"name": "d/low", "type": "file"},
        ]));
        let unpacked = push(json!([
            {"name": "d", "type": "dir", "xattrs": {
                "trusted.overlay.opaque": "y", "user.overlay.opaque": "y", "trusted.overlay.redirect": "/secret",
                "user.overlay.redirect": "/secret", "trusted.other": "x", "user.mine": "kept"}},
            {"name": "d/f", "type": "file", "xattrs": {"trusted.overlay.metacopy": "", "user.overlay.overlay.x": "1"}},
            {"name": "l", "type": "symlink", "linkname": "f", "xattrs": {"user.mine": "dropped"}},
        ]));
        let mounted = stack.mount();
        let names: Vec<_> = mounted.listing().into_keys().map(|name| String::from_utf8(name).unwrap()).collect();
        assert_eq!(names, ["d/", "d/f", "d/low", "l", "secret/", "secret/key"]);
        let directory = mounted.find(b"d").unwrap();
        let (ours, other) = match namespace {
            OverlayXattrs::Trusted => ("trusted", "user"),
            OverlayXattrs::User => ("user", "trusted"),
        };
        // Shown to those inside under the archive's own name (Linux 6.7 and later), the other namespace not at all.
        assert_eq!(directory.xattr(&format!("{ours}.overlay.opaque")), Some(b"y".to_vec()));
        assert_eq!(directory.xattr(&format!("{other}.overlay.opaque")), None);
        assert_eq!(directory.xattr("user.mine"), Some(b"kept".to_vec()));
        assert_eq!(directory.xattr("trusted.other"), None);
        let nested = mounted.find(b"d/f").unwrap().xattr("user.overlay.overlay.x");
        assert_eq!(nested.is_some(), namespace == OverlayXattrs::User);
        // Two of the other namespace and trusted.other on d, one of the other namespace on d/f, one on the symlink.
        assert_eq!(unpacked.skipped.xattrs, 5);
    }
}

#[test]
fn holes_stay_holes() {
    let records = "22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n31 GNU.sparse.realsize=8388611\n";
    let map = format!("2\n0\n3\n8388608\n3\n{}abcdef", "\0".repeat(512 - 16));
    let tar = case::raw(&[
        json!({"hdr": {"name": "pax", "type": "x", "data": records}}),
        json!({"hdr": {"name": "f", "type": "0", "data": map}}),
        json!({"zeros": 1024}),
    ])
    .unwrap();
    let mut stack = Stack::new(options(OverlayXattrs::Trusted));
    assert_eq!(stack.push(&tar).unwrap().bytes, 6);
    let content = fs::read(stack.top().join("f")).unwrap();
    assert_eq!(content.len(), 8_388_611);
    assert!(content.starts_with(b"abc\0") && content.ends_with(b"\0def"));
    assert!(stat(&stack, "f").blocks() * 512 < 1 << 20);
}

#[test]
fn an_ordinary_user_gets_everything_but_devices() {
    let options = UnpackOptions { ownership: Ownership::Squash, ..options(OverlayXattrs::User) };
    let mut stack = Stack::new(options);
    let tar = json!([
        {"name": "f", "type": "file", "uid": 77, "gid": 77},
        {"name": "d", "type": "dir", "mode": "0000", "uid": 77},
        {"name": "d/.wh.x", "type": "file"},
        {"name": "ro", "type": "file", "mode": "0444", "xattrs": {"user.a": "b"}},
    ]);
    let unpacked = stack.push(&case::archive(tar.as_array().unwrap(), "").unwrap()).unwrap();
    assert_eq!(stat(&stack, "f").uid(), rustix::process::geteuid().as_raw());
    assert_eq!(unpacked.skipped, Skipped { owners: 2, ..Skipped::default() });
    assert!(rustix::fs::lgetxattr(stack.top().join("ro"), c"user.a", &mut [0_u8; 8][..]).is_ok());
}

/// A default ACL of the place that the store lies in is not the image's.
#[test]
fn nothing_is_inherited() {
    let place = tempfile::tempdir().unwrap();
    let tag =
        |tag: u16, rights: u16, id: u32| [&tag.to_le_bytes()[..], &rights.to_le_bytes(), &id.to_le_bytes()].concat();
    let nobody = u32::MAX;
    let entries = [tag(1, 7, nobody), tag(2, 7, 1000), tag(4, 5, nobody), tag(0x10, 7, nobody), tag(0x20, 5, nobody)];
    let acl = [&2_u32.to_le_bytes()[..], &entries.concat()].concat();
    let set = rustix::fs::setxattr(place.path(), "system.posix_acl_default", &acl, rustix::fs::XattrFlags::empty());
    if set == Err(Errno::OPNOTSUPP) {
        return skip("acl", "the file system of temporary files has no ACLs");
    }
    set.unwrap();
    let tar = json!([{"name": "d", "type": "dir", "mode": "0750"}, {"name": "d/f", "type": "file", "mode": "0640"}]);
    let tar = case::archive(tar.as_array().unwrap(), "").unwrap();
    let into = open(place.path());
    unpack(&mut &*tar, into.as_fd(), &mut io::sink(), &options(OverlayXattrs::User)).unwrap();
    for (path, mode) in [("d", 0o750), ("d/f", 0o640)] {
        let path = place.path().join(path);
        assert_eq!(fs::symlink_metadata(&path).unwrap().mode() & 0o7777, mode);
        for kind in ["access", "default"] {
            let name = format!("system.posix_acl_{kind}");
            let found = rustix::fs::lgetxattr(&path, name.as_str(), &mut [0_u8; 64][..]);
            assert_eq!(found, Err(Errno::NODATA), "{name} of {path:?}");
        }
    }
}
