//! `layermount run`: what the program sees, how it ends, and what is left of it.

#![allow(clippy::disallowed_methods, reason = "tests write to directories of their own")]

mod world;

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use world::{Backing, World, for_both_backings, host_mounts, root, wait_until};

for_both_backings! {
    the_image_says_what_runs_and_flags_change_it,
    variables_come_from_the_image_files_and_flags_in_this_order,
    exit_statuses_are_those_of_docker,
    changes_go_where_they_were_asked_to_go,
    a_second_user_of_an_upper_is_told_who_has_it,
    volumes_show_what_the_host_has,
    standard_input_is_the_programs,
    signals_reach_the_program_or_end_it,
    what_is_typed_arrives_once,
    what_nohup_ignores_stays_ignored,
    nothing_is_left_when_layermount_is_killed,
    another_architecture_is_warned_of_or_listed,
    verbose_tells_every_phase_and_json_is_readable,
}

fn run(world: &World, flags: &[&str], image: &str, words: &[&str]) -> Output {
    world.layermount().arg("run").args(flags).arg(image).args(words).stdin(Stdio::null()).output().unwrap()
}

/// What a script prints, which must succeed.
#[track_caller]
fn prints(world: &World, flags: &[&str], image: &str, script: &str) -> String {
    let Output { status, stdout, stderr } = run(world, flags, image, &[script]);
    assert_eq!(status.code(), Some(0), "{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

#[track_caller]
fn fails(world: &World, flags: &[&str], image: &str, words: &[&str], code: i32, says: &[&str]) {
    let Output { status, stderr, .. } = run(world, flags, image, words);
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(code), "{stderr}");
    for part in says {
        assert!(stderr.contains(part), "{part:?} is not in:\n{stderr}");
    }
}

fn the_image_says_what_runs_and_flags_change_it(backing: Backing) {
    let Some((world, image)) = World::with_shell_on(backing) else { return };
    let output = run(&world, &[], &image, &[]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "from the image\n");
    assert_eq!(
        prints(&world, &[], &image, "busybox id -un; pwd; echo $GREETING; cat /etc/motd 2>&1 || busybox cat /etc/motd")
            .lines()
            .collect::<Vec<_>>()[..3],
        ["guest", "/srv", "hello"]
    );
    assert_eq!(prints(&world, &["-u", "0", "-w", "/etc"], &image, "busybox id -u; pwd"), "0\n/etc\n");
    assert_eq!(prints(&world, &["-h", "box"], &image, "busybox hostname; busybox cat /etc/hostname"), "box\nbox\n");
    assert_eq!(prints(&world, &[], &image, "busybox hostname").trim().len(), 12);
    assert_eq!(prints(&world, &[], &image, "busybox cat /etc/motd; echo $$"), "second\n1\n");
    let output = run(&world, &["--entrypoint", "busybox"], &image, &["echo", "-n", "x"]);
    assert_eq!(output.stdout, b"x");
    let output = run(&world, &["--entrypoint", ""], &image, &["--", "busybox", "echo", "--"]);
    assert_eq!(output.stdout, b"--\n");
}

fn variables_come_from_the_image_files_and_flags_in_this_order(backing: Backing) {
    let Some((world, image)) = World::with_shell_on(backing) else { return };
    let mut file = tempfile::NamedTempFile::new_in(world.path()).unwrap();
    file.write_all(b"# comment\nGREETING=file\nFILE=1\nABSENT\n").unwrap();
    let path = file.path().to_str().unwrap();
    let mut command = world.layermount();
    command.args([
        "run",
        "--env-file",
        path,
        "-e",
        "GREETING=flag",
        "-e",
        "OUTSIDE",
        "-e",
        "ABSENT",
        &image,
        "busybox env",
    ]);
    let output = command.env("OUTSIDE", "inherited").env("UNASKED", "leaks").env_remove("ABSENT").output().unwrap();
    let environment = String::from_utf8(output.stdout).unwrap();
    for line in ["GREETING=flag", "FILE=1", "OUTSIDE=inherited", "PATH=/bin", "HOME=/home"] {
        assert!(environment.lines().any(|found| found == line), "{line} in\n{environment}");
    }
    for name in ["UNASKED", "ABSENT", "LAYERMOUNT", "TERM"] {
        assert!(!environment.contains(name), "{name} in\n{environment}");
    }
}

fn exit_statuses_are_those_of_docker(backing: Backing) {
    let Some((world, image)) = World::with_shell_on(backing) else { return };
    assert_eq!(run(&world, &[], &image, &["exit 7"]).status.code(), Some(7));
    assert_eq!(run(&world, &["--pid", "host"], &image, &["kill -KILL $$"]).status.code(), Some(137));
    fails(&world, &["--entrypoint", "nothing"], &image, &[], 127, &["nothing"]);
    fails(&world, &["--entrypoint", "echo hello"], &image, &[], 127, &["sh -c"]);
    fails(&world, &["--entrypoint", "/etc/motd"], &image, &[], 126, &["/etc/motd", "EACCES", "hint: "]);
    fails(&world, &["--entrypoint", "lost"], &image, &[], 126, &["interpreter"]);
    fails(&world, &["-u", "stranger"], &image, &[], 125, &["stranger", "/etc/passwd"]);
    fails(&world, &["--uts", "host", "-h", "x"], &image, &[], 125, &["uts"]);
    fails(&world, &["-v", "/no/such:/x"], &image, &[], 125, &["cannot use the volume /no/such"]);
    fails(&world, &["--store", "/dev/null/x"], &image, &[], 125, &["cannot use the store at /dev/null/x"]);
    fails(&world, &["--backing", "zip"], &image, &[], 125, &["zip", "--backing", "auto, dir"]);
    assert!(world.processes_in_store().is_empty());
}

fn changes_go_where_they_were_asked_to_go(backing: Backing) {
    let Some((world, image)) = World::with_shell_on(backing) else { return };
    let before = world.output(&["pull", &image]);
    assert!(before.contains("3 unpacked now"), "{before}");
    prints(&world, &["-u", "0"], &image, "echo mine >/etc/motd; busybox rm /etc/group; busybox mkdir -p /a/b");
    assert_eq!(
        prints(&world, &[], &image, "busybox cat /etc/motd; busybox test -e /etc/group; echo $?"),
        "second\n0\n"
    );
    let upper = world.path().join("upper");
    let keep = ["-u", "0", "--upper", upper.to_str().unwrap()];
    prints(&world, &keep, &image, "echo mine >/etc/motd; busybox rm /etc/group");
    assert_eq!(
        prints(&world, &keep, &image, "busybox cat /etc/motd; busybox test -e /etc/group; echo $?"),
        "mine\n1\n"
    );
    fails(&world, &["-u", "0", "--read-only"], &image, &["echo x >/etc/motd"], 1, &["Read-only file system"]);
    fails(
        &world,
        &["-u", "0", "--upper-size", "1m"],
        &image,
        &["busybox dd if=/dev/zero of=/x bs=64k count=64"],
        1,
        &["No space"],
    );
    world.output(&["store", "verify"]);
}

fn a_second_user_of_an_upper_is_told_who_has_it(backing: Backing) {
    let Some((world, image)) = World::with_shell_on(backing) else { return };
    let upper = world.path().join("upper");
    let keep = ["--upper", upper.to_str().unwrap()];
    let first = Running::start(&world, &keep, &image, "echo ready; busybox sleep 100");
    fails(&world, &keep, &image, &["true"], 125, &["in use by", "process"]);
    first.end_with(Signal::SIGTERM);
    prints(&world, &keep, &image, "true");
}

fn volumes_show_what_the_host_has(backing: Backing) {
    let Some((world, image)) = World::with_shell_on(backing) else { return };
    let shared = world.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    let shown = |mode: &str| format!("{}:/data/deep{mode}", shared.display());
    prints(&world, &["-u", "0", "-v", &shown("")], &image, "echo inside >/data/deep/file");
    assert_eq!(std::fs::read_to_string(shared.join("file")).unwrap(), "inside\n");
    fails(
        &world,
        &["-u", "0", "-v", &shown(":ro")],
        &image,
        &["echo x >/data/deep/file"],
        1,
        &["Read-only file system"],
    );
    assert_eq!(std::fs::read_to_string(shared.join("file")).unwrap(), "inside\n");
}

fn standard_input_is_the_programs(backing: Backing) {
    let Some((world, image)) = World::with_shell_on(backing) else { return };
    let mut child = world
        .layermount()
        .args(["run", &image, "busybox cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"through").unwrap();
    assert_eq!(child.wait_with_output().unwrap().stdout, b"through");
}

/// For `env`: signals that are ignored where the tests run in the background stay ignored in layermount, as for `nohup`.
const DEFAULT_SIGNALS: &str = "--default-signal=INT,QUIT,HUP";

/// A script inside that has said its first word.
struct Running {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Running {
    fn start(world: &World, flags: &[&str], image: &str, script: &str) -> Self {
        let layermount = world.layermount();
        let mut command = Command::new("env");
        command.arg(DEFAULT_SIGNALS).arg(layermount.get_program()).args(layermount.get_args());
        world.choose_backing(&mut command);
        Self::spawn(command.arg("run").args(flags).args([image, script]))
    }

    fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self { child, output }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Sends the signal; the status and what was printed afterwards.
    #[track_caller]
    fn end_with(mut self, signal: Signal) -> (Option<i32>, String) {
        self.signal(signal);
        let deadline = Instant::now() + Duration::from_secs(10);
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > deadline {
                self.child.kill().unwrap();
                panic!("{signal} does not end it");
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        (status.code(), rest)
    }
}

fn signals_reach_the_program_or_end_it(backing: Backing) {
    let Some((world, image)) = World::with_shell_on(backing) else { return };
    for (signal, code) in [
        (Signal::SIGINT, 130),
        (Signal::SIGTERM, 143),
        (Signal::SIGHUP, 129),
        (Signal::SIGQUIT, 131),
        (Signal::SIGUSR1, 138),
    ] {
        let running = Running::start(&world, &[], &image, "echo ready; exec busybox sleep 100");
        // The shell has a handler for SIGINT until then.
        wait_until("the shell has become sleep", || {
            world.processes_in_store().contains(&"busybox\0sleep\x00100\0".to_owned())
        });
        assert_eq!(running.end_with(signal).0, Some(code), "{signal} to a program that does not handle it");
    }
    let script = "trap 'echo got it; exit 4' TERM; echo ready; while true; do busybox sleep 0.05; done";
    assert_eq!(Running::start(&world, &[], &image, script).end_with(Signal::SIGTERM), (Some(4), "got it\n".into()));
    let script = "trap '' TERM; echo ready; busybox sleep 0.5; exit 5";
    assert_eq!(Running::start(&world, &[], &image, script).end_with(Signal::SIGTERM).0, Some(5), "ignored");
    let running = Running::start(&world, &["--pid", "host"], &image, "echo ready; exec busybox sleep 100");
    assert_eq!(running.end_with(Signal::SIGTERM).0, Some(143), "without a pid namespace");
    let running = Running::start(&world, &[], &image, "echo ready; busybox sleep 0.3; exit 6");
    running.signal(Signal::SIGWINCH);
    assert_eq!(running.end_with(Signal::SIGCONT).0, Some(6), "harmless ones");
}

/// Runs a script on a terminal, made by script(1), and types when it has said `ready`.
fn type_at_terminal(world: &World, image: &str, script: &str, typed: &[u8]) -> (Option<i32>, String) {
    let layermount = world.layermount();
    let words: Vec<_> = std::iter::once(layermount.get_program()).chain(layermount.get_args()).collect();
    let words: Vec<_> = words.iter().map(|word| word.to_str().unwrap()).collect();
    let line = format!("exec env {DEFAULT_SIGNALS} {} run {image} '{script}'", words.join(" "));
    let mut terminal = Command::new("script");
    terminal.args(["--quiet", "--return", "--command", &line, "/dev/null"]).env("SHELL", "/bin/sh");
    let mut child = world.choose_backing(&mut terminal).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut said = String::new();
    while !said.contains("ready") {
        assert_ne!(output.read_line(&mut said).unwrap(), 0, "it ended: {said}");
    }
    child.stdin.as_mut().unwrap().write_all(typed).unwrap();
    output.read_to_string(&mut said).unwrap();
    (child.wait().unwrap().code(), said)
}

fn what_is_typed_arrives_once(backing: Backing) {
    let Some((world, image)) = World::with_shell_on(backing) else { return };
    let pause = "for i in 1 2 3 4 5 6; do busybox sleep 0.1; done";
    let script = format!(r#"trap "echo got it" INT; echo ready; {pause}; echo end; exit 3"#);
    let (code, said) = type_at_terminal(&world, &image, &script, b"\x03");
    assert_eq!((code, said.matches("got it").count(), said.contains("end")), (Some(3), 1, true), "{said}");
}

fn what_nohup_ignores_stays_ignored(backing: Backing) {
    let Some((world, image)) = World::with_shell_on(backing) else { return };
    let layermount = world.layermount();
    let mut command = Command::new("nohup");
    command.arg(layermount.get_program()).args(layermount.get_args()).args([
        "run",
        &image,
        "echo ready; busybox sleep 0.5; exit 3",
    ]);
    world.choose_backing(&mut command);
    assert_eq!(Running::spawn(command.stderr(Stdio::null())).end_with(Signal::SIGHUP).0, Some(3));
}

fn nothing_is_left_when_layermount_is_killed(backing: Backing) {
    let Some((world, image)) = World::with_shell_on(backing) else { return };
    let before = host_mounts();
    for flags in [&[][..], &["--pid", "host"]] {
        let running = Running::start(&world, flags, &image, "echo ready; exec busybox sleep 100");
        assert!(!world.processes_in_store().is_empty());
        running.end_with(Signal::SIGKILL);
        wait_until("the program is gone", || world.processes_in_store().is_empty());
    }
    assert_eq!(host_mounts(), before);
    // The kernel lets go of files that were mounted when it comes to it.
    wait_until("nobody has the layers", || {
        world.output(&["-q", "store", "prune", "--all"]);
        world.layer_inodes().is_empty()
    });
}

fn another_architecture_is_warned_of_or_listed(backing: Backing) {
    let Some(()) = root() else { return };
    let world = World::with_backing(backing);
    let Some(layout) = world.shell_layout_for("platform linux/s390x") else { return };
    let image = format!("oci:{layout}:shell");
    fails(&world, &[], &image, &["true"], 125, &["linux/s390x", "--platform"]);
    let output = run(&world, &["--platform", "linux/s390x"], &image, &["echo runs"]);
    assert_eq!(output.stdout, b"runs\n");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("warning: the image is for linux/s390x, this machine is"), "{stderr}");
}

fn verbose_tells_every_phase_and_json_is_readable(backing: Backing) {
    let Some((world, image)) = World::with_shell_on(backing) else { return };
    let phases = ["resolve", "layers", "mount", "start", "end"];
    let output = run(&world, &["--verbose"], &image, &["true"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    for phase in phases {
        assert!(stderr.contains(&format!("layermount: {phase}: ")), "{phase} in\n{stderr}");
    }
    assert_eq!(stderr.matches("unpacked layer").count(), 3);
    let output = run(&world, &["--verbose", "--log-format", "json"], &image, &["true"]);
    let lines = String::from_utf8(output.stderr).unwrap();
    let objects: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for phase in phases {
        assert!(objects.iter().any(|object| object["phase"] == phase && object["elapsed_ms"].is_number()), "{lines}");
    }
    assert_eq!(run(&world, &[], &image, &["true"]).stderr, b"", "nothing is said unasked");
}
