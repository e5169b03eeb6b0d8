//! `--config`: options out of a file, with a real image.

#![allow(clippy::disallowed_methods, reason = "tests write to directories of their own")]

mod world;

use std::process::Stdio;

use world::person::Said;
use world::{World, root};

#[test]
fn a_file_is_run() {
    let Some(()) = root() else { return };
    let world = World::new();
    let Some(layout) = world.shell_layout() else { return };
    let directory = world.path().join("app");
    std::fs::create_dir_all(directory.join("data")).unwrap();
    std::fs::write(directory.join("data/file"), "data\n").unwrap();
    std::fs::write(directory.join("more.env"), "MORE=file\n").unwrap();
    let file = directory.join("app.toml");
    let said = |flags: &[&str]| {
        let mut command = world.layermount();
        Said::of(&command.arg("run").args(flags).stdin(Stdio::null()).output().unwrap())
    };
    let text = format!(
        "image = \"oci:{layout}:shell\"\ncommand = [\"cat /data/file; echo $A $B $MORE $(id -u); touch /x\"]\n\
         volume = [\"./data:/data:ro\"]\nenv-file = [\"more.env\"]\nread-only = true\nuser = 5\n[env]\nA = \"a\"\nB = \"b\"\n"
    );
    std::fs::write(&file, text).unwrap();
    let config = ["--config", file.to_str().unwrap()];
    let output = said(&config);
    assert_eq!((output.status, output.stdout.as_str()), (Some(1), "data\na b file 5\n"), "{output:?}");
    assert!(output.stderr.contains("Read-only"), "{output:?}");
    // The command line goes first.
    let output = said(&[&config[..], &["-u", "0", "-e", "B=c", "--", "echo $A $B $(id -u)"]].concat());
    assert_eq!((output.status, output.stdout.as_str()), (Some(0), "a c 0\n"), "{output:?}");

    std::fs::write(&file, "image = \"x\"\nuser = 0\nreed-only = true\n").unwrap();
    let expected =
        format!("layermount: {}:3:1: unknown key \"reed-only\"\n  hint: did you mean \"read-only\"?\n", file.display());
    let output = said(&config);
    assert_eq!((output.status, &output.stderr), (Some(125), &expected));
    let output = said(&["--config", "/no/such.toml"]);
    output.assert(125, &["layermount: cannot read /no/such.toml"]);
    // Without an image anywhere.
    std::fs::write(&file, "").unwrap();
    said(&config).assert(125, &["app.toml names no image, and there is none on the command line"]);
}
