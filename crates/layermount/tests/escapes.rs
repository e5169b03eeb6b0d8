//! Ways out of an image that a program of it may try, each with what it is answered.
//!
//! This very binary runs inside: as `/probe` it makes system calls and prints what comes of them.

#![allow(unsafe_code, reason = "system calls that no library offers")]
#![allow(clippy::disallowed_methods, reason = "trees for tests are made by path")]

#[path = "escapes/attack.rs"]
mod attack;
#[path = "escapes/devices.rs"]
mod devices;
mod forked;
#[path = "escapes/probe.rs"]
mod probe;

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use forked::*;
use layermount::{Capabilities, Command, Namespaces};
use nix::errno::Errno;
use probe::probe;

fn main() -> ExitCode {
    use attack::*;
    use devices::*;
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.first().map(String::as_str) {
        Some("/probe") => return probe(&arguments[1..]),
        Some(NAME) => return succeed(),
        _ => {}
    }
    run_cases(&cases! {
        Root everything_that_is_not_a_programs_business_is_refused
        Root a_privileged_probe_finds_what_the_default_refuses
        Root processes_outside_are_out_of_reach_where_all_are_seen
        Root the_session_keyring_is_its_own
        Root this_binary_is_no_program_of_an_image
        Root this_binary_can_be_bound
        Root a_child_is_not_looked_into_before_it_is_a_program
        Root no_node_of_another_device_can_be_made_or_used
        Root a_directory_of_the_host_has_no_usable_devices
    })
}

/// A layer with this binary and what it is linked to.
fn probe_layer(at: &Path) -> PathBuf {
    let layer = at.join("probe-layer");
    fs::create_dir(&layer).unwrap();
    let binary = std::env::current_exe().unwrap();
    fs::copy(&binary, layer.join("probe")).unwrap();
    let output = std::process::Command::new("ldd").arg(&binary).output().unwrap();
    for library in String::from_utf8(output.stdout).unwrap().split_whitespace().filter(|word| word.starts_with('/')) {
        let copy = layer.join(&library[1..]);
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(library, copy).unwrap();
    }
    layer
}

/// What the probe says, a line for each attempt: its name, and `done` or the errno.
fn answers(arguments: &[&str], change: impl FnOnce(&mut Command)) -> Vec<(String, String)> {
    let at = place();
    let layer = probe_layer(at.path());
    let mut command = Command::new("/probe");
    command.args(arguments);
    change(&mut command);
    let (text, code) = output(shell(&[layer]), command);
    assert_eq!(code, 0, "{text}");
    let split = |line: &str| line.rsplit_once(' ').map(|(name, answer)| (name.to_owned(), answer.to_owned()));
    text.lines().map(|line| split(line).unwrap()).collect()
}

fn everything_that_is_not_a_programs_business_is_refused() {
    let found = answers(&[], |_| ());
    assert!(found.len() > 60, "{found:?}");
    for (name, answer) in &found {
        let expected: &[&str] = match name.as_str() {
            // Among its own processes it may; there is none of this number.
            "ptrace" | "kill" | "pidfd_open" => &["ESRCH"],
            "clone3" => &["ENOSYS"],
            // What is its own.
            "the root behind chroot" | "descriptors from 3 up" => &["none"],
            "socket raw" | "getpid of i386" => &["done"],
            _ if name.starts_with("open ") => &["EROFS", "ENOENT", "EPERM", "EACCES"],
            _ if name.starts_with("read ") => &["empty", "ENOENT", "EPERM", "EACCES"],
            _ => &["EPERM"],
        };
        if cfg!(feature = "seccomp") {
            assert!(expected.contains(&answer.as_str()), "{name}: {answer} is not {expected:?}\n{found:?}");
        } else {
            assert!(answer != "done" || !name.starts_with("mount"), "{found:?}");
        }
    }
}

/// That the probe means what it says: with nothing taken away, the same calls get further.
fn a_privileged_probe_finds_what_the_default_refuses() {
    let found = answers(&[], |command| {
        command.privileged();
    });
    let of = |name: &str| found.iter().find(|(known, _)| known == name).map(|(_, answer)| answer.as_str()).unwrap();
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let effective = own.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok());
    let has = |capability: Capabilities| effective.unwrap() & capability.bits() != 0;
    if !has(Capabilities::SYS_ADMIN) || !own.contains("Seccomp:\t0") {
        println!("not all privileges here");
        return;
    }
    for name in ["mount", "fsopen", "open_tree", "unshare", "sethostname", "mknod disk", "keyctl"] {
        assert_eq!(of(name), "done", "{name}: {found:?}");
    }
    // By the kernel's own look at the arguments.
    for (name, needs, answer) in [
        ("setns", Capabilities::SYS_ADMIN, "EBADF"),
        ("reboot", Capabilities::SYS_BOOT, "EINVAL"),
        ("acct", Capabilities::SYS_PACCT, "ENOENT"),
        ("open_by_handle_at", Capabilities::DAC_READ_SEARCH, "EINVAL"),
        ("open /proc/sys/kernel/core_pattern", Capabilities::SYS_ADMIN, "done"),
    ] {
        if has(needs) {
            assert_eq!(of(name), answer, "{name}: {found:?}");
        }
    }
}

/// A process of this user outside, which ends with the test.
fn sleeper(user: u32) -> std::process::Child {
    let mut command = std::process::Command::new("/bin/sleep");
    command.arg("100").uid(user).env("SECRET", "x");
    command.spawn().unwrap()
}

fn processes_outside_are_out_of_reach_where_all_are_seen() {
    let mut outside = [sleeper(0), sleeper(STRANGER)];
    let pids = outside.each_ref().map(|child| child.id().to_string());
    let pids: Vec<&str> = pids.iter().map(String::as_str).collect();
    let arguments = [&["outside"][..], &pids].concat();
    let shared = answers(&arguments, |command| {
        command.namespaces(Namespaces::IPC);
    });
    assert_eq!(shared.len(), 2 * 9, "{shared:?}");
    for (name, answer) in &shared {
        assert!(["EPERM", "EACCES"].contains(&answer.as_str()), "{name}: {answer}");
    }
    let own = answers(&arguments, |_| ());
    for (name, answer) in &own {
        // There is nothing of that number, and what needs a capability is refused whatever its arguments.
        assert!(["ESRCH", "ENOENT", "EPERM"].contains(&answer.as_str()), "{name}: {answer}");
    }
    let privileged = answers(&arguments, |command| {
        command.namespaces(Namespaces::IPC).privileged();
    });
    assert!(privileged.iter().filter(|(_, answer)| answer == "done").count() >= 2 * 5, "{privileged:?}");
    for child in &mut outside {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

fn the_session_keyring_is_its_own() {
    let key = probe::add_key_to_session();
    if key < 0 {
        println!("no keyrings here: {}", Errno::last());
        return;
    }
    // The key may have been the first, for which the kernel makes a keyring.
    let ours = probe::session_keyring();
    for new in [false, true] {
        let found = answers(&["session"], |command| {
            command.new_session_keyring(new);
            // The default refuses the question, too.
            #[cfg(feature = "seccomp")]
            command.seccomp(layermount::Seccomp::unconfined());
        });
        let of = |name: &str| found.iter().find(|(known, _)| known == name).map(|(_, answer)| answer.clone()).unwrap();
        assert_eq!(of("session") != ours.to_string(), new, "{found:?}");
        assert_eq!(of("search") == key.to_string(), !new, "{found:?}");
    }
}
