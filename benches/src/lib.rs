//! What the benches share.
//!
//! ```text
//! cargo bench -p layermount-benches                all of them
//! cargo bench -p layermount-benches -- --quick     measured, but shortly: each ends as soon as its figure is steady
//! cargo bench -p layermount-benches -- --test      each once, to see that it works
//! cargo bench -p layermount-benches -- ^mount/dir  those whose names match (all input is made all the same)
//! ```
//!
//! One file of `benches/` for each stage of the library, in the order of the data's way: `resolve`, `decode`, `fold`, `unpack` (with
//! merge: layers in the store become another image), `erofs`, `plan`, `mount` (open the layers, mount, mount and pivot), `spawn`.
//! Their input is generated, and the same on every machine. It lies in the directory that `TMPDIR` names, so that the file system
//! can be chosen.
//!
//! Comparisons with other tools are made with whole commands, by `benches/compare`; what starting in an image
//! takes beyond starting, `spawn-overhead` says.

mod in_place;

pub use in_place::{InPlace, LAYERS, MOVE};

pub mod results;

use std::path::{Path, PathBuf};

use layermount::store::{Backing, RealizeOptions};
use layermount::{Image, LayerStack, OciLayouts, Platform, Source, Store};
use layermount_fixtures::{Built, Compression, Entry, Kind, Layer, Layout, random};
use serde_json::{Value, json};

/// Directories for a stack: a base with `/bin/true`, so that there is a program to run, and empty layers on top of it.
///
/// # Panics
///
/// When the directories cannot be made: a bench has nobody to tell.
#[expect(clippy::disallowed_methods, reason = "the directory is the bench's own")]
pub fn directories(below: &Path, layers: usize) -> Vec<PathBuf> {
    let base = below.join("base");
    for file in program_files("/bin/true") {
        let copy = base.join(file.strip_prefix("/").unwrap_or(&file));
        std::fs::create_dir_all(copy.parent().unwrap_or(&base)).expect("a directory for a program");
        std::fs::copy(&file, &copy).expect("a copy of a program");
    }
    let mut directories = vec![base];
    for number in 1..layers {
        let directory = below.join(number.to_string());
        std::fs::create_dir(&directory).expect("a directory for a layer");
        directories.push(directory);
    }
    directories
}

/// `/bin/true` in the lowest of these [`directories`], below `below`.
pub fn program_in(below: &Path) -> PathBuf {
    directories(&below.join("program"), 1).remove(0).join("bin/true")
}

/// A layer with `/bin/true`, so that there is a program to run.
///
/// # Panics
///
/// When there is no such program.
pub fn program_layer() -> Layer {
    let mut entries: Vec<Entry> = Vec::new();
    for file in program_files("/bin/true") {
        let file = file.strip_prefix("/").unwrap_or(&file);
        let mut directories: Vec<_> = file.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()).collect();
        directories.reverse();
        for directory in directories {
            let name = format!("{}/", directory.display()).into_bytes();
            if !entries.iter().any(|entry| entry.name == name) {
                entries.push(Entry::new(name, Kind::Directory, 0o755));
            }
        }
        let content = std::fs::read(Path::new("/").join(file)).expect("a file of a program");
        entries.push(Entry::new(file.display().to_string(), Kind::File(content), 0o755));
    }
    Layer { created_by: "/bin/true".into(), entries, ..Layer::default() }
}

/// A program, its loader and its libraries.
fn program_files(program: &str) -> Vec<PathBuf> {
    let listed = std::process::Command::new("ldd").arg(program).output().expect("ldd, part of libc's programs");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let libraries = listed.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from);
    std::iter::once(PathBuf::from(program)).chain(libraries).collect()
}

/// The directories as a stack, for a caller with root's privileges.
///
/// # Errors
///
/// Whatever the library says.
pub fn stack(directories: &[PathBuf]) -> layermount::Result<LayerStack> {
    LayerStack::from_directories(directories.to_vec(), layermount::OverlayXattrs::Trusted)
}

/// An image for this machine, of these layers, base first.
///
/// # Errors
///
/// Whatever the encoder says.
pub fn build(layers: &[Layer]) -> std::io::Result<Built> {
    build_with(&json!({}), layers)
}

/// The same with a config object.
///
/// # Errors
///
/// Whatever the encoder says.
pub fn build_with(config: &Value, layers: &[Layer]) -> std::io::Result<Built> {
    let host = Platform::host();
    Built::new(config, json!({ "os": host.os(), "architecture": host.architecture() }), layers)
}

/// Layers with files of their own in directories that all of them have, as those of a package manager.
pub fn package_layers(layers: usize, files: usize, size: usize) -> Vec<Layer> {
    let layer = |number| {
        let mut layer = random::files(10 + number as u64, files, size);
        for entry in layer.entries.iter_mut().filter(|entry| !entry.name.ends_with(b"/")) {
            entry.name.extend_from_slice(format!("-{number}").as_bytes());
        }
        Layer { compression: Compression::Plain, ..layer }
    };
    (0..layers).map(layer).collect()
}

/// Adds an image to the layout in `directory`, and finds it there as anybody would.
///
/// # Panics
///
/// When that fails.
pub fn image(layout: &Layout, tag: &str, built: &Built) -> Image {
    layout.add(tag, built).expect("an image in a layout");
    resolve(&reference(layout, tag)).expect("the image that was added")
}

/// How an image of a layout is called.
pub fn reference(layout: &Layout, tag: &str) -> String {
    format!("oci:{}:{tag}", layout.path().display())
}

/// The image of this reference to an OCI layout.
///
/// # Errors
///
/// Whatever the library says.
pub fn resolve(reference: &str) -> layermount::Result<Image> {
    OciLayouts.resolve(&reference.parse()?, &Platform::host())
}

/// What layers can become in a store below `directory`, with names for the benches. What is missing is said on standard error.
///
/// # Panics
///
/// When not even an image of one entry can be made.
pub fn backings(directory: &Path) -> Vec<(&'static str, Backing)> {
    let mut backings = vec![("dir", Backing::Directory)];
    let layout = Layout::create(directory.join("smallest")).expect("a layout");
    let layer = Layer { entries: vec![Entry::new("a/", Kind::Directory, 0o755)], ..Layer::default() };
    let smallest = image(&layout, "smallest", &build(&[layer]).expect("an image of one entry"));
    let store = Store::open(directory.join("smallest-store")).expect("a store");
    match store.realize_with(&smallest, &RealizeOptions::default().backing(Backing::Erofs)) {
        Ok(_) => backings.insert(0, ("erofs", Backing::Erofs)),
        Err(error) => eprintln!("not measured: EROFS files in {}: {error:#}", directory.display()),
    }
    backings
}
