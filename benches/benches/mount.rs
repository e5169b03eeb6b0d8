//! From layers in place to a process inside: mount alone, mount and move, mount and spawn. Needs root.
//!
//! Of directories, and of an image in the store as EROFS files; these lie in the directory that `TMPDIR` names, and are left out
//! where the kernel mounts no EROFS files out of that.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command as HostCommand;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use layermount::store::{Backing, RealizeOptions};
use layermount::{Command, Image, LayerStack, Overlay, Store};
use layermount_benches::{backings, build, directories, image, program_layer, reference, stack};
use layermount_fixtures::{Layer, Layout, random};

const LAYERS: [usize; 4] = [1, 10, 64, 500];

/// Layers in place.
enum Layers {
    Directories(Vec<PathBuf>),
    Stored { store: PathBuf, reference: String, image: Box<Image> },
}

impl Layers {
    /// What is measured begins with this.
    fn stack(&self) -> LayerStack {
        match self {
            Self::Directories(directories) => stack(directories).unwrap(),
            // Not told which backing, as anybody who comes a second time: asking the kernel for it would be measured.
            Self::Stored { store, image, .. } => Store::open(store).unwrap().realize(image).unwrap(),
        }
    }

    /// For `move-once`.
    fn arguments(&self) -> Vec<OsString> {
        match self {
            Self::Directories(directories) => directories.iter().map(OsString::from).collect(),
            Self::Stored { store, reference, .. } => vec!["--store".into(), store.into(), reference.into()],
        }
    }
}

/// All that is measured, by name.
fn cases(below: &Path) -> Vec<(BenchmarkId, Layers)> {
    let mut cases = Vec::new();
    for layers in LAYERS {
        let below = below.join(format!("directories-{layers}"));
        cases.push((BenchmarkId::new("dir", layers), Layers::Directories(directories(&below, layers))));
    }
    if !backings(below).iter().any(|(_, backing)| *backing == Backing::Erofs) {
        return cases;
    }
    let layout = Layout::create(below.join("layout")).unwrap();
    let store = below.join("store");
    for layers in LAYERS {
        let above = random::stack(1, layers - 1);
        let layers_of_image: Vec<Layer> = std::iter::once(program_layer()).chain(above).collect();
        let tag = format!("layers-{layers}");
        let image = image(&layout, &tag, &build(&layers_of_image).unwrap());
        let options = RealizeOptions::default().backing(Backing::Erofs);
        drop(Store::open(&store).unwrap().realize_with(&image, &options).unwrap());
        let stored = Layers::Stored { store: store.clone(), reference: reference(&layout, &tag), image: image.into() };
        cases.push((BenchmarkId::new("erofs", layers), stored));
    }
    cases
}

fn mount(criterion: &mut Criterion, cases: &[(BenchmarkId, Layers)]) {
    let mut group = criterion.benchmark_group("mount");
    for (name, layers) in cases {
        group.bench_with_input(name.clone(), layers, |bencher, layers| {
            bencher.iter(|| Overlay::new(layers.stack()).mount().unwrap());
        });
    }
}

/// Measured by the process that moves, from its first call to its last; what it takes to start it, and to find the image, does
/// not count.
fn mount_and_pivot(criterion: &mut Criterion, cases: &[(BenchmarkId, Layers)]) {
    let mut group = criterion.benchmark_group("mount+pivot");
    for (name, layers) in cases {
        group.bench_with_input(name.clone(), layers, |bencher, layers| {
            let arguments = layers.arguments();
            bencher.iter_custom(|iterations| {
                (0..iterations)
                    .map(|_| {
                        let moved =
                            HostCommand::new(env!("CARGO_BIN_EXE_move-once")).args(&arguments).output().unwrap();
                        assert!(moved.status.success(), "{}", String::from_utf8_lossy(&moved.stderr));
                        Duration::from_nanos(String::from_utf8_lossy(&moved.stdout).trim().parse().unwrap())
                    })
                    .sum()
            });
        });
    }
}

/// A child with namespaces of its own, furnished, runs `/bin/true` and is reaped.
fn mount_and_spawn(criterion: &mut Criterion, cases: &[(BenchmarkId, Layers)]) {
    let mut group = criterion.benchmark_group("mount+spawn+wait");
    for (name, layers) in cases {
        group.bench_with_input(name.clone(), layers, |bencher, layers| {
            bencher.iter(|| {
                let root = Overlay::new(layers.stack()).mount().unwrap();
                let status = root.spawn(Command::new("/bin/true")).unwrap().wait().unwrap();
                assert!(status.success());
            });
        });
    }
    group.bench_function("bare /bin/true", |bencher| {
        bencher.iter(|| assert!(HostCommand::new("/bin/true").status().unwrap().success()));
    });
}

/// The layers are made once for all.
fn from_layers_to_a_process(criterion: &mut Criterion) {
    let below = tempfile::tempdir().unwrap();
    let cases = cases(below.path());
    mount(criterion, &cases);
    mount_and_pivot(criterion, &cases);
    mount_and_spawn(criterion, &cases);
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(50).measurement_time(Duration::from_secs(3));
    targets = from_layers_to_a_process
}
criterion_main!(benches);
