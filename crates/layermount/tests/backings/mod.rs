//! What layers are stored in, for tests of what the store promises whichever it is.

#![allow(dead_code, unreachable_pub, reason = "every test program has its own copy, and needs some of it")]

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use layermount::store::{Backing, RealizeOptions};
use layermount::{ErrorKind, Image, LayerStack, OciLayouts, Platform, Source, StackedLayer, Store};
use layermount_fixtures::requirement::skip;
use layermount_fixtures::{Layout, Recipe};

/// Runs `test` with every backing that works here, and says which does not.
pub fn each(test: impl Fn(Backing)) {
    test(Backing::Directory);
    if files_can_be_mounted() {
        test(Backing::Erofs);
    }
}

/// Whether the kernel mounts EROFS files out of stores where tests make them; says so if not.
pub fn files_can_be_mounted() -> bool {
    if !nix::unistd::geteuid().is_root() {
        skip("root", "only root can mount EROFS files");
        return false;
    }
    let place = tempfile::tempdir().unwrap();
    let layout = Layout::create(place.path().join("layout")).unwrap();
    layout.add("image", &Recipe::parse("layer\ndir 0755 0:0 /\n").unwrap().build().unwrap()).unwrap();
    let reference = format!("oci:{}:image", layout.path().display());
    let image = OciLayouts.resolve(&reference.parse().unwrap(), &Platform::host()).unwrap();
    let store = Store::open(place.path().join("store")).unwrap();
    match store.realize_with(&image, &RealizeOptions::default().backing(Backing::Erofs)) {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:#}");
            skip("erofs", &format!("{error:#}"));
            false
        }
    }
}

/// How many layers are mounted for an image of `layers`: files are put together when they are made.
pub fn stacked(backing: Backing, layers: usize) -> usize {
    if backing == Backing::Erofs { 1 } else { layers }
}

/// The path of something in a layer, which may be mounted where there is no path to it.
pub fn inside(layer: &StackedLayer, path: &str) -> PathBuf {
    Path::new("/proc/self/fd").join(layer.directory().as_raw_fd().to_string()).join(path)
}

/// The file in the topmost layer that has one there.
#[track_caller]
pub fn read(stack: &LayerStack, path: &str) -> Vec<u8> {
    let mut found = stack.layers().iter().rev().map(|layer| inside(layer, path));
    let found = found.find(|path| path.symlink_metadata().is_ok()).unwrap_or_else(|| panic!("no {path}"));
    std::fs::read(&found).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The places in a store of an image's files, base first, and of its index behind them, whether it has one or not.
pub fn entries_of_files(store: &Path, image: &Image) -> Vec<PathBuf> {
    let entry = |key: &str, digest: String| {
        store.join("layers/erofs").join(format!("{key}-{}", digest.trim_start_matches("sha256:")))
    };
    let layers = image.layers().iter().map(|layer| entry("diff", layer.diff_id.to_string()));
    layers.chain(image.layers().last().map(|top| entry("image", top.chain_id.to_string()))).collect()
}
