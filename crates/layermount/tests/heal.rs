//! Damage in the store: found, said, and made anew by whoever needs the layer next.

#![allow(clippy::disallowed_methods, reason = "tests write to directories of their own")]

mod backings;

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use backings::{each, entries_of_files};
use layermount::store::{Backing, DamageKind, LayerEvent, Progress, PruneOptions, RealizeOptions, Verified};
use layermount::{ErrorKind, Image, Layer, LayerStack, OciLayouts, Platform, Source, Store, StoredImages};
use layermount_fixtures::requirement::skip;
use layermount_fixtures::{Layout, Recipe};

const RECIPE: &str = r#"
    layer
    dir  0755 0:0 /etc
    file 0644 0:0 /etc/motd "hello\n"
    file 0644 0:0 /etc/empty ""
    dir  0755 0:0 /usr
    dir  0755 0:0 /usr/share
    file 0644 0:0 "/usr/share/a name\nwith \\ and \"" "odd"
    random 0644 0:0 /usr/share/big 300000
    layer
    dir  0755 0:0 /srv
    file 0644 0:0 /srv/data "the second layer\n"
    random 0644 0:0 /srv/much 80000
    layer
    file 0644 0:0 /srv/open "does not name its directory\n"
    random 0644 0:0 /more 70000
"#;

struct World {
    backing: Backing,
    directory: tempfile::TempDir,
}

impl World {
    fn new(backing: Backing) -> Self {
        Self::of(backing, RECIPE)
    }

    fn of(backing: Backing, recipe: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let own = format!("{}:{}", nix::unistd::geteuid(), nix::unistd::getegid());
        let built = Recipe::parse(&recipe.replace("0:0", &own)).unwrap().build().unwrap();
        Layout::create(directory.path().join("layout")).unwrap().add("image", &built).unwrap();
        Self { backing, directory }
    }

    fn image(&self) -> Image {
        image_in(self.directory.path())
    }

    fn store_path(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    fn store(&self) -> Store {
        Store::open(self.store_path()).unwrap()
    }

    fn options(&self) -> RealizeOptions<'static> {
        RealizeOptions::default().backing(self.backing)
    }

    fn realize(&self, image: &Image) -> layermount::Result<LayerStack> {
        self.store().realize_with(image, &self.options())
    }

    /// The places of all layers in the store, base first, and of the image's index where there is one.
    fn layers(&self) -> Vec<PathBuf> {
        let stack = self.realize(&self.image()).unwrap();
        if self.backing == Backing::Erofs {
            return entries_of_files(&self.store_path(), &self.image());
        }
        stack.layers().iter().map(|layer| layer.path().parent().unwrap().to_owned()).collect()
    }

    /// The file in the store that holds a file of a layer.
    fn file(&self, layer: &Path, path: &str) -> PathBuf {
        match self.backing {
            Backing::Erofs => layer.join("image"),
            _ => layer.join("fs").join(path),
        }
    }

    fn stages(&self) -> usize {
        std::fs::read_dir(self.store_path().join("stage")).map_or(0, Iterator::count)
    }

    fn verify(&self) -> Verified {
        self.store().verify(&mut |_| ()).unwrap()
    }

    /// How many layers have to be unpacked to realize the image.
    fn unpacked_by_realizing(&self) -> usize {
        #[derive(Debug, Default)]
        struct Unpacked(Mutex<Vec<String>>);
        impl Progress for Unpacked {
            fn layer(&self, layer: &Layer, event: LayerEvent) {
                if matches!(event, LayerEvent::Unpacking { .. }) {
                    self.0.lock().unwrap().push(layer.diff_id.to_string());
                }
            }
        }
        let unpacked = Unpacked::default();
        self.store().realize_with(&self.image(), &self.options().progress(&unpacked)).unwrap();
        let mut unpacked = unpacked.0.into_inner().unwrap();
        unpacked.sort_unstable();
        unpacked.dedup();
        unpacked.len()
    }
}

fn image_in(directory: &Path) -> Image {
    let reference = format!("oci:{}:image", directory.join("layout").display());
    OciLayouts.resolve(&reference.parse().unwrap(), &Platform::host()).unwrap()
}

fn remake(path: &Path, make: impl FnOnce(&Path)) {
    if path.symlink_metadata().unwrap().is_dir() {
        std::fs::remove_dir_all(path).unwrap();
    } else {
        std::fs::remove_file(path).unwrap();
    }
    make(path);
}

fn fifo(path: &Path) {
    nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
}

fn flip(path: &Path, at: u64) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

fn resize(path: &Path, by: i64) {
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len().checked_add_signed(by).unwrap()).unwrap();
}

/// What is done to the base layer, and what is found of it: class and path.
type Case = (&'static str, fn(&Path), &'static [(DamageKind, &'static str)]);

const CASES: &[Case] = &[
    (
        "a flipped bit",
        |layer| flip(&layer.join("fs/usr/share/big"), 150_000),
        &[(DamageKind::Content, "usr/share/big")],
    ),
    (
        "the last bit flipped",
        |layer| flip(&layer.join("fs/usr/share/big"), 299_999),
        &[(DamageKind::Content, "usr/share/big")],
    ),
    ("a file cut short", |layer| resize(&layer.join("fs/usr/share/big"), -1), &[(DamageKind::Size, "usr/share/big")]),
    ("a file made longer", |layer| resize(&layer.join("fs/etc/empty"), 1), &[(DamageKind::Size, "etc/empty")]),
    (
        "a file with an odd name",
        |layer| flip(&layer.join("fs/usr/share/a name\nwith \\ and \""), 0),
        &[(DamageKind::Content, r#"usr/share/a name\nwith \\ and \""#)],
    ),
    (
        "a deleted file",
        |layer| std::fs::remove_file(layer.join("fs/etc/empty")).unwrap(),
        &[(DamageKind::Missing, "etc/empty")],
    ),
    (
        "a deleted directory",
        |layer| std::fs::remove_dir_all(layer.join("fs/etc")).unwrap(),
        &[(DamageKind::Missing, "etc/empty"), (DamageKind::Missing, "etc/motd")],
    ),
    ("an added file", |layer| std::fs::write(layer.join("fs/usr/x"), "").unwrap(), &[(DamageKind::Extra, "usr/x")]),
    (
        "a symlink for a file",
        |layer| remake(&layer.join("fs/etc/motd"), |path| std::os::unix::fs::symlink("empty", path).unwrap()),
        &[(DamageKind::Type, "etc/motd")],
    ),
    ("a fifo for a file", |layer| remake(&layer.join("fs/etc/motd"), fifo), &[(DamageKind::Type, "etc/motd")]),
    (
        "a symlink for a directory",
        |layer| remake(&layer.join("fs/etc"), |path| std::os::unix::fs::symlink("usr", path).unwrap()),
        &[(DamageKind::Missing, "etc/empty"), (DamageKind::Missing, "etc/motd")],
    ),
    ("no listing", |layer| std::fs::remove_file(layer.join("listing")).unwrap(), &[(DamageKind::Record, "")]),
    ("an empty listing", |layer| std::fs::write(layer.join("listing"), "").unwrap(), &[(DamageKind::Record, "")]),
    ("a listing cut short", |layer| resize(&layer.join("listing"), -3), &[(DamageKind::Record, "")]),
    (
        "a listing of garbage",
        |layer| std::fs::write(layer.join("listing"), [0xff; 5000]).unwrap(),
        &[(DamageKind::Record, "")],
    ),
    ("a fifo for the listing", |layer| remake(&layer.join("listing"), fifo), &[(DamageKind::Record, "")]),
    ("an empty record", |layer| std::fs::write(layer.join("layer.json"), "").unwrap(), &[(DamageKind::Record, "")]),
    ("a record cut short", |layer| resize(&layer.join("layer.json"), -1), &[(DamageKind::Record, "")]),
    ("a fifo for the record", |layer| remake(&layer.join("layer.json"), fifo), &[(DamageKind::Record, "")]),
    ("no tree", |layer| std::fs::remove_dir_all(layer.join("fs")).unwrap(), &[(DamageKind::Record, "")]),
    (
        "a file for the tree",
        |layer| remake(&layer.join("fs"), |path| std::fs::write(path, "").unwrap()),
        &[(DamageKind::Record, "")],
    ),
    (
        "a symlink for the tree",
        |layer| remake(&layer.join("fs"), |path| std::os::unix::fs::symlink("/", path).unwrap()),
        &[(DamageKind::Record, "")],
    ),
    (
        "a symlink for the layer",
        |layer| remake(layer, |path| std::os::unix::fs::symlink("/", path).unwrap()),
        &[(DamageKind::Record, "")],
    ),
    ("a fifo for the layer", |layer| remake(layer, fifo), &[(DamageKind::Record, "")]),
];

#[test]
fn damage_of_every_kind_is_found_and_made_anew() {
    for (name, damage, expected) in CASES {
        let world = World::new(Backing::Directory);
        let layers = world.layers();
        assert!(world.verify().damage.is_empty(), "{name}");
        damage(&layers[0]);
        let verified = world.verify();
        let mut found: Vec<_> = verified.damage.iter().map(|damage| (damage.kind, damage.path.as_str())).collect();
        found.sort_by_key(|(_, path)| *path);
        assert_eq!(found, *expected, "{name}: {:?}", verified.damage);
        assert!(verified.damage.iter().all(|damage| damage.layer == layers[0]), "{name}");
        assert!(verified.in_use.is_empty() && verified.unmarked.is_empty(), "{name}");
        // What nobody can take for a layer needs no mark.
        let broken = expected[0].0 == DamageKind::Record && !name.contains("listing");
        assert_eq!(verified.marked.len(), usize::from(!broken), "{name}");
        // It stays what it is for those who only look.
        let again = world.verify();
        assert_eq!((again.damage.len(), again.damage[0].kind), (1, DamageKind::Record), "{name}");
        assert_eq!(world.store().layers().unwrap().len(), 2, "{name}");
        assert_eq!(world.unpacked_by_realizing(), 1, "{name}");
        assert!(world.verify().damage.is_empty(), "{name}");
        assert_eq!((world.layers(), world.stages()), (layers, 0), "{name}");
    }
}

#[test]
fn prune_removes_what_verify_found_though_an_image_names_it() {
    for (name, damage, _) in CASES {
        let world = World::new(Backing::Directory);
        let (store, layers) = (world.store(), world.layers());
        store.record(&world.image()).unwrap();
        damage(&layers[0]);
        world.verify();
        store.usage().unwrap();
        let pruned = store.prune(&PruneOptions::default()).unwrap();
        assert_eq!(pruned.layers, [layers[0].file_name().unwrap().to_str().unwrap()], "{name}");
        assert!(layers[0].symlink_metadata().is_err(), "{name}");
        assert_eq!(world.unpacked_by_realizing(), 1, "{name}");
    }
}

#[test]
fn a_completed_layer_is_made_anew_too() {
    let world = World::new(Backing::Directory);
    let layers = world.layers();
    assert!(layers[2].to_str().unwrap().contains("/chain-"));
    flip(&layers[2].join("fs/srv/open"), 3);
    assert_eq!(world.verify().marked, [layers[2].clone()]);
    assert_eq!(world.unpacked_by_realizing(), 1);
    assert!(world.verify().damage.is_empty());
}

#[test]
fn a_damaged_layer_is_not_taken_from_its_users() {
    let world = World::new(Backing::Directory);
    let store = world.store();
    let stack = world.realize(&world.image()).unwrap();
    let motd = stack.layers()[0].path().join("etc/motd");
    flip(&motd, 0);
    let inode = std::fs::metadata(&motd).unwrap().ino();
    let verified = world.verify();
    assert_eq!((verified.marked.len(), verified.in_use.len()), (1, 1));
    let error = world.realize(&world.image()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error:#}");
    assert!(error.hint().unwrap().contains("end the programs"), "{:?}", error.hint());
    assert!(store.prune(&PruneOptions::default().all_images(true)).unwrap().layers.is_empty());
    assert_eq!(std::fs::metadata(&motd).unwrap().ino(), inode);
    assert_eq!(world.stages(), 0);
    drop(stack);
    assert_eq!(world.unpacked_by_realizing(), 1);
    assert!(world.verify().damage.is_empty());
}

#[test]
fn an_image_known_from_the_store_alone_cannot_be_made_anew() {
    each(|backing| {
        let world = World::new(backing);
        let (store, image) = (world.store(), world.image());
        let layers = world.layers();
        store.record(&image).unwrap();
        flip(&world.file(&layers[1], "srv/data"), 0);
        world.verify();
        let stored = StoredImages::at(world.store_path());
        let stored = stored.resolve(&image.id().to_string().parse().unwrap(), &Platform::host()).unwrap();
        let error = world.realize(&stored).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BlobNotFound, "{error:#}");
        assert!(error.hint().unwrap().contains("pull the image again"), "{:?}", error.hint());
        assert_eq!(world.unpacked_by_realizing(), 1);
        world.realize(&stored).unwrap();
    });
}

#[test]
fn thousands_of_damaged_files_are_counted() {
    let files: String = (0..1500).map(|n| format!("file 0644 0:0 /{n} \"x\"\n")).collect();
    let world = World::of(Backing::Directory, &format!("layer\n{files}"));
    let layer = &world.layers()[0];
    for n in 0..1500 {
        std::fs::remove_file(layer.join(format!("fs/{n}"))).unwrap();
    }
    let damage = world.verify().damage;
    assert_eq!(
        (damage.len(), damage[1000].kind, damage[1000].what.as_str()),
        (1001, DamageKind::More, "500 more are damaged")
    );
}

#[test]
fn in_a_store_that_cannot_be_written_to_damage_is_reported_only() {
    each(|backing| {
        use nix::mount::{MsFlags, mount};
        if !nix::unistd::geteuid().is_root() {
            return skip("root", "not root");
        }
        let world = World::new(backing);
        let layers = world.layers();
        flip(&world.file(&layers[0], "etc/motd"), 0);
        let path = world.store_path();
        // This thread's own view of it.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        mount(Some(&path), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        mount(
            None::<&str>,
            &path,
            None::<&str>,
            MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY,
            None::<&str>,
        )
        .unwrap();
        let verified = world.verify();
        // The index goes first.
        let index = (backing == Backing::Erofs).then(|| layers.last().unwrap().clone());
        let damaged: Vec<_> = index.into_iter().chain([layers[0].clone()]).collect();
        assert_eq!((verified.damage.len(), verified.marked.len()), (damaged.len(), 0));
        assert_eq!(verified.unmarked, damaged);
        assert_eq!(world.unpacked_by_realizing(), 0);
    });
}

#[test]
fn what_is_no_layer_and_no_record_harms_nobody() {
    each(|backing| {
        use std::os::unix::ffi::OsStrExt;
        use std::os::unix::fs::symlink;
        let world = World::new(backing);
        let store = world.store();
        let shelf = world.layers()[0].parent().unwrap().to_owned();
        store.record(&world.image()).unwrap();
        let content = if backing == Backing::Erofs { "image" } else { "fs" };
        let outside = world.directory.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("kept"), "kept").unwrap();
        let parts = ["stage", "locks", "images", "names"].map(|part| world.store_path().join(part));
        for place in parts.iter().chain([&shelf]) {
            fifo(&place.join("fifo"));
            symlink(&outside, place.join("link")).unwrap();
            symlink(outside.join("kept"), place.join("link-to-file")).unwrap();
            symlink("/nowhere", place.join("dangling")).unwrap();
            std::fs::create_dir_all(place.join("directory").join(content)).unwrap();
            std::fs::create_dir_all(place.join("links")).unwrap();
            symlink(&outside, place.join("links").join(content)).unwrap();
            std::fs::write(place.join("file"), "{}").unwrap();
            std::fs::write(place.join(std::ffi::OsStr::from_bytes(b"\xff")), "").unwrap();
            std::os::unix::net::UnixListener::bind(place.join("socket")).unwrap();
        }
        assert_eq!(store.layers().unwrap().len(), 3);
        assert_eq!((store.images().unwrap().len(), store.usage().unwrap().layers), (1, 3));
        let damage = world.verify().damage;
        assert_eq!((damage.len(), damage.iter().filter(|damage| damage.kind == DamageKind::Record).count()), (8, 8));
        assert_eq!(world.unpacked_by_realizing(), 0);
        let pruned = store.prune(&PruneOptions::default()).unwrap();
        assert_eq!((pruned.layers.len(), store.layers().unwrap().len()), (8, 3));
        assert!(world.verify().damage.is_empty());
        store.prune(&PruneOptions::default().all_images(true)).unwrap();
        assert_eq!(std::fs::read_to_string(outside.join("kept")).unwrap(), "kept");
        assert_eq!(world.unpacked_by_realizing(), 3);
    });
}

#[test]
fn parts_of_a_store_that_others_can_write_to_are_refused() {
    each(|backing| {
        use std::os::unix::fs::PermissionsExt;
        let world = World::new(backing);
        let shelf = world.layers()[0].parent().unwrap().to_owned();
        for place in [shelf, world.store_path().join("layers"), world.store_path().join("images")] {
            std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o777)).unwrap();
            let error = world.store().prune(&PruneOptions::default()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error:#}");
            assert!(error.to_string().contains(place.to_str().unwrap()), "{error}");
            std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o700)).unwrap();
            if nix::unistd::geteuid().is_root() {
                std::os::unix::fs::chown(&place, Some(54321), None).unwrap();
                let error = world.store().prune(&PruneOptions::default()).unwrap_err();
                assert!(error.to_string().contains("belongs to uid 54321"), "{error}");
                std::os::unix::fs::chown(&place, Some(0), None).unwrap();
            }
        }
        world.store().prune(&PruneOptions::default()).unwrap();
    });
}
