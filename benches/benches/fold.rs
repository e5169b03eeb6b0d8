//! What layers mean, without writing anything, in entries/s.
//!
//! - `entries`: each layer's entries, read in advance, folded into what that layer says.
//! - `archive`: the same from the layer's file, with its headers read and its tree laid out: what a merge begins with.
//! - `tree`: the trees of all layers laid over each other to the one that an image shows.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group};
use layermount::stages::{Entries, ImageTree, Packed};
use layermount_benches::package_layers;

/// Layers, and files in each.
const SHAPES: [(usize, usize); 3] = [(1, 20_000), (10, 2_000), (100, 200)];

fn fold(criterion: &mut Criterion) {
    for (layers, files) in SHAPES {
        let archives: Vec<_> = package_layers(layers, files, 16).iter().map(|layer| layer.tar().unwrap()).collect();
        let entries: Vec<_> = archives.iter().map(|archive| Entries::read(archive).unwrap()).collect();
        let packed: Vec<_> =
            archives.iter().map(|archive| Packed::write(archive, tempfile::tempfile().unwrap()).unwrap()).collect();
        let mut group = criterion.benchmark_group("fold");
        group.throughput(Throughput::Elements(entries.iter().map(Entries::count).sum::<usize>() as u64));
        let id = |from| BenchmarkId::new(from, format!("{layers} x {files}"));
        group.bench_function(id("entries"), |bencher| {
            bencher.iter(|| entries.iter().map(|layer| layer.fold().unwrap()).sum::<usize>());
        });
        group.bench_function(id("archive"), |bencher| {
            bencher.iter(|| packed.iter().map(|layer| layer.read_tree().unwrap()).sum::<usize>());
        });
        group.bench_function(id("tree"), |bencher| {
            bencher.iter_with_large_drop(|| ImageTree::merge(&packed).unwrap());
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    targets = fold
}
