//! Images and the store: pull, images, inspect, layers, mount, store.

#![allow(clippy::disallowed_methods, reason = "tests write to directories of their own")]

mod world;

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use world::{World, missing, private_mounts, program, root};

fn shell() -> Option<(World, String)> {
    root()?;
    let world = World::new();
    let layout = world.shell_layout()?;
    Some((world, layout))
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

#[track_caller]
fn fails(world: &World, arguments: &[&str]) -> String {
    let output = world.layermount().args(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn what_was_pulled_needs_no_layout_any_more() {
    let Some((world, layout)) = shell() else { return };
    let said = world.output(&["pull", &format!("oci:{layout}:shell")]);
    assert!(said.contains("3 layers in ") && said.contains("3 unpacked now"), "{said}");
    assert!(world.output(&["pull", &format!("oci:{layout}")]).contains("0 unpacked now"));
    let id = world.output(&["-q", "pull", &format!("oci:{layout}")]);
    let images = json(&world.output(&["images", "--json"]));
    assert_eq!(images[0]["Id"], id.trim());
    let name = images[0]["Names"][0].as_str().unwrap().to_owned();
    assert!(world.output(&["images"]).contains(&name));
    std::fs::rename(&layout, world.path().join("elsewhere")).unwrap();
    for reference in [name.as_str(), id.trim(), &id.trim()["sha256:".len()..][..12]] {
        assert_eq!(world.output(&["run", reference]), "from the image\n", "{reference}");
    }
    // The store answers before Docker is asked.
    let nowhere = ["--host", "unix:///nonexistent.sock"];
    assert_eq!(world.output(&["run", nowhere[0], nowhere[1], &name]), "from the image\n");
}

#[test]
fn inspect_has_dockers_shape_and_the_places_of_the_layers() {
    let Some((world, layout)) = shell() else { return };
    let reference = format!("oci:{layout}:shell");
    let objects = json(&world.output(&["inspect", &reference, &reference]));
    let object = &objects[0];
    assert_eq!(objects.as_array().unwrap().len(), 2);
    assert_eq!(object["Config"]["Entrypoint"], json(r#"["sh", "-c"]"#));
    assert_eq!(object["Config"]["Cmd"], json(r#"["echo from the image"]"#));
    assert_eq!(object["Config"]["User"], "guest");
    assert_eq!(object["Config"]["WorkingDir"], "/srv");
    assert_eq!(object["Config"]["Labels"]["title"], "busybox");
    assert_eq!(object["Config"]["ExposedPorts"], json(r#"{"80/tcp": {}}"#));
    assert_eq!(object["Config"]["Volumes"], Value::Null);
    assert_eq!(object["RootFS"]["Type"], "layers");
    assert_eq!(object["Os"], "linux");
    let layers = object["Layers"].as_array().unwrap();
    assert_eq!(layers.len(), 3);
    for (layer, diff_id) in layers.iter().zip(object["RootFS"]["Layers"].as_array().unwrap()) {
        assert_eq!(&layer["DiffId"], diff_id);
        assert_eq!(layer["Kind"], "blob");
    }
    world.output(&["pull", &reference]);
    let layers = json(&world.output(&["layers", "--json", &reference]));
    for layer in layers.as_array().unwrap() {
        assert_eq!(layer["Kind"], "store");
        assert!(Path::new(layer["Place"].as_str().unwrap()).join("fs").is_dir(), "{layer}");
    }
    assert_eq!(layers[2]["Size"], "second\n".len());
}

#[test]
fn layers_are_listed_base_first() {
    let Some((world, layout)) = shell() else { return };
    let table = world.output(&["layers", &format!("oci:{layout}:shell")]);
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("#  DIFF ID"), "{table}");
    for (line, command) in lines[1..].iter().zip(["the shell", "the rest", "a change of mind"]) {
        assert!(line.contains(command) && line.contains("packed") && line.ends_with(&layout), "{line}");
    }
    assert_eq!(lines.len(), 4);
}

#[test]
fn mounted_images_are_unmounted_again() {
    let Some((world, layout)) = shell() else { return };
    private_mounts();
    let reference = format!("oci:{layout}:shell");
    let mounted = world.mount(&[], &reference);
    assert_eq!(std::fs::read_to_string(mounted.join("etc/motd")).unwrap(), "second\n");
    let refused = std::fs::OpenOptions::new().append(true).open(mounted.join("etc/motd")).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    let file = std::fs::File::open(mounted.join("etc/motd")).unwrap();
    assert!(fails(&world, &["umount", mounted.to_str().unwrap()]).contains("fuser -vm"));
    drop(file);
    let busy = world.output(&["store", "prune", "--all"]);
    assert!(busy.contains("0 layers removed"), "{busy}");
    world.unmount_all();
    assert!(fails(&world, &["umount", mounted.to_str().unwrap()]).contains("nothing is mounted on"));

    let upper = world.path().join("upper");
    for (flags, kept) in [(&["--writable"][..], "second\n"), (&["--upper", upper.to_str().unwrap()], "third\n")] {
        let mounted = world.mount(flags, &reference);
        let file = std::fs::OpenOptions::new().write(true).open(mounted.join("etc/motd")).unwrap();
        file.write_all_at(b"third\n", 0).unwrap();
        file.set_len(6).unwrap();
        drop(file);
        world.unmount_all();
        let mounted = world.mount(flags, &reference);
        assert_eq!(std::fs::read_to_string(mounted.join("etc/motd")).unwrap(), kept, "{flags:?}");
        world.unmount_all();
    }
}

#[test]
fn an_image_is_unpacked_as_it_is_mounted() {
    let Some((world, layout)) = shell() else { return };
    private_mounts();
    let reference = format!("oci:{layout}:shell");
    let tree = world.path().join("a tree");
    let said = world.output(&["unpack", &reference, tree.to_str().unwrap()]);
    assert!(said.contains("6 files of 3 layers in ") && said.contains("/a tree ("), "{said}");
    let mounted = world.mount(&[], &reference);
    let differences = layermount_fixtures::tree::differences(&mounted, &tree, &Default::default()).unwrap();
    assert!(differences.is_empty(), "{differences:?}");
    world.unmount_all();
    assert!(fails(&world, &["unpack", &reference, tree.to_str().unwrap()]).contains("a tree is not empty"));
    // What was unpacked runs like any other tree, and an empty directory will do.
    let empty = world.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    assert_eq!(world.output(&["-q", "unpack", &reference, empty.to_str().unwrap()]), "");
    let reference = format!("rootfs:{}", empty.display());
    assert_eq!(world.output(&["run", &reference, "--", "/bin/sh", "-c", "cat /etc/motd"]), "second\n");
    let inside = empty.join("srv/copy");
    assert!(fails(&world, &["unpack", &reference, inside.to_str().unwrap()]).contains("part of what is unpacked"));
}

#[test]
fn a_tree_that_is_to_be_durable_is_written_to_the_disk() {
    let Some((world, layout)) = shell() else { return };
    if program("strace").is_none() {
        return;
    }
    let (tree, log) = (world.path().join("tree"), world.path().join("log"));
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-y", "-e", "trace=syncfs", "-o"]).arg(&log);
    strace.arg(world.layermount().get_program()).arg("--store").arg(world.store());
    strace.args(["unpack", "--durable", &format!("oci:{layout}:shell")]).arg(&tree);
    let output = strace.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("ptrace") {
        return missing("strace", "processes cannot be traced here");
    }
    assert!(output.status.success(), "{said}");
    let calls = std::fs::read_to_string(&log).unwrap();
    let of = |path: &Path| calls.lines().filter(|call| call.contains(path.to_str().unwrap())).count();
    assert_eq!((of(&world.store()), of(&tree)), (1, 1), "{calls}");
}

#[test]
fn damage_is_found_and_prune_makes_room() {
    let Some((world, layout)) = shell() else { return };
    world.output(&["pull", &format!("oci:{layout}:shell")]);
    assert!(world.output(&["store", "verify"]).contains("3 layers verified"));
    assert_eq!(world.output(&["store", "ls"]).lines().count(), 4);
    let layers = json(&world.output(&["store", "ls", "--json"]));
    let damaged = layers.as_array().unwrap().iter().find(|layer| layer["Size"] == 7).unwrap();
    let path = Path::new(damaged["Path"].as_str().unwrap()).join("fs/etc/motd");
    std::fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(b"S", 0).unwrap();
    let output = world.layermount().args(["store", "verify"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("etc/motd"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("1 layer of") && said.contains("'layermount pull'") && said.contains("shell"), "{said}");
    // The store's name for the image leads to no place from which the layer could be made.
    let name = json(&world.output(&["images", "--json"]))[0]["Names"][0].as_str().unwrap().to_owned();
    let nowhere = ["--host", "unix:///nonexistent.sock"];
    assert!(fails(&world, &["pull", nowhere[0], nowhere[1], &name]).contains("from the place where it came from"));
    assert!(world.output(&["pull", &format!("oci:{layout}:shell")]).contains("1 unpacked now"));
    assert!(world.output(&["store", "verify"]).contains("3 layers verified"));
    assert!(world.output(&["store", "prune"]).contains("0 layers removed"));
    let pruned = world.output(&["store", "prune", "--all"]);
    assert!(pruned.contains("1 image forgotten") && pruned.contains("3 layers removed"), "{pruned}");
    assert_eq!(json(&world.output(&["store", "df", "--json"]))["Layers"], 0);
}

#[test]
fn blobs_that_cannot_be_believed_leave_nothing_behind() {
    let Some((world, layout)) = shell() else { return };
    let reference = format!("oci:{layout}:shell");
    let layers = json(&world.output(&["layers", "--json", &reference]));
    let blob = |number: usize| {
        let digest = layers[number]["Digest"].as_str().unwrap().replacen(':', "/", 1);
        Path::new(&layout).join("blobs").join(digest)
    };
    let file = std::fs::OpenOptions::new().write(true).open(blob(2)).unwrap();
    file.set_len(file.metadata().unwrap().len() - 1).unwrap();
    let text = fails(&world, &["pull", &reference]);
    let digest = layers[2]["Digest"].as_str().unwrap();
    assert!(text.contains(digest) || text.contains(layers[2]["DiffId"].as_str().unwrap()), "{text}");
    std::fs::remove_file(blob(2)).unwrap();
    let text = fails(&world, &["--log-format", "json", "pull", &reference]);
    assert_eq!(json(&text)["kind"], "blob_not_found", "{text}");
    assert!(world.output(&["images", "--json"]).trim() == "[]");
    assert!(!world.output(&["store", "ls"]).contains(&layers[2]["DiffId"].as_str().unwrap()[7..19]));
    assert_eq!(std::fs::read_dir(world.store().join("stage")).unwrap().count(), 0);
}

/// A mount that no process holds open, in a mount namespace that is not ours.
#[test]
fn what_is_mounted_elsewhere_is_neither_pruned_nor_replaced() {
    let Some((world, layout)) = shell() else { return };
    let reference = format!("oci:{layout}:shell");
    let target = world.path().join("mounted");
    std::fs::create_dir(&target).unwrap();
    let mut holder = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c"])
        .arg(r#""$0" --store "$1" mount "$2" "$3" && echo mounted && exec cat"#)
        .args([assert_cmd::cargo::cargo_bin!("layermount"), &world.store()])
        .arg(&reference)
        .arg(&target)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(holder.stdout.as_mut().unwrap()), &mut said).unwrap();
    assert_eq!(said, "mounted\n");
    assert!(!target.join("etc").exists(), "not in this namespace");
    assert!(world.output(&["store", "prune", "--all"]).contains("0 layers removed"));

    let layers = json(&world.output(&["store", "ls", "--json"]));
    let damaged = layers.as_array().unwrap().iter().find(|layer| layer["Size"] == 7).unwrap();
    let damaged = Path::new(damaged["Path"].as_str().unwrap()).join("fs/etc/motd");
    std::fs::OpenOptions::new().write(true).open(&damaged).unwrap().write_all_at(b"S", 0).unwrap();
    assert!(fails(&world, &["store", "verify"]).contains("is in use"));
    assert!(fails(&world, &["pull", &reference]).contains("keeps it from being replaced"));
    assert!(world.output(&["store", "prune", "--all"]).contains("0 layers removed"));
    let inside = format!("/proc/{}/root{}", holder.id(), target.join("etc/motd").display());
    assert_eq!(std::fs::read_to_string(inside).unwrap(), "Second\n");

    drop(holder.stdin.take());
    holder.wait().unwrap();
    assert!(world.output(&["pull", &reference]).contains("1 unpacked now"));
    assert!(world.output(&["store", "verify"]).contains("3 layers verified"));
    assert!(world.output(&["store", "prune", "--all"]).contains("3 layers removed"));
}

/// The launcher is killed, and with it the lock that it held, and its program; what that has started runs on.
#[test]
fn what_a_program_runs_in_is_not_pruned_when_its_launcher_is_gone() {
    let Some((world, layout)) = shell() else { return };
    let reference = format!("oci:{layout}:shell");
    let mut launcher = world
        .layermount()
        .args(["run", "--pid", "host", &reference, "busybox sleep 1000 & echo $!; wait"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut pid = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(launcher.stdout.as_mut().unwrap()), &mut pid).unwrap();
    let pid = nix::unistd::Pid::from_raw(pid.trim().parse().unwrap());
    launcher.kill().unwrap();
    launcher.wait().unwrap();
    let pruned = world.output(&["store", "prune", "--all"]);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("it runs on");
    assert!(pruned.contains("0 layers removed"), "{pruned}");
}

#[test]
fn limits_are_set_by_name() {
    let Some((world, layout)) = shell() else { return };
    let reference = format!("oci:{layout}:shell");
    for command in [&["pull"][..], &["run"], &["mount"]] {
        let directory = world.path().to_str().unwrap();
        let behind = if command == ["mount"] { &[directory][..] } else { &[] };
        let arguments = [command, &["--limit", "entries=1", "--limit", "tar-bytes=1G", &reference], behind].concat();
        let output = world.layermount().args(&arguments).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("entries=1") && said.contains("--limit entries=NUMBER"), "{command:?}: {said}");
    }
    assert_eq!(json(&world.output(&["store", "df", "--json"]))["Layers"], 0);
    assert!(world.output(&["pull", "--limit", "entries=100", &reference]).contains("3 unpacked now"));
    let output = world.layermount().args(["pull", "--limit", "tar=1", &reference]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(world.output(&["pull", "--help"]).contains("xattr-bytes: bytes of an extended attribute [default: 64"));
}
