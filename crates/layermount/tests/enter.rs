//! Mounting, entering and spawning, on this kernel.
//!
//! The test harness has threads, and a process with threads can neither pivot nor make a user namespace. So this binary
//! brings its own: each case is a function that runs in a forked child of a process with a single thread.

#![allow(unsafe_code, reason = "fork, in a process with one thread")]
#![allow(clippy::disallowed_methods, reason = "trees for tests are made by path, and forked children end by exit")]

mod forked;

use std::fs::{self, File, Permissions};
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use layermount::{
    Access, Command, ErrorKind, Furnish, IdMaps, Kernel, LayerStack, LayersBy, Namespaces, Overlay, OverlayXattrs,
    Signal, Stdio, Upper, UserNamespace,
};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Gid, Uid, fork};
use tempfile::TempDir;

use forked::*;

fn main() -> ExitCode {
    let cases = cases! {
        Root layers_in_any_number
        Root more_than_overlayfs_can_take_is_refused
        Root older_kernels_are_made_do_with
        Root more_is_assumed_of_the_kernel_than_it_can
        Root whiteouts_opaque_directories_and_root_attributes
        Root the_plan_prints_lowers_top_first
        Root attach_read_only_and_writable
        Root the_size_of_a_temporary_upper_is_a_limit
        Root a_persistent_upper_is_kept_for_one_user_at_a_time
        Root a_persistent_upper_is_busy_after_pivot_and_exec
        Root pivot_keeps_descriptors_and_goes_on
        Root pivot_is_refused_with_threads
        Root exec_becomes_the_program
        Root spawn_from_a_process_with_threads
        Root exit_codes_and_errors
        Root users_are_those_of_the_image
        Root working_directories_and_environment
        Root bind_mounts
        Root a_bind_of_the_whole_host_and_one_on_the_root
        Root furnished_as_expected
        Root hostile_trees_are_not_furnished
        Root a_read_only_root_refuses_writes
        Root descriptors_do_not_leak
        Root the_caller_goes_on_being_dumpable
        Root streams_and_signals
        Root nothing_is_left_behind
        Root children_without_newer_system_calls
        Root an_embedding_program_may_ignore_sigchld_and_have_timers
        Root user_namespaces_that_are_made_hold_nothing_else
        Stranger rootless_spawn
        Stranger rootless_pivot
        Stranger rootless_more_is_assumed_of_the_kernel_than_it_can
        Root what_the_image_says_of_its_user_namespace_is_not_believed
        Root mount_points_are_for_everybody
        Stranger rootless_refusals
        Stranger rootless_exec_without_proc
        Stranger in_a_user_namespace_already
    };
    run_cases(&cases)
}

/// Reads a file of a mount that is attached nowhere.
fn read(root: &layermount::RootMount, path: &str) -> Option<String> {
    let file =
        rustix::fs::openat(root.directory().unwrap(), path, rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty());
    let mut text = String::new();
    File::from(file.ok()?).read_to_string(&mut text).unwrap();
    Some(text)
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn mountinfo() -> String {
    fs::read_to_string("/proc/self/mountinfo").unwrap()
}

const GENERATIONS: [Kernel; 4] = [
    Kernel { layers: LayersBy::Descriptor, detached_layers: true },
    Kernel { layers: LayersBy::Descriptor, detached_layers: false },
    Kernel { layers: LayersBy::Path, detached_layers: false },
    Kernel { layers: LayersBy::Joined, detached_layers: false },
];

fn many(place: &TempDir, count: usize) -> Vec<PathBuf> {
    let layer = |index: usize| {
        let layer = place.path().join(format!("{index:04}"));
        put(&layer.join(format!("f{index}")), "");
        put(&layer.join("top"), &index.to_string());
        layer
    };
    (0..count).map(layer).collect()
}

// ---------------------------------------------------------------------------------------------------------- overlay

fn layers_in_any_number() {
    let place = place();
    let layers = many(&place, 700);
    for count in [1, 2, 128, 500, 501, 600] {
        let before = mountinfo();
        let root = Overlay::new(stack(&layers[..count])).mount().unwrap_or_else(|error| panic!("{count}: {error:#}"));
        assert_eq!(read(&root, "top").unwrap(), (count - 1).to_string(), "the last layer is on top");
        for index in [0, count / 2, count - 1] {
            assert!(read(&root, &format!("f{index}")).is_some(), "{count}: layer {index} is missing");
        }
        assert_eq!(mountinfo(), before, "nothing is to be seen");
    }
}

fn more_than_overlayfs_can_take_is_refused() {
    let place = place();
    let layers = many(&place, 1000);
    let error = Overlay::new(stack(&layers)).mount().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded);
    assert!(error.to_string().contains("1000"));
    assert!(Overlay::new(stack(&layers[1..])).mount().is_ok());
    assert_eq!(Overlay::new(stack(&[])).plan().unwrap_err().kind(), ErrorKind::InvalidImage);
}

fn older_kernels_are_made_do_with() {
    let place = place();
    let odd = place.path().join("o,d:d\\ \n");
    put(&odd.join("odd"), "odd");
    let mut layers = many(&place, 60);
    layers.push(odd);
    for kernel in GENERATIONS {
        nothing_of_the_host(&says(shell(&layers).kernel(kernel), "cat /proc/self/mountinfo"));
        for upper in [temporary(), Upper::ReadOnly, Upper::Persistent(place.path().join("up,per"))] {
            let what = format!("{kernel:?} {upper:?}");
            let before = mountinfo();
            let root = Overlay::new(stack(&layers)).upper(upper.clone()).kernel(kernel).mount();
            let root = root.unwrap_or_else(|error| panic!("{what}: {error:#}"));
            assert_eq!(read(&root, "odd").as_deref(), Some("odd"), "{what}");
            assert_eq!(read(&root, "top").as_deref(), Some("59"), "{what}");
            drop(root);
            assert_eq!(mountinfo(), before, "{what}");
        }
        assert_eq!(output(shell(&layers[..20]).kernel(kernel), sh("cat /top; touch /x && exit 3")), ("19".into(), 3));
        let error = shell(&[]).kernel(kernel).mount().unwrap().spawn(Command::new("nothing")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ProgramNotFound);
    }
    let joined = Overlay::new(stack(&many(&place, 400))).kernel(GENERATIONS[3]).mount().unwrap_err();
    assert!(format!("{joined:#}").contains("ENAMETOOLONG"), "{joined:#}");
    let nested = Overlay::new(stack(&many(&place, 600))).kernel(GENERATIONS[2]).mount().unwrap();
    assert!(read(&nested, "f0").is_some());
}

/// More layers than the oldest way can take, which this kernel has no need of.
fn more_is_assumed_of_the_kernel_than_it_can() {
    let place = place();
    let layers = many(&place, 400);
    let root = Overlay::new(stack(&layers)).assume(GENERATIONS[3]).mount().unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(read(&root, "top").as_deref(), Some("399"));
    drop(root);
    let error = Overlay::new(stack(&[place.path().join("0000"), place.path().join("0000/..")])).mount().unwrap_err();
    assert!(format!("{error:#}").contains("ELOOP"), "{error:#}");
}

fn rootless_more_is_assumed_of_the_kernel_than_it_can() {
    become_stranger();
    let place = place();
    let mut layers = many(&place, 400);
    layers.push(rootless_shell().plan().unwrap().lowers()[0].clone());
    let overlay = || {
        let layers = LayerStack::from_directories(layers.clone(), OverlayXattrs::User).unwrap();
        Overlay::new(layers).assume(GENERATIONS[3])
    };
    assert_eq!(output(overlay(), sh("cat /top; exit 3")), ("399".into(), 3));
    let error = overlay().mount().unwrap().spawn(Command::new("nothing")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ProgramNotFound);
    let error = overlay().kernel(GENERATIONS[3]).mount().unwrap().spawn(sh("true")).unwrap_err();
    assert!(format!("{error:#}").contains("ENAMETOOLONG"), "{error:#}");
    overlay().mount().unwrap().pivot().unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(fs::read_to_string("/top").unwrap(), "399");
}

fn whiteouts_opaque_directories_and_root_attributes() {
    let place = place();
    let (base, top) = (place.path().join("base"), place.path().join("top"));
    put(&base.join("gone"), "");
    put(&base.join("opaque/old"), "");
    put(&top.join("opaque/new"), "");
    rustix::fs::setxattr(top.join("opaque"), "trusted.overlay.opaque", b"y", rustix::fs::XattrFlags::empty()).unwrap();
    let whiteout = rustix::fs::mknodat(
        rustix::fs::CWD,
        top.join("gone"),
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::empty(),
        0,
    );
    whiteout.unwrap();
    fs::set_permissions(&top, Permissions::from_mode(0o1751)).unwrap();
    std::os::unix::fs::chown(&top, Some(7), Some(8)).unwrap();
    let time = rustix::fs::Timespec { tv_sec: 1000, tv_nsec: 5 };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    rustix::fs::futimens(File::open(&top).unwrap(), &times).unwrap();
    for upper in [temporary(), Upper::ReadOnly, Upper::Persistent(place.path().join("upper"))] {
        let root = Overlay::new(stack(&[base.clone(), top.clone()])).upper(upper).mount().unwrap();
        assert!(read(&root, "gone").is_none() && read(&root, "opaque/old").is_none());
        assert!(read(&root, "opaque/new").is_some());
        let stat = rustix::fs::fstat(root.directory().unwrap()).unwrap();
        assert_eq!((stat.st_mode & 0o7777, stat.st_uid, stat.st_gid), (0o1751, 7, 8));
        assert_eq!((stat.st_mtime, stat.st_mtime_nsec), (1000, 5));
    }
}

fn the_plan_prints_lowers_top_first() {
    let place = place();
    let layers = many(&place, 2);
    let upper = place.path().join("upper");
    let plan = Overlay::new(stack(&layers)).upper(Upper::Persistent(upper.clone())).plan().unwrap();
    let [base, top] = layers.as_slice() else { unreachable!() };
    assert_eq!(plan.lowers(), [top.clone(), base.clone()]);
    let expected = format!(
        "overlay redirect_dir=nofollow,metacopy=off,index=off\n  upper    {0}/upper\n  lower    {1}\n  lower    {2}\n",
        upper.display(),
        top.display(),
        base.display()
    );
    assert_eq!(plan.to_string(), expected);
    assert!(!upper.exists(), "a plan changes nothing");
}

fn attach_read_only_and_writable() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    rustix::mount::mount_change(
        "/",
        rustix::mount::MountPropagationFlags::REC | rustix::mount::MountPropagationFlags::PRIVATE,
    )
    .unwrap();
    let place = place();
    let target = place.path().join("target");
    fs::create_dir(&target).unwrap();
    let layers = many(&place, 1);
    Overlay::new(stack(&layers)).upper(Upper::ReadOnly).mount().unwrap().attach(&target).unwrap();
    assert_eq!(fs::read_to_string(target.join("top")).unwrap(), "0");
    assert_eq!(fs::write(target.join("new"), "").unwrap_err().raw_os_error(), Some(nix::libc::EROFS));
    rustix::mount::unmount(&target, rustix::mount::UnmountFlags::empty()).unwrap();
    assert!(!target.join("top").exists());
    Overlay::new(stack(&layers)).mount().unwrap().attach(&target).unwrap();
    fs::write(target.join("top"), "changed").unwrap();
    assert_eq!(fs::read_to_string(layers[0].join("top")).unwrap(), "0", "layers are never written to");
    rustix::mount::unmount(&target, rustix::mount::UnmountFlags::empty()).unwrap();
    let error = Overlay::new(stack(&layers)).mount().unwrap().attach(Path::new("/nowhere")).unwrap_err();
    assert!(format!("{error:#}").contains("ENOENT"), "{error:#}");
}

fn the_size_of_a_temporary_upper_is_a_limit() {
    let upper = Upper::Temporary { size: Some(1 << 20) };
    let text = says(shell(&[]).upper(upper), "dd if=/dev/zero of=/big bs=65536 count=64 2>/dev/null; stat -c %s /big");
    let size: u64 = text.parse().unwrap();
    assert!((1..=1 << 20).contains(&size), "{size}");
}

fn a_persistent_upper_is_kept_for_one_user_at_a_time() {
    let place = place();
    let upper = || Upper::Persistent(place.path().join("u:p,p\\er"));
    assert_eq!(says(shell(&[]).upper(upper()), "echo kept > /kept; cat /kept"), "kept");
    assert_eq!(says(shell(&[]).upper(upper()), "cat /kept"), "kept");
    let resolv = fs::read(place.path().join("u:p,p\\er/upper/etc/resolv.conf")).unwrap();
    assert!(resolv.is_empty(), "a mount point is made, contents are not");
    let mounted = shell(&[]).upper(upper()).mount().unwrap();
    let error = shell(&[]).upper(upper()).mount().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.to_string().contains(&format!("process {} (", std::process::id())), "{error}");
    // Whoever has started the child holds the lock, and the child is who has to end.
    let mut command = sh("sleep 100");
    command.stdout(Stdio::null());
    let mut child = mounted.spawn(command).unwrap();
    let error = shell(&[]).upper(upper()).mount().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.to_string().contains(&format!("process {} (", child.id())), "{error}");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(shell(&[]).upper(upper()).mount().is_ok());
    // Layers below the same directory are nobody's upper.
    let layer = place.path().join("layers/a");
    put(&layer.join("a"), "a");
    let mut command = sh("sleep 100");
    command.stdout(Stdio::null());
    let mut child = shell(&[layer]).mount().unwrap().spawn(command).unwrap();
    shell(&[]).upper(Upper::Persistent(place.path().to_owned())).mount().unwrap_or_else(|error| panic!("{error:#}"));
    child.kill().unwrap();
    child.wait().unwrap();
}

fn a_persistent_upper_is_busy_after_pivot_and_exec() {
    let place = place();
    for kernel in GENERATIONS {
        let upper = place.path().join("upper");
        // SAFETY: this process has one thread.
        let child = match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                let root = shell(&[]).upper(Upper::Persistent(upper)).kernel(kernel).mount().unwrap();
                let mut command = Command::new("sleep");
                command.arg("100").die_with_parent(true);
                panic!("{:#}", root.pivot().unwrap().exec(command));
            }
            ForkResult::Parent { child } => child,
        };
        let comm = format!("/proc/{child}/comm");
        wait_until("exec", || fs::read_to_string(&comm).unwrap().trim() == "sleep");
        let error = shell(&[]).upper(Upper::Persistent(upper)).mount().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy, "{kernel:?}");
        assert!(error.to_string().contains(&format!("process {child} (sleep)")), "{error}");
        nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL).unwrap();
        waitpid(child, None).unwrap();
    }
}

// ---------------------------------------------------------------------------------------------------------- pivot

fn pivot_keeps_descriptors_and_goes_on() {
    let place = place();
    put(&place.path().join("outside"), "outside");
    let mut open = File::open(place.path().join("outside")).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let before: Vec<_> = descriptors();
    shell(&[]).mount().unwrap().pivot().unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(descriptors(), before);
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text, "outside");
    std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    assert_eq!(std::env::current_dir().unwrap(), Path::new("/"));
    assert_eq!(fs::read_to_string("/etc/passwd").unwrap(), PASSWD);
    assert!(!Path::new("/usr/bin/env").exists() || !place.path().exists(), "the host is gone");
    let foreign: Vec<_> = mountinfo()
        .lines()
        .filter(|line| line.contains(" shared:") || line.contains(" master:"))
        .map(str::to_owned)
        .collect();
    assert!(foreign.is_empty(), "{foreign:?}");
    nothing_of_the_host(&mountinfo());
}

/// One root, and below it only what was put there.
fn nothing_of_the_host(mountinfo: &str) {
    let at = |line: &str| line.split(' ').nth(4).unwrap().to_owned();
    assert_eq!(mountinfo.lines().filter(|line| at(line) == "/").count(), 1, "{mountinfo}");
    for line in mountinfo.lines() {
        let known =
            ["/", "/proc", "/sys", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/etc/hostname", "/etc/hosts"];
        let masks = at(line).starts_with("/proc/") || at(line).starts_with("/sys/");
        assert!(masks || known.contains(&at(line).as_str()) || at(line) == "/etc/resolv.conf", "{line}");
    }
}

fn descriptors() -> Vec<(String, PathBuf)> {
    let mut all: Vec<_> = fs::read_dir("/proc/self/fd")
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter_map(|entry| Some((entry.file_name().into_string().unwrap(), fs::read_link(entry.path()).ok()?)))
        .filter(|(_, path)| !path.starts_with("/proc"))
        .map(|(number, path)| (number, PathBuf::from(path.file_name().unwrap_or_default())))
        .collect();
    all.sort();
    all
}

fn pivot_is_refused_with_threads() {
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || receiver.recv());
    let before = mountinfo();
    let error = shell(&[]).mount().unwrap().pivot().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MultiThreaded);
    assert!(error.to_string().contains("2 threads") && error.hint().unwrap().contains("spawn"));
    assert_eq!(mountinfo(), before);
    drop(sender);
    let _ = thread.join().unwrap();
}

fn exec_becomes_the_program() {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    // SAFETY: this process has one thread.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let inside = shell(&[]).mount().unwrap().pivot_with(&Furnish::none().proc(true).dev(true)).unwrap();
            let mut command = sh("echo $$ $HOME; id -u; exit 9");
            command.user("app").stdout(writer);
            panic!("{:#}", inside.exec(command));
        }
        ForkResult::Parent { child } => {
            drop(writer);
            let mut text = String::new();
            File::from(reader).read_to_string(&mut text).unwrap();
            assert_eq!(text, format!("{child} /home/app\n1000\n"));
            assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 9));
        }
    }
    let inside = shell(&[]).mount().unwrap().pivot().unwrap();
    let mut command = sh("x");
    command.hostname("late");
    assert_eq!(inside.exec(command).kind(), ErrorKind::InvalidInput);
}

// ---------------------------------------------------------------------------------------------------------- spawn

fn spawn_from_a_process_with_threads() {
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            // Threads that hold the allocator's locks most of the time.
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    std::hint::black_box(vec![0_u8; 4000]);
                }
            });
        }
        for _ in 0..30 {
            assert_eq!(output(shell(&[]), sh("echo $$; exit 7")), ("1".into(), 7));
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

fn exit_codes_and_errors() {
    let place = place();
    let layer = place.path().join("layer");
    put(&layer.join("bin/plain"), "x");
    put(&layer.join("bin/noexec"), "neither ELF nor #!");
    put(&layer.join("bin/nointerp"), "#!/no/such/shell\n");
    for name in ["noexec", "nointerp"] {
        fs::set_permissions(layer.join("bin").join(name), Permissions::from_mode(0o755)).unwrap();
    }
    let spawn = |command: Command| shell(std::slice::from_ref(&layer)).mount().unwrap().spawn(command);
    let failed = |program: &str| {
        let error = spawn(Command::new(program)).unwrap_err();
        (error.kind(), format!("{error:#} / {}", error.hint().unwrap_or_default()))
    };
    assert_eq!(spawn(sh("exit 42")).unwrap().wait().unwrap().code(), Some(42));
    assert_eq!(failed("nothing").0, ErrorKind::ProgramNotFound);
    assert_eq!(failed("/bin/nothing").0, ErrorKind::ProgramNotFound);
    let (kind, text) = failed("plain");
    assert!(kind == ErrorKind::ProgramNotExecutable && text.contains("EACCES"), "{text}");
    let (kind, text) = failed("noexec");
    assert!(kind == ErrorKind::ProgramNotExecutable && text.contains("ENOEXEC"), "{text}");
    let (kind, text) = failed("nointerp");
    assert!(kind == ErrorKind::ProgramNotExecutable && text.contains("interpreter"), "{text}");
    assert_eq!(failed("/bin").0, ErrorKind::ProgramNotExecutable);
    let error = nix::sys::wait::wait().unwrap_err();
    assert_eq!(error, nix::errno::Errno::ECHILD, "no zombies of failed spawns");
}

fn users_are_those_of_the_image() {
    let who = |user: &str| {
        let mut command = sh("echo $(id -u) $(id -g) $(id -G) $HOME");
        command.user(user);
        output(shell(&[]), command).0
    };
    assert_eq!(who(""), "0 0 0 /root");
    assert_eq!(who("app"), "1000 100 100 33 /home/app");
    assert_eq!(who("1000"), "1000 100 100 33 /home/app");
    assert_eq!(who("app:www"), "1000 33 33 /home/app");
    assert_eq!(who("4242"), "4242 0 0 /");
    assert_eq!(who("4242:4343"), "4242 4343 4343 /");
    assert_eq!(who("0"), "0 0 0 /root", "a number is not a name");
    for (user, kind) in [
        ("nobody", ErrorKind::UserNotFound),
        ("app:nogroup", ErrorKind::UserNotFound),
        ("a:b:c", ErrorKind::InvalidInput),
    ] {
        let mut command = sh("true");
        command.user(user);
        let error = shell(&[]).mount().unwrap().spawn(command).unwrap_err();
        assert_eq!(error.kind(), kind, "{error:#}");
    }
    let place = place();
    // The lists of users may be anything; nothing of it may stop a number, block, or be believed.
    for (name, make) in [
        ("link", (|path| symlink("/proc/self/environ", path).unwrap()) as fn(&Path)),
        ("fifo", |path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap()),
        ("large", |path| File::create(path).unwrap().set_len(1 << 30).unwrap()),
        ("directory", |path| fs::create_dir(path).unwrap()),
    ] {
        let layer = place.path().join(name);
        fs::create_dir_all(layer.join("etc")).unwrap();
        make(&layer.join("etc/passwd"));
        let mut command = sh("echo $HOME");
        command.user("1000");
        assert_eq!(output(shell(std::slice::from_ref(&layer)), command).0, "/", "{name}");
        let mut command = sh("true");
        command.user("app");
        let error = shell(&[layer]).mount().unwrap().spawn(command).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UserNotFound, "{name}");
    }
}

fn working_directories_and_environment() {
    let mut command = sh("pwd; stat -c '%a %u' .; echo $A-$PATH-$HOME-$LEAK; umask");
    // SAFETY: this process has one thread.
    unsafe { std::env::set_var("LEAK", "leak") };
    command.current_dir("/deep/er").env("A", "1").env("HOME", "/h");
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(output(shell(&[]), command).0, format!("/deep/er\n755 0\n1-{path}-/h-\n0022"));
    for (directory, errno) in [("/proc/self/fd/3", "ENOENT"), ("/proc/self/cwd", "ELOOP"), ("/etc/passwd", "ENOTDIR")] {
        let mut command = sh("true");
        command.current_dir(directory);
        let error = shell(&[]).mount().unwrap().spawn(command).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("working directory") && (text.contains(errno) || text.contains("ELOOP")), "{text}");
    }
}

fn bind_mounts() {
    let place = place();
    let (data, layer) = (place.path().join("data"), place.path().join("layer"));
    put(&data.join("file"), "data");
    symlink("/elsewhere/dir", make(&layer).join("link")).unwrap();
    symlink("../../../../escape", layer.join("up")).unwrap();
    let bound = |script: &str, binds: &[(&Path, &str, Access)]| {
        let mut command = sh(script);
        for (host, inside, access) in binds {
            command.bind(host, inside, *access);
        }
        output(shell(std::slice::from_ref(&layer)), command).0
    };
    let file = data.join("file");
    assert_eq!(bound("cat /a/b/file; touch /a/b/new && echo new", &[(&data, "/a/b", Access::ReadWrite)]), "datanew");
    assert!(data.join("new").exists());
    assert_eq!(bound("touch /ro/x 2>/dev/null || echo refused", &[(&data, "/ro", Access::ReadOnly)]), "refused");
    assert_eq!(bound("cat /etc/passwd", &[(&file, "/etc/passwd", Access::ReadOnly)]), "data");
    assert_eq!(bound("cat /new/file", &[(&file, "/new/file", Access::ReadOnly)]), "data");
    assert_eq!(bound("cat /elsewhere/dir/file", &[(&data, "/link", Access::ReadOnly)]), "data");
    assert_eq!(bound("cat /escape/file", &[(&data, "/up", Access::ReadOnly)]), "data");
    assert!(!Path::new("/escape").exists() && !Path::new("/elsewhere").exists());
    let refused = |host: &Path, inside: &str| {
        let mut command = sh("true");
        command.bind(host, inside, Access::ReadOnly);
        shell(&[]).mount().unwrap().spawn(command).unwrap_err()
    };
    assert_eq!(refused(Path::new("/no/such/thing"), "/x").kind(), ErrorKind::InvalidInput);
    let error = refused(&data, "/etc/passwd");
    assert!(format!("{error:#}").contains("ENOTDIR") && error.hint().is_some(), "{error:#}");
}

fn a_bind_of_the_whole_host_and_one_on_the_root() {
    let place = place();
    put(&place.path().join("there"), "there");
    let path = place.path().join("there");
    let mut command = sh(&format!("cat /host{}", path.display()));
    command.bind("/", "/host", Access::ReadOnly);
    assert_eq!(output(shell(&[]), command).0, "there");
    for root in ["/", "/bin/..", "."] {
        let mut command = sh("true");
        command.bind(place.path(), root, Access::ReadOnly);
        let error = shell(&[]).mount().unwrap().spawn(command).unwrap_err();
        assert!(error.hint().is_some_and(|hint| hint.contains("root")), "{error:#}");
    }
}

fn make(directory: &Path) -> &Path {
    fs::create_dir_all(directory).unwrap();
    directory
}

fn furnished_as_expected() {
    let mut command = sh(
        "hostname; cat /etc/hostname; echo $$; ls /proc | sh -c 'n=0; while read l; do case $l in [0-9]*) n=$((n+1));; esac; done; echo $n'",
    );
    command.hostname("inside.example");
    let (text, _) = output(shell(&[]), command);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(&lines[..3], ["inside.example", "inside.example", "1"]);
    assert!(lines[3].parse::<u32>().unwrap() <= 4, "only our own processes: {text}");
    let text = says(shell(&[]), "hostname; cat /etc/hostname; cat /etc/hosts");
    let name = text.lines().next().unwrap();
    assert!(name.len() == 12 && name.bytes().all(|byte| byte.is_ascii_hexdigit()), "{name}");
    assert_eq!(text.lines().nth(1), Some(name));
    assert!(text.contains("localhost") && text.contains(&format!("\t{name}")));
    let devices = "for d in null zero full random urandom tty; do stat -c '%n %t:%T %a' /dev/$d; done";
    let expected = "/dev/null 1:3 666\n/dev/zero 1:5 666\n/dev/full 1:7 666\n/dev/random 1:8 666\n/dev/urandom 1:9 666\n/dev/tty 5:0 666";
    assert_eq!(says(shell(&[]), devices), expected);
    let links = "readlink /dev/fd /dev/stdin /dev/stdout /dev/stderr /dev/ptmx; stat -f -c %T /dev/pts /dev/shm /dev/mqueue /proc /sys";
    let text = says(shell(&[]), links);
    assert!(text.starts_with("/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx\n"), "{text}");
    assert!(text.ends_with("devpts\ntmpfs\nmqueue\nproc\nsysfs"), "{text}");
    assert_eq!(
        says(shell(&[]), "echo x > /dev/null && stat -c %a /dev/shm && (: > /sys/kernel/x) 2>/dev/null || echo ro"),
        "1777\nro"
    );
    let mut bare = sh("ls -A /; cat /etc/resolv.conf 2>&- || echo none");
    bare.furnish(Furnish::none()).namespaces(Namespaces::empty());
    let (text, _) = output(shell(&[]), bare);
    assert!(!text.contains("proc") && !text.contains("dev") && text.ends_with("none"), "{text}");
}

fn hostile_trees_are_not_furnished() {
    let place = place();
    let outside = place.path().join("outside");
    fs::create_dir(&outside).unwrap();
    for directory in ["proc", "sys", "dev"] {
        let link = place.path().join(format!("{directory}-link"));
        symlink(&outside, make(&link).join(directory)).unwrap();
        let file = place.path().join(format!("{directory}-file"));
        put(&file.join(directory), "");
        for layer in [link, file] {
            let error = shell(&[layer]).mount().unwrap().spawn(sh("true")).unwrap_err();
            let text = format!("{error:#}");
            assert!(text.contains(&format!("furnish /{directory}")), "{text}");
            assert!(error.hint().unwrap().contains("ordinary directory"), "{text}");
        }
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    // A name server's file that is a link, as systemd-resolved leaves it, is no offence.
    let layer = place.path().join("resolv");
    symlink("../run/stub/resolv.conf", make(&layer.join("etc")).join("resolv.conf")).unwrap();
    assert_eq!(says(shell(&[layer]), "cat /etc/resolv.conf > /dev/null && echo read"), "read");
}

fn a_read_only_root_refuses_writes() {
    let script = "touch /x 2>/dev/null || echo refused; echo y > /dev/shm/y && cat /dev/shm/y; cat /etc/hostname > /dev/null && echo read";
    assert_eq!(says(shell(&[]).upper(Upper::ReadOnly), script), "refused\ny\nread");
    let script = "for f in hosts hostname resolv.conf; do (echo x > /etc/$f) 2>/dev/null || echo refused; done";
    assert_eq!(says(shell(&[]).upper(Upper::ReadOnly), script), "refused\nrefused\nrefused");
    let inside = shell(&[]).upper(Upper::ReadOnly).mount().unwrap().pivot().unwrap();
    assert_eq!(fs::write("/x", "").unwrap_err().raw_os_error(), Some(nix::libc::EROFS));
    let _still_inside = inside;
}

fn descriptors_do_not_leak() {
    let place = place();
    put(&place.path().join("kept"), "kept");
    let leaky = File::open(place.path()).unwrap();
    rustix::io::fcntl_setfd(&leaky, rustix::io::FdFlags::empty()).unwrap();
    let kept = File::open(place.path().join("kept")).unwrap();
    let number = kept.as_raw_fd();
    let mut command = sh("ls /proc/self/fd");
    command.stderr(Stdio::null());
    // 3 is the directory that ls itself reads.
    assert_eq!(output(shell(&[]), command).0, "0\n1\n2\n3");
    let mut command = sh(&format!("cat <&{number}"));
    command.preserve_fd(kept);
    assert_eq!(output(shell(&[]), command).0, "kept");
    let before = descriptors();
    for _ in 0..10 {
        output(shell(&[]), sh("true"));
        let _ = shell(&[]).mount().unwrap().spawn(Command::new("nothing"));
        drop(shell(&[]).kernel(GENERATIONS[2]).mount().unwrap());
    }
    assert_eq!(descriptors(), before);
}

/// A child may change its user in the memory of this process, which the kernel takes note of.
fn the_caller_goes_on_being_dumpable() {
    let dumpable = || rustix::process::dumpable_behavior().unwrap();
    assert_eq!(dumpable(), rustix::process::DumpableBehavior::Dumpable);
    let as_app = || {
        let mut command = sh("id -u");
        command.user("app");
        output(shell(&[]), command).0
    };
    assert_eq!(as_app(), "1000");
    assert_eq!(dumpable(), rustix::process::DumpableBehavior::Dumpable);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..10).for_each(|_| assert_eq!(as_app(), "1000")));
        }
    });
    assert_eq!(dumpable(), rustix::process::DumpableBehavior::Dumpable);
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable).unwrap();
    assert_eq!(as_app(), "1000");
    assert_eq!(dumpable(), rustix::process::DumpableBehavior::NotDumpable);
}

fn streams_and_signals() {
    let mut command = Command::new("cat");
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = shell(&[]).mount().unwrap().spawn(command).unwrap();
    child.stdin.take().unwrap().write_all(b"through").unwrap();
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!((text.as_str(), child.wait().unwrap().code()), ("through", Some(0)));

    let mut child = shell(&[]).mount().unwrap().spawn(sh("trap 'exit 5' TERM; while :; do sleep 0.02; done")).unwrap();
    wait_until("trap", || child.handles(Signal::TERM).unwrap());
    // The shell blocks all signals for the moment of a fork.
    wait_until("nothing is inherited as ignored", || !child.handles(Signal::HUP).unwrap());
    assert_eq!(child.try_wait().unwrap(), None);
    child.signal(Signal::HUP).unwrap();
    child.signal(Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(5));

    let mut command = sh("sleep 100");
    command.namespaces(Namespaces::default().without(Namespaces::PID));
    let mut child = shell(&[]).mount().unwrap().spawn(command).unwrap();
    child.signal(Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(nix::libc::SIGTERM));
    child.signal(Signal::TERM).unwrap();
}

fn nothing_is_left_behind() {
    let before = mountinfo();
    let sleeper = || {
        let mut command = sh("sleep 100 & sleep 100");
        command.stdout(Stdio::null()).die_with_parent(true);
        command
    };
    let mut child = shell(&[]).mount().unwrap().spawn(sleeper()).unwrap();
    assert_eq!(mountinfo(), before);
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(nix::libc::SIGKILL));
    assert_eq!(mountinfo(), before);

    // Now the parent is killed.
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    // SAFETY: this process has one thread.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let child = shell(&[]).mount().unwrap().spawn(sleeper()).unwrap();
            rustix::io::write(&writer, &child.id().to_ne_bytes()).unwrap();
            std::thread::sleep(Duration::from_secs(100));
        }
        ForkResult::Parent { child } => {
            let mut pid = [0; 4];
            rustix::io::read(&reader, &mut pid).unwrap();
            let pid = u32::from_ne_bytes(pid);
            let alive =
                |pid: u32| fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z"));
            assert!(alive(pid));
            nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL).unwrap();
            waitpid(child, None).unwrap();
            wait_until("the child dies with its parent", || !alive(pid));
            assert_eq!(mountinfo(), before);
        }
    }
}

/// From now on these system calls do not exist, as far as this process can tell.
fn hide(calls: &[nix::libc::c_long]) {
    use nix::libc::{self, BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter, sock_fprog};
    let step = |code: u32, k: u32, skip: u8| sock_filter { code: code as u16, jt: 0, jf: skip, k };
    let mut filter = vec![step(BPF_LD | BPF_W | BPF_ABS, 0, 0)];
    for call in calls {
        filter.push(step(BPF_JMP | BPF_JEQ | BPF_K, *call as u32, 1));
        filter.push(step(BPF_RET | BPF_K, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32, 0));
    }
    filter.push(step(BPF_RET | BPF_K, libc::SECCOMP_RET_ALLOW, 0));
    let program = sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the program and its steps live across the call, which copies them.
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    assert_eq!(result, 0);
}

fn children_without_newer_system_calls() {
    let leaky = File::open("/").unwrap();
    rustix::io::fcntl_setfd(&leaky, rustix::io::FdFlags::empty()).unwrap();
    hide(&[nix::libc::SYS_clone3, nix::libc::SYS_pidfd_open, nix::libc::SYS_close_range]);
    for kernel in GENERATIONS {
        assert_eq!(output(shell(&[]).kernel(kernel), sh("ls /proc/self/fd; exit 7")), ("0\n1\n2\n3".into(), 7));
    }
    for (call, hint) in [(nix::libc::SYS_openat2, "Linux 5.6"), (nix::libc::SYS_fsopen, "Linux 5.2")] {
        hide(&[call]);
        let error = shell(&[]).mount().unwrap_err();
        assert!(error.hint().is_some_and(|text| text.contains(hint)), "{error:#}: {:?}", error.hint());
    }
}

fn an_embedding_program_may_ignore_sigchld_and_have_timers() {
    use nix::libc;
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
    extern "C" fn nothing(_: libc::c_int) {}
    let handler = |handler| SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    let often = libc::timeval { tv_sec: 0, tv_usec: 200 };
    let timer = libc::itimerval { it_interval: often, it_value: often };
    for (signal, action) in [(Signal::SIGCHLD, SigHandler::SigIgn), (Signal::SIGALRM, SigHandler::Handler(nothing))] {
        // SAFETY: the handler does nothing.
        unsafe { sigaction(signal, &handler(action)) }.unwrap();
    }
    // SAFETY: the structure lives across the call.
    assert_eq!(unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) }, 0);
    for _ in 0..20 {
        let root = shell(&[]).kernel(GENERATIONS[2]).mount().unwrap_or_else(|error| panic!("{error:#}"));
        assert_eq!(read(&root, "etc/passwd").as_deref(), Some(PASSWD));
        let error = root.spawn(Command::new("nothing")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ProgramNotFound, "{error:#}");
    }
    nix::unistd::alarm::set(120);
}

/// Each has a process, which must not keep what the program closes: neither each other's pipes nor the program's own.
fn user_namespaces_that_are_made_hold_nothing_else() {
    let maps: IdMaps = "0:0:1000".parse().unwrap();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let first = UserNamespace::prepare(maps.clone()).unwrap();
    let second = UserNamespace::prepare(maps.clone()).unwrap();
    drop(writer);
    assert_eq!(reader.read(&mut [0]).unwrap(), 0, "the end is seen");
    drop(first);
    drop(second);
    // Nor does a process that was forked elsewhere keep theirs.
    let namespace = UserNamespace::prepare(maps).unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    // SAFETY: there is one thread; the child only waits.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            drop(writer);
            let _ = (&reader).read(&mut [0]);
            std::process::exit(0);
        }
        ForkResult::Parent { child } => {
            drop(namespace);
            drop(writer);
            assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)));
        }
    }
}

fn what_the_image_says_of_its_user_namespace_is_not_believed() {
    let place = place();
    put(&place.path().join("proc/self/setgroups"), "deny\n");
    put(&place.path().join("proc/self/uid_map"), "0 12345 1\n");
    nix::unistd::setgroups(&[Gid::from_raw(77)]).unwrap();
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    // SAFETY: this process has one thread.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let root = shell(&[place.path().to_owned()]).mount().unwrap();
            let mut command = Command::new("id");
            command.arg("-G").user("app").stdout(writer);
            panic!("{:#}", root.pivot_with(&Furnish::none()).unwrap().exec(command));
        }
        ForkResult::Parent { child } => {
            drop(writer);
            let mut text = String::new();
            File::from(reader).read_to_string(&mut text).unwrap();
            assert_eq!(text, "100 33\n");
            waitpid(child, None).unwrap();
        }
    }
}

fn mount_points_are_for_everybody() {
    let place = place();
    let file = place.path().join("file");
    put(&file, "seen");
    let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o777));
    let mut command = sh("cat /x/y/z");
    command.user("app").bind(&file, "/x/y/z", Access::ReadOnly);
    assert_eq!(output(shell(&[]), command).0, "seen");
    let furnish = Furnish::default().bind(&file, "/x/y/z", Access::ReadOnly);
    shell(&[]).mount().unwrap().pivot_with(&furnish).unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(fs::metadata("/x/y").unwrap().mode() & 0o777, 0o755);
    assert_eq!(rustix::process::umask(mask).as_raw_mode(), 0o777, "the process's own is as it was");
}

// ---------------------------------------------------------------------------------------------------------- rootless

fn rootless_exec_without_proc() {
    become_stranger();
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    // SAFETY: this process has one thread.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let inside = rootless_shell().mount().unwrap().pivot_with(&Furnish::none()).unwrap();
            let mut command = Command::new("id");
            command.arg("-u").stdout(writer);
            panic!("{:#}", inside.exec(command));
        }
        ForkResult::Parent { child } => {
            drop(writer);
            let mut text = String::new();
            File::from(reader).read_to_string(&mut text).unwrap();
            assert_eq!(text, "0\n");
            waitpid(child, None).unwrap();
        }
    }
}

/// As after `unshare --user --map-root-user`, without and with a mount namespace.
fn in_a_user_namespace_already() {
    fn enter(flags: nix::sched::CloneFlags) {
        become_stranger();
        nix::sched::unshare(flags | nix::sched::CloneFlags::CLONE_NEWUSER).unwrap();
        fs::write("/proc/self/setgroups", "deny").unwrap();
        fs::write("/proc/self/uid_map", format!("0 {STRANGER} 1")).unwrap();
        fs::write("/proc/self/gid_map", format!("0 {STRANGER} 1")).unwrap();
        let script =
            "id -u; echo x > /dev/null; stat -f -c %T /proc /dev/mqueue; (: > /sys/kernel/x) 2>/dev/null || echo ro";
        assert_eq!(says(rootless_shell(), script), "0\nproc\nmqueue\nro");
        let mut shared = sh("stat -f -c %T /proc");
        shared.namespaces(Namespaces::empty());
        assert_eq!(output(rootless_shell(), shared).0, "proc");
        rootless_shell().mount().unwrap().pivot().unwrap_or_else(|error| panic!("{error:#}"));
        assert!(Path::new("/proc/self/status").exists());
    }
    assert!(in_child(|| enter(nix::sched::CloneFlags::empty())));
    assert!(in_child(|| enter(nix::sched::CloneFlags::CLONE_NEWNS)));
}

fn rootless_spawn() {
    become_stranger();
    let before = mountinfo();
    let script = "id -u; echo $$; mkdir /d && rmdir /d && mkdir /d && touch /etc/x && echo written; echo x > /dev/null && cat /dev/null && stat -c %t:%T /dev/zero; stat -f -c %T /proc /dev/mqueue";
    for kernel in GENERATIONS {
        let (text, code) = output(rootless_shell().kernel(kernel), sh(script));
        assert_eq!((text.as_str(), code), ("0\n1\nwritten\n1:5\nproc\nmqueue", 0), "{kernel:?}");
    }
    assert_eq!(says(rootless_shell(), "(: > /sys/kernel/x) 2>/dev/null || echo ro"), "ro");
    // Directories of a lower layer that are removed and made again need the xattr of opaque directories.
    assert_eq!(
        says(rootless_shell(), "dd if=/etc/passwd of=/bin/sh 2>/dev/null; ls /etc | { read a; echo $a; }"),
        "group"
    );
    let place = place();
    let upper = || Upper::Persistent(place.path().join("upper"));
    assert_eq!(says(rootless_shell().upper(upper()), "echo kept > /kept; cat /kept"), "kept");
    assert_eq!(says(rootless_shell().upper(upper()), "cat /kept"), "kept");
    assert_eq!(fs::metadata(place.path().join("upper/upper/kept")).unwrap().uid(), STRANGER);
    let mut shared = sh("stat -f -c %T /proc; hostname");
    shared.namespaces(Namespaces::empty());
    assert_eq!(output(rootless_shell(), shared).1, 0);
    let threads = std::thread::scope(|scope| scope.spawn(|| says(rootless_shell(), "echo threads")).join().unwrap());
    assert_eq!(threads, "threads");
    assert_eq!(mountinfo(), before);
}

fn rootless_pivot() {
    become_stranger();
    rootless_shell().upper(Upper::ReadOnly).mount().unwrap().pivot().unwrap_or_else(|error| panic!("{error:#}"));
    assert!(Uid::effective().is_root());
    assert_eq!(fs::read_to_string("/etc/passwd").unwrap(), PASSWD);
    assert_eq!(fs::write("/x", "").unwrap_err().raw_os_error(), Some(nix::libc::EROFS));
    fs::write("/dev/shm/x", "").unwrap();
    fs::write("/dev/null", "x").unwrap();
    assert!(fs::write("/sys/kernel/mm/x", "").is_err());
    assert!(Path::new("/proc/self/status").exists());
}

fn rootless_refusals() {
    become_stranger();
    let error = rootless_shell().mount().unwrap().attach(Path::new("/mnt")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.hint().unwrap().contains("root"));
    let error = shell(&[]).mount().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "layers with marks that a user cannot read");
    let mut command = sh("true");
    command.user("app");
    let error = rootless_shell().mount().unwrap().spawn(command).unwrap_err();
    assert!(error.hint().unwrap().contains("mapped"), "{error:#}");
}
