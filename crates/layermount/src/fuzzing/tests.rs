//! The promises on any toolchain: every input that once broke one, and the seeds.

use std::path::{Path, PathBuf};

use layermount_fixtures::seeds;

type Target = fn(&[u8]);

const TARGETS: &[(&str, Target)] = &[
    #[cfg(feature = "zstd")]
    ("decode", super::decode),
    #[cfg(feature = "docker")]
    ("docker_replies", super::docker_replies),
    ("erofs_layer", super::erofs_layer),
    ("erofs_reader", super::erofs_reader),
    ("layer_fold", super::layer_fold),
    ("oci_documents", super::oci_documents),
    ("reference", super::reference),
    ("store_records", super::store_records),
    ("tar_entries", super::tar_entries),
    ("tar_peers", super::tar_peers),
];

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn target(name: &str) -> Option<Target> {
    if name == "tar_peers"
        && let Err(error) = super::tar_peers::are_here()
    {
        layermount_fixtures::requirement::skip("tar", &format!("GNU tar or Python is not here: {error}"));
        return None;
    }
    TARGETS.iter().find(|(target, _)| *target == name).map(|(_, run)| *run)
}

#[test]
fn what_was_found_once_stays_found() {
    let (mut ran, mut broken) = (0, Vec::new());
    for (name, _) in TARGETS {
        let Ok(files) = std::fs::read_dir(fuzz().join("regressions").join(name)) else { continue };
        let Some(run) = target(name) else { continue };
        for file in files {
            let file = file.unwrap().path();
            let input = std::fs::read(&file).unwrap();
            if std::panic::catch_unwind(|| run(&input)).is_err() {
                broken.push(file);
            }
            ran += 1;
        }
    }
    assert!(ran > 0, "no regressions are here");
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn the_seeds_keep_the_promises() {
    for (name, _) in TARGETS {
        let Some(run) = target(name) else { continue };
        let seeds = seeds::of(name);
        assert!(seeds.len() > 5, "{name}");
        for (seed, bytes) in &seeds {
            eprintln!("{name} {seed}");
            run(bytes);
        }
    }
}

#[test]
fn every_target_is_a_program_of_the_fuzz_crate() {
    let manifest = std::fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    for (name, _) in TARGETS {
        assert!(manifest.contains(&format!("fuzz_targets/{name}.rs")), "{name}");
    }
}
