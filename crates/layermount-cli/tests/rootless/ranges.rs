//! With subordinate IDs: all users of an image, each with what is theirs.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::world::person::{Home, Said, owner};
use crate::world::{missing, program};

const STAT: &str =
    "busybox stat -c '%u:%g %a %n' /etc/shadow /var/mail /home/guest /closed /drop /drop/file /bin/as-33";

const OWNERS: &str = "0:42 640 /etc/shadow
0:8 2775 /var/mail
1000:1000 755 /home/guest
33:33 0 /closed
1000:1000 300 /drop
33:33 600 /drop/file
33:33 4755 /bin/as-33
";

#[test]
fn files_belong_to_the_users_of_the_image() {
    let Some(home) = Home::new() else { return };
    let Some(image) = home.several() else { return };
    // Cold and warm, with nothing to be warned of.
    assert_eq!(home.prints(&["run", &image, STAT]), OWNERS);
    assert_eq!(home.prints(&["run", &image, STAT]), OWNERS);
    assert_eq!(home.prints(&["run", &image, "busybox cat /closed/file /drop/file"]), "closed\ndropped\n");
    assert_eq!(home.prints(&["run", &image, "busybox id -un; busybox id -u"]), "root\n0\n");
    // Outside they are the user's and its subordinates'.
    let person = &home.person;
    assert_eq!(owner(&home.in_store("etc/shadow")), (person.uid, person.gid_outside(42), 0o640));
    assert_eq!(owner(&home.in_store("closed/file")), (person.uid_outside(33), person.gid_outside(33), 0o600));
    assert!(home.shelves().iter().all(|shelf| shelf.starts_with("dir-user-")), "{:?}", home.shelves());
    assert_eq!(home.stages(), 0);
}

#[test]
fn programs_become_other_users() {
    let Some(home) = Home::new() else { return };
    let Some(image) = home.several() else { return };
    let script = "su guest -c 'busybox id; echo x >/home/guest/mine'; busybox stat -c %u:%g /home/guest/mine";
    let became = "uid=1000(guest) gid=1000(guest) groups=42(shadow),1000(guest)\n1000:1000\n";
    assert_eq!(home.prints(&["run", &image, script]), became);
    assert_eq!(
        home.prints(&["run", "-u", "guest", &image, "busybox id -u; busybox cat /etc/shadow"]).lines().count(),
        2
    );
    // What they write outside of the image is theirs there, too.
    let shared = home.directory("shared");
    std::fs::set_permissions(&shared, Permissions::from_mode(0o777)).unwrap();
    let volume = format!("{}:/shared", shared.display());
    home.prints(&["run", "-v", &volume, &image, "echo >/shared/of-root; su guest -c 'echo >/shared/of-guest'"]);
    let person = &home.person;
    assert_eq!(owner(&shared.join("of-root")), (person.uid, person.gid, 0o644));
    assert_eq!(owner(&shared.join("of-guest")), (person.uid_outside(1000), person.gid_outside(1000), 0o644));
}

#[test]
fn what_has_no_user_here_belongs_to_nobody_and_is_no_set_user_id_program() {
    let Some(home) = Home::new() else { return };
    let Some(image) = home.beyond() else { return };
    let script = "busybox stat -c '%u:%g %a' /beyond /beyond-group /etc/shadow";
    let seen = "65534:65534 755\n5:65534 4755\n0:42 640\n";
    let said = home.layermount(&[], &["run", &image, script]);
    said.assert(0, &["warning: 2 files of users that are not mapped belong to nobody here\n"]);
    assert_eq!((said.stdout.as_str(), said.stderr.lines().count()), (seen, 1));
    assert_eq!(home.prints(&["run", &image, script]), seen, "said once");
    let nobody = (home.person.uid_outside(65534), home.person.gid_outside(65534), 0o755);
    assert_eq!(owner(&home.in_store("beyond")), nobody);
}

#[test]
fn the_root_directory_may_be_somebodys_who_is_not_here() {
    let Some(home) = Home::new() else { return };
    let Some(()) = program("busybox") else { return };
    let recipe = "env PATH=/bin\nentrypoint busybox\nlayer\ndir 2755 100000:100000 /\ncopy 0755 0:0 /bin/busybox /usr/bin/busybox\n";
    let image = home.image("root", recipe);
    let upper = home.path("upper");
    for flags in [&[][..], &["--read-only"], &["--upper", upper.to_str().unwrap()]] {
        let stat = ["stat", "-c", "%u:%g %a", "/"];
        assert_eq!(home.prints(&[&["run"], flags, &[&image], &stat].concat()), "65534:65534 755\n", "{flags:?}");
    }
}

/// A capability of root of the namespace, which is none of the machine's.
#[test]
fn file_capabilities_work_inside() {
    let Some(home) = Home::new() else { return };
    let Some(()) = program("busybox") else { return };
    let recipe = r#"
env PATH=/bin
entrypoint sh -c
layer
dir  0755 0:0 /bin
copy 0755 0:0 /bin/busybox /usr/bin/busybox
symlink /bin/sh -> busybox
copy 0755 0:0 /capable/cat /usr/bin/busybox xattr:security.capability="\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
"#;
    let image = home.image("capable", recipe);
    let said = home.prints(&["run", "-u", "1000", &image, "/capable/cat /proc/self/status | busybox grep CapEff"]);
    assert_eq!(said, "CapEff:\t0000000000002000\n", "CAP_NET_RAW");
    let mut value = [0; 64];
    let length = rustix::fs::lgetxattr(home.in_store("capable/cat"), c"security.capability", &mut value[..]).unwrap();
    // Version 3, and the user at the end.
    assert_eq!((length, value[3]), (24, 3));
    assert_eq!(value[20..24], home.person.uid.to_le_bytes());
    let packed = home.path("unpacked");
    home.prints(&["-q", "unpack", &image, packed.to_str().unwrap()]);
    match Command::new("getcap").arg("-n").arg(packed.join("capable/cat")).output() {
        Ok(output) => {
            let said = String::from_utf8(output.stdout).unwrap();
            assert!(said.contains(&format!("cap_net_raw=ep [rootid={}]", home.person.uid)), "{said}");
        }
        Err(_) => missing("user", "getcap (package libcap2-bin) is not installed"),
    }
}

#[test]
fn devices_are_left_out() {
    let Some(home) = Home::new() else { return };
    let Some(()) = program("busybox") else { return };
    let recipe = r#"
env PATH=/bin
entrypoint busybox
layer
copy 0755 0:0 /bin/busybox /usr/bin/busybox
char 0666 0:0 /null 1:3
file 0644 0:0 /d/disk "no device"
layer
block 0660 0:6 /d/disk 8:0
hardlink /d/link -> /null
"#;
    let image = home.image("devices", recipe);
    let said = home.layermount(&[], &["--verbose", "pull", &image]);
    said.assert(0, &["2 devices left out: only root can make them"]);
    assert!(!said.stderr.contains("warning"), "{}", said.stderr);
    // What lower layers have in their place does not show instead.
    assert_eq!(home.prints(&["run", &image, "ls", "-A", "/d"]), "");
    let tree = home.path("tree");
    home.prints(&["-q", "unpack", &image, tree.to_str().unwrap()]);
    assert!(std::fs::read_dir(tree.join("d")).unwrap().next().is_none());
    assert!(home.prints(&["store", "verify"]).contains("all as unpacked"));
    home.prints(&["store", "prune", "--all"]);
    // Said to whoever wants to know all, and to nobody else.
    let said = home.layermount(&[], &["pull", &image]);
    assert_eq!((said.status, said.stderr.as_str()), (Some(0), ""));
}

/// Directories that are closed to their owners, who are others.
#[test]
fn closed_directories_are_unpacked_verified_and_removed() {
    let Some(home) = Home::new() else { return };
    let Some(image) = home.several() else { return };
    home.prints(&["pull", &image]);
    assert!(home.prints(&["store", "verify"]).starts_with("2 layers verified"));
    let tree = home.path("tree");
    home.prints(&["unpack", &image, tree.to_str().unwrap()]);
    // A plain directory, with which the user can do everything outside as well.
    let (uid, gid) = (home.person.uid, home.person.gid);
    for (path, mode) in
        [("closed", 0), ("closed/file", 0o600), ("drop", 0o300), ("etc/shadow", 0o640), ("bin/as-33", 0o755)]
    {
        assert_eq!(owner(&tree.join(path)), (uid, gid, mode), "{path}");
    }
    assert_eq!(std::fs::read_to_string(tree.join("closed/file")).unwrap(), "closed\n");
    // Of all that, nothing is hidden to the sum of what the store takes.
    assert!(home.prints(&["store", "df"]).contains("layers"));
    assert!(home.prints(&["store", "prune", "--all"]).starts_with("1 image forgotten\n2 layers removed"));
    assert_eq!((home.shelves(), home.stages()), (Vec::new(), 0));
}

#[test]
fn damage_is_found_where_only_the_namespace_may_read() {
    let Some(home) = Home::new() else { return };
    let Some(image) = home.several() else { return };
    home.prints(&["pull", &image]);
    std::fs::write(home.in_store("closed/file"), "forged\n").unwrap();
    let said = home.layermount(&[], &["store", "verify"]);
    said.assert(1, &["1 layer of "]);
    assert!(said.stdout.contains("closed/file"), "{}", said.stdout);
    home.prints(&["pull", &image]);
    assert_eq!(home.prints(&["run", &image, "busybox cat /closed/file"]), "closed\n");
    assert!(home.prints(&["store", "verify"]).contains("all as unpacked"));
}

#[test]
fn an_upper_directory_keeps_owners() {
    let Some(home) = Home::new() else { return };
    let Some(image) = home.several() else { return };
    let upper = home.path("upper");
    let keep = ["run", "--upper", upper.to_str().unwrap(), &image];
    let run = |script: &str| home.prints(&[&keep[..], &[script]].concat());
    run("su guest -c 'echo mine >/home/guest/kept'; busybox chown 33:42 /etc/passwd; \
         busybox rm -r /closed; busybox mkdir -m 0 /closed");
    let look = "busybox cat /home/guest/kept; busybox stat -c '%u:%g %a' /home/guest/kept /etc/passwd /closed; \
        busybox ls -A /closed";
    assert_eq!(run(look), "mine\n1000:1000 644\n33:42 644\n0:0 0\n");
    run("busybox chown guest /etc/group");
    assert_eq!(run("busybox stat -c %u /etc/group /etc/passwd"), "1000\n33\n");
    assert_eq!(home.prints(&["run", &image, "busybox stat -c %u /etc/group"]), "0\n", "the image is what it was");
}

/// Then nobody can wait for `newuidmap`, which does its work all the same.
#[test]
fn sigchld_may_be_ignored() {
    let Some(home) = Home::new() else { return };
    let Some(image) = home.several() else { return };
    let mut command = home.as_person(&[]);
    command.args(["/usr/bin/env", "--ignore-signal=CHLD"]).arg(home.path("layermount")).args(["pull", &image]);
    let said = Said::of(&command.output().unwrap());
    assert_eq!((said.status, said.stderr.as_str()), (Some(0), ""));
    assert_eq!(home.prints(&["run", &image, "busybox stat -c %u:%g /etc/shadow /closed"]), "0:42\n33:33\n");
    assert_eq!(home.shelves().len(), 1, "{:?}", home.shelves());
}

/// What is only lacking at the moment makes no other image of it.
#[test]
fn too_few_processes_do_not_change_who_there_is() {
    let Some(home) = Home::new() else { return };
    let Some(image) = home.several() else { return };
    let alone = format!("map:0:{}:1/0:{}:1", home.person.uid, home.person.gid);
    home.layermount(&[], &["run", "--userns", &alone, &image, "true"]).assert(0, &[]);
    home.prints(&["run", &image, "true"]);
    // All of the user's processes count.
    for processes in 1..24 {
        let mut command = home.as_person(&[]);
        let script = format!("ulimit -u {processes}; exec \"$@\"");
        command.args(["/bin/bash", "-c", &script, "bash"]).arg(home.path("layermount"));
        let said = Said::of(&command.args(["run", &image, "exec busybox stat -c %u /closed"]).output().unwrap());
        match said.status {
            Some(0) => assert_eq!(said.stdout, "33\n", "{processes}: {said:#?}"),
            _ => said.assert(125, &[]),
        }
    }
}
