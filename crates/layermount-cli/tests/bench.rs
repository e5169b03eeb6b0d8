//! `layermount bench`.

#![allow(clippy::disallowed_methods, reason = "tests write to directories of their own")]

mod world;

use std::process::Output;

use serde_json::Value;
use world::{World, root};

/// A store and the reference of the image with a shell, whose entrypoint takes a script.
fn shell() -> Option<(World, String)> {
    root()?;
    let world = World::new();
    let layout = world.shell_layout()?;
    Some((world, format!("oci:{layout}:shell")))
}

fn bench(world: &World, flags: &[&str], words: &[&str]) -> Output {
    let scratch = world.path().join("scratch");
    std::fs::create_dir_all(&scratch).unwrap();
    world.layermount().arg("bench").args(flags).args(words).env("TMPDIR", scratch).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The object that is printed.
fn measured(output: &Output) -> Value {
    assert!(output.status.success(), "{}", stderr(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn median(object: &Value, phase: &str) -> f64 {
    object["Phases"][phase]["MedianMicroseconds"].as_f64().unwrap_or_else(|| panic!("{phase}: {object}"))
}

#[test]
fn a_start_is_told_phase_by_phase() {
    let Some((world, image)) = shell() else { return };
    let object = measured(&bench(&world, &["--json", "--runs", "5"], &[&image, "--", "usleep 20000"]));
    assert_eq!((&object["Runs"], &object["Layers"], &object["Cold"]), (&5.into(), &3.into(), &false.into()));
    let phases = ["resolve", "locate", "mount", "prepare", "clone", "furnish", "enter", "become", "exec"];
    let sum: f64 = phases.iter().map(|phase| median(&object, phase)).sum();
    // The median of a sum is not quite the sum of medians.
    let ready = median(&object, "ready");
    assert!(sum > ready / 3.0 && sum < ready * 3.0, "{object}");
    // Twenty milliseconds are the program's own affair, in the phase that says so and in no other.
    assert!(median(&object, "program") >= 19_000.0, "{object}");
    assert!(median(&object, "whole") >= 20_000.0, "{object}");
    let text = bench(&world, &["--runs", "2"], &[&image, "true"]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("3 layers, 2 x true, with layers that are ready"), "{text}");
    assert!(text.lines().any(|line| line.starts_with("furnish ") && line.contains(" ms  ")), "{text}");
}

#[test]
fn a_cold_run_unpacks_and_leaves_nothing() {
    let Some((world, image)) = shell() else { return };
    let object = measured(&bench(&world, &["--json", "--cold", "--runs", "2"], &[&image, "true"]));
    assert!(median(&object, "unpack") > median(&object, "enter"), "{object}");
    assert_eq!(object["Phases"].get("whole"), None);
    let output = bench(&world, &["--cold", "--runs", "2"], &[&image, "exit 3"]);
    assert!(stderr(&output).contains("did not succeed: exit status: 3"), "{}", stderr(&output));
    let left: Vec<_> = std::fs::read_dir(world.path().join("scratch")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(world.layer_inodes().is_empty(), "the store itself is left alone");
}

#[test]
fn what_became_slower_than_before_fails() {
    let Some((world, image)) = shell() else { return };
    let words = [image.as_str(), "--", "true"];
    let before = bench(&world, &["--json", "--runs", "20"], &words);
    let mut object = measured(&before);
    let file = world.path().join("baseline.json");
    let against = |object: &Value, words: &[&str]| {
        std::fs::write(&file, object.to_string()).unwrap();
        bench(&world, &["--runs", "20", "--baseline", file.to_str().unwrap(), "--max-regression", "400%"], words)
    };
    let output = against(&object, &words);
    assert!(output.status.success(), "{}", stderr(&output));
    object["Phases"]["whole"]["MedianMicroseconds"] = 1.0.into();
    let output = against(&object, &words);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("because whole: 1 us before"), "{}", stderr(&output));
    let output = against(&object, &[&image, "--", "echo"]);
    assert!(stderr(&output).contains("something else"), "{}", stderr(&output));
}

#[test]
fn mistakes_are_told() {
    let Some((world, image)) = shell() else { return };
    let fails = |flags: &[&str], words: &[&str], says: &str| {
        let output = bench(&world, flags, words);
        assert!(!output.status.success() && stderr(&output).contains(says), "{flags:?}: {}", stderr(&output));
    };
    fails(&[], &[&image], "name a program of the image");
    fails(&["--runs", "0"], &[&image], "--runs");
    fails(&["--baseline", "/no/such"], &[&image], "cannot read /no/such");
    fails(&["--max-regression", "1%"], &[&image], "--baseline");
    let file = world.path().join("other.json");
    std::fs::write(&file, "{}").unwrap();
    fails(&["--baseline", file.to_str().unwrap()], &[&image], "is not what `bench --json` prints");
}
