//! From a reference to an image: out of an OCI layout, and out of the store's own records, where there is one image and where there
//! are many.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group};
use layermount::store::{Backing, RealizeOptions};
use layermount::{OciLayouts, Platform, Reference, Source, Store, StoredImages};
use layermount_benches::{build_with, image, reference};
use layermount_fixtures::{Layer, Layout, random};
use serde_json::json;

const IMAGES: [usize; 2] = [1, 300];
const LAYERS: usize = 10;

fn resolve(criterion: &mut Criterion) {
    let below = tempfile::tempdir().unwrap();
    let layers: Vec<Layer> = random::stack(50, LAYERS);
    for images in IMAGES {
        let layout = Layout::create(below.path().join(format!("layout-{images}"))).unwrap();
        let store = Store::open(below.path().join(format!("store-{images}"))).unwrap();
        // They share their layers, and differ in their configs.
        for number in 0..images {
            let config = json!({ "Env": [format!("NUMBER={number}")], "Cmd": ["/bin/true"] });
            let image = image(&layout, &format!("1.{number}"), &build_with(&config, &layers).unwrap());
            if number == 0 {
                let options = RealizeOptions::default().backing(Backing::Directory);
                drop(store.realize_with(&image, &options).unwrap());
            }
            store.record(&image).unwrap();
        }
        // None of them is first or last.
        let tag = format!("1.{}", images / 2);
        let wanted = reference(&layout, &tag).parse::<Reference>().unwrap();
        let found = OciLayouts.resolve(&wanted, &Platform::host()).unwrap();
        let name = found.names().first().expect("an image of a layout has a name").parse::<Reference>().unwrap();
        let stored = StoredImages::at(store.path());
        let mut group = criterion.benchmark_group("resolve");
        let id = |place| BenchmarkId::new(place, format!("{images} images"));
        group.bench_function(id("oci layout"), |bencher| {
            bencher.iter(|| OciLayouts.resolve(&wanted, &Platform::host()).unwrap());
        });
        for (place, reference) in [("store, by name", name), ("store, by ID", Reference::Id(found.id().clone()))] {
            group.bench_function(id(place), |bencher| {
                bencher.iter(|| {
                    let image = stored.resolve(&reference, &Platform::host()).unwrap();
                    assert_eq!(image.layers().len(), LAYERS);
                });
            });
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(50).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    targets = resolve
}
