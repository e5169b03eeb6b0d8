//! What a program inside is kept from.

#![allow(unsafe_code, reason = "system calls that no library offers")]
#![allow(clippy::disallowed_methods, reason = "trees for tests are made by path")]

mod forked;

use std::fs::{self, File};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::process::ExitCode;

use forked::*;
use layermount::{Capabilities, Command, Furnish, Namespaces, Overlay};

fn main() -> ExitCode {
    run_cases(&cases! {
        Root a_spawned_program_has_dockers_capabilities
        Root no_other_user_has_any
        Root an_executed_program_keeps_what_it_is_not_asked_to_give_up
        Root nothing_is_inherited_or_ambient
        Root set_user_id_programs_can_be_made_plain
        Root paths_that_no_namespace_divides_are_covered
        Root no_node_of_another_device_can_be_made
        Root the_program_is_the_only_one_to_be_found
        Root a_privileged_program_has_the_machine
        Stranger rootless_isolation
    })
}

/// As docker's default.
const CONTAINER: &str = "00000000a80425fb";
const NONE: &str = "0000000000000000";

/// The fields of `/proc/self/status` that a program has inside.
fn status(overlay: Overlay, change: impl FnOnce(&mut Command)) -> impl Fn(&str) -> String {
    let mut command = sh("cat /proc/self/status");
    change(&mut command);
    let (text, code) = output(overlay, command);
    assert_eq!(code, 0, "{text}");
    move |field| field_of(&text, field)
}

fn field_of(status: &str, field: &str) -> String {
    let value = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(":"));
    value.unwrap_or_else(|| panic!("{field}: {status}")).trim().to_owned()
}

fn capabilities(status: impl Fn(&str) -> String) -> [String; 5] {
    ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map(status)
}

fn filters() -> &'static str {
    if cfg!(feature = "seccomp") { "2" } else { "0" }
}

fn a_spawned_program_has_dockers_capabilities() {
    let found = status(shell(&[]), |_| ());
    assert_eq!(found("Seccomp"), filters());
    assert_eq!(found("NoNewPrivs"), "0");
    assert_eq!(capabilities(found), [NONE, CONTAINER, CONTAINER, CONTAINER, NONE]);
    let found = status(shell(&[]), |command| {
        command.capabilities(Capabilities::CHOWN | Capabilities::KILL);
    });
    assert_eq!(capabilities(found), [NONE, "0000000000000021", "0000000000000021", "0000000000000021", NONE]);
    let found = status(shell(&[]), |command| {
        command.capabilities(Capabilities::empty()).no_new_privileges(true);
    });
    assert_eq!((found("NoNewPrivs").as_str(), found("Seccomp").as_str()), ("1", filters()));
    assert_eq!(capabilities(found), [NONE; 5]);
}

fn no_other_user_has_any() {
    for user in ["app", "1234:5"] {
        let found = status(shell(&[]), |command| {
            command.user(user);
        });
        assert_eq!(found("Seccomp"), filters());
        assert_eq!(capabilities(found), [NONE, NONE, NONE, CONTAINER, NONE], "{user}");
    }
    let found = status(shell(&[]), |command| {
        command.user("app").capabilities(Capabilities::ALL);
    });
    assert_eq!(found("CapEff"), NONE);
}

fn own(field: &str) -> String {
    field_of(&fs::read_to_string("/proc/self/status").unwrap(), field)
}

fn an_executed_program_keeps_what_it_is_not_asked_to_give_up() {
    let at = place();
    let out = at.path().join("out");
    let become_it = |change: fn(&mut Command)| {
        let before = capabilities(own);
        let file = File::create(&out).unwrap();
        // SAFETY: this process has one thread.
        match unsafe { nix::unistd::fork() }.unwrap() {
            nix::unistd::ForkResult::Child => {
                let mut command = sh("cat /proc/self/status");
                change(command.stdout(file));
                let error = shell(&[]).mount().unwrap().pivot().unwrap().exec(command);
                panic!("{error:#}");
            }
            nix::unistd::ForkResult::Parent { child } => drop(nix::sys::wait::waitpid(child, None).unwrap()),
        }
        (fs::read_to_string(&out).unwrap(), before)
    };
    let (kept, before) = become_it(|_| ());
    assert_eq!(capabilities(|field| field_of(&kept, field)), before);
    assert_eq!(field_of(&kept, "Seccomp"), "0");
    let (given_up, _) = become_it(|command| {
        command.capabilities(Capabilities::CONTAINER);
        #[cfg(feature = "seccomp")]
        command.seccomp(layermount::Seccomp::default());
    });
    assert_eq!(field_of(&given_up, "CapBnd"), CONTAINER);
    assert_eq!(field_of(&given_up, "Seccomp"), filters());
}

fn nothing_is_inherited_or_ambient() {
    use rustix::thread::{CapabilitySet, capabilities as own, configure_capability_in_ambient_set, set_capabilities};
    let mut sets = own(None).unwrap();
    sets.inheritable = sets.permitted;
    set_capabilities(None, sets).unwrap();
    configure_capability_in_ambient_set(CapabilitySet::CHOWN, true).unwrap();
    for user in ["0", "app"] {
        let found = status(shell(&[]), |command| {
            command.user(user);
        });
        assert_eq!((found("CapInh").as_str(), found("CapAmb").as_str()), (NONE, NONE), "{user}");
    }
}

fn set_user_id_programs_can_be_made_plain() {
    let layer = place();
    fs::create_dir(layer.path().join("bin")).unwrap();
    let id = layer.path().join("bin/whoami");
    fs::copy("/bin/id", &id).unwrap();
    fs::set_permissions(&id, std::os::unix::fs::PermissionsExt::from_mode(0o4755)).unwrap();
    for (on, expected) in [(false, "0"), (true, "1000")] {
        let mut command = sh("whoami -u");
        command.user("app").no_new_privileges(on);
        assert_eq!(output(shell(&[layer.path().to_owned()]), command).0, expected);
    }
}

fn paths_that_no_namespace_divides_are_covered() {
    let script = "for p in acpi asound scsi; do [ ! -e /proc/$p ] || ls -A /proc/$p; done; ls -A /sys/firmware
        for p in interrupts kcore keys latency_stats timer_list; do [ ! -e /proc/$p ] || cat /proc/$p; done
        for p in sys/kernel/hostname sysrq-trigger irq/default_smp_affinity; do
            [ ! -e /proc/$p ] || (echo 0 > /proc/$p) 2>&1
        done
        touch /proc/acpi/x 2>&1; mkdir /sys/firmware/x 2>&1";
    let text = says(shell(&[]), script);
    let refused = text.lines().filter(|line| line.ends_with("Read-only file system")).count();
    assert_eq!(refused, text.lines().count(), "{text}");
    assert!(refused >= 4, "{text}");
    let mut open = sh("cat /proc/interrupts; ls /sys/firmware; grep -c /proc/ /proc/self/mountinfo");
    open.furnish(Furnish::default().masks(false));
    let (text, _) = output(shell(&[]), open);
    assert!(text.lines().count() > 3 && text.ends_with("\n0"), "{text}");
    let mut one = sh("cat /proc/interrupts; cat /proc/timer_list");
    one.furnish(Furnish::default().unmask("/proc/interrupts"));
    let (text, _) = output(shell(&[]), one);
    assert!(text.contains("CPU0") && !text.contains("Timer List"), "{text}");
    // Neither a program nor a second mount of the same kind uncovers them.
    assert!(
        says(shell(&[]), "mount -t proc proc /proc 2>&1; mount -o remount,rw /proc/sys 2>&1")
            .contains("ermission denied")
    );
}

fn no_node_of_another_device_can_be_made() {
    let at = place();
    // A node that the image has opens nothing.
    let layer = at.path().join("devices");
    fs::create_dir(&layer).unwrap();
    let number = nix::sys::stat::makedev(1, 1);
    nix::sys::stat::mknod(&layer.join("memory"), nix::sys::stat::SFlag::S_IFCHR, nix::sys::stat::Mode::all(), number)
        .unwrap();
    let script =
        "for at in / /dev /dev/shm; do mknod $at/mem c 1 1 2>/dev/null && echo made; done; mknod /f p && echo fifo
        mknod /dev/n c 1 3 && echo x > /dev/n && echo null; cat /memory 2>&1";
    let text = says(shell(&[layer]), script);
    let made = if cfg!(feature = "seccomp") { "" } else { "made\nmade\nmade\n" };
    assert_eq!(text, format!("{made}fifo\nnull\ncat: /memory: Permission denied"));
}

fn the_program_is_the_only_one_to_be_found() {
    let script = "ls /proc | grep -c '^[0-9]'; readlink /proc/1/exe; readlink /proc/self/exe; ls /proc/1/fd";
    let file: OwnedFd = File::open("/etc/passwd").unwrap().into();
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).unwrap();
    let text = says(shell(&[]), script);
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[1].ends_with("sh") && lines[2].ends_with("readlink"), "{text}");
    assert!(lines[3..].iter().all(|fd| ["0", "1", "2"].contains(fd)), "{} is open: {text}", file.as_raw_fd());
    // Nor does the one who has started it show more than its number, where processes are shared.
    let this = std::process::id();
    let mut shared = sh(&format!(
        "for f in exe root cwd fd/0; do readlink /proc/{this}/$f || echo refused; done 2>/dev/null
            (: >> /proc/{this}/exe) 2>&1"
    ));
    shared.namespaces(Namespaces::IPC);
    let (text, _) = output(shell(&[]), shared);
    assert!(text.starts_with("refused\nrefused\nrefused\nrefused\n") && text.contains("ermission denied"), "{text}");
}

fn a_privileged_program_has_the_machine() {
    let mut command =
        sh("cat /proc/self/status; ls /dev; grep ' /sys ' /proc/self/mountinfo; grep -c /proc/ /proc/self/mountinfo");
    command.privileged();
    let (text, _) = output(shell(&[]), command);
    assert_eq!(field_of(&text, "CapEff"), own("CapEff"));
    assert_eq!(field_of(&text, "CapBnd"), own("CapBnd"));
    assert_eq!(field_of(&text, "Seccomp"), own("Seccomp"));
    assert!(text.contains(" /sys rw,") && text.ends_with("\n0"), "{text}");
    for name in fs::read_dir("/dev").unwrap().map(|entry| entry.unwrap()) {
        use std::os::unix::fs::FileTypeExt as _;
        let (kind, name) = (name.file_type().unwrap(), name.file_name());
        if kind.is_char_device() || kind.is_block_device() {
            assert!(text.lines().any(|line| *line == *name.to_string_lossy()), "{name:?}: {text}");
        }
    }
}

fn rootless_isolation() {
    become_stranger();
    let found = status(rootless_shell(), |_| ());
    assert_eq!(found("Seccomp"), filters());
    assert_eq!(capabilities(found), [NONE, CONTAINER, CONTAINER, CONTAINER, NONE]);
    let found = status(rootless_shell(), |command| {
        command.capabilities(Capabilities::empty()).no_new_privileges(true);
    });
    assert_eq!(capabilities(found), [NONE; 5]);
    let text =
        says(rootless_shell(), "cat /proc/interrupts; ls -A /sys/firmware; (echo x > /proc/sys/kernel/hostname) 2>&1");
    assert!(text.lines().count() == 1 && text.ends_with("Read-only file system"), "{text}");
    let mut command = sh("cat /proc/self/status; cat /proc/interrupts; ls /dev");
    command.privileged();
    let (text, code) = output(rootless_shell(), command);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("CPU0") && field_of(&text, "Seccomp") == own("Seccomp"), "{text}");
}
