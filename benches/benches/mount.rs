//! From layers in place to a process inside, stage by stage: open the layers, mount them, mount them and move. Needs root.
//!
//! Of directories, and of an image in the store as EROFS files, which from two layers on are merged to one; left out where the
//! kernel mounts no EROFS files out of `TMPDIR`.

use std::path::Path;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group};
use layermount::Overlay;
use layermount_benches::{InPlace, LAYERS};

type Cases = [(BenchmarkId, InPlace)];

/// What somebody does first who has found the image before.
fn open(criterion: &mut Criterion, cases: &Cases) {
    let mut group = criterion.benchmark_group("open layers");
    for (name, layers) in cases {
        group.bench_with_input(name.clone(), layers, |bencher, layers| {
            bencher.iter_with_large_drop(|| layers.stack().unwrap());
        });
    }
}

fn mount(criterion: &mut Criterion, cases: &Cases) {
    let mut group = criterion.benchmark_group("mount");
    for (name, layers) in cases {
        group.bench_with_input(name.clone(), layers, |bencher, layers| {
            bencher.iter_batched(
                || layers.stack().unwrap(),
                |stack| Overlay::new(stack).mount().unwrap(),
                BatchSize::PerIteration,
            );
        });
    }
}

/// Measured by the process that moves, which can do so only once; what it takes to start it, and to find the image and open its
/// layers, does not count.
fn mount_and_pivot(criterion: &mut Criterion, cases: &Cases) {
    let mut group = criterion.benchmark_group("mount+pivot");
    for (name, layers) in cases {
        group.bench_with_input(name.clone(), layers, |bencher, layers| {
            let program = Path::new(env!("CARGO_BIN_EXE_spawn-overhead"));
            bencher.iter_custom(|iterations| (0..iterations).map(|_| layers.moved_by(program).unwrap()).sum());
        });
    }
}

/// The layers are made once for all.
fn from_layers_to_a_process(criterion: &mut Criterion) {
    let below = tempfile::tempdir().unwrap();
    let cases: Vec<_> = InPlace::cases(below.path(), &LAYERS)
        .into_iter()
        .map(|(name, count, layers)| (BenchmarkId::new(name, count), layers))
        .collect();
    open(criterion, &cases);
    mount(criterion, &cases);
    mount_and_pivot(criterion, &cases);
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(50).measurement_time(Duration::from_secs(3));
    targets = from_layers_to_a_process
}
