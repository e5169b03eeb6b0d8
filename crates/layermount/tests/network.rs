//! Networks and sockets of programs inside.
//!
//! This very binary runs inside: as `/probe` it says what it finds.

#![allow(unsafe_code, reason = "descriptors by number")]
#![allow(clippy::disallowed_methods, reason = "trees for tests are made by path")]

mod forked;

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use forked::*;
use layermount::{Command, ErrorKind, Namespaces, Network, Overlay, Pasta};
use nix::libc;

fn main() -> ExitCode {
    if std::env::args().next().as_deref() == Some("/probe") {
        return probe();
    }
    run_cases(&cases! {
        Root no_network_is_a_loopback_interface_that_is_up
        Root somebody_elses_namespace_is_joined
        Root the_network_of_another_program_is_joined
        Root hosts_and_resolvers_are_those_that_were_asked_for
        Root sockets_come_in_order_from_3_whatever_their_numbers_were
        Root a_process_that_becomes_a_program_passes_sockets_on
        Root pasta_lives_as_long_as_the_program_and_no_longer
        Stranger rootless_networks
    })
}

fn probe() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("network") => {
            let mut interfaces: Vec<_> =
                fs::read_dir("/sys/class/net").unwrap().map(|entry| entry.unwrap().file_name()).collect();
            interfaces.sort();
            println!("{interfaces:?} {}", fs::read_link("/proc/self/ns/net").unwrap().display());
            for address in ["127.0.0.1:0", "[::1]:0"] {
                let listener = TcpListener::bind(address).unwrap();
                let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                stream.write_all(b"x").unwrap();
                listener.accept().unwrap().0.read_exact(&mut [0]).unwrap();
            }
            println!("up");
        }
        Some("descriptors") => {
            let variable = |name| std::env::var(name).unwrap_or_default();
            println!("{} {}", variable("LISTEN_FDS"), variable("LISTEN_FDNAMES"));
            println!("{}", variable("LISTEN_PID") == std::process::id().to_string());
            println!("{}", std::process::id() == 1);
            for number in 3..12 {
                let mut text = [0_u8; 16];
                // SAFETY: reads at most as much as there is room for; what is not open answers -1.
                let length = unsafe { libc::pread(number, text.as_mut_ptr().cast(), text.len(), 0) };
                if let Ok(length) = usize::try_from(length) {
                    println!("{number} {}", String::from_utf8_lossy(&text[..length]));
                }
            }
        }
        Some("serve") => {
            for _ in 0..2 {
                // SAFETY: the test passes these two.
                let tcp = unsafe { TcpListener::from_raw_fd(3) };
                tcp.accept().unwrap().0.write_all(b"tcp").unwrap();
                std::mem::forget(tcp);
                // SAFETY: as above.
                let unix = unsafe { UnixListener::from_raw_fd(4) };
                unix.accept().unwrap().0.write_all(b"unix").unwrap();
                std::mem::forget(unix);
            }
        }
        _ => return ExitCode::FAILURE,
    }
    ExitCode::SUCCESS
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

fn probing(what: &str) -> Command {
    let mut command = Command::new("/probe");
    command.arg(what);
    command
}

fn asks(overlay: Overlay, what: &str, change: impl FnOnce(&mut Command)) -> Vec<String> {
    let mut command = probing(what);
    change(&mut command);
    let (text, code) = output(overlay, command);
    assert_eq!(code, 0, "{text}");
    text.lines().map(str::to_owned).collect()
}

fn no_network_is_a_loopback_interface_that_is_up() {
    let at = place();
    let layer = probe_layer(at.path());
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    let found = asks(shell(std::slice::from_ref(&layer)), "network", |command| {
        command.network(Network::none());
    });
    assert!(found[0].starts_with("[\"lo\"] ") && !found[0].ends_with(own.to_str().unwrap()), "{found:?}");
    assert_eq!(found[1], "up");
    let found = asks(shell(&[layer]), "network", |command| {
        command.network(Network::host());
    });
    assert!(found[0].ends_with(own.to_str().unwrap()), "{found:?}");
}

fn run(program: &str, arguments: &[&str]) {
    let status = std::process::Command::new(program).args(arguments).status().unwrap();
    assert!(status.success(), "{program} {arguments:?}");
}

/// `ip netns add`, seen by this process alone.
fn named_namespace() -> &'static str {
    use nix::mount::{MsFlags, mount};
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    mount(Some("run"), "/run", Some("tmpfs"), MsFlags::empty(), none).unwrap();
    run("ip", &["netns", "add", "lmtest"]);
    run("ip", &["-n", "lmtest", "link", "set", "lo", "up"]);
    // There is no interface that every kernel has but this.
    run("ip", &["-n", "lmtest", "tuntap", "add", "dev", "lmtest0", "mode", "tap"]);
    "/run/netns/lmtest"
}

fn somebody_elses_namespace_is_joined() {
    use std::os::unix::fs::MetadataExt as _;
    let at = place();
    let layer = probe_layer(at.path());
    let path = named_namespace();
    let found = asks(shell(&[layer]), "network", |command| {
        command.network(Network::at(path));
    });
    let inode = fs::metadata(path).unwrap().ino();
    assert_eq!(found[0], format!("[\"lmtest0\", \"lo\"] net:[{inode}]"), "sysfs is that of the namespace, too");
    let mut command = sh("true");
    let error = shell(&[]).mount().unwrap().spawn(command.network(Network::at("/dev/null"))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:#}");
}

fn the_network_of_another_program_is_joined() {
    let at = place();
    let layer = probe_layer(at.path());
    let mut command = sh("sleep 60");
    let mut first = shell(&[]).mount().unwrap().spawn(command.network(Network::none())).unwrap();
    let of_first = fs::read_link(format!("/proc/{}/ns/net", first.id())).unwrap();
    let found = asks(shell(&[layer]), "network", |command| {
        command.network(Network::of_process(first.id()));
    });
    assert!(found[0].starts_with("[\"lo\"] ") && found[0].ends_with(of_first.to_str().unwrap()), "{found:?}");
    first.kill().unwrap();
    first.wait().unwrap();
}

fn hosts_and_resolvers_are_those_that_were_asked_for() {
    let mut command = sh("cat /etc/hosts /etc/resolv.conf");
    let furnish = layermount::Furnish::default()
        .add_host("db", "10.0.0.1".parse().unwrap())
        .dns_server("192.0.2.53".parse().unwrap())
        .dns_search(".")
        .dns_option("ndots:3");
    command.furnish(furnish).network(Network::none()).hostname("box");
    let (text, _) = output(shell(&[]), command);
    let expected = "fe00::0\tip6-localnet\nff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n\
                    10.0.0.1\tdb\n127.0.1.1\tbox\nnameserver 192.0.2.53\noptions ndots:3";
    assert!(text.ends_with(expected), "{text}");
    let mut command = sh("true");
    command.furnish(layermount::Furnish::default().dns_search("a\nnameserver 1.2.3.4"));
    let error = shell(&[]).mount().unwrap().spawn(command).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:#}");
}

/// A file that says so.
fn saying(text: &str) -> OwnedFd {
    let path = BASE.get().unwrap().join(text);
    fs::write(&path, text).unwrap();
    File::open(path).unwrap().into()
}

/// The same under a number, in a process that has nothing else there.
fn saying_at(text: &str, number: i32) -> OwnedFd {
    use std::os::fd::AsRawFd as _;
    let file = saying(text);
    // SAFETY: takes integers.
    let high = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 100) };
    assert!(high >= 100);
    drop(file);
    // SAFETY: takes integers.
    assert_eq!(unsafe { libc::fcntl(number, libc::F_GETFD) }, -1, "{number} is free");
    // SAFETY: takes integers; the number is nobody's.
    assert_eq!(unsafe { libc::dup3(high, number, libc::O_CLOEXEC) }, number);
    // SAFETY: nobody else knows of it.
    unsafe { libc::close(high) };
    // SAFETY: it has just been made.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// Closes what the harness has left open.
fn only_standard_streams() {
    // SAFETY: a forked case has no use for them.
    assert_eq!(unsafe { libc::close_range(3, libc::c_uint::MAX, 0) }, 0);
}

fn sockets_come_in_order_from_3_whatever_their_numbers_were() {
    let at = place();
    let layer = probe_layer(at.path());
    for private in [true, false] {
        only_standard_streams();
        // Each lies where another belongs.
        let (b, c, a, e, d) =
            (saying_at("b", 3), saying_at("c", 5), saying_at("a", 4), saying_at("e", 6), saying_at("d", 7));
        let found = asks(shell(std::slice::from_ref(&layer)), "descriptors", |command| {
            command.listen(a, "first").listen(b, "").listen(c, "third").preserve_fd_as(d, 6).preserve_fd_as(e, 9);
            command.env("LISTEN_PID", "12").env("LISTEN_FDS", "7");
            if !private {
                command.namespaces(Namespaces::empty());
            }
        });
        let pid = if private { "true" } else { "false" };
        assert_eq!(found, ["3 first:unknown:third", "true", pid, "3 a", "4 b", "5 c", "6 d", "9 e"]);
    }
    // With nothing but standard streams, the pipe to the parent lies at 3.
    let found = asks(shell(&[layer]), "descriptors", |command| {
        command.listen(saying("a"), "a").listen(saying("b"), "b").preserve_fd_as(saying("c"), 11);
    });
    assert_eq!(found[3..], ["3 a", "4 b", "11 c"]);
    let mut command = sh("true");
    command.listen(saying("a"), "a").preserve_fd_as(saying("b"), 3);
    assert_eq!(shell(&[]).mount().unwrap().spawn(command).unwrap_err().kind(), ErrorKind::InvalidInput);
}

fn a_process_that_becomes_a_program_passes_sockets_on() {
    let at = place();
    let layer = probe_layer(at.path());
    let out = at.path().join("out");
    let file = File::create(&out).unwrap();
    // SAFETY: this process has one thread.
    match unsafe { nix::unistd::fork() }.unwrap() {
        nix::unistd::ForkResult::Child => {
            let inside = shell(&[layer]).mount().unwrap().pivot().unwrap();
            let mut command = probing("descriptors");
            // The first file of the image that is opened.
            let motd: OwnedFd = File::open("/etc/passwd").unwrap().into();
            command.stdout(file).listen(motd, "x");
            let error = inside.exec(command);
            panic!("{error:#}");
        }
        nix::unistd::ForkResult::Parent { child } => drop(nix::sys::wait::waitpid(child, None).unwrap()),
    }
    let text = fs::read_to_string(&out).unwrap();
    assert!(text.starts_with("1 x\ntrue\nfalse\n3 root:x:0:0"), "{text}");
    let inside = in_child(|| {
        let inside = shell(&[]).mount().unwrap().pivot().unwrap();
        let mut command = sh("true");
        let error = inside.exec(command.network(Network::none()));
        assert!(error.to_string().contains("a network belongs to entering"), "{error}");
    });
    assert!(inside);
    let sockets_work = in_child(|| {
        let at = place();
        let layer = probe_layer(at.path());
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        let path = at.path().join("socket");
        let unix = UnixListener::bind(&path).unwrap();
        let mut command = probing("serve");
        command.listen(tcp, "tcp").listen(unix, "unix").network(Network::none());
        let mut child = shell(&[layer]).mount().unwrap().spawn(command).unwrap();
        for _ in 0..2 {
            let mut text = String::new();
            TcpStream::connect(address).unwrap().read_to_string(&mut text).unwrap();
            std::os::unix::net::UnixStream::connect(&path).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "tcpunix");
        }
        assert!(child.wait().unwrap().success());
    });
    assert!(sockets_work, "sockets of the host's network serve a program that has none");
}

/// Whether pasta can work here.
fn has_pasta() -> bool {
    let required = std::env::var("LAYERMOUNT_REQUIRE").unwrap_or_default();
    let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let has_route = routes.lines().any(|line| line.split_whitespace().nth(1) == Some("00000000"));
    let has = Path::new("/usr/bin/pasta").exists() && Path::new("/dev/net/tun").exists() && has_route;
    assert!(has || !required.split(',').any(|word| word == "network"), "LAYERMOUNT_REQUIRE has network");
    if !has {
        eprintln!("SKIP: there is no pasta, no /dev/net/tun or no default route");
    }
    has
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(("0.0.0.0", port)).is_ok()
}

fn free_port() -> u16 {
    TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port()
}

fn pasta_lives_as_long_as_the_program_and_no_longer() {
    if !has_pasta() {
        return;
    }
    let port = free_port();
    let network = || Network::pasta(Pasta::new().publish(format!("{port}:80").parse().unwrap()));
    let start = |script: &str| {
        let mut command = sh(script);
        shell(&[]).mount().unwrap().spawn(command.network(network()))
    };
    let mut child = start("sleep 60").unwrap();
    assert!(!is_free(port));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(is_free(port), "when the program has been waited for, its port is free");
    // A program that never ran.
    let mut command = Command::new("/no/such/program");
    let error = shell(&[]).mount().unwrap().spawn(command.network(network())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ProgramNotFound);
    assert!(is_free(port));
    // A program that its parent leaves behind keeps its network.
    let pid_file = place();
    let pid_file = pid_file.path().join("pid");
    // SAFETY: this process has one thread.
    match unsafe { nix::unistd::fork() }.unwrap() {
        nix::unistd::ForkResult::Child => {
            fs::write(&pid_file, start("sleep 60").unwrap().id().to_string()).unwrap();
            // SAFETY: ends the process, as if it had been killed.
            unsafe { libc::_exit(0) }
        }
        nix::unistd::ForkResult::Parent { child } => drop(nix::sys::wait::waitpid(child, None).unwrap()),
    }
    assert!(!is_free(port));
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert!(!is_free(port));
    let program = nix::unistd::Pid::from_raw(fs::read_to_string(&pid_file).unwrap().parse().unwrap());
    nix::sys::signal::kill(program, nix::sys::signal::Signal::SIGKILL).unwrap();
    let since = std::time::Instant::now();
    while !is_free(port) {
        assert!(since.elapsed() < std::time::Duration::from_secs(5), "pasta outlives the program");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    // Two at a time do not get in each other's way, and the second cannot have the first one's port.
    let mut first = start("sleep 60").unwrap();
    assert_eq!(start("true").unwrap_err().kind(), ErrorKind::Busy);
    let mut command = sh("ls /sys/class/net");
    command.network(Network::pasta(Pasta::new()));
    let (text, _) = output(shell(&[]), command);
    assert!(text.lines().count() == 2 && text.contains("lo"), "{text}");
    first.kill().unwrap();
    first.wait().unwrap();
}

fn rootless_networks() {
    become_stranger();
    let says = |network: Network, script: &str| {
        let mut command = sh(script);
        command.network(network);
        output(rootless_shell(), command).0
    };
    let found = says(Network::none(), "ls /sys/class/net; cat /sys/class/net/lo/operstate; cat /proc/net/if_inet6");
    assert!(found.starts_with("lo\nunknown\n00000000000000000000000000000001"), "{found}");
    let refused = |network: Network| {
        let mut command = sh("true");
        rootless_shell().mount().unwrap().spawn(command.network(network)).unwrap_err()
    };
    let error = refused(Network::at("/proc/self/ns/net"));
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error:#}");
    assert!(error.hint().unwrap().contains("user namespace that owns it"), "{:?}", error.hint());
    let error = refused(Network::of_process(1));
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error:#}");
    let error = refused(Network::pasta(Pasta::new()));
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:#}");
    assert!(error.hint().unwrap().contains("UserNamespace"));
}
