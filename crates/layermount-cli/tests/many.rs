//! Many starts, one after the other and at once: each works, and nothing grows.

#![allow(clippy::disallowed_methods, reason = "tests write to directories of their own")]

mod world;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use layermount_fixtures::{Layout, Recipe};
use world::person::{Home, Said};
use world::{Backing, World, for_both_backings, private_mounts, program, root, wait_until};

for_both_backings! {
    a_thousand_starts_leave_nothing,
    a_hundred_starts_at_once_work_and_leave_nothing,
}

const IN_A_ROW: usize = 1000;
const OF_A_USER: usize = 200;
const AT_ONCE: usize = 100;
/// Starts that make whatever is made once.
const FIRST: usize = 3;
/// One start in so many has a cgroup of its own: version 1 takes its time for one.
const WITH_LIMITS: usize = 20;

/// As many file systems may be elsewhere on the machine, or wait for the kernel to let go of them. A start makes several.
const ELSEWHERE: u64 = 300;

/// Two layers: over them, there is an index or an overlay.
const RECIPE: &str = r#"
env PATH=/bin
entrypoint sh -c
layer
dir  0755 0:0 /bin
copy 0755 0:0 /bin/busybox /usr/bin/busybox
symlink /bin/sh -> busybox
layer
random 0644 0:0 /data 100000
"#;

/// Prints its number, and the number of the file system that it is in.
fn script(number: usize) -> String {
    format!("echo {number} $(busybox stat -c %d /)")
}

/// What the script of this number has printed: the number of the file system.
#[track_caller]
fn file_system(number: usize, printed: &str) -> u64 {
    let found = printed.strip_suffix('\n').and_then(|line| line.strip_prefix(&format!("{number} ")));
    found.and_then(|found| found.parse().ok()).unwrap_or_else(|| panic!("start {number} printed {printed:?}"))
}

/// A world with the directories that programs use for what is temporary.
struct Starts {
    world: World,
    image: String,
    /// Process IDs of all that were started.
    started: RefCell<BTreeSet<u32>>,
}

impl Starts {
    fn new(backing: Backing) -> Option<Self> {
        root()?;
        program("busybox")?;
        let world = World::with_backing(backing);
        let recipe = format!("env {}\n{RECIPE}", world.mark());
        let layout = world.path().join("layout");
        Layout::create(&layout).unwrap().add("image", &Recipe::parse(&recipe).unwrap().build().unwrap()).unwrap();
        for name in ["tmp", "runtime", "home"] {
            std::fs::create_dir(world.path().join(name)).unwrap();
        }
        // Whatever is mounted on the machine meanwhile is not layermount's.
        private_mounts();
        Some(Self { world, image: format!("oci:{}:image", layout.display()), started: RefCell::default() })
    }

    fn start(&self, number: usize) -> Child {
        let mut command = self.world.layermount();
        let place = |name| self.world.path().join(name);
        command.env("TMPDIR", place("tmp")).env("XDG_RUNTIME_DIR", place("runtime")).env("HOME", place("home"));
        command.arg("run");
        if number.is_multiple_of(WITH_LIMITS) {
            command.args(["--memory", "64m", "--pids-limit", "50"]);
        }
        command.args([&self.image, &script(number)]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        self.started.borrow_mut().insert(child.id());
        child
    }

    /// Waits for it; it must have worked, and said nothing else. Returns the number of the file system that it was in.
    #[track_caller]
    fn end(number: usize, child: Child) -> u64 {
        let said = Said::of(&child.wait_with_output().unwrap());
        assert_eq!((said.status, said.stderr.as_str()), (Some(0), ""), "start {number}");
        file_system(number, &said.stdout)
    }

    fn run(&self, numbers: std::ops::Range<usize>) -> Vec<u64> {
        numbers.map(|number| Self::end(number, self.start(number))).collect()
    }

    /// The kernel gives numbers of file systems that are gone to new ones, the lowest first: they do not rise, but for what is mounted
    /// elsewhere meanwhile, unless something keeps those of earlier starts.
    #[track_caller]
    fn assert_no_file_system_was_kept(&self, first: &[u64], starts: usize) {
        // Half of what one of each start would be.
        let most = first.iter().min().unwrap() + ELSEWHERE.min(starts as u64 / 2);
        wait_until("file systems of earlier starts are gone", || self.run(0..1)[0] < most);
    }

    /// Everything of theirs that is there when nothing runs.
    fn traces(&self) -> Traces {
        wait_until("programs have ended", || self.world.processes_in_store().is_empty());
        let mut cgroups = Vec::new();
        cgroups_of(&self.started.borrow(), Path::new("/sys/fs/cgroup"), &mut cgroups);
        Traces { mounts: mounts(), files: files(self.world.path()), cgroups, loops: loops(self.world.path()) }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Traces {
    mounts: Vec<String>,
    files: Vec<(PathBuf, u64)>,
    cgroups: Vec<PathBuf>,
    loops: Vec<String>,
}

/// In the namespace of this thread.
fn mounts() -> Vec<String> {
    std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap().lines().map(str::to_owned).collect()
}

/// All names below a directory, with the lengths of files.
fn files(below: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(below).unwrap() {
        let (path, metadata) = entry.map(|entry| (entry.path(), entry.metadata().unwrap())).unwrap();
        if metadata.is_dir() {
            found.extend(files(&path));
        }
        found.push((path, if metadata.is_file() { metadata.size() } else { 0 }));
    }
    found.sort();
    found
}

/// The cgroups that these processes have made.
fn cgroups_of(owners: &BTreeSet<u32>, at: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(at).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let name = entry.file_name().to_string_lossy().into_owned();
            let owner = name.strip_prefix("layermount-").and_then(|rest| rest.split('-').next()?.parse().ok());
            if owner.is_some_and(|owner| owners.contains(&owner)) {
                found.push(entry.path());
            }
            cgroups_of(owners, &entry.path(), found);
        }
    }
}

/// Files below a directory that loop devices are made of.
fn loops(below: &Path) -> Vec<String> {
    let devices = std::fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let files = devices.filter_map(|device| std::fs::read_to_string(device.path().join("loop/backing_file")).ok());
    files.filter(|file| file.contains(below.to_str().unwrap())).collect()
}

fn a_thousand_starts_leave_nothing(backing: Backing) {
    let Some(starts) = Starts::new(backing) else { return };
    let first = starts.run(0..FIRST);
    let before = starts.traces();
    starts.run(FIRST..FIRST + IN_A_ROW);
    assert_eq!(starts.traces(), before);
    starts.assert_no_file_system_was_kept(&first, IN_A_ROW);
}

fn a_hundred_starts_at_once_work_and_leave_nothing(backing: Backing) {
    let Some(starts) = Starts::new(backing) else { return };
    let first = starts.run(0..FIRST);
    let before = starts.traces();
    let children: Vec<_> = (0..AT_ONCE).map(|number| (number, starts.start(number))).collect();
    children.into_iter().for_each(|(number, child)| _ = Starts::end(number, child));
    assert_eq!(starts.traces(), before);
    starts.assert_no_file_system_was_kept(&first, AT_ONCE);
}

/// One shell of the user's starts all, so that what is mounted there stays to be seen. It prints how much is mounted, before and after.
fn starts_of_a_user(home: &Home, image: &str, starts: &str) -> Vec<String> {
    let mounts = "while read -r _; do n=$((n+1)); done </proc/self/mountinfo; echo mounts $n; n=0";
    let script = format!("set -e; n=0; {mounts}; start() {{ \"$0\" run \"$1\" \"echo $2\"; }}; {starts}; {mounts}");
    let mut command: Command = home.as_person(&[]);
    command.args(["/bin/sh", "-c", &script]).arg(home.path("layermount")).arg(image);
    command.env("TMPDIR", home.path("tmp")).env("XDG_RUNTIME_DIR", home.path("runtime"));
    let said = Said::of(&command.output().unwrap());
    assert_eq!((said.status, said.stderr.as_str()), (Some(0), ""), "{}", said.stdout);
    said.stdout.lines().map(str::to_owned).collect()
}

#[test]
fn starts_of_an_ordinary_user_leave_nothing() {
    let Some(home) = Home::new() else { return };
    if program("busybox").is_none() {
        return;
    }
    let image = home.image("many", &format!("env {}\n{RECIPE}", home.world.mark()));
    for name in ["tmp", "runtime"] {
        home.directory(name);
    }
    let nothing_runs = || wait_until("programs have ended", || home.world.processes_in_store().is_empty());
    home.prints(&["run", &image, "echo first"]);
    nothing_runs();
    let before = files(home.world.path());
    for (starts, count) in [
        (format!("i=0; while [ $i -lt {OF_A_USER} ]; do start \"$1\" $i; i=$((i+1)); done"), OF_A_USER),
        (format!("i=0; while [ $i -lt {AT_ONCE} ]; do start \"$1\" $i & i=$((i+1)); done; wait"), AT_ONCE),
    ] {
        let lines = starts_of_a_user(&home, &image, &starts);
        let [first, numbers @ .., last] = lines.as_slice() else { panic!("{lines:?}") };
        assert_eq!(first, last, "mounts in the user's shell");
        let numbers: BTreeSet<usize> = numbers.iter().map(|line| line.parse().unwrap()).collect();
        assert_eq!(numbers, (0..count).collect());
        nothing_runs();
        assert_eq!(files(home.world.path()), before);
    }
}
