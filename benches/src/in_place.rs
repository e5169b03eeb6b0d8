//! Layers that are in place, ready to be mounted: what starts begin with.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use layermount::store::{Backing, RealizeOptions};
use layermount::{Furnish, Image, LayerStack, Overlay, Store};
use layermount_fixtures::{Layer, Layout, random};

use crate::{backings, build, directories, image, program_layer, reference, resolve};

/// How many layers an image has, in benches of what grows with them.
pub const LAYERS: [usize; 4] = [1, 10, 64, 500];

/// `spawn-overhead --move DIR...`, base first, or `--move --store STORE REFERENCE`: prints how many nanoseconds that very process needed
/// to mount these layers and move there. It can do so only once.
pub const MOVE: &str = "--move";

/// An image's layers, the lowest with `/bin/true` in it.
#[derive(Debug)]
pub enum InPlace {
    /// Directories, base first.
    Directories(Vec<PathBuf>),
    /// As EROFS files, and from two layers on merged to one.
    Stored {
        /// The store's directory.
        store: PathBuf,
        /// The image's, for another process.
        reference: String,
        /// The image.
        image: Box<Image>,
    },
}

impl InPlace {
    /// Directories below `below`.
    fn directories(below: &Path, layers: usize) -> Self {
        Self::Directories(directories(&below.join(format!("directories-{layers}")), layers))
    }

    /// An image of so many layers in the store below `below`.
    fn stored(below: &Path, layers: usize) -> Self {
        let layout = Layout::create(below.join(format!("layout-{layers}"))).expect("a layout");
        let above = random::stack(1, layers - 1);
        let layers: Vec<Layer> = std::iter::once(program_layer()).chain(above).collect();
        let image = image(&layout, "bench", &build(&layers).expect("an image"));
        let store = below.join("store");
        let options = RealizeOptions::default().backing(Backing::Erofs);
        drop(Store::open(&store).and_then(|store| store.realize_with(&image, &options)).expect("an image in a store"));
        Self::Stored { store, reference: reference(&layout, "bench"), image: image.into() }
    }

    /// For each of these numbers of layers, directories; and, where they can be mounted out of `below`, EROFS files. By name.
    pub fn cases(below: &Path, layers: &[usize]) -> Vec<(&'static str, usize, Self)> {
        let mut cases: Vec<_> = layers.iter().map(|count| ("dir", *count, Self::directories(below, *count))).collect();
        if backings(below).iter().any(|(_, backing)| *backing == Backing::Erofs) {
            cases.extend(layers.iter().map(|count| ("erofs", *count, Self::stored(below, *count))));
        }
        cases
    }

    /// Opens the layers. Not told which backing, as anybody who comes a second time: asking the kernel for it would be measured.
    ///
    /// # Errors
    ///
    /// Whatever the library says.
    pub fn stack(&self) -> layermount::Result<LayerStack> {
        match self {
            Self::Directories(directories) => crate::stack(directories),
            Self::Stored { store, image, .. } => Store::open(store)?.realize(image),
        }
    }

    /// For [`InPlace::of_arguments`] in another process.
    pub fn arguments(&self) -> Vec<OsString> {
        match self {
            Self::Directories(directories) => directories.iter().map(OsString::from).collect(),
            Self::Stored { store, reference, .. } => vec!["--store".into(), store.into(), reference.into()],
        }
    }

    /// `DIR...`, base first, or `--store STORE REFERENCE`.
    ///
    /// # Errors
    ///
    /// There is no such image.
    pub fn of_arguments(arguments: &[OsString]) -> layermount::Result<Self> {
        match arguments {
            [option, store, reference] if option == "--store" => {
                let reference = reference.to_string_lossy().into_owned();
                let image = resolve(&reference)?.into();
                Ok(Self::Stored { store: store.into(), reference, image })
            }
            directories => Ok(Self::Directories(directories.iter().map(PathBuf::from).collect())),
        }
    }

    /// Has `spawn-overhead`, which is `program`, move into the image, and says how long [that](Self::mount_and_pivot) took.
    ///
    /// # Errors
    ///
    /// What the other process says, or that it could not be started.
    pub fn moved_by(&self, program: &Path) -> Result<Duration, Box<dyn std::error::Error>> {
        let moved = Command::new(program).arg(MOVE).args(self.arguments()).output()?;
        if !moved.status.success() {
            return Err(String::from_utf8_lossy(&moved.stderr).into_owned().into());
        }
        Ok(Duration::from_nanos(String::from_utf8_lossy(&moved.stdout).trim().parse()?))
    }

    /// Moves the calling process, which must have one thread, into the image; with nothing but the image in it. Says how long
    /// mounting and moving took: opening the layers does not count.
    ///
    /// # Errors
    ///
    /// Whatever the library says.
    pub fn mount_and_pivot(&self) -> layermount::Result<Duration> {
        let stack = self.stack()?;
        let since = Instant::now();
        let _inside = Overlay::new(stack).mount()?.pivot_with(&Furnish::none())?;
        Ok(since.elapsed())
    }
}
