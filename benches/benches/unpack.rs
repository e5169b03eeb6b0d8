//! A layer from its blob to the store: inflate, verify, and unpack into a directory or index in a file. In bytes/s of the tar
//! archive, and in entries/s. And what it takes to make one file system of layers that are there.
//!
//! The store lies in the directory that `TMPDIR` names, so that its file system can be chosen. Where the kernel mounts no EROFS
//! files out of that, only directories are measured.

use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group};
use layermount::Store;
use layermount::store::{Backing, PruneOptions, RealizeOptions};
use layermount_benches::{backings, build, image, package_layers};
use layermount_fixtures::{Compression, Layer, Layout, random};

struct Shape {
    name: &'static str,
    layers: Vec<Layer>,
    entries: u64,
}

fn shapes() -> [Shape; 3] {
    [
        Shape { name: "few big files", layers: vec![random::files(1, 8, 8 << 20)], entries: 8 },
        Shape { name: "many small files", layers: vec![random::files(2, 10_000, 2 << 10)], entries: 10_000 },
        Shape {
            name: "4 layers at once",
            layers: (0..4).map(|seed| random::files(3 + seed, 2_000, 8 << 10)).collect(),
            entries: 8_000,
        },
    ]
}

fn unpack(criterion: &mut Criterion) {
    let probed = tempfile::tempdir().unwrap();
    let backings = backings(probed.path());
    for shape in shapes() {
        for (compression, codec) in
            [(Compression::Plain, "plain"), (Compression::Gzip, "gzip"), (Compression::Zstd, "zstd")]
        {
            let directory = tempfile::tempdir().unwrap();
            let layers: Vec<Layer> = shape.layers.iter().map(|layer| Layer { compression, ..layer.clone() }).collect();
            let built = build(&layers).unwrap();
            let bytes: usize = built.layers.iter().map(|layer| layer.tar.len()).sum();
            let image = image(&Layout::create(directory.path().join("layout")).unwrap(), "bench", &built);
            for &(backing_name, backing) in &backings {
                for (unit, throughput) in
                    [("bytes", Throughput::Bytes(bytes as u64)), ("entries", Throughput::Elements(shape.entries))]
                {
                    let mut group = criterion.benchmark_group(format!("unpack/{backing_name}/{}/{unit}", shape.name));
                    group.throughput(throughput);
                    group.bench_function(BenchmarkId::from_parameter(codec), |bencher| {
                        // Removing the store again is not measured.
                        bencher.iter_batched(
                            || tempfile::tempdir().unwrap(),
                            |directory| {
                                let options = RealizeOptions::default().backing(backing);
                                let store = Store::open(directory.path()).unwrap();
                                drop(store.realize_with(&image, &options).unwrap());
                                directory
                            },
                            BatchSize::PerIteration,
                        );
                    });
                }
            }
        }
    }
}

const MERGED_LAYERS: usize = 10;
const MERGED_FILES: usize = 7_000;

/// From layers that are in the store to an image of them that is mounted: their indexes read back, merged, written.
fn merge(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().unwrap();
    if !backings(directory.path()).iter().any(|(_, backing)| *backing == Backing::Erofs) {
        return;
    }
    let layout = Layout::create(directory.path().join("layout")).unwrap();
    let mut layers = package_layers(MERGED_LAYERS, MERGED_FILES, 200);
    let entries: usize = layers.iter().map(|layer| layer.entries.len()).sum();
    let first = image(&layout, "first", &build(&layers).unwrap());
    // The same layers in another order are another image.
    layers.rotate_left(1);
    let second = image(&layout, "second", &build(&layers).unwrap());
    let store = Store::open(directory.path().join("store")).unwrap();
    let options = RealizeOptions::default().backing(Backing::Erofs);
    drop(store.realize_with(&first, &options).unwrap());
    // What the first needs stays: of the second, only its own index goes.
    store.record(&first).unwrap();
    let mut group = criterion.benchmark_group("merge/erofs");
    group.throughput(Throughput::Elements(entries as u64));
    group.bench_function(BenchmarkId::from_parameter(format!("{MERGED_LAYERS} layers")), |bencher| {
        bencher.iter_batched(
            || assert!(store.prune(&PruneOptions::default()).unwrap().layers.is_empty()),
            |()| store.realize_with(&second, &options).unwrap(),
            BatchSize::PerIteration,
        );
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    targets = unpack, merge
}
