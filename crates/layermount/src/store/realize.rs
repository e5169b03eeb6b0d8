//! From an [`Image`] to a [`LayerStack`]: locate, look up, or make.

mod directories;
mod files;
mod streams;
mod work;

pub(super) use files::{entry_names, identity_of, keep_mounted, probe_in};
pub(super) use work::Work;

use crate::caller::Caller;
use crate::error::{ErrorKind, Result};
use crate::image::{Content, Image, Layer, Located};
use crate::limits::Limits;
use crate::stack::LayerStack;

use super::StoreError;
use super::held::Held;
use super::root::StoreRoot;
use super::stage::sweep;
use work::Form;

/// The name of a layer's directory in the stage.
const STAGED: &str = "layer";

/// How often a layer may be taken away before this is an error.
const ATTEMPTS: usize = 50;

/// What a layer becomes in the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Backing {
    /// The fastest that this machine can mount: [`Backing::Erofs`] for root where that works, otherwise
    /// [`Backing::Directory`]. What the store has of an image already is used, whichever it is.
    #[default]
    Auto,
    /// A directory that overlayfs takes as a layer: for every caller, on every kernel.
    Directory,
    /// One EROFS file, and one more for the image that makes one file system of all: nothing is created for the files in them.
    /// It takes `CAP_SYS_ADMIN` in the initial user namespace, Linux 6.12 (`CONFIG_EROFS_FS_BACKED_BY_FILE`), and a store on a
    /// file system whose files the kernel can mount, which tmpfs and overlayfs are not.
    Erofs,
}

/// How [`Store::realize_with`](crate::Store::realize_with) works.
#[derive(Debug, Default)]
pub struct RealizeOptions<'a> {
    pub(super) backing: Backing,
    limits: Limits,
    progress: Option<&'a dyn Progress>,
}

/// Is told how realizing goes on.
pub trait Progress: std::fmt::Debug + Sync {
    /// Something happened to `layer`.
    fn layer(&self, layer: &Layer, event: LayerEvent);
}

/// What happens to a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LayerEvent {
    /// Another process is making it; this one waits.
    Waiting,
    /// It is being unpacked, or packed into a file; `read` bytes of the blob have been read, of `size` where that is known. Told
    /// first before anything is read, except of a layer of an archive: which one that is, is known when it is done.
    Unpacking {
        /// Bytes of the blob so far.
        read: u64,
        /// Bytes of the blob in all.
        size: Option<u64>,
    },
    /// It was written before the machine was last started, and is compared with what was unpacked.
    Checking,
    /// It is in the store.
    Ready,
}

impl<'a> RealizeOptions<'a> {
    /// Says what a layer becomes; [`Backing::Auto`] by default.
    #[must_use]
    pub fn backing(mut self, backing: Backing) -> Self {
        self.backing = backing;
        self
    }

    /// Says how much layers may ask for.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Has `progress` told how the work goes on, from several threads.
    #[must_use]
    pub fn progress(mut self, progress: &'a dyn Progress) -> Self {
        self.progress = Some(progress);
        self
    }

    pub(super) fn tell(&self, layer: &Layer, event: LayerEvent) {
        if let Some(progress) = self.progress {
            progress.layer(layer, event);
        }
    }
}

pub(super) fn realize(root: &StoreRoot, image: &Image, options: &RealizeOptions<'_>) -> Result<LayerStack> {
    if let Content::Located(located) = image.content() {
        return located_stack(located);
    }
    if image.outline().layers == 0 {
        return Ok(directories::empty_stack());
    }
    let held = Held::new(options);
    let form = choose_form(root, image, options, &held)?;
    let failed = match realize_as(&form, root, image, options, &held) {
        Err(error) if form.is_files() && options.backing == Backing::Auto => error,
        result => return result,
    };
    let form = Form::directories(&Caller::current(), &options.limits);
    match failed.kind() {
        // Some sound layers are more than EROFS can hold.
        ErrorKind::Unsupported => realize_as(&form, root, image, options, &held),
        // The files are damaged, and there is nothing to make them of. The image may be there as directories all the same.
        ErrorKind::BlobNotFound => directories::stored_stack(root, image, &form, &held)?.ok_or(failed),
        _ => Err(failed),
    }
}

fn realize_as(
    form: &Form,
    root: &StoreRoot,
    image: &Image,
    options: &RealizeOptions<'_>,
    held: &Held<'_>,
) -> Result<LayerStack> {
    // What is made stays. Only open layers are taken, by others, for chains of theirs, of which there are so many as images
    // that are made right now. Out of an archive, one attempt makes an open layer once, and the image may have it in as many
    // places as it has layers.
    for attempt in 0..ATTEMPTS + image.outline().layers {
        match stored_stack(root, image, form, held)? {
            Some(stack) => return Ok(stack),
            None if attempt == 0 => _ = sweep(root)?,
            None => {}
        }
        Work::new(root, image, options, form, held).make_missing()?;
    }
    stored_stack(root, image, form, held)?.ok_or_else(|| StoreError::Unsettled.into())
}

/// What the image is, or becomes.
fn choose_form(root: &StoreRoot, image: &Image, options: &RealizeOptions<'_>, held: &Held<'_>) -> Result<Form> {
    let caller = Caller::current();
    let directories = || Form::directories(&caller, &options.limits);
    let files = || Form::files(&options.limits);
    match options.backing {
        Backing::Directory => Ok(directories()),
        Backing::Erofs if !caller.may_mount_erofs() => Err(StoreError::ErofsUnprivileged.into()),
        Backing::Auto if !caller.may_mount_erofs() => Ok(directories()),
        // Asking what can be mounted takes longer than mounting what is there, and a store that can be written to.
        Backing::Erofs | Backing::Auto if files::has(root, image)? => Ok(files()),
        Backing::Erofs => files::probe(root).map(|()| files()),
        Backing::Auto if directories::stored_stack(root, image, &directories(), held)?.is_some() => Ok(directories()),
        Backing::Auto => match files::probe(root) {
            Err(error) if error.kind() == ErrorKind::Unsupported => Ok(directories()),
            // A full disk, for one, says nothing of what can be mounted.
            probed => probed.map(|()| files()),
        },
    }
}

/// The stack, if everything that it takes is in the store.
fn stored_stack(root: &StoreRoot, image: &Image, form: &Form, held: &Held<'_>) -> Result<Option<LayerStack>> {
    if form.is_files() {
        files::stored_stack(root, image, held)
    } else {
        directories::stored_stack(root, image, form, held)
    }
}

/// Layers that another engine keeps, where they lie.
fn located_stack(located: &Located) -> Result<LayerStack> {
    let (directories, xattrs) = match located {
        Located::Layers { directories, xattrs } => (directories.clone(), *xattrs),
        Located::Tree(directory) => (vec![directory.clone()], Caller::current().overlay_xattrs()),
    };
    LayerStack::from_directories(directories, xattrs)
}
