//! The merged tree as a plain directory, for those who may not have all of it.

#![allow(clippy::disallowed_methods, reason = "tests write to directories of their own")]

use layermount::{LayerStack, OverlayXattrs};
use layermount_fixtures::requirement::skip;
use rustix::fs::{AtFlags, CWD, FileType, Mode, linkat, makedev, mknodat};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

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
