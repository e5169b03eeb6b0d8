//! What must hold of a store whatever has happened to it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use layermount_fixtures::tree::{Ignore, differences};
use layermount_fixtures::{Layout, Recipe};

use super::{Backing, World};

/// Of each layer there is so much left that an index over them needs its file.
const RECIPE: &str = r#"
layer
dir  0755 0:0 /
dir  0755 0:0 /d
file 0644 5:5 /d/a "first\n" xattr:user.k=v
random 0600 0:0 /d/large 300000
random 0600 0:0 /d/first 90000
symlink /d/s -> a
fifo 0600 0:0 /d/p
hardlink /d/h -> /d/a
char 0666 0:0 /null 1:3
layer zstd
whiteout /d/large
file 0644 0:0 /d/b "second\n"
random 0600 0:0 /d/second 80000
hardlink /e/link -> /d/a
layer
dir 0750 0:0 /o
opaque /o
dir 0000 0:0 /o/closed
file 0000 0:0 /o/closed/f "x"
random 0600 0:0 /o/third 70000
"#;

/// Makes an image with something of everything, and says its reference.
pub(crate) fn image(world: &World) -> String {
    let layout = Layout::create(world.path().join("layout")).unwrap();
    layout.add("image", &Recipe::parse(RECIPE).unwrap().build().unwrap()).unwrap();
    format!("oci:{}:image", layout.path().display())
}

/// The command's path.
pub(crate) fn layermount() -> &'static str {
    assert_cmd::cargo::cargo_bin!("layermount").to_str().unwrap()
}

/// What it said on standard error.
pub(crate) fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Names below `layers/<shelf>/`.
pub(crate) fn layers(store: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for shelf in std::fs::read_dir(store.join("layers")).into_iter().flatten().flatten() {
        let shelf_name = PathBuf::from(shelf.file_name());
        found.extend(std::fs::read_dir(shelf.path()).unwrap().map(|layer| shelf_name.join(layer.unwrap().file_name())));
    }
    found.sort();
    found
}

/// Whatever happened before: what is in `store` is whole, and pulling again makes it equal to the store `whole`.
#[track_caller]
pub(crate) fn assert_recovers(backing: Backing, whole: &Path, store: &Path, reference: &str, at: &str) {
    let command = |arguments: &[&str]| {
        let mut command = Command::new(layermount());
        command.arg("--store").arg(store).args(arguments).env(Backing::VARIABLE, backing.name()).output().unwrap()
    };
    let verified = command(&["store", "verify"]);
    assert!(verified.status.success(), "{at}: {}{}", String::from_utf8_lossy(&verified.stdout), text(&verified));
    let again = command(&["pull", reference]);
    assert!(again.status.success(), "{at}: pulling again: {}", text(&again));
    // A failed question about privileges is taken for a no, and then a layer may be there in the other form, too.
    let mut there = layers(store);
    there.retain(|layer| layers(whole).iter().any(|of_whole| of_whole.parent() == layer.parent()));
    assert_eq!(there, layers(whole), "{at}");
    for layer in layers(whole) {
        // The root's attributes are in the record, and whiteouts have none.
        assert_same_layer(&layer, whole, store, &[Path::new(""), Path::new("d/large")], at);
    }
    let pruned = command(&["store", "prune"]);
    assert!(pruned.status.success(), "{at}: {}", text(&pruned));
    assert_eq!(std::fs::read_dir(store.join("stage")).unwrap().count(), 0, "{at}");
}

/// Two stores have the same in a layer, named from `layers/`, whichever backing it is of: the same tree, but for the times of
/// `untimed`; or the same file, byte for byte, of which the kernel makes the same tree.
#[track_caller]
pub(crate) fn assert_same_layer(layer: &Path, whole: &Path, store: &Path, untimed: &[&Path], at: &str) {
    let content = |store: &Path, backing: Backing| store.join("layers").join(layer).join(backing.content());
    if layer.starts_with(Backing::Erofs.shelf()) {
        let file = |store: &Path| std::fs::read(content(store, Backing::Erofs)).unwrap();
        assert!(file(whole) == file(store), "{at}: {} is another file", layer.display());
        return;
    }
    let mtimes = untimed.iter().map(|path| path.to_path_buf()).collect();
    let ignore = Ignore { mtimes, ..Ignore::default() };
    let [whole, store] = [whole, store].map(|store| content(store, Backing::Dir));
    let found = differences(&whole, &store, &ignore).unwrap();
    assert!(found.is_empty(), "{at}: {}: {}", layer.display(), found[0]);
}
