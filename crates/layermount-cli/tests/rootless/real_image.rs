//! A real Debian image with a Flask app, and its package manager.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::world::person::{Home, owner};
use crate::world::{host_mounts, missing, real_image};

/// A copy that belongs to the user.
#[track_caller]
fn image(home: &Home) -> Option<String> {
    let layout = home.path("image");
    let owner = format!("{}:{}", home.person.uid, home.person.gid);
    let run = |program: &str, arguments: &[&OsStr]| Command::new(program).args(arguments).status().unwrap().success();
    assert!(run("cp", &["-r".as_ref(), real_image()?.as_ref(), layout.as_ref()]));
    assert!(run("chown", &["-R".as_ref(), owner.as_ref(), layout.as_ref()]));
    Some(format!("oci:{}:helloworld-py", layout.display()))
}

/// What the server answers to a request for `/`, started as a user starts it.
#[track_caller]
fn serve(home: &Home, flags: &[&str], image: &str) -> String {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let variable = format!("PORT={port}");
    let arguments = [&["run"], flags, &["-e", &variable, "-h", "test-host", image]].concat();
    let mut child = home.command(&[], &arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let answer = loop {
        assert!(child.try_wait().unwrap().is_none(), "the server ended before it answered");
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            break answer;
        }
        assert!(Instant::now() < deadline, "no answer on port {port}");
        std::thread::sleep(Duration::from_millis(20));
    };
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), nix::sys::signal::Signal::SIGTERM).unwrap();
    child.wait().unwrap();
    answer
}

#[test]
fn it_serves_cold_and_warm() {
    let Some(home) = Home::new() else { return };
    let Some(image) = image(&home) else { return };
    let before = host_mounts();
    for flags in [&[][..], &[], &["--userns", "keep-id"]] {
        let answer = serve(&home, flags, &image);
        assert!(answer.contains("Hello, world, from test-host!"), "{flags:?}: {answer}");
    }
    assert_eq!(host_mounts(), before);
    let run = |program: &str, arguments: &[&str]| {
        home.prints(&[&["run", "-u", "0", "--entrypoint", program, &image], arguments].concat())
    };
    assert_eq!(run("whoami", &[]), "root\n");
    assert_eq!(run("stat", &["-c", "%U:%G %a", "/etc/shadow"]), "root:shadow 640\n");
    let person = &home.person;
    assert_eq!(owner(&home.in_store("usr/bin/chage")), (person.uid, person.gid_outside(42), 0o2755));
    assert!(home.prints(&["store", "verify"]).contains("all as unpacked"));
    assert!(home.prints(&["store", "prune", "--all"]).contains("1 image forgotten") || home.shelves().is_empty());
    assert_eq!((home.shelves(), home.stages()), (Vec::new(), 0));
}

/// apt fetches as the user `_apt`, and the package has files of a group of its own.
#[test]
fn packages_are_installed() {
    let Some(home) = Home::new() else { return };
    let Some(image) = image(&home) else { return };
    let upper = home.path("upper");
    let run = |script: &str| {
        let upper = upper.to_str().unwrap();
        let mut arguments = vec!["run", "--upper", upper, "-u", "0", "-w", "/"];
        // Where this machine reaches the network through a proxy, so does the image.
        for variable in ["http_proxy", "https_proxy", "no_proxy"] {
            if std::env::var_os(variable).is_some() {
                arguments.extend(["-e", variable]);
            }
        }
        arguments.extend(["--entrypoint", "/bin/sh", &image, "-euc", script]);
        let mut command = home.command(&[], &arguments);
        for variable in ["http_proxy", "https_proxy", "no_proxy"] {
            command.envs(std::env::var_os(variable).map(|value| (variable, value)));
        }
        crate::world::person::Said::of(&command.output().unwrap())
    };
    let updated = run("apt-get -qq -o Acquire::Retries=2 -o APT::Update::Error-Mode=any update");
    if updated.status != Some(0) {
        return missing("network", &format!("apt-get update fails: {}", updated.stderr.lines().last().unwrap_or("")));
    }
    let install =
        "DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends hello man-db >&2; hello";
    let installed = run(install);
    assert_eq!((installed.status, installed.stdout.as_str()), (Some(0), "Hello, world!\n"), "{}", installed.stderr);
    let kept = run("hello; stat -c %U /var/cache/man");
    assert_eq!((kept.status, kept.stdout.as_str()), (Some(0), "Hello, world!\nman\n"), "{}", kept.stderr);
}
