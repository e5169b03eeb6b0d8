//! Terminals, inits and programs beside others, as embedders have them.

#![allow(clippy::disallowed_methods, reason = "trees for tests are made by path")]

mod forked;

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::process::ExitCode;

use forked::*;
use layermount::{Child, Command, ErrorKind, Furnish, Namespaces, Overlay, Running, Signal, Stdio, TerminalSize};

fn main() -> ExitCode {
    run_cases(&cases! {
        Root a_terminal_shows_what_the_program_shows
        Root streams_that_are_given_stay
        Root the_terminal_hangs_up
        Root an_init_is_process_1
        Root threads_may_start_inits_and_join
        Root joining_needs_no_command_of_the_process
        Root what_contradicts_itself_is_refused
        Root nothing_is_left_open
        Stranger rootless_life
    })
}

#[track_caller]
fn spawn(overlay: Overlay, command: &mut Command) -> Child {
    overlay.mount().unwrap().spawn(command).unwrap_or_else(|error| panic!("{error:#}"))
}

fn on_terminal(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]).terminal(TerminalSize { rows: 11, columns: 22 });
    command
}

/// All that a program shows.
fn shown(child: &mut Child) -> String {
    let mut text = String::new();
    child.terminal.take().unwrap().read_to_string(&mut text).unwrap();
    text
}

fn a_terminal_shows_what_the_program_shows() {
    let mut child = spawn(shell(&[]), &mut on_terminal("read word; echo got $word; readlink /proc/self/fd/0; exit 3"));
    let mut terminal = child.terminal.as_ref().unwrap();
    assert_eq!(TerminalSize::of(terminal), Some(TerminalSize { rows: 11, columns: 22 }));
    terminal.resize(TerminalSize { rows: 5, columns: 6 }).unwrap();
    assert_eq!(TerminalSize::of(terminal.as_fd()), Some(TerminalSize { rows: 5, columns: 6 }));
    terminal.write_all(b"it\n").unwrap();
    assert_eq!(shown(&mut child), "it\r\ngot it\r\n/dev/pts/0\r\n");
    assert_eq!(child.wait().unwrap().code(), Some(3));
}

fn streams_that_are_given_stay() {
    let mut command = on_terminal("readlink /proc/self/fd/0 /proc/self/fd/2; echo tty >/dev/tty");
    let mut child = spawn(shell(&[]), command.stdin(Stdio::null()).stdout(Stdio::piped()));
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "/dev/null\n/dev/pts/0\n");
    assert_eq!(shown(&mut child), "tty\r\n");
    assert!(child.wait().unwrap().success());
}

fn the_terminal_hangs_up() {
    let mut command = on_terminal("trap 'exit 9' HUP; echo ready; while :; do sleep 0.05; done");
    let mut child = spawn(shell(&[]), &mut command);
    let mut ready = [0; 7];
    child.terminal.as_ref().unwrap().read_exact(&mut ready).unwrap();
    assert_eq!(&ready, b"ready\r\n");
    drop(child.terminal.take());
    assert_eq!(child.wait().unwrap().code(), Some(9));
}

fn an_init_is_process_1() {
    let mut command = sh("echo $$; cat /proc/1/comm; exec sleep 100");
    let mut child = spawn(shell(&[]), command.init(true).stdout(Stdio::piped()).stop_signal(Signal::INT));
    let mut text = [0; 18];
    child.stdout.take().unwrap().read_exact(&mut text).unwrap();
    assert_eq!(&text, b"2\nlayermount-init\n");
    assert_ne!(child.id(), child.program_id());
    let status = fs::read_to_string(format!("/proc/{}/status", child.program_id())).unwrap();
    assert!(status.lines().any(|line| line == format!("PPid:\t{}", child.id())), "{status}");
    assert!(status.lines().any(|line| line.starts_with("NSpid:") && line.ends_with("\t2")), "{status}");
    child.signal(child.stop_signal()).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(128 + 2));
}

/// The launcher's memory is not the init's, whatever its threads hold.
fn threads_may_start_inits_and_join() {
    let large = vec![7_u8; 64 << 20];
    let threads: Vec<_> = (0..4)
        .map(|number| {
            std::thread::spawn(move || {
                let mut command = sh("sleep 100");
                let mut child = spawn(shell(&[]), command.init(true).die_with_parent(true));
                let status = || fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
                let resident = |status: String| -> Option<u64> {
                    status
                        .lines()
                        .find_map(|line| line.strip_prefix("RssAnon:")?.split_whitespace().next()?.parse().ok())
                };
                let since = std::time::Instant::now();
                while resident(status()).unwrap() > 8 << 10 {
                    assert!(since.elapsed().as_secs() < 10, "{}", status());
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
                let running = Running::of(child.program_id()).unwrap();
                let mut command = Command::for_running(&running, "sh");
                let script = format!("readlink /proc/self/ns/pid; exit {number}");
                command.args(["-c", &script]).stdout(Stdio::piped()).die_with_parent(true);
                let mut beside = running.spawn(&mut command).unwrap_or_else(|error| panic!("{error:#}"));
                let mut text = String::new();
                beside.stdout.take().unwrap().read_to_string(&mut text).unwrap();
                let expected = fs::read_link(format!("/proc/{}/ns/pid", child.id())).unwrap();
                assert_eq!(text.trim_end(), expected.to_str().unwrap());
                assert_eq!(beside.wait().unwrap().code(), Some(number));
                child.kill().unwrap();
                child.wait().unwrap();
                assert!(running.spawn(&mut command).is_err(), "it has ended");
                assert_eq!(Running::of(child.program_id()).unwrap_err().kind(), ErrorKind::InvalidInput);
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(large.iter().all(|byte| *byte == 7));
}

/// The default confinement, and the image's own users.
fn joining_needs_no_command_of_the_process() {
    let mut command = sh("sleep 100");
    let mut child = spawn(shell(&[]), command.privileged());
    let running = Running::of(child.id()).unwrap();
    let mut command = sh("id -u; grep -E 'CapEff|CapBnd' /proc/self/status; exit 4");
    let mut beside = running.spawn(command.user("app").stdout(Stdio::piped())).unwrap();
    let mut text = String::new();
    beside.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "1000\nCapEff:\t0000000000000000\nCapBnd:\t00000000a80425fb\n");
    assert_eq!(beside.wait().unwrap().code(), Some(4));
    let missing = running.spawn(Command::new("nothing")).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::ProgramNotFound);
    assert_eq!(running.spawn(Command::new("sh").user("nobody")).unwrap_err().kind(), ErrorKind::UserNotFound);
    child.kill().unwrap();
    child.wait().unwrap();
}

fn what_contradicts_itself_is_refused() {
    let refused = |command: &mut Command| shell(&[]).mount().unwrap().spawn(command).unwrap_err().kind();
    assert_eq!(refused(sh("true").init(true).namespaces(Namespaces::empty())), ErrorKind::InvalidInput);
    assert_eq!(refused(on_terminal("true").furnish(Furnish::none())), ErrorKind::InvalidInput);
    let mut child = spawn(shell(&[]), &mut sh("sleep 100"));
    let running = Running::of(child.id()).unwrap();
    for command in [
        sh("true").init(true),
        sh("true").hostname("x"),
        sh("true").namespaces(Namespaces::PID),
        sh("true").furnish(Furnish::none()),
    ] {
        assert_eq!(running.spawn(command).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(Running::of(std::process::id()).unwrap_err().kind(), ErrorKind::InvalidInput);
    let pivoted = shell(&[]).mount().unwrap().pivot().unwrap();
    assert_eq!(pivoted.exec(on_terminal("true")).kind(), ErrorKind::InvalidInput);
}

fn descriptors() -> Vec<String> {
    let mut found: Vec<_> = fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
        .map(|link| link.to_string_lossy().into_owned())
        .filter(|link| !link.starts_with("/proc/"))
        .collect();
    found.sort();
    found
}

fn nothing_is_left_open() {
    let before = descriptors();
    for (init, program) in [(false, "sh"), (true, "sh"), (false, "nothing"), (true, "nothing")] {
        let mut command = Command::new(program);
        command.args(["-c", "sleep 100"]).terminal(TerminalSize::default()).init(init);
        match shell(&[]).mount().unwrap().spawn(&mut command) {
            Ok(mut child) => {
                let running = Running::of(child.program_id()).unwrap();
                let mut beside = Command::for_running(&running, "ls");
                beside.arg("/proc/self/fd").stdin(Stdio::null()).terminal(TerminalSize::default());
                let mut beside = running.spawn(&mut beside).unwrap();
                assert_eq!(shown(&mut beside).split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3"]);
                beside.wait().unwrap();
                child.kill().unwrap();
                child.wait().unwrap();
            }
            Err(error) => assert_eq!((error.kind(), program), (ErrorKind::ProgramNotFound, "nothing"), "{error:#}"),
        }
    }
    assert_eq!(descriptors(), before);
}

fn rootless_life() {
    become_stranger();
    let mut command = on_terminal("readlink /proc/self/fd/0; echo $$; stat -c %t:%T,%u /dev/console; sleep 100");
    let mut child = spawn(rootless_shell(), command.init(true));
    let mut text = [0; 23];
    child.terminal.as_ref().unwrap().read_exact(&mut text).unwrap();
    assert_eq!(&text, b"/dev/pts/0\r\n2\r\n88:0,0\r\n");
    let running = Running::of(child.program_id()).unwrap();
    let mut command = Command::for_running(&running, "sh");
    command.args(["-c", "readlink /proc/self/fd/0; id -u; exit 5"]).terminal(TerminalSize::default());
    let mut beside = running.spawn(&mut command).unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(shown(&mut beside), "/dev/pts/1\r\n0\r\n");
    assert_eq!(beside.wait().unwrap().code(), Some(5));
    child.kill().unwrap();
    child.wait().unwrap();
}
