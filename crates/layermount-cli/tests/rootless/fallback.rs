//! Where the machine grants less: one user instead of all, or no user namespace.

use crate::world::person::{Home, Otherwise, Said};

const LOOK: &str = "busybox id -u; busybox stat -c '%u:%g %a' /etc/shadow /bin/as-33; busybox cat /drop/file";

/// Everything is root's, who can read it all.
const SEEN: &str = "0\n0:0 640\n0:0 4755\ndropped\n";

/// Runs the image twice; says once why there is only one user, and what to do about it.
#[track_caller]
fn has_one_user(home: &Home, image: &str, changes: &[Otherwise], why: &str, hint: Option<&str>) {
    let said = home.layermount(changes, &["run", image, LOOK]);
    said.assert(0, &[&format!("files of other users belong to root here, as there is nobody else: {why}")]);
    assert_eq!(said.stdout, SEEN);
    assert_eq!(said.stderr.matches("warning: ").count(), 1, "{}", said.stderr);
    assert_eq!(said.stderr.matches("hint: ").count(), usize::from(hint.is_some()), "{}", said.stderr);
    if let Some(hint) = hint {
        assert!(said.stderr.contains(&format!("hint: {hint}")), "{}", said.stderr);
    }
    let said = home.layermount(changes, &["run", image, LOOK]);
    assert_eq!((said.status, said.stdout.as_str(), said.stderr.as_str()), (Some(0), SEEN, ""));
    assert_eq!(home.shelves(), ["dir-user"]);
    // With the ranges it is as if nothing had been.
    assert_eq!(home.prints(&["run", image, "busybox stat -c %u:%g /etc/shadow"]), "0:42\n");
    assert_eq!(home.shelves().len(), 2);
}

#[test]
fn without_ranges() {
    let Some(home) = Home::new() else { return };
    let Some(image) = home.several() else { return };
    let why = format!("/etc/subuid grants no IDs to {}", home.person.name);
    let hint = format!("as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {}", home.person.name);
    has_one_user(&home, &image, &[Otherwise::NoRanges], &why, Some(&hint));
}

#[test]
fn without_the_programs_that_map_them() {
    let Some(home) = Home::new() else { return };
    let Some(image) = home.several() else { return };
    let why = "newuidmap, which maps the IDs that /etc/subuid grants, is not installed";
    has_one_user(&home, &image, &[Otherwise::NoHelpers], why, Some("install the package uidmap"));
}

#[test]
fn with_programs_that_have_no_right_to() {
    let Some(home) = Home::new() else { return };
    let Some(image) = home.several() else { return };
    let hint = "newgidmap must be set-uid root or have cap_setuid/cap_setgid";
    has_one_user(&home, &image, &[Otherwise::PowerlessHelpers], "newgidmap does not map the IDs: ", Some(hint));
}

#[test]
fn with_programs_that_are_none() {
    let Some(home) = Home::new() else { return };
    let Some(image) = home.several() else { return };
    let why = "cannot run newuidmap: Permission denied";
    has_one_user(&home, &image, &[Otherwise::BrokenHelpers], why, None);
}

/// Who has no other users lacks nothing in an image that has none.
#[test]
fn an_image_of_root_alone_is_nothing_to_be_warned_of() {
    let Some(home) = Home::new() else { return };
    let image = home.image("plain", "layer\ndir 0755 0:0 /d\nfile 0644 0:0 /d/file \"x\"\n");
    let said = home.layermount(&[Otherwise::NoRanges], &["pull", &image]);
    assert_eq!((said.status, said.stderr.as_str()), (Some(0), ""));
}

/// Nothing can be mounted then. What only unpacks does it with the user's own rights.
#[test]
fn without_user_namespaces() {
    let Some(home) = Home::new() else { return };
    let Some(image) = home.several() else { return };
    let changes = [Otherwise::NoNamespaces];
    for arguments in [&["run", &image, "true"][..], &["mount", &image, "--", "true"]] {
        let said = home.layermount(&changes, arguments);
        said.assert(125, &["cannot make a user namespace", "ENOSPC", "hint: ", "user.max_user_namespaces", "doctor"]);
    }
    assert!(!home.store().join("layers").exists(), "nothing was unpacked for nothing");
    let said = home.layermount(&changes, &["pull", &image]);
    said.assert(
        0,
        &["files of other users belong to root here, as there is nobody else: cannot make a user namespace"],
    );
    let verified = home.layermount(&changes, &["store", "verify"]);
    assert!(verified.stdout.contains("all as unpacked"), "{verified:#?}");
    // What its own owner may not read stays closed without a namespace, and is said so.
    let closed = home.path("closed");
    let said = home.layermount(&changes, &["unpack", &image, closed.to_str().unwrap()]);
    said.assert(1, &["EACCES", "hint: run as root, or as the root of a user namespace"]);
    let open = home.image("open", "layer\ndir 0755 7:7 /d\nfile 0644 7:7 /d/file \"open\\n\"\n");
    let tree = home.path("tree");
    home.layermount(&changes, &["unpack", &open, tree.to_str().unwrap()]).assert(0, &[]);
    assert_eq!(std::fs::read_to_string(tree.join("d/file")).unwrap(), "open\n");
    let said = home.layermount(&changes, &["store", "prune", "--all"]);
    said.assert(0, &[]);
    assert_eq!((home.shelves(), home.stages()), (Vec::new(), 0));
}

/// What was unpacked with ranges is of no use without them, and not in the way.
#[test]
fn ranges_that_are_taken_away_leave_a_store_that_works() {
    let Some(home) = Home::new() else { return };
    let Some(image) = home.several() else { return };
    home.prints(&["pull", &image]);
    let changes = [Otherwise::NoRanges];
    home.layermount(&changes, &["run", &image, "true"]).assert(0, &["there is nobody else"]);
    assert_eq!(home.shelves().len(), 2);
    // Files of users whom nobody can be any more: they are moved out of the way, and what is left of them is said.
    let said: Said = home.layermount(&changes, &["store", "prune", "--all"]);
    said.assert(0, &["files of users that are not mapped here stay in "]);
    assert_eq!(home.shelves(), Vec::<String>::new());
    home.prints(&["store", "prune"]);
    assert_eq!(home.stages(), 0);
}
