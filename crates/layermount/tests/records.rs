//! Records of images: what a name says of its image is what the image's own record says, whatever became of either.

#![allow(clippy::disallowed_methods, reason = "tests write to directories of their own")]

mod backings;

use std::fs;
use std::path::PathBuf;

use backings::{each, read};
use layermount::store::{Backing, PruneOptions, RealizeOptions};
use layermount::{Content, ErrorKind, Image, ImageParts, OciLayouts, Platform, Source, Store};
use layermount_fixtures::{Layout, Recipe};
use serde_json::{Value, json};

const RECIPE: &str = r#"
    env PATH=/bin
    layer
    dir  0755 0:0 /
    file 0644 0:0 /first "first"
    layer
    file 0644 0:0 /second "second"
"#;

struct World {
    directory: tempfile::TempDir,
    store: Store,
    image: Image,
    backing: Backing,
}

impl World {
    /// With an image that was pulled.
    fn new(backing: Backing) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let own = format!("{}:{}", nix::unistd::geteuid(), nix::unistd::getegid());
        let layout = Layout::create(directory.path().join("layout")).unwrap();
        layout.add("image", &Recipe::parse(&RECIPE.replace("0:0", &own)).unwrap().build().unwrap()).unwrap();
        let reference = format!("oci:{}:image", layout.path().display());
        let image = OciLayouts.resolve(&reference.parse().unwrap(), &Platform::host()).unwrap();
        let store = Store::open(directory.path().join("store")).unwrap();
        let world = Self { directory, store, image, backing };
        world.store.realize_with(&world.image, &world.options()).unwrap();
        world.store.record(&world.image).unwrap();
        world
    }

    fn options(&self) -> RealizeOptions<'static> {
        RealizeOptions::default().backing(self.backing)
    }

    fn name(&self) -> &str {
        &self.image.names()[0]
    }

    fn by_name(&self) -> Option<Image> {
        let found = self.store.image_named(self.name(), &Platform::host()).unwrap();
        found.map(|stored| stored.into_image())
    }

    fn by_id(&self) -> Option<Image> {
        self.store.image_by_id(self.image.id()).unwrap().map(|stored| stored.into_image())
    }

    /// The only file in a part of the store.
    fn file(&self, part: &str) -> PathBuf {
        let mut files = fs::read_dir(self.directory.path().join("store").join(part)).unwrap();
        let file = files.next().unwrap().unwrap().path();
        assert!(files.next().is_none());
        file
    }

    fn change_name(&self, change: impl FnOnce(&mut serde_json::Map<String, Value>)) {
        let file = self.file("names");
        let mut record: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        change(record.as_object_mut().unwrap());
        fs::write(&file, record.to_string()).unwrap();
    }

    #[track_caller]
    fn assert_same(&self, what: &str) {
        assert_eq!(self.by_name().as_ref().map(all_of), self.by_id().as_ref().map(all_of), "{what}");
    }
}

/// All that an image says of itself. What is deferred comes last.
fn all_of(image: &Image) -> String {
    let config = image.config();
    let run = (config.env(), config.entrypoint(), config.cmd(), config.user(), config.working_dir(), config.labels());
    let told =
        (image.id(), image.platform(), matches!(image.content(), Content::Stored), image.parent(), image.notes());
    let rest = (image.layers(), image.names(), image.manifest_digest(), config.raw(), config.history());
    format!("{told:?} {run:?} {rest:?}")
}

/// Whether the image's layers have not been read so far.
fn is_brief(image: &Image) -> bool {
    format!("{image:?}").contains("details: LazyLock(<uninit>)")
}

#[test]
fn an_image_is_mounted_out_of_what_its_name_says() {
    each(|backing| {
        let world = World::new(backing);
        let image = world.by_name().unwrap();
        assert!(is_brief(&image));
        let stack = world.store.realize_with(&image, &world.options()).unwrap();
        assert_eq!(read(&stack, "second"), b"second");
        assert_eq!(is_brief(&image), backing == Backing::Erofs);
        world.assert_same("the rest");
        // Whoever found it has it, whatever happens to the record.
        let (found, expected) = (world.by_name().unwrap(), all_of(&image));
        fs::remove_file(world.file("images")).unwrap();
        assert!(is_brief(&found));
        assert_eq!(all_of(&found), expected);
        assert!(world.by_name().is_none());
    });
}

#[test]
fn a_damaged_record_is_as_good_as_none() {
    let world = World::new(Backing::Auto);
    let sound = fs::read(world.file("images")).unwrap();
    let mut other = String::from_utf8(sound.clone()).unwrap();
    let hex = world.image.layers()[1].diff_id.digest().hex().to_owned();
    other = other.replace(&hex, &"0".repeat(hex.len()));
    let zeros_at_the_end = [&sound[..sound.len() / 2], &vec![0; sound.len() - sound.len() / 2]].concat();
    for (what, text, is_there) in [
        ("nothing", Vec::new(), false),
        ("zeros", vec![0; sound.len()], false),
        ("half", sound[..sound.len() / 2].to_vec(), false),
        ("zeros at the end", zeros_at_the_end, false),
        ("another record", other.into_bytes(), true),
        ("more than the record", [&sound[..], b" "].concat(), true),
        ("the record", sound.clone(), true),
    ] {
        fs::write(world.file("images"), text).unwrap();
        assert_eq!(world.by_name().is_some(), is_there, "{what}");
        assert_eq!(world.by_name().is_some_and(|image| is_brief(&image)), what == "the record", "{what}");
        world.assert_same(what);
    }
    fs::write(world.file("images"), "").unwrap();
    assert_eq!(world.store.prune(&PruneOptions::default()).unwrap().leftovers, 1);
    assert!(world.by_name().is_none());
    world.store.record(&world.image).unwrap();
    assert!(is_brief(&world.by_name().unwrap()));
}

#[test]
fn a_name_may_say_nothing_or_what_another_release_says() {
    let world = World::new(Backing::Auto);
    world.change_name(|record| assert!(record.contains_key("brief")));
    type Change = fn(&mut Value);
    let changes: [(&str, Change); 5] = [
        ("another format", |brief| brief["format"] = json!(1_000_000)),
        ("another text", |brief| brief["text"] = json!(layermount::Digest::sha256("another"))),
        ("another shape", |brief| *brief = json!(["x"])),
        ("null", |brief| *brief = Value::Null),
        ("a part", |brief| _ = brief.as_object_mut().unwrap().remove("outline")),
    ];
    for (what, change) in changes {
        world.store.record(&world.image).unwrap();
        world.change_name(|record| change(&mut record["brief"]));
        assert!(!is_brief(&world.by_name().unwrap()), "{what}");
        world.assert_same(what);
    }
    // As in stores of older releases.
    world.change_name(|record| _ = record.remove("brief"));
    assert!(!is_brief(&world.by_name().unwrap()));
    world.assert_same("no brief");
    fs::write(world.file("names"), "").unwrap();
    assert!(world.by_name().is_none());
}

#[test]
fn an_image_that_was_pulled_again_under_another_name_is_found_under_both() {
    let world = World::new(Backing::Auto);
    let other = "registry.example/other:1".to_owned();
    let again = Image::new(ImageParts {
        id: None,
        manifest_digest: None,
        names: vec![other.clone()],
        platform: world.image.platform().clone(),
        config: world.image.config().clone(),
        descriptors: None,
        content: world.image.content().clone(),
    });
    world.store.record(&again.unwrap()).unwrap();
    world.assert_same("the first name");
    let found = world.store.image_named(&other, &Platform::host()).unwrap().unwrap().into_image();
    assert!(is_brief(&found));
    assert_eq!(all_of(&found), all_of(&world.by_id().unwrap()));
    assert_eq!((found.id(), found.manifest_digest()), (world.image.id(), None));
}

#[test]
fn layers_that_are_gone_are_missed() {
    each(|backing| {
        let world = World::new(backing);
        fs::remove_dir_all(world.directory.path().join("store/layers")).unwrap();
        let image = world.by_name().unwrap();
        let error = world.store.realize_with(&image, &world.options()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BlobNotFound, "{error:#}");
        assert_eq!(image.layers().len(), 2);
        world.store.realize_with(&world.image, &world.options()).unwrap();
        world.store.realize_with(&world.by_name().unwrap(), &world.options()).unwrap();
    });
}
