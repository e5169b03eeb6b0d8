//! The network of `layermount run`'s programs: `--network`, `-p`, and the names that they know.

#![allow(clippy::disallowed_methods, reason = "tests write to directories of their own")]

mod world;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use world::person::{Home, Otherwise};
use world::{World, docker, docker_host, missing, program, root};

/// A store and the reference of the image with a shell.
fn shell() -> Option<(World, String)> {
    root()?;
    let world = World::new();
    let layout = world.shell_layout()?;
    Some((world, format!("oci:{layout}:shell")))
}

/// Where pasta can work.
fn pasta() -> Option<()> {
    program("pasta")?;
    if !Path::new("/dev/net/tun").exists() {
        missing("network", "there is no /dev/net/tun");
        return None;
    }
    let routes = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    if !routes.lines().any(|line| line.split_whitespace().nth(1) == Some("00000000")) {
        missing("network", "the machine has no default route, which pasta makes a copy of");
        return None;
    }
    Some(())
}

fn prints(world: &World, flags: &[&str], image: &str, script: &str) -> String {
    let mut command = world.layermount();
    command.args(["run", "--user", "0"]).args(flags).args([image, script]);
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{flags:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn names_are_dockers() {
    let Some(host) = docker_host() else { return };
    let Some((world, image)) = shell() else { return };
    let tree = world.path().join("tree");
    world.output(&["unpack", &image, tree.to_str().unwrap()]);
    let name = "layermount-test-network:latest";
    let tar = Command::new("tar").arg("-C").arg(&tree).args(["-c", "."]).output().unwrap();
    let file = world.path().join("tree.tar");
    std::fs::write(&file, tar.stdout).unwrap();
    docker(&host, &["import", file.to_str().unwrap(), name]);
    let theirs = |network: &str, flags: &[&str], script: &str| {
        let run = ["run", "--rm", "--network", network, "--hostname", "box"];
        docker(&host, &[&run[..], flags, &[name, "/bin/busybox", "sh", "-c", script]].concat())
    };
    let ours = |network: &str, flags: &[&str], script: &str| {
        prints(&world, &[&["--network", network, "--hostname", "box"], flags].concat(), &image, script)
    };
    let of_resolver = [
        &[][..],
        &["--dns", "192.0.2.1", "--dns", "2001:db8::1"],
        &["--dns-search", "a.example", "--dns-search", "b.example"],
        &["--dns-search", "."],
        &["--dns-opt", "ndots:3", "--dns-option", "rotate"],
        &["--dns", "192.0.2.1", "--dns-search", "x.example", "--dns-option", "ndots:2"],
    ];
    for network in ["host", "none"] {
        for flags in of_resolver {
            let script = "cat /etc/resolv.conf";
            assert_eq!(ours(network, flags, script), theirs(network, flags, script), "{network} {flags:?}");
        }
    }
    // Where the network is the host's, docker forgets the host's names as soon as one is added.
    for flags in [&[][..], &["--add-host", "db:10.0.0.1", "--add-host", "six:2001:db8::2", "--add-host", "e=10.0.0.2"]]
    {
        let script = "cat /etc/hosts";
        let ours = ours("none", flags, script);
        assert_eq!(ours, theirs("none", flags, script) + "127.0.1.1\tbox\n", "{flags:?}");
    }
    let theirs = theirs("host", &[], "cat /etc/hosts");
    assert!(ours("host", &[], "cat /etc/hosts").starts_with(&theirs));
    let with_db = ours("host", &["--add-host", "db:10.0.0.1"], "cat /etc/hosts");
    assert!(with_db.starts_with(&format!("10.0.0.1\tdb\n{theirs}")), "{with_db}");
    docker(&host, &["rmi", "-f", name]);
}

#[test]
fn networks_of_others() {
    let Some((world, image)) = shell() else { return };
    let alone = prints(&world, &["--network", "none"], &image, "ls /sys/class/net; ping -c 1 -W 2 127.0.0.1");
    assert!(alone.starts_with("lo\n") && alone.contains("1 packets received"), "{alone}");
    let mut command = world.layermount();
    command.args(["run", "--net", "none", &image, "readlink /proc/self/ns/net; read -r _; true"]);
    let mut first = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut namespace = String::new();
    BufReader::new(first.stdout.as_mut().unwrap()).read_line(&mut namespace).unwrap();
    let pid = child_of(first.id());
    let joined = prints(&world, &["--net", &format!("container:{pid}")], &image, "readlink /proc/self/ns/net");
    assert_eq!(joined, namespace);
    let path = format!("ns:/proc/{pid}/ns/net");
    assert_eq!(prints(&world, &["--net", &path], &image, "readlink /proc/self/ns/net"), namespace);
    drop(first.stdin.take());
    first.wait().unwrap();
}

/// The one child of a process: the program itself.
fn child_of(pid: u32) -> u32 {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    children.trim().parse().unwrap()
}

#[test]
fn what_cannot_be_had_is_said_in_a_line() {
    let Some((world, image)) = shell() else { return };
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let busy = format!("{}:80", taken.local_addr().unwrap().port());
    for (flags, says) in [
        (&["-p", "80"][..], "at random"),
        (&["-p", "8080:80/sctp"], "tcp and udp"),
        (&["-p", "8080:80", "--net", "host"], "-p cannot be had"),
        (&["-p", "8080:80", "--net", "none"], "-p cannot be had"),
        (&["-p", "8080:80", "--net", "container:1"], "-p cannot be had"),
        (&["--net", "bridge"], "pasta takes its place"),
        (&["--net", "my-network"], "pasta"),
        (&["--net", "container:web"], "container:PID"),
        (&["--net", "container:99999999"], "process 99999999"),
        (&["--net", "ns:/no/such"], "/no/such"),
        (&["--net", "ns:/etc/passwd"], "not a network namespace"),
        (&["--dns", "localhost"], "not an IP address"),
        (&["--dns-search", "a b"], "one word"),
        (&["--add-host", "db:x"], "not an IP address"),
        (&["--add-host", "db:host-gateway"], "host-gateway"),
    ] {
        fails(world.layermount().arg("run").args(flags).args([&image, "true"]), says);
    }
    if pasta().is_some() {
        fails(
            world.layermount().args(["run", "-p", &busy, &image, "true"]),
            &format!("port {} ", taken.local_addr().unwrap().port()),
        );
        fails(world.layermount().args(["run", "--net", "pasta:--nonsense", &image, "true"]), "nonsense");
        fails(world.layermount().args(["run", "--net", "pasta:--netns,x", &image, "true"]), "--netns");
    }
    let mut without = world.layermount();
    fails(without.args(["run", "--net", "pasta", &image, "true"]).env("PATH", "/nowhere"), "passt");
}

#[track_caller]
fn fails(command: &mut Command, says: &str) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(125), "{command:?}: {stderr}");
    // One line of what, one of why, one of what to do.
    assert!(stderr.contains(says) && stderr.lines().count() <= 3, "{command:?}: {stderr}");
}

/// A port that is free at this moment, for both protocols.
fn free_port() -> u16 {
    let tcp = TcpListener::bind("[::]:0").unwrap();
    let port = tcp.local_addr().unwrap().port();
    UdpSocket::bind(SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), port))
        .map_or_else(|_| free_port(), |_| port)
}

/// Answers one request, then waits for a datagram at a port where nobody listens: the kernel counts those.
const SERVER: &str = "ls /sys/class/net | tr '\\n' ' '; echo up; echo x >/tmp-f; busybox httpd -p 80 -h /; \
    until grep -q '^Udp: [0-9]* [1-9]' /proc/net/snmp; do sleep 0.05; done; echo datagram; read -r _; true";

/// The program, its server running; and everything that belongs to it.
struct Published {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
    port: u16,
    /// Of layermount, the keeper, the program and pasta.
    processes: Vec<u32>,
}

impl Published {
    fn start(mut command: Command, port: u16) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut first = String::new();
        output.read_line(&mut first).unwrap();
        let interfaces: Vec<_> = first.split_whitespace().collect();
        // There from the first instruction on.
        assert!(interfaces.len() == 3 && interfaces.contains(&"lo") && interfaces.ends_with(&["up"]), "{first:?}");
        let processes = with_descendants(child.id());
        assert!(processes.iter().any(|pid| words(*pid).starts_with("pasta")), "{processes:?}");
        Self { child, output, port, processes }
    }

    fn answers(&self, address: &str) {
        let address: SocketAddr = format!("{address}:{}", self.port).parse().unwrap();
        // httpd may not listen yet.
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let mut answer = String::new();
            if let Ok(mut stream) = TcpStream::connect(address) {
                stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                let _ =
                    stream.write_all(b"GET /tmp-f HTTP/1.0\r\n\r\n").and_then(|()| stream.read_to_string(&mut answer));
            }
            if answer.contains("200 OK") {
                return;
            }
            assert!(Instant::now() < deadline, "{address} does not answer: {answer:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn takes_datagrams(&mut self) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(b"x", ("127.0.0.1", self.port)).unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert_eq!(line, "datagram\n");
    }

    /// Nothing of it is left, nor anything at its port.
    fn assert_gone(&self, within: Duration) {
        let deadline = Instant::now() + within;
        loop {
            let left: Vec<_> = self.processes.iter().filter(|pid| is_alive(**pid)).map(|pid| words(*pid)).collect();
            let bound = TcpListener::bind(("0.0.0.0", self.port)).and(UdpSocket::bind(("0.0.0.0", self.port)));
            if left.is_empty() && bound.is_ok() {
                return;
            }
            assert!(Instant::now() < deadline, "left: {left:?}, {bound:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn words(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().replace('\0', " ")
}

/// Zombies are not: who reaps them is not theirs to decide.
fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(") ").next().unwrap_or_default().starts_with('Z'))
}

fn with_descendants(pid: u32) -> Vec<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let below = children.split_whitespace().flat_map(|child| with_descendants(child.parse().unwrap()));
    std::iter::once(pid).chain(below).collect()
}

fn publishing(port: u16, image: &str) -> [String; 9] {
    let (tcp, udp) = (format!("{port}:80"), format!("127.0.0.1:{port}:81/udp"));
    ["run", "--user", "0", "-p", &tcp, "-p", &udp, image]
        .map(str::to_owned)
        .into_iter()
        .chain([SERVER.to_owned()])
        .collect::<Vec<_>>()
        .try_into()
        .unwrap()
}

/// Serves, and leaves nothing behind however it ends.
fn serves_and_goes(start: impl Fn(u16) -> Command) {
    for end in [None, Some(Signal::SIGTERM), Some(Signal::SIGKILL)] {
        let port = free_port();
        let mut published = Published::start(start(port), port);
        published.answers("127.0.0.1");
        for address in own_addresses() {
            published.answers(&address);
        }
        published.takes_datagrams();
        // Waiting would close it, which ends the program as well.
        let mut stdin = published.child.stdin.take();
        match end {
            None => drop(stdin.take()),
            Some(signal) => kill(Pid::from_raw(published.child.id().cast_signed()), signal).unwrap(),
        }
        let status = published.child.wait().unwrap();
        drop(stdin);
        // When layermount could still see to it, everything is gone with it.
        let patience = if end == Some(Signal::SIGKILL) { Duration::from_secs(5) } else { Duration::ZERO };
        published.assert_gone(patience);
        match end {
            None => assert_eq!(status.code(), Some(0)),
            Some(Signal::SIGTERM) => assert_eq!(status.code(), Some(143)),
            _ => {}
        }
    }
}

/// By which others reach this machine.
fn own_addresses() -> Vec<String> {
    let output = Command::new("ip").args(["-o", "addr", "show", "scope", "global"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let addresses =
        text.lines().filter_map(|line| line.split_whitespace().nth(3)?.split('/').next().map(str::to_owned));
    addresses.map(|address| if address.contains(':') { format!("[{address}]") } else { address }).collect()
}

#[test]
fn published_ports_of_root_lead_inside() {
    let Some((world, image)) = shell() else { return };
    if pasta().is_none() {
        return;
    }
    serves_and_goes(|port| {
        let mut command = world.layermount();
        command.args(publishing(port, &image));
        command
    });
}

#[test]
fn published_ports_of_ordinary_users_lead_inside() {
    let Some(home) = Home::new() else { return };
    let Some(image) = home.several() else { return };
    if pasta().is_none() {
        return;
    }
    serves_and_goes(|port| {
        let arguments = publishing(port, &image);
        home.command(&[Otherwise::OpenTun], &arguments.each_ref().map(String::as_str))
    });
    let said = home.layermount(&[Otherwise::OpenTun], &["run", "-p", "80:80", &image, "true"]);
    said.assert(125, &["cannot publish port 80", "ip_unprivileged_port_start"]);
    // With a single user, there is nobody but root in the namespace that the network belongs to.
    let arguments = ["run", "--network", "pasta", &image, "ls /sys/class/net"];
    let said = home.layermount(&[Otherwise::OpenTun, Otherwise::NoRanges], &arguments);
    assert!(said.status == Some(0) && said.stdout.lines().count() == 2, "{said:#?}");
    let said = home.layermount(
        &[Otherwise::OpenTun],
        &["run", "--userns", "keep-id", "--network", "pasta", &image, "id -u; ls /sys/class/net"],
    );
    assert!(
        said.stdout.starts_with(&format!("{}\n", home.person.uid)) && said.stdout.lines().count() == 3,
        "{said:#?}"
    );
    let said = home.layermount(&[], &["run", "--network", "container:1", &image, "true"]);
    said.assert(125, &["cannot join the network namespace", "user namespace that owns it"]);
}

#[test]
fn what_listens_at_the_hosts_loopback_stays_out_of_reach() {
    let Some((world, image)) = shell() else { return };
    if pasta().is_none() {
        return;
    }
    let secret = TcpListener::bind("127.0.0.1:0").unwrap();
    secret.set_nonblocking(true).unwrap();
    let port = secret.local_addr().unwrap().port();
    let script = format!(
        "for address in 127.0.0.1 $(ip route | sed -n 's/default via \\([^ ]*\\).*/\\1/p'); do \
         echo x | nc -w 2 $address {port} && echo reached $address; done; cat /etc/resolv.conf"
    );
    let text = prints(&world, &["--net", "pasta"], &image, &script);
    assert!(!text.contains("reached") && secret.accept().is_err(), "{text}");
    assert!(!text.contains("nameserver 127."), "{text}");
}
