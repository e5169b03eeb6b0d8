//! One process starts many programs: nothing in it grows.

#![allow(clippy::disallowed_methods, reason = "trees for tests are made by path")]

mod backings;
mod forked;

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::ExitCode;

use forked::*;
use layermount::store::RealizeOptions;
use layermount::{Command, ErrorKind, OciLayouts, Overlay, Platform, Source as _, Stdio, Store};
use layermount_fixtures::requirement::skip;
use layermount_fixtures::{Layout, Recipe};

fn main() -> ExitCode {
    run_cases(&cases! {
        Root spawning_leaves_nothing
        Root spawning_out_of_a_store_leaves_nothing
        Stranger rootless_spawning_leaves_nothing
    })
}

/// Starts until memory has found its size.
const FIRST: usize = 100;
const ROOTS: usize = 1000;
const STORED: usize = 300;
const STRANGERS: usize = 200;
/// Bytes for each start, and what an allocator may round up.
const GROWTH: u64 = 256;
const ROUNDED: u64 = 64 << 10;

/// What this process has and the kernel counts.
#[derive(Debug, PartialEq, Eq)]
struct Had {
    descriptors: Vec<String>,
    mounts: usize,
    threads: usize,
    /// Whether running or waiting to be waited for.
    children: String,
}

impl Had {
    fn now() -> Self {
        let links =
            fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
        let mut descriptors: Vec<_> = links.map(|link| link.to_string_lossy().into_owned()).collect();
        // The directory that was just read.
        descriptors.retain(|link| !link.starts_with("/proc/"));
        descriptors.sort();
        Self {
            descriptors,
            mounts: fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count(),
            threads: fs::read_dir("/proc/self/task").unwrap().count(),
            children: fs::read_to_string("/proc/thread-self/children").unwrap(),
        }
    }
}

/// Bytes in memory that belong to this process alone.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
}

/// `start` is told its number, and starts a program and waits for it.
#[track_caller]
fn assert_nothing_grows(count: usize, start: impl Fn(usize)) {
    // Memory for the comparison belongs to what is there before.
    let had = (Had::now(), resident());
    (0..FIRST).for_each(&start);
    assert_eq!(Had::now(), had.0);
    let before = resident();
    (0..count).for_each(&start);
    let after = resident();
    assert_eq!(Had::now(), had.0);
    assert!(
        after < before + (count as u64 * GROWTH).max(ROUNDED),
        "{count} starts took {} KiB of memory and keep them",
        (after - before) >> 10
    );
}

/// One of each kind in turn: alone, with an init, with a pipe, and in vain.
fn start(overlay: Overlay, number: usize) {
    let root = overlay.mount().unwrap();
    let mut command = sh("echo $0; exit 7");
    match number % 4 {
        0 => command = sh("exit 7"),
        1 => _ = command.init(true).stdout(Stdio::null()),
        2 => _ = command.stdout(Stdio::piped()),
        _ => {
            let error = root.spawn(Command::new("nothing")).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ProgramNotFound, "{error:#}");
            return;
        }
    }
    let mut child = root.spawn(command).unwrap_or_else(|error| panic!("start {number}: {error:#}"));
    if let Some(mut output) = child.stdout.take() {
        let mut text = String::new();
        output.read_to_string(&mut text).unwrap();
        assert_eq!(text, "sh\n");
    }
    assert_eq!(child.wait().unwrap().code(), Some(7), "start {number}");
}

fn spawning_leaves_nothing() {
    assert_nothing_grows(ROOTS, |number| start(shell(&[]), number));
}

fn rootless_spawning_leaves_nothing() {
    become_stranger();
    assert_nothing_grows(STRANGERS, |number| start(rootless_shell(), number));
}

/// The store is opened, and its layers found, each time anew.
fn spawning_out_of_a_store_leaves_nothing() {
    const BUSYBOX: &str = "/usr/bin/busybox";
    if !Path::new(BUSYBOX).exists() {
        return skip("docker", "busybox-static is not installed");
    }
    let recipe = format!(
        "layer\ndir 0755 0:0 /bin\ncopy 0755 0:0 /bin/busybox {BUSYBOX}\nsymlink /bin/sh -> busybox\nlayer\nrandom 0644 0:0 /data 100000\n"
    );
    let place = place();
    let layout = Layout::create(place.path().join("layout")).unwrap();
    layout.add("image", &Recipe::parse(&recipe).unwrap().build().unwrap()).unwrap();
    let reference = format!("oci:{}:image", layout.path().display()).parse().unwrap();
    backings::each(|backing| {
        let store = place.path().join(format!("store-{backing:?}"));
        let options = RealizeOptions::default().backing(backing);
        assert_nothing_grows(STORED, |number| {
            let image = OciLayouts.resolve(&reference, &Platform::host()).unwrap();
            let stack = Store::open(&store).unwrap().realize_with(&image, &options).unwrap();
            start(Overlay::new(stack), number);
        });
    });
}
