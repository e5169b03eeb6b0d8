//! EROFS files, written into `TMPDIR`: a layer's, which is its archive with an index behind it, from an archive in memory; and the
//! index over the layers of an image, from its tree. In bytes/s of what is written, and in entries/s. The files stay in the page
//! cache.

use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group};
use layermount::stages::{ImageTree, Packed};
use layermount_benches::package_layers;
use layermount_fixtures::random;

fn write_layer(criterion: &mut Criterion) {
    for (shape, layer) in
        [("few big files", random::files(40, 8, 4 << 20)), ("many small files", random::files(41, 10_000, 2 << 10))]
    {
        let archive = layer.tar().unwrap();
        for (unit, throughput) in [
            ("bytes", Throughput::Bytes(archive.len() as u64)),
            ("entries", Throughput::Elements(layer.entries.len() as u64)),
        ] {
            let mut group = criterion.benchmark_group(format!("erofs/layer/{unit}"));
            group.throughput(throughput);
            group.bench_function(BenchmarkId::from_parameter(shape), |bencher| {
                bencher.iter_batched(
                    || tempfile::tempfile().unwrap(),
                    |file| Packed::write(&archive, file).unwrap(),
                    BatchSize::PerIteration,
                );
            });
        }
    }
}

fn write_index(criterion: &mut Criterion) {
    for (layers, files) in [(10, 2_000), (100, 200)] {
        let packed: Vec<_> = package_layers(layers, files, 200)
            .iter()
            .map(|layer| Packed::write(&layer.tar().unwrap(), tempfile::tempfile().unwrap()).unwrap())
            .collect();
        let merge = || (ImageTree::merge(&packed).unwrap(), tempfile::tempfile().unwrap());
        let (tree, file) = merge();
        let bytes = tree.write(&packed, &file).unwrap();
        let entries = packed.iter().map(Packed::entries).sum();
        for (unit, throughput) in [("bytes", Throughput::Bytes(bytes)), ("entries", Throughput::Elements(entries))] {
            let mut group = criterion.benchmark_group(format!("erofs/image/{unit}"));
            group.throughput(throughput);
            group.bench_function(BenchmarkId::from_parameter(format!("{layers} x {files}")), |bencher| {
                bencher.iter_batched(
                    merge,
                    |(tree, file)| {
                        tree.write(&packed, &file).unwrap();
                        file
                    },
                    BatchSize::PerIteration,
                );
            });
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    targets = write_layer, write_index
}
