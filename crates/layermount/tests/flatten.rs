//! The merged tree as a plain directory, for those who may not have all of it.

#![allow(clippy::disallowed_methods, reason = "tests write to directories of their own")]

use layermount::{ErrorKind, LayerStack, OverlayXattrs};
use layermount_fixtures::requirement::skip;
use rustix::fs::{AtFlags, CWD, FileType, Mode, XattrFlags, linkat, makedev, mknodat};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

#[test]
fn content_that_lies_elsewhere_is_not_lost_in_silence() {
    for name in ["user.overlay.metacopy", "user.overlay.redirect"] {
        let place = tempfile::tempdir().unwrap();
        let tree = place.path().join("tree");
        std::fs::create_dir(&tree).unwrap();
        std::fs::write(tree.join("file"), "").unwrap();
        match rustix::fs::setxattr(tree.join("file"), name, b"", XattrFlags::empty()) {
            Err(Errno::OPNOTSUPP) => return skip("xattr", "the file system of temporary files has no user xattrs"),
            set => set.unwrap(),
        }
        let stack = LayerStack::from_directories(vec![tree], OverlayXattrs::User).unwrap();
        let error = stack.flatten_into(&place.path().join("flat")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("\"file\"") && error.to_string().contains(name), "{error}");
    }
}

#[test]
fn a_file_that_becomes_the_callers_runs_in_nobodys_name() {
    if !nix::unistd::geteuid().is_root() {
        return skip("root", "privileges are given up");
    }
    let place = tempfile::tempdir().unwrap();
    let tree = place.path().join("tree");
    let set_mode = |name: &str, mode| {
        rustix::fs::chmod(tree.join(name), Mode::from_raw_mode(mode)).unwrap();
    };
    std::fs::create_dir_all(tree.join("directory")).unwrap();
    std::fs::write(tree.join("program"), "").unwrap();
    set_mode("program", 0o6755);
    set_mode("directory", 0o3755);
    std::fs::hard_link(tree.join("program"), tree.join("link")).unwrap();
    let stack = LayerStack::from_directories(vec![tree.clone()], OverlayXattrs::User).unwrap();
    let modes = |flat: &str| {
        let flat = place.path().join(flat);
        stack.flatten_into(&flat).unwrap();
        ["program", "link", "directory"].map(|name| rustix::fs::stat(flat.join(name)).unwrap().st_mode & 0o7777)
    };
    assert_eq!(modes("root"), [0o6755, 0o6755, 0o3755]);
    // Of this thread alone: from here on it is treated as an ordinary user's.
    let mut sets = capabilities(None).unwrap();
    sets.effective -= CapabilitySet::SYS_ADMIN;
    set_capabilities(None, sets).unwrap();
    assert_eq!(modes("user"), [0o755, 0o755, 0o3755]);
}

#[test]
fn devices_that_may_not_be_made_are_left_out() {
    if !nix::unistd::geteuid().is_root() {
        return skip("root", "devices are made");
    }
    let place = tempfile::tempdir().unwrap();
    let tree = place.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("file"), "content").unwrap();
    mknodat(CWD, tree.join("null"), FileType::CharacterDevice, Mode::RUSR, makedev(1, 3)).unwrap();
    linkat(CWD, tree.join("null"), CWD, tree.join("zero"), AtFlags::empty()).unwrap();
    let stack = LayerStack::from_directories(vec![tree], OverlayXattrs::Trusted).unwrap();
    // Of this thread alone.
    let mut sets = capabilities(None).unwrap();
    sets.effective -= CapabilitySet::MKNOD;
    set_capabilities(None, sets).unwrap();
    let flat = place.path().join("flat");
    let flattened = stack.flatten_into(&flat).unwrap();
    assert_eq!((flattened.files, flattened.skipped_devices), (1, 2));
    assert!(flat.join("file").exists() && !flat.join("null").exists() && !flat.join("zero").exists());
}
