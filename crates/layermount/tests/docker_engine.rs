//! Against a real Docker Engine: `LAYERMOUNT_TEST_DOCKER_HOST` names one that the tests may load images into.

#![allow(clippy::disallowed_methods, reason = "tests write to directories of their own")]
#![cfg(feature = "docker")]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use layermount::{Content, Docker, ErrorKind, Located, Platform, Reference, Source, Sources};

/// The engine, or why there is none.
fn engine() -> Option<(Docker, String)> {
    match std::env::var("LAYERMOUNT_TEST_DOCKER_HOST") {
        Ok(host) => Some((Docker::at(&host).unwrap(), host)),
        Err(_) => {
            layermount_fixtures::requirement::skip("docker", "LAYERMOUNT_TEST_DOCKER_HOST is not set");
            None
        }
    }
}

fn add(builder: &mut tar::Builder<Vec<u8>>, name: &str, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    builder.append_data(&mut header, name, content).unwrap();
}

/// A tar archive with one file, or none.
fn layer(file: Option<&str>) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    if let Some(name) = file {
        add(&mut builder, name, name.as_bytes());
    }
    builder.into_inner().unwrap()
}

/// Loads an image of four layers: one of its own, a file, its whiteout, and nothing.
fn load(host: &str, name: &str) -> Vec<String> {
    let layers = [layer(Some(name)), layer(Some("base")), layer(Some(".wh.base")), layer(None)];
    let diff_ids: Vec<String> = layers.iter().map(|layer| layermount::Digest::sha256(layer).to_string()).collect();
    let config = serde_json::json!({
        "architecture": Platform::host().architecture(), "os": "linux",
        "config": {"Env": ["A=b"], "Cmd": ["/bin/hello"], "User": "7"},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created_by": "ADD name"}, {"created_by": "ADD base"}, {"created_by": "ENV A=b", "empty_layer": true},
            {"created_by": "RUN rm base"}, {"created_by": "RUN true"}],
    });
    let mut archive = tar::Builder::new(Vec::new());
    for (index, layer) in layers.iter().enumerate() {
        add(&mut archive, &format!("{index}/layer.tar"), layer);
    }
    add(&mut archive, "config.json", config.to_string().as_bytes());
    let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": [name],
        "Layers": ["0/layer.tar", "1/layer.tar", "2/layer.tar", "3/layer.tar"]}]);
    add(&mut archive, "manifest.json", manifest.to_string().as_bytes());
    let (status, answer) = call(host, "POST", "/images/load?quiet=1", &archive.into_inner().unwrap());
    assert_eq!(status, 200, "{answer}");
    diff_ids
}

/// A plain HTTP call, independent of the client under test.
fn call(host: &str, method: &str, path: &str, body: &[u8]) -> (u16, String) {
    let mut stream = UnixStream::connect(host.strip_prefix("unix://").expect("a unix socket")).unwrap();
    let kind = if body.starts_with(b"{") { "json" } else { "x-tar" };
    let length = body.len();
    write!(stream, "{method} {path} HTTP/1.0\r\nContent-Type: application/{kind}\r\nContent-Length: {length}\r\n\r\n")
        .unwrap();
    stream.write_all(body).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer)
}

fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

#[test]
fn an_image_is_found_by_name_and_by_id_and_lies_where_the_engine_keeps_it() {
    let Some((docker, host)) = engine() else { return };
    let name = "layermount-test/found:1";
    let diff_ids = load(&host, name);
    let image = docker.resolve(&reference(name), &Platform::host()).unwrap();
    assert_eq!(image.layers().iter().map(|layer| layer.diff_id.to_string()).collect::<Vec<_>>(), diff_ids);
    assert_eq!(image.names(), ["docker.io/layermount-test/found:1"]);
    assert_eq!((image.config().env(), image.config().user()), (["A=b".to_owned()].as_slice(), "7"));
    let steps: Vec<_> = image.layers().iter().map(|layer| layer.created_by.as_deref().unwrap()).collect();
    assert_eq!(steps, ["ADD name", "ADD base", "RUN rm base", "RUN true"]);
    for by_id in [image.id().to_string(), format!("docker-daemon:{}", image.id()), image.id().short().to_owned()] {
        assert_eq!(docker.resolve(&reference(&by_id), &Platform::host()).unwrap().id(), image.id(), "{by_id}");
    }
    match image.content() {
        Content::Located(Located::Layers { directories, .. }) => {
            assert!(directories[1].join("base").is_file(), "base first");
            assert!(directories[2].join("base").symlink_metadata().is_ok_and(|whiteout| !whiteout.is_file()));
            assert_eq!(directories[3].read_dir().unwrap().count(), 0);
        }
        Content::Located(Located::Tree(tree)) => assert!(!tree.join("base").exists() && tree.join(name).is_file()),
        Content::Archive(archive) => {
            assert!(image.notes()[0].contains("streamed from Docker at"), "{:?}", image.notes());
            let mut entries = tar::Archive::new(archive.open().unwrap());
            let manifest =
                entries.entries().unwrap().any(|entry| entry.unwrap().path_bytes().ends_with(b"manifest.json"));
            assert!(manifest);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_wrong_platform_and_a_wrong_name_are_told() {
    let Some((docker, host)) = engine() else { return };
    load(&host, "layermount-test/named:1");
    let error = docker.resolve(&reference("layermount-test/named:1"), &"linux/s390x".parse().unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PlatformNotFound);
    assert!(error.to_string().contains("linux/s390x") && error.to_string().contains(&Platform::host().to_string()));
    let error = Sources::new(vec![Box::new(docker)])
        .resolve(&reference("layermount-test/nmaed:1"), &Platform::host())
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ImageNotFound);
    assert!(error.hint().unwrap().contains("layermount-test/named:1"), "{:?}", error.hint());
}

#[test]
fn a_pinned_image_cannot_be_deleted() {
    let Some((docker, host)) = engine() else { return };
    let name = "layermount-test/pinned:1";
    load(&host, name);
    let image = docker.resolve(&reference(name), &Platform::host()).unwrap();
    let pin = docker.pin(&image).unwrap();
    let path = format!("/images/{}", image.id());
    assert_eq!(call(&host, "DELETE", &path, &[]).0, 409);
    pin.release().unwrap();
    // Without a pin, what is open stays readable and the rest goes.
    let located = match image.content() {
        Content::Located(Located::Layers { directories, .. }) => Some(directories[1].join("base")),
        Content::Located(Located::Tree(tree)) => Some(tree.join(name)),
        _ => None,
    };
    let open = located.as_ref().map(|path| std::fs::File::open(path).unwrap());
    assert_eq!(call(&host, "DELETE", &path, &[]).0, 200);
    if let (Some(path), Some(mut open)) = (located, open) {
        assert!(!path.exists());
        assert!(open.read_to_string(&mut String::new()).unwrap() > 0);
    }
    let error = docker.resolve(&reference(name), &Platform::host()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ImageNotFound);
    assert_eq!(docker.pin(&image).unwrap_err().kind(), ErrorKind::ImageNotFound);
}

#[test]
fn pins_of_dead_processes_are_swept() {
    let Some((docker, host)) = engine() else { return };
    let name = "layermount-test/swept:1";
    load(&host, name);
    let image = docker.resolve(&reference(name), &Platform::host()).unwrap();
    // As after `kill -9`: the pin is never released, and its label names a process that is no more.
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let namespace = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata("/proc/self/ns/pid").unwrap());
    let body = serde_json::json!({"Image": image.id(), "Cmd": ["x"], "Labels": {
        "layermount.pin": format!("{}:1", u32::MAX), "layermount.pin.world": format!("{}:{namespace}", boot.trim())}});
    let (status, answer) = call(&host, "POST", "/containers/create", body.to_string().as_bytes());
    assert_eq!(status, 201, "{answer}");
    let (_, left_behind) = answer.split_once("{\"Id\":\"").unwrap();
    let left_behind = &left_behind[..64];
    let pin = docker.pin(&image).unwrap();
    assert_eq!(call(&host, "GET", &format!("/containers/{left_behind}/json"), &[]).0, 404);
    pin.release().unwrap();
}
