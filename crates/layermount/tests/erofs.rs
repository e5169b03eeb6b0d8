//! Layers in EROFS files: what is in the store, what of it is mounted, and what becomes of it.

#![allow(clippy::disallowed_methods, reason = "tests write to directories of their own")]

mod archives;
mod backings;
#[path = "erofs/damage.rs"]
mod damage;
#[path = "erofs/kept.rs"]
mod kept;

use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use archives::built;
use backings::{entries_of_files, files_can_be_mounted, read};
use damage::flip;
use layermount::store::{Backing, Damage, LayerEvent, Progress, PruneOptions, RealizeOptions};
use layermount::{
    ErrorKind, Image, Kernel, Layer, LayerStack, LayersBy, OciLayouts, Overlay, Platform, Result, RootMount, Source,
    Store, Upper,
};
use layermount_fixtures::model::{Namespace, merged, observe};
use layermount_fixtures::requirement::skip;
use layermount_fixtures::{Built, Compression, Layout, Recipe};

const BASE: &str = r#"
    layer
    dir  0755 0:0 /
    dir  0755 0:0 /etc
    file 0644 0:0 /etc/motd "hello\n"
    random 0644 0:0 /big 200000
    layer
    dir  0755 0:0 /srv
    file 0644 0:0 /srv/data "the second layer\n"
    random 0644 0:0 /srv/much 80000
"#;

/// Stands alone.
const SINGLE: &str =
    "layer\ndir 0755 0:0 /\ndir 0755 0:0 /etc\nfile 0644 0:0 /etc/motd \"hello\\n\"\nrandom 0644 0:0 /big 100000\n";

/// Does not name the directory of its file.
const TOP: &str = "layer\nfile 0644 0:0 /srv/top \"the third layer\\n\"\nrandom 0644 0:0 /more 70000\n";

struct World {
    place: tempfile::TempDir,
}

impl World {
    /// `None`, with the reason said, where the kernel mounts no files.
    fn new() -> Option<Self> {
        files_can_be_mounted().then(|| Self { place: tempfile::tempdir().unwrap() })
    }

    fn add(&self, tag: &str, built: &Built) -> Image {
        let layout = Layout::create(self.place.path().join("layout")).unwrap();
        layout.add(tag, built).unwrap();
        let reference = format!("oci:{}:{tag}", layout.path().display());
        OciLayouts.resolve(&reference.parse().unwrap(), &Platform::host()).unwrap()
    }

    fn image(&self, tag: &str, recipe: &str) -> Image {
        self.add(tag, &Recipe::parse(recipe).unwrap().build().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.place.path().join("store")
    }

    /// A new one each time, which remembers nothing.
    fn store(&self) -> Store {
        Store::open(self.path()).unwrap()
    }

    /// The stack, and how many layers had to be made for it.
    fn realize(&self, image: &Image) -> (LayerStack, usize) {
        realize_as(&self.store(), image, Backing::Auto).unwrap()
    }

    fn prune_all(&self) -> layermount::store::Pruned {
        self.store().prune(&PruneOptions::default().all_images(true)).unwrap()
    }

    /// Removes everything; returns how many layers and indexes that were. A namespace goes in the kernel's own time, and for a
    /// moment a child that another test starts has what is open here.
    fn prune_in_time(&self) -> (usize, usize) {
        let (since, mut removed) = (std::time::Instant::now(), (0, 0));
        while self.shelf() > 0 && since.elapsed().as_secs() < 20 {
            let pruned = self.prune_all();
            removed = (removed.0 + pruned.layers.len(), removed.1 + pruned.indexes.len());
        }
        removed
    }

    /// What lies where files are kept.
    fn shelf(&self) -> usize {
        std::fs::read_dir(self.path().join("layers/erofs")).unwrap().count()
    }

    /// The damaged entries that are found.
    fn damaged(&self) -> Vec<PathBuf> {
        paths(&self.store().verify(&mut |_| ()).unwrap().damage)
    }
}

fn paths(damage: &[Damage]) -> Vec<PathBuf> {
    let mut paths: Vec<_> = damage.iter().map(|damage| damage.layer.clone()).collect();
    paths.sort();
    paths
}

fn realize_as(store: &Store, image: &Image, backing: Backing) -> Result<(LayerStack, usize)> {
    #[derive(Debug, Default)]
    struct Made(Mutex<Vec<String>>);
    impl Progress for Made {
        fn layer(&self, layer: &Layer, event: LayerEvent) {
            let mut made = self.0.lock().unwrap();
            let diff_id = layer.diff_id.to_string();
            if matches!(event, LayerEvent::Unpacking { .. }) && !made.contains(&diff_id) {
                made.push(diff_id);
            }
        }
    }
    let made = Made::default();
    let stack = store.realize_with(image, &RealizeOptions::default().backing(backing).progress(&made))?;
    Ok((stack, made.0.into_inner().unwrap().len()))
}

fn read_only(stack: LayerStack) -> RootMount {
    Overlay::new(stack).upper(Upper::ReadOnly).mount().unwrap()
}

fn read_in(root: &RootMount, path: &str) -> Vec<u8> {
    let root = root.directory().unwrap().as_raw_fd().to_string();
    std::fs::read(Path::new("/proc/self/fd").join(root).join(path)).unwrap()
}

fn backings(store: &Store) -> Vec<Backing> {
    let mut backings: Vec<_> = store.layers().unwrap().iter().map(|layer| layer.backing).collect();
    backings.dedup();
    backings
}

fn is_in_files(stack: &LayerStack) -> bool {
    stack.layers().iter().all(|layer| layer.path().ends_with("image"))
}

#[test]
fn both_backings_stand_in_one_store_and_images_use_what_is_there() {
    let Some(world) = World::new() else { return };
    let (first, second) = (world.image("first", BASE), world.image("second", &format!("{BASE}{TOP}")));
    assert_eq!(world.realize(&first).1, 2);
    assert_eq!(backings(&world.store()), [Backing::Erofs], "root has files unless it says otherwise");
    assert_eq!(realize_as(&world.store(), &second, Backing::Directory).unwrap().1, 3);
    assert_eq!(backings(&world.store()), [Backing::Directory, Backing::Erofs]);
    for _ in 0..2 {
        let (stack, made) = world.realize(&first);
        assert!(is_in_files(&stack) && made == 0);
        let (stack, made) = world.realize(&second);
        assert!(!is_in_files(&stack) && made == 0);
        assert_eq!(read(&stack, "srv/top"), b"the third layer\n");
        assert_eq!(realize_as(&world.store(), &first, Backing::Directory).unwrap().1, 0);
    }
    let (stack, made) = realize_as(&world.store(), &second, Backing::Erofs).unwrap();
    assert!(is_in_files(&stack) && made == 1, "the other two were files before");
}

#[test]
fn directories_of_some_layers_are_not_taken_for_their_files() {
    let Some(world) = World::new() else { return };
    let image = world.image("shorter", BASE);
    assert_eq!(realize_as(&world.store(), &image, Backing::Directory).unwrap().1, 2);
    // Both are there as files, too, when the top is added; then as directories alone.
    for (tag, files) in [("with", true), ("without", false)] {
        let top = TOP.replace("/more", &format!("/more-{tag}"));
        let longer = world.image(tag, &format!("{BASE}{top}"));
        if files {
            assert_eq!(realize_as(&world.store(), &image, Backing::Erofs).unwrap().1, 2);
        }
        let (stack, _) = world.realize(&longer);
        assert!(is_in_files(&stack));
        assert_eq!(read(&stack, "etc/motd"), b"hello\n", "{tag}");
        assert_eq!(read(&stack, "srv/data"), b"the second layer\n", "{tag}");
        assert_eq!(read(&stack, "srv/top"), b"the third layer\n", "{tag}");
        drop(stack);
        std::fs::remove_dir_all(world.path().join("layers/erofs")).unwrap();
    }
}

#[test]
fn where_files_cannot_be_mounted_directories_are_made() {
    let Some(world) = World::new() else { return };
    let Ok(place) = tempfile::tempdir_in("/dev/shm") else { return skip("erofs", "no /dev/shm") };
    if nix::sys::statfs::statfs(place.path()).unwrap().filesystem_type() != nix::sys::statfs::TMPFS_MAGIC {
        return skip("erofs", "/dev/shm is no tmpfs");
    }
    let (store, image) = (Store::open(place.path().join("store")).unwrap(), world.image("image", BASE));
    let refused = |store: &Store| {
        let error = realize_as(store, &image, Backing::Erofs).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:#}");
        assert!(error.hint().unwrap().contains("--backing dir"), "{:?}", error.hint());
        assert_eq!(std::fs::read_dir(store.path().join("stage")).unwrap().count(), 0);
    };
    refused(&store);
    let (stack, made) = realize_as(&store, &image, Backing::Auto).unwrap();
    assert!(!is_in_files(&stack) && made == 2);
    refused(&store);
    // A store that was made elsewhere, and copied.
    world.realize(&image);
    let copy = place.path().join("copy");
    assert!(std::process::Command::new("cp").arg("-a").args([&world.path(), &copy]).status().unwrap().success());
    let copied = Store::open(&copy).unwrap();
    refused(&copied);
    let (stack, made) = realize_as(&copied, &image, Backing::Auto).unwrap();
    assert!(!is_in_files(&stack) && made == 2);
}

#[test]
fn archives_are_given_back_byte_for_byte() {
    let Some(world) = World::new() else { return };
    let plain = Recipe::parse(BASE).unwrap().build().unwrap().layers.swap_remove(0).tar;
    let trailing = [&plain[..], &[7; 1300]].concat();
    let zeros = [&plain[..], &[0; 20_000]].concat();
    for (number, tar) in [plain, trailing, zeros].into_iter().enumerate() {
        for compression in [Compression::Plain, Compression::Gzip, Compression::Zstd] {
            let image = world.add("image", &built(vec![tar.clone()], compression));
            world.realize(&image);
            let mut exported = Vec::new();
            let length = world.store().export_layer(&image.layers()[0].diff_id, &mut exported).unwrap();
            assert!(exported == tar && length == tar.len() as u64, "archive {number}, {compression:?}");
            world.prune_all();
        }
    }
    let image = world.image("image", BASE);
    let diff_id = &image.layers()[0].diff_id;
    let kind = || world.store().export_layer(diff_id, &mut Vec::new()).unwrap_err().kind();
    assert_eq!(kind(), ErrorKind::BlobNotFound, "nobody knows it");
    realize_as(&world.store(), &image, Backing::Directory).unwrap();
    assert_eq!(kind(), ErrorKind::Unsupported, "directories keep no archives");
    realize_as(&world.store(), &image, Backing::Erofs).unwrap();
    flip(&entries_of_files(&world.path(), &image)[0].join("image"), 5000);
    assert_eq!(kind(), ErrorKind::StoreDamaged);
}

#[test]
fn images_share_the_files_of_their_layers() {
    let Some(world) = World::new() else { return };
    let (first, second) = (world.image("first", BASE), world.image("second", &format!("{BASE}{TOP}")));
    let (stack, _) = world.realize(&first);
    let files = || entries_of_files(&world.path(), &first).into_iter().map(|entry| entry.join("image"));
    let stats = || -> Vec<_> {
        let stats = files().map(|file| file.metadata().unwrap());
        stats.map(|stat| (stat.ino(), stat.mtime_nsec(), stat.len())).collect()
    };
    let before = stats();
    // Of the layers that are there, nothing is in memory: the index is made of what their files say.
    let (above, made) = world.realize(&second);
    assert_eq!((made, stats()), (1, before));
    assert_eq!(world.shelf(), 3 + 2, "three layers and two indexes");
    for (stack, count) in [(&stack, 2), (&above, 3)] {
        let files = ["etc/motd", "srv/data", "srv/top"];
        files[..count].iter().for_each(|file| assert!(!read(stack, file).is_empty()));
        assert_eq!(stack.layers().len(), 1);
        assert_eq!(read(stack, "big").len(), 200_000);
    }
    assert!(!backings::inside(&stack.layers()[0], "srv/top").exists());
    let lengths = stats().iter().map(|(.., length)| *length).collect::<Vec<_>>();
    assert!(lengths[2] < lengths[0] / 10, "an index has no content: {lengths:?}");
}

#[test]
fn what_is_mounted_is_kept_wherever_it_is_mounted() {
    let Some(world) = World::new() else { return };
    let image = world.image("image", &format!("{BASE}{TOP}"));
    let (stack, _) = world.realize(&image);
    let kept = || {
        let pruned = world.prune_all();
        assert_eq!((pruned.layers.len(), pruned.indexes.len(), pruned.in_use.len()), (0, 0, 4));
    };
    kept();
    let target = world.place.path().join("target");
    std::fs::create_dir(&target).unwrap();
    let (attached, done) = (std::sync::Barrier::new(2), std::sync::Barrier::new(2));
    std::thread::scope(|scope| {
        // In a mount namespace of its own, and with nothing of the store open: nobody has a lock then.
        scope.spawn(|| {
            use nix::mount::{MsFlags, mount};
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
            read_only(stack).attach(&target).unwrap();
            attached.wait();
            done.wait();
            assert_eq!(std::fs::read(target.join("srv/top")).unwrap(), b"the third layer\n");
        });
        attached.wait();
        kept();
        done.wait();
    });
    assert_eq!(world.prune_in_time(), (3, 1));
    assert_eq!((world.shelf(), world.store().usage().unwrap().layers), (0, 0));
    assert_eq!(world.realize(&image).1, 3);
    assert_eq!((world.prune_in_time(), world.shelf()), ((3, 1), 0));
}

/// Directories that layers do not name, and hard links into lower layers.
const OPEN_ENDS: &str = r#"
    layer
    dir  0711 0:0 / mtime=7
    dir  0750 3:4 /etc mtime=5
    file 0640 1:2 /etc/a "first\n" mtime=9
    hardlink /etc/b -> /etc/a
    dir  0755 0:0 /gone
    file 0644 0:0 /gone/x "x"
    layer
    file 0600 0:0 /etc/deep/er/c "second\n"
    hardlink /link -> /etc/a
    whiteout /gone/x
    layer
    hardlink /etc/deep/again -> /etc/deep/er/c
    hardlink /more/link -> /etc/b
    whiteout /etc/b
    file 0644 0:0 /gone/y "y"
"#;

#[test]
fn open_ends_mean_the_same_tree_in_both_backings() {
    let Some(world) = World::new() else { return };
    let recipe = Recipe::parse(OPEN_ENDS).unwrap();
    let image = world.add("image", &recipe.build().unwrap());
    let layers: Vec<_> = recipe.layers().iter().map(|layer| layer.entries.clone()).collect();
    let wanted = merged(&layers, Namespace::Trusted).unwrap_or_else(|refused| panic!("{}", refused.0));
    for backing in [Backing::Directory, Backing::Erofs] {
        let (stack, made) = realize_as(&world.store(), &image, backing).unwrap();
        assert_eq!((made, is_in_files(&stack)), (3, backing == Backing::Erofs));
        let found = observe(read_only(stack).directory().unwrap()).unwrap();
        assert_eq!(wanted.differences(&found), Vec::<String>::new(), "{backing:?}");
    }
}

#[test]
fn an_image_of_many_layers_is_one_lower() {
    for layers in [64, 500] {
        let Some(world) = World::new() else { return };
        let recipe: String = (0..layers).map(|n| format!("layer plain\nfile 0644 0:0 /{n} \"{n}\"\n")).collect();
        let (stack, made) = world.realize(&world.image("image", &recipe));
        assert_eq!(made, layers);
        let overlay = Overlay::new(stack);
        assert_eq!(overlay.plan().unwrap().lowers().len(), 1);
        let root = overlay.mount().unwrap();
        assert!((0..layers).all(|n| read_in(&root, &n.to_string()) == n.to_string().as_bytes()));
    }
}

#[test]
fn every_generation_of_the_kernel_mounts_files() {
    let Some(world) = World::new() else { return };
    let (image, single) = (world.image("image", &format!("{BASE}{TOP}")), world.image("single", SINGLE));
    for (layers, detached_layers) in [
        (LayersBy::Descriptor, true),
        (LayersBy::Descriptor, false),
        (LayersBy::Path, false),
        (LayersBy::Joined, false),
    ] {
        let kernel = Kernel { layers, detached_layers };
        for image in [&image, &single] {
            for upper in [Upper::ReadOnly, Upper::Temporary { size: None }] {
                let overlay = Overlay::new(world.realize(image).0).upper(upper).kernel(kernel);
                let root = overlay.mount().unwrap_or_else(|error| panic!("{kernel:?}: {error:#}"));
                assert_eq!(read_in(&root, "etc/motd"), b"hello\n", "{kernel:?}");
            }
        }
    }
}

/// A file of 15 TiB with a byte here and there, for which EROFS would need more than its 2 TiB of addresses.
#[test]
fn what_is_more_than_a_file_can_hold_becomes_a_directory() {
    let Some(world) = World::new() else { return };
    const STEP: u64 = 7 << 30;
    let map = (0..2100).map(|n| format!("{},1", n * STEP)).collect::<Vec<_>>().join(",");
    let size = (15_u64 << 40).to_string();
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_pax_extensions([("GNU.sparse.size", size.as_bytes()), ("GNU.sparse.map", map.as_bytes())]).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_size(2100);
    header.set_mode(0o644);
    tar.append_data(&mut header, "sparse", &[7; 2100][..]).unwrap();
    let image = world.add("image", &built(vec![tar.into_inner().unwrap()], Compression::Gzip));
    let error = realize_as(&world.store(), &image, Backing::Erofs).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:#}");
    assert!(error.hint().unwrap().contains("--backing dir"), "{:?}", error.hint());
    let (stack, _) = world.realize(&image);
    assert!(!is_in_files(&stack));
    let stat = backings::inside(&stack.layers()[0], "sparse").metadata().unwrap();
    assert_eq!(stat.len(), 15 << 40);
    assert_eq!(world.realize(&image).1, 0);
}
