//! What the benches share. `cargo bench -p layermount-benches` runs them all; `-- --test` runs each once.
//!
//! They measure stages of the library on generated input. Comparisons with other tools are made with whole commands.

use std::path::{Path, PathBuf};

use layermount::LayerStack;

/// Directories for a stack: the machine's own root, so that there is a program to run, and small layers on top of it.
///
/// # Panics
///
/// When the directories cannot be made: a bench has nobody to tell.
pub fn directories(below: &Path, layers: usize) -> Vec<PathBuf> {
    let mut directories = vec![PathBuf::from("/")];
    for number in 1..layers {
        let directory = below.join(number.to_string());
        std::fs::create_dir(&directory).expect("a directory for a layer");
        directories.push(directory);
    }
    directories
}

/// The directories as a stack, for a caller with root's privileges.
///
/// # Errors
///
/// Whatever the library says.
pub fn stack(directories: &[PathBuf]) -> layermount::Result<LayerStack> {
    LayerStack::from_directories(directories.to_vec(), layermount::OverlayXattrs::Trusted)
}
