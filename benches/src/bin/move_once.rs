//! Moves itself into an overlay, and prints how many nanoseconds that took: `move-once DIR...`, of these directories, base first,
//! or `move-once --store STORE REFERENCE`, of an image that is in this store.

use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use layermount::{Furnish, Overlay, Store};
use layermount_benches::{resolve, stack};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    // Finding the image is none of it.
    let image = match arguments.as_slice() {
        [option, store, reference] if option.as_os_str() == "--store" => {
            Some((store, resolve(&reference.to_string_lossy())?))
        }
        _ => None,
    };
    let start = Instant::now();
    let stack = match &image {
        Some((store, image)) => Store::open(*store)?.realize(image)?,
        None => stack(&arguments)?,
    };
    let _inside = Overlay::new(stack).mount()?.pivot_with(&Furnish::none())?;
    println!("{}", start.elapsed().as_nanos());
    Ok(())
}
