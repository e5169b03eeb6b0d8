//! How much a program may use: cgroups, of whichever version the machine has, and limits of processes.

#![allow(unsafe_code, reason = "a filter that hides a system call")]
#![allow(clippy::disallowed_methods, reason = "cgroups for tests are made by path")]

mod forked;

use std::fs;
use std::io::Read as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use forked::*;
use layermount::{
    Child, Command, Error, ErrorKind, MemorySwap, Namespaces, Overlay, Resources, Rlimit, RlimitKind, Stdio,
};
use rustix::thread::CapabilitySet;

fn main() -> ExitCode {
    run_cases(&cases! {
        Root limits_are_in_force_and_seen_inside
        Root a_program_that_needs_too_much_memory_is_killed
        Root there_are_no_more_processes_than_allowed
        Root nothing_is_left
        Root what_an_owner_left_behind_is_removed_by_the_next
        Root processes_that_live_on_keep_their_cgroup
        Root a_failed_start_leaves_nothing
        Root a_program_is_born_in_its_cgroup
        Root where_there_is_version_2_alone_a_program_sees_itself_as_the_root
        Root without_clone3_a_program_moves_by_itself
        Root a_parent_is_made_and_removed
        Root processes_begin_with_their_limits
        Root an_executed_program_has_limits_but_no_cgroup
        Root nonsense_is_refused
        Stranger who_owns_no_cgroup_cannot_limit
    })
}

const MIB: u64 = 1 << 20;

fn resources(change: fn(Resources) -> Resources) -> Resources {
    change(Resources::new())
}

fn limited(script: &str, resources: Resources) -> Command {
    let mut command = sh(script);
    command.resources(resources);
    command
}

/// Whether cgroup v1 has the controllers.
fn is_v1() -> bool {
    !Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// The mounted hierarchy of version 2, whether or not it has controllers.
fn v2() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let found = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|line| line[2] == "cgroup2");
    if found.is_none() {
        eprintln!("SKIP: no cgroup2 is mounted");
    }
    found.map(|line| line[1].into())
}

/// All cgroups of a name in all hierarchies.
fn cgroups_named(name: &str) -> Vec<PathBuf> {
    fn collect(at: &Path, name: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(at).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                collect(&entry.path(), name, found);
                if entry.file_name().to_str() == Some(name) {
                    found.push(entry.path());
                }
            }
        }
    }
    let mut found = Vec::new();
    collect(Path::new("/sys/fs/cgroup"), name, &mut found);
    found
}

/// The name that a child's cgroups have, from outside.
fn name_of(child: &Child) -> String {
    let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", child.id())).unwrap();
    let last = cgroups.lines().filter_map(|line| line.rsplit('/').next());
    last.into_iter().find(|name| name.starts_with("layermount-")).unwrap_or_else(|| panic!("{cgroups}")).to_owned()
}

fn spawn(overlay: Overlay, mut command: Command) -> Child {
    command.stdin(Stdio::piped());
    overlay.mount().unwrap().spawn(command).unwrap_or_else(|error| panic!("{error:#}"))
}

fn refusal(overlay: Overlay, command: Command) -> Error {
    match overlay.mount().unwrap().spawn(command) {
        Ok(mut child) => panic!("it runs: {:?}", child.wait()),
        Err(error) => error,
    }
}

fn limits_are_in_force_and_seen_inside() {
    let all = resources(|limits| {
        let limits = limits.memory(64 * MIB).memory_swap(MemorySwap::Total(100 * MIB)).memory_reservation(32 * MIB);
        limits.cpus(0.5).cpu_shares(512).cpuset_cpus("0").pids(20)
    });
    let (files, values) = if is_v1() {
        (
            "memory/memory.limit_in_bytes memory/memory.memsw.limit_in_bytes memory/memory.soft_limit_in_bytes \
             cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us cpu/cpu.shares cpuset/cpuset.cpus pids/pids.max",
            "67108864\n104857600\n33554432\n50000\n100000\n512\n0\n20",
        )
    } else {
        (
            "memory.max memory.swap.max memory.low cpu.max cpu.weight cpuset.cpus pids.max",
            "67108864\n37748736\n33554432\n50000 100000\n20\n0\n20",
        )
    };
    let script =
        format!("cd /sys/fs/cgroup; cat {files}; for f in {files}; do (: > $f) 2>/dev/null && echo written; done");
    let (text, _) = output(shell(&[]), limited(&script, all));
    assert_eq!(text, values);
    // What is not limited is as it was, and without limits there is nothing to see.
    let cgroup = "cat /proc/self/cgroup; ls /sys/fs/cgroup";
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    assert_eq!(says(shell(&[]), cgroup), own.trim_end());
    assert_eq!(output(shell(&[]), limited(cgroup, resources(|limits| limits.pids(u64::MAX)))).0, own.trim_end());
}

fn a_program_that_needs_too_much_memory_is_killed() {
    let overlay = || shell(&[]).upper(temporary());
    for eats in ["exec dd if=/dev/zero of=/dev/null bs=100M count=1", "exec dd if=/dev/zero of=/file bs=1M count=100"] {
        let mut command =
            limited(eats, resources(|limits| limits.memory(16 * MIB).memory_swap(MemorySwap::Total(16 * MIB))));
        command.stderr(Stdio::null());
        let mut child = spawn(overlay(), command);
        assert_eq!(child.wait().unwrap().signal(), Some(9), "{eats}");
        assert_eq!(child.oom_kills(), 1, "{eats}");
    }
    let mut child = spawn(overlay(), limited("kill -9 $$", resources(|limits| limits.memory(64 * MIB))));
    child.wait().unwrap();
    assert_eq!(child.oom_kills(), 0);
}

fn there_are_no_more_processes_than_allowed() {
    let script = "for i in 1 2 3 4 5 6 7 8; do sleep 100 & done 2>&1; echo unreachable";
    let (text, code) = output(shell(&[]), limited(script, resources(|limits| limits.pids(5))));
    assert!(text.contains("annot fork") && !text.contains("unreachable") && code == 2, "{text} {code}");
    // A bomb: it stays in there, and the machine goes on.
    let bomb = limited("b() { b | b & }; b 2>/dev/null; sleep 0.3", resources(|limits| limits.pids(20)));
    let since = Instant::now();
    output(shell(&[]), bomb);
    assert!(since.elapsed() < Duration::from_secs(30));
}

fn nothing_is_left() {
    let mut child =
        spawn(shell(&[]), limited("sleep 100 & read x", resources(|limits| limits.memory(64 * MIB).pids(9))));
    let name = name_of(&child);
    assert!(!cgroups_named(&name).is_empty());
    drop(child.stdin.take());
    child.wait().unwrap();
    assert_eq!(cgroups_named(&name), [] as [PathBuf; 0]);
}

fn what_an_owner_left_behind_is_removed_by_the_next() {
    let limits = || resources(|limits| limits.pids(9));
    let mut alive = spawn(shell(&[]), limited("read x", limits()));
    let forgotten = spawn(shell(&[]), limited("read x", limits()));
    let (pid, name) = (forgotten.id(), name_of(&forgotten));
    // Its standard input, too: it ends.
    drop(forgotten);
    nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid.cast_signed()), None).unwrap();
    assert!(!cgroups_named(&name).is_empty(), "it was dropped while there was a process in it");
    assert_eq!(output(shell(&[]), limited("echo", limits())).1, 0);
    assert_eq!(cgroups_named(&name), [] as [PathBuf; 0]);
    assert!(!cgroups_named(&name_of(&alive)).is_empty());
    alive.wait().unwrap();
}

fn processes_that_live_on_keep_their_cgroup() {
    let mut command = limited("sleep 1 > /dev/null 2>&1 & read x; exit 3", resources(|limits| limits.pids(9)));
    command.namespaces(Namespaces::empty());
    let mut child = spawn(shell(&[]), command);
    let name = name_of(&child);
    assert_eq!(child.wait().unwrap().code(), Some(3));
    assert!(!cgroups_named(&name).is_empty());
    std::thread::sleep(Duration::from_millis(1200));
    output(shell(&[]), limited("echo", resources(|limits| limits.pids(9))));
    assert_eq!(cgroups_named(&name), [] as [PathBuf; 0]);
}

fn a_failed_start_leaves_nothing() {
    let ours = format!("layermount-{}-", std::process::id());
    let left = || {
        let all = std::process::Command::new("find").args(["/sys/fs/cgroup", "-name"]).arg(format!("{ours}*")).output();
        String::from_utf8(all.unwrap().stdout).unwrap()
    };
    let mut command = Command::new("/no/such");
    command.resources(resources(|limits| limits.memory(64 * MIB).pids(9)));
    assert_eq!(refusal(shell(&[]), command).kind(), ErrorKind::ProgramNotFound);
    // The second of two limits is refused by the kernel.
    let error = refusal(shell(&[]), limited("echo", resources(|limits| limits.pids(9).cpuset_cpus("4000"))));
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:#}");
    assert!(error.hint().is_some_and(|hint| hint.contains("cgroup above")), "{error:#}");
    assert_eq!(left(), "");
}

/// In the hierarchy of version 2, whether or not it has any controllers, and whatever there is of version 1.
fn named_v2(name: &str) -> Option<(PathBuf, String)> {
    let path = v2()?.join(name);
    fs::create_dir(&path).unwrap();
    Some((path, format!("/{name}")))
}

fn v2_line(text: &str) -> &str {
    text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_else(|| panic!("{text}"))
}

fn a_program_is_born_in_its_cgroup() {
    let Some((path, parent)) = named_v2(&format!("test-born-{}", std::process::id())) else { return };
    let script = "cat /proc/self/cgroup; cat /sys/fs/cgroup/unified/cgroup.procs /sys/fs/cgroup/cgroup.procs; exit 0";
    let mut command = limited(script, Resources::new().parent(&parent));
    command.stderr(Stdio::null());
    let (text, _) = output(shell(&[]), command);
    let line = v2_line(&text);
    // A cgroup namespace's root, where there is version 2 alone.
    assert!(if is_v1() { line.starts_with(&format!("{parent}/layermount-")) } else { line == "/" }, "{text}");
    assert!(text.contains("\n1\n"), "it is shown its own processes: {text}");
    let mut command = limited(script, Resources::new().parent(&parent));
    command.namespaces(Namespaces::default() | Namespaces::CGROUP).stderr(Stdio::null());
    let (text, _) = output(shell(&[]), command);
    assert_eq!(v2_line(&text), "/", "the namespace begins where the program is");
    assert!(fs::read_dir(&path).unwrap().flatten().all(|entry| entry.path().is_file()));
    fs::remove_dir(&path).unwrap();
}

/// A mount namespace in which version 2 alone is mounted, whatever controllers it has.
fn where_there_is_version_2_alone_a_program_sees_itself_as_the_root() {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    if v2().is_none() {
        return;
    }
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    while umount2("/sys/fs/cgroup", MntFlags::MNT_DETACH).is_ok() {}
    mount(Some("cgroup2"), "/sys/fs/cgroup", Some("cgroup2"), MsFlags::empty(), None::<&str>).unwrap();
    let (path, parent) = named_v2(&format!("test-alone-{}", std::process::id())).unwrap();
    let script =
        "cat /proc/self/cgroup; cat /sys/fs/cgroup/cgroup.procs; mkdir /sys/fs/cgroup/x 2>&1; cat /proc/self/mountinfo";
    let (text, _) = output(shell(&[]), limited(script, Resources::new().parent(&parent)));
    assert_eq!(v2_line(&text), "/");
    assert!(text.contains("\n1\n") && text.contains("Read-only file system"), "{text}");
    let mounts: Vec<_> = text.lines().filter(|line| line.contains(" - cgroup")).collect();
    assert!(matches!(mounts.as_slice(), [one] if one.contains(" / /sys/fs/cgroup ro,")), "{text}");
    // Which it has, the kernel says; where one is held by version 1, it says that there is none.
    let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap();
    if !controllers.contains("pids") {
        let error = refusal(shell(&[]), limited("echo", resources(|limits| limits.pids(9))));
        assert_eq!(error.to_string(), "this machine has no pids controller mounted, which the limit needs");
    }
    fs::remove_dir(&path).unwrap();
}

/// As a container's filter does.
fn hide_clone3() {
    use nix::libc::{self, sock_filter, sock_fprog};
    let instruction = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    let mut program = [
        instruction(0x20, 0, 0, 0),
        instruction(0x15, 0, 1, u32::try_from(libc::SYS_clone3).unwrap()),
        instruction(0x06, 0, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned()),
        instruction(0x06, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = sock_fprog { len: 4, filter: program.as_mut_ptr() };
    // SAFETY: the program lives across the call.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    assert_eq!(result, 0);
}

fn without_clone3_a_program_moves_by_itself() {
    let Some((path, parent)) = named_v2(&format!("test-moves-{}", std::process::id())) else { return };
    hide_clone3();
    let mut command = limited("cat /proc/self/cgroup", Resources::new().parent(&parent).pids(7));
    command.namespaces(Namespaces::default() | Namespaces::CGROUP);
    let (text, code) = output(shell(&[]), command);
    assert_eq!((v2_line(&text), code), ("/", 0));
    // In version 1, the parent was made where the limit needs it, and has gone.
    let parent = parent.trim_start_matches('/');
    let left = cgroups_named(parent);
    assert_eq!(left, std::slice::from_ref(&path));
    fs::remove_dir(&path).unwrap();
}

fn a_parent_is_made_and_removed() {
    let outer = format!("test-parent-{}", std::process::id());
    let nested = format!("/{outer}/nested");
    let limits = || Resources::new().pids(9).memory(64 * MIB).cpuset_cpus("0").parent(&nested);
    let mut child = spawn(shell(&[]), limited("read x", limits()));
    let (text, _) = output(shell(&[]), limited("cat /proc/self/cgroup", limits()));
    assert!(!is_v1() || text.contains(&format!("pids:{nested}/layermount-")), "{text}");
    // The other one is still in it.
    assert!(!cgroups_named(&outer).is_empty());
    child.wait().unwrap();
    assert_eq!(cgroups_named(&outer), [] as [PathBuf; 0]);
    let error = refusal(shell(&[]), limited("echo", Resources::new().parent("/no/such/cgroup")));
    assert_eq!((error.kind(), error.hint().is_some()), (ErrorKind::InvalidInput, true), "{error:#}");
}

fn rlimit(text: &str) -> Rlimit {
    text.parse().unwrap()
}

fn processes_begin_with_their_limits() {
    let mut command = sh("ulimit -Sn; ulimit -Hn; ulimit -c; ulimit -Hs; ls /proc/self/fd | grep -c .");
    command.rlimit(rlimit("nofile=5")).rlimit(rlimit("nofile=100:200")).rlimit(rlimit("core=0"));
    command.rlimit(Rlimit::new(RlimitKind::Stack, Some(8 << 20), None).unwrap());
    // It is raised before root's power to do so is given up.
    let own = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap();
    command.user("app");
    assert_eq!(output(shell(&[]), command).0, "100\n200\n0\nunlimited\n4");
    let mut command = sh("ulimit -Hn");
    command.rlimit(rlimit(&format!("nofile={}", own + 1))).user("app");
    let may_raise = rustix::thread::capabilities(None).unwrap().effective.contains(CapabilitySet::SYS_RESOURCE);
    if may_raise {
        assert_eq!(output(shell(&[]), command).0, (own + 1).to_string());
    } else {
        assert_eq!(refusal(shell(&[]), command).kind(), ErrorKind::PermissionDenied);
    }
    let mut command = sh("echo");
    command.rlimit(rlimit("core=0")).rlimit(rlimit("nofile=99999999999"));
    let error = refusal(shell(&[]), command);
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.to_string().contains("nofile=99999999999"), "{error:#}");
}

fn an_executed_program_has_limits_but_no_cgroup() {
    assert!(in_child(|| {
        let inside = shell(&[]).mount().unwrap().pivot().unwrap();
        let error = inside.exec(limited("exit 0", resources(|limits| limits.pids(9))));
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:#}");
    }));
    let mut command = sh("[ $(ulimit -n) = 77 ]");
    command.rlimit(rlimit("nofile=77"));
    panic!("{}", shell(&[]).mount().unwrap().pivot().unwrap().exec(command));
}

fn nonsense_is_refused() {
    for bad in [
        resources(|limits| limits.memory(1)),
        resources(|limits| limits.memory(u64::MAX)),
        resources(|limits| limits.memory_swap(MemorySwap::Total(1))),
        resources(|limits| limits.cpus(f64::NAN)),
        resources(|limits| limits.pids(0)),
        resources(|limits| limits.pids(9).parent("../x")),
        resources(|limits| limits.cpuset_cpus("0\n1")),
    ] {
        assert_eq!(refusal(shell(&[]), limited("echo", bad.clone())).kind(), ErrorKind::InvalidInput, "{bad:?}");
    }
}

fn who_owns_no_cgroup_cannot_limit() {
    become_stranger();
    let error = refusal(rootless_shell(), limited("echo", resources(|limits| limits.memory(64 * MIB))));
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error:#}");
    assert!(error.hint().is_some(), "{error:#}");
    let mut command = sh("ulimit -n");
    command.rlimit(rlimit("nofile=64"));
    assert_eq!(output(rootless_shell(), command).0, "64");
    let mut command = sh("echo");
    command.rlimit(rlimit("nofile=-1"));
    let error = refusal(rootless_shell(), command);
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error:#}");
    let mut text = String::new();
    fs::File::open("/proc/self/cgroup").unwrap().read_to_string(&mut text).unwrap();
    assert!(!text.contains("layermount-"), "the caller itself is never moved");
}
