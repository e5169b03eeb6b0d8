//! `kill -9` at random moments: no half layer, no lock, no mount, no process stays, and the next command works.
//!
//! `LAYERMOUNT_KILLS` says how many kills each of the commands gets (6).

#![allow(clippy::disallowed_methods, reason = "tests write to directories of their own")]

mod world;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use layermount_fixtures::random::Random;
use layermount_fixtures::{Layout, Recipe};
use world::sound::{assert_recovers, layermount};
use world::{Backing, World, for_both_backings, missing, program, root};

fn kills() -> u64 {
    std::env::var("LAYERMOUNT_KILLS").map_or(6, |count| count.parse().unwrap())
}

for_both_backings! {
    a_pull_may_be_killed,
    all_of_several_pulls_may_be_killed,
    a_prune_may_be_killed,
    a_run_may_be_killed,
    a_prune_may_be_killed_between_any_two_renames,
}

struct Target {
    backing: Backing,
    world: World,
    reference: String,
    store: PathBuf,
    whole: PathBuf,
}

impl Target {
    /// With an image that takes a while, or with one that can be run.
    #[track_caller]
    fn new(backing: Backing, runnable: bool) -> Option<Self> {
        Self::with_image(backing, |world| match runnable {
            true => Some(format!("oci:{}:shell", world.shell_layout()?)),
            false => Some(image_of(world, 3, 80, 1 << 20)),
        })
    }

    #[track_caller]
    fn with_image(backing: Backing, image: impl FnOnce(&World) -> Option<String>) -> Option<Self> {
        root()?;
        let world = World::in_memory(backing);
        let reference = image(&world)?;
        let (store, whole) = (world.store(), world.path().join("whole"));
        let target = Self { backing, world, reference, store, whole };
        target.finishes(&target.whole, &["pull", &target.reference]);
        Some(target)
    }

    fn start(&self, store: &Path, arguments: &[&str]) -> Child {
        let mut command = Command::new(layermount());
        command.arg("--store").arg(store).args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
        self.world.choose_backing(&mut command);
        command.stderr(Stdio::null()).spawn().unwrap()
    }

    #[track_caller]
    fn finishes(&self, store: &Path, arguments: &[&str]) -> Duration {
        let since = Instant::now();
        assert!(self.start(store, arguments).wait().unwrap().success(), "{arguments:?}");
        since.elapsed()
    }

    #[track_caller]
    fn recovers(&self, at: &str) {
        assert_recovers(self.backing, &self.whole, &self.store, &self.reference, at);
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.world.path().to_str().unwrap()), "{at}");
        let locks = std::fs::read_dir(self.store.join("locks")).unwrap().count();
        assert_eq!(locks, 0, "{at}");
    }
}

fn image_of(world: &World, layers: usize, files: usize, large: usize) -> String {
    let mut recipe = String::new();
    for layer in 0..layers {
        recipe += &format!("layer\ndir 0000 0:0 /closed{}\n", "/d".repeat(40));
        for file in 0..files {
            recipe += &format!("random 0444 0:0 /n/{layer}-{file} {}\n", 200 + file * 31);
        }
        recipe += &format!("random 0600 0:0 /large-{layer} {large}\n");
    }
    let layout = Layout::create(world.path().join("layout")).unwrap();
    layout.add("image", &Recipe::parse(&recipe).unwrap().build().unwrap()).unwrap();
    format!("oci:{}:image", layout.path().display())
}

/// Kills after a random part of the time that it usually takes; `true` if it was early enough.
fn kill_within(mut children: Vec<Child>, usual: Duration, random: &mut Random) -> bool {
    std::thread::sleep(usual.mul_f64((random.next_u64() % 1000) as f64 / 1000.0));
    let mut early = false;
    for child in &mut children {
        early |= child.try_wait().unwrap().is_none();
        child.kill().unwrap();
        child.wait().unwrap();
    }
    early
}

fn kill_pulls(backing: Backing, at_once: usize) {
    let Some(target) = Target::new(backing, false) else { return };
    let pull = ["pull", &target.reference];
    let usual = target.finishes(&target.store, &pull) * at_once as u32;
    let mut random = Random::new(at_once as u64);
    let mut early = 0;
    for round in 0..kills() {
        target.finishes(&target.store, &["store", "prune", "--all"]);
        let children = (0..at_once).map(|_| target.start(&target.store, &pull)).collect();
        early += u64::from(kill_within(children, usual, &mut random));
        target.recovers(&format!("round {round}"));
    }
    println!("{} rounds of {at_once} pulls, {early} killed before their end", kills());
    assert!(early > 0);
}

fn a_pull_may_be_killed(backing: Backing) {
    kill_pulls(backing, 1);
}

fn all_of_several_pulls_may_be_killed(backing: Backing) {
    kill_pulls(backing, 4);
}

fn a_prune_may_be_killed(backing: Backing) {
    let Some(target) = Target::new(backing, false) else { return };
    target.finishes(&target.store, &["pull", &target.reference]);
    let prune = ["store", "prune", "--all"];
    let usual = target.finishes(&target.store, &prune);
    let mut random = Random::new(9);
    let mut early = 0;
    for round in 0..kills() {
        target.finishes(&target.store, &["pull", &target.reference]);
        early += u64::from(kill_within(vec![target.start(&target.store, &prune)], usual, &mut random));
        // Every other time it is a prune that comes next.
        if round % 2 == 0 {
            target.finishes(&target.store, &prune);
            let shelf = format!("layers/{}", backing.shelf());
            for part in ["stage", &shelf, "locks", "images", "names"] {
                assert_eq!(std::fs::read_dir(target.store.join(part)).unwrap().count(), 0, "round {round}: {part}");
            }
        }
        target.recovers(&format!("round {round}"));
    }
    println!("{} prunes, {early} killed before their end", kills());
    assert!(early > 0);
}

/// Layers, and indexes that need them, are taken away one by one.
fn a_prune_may_be_killed_between_any_two_renames(backing: Backing) {
    let Some(target) = Target::with_image(backing, |world| Some(image_of(world, 7, 3, 1000))) else { return };
    if program("strace").is_none() {
        return;
    }
    let names = std::fs::read_dir(target.whole.join("layers").join(backing.shelf())).unwrap().count();
    for when in 1..=names + 1 {
        target.finishes(&target.store, &["pull", &target.reference]);
        let mut strace = Command::new("strace");
        strace.args(["-qq", "-e", "trace=renameat2", "-e", &format!("inject=renameat2:signal=KILL:when={when}")]);
        strace.arg(layermount()).arg("--store").arg(&target.store).args(["store", "prune", "--all"]);
        let output = strace.stdin(Stdio::null()).output().unwrap();
        let says = String::from_utf8_lossy(&output.stderr);
        if says.contains("ptrace") {
            return missing("strace", "processes cannot be traced here");
        }
        assert_eq!(output.status.success(), when > names, "{when} of {names}: {says}");
        target.recovers(&format!("killed at rename {when}"));
    }
}

/// Who uses an index does not ask whether its layers were found damaged.
#[test]
fn a_verify_that_is_killed_leaves_no_index_that_is_trusted_over_a_layer_that_is_not() {
    if world::erofs().is_none() || program("strace").is_none() {
        return;
    }
    let Some(target) = Target::new(Backing::Erofs, false) else { return };
    for when in 1..=3 {
        target.finishes(&target.store, &["pull", &target.reference]);
        let shelf = target.store.join("layers/erofs");
        let mut names: Vec<_> = std::fs::read_dir(&shelf).unwrap().map(|name| name.unwrap().path()).collect();
        names.sort();
        let (layer, index) = (&names[0], names.last().unwrap());
        let file = std::fs::OpenOptions::new().write(true).open(layer.join("image")).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"damage", 4096).unwrap();
        drop(file);
        let mut strace = Command::new("strace");
        strace.args(["-qq", "-P", "damaged", "-e", "trace=openat"]);
        strace.args(["-e", &format!("inject=openat:signal=KILL:when={when}"), layermount(), "--store"]);
        let output = strace.arg(&target.store).args(["store", "verify"]).stdin(Stdio::null()).output().unwrap();
        let says = String::from_utf8_lossy(&output.stderr);
        if says.contains("ptrace") {
            return missing("strace", "processes cannot be traced here");
        }
        let marked = [layer, index].map(|path| path.join("damaged").exists());
        assert_eq!(marked, [when > 2, when > 1], "killed at mark {when}: {says}");
        target.finishes(&target.store, &["store", "prune", "--all"]);
    }
}

fn a_run_may_be_killed(backing: Backing) {
    let Some(target) = Target::new(backing, true) else { return };
    let run = ["run", &target.reference, "sleep 0.02"];
    let usual = target.finishes(&target.store, &run);
    let mut random = Random::new(4);
    let mut early = 0;
    for round in 0..kills() {
        if round % 2 == 0 {
            target.finishes(&target.store, &["store", "prune", "--all"]);
        }
        early += u64::from(kill_within(vec![target.start(&target.store, &run)], usual, &mut random));
        let patience = Instant::now() + Duration::from_secs(10);
        while !target.world.processes_in_store().is_empty() && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(target.world.processes_in_store(), Vec::<String>::new(), "round {round}");
        target.recovers(&format!("round {round}"));
    }
    println!("{} runs, {early} killed before their end", kills());
    assert!(early > 0);
}

#[test]
fn what_a_prune_cannot_remove_it_names_and_the_next_one_removes_it() {
    let Some(target) = Target::new(Backing::Dir, false) else { return };
    target.finishes(&target.store, &["pull", &target.reference]);
    let layer = std::fs::read_dir(target.store.join("layers/dir-trusted")).unwrap().next().unwrap().unwrap().path();
    let fixed = layer.join("fs/n").read_dir().unwrap().next().unwrap().unwrap().path();
    let chattr = |flag: &str, path: &Path| Command::new("chattr").arg(flag).arg(path).output();
    match chattr("+i", &fixed) {
        Ok(output) if output.status.success() => {}
        _ => return missing("chattr", "this file system has no immutable files"),
    }
    let prune =
        || Command::new(layermount()).arg("--store").arg(&target.store).args(["store", "prune", "--all"]).output();
    let output = prune().unwrap();
    let says = String::from_utf8_lossy(&output.stderr).into_owned();
    // Wherever it lies by now.
    let name = fixed.file_name().unwrap();
    let again = prune().unwrap();
    let found = Command::new("find").arg(&target.store).arg("-name").arg(name).output().unwrap();
    for path in String::from_utf8(found.stdout).unwrap().lines() {
        assert!(chattr("-i", Path::new(path)).unwrap().status.success());
    }
    assert!(!output.status.success() && says.contains("unlinkat") && says.contains("EPERM"), "{says}");
    assert!(says.contains(name.to_str().unwrap()), "{says}");
    assert!(!again.status.success());
    assert!(prune().unwrap().status.success());
    target.recovers("afterwards");
}
