//! A layer from its blob to a directory in the store: inflate, verify, unpack. In MB/s of the tar archive, and in entries/s.
//!
//! The store lies in the directory that `TMPDIR` names, so that its file system can be chosen.

use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use layermount::{OciLayouts, Platform, Source, Store};
use layermount_fixtures::{Built, Compression, Layer, Layout, random};
use serde_json::json;

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
    for shape in shapes() {
        for (compression, codec) in
            [(Compression::Plain, "plain"), (Compression::Gzip, "gzip"), (Compression::Zstd, "zstd")]
        {
            let directory = tempfile::tempdir().unwrap();
            let layers: Vec<Layer> = shape.layers.iter().map(|layer| Layer { compression, ..layer.clone() }).collect();
            let host = Platform::host();
            let platform = json!({ "os": host.os(), "architecture": host.architecture() });
            let built = Built::new(&json!({}), platform, &layers).unwrap();
            let bytes: usize = built.layers.iter().map(|layer| layer.tar.len()).sum();
            Layout::create(directory.path().join("layout")).unwrap().add("bench", &built).unwrap();
            let reference = format!("oci:{}:bench", directory.path().join("layout").display()).parse().unwrap();
            let image = OciLayouts.resolve(&reference, &host).unwrap();
            for (unit, throughput) in
                [("bytes", Throughput::Bytes(bytes as u64)), ("entries", Throughput::Elements(shape.entries))]
            {
                let mut group = criterion.benchmark_group(format!("unpack/{}/{unit}", shape.name));
                group.throughput(throughput);
                group.bench_function(BenchmarkId::from_parameter(codec), |bencher| {
                    // Removing the store again is not measured.
                    bencher.iter_batched(
                        || tempfile::tempdir().unwrap(),
                        |store| {
                            drop(Store::open(store.path()).unwrap().realize(&image).unwrap());
                            store
                        },
                        BatchSize::PerIteration,
                    );
                });
            }
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    targets = unpack
}
criterion_main!(benches);
