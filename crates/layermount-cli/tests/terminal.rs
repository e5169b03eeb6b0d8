//! `layermount run -t`: a terminal inside, and what is typed outside.

#![allow(clippy::disallowed_methods, reason = "tests write to directories of their own")]

mod console;
mod world;

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

use console::Console;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use world::{World, wait_until};

fn run(world: &World, flags: &[&str], image: &str, script: &str) -> Command {
    let mut command = world.layermount();
    command.arg("run").args(flags).args([image, script]);
    command
}

#[test]
fn the_terminal_is_the_programs_own() {
    let Some((world, image)) = World::with_shell() else { return };
    let script = "busybox tty; busybox stty size; busybox stat -c %t:%T,%u,%a /dev/pts/0 /dev/console; echo $TERM; \
        busybox ls -1 /dev/pts; echo tty >/dev/tty; exit 9";
    for flags in [&["-it"][..], &["-t"], &["-it", "--init"], &["-it", "-u", "0"], &["-it", "--pid", "host"]] {
        let (code, said) = Console::start(&run(&world, flags, &image, script), (33, 101)).end();
        let user = if flags.contains(&"-u") { 0 } else { 1000 };
        // Where the outer terminal is not raw, it makes two characters of each end of a line once more.
        let lines: Vec<_> = said.lines().map(|line| line.trim_end_matches('\r')).collect();
        let device = format!("88:0,{user},620");
        assert_eq!(lines, ["/dev/pts/0", "33 101", &device, &device, "vt220", "0", "ptmx", "tty"], "{flags:?}");
        assert_eq!(code, Some(9));
    }
}

#[test]
fn a_new_size_reaches_the_program() {
    let Some((world, image)) = World::with_shell() else { return };
    let script = "trap 'busybox stty size' WINCH; echo ready; while true; do busybox sleep 0.1; done";
    for flags in [&["-it"][..], &["-it", "--init"]] {
        let mut console = Console::start(&run(&world, flags, &image, script), (20, 40));
        console.wait_for("ready");
        console.resize(55, 155);
        console.wait_for("55 155");
        assert!(console.is_raw());
        console.enter("\x03");
        assert_eq!(console.end().0, Some(130));
    }
}

#[test]
fn jobs_are_controlled_inside() {
    let Some((world, image)) = World::with_shell() else { return };
    for flags in [&["-it"][..], &["-it", "--init"]] {
        let mut console = Console::start(&run(&world, flags, &image, "exec busybox sh -i"), (24, 80));
        console.wait_for("$ ");
        console.enter("busybox sleep 50\r");
        console.wait_for("sleep 50\r\n");
        std::thread::sleep(Duration::from_millis(300));
        console.enter("\x1a");
        console.wait_for("Stopped");
        assert!(!console.is_stopped(), "it is the job that is stopped");
        console.enter("fg\r");
        console.wait_for("sleep 50\r\n");
        std::thread::sleep(Duration::from_millis(300));
        console.enter("\x03");
        console.wait_for("$ ");
        console.enter("exit 5\r");
        assert_eq!(console.end().0, Some(5));
    }
}

/// `Console::end` looks whether the terminal is as it was.
#[test]
fn the_outer_terminal_is_restored_whatever_ends_the_program() {
    let Some((world, image)) = World::with_shell() else { return };
    let start = |flags: &[&str], script: &str| {
        let mut console = Console::start(&run(&world, flags, &image, script), (24, 80));
        console.wait_for("ready");
        wait_until("the terminal is raw", || console.is_raw());
        console
    };
    let console = start(&["-it"], "echo ready; exec busybox sleep 100");
    kill(Pid::from_raw(console.id()), Signal::SIGTERM).unwrap();
    assert_eq!(console.end().0, Some(143));
    let console = start(&["-it"], "trap 'echo bye; exit 4' TERM; echo ready; while true; do busybox sleep 0.1; done");
    kill(Pid::from_raw(console.id()), Signal::SIGTERM).unwrap();
    let (code, said) = console.end();
    assert_eq!((code, said.contains("bye\r\n")), (Some(4), true), "{said}");
    let console = start(&["-it", "--init"], "echo ready; busybox sleep 0.5; kill -KILL $$");
    assert_eq!(console.end().0, Some(137));
    for flags in [&["-it"][..], &["-it", "--init"]] {
        let mut console = start(flags, "echo ready; exec busybox sleep 100");
        std::thread::sleep(Duration::from_millis(300));
        console.enter("\x03");
        assert_eq!(console.end().0, Some(130), "{flags:?}: a program that does not handle it");
    }
}

/// As a shell has it.
fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| format!("'{}'", word.to_str().unwrap())).collect::<Vec<_>>().join(" ")
}

fn shell_outside() -> Command {
    let mut outer = Command::new("bash");
    outer.args(["--norc", "--noprofile", "-i"]);
    outer
}

#[test]
fn without_a_terminal_of_its_own_it_is_a_job_outside() {
    let Some((world, image)) = World::with_shell() else { return };
    for flags in [&[][..], &["--init"]] {
        let line = line(&run(&world, flags, &image, "echo ready; exec busybox sleep 100"));
        let mut console = Console::start(&shell_outside(), (24, 80));
        console.enter(&format!("{line}; echo code $?\r"));
        console.wait_for("ready\r\n");
        std::thread::sleep(Duration::from_millis(300));
        console.enter("\x1a");
        console.wait_for("code 148");
        console.enter("fg\r");
        console.wait_for("sleep 100'\r\n");
        std::thread::sleep(Duration::from_millis(500));
        console.enter("\x03");
        console.wait_for("# ");
        console.enter("echo code $?\r");
        console.wait_for("code 130");
        console.enter("exit\r");
        console.end();
    }
}

#[test]
fn stopping_layermount_gives_the_outer_terminal_back() {
    let Some((world, image)) = World::with_shell() else { return };
    // A shell in between, so that the process group is not an orphan, which the kernel does not stop.
    let line = line(&run(&world, &["-it"], &image, "echo ready; read word; echo got $word"));
    let outer = shell_outside();
    let mut console = Console::start(&outer, (24, 80));
    console.enter(&format!("{line}; echo code $?\r"));
    console.wait_for("ready\r\n");
    wait_until("the terminal is raw", || console.is_raw());
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", console.id())).unwrap();
    let layermount = Pid::from_raw(children.trim().parse().unwrap());
    kill(layermount, Signal::SIGTSTP).unwrap();
    console.wait_for("Stopped");
    console.wait_for("code 148");
    console.enter("fg\r");
    std::thread::sleep(Duration::from_millis(500));
    console.enter("word\r");
    console.wait_for("got word");
    console.wait_for("# ");
    console.enter("exit\r");
    console.end();
}

#[test]
fn nothing_of_much_output_is_lost() {
    let Some((world, image)) = World::with_shell() else { return };
    let expected: Vec<String> = (1..=60_000).map(|number| number.to_string()).collect();
    for flags in [&["-it"][..], &["-it", "--init"], &["-it", "--pid", "host"]] {
        let (code, said) = Console::start(&run(&world, flags, &image, "busybox seq 1 60000"), (24, 80)).end();
        assert_eq!(code, Some(0));
        assert!(said.lines().eq(expected.iter()), "{flags:?}: {} lines", said.lines().count());
    }
    // Into a pipe, and a slow one.
    let mut command = run(&world, &["-t"], &image, "busybox seq 1 60000");
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.lines().eq(expected.iter()));
    assert!(child.wait().unwrap().success());
}

#[test]
fn the_end_of_input_is_typed() {
    let Some((world, image)) = World::with_shell() else { return };
    let mut console = Console::start(&run(&world, &["-it"], &image, "echo ready; busybox cat; echo end"), (24, 80));
    console.wait_for("ready");
    console.enter("line\r");
    console.wait_for("line\r\nline\r\n");
    console.enter("\x04");
    let (code, said) = console.end();
    assert_eq!((code, said.ends_with("end\r\n")), (Some(0), true), "{said}");
}

#[test]
fn a_program_may_have_a_terminal_where_there_is_none() {
    let Some((world, image)) = World::with_shell() else { return };
    let output = run(&world, &["-it"], &image, "true").stdin(Stdio::null()).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(stderr.contains("the input device is not a TTY"), "{stderr}");
    let script = "busybox tty; echo $TERM";
    let output = run(&world, &["-t"], &image, script).env_remove("TERM").stdin(Stdio::null()).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "/dev/pts/0\r\nxterm\r\n");
    // Whose output nobody wants hangs up.
    let mut child =
        run(&world, &["-t"], &image, "exec busybox yes").stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut some = [0; 3];
    child.stdout.take().unwrap().read_exact(&mut some).unwrap();
    assert_eq!(&some, b"y\r\n");
    wait_until("the program ends", || world.processes_in_store().is_empty());
    child.wait().unwrap();
}
