//! The store as its users see it: images in, layers once, whoever else is at it.

#![allow(clippy::disallowed_methods, reason = "tests write to directories of their own")]

mod backings;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use backings::{each, inside, read, stacked};
use layermount::store::{Backing, LayerEvent, Progress, PruneOptions, RealizeOptions};
use layermount::{ErrorKind, Image, Layer, LayerStack, OciLayouts, Platform, Source, Sources, Store, StoredImages};
use layermount_fixtures::{ArchiveFormat, Built, Layout, Recipe, write_docker_archive};

const RECIPE: &str = r#"
    env PATH=/bin
    layer
    dir  0755 0:0 /
    dir  0755 0:0 /etc
    file 0644 0:0 /etc/motd "hello\n"
    random 0644 0:0 /first 90000
    layer
    dir  0750 0:0 /etc
    whiteout /etc/motd
    file 0644 0:0 /etc/note "second\n"
    random 0644 0:0 /second 80000
    layer
    file 0644 0:0 /etc/deep "the third layer does not name /etc\n"
    random 0644 0:0 /third 70000
"#;

struct World {
    backing: Backing,
    directory: tempfile::TempDir,
    built: Built,
    layout: Layout,
}

impl World {
    fn new(backing: Backing) -> Self {
        Self::of(backing, RECIPE)
    }

    fn of(backing: Backing, recipe: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut recipe = recipe.to_owned();
        if !is_root() {
            let own = format!("{}:{}", nix::unistd::geteuid(), nix::unistd::getegid());
            recipe = recipe.replace("0:0", &own);
        }
        let built = Recipe::parse(&recipe).unwrap().build().unwrap();
        let layout = Layout::create(directory.path().join("layout")).unwrap();
        layout.add("image", &built).unwrap();
        Self { backing, directory, built, layout }
    }

    fn reference(&self) -> String {
        format!("oci:{}:image", self.layout.path().display())
    }

    fn image(&self) -> Image {
        OciLayouts.resolve(&self.reference().parse().unwrap(), &Platform::host()).unwrap()
    }

    fn store_path(&self) -> PathBuf {
        self.directory.path().join("a store")
    }

    fn store(&self) -> Store {
        Store::open(self.store_path()).unwrap()
    }

    fn options(&self) -> RealizeOptions<'static> {
        RealizeOptions::default().backing(self.backing)
    }

    fn realize_in(&self, store: &Store, image: &Image) -> layermount::Result<LayerStack> {
        store.realize_with(image, &self.options())
    }

    fn realize(&self, image: &Image) -> layermount::Result<LayerStack> {
        self.realize_in(&self.store(), image)
    }

    fn made_by_realizing(&self, image: &Image) -> usize {
        self.made_by_realizing_in(&self.store(), image)
    }

    /// Realizes an image; returns how many layers had to be made.
    fn made_by_realizing_in(&self, store: &Store, image: &Image) -> usize {
        let told = Told::default();
        store.realize_with(image, &self.options().progress(&told)).unwrap();
        told.started.into_inner().unwrap().len()
    }

    fn layer_names(&self) -> Vec<String> {
        self.store().layers().unwrap().into_iter().map(|layer| layer.name).collect()
    }

    fn stages(&self) -> usize {
        count(&self.store_path().join("stage"))
    }
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn count(directory: &Path) -> usize {
    std::fs::read_dir(directory).map_or(0, Iterator::count)
}

/// Counts what it is told.
#[derive(Debug, Default)]
struct Told {
    started: Mutex<Vec<String>>,
    ready: AtomicUsize,
}

impl Progress for Told {
    fn layer(&self, layer: &Layer, event: LayerEvent) {
        match event {
            LayerEvent::Unpacking { .. } => {
                let mut started = self.started.lock().unwrap();
                let diff_id = layer.diff_id.to_string();
                if !started.contains(&diff_id) {
                    started.push(diff_id);
                }
            }
            LayerEvent::Ready => _ = self.ready.fetch_add(1, Ordering::Relaxed),
            _ => {}
        }
    }
}

#[test]
fn layers_are_made_once_and_keyed_by_what_they_depend_on() {
    each(|backing| {
        let world = World::new(backing);
        let store = world.store();
        assert!(!world.store_path().exists(), "nothing is created before it is needed");
        assert_eq!(world.made_by_realizing_in(&store, &world.image()), 3);
        assert_eq!(world.made_by_realizing_in(&store, &world.image()), 0);
        let names = world.layer_names();
        // A file never depends on what lies below it.
        let chains = usize::from(backing == Backing::Directory);
        assert_eq!(names.iter().filter(|name| name.starts_with("diff-")).count(), 3 - chains, "{names:?}");
        assert_eq!(names.iter().filter(|name| name.starts_with("chain-")).count(), chains, "{names:?}");
        assert_eq!(world.stages(), 0);
    });
}

/// Panics in the first thread that is not the caller's, for which the caller's waits a moment.
#[derive(Debug)]
struct Panics {
    caller: std::thread::ThreadId,
    panicked: std::sync::atomic::AtomicBool,
}

impl Progress for Panics {
    fn layer(&self, _: &Layer, _: LayerEvent) {
        if std::thread::current().id() != self.caller && !self.panicked.swap(true, Ordering::Relaxed) {
            panic!("on purpose");
        }
        let since = std::time::Instant::now();
        while !self.panicked.load(Ordering::Relaxed) && since.elapsed().as_secs() < 2 {
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_panic_of_the_callers_code_reaches_the_caller() {
    each(|backing| {
        if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
            return layermount_fixtures::requirement::skip("processors", "one processor only");
        }
        let world = World::new(backing);
        let store = world.store();
        let panics = Panics { caller: std::thread::current().id(), panicked: false.into() };
        let realize = || store.realize_with(&world.image(), &world.options().progress(&panics));
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(realize)).unwrap_err();
        assert!(panics.panicked.into_inner());
        // What it left is swept, and nothing is locked.
        assert_eq!(world.realize_in(&store, &world.image()).unwrap().layers().len(), stacked(backing, 3));
        assert_eq!(world.stages(), 0);
    });
}

#[test]
fn an_implied_directory_keeps_what_lower_layers_say() {
    each(|backing| {
        use std::os::unix::fs::PermissionsExt;
        let world = World::new(backing);
        let stack = world.realize(&world.image()).unwrap();
        let top = inside(stack.layers().last().unwrap(), "etc");
        assert_eq!(std::fs::metadata(top).unwrap().permissions().mode() & 0o7777, 0o750);
    });
}

#[test]
fn an_opaque_root_leaves_the_root_directory_as_it_was() {
    each(|backing| {
        if !is_root() {
            return layermount_fixtures::requirement::skip("root", "the tree is mounted");
        }
        use std::os::unix::fs::MetadataExt;
        let world = World::of(
            backing,
            "layer\ndir 0711 0:0 / mtime=5\nfile 0644 0:0 /a x\nlayer\nopaque /\nfile 0644 0:0 /b y\n",
        );
        let stack = world.realize(&world.image()).unwrap();
        let mount = layermount::Overlay::new(stack).upper(layermount::Upper::ReadOnly).mount().unwrap();
        let file = std::fs::File::from(mount.directory().unwrap().try_clone_to_owned().unwrap());
        let root = file.metadata().unwrap();
        assert_eq!((root.mode() & 0o7777, root.mtime()), (0o711, 5));
    });
}

#[test]
fn many_at_once_do_the_work_once() {
    each(|backing| {
        let world = World::new(backing);
        let image = world.image();
        let unpacked: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| world.made_by_realizing(&image))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(unpacked, 3);
        assert_eq!(world.stages(), 0);
    });
}

/// A layer that does not name `/etc`, so that it is completed for every chain that it is a part of.
const OPEN_LAYER: &str = "layer\nfile 0644 0:0 /etc/deep \"x\"\n";

#[test]
fn a_layer_that_needs_those_below_may_stand_in_many_places() {
    each(|backing| {
        let world = World::of(backing, &format!("{RECIPE}{}", OPEN_LAYER.repeat(6)));
        assert_eq!(world.realize(&world.image()).unwrap().layers().len(), stacked(backing, 9));
        let mut archive = Vec::new();
        write_docker_archive(&mut archive, ArchiveFormat::Blobs, "streamed:latest", &world.built).unwrap();
        world.store().prune(&PruneOptions::default()).unwrap();
        let (image, _) = streamed(&world, archive);
        assert_eq!(world.realize(&image).unwrap().layers().len(), stacked(backing, 9));
    });
}

#[test]
fn a_layer_that_needs_those_below_may_be_made_for_many_images_at_once() {
    each(|backing| {
        let worlds: Vec<_> = (0..8)
            .map(|n| World::of(backing, &format!("layer\ndir 0755 0:0 /etc\nfile 0644 0:0 /n \"{n}\"\n{OPEN_LAYER}")))
            .collect();
        let path = worlds[0].store_path();
        for _ in 0..10 {
            let start = std::sync::Barrier::new(worlds.len());
            std::thread::scope(|scope| {
                for image in worlds.iter().map(World::image) {
                    let (start, path) = (&start, &path);
                    scope.spawn(move || {
                        start.wait();
                        let options = RealizeOptions::default().backing(backing);
                        let stack = Store::open(path).unwrap().realize_with(&image, &options).unwrap();
                        assert_eq!(stack.layers().len(), stacked(backing, 2));
                    });
                }
            });
            worlds[0].store().prune(&PruneOptions::default()).unwrap();
        }
    });
}

#[test]
fn many_may_prune_at_once() {
    each(|backing| {
        let world =
            World::of(backing, &(0..30).map(|n| format!("layer\nfile 0644 0:0 /{n} \"\"\n")).collect::<String>());
        for _ in 0..10 {
            world.realize(&world.image()).unwrap();
            let start = std::sync::Barrier::new(6);
            std::thread::scope(|scope| {
                for _ in 0..6 {
                    scope.spawn(|| {
                        start.wait();
                        world.store().prune(&PruneOptions::default()).unwrap();
                    });
                }
            });
        }
    });
}

#[test]
fn damaged_blobs_leave_nothing_behind() {
    each(|backing| {
        let world = World::new(backing);
        let blob = world.layout.blob(&sha256_of_layer(&world.built, 1));
        let good = std::fs::read(&blob).unwrap();
        let flipped = {
            let mut bytes = good.clone();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            bytes
        };
        let truncated = good[..good.len() - 9].to_vec();
        for bad in [flipped, truncated] {
            std::fs::write(&blob, &bad).unwrap();
            let error = world.realize(&world.image()).unwrap_err();
            assert!(
                matches!(error.kind(), ErrorKind::DigestMismatch | ErrorKind::InvalidLayer | ErrorKind::InvalidImage),
                "{error:#}"
            );
            assert_eq!(world.stages(), 0);
            assert!(!world.layer_names().iter().any(|name| name.contains(&diff_hex(&world.built, 1))));
        }
        std::fs::remove_file(&blob).unwrap();
        assert_eq!(world.realize(&world.image()).unwrap_err().kind(), ErrorKind::BlobNotFound);
        std::fs::write(&blob, &good).unwrap();
        world.realize(&world.image()).unwrap();
    });
}

fn sha256_of_layer(built: &Built, index: usize) -> String {
    layermount_fixtures::sha256(&built.layers[index].blob)
}

fn diff_hex(built: &Built, index: usize) -> String {
    built.layers[index].diff_id.trim_start_matches("sha256:").to_owned()
}

#[test]
fn a_config_that_lies_about_a_diff_id_is_found_out() {
    each(|backing| {
        let world = World::new(backing);
        let descriptors = world.image().layers().iter().map(|layer| layer.descriptor.clone().unwrap()).collect();
        let mut document: serde_json::Value = serde_json::from_slice(&world.built.config).unwrap();
        document["rootfs"]["diff_ids"][0] = layermount_fixtures::sha256(b"another layer").into();
        let image = Image::new(layermount::ImageParts {
            id: None,
            manifest_digest: None,
            names: Vec::new(),
            platform: Platform::host(),
            config: layermount::Config::parse(document.to_string()).unwrap(),
            descriptors: Some(descriptors),
            content: world.image().content().clone(),
        })
        .unwrap();
        let error = world.realize(&image).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DigestMismatch);
        assert!(format!("{error:#}").contains("uncompressed it is"), "{error:#}");
        assert_eq!(world.stages(), 0);
    });
}

#[test]
fn pulled_images_are_found_by_name_id_and_prefix() {
    each(|backing| {
        let world = World::new(backing);
        let image = world.image();
        let store = world.store();
        world.realize_in(&store, &image).unwrap();
        store.record(&image).unwrap();
        std::fs::rename(world.layout.path(), world.directory.path().join("elsewhere")).unwrap();
        let sources = Sources::new(vec![Box::new(StoredImages::at(world.store_path()))]);
        let name = image.names()[0].clone();
        for reference in [name, image.id().to_string(), image.id().short().to_owned()] {
            let found = sources.resolve(&reference.parse().unwrap(), &Platform::host()).unwrap();
            assert_eq!(found.id(), image.id(), "{reference}");
            assert_eq!(world.made_by_realizing_in(&store, &found), 0);
        }
        let other: Platform = "linux/s390x".parse().unwrap();
        let error = sources.resolve(&image.id().to_string().parse().unwrap(), &other).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ImageNotFound);
    });
}

#[test]
fn prune_keeps_what_is_named_or_used() {
    each(|backing| {
        let world = World::new(backing);
        let (store, image) = (world.store(), world.image());
        let stack = world.realize_in(&store, &image).unwrap();
        store.record(&image).unwrap();
        assert!(store.prune(&PruneOptions::default()).unwrap().layers.is_empty());
        let in_use = store.prune(&PruneOptions::default().all_images(true)).unwrap();
        let indexes = usize::from(backing == Backing::Erofs);
        assert_eq!((in_use.images, in_use.layers.len(), in_use.in_use.len()), (1, 0, 3 + indexes));
        assert_eq!(read(&stack, "etc/note"), b"second\n");
        drop(stack);
        let pruned = store.prune(&PruneOptions::default()).unwrap();
        assert_eq!((pruned.layers.len(), pruned.indexes.len(), pruned.in_use.len()), (3, indexes, 0));
        assert!(pruned.bytes > 0);
        assert!(world.layer_names().is_empty());
        assert_eq!(count(&world.store_path().join("locks")), 0);
        world.realize_in(&store, &image).unwrap();
    });
}

#[test]
fn leftovers_of_the_dead_are_swept() {
    each(|backing| {
        let world = World::new(backing);
        world.realize(&world.image()).unwrap();
        world.store().prune(&PruneOptions::default().all_images(true)).unwrap();
        let dead = world.store_path().join("stage/1-0");
        std::fs::create_dir_all(dead.join("layer/fs/a/b")).unwrap();
        std::fs::write(dead.join("layer/fs/a/b/c"), "half a layer").unwrap();
        world.realize(&world.image()).unwrap();
        assert_eq!(world.stages(), 0);
    });
}

#[test]
fn verify_finds_damage_in_directories() {
    let world = World::new(Backing::Directory);
    let store = world.store();
    let stack = world.realize_in(&store, &world.image()).unwrap();
    let clean = store.verify(&mut |_| ()).unwrap();
    assert!(clean.damage.is_empty(), "{:?}", clean.damage);
    assert_eq!((clean.layers, clean.files), (3, 6));
    let base = stack.layers()[0].path();
    std::fs::write(base.join("etc/motd"), "hellO\n").unwrap();
    std::fs::write(base.join("etc/extra"), "").unwrap();
    std::fs::remove_file(stack.layers()[1].path().join("etc/note")).unwrap();
    let damage = store.verify(&mut |_| ()).unwrap().damage;
    let mut found: Vec<_> = damage.iter().map(|damage| damage.path.as_str()).collect();
    found.sort_unstable();
    assert_eq!(found, ["etc/extra", "etc/motd", "etc/note"]);
}

#[test]
fn a_store_with_broken_records_can_be_cleared() {
    each(|backing| {
        let world = World::new(backing);
        let (store, image) = (world.store(), world.image());
        drop(world.realize_in(&store, &image).unwrap());
        store.record(&image).unwrap();
        std::fs::write(store.layers().unwrap()[0].path.join("layer.json"), "").unwrap();
        for record in std::fs::read_dir(world.store_path().join("images")).unwrap() {
            std::fs::write(record.unwrap().path(), "{").unwrap();
        }
        let pruned = store.prune(&PruneOptions::default().all_images(true)).unwrap();
        assert_eq!((pruned.images, pruned.layers.len()), (1, 3));
        assert_eq!(store.images().unwrap().len(), 0);
        world.realize_in(&store, &image).unwrap();
    });
}

#[test]
fn a_record_that_no_image_can_be_made_of_harms_no_other() {
    let world = World::new(Backing::Auto);
    let (store, image) = (world.store(), world.image());
    store.realize(&image).unwrap();
    store.record(&image).unwrap();
    let images = world.store_path().join("images");
    let sound = std::fs::read_dir(&images).unwrap().next().unwrap().unwrap().path();
    let text = std::fs::read_to_string(&sound).unwrap();
    let platform = format!("\"platform\":\"{}\"", image.platform());
    let spoilt = text.replace(&platform, "\"platform\":\"linux/amd64/v1.2 x\"");
    assert_ne!(spoilt, text);
    std::fs::write(images.join(format!("{}.json", "0".repeat(64))), spoilt).unwrap();
    assert_eq!(store.images().unwrap().len(), 1);
    let pruned = store.prune(&PruneOptions::default()).unwrap();
    assert_eq!((pruned.leftovers, pruned.layers.len()), (1, 0));
    assert_eq!(std::fs::read_dir(images).unwrap().count(), 1);
}

/// Runs this test alone in another process that may have few files open.
fn with_few_files(test: &str, work: impl FnOnce()) {
    use nix::sys::resource::{Resource, setrlimit};
    if std::env::var_os("LAYERMOUNT_TEST_FEW_FILES").is_some() {
        setrlimit(Resource::RLIMIT_NOFILE, 128, 128).unwrap();
        return work();
    }
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--test-threads=1"]).env("LAYERMOUNT_TEST_FEW_FILES", "1");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn deep_trees_need_few_descriptors() {
    with_few_files("deep_trees_need_few_descriptors", || {
        each(|backing| {
            let deep = "/d".repeat(900);
            let world = World::of(backing, &format!("layer\nfile 0644 0:0 {deep}/end \"at the end\"\n"));
            let store = world.store();
            world.realize_in(&store, &world.image()).unwrap();
            let verified = store.verify(&mut |_| ()).unwrap();
            // The layer does not name its directories, so that its file needs an index.
            let files = if backing == Backing::Erofs { 2 } else { 1 };
            assert_eq!((verified.files, verified.damage.len()), (files, 0), "{:?}", verified.damage);
            assert!(store.usage().unwrap().layer_bytes > 0);
            assert_eq!(store.prune(&PruneOptions::default()).unwrap().layers.len(), 1);
            assert_eq!(world.stages(), 0);
        })
    });
}

#[test]
fn stores_that_others_can_write_to_are_refused() {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let error = Store::open(directory.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.hint().unwrap().contains("chmod"));

    // Nor are those in the place of which everybody can put another, also where only a symlink leads there.
    let store = directory.path().join("store");
    std::fs::DirBuilder::new().mode(0o700).create(&store).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let link = elsewhere.path().join("link");
    std::os::unix::fs::symlink(&store, &link).unwrap();
    for path in [&store, &link] {
        let error = Store::open(path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{path:?}");
        assert!(error.to_string().contains("another store"), "{error}");
    }
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o1777)).unwrap();
    Store::open(&link).unwrap();
}

/// An engine that streams a fixed archive.
#[derive(Debug)]
struct Engine {
    archive: Vec<u8>,
    opened: AtomicUsize,
}

impl layermount::ImageArchive for Engine {
    fn open(&self) -> layermount::Result<Box<dyn std::io::Read + Send>> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(std::io::Cursor::new(self.archive.clone())))
    }

    fn describe(&self) -> String {
        "a test engine".into()
    }
}

fn streamed(world: &World, archive: Vec<u8>) -> (Image, Arc<Engine>) {
    let engine = Arc::new(Engine { archive, opened: AtomicUsize::new(0) });
    (of_archive(world, engine.clone()), engine)
}

fn of_archive(world: &World, archive: Arc<dyn layermount::ImageArchive>) -> Image {
    Image::new(layermount::ImageParts {
        id: None,
        manifest_digest: None,
        names: vec!["docker.io/library/streamed:latest".into()],
        platform: Platform::host(),
        config: layermount::Config::parse(world.built.config.clone()).unwrap(),
        descriptors: None,
        content: layermount::Content::Archive(archive),
    })
    .unwrap()
}

#[test]
fn archives_of_engines_are_unpacked_as_they_pass() {
    each(|backing| {
        for format in [ArchiveFormat::Classic, ArchiveFormat::Blobs] {
            let world = World::new(backing);
            let mut archive = Vec::new();
            write_docker_archive(&mut archive, format, "streamed:latest", &world.built).unwrap();
            let (image, engine) = streamed(&world, archive.clone());
            let from_archive: Vec<_> = {
                assert_eq!(world.made_by_realizing(&image), 3, "what was made here is told");
                let stack = world.realize(&image).unwrap();
                stack.layers().iter().map(|layer| layer.path().to_owned()).collect()
            };
            world.realize(&image).unwrap();
            assert_eq!(engine.opened.load(Ordering::Relaxed), 1, "{format:?}: a warm start asks nobody");
            let from_layout: Vec<_> = {
                let stack = world.realize(&world.image()).unwrap();
                stack.layers().iter().map(|layer| layer.path().to_owned()).collect()
            };
            assert_eq!(from_archive, from_layout);

            let half = World::new(backing);
            archive.truncate(archive.len() / 2);
            let (image, _) = streamed(&half, archive);
            half.realize(&image).unwrap_err();
            assert_eq!(half.stages(), 0);
        }
    });
}

#[test]
fn what_a_power_cut_leaves_is_found_removed_and_made_anew() {
    each(|backing| {
        let world = World::new(backing);
        let (store, image) = (world.store(), world.image());
        drop(world.realize_in(&store, &image).unwrap());
        store.record(&image).unwrap();
        let cut = |path: &Path| std::fs::write(path, "").unwrap();
        let records = || {
            let shelf = std::fs::read_dir(world.store_path().join("layers")).unwrap().next().unwrap().unwrap().path();
            let mut records: Vec<_> =
                std::fs::read_dir(shelf).unwrap().map(|layer| layer.unwrap().path().join("layer.json")).collect();
            records.sort();
            records
        };
        // With the index of the image, where there is one.
        let all = if backing == Backing::Erofs { 4 } else { 3 };
        // A pull mends it.
        records().iter().for_each(|record| cut(record));
        assert!(store.layers().unwrap().is_empty());
        assert_eq!(store.verify(&mut |_| ()).unwrap().damage.len(), all);
        assert_eq!(world.made_by_realizing_in(&store, &image), 3);
        assert!(store.verify(&mut |_| ()).unwrap().damage.is_empty());
        // Prune removes it, though an image needs it.
        cut(&records()[0]);
        std::fs::remove_file(&records()[1]).unwrap();
        assert_eq!(store.prune(&PruneOptions::default()).unwrap().layers.len(), 2);
        // So it is with images and names.
        for part in ["images", "names"] {
            let file = std::fs::read_dir(world.store_path().join(part)).unwrap().next().unwrap().unwrap().path();
            cut(&file);
            assert!(store.image_named(&image.names()[0], &Platform::host()).unwrap().is_none());
            store.images().unwrap();
            store.prune(&PruneOptions::default()).unwrap();
            assert!(!file.exists());
            drop(world.realize_in(&store, &image).unwrap());
            store.record(&image).unwrap();
            assert!(store.image_named(&image.names()[0], &Platform::host()).unwrap().is_some());
        }
    });
}

/// An engine that breaks off.
#[derive(Debug)]
struct Breaking(Vec<u8>);

impl layermount::ImageArchive for Breaking {
    fn open(&self) -> layermount::Result<Box<dyn std::io::Read + Send>> {
        struct End;
        impl std::io::Read for End {
            fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
                Err(std::io::Error::other("peer disconnected"))
            }
        }
        Ok(Box::new(std::io::Read::chain(std::io::Cursor::new(self.0.clone()), End)))
    }

    fn describe(&self) -> String {
        "a breaking engine".into()
    }
}

#[test]
fn an_engine_that_breaks_off_is_no_fault_of_the_layer() {
    each(|backing| {
        let world = World::new(backing);
        let mut archive = Vec::new();
        write_docker_archive(&mut archive, ArchiveFormat::Classic, "streamed:latest", &world.built).unwrap();
        for length in (0..archive.len()).step_by(700) {
            let image = of_archive(&world, Arc::new(Breaking(archive[..length].to_vec())));
            match world.realize(&image) {
                Err(error) => assert_eq!(error.kind(), ErrorKind::EngineFailed, "{error:#}"),
                Ok(stack) => assert_eq!(stack.layers().len(), stacked(backing, 3)),
            }
            assert_eq!(world.stages(), 0);
        }
    });
}
