//! How much a program of `layermount run` may use: as docker's, and nothing is left of it.

#![allow(clippy::disallowed_methods, reason = "tests write to directories of their own")]

mod world;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use layermount_fixtures::random::Random;
use world::person::Home;
use world::{World, docker, docker_host, root};

/// A store and the reference of the image with a shell.
fn shell() -> Option<(World, String)> {
    root()?;
    let world = World::new();
    let layout = world.shell_layout()?;
    Some((world, format!("oci:{layout}:shell")))
}

fn run(world: &World, flags: &[&str], image: &str, script: &str) -> Output {
    let mut command = world.layermount();
    command.arg("run").args(["--user", "0"]).args(flags).args([image, script]).stdin(Stdio::null()).output().unwrap()
}

fn prints(world: &World, flags: &[&str], image: &str, script: &str) -> String {
    let output = run(world, flags, image, script);
    assert!(output.status.success(), "{flags:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn is_v1() -> bool {
    !Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// The cgroups that processes with these numbers have made, as far as they are there.
fn cgroups_of(owners: &[u32]) -> Vec<PathBuf> {
    fn collect(at: &Path, owners: &[u32], found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(at).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                collect(&entry.path(), owners, found);
                let name = entry.file_name().to_string_lossy().into_owned();
                if owners.iter().any(|owner| name.starts_with(&format!("layermount-{owner}-"))) {
                    found.push(entry.path());
                }
            }
        }
    }
    let mut found = Vec::new();
    collect(Path::new("/sys/fs/cgroup"), owners, &mut found);
    found
}

/// The files that programs look into for their limits, and what `ulimit` says.
const SEEN: &str = "cd /sys/fs/cgroup; for f in memory/memory.limit_in_bytes memory/memory.memsw.limit_in_bytes \
                    memory/memory.soft_limit_in_bytes cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us cpu/cpu.shares cpuset/cpuset.cpus \
                    cpuset/cpuset.mems pids/pids.max memory.max memory.swap.max memory.low cpu.max cpuset.cpus pids.max; \
                    do if test -e $f; then echo $f; busybox cat $f; echo hidden 2>/dev/null > $f && echo written; fi; done; \
                    ulimit -Sn; ulimit -Hn; ulimit -c; ulimit -Hs";

#[test]
fn limits_are_dockers() {
    let Some(host) = docker_host() else { return };
    let Some((world, image)) = shell() else { return };
    let tree = world.path().join("tree");
    world.output(&["unpack", &image, tree.to_str().unwrap()]);
    let name = "layermount-test-limits:latest";
    let tar = std::process::Command::new("tar").arg("-C").arg(&tree).args(["-c", "."]).output().unwrap();
    let file = world.path().join("tree.tar");
    std::fs::write(&file, tar.stdout).unwrap();
    docker(&host, &["import", file.to_str().unwrap(), name]);
    for flags in [
        "-m 64m --memory-swap 128m --cpus 0.5 --pids-limit 20 --ulimit nofile=100:200",
        "-m 64m",
        "-m 64m --memory-swap 64m --memory-reservation 32m",
        "-m 64m --memory-swap -1 --cpu-shares 512 --cpuset-cpus 0",
        "--cpus 1.25 --ulimit core=0 --ulimit nofile=64 --ulimit stack=1048576:8388608",
        "--memory-swap -1 --memory 70000k --pids-limit 1000",
        "--pids-limit 7 --cpus .01",
    ] {
        let flags: Vec<&str> = flags.split(' ').collect();
        let ours = prints(&world, &flags, &image, SEEN);
        // What is not said of limits of processes is the one's who starts them, and that is another one there.
        let unsaid = [("nofile", 0..2), ("core", 2..3), ("stack", 3..4)];
        let comparable = |text: &str| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            let first = lines.len() - 4;
            for (name, range) in unsaid.clone() {
                if !flags.iter().any(|flag| flag.starts_with(name)) {
                    lines[first + range.start..first + range.end].fill(String::new());
                }
            }
            lines
        };
        let run = ["run", "--rm", "--net", "host"];
        let theirs = docker(&host, &[&run[..], &flags, &[name, "/bin/busybox", "sh", "-c", SEEN]].concat());
        assert_eq!(comparable(&ours), comparable(&theirs), "{flags:?}");
    }
    docker(&host, &["rmi", "-f", name]);
}

#[test]
fn want_of_memory_is_told() {
    let Some((world, image)) = shell() else { return };
    let eats = "exec busybox dd if=/dev/zero of=/dev/null bs=100M count=1";
    let flags = ["-m", "16m", "--memory-swap", "16m"];
    let output = run(&world, &flags, &image, eats);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(137), "{stderr}");
    assert_eq!(
        stderr,
        "layermount: warning: a process of the program was killed for want of memory (limit: 16.0 MiB)\n"
    );
    let mut quiet = world.layermount();
    let output = quiet.args(["--quiet", "run", "-u", "0"]).args(flags).args([&image, eats]).output().unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(137), 0));
}

#[test]
fn a_bomb_stays_in_its_limit() {
    let Some((world, image)) = shell() else { return };
    let since = Instant::now();
    let output = run(&world, &["--pids-limit", "5"], &image, "for i in 1 2 3 4 5 6 7 8; do busybox sleep 100 & done");
    assert!(String::from_utf8_lossy(&output.stderr).contains("can't fork"), "{output:?}");
    run(&world, &["--pids-limit", "30"], &image, "b() { b | b & }; b 2>/dev/null; busybox sleep 1");
    assert!(since.elapsed() < Duration::from_secs(60));
}

#[test]
fn what_cannot_be_limited_is_one_line() {
    let Some((world, image)) = shell() else { return };
    for (flags, says) in [
        ("-m 5m", "at least 6 MiB"),
        ("-m -1", "a size is"),
        ("-m 99999999999999999999", "a size begins"),
        ("-m 16777215t", "more than"),
        ("--memory-swap 64m", "needs a limit of memory"),
        ("-m 64m --memory-swap 63m", "cannot be less than the memory"),
        ("-m 64m --memory-swap -2", "a size is"),
        ("-m 64m --memory-reservation 65m", "is more than the memory limit"),
        ("--cpus -1", "number of processors"),
        ("--cpus 1e3", "number of processors"),
        ("--cpus 0.001", "at least 0.01"),
        ("--cpus 99999999999999", "at least 0.01"),
        ("--cpu-shares 1", "from 2 to 262144"),
        ("--cpu-shares -5", "invalid"),
        ("--cpuset-cpus a", "list of processors"),
        ("--cpuset-cpus 4000", "cpuset.cpus"),
        ("--pids-limit -2", "number of processes"),
        ("--pids-limit 18446744073709551616", "number of processes"),
        ("--ulimit nofile", "NAME=SOFT[:HARD]"),
        ("--ulimit nofile=2:1", "above the hard one"),
        ("--ulimit nofile=-2", "NAME=SOFT[:HARD]"),
        ("--ulimit files=1", "there is no limit"),
        ("--ulimit nofile=99999999999", "cannot set the limit nofile=99999999999"),
        ("--cgroup-parent /no/such", "no cgroup /no/such"),
        ("--cgroup-parent ../../x -m 64m", "not the path of a cgroup"),
    ] {
        let flags: Vec<&str> = flags.split(' ').collect();
        let output = run(&world, &flags, &image, "true");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(125), "{flags:?}: {stderr}");
        let first = stderr.lines().next().unwrap_or_default();
        assert!(first.starts_with("layermount: ") && first.contains(says), "{flags:?}: {stderr}");
        let others =
            |line: &str| line.starts_with("  because ") || line.starts_with("  hint: ") || line.starts_with("        ");
        assert!(stderr.lines().skip(1).all(others), "{flags:?}: {stderr}");
    }
}

#[test]
fn flags_that_limit_nothing_make_nothing() {
    let Some((world, image)) = shell() else { return };
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let flags = ["--pids-limit", "-1", "-m", "0", "--cpus", "0", "--memory-swap", "-1", "--ulimit", "core=0"];
    assert_eq!(prints(&world, &flags, &image, "cat /proc/self/cgroup; ls /sys/fs/cgroup"), own);
}

fn start(world: &World, image: &str, script: &str) -> Child {
    let mut command = world.layermount();
    command.args(["run", "-m", "64m", "--pids-limit", "20", "--cpus", "1"]).args([image, script]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn nothing_is_left_of_runs_that_are_killed() {
    let Some((world, image)) = shell() else { return };
    world.output(&["pull", &image]);
    let mut random = Random::new(7);
    let mut killed = Vec::new();
    let kills = std::env::var("LAYERMOUNT_KILLS").map_or(40, |count| count.parse().unwrap());
    for _ in 0..kills {
        let mut child = start(&world, &image, "busybox sleep 100 & busybox sleep 100");
        std::thread::sleep(Duration::from_micros(random.next_u64() % 30_000));
        child.kill().unwrap();
        child.wait().unwrap();
        killed.push(child.id());
    }
    // One that lives on at the same time is left alone.
    let mut alive =
        start(&world, &image, "echo runs; cat /proc/self/cgroup | busybox tail -n 1; busybox sleep 2; echo ends");
    let mut first = [0_u8; 5];
    alive.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    let before = cgroups_of(&[alive.id()]);
    assert!(!before.is_empty());
    // The last program may take a moment to die, which is the kernel's to do.
    let patience = Instant::now();
    loop {
        assert!(start(&world, &image, "true").wait().unwrap().success());
        let left = cgroups_of(&killed);
        if left.is_empty() {
            break;
        }
        assert!(patience.elapsed() < Duration::from_secs(5), "{left:?}");
    }
    assert_eq!(cgroups_of(&[alive.id()]), before);
    let mut rest = String::new();
    alive.stdout.take().unwrap().read_to_string(&mut rest).unwrap();
    assert!(alive.wait().unwrap().success() && rest.ends_with("ends\n"), "{rest}");
    assert_eq!(cgroups_of(&[alive.id()]), [] as [PathBuf; 0]);
}

#[test]
fn nothing_is_left_of_many_runs_at_once() {
    let Some((world, image)) = shell() else { return };
    world.output(&["pull", &image]);
    let mut all = Vec::new();
    for _ in 0..10 {
        let mut children: Vec<_> = (0..6).map(|_| start(&world, &image, "true")).collect();
        for child in &mut children {
            assert!(child.wait().unwrap().success());
        }
        all.extend(children.iter().map(Child::id));
    }
    assert_eq!(cgroups_of(&all), [] as [PathBuf; 0]);
}

#[test]
fn java_and_go_find_what_they_look_for() {
    let Some((world, image)) = shell() else { return };
    // Where a process looks: its cgroup, from the root of the mount that mountinfo tells of.
    let script = "cat /proc/self/cgroup; echo; cat /proc/self/mountinfo";
    let text = prints(&world, &["-m", "64m"], &image, script);
    let (cgroups, mounts) = text.split_once("\n\n").unwrap();
    let wanted: &[&str] = if is_v1() { &["memory", "cpu", "cpuacct", "cpuset", "pids"] } else { &[""] };
    for controller in wanted {
        let line = cgroups.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            fields.next()?.split(',').any(|name| name == *controller).then(|| fields.next())?
        });
        let cgroup = line.unwrap_or_else(|| panic!("{controller}: {cgroups}"));
        let point = if is_v1() { format!("/sys/fs/cgroup/{controller}") } else { "/sys/fs/cgroup".to_owned() };
        let mount = mounts.lines().find(|line| line.split(' ').nth(4) == Some(&point));
        let fields: Vec<_> = mount.unwrap_or_else(|| panic!("{point}: {mounts}")).split(' ').collect();
        assert_eq!((fields[3], fields[5].split(',').next()), (cgroup, Some("ro")), "{text}");
    }
}

/// A cgroup in each of these hierarchies that belongs to a user, while this is there.
struct Owned(Vec<PathBuf>);

impl Owned {
    fn new(hierarchies: &[&Path], name: &str, home: &Home) -> Self {
        let person = &home.person;
        let make = |hierarchy: &&Path| {
            let path = hierarchy.join(name);
            std::fs::create_dir_all(&path).unwrap();
            let files = std::fs::read_dir(&path).unwrap().map(|file| file.unwrap().path());
            for path in files.chain([path.clone()]) {
                std::os::unix::fs::chown(path, Some(person.uid), Some(person.gid)).unwrap();
            }
            path
        };
        Self(hierarchies.iter().map(make).collect())
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = std::fs::remove_dir(path);
        }
    }
}

#[test]
fn a_user_limits_in_a_cgroup_of_ones_own() {
    let Some(home) = Home::new() else { return };
    let Some(image) = home.several() else { return };
    let said = home.layermount(&[], &["run", "-m", "64m", &image, "true"]);
    said.assert(125, &["cannot make a cgroup in", "hint: "]);
    if !is_v1() {
        // Which controllers a user's cgroup has, the machine decides.
        return;
    }
    let name = format!("test-user-{}", std::process::id());
    let owned = Owned::new(&[Path::new("/sys/fs/cgroup/memory"), Path::new("/sys/fs/cgroup/pids")], &name, &home);
    let script = "cd /sys/fs/cgroup; busybox cat memory/memory.limit_in_bytes pids/pids.max; busybox ls; ulimit -Hn";
    let flags = ["run", "-m", "64m", "--pids-limit", "20", "--ulimit", "nofile=100", "--cgroup-parent", &name];
    for users in ["keep-id", "auto"] {
        let text = home.prints(&[&flags[..], &["--userns", users, &image, script]].concat());
        assert_eq!(text, "67108864\n20\nmemory\npids\n100\n", "{users}");
    }
    for path in &owned.0 {
        std::fs::remove_dir(path).unwrap();
    }
}

/// As systemd delegates it: the user's processes are in one cgroup of a tree that is theirs, and others lie beside it.
#[test]
fn a_user_has_programs_born_in_a_delegated_cgroup() {
    let Some(home) = Home::new() else { return };
    let Some(image) = home.several() else { return };
    let top = if is_v1() { "/sys/fs/cgroup/unified" } else { "/sys/fs/cgroup" };
    if !Path::new(top).join("cgroup.procs").exists() {
        eprintln!("SKIP: no cgroup2 is mounted");
        return;
    }
    let name = format!("test-delegated-{}", std::process::id());
    let inner = format!("{name}/inner");
    let owned = Owned::new(&[Path::new(top)], &name, &home);
    let session = Owned::new(&[Path::new(top)], &inner, &home);
    let words = ["run", "--cgroup-parent", &name, &image, "busybox cat /proc/self/cgroup"];
    let said = home.layermount(&[], &words);
    said.assert(125, &["cannot start a child process", "hint: the cgroup above both"]);
    let command = home.command(&[], &words);
    let mut within = std::process::Command::new("/bin/sh");
    within.args(["-c", "echo $$ > $0 && exec \"$@\""]).arg(session.0[0].join("cgroup.procs"));
    within.arg(command.get_program()).args(command.get_args()).env_clear().current_dir("/").stdin(Stdio::null());
    within.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = within.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line =
        text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_else(|| panic!("{text} {:?}", output.status));
    assert!(if is_v1() { line.starts_with(&format!("/{name}/layermount-")) } else { line == "/" }, "{text}");
    // Nothing but the session's own is left.
    drop(session);
    for path in &owned.0 {
        std::fs::remove_dir(path).unwrap();
    }
}
