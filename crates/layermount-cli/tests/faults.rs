//! Failing system calls, full disks and odd surroundings: a pull fails with the call's name, spoils nothing, and works next time.
//!
//! `LAYERMOUNT_FAULTS=all` injects an error into every occurrence of every call; without it, into a sample.

#![allow(clippy::disallowed_methods, reason = "tests write to directories of their own")]

mod world;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use layermount_fixtures::tree::{Ignore, differences};
use layermount_fixtures::{Layout, Recipe};
use world::{World, missing, program, root};

const RECIPE: &str = r#"
layer
dir  0755 0:0 /
dir  0755 0:0 /d
file 0644 5:5 /d/a "first\n" xattr:user.k=v
random 0600 0:0 /d/large 300000
symlink /d/s -> a
fifo 0600 0:0 /d/p
hardlink /d/h -> /d/a
char 0666 0:0 /null 1:3
layer zstd
whiteout /d/large
file 0644 0:0 /d/b "second\n"
hardlink /e/link -> /d/a
layer
dir 0750 0:0 /o
opaque /o
dir 0000 0:0 /o/closed
file 0000 0:0 /o/closed/f "x"
"#;

fn image(world: &World) -> String {
    let layout = Layout::create(world.path().join("layout")).unwrap();
    layout.add("image", &Recipe::parse(RECIPE).unwrap().build().unwrap()).unwrap();
    format!("oci:{}:image", layout.path().display())
}

fn layermount() -> &'static str {
    assert_cmd::cargo::cargo_bin!("layermount").to_str().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Names below `layers/<shelf>/`.
fn layers(store: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for shelf in std::fs::read_dir(store.join("layers")).into_iter().flatten().flatten() {
        let shelf_name = PathBuf::from(shelf.file_name());
        found.extend(std::fs::read_dir(shelf.path()).unwrap().map(|layer| shelf_name.join(layer.unwrap().file_name())));
    }
    found.sort();
    found
}

/// Whatever happened before: what is in `store` is whole, and pulling again makes it equal to the store `whole`.
#[track_caller]
fn assert_recovers(whole: &Path, store: &Path, reference: &str, at: &str) {
    let command =
        |arguments: &[&str]| Command::new(layermount()).arg("--store").arg(store).args(arguments).output().unwrap();
    let verified = command(&["store", "verify"]);
    assert!(verified.status.success(), "{at}: {}{}", String::from_utf8_lossy(&verified.stdout), text(&verified));
    let again = command(&["pull", reference]);
    assert!(again.status.success(), "{at}: pulling again: {}", text(&again));
    assert_eq!(layers(store), layers(whole), "{at}");
    for layer in layers(whole) {
        let tree = |store: &Path| store.join("layers").join(&layer).join("fs");
        // The root's attributes are in the record, and whiteouts have none.
        let ignore = Ignore { mtimes: vec![PathBuf::new(), "d/large".into()], ..Ignore::default() };
        let found = differences(&tree(whole), &tree(store), &ignore).unwrap();
        assert!(found.is_empty(), "{at}: {}: {}", layer.display(), found[0]);
    }
    let pruned = command(&["store", "prune"]);
    assert!(pruned.status.success(), "{at}: {}", text(&pruned));
    assert_eq!(std::fs::read_dir(store.join("stage")).unwrap().count(), 0, "{at}");
}

/// What a call may answer, and so has to be survived.
const FAULTS: &[(&str, &[&str])] = &[
    ("mkdirat", &["ENOSPC", "EIO", "EDQUOT"]),
    ("openat", &["EMFILE", "EIO", "EINTR", "ENOSPC"]),
    ("openat2", &["EMFILE", "EIO", "EINTR", "EAGAIN"]),
    ("write", &["ENOSPC", "EIO", "EDQUOT", "EINTR"]),
    ("pwrite64", &["ENOSPC", "EIO", "EINTR"]),
    ("read", &["EIO", "EINTR"]),
    ("pread64", &["EIO", "EINTR"]),
    ("ftruncate", &["ENOSPC", "EIO"]),
    ("linkat", &["ENOSPC", "EMLINK"]),
    ("symlinkat", &["ENOSPC", "EIO"]),
    ("mknodat", &["ENOSPC", "EIO"]),
    ("fchown", &["EDQUOT", "EIO"]),
    ("fchownat", &["EIO"]),
    ("fchmod", &["EIO"]),
    ("chmod", &["EIO"]),
    ("utimensat", &["EIO"]),
    ("fsetxattr", &["ENOSPC", "EIO"]),
    ("newfstatat", &["EIO"]),
    ("fstat", &["EIO"]),
    ("getdents64", &["EIO"]),
    ("unlinkat", &["EIO"]),
    ("flock", &["EINTR", "ENOLCK"]),
    ("renameat", &["ENOSPC", "EIO"]),
    ("renameat2", &["ENOSPC", "EIO"]),
    ("fdatasync", &["EIO", "ENOSPC"]),
    ("fsync", &["EIO"]),
    ("syncfs", &["EIO", "ENOSPC"]),
    ("clone3", &["EAGAIN"]),
];

/// `strace` on a durable pull into `store`.
fn traced(store: &Path, reference: &str, log: &Path, expressions: &[String]) -> Output {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o"]).arg(log);
    expressions.iter().for_each(|expression| _ = strace.args(["-e", expression]));
    strace.arg(layermount()).arg("--store").arg(store).args(["pull", "--durable", reference]);
    strace.stdin(Stdio::null()).output().unwrap()
}

/// How often one thread makes each call, at most: strace counts for each thread apart.
fn occurrences(log: &Path) -> BTreeMap<String, usize> {
    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    for line in std::fs::read_to_string(log).unwrap().lines() {
        let Some((process, rest)) = line.split_once(' ') else { continue };
        let Some((call, _)) = rest.trim_start().split_once('(') else { continue };
        *counts.entry((process.to_owned(), call.to_owned())).or_default() += 1;
    }
    let mut most = BTreeMap::new();
    for ((_, call), count) in counts {
        let entry = most.entry(call).or_default();
        *entry = count.max(*entry);
    }
    most
}

#[test]
fn whichever_call_fails_the_store_is_sound_and_the_next_pull_works() {
    if root().is_none() || program("strace").is_none() {
        return;
    }
    let world = World::new();
    let reference = image(&world);
    let whole = world.path().join("whole");
    let log = world.path().join("log");
    let calm = traced(&whole, &reference, &log, &[]);
    if !calm.status.success() && text(&calm).contains("ptrace") {
        return missing("strace", "processes cannot be traced here");
    }
    assert!(calm.status.success(), "{}", text(&calm));
    let occurrences = occurrences(&log);
    let all = std::env::var("LAYERMOUNT_FAULTS").is_ok_and(|value| value == "all");
    let (mut injected, mut failed, mut survived) = (0, 0, 0);
    let mut vague = Vec::new();
    for (call, errnos) in FAULTS {
        let Some(&count) = occurrences.get(*call) else { continue };
        for (number, errno) in errnos.iter().enumerate() {
            let step = if all { 1 } else { count.div_ceil(2).max(1) };
            // What the sample leaves out for one errno, it has for another.
            let first = if all { 1 } else { 1 + number.min(count - 1) };
            for when in (first..=count).step_by(step) {
                let store = world.path().join("store");
                let at = format!("{call} number {when} fails with {errno}");
                let inject = format!("inject={call}:error={errno}:when={when}");
                let output = traced(&store, &reference, &log, &[format!("trace={call}"), inject]);
                let hit = std::fs::read_to_string(&log).unwrap().contains("(INJECTED)");
                injected += usize::from(hit);
                let stderr = text(&output);
                if stderr.contains("error while loading shared libraries") {
                    // The program did not come to its beginning.
                    continue;
                }
                assert!(!stderr.contains("panicked") && output.status.code().is_some(), "{at}: {stderr}");
                if output.status.success() {
                    survived += usize::from(hit);
                } else {
                    failed += 1;
                    assert!(*errno != "EINTR" || *call == "openat", "{at}: {stderr}");
                    let says =
                        stderr.contains(errno) || stderr.contains("No space left") || stderr.contains("os error");
                    if !says {
                        vague.push(format!("{at}: {}", stderr.trim()));
                    }
                }
                if layers(&store).is_empty() && !store.exists() {
                    continue;
                }
                assert_recovers(&whole, &store, &reference, &at);
                let mut remove = Command::new("rm");
                assert!(remove.arg("-rf").arg(&store).status().unwrap().success());
            }
        }
    }
    println!("{injected} faults injected: {failed} pulls failed, {survived} were none the worse; vague: {vague:#?}");
    assert!(failed > 0 && survived > 0);
}
