//! The main job on a real Debian image with a Flask app, from a real dockerd and from an OCI layout.
//!
//! `.ci/run` builds the image and starts the dockerd; without them these tests say SKIP.

#![allow(clippy::disallowed_methods, reason = "tests write to directories of their own")]

mod world;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use layermount_fixtures::tree::{self, Ignore};
use world::{
    Backing, World, docker, docker_host, docker_vfs_host, for_both_backings, host_mounts, private_mounts, real_image,
};

for_both_backings! {
    oci_layout_serves_cold_and_warm,
    the_tree_equals_dockers_own_overlay,
    the_tree_equals_what_umoci_unpacks,
    a_remote_docker_streams_into_the_store_and_is_not_asked_again,
    killed_pulls_leave_a_store_that_heals,
    eight_pulls_at_once_do_the_work_once,
    killed_runs_leave_no_mount,
    a_driver_that_keeps_whole_trees_is_used_in_place,
}

/// A server started by `layermount run`.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(world: &World, reference: &str, flags: &[&str]) -> Self {
        // One that was free just now.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = world
            .layermount()
            .arg("run")
            .args(flags)
            .args(["-e", &format!("PORT={port}"), "-h", "test-host", reference])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, port }
    }

    /// Asks for `/` until the server answers.
    fn get(&mut self) -> String {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the server ended with {status} before it answered");
            }
            if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) {
                stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).unwrap();
                return answer;
            }
            assert!(Instant::now() < deadline, "no answer on port {}", self.port);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Asks the server to end, and waits until it has. Not by SIGINT, which is ignored where the tests run in the background.
    fn stop(&mut self) -> std::process::ExitStatus {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the server does not end on SIGTERM");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A test that fails leaves no server.
impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn assert_serves(world: &World, reference: &str, flags: &[&str]) {
    let mut server = Server::start(world, reference, flags);
    let answer = server.get();
    assert!(answer.contains("Hello, world, from test-host!"), "{answer}");
    server.stop();
}

#[test]
fn docker_image_serves_in_place_and_the_store_does_not_grow() {
    let Some(host) = docker_host() else { return };
    let before = host_mounts();
    let world = World::new();
    assert_serves(&world, "helloworld-py", &["--host", &host]);
    let df = world.output(&["store", "df"]);
    assert!(!world.store().join("layers").exists(), "something was unpacked: {df}");
    assert_eq!(host_mounts(), before);
}

fn oci_layout_serves_cold_and_warm(backing: Backing) {
    let Some(layout) = real_image() else { return };
    let before = host_mounts();
    let world = World::with_backing(backing);
    let reference = format!("oci:{}:helloworld-py", layout.display());
    assert_serves(&world, &reference, &[]);
    let unpacked = world.layer_inodes();
    assert!(unpacked.len() >= 4, "{unpacked:?}");
    assert_serves(&world, &reference, &[]);
    assert_eq!(world.layer_inodes(), unpacked, "a warm start unpacks nothing");
    assert_eq!(host_mounts(), before);
}

/// What an engine puts into every container of its own, and what its unpacker changes: dockerd makes the root directory
/// anew, and turns times before 1970 into 1970.
fn ignoring_dockers_own() -> Ignore {
    let paths = |paths: &[&str]| paths.iter().map(PathBuf::from).collect();
    Ignore {
        mtimes: paths(&["", "etc", "srv/app/data/old"]),
        paths: paths(&["dev", "proc", "sys", "etc/hostname", "etc/hosts", "etc/resolv.conf", "etc/mtab", ".dockerenv"]),
        ..Ignore::default()
    }
}

#[track_caller]
fn assert_equal_trees(ours: &Path, theirs: &Path, ignore: &Ignore) {
    let differences = tree::differences(ours, theirs, ignore).unwrap();
    let shown = &differences[..differences.len().min(10)];
    assert!(differences.is_empty(), "{} differences, such as {shown:#?}", differences.len());
}

fn the_tree_equals_dockers_own_overlay(backing: Backing) {
    let Some(host) = docker_host() else { return };
    let Some(layout) = real_image() else { return };
    // The container's overlay is mounted by dockerd, in the namespace that this thread leaves only as a copy.
    let name = format!("layermount-test-{}-{}", backing.name(), std::process::id());
    docker(
        &host,
        &["run", "-d", "--network", "none", "--name", &name, "--entrypoint", "sleep", "helloworld-py", "600"],
    );
    let merged = docker(&host, &["inspect", "-f", "{{.GraphDriver.Data.MergedDir}}", &name]);
    private_mounts();
    let world = World::with_backing(backing);
    let compared = std::panic::catch_unwind(|| {
        for reference in ["helloworld-py".to_owned(), format!("oci:{}:helloworld-py", layout.display())] {
            let mounted = world.mount(&["--host", &host], &reference);
            assert_equal_trees(&mounted, Path::new(merged.trim()), &ignoring_dockers_own());
            world.output(&["umount", mounted.to_str().unwrap()]);
        }
    });
    docker(&host, &["rm", "-f", &name]);
    if let Err(panic) = compared {
        std::panic::resume_unwind(panic);
    }
}

fn the_tree_equals_what_umoci_unpacks(backing: Backing) {
    let Some(layout) = real_image() else { return };
    let Some(()) = world::program("umoci") else { return };
    private_mounts();
    let world = World::with_backing(backing);
    let bundle = world.path().join("bundle");
    let image = format!("{}:helloworld-py", layout.display());
    let status = Command::new("umoci").args(["unpack", "--image", &image]).arg(&bundle).status().unwrap();
    assert!(status.success());
    let mounted = world.mount(&[], &format!("oci:{image}"));
    assert_equal_trees(&mounted, &bundle.join("rootfs"), &Ignore::default());
    world.output(&["umount", mounted.to_str().unwrap()]);
}

fn a_driver_that_keeps_whole_trees_is_used_in_place(backing: Backing) {
    let Some(host) = docker_vfs_host() else { return };
    let Some(layout) = real_image() else { return };
    private_mounts();
    let (world, other) = (World::with_backing(backing), World::with_backing(backing));
    let from_vfs = world.mount(&["--host", &host], "helloworld-py");
    let from_layout = other.mount(&[], &format!("oci:{}:helloworld-py", layout.display()));
    let mut differences = tree::differences(&from_vfs, &from_layout, &ignoring_dockers_own()).unwrap();
    // Dockerd's vfs copies a whole tree for every layer, and its copies lose ACLs and user xattrs.
    differences.retain(|difference| !difference.what.starts_with("xattr "));
    assert!(differences.is_empty(), "{differences:#?}");
    assert!(!world.store().join("layers").exists(), "nothing was copied");
    world.unmount_all();
    other.unmount_all();
}

/// A daemon on another machine, as far as anybody can tell: its layers cannot be reached, so they are streamed.
fn a_remote_docker_streams_into_the_store_and_is_not_asked_again(backing: Backing) {
    let Some(host) = docker_host() else { return };
    let Some(layout) = real_image() else { return };
    let remote = Proxy::start(&host);
    private_mounts();
    let (world, other) = (World::with_backing(backing), World::with_backing(backing));
    let flags = ["--host", &remote.host];
    let pulled =
        world.layermount().args(["--verbose", "pull", "--host", &remote.host, "helloworld-py"]).output().unwrap();
    let said = String::from_utf8_lossy(&pulled.stderr);
    assert!(pulled.status.success(), "{said}");
    assert!(said.contains("stream"), "verbose output says why nothing is used in place: {said}");
    let streamed = world.mount(&flags, "helloworld-py");
    let from_layout = other.mount(&[], &format!("oci:{}:helloworld-py", layout.display()));
    assert_equal_trees(&streamed, &from_layout, &Ignore::default());
    world.unmount_all();
    other.unmount_all();
    let before = remote.connections();
    assert_eq!(world.output(&["run", "--host", &remote.host, "--entrypoint", "id", "helloworld-py", "-un"]), "app\n");
    assert_eq!(remote.connections(), before, "the store comes first, and has it");
}

/// Passes connections to a TCP port on to a unix socket.
struct Proxy {
    host: String,
    connections: Arc<AtomicUsize>,
}

impl Proxy {
    fn start(unix: &str) -> Self {
        let socket = PathBuf::from(unix.strip_prefix("unix://").unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = format!("tcp://{}", listener.local_addr().unwrap());
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        // Ends with the test's process.
        std::thread::spawn(move || {
            for client in listener.incoming() {
                count.fetch_add(1, Ordering::Relaxed);
                let (client, engine) = (client.unwrap(), UnixStream::connect(&socket).unwrap());
                let (mut from, mut to) = (client.try_clone().unwrap(), engine.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Write);
                });
                let (mut from, mut to) = (engine, client);
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Both);
                });
            }
        });
        Self { host, connections }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

#[test]
fn a_pinned_image_cannot_be_removed_while_it_runs() {
    let Some(host) = docker_host() else { return };
    let tag = format!("layermount-pin-{}:1", std::process::id());
    // An image of its own, so that other tests keep theirs.
    let container = docker(&host, &["create", "--label", "layermount-test", "helloworld-py"]);
    docker(&host, &["commit", "-c", "LABEL own=yes", container.trim(), &tag]);
    docker(&host, &["rm", container.trim()]);
    let world = World::new();
    let mut run = world
        .layermount()
        .args(["run", "--pin", "--host", &host, "--entrypoint", "/bin/sh", &tag, "-c", "echo up; exec sleep 100"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Not what `docker ps` shows is waited for: a container is listed a little before it keeps its image from being removed.
    let mut up = String::new();
    BufReader::new(run.stdout.as_mut().unwrap()).read_line(&mut up).unwrap();
    assert_eq!(up, "up\n");
    let pins =
        || docker(&host, &["ps", "-aq", "--filter", "label=layermount.pin", "--filter", &format!("ancestor={tag}")]);
    assert_eq!(pins().lines().count(), 1);
    let refused = Command::new("docker").args(["-H", &host, "rmi", &tag]).output().unwrap();
    assert!(!refused.status.success(), "docker removed a pinned image");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(run.id() as i32), nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(143));
    assert_eq!(pins(), "", "released before layermount ended");
    docker(&host, &["rmi", &tag]);
}

fn killed_pulls_leave_a_store_that_heals(backing: Backing) {
    let Some(layout) = real_image() else { return };
    let world = World::with_backing(backing);
    let reference = format!("oci:{}:helloworld-py", layout.display());
    // From before the first byte to about the end of the pull.
    for delay in [1, 5, 20, 60, 150, 300, 500, 800, 1200, 1700, 2400] {
        let mut pull = world.layermount().args(["-q", "pull", &reference]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(delay));
        let _ = pull.kill();
        pull.wait().unwrap();
    }
    world.output(&["pull", &reference]);
    assert_eq!(std::fs::read_dir(world.store().join("stage")).unwrap().count(), 0, "leftovers were swept");
    world.output(&["store", "verify"]);
    let fresh = World::with_backing(backing);
    fresh.output(&["pull", &reference]);
    private_mounts();
    assert_equal_trees(&world.mount(&[], &reference), &fresh.mount(&[], &reference), &Ignore::default());
    world.unmount_all();
    fresh.unmount_all();
}

fn eight_pulls_at_once_do_the_work_once(backing: Backing) {
    let Some(layout) = real_image() else { return };
    let world = World::with_backing(backing);
    let reference = format!("oci:{}:helloworld-py", layout.display());
    let pulls: Vec<Child> = (0..8)
        .map(|_| world.layermount().args(["--verbose", "pull", &reference]).stderr(Stdio::piped()).spawn().unwrap())
        .collect();
    let mut unpacked = 0;
    for pull in pulls {
        let output = pull.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        unpacked += said.matches("unpacked layer").count();
    }
    let stored: serde_json::Value = serde_json::from_str(&world.output(&["store", "ls", "--json"])).unwrap();
    assert_eq!(unpacked, stored.as_array().unwrap().len(), "every layer was unpacked by one of the eight");
}

fn killed_runs_leave_no_mount(backing: Backing) {
    let Some(layout) = real_image() else { return };
    let world = World::with_backing(backing);
    let reference = format!("oci:{}:helloworld-py", layout.display());
    world.output(&["pull", &reference]);
    let before = host_mounts();
    for kill_after in [0, 1, 2, 4, 8, 30, 300] {
        let mut run = world
            .layermount()
            .args(["run", "-e", &world.mark(), "--entrypoint", "sleep", &reference, "100"])
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(kill_after));
        run.kill().unwrap();
        run.wait().unwrap();
    }
    assert_eq!(host_mounts(), before);
    // The kernel kills a program when its layermount ends, and then takes its time.
    let deadline = Instant::now() + Duration::from_secs(5);
    while !world.processes_in_store().is_empty() {
        assert!(Instant::now() < deadline, "a program outlived its layermount: {:?}", world.processes_in_store());
        std::thread::sleep(Duration::from_millis(5));
    }
    let left: Vec<PathBuf> =
        std::fs::read_dir(world.store().join("stage")).unwrap().map(|e| e.unwrap().path()).collect();
    assert!(left.is_empty(), "{left:?}");
}
