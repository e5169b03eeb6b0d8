//! Power cuts: what a disk holds at any moment of a pull, looked at by a machine that has just been started.
//!
//! The store lies on ext4, on a loop device, whose backing file lies on XFS. A reflink copy of that file is taken in one
//! instant, past the page cache of the ext4, and is what a disk holds whose power is cut: writes that had reached it, in their
//! order. Mounting the copy replays the journal. Meanwhile a file of no importance is written and synced all the time, so that
//! journal commits fall between any two steps, which is what leaves names without contents; and so are the records of layers
//! as soon as they are there, so that they do not happen to be lost with what they vouch for. Now and then all is synced, so
//! that some layers are whole.
//!
//! `LAYERMOUNT_POWER_CUTS` says how many cuts there are for each policy (3).

#![allow(clippy::disallowed_methods, reason = "tests write to directories of their own")]

mod world;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use layermount_fixtures::random::Random;
use layermount_fixtures::tree::{Ignore, differences};
use layermount_fixtures::{Layout, Recipe};
use world::sound::assert_same_layer;
use world::{Backing, World, for_both_backings, missing, private_mounts, program, root};

for_both_backings! {
    what_a_durable_pull_has_reported_survives_a_power_cut,
    what_a_power_cut_has_damaged_is_never_used,
    copies_of_lower_layers_files_are_never_used_damaged,
}

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const LAYERS: usize = 6;

/// One at a time: each takes three loop devices.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Three disks inside each other, gone with the mount namespace of the thread that made them.
struct Disks {
    world: World,
    backing: Backing,
    /// The ext4 file system that is cut off.
    disk: PathBuf,
}

impl Disks {
    fn new(backing: Backing) -> Option<Self> {
        root()?;
        for name in ["mkfs.ext4", "mkfs.xfs"] {
            program(name)?;
        }
        private_mounts();
        let world = World::with_backing(backing);
        let at = |name: &str| world.path().join(name);
        for directory in ["memory", "xfs", "disk", "after"] {
            std::fs::create_dir(at(directory)).unwrap();
        }
        run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=4g", "tmpfs"]).arg(at("memory"))).unwrap();
        file_of(&at("memory/xfs.img"), 3 << 30);
        run(Command::new("mkfs.xfs").args(["-q", "-m", "reflink=1"]).arg(at("memory/xfs.img"))).unwrap();
        if let Err(error) = run(Command::new("mount").args(["-o", "loop"]).arg(at("memory/xfs.img")).arg(at("xfs"))) {
            missing("loop", &format!("no XFS on a loop device: {error}"));
            return None;
        }
        file_of(&at("xfs/disk.img"), 512 << 20);
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(at("xfs/disk.img"))).unwrap();
        run(Command::new("mount").args(["-o", "loop"]).arg(at("xfs/disk.img")).arg(at("disk"))).unwrap();
        // The kernel is the same after the cut; only this tells that it is not.
        boot(&world, "before");
        run(Command::new("mount").arg("--bind").arg(at("boot")).arg(BOOT_ID)).unwrap();
        Some(Self { disk: at("disk"), backing, world })
    }

    fn layermount(&self, store: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("layermount"));
        command.arg("--store").arg(store).args(arguments).stdin(Stdio::null());
        self.world.choose_backing(&mut command);
        command
    }

    /// Copies the tree of the image out of a store that is all that is left of it.
    fn show(&self, store: &Path, name: &str) -> Result<PathBuf, String> {
        let tree = self.world.path().join(name);
        let nowhere = ["--host", "unix:///nonexistent.sock"];
        let shown = [&["-q", "unpack"], &nowhere[..], &["localhost/layout:image", tree.to_str().unwrap()]].concat();
        run(&mut self.layermount(store, &shown)).map(|()| tree)
    }

    /// Layers and indexes by directory below `layers/`.
    fn layers(&self, store: &Path) -> Vec<String> {
        let shelf = std::fs::read_dir(store.join("layers").join(self.backing.shelf())).into_iter().flatten();
        let mut names: Vec<_> = shelf.map(|layer| layer.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Every layer of the store, compared with those of a store that never lost its power.
    #[track_caller]
    fn assert_as(&self, whole: &Path, store: &Path, at: &str) {
        assert_eq!(self.layers(store), self.layers(whole), "{at}");
        for layer in self.layers(whole) {
            // The root's attributes are in the record.
            assert_same_layer(&Path::new(self.backing.shelf()).join(layer), whole, store, &[Path::new("")], at);
        }
    }

    /// Cuts the power: the disk as it is now is mounted at the directory that is returned.
    fn cut(&self) -> Result<PathBuf, std::io::Error> {
        let at = |name: &str| self.world.path().join(name);
        let copy = File::create(at("xfs/copy.img"))?;
        rustix::fs::ioctl_ficlone(&copy, File::open(at("xfs/disk.img"))?)?;
        Ok(at("xfs/copy.img"))
    }

    fn start_again(&self, copy: &Path) -> PathBuf {
        let after = self.world.path().join("after");
        run(Command::new("mount").args(["-o", "loop"]).arg(copy).arg(&after)).unwrap();
        boot(&self.world, "after");
        after
    }

    fn end(&self) {
        run(Command::new("umount").arg(self.world.path().join("after"))).unwrap();
        boot(&self.world, "before");
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        // The directory is removed next, and should be found empty.
        let unmount = |path: &Path| run(Command::new("umount").arg("--lazy").arg(path));
        let at = |name: &str| self.world.path().join(name);
        let _ = unmount(Path::new(BOOT_ID));
        for name in ["after", "disk", "xfs", "memory"] {
            let _ = unmount(&at(name));
        }
    }
}

fn boot(world: &World, id: &str) {
    std::fs::write(world.path().join("boot"), format!("{id}\n")).unwrap();
}

fn file_of(path: &Path, length: u64) {
    File::create(path).unwrap().set_len(length).unwrap();
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// Many small files and some large ones; every other layer needs those below it.
fn image(world: &World, links: bool) -> String {
    let mut recipe = String::new();
    for layer in 0..LAYERS {
        recipe += "layer\n";
        if layer % 2 == 0 {
            recipe += "dir 0755 0:0 /d\n";
        }
        for file in 0..120 {
            recipe += &format!("random 0644 0:0 /d/{layer}-{file} {}\n", 200 + file * 97);
        }
        recipe += &format!("random 0600 0:0 /large-{layer} {}\n", 1 << 20);
        if links && layer > 0 {
            recipe += &format!("hardlink /d/link-{layer} -> /d/{}-7\n", layer - 1);
        }
    }
    let layout = Layout::create(world.path().join("layout")).unwrap();
    layout.add("image", &Recipe::parse(&recipe).unwrap().build().unwrap()).unwrap();
    format!("oci:{}:image", layout.path().display())
}

/// How it went, over all cuts.
#[derive(Debug, Default)]
struct Record {
    /// The pull had reported success before the cut.
    reported: usize,
    /// The store was not there at all after the cut.
    absent: usize,
    /// Layers with a name after the cut, and those of them that were damaged.
    layers: usize,
    damaged: usize,
    /// Layers that the next pull used.
    used: usize,
    /// The image could be used without another pull.
    shown: usize,
}

fn cuts() -> u64 {
    std::env::var("LAYERMOUNT_POWER_CUTS").map_or(3, |count| count.parse().unwrap())
}

fn cut_often(backing: Backing, durable: bool, links: bool) {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(disks) = Disks::new(backing) else { return };
    let reference = image(&disks.world, links);
    let pull: &[&str] = if durable { &["pull", "--durable", &reference] } else { &["pull", &reference] };
    let whole = disks.world.path().join("whole");
    run(&mut disks.layermount(&whole, pull)).unwrap();
    disks.show(&whole, "tree").unwrap();
    let warm = Instant::now();
    run(&mut disks.layermount(&disks.disk.join("warm"), pull)).unwrap();
    let usual = warm.elapsed();
    run(&mut disks.layermount(&disks.disk.join("warm"), &["store", "prune", "--all"])).unwrap();

    let mut record = Record::default();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = File::create(disks.disk.join("of no importance")).unwrap();
            let mut rounds = 0;
            while !ended.load(Ordering::Relaxed) {
                file.write_all(b"x").unwrap();
                file.sync_all().unwrap();
                sync_records(&disks);
                rounds += 1;
                if rounds % 20 == 0 {
                    rustix::fs::syncfs(&file).unwrap();
                }
                std::thread::sleep(Duration::from_millis(3));
            }
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut random = Random::new(0x51);
            for number in 0..cuts() {
                let store = disks.disk.join(format!("store-{number}"));
                let mut child =
                    disks.layermount(&store, pull).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
                // Every fourth cut comes right after the success.
                let delay = usual.mul_f64((random.next_u64() % 1200) as f64 / 1000.0);
                let status = if number % 4 == 3 {
                    Some(child.wait().unwrap())
                } else {
                    std::thread::sleep(delay);
                    child.try_wait().unwrap()
                };
                let copy = disks.cut().unwrap();
                assert!(child.wait().unwrap().success());
                look(&disks, &copy, number, status.is_some() && durable, (&whole, pull), &mut record);
                record.reported += usize::from(status.is_some());
                let _ = run(&mut disks.layermount(&store, &["store", "prune", "--all"]));
            }
        }));
        ended.store(true, Ordering::Relaxed);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
    println!("{} cuts of {}, durable: {durable}, with copies: {links}: {record:?}", cuts(), backing.name());
}

/// Syncs the records of layers, which may be gone or unreadable by now, and nothing else of them.
fn sync_records(disks: &Disks) {
    for store in std::fs::read_dir(&disks.disk).unwrap().flatten() {
        for layer in
            std::fs::read_dir(store.path().join("layers").join(disks.backing.shelf())).into_iter().flatten().flatten()
        {
            for name in ["layer.json", "listing"] {
                let _ = File::open(layer.path().join(name)).and_then(|file| file.sync_all());
            }
        }
    }
}

/// What the machine finds when it is started again.
fn look(disks: &Disks, copy: &Path, number: u64, promised: bool, (whole, pull): (&Path, &[&str]), record: &mut Record) {
    let after = disks.start_again(copy);
    let store = after.join(format!("store-{number}"));
    let at = format!("cut {number}");
    record.absent += usize::from(!store.exists());
    let named = disks.layers(&store);
    record.layers += named.iter().filter(|name| !name.starts_with("open-")).count();
    let shelf = format!("layers/{}/", disks.backing.shelf());
    // What nobody has looked for is not used either.
    if promised || number.is_multiple_of(2) {
        let verified = disks.layermount(&store, &["store", "verify"]).output().unwrap();
        let damaged: std::collections::BTreeSet<_> = String::from_utf8(verified.stdout)
            .unwrap()
            .lines()
            .filter_map(|line| Some(line.split(&shelf).nth(1)?.split('/').next()?.to_owned()))
            .collect();
        record.damaged += damaged.len();
        assert!(!promised || damaged.is_empty(), "{at}: {damaged:?}");
    }
    let shown = disks.show(&store, "after/tree");
    record.shown += usize::from(shown.is_ok());
    if let Ok(tree) = &shown {
        let whole = disks.world.path().join("tree");
        let found = differences(&whole, tree, &Ignore::default()).unwrap();
        assert!(found.is_empty(), "{at}: {}", found[0]);
    }
    if promised {
        assert!(shown.is_ok(), "{at}: {shown:?}");
        disks.assert_as(whole, &store, &at);
        let images = disks.layermount(&store, &["images", "--json"]).output().unwrap();
        assert!(String::from_utf8(images.stdout).unwrap().contains("sha256:"), "{at}");
    }
    let again = disks.layermount(&store, pull).output().unwrap();
    let said = String::from_utf8(again.stdout).unwrap();
    assert!(again.status.success(), "{at}: {}", String::from_utf8_lossy(&again.stderr));
    let unpacked = unpacked_now(&said);
    record.used += LAYERS - unpacked;
    if promised {
        assert_eq!(unpacked, 0, "{at}: {said}");
    }
    disks.assert_as(whole, &store, &at);
    let images = disks.layermount(&store, &["images", "--json"]).output().unwrap();
    assert!(String::from_utf8(images.stdout).unwrap().contains("sha256:"), "{at}");
    disks.end();
}

/// The number in `..., 3 unpacked now (ID ...`.
fn unpacked_now(said: &str) -> usize {
    said.split(", ").find_map(|part| part.split_once(" unpacked now")?.0.parse().ok()).unwrap()
}

fn what_a_durable_pull_has_reported_survives_a_power_cut(backing: Backing) {
    cut_often(backing, true, false);
}

fn what_a_power_cut_has_damaged_is_never_used(backing: Backing) {
    cut_often(backing, false, false);
}

fn copies_of_lower_layers_files_are_never_used_damaged(backing: Backing) {
    cut_often(backing, false, true);
}
