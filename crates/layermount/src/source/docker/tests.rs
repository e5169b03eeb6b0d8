//! An engine that is a thread on a unix socket, answering what `fixtures/docker/` holds.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::*;
use crate::digest::ChainId;
use crate::error::{Error, ErrorKind};
use crate::image::Located;

enum Reply {
    Json(u16, String),
    Chunked(String),
    /// A body that is shorter than announced.
    Truncated(String),
    /// A body that does not end.
    Endless,
}

type Answer = Box<dyn Fn(&str, &str) -> Reply + Send>;

struct Fake {
    directory: tempfile::TempDir,
    asked: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Fake {
    fn new(version: &'static str, answer: impl Fn(&Path) -> Answer) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("sock")).unwrap();
        let (asked, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let answer = answer(directory.path());
        let thread = std::thread::spawn({
            let (asked, stop) = (asked.clone(), stop.clone());
            move || {
                while let Ok((stream, _)) = listener.accept() {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    // A client that hangs up early is part of what is tested.
                    let _ = serve(stream, version, &asked, &answer);
                }
            }
        });
        Self { directory, asked, stop, thread: Some(thread) }
    }

    /// Answers what a directory of `fixtures/docker` holds.
    fn with_fixture(version: &'static str, fixture: &'static str) -> Self {
        Self::new(version, |root| {
            let root = root.to_str().unwrap().to_owned();
            Box::new(move |_, path| {
                let name = match path {
                    path if path.ends_with("/info") => "info",
                    path if path.ends_with("/images/json") => "images",
                    path if path.ends_with("/history") => "history",
                    path if path.contains("nope") => {
                        return Reply::Json(404, r#"{"message":"No such image: nope"}"#.into());
                    }
                    path if path.ends_with("/get") || path.contains("/get?") => {
                        return Reply::Chunked("archive".into());
                    }
                    _ => "inspect",
                };
                let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/docker").join(fixture);
                let text = std::fs::read_to_string(file.join(name).with_extension("json")).unwrap();
                Reply::Json(200, text.replace("@ROOT@", &root))
            })
        })
    }

    fn docker(&self) -> Docker {
        Docker::at(&format!("unix://{}/sock", self.directory.path().display())).unwrap()
    }

    fn resolve(&self, readable: OverlayXattrs) -> Result<Image> {
        self.docker().resolve_for(&"tiny:1".parse().unwrap(), &"linux/amd64".parse().unwrap(), readable)
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// Creates the directories that the fixture names.
    fn make_directories(&self, inspect: &Inspect) -> Vec<PathBuf> {
        let data = &inspect.graph_driver.data;
        let lower = data.lower_dir.iter().flat_map(|lower| lower.split(':'));
        let paths: Vec<PathBuf> = data.upper_dir.iter().map(String::as_str).chain(lower).map(PathBuf::from).collect();
        paths.iter().for_each(|path| make(path));
        paths
    }

    fn inspect(&self) -> Inspect {
        let docker = self.docker();
        docker.engine().unwrap().inspect("tiny:1", None).unwrap()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = UnixStream::connect(self.directory.path().join("sock"));
        self.thread.take().unwrap().join().unwrap();
    }
}

fn make(path: &Path) {
    std::fs::DirBuilder::new().recursive(true).create(path).unwrap();
}

fn serve(stream: UnixStream, version: &str, asked: &Mutex<Vec<String>>, answer: &Answer) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    asked.lock().unwrap().push(format!("{method} {path}"));
    let reply = match path {
        "/_ping" => Reply::Json(200, "OK".to_owned()),
        path => answer(method, path),
    };
    let mut out = &stream;
    let head = format!("Connection: close\r\nApi-Version: {version}\r\n");
    match reply {
        Reply::Json(status, body) => {
            write!(out, "HTTP/1.1 {status} X\r\n{head}Content-Length: {}\r\n\r\n{body}", body.len())
        }
        Reply::Truncated(body) => {
            write!(out, "HTTP/1.1 200 OK\r\n{head}Content-Length: {}\r\n\r\n{body}", body.len() + 1)
        }
        Reply::Chunked(body) => {
            write!(out, "HTTP/1.1 200 OK\r\n{head}Transfer-Encoding: chunked\r\n\r\n")?;
            for part in body.as_bytes().chunks(100) {
                write!(out, "{:x}\r\n", part.len())?;
                out.write_all(part)?;
                out.write_all(b"\r\n")?;
            }
            out.write_all(b"0\r\n\r\n")
        }
        Reply::Endless => {
            write!(out, "HTTP/1.1 200 OK\r\n{head}Transfer-Encoding: chunked\r\n\r\n")?;
            let part = vec![b' '; 1 << 16];
            loop {
                write!(out, "10000\r\n")?;
                out.write_all(&part)?;
                out.write_all(b"\r\n")?;
            }
        }
    }
}

fn streamed_because(image: &Image) -> &str {
    assert!(matches!(image.content(), Content::Archive(_)), "{image:?}");
    &image.notes()[0]
}

#[test]
fn overlay2_layers_are_used_where_they_lie() {
    for (version, fixture) in [("1.41", "overlay2-20.10"), ("1.44", "overlay2-25")] {
        let fake = Fake::with_fixture(version, fixture);
        let mut top_first = fake.make_directories(&fake.inspect());
        let image = fake.resolve(OverlayXattrs::Trusted).unwrap();
        let Content::Located(Located::Layers { directories, xattrs }) = image.content() else { panic!("{image:?}") };
        top_first.reverse();
        assert_eq!((directories, *xattrs), (&top_first, OverlayXattrs::Trusted));
        assert!(image.notes().is_empty());
        assert_eq!(image.names(), ["docker.io/library/tiny:1", "localhost:5000/team/tiny:1"]);
        assert_eq!(image.id().short(), "d28616ef7e4e");
        assert_eq!(image.config().working_dir(), "/srv");
        assert_eq!(image.layers()[1].created_by.as_deref(), Some("RUN top"));
        // In the version that both speak; and the slow question is not asked where directories of root's tell enough.
        let asked = fake.asked();
        assert_eq!(asked.iter().any(|path| path.ends_with("/info")), !rustix::process::geteuid().is_root());
        assert!(asked.contains(&format!("GET /v{version}/images/docker.io/library/tiny:1/json")), "{asked:?}");
    }
}

#[test]
fn what_cannot_be_used_in_place_is_streamed_and_the_reason_kept() {
    let overlay2 = Fake::with_fixture("1.41", "overlay2-20.10");
    let missing = overlay2.resolve(OverlayXattrs::Trusted).unwrap();
    assert!(streamed_because(&missing).contains("ENOENT"), "a remote engine: {:?}", missing.notes());
    overlay2.make_directories(&overlay2.inspect());
    let unprivileged = overlay2.resolve(OverlayXattrs::User).unwrap();
    assert!(streamed_because(&unprivileged).contains("trusted xattrs"));

    // Below a directory like ROOT/100000.100000, the engine is asked whether it remaps owners.
    let mut remapped = overlay2.inspect();
    make(&overlay2.directory.path().join("7.7/overlay2/1/diff"));
    remapped.graph_driver.data.upper_dir = Some(format!("{}/7.7/overlay2/1/diff", overlay2.directory.path().display()));
    let userns = || {
        let security_options = vec!["name=userns".to_owned()];
        Ok(engine::Info { security_options, ..engine::Info::default() })
    };
    match locate::place(&remapped, true, OverlayXattrs::Trusted, &|| Ok(()), userns).unwrap() {
        Placement::Streamed { reason } => assert!(reason.contains("userns-remap"), "{reason}"),
        other => panic!("{other:?}"),
    }

    let rootless = Fake::with_fixture("1.44", "rootless-25");
    assert!(streamed_because(&rootless.resolve(OverlayXattrs::Trusted).unwrap()).contains("rootless"));
    let vfs = Fake::with_fixture("1.41", "vfs-20.10");
    assert!(streamed_because(&vfs.resolve(OverlayXattrs::Trusted).unwrap()).contains("cache-id"));
}

#[test]
fn containerd_images_are_streamed_for_the_platform() {
    let fake = Fake::with_fixture("1.52", "containerd-29");
    let image = fake.resolve(OverlayXattrs::Trusted).unwrap();
    assert!(streamed_because(&image).contains("containerd"));
    assert_eq!(image.manifest_digest(), Some(image.id()));
    assert_eq!(image.config().env(), ["PATH=/bin"]);
    let Content::Archive(archive) = image.content() else { panic!() };
    let mut text = String::new();
    archive.open().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "archive");
    let asked = fake.asked().pop().unwrap();
    let id = image.id();
    let platform = "%7B%22architecture%22:%22amd64%22%2C%22os%22:%22linux%22%7D";
    assert_eq!(asked, format!("GET /v1.52/images/{id}/get?platform={platform}"));
}

#[test]
fn containerd_is_asked_for_the_platform_that_is_wanted() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/docker/containerd-29");
    let read = move |name: &str| std::fs::read_to_string(fixture.join(name)).unwrap();
    let fake = Fake::new("1.52", |_| {
        let read = read.clone();
        Box::new(move |_, path| match path {
            path if path.ends_with("/info") => Reply::Json(200, read("info.json")),
            path if path.ends_with("/history") => Reply::Json(200, read("history.json")),
            path if path.contains("s390x") => Reply::Json(404, r#"{"message":"does not provide the platform"}"#.into()),
            path if path.contains("arm64") => Reply::Json(200, read("inspect.json").replace("amd64", "arm64")),
            _ => Reply::Json(200, read("inspect.json")),
        })
    });
    let resolve = |platform: &str| {
        fake.docker().resolve_for(&"tiny:1".parse().unwrap(), &platform.parse().unwrap(), OverlayXattrs::Trusted)
    };
    assert_eq!(resolve("linux/arm64").unwrap().platform().architecture(), "arm64");
    let error = resolve("linux/s390x").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PlatformNotFound);
    assert!(error.to_string().contains("not for linux/s390x but for linux/amd64"), "{error}");
}

#[test]
fn the_trees_of_vfs_and_of_one_fuse_overlayfs_layer() {
    let vfs = Fake::with_fixture("1.41", "vfs-20.10");
    let chain =
        vfs.inspect().root_fs.layers.iter().fold(None, |below, id| Some(ChainId::push(below.as_ref(), id))).unwrap();
    let root = vfs.directory.path();
    let record = root.join("image/vfs/layerdb/sha256").join(chain.0.hex());
    make(&record);
    make(&root.join("vfs/dir/0badcafe"));
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(record.join("cache-id")).unwrap();
    file.write_all(b"0badcafe").unwrap();
    let image = vfs.resolve(OverlayXattrs::Trusted).unwrap();
    assert!(matches!(image.content(), Content::Located(Located::Tree(tree)) if *tree == root.join("vfs/dir/0badcafe")));

    let fuse = Fake::with_fixture("1.41", "fuse-overlayfs-20.10");
    let directories = fuse.make_directories(&fuse.inspect());
    let image = fuse.resolve(OverlayXattrs::User).unwrap();
    assert!(matches!(image.content(), Content::Located(Located::Tree(tree)) if *tree == directories[0]), "{image:?}");
}

#[test]
fn a_cache_id_cannot_lead_elsewhere() {
    let vfs = Fake::with_fixture("1.41", "vfs-20.10");
    let chain =
        vfs.inspect().root_fs.layers.iter().fold(None, |below, id| Some(ChainId::push(below.as_ref(), id))).unwrap();
    let record = vfs.directory.path().join("image/vfs/layerdb/sha256").join(chain.0.hex());
    make(&record);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(record.join("cache-id")).unwrap();
    file.write_all(b"../../../etc").unwrap();
    assert!(streamed_because(&vfs.resolve(OverlayXattrs::Trusted).unwrap()).contains("no directory name"));
}

#[test]
fn over_tcp_everything_is_streamed() {
    let fake = Fake::with_fixture("1.41", "overlay2-20.10");
    fake.make_directories(&fake.inspect());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let docker = Docker::at(&format!("tcp://localhost:{}", address.port())).unwrap();
    let image = std::thread::scope(|scope| {
        // Each question comes over its own connection; one without a question ends it.
        scope.spawn(|| while forward(listener.accept().unwrap().0, &fake) {});
        let image =
            docker.resolve_for(&"tiny:1".parse().unwrap(), &"linux/amd64".parse().unwrap(), OverlayXattrs::Trusted);
        drop(TcpStream::connect(address).unwrap());
        image
    });
    assert!(streamed_because(&image.unwrap()).contains("not behind a unix socket"));
}

/// Carries one question and its answer; `false` where there was no question.
fn forward(mut client: TcpStream, fake: &Fake) -> bool {
    let mut question = String::new();
    let mut lines = BufReader::new(client.try_clone().unwrap()).lines();
    while let Some(Ok(line)) = lines.next() {
        question.push_str(&format!("{line}\r\n"));
        if line.is_empty() {
            break;
        }
    }
    if question.is_empty() {
        return false;
    }
    let mut engine = UnixStream::connect(fake.directory.path().join("sock")).unwrap();
    engine.write_all(question.as_bytes()).unwrap();
    std::io::copy(&mut engine, &mut client).unwrap();
    true
}

#[test]
fn counts_that_disagree_are_not_mounted() {
    let fake = Fake::with_fixture("1.41", "overlay2-20.10");
    let mut inspect = fake.inspect();
    fake.make_directories(&inspect);
    inspect.root_fs.layers.pop();
    let docker = fake.docker();
    let place = |local| {
        locate::place(&inspect, local, OverlayXattrs::Trusted, &|| Ok(()), || docker.engine()?.info().cloned()).unwrap()
    };
    match place(true) {
        Placement::Streamed { reason } => assert!(reason.contains("3 directories for 2 layers"), "{reason}"),
        other => panic!("{other:?}"),
    }
    match place(false) {
        Placement::Streamed { reason } => assert!(reason.contains("not behind a unix socket"), "{reason}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn names_platforms_and_what_is_not_there() {
    let fake = Fake::with_fixture("1.41", "overlay2-20.10");
    let docker = fake.docker();
    let amd64: Platform = "linux/amd64".parse().unwrap();
    let error = docker.resolve(&"nope:1".parse().unwrap(), &amd64).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ImageNotFound);
    assert_eq!(docker.names(), ["docker.io/library/tiny:1", "localhost:5000/team/tiny:1"]);
    let error = docker.resolve(&"tiny:1".parse().unwrap(), &"linux/arm64".parse().unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PlatformNotFound);
    assert!(error.to_string().contains("not for linux/arm64 but for linux/amd64"), "{error}");
}

#[test]
fn the_chain_of_parents_ends_where_one_was_deleted() {
    let ids = ["a", "b", "c", "deleted"].map(Digest::sha256);
    let fake = Fake::new("1.41", |_| {
        let ids = ids.clone();
        Box::new(move |_, path| {
            let answer = |index: usize| {
                let parent = ids.get(index + 1).map(Digest::to_string).unwrap_or_default();
                Reply::Json(200, format!(r#"{{"Id":"{}","Parent":"{parent}","GraphDriver":null}}"#, ids[index]))
            };
            match ids.iter().position(|id| path.contains(id.hex())) {
                _ if path.ends_with("/info") => Reply::Json(200, "{}".to_owned()),
                _ if path.ends_with("/history") => Reply::Json(200, "[]".to_owned()),
                Some(3) => Reply::Json(404, String::new()),
                found => answer(found.unwrap_or(0)),
            }
        })
    });
    let image = fake.resolve(OverlayXattrs::Trusted).unwrap();
    assert_eq!(image.parent(), Some(&ids[1]));
    assert!(streamed_because(&image).contains("does not tell its storage driver"));
    assert_eq!(fake.docker().parents(&image).unwrap(), ids[1..]);
}

#[test]
fn answers_that_are_not_as_they_should_be() {
    type Case = (&'static str, fn() -> Reply, &'static str);
    let cases: [Case; 6] = [
        ("an engine's own words", || Reply::Json(500, r#"{"message":"disk on fire"}"#.into()), "500 to GET"),
        ("plain text", || Reply::Json(503, "try later\n".into()), "try later"),
        ("no JSON", || Reply::Json(200, "<html>".into()), "malformed answer"),
        ("an array", || Reply::Chunked("[1,2]".into()), "malformed answer"),
        ("truncated", || Reply::Truncated("{}".into()), "broke off"),
        ("endless", || Reply::Endless, "broke off"),
    ];
    for (case, reply, says) in cases {
        let fake = Fake::new("1.41", |_| Box::new(move |_, _| reply()));
        let error = fake.resolve(OverlayXattrs::Trusted).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::EngineFailed, "{case}: {error:#}");
        assert!(error.to_string().contains(says), "{case}: {error:#}");
    }
}

#[test]
fn versions_that_are_not_spoken() {
    for version in ["1.23", "", "x"] {
        let fake = Fake::with_fixture(version, "overlay2-20.10");
        let error = fake.resolve(OverlayXattrs::Trusted).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{version}: {error}");
    }
    // A newer engine is spoken to in our newest version.
    let fake = Fake::with_fixture("1.99", "containerd-29");
    fake.resolve(OverlayXattrs::Trusted).unwrap();
    assert!(fake.asked().iter().any(|path| path.starts_with("GET /v1.52/")));
}

#[test]
fn engines_that_cannot_be_reached() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sock");
    let docker = Docker::at(&format!("unix://{}", path.display())).unwrap();
    let resolve = || docker.resolve(&"tiny:1".parse().unwrap(), &Platform::host()).unwrap_err();
    let error = resolve();
    assert_eq!(error.kind(), ErrorKind::EngineUnavailable, "no socket");
    assert!(error.hint().unwrap().contains("is dockerd running"));
    drop(UnixListener::bind(&path).unwrap());
    assert_eq!(resolve().kind(), ErrorKind::EngineUnavailable, "nobody listens");
    let denied = DockerError::Connect { endpoint: "x".into(), source: std::io::ErrorKind::PermissionDenied.into() };
    assert_eq!(Error::from(denied).kind(), ErrorKind::PermissionDenied);
}
