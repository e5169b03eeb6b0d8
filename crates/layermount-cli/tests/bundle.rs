//! OCI bundles, and runtimes that run them: the same as `layermount run`, seen from inside.

#![allow(clippy::disallowed_methods, reason = "tests write to directories of their own")]

mod world;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use world::person::{Person, Said};
use world::{World, private_mounts, program, root};

/// What a program can see of how it runs. Each part ends with a line of its own, so that a difference is found.
const LOOK: &str = "id; echo user; env | grep -v SHLVL | sort; echo env; pwd; echo cwd; \
    grep -E 'Cap|NoNewPrivs|Seccomp:|Groups' /proc/self/status; echo privileges; hostname; cat /etc/hostname; echo name; \
    ls /dev /dev/pts /dev/shm | grep -v core; echo dev; umask; echo umask; touch /x 2>/dev/null && echo writable; \
    cat /data/file; touch /data/new 2>&1; echo data; cat /etc/hosts /etc/resolv.conf; echo etc; \
    for n in pid ipc uts net mnt; do test $(readlink /proc/self/ns/$n) = $(eval echo \\$N$n) && echo host $n; done; echo namespaces; \
    unshare -U true 2>&1; swapoff / 2>&1; echo seccomp; echo 1 2>&1 > /proc/sys/vm/swappiness; head -c 1 /proc/timer_list | wc -c; echo end";

/// Mount points and whether they are read-only, from a look of its own.
const MOUNTS: &str = "cut -d' ' -f5,6 /proc/self/mountinfo | sed 's/,.*//' | sort -u";

/// Containers of one test at a time: they are looked for by name.
static CONTAINERS: Mutex<()> = Mutex::new(());

/// A store and the reference of the image with a shell, in a mount namespace that ends with the test.
fn shell() -> Option<(World, String)> {
    root()?;
    private_mounts();
    let world = World::new();
    let layout = world.shell_layout()?;
    Some((world, format!("oci:{layout}:shell")))
}

/// The runtimes that are installed. crun refuses machines with control groups of both versions, so it is shown one, and an empty
/// directory in place of the other's.
fn runtimes() -> Vec<&'static str> {
    let unified = "/sys/fs/cgroup/unified";
    if umount2(unified, MntFlags::MNT_DETACH).is_ok() {
        mount(Some("none"), unified, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    }
    ["crun", "runc"].into_iter().filter(|name| program(name).is_some()).collect()
}

fn ended(mut command: Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

#[track_caller]
fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{:?}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The namespaces of this thread, for `LOOK`.
fn namespaces() -> Vec<String> {
    let link = |name: &str| std::fs::read_link(format!("/proc/thread-self/ns/{name}")).unwrap();
    ["pid", "ipc", "uts", "net", "mnt"].iter().map(|name| format!("N{name}={}", link(name).display())).collect()
}

fn mounts(text: &str) -> Vec<String> {
    // Files are covered by a bind of a device, which crun makes read-only, too: nobody can write to them either way. Devices are the
    // host's own where the program could make others; with a runtime, the devices cgroup forbids to open those.
    text.lines()
        .filter(|line| !STANDARD.iter().any(|device| line.strip_prefix("/dev/") == Some(&format!("{device} rw"))))
        .map(|line| line.strip_prefix("/proc/").map_or(line, |rest| rest.split(' ').next().unwrap()).to_owned())
        .collect()
}

const STANDARD: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

#[test]
fn a_runtime_runs_it_as_layermount_does() {
    let _alone = CONTAINERS.lock().unwrap_or_else(PoisonError::into_inner);
    let Some((world, image)) = shell() else { return };
    let data = world.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("file"), "of the host\n").unwrap();
    let (read_only, writable) = (format!("{}:/data:ro", data.display()), format!("{}:/data", data.display()));
    let namespaces = namespaces();
    let runtimes = runtimes();
    for flags in [
        &["-h", "box", "-v", &read_only][..],
        &["-h", "box", "-u", "0", "-w", "/new/directory", "-e", "A=b c", "-v", &writable],
        &["-h", "box", "-u", "guest:42", "--read-only", "-v", &read_only],
        &["-h", "box", "-u", "5:6", "--security-opt", "no-new-privileges", "--cap-drop", "ALL", "--cap-add", "CHOWN"],
        &["-h", "box", "-u", "0", "--cap-add", "SYS_ADMIN", "--security-opt", "unmask=/proc/timer_list"],
        &["--uts", "host", "--pid", "host", "--ipc", "host", "--security-opt", "seccomp=unconfined"],
    ] {
        let mut options: Vec<&str> = namespaces.iter().flat_map(|variable| ["-e", variable]).collect();
        options.extend(flags);
        let reset = || drop(std::fs::remove_file(data.join("new")));
        for look in [LOOK, MOUNTS] {
            let run = |runtime: &[&str]| {
                reset();
                let mut command = world.layermount();
                command.arg("run").args(runtime).args(&options).args([&image, look]);
                printed(&ended(command))
            };
            let told =
                |text: String| if look == MOUNTS { mounts(&text) } else { text.lines().map(str::to_owned).collect() };
            let ours = told(run(&[]));
            assert!(ours.len() > 10, "{ours:#?}");
            for runtime in &runtimes {
                let directory = world.path().join("bundle");
                let mut command = world.layermount();
                command.arg("bundle").args(&options).arg(&image).arg(&directory).args(["--", look]);
                printed(&ended(command));
                reset();
                let mut command = Command::new(runtime);
                command.arg("run").arg("-b").arg(&directory).arg(format!("layermount-test-{}", std::process::id()));
                assert_eq!(told(printed(&ended(command))), ours, "{runtime} {flags:?}");
                world.output(&["umount", directory.to_str().unwrap()]);
                std::fs::remove_dir_all(&directory).unwrap();
                assert_eq!(told(run(&["--runtime", runtime])), ours, "run --runtime {runtime} {flags:?}");
            }
        }
    }
}

/// Limits, groups, names, networks and mounts: what each of them comes to inside.
#[test]
fn a_runtime_does_what_else_a_run_does() {
    let _alone = CONTAINERS.lock().unwrap_or_else(PoisonError::into_inner);
    let Some((world, image)) = shell() else { return };
    let data = world.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("file"), "of the host\n").unwrap();
    let bound = format!("{}:/data:ro,nosuid,noexec", data.display());
    let runtimes = runtimes();
    const GROUPS: &str = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory/memory.memsw.limit_in_bytes \
        /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu/cpu.shares \
        /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max /sys/fs/cgroup/cpu.max 2>/dev/null; \
        mkdir /sys/fs/cgroup/x /sys/fs/cgroup/memory/x 2>/dev/null; ls -d /sys/fs/cgroup/memory/x 2>/dev/null || echo read-only";
    // Which options a mount has, in whatever order, without those about times.
    const OPTIONS: &str = "for m in /data /t /dev/shm; do grep \" $m \" /proc/self/mountinfo | cut -d' ' -f6 | tr , '\\n' | sort | \
        grep -v time; stat -c '%n %a %u %g' $m; df -k $m | tail -n 1 | tr -s ' ' | cut -d' ' -f2; done; touch /t/x /data/x 2>&1";
    for (flags, look, part) in [
        (
            &["--ulimit", "nofile=100:200", "--ulimit", "core=-1"][..],
            "ulimit -n; ulimit -Hn; ulimit -c",
            "100\n200\nunlimited",
        ),
        (&["-m", "64m", "--pids-limit", "20", "--cpus", "0.5", "--cpu-shares", "512"], GROUPS, "67108864\n"),
        (&["-m", "64m", "--memory-swap", "-1"], GROUPS, "67108864\n"),
        (&["-u", "0", "--group-add", "42", "--group-add", "guest"], "id; grep Groups /proc/self/status", "42"),
        (&["-u", "7:8", "--group-add", "9"], "id -G; grep Groups /proc/self/status", "8 9"),
        (
            &["-h", "box", "--add-host", "db:10.0.0.5", "--dns", "1.2.3.4", "--dns-search", "a.example"],
            "cat /etc/hosts /etc/resolv.conf",
            "10.0.0.5\tdb",
        ),
        (
            &["-h", "box", "--network", "none"],
            "ls /sys/class/net; cat /sys/class/net/lo/flags /etc/hosts; grep -c : /proc/net/dev",
            "lo\n0x9",
        ),
        (
            &["-u", "0", "-v", &bound, "--tmpfs", "/t:size=1m,mode=1770,uid=5,gid=6,exec", "--shm-size", "2m"],
            OPTIONS,
            "/t 1770 5 6",
        ),
        (&["-u", "0", "-v", &bound, "--tmpfs", "/t:ro", "--read-only", "-w", "/none/such"], OPTIONS, "/t 1777 0 0"),
        (
            &["-u", "0", "--mount", "type=tmpfs,dst=/etc/x/y", "-v", &bound, "--tmpfs", "/etc/x"],
            "cut -d' ' -f5 /proc/self/mountinfo | grep /etc/x | sort; pwd",
            "/etc/x\n/etc/x/y\n",
        ),
        (
            &["-u", "0", "--device", "/dev/fuse", "--device", "/dev/zero:/dev/a/b", "--device", "/dev/full:/full"],
            "stat -c '%n %t %T %a' /dev/fuse /dev/a/b /full; head -c 2 /dev/a/b | wc -c; echo x 2>&1 > /full; : < /dev/fuse && echo opened",
            "opened",
        ),
    ] {
        let run = |runtime: &[&str]| {
            let mut command = world.layermount();
            command.arg("run").args(runtime).args(flags).args([&image, look]);
            let output = ended(command);
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
        };
        let ours = run(&[]);
        assert!(ours.contains(part), "{flags:?}: {ours}");
        for runtime in &runtimes {
            assert_eq!(run(&["--runtime", runtime]), ours, "{runtime} {flags:?}");
        }
    }
}

/// In a tree that cannot be written to, an image's volumes can.
#[test]
fn volumes_of_images_are_fresh() {
    let _alone = CONTAINERS.lock().unwrap_or_else(PoisonError::into_inner);
    let Some((world, image)) = shell() else { return };
    if program("umoci").is_none() {
        return;
    }
    let layout = image.strip_prefix("oci:").unwrap();
    let mut umoci = Command::new("umoci");
    umoci.args(["config", "--image", layout, "--tag", "volumes"]);
    umoci.args(["--config.volume", "/etc", "--config.volume", "/none/such", "--config.user", "0"]);
    printed(&ended(umoci));
    let image = format!("{}volumes", image.strip_suffix("shell").unwrap());
    let look = "stat -c '%n %a %u %g' /etc /etc/passwd /none/such; touch /etc/new /none/such/new && ls /etc /none/such; touch /x 2>&1; \
        grep -E '/etc |/none' /proc/self/mountinfo | cut -d' ' -f5,6";
    let run = |runtime: &[&str]| {
        let mut command = world.layermount();
        command.arg("run").args(runtime).args(["--read-only", &image, look]);
        ended(command)
    };
    let ours = run(&[]);
    let text = String::from_utf8_lossy(&ours.stdout);
    assert!(text.contains("/none/such 755 0 0") && text.contains("new\n") && text.contains("Read-only"), "{ours:?}");
    for runtime in runtimes() {
        assert_eq!(run(&["--runtime", runtime]).stdout, ours.stdout, "{runtime}");
    }
}

/// In a network that is there already.
#[test]
fn a_runtime_joins_networks() {
    let _alone = CONTAINERS.lock().unwrap_or_else(PoisonError::into_inner);
    let Some((world, image)) = shell() else { return };
    if program("unshare").is_none() {
        return;
    }
    let mut other = Command::new("unshare");
    other.args(["--net", "sh", "-c", "echo up; exec sleep 1000"]).stdout(Stdio::piped());
    let mut other = other.spawn().unwrap();
    BufReader::new(other.stdout.as_mut().unwrap()).read_line(&mut String::new()).unwrap();
    let path = format!("/proc/{}/ns/net", other.id());
    let namespace = std::fs::read_link(&path).unwrap();
    let mut said = Vec::new();
    for network in [format!("ns:{path}"), format!("container:{}", other.id())] {
        for runtime in runtimes() {
            let mut command = world.layermount();
            command.args(["run", "--runtime", runtime, "--network", &network, &image]);
            command.arg("readlink /proc/self/ns/net; ls /sys/class/net");
            said.push(ended(command));
        }
    }
    other.kill().unwrap();
    other.wait().unwrap();
    for output in said {
        assert_eq!(printed(&output), format!("{}\nlo\n", namespace.display()));
    }
}

#[test]
fn what_a_runtime_cannot_do_is_refused() {
    let Some((world, image)) = shell() else { return };
    for (flags, part) in [
        (&["-t"][..], "with --runtime there is no -t"),
        (&["--init"], "with --runtime there is no --init"),
        (&["--pidfile", "p"], "with --runtime there is no --pidfile"),
        (&["--cidfile", "c"], "with --runtime there is no --cidfile"),
        (&["-p", "8080:80"], "with --runtime there is no -p and --network pasta"),
        (&["--network", "pasta"], "with --runtime there is no -p and --network pasta"),
        (&["--listen", "unix:s"], "with --runtime there is no --listen"),
    ] {
        let mut command = world.layermount();
        command.current_dir(world.path()).args(["run", "--runtime", "crun"]).args(flags).args([&image, "true"]);
        let said = Said::of(&ended(command));
        said.assert(125, &[part, "leave out --runtime"]);
    }
    for file in ["p", "c", "s"] {
        assert!(!world.path().join(file).exists(), "{file}");
    }
}

#[test]
fn the_specification_knows_every_word() {
    let Some((world, image)) = shell() else { return };
    const MUCH: &[&str] = &[
        "-t",
        "-m",
        "64m",
        "--cpus",
        "0.5",
        "--cpu-shares",
        "512",
        "--pids-limit",
        "20",
        "--ulimit",
        "nofile=1:2",
        "--stop-signal",
        "QUIT",
        "--network",
        "none",
        "--device",
        "/dev/fuse",
        "--tmpfs",
        "/t:size=1m",
        "--cgroup-parent",
        "/layermount-test",
        "--group-add",
        "5",
    ];
    for flags in [&[][..], &["-u", "0", "--privileged"], &["--read-only", "--uts", "host", "-v", "/etc:/data:ro"], MUCH]
    {
        let directory = world.path().join("bundle");
        let mut command = world.layermount();
        command.arg("bundle").args(flags).arg(&image).arg(&directory);
        printed(&ended(command));
        let text = std::fs::read_to_string(directory.join("config.json")).unwrap();
        let read: oci_spec::runtime::Spec = serde_json::from_str(&text).unwrap();
        let (ours, theirs): (serde_json::Value, _) =
            (serde_json::from_str(&text).unwrap(), serde_json::to_value(&read).unwrap());
        assert_contains(&theirs, &ours, "");
        let much = flags == MUCH;
        assert_eq!(ours["process"]["terminal"], much);
        let signal = ours.get("annotations").map(|annotations| &annotations["org.opencontainers.image.stopSignal"]);
        assert_eq!(signal.and_then(|signal| signal.as_str()), much.then_some("SIGQUIT"));
        let cgroup = ours["linux"].get("cgroupsPath").and_then(|path| path.as_str()).unwrap_or_default();
        assert_eq!(cgroup.starts_with("/layermount-test/layermount-bundle-"), much, "{cgroup}");
        world.output(&["umount", directory.join("rootfs").to_str().unwrap()]);
        std::fs::remove_dir_all(&directory).unwrap();
    }
}

/// All that is said by one is said by the other. Capabilities are a set there.
fn assert_contains(theirs: &serde_json::Value, ours: &serde_json::Value, at: &str) {
    use serde_json::Value;
    match (theirs, ours) {
        // What is empty is left out there.
        (Value::Null, Value::Array(array)) if array.is_empty() => {}
        (Value::Object(theirs), Value::Object(ours)) => {
            for (name, value) in ours {
                assert_contains(theirs.get(name).unwrap_or(&Value::Null), value, &format!("{at}.{name}"));
            }
        }
        (Value::Array(theirs), Value::Array(ours)) if at.contains("capabilities") => {
            assert_eq!(theirs.len(), ours.len(), "{at}");
            assert!(ours.iter().all(|name| theirs.contains(name)), "{at}: {ours:?}");
        }
        (Value::Array(theirs), Value::Array(ours)) => {
            assert_eq!(theirs.len(), ours.len(), "{at}");
            theirs.iter().zip(ours).for_each(|(theirs, ours)| assert_contains(theirs, ours, &format!("{at}[]")));
        }
        _ => assert_eq!(theirs, ours, "{at}"),
    }
}

#[test]
fn what_cannot_be_a_bundle_leaves_nothing() {
    let Some((world, image)) = shell() else { return };
    let directory = world.path().join("bundle");
    let shown = directory.to_str().unwrap();
    let said = |arguments: &[&OsStr]| {
        let mut command = world.layermount();
        Said::of(&ended(std::mem::replace(command.arg("bundle").args(arguments), Command::new("true"))))
    };
    fn os(word: &str) -> &OsStr {
        OsStr::new(word)
    }
    let (image, dir) = (os(&image), directory.as_os_str());
    for (arguments, status, part) in [
        (vec![os("-u"), os("nobody-here"), image, dir], 1, "the image has no user \"nobody-here\""),
        (vec![os("--entrypoint"), os("nothing"), image, dir], 1, "program \"nothing\" not found in the image"),
        (vec![image, dir, os("--"), OsStr::from_bytes(b"\xff")], 1, "is not UTF-8"),
        (vec![os("-v"), os("/no/such:/x"), image, dir], 1, "cannot use the volume /no/such"),
        (vec![os("--pin"), image, dir], 2, "--pin is about a program that runs"),
        (vec![os("--runtime"), os("crun"), image, dir], 2, "--runtime is about a program that runs"),
        (vec![os("--pidfile"), os("p"), image, dir], 2, "--pidfile is about a program that runs"),
        (vec![os("--listen"), os("unix:s"), image, dir], 2, "--listen is about a program that runs"),
        (vec![os("--init"), image, dir], 1, "a bundle cannot have an init"),
        (vec![os("--group-add"), os("nobody-here"), image, dir], 1, "nobody-here"),
        (vec![os("-D"), os("/no/such"), dir], 1, "/no/such"),
        (vec![image], 2, "name an image and a directory for the bundle"),
        (vec![os("--nonsense"), image, dir], 2, "unexpected argument '--nonsense'"),
    ] {
        let said = said(&arguments);
        said.assert(status, &[part]);
        assert!(said.stderr.starts_with("layermount: ") && !said.stderr.contains("panicked"), "{}", said.stderr);
        assert!(!directory.exists(), "{arguments:?}");
    }
    // What somebody has there stays.
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("mine"), "x").unwrap();
    said(&[image, dir]).assert(1, &["is not empty", "name a directory that does not exist yet"]);
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1);
    // An empty one will do, and is not removed by a failure.
    std::fs::remove_file(directory.join("mine")).unwrap();
    said(&[os("-u"), os("nobody-here"), image, dir]).assert(1, &["no user"]);
    assert!(directory.exists());
    said(&[image, dir]).assert(0, &[]);
    said(&[image, dir]).assert(1, &["is not empty"]);
    world.output(&["umount", shown]);
}

#[test]
fn an_ordinary_user_is_told_what_to_do() {
    let Some(person) = Person::find() else { return };
    let Some((world, image)) = shell() else { return };
    let mut command = Command::new("setpriv");
    let ids = [format!("--reuid={}", person.uid), format!("--regid={}", person.gid)];
    command.args(ids).args(["--clear-groups", assert_cmd::cargo::cargo_bin!("layermount").to_str().unwrap()]);
    command.args(["bundle", &image]).arg(world.path().join("bundle"));
    Said::of(&ended(command)).assert(1, &["only root can leave a bundle behind", "layermount run --runtime crun"]);
}

/// `run --runtime`, which has printed a line.
fn start(world: &World, image: &str, runtime: &str, flags: &[&str], script: &str) -> Child {
    let mut command = world.layermount();
    command.args(["run", "--runtime", runtime]).args(flags).args([image, script]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    child
}

/// Processes of the image, and control groups that are called like containers of layermount.
fn left(world: &World) -> Vec<String> {
    let mark = world.mark();
    let is_ours = |process: &Path| {
        let read = |name: &str| std::fs::read(process.join(name)).unwrap_or_default();
        read("environ").split(|byte| *byte == 0).any(|word| word == mark.as_bytes())
            || String::from_utf8_lossy(&read("mountinfo")).contains(world.path().to_str().unwrap())
    };
    let processes = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let mut left: Vec<String> = processes
        .filter(|path| path.file_name().unwrap().as_bytes()[0].is_ascii_digit())
        .filter(|path| !path.ends_with(std::process::id().to_string()) && is_ours(path))
        .map(|path| String::from_utf8_lossy(&std::fs::read(path.join("cmdline")).unwrap_or_default()).into_owned())
        .collect();
    // What is in place of version 2 shows that crun does not tell it from a directory.
    let groups = std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
    let groups = groups.filter(|path| !path.ends_with("unified"));
    for root in groups.chain(["/run/runc".into(), "/run/crun".into()]) {
        let mut directories = vec![root];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
                if entry.file_name().as_bytes().starts_with(b"layermount-") {
                    left.push(entry.path().display().to_string());
                } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) && directory.components().count() < 6 {
                    directories.push(entry.path());
                }
            }
        }
    }
    left
}

#[track_caller]
fn assert_nothing_left(world: &World, what: &str) {
    let since = Instant::now();
    loop {
        let left = left(world);
        if left.is_empty() {
            break;
        }
        assert!(since.elapsed() < Duration::from_secs(20), "{what}: {left:#?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_runtime_is_supervised() {
    let _alone = CONTAINERS.lock().unwrap_or_else(PoisonError::into_inner);
    let Some((world, image)) = shell() else { return };
    for runtime in runtimes() {
        let mut command = world.layermount();
        command.args(["run", "--runtime", runtime, &image, "cat; exit 7"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"through\n").unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), &output.stdout[..]), (Some(7), &b"through\n"[..]), "{runtime}");
        assert_nothing_left(&world, runtime);

        let sleep = "echo up; while :; do sleep 1; done";
        let handled = "trap 'exit 9' TERM; echo up; while :; do sleep 0.1; done";
        let real_time = "trap 'exit 11' 37; echo up; while :; do sleep 0.1; done";
        let deaf = "trap '' TERM; echo up; while :; do sleep 0.1; done";
        for (script, flags, signal, status) in [
            // The kernel drops it for process 1, and layermount does not.
            (sleep, &[][..], Signal::SIGTERM, Some(143)),
            (sleep, &["--pid", "host"], Signal::SIGINT, Some(130)),
            (handled, &[], Signal::SIGTERM, Some(9)),
            // What asks to end becomes the signal that ends it.
            (handled, &["--stop-signal", "KILL"], Signal::SIGTERM, Some(137)),
            (real_time, &["--stop-signal", "RTMIN+3"], Signal::SIGTERM, Some(11)),
            (deaf, &["--stop-timeout", "1"], Signal::SIGTERM, Some(137)),
            (sleep, &[], Signal::SIGKILL, None),
        ] {
            let mut child = start(&world, &image, runtime, flags, script);
            kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
            assert_eq!(child.wait().unwrap().code(), status, "{runtime} {flags:?} {signal}");
            assert_nothing_left(&world, &format!("{runtime} {signal}"));
        }
    }
}

#[test]
fn a_runtime_that_is_not_there_is_named() {
    let Some((world, image)) = shell() else { return };
    for runtime in ["no-such-runtime", "/no/such", "/etc"] {
        let mut command = world.layermount();
        command.args(["run", "--runtime", runtime, &image, "true"]);
        Said::of(&ended(command)).assert(125, &[&format!("there is no runtime {runtime}"), "leave out --runtime"]);
    }
    // It exists, and is no runtime: its own status, and nothing left.
    let mut command = world.layermount();
    command.args(["run", "--runtime", "/bin/false", &image, "true"]);
    assert_eq!(ended(command).status.code(), Some(1));
}

#[test]
fn an_ordinary_user_has_runtimes_too() {
    let _alone = CONTAINERS.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(person) = Person::find() else { return };
    if program("runc").is_none() {
        return;
    }
    private_mounts();
    let world = World::new();
    let Some(layout) = world.shell_layout() else { return };
    let own = world.path().join("own");
    std::fs::create_dir(&own).unwrap();
    let (uid, gid) = (person.uid, person.gid);
    nix::unistd::chown(&own, Some(nix::unistd::Uid::from_raw(uid)), Some(nix::unistd::Gid::from_raw(gid))).unwrap();
    let open = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
    std::fs::set_permissions(world.path(), open).unwrap();
    let image = format!("oci:{layout}:shell");
    let run = |runtime: &str, flags: &[&str], script: &str| {
        let mut command = Command::new("setpriv");
        let ids = [format!("--reuid={uid}"), format!("--regid={gid}")];
        command.args(ids).args(["--clear-groups", assert_cmd::cargo::cargo_bin!("layermount").to_str().unwrap()]);
        command.arg("--store").arg(&own).args(["run", "--runtime", runtime]).args(flags).args([&image, script]);
        ended(command)
    };
    let output = run("runc", &["-h", "box"], "id -u; hostname; pwd; grep Seccomp: /proc/self/status; exit 3");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(3), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(text, "1000\nbox\n/srv\nSeccomp:\t2\n");
    Said::of(&run("runc", &["-m", "64m"], "true")).assert(125, &["with --runtime there is no limit of memory"]);
    let flags = ["-u", "0", "--network", "none", "--group-add", "4", "--ulimit", "nofile=100", "--tmpfs", "/t"];
    for runtime in runtimes() {
        let output =
            run(runtime, &flags, "id -G; ulimit -n; ls /sys/class/net; cat /sys/class/net/lo/flags; touch /t/x; ls /t");
        assert_eq!(printed(&output), "0 4\n100\nlo\n0x9\nx\n", "{runtime}");
    }
}
