//! Failing system calls, full disks and odd surroundings: a pull fails with the call's name, spoils nothing, and works next time.
//!
//! `LAYERMOUNT_FAULTS=all` injects an error into every occurrence of every call, and `LAYERMOUNT_FAULTS=write,fstat` into every
//! occurrence of these; without it, into a sample.

#![allow(clippy::disallowed_methods, reason = "tests write to directories of their own")]

mod world;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use world::sound::{assert_recovers, image, layermount, layers, text};
use world::{Backing, World, for_both_backings, missing, program, root};

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
    ("fsopen", &["EMFILE", "EPERM"]),
    ("fsconfig", &["ENOMEM", "EIO"]),
    ("fsmount", &["ENOMEM", "EMFILE"]),
];

for_both_backings! {
    whichever_call_fails_the_store_is_sound_and_the_next_pull_works,
}

/// `strace` on a durable pull into `store`.
fn traced(backing: Backing, store: &Path, reference: &str, log: &Path, expressions: &[String]) -> Output {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o"]).arg(log);
    expressions.iter().for_each(|expression| _ = strace.args(["-e", expression]));
    strace.arg(layermount()).arg("--store").arg(store).args(["pull", "--durable", reference]);
    strace.env(Backing::VARIABLE, backing.name()).stdin(Stdio::null()).output().unwrap()
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

fn whichever_call_fails_the_store_is_sound_and_the_next_pull_works(backing: Backing) {
    if root().is_none() || program("strace").is_none() {
        return;
    }
    let world = World::with_backing(backing);
    let reference = image(&world);
    let whole = world.path().join("whole");
    let log = world.path().join("log");
    let calm = traced(backing, &whole, &reference, &log, &[]);
    if !calm.status.success() && text(&calm).contains("ptrace") {
        return missing("strace", "processes cannot be traced here");
    }
    assert!(calm.status.success(), "{}", text(&calm));
    let occurrences = occurrences(&log);
    let chosen = std::env::var("LAYERMOUNT_FAULTS").unwrap_or_default();
    let all = !chosen.is_empty();
    let (mut injected, mut failed, mut survived) = (0, 0, 0);
    let mut vague = Vec::new();
    for (call, errnos) in FAULTS {
        let Some(&count) = occurrences.get(*call) else { continue };
        if all && chosen != "all" && !chosen.split(',').any(|name| name == *call) {
            continue;
        }
        for (number, errno) in errnos.iter().enumerate() {
            let step = if all { 1 } else { count.div_ceil(2).max(1) };
            // What the sample leaves out for one errno, it has for another.
            let first = if all { 1 } else { 1 + number.min(count - 1) };
            for when in (first..=count).step_by(step) {
                let store = world.path().join("store");
                let at = format!("{call} number {when} fails with {errno}");
                let inject = format!("inject={call}:error={errno}:when={when}");
                let output = traced(backing, &store, &reference, &log, &[format!("trace={call}"), inject]);
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
                assert_recovers(backing, &whole, &store, &reference, &at);
                let mut remove = Command::new("rm");
                assert!(remove.arg("-rf").arg(&store).status().unwrap().success());
            }
        }
    }
    println!("{injected} faults injected: {failed} pulls failed, {survived} were none the worse; vague: {vague:#?}");
    assert!(injected > 0 && (all || failed > 0 && survived > 0));
}
