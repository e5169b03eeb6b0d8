//! From layers in place to a process inside: mount alone, mount and move, mount and spawn. Needs root.

use std::process::Command as HostCommand;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use layermount::{Command, Overlay};
use layermount_benches::{directories, stack};

const LAYERS: [usize; 4] = [1, 10, 64, 500];

fn mount(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mount");
    for layers in LAYERS {
        let below = tempfile::tempdir().unwrap();
        let directories = directories(below.path(), layers);
        group.bench_function(BenchmarkId::from_parameter(layers), |bencher| {
            bencher.iter(|| Overlay::new(stack(&directories).unwrap()).mount().unwrap());
        });
    }
}

/// Measured by the process that moves, from its first call to its last; what it takes to start it does not count.
fn mount_and_pivot(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mount+pivot");
    for layers in LAYERS {
        let below = tempfile::tempdir().unwrap();
        let directories = directories(below.path(), layers);
        group.bench_function(BenchmarkId::from_parameter(layers), |bencher| {
            bencher.iter_custom(|iterations| {
                (0..iterations)
                    .map(|_| {
                        let moved =
                            HostCommand::new(env!("CARGO_BIN_EXE_move-once")).args(&directories).output().unwrap();
                        assert!(moved.status.success(), "{}", String::from_utf8_lossy(&moved.stderr));
                        Duration::from_nanos(String::from_utf8_lossy(&moved.stdout).trim().parse().unwrap())
                    })
                    .sum()
            });
        });
    }
}

/// A child with namespaces of its own, furnished, runs `/bin/true` and is reaped.
fn mount_and_spawn(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mount+spawn+wait");
    for layers in LAYERS {
        let below = tempfile::tempdir().unwrap();
        let directories = directories(below.path(), layers);
        group.bench_function(BenchmarkId::from_parameter(layers), |bencher| {
            bencher.iter(|| {
                let root = Overlay::new(stack(&directories).unwrap()).mount().unwrap();
                let status = root.spawn(Command::new("/bin/true")).unwrap().wait().unwrap();
                assert!(status.success());
            });
        });
    }
    group.bench_function("bare /bin/true", |bencher| {
        bencher.iter(|| assert!(HostCommand::new("/bin/true").status().unwrap().success()));
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(50).measurement_time(Duration::from_secs(3));
    targets = mount, mount_and_pivot, mount_and_spawn
}
criterion_main!(benches);
