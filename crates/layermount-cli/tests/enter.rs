//! `layermount enter`: beside a program that runs.

#![allow(clippy::disallowed_methods, reason = "tests write to directories of their own")]

mod console;
mod world;

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use console::Console;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use world::person::Home;
use world::{World, docker, docker_host, root};

/// A program that runs for a while.
struct Running {
    layermount: Child,
    pid: String,
}

impl Running {
    fn start(mut command: Command, pidfile: &PathBuf) -> Self {
        let layermount = command.stdin(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while !pidfile.exists() {
            assert!(Instant::now() < deadline, "it does not start");
            std::thread::sleep(Duration::from_millis(5));
        }
        // With the end of its line, as a file has it.
        Self { layermount, pid: std::fs::read_to_string(pidfile).unwrap() }
    }

    /// What the namespaces and privileges of the program are, as those of whoever is beside it must be.
    fn place(&self) -> String {
        let pid = self.pid.trim();
        let names = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];
        let link = |name| std::fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
        let links = names.map(|name| format!("{}\n", link(name).display())).concat();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let wanted = |line: &&str| ["Cap", "NoNewPrivs:", "Seccomp:"].iter().any(|field| line.starts_with(field));
        links + &status.lines().filter(wanted).map(|line| format!("{line}\n")).collect::<String>()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.layermount.id() as i32), Signal::SIGTERM);
        let _ = self.layermount.wait();
    }
}

/// Prints what [`Running::place`] says.
const PLACE: &str = "for name in cgroup ipc mnt net pid user uts; do busybox readlink /proc/self/ns/$name; done; \
    busybox grep -E '^(Cap|NoNewPrivs:|Seccomp:)' /proc/self/status";

struct Stage {
    world: World,
    image: String,
}

impl Stage {
    fn new() -> Option<Self> {
        root()?;
        let world = World::new();
        let image = format!("oci:{}:shell", world.shell_layout()?);
        Some(Self { world, image })
    }

    fn start(&self, flags: &[&str]) -> Running {
        let pidfile = self.world.path().join("pid");
        let mut command = self.world.layermount();
        command.args(["run", "--pidfile", pidfile.to_str().unwrap()]).args(flags);
        command.args([&self.image, "exec busybox sleep 100"]);
        Running::start(command, &pidfile)
    }

    fn enter(&self, flags: &[&str], running: &Running, words: &[&str]) -> Output {
        let mut command = self.world.layermount();
        command.arg("enter").args(flags).arg(&running.pid).args(words).stdin(Stdio::null()).output().unwrap()
    }

    #[track_caller]
    fn prints(&self, flags: &[&str], running: &Running, script: &str) -> String {
        let Output { status, stdout, stderr } = self.enter(flags, running, &["--", "sh", "-c", script]);
        assert_eq!(status.code(), Some(0), "{}", String::from_utf8_lossy(&stderr));
        String::from_utf8(stdout).unwrap()
    }
}

#[test]
fn who_enters_is_where_the_program_is_and_may_do_no_more() {
    let Some(stage) = Stage::new() else { return };
    for flags in [
        &[][..],
        &["-u", "0"],
        &["-u", "0", "--cap-drop", "ALL", "--cap-add", "CHOWN"],
        &["--security-opt", "seccomp=unconfined", "--security-opt", "no-new-privileges"],
        &["-u", "0", "--privileged"],
        &["--init"],
        &["--pid", "host", "--ipc", "host", "--uts", "host"],
    ] {
        let running = stage.start(flags);
        assert_eq!(stage.prints(&[], &running, PLACE), running.place(), "{flags:?}");
    }
}

#[test]
fn the_environment_is_the_programs() {
    let Some(stage) = Stage::new() else { return };
    let running = stage.start(&["-e", "A=of the run", "-e", "B=too", "-w", "/etc"]);
    let script = "echo $A,$B,$GREETING,$OUTSIDE; pwd; busybox id; busybox hostname";
    let mut command = stage.world.layermount();
    command.args(["enter", "-e", "B=mine", "-e", "OUTSIDE", &running.pid, "sh", "-c", script]);
    let output = command.env("OUTSIDE", "out").stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines[..3], ["of the run,mine,hello,out", "/etc", "uid=1000(guest) gid=1000(guest)"]);
    assert_eq!(lines[3].len(), 12);
    assert_eq!(stage.prints(&["-u", "0", "-w", "/"], &running, "busybox id -u; pwd"), "0\n/\n");
    // Root again, and no more than root of the image.
    let said = stage.prints(&["-u", "root"], &running, "busybox grep CapEff /proc/self/status");
    assert_eq!(said.trim(), "CapEff:\t00000000a80425fb");
    assert_eq!(stage.enter(&[], &running, &["sh", "-c", "exit 7"]).status.code(), Some(7));
    assert_eq!(stage.enter(&[], &running, &["sh", "-c", "kill -KILL $$"]).status.code(), Some(137));
    assert_eq!(stage.enter(&[], &running, &["nothing"]).status.code(), Some(127));
    assert_eq!(stage.enter(&[], &running, &["/etc/motd"]).status.code(), Some(126));
    let open = "busybox ls -l /proc/self/fd | busybox sed -n 's/.*[0-9] -> //p'; :";
    let open = stage.prints(&[], &running, open);
    assert_eq!(open.lines().filter(|line| !line.starts_with("pipe:")).collect::<Vec<_>>(), ["/dev/null"]);
    assert_eq!(stage.prints(&[], &running, "busybox tr '\\0' ' ' </proc/1/cmdline"), "busybox sleep 100 ");
}

#[test]
fn a_terminal_is_one_of_the_images() {
    let Some(stage) = Stage::new() else { return };
    let running = stage.start(&[]);
    let mut command = stage.world.layermount();
    command.args([
        "enter",
        "-it",
        &running.pid,
        "sh",
        "-c",
        "busybox tty; busybox stty size; read word; echo got $word; exit 5",
    ]);
    let mut console = Console::start(&command, (22, 77));
    console.wait_for("/dev/pts/0\r\n22 77\r\n");
    console.enter("it\r");
    let (code, said) = console.end();
    assert!(said.ends_with("got it\r\n"), "{said}");
    assert_eq!(code, Some(5));
}

#[test]
fn what_cannot_be_entered_is_explained() {
    let Some(stage) = Stage::new() else { return };
    let refused = |process: &str, says: &str| {
        let output = stage.world.layermount().args(["enter", process, "sh"]).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(125), "{stderr}");
        assert!(stderr.contains(says), "{says:?} is not in: {stderr}");
    };
    refused("4194305", "there is no process 4194305");
    refused("99999999999", "is not a process ID");
    refused("x", "is not a process ID");
    refused("0", "there is no process 0");
    refused(&std::process::id().to_string(), "is not inside an image");
    let output = stage.world.layermount().args(["enter", "1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    let running = stage.start(&[]);
    let Some(home) = Home::new() else { return };
    home.layermount(&[], &["enter", running.pid.trim(), "sh"])
        .assert(125, &["cannot look into process", "EACCES", "hint: root may"]);
}

#[test]
fn ordinary_users_enter_what_they_run() {
    let Some(home) = Home::new() else { return };
    let Some(image) = home.several() else { return };
    home.layermount(&[], &["pull", &image]).assert(0, &[]);
    for flags in [&[][..], &["-u", "guest"], &["--userns", "keep-id"], &["--init"], &["--init", "--userns", "keep-id"]]
    {
        let pidfile = home.path("pid");
        let words =
            [&["run", "--pidfile", pidfile.to_str().unwrap()], flags, &[&image, "exec busybox sleep 100"]].concat();
        let running = Running::start(home.command(&[], &words), &pidfile);
        let ids = "busybox id -u; busybox id -G; ";
        let said = home.prints(&["enter", running.pid.trim(), "sh", "-c", &[ids, PLACE].concat()]);
        let (who, place) =
            said.split_once("\ncgroup").map(|(who, place)| (who.to_owned(), format!("cgroup{place}"))).unwrap();
        assert_eq!(place, running.place(), "{flags:?}");
        let expected = match flags {
            _ if flags.contains(&"keep-id") => format!("{0}\n{1}", home.person.uid, home.person.gid),
            ["-u", _] => "1000\n1000 42".to_owned(),
            _ => "0\n0".to_owned(),
        };
        assert_eq!(who, expected, "{flags:?}");
        // Its file goes with it.
        drop(running);
    }
}

/// Another engine's container is a process inside an image as well.
#[test]
fn who_enters_a_container_of_dockers_is_as_docker_exec_has_it() {
    let Some(host) = docker_host() else { return };
    let Some(stage) = Stage::new() else { return };
    let tree = stage.world.path().join("tree");
    stage.world.output(&["unpack", &stage.image, tree.to_str().unwrap()]);
    let tar = Command::new("tar").arg("-C").arg(&tree).args(["-c", "."]).output().unwrap();
    let file = stage.world.path().join("tree.tar");
    std::fs::write(&file, tar.stdout).unwrap();
    let image = "layermount-test-enter:latest";
    docker(&host, &["import", file.to_str().unwrap(), image]);
    let container =
        docker(&host, &["run", "-d", "--rm", "--net", "none", "-m", "64m", image, "/bin/busybox", "sleep", "100"]);
    let container = container.trim();
    let pid = docker(&host, &["inspect", "-f", "{{.State.Pid}}", container]);
    let script = format!(
        "{PLACE}; busybox cat /proc/self/cgroup; busybox env | busybox sort | busybox grep -vE '^(_|SHLVL)='; pwd"
    );
    let expected = docker(&host, &["exec", container, "/bin/busybox", "sh", "-c", &script]);
    let output = stage.world.layermount().args(["enter", &pid, "/bin/busybox", "sh", "-c", &script]).output().unwrap();
    docker(&host, &["kill", container]);
    docker(&host, &["rmi", "-f", image]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected, "{}", String::from_utf8_lossy(&output.stderr));
}
