use super::*;
use layermount_fixtures::Entry as E;
use std::time::Instant;

fn entries(layer: usize, dirs: usize, files: usize) -> Vec<E> {
    let mut out = Vec::new();
    for d in 0..dirs {
        let dir = format!("usr/lib{}/package-{:04}/sub{}", d % 7, d, (d + layer) % 3);
        out.push(E::new(dir.clone().into_bytes(), Kind::Directory, 0o755));
        for f in 0..files {
            out.push(E::new(
                format!("{dir}/some-file-name-{:03}.py", f + layer * 3).into_bytes(),
                Kind::File(b"x".to_vec()),
                0o644,
            ));
        }
        if layer > 0 && d % 10 == 0 {
            out.push(E::new(
                format!("usr/lib{}/package-{:04}/sub{}/.wh.some-file-name-000.py", d % 7, d, (d + layer + 2) % 3)
                    .into_bytes(),
                Kind::File(vec![]),
                0o644,
            ));
        }
    }
    out
}

fn time(what: &str, layers: &[Layer]) {
    let refs: Vec<_> = layers.iter().collect();
    let trees = trees(&refs);
    let total: usize = trees.iter().map(|t| t.sizes().1).sum();
    let mut best = f64::MAX;
    let mut sum = 0.0;
    let mut sizes = (0, 0, 0);
    for _ in 0..10 {
        let start = Instant::now();
        let merged = merge(&trees).unwrap();
        let t = start.elapsed().as_secs_f64() * 1e3;
        best = best.min(t);
        sum += t;
        sizes = merged.tree.sizes();
    }
    println!("{what}: {total} entries -> {sizes:?}: best {best:.1} ms, mean {:.1} ms", sum / 10.0);
}

#[test]
fn bench() {
    let ten: Vec<_> = (0..10).map(|l| Layer::new(&entries(l, 350, 19)).unwrap()).collect();
    time("10 layers", &ten);
    let flat: Vec<_> = vec![Layer::new(&entries(0, 3500, 19)).unwrap()];
    time("1 layer", &flat);
    let mut many = vec![Layer::new(&entries(0, 3500, 19)).unwrap()];
    for l in 1..500 {
        many.push(
            Layer::new(&[
                E::new(
                    format!("usr/lib{}/package-{:04}/new{l}", l % 7, l).into_bytes(),
                    Kind::File(b"x".to_vec()),
                    0o644,
                ),
                E::new(format!("opt/.wh..wh..opq").into_bytes(), Kind::File(vec![]), 0o644),
                E::new(format!("opt/x{l}").into_bytes(), Kind::File(vec![]), 0o644),
            ])
            .unwrap(),
        );
    }
    time("500 layers over a base", &many);
    let names: Vec<String> = (0..4000).map(|d| format!("a/b{}/f{d}", d % 50)).collect();
    let base = Layer::new(
        &names.iter().map(|n| E::new(n.clone().into_bytes(), Kind::File(b"x".to_vec()), 0o644)).collect::<Vec<_>>(),
    )
    .unwrap();
    let links = Layer::new(
        &names
            .iter()
            .enumerate()
            .map(|(i, n)| E::new(format!("l{i}").into_bytes(), Kind::Hardlink(n.clone().into_bytes()), 0o644))
            .collect::<Vec<_>>(),
    )
    .unwrap();
    time("4000 links", &[base, links]);
}
