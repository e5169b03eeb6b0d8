//! The conformance tests once more, as the root of a user namespace: with the owners of its map, and with one owner.
//!
//! A process with the threads of a test harness enters no user namespace. Each of these tests therefore runs this same program
//! again, in a namespace that it gives its map, and there that one test alone.

use std::process::{Command, Stdio};

use layermount_fixtures::{Entry, Kind, Layer, stacks as random};
use rustix::io::Errno;

use super::stacks::{FLATTENED, MOUNTED};
use super::*;

/// As many as Debian grants, and root.
const RANGES: Users = Users::Mapped(65_537);

/// Runs `test`, whose name in this file is `name`, where there are these users.
fn among(wanted: Users, name: &str, test: fn()) {
    match users() {
        Some(users) if users == wanted => test(),
        _ if is_root() => run_again(wanted, name),
        _ => skip("root", "only root can give a user namespace any map"),
    }
}

fn run_again(users: Users, name: &str) {
    let mut command = Command::new("unshare");
    // It waits for its map. As a root that is in the map from the beginning, the program has all capabilities.
    command.args([
        "--user",
        "--mount",
        "--propagation",
        "private",
        "--",
        "sh",
        "-uc",
        "read line || exec \"$@\"",
        "sh",
    ]);
    command.arg(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("{}::{name}", module_path!().split_once("::").unwrap().1), "--nocapture"]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/user")).unwrap();
    let pid = child.id().to_string();
    while namespace(&pid) == namespace("self") {
        assert_eq!(child.try_wait().unwrap(), None, "unshare (util-linux) makes no user namespace");
        std::thread::yield_now();
    }
    let map = match users {
        Users::One => "0 0 1".to_owned(),
        Users::Mapped(count) => format!("0 0 1\n1 100000 {}", count - 1),
    };
    for file in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/{pid}/{file}"), &map).unwrap();
    }
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success(), "{name} fails in a user namespace of {users:?}; see above");
}

#[test]
fn cases_with_the_owners_of_a_map() {
    among(RANGES, "cases_with_the_owners_of_a_map", || cases::run(&stacks::user));
}

#[test]
fn cases_with_one_owner() {
    among(Users::One, "cases_with_one_owner", || cases::run(&stacks::user));
}

#[test]
fn random_stacks_with_the_owners_of_a_map() {
    among(RANGES, "random_stacks_with_the_owners_of_a_map", || stacks::run(stacks::user, MOUNTED, random::stack));
}

#[test]
fn random_stacks_with_one_owner() {
    among(Users::One, "random_stacks_with_one_owner", || stacks::run(stacks::user, MOUNTED, random::stack));
}

#[test]
fn random_stacks_in_a_directory_of_an_ordinary_users() {
    let name = "random_stacks_in_a_directory_of_an_ordinary_users";
    among(RANGES, name, || stacks::run(stacks::user, FLATTENED, random::stack));
}

/// An ACL is one value: without the users whom it names there is none.
#[test]
fn acls_of_users_who_are_not_there_are_left_out() {
    among(RANGES, "acls_of_users_who_are_not_there_are_left_out", || {
        let nobody = u32::MAX;
        let entry = |tag: u16, rights: u16, id: u32| {
            [&tag.to_le_bytes()[..], &rights.to_le_bytes(), &id.to_le_bytes()].concat()
        };
        let acl = |user: u32| {
            let owners = [entry(1, 6, nobody), entry(2, 4, user), entry(4, 4, nobody)];
            [&2_u32.to_le_bytes()[..], &owners.concat(), &entry(0x10, 4, nobody), &entry(0x20, 0, nobody)].concat()
        };
        let name = "system.posix_acl_access";
        let file = |path: &str, user: u32| Entry {
            xattrs: vec![(name.to_owned(), acl(user))],
            ..Entry::new(path, Kind::File(b"x".to_vec()), 0o640)
        };
        let layer = Layer { entries: vec![file("there", 1000), file("beyond", 100_000)], ..Layer::default() };
        let mut stack = Stack::new(options(OverlayXattrs::User));
        let unpacked = stack.push(&layer.tar().unwrap()).unwrap();
        let found = |path: &str| {
            let mut value = [0; 256];
            let length = rustix::fs::lgetxattr(stack.top().join(path), name, &mut value[..])?;
            Ok(value[..length].to_vec())
        };
        if found("there") == Err(Errno::OPNOTSUPP) {
            return skip("acl", "the file system of temporary files has no ACLs");
        }
        assert_eq!((found("there"), found("beyond")), (Ok(acl(1000)), Err(Errno::NODATA)));
        assert_eq!(unpacked.skipped, Skipped { xattrs: 1, ..Skipped::default() });
    });
}

/// What stands in for a device hides what lies below, and is a link's target as the device would be.
#[test]
fn devices_leave_nothing_in_their_place() {
    among(RANGES, "devices_leave_nothing_in_their_place", || {
        let file = |path: &str| Entry::new(path, Kind::File(b"x".to_vec()), 0o644);
        let null = |path: &str| Entry::new(path, Kind::Char(1, 3), 0);
        let layers = [
            vec![file("lower"), file("d/lower"), null("base")],
            vec![
                null("lower"),
                null("d/lower"),
                null("new/null"),
                Entry::new("new/link", Kind::Hardlink(b"new/null".to_vec()), 0),
            ],
            vec![
                Entry::new("late/link", Kind::Hardlink(b"base".to_vec()), 0),
                Entry::new("d/link", Kind::Hardlink(b"lower".to_vec()), 0),
            ],
        ];
        let mut stack = Stack::new(options(OverlayXattrs::User));
        let mut devices = 0;
        for entries in layers {
            let layer = Layer { entries, ..Layer::default() };
            devices += stack.push(&layer.tar().unwrap()).unwrap().skipped.devices;
        }
        assert_eq!(devices, 5);
        let names: Vec<_> = stack.mount().listing().into_keys().map(|name| String::from_utf8(name).unwrap()).collect();
        assert_eq!(names, ["d/", "late/", "new/"]);
        // A link to what a whiteout of the image hides is still a mistake of the image's.
        let gone = vec![Entry::new(".wh.other", Kind::File(Vec::new()), 0), file("kept")];
        stack.push(&Layer { entries: gone, ..Layer::default() }.tar().unwrap()).unwrap();
        let link = vec![Entry::new("link", Kind::Hardlink(b"other".to_vec()), 0)];
        let error = stack.push(&Layer { entries: link, ..Layer::default() }.tar().unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidLayer);
    });
}
