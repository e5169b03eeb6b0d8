//! `--userns`.

use crate::world::World;
use crate::world::person::{Home, Otherwise, owner};

#[test]
fn keep_id_is_oneself_in_place_of_root() {
    let Some(home) = Home::new() else { return };
    let Some(image) = home.several() else { return };
    let (uid, gid) = (home.person.uid, home.person.gid);
    let shared = home.directory("shared");
    let volume = format!("{}:/shared", shared.display());
    let script = "busybox id -u; busybox id -g; echo $HOME; echo x >/shared/$0; \
        busybox stat -c %u:%g /shared /etc/shadow /home/guest /closed";
    let inside = format!("{uid}\n{gid}\n/\n{uid}:{gid}\n{uid}:42\n1000:1000\n33:33\n");
    assert_eq!(home.prints(&["run", "--userns", "keep-id", "-v", &volume, &image, script, "all"]), inside);
    assert_eq!(owner(&shared.join("all")), (uid, gid, 0o644));
    // As the layers are the same ones, another user is still who it was.
    let script =
        "busybox id -u; su guest -c 'busybox id -u; echo x >/home/guest/file'; busybox stat -c %u /home/guest/file";
    assert_eq!(home.prints(&["run", "--userns", "keep-id", "-u", "0", &image, script]), "0\n1000\n1000\n");

    let said = home.layermount(
        &[Otherwise::NoRanges],
        &[
            "run",
            "--userns",
            "keep-id",
            "-v",
            &volume,
            &image,
            "busybox id -u; busybox id -g; echo x >/shared/one; busybox stat -c %u:%g /shared/one /etc/shadow",
        ],
    );
    said.assert(0, &["as there is nobody else: /etc/subuid grants no IDs to "]);
    assert_eq!(said.stdout, format!("{uid}\n{gid}\n{uid}:{gid}\n{uid}:{gid}\n"));
    assert_eq!(owner(&shared.join("one")), (uid, gid, 0o644));
}

#[test]
fn maps_are_those_that_were_asked_for() {
    let Some(home) = Home::new() else { return };
    let Some(image) = home.several() else { return };
    let (uid, first) = (home.person.uid, home.person.first_subuid);
    let (gid, first_group) = (home.person.gid, home.person.first_subgid);
    let look = "busybox id -u; busybox stat -c %u:%g /etc/shadow /home/guest /closed";
    let run = |map: &str| home.layermount(&[], &["run", "--userns", map, &image, look]);

    // 1000 is nobody, who is nobody here either: the file is left to its maker.
    let said = run(&format!("map:0:{uid}:1,1:{first}:100/0:{gid}:1,1:{first_group}:100"));
    said.assert(0, &["files of users that are not mapped belong to nobody here"]);
    assert_eq!(said.stdout, "0\n0:42\n0:0\n33:33\n");
    let said = run(&format!("map:0:{uid}:1/0:{gid}:1"));
    said.assert(0, &["files of other users belong to root here, as there is nobody else"]);
    assert_eq!(said.stdout, "0\n0:0\n0:0\n0:0\n");
    assert_eq!(home.shelves().len(), 2, "{:?}", home.shelves());

    // Of what is not granted there is no less, but nothing.
    for map in ["map:0:0:1", "map:0:0:65536", "map:0:1:1,1:100:10"] {
        let said = run(map);
        said.assert(125, &["does not map the IDs: ", "hint: the ranges must be in /etc/subuid and /etc/subgid"]);
        assert_eq!(said.stdout, "");
    }
    let said = home.layermount(
        &[Otherwise::NoHelpers],
        &["run", "--userns", &format!("map:0:{uid}:1,1:{first}:100"), &image, look],
    );
    said.assert(125, &["newuidmap", "is not installed", "hint: install the package uidmap"]);
    let said = run("map:0:1:0");
    said.assert(125, &["INSIDE:OUTSIDE:COUNT"]);
}

#[test]
fn the_hosts_users_are_roots() {
    let Some(home) = Home::new() else { return };
    let Some(image) = home.several() else { return };
    let said = home.layermount(&[], &["run", "--userns", "host", &image, "true"]);
    said.assert(125, &["only root can run a program with the host's users", "hint: "]);
    assert_eq!(home.prints(&["run", "--userns", "auto", &image, "busybox id -u"]), "0\n");
    for mode in ["auto", "keep-id", "map:0:1000:1"] {
        let output = home.world.layermount().args(["run", "--userns", mode, &image, "true"]).output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{mode}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("root runs programs with the host's users") && said.contains("hint: "), "{said}");
    }
    // In a place of root's own: whoever owns the directory above a store could put another in its place.
    let roots = World::new();
    assert_eq!(roots.output(&["run", "--userns", "host", &image, "busybox id -u"]), "0\n");
    let output = home.world.layermount().args(["run", &image, "true"]).output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("can put another store in place of this one") && said.contains("hint: "), "{said}");
}
