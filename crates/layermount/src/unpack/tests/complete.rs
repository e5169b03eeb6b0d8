use std::os::unix::fs::MetadataExt;

use layermount_fixtures::case;
use serde_json::{Value, json};

use super::*;

fn stack(xattrs: OverlayXattrs, layers: &[Value]) -> (Stack, Vec<Unpacked>) {
    let mut stack = Stack::new(options(xattrs));
    let unpacked = (layers.iter())
        .map(|entries| stack.push(&case::archive(entries.as_array().unwrap(), "").unwrap()).unwrap())
        .collect();
    (stack, unpacked)
}

fn stat(stack: &Stack, path: &str) -> fs::Metadata {
    fs::symlink_metadata(stack.top().join(path)).unwrap()
}

#[test]
fn implied_directories_keep_what_lower_layers_say() {
    let (stack, unpacked) = stack(
        OverlayXattrs::User,
        &[
            json!([
                {"name": "d", "type": "dir", "mode": "0700", "mtime": 50, "xattrs": {"user.a": "low"}},
                {"name": "d/e", "type": "dir", "mode": "0711", "mtime": 60},
                {"name": "gone", "type": "dir", "mode": "0700"},
                {"name": "file", "type": "file"},
            ]),
            json!([
                {"name": "d", "type": "dir", "mode": "0750", "mtime": 70, "xattrs": {"user.a": "mid"}},
                {"name": ".wh.gone", "type": "file"},
            ]),
            json!([
                {"name": "d/e/new/f", "type": "file"},
                {"name": "gone/f", "type": "file"},
                {"name": "file/f", "type": "file"},
            ]),
        ],
    );
    assert!(unpacked[1].open.is_empty());
    assert_eq!(unpacked[2].open.implied.len(), 5);
    let shape = |path: &str| (stat(&stack, path).mode() & 0o7777, stat(&stack, path).mtime());
    assert_eq!(shape("d"), (0o750, 70));
    assert_eq!(shape("d/e"), (0o711, 60));
    assert_eq!(shape("d/e/new"), (0o755, 0));
    assert_eq!(shape("gone"), (0o755, 0));
    assert_eq!(shape("file"), (0o755, 0));
    let mut value = [0; 3];
    rustix::fs::lgetxattr(stack.top().join("d"), c"user.a", &mut value[..]).unwrap();
    assert_eq!(&value, b"mid");
}

#[test]
fn directories_of_whiteouts_exist_only_over_lower_ones() {
    let (stack, _) = stack(
        OverlayXattrs::User,
        &[
            json!([{"name": "there", "type": "dir", "mode": "0700"}, {"name": "there/x", "type": "file"}]),
            json!([
                {"name": "there/.wh.x", "type": "file"},
                {"name": "not/here/.wh.x", "type": "file"},
                {"name": "named", "type": "dir", "mtime": 5},
                {"name": "named/not/.wh.x", "type": "file"},
            ]),
        ],
    );
    assert_eq!(stat(&stack, "there").mode() & 0o7777, 0o700);
    assert!(!stack.top().join("not").exists());
    assert!(!stack.top().join("named/not").exists());
    assert_eq!(stat(&stack, "named").mtime(), 5);
    if is_root() {
        let names: Vec<_> = stack.mount().listing().into_keys().collect();
        assert_eq!(names, [b"named/".to_vec(), b"there/".to_vec()]);
    }
}

#[test]
fn hard_links_into_lower_layers_are_copied_up_and_linked() {
    let base = json!([
        {"name": "etc", "type": "dir", "mode": "0700", "mtime": 3},
        {"name": "etc/f", "type": "file", "mode": "0640", "mtime": 4, "content": "low", "xattrs": {"user.a": "b"}},
        {"name": "conf", "type": "symlink", "linkname": "/etc"},
    ]);
    let (stack_, unpacked) = stack(
        OverlayXattrs::User,
        &[
            base.clone(),
            json!([
                {"name": "d", "type": "dir", "mtime": 9},
                {"name": "d/one", "type": "hardlink", "linkname": "conf/f"},
                {"name": "two", "type": "hardlink", "linkname": "/etc/f"},
            ]),
        ],
    );
    assert_eq!(unpacked[1].open.links.len(), 2);
    let inode = stat(&stack_, "etc/f").ino();
    for name in ["d/one", "two"] {
        assert_eq!(stat(&stack_, name).ino(), inode);
    }
    let copied = stat(&stack_, "two");
    assert_eq!((copied.mode() & 0o7777, copied.mtime(), copied.nlink()), (0o640, 4, 3));
    assert_eq!(fs::read(stack_.top().join("two")).unwrap(), b"low");
    assert_eq!(stat(&stack_, "d").mtime(), 9);
    assert_eq!((stat(&stack_, "etc").mode() & 0o7777, stat(&stack_, "etc").mtime()), (0o700, 3));
    // A layer that hides the target's own place has the link alone.
    let (hiding, _) = stack(
        OverlayXattrs::User,
        &[
            base.clone(),
            json!([
                {"name": ".wh.etc", "type": "file"},
                {"name": "two", "type": "hardlink", "linkname": "etc/f"},
                {"name": "three", "type": "hardlink", "linkname": "conf/f"},
            ]),
        ],
    );
    assert_eq!((stat(&hiding, "two").nlink(), stat(&hiding, "etc").rdev()), (2, 0));
    assert_eq!(stat(&hiding, "two").ino(), stat(&hiding, "three").ino());
    for (lower, target) in [(json!([]), "f"), (base.clone(), "etc"), (base, "etc/f/g")] {
        let mut dangling = Stack::new(options(OverlayXattrs::User));
        let archive = |entries: &Value| case::archive(entries.as_array().unwrap(), "").unwrap();
        dangling.push(&archive(&lower)).unwrap();
        let error =
            dangling.push(&archive(&json!([{"name": "l", "type": "hardlink", "linkname": target}]))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidLayer, "{error:#}");
    }
}

#[test]
fn an_opaque_root_needs_nothing_from_below() {
    let (stack, unpacked) = stack(
        OverlayXattrs::User,
        &[
            json!([{"name": "d", "type": "dir", "mode": "0700"}, {"name": "a", "type": "file"}]),
            json!([{"name": "d/f", "type": "file"}, {"name": ".wh.a", "type": "file"}, {"name": ".wh..wh..opq", "type": "file"}]),
        ],
    );
    assert!(unpacked[1].opaque_root && unpacked[1].open.is_empty());
    assert_eq!((stat(&stack, "d").mode() & 0o7777, stack.top().join("a").exists()), (0o755, false));
}

/// What random stacks of layers found out.
#[test]
fn links_meet_what_else_the_layer_says() {
    let low = json!([
        {"name": "a/a", "type": "file", "content": "low"},
        {"name": "etc/f", "type": "file", "content": "f"},
        {"name": "conf", "type": "symlink", "linkname": "etc"},
        {"name": "turn", "type": "symlink", "linkname": "turn"},
    ]);
    let names = |layer: Value| {
        let (stack, _) = stack(OverlayXattrs::User, &[low.clone(), layer]);
        let mut names: Vec<_> = fs::read_dir(stack.top()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    // A whiteout under a file says nothing, and the file is not hidden by it.
    assert_eq!(
        names(json!([
            {"name": "a/a/b/.wh.c", "type": "file"},
            {"name": "l", "type": "hardlink", "linkname": "a/a"},
        ])),
        ["a", "l"]
    );
    // A link that takes its target's parent away.
    assert_eq!(names(json!([{"name": "a", "type": "hardlink", "linkname": "a/a"}])), ["a"]);
    // An opaque root hides the target's place, and no mark on disk says so.
    assert_eq!(
        names(json!([
            {"name": "l", "type": "hardlink", "linkname": "a/a"},
            {"name": ".wh..wh..opq", "type": "file"},
        ])),
        ["l"]
    );
    // Whatever this layer has in the target's place, through lower symlinks a link leads to the lower file.
    let at_the_place = [
        json!({"name": "etc/f/x", "type": "file"}),
        json!({"name": "etc/f", "type": "file"}),
        json!({"name": "etc/f", "type": "hardlink", "linkname": "a/a"}),
    ];
    for other in at_the_place {
        let link = json!({"name": "l", "type": "hardlink", "linkname": "conf/f"});
        let (stack, _) = stack(OverlayXattrs::User, &[low.clone(), json!([other, link])]);
        assert_eq!(fs::read(stack.top().join("l")).unwrap(), b"f");
        assert_eq!(stat(&stack, "l").nlink(), 1);
    }
    for refused in [
        json!([{"name": "etc/new", "type": "file"}, {"name": "l", "type": "hardlink", "linkname": "conf/new"}]),
        json!([{"name": "l", "type": "hardlink", "linkname": "turn/f"}]),
    ] {
        let mut stack = Stack::new(options(OverlayXattrs::User));
        let archive = |entries: &Value| case::archive(entries.as_array().unwrap(), "").unwrap();
        stack.push(&archive(&low)).unwrap();
        let error = stack.push(&archive(&refused)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidLayer, "{error:#}");
    }
}

/// Of a set-group-ID directory and of one with a default ACL, as acl(5) and open(2) would have it.
#[test]
fn copies_inherit_nothing_from_the_directories_they_are_made_in() {
    if !is_root() {
        return skip("root", "files are given to another group");
    }
    // Version 2, and rwx for the owner, user 7, the group, the mask and others.
    let mut acl = vec![2, 0, 0, 0];
    for (tag, id) in [(1_u16, u32::MAX), (2, 7), (4, u32::MAX), (0x10, u32::MAX), (0x20, u32::MAX)] {
        acl.extend([&tag.to_le_bytes()[..], &7_u16.to_le_bytes(), &id.to_le_bytes()].concat());
    }
    let name = c"system.posix_acl_default";
    let probe = tempfile::tempdir().unwrap();
    if rustix::fs::setxattr(probe.path(), name, &acl, rustix::fs::XattrFlags::empty()).is_err() {
        return skip("acl", "this file system has no ACLs");
    }
    let coded = case::base64(&acl);
    let mut stack = Stack::new(options(OverlayXattrs::User));
    let layers = stack.place().join("layers");
    rustix::fs::setxattr(&layers, name, &acl, rustix::fs::XattrFlags::empty()).unwrap();
    let mut push = |entries: Value| stack.push(&case::archive(entries.as_array().unwrap(), "").unwrap()).unwrap();
    push(json!([
        {"name": "d/f", "type": "file", "mode": "0640"},
        {"name": "d/p", "type": "fifo", "mode": "0640"},
        {"name": "d/e/f", "type": "file", "mode": "0640"},
    ]));
    push(json!([
        {"name": "d", "type": "dir", "mode": "2755", "gid": 1000, "xattrs": {"system.posix_acl_default": coded}},
        {"name": "f", "type": "hardlink", "linkname": "d/f"},
        {"name": "p", "type": "hardlink", "linkname": "d/p"},
        {"name": "e", "type": "hardlink", "linkname": "d/e/f"},
    ]));
    let has =
        |path: &str, name: &str| rustix::fs::lgetxattr(stack.top().join(path), name, &mut [0_u8; 100][..]).is_ok();
    assert!(has("d", "system.posix_acl_default"), "the archive's own");
    for path in ["d/f", "d/p", "d/e", "d/e/f", "."] {
        let stat = stat(&stack, path);
        assert_eq!((stat.gid(), stat.mode() & 0o2000), (0, 0), "{path}");
        assert!(!has(path, "system.posix_acl_access"), "{path}");
        assert!(!has(path, "system.posix_acl_default"), "{path}");
    }
}
