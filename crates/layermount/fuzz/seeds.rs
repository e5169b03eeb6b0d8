//! Writes the seeds of every target into `corpus/TARGET/`, the same on every machine. Run in the fuzz directory.

use std::path::Path;

const TARGETS: [&str; 8] = [
    "decode",
    "docker_replies",
    "layer_fold",
    "oci_documents",
    "reference",
    "store_records",
    "tar_entries",
    "tar_peers",
];

fn main() -> std::io::Result<()> {
    for target in TARGETS {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
        std::fs::create_dir_all(&directory)?;
        let seeds = layermount_fixtures::seeds::of(target);
        for (name, bytes) in &seeds {
            std::fs::write(directory.join(format!("seed-{name}")), bytes)?;
        }
        println!("{target}: {} seeds", seeds.len());
    }
    Ok(())
}
