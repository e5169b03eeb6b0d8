//! How a program of `layermount run` is stopped, looked after and told of.

#![allow(clippy::disallowed_methods, reason = "tests write to directories of their own")]

mod world;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use world::{World, program, wait_until};

fn run(world: &World, flags: &[&str], image: &str, script: &str) -> Output {
    world.layermount().arg("run").args(flags).args([image, script]).stdin(Stdio::null()).output().unwrap()
}

#[track_caller]
fn prints(world: &World, flags: &[&str], image: &str, script: &str) -> String {
    let Output { status, stdout, stderr } = run(world, flags, image, script);
    assert_eq!(status.code(), Some(0), "{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

#[track_caller]
fn fails(world: &World, flags: &[&str], image: &str, says: &str) {
    let output = run(world, flags, image, "echo runs");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(125), &b""[..]), "{stderr}");
    assert!(stderr.contains(says), "{says:?} is not in:\n{stderr}");
}

/// A script that has said that it is ready.
struct Running {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Running {
    fn start(world: &World, flags: &[&str], image: &str, script: &str) -> Self {
        let layermount = world.layermount();
        // Signals that are ignored where the tests run in the background stay ignored, as for `nohup`.
        let mut command = Command::new("env");
        command.arg("--default-signal=INT,QUIT,HUP").arg(layermount.get_program()).args(layermount.get_args());
        command.arg("run").args(flags).args([image, script]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self { child, output }
    }

    /// Sends the signal; the status and what was printed afterwards.
    #[track_caller]
    fn end_with(mut self, signal: Signal) -> (Option<i32>, String) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
        let mut rest = String::new();
        let since = Instant::now();
        self.output.read_to_string(&mut rest).unwrap();
        assert!(since.elapsed() < Duration::from_secs(20), "{signal} does not end it");
        (self.child.wait().unwrap().code(), rest)
    }
}

const LOOP: &str = "echo ready; while true; do busybox sleep 0.05; done";

#[test]
fn an_init_passes_signals_on_and_ends_as_the_program_does() {
    let Some((world, image)) = World::with_shell() else { return };
    assert_eq!(prints(&world, &["--init"], &image, "echo $$"), "2\n");
    assert_eq!(run(&world, &["--init"], &image, "exit 7").status.code(), Some(7));
    assert_eq!(run(&world, &["--init"], &image, "kill -KILL $$").status.code(), Some(137));
    for (program, code) in [("lost", 126), ("missing", 127)] {
        let output = run(&world, &["--init", "--entrypoint", program], &image, "x");
        assert_eq!(output.status.code(), Some(code), "{program}");
        // The child that fails ends without a word of its own.
        assert!(output.stderr.starts_with(b"layermount: "), "{program}: {output:?}");
    }
    let sleeps = "echo ready; exec busybox sleep 100";
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143), (Signal::SIGUSR1, 138)] {
        let running = Running::start(&world, &["--init"], &image, sleeps);
        wait_until("the shell has become sleep", || {
            world.processes_in_store().contains(&"busybox\0sleep\x00100\0".to_owned())
        });
        assert_eq!(running.end_with(signal).0, Some(code), "{signal}");
    }
    let script = format!("trap 'echo got it; exit 4' TERM; {LOOP}");
    assert_eq!(
        Running::start(&world, &["--init"], &image, &script).end_with(Signal::SIGTERM),
        (Some(4), "got it\n".into())
    );
    let running = Running::start(&world, &["--init"], &image, sleeps);
    running.end_with(Signal::SIGKILL);
    wait_until("the program is gone", || world.processes_in_store().is_empty());
    fails(&world, &["--init", "--pid", "host"], &image, "pid namespace");
}

#[test]
fn an_init_reaps_orphans_and_shows_nothing_of_the_host() {
    let Some((world, image)) = World::with_shell() else { return };
    let orphans = "for i in 1 2 3; do (busybox sleep 0.1 &); done; busybox sleep 0.5; \
        busybox grep -l '^State:.Z' /proc/[0-9]*/status; echo end";
    assert_eq!(prints(&world, &["--init"], &image, orphans), "end\n");
    let script = "busybox cat /proc/1/comm; busybox tr -d '\\0' </proc/1/cmdline; echo; busybox ls /proc/1/fd /proc/1/exe 2>&1; \
        busybox cat /proc/1/environ 2>&1; busybox grep -E 'Cap|Seccomp:|NoNewPrivs|Uid' /proc/1/status; echo; \
        busybox grep -E 'Cap|Seccomp:|NoNewPrivs|Uid' /proc/self/status";
    for user in ["guest", "0"] {
        let said = prints(&world, &["--init", "-u", user], &image, script);
        assert!(said.starts_with("layermount-init\nlayermount-init\n"), "{said}");
        // Root may list the descriptors, of which there are none.
        let refused = if user == "0" { 2 } else { 3 };
        assert_eq!(said.matches("Permission denied").count(), refused, "{said}");
        assert!(user != "0" || said.contains("/proc/1/fd:\ncat: "), "{said}");
        let (init, program) = said.rsplit_once("\n\n").unwrap();
        assert!(init.ends_with(program.trim_end()), "{said}");
    }
    let resident = "busybox awk '/RssAnon/ {print $2}' /proc/1/status";
    let kilobytes: u64 = prints(&world, &["--init"], &image, resident).trim().parse().unwrap();
    assert!(kilobytes < 4096, "{kilobytes}");
}

#[test]
fn no_program_runs_before_its_init_is_confined() {
    let Some((world, image)) = World::with_shell() else { return };
    if program("strace").is_none() {
        return;
    }
    let layermount = world.layermount();
    let mut command = Command::new("strace");
    // What the init alone calls takes a while.
    command.args(["-f", "-o", "/dev/null", "-e", "trace=setpgid", "-e", "inject=setpgid:delay_enter=500ms"]);
    command.arg(layermount.get_program()).args(layermount.get_args());
    let look = "busybox grep -E 'CapPrm|Seccomp:' /proc/1/status";
    let output = command.args(["run", "--init", "-u", "0", &image, look]).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said, "CapPrm:\t00000000a80425fb\nSeccomp:\t2\n", "{output:?}");
}

#[test]
fn an_init_ends_with_its_program_whatever_the_filter_refuses() {
    let Some((world, image)) = World::with_shell() else { return };
    let filter = world.path().join("filter.json");
    let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["rt_sigtimedwait"], "action": "SCMP_ACT_ERRNO"}]}"#;
    std::fs::write(&filter, text).unwrap();
    let option = format!("seccomp={}", filter.display());
    assert_eq!(run(&world, &["--init", "--security-opt", &option], &image, "exit 7").status.code(), Some(7));
}

#[test]
fn an_init_holds_no_pipe_open() {
    let Some((world, image)) = World::with_shell() else { return };
    let mut running = Running::start(&world, &["--init"], &image, "echo ready; exec >&- 2>&-; busybox sleep 3");
    let since = Instant::now();
    let mut rest = String::new();
    // layermount itself has no more of it than the pipe that it was given, so it is not read from here.
    let program = || {
        let is_number = |name: &std::ffi::OsStr| name.as_encoded_bytes().iter().all(u8::is_ascii_digit);
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let processes = processes.filter(|process| is_number(&process.file_name()));
        let pipe = std::fs::read_link(format!("/proc/{}/fd/1", running.child.id())).unwrap();
        processes
            .filter(|process| {
                let open = std::fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
                open.filter_map(|fd| std::fs::read_link(fd.path()).ok()).any(|link| link == pipe)
            })
            .count()
    };
    // The test and layermount.
    wait_until("the pipe is theirs alone", || program() == 2);
    assert!(since.elapsed() < Duration::from_secs(2));
    running.output.read_to_string(&mut rest).unwrap();
    running.child.wait().unwrap();
}

#[test]
fn the_image_or_a_flag_says_what_sigterm_becomes() {
    let script = format!("trap 'echo usr1; exit 3' USR1; trap 'echo rt; exit 4' 37; {LOOP}");
    let Some((world, image)) = World::with_shell_and("stopsignal SIGUSR1") else { return };
    for flags in [&[][..], &["--init"]] {
        assert_eq!(
            Running::start(&world, flags, &image, &script).end_with(Signal::SIGTERM),
            (Some(3), "usr1\n".into())
        );
    }
    let rt = Running::start(&world, &["--stop-signal", "RTMIN+3"], &image, &script);
    assert_eq!(rt.end_with(Signal::SIGTERM), (Some(4), "rt\n".into()));
    // What is not handled ends the program all the same.
    let running = Running::start(&world, &[], &image, &format!("trap '' TERM; {LOOP}"));
    assert_eq!(running.end_with(Signal::SIGTERM).0, Some(138));
    let Some((world, image)) = World::with_shell_and("stopsignal SIGNONSENSE") else { return };
    fails(&world, &[], &image, "\"SIGNONSENSE\", which the image wants to be stopped by, is not a signal");
    assert_eq!(prints(&world, &["--stop-signal", "15"], &image, "echo runs"), "runs\n");
    fails(&world, &["--stop-signal", "nonsense"], &image, "nonsense");
}

#[test]
fn patience_ends() {
    let Some((world, image)) = World::with_shell() else { return };
    let stubborn = format!("trap '' TERM; {LOOP}");
    for flags in [&["--stop-timeout", "1"][..], &["--stop-timeout", "1", "--init"], &["--stop-timeout", "0"]] {
        let since = Instant::now();
        assert_eq!(
            Running::start(&world, flags, &image, &stubborn).end_with(Signal::SIGTERM).0,
            Some(137),
            "{flags:?}"
        );
        assert!(since.elapsed() < Duration::from_secs(10));
    }
    let gives_in = "trap '' TERM; echo ready; busybox sleep 1.5; exit 6";
    let running = Running::start(&world, &["--stop-timeout", "-1"], &image, gives_in);
    assert_eq!(running.end_with(Signal::SIGTERM).0, Some(6));
}

#[test]
fn files_tell_of_a_run() {
    let Some((world, image)) = World::with_shell() else { return };
    let (pidfile, cidfile) = (world.path().join("pid"), world.path().join("cid"));
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    let flags = ["--pidfile", pidfile.to_str().unwrap(), "--cidfile", cidfile.to_str().unwrap()];
    for init in [false, true] {
        let flags = [&flags[..], if init { &["--init"] } else { &[] }].concat();
        let running = Running::start(&world, &flags, &image, "echo ready; busybox hostname; exec busybox sleep 100");
        wait_until("the number is there", || pidfile.exists());
        let pid: i32 = read(&pidfile).strip_suffix('\n').unwrap().parse().unwrap();
        wait_until("it is the program's", || {
            std::fs::read(format!("/proc/{pid}/cmdline")).unwrap() == b"busybox\0sleep\x00100\0"
        });
        let id = read(&cidfile);
        assert!(id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
        fails(&world, &flags[..2], &image, "process ID file found");
        fails(
            &world,
            &flags[2..],
            &image,
            "container ID file found, make sure the other container isn't running or delete",
        );
        let (code, said) = running.end_with(Signal::SIGTERM);
        assert_eq!((code, said), (Some(143), format!("{}\n", &id[..12])));
        assert!(!pidfile.exists());
        assert_eq!(read(&cidfile), id, "as docker, it stays");
        std::fs::remove_file(&cidfile).unwrap();
    }
    let output = run(&world, &[&flags[..], &["-u", "stranger"]].concat(), &image, "true");
    assert_eq!(output.status.code(), Some(125));
    assert!(!pidfile.exists() && !cidfile.exists(), "nothing ran");
    prints(&world, &[&flags[..], &["-h", "named"]].concat(), &image, "busybox hostname");
    let names: Vec<_> = std::fs::read_dir(world.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| name == "cid" || name == "store" || name == "layout"), "{names:?}");
    fails(&world, &["--pidfile", "/no/such/directory"], &image, "cannot write /no/such/directory");
    assert!(world.processes_in_store().is_empty());
}

#[test]
fn layermount_may_end_with_its_parent() {
    let Some((world, image)) = World::with_shell() else { return };
    world.output(&["pull", &image]);
    for (flag, remains) in [("--die-with-parent", false), ("--rm", true)] {
        let inner = world.layermount();
        let mut parent = Command::new("sh");
        parent.args(["-c", "\"$@\" & wait", "sh"]).arg(inner.get_program()).args(inner.get_args());
        parent
            .args(["run", flag, &image, "echo ready; exec busybox sleep 5"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut parent = parent.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(parent.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        parent.kill().unwrap();
        parent.wait().unwrap();
        if remains {
            std::thread::sleep(Duration::from_millis(300));
            assert!(!world.processes_in_store().is_empty());
        }
        wait_until("nobody is there", || world.processes_in_store().is_empty());
    }
}
