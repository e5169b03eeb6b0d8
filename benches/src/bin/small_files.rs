//! `small-files DIR`: an OCI layout with one image of one layer, 100,000 files of 2 KiB, the same on every machine; what
//! `compare --small` measures with.

use std::error::Error;
use std::path::PathBuf;

use layermount_benches::build;
use layermount_fixtures::{Layout, random};

const SEED: u64 = 100;
const FILES: usize = 100_000;
const SIZE: usize = 2 << 10;

fn main() -> Result<(), Box<dyn Error>> {
    let Some(directory) = std::env::args_os().nth(1).map(PathBuf::from) else {
        return Err("usage: small-files DIR".into());
    };
    let built = build(&[random::files(SEED, FILES, SIZE)])?;
    Layout::create(directory)?.add("small-files", &built)?;
    Ok(())
}
