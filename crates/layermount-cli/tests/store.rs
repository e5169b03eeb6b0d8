//! Images and the store: pull, images, inspect, layers, mount, store.

#![allow(clippy::disallowed_methods, reason = "tests write to directories of their own")]

mod world;

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use layermount_fixtures::{Layout, Recipe};
use serde_json::Value;
use world::{Backing, World, erofs, for_both_backings, missing, private_mounts, program, root};

for_both_backings! {
    what_was_pulled_needs_no_layout_any_more,
    inspect_has_dockers_shape_and_the_places_of_the_layers,
    layers_are_listed_base_first,
    mounted_images_are_unmounted_again,
    an_image_is_unpacked_as_it_is_mounted,
    a_tree_that_is_to_be_durable_is_written_to_the_disk,
    damage_is_found_and_prune_makes_room,
    blobs_that_cannot_be_believed_leave_nothing_behind,
    what_is_mounted_elsewhere_is_not_pruned,
    what_a_program_runs_in_is_not_pruned_when_its_launcher_is_gone,
    limits_are_set_by_name,
}

fn shell(backing: Backing) -> Option<(World, String)> {
    root()?;
    let world = World::with_backing(backing);
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

fn what_was_pulled_needs_no_layout_any_more(backing: Backing) {
    let Some((world, layout)) = shell(backing) else { return };
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

fn inspect_has_dockers_shape_and_the_places_of_the_layers(backing: Backing) {
    let Some((world, layout)) = shell(backing) else { return };
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
        let place = Path::new(layer["Place"].as_str().unwrap());
        assert!(place.parent().unwrap().ends_with(backing.shelf()), "{layer}");
        assert_eq!(place.join(backing.content()).is_dir(), backing == Backing::Dir, "{layer}");
        assert!(place.join(backing.content()).exists(), "{layer}");
    }
    assert_eq!(layers[2]["Size"], "second\n".len() + 70_000);
}

fn layers_are_listed_base_first(backing: Backing) {
    let Some((world, layout)) = shell(backing) else { return };
    let table = world.output(&["layers", &format!("oci:{layout}:shell")]);
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("#  DIFF ID"), "{table}");
    for (line, command) in lines[1..].iter().zip(["the shell", "the rest", "a change of mind"]) {
        assert!(line.contains(command) && line.contains("packed") && line.ends_with(&layout), "{line}");
    }
    assert_eq!(lines.len(), 4);
    world.output(&["pull", &format!("oci:{layout}:shell")]);
    let table = world.output(&["layers", "--no-trunc", &format!("oci:{layout}:shell")]);
    let stored = json(&world.output(&["store", "ls", "--json"]));
    for (line, size) in table.lines().skip(1).zip([None, None, Some("68.4 KiB")]) {
        let has = |layer: &&Value| line.ends_with(layer["Path"].as_str().unwrap());
        let layer = stored.as_array().unwrap().iter().find(has).unwrap_or_else(|| panic!("{line}"));
        assert!(line.contains(layer["DiffId"].as_str().unwrap()) && !line.contains("packed"), "{line}");
        assert!(size.is_none_or(|size| line.contains(size)), "{line}");
    }
}

fn mounted_images_are_unmounted_again(backing: Backing) {
    let Some((world, layout)) = shell(backing) else { return };
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

fn an_image_is_unpacked_as_it_is_mounted(backing: Backing) {
    let Some((world, layout)) = shell(backing) else { return };
    private_mounts();
    let reference = format!("oci:{layout}:shell");
    let tree = world.path().join("a tree");
    let said = world.output(&["unpack", &reference, tree.to_str().unwrap()]);
    assert!(said.contains("8 files of 3 layers in ") && said.contains("/a tree ("), "{said}");
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

fn a_tree_that_is_to_be_durable_is_written_to_the_disk(backing: Backing) {
    let Some((world, layout)) = shell(backing) else { return };
    if program("strace").is_none() {
        return;
    }
    let (tree, log) = (world.path().join("tree"), world.path().join("log"));
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-y", "-e", "trace=syncfs", "-o"]).arg(&log);
    strace.arg(world.layermount().get_program()).arg("--store").arg(world.store());
    strace.args(["unpack", "--durable", &format!("oci:{layout}:shell")]).arg(&tree);
    let output = world.choose_backing(&mut strace).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("ptrace") {
        return missing("strace", "processes cannot be traced here");
    }
    assert!(output.status.success(), "{said}");
    let calls = std::fs::read_to_string(&log).unwrap();
    let of = |path: &Path| calls.lines().filter(|call| call.contains(path.to_str().unwrap())).count();
    assert_eq!((of(&world.store()), of(&tree)), (1, 1), "{calls}");
}

fn damage_is_found_and_prune_makes_room(backing: Backing) {
    let Some((world, layout)) = shell(backing) else { return };
    world.output(&["pull", &format!("oci:{layout}:shell")]);
    assert!(world.output(&["store", "verify"]).contains("3 layers verified"));
    assert_eq!(world.output(&["store", "ls"]).lines().count(), 4);
    let place = damage(&world, backing);
    let output = world.layermount().args(["store", "verify"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let found = String::from_utf8_lossy(&output.stdout);
    assert!(found.contains(&place), "{found}");
    if backing == Backing::Erofs {
        assert!(found.contains("/layers/erofs/image-") && found.contains("needs layer sha256:"), "{found}");
    }
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

fn blobs_that_cannot_be_believed_leave_nothing_behind(backing: Backing) {
    let Some((world, layout)) = shell(backing) else { return };
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

/// An image of seventeen layers, so that two diff IDs begin with the same digit, as `oci:LAYOUT:many`.
fn many_layers(world: &World) -> String {
    let mut recipe = String::new();
    for layer in 0..17 {
        let packing = ["", "gzip", "plain"][layer % 3];
        recipe += &format!("layer {packing}\nrandom 0644 0:0 /{layer} {}\n", 1 + layer * 20_000);
    }
    let layout = Layout::create(world.path().join("many")).unwrap();
    layout.add("many", &Recipe::parse(&recipe).unwrap().build().unwrap()).unwrap();
    format!("oci:{}:many", layout.path().display())
}

#[test]
fn a_layers_archive_is_given_back_byte_for_byte() {
    if root().is_none() || erofs().is_none() || program("zcat").is_none() {
        return;
    }
    let world = World::with_backing(Backing::Erofs);
    let reference = many_layers(&world);
    world.output(&["pull", &reference]);
    let layers = json(&world.output(&["layers", "--json", &reference]));
    let layers = layers.as_array().unwrap();
    let export = |arguments: &[&str]| {
        let output = world.layermount().args(["store", "export-layer"]).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    assert_eq!(layers.len(), 17);
    for layer in layers {
        let blob = layer["Digest"].as_str().unwrap().replacen(':', "/", 1);
        let zcat = Command::new("zcat").arg("-f").arg(world.path().join("many/blobs").join(blob)).output().unwrap();
        let diff_id = layer["DiffId"].as_str().unwrap();
        assert!(export(&[diff_id]) == zcat.stdout, "{layer}");
        let short = &diff_id["sha256:".len()..][..12];
        assert!(export(&[short]) == zcat.stdout && export(&[&format!("sha256:{short}")]) == zcat.stdout, "{layer}");
        let file = world.path().join("archive");
        std::fs::write(&file, "longer than the archive ".repeat(100_000)).unwrap();
        assert_eq!(export(&[short, "-o", file.to_str().unwrap()]), b"");
        assert!(std::fs::read(&file).unwrap() == zcat.stdout, "{layer}");
    }
    // A reader that has seen enough is no failure.
    let large = layers[16]["DiffId"].as_str().unwrap();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut child =
        world.layermount().args(["store", "export-layer", large]).stdout(writer).stderr(Stdio::piped()).spawn();
    let child = child.as_mut().unwrap();
    std::io::Read::read_exact(&mut reader, &mut [0; 512]).unwrap();
    drop(reader);
    let mut said = String::new();
    std::io::Read::read_to_string(child.stderr.as_mut().unwrap(), &mut said).unwrap();
    assert_eq!((child.wait().unwrap().code(), said.as_str()), (Some(0), ""));
}

#[test]
fn which_layer_is_exported_must_be_clear_and_where_to_possible() {
    if root().is_none() || erofs().is_none() {
        return;
    }
    let world = World::with_backing(Backing::Erofs);
    let reference = many_layers(&world);
    world.output(&["pull", &reference]);
    let layers = json(&world.output(&["store", "ls", "--json"]));
    let mut diff_ids: Vec<_> =
        layers.as_array().unwrap().iter().map(|layer| layer["DiffId"].as_str().unwrap()).collect();
    diff_ids.sort_unstable();
    let digit = |diff_id: &str| diff_id.as_bytes()["sha256:".len()];
    let twice = diff_ids.windows(2).find(|pair| digit(pair[0]) == digit(pair[1])).unwrap()[0];
    let digit = &twice["sha256:".len()..][..1];
    let export = |arguments: &[&str]| fails(&world, &[&["store", "export-layer"], arguments].concat());
    let has = |said: String, parts: &[&str]| {
        parts.iter().for_each(|part| assert!(said.contains(part), "{part:?} is not in:\n{said}"))
    };
    has(export(&[digit]), &[&format!("several layers start with {digit}"), "hint: say more digits"]);
    let unknown = "0123456789abcdef".repeat(4);
    for unknown in [&format!("sha256:{unknown}"), "xyz", "", "sha256:", "sha512:0", "../x"] {
        has(export(&[unknown]), &[&format!("no layer of the store is {unknown}"), "hint: 'layermount store ls'"]);
    }
    has(export(&["--log-format", "json", "xyz"]), &[r#""kind":"blob_not_found""#]);
    has(export(&[twice, "-o", "/nonexistent/x"]), &["cannot write /nonexistent/x", "No such file"]);
    has(export(&[twice, "-o", "/dev/full"]), &["cannot write the layer's archive", "No space left"]);
    has(export(&["--log-format", "json", twice, "-o", "/dev/full"]), &[r#""kind":"storage_full""#]);
    let terminal = format!(
        "{} --store {} store export-layer {twice}",
        world.layermount().get_program().display(),
        world.store().display()
    );
    let script = Command::new("script")
        .args(["--quiet", "--return", "--command", &terminal, "/dev/null"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(script.status.code(), Some(1));
    has(
        String::from_utf8_lossy(&script.stdout).into_owned(),
        &["an archive is not for a terminal", "hint: use --output FILE"],
    );
    // What has changed is written, and is said not to be the layer.
    let layer = layers.as_array().unwrap().iter().find(|layer| layer["DiffId"] == twice).unwrap();
    let image = Path::new(layer["Path"].as_str().unwrap()).join("image");
    std::fs::OpenOptions::new().write(true).open(image).unwrap().write_all_at(b"?", 4096 + 512).unwrap();
    has(export(&[twice]), &["has the archive of sha256:", "hint: 'layermount store verify'"]);
    fails(&world, &["store", "verify"]);
    has(export(&[twice]), &["no layer of the store is"]);
}

#[test]
fn the_archives_of_directories_are_not_kept() {
    let Some(()) = root() else { return };
    let world = World::with_backing(Backing::Dir);
    let reference = many_layers(&world);
    world.output(&["pull", &reference]);
    let layers = json(&world.output(&["layers", "--json", &reference]));
    let diff_id = layers[0]["DiffId"].as_str().unwrap();
    let file = world.path().join("precious");
    std::fs::write(&file, "kept").unwrap();
    for output in [&[][..], &["-o", file.to_str().unwrap()]] {
        let said = fails(&world, &[&["store", "export-layer", diff_id], output].concat());
        assert!(said.contains("is a directory in the store") && said.contains("--backing erofs"), "{said}");
    }
    assert_eq!(std::fs::read_to_string(file).unwrap(), "kept");
}

/// Pulled as directories first, an image is used as that, until files are asked for; then both are there.
#[test]
fn what_the_store_has_of_an_image_is_used_and_listed() {
    if root().is_none() || erofs().is_none() {
        return;
    }
    let world = World::new();
    let reference = many_layers(&world);
    let pull = |flags: &[&str]| world.output(&[&["pull"], flags, &[&reference]].concat());
    let backings = || {
        let layers = json(&world.output(&["store", "ls", "--json"]));
        let count = |name: &str| layers.as_array().unwrap().iter().filter(|layer| layer["Backing"] == name).count();
        let df = json(&world.output(&["store", "df", "--json"]));
        assert_eq!(df["Layers"], layers.as_array().unwrap().len());
        assert_eq!(world.output(&["store", "ls"]).lines().count(), 1 + layers.as_array().unwrap().len());
        for layer in layers.as_array().unwrap() {
            assert_eq!(layer["OverlayXattrs"], "trusted", "{layer}");
            assert_eq!(layer["Entries"], 1, "{layer}");
            assert!(layer["Name"].as_str().unwrap().starts_with(if layer["Backing"] == "erofs" {
                "diff-"
            } else {
                ""
            }));
        }
        (count("dir"), count("erofs"))
    };
    assert!(pull(&["--backing", "dir"]).contains("17 unpacked now"));
    assert_eq!(backings(), (17, 0));
    assert!(pull(&[]).contains("0 unpacked now"));
    assert!(pull(&["--backing", "erofs"]).contains("17 unpacked now"));
    assert_eq!(backings(), (17, 17));
    let object = &json(&world.output(&["inspect", &reference]))[0];
    for layer in object["Layers"].as_array().unwrap() {
        assert_eq!(layer["Kind"], "store", "{layer}");
    }
    assert!(world.output(&["store", "verify"]).contains("34 layers verified"));
    let output = world.layermount().args(["-v", "store", "prune", "--all"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("34 layers removed"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said.matches("removed ").count(), 35, "{said}");
    assert_eq!(said.matches("removed image-").count(), 1, "{said}");
    assert_eq!(backings(), (0, 0));
    assert!(pull(&[]).contains("17 unpacked now"));
    assert_eq!(backings(), (0, 17), "the best that this machine can mount");
}

/// An index that is lost is made anew out of the layers, of which none is read again.
#[test]
fn a_damaged_index_is_made_anew_and_its_layers_stay() {
    let Some(()) = erofs() else { return };
    let Some((world, layout)) = shell(Backing::Erofs) else { return };
    let pull = || world.output(&["pull", &format!("oci:{layout}:shell")]);
    pull();
    let layers = world.layer_inodes();
    let is_index = |path: &Path| path.file_name().unwrap().to_str().unwrap().starts_with("image-");
    let index = layers.iter().find(|(path, _)| is_index(path)).unwrap().0.clone();
    let before = std::fs::read(index.join("image")).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(index.join("image")).unwrap();
    file.write_all_at(b"?", before.len() as u64 / 2).unwrap();
    drop(file);
    let verified = world.layermount().args(["store", "verify"]).output().unwrap();
    let (found, said) = (String::from_utf8_lossy(&verified.stdout), String::from_utf8_lossy(&verified.stderr));
    assert_eq!((verified.status.code(), found.lines().count()), (Some(1), 1), "{found}");
    assert!(!said.contains("in use"), "{said}");
    assert!(said.contains("1 index of") && said.contains("localhost/layout:shell"), "{said}");
    assert!(world.output(&["store", "prune"]).contains("0 layers removed"));
    assert!(!index.exists());
    assert!(pull().contains("0 unpacked now"));
    assert!(std::fs::read(index.join("image")).unwrap() == before);
    let now = world.layer_inodes();
    assert!(layers.iter().all(|layer| is_index(&layer.0) || now.contains(layer)), "{now:?}");
    assert!(world.output(&["store", "verify"]).contains("3 layers verified"));
}

/// Changes a letter of the only file in the topmost layer. Returns what is said of it then.
fn damage(world: &World, backing: Backing) -> String {
    let layers = json(&world.output(&["store", "ls", "--json"]));
    let layer = layers.as_array().unwrap().iter().find(|layer| layer["Size"] == 70_007).unwrap();
    let layer = PathBuf::from(layer["Path"].as_str().unwrap());
    let (path, at) = match backing {
        Backing::Dir => (layer.join("fs/etc/motd"), 0),
        Backing::Erofs => {
            let file = std::fs::read(layer.join("image")).unwrap();
            (layer.join("image"), file.windows(7).position(|bytes| bytes == b"second\n").unwrap())
        }
    };
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().write_all_at(b"S", at as u64).unwrap();
    match backing {
        Backing::Dir => format!("{}/etc/motd: has the checksum", layer.display()),
        Backing::Erofs => format!("{}/: has the archive sha256:", layer.display()),
    }
}

/// What a prune of everything says, and what it warns of.
#[track_caller]
fn prune(world: &World) -> (String, String) {
    let output = world.layermount().args(["store", "prune", "--all"]).output().unwrap();
    assert!(output.status.success());
    (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// A mount that no process holds open, in a mount namespace that is not ours.
fn what_is_mounted_elsewhere_is_not_pruned(backing: Backing) {
    let Some((world, layout)) = shell(backing) else { return };
    let reference = format!("oci:{layout}:shell");
    let target = world.path().join("mounted");
    std::fs::create_dir(&target).unwrap();
    let mut holder = Command::new("unshare")
        .env(Backing::VARIABLE, backing.name())
        .args(["--mount", "--propagation", "private", "sh", "-c"])
        .arg(r#""$0" --store "$1" mount "$2" "$3" && echo mounted && exec cat"#)
        .args([assert_cmd::cargo::cargo_bin!("layermount"), &world.store()])
        .arg(&reference)
        .arg(&target)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(holder.stdout.as_mut().unwrap()), &mut said).unwrap();
    assert_eq!(said, "mounted\n");
    assert!(!target.join("etc").exists(), "not in this namespace");
    assert!(world.output(&["store", "prune", "--all"]).contains("0 layers removed"));

    let inside = format!("/proc/{}/root{}", holder.id(), target.join("etc/motd").display());
    let inside = || std::fs::read_to_string(&inside).unwrap();
    damage(&world, backing);
    let said = fails(&world, &["store", "verify"]);
    assert!(said.contains("is in use"), "{said}");
    match backing {
        Backing::Dir => {
            assert!(world.output(&["store", "prune", "--all"]).contains("0 layers removed"));
            assert!(fails(&world, &["pull", &reference]).contains("keeps it from being replaced"));
            assert!(world.output(&["store", "prune", "--all"]).contains("0 layers removed"));
        }
        // The kernel has the old file, whatever its name leads to. The new one is nobody's when the pull has ended.
        Backing::Erofs => {
            let (pruned, in_use) = prune(&world);
            assert!(pruned.contains("0 layers removed"), "{pruned}");
            assert_eq!(in_use.lines().filter(|line| line.contains("is in use and stays")).count(), 4, "{in_use}");
            assert!(world.output(&["pull", &reference]).contains("1 unpacked now"));
            assert!(world.output(&["store", "verify"]).contains("3 layers verified"));
            let (pruned, in_use) = prune(&world);
            assert!(pruned.contains("1 layer removed"), "{pruned}");
            assert_eq!(in_use.lines().filter(|line| line.contains("diff-")).count(), 2, "{in_use}");
        }
    }
    assert_eq!(inside(), "Second\n");

    drop(holder.stdin.take());
    holder.wait().unwrap();
    assert!(world.output(&["pull", &reference]).contains("1 unpacked now"));
    assert!(world.output(&["store", "verify"]).contains("3 layers verified"));
    assert!(world.output(&["store", "prune", "--all"]).contains("3 layers removed"));
}

/// The launcher is killed, and with it the lock that it held, and its program; what that has started runs on.
fn what_a_program_runs_in_is_not_pruned_when_its_launcher_is_gone(backing: Backing) {
    let Some((world, layout)) = shell(backing) else { return };
    let reference = format!("oci:{layout}:shell");
    let mut launcher = world
        .layermount()
        .args(["run", "--pid", "host", &reference, "busybox sleep 1000 & echo $!; wait"])
        .stdout(Stdio::piped())
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

fn limits_are_set_by_name(backing: Backing) {
    let Some((world, layout)) = shell(backing) else { return };
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
