//! Moves itself into an overlay of the directories that it is given, base first, and prints how many nanoseconds that took.

use std::path::PathBuf;
use std::time::Instant;

use layermount::{Furnish, Overlay};
use layermount_benches::stack;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directories: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let start = Instant::now();
    let _inside = Overlay::new(stack(&directories)?).mount()?.pivot_with(&Furnish::none())?;
    println!("{}", start.elapsed().as_nanos());
    Ok(())
}
