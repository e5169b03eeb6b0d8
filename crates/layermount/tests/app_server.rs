//! The embedding example as its users run it: a server that moves itself into an image and keeps its socket.

#![allow(clippy::disallowed_methods, reason = "tests write to directories of their own")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use layermount_fixtures::{Layout, Recipe};

fn example() -> PathBuf {
    // target/<profile>/deps/app_server-<hash> stands beside target/<profile>/examples/.
    let test = std::env::current_exe().unwrap();
    test.parent().unwrap().parent().unwrap().join("examples/app_server")
}

fn get(address: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

#[test]
fn the_example_serves_from_inside() {
    let directory = tempfile::tempdir().unwrap();
    let owner = format!("{}:{}", nix::unistd::geteuid(), nix::unistd::getegid());
    let recipe = format!(
        "layer\ndir 0755 {owner} /\ndir 0755 {owner} /etc\nfile 0644 {owner} /etc/os-release \"PRETTY_NAME=\\\"Test OS\\\"\\n\"\n"
    );
    let layout = Layout::create(directory.path().join("layout")).unwrap();
    layout.add("image", &Recipe::parse(&recipe).unwrap().build().unwrap()).unwrap();
    // A port that was free just now.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut server = Command::new(example())
        .args([&address, &format!("oci:{}:image", layout.path().display())])
        .env("HOME", directory.path())
        .env("XDG_DATA_HOME", directory.path())
        .env("LAYERMOUNT_STORE", directory.path().join("store"))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let answer = loop {
        if let Some(answer) = get(&address, "/") {
            break answer;
        }
        if let Some(status) = server.try_wait().unwrap() {
            let mut said = String::new();
            server.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            panic!("the server ended with {status}: {said}");
        }
        assert!(Instant::now() < deadline, "no answer");
        std::thread::sleep(Duration::from_millis(10));
    };
    let missing = get(&address, "/etc/machine-id-of-the-host").unwrap();
    server.kill().unwrap();
    server.wait().unwrap();
    assert!(answer.contains("Hello from inside Test OS"), "{answer}");
    assert!(missing.starts_with("HTTP/1.0 404"), "{missing}");
}
