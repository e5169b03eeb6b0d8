//! Somebody swaps directories and files inside a layer for symlinks while it is unpacked, completed and removed: nothing
//! outside of it changes.
//!
//! `LAYERMOUNT_RACES` says how many rounds each way of opening gets (200).

use std::ffi::CString;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use layermount_fixtures::Recipe;
use layermount_fixtures::tree::{Ignore, differences};
use rustix::fs::{RenameFlags, XattrFlags, renameat, renameat_with};

use super::super::root::WITHOUT_OPENAT2;
use super::*;

/// Names that are swapped, from the layer's root. Each is also a name outside, with others like them below it.
/// The last ones are what completing goes through.
const SWAPPED: [&str; 11] = ["a", "a/b", "a/b/c", "a/b/c/f", "a/p", "d", "d/e", "a/b/l", "o", "o/p", "w"];

/// Goes in and out of directories, so that they are opened again and again: by one name, by many, for reading, for removal.
const LAYER: &str = r#"
    layer
    dir  0755 0:0 /a
    dir  0755 0:0 /a/b
    dir  0711 0:0 /a/b/c
    file 0640 7:7 /a/b/c/f "inside" xattr:user.k=v
    dir  0700 0:0 /d
    dir  0700 0:0 /d/e
    file 0644 0:0 /d/e/g "inside"
    fifo 0622 7:7 /a/p
    symlink /a/b/l -> c
    hardlink /a/b/h -> /a/b/c/f
    hardlink /d/e/h -> /a/b/c/f
    file 0644 0:0 /d/e "a file in place of a tree"
    dir  0700 0:0 /d/e
    file 0600 0:0 /d/e/g "again"
    file 0644 0:0 /a/b/c/f "again"
    whiteout /a/b/c/gone
    opaque /d/e
    whiteout /w/x/gone
    file 0644 0:0 /o/p/q "of directories that are not named"
    hardlink /o/p/lower -> /low/file
"#;

const LOWER: &str = r#"
    layer
    dir  0750 3:3 /o
    dir  0751 3:3 /o/p
    dir  0755 0:0 /low
    file 0644 0:0 /low/file "of the lower layer"
"#;

fn tar(recipe: &str) -> Vec<u8> {
    let owner = format!("{}:{}", rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let recipe = if is_root() { recipe.to_owned() } else { recipe.replace("0:0", &owner).replace("7:7", &owner) };
    Recipe::parse(&recipe).unwrap().layers()[0].tar().unwrap()
}

/// What nobody may touch: everything that is swapped has its like here.
fn make_outside(at: &Path) {
    for directory in ["", "a", "a/b", "a/b/c", "d", "d/e", "o", "o/p", "w", "w/x"] {
        fs::create_dir(at.join(directory)).unwrap();
    }
    for file in ["a/b/c/f", "a/b/c/gone", "a/b/h", "a/p", "d/e/g", "d/e/h", "o/p/q", "o/p/lower", "w/x/gone"] {
        fs::write(at.join(file), "outside").unwrap();
        fs::set_permissions(at.join(file), fs::Permissions::from_mode(0o604)).unwrap();
    }
    symlink("c", at.join("a/b/l")).unwrap();
    for path in ["a", "a/b/c/f"] {
        rustix::fs::setxattr(at.join(path), "user.outside", b"1", XattrFlags::empty()).unwrap();
    }
}

/// Swaps until it is told to stop.
struct Attacker<'a> {
    layers: &'a OwnedFd,
    decoys: &'a OwnedFd,
    outside: &'a Path,
    stop: &'a AtomicBool,
    swaps: &'a AtomicU64,
}

impl Attacker<'_> {
    fn run(&self) {
        for number in 0..SWAPPED.len() {
            self.lay(number);
        }
        let mut stolen = 0_u64;
        let mut pace = 0_u32;
        while !self.stop.load(Ordering::Relaxed) {
            for (number, name) in SWAPPED.iter().enumerate() {
                let inside = format!("now/{name}");
                let decoy = number.to_string();
                let swap =
                    || renameat_with(self.layers, inside.as_str(), self.decoys, decoy.as_str(), RenameFlags::EXCHANGE);
                if swap().is_err() {
                    continue;
                }
                self.swaps.fetch_add(1, Ordering::Relaxed);
                pace = pace.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                for _ in 0..pace >> 19 {
                    std::hint::spin_loop();
                }
                if swap().is_err() {
                    // The decoy was removed: what it stood for stays with us.
                    stolen += 1;
                    let _ = renameat(self.decoys, decoy.as_str(), self.decoys, format!("stolen-{stolen}"));
                    self.lay(number);
                    let _ = remove_tree(self.decoys.as_fd(), &CString::new(format!("stolen-{stolen}")).unwrap());
                }
                // Leaves time for things to go well.
                if pace & 0x300 == 0 {
                    std::thread::sleep(Duration::from_micros(u64::from(pace >> 22)));
                }
            }
        }
    }

    /// Makes the symlink that `number` is swapped for; every other one is relative.
    fn lay(&self, number: usize) {
        let name = SWAPPED[number];
        let target = match number % 2 {
            0 => self.outside.join(name),
            // From where it will lie in the layer: `layers/now` and the parents of the name.
            _ => Path::new(&"../".repeat(name.matches('/').count() + 2)).join("outside").join(name),
        };
        let _ = rustix::fs::symlinkat(target, self.decoys, number.to_string());
    }
}

/// Rounds that went well although something was swapped meanwhile, and rounds in which the attacker came in between.
#[derive(Debug, Default)]
struct Score {
    lost: u64,
    won: u64,
    undisturbed: u64,
}

impl Score {
    fn count(&mut self, swaps: u64, result: &Result<()>) {
        match (result, swaps) {
            (Err(_), _) => self.won += 1,
            (Ok(()), 0) => self.undisturbed += 1,
            (Ok(()), _) => self.lost += 1,
        }
    }
}

fn race(without_openat2: bool) {
    let rounds: u64 = std::env::var("LAYERMOUNT_RACES").map_or(200, |count| count.parse().unwrap());
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    for name in ["layers", "decoys"] {
        fs::create_dir(at(name)).unwrap();
    }
    make_outside(&at("outside"));
    let copied = std::process::Command::new("cp").arg("-a").arg(at("outside")).arg(at("as it was")).status().unwrap();
    assert!(copied.success());
    let assert_untouched = |round: u64| {
        let found = differences(&at("as it was"), &at("outside"), &Ignore::default()).unwrap();
        assert!(found.is_empty(), "round {round}: {}", found[0]);
    };
    let options = options(OverlayXattrs::User);
    let (layers, decoys) = (open(&at("layers")), open(&at("decoys")));
    fs::create_dir(at("lower")).unwrap();
    let lower = open(&at("lower"));
    unpack(&mut &*tar(LOWER), lower.as_fd(), &mut io::sink(), &options).unwrap();
    let tar = tar(LAYER);
    let (stop, swaps) = (AtomicBool::new(false), AtomicU64::new(0));
    let (mut unpacking, mut completing, mut removing) = (Score::default(), Score::default(), Score::default());
    let outside = at("outside");
    WITHOUT_OPENAT2.set(without_openat2);
    std::thread::scope(|scope| {
        let attacker = Attacker { layers: &layers, decoys: &decoys, outside: &outside, stop: &stop, swaps: &swaps };
        scope.spawn(move || attacker.run());
        let stopping = Stop(&stop);
        let patience = Instant::now() + Duration::from_secs(60);
        for round in 0.. {
            // On some machines it takes longer until both sides have won.
            let settled = unpacking.won >= 10 && unpacking.lost >= 10 && completing.won > 0 && removing.won > 0;
            if round >= rounds && (settled || Instant::now() > patience) {
                break;
            }
            rustix::fs::mkdirat(&layers, "now", Mode::RWXU).unwrap();
            let now = rustix::fs::openat(&layers, "now", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
            let since = swaps.load(Ordering::Relaxed);
            let unpacked = unpack(&mut &*tar, now.as_fd(), &mut io::sink(), &options);
            let after_unpack = swaps.load(Ordering::Relaxed);
            let result = unpacked.map(|unpacked| unpacked.open);
            let open = result.as_ref().ok().cloned();
            unpacking.count(after_unpack - since, &result.map(drop));
            if let Some(open) = open {
                let result = complete(now.as_fd(), &open, &[lower.as_fd()], &mut io::sink(), &mut |_| Ok(()), &options);
                completing.count(swaps.load(Ordering::Relaxed) - after_unpack, &result);
            }
            let mut since = swaps.load(Ordering::Relaxed);
            loop {
                let result = remove_tree(layers.as_fd(), c"now");
                let until = swaps.load(Ordering::Relaxed);
                removing.count(until - since, &result);
                since = until;
                if result.is_ok() {
                    break;
                }
            }
            if round % 500 == 0 {
                assert_untouched(round);
            }
        }
        drop(stopping);
    });
    assert_untouched(rounds);
    println!(
        "{rounds} rounds, openat2: {}: unpacking {unpacking:?}, completing {completing:?}, removing {removing:?}",
        !without_openat2
    );
    assert!(unpacking.won >= 10 && unpacking.lost >= 10, "{unpacking:?}");
    assert!(completing.won > 0 && completing.lost > 0, "{completing:?}");
    assert!(removing.won > 0 && removing.lost > 0, "{removing:?}");
    assert_eq!(fs::read_dir(at("layers")).unwrap().count(), 0);
    remove_tree(open(place.path()).as_fd(), c"decoys").unwrap();
}

/// Stops the attacker also when an assertion fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn swapped_directories_lead_nowhere() {
    race(false);
}

#[test]
fn swapped_directories_lead_nowhere_without_openat2() {
    race(true);
}
