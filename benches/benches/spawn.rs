//! A child in an image: `/bin/true` in namespaces of its own, furnished, and reaped. Needs root.
//!
//! `spawn+wait` begins with a root that is mounted, and has the same program without any of that beside it; `spawn-overhead` takes
//! the two in turns, and says the difference. `mount+spawn+wait` begins with layers in place, as a launcher does.

use std::path::Path;
use std::process::Command as HostCommand;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group};
use layermount::{Command, Overlay, RootMount};
use layermount_benches::{InPlace, LAYERS, program_in};

fn root(layers: &InPlace) -> RootMount {
    Overlay::new(layers.stack().unwrap()).mount().unwrap()
}

fn run(root: RootMount) {
    assert!(root.spawn(Command::new("/bin/true")).unwrap().wait().unwrap().success());
}

fn spawn(criterion: &mut Criterion, cases: &[(&str, usize, InPlace)], program: &Path) {
    let mut group = criterion.benchmark_group("spawn+wait");
    for (name, count, layers) in cases.iter().filter(|(_, count, _)| *count <= 10) {
        group.bench_with_input(BenchmarkId::new(*name, count), layers, |bencher, layers| {
            bencher.iter_batched(|| root(layers), run, BatchSize::PerIteration);
        });
    }
    group.bench_function("bare fork+exec", |bencher| {
        bencher.iter(|| assert!(HostCommand::new(program).status().unwrap().success()));
    });
}

fn mount_and_spawn(criterion: &mut Criterion, cases: &[(&str, usize, InPlace)]) {
    let mut group = criterion.benchmark_group("mount+spawn+wait");
    for (name, count, layers) in cases {
        group.bench_with_input(BenchmarkId::new(*name, count), layers, |bencher, layers| {
            bencher.iter(|| run(root(layers)));
        });
    }
}

fn from_a_root_to_an_end(criterion: &mut Criterion) {
    let below = tempfile::tempdir().unwrap();
    let cases = InPlace::cases(below.path(), &LAYERS);
    spawn(criterion, &cases, &program_in(below.path()));
    mount_and_spawn(criterion, &cases);
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(50).measurement_time(Duration::from_secs(3));
    targets = from_a_root_to_an_end
}
