//! What a store does with layers from before the machine was last started.

#![allow(clippy::disallowed_methods, reason = "tests write to directories of their own")]

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use layermount::store::{Durability, LayerEvent, Progress, RealizeOptions};
use layermount::{ErrorKind, Image, Layer, OciLayouts, Platform, Source, Store};
use layermount_fixtures::{Layout, Recipe};

/// A base, a layer that says nothing of the directory of its file, and one that links to a lower layer's file.
const RECIPE: &str = r#"
    layer
    dir  0755 0:0 /etc
    file 0644 0:0 /etc/motd "hello\n"
    random 0600 0:0 /etc/random 9000
    layer
    file 0644 0:0 /etc/deep "the second layer does not name /etc\n"
    layer
    dir  0755 0:0 /etc
    hardlink /etc/link -> /etc/motd
    file 0644 0:0 /etc/top "the third layer\n"
"#;

struct World {
    _directory: tempfile::TempDir,
    store: PathBuf,
    image: Image,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let owner = format!("{}:{}", nix::unistd::geteuid(), nix::unistd::getegid());
        let built = Recipe::parse(&RECIPE.replace("0:0", &owner)).unwrap().build().unwrap();
        let layout = Layout::create(directory.path().join("layout")).unwrap();
        layout.add("image", &built).unwrap();
        let reference = format!("oci:{}:image", layout.path().display());
        let image = OciLayouts.resolve(&reference.parse().unwrap(), &Platform::host()).unwrap();
        Self { store: directory.path().join("store"), _directory: directory, image }
    }

    fn store(&self) -> Store {
        Store::open(&self.store).unwrap()
    }

    /// The layers' directories, base first.
    fn layers(&self) -> Vec<PathBuf> {
        let stack = self.store().realize(&self.image).unwrap();
        stack.layers().iter().map(|layer| layer.path().parent().unwrap().to_owned()).collect()
    }

    /// How many layers were compared, and how many unpacked.
    fn realize(&self) -> (usize, usize) {
        let told = Told::default();
        let stack = self.store().realize_with(&self.image, &RealizeOptions::default().progress(&told)).unwrap();
        assert_eq!(std::fs::read(stack.layers()[0].path().join("etc/motd")).unwrap(), b"hello\n");
        assert_eq!(std::fs::read(stack.layers()[2].path().join("etc/link")).unwrap(), b"hello\n");
        let Told(checked, unpacked) = told;
        (checked.into_inner().unwrap().len(), unpacked.into_inner().unwrap().len())
    }
}

/// Layers that were compared, and layers that were unpacked.
#[derive(Debug, Default)]
struct Told(Mutex<Vec<String>>, Mutex<Vec<String>>);

impl Progress for Told {
    fn layer(&self, layer: &Layer, event: LayerEvent) {
        let list = match event {
            LayerEvent::Checking => &self.0,
            LayerEvent::Unpacking { .. } => &self.1,
            _ => return,
        };
        let (mut list, diff_id) = (list.lock().unwrap(), layer.diff_id.to_string());
        if !list.contains(&diff_id) {
            list.push(diff_id);
        }
    }
}

/// Makes a layer's record say that it was written in another boot.
fn age(layer: &Path) {
    let record = layer.join("layer.json");
    let mut document: serde_json::Value = serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
    assert!(document["boot"].is_string(), "{document}");
    document["boot"] = "00000000-0000-0000-0000-000000000000".into();
    std::fs::write(record, document.to_string()).unwrap();
}

#[test]
fn layers_of_an_earlier_boot_are_compared_once_and_then_known_to_be_on_disk() {
    let world = World::new();
    assert_eq!(world.realize(), (0, 3));
    assert_eq!(world.realize(), (0, 0), "what was written in this boot is in memory");
    world.layers().iter().for_each(|layer| age(layer));
    assert_eq!(world.realize(), (3, 0));
    assert_eq!(world.realize(), (0, 0));
}

#[test]
fn a_layer_that_was_cut_short_is_made_anew() {
    let world = World::new();
    world.realize();
    let cuts: [fn(&Path); 6] = [
        |layer| std::fs::write(layer.join("fs/etc/motd"), "").unwrap(),
        |layer| std::fs::write(layer.join("fs/etc/motd"), "\0\0\0\0\0\0").unwrap(),
        |layer| std::fs::remove_file(layer.join("fs/etc/motd")).unwrap(),
        |layer| std::fs::write(layer.join("listing"), "").unwrap(),
        |layer| std::fs::remove_file(layer.join("listing")).unwrap(),
        |layer| std::fs::write(layer.join("layer.json"), "").unwrap(),
    ];
    for (number, cut) in cuts.into_iter().enumerate() {
        let base = world.layers().swap_remove(0);
        age(&base);
        cut(&base);
        let _ = std::fs::remove_file(base.join("on-disk"));
        assert_eq!(world.realize().1, 1, "cut {number}");
        assert_eq!(world.realize(), (0, 0), "cut {number}");
        assert!(world.store().verify(&mut |_| ()).unwrap().damage.is_empty(), "cut {number}");
    }
}

#[test]
fn a_layer_with_copies_that_lost_its_listing_is_made_anew() {
    let world = World::new();
    world.realize();
    let top = world.layers().pop().unwrap();
    age(&top);
    std::fs::write(top.join("listing"), "").unwrap();
    assert_eq!(world.store().verify(&mut |_| ()).unwrap().damage.len(), 1);
    assert_eq!(world.realize().1, 1);
}

#[test]
fn an_image_that_lost_a_layer_says_so() {
    let world = World::new();
    let store = world.store();
    store.realize(&world.image).unwrap();
    store.record(&world.image).unwrap();
    let base = world.layers().swap_remove(0);
    age(&base);
    std::fs::write(base.join("fs/etc/motd"), "").unwrap();
    let stored = store.image_by_id(world.image.id()).unwrap().unwrap().into_image();
    let error = store.realize(&stored).unwrap_err();
    assert_eq!(
        (error.kind(), error.hint().unwrap()),
        (ErrorKind::BlobNotFound, "pull the image again from the place where it came from".to_owned())
    );
    assert!(base.join("damaged").exists());
    assert_eq!(world.realize(), (0, 1));
}

#[test]
fn a_durable_store_marks_what_is_on_disk_and_needs_no_comparison() {
    let world = World::new();
    let marked = || world.layers().iter().filter(|layer| layer.join("on-disk").exists()).count();
    world.realize();
    assert_eq!(marked(), 0);
    let durable = world.store().durability(Durability::Power);
    durable.realize(&world.image).unwrap();
    durable.record(&world.image).unwrap();
    assert_eq!(marked(), 3, "also what was there already");
    world.layers().iter().for_each(|layer| age(layer));
    assert_eq!(world.realize(), (0, 0));
}
