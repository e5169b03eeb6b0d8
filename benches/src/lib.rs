//! What the benches share. `cargo bench -p layermount-benches` runs them all; `-- --test` runs each once.
//!
//! They measure stages of the library on generated input. Comparisons with other tools are made with whole commands, by `benches/compare`.

use std::path::{Path, PathBuf};

use layermount::LayerStack;

/// Directories for a stack: a base with `/bin/true`, so that there is a program to run, and empty layers on top of it.
///
/// # Panics
///
/// When the directories cannot be made: a bench has nobody to tell.
#[expect(clippy::disallowed_methods, reason = "the directory is the bench's own")]
pub fn directories(below: &Path, layers: usize) -> Vec<PathBuf> {
    let base = below.join("base");
    for file in program_files("/bin/true") {
        let copy = base.join(file.strip_prefix("/").unwrap_or(&file));
        std::fs::create_dir_all(copy.parent().unwrap_or(&base)).expect("a directory for a program");
        std::fs::copy(&file, &copy).expect("a copy of a program");
    }
    let mut directories = vec![base];
    for number in 1..layers {
        let directory = below.join(number.to_string());
        std::fs::create_dir(&directory).expect("a directory for a layer");
        directories.push(directory);
    }
    directories
}

/// A program, its loader and its libraries.
fn program_files(program: &str) -> Vec<PathBuf> {
    let listed = std::process::Command::new("ldd").arg(program).output().expect("ldd, part of libc's programs");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let libraries = listed.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from);
    std::iter::once(PathBuf::from(program)).chain(libraries).collect()
}

/// The directories as a stack, for a caller with root's privileges.
///
/// # Errors
///
/// Whatever the library says.
pub fn stack(directories: &[PathBuf]) -> layermount::Result<LayerStack> {
    LayerStack::from_directories(directories.to_vec(), layermount::OverlayXattrs::Trusted)
}
