//! Blobs to archives: inflate, hash blob and archive, compare size and digest with the descriptor; on several threads, as in a pull.
//! In bytes/s of the archive.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group};
use layermount::stages;
use layermount_benches::{build, image};
use layermount_fixtures::{Compression, Layer, Layout, random};

/// Files that compress about threefold.
const SEED: u64 = 20;
const FILES: usize = 2_000;
const SIZE: usize = 16 << 10;

fn decode(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().unwrap();
    let layer = random::files(SEED, FILES, SIZE);
    for (compression, codec) in
        [(Compression::Plain, "plain"), (Compression::Gzip, "gzip"), (Compression::Zstd, "zstd")]
    {
        let built = build(&[Layer { compression, ..layer.clone() }]).unwrap();
        let layout = Layout::create(directory.path().join(codec)).unwrap();
        let image = image(&layout, "bench", &built);
        let descriptor = image.layers()[0].descriptor.clone().unwrap();
        let (blob, bytes) = (&built.layers[0].blob, built.layers[0].tar.len() as u64);
        let mut group = criterion.benchmark_group("decode");
        group.throughput(Throughput::Bytes(bytes));
        group.bench_function(BenchmarkId::from_parameter(codec), |bencher| {
            bencher.iter(|| assert_eq!(stages::decode(blob, &descriptor).unwrap(), bytes));
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    targets = decode
}
