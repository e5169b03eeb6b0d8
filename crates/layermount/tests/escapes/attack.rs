//! Images that have the binary of the one who enters them for a program: CVE-2019-5736.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use layermount::{Access, Capabilities, Command, ErrorKind, Namespaces};
use nix::sys::wait::waitpid;
use nix::unistd::ForkResult;

use super::*;

/// As which this binary is started inside, where the attack comes off.
pub(super) const NAME: &str = "/attack";

/// All that it needs from here: a descriptor of the host's binary that can be opened again for writing.
pub(super) fn succeed() -> ExitCode {
    println!("attack runs {}", fs::metadata("/proc/self/exe").is_ok());
    ExitCode::SUCCESS
}

/// What an image can have for a program, so that another is executed.
fn attacks(layer: &Path) -> Vec<&'static str> {
    let put = |name: &str, contents: &[u8]| {
        fs::write(layer.join(name), contents).unwrap();
        fs::set_permissions(layer.join(name), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    };
    symlink("/proc/self/exe", layer.join("attack")).unwrap();
    symlink("proc/thread-self/exe", layer.join("attack-thread")).unwrap();
    symlink("/attack", layer.join("attack-again")).unwrap();
    put("attack-script", b"#!/proc/self/exe\n");
    put("attack-nested", b"#! /attack-script -x\n");
    symlink("/proc/self/fd/3", layer.join("attack-fd")).unwrap();
    symlink("/proc/self/root/bin/sh", layer.join("attack-root")).unwrap();
    // A program whose loader is the binary: the name in this one's own header is overwritten.
    let mut binary = fs::read(std::env::current_exe().unwrap()).unwrap();
    let loader = b"/lib64/ld-linux";
    if let Some(at) = binary.windows(loader.len()).position(|bytes| bytes == loader) {
        binary[at..at + 15].copy_from_slice(b"/proc/self/exe\0");
        put("attack-loader", &binary);
    }
    let all = [
        "/attack",
        "/attack-thread",
        "/attack-again",
        "/attack-script",
        "/attack-nested",
        "/attack-fd",
        "/attack-root",
        "/attack-loader",
    ];
    all.into_iter().filter(|name| fs::symlink_metadata(layer.join(&name[1..])).is_ok()).collect()
}

pub(super) fn this_binary_is_no_program_of_an_image() {
    let at = place();
    let layer = probe_layer(at.path());
    let attacks = attacks(&layer);
    assert!(attacks.len() > 6, "{attacks:?}");
    comes_off_without_defence(&layer);
    for attack in attacks {
        for (user, namespaces) in [("0", None), ("0", Some(Namespaces::empty())), ("1234", None)] {
            let mut command = Command::new(attack);
            command.user(user);
            if let Some(namespaces) = namespaces {
                command.namespaces(namespaces);
            }
            let error = shell(std::slice::from_ref(&layer)).mount().unwrap().spawn(command).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ProgramNotExecutable, "{attack}: {error:#}");
            assert!(error.to_string().contains("/proc"), "{attack}: {error:#}");
        }
        let (kind, text) = exec_error(&layer, Command::new(attack));
        assert_eq!(kind, format!("{:?}", ErrorKind::ProgramNotExecutable), "{attack}: {text}");
    }
    // By a name in PATH as well.
    let mut command = Command::new("attack");
    command.env("PATH", "/");
    assert!(shell(&[layer]).mount().unwrap().spawn(command).is_err());
}

/// What becoming the program fails with.
fn exec_error(layer: &Path, command: Command) -> (String, String) {
    let out = layer.parent().unwrap().join("out");
    let file = fs::File::create(&out).unwrap();
    // SAFETY: this process has one thread.
    match unsafe { nix::unistd::fork() }.unwrap() {
        ForkResult::Child => {
            use std::io::Write as _;
            let error = shell(&[layer.to_owned()]).mount().unwrap().pivot().unwrap().exec(command);
            write!(&file, "{:?}|{error:#}", error.kind()).unwrap();
            std::process::exit(0);
        }
        ForkResult::Parent { child } => drop(waitpid(child, None).unwrap()),
    }
    let text = fs::read_to_string(out).unwrap();
    let (kind, message) = text.split_once('|').unwrap_or(("it ran", &text));
    (kind.to_owned(), message.to_owned())
}

/// A plain chroot into the same tree: the link does have this binary run inside.
fn comes_off_without_defence(layer: &Path) {
    let tree: PathBuf = layer.parent().unwrap().join("tree");
    let copied = std::process::Command::new("cp").arg("-a").arg(layer).arg(&tree).status().unwrap();
    assert!(copied.success());
    fs::create_dir(tree.join("proc")).unwrap();
    let mut command = std::process::Command::new(NAME);
    // SAFETY: this process has one thread.
    unsafe {
        command.pre_exec(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
            let private = nix::mount::MsFlags::MS_PRIVATE | nix::mount::MsFlags::MS_REC;
            nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
            let none = nix::mount::MsFlags::empty();
            nix::mount::mount(Some("proc"), &tree.join("proc"), Some("proc"), none, None::<&str>)?;
            std::os::unix::fs::chroot(&tree)?;
            nix::unistd::chdir("/")?;
            Ok(())
        });
    }
    let output = command.output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "attack runs true\n");
}

pub(super) fn this_binary_can_be_bound() {
    let at = place();
    let layer = probe_layer(at.path());
    let own = std::env::current_exe().unwrap();
    for access in [Access::ReadOnly, Access::ReadWrite] {
        let mut command = Command::new("/launcher");
        command.entrypoint(["/launcher", "--list"]).bind(&own, "/launcher", access);
        let (text, code) = output(shell(std::slice::from_ref(&layer)), command);
        assert!(code == 0 && text.contains("this_binary_can_be_bound"), "{text}");
    }
}

/// While it has no more than a program inside, and still its parent's memory.
pub(super) fn a_child_is_not_looked_into_before_it_is_a_program() {
    let dumpable = || rustix::process::dumpable_behavior().unwrap();
    assert_eq!(dumpable(), rustix::process::DumpableBehavior::Dumpable);
    assert_eq!(says(shell(&[]), "stat -c %u /proc/self/status"), "0");
    // The parent's memory is as it was.
    assert_eq!(dumpable(), rustix::process::DumpableBehavior::Dumpable);
    let mut command = sh("exit 3");
    command.user("app").capabilities(Capabilities::empty());
    #[cfg(feature = "seccomp")]
    command.seccomp(layermount::Seccomp::unconfined());
    assert_eq!(output(shell(&[]), command).1, 3);
    assert_eq!(dumpable(), rustix::process::DumpableBehavior::Dumpable);
    // A program that cannot be executed leaves the caller behind as it gave itself up.
    let at = place();
    let mut command = Command::new("/no/such");
    command.capabilities(Capabilities::CONTAINER);
    let (kind, text) = exec_error(&probe_layer(at.path()), command);
    assert_eq!(kind, format!("{:?}", ErrorKind::ProgramNotFound), "{text}");
}
