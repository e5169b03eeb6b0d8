//! Devices that are not a program's.

use layermount::{Access, BindOptions};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use super::*;

/// `/dev/kmsg` by another name; it is opened, and nothing is read.
const LOG: u64 = makedev(1, 11);

/// Makes a node in each directory, and opens it.
pub(super) fn make_nodes(directories: &[String]) {
    for directory in directories {
        let path = Path::new(directory).join("node");
        if let Err(errno) = mknod(&path, SFlag::S_IFCHR, Mode::all(), LOG) {
            println!("{directory} {errno:?}");
            continue;
        }
        match fs::File::open(&path) {
            Ok(_) => println!("{directory} done"),
            Err(error) => println!("{directory} {:?}", Errno::from_raw(error.raw_os_error().unwrap())),
        }
        fs::remove_file(path).unwrap();
    }
}

pub(super) fn no_node_of_another_device_can_be_made_or_used() {
    let host = place();
    let own = ["node", "/", "/dev", "/dev/shm", "/dev/mqueue", "/tmp", "/host"];
    let tmp = place();
    fs::create_dir(tmp.path().join("tmp")).unwrap();
    let found = |change: &dyn Fn(&mut Command)| {
        let at = place();
        let layers = [probe_layer(at.path()), tmp.path().to_owned()];
        let mut command = Command::new("/probe");
        command.args(own).bind(host.path(), "/host", Access::ReadWrite);
        change(&mut command);
        output(shell(&layers), command).0
    };
    let each = |errno: &str| {
        let lines = own[1..].iter().map(|directory| format!("{directory} {errno}"));
        lines.collect::<Vec<_>>().join("\n")
    };
    // A message queue is no file system for nodes at all.
    let but_queue =
        |text: String| text.lines().filter(|line| !line.starts_with("/dev/mqueue")).collect::<Vec<_>>().join("\n");
    let default = found(&|_| ());
    if cfg!(feature = "seccomp") {
        assert_eq!(default, each("EPERM"));
    } else {
        assert_eq!(but_queue(default), but_queue(each("EACCES")));
    }
    #[cfg(feature = "seccomp")]
    {
        // Where no filter is in the way, or somebody else's, they are made and cannot be used.
        let all = layermount::Seccomp::from_json(r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#).unwrap();
        for seccomp in [layermount::Seccomp::unconfined(), all] {
            let text = found(&|command| {
                command.seccomp(seccomp.clone());
            });
            assert_eq!(but_queue(text), but_queue(each("EACCES")));
            let mut command = sh("echo x > /dev/null && cat /dev/zero | dd bs=1 count=3 2>/dev/null | cat -v; ls /dev");
            command.seccomp(seccomp);
            let text = output(shell(&[]), command).0;
            assert!(text.starts_with("^@^@^@") && text.contains("urandom"), "{text}");
        }
    }
    // The attempt is a real one.
    let text = found(&|command| {
        command.privileged();
    });
    assert!(text.contains("/dev done"), "{text}");
}

pub(super) fn a_directory_of_the_host_has_no_usable_devices() {
    let host = place();
    let number = |name: &str, device| mknod(&host.path().join(name), SFlag::S_IFCHR, Mode::all(), device).unwrap();
    number("log", LOG);
    number("null", makedev(1, 3));
    let try_all = |change: &dyn Fn(&mut Command)| {
        let mut command = sh("for f in /host/log /host/null /node; do (: < $f) 2>/dev/null && echo $f; done; echo end");
        command.bind(host.path(), "/host", Access::ReadWrite).bind(
            host.path().join("null"),
            "/node",
            Access::ReadWrite,
        );
        change(&mut command);
        output(shell(&[]), command).0
    };
    // What was asked for by itself is had.
    assert_eq!(try_all(&|_| ()), "/node\nend");
    assert_eq!(
        try_all(&|command| {
            command.privileged();
        }),
        "/host/log\n/host/null\n/node\nend"
    );
    for (options, shows) in
        [(BindOptions::new(Access::ReadWrite), ""), (BindOptions::new(Access::ReadWrite).dev(true), "null")]
    {
        let mut command = sh("(: > /host-dev/null) 2>/dev/null && echo null");
        command.bind("/dev", "/host-dev", options);
        assert_eq!(output(shell(&[]), command).0, shows);
    }
}
