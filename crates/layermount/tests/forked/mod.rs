//! Tests that enter images: each case is a function that runs in a forked child of a process with a single thread.
//!
//! The test harness has threads, and a process with threads can neither pivot nor make a user namespace.

#![allow(unsafe_code, reason = "fork, in a process with one thread")]
#![allow(clippy::disallowed_methods, reason = "trees for tests are made by path, and forked children end by exit")]
#![allow(dead_code, reason = "every test file uses a part")]

use std::fs::{self, Permissions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::OnceLock;

use layermount::{Command, LayerStack, Overlay, OverlayXattrs, Stdio, Upper};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Gid, Uid, fork};
use tempfile::TempDir;

/// A user who is nobody on any machine.
pub(crate) const STRANGER: u32 = 12345;

pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) needs: Needs,
    pub(crate) run: fn(),
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Needs {
    Root,
    /// Runs as root and then once more as a user without privileges.
    Stranger,
}

macro_rules! cases {
    ($($needs:ident $name:ident)*) => {
        [$($crate::forked::Case { name: stringify!($name), needs: $crate::forked::Needs::$needs, run: $name }),*]
    };
}
pub(crate) use cases;

/// Runs those that were asked for.
pub(crate) fn run_cases(cases: &[Case]) -> ExitCode {
    let filter: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    if std::env::args().any(|argument| argument == "--list") {
        cases.iter().for_each(|case| println!("{}: test", case.name));
        return ExitCode::SUCCESS;
    }
    let base = tempfile::tempdir().unwrap();
    fs::set_permissions(base.path(), Permissions::from_mode(0o1777)).unwrap();
    BASE.set(base.path().to_owned()).unwrap();
    SHELL.set(make_shell_tree(base.path())).unwrap();
    let mut failed = Vec::new();
    for case in cases.iter().filter(|case| filter.is_empty() || filter.iter().any(|word| case.name.contains(word))) {
        if let Some(reason) = cannot_run(case.needs) {
            println!("test {} ... SKIP", case.name);
            eprintln!("SKIP: {}: {reason}", case.name);
            continue;
        }
        let passed = in_child(case.run);
        println!("test {} ... {}", case.name, if passed { "ok" } else { "FAILED" });
        if !passed {
            failed.push(case.name);
        }
    }
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("failed: {failed:?}");
    ExitCode::FAILURE
}

/// Fails where `LAYERMOUNT_REQUIRE` says that it must be possible.
pub(crate) fn cannot_run(needs: Needs) -> Option<String> {
    let required = std::env::var("LAYERMOUNT_REQUIRE").unwrap_or_default();
    let required = |word: &str| required.split(',').any(|required| required == word);
    let (word, reason) = if !Uid::effective().is_root() {
        ("root", "needs root")
    } else if needs == Needs::Stranger && !in_child(|| assert!(stranger_may_have_namespaces())) {
        ("userns", "users without privileges cannot make user namespaces here")
    } else {
        return None;
    };
    assert!(!required(word), "LAYERMOUNT_REQUIRE has {word}, but {reason}");
    Some(reason.to_owned())
}

pub(crate) fn stranger_may_have_namespaces() -> bool {
    become_stranger();
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER).is_ok()
}

pub(crate) fn become_stranger() {
    nix::unistd::setgroups(&[]).unwrap();
    nix::unistd::setresgid(Gid::from_raw(STRANGER), Gid::from_raw(STRANGER), Gid::from_raw(STRANGER)).unwrap();
    nix::unistd::setresuid(Uid::from_raw(STRANGER), Uid::from_raw(STRANGER), Uid::from_raw(STRANGER)).unwrap();
    // A change of user makes /proc/self root's, as a set-user-ID program would need it.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable).unwrap();
}

/// Whether the function returned.
pub(crate) fn in_child(run: fn()) -> bool {
    std::io::stdout().flush().unwrap();
    // SAFETY: this process has one thread, so its child may do anything.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            // A case that hangs is one that fails.
            nix::unistd::alarm::set(120);
            let passed = std::panic::catch_unwind(run).is_ok();
            std::process::exit(i32::from(!passed));
        }
        ForkResult::Parent { child } => matches!(waitpid(child, None), Ok(WaitStatus::Exited(_, 0))),
    }
}

/// All that the cases make lies here: some of them leave for an image, and cannot clean up.
pub(crate) static BASE: OnceLock<PathBuf> = OnceLock::new();

/// A layer with a shell and a few tools of the host, and their libraries.
pub(crate) static SHELL: OnceLock<PathBuf> = OnceLock::new();

pub(crate) const PASSWD: &str = "root:x:0:0::/root:/bin/sh\napp:x:1000:100::/home/app:/bin/sh\n0:x:77:77::/:/\n";

pub(crate) fn make_shell_tree(at: &Path) -> PathBuf {
    let root = at.join("shell");
    put(&root.join("etc/passwd"), PASSWD);
    put(&root.join("etc/group"), "users:x:100:\nwww:x:33:app\n");
    fs::create_dir(root.join("bin")).unwrap();
    for tool in [
        "sh", "cat", "id", "ls", "sleep", "touch", "stat", "readlink", "hostname", "env", "dd", "rmdir", "mkdir",
        "grep", "mknod", "mount",
    ] {
        let tool = Path::new("/bin").join(tool);
        fs::copy(&tool, root.join(tool.strip_prefix("/").unwrap())).unwrap();
        copy_libraries(&tool, &root);
    }
    root
}

/// What a program is linked to, into a tree, where it is outside.
fn copy_libraries(program: &Path, tree: &Path) {
    let output = std::process::Command::new("ldd").arg(program).output().unwrap();
    for library in String::from_utf8(output.stdout).unwrap().split_whitespace().filter(|word| word.starts_with('/')) {
        let copy = tree.join(&library[1..]);
        if !copy.exists() {
            fs::create_dir_all(copy.parent().unwrap()).unwrap();
            fs::copy(library, &copy).unwrap();
        }
    }
}

/// A directory for one case.
pub(crate) fn place() -> TempDir {
    let place = tempfile::tempdir_in(BASE.get().unwrap()).unwrap();
    fs::set_permissions(place.path(), Permissions::from_mode(0o755)).unwrap();
    place
}

pub(crate) fn put(path: &Path, contents: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, contents).unwrap();
}

pub(crate) fn stack(layers: &[PathBuf]) -> LayerStack {
    LayerStack::from_directories(layers.to_vec(), OverlayXattrs::Trusted).unwrap()
}

/// An overlay of the shell, below these layers.
pub(crate) fn shell(layers: &[PathBuf]) -> Overlay {
    let mut all = vec![SHELL.get().unwrap().clone()];
    all.extend_from_slice(layers);
    Overlay::new(stack(&all))
}

/// Of layers that belong to the stranger.
pub(crate) fn rootless_shell() -> Overlay {
    let copy = BASE.get().unwrap().join("stranger");
    if !copy.exists() {
        let copied = std::process::Command::new("cp").arg("-r").arg(SHELL.get().unwrap()).arg(&copy).status();
        assert!(copied.unwrap().success());
    }
    Overlay::new(LayerStack::from_directories([copy], OverlayXattrs::User).unwrap())
}

pub(crate) fn temporary() -> Upper {
    Upper::Temporary { size: None }
}

pub(crate) fn sh(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]).stdin(Stdio::null());
    command
}

/// What the program prints, and its exit code.
pub(crate) fn output(overlay: Overlay, command: Command) -> (String, i32) {
    let mut command = command;
    command.stdout(Stdio::piped());
    let mut child = overlay.mount().unwrap().spawn(command).unwrap_or_else(|error| panic!("{error:#}"));
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    let status = child.wait().unwrap();
    (text.trim_end().to_owned(), status.code().unwrap_or(-1))
}

pub(crate) fn says(overlay: Overlay, script: &str) -> String {
    output(overlay, sh(script)).0
}

/// A layer with this binary and what it is linked to.
pub(crate) fn probe_layer(at: &Path) -> PathBuf {
    let layer = at.join("probe-layer");
    fs::create_dir(&layer).unwrap();
    let binary = std::env::current_exe().unwrap();
    fs::copy(&binary, layer.join("probe")).unwrap();
    copy_libraries(&binary, &layer);
    layer
}
