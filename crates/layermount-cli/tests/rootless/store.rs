//! The store of an ordinary user: killed pulls, prune beside programs that run, and stores of others.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::{Gid, Uid, chown};

use crate::world::person::{Home, Otherwise, Person, Said};

/// An image that takes a while, whose every file is another user's.
fn large(home: &Home) -> String {
    let files: String = (0..2000).map(|file| format!("file 0600 33:33 /d/{} \"x\"\n", file)).collect();
    home.image("large", &format!("layer\ndir 0700 33:33 /d\n{files}random 0600 33:33 /d/random 30000000\n"))
}

/// Anything below it belongs to one of the person's subordinates.
fn has_files_of_others(directory: &Path, uid: u32) -> bool {
    std::fs::read_dir(directory).into_iter().flatten().flatten().any(|entry| {
        let is_others = entry.metadata().is_ok_and(|found| found.uid() != uid);
        is_others || has_files_of_others(&entry.path(), uid)
    })
}

/// Kills a pull that has files of others in its stage.
#[track_caller]
fn kill_a_pull(home: &Home, image: &str) {
    let stage = home.store().join("stage");
    for _ in 0..20 {
        let mut pull = home.command(&[], &["-q", "pull", image]).stdout(Stdio::null()).spawn().unwrap();
        while pull.try_wait().unwrap().is_none() {
            if has_files_of_others(&stage, home.person.uid) {
                pull.kill().unwrap();
                pull.wait().unwrap();
                break;
            }
            std::thread::yield_now();
        }
        if has_files_of_others(&stage, home.person.uid) {
            return;
        }
        home.prints(&["store", "prune", "--all"]);
    }
    panic!("every pull was done before it could be killed");
}

#[test]
fn a_killed_pull_is_swept_by_the_next() {
    let Some(home) = Home::new() else { return };
    let image = large(&home);
    kill_a_pull(&home, &image);
    home.prints(&["pull", &image]);
    assert_eq!(home.stages(), 0);
    assert!(home.prints(&["store", "verify"]).contains("all as unpacked"));
}

#[test]
fn a_killed_pull_is_swept_by_prune() {
    let Some(home) = Home::new() else { return };
    let image = large(&home);
    kill_a_pull(&home, &image);
    let said = home.prints(&["store", "prune"]);
    assert!(said.contains("1 leftover of interrupted work removed"), "{said}");
    assert_eq!(home.stages(), 0);
}

/// A prune that was killed behind its first step: the layers are out of the way, and not deleted.
#[track_caller]
fn kill_a_prune(home: &Home, image: &str) {
    home.prints(&["pull", image]);
    let stage = home.store().join("stage/1-0");
    std::fs::create_dir(&stage).unwrap();
    chown(&stage, Some(Uid::from_raw(home.person.uid)), None).unwrap();
    let closed = home.in_store("closed");
    let layer = closed.parent().unwrap().parent().unwrap();
    std::fs::rename(layer, stage.join(layer.file_name().unwrap())).unwrap();
}

/// Outside of the user namespace, nobody may delete what other users have in their directories.
#[test]
fn a_killed_prune_is_swept() {
    let Some(home) = Home::new() else { return };
    let Some(image) = home.several() else { return };
    kill_a_prune(&home, &image);
    let said = home.layermount(&[Otherwise::NoRanges], &["store", "prune"]);
    said.assert(0, &["files of users that are not mapped here stay in "]);
    assert_eq!(home.stages(), 1);
    let said = home.prints(&["store", "prune"]);
    assert!(said.contains("1 leftover of interrupted work removed"), "{said}");
    assert_eq!(home.stages(), 0);
    kill_a_prune(&home, &image);
    home.prints(&["pull", &image]);
    assert_eq!(home.stages(), 0);
    assert!(home.prints(&["store", "verify"]).contains("all as unpacked"));
}

/// Who there is in a user namespace of the person's beside root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Others {
    None,
    /// Its subordinates, as after `podman unshare`.
    Subordinates,
}

/// `layermount` as the root of a user namespace.
#[track_caller]
fn in_a_namespace(home: &Home, others: Others, arguments: &[&str]) -> Said {
    let mut command = home.as_person(&[]);
    // util-linux has spelled its own option for ranges in two ways: they are written from here, and it waits for that.
    let go_on = "read line || exec \"$@\"";
    command.args(["unshare", "--user", "--", "sh", "-uc", go_on, "sh"]).arg(home.path("layermount"));
    command.arg("--store").arg(home.store()).args(arguments);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let namespace = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/user")).unwrap();
    let pid = child.id().to_string();
    while namespace(&pid) == namespace("self") {
        std::thread::yield_now();
    }
    let Person { uid, gid, first_subuid, first_subgid, .. } = &home.person;
    for (helper, own, first) in [("newuidmap", uid, first_subuid), ("newgidmap", gid, first_subgid)] {
        let mut map = vec!["0".to_owned(), own.to_string(), "1".to_owned()];
        if others == Others::Subordinates {
            map.extend(["1".to_owned(), first.to_string(), "65535".to_owned()]);
        }
        assert!(home.as_person(&[]).arg(helper).arg(&pid).args(map).status().unwrap().success());
    }
    drop(child.stdin.take());
    Said::of(&child.wait_with_output().unwrap())
}

#[test]
fn layers_that_are_used_stay() {
    let Some(home) = Home::new() else { return };
    let Some(image) = home.several() else { return };
    let holders: [&[&str]; 4] = [
        &["run", &image, "cd /; echo up; read line; busybox cat etc/passwd drop/file"],
        &["run", "-u", "guest", &image, "cd /; echo up; read line; busybox cat etc/passwd"],
        &["run", "--userns", "keep-id", &image, "cd /; echo up; read line; busybox cat etc/passwd"],
        &["mount", &image, "--", "sh", "-c", "cd $LAYERMOUNT_ROOT; echo up; read line; cat etc/passwd drop/file"],
    ];
    for holder in holders {
        let started = home.start(holder);
        let outside = home.layermount(&[], &["store", "prune", "--all"]);
        let single = in_a_namespace(&home, Others::None, &["store", "prune", "--all"]);
        let mapped = in_a_namespace(&home, Others::Subordinates, &["store", "prune", "--all"]);
        for said in [outside, single, mapped] {
            said.assert(0, &[]);
            assert_eq!(said.stderr.matches("is in use and stays").count(), 2, "{holder:?}: {said:#?}");
            assert!(said.stdout.contains("0 layers removed"), "{holder:?}: {said:#?}");
        }
        let (status, rest) = started.finish();
        assert!(status == Some(0) && rest.contains("guest:"), "{holder:?}: {status:?} {rest}");
        assert!(home.prints(&["store", "prune", "--all"]).contains("2 layers removed"), "{holder:?}");
        assert_eq!((home.shelves(), home.stages()), (Vec::new(), 0));
    }
}

/// The program lives on when its launcher is killed only as far as the kernel lets it: then nothing holds the layers.
#[test]
fn a_killed_run_lets_go() {
    let Some(home) = Home::new() else { return };
    let Some(image) = home.several() else { return };
    for flags in [&["run"][..], &["run", "--userns", "keep-id"]] {
        let mut started = home.start(&[flags, &[&image, "echo up; read line"]].concat());
        started.child.kill().unwrap();
        started.child.wait().unwrap();
        // Its end of the pipe closes when the last of them is gone.
        started.finish();
        assert!(home.prints(&["store", "prune", "--all"]).contains("2 layers removed"), "{flags:?}");
    }
}

/// Whoever is root of a namespace with the same users has the same layers.
#[test]
fn a_namespace_of_ones_own_shares_the_store() {
    let Some(home) = Home::new() else { return };
    let Some(image) = home.several() else { return };
    home.prints(&["pull", &image]);
    let said = in_a_namespace(&home, Others::Subordinates, &["run", &image, "busybox stat -c %u:%g /etc/shadow"]);
    assert_eq!((said.status, said.stdout.as_str()), (Some(0), "0:42\n"), "{said:#?}");
    let said = in_a_namespace(&home, Others::None, &["run", &image, "busybox stat -c %u:%g /etc/shadow"]);
    assert_eq!((said.status, said.stdout.as_str()), (Some(0), "0:0\n"), "{said:#?}");
    // 65537 users are not 65536: each map has layers of its own.
    assert_eq!(home.shelves().len(), 3, "{:?}", home.shelves());
    let pruned = in_a_namespace(&home, Others::Subordinates, &["store", "prune", "--all"]);
    assert!(pruned.stdout.contains("6 layers removed"), "{pruned:#?}");
}

#[test]
fn stores_of_others_are_refused() {
    let Some(home) = Home::new() else { return };
    let Some(image) = home.several() else { return };
    let refused = |store: &Path, says: &[&str]| {
        let store = store.to_str().unwrap();
        for arguments in
            [&["pull", &image][..], &["run", &image, "true"], &["mount", &image, "--", "true"], &["images"]]
        {
            let said = home.layermount(&[], &[&["--store", store], arguments].concat());
            assert!(matches!(said.status, Some(1 | 125)), "{arguments:?}: {said:#?}");
            for part in [&["cannot use the store at"], says].concat() {
                assert!(said.stderr.contains(part), "{arguments:?}: {part:?}: {said:#?}");
            }
        }
    };
    let others = home.directory("others");
    chown(&others, Some(Uid::from_raw(54321)), Some(Gid::from_raw(54321))).unwrap();
    refused(&others, &["belongs to uid"]);
    chown(&others, Some(Uid::from_raw(0)), Some(Gid::from_raw(0))).unwrap();
    refused(&others, &["belongs to uid"]);
    // Not even one's own subordinate's, whom a program inside may be.
    chown(&others, Some(Uid::from_raw(home.person.first_subuid)), None).unwrap();
    refused(&others, &["belongs to uid"]);
    for mode in [0o770, 0o707] {
        let open = home.directory(&format!("open-{mode:o}"));
        std::fs::set_permissions(&open, Permissions::from_mode(mode)).unwrap();
        refused(&open, &["can be written by others"]);
    }
    // A part of it that somebody put there.
    home.prints(&["pull", &image]);
    std::fs::set_permissions(home.store().join("layers"), Permissions::from_mode(0o777)).unwrap();
    home.layermount(&[], &["run", &image, "true"]).assert(125, &["can be written by others"]);
    std::fs::set_permissions(home.store().join("layers"), Permissions::from_mode(0o700)).unwrap();
    home.prints(&["run", &image, "true"]);
    // Root runs nothing out of what the user may change.
    let output =
        Command::new(home.path("layermount")).arg("--store").arg(home.store()).args(["run", &image, "true"]).output();
    let said = Said::of(&output.unwrap());
    said.assert(125, &["cannot use the store at", &format!("belongs to uid {}, not to uid 0", home.person.uid)]);
}
