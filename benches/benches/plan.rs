//! What will be mounted, as data: from a stack of layers to the arguments for overlayfs, top first; printed as well.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group};
use layermount::Overlay;
use layermount_benches::{LAYERS, directories, stack};

fn plan(criterion: &mut Criterion) {
    let below = tempfile::tempdir().unwrap();
    for layers in LAYERS {
        let overlay = Overlay::new(stack(&directories(&below.path().join(layers.to_string()), layers)).unwrap());
        let mut group = criterion.benchmark_group("plan");
        group.throughput(Throughput::Elements(layers as u64));
        group.bench_function(BenchmarkId::new("made", layers), |bencher| bencher.iter(|| overlay.plan().unwrap()));
        group.bench_function(BenchmarkId::new("printed", layers), |bencher| {
            bencher.iter(|| overlay.plan().unwrap().to_string());
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(50).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(1));
    targets = plan
}
