//! What a person sees who asks for help, or types something wrong. Needs neither privileges nor an image.

#![allow(clippy::disallowed_methods, reason = "tests write to directories of their own")]

mod world;

use std::os::fd::OwnedFd;
use std::process::{Command, Output, Stdio};

use world::World;

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Standard error of a command that ends with `status`.
#[track_caller]
fn complaint(world: &World, arguments: &[&str], status: i32) -> String {
    // Wherever DOCKER_HOST points: nothing listens there.
    let nowhere = format!("unix://{}", world.path().join("no.sock").display());
    let Output { status: found, stdout, stderr } =
        world.layermount().args(arguments).env("DOCKER_HOST", nowhere).stdin(Stdio::null()).output().unwrap();
    let stderr = text(&stderr);
    assert_eq!(found.code(), Some(status), "{arguments:?}: {stderr}");
    assert_eq!(text(&stdout), "", "{arguments:?}");
    for never in ["panicked", "RUST_BACKTRACE", "Error {", "Some(", "Os {"] {
        assert!(!stderr.contains(never), "{arguments:?}: {stderr}");
    }
    stderr
}

#[track_caller]
fn assert_has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

#[test]
fn help_names_every_command_and_the_exit_statuses() {
    let world = World::new();
    let help = world.output(&["--help"]);
    for command in
        ["run", "mount", "umount", "pull", "unpack", "images", "inspect", "layers", "store", "completions", "man"]
    {
        assert_has(&help, &[&format!("\n  {command} ")]);
    }
    assert_has(
        &help,
        &["oci:DIR", "rootfs:DIR", "docker-daemon:", "125", "126", "127", "128+N", "DOCKER_HOST", "LAYERMOUNT_BACKING"],
    );
    let help = world.output(&["run", "--help"]);
    assert_has(
        &help,
        &["IMAGE [--] [COMMAND", "-v is a volume", "-h, --hostname", "128+N", "--upper-size", "--read-only"],
    );
    assert!(!help.contains("--rm"), "nothing to be said about it: {help}");
    assert_eq!(world.output(&["--version"]).trim(), concat!("layermount ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn usage_errors_end_with_2_and_those_of_run_with_125() {
    let world = World::new();
    let bare = Command::new(assert_cmd::cargo::cargo_bin!("layermount")).output().unwrap();
    assert_eq!(bare.status.code(), Some(2));
    assert_has(&text(&bare.stderr), &["Usage: layermount", "Try: layermount run"]);
    assert_has(&complaint(&world, &[], 2), &["requires a subcommand", "see `layermount --help`"]);
    assert_has(&complaint(&world, &["store"], 2), &["verify", "prune"]);
    assert_has(&complaint(&world, &["imags"], 2), &["layermount: unrecognized subcommand 'imags'", "'images'"]);
    assert_has(&complaint(&world, &["ubuntu"], 2), &["hint: to run a program inside an image: layermount run IMAGE"]);
    assert_has(&complaint(&world, &["mount", "x"], 2), &["<DIR>", "see `layermount mount --help`"]);
    assert_has(&complaint(&world, &["run"], 125), &["<IMAGE>", "hint: name an image", "see `layermount run --help`"]);
    assert_has(&complaint(&world, &["run", "--nonsense", "x"], 125), &["unexpected argument '--nonsense'"]);
    assert_has(&complaint(&world, &["run", "-v", "x"], 125), &["SRC:DST", "--verbose"]);
    assert_has(&complaint(&world, &["run", "--network", "bridge", "x"], 125), &["pasta"]);
    assert_has(&complaint(&world, &["run", "--platform", "amd64", "x"], 125), &["linux/arm64"]);
    assert_has(
        &complaint(&world, &["run", "--env-file", "/nonexistent", "x"], 125),
        &["cannot read /nonexistent", "because"],
    );
}

#[test]
fn json_logs_are_one_object_a_line_also_for_usage_errors() {
    let world = World::new();
    for (arguments, status, kind) in [
        (&["--log-format", "json", "run"][..], 125, "usage"),
        (&["mount", "--log-format", "json"], 2, "usage"),
        (&["--log-format", "json", "inspect", "oci:/nonexistent"], 1, "image_not_found"),
        (&["--log-format", "json", "run", "rootfs:/nonexistent"], 125, "image_not_found"),
        (&["--log-format", "json", "pull", "Bad Name"], 1, "invalid_input"),
    ] {
        let complaint = complaint(&world, arguments, status);
        let object: serde_json::Value = serde_json::from_str(&complaint).unwrap_or_else(|_| panic!("{complaint}"));
        assert_eq!(complaint.matches('\n').count(), 1);
        assert_eq!(object["level"], "error", "{object}");
        assert_eq!(object["kind"], kind, "{object}");
        assert!(object["message"].is_string() && object["causes"].is_array(), "{object}");
    }
}

#[test]
fn what_is_not_there_is_said_with_where_it_was_looked_for() {
    let world = World::new();
    let store = world.store();
    let text = complaint(&world, &["pull", "no-such-image"], 1);
    assert_has(&text, &["layermount: ", "no-such-image", store.to_str().unwrap(), "no.sock", "hint: "]);
    assert_has(&complaint(&world, &["run", "UPPER"], 125), &["UPPER", "lower case"]);
    assert_has(&complaint(&world, &["layers", "docker://x"], 1), &["skopeo"]);
    assert!(!store.exists(), "a search makes no store");
}

#[test]
fn directories_without_a_transport_are_explained() {
    let world = World::new();
    let plain = world.path().join("tree");
    std::fs::create_dir(&plain).unwrap();
    let plain = plain.to_str().unwrap();
    assert_has(&complaint(&world, &["run", plain, "sh"], 125), &[&format!("write rootfs:{plain}")]);
    let layout = world.path().join("layout");
    std::fs::create_dir(&layout).unwrap();
    tempfile::Builder::new().prefix("oci-layout").rand_bytes(0).tempfile_in(&layout).unwrap().keep().unwrap();
    let layout = layout.to_str().unwrap();
    assert_has(&complaint(&world, &["run", layout], 125), &[&format!("write oci:{layout}")]);
    assert_has(&complaint(&world, &["pull", &format!("{layout}:v1")], 1), &[&format!("write oci:{layout}:v1")]);
}

#[test]
fn mount_and_umount_refuse_what_cannot_work() {
    let world = World::new();
    let missing = world.path().join("missing");
    let missing = missing.to_str().unwrap();
    assert_has(&complaint(&world, &["mount", "x", missing], 1), &["mkdir -p"]);
    assert_has(&complaint(&world, &["mount", "x", "/dev/null"], 1), &["not a directory"]);
    assert_has(&complaint(&world, &["unpack", "x", "/dev/null"], 1), &["/dev/null is not a directory"]);
    assert_has(&complaint(&world, &["unpack", "x", &format!("{missing}/x")], 1), &[&format!("mkdir -p {missing}")]);
    assert_has(&complaint(&world, &["unpack", "x", "/proc"], 1), &["/proc is not empty", "not there yet"]);
    assert_has(&complaint(&world, &["umount", missing], 1), &["cannot unmount", "No such file"]);
    assert_has(&complaint(&world, &["umount", world.path().to_str().unwrap()], 1), &["nothing is mounted on"]);
    assert_has(&complaint(&world, &["umount", "/proc"], 1), &["not mounted by layermount", "hint: use umount /proc"]);
}

#[test]
fn empty_stores_are_no_failure() {
    let world = World::new();
    assert_eq!(world.output(&["images"]).trim(), "NAME  IMAGE ID  PLATFORM  CREATED  LAYERS");
    assert_eq!(world.output(&["images", "--json"]).trim(), "[]");
    assert_eq!(world.output(&["store", "ls", "--json"]).trim(), "[]");
    assert_has(&world.output(&["store", "df"]), &["images", "0 B"]);
    assert_has(&world.output(&["store", "verify"]), &["0 layers verified"]);
    assert_has(&world.output(&["store", "prune", "--all"]), &["0 layers removed"]);
    assert!(!world.store().exists());
}

#[test]
fn the_store_is_named_by_flag_variable_or_default() {
    let world = World::new();
    let path = |flags: &[&str], variable: &str| {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("layermount"));
        command.args(flags).args(["store", "df", "--json"]).env("LAYERMOUNT_STORE", variable);
        let output = command.env("HOME", world.path()).env_remove("XDG_DATA_HOME").output().unwrap();
        let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        object["Path"].as_str().unwrap().to_owned()
    };
    let (flag, variable) = (world.path().join("flag"), world.path().join("variable"));
    let (flag, variable) = (flag.to_str().unwrap(), variable.to_str().unwrap());
    assert_eq!(path(&["--store", flag], variable), flag);
    assert_eq!(path(&[], variable), variable);
    let default = path(&[], "");
    assert!(default == "/var/lib/layermount" || default.ends_with(".local/share/layermount"), "{default}");
}

#[test]
fn the_backing_is_named_by_flag_or_variable_and_an_empty_variable_is_none() {
    let world = World::new();
    let run = |flags: &[&str], variable: &str| {
        let mut command = world.layermount();
        command.arg("run").args(flags).arg("rootfs:/nonexistent").env("LAYERMOUNT_BACKING", variable);
        let output = command.stdin(Stdio::null()).output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{said}");
        said
    };
    for variable in ["", "auto", "dir", "erofs"] {
        assert_has(&run(&[], variable), &["/nonexistent"]);
    }
    assert_has(&run(&[], "zip"), &["invalid value 'zip' for '--backing <KIND>'", "auto, dir, erofs"]);
    assert_has(&run(&["--backing", "dir"], "zip"), &["/nonexistent"]);
    assert_has(&world.output(&["pull", "--help"]), &["auto, dir or erofs (LAYERMOUNT_BACKING)", "[default: auto]"]);
    assert!(!world.store().exists());
}

#[test]
fn completions_and_manual_pages_are_made() {
    let world = World::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert_has(&world.output(&["completions", shell]), &["layermount", "umount"]);
    }
    assert_has(&world.output(&["man"]), &[".TH layermount 1", "LAYERMOUNT_STORE"]);
    let directory = world.path().join("man");
    complaint(&world, &["man", directory.to_str().unwrap()], 1);
    std::fs::create_dir(&directory).unwrap();
    world.output(&["man", directory.to_str().unwrap()]);
    let page = std::fs::read_to_string(directory.join("layermount-run.1")).unwrap();
    assert_has(&page, &["hostname", "128+N"]);
    assert!(directory.join("layermount-store-prune.1").exists());
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let world = World::new();
    for arguments in [&["man"][..], &["completions", "bash"], &["--help"], &["images", "--json"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = world.layermount().args(arguments).stdout(OwnedFd::from(writer)).output().unwrap();
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()), "{arguments:?}");
    }
}

#[test]
fn closed_standard_streams_are_survived() {
    let world = World::new();
    let layermount = assert_cmd::cargo::cargo_bin!("layermount");
    let script = format!("exec {} --store {} images <&- >&- 2>&-", layermount.display(), world.store().display());
    let status = Command::new("sh").args(["-c", &script]).status().unwrap();
    assert_eq!(status.code(), Some(0));
}
