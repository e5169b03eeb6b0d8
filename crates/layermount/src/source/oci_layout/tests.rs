//! Layouts made by hand, good and bad.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::*;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

struct Maker {
    directory: tempfile::TempDir,
}

impl Maker {
    fn new() -> Self {
        let maker = Self { directory: tempfile::Builder::new().prefix("Layout").tempdir().unwrap() };
        std::fs::DirBuilder::new().recursive(true).create(maker.path("blobs/sha256")).unwrap();
        maker.put("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
        maker
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(self.path(name)).unwrap();
        file.write_all(bytes).unwrap();
    }

    fn blob(&self, media_type: &str, bytes: impl AsRef<[u8]>) -> Value {
        let bytes = bytes.as_ref();
        let digest = Digest::sha256(bytes);
        self.put(&format!("blobs/sha256/{}", digest.hex()), bytes);
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    fn config(&self, platform: &str) -> Value {
        let (os, architecture) = platform.split_once('/').unwrap();
        json!({"os": os, "architecture": architecture, "rootfs": {"type": "layers", "diff_ids": [Digest::sha256(b"layer")]}})
    }

    /// A manifest of an image with one layer, without a platform in its descriptor.
    fn image(&self, platform: &str) -> Value {
        let config = self.blob(CONFIG, self.config(platform).to_string());
        self.manifest(&json!({"config": config, "layers": [self.blob(LAYER, "layer")]}))
    }

    fn manifest(&self, document: &Value) -> Value {
        self.blob(MANIFEST, document.to_string())
    }

    fn nested(&self, entries: &[Value]) -> Value {
        self.blob(INDEX, json!({"manifests": entries}).to_string())
    }

    fn index(&self, entries: &[Value]) {
        self.put("index.json", json!({"schemaVersion": 2, "manifests": entries}).to_string().as_bytes());
    }

    fn resolve(&self, selector: &str) -> Result<Image> {
        self.resolve_for(selector, "linux/amd64")
    }

    fn resolve_for(&self, selector: &str, platform: &str) -> Result<Image> {
        let reference = format!("oci:{}{selector}", self.directory.path().display()).parse().unwrap();
        OciLayouts.resolve(&reference, &platform.parse().unwrap())
    }

    fn local_name(&self, tag: &str) -> String {
        let directory = self.directory.path().file_name().unwrap().to_str().unwrap().to_lowercase();
        format!("localhost/{directory}:{tag}")
    }

    fn fails(&self, selector: &str) -> Error {
        self.resolve(selector).unwrap_err()
    }
}

fn named(mut descriptor: Value, key: &str, name: &str) -> Value {
    descriptor["annotations"][key] = name.into();
    descriptor
}

fn tagged(descriptor: Value, name: &str) -> Value {
    named(descriptor, "org.opencontainers.image.ref.name", name)
}

fn on(mut descriptor: Value, platform: &str) -> Value {
    let (os, architecture) = platform.split_once('/').unwrap();
    descriptor["platform"] = json!({"os": os, "architecture": architecture});
    descriptor
}

fn digest(descriptor: &Value) -> String {
    descriptor["digest"].as_str().unwrap().to_owned()
}

#[test]
fn the_only_image() {
    let maker = Maker::new();
    let manifest = maker.image("linux/amd64");
    maker.index(std::slice::from_ref(&manifest));
    let image = maker.resolve("").unwrap();
    assert_eq!(image.manifest_digest().unwrap().to_string(), digest(&manifest));
    assert_eq!(*image.id(), Digest::sha256(image.config().raw()));
    assert!(image.names().is_empty());
    let Content::Blobs(blobs) = image.content() else { panic!("{image:?}") };
    let mut layer = String::new();
    blobs.open(image.layers()[0].descriptor.as_ref().unwrap()).unwrap().read_to_string(&mut layer).unwrap();
    assert_eq!(layer, "layer");
}

#[test]
fn selecting_by_name() {
    let maker = Maker::new();
    // Three spellings of one platform make three images.
    let [a, b, c] = ["linux/amd64", "Linux/amd64", "linux/x86_64"].map(|platform| maker.image(platform));
    let whole = named(tagged(b.clone(), "2"), "io.containerd.image.name", "docker.io/library/app:2");
    maker.index(&[tagged(a.clone(), "1"), whole, tagged(c.clone(), "quay.io/team/app:3")]);
    for (selector, expected) in [
        (":1", &a),
        (":2", &b),
        (":app:2", &b),
        (":docker.io/library/app:2", &b),
        (":quay.io/team/app:3", &c),
        (":3", &c),
    ] {
        let image = maker.resolve(selector).unwrap();
        assert_eq!(image.manifest_digest().unwrap().to_string(), digest(expected), "{selector}");
    }
    assert_eq!(maker.resolve(":2").unwrap().names(), ["docker.io/library/app:2".to_owned(), maker.local_name("2")]);
    assert_eq!(maker.resolve(":3").unwrap().names(), ["quay.io/team/app:3"]);

    let unknown = maker.fails(":4");
    assert_eq!(unknown.kind(), ErrorKind::ImageNotFound);
    assert!(unknown.to_string().contains("1, 2, docker.io/library/app:2, quay.io/team/app:3"), "{unknown}");
    let ambiguous = maker.fails("");
    assert_eq!(ambiguous.kind(), ErrorKind::InvalidInput);
    assert!(ambiguous.hint().unwrap().ends_with(":1"), "{ambiguous}");
}

#[test]
fn a_bare_tag_is_a_tag_of_the_directory() {
    let maker = Maker::new();
    maker.index(&[tagged(maker.image("linux/amd64"), "24.04")]);
    assert_eq!(maker.resolve("").unwrap().names(), [maker.local_name("24.04")]);
    // What counts is the directory, not a link to it.
    let link = maker.path("ubuntu");
    symlink(maker.directory.path(), &link).unwrap();
    let reference = format!("oci:{}", link.display()).parse().unwrap();
    let image = OciLayouts.resolve(&reference, &"linux/amd64".parse().unwrap()).unwrap();
    assert_eq!(image.names(), [maker.local_name("24.04")]);
    // What is no tag names nothing.
    maker.index(&[tagged(maker.image("linux/amd64"), "no tag")]);
    assert!(maker.resolve("").unwrap().names().is_empty());
}

#[test]
fn the_platform_chooses_below_an_entry() {
    let maker = Maker::new();
    let [amd64, arm64] = ["linux/amd64", "linux/arm64"].map(|platform| on(maker.image(platform), platform));
    let attestation = on(maker.blob(MANIFEST, "{}"), "unknown/unknown");
    let inner = maker.nested(&[attestation.clone(), arm64.clone(), amd64.clone()]);
    maker.index(&[tagged(inner.clone(), "1")]);
    let chosen = |selector: &str, platform: &str| {
        maker.resolve_for(selector, platform).map(|image| image.manifest_digest().unwrap().to_string())
    };
    assert_eq!(chosen(":1", "linux/amd64").unwrap(), digest(&amd64));
    assert_eq!(chosen("", "linux/arm64").unwrap(), digest(&arm64));
    assert_eq!(chosen(&format!("@{}", digest(&inner)), "linux/arm64").unwrap(), digest(&arm64));
    assert_eq!(chosen(&format!("@{}", digest(&amd64)), "linux/amd64").unwrap(), digest(&amd64));
    let missing = chosen("", "linux/s390x").unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::PlatformNotFound);
    assert!(missing.to_string().contains("not for linux/s390x but for linux/arm64, linux/amd64"), "{missing}");
    let none = maker.fails(&format!("@{}", Digest::sha256("none")));
    assert_eq!(none.kind(), ErrorKind::ImageNotFound);
    // The same, spread out in index.json itself.
    maker.index(&[attestation, arm64, amd64.clone()]);
    assert_eq!(chosen("", "linux/amd64").unwrap(), digest(&amd64));
}

#[test]
fn a_platform_that_only_the_config_states() {
    let maker = Maker::new();
    maker.index(&[maker.image("linux/riscv64")]);
    let error = maker.fails("");
    assert_eq!(error.kind(), ErrorKind::PlatformNotFound);
    assert!(error.to_string().contains("linux/amd64 but for linux/riscv64"), "{error}");
    assert_eq!(maker.resolve_for("", "linux/riscv64").unwrap().platform().architecture(), "riscv64");
}

#[test]
fn docker_types_and_none_at_all() {
    let maker = Maker::new();
    let config = maker.blob("application/vnd.docker.container.image.v1+json", maker.config("linux/amd64").to_string());
    let layer = maker.blob("application/vnd.docker.image.rootfs.diff.tar", "layer");
    let document = json!({"schemaVersion": 2, "config": config, "layers": [layer]}).to_string();
    let docker = maker.blob("application/vnd.docker.distribution.manifest.v2+json", &document);
    let list = json!({"manifests": [docker]}).to_string();
    maker.index(&[maker.blob("application/vnd.docker.distribution.manifest.list.v2+json", &list)]);
    assert_eq!(maker.resolve("").unwrap().layers().len(), 1);
    let mut untyped = maker.blob("", &list);
    untyped.as_object_mut().unwrap().remove("mediaType");
    maker.index(&[untyped]);
    assert_eq!(maker.resolve("").unwrap().layers().len(), 1);
}

#[test]
fn inline_data_stands_for_the_blob() {
    let maker = Maker::new();
    let config = br#"{"os":"linux","architecture":"amd64","rootfs":{"diff_ids":null}}"#;
    // Base64 of the document above.
    let data = "eyJvcyI6ImxpbnV4IiwiYXJjaGl0ZWN0dXJlIjoiYW1kNjQiLCJyb290ZnMiOnsiZGlmZl9pZHMiOm51bGx9fQ==";
    let manifest = |data: &str| {
        json!({"config": {"mediaType": CONFIG, "digest": Digest::sha256(config), "size": config.len(), "data": data},
            "layers": null})
    };
    maker.index(&[maker.manifest(&manifest(data))]);
    assert!(maker.resolve("").unwrap().layers().is_empty());
    for (bad, kind) in [
        (data.replace("eyJ", "eyK"), ErrorKind::DigestMismatch),
        ("e30=".to_owned(), ErrorKind::DigestMismatch),
        ("%".to_owned(), ErrorKind::InvalidImage),
    ] {
        maker.index(&[maker.manifest(&manifest(&bad))]);
        assert_eq!(maker.fails("").kind(), kind, "{bad}");
    }
}

#[test]
fn what_is_no_layout() {
    let maker = Maker::new();
    assert_eq!(maker.fails("").kind(), ErrorKind::InvalidImage, "no index.json");
    maker.index(&[]);
    assert_eq!(maker.fails("").kind(), ErrorKind::InvalidImage, "an index without manifests");
    maker.put("index.json", b"{\"manifests\":null}");
    assert_eq!(maker.fails("").kind(), ErrorKind::InvalidImage);
    maker.put("index.json", b"[]");
    let malformed = maker.fails("").to_string();
    assert!(malformed.starts_with("index.json of oci:"), "{malformed}");
    maker.put("oci-layout", br#"{"imageLayoutVersion":"2.0.0"}"#);
    assert_eq!(maker.fails("").kind(), ErrorKind::Unsupported);
    maker.put("oci-layout", b"[]");
    assert_eq!(maker.fails("").kind(), ErrorKind::InvalidImage);
    let missing = OciLayouts.resolve(&"oci:/nonexistent/x".parse().unwrap(), &Platform::host()).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::ImageNotFound);
    let file = format!("oci:{}", maker.path("index.json").display()).parse().unwrap();
    let file = OciLayouts.resolve(&file, &Platform::host()).unwrap_err();
    assert_eq!(file.kind(), ErrorKind::InvalidImage);
    assert!(file.hint().unwrap().contains("tar -xf"), "{file:#}");
}

#[test]
fn documents_that_are_not_what_was_promised() {
    let maker = Maker::new();
    let image = maker.image("linux/amd64");
    let mut wrong = image.clone();
    wrong["size"] = 1.into();
    maker.index(&[wrong]);
    assert_eq!(maker.fails("").kind(), ErrorKind::DigestMismatch);

    maker.index(std::slice::from_ref(&image));
    let blob = format!("blobs/{}", digest(&image).replace(':', "/"));
    let mut bytes = std::fs::read(maker.path(&blob)).unwrap();
    bytes[0] ^= 1;
    maker.put(&blob, &bytes);
    assert_eq!(maker.fails("").kind(), ErrorKind::DigestMismatch);
    std::fs::remove_file(maker.path(&blob)).unwrap();
    let missing = maker.fails("");
    assert_eq!(missing.kind(), ErrorKind::BlobNotFound);
    assert!(missing.to_string().contains(&digest(&image)), "{missing}");

    let config = maker.blob(CONFIG, "not json");
    maker.index(&[maker.manifest(&json!({"config": config, "layers": []}))]);
    assert_eq!(maker.fails("").kind(), ErrorKind::InvalidImage);
    let config = maker.blob(CONFIG, maker.config("linux/amd64").to_string());
    maker.index(&[maker.manifest(&json!({"config": config, "layers": []}))]);
    assert!(format!("{:#}", maker.fails("")).contains("layers in the manifest: 0, but diff IDs in the config: 1"));
    let unknown = maker.blob("application/x-lzma", "layer");
    maker.index(&[maker.manifest(&json!({"config": config, "layers": [unknown]}))]);
    assert!(format!("{:#}", maker.fails("")).contains("application/x-lzma"));
    let artifact = maker.blob("application/vnd.oci.empty.v1+json", "{}");
    maker.index(&[maker.manifest(&json!({"config": artifact, "layers": []}))]);
    assert!(format!("{:#}", maker.fails("")).contains("not an image but an artifact"));
}

#[test]
fn blobs_that_are_not_regular_files() {
    let maker = Maker::new();
    let image = maker.image("linux/amd64");
    maker.index(std::slice::from_ref(&image));
    let blob = maker.path(&format!("blobs/{}", digest(&image).replace(':', "/")));
    let elsewhere = maker.path("elsewhere");
    std::fs::copy(&blob, &elsewhere).unwrap();
    std::fs::remove_file(&blob).unwrap();
    symlink(&elsewhere, &blob).unwrap();
    let link = maker.fails("");
    assert!(link.hint().unwrap().contains("cp -rL"), "{link:#}");
    std::fs::remove_file(&blob).unwrap();
    nix::unistd::mkfifo(&blob, nix::sys::stat::Mode::S_IRUSR).unwrap();
    assert_eq!(maker.fails("").kind(), ErrorKind::InvalidImage, "must not block");
    std::fs::remove_file(&blob).unwrap();
    std::fs::DirBuilder::new().create(&blob).unwrap();
    assert_eq!(maker.fails("").kind(), ErrorKind::InvalidImage);
}

#[test]
fn a_foreign_layer_that_is_not_there() {
    let maker = Maker::new();
    let config = maker.blob(CONFIG, maker.config("linux/amd64").to_string());
    let foreign = json!({"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "digest": Digest::sha256("foreign"), "size": 7, "urls": ["https://example.com/layer"]});
    maker.index(&[maker.manifest(&json!({"config": config, "layers": [foreign]}))]);
    let image = maker.resolve("").unwrap();
    let Content::Blobs(blobs) = image.content() else { panic!("{image:?}") };
    let Err(error) = blobs.open(image.layers()[0].descriptor.as_ref().unwrap()) else { panic!("opened") };
    assert_eq!(error.kind(), ErrorKind::BlobNotFound);
    assert!(error.hint().unwrap().contains("redistributed"));
}

#[test]
fn limits_of_depth_and_width() {
    let maker = Maker::new();
    let nest = |depth: usize| (1..depth).fold(maker.image("linux/amd64"), |inner, _| maker.nested(&[inner]));
    maker.index(&[nest(8)]);
    assert!(maker.resolve("").is_ok());
    maker.index(&[nest(9)]);
    assert_eq!(maker.fails("").kind(), ErrorKind::LimitExceeded);
    let entry = maker.image("linux/amd64");
    maker.index(&vec![entry; 10_001]);
    assert_eq!(maker.fails("").kind(), ErrorKind::LimitExceeded);
    maker.put("index.json", &vec![b' '; (4 << 20) + 1]);
    assert_eq!(maker.fails("").kind(), ErrorKind::LimitExceeded);
}

#[test]
fn a_variant_that_only_begins_like_a_level() {
    let maker = Maker::new();
    let mut config = maker.config("linux/amd64");
    config["variant"] = "v1.2 \u{1b}[31m".into();
    let config = maker.blob(CONFIG, config.to_string());
    maker.index(&[maker.manifest(&json!({"config": config, "layers": [maker.blob(LAYER, "layer")]}))]);
    assert_eq!(maker.fails("").kind(), ErrorKind::PlatformNotFound);
}

#[test]
fn a_large_index_that_is_named_again_and_again() {
    let maker = Maker::new();
    let mut document = json!({"manifests": []}).to_string();
    document.push_str(&" ".repeat((4 << 20) - document.len()));
    let large = maker.blob(INDEX, document);
    maker.index(&vec![large.clone(); 3]);
    assert_eq!(maker.fails("").kind(), ErrorKind::InvalidImage);
    maker.index(&vec![large; 1000]);
    assert_eq!(maker.fails("").kind(), ErrorKind::LimitExceeded);
}
