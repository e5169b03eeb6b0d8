//! `layermount mount IMAGE -- COMMAND`: a tree for one command of the host's.

use crate::world::host_mounts;
use crate::world::person::{Home, Said};

#[test]
fn one_command_sees_the_tree() {
    let Some(home) = Home::new() else { return };
    let Some(image) = home.several() else { return };
    let before = host_mounts();
    let look = "cd $LAYERMOUNT_ROOT; stat -c '%u:%g %a' etc/shadow closed; cat closed/file; id -u; echo $HOME; exit 7";
    let said = home.layermount(&[], &["mount", &image, "--", "sh", "-c", look]);
    let seen = format!("0:42 640\n33:33 0\nclosed\n0\n{}\n", home.world.path().display());
    assert_eq!((said.status, said.stdout, said.stderr.as_str()), (Some(7), seen, ""));
    // Where the user's own store is, not root's.
    assert!(home.store().join("layers").is_dir());
    assert!(std::fs::read_dir(home.store().join("mnt")).unwrap().next().is_none());

    let write = "echo x >$LAYERMOUNT_ROOT/new && cat $LAYERMOUNT_ROOT/new";
    home.layermount(&[], &["mount", &image, "--", "sh", "-c", write]).assert(2, &["Read-only file system"]);
    assert_eq!(home.prints(&["mount", "--writable", &image, "--", "sh", "-c", write]), "x\n");
    assert_eq!(host_mounts(), before);
}

#[test]
fn a_directory_may_be_named_for_the_command() {
    let Some(home) = Home::new() else { return };
    let Some(image) = home.several() else { return };
    let before = host_mounts();
    let target = home.directory("target");
    let shown = target.to_str().unwrap();
    let look = format!("cat {shown}/closed/file; echo $LAYERMOUNT_ROOT");
    assert_eq!(home.prints(&["mount", &image, shown, "--", "sh", "-c", &look]), format!("closed\n{shown}\n"));
    assert!(std::fs::read_dir(&target).unwrap().next().is_none());
    let upper = home.path("upper");
    let write = format!("chown 33 {shown}/etc/passwd");
    home.prints(&["mount", "--upper", upper.to_str().unwrap(), &image, shown, "--", "sh", "-c", &write]);
    let kept = home.prints(&["run", "--upper", upper.to_str().unwrap(), &image, "busybox stat -c %u /etc/passwd"]);
    assert_eq!(kept, "33\n");
    assert_eq!(host_mounts(), before);
}

#[test]
fn what_cannot_be_is_explained() {
    let Some(home) = Home::new() else { return };
    let Some(image) = home.several() else { return };
    let target = home.directory("target");
    let said = home.layermount(&[], &["mount", &image, target.to_str().unwrap()]);
    said.assert(1, &["only root can mount an image for everybody to see", "hint: to mount it for one command: "]);
    assert!(!home.store().exists(), "nothing was unpacked for nothing");
    home.layermount(&[], &["mount", &image, "--", "/no/such/command"]).assert(127, &["cannot run /no/such/command"]);
    home.layermount(&[], &["mount", &image, "--", "/etc/passwd"]).assert(126, &["cannot run /etc/passwd"]);
    let missing = home.path("missing");
    home.layermount(&[], &["mount", &image, missing.to_str().unwrap(), "--", "true"])
        .assert(125, &["hint: make it first"]);
    home.layermount(&[], &["mount", "oci:/no/such", "--", "true"]).assert(125, &[]);
}

/// Each has its own, in the same place.
#[test]
fn several_commands_at_once() {
    let Some(home) = Home::new() else { return };
    let Some(image) = home.several() else { return };
    let before = host_mounts();
    let script = |number: usize| {
        format!(
            "echo {number} >$LAYERMOUNT_ROOT/number; echo up; read line; cat $LAYERMOUNT_ROOT/number $LAYERMOUNT_ROOT/drop/file"
        )
    };
    let started: Vec<_> =
        (0..6).map(|number| home.start(&["mount", "--writable", &image, "--", "sh", "-c", &script(number)])).collect();
    for (number, started) in started.into_iter().enumerate() {
        assert_eq!(started.finish(), (Some(0), format!("{number}\ndropped\n")));
    }
    assert_eq!((host_mounts(), home.stages()), (before, 0));
    assert_eq!(home.shelves().len(), 1);
}

/// The command that is killed takes the mount with it.
#[test]
fn a_killed_command_leaves_nothing() {
    let Some(home) = Home::new() else { return };
    let Some(image) = home.several() else { return };
    let before = host_mounts();
    let mut started = home.start(&["mount", &image, "--", "sh", "-c", "echo up; read line"]);
    started.child.kill().unwrap();
    started.child.wait().unwrap();
    assert_eq!(host_mounts(), before);
    let pruned: Said = home.layermount(&[], &["store", "prune", "--all"]);
    assert!(pruned.stdout.contains("2 layers removed"), "{pruned:#?}");
}
