//! What a store does with layers from before the machine was last started.

#![allow(clippy::disallowed_methods, reason = "tests write to directories of their own")]

mod backings;

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use backings::{each, entries_of_files, files_can_be_mounted, read, stacked};
use layermount::store::{Backing, Durability, LayerEvent, Progress, RealizeOptions};
use layermount::{ErrorKind, Image, Layer, OciLayouts, Platform, Source, Store};
use layermount_fixtures::{Layout, Recipe};

/// A base, a layer that says nothing of the directory of its file, and one that links to a lower layer's file. Of each there is so
/// much that an index needs its file, and the last page of that is not empty.
const RECIPE: &str = r#"
    layer
    dir  0755 0:0 /etc
    file 0644 0:0 /etc/motd "hello\n"
    random 0600 0:0 /etc/random 90000
    layer
    file 0644 0:0 /etc/deep "the second layer does not name /etc\n"
    random 0600 0:0 /second 81000
    layer
    dir  0755 0:0 /etc
    hardlink /etc/link -> /etc/motd
    file 0644 0:0 /etc/top "the third layer\n"
    random 0600 0:0 /third 70000
"#;

struct World {
    backing: Backing,
    _directory: tempfile::TempDir,
    store: PathBuf,
    image: Image,
}

impl World {
    fn new(backing: Backing) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let owner = format!("{}:{}", nix::unistd::geteuid(), nix::unistd::getegid());
        let built = Recipe::parse(&RECIPE.replace("0:0", &owner)).unwrap().build().unwrap();
        let layout = Layout::create(directory.path().join("layout")).unwrap();
        layout.add("image", &built).unwrap();
        let reference = format!("oci:{}:image", layout.path().display());
        let image = OciLayouts.resolve(&reference.parse().unwrap(), &Platform::host()).unwrap();
        Self { backing, store: directory.path().join("store"), _directory: directory, image }
    }

    fn store(&self) -> Store {
        Store::open(&self.store).unwrap()
    }

    fn options(&self) -> RealizeOptions<'static> {
        RealizeOptions::default().backing(self.backing)
    }

    /// The layers' places in the store, base first, and that of the image's index where there is one.
    fn entries(&self) -> Vec<PathBuf> {
        let stack = self.store().realize_with(&self.image, &self.options()).unwrap();
        match self.backing {
            Backing::Erofs => entries_of_files(&self.store, &self.image),
            _ => stack.layers().iter().map(|layer| layer.path().parent().unwrap().to_owned()).collect(),
        }
    }

    /// How many layers were compared, and how many unpacked.
    fn realize(&self) -> (usize, usize) {
        let told = Told::default();
        let stack = self.store().realize_with(&self.image, &self.options().progress(&told)).unwrap();
        assert_eq!(stack.layers().len(), stacked(self.backing, 3));
        for (file, content) in [("etc/motd", "hello\n"), ("etc/link", "hello\n"), ("etc/top", "the third layer\n")] {
            assert_eq!(read(&stack, file), content.as_bytes());
        }
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
    each(|backing| {
        let world = World::new(backing);
        assert_eq!(world.realize(), (0, 3));
        assert_eq!(world.realize(), (0, 0), "what was written in this boot is in memory");
        world.entries().iter().for_each(|layer| age(layer));
        assert_eq!(world.realize(), (3, 0));
        assert_eq!(world.realize(), (0, 0));
        let settled = world.entries().iter().filter(|entry| entry.join("on-disk").exists()).count();
        assert_eq!(settled, world.entries().len());
    });
}

#[test]
fn a_directory_that_was_cut_short_is_made_anew() {
    let world = World::new(Backing::Directory);
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
        let base = world.entries().swap_remove(0);
        age(&base);
        cut(&base);
        let _ = std::fs::remove_file(base.join("on-disk"));
        assert_eq!(world.realize().1, 1, "cut {number}");
        assert_eq!(world.realize(), (0, 0), "cut {number}");
        assert!(world.store().verify(&mut |_| ()).unwrap().damage.is_empty(), "cut {number}");
    }
}

/// Has a file of the store lose what was written to it last.
fn zero(path: &Path, from: u64) {
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    let length = file.metadata().unwrap().len();
    file.write_all_at(&vec![0; usize::try_from(length - from).unwrap()], from).unwrap();
}

#[test]
fn a_file_that_was_cut_short_is_made_anew() {
    if !files_can_be_mounted() {
        return;
    }
    let world = World::new(Backing::Erofs);
    world.realize();
    let cuts: [fn(&Path); 7] = [
        |image| zero(image, 0),
        |image| zero(image, std::fs::metadata(image).unwrap().len() / 2),
        |image| std::fs::write(image, "").unwrap(),
        |image| std::fs::OpenOptions::new().write(true).open(image).unwrap().set_len(4096).unwrap(),
        |image| std::fs::remove_file(image).unwrap(),
        |image| std::fs::write(image.with_file_name("layer.json"), "").unwrap(),
        |image| std::fs::remove_file(image.with_file_name("layer.json")).unwrap(),
    ];
    for (number, cut) in cuts.into_iter().enumerate() {
        // A power cut takes from whatever it likes: from the base layer, from the index, from all.
        for (cut_short, anew) in [(vec![0], 1), (vec![3], 0), (vec![0, 1, 2, 3], 3)] {
            let entries = world.entries();
            for entry in &entries {
                age(entry);
                let _ = std::fs::remove_file(entry.join("on-disk"));
            }
            cut_short.iter().for_each(|entry: &usize| cut(&entries[*entry].join("image")));
            assert_eq!(world.realize().1, anew, "cut {number} of {cut_short:?}");
            assert_eq!(world.realize(), (0, 0), "cut {number} of {cut_short:?}");
            assert!(world.store().verify(&mut |_| ()).unwrap().damage.is_empty(), "cut {number} of {cut_short:?}");
            assert_eq!(world.entries(), entries);
        }
    }
}

#[test]
fn a_layer_with_copies_that_lost_its_listing_is_made_anew() {
    let world = World::new(Backing::Directory);
    world.realize();
    let top = world.entries().pop().unwrap();
    age(&top);
    std::fs::write(top.join("listing"), "").unwrap();
    assert_eq!(world.store().verify(&mut |_| ()).unwrap().damage.len(), 1);
    assert_eq!(world.realize().1, 1);
}

#[test]
fn an_image_that_lost_a_layer_says_so() {
    each(|backing| {
        let world = World::new(backing);
        let store = world.store();
        store.realize_with(&world.image, &world.options()).unwrap();
        store.record(&world.image).unwrap();
        // What an index was made of in this boot was whole.
        let entries = world.entries();
        let base = &entries[0];
        age(base);
        match backing {
            Backing::Erofs => {
                age(&entries[3]);
                zero(&base.join("image"), 4096);
            }
            _ => std::fs::write(base.join("fs/etc/motd"), "").unwrap(),
        }
        let stored = store.image_by_id(world.image.id()).unwrap().unwrap().into_image();
        let error = store.realize_with(&stored, &world.options()).unwrap_err();
        assert_eq!(
            (error.kind(), error.hint().unwrap()),
            (ErrorKind::BlobNotFound, "pull the image again from the place where it came from".to_owned())
        );
        assert!(base.join("damaged").exists(), "it is not compared again");
        // The index, which is of another boot, too, was compared before its layers.
        assert_eq!(world.realize(), (0, 1));
    });
}

#[test]
fn a_durable_store_marks_what_is_on_disk_and_needs_no_comparison() {
    each(|backing| {
        let world = World::new(backing);
        let marked = || world.entries().iter().filter(|layer| layer.join("on-disk").exists()).count();
        world.realize();
        assert_eq!(marked(), 0);
        let durable = world.store().durability(Durability::Power);
        durable.realize_with(&world.image, &world.options()).unwrap();
        durable.record(&world.image).unwrap();
        assert_eq!(marked(), world.entries().len(), "also what was there already");
        world.entries().iter().for_each(|layer| age(layer));
        assert_eq!(world.realize(), (0, 0));
    });
}

/// Dies as soon as a layer is published.
#[derive(Debug)]
struct Dies;

impl Progress for Dies {
    fn layer(&self, _: &Layer, event: LayerEvent) {
        assert!(event != LayerEvent::Ready, "on purpose");
    }
}

#[test]
fn a_layer_that_was_on_disk_is_not_any_more_once_it_is_completed() {
    let world = World::new(Backing::Directory);
    world.realize();
    let second = world.entries().swap_remove(1);
    std::fs::remove_dir_all(&second).unwrap();
    let store = world.store();
    let die = || store.realize_with(&world.image, &world.options().progress(&Dies));
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(die)).unwrap_err();
    let is_open = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("open-"));
    let mut beside = std::fs::read_dir(second.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    age(&beside.find(is_open).expect("the layer waits to be completed"));
    assert_eq!(world.realize(), (1, 0));
    assert!(second.exists() && !second.join("on-disk").exists());
}

#[test]
fn a_layer_of_an_unknown_boot_is_compared_once() {
    each(|backing| {
        let world = World::new(backing);
        world.realize();
        let forget = |entry: &Path| {
            let record = entry.join("layer.json");
            let mut document: serde_json::Value = serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
            document["boot"] = serde_json::Value::Null;
            std::fs::write(record, document.to_string()).unwrap();
        };
        let entries = world.entries();
        forget(&entries[0]);
        // An index of this boot stands for the layers that it was made of.
        let alone = usize::from(backing == Backing::Directory);
        assert_eq!(world.realize(), (alone, 0));
        assert_eq!(world.realize(), (0, 0));
        if backing == Backing::Erofs {
            forget(&entries[3]);
            assert_eq!(world.realize(), (2, 0));
            assert_eq!(world.realize(), (0, 0));
        }
    });
}
