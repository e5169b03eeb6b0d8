//! The cases of `fixtures/cases` that are told in words: each is done here, or has a test of its own, or is about
//! something else than layers.

use io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use layermount_fixtures::{Built, Entry, Layer, Layout, sha256};
use serde_json::{Value, json};

use super::cases::{FILES, archives as archives_of};
use super::*;
use crate::decode::{DecodeLimits, Decoder, from_read};
use crate::overlay::{Overlay, Upper};
use crate::store::{Backing, RealizeOptions};
use crate::{OciLayouts, Platform, Source, Store};

enum Recipe {
    /// Done by this.
    Here(fn()),
    /// Done by a test of its own: the file, from the workspace's root, and the test's name.
    Test(&'static str, &'static str),
    /// About something else: what, and why it is not done.
    Other(&'static str),
}
use Recipe::{Here, Other, Test};

const LAYOUTS: &str = "crates/layermount/src/source/oci_layout/tests.rs";
const STORE: &str = "crates/layermount/tests/store.rs";
const ENTER: &str = "crates/layermount/tests/enter.rs";
const RUN: &str = "crates/layermount-cli/tests/run.rs";

const RECIPES: &[(&str, Recipe)] = &[
    ("containerd/prefix-header-readable", Here(a_ustar_prefix)),
    ("moby-go-archive/UntarUstarGnuConflict", Here(a_prefix_in_a_gnu_header)),
    (
        "moby-go-archive/UntarWithMaliciousSymlinks",
        Test("crates/layermount/src/unpack/root.rs", "both_ways_of_opening_stay_inside"),
    ),
    ("layermount-extra/setid/mount-nosuid", Here(a_store_is_its_owners_alone)),
    ("layermount-extra/stream/bomb-zstd-RLE", Here(a_zstd_bomb)),
    ("layermount-extra/stream/huge-blocking-read", Here(a_blob_that_comes_byte_by_byte)),
    ("layermount-extra/image/index-nested-depth-1000", Test(LAYOUTS, "limits_of_depth_and_width")),
    ("layermount-extra/image/json-duplicate-keys", Here(a_manifest_with_a_key_twice)),
    ("layermount-extra/image/json-nan-bignum", Here(sizes_that_are_no_sizes)),
    ("layermount-extra/image/json-bom-trailing", Here(bytes_around_a_manifest)),
    ("layermount-extra/image/schema1-manifest", Here(a_manifest_of_schema_1)),
    ("layermount-extra/image/diffid-mismatch", Test(STORE, "a_config_that_lies_about_a_diff_id_is_found_out")),
    ("layermount-extra/image/digest-path-traversal", Here(digests_that_are_paths)),
    (
        "layermount-extra/image/descriptor-size-larger",
        Test("crates/layermount/src/decode/tests.rs", "a_blob_that_is_not_what_the_descriptor_says_is_refused"),
    ),
    ("layermount-extra/image/descriptor-urls-foreign", Test(LAYOUTS, "a_foreign_layer_that_is_not_there")),
    ("layermount-extra/image/blob-is-fifo", Test(LAYOUTS, "blobs_that_are_not_regular_files")),
    ("layermount-extra/image/index.json-symlink", Here(an_index_that_is_a_symlink)),
    ("layermount-extra/image/platform-mismatch", Test(LAYOUTS, "the_platform_chooses_below_an_entry")),
    ("layermount-extra/image/layer-count-128", Test(ENTER, "layers_in_any_number")),
    ("layermount-extra/image/layer-count-501", Test(ENTER, "layers_in_any_number")),
    ("layermount-extra/image/config-user-numeric-2^32", Test(ENTER, "users_are_those_of_the_image")),
    ("layermount-extra/image/config-workdir-proc-self-fd", Test(ENTER, "working_directories_and_environment")),
    ("layermount-extra/runtime/fd-leak", Test(ENTER, "descriptors_do_not_leak")),
    ("layermount-extra/runtime/proc-self-exe", Other("entering: whoever enters becomes the program by exec")),
    ("layermount-extra/runtime/propagation", Test(ENTER, "nothing_is_left_behind")),
    ("layermount-extra/runtime/pivot-rootfs-initramfs", Other("entering from an initramfs, which no test can have")),
    ("layermount-extra/runtime/proc-symlink-in-image", Test(ENTER, "hostile_trees_are_not_furnished")),
    ("layermount-extra/runtime/bind-over-symlink", Test(ENTER, "bind_mounts")),
    ("layermount-extra/runtime/mkdir-in-root-race", Other("furnishing; mount points are made through descriptors")),
    ("layermount-extra/runtime/tiocsti", Other("terminals; Linux 6.2 and later refuse TIOCSTI by default")),
    ("layermount-extra/runtime/setgroups", Test(ENTER, "in_a_user_namespace_already")),
    ("layermount-extra/runtime/ptrace-window", Other("entering; the process is the caller's own until exec")),
    ("layermount-extra/runtime/lower-readonly", Here(layers_stay_as_they_are)),
    ("layermount-extra/runtime/overlay-copyup-setuid", Other("faults of old kernels, which cannot be had here")),
    ("layermount-extra/runtime/cleanup", Test(ENTER, "nothing_is_left_behind")),
    ("layermount-extra/kernel/nested-lowerdirs", Here(layers_lie_beside_each_other)),
    ("layermount-extra/kernel/500-501-layers", Test(ENTER, "layers_in_any_number")),
    ("layermount-extra/kernel/root-opaque-ignored", Test(STORE, "an_opaque_root_leaves_the_root_directory_as_it_was")),
    (
        "layermount-extra/kernel/redirect-followed-by-default",
        Test("crates/layermount/src/unpack/tests/metadata.rs", "overlay_attributes_of_an_archive_are_inert"),
    ),
    (
        "layermount-extra/kernel/userxattr-planted",
        Test("crates/layermount/src/unpack/tests/metadata.rs", "overlay_attributes_of_an_archive_are_inert"),
    ),
    ("layermount-extra/kernel/path-with-colon-comma", Here(a_store_with_an_odd_name)),
    (
        "layermount-extra/env/kill9-mid-unpack",
        Test("crates/layermount-cli/tests/real_image.rs", "killed_pulls_leave_a_store_that_heals"),
    ),
    ("layermount-extra/env/power-loss", Test(STORE, "what_a_power_cut_leaves_is_found_removed_and_made_anew")),
    ("layermount-extra/env/enospc-mid-unpack", Other("faults of the disk under a store")),
    ("layermount-extra/env/edquot-eio", Other("faults of the disk under a store")),
    ("layermount-extra/env/emfile", Test(STORE, "deep_trees_need_few_descriptors")),
    ("layermount-extra/env/enomem-rlimit_as", Other("the memory that a pull takes, measured by benches")),
    ("layermount-extra/env/concurrent-same-layer", Test(STORE, "many_at_once_do_the_work_once")),
    ("layermount-extra/env/concurrent-gc", Test(STORE, "many_may_prune_at_once")),
    ("layermount-extra/env/stale-lock-dead-pid", Test(STORE, "leftovers_of_the_dead_are_swept")),
    ("layermount-extra/env/readonly-store", Other("stores that cannot be written")),
    ("layermount-extra/env/store-world-writable", Test(STORE, "stores_that_others_can_write_to_are_refused")),
    ("layermount-extra/env/sigint-during-pull", Test(RUN, "signals_reach_the_program_or_end_it")),
    ("layermount-extra/env/parent-death", Test(RUN, "nothing_is_left_when_layermount_is_killed")),
    (
        "layermount-extra/env/rmdir-busy",
        Test("crates/layermount-cli/tests/store.rs", "mounted_images_are_unmounted_again"),
    ),
    ("layermount-extra/env/two-users-one-upper", Test(ENTER, "a_persistent_upper_is_kept_for_one_user_at_a_time")),
    ("layermount-extra/env/upper-on-overlay", Other("stores on other file systems")),
    ("layermount-extra/env/clock-1970", Other("unpacking reads no clock")),
    ("layermount-extra/env/umask-0777", Here(any_umask)),
    ("layermount-extra/env/cwd-deleted", Here(a_working_directory_that_is_gone)),
    (
        "layermount-extra/env/stdin-closed",
        Test("crates/layermount-cli/tests/usage.rs", "closed_standard_streams_are_survived"),
    ),
];

#[test]
fn every_case_that_is_told_in_words_is_accounted_for() {
    let mut told: Vec<String> = Vec::new();
    for (_, text) in FILES {
        let cases: Value = serde_json::from_str(text).unwrap();
        let in_words = cases["cases"].as_array().unwrap().iter().filter(|case| archives_of(case, "").is_none());
        told.extend(in_words.map(|case| case["id"].as_str().unwrap().to_owned()));
    }
    told.sort();
    let mut known: Vec<&str> = RECIPES.iter().map(|(id, _)| *id).collect();
    known.sort_unstable();
    assert_eq!(told, known);
    for (id, recipe) in RECIPES {
        match recipe {
            Test(file, name) => assert!(hazards::has_test(file, name), "{id}: no test {name} in {file}"),
            Other(reason) => assert!(!reason.is_empty(), "{id}"),
            Here(_) => {}
        }
    }
}

#[test]
fn cases_that_are_told_in_words() {
    for (id, recipe) in RECIPES {
        if let Here(run) = recipe {
            eprintln!("{id}");
            run();
        }
    }
}

fn corpus(file: &str) -> Option<Vec<u8>> {
    match archives::corpora() {
        Some(place) => Some(fs::read(place.join(file)).unwrap()),
        None => {
            skip("corpora", "the archives of other projects are not here");
            None
        }
    }
}

fn unpacked(blob: &[u8]) -> Stack {
    let mut stack = Stack::new(options(OverlayXattrs::User));
    stack.push(&archives::decode(blob).unwrap()).unwrap();
    stack
}

fn a_ustar_prefix() {
    let Some(blob) = corpus("containerd/prefix-header.tar.gz") else { return };
    let stack = unpacked(&blob);
    let stat = fs::metadata(stack.top().join("a".repeat(97)).join("foo")).unwrap();
    assert!(!is_root() || stat.uid() == 2_097_152, "{}", stat.uid());
}

fn a_prefix_in_a_gnu_header() {
    let Some(blob) = corpus("containers-storage/broken.tar") else { return };
    let path = "root/.cpanm/work/1395823785.24209/Plack-1.0030/blib/man3/Plack::Middleware::LighttpdScriptNameFix.3pm";
    assert!(unpacked(&blob).top().join(path).exists());
}

/// An image in a layout of its own, and a store.
pub(super) struct World {
    place: tempfile::TempDir,
    layout: Layout,
    built: Built,
}

impl World {
    pub(super) fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let layout = Layout::create(place.path().join("layout")).unwrap();
        let owner = |mut entry: Entry| {
            if !is_root() {
                (entry.uid, entry.gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
            }
            entry
        };
        let layer = |name: &str| Layer {
            entries: vec![owner(Entry::new(name, layermount_fixtures::Kind::File(name.into()), 0o4755))],
            ..Layer::default()
        };
        let platform: Value = {
            let host = Platform::host();
            json!({"os": host.os(), "architecture": host.architecture()})
        };
        let built = Built::new(&json!({}), platform, &[layer("a"), layer("b"), layer("c")]).unwrap();
        layout.add("image", &built).unwrap();
        Self { place, layout, built }
    }

    fn resolve(&self) -> Result<crate::Image> {
        let reference = format!("oci:{}:image", self.layout.path().display());
        OciLayouts.resolve(&reference.parse().unwrap(), &Platform::host())
    }

    pub(super) fn realize(&self, store: &str) -> (Store, LayerStack) {
        self.realize_as(Backing::Directory, store)
    }

    pub(super) fn realize_as(&self, backing: Backing, store: &str) -> (Store, LayerStack) {
        let store = Store::open(self.place.path().join(store)).unwrap();
        let options = RealizeOptions::default().backing(backing);
        let stack = store.realize_with(&self.resolve().unwrap(), &options).unwrap();
        (store, stack)
    }

    /// The image with one more layer, whatever that is.
    pub(super) fn with_layer(&self, tar: &[u8]) -> crate::Image {
        let mut config: Value = serde_json::from_slice(&self.built.config).unwrap();
        config["rootfs"]["diff_ids"].as_array_mut().unwrap().push(sha256(tar).into());
        config["history"] = Value::Null;
        let config = config.to_string().replace(",\"history\":null", "").replace("\"history\":null,", "");
        let mut manifest: Value = serde_json::from_slice(&self.built.manifest).unwrap();
        let descriptor = |media_type: &str, blob: &[u8]| {
            fs::write(self.layout.blob(&sha256(blob)), blob).unwrap();
            json!({"mediaType": media_type, "digest": sha256(blob), "size": blob.len()})
        };
        manifest["config"] = descriptor("application/vnd.oci.image.config.v1+json", config.as_bytes());
        let layer = descriptor("application/vnd.oci.image.layer.v1.tar", tar);
        manifest["layers"].as_array_mut().unwrap().push(layer);
        let good = self.point_to(manifest.to_string().as_bytes());
        let image = self.resolve().unwrap();
        fs::write(self.layout.path().join("index.json"), good).unwrap();
        image
    }

    /// Puts another manifest in the place of the image's, with a digest and a size that are right. Returns the old index.
    fn point_to(&self, manifest: &[u8]) -> Vec<u8> {
        let index = self.layout.path().join("index.json");
        let good = fs::read(&index).unwrap();
        let mut document: Value = serde_json::from_slice(&good).unwrap();
        document["manifests"][0]["digest"] = sha256(manifest).into();
        document["manifests"][0]["size"] = manifest.len().into();
        fs::write(self.layout.blob(&sha256(manifest)), manifest).unwrap();
        fs::write(&index, document.to_string()).unwrap();
        good
    }

    /// Another manifest is refused, although its digest and size are right.
    #[track_caller]
    fn refuses(&self, manifest: &[u8]) {
        let good = self.point_to(manifest);
        let store = Store::open(self.place.path().join("refusing")).unwrap();
        let refused = self.resolve().and_then(|image| store.realize(&image));
        fs::write(self.layout.path().join("index.json"), good).unwrap();
        let error = refused.expect_err(&String::from_utf8_lossy(manifest));
        assert_eq!(fs::read_dir(store.path().join("stage")).map_or(0, Iterator::count), 0);
        assert!(
            matches!(error.kind(), ErrorKind::InvalidImage | ErrorKind::Unsupported | ErrorKind::DigestMismatch),
            "{:?}: {error:#}",
            error.kind()
        );
    }

    fn manifest(&self) -> String {
        String::from_utf8(self.built.manifest.clone()).unwrap()
    }
}

fn a_store_is_its_owners_alone() {
    let world = World::new();
    world.realize("store");
    let mode = fs::metadata(world.place.path().join("store")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o700, "nobody else can run what layers have set-user-ID");
}

/// A frame of one block that is repeated: 4 bytes for each 128 KiB.
fn a_zstd_bomb() {
    if !cfg!(feature = "zstd") {
        return;
    }
    let header = case_archive(&json!([{"name": "zeros", "type": "file"}]))[..512].to_vec();
    let mut frame = b"\x28\xb5\x2f\xfd\x00\x38".to_vec();
    let mut block = |last: u32, kind: u32, size: u32, content: &[u8]| {
        frame.extend_from_slice(&(size << 3 | kind << 1 | last).to_le_bytes()[..3]);
        frame.extend_from_slice(content);
    };
    block(0, 0, 512, &header);
    for _ in 0..1000 {
        block(0, 1, 128 << 10, &[0]);
    }
    block(1, 1, 1, &[0]);
    let limits = DecodeLimits { ratio_floor: 1 << 20, ..DecodeLimits::default() };
    let mut decoder = Decoder::new(&frame[..], None, &limits).unwrap();
    let error = io::copy(&mut decoder, &mut io::sink()).map_err(from_read).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{error:#}");
    // The same is sound where that much is allowed: it is the limit that speaks.
    let limits = DecodeLimits { ratio_floor: 1 << 30, ..DecodeLimits::default() };
    let mut decoder = Decoder::new(&frame[..], None, &limits).unwrap();
    assert_eq!(io::copy(&mut decoder, &mut io::sink()).unwrap(), 512 + (1000 << 17) + 1);
}

fn case_archive(entries: &Value) -> Vec<u8> {
    layermount_fixtures::case::archive(entries.as_array().unwrap(), "").unwrap()
}

fn a_blob_that_comes_byte_by_byte() {
    struct Slow<'a>(&'a [u8]);
    impl io::Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = buffer.len().min(1);
            self.0.read(&mut buffer[..length])
        }
    }
    let tar = case_archive(&json!([{"name": "a", "type": "file", "content": "slowly ".repeat(1000)}]));
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar).unwrap();
    for blob in [gzip.finish().unwrap(), tar] {
        let place = tempfile::tempdir().unwrap();
        let mut decoder = Decoder::new(Slow(&blob), None, &DecodeLimits::default()).unwrap();
        unpack(&mut decoder, open(place.path()).as_fd(), &mut io::sink(), &options(OverlayXattrs::User)).unwrap();
        decoder.finish().unwrap();
        assert_eq!(fs::read(place.path().join("a")).unwrap().len(), 7000);
    }
}

fn a_manifest_with_a_key_twice() {
    let world = World::new();
    let text = world.manifest();
    world.refuses(text.replacen("{\"config\"", "{\"layers\":[],\"config\"", 1).as_bytes());
    world.refuses(text.replacen("{\"config\"", "{\"config\":{},\"config\"", 1).as_bytes());
}

fn sizes_that_are_no_sizes() {
    let world = World::new();
    let text = world.manifest();
    let size = format!("\"size\":{}", world.built.layers[0].blob.len());
    assert!(text.contains(&size));
    for wrong in ["1e3", "1.0", "9223372036854775808", "-1", "\"12\"", "NaN", "null", "18446744073709551616"] {
        world.refuses(text.replacen(&size, &format!("\"size\":{wrong}"), 1).as_bytes());
    }
}

fn bytes_around_a_manifest() {
    let world = World::new();
    let text = world.manifest();
    world.refuses(format!("\u{feff}{text}").as_bytes());
    world.refuses(format!("{text}{{}}").as_bytes());
    world.refuses(format!("{text}\0").as_bytes());
    world.refuses(&[text.as_bytes(), b"\xff"].concat());
}

fn a_manifest_of_schema_1() {
    let manifest = json!({
        "schemaVersion": 1, "name": "library/x", "tag": "latest", "architecture": "amd64",
        "fsLayers": [{"blobSum": sha256(b"")}], "history": [{"v1Compatibility": "{}"}],
    });
    World::new().refuses(manifest.to_string().as_bytes());
}

fn digests_that_are_paths() {
    let world = World::new();
    let text = world.manifest();
    let digest = sha256(&world.built.layers[0].blob);
    let hex = digest.trim_start_matches("sha256:");
    for wrong in [
        "sha256:../../../../etc/passwd".to_owned(),
        format!("sha256:{}", hex.to_uppercase()),
        format!("sha256:{}", &hex[1..]),
        format!("sha256:{hex}0"),
        format!("../{hex}"),
        format!("md5:{hex}"),
        hex.to_owned(),
        "sha256:".to_owned(),
    ] {
        if wrong != digest {
            world.refuses(text.replacen(&digest, &wrong, 1).as_bytes());
        }
    }
}

fn an_index_that_is_a_symlink() {
    let world = World::new();
    let index = world.layout.path().join("index.json");
    let elsewhere = world.place.path().join("elsewhere");
    fs::copy(&index, &elsewhere).unwrap();
    fs::remove_file(&index).unwrap();
    symlink(&elsewhere, &index).unwrap();
    assert!(world.resolve().is_err());
}

fn layers_stay_as_they_are() {
    if !is_root() {
        return skip("root", "an overlay is mounted");
    }
    let stack = {
        let mut stack = Stack::new(options(OverlayXattrs::Trusted));
        stack.push(&case_archive(&json!([{"name": "d/f", "type": "file", "content": "low"}]))).unwrap();
        stack
    };
    let tree = |stack: &Stack| layermount_fixtures::model::observe(open(stack.top()).as_fd()).unwrap();
    let before = tree(&stack);
    let mount = Overlay::new(stack.layer_stack()).upper(Upper::default()).mount().unwrap();
    let inside = |name: &str, flags| {
        rustix::fs::openat(mount.directory().unwrap(), name, flags, Mode::from_raw_mode(0o644)).unwrap()
    };
    rustix::io::write(inside("d/f", OFlags::WRONLY), b"high").unwrap();
    inside("d/new", OFlags::WRONLY | OFlags::CREATE);
    rustix::fs::chmodat(mount.directory().unwrap(), "d", Mode::RWXU, rustix::fs::AtFlags::empty()).unwrap();
    rustix::fs::unlinkat(mount.directory().unwrap(), "d/f", rustix::fs::AtFlags::empty()).unwrap();
    assert_eq!(before.differences(&tree(&stack)), [""; 0]);
}

fn layers_lie_beside_each_other() {
    let world = World::new();
    let (_store, stack) = world.realize("store");
    let paths: Vec<_> = stack.layers().iter().map(|layer| layer.path()).collect();
    assert_eq!(paths.len(), 3);
    for path in &paths {
        assert_eq!(paths.iter().filter(|other| other.starts_with(path)).count(), 1, "{paths:?}");
    }
}

fn a_store_with_an_odd_name() {
    if !is_root() {
        return skip("root", "an overlay is mounted");
    }
    let world = World::new();
    for name in ["a:b", "a,b", "a\\:b", "a b", "a\nb", "a\"b", "\u{fc}", "a\\"] {
        let (_store, stack) = world.realize(name);
        let mount = Overlay::new(stack).upper(Upper::ReadOnly).mount().unwrap();
        for file in ["a", "b", "c"] {
            rustix::fs::openat(mount.directory().unwrap(), file, OFlags::RDONLY, Mode::empty()).unwrap();
        }
    }
}

/// Runs random stacks in a process of its own, which a line of shell prepares.
fn prepared_by(shell: &str) {
    let output = std::process::Command::new("sh")
        .args(["-c", &format!("{shell}; exec \"$@\""), "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "unpack::tests::stacks::random_stacks_in_the_trusted_namespace"])
        .env("LAYERMOUNT_STACKS", "30")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{shell}: {said}");
}

fn any_umask() {
    for umask in ["000", "022", "027", "0777"] {
        prepared_by(&format!("umask {umask}"));
    }
}

fn a_working_directory_that_is_gone() {
    prepared_by("d=$(mktemp -d) && cd \"$d\" && rmdir \"$d\"");
}
