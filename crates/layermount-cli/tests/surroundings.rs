//! Full disks, other file systems, few descriptors, strange clocks: what a store may find itself in.

#![allow(clippy::disallowed_methods, reason = "tests write to directories of their own")]

mod world;

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::unistd::{Gid, Uid, chown};
use world::sound::{assert_recovers, image, layermount, layers, text};
use world::{Backing, World, erofs, for_both_backings, missing, private_mounts, program, root};

/// Nobody's number on the machines that tests run on.
const USER: u32 = 54321;

for_both_backings! {
    a_full_ext4_is_no_different,
    an_ext4_without_inodes_is_no_different,
    a_store_may_lie_on_any_file_system_that_can_hold_layers,
    a_read_only_store_runs_what_it_has_and_takes_nothing_in,
    few_descriptors_and_little_memory_end_in_an_error_at_worst,
    closed_standard_descriptors_and_a_directory_that_is_gone_do_not_matter,
    clocks_may_say_what_they_like,
}

/// A world, an image in it, and a store of that image that nothing ever happened to.
struct Pulled {
    backing: Backing,
    world: World,
    reference: String,
    whole: PathBuf,
}

impl Pulled {
    #[track_caller]
    fn new(backing: Backing) -> Option<Self> {
        root()?;
        let world = World::with_backing(backing);
        let (reference, whole) = (image(&world), world.path().join("whole"));
        let pulled = Self { backing, reference, whole, world };
        assert!(pulled.pull(&pulled.whole).status.success());
        Some(pulled)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.world.path().join(name)
    }

    fn directory(&self, name: &str) -> PathBuf {
        std::fs::create_dir_all(self.at(name)).unwrap();
        self.at(name)
    }

    fn command(&self, store: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(layermount());
        command.arg("--store").arg(store).args(arguments).stdin(Stdio::null());
        self.world.choose_backing(&mut command);
        command
    }

    fn pull(&self, store: &Path) -> Output {
        self.command(store, &["pull", &self.reference]).output().unwrap()
    }

    #[track_caller]
    fn recovers(&self, store: &Path, at: &str) {
        assert_recovers(self.backing, &self.whole, store, &self.reference, at);
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    if output.status.success() { Ok(()) } else { Err(text(&output)) }
}

#[track_caller]
fn mount(options: &[&str], at: &Path) {
    run("mount", &[options, &[at.to_str().unwrap()]].concat()).unwrap();
}

fn unmount(at: &Path) {
    run("umount", &[at.to_str().unwrap()]).unwrap();
}

/// Pulls with ever more room until it works. Whatever step ran out of room says so, and goes on once there is some.
#[track_caller]
fn grow(pulled: &Pulled, steps: impl Iterator<Item = String>, room: &str) {
    let at = pulled.directory("small");
    let (mut full, mut enough) = (0, 0);
    for option in steps {
        mount(&["-t", "tmpfs", "-o", &option, "tmpfs"], &at);
        let store = at.join("store");
        let output = pulled.pull(&store);
        if output.status.success() {
            enough += 1;
        } else {
            full += 1;
            assert!(
                text(&output).contains("ENOSPC") && text(&output).contains("hint: "),
                "{option}: {}",
                text(&output)
            );
            assert!(!store.join("stage").exists() || count(&store.join("stage")) == 0, "{option}");
        }
        run("mount", &["-o", &format!("remount,{room}"), at.to_str().unwrap()]).unwrap();
        pulled.recovers(&store, &option);
        unmount(&at);
        if enough > 1 {
            break;
        }
    }
    assert!(full > 5 && enough > 1, "{full} {enough}");
}

fn count(directory: &Path) -> usize {
    std::fs::read_dir(directory).unwrap().count()
}

#[test]
fn with_whichever_file_the_inodes_run_out_the_store_is_sound() {
    let Some(pulled) = Pulled::new(Backing::Dir) else { return };
    private_mounts();
    grow(&pulled, (3..200).map(|inodes| format!("nr_inodes={inodes}")), "nr_inodes=1000");
}

#[test]
fn with_whichever_page_the_disk_is_full_the_store_is_sound() {
    let Some(pulled) = Pulled::new(Backing::Dir) else { return };
    private_mounts();
    grow(&pulled, (1..500).step_by(7).map(|pages| format!("size={}", pages * 4096)), "size=16m");
}

/// A small ext4, mounted.
fn ext4(pulled: &Pulled, options: &[&str]) -> Option<PathBuf> {
    program("mkfs.ext4")?;
    private_mounts();
    let (file, at) = (pulled.at("ext4.img"), pulled.directory("ext4"));
    File::create(&file).unwrap().set_len(8 << 20).unwrap();
    run("mkfs.ext4", &[&["-q", "-F"], options, &[file.to_str().unwrap()]].concat()).unwrap();
    match run("mount", &["-o", "loop", file.to_str().unwrap(), at.to_str().unwrap()]) {
        Ok(()) => Some(at),
        Err(error) => {
            missing("loop", &error);
            None
        }
    }
}

fn a_full_ext4_is_no_different(backing: Backing) {
    let Some(pulled) = Pulled::new(backing) else { return };
    let Some(at) = ext4(&pulled, &["-m", "0"]) else { return };
    let mut full = 0;
    let room: Vec<u64> = match backing {
        Backing::Dir => vec![0, 8, 24, 60, 120, 200, 300, 340, 400],
        // In small steps, because there is no tmpfs to take them on.
        Backing::Erofs => (0..360).step_by(8).collect(),
    };
    for left in room {
        let filler = File::create(at.join("filler")).unwrap();
        let free = rustix::fs::statvfs(&at).unwrap();
        let mut length = (free.f_bavail * free.f_frsize).saturating_sub(left << 10);
        // What describes the filler takes room, too.
        while rustix::fs::fallocate(&filler, rustix::fs::FallocateFlags::empty(), 0, length).is_err() {
            length -= 4096;
        }
        let store = at.join("store");
        let output = pulled.pull(&store);
        full += usize::from(!output.status.success());
        assert!(output.status.success() || text(&output).contains("ENOSPC"), "{left} KiB: {}", text(&output));
        drop(filler);
        std::fs::remove_file(at.join("filler")).unwrap();
        // ext4 has the blocks back once its journal says so.
        rustix::fs::syncfs(File::open(&at).unwrap()).unwrap();
        pulled.recovers(&store, &format!("{left} KiB left"));
        assert!(pulled.command(&store, &["store", "prune", "--all"]).status().unwrap().success());
    }
    unmount(&at);
    assert!(full > 2, "{full}");
}

fn an_ext4_without_inodes_is_no_different(backing: Backing) {
    let Some(pulled) = Pulled::new(backing) else { return };
    let Some(at) = ext4(&pulled, &["-N", "96"]) else { return };
    let filler = at.join("filler");
    let (mut full, mut enough) = (0, 0);
    for left in 0..96 {
        std::fs::create_dir(&filler).unwrap();
        let mut files = (0..).map(|number| filler.join(format!("{number}")));
        let last = files.find(|file| File::create(file).is_err()).unwrap();
        let made: usize = last.file_name().unwrap().to_str().unwrap().parse().unwrap();
        (made.saturating_sub(left)..made)
            .for_each(|number| std::fs::remove_file(filler.join(format!("{number}"))).unwrap());
        let store = at.join("store");
        let output = pulled.pull(&store);
        assert!(output.status.success() || text(&output).contains("ENOSPC"), "{left} inodes: {}", text(&output));
        *if output.status.success() { &mut enough } else { &mut full } += 1;
        std::fs::remove_dir_all(&filler).unwrap();
        pulled.recovers(&store, &format!("{left} inodes left"));
        std::fs::remove_dir_all(&store).unwrap();
        if enough > 1 {
            break;
        }
    }
    unmount(&at);
    assert!(full > 5 && enough > 1, "{full} {enough}");
}

fn a_store_may_lie_on_any_file_system_that_can_hold_layers(backing: Backing) {
    let Some(pulled) = Pulled::new(backing) else { return };
    private_mounts();
    if backing == Backing::Dir {
        let at = pulled.directory("tmpfs");
        mount(&["-t", "tmpfs", "tmpfs"], &at);
        pulled.recovers(&at.join("store"), "tmpfs");
        unmount(&at);
    }
    for (kind, megabytes) in [("ext4", 32), ("xfs", 320), ("btrfs", 128)] {
        if program(&format!("mkfs.{kind}")).is_none() {
            continue;
        }
        let (file, at) = (pulled.at(&format!("{kind}.img")), pulled.directory(kind));
        File::create(&file).unwrap().set_len(megabytes << 20).unwrap();
        run(&format!("mkfs.{kind}"), &["-q", file.to_str().unwrap()]).unwrap();
        if let Err(error) = run("mount", &["-o", "loop", file.to_str().unwrap(), at.to_str().unwrap()]) {
            missing("loop", &format!("{kind}: {error}"));
            continue;
        }
        pulled.recovers(&at.join("store"), kind);
        let durable = pulled.command(&at.join("durable"), &["pull", "--durable", &pulled.reference]).output().unwrap();
        assert!(durable.status.success(), "{kind}: {}", text(&durable));
        let target = pulled.directory("target");
        let shown = pulled.command(&at.join("store"), &["mount", &pulled.reference, target.to_str().unwrap()]).output();
        assert!(shown.as_ref().unwrap().status.success(), "{kind}: {}", text(&shown.unwrap()));
        assert_eq!(std::fs::read_to_string(target.join("e/link")).unwrap(), "first\n", "{kind}");
        assert!(!target.join("d/large").exists(), "{kind}");
        unmount(&target);
        unmount(&at);
    }
}

#[test]
fn an_overlay_cannot_hold_whiteouts_and_says_so() {
    let Some(pulled) = Pulled::new(Backing::Dir) else { return };
    private_mounts();
    let at = pulled.directory("overlay");
    mount(&["-t", "tmpfs", "tmpfs"], &at);
    let [lower, upper, work, merged] = ["lower", "upper", "work", "merged"].map(|name| {
        std::fs::create_dir(at.join(name)).unwrap();
        at.join(name)
    });
    let options = format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    mount(&["-t", "overlay", "-o", &options, "overlay"], &merged);
    let output = pulled.pull(&merged.join("store"));
    assert!(!output.status.success());
    assert!(text(&output).contains("mknodat") && text(&output).contains("hint: "), "{}", text(&output));
    assert_eq!(count(&merged.join("store/stage")), 0);
    unmount(&merged);
    unmount(&at);
}

#[test]
fn where_the_kernel_mounts_no_file_layers_are_directories_unless_files_are_asked_for() {
    let Some(pulled) = Pulled::new(Backing::Dir) else { return };
    private_mounts();
    let at = pulled.directory("tmpfs");
    mount(&["-t", "tmpfs", "tmpfs"], &at);
    let pull = |name: &str, format: &str| {
        let store = at.join(name);
        let arguments = ["--log-format", format, "pull", "--backing", name, &pulled.reference];
        (pulled.command(&store, &arguments).output().unwrap(), store)
    };
    let (asked, store) = pull("erofs", "text");
    let said = text(&asked);
    assert_eq!(asked.status.code(), Some(1), "{said}");
    for part in ["the kernel does not mount EROFS files out of the store at", "hint: ", "ext4", "--backing dir"] {
        assert!(said.contains(part), "{part:?} is not in:\n{said}");
    }
    assert!(layers(&store).is_empty() && count(&store.join("stage")) == 0);
    let said = text(&pull("erofs", "json").0);
    assert!(said.contains(r#""kind":"unsupported""#), "{said}");
    let (found, store) = pull("auto", "text");
    assert!(found.status.success(), "{}", text(&found));
    assert_eq!(layers(&store), layers(&pulled.whole));
    unmount(&at);
}

fn a_read_only_store_runs_what_it_has_and_takes_nothing_in(backing: Backing) {
    let Some(pulled) = Pulled::new(backing) else { return };
    private_mounts();
    let at = pulled.directory("bound");
    let store = pulled.at("whole");
    let target = pulled.directory("target");
    for aged in [false, true] {
        if aged {
            for layer in layers(&store) {
                let record = store.join("layers").join(layer).join("layer.json");
                let text = std::fs::read_to_string(&record).unwrap();
                let (before, after) = text.split_once("\"boot\":\"").unwrap();
                std::fs::write(record, format!("{before}\"boot\":\"{}{}", "0", &after[1..])).unwrap();
            }
        }
        mount(&["--bind", store.to_str().unwrap()], &at);
        run("mount", &["-o", "remount,bind,ro", at.to_str().unwrap()]).unwrap();
        let shown = pulled.command(&at, &["mount", &pulled.reference, target.to_str().unwrap()]).output().unwrap();
        assert!(shown.status.success(), "aged: {aged}: {}", text(&shown));
        assert_eq!(std::fs::read_to_string(target.join("d/b")).unwrap(), "second\n");
        unmount(&target);
        let output = pulled.pull(&at);
        assert!(!output.status.success() && text(&output).contains("EROFS"), "{}", text(&output));
        unmount(&at);
    }
}

fn few_descriptors_and_little_memory_end_in_an_error_at_worst(backing: Backing) {
    let Some(pulled) = Pulled::new(backing) else { return };
    let store = pulled.at("store");
    let mut worked = 0;
    let limits = [4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64, 128].map(|n| format!("--nofile={n}"));
    let memory = [6, 10, 20, 30, 40, 50, 60, 80, 100, 150, 300].map(|n: u64| format!("--as={}", n << 20));
    for limit in limits.iter().chain(&memory) {
        let mut command = Command::new("prlimit");
        command.arg(limit).arg(layermount()).arg("--store").arg(&store).args(["pull", &pulled.reference]);
        let output = pulled.world.choose_backing(&mut command).stdin(Stdio::null()).output().unwrap();
        worked += usize::from(output.status.success());
        let says = text(&output);
        // Where a new thread has no memory for its signal stack, the standard library gives up, before any code of ours.
        let panics = says.lines().filter(|line| line.contains("panicked") && !line.contains("unix/stack_overflow.rs:"));
        assert_eq!(panics.count(), 0, "{limit}: {says}");
        if !output.status.success() && limit.starts_with("--nofile") {
            assert!(
                says.contains("EMFILE") || says.contains("Too many open files") || says.contains("Error 24"),
                "{limit}: {says}"
            );
        }
        pulled.recovers(&store, limit);
        assert!(pulled.command(&store, &["store", "prune", "--all"]).output().unwrap().status.success());
        if limit == "--nofile=64" {
            assert!(output.status.success(), "{says}");
        }
    }
    assert!(worked > 3, "{worked}");
}

fn closed_standard_descriptors_and_a_directory_that_is_gone_do_not_matter(backing: Backing) {
    let Some(pulled) = Pulled::new(backing) else { return };
    let gone = pulled.directory("gone");
    for (name, script) in [
        ("closed", "exec \"$0\" --store \"$1\" -v pull \"$2\" <&- >&- 2>&-"),
        ("gone", "rmdir ../gone && exec \"$0\" --store \"$1\" pull \"$2\""),
    ] {
        let store = pulled.at(name).with_extension("store");
        let mut command = Command::new("sh");
        command.current_dir(&gone).args(["-c", script, layermount()]).arg(&store).arg(&pulled.reference);
        let output = pulled.world.choose_backing(&mut command).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{name}: {}", text(&output));
        pulled.recovers(&store, name);
    }
}

#[test]
fn no_umask_makes_a_store_that_its_owner_cannot_use() {
    let Some(pulled) = Pulled::new(Backing::Dir) else { return };
    let home = pulled.directory("home");
    chown(&home, Some(Uid::from_raw(USER)), Some(Gid::from_raw(USER))).unwrap();
    run("chmod", &["-R", "a+rX", pulled.world.path().to_str().unwrap()]).unwrap();
    let command = home.join("layermount");
    std::fs::copy(layermount(), &command).unwrap();
    let script = |script: &str, argument: &str| {
        let mut sh = Command::new("sh");
        sh.args(["-c", script]).arg(&command).arg(&pulled.reference).arg(argument);
        sh.uid(USER).gid(USER).current_dir("/").env("HOME", &home).env_remove("XDG_DATA_HOME");
        sh.env_remove("LAYERMOUNT_STORE").stdin(Stdio::null()).output().unwrap()
    };
    for umask in ["0777", "0700", "0300", "0177", "0000", "0022"] {
        let pull = script("umask \"$2\" && exec \"$0\" pull \"$1\"", umask);
        assert!(pull.status.success(), "{umask}: {}", text(&pull));
        for rest in ["images", "store verify", "pull \"$1\"", "store ls", "store prune --all"] {
            // What is closed to its owner in the image cannot be verified by an ordinary user.
            let output = script(&format!("exec \"$0\" {rest}"), "");
            assert!(output.status.success() || rest == "store verify", "{umask}: {rest}: {}", text(&output));
        }
        let locks = home.join(".local/share/layermount/locks");
        assert_eq!(count(&locks), 0, "{umask}");
        run("rm", &["-rf", home.join(".local").to_str().unwrap()]).unwrap();
    }
    let homeless = script("unset HOME; exec \"$0\" pull \"$1\"", "");
    assert!(!homeless.status.success() && text(&homeless).contains("hint: "), "{}", text(&homeless));
}

#[test]
fn an_ordinary_users_closed_files_are_no_damage_after_a_restart() {
    let Some(pulled) = Pulled::new(Backing::Dir) else { return };
    let home = pulled.directory("home");
    chown(&home, Some(Uid::from_raw(USER)), Some(Gid::from_raw(USER))).unwrap();
    run("chmod", &["-R", "a+rX", pulled.world.path().to_str().unwrap()]).unwrap();
    let command = home.join("layermount");
    std::fs::copy(layermount(), &command).unwrap();
    let store = home.join("store");
    let pull = || {
        let mut pull = Command::new(&command);
        pull.arg("--store").arg(&store).args(["pull", &pulled.reference]).uid(USER).gid(USER).current_dir("/");
        let output = pull.stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(pull().contains("3 unpacked now"));
    restart(&store);
    assert!(pull().contains("0 unpacked now"));
}

/// Has all layers be from before the machine was started.
fn restart(store: &Path) {
    for layer in layers(store) {
        let record = store.join("layers").join(layer).join("layer.json");
        let text = std::fs::read_to_string(&record).unwrap();
        std::fs::write(&record, text.replace("\"boot\":\"", "\"boot\":\"another ")).unwrap();
    }
}

/// After a power cut, a layer was made anew, and the index that needs it was found whole; then comes the next power cut.
#[test]
fn an_index_that_reached_the_disk_does_not_vouch_for_a_layer_that_was_made_later() {
    let Some(()) = erofs() else { return };
    let Some(pulled) = Pulled::new(Backing::Erofs) else { return };
    let store = pulled.at("store");
    assert!(pulled.pull(&store).status.success());
    restart(&store);
    assert!(pulled.pull(&store).status.success());
    let all = layers(&store);
    let layer = store.join("layers").join(all.iter().find(|layer| !is_index(layer)).unwrap());
    std::fs::remove_file(layer.join("on-disk")).expect("all are known to be on disk");
    // As long as it was, and with zeros instead of what had not been written.
    let file = File::options().write(true).open(layer.join("image")).unwrap();
    let length = file.metadata().unwrap().len();
    file.set_len(4096).unwrap();
    file.set_len(length).unwrap();
    drop(file);
    let again = pulled.pull(&store);
    assert!(again.status.success(), "{}", text(&again));
    let said = String::from_utf8(again.stdout).unwrap();
    assert!(said.contains("1 unpacked now"), "{said}");
    pulled.recovers(&store, "afterwards");
}

fn is_index(layer: &Path) -> bool {
    layer.file_name().unwrap().to_str().unwrap().starts_with("image-")
}

fn clocks_may_say_what_they_like(backing: Backing) {
    let Some(pulled) = Pulled::new(backing) else { return };
    let store = pulled.at("store");
    for date in ["1970-01-01", "1901-12-14", "2105-01-01"] {
        assert!(pulled.pull(&store).status.success());
        std::fs::create_dir(store.join("stage/1-1")).unwrap();
        std::fs::write(store.join("locks/left"), "").unwrap();
        let touch =
            "find \"$0\" \\( -path '*/fs' -o -path '*/image' \\) -prune -o -print0 | xargs -0 touch -h -d \"$1\"";
        run("sh", &["-c", touch, store.to_str().unwrap(), date]).unwrap();
        let again = pulled.pull(&store);
        assert!(String::from_utf8_lossy(&again.stdout).contains("0 unpacked now"), "{date}");
        pulled.recovers(&store, date);
        assert_eq!(count(&store.join("locks")), 0, "{date}");
        assert!(pulled.command(&store, &["store", "prune", "--all"]).output().unwrap().status.success());
        assert!(layers(&store).is_empty(), "{date}");
    }
}
