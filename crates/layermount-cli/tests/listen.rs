//! Sockets and descriptors that `layermount run` passes on: `--listen`, `LISTEN_FDS`, `--preserve-fds`.

#![allow(clippy::disallowed_methods, reason = "tests write to directories of their own")]

mod world;

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Stdio};

use world::person::Home;
use world::{World, root};

fn shell() -> Option<(World, String)> {
    root()?;
    let world = World::new();
    let layout = world.shell_layout()?;
    Some((world, format!("oci:{layout}:shell")))
}

/// What a program is told of sockets, and which descriptors it has. From 5 up, the shell has some for its own work.
const TELL: &str = "echo $LISTEN_FDS $LISTEN_FDNAMES $LISTEN_PID $$; for fd in /proc/$$/fd/*; do n=${fd##*/}; \
                    [ $n -gt 2 ] && [ $n -lt 5 ] && echo $n $(readlink $fd); done; true";

#[track_caller]
fn prints(command: &mut Command) -> Vec<String> {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn sockets_are_passed_as_systemd_does() {
    let Some((world, image)) = shell() else { return };
    let path = world.path().join("x.sock");
    let unix = format!("unix:{},mode=0660,group=33,name=web", path.display());
    let mut command = world.layermount();
    command.args(["run", "--listen", &unix, "--listen", "tcp:127.0.0.1:0", &image, TELL]);
    assert_eq!(command.output().unwrap().status.code(), Some(125), "port 0 would be nobody's to know");
    assert!(!path.exists());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let found = |namespace: &str| {
        let mut command = world.layermount();
        let tcp = format!("tcp:{address}");
        prints(command.args(["run", "--pid", namespace, "--listen", &unix, "--listen", &tcp, &image, TELL]))
    };
    let lines = found("private");
    assert_eq!(lines[0], "2 web:unknown 1 1");
    assert!(lines[1].starts_with("3 socket:") && lines[2].starts_with("4 socket:") && lines.len() == 3, "{lines:?}");
    let lines = found("host");
    let words: Vec<_> = lines[0].split(' ').collect();
    assert!(words[2] == words[3] && words[2] != "1", "{lines:?}");
    assert!(!path.exists(), "it goes with the program");
}

/// One that waits until its standard input ends.
fn start(command: &mut Command) -> Child {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    child
}

#[track_caller]
fn fails(command: &mut Command, says: &str) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(125), "{command:?}: {stderr}");
    assert!(stderr.contains(says) && stderr.lines().count() <= 3, "{command:?}: {stderr}");
}

#[test]
fn a_path_is_taken_over_only_from_a_socket_that_is_dead() {
    let Some((world, image)) = shell() else { return };
    let path = world.path().join("x.sock");
    let unix = format!("unix:{},mode=0600,user=nobody", path.display());
    let run = |script: &str| {
        let mut command = world.layermount();
        command.args(["run", "--listen", &unix, &image, script]);
        command
    };
    drop(UnixListener::bind(&path).unwrap());
    let mut first = start(&mut run("echo up; read -r _; true"));
    let metadata = path.metadata().unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!((metadata.permissions().mode() & 0o777, metadata.uid()), (0o600, 65534));
    fails(&mut run("true"), "somebody listens there already");
    assert_eq!(path.metadata().unwrap().ino(), metadata.ino());
    // What somebody else has put there meanwhile stays.
    std::fs::remove_file(&path).unwrap();
    let other = UnixListener::bind(&path).unwrap();
    drop(first.stdin.take());
    assert!(first.wait().unwrap().success());
    assert!(path.exists());
    drop(other);
    std::fs::remove_file(&path).unwrap();
    for kind in ["file", "link"] {
        match kind {
            "file" => std::fs::write(&path, "x").unwrap(),
            _ => std::os::unix::fs::symlink("nowhere", &path).unwrap(),
        }
        fails(&mut run("true"), "not a socket");
        assert!(path.symlink_metadata().is_ok(), "{kind}");
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn sockets_that_cannot_be_had_are_named() {
    let Some((world, image)) = shell() else { return };
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let busy = format!("tcp:{}", taken.local_addr().unwrap());
    for (flags, says) in [
        (["--listen", busy.as_str()], busy.as_str()),
        (["--listen", "tcp:203.0.113.99:80"], "203.0.113.99"),
        (["--listen", "unix:/no/such/x.sock"], "/no/such"),
        (["--listen", "unix:/tmp/x,user=no-such-user"], "no-such-user"),
        (["--listen", "/tmp/x"], "unix:PATH"),
        (["--listen", "tcp::80,mode=0600"], "unix sockets"),
        (["--preserve-fds", "1"], "descriptor 3 is not open"),
        (["--preserve-fds", "0"], "preserve-fds"),
    ] {
        fails(world.layermount().arg("run").args(flags).args([&image, "true"]), says);
    }
}

#[test]
fn inherited_sockets_come_first_and_the_rest_behind() {
    let Some((world, image)) = shell() else { return };
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    for name in ["a", "b", "c", "d"] {
        std::fs::write(world.path().join(name), name).unwrap();
    }
    let tell = "cat <&3; cat <&4; echo $LISTEN_FDS $LISTEN_FDNAMES $LISTEN_PID; readlink /proc/$$/fd/5; cat <&6; cat <&7; \
                test -e /proc/$$/fd/8 || echo no more";
    let mut command = world.layermount();
    command.args(["run", "--listen", &format!("tcp:127.0.0.1:{port}"), "--preserve-fds", "2", &image, tell]);
    // As systemd does: the variables name the process that executes the program.
    let open = "exec 3<a 4<b 5<c 6<d; LISTEN_FDS=2 LISTEN_FDNAMES=one:two LISTEN_PID=$$ exec \"$@\"";
    let mut outer = Command::new("sh");
    outer.args(["-c", open, "sh"]).arg(command.get_program()).args(command.get_args()).current_dir(world.path());
    world.choose_backing(&mut outer);
    let lines = prints(&mut outer);
    assert!(
        lines[0] == "ab3 one:two:unknown 1" && lines[1].starts_with("socket:") && lines[2] == "cdno more",
        "{lines:?}"
    );
    // They are for somebody else.
    let open = "exec 3<a; LISTEN_FDS=1 LISTEN_PID=1 exec \"$@\"";
    let mut command = world.layermount();
    command.args(["run", &image, "echo -$LISTEN_FDS-; test -e /proc/$$/fd/3 || echo none"]);
    let mut outer = Command::new("sh");
    outer.args(["-c", open, "sh"]).arg(command.get_program()).args(command.get_args()).current_dir(world.path());
    assert_eq!(prints(world.choose_backing(&mut outer)), ["--", "none"]);
}

#[test]
fn ordinary_users_pass_sockets_on() {
    let Some(home) = Home::new() else { return };
    let Some(image) = home.several() else { return };
    let path = home.path("x.sock");
    let unix = format!("unix:{},mode=0600,name=web", path.display());
    let text = home.prints(&["run", "--listen", &unix, &image, TELL]);
    assert!(text.starts_with("1 web 1 1\n3 socket:"), "{text}");
    assert!(!path.exists());
}
